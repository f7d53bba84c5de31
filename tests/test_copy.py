"""Copies between stores: nothing changes, nothing is lost unsaid, nothing is left half done."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from _helpers import (
    ALICE,
    BOB,
    LEGACY,
    MANIFEST,
    OTP25,
    OTP29,
    bytes_of,
    canonical,
    dead_pid,
    edit_json,
    footprint,
    key_of,
    private_copy,
    records,
    small_baileys,
)
from ratchetkeep import (
    CopySummary,
    Credentials,
    DeviceExists,
    EncodedRecord,
    InvalidValue,
    NoDevice,
    NotHeldByTarget,
    RatchetkeepError,
    StoreDamaged,
    StoreInUse,
    UnknownStore,
    copy_device,
    open_device,
    open_store,
    verify_device,
)
from ratchetkeep.formats import baileys
from ratchetkeep.model import CREDENTIALS, FAMILIES

Copier = Callable[[str, str], CopySummary]
IN_BAILEYSEX = "BaileysEx keeps the key's bytes alone"
NO_TIMES = "BaileysEx has no place for when it was used and created"


class Stop(Exception):
    """Raised by a test inside a copy."""


def stop_at(step: str) -> Callable[[str, int, int], None]:
    def progress(at: str, done: int, total: int) -> None:
        if at == step and done == total:
            raise Stop

    return progress


def everything(url: str) -> dict[Any, Any]:
    """All that a device holds."""
    with open_device(url, read_only=True) as device:
        found: dict[Any, Any] = {"credentials": device.credentials}
        for family in FAMILIES:
            for id, value in device.get(family, device.ids(family)).items():
                found[family, id] = value
        return found


# Nothing changes.


@pytest.mark.parametrize("side", [ALICE, BOB], ids=["alice", "bob"])
@pytest.mark.parametrize("between", ["sqlite:{}/a.db", "baileys:{}/b", "memory:{}"])
def test_a_baileys_folder_comes_back_as_the_same_bytes(
    tmp_path: Path, side: Path, between: str
) -> None:
    """A device would not be the same after it went to our store and back."""
    between = between.format(tmp_path)
    first = copy_device(f"baileys:{side}", between)
    second = copy_device(between, f"baileys:{tmp_path}/back")
    assert bytes_of(tmp_path / "back") == bytes_of(side)
    assert first.not_held == second.not_held == ()
    assert first.total == second.total == len(records(side)) - 1


@pytest.mark.parametrize("side", [ALICE, BOB], ids=["alice", "bob"])
def test_a_baileys_folder_comes_back_from_baileysex_but_for_what_is_listed(
    tmp_path: Path, side: Path
) -> None:
    """A device that moved to Elixir and back would have lost more than it was said."""
    summary = copy_device(f"baileys:{side}", f"baileysex:{tmp_path}/ex")
    back = copy_device(f"baileysex:{tmp_path}/ex", f"baileys:{tmp_path}/back")
    sessions = summary.records["session"]
    assert summary.not_held == (
        NotHeldByTarget(
            "app-state-sync-key",
            "fingerprint",
            IN_BAILEYSEX,
            True,
            5,
            "app-state-sync-key +/+/AA==",
        ),
        NotHeldByTarget(
            "app-state-sync-key", "timestamp", IN_BAILEYSEX, True, 5, "app-state-sync-key +/+/AA=="
        ),
        NotHeldByTarget(
            "session",
            "sessions[].used",
            NO_TIMES,
            True,
            sessions,
            min(f"session {key_of(p).id}" for p in records(side) if key_of(p).family == "session"),
        ),
    )
    (repeated,) = back.not_held
    assert (repeated.family, repeated.member, repeated.derived) == ("session", IDENTITY, True)
    assert back.records == summary.records
    assert bytes_of(tmp_path / "back").keys() == bytes_of(side).keys()
    for path in records(side):
        key, raw = key_of(path), (tmp_path / "back" / path.name).read_bytes()
        before, after = baileys.decode(key, path.read_bytes()), baileys.decode(key, raw)
        if key.family == "app-state-sync-key":
            before = before.replace(fingerprint=None, timestamp=None)
        if key.family == "session":
            before, after = untimed(before), untimed(after)
        assert after == before, path.name


def untimed(record: Any) -> Any:
    return sorted(
        (
            base_key,
            hash(
                session.replace(
                    index_info=session.index_info.replace(
                        used=None, created=None, local_identity_key=None
                    )
                )
            ),
        )
        for base_key, session in record.sessions.items()
    )


@pytest.mark.parametrize("golden", [OTP29, OTP25], ids=["otp29", "otp25"])
@pytest.mark.parametrize("between", ["sqlite:{}/a.db", "memory:{}", "baileysex:{}/b"])
def test_a_baileysex_folder_comes_back_as_the_same_terms(
    tmp_path: Path, golden: Path, between: str
) -> None:
    """A device would not be the same after it went to our store and back."""
    between = between.format(tmp_path)
    assert copy_device(f"baileysex:{golden}", between).not_held == ()
    assert copy_device(between, f"baileysex:{tmp_path}/back").not_held == ()
    back, before = bytes_of(tmp_path / "back"), bytes_of(golden)
    assert back.keys() == before.keys()
    for name in before:
        assert canonical(back[name]) == canonical(before[name]), name
    assert back[MANIFEST] == (OTP29 / MANIFEST).read_bytes()


# BaileysEx repeats the device's identity in every session; Baileys reads it off the credentials.
IDENTITY = "_sessions[].local_identity_key"


def test_ids_that_baileys_cannot_name_are_listed(tmp_path: Path) -> None:
    """Two records would share a file, and one would silently replace the other."""
    summary = copy_device(f"baileysex:{OTP29}", f"baileys:{tmp_path}/out")
    whole = {item.example for item in summary.not_held if item.member == ""}
    assert whole == {
        "device-list alice/device:0",
        "identity-key alice:0",
        "session we/ird:user@s.whatsapp.net::3",
    }
    parts = [item for item in summary.not_held if item.member]
    assert [(item.family, item.member, item.derived) for item in parts] == [
        ("credentials", "additionalData", False),
        ("session", IDENTITY, True),
    ]
    assert summary.total == len(records(OTP29)) - 1 - 3
    assert len(bytes_of(tmp_path / "out")) == summary.total + 1


def test_a_foreign_record_is_listed_where_it_cannot_go(tmp_path: Path) -> None:
    """Another client's session would be written where its library crashes, or vanish unsaid."""
    with open_device(f"sqlite:{tmp_path}/a.db", create=True) as device:
        device.set({"session": {"1.0": EncodedRecord(encoding="some-client", data=b"{}")}})
    summary = copy_device(f"sqlite:{tmp_path}/a.db", f"baileys:{tmp_path}/out")
    (item,) = summary.not_held
    assert (item.family, item.member, item.derived, item.count) == ("session", "", False, 1)
    assert summary.records == {}
    copy_device(f"sqlite:{tmp_path}/a.db", f"sqlite:{tmp_path}/b.db")
    assert everything(f"sqlite:{tmp_path}/a.db") == everything(f"sqlite:{tmp_path}/b.db")


