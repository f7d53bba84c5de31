"""The workers of each device, one after the other and sometimes two at a time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from .course import Task

START = "start"


@dataclass(eq=False)
class Life:
    """A worker as the server knows it.

    :ivar busy: what it does by itself now, by the time when it began: its start, or a connection
        that was answered and has not asked again.
    :ivar lanes: its connections.
    :ivar task: what it was last told to send, and is (still) doing if ``is_at_work``; in session
        number ``session``.
    :ivar may_sleep: whether someone will wake it if it falls asleep at a point.
    :ivar replaced: set when a newer worker has greeted.
    :ivar ends: how its lanes ended, if it said so.
    :ivar seen: what its store did, if it said so.
    """

    device: str
    number: int
    busy: dict[object, float] = field(default_factory=dict)
    lanes: set[asyncio.Task[None]] = field(default_factory=set)
    task: Task = field(default_factory=dict)
    session: int = 0
    is_at_work: bool = False
    has_greeted: bool = False
    may_sleep: bool = False
    is_asleep: bool = False
    is_dead: bool = False
    replaced: asyncio.Event = field(default_factory=asyncio.Event)
    ends: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    def sleep(self) -> None:
        """Its process does nothing from now on."""
        self.may_sleep = False
        self.is_asleep = True

    def wake(self) -> None:
        """Its process goes on."""
        self.is_asleep = False
        self.busy = dict.fromkeys(self.busy, time.monotonic())

    def hangs(self, patience: float) -> bool:
        """Whether it does one thing for so many seconds."""
        limit = time.monotonic() - patience
        return not self.is_asleep and min(self.busy.values(), default=limit) < limit


class Lives:
    """All workers that were started and are not gone."""

    def __init__(self) -> None:
        self._lives: dict[tuple[str, int], Life] = {}
        self._started = 0

    def __iter__(self) -> Iterator[Life]:
        return iter(list(self._lives.values()))

    def begin(self, device: str) -> Life:
        """A worker is started: it must come here."""
        self._started += 1
        life = Life(device, self._started)
        life.busy[START] = time.monotonic()
        self._lives[device, life.number] = life
        return life

    def of(self, device: str, life: int) -> Life:
        """The worker that has said so."""
        return self._lives[device, life]

    def greeted(self, life: Life) -> list[Life]:
        """A worker has greeted: gives those that it replaces."""
        life.has_greeted = True
        former = [each for each in self if each.device == life.device and each.number < life.number]
        for each in former:
            each.replaced.set()
        return former

    def forget(self, life: Life) -> None:
        """A worker is dead, and all that it sent was read."""
        life.busy.clear()
        self._lives.pop((life.device, life.number), None)
