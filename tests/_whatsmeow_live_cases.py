"""What holds for devices of the whatsmeow store that are open, on both databases alike."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from _helpers import ALICE
from _whatsmeow import (
    ALICE_JID,
    BOB_JID,
    OWN_ROWS,
    Database,
    put_own_rows,
)
from _whatsmeow_cases import STRANGER, WhatsmeowBase, contents, elsewhere, one_row
from ratchetkeep import (
    CopySummary,
    EncodedRecord,
    InvalidValue,
    NoDevice,
    NotHeld,
    ReadOnly,
    StoreDamaged,
    StoreInUse,
    copy_device,
    open_device,
)
from ratchetkeep.model import KeyPair, TcToken
from ratchetkeep.stores import _whatsmeow_rows, urls


def members_lost(copied: CopySummary) -> dict[str, str]:
    """What becomes of members of the credentials that the target makes again."""
    lost = [each for each in copied.not_held if each.family == "credentials" and each.derived]
    return {each.member: each.what for each in lost}


class WhatsmeowLiveCases(WhatsmeowBase):
    """Devices that are read and written, and their owners."""

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

    def test_a_pre_key_below_one_that_was_given_out_is_not_uploaded(self, alice: Database) -> None:
        """Pre-keys that are used up or given out already would be uploaded once more, and the
        first message of a contact could not be read."""
        alice.run("DELETE FROM whatsmeow_pre_keys WHERE key_id > 3")
        for ids, uploaded in (((4, 5, 7), False), ((6,), True)):
            for id in ids:
                row = (ALICE_JID, id, bytes([id]) * 32, uploaded)
                alice.run("INSERT INTO whatsmeow_pre_keys VALUES (?, ?, ?, ?)", *row)
        with open_device(alice.url()) as device:
            assert device.credentials.first_unuploaded_pre_key_id == 7
            assert device.credentials.next_pre_key_id == 8
            assert list(device.unuploaded_pre_keys()) == [7]
        alice.run("DELETE FROM whatsmeow_pre_keys WHERE key_id = 7")
        with open_device(alice.url()) as device:
            assert device.credentials.first_unuploaded_pre_key_id == 7

    def test_pre_keys_that_are_counted_anew_are_told(
        self, database: Database, tmp_path: Path
    ) -> None:
        """An id would stand for two pre-keys, and nobody would know why a contact's message cannot
        be read."""
        url = f"sqlite:{tmp_path}/source.db"
        copy_device(f"baileys:{ALICE}", url)
        assert "next_pre_key_id" not in members_lost(copy_device(url, "memory:", dry_run=True))
        assert "next_pre_key_id" not in members_lost(copy_device(url, database.url()))
        with open_device(url) as device:
            following = device.credentials.next_pre_key_id
            used = [str(id) for id in range(following - 5, following)]
            device.set({"pre-key": dict.fromkeys([*used, str(2**24 + 5)])})
        for dry_run in (True, False):
            copied = copy_device(url, database.url(), overwrite=True, dry_run=dry_run)
            what = members_lost(copied)["next_pre_key_id"]
            assert f"ids from {following - 5} to {following - 1} " in what
        with open_device(database.url()) as device:
            assert device.credentials.next_pre_key_id == following - 5

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

        def counted(statement: str, values: Any = ()) -> Any:
            asked.append(statement)
            return rows(statement, values)

        db.rows = counted
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
