"""The rows of an SQLite file of ours: devices and records, as they are or sealed."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import apsw

from ratchetkeep.errors import DecodeError, StoreDamaged, UnsupportedVersion
from ratchetkeep.model import Key
from ratchetkeep.sealing.cipher import MODULUS, PLAIN, TAG, Cipher, Sealed, State
from ratchetkeep.sealing.keys import SealKey
from ratchetkeep.sealing.opening import open_ring
from ratchetkeep.sealing.ring import Vault

from ._moved import Moved, moved_of, to_milliseconds
from .base import Finding, History, where

__all__ = [
    "DeviceRow",
    "View",
    "absent",
    "add_device",
    "clear_device",
    "hash_of_mark",
    "history_of",
    "mark_of",
    "settle",
    "write_moved",
    "write_rows",
]

# The schemas that have a place for where a device was moved to, and for what it is sealed with.
MARKS, SEALS = 2, 3

_PUT = (
    "INSERT INTO records (device, family, id, data) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (device, family, id) DO UPDATE SET data = excluded.data"
)
_DROP = "DELETE FROM records WHERE device = ? AND family = ? AND id = ?"
_GET = "SELECT id, data FROM records WHERE device = ? AND family = ? AND id = ?"
_WHICH = "WHERE device = ? AND family = ? AND id IN (SELECT value FROM json_each(?))"
# One statement for many ids: a record costs half of what it does by itself.
_GET_MANY = f"SELECT id, data FROM records {_WHICH}"
_TAG = f"SELECT id, substr(data, -{TAG}) FROM records WHERE device = ? AND family = ? AND id = ?"
_TAGS = f"SELECT id, substr(data, -{TAG}) FROM records {_WHICH}"
_ALL_TAGS = f"SELECT family, id, substr(data, -{TAG}) FROM records WHERE device = ?"
# Rows whose part in the state is remembered, of all devices of a file: some 12 MB.
KNOWN = 65_536

# Rows in the order of the unique key, a portion at a time.
_GET_AFTER = (
    "SELECT family, id, data FROM records WHERE device = ? AND (family, id) > (?, ?) "
    "ORDER BY family, id LIMIT 256"
)
# Records of no device. The devices of the records are found one by one, in the index.
_LOST = (
    "WITH RECURSIVE held (device) AS (SELECT min(device) FROM records UNION ALL SELECT "
    "(SELECT min(device) FROM records WHERE device > held.device) FROM held "
    "WHERE held.device IS NOT NULL) "
    "SELECT 1 FROM held WHERE device IS NOT NULL AND device NOT IN (SELECT id FROM devices)"
)
_FIND = "SELECT id, hex(history), commits, generation, state FROM devices WHERE name = ?"
_ADD = "INSERT INTO devices (name, created, history, generation) VALUES (?, ?, ?, ?)"
_SETTLE = "UPDATE devices SET commits = ?, state = ? WHERE id = ?"
_MARK = "SELECT moved_to, moved_at FROM devices WHERE id = ?"
_COUNT = "SELECT count(*) FROM records WHERE device = ?"


Mark = tuple[str | None, int | None]


class DeviceRow(NamedTuple):
    """A device that is there.

    :ivar number: its row.
    :ivar cipher: how its records are spelled.
    :ivar state: what it holds; of a plain one the number of commits alone.
    :ivar known: what rows add to the state, by their ids, which are those of one device alone: of
        all devices of the file, those that were committed last. It saves most commits a look.
    """

    name: str
    number: int
    history: str
    cipher: Cipher
    state: State
    known: dict[str, int] = {}


class View:
    """What a connection sees of a file, with the keys that open it.

    :param key: what opens the file if it is sealed; see :func:`open_ring`, whose errors it raises.
    """

    def __init__(
        self, connection: apsw.Connection, url: str, key: str | bytes | SealKey | None
    ) -> None:
        self.connection = connection
        self.url = url
        self.version = int(connection.pragma("user_version"))
        self.known: dict[str, int] = {}
        self.ring = self._ring()
        self.vault = open_ring(self.ring, key, url)

    def _ring(self) -> bytes | None:
        if self.version < SEALS:
            return None
        row = self.connection.execute("SELECT data FROM ring WHERE id = 1").fetchone()
        if row is not None and not isinstance(row[0], bytes):
            raise StoreDamaged(self.url, "its ring of keys is not what was written")
        return None if row is None else row[0]

    def renew(self, ring: bytes | None, vault: Vault) -> None:
        """The file has other data keys now."""
        self.ring, self.vault = ring, vault

    def check_key(self, key: str | bytes | SealKey | None) -> None:
        """Refuse whoever could not have opened the file; raises as :func:`open_ring`."""
        open_ring(self.ring, key, self.url)

    # -- devices

    def find(self, device: str) -> DeviceRow | None:
        """A device; None if it is not there.

        :raises StoreDamaged: if what it holds was changed by something else than its commits.
        """
        if self.version < SEALS:
            row = self.connection.execute("SELECT id FROM devices WHERE name = ?", (device,))
            number = row.fetchone()
            return None if number is None else DeviceRow(device, number[0], "", PLAIN, State())
        asked = (self.connection.execute(_FIND, (each,)) for each in self.vault.spellings(device))
        found: list[Any] = [one for each in asked if (one := each.fetchone()) is not None]
        if len(found) > 1:
            raise self._changed(device, "is there twice, sealed in two ways")
        return self._device(device, *found[0]) if found else None

    def _device(
        self, name: str, number: int, history: str, commits: int, generation: int, sealed: bytes
    ) -> DeviceRow:
        # SQLite gives what its pages say, whatever the columns were made for.
        if not _are((number, int), (history, str), (commits, int), (generation, int)):
            raise self._changed(name, "its row is not what was written")
        cipher = self.vault.cipher(generation, name, history.lower())
        state = State(commits=commits)
        if isinstance(cipher, Sealed):
            state = self._state(cipher, name, sealed)
            if state.commits != commits:
                raise self._changed(name, "its number of commits is not what was sealed")
        return DeviceRow(name, number, history.lower(), cipher, state, self.known)

    def _state(self, cipher: Sealed, name: str, sealed: bytes | None) -> State:
        try:
            return cipher.open_state(sealed if isinstance(sealed, bytes) else b"")
        except DecodeError as error:
            raise self._changed(name, f"the sum of its records {error.what}") from None
        except UnsupportedVersion as error:
            raise UnsupportedVersion(self.url, error.what) from None

    def _changed(self, name: str, what: str) -> StoreDamaged:
        return StoreDamaged(f"{self.url} (device {name!r})", what)

    def names(self) -> dict[int, str]:
        """The names of all devices by their rows."""
        if self.version < SEALS:
            return dict(self.connection.execute("SELECT id, name FROM devices"))
        rows = self.connection.execute("SELECT id, generation, name FROM devices")
        return {number: self.vault.open_name(which, str(name)) for number, which, name in rows}

    def ciphers(self) -> dict[int, Cipher]:
        """How the records of all devices are spelled, by their rows; no index is used."""
        if self.version < SEALS:
            rows = self.connection.execute("SELECT id FROM devices NOT INDEXED")
            return {number: PLAIN for (number,) in rows}
        statement = "SELECT id, generation, name, hex(history) FROM devices NOT INDEXED"
        found = {}
        listed: list[Any] = self.connection.execute(statement).fetchall()
        for number, generation, text, history in listed:
            name = self.vault.open_name(generation, text)
            found[number] = self.vault.cipher(generation, name, history.lower())
        return found

    def moved(self, device: str) -> Moved | None:
        """Where a device was moved to, if it was."""
        found = self.find(device) if self.version >= MARKS else None
        if found is None:
            return None  # not there, or in a file that nobody has written to since
        to, at = mark_of(self.connection, found.number)
        if to is None and at is None:
            return None
        try:
            return moved_of(to if to is None else found.cipher.open_text(to), at, self.url)
        except DecodeError as error:
            raise self._changed(device, f"its mark {error.what}") from None

    # -- records

    def read(self, device: DeviceRow | None, keys: Iterable[Key]) -> dict[Key, bytes]:
        """The bytes of the keys that a device has."""
        if device is None:
            return {}
        found: dict[Key, bytes] = {}
        for family, ids in _by_family(device.cipher, keys).items():
            for id, data in _asked(self.connection, (_GET, _GET_MANY), device.number, family, ids):
                if id not in ids:
                    raise StoreDamaged(self.url, f"an index of {family} leads to another record")
                found[ids[id]] = self._opened(device, ids[id], data)
        return found

    def _opened(self, device: DeviceRow, key: Key, data: bytes) -> bytes:
        if not isinstance(data, bytes):
            raise StoreDamaged(where(self.url, device.name, key), "is not what was written")
        try:
            return device.cipher.open(key, data)
        except DecodeError as error:
            raise StoreDamaged(where(self.url, device.name, key), error.what) from None
        except UnsupportedVersion as error:
            raise UnsupportedVersion(where(self.url, device.name, key), error.what) from None

    def scan(self, device: DeviceRow | None, family: str | None = None) -> list[Key]:
        """The keys of a family, or all."""
        if device is None:
            return []
        only = "" if family is None else " AND family = ?"
        rows = self.connection.execute(
            f"SELECT family, id FROM records WHERE device = ?{only}",
            (device.number,) if family is None else (device.number, family),
        )
        return [self._key(device.cipher, str(of), str(id)) for of, id in rows]

    def _key(self, cipher: Cipher, family: str, row_id: str) -> Key:
        try:
            return cipher.key_of(family, row_id)
        except DecodeError as error:
            raise StoreDamaged(f"{self.url} (a row of {family})", error.what) from None

    def count(self, device: DeviceRow | None) -> int:
        """How many records a device has, with the credentials."""
        number = device.number if device else None
        return int((self.connection.execute(_COUNT, (number,)).fetchone() or (0,))[0])

    def after(
        self, device: DeviceRow | None, last: tuple[str, str]
    ) -> tuple[list[tuple[Key, bytes]], tuple[str, str]]:
        """The next records of a device in the order of their rows, after the one named; and the
        last row of them."""
        if device is None:
            return [], last
        rows: list[Any] = self.connection.execute(_GET_AFTER, (device.number, *last)).fetchall()
        found = []
        for family, id, data in rows:
            key = self._key(device.cipher, family, id)
            found.append((key, self._opened(device, key, data)))
        return found, (rows[-1][:2] if rows else last)

    def findings(self, device: DeviceRow | None) -> Iterator[Finding]:
        """Whether the rows of a sealed device are those of its last commit, all and no others."""
        if self.vault.work:
            what = f"`ratchetkeep {self.vault.work}` was begun and is not finished"
            remedy = (
                "Run it again: until then a device may be plain here, or sealed with an old key"
            )
            yield Finding("warning", self.url, what, remedy)
        if device is None or not isinstance(device.cipher, Sealed):
            return
        total = State(commits=device.state.commits)
        rows = self.connection.execute(_ALL_TAGS, (device.number,))
        hashes = (device.cipher.hash_of(*row) for row in rows)
        mark = mark_of(self.connection, device.number)
        total = total.after((), hashes).after((), hash_of_mark(device.cipher, mark))
        if total != device.state:
            place = f"{self.url} (device {device.name!r})"
            what = (
                f"its {total.rows} records are not the {device.state.rows} of its last commit: "
                "some were removed, put back from an older state, or put in from outside"
            )
            remedy = (
                "Restore it from a backup, or bring it to a new store and `ratchetkeep cool` it"
            )
            yield Finding("error", place, what, remedy)


def history_of(device: DeviceRow | None) -> History | None:
    """How far a device has come."""
    if device is None or not device.history or not device.state.commits:
        return None
    return History(device.history, device.state.commits)


def _are(*expected: tuple[object, type]) -> bool:
    return all(type(value) is kind for value, kind in expected)


def _by_family(cipher: Cipher, keys: Iterable[Key]) -> dict[str, dict[str, Key]]:
    wanted: dict[str, dict[str, Key]] = {}
    for key in keys:
        wanted.setdefault(key.family, {})[cipher.row_id(key)] = key
    return wanted


def _asked(
    connection: apsw.Connection,
    statements: tuple[str, str],
    number: int,
    family: str,
    ids: Iterable[str],
) -> apsw.Cursor:
    listed = list(ids)
    one, many = statements
    statement, what = (one, listed[0]) if len(listed) == 1 else (many, json.dumps(listed))
    return connection.execute(statement, (number, family, what))


def absent(view: View, device: str) -> bool:
    """True if there is no such device. What hides one would have new credentials minted over it: a
    damaged list raises apsw.CorruptError, and one that lost something StoreDamaged."""
    if view.find(device) is not None:
        return False
    for (found,) in view.connection.execute("PRAGMA integrity_check(devices)"):
        if found != "ok":
            raise apsw.CorruptError("the list of devices cannot be read")
    if device in view.names().values():  # each name is opened, too
        raise StoreDamaged(view.url, f"its list of devices leads nobody to {device!r}")
    if view.connection.execute(_LOST).fetchone() is not None:
        raise StoreDamaged(view.url, "holds records of a device that its list does not name")
    return True


def add_device(view: View, device: str, *, anew: bool = False) -> DeviceRow:
    """A device, which is made if it is not there.

    :param anew: begin a new history, and seal it with the current key: its records are gone.
    """
    found = view.find(device)
    if found is not None and not anew:
        return found
    vault, history = view.vault, secrets.token_hex(16)
    values = vault.seal_name(vault.current, device), bytes.fromhex(history), vault.current
    connection = view.connection
    if found is None:
        name, life, generation = values
        connection.execute(_ADD, (name, int(time.time() * 1000), life, generation))
        number = connection.last_insert_rowid()
    else:
        number = found.number
        statement = "UPDATE devices SET name = ?, history = ?, generation = ? WHERE id = ?"
        connection.execute(statement, (*values, number))
    cipher = vault.cipher(vault.current, device, history)
    row = DeviceRow(device, number, history, cipher, State(), view.known)
    settle(connection, row)
    return row


def write_moved(view: View, device: DeviceRow, moved: Moved | None) -> None:
    """Note where a device was moved to, or that it lives here."""
    connection = view.connection
    mark: Mark = (None, None)
    if moved:
        mark = (device.cipher.seal_text(moved.to), to_milliseconds(moved.at))
    if isinstance(device.cipher, Sealed):
        before = hash_of_mark(device.cipher, mark_of(connection, device.number))
        state = device.state.after(before, hash_of_mark(device.cipher, mark))
        settle(connection, device._replace(state=state))
    statement = "UPDATE devices SET moved_to = ?, moved_at = ? WHERE id = ?"
    connection.execute(statement, (*mark, device.number))


def mark_of(connection: apsw.Connection, number: int) -> Mark:
    """Where and when a device was moved, as it stands in its row."""
    found: Any = connection.execute(_MARK, (number,)).fetchone()
    return found or (None, None)


def hash_of_mark(cipher: Sealed, mark: Mark) -> list[int]:
    """What a device's mark adds to its state; nothing without one."""
    to, at = mark
    # No record has an empty family.
    return [] if to is None and at is None else [cipher.hash_of("", f"{at}", (to or "").encode())]


