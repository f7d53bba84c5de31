"""Everything about PostgreSQL of one run."""

from __future__ import annotations

from benchmarks.measure import Results, say
from benchmarks.peers import OurPostgres, PeerMissing
from benchmarks.workloads import Field

from .cost import alone, sizes, trips
from .crowd import crowds
from .found import Fleet
from .load import idle, loads
from .lone import lone
from .server import running


def fleet(field: Field) -> tuple[Fleet | None, dict[str, Results]]:
    """What was found, and the times of the workloads that take turns; None without a server."""
    try:
        with running(field.folder / "postgres") as server:
            times = lone(field, server)
            return (
                Fleet(
                    version=server.version,
                    settings=server.settings(),
                    committers=crowds(field, server),
                    loads=loads(field, server),
                    idle=idle(field, server),
                    trips=trips(field, server),
                    alone=alone(field, server),
                    sizes=sizes(field, server),
                ),
                times,
            )
    except PeerMissing as why:
        say(f"left out: {OurPostgres.name}: {why}")
        field.missing[OurPostgres.name] = str(why)
        return None, {}
