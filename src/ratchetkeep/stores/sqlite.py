"""The default store: one device or thousands in one SQLite file, ``sqlite:PATH?device=NAME``.

One process owns the file, by a lock beside it, and may open each of its devices once. Read-only
commands see a consistent snapshot meanwhile.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import apsw

from ratchetkeep.errors import (
    CommitFailed,
    DeviceExists,
    NoDevice,
    ReadOnly,
    StoreClosed,
    StoreInUse,
    StoreUnreadable,
)
from ratchetkeep.formats import native
from ratchetkeep.model import Key

from . import _sqlite_file as sql
from ._moved import Moved, moved_now, to_of
from ._owner import Ownership
from ._sqlite_owned import (
    OwnedFile,
    absent,
    add_device,
    clear_device,
    device_id,
    read_after,
    read_moved,
    read_rows,
    write_moved,
    write_rows,
)
from .base import Finding, Joint, Listed, Prepared, Stage, Store
from .disk import Disk

_COUNTS = "SELECT name, (SELECT count(*) FROM records WHERE device = devices.id) FROM devices"


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
        self._files: dict[str, OwnedFile] = {}
        self._readers: dict[str, apsw.Connection] = {}
        self._lock = threading.RLock()

    def devices(self) -> list[str]:
        with self._looking() as connection:
            return [] if connection is None else _names(connection)

    @contextmanager
    def _looking(self) -> Iterator[apsw.Connection | None]:
        """A connection that sees one moment of the file; None if nothing is there."""
        if not sql.require_ours(self.path, self.url):
            yield None
            return
        connection = sql.connect_read_only(self.path, self.url)
        try:
            with sql.mapped(self.url):
                yield connection
        finally:
            sql.disconnect(connection)

    def listing(self) -> list[Listed]:
        owner = self.holder("")
        with self._looking() as connection:
            if connection is None:
                return []
            counts = dict(connection.execute(_COUNTS))
            listed = []
            for name in _names(connection):
                to = to_of(partial(read_moved, connection, name, self.url))
                listed.append(Listed(name, to, owner, None, counts.get(name, 0)))
            return listed

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
            sql.make_folder_for(self.path, self.url)
        file = OwnedFile.attach(self.path, self.url, device, self.vfs)
        try:
            with sql.mapped(self.url):
                if absent(file.connection, device) and not create:
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

    def _read_only(self, device: str) -> apsw.Connection:
        connection = sql.connect_read_only(self.path, self.url)
        try:
            with sql.mapped(self.url):
                if absent(connection, device):
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
        with lock, sql.mapped(self.url):
            return read_rows(connection, device_id(connection, device), keys)

    def scan(self, device: str, family: str | None = None) -> Iterator[Key]:
        connection, lock = self._using(device)
        only = "" if family is None else " AND family = ?"
        with lock, sql.mapped(self.url):
            number = device_id(connection, device)
            rows = connection.execute(
                f"SELECT family, id FROM records WHERE device = ?{only}",
                (number,) if family is None else (number, family),
            ).fetchall()
        return (Key(str(family), str(id)) for family, id in rows)

    def entries(self, device: str) -> Iterator[tuple[Key, bytes]]:
        connection, lock = self._using(device)
        with lock, sql.mapped(self.url):
            number = device_id(connection, device)
        last: tuple[str, str] = ("", "")
        while True:
            with lock, sql.mapped(self.url):
                rows = read_after(connection, number, last)
            if not rows:
                return
            for family, id, data in rows:
                yield Key(family, id), data
            last = rows[-1][:2]

    def apply(self, *batches: Prepared) -> None:
        for batch in batches:
            self._writable(batch.device)
        if batches:
            # All devices of a store are in one file.
            self._writable(batches[0].device).apply(*batches)

    def joint(self, device: str) -> Joint:
        return self._writable(device)

    def _writable(self, device: str) -> OwnedFile:
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
            number = device_id(connection, device)
            count = "SELECT count(*) FROM records WHERE device = ?"
            rows = connection.execute(count, (number,)).fetchone()
        return "" if number is None else f"an entry and {rows[0] if rows else 0} records"

    def check_vacant(self, device: str, *, overwrite: bool) -> None:
        # By its name, and not among all of them: a copy of thousands asks for each.
        if overwrite or not sql.require_ours(self.path, self.url):
            return
        connection = sql.connect_read_only(self.path, self.url)
        try:
            with sql.mapped(self.url):
                is_there = device_id(connection, device) is not None
        finally:
            sql.disconnect(connection)
        if is_there:
            raise DeviceExists(self.url, f"holds a device {device!r} already")

    def stage(self, device: str, *, overwrite: bool) -> AbstractContextManager[Stage]:
        return _SqliteStage(self, device, overwrite)

    def remove(self, device: str) -> None:
        file = self._writable(device)
        with file.lock, sql.mapped(self.url, lambda what: CommitFailed(self.url, what)):
            file.check()
            with file.connection:
                clear_device(file.connection, file.device_id(device), and_entry=True)
        self.release(device)

    def mark_moved(self, device: str, to: str) -> None:
        file = self._writable(device)
        with file.lock, sql.mapped(self.url, lambda what: CommitFailed(self.url, what)):
            file.check()
            with file.connection:
                number = add_device(file.connection, device)
                write_moved(file.connection, number, moved_now(to))

    def moved(self, device: str) -> Moved | None:
        if device in self._files or device in self._readers:
            connection, lock = self._using(device)
            with lock, sql.mapped(self.url):
                return read_moved(connection, device, self.url)
        with self._looking() as file:
            return None if file is None else read_moved(file, device, self.url)

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


def _names(connection: apsw.Connection) -> list[str]:
    return [str(name) for (name,) in connection.execute("SELECT name FROM devices ORDER BY 1")]


class _SqliteStage:
    """A device in one transaction of the file; a new file is made beside it and renamed."""

    def __init__(self, store: SqliteStore, device: str, overwrite: bool) -> None:
        self._store, self._device, self._overwrite = store, device, overwrite
        self._path = store.path
        self._file: OwnedFile | None = None
        self._number = 0

    def __enter__(self) -> Self:
        store = self._store
        store.check_vacant(self._device, overwrite=self._overwrite)
        if sql.require_ours(store.path, store.url):
            self._file = OwnedFile.attach(store.path, store.url, self._device, store.vfs)
            self._file.lock.acquire()
            self._connection = self._file.connection
        else:
            sql.make_folder_for(store.path, store.url)
            # Owned while it is put together, so that nobody makes a device there meanwhile.
            real = os.path.realpath(store.path)
            self._owner = Ownership(store.url, Path(real + ".lock"), Path(real + ".owner"))
            self._owner.take()
            try:
                self._path = sql.begin_staging(real)
                self._connection = sql.connect_staged(self._path, store.url)
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
            absent(self._connection, self._device)
            number = device_id(self._connection, self._device)
            if number is not None and not self._overwrite:
                what = f"holds a device {self._device!r} already"
                raise DeviceExists(self._store.url, what)
            if number is not None:
                clear_device(self._connection, number)
                write_moved(self._connection, number, None)
            self._number = add_device(self._connection, self._device)

    def write(self, changes: Mapping[Key, bytes]) -> None:
        with self._mapped():
            write_rows(self._connection, self._number, changes)

    def read(self, keys: Iterable[Key]) -> dict[Key, bytes]:
        with self._mapped():
            return read_rows(self._connection, self._number, keys)

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
                sql.finish_staged(self._connection)
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
