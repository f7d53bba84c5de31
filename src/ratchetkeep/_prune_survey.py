"""What pruning would do to a device: one pass over its records, which changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from ratchetkeep import _prune_caches as caches
from ratchetkeep import _prune_policy as kinds
from ratchetkeep._prune_policy import PrunePolicy
from ratchetkeep._prune_records import NOT_READ, Pruner
from ratchetkeep.model import CREDENTIALS, Credentials, Key, TcToken
from ratchetkeep.stores.base import Store

Progress = Callable[[str, int, int], None]
"""Called with a step (``check`` or ``write``), how many records of it are done, and of how many."""

NO_TIME = "they do not say how old they are"
NOT_SURE = "of a record that is kept, or of the list itself, it cannot be told whose it is"

_PORTION = 256


@dataclass
class Amount:
    """What goes of one kind.

    :ivar items: how many.
    :ivar records: of how many records.
    :ivar removed: how many of these go as a whole.
    :ivar size: bytes that the records have less.
    """

    items: int = 0
    records: int = 0
    removed: int = 0
    size: int = 0

    def add(self, items: int, size: int, *, is_whole: bool) -> None:
        """One more record."""
        self.items += items
        self.records += 1
        self.removed += is_whole
        self.size += size


@dataclass
class Survey:
    """What goes, what is left though it would go, and which records that concerns."""

    amounts: dict[str, Amount] = field(default_factory=dict)
    left: dict[tuple[str, str], int] = field(default_factory=dict)
    removed: list[Key] = field(default_factory=list)
    pruned: list[Key] = field(default_factory=list)

    def note(self, kind: str, items: int, size: int, *, is_whole: bool = False) -> None:
        """Something goes."""
        amount = self.amounts.setdefault(kind, Amount())
        amount.add(items, size, is_whole=is_whole)

    def leave(self, family: str, why: str) -> None:
        """Something of a record is left, though it may be more than the policy keeps."""
        self.left[family, why] = self.left.get((family, why), 0) + 1


class Surveyor:
    """Looks through an open device.

    :param now: seconds since 1970.
    """

    def __init__(
        self, store: Store, device: str, credentials: Credentials, policy: PrunePolicy, now: float
    ) -> None:
        self.store = store
        self.device = device
        self.credentials = credentials
        self.policy = policy
        self.now = now
        self.pruner = Pruner(store, credentials, policy)
        self.found = Survey()
        self._report: Progress = lambda step, done, total: None
        self._total = self._done = 0

    def survey(self, report: Progress) -> Survey:
        """Look through all records that anything may go from.

        :raises StoreDamaged: if one of them cannot be read.
        """
        self._report = report
        ids: dict[str, list[str]] = {}
        for key in self.store.scan(self.device):
            if key != CREDENTIALS:
                ids.setdefault(key.family, []).append(key.id)
        families = self._families()
        self._total = sum(len(ids.get(family, ())) for family in families)
        for family, look in families.items():
            look(ids, sorted(ids.get(family, ())))
        return self.found

    def _families(self) -> dict[str, Callable[[dict[str, list[str]], list[str]], None]]:
        policy = self.policy
        asked = {
            "session": policy.prunes_sessions,
            "sender-key": policy.prunes_sender_keys,
            "device-list": policy.device_lists is not None,
            "tctoken": policy.tctoken_days is not None,
            "pre-key": policy.pre_keys is not None,
        }
        looks = {
            "session": lambda ids, own: self._ratchets("session", own),
            "sender-key": lambda ids, own: self._ratchets("sender-key", own),
            "device-list": self._device_lists,
            "tctoken": lambda ids, own: self._tctokens(own),
            "pre-key": lambda ids, own: self._pre_keys(own),
        }
        return {family: looks[family] for family, is_asked in asked.items() if is_asked}

    # -- sessions and sender keys

    def _ratchets(self, family: str, ids: list[str]) -> None:
        for key, size, value in self._values(family, ids):
            outcome = self.pruner.prune(key, value, size)
            for kind, items, freed in outcome.gone:
                self.found.note(kind, items, freed)
            if outcome.gone:
                self.found.pruned.append(key)
            if outcome.left:
                self.found.leave(family, outcome.left)

    # -- records that go as a whole

    def _device_lists(self, ids: dict[str, list[str]], own: list[str]) -> None:
        if not own:
            return
        users = caches.Users(self.credentials)
        for family in ("session", "sender-key"):
            for id in ids.get(family, ()):
                users.add(family, id)
        for family in ("sender-key-memory", "lid-mapping"):
            for key, _, value in self._values(family, ids.get(family, ()), is_counted=False):
                users.add(family, key.id, value)
        for key, size, _ in self._values("device-list", own):
            is_used = users.names(key.id)
            if is_used is None:
                self.found.leave("device-list", NOT_SURE)
            elif not is_used:
                self._remove(kinds.DEVICE_LISTS, key, size)

    def _tctokens(self, own: list[str]) -> None:
        days = self.policy.tctoken_days or 0
        for key, size, value in self._values("tctoken", own):
            if key.id == caches.TOKEN_INDEX:
                continue
            if not isinstance(value, TcToken):
                self.found.leave("tctoken", NOT_READ)
            elif caches.is_without_time(value):
                self.found.leave("tctoken", NO_TIME)
            elif caches.has_run_out(value, days, self.now):
                self._remove(kinds.TCTOKENS, key, size)

    def _pre_keys(self, own: list[str]) -> None:
        spare = caches.spare_pre_keys(own, self.credentials, self.policy.pre_keys or 0)
        self._step(len(own) - len(spare))
        for key, size, _ in self._values("pre-key", spare):
            self._remove(kinds.PRE_KEYS, key, size)

    def _remove(self, kind: str, key: Key, size: int) -> None:
        self.found.note(kind, 1, size, is_whole=True)
        self.found.removed.append(key)

    def _values(
        self, family: str, ids: Iterable[str], *, is_counted: bool = True
    ) -> Iterator[tuple[Key, int, Any]]:
        """Records with their sizes; one that its owner has removed since is not there."""
        left = iter(ids)
        while portion := [Key(family, id) for id in islice(left, _PORTION)]:
            raws = self.store.read(self.device, portion)
            for key in portion:
                if key in raws:
                    yield key, len(raws[key]), self.store.decode(self.device, key, raws[key])
            if is_counted:
                self._step(len(portion))

    def _step(self, count: int) -> None:
        self._done += count
        self._report("check", self._done, self._total)
