"""What is measured with stores that take turns: commits, reads and opening."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter_ns
from typing import ClassVar

from .data import STOCK, Change, Data, address
from .measure import (
    GROUP,
    Contender,
    Results,
    Spread,
    Turn,
    committing,
    committing_one,
    say,
    take_turns,
    turn_length,
)
from .peers import (
    Baileys,
    BareLimit,
    Ours,
    OurSqlite,
    OurSqliteAsync,
    OurSqliteSealed,
    Peer,
    SqliteBare,
    present,
)

GETS = 100
"""Gets that are timed together: one alone is shorter than the clock is exact."""
COLD = 1_000
LOOKUPS = 100

# Which part of the time each workload gets.
SHARES = {
    "session": 0.20,
    "sealed session": 0.08,
    "session by size": 0.18,
    "bundle": 0.14,
    "group": 0.10,
    "mint": 0.10,
    "cached get": 0.03,
    "cold get": 0.07,
    "open": 0.06,
    "stream": 0.03,
    "committers": 0.09,
}
# What of it each workload with PostgreSQL gets on top.
SHARES |= {
    "postgresql session": 0.08,
    "postgresql bundle": 0.04,
    "postgresql committers": 0.12,
    "postgresql load": 0.16,
}


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    :ivar seconds: for all workloads that take turns; building and copying come on top.
    :ivar sizes: of the devices, in sessions; the curves are over these.
    :ivar most_files: the largest device in a folder.
    :ivar main: the size of the table's figures.
    :ivar big: the size of the table's figures for groups, and for cold reads.
    :ivar fewest: turns that even the slowest peer gets.
    :ivar warm_bytes: what a log is warmed with.
    :ivar workers: concurrent committers.
    :ivar group: sessions that a message to a group changes.
    :ivar stock: pre-keys that are made at once.
    :ivar children: processes that measure memory, for each kind and size.
    :ivar stream: commits in one go, then closing.
    :ivar groups: groups of commits that each round of committers has at least where a sync is slow.
    :ivar fleets: worker processes and the devices of all of them together, for each load.
    :ivar sessions: that each device of a fleet has.
    :ivar tasks: that commit at the same time, in all workers together.
    :ivar lease: seconds of a lease whose cost is measured.
    :ivar idle: devices that do nothing meanwhile.
    :ivar mixed: records of all families whose size in the database is measured.
    :ivar quick: True for a run whose figures only show that everything works.
    """

    seconds: float = 300.0
    sizes: tuple[int, ...] = (100, 1_000, 10_000, 100_000)
    most_files: int = 100_000
    main: int = 1_000
    big: int = 10_000
    fewest: int = 5
    warm_bytes: int = 12 * 1024 * 1024
    workers: int = 64
    group: int = GROUP
    children: int = 2
    stock: int = STOCK
    stream: int = 1_000
    groups: int = 30
    fleets: tuple[tuple[int, int], ...] = ((1, 1_000), (4, 10_000))
    sessions: int = 10
    tasks: int = 64
    lease: float = 5.0
    idle: int = 1_000
    mixed: int = 10_000
    quick: bool = False

    def sizes_of(self, kind: type[Peer]) -> list[int]:
        """The sizes that a kind of peer is measured with."""
        most = min(kind.most, self.most_files) if kind.is_folder else kind.most
        return [size for size in self.sizes if size <= most]

    def budget(self, workload: str) -> float:
        """Seconds for a workload."""
        return self.seconds * SHARES[workload]


