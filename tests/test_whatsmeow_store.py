"""whatsmeow's tables in an SQLite file."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

import apsw
import pytest

from _helpers import ALICE, dead_pid
from _whatsmeow import ALICE_JID, BOB_JID, Database, SqliteFile, put_alice, put_bob
from _whatsmeow_cases import WhatsmeowCases, contents, elsewhere
from _whatsmeow_live_cases import WhatsmeowLiveCases
from ratchetkeep import (
    CommitFailed,
    DeviceMoved,
    NoDevice,
    RatchetkeepError,
    StoreDamaged,
    StoreInUse,
    StoreUnreadable,
    UnknownStore,
    copy_device,
    open_device,
    repair_device,
    verify_device,
)
from ratchetkeep.stores import _sqlite_file as sql
from ratchetkeep.stores import urls


@pytest.fixture
def file(tmp_path: Path) -> SqliteFile:
    """A place where nothing is yet."""
    return SqliteFile(tmp_path / "client.db")


@pytest.fixture
def alice(file: SqliteFile) -> SqliteFile:
    """A database with one device."""
    put_alice(file)
    return file


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other programs' locks are not waited for."""
    monkeypatch.setattr(sql, "BUSY_MILLISECONDS", 20)


class TestSqlite(WhatsmeowCases, WhatsmeowLiveCases):
    """whatsmeow:PATH"""

    @pytest.fixture
    def database(self, tmp_path: Path) -> Database:
        return SqliteFile(tmp_path / "client.db")

    @pytest.fixture
    def other(self, tmp_path: Path) -> Database:
        return SqliteFile(tmp_path / "other.db")

    def let_writers_work_beside_readers(self, database: Database) -> None:
        assert database.run("PRAGMA journal_mode = WAL") == [("wal",)]


# -- the file


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_is_its_owner_s_alone(alice: SqliteFile, tmp_path: Path) -> None:
    """Other users of the machine could read the keys, or leftovers would hold them."""
    assert stat.S_IMODE(alice.path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["client.db"]
    alice.path.chmod(0o644)
    (finding,) = verify_device(alice.url())
    assert (finding.severity, finding.place) == ("warning", str(alice.path))


def test_folders_are_made(tmp_path: Path) -> None:
    """A copy to a new place would fail."""
    file = SqliteFile(tmp_path / "a" / "b" / "client.db")
    put_alice(file)
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    assert file.neonize()


def test_a_failed_copy_leaves_nothing(file: SqliteFile, tmp_path: Path) -> None:
    """Half a database would lie there, and the client would take it for its own."""

    def stop(step: str, done: int, total: int) -> None:
        if step == "write":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_device(f"baileys:{ALICE}", file.url(), progress=stop)
    assert names(tmp_path) == []


def test_a_killed_copy_is_cleaned_up(alice: SqliteFile, tmp_path: Path) -> None:
    """Files with keys that nobody uses would stay for ever."""
    stage = tmp_path / f"client.db.stage-{dead_pid()}-0badcafe"
    for suffix in ("", "-journal"):
        Path(f"{stage}{suffix}").write_bytes(b"keys")
    open_device(alice.url()).close()
    assert names(tmp_path) == ["client.db"]


def test_the_journal_mode_stays(alice: SqliteFile) -> None:
    """The client's own settings would be changed for good."""
    for mode in ("delete", "wal"):
        alice.run(f"PRAGMA journal_mode = {mode}")
        with open_device(alice.url()) as device:
            device.set({"pre-key": dict.fromkeys(device.ids("pre-key")[:1])})
        contents(alice.url())
        assert alice.run("PRAGMA journal_mode")[0][0] == mode


def test_a_commit_that_a_client_did_not_finish_is_undone(alice: SqliteFile, tmp_path: Path) -> None:
    """A client's crash would leave a torn database, and we would read it as it is."""
    whole = alice.dump()
    left = elsewhere(
        "import apsw, os\n"
        f"c = apsw.Connection({alice.address!r})\n"
        "c.execute('PRAGMA cache_size = 1; PRAGMA cache_spill = 1; BEGIN')\n"
        "c.execute('UPDATE whatsmeow_sessions SET session = zeroblob(9000)')\n"
        "c.execute('UPDATE whatsmeow_sender_keys SET sender_key = zeroblob(9000)')\n"
        "c.cache_flush()\n"
        "os.kill(os.getpid(), 9)"
    )
    assert left.returncode == -9
    assert (tmp_path / "client.db-journal").stat().st_size > 0
    assert len(contents(alice.url())["session"]) == 27
    assert alice.dump() == whole


# -- other programs


def test_a_reader_is_told_of_a_writer(alice: SqliteFile) -> None:
    """A copy would mix two moments; or a reader would keep a running client from writing, which
    then loses messages."""
    with open_device(alice.url(), read_only=True) as reader:
        assert len(reader.ids("session")) == 27
        alice.run("DELETE FROM whatsmeow_sessions")
        with pytest.raises(StoreInUse, match="was changed by another program"):
            reader.ids("session")


@pytest.mark.usefixtures("hurry")
def test_another_program_s_transaction_is_waited_for(alice: SqliteFile) -> None:
    """A commit would fail for good because a shell had the file open for a moment."""
    before = alice.dump()
    with open_device(alice.url()) as device:
        change = {"session": dict.fromkeys(device.ids("session"))}
        with alice.open() as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreInUse, match="locked"):
                device.set(change)
            other.execute("ROLLBACK; BEGIN; SELECT * FROM whatsmeow_sessions").fetchall()
            with pytest.raises(StoreInUse, match="locked"):
                device.set(change)
            other.execute("ROLLBACK")
        assert alice.dump() == before
        device.set(change)
    assert contents(alice.url())["session"] == {}


