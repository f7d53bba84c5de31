"""What a copy carries, and what the target cannot hold: known before anything is written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ratchetkeep._copy_spelling import Converted
from ratchetkeep.formats import Loss
from ratchetkeep.formats._shape import tell_amount
from ratchetkeep.model import Key
from ratchetkeep.stores.base import Finding, LeftBehind

__all__ = ["Converted", "CopySummary", "Grouping", "LeftBehind", "NotHeldByTarget"]

_MEMBERS = 1024


@dataclass(frozen=True)
class NotHeldByTarget:
    """A member, or whole records, that the target's format has no place for.

    :ivar family: the records' family, or ``credentials``.
    :ivar member: path of the member in the target's terms; "" for what is of the record as such.
    :ivar what: the consequence, with the amount in it where there is one.
    :ivar derived: True if it can be made again, or the target's library does not need it.
    :ivar count: in how many records.
    :ivar example: one of them.
    :ivar whole: True if these records are not in the target at all.
    :ivar amount: how many of what ``what`` speaks of, in all records together; None where it counts
        nothing.
    """

    family: str
    member: str
    what: str
    derived: bool
    count: int
    example: str
    whole: bool = False
    amount: int | None = None


@dataclass(frozen=True)
class CopySummary:
    """What a copy carried, or with ``dry_run`` would carry.

    :ivar records: number of records by family, without the credentials.
    :ivar size: bytes written.
    :ivar converted: what has another spelling in the target, the credentials too; all else is
        carried as it is.
    :ivar left_behind: what the source's library keeps beside the records, and no other one has a
        place for.
    :ivar client: whose spelling was asked for, or None.
    :ivar retired: True if the source was marked as moved, or with ``dry_run`` would be.
    :ivar rest: path of the side file that what the target cannot hold is kept in, or "".
    :ivar completed_from: path of the side file that the source was completed from, or "".
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
    converted: tuple[Converted, ...] = ()
    left_behind: tuple[LeftBehind, ...] = ()
    client: str | None = None
    retired: bool = False
    rest: str = ""
    completed_from: str = ""

    @property
    def total(self) -> int:
        """Number of records, without the credentials."""
        return sum(self.records.values())


NOWHERE = Loss("", "the target has no place for it", False)


class Grouping:
    """The losses of records that come one after the other: the same loss in many of them is one
    line, with how many records it is in."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str, str, bool, bool], _Group] = {}
        # Members by the path that a record gave them, of which there are few.
        self._members: dict[str, str] = {}

    def add(self, key: Key, losses: Sequence[Loss], *, whole: bool) -> None:
        """Add what one record loses; a record comes once.

        :param whole: True if the target has no place for the record at all.
        """
        for place, what, derived, amount in losses or (NOWHERE,):
            member = self._member(place)
            kind = (key.family, member, what, derived, whole)
            group = self._groups.setdefault(kind, _Group(key))
            group.amount += amount or 0
            group.has_amount |= amount is not None
            if group.last != key:
                group.count += 1
                group.last = key
                group.example = min(group.example, key)

    def _member(self, place: str) -> str:
        if place not in self._members:
            if len(self._members) >= _MEMBERS:
                self._members.clear()
            self._members[place] = re.sub(r"\[\d+\]", "[]", place)
        return self._members[place]

    def lines(self) -> tuple[NotHeldByTarget, ...]:
        """A line for each group, sorted."""
        return tuple(
            NotHeldByTarget(
                family,
                member,
                tell_amount(what, group.total),
                derived,
                count=group.count,
                example=str(group.example),
                whole=whole,
                amount=group.total,
            )
            for (family, member, what, derived, whole), group in sorted(
                self._groups.items(), key=lambda item: item[0]
            )
        )


class _Group:
    def __init__(self, key: Key) -> None:
        self.example = key
        self.last: Key | None = None
        self.count = 0
        self.amount = 0
        self.has_amount = False

    @property
    def total(self) -> int | None:
        return self.amount if self.has_amount else None
