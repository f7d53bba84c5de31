"""The two passes of a copy over the source: try everything, then write it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ratchetkeep._checker import Checker
from ratchetkeep.errors import CommitFailed, StoreDamaged, StoreInUse
from ratchetkeep.formats import Loss
from ratchetkeep.model import CREDENTIALS, Credentials, Key
from ratchetkeep.stores.base import Finding, Stage, Store

__all__ = ["Progress", "Survey", "survey", "write"]

# Records that are read, written and read back together.
CHUNK = 256

Progress = Callable[[str, int, int], None]
"""Called with the step (``check`` or ``write``), how many records are done, and of how many."""


@dataclass
class Survey:
    """What the first pass over the source found."""

    credentials: Credentials
    keys: list[Key] = field(default_factory=list)
    digests: dict[Key, bytes] = field(default_factory=dict)
    size: int = 0
    losses: list[tuple[Key, Loss]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def survey(reader: Store, device: str, target: Store, report: Progress) -> Survey:
    """Read, check and try everything; nothing is written."""
    keys = sorted(reader.scan(device))
    raw = reader.read(device, [CREDENTIALS]).get(CREDENTIALS)
    if raw is None:
        left = reader.trace(device)
        raise StoreDamaged(reader.url, f"holds no credentials, but something of a device: {left}")
    credentials: Credentials = reader.decode(device, CREDENTIALS, raw)
    found = Survey(credentials, findings=list(reader.findings(device)))
    _refuse_errors(found.findings)
    checker = Checker(credentials, lambda key: reader.where(device, key))
    for done, key in enumerate(keys):
        if done % CHUNK == 0:
            report("check", done, len(keys))
        raw = _read_one(reader, device, key)
        found.digests[key] = _digest(raw)
        value = reader.decode(device, key, raw)
        findings = list(checker.check(key, value))
        found.findings.extend(findings)
        if key == CREDENTIALS:
            _refuse_errors(findings)
        encoded = target.encode(key, value, credentials)
        found.losses.extend((key, loss) for loss in encoded.losses)
        if encoded.data is not None:
            found.keys.append(key)
            found.size += len(encoded.data)
    found.findings.extend(checker.finish())
    report("check", len(keys), len(keys))
    return found


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


def write(
    reader: Store, device: str, store: Store, stage: Stage, found: Survey, report: Progress
) -> None:
    for start in range(0, len(found.keys), CHUNK):
        report("write", start, len(found.keys))
        written: dict[Key, bytes] = {}
        for key in found.keys[start : start + CHUNK]:
            raw = _read_one(reader, device, key)
            if _digest(raw) != found.digests[key]:
                raise _changed(reader, device, key)
            value = reader.decode(device, key, raw)
            data = store.encode(key, value, found.credentials).data
            if data is None:
                raise _changed(reader, device, key)
            written[key] = data
        stage.write(written)
        _compare(store, stage, found.credentials, written)
    report("write", len(found.keys), len(found.keys))


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