def write_rows(
    connection: apsw.Connection, device: DeviceRow, changes: Mapping[Key, bytes | None]
) -> DeviceRow:
    """Write one commit's changes; None deletes. Gives the device as it is then, which
    :func:`settle` writes."""
    number, cipher = device.number, device.cipher
    put: list[tuple[int, str, str, bytes]] = []
    drop: list[tuple[int, str, str]] = []
    for key, data in changes.items():
        row = (number, key.family, cipher.row_id(key))
        if data is None:
            drop.append(row)
        else:
            put.append((*row, cipher.seal(key, data)))
    total, rows, commits = device.state
    if isinstance(cipher, Sealed):
        gone = _hashes(connection, device, cipher, [*put, *drop])
        new = {id: cipher.hash_of(family, id, data) for _, family, id, data in put}
        total, rows = total + sum(new.values()) - sum(gone), rows + len(new) - len(gone)
        _remember(device.known, new, drop)
    state = State(total % MODULUS, rows, commits + 1)
    if put:
        connection.executemany(_PUT, put)
    if drop:
        connection.executemany(_DROP, drop)
    return device._replace(state=state)


def _hashes(
    connection: apsw.Connection, device: DeviceRow, cipher: Sealed, changed: Iterable[Any]
) -> list[int]:
    """What the rows that are about to change add to the state now."""
    hashes: list[int] = []
    unknown: dict[str, list[str]] = {}
    for row in changed:
        known = device.known.get(row[2])
        if known is None:
            unknown.setdefault(row[1], []).append(row[2])
        else:
            hashes.append(known)
    for family, ids in unknown.items():
        rows: Any = _asked(connection, (_TAG, _TAGS), device.number, family, ids)
        hashes += [cipher.hash_of(family, id, tag) for id, tag in rows]
    return hashes


def _remember(
    known: dict[str, int], new: Mapping[str, int], gone: Iterable[tuple[int, str, str]]
) -> None:
    for _, _, id in gone:
        known.pop(id, None)
    known.update(new)
    while len(known) > KNOWN:
        del known[next(iter(known))]


def settle(connection: apsw.Connection, device: DeviceRow) -> None:
    """Write what a device holds, in the transaction that changed it."""
    cipher, state = device.cipher, device.state
    sealed = cipher.seal_state(state) if isinstance(cipher, Sealed) else None
    connection.execute(_SETTLE, (state.commits, sealed, device.number))


def clear_device(
    connection: apsw.Connection, device: DeviceRow, *, and_entry: bool = False
) -> None:
    """Remove a device's records, and perhaps its own row."""
    connection.execute("DELETE FROM records WHERE device = ?", (device.number,))
    if and_entry:
        connection.execute("DELETE FROM devices WHERE id = ?", (device.number,))