@pytest.mark.parametrize("side", ["alice", "bob"])
def test_a_folder_of_6x_becomes_one_of_7x(tmp_path: Path, side: str) -> None:
    """7.x cannot read the sender keys of 6.x: groups would be silent after the upgrade."""
    summary = copy_device(f"baileys:{LEGACY / side}", f"baileys:{tmp_path}/out")
    assert summary.not_held == ()
    back = bytes_of(tmp_path / "out")
    for path in records(LEGACY / side):
        if key_of(path).family == "sender-key":
            assert json.loads(back[path.name])["type"] == "Buffer"
        else:
            assert back[path.name] == path.read_bytes()


@pytest.mark.parametrize("target", ["sqlite:{}/t.db", "baileys:{}/t", "baileysex:{}/t"])
def test_the_summary_says_what_is_there(tmp_path: Path, target: str) -> None:
    """Nobody could tell from the report whether the copy is complete."""
    target = target.format(tmp_path)
    summary = copy_device(f"baileys:{BOB}", target)
    assert summary.records == {
        "app-state-sync-key": 5,
        "app-state-sync-version": 5,
        "device-list": 2,
        "identity-key": 1,
        "lid-mapping": 4,
        "pre-key": 119,
        "sender-key": 6,
        "sender-key-memory": 3,
        "session": 1,
        "tctoken": 2,
    }
    assert summary.total == 148
    assert (summary.source, summary.source_kind) == (f"baileys:{BOB}", "baileys")
    assert (summary.target, summary.target_kind) == (target, target.partition(":")[0])
    assert not summary.dry_run
    if summary.target_kind != "sqlite":
        files = bytes_of(tmp_path / "t")
        files.pop(MANIFEST, None)
        assert summary.size == sum(map(len, files.values()))
    assert {(finding.severity, finding.place) for finding in summary.findings} <= {
        ("warning", str(BOB))
    }


