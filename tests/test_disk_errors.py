"""A disk that is full, failing, read-only or gone; and a process without file descriptors."""

from __future__ import annotations

import errno
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from _power import commits, credentials, folder
from ratchetkeep import CommitFailed, Device, RatchetkeepError, StoreDamaged
from ratchetkeep.device import open_in
from ratchetkeep.model import CREDENTIALS, Key
from ratchetkeep.stores import _sqlite_file
from ratchetkeep.stores.base import DEFAULT_DEVICE, Store
from ratchetkeep.stores.sqlite import SqliteStore
from ratchetkeep.testing.faults import MirroredVFS, SimulatedDisk, closing, content

ERRORS = [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EMFILE]
FOLDERS = ["baileys", "baileysex"]


def opened(store: Store, *, create: bool = True) -> Device:
    return open_in(store, DEFAULT_DEVICE, create=create, read_only=False, initial=credentials())


def memory_of(device: Device) -> tuple[object, ...]:
    """What a client sees of a device."""
    return (
        device.credentials,
        device.get("session", ["1.1"]),
        device.get("pre-key", ["3", "4"]),
        device.ids("session"),
        device.ids("pre-key"),
    )


def fails_and_is_refused(device: Device, store: Store) -> None:
    """A failed commit leaves memory as it was, and nothing more is taken."""
    before = memory_of(device)
    with pytest.raises(CommitFailed) as caught:
        commits()[1].run(device)
    assert caught.value.remedy
    assert memory_of(device) == before
    with pytest.raises(CommitFailed):
        device.set({"lid-mapping": {"1": "2"}})
    assert memory_of(device) == before


@pytest.mark.parametrize("kind", FOLDERS)
@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("verb", ["write_at", "sync"])
def test_a_failed_commit_of_a_folder(kind: str, verb: str, error: int) -> None:
    """A commit that the disk did not take would be told as done, or the next be built on it."""
    disk = SimulatedDisk()
    with folder(disk, kind) as store:
        device = opened(store)
        commits()[0].run(device)
        before = content(store)
        disk.fail(verb, error)
        fails_and_is_refused(device, store)
        disk.heal()
        with pytest.raises(CommitFailed):
            commits()[2].run(device)  # a healed disk is no reason to go on without looking
        device.close()
    with folder(disk, kind) as store:
        device = opened(store, create=False)
        # Reopening tells the truth: the commit is there whole, or not at all.
        after = content(store)
        assert after == before or Key("session", "1.1") in after
        assert (after == before) == (Key("pre-key", "3") in after)
        commits()[2].run(device)
        device.close()


@pytest.mark.parametrize("kind", FOLDERS)
@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("verb", ["write", "rename", "unlink", "sync_folder"])
def test_files_that_cannot_follow_their_journal(kind: str, verb: str, error: int) -> None:
    """Commits that are safe in the journal would be thrown away with it, or silently stay there
    while another program reads the old files."""
    disk = SimulatedDisk()
    with folder(disk, kind) as store:
        device = opened(store)
        commits()[0].run(device)
        store.follow()  # type: ignore[attr-defined]
        commits()[1].run(device)
        disk.fail(verb, error)
        with pytest.raises(CommitFailed, match="journal"):
            device.close()
    disk.heal()
    with folder(disk, kind) as store:
        device = opened(store, create=False)
        assert device.credentials.platform == "a"
        assert device.ids("session") == ["1.1"]
        assert "3" not in device.ids("pre-key")
        device.close()
    assert [path for path in disk.files() if "ratchetkeep" in path] == []


@pytest.mark.parametrize("kind", FOLDERS)
@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("verb", ["list", "read"])
def test_a_folder_that_cannot_be_read_is_not_empty(kind: str, verb: str, error: int) -> None:
    """A volume that went away would be taken for an empty place, and a new identity be minted."""
    disk = SimulatedDisk()
    with folder(disk, kind) as store:
        opened(store).close()
    before = disk.files()
    disk.fail(verb, error)
    with folder(disk, kind) as store, pytest.raises(StoreDamaged):
        opened(store)
    assert disk.files() == before


