"""The asyncio face of a device: the same core, the same verbs, awaited.

A commit's task awaits the outcome of a group commit that a thread carries out. What is in memory is
read without leaving the event loop; what is not is read in a thread.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    nullcontext,
    suppress,
)
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from ratchetkeep import prekeys
from ratchetkeep._block import Block
from ratchetkeep._transaction import Records, Transaction, listed, merged, pre_key_lock
from ratchetkeep.device import Device, create_device, open_device, pauses
from ratchetkeep.errors import InvalidValue, OwnershipLost, StoreInUse
from ratchetkeep.model import Credentials, Key, KeyPair
from ratchetkeep.prekeys import PreKeyStock
from ratchetkeep.stores.base import History

if TYPE_CHECKING:
    from ratchetkeep.sealing.keys import SealKey

__all__ = ["AsyncDevice", "AsyncTransaction", "open_async_device"]

P = ParamSpec("P")
T = TypeVar("T")

READERS = 4
# More records than this are encoded in a thread, so that the event loop goes on meanwhile.
MANY = 64


class _Readers:
    """Threads for what may block. Our own: a program may fill asyncio's with work that waits for
    us."""

    pool: ThreadPoolExecutor | None = None
    guard = threading.Lock()

    @classmethod
    def get(cls) -> ThreadPoolExecutor:
        with cls.guard:
            if cls.pool is None:
                cls.pool = ThreadPoolExecutor(READERS, thread_name_prefix="ratchetkeep-read")
            return cls.pool

    @classmethod
    def forget(cls) -> None:
        """In a forked child there are no such threads."""
        cls.pool, cls.guard = None, threading.Lock()


os.register_at_fork(after_in_child=_Readers.forget)


def _in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
    context = copy_context()
    loop = asyncio.get_running_loop()
    try:
        return loop.run_in_executor(_Readers.get(), lambda: context.run(call, *args, **kwargs))
    except RuntimeError:  # the interpreter is ending: there are no threads any more
        future = loop.create_future()
        try:
            future.set_result(call(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - the awaiting task gets it
            future.set_exception(error)
        return future


async def outcome_of(future: asyncio.Future[T]) -> T:
    """Wait for ``future`` even if cancelled meanwhile; that is raised afterwards."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError as cancelled:
        if future.cancelled():
            raise
        with _unhurried():
            while not future.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([future])
        future.exception()  # looked at, so that asyncio does not report it
        raise cancelled


def _unhurried() -> AbstractContextManager[Any]:
    """anyio cancels again in each turn of the event loop, unless asked not to."""
    anyio = sys.modules.get("anyio")
    return anyio.CancelScope(shield=True) if anyio else nullcontext()


class AsyncTransaction:
    """Changes that are committed together, or not at all. Made by
    :meth:`AsyncDevice.transaction`; see :class:`~ratchetkeep.Transaction`."""

    def __init__(self, core: Transaction) -> None:
        self._core = core

    @property
    def credentials(self) -> Credentials:
        """The credentials, with this transaction's own changes."""
        return self._core.credentials

    async def get(self, family: str, ids: Iterable[str]) -> dict[str, Any]:
        """As :meth:`AsyncDevice.get`, with this transaction's own changes."""
        core = self._core
        core._check_running()
        wanted = listed(ids)
        changed, unchanged = core._split(family, wanted)
        return merged(wanted, changed, await _stored(core._device, family, unchanged))

    async def set(self, records: Records) -> None:
        """As :meth:`AsyncDevice.set`, but nothing is stored before the transaction ends."""
        self._core.set(records)

    async def save_credentials(self, credentials: Credentials) -> None:
        """As :meth:`AsyncDevice.save_credentials`, but stored when the transaction ends."""
        self._core.save_credentials(credentials)

    async def consume_pre_key(self, id: str | int) -> KeyPair:
        """Take a one-time pre-key; see :meth:`Transaction.consume_pre_key`.

        :raises InvalidValue: if it is not there; it may have been used before.
        """
        core, text = self._core, str(id)
        core._check_running()
        # Locked: another transaction may be about to take the same.
        async with _AsyncBlock(core._device, (pre_key_lock(text),), core) as inner:
            pair = (await inner.get("pre-key", [text])).get(text)
            return inner._core._consumed(text, pair)


