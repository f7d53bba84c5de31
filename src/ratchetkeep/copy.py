"""Copy one device from store to store, without pairing again.

Everything is read, checked and tried on the target's format before anything is written; then it is
put together beside the target, read back, and published in one step. The source is never touched;
one that is to be retired is marked after that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from ratchetkeep._copy_all_among import Among
from ratchetkeep._copy_plan import Converted, CopySummary, LeftBehind, NotHeldByTarget
from ratchetkeep._copy_run import Progress, Recipe, Survey, survey, write
from ratchetkeep._copy_source import Source
from ratchetkeep._copy_spelling import Spelled, check_client
from ratchetkeep._rest import Completed, Rest, completed
from ratchetkeep._retire import mark_source, reading, refuse_owner
from ratchetkeep.errors import CommitFailed, InvalidValue, NoDevice, NotHeld, UnknownStore
from ratchetkeep.model import CREDENTIALS
from ratchetkeep.stores import urls
from ratchetkeep.stores.base import Store

if TYPE_CHECKING:
    from ratchetkeep.sealing.keys import SealKey

__all__ = [
    "Converted",
    "CopySummary",
    "LeftBehind",
    "NotHeldByTarget",
    "Progress",
    "copy_device",
]


def copy_device(
    source_url: str | os.PathLike[str],
    target_url: str | os.PathLike[str],
    overwrite: bool = False,
    *,
    client: str | None = None,
    keep_rest: bool = False,
    retire: bool = False,
    from_retired: bool = False,
    dry_run: bool = False,
    plaintext: bool = False,
    key: str | bytes | SealKey | None = None,
    target_key: str | bytes | SealKey | None = None,
    progress: Progress | None = None,
    confirm: Callable[[CopySummary], None] | None = None,
) -> CopySummary:
    """Copy the device at ``source_url`` to ``target_url``.

    Two copies of one device that both go on sending break each other: use only one from then on.

    :param overwrite: replace a device that is at the target, in one step.
    :param client: who is to open the target: ``baileys``, ``baileysex``, ``pyaileys``, ``waeys`` or
        ``whatsmeow``. A store of ours then gets the sessions and sender keys in that library's
        spelling; without it they stay as the source has them. Another library's store has its own.
    :param keep_rest: keep what the target cannot hold in a side file next to it. A copy from the
        target finds it there and completes what it carries, so that the way back is complete.
    :param retire: mark the source as moved once the target is in its place: opening it for writing
        raises DeviceMoved from then on. It is owned for the whole copy, so nobody may have it open.
    :param from_retired: copy from a device that was moved itself: the way back, if that place is
        lost.
    :param dry_run: check, and say what would be carried; write nothing.
    :param plaintext: copy from a sealed store to one that is not.
    :param key: what opens a sealed source; see :func:`open_device`.
    :param target_key: what opens a sealed target; if nothing is there yet, one is made that is
        sealed with it.
    :param progress: called while records are checked and written.
    :param confirm: called with the summary before anything is written; may raise to stop.
    :raises NoDevice: if there is no source.
    :raises WrongKey: if a key does not open its store.
    :raises StoreDamaged: if anything of the source cannot be read, or its credentials do not fit
        together. Other records that look wrong are carried as they are, and reported.
    :raises StoreInUse: if the source is a folder that its owner is writing, or is to be retired and
        somebody has it open; or if the target is open.
    :raises DeviceMoved: if the source was moved to another place.
    :raises DeviceExists: if the target holds something and ``overwrite`` is not set.
    :raises NotHeld: if the target has no place for the credentials, such as those of a device that
        is not paired yet; or for a side file; or if the source cannot be marked as moved.
    :raises InvalidValue: for a client that we do not know, or that cannot use the target; or if the
        source is sealed, the target is not, and ``plaintext`` is not set.
    :raises CommitFailed: if the target could not be written; or if the source could not be marked,
        after the target was put in its place.
    """
    source, target = urls.parse(source_url), parse_target(target_url)
    how = How(overwrite, client, keep_rest, retire, from_retired, dry_run, plaintext)
    keys = Keys(key, target_key)
    return copy_between(source, target, how, Among(), keys, progress=progress, confirm=confirm)


class How(NamedTuple):
    """What was asked of a copy; see :func:`copy_device`."""

    overwrite: bool = False
    client: str | None = None
    keep_rest: bool = False
    retire: bool = False
    from_retired: bool = False
    dry_run: bool = False
    plaintext: bool = False


class Keys(NamedTuple):
    """What opens the two stores of a copy; the environment is asked for what is None."""

    source: str | bytes | SealKey | None = None
    target: str | bytes | SealKey | None = None

    def __repr__(self) -> str:
        return "<Keys>"


NO_KEYS = Keys()


def copy_between(
    source: urls.Target,
    target: urls.Target,
    how: How,
    among: Among,
    keys: Keys = NO_KEYS,
    *,
    progress: Progress | None = None,
    confirm: Callable[[CopySummary], None] | None = None,
) -> CopySummary:
    """Copy a device, by itself or as one of many; raises as :func:`copy_device`."""
    if place_of(source) == place_of(target):
        raise InvalidValue(urls.shown(target), "source and target are the same device")
    report = progress or (lambda step, done, total: None)
    store = among.open_target(target, keys.target)
    try:
        client = check_client(how.client, target.kind, store)
        with among.blaming():
            store.check_vacant(target.device, overwrite=how.overwrite)
        rest = Rest(target, keep=how.keep_rest, is_swept=among.is_swept)
        how = how._replace(client=client)
        with _tried(source, target, store, how, among, report, keys) as copy:
            summary = copy.summary(rest)
            if confirm:
                confirm(summary)
            if how.dry_run:
                return summary
            _put(copy, rest, among, report)
            if how.retire:
                mark_source(copy.opened, source.device, store, target)
            return summary
    finally:
        store.close()


def mark_if_same(source: urls.Target, target: urls.Target, how: How) -> bool:
    """Finish a copy that was to retire its source, and was ended before it marked it.

    :return: False if the target does not hold what a copy would put there now.
    :raises StoreInUse: if somebody has the source open.
    """
    among, report = Among(), _no_report
    store = urls.open_target(target)
    try:
        how = how._replace(client=check_client(how.client, target.kind, store), dry_run=False)
        store.acquire(target.device, read_only=True, create=False)
        with _tried(source, target, store, how, among, report) as copy:
            if store.count(target.device) != copy.found.records.total():
                return False
            for chunk in copy.found.spool:
                if store.read(target.device, chunk) != chunk:
                    return False
            mark_source(copy.opened, source.device, store, target)
            return True
    finally:
        store.close()


def _refuse_plaintext(source: Store, target: Store) -> None:
    # What is in memory lies nowhere.
    if target.kind != "memory" and not target.seals():
        what = f"is not sealed, and {source.url} is: its keys would lie open there"
        remedy = "Give the target a key (--seal), or say that it may be so: plaintext (--plaintext)"
        raise InvalidValue(target.url, what, f"Nothing was changed. {remedy}")


def _no_report(step: str, done: int, total: int) -> None:
    """Nobody wants to know."""


class _Copy(NamedTuple):
    """A copy of which all records were tried.

    :ivar opened: the source's store.
    :ivar reader: what is read: the same, or completed from a side file.
    """

    source: urls.Target
    target: urls.Target
    how: How
    opened: Store
    reader: Source
    store: Store
    spelled: Spelled
    found: Survey

    def summary(self, rest: Rest) -> CopySummary:
        """What it carries."""
        return _summary(
            self.found,
            self.spelled,
            source=self.reader.url + urls.query_of(self.source),
            target=self.store.url + urls.query_of(self.target),
            source_kind=self.source.kind,
            target_kind=self.target.kind,
            dry_run=self.how.dry_run,
            left_behind=tuple(self.opened.left_behind(self.source.device)),
            client=self.how.client,
            retired=self.how.retire,
            rest=rest.path(self.found.credentials) if self.how.keep_rest else "",
            completed_from=self.reader.path if isinstance(self.reader, Completed) else "",
        )


@contextmanager
def _tried(
    source: urls.Target,
    target: urls.Target,
    store: Store,
    how: How,
    among: Among,
    report: Progress,
    keys: Keys = NO_KEYS,
) -> Iterator[_Copy]:
    """Read, check and try all of the source, which stays open."""
    owned = how.retire and not how.dry_run
    opening = reading(
        source,
        owned=owned,
        to_mark=how.retire,
        from_retired=how.from_retired,
        key=keys.source,
    )
    with opening as opened, completed(opened, source) as reader:
        if not how.plaintext and opened.seals():
            _refuse_plaintext(opened, store)
        store.foresee(opened, source.device)
        spelled = Spelled(store, reader, source.device, how.client)
        # Other processes read the store alone.
        is_helped = among.is_helped and reader is opened
        found = survey(
            reader,
            source.device,
            spelled,
            report,
            keep=not how.dry_run,
            recipe=Recipe(source, target, how.client) if is_helped else None,
            has_findings=among.has_findings,
        )
        with found:
            _refuse_without_credentials(found, spelled)
            yield _Copy(source, target, how, opened, reader, store, spelled, found)


def _put(copy: _Copy, rest: Rest, among: Among, report: Progress) -> None:
    """Put the copy together beside its place, and then there."""
    device, found = copy.source.device, copy.found
    with ExitStack() as stages:
        with among.blaming():
            staged = copy.store.stage(copy.target.device, overwrite=copy.how.overwrite)
            stage = among.watched(stages.enter_context(staged))
            stages.enter_context(rest.stage(found.credentials))
        with among.blaming(CommitFailed):
            rest.write(copy.reader, device, copy.spelled, found.credentials, report)
        write(copy.reader, device, copy.spelled, stage, found, report)
        if not copy.how.retire:
            refuse_owner(copy.opened, device)
        # In this order: a side file of an earlier copy must never stand beside a later one, or what
        # was used up meanwhile would come back.
        with among.blaming():
            rest.publish()
        stage.publish()


def parse_target(url: str | os.PathLike[str]) -> urls.Target:
    """The place that a copy goes to, which is to say its kind."""
    try:
        return urls.parse(url)
    except NoDevice as error:
        what = "does not say which kind of store it is to be"
        raise UnknownStore(error.place, what, urls.HELP) from None


def place_of(target: urls.Target) -> tuple[str, ...]:
    """What two targets have in common that are one place."""
    if target.kind == "memory":
        return ("memory", target.path or str(id(target)), target.device)
    if target.kind == "postgresql":
        return (target.path, target.device)
    if target.kind == "whatsmeow":  # which keeps a device under its JID, whatever it is called by
        return (target.path if "://" in target.path else os.path.realpath(target.path),)
    return (os.path.realpath(target.path), target.device)


def _refuse_without_credentials(found: Survey, target: Spelled) -> None:
    if found.records[CREDENTIALS.family]:
        return
    lost = [each for each in found.losses.lines() if each.family == CREDENTIALS.family]
    why = next((f": {each.what}" for each in lost if not each.derived), "")
    what = f"cannot hold the device's credentials{why}"
    raise NotHeld(target.url, what, "Nothing was changed. Use another store, such as sqlite:")


def _summary(found: Survey, spelled: Spelled, **known: Any) -> CopySummary:
    records = {family: found.records[family] for family in sorted(found.records)}
    records.pop(CREDENTIALS.family)
    return CopySummary(
        records=records,
        size=found.size,
        not_held=found.losses.lines(),
        findings=tuple(found.findings),
        converted=spelled.converted(),
        **known,
    )
