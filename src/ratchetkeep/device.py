"""A device: the auth state of one linked device, with a cache, transactions and its credentials."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

from ratchetkeep._cache import ABSENT, Cache
from ratchetkeep._locks import KeyLocks
from ratchetkeep.errors import (
    DeviceExists,
    InvalidValue,
    NoDevice,
    OwnershipLost,
    ReadOnly,
    StoreClosed,
    StoreDamaged,
)
from ratchetkeep.model import CREDENTIALS, Credentials, Key, check_key, check_record
from ratchetkeep.stores import urls
from ratchetkeep.stores.base import DEFAULT_DEVICE, Store

Records = Mapping[str, Mapping[str, Any]]

REMEDY_NEW = (
    "Nothing was changed, and no new credentials were made: they would replace this device. "
    "Restore the credentials from a backup, or choose an empty place"
)


class Transaction:
    """Changes that are committed together, or not at all. Made by :meth:`Device.transaction`."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._pending: dict[Key, Any] = {}
        self._held: set[str] = set()
        self._has_ended = False

    def _check_running(self) -> None:
        if self._has_ended:
            raise StoreClosed(self._device.url, "the transaction has ended", "Begin a new one")

    def get(self, family: str, ids: Iterable[str]) -> dict[str, Any]:
        """As :meth:`Device.get`, with this transaction's own changes."""
        self._check_running()
        found: dict[str, Any] = {}
        keys = [check_key(family, id) for id in _ids(ids)]
        stored = self._device._load([key for key in keys if key not in self._pending])
        for key in keys:
            value = self._pending[key] if key in self._pending else stored.get(key)
            if value is not None:
                found[key.id] = value
        return found

    def set(self, records: Records) -> None:
        """As :meth:`Device.set`, but nothing is stored before the transaction ends."""
        self._check_running()
        self._device._check_writable()
        self._pending.update(_checked(records))

    @property
    def credentials(self) -> Credentials:
        """The credentials, with this transaction's own changes."""
        pending = self._pending.get(CREDENTIALS)
        return self._device._credentials if pending is None else pending

    def save_credentials(self, credentials: Credentials) -> None:
        """As :meth:`Device.save_credentials`, but stored when the transaction ends."""
        self._check_running()
        self._device._check_writable()
        self._pending[CREDENTIALS] = _checked_credentials(credentials)

    @contextmanager
    def _savepoint(self) -> Iterator[Transaction]:
        before = dict(self._pending)
        try:
            yield self
        except BaseException:
            self._pending = before
            raise