async def _stored(core: Device, family: str, ids: Iterable[str]) -> dict[str, Any]:
    """Committed records; leaves the event loop only for what is not in memory."""
    wanted = listed(ids)
    core._check_open()
    found = core._memory.look(family, wanted)
    if found is not None:
        return found
    return await _in_thread(core._memory.load, family, wanted)


class AsyncDevice:
    """One linked device, open, for asyncio (and anyio on asyncio). Made by
    :func:`open_async_device`; its verbs are those of :class:`~ratchetkeep.Device`.

    A task that is cancelled while its commit is under way waits for the outcome first: the commit
    is durable then, or failed, and the cancellation is raised. Cancelled before that, its
    transaction leaves nothing. Use a device in the event loop that opened it.
    """

    def __init__(self, core: Device) -> None:
        self._core = core

    def __repr__(self) -> str:
        return repr(self._core).replace("<Device", "<AsyncDevice", 1)

    @property
    def name(self) -> str:
        """The device's name in its store."""
        return self._core.name

    @property
    def url(self) -> str:
        """The store's URL."""
        return self._core.url

    @property
    def credentials(self) -> Credentials:
        """The credentials; inside a transaction, with its changes."""
        return self._core.credentials

    async def get(self, family: str, ids: Iterable[str]) -> dict[str, Any]:
        """Records by id; see :meth:`Device.get`."""
        running = self._core._running()
        if running:
            return await AsyncTransaction(running).get(family, ids)
        return await _stored(self._core, family, ids)

    async def set(self, records: Records) -> None:
        """Store records in one atomic, durable commit; see :meth:`Device.set`."""
        async with self.transaction() as transaction:
            await transaction.set(records)

    async def save_credentials(self, credentials: Credentials) -> None:
        """Replace the credentials; see :meth:`Device.save_credentials`."""
        async with self.transaction(prekeys.LOCK) as transaction:
            await transaction.save_credentials(credentials)

    def transaction(self, *keys: str) -> AbstractAsyncContextManager[AsyncTransaction]:
        """Commit everything set inside together; see :meth:`Device.transaction`.

        Tasks that are started inside are inside too, until it ends.
        """
        self._core._check_open()
        return _AsyncBlock(self._core, keys, self._core._running())

    @property
    def history(self) -> History | None:
        """As :attr:`Device.history`."""
        return self._core.history

    @property
    def in_transaction(self) -> bool:
        """True inside a transaction."""
        return self._core.in_transaction

    async def ids(self, family: str) -> list[str]:
        """All ids of a family, sorted; see :meth:`Device.ids`."""
        return await _in_thread(self._core.ids, family)

    async def clear(self) -> None:
        """Delete all Signal key records in one commit; see :meth:`Device.clear`."""
        async with self.transaction() as transaction:
            await _in_thread(self._core._clear, transaction._core)

    async def mint_pre_keys(self, count: int) -> dict[int, KeyPair]:
        """Make one-time pre-keys, by id; see :meth:`Device.mint_pre_keys`."""
        async with self.transaction(prekeys.LOCK) as transaction:
            return await _in_thread(self._core._mint, transaction._core, count)

    async def unuploaded_pre_keys(self) -> dict[int, KeyPair]:
        """The pre-keys that are not on the server yet; see :meth:`Device.unuploaded_pre_keys`."""
        return await _in_thread(self._core.unuploaded_pre_keys)

    async def mark_pre_keys_uploaded(self, up_to: int) -> None:
        """Note that the pre-keys up to and with this id are on the server; see
        :meth:`Device.mark_pre_keys_uploaded`."""
        async with self.transaction(prekeys.LOCK) as transaction:
            marked = prekeys.uploaded(up_to, transaction.credentials)
            await transaction.save_credentials(marked)

    async def pre_key_stock(self) -> PreKeyStock:
        """How many one-time pre-keys there are; see :meth:`Device.pre_key_stock`."""
        return await _in_thread(self._core.pre_key_stock)

    def on_lost(self, told: Callable[[OwnershipLost], None]) -> None:
        """Have ``told`` called in the event loop that runs now; see :meth:`Device.on_lost`."""
        loop = asyncio.get_running_loop()

        def tell(error: OwnershipLost) -> None:
            with suppress(RuntimeError):  # the loop was closed: nobody listens any more
                loop.call_soon_threadsafe(told, error)

        self._core.on_lost(tell)

    async def close(self) -> None:
        """Give the device back; see :meth:`Device.close`."""
        await outcome_of(_in_thread(self._core.close))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


