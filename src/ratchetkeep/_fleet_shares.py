"""How the workers of a fleet share its devices, decided by each of them for itself, poll by poll.

A fair share is found as water finds its level: all get the same, but none more than its capacity.
What a device costs when it moves is its connection, so nothing moves without need: shares are
rounded up, a tenth is moved at a time, and no more before others have taken that.
"""

from __future__ import annotations

from collections.abc import Sequence

from ratchetkeep.stores._postgres_claims import Survey

__all__ = ["BATCH", "PATIENCE", "Balance", "level"]

# How many devices a worker claims at a time: of those that start together each gets some.
BATCH = 100
# After so many polls in which devices that others should take were left, this worker takes them.
PATIENCE = 3
# And it gives nothing back for that many polls then; twice as many each time, but no more.
MOST_REST = 64


def level(capacities: Sequence[int], total: int) -> int:
    """How many of ``total`` devices each worker should have, if its capacity is not less."""
    left = total
    for position, capacity in enumerate(sorted(capacities)):
        # Rounded up: one more than is fair is nobody's excess.
        share = -(-left // (len(capacities) - position))
        if capacity >= share:
            return share
        left -= capacity
    return max(capacities)


class Balance:
    """What one worker does about its share.

    :param capacity: how many devices it takes.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        # Devices that were free at the last poll, and for how many polls nobody has taken any.
        self._free = 0
        self._waited = 0
        # Whether devices were given back, and not taken back since.
        self._has_given = False
        # For how many polls nothing is given back, and for how many it will be the next time.
        self._rest = 0
        self._next_rest = PATIENCE

    def decide(self, held: int, resting: int, is_giving: bool, seen: Survey) -> int:
        """How many devices to claim; or, if negative, to give back.

        :param held: how many it has.
        :param resting: how many it leaves alone for a while: each keeps its place.
        :param is_giving: whether some of those it has are about to be given back.
        """
        self._note(seen.free)
        total = held + sum(each.held for each in seen.others) + seen.free
        each = level([self._capacity, *(other.capacity for other in seen.others)], total)
        lacking = min(self._capacity, each) - held - resting
        if lacking > 0:
            return min(lacking, seen.free, BATCH)
        room = self._capacity - held - resting
        if self._waited >= PATIENCE and room > 0:
            return min(room, seen.free, BATCH)
        excess = held - min(self._capacity, each)
        others_lack = any(other.held < min(other.capacity, each) for other in seen.others)
        if excess > 0 and others_lack and not (seen.free or is_giving):
            return -self._given(min(excess, max(1, held // 10)))
        return 0

    def claimed(self, count: int) -> None:
        """So many of those that were to be claimed are this worker's now."""
        self._free -= count
        if count and self._waited >= PATIENCE:
            # Others do not take what they lack, as far as can be seen. To give it back again soon
            # would only interrupt its service.
            self._has_given = False
            self._rest = self._next_rest
            self._next_rest = min(2 * self._next_rest, MOST_REST)

    def _given(self, count: int) -> int:
        if self._rest:
            self._rest -= 1
            return 0
        if self._has_given:  # and others have taken it
            self._next_rest = PATIENCE
        self._has_given = True
        return count

    def _note(self, free: int) -> None:
        self._waited = self._waited + 1 if 0 < self._free <= free else 0
        self._free = free
