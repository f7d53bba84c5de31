"""A worker of a fleet: it claims devices of a PostgreSQL database, serves them, gives them back.

Workers do not know each other. Each looks into the database now and then, takes free devices up to
its fair share, and gives some back if it has more: so devices go on where a worker came or went.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from ratchetkeep._fleet_pauses import Pauses
from ratchetkeep._fleet_service import Service, Unfinished
from ratchetkeep._fleet_shares import BATCH, Balance
from ratchetkeep.aio import AsyncDevice, _in_thread, _Opening, outcome_of
from ratchetkeep.device import open_in
from ratchetkeep.errors import InvalidValue, OwnershipLost, RatchetkeepError
from ratchetkeep.stores import urls
from ratchetkeep.stores._postgres_claims import Claims
from ratchetkeep.stores.postgres import PostgresStore

if TYPE_CHECKING:
    from ratchetkeep.sealing.keys import SealKey

__all__ = ["Fleet", "Unfinished"]

_log = logging.getLogger("ratchetkeep")

# So many devices are opened at once: half of the threads that read records, so that devices that
# are served already need not wait for all those that a starting worker opens.
OPENING = 2
SIGNALS = (signal.SIGTERM, signal.SIGINT)

OnError = Callable[[str, BaseException], None]


class Fleet:
    """One worker of a fleet, the only one of its process in that database.

    :param url: the database, as ``postgresql://HOST/DATABASE``; ``?lease=`` is how long the devices
        of a worker that ended without a word wait for another one.
    :param serve: serves a device for as long as this worker has it. It runs in a task of its own,
        which is cancelled when the device is to be given back, and at once when it was lost. When
        it returns or raises, the device is given back and left alone for a while, each time longer.
    :param capacity: how many devices this worker takes at most.
    :param poll: about how many seconds there are between two looks for free devices.
    :param drain: how many seconds a task may take to end after it was cancelled. Its device is
        closed then anyway, so that its commits are refused.
    :param on_error: called with the name of a device, or "" for the database, and what went wrong:
        what ``serve`` or opening the device raised, :class:`~ratchetkeep.OwnershipLost`, or
        :class:`Unfinished`. Without it, it is logged, without texts that are not ours.
    :param key: what opens a sealed database; ``witness`` and ``witness_delay``: what remembers how
        far each device came. All three as for :func:`ratchetkeep.open_device`.
    """

    def __init__(
        self,
        url: str,
        serve: Callable[[AsyncDevice], Awaitable[None]],
        *,
        capacity: int = 1000,
        poll: float = 5.0,
        drain: float = 30.0,
        on_error: OnError | None = None,
        key: str | bytes | SealKey | None = None,
        witness: str | os.PathLike[str] | None = None,
        witness_delay: float | None = None,
    ) -> None:
        _check(capacity=capacity, poll=poll, drain=drain)
        self._url, self._serve = url, serve
        self._capacity, self._poll_seconds, self._drain = capacity, poll, drain
        self._on_error = on_error or _logged
        self._store = _store_of(url, key)
        self._watched: dict[str, Any] = {"witness": witness, "witness_delay": witness_delay}
        self._claims: Claims | None = None
        self._balance = Balance(capacity)
        self._pauses = Pauses(poll)
        self._services: dict[str, Service] = {}
        self._keepers: set[asyncio.Task[None]] = set()
        # Devices that were closed while their tasks go on.
        self._unfinished: dict[str, asyncio.Task[None]] = {}
        self._returns = _Returns(self)
        self._slots = asyncio.Semaphore(OPENING)
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._workers = 1
        self._is_failing = False

    def __repr__(self) -> str:
        return f"<Fleet {self._store.url} ({len(self._services)} of {self._capacity} devices)>"

    @property
    def devices(self) -> list[str]:
        """The names of the devices that this worker has, in the order in which it claimed them."""
        return list(self._services)

    def stop(self) -> None:
        """Have :meth:`run` give back everything and return; from any thread."""
        loop = self._loop
        if loop is None:
            self._stopping.set()
            return
        with suppress(RuntimeError):  # the loop was closed: it has ended
            loop.call_soon_threadsafe(self._stopping.set)

    async def run(self) -> None:
        """Work until SIGTERM, SIGINT (Ctrl-C) or :meth:`stop`; then claim nothing more, end the
        tasks and give back the devices.

        A database that cannot be reached when this begins is an error; later, it is told, and the
        worker goes on when the database is back.

        :raises StoreUnreadable: if the database cannot be reached.
        :raises InvalidValue: if a fleet of this process works on that database already.
        """
        if self._loop is not None:
            raise InvalidValue("Fleet.run", "it was called before", "Make another Fleet")
        self._loop = asyncio.get_running_loop()
        polling: asyncio.Task[None] | None = None
        with _signals(self._loop, self._stopping.set):
            try:
                await outcome_of(_in_thread(self._join))
                polling = asyncio.create_task(self._work(), name="ratchetkeep fleet")
                stopping = asyncio.create_task(self._stopping.wait())
                try:
                    await asyncio.wait({polling, stopping}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    stopping.cancel()
            finally:
                self._stopping.set()
                await self._end(polling)

    # -- looking, claiming, giving back

    def _join(self) -> None:
        """Be a worker, as soon as there are tables; runs in a thread."""
        hub = self._store.hub(upgrade=True)
        if hub is not None:
            claims = Claims(hub)
            claims.join(self._capacity)
            self._claims = claims

    async def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                is_more = await self._poll()
            except RatchetkeepError as error:
                is_more = False
                if not self._is_failing:  # once an outage
                    self._tell("", error)
                self._is_failing = True
            else:
                self._is_failing = False
            if not is_more:
                await self._wait()

    async def _wait(self) -> None:
        # By chance: workers that were started together do not look together for ever.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._poll_seconds * random.uniform(0.75, 1.25)):
                await self._stopping.wait()

    async def _poll(self) -> bool:
        """Look once; True if there is more to claim."""
        if self._claims is None:
            await _in_thread(self._join)
        if self._claims is None:
            return False
        moving = [name for name, each in self._services.items() if each.is_stopping]
        resting = {*self._pauses.resting(), *self._unfinished}
        seen = await _in_thread(self._claims.survey, BATCH * self._workers, [*resting, *moving])
        self._workers = len(seen.others) + 1
        resting -= self._services.keys()
        count = self._balance.decide(len(self._services), len(resting), bool(moving), seen)
        if count < 0:
            self._give(-count)
        return count > 0 and await self._claim(self._claims, count, [*resting, *moving])

    def _give(self, count: int) -> None:
        # The newest first: those that are served for long have the most to lose.
        for service in list(self._services.values())[-count:]:
            service.stop()

    async def _claim(self, claims: Claims, count: int, exclude: list[str]) -> bool:
        names = await _in_thread(claims.claim, count, exclude)
        self._balance.claimed(len(names))
        # Things may have changed since the claim was sent: this worker is to end, a device is to be
        # left alone, or was lost and its task has not ended.
        unwanted = {*self._pauses.resting(), *self._unfinished, *self._services}
        spare = {name for name in names if self._stopping.is_set() or name in unwanted}
        for name in names:
            if name not in spare:
                self._begin(name)
        await asyncio.gather(*map(self._returns.give_back, spare))
        return len(names) == count and not spare

    # -- devices

    def _begin(self, name: str) -> None:
        self._store.adopt(name)
        opening = partial(
            open_in, self._store, name, create=False, read_only=False, **self._watched
        )
        service = Service(name, _Opening(opening, 0.0), self._serve, self._slots, self._drain)
        self._services[name] = service
        keeper = asyncio.create_task(self._keep(service))
        self._keepers.add(keeper)
        keeper.add_done_callback(self._keepers.discard)

    async def _keep(self, service: Service) -> None:
        """See a device through to its end."""
        name = service.name
        error = await service.ended()
        if error is not None:
            self._tell(name, error)
        if service.lost is None and (not service.is_stopping or isinstance(error, Unfinished)):
            self._pauses.begin(name, service.served)
        if not service.task.done():
            self._unfinished[name] = service.task
            service.task.add_done_callback(lambda _: self._unfinished.pop(name))
        if service.lost is None:
            await self._returns.give_back(name)
        elif self._claims is not None:
            self._claims.note_loss()
        if service.device is not None:
            await service.device.close()
        else:
            await _in_thread(self._store.release, name)
        del self._services[name]

    def _tell(self, name: str, error: BaseException) -> None:
        try:
            self._on_error(name, error)
        except Exception:  # noqa: BLE001 - logged: the other devices must go on
            _log.exception("on_error of a fleet failed")

    async def _end(self, polling: asyncio.Task[None] | None) -> None:
        for service in self._services.values():
            service.stop()
        leaving = None if self._claims is None else _in_thread(self._claims.leave)
        try:
            if polling is not None:
                await polling
        finally:
            for keeper in list(self._keepers):
                await keeper
            if leaving is not None:
                await leaving
            await _in_thread(self._store.close)


class _Returns:
    """Gives back devices: all that wait in one statement, as many may end at the same moment."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._names: list[str] = []
        self._done = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def give_back(self, name: str) -> None:
        """Let others have a device; those who wait together share the way."""
        self._names.append(name)
        done = self._done
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        await done.wait()

    async def _run(self) -> None:
        claims = self._fleet._claims
        while self._names:
            names, done = self._names, self._done
            self._names, self._done = [], asyncio.Event()
            if claims is not None:
                await _in_thread(claims.give_back, names)
            done.set()
        self._task = None