@pytest.mark.usefixtures("hurry")
def test_a_copy_does_not_wait_for_ever(alice: SqliteFile) -> None:
    """A copy would hang while another program writes, or read what is half written."""
    before = alice.dump()
    with alice.open() as other:
        other.execute("BEGIN EXCLUSIVE")
        for action in (lambda: put_bob(alice), lambda: contents(alice.url())):
            with pytest.raises(StoreInUse, match="locked"):
                action()
        other.execute("ROLLBACK")
    assert alice.dump() == before


def test_a_file_that_was_replaced_is_not_written(alice: SqliteFile, tmp_path: Path) -> None:
    """Commits would go to a file that nobody finds any more."""
    shutil.copy(alice.path, tmp_path / "backup.db")
    with open_device(alice.url()) as device:
        os.replace(tmp_path / "backup.db", alice.path)
        with pytest.raises(RatchetkeepError, match="replaced"):
            device.set({"session": dict.fromkeys(device.ids("session"))})
    assert len(contents(alice.url())["session"]) == 27


def test_a_file_with_two_names_is_refused(alice: SqliteFile, tmp_path: Path) -> None:
    """Two processes could own one file under its two names."""
    os.link(alice.path, tmp_path / "again.db")
    with pytest.raises(StoreInUse, match="hard link"):
        open_device(alice.url())


def test_a_read_only_file_is_read() -> None:
    """A backup on a read-only disk could not be looked at, or a write would fail late."""
    with tempfile.TemporaryDirectory() as folder:
        file = SqliteFile(Path(folder) / "client.db")
        put_alice(file)
        file.path.chmod(0o444)
        Path(folder).chmod(0o555)
        # Root may write to anything. Reading once loads all that nobody could not.
        become = "os.setgroups([]); os.setgid(65534); os.setuid(65534)"
        start = f"""import os
url = {file.url()!r}
open_device(url, read_only=True).close()
{become if os.geteuid() == 0 else ""}
"""
        done = elsewhere(f"{start}print(len(open_device(url, read_only=True).ids('session')))")
        assert done.stdout == "27\n", done.stderr
        done = elsewhere(f"{start}open_device(url)")
        assert "StoreUnreadable" in done.stderr
        assert "read_only=True" in done.stderr
        Path(folder).chmod(0o777)
        done = elsewhere(f"{start}open_device(url)")
        assert "the file is read-only" in done.stderr
        assert names(Path(folder)) == ["client.db"]


# -- what is no whatsmeow database


