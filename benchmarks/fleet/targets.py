"""What was to be reached with PostgreSQL, and what was."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.measure import Results
from benchmarks.peers import BarePostgres, OurPostgres
from benchmarks.sealing import sealed_targets
from benchmarks.target import Target, noise, p99_ratio
from benchmarks.workloads import Scale
from ratchetkeep.stores._postgres_hub import LANES

from .crowd import BarePool
from .found import Fleet, Idle
from .lone import SESSION

# Statements per second that so many idle devices may cost.
_PER_SECOND, _DEVICES = 1.0, 100


def fleet_targets(fleet: Fleet | None, times: Mapping[str, Results], scale: Scale) -> list[Target]:
    """All targets with their figures; none where there is no server."""
    if fleet is None:
        return []
    return [
        *_lone(times, scale),
        *sealed_targets(times, scale, SESSION),
        *_together(fleet, scale),
        _idle(fleet.idle),
        *_trips(fleet),
    ]


def _lone(times: Mapping[str, Results], scale: Scale) -> list[Target]:
    ours, bare = (times[SESSION][kind.name, scale.main] for kind in (OurPostgres, BarePostgres))
    return [
        Target(
            "`postgresql:`, one session: p50 over the bare driver's p50",
            1.5,
            ours.p50 / bare.p50,
            workload="session",
            peer=OurPostgres.name,
        ),
        Target(
            "`postgresql:`, one session: p99 over the bare driver's p99",
            2.0,
            p99_ratio(ours, bare),
            unexplained="A profile adds up all commits and does not show the slowest of them.",
        ),
    ]


def _together(fleet: Fleet, scale: Scale) -> list[Target]:
    bare = fleet.committers[BarePool.name]["many"]
    rows = []
    for how in ("threads", "tasks"):
        ours = fleet.committers[f"{OurPostgres.name}, {how}"]["many"]
        rows.append(
            Target(
                f"`postgresql:`, {how}: commits per second of {scale.workers} devices over "
                "a bare pool's",
                3.0,
                ours.p50 / bare.p50,
                at_least=True,
                workload="committers" if how == "threads" else "",
                peer=OurPostgres.name,
                unexplained=f"Tasks are not profiled. {noise(ours, bare, 3.0)}",
            )
        )
    return rows


def _idle(idle: Idle) -> Target:
    return Target(
        f"`postgresql:`, {idle.devices:,} idle devices, lease of {idle.lease:g} s: statements",
        _PER_SECOND * idle.devices / _DEVICES,
        idle.per_second,
        unit=" per second",
        unexplained="Statements are counted; no time is behind the figure.",
    )


def _trips(fleet: Fleet) -> list[Target]:
    return [
        Target(
            f"`postgresql:`, {what}: round trips",
            # Two groups may be under way at once, and each is one.
            float(LANES) if "at once" in what else 1.0,
            found.each,
            unit="",
            unexplained="Round trips are counted; no time is behind the figure.",
        )
        for what, found in fleet.trips.items()
    ]
