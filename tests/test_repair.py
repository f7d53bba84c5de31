"""Repair: mends what needs no guess, keeps a copy of what it replaces, and leaves the rest."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from typer.testing import CliRunner

from _helpers import (
    ALICE,
    BOB,
    MANIFEST,
    OTP29,
    bytes_of,
    dead_pid,
    footprint,
    private_copy,
    small_baileys,
)
from ratchetkeep import (
    Device,
    NoDevice,
    Repair,
    StoreInUse,
    StoreUnreadable,
    UnknownStore,
    copy_device,
    open_device,
    repair_device,
    verify_device,
)
from ratchetkeep.cli.app import app
from ratchetkeep.device import open_in
from ratchetkeep.formats import etf
from ratchetkeep.repair import errors_left
from ratchetkeep.stores.directory import DirectoryStore
from ratchetkeep.stores.disk import Disk
from ratchetkeep.stores.layouts import read_manifest, write_manifest

JOURNAL = ".ratchetkeep.journal"
KEPT = ".ratchetkeep-kept-"
KINDS = ["sqlite", "baileys", "baileysex", "baileysex-json"]
LATER = 10**9


def made(kind: str, folder: Path) -> str:
    """A sound device; its URL."""
    path = folder / ("d.db" if kind == "sqlite" else "d")
    copy_device(f"baileys:{BOB}", f"{kind}:{path}")
    return f"{kind}:{path}"


def path_of(url: str) -> Path:
    return Path(url.partition(":")[2])


def kept(folder: Path) -> list[Path]:
    """The kept copies beside a target, checked for their modes."""
    found = []
    for each in folder.glob(f"*{KEPT}*"):
        assert stat.S_IMODE(each.stat().st_mode) == 0o700
        assert re.fullmatch(r"d(\.db)?\.ratchetkeep-kept-\d{8}T\d{6}Z(-\d+)?", each.name)
        for path in each.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            found.append(path)
    return found


def seen(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """What is in a folder; taking a lock touches the times of the folders themselves."""
    found = footprint(folder).items()
    return {
        name: (data, mode, 0 if stat.S_ISDIR(mode) else time)
        for name, (data, mode, time) in found
        if not name.endswith(("-shm", "-wal"))
    }


def mended_once(url: str, **how: Any) -> list[Repair]:
    """Repair it: a dry run changes nothing and says the same; a second run finds nothing."""
    before = seen(path_of(url).parent)
    planned = repair_device(url, dry_run=True, **how)
    assert seen(path_of(url).parent) == before
    repairs = repair_device(url, **how)
    assert [(each.place, each.what) for each in planned] == [(r.place, r.what) for r in repairs]
    assert all(not each.kept for each in planned)
    assert all(Path(each.kept).exists() for each in repairs if each.kept)
    after = seen(path_of(url).parent)
    assert repair_device(url) == []
    assert seen(path_of(url).parent) == after
    return repairs


def one(repairs: list[Repair]) -> Repair:
    assert len(repairs) == 1, repairs
    return repairs[0]


def index_page(path: Path) -> int:
    """The offset of a leaf of the index of records."""
    raw = path.read_bytes()
    return next(at for at in range(len(raw) - 4096, 8192, -4096) if raw[at] == 10)


@contextmanager
def behind(url: str) -> Iterator[Device]:
    """The device of a folder, whose files stay behind the journal."""
    kind, _, path = url.partition(":")
    store = DirectoryStore(kind, path, background=False)
    with open_in(store, "default", create=False, read_only=False) as device:
        yield device


def crash(url: str) -> None:
    """Leave a device as an owner leaves it that is killed after a commit."""
    path = path_of(url)
    aside = path.parent.with_name("aside")
    opened = open_device(url) if url.startswith("sqlite") else behind(url)
    with opened as device:
        device.set({"device-list": {"1": ["0"]}})
        shutil.copytree(path.parent, aside)
    shutil.rmtree(path.parent)
    aside.rename(path.parent)
    for left in path.parent.rglob("*-shm"):
        left.unlink()


# Nothing where nothing is.


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_device_is_left_alone(tmp_path: Path, kind: str) -> None:
    """A repair would change what is whole."""
    url = made(kind, tmp_path)
    assert mended_once(url) == []
    assert kept(tmp_path) == []


def test_memory_has_nothing_to_mend(tmp_path: Path) -> None:
    """A store that needs no repair would be refused."""
    copy_device(f"baileys:{BOB}", f"memory:{tmp_path}")
    assert repair_device(f"memory:{tmp_path}") == []


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_there_is_not_made(tmp_path: Path, kind: str) -> None:
    """A repair would make a device, or call a wrong path well."""
    with pytest.raises(NoDevice):
        repair_device(f"{kind}:{tmp_path}/none")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UnknownStore):
        repair_device("nothing:x")


def test_a_device_that_a_file_lacks_is_not_made(tmp_path: Path) -> None:
    """A wrong name would be called well."""
    url = made("sqlite", tmp_path)
    with pytest.raises(NoDevice):
        repair_device(f"{url}?device=other")


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_device_in_use_is_refused(tmp_path: Path, kind: str, dry_run: bool) -> None:
    """A repair would write under a running client."""
    url = made(kind, tmp_path)
    with open_device(url), pytest.raises(StoreInUse) as caught:
        repair_device(url, dry_run=dry_run)
    assert "process" in caught.value.holder


def test_a_place_that_cannot_be_locked_is_refused(tmp_path: Path) -> None:
    """A repair would go on without owning the device."""
    url = made("baileys", tmp_path)
    (path_of(url) / ".ratchetkeep.lock").mkdir()
    with pytest.raises(StoreUnreadable):
        repair_device(url)


# Leftovers and modes.


def test_left_over_files_are_moved_away(tmp_path: Path) -> None:
    """BaileysEx's next save would fail, or what may be the last copy of a file be deleted."""
    url = made("baileysex", tmp_path)
    for name in ("creds.etf.tmp-12", ".ratchetkeep.tmp"):
        (path_of(url) / name).write_bytes(b"half")
        (path_of(url) / name).chmod(0o600)
    repairs = mended_once(url)
    assert len(repairs) == 2
    assert {path.name: path.read_bytes() for path in kept(tmp_path)} == {
        "creds.etf.tmp-12": b"half",
        ".ratchetkeep.tmp": b"half",
    }
    assert verify_device(url) == []


