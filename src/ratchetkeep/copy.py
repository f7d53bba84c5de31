"""Copy one device from store to store, without pairing again.

Everything is read, checked and tried on the target's format before anything is written; then it is
put together beside the target, read back, and published in one step. The source is never touched.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ratchetkeep._checker import Checker
from ratchetkeep.errors import (
    CommitFailed,
    InvalidValue,
    NoDevice,
    StoreDamaged,
    StoreInUse,
    UnknownStore,
)
from ratchetkeep.formats import Loss
from ratchetkeep.model import CREDENTIALS, Credentials, Key
from ratchetkeep.stores import urls
from ratchetkeep.stores.base import Finding, Stage, Store

__all__ = ["CopySummary", "NotHeldByTarget", "copy_device"]

# Records that are read, written and read back together.
CHUNK = 256

Progress = Callable[[str, int, int], None]
"""Called with the step (``check`` or ``write``), how many records are done, and of how many."""


@dataclass(frozen=True)
class NotHeldByTarget:
    """A member, or whole records, that the target's format has no place for.

    :ivar family: the records' family, or ``credentials``.
    :ivar member: path of the member in the target's terms; "" for whole records.
    :ivar what: the consequence.
    :ivar derived: True if it can be made again, or the target's library does not need it.
    :ivar count: in how many records.
    :ivar example: one of them.
    """

    family: str
    member: str
    what: str
    derived: bool
    count: int
    example: str


@dataclass(frozen=True)
class CopySummary:
    """What a copy carried, or with ``dry_run`` would carry.

    :ivar records: number of records by family, without the credentials.
    :ivar size: bytes written.
    :ivar not_held: what the target cannot hold.
    :ivar findings: what checking the source brought up; such records were carried as they are.
    """

    source: str
    target: str
    source_kind: str
    target_kind: str
    records: dict[str, int]
    size: int
    not_held: tuple[NotHeldByTarget, ...]
    findings: tuple[Finding, ...] = ()
    dry_run: bool = False

    @property
    def total(self) -> int:
        """Number of records, without the credentials."""
        return sum(self.records.values())


@dataclass
class _Survey:
    """What the first pass over the source found."""

    credentials: Credentials
    keys: list[Key] = field(default_factory=list)
    digests: dict[Key, bytes] = field(default_factory=dict)
    size: int = 0
    losses: list[tuple[Key, Loss]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def copy_device(
    source_url: str | os.PathLike[str],
    target_url: str | os.PathLike[str],
    overwrite: bool = False,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
    confirm: Callable[[CopySummary], None] | None = None,
) -> CopySummary:
    """Copy the device at ``source_url`` to ``target_url``.

    Two copies of one device that both go on sending break each other: use only one from then on.

    :param overwrite: replace a device that is at the target, in one step.
    :param dry_run: check, and say what would be carried; write nothing.
    :param progress: called while records are checked and written.
    :param confirm: called with the summary before anything is written; may raise to stop.
    :raises NoDevice: if there is no source.
    :raises StoreDamaged: if anything of the source cannot be read, or its credentials do not fit
        together. Other records that look wrong are carried as they are, and reported.
    :raises StoreInUse: if the source is a folder that its owner is writing, or the target is open.
    :raises DeviceExists: if the target holds something and ``overwrite`` is not set.
    """
    source, target = urls.parse(source_url), _parse_target(target_url)
    if _place(source) == _place(target):
        raise InvalidValue(urls.shown(target), "source and target are the same device")
    report = progress or (lambda step, done, total: None)
    store = urls.open_target(target)
    try:
        store.check_vacant(target.device, overwrite=overwrite)
        with _reading(source) as reader:
            survey = _survey(reader, source.device, store, report)
            summary = _summary(reader, source, store, target, survey, dry_run)
            if confirm:
                confirm(summary)
            if dry_run:
                return summary
            with store.stage(target.device, overwrite=overwrite) as stage:
                _write(reader, source.device, store, stage, survey, report)
                _refuse_owner(reader, source.device)
                stage.publish()
            return summary
    finally:
        store.close()


def _parse_target(url: str | os.PathLike[str]) -> urls.Target:
    try:
        return urls.parse(url)
    except NoDevice as error:
        what = "does not say which kind of store it is to be"
        raise UnknownStore(error.place, what, urls.HELP) from None


def _place(target: urls.Target) -> tuple[str, ...]:
    if target.kind == "memory":
        return ("memory", target.path or str(id(target)), target.device)
    return (os.path.realpath(target.path), target.device)


@contextmanager
def _reading(source: urls.Target) -> Iterator[Store]:
    store = urls.open_target(source)
    try:
        store.acquire(source.device, read_only=True, create=False)
        _refuse_owner(store, source.device)
        yield store
    finally:
        store.close()


def _refuse_owner(store: Store, device: str) -> None:
    holder = "" if store.reads_snapshots else store.holder(device)
    if holder:
        what = f"is being written by {holder}, so it cannot be read as a whole"
        raise StoreInUse(store.url, what, "Stop that program first", holder=holder)


def _survey(reader: Store, device: str, target: Store, report: Progress) -> _Survey:
    """Read, check and try everything; nothing is written."""
    keys = sorted(reader.scan(device))
    raw = reader.read(device, [CREDENTIALS]).get(CREDENTIALS)
    if raw is None:
        found = reader.trace(device)
        raise StoreDamaged(reader.url, f"holds no credentials, but something of a device: {found}")
    credentials: Credentials = reader.decode(device, CREDENTIALS, raw)
    survey = _Survey(credentials, findings=list(reader.findings(device)))
    _refuse_errors(survey.findings)
    checker = Checker(credentials, lambda key: reader.where(device, key))
    for done, key in enumerate(keys):
        if done % CHUNK == 0:
            report("check", done, len(keys))
        raw = _read_one(reader, device, key)
        survey.digests[key] = _digest(raw)
        value = reader.decode(device, key, raw)
        findings = list(checker.check(key, value))
        survey.findings.extend(findings)
        if key == CREDENTIALS:
            _refuse_errors(findings)
        encoded = target.encode(key, value, credentials)
        survey.losses.extend((key, loss) for loss in encoded.losses)
        if encoded.data is not None:
            survey.keys.append(key)
            survey.size += len(encoded.data)
    survey.findings.extend(checker.finish())
    report("check", len(keys), len(keys))
    return survey


def _read_one(reader: Store, device: str, key: Key) -> bytes:
    raw = reader.read(device, [key]).get(key)
    if raw is None:
        raise StoreDamaged(reader.where(device, key), "was there, and cannot be read back")
    return raw


def _refuse_errors(findings: Iterable[Finding]) -> None:
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more errors: see `ratchetkeep verify`)"
        what = errors[0].what + (more if len(errors) > 1 else "")
        raise StoreDamaged(errors[0].place, what, errors[0].remedy or None)


def _write(
    reader: Store, device: str, store: Store, stage: Stage, survey: _Survey, report: Progress
) -> None:
    for start in range(0, len(survey.keys), CHUNK):
        report("write", start, len(survey.keys))
        written: dict[Key, bytes] = {}
        for key in survey.keys[start : start + CHUNK]:
            raw = _read_one(reader, device, key)
            if _digest(raw) != survey.digests[key]:
                raise _changed(reader, device, key)
            value = reader.decode(device, key, raw)
            data = store.encode(key, value, survey.credentials).data
            if data is None:
                raise _changed(reader, device, key)
            written[key] = data
        stage.write(written)
        _compare(store, stage, survey.credentials, written)
    report("write", len(survey.keys), len(survey.keys))


def _digest(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=16).digest()


def _changed(reader: Store, device: str, key: Key) -> StoreInUse:
    what = "was changed by another program during the copy"
    return StoreInUse(reader.where(device, key), what, "Stop that program, then copy again")


def _compare(
    store: Store, stage: Stage, credentials: Credentials, written: dict[Key, bytes]
) -> None:
    """Read back what was staged: the same bytes, and they keep their meaning when written again."""
    back = stage.read(written)
    for key, data in written.items():
        if back.get(key) != data or not _is_stable(store, key, data, credentials):
            place = f"{store.url} ({key})"
            raise CommitFailed(place, "did not come back as it was written", "Nothing was changed")


def _is_stable(store: Store, key: Key, data: bytes, credentials: Credentials) -> bool:
    value = store.format.decode(key, data)
    again = store.encode(key, value, credentials).data
    return again == data or (again is not None and store.format.decode(key, again) == value)


def _summary(
    reader: Store,
    source: urls.Target,
    store: Store,
    target: urls.Target,
    survey: _Survey,
    dry_run: bool,
) -> CopySummary:
    counts = Counter(key.family for key in survey.keys if key != CREDENTIALS)
    return CopySummary(
        source=reader.url,
        target=store.url,
        source_kind=source.kind,
        target_kind=target.kind,
        records=dict(sorted(counts.items())),
        size=survey.size,
        not_held=_grouped(survey.losses),
        findings=tuple(survey.findings),
        dry_run=dry_run,
    )


def _grouped(losses: Iterable[tuple[Key, Loss]]) -> tuple[NotHeldByTarget, ...]:
    """The same loss in many records is one line, with how many records it is in."""
    records: dict[tuple[str, str, str, bool], set[Key]] = {}
    for key, loss in losses:
        member = re.sub(r"\[\d+\]", "[]", loss.place)
        records.setdefault((key.family, member, loss.what, loss.derived), set()).add(key)
    return tuple(
        NotHeldByTarget(*group, count=len(keys), example=str(min(keys)))
        for group, keys in sorted(records.items())
    )
