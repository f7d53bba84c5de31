"""The tables in PostgreSQL: who makes them, how they are upgraded, and that old ones can be read.

``python tests/test_postgres_schema.py write`` writes the golden file of the current version, if
there is none. It is never written again: a new version of the tables gets a file beside it.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

import pgserver
from _postgres_worker import PATIENCE, workers
from ratchetkeep import (
    DeviceMoved,
    NoDevice,
    StoreDamaged,
    StoreUnreadable,
    UnsupportedVersion,
    copy_device,
    open_device,
    open_store,
    verify_device,
)
from ratchetkeep.formats import native
from ratchetkeep.model import CREDENTIALS, Key
from ratchetkeep.stores import _postgres_rows as rows
from ratchetkeep.stores import _postgres_schema as schema

GOLDEN = Path(__file__).parent / "golden"
FOLDER = GOLDEN / "postgresql"

# The records of the golden device: their bytes are golden themselves.
RECORDS = {
    CREDENTIALS: "credentials-rich",
    Key("session", "1.0"): "session",
    Key("session", "2.0"): "session-empty",
    Key("session", "3.0"): "session-encoded",
    Key("pre-key", "16777215"): "pre-key",
    Key("sender-key", "1@g.us::2::0"): "sender-key",
    Key("sender-key-memory", "1@g.us"): "sender-key-memory",
    Key("app-state-sync-key", "AAD///vv"): "app-state-sync-key",
    Key("app-state-sync-version", "regular"): "app-state-sync-version",
    Key("lid-mapping", "1_reverse"): "lid-mapping",
    Key("lid-mapping", "2"): "lid-mapping-rich",
    Key("device-list", "1"): "device-list",
    Key("tctoken", "__index"): "tctoken",
    Key("identity-key", "Müller.0"): "identity-key",
}
MOVED_TO = "sqlite:/srv/alice.db"


@pytest.fixture(scope="module")
def server() -> Iterator[pgserver.Server]:
    with pgserver.running(max_connections="100") as server:
        yield server


@pytest.fixture
def database(server: pgserver.Server) -> str:
    return server.new_database()


def run(url: str, *statements: str) -> None:
    """As the administrator does it."""
    with psycopg.connect(url) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def query(url: str, statement: str) -> list[Any]:
    with psycopg.connect(url) as connection:
        return connection.execute(statement.encode()).fetchall()


def content(url: str) -> dict[str, list[Any]]:
    """Every row of ours, with the transaction that wrote it."""
    named = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'ratchetkeep'"
    return {
        table: sorted(query(url, f"SELECT xmin::text, t::text FROM ratchetkeep.{table} AS t"))
        for (table,) in query(url, named)
    }


def each(*ways: dict[str, bool]) -> list[dict[str, Any]]:
    """Ways to open a device."""
    return [*ways]


# The catalog's view of what there is: enough to tell tables apart that behave in another way.
SHAPE = (
    "SELECT table_name, column_name, ordinal_position, data_type, is_nullable, column_default, "
    "collation_name FROM information_schema.columns WHERE table_schema = 'ratchetkeep'",
    "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'ratchetkeep'",
    "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
    "WHERE connamespace = 'ratchetkeep'::regnamespace",
    "SELECT relname, relkind, reloptions, relpersistence FROM pg_class "
    "WHERE relnamespace = 'ratchetkeep'::regnamespace",
    "SELECT version FROM ratchetkeep.upgrades",
)


def shape(url: str) -> list[list[Any]]:
    return [sorted(query(url, statement)) for statement in SHAPE]


# -- made together


def test_workers_that_start_together_on_an_empty_database(server: pgserver.Server) -> None:
    """When a fleet is set up all of its workers would start, and some fail, because others made the
    same tables at that moment."""
    with workers(10) as fleet:
        for face in ("sync", "async"):
            database = server.new_database()
            names = [f"device {number}" for number in range(10)]
            for name, worker in zip(names, fleet, strict=True):
                worker.tell("open", f"{database}&device={name}", create=True, face=face)
            for worker in fleet:
                worker.answer()
            with open_store(database) as store:
                assert store.devices() == names
            assert query(database, "SELECT max(version) FROM ratchetkeep.upgrades") == [
                (schema.VERSION,)
            ]


# -- upgrades

SECOND = (
    "ALTER TABLE ratchetkeep.records ADD COLUMN seen integer NOT NULL DEFAULT 0",
    "UPDATE ratchetkeep.records SET seen = seen + 1",
)
NEXT = schema.VERSION + 1
MORE = {**schema.UPGRADES, NEXT: SECOND}
ALL = [(version,) for version in MORE]


def upgrade(url: str, upgrades: dict[int, tuple[str, ...]], **how: bool) -> bool:
    with psycopg.connect(url, autocommit=True) as connection:
        return schema.prepare(connection, url, upgrades=upgrades, **how)


def wait_for_locks(connection: psycopg.Connection, number: int) -> None:
    """Wait until so many statements wait for a lock."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    until = time.monotonic() + PATIENCE
    while connection.execute(waiting).fetchone() != (number,):
        assert time.monotonic() < until, "nobody waits"
        # What it shows is of one moment in each transaction.
        connection.execute("SELECT pg_stat_clear_snapshot()")


