"""Which pre-key ids a device that is put back may give out.

An id that two lives of one device give out stands for two keys: whoever took the one from the
server writes a first message that the other cannot read. What a life gave out after the state that
is put back is not known, so that the new one begins far ahead, at a random place.

**How far.** :data:`AFTER` ids (1,048,576) are left to the life after each known counter. A client
makes an id for each session that a contact begins, and one for each message that it asks for again;
1,000 a day use them up in 1,048 days, 10,000 a day in 104.

**How random.** Another restore of the same backup, of which the target tells nothing, drew from the
same :data:`WINDOW` of 4,194,304 places. Two lives of L ids each share one with a probability of at
most ``(2 L - 1) / WINDOW``: 0.048 % for 1,000 ids each, 0.0048 % for 100. Of ten restores of one
backup, each of them used for 100 ids, any two share one with 0.22 % at most (45 pairs). What is
shared then is a number and never a key: keys are random. It costs the contact who still holds the
older key a message that is asked for again.

**Where it ends.** An id has 24 bits. Clients that count on without beginning again (Baileys, waeys,
pyaileys) would send 16,777,216 as 0, so that no restore begins in the last quarter, which leaves
4,194,302 ids to it or more. Where the way ahead is too short, which is after the second restore in
a row at the earliest, the place is drawn anew from the first three quarters: at least ``AFTER`` ids
ahead of every known one and as many before the next. What lives before this one gave out is
hit as in the window: with at most ``(2 L - 1)`` in as many as there are such places, for each.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable
from itertools import pairwise

from ratchetkeep.prekeys import MAX_PRE_KEY_ID

__all__ = ["AFTER", "LAST_START", "WINDOW", "cold_start"]

AFTER = 2**20
"""Ids that a life may have given out after its last known counter."""

WINDOW = 2**22
"""Places that the new counter is drawn from."""

LAST_START = MAX_PRE_KEY_ID - 2**22
"""No restore begins behind it."""


def cold_start(known: Collection[int]) -> int:
    """The first id that a device which is put back may give out.

    :param known: ids that were given out, and counters; any numbers, of which 24 bits count.
    """
    marks = sorted({(id - 1) % MAX_PRE_KEY_ID + 1 for id in known}) or [1]
    first = marks[-1] + AFTER
    if first + WINDOW - 1 <= LAST_START:
        return first + secrets.randbelow(WINDOW)
    return _drawn(_free(marks)) or _middle_of_largest_gap(marks)


def _free(marks: Iterable[int]) -> list[tuple[int, int]]:
    """Runs of places (first, last) with ``AFTER`` ids between them and any mark."""
    # Each mark once more on both sides, since the ids are a circle.
    around = sorted(mark + turn for mark in marks for turn in (-MAX_PRE_KEY_ID, 0, MAX_PRE_KEY_ID))
    runs = []
    for behind, ahead in pairwise(around):
        first, last = max(behind + AFTER, AFTER + 1), min(ahead - AFTER, LAST_START)
        if first <= last:
            runs.append((first, last))
    return runs


def _drawn(runs: list[tuple[int, int]]) -> int | None:
    """One of the places in the runs, each as likely as the others."""
    places = sum(last - first + 1 for first, last in runs)
    if not places:
        return None
    place = secrets.randbelow(places)
    for first, last in runs:
        if place <= last - first:
            return first + place
        place -= last - first + 1
    raise AssertionError  # pragma: no cover - it is less than their sum


def _middle_of_largest_gap(marks: list[int]) -> int:
    """The best place where ids are strewn over the whole circle, as no client does it."""
    around = [*marks, marks[0] + MAX_PRE_KEY_ID]
    behind, ahead = max(pairwise(around), key=lambda gap: gap[1] - gap[0])
    return ((behind + ahead) // 2 - 1) % MAX_PRE_KEY_ID + 1