@pytest.mark.parametrize("kind", KINDS)
def test_marks_of_dead_owners_go(tmp_path: Path, kind: str) -> None:
    """A user would take a dead lock for a running client."""
    url = made(kind, tmp_path)
    for name in ("lock", "owner"):
        beside = f"{path_of(url)}.{name}"
        path = Path(beside if kind == "sqlite" else path_of(url) / f".ratchetkeep.{name}")
        path.write_text("")
        path.chmod(0o600)
    assert len(mended_once(url)) == 2
    assert repair_device(url) == []


@pytest.mark.parametrize("kind", ["sqlite", "baileys"])
def test_what_killed_copies_left_goes_and_what_running_ones_write_stays(
    tmp_path: Path, kind: str
) -> None:
    """Old copies of keys would lie about for ever, or a running copy fail."""
    url = made(kind, tmp_path)
    prefix = "d.db.stage-" if kind == "sqlite" else ".d.ratchetkeep-stage-"
    dead, alive = f"{prefix}{dead_pid()}-aabb", f"{prefix}{os.getpid()}-aabb"
    for name in (dead, alive):
        path = tmp_path / name
        path.write_bytes(b"x") if kind == "sqlite" else path.mkdir()
    assert one(mended_once(url)).place == str(tmp_path / dead)
    assert (tmp_path / alive).exists() and not (tmp_path / dead).exists()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_open_to_others_is_closed(tmp_path: Path, kind: str) -> None:
    """Private keys would lie open to every user of the machine."""
    url = made(kind, tmp_path)
    path = path_of(url)
    files = [path] if kind == "sqlite" else list(path.iterdir())
    for each in files:
        each.chmod(0o664)
    if kind != "sqlite":
        path.chmod(0o755)
        (path / "notes.txt").write_text("x")
        (path / "notes.txt").chmod(0o644)
        (path / "device-list-9.json").symlink_to(tmp_path / "outside")
    (tmp_path / "outside").write_text("x")
    (tmp_path / "outside").chmod(0o644)
    repairs = mended_once(url)
    assert len(repairs) == (1 if kind == "sqlite" else 2)
    assert {stat.S_IMODE(each.stat().st_mode) for each in files} == {0o600}
    # What is not the device's own stays as it is.
    assert stat.S_IMODE((tmp_path / "outside").stat().st_mode) == 0o644
    if kind != "sqlite":
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE((path / "notes.txt").stat().st_mode) == 0o644


