"""What holds for the whatsmeow store on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from _helpers import ALICE, private_copy
from _whatsmeow import (
    ALICE_JID,
    BOB_JID,
    OWN_ROWS,
    SECONDS,
    Database,
    expected_row,
    put_alice,
    put_bob,
    put_own_rows,
)
from ratchetkeep import (
    DeviceExists,
    EncodedRecord,
    InvalidValue,
    NoDevice,
    NotHeld,
    ReadOnly,
    StoreDamaged,
    StoreInUse,
    UnsupportedVersion,
    copy_device,
    open_device,
    open_store,
    verify_device,
)
from ratchetkeep.model import FAMILIES, KeyPair, TcToken
from ratchetkeep.stores import _whatsmeow_rows, urls
from ratchetkeep.stores import _whatsmeow_schema as schema

HELD = [name for name in FAMILIES if name not in ("device-list", "sender-key-memory")]
NEWER = range(schema.OLDEST, schema.LATEST)
# A row of a made-up device, in the order of the columns of the oldest version.
STRANGER = "4477001122:9@s.whatsapp.net"


def contents(url: str) -> dict[str, Any]:
    """All records of a device, with its credentials."""
    with open_device(url, read_only=True) as device:
        found: dict[str, Any] = {name: device.get(name, device.ids(name)) for name in HELD}
        return {**found, "credentials": device.credentials}


def elsewhere(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in another process."""
    text = f"from ratchetkeep import *\n{code}"
    return subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=SECONDS
    )


def one_row(database: Database, jid: str) -> dict[str, Any]:
    """A device's row, by column."""
    names = database.columns("whatsmeow_device")
    rows = database.run(f"SELECT {', '.join(names)} FROM whatsmeow_device WHERE jid = ?", jid)
    assert len(rows) == 1
    return dict(zip(names, rows[0], strict=True))


