"""Look at a device without changing it: who it is, what it holds, how much, how old, and who owns
it. Nothing that is secret leaves this module."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ratchetkeep.device import open_in
from ratchetkeep.errors import StoreDamaged, StoreUnreadable
from ratchetkeep.model import CREDENTIALS, Credentials, Key
from ratchetkeep.prekeys import PreKeyStock, stock
from ratchetkeep.stores import urls
from ratchetkeep.stores.base import Store

if TYPE_CHECKING:
    from ratchetkeep.sealing.keys import SealKey

__all__ = ["DeviceSummary", "FamilySummary", "PreKeyStock", "inspect_device"]


@dataclass(frozen=True)
class FamilySummary:
    """The records of one family.

    :ivar size: bytes that they take as stored.
    """

    family: str
    records: int
    size: int


@dataclass(frozen=True)
class DeviceSummary:
    """One device, without its secrets.

    :ivar url: the store, without a password.
    :ivar device: the device's name in the store.
    :ivar paired: True once a phone has signed the device's identity.
    :ivar registered: the client's own flag; clients that pair by QR code leave it False.
    :ivar credentials_size: bytes that the credentials take as stored.
    :ivar changed: when the last commit was, or the file or folder changed; None where that is not
        known.
    :ivar synced: the last account sync that the client noted, or None.
    :ivar owner: who has it open for writing, in words; "" if nobody.
    :ivar moved_to: the URL of the place where it goes on, if it was moved; else "".
    :ivar moved_at: when it was moved, or None.
    """

    url: str
    kind: str
    device: str
    jid: str | None
    lid: str | None
    name: str | None
    platform: str | None
    paired: bool
    registered: bool
    registration_id: int
    signed_pre_key_id: int
    pre_keys: PreKeyStock
    credentials_size: int
    families: tuple[FamilySummary, ...]
    changed: datetime.datetime | None
    synced: datetime.datetime | None
    owner: str
    moved_to: str = ""
    moved_at: datetime.datetime | None = None

    @property
    def records(self) -> int:
        """Number of records, without the credentials."""
        return sum(family.records for family in self.families)

    @property
    def size(self) -> int:
        """Bytes of all records and the credentials, as stored."""
        return self.credentials_size + sum(family.size for family in self.families)


class _Count:
    """What one pass over the records adds up; holds no record."""

    def __init__(self) -> None:
        self.records: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.pre_keys: list[str] = []

    def add(self, key: Key, size: int) -> None:
        self.records[key.family] = self.records.get(key.family, 0) + 1
        self.sizes[key.family] = self.sizes.get(key.family, 0) + size
        if key.family == "pre-key" and key.id.isdecimal():
            self.pre_keys.append(key.id)


def inspect_device(
    url: str | os.PathLike[str], *, key: str | bytes | SealKey | None = None
) -> DeviceSummary:
    """Look at the device that ``url`` names, read-only; it may be in use.

    The credentials are decoded; of the other records only the size is taken, one at a time.
    :func:`verify_device` says whether they are whole.

    :param key: what opens a sealed store; see :func:`open_device`.
    :raises NoDevice: if nothing is there.
    :raises WrongKey: if it is sealed, and the key does not open it.
    :raises StoreDamaged: if the credentials, or a record's bytes, cannot be read.
    :raises UnknownStore: if ``url`` names no store.
    """
    target = urls.parse(url)
    store = urls.open_target(target, key)
    with open_in(store, target.device, create=False, read_only=True, owns_store=True) as device:
        # Taken before the pass: an owner that is there now may remove records during it.
        owner = store.holder(target.device)
        credentials = device.credentials
        count = _count(store, target.device, in_use=bool(owner))
        return _summary(store, target, credentials, count, owner)


def _count(store: Store, device: str, *, in_use: bool) -> _Count:
    count = _Count()
    for key in store.scan(device):
        size = _size(store, device, key, in_use=in_use)
        if size is not None:
            count.add(key, size)
    return count


def _size(store: Store, device: str, key: Key, *, in_use: bool) -> int | None:
    """Bytes of a record, or None if its owner removed it since the scan."""
    try:
        raw = store.read(device, [key]).get(key)
    except StoreUnreadable:
        raise
    except StoreDamaged:
        if in_use and key != CREDENTIALS:
            return None
        raise
    return None if raw is None else len(raw)


def _summary(
    store: Store, target: urls.Target, credentials: Credentials, count: _Count, owner: str
) -> DeviceSummary:
    me = credentials.me
    moved = store.moved(target.device)
    families = sorted(family for family in count.records if family != CREDENTIALS.family)
    return DeviceSummary(
        url=store.url,
        kind=target.kind,
        device=target.device,
        jid=me.id if me else None,
        lid=me.lid if me else None,
        name=me.name if me else None,
        platform=credentials.platform,
        paired=credentials.account is not None,
        registered=credentials.registered,
        registration_id=credentials.registration_id,
        signed_pre_key_id=credentials.signed_pre_key.key_id,
        pre_keys=stock(count.pre_keys, credentials),
        credentials_size=count.sizes.get(CREDENTIALS.family, 0),
        families=tuple(FamilySummary(f, count.records[f], count.sizes[f]) for f in families),
        changed=store.committed(target.device) or _changed(target),
        synced=_time(credentials.last_account_sync_timestamp),
        owner=owner,
        moved_to=moved.to if moved else "",
        moved_at=moved.at if moved else None,
    )


def _changed(target: urls.Target) -> datetime.datetime | None:
    """When the place's files last changed; a store that is no file or folder does not say."""
    newest = max(_times(target), default=None)
    return None if newest is None else datetime.datetime.fromtimestamp(newest, datetime.UTC)


def _times(target: urls.Target) -> Iterator[float]:
    if target.kind == "memory":
        return
    for path in (target.path, target.path + "-wal"):
        # A path that is a folder does not count by itself: looking for the owner touches it.
        # An empty log is one that a reader made.
        with suppress(OSError):
            if os.path.isfile(path) and os.path.getsize(path):
                yield os.path.getmtime(path)
    with suppress(OSError), os.scandir(target.path) as entries:
        for entry in entries:
            with suppress(OSError):
                if not entry.name.startswith((".ratchetkeep.lock", ".ratchetkeep.owner")):
                    yield entry.stat(follow_symlinks=False).st_mtime


def _time(value: Any) -> datetime.datetime | None:
    """A moment in seconds since 1970: a number, its text, or a JS Long; None if it is no date."""
    if isinstance(value, Mapping):
        value = (int(value["high"]) << 32) | (int(value["low"]) & 0xFFFFFFFF)
    try:
        return datetime.datetime.fromtimestamp(int(value), datetime.UTC) if value else None
    except (ValueError, OverflowError, OSError, TypeError):
        return None