def test_two_that_upgrade_together(database: str) -> None:
    """Two workers that come back with a new version would do its upgrade twice, or one would go on
    before it is done."""
    with open_device(database, create=True) as device:
        device.set({"lid-mapping": {"1": "kept"}})
    done: list[bool] = []
    threads = [
        threading.Thread(target=lambda: done.append(upgrade(database, MORE, upgrade=True)))
        for _ in range(2)
    ]
    with psycopg.connect(database) as lock:
        # One stands still in the middle of it, so that the other comes meanwhile.
        lock.execute("LOCK TABLE ratchetkeep.records IN ACCESS SHARE MODE")
        for thread in threads:
            thread.start()
        wait_for_locks(lock, 2)
        assert query(database, "SELECT max(version) FROM ratchetkeep.upgrades") == [
            (schema.VERSION,)
        ]
    for thread in threads:
        thread.join(PATIENCE)
    assert done == [True, True]
    assert query(database, "SELECT version FROM ratchetkeep.upgrades ORDER BY 1") == ALL
    assert query(database, "SELECT DISTINCT seen FROM ratchetkeep.records") == [(1,)]


def test_an_upgrade_is_done_or_not(database: str) -> None:
    """An upgrade that failed, or was killed, would leave tables that are of no version: neither the
    old program nor the new one could use them."""
    with open_device(database, create=True) as device:
        identity = device.credentials.registration_id
    before = shape(database)
    failing = {**schema.UPGRADES, NEXT: (*SECOND, "SELECT 1 / 0")}
    with pytest.raises(psycopg.errors.DivisionByZero):
        upgrade(database, failing, upgrade=True)
    assert shape(database) == before
    with open_device(database) as device:
        assert device.credentials.registration_id == identity


def test_each_upgrade_has_its_own_record(database: str) -> None:
    """Of two upgrades the first would be done again after the second one failed."""
    open_device(database, create=True).close()
    third = ("DROP TABLE ratchetkeep.records", "SELECT 1 / 0")
    with pytest.raises(psycopg.errors.DivisionByZero):
        upgrade(database, {**MORE, NEXT + 1: third}, upgrade=True)
    assert query(database, "SELECT version FROM ratchetkeep.upgrades ORDER BY 1") == ALL
    assert upgrade(database, {**MORE, NEXT + 1: ("SELECT 1",)}, upgrade=True)
    assert query(database, "SELECT DISTINCT seen FROM ratchetkeep.records") == [(1,)]
    assert query(database, "SELECT max(version) FROM ratchetkeep.upgrades") == [(NEXT + 1,)]


