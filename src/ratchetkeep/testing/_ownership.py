"""Contract tests: one owner at a time, readers beside it, and what is left when an owner dies."""
# ruff: noqa: S101

from __future__ import annotations

import os
import signal
import traceback

import pytest

from ratchetkeep import Device, InvalidValue, OwnershipLost, ReadOnly, StoreInUse

from ._hooks import PATIENCE, Hooks, contents, needs
from ._samples import paired

# Runs in a process that is to be refused.
_TRY = """
from ratchetkeep import StoreInUse
try:
    open_it(url, {create}, False)
except StoreInUse as error:
    print(error.holder + "|" + str(error))
"""
# Runs in a process that dies while it owns the device.
_DIE = """
import os
device = open_it(url, True, False)
with device.transaction():
    device.set({"lid-mapping": {str(n): "kept" for n in range(50)}})
with device.transaction():
    device.set({"lid-mapping": {"0": "dropped", "99": "dropped"}})
    print(device.credentials.registration_id, flush=True)
    os._exit(9)
"""


class OwnershipTests(Hooks):
    """Owners, readers, forks and deaths."""

    def test_the_second_opener_in_this_process_is_refused(self, device: Device, url: str) -> None:
        """Two owners in one process would overwrite each other's ratchets."""
        for create in (False, True):
            with pytest.raises(StoreInUse):
                self.open(url, create=create)
        device.set({"lid-mapping": {"1": "2"}})
        with self.reopen(device, url) as again:
            assert again.ids("lid-mapping") == ["1"]

    @needs("many_processes")
    def test_the_second_opener_in_another_process_is_refused(
        self, device: Device, url: str
    ) -> None:
        """Two processes would own a device, or nobody could tell who holds it."""
        for create in (False, True):
            tried = self.elsewhere(url, _TRY.format(create=create))
            assert tried.returncode == 0, tried.stderr
            holder, _, text = tried.stdout.partition("|")
            assert f"{os.getpid()}" in holder
            assert holder in text
        device.set({"lid-mapping": {"1": "2"}})

    @needs("many_processes")
    def test_a_closed_device_can_be_opened_elsewhere(self, device: Device, url: str) -> None:
        """Closing would leave the place locked, or its last commit behind."""
        device.set({"lid-mapping": {"1": "2"}})
        device.close()
        code = "with open_it(url, False, False) as d:\n"
        code += " d.set({'lid-mapping': {'3': d.get('lid-mapping', ['1'])['1']}})"
        done = self.elsewhere(url, code)
        assert done.returncode == 0, done.stderr
        with self.open(url) as again:
            assert contents(again)["lid-mapping"] == {"1": "2", "3": "2"}

    @needs("many_processes")
    def test_a_dead_owner_leaves_its_commits_and_no_lock(self, url: str) -> None:
        """After a crash the device could not be opened, or a commit would be half there."""
        died = self.elsewhere(url, _DIE)
        assert died.returncode == 9, died.stderr
        for read_only in (True, False, True):
            with self.open_orphan(url, read_only=read_only) as device:
                assert contents(device)["lid-mapping"] == {str(n): "kept" for n in range(50)}
                assert device.credentials.registration_id == int(died.stdout)

    def test_reading_beside_the_owner(self, device: Device, url: str) -> None:
        """A backup or an inspection would need the client to be stopped."""
        records = self.fill(device, 2)
        with self.open(url, read_only=True) as peek:
            assert contents(peek) == records
            assert peek.credentials == device.credentials
            device.set({"lid-mapping": {"new": "1"}})
        device.set({"lid-mapping": {"newer": "1"}})
        with self.open(url, read_only=True) as peek:
            assert {"new", "newer"} <= set(peek.ids("lid-mapping"))

    def test_a_reader_writes_nothing(self, device: Device, url: str) -> None:
        """A read-only device would change what its owner holds."""
        records = self.fill(device, 1)
        before = device.credentials
        changed = paired(before, self.holds)
        for owner_is_there in (True, False):
            with self.open(url, read_only=True) as peek:
                with pytest.raises(ReadOnly):
                    peek.set({"lid-mapping": {"1": "2"}})
                with pytest.raises(ReadOnly):
                    peek.save_credentials(changed)
                with pytest.raises(ReadOnly):
                    peek.clear()
                with peek.transaction() as transaction:
                    with pytest.raises(ReadOnly):
                        transaction.set({"lid-mapping": {"1": "2"}})
                    with pytest.raises(ReadOnly):
                        transaction.save_credentials(changed)
            if owner_is_there:
                device.close()
        with self.open(url) as again:
            assert contents(again) == records
            assert again.credentials == before

    def test_a_reader_creates_nothing(self, url: str) -> None:
        """A mistaken create would mint credentials that are never stored."""
        with pytest.raises(InvalidValue):
            self.open(url, create=True, read_only=True)
        with self.open(url, create=True) as device:
            assert not any(contents(device).values())

    def test_a_reader_does_not_keep_owners_out(self, device: Device, url: str) -> None:
        """An inspection that is left open would stop the client from starting."""
        device.set({"lid-mapping": {"1": "2"}})
        device.close()
        with self.open(url, read_only=True) as peek:
            with self.open(url) as owner:
                owner.set({"lid-mapping": {"3": "4"}})
            assert peek.get("lid-mapping", ["1"]) == {"1": "2"}

    def test_a_forked_child_owns_nothing(self, device: Device, url: str) -> None:
        """A child of a forking server would write its parent's device, or end its ownership."""
        device.set({"lid-mapping": {"1": "parent"}})
        child = os.fork()
        if child == 0:
            _be_the_child(device)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        with pytest.raises(StoreInUse):
            self.open(url)
        device.set({"lid-mapping": {"2": "parent"}})
        with self.reopen(device, url) as again:
            assert contents(again)["lid-mapping"] == {"1": "parent", "2": "parent"}


def _be_the_child(device: Device) -> None:
    """Never returns: pytest must not go on in the child."""
    signal.alarm(PATIENCE)  # a child that hangs dies, which its parent sees
    code = 1
    try:
        device.set({"lid-mapping": {"1": "child"}})
    except OwnershipLost:
        code = 0
    except BaseException:  # noqa: BLE001 - shown, and told by the exit code
        traceback.print_exc()
    finally:
        os._exit(code)