# The journal.


@pytest.mark.parametrize("kind", KINDS)
def test_an_unclean_stop_is_finished(tmp_path: Path, kind: str) -> None:
    """A commit that was acknowledged would not be in the files that another library reads."""
    base = tmp_path / "base"
    base.mkdir()
    url = made(kind, base)
    crash(url)
    what = " ".join(repair.what for repair in mended_once(url))
    assert "unclean stop" in what
    assert not Path(f"{path_of(url)}-wal").exists()
    with open_device(url, read_only=True) as device:
        assert device.get("device-list", ["1"]) == {"1": ("0",)}
    assert verify_device(url) == []


def conflicting(base: Path) -> tuple[str, Path]:
    """A folder that another program went on with after a crash, and the file that it wrote."""
    base.mkdir()
    url = made("baileys", base)
    with open_device(url) as device:
        device.set({"device-list": {"1": ["5"]}})
    crash(url)
    path = path_of(url) / "device-list-1.json"
    path.write_bytes(b'["8"]')
    later = (path_of(url) / JOURNAL).stat().st_mtime_ns + LATER
    os.utime(path, ns=(later, later))
    for mark in path_of(url).glob(".ratchetkeep.[lo]*"):
        mark.unlink()
    return url, path


def test_a_conflict_is_not_decided_unasked(tmp_path: Path) -> None:
    """A conversation would be put back, or a commit be dropped, by a guess."""
    url, _ = conflicting(tmp_path / "base")
    before = bytes_of(tmp_path)
    assert repair_device(url) == []
    assert bytes_of(tmp_path) == before
    assert "changed by another program" in errors_left(url)[0].what


def test_a_conflict_is_decided_on_request(tmp_path: Path) -> None:
    """A user who knows that the files are right could not go on with them."""
    url, path = conflicting(tmp_path / "base")
    journal = (path_of(url) / JOURNAL).read_bytes()
    repair = one(mended_once(url, keep_files=True))
    assert Path(repair.kept).read_bytes() == journal
    assert path.read_bytes() == b'["8"]'
    assert verify_device(url) == []
    with open_device(url, read_only=True) as device:
        assert device.get("device-list", ["1"]) == {"1": ("8",)}


def test_without_a_conflict_asking_for_the_files_drops_no_commit(tmp_path: Path) -> None:
    """A needless option would throw acknowledged commits away."""
    (tmp_path / "base").mkdir()
    url = made("baileys", tmp_path / "base")
    crash(url)
    repair_device(url, keep_files=True)
    with open_device(url, read_only=True) as device:
        assert device.get("device-list", ["1"]) == {"1": ("0",)}


def test_a_damaged_journal_stays(tmp_path: Path) -> None:
    """Commits that somebody could still read out of it would be lost."""
    (tmp_path / "base").mkdir()
    url = made("baileys", tmp_path / "base")
    crash(url)
    for mark in path_of(url).glob(".ratchetkeep.[lo]*"):
        mark.unlink()
    raw = bytearray((path_of(url) / JOURNAL).read_bytes())
    raw[5] ^= 1
    (path_of(url) / JOURNAL).write_bytes(raw)
    before = bytes_of(tmp_path)
    for keep_files in (False, True):
        assert repair_device(url, keep_files=keep_files) == []
    assert bytes_of(tmp_path) == before
    assert "header is damaged" in errors_left(url)[0].what


# The manifest.


def manifest_of(url: str) -> dict[str, set[str]]:
    ids = read_manifest((path_of(url) / MANIFEST).read_bytes())
    return {family: set(each) for family, each in ids.items()}


