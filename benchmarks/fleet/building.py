"""Many devices in a database at once: one is made, and the others are copies of its rows."""

from __future__ import annotations

from benchmarks.data import Data, address
from ratchetkeep.device import create_device
from ratchetkeep.stores._postgres_rows import id_of

from .server import Database

_TEMPLATE = "template"
_DEVICES = (
    "INSERT INTO ratchetkeep.devices (id, name, created, epoch, commits, committed) "
    "SELECT id, name, clock_timestamp(), 1, 1, clock_timestamp() FROM copies"
)
_RECORDS = (
    "INSERT INTO ratchetkeep.records (device, family, id, data) "
    "SELECT c.id, r.family, r.id, r.data FROM copies AS c, ratchetkeep.records AS r "
    "WHERE r.device = %s ORDER BY c.id"
)


def name_of(number: int) -> str:
    """What device ``number`` is called."""
    return f"device-{number}"


def build_devices(database: Database, data: Data, count: int, sessions: int) -> None:
    """Make devices with credentials and sessions.

    :param sessions: how many each of them has.
    """
    with create_device(database.device(_TEMPLATE), data.credentials) as device:
        values = {address(n): data.sessions[data.template(n)] for n in range(sessions)}
        device.set({"session": values})
    with database.connect() as connection, connection.transaction():
        connection.execute("CREATE TEMPORARY TABLE copies (id uuid, name text) ON COMMIT DROP")
        with connection.cursor().copy("COPY copies FROM STDIN") as copy:
            for number in range(count):
                copy.write_row((id_of(name_of(number)), name_of(number)))
        connection.execute(_DEVICES)
        connection.execute(_RECORDS, (id_of(_TEMPLATE),))
    with database.connect() as connection:
        # As autovacuum would in its time, which is not to be in what is measured next.
        connection.execute("VACUUM ANALYZE ratchetkeep.devices, ratchetkeep.records")
