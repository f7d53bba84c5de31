"""whatsmeow's own SQL tables, as its clients (neonize, Go programs) keep them:
``whatsmeow:PATH?jid=JID`` for SQLite, ``whatsmeow:postgresql://...?jid=JID`` for PostgreSQL.

A device is named by its JID; without one in the URL it is the only device there is, or for a copy
to here the one that the credentials are of. A reader sees one moment of the database, whatever a
client writes meanwhile. Our owners keep each other out, but whatsmeow knows of no owner: stop the
client before anything is written.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

from msgspec import msgpack

from ratchetkeep.errors import (
    CommitFailed,
    DeviceExists,
    InvalidValue,
    NoDevice,
    NotHeld,
    ReadOnly,
    StoreClosed,
    StoreInUse,
)
from ratchetkeep.formats import Encoded, Loss
from ratchetkeep.formats import whatsmeow as format
from ratchetkeep.model import CREDENTIALS, Key

from . import _whatsmeow_device as devices
from ._moved import Moved, moved_now
from ._whatsmeow_owned import Owned
from ._whatsmeow_places import InFile, InPostgres, Place, no_device
from ._whatsmeow_rows import FAMILY, PAGE, outdated
from ._whatsmeow_sql import Database, Row
from .base import DEFAULT_DEVICE, Finding, Joint, LeftBehind, Prepared, Stage, Store, entries_of


class WhatsmeowStore(Store):
    """The store in a whatsmeow database.

    :param path: of an SQLite file, or libpq's URL of a PostgreSQL database.
    :param url: its name in errors, without a password.
    """

    kind = "whatsmeow"
    format = format
    reads_snapshots = True

    def __init__(self, path: str, url: str) -> None:
        self.url = url
        self._place: Place = InPostgres(path, url) if is_postgres(path) else InFile(path, url)
        self.no_mark = self._place.no_mark
        self._owned: dict[str, Owned] = {}
        self._readers: dict[str, tuple[Database, str]] = {}
        self._lock = threading.RLock()
        # What the tables have room for, once that is known.
        self._columns: devices.Columns | None = None
        # Ids of mappings of a source that its other ones contradict.
        self._outdated: set[str] = set()
        # The highest id of a source's pre-keys.
        self._highest: int | None = None
        # What a copy to here asked for.
        self._asked = DEFAULT_DEVICE, False

    # -- opening and closing

    def devices(self) -> list[str]:
        db = self._place.reader()
        if db is None:
            return []
        try:
            self._columns = db.columns
            return devices.jids(db)
        finally:
            db.close()

    def acquire(self, device: str, *, read_only: bool, create: bool) -> None:
        if device in self._owned or device in self._readers:
            raise StoreInUse(self.url, f"device {device!r} is open already in this process")
        db = self._place.reader()
        if db is None and not create:
            raise NoDevice(self.url, self._place.nothing)
        try:
            jid = self._jid(db, device, create=create)
            if read_only and db is not None:
                self._columns = db.columns
                self._readers[device] = db, jid
                db = None
        finally:
            if db is not None:
                db.close()
        if not read_only:
            self._own(device, jid)

    def _jid(self, db: Database | None, device: str, *, create: bool) -> str:
        """The JID that a device's name stands for; "" if the credentials are to say it."""
        jids = [] if db is None else devices.jids(db)
        if device in jids or (device != DEFAULT_DEVICE and create):
            return device
        if device != DEFAULT_DEVICE:
            raise no_device(self.url, jids, device)
        if len(jids) == 1:
            return jids[0]
        if jids or not create:
            raise no_device(self.url, jids)
        return ""

    def _own(self, device: str, jid: str) -> None:
        owned = self._place.own(device)
        try:
            owned.name(device, jid)
        except BaseException:
            owned.detach(device)
            raise
        self._columns = owned.db.columns
        self._owned[device] = owned

    def release(self, device: str) -> None:
        reader, _ = self._readers.pop(device, (None, ""))
        if reader is not None:
            reader.close()
        owned = self._owned.pop(device, None)
        if owned is not None:
            owned.detach(device)

    def close(self) -> None:
        for device in [*self._owned, *self._readers]:
            self.release(device)

    # -- reading

    def _using(self, device: str) -> tuple[Database, str, threading.RLock]:
        owned = self._owned.get(device)
        if owned is not None:
            return owned.db, owned.names[device], owned.lock
        if device in self._readers:
            return *self._readers[device], self._lock
        raise StoreClosed(self.url, f"device {device!r} is not open")

    def read(self, device: str, keys: Iterable[Key]) -> dict[Key, bytes]:
        db, jid, lock = self._using(device)
        with lock, db.mapped():
            return devices.read(db, jid, keys)

    def scan(self, device: str, family: str | None = None) -> Iterator[Key]:
        db, jid, lock = self._using(device)
        if family in (None, CREDENTIALS.family):
            with lock, db.mapped():
                if devices.is_there(db, jid):
                    yield CREDENTIALS
        for each in FAMILY if family is None else FAMILY.keys() & {family}:
            yield from self._scan(device, each)

    def _scan(self, device: str, family: str) -> Iterator[Key]:
        after: Row | None = None
        while True:
            db, jid, lock = self._using(device)
            with lock, db.mapped():
                page = FAMILY[family].page(db, jid, after)
            for after in page:
                yield from FAMILY[family].keys_of(db, after)
            if len(page) < PAGE:
                return

    def where(self, device: str, key: Key) -> str:
        known = device in self._owned or device in self._readers
        jid = self._using(device)[1] if known else device
        return f"{self.url} ({devices.where(jid, key)})"

    def trace(self, device: str) -> str:
        db, jid, lock = self._using(device)
        with lock, db.mapped():
            return devices.trace(db, jid) if jid else ""

    def left_behind(self, device: str) -> list[LeftBehind]:
        db, jid, lock = self._using(device)
        with lock, db.mapped():
            return devices.left_behind(db, jid)

    def findings(self, device: str) -> Iterator[Finding]:
        db, _, lock = self._using(device)
        with lock:
            problems = db.problems()
        for severity, problem in problems:
            remedy = "Restore it from a backup, or copy what can be read to a new store"
            yield Finding(severity, self.url, f"SQLite finds: {problem}", remedy)
        yield from self._place.findings()

    def holder(self, device: str) -> str:
        return self._place.holder(self._named(device))

    def _named(self, device: str) -> str:
        """The JID of a device that need not be open."""
        if device in self._owned or device in self._readers:
            return self._using(device)[1]
        jids = self.devices() if device == DEFAULT_DEVICE else []
        return jids[0] if len(jids) == 1 else device

    # -- writing

    def foresee(self, source: Store, device: str) -> None:
        raw = source.read(device, [CREDENTIALS]).get(CREDENTIALS)
        if raw is not None:
            credentials = source.decode(device, CREDENTIALS, raw)
            made = self.format.encode(CREDENTIALS, credentials, credentials).data
            if made is not None:
                self._check_vacant_for(devices.jid_of(made))
        keys = source.scan(device, "lid-mapping")
        mappings: dict[str, str] = {}
        for key, raw in entries_of(source, device, keys):
            value = source.decode(device, key, raw)
            if isinstance(value, str):
                mappings[key.id] = value
        self._outdated = outdated(mappings)
        numbers = (format.pre_key_number(key.id) for key in source.scan(device, "pre-key"))
        self._highest = max((number for number in numbers if number is not None), default=0)

    def fits(self, key: Key, data: bytes) -> Encoded:
        """The part of a record that this database has columns for; see :class:`Store`."""
        if key.family == "lid-mapping" and key.id in self._outdated:
            what = "another record says otherwise, and whatsmeow keeps one partner for each"
            return Encoded(None, (Loss("", what, True),))
        losses: tuple[Loss, ...] = ()
        if key == CREDENTIALS and self._highest is not None:
            losses = devices.recount(self._highest, data)
        if self._columns is None:
            return Encoded(data, losses)
        fitted, more = devices.fit(self._columns, key, data)
        return Encoded(fitted, (*losses, *more))

    def apply(self, *batches: Prepared) -> None:
        joints = {id(each): each for each in (self._writable(batch.device) for batch in batches)}
        if len(joints) > 1:
            what = "devices of a PostgreSQL database are committed each by itself"
            raise InvalidValue(self.url, what)
        for joint in joints.values():
            joint.apply(*batches)

    def joint(self, device: str) -> Joint:
        return self._writable(device)

    def _writable(self, device: str) -> Owned:
        if device in self._readers:
            raise ReadOnly(self.url, "was opened read-only")
        if device not in self._owned:
            raise StoreClosed(self.url, f"device {device!r} is not open")
        return self._owned[device]

    def check_vacant(self, device: str, *, overwrite: bool) -> None:
        self._asked = device, overwrite
        super().check_vacant(device, overwrite=overwrite)

    def _check_vacant_for(self, jid: str) -> None:
        """As :meth:`check_vacant`, now that the credentials say whose they are."""
        device, overwrite = self._asked
        if device not in (DEFAULT_DEVICE, jid):
            what = f"the credentials are of {jid}, and whatsmeow keeps a device under its own JID"
            raise InvalidValue(self.url, what, "Name that one, or none, behind the database")
        super().check_vacant(jid, overwrite=overwrite)

    def stage(self, device: str, *, overwrite: bool) -> AbstractContextManager[Stage]:
        return _Stage(self, device, overwrite)

    def remove(self, device: str) -> None:
        owned = self._writable(device)
        jid = owned.names[device]
        with owned.lock, owned.db.mapped(lambda what: CommitFailed(self.url, what)):
            owned.check()
            owned.db.begin()
            try:
                devices.remove(owned.db, jid)
                owned.db.commit()
            except BaseException:
                owned.db.rollback()
                raise
        self._unmark(jid)
        self.release(device)

    # -- devices that were moved

    def mark_moved(self, device: str, to: str) -> None:
        owned = self._writable(device)
        mark = self._place.mark(owned.names[device])
        if mark is None:
            raise NotHeld(self.url, f"cannot be marked as moved: {self.no_mark}")
        owned.check()
        mark.write(moved_now(to))

    def moved(self, device: str) -> Moved | None:
        mark = self._place.mark(self._named(device))
        return mark.read() if mark else None

    def _unmark(self, jid: str) -> None:
        mark = self._place.mark(jid)
        if mark is not None:
            mark.remove()


