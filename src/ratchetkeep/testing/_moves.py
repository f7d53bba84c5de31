"""Contract tests: a device that was moved away is no longer opened where it was."""
# ruff: noqa: S101

from __future__ import annotations

import uuid
from typing import Any

import pytest

from ratchetkeep import Device, DeviceMoved, NoDevice, StoreInUse, copy_device

from ._hooks import Hooks, contents, needs

# Runs in a process that is to be refused.
_TRY = """
from ratchetkeep import DeviceMoved
try:
    open_it(url, {create}, False)
except DeviceMoved as error:
    print(error.to)
"""


class MovedTests(Hooks):
    """Marks of devices that go on elsewhere."""

    @pytest.fixture
    def elsewhere_url(self) -> str:
        """A place that the device is moved to."""
        return f"memory:{uuid.uuid4()}"

    def move(self, device: Device, url: str, to: str, **how: Any) -> None:
        """Close ``device`` and copy it to ``to``, retired."""
        device.close()
        copy_device(url, to, retire=True, **how)

    @needs("marks")
    def test_a_moved_device_is_not_opened_for_writing(
        self, device: Device, url: str, elsewhere_url: str
    ) -> None:
        """Both copies would go on, and each would break the other's sessions."""
        kept = self.fill(device, 2)
        credentials = device.credentials
        self.move(device, url, elsewhere_url)
        for create in (False, True):
            with pytest.raises(DeviceMoved, match="was moved to") as caught:
                self.open(url, create=create)
            assert caught.value.to == elsewhere_url
        with self.open(url, read_only=True) as peek:
            assert contents(peek) == kept
            assert peek.credentials == credentials
        with self.open(elsewhere_url) as moved:
            assert contents(moved) == kept

    @needs("marks")
    def test_a_moved_device_is_no_source_unless_that_is_said(
        self, device: Device, url: str, elsewhere_url: str
    ) -> None:
        """An old state would be copied over the one that is used; or, after that one was lost,
        nothing could be saved."""
        kept = self.fill(device, 1)
        self.move(device, url, elsewhere_url)
        again = f"memory:{uuid.uuid4()}"
        with pytest.raises(DeviceMoved):
            copy_device(url, again)
        copy_device(url, again, from_retired=True)
        with self.open(again) as found:
            assert contents(found) == kept
        with pytest.raises(DeviceMoved):
            self.open(url)

    @needs("marks")
    def test_a_copy_back_makes_it_a_living_device(
        self, device: Device, url: str, elsewhere_url: str
    ) -> None:
        """A device could never come back to where it was."""
        self.fill(device, 1)
        self.move(device, url, elsewhere_url)
        with self.open(elsewhere_url) as moved:
            moved.set({"lid-mapping": {"since": "1"}})
            kept = contents(moved)
        copy_device(elsewhere_url, url, True, retire=True)
        with self.open(url) as back:
            assert contents(back) == kept
            back.set({"lid-mapping": {"since": "2"}})
        with pytest.raises(DeviceMoved):
            self.open(elsewhere_url)
        with self.open(url) as back:
            assert back.get("lid-mapping", ["since"]) == {"since": "2"}

    @needs("marks", "many_processes")
    def test_another_process_sees_the_mark(
        self, device: Device, url: str, elsewhere_url: str
    ) -> None:
        """A program elsewhere would go on with the copy that stayed behind."""
        self.move(device, url, elsewhere_url)
        for create in (False, True):
            tried = self.elsewhere(url, _TRY.format(create=create))
            assert tried.returncode == 0, tried.stderr
            assert tried.stdout.strip() == elsewhere_url

    def test_commits_are_counted(self, device: Device, url: str) -> None:
        """An older state that was put back would look like the newest one."""
        before = device.history
        device.set({"lid-mapping": {"1": "2"}})
        with device.transaction() as transaction:
            transaction.set({"lid-mapping": {"1": None, "2": "3"}})
            transaction.set({"lid-mapping": {"3": "4"}})
        after = device.history
        if before is None:
            assert after is None
            return
        assert after == before._replace(commits=before.commits + 2)
        with self.reopen(device, url) as again:
            assert again.history == after
        with self.open(url, read_only=True) as again:
            assert again.history == after

    @needs("marks")
    def test_looking_at_a_move_marks_nothing(
        self, device: Device, url: str, elsewhere_url: str
    ) -> None:
        """A dry run would stop the client, with the copy never made."""
        self.move(device, url, elsewhere_url, dry_run=True)
        with self.open(url) as again:
            again.set({"lid-mapping": {"1": "2"}})

    @needs("marks")
    def test_a_device_that_is_open_is_not_moved(
        self, device: Device, url: str, elsewhere_url: str
    ) -> None:
        """A running client would lose its device under its hands, or go on beside the copy."""
        for dry_run in (True, False):
            with pytest.raises(StoreInUse):
                copy_device(url, elsewhere_url, retire=True, dry_run=dry_run)
        device.set({"lid-mapping": {"1": "2"}})
        with self.reopen(device, url) as again:
            assert contents(again)["lid-mapping"] == {"1": "2"}
        with pytest.raises(NoDevice):
            self.open(elsewhere_url)
