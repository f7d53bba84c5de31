"""whatsmeow's tables in a real PostgreSQL database."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

import pgserver
from _helpers import ALICE
from _pgcontrol import free_port
from _whatsmeow import ALICE_JID, BOB_JID, SECONDS, Database, PostgresDatabase, put_alice, put_bob
from _whatsmeow_cases import WhatsmeowCases, contents, elsewhere
from _whatsmeow_live_cases import WhatsmeowLiveCases
from ratchetkeep import (
    CommitFailed,
    NoDevice,
    NotHeld,
    RatchetkeepError,
    StoreDamaged,
    StoreInUse,
    StoreUnreadable,
    UnknownStore,
    copy_device,
    open_device,
    open_store,
    verify_device,
)
from ratchetkeep.stores import urls


@pytest.fixture(scope="module")
def server() -> Iterator[pgserver.Server]:
    """A server for these tests."""
    with pgserver.running() as server:
        yield server


@pytest.fixture
def empty(server: pgserver.Server) -> Database:
    """A new database."""
    return PostgresDatabase(server.new_database())


@pytest.fixture
def alice(empty: Database) -> Database:
    """A database with one device."""
    put_alice(empty)
    return empty


class TestPostgres(WhatsmeowCases, WhatsmeowLiveCases):
    """whatsmeow:postgresql://..."""

    @pytest.fixture
    def database(self, server: pgserver.Server) -> Database:
        return PostgresDatabase(server.new_database())

    @pytest.fixture
    def other(self, server: pgserver.Server) -> Database:
        return PostgresDatabase(server.new_database())


# -- reaching the server


def shown(error: BaseException) -> str:
    """All that an error tells."""
    return f"{error} {error!r} {error.__cause__!r}"


def test_the_password_is_never_shown(server: pgserver.Server, alice: Database) -> None:
    """A log or a terminal would hold the password of the database."""
    url = urls.parse(alice.url(ALICE_JID))
    assert server.password not in urls.shown(url)
    assert urls.shown(url).startswith("whatsmeow:postgresql://keeper:***@127.0.0.1:")
    with open_device(alice.url()) as device, open_store(alice.url()) as store:
        assert server.password not in f"{device!r} {store!r}"
    copied = copy_device(alice.url(), "memory:")
    assert server.password not in f"{copied!r}"
    with pytest.raises(NoDevice) as missing:
        open_device(alice.url("1@s.whatsapp.net"))
    assert server.password not in shown(missing.value)


@pytest.mark.parametrize("secret", ["secret", "se%40cret", "se@cret", "se/cr?et@", "a:b#secret"])
def test_a_wrong_password_is_said(server: pgserver.Server, secret: str) -> None:
    """Nobody would know why the database cannot be opened, or a log would hold the password."""
    address = server.url(password=secret)
    for action in (
        lambda: open_device(f"whatsmeow:{address}"),
        lambda: copy_device(f"baileys:{ALICE}", f"whatsmeow:{address}"),
    ):
        with pytest.raises((StoreUnreadable, UnknownStore)) as refused:
            action()
        told = shown(refused.value)
        assert "secret" not in told and "se%40" not in told and "cr?et" not in told
    if secret == "secret":
        assert "refuses the user or the password" in told


def test_a_server_that_does_not_answer_is_said(server: pgserver.Server) -> None:
    """Nobody would know whether the database is lost."""
    address = server.url().replace(f":{server.port}/", f":{free_port()}/")
    with pytest.raises(StoreUnreadable, match="no server answers there") as refused:
        open_device(f"whatsmeow:{address}")
    assert server.password not in shown(refused.value)
    with pytest.raises(StoreUnreadable, match="no such database"):
        open_device(f"whatsmeow:{server.url('missing')}")
    with pytest.raises(UnknownStore, match="no URL of a PostgreSQL database"):
        open_device(f"whatsmeow:{server.url()}&colour=blue")


def test_a_socket_is_reached(server: pgserver.Server, alice: Database) -> None:
    """Databases that listen on a socket alone could not be used."""
    name = alice.address.rpartition("/")[2].partition("?")[0]
    login = f"user=keeper&password={server.password}&port={server.port}"
    address = f"whatsmeow:postgresql:///{name}?host={quote(str(server.folder))}&{login}"
    assert len(contents(f"{address}&jid={ALICE_JID}")["session"]) == 27
    assert len(contents(f"{address.replace('postgresql:', 'postgres:')}")["session"]) == 27
    assert server.password not in urls.shown(urls.parse(address))