class WhatsmeowCases:
    """The cases; a subclass says what ``database`` is: a place where nothing is yet."""

    @pytest.fixture
    def database(self, tmp_path: Path) -> Database:
        raise NotImplementedError

    @pytest.fixture
    def alice(self, database: Database) -> Database:
        """A database with one device."""
        put_alice(database)
        return database

    @pytest.fixture
    def both(self, alice: Database) -> Database:
        """A database with two devices."""
        put_bob(alice)
        return alice

    # -- the schema and the real library

    def test_the_schema_is_the_real_one(self, database: Database, other: Database) -> None:
        """whatsmeow would find tables that are not its own: it would fail, or keep less."""
        assert other.neonize() == []  # it makes the tables
        database.make()
        assert database.described() == other.described()
        assert database.run("SELECT * FROM whatsmeow_version") == [(15, 8)]

    def test_the_real_library_reads_what_we_wrote(self, alice: Database) -> None:
        """The device would not be known to its new client, or under other keys: lost."""
        described = alice.described()
        assert alice.neonize() == [[ALICE_JID, "Alice Müller 🦊"]]
        assert one_row(alice, ALICE_JID) == expected_row(ALICE)
        assert alice.described() == described  # nothing to upgrade

    def test_a_database_of_the_real_library_is_extended(self, database: Database) -> None:
        """A device could not be put beside those that a client has already."""
        assert database.neonize() == []
        before = database.described()
        put_alice(database)
        put_bob(database)
        assert database.described() == before
        assert [jid for jid, _ in database.neonize()] == [BOB_JID, ALICE_JID]

    def test_a_device_comes_back(self, alice: Database, other: Database) -> None:
        """A copy from whatsmeow would lose or change records."""
        assert verify_device(alice.url()) == []
        copied = copy_device(alice.url(), other.url())
        assert copied.not_held == ()
        assert other.dump() == alice.dump()
        assert contents(other.url()) == contents(alice.url())
        counts = {table: len(rows) for table, rows in alice.dump().items()}
        assert counts["whatsmeow_sessions"] == copied.records["session"] == 27
        assert counts["whatsmeow_pre_keys"] == copied.records["pre-key"] == 99
        assert counts["whatsmeow_lid_map"] * 2 == copied.records["lid-mapping"] == 4

    def test_a_device_goes_back_to_baileys(self, alice: Database, tmp_path: Path) -> None:
        """The way back would be closed, or the identity would change on it."""
        copy_device(alice.url(), f"baileys:{tmp_path}/back")
        assert verify_device(f"baileys:{tmp_path}/back") == []
        with (
            open_device(f"baileys:{private_copy(ALICE, tmp_path / 'alice')}") as was,
            open_device(f"baileys:{tmp_path}/back") as now,
        ):
            for member in ("noise_key", "signed_identity_key", "signed_pre_key", "account"):
                assert getattr(now.credentials, member) == getattr(was.credentials, member)
            for family in ("pre-key", "identity-key", "lid-mapping", "app-state-sync-version"):
                ids = was.ids(family)
                assert now.get(family, ids) == was.get(family, ids)

    def test_columns_that_only_whatsmeow_has_are_kept(
        self, alice: Database, other: Database
    ) -> None:
        """What whatsmeow knows about the device would be lost between two of its databases."""
        own = {
            "facebook_uuid": "12345678-1234-5678-9abc-123456789abc",
            "business_name": "Zoë's",
            "lid_migration_ts": 1763600000,
            "companion_meta_nonce": "nonce",
        }
        for column, value in own.items():
            alice.run(f"UPDATE whatsmeow_device SET {column} = ?", value)
        copy_device(alice.url(), other.url())
        row = one_row(other, ALICE_JID)
        assert {column: str(row[column]) for column in own} == {
            column: str(value) for column, value in own.items()
        }
        assert other.neonize() == alice.neonize()

    # -- versions

    @pytest.mark.parametrize("version", NEWER)
    def test_older_versions_are_read_and_written(
        self, database: Database, other: Database, version: int
    ) -> None:
        """A database that was not upgraded yet could not be used, or we would change its schema."""
        database.make(version)
        before = database.described()
        put_alice(database)
        assert database.described() == before
        assert database.run("SELECT * FROM whatsmeow_version") == [(version, 8)]
        assert verify_device(database.url()) == []
        copy_device(database.url(), other.url())
        assert len(contents(other.url())["session"]) == 27
        assert database.neonize() == other.neonize()  # which upgrades it
        assert database.run("SELECT version FROM whatsmeow_version") == [(15,)]

    def test_what_an_older_version_has_no_column_for_is_reported(
        self, alice: Database, other: Database
    ) -> None:
        """Something would be dropped without a word."""
        alice.run("UPDATE whatsmeow_device SET companion_meta_nonce = 'n', lid_migration_ts = 5")
        alice.run("UPDATE whatsmeow_privacy_tokens SET sender_timestamp = 7")
        other.make(schema.OLDEST)
        lost = copy_device(alice.url(), other.url()).not_held
        assert {(each.family, each.member, each.count) for each in lost} == {
            ("credentials", "companion_meta_nonce", 1),
            ("credentials", "lid_migration_ts", 1),
            ("tctoken", "sender_timestamp", 2),
        }
        assert len(other.run("SELECT * FROM whatsmeow_privacy_tokens")) == 2

    def test_a_newer_compatible_version_is_used(self, alice: Database) -> None:
        """The store would be useless with the first release of whatsmeow after ours."""
        alice.run("ALTER TABLE whatsmeow_device ADD COLUMN tomorrow TEXT NOT NULL DEFAULT 'x'")
        alice.run("CREATE TABLE whatsmeow_tomorrow (our_jid TEXT, what TEXT)")
        alice.run("INSERT INTO whatsmeow_tomorrow VALUES (?, 'kept')", ALICE_JID)
        alice.run("UPDATE whatsmeow_version SET version = 16, compat = 9")
        put_bob(alice)
        with open_device(alice.url(ALICE_JID)) as device:
            device.save_credentials(device.credentials.replace(platform="android"))
        row = one_row(alice, ALICE_JID)
        assert (row["tomorrow"], row["platform"]) == ("x", "android")
        assert alice.run("SELECT what FROM whatsmeow_tomorrow") == [("kept",)]

    @pytest.mark.parametrize(("version", "compatible"), [(16, 16), (7, 7), (7, 6), (99, 40)])
    def test_other_versions_are_refused(
        self, alice: Database, version: int, compatible: int
    ) -> None:
        """We would read or write tables whose meaning we do not know."""
        alice.run("UPDATE whatsmeow_version SET version = ?, compat = ?", version, compatible)
        before = alice.dump()
        with pytest.raises(UnsupportedVersion, match=f"version {version}"):
            open_device(alice.url())
        assert [each.severity for each in verify_device(alice.url())] == ["error"]
        with pytest.raises(UnsupportedVersion):
            put_bob(alice)
        assert alice.dump() == before

    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM whatsmeow_version",
            "INSERT INTO whatsmeow_version VALUES (14, 8)",
            "UPDATE whatsmeow_version SET version = NULL, compat = NULL",
            "DROP TABLE whatsmeow_version",
            "DROP TABLE whatsmeow_sessions",
            "ALTER TABLE whatsmeow_pre_keys RENAME COLUMN uploaded TO sent",
        ],
    )
    def test_a_broken_schema_is_damage(self, alice: Database, statement: str) -> None:
        """A broken database would be read as one that holds less."""
        alice.run(statement)
        with pytest.raises(StoreDamaged, match="whatsmeow_"):
            open_device(alice.url(ALICE_JID))
        with pytest.raises(StoreDamaged):
            put_bob(alice)

    # -- several devices

    def test_devices_are_named_by_jid(self, both: Database) -> None:
        """A command would take any of several devices, or not say how to choose."""
        with open_store(both.url()) as store:
            assert store.devices() == sorted([ALICE_JID, BOB_JID])
        with pytest.raises(NoDevice) as refused:
            open_device(both.url())
        assert f"?jid={ALICE_JID}, ?jid={BOB_JID}" in refused.value.remedy or (
            f"?jid={BOB_JID}, ?jid={ALICE_JID}" in refused.value.remedy
        )
        for jid in (ALICE_JID, BOB_JID):
            with open_device(both.url(jid), read_only=True) as device:
                assert device.credentials.me is not None
                assert device.credentials.me.id == jid
        with pytest.raises(NoDevice, match="holds no device '1@"):
            open_device(both.url("1@s.whatsapp.net"))

    def test_devices_do_not_touch_each_other(self, both: Database) -> None:
        """Work on one device would change another one."""
        put_own_rows(both, BOB_JID)
        others = both.dump(but=ALICE_JID)
        with open_device(both.url(ALICE_JID)) as device:
            device.set({name: dict.fromkeys(device.ids(name)) for name in HELD[:-3]})
            device.set({"session": dict.fromkeys(device.ids("session"))})
        assert both.dump(but=ALICE_JID) == {
            **others,
            schema.LID_TABLE: both.dump()[schema.LID_TABLE],
        }

    def test_a_copy_may_replace_its_own_device_alone(self, both: Database) -> None:
        """Overwriting would mix two states of a device, or harm another one."""
        put_own_rows(both, ALICE_JID)
        put_own_rows(both, BOB_JID)
        before = both.dump()
        both.run("INSERT INTO whatsmeow_pre_keys VALUES (?, 9000, ?, true)", ALICE_JID, b"k" * 32)
        token = ("gone@lid", b"t", 1, None)
        both.run("INSERT INTO whatsmeow_privacy_tokens VALUES (?, ?, ?, ?, ?)", ALICE_JID, *token)
        with pytest.raises(DeviceExists, match=ALICE_JID):
            put_alice(both)
        for place in (both.url(), both.url(ALICE_JID)):
            copy_device(f"baileys:{ALICE}", place, overwrite=True)
        after = both.dump()
        for table in OWN_ROWS:
            assert [row[0] for row in after.pop(table)] == [BOB_JID]
            before.pop(table)
        assert after == before

    def test_a_dry_run_tells_of_a_device_that_is_there(self, alice: Database) -> None:
        """The plan would be fine, and the copy would fail."""
        with pytest.raises(DeviceExists, match=ALICE_JID):
            copy_device(f"baileys:{ALICE}", alice.url(), dry_run=True)
        assert copy_device(f"baileys:{ALICE}", alice.url(), overwrite=True, dry_run=True).total

    def test_a_device_keeps_its_own_jid(self, both: Database) -> None:
        """whatsmeow would open the device under a JID that its keys are not of."""
        before = both.dump()
        for place in (both.url(BOB_JID), both.url("1@s.whatsapp.net")):
            with pytest.raises(InvalidValue, match=ALICE_JID):
                copy_device(f"baileys:{ALICE}", place, overwrite=True)
        with open_device(both.url(BOB_JID)) as device:
            me = device.credentials.me
            assert me is not None
            with pytest.raises(InvalidValue, match="another device"):
                device.save_credentials(device.credentials.replace(me=me.replace(id=ALICE_JID)))
        assert both.dump() == before

    def test_a_removed_device_is_gone(self, both: Database) -> None:
        """Removing would leave keys behind, or touch the other device or what both share."""
        put_own_rows(both, ALICE_JID)
        others = both.dump(but=ALICE_JID)
        with open_store(both.url()) as store:
            store.remove(ALICE_JID)
            assert store.devices() == [BOB_JID]
        assert both.dump() == others
        assert len(others[schema.LID_TABLE]) >= 2
        assert [jid for jid, _ in both.neonize()] == [BOB_JID]

    # -- a device that is open

    def test_a_device_is_written(self, alice: Database) -> None:
        """What an application stores would not be there after a restart."""
        before = contents(alice.url())
        pair, token = KeyPair.new(), TcToken(token=b"t", timestamp="1763600000")
        session = EncodedRecord(
            encoding="go-json", data=next(iter(before["session"].values())).data
        )
        new: dict[str, dict[str, Any]] = {
            "pre-key": {"900": pair},
            "session": {"4477001122.3": session, "4477001122_1.0": session},
            "lid-mapping": {"4477001122": "99887", "99887_reverse": "4477001122"},
            "tctoken": {"4477001122@s.whatsapp.net": token},
            "identity-key": {"4477001122.3": b"\x05" + b"i" * 32},
        }
        with open_device(alice.url()) as device:
            device.set(new)
            device.set({"sender-key": dict.fromkeys(device.ids("sender-key"))})
        after = contents(alice.url())
        assert after["sender-key"] == {}
        for family, records in new.items():
            assert after[family] == before[family] | records
        assert after["credentials"].next_pre_key_id == 901
        ((row,),) = alice.run(
            "SELECT session FROM whatsmeow_sessions WHERE their_id = '4477001122_1:0'"
        )
        assert row == session.data

    def test_pre_keys_are_counted_as_whatsmeow_counts_them(self, alice: Database) -> None:
        """A pre-key would be minted twice, or one that was given out would be uploaded again."""
        with open_device(alice.url()) as device:
            start = device.credentials.next_pre_key_id
            device.mint_pre_keys(5)
            waiting = sorted(device.unuploaded_pre_keys())
            device.mark_pre_keys_uploaded(start + 1)
        assert waiting[-5:] == list(range(start, start + 5))
        rows = alice.run("SELECT key_id FROM whatsmeow_pre_keys WHERE NOT uploaded ORDER BY 1")
        assert rows == [(id,) for id in range(start + 2, start + 5)]
        with open_device(alice.url()) as device:
            assert device.credentials.next_pre_key_id == start + 5
            assert device.credentials.first_unuploaded_pre_key_id == start + 2
            device.set({"pre-key": dict.fromkeys(device.ids("pre-key"))})
        with open_device(alice.url()) as device:
            assert device.credentials.next_pre_key_id == 1

    def test_a_state_of_app_data_is_replaced_as_a_whole(self, alice: Database) -> None:
        """MACs of an older state would stay, and the client would find its state corrupt."""
        with open_device(alice.url()) as device:
            name = device.ids("app-state-sync-version")[0]
            state = device.get("app-state-sync-version", [name])[name]
            some = dict(list(state.index_value_map.items())[:1])
            new = state.replace(version=state.version + 1, index_value_map=some)
            device.set({"app-state-sync-version": {name: new}})
        assert contents(alice.url())["app-state-sync-version"][name] == new
        rows = alice.run(
            "SELECT version FROM whatsmeow_app_state_mutation_macs WHERE name = ?", name
        )
        assert rows == [(new.version,)] * len(some)

    def test_the_newest_of_a_mac_counts(self, alice: Database) -> None:
        """An old MAC would come back, and the next change would be refused by the client."""
        ((name, mac),) = alice.run(
            "SELECT name, index_mac FROM whatsmeow_app_state_mutation_macs "
            "ORDER BY name, index_mac LIMIT 1"
        )
        for version in (2**40, 2**41, 3):
            alice.run(
                "INSERT INTO whatsmeow_app_state_mutation_macs VALUES (?, ?, ?, ?, ?)",
                *(ALICE_JID, name, version, mac, str(version).rjust(32).encode()),
            )
        state = contents(alice.url())["app-state-sync-version"][name]
        macs = [each.value_mac for each in state.index_value_map.values()]
        assert str(2**41).rjust(32).encode() in macs

    def test_what_has_no_table_is_refused(self, alice: Database) -> None:
        """An application would believe that something is kept which is not."""
        before = alice.dump()
        with open_device(alice.url()) as device:
            session = next(iter(device.get("session", device.ids("session")).values()))
            for family, id, value in (
                ("sender-key-memory", "1@g.us", {"1.0": True}),
                ("session", "no address", session),
                ("session", "a:b.1", session),
                ("lid-mapping", "pn", "a@lid"),
                ("tctoken", "__index", TcToken(token=b"[]")),
                ("app-state-sync-key", "*", device.get("app-state-sync-key", ["AAAAAAsp"])),
            ):
                with pytest.raises((NotHeld, InvalidValue)):
                    device.set({family: {id: value}})
                assert device.get(family, [id]) == {}
            for family in ("device-list", "sender-key-memory"):
                device.set({family: dict.fromkeys(["1"])})
                assert device.ids(family) == []
        assert alice.dump() == before

    def test_a_device_that_is_not_paired_has_no_place(self, database: Database) -> None:
        """A device that whatsmeow cannot hold would be half there."""
        for url in (database.url(), database.url(ALICE_JID)):
            with pytest.raises(NotHeld, match="paired"):
                open_device(url, create=True)
        assert database.dump().get("whatsmeow_device", []) == []
        assert database.neonize() == []

    def test_a_device_is_created_with_its_credentials(
        self, alice: Database, other: Database
    ) -> None:
        """An adapter could not put a device that it has paired into whatsmeow's tables."""
        from ratchetkeep.device import create_device

        credentials = contents(alice.url())["credentials"]
        create_device(other.url(), credentials).close()
        assert other.neonize() == alice.neonize()
        assert one_row(other, ALICE_JID) == one_row(alice, ALICE_JID)

    # -- owners and readers

    def test_one_process_owns_a_device(self, both: Database) -> None:
        """Two processes would write one device and break its sessions."""
        url = both.url(ALICE_JID)
        with open_device(url) as device:
            with pytest.raises(StoreInUse):
                open_device(url)
            done = elsewhere(f"open_device({url!r})")
            assert "StoreInUse" in done.stderr
            assert f"process {os.getpid()}" in done.stderr
            read = f"print(len(open_device({url!r}, read_only=True).ids('session')))"
            assert elsewhere(read).stdout == "27\n", elsewhere(read).stderr
            with pytest.raises(StoreInUse):
                copy_device(f"baileys:{ALICE}", url, overwrite=True)
            device.set({"session": dict.fromkeys(device.ids("session")[:1])})
        assert elsewhere(f"open_device({url!r}).close()").returncode == 0

    def test_a_process_may_own_several_devices(self, both: Database) -> None:
        """An application with many accounts could open one alone."""
        with (
            open_device(both.url(ALICE_JID)) as alice,
            open_device(both.url(BOB_JID)) as bob,
        ):
            for device in (alice, bob):
                device.set({"session": dict.fromkeys(device.ids("session")[1:])})
        assert len(both.run("SELECT * FROM whatsmeow_sessions")) == 2

    def test_a_reader_writes_nothing(self, alice: Database) -> None:
        """Looking at a device would change it."""
        before = alice.dump()
        with open_device(alice.url(), read_only=True) as device, pytest.raises(ReadOnly):
            device.set({"session": dict.fromkeys(device.ids("session"))})
        assert alice.dump() == before

    def test_a_process_that_ends_leaves_no_owner(self, alice: Database) -> None:
        """A crashed program's device could not be opened any more."""
        code = f"d = open_device({alice.url()!r}); import os; os.kill(os.getpid(), 9)"
        assert elsewhere(code).returncode == -9
        with open_device(alice.url()) as device:
            assert len(device.ids("session")) == 27

    def test_a_forked_child_is_no_owner(self, alice: Database) -> None:
        """Parent and child would write through one connection."""
        done = elsewhere(
            "import os\n"
            f"device = open_device({alice.url()!r})\n"
            "store = device._store\n"
            "pid = os.fork()\n"
            "if pid == 0:\n"
            "    try: store.apply(store.prepare('default', {}, None))\n"
            "    except OwnershipLost: print('refused', flush=True)\n"
            "    store.close()\n"
            "    os._exit(0)\n"
            "os.waitpid(pid, 0)\n"
            "device.set({'session': dict.fromkeys(device.ids('session'))})\n"
            "device.close(); print('written')"
        )
        assert done.stdout == "refused\nwritten\n", done.stderr
        assert alice.run("SELECT * FROM whatsmeow_sessions") == []

    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_a_commit_is_whole_or_not_there(self, alice: Database, moment: str) -> None:
        """A crash would tear a commit: a session without the pre-key that it used up."""
        before = alice.dump()
        done = elsewhere(
            "import os\n"
            "from ratchetkeep.stores import _whatsmeow_owned as owned\n"
            f"device = open_device({alice.url()!r})\n"
            "db = device._store._owned['default'].db\n"
            "commit = db.commit\n"
            "def dying():\n"
            f"    {'commit()' if moment == 'after' else 'pass'}\n"
            "    os.kill(os.getpid(), 9)\n"
            "db.commit = dying\n"
            "device.set({name: dict.fromkeys(device.ids(name)) for name in ('session', 'pre-key')})"
        )
        assert done.returncode == -9, done.stderr
        with open_device(alice.url()) as device:
            left = [device.ids("session"), device.ids("pre-key")]
        assert left == [[], []] if moment == "after" else all(left)
        if moment == "before":
            assert alice.dump() == before
        assert alice.neonize() == [[ALICE_JID, "Alice Müller 🦊"]]

    def test_a_copy_that_is_killed_leaves_nothing(self, both: Database) -> None:
        """Half a device would be there, or the old one would be gone."""
        before = both.dump()
        done = elsewhere(
            "import os\n"
            "from ratchetkeep.stores import whatsmeow\n"
            "publish = whatsmeow._Stage.publish\n"
            "whatsmeow._Stage.publish = lambda self: os.kill(os.getpid(), 9)\n"
            f"copy_device('baileys:{ALICE}', {both.url()!r}, overwrite=True)"
        )
        assert done.returncode == -9, done.stderr
        with open_device(both.url(ALICE_JID)) as device:
            assert len(device.ids("session")) == 27
        assert both.dump() == before

    # -- reading

    def test_many_rows_are_read_in_pages(
        self, alice: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Rows at the border of a page would be read twice or never."""
        whole = contents(alice.url())
        for page in (1, 2, 3, 27):
            monkeypatch.setattr(_whatsmeow_rows, "PAGE", page)
            monkeypatch.setattr("ratchetkeep.stores.whatsmeow.PAGE", page)
            monkeypatch.setattr(_whatsmeow_rows, "MANY", page)
            assert contents(alice.url()) == whole

    def test_one_statement_reads_many(self, alice: Database) -> None:
        """Reading a device would ask the database once for each of 100,000 records."""
        target = urls.parse(alice.url())
        store: Any = urls.open_target(target)
        store.acquire("default", read_only=True, create=False)
        db = store._using("default")[0]
        asked: list[str] = []
        rows = db.rows
        db.rows = lambda statement, values=(): asked.append(statement) or rows(statement, values)
        keys = list(store.scan("default"))
        asked.clear()
        found = store.read("default", keys)
        store.close()
        assert len(found) == len(keys) > 150
        assert len(asked) <= 14

    def test_a_reader_sees_one_moment(self, alice: Database) -> None:
        """A copy would mix the states before and after a commit."""
        self.let_writers_work_beside_readers(alice)
        with open_device(alice.url(), read_only=True) as reader:
            assert len(reader.ids("session")) == 27
            alice.run("DELETE FROM whatsmeow_sessions")
            assert len(reader.ids("session")) == 27
            assert len(reader.get("session", reader.ids("session"))) == 27
        assert contents(alice.url())["session"] == {}

    def let_writers_work_beside_readers(self, database: Database) -> None:
        """Set the database so that readers and writers do not wait for each other."""

    def test_what_stays_behind_is_told(self, alice: Database) -> None:
        """A copy would leave things behind in silence."""
        put_own_rows(alice, ALICE_JID)
        alice.run("CREATE TABLE whatsmeow_tomorrow (our_jid TEXT, what TEXT)")
        alice.run("INSERT INTO whatsmeow_tomorrow VALUES (?, 'x')", ALICE_JID)
        store = urls.open_target(urls.parse(alice.url()))
        store.acquire("default", read_only=True, create=False)
        found = store.left_behind("default")
        store.close()
        assert {(each.table, each.rows) for each in found} == {
            (table, 1) for table in (*OWN_ROWS, "whatsmeow_tomorrow")
        }
        assert all(each.what for each in found)

    def test_outdated_mappings_do_not_stop_a_copy(self, database: Database, tmp_path: Path) -> None:
        """A contact whose number changed leaves half a mapping behind; with it, no copy would
        ever succeed, or the newer number would be lost."""
        url = f"sqlite:{tmp_path}/source.db"
        copy_device(f"baileys:{ALICE}", url)
        new = {"441": "77", "442": "77", "77_reverse": "442", "443": "88", "99_reverse": "443"}
        with open_device(url) as device:
            before = device.get("lid-mapping", device.ids("lid-mapping"))
            device.set({"lid-mapping": {**new, "88_reverse": "443"}})
        lost = copy_device(url, database.url()).not_held
        assert [(each.count, each.derived) for each in lost if each.family == "lid-mapping"] == [
            (2, True)
        ]
        del new["441"], new["99_reverse"]
        assert contents(database.url())["lid-mapping"] == {**before, **new, "88_reverse": "443"}

    def test_errors_name_the_row(self, alice: Database, tmp_path: Path) -> None:
        """Damage could not be found, or an error would show a key."""
        where = "4477001122:3"
        alice.run("INSERT INTO whatsmeow_sessions VALUES (?, ?, ?)", ALICE_JID, where, b"{secret}")
        with open_device(alice.url(), read_only=True) as device:
            with pytest.raises(StoreDamaged) as damaged:
                copy_device(alice.url(), f"baileys:{tmp_path}/back")
            assert len(device.ids("session")) == 28
        shown = f"{damaged.value}"
        assert "whatsmeow_sessions" in shown and "4477001122.3" in shown and ALICE_JID in shown
        assert "secret" not in shown

    def test_a_row_with_a_name_of_another_kind_is_damage(self, alice: Database) -> None:
        """A record would be dropped in silence because its name cannot be read."""
        alice.run("INSERT INTO whatsmeow_sessions VALUES (?, 'no address', ?)", ALICE_JID, b"{}")
        with (
            open_device(alice.url(), read_only=True) as device,
            pytest.raises(StoreDamaged, match="whatsmeow_sessions, row no address"),
        ):
            device.ids("session")
        with pytest.raises(StoreDamaged):
            copy_device(alice.url(), "memory:")

    def test_rows_without_a_device_are_a_trace(self, alice: Database, other: Database) -> None:
        """New credentials would be minted over what is left of a device."""
        other.make()
        token = (STRANGER, "1@lid", b"t", 1, None)
        other.run("INSERT INTO whatsmeow_privacy_tokens VALUES (?, ?, ?, ?, ?)", *token)
        with pytest.raises(StoreDamaged, match="1 rows of whatsmeow_privacy_tokens"):
            open_device(other.url(STRANGER), create=True)
        with pytest.raises(NoDevice):
            open_device(other.url(STRANGER))
