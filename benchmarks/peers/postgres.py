"""PostgreSQL: our store, and the driver as one would use it without us."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from benchmarks.data import Change, Data

from .base import Peer
from .ours import SEALING_KEY, Awaited, Ours, fill

if TYPE_CHECKING:
    from benchmarks.fleet.server import Database

BARE_TABLE = (
    'CREATE TABLE records (device uuid, family text COLLATE "C", id text COLLATE "C", '
    "data bytea NOT NULL, PRIMARY KEY (device, family, id)) WITH (fillfactor = 80)"
)
BARE_PUT = (
    "INSERT INTO records VALUES (%b, %t, %t, %b) "
    "ON CONFLICT (device, family, id) DO UPDATE SET data = excluded.data"
)
_BARE_DROP = "DELETE FROM records WHERE device = %b AND family = %t AND id = %t"
_SYNCS = "one sync of the server a commit"


class OurPostgres(Ours):
    """One device of the fleet's store."""

    name = "ratchetkeep postgresql:"
    syncs = _SYNCS
    device_name = "device"

    def __init__(self, folder: Path, data: Data, size: int, database: Database) -> None:
        super().__init__(folder, data, size)
        self.url = database.device(self.device_name)

    def build(self) -> None:
        fill(self.url, self.data, self.size, self.key)


class OurPostgresSealed(OurPostgres):
    """The same, sealed; in a database of its own."""

    name = "ratchetkeep postgresql:, sealed"
    key = SEALING_KEY


class OurPostgresAsync(Awaited, OurPostgres):
    """The same, awaited."""

    name = "ratchetkeep postgresql:, asyncio"
    device_name = "device-of-tasks"


class BarePostgres(Peer):
    """psycopg with a table like ours, of rows that are bytes already: prepared statements, and a
    transaction only around a commit of several."""

    name = "bare psycopg"
    syncs = _SYNCS
    reads = False
    has_log = True

    def __init__(self, folder: Path, data: Data, size: int, database: Database) -> None:
        super().__init__(folder, data, size)
        self._database = database
        self._device: UUID = uuid4()
        self._connection: Any = None

    def build(self) -> None:
        rows = self.data.first_rows(self.size).items()
        with self._database.connect() as connection:
            connection.execute(BARE_TABLE)
            values = [(self._device, *key, data) for key, data in rows]
            connection.cursor().executemany(BARE_PUT, values)

    def open(self) -> int:
        start = perf_counter_ns()
        self._connection = self._database.connect()
        return perf_counter_ns() - start

    def close(self) -> None:
        self._connection.close()

    def commits(self, changes: Sequence[Change]) -> list[int]:
        return [self._commit(change) for change in changes]

    def _commit(self, change: Change) -> int:
        rows = self.data.rows(change)
        put = [(self._device, *key, data) for key, data in rows.items() if data is not None]
        drop = [(self._device, *key) for key, data in rows.items() if data is None]
        connection = self._connection
        if len(rows) == 1 and put:
            start = perf_counter_ns()
            connection.execute(BARE_PUT, put[0], prepare=True)
            return perf_counter_ns() - start
        start = perf_counter_ns()
        with connection.transaction(), connection.cursor() as cursor:
            if put:
                cursor.executemany(BARE_PUT, put)
            if drop:
                cursor.executemany(_BARE_DROP, drop)
        return perf_counter_ns() - start
