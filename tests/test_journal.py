"""The commit journal of the folder stores: what was acknowledged is there after a crash."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from _helpers import BOB, bytes_of, footprint, listed_in, private_copy, small_baileys
from ratchetkeep import (
    CommitFailed,
    Device,
    ReadOnly,
    StoreDamaged,
    StoreUnreadable,
    UnsupportedVersion,
    copy_device,
    open_device,
    verify_device,
)
from ratchetkeep.device import open_in
from ratchetkeep.model import CREDENTIALS, Key
from ratchetkeep.stores import directory, journal
from ratchetkeep.stores.disk import Disk, OpenFile
from ratchetkeep.stores.journal import FRAME_HEAD, HEADER, Journal
from ratchetkeep.stores.layouts import LAYOUTS

JOURNAL = ".ratchetkeep.journal"
OURS = ".ratchetkeep"
STAYS = ".ratchetkeep.addresses"
KINDS = ["baileys", "baileys6", "baileysex", "baileysex-json"]
LISTED = KINDS[2:]


@contextmanager
def behind(kind: str, folder: Path) -> Iterator[Device]:
    """The device, opened so that its files stay behind their journal until it is closed."""
    store = DirectoryStoreBehind(kind, str(folder))
    with open_in(store, "default", create=False, read_only=False) as device:
        yield device


class DirectoryStoreBehind(directory.DirectoryStore):
    def __init__(self, kind: str, path: str, disk: Disk | None = None) -> None:
        super().__init__(kind, path, disk, background=False)


def ours(folder: Path) -> list[str]:
    """Our own files in a folder, but for the one that stays with a device."""
    names = {path.name for path in folder.iterdir()} - {STAYS}
    return [name for name in names if name.startswith(OURS)]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path, kind: str) -> Path:
    """A device of that kind, closed."""
    if kind == "baileys":
        return small_baileys(tmp_path / "device")
    source = small_baileys(tmp_path / "source")
    copy_device(f"baileys:{source}", f"{kind}:{tmp_path}/device")
    return tmp_path / "device"


def crash(folder: Path, name: str = "crashed") -> Path:
    """The folder as a power cut leaves it: the lock is gone with its process."""
    crashed = private_copy(folder, folder.with_name(name))
    for path in crashed.iterdir():
        # The files' times too: an owner tells by them whether anybody wrote since.
        times = (folder / path.name).stat()
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    for name in ("lock", "owner"):
        (crashed / f"{OURS}.{name}").unlink()
    return crashed


def lists(device: Device) -> dict[str, Any]:
    return device.get("device-list", device.ids("device-list"))


def commit_some(device: Device) -> dict[str, Any]:
    """A few commits, the last two over each other; what is there then."""
    device.set({"device-list": {"1": ["0"], "2": ["0", "1"]}})
    device.set({"device-list": {"1": None, "15551230001": None}})
    device.save_credentials(device.credentials.replace(platform="later"))
    device.set({"device-list": {"2": ["7"], "3": ["3"]}, "tctoken": {"998877665544332@lid": None}})
    return {"2": ("7",), "3": ("3",)}


def crashed_with_commits(kind: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    with behind(kind, folder) as device:
        wanted = commit_some(device)
        return crash(folder), wanted


# Recovery.


def test_commits_are_there_after_a_crash(kind: str, folder: Path) -> None:
    """A new session would be lost by a power cut, and its peer answer "Bad MAC" for ever."""
    crashed, wanted = crashed_with_commits(kind, folder)
    assert (crashed / JOURNAL).exists()
    suffix = "etf" if kind == "baileysex" else "json"
    assert not (crashed / f"device-list-3.{suffix}").exists()
    with open_device(f"{kind}:{crashed}") as device:
        assert lists(device) == wanted
        assert device.credentials.platform == "later"
        assert device.get("tctoken", ["998877665544332@lid"]) == {}
    names = {path.name for path in crashed.iterdir()}
    assert f"device-list-3.{suffix}" in names and f"device-list-1.{suffix}" not in names
    assert not ours(crashed)
    assert bytes_of(crashed) == bytes_of(folder)
    assert verify_device(f"{kind}:{crashed}") == []


def test_opening_brings_the_files_up_to_date_at_once(kind: str, folder: Path) -> None:
    """A crash right after the recovery would lose what was recovered."""
    crashed, wanted = crashed_with_commits(kind, folder)
    with behind(kind, crashed) as device:
        assert lists(device) == wanted
        assert not (crashed / JOURNAL).exists()
        again = crash(crashed, "again")
    with open_device(f"{kind}:{again}") as device:
        assert lists(device) == wanted


def test_a_crash_in_the_middle_of_a_recovery(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second power cut would leave a mix of old and new records for good."""
    crashed, wanted = crashed_with_commits(kind, folder)
    rename = Disk.rename
    for survivors in range(3):
        left = [survivors]

        def failing(self: Disk, old: str, new: str, left: list[int] = left) -> None:
            if not left[0]:
                raise OSError(5, "Input/output error")
            left[0] -= 1
            rename(self, old, new)

        with monkeypatch.context() as patch:
            patch.setattr(Disk, "rename", failing)
            with pytest.raises(StoreUnreadable):
                open_device(f"{kind}:{crashed}")
        assert (crashed / JOURNAL).exists()
    with open_device(f"{kind}:{crashed}") as device:
        assert lists(device) == wanted