@pytest.mark.parametrize("cut", [0, 1, 40, 200, -1])
def test_a_cut_manifest_is_made_again(tmp_path: Path, cut: int) -> None:
    """A device whose records are all whole could never be opened again."""
    url = made("baileysex", tmp_path)
    before, raw = manifest_of(url), (path_of(url) / MANIFEST).read_bytes()
    (path_of(url) / MANIFEST).write_bytes(raw[:cut])
    repair = one(mended_once(url))
    assert Path(repair.kept).read_bytes() == raw[:cut]
    assert manifest_of(url) == before
    assert verify_device(url) == []


def test_a_missing_manifest_is_made_again(tmp_path: Path) -> None:
    """BaileysEx would not know its own records."""
    url = made("baileysex", tmp_path)
    before = manifest_of(url)
    (path_of(url) / MANIFEST).unlink()
    assert one(mended_once(url)).kept == ""
    assert manifest_of(url) == before


def test_ids_that_a_damaged_manifest_still_shows_are_kept(tmp_path: Path) -> None:
    """An id that no file name can show would come back as another one."""
    url = made("baileysex", tmp_path)
    with open_device(url) as device:
        device.set({"device-list": {"a:b": ["0"], "c/d": ["0"], "e-f": ["0"]}})
    before = manifest_of(url)
    raw = bytearray((path_of(url) / MANIFEST).read_bytes())
    raw[raw.index(b"backend") + 1] ^= 1
    (path_of(url) / MANIFEST).write_bytes(raw)
    one(mended_once(url))
    assert manifest_of(url) == before


def test_ids_that_can_be_read_in_two_ways_are_named_and_not_guessed(tmp_path: Path) -> None:
    """A guess would be written down as if it were known."""
    url = made("baileysex", tmp_path)
    with open_device(url) as device:
        device.set({"device-list": {"a:b": ["0"], "c/d": ["0"]}})
    before = manifest_of(url)
    (path_of(url) / MANIFEST).unlink()
    repair = one(mended_once(url))
    assert "device-list-a-b.etf" in repair.what and "device-list-c__d.etf" in repair.what
    now = manifest_of(url)
    assert now.pop("device-list") == before.pop("device-list") - {"a:b", "c/d"}
    assert now == before
    assert (path_of(url) / "device-list-a-b.etf").exists()


def test_ids_without_a_file_are_taken_off_the_list(tmp_path: Path) -> None:
    """Verifying would warn for ever of what BaileysEx left when it was stopped."""
    url = made("baileysex", tmp_path)
    path = path_of(url) / MANIFEST
    ids: dict[str, list[str]] = {family: sorted(each) for family, each in manifest_of(url).items()}
    path.write_bytes(write_manifest({**ids, "session": [*ids["session"], "1.0"], "new": ["1"]}))
    repair = one(mended_once(url))
    assert "session 1.0" in repair.what
    assert read_manifest(Path(repair.kept).read_bytes())["new"] == ["1"]
    assert manifest_of(url) == {family: set(each) for family, each in ids.items()}


def test_families_of_a_newer_baileysex_stay_on_the_list(tmp_path: Path) -> None:
    """What we do not know would be dropped."""
    url = made("baileysex", tmp_path)
    path = path_of(url) / MANIFEST
    ids: dict[str, list[str]] = {family: sorted(each) for family, each in manifest_of(url).items()}
    (path_of(url) / "novelty-1.etf").write_bytes(etf.encode([]))
    path.write_bytes(write_manifest({**ids, "session": [*ids["session"], "1.0"], "novelty": ["1"]}))
    one(mended_once(url))
    assert manifest_of(url)["novelty"] == {"1"}


def test_a_newer_manifest_stays(tmp_path: Path) -> None:
    """What a newer BaileysEx wrote would be replaced by what we know."""
    url = made("baileysex", tmp_path)
    path = path_of(url) / MANIFEST
    path.write_bytes(path.read_bytes().replace(b"versiona\1", b"versiona\2"))
    before = bytes_of(tmp_path)
    assert repair_device(url) == []
    assert bytes_of(tmp_path) == before and errors_left(url)


def test_a_golden_folder_of_baileysex_is_whole_without_its_manifest(tmp_path: Path) -> None:
    """Ids as BaileysEx itself makes them would be called unclear."""
    folder = private_copy(OTP29, tmp_path / "d")
    url = f"baileysex:{folder}"
    before = manifest_of(url)
    (folder / MANIFEST).unlink()
    one(mended_once(url))
    now = manifest_of(url)
    for family, ids in now.items():
        assert ids <= before[family], family
    names = one_reading(before)
    assert {(f, i) for f, ids in now.items() for i in ids} >= names