def test_without_psycopg_it_says_what_to_install(alice: Database) -> None:
    """A user without the extra would see a traceback."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.modules['psycopg'] = None\n"
            f"import ratchetkeep; ratchetkeep.open_device({alice.url()!r})",
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert "UnknownStore" in done.stderr
    assert "pip install 'ratchetkeep[postgres]'" in done.stderr


# -- the database


def test_an_empty_database_is_no_device(empty: Database) -> None:
    """A mistyped URL would make tables in another database."""
    with pytest.raises(NoDevice):
        open_device(empty.url())
    with open_store(empty.url()) as store:
        assert store.devices() == []
    with pytest.raises(StoreDamaged):
        copy_device(empty.url(), "memory:") if put_half(empty) else None
    assert empty.run("SELECT count(*) FROM whatsmeow_device") == [(0,)]


def put_half(database: Database) -> bool:
    """Make whatsmeow's table of devices alone."""
    database.run("CREATE TABLE whatsmeow_device (jid TEXT PRIMARY KEY)")
    return True


def test_tables_of_other_programs_are_left_alone(empty: Database) -> None:
    """whatsmeow's tables often stand beside an application's own."""
    empty.run("CREATE TABLE mine (it TEXT)")
    empty.run("INSERT INTO mine VALUES ('kept')")
    put_alice(empty)
    with open_store(empty.url()) as store:
        store.remove(ALICE_JID)
    assert empty.run("SELECT * FROM mine") == [("kept",)]


def test_the_tables_may_be_in_a_schema_of_their_own(empty: Database) -> None:
    """A database whose search_path names another schema could not be used."""
    empty.run("CREATE SCHEMA wm")
    url = f"{empty.url()}&options={quote('-c search_path=wm')}"
    copy_device(f"baileys:{ALICE}", url)
    assert verify_device(url) == []
    assert empty.run("SELECT count(*) FROM wm.whatsmeow_sessions") == [(27,)]
    assert empty.columns("whatsmeow_sessions") == []


def test_a_failed_copy_leaves_nothing(empty: Database) -> None:
    """Half a device would be there, and the client would take it for its own."""

    def stop(step: str, done: int, total: int) -> None:
        if step == "write" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_device(f"baileys:{ALICE}", empty.url(), progress=stop)
    assert empty.columns("whatsmeow_device") == []


def test_two_copies_at_once_make_one_schema(empty: Database) -> None:
    """The second of two copies to a new database would fail on the first one's tables."""
    raised: list[BaseException] = []
    ready = threading.Barrier(2)

    def run(put: object) -> None:
        try:
            ready.wait(SECONDS)
            assert callable(put)
            put(empty)
        except BaseException as error:  # noqa: BLE001 - shown below
            raised.append(error)

    threads = [threading.Thread(target=run, args=(put,)) for put in (put_alice, put_bob)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert raised == []
    assert [jid for jid, _ in empty.neonize()] == [BOB_JID, ALICE_JID]


def test_a_device_cannot_be_marked_as_moved(alice: Database) -> None:
    """A user would believe that the device is closed here for good."""
    with pytest.raises(NotHeld, match="cannot be marked as moved"):
        copy_device(alice.url(), "memory:", retire=True)
    open_device(alice.url()).close()


# -- owners


def test_owners_in_one_database_do_not_wait_for_each_other(alice: Database) -> None:
    """A fleet on many machines could open one device at a time."""
    put_bob(alice)
    with open_device(alice.url(ALICE_JID)) as device:
        done = elsewhere(
            f"d = open_device({alice.url(BOB_JID)!r})\n"
            "d.set({'session': dict.fromkeys(d.ids('session'))}); print('written')"
        )
        assert done.stdout == "written\n", done.stderr
        device.set({"session": dict.fromkeys(device.ids("session"))})
    assert alice.run("SELECT count(*) FROM whatsmeow_sessions") == [(0,)]


def test_a_session_that_was_lost_writes_nothing_more(alice: Database) -> None:
    """After the server was restarted another process may own the device, and two would write."""
    before = alice.dump()
    with open_device(alice.url()) as device:
        sessions = device.ids("session")
        alice.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name LIKE 'ratchetkeep%' AND datname = current_database()"
        )
        with open_device(alice.url()):  # its owner by now
            for _ in range(2):
                with pytest.raises(CommitFailed):
                    device.set({"session": dict.fromkeys(sessions)})
            with pytest.raises(RatchetkeepError):
                device.ids("pre-key")
    assert alice.dump() == before