def test_reading_a_crashed_folder_sees_its_commits_and_changes_nothing(
    kind: str, folder: Path
) -> None:
    """A read-only look would show an older state, or change what it looks at."""
    crashed, wanted = crashed_with_commits(kind, folder)
    before = footprint(crashed)
    with open_device(f"{kind}:{crashed}", read_only=True) as device:
        assert lists(device) == wanted
        assert device.credentials.platform == "later"
        assert device.get("tctoken", ["998877665544332@lid"]) == {}
        with pytest.raises(ReadOnly):
            device.set({"device-list": {"1": None}})
    found = verify_device(f"{kind}:{crashed}")
    assert {finding.severity for finding in found} == {"info"}
    assert any("behind the journal" in finding.what for finding in found)
    copy_device(f"{kind}:{crashed}", f"sqlite:{crashed}.db")
    with open_device(f"sqlite:{crashed}.db") as device:
        assert lists(device) == wanted
    assert footprint(crashed) == before


def test_a_crash_loses_only_what_was_not_acknowledged(kind: str, folder: Path) -> None:
    """A commit would be there in part: a session without the pre-key that it used up."""
    with behind(kind, folder) as device:
        device.set({"device-list": {"a": ["1"]}})
        size = (folder / JOURNAL).stat().st_size
        device.set({"device-list": {"a": ["2"], "b": ["2"]}})
        crashed = crash(folder)
    raw = (crashed / JOURNAL).read_bytes()
    assert size < len(raw)
    keep = {path.name: path.read_bytes() for path in crashed.iterdir()}
    times = (crashed / JOURNAL).stat().st_mtime_ns
    edges = [HEADER, HEADER + FRAME_HEAD, size, size + FRAME_HEAD, len(raw)]
    near = {edge + step for edge in edges for step in (-2, -1, 0, 1)}
    for length in sorted({*range(0, len(raw), 29), *near} - {len(raw) + 1}):
        for torn in (raw[:length], raw[:length] + bytes(len(raw) - length)):
            restore(crashed, keep)
            (crashed / JOURNAL).write_bytes(torn)
            os.utime(crashed / JOURNAL, ns=(times, times))
            wanted: dict[str, tuple[str, ...]] = {"15551230001": ("0", "7")}
            if torn == raw:
                wanted |= {"a": ("2",), "b": ("2",)}
            elif torn[:size] == raw[:size]:
                wanted |= {"a": ("1",)}
            elif 0 < length < HEADER and len(torn) > HEADER and any(torn[:HEADER]):
                # Half a header before zeros: no disk leaves that of one sector.
                continue
            with open_device(f"{kind}:{crashed}", read_only=True) as device:
                assert lists(device) == wanted, length


