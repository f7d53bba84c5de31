"""The two passes of a copy: try every record of the source, then write what came of it.

Each record is read, decoded and encoded once. What is to be written waits in a :class:`Spool`, so
that the second pass only writes it and reads it back. A source whose readers see no snapshot is
read once more before the copy is published: its bytes must be those that were tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ratchetkeep._checker import Checker
from ratchetkeep._copy_plan import Grouping
from ratchetkeep._copy_source import CHUNK, Chunk, Digest, Source, changed, chunks, digest_of
from ratchetkeep._copy_trial import (
    Recipe,
    Target,
    Trial,
    Tried,
    refuse_errors,
)
from ratchetkeep._spool import Spool
from ratchetkeep.errors import CommitFailed, StoreDamaged
from ratchetkeep.model import CREDENTIALS, Credentials, Key
from ratchetkeep.stores.base import Finding, Stage

if TYPE_CHECKING:
    from ratchetkeep._copy_pool import Helpers, Worker

__all__ = ["Progress", "Recipe", "Survey", "survey", "write"]

# Fewer records are tried sooner than another process is there to help.
HELPED = 20_000

Progress = Callable[[str, int, int], None]
"""Called with the step (``check``, ``rest`` or ``write``), how many records are done, and of how
many."""


@dataclass
class Survey:
    """What the first pass over the source found.

    :ivar records: how many records the target is to hold, by family, with the credentials.
    :ivar size: their bytes.
    :ivar spool: these records; empty if nothing was to be kept.
    :ivar digest: over all that was read.
    :ivar helper: a process that can read the source once more, or None.
    """

    credentials: Credentials
    spool: Spool
    records: Counter[str] = field(default_factory=Counter)
    size: int = 0
    losses: Grouping = field(default_factory=Grouping)
    findings: list[Finding] = field(default_factory=list)
    digest: bytes = b""
    helper: Worker | None = None

    def close(self) -> None:
        """Forget what was kept, and end the process."""
        self.spool.close()
        if self.helper:
            self.helper.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def survey(
    reader: Source,
    device: str,
    target: Target,
    report: Progress,
    *,
    keep: bool = True,
    recipe: Recipe | None = None,
    has_findings: bool = False,
) -> Survey:
    """Read, check and try everything; nothing is written.

    :param keep: keep what the target is to hold, for :func:`write`.
    :param recipe: how other processes can do the same with single records.
    :param has_findings: somebody has looked for what is the matter with the source as a whole.
    """
    total = reader.count(device)
    raw = reader.read(device, [CREDENTIALS]).get(CREDENTIALS)
    if raw is None:
        left = reader.trace(device)
        raise StoreDamaged(reader.url, f"holds no credentials, but something of a device: {left}")
    credentials: Credentials = reader.decode(device, CREDENTIALS, raw)
    found = Survey(credentials, Spool())
    checker = Checker(credentials, lambda key: reader.where(device, key))
    # Of single records, in the order of their keys at the end.
    findings: list[tuple[Key, Finding]] = []
    try:
        digest, done = Digest(), 0
        read = map(digest.add, chunks(reader, device, CHUNK))
        trial = Trial(reader, device, target, credentials)
        with _helpers(recipe if total >= HELPED else None, credentials) as helpers:
            of_source = reader.sum_findings if has_findings else reader.findings
            found.findings += of_source(device)
            refuse_errors(found.findings)
            for chunk, tried in _tried(read, trial, target, helpers):
                report("check", done, total)
                findings += [(chunk[place][0], finding) for place, finding in tried.findings]
                for (key, _), fact in zip(chunk, tried.facts, strict=True):
                    checker.note(key, fact)
                _add(found, chunk, tried, target, keep)
                done += len(chunk)
            if helpers and keep and not reader.reads_snapshots:
                found.helper = helpers.spare()
        found.digest = digest.digest()
        found.findings.extend(finding for _, finding in sorted(findings, key=_by_key))
        found.findings.extend(checker.finish(lambda family: reader.scan(device, family)))
        report("check", done, done)
    except BaseException:
        found.close()
        raise
    return found


def _by_key(pair: tuple[Key, Finding]) -> Key:
    return pair[0]


@contextmanager
def _helpers(recipe: Recipe | None, credentials: Credentials) -> Iterator[Helpers | None]:
    """Other processes, if there is a recipe for them and they can be had."""
    found = None
    if recipe is not None:
        from ratchetkeep._copy_pool import helpers  # only when asked for: few copies are so large

        found = helpers(recipe, credentials)
    try:
        yield found
    finally:
        if found is not None:
            found.close()


def _tried(
    read: Iterator[Chunk], trial: Trial, target: Target, helpers: Helpers | None
) -> Iterator[tuple[Chunk, Tried]]:
    """What comes of each chunk."""
    if helpers is not None:
        return helpers.tried(read, trial, target.counts)
    return ((chunk, trial.run(chunk)) for chunk in read)


def _add(found: Survey, chunk: Chunk, tried: Tried, target: Target, keep: bool) -> None:
    """Add what came of a chunk."""
    kept: Chunk = []
    lost = dict(tried.losses)
    for place, ((key, _), data) in enumerate(zip(chunk, tried.data, strict=True)):
        losses = lost.get(place, ())
        if data is not None and target.fits is not None:
            data, more = target.fits(key, data)
            losses += more
        if losses or data is None:
            found.losses.add(key, losses, whole=data is None)
        if data is not None:
            kept.append((key, data))
            found.records[key.family] += 1
            found.size += len(data)
    if keep and kept:
        found.spool.add(kept)


def write(
    reader: Source,
    device: str,
    store: Target,
    stage: Stage,
    found: Survey,
    report: Progress,
) -> None:
    """Write what the survey kept, and read it back.

    :raises StoreInUse: if the source was changed meanwhile.
    """
    total = found.records.total()
    done = 0
    if found.helper:
        found.helper.begin_digest()
    for chunk in found.spool:
        report("write", done, total)
        stage.write(chunk)
        back = stage.read(chunk)
        for key, data in chunk.items():
            if back.get(key) != data:
                what = "did not come back as it was written"
                raise CommitFailed(f"{store.url} ({key})", what, "Nothing was changed")
        done += len(chunk)
    report("write", done, total)
    if reader.reads_snapshots:
        return
    # What another process finds is no error before this one finds it too.
    now = found.helper.digest() if found.helper else None
    if now != found.digest and digest_of(reader, device) != found.digest:
        raise changed(reader)