def test_a_bare_path_is_recognized(alice: SqliteFile, tmp_path: Path) -> None:
    """The kind of a database that is there would have to be known by heart."""
    assert urls.parse(alice.path).kind == "whatsmeow"
    with open_device(alice.path, read_only=True) as device:
        assert len(device.ids("session")) == 27
        assert urls.parse(alice.path).kind == "whatsmeow"  # also while it is open
    shutil.copy(alice.path, tmp_path / "no suffix")
    assert urls.parse(tmp_path / "no suffix").kind == "whatsmeow"


def test_stores_are_not_taken_for_each_other(alice: SqliteFile, tmp_path: Path) -> None:
    """A store would be written into another library's file, or over it."""
    ours = tmp_path / "ours.db"
    copy_device(f"baileys:{ALICE}", f"sqlite:{ours}")
    with pytest.raises(UnknownStore, match="use sqlite: before the path"):
        open_device(f"whatsmeow:{ours}")
    with pytest.raises(UnknownStore, match="use whatsmeow: before the path"):
        open_device(f"sqlite:{alice.path}", create=True)
    with open_device(alice.url()), pytest.raises(UnknownStore):
        open_device(f"sqlite:{alice.path}")
    for path, source in ((ours, alice.url()), (alice.path, f"sqlite:{ours}")):
        kind = "whatsmeow" if path == ours else "sqlite"
        with pytest.raises(UnknownStore):
            copy_device(source, f"{kind}:{path}", overwrite=True)
    assert verify_device(f"sqlite:{ours}") == verify_device(alice.url()) == []


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", StoreDamaged),
        (b"hello", UnknownStore),
        (b"SQLite format 3\0" + b"\xff" * 4096, UnknownStore),
        (None, UnknownStore),
    ],
    ids=["empty", "text", "broken", "folder"],
)
def test_other_things_are_refused(
    file: SqliteFile, content: bytes | None, error: type[Exception]
) -> None:
    """Anything that is there would be replaced by a new database."""
    if content is None:
        file.path.mkdir()
    else:
        file.path.write_bytes(content)
    for create in (False, True):
        with pytest.raises(error):
            open_device(file.url(), create=create)
    with pytest.raises(error):
        put_alice(file)
    assert content is None or file.path.read_bytes() == content


def test_another_program_s_database_is_not_extended(file: SqliteFile) -> None:
    """whatsmeow's tables would stand in a database that has nothing to do with it."""
    file.run("CREATE TABLE mine (it)")
    with pytest.raises(UnknownStore, match="another program"):
        put_alice(file)
    assert file.run("SELECT name FROM sqlite_schema") == [("mine",)]


def test_nothing_there(file: SqliteFile) -> None:
    """A mistyped path would make a database."""
    with pytest.raises(NoDevice):
        open_device(file.url())
    assert not file.path.exists()
    file.make()
    with pytest.raises(NoDevice, match="holds no devices"):
        open_device(file.url())


# -- damage