def one_reading(ids: dict[str, set[str]]) -> set[tuple[str, str]]:
    """Ids that nothing in their name was escaped of."""
    return {(f, i) for f, each in ids.items() for i in each if not re.search(r"[-:/]|__", i)}


# SQLite.


@pytest.mark.parametrize("how", ["zeros", "flip"])
def test_damaged_indexes_are_made_again(tmp_path: Path, how: str) -> None:
    """A device whose records are all whole would have to be paired again."""
    copy_device(f"baileys:{ALICE}", f"sqlite:{tmp_path}/d.db")
    path, url = tmp_path / "d.db", f"sqlite:{tmp_path}/d.db"
    with open_device(url, read_only=True) as device:
        ids = {family: device.ids(family) for family in ("session", "pre-key", "tctoken")}
    raw, page = bytearray(path.read_bytes()), index_page(path)
    if how == "zeros":
        raw[page : page + 4096] = bytes(4096)
    else:
        raw[page + 4096 - 40] ^= 1
    path.write_bytes(raw)
    assert errors_left(url)
    repair = one(mended_once(url))
    assert Path(repair.kept).read_bytes() == raw
    assert verify_device(url) == []
    with open_device(url) as device:
        assert {family: device.ids(family) for family in ids} == ids
        device.set({"device-list": {"1": ["0"]}})


