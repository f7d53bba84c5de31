"""Plans for fleets, from what one of each was measured to cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.tables import figure, table
from ratchetkeep._cache import DECODED, MAX_BYTES, OVERHEAD
from ratchetkeep.stores._postgres_keeper import RENEWAL
from ratchetkeep.stores.postgres import CONNECTIONS, LEASE

from .cost import COMPRESSED, FIRST, LATER

TEMPLATE = Path(__file__).parents[1] / "plan.md"
DEVICES = (1_000, 100_000, 1_000_000)
_DAY = 86_400
# `autovacuum_freeze_max_age`, as PostgreSQL comes.
_FREEZE = 200_000_000
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


@dataclass(frozen=True)
class Assumptions:
    """What a fleet is thought to do.

    :ivar messages: of a device in a day, sent and received.
    :ivar commits: for each of them.
    :ivar records: of a device, of all families.
    :ivar peak: the busiest second over the mean one.
    :ivar share: devices that a worker has.
    """

    messages: float = 200.0
    commits: float = 1.2
    records: int = 600
    peak: float = 5.0
    share: int = 2_500


@dataclass(frozen=True)
class Costs:
    """What one of each costs.

    :ivar record: bytes of a record in the database, with its part of the index.
    :ivar data: bytes of a record as it is committed.
    :ivar device: bytes of a device's own row.
    :ivar takeovers: bytes of all takeovers of a device that are remembered.
    :ivar first: bytes of the log, of a commit that is the first to change its pages.
    :ivar compressed: the same with ``wal_compression``.
    :ivar later: the same of one that is not the first.
    :ivar server: seconds of the server's processor, of a commit that is made alone.
    :ivar worker: seconds of a worker's processor, of a commit.
    :ivar idle: bytes of a worker for a device that is open.
    :ivar base: bytes of a worker without devices.
    :ivar opening: seconds to open a device.
    :ivar connections: of a worker that works.
    """

    record: float
    data: float
    device: float
    takeovers: float
    first: float
    compressed: float
    later: float
    server: float
    worker: float
    idle: float
    base: float
    opening: float
    connections: float

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Costs:
        """As the results of a run have them."""
        found = document["postgresql"]
        sizes, alone, loads = found["sizes"], found["alone"], found["loads"]
        last = loads[-1]
        return cls(
            record=sizes["record"],
            data=sizes["data"],
            device=sizes["device"],
            takeovers=sizes["takeover"] * sizes["takeovers"],
            first=alone[FIRST]["wal"],
            compressed=alone[COMPRESSED]["wal"],
            later=alone[LATER]["wal"],
            server=max(each["seconds"] for each in alone.values()),
            worker=max(each["worker_seconds"] for each in loads),
            idle=max(each["idle_bytes"] for each in loads),
            base=max(each["base_bytes"] for each in loads),
            opening=last["open_seconds"] / (last["devices"] / last["workers"]),
            connections=max(each["connections"] / each["workers"] for each in loads),
        )


@dataclass(frozen=True)
class Row:
    """One row of a plan: what it is, how it is worked out, and the figure of a fleet."""

    what: str
    formula: str
    value: str


def costs_table(costs: Costs) -> str:
    """What one of each costs, with the letters of the formulas."""
    rows = [
        ("`b`", "a record in the database, with its part of the index", _bytes(costs.record)),
        ("`d`", "a record as it is committed", _bytes(costs.data)),
        ("`v`", "a device's own row, with its indexes", _bytes(costs.device)),
        ("`t`", "the takeovers that are remembered of a device", _bytes(costs.takeovers)),
        ("`w`", "log of a commit, the first to change its pages", _bytes(costs.first)),
        ("`x`", "the same with `wal_compression = on`", _bytes(costs.compressed)),
        ("`y`", "log of a commit whose pages have changed before", _bytes(costs.later)),
        ("`s`", "the server's processor, a commit alone", f"{costs.server * 1e6:.0f} µs"),
        ("`c`", "a worker's processor, a commit", f"{costs.worker * 1e6:.0f} µs"),
        ("`i`", "memory of a worker for an open device", _bytes(costs.idle)),
        ("`m`", "memory of a worker without devices", _bytes(costs.base)),
        ("`o`", "opening a device, one after the other", f"{costs.opening * 1e3:.1f} ms"),
        ("`k`", "connections of a worker that works", f"{costs.connections:.2g}"),
    ]
    lines = ["| letter | one | cost |", "|---|---|---:|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def plan_table(costs: Costs, given: Assumptions, devices: tuple[int, ...] = DEVICES) -> str:
    """A plan for each number of devices."""
    plans = [plan(costs, given, count) for count in devices]
    rows = [
        (each[0].what, f"`{each[0].formula}`", *(row.value for row in each))
        for each in zip(*plans, strict=True)
    ]
    return table(["", "formula", *(f"{count:,} devices" for count in devices)], rows)


def plan(costs: Costs, given: Assumptions, devices: int) -> list[Row]:
    """The plan for a number of devices."""
    commits = devices * given.messages * given.commits
    peak = commits / _DAY * given.peak
    workers = math.ceil(devices / given.share)
    share = min(devices, given.share)
    cached = min(MAX_BYTES, given.records * (DECODED * costs.data + OVERHEAD))
    size = devices * (given.records * costs.record + costs.device + costs.takeovers)
    return [
        Row("rows of `records`", "N R", f"{devices * given.records:,}"),
        Row("size of the tables", "N (R b + v + t)", _bytes(size)),
        Row("commits in a day", "N M C", f"{commits:,.0f}"),
        Row("commits per second, mean", "N M C / 86400", figure(commits / _DAY)),
        Row("commits per second, peak", "N M C P / 86400", figure(peak)),
        Row("log in a day, at most", "N M C w", _bytes(commits * costs.first)),
        Row("the same, compressed", "N M C x", _bytes(commits * costs.compressed)),
        Row("log in a day, at least", "N M C y", _bytes(commits * costs.later)),
        Row("log per second, peak", "N M C P w / 86400", _bytes(peak * costs.first)),
        Row("days to 200 million transactions", "2e8 / (N M C)", figure(_FREEZE / commits)),
        Row("processors of the server, peak", "N M C P s / 86400", _some(peak * costs.server)),
        Row("workers", "N / D", f"{workers:,}"),
        Row("memory of a worker, at least", "m + D i", _bytes(costs.base + share * costs.idle)),
        Row(
            "memory of a worker that has read all records",
            "m + D (i + min(16 MiB, R (3 d + 400)))",
            _bytes(costs.base + share * (costs.idle + cached)),
        ),
        Row("processors of all workers, peak", "N M C P c / 86400", _some(peak * costs.worker)),
        Row("connections in use", "k N / D", f"{math.ceil(workers * costs.connections):,}"),
        Row("connections at most", f"{CONNECTIONS} N / D", f"{workers * CONNECTIONS:,}"),
        Row("renewals per second", "3 N / (D L)", figure(workers / (LEASE * RENEWAL))),
        Row("a worker opens its devices in", "D o", f"{figure(share * costs.opening)} s"),
    ]


def page(document: Mapping[str, Any]) -> str:
    """The page with its tables filled in."""
    costs, given = Costs.of(document), Assumptions()
    parts = {
        "costs": costs_table(costs),
        "plan": plan_table(costs, given),
        **{each.name: f"{getattr(given, each.name):,g}" for each in fields(given)},
    }
    text = TEMPLATE.read_text()
    for name, value in parts.items():
        text = text.replace("{{" + name + "}}", value)
    return text


def _some(number: float) -> str:
    return "below 0.01" if number < 0.01 else figure(number)


def _bytes(number: float) -> str:
    """With the decimal unit that suits it, as disks are sold."""
    power = min(len(_UNITS) - 1, int(math.log(max(number, 1), 1000)))
    return f"{figure(number / 1000**power)} {_UNITS[power]}"
