"""What was to be reached, and what was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .copying import Copied, Copies
from .fleet.found import Fleet
from .fleet.targets import fleet_targets
from .measure import Results, Spread
from .peers import BareLimit, OneFile, OurBaileys, OurBaileysEx, OurSqlite, SqliteBare
from .resources import READ
from .sealing import sealed_targets
from .target import Target, in_range, noise, p99_ratio
from .workloads import BareSelect, Lookups, Scale

MIB = 1024 * 1024
FLAT = 1.2
"""By what a cost that does not grow may differ between sizes."""


@dataclass(frozen=True)
class Measured:
    """Everything of one run."""

    scale: Scale
    times: Mapping[str, Results]
    committers: Mapping[str, Mapping[str, Spread]]
    memory: Mapping[str, Mapping[int, Mapping[str, Spread]]]
    disk: Mapping[str, Mapping[int, int]]
    copies: Copies
    mint_syncs: int
    key_seconds: float
    turn_seconds: float
    fleet: Fleet | None

    def spread(self, workload: str, name: str, size: int | None = None) -> Spread:
        """The times of a peer; of the table's size if none is given."""
        return self.times[workload][name, self.scale.main if size is None else size]

    def ratio(self, workload: str, name: str, to: str, size: int | None = None) -> float:
        """A peer's median over another's."""
        main = None if to == BareLimit.name else size
        return self.spread(workload, name, size).p50 / self.spread(workload, to, main).p50


def targets(run: Measured) -> list[Target]:
    """All targets with their figures."""
    return [
        *_commits(run),
        *sealed_targets(run.times, run.scale),
        *_together(run),
        *_reads(run),
        *_flat(run),
        *_memory(run),
        *_copies(run),
        *fleet_targets(run.fleet, run.times, run.scale),
    ]


def _commits(run: Measured) -> list[Target]:
    limit, ours = BareLimit.name, OurSqlite.name
    rows = [
        Target(
            "`sqlite:`, one session: p50 over the limit's p50 (aim: 1.2)",
            1.5,
            run.ratio("session", ours, limit),
            workload="session",
            peer=ours,
        ),
        Target(
            "`sqlite:`, one session: p99 over the limit's p99",
            2.0,
            p99_ratio(run.spread("session", ours), run.spread("session", limit)),
            unexplained="A profile adds up all commits and does not show the slowest of them.",
        ),
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
                workload="session",
                peer=kind.name,
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
        Target(
            "`sqlite:`, 812 pre-keys and credentials: syncs",
            1,
            run.mint_syncs,
            unit="",
            unexplained="Syncs are counted; no time is behind the figure.",
        ),
    ]


def _together(run: Measured) -> list[Target]:
    rows = []
    for name, found in run.committers.items():
        if not name.startswith("ratchetkeep sqlite:"):
            continue
        bound = 40.0 if "5 ms" in name else 4.0
        # What samples where time goes is there for threads and a disk of its own speed.
        is_profiled = "5 ms" not in name and "threads" in name
        rows.append(
            Target(
                f"`sqlite:`{name[19:]}: commits per second of {run.scale.workers} over one's",
                bound,
                found["many"].p50 / found["one"].p50,
                at_least=True,
                workload="committers" if is_profiled else "",
                peer=OurSqlite.name,
                unexplained="Tasks, and a sync that is delayed, are not profiled. "
                + noise(found["many"], found["one"], bound),
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
            size=run.scale.big,
        ),
    ]


def _flat(run: Measured) -> list[Target]:
    rows = []
    for workload, what in (("session by size", "commit cost"), ("open", "opening cost")):
        for kind in (OurSqlite, OurBaileys, OurBaileysEx):
            sizes = run.scale.sizes_of(kind)
            every = sorted((run.spread(workload, kind.name, n) for n in sizes), key=_median)
            least, most = every[0], every[-1]
            is_noise = in_range(most, least)[0] <= FLAT
            rows.append(
                Target(
                    f"`{kind.name[12:]}` {what} with {sizes[0]:,} to {sizes[-1]:,} records: "
                    "highest over lowest",
                    FLAT,
                    most.p50 / least.p50,
                    workload="" if is_noise else workload.removesuffix(" by size"),
                    peer=kind.name,
                    size=run.scale.big,
                    unexplained=noise(most, least, FLAT),
                )
            )
    return rows


def _median(spread: Spread) -> float:
    return spread.p50


def _memory(run: Measured) -> list[Target]:
    return [
        Target(
            f"`{name[12:]}` memory with {max(sizes):,} records above an empty device, {when}",
            32.0,
            sizes[max(sizes)][part].p50 / MIB,
            unit=" MiB",
            unexplained="A profile of time does not show memory.",
        )
        for name, sizes in run.memory.items()
        for part, when in (("opened", "just opened"), ("read", f"up to {READ:,} read"))
    ]


def _copies(run: Measured) -> list[Target]:
    rows = []
    for way, found in run.copies.items():
        if "sealed" in way:
            continue  # beside plain copies, in the part about sealing
        largest = max(found)
        rows.append(
            Target(
                f"copy `{way.replace(' to ', '` to `')}`, {largest:,} records: over a bare loop",
                3.0,
                found[largest].ratio,
                unexplained="A copy works in several processes, of which a profile shows one.",
            )
        )
        if len(found) > 1:
            rows += _growth(way, found)
    return rows


def _growth(way: str, found: Mapping[int, Copied]) -> list[Target]:
    small, large = min(found), max(found)
    each = [found[size].ours.p50 / size for size in (small, large)]
    more = found[large].peak - found[small].peak
    shown = f"copy `{way.replace(' to ', '` to `')}`"
    return [
        Target(
            f"{shown}: time of a record of {large:,} over one of {small:,}",
            1.5,
            each[1] / each[0],
            unexplained="A profile of one size does not show how another differs.",
        ),
        Target(
            f"{shown}: memory with {large:,} records above {small:,}",
            20.0,
            more / MIB,
            unit=" MiB",
            unexplained="A profile of time does not show memory.",
        ),
    ]
