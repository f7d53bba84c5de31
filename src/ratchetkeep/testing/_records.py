"""Contract tests: what is set is got, what is refused leaves nothing, and opening and closing."""
# ruff: noqa: S101

from __future__ import annotations

import uuid
from typing import Any

import pytest

from ratchetkeep import (
    Device,
    EncodedRecord,
    InvalidValue,
    NoDevice,
    NotHeld,
    StoreClosed,
    copy_device,
    open_device,
)
from ratchetkeep.model import FAMILIES, Credentials, KeyPair, SessionRecord

from ._hooks import Hooks, contents, leaked
from ._samples import paired, record_id, some_bytes, some_pair

PRE_KEYS = 812

ODD_IDS = (
    "a:b", "a-b", "a/b", "a__b", "a::b::3", "a--b--3", "memory-x", "..", "../../x", "C:\\x",
    "caf\u00e9", "cafe\u0301", "\u6587\u5b57", "\U0001f41a", "\u202eabc", "\ufeff", " ", "a b",
    "a\nb", "a%2Fb", "a.json", "a.etf", "a.tmp-1", "a.etf.tmp-1", "__index", "creds", "*?|",
    "x" * 200, "\U0001f41a" * 256,
)  # fmt: skip


class RecordTests(Hooks):
    """Values, commits, opening and closing."""

    def test_absent_ids_are_left_out(self, device: Device) -> None:
        """A record that is not there would look as if it were."""
        device.set({"lid-mapping": {"1": "2"}})
        assert device.get("lid-mapping", ["0", "1", "1", "3"]) == {"1": "2"}
        assert device.get("session", ["1"]) == {}
        assert device.get("session", []) == {}

    @pytest.mark.parametrize("family", FAMILIES)
    def test_every_family_comes_back_after_reopening(
        self, device: Device, url: str, family: str
    ) -> None:
        """A record would change, or turn into another type, on its way to the disk and back."""
        stored = {record_id(family, n): self.value(family, n, device) for n in range(3)}
        device.set({family: stored})
        live = device.get(family, stored)
        with self.reopen(device, url) as again:
            read = again.get(family, stored)
            assert read == live == stored
            assert [type(v) for v in read.values()] == [type(v) for v in live.values()]
            assert again.ids(family) == sorted(stored)

    def test_credentials_come_back_after_reopening(self, device: Device, url: str) -> None:
        """A member of the credentials would be lost: the device would have to pair again."""
        saved = paired(device.credentials, self.holds)
        device.save_credentials(saved)
        assert device.credentials == saved
        with self.reopen(device, url) as again:
            assert again.credentials == saved

    def test_a_value_is_replaced(self, device: Device, url: str) -> None:
        """An old ratchet would come back: the peer answers "Bad MAC"."""
        for number in range(3):
            device.set({"session": {"1.0": self.value("session", number, device)}})
        last = self.value("session", 2, device)
        assert device.get("session", ["1.0"]) == {"1.0": last}
        with self.reopen(device, url) as again:
            assert again.get("session", ["1.0"]) == {"1.0": last}

    def test_none_deletes(self, device: Device, url: str) -> None:
        """A consumed pre-key would come back."""
        device.set({"pre-key": {"1": some_pair("a", 1), "2": some_pair("a", 2)}})
        device.set({"pre-key": {"1": None, "77": None}})
        assert device.get("pre-key", ["1", "2"]).keys() == {"2"}
        assert device.ids("pre-key") == ["2"]
        with self.reopen(device, url) as again:
            assert again.get("pre-key", ["1", "2"]).keys() == {"2"}
            assert again.ids("pre-key") == ["2"]

    def test_one_message_is_one_commit(self, device: Device, url: str) -> None:
        """A session and the pre-key that it consumed, or the credentials, would part."""
        device.set({"pre-key": {"7": some_pair("a", 7)}})
        session = self.value("session", 1, device)
        identity = some_pair("identity", 1, typed=True).public
        saved = paired(device.credentials, self.holds)
        with device.transaction("1.0") as transaction:
            transaction.set({"session": {"1.0": session}, "pre-key": {"7": None}})
            transaction.set({"identity-key": {"1.0": identity}})
            transaction.save_credentials(saved)
        with self.reopen(device, url) as again:
            assert again.get("session", ["1.0"]) == {"1.0": session}
            assert again.get("identity-key", ["1.0"]) == {"1.0": identity}
            assert again.ids("pre-key") == []
            assert again.credentials == saved

    def test_a_large_commit(self, device: Device, url: str) -> None:
        """Pairing uploads 812 pre-keys at once; some would be missing."""
        pre_keys = {str(n): some_pair("many", n) for n in range(1, PRE_KEYS + 1)}
        saved = device.credentials.replace(next_pre_key_id=PRE_KEYS + 1)
        with device.transaction():
            device.set({"pre-key": pre_keys})
            device.save_credentials(saved)
        with self.reopen(device, url) as again:
            assert again.get("pre-key", pre_keys) == pre_keys
            assert again.credentials == saved

    def test_what_the_caller_holds_is_not_what_is_stored(self, device: Device) -> None:
        """Changing a dict after it was stored would change what is read, but not the disk."""
        mine = {"1.0": True}
        devices = ["0"]
        device.set({"sender-key-memory": {"g": mine}, "device-list": {"1": devices}})
        mine["2.0"] = True
        devices.append("1")
        assert device.get("sender-key-memory", ["g"]) == {"g": {"1.0": True}}
        assert device.get("device-list", ["1"]) == {"1": ("0",)}

    def test_clear_keeps_the_credentials(self, device: Device, url: str) -> None:
        """Clearing the records would unpair the device, or leave some of them."""
        self.fill(device)
        before = device.credentials
        device.clear()
        assert not any(contents(device).values())
        with self.reopen(device, url) as again:
            assert not any(contents(again).values())
            assert again.credentials == before

    @pytest.mark.parametrize(
        ("records", "place"),
        [
            ({"session": {"1.0": {}}}, "session 1.0"),
            ({"identity-key": {"1.0": some_bytes("secret", 0, 31)}}, "identity-key 1.0"),
            ({"device-list": {"1": ["0", some_bytes("secret", 0)]}}, "device-list 1[1]"),
            ({"sender-key-memory": {"g": {"1.0": some_bytes("secret", 0)}}}, "g[0]"),
            ({"pre-key": {"one": some_pair("secret", 0)}}, "pre-key"),
            ({"lid-mapping": {"": "1"}}, "lid-mapping"),
            ({"lid-mapping": {7: "1"}}, "lid-mapping"),
            ({"lid-mapping": {"\ud800": "1"}}, "lid-mapping"),
            ({"lid-mapping": {"x" * 1025: "1"}}, "lid-mapping"),
            ({"no-family": {"1": "1"}}, "no-family"),
            ({"session": SessionRecord()}, "session"),
        ],
    )
    def test_wrong_values_are_refused(
        self, device: Device, url: str, records: Any, place: str
    ) -> None:
        """A wrong value would be stored, or an error would show key material."""
        good: dict[str, Any] = {"lid-mapping": {"1": "2"}}
        with pytest.raises(InvalidValue) as caught:
            device.set({**good, **records})
        assert place in caught.value.place
        secrets = (some_bytes("secret", 0), some_bytes("secret", 0, 31))
        assert leaked(caught.value, *secrets, some_pair("secret", 0).private) == []
        with self.reopen(device, url) as again:
            assert not any(contents(again).values())

    def test_a_value_that_has_no_place_stores_nothing_at_all(
        self, device: Device, url: str
    ) -> None:
        """Of a commit with one record that the format cannot hold, the others would be stored."""
        odd = EncodedRecord(encoding="an encoding of nobody", data=some_bytes("odd", 0))
        new: dict[str, Any] = {f"{n}.0": self.value("session", n, device) for n in range(5)}
        before = device.credentials
        try:
            with device.transaction() as transaction:
                transaction.save_credentials(paired(before, self.holds))
                transaction.set({"session": {**new, "9.0": odd}})
        except NotHeld as error:
            assert "9.0" in error.place
            assert leaked(error, odd.data) == []
            expected: dict[str, Any] = {}
            assert device.credentials == before
        else:
            expected = {**new, "9.0": odd}
        assert device.get("session", [*new, "9.0"]) == expected
        with self.reopen(device, url) as again:
            assert contents(again)["session"] == expected
            assert (again.credentials == before) is (not expected)

    @pytest.mark.parametrize("family", ["session", "sender-key", "app-state-sync-key", "tctoken"])
    def test_odd_ids_come_back_or_are_refused(self, device: Device, url: str, family: str) -> None:
        """An id would vanish, come back as another one, or replace another one's record."""
        held = {}
        for number, id in enumerate(ODD_IDS):
            value = self.value(family, number, device)
            try:
                device.set({family: {id: value}})
            except (InvalidValue, NotHeld) as error:
                assert str(error)
                assert device.get(family, [id]) == {}
            else:
                held[id] = value
        assert held
        with self.reopen(device, url) as again:
            assert again.ids(family) == sorted(held)
            assert again.get(family, ODD_IDS) == held

    def test_copying_there_and_back_loses_nothing(self, device: Device, url: str) -> None:
        """Moving a device into this store and on to another would change it."""
        source, back = f"memory:{uuid.uuid4()}", f"memory:{uuid.uuid4()}"
        with open_device(source, create=True) as first:
            first.save_credentials(paired(first.credentials, self.holds))
            records, credentials = self.fill(first), first.credentials
        device.close()
        copy_device(source, url, overwrite=True)
        copy_device(url, back)
        with open_device(back) as last:
            assert contents(last) == records
            assert last.credentials == credentials

    def test_create_returns_the_device_that_is_there(self, device: Device, url: str) -> None:
        """New credentials would be minted over a paired device's."""
        before = device.credentials
        records = self.fill(device, 1)
        device.close()
        with self.open(url, create=True) as again:
            assert again.credentials == before
            assert contents(again) == records

    def test_created_credentials_are_stored_before_anything_else(self, url: str) -> None:
        """A device would pair with keys that a crash forgets."""
        with self.open(url, create=True) as device, self.open(url, read_only=True) as peek:
            assert isinstance(device.credentials, Credentials)
            assert peek.credentials == device.credentials

    def test_nothing_there_is_said_so(self, url: str) -> None:
        """An empty place would be opened as a device, or an attempt would leave traces."""
        for read_only in (False, True, False):
            with pytest.raises(NoDevice):
                self.open(url, read_only=read_only)
        with self.open(url, create=True) as device:
            assert not any(contents(device).values())

    def test_closing_twice_is_fine(self, device: Device, url: str) -> None:
        """The second close would fail, or take the place from the next owner."""
        device.close()
        with self.open(url) as again:
            device.close()
            again.set({"lid-mapping": {"1": "2"}})

    def test_use_after_close_is_refused(self, device: Device) -> None:
        """A closed device would answer from memory, or write without owning the place."""
        device.set({"lid-mapping": {"1": "2"}})
        credentials = device.credentials
        with device.transaction() as transaction:
            device.close()
            with pytest.raises(StoreClosed):
                transaction.set({"lid-mapping": {"1": "3"}})
            with pytest.raises(StoreClosed):
                transaction.get("lid-mapping", ["1"])
        uses = (
            lambda: device.get("lid-mapping", ["1"]),
            lambda: device.set({"lid-mapping": {"1": "3"}}),
            lambda: device.ids("lid-mapping"),
            lambda: device.credentials,
            lambda: device.save_credentials(credentials),
            lambda: device.clear(),
            lambda: device.transaction().__enter__(),
        )
        for use in uses:
            with pytest.raises(StoreClosed):
                use()

    def test_a_new_pair_can_be_stored_at_once(self, device: Device, url: str) -> None:
        """Pre-keys that a client mints itself would not come back matched."""
        pair = KeyPair.new()
        device.set({"pre-key": {"1": pair}})
        with self.reopen(device, url) as again:
            assert again.get("pre-key", ["1"])["1"] == pair
