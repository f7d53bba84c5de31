"""What holds for the whatsmeow store on SQLite and on PostgreSQL alike."""

from __future__ import annotations

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
    InvalidValue,
    NoDevice,
    StoreDamaged,
    UnsupportedVersion,
    copy_device,
    open_device,
    open_store,
    verify_device,
)
from ratchetkeep.model import FAMILIES
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


class WhatsmeowBase:
    """A subclass says what ``database`` and ``other`` are: places where nothing is yet."""

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


class WhatsmeowCases(WhatsmeowBase):
    """The schema, its versions, whole devices."""

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
                held = was.get(family, was.ids(family))
                # Baileys' state of a collection that it has not fetched says nothing.
                held = {id: each for id, each in held.items() if getattr(each, "version", 1)}
                assert held and now.get(family, was.ids(family)) == held

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
