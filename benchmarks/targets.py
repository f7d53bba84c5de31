"""What was to be reached, and what was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .measure import Results, Spread
from .peers import BareLimit, OneFile, OurBaileys, OurBaileysEx, OurSqlite, SqliteBare
from .resources import READ
from .workloads import BareSelect, Lookups, Scale

MIB = 1024 * 1024


@dataclass(frozen=True)
class Target:
    """One row.

    :ivar what: the target in words.
    :ivar limit: the bound.
    :ivar at_least: True if the bound is a lower one.
    :ivar reached: the figure of this run.
    :ivar unit: what is written behind both.
    :ivar workload: what to profile if it is missed.
    """

    what: str
    limit: float
    reached: float
    unit: str = "x"
    at_least: bool = False
    workload: str = ""
    peer: str = ""

    @property
    def is_met(self) -> bool:
        """Whether the figure is within the bound."""
        if self.at_least:
            return self.reached >= self.limit
        return self.reached <= self.limit


@dataclass(frozen=True)
class Measured:
    """Everything of one run."""

    scale: Scale
    times: Mapping[str, Results]
    committers: Mapping[str, Mapping[str, Spread]]
    memory: Mapping[str, Mapping[int, Mapping[str, Spread]]]
    disk: Mapping[str, Mapping[int, int]]
    copies: Mapping[str, Mapping[int, float]]
    mint_syncs: int
    key_seconds: float

    def spread(self, workload: str, name: str, size: int | None = None) -> Spread:
        """The times of a peer; of the table's size if none is given."""
        return self.times[workload][name, self.scale.main if size is None else size]

    def ratio(self, workload: str, name: str, to: str, size: int | None = None) -> float:
        """A peer's median over another's."""
        main = None if to == BareLimit.name else size
        return self.spread(workload, name, size).p50 / self.spread(workload, to, main).p50


def targets(run: Measured) -> list[Target]:
    """All targets with their figures."""
    return [*_commits(run), *_together(run), *_reads(run), *_flat(run), *_memory(run)]


def _commits(run: Measured) -> list[Target]:
    limit, ours = BareLimit.name, OurSqlite.name
    p99 = run.spread("session", ours).p99 / run.spread("session", limit).p99
    rows = [
        Target(
            "`sqlite:`, one session: p50 over the limit's p50 (aim: 1.2)",
            1.5,
            run.ratio("session", ours, limit),
            workload="session",
            peer=ours,
        ),
        Target("`sqlite:`, one session: p99 over the limit's p99", 2.0, p99),
    ]
    for kind in (OurBaileys, OurBaileysEx):
        rows += [
            Target(
                f"`{kind.name[12:]}`, one session: p50 over the limit's p50",
                2.0,
                run.ratio("session", kind.name, limit),
                workload="session",
                peer=kind.name,
            ),
            Target(
                f"`{kind.name[12:]}`, one session: times faster than one file per record",
                3.0,
                run.ratio("session", OneFile.name, kind.name),
                at_least=True,
            ),
        ]
    return [
        *rows,
        Target(
            "`sqlite:`, 812 pre-keys and credentials: p50 over a bare `executemany`",
            2.0,
            run.ratio("mint", ours, SqliteBare.name),
            workload="mint",
            peer=ours,
        ),
        Target("`sqlite:`, 812 pre-keys and credentials: syncs", 1, run.mint_syncs, unit=""),
    ]


def _together(run: Measured) -> list[Target]:
    rows = []
    for name, found in run.committers.items():
        if not name.startswith("ratchetkeep sqlite:"):
            continue
        rows.append(
            Target(
                f"`sqlite:`{name[19:]}: commits per second of {run.scale.workers} over one's",
                40.0 if "5 ms" in name else 4.0,
                found["many"].p50 / found["one"].p50,
                at_least=True,
                workload="" if "5 ms" in name else "committers",
                peer=OurSqlite.name,
            )
        )
    return rows


def _reads(run: Measured) -> list[Target]:
    ours = OurSqlite.name
    return [
        Target(
            "cached get of one record over 100 dict look-ups",
            1.0,
            run.ratio("cached get", ours, Lookups.name),
            workload="get",
            peer=ours,
        ),
        Target(
            "1,000 sessions cold over a bare SELECT loop",
            3.0,
            run.ratio("cold get", ours, BareSelect.name, run.scale.big),
            workload="cold",
            peer=ours,
        ),
    ]


def _flat(run: Measured) -> list[Target]:
    rows = []
    for workload, what in (("session by size", "commit cost"), ("open", "opening cost")):
        for kind in (OurSqlite, OurBaileys, OurBaileysEx):
            sizes = run.scale.sizes_of(kind)
            least, most = sizes[0], sizes[-1]
            large, small = (run.spread(workload, kind.name, size).p50 for size in (most, least))
            rows.append(
                Target(
                    f"`{kind.name[12:]}` {what} with {most:,} records over {least:,}",
                    1.2,
                    large / small,
                    workload="open" if workload == "open" else "session",
                    peer=kind.name,
                )
            )
    return rows


def _memory(run: Measured) -> list[Target]:
    return [
        Target(
            f"`{name[12:]}` memory with {max(sizes):,} records above an empty device, {when}",
            32.0,
            sizes[max(sizes)][part].p50 / MIB,
            unit=" MiB",
        )
        for name, sizes in run.memory.items()
        for part, when in (("opened", "just opened"), ("read", f"up to {READ:,} read"))
    ]