def _spoil_row(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE records SET data = zeroblob(50) WHERE family = 'session'")
    connection.close()


def _spoil_table(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[4096 * 3 : 4096 * 4] = bytes(4096)
    path.write_bytes(raw)


def _spoil_both(path: Path) -> None:
    _spoil_row(path)
    raw, page = bytearray(path.read_bytes()), index_page(path)
    raw[page : page + 4096] = bytes(4096)
    path.write_bytes(raw)


@pytest.mark.parametrize("spoil", [_spoil_row, _spoil_table, _spoil_both])
def test_damaged_records_stay(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """What somebody could still read out of a damaged file would be lost."""
    copy_device(f"baileys:{ALICE}", f"sqlite:{tmp_path}/d.db")
    spoil(tmp_path / "d.db")
    before = bytes_of(tmp_path)
    assert repair_device(f"sqlite:{tmp_path}/d.db") == []
    assert bytes_of(tmp_path) == before
    assert errors_left(f"sqlite:{tmp_path}/d.db")


# What cannot be mended.


@pytest.mark.parametrize("name", ["creds.json", "session-998877665544332_1.7.json"])
def test_damaged_files_stay(tmp_path: Path, name: str) -> None:
    """Keys would be made up, or a record be deleted."""
    folder = small_baileys(tmp_path / "d")
    (folder / name).write_bytes(b"{")
    before = bytes_of(tmp_path)
    assert repair_device(f"baileys:{folder}") == []
    assert bytes_of(tmp_path) == before
    left = errors_left(f"baileys:{folder}")
    assert [finding.place for finding in left] == [str(folder / name)]


def test_the_rest_is_mended_beside_what_cannot_be(tmp_path: Path) -> None:
    """One damaged record would keep all else from being mended."""
    url = made("baileysex", tmp_path)
    (path_of(url) / "creds.etf").write_bytes(b"")
    (path_of(url) / MANIFEST).unlink()
    (path_of(url) / "creds.etf.tmp-1").write_bytes(b"x")
    (path_of(url) / "creds.etf.tmp-1").chmod(0o600)
    assert len(mended_once(url)) == 2
    assert [finding.place for finding in errors_left(url)] == [str(path_of(url) / "creds.etf")]


# A kill at any moment.


VERBS = ["write", "sync", "sync_folder", "rename", "unlink", "make_folder", "remove_tree"]


def _dying_at(step: int, url: str) -> int:
    """Repair in a child that is killed just before its ``step``-th write; its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = [step]
    for verb in VERBS:
        setattr(Disk, verb, _counted(getattr(Disk, verb), left))
    code = 3
    try:
        repair_device(url)
        code = 0
    finally:
        os._exit(code)


def _counted(verb: Any, left: list[int]) -> Any:
    def run(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            os._exit(9)
        return verb(*arguments)

    return run


def _broken_folder(base: Path) -> str:
    url = made("baileysex", base)
    with open_device(url) as device:
        device.set({"device-list": {"1": ["5"]}})
    crash(url)  # of a commit without new ids: the journal holds no manifest
    (path_of(url) / MANIFEST).write_bytes(b"\x83")
    os.utime(path_of(url) / MANIFEST, ns=(0, 0))
    (path_of(url) / "creds.etf.tmp-1").write_bytes(b"half")
    return url


def _broken_file(base: Path) -> str:
    copy_device(f"baileys:{ALICE}", f"sqlite:{base}/d.db")
    raw, page = bytearray((base / "d.db").read_bytes()), index_page(base / "d.db")
    raw[page : page + 4096] = bytes(4096)
    (base / "d.db").write_bytes(raw)
    return f"sqlite:{base}/d.db"


@pytest.mark.parametrize("broken", [_broken_folder, _broken_file])
def test_a_kill_at_any_point_loses_nothing(tmp_path: Path, broken: Callable[[Path], str]) -> None:
    """A repair that is stopped would leave a device worse than it found it."""
    (tmp_path / "base").mkdir()
    url = broken(tmp_path / "base")
    shutil.copytree(tmp_path / "base", tmp_path / "aside")
    step, code = 0, 9
    while code == 9:
        shutil.rmtree(tmp_path / "base")
        shutil.copytree(tmp_path / "aside", tmp_path / "base")
        code = _dying_at(step, url)
        repair_device(url)
        assert repair_device(url) == [], step
        assert errors_left(url) == [], step
        assert not list((tmp_path / "base").glob("*stage*")), step
        step += 1
    assert code == 0 and step > 8


# The command.

RUNNER = CliRunner()


def test_the_command_tells_what_it_mended_and_where_the_old_file_is(tmp_path: Path) -> None:
    """A user would not know what was changed, nor how to take it back."""
    url = made("baileysex", tmp_path)
    (path_of(url) / MANIFEST).write_bytes(b"")
    done = RUNNER.invoke(app, ["repair", url, "--dry-run"])
    assert done.exit_code == 0
    assert done.stdout.startswith("would mend: ") and "dry run: nothing was written" in done.stdout
    done = RUNNER.invoke(app, ["repair", url])
    assert done.exit_code == 0
    assert done.stdout.startswith("mended: ") and f"  kept: {tmp_path}/d{KEPT}" in done.stdout
    assert RUNNER.invoke(app, ["repair", url]).stdout == "nothing to mend, no errors left\n"


def test_the_command_ends_with_5_where_errors_are_left(tmp_path: Path) -> None:
    """A script would go on with a device that is not whole."""
    folder = small_baileys(tmp_path / "d")
    (folder / "pre-key-1.json").write_bytes(b"{")
    done = RUNNER.invoke(app, ["repair", f"baileys:{folder}", "--json"])
    assert done.exit_code == 5
    told = json.loads(done.stdout)
    assert told["repairs"] == [] and told["left"][0]["place"].endswith("pre-key-1.json")
    done = RUNNER.invoke(app, ["repair", f"baileys:{folder}"])
    assert done.exit_code == 5 and "1 error left" in done.stdout


def test_the_command_offers_to_keep_the_files(tmp_path: Path) -> None:
    """The choice that only a user can make could not be made."""
    url, _ = conflicting(tmp_path / "base")
    assert RUNNER.invoke(app, ["repair", url]).exit_code == 5
    done = RUNNER.invoke(app, ["repair", url, "--keep-files", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["repairs"][0]["place"].endswith(JOURNAL)


def test_reports_hold_no_key_material(tmp_path: Path) -> None:
    """A report that a user sends to somebody would give the device away."""
    url = made("baileysex", tmp_path)
    path = path_of(url) / MANIFEST
    path.write_bytes(path.read_bytes()[:60])
    with open_device(f"baileys:{BOB}", read_only=True) as device:
        secret = device.credentials.noise_key.private
    shown = RUNNER.invoke(app, ["repair", url, "--json"]).stdout
    assert secret.hex() not in shown and repr(secret) not in shown
