"""What a copy carries, and what the target cannot hold: known before anything is written."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ratchetkeep.formats import Loss
from ratchetkeep.model import Key
from ratchetkeep.stores.base import Finding

__all__ = ["CopySummary", "NotHeldByTarget", "grouped"]


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


def grouped(losses: Iterable[tuple[Key, Loss]]) -> tuple[NotHeldByTarget, ...]:
    """The same loss in many records is one line, with how many records it is in."""
    records: dict[tuple[str, str, str, bool], set[Key]] = {}
    for key, loss in losses:
        member = re.sub(r"\[\d+\]", "[]", loss.place)
        records.setdefault((key.family, member, loss.what, loss.derived), set()).add(key)
    return tuple(
        NotHeldByTarget(*group, count=len(keys), example=str(min(keys)))
        for group, keys in sorted(records.items())
    )
