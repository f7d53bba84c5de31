"""Who guards the guards: the code without one sync, check, rollback or lock must fail a test.

Each mutant leaves out one thing that a promise rests on. The check beside it is a short form of the
test that is to catch it; it passes on the code as it is, and must fail on the mutant. The table in
docs/concepts/durability.md is this list.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest

import test_open_journal
import test_power_cuts
from _power import commits, few, folder, power_cuts
from ratchetkeep import CommitFailed, StoreInUse, open_device
from ratchetkeep.commit import Commit, GroupCommit
from ratchetkeep.device import Device
from ratchetkeep.errors import OwnershipLost, RatchetkeepError, StoreDamaged
from ratchetkeep.stores import _folder_names, _follower, _recovery, _sqlite_file, directory, journal
from ratchetkeep.stores._follower import Follower, put_file
from ratchetkeep.stores._owner import Ownership
from ratchetkeep.stores._sqlite_owned import OwnedFile
from ratchetkeep.stores._sqlite_rows import add_device, write_rows
from ratchetkeep.stores._stage import FolderStage
from ratchetkeep.stores.directory import DirectoryStore
from ratchetkeep.stores.disk import OpenFile
from ratchetkeep.stores.journal import Journal
from ratchetkeep.stores.sqlite import SqliteStore
from ratchetkeep.testing.faults import SimulatedDisk, closing
from ratchetkeep.testing.faults.disk import SimulatedFile
from test_disk_errors import failing_sqlite, fails_and_is_refused, opened

Patch = pytest.MonkeyPatch


def cuts(kind: str) -> Callable[[Path], None]:
    """The power-cut tests, short."""

    def check(tmp_path: Path) -> None:
        power_cuts(kind, few(), per_step=8, nested=0.2).run()

    return check


def many_cuts(tmp_path: Path) -> None:
    """Power cuts at every step."""
    # The moment that counts is one step of a run, so more states are tried at each.
    power_cuts("baileys", few(), per_step=40, nested=0.0).run()


def cuts_small_journal(tmp_path: Path) -> None:
    """Power cuts while the journal starts again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(directory, "JOURNAL_LIMIT", 6000)
        power_cuts("baileys", [*few(), *few(), *few()], per_step=8, nested=0.0).run()


def copying(tmp_path: Path) -> None:
    """Power cuts during a copy."""
    test_power_cuts.test_a_power_cut_during_a_copy("baileys")


def failing_folder(tmp_path: Path) -> None:
    """A commit of a folder that fails."""
    disk = SimulatedDisk()
    with folder(disk, "baileys") as store:
        device = opened(store)
        commits()[0].run(device)
        disk.fail("sync", 5)
        fails_and_is_refused(device, store)
        disk.heal()
        with pytest.raises(CommitFailed):
            commits()[2].run(device)
        device.close()


def failing_file(tmp_path: Path) -> None:
    """A commit of a SQLite file that fails."""
    with failing_sqlite() as (path, vfs), closing(SqliteStore(str(path), vfs=vfs.name)) as store:
        device = opened(store)
        commits()[0].run(device)
        vfs.fail("sync", apsw.IOError)
        fails_and_is_refused(device, store)
        vfs.heal()
        with pytest.raises(CommitFailed):
            commits()[2].run(device)
        device.close()


def failing_statement(tmp_path: Path) -> None:
    """A statement that fails in the middle of a transaction, and what closing then leaves."""
    url = f"sqlite:{tmp_path}/x.db"
    with open_device(url, create=True) as device:
        before = device.credentials
        connection = device._store._files["default"].connection  # type: ignore[attr-defined]
        connection.execute(
            "CREATE TEMP TRIGGER t BEFORE INSERT ON records WHEN NEW.id = '4' "
            "BEGIN SELECT RAISE(FAIL, 'told to'); END"
        )
        with pytest.raises(CommitFailed):
            commits()[0].run(device)
        assert not connection.in_transaction
    with open_device(url) as device:
        assert (device.credentials, device.ids("pre-key")) == (before, [])


def second_opener(tmp_path: Path) -> None:
    """Another opener of a device that is open."""
    with open_device(f"baileys:{tmp_path}/x", create=True):
        for again in (f"baileys:{tmp_path}/x", f"baileys:{tmp_path}/../{tmp_path.name}/x"):
            with pytest.raises(StoreInUse):
                open_device(again)