def restore(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        if not (folder / name).exists() or (folder / name).read_bytes() != data:
            (folder / name).write_bytes(data)


def test_a_torn_journal_is_recovered_by_opening(kind: str, folder: Path) -> None:
    """The remains of a commit that was never acknowledged would stop the device from opening."""
    with behind(kind, folder) as device:
        device.set({"device-list": {"a": ["1"]}})
        size = (folder / JOURNAL).stat().st_size
        device.set({"device-list": {"a": ["2"]}})
        crashed = crash(folder)
    with (crashed / JOURNAL).open("r+b") as file:
        file.truncate(size + FRAME_HEAD + 3)
    os.utime(crashed / JOURNAL)
    with open_device(f"{kind}:{crashed}") as device:
        assert lists(device)["a"] == ("1",)
        device.set({"device-list": {"a": ["3"]}})
    with open_device(f"{kind}:{crashed}") as device:
        assert lists(device)["a"] == ("3",)


def test_a_damaged_commit_before_a_whole_one_is_damage(kind: str, folder: Path) -> None:
    """Acknowledged commits would be dropped as if they had never been."""
    with behind(kind, folder) as device:
        ends = []
        for number in range(3):
            device.set({"device-list": {"a": [str(number)]}})
            ends.append((folder / JOURNAL).stat().st_size)
        crashed = crash(folder)
    raw = (crashed / JOURNAL).read_bytes()
    before = {name: data for name, data in bytes_of(crashed).items() if name != JOURNAL}
    for position in range(3, ends[1], 7):
        spoilt = bytearray(raw)
        spoilt[position] ^= 0x10
        (crashed / JOURNAL).write_bytes(spoilt)
        kinds = (StoreDamaged, UnsupportedVersion) if position == 3 else StoreDamaged
        for create in (False, True):
            with pytest.raises(kinds) as caught:
                open_device(f"{kind}:{crashed}", create=create)
            assert JOURNAL in caught.value.place, position
        with pytest.raises(kinds):
            open_device(f"{kind}:{crashed}", read_only=True)
        assert any(f.severity == "error" for f in verify_device(f"{kind}:{crashed}"))
        assert (crashed / JOURNAL).read_bytes() == spoilt
    after = {name: data for name, data in bytes_of(crashed).items() if name != JOURNAL}
    assert after == before


@pytest.mark.parametrize("size", [HEADER, HEADER + 1, 4096])
def test_a_journal_of_something_else_is_damage(kind: str, folder: Path, size: int) -> None:
    """Bytes that nobody understands would be removed, and perhaps commits with them."""
    (folder / JOURNAL).write_bytes(b"x" * size)
    with pytest.raises(StoreDamaged):
        open_device(f"{kind}:{folder}")
    assert (folder / JOURNAL).read_bytes() == b"x" * size


@pytest.mark.parametrize("version", [3, 4, 255])
def test_a_newer_journal_is_refused(kind: str, folder: Path, version: int) -> None:
    """An older ratchetkeep would drop commits that a newer one acknowledged."""
    crashed, _ = crashed_with_commits(kind, folder)
    raw = bytearray((crashed / JOURNAL).read_bytes())
    raw[3] = version
    (crashed / JOURNAL).write_bytes(raw)
    before = bytes_of(crashed)
    for create in (False, True):
        with pytest.raises(UnsupportedVersion) as caught:
            open_device(f"{kind}:{crashed}", create=create)
    assert JOURNAL in caught.value.place
    assert bytes_of(crashed) == before


def test_an_unreadable_journal_is_not_absence(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Acknowledged commits would be passed over, and the next ones written over them."""
    crashed, wanted = crashed_with_commits(kind, folder)
    read = Disk.read_large

    def failing(self: Disk, path: str) -> bytes:
        if path.endswith(JOURNAL):
            raise OSError(24, "Too many open files")
        return read(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "read_large", failing)
        for create in (False, True):
            with pytest.raises(StoreUnreadable):
                open_device(f"{kind}:{crashed}", create=create)
    with open_device(f"{kind}:{crashed}") as device:
        assert lists(device) == wanted


# Other programs.


def later(path: Path) -> None:
    """Make a file younger than the journal beside it, without waiting."""
    journal_time = (path.parent / JOURNAL).stat().st_mtime_ns
    os.utime(path, ns=(journal_time + 10**9, journal_time + 10**9))


def test_what_another_program_wrote_after_a_crash_is_not_undone(kind: str, folder: Path) -> None:
    """Its newer session would be put back to an older state, which breaks the conversation."""
    crashed, _ = crashed_with_commits(kind, folder)
    creds = "creds.etf" if kind == "baileysex" else "creds.json"
    raw = (crashed / creds).read_bytes()
    (crashed / creds).write_bytes(raw[:-1] + b" ")
    later(crashed / creds)
    before = bytes_of(crashed)
    with pytest.raises(StoreDamaged, match="another program") as caught:
        open_device(f"{kind}:{crashed}")
    assert creds in caught.value.place and "repair --keep-files" in caught.value.remedy
    with pytest.raises(StoreDamaged):
        open_device(f"{kind}:{crashed}", read_only=True)
    assert bytes_of(crashed) == before


def test_what_another_program_wrote_elsewhere_stays(kind: str, folder: Path) -> None:
    """A sound folder would be refused, or the other program's new record be lost."""
    crashed, wanted = crashed_with_commits(kind, folder)
    suffix = "etf" if kind == "baileysex" else "json"
    shutil.copy(crashed / f"pre-key-1.{suffix}", crashed / f"pre-key-2.{suffix}")
    later(crashed / f"pre-key-2.{suffix}")
    with open_device(f"{kind}:{crashed}") as device:
        assert lists(device) == wanted
        assert device.ids("pre-key") == ["1", "2"]


def test_moving_the_journal_away_keeps_what_the_other_program_wrote(
    kind: str, folder: Path
) -> None:
    """The advice in the error would not help."""
    crashed, _ = crashed_with_commits(kind, folder)
    (crashed / JOURNAL).rename(crashed.with_name("journal"))
    with open_device(f"{kind}:{crashed}") as device:
        assert list(lists(device)) == ["15551230001"]


# A running owner.


def test_nothing_of_ours_stays_after_closing(kind: str, folder: Path) -> None:
    """Node would meet files that it does not know, or keys would lie in a forgotten journal."""
    with open_device(f"{kind}:{folder}") as device:
        commit_some(device)
        assert (folder / JOURNAL).stat().st_mode & 0o777 == 0o600
    assert not ours(folder)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_looking_makes_no_journal(kind: str, folder: Path) -> None:
    """Opening a device for reading would write to its folder."""
    before = footprint(folder)
    with open_device(f"{kind}:{folder}") as device:
        assert lists(device)
        with device.transaction():
            pass
        assert not (folder / JOURNAL).exists()
    assert footprint(folder) == before


def test_the_owner_never_sees_an_old_file(kind: str, folder: Path) -> None:
    """A session would slip back to what its file still holds."""
    with behind(kind, folder) as device:
        wanted = commit_some(device)
        store = device._store
        keys = [Key("device-list", "2"), Key("device-list", "3")]
        raw = store.read("default", [*keys, Key("tctoken", "998877665544332@lid")])
        assert {key.id: store.decode("default", key, raw[key]) for key in raw} == wanted


def test_files_follow_by_themselves(kind: str, folder: Path) -> None:
    """Another program that only reads would see an old state for as long as the owner runs."""
    suffix = "etf" if kind == "baileysex" else "json"
    with open_device(f"{kind}:{folder}") as device:
        commit_some(device)
        wait = threading.Event()
        for _ in range(1000):
            if (folder / f"device-list-3.{suffix}").exists():
                break
            wait.wait(0.01)
        assert (folder / f"device-list-3.{suffix}").exists()


def test_a_full_journal_begins_again(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal would fill the disk; or commits of before would come back after a crash."""
    monkeypatch.setattr(directory, "JOURNAL_LIMIT", 1000)
    sizes = []
    restarts: list[None] = []
    restart = Journal.restart
    monkeypatch.setattr(Journal, "restart", lambda self: restarts.append(restart(self)))
    with behind(kind, folder) as device:
        for number in range(60):
            device.set({"device-list": {str(number % 7): [str(number)]}})
            sizes.append((folder / JOURNAL).stat().st_size)
            if number % 9 == 0:
                crashed = crash(folder)
                with open_device(f"{kind}:{crashed}") as other:
                    found = lists(other)
                assert found[str(number % 7)] == (str(number),)
                assert found == lists(device)
                shutil.rmtree(crashed)
        wanted = lists(device)
    assert len(restarts) > 2 and max(sizes) < 2 * 1000 + 1500
    with open_device(f"{kind}:{folder}") as device:
        assert lists(device) == wanted


def test_frames_of_an_older_generation_are_not_read(tmp_path: Path) -> None:
    """Old commits that still lie in the file would be made again over newer ones."""
    path = str(tmp_path / "journal")
    one = Journal(Disk(), path)
    for number in range(4):
        one.append([("a", bytes([number]) * 40)])
    one.restart()
    assert Journal(Disk(), path).read() == []
    one.append([("b", b"new")])
    assert os.path.getsize(path) > one.size
    assert Journal(Disk(), path).read() == [[("b", b"new")]]


def test_a_frame_of_the_same_length_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    """The old second commit would follow the new first one: they are of one length."""
    path = str(tmp_path / "journal")
    one = Journal(Disk(), path)
    one.append([("a", b"1")])
    one.append([("a", b"2")])
    one.restart()
    one.append([("a", b"3")])
    assert Journal(Disk(), path).read() == [[("a", b"3")]]


def test_a_journal_keeps_what_it_is_given(tmp_path: Path) -> None:
    """A name or the bytes of a file would change in the journal."""
    path = str(tmp_path / "journal")
    one = Journal(Disk(), path)
    commits: list[list[journal.Entry]] = [
        [("a", b""), ("ü", None), ("b", bytes(range(256)) * 300)],
        [],
        [("a", one.path.encode())],
    ]
    for commit in commits:
        one.append(commit)
    assert Journal(Disk(), path).read() == commits
    assert one.size == os.path.getsize(path)
    one.remove()
    assert not os.path.exists(path) and Journal(Disk(), path).read() == []


def test_a_commit_that_holds_a_journal_is_no_frame(tmp_path: Path) -> None:
    """A record that looks like a frame would be taken for a commit, or for later damage."""
    path = str(tmp_path / "journal")
    one = Journal(Disk(), path)
    one.append([("a", b"1")])
    inside = Path(path).read_bytes()
    one.append([("a", inside)])
    torn = Path(path).read_bytes()[:-1]
    Path(path).write_bytes(torn)
    assert Journal(Disk(), path).read() == [[("a", b"1")]]


def test_a_journal_cut_at_any_length_holds_its_whole_commits(tmp_path: Path) -> None:
    """A commit that was acknowledged would be lost, or one that never was be taken in part."""
    path = tmp_path / "journal"
    one, ends = Journal(Disk(), str(path)), []
    commits: list[list[journal.Entry]] = [[("a", bytes(40))], [("b", None)], [("c", b"x" * 90)]]
    for commit in commits:
        one.append(commit)
        ends.append(one.size)
    raw = path.read_bytes()
    for length in range(len(raw) + 1):
        path.write_bytes(raw[:length])
        assert Journal(Disk(), str(path)).read() == commits[: sum(end <= length for end in ends)]
        path.write_bytes(raw[:length] + b"\xff" * 50)
        if length >= HEADER:
            found = Journal(Disk(), str(path)).read()
            assert found == commits[: sum(end <= length for end in ends)]


def test_a_failed_commit_is_not_half_taken(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory would hold what the disk does not, and a later commit build on it."""
    with behind(kind, folder) as device:
        device.set({"device-list": {"a": ["1"]}})

        def failing(self: OpenFile, offset: int, data: bytes) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(OpenFile, "write_at", failing)
            with pytest.raises(CommitFailed, match="No space left"):
                device.set({"device-list": {"a": ["2"], "b": ["2"]}})
        assert lists(device)["a"] == ("1",) and "b" not in lists(device)
        with pytest.raises(CommitFailed):
            device.set({"device-list": {"c": ["3"]}})
    with open_device(f"{kind}:{folder}") as device:
        assert lists(device)["a"] == ("1",) and device.ids("device-list") == ["15551230001", "a"]


# What a crash leaves.


def test_leftovers_are_removed_on_opening(kind: str, folder: Path) -> None:
    """Keys would lie about; and BaileysEx fail at its next save, whose name is taken."""
    suffix = LAYOUTS[kind].suffix
    theirs = [f"creds{suffix}.tmp-1", f"session-1.0{suffix}.tmp-23"]
    names = [f"{OURS}.tmp", *(theirs if kind in LISTED else [])]
    for name in [*names, *theirs]:
        (folder / name).write_bytes(b"half")
    (folder / f"notes{suffix}.tmp-x").write_bytes(b"mine")
    with open_device(f"{kind}:{folder}", read_only=True) as device:
        assert device.ids("session") == ["998877665544332_1.7"]
    assert all((folder / name).exists() for name in names)
    with open_device(f"{kind}:{folder}") as device:
        assert [name for name in names if (folder / name).exists()] == []
        assert device.ids("session") == ["998877665544332_1.7"]
    assert (folder / f"notes{suffix}.tmp-x").exists()
    assert all((folder / name).exists() is (kind not in LISTED) for name in theirs)


def test_a_stale_lock_stops_nobody(kind: str, folder: Path) -> None:
    """A device could not be opened after a crash without a command."""
    (folder / f"{OURS}.lock").write_bytes(b"")
    (folder / f"{OURS}.owner").write_text('{"pid": 1, "host": "x", "since": "y"}')
    with open_device(f"{kind}:{folder}") as device:
        assert lists(device)
    assert not ours(folder)


# BaileysEx's manifest.


class Counting(Disk):
    """Counts how often each name is put in its place."""

    def __init__(self) -> None:
        self.renamed: list[str] = []

    def rename(self, old: str, new: str) -> None:
        self.renamed.append(os.path.basename(new))
        super().rename(old, new)


def manifest_ids(folder: Path) -> set[str]:
    return set(listed_in(folder).get("device-list", []))


@pytest.mark.parametrize("kind", LISTED)
def test_the_manifest_is_right_after_settling(kind: str, tmp_path: Path) -> None:
    """BaileysEx would not find a new record, or look for one that is gone."""
    copy_device(f"baileys:{BOB}", f"{kind}:{tmp_path}/d")
    folder, disk = tmp_path / "d", Counting()
    here, manifest = manifest_ids(folder), LAYOUTS[kind].manifest
    store = directory.DirectoryStore(kind, str(folder), disk)
    with open_in(store, "default", create=False, read_only=False) as device:

        def commit(records: dict[str, Any], writes: int) -> None:
            disk.renamed.clear()
            device.set(records)
            store._follower.settle()
            assert disk.renamed.count(manifest) == writes

        commit({"device-list": {"1": ["0"], "a/b": ["0"], "2": ["0"]}}, 1)
        assert manifest_ids(folder) == here | {"1", "2", "a/b"}
        commit({"device-list": {"1": ["5"]}}, 0)
        commit({"device-list": {"1": None, "3": ["0"]}, "tctoken": {"x": None}}, 1)
        assert manifest_ids(folder) == here | {"2", "3", "a/b"}
        commit({"device-list": {"none": None}}, 0)
        with device.transaction() as outer:
            outer.set({"device-list": {"4": ["0"]}})
            outer.set({"device-list": {"4": None, "2": None}})
        store._follower.settle()
        assert manifest_ids(folder) == here | {"3", "a/b"}
        disk.renamed.clear()
        device.save_credentials(device.credentials.replace(platform="x"))
        store._follower.settle()
        assert manifest not in disk.renamed
    assert manifest_ids(folder) == here | {"3", "a/b"}
    with open_device(f"{kind}:{folder}") as device:
        assert "a/b" in device.ids("device-list")


@pytest.mark.parametrize("kind", LISTED)
def test_a_missing_manifest_comes_back_with_a_commit(kind: str, tmp_path: Path) -> None:
    """BaileysEx would go on guessing ids off file names."""
    copy_device(f"baileys:{BOB}", f"{kind}:{tmp_path}/d")
    folder, manifest = tmp_path / "d", tmp_path / "d" / LAYOUTS[kind].manifest
    raw = manifest.read_bytes()
    manifest.unlink()
    with open_device(f"{kind}:{folder}") as device:
        device.save_credentials(device.credentials.replace(platform="x"))
    assert manifest.read_bytes() == raw


def test_clearing_and_removing_leave_nothing(kind: str, folder: Path) -> None:
    """Keys of a device that is gone would stay on the disk."""
    with open_device(f"{kind}:{folder}") as device:
        device.clear()
        creds = device.credentials
    files = {path.name for path in folder.iterdir()} - {LAYOUTS[kind].manifest}
    assert files == {"creds.etf" if kind == "baileysex" else "creds.json"}
    with open_device(f"{kind}:{folder}") as device:
        assert device.credentials == creds
        assert list(device._store.scan("default")) == [CREDENTIALS]
    store = directory.DirectoryStore(kind, str(folder))
    store.acquire("default", read_only=False, create=False)
    store.remove("default")
    assert not folder.exists()


def test_times_of_the_files_do_not_matter_after_a_clean_close(kind: str, folder: Path) -> None:
    """A folder that was restored from a backup, or touched, would be refused."""
    with open_device(f"{kind}:{folder}") as device:
        commit_some(device)
    for path in folder.iterdir():
        os.utime(path, (time.time() + 9999, time.time() + 9999))
    with open_device(f"{kind}:{folder}") as device:
        assert "3" in lists(device)
