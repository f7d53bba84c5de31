"""The reference store: everything in this process's memory, and gone with it.

``memory:NAME`` is one store for the whole process, so that closing and opening can be tested;
``memory:`` alone is a new one each time.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from ratchetkeep.errors import (
    DeviceExists,
    NoDevice,
    OwnershipLost,
    ReadOnly,
    StoreClosed,
    StoreInUse,
)
from ratchetkeep.formats import native
from ratchetkeep.model import Key

from ._moved import Moved, moved_now
from .base import Finding, History, Prepared, Stage, Store

_PLACES: dict[str, _Place] = {}


class _Place:
    """The devices of one name, and who has them open."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.devices: dict[str, dict[Key, bytes]] = {}
        self.owned: set[str] = set()
        self.moved: dict[str, Moved] = {}
        self.histories: dict[str, History] = {}
        self.pid = os.getpid()

    def count(self, device: str) -> None:
        """A commit was made."""
        before = self.histories.get(device) or _begun()
        self.histories[device] = before._replace(commits=before.commits + 1)


class MemoryStore(Store):
    """Devices in memory, in the native format."""

    kind = "memory"
    format = native
    reads_snapshots = True

    def __init__(self, name: str) -> None:
        self.url = f"memory:{name}"
        self._place = _PLACES.setdefault(name, _Place()) if name else _Place()
        self._owned: set[str] = set()
        self._snapshots: dict[str, dict[Key, bytes]] = {}
        self._seen: dict[str, History | None] = {}

    def devices(self) -> list[str]:
        return sorted(self._place.devices)

    def acquire(self, device: str, *, read_only: bool, create: bool) -> None:
        with self._place.lock:
            if device not in self._place.devices and not create:
                raise NoDevice(self.url, f"holds no device {device!r}")
            if device in self._owned or device in self._snapshots:
                raise StoreInUse(self.url, f"device {device!r} is open already in this process")
            if read_only:
                self._snapshots[device] = dict(self._place.devices[device])
                self._seen[device] = self._place.histories.get(device)
                return
            if device in self._place.owned:
                raise StoreInUse(self.url, f"device {device!r} is open already in this process")
            self._place.owned.add(device)
            self._owned.add(device)

    def release(self, device: str) -> None:
        self._snapshots.pop(device, None)
        if device in self._owned:
            self._owned.discard(device)
            self._place.owned.discard(device)

    def close(self) -> None:
        for device in [*self._owned, *self._snapshots]:
            self.release(device)

    def _records(self, device: str) -> dict[Key, bytes]:
        if device in self._snapshots:
            return self._snapshots[device]
        if device not in self._owned:
            raise StoreClosed(self.url, f"device {device!r} is not open")
        return self._place.devices.get(device, {})

    def read(self, device: str, keys: Iterable[Key]) -> dict[Key, bytes]:
        with self._place.lock:
            records = self._records(device)
            return {key: records[key] for key in keys if key in records}

    def scan(self, device: str, family: str | None = None) -> Iterator[Key]:
        with self._place.lock:
            keys = list(self._records(device))
        return (key for key in keys if family is None or key.family == family)

    def apply(self, *batches: Prepared) -> None:
        with self._place.lock:
            for batch in batches:
                if batch.device in self._snapshots:
                    raise ReadOnly(self.url, "was opened read-only")
                self._records(batch.device)
            if os.getpid() != self._place.pid:
                raise OwnershipLost(self.url, "was opened by another process, which forked this")
            for batch in batches:
                records = self._place.devices.setdefault(batch.device, {})
                _change(records, batch.changes)
                self._place.count(batch.device)

    def history(self, device: str) -> History | None:
        with self._place.lock:
            self._records(device)
            of_now = self._place.histories.get(device)
            return self._seen[device] if device in self._snapshots else of_now

    def holder(self, device: str) -> str:
        return "this process" if device in self._place.owned else ""

    def trace(self, device: str) -> str:
        count = len(self._place.devices.get(device, ()))
        return f"{count} records" if count else ""

    def stage(self, device: str, *, overwrite: bool) -> AbstractContextManager[Stage]:
        return _MemoryStage(self, self._place, device, overwrite)

    def remove(self, device: str) -> None:
        with self._place.lock:
            self._records(device)
            self._place.devices.pop(device, None)
            self._place.histories.pop(device, None)
            self._place.moved.pop(device, None)
            self.release(device)

    def mark_moved(self, device: str, to: str) -> None:
        with self._place.lock:
            if device in self._snapshots:
                raise ReadOnly(self.url, "was opened read-only")
            self._records(device)
            self._place.moved[device] = moved_now(to)

    def moved(self, device: str) -> Moved | None:
        return self._place.moved.get(device)

    def findings(self, device: str) -> Iterator[Finding]:
        return iter(())


def _begun() -> History:
    return History(secrets.token_hex(16), 0)


def _change(records: dict[Key, bytes], changes: Mapping[Key, bytes | None]) -> None:
    for key, data in changes.items():
        if data is None:
            records.pop(key, None)
        else:
            records[key] = data


class _MemoryStage:
    def __init__(self, store: MemoryStore, place: _Place, device: str, overwrite: bool) -> None:
        self._store, self._place, self._device = store, place, device
        self._overwrite = overwrite
        self._records: dict[Key, bytes] = {}

    def __enter__(self) -> Self:
        if self._device in self._place.devices and not self._overwrite:
            raise DeviceExists(self._store.url, f"holds a device {self._device!r} already")
        self._store.acquire(self._device, read_only=False, create=True)
        return self

    def write(self, changes: Mapping[Key, bytes]) -> None:
        self._records.update(changes)

    def read(self, keys: Iterable[Key]) -> dict[Key, bytes]:
        return {key: self._records[key] for key in keys}

    def publish(self) -> None:
        with self._place.lock:
            self._place.devices[self._device] = self._records
            self._place.histories[self._device] = _begun()
            self._place.count(self._device)
            self._place.moved.pop(self._device, None)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._store.release(self._device)
