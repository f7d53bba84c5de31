"""What happens to a worker, and when: it is chosen at random, and may be at any step."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from .probe import POINTS, STORE_POINTS

Fault = Literal["kill", "pause", "steal", "restart"]
KILL: Fault = "kill"
"""SIGKILL."""
PAUSE: Fault = "pause"
"""SIGSTOP, until another worker has taken the device over, and then SIGCONT."""
STEAL: Fault = "steal"
"""Another worker takes the device while this one goes on."""
RESTART: Fault = "restart"
"""The database ends and starts again while all workers go on."""

EVENTS = ("task", "sent", "upload", "receive", "ack")


@dataclass
class Moment:
    """When a fault comes: so many events of a name after the start of the process, and so many
    seconds later; or at a point that it reaches by itself. ``limit`` seconds after its greeting it
    comes anyway."""

    fault: Fault
    event: str
    events: int
    seconds: float
    limit: float
    points: dict[str, int] = field(default_factory=dict)


def a_fault(rng: random.Random, left: Mapping[Fault, int]) -> Fault | None:
    """One of those that are still to come; None after the last."""
    to_come = {fault: count for fault, count in left.items() if count > 0}
    if not to_come:
        return None
    return rng.choices(list(to_come), list(to_come.values()))[0]


def a_moment(
    rng: random.Random,
    fault: Fault,
    *,
    slowness: float = 1.0,
    lease: float = 0.0,
    places: Sequence[str] = (),
) -> Moment:
    """When a fault comes: while the process starts, at a point, at an event, or some time after it.

    :param lease: that of the store, for which a new worker has to wait.
    :param places: the points to choose from, and nothing but a point then.
    """
    limit = 1.0 * slowness
    turn = rng.random()
    is_at_point = fault in (KILL, PAUSE)
    if is_at_point and (places or 0.15 < turn < (0.45 if fault == KILL else 0.7)):
        # A commit is the moment that matters most to whoever is to be kept from committing.
        points = places or POINTS + STORE_POINTS * (3 if lease else 0)
        return Moment(fault, "never", 0, 0.0, limit, {rng.choice(points): rng.choice([0, 0, 1, 3])})
    if fault == KILL and turn < 0.15:
        return Moment(fault, "start", 0, rng.uniform(0.0, 0.06 + lease), limit)
    if turn < 0.65:
        return Moment(fault, rng.choice(EVENTS), rng.randint(1, 5), 0.0, limit)
    return Moment(fault, "any", rng.randint(1, 20), rng.uniform(0.0, 0.15) * slowness, limit)
