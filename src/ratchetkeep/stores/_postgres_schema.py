"""Our tables in a PostgreSQL database, and how they are made and upgraded.

They stand in a schema of their own, ``ratchetkeep``:

* ``upgrades``: the versions that the tables went through; the highest is what they are.
* ``owners``: the processes that have devices open. A process has its devices until ``until``, by
  the database's clock, and says so again in one statement, whatever their number.
* ``devices``: one row a device. ``epoch`` goes up with each owner: a commit that names an earlier
  one is refused. ``commits`` goes up with each commit: it and the epoch are the commit's id.
  ``lineage`` is another one whenever a device is put in place. ``generation`` is that of the data
  key which it is sealed with, 0 if it is not; ``state`` is the sealed sum of its records.
* ``takeovers``: which epoch began with which owner, and after how many commits.
* ``records``: the records, in the native format, or sealed.
* ``ring``: the wrapped data keys of a sealed database, one row; a plain one has none.

Of a sealed device ``id`` is made of its sealed name, ``records.id`` and ``moved_to`` are sealed
too; see :mod:`ratchetkeep.sealing.cipher`.
"""

from __future__ import annotations

import time

from ratchetkeep.errors import StoreDamaged, StoreUnreadable, UnknownStore, UnsupportedVersion

from ._postgres_driver import Connection, driver

__all__ = ["UPGRADES", "VERSION", "prepare", "version_of"]

# By the version that they lead to. What was published is never changed: a database may have it.
UPGRADES: dict[int, tuple[str, ...]] = {
    1: (
        """
        CREATE TABLE ratchetkeep.owners (
            id uuid PRIMARY KEY,
            name text NOT NULL,
            held integer NOT NULL,
            capacity integer,
            until timestamptz NOT NULL
        )
        """,
        # Room in each page: a row that changes with every commit is then rewritten beside itself,
        # and no index has to change.
        """
        CREATE TABLE ratchetkeep.devices (
            id uuid PRIMARY KEY,
            name text COLLATE "C" NOT NULL,
            created timestamptz NOT NULL,
            epoch bigint NOT NULL,
            owner uuid,
            commits bigint NOT NULL,
            committed timestamptz,
            moved_to text,
            moved_at timestamptz
        ) WITH (fillfactor = 50)
        """,
        # With the id: a claim begins anywhere among a million free devices, and reads a few.
        "CREATE INDEX devices_owner ON ratchetkeep.devices (owner, id)",
        """
        CREATE TABLE ratchetkeep.takeovers (
            device uuid,
            epoch bigint,
            owner uuid NOT NULL,
            name text NOT NULL,
            at timestamptz NOT NULL,
            commits bigint NOT NULL,
            PRIMARY KEY (device, epoch)
        )
        """,
        # The order of bytes: that of other collations changes with the libraries of the system, and
        # an index that was made before no longer finds what it holds.
        """
        CREATE TABLE ratchetkeep.records (
            device uuid,
            family text COLLATE "C",
            id text COLLATE "C",
            data bytea NOT NULL,
            PRIMARY KEY (device, family, id)
        ) WITH (fillfactor = 80)
        """,
    ),
    2: (
        # Each row gets a value of its own. The default stays, for whoever puts rows in by hand.
        """
        ALTER TABLE ratchetkeep.devices
            ADD COLUMN lineage uuid NOT NULL DEFAULT gen_random_uuid(),
            ADD COLUMN generation integer NOT NULL DEFAULT 0,
            ADD COLUMN state bytea
        """,
        """
        CREATE TABLE ratchetkeep.ring (
            id integer PRIMARY KEY CHECK (id = 1),
            data bytea NOT NULL
        )
        """,
    ),
}
VERSION = max(UPGRADES)
# The first one that can be sealed.
SEALS = 2

_THERE = "SELECT to_regclass('ratchetkeep.upgrades') IS NOT NULL"
_HAS_DEVICES = "SELECT to_regclass('ratchetkeep.devices') IS NOT NULL"
_VERSION = "SELECT max(version) FROM ratchetkeep.upgrades"
_RECORD = (
    "INSERT INTO ratchetkeep.upgrades (version, at) VALUES (%s, now()) "
    "ON CONFLICT (version) DO NOTHING RETURNING version"
)
_FIRST = (
    "CREATE SCHEMA IF NOT EXISTS ratchetkeep",
    "CREATE TABLE IF NOT EXISTS ratchetkeep.upgrades "
    "(version integer PRIMARY KEY, at timestamptz NOT NULL)",
)
# Another process was making the same at the same moment, or its transaction stood in the way.
_MEANWHILE = ("23505", "42P06", "42P07", "42710", "40001", "40P01", "XX000")
_TRIES = 20
# Seconds between two looks at what another process is making.
_PAUSE = 0.05


