"""A whatsmeow database that this process may write to.

An SQLite file has one owner process, which opens all of its devices through one connection. In
PostgreSQL each device has its own owner, with a connection of its own.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ratchetkeep.errors import (
    CommitFailed,
    OwnershipLost,
    RatchetkeepError,
    StoreClosed,
    StoreDamaged,
    StoreInUse,
)
from ratchetkeep.model import CREDENTIALS

from . import _sqlite_file as sql
from . import _whatsmeow_device as devices
from . import _whatsmeow_sqlite as sqlite
from ._owner import Ownership
from ._whatsmeow_sql import Database
from .base import Prepared

if TYPE_CHECKING:
    from ._whatsmeow_postgres import PostgresDatabase

AGAIN = "Close all devices of the database and open them again: opening shows what it holds"


class Owned(ABC):
    """A connection that writes, for the devices that this process owns.

    :ivar names: the JIDs of the devices that are open, by the names they were opened by; "" until
        the credentials say it.
    :ivar failed: why it takes no more, if so.
    """

    db: Database

    def __init__(self, url: str) -> None:
        self.url = url
        self.lock = threading.RLock()
        self.names: dict[str, str] = {}
        self.failed = ""

    @abstractmethod
    def check(self) -> None:
        """Refuse to write where this process is not the owner.

        :raises OwnershipLost: there.
        """

    @abstractmethod
    def make(self) -> None:
        """Make the tables if there are none, in the transaction that is under way."""

    @abstractmethod
    def detach(self, name: str) -> None:
        """Close a device; the last one closes the connection."""

    def name(self, name: str, jid: str) -> None:
        """Become the owner of a device.

        :param name: what it is opened by.
        :param jid: "" if the credentials are to say it.
        :raises StoreInUse: if another one is.
        """
        if jid and any(other == jid for each, other in self.names.items() if each != name):
            raise StoreInUse(self.url, f"device {jid!r} is open already in this process")
        self.names[name] = jid

    def apply(self, *batches: Prepared) -> None:
        """Make all batches durable in one transaction; see :meth:`Store.apply`."""
        with self.lock:
            for batch in batches:
                if batch.device not in self.names:
                    raise StoreClosed(self.url, f"device {batch.device!r} is not open")
            self.check()
            if self.failed:
                raise CommitFailed(self.url, f"an earlier commit failed ({self.failed})", AGAIN)
            try:
                with self.db.mapped(self._commit_failed):
                    self.db.begin()
                    self._write(batches)
                    self.db.commit()
            except BaseException as error:
                self.db.rollback()
                # Where another program has the database locked, nothing was tried.
                self.failed = "" if isinstance(error, StoreInUse) else type(error).__name__
                raise

    def _commit_failed(self, what: str) -> RatchetkeepError:
        return CommitFailed(self.url, what, AGAIN)

    def _write(self, batches: Iterable[Prepared]) -> None:
        for batch in batches:
            credentials = batch.changes.get(CREDENTIALS)
            if not self.names[batch.device] and credentials is not None:
                self.name(batch.device, devices.jid_of(credentials))
            devices.write(self.db, self.names[batch.device], batch.changes)


class OwnedFile(Owned):
    """An SQLite file: one owner, by a lock beside it."""

    _open: dict[str, OwnedFile] = {}
    _guard = threading.RLock()

    def __init__(self, path: str, url: str) -> None:
        super().__init__(url)
        self.path = path
        self.owner = ownership(path, url)
        self.owner.take()
        try:
            if not sqlite.is_there(path, url):
                sqlite.make(path)
            else:
                sql.sweep_beside(path)
            sql.require_one_name(path, url)
            self.db = sqlite.SqliteDatabase(path, url)
            self._opened = _which(path)
            if not self.db.look():
                raise StoreDamaged(url, "is no database of whatsmeow's")
        except BaseException:
            self._close()
            raise

    @classmethod
    def forget(cls) -> None:
        """In a forked child: the files are its parent's."""
        cls._open = {}
        cls._guard = threading.RLock()

    @classmethod
    def attach(cls, path: str, url: str, name: str) -> OwnedFile:
        """Open a device of the file, which is opened with the first of its devices.

        Its JID is to be said by :meth:`name`.
        """
        real = os.path.realpath(path)
        with cls._guard:
            file = cls._open.get(real) or cls(real, url)
            if name in file.names:
                raise StoreInUse(url, f"device {name!r} is open already in this process")
            cls._open[real] = file
            file.names[name] = ""
            return file

    def detach(self, name: str) -> None:
        with self._guard:
            self.names.pop(name, None)
            if self.names or self.owner.is_forked:
                return
            self._open.pop(self.path, None)
            self._close()

    def _close(self) -> None:
        if hasattr(self, "db"):
            self.db.close()
        self.owner.release()

    def check(self) -> None:
        self.owner.check()
        if _which(self.path) != self._opened:
            what = "its file was moved, removed or replaced while it was open"
            raise OwnershipLost(self.url, what, "Put it back under its old name, and open it again")

    def make(self) -> None:
        """They are there since the file was opened."""


os.register_at_fork(after_in_child=OwnedFile.forget)


class OwnedSession(Owned):
    """A session of a PostgreSQL server: it owns its one device, by an advisory lock."""

    db: PostgresDatabase

    def __init__(self, conninfo: str, url: str) -> None:
        super().__init__(url)
        self._pid = os.getpid()
        self.db = open_postgres(conninfo, url)

    def name(self, name: str, jid: str) -> None:
        if jid and self.names.get(name) != jid:
            self.db.lock(jid)
        super().name(name, jid)

    def make(self) -> None:
        self.db.wait_to_make()
        if not self.db.look():
            self.db.make()
            self.db.look()

    def check(self) -> None:
        if os.getpid() != self._pid:
            raise OwnershipLost(self.url, "was opened by another process, which forked this one")

    def detach(self, name: str) -> None:
        self.db.close()


def open_postgres(conninfo: str, url: str, *, read_only: bool = False) -> PostgresDatabase:
    """A connection; psycopg is loaded only here."""
    from ._whatsmeow_postgres import PostgresDatabase

    return PostgresDatabase(conninfo, url, read_only=read_only)


def ownership(path: str, url: str) -> Ownership:
    """The lock of an SQLite file."""
    real = os.path.realpath(path)
    return Ownership(url, Path(real + ".lock"), Path(real + ".owner"))


def _which(path: str) -> tuple[int, int]:
    """Which file is under a name; (0, 0) for none."""
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0)
    return found.st_dev, found.st_ino
