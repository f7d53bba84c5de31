"""One conversation from the first message to the last, with kills all the time."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from ratchetkeep import open_device, verify_device

from .applog import Log
from .course import PEER
from .ledger import Breach, Ledger
from .server import Server
from .worker import POINTS, Spec

EVENTS = ("task", "sent", "upload", "receive", "ack")
LAST_MESSAGES = 6


@dataclass
class Play:
    """What is played. ``engines`` has one name for each device, as ``engine_class`` takes it;
    ``urls`` their stores. ``slowness`` stretches the random moments for a slow engine."""

    folder: Path
    engines: dict[str, str]
    urls: dict[str, str]
    kills: int
    seed: int
    slowness: float = 1.0
    group_share: float = 0.3
    seconds: float = inf
    """After so many the rest is said without kills."""
    patience: float = 60.0
    """A device that does one thing for so many seconds hangs."""
    breaches_allowed: int = 0
    """Go on until there are more than these; 0 stops at the first."""
    is_ours: bool = True
    """The stores are ratchetkeep's, and are checked in the end."""


@dataclass
class Score:
    """What came of it."""

    counts: Counter[str] = field(default_factory=Counter)
    breaches: list[Breach] = field(default_factory=list)

    def breached(self, kind: str) -> int:
        """How many breaches of a kind there are."""
        return sum(breach.kind == kind for breach in self.breaches)


@dataclass
class Moment:
    """When a process is to die: so many events of a name after its start, and so many seconds
    later; or at a point that it reaches by itself. After ``limit`` seconds it dies anyway."""

    event: str
    events: int
    seconds: float
    limit: float
    points: dict[str, int] = field(default_factory=dict)


class Nursery:
    """The process that forks the devices, seen from here."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._lock = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls, engines: set[str]) -> AsyncIterator[Nursery]:
        """Start it, and end it."""
        modules = sorted({name.partition(":")[0] for name in engines})
        paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "conversation.nursery", *modules),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
        try:
            yield cls(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()

    async def spawn(self, spec: Spec, errors: Path) -> Child:
        """Fork a device."""
        pid = (await self._ask({"spawn": json.loads(spec.as_json()), "errors": str(errors)}))["pid"]
        return Child(self, pid)

    async def reap(self, pid: int) -> int:
        """How a dead device ended: its exit code, or less the signal."""
        status: int = (await self._ask({"reap": pid}))["status"]
        return status

    async def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._lock:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            answer: dict[str, Any] = json.loads(await self._process.stdout.readline())
            return answer


class Child:
    """A device's process. It is named by a descriptor, so no other process can be hit."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery = nursery
        self._pid = pid
        self._fd = os.pidfd_open(pid)
        self._dead = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._fd, self._dead.set)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """SIGKILL or another signal, now; nothing if it is dead."""
        if self._fd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, number)

    async def ended(self) -> int:
        """Wait for its end, and say how it ended."""
        await self._dead.wait()
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1  # the number may name something else soon
        return await self._nursery.reap(self._pid)


