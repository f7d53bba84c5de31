"""Many who commit at the same time: threads of one Device, tasks of one AsyncDevice."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

from ratchetkeep import AsyncDevice, Device
from ratchetkeep.device import open_in
from ratchetkeep.model import SessionRecord
from ratchetkeep.stores.base import DEFAULT_DEVICE
from ratchetkeep.stores.sqlite import SqliteStore
from ratchetkeep.testing.faults import MirroredVFS, SimulatedDisk

from .data import Data, address
from .measure import Contender, Spread, say
from .peers import OurBaileys, OurSqlite, OurSqliteAsync, Peer
from .workloads import Field, Scale

SLOW_SYNC = 0.005
"""Seconds that a sync takes on the slow disk, at least."""
# Seconds that a group on the slow disk takes at most, in syncs.
_GROUP_SYNCS = 2.5
# Contents that a worker commits in turn.
_CONTENTS = 8
_NUMBERS = itertools.count(1)


@dataclass
class Rates:
    """Commits per second of one and of many at once, round by round."""

    one: list[float] = field(default_factory=list)
    many: list[float] = field(default_factory=list)


def _open_through(path: str, vfs: str) -> Device:
    store = SqliteStore(path, vfs=vfs)
    return open_in(store, DEFAULT_DEVICE, create=False, read_only=False, owns_store=True)


class SlowSqlite(OurSqlite):
    """``sqlite:`` through a VFS."""

    name = "ratchetkeep sqlite:, sync of 5 ms"
    vfs = ""

    def open(self) -> int:
        self._device = _open_through(str(self.path), self.vfs)
        return 0


class SlowSqliteAsync(OurSqliteAsync):
    """The same, awaited."""

    name = "ratchetkeep sqlite:, sync of 5 ms, asyncio"
    vfs = ""

    async def open_face(self) -> int:
        self.face = AsyncDevice(_open_through(str(self.path), self.vfs))
        return 0


class CountingVFS(MirroredVFS):
    """Counts the syncs."""

    syncs = 0

    def enter(self, verb: str) -> None:
        self.syncs += verb == "sync"
        super().enter(verb)


def contents_of(data: Data, worker: int) -> list[SessionRecord]:
    """What a worker commits in turn; no two workers have the same."""
    return [data.value(worker, -next(_NUMBERS)) for _ in range(_CONTENTS)]


def with_threads(
    peer: OurSqlite | OurBaileys, workers: int, seconds: float, fewest: int = 0
) -> float:
    """Commits per second of that many threads; each changes a session of its own. There
    are ``fewest`` groups at least, since none holds two commits of a thread."""
    device = peer.device
    counts = [0] * workers
    starting = threading.Barrier(workers + 1)
    end = 0.0

    def run(worker: int, contents: list[SessionRecord]) -> None:
        id = address(worker)
        starting.wait()
        while time.perf_counter() < end or sum(counts) < fewest * workers:
            device.set({"session": {id: contents[counts[worker] % _CONTENTS]}})
            counts[worker] += 1

    threads = [
        threading.Thread(target=run, args=(worker, contents_of(peer.data, worker)))
        for worker in range(workers)
    ]
    for thread in threads:
        thread.start()
    start = time.perf_counter()
    end = start + seconds
    starting.wait()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


def with_tasks(peer: OurSqliteAsync, workers: int, seconds: float, fewest: int = 0) -> float:
    """Commits per second of that many tasks."""
    return peer.runner.run(_tasks(peer.face, peer.data, workers, seconds, fewest))


async def _tasks(
    device: AsyncDevice, data: Data, workers: int, seconds: float, fewest: int
) -> float:
    counts = [0] * workers
    contents = [contents_of(data, worker) for worker in range(workers)]
    start = time.perf_counter()
    end = start + seconds

    async def run(worker: int) -> None:
        id, mine = address(worker), contents[worker]
        while time.perf_counter() < end or sum(counts) < fewest * workers:
            await device.set({"session": {id: mine[counts[worker] % _CONTENTS]}})
            counts[worker] += 1

    await asyncio.gather(*(run(worker) for worker in range(workers)))
    return sum(counts) / (time.perf_counter() - start)


def _rate(peer: Peer, workers: int, seconds: float, groups: int) -> float:
    fewest = 0
    if isinstance(peer, SlowSqlite | SlowSqliteAsync):
        fewest, seconds = groups, max(seconds, groups * _GROUP_SYNCS * SLOW_SYNC)
    if isinstance(peer, OurSqliteAsync):
        return with_tasks(peer, workers, seconds, fewest)
    if isinstance(peer, OurSqlite | OurBaileys):
        return with_threads(peer, workers, seconds, fewest)
    raise TypeError(f"{peer.name} has no concurrent committers")


def _label(peer: Peer) -> str:
    kind = "tasks" if isinstance(peer, OurSqliteAsync) else "threads"
    return f"{peer.name.removesuffix(', asyncio')}, {kind}"


def committers(field: Field) -> dict[str, dict[str, Spread]]:
    """One and many committers in turn. The devices are open; a spread is of commits per second."""
    say("measuring: committers")
    scale = field.scale
    kinds: list[type[Peer]] = [OurSqlite, OurSqliteAsync, OurBaileys]
    peers = [each.peer for each in field.contenders if type(each.peer) in kinds]
    peers = [peer for peer in peers if peer.size == scale.main]
    with ExitStack() as stack:
        peers += _slow_peers(field, stack)
        start = time.monotonic()
        found = _alternate(peers, scale)
        field.turn_seconds += time.monotonic() - start
        return found


def _slow_peers(field: Field, stack: ExitStack) -> list[Peer]:
    kinds: list[type[SlowSqlite | SlowSqliteAsync]] = [SlowSqlite, SlowSqliteAsync]
    peers: list[Peer] = []
    for number, kind in enumerate(kinds):
        folder = field.folder / f"slow{number}"
        folder.mkdir()
        peer = kind(folder, field.data, field.scale.main)
        peer.build()
        # A disk each: it tells files apart by their base names.
        vfs = MirroredVFS(SimulatedDisk(), sync_seconds=SLOW_SYNC)
        peer.vfs = stack.enter_context(vfs).name
        peer.open()
        stack.callback(peer.close)
        peers.append(peer)
    return peers


def _alternate(peers: list[Peer], scale: Scale) -> dict[str, dict[str, Spread]]:
    repeats = 5
    seconds = max(0.02, scale.budget("committers") / (2 * repeats * len(peers)))
    rates = {_label(peer): Rates() for peer in peers}
    for _ in range(repeats):
        for peer in peers:
            found = rates[_label(peer)]
            found.one.append(_rate(peer, 1, seconds, scale.groups))
            peer.rest()
            found.many.append(_rate(peer, scale.workers, seconds, scale.groups))
            peer.rest()
    return {
        label: {"one": Spread.of(found.one), "many": Spread.of(found.many)}
        for label, found in rates.items()
    }


def syncs_of_minting(field: Field) -> int:
    """How many syncs one commit of the pre-keys and the credentials takes: the fewest of three,
    since SQLite moves its log into the file now and then."""
    folder = field.folder / "counted"
    folder.mkdir()
    with CountingVFS(SimulatedDisk()) as vfs:
        peer = SlowSqlite(folder, field.data, field.scale.sizes[0])
        peer.build()
        peer.vfs = vfs.name
        peer.open()
        contender = Contender(peer)
        contender.drop_stock()
        counts = []
        for _ in range(3):
            before = vfs.syncs
            peer.commits([contender.mint()])
            counts.append(vfs.syncs - before)
        peer.close()
    return min(counts)