def _check(*, capacity: int, poll: float, drain: float) -> None:
    if type(capacity) is not int or capacity < 1:
        raise InvalidValue("Fleet (capacity)", "must be a whole number of 1 or more")
    if not 0 < poll <= 3600:
        raise InvalidValue("Fleet (poll)", "must be more than 0 seconds, and 3600 at most")
    if not 0 <= drain <= 86_400:
        raise InvalidValue("Fleet (drain)", "must be 0 to 86400 seconds")


def _store_of(url: str, key: str | bytes | SealKey | None) -> PostgresStore:
    store = urls.open_target(urls.parse(url), key)
    if not isinstance(store, PostgresStore):
        what = "has no leases that workers could share devices by"
        raise InvalidValue(store.url, what, "A fleet needs postgresql://HOST/DATABASE")
    return store


def _logged(name: str, error: BaseException) -> None:
    """Log what went wrong. Of errors that are not ours only the kind and the place: their texts may
    hold anything."""
    what = str(error)
    if not isinstance(error, RatchetkeepError | Unfinished):
        frames = traceback.extract_tb(error.__traceback__)
        place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        what = f"serving it raised {type(error).__name__}{place}"
    level = logging.WARNING if isinstance(error, OwnershipLost) else logging.ERROR
    _log.log(level, "%s: %s", f"device {name!r}" if name else "fleet", what)


@contextmanager
def _signals(loop: asyncio.AbstractEventLoop, stop: Callable[[], Any]) -> Iterator[None]:
    """SIGTERM and Ctrl-C stop the fleet, inside this block; in the main thread only."""
    before: dict[signal.Signals, Any] = {}
    for number in SIGNALS:
        handler = signal.getsignal(number)
        # A shell starts background jobs with Ctrl-C ignored.
        if handler != signal.SIG_IGN:
            with suppress(ValueError, RuntimeError):  # another thread
                loop.add_signal_handler(number, stop)
                before[number] = handler
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
