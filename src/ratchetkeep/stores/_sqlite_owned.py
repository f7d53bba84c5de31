"""An SQLite file that this process owns, for all of its devices, and the rows in it."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import apsw

from ratchetkeep.errors import (
    CommitFailed,
    OwnershipLost,
    RatchetkeepError,
    StoreClosed,
    StoreInUse,
)
from ratchetkeep.model import Key

from . import _sqlite_file as sql
from ._moved import Moved, moved_of, to_milliseconds
from ._owner import Ownership
from .base import Prepared

_PUT = (
    "INSERT INTO records (device, family, id, data) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (device, family, id) DO UPDATE SET data = excluded.data"
)
_DROP = "DELETE FROM records WHERE device = ? AND family = ? AND id = ?"
_GET = "SELECT id, data FROM records WHERE device = ? AND family = ? AND id = ?"
# One statement for many ids: a record costs half of what it does by itself.
_GET_MANY = (
    "SELECT id, data FROM records WHERE device = ? AND family = ? "
    "AND id IN (SELECT value FROM json_each(?))"
)

# Rows in the order of the unique key, a portion at a time.
_GET_AFTER = (
    "SELECT family, id, data FROM records WHERE device = ? AND (family, id) > (?, ?) "
    "ORDER BY family, id LIMIT 256"
)

# The schema that has a place for where a device was moved to.
MARKS = 2

AGAIN = "Close all devices of the file and open them again: opening shows what reached the disk"


class OwnedFile:
    """A file that this process owns: one connection for all of its devices."""

    _open: dict[str, OwnedFile] = {}
    # Held while opening; a test's VFS may open another file meanwhile.
    _guard = threading.RLock()

    def __init__(self, path: str, url: str, vfs: str | None) -> None:
        self.path = path
        self.url = url
        self.lock = threading.RLock()
        self.devices: set[str] = set()
        # Why the file takes no more, if so.
        self.failed = ""
        self._numbers: dict[str, int] = {}
        self.owner = Ownership(url, Path(path + ".lock"), Path(path + ".owner"))
        self.owner.take()
        try:
            if not sql.require_ours(path, url):
                sql.make(path)
            else:
                sql.sweep_beside(path)
            sql.require_one_name(path, url)
            self.connection = sql.connect(path, url, vfs=vfs)
            self._opened = _which(path)
        except BaseException:
            self.owner.release()
            raise

    def check(self) -> None:
        """Refuse to write where nobody would find it.

        :raises OwnershipLost: if this process is not the owner, or the file is no longer under its
            name: the log would stay behind under the old one.
        """
        self.owner.check()
        self._check_name()

    def _check_name(self) -> None:
        if _which(self.path) != self._opened:
            raise OwnershipLost(
                self.url,
                "its file was moved, removed or replaced while it was open",
                "Put it back under its old name, with its -wal file, and open it again",
            )

    @classmethod
    def forget(cls) -> None:
        """In a forked child: the files are its parent's. It must ask for them like anyone else."""
        cls._open = {}
        cls._guard = threading.RLock()

    @classmethod
    def attach(cls, path: str, url: str, device: str, vfs: str | None) -> OwnedFile:
        """Open ``device`` in the file, which is opened with the first of its devices."""
        real = os.path.realpath(path)
        with cls._guard:
            file = cls._open.get(real)
            if file is None:
                file = cls._open[real] = cls(real, url, vfs)
            if device in file.devices:
                raise StoreInUse(url, f"device {device!r} is open already in this process")
            file.devices.add(device)
            return file

    def detach(self, device: str) -> None:
        """Close ``device``; the last one closes the file."""
        with self._guard:
            self.devices.discard(device)
            self._numbers.pop(device, None)
            if self.devices or self.owner.is_forked:
                return
            self._open.pop(self.path, None)
            sql.disconnect(self.connection)
            self.owner.release()
            self._check_name()

    def device_id(self, device: str) -> int | None:
        """The row of a device, or None."""
        return device_id(self.connection, device)

    def apply(self, *batches: Prepared) -> None:
        """Make all batches durable in one transaction; see :meth:`Store.apply`."""
        with self.lock:
            for batch in batches:
                if batch.device not in self.devices:
                    raise StoreClosed(self.url, f"device {batch.device!r} is not open")
            self.check()
            if self.failed:
                what = f"an earlier commit failed ({self.failed})"
                raise CommitFailed(self.url, what, AGAIN)
            self._begin()
            try:
                numbers = self._transact(batches)
            except apsw.Error as error:
                raise self._fail(error) from None
            except BaseException as error:
                self.failed = type(error).__name__
                raise
            self._numbers.update(numbers)

    def _begin(self) -> None:
        try:
            self.connection.execute("BEGIN IMMEDIATE")
        except apsw.BusyError:
            what = "another program has been writing to the file for a while"
            remedy = "Nothing was changed. End that program's transaction, then commit again"
            raise StoreInUse(self.url, what, remedy) from None
        except apsw.Error as error:
            raise self._fail(error) from None

    def _fail(self, error: apsw.Error) -> RatchetkeepError:
        self.failed = type(error).__name__
        return sql.translated(error, self.url, lambda what: CommitFailed(self.url, what, AGAIN))

    def _transact(self, batches: Iterable[Prepared]) -> dict[str, int]:
        """Carry out the transaction that was begun; gives the devices' rows."""
        connection = self.connection
        numbers: dict[str, int] = {}
        try:
            for batch in batches:
                name = batch.device
                number = self._numbers.get(name) or add_device(connection, name)
                numbers[name] = number
                write_rows(connection, number, batch.changes)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return numbers


