"""What was found out about devices in PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.measure import Spread


@dataclass(frozen=True)
class Load:
    """Devices that commit in turn, at random.

    :ivar workers: processes.
    :ivar devices: of all workers together.
    :ivar sessions: that each device has beside its credentials.
    :ivar build_seconds: what making all devices took.
    :ivar open_seconds: what the slowest worker took to open its devices.
    :ivar rate: commits per second of all workers.
    :ivar times: of a commit.
    :ivar idle_bytes: memory of a worker for each open device.
    :ivar busy_bytes: the same after the load.
    :ivar base_bytes: memory of a worker without a device.
    :ivar connections: the most that all workers had.
    :ivar worker_seconds: processor time of the workers for each commit.
    :ivar server_seconds: the same of the server.
    :ivar wal: bytes of the server's log for each commit.
    :ivar updates: how often each record was rewritten on average.
    :ivar records_bytes: what the records took before, with their index.
    :ivar grown_bytes: the same after the load.
    """

    workers: int
    devices: int
    sessions: int
    build_seconds: float
    open_seconds: float
    rate: float
    times: Spread
    idle_bytes: float
    busy_bytes: float
    base_bytes: float
    connections: int
    worker_seconds: float
    server_seconds: float
    wal: float
    updates: float
    records_bytes: int
    grown_bytes: int


@dataclass(frozen=True)
class Idle:
    """One worker whose devices do nothing.

    :ivar lease: seconds of its lease.
    :ivar seconds: for how long it was watched.
    :ivar transactions: that the server committed for it.
    """

    devices: int
    lease: float
    seconds: float
    transactions: int

    @property
    def per_second(self) -> float:
        """Statements per second; each is one transaction."""
        return self.transactions / self.seconds


@dataclass(frozen=True)
class Trips:
    """What some commits sent.

    :ivar at_once: how many of them waited together.
    :ivar trips: how often their process waited for the server.
    :ivar statements: how many it had carried out.
    """

    commits: int
    at_once: int
    trips: int
    statements: int

    @property
    def each(self) -> float:
        """Round trips of those that waited together."""
        return self.trips * self.at_once / self.commits


@dataclass(frozen=True)
class Alone:
    """What a commit costs the server that is made alone, as of a worker that has little to do.

    :ivar wal: bytes of the log.
    :ivar seconds: processor time of the server.
    """

    wal: float
    seconds: float


@dataclass(frozen=True)
class Sizes:
    """What rows take in the database.

    :ivar records: how many there are.
    :ivar data: bytes of all records as they are committed.
    :ivar record: bytes of a record in the database, with its part of the index.
    :ivar index: of those, the index's.
    :ivar device: bytes of a device's own row, with its indexes.
    :ivar takeover: bytes of a takeover that is remembered.
    :ivar takeovers: how many of them a device has at most.
    """

    records: int
    data: float
    record: float
    index: float
    device: float
    takeover: float
    takeovers: int


@dataclass(frozen=True)
class Fleet:
    """Everything about PostgreSQL of one run.

    :ivar version: of the server.
    :ivar settings: of the server.
    :ivar committers: as those of the other stores.
    :ivar alone: by the state of the pages that a commit changes.
    """

    version: str
    settings: Mapping[str, str]
    committers: Mapping[str, Mapping[str, Spread]]
    loads: Sequence[Load]
    idle: Idle
    trips: Mapping[str, Trips]
    alone: Mapping[str, Alone]
    sizes: Sizes