@dataclass
class Field:
    """All peers with their devices, below ``folder``.

    :ivar turn_seconds: what all turns so far took.
    """

    folder: Path
    data: Data
    scale: Scale
    contenders: list[Contender] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    turn_seconds: float = 0.0

    def build(self) -> None:
        """Make all devices; they are closed afterwards."""
        found, self.missing = present()
        for name, why in self.missing.items():
            say(f"left out: {name}: {why}")
        for kind in found:
            for size in self._sizes(kind):
                say(f"building {kind.name}, {size:,} sessions")
                folder = self.folder / f"{len(self.contenders)}"
                folder.mkdir()
                peer = kind(folder, self.data, size)
                peer.build()
                self.contenders.append(Contender(peer, self.scale.group, self.scale.stock))

    def _sizes(self, kind: type[Peer]) -> Iterable[int]:
        if kind is BareLimit:
            return [self.scale.main]
        if kind in (OurSqliteAsync, OurSqliteSealed):
            return sorted({self.scale.main, self.scale.big})
        return self.scale.sizes_of(kind)

    def open(self) -> None:
        """Open all devices and give their logs their size."""
        for each in self.contenders:
            each.peer.open()
        for each in self.contenders:
            say(f"warming {each.peer.name}, {each.peer.size:,} sessions")
            each.warm(self.scale.warm_bytes)

    def close(self) -> None:
        """Close all devices."""
        for each in self.contenders:
            each.peer.close()

    def end(self) -> None:
        """Stop what runs, and remove everything."""
        Baileys.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def where(self, test: Callable[[Peer], bool]) -> list[Contender]:
        """The contenders whose peers pass a test."""
        return [each for each in self.contenders if test(each.peer)]

    def one(self, kind: type[Peer], size: int) -> Peer:
        """The peer of a kind and size."""
        return next(p.peer for p in self.contenders if type(p.peer) is kind and p.peer.size == size)


def run_turns(
    field: Field, workload: str, contenders: list[Contender], turn: Turn, fewest: int | None = None
) -> Results:
    """One workload, for its part of the time."""
    say(f"measuring: {workload}")
    few = field.scale.fewest if fewest is None else fewest
    found = take_turns(contenders, turn, budget=field.scale.budget(workload), fewest=few)
    field.turn_seconds += sum(each.spent for each in contenders)
    return found


def commits(field: Field) -> dict[str, Results]:
    """The workloads that write. The devices are open."""
    scale = field.scale
    every = field.contenders
    few = min(2, scale.fewest)  # these take seconds where each record is synced
    at_main = field.where(lambda peer: peer.size == scale.main)
    sealable = [each for each in at_main if type(each.peer) in (OurSqlite, OurSqliteSealed)]
    grouped = field.where(lambda peer: _is_grouped(peer, scale))
    minting = field.where(lambda peer: peer.size == scale.main or not peer.is_slow)
    return {
        "session": run_turns(field, "session", at_main, committing(Contender.session)),
        "sealed session": run_turns(
            field, "sealed session", sealable, committing(Contender.session)
        ),
        "session by size": run_turns(
            field, "session by size", every, committing(Contender.session)
        ),
        "bundle": run_turns(field, "bundle", every, bundles),
        "group": run_turns(field, "group", grouped, committing_one(Contender.group), fewest=few),
        "mint": run_turns(field, "mint", minting, _mint, fewest=few),
    }


def _is_grouped(peer: Peer, scale: Scale) -> bool:
    if type(peer) is BareLimit:
        return True
    return peer.size == scale.big if peer.is_slow else peer.size >= scale.group


def bundles(contender: Contender) -> Sequence[int]:
    """A turn of commits that delete a pre-key each."""
    contender.need_stock(turn_length(contender))
    return committing(Contender.bundle)(contender)


def _mint(contender: Contender) -> Sequence[int]:
    contender.drop_stock()
    times = committing_one(Contender.mint)(contender)
    contender.drop_stock()
    return times


class Lookups(Peer):
    """Look-ups in a plain dict of texts, a hundred in place of each get."""

    name: ClassVar[str] = f"{LOOKUPS} dict look-ups"
    syncs: ClassVar[str] = "nothing to sync"

    def build(self) -> None:
        raw, template = self.data.raw, self.data.template
        self._table = {address(number): raw[template(number)] for number in range(self.size)}

    def open(self) -> int:
        return 0

    def close(self) -> None:
        return

    def commits(self, changes: Sequence[Change]) -> list[int]:
        raise NotImplementedError

    def read(self, numbers: Sequence[int]) -> int:
        table = self._table
        keys = [address(number % self.size) for number in range(LOOKUPS)]
        start = perf_counter_ns()
        for _ in numbers:
            for key in keys:
                table[key]
        return perf_counter_ns() - start


