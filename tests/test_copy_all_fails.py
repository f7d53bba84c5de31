"""Copies of many devices: one that fails stops no other, and what concerns all is told once."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from _copy_all import NAMES, errors, fleet, held, leftovers, outcomes
from _helpers import footprint, small_baileys
from ratchetkeep import (
    CommitFailed,
    DeviceExists,
    DeviceMoved,
    InvalidValue,
    NoDevice,
    NotHeld,
    RatchetkeepError,
    StoreDamaged,
    StoreInUse,
    StoreUnreadable,
    UnknownStore,
    copy_all,
    copy_device,
    open_device,
    open_store,
)
from ratchetkeep import _copy_all_job as job
from ratchetkeep.copy import copy_between
from ratchetkeep.stores._owner import Ownership
from ratchetkeep.stores.base import Finding
from ratchetkeep.stores.disk import Disk
from ratchetkeep.stores.sqlite import SqliteStore


@pytest.fixture
def one(tmp_path: Path) -> str:
    """A store with some devices."""
    fleet(f"sqlite:{tmp_path}/one.db")
    return f"sqlite:{tmp_path}/one.db"


# -- devices that fail


def test_one_damaged_device_does_not_stop_the_others(tmp_path: Path, one: str) -> None:
    """A fleet could not be moved because of its worst device; or that would be missed."""
    root = tmp_path / "tree"
    copy_all(one, f"baileys:{root}")
    (root / "a" / "creds.json").write_bytes(b"")
    (root / "fleet" / "y" / "pre-key-1.json").write_text("{")
    (root / "odd").mkdir()
    (root / "odd" / "pre-key-1.json").write_text("{}")
    with open_device(f"baileys:{root}/b b"):
        summary = copy_all(f"baileys:{root}", f"sqlite:{tmp_path}/two.db")
    damaged = dict.fromkeys(["a", "fleet/y", "odd"], "StoreDamaged")
    assert errors(summary) == {**damaged, "b b": "StoreInUse"}
    assert not summary.complete and summary.stopped is None
    assert {*held(f"sqlite:{tmp_path}/two.db")} == {"fleet/x", "ü"}
    assert all(each.error and each.error.remedy for each in summary.failed)
    assert leftovers(tmp_path) == []


def test_a_bug_in_one_device_does_not_stop_the_others(
    tmp_path: Path, one: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fleet could not be moved because of what nobody has thought of."""
    real = copy_between

    def odd(source: Any, *others: Any, **more: Any) -> Any:
        if source.device == "a":
            raise KeyError("a private key")
        if source.device == "b b":
            raise OSError(errno.EIO, os.strerror(errno.EIO), "somewhere")
        return real(source, *others, **more)

    monkeypatch.setattr("ratchetkeep._copy_all_job.copy_between", odd)
    summary = copy_all(one, f"baileys:{tmp_path}/tree")
    assert errors(summary) == {"a": "RatchetkeepError", "b b": "RatchetkeepError"}
    told = [str(each.error) for each in summary.failed]
    assert "unexpected KeyError" in told[0] and "private" not in told[0]
    assert told[1].startswith("somewhere: Input/output error")


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    """Devices below it would be missing in the copy, without a word."""
    root = tmp_path / "tree"
    (root / "closed").mkdir(parents=True)
    small_baileys(root / "a")
    real = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    summary = copy_all(f"baileys:{root}", f"sqlite:{tmp_path}/two.db")
    assert outcomes(summary) == {"a": "copied", "closed": "failed"}
    assert errors(summary) == {"closed": "StoreUnreadable"}


def test_a_name_that_another_device_has_is_refused(tmp_path: Path, one: str) -> None:
    """The device that is there would be destroyed, or be taken for a copy of the other."""
    target = f"sqlite:{tmp_path}/two.db"
    with open_store(target) as store:
        store.create("a").close()
    theirs = held(target)["a"]
    summary = copy_all(one, target)
    assert errors(summary) == {"a": "DeviceExists"}
    assert held(target)["a"] == theirs
    assert {*held(target)} == {*NAMES}
    assert copy_all(one, target, overwrite=True).complete
    assert held(target) == held(one)


def test_a_folder_with_other_files_is_refused(tmp_path: Path, one: str) -> None:
    """A device would be strewn among a user's files, or these be taken for a device."""
    (tmp_path / "tree" / "a").mkdir(parents=True)
    (tmp_path / "tree" / "a" / "notes.txt").write_text("mine")
    (tmp_path / "tree" / "ü").write_text("mine")
    for confirm in (None, lambda summary: None):
        summary = copy_all(one, f"baileys:{tmp_path}/tree", confirm=confirm)
        assert errors(summary) == {"a": "DeviceExists", "ü": "UnknownStore"}
        (error,) = (each.error for each in summary.failed if each.device == "a")
        assert error is not None and "other files" in error.what
    assert [path.name for path in (tmp_path / "tree" / "a").iterdir()] == ["notes.txt"]


