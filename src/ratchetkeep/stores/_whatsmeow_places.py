"""Where a whatsmeow database is: how it is found, opened and owned, and how a device gets there."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from urllib.parse import quote

from ratchetkeep.errors import (
    CommitFailed,
    DeviceExists,
    NoDevice,
    RatchetkeepError,
    StoreUnreadable,
)

from . import _sqlite_file as sql
from . import _whatsmeow_sqlite as sqlite
from ._moved import MarkFile
from ._whatsmeow_owned import Owned, OwnedFile, OwnedSession, open_postgres, ownership
from ._whatsmeow_sql import Database
from ._whatsmeow_sqlite import SqliteDatabase
from .base import Finding
from .disk import Disk


class Staging(ABC):
    """A transaction that puts a device together."""

    db: Database

    @abstractmethod
    def name(self, jid: str) -> None:
        """Become the owner of the device that it turns out to be.

        :raises StoreInUse: if another one is.
        """

    @abstractmethod
    def publish(self) -> None:
        """Make it durable."""

    @abstractmethod
    def close(self) -> None:
        """Drop what was not published."""


class Place(ABC):
    """A place for a database.

    :ivar url: its name in errors; holds no password.
    :ivar no_mark: why a device cannot be marked as moved, in words; "" where it can.
    """

    url: str
    no_mark = ""
    # What is said of it where there is no database of whatsmeow's.
    nothing = "is not there"

    @abstractmethod
    def reader(self) -> Database | None:
        """A connection that reads one moment of the database; None if there is none."""

    @abstractmethod
    def own(self, name: str) -> Owned:
        """A connection that writes, for a device opened by ``name``; the database is made if there
        is none."""

    @abstractmethod
    def staging(self, name: str) -> Staging:
        """A transaction for a device; a new database is made with it."""

    @abstractmethod
    def holder(self, jid: str) -> str:
        """Who has the device open for writing, in words; "" if nobody has."""

    @abstractmethod
    def findings(self) -> Iterator[Finding]:
        """What is the matter with the place."""

    def mark(self, jid: str) -> MarkFile | None:
        """The file that says where a device was moved to, where there can be one."""
        return None

    def _nothing_changed(self, what: str) -> RatchetkeepError:
        return CommitFailed(self.url, what, "Nothing was changed")


class InFile(Place):
    """An SQLite file."""

    def __init__(self, path: str, url: str) -> None:
        self.path = path
        self.url = url

    def reader(self) -> Database | None:
        if not sqlite.is_there(self.path, self.url):
            return None
        return _looked_at(SqliteDatabase(self.path, self.url, read_only=True))

    def own(self, name: str) -> Owned:
        sql.make_folder_for(self.path, self.url)
        return OwnedFile.attach(self.path, self.url, name)

    def staging(self, name: str) -> Staging:
        if sqlite.is_there(self.path, self.url):
            return _InOwned(self, self.own(name), name)
        sql.make_folder_for(self.path, self.url)
        return _NewFile(self)

    def holder(self, jid: str) -> str:
        return ownership(self.path, self.url).holder()

    def findings(self) -> Iterator[Finding]:
        real = os.path.realpath(self.path)
        for path in (real, real + "-wal", real + "-journal"):
            try:
                is_open = Disk().mode(path) & 0o077
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StoreUnreadable(path, f"cannot be read: {error.strerror}") from None
            if is_open:
                yield Finding("warning", path, "can be read by other users", f"chmod go= {path}")

    def mark(self, jid: str) -> MarkFile:
        name = quote(jid, safe="@:+")
        return MarkFile(f"{os.path.realpath(self.path)}.{name}.ratchetkeep-moved", self.url)


class InPostgres(Place):
    """A PostgreSQL database."""

    nothing = "has no tables of whatsmeow's"
    no_mark = "whatsmeow's tables have no place for it, and there is none beside them"

    def __init__(self, conninfo: str, url: str) -> None:
        self._conninfo = conninfo
        self.url = url

    def reader(self) -> Database | None:
        return _looked_at(open_postgres(self._conninfo, self.url, read_only=True))

    def own(self, name: str) -> Owned:
        owned = OwnedSession(self._conninfo, self.url)
        try:
            with owned.db.mapped(self._nothing_changed):
                if not owned.db.look():
                    owned.db.begin()
                    owned.make()
                    owned.db.commit()
        except BaseException:
            owned.detach(name)
            raise
        return owned

    def staging(self, name: str) -> Staging:
        return _InOwned(self, OwnedSession(self._conninfo, self.url), name)

    def holder(self, jid: str) -> str:
        db = open_postgres(self._conninfo, self.url)
        try:
            with db.mapped():
                return db.holder(jid)
        finally:
            db.close()

    def findings(self) -> Iterator[Finding]:
        return iter(())


def _looked_at(db: Database) -> Database | None:
    try:
        if db.look():
            return db
    except BaseException:
        db.close()
        raise
    db.close()
    return None


class _InOwned(Staging):
    """In a database that may hold other devices."""

    def __init__(self, place: Place, owned: Owned, name: str) -> None:
        self._owned, self._name = owned, name
        self._nothing_changed = place._nothing_changed
        self.db = owned.db
        owned.lock.acquire()
        try:
            owned.check()
            with self.db.mapped(self._nothing_changed):
                owned.db.begin()
                owned.make()
        except BaseException:
            self.close()
            raise

    def name(self, jid: str) -> None:
        self._owned.name(self._name, jid)

    def publish(self) -> None:
        self._owned.check()
        with self.db.mapped(self._nothing_changed):
            self.db.commit()

    def close(self) -> None:
        self.db.rollback()
        self._owned.lock.release()
        self._owned.detach(self._name)


class _NewFile(Staging):
    """A new file beside its place, renamed when it is whole."""

    def __init__(self, place: InFile) -> None:
        self._place = place
        self._real = os.path.realpath(place.path)
        # Owned while it is put together, so that nobody makes a device there meanwhile.
        self._owner = ownership(place.path, place.url)
        self._owner.take()
        self._path = ""
        self._is_closed = False
        try:
            self._path = sql.begin_staging(self._real, sqlite.fill)
            self._refuse_others()
            self.db = SqliteDatabase(self._path, place.url)
            self.db.look()
            with self.db.mapped(place._nothing_changed):
                self.db.begin()
        except BaseException:
            self.close()
            raise

    def _refuse_others(self) -> None:
        if sql.look(self._real):
            raise DeviceExists(self._place.url, "was made by another program meanwhile")

    def name(self, jid: str) -> None:
        """Nobody else can have it."""

    def publish(self) -> None:
        self._owner.check()
        self._refuse_others()
        with self.db.mapped(self._place._nothing_changed):
            self.db.commit()
        self._is_closed = True
        self.db.close()
        try:
            sql.publish(self._path, self._real)
        except OSError as error:
            raise sql.write_failed(self._place.url, error) from None

    def close(self) -> None:
        if hasattr(self, "db") and not self._is_closed:
            self.db.rollback()
            self.db.close()
        if self._path:
            for suffix in ("", "-journal"):
                Disk().unlink(self._path + suffix)
        self._owner.release()


def no_device(url: str, jids: list[str], wanted: str = "") -> NoDevice:
    """The error where no device, or no single one, is meant."""
    names = ", ".join(f"?jid={quote(jid, safe='@:')}" for jid in jids[:20])
    more = ", and more" if len(jids) > 20 else ""
    what = f"holds no device {wanted!r}" if wanted else f"holds {len(jids) or 'no'} devices"
    remedy = f"Name one of those it holds behind the database: {names}{more}" if jids else None
    return NoDevice(url, what, remedy)
