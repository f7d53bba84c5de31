"""One thing that was to be reached, and how sure a figure is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .measure import Spread

P99_JUDGED = 300
"""Times that a 99th percentile is judged from at least: the three longest are above it."""


@dataclass(frozen=True)
class Target:
    """One row.

    :ivar what: the target in words.
    :ivar limit: the bound.
    :ivar at_least: True if the bound is a lower one.
    :ivar reached: the figure of this run; None if it measured too little to judge.
    :ivar unit: what is written behind both.
    :ivar workload: what to profile if it is missed, on the store of ``peer`` with ``size`` sessions
        (0: as many as in the table).
    :ivar unexplained: why there is no profile, as a sentence.
    """

    what: str
    limit: float
    reached: float | None
    unit: str = "x"
    at_least: bool = False
    workload: str = ""
    peer: str = ""
    size: int = 0
    unexplained: str = ""

    @property
    def kind(self) -> str:
        """The store, as it is called where one is profiled."""
        return self.peer.removeprefix("ratchetkeep ").removesuffix(":").replace(":, ", "-")

    @property
    def profile(self) -> str:
        """The title of its profile, or ""."""
        with_size = f" with {self.size:,} sessions" if self.size else ""
        return f"{self.workload} on {self.kind}{with_size}" if self.workload else ""

    @property
    def is_missed(self) -> bool:
        """Whether there is a figure, and it is outside the bound."""
        return self.is_met is False

    @property
    def is_met(self) -> bool | None:
        """Whether the figure is within the bound; None without one."""
        if self.reached is None:
            return None
        if self.at_least:
            return self.reached >= self.limit
        return self.reached <= self.limit


def _doubt(spread: Spread) -> float:
    """By what a median may be off either way, in 95 of 100 cases: the notch of a box plot."""
    half = 1.57 * (spread.high - spread.low) / math.sqrt(spread.count)
    return min(half, 0.9 * spread.p50)  # of a few times it can be anything, but is positive


def in_range(over: Spread, under: Spread) -> tuple[float, float]:
    """What the ratio of two medians may be."""
    more, less = _doubt(over), _doubt(under)
    return (over.p50 - more) / (under.p50 + less), (over.p50 + more) / (under.p50 - less)


def noise(over: Spread, under: Spread, bound: float) -> str:
    """What the ratio of two medians may be, as a sentence."""
    low, high = in_range(over, under)
    is_open = "includes" if low <= bound <= high else "does not include"
    return (
        f"As exact as both medians are, it is {low:.2f} to {high:.2f}, which {is_open} the bound"
        f"{': the miss is within the noise' if is_open == 'includes' else ''}."
    )


def p99_ratio(over: Spread, under: Spread) -> float | None:
    """One 99th percentile over another; None if either is of too few times to judge by."""
    if over.p99 is None or under.p99 is None or min(over.count, under.count) < P99_JUDGED:
        return None
    return over.p99 / under.p99