os.register_at_fork(after_in_child=OwnedFile.forget)


def _which(path: str) -> tuple[int, int]:
    """Which file is under a name; (0, 0) for none."""
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0)
    return found.st_dev, found.st_ino


def device_id(connection: apsw.Connection, device: str) -> int | None:
    """The row of a device, or None."""
    row = connection.execute("SELECT id FROM devices WHERE name = ?", (device,)).fetchone()
    return None if row is None else int(row[0])


def absent(connection: apsw.Connection, device: str) -> bool:
    """True if there is no such device. A damaged list may hide one that new credentials would be
    minted over: it raises apsw.CorruptError."""
    if device_id(connection, device) is not None:
        return False
    for (found,) in connection.execute("PRAGMA quick_check(devices)"):
        if found != "ok":
            raise apsw.CorruptError("the list of devices cannot be read")
    return True


def add_device(connection: apsw.Connection, device: str) -> int:
    """The row of a device, which is made if it is not there."""
    found = device_id(connection, device)
    if found is not None:
        return found
    row = (device, int(time.time() * 1000))
    connection.execute("INSERT INTO devices (name, created) VALUES (?, ?)", row)
    return connection.last_insert_rowid()


def read_moved(connection: apsw.Connection, device: str, place: str) -> Moved | None:
    """Where a device was moved to, if it was."""
    if int(connection.pragma("user_version")) < MARKS:
        return None  # a file that nobody has written to since
    statement = "SELECT moved_to, moved_at FROM devices WHERE name = ?"
    row = connection.execute(statement, (device,)).fetchone()
    to, at = row or (None, None)
    return None if to is None and at is None else moved_of(to, at, place)


def write_moved(connection: apsw.Connection, number: int, moved: Moved | None) -> None:
    """Note where a device was moved to, or that it lives here."""
    mark = (moved.to, to_milliseconds(moved.at)) if moved else (None, None)
    statement = "UPDATE devices SET moved_to = ?, moved_at = ? WHERE id = ?"
    connection.execute(statement, (*mark, number))


def read_rows(
    connection: apsw.Connection, number: int | None, keys: Iterable[Key]
) -> dict[Key, bytes]:
    """The bytes of the keys that a device has."""
    wanted: dict[str, list[str]] = {}
    for key in keys:
        wanted.setdefault(key.family, []).append(key.id)
    found: dict[Key, bytes] = {}
    for family, ids in wanted.items():
        statement, what = (_GET, ids[0]) if len(ids) == 1 else (_GET_MANY, json.dumps(ids))
        for id, data in connection.execute(statement, (number, family, what)):
            found[Key(family, id)] = data
    return found


def read_after(
    connection: apsw.Connection, number: int | None, last: tuple[str, str]
) -> list[tuple[str, str, bytes]]:
    """The next rows of a device in the order of family and id, after the one named."""
    rows = connection.execute(_GET_AFTER, (number, *last)).fetchall()
    return cast(list[tuple[str, str, bytes]], rows)


def write_rows(
    connection: apsw.Connection, number: int, changes: Mapping[Key, bytes | None]
) -> None:
    """Write a device's changes; None deletes."""
    put = [(number, k.family, k.id, data) for k, data in changes.items() if data is not None]
    drop = [(number, k.family, k.id) for k, data in changes.items() if data is None]
    if put:
        connection.executemany(_PUT, put)
    if drop:
        connection.executemany(_DROP, drop)


def clear_device(
    connection: apsw.Connection, number: int | None, *, and_entry: bool = False
) -> None:
    """Remove a device's records, and perhaps its own row."""
    connection.execute("DELETE FROM records WHERE device = ?", (number,))
    if and_entry:
        connection.execute("DELETE FROM devices WHERE id = ?", (number,))