def test_a_commit_that_the_server_refuses_changes_nothing(alice: Database) -> None:
    """A commit would be half there, or an error would show what was to be stored."""
    before = alice.dump()
    alice.run(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'no % here', NEW.session; END $$"
    )
    alice.run(
        "CREATE TRIGGER no BEFORE INSERT ON whatsmeow_sessions FOR EACH ROW EXECUTE FUNCTION no()"
    )
    with open_device(alice.url()) as device:
        (session,) = device.get("session", device.ids("session")[:1]).values()
        with pytest.raises(CommitFailed) as failed:
            device.set(
                {"pre-key": dict.fromkeys(device.ids("pre-key")), "session": {"1.1": session}}
            )
    assert "RootKey" not in shown(failed.value) and "\\x7b" not in shown(failed.value)
    assert alice.dump() == before


def test_commits_are_durable_whatever_the_server_is_set_to(alice: Database) -> None:
    """A server that answers before its disk does would lose commits in a power cut."""
    name = alice.address.rpartition("/")[2].partition("?")[0]
    alice.run(f"ALTER DATABASE {name} SET synchronous_commit = off")
    assert alice.run("SHOW synchronous_commit") == [("off",)]
    with open_device(alice.url()) as device:
        db = device._store._owned["default"].db  # type: ignore[attr-defined]
        assert db.rows("SHOW synchronous_commit") == [("on",)]


def test_a_copy_does_not_replace_what_is_open(alice: Database) -> None:
    """A copy would pull a device away under its owner."""
    before = alice.dump()
    with open_device(alice.url()), pytest.raises(StoreInUse, match="in use by ratchetkeep"):
        copy_device(f"baileys:{ALICE}", alice.url(), overwrite=True)
    assert alice.dump() == before


@pytest.mark.parametrize("name", ["what?", "what%s", 'a"?"b', "it's?"])
def test_a_table_may_have_any_name(alice: Database, tmp_path: Path, name: str) -> None:
    """A database of a later whatsmeow could not be copied, or not be removed."""
    quoted = '"whatsmeow_' + name.replace('"', '""') + '"'
    with psycopg.connect(alice.address, autocommit=True) as client:
        client.execute(f"CREATE TABLE {quoted} (jid TEXT, x TEXT)".encode())
        client.execute(f"INSERT INTO {quoted} VALUES ('{ALICE_JID}', 'x')".encode())
    copied = copy_device(alice.url(), f"sqlite:{tmp_path}/a.db")
    assert (f"whatsmeow_{name}", 1) in {(each.table, each.rows) for each in copied.left_behind}
    with open_store(alice.url()) as store:
        store.remove()
    assert alice.run("SELECT * FROM whatsmeow_device") == []


def test_a_column_of_an_odd_name_is_told(alice: Database) -> None:
    """The error would speak of values that are missing, and nobody could find the column."""
    with psycopg.connect(alice.address, autocommit=True) as client:
        client.execute('ALTER TABLE whatsmeow_device ADD COLUMN "a?%s" TEXT')
    with pytest.raises(StoreDamaged, match="a column of an odd name"):
        open_device(alice.url())


def test_connections_are_closed(alice: Database, tmp_path: Path) -> None:
    """A program that opens and closes devices would use up the server's connections."""
    for _ in range(3):
        contents(alice.url())
        open_device(alice.url()).close()
        copy_device(f"baileys:{ALICE}", alice.url(), overwrite=True)
        with pytest.raises(RatchetkeepError):
            open_device(alice.url("1@s.whatsapp.net"))
    with psycopg.connect(alice.address) as connection:
        count = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'ratchetkeep%' "
            "AND datname = current_database()"
        ).fetchone()
    assert count == (0,)