def test_all_upgrades_of_an_empty_database(database: str) -> None:
    """Version 2 could be reached from version 1 alone, and a new fleet could not be set up."""
    assert upgrade(database, MORE) is False
    assert upgrade(database, MORE, make=True) is True
    assert query(database, "SELECT version FROM ratchetkeep.upgrades ORDER BY 1") == ALL


def test_reading_upgrades_nothing(database: str) -> None:
    """A look at a device by a new version would change the tables under the old one that runs."""
    open_device(database, create=True).close()
    before = content(database)
    with pytest.raises(UnsupportedVersion, match="for writing once"):
        upgrade(database, MORE)
    assert content(database) == before


def test_newer_tables_are_refused(database: str, tmp_path: Path) -> None:
    """An old program would write to tables whose meaning it does not know, or read half of what is
    there."""
    open_device(database, create=True).close()
    run(database, f"INSERT INTO ratchetkeep.upgrades VALUES ({NEXT}, clock_timestamp())")
    before = content(database)
    other = f"sqlite:{tmp_path}/other.db"
    open_device(other, create=True).close()
    newer = pytest.raises(
        UnsupportedVersion, match=rf"version {NEXT}.*version {schema.VERSION}.*Upgrade ratchetkeep"
    )
    for how in each({}, {"create": True}, {"read_only": True}, {"steal": True}):
        with newer:
            open_device(database, **how)
    with newer, open_store(database) as store:
        store.devices()
    with newer, open_store(database) as store:
        store.remove("default")
    with newer:
        copy_device(other, database, overwrite=True)
    with newer:
        copy_device(database, f"sqlite:{tmp_path}/copy.db")
    (found,) = verify_device(database)
    assert f"version {NEXT}" in found.what and found.severity == "error"
    assert content(database) == before


# -- users who may do little


def user(server: pgserver.Server, url: str, name: str, *grants: str) -> str:
    """The URL of a database for a new user, who may do nothing but log in and ``grants``."""
    role = f"{name}_{url.rpartition('/t')[2][:8]}"
    run(
        url,
        f"CREATE ROLE {role} LOGIN PASSWORD '{server.password}'",
        *(grant.format(role=role) for grant in grants),
    )
    return url.replace("//keeper:", f"//{role}:")


USE = (
    "GRANT USAGE ON SCHEMA ratchetkeep TO {role}",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA ratchetkeep TO {role}",
)


def test_a_user_who_may_make_tables_alone(server: pgserver.Server, database: str) -> None:
    """Where an administrator makes the schema for a user who may not, no device could be made."""
    mine = user(server, database, "maker", "CREATE SCHEMA ratchetkeep AUTHORIZATION {role}")
    with open_device(mine, create=True) as device:
        device.set({"lid-mapping": {"1": "there"}})
    with open_device(mine, read_only=True) as device:
        assert device.get("lid-mapping", ["1"]) == {"1": "there"}


def test_a_user_who_may_make_nothing(server: pgserver.Server, database: str) -> None:
    """He would not be told what is to be done, or find the start of our tables there."""
    mine = user(server, database, "guest")
    with pytest.raises(NoDevice):
        open_device(mine)
    with pytest.raises(StoreUnreadable, match=r"let this user make tables.*ratchetkeep new"):
        open_device(mine, create=True)
    assert content(database) == {}


def test_a_user_of_what_others_made(server: pgserver.Server, database: str) -> None:
    """A worker would need more rights than to read and write rows."""
    open_device(database, create=True).close()
    mine = user(server, database, "worker", *USE)
    with open_device(mine) as device, open_store(mine) as store:
        device.set({"lid-mapping": {"1": "there"}})
        store.create("another").close()
        store.remove("another")