class Device:
    """One linked device, open. Use it as a context manager; all methods are thread-safe.

    Values are those of :mod:`ratchetkeep.model`: ``session`` -> SessionRecord, ``pre-key`` ->
    KeyPair, ``sender-key`` -> SenderKeyRecord, ``sender-key-memory`` -> mapping of text to bool,
    ``app-state-sync-key`` -> AppStateSyncKey, ``app-state-sync-version`` -> AppStateSyncVersion,
    ``lid-mapping`` -> text, ``device-list`` -> tuple of texts, ``tctoken`` -> TcToken,
    ``identity-key`` -> bytes; or an EncodedRecord for a client's own encoding.
    """

    def __init__(self, store: Store, name: str, *, read_only: bool, owns_store: bool) -> None:
        self._store = store
        self._name = name
        self._read_only = read_only
        self._owns_store = owns_store
        self._is_open = True
        self._pid = os.getpid()
        self._cache = Cache()
        self._locks = KeyLocks()
        # Orders a commit with its entry into the cache, and loads with both.
        self._order = threading.RLock()
        self._current: ContextVar[Transaction | None] = ContextVar("transaction", default=None)
        self._credentials: Credentials

    def __repr__(self) -> str:
        state = "open" if self._is_open else "closed"
        return f"<Device {self._name!r} in {self._store.url} ({state})>"

    @property
    def name(self) -> str:
        """The device's name in its store."""
        return self._name

    @property
    def url(self) -> str:
        """The store's URL."""
        return self._store.url

    @property
    def credentials(self) -> Credentials:
        """The credentials; inside a transaction, with its changes."""
        if not self._is_open:
            raise StoreClosed(self._store.url, "the device was closed")
        transaction = self._running()
        return transaction.credentials if transaction else self._credentials

    def save_credentials(self, credentials: Credentials) -> None:
        """Replace the credentials; durable on return.

        :raises InvalidValue: if they are not :class:`Credentials`.
        :raises CommitFailed: if they could not be made durable.
        """
        with self.transaction() as transaction:
            transaction.save_credentials(credentials)

    def get(self, family: str, ids: Iterable[str]) -> dict[str, Any]:
        """Records by id; ids that are not there are left out.

        :raises InvalidValue: for an unknown family or an id that is not text.
        :raises StoreDamaged: if one of them is there and cannot be read.
        """
        self._check_open()
        transaction = self._running()
        if transaction:
            return transaction.get(family, ids)
        keys = [check_key(family, id) for id in _ids(ids)]
        return {key.id: value for key, value in self._load(keys).items()}

    def set(self, records: Records) -> None:
        """Store ``{family: {id: value}}`` in one atomic, durable commit; None deletes.

        :raises InvalidValue: naming the member that is refused; nothing is stored.
        :raises NotHeld: if the store's format has no place for part of a value.
        :raises CommitFailed: if it could not be made durable.
        """
        with self.transaction() as transaction:
            transaction.set(records)

    @contextmanager
    def transaction(self, *keys: str) -> Iterator[Transaction]:
        """Commit everything set inside together, on leaving; an exception drops it all.

        :param keys: names to lock, any text (ids that are read and then written, say): no other
            transaction that names one of them runs meanwhile.

        A transaction inside another joins it: what it sets is committed with the outer one, and
        if it fails, what it set is dropped even where the outer one goes on.
        """
        self._check_open()
        outer = self._running()
        transaction = outer or Transaction(self)
        # What an inner one locks stays locked until its changes are committed, with the outer one.
        transaction._held |= self._locks.take(transaction, keys)
        try:
            if outer:
                with outer._savepoint():
                    yield outer
                return
            token = self._current.set(transaction)
            try:
                yield transaction
            finally:
                transaction._has_ended = True
                self._current.reset(token)
            self._commit(transaction._pending)
        finally:
            if not outer:
                self._locks.give_back(transaction._held)

    def ids(self, family: str) -> list[str]:
        """All ids of a family, sorted; inside a transaction, with its changes.

        :raises InvalidValue: for an unknown family.
        """
        self._check_open()
        check_key(family, "1")
        found = {key.id for key in self._store.scan(self._name, family)}
        transaction = self._running()
        for key, value in (transaction._pending if transaction else {}).items():
            if key.family == family:
                (found.discard if value is None else found.add)(key.id)
        return sorted(found)

    def clear(self) -> None:
        """Delete all Signal key records in one commit; the credentials stay."""
        with self.transaction() as transaction:
            self._check_writable()
            keys = [*self._store.scan(self._name), *transaction._pending]
            transaction._pending.update(
                {key: None for key in keys if key.family != CREDENTIALS.family}
            )

    def close(self) -> None:
        """Give the device back. Everything is in its final place when this returns."""
        if os.getpid() != self._pid:
            return  # a forked child: the device is its parent's
        with self._order:
            if not self._is_open:
                return
            self._is_open = False
            self._cache.clear()
            try:
                self._store.release(self._name)
            finally:
                if self._owns_store:
                    self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _running(self) -> Transaction | None:
        """The transaction that this context is in. A context can outlive it (a task that was
        started inside), so one that has ended does not count."""
        current = self._current.get()
        return None if current is None or current._has_ended else current

    def _check_open(self) -> None:
        # First of all: a lock that another thread held while forking is held for ever here.
        if os.getpid() != self._pid:
            what = "was opened by another process, which forked this one"
            raise OwnershipLost(self._store.url, what)
        if not self._is_open:
            raise StoreClosed(self._store.url, "the device was closed")

    def _check_writable(self) -> None:
        self._check_open()
        if self._read_only:
            raise ReadOnly(self._store.url, "the device was opened read-only")

    def _load(self, keys: list[Key]) -> dict[Key, Any]:
        found = {key: self._cache.get(key) for key in keys}
        missing = [key for key, value in found.items() if value is None]
        if missing:
            with self._order:
                raw = self._store.read(self._name, missing)
                for key in missing:
                    data = raw.get(key)
                    value = ABSENT if data is None else self._store.decode(self._name, key, data)
                    self._cache.put(key, value, len(data or b""))
                    found[key] = value
        return {key: value for key, value in found.items() if value is not ABSENT}

    def _commit(self, changes: dict[Key, Any]) -> None:
        if not changes:
            return
        self._check_writable()
        credentials = changes.get(CREDENTIALS, self._credentials)
        prepared = self._store.prepare(self._name, changes, credentials)
        with self._order:
            self._store.apply(prepared)
            if CREDENTIALS in changes:
                self._credentials = credentials
            for key, value in changes.items():
                data = prepared.changes[key]
                self._cache.put(key, ABSENT if value is None else value, len(data or b""))


def _ids(ids: Iterable[str]) -> Iterable[str]:
    if isinstance(ids, str | bytes):
        raise InvalidValue("ids", "expected a list of ids, got one text", "Pass [id]")
    return ids


def _checked(records: Records) -> dict[Key, Any]:
    if not isinstance(records, Mapping):
        raise InvalidValue("records", "expected a mapping {family: {id: value}}")
    checked: dict[Key, Any] = {}
    for family, members in records.items():
        if not isinstance(members, Mapping):
            raise InvalidValue(str(family)[:40], "expected a mapping {id: value}")
        for id, value in members.items():
            key = check_key(family, id)
            checked[key] = None if value is None else check_record(key, value)
    return checked


