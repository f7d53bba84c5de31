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
from ratchetkeep.sealing.keys import SealKey
from ratchetkeep.sealing.opening import IfSealed, new_ring

from . import _sqlite_file as sql
from ._moved import Moved, moved_now, to_of
from ._owner import Ownership
from ._sqlite_owned import OwnedFile
from ._sqlite_reseal import SqliteResealing
from ._sqlite_rows import (
    DeviceRow,
    View,
    absent,
    add_device,
    clear_device,
    history_of,
    settle,
    write_moved,
    write_rows,
)
from .base import Finding, History, Joint, Listed, Prepared, Resealing, Stage, Store
from .disk import Disk

_COUNTS = "SELECT id, (SELECT count(*) FROM records WHERE device = devices.id) FROM devices"


class SqliteStore(Store):
    """The store in the file at ``path``.

    :param vfs: the SQLite VFS to write through; the system's own if None.
    :param key: what opens the file if it is sealed; a file that is made with one is sealed.
    """

    kind = "sqlite"
    format = native
    reads_snapshots = True

    def __init__(
        self, path: str, *, vfs: str | None = None, key: str | bytes | SealKey | None = None
    ) -> None:
        self.path = path
        self.vfs = vfs
        self.key = key
        self.url = f"sqlite:{path}"
        self._files: dict[str, OwnedFile] = {}
        self._readers: dict[str, View] = {}
        self._lock = threading.RLock()

    def devices(self) -> list[str]:
        with self._looking() as view:
            return [] if view is None else sorted(view.names().values())

    @contextmanager
    def _looking(self) -> Iterator[View | None]:
        """One moment of the file; None if nothing is there."""
        if not sql.require_ours(self.path, self.url):
            yield None
            return
        connection = sql.connect_read_only(self.path, self.url)
        try:
            with sql.mapped(self.url):
                yield View(connection, self.url, self.key)
        finally:
            sql.disconnect(connection)

    def listing(self) -> list[Listed]:
        owner = self.holder("")
        with self._looking() as view:
            if view is None:
                return []
            counts = dict(view.connection.execute(_COUNTS))
            return sorted(
                Listed(name, to_of(partial(view.moved, name)), owner, None, counts.get(number, 0))
                for number, name in view.names().items()
            )

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
        file = OwnedFile.attach(self.path, self.url, device, self.vfs, self.key)
        try:
            with file.lock, sql.mapped(self.url):
                if absent(file.view, device) and not create:
                    raise self._no_device(file.view, device)
        except BaseException:
            file.detach(device)
            raise
        self._files[device] = file

    def _no_device(self, view: View, device: str) -> NoDevice:
        found = sorted(view.names().values())
        names = ", ".join(f"?device={quote(name)}" for name in found[:3])
        more = ", and more" if len(found) > 3 else ""
        remedy = f"Name one of those it holds after the path: {names}{more}" if names else None
        return NoDevice(self.url, f"holds no device {device!r}", remedy)

    def _read_only(self, device: str) -> View:
        connection = sql.connect_read_only(self.path, self.url)
        try:
            with sql.mapped(self.url):
                view = View(connection, self.url, self.key)
                if absent(view, device):
                    raise self._no_device(view, device)
        except BaseException:
            sql.disconnect(connection)
            raise
        return view

    def release(self, device: str) -> None:
        reader = self._readers.pop(device, None)
        if reader is not None:
            sql.disconnect(reader.connection)
        file = self._files.pop(device, None)
        if file is not None:
            file.detach(device)

    def close(self) -> None:
        for device in [*self._files, *self._readers]:
            self.release(device)

    @contextmanager
    def _using(self, device: str) -> Iterator[tuple[View, DeviceRow | None]]:
        """What a device that is open is read through, with its row; a short while."""
        file, reader = self._files.get(device), self._readers.get(device)
        if file is not None:
            with file.lock, sql.mapped(self.url):
                yield file.view, file.device(device)
        elif reader is not None:
            with self._lock, sql.mapped(self.url):
                yield reader, reader.find(device)
        else:
            raise StoreClosed(self.url, f"device {device!r} is not open")

    def read(self, device: str, keys: Iterable[Key]) -> dict[Key, bytes]:
        with self._using(device) as (view, row):
            return view.read(row, keys)

    def scan(self, device: str, family: str | None = None) -> Iterator[Key]:
        with self._using(device) as (view, row):
            return iter(view.scan(row, family))

    def entries(self, device: str) -> Iterator[tuple[Key, bytes]]:
        last: tuple[str, str] = ("", "")
        while True:
            with self._using(device) as (view, row):
                found, last = view.after(row, last)
            if not found:
                return
            yield from found

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
        with self._using(device) as (view, row):
            return "" if row is None else f"an entry and {view.count(row)} records"

    def history(self, device: str) -> History | None:
        with self._using(device) as (_, row):
            return history_of(row)

    def check_vacant(self, device: str, *, overwrite: bool) -> None:
        # By its name, and not among all of them: a copy of thousands asks for each.
        if overwrite:
            return
        with self._looking() as view:
            is_there = view is not None and view.find(device) is not None
        if is_there:
            raise DeviceExists(self.url, f"holds a device {device!r} already")

    def stage(self, device: str, *, overwrite: bool) -> AbstractContextManager[Stage]:
        return _SqliteStage(self, device, overwrite)

    def remove(self, device: str) -> None:
        file = self._writable(device)
        with file.lock, sql.mapped(self.url, lambda what: CommitFailed(self.url, what)):
            file.check()
            row = file.device(device)
            with file.connection:
                if row is not None:
                    clear_device(file.connection, row, and_entry=True)
            file.forget_row(device)
        self.release(device)

    def mark_moved(self, device: str, to: str) -> None:
        file = self._writable(device)
        with file.lock, sql.mapped(self.url, lambda what: CommitFailed(self.url, what)):
            file.check()
            with file.connection:
                write_moved(file.view, add_device(file.view, device), moved_now(to))
            file.forget_row(device)

    def moved(self, device: str) -> Moved | None:
        if device in self._files or device in self._readers:
            with self._using(device) as (view, _):
                return view.moved(device)
        with self._looking() as looked:
            return None if looked is None else looked.moved(device)

    def seals(self) -> bool:
        opened = [file.view for file in self._files.values()] or [*self._readers.values()]
        if opened:
            return opened[0].vault.current > 0
        with self._looking() as view:
            if view is None:
                return self.key is not None and not isinstance(self.key, IfSealed)
            return view.vault.current > 0

    @contextmanager
    def resealing(self) -> Iterator[Resealing]:
        if not sql.require_ours(self.path, self.url):
            raise NoDevice(self.url, "is not there")
        # No device has an empty name.
        file = OwnedFile.attach(self.path, self.url, "", self.vfs, self.key)
        try:
            with file.lock, sql.mapped(self.url, lambda what: CommitFailed(self.url, what)):
                if file.devices != {""}:
                    raise StoreInUse(self.url, "has devices that are open in this process")
                yield SqliteResealing(file)
        finally:
            file.detach("")

    def sum_findings(self, device: str) -> Iterator[Finding]:
        with self._using(device) as (view, row):
            return iter([*view.findings(row)])

    def findings(self, device: str) -> Iterator[Finding]:
        yield from self.sum_findings(device)
        with self._using(device) as (view, _):
            check = view.connection.execute("PRAGMA integrity_check(20)")
            problems = [text for (text,) in check]
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


