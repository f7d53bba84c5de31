"""Where a device can live, and which messages can be read after which move.

What is said here is no opinion: ``test_moves.py`` makes every move with the real libraries, and
fails if a message can be read that should not be as well as if one cannot that should be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from .scenario import (
    CLOSED,
    END_OF_OLDER_CHAIN,
    GROUP_LID,
    IN_OLDER_CHAIN,
    IN_OPEN_CHAIN,
    OF_LID,
    WITH_LID,
)

NODE, LIBSIGNAL = "node", "libsignal"

SKIPPED = {IN_OPEN_CHAIN: 2, IN_OLDER_CHAIN: 1, OF_LID: 1}
"""Steps that read messages whose keys were put aside in a session, and how many keys that is."""

OF_LIDS = {OF_LID, WITH_LID, GROUP_LID}
"""Steps with LIDs that nothing but the session itself tells of."""


@dataclass(frozen=True)
class Place:
    """A store, and the library that uses it.

    :ivar library: its name, as the documentation has it.
    :ivar kind: the kind of store in the URL.
    :ivar options: what ``copy_device`` must be told if this is the target.
    :ivar spelling: of sessions: libsignal's keys of skipped messages cannot become the other one's.
    :ivar fills: at the end of a chain its messages that were not read are put aside, too.
    :ivar keeps_closed: a session that was replaced is kept, and still reads late messages.
    :ivar says_lids: it keeps who is a LID; else that is known of those alone who are named as LIDs
        elsewhere: here the device itself, in its credentials.
    :ivar back: where no engine of the library runs here: the places to which a second copy brings
        the device, for another library to go on.
    """

    name: str
    library: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    spelling: str = NODE
    fills: bool = True
    keeps_closed: bool = True
    says_lids: bool = True
    back: tuple[str, ...] = ()

    def url(self, path: Path) -> str:
        """The URL of a device at a path."""
        return f"{self.kind}:{path}"


def _pyaileys(name: str, kind: str, **options: Any) -> Place:
    return Place(
        name, "pyaileys", kind, options, spelling=LIBSIGNAL, fills=False, keeps_closed=False
    )


PLACES: dict[str, Place] = {
    place.name: place
    for place in (
        Place("baileys 7", "Baileys 7", "baileys"),
        Place("baileys 6", "Baileys 6", "baileys6", says_lids=False),
        _pyaileys("pyaileys", "pyaileys"),
        _pyaileys("pyaileys over sqlite", "sqlite", client="pyaileys"),
        Place("waeys over baileys", "waeys", "baileys"),
        Place("waeys over sqlite", "waeys", "sqlite", {"client": "waeys"}),
        Place("baileysex", "BaileysEx", "baileysex", back=("baileys 7",)),
        Place("baileysex-json", "BaileysEx", "baileysex-json", back=("baileys 7",)),
        Place(
            "whatsmeow",
            "whatsmeow",
            "whatsmeow",
            spelling=LIBSIGNAL,
            back=("pyaileys", "baileys 7"),
        ),
    )
}


def hops(source: Place, target: Place) -> list[list[Place]]:
    """The ways of a device from a source through a target to a library that goes on with it."""
    if not target.back:
        return [[source, target]]
    return [[source, target, PLACES[name]] for name in target.back]


def keys_lost(way: list[Place]) -> list[int]:
    """How many keys of skipped messages each copy on the way loses."""
    lost = []
    here = sum(SKIPPED.values()) + (1 if way[0].fills else 0)
    for before, after in pairwise(way):
        is_loss = before.spelling == LIBSIGNAL and after.spelling == NODE
        lost.append(here if is_loss else 0)
        here -= lost[-1]
    return lost


def unread(way: list[Place]) -> set[str]:
    """The steps of the scenario that fail on this way."""
    failed: set[str] = set()
    if any(keys_lost(way)):
        failed |= SKIPPED.keys()
        if way[0].fills:
            failed.add(END_OF_OLDER_CHAIN)
    if not all(place.keeps_closed for place in way):
        failed.add(CLOSED)
    if any(after.says_lids and not before.says_lids for before, after in pairwise(way)):
        failed |= OF_LIDS
    return failed


def proven() -> dict[tuple[str, str], frozenset[str]]:
    """What cannot be read after a move, by the names of both libraries; empty if all can be.

    Of a target that no engine here goes on with: what no library reads after one more copy.
    """
    table: dict[tuple[str, str], frozenset[str]] = {}
    for source in PLACES.values():
        for target in PLACES.values():
            failed = [unread(way) for way in hops(source, target)]
            pair = (source.library, target.library)
            table[pair] = table.get(pair, frozenset()) | frozenset(_in_all(failed))
    return table


def _in_all(found: Iterable[set[str]]) -> set[str]:
    return set.intersection(*found)
