"""Take away what grows without bound in a device, by a stated policy, and nothing that a live
conversation needs.

The device is owned meanwhile. What goes is found out in one pass that changes nothing; then it goes
in commits of bounded size. Each is atomic: killed at any point, every record is whole, as it was or
pruned, and running it again finishes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from ratchetkeep._prune_policy import KINDS, PrunePolicy
from ratchetkeep._prune_survey import Progress, Survey, Surveyor
from ratchetkeep.device import Device, open_in
from ratchetkeep.model import Key
from ratchetkeep.stores import urls
from ratchetkeep.stores.base import Store

if TYPE_CHECKING:
    from ratchetkeep.sealing.keys import SealKey

__all__ = ["PrunePolicy", "PruneSummary", "Pruned", "Unpruned", "prune_device"]

# What one commit changes at most; the bytes may be exceeded by one record.
_RECORDS, _BYTES = 256, 1 << 20

_ROOM = {
    "folder": "the files are smaller by so much, and those of records that went are gone",
    "sqlite": (
        "the file stays as large as it is: its free pages are used again before it grows. A copy "
        "of the device to a new file has none of them"
    ),
    "postgresql": "the table stays as large as it is: autovacuum frees the room for new rows",
    "whatsmeow": "the database stays as large as it is: the room is used again before it grows",
    "memory": "the memory is free",
}


@dataclass(frozen=True)
class Pruned:
    """What went of one kind, or with ``dry_run`` would go.

    :ivar kind: ``closed sessions``, ``skipped message keys``, ``ended receiving chains``,
        ``sender-key states``, ``sender-key message keys``, ``device lists``, ``tctokens`` or
        ``pre-keys``.
    :ivar items: how many of them.
    :ivar records: of how many records.
    :ivar removed: how many records went as a whole.
    :ivar size: bytes that the records have less, as stored.
    """

    kind: str
    items: int
    records: int
    removed: int
    size: int


@dataclass(frozen=True)
class Unpruned:
    """Records that were left alone, or in part, though they may hold more than the policy keeps.

    :ivar why: in words.
    """

    family: str
    records: int
    why: str


@dataclass(frozen=True)
class PruneSummary:
    """What pruning did to a device, or with ``dry_run`` would do.

    :ivar url: the store, without a password.
    :ivar pruned: by kind; those of which nothing went are left out.
    :ivar records: how many records were changed or removed; one may be in several kinds.
    :ivar removed: how many of these were removed.
    :ivar room: what of the bytes the place gives back, in words.
    """

    url: str
    device: str
    kind: str
    pruned: tuple[Pruned, ...]
    left: tuple[Unpruned, ...]
    records: int
    removed: int
    room: str
    dry_run: bool = False

    @property
    def size(self) -> int:
        """Bytes that all records together have less, as stored."""
        return sum(each.size for each in self.pruned)


def prune_device(
    url: str | os.PathLike[str],
    *,
    policy: PrunePolicy = PrunePolicy(),  # noqa: B008 - it is frozen
    dry_run: bool = False,
    key: str | bytes | SealKey | None = None,
    progress: Progress | None = None,
) -> PruneSummary:
    """Prune the device that ``url`` names; a second run finds nothing more.

    :param policy: how much of each kind is kept.
    :param dry_run: say what would go, in the same numbers; take no ownership and write nothing. The
        device may be in use meanwhile: what its owner changes then may or may not be counted.
    :param key: what opens the store if it is sealed, as in :func:`open_device`.
    :param progress: called while records are checked and written.
    :raises NoDevice: if nothing is there.
    :raises StoreInUse: if the device is open.
    :raises DeviceMoved: if it was moved to another place.
    :raises StoreDamaged: if a record cannot be read; nothing was changed.
    :raises CommitFailed: if a commit cannot be written; those before it are done.
    :raises UnknownStore: if ``url`` names no store.
    """
    report = progress or (lambda step, done, total: None)
    target = urls.parse(url)
    store = urls.open_target(target, key)
    name = target.device
    with open_in(store, name, create=False, read_only=dry_run, owns_store=True) as device:
        if dry_run:
            store.refuse_moved(name)  # as the run itself would be
        surveyor = Surveyor(store, name, device.credentials, policy, time.time())
        survey = surveyor.survey(report)
        if not dry_run:
            _carry_out(device, surveyor, survey, report)
        return _summary(store, target, survey, dry_run=dry_run)


def _carry_out(device: Device, surveyor: Surveyor, survey: Survey, report: Progress) -> None:
    total, done = len(survey.removed) + len(survey.pruned), 0
    for changes in _portions(device, surveyor, survey):
        device.set(changes)
        done += sum(map(len, changes.values()))
        report("write", done, total)


def _portions(
    device: Device, surveyor: Surveyor, survey: Survey
) -> Iterator[dict[str, dict[str, Any]]]:
    """What each commit is to set."""
    removed = iter(survey.removed)
    while portion := list(islice(removed, _RECORDS)):
        yield _by_family((key, None) for key in portion)
    changed: list[tuple[Key, Any]] = []
    size = 0
    for key in survey.pruned:
        value = device.get(key.family, [key.id])[key.id]
        outcome = surveyor.pruner.prune(key, value, 0)
        changed.append((key, outcome.value))
        size += outcome.size
        if len(changed) >= _RECORDS or size >= _BYTES:
            yield _by_family(changed)
            changed, size = [], 0
    if changed:
        yield _by_family(changed)


def _by_family(changes: Any) -> dict[str, dict[str, Any]]:
    families: dict[str, dict[str, Any]] = {}
    for key, value in changes:
        families.setdefault(key.family, {})[key.id] = value
    return families


def _summary(store: Store, target: urls.Target, survey: Survey, *, dry_run: bool) -> PruneSummary:
    amounts = ((kind, survey.amounts.get(kind)) for kind in KINDS)
    return PruneSummary(
        url=store.url,
        device=target.device,
        kind=target.kind,
        pruned=tuple(
            Pruned(kind, each.items, each.records, each.removed, each.size)
            for kind, each in amounts
            if each
        ),
        left=tuple(
            Unpruned(family, records, why) for (family, why), records in sorted(survey.left.items())
        ),
        records=len(survey.pruned) + len(survey.removed),
        removed=len(survey.removed),
        room=_ROOM.get(target.kind, _ROOM["folder"]),
        dry_run=dry_run,
    )