def test_a_damaged_file_is_told_once(tmp_path: Path, one: str, monkeypatch: Any) -> None:
    """Every device of the file would be copied from it, or each would tell the same."""
    found = Finding("error", "one.db", "SQLite finds: a wrong page", "Restore it")
    monkeypatch.setattr(SqliteStore, "findings", lambda store, device: iter([found]))
    with pytest.raises(StoreDamaged, match="a wrong page"):
        copy_all(one, f"baileys:{tmp_path}/tree")
    assert not (tmp_path / "tree").exists()


# -- errors of the target


def test_a_full_disk_stops_the_copy(tmp_path: Path, one: str, monkeypatch: Any) -> None:
    """Thousands of devices would be tried in vain, each with an error of its own; or half a device
    would stay."""
    real, written = Disk.write, [0]

    def write(disk: Disk, path: str, data: bytes) -> None:
        written[0] += 1
        if written[0] > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(disk, path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "write", write)
        summary = copy_all(one, f"baileys:{tmp_path}/tree")
    assert isinstance(summary.stopped, CommitFailed) and "No space left" in summary.stopped.what
    assert outcomes(summary) == {"a": "copied", **dict.fromkeys(NAMES[1:], "not copied")}
    assert not summary.complete and summary.failed == ()
    assert leftovers(tmp_path) == []
    rest = copy_all(one, f"baileys:{tmp_path}/tree")
    assert outcomes(rest) == {"a": "already there", **dict.fromkeys(NAMES[1:], "copied")}


def test_a_file_that_somebody_owns_stops_the_copy(tmp_path: Path, one: str) -> None:
    """Every device would wait for the same lock."""
    target = tmp_path / "two.db"
    copy_device(one + "?device=a", f"sqlite:{target}")
    owner = Ownership("two.db", Path(f"{target}.lock"), Path(f"{target}.owner"))
    owner.take()
    summary = copy_all(one, f"sqlite:{target}")
    assert isinstance(summary.stopped, StoreInUse)
    assert {*outcomes(summary).values()} == {"not copied"}
    owner.release()
    assert copy_all(one, f"sqlite:{target}").complete


def test_a_folder_that_cannot_be_made_stops_the_copy(
    tmp_path: Path, one: str, monkeypatch: Any
) -> None:
    """A missing permission would be told once for each of thousands."""

    def refuse(disk: Disk, path: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Disk, "make_folder", refuse)
    summary = copy_all(one, f"baileys:{tmp_path}/tree")
    assert isinstance(summary.stopped, CommitFailed)
    assert {*outcomes(summary).values()} == {"not copied"}


# -- what makes no sense


def nonsense(tmp_path: Path, one: str) -> list[tuple[str, str, dict[str, Any], type]]:
    tree, new = f"baileys:{tmp_path}/tree", f"sqlite:{tmp_path}/new.db"
    go = f"whatsmeow:{tmp_path}/go.db"
    return [
        (one, one, {}, InvalidValue),
        (tree, tree, {}, InvalidValue),
        (tree, f"{tree}/new", {}, InvalidValue),
        (f"{tree}/fleet", tree, {}, InvalidValue),
        (one + "?device=a", new, {}, InvalidValue),
        (one, new + "?device=a", {}, InvalidValue),
        (f"{tree}/a", new, {}, InvalidValue),
        (one, f"{tree}/a", {}, InvalidValue),
        (one, "memory:", {}, InvalidValue),
        (one, new, {"jobs": 0}, InvalidValue),
        (one, new, {"client": "nobody"}, InvalidValue),
        (one, f"baileys:{tmp_path}/new", {"client": "whatsmeow"}, InvalidValue),
        (one, "memory:x", {"keep_rest": True}, NotHeld),
        (one, str(tmp_path / "nowhere"), {}, UnknownStore),
        (one, str(tmp_path), {}, UnknownStore),
        (one, f"baileys:{tmp_path}/one.db", {}, UnknownStore),
        (f"baileys:{tmp_path}/one.db", new, {}, UnknownStore),
        (f"baileys:{tmp_path}/nowhere", new, {}, NoDevice),
        (go, new, {}, NoDevice),
    ]


def test_what_makes_no_sense_is_refused_at_once(tmp_path: Path, one: str) -> None:
    """A copy of a tree into itself would never end, or each device would fail by itself."""
    copy_all(one, f"baileys:{tmp_path}/tree")
    before = footprint(tmp_path / "tree"), sorted(os.listdir(tmp_path))
    for source, target, options, error in nonsense(tmp_path, one):
        with pytest.raises(RatchetkeepError) as refused:
            copy_all(source, target, **options)
        assert isinstance(refused.value, error), (source, target, options, refused.value)
    assert (footprint(tmp_path / "tree"), sorted(os.listdir(tmp_path))) == before


def test_errors_are_the_same_between_processes() -> None:
    """What another process found would be told as something else, or without its remedy."""
    for error in (
        StoreInUse("there", "is in use", "Stop it", holder="process 1"),
        DeviceMoved("there", "was moved", to="sqlite:new.db"),
        DeviceExists("there", "is there"),
        StoreUnreadable("there", "cannot be read"),
    ):
        back = job.unpack(job.pack(job.Done(job.FAILED, error=error, stops=True)))
        assert back.stops and back.outcome == job.FAILED
        assert type(back.error) is type(error) and vars(back.error) == vars(error)
        assert str(back.error) == str(error)
