"""One device of a copy of many: what is done with it, and what comes of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import msgspec

from ratchetkeep import errors
from ratchetkeep._copy_all_among import Among
from ratchetkeep._copy_plan import CopySummary
from ratchetkeep._copy_run import Progress
from ratchetkeep.copy import How, copy_between, mark_if_same
from ratchetkeep.errors import (
    CommitFailed,
    DeviceExists,
    InvalidValue,
    NoDevice,
    NotHeld,
    RatchetkeepError,
    StoreDamaged,
    StoreInUse,
    UnknownStore,
)
from ratchetkeep.formats._addresses import to_whatsmeow_jid
from ratchetkeep.model import CREDENTIALS, Credentials
from ratchetkeep.stores import urls
from ratchetkeep.stores.base import Store
from ratchetkeep.stores.layouts import LAYOUTS

__all__ = [
    "COPIED",
    "FAILED",
    "LEFT",
    "THERE",
    "TO_COPY",
    "Done",
    "Held",
    "Job",
    "Task",
    "carry_out",
    "carry_out_here",
    "pack",
    "shown",
    "unpack",
]

COPIED, THERE, FAILED, TO_COPY, LEFT = (
    "copied",
    "already there",
    "failed",
    "to be copied",
    "not copied",
)

# No name of a device, which has no NUL: what a file is held open by while its devices come and go.
_ANCHOR = "\0copy"


class Job(NamedTuple):
    """What all devices of a copy have in common.

    :ivar has_findings: what is the matter with the source's store as a whole is known.
    :ivar is_swept: what killed copies left at the target is removed for all of them.
    :ivar is_helped: other processes may help with a large device.
    :ivar held: stores to be held open between their devices.
    """

    how: How
    has_findings: bool
    is_swept: bool
    is_helped: bool
    held: tuple[urls.Target, ...] = ()


class Task(NamedTuple):
    """A device to be copied.

    :ivar number: its place among all devices.
    :ivar is_there: there is a device at the target.
    :ivar is_trial: only see what would come of it.
    """

    number: int
    source: urls.Target
    target: urls.Target
    is_there: bool
    is_trial: bool

    def writes(self, how: How) -> bool:
        """True unless it is certain that nothing will be written."""
        return not self.is_trial and (not self.is_there or how.overwrite or how.retire)


class Done(NamedTuple):
    """What came of a device.

    :ivar outcome: one of the words above.
    :ivar stops: the target as such is to blame, so that no other device can be copied.
    """

    outcome: str
    summary: CopySummary | None = None
    error: RatchetkeepError | None = None
    stops: bool = False


def carry_out_here(
    job: Job, tasks: Iterator[Task], report: Callable[[Task], Progress]
) -> Generator[tuple[Task, Done], None, None]:
    """Copy the devices in this process, one after the other.

    :raises RatchetkeepError: if a file that all devices are in cannot be owned.
    """
    with closing(Held(job)) as held:
        for task in tasks:
            held.take(task)
            yield task, carry_out(job, task, report(task))


class Held:
    """Holds stores open between their devices, in one process: to open and close a file or a
    connection for each of thousands takes as long as to copy them."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._open: dict[urls.Target, Store] = {}

    def take(self, task: Task) -> None:
        """Open what the task needs.

        :raises RatchetkeepError: if a file cannot be owned.
        """
        for target in self._job.held:
            if target in self._open:
                continue
            if target.kind == "postgresql":
                store = self._open[target] = urls.open_target(target)
                store.holder("")  # whatever is asked, its connections stay
            elif task.writes(self._job.how) and os.path.lexists(target.path):
                # A new file is made by its first device.
                store = urls.open_target(target)
                store.acquire(_ANCHOR, read_only=False, create=True)
                self._open[target] = store

    def close(self) -> None:
        """Close them."""
        for store in self._open.values():
            store.close()


def carry_out(job: Job, task: Task, report: Progress | None = None) -> Done:
    """Copy one device; what goes wrong with it is told, not raised."""
    among = Among(has_findings=job.has_findings, is_swept=job.is_swept, is_helped=job.is_helped)
    how = job.how._replace(dry_run=job.how.dry_run or task.is_trial)
    try:
        return _carry_out(task, how, among, report)
    except RatchetkeepError as error:
        is_of_target = error is among.of_target and _stops(error, task.target)
        return Done(FAILED, error=error.with_traceback(None), stops=is_of_target)
    except OSError as error:
        place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        what = error.strerror or "input or output failed"
        remedy = "Mend the cause, and copy again"
        failed = RatchetkeepError(place or shown(task.source), what, remedy)
        return Done(FAILED, error=failed)
    except Exception as error:  # noqa: BLE001 - a bug in one device must not stop the others
        what = f"unexpected {type(error).__name__}"
        remedy = "This is a bug. Please report it, with what a copy of this device alone shows"
        return Done(FAILED, error=RatchetkeepError(shown(task.source), what, remedy))


