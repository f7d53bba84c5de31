"""The default store: one device or thousands in one SQLite file, ``sqlite:PATH?device=NAME``.

One process owns the file, by a lock beside it, and may open each of its devices once. Read-only
commands see a consistent snapshot meanwhile.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import apsw

from ratchetkeep.errors import (
    CommitFailed,
    DeviceExists,
    NoDevice,
    OwnershipLost,
    ReadOnly,
    StoreClosed,
    StoreInUse,
    StoreUnreadable,
)
from ratchetkeep.formats import native
from ratchetkeep.model import Key

from . import _sqlite_file as sql
from ._owner import Ownership
from .base import Finding, Joint, Prepared, Stage, Store
from .disk import Disk

_PUT = (
    "INSERT INTO records (device, family, id, data) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (device, family, id) DO UPDATE SET data = excluded.data"
)
_DROP = "DELETE FROM records WHERE device = ? AND family = ? AND id = ?"
_GET = "SELECT data FROM records WHERE device = ? AND family = ? AND id = ?"


class _File:
    """A file that this process owns: one connection for all of its devices."""

    _open: dict[str, _File] = {}
    # Held while opening; a test's VFS may open another file meanwhile.
    _guard = threading.RLock()

    def __init__(self, path: str, url: str, vfs: str | None) -> None:
        self.path = path
        self.url = url
        self.lock = threading.RLock()
        self.devices: set[str] = set()
        self.failed = False
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
    def attach(cls, path: str, url: str, device: str, vfs: str | None) -> _File:
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
            if self.devices or self.owner.is_forked:
                return
            self._open.pop(self.path, None)
            sql.disconnect(self.connection)
            self.owner.release()
            self._check_name()

    def device_id(self, device: str) -> int | None:
        """The row of a device, or None."""
        return _device_id(self.connection, device)

    def apply(self, *batches: Prepared) -> None:
        """Make all batches durable in one transaction; see :meth:`Store.apply`."""
        with self.lock:
            for batch in batches:
                if batch.device not in self.devices:
                    raise StoreClosed(self.url, f"device {batch.device!r} is not open")
            self.check()
            if self.failed:
                raise CommitFailed(self.url, "an earlier commit failed")
            try:
                with sql.mapped(self.url, lambda what: CommitFailed(self.url, what)):
                    _transact(self.connection, batches)
            except BaseException:
                self.failed = True
                raise


os.register_at_fork(after_in_child=_File.forget)


def _which(path: str) -> tuple[int, int]:
    """Which file is under a name; (0, 0) for none."""
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0)
    return found.st_dev, found.st_ino


def _device_id(connection: apsw.Connection, device: str) -> int | None:
    row = connection.execute("SELECT id FROM devices WHERE name = ?", (device,)).fetchone()
    return None if row is None else int(row[0])


def _add_device(connection: apsw.Connection, device: str) -> int:
    found = _device_id(connection, device)
    if found is not None:
        return found
    row = (device, int(time.time() * 1000))
    connection.execute("INSERT INTO devices (name, created) VALUES (?, ?)", row)
    return connection.last_insert_rowid()


class SqliteStore(Store):
    """The store in the file at ``path``.

    :param vfs: the SQLite VFS to write through; the system's own if None.
    """

    kind = "sqlite"
    format = native
    reads_snapshots = True

    def __init__(self, path: str, *, vfs: str | None = None) -> None:
        self.path = path
        self.vfs = vfs
        self.url = f"sqlite:{path}"
        self._files: dict[str, _File] = {}
        self._readers: dict[str, apsw.Connection] = {}
        self._lock = threading.RLock()

    def devices(self) -> list[str]:
        if not sql.require_ours(self.path, self.url):
            return []
        connection = sql.connect_read_only(self.path, self.url)
        try:
            with sql.mapped(self.url):
                return [
                    name for (name,) in connection.execute("SELECT name FROM devices ORDER BY 1")
                ]
        finally:
            sql.disconnect(connection)

    def acquire(self, device: str, *, read_only: bool, create: bool) -> None:
        if device in self._files or device in self._readers:
            raise StoreInUse(self.url, f"device {device!r} is open already in this process")
        is_there = sql.require_ours(self.path, self.url)
        if not is_there and not create:
            raise NoDevice(self.url, "is not there")
        if read_only:
            self._readers[device] = self._read_only(device)
            return
        if not is_there:
            self._make_folder()
        file = _File.attach(self.path, self.url, device, self.vfs)
        try:
            with sql.mapped(self.url):
                if not create and file.device_id(device) is None:
                    raise self._no_device(file.connection, device)
        except BaseException:
            file.detach(device)
            raise
        self._files[device] = file

    def _no_device(self, connection: apsw.Connection, device: str) -> NoDevice:
        rows = connection.execute("SELECT name FROM devices ORDER BY 1 LIMIT 4").fetchall()
        names = ", ".join(f"?device={quote(str(name))}" for (name,) in rows[:3])
        more = ", and more" if len(rows) > 3 else ""
        remedy = f"Name one of those it holds after the path: {names}{more}" if names else None
        return NoDevice(self.url, f"holds no device {device!r}", remedy)

    def _make_folder(self) -> None:
        disk = Disk()
        above = os.path.dirname(os.path.abspath(self.path))
        try:
            if not disk.is_folder(above):
                disk.make_folder(above)
        except OSError as error:
            raise sql.write_failed(self.url, error) from None

    def _read_only(self, device: str) -> apsw.Connection:
        connection = sql.connect_read_only(self.path, self.url)
        try:
            with sql.mapped(self.url):
                if _device_id(connection, device) is None:
                    raise self._no_device(connection, device)
        except BaseException:
            sql.disconnect(connection)
            raise
        return connection

    def release(self, device: str) -> None:
        reader = self._readers.pop(device, None)
        if reader is not None:
            sql.disconnect(reader)
        file = self._files.pop(device, None)
        if file is not None:
            file.detach(device)

    def close(self) -> None:
        for device in [*self._files, *self._readers]:
            self.release(device)

    def _using(self, device: str) -> tuple[apsw.Connection, threading.RLock]:
        if device in self._files:
            file = self._files[device]
            return file.connection, file.lock
        if device in self._readers:
            return self._readers[device], self._lock
        raise StoreClosed(self.url, f"device {device!r} is not open")

    def read(self, device: str, keys: Iterable[Key]) -> dict[Key, bytes]:
        connection, lock = self._using(device)
        found: dict[Key, bytes] = {}
        with lock, sql.mapped(self.url):
            number = _device_id(connection, device)
            for key in keys:
                row = connection.execute(_GET, (number, key.family, key.id)).fetchone()
                if row is not None:
                    found[key] = row[0]
        return found

    def scan(self, device: str, family: str | None = None) -> Iterator[Key]:
        connection, lock = self._using(device)
        only = "" if family is None else " AND family = ?"
        with lock, sql.mapped(self.url):
            number = _device_id(connection, device)
            rows = connection.execute(
                f"SELECT family, id FROM records WHERE device = ?{only}",
                (number,) if family is None else (number, family),
            ).fetchall()
        return (Key(str(family), str(id)) for family, id in rows)

    def apply(self, *batches: Prepared) -> None:
        for batch in batches:
            self._writable(batch.device)
        if batches:
            # All devices of a store are in one file.
            self._writable(batches[0].device).apply(*batches)

    def joint(self, device: str) -> Joint:
        return self._writable(device)

    def _writable(self, device: str) -> _File:
        if device in self._readers:
            raise ReadOnly(self.url, "was opened read-only")
        if device not in self._files:
            raise StoreClosed(self.url, f"device {device!r} is not open")
        return self._files[device]

    def holder(self, device: str) -> str:
        real = os.path.realpath(self.path)
        return Ownership(self.url, Path(real + ".lock"), Path(real + ".owner")).holder()

    def trace(self, device: str) -> str:
        connection, lock = self._using(device)
        with lock, sql.mapped(self.url):
            number = _device_id(connection, device)
            count = "SELECT count(*) FROM records WHERE device = ?"
            rows = connection.execute(count, (number,)).fetchone()
        return "" if number is None else f"an entry and {rows[0] if rows else 0} records"

    def stage(self, device: str, *, overwrite: bool) -> AbstractContextManager[Stage]:
        return _SqliteStage(self, device, overwrite)

    def remove(self, device: str) -> None:
        file = self._writable(device)
        with file.lock, sql.mapped(self.url, lambda what: CommitFailed(self.url, what)):
            file.check()
            with file.connection:
                _clear(file.connection, file.device_id(device), and_entry=True)
        self.release(device)

    def findings(self, device: str) -> Iterator[Finding]:
        connection, lock = self._using(device)
        with lock, sql.mapped(self.url):
            problems = [row[0] for row in connection.execute("PRAGMA integrity_check(20)")]
        for problem in problems:
            if problem != "ok":
                remedy = "Restore it from a backup, or copy what can be read to a new store"
                yield Finding("error", self.path, f"SQLite finds: {problem}", remedy)
        real = os.path.realpath(self.path)
        for path in (real, real + "-wal"):
            try:
                is_open = Disk().mode(path) & 0o077
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StoreUnreadable(path, f"cannot be read: {error.strerror}") from None
            if is_open:
                what = "can be read by other users"
                yield Finding("warning", path, what, f"chmod go= {path}")


def _transact(connection: apsw.Connection, batches: Iterable[Prepared]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for batch in batches:
            number = _add_device(connection, batch.device)
            _write(connection, number, batch.changes)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _write(connection: apsw.Connection, number: int, changes: Mapping[Key, bytes | None]) -> None:
    put = [(number, k.family, k.id, data) for k, data in changes.items() if data is not None]
    drop = [(number, k.family, k.id) for k, data in changes.items() if data is None]
    if put:
        connection.executemany(_PUT, put)
    if drop:
        connection.executemany(_DROP, drop)


def _clear(connection: apsw.Connection, number: int | None, *, and_entry: bool = False) -> None:
    connection.execute("DELETE FROM records WHERE device = ?", (number,))
    if and_entry:
        connection.execute("DELETE FROM devices WHERE id = ?", (number,))


class _SqliteStage:
    """A device in one transaction of the file; a new file is made beside it and renamed."""

    def __init__(self, store: SqliteStore, device: str, overwrite: bool) -> None:
        self._store, self._device, self._overwrite = store, device, overwrite
        self._path = store.path
        self._file: _File | None = None
        self._number = 0

    def __enter__(self) -> Self:
        store = self._store
        store.check_vacant(self._device, overwrite=self._overwrite)
        if sql.require_ours(store.path, store.url):
            self._file = _File.attach(store.path, store.url, self._device, store.vfs)
            self._file.lock.acquire()
            self._connection = self._file.connection
        else:
            store._make_folder()
            # Owned while it is put together, so that nobody makes a device there meanwhile.
            real = os.path.realpath(store.path)
            self._owner = Ownership(store.url, Path(real + ".lock"), Path(real + ".owner"))
            self._owner.take()
            try:
                self._path = sql.begin_staging(real)
                self._connection = sql.connect(self._path, store.url)
                if sql.look(real):
                    raise DeviceExists(store.url, "was made by another program meanwhile")
            except BaseException:
                self._owner.release()
                raise
        try:
            self._begin()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _begin(self) -> None:
        with self._mapped():
            self._connection.execute("BEGIN IMMEDIATE")
            number = _device_id(self._connection, self._device)
            if number is not None and not self._overwrite:
                what = f"holds a device {self._device!r} already"
                raise DeviceExists(self._store.url, what)
            if number is not None:
                _clear(self._connection, number)
            self._number = _add_device(self._connection, self._device)

    def write(self, changes: Mapping[Key, bytes]) -> None:
        with self._mapped():
            _write(self._connection, self._number, changes)

    def read(self, keys: Iterable[Key]) -> dict[Key, bytes]:
        with self._mapped():
            rows = {
                key: self._connection.execute(_GET, (self._number, key.family, key.id)).fetchone()
                for key in keys
            }
        return {key: row[0] for key, row in rows.items() if row is not None}

    def publish(self) -> None:
        with self._mapped():
            if self._file is not None:
                self._file.check()
            else:
                self._owner.check()
                if sql.look(os.path.realpath(self._store.path)):
                    what = "was made by another program meanwhile"
                    raise DeviceExists(self._store.url, what)
            self._connection.execute("COMMIT")
            if self._file is None:
                sql.disconnect(self._connection)
        if self._file is None:
            try:
                sql.publish(self._path, os.path.realpath(self._store.path))
            except OSError as error:
                raise sql.write_failed(self._store.url, error) from None

    def _mapped(self) -> AbstractContextManager[None]:
        url = self._store.url
        return sql.mapped(url, lambda what: CommitFailed(url, what, "Nothing was changed"))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._file.lock.release()
            self._file.detach(self._device)
            return
        sql.disconnect(self._connection)
        for suffix in ("", "-wal", "-shm"):
            Disk().unlink(self._path + suffix)
        self._owner.release()