# The source.


def sources(tmp_path: Path) -> dict[str, str]:
    private_copy(ALICE, tmp_path / "src" / "alice")
    private_copy(OTP29, tmp_path / "src" / "ex")
    copy_device(f"baileys:{BOB}", f"sqlite:{tmp_path}/src/bob.db")
    return {
        "baileys": f"baileys:{tmp_path}/src/alice",
        "baileysex": f"baileysex:{tmp_path}/src/ex",
        "sqlite": f"sqlite:{tmp_path}/src/bob.db",
        "bare": f"{tmp_path}/src/alice",
    }


@pytest.mark.parametrize("kind", ["baileys", "baileysex", "sqlite", "bare"])
def test_the_source_is_not_touched(tmp_path: Path, kind: str) -> None:
    """A copy would change what it was to save; not even times or new files may tell of it."""
    source = sources(tmp_path)[kind]
    before = footprint(tmp_path / "src")
    copy_device(source, f"sqlite:{tmp_path}/out.db")
    copy_device(source, f"baileys:{tmp_path}/out")
    copy_device(source, f"baileysex:{tmp_path}/ex", dry_run=True)
    with pytest.raises(Stop):
        copy_device(source, f"baileysex:{tmp_path}/ex", progress=stop_at("write"))
    assert footprint(tmp_path / "src") == before


def test_a_live_folder_is_no_source(tmp_path: Path) -> None:
    """Half of a commit would be copied, and conversations broken."""
    folder = small_baileys(tmp_path / "src")
    with open_device(f"baileys:{folder}"):
        with pytest.raises(StoreInUse) as caught:
            copy_device(f"baileys:{folder}", f"sqlite:{tmp_path}/out.db")
        assert "process" in caught.value.holder
        assert not (tmp_path / "out.db").exists()
    copy_device(f"baileys:{folder}", f"sqlite:{tmp_path}/out.db")


def test_a_live_sqlite_file_is_copied_as_it_was_at_one_moment(tmp_path: Path) -> None:
    """Records of two commits would be mixed: a session without the pre-key that it used up."""
    source = f"sqlite:{tmp_path}/live.db"
    ids = [str(number) for number in range(600)]
    with open_device(source, create=True) as device:

        def generation(mark: str) -> None:
            device.set(
                {
                    "lid-mapping": dict.fromkeys(ids, mark),
                    "device-list": dict.fromkeys(ids, (mark,)),
                }
            )
            device.save_credentials(device.credentials.replace(platform=mark))

        generation("0")
        number = 0

        def write(step: str, done: int, total: int) -> None:
            nonlocal number
            number += 1
            writer = threading.Thread(target=generation, args=(str(number),))
            writer.start()
            writer.join()

        copy_device(source, f"sqlite:{tmp_path}/out.db", progress=write)
        assert device.credentials.platform == str(number) and number > 5
    found = everything(f"sqlite:{tmp_path}/out.db")
    assert {found["lid-mapping", id] for id in ids} == {"0"}
    assert {found["device-list", id] for id in ids} == {("0",)}
    assert found["credentials"].platform == "0"


