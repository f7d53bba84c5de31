"""A witness in a store: a device of its own there, whose records are what was seen.

It is named ``ratchetkeep-witness`` unless the URL names another one. Each history is a
``lid-mapping`` record: its id is the history's, its value the count, as text: every kind of store
holds those. The credentials beside them are made for it and belong to no account.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import closing

from ratchetkeep._witness_file import require_folder
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
# Shorter than the patience: a writer that was killed must not keep others from it.
LEASE = 4


class WitnessStore:
    """Counts in a store.

    :param url: the store's.
    :raises InvalidValue: for a store that holds nothing but paired devices.
    """

    def __init__(self, url: str) -> None:
        target = urls.parse(url)
        if target.kind == "whatsmeow":
            what = "holds paired devices alone, and no counts of a witness"
            raise InvalidValue(f"{urls.shown(target)} (witness)", what, "Name a file elsewhere")
        if target.device == DEFAULT_DEVICE and target.kind in _HOLD_MANY:
            target = target._replace(device=NAME)
        if self._is_server(target):
            target = target._replace(path=_with_lease(target.path))
        elif target.kind != "memory":
            target = target._replace(path=os.path.abspath(target.path))
        self.target = target
        self.identity: object = target
        self.place = urls.shown(target)

    @staticmethod
    def _is_server(target: urls.Target) -> bool:
        return "://" in target.path

    def _require_folder(self) -> None:
        if not self._is_server(self.target) and self.target.kind != "memory":
            require_folder(self.target.path)

    def read(self) -> dict[str, int]:
        """All counts by history; none where nothing is.

        :raises StoreDamaged: if it cannot be read; never taken for absence.
        :raises InvalidValue: if the device there is no witness.
        """
        self._require_folder()
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
            self._require_folder()  # it would be made
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
            credentials = self._credentials(store)
            wanted = [Key(FAMILY, history) for history in counts]
            known = self._decoded(store, store.read(name, wanted).items())
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
        entries = store.entries(self.target.device)
        return self._decoded(store, (each for each in entries if each[0] != CREDENTIALS))

    def _decoded(self, store: Store, entries: Iterable[tuple[Key, bytes]]) -> dict[str, int]:
        name, counts = self.target.device, {}
        for key, raw in entries:
            value = store.decode(name, key, raw) if key.family == FAMILY else None
            if not isinstance(value, str) or not value.isdecimal():
                raise StoreDamaged(store.where(name, key), "is not what a witness keeps")
            counts[key.id] = int(value)
        return counts


def _with_lease(path: str) -> str:
    """A server's URL with a lease of its own, unless it names one."""
    _, mark, query = path.partition("?")
    if any(part.startswith("lease=") for part in query.split("&")):
        return path
    return f"{path}{'&' if mark else '?'}lease={LEASE}"
