"""What is known of an open device: its credentials and a cache of its records."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ratchetkeep import _metrics
from ratchetkeep._cache import ABSENT, Cache, CountingCache
from ratchetkeep.commit import Commit
from ratchetkeep.errors import CommitFailed, OwnershipLost, RatchetkeepError, StoreClosed
from ratchetkeep.model import CREDENTIALS, Credentials, Key, check_key
from ratchetkeep.prekeys import Tally
from ratchetkeep.stores.base import Store

if TYPE_CHECKING:
    from ratchetkeep.witness import Watch

_log = logging.getLogger("ratchetkeep")

# Seconds that a callback is waited for: most have done their part by then.
BRIEF = 0.01

# A commit of more records than this (pre-keys, a history) would push out what is in use.
MANY = 64


class Memory:
    """Loads and commits meet here, so that neither sees half of the other.

    :ivar order: held by a commit from before it is durable until it is entered, and by a load.
    :ivar credentials: as they were last committed.
    """

    credentials: Credentials

    def __init__(self, store: Store, name: str, *, read_only: bool) -> None:
        self.url = store.url
        self.order = threading.RLock()
        self._store = store
        self._name = name
        self._recorder = _metrics.recorder()
        if self._recorder is None:
            self._cache, self._tally = Cache(), None
        else:
            self._cache = CountingCache(self._recorder.counts(store.kind))
            self._tally = Tally(store.kind, is_kept_up=not read_only)
            self._recorder.opened(self._tally)
        # What tells a witness of the commits, if one watches.
        self.watch: Watch | None = None
        self._is_doubtful = False
        self._is_closed = False
        self._lost: OwnershipLost | None = None
        self._to_tell: list[Callable[[OwnershipLost], None]] = []
        self._telling = threading.Lock()

    def look(self, family: str, ids: Sequence[str]) -> dict[str, Any] | None:
        """Records by id, without absent ones, if all of them are known; never blocks."""
        return self._cache.look(family, ids)

    def load(self, family: str, ids: Sequence[str]) -> dict[str, Any]:
        """Records by id, without absent ones; reads what is not known.

        :raises InvalidValue: for an unknown family or an id that is none.
        :raises StoreDamaged: if one of them is there and cannot be read.
        """
        keys = [check_key(family, id) for id in ids]
        with self.order:
            self.check()
            known = self._cache.get(keys)
            missing = [key for key in keys if key not in known]
            raw = self._store.read(self._name, missing)
            read = []
            for key in missing:
                data = raw.get(key)
                value = ABSENT if data is None else self._store.decode(self._name, key, data)
                known[key] = value
                read.append((key, value, len(data or b"")))
            self._enter(read)
        return {key.id: known[key] for key in keys if known[key] is not ABSENT}

    def ids(self, family: str) -> set[str]:
        """The committed ids of a family."""
        tally = self._tally
        if tally is None or not tally.is_kept_up or family != "pre-key":
            return {key.id for key in self._store.scan(self._name, family)}
        with self.order:
            found = {key.id for key in self._store.scan(self._name, family)}
            tally.learn(found)
        return found

    def settle(self, commit: Commit) -> None:
        """Enter a commit, which is durable now."""
        encoded = commit.batch.changes
        self.credentials = commit.changes.get(CREDENTIALS, self.credentials)
        values = (
            (key, ABSENT if value is None else value, len(encoded[key] or b""))
            for key, value in commit.changes.items()
            if key != CREDENTIALS
        )
        self._enter(values, only_known=len(encoded) > MANY)
        if self._tally is not None:
            self._tally.settle(commit.changes)
        if self.watch is not None and (error := self.watch.committed()) is not None:
            # It must not be acted upon: whoever asks finds out that the device takes no more.
            self.doubt()
            commit.fail(error)

    def _enter(self, values: Iterable[tuple[Key, Any, int]], *, only_known: bool = False) -> None:
        self._cache.put(values, only_known=only_known)
        if self._lost is not None or self._is_doubtful:
            # Perhaps since this was begun: what is in the cache would be handed out for ever.
            self._cache.clear()

    def doubt(self) -> None:
        """A commit was interrupted: refuse everything until the device is opened again."""
        self._is_doubtful = True
        self._cache.clear()
        self._forget_tally()

    def when_lost(self, told: Callable[[OwnershipLost], None]) -> None:
        """Have ``told`` called, once, when the device is found lost; at once if it is."""
        with self._telling:
            if self._lost is None:
                self._to_tell.append(told)
                return
        _tell_apart([told], self._lost)

    def lose(self, error: OwnershipLost) -> None:
        """The device is another process's by now: refuse everything until it is opened again."""
        with self._telling:
            if self._lost is not None or self._is_closed:
                return
            self._lost = error
            telling, self._to_tell = self._to_tell, []
        self._cache.clear()
        self._forget_tally()
        if telling:
            _tell_apart(telling, error)

    def check(self) -> None:
        """:raises OwnershipLost: if the device was found lost.
        :raises CommitFailed: if a commit was interrupted."""
        if self._lost is not None:
            raise copy.copy(self._lost)
        if self._is_doubtful:
            raise CommitFailed(self.url, "an earlier commit was interrupted")

    def refusal(self) -> RatchetkeepError | None:
        """Why a commit that waited must not be carried out, if so."""
        if self._is_closed:
            # It may be open again meanwhile, in another memory, which would not know of it.
            return StoreClosed(self.url, "the device was closed before the commit's turn")
        # So may a lost one: the store would take the commit for one of the new owner here.
        return None if self._lost is None else copy.copy(self._lost)

    def close(self) -> None:
        """Forget the records, and take no commit any more."""
        self._is_closed = True
        self._cache.close()
        if self._recorder is not None and self._tally is not None:
            self._recorder.closed(self._tally)

    def _forget_tally(self) -> None:
        if self._tally is not None:
            self._tally.forget()


def _tell_apart(telling: Sequence[Callable[[OwnershipLost], None]], error: OwnershipLost) -> None:
    """Tell in a thread of its own: whoever found out holds locks that a callback may wait for, when
    it closes the device, say; and must go on if it never comes back."""

    def tell() -> None:
        for told in telling:
            _tell(told, error)

    thread = threading.Thread(target=tell, name="ratchetkeep-lost", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is ending, or there is no thread to be had
        tell()
    else:
        thread.join(BRIEF)


def _tell(told: Callable[[OwnershipLost], None], error: OwnershipLost) -> None:
    try:
        told(error)
    except Exception:  # noqa: BLE001 - logged; the others are told all the same
        _log.exception("the callback of a lost device failed")
