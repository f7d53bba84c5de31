"""The journal as a file that stays open and grows ahead of its commits, and files that follow late:
what that must not cost."""

from __future__ import annotations

import errno
import gc
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import msgpack

from _helpers import GOLDEN, MANIFEST, list_in, listed_in, manifest_in, small_baileys
from _power import commits, folder
from ratchetkeep import (
    CommitFailed,
    Device,
    StoreDamaged,
    copy_device,
    open_device,
    repair_device,
    verify_device,
)
from ratchetkeep.device import open_in
from ratchetkeep.errors import OwnershipLost
from ratchetkeep.model import Key
from ratchetkeep.stores import _follower, directory, journal
from ratchetkeep.stores._follower import Follower
from ratchetkeep.stores.base import DEFAULT_DEVICE, Prepared
from ratchetkeep.stores.directory import DirectoryStore
from ratchetkeep.stores.disk import Disk, OpenFile
from ratchetkeep.stores.journal import HEADER, SMALL, STEP, Journal
from ratchetkeep.stores.layouts import LAYOUTS
from ratchetkeep.testing.faults import SimulatedDisk
from test_disk_errors import memory_of, opened
from test_journal import JOURNAL, behind, crash, later, lists

KINDS = ["baileys", "baileysex", "baileysex-json"]
LISTED = KINDS[1:]
LIMIT = 4 * STEP


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(tmp_path: Path, kind: str) -> Path:
    """A device of that kind, closed."""
    return made(kind, tmp_path / "device")


def made(kind: str, target: Path) -> Path:
    if kind == "baileys":
        return small_baileys(target)
    small_baileys(target.with_name("source"))
    copy_device(f"baileys:{target.with_name('source')}", f"{kind}:{target}")
    return target


def put(device: Device, number: int) -> None:
    device.set({"device-list": {"a": [str(number)]}})


def put_many(device: Device) -> int:
    """So many commits that the journal grows ahead of them; the last one's number."""
    for number in range(SMALL + 4):
        put(device, number)
    return SMALL + 3


# A journal that is larger than what is in it.


def test_a_journal_grows_ahead_of_its_commits(tmp_path: Path) -> None:
    """Every sync would change the file's size too, which takes twice as long."""
    path = tmp_path / "journal"
    one = Journal(Disk(), str(path), limit=LIMIT)
    sizes = set()
    count = 0
    while one.size < LIMIT - 4000:
        one.append([("a", bytes([count % 251]) * 3000)])
        count += 1
        if count > SMALL:
            sizes.add(path.stat().st_size)
    assert sizes == {STEP, 2 * STEP, 3 * STEP, LIMIT}
    assert len(Journal(Disk(), str(path)).read()) == count
    one.restart()
    assert Journal(Disk(), str(path)).read() == []
    one.append([("b", b"new")])
    assert path.stat().st_size == LIMIT > one.size
    assert Journal(Disk(), str(path)).read() == [[("b", b"new")]]


def test_a_program_with_a_few_commits_waits_for_no_zeros(tmp_path: Path) -> None:
    """Opening a device for one change would write a quarter of a megabyte."""
    path = tmp_path / "journal"
    one = Journal(Disk(), str(path), limit=LIMIT)
    for _ in range(SMALL):
        one.append([("a", b"1")])
    assert path.stat().st_size == one.size


def test_a_grown_journal_is_recovered(kind: str, place: Path) -> None:
    """The zeros behind the last commit would be taken for damage, or hide commits."""
    with behind(kind, place) as device:
        last = put_many(device)
        assert (place / JOURNAL).stat().st_size == STEP
        crashed = crash(place)
    with open_device(f"{kind}:{crashed}", read_only=True) as device:
        assert lists(device)["a"] == (str(last),)
    with open_device(f"{kind}:{crashed}") as device:
        assert lists(device)["a"] == (str(last),)
    assert verify_device(f"{kind}:{crashed}") == []
    assert not (crashed / JOURNAL).exists()


def test_a_torn_commit_in_a_grown_journal_is_dropped(kind: str, place: Path) -> None:
    """What a power cut left of a commit that never returned would stop the device from opening."""
    with behind(kind, place) as device:
        last = put_many(device)
        size = device._store._journal.size  # type: ignore[attr-defined]
        put(device, last + 1)
        crashed = crash(place)
    raw = (crashed / JOURNAL).read_bytes()
    end = len(raw.rstrip(b"\0")) + 2
    for hole in range(size, end, 7):
        torn = raw[:hole] + bytes(9) + raw[hole + 9 :]
        (crashed / JOURNAL).write_bytes(torn)
        os.utime(crashed / JOURNAL)
        whole = torn == raw
        with open_device(f"{kind}:{crashed}", read_only=True) as device:
            assert lists(device)["a"] == (str(last + whole),), hole