def test_a_user_who_may_only_read(server: pgserver.Server, database: str) -> None:
    """Someone who is to look only could not, or would be told that nothing is there."""
    with open_device(database, create=True) as device:
        device.set({"lid-mapping": {"1": "there"}})
    reader = user(
        server, database, "reader", USE[0], USE[1].replace(", INSERT, UPDATE, DELETE", "")
    )
    stranger = user(server, database, "stranger")
    before = content(database)
    with open_device(reader, read_only=True) as device, open_store(reader) as store:
        assert device.get("lid-mapping", ["1"]) == {"1": "there"}
        assert store.devices() == ["default"]
    for how in each({}, {"create": True}, {"steal": True}):
        with pytest.raises(StoreUnreadable, match="permission denied"):
            open_device(reader, **how)
    for how in each({}, {"create": True}, {"read_only": True}):
        with pytest.raises(StoreUnreadable, match="permission denied"):
            open_device(stranger, **how)
    assert content(database) == before


# -- tables that are not whole


@pytest.mark.parametrize("table", ["owners", "devices", "takeovers", "records", "upgrades", "ring"])
def test_a_missing_table_is_damage(database: str, table: str) -> None:
    """Tables of which one is gone would be taken for none, and a new identity be made beside what
    is left of the old one."""
    open_device(database, create=True).close()
    run(database, f"DROP TABLE ratchetkeep.{table}")
    left = (
        "TABLE ratchetkeep.records"
        if table != "records"
        else "SELECT name FROM ratchetkeep.devices"
    )
    before = query(database, left)
    for how in each({"create": True}, {}):
        with pytest.raises(StoreDamaged):
            open_device(database, **how)
    assert query(database, left) == before


def test_versions_that_were_deleted_are_damage(database: str) -> None:
    """Tables whose version is not known would be taken for none."""
    open_device(database, create=True).close()
    run(database, "DELETE FROM ratchetkeep.upgrades")
    for how in each({"create": True}, {}, {"read_only": True}):
        with pytest.raises(StoreDamaged):
            open_device(database, **how)


def test_records_without_an_entry_are_damage(database: str) -> None:
    """A new identity would be made among the records of one that was lost in part."""
    with open_device(database, create=True) as device:
        device.set({"lid-mapping": {"1": "left"}})
    run(
        database,
        "DELETE FROM ratchetkeep.devices",
        "DELETE FROM ratchetkeep.records WHERE family = 'credentials'",
    )
    for _ in range(2):
        with pytest.raises(StoreDamaged, match=r"no credentials.*1 records"):
            open_device(database, create=True)
    assert query(database, "SELECT family, id FROM ratchetkeep.records") == [("lid-mapping", "1")]


# -- golden files


@pytest.fixture(params=sorted(path.name for path in FOLDER.glob("*.sql")))
def golden(request: pytest.FixtureRequest, database: str) -> str:
    """The URL of a database as an earlier version made it."""
    run(database, (FOLDER / str(request.param)).read_text())
    return database


def golden_bytes(name: str) -> bytes:
    return (GOLDEN / "native-v1" / f"{name}.rk").read_bytes()


def golden_value(key: Key) -> Any:
    return native.decode(key, golden_bytes(RECORDS[key]))


@pytest.mark.parametrize("read_only", [False, True])
def test_a_golden_device_is_read(golden: str, read_only: bool) -> None:
    """A version after this one could not read the devices that fleets have."""
    # Reading upgrades nothing.
    open_device(golden + "&device=alice").close()
    with open_store(golden) as store:
        assert store.devices() == ["Zoë/7", "alice", "moved"]
    url = golden + "&device=alice"
    with open_device(url, read_only=read_only) as device:
        assert device.credentials == golden_value(CREDENTIALS)
        for family in {key.family for key in RECORDS} - {"credentials"}:
            ids = sorted(key.id for key in RECORDS if key.family == family)
            assert device.ids(family) == ids
            expected = {id: golden_value(Key(family, id)) for id in ids}
            assert device.get(family, ids) == expected