HOSTILE = {
    "a session that is text": "UPDATE whatsmeow_sessions SET session = 'text'",
    "a session that is missing": "UPDATE whatsmeow_sessions SET session = NULL",
    "an address that is missing": "UPDATE whatsmeow_sessions SET their_id = NULL",
    "an address that is bytes": "UPDATE whatsmeow_sessions SET their_id = CAST(their_id AS BLOB)",
    "an address with a NUL": "UPDATE whatsmeow_sessions SET their_id = 'a' || char(0) || ':1'",
    "an address without end": "UPDATE whatsmeow_sessions SET their_id = "
    "hex(zeroblob(9000)) || ':1' WHERE rowid = 1",
    "an address that is not UTF-8": "UPDATE whatsmeow_sessions SET their_id = "
    "CAST(x'ff3a31' AS TEXT) WHERE rowid = 1",
    "a session of 70 MiB": "UPDATE whatsmeow_sessions SET session = zeroblob(73400320) "
    "WHERE rowid = 1",
    "a pre-key of one byte": "UPDATE whatsmeow_pre_keys SET key = x'00'",
    "a pre-key that is perhaps uploaded": "UPDATE whatsmeow_pre_keys SET uploaded = 7",
    "a pre-key whose id is text": "UPDATE whatsmeow_pre_keys SET key_id = 'x' WHERE rowid = 1",
    "a pre-key whose id is negative": "UPDATE whatsmeow_pre_keys SET key_id = -1 WHERE rowid = 1",
    "a pre-key whose id is a fraction": "UPDATE whatsmeow_pre_keys SET key_id = .5 WHERE rowid = 1",
    "an identity key of 33 bytes": "UPDATE whatsmeow_identity_keys SET identity = zeroblob(33)",
    "a sync key without bytes": "UPDATE whatsmeow_app_state_sync_keys SET key_data = 7",
    "a sync key whose time is text": "UPDATE whatsmeow_app_state_sync_keys SET timestamp = 'x'",
    "a sync key whose id is text": "UPDATE whatsmeow_app_state_sync_keys SET key_id = 'id' "
    "WHERE rowid = 1",
    "a fingerprint that is no message": "UPDATE whatsmeow_app_state_sync_keys "
    "SET fingerprint = x'ffff'",
    "a hash of one byte": "UPDATE whatsmeow_app_state_version SET hash = x'00'",
    "a state of a negative version": "UPDATE whatsmeow_app_state_version SET version = -1",
    "a MAC that is text": "UPDATE whatsmeow_app_state_mutation_macs SET value_mac = 'x'",
    "a token that is text": "UPDATE whatsmeow_privacy_tokens SET token = 'x'",
    "a token of nobody": "UPDATE whatsmeow_privacy_tokens SET their_jid = 'nobody' WHERE rowid = 1",
    "a mapping of a JID": "UPDATE whatsmeow_lid_map SET lid = '1@lid' WHERE rowid = 1",
    "a mapping of bytes": "UPDATE whatsmeow_lid_map SET pn = x'00' WHERE rowid = 1",
    "a mapping of nothing": "UPDATE whatsmeow_lid_map SET lid = NULL WHERE rowid = 1",
    "a noise key of one byte": "UPDATE whatsmeow_device SET noise_key = x'00'",
    "an identity key that is text": "UPDATE whatsmeow_device SET identity_key = 'x'",
    "an identity of another key": "UPDATE whatsmeow_device SET identity_key = noise_key",
    "a number that is text": "UPDATE whatsmeow_device SET registration_id = 'x'",
    "a number that is too large": "UPDATE whatsmeow_device SET registration_id = 1 << 40",
    "a name that is a number": "UPDATE whatsmeow_device SET push_name = CAST(7 AS BLOB)",
    "an account that is missing": "UPDATE whatsmeow_device SET adv_details = 9",
    "a JID that is none": "UPDATE whatsmeow_device SET jid = 'nobody'",
    "a JID that is bytes": "UPDATE whatsmeow_device SET jid = x'00'",
    "a LID that is none": "UPDATE whatsmeow_device SET lid = 'nobody'",
    "a column of an odd name": 'ALTER TABLE whatsmeow_device ADD COLUMN "a"" ; --" DEFAULT 7',
}


@pytest.mark.parametrize("statement", HOSTILE.values(), ids=HOSTILE.keys())
def test_damaged_rows_are_damage(alice: SqliteFile, statement: str, tmp_path: Path) -> None:
    """Damage would be dropped, taken for absence, or crash the program."""
    secrets = _secrets(alice)
    with alice.open() as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON; PRAGMA foreign_keys = OFF")
        with connection:
            connection.execute(statement.replace("UPDATE", "UPDATE OR IGNORE", 1))
            assert connection.total_changes() or "ALTER" in statement
    found = verify_device(alice.url())
    assert any(each.severity == "error" for each in found), found
    assert any("whatsmeow" in each.place for each in found)
    with pytest.raises(StoreDamaged) as refused:
        copy_device(alice.url(), f"baileys:{tmp_path}/back")
    shown = f"{found} {refused.value}"
    assert not any(each in shown for each in secrets)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("family", "id", "table", "other"),
    [
        ("sender-key", "abc@g.us::1::0", "whatsmeow_sender_keys", "chat_id = 'ABC@g.us'"),
        ("app-state-sync-version", "regular", "whatsmeow_app_state_version", "name = 'Regular'"),
        (
            "app-state-sync-version",
            "regular",
            "whatsmeow_app_state_mutation_macs",
            "name = 'Regular'",
        ),
        ("lid-mapping", "abc", "whatsmeow_lid_map", "pn = 'ABC'"),
    ],
    ids=["sender-key", "state", "MAC", "mapping"],
)
def test_a_table_that_is_not_exact_is_damage(
    alice: SqliteFile, family: str, id: str, table: str, other: str
) -> None:
    """A program would end with an error that names neither file nor row, or get another record
    than it asked for."""
    with alice.open() as client:
        client.execute(f"CREATE TABLE made AS SELECT * FROM {table}")
        columns = [(name, kind) for _, name, kind, *_ in client.execute("PRAGMA table_info(made)")]
        client.execute(f"DROP TABLE {table}")
        named = ", ".join(f"{name} {kind} COLLATE NOCASE" for name, kind in columns)
        client.execute(f"CREATE TABLE {table} ({named})")
        client.execute(f"INSERT INTO {table} SELECT * FROM made")
        changed = "name = 'regular'" if family == "app-state-sync-version" else "rowid = 1"
        client.execute(f"UPDATE {table} SET {other} WHERE {changed}")
        if family == "sender-key":
            client.execute(f"UPDATE {table} SET sender_id = '1:0' WHERE rowid = 1")
        client.execute("DROP TABLE made")
    with (
        open_device(alice.url(), read_only=True) as device,
        pytest.raises(StoreDamaged, match=f"{table}, row .*does not compare names exactly"),
    ):
        device.get(family, [id])