def test_damage_in_a_grown_journal_is_seen(kind: str, place: Path) -> None:
    """Commits that were acknowledged would be dropped because one before them rotted."""
    with behind(kind, place) as device:
        put_many(device)
        crashed = crash(place)
    raw = bytearray((crashed / JOURNAL).read_bytes())
    raw[HEADER + 60] ^= 1
    (crashed / JOURNAL).write_bytes(raw)
    with pytest.raises(StoreDamaged, match="later ones exist"):
        open_device(f"{kind}:{crashed}")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_disk_that_is_full_when_the_journal_grows(kind: str, error: int) -> None:
    """A commit would be told as failed and come back, or memory hold what the disk does not."""
    disk = SimulatedDisk()
    with folder(disk, kind) as store:
        device = opened(store)
        commits()[0].run(device)
        for number in range(SMALL - 2):
            put(device, number)
        before = memory_of(device)
        disk.fail("write_ahead", error)
        for _ in range(2):
            with pytest.raises(CommitFailed) as caught:
                device.set({"device-list": {"a": ["new"], "b": ["new"]}})
            assert caught.value.remedy
        assert memory_of(device) == before
        disk.heal()
        device.close()
    with folder(disk, kind) as store:
        device = opened(store, create=False)
        assert lists(device)["a"] == (str(SMALL - 3),)
        put_many(device)
        device.close()


def test_a_reader_beside_a_writing_owner_sees_no_damage(tmp_path: Path) -> None:
    """A commit that is half written when it is looked at, with the next one whole behind it, would
    be called damage."""
    path = tmp_path / "journal"
    one = Journal(Disk(), str(path), limit=LIMIT)
    for number in range(4):
        one.append([("a", bytes([number]) * 3000)])
    whole = path.read_bytes()
    torn = bytearray(whole)
    torn[HEADER + 4000 : HEADER + 5000] = bytes(1000)

    class Moving(Disk):
        seen = 0

        def read_large(self, path: str) -> bytes:
            self.seen += 1
            return bytes(torn) if self.seen == 1 else whole

    assert len(Journal(Moving(), str(path)).read()) == 4
    path.write_bytes(torn)
    with pytest.raises(StoreDamaged):
        Journal(Disk(), str(path)).read()


# Journals of older versions.


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("version", ["1", "2"])
def test_a_journal_of_any_version_is_carried_out(kind: str, place: Path, version: str) -> None:
    """An update of ratchetkeep after a crash would lose what was acknowledged before."""
    shutil.copy(GOLDEN / "journal" / version / f"{kind}.journal", place / JOURNAL)
    assert (place / JOURNAL).read_bytes()[3] == int(version)
    with open_device(f"{kind}:{place}", read_only=True) as device:
        _holds_the_golden_commits(device)
    with open_device(f"{kind}:{place}") as device:
        _holds_the_golden_commits(device)
    assert verify_device(f"{kind}:{place}") == []
    if kind == "baileysex":
        ids = listed_in(place)
        assert (ids["device-list"], "tctoken" in ids) == (["2", "3"], False)


def _holds_the_golden_commits(device: Device) -> None:
    assert lists(device) == {"2": ("7",), "3": ("3",)}
    assert device.get("lid-mapping", ["5"]) == {"5": "6"}
    assert device.ids("tctoken") == []


def test_a_name_that_is_no_file_is_no_file(tmp_path: Path) -> None:
    """A journal could write outside of its folder."""
    for version, name in ((1, "session/1"), (2, "../creds/1"), (2, "/etc/x"), (1, "../x")):
        path = tmp_path / "journal"
        path.write_bytes(
            journal._header(bytes(16), version)
            + journal._frame(bytes(16), 0, msgpack.encode([(name, b"x")]))
        )
        with pytest.raises(StoreDamaged):
            Journal(Disk(), str(path)).read()


# A file that is held open can be moved away.


def removed(path: Path) -> None:
    path.unlink()


def moved(path: Path) -> None:
    path.rename(path.with_name(".ratchetkeep.away"))


def replaced(path: Path) -> None:
    raw = path.read_bytes()
    path.rename(path.with_name(".ratchetkeep.away"))
    path.write_bytes(raw)


