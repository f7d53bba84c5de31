"""Commits of sealed devices: how their rows are spelled, and what the device holds afterwards.

What it holds is a sum over the last bytes (tags) of its rows. A commit changes the sum by the rows
that it replaces, so it has to know their tags: they are remembered for the rows that were read or
written lately, and else asked for just before.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from uuid import UUID

from ratchetkeep.errors import DecodeError, StoreDamaged, UnsupportedVersion
from ratchetkeep.model import Key
from ratchetkeep.sealing.cipher import TAG, Cipher, Sealed, State

from . import _postgres_rows as rows
from ._postgres_driver import Connection
from ._postgres_keys import Keys
from ._postgres_leases import Held
from .base import Finding, counted

__all__ = ["ABSENT", "Spelled", "Tags", "compared", "key_of", "opened", "spell", "spelled"]

ABSENT = b""
"""The tag of a row that is not there."""

# Rows of all devices of a process whose tags are remembered: some 20 MB.
REMEMBERED = 65_536

Changes = Mapping[Key, bytes | None]


class Spelled(NamedTuple):
    """One commit as its rows hold it, for as long as it takes to store it.

    :ivar changes: as in :class:`ratchetkeep.stores._postgres_rows.Write`.
    :ivar state: what the device holds afterwards.
    :ivar sealed: the same, sealed.
    """

    changes: Changes
    state: State
    sealed: bytes


class Tags:
    """The tags of rows, as far as they are known. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tags: OrderedDict[tuple[int, Key], bytes] = OrderedDict()

    def known(self, held: Held, keys: Iterable[Key]) -> dict[Key, bytes]:
        """Those that are known of these rows."""
        found = {}
        with self._lock:
            for key in keys:
                tag = self._tags.get((held.number, key))
                if tag is not None:
                    found[key] = tag
                    self._tags.move_to_end((held.number, key))
        return found

    def learn(
        self, held: Held, commits: int, asked: Iterable[Key], found: Mapping[Key, bytes]
    ) -> None:
        """Remember the rows that a read has asked for and found, which began when the device had so
        many commits. If there were others since, it may be old."""
        with self._lock:
            if held.commits == commits:
                for row in asked:
                    self._tags.setdefault((held.number, row), found.get(row, ABSENT)[-TAG:])
                self._forget()

    def landed(self, held: Held, spelled: Spelled) -> None:
        """A commit is stored: the device holds what comes of it."""
        with self._lock:
            held.commits, held.state = spelled.state.commits, spelled.state
            for key, data in spelled.changes.items():
                self._tags[held.number, key] = ABSENT if data is None else data[-TAG:]
                self._tags.move_to_end((held.number, key))
            self._forget()

    def _forget(self) -> None:
        while len(self._tags) > REMEMBERED:
            self._tags.popitem(last=False)


def spell(
    connection: Connection, tags: Tags, work: Iterable[tuple[Held, Changes]]
) -> dict[UUID, Spelled]:
    """What the commits of sealed devices are to store. Asks for the tags that are not known, of all
    of them in one statement."""
    begun = [
        (held, held.cipher, _by_row(held.cipher, changes))
        for held, changes in work
        if isinstance(held.cipher, Sealed)
    ]
    before = {held.id: tags.known(held, by_row) for held, _, by_row in begun}
    wanted = [
        (held.id, row) for held, _, by_row in begun for row in by_row.keys() - before[held.id]
    ]
    if wanted:
        asked = rows.tags(connection, wanted)
        for id, row in wanted:
            before[id][row] = asked.get((id, row), ABSENT)
    return {
        held.id: _spelled(held, cipher, by_row, before[held.id]) for held, cipher, by_row in begun
    }


def spelled(cipher: Cipher, keys: Iterable[Key]) -> dict[Key, Key]:
    """Keys by the family and id that their rows have."""
    return {Key(key.family, cipher.row_id(key)): key for key in keys}


def _by_row(cipher: Cipher, changes: Changes) -> dict[Key, tuple[Key, bytes | None]]:
    """Changes by the family and id that their rows have."""
    return {Key(key.family, cipher.row_id(key)): (key, data) for key, data in changes.items()}


def _spelled(
    held: Held,
    cipher: Sealed,
    by_row: Mapping[Key, tuple[Key, bytes | None]],
    before: Mapping[Key, bytes],
) -> Spelled:
    written = {
        row: None if data is None else cipher.seal(key, data) for row, (key, data) in by_row.items()
    }
    gone = [cipher.hash_of(*row, tag) for row, tag in before.items() if tag]
    new = [cipher.hash_of(*row, data) for row, data in written.items() if data is not None]
    state = held.state.after(gone, new)
    state = state._replace(commits=state.commits + 1)
    return Spelled(written, state, cipher.seal_state(state))


def opened(cipher: Cipher, key: Key, data: bytes, place: str) -> bytes:
    """A record's bytes, from those of its row.

    :param place: where the record lives, for errors.
    :raises StoreDamaged: if they are not what was sealed there.
    :raises UnsupportedVersion: if a newer version sealed them.
    """
    try:
        return cipher.open(key, data)
    except DecodeError as error:
        raise StoreDamaged(place, error.what) from None
    except UnsupportedVersion as error:
        raise UnsupportedVersion(place, error.what) from None


def key_of(cipher: Cipher, row: Key, place: str) -> Key:
    """The record that a row is of; raises StoreDamaged if it was not sealed for this device."""
    try:
        return cipher.key_of(*row)
    except DecodeError as error:
        raise StoreDamaged(f"{place} (a row of {row.family})", error.what) from None


def compared(
    connection: Connection, keys: Keys, held: Held, owner: UUID | None
) -> list[Finding] | None:
    """Whether the rows of a sealed device are those of its last commit, all and no others. None if
    the device is not that owner's."""
    cipher = held.cipher
    if not isinstance(cipher, Sealed):
        return []
    total, sealed = None, None
    for commits, state, family, id, tag in rows.all_tags(connection, held.id, owner):
        if total is None:
            total, sealed = State(commits=commits), state
        if family is not None:
            total = total.after((), [cipher.hash_of(family, id, tag)])
    if total is None:
        return None
    told = keys.state_of(cipher, held.name, sealed)
    if told == total:
        return []
    what = (
        f"its {counted(total.rows, 'record')} are not the {told.rows} of its last commit: some "
        "were removed, put back from an older state, or put in from outside"
    )
    remedy = "Restore it from a backup, or bring it to a new store and `ratchetkeep cool` it there"
    return [Finding("error", f"{keys.url} (device {held.name!r})", what, remedy)]