class Stage:
    """A running play."""

    def __init__(self, play: Play, nursery: Nursery, socket: Path) -> None:
        self._play = play
        self._nursery = nursery
        self._socket = socket
        self._rng = random.Random(play.seed)
        self.server = Server(self._rng, group_share=play.group_share)
        self.server.on_event = self._on_event
        self.kills = 0
        self._children: dict[str, Child] = {}
        self._moments: dict[str, Moment | None] = dict.fromkeys(PEER)
        self._is_over = False
        self._is_finishing = False
        self._deadline = time.monotonic() + play.seconds

    async def run(self) -> None:
        """Play it to the end; what broke stands in the server's ledger."""
        await self.server.start(self._socket)
        watches = [asyncio.create_task(self._watch()), asyncio.create_task(self._watch_hangs())]
        try:
            async with asyncio.TaskGroup() as lives:
                for device in PEER:
                    lives.create_task(self._live(device))
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.wait(watches)
            await self.server.stop()

    def _end(self) -> None:
        """Stop everything, because something broke."""
        self._is_over = True
        self.server.close_devices()
        for child in self._children.values():
            child.kill()

    async def _watch(self) -> None:
        """End the play at a breach, and when all is said."""
        while not self._is_over:
            await self.server.changed()
            self._judge()
            if self.server.course.is_finished() and not self.server.is_closing:
                self.server.close_devices()

    async def _watch_hangs(self) -> None:
        """End the play if a device does one thing for ever."""
        while not self._is_over:
            await asyncio.sleep(1)
            for device, began in self.server.busy.items():
                if min(began.values(), default=inf) < time.monotonic() - self._play.patience:
                    self._children[device].kill(signal.SIGUSR1)  # it says where it is
                    await asyncio.sleep(1)
                    self.server.ledger.breach("failed", f"{device} hangs, see {device}.errors")
                    self._end()
                    break

    def _judge(self) -> None:
        if len(self.server.ledger.breaches) > self._play.breaches_allowed and not self._is_over:
            self._end()

    async def _live(self, device: str) -> None:
        """One life after the other; the last one is not ended by us."""
        errors = self._play.folder / f"{device}.errors"
        while not self._is_over:
            moment = self._next_moment()
            self.server.expect(device)
            child = await self._nursery.spawn(self._spec(device, moment), errors)
            self._children[device] = child
            self._moments[device] = moment
            status = await self._end_of(device, child, moment)
            self._moments[device] = None
            await self.server.gone(device)
            if status == -signal.SIGKILL:
                self.kills += 1
            elif status == 0 and self.server.is_closing:
                return
            else:
                what = f"{device} ended by itself with {status}, see {errors.name}"
                self.server.ledger.breach("failed", what)
                self._judge()

    async def _end_of(self, device: str, child: Child, moment: Moment | None) -> int:
        """Wait until a process is dead, and see that it is in time; how it ended."""
        if self._is_over:
            child.kill()
        if moment is None:
            return await child.ended()
        if moment.event == "start":
            self._kill_later(child, moment.seconds)
        too_late = asyncio.create_task(self._kill_at_limit(device, child, moment.limit))
        try:
            return await child.ended()
        finally:
            too_late.cancel()
            await asyncio.wait([too_late])

    async def _kill_at_limit(self, device: str, child: Child, seconds: float) -> None:
        """Kill a process after so many seconds, but let it finish what it does then: a kill would
        hide that it hangs."""
        await asyncio.sleep(seconds)
        then = set(self.server.busy[device].items())
        while then & set(self.server.busy[device].items()):
            await asyncio.sleep(0.01)
        child.kill()

    def _next_moment(self) -> Moment | None:
        """When the next life is to end; None if it is the last one."""
        if self.kills < self._play.kills and time.monotonic() < self._deadline:
            return a_moment(self._rng, self._play.slowness)
        if not self._is_finishing:
            self._is_finishing = True
            self.server.course.finish(LAST_MESSAGES)
        return None

    def _spec(self, device: str, moment: Moment | None) -> Spec:
        play = self._play
        return Spec(
            device=device,
            engine=play.engines[device],
            url=play.urls[device],
            socket=str(self._socket),
            log=str(play.folder / f"{device}.log"),
            points=moment.points if moment is not None else {},
        )

    def _on_event(self, device: str, event: str) -> None:
        """Called by the server, before it answers the device."""
        moment = self._moments[device]
        if moment is None or moment.event not in (event, "any"):
            return
        moment.events -= 1
        if moment.events == 0:
            self._kill_later(self._children[device], moment.seconds)

    def _kill_later(self, child: Child, seconds: float) -> None:
        if seconds:
            asyncio.get_running_loop().call_later(seconds, child.kill)
        else:
            child.kill()


def a_moment(rng: random.Random, slowness: float) -> Moment:
    """When a process is to die: while it starts, at a point, at an event, or some time after it."""
    limit = 1.0 * slowness
    turn = rng.random()
    if turn < 0.15:
        return Moment("start", 0, rng.uniform(0.0, 0.06), limit)
    if turn < 0.45:
        points = {rng.choice(POINTS): rng.choice([0, 0, 1, 3])}
        return Moment("never", 0, 0.0, limit, points)
    if turn < 0.65:
        return Moment(rng.choice(EVENTS), rng.randint(1, 5), 0.0, limit)
    return Moment("any", rng.randint(1, 20), rng.uniform(0.0, 0.15) * slowness, limit)


async def perform(play: Play) -> Score:
    """Play one conversation to the end, or to the first breach that is not allowed."""
    with tempfile.TemporaryDirectory(prefix="conversation-") as short:  # sockets have short names
        async with Nursery.open(set(play.engines.values())) as nursery:
            stage = Stage(play, nursery, Path(short, "server"))
            await stage.run()
    ledger = stage.server.ledger
    if not ledger.breaches:
        for device in PEER:
            _check_device(ledger, device, play)
    ledger.counts["kills"] = stage.kills
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