@pytest.mark.parametrize("away", [removed, moved, replaced])
@pytest.mark.parametrize("system", ["linux", "other"])
def test_a_journal_that_is_no_longer_in_its_place(
    kind: str,
    place: Path,
    away: Callable[[Path], None],
    system: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Commits would be acknowledged that no opening ever finds."""
    if system == "other":  # it has no /proc
        monkeypatch.setattr(OpenFile, "_name_now", lambda self: "")
    device = open_device(f"{kind}:{place}")
    put(device, 1)
    away(place / JOURNAL)
    for _ in range(2):
        with pytest.raises((OwnershipLost, CommitFailed)):
            put(device, 2)
    with pytest.raises(
        (OwnershipLost, CommitFailed)
    ):  # nor is anything read that may be old by now
        lists(device)
    if away is replaced:
        # Whoever put that there wants it carried out, or does not know what it does.
        with pytest.raises(OwnershipLost):
            device.close()
        assert (place / JOURNAL).exists()
    else:
        device.close()
        assert not (place / JOURNAL).exists()
    with open_device(f"{kind}:{place}") as device:
        assert lists(device)["a"] == ("1",)


def test_a_commit_does_not_ask_for_the_journal_s_status(
    kind: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux would give the journal a new time with every write, and each sync take a third
    longer."""
    asked: list[str] = []
    with behind(kind, place) as device:
        put(device, 1)
        for verb in ("stat", "lstat", "fstat"):
            real = getattr(os, verb)

            def recorded(file: Any, real: Any = real, **how: Any) -> Any:
                asked.append(str(file))
                return real(file, **how)

            monkeypatch.setattr(os, verb, recorded)
        put(device, 2)
        monkeypatch.undo()
    assert all(path.endswith(".lock") for path in asked)


def test_a_journal_that_somebody_put_there_is_not_written_over(kind: str, place: Path) -> None:
    """The commits in it would be lost without a word."""
    with open_device(f"{kind}:{place}") as device:
        (place / JOURNAL).write_bytes(b"mine")
        with pytest.raises(CommitFailed):
            put(device, 1)
    assert (place / JOURNAL).read_bytes() == b"mine"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_one_descriptor_is_held_until_closing(kind: str, place: Path) -> None:
    """A server with thousands of devices, opened and closed in turn, would run out of them."""
    before = descriptors()
    for _ in range(3):
        with open_device(f"{kind}:{place}") as device:
            held = descriptors()
            for number in range(3):
                put(device, number)
            assert descriptors() == held + 1
        assert descriptors() == before
        with open_device(f"{kind}:{place}", read_only=True):
            assert descriptors() == before


def test_a_descriptor_goes_with_a_failed_or_forgotten_journal(tmp_path: Path) -> None:
    """Devices that failed, or that nobody closed, would hold a descriptor each for ever."""
    gc.collect()  # those of other tests
    before = descriptors()
    one = Journal(Disk(), str(tmp_path / "journal"))
    one.append([("a", b"1")])
    assert descriptors() == before + 1
    del one
    gc.collect()
    assert descriptors() == before
    with pytest.raises(OSError, match="no such"):
        Journal(NoFolderSync(), str(tmp_path / "other")).append([("a", b"1")])
    assert descriptors() == before


class NoFolderSync(Disk):
    def sync_folder(self, path: str) -> None:
        raise OSError(errno.EIO, "no such luck")


@pytest.mark.parametrize("verb", ["write", "write_at", "is_in_place"])
def test_an_interrupted_commit_is_not_built_on(
    kind: str, place: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while a commit is written would leave memory and disk apart, and nobody know."""
    interrupted_folder(kind, place, verb, monkeypatch)


def interrupted_folder(kind: str, place: Path, verb: str, patch: pytest.MonkeyPatch) -> None:
    """Interrupt a commit; what the store does then, and what opening it again finds."""
    key = Key("device-list", "a")
    store = DirectoryStore(kind, str(place), background=False)
    store.acquire(DEFAULT_DEVICE, read_only=False, create=False)

    def apply(number: int) -> bytes:
        batch = store.prepare(DEFAULT_DEVICE, {key: (str(number),)}, None)
        store.apply(batch)
        return batch.changes[key] or b""

    before = [apply(number) for number in range(SMALL + 4)][-1]
    real = getattr(OpenFile, verb)

    def interrupted(self: OpenFile, *args: Any) -> Any:
        real(self, *args)
        raise KeyboardInterrupt

    with patch.context() as inner:
        inner.setattr(OpenFile, verb, interrupted)
        with pytest.raises(KeyboardInterrupt):
            apply(99)
    assert store.read(DEFAULT_DEVICE, [key]) == {key: before}
    with pytest.raises(CommitFailed):
        apply(100)
    store.release(DEFAULT_DEVICE)
    with open_device(f"{kind}:{place}") as device:
        assert lists(device)["a"] in ((str(SMALL + 3),), ("99",))


def test_many_batches_are_one_sync(kind: str) -> None:
    """Commits that wait for one another would each wait for the disk."""
    disk = SimulatedDisk()
    with folder(disk, kind) as store:
        device = opened(store)
        put(device, 0)
        batches = [
            store.prepare(DEFAULT_DEVICE, {Key("device-list", str(n % 3)): (str(n),)}, None)
            for n in range(7)
        ]
        gone = Prepared(DEFAULT_DEVICE, {Key("device-list", "2"): None})
        before = len(disk.steps)
        store.apply(*batches, gone)
        assert disk.steps[before:] == ["write_at", "sync"]
        keys = [Key("device-list", str(n)) for n in range(3)]
        cut = disk.after_power_cut(random.Random(1))
        assert store.read(DEFAULT_DEVICE, keys).keys() == set(keys[:2])
        device.close()
    with folder(cut, kind) as store:
        assert lists(opened(store, create=False)) == {"a": ("0",), "0": ("6",), "1": ("4",)}


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("verb", ["rename", "sync_folder"])
def test_a_commit_that_fills_the_journal_is_told_as_durable(
    kind: str, verb: str, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client would take it for undone though it is there after a restart; or nobody would be
    told that the files stay behind."""
    monkeypatch.setattr(directory, "JOURNAL_LIMIT", 1000)
    disk = SimulatedDisk()
    with folder(disk, kind) as store:
        device = opened(store)
        put(device, 0)
        disk.fail(verb, error)
        device.set({"device-list": {"a": [str(number) for number in range(400)]}})
        assert len(lists(device)["a"]) == 400
        disk.heal()
        for _ in range(2):
            with pytest.raises(CommitFailed, match=f"behind: {os.strerror(error)}") as caught:
                put(device, 1)
            assert "ratchetkeep" in caught.value.remedy
        cut = disk.after_power_cut(random.Random(1))
        with pytest.raises(CommitFailed, match="behind"):
            device.close()
    for left in (disk, cut):
        with folder(left, kind) as store:
            device = opened(store, create=False)
            assert len(lists(device)["a"]) == 400
            put(device, 1)
            device.close()
        assert f"/device/{JOURNAL}" not in left.files()


def test_a_full_journal_whose_folder_is_lost_after_a_commit(
    kind: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A durable commit would be told as failed because the lock went just after it."""
    monkeypatch.setattr(directory, "JOURNAL_LIMIT", 100)
    device = open_device(f"{kind}:{place}")
    settle = DirectoryStore._settle

    def losing(self: DirectoryStore, *, end: bool) -> None:
        (place / ".ratchetkeep.lock").unlink(missing_ok=True)
        settle(self, end=end)

    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStore, "_settle", losing)
        put(device, 1)
    with pytest.raises(OwnershipLost):
        put(device, 2)
    with pytest.raises(OwnershipLost):
        device.close()
    with open_device(f"{kind}:{place}") as device:
        assert lists(device)["a"] == ("1",)


# Files that follow after a pause.


class Counting(Disk):
    """Counts what is put in its place."""

    def __init__(self) -> None:
        self.renamed: list[str] = []

    def rename(self, old: str, new: str) -> None:
        self.renamed.append(os.path.basename(new))
        super().rename(old, new)


@pytest.fixture
def long_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing follows by itself while a test runs."""
    monkeypatch.setattr(_follower, "PAUSE", 3600.0)
    monkeypatch.setattr(_follower, "LIST_PAUSE", 3600.0)
    yield


@pytest.mark.usefixtures("long_pauses")
def test_a_file_of_many_commits_is_written_once(kind: str, place: Path) -> None:
    """Every message would rewrite its session's file, and slow the next commit down."""
    disk = Counting()
    store = DirectoryStore(kind, str(place), disk)
    with open_in(store, "default", create=False, read_only=False) as device:
        for number in range(50):
            put(device, number)
        assert lists(device)["a"] == ("49",)
        assert disk.renamed == []
    # Closing waits for the files, and for no pause.
    assert len(disk.renamed) == (1 if kind == "baileys" else 2)
    with open_device(f"{kind}:{place}") as device:
        assert lists(device)["a"] == ("49",)


@pytest.mark.usefixtures("long_pauses")
def test_a_full_journal_waits_for_no_pause(
    kind: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit would hang until the pause is over."""
    monkeypatch.setattr(directory, "JOURNAL_LIMIT", 2000)
    with open_device(f"{kind}:{place}") as device:
        for number in range(100):
            put(device, number)
        crashed = crash(place)
    for path in (crashed, place):
        with open_device(f"{kind}:{path}") as device:
            assert lists(device)["a"] == ("99",)


@pytest.mark.usefixtures("long_pauses")
def test_stopping_waits_for_nothing(tmp_path: Path) -> None:
    """A device whose disk failed would not close before the pause is over."""
    follower = Follower(Disk(), str(tmp_path), check=lambda: None, background=True)
    follower.add([("a", b"1")])
    follower.stop()
    assert list(tmp_path.iterdir()) == []


def test_a_kill_between_a_commit_and_its_files(kind: str, place: Path) -> None:
    """Files that follow late are younger than the journal: they would be taken for another
    program's, and the device be refused."""
    suffix = "etf" if kind == "baileysex" else "json"
    with behind(kind, place) as device:
        put(device, 1)
        put(device, 2)
        device.set({"device-list": {"b": ["1"]}})
        device._store.follow()  # type: ignore[attr-defined]
        put(device, 3)
        device.set({"device-list": {"b": None, "c": ["1"]}})
        crashed = crash(place)
    names = [f"device-list-a.{suffix}", f"device-list-b.{suffix}"]
    for name in filter(None, [*names, LAYOUTS[kind].manifest]):
        later(crashed / name)
    with open_device(f"{kind}:{crashed}") as device:
        found = lists(device)
    assert (found["a"], found["c"], "b" in found) == (("3",), ("1",), False)
    assert verify_device(f"{kind}:{crashed}") == []


# BaileysEx's manifest: the journal holds what changes in it.


def ids_of(place: Path) -> set[str]:
    return set(listed_in(place).get("device-list", []))


@pytest.fixture(params=LISTED)
def elixir(request: pytest.FixtureRequest) -> str:
    """Which of BaileysEx's backends."""
    return str(request.param)


@pytest.fixture
def listed(elixir: str, tmp_path: Path) -> Path:
    return made(elixir, tmp_path / "listed")


def test_a_commit_does_not_hold_all_ids(elixir: str, listed: Path) -> None:
    """A commit with a new id would grow with the device, to megabytes for a large one."""
    many = {str(number): "1" for number in range(3000)}
    grown = []
    for records in ({}, many):
        with behind(elixir, listed) as device:
            device.set({"lid-mapping": {**records, "0": "0"}, "device-list": {"x": None}})
            store: Any = device._store
            size = store._journal.size
            device.set({"device-list": {"x": ["0"]}})
            grown.append(store._journal.size - size)
    assert grown[0] == grown[1] < 300


def test_ids_of_a_crash_are_in_the_manifest(elixir: str, listed: Path) -> None:
    """BaileysEx would not find a record that was acknowledged, or look for one that is gone."""
    before = ids_of(listed)
    with behind(elixir, listed) as device:
        device.set({"device-list": {"1": ["0"], "a/b": ["0"], "2": ["0"]}})
        device._store.follow()  # type: ignore[attr-defined]
        device.set({"device-list": {"1": None, "3:4": ["0"]}})
        crashed = crash(listed)
        assert ids_of(crashed) == before | {"1", "2", "a/b"}
    with open_device(f"{elixir}:{crashed}", read_only=True) as device:
        assert set(device.ids("device-list")) == before | {"2", "a/b", "3:4"}
    open_device(f"{elixir}:{crashed}").close()
    assert ids_of(crashed) == ids_of(listed) == before | {"2", "a/b", "3:4"}


def test_ids_that_another_program_adds_after_a_crash_stay(elixir: str, listed: Path) -> None:
    """The manifest would be put back to what it was, without the other program's new record."""
    with behind(elixir, listed) as device:
        device.set({"device-list": {"1": ["0"]}})
        crashed = crash(listed)
    suffix = LAYOUTS[elixir].suffix
    old, new = f"device-list-15551230001{suffix}", f"device-list-a__b{suffix}"
    shutil.copy(crashed / old, crashed / new)
    ids = listed_in(crashed)
    ids["device-list"].append("a/b")
    later(list_in(crashed, ids))
    open_device(f"{elixir}:{crashed}").close()
    assert {"1", "a/b"} <= ids_of(crashed)


def test_a_list_of_before_the_first_commit_that_another_program_changed(
    elixir: str, listed: Path
) -> None:
    """Its new ids would be dropped, where the journal began without a manifest."""
    manifest_in(listed)[0].unlink()
    with behind(elixir, listed) as device:
        device.set({"device-list": {"1": ["0"]}})
        device.set({"device-list": {"2": ["0"]}})
        device._store.follow()  # type: ignore[attr-defined]
        crashed = crash(listed)
    later(manifest_in(crashed)[0])
    again = crash_copy(crashed)
    open_device(f"{elixir}:{again}").close()
    assert {"1", "2"} <= ids_of(again)
    later(list_in(crashed, {**listed_in(crashed), "lid-mapping": ["9"]}))
    with pytest.raises(StoreDamaged, match="another program"):
        open_device(f"{elixir}:{crashed}")


def crash_copy(crashed: Path) -> Path:
    return Path(shutil.copytree(crashed, crashed.with_name("again")))


@pytest.mark.parametrize("damage", [b"", b"\x83", b"\x83garbage", b'{"key_index":'])
def test_a_damaged_manifest_beside_a_journal_that_changes_it(
    elixir: str, listed: Path, damage: bytes
) -> None:
    """Ids that only the manifest knew would be dropped unseen; or nothing could mend it."""
    with behind(elixir, listed) as device:
        device.set({"device-list": {"a:b": ["0"]}})
        crashed = crash(listed)
    manifest = manifest_in(crashed)[0]
    manifest.write_bytes(damage)
    os.utime(manifest, ns=(0, 0))
    before = {path.name: path.read_bytes() for path in crashed.iterdir()}
    with pytest.raises(StoreDamaged) as caught:
        open_device(f"{elixir}:{crashed}")
    assert manifest.name in caught.value.place
    assert {path.name: path.read_bytes() for path in crashed.iterdir()} == before
    repair_device(f"{elixir}:{crashed}")
    with open_device(f"{elixir}:{crashed}") as device:
        assert device.get("device-list", ["a:b"]) == {"a:b": ("0",)}


def test_a_manifest_that_vanished_beside_a_journal_that_changes_it(
    elixir: str, listed: Path
) -> None:
    """The device would not open, or the ids of its last commits be guessed."""
    with behind(elixir, listed) as device:
        device.set({"device-list": {"a:b": ["0"]}})
        crashed = crash(listed)
    manifest_in(crashed)[0].unlink()
    open_device(f"{elixir}:{crashed}").close()
    assert "a:b" in ids_of(crashed)


def unsynced_manifest(tmp_path: Path) -> None:
    """A manifest that another program wrote without a sync, and a commit that changes it."""
    disk = SimulatedDisk()
    with folder(disk, "baileysex") as store:
        device = opened(store)
        commits()[0].run(device)
        device.close()
    disk.write("/device/manifest.tmp-1", disk.read(f"/device/{MANIFEST}"))
    disk.rename("/device/manifest.tmp-1", f"/device/{MANIFEST}")
    with folder(disk, "baileysex") as store:
        device = opened(store, create=False)
        device.set({"device-list": {"a": ["1"]}})
        cut = disk.after_power_cut(random.Random(1), names=1)
        device.close()
    with folder(cut, "baileysex") as store:
        device = opened(store, create=False)
        assert lists(device)["a"] == ("1",)
        device.close()


def test_a_power_cut_after_another_program_s_unsynced_manifest(tmp_path: Path) -> None:
    """A commit that had returned could not be carried out: what it changes would be gone."""
    unsynced_manifest(tmp_path)


@pytest.mark.usefixtures("long_pauses")
def test_a_manifest_that_changes_while_it_is_written_is_written_again(
    elixir: str, listed: Path
) -> None:
    """An id that came at the wrong moment would never be listed."""
    store = DirectoryStore(elixir, str(listed), background=False)
    with open_in(store, "default", create=False, read_only=False) as device:
        make = store._manifest_now
        once = [True]

        def slow() -> bytes | None:
            data = make()
            if once and once.pop():
                device.set({"device-list": {"late": ["0"]}})
            return data

        store._follower._make_list = slow
        device.set({"device-list": {"early": ["0"]}})
        store.follow()
        assert "late" not in ids_of(listed)
    assert {"early", "late"} <= ids_of(listed)
