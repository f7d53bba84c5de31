"""Contract tests: transactions drop or keep everything, and threads do not undo one another."""
# ruff: noqa: S101

from __future__ import annotations

import threading

import pytest

from ratchetkeep import Device, InvalidValue

from ._hooks import PATIENCE, Hooks, contents, run_threads
from ._samples import paired


class Boom(BaseException):
    """What no code under test catches; a BaseException, as a cancelled task raises."""


class TransactionTests(Hooks):
    """Transactions of one device."""

    @pytest.mark.parametrize("kind", [ValueError, Boom])
    def test_an_exception_drops_everything(
        self, device: Device, url: str, kind: type[BaseException]
    ) -> None:
        """Half of a failed message would be kept."""
        records = self.fill(device, 1)
        before = device.credentials
        with pytest.raises(kind), device.transaction() as transaction:
            self.fill(device, 3)
            transaction.save_credentials(paired(before, self.holds))
            device.clear()
            device.set({"lid-mapping": {"1": "2"}})
            raise kind
        assert contents(device) == records
        assert device.credentials == before
        with self.reopen(device, url) as again:
            assert contents(again) == records
            assert again.credentials == before

    def test_a_transaction_reads_its_own_writes(self, device: Device) -> None:
        """A client would read the state from before its own change."""
        device.set({"lid-mapping": {"1": "a", "2": "b"}})
        saved = paired(device.credentials, self.holds)
        with device.transaction() as transaction:
            transaction.set({"lid-mapping": {"1": None, "3": "c"}})
            transaction.save_credentials(saved)
            for reader in (device, transaction):
                assert reader.get("lid-mapping", ["1", "2", "3"]) == {"2": "b", "3": "c"}
                assert reader.credentials == saved
            assert device.ids("lid-mapping") == ["2", "3"]
            transaction.set({"lid-mapping": {"1": "d", "3": None}})
            assert device.get("lid-mapping", ["1", "2", "3"]) == {"1": "d", "2": "b"}
            assert device.ids("lid-mapping") == ["1", "2"]
            device.clear()
            assert device.ids("lid-mapping") == []
        assert device.ids("lid-mapping") == []
        assert device.credentials == saved

    def test_nothing_is_stored_before_the_end(self, device: Device, url: str) -> None:
        """Another thread or process would see half of a transaction."""
        device.set({"lid-mapping": {"1": "a"}})
        seen = []
        with device.transaction() as transaction:
            transaction.set({"lid-mapping": {"1": "b", "2": "c"}})
            raised = run_threads(lambda: seen.append(device.get("lid-mapping", ["1", "2"])))
            with self.open(url, read_only=True) as peek:
                seen.append(peek.get("lid-mapping", ["1", "2"]))
        assert (raised, seen) == ([], [{"1": "a"}] * 2)
        assert device.get("lid-mapping", ["1", "2"]) == {"1": "b", "2": "c"}

    def test_an_inner_transaction_joins_the_outer_one(self, device: Device, url: str) -> None:
        """What an inner transaction set would be kept although the outer one failed, or lost
        although it did not."""
        with device.transaction(), device.transaction():
            device.set({"lid-mapping": {"1": "a"}})
        with pytest.raises(Boom), device.transaction():
            with device.transaction():
                device.set({"lid-mapping": {"1": "b", "2": "c"}})
            assert device.get("lid-mapping", ["1"]) == {"1": "b"}
            raise Boom
        assert contents(device)["lid-mapping"] == {"1": "a"}
        with self.reopen(device, url) as again:
            assert contents(again)["lid-mapping"] == {"1": "a"}

    def test_an_inner_failure_drops_the_inner_changes_only(self, device: Device, url: str) -> None:
        """The changes of a failed part would be committed with the rest, or the rest lost."""
        before = device.credentials
        with device.transaction() as outer:
            outer.set({"lid-mapping": {"1": "a", "2": "b"}})
            with pytest.raises(Boom), device.transaction() as inner:
                inner.set({"lid-mapping": {"1": None, "2": "x", "3": "y"}})
                inner.save_credentials(paired(before, self.holds))
                raise Boom
            assert device.ids("lid-mapping") == ["1", "2"]
            outer.set({"lid-mapping": {"4": "d"}})
        expected = {"1": "a", "2": "b", "4": "d"}
        assert contents(device)["lid-mapping"] == expected
        with self.reopen(device, url) as again:
            assert contents(again)["lid-mapping"] == expected
            assert again.credentials == before

    def test_a_refused_set_leaves_the_transaction_as_it_was(self, device: Device) -> None:
        """A caught InvalidValue would leave part of the refused set behind."""
        with device.transaction() as transaction:
            transaction.set({"lid-mapping": {"1": "a"}})
            with pytest.raises(InvalidValue):
                transaction.set({"lid-mapping": {"1": "b", "2": 3}})
        assert contents(device)["lid-mapping"] == {"1": "a"}

    def test_threads_with_a_lock_do_not_lose_updates(self, device: Device, url: str) -> None:
        """Two messages of one session would be read at once, and one ratchet step lost."""
        device.set({"lid-mapping": {"n": "0"}})

        def count() -> None:
            for _ in range(20):
                with device.transaction("n"):
                    number = int(device.get("lid-mapping", ["n"])["n"])
                    device.set({"lid-mapping": {"n": str(number + 1)}})

        assert run_threads(count, count, count) == []
        with self.reopen(device, url) as again:
            assert again.get("lid-mapping", ["n"]) == {"n": "60"}

    def test_threads_without_a_common_lock_do_not_disturb_each_other(
        self, device: Device, url: str
    ) -> None:
        """Changes of one thread would end up in another one's transaction, or get lost."""

        def work(family: str) -> None:
            for number in range(15):
                value = self.value(family, number, device)
                with device.transaction(family):
                    device.set({family: {str(number): value}})

        families = ["session", "pre-key", "identity-key"]
        assert run_threads(*(lambda each=each: work(each) for each in families)) == []
        with self.reopen(device, url) as again:
            for family in families:
                expected = {str(n): self.value(family, n, again) for n in range(15)}
                assert contents(again)[family] == expected

    def test_a_deadlock_is_refused(self, device: Device) -> None:
        """Two transactions that wait for each other would hang for ever."""
        both_hold_one = threading.Barrier(2, timeout=PATIENCE)

        def work(first: str, second: str) -> None:
            with device.transaction(first):
                device.set({"lid-mapping": {first: "held"}})
                both_hold_one.wait()
                with device.transaction(second):
                    device.set({"lid-mapping": {second: "held"}})

        raised = run_threads(lambda: work("a", "b"), lambda: work("b", "a"))
        assert [type(error) for error in raised] == [InvalidValue]
        # The one that was refused gave back its lock and dropped its changes.
        with device.transaction("a", "b"):
            assert device.ids("lid-mapping") == ["a", "b"]
