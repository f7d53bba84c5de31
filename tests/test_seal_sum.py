"""The sum over a device's rows that is kept with each commit: it fits whatever commits there were,
and any other change of any row is found."""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from _sealing import KEY, NAME, Place, Values, values_in, values_of
from ratchetkeep import CommitFailed, Device, KeyPair, RatchetkeepError, open_device, verify_device
from ratchetkeep.device import open_in
from ratchetkeep.model import CREDENTIALS
from ratchetkeep.stores import _sqlite_file
from ratchetkeep.stores.base import History
from ratchetkeep.stores.sqlite import SqliteStore
from ratchetkeep.testing.faults import MirroredVFS, SimulatedDisk

DEVICES = (NAME, "b")
PAIR = KeyPair.new()
USERS = st.integers(0, 30).map(lambda n: str(15551230000 + n))
TEXTS = st.none() | st.sampled_from(["998877", "998878", "x" * 200])
MAPPINGS = st.dictionaries(USERS, TEXTS, max_size=8)
LISTS = st.dictionaries(USERS, st.none() | st.just(("0", "1")), max_size=4)
# More than a device remembers of its rows.
MANY = 300


class Sums(RuleBasedStateMachine):
    """Commits of two devices of a sealed file, and what a stranger does to it."""

    @initialize()
    def make(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.place = Place(self.folder / "file")
        self.vfs = MirroredVFS(SimulatedDisk())
        self.model: dict[str, Values] = {}
        self.commits = dict.fromkeys(DEVICES, 1)
        self.devices: dict[str, Device] = {}
        self.store = self.new_store(None)
        for name in DEVICES:
            self.open(name, create=True)
            self.model[name] = values_in(self.devices[name])

    def new_store(self, vfs: str | None) -> SqliteStore:
        return SqliteStore(str(self.place.path), key=KEY, vfs=vfs)

    def open(self, name: str, *, create: bool = False) -> None:
        self.devices[name] = open_in(self.store, name, create=create, read_only=False)

    def close_all(self) -> None:
        for device in self.devices.values():
            device.close()
        self.store.close()

    def note(self, name: str) -> None:
        self.commits[name] += 1
        self.model[name] = values_in(self.devices[name])

    @rule(name=st.sampled_from(DEVICES), mappings=MAPPINGS, lists=LISTS)
    def commit(self, name: str, mappings: Any, lists: Any) -> None:
        """Put, put again and delete, in several families."""
        if mappings or lists:
            self.devices[name].set({"lid-mapping": mappings, "device-list": lists})
            self.note(name)

    @rule(name=st.sampled_from(DEVICES))
    def credentials(self, name: str) -> None:
        device = self.devices[name]
        device.save_credentials(device.credentials)
        self.note(name)

    @rule(name=st.sampled_from(DEVICES), value=st.sampled_from([PAIR, None]))
    def many(self, name: str, value: Any) -> None:
        """More rows in one commit than are remembered."""
        self.devices[name].set({"pre-key": {str(n): value for n in range(1, MANY)}})
        self.note(name)

    @rule(name=st.sampled_from(DEVICES))
    def clear(self, name: str) -> None:
        device = self.devices[name]
        if any(key != CREDENTIALS for key in self.model[name]):
            device.clear()
            self.note(name)

    @rule(users=st.lists(USERS, min_size=2, max_size=5, unique=True))
    def together(self, users: list[str]) -> None:
        """Commits of threads and devices that share a transaction."""

        def run(name: str, user: str) -> None:
            self.devices[name].set({"lid-mapping": {user: user}})

        threads = [
            threading.Thread(target=run, args=(name, user)) for name in DEVICES for user in users
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for name in DEVICES:
            self.commits[name] += len(users) - 1
            self.note(name)

    @rule(name=st.sampled_from(DEVICES))
    def open_again(self, name: str) -> None:
        """What a device remembers of its rows goes."""
        self.devices[name].close()
        self.open(name)

    @rule(
        verb=st.sampled_from(["write", "sync"]),
        after=st.integers(0, 2),
        error=st.sampled_from([apsw.FullError, apsw.IOError]),
    )
    def fail(self, verb: str, after: int, error: type[apsw.Error]) -> None:
        """A commit that the disk does not take, and the file opened again."""
        self.close_all()
        with self.vfs:
            self.store = self.new_store(self.vfs.name)
            for name in DEVICES:
                self.open(name)
            self.devices[NAME].set({"lid-mapping": {"15551230040": "before"}})
            self.note(NAME)
            self.vfs.fail(verb, error, after=0 if verb == "sync" else after)
            changes = {"15551230040": "after", "15551230041": "x" * 3000}
            try:
                self.devices[NAME].set({"lid-mapping": changes})
            except CommitFailed:
                with pytest.raises(CommitFailed):
                    self.devices["b"].set({"lid-mapping": changes})
            self.vfs.heal()
            self.close_all()
        self.vfs = MirroredVFS(SimulatedDisk())
        self.store = self.new_store(None)
        for name in DEVICES:
            self.open(name)
        found = values_in(self.devices[NAME])
        assert found == self.model[NAME] or set(changes) <= {key.id for key in found}
        self.commits[NAME] = self.history(NAME).commits - 1
        self.note(NAME)

    def history(self, name: str) -> History:
        history = self.store.history(name)
        assert history is not None
        return history

    @invariant()
    def all_is_well(self) -> None:
        """The sums fit, and what is there is what was committed."""
        for name in getattr(self, "devices", {}):
            found = verify_device(self.place.url(name), key=KEY)
            assert [each.what for each in found if each.severity == "error"] == []
            assert values_of(self.place.url(name)) == self.model[name]
            assert self.history(name).commits == self.commits[name]

    @rule(data=st.data())
    def foreign_change(self, data: st.DataObject) -> None:
        """One row of a copy is removed, put in, or replaced by an older or another one."""
        copied = self.place.copy(self.folder / "copy")
        for name in ("x.db.lock", "x.db.owner"):
            (copied.folder / name).unlink(missing_ok=True)
        try:
            rows = copied.rows()
            number, family, id, old = data.draw(st.sampled_from(rows))
            how = data.draw(st.sampled_from(["remove", "put in", "alter", "older"]))
            if how == "remove":
                copied.execute("DELETE FROM records WHERE rowid = ?", number)
            elif how == "put in":
                text = "INSERT INTO records (device, family, id, data) VALUES (1, ?, ?, ?)"
                copied.execute(text, family, id + "A", old)
            elif how == "alter":
                place = data.draw(st.integers(0, len(old) - 1))
                new = old[:place] + bytes([old[place] ^ 1]) + old[place + 1 :]
                copied.execute("UPDATE records SET data = ? WHERE rowid = ?", new, number)
            else:
                self._replay(copied, number, family, old)
            found = verify_device(copied.url(), key=KEY)
            assert "error" in [each.severity for each in found], how
        finally:
            shutil.rmtree(copied.folder)

    def _replay(self, copied: Place, number: int, family: str, old: bytes) -> None:
        """The row's owner commits the same record once more; then the older row comes back."""
        with open_device(copied.url(), key=KEY) as device:
            if family == CREDENTIALS.family:
                device.save_credentials(device.credentials)
            else:
                for id, value in device.get(family, device.ids(family)).items():
                    device.set({family: {id: value}})
                    if len(device.ids(family)) > 20:
                        break
        now = copied.execute("SELECT data FROM records WHERE rowid = ?", number)[0][0]
        if now == old:  # one of many, that was not committed again
            old = copied.execute("SELECT data FROM records WHERE rowid <> ? LIMIT 1", number)[0][0]
        copied.execute("UPDATE records SET data = ? WHERE rowid = ?", old, number)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.close_all()
            shutil.rmtree(self.folder)


Sums.TestCase.settings = settings(
    max_examples=10,
    stateful_step_count=14,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestSums = Sums.TestCase
TestSums.runTest.__doc__ = """A commit of some kind would leave a sum that does not fit, so that
verify cries over a whole device; or hide what somebody did to a row."""


def test_a_refused_batch_leaves_the_sums_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a device remembers of its rows would be that of a commit that never was."""
    monkeypatch.setattr(_sqlite_file, "BUSY_MILLISECONDS", 300)
    place = Place(tmp_path / "file")
    with open_device(place.url(), create=True, key=KEY) as device:
        device.set({"lid-mapping": {"1": "2"}})
        before = values_in(device)
        other = apsw.Connection(str(place.path))
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RatchetkeepError):
            device.set({"lid-mapping": {"1": "3", "4": "5"}})
        other.execute("ROLLBACK")
        other.close()
        assert values_in(device) == before
        device.set({"lid-mapping": {"1": "6"}})
        device.set({"lid-mapping": {"1": None}})
    found = verify_device(place.url(), key=KEY)
    assert [each.what for each in found if each.severity == "error"] == []