def forked_writer(tmp_path: Path) -> None:
    """A forked child that writes."""
    with open_device(f"sqlite:{tmp_path}/x.db", create=True) as device:
        child = os.fork()
        if child == 0:
            try:
                device.set({"lid-mapping": {"1": "2"}})
            except OwnershipLost:
                os._exit(0)
            except BaseException:  # noqa: BLE001 - a child must never return into the tests
                os._exit(2)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0


def lost_lock(tmp_path: Path) -> None:
    """An owner whose lock file somebody removed."""
    open_device(f"baileys:{tmp_path}/x", create=True).close()
    with open_device(f"baileys:{tmp_path}/x") as device:
        (tmp_path / "x" / ".ratchetkeep.lock").unlink()
        with pytest.raises(OwnershipLost):
            device.set({"lid-mapping": {"1": "2"}})


def foreign_writer(tmp_path: Path) -> None:
    """Another library that goes on with a folder after an unclean stop."""
    disk = SimulatedDisk()
    with folder(disk, "baileys") as store:
        device = opened(store)
        commits()[1].run(device)
        cut = disk.after_power_cut(random.Random(1), names=1, data=1)
        device.close()
    cut.write("/device/creds.json", b'{"another": "program"}')
    with folder(cut, "baileys") as store, pytest.raises(StoreDamaged):
        opened(store, create=False)


def foreign_manifest(tmp_path: Path) -> None:
    """A manifest that another program wrote without a sync, and a commit that changes it."""
    test_open_journal.unsynced_manifest(tmp_path)


def moved_journal(tmp_path: Path) -> None:
    """A journal that is moved away while it is open."""
    open_device(f"baileys:{tmp_path}/x", create=True).close()
    with open_device(f"baileys:{tmp_path}/x") as device:
        device.set({"lid-mapping": {"1": "2"}})
        (tmp_path / "x" / _folder_names.JOURNAL).rename(tmp_path / "away")
        with pytest.raises(OwnershipLost):
            device.set({"lid-mapping": {"1": "3"}})


def interrupted(tmp_path: Path) -> None:
    """A commit of a folder that is interrupted."""
    open_device(f"baileys:{tmp_path}/x", create=True).close()
    with pytest.MonkeyPatch.context() as patch:
        test_open_journal.interrupted_folder("baileys", tmp_path / "x", "write_at", patch)


# -- the mutants: each leaves one thing out


def no_journal_sync(patch: Patch) -> None:
    patch.setattr(SimulatedFile, "write_at", SimulatedFile.write_unsynced)


def no_journal_name_sync(patch: Patch) -> None:
    append = Journal.append

    def mutant(self: Journal, entries: Any, ids: Any) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(self.disk, "sync_folder", lambda path: None)
            append(self, entries, ids)

    patch.setattr(Journal, "append", mutant)


def no_header_sync(patch: Patch) -> None:
    patch.setattr(SimulatedFile, "sync", lambda self: None)


def no_time_sync(patch: Patch) -> None:
    def mutant(self: SimulatedFile) -> None:
        self.write_at(0, b"")

    patch.setattr(SimulatedFile, "sync", mutant)


def no_look_for_the_journal(patch: Patch) -> None:
    patch.setattr(OpenFile, "is_in_place", lambda self: True)


def no_ids_in_the_journal(patch: Patch) -> None:
    append = Journal.append
    patch.setattr(Journal, "append", lambda self, entries, ids: append(self, entries))


def no_manifest_sync(patch: Patch) -> None:
    def mutant(*args: Any, sync: bool = False) -> None:
        put_file(*args)

    for module in (_follower, _recovery):
        patch.setattr(module, "put_file", mutant)


def no_sync_of_a_found_manifest(patch: Patch) -> None:
    patch.setattr(DirectoryStore, "_sync_manifest", lambda self, ids: None)


def no_file_sync_when_settling(patch: Patch) -> None:
    without(patch, Follower, "settle", "sync")


def no_name_sync_when_settling(patch: Patch) -> None:
    without(patch, Follower, "settle", "sync_folder")


def no_file_sync_when_recovering(patch: Patch) -> None:
    without(patch, DirectoryStore, "_recover", "sync")


def no_name_sync_when_recovering(patch: Patch) -> None:
    without(patch, DirectoryStore, "_recover", "sync_folder")


def no_file_sync_when_copying(patch: Patch) -> None:
    without(patch, FolderStage, "_finish", "sync")


