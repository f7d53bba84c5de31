"""What the page says of PostgreSQL."""

from __future__ import annotations

from benchmarks.tables import figure, in_units, table

from .found import Fleet, Load

PARTS = (
    "fleet_server",
    "fleet_session",
    "fleet_sessions",
    "fleet_bundle",
    "fleet_committers",
    "fleet_loads",
    "fleet_cost",
    "fleet_growth",
    "fleet_idle",
    "fleet_trips",
    "fleet_alone",
    "fleet_sizes",
)
"""The places of the page that are filled in."""

DEFAULT_LEASE = 30
RENEWALS = 3
"""How often a lease is renewed in its time."""
_KIB, _MIB = 1024, 1024 * 1024


def parts(fleet: Fleet) -> dict[str, str]:
    """The tables, by their places."""
    return {
        "fleet_server": _server(fleet),
        "fleet_loads": _loads(fleet),
        "fleet_cost": _cost(fleet),
        "fleet_growth": _growth(fleet),
        "fleet_idle": _idle(fleet),
        "fleet_trips": _trips(fleet),
        "fleet_alone": _alone(fleet),
        "fleet_sizes": _sizes(fleet),
    }


def _server(fleet: Fleet) -> str:
    settings = ", ".join(f"`{name} = {value}`" for name, value in fleet.settings.items())
    return f"PostgreSQL {fleet.version}: {settings}"


def _name(load: Load) -> str:
    workers = "1 worker" if load.workers == 1 else f"{load.workers} workers"
    return f"{load.devices:,} devices, {workers}"


def _loads(fleet: Fleet) -> str:
    rows = [
        (
            _name(load),
            f"{load.rate:,.0f}",
            in_units(load.times.p50),
            "-" if load.times.p99 is None else in_units(load.times.p99),
            f"{load.connections}",
            in_units(load.build_seconds * 1e9),
            in_units(load.open_seconds * 1e9),
        )
        for load in fleet.loads
    ]
    head = ["", "commits per second", "p50", "p99", "connections", "making them", "opening them"]
    return table(head, rows)


def _cost(fleet: Fleet) -> str:
    rows = [
        (
            _name(load),
            f"{load.worker_seconds * 1e6:.0f} µs",
            f"{load.server_seconds * 1e6:.0f} µs",
            f"{figure(load.wal)} B",
            f"{load.idle_bytes / _KIB:.1f} KiB",
            f"{load.busy_bytes / _KIB:.1f} KiB",
            f"{load.base_bytes / _MIB:.0f} MiB",
        )
        for load in fleet.loads
    ]
    head = [
        "",
        "processor of the workers, a commit",
        "of the server",
        "log, a commit",
        "memory, an idle device",
        "after the load",
        "a worker without devices",
    ]
    return table(head, rows)


def _growth(fleet: Fleet) -> str:
    rows = [
        (
            _name(load),
            f"{load.updates:.1f}",
            f"{load.records_bytes / _MIB:.1f} MiB",
            f"{load.grown_bytes / _MIB:.1f} MiB",
            f"{load.grown_bytes / load.records_bytes:.2f} x",
        )
        for load in fleet.loads
    ]
    return table(["", "updates of each session", "before", "after", "ratio"], rows)


def _idle(fleet: Fleet) -> str:
    idle = fleet.idle
    default = RENEWALS / DEFAULT_LEASE
    return (
        f"{idle.devices:,} idle devices of one worker, with a lease of {idle.lease:g} s: "
        f"{idle.transactions} statements in {idle.seconds:.1f} s, {idle.per_second:.2f} per "
        f"second. A lease is renewed {RENEWALS} times in its time, in one statement for all "
        f"devices of the worker: with the default of {DEFAULT_LEASE} s that is {default:.1f} per "
        "second for each worker, whatever it has open."
    )


def _trips(fleet: Fleet) -> str:
    rows = [
        (what, f"{found.each:g}", f"{found.statements * found.at_once / found.commits:g}")
        for what, found in fleet.trips.items()
    ]
    return table(["what is committed", "round trips", "statements"], rows)


def _alone(fleet: Fleet) -> str:
    rows = [
        (what, f"{found.wal:,.0f} B", f"{found.seconds * 1e6:.0f} µs")
        for what, found in fleet.alone.items()
    ]
    return table(["one session, committed alone", "log", "processor of the server"], rows)


def _sizes(fleet: Fleet) -> str:
    sizes = fleet.sizes
    rows = [
        (f"a record ({sizes.data:,.0f} bytes of data)", f"{sizes.record:,.0f}"),
        ("of this, its index", f"{sizes.index:,.0f}"),
        ("a device's own row, with its indexes", f"{sizes.device:,.0f}"),
        (f"a takeover (of the last {sizes.takeovers} of each device)", f"{sizes.takeover:,.0f}"),
    ]
    return table(["in the database", "bytes"], rows)
