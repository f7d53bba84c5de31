"""Taking turns, and what is said of the times that come out."""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .data import FIRST_PRE_KEY, STOCK, Change
from .peers import Peer

# No two visits in a row write the same content under one address.
_STRIDE = 7919
# What is written to a store with a log before it is measured, so that the log has its size.
WARM_BYTES = 12 * 1024 * 1024
_WARM_SINGLES = 50
_WARM_SESSIONS = 1024
GROUP = 1024
"""Sessions that one message to a large group changes."""
LEAD = 2
"""Commits that begin a turn of small commits and are not counted: after the others' turns the
processor's caches hold nothing of a peer, and the first of its commits are slower."""
COUNTED = 6
"""Commits of such a turn that are counted."""
REFILL = 64
"""Pre-keys that are stored at once, not measured, where each commit deletes one."""
_RECORD_BYTES = 730
P99_SHOWN = 100
"""Times without which a 99th percentile says nothing: it would be the longest of all."""
_START = time.monotonic()


@dataclass(frozen=True)
class Spread:
    """What many times come to, in nanoseconds.

    :ivar p99: None of fewer than :data:`P99_SHOWN` times.
    :ivar first: the median of the commits that began a turn and were not counted, or 0.
    """

    count: int
    p50: float
    p99: float | None
    low: float
    high: float
    first: float = 0.0

    @classmethod
    def of(cls, times: Sequence[float], firsts: Sequence[float] = ()) -> Spread:
        """Median, 99th percentile and quartiles."""
        ordered = sorted(times)
        if not ordered:
            raise ValueError("nothing was measured")
        return cls(
            count=len(ordered),
            p50=statistics.median(ordered),
            p99=_at(ordered, 0.99) if len(ordered) >= P99_SHOWN else None,
            low=_at(ordered, 0.25),
            high=_at(ordered, 0.75),
            first=statistics.median(firsts) if firsts else 0.0,
        )


def _at(ordered: Sequence[float], part: float) -> float:
    """The value that ``part`` of all are not above."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


@dataclass
class Contender:
    """A peer with a device of one size, and what it commits next.

    :ivar group_size: sessions that a message to a group changes.
    :ivar stock_size: pre-keys that are made at once.
    """

    peer: Peer
    group_size: int = GROUP
    stock_size: int = STOCK
    times: list[int] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    spent: float = 0.0
    turns: int = 0
    _next: int = 0
    _stock: list[int] = field(default_factory=list)
    _next_pre_key: int = FIRST_PRE_KEY

    @property
    def key(self) -> tuple[str, int]:
        """The peer's name and the device's size."""
        return self.peer.name, self.peer.size

    @property
    def stock(self) -> int:
        """How many pre-keys the device holds."""
        return len(self._stock)

    def progress(self, share: float, fewest: int) -> float:
        """How far it has come: 1 when it has used ``share`` seconds and had ``fewest`` turns."""
        in_time = self.spent / share if share > 0 else 1.0
        return min(in_time, self.turns / fewest)

    def fresh(self) -> None:
        """Forget what was measured."""
        self.times, self.firsts, self.spent, self.turns = [], [], 0.0, 0

    def session(self) -> Change:
        """A commit of one session."""
        self._next += 1
        return Change(sessions=((self._next * _STRIDE % self.peer.size, self._next),))

    def bundle(self) -> Change:
        """A session, the pre-key that it consumed, and the credentials."""
        session = self.session()
        drop = (self._stock.pop(),)
        return Change(session.sessions, drop_pre_keys=drop, credentials=self._next)

    def sessions(self, number: int) -> Change:
        """A commit of many sessions, always the same ones."""
        self._next += 1
        return Change(tuple((each, self._next) for each in range(number)))

    def group(self) -> Change:
        """What a message to a large group changes."""
        return self.sessions(self.group_size)

    def mint(self) -> Change:
        """Pre-keys under new ids, with the credentials."""
        return self.pre_keys(self.stock_size)

    def pre_keys(self, number: int) -> Change:
        """A commit of new pre-keys, and of the credentials."""
        ids = tuple(range(self._next_pre_key, self._next_pre_key + number))
        self._next_pre_key += number
        self._stock += ids
        self._next += 1
        return Change(put_pre_keys=ids, credentials=self._next)

    def need_stock(self, number: int) -> None:
        """Store pre-keys, not measured, if there are fewer than ``number``."""
        if len(self._stock) < number:
            self.peer.commits([self.pre_keys(max(number, REFILL))])
            self.peer.rest()

    def drop_stock(self) -> None:
        """Delete all pre-keys, not measured, so that the device keeps its size."""
        if self._stock:
            self.peer.commits([Change(drop_pre_keys=tuple(self._stock))])
            self._stock = []
            self.peer.rest()

    def warm(self, limit: int = WARM_BYTES) -> None:
        """Write until a log has its final size: while it grows every commit is slower."""
        number = min(self.peer.size, _WARM_SESSIONS)
        rounds = limit // (number * _RECORD_BYTES) + 1 if self.peer.has_log else 0
        for _ in range(rounds):
            self.peer.commits([self.sessions(number)])
        self.peer.rest()
        self.peer.commits([self.session() for _ in range(_WARM_SINGLES)])
        self.peer.rest()


Turn = Callable[[Contender], Sequence[int]]
"""What one contender does when it is its turn: nanoseconds of each time."""


def rounds(contenders: Sequence[Contender], budget: float, fewest: int) -> Iterator[Contender]:
    """Whose turn it is, until each has used an equal share of ``budget`` seconds and has had
    ``fewest`` turns.

    Next is who has come least far with both, so that everybody's turns are spread over the whole
    time: a slow peer has few, a quick one many between them.
    """
    order = random.Random(1)
    for each in contenders:
        each.fresh()
    share = budget / len(contenders)
    while True:
        least = min(each.progress(share, fewest) for each in contenders)
        if least >= 1:
            return
        behind = [each for each in contenders if each.progress(share, fewest) == least]
        each = order.choice(behind)
        start = time.monotonic()
        yield each
        each.spent += time.monotonic() - start
        each.turns += 1


def take_turns(
    contenders: Sequence[Contender],
    turn: Turn,
    *,
    budget: float,
    fewest: int,
) -> dict[tuple[str, int], Spread]:
    """Run ``turn`` for one contender after the other; the spread of each one's times."""
    for each in rounds(contenders, budget, fewest):
        each.times += turn(each)
    return {each.key: Spread.of(each.times, each.firsts) for each in contenders}


def committing(make: Callable[[Contender], Change]) -> Turn:
    """A turn of small commits that ``make`` gives, the first of which are not counted."""

    def turn(contender: Contender) -> Sequence[int]:
        times = contender.peer.commits([make(contender) for _ in range(turn_length(contender))])
        contender.peer.rest()
        contender.firsts.append(times[0])
        return times[LEAD:]

    return turn


def turn_length(contender: Contender) -> int:
    """How many commits a turn of small ones has; more where a turn ends with waiting."""
    return LEAD + COUNTED * contender.peer.longer_turns


def committing_one(make: Callable[[Contender], Change]) -> Turn:
    """A turn of one large commit that ``make`` gives."""

    def turn(contender: Contender) -> Sequence[int]:
        times = contender.peer.commits([make(contender)])
        contender.peer.rest()
        return times

    return turn


def say(text: str) -> None:
    """Progress, on standard error."""
    sys.stderr.write(f"{time.monotonic() - _START:6.1f} s  {text}\n")
    sys.stderr.flush()


Results = Mapping[tuple[str, int], Spread]