def test_a_source_that_is_not_there_is_no_device(tmp_path: Path) -> None:
    """A typing error would make an empty copy, or replace a device by it."""
    (tmp_path / "empty").mkdir()
    for source in ("baileys:{}/none", "baileys:{}/empty", "sqlite:{}/none.db", "memory:", "{}/x"):
        with pytest.raises(NoDevice):
            copy_device(source.format(tmp_path), f"sqlite:{tmp_path}/out.db")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("baileys:{}/a", "baileys:{}/a"),
        ("baileys:{}/a", "baileys:{}/a/"),
        ("{}/a", "baileys:{}/b/../a"),
        ("baileys:{}/a", "baileys:{}/link"),
        ("baileys:{}/a", "baileysex:{}/a"),
        ("sqlite:{}/a.db", "{}/a.db"),
        ("memory:{}", "memory:{}"),
    ],
)
def test_source_and_target_must_differ(tmp_path: Path, first: str, second: str) -> None:
    """A device would be replaced by its own half-written copy."""
    (tmp_path / "b").mkdir()
    (tmp_path / "link").symlink_to("a")
    small_baileys(tmp_path / "a")
    if first.startswith(("sqlite", "memory")):
        copy_device(f"baileys:{tmp_path}/a", first.format(tmp_path))
    before = bytes_of(tmp_path)
    with pytest.raises(InvalidValue):
        copy_device(first.format(tmp_path), second.format(tmp_path), overwrite=True)
    assert bytes_of(tmp_path) == before


def test_a_link_may_lead_to_the_folder(tmp_path: Path) -> None:
    """A target on another disk, behind a link, would be said to be filled by another program."""
    disk, url = tmp_path / "disk", f"baileys:{tmp_path}/link"
    (disk / "alice").mkdir(parents=True)
    (tmp_path / "link").symlink_to("disk/alice")
    small_baileys(tmp_path / "a")
    for overwrite in (False, True):
        copy_device(f"baileys:{tmp_path}/a", url, overwrite=overwrite)
        assert verify_device(url) == []
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in disk.iterdir()] == ["alice"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "disk", "link"]
    with pytest.raises(DeviceExists):
        copy_device(f"baileys:{tmp_path}/a", f"baileys:{disk}/alice")


def test_what_a_killed_copy_left_behind_a_link_is_removed(tmp_path: Path) -> None:
    """Keys of a copy that never came to be would stay on the disk for ever."""
    left = tmp_path / "disk" / f".alice.ratchetkeep-stage-{dead_pid()}-00"
    left.mkdir(parents=True)
    (left / "creds.json").write_bytes(b"{}")
    (tmp_path / "disk" / "alice").mkdir()
    (tmp_path / "link").symlink_to("disk/alice")
    small_baileys(tmp_path / "a")
    copy_device(f"baileys:{tmp_path}/a", f"baileys:{tmp_path}/link")
    assert not left.exists()
    left.mkdir()
    with open_device(f"baileys:{tmp_path}/link"):
        assert not left.exists()


def test_one_file_holds_copies_under_other_names(tmp_path: Path) -> None:
    """Devices of one file could not be copied inside it, or would replace each other."""
    url = f"sqlite:{tmp_path}/a.db"
    copy_device(f"baileys:{ALICE}", f"{url}?device=one")
    copy_device(f"baileys:{BOB}", f"{url}?device=two")
    copy_device(f"{url}?device=one", f"{url}?device=three")
    with open_store(url) as store:
        assert store.devices() == ["one", "three", "two"]
    assert everything(f"{url}?device=one") == everything(f"{url}?device=three")
    assert everything(f"{url}?device=two") != everything(f"{url}?device=three")


