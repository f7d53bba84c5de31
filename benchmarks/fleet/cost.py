"""What one of each costs: round trips, bytes of the server's log, and bytes in the database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack

from benchmarks.copying import files
from benchmarks.data import Data, address
from benchmarks.measure import say
from benchmarks.workloads import Field
from ratchetkeep import AsyncDevice, Device, copy_device, open_store
from ratchetkeep.stores._postgres_leases import REMEMBERED

from .building import build_devices, name_of
from .counting import Counting
from .found import Alone, Sizes, Trips
from .server import Database, Server

FIRST = "the first change of its pages after a checkpoint"
LATER = "pages that have changed since the checkpoint"
COMPRESSED = f"{FIRST}, `wal_compression = on`"

_WARM, _COUNTED = 10, 20
_DATA = "SELECT count(*), sum(octet_length(data)) FROM ratchetkeep.records"
_TAKEN = (
    "SELECT pg_total_relation_size('ratchetkeep.records'), pg_indexes_size('ratchetkeep.records')"
)
_ROWS = (
    "SELECT pg_total_relation_size('ratchetkeep.devices'), "
    "pg_total_relation_size('ratchetkeep.takeovers')"
)
_TAKEOVERS = (
    "INSERT INTO ratchetkeep.takeovers (device, epoch, owner, name, at, commits) "
    "SELECT d.id, d.epoch + n, gen_random_uuid(), "
    "'ratchetkeep (process 12345 on a-host-of-usual-length)', clock_timestamp(), n "
    "FROM ratchetkeep.devices AS d, generate_series(1, %s) AS n"
)


def trips(field: Field, server: Server) -> dict[str, Trips]:
    """What commits of several kinds send to the server."""
    say("counting: postgresql, what commits send")
    database, workers = server.new_database(), field.scale.workers
    build_devices(database, field.data, workers, sessions=1)
    with (
        Counting(database.url) as counting,
        open_store(counting.url) as store,
        asyncio.Runner() as runner,
    ):
        devices = [store.open(name_of(number)) for number in range(workers)]
        faces = [AsyncDevice(device) for device in devices]
        data, one = field.data, devices[0]

        async def all_at_once(number: int) -> None:
            value = {"session": {address(0): data.value(0, number)}}
            await asyncio.gather(*(face.set(value) for face in faces))

        ways: dict[str, tuple[int, Callable[[int], None]]] = {
            "a session": (1, lambda n: one.set({"session": {address(0): data.value(0, n)}})),
            "a session, its pre-key deleted, the credentials": (
                1,
                lambda n: _bundle(one, data, n),
            ),
            f"a session of each of {workers} devices, {workers} tasks at once": (
                workers,
                lambda n: runner.run(all_at_once(n)),
            ),
        }
        one.set({"pre-key": {str(n): data.pre_key(n) for n in range(_WARM + _COUNTED)}})
        return {what: _counted(counting, *way) for what, way in ways.items()}


def _bundle(device: Device, data: Data, number: int) -> None:
    credentials = data.credentials.replace(account_sync_counter=number)
    with device.transaction() as transaction:
        transaction.set({"session": {address(0): data.value(0, number)}})
        transaction.set({"pre-key": {str(number): None}})
        transaction.save_credentials(credentials)


def _counted(counting: Counting, commits: int, commit: Callable[[int], None]) -> Trips:
    for number in range(_WARM):
        commit(number)
    before = counting.trips, counting.statements
    for number in range(_WARM, _WARM + _COUNTED):
        commit(number)
    trips, statements = counting.trips - before[0], counting.statements - before[1]
    return Trips(commits * _COUNTED, commits, trips, statements)


def alone(field: Field, server: Server) -> dict[str, Alone]:
    """The cost of a commit of one session for the server; each is of another device."""
    say("measuring: postgresql, commits that are made alone")
    database, count = server.new_database(), field.scale.idle
    build_devices(database, field.data, count, field.scale.sessions)
    found: dict[str, Alone] = {}
    with ExitStack() as stack:
        store = stack.enter_context(open_store(database.url))
        devices = [store.open(name_of(number)) for number in range(count)]
        server.checkpoint()
        found[FIRST] = _of_each(server, field, devices)
        found[LATER] = _of_each(server, field, devices)
        server.set("wal_compression", "on")
        stack.callback(server.reset, "wal_compression")
        server.checkpoint()
        found[COMPRESSED] = _of_each(server, field, devices)
    database.drop()
    return found


def _of_each(server: Server, field: Field, devices: list[Device]) -> Alone:
    before = server.mark()
    for number, device in enumerate(devices):
        device.set({"session": {address(0): field.data.value(0, before.wal + number)}})
    spent = server.mark().since(before)
    return Alone(spent.wal / len(devices), spent.seconds / len(devices))


def sizes(field: Field, server: Server) -> Sizes:
    """Bytes of records, devices and takeovers in the database."""
    say("measuring: postgresql, bytes in the database")
    database = server.new_database()
    records, data, record, index = _record_bytes(field, database)
    crowd = server.new_database()
    build_devices(crowd, field.data, field.scale.idle, sessions=1)
    rows = field.scale.idle + 1  # and the one that all others are copies of
    before = crowd.numbers(_ROWS)
    with crowd.connect() as connection:
        connection.execute(_TAKEOVERS, (REMEMBERED,))
    after = crowd.numbers(_ROWS)
    crowd.drop()
    database.drop()
    return Sizes(
        records=records,
        data=data,
        record=record,
        index=index,
        device=before[0] / rows,
        takeover=(after[1] - before[1]) / (rows * REMEMBERED),
        takeovers=REMEMBERED,
    )


def _record_bytes(field: Field, database: Database) -> tuple[int, float, float, float]:
    """How many records one device of the copies' mixture has, and the bytes of each."""
    folder = field.folder / "mixed"
    folder.mkdir()
    for name, raw in files(field.scale.mixed):
        (folder / name).write_bytes(raw)
    copy_device(f"baileys:{folder}", database.device("device"))
    count, data = database.numbers(_DATA)
    taken, index = database.numbers(_TAKEN)
    return count, data / count, taken / count, index / count
