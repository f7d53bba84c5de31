"""What sealing costs: a sealed ``sqlite:`` store beside the plain one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from time import perf_counter_ns

from ratchetkeep.sealing.keys import Secret
from ratchetkeep.sealing.ring import make, unlock

from .copying import SEALED, Copies, way
from .measure import Results, Spread, say
from .peers import OurPostgres, OurPostgresSealed, OurSqlite, OurSqliteSealed, Peer
from .tables import DASH, figure, in_units, table
from .target import Target, in_range, noise, p99_ratio
from .workloads import COLD, Scale

LIMIT = 1.15
"""By what a durable commit of one session may cost more when it is sealed."""
PAIR = "sealed session"
_PAIRS: dict[str, tuple[type[Peer], type[Peer]]] = {
    PAIR: (OurSqlite, OurSqliteSealed),
    "postgresql session": (OurPostgres, OurPostgresSealed),
}
UNLOCKS = 5
SECRETS = {
    "a raw key": Secret(bytes(32), is_passphrase=False),
    "a passphrase": Secret(b"correct horse battery staple", is_passphrase=True),
}


def unlocks() -> Results:
    """How long a process takes, the first time, from a key to a store's data keys."""
    say("measuring: unlocking")
    found = {}
    for name, secret in SECRETS.items():
        times = []
        for _ in range(UNLOCKS):
            ring = make("").wrapped(secret)  # another one each time: an opened one is remembered
            start = perf_counter_ns()
            unlock(ring, secret, "")
            times.append(perf_counter_ns() - start)
        found[name, 0] = Spread.of(times)
    return found


def sealed_targets(
    times: Mapping[str, Results], scale: Scale, workload: str = PAIR
) -> list[Target]:
    """What was to be reached.

    :param workload: which of those that a plain and a sealed store took turns in.
    """
    one, other = _PAIRS[workload]
    plain, sealed = (times[workload][kind.name, scale.main] for kind in (one, other))
    shown = f"`{one.name[12:]}`, one session"
    is_noise = in_range(sealed, plain)[0] <= LIMIT
    return [
        Target(
            f"{shown}: p50 of a sealed store over that of a plain one",
            LIMIT,
            sealed.p50 / plain.p50,
            workload="" if is_noise else "session",
            peer=other.name,
            unexplained=noise(sealed, plain, LIMIT),
        ),
        Target(
            f"{shown}: p99 of a sealed store over that of a plain one",
            LIMIT,
            p99_ratio(sealed, plain),
            unexplained="A profile adds up all commits and does not show the slowest of them.",
        ),
    ]


def parts(
    times: Mapping[str, Results],
    disk: Mapping[str, Mapping[int, int]],
    copies: Copies,
    scale: Scale,
) -> dict[str, str]:
    """What the page has of sealing."""
    raw, passphrase = (times["unlock"][name, 0] for name in SECRETS)
    return {
        "sealed": table(
            ["", "plain", "sealed", "sealed over plain"],
            [
                *_commits(times[PAIR], scale),
                *_postgres(times, scale),
                *_others(times, scale),
                _disk(disk, scale),
                *_copies(copies),
            ],
        ),
        "unlocking": f"{in_units(raw.p50)} with a raw key, {in_units(passphrase.p50)} with a "
        f"passphrase (on {os.cpu_count()} processors)",
    }


def _pair(results: Results, size: int) -> tuple[Spread, Spread]:
    return results[OurSqlite.name, size], results[OurSqliteSealed.name, size]


def _row(what: str, plain: float | None, sealed: float | None) -> tuple[str, ...]:
    if plain is None or sealed is None:
        return (what, DASH, DASH, DASH)
    return (what, in_units(plain), in_units(sealed), f"{sealed / plain:.3f} x")


def _commits(results: Results, scale: Scale) -> list[tuple[str, ...]]:
    plain, sealed = _pair(results, scale.main)
    return [
        _row(f"one session, a commit: p50 of {sealed.count:,}", plain.p50, sealed.p50),
        _row("the same: p99", plain.p99, sealed.p99),
        _row("the same: the first of a turn, p50", plain.first, sealed.first),
    ]


def _postgres(times: Mapping[str, Results], scale: Scale) -> list[tuple[str, ...]]:
    rows = []
    for workload, (one, other) in _PAIRS.items():
        if workload != PAIR and workload in times:
            plain, sealed = (times[workload][kind.name, scale.main] for kind in (one, other))
            what = f"`{one.name[12:]}`, one session, a commit: p50 of {sealed.count:,}"
            rows.append(_row(what, plain.p50, sealed.p50))
            rows.append(_row("the same: p99", plain.p99, sealed.p99))
    return rows


def _others(times: Mapping[str, Results], scale: Scale) -> list[tuple[str, ...]]:
    named = {
        "bundle": ("a session, its pre-key and the credentials, a commit: p50", scale.main),
        "group": (f"{scale.group:,} sessions in one commit: p50", scale.big),
        "mint": (f"{scale.stock:,} pre-keys and the credentials in one commit: p50", scale.main),
        "open": ("opening: p50", scale.main),
        "cold get": (f"{min(COLD, scale.big):,} sessions, just opened: p50", scale.big),
        "cached get": ("one session that was read before: p50", scale.main),
    }
    rows = []
    for workload, (what, size) in named.items():
        plain, sealed = _pair(times[workload], size)
        rows.append(_row(what, plain.p50, sealed.p50))
    return rows


def _disk(disk: Mapping[str, Mapping[int, int]], scale: Scale) -> tuple[str, ...]:
    plain, sealed = (disk[kind.name][scale.big] for kind in (OurSqlite, OurSqliteSealed))
    each = [f"{figure(total / scale.big)} bytes" for total in (plain, sealed)]
    return ("room on the disk for each session", *each, f"{sealed / plain:.3f} x")


def _copies(copies: Copies) -> list[tuple[str, ...]]:
    plain = copies[way("sqlite", "sqlite")]
    named = {
        "plain to sealed": ("sqlite", SEALED),
        "sealed to sealed": (SEALED, SEALED),
        "sealed to plain": (SEALED, "sqlite"),
    }
    return [
        _row(
            f"copying {size:,} records, {what} over plain to plain: p50",
            plain[size].ours.p50,
            taken.ours.p50,
        )
        for what, ends in named.items()
        for size, taken in copies.get(way(*ends), {}).items()
        if size in plain
    ]
