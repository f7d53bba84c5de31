"""One conversation from the first message to the last, with faults all the time."""

from __future__ import annotations

import asyncio
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path

from pgserver import MODES
from ratchetkeep import open_device, verify_device

from .applog import Log
from .course import PEER
from .database import Database
from .ledger import Breach, Ledger
from .lives import Life
from .moments import KILL, PAUSE, RESTART, STEAL, Fault, Moment, a_fault, a_moment
from .probe import FENCED, LANDED, SETTLED, Spec
from .processes import Child, Nursery
from .server import Server
from .worker import GAVE_UP, REFUSED

LAST_MESSAGES = 6


@dataclass
class Play:
    """What is played. ``engines`` has one name for each device, as ``engine_class`` takes it;
    ``urls`` their stores. ``slowness`` stretches the random moments for a slow engine.

    Pauses, steals and restarts need a ``lease``: then the devices are in a database of the play's
    own, with a lease of so many seconds, and ``urls`` is empty."""

    folder: Path
    engines: dict[str, str]
    urls: dict[str, str]
    kills: int
    seed: int
    pauses: int = 0
    steals: int = 0
    restarts: int = 0
    lease: float = 0.0
    refusals: int = 0
    """Go on with pauses until so many workers were refused."""
    places: Sequence[str] = ()
    """Kills and pauses come at these points alone."""
    slowness: float = 1.0
    group_share: float = 0.3
    seconds: float = inf
    """After so many the rest is said without faults."""
    patience: float = 60.0
    """A device that does one thing for so many seconds hangs."""
    breaches_allowed: int = 0
    """Go on until there are more than these; 0 stops at the first."""
    is_ours: bool = True
    """The stores are ratchetkeep's, and are checked in the end."""

    @property
    def faults(self) -> Counter[Fault]:
        """How many there are of each."""
        return Counter(
            {KILL: self.kills, PAUSE: self.pauses, STEAL: self.steals, RESTART: self.restarts}
        )


@dataclass
class Score:
    """What came of it."""

    counts: Counter[str] = field(default_factory=Counter)
    breaches: list[Breach] = field(default_factory=list)

    def breached(self, kind: str) -> int:
        """How many breaches of a kind there are."""
        return sum(breach.kind == kind for breach in self.breaches)


@dataclass(eq=False)
class Actor:
    """A worker on the stage.

    :ivar moment: what will happen to it.
    :ivar has_left: set when another worker is to take over, while its process is still there.
    """

    life: Life
    child: Child
    moment: Moment | None = None
    has_left: asyncio.Event = field(default_factory=asyncio.Event)