def no_name_sync_when_copying(patch: Patch) -> None:
    without(patch, FolderStage, "_finish", "sync_folder")


def no_target_sync_when_copying(patch: Patch) -> None:
    without(patch, FolderStage, "_rename", "sync_folder")


def without(patch: Patch, owner: type, method: str, verb: str) -> None:
    """``method`` of ``owner`` with a disk whose ``verb`` does nothing."""
    real = getattr(owner, method)

    def mutant(self: Any, *args: Any, **kwargs: Any) -> Any:
        disk = self.disk if hasattr(self, "disk") else self._disk
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(disk, verb, lambda path: None)
            return real(self, *args, **kwargs)

    patch.setattr(owner, method, mutant)


def no_frame_checksum(patch: Patch) -> None:
    def mutant(raw: bytes, at: int, generation: bytes, number: int) -> bytes | None:
        start = at + journal.FRAME_HEAD
        length = int.from_bytes(raw[at + 24 : at + 28], "big")
        payload = raw[start : start + length]
        return payload if raw[at : at + 16] == generation and len(payload) == length else None

    patch.setattr(journal, "_payload", mutant)


def no_new_generation(patch: Patch) -> None:
    def mutant(self: Journal) -> None:
        self._number, self.size = 0, journal.HEADER

    patch.setattr(Journal, "restart", mutant)


def journal_removed_first(patch: Patch) -> None:
    settle = Follower.settle

    def mutant(self: Follower) -> None:
        self._disk.unlink(f"{self._folder}/{_folder_names.JOURNAL}")
        settle(self)

    patch.setattr(Follower, "settle", mutant)


def no_journal_at_all(patch: Patch) -> None:
    def mutant(self: Journal, entries: Any, ids: Any) -> None:
        for name, data in entries:
            path = f"{self.path.rpartition('/')[0]}/{name}"
            if data is None:
                self.disk.unlink(path)
            else:
                self.disk.write(path, data)
                self.disk.sync(path)
        self.disk.sync_folder(self.path.rpartition("/")[0])

    patch.setattr(Journal, "append", mutant)


def no_look_for_foreign_writes(patch: Patch) -> None:
    patch.setattr(DirectoryStore, "_refuse_foreign_writes", lambda self, commits: None)


def sqlite_setting(setting: str) -> Callable[[Patch], None]:
    def mutate(patch: Patch) -> None:
        connect = _sqlite_file.connect

        def mutant(*args: Any, **kwargs: Any) -> apsw.Connection:
            connection = connect(*args, **kwargs)
            connection.execute(setting)
            return connection

        patch.setattr(_sqlite_file, "connect", mutant)

    return mutate


def no_transaction(patch: Patch) -> None:
    def mutant(file: OwnedFile, batches: Any) -> dict[str, int]:
        file.connection.execute("ROLLBACK")
        for batch in batches:
            write_rows(file.connection, add_device(file.view, batch.device), batch.changes)
        return {}

    patch.setattr(OwnedFile, "_transact", mutant)


def no_rollback(patch: Patch) -> None:
    def mutant(file: OwnedFile, batches: Any) -> dict[str, int]:
        try:
            for batch in batches:
                write_rows(file.connection, add_device(file.view, batch.device), batch.changes)
        finally:
            file.connection.execute("COMMIT")
        return {}

    patch.setattr(OwnedFile, "_transact", mutant)


# A flag that stays down.
NEVER = property(lambda self: False, lambda self, to: None)


def folder_goes_on_after_failure(patch: Patch) -> None:
    patch.setattr(
        DirectoryStore,
        "_failed",
        property(lambda self: False, lambda self, to: None),
        raising=False,
    )


def sqlite_goes_on_after_failure(patch: Patch) -> None:
    patch.setattr(
        OwnedFile, "failed", property(lambda self: False, lambda self, to: None), raising=False
    )


def cache_before_commit(patch: Patch) -> None:
    together = GroupCommit._together

    def mutant(self: GroupCommit, group: Sequence[Commit]) -> None:
        for commit in group:
            commit.owner.settle(commit)
        together(self, group)

    patch.setattr(GroupCommit, "_together", mutant)


def no_lock(patch: Patch) -> None:
    patch.setattr(Ownership, "take", lambda self: setattr(self, "_pid", os.getpid()))
    patch.setattr(Ownership, "release", lambda self: None)