def is_postgres(path: str) -> bool:
    """True for a URL of a PostgreSQL database, False for a path."""
    return path.startswith(("postgresql://", "postgres://"))


class _Stage:
    """A device in one transaction of the database. The credentials come first: all other rows
    belong to theirs, and they say whose they are."""

    def __init__(self, store: WhatsmeowStore, device: str, overwrite: bool) -> None:
        self._store, self._device, self._overwrite = store, device, overwrite
        self._jid = ""
        self._credentials = b""

    def __enter__(self) -> Self:
        self._store.check_vacant(self._device, overwrite=self._overwrite)
        self._staging = self._store._place.staging(self._device)
        self._db = self._staging.db
        return self

    def write(self, changes: Mapping[Key, bytes]) -> None:
        credentials = changes.get(CREDENTIALS)
        with self._mapped():
            if credentials is not None and not self._jid:
                self._begin(devices.jid_of(credentials))
            if not self._jid:
                what = "the credentials of a whatsmeow device are written before its records"
                raise InvalidValue(self._store.url, what)
            devices.write(self._db, self._jid, changes)
        self._credentials = credentials or self._credentials

    def _begin(self, jid: str) -> None:
        if self._device not in (DEFAULT_DEVICE, jid):
            what = f"the credentials are of {jid}, and whatsmeow keeps a device under its own JID"
            raise InvalidValue(self._store.url, what, "Name that one, or none, behind the database")
        self._staging.name(jid)
        if devices.is_there(self._db, jid) and not self._overwrite:
            raise DeviceExists(self._store.url, f"holds a device {jid!r} already")
        devices.remove(self._db, jid)
        self._jid = jid

    def read(self, keys: Iterable[Key]) -> dict[Key, bytes]:
        with self._mapped():
            found = devices.read(self._db, self._jid, keys)
        if CREDENTIALS in found and self._is_as_written():
            # Their counters follow from records that may not be there yet.
            found[CREDENTIALS] = self._credentials
        return found

    def _is_as_written(self) -> bool:
        written: dict[str, Any] = msgpack.decode(self._credentials)["row"]
        row = devices.read_row(self._db, self._jid) or {}
        return all(row.get(name) == value for name, value in written.items())

    def publish(self) -> None:
        self._staging.publish()
        self._store._unmark(self._jid)

    def _mapped(self) -> AbstractContextManager[None]:
        url = self._store.url
        return self._db.mapped(lambda what: CommitFailed(url, what, "Nothing was changed"))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._staging.close()