class Stage:
    """A running play.

    :ivar done: the faults so far.
    :ivar counts: what they led to.
    """

    def __init__(
        self, play: Play, nursery: Nursery, socket: Path, database: Database | None
    ) -> None:
        self._play = play
        self._nursery = nursery
        self._socket = socket
        self._database = database
        self._rng = random.Random(play.seed)
        self.server = Server(self._rng, group_share=play.group_share)
        self.server.on_event = self._on_event
        self.done: Counter[Fault] = Counter()
        self.counts: Counter[str] = Counter()
        self._actors: dict[Life, Actor] = {}
        self._robbed: dict[str, Life] = {}
        self._restarting = asyncio.Lock()
        self._tasks: asyncio.TaskGroup
        self._is_over = False
        self._is_finishing = False
        self._deadline = time.monotonic() + play.seconds

    async def run(self) -> None:
        """Play it to the end; what broke stands in the server's ledger."""
        await self.server.start(self._socket)
        watches = [asyncio.create_task(self._watch()), asyncio.create_task(self._watch_hangs())]
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for device in PEER:
                    self._tasks.create_task(self._live(device))
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.wait(watches)
            await self.server.stop()

    # -- the end

    def _end(self) -> None:
        """Stop everything, because something broke."""
        self._is_over = True
        self.server.close_devices()
        for actor in self._actors.values():
            actor.child.kill()

    async def _watch(self) -> None:
        """End the play at a breach, and when all is said."""
        while not self._is_over:
            await self.server.changed()
            self._judge()
            if self.server.course.is_finished() and not self.server.is_closing:
                self.server.close_devices()

    async def _watch_hangs(self) -> None:
        """End the play if a worker does one thing for ever."""
        while not self._is_over:
            await asyncio.sleep(1)
            for life in self.server.lives:
                if life.hangs(self._play.patience) and life in self._actors:
                    self._actors[life].child.kill(signal.SIGUSR1)  # it says where it is
                    await asyncio.sleep(1)
                    what = f"{life.device} hangs, see {life.device}.errors"
                    self.server.ledger.breach("failed", what)
                    self._end()
                    break

    def _judge(self) -> None:
        if len(self.server.ledger.breaches) > self._play.breaches_allowed and not self._is_over:
            self._end()

    # -- workers, one after the other

    async def _live(self, device: str) -> None:
        """One worker after the other; nothing happens to the last one."""
        while not self._is_over:
            actor = await self._enter(device)
            ended = asyncio.create_task(actor.child.ended())
            left = asyncio.create_task(actor.has_left.wait())
            await asyncio.wait([ended, left], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                self._tasks.create_task(self._follow(actor, ended))
                continue
            left.cancel()
            status = await self._ended(actor, ended)
            if status == 0:
                return
            self.counts["lost by themselves"] += status == GAVE_UP

    async def _enter(self, device: str) -> Actor:
        """A new worker."""
        moment = self._next_moment()
        life = self.server.lives.begin(device)
        errors = self._play.folder / f"{device}.errors"
        child = await self._nursery.spawn(self._spec(life, moment), errors)
        actor = self._actors[life] = Actor(life, child)
        life.may_sleep = moment is not None and moment.fault == PAUSE
        if self._is_over:
            child.kill()
        if moment is not None:
            self._arm(actor, moment)
        return actor

    def _spec(self, life: Life, moment: Moment | None) -> Spec:
        play, device = self._play, life.device
        robbed = self._robbed.get(device)
        return Spec(
            device=device,
            life=life.number,
            engine=play.engines[device],
            url=play.urls[device],
            socket=str(self._socket),
            log=str(play.folder / f"{device}.log"),
            points=moment.points if moment is not None else {},
            sleeps=moment is not None and moment.fault == PAUSE,
            lease=play.lease,
            # One that is awake gives nothing up by itself.
            steals=robbed is not None and not robbed.is_dead and not robbed.replaced.is_set(),
        )

    async def _ended(self, actor: Actor, ended: asyncio.Task[int]) -> int:
        """How a process ended, when all that it sent was read."""
        status = await ended
        actor.moment = None
        await self.server.gone(actor.life)
        del self._actors[actor.life]
        device = actor.life.device
        if status == -signal.SIGKILL:
            self.done[KILL] += 1
        elif status == GAVE_UP and self._play.lease:
            self.counts["settled"] += actor.life.seen[SETTLED]
        elif status != 0 or not self.server.is_closing:
            what = f"{device} ended by itself with {status}, see {device}.errors"
            self.server.ledger.breach("failed", what)
            self._judge()
            return GAVE_UP
        return status

    # -- a worker from whom another one takes over

    async def _follow(self, actor: Actor, ended: asyncio.Task[int]) -> None:
        """See what becomes of it."""
        life = actor.life
        slept_too_long = False
        if life.is_asleep:
            await self._sleep_long(life, ended)
            slept_too_long = life.replaced.is_set()
            life.wake()
            actor.child.kill(signal.SIGCONT)
            # Woken early it may have its device still, and would keep it.
            if not await self._is_replaced(life, ended, 2 * self._play.lease):
                actor.child.kill()
            elif not life.has_greeted:  # it may wait for the device, as the next ones do
                await asyncio.wait([ended], timeout=2 * self._play.lease)
                actor.child.kill()
        status = await self._ended(actor, ended)
        if slept_too_long and life.seen[LANDED]:
            what = f"a worker of {life.device} wrote after another one had the device"
            self.server.ledger.breach("write without ownership", what)
            self._judge()
        if status == GAVE_UP and life.replaced.is_set():
            self.counts["taken over"] += 1
            self.counts["refused"] += REFUSED in life.ends
            self.counts["fenced"] += life.seen[FENCED]

    async def _sleep_long(self, life: Life, ended: asyncio.Task[int]) -> None:
        """Wait for as long as a worker sleeps: until its lease is about to run out, or until
        another one has its device, or longer."""
        turn, lease = self._rng.random(), self._play.lease
        if turn < 0.2:
            await asyncio.sleep(self._rng.uniform(0.5, 1.4) * lease)
            return
        await self._is_replaced(life, ended)
        if turn > 0.5:
            await asyncio.sleep(self._rng.uniform(0.0, 0.5 if turn < 0.8 else 2.5))

    async def _is_replaced(
        self, life: Life, ended: asyncio.Task[int], seconds: float | None = None
    ) -> bool:
        """Wait until another worker has greeted; False if this one has ended before, or after so
        many seconds."""
        replaced = asyncio.create_task(life.replaced.wait())
        await asyncio.wait([replaced, ended], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        replaced.cancel()
        return life.replaced.is_set()

    # -- faults

    def _next_moment(self) -> Moment | None:
        """What is to happen to a worker; None if it is the last one."""
        if time.monotonic() < self._deadline:
            play = self._play
            fault = a_fault(self._rng, play.faults - self.done)
            if fault is None and self.counts["refused"] < play.refusals:
                fault = PAUSE
            if fault is not None:
                return a_moment(
                    self._rng,
                    fault,
                    slowness=play.slowness,
                    lease=play.lease,
                    places=play.places,
                )
        if not self._is_finishing:
            self._is_finishing = True
            self.server.course.finish(LAST_MESSAGES)
        return None

    def _arm(self, actor: Actor, moment: Moment, *, has_greeted: bool = False) -> None:
        actor.moment = moment
        loop = asyncio.get_running_loop()
        if moment.event == "start":
            loop.call_later(moment.seconds, self._hit, actor, moment)
        if has_greeted:
            loop.call_later(moment.limit, self._hit_at_limit, actor, moment)

    def _on_event(self, life: Life, event: str) -> None:
        """Called by the server, before it answers the worker."""
        actor = self._actors.get(life)
        if actor is None or actor.moment is None:
            return
        moment = actor.moment
        if event == "sleep":
            self._leave(actor, moment)  # its process stops by itself
        elif event == "hello":
            loop = asyncio.get_running_loop()
            loop.call_later(moment.limit, self._hit_at_limit, actor, moment)
        elif moment.event in (event, "any"):
            moment.events -= 1
            if moment.events == 0:
                self._hit_later(actor, moment)

    def _hit_later(self, actor: Actor, moment: Moment) -> None:
        if moment.seconds:
            asyncio.get_running_loop().call_later(moment.seconds, self._hit, actor, moment)
        else:
            self._hit(actor, moment)

    def _hit_at_limit(
        self, actor: Actor, moment: Moment, before: set[tuple[object, float]] | None = None
    ) -> None:
        """A worker that is to be killed first finishes what it does: a kill would hide that it
        hangs."""
        busy = set(actor.life.busy.items())
        then = busy if before is None else before & busy
        if actor.moment is moment and moment.fault == KILL and then:
            loop = asyncio.get_running_loop()
            loop.call_later(0.01, self._hit_at_limit, actor, moment, then)
        else:
            self._hit(actor, moment)

    def _hit(self, actor: Actor, moment: Moment) -> None:
        """The moment has come, unless it has come before."""
        if actor.moment is not moment or self._is_over:
            return
        if moment.fault == KILL:
            actor.moment = None
            actor.child.kill()
        elif moment.fault == RESTART:
            self.done[RESTART] += 1
            self._tasks.create_task(self._restart())
            following = self._next_moment()
            actor.moment = None
            if following is not None:
                self._arm(actor, replace(following, points={}), has_greeted=True)
        else:
            if moment.fault == PAUSE:
                actor.child.kill(signal.SIGSTOP)
            self._leave(actor, moment)

    def _leave(self, actor: Actor, moment: Moment) -> None:
        """Another worker is to take over, while this one sleeps or goes on."""
        actor.moment = None
        self.done[moment.fault] += 1
        if moment.fault == PAUSE:
            actor.life.sleep()
        else:
            self._robbed[actor.life.device] = actor.life
        actor.has_left.set()

    async def _restart(self) -> None:
        """Some restarts are over before a lease has run out, and some are not."""
        assert self._database is not None
        async with self._restarting:
            outage = 1.3 if self._rng.random() < 0.2 else self._rng.uniform(0.0, 0.5)
            await self._database.restart(self._rng.choice(MODES), outage * self._play.lease)
            self.counts["database restarts"] += 1


@asynccontextmanager
async def _furnished(play: Play) -> AsyncIterator[tuple[Play, Database | None]]:
    """The play with the places of its devices."""
    if not play.lease:
        yield play, None
        return
    async with Database.open() as database:
        urls = {device: database.url(device, play.lease) for device in PEER}
        yield replace(play, urls=urls), database


async def perform(play: Play) -> Score:
    """Play one conversation to the end, or to the first breach that is not allowed."""
    async with _furnished(play) as (furnished, database):
        with tempfile.TemporaryDirectory(prefix="conversation-") as short:  # sockets: short names
            async with Nursery.open(set(play.engines.values())) as nursery:
                stage = Stage(furnished, nursery, Path(short, "server"), database)
                await stage.run()
        ledger = stage.server.ledger
        if not ledger.breaches:
            for device in PEER:
                _check_device(ledger, device, furnished)
    ledger.counts.update(stage.counts)
    ledger.counts.update({f"{fault}s": count for fault, count in stage.done.items()})
    ledger.counts["sessions"] = stage.server.course.sessions
    ledger.counts["pre-keys consumed"] = ledger.consumed()
    return Score(ledger.counts, ledger.breaches)


def _check_device(ledger: Ledger, device: str, play: Play) -> None:
    """In the end: every text has come out, and the store is sound."""
    log = Log(play.folder / f"{device}.log")
    ledger.saw_log(device, log.texts)
    log.close()
    if not play.is_ours:
        return
    url = play.urls[device]
    with open_device(url, read_only=True) as opened:
        ledger.saw_stock(device, {int(id) for id in opened.ids("pre-key")})
    for finding in verify_device(url):
        if finding.severity == "error":
            ledger.breach("not sound", f"the store of {device}: {finding}")
