"""A witness in a store: a device of its own there, whose records are what was seen.

It is named ``ratchetkeep-witness`` unless the URL names another one. Each history is a
``lid-mapping`` record: its id is the history's, its value the count, as text: every kind of store
holds those. The credentials beside them are made for it and belong to no account.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing

from ratchetkeep.errors import (
    CommitFailed,
    InvalidValue,
    NoDevice,
    RatchetkeepError,
    StoreDamaged,
    StoreInUse,
)
from ratchetkeep.model import CREDENTIALS, Credentials, Key
from ratchetkeep.stores import urls
from ratchetkeep.stores.base import DEFAULT_DEVICE, Store

__all__ = ["WitnessStore"]

NAME = "ratchetkeep-witness"
FAMILY = "lid-mapping"
# Seconds that another process may have it open, to note what it saw.
PATIENCE = 10.0
_HOLD_MANY = ("sqlite", "postgresql", "memory")


class WitnessStore:
    """Counts in a store.

    :param url: the store's.
    """

    def __init__(self, url: str) -> None:
        target = urls.parse(url)
        if target.device == DEFAULT_DEVICE and target.kind in _HOLD_MANY:
            target = target._replace(device=NAME)
        self.target = target
        self.place = urls.shown(target)

    def read(self) -> dict[str, int]:
        """All counts by history; none where nothing is.

        :raises StoreDamaged: if it cannot be read; never taken for absence.
        :raises InvalidValue: if the device there is no witness.
        """
        with closing(urls.open_target(self.target)) as store:
            try:
                store.acquire(self.target.device, read_only=True, create=False)
            except NoDevice:
                return {}
            return self._counts(store)

    def note(self, counts: Mapping[str, int]) -> None:
        """Keep these counts too, durable on return. No count ever goes down.

        :raises CommitFailed: if they could not be written.
        """
        try:
            with closing(urls.open_target(self.target)) as store:
                self._acquire(store)
                self._note(store, counts)
        except CommitFailed:
            raise
        except RatchetkeepError as error:
            what = f"cannot keep what the witness saw: {error.what}"
            raise CommitFailed(self.place, what, error.remedy) from None

    def _acquire(self, store: Store) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                store.acquire(self.target.device, read_only=False, create=True)
                return
            except StoreInUse:
                if time.monotonic() > end:
                    raise
            time.sleep(0.05)

    def _note(self, store: Store, counts: Mapping[str, int]) -> None:
        name = self.target.device
        changes: dict[Key, object] = {}
        if not store.trace(name):
            known: dict[str, int] = {}
            changes[CREDENTIALS] = credentials = Credentials.new()
        else:
            known = self._counts(store)
            credentials = self._credentials(store)
        for history, count in counts.items():
            if count > known.get(history, 0):
                changes[Key(FAMILY, history)] = str(count)
        if changes:
            store.apply(store.prepare(name, changes, credentials))

    def _credentials(self, store: Store) -> Credentials:
        name = self.target.device
        raw = store.read(name, [CREDENTIALS]).get(CREDENTIALS)
        if raw is None:
            raise StoreDamaged(self.place, "holds no credentials, but something of a device")
        found: Credentials = store.decode(name, CREDENTIALS, raw)
        if found.me is not None or found.registered:
            what = "holds a device that is paired: a witness has a place of its own"
            raise InvalidValue(self.place, what, "Name another place for the witness")
        return found

    def _counts(self, store: Store) -> dict[str, int]:
        self._credentials(store)
        name, counts = self.target.device, {}
        for key, raw in store.entries(name):
            if key == CREDENTIALS:
                continue
            value = store.decode(name, key, raw) if key.family == FAMILY else None
            if not isinstance(value, str) or not value.isdecimal():
                raise StoreDamaged(store.where(name, key), "is not what a witness keeps")
            counts[key.id] = int(value)
        return counts
