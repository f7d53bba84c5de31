"""What a copy does with each record: decode it, check it, encode it for the target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from ratchetkeep._checker import Checker, fact_of
from ratchetkeep._copy_source import Chunk, Source, changed
from ratchetkeep.errors import CommitFailed, StoreDamaged
from ratchetkeep.formats import Encoded, Format, Loss
from ratchetkeep.model import CREDENTIALS, Credentials, Key
from ratchetkeep.stores import urls
from ratchetkeep.stores.base import Finding

__all__ = ["Counts", "Recipe", "Target", "Trial", "Tried", "refuse_errors"]

Counts = Counter[tuple[str, str, str]]
"""How many records of a family had one spelling and get another."""


class Recipe(NamedTuple):
    """Which copy it is, for another process."""

    source: urls.Target
    target: urls.Target
    client: str | None


class Target(Protocol):
    """What of a store a copy tries its records on."""

    @property
    def url(self) -> str: ...
    @property
    def format(self) -> Format: ...
    @property
    def counts(self) -> Counts: ...
    @property
    def fits(self) -> Callable[[Key, bytes], Encoded] | None: ...
    def encode(self, key: Key, value: Any, credentials: Credentials | None) -> Encoded: ...


class Tried(NamedTuple):
    """What came of a chunk, record by record, but for findings and losses: most have none.

    :ivar data: the bytes for the target; None for what it cannot hold.
    :ivar facts: what is compared across records; see :func:`fact_of`.
    :ivar losses: with the place of their record in the chunk.
    :ivar findings: the same.
    """

    data: list[bytes | None]
    facts: list[bytes | None]
    losses: list[tuple[int, tuple[Loss, ...]]]
    findings: list[tuple[int, Finding]]


class Trial:
    """Tries records of a source on a target."""

    def __init__(
        self, reader: Source, device: str, target: Target, credentials: Credentials
    ) -> None:
        self._decode: Callable[[str, Key, bytes], Any] = reader.decode
        self._device, self._target = device, target
        self._reader = reader
        self.credentials = credentials
        self._is_same_format = reader.format is target.format
        self._checker = Checker(credentials, lambda key: reader.where(device, key))

    def run(self, chunk: Chunk) -> Tried:
        """Try a chunk of records.

        :raises StoreDamaged: if one cannot be read, or the credentials do not fit together.
        :raises CommitFailed: if one would not keep its meaning in the target.
        """
        tried = Tried([], [], [], [])
        for place, (key, raw) in enumerate(chunk):
            value = self._decode(self._device, key, raw)
            findings = list(self._checker.check_alone(key, value))
            if key == CREDENTIALS:
                if value != self.credentials:
                    raise changed(self._reader)
                refuse_errors(findings)
            tried.findings.extend((place, finding) for finding in findings)
            tried.facts.append(fact_of(key, value))
            data, losses = self._target.encode(key, value, self.credentials)
            if losses:
                tried.losses.append((place, losses))
            is_same = self._is_same_format and data == raw
            if data is not None and not is_same and not self._is_stable(key, value, data):
                what = "would not come back as it is written"
                raise CommitFailed(f"{self._target.url} ({key})", what, "Nothing was changed")
            tried.data.append(data)
        return tried

    def _is_stable(self, key: Key, value: Any, data: bytes) -> bool:
        """Whether a record keeps its meaning when the target's own reader writes it again."""
        written = self._target.format
        back = written.decode(key, data)
        if back == value:
            return True
        again = written.encode(key, back, self.credentials).data
        return again == data or (again is not None and written.decode(key, again) == back)


def refuse_errors(findings: Iterable[Finding]) -> None:
    """:raises StoreDamaged: if one of the findings is an error."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more errors: see `ratchetkeep verify`)"
        what = errors[0].what + (more if len(errors) > 1 else "")
        raise StoreDamaged(errors[0].place, what, errors[0].remedy or None)