def _secrets(file: SqliteFile) -> set[str]:
    """Spellings of the keys in a database."""
    keys = [row[0] for row in file.run("SELECT key FROM whatsmeow_pre_keys")]
    keys += file.run("SELECT noise_key, identity_key, signed_pre_key FROM whatsmeow_device")[0]
    return {key.hex()[:16] for key in keys} | {repr(key)[2:20] for key in keys}


def test_a_torn_page_is_damage(alice: SqliteFile) -> None:
    """A damaged file would be read as one that holds less."""
    with alice.path.open("r+b") as stream:
        stream.seek(4096 * 3)
        stream.write(b"\xff" * 4096 * 8)
    assert any(each.severity == "error" for each in verify_device(alice.url()))


def test_rows_of_nobody_are_told(alice: SqliteFile) -> None:
    """A program that does not switch foreign keys on would leave keys behind for ever."""
    with alice.open() as connection:
        connection.execute("PRAGMA foreign_keys = OFF; DELETE FROM whatsmeow_device")
    put_bob(alice)
    found = verify_device(alice.url(BOB_JID))
    assert {each.severity for each in found} == {"warning"}
    assert any("27 rows of whatsmeow_sessions" in each.what for each in found)
    put_alice(alice)  # replaces what is left of the device
    assert verify_device(alice.url(ALICE_JID)) == []


def test_there_is_nothing_to_repair(alice: SqliteFile) -> None:
    """`ratchetkeep repair` would fail as if it were broken, or change what is whatsmeow's."""
    before = alice.dump()
    assert repair_device(alice.url()) == []
    assert alice.dump() == before
    alice.run("DROP TABLE whatsmeow_sessions")
    with pytest.raises(StoreDamaged):
        repair_device(alice.url())


# -- devices that were moved


def test_a_moved_device_is_not_opened(alice: SqliteFile, tmp_path: Path) -> None:
    """A device would go on in two places, and break its sessions in both."""
    copy_device(alice.url(), f"sqlite:{tmp_path}/new.db", retire=True)
    with pytest.raises(DeviceMoved, match=r"new\.db"):
        open_device(alice.url())
    open_device(alice.url(), read_only=True).close()
    copy_device(f"sqlite:{tmp_path}/new.db", alice.url(), overwrite=True)
    open_device(alice.url()).close()
    assert names(tmp_path) == ["client.db", "new.db"]


def test_a_disk_that_is_full_changes_nothing(
    alice: SqliteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that failed would be half there, or later ones would build on it."""
    before = alice.dump()
    with open_device(alice.url()) as device:
        store = device._store
        db = store._owned["default"].db  # type: ignore[attr-defined]

        def full() -> None:
            raise apsw.FullError("database or disk is full")

        monkeypatch.setattr(db, "commit", full)
        for _ in range(2):
            with pytest.raises(CommitFailed):
                device.set({"session": dict.fromkeys(device.ids("session"))})
            monkeypatch.undo()
    assert alice.dump() == before
    assert issubclass(StoreUnreadable, StoreDamaged)