class _AsyncBlock(Block, AbstractAsyncContextManager[AsyncTransaction]):
    """The ``async with`` block of a transaction."""

    async def __aenter__(self) -> AsyncTransaction:
        if self._keys:
            await self._lock()
        return AsyncTransaction(self._begin())

    async def _lock(self) -> None:
        loop = asyncio.get_running_loop()
        granted = loop.create_future()
        wait = self._device._locks.ask(self._transaction, self._keys, _waker(loop, granted))
        if wait is None:
            return
        try:
            await granted
        except BaseException:
            self._stop_waiting(wait)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._device._run(self._before)
        try:
            changes = self._close(is_fine=kind is None)
            if changes:
                await _commit(self._device, changes)
        finally:
            self._end()


def _waker(loop: asyncio.AbstractEventLoop, granted: asyncio.Future[None]) -> Callable[[], bool]:
    def resolve() -> None:
        if not granted.done():
            granted.set_result(None)

    def wake() -> bool:
        try:
            loop.call_soon_threadsafe(resolve)
        except RuntimeError:  # the loop was closed: nobody waits there any more
            return False
        return True

    return wake


async def _commit(core: Device, changes: dict[Key, Any]) -> None:
    loop = asyncio.get_running_loop()
    if len(changes) > MANY:
        # Cancelled here, nothing has begun.
        commit = await _in_thread(core._prepare, changes, loop)
    else:
        commit = core._prepare(changes, loop)
    core._group.submit(commit)
    assert commit.future is not None  # noqa: S101 - made for this loop
    await outcome_of(commit.future)
    if commit.error is not None:
        raise commit.error


class _Opening(Awaitable[AsyncDevice], AbstractAsyncContextManager[AsyncDevice]):
    """What :func:`open_async_device` gives: to await, or to enter."""

    """:param open: one try; it does not wait for another owner."""

    def __init__(self, open: Callable[[], Device], wait: float) -> None:
        self._open = open
        self._wait = wait
        self._device: AsyncDevice | None = None

    def __await__(self) -> Generator[Any, None, AsyncDevice]:
        return self._run().__await__()

    async def _run(self) -> AsyncDevice:
        # Not in the threads of readers, which all devices share.
        for pause in pauses(self._wait):
            try:
                return await self._try()
            except StoreInUse:
                if pause is None:
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("the last pause is None")

    async def _try(self) -> AsyncDevice:
        opening = _in_thread(self._open)
        try:
            return AsyncDevice(await outcome_of(opening))
        except asyncio.CancelledError:
            # Nobody would close it.
            if opening.done() and not opening.cancelled() and opening.exception() is None:
                await outcome_of(_in_thread(opening.result().close))
            raise

    async def __aenter__(self) -> AsyncDevice:
        self._device = await self._run()
        return self._device

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._device is not None:
            await self._device.close()


def open_async_device(
    url: str | os.PathLike[str],
    create: bool = False,
    read_only: bool = False,
    *,
    key: str | bytes | SealKey | None = None,
    wait: float = 0.0,
    steal: bool = False,
    witness: str | os.PathLike[str] | None = None,
    witness_delay: float | None = None,
    initial: Credentials | None = None,
) -> _Opening:
    """Open the device that ``url`` names, as :func:`~ratchetkeep.open_device`: ``async with
    open_async_device(url) as device``, or ``device = await open_async_device(url)``. What it gives
    is no coroutine: to open in a task, await it in a function of your own.

    :param key: as for :func:`~ratchetkeep.open_device`.
    :param initial: the credentials of a device that is made because the place holds no trace of
        one; means ``create``.
    """
    rest: dict[str, Any] = {"key": key, "witness": witness, "witness_delay": witness_delay}
    if initial is None:
        how = partial(open_device, url, create=create, read_only=read_only, steal=steal)
        return _Opening(partial(how, **rest), wait)
    if read_only or steal:
        what = "initial cannot be asked for with read_only or steal"
        raise InvalidValue("open_async_device", what)
    return _Opening(partial(create_device, url, initial, **rest), wait)