def test_damaged_credentials_are_not_copied(tmp_path: Path) -> None:
    """A copy of a broken identity would replace a good backup."""
    folder = small_baileys(tmp_path / "src")
    noise = json.loads((folder / "creds.json").read_bytes())["signedIdentityKey"]
    edit_json(folder / "creds.json", noiseKey={**noise, "public": noise["private"]})
    with pytest.raises(StoreDamaged, match="noise_key"):
        copy_device(f"baileys:{folder}", f"sqlite:{tmp_path}/out.db")
    assert not (tmp_path / "out.db").exists()


def test_an_unreadable_record_stops_the_copy(tmp_path: Path) -> None:
    """A damaged session would be left out without a word."""
    folder = small_baileys(tmp_path / "src")
    (folder / "session-1.0.json").write_bytes(b"")
    with pytest.raises(StoreDamaged, match=r"session-1\.0"):
        copy_device(f"baileys:{folder}", f"sqlite:{tmp_path}/out.db")
    assert not (tmp_path / "out.db").exists()


# The target.


KINDS = [
    "sqlite:{}/t.db",
    "baileys:{}/t",
    "baileys6:{}/t",
    "baileysex:{}/t",
    "baileysex-json:{}/t",
    "memory:{}/t",
]


@pytest.fixture
def small(tmp_path: Path) -> str:
    return f"baileys:{small_baileys(tmp_path / 'small')}"


@pytest.mark.parametrize("target", KINDS)
def test_a_device_is_replaced_only_when_asked(tmp_path: Path, small: str, target: str) -> None:
    """A copy would destroy the device that is there; or records of both would be mixed."""
    target = target.format(tmp_path)
    copy_device(f"baileys:{BOB}", target)
    before = everything(target)
    with pytest.raises(DeviceExists):
        copy_device(small, target)
    with pytest.raises(DeviceExists):
        copy_device(small, target, dry_run=True)
    assert everything(target) == before
    copy_device(small, target, overwrite=True)
    after = everything(target)
    assert after.keys() == everything(small).keys()
    assert after["credentials"] == everything(small)["credentials"]
    assert not [f for f in verify_device(target) if f.severity == "error"]


@pytest.mark.parametrize("target", KINDS[1:4])
def test_an_empty_folder_is_filled(tmp_path: Path, small: str, target: str) -> None:
    """The folder that a user made for the copy would be refused."""
    (tmp_path / "t").mkdir(mode=0o755)
    copy_device(small, target.format(tmp_path))
    assert everything(target.format(tmp_path)).keys() == everything(small).keys()
    assert (tmp_path / "t").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "t").iterdir()} == {0o600}


@pytest.mark.parametrize("target", KINDS[:4])
@pytest.mark.parametrize("overwrite", [False, True])
def test_missing_folders_are_made(tmp_path: Path, small: str, target: str, overwrite: bool) -> None:
    """A copy to a new place would fail, or need the user to make folders for keys."""
    url = target.format(tmp_path / "x" / "y")
    copy_device(small, url, overwrite=overwrite)
    assert everything(url).keys() == everything(small).keys()
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("target", KINDS[1:4])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_folder_with_other_files_is_refused(
    tmp_path: Path, small: str, target: str, overwrite: bool, dry_run: bool
) -> None:
    """A device would be strewn among a user's files; and a dry run would promise that it can."""
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "notes.txt").write_text("mine")
    before = footprint(tmp_path)
    with pytest.raises(DeviceExists):
        copy_device(small, target.format(tmp_path), overwrite, dry_run=dry_run)
    assert footprint(tmp_path) == before


@pytest.mark.parametrize(
    ("there", "target"), [(OTP29, "baileys:{}/t"), (ALICE, "baileysex:{}/t")], ids=["ex", "js"]
)
def test_a_device_in_the_other_format_is_never_mixed_with(
    tmp_path: Path, small: str, there: Path, target: str
) -> None:
    """Two devices would stand in one folder, and each library would find its own identity."""
    private_copy(there, tmp_path / "t")
    with pytest.raises(DeviceExists):
        copy_device(small, target.format(tmp_path))
    assert bytes_of(tmp_path / "t") == bytes_of(there)
    try:
        copy_device(small, target.format(tmp_path), overwrite=True)
    except RatchetkeepError:
        assert bytes_of(tmp_path / "t") == bytes_of(there)
    else:
        names = {path.name for path in (tmp_path / "t").iterdir()}
        assert len({name for name in names if name.startswith("creds.")}) == 1