class _SqliteStage:
    """A device in one transaction of the file; a new file is made beside it and renamed."""

    def __init__(self, store: SqliteStore, device: str, overwrite: bool) -> None:
        self._store, self._device, self._overwrite = store, device, overwrite
        self._path = store.path
        self._file: OwnedFile | None = None
        self._view: View
        self._row: DeviceRow

    def __enter__(self) -> Self:
        store = self._store
        store.check_vacant(self._device, overwrite=self._overwrite)
        if sql.require_ours(store.path, store.url):
            self._file = OwnedFile.attach(store.path, store.url, self._device, store.vfs, store.key)
            self._file.lock.acquire()
            self._connection = self._file.connection
        else:
            sql.make_folder_for(store.path, store.url)
            # Owned while it is put together, so that nobody makes a device there meanwhile.
            real = os.path.realpath(store.path)
            self._owner = Ownership(store.url, Path(real + ".lock"), Path(real + ".owner"))
            self._owner.take()
            try:
                self._path = sql.begin_staging(real, ring=new_ring(store.key, store.url))
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
            view = self._file.view if self._file else None
            self._view = view or View(self._connection, self._store.url, self._store.key)
            absent(self._view, self._device)
            found = self._view.find(self._device)
            if found is not None and not self._overwrite:
                what = f"holds a device {self._device!r} already"
                raise DeviceExists(self._store.url, what)
            if found is not None:
                clear_device(self._connection, found)
                write_moved(self._view, found, None)
            self._row = add_device(self._view, self._device, anew=True)

    def write(self, changes: Mapping[Key, bytes]) -> None:
        with self._mapped():
            self._row = write_rows(self._connection, self._row, changes)

    def read(self, keys: Iterable[Key]) -> dict[Key, bytes]:
        with self._mapped():
            return self._view.read(self._row, keys)

    def publish(self) -> None:
        with self._mapped():
            if self._file is not None:
                self._file.check()
            else:
                self._owner.check()
                if sql.look(os.path.realpath(self._store.path)):
                    what = "was made by another program meanwhile"
                    raise DeviceExists(self._store.url, what)
            # However many portions it came in: its history begins with one commit.
            state = self._row.state._replace(commits=1)
            settle(self._connection, self._row._replace(state=state))
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