def _checked_credentials(credentials: Credentials) -> Credentials:
    if type(credentials) is not Credentials:
        what = f"expected Credentials, got {type(credentials).__name__}"
        raise InvalidValue("credentials", what)
    return credentials


def open_in(
    store: Store,
    name: str,
    *,
    create: bool,
    read_only: bool,
    owns_store: bool = False,
    initial: Credentials | None = None,
    must_be_new: bool = False,
) -> Device:
    """Open a device of ``store``; see :func:`open_device`. ``initial`` are the credentials of a
    device that is made."""
    if create and read_only:
        raise InvalidValue("open_device", "create and read_only cannot both be asked for")
    store.acquire(name, read_only=read_only, create=create)
    device = Device(store, name, read_only=read_only, owns_store=owns_store)
    try:
        raw = store.read(name, [CREDENTIALS]).get(CREDENTIALS)
        if raw is not None and must_be_new:
            raise DeviceExists(store.url, f"holds a device {name!r} already")
        if raw is not None:
            device._credentials = store.decode(name, CREDENTIALS, raw)
            return device
        trace = store.trace(name)
        if trace:
            what = f"holds no credentials, but something of a device: {trace}"
            raise StoreDamaged(store.url, what, REMEDY_NEW)
        if not create:
            raise NoDevice(store.url, "holds no device")
        device._credentials = initial or Credentials.new()
        device._commit({CREDENTIALS: device._credentials})
        return device
    except BaseException:
        device.close()
        raise


def open_device(
    url: str | os.PathLike[str], create: bool = False, read_only: bool = False
) -> Device:
    """Open the device that ``url`` names: ``sqlite:PATH?device=NAME``, ``baileys:DIR``,
    ``baileysex:DIR``, ``memory:NAME``, or a bare path, which is looked at.

    :param create: make new credentials, committed before this returns, if the place holds no
        trace of a device.
    :param read_only: take no ownership, write nothing; possible while another process owns it.
    :raises NoDevice: if nothing is there and ``create`` is not set.
    :raises StoreDamaged: if something is there and cannot be read, or credentials are missing;
        never taken for absence.
    :raises StoreInUse: if another owner has the device open.
    :raises UnknownStore: if ``url`` names no store.
    """
    target = urls.parse(url)
    store = urls.open_target(target)
    return open_in(store, target.device, create=create, read_only=read_only, owns_store=True)


def create_device(url: str | os.PathLike[str], credentials: Credentials) -> Device:
    """Open the device that ``url`` names, as :func:`open_device`; if the place holds no trace of
    one it is made, with ``credentials``."""
    target = urls.parse(url)
    initial = _checked_credentials(credentials)
    return open_in(
        urls.open_target(target),
        target.device,
        create=True,
        read_only=False,
        owns_store=True,
        initial=initial,
    )


class DeviceStore:
    """A store with its devices. Made by :func:`open_store`; use it as a context manager."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._devices: WeakSet[Device] = WeakSet()
        self._pid = os.getpid()
        self._is_open = True

    def __repr__(self) -> str:
        return f"<DeviceStore {self._store.url}>"

    def devices(self) -> list[str]:
        """Names of the devices, sorted; a damaged one counts too."""
        self._check_open()
        return self._store.devices()

    def open(self, name: str = DEFAULT_DEVICE, read_only: bool = False) -> Device:
        """Open a device; raises as :func:`open_device`."""
        return self._opened(name, create=False, read_only=read_only)

    def create(self, name: str = DEFAULT_DEVICE) -> Device:
        """Make a device with new credentials and open it.

        :raises DeviceExists: if there is one of that name.
        """
        return self._opened(name, create=True, read_only=False, must_be_new=True)

    def remove(self, name: str = DEFAULT_DEVICE) -> None:
        """Remove a device with all its records, in one step. Its keys are gone for good.

        :raises NoDevice: if there is none of that name.
        :raises StoreInUse: if it is open.
        """
        self._check_open()
        urls.check_name(name, self._store.url)
        self._store.acquire(name, read_only=False, create=False)
        try:
            self._store.remove(name)
        finally:
            self._store.release(name)

    def close(self) -> None:
        """Close the store and what is still open in it."""
        if os.getpid() != self._pid:
            return  # a forked child: they are its parent's
        self._is_open = False
        for device in list(self._devices):
            device.close()
        self._store.close()

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreClosed(self._store.url, "the store was closed")

    def _opened(self, name: str, **how: bool) -> Device:
        self._check_open()
        urls.check_name(name, self._store.url)
        device = open_in(self._store, name, **how)  # type: ignore[arg-type]
        self._devices.add(device)
        return device

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_store(url: str | os.PathLike[str]) -> DeviceStore:
    """The store that ``url`` names, with its devices; ``?device=`` has no meaning here.

    :raises UnknownStore: if ``url`` names no store.
    """
    return DeviceStore(urls.open_target(urls.parse(url)))
