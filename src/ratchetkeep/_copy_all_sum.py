"""What a copy of many devices carries, loses and brought up, added up over the devices."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ratchetkeep._copy_plan import Converted, CopySummary, LeftBehind, NotHeldByTarget
from ratchetkeep.errors import RatchetkeepError
from ratchetkeep.formats._shape import tell_amount
from ratchetkeep.stores.base import Finding

__all__ = ["CopyAllSummary", "DeviceCopy", "Totals"]


@dataclass(frozen=True)
class DeviceCopy:
    """What came of one device.

    :ivar device: its name: in a tree, its folder below the root.
    :ivar source: its URL.
    :ivar target: its URL at the target; "" if it can have none.
    :ivar outcome: ``copied``, ``already there`` or ``failed``; ``to be copied`` before a copy and
        with ``dry_run``; ``not copied`` if something stopped the copy before.
    :ivar records: number of records carried, without the credentials.
    :ivar rest: path of the side file that what the target cannot hold is kept in, or "".
    :ivar error: why it failed.
    """

    device: str
    source: str
    target: str
    outcome: str
    records: int = 0
    rest: str = ""
    error: RatchetkeepError | None = None


@dataclass(frozen=True)
class CopyAllSummary:
    """What a copy of many devices did, or with ``dry_run`` would do.

    The numbers are of the devices that were copied, or are to be; not of those that were there.

    :ivar devices: what came of each, by name.
    :ivar source_kinds: the kinds of store that they were in.
    :ivar records: number of records by family, without the credentials.
    :ivar size: bytes written.
    :ivar converted: what has another spelling in the target, the credentials too.
    :ivar not_held: what the target cannot hold.
    :ivar left_behind: what the source's library keeps beside the records.
    :ivar findings: what checking the sources brought up; such records were carried as they are.
    :ivar client: whose spelling was asked for, or None.
    :ivar retired: True if the sources were marked as moved, or with ``dry_run`` would be.
    :ivar jobs: how many processes copied.
    :ivar stopped: the target's error that ended the copy before all devices were tried, or None.
    """

    source: str
    target: str
    source_kinds: tuple[str, ...]
    target_kind: str
    devices: tuple[DeviceCopy, ...]
    records: dict[str, int]
    size: int
    converted: tuple[Converted, ...] = ()
    not_held: tuple[NotHeldByTarget, ...] = ()
    left_behind: tuple[LeftBehind, ...] = ()
    findings: tuple[Finding, ...] = ()
    client: str | None = None
    retired: bool = False
    dry_run: bool = False
    jobs: int = 1
    stopped: RatchetkeepError | None = None

    @property
    def total(self) -> int:
        """Number of records, without the credentials."""
        return sum(self.records.values())

    @property
    def failed(self) -> tuple[DeviceCopy, ...]:
        """The devices that could not be copied."""
        return tuple(each for each in self.devices if each.error is not None)

    @property
    def complete(self) -> bool:
        """True if every device of the source is at the target, or with ``dry_run`` would be."""
        return self.stopped is None and not self.failed

    def count(self, outcome: str) -> int:
        """How many devices have this outcome."""
        return sum(each.outcome == outcome for each in self.devices)


class Totals:
    """The sums over the devices of a copy."""

    def __init__(self, findings: Iterable[Finding] = ()) -> None:
        self.records: Counter[str] = Counter()
        self.size = 0
        self.findings = list(findings)
        self._converted: Counter[tuple[str, str, str]] = Counter()
        self._lost: dict[tuple[str, str, str, bool, bool, bool], _Lost] = {}
        self._behind: Counter[tuple[str, str]] = Counter()

    def add(self, summary: CopySummary) -> None:
        """Add a device."""
        self.records.update(summary.records)
        self.size += summary.size
        self.findings += summary.findings
        for each in summary.converted:
            self._converted[each.family, each.source, each.target] += each.count
        for lost in summary.not_held:
            what, has_amount = _template(lost), lost.amount is not None
            kind = (lost.family, lost.member, what, lost.derived, lost.whole, has_amount)
            self._lost.setdefault(kind, _Lost(lost.example)).add(lost)
        for left in summary.left_behind:
            self._behind[left.table, left.what] += left.rows

    def converted(self) -> tuple[Converted, ...]:
        """As :attr:`CopySummary.converted`, of all devices."""
        return tuple(
            Converted(family, count, was, becomes)
            for (family, was, becomes), count in sorted(self._converted.items())
        )

    def not_held(self) -> tuple[NotHeldByTarget, ...]:
        """As :attr:`CopySummary.not_held`, of all devices."""
        return tuple(
            NotHeldByTarget(
                family,
                member,
                tell_amount(what, lost.amount if has_amount else None),
                derived,
                count=lost.count,
                example=lost.example,
                whole=whole,
                amount=lost.amount if has_amount else None,
            )
            for (family, member, what, derived, whole, has_amount), lost in sorted(
                self._lost.items(), key=lambda item: item[0]
            )
        )

    def left_behind(self) -> tuple[LeftBehind, ...]:
        """As :attr:`CopySummary.left_behind`, of all devices."""
        return tuple(
            LeftBehind(table, rows, what) for (table, what), rows in sorted(self._behind.items())
        )


class _Lost:
    def __init__(self, example: str) -> None:
        self.example = example
        self.count = self.amount = 0

    def add(self, lost: NotHeldByTarget) -> None:
        self.count += lost.count
        self.amount += lost.amount or 0
        self.example = min(self.example, lost.example)


def _template(lost: NotHeldByTarget) -> str:
    """What is lost, without the amount that one device loses of it."""
    if lost.amount is None:
        return lost.what
    return re.sub(rf"(?<!\d){lost.amount}(?!\d)", "{n}", lost.what)