def _carry_out(task: Task, how: How, among: Among, report: Progress | None) -> Done:
    if task.is_there and not how.overwrite:
        return _settle(task, how)
    try:
        summary = copy_between(task.source, task.target, how, among, progress=report)
    except DeviceExists:
        if how.overwrite:
            raise
        # It came there since the target was looked through; or only the device's credentials tell
        # its place.
        try:
            return _settle(task, how)
        except (NoDevice, UnknownStore):
            pass  # something else is there
        raise
    return Done(TO_COPY if how.dry_run else COPIED, summary)


def _settle(task: Task, how: How) -> Done:
    """What to do with a device that is at the target.

    :raises DeviceExists: if it is another one.
    """
    ours = _credentials(task.source)
    target = _whose(task.target, ours)
    theirs = _credentials(target)
    if not _is_same(ours, theirs):
        raise DeviceExists(shown(target), "holds another device under this name already")
    if how.retire and not how.dry_run and not _is_marked(task.source):
        # A copy was ended between its last two steps; or one of the two went on since.
        _mark(task.source, target, how)
    return Done(THERE)


def _mark(source: urls.Target, target: urls.Target, how: How) -> None:
    if not mark_if_same(source, target, how):
        what = "holds the device already, but not as its source has it, which is not retired"
        remedy = (
            "One of them went on: find out which. To go on with the source's state, copy it with "
            "--overwrite --retire (overwrite, retire); otherwise remove the source"
        )
        raise DeviceExists(shown(target), what, remedy)


def _whose(target: urls.Target, credentials: Credentials) -> urls.Target:
    if target.kind != "whatsmeow" or credentials.me is None:
        return target
    return target._replace(device=to_whatsmeow_jid(credentials.me.id) or target.device)


def _credentials(target: urls.Target) -> Credentials:
    store = urls.open_target(target)
    try:
        store.acquire(target.device, read_only=True, create=False)
        raw = store.read(target.device, [CREDENTIALS]).get(CREDENTIALS)
        if raw is None:
            left = store.trace(target.device)
            what = f"holds no credentials, but something of a device: {left}"
            raise StoreDamaged(shown(target), what)
        credentials: Credentials = store.decode(target.device, CREDENTIALS, raw)
        return credentials
    finally:
        store.close()


def _is_same(ours: Credentials, theirs: Credentials) -> bool:
    """True for one device; one that was paired since the other was copied is the same."""
    publics = [each.signed_identity_key.public[-32:] for each in (ours, theirs)]
    known = {_jid(each.me.id) for each in (ours, theirs) if each.me is not None}
    is_one = publics[0] == publics[1] and ours.registration_id == theirs.registration_id
    return is_one and len(known) < 2


def _jid(id: str) -> str:
    return to_whatsmeow_jid(id) or id


def _is_marked(source: urls.Target) -> bool:
    store = urls.open_target(source)
    try:
        return store.moved(source.device) is not None
    finally:
        store.close()


def _stops(error: RatchetkeepError, target: urls.Target) -> bool:
    """True if an error of the target leaves no hope for the other devices."""
    if target.kind in LAYOUTS:
        # Anything else is about this device's folder.
        return isinstance(error, CommitFailed)
    if isinstance(error, StoreInUse):
        return target.kind == "whatsmeow" and "://" not in target.path
    return not isinstance(error, DeviceExists | InvalidValue | NotHeld)


def shown(target: urls.Target) -> str:
    """The URL of a device, without a password; of a folder of no known kind, its path."""
    return urls.shown(target) if target.kind else target.path


# -- between processes


class _Error(NamedTuple):
    kind: str
    place: str
    what: str
    remedy: str
    more: dict[str, str]


class _Packed(NamedTuple):
    outcome: str
    summary: CopySummary | None
    error: _Error | None
    stops: bool


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode


def pack(done: Done) -> bytes:
    """What came of a device, for another process."""
    error = done.error
    packed = None
    if error is not None:
        more = {name: getattr(error, name) for name in ("holder", "to") if hasattr(error, name)}
        packed = _Error(type(error).__name__, error.place, error.what, error.remedy, more)
    return _encode(_Packed(done.outcome, done.summary, packed, done.stops))


def unpack(raw: bytes) -> Done:
    """What :func:`pack` made."""
    packed = _decode(raw)
    error = None
    if packed.error is not None:
        kind: Any = getattr(errors, packed.error.kind, RatchetkeepError)
        error = kind(packed.error.place, packed.error.what, packed.error.remedy)
        vars(error).update(packed.error.more)
    return Done(packed.outcome, packed.summary, error, packed.stops)
