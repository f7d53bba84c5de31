"""Contract tests of stores that hold several devices."""
# ruff: noqa: S101

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ratchetkeep import DeviceExists, DeviceStore, NoDevice, StoreInUse

from ._hooks import Hooks, contents, needs


class ManyDevicesTests(Hooks):
    """Devices beside each other in one place."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[DeviceStore]:
        """A store without devices."""
        with self.open_store(url) as store:
            yield store

    @needs("many_devices")
    def test_devices_do_not_see_each_other(self, store: DeviceStore) -> None:
        """One device would read, overwrite or clear another one's records."""
        with store.create("a") as first, store.create("b") as second:
            assert first.credentials != second.credentials
            kept = self.fill(first, 2)
            second.set({"lid-mapping": {"only": "second"}, "session": dict.fromkeys(["1.1"])})
            second.clear()
            assert contents(first) == kept
            assert not any(contents(second).values())
            before = first.credentials
        with store.open("a") as again:
            assert contents(again) == kept
            assert again.credentials == before

    @needs("many_devices")
    def test_devices_are_listed(self, store: DeviceStore) -> None:
        """A device could not be found, or one that was refused would be listed."""
        assert store.devices() == []
        for name in ("b", "Zoë 🐚", "a"):
            store.create(name).close()
        with pytest.raises(NoDevice):
            store.open("missing")
        with pytest.raises(NoDevice):
            store.remove("missing")
        assert store.devices() == sorted(["b", "Zoë 🐚", "a"])

    @needs("many_devices")
    def test_a_device_is_not_created_twice(self, store: DeviceStore) -> None:
        """create() would hand out a device that another part of the program owns."""
        store.create("a").close()
        with pytest.raises(DeviceExists):
            store.create("a")

    @needs("many_devices")
    def test_each_device_is_open_once(self, store: DeviceStore, url: str) -> None:
        """Two owners of one device in one process, or one device keeping out all others."""
        with store.create("a") as first, store.create("b") as second:
            for name in ("a", "b"):
                with pytest.raises(StoreInUse):
                    store.open(name)
            with self.open_store(url) as other:
                with pytest.raises(StoreInUse):
                    other.open("a")
                other.create("c").close()
            first.set({"lid-mapping": {"1": "a"}})
            second.set({"lid-mapping": {"1": "b"}})
            first.close()
            second.set({"lid-mapping": {"2": "b"}})
            with store.open("a") as again:
                assert contents(again)["lid-mapping"] == {"1": "a"}
            assert contents(second)["lid-mapping"] == {"1": "b", "2": "b"}

    @needs("many_devices")
    def test_a_reader_does_not_stand_in_the_way_of_its_own_store(self, store: DeviceStore) -> None:
        """Opening a device for reading would take the right to write from its open owner."""
        with store.create("a") as owner:
            try:
                peek = store.open("a", read_only=True)
            except StoreInUse:
                peek = None
            owner.set({"lid-mapping": {"1": "2"}})
            assert contents(owner)["lid-mapping"] == {"1": "2"}
            if peek is not None:
                peek.close()
            owner.set({"lid-mapping": {"3": "4"}})
            assert owner.ids("lid-mapping") == ["1", "3"]

    @needs("many_devices")
    def test_a_removed_device_is_gone(self, store: DeviceStore, url: str) -> None:
        """Removing would leave keys behind, or touch another device."""
        with store.create("a") as first:
            self.fill(first, 1)
            with pytest.raises(StoreInUse):
                store.remove("a")
        with store.create("b") as second:
            kept = self.fill(second, 1)
            store.remove("a")
            assert store.devices() == ["b"]
            with pytest.raises(NoDevice):
                store.open("a")
            assert contents(second) == kept
            with store.create("a") as again:
                assert not any(contents(again).values())
        with self.open_store(url) as other:
            assert other.devices() == ["a", "b"]

    @needs("many_devices")
    def test_a_place_with_no_device_left_is_no_trace_of_one(
        self, store: DeviceStore, url: str
    ) -> None:
        """After removing the last device, no new one could be made."""
        store.create("a").close()
        store.remove("a")
        assert store.devices() == []
        with self.open(url, create=True) as device:
            assert not any(contents(device).values())