def version_of(connection: Connection) -> int:
    """The version of the tables; 0 if there are none."""
    (is_there,) = connection.execute(_THERE).fetchone() or (False,)
    if not is_there:
        return 0
    (version,) = connection.execute(_VERSION).fetchone() or (None,)
    return int(version or 0)


def prepare(
    connection: Connection,
    url: str,
    *,
    make: bool = False,
    upgrade: bool = False,
    upgrades: dict[int, tuple[str, ...]] = UPGRADES,
) -> bool:
    """See that the tables are of our version.

    Each upgrade is one transaction, with its own record. Two processes that begin together do not
    disturb each other.

    :param make: make them, if there are none.
    :param upgrade: upgrade those of an older version.
    :returns: False if there are none, and none were made.
    :raises UnsupportedVersion: if a newer version made them; or an older one, unless ``upgrade``.
    :raises StoreDamaged: if there are tables, and nothing tells their version.
    """
    newest = max(upgrades)
    # Looked for first: another process may be making everything just now.
    (has_devices,) = connection.execute(_HAS_DEVICES).fetchone() or (False,)
    found = version_of(connection)
    if has_devices and not found:
        raise StoreDamaged(url, "has tables of ours without the record of their version")
    if 0 < found < newest and not upgrade:
        found = _awaited(connection, newest)
    if found > newest:
        what = f"has tables of version {found}, this is version {newest}"
        raise UnsupportedVersion(url, what)
    if found == newest or (not make and found == 0):
        return found != 0
    if found and not upgrade:
        what = f"has tables of version {found}, which are to be upgraded to {newest}"
        raise UnsupportedVersion(url, what, "Open a device there for writing once")
    if found == 0:
        _check_encoding(connection, url)
    for version in range(found + 1, newest + 1):
        _upgrade(connection, url, version, upgrades[version])
    return True


def _awaited(connection: Connection, newest: int) -> int:
    """The version, after a while in which another process may be making the tables, one version
    after the other."""
    found = version_of(connection)
    for _ in range(_TRIES):
        if found >= newest:
            break
        time.sleep(_PAUSE)
        found = version_of(connection)
    return found


def _check_encoding(connection: Connection, url: str) -> None:
    (encoding,) = connection.execute("SELECT current_setting('server_encoding')").fetchone() or (
        "",
    )
    if encoding != "UTF8":
        what = f"is a database with the encoding {encoding}, which cannot hold all ids"
        raise UnknownStore(url, what, "Make one with ENCODING 'UTF8' TEMPLATE template0")


def _upgrade(connection: Connection, url: str, version: int, statements: tuple[str, ...]) -> None:
    """Carry out an upgrade, unless another process was faster."""
    for _ in range(_TRIES):
        try:
            with connection.transaction():
                if version == 1:
                    _make_first(connection)
                # First: a second process waits here until the first one is done, or gave up.
                if connection.execute(_RECORD, (version,)).fetchone():
                    for statement in statements:
                        connection.execute(statement.encode())
            return
        except driver.Error as error:
            if error.sqlstate == "42501":
                what = f"does not let this user make tables: {error.diag.message_primary}"
                remedy = "Let its owner run `ratchetkeep new` there once, and grant the use of them"
                raise StoreUnreadable(url, what, remedy) from None
            if error.sqlstate not in _MEANWHILE:
                raise
    raise StoreDamaged(url, f"its tables cannot be brought to version {version}")


def _make_first(connection: Connection) -> None:
    (is_there,) = connection.execute(_THERE).fetchone() or (False,)
    if is_there:
        return
    # The administrator may have made the schema for a user who may not.
    found = connection.execute("SELECT to_regnamespace('ratchetkeep') IS NOT NULL").fetchone()
    for statement in _FIRST[1:] if found == (True,) else _FIRST:
        connection.execute(statement.encode())