def no_owner_check(patch: Patch) -> None:
    patch.setattr(Ownership, "check", lambda self: None)


def no_fork_check(patch: Patch) -> None:
    no_owner_check(patch)
    patch.setattr(Device, "_check_open", lambda self: None)


Check = Callable[[Path], None]
Mutate = Callable[[Patch], None]
MUTANTS: list[tuple[str, Mutate, Check]] = [
    ("journal: append is not synced", no_journal_sync, cuts("baileys")),
    ("journal: its name is not synced", no_journal_name_sync, cuts("baileys")),
    ("journal: its header is not synced", no_header_sync, cuts_small_journal),
    ("journal: its time is not synced", no_time_sync, cuts_small_journal),
    ("journal: a moved one is not noticed", no_look_for_the_journal, moved_journal),
    ("journal: frames are not checked", no_frame_checksum, cuts("baileys")),
    ("journal: no new generation", no_new_generation, cuts_small_journal),
    ("journal: removed before the files are synced", journal_removed_first, many_cuts),
    ("journal: none, files are written and synced", no_journal_at_all, cuts("baileys")),
    ("manifest: its changes are not in the journal", no_ids_in_the_journal, cuts("baileysex")),
    ("manifest: not synced", no_manifest_sync, cuts("baileysex")),
    ("manifest: another program's is not synced", no_sync_of_a_found_manifest, foreign_manifest),
    ("closing: files are not synced", no_file_sync_when_settling, many_cuts),
    ("closing: names are not synced", no_name_sync_when_settling, many_cuts),
    ("recovery: files are not synced", no_file_sync_when_recovering, cuts("baileys")),
    ("recovery: names are not synced", no_name_sync_when_recovering, cuts("baileys")),
    ("recovery: foreign writes are not seen", no_look_for_foreign_writes, foreign_writer),
    ("copy: files are not synced", no_file_sync_when_copying, copying),
    ("copy: names are not synced", no_name_sync_when_copying, copying),
    ("copy: the target's name is not synced", no_target_sync_when_copying, copying),
    ("sqlite: synchronous=OFF", sqlite_setting("PRAGMA synchronous = OFF"), cuts("sqlite")),
    ("sqlite: synchronous=NORMAL", sqlite_setting("PRAGMA synchronous = NORMAL"), cuts("sqlite")),
    ("sqlite: no transaction", no_transaction, cuts("sqlite")),
    ("sqlite: no rollback", no_rollback, failing_statement),
    ("folder: goes on after a failed commit", folder_goes_on_after_failure, failing_folder),
    ("folder: goes on after an interrupted commit", folder_goes_on_after_failure, interrupted),
    ("sqlite: goes on after a failed commit", sqlite_goes_on_after_failure, failing_file),
    ("device: cache before commit (folder)", cache_before_commit, failing_folder),
    ("device: cache before commit (sqlite)", cache_before_commit, failing_file),
    ("owner: no lock", no_lock, second_opener),
    ("owner: a removed lock file is not noticed", no_owner_check, lost_lock),
    ("owner: a forked child may write", no_fork_check, forked_writer),
]


@pytest.mark.parametrize(("mutate", "check"), [m[1:] for m in MUTANTS], ids=[m[0] for m in MUTANTS])
def test_a_mutant_is_caught(mutate: Mutate, check: Check, tmp_path: Path) -> None:
    """The code could lose this guard, and every test would still pass."""
    with pytest.MonkeyPatch.context() as patch:
        mutate(patch)
        with pytest.raises((AssertionError, RatchetkeepError, pytest.fail.Exception)):
            check(tmp_path)


@pytest.mark.parametrize(
    "check",
    [
        failing_file,
        failing_folder,
        failing_statement,
        foreign_manifest,
        foreign_writer,
        forked_writer,
        interrupted,
        lost_lock,
        moved_journal,
        second_opener,
    ],
)
def test_the_code_as_it_is_passes(check: Check, tmp_path: Path) -> None:
    """A check would fail on any code, and so catch nothing."""
    check(tmp_path)


def test_the_table_in_the_docs_is_this_list() -> None:
    """The docs would name guards that are not tested, or leave some out."""
    docs = Path(__file__).parents[1] / "docs" / "concepts" / "durability.md"
    rows = [row.split("|")[1].strip() for row in docs.read_text().splitlines() if "|" in row]
    assert [row for row in rows if ": " in row] == [name for name, _, _ in MUTANTS]