class BareSelect(Peer):
    """The rows of our own file, one SELECT each, through the standard library; none is decoded."""

    name: ClassVar[str] = "bare SELECT loop"
    syncs: ClassVar[str] = "nothing to sync"
    _GET = "SELECT data FROM records WHERE device = 1 AND family = 'session' AND id = ?"

    def __init__(self, ours: OurSqlite) -> None:
        super().__init__(ours.folder, ours.data, ours.size)
        self._path = ours.path

    def build(self) -> None:
        return

    def open(self) -> int:
        start = perf_counter_ns()
        self._connection = sqlite3.connect(self._path)
        self._connection.execute(self._GET, ("",)).fetchone()
        return perf_counter_ns() - start

    def close(self) -> None:
        self._connection.close()

    def commits(self, changes: Sequence[Change]) -> list[int]:
        raise NotImplementedError

    def read(self, numbers: Sequence[int]) -> int:
        ids = [address(number) for number in numbers]
        execute, get = self._connection.execute, self._GET
        start = perf_counter_ns()
        found = [execute(get, (id,)).fetchone()[0] for id in ids]
        taken = perf_counter_ns() - start
        if len(found) != len(ids):
            raise RuntimeError("a record is not in the file")
        return taken


def cached_gets(field: Field) -> Results:
    """Gets of records that were read just before. The devices are open."""
    lookups = Lookups(field.folder, field.data, field.scale.main)
    lookups.build()
    readers = field.where(lambda peer: peer.reads)

    def turn(contender: Contender) -> list[int]:
        numbers = range(min(GETS, contender.peer.size))
        contender.peer.read(numbers)
        return [contender.peer.read(numbers) // len(numbers)]

    return run_turns(field, "cached get", [*readers, Contender(lookups)], turn, fewest=20)


def cold_gets(field: Field) -> Results:
    """1,000 sessions of a device that was opened just before. The devices are closed."""
    readers = field.where(lambda peer: peer.reads)
    bare = [Contender(BareSelect(p.peer)) for p in readers if type(p.peer) is OurSqlite]
    chosen = random.Random(2)

    def turn(contender: Contender) -> list[int]:
        peer = contender.peer
        numbers = chosen.sample(range(peer.size), min(COLD, peer.size))
        peer.open()
        try:
            return [peer.read_at_once(numbers)]
        finally:
            peer.close()

    return run_turns(field, "cold get", [*readers, *bare], turn)


def openings(field: Field) -> Results:
    """Opening a device and reading its credentials. The devices are closed."""

    def turn(contender: Contender) -> list[int]:
        taken = contender.peer.open()
        contender.peer.close()
        return [taken]

    return run_turns(field, "open", field.where(lambda peer: peer.reads), turn)


def streams(field: Field) -> dict[str, Results]:
    """Many commits in one go, without and with closing; a time is that of one commit. The devices
    are closed."""
    closing: dict[tuple[str, int], list[int]] = {}
    count = field.scale.stream

    def turn(contender: Contender) -> list[int]:
        peer = contender.peer
        if not isinstance(peer, Ours):
            raise TypeError("only our own stores have a stream")
        peer.open()
        taken, with_closing = peer.stream([contender.session() for _ in range(count)])
        closing.setdefault(contender.key, []).append(with_closing // count)
        return [taken // count]

    ours = field.where(
        lambda peer: (
            isinstance(peer, Ours)
            and not isinstance(peer, OurSqliteAsync)
            and peer.size == field.scale.main
        )
    )
    alone = run_turns(field, "stream", ours, turn, fewest=3)
    closed = {key: Spread.of(times) for key, times in closing.items()}
    return {"stream": alone, "stream and close": closed}


def is_floor(name: str) -> bool:
    """True for what is no store but something to compare with."""
    return name in {BareLimit.name, SqliteBare.name, Lookups.name, BareSelect.name}