@contextmanager
def failing_sqlite() -> Iterator[tuple[Path, MirroredVFS]]:
    with tempfile.TemporaryDirectory() as above, MirroredVFS(SimulatedDisk()) as vfs:
        _sqlite_file.make(f"{above}/x.db")
        yield Path(above, "x.db"), vfs


@pytest.mark.parametrize("error", [apsw.FullError, apsw.IOError, apsw.ReadOnlyError])
@pytest.mark.parametrize("verb", ["write", "sync"])
@pytest.mark.parametrize("later", [0, 1])
def test_a_failed_commit_of_sqlite(verb: str, error: type[apsw.Error], later: int) -> None:
    """A commit that the disk did not take would be told as done, or the next be built on it."""
    with failing_sqlite() as (path, vfs):
        with closing(SqliteStore(str(path), vfs=vfs.name)) as store:
            device = opened(store)
            commits()[0].run(device)
            before = content(store)
            vfs.fail(verb, error, after=later if verb == "write" else 0)
            fails_and_is_refused(device, store)
            vfs.heal()
            with pytest.raises(CommitFailed):
                commits()[2].run(device)
            device.close()
        with closing(SqliteStore(str(path))) as store:
            device = opened(store, create=False)
            after = content(store)
            assert after == before or Key("session", "1.1") in after
            assert (after == before) == (Key("pre-key", "3") in after)
            commits()[2].run(device)
            device.close()


EXHAUST = """
import os, resource, sys
from ratchetkeep import RatchetkeepError, open_device

resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
device = open_device(sys.argv[1])
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
ids = device.ids("session")
wrong = 0
for id in ids:
    try:
        wrong += device.get("session", [id]).keys() != {id}
    except RatchetkeepError:
        pass
try:
    second = open_device(sys.argv[2], create=True)
    wrong += second.credentials.registration_id != 132
except RatchetkeepError:
    pass
for descriptor in held:
    os.close(descriptor)
print(len(ids), wrong, len(device.get("session", ids)))
device.close()
"""


@pytest.mark.parametrize("kind", ["sqlite", "baileys", "baileysex"])
def test_no_file_descriptor_left_is_not_absence(kind: str, tmp_path: Path) -> None:
    """A busy process would read sessions as absent, or mint new credentials over the old."""
    urls = []
    for name in ("a", "b"):
        url = f"{kind}:{tmp_path}/{name}"
        from ratchetkeep import copy_device

        golden = Path(__file__).parent / "golden" / "baileys" / "bob"
        copy_device(f"baileys:{golden}", url)
        urls.append(url)
    answer = subprocess.run(
        [sys.executable, "-c", EXHAUST, *urls], capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == ["1", "0", "1"]


def test_no_error_of_the_disk_is_ours_to_leak() -> None:
    """An OSError would come through bare, without a place or a next step."""
    for verb in ("list", "read", "write_at", "sync", "sync_folder", "make_folder", "write"):
        for after in range(3):
            disk = SimulatedDisk()
            disk.fail(verb, errno.EIO, after=after)
            try:
                with folder_anew(disk) as store:
                    device = opened(store)
                    commits()[0].run(device)
                    device.close()
            except RatchetkeepError as error:
                assert error.place and error.remedy
            disk.heal()
            if (
                CREDENTIALS.family
                and disk.is_folder("/device")
                and "/device/creds.json" in disk.files()
            ):
                with folder_anew(disk) as store:
                    assert opened(store, create=False).credentials == credentials()


@contextmanager
def folder_anew(disk: SimulatedDisk) -> Iterator[Store]:
    """A folder store that makes its own folder."""
    from ratchetkeep.stores.directory import DirectoryStore

    with closing(DirectoryStore("baileys", "/device", disk, background=False)) as store:
        yield store
