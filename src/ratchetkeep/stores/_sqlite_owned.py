"""An SQLite file that this process owns, for all of its devices, and the rows in it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path

import apsw

from ratchetkeep.errors import (
    CommitFailed,
    OwnershipLost,
    RatchetkeepError,
    StoreClosed,
    StoreInUse,
)
from ratchetkeep.sealing.keys import SealKey
from ratchetkeep.sealing.opening import new_ring

from . import _sqlite_file as sql
from ._owner import Ownership
from ._sqlite_rows import DeviceRow, View, add_device, settle, write_rows
from .base import Prepared

AGAIN = "Close all devices of the file and open them again: opening shows what reached the disk"


class OwnedFile:
    """A file that this process owns: one connection for all of its devices."""

    _open: dict[str, OwnedFile] = {}
    # Held while opening; a test's VFS may open another file meanwhile.
    _guard = threading.RLock()

    def __init__(
        self, path: str, url: str, vfs: str | None, key: str | bytes | SealKey | None
    ) -> None:
        self.path = path
        self.url = url
        self.lock = threading.RLock()
        self.devices: set[str] = set()
        # Why the file takes no more, if so.
        self.failed = ""
        self._rows: dict[str, DeviceRow] = {}
        self.owner = Ownership(url, Path(path + ".lock"), Path(path + ".owner"))
        self.owner.take()
        try:
            if not sql.require_ours(path, url):
                sql.make(path, new_ring(key, url))
            else:
                sql.sweep_beside(path)
                self._try_key(key)
            sql.require_one_name(path, url)
            self.connection = sql.connect(path, url, vfs=vfs)
            self._opened = _which(path)
        except BaseException:
            self.owner.release()
            raise
        try:
            with sql.mapped(url):
                self.view = View(self.connection, url, key)
        except BaseException:
            sql.disconnect(self.connection)
            self.owner.release()
            raise

    def _try_key(self, key: str | bytes | SealKey | None) -> None:
        """With a wrong key nothing is touched: not even the log of an unclean stop is brought into
        the file."""
        if sql.has_log(self.path):
            connection = sql.connect_read_only(self.path, self.url)
            try:
                with sql.mapped(self.url):
                    View(connection, self.url, key)
            finally:
                sql.disconnect(connection)

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
    def attach(
        cls,
        path: str,
        url: str,
        device: str,
        vfs: str | None,
        key: str | bytes | SealKey | None = None,
    ) -> OwnedFile:
        """Open ``device`` in the file, which is opened with the first of its devices."""
        real = os.path.realpath(path)
        with cls._guard:
            file = cls._open.get(real)
            if file is None:
                file = cls._open[real] = cls(real, url, vfs, key)
            else:
                file.view.check_key(key)
            if device in file.devices:
                raise StoreInUse(url, f"device {device!r} is open already in this process")
            file.devices.add(device)
            return file

    def detach(self, device: str) -> None:
        """Close ``device``; the last one closes the file."""
        with self._guard:
            self.devices.discard(device)
            self._rows.pop(device, None)
            if self.devices or self.owner.is_forked:
                return
            self._open.pop(self.path, None)
            sql.disconnect(self.connection)
            self.owner.release()
            self._check_name()

    def device(self, name: str) -> DeviceRow | None:
        """A device's row, or None; the caller holds the lock."""
        if name not in self._rows:
            found = self.view.find(name)
            if found is None:
                return None
            self._rows[name] = found
        return self._rows[name]

    def forget_row(self, name: str) -> None:
        """A device's row was changed by something else than a commit."""
        self._rows.pop(name, None)

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
                rows = self._transact(batches)
            except apsw.Error as error:
                raise self._fail(error) from None
            except BaseException as error:
                self.failed = type(error).__name__
                raise
            self._rows.update(rows)

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

    def _transact(self, batches: Iterable[Prepared]) -> dict[str, DeviceRow]:
        """Carry out the transaction that was begun; gives the devices as they are then."""
        connection = self.connection
        rows: dict[str, DeviceRow] = {}
        try:
            for batch in batches:
                name = batch.device
                row = rows.get(name) or self.device(name) or add_device(self.view, name)
                rows[name] = write_rows(connection, row, batch.changes)
            for row in rows.values():
                settle(connection, row)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return rows


os.register_at_fork(after_in_child=OwnedFile.forget)


def _which(path: str) -> tuple[int, int]:
    """Which file is under a name; (0, 0) for none."""
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0)
    return found.st_dev, found.st_ino