@pytest.mark.parametrize("target", KINDS[:4])
def test_a_file_of_something_else_is_refused(tmp_path: Path, small: str, target: str) -> None:
    """A user's file would be replaced by a device."""
    (tmp_path / "t").write_text("mine")
    (tmp_path / "t.db").write_text("mine")
    before = footprint(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(RatchetkeepError):
            copy_device(small, target.format(tmp_path), overwrite)
    assert footprint(tmp_path) == before


@pytest.mark.parametrize("target", KINDS)
def test_an_open_device_is_not_replaced(tmp_path: Path, small: str, target: str) -> None:
    """The running client would write its old state into the new device."""
    target = target.format(tmp_path)
    with open_device(target, create=True) as device:
        before = device.credentials
        with pytest.raises(StoreInUse):
            copy_device(small, target, overwrite=True)
        device.save_credentials(before.replace(platform="still mine"))
    assert everything(target) == {"credentials": before.replace(platform="still mine")}


@pytest.mark.parametrize("target", KINDS)
def test_a_device_made_meanwhile_is_not_replaced(tmp_path: Path, small: str, target: str) -> None:
    """A device that was paired while the copy ran would be destroyed without being asked for."""
    target = target.format(tmp_path)
    made: list[Credentials] = []

    def create(step: str, done: int, total: int) -> None:
        if step == "write" and not made:
            with open_device(target, create=True) as device:
                made.append(device.credentials)

    # Where the copy holds the place already, the device cannot be made: fine as well.
    with pytest.raises((DeviceExists, StoreInUse)):
        copy_device(small, target, progress=create)
    if made:
        assert everything(target) == {"credentials": made[0]}


@pytest.mark.parametrize("target", KINDS)
def test_a_dry_run_writes_nothing(tmp_path: Path, small: str, target: str) -> None:
    """Looking at what a copy would do would do part of it."""
    target = target.format(tmp_path)
    before = footprint(tmp_path)
    planned = copy_device(small, target, dry_run=True)
    assert footprint(tmp_path) == before
    with pytest.raises(NoDevice):
        open_device(target)
    assert planned.dry_run
    done = copy_device(small, target)
    assert (planned.records, planned.size, planned.not_held) == (
        done.records,
        done.size,
        done.not_held,
    )


def test_a_target_must_say_what_it_is(small: str, tmp_path: Path) -> None:
    """A device would be written in a format that was only guessed."""
    with pytest.raises(UnknownStore):
        copy_device(small, tmp_path / "new")
    copy_device(small, tmp_path / "new.db")
    assert everything(f"sqlite:{tmp_path}/new.db").keys() == everything(small).keys()


# Interruptions.


def settled(folder: Path) -> dict[str, bytes]:
    """Every file, but for those that SQLite makes and removes as its connections come and go."""
    return {n: raw for n, raw in bytes_of(folder).items() if not n.endswith(("-wal", "-shm"))}


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("occupied", [False, True])
@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
@pytest.mark.parametrize("moment", ["confirm", "check", "write"])
def test_an_interrupted_copy_leaves_the_target_as_it_was(
    tmp_path: Path,
    small: str,
    target: str,
    occupied: bool,
    error: type[BaseException],
    moment: str,
) -> None:
    """Half a device would be left, or the old one be gone; or its keys lie about in a staging."""
    url = target.format(tmp_path)
    if occupied:
        with open_device(url, create=True):
            pass
    held = everything(url) if occupied else {}
    before = settled(tmp_path)

    def progress(step: str, done: int, total: int) -> None:
        if step == moment and done == total:
            raise error

    def confirm(summary: CopySummary) -> None:
        if moment == "confirm":
            raise error

    with pytest.raises(error):
        copy_device(small, url, overwrite=True, progress=progress, confirm=confirm)
    assert settled(tmp_path) == before
    if occupied:
        assert everything(url) == held
    copy_device(small, url, overwrite=True)
    assert everything(url).keys() == everything(small).keys()


@pytest.mark.parametrize("target", KINDS[:4])
def test_what_a_killed_copy_left_is_removed_by_the_next(
    tmp_path: Path, small: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Private keys would lie about in a forgotten file for ever."""
    url = target.format(tmp_path)
    kept: list[Path] = []
    alive = set(tmp_path.iterdir())

    def save(step: str, done: int, total: int) -> None:
        """The staging as a killed process would leave it, under that process's id."""
        if step == "write" and done == total:
            kept.extend(set(tmp_path.iterdir()) - alive)

    gone = dead_pid()
    with monkeypatch.context() as patch:
        patch.setattr("os.getpid", lambda: gone)
        with pytest.raises(Stop):

            def killed(step: str, done: int, total: int) -> None:
                save(step, done, total)
                if kept:
                    for path in kept:
                        keep = tmp_path / f"saved-{path.name}"
                        (shutil.copytree if path.is_dir() else shutil.copy)(path, keep)
                    raise Stop

            copy_device(small, url, progress=killed)
    assert kept
    for path in kept:
        (tmp_path / f"saved-{path.name}").rename(path)
    copy_device(small, url)
    assert [path for path in kept if path.exists()] == []
    assert everything(url).keys() == everything(small).keys()


def test_the_staging_of_a_living_process_is_left_alone(tmp_path: Path, small: str) -> None:
    """Two copies at once would destroy each other's work."""
    other = tmp_path / ".t.ratchetkeep-stage-1"
    other.mkdir()
    (other / "creds.json").write_text("{}")
    copy_device(small, f"baileys:{tmp_path}/t")
    assert (other / "creds.json").read_text() == "{}"


def test_two_threads_copy_to_one_place(tmp_path: Path, small: str) -> None:
    """One thread's copy would be mixed with, or destroyed by, another's."""
    target = f"baileys:{tmp_path}/t"
    both = threading.Barrier(2)
    outcomes: list[str] = []

    def wait(step: str, done: int, total: int) -> None:
        """Until both have begun to write; but one may have been refused already."""
        if step == "write" and done == 0:
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(1)

    def copy(source: str) -> None:
        try:
            copy_device(source, target, progress=wait)
            outcomes.append("done")
        except RatchetkeepError as error:
            outcomes.append(type(error).__name__)

    sources = [small, f"baileys:{BOB}"]
    threads = [threading.Thread(target=copy, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "done" in outcomes and len(outcomes) == 2
    assert everything(target) in [everything(source) for source in sources]
    assert [path.name for path in tmp_path.iterdir() if "stage" in path.name] == []


def test_confirm_sees_the_summary_before_anything_is_written(tmp_path: Path, small: str) -> None:
    """A user would be asked when it is too late to say no."""
    seen = []

    def confirm(summary: CopySummary) -> None:
        seen.append(summary)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["small"]

    summary = copy_device(small, f"baileysex:{tmp_path}/t", confirm=confirm)
    assert seen == [summary]
    assert CREDENTIALS.family not in summary.records


def test_a_source_that_changes_during_the_copy_is_refused(tmp_path: Path) -> None:
    """Half of another program's commit would be in the copy, which looks whole."""
    folder = small_baileys(tmp_path / "src")

    def change(step: str, done: int, total: int) -> None:
        if step == "write" and done == 0:
            raw = (folder / "creds.json").read_bytes()
            (folder / "creds.json").write_bytes(raw.replace(b'"android"', b'"another"'))

    with pytest.raises(StoreInUse, match="during the copy"):
        copy_device(f"baileys:{folder}", f"sqlite:{tmp_path}/t.db", progress=change)
    assert not (tmp_path / "t.db").exists()