def test_a_golden_device_goes_on(golden: str) -> None:
    """A version after this one could not write what it can read, or not take over from a worker
    that ended without a word."""
    for name in ("alice", "Zo%C3%AB%2F7"):
        with open_device(f"{golden}&device={name}") as device:
            identity = device.credentials
            device.set({"lid-mapping": {"3": "new"}, "pre-key": {"16777215": None}})
        with open_device(f"{golden}&device={name}") as device:
            assert device.credentials == identity
            assert device.get("lid-mapping", ["3"]) == {"3": "new"}
            assert device.ids("pre-key") == []


def test_a_golden_mark_is_kept(golden: str) -> None:
    """A device that was moved would go on in two places after an upgrade."""
    with pytest.raises(DeviceMoved) as raised:
        open_device(golden + "&device=moved")
    assert raised.value.to == MOVED_TO


def test_new_tables_are_as_the_golden_ones(server: pgserver.Server, golden: str) -> None:
    """The tables of a new database would differ from those that were upgraded: what is tested on
    one would fail on the other. Or an upgrade that was published would have been changed."""
    fresh = server.new_database()
    for each in (fresh, golden):
        with closing(psycopg.connect(each, autocommit=True)) as connection:
            schema.prepare(connection, each, make=True, upgrade=True)
    assert shape(golden) == shape(fresh)


def test_each_version_has_its_golden_file() -> None:
    """A version of the tables would be published that nobody knows how to read later."""
    names = [f"version-{version}.sql" for version in schema.UPGRADES]
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(names)


# -- how golden files are written

_AT = "'2026-01-02 03:04:05.678901+00'"
_OWNER = "'7b0f8f0e-3f7a-4b57-9a3e-6a1f1f2f3f4f'"
_WHO = "'ratchetkeep (process 4242 on host)'"
_DEVICES = {
    # name: its owner, commits, and where it was moved to.
    "alice": ("NULL", 7, "NULL, NULL"),
    "Zoë/7": (_OWNER, 3, "NULL, NULL"),
    "moved": ("NULL", 2, f"'{MOVED_TO}', {_AT}"),
}


def golden_sql() -> str:
    """A database of the current version, as text."""
    made = ["CREATE SCHEMA ratchetkeep"]
    made.append(
        "CREATE TABLE ratchetkeep.upgrades (version integer PRIMARY KEY, at timestamptz NOT NULL)"
    )
    for version, statements in schema.UPGRADES.items():
        made += [" ".join(each.split()) for each in statements]
        made.append(f"INSERT INTO ratchetkeep.upgrades VALUES ({version}, {_AT})")
    made.append(f"INSERT INTO ratchetkeep.owners VALUES ({_OWNER}, {_WHO}, 1, NULL, {_AT})")
    for name, (owner, commits, moved) in _DEVICES.items():
        id, epoch = f"'{rows.id_of(name)}'", 1_767_323_045_678_901
        made.append(
            "INSERT INTO ratchetkeep.devices VALUES "
            f"({id}, '{name}', {_AT}, {epoch}, {owner}, {commits}, {_AT}, {moved}, "
            f"'{uuid.uuid5(uuid.NAMESPACE_URL, name)}', 0, NULL)"
        )
        made.append(
            f"INSERT INTO ratchetkeep.takeovers VALUES ({id}, {epoch}, {_OWNER}, {_WHO}, {_AT}, 0)"
        )
        for key, record in RECORDS.items():
            shown = key.id.replace("'", "''")
            made.append(
                "INSERT INTO ratchetkeep.records VALUES "
                f"({id}, '{key.family}', '{shown}', '\\x{golden_bytes(record).hex()}')"
            )
    return "".join(f"{statement};\n" for statement in made)


if __name__ == "__main__":
    assert sys.argv[1:] == ["write"]
    path = FOLDER / f"version-{schema.VERSION}.sql"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(golden_sql(), newline="\n")
