"""Copies of many devices: all of them arrive as they were, and one that fails stops no other."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from _copy_all import NAMES, errors, files, fleet, held, leftovers, outcomes
from _helpers import ALICE, COMPAT, OTP29, private_copy, small_baileys
from _whatsmeow import ALICE_JID, BOB_JID, SqliteFile, put_alice, put_bob
from ratchetkeep import (
    CopyAllSummary,
    CopySummary,
    InvalidValue,
    LeftBehind,
    NotHeldByTarget,
    copy_all,
    copy_device,
)
from ratchetkeep._copy_all_sum import Totals
from ratchetkeep.stores.disk import Disk
from ratchetkeep.stores.layouts import LAYOUTS
from ratchetkeep.stores.sqlite import SqliteStore


class Stop(Exception):
    """Raised by a test inside a copy."""


@pytest.fixture
def one(tmp_path: Path) -> str:
    """A store with some devices."""
    fleet(f"sqlite:{tmp_path}/one.db")
    return f"sqlite:{tmp_path}/one.db"


# -- there and back


@pytest.mark.parametrize("kind", list(LAYOUTS))
def test_a_tree_comes_back_as_the_same_files(tmp_path: Path, one: str, kind: str) -> None:
    """A fleet would not be the same after it went to our store and back."""
    first = copy_all(one, f"{kind}:{tmp_path}/tree")
    assert first.complete and outcomes(first) == dict.fromkeys(NAMES, "copied")
    second = copy_all(f"{kind}:{tmp_path}/tree", f"sqlite:{tmp_path}/two.db")
    assert second.complete and second.total == first.total
    third = copy_all(f"sqlite:{tmp_path}/two.db", f"{kind}:{tmp_path}/again")
    assert third.complete
    assert files(tmp_path / "again") == files(tmp_path / "tree")
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "tree").rglob("*.*")} == {0o600}
    assert leftovers(tmp_path) == []


def test_a_store_comes_back_as_the_same_records(tmp_path: Path, one: str) -> None:
    """Records of one device would be in another one, or be lost."""
    before = held(one)
    assert copy_all(one, f"baileys:{tmp_path}/tree").complete
    assert copy_all(f"{tmp_path}/tree", f"sqlite:{tmp_path}/two.db").complete
    assert held(f"sqlite:{tmp_path}/two.db") == before
    assert copy_all(f"sqlite:{tmp_path}/two.db", f"memory:{tmp_path}").complete
    assert copy_all(f"memory:{tmp_path}", f"sqlite:{tmp_path}/three.db").complete
    assert held(f"sqlite:{tmp_path}/three.db") == before
    assert held(one) == before


def test_a_tree_may_have_folders_of_many_kinds(tmp_path: Path) -> None:
    """A tree of clients in Node and Elixir could not be copied at once."""
    (tmp_path / "tree" / "elixir").mkdir(parents=True)
    private_copy(ALICE, tmp_path / "tree" / "node")
    private_copy(OTP29, tmp_path / "tree" / "elixir" / "etf")
    private_copy(COMPAT, tmp_path / "tree" / "elixir" / "json")
    summary = copy_all(tmp_path / "tree", f"sqlite:{tmp_path}/one.db")
    assert outcomes(summary) == dict.fromkeys(["elixir/etf", "elixir/json", "node"], "copied")
    assert summary.source_kinds == ("baileys", "baileysex", "baileysex-json")
    copy_device(f"baileys:{ALICE}", f"sqlite:{tmp_path}/alice.db")
    alice = held(f"sqlite:{tmp_path}/alice.db")["default"]
    assert held(f"sqlite:{tmp_path}/one.db")["node"] == alice


def test_databases_of_whatsmeow_are_copied(tmp_path: Path) -> None:
    """A bridge with several accounts would have to be copied one by one."""
    database = SqliteFile(tmp_path / "go.db")
    put_alice(database)
    put_bob(database)
    there = copy_all(database.url(), f"sqlite:{tmp_path}/one.db")
    assert outcomes(there) == {BOB_JID: "copied", ALICE_JID: "copied"}
    back = SqliteFile(tmp_path / "back.db")
    assert copy_all(f"sqlite:{tmp_path}/one.db", back.url()).complete
    assert back.dump() == database.dump()
    again = copy_all(f"sqlite:{tmp_path}/one.db", back.url())
    assert outcomes(again) == dict.fromkeys([BOB_JID, ALICE_JID], "already there")


def test_what_all_devices_carry_is_added_up(tmp_path: Path, one: str) -> None:
    """The plan would tell of one device, or would be as long as the fleet is large."""
    single = copy_device(one + "?device=a", f"baileysex:{tmp_path}/single")
    summary = copy_all(one, f"baileysex:{tmp_path}/tree")
    many = len(NAMES)
    assert summary.records == {family: many * n for family, n in single.records.items()}
    assert summary.total == many * single.total
    assert [each.count for each in summary.converted] == [
        many * each.count for each in single.converted
    ]
    assert [(each.what, each.count) for each in summary.not_held] == [
        (each.what, many * each.count) for each in single.not_held
    ]


def test_amounts_are_added_up() -> None:
    """The plan would have a line for each device that loses another number of messages."""

    def carried(amount: int) -> CopySummary:
        what = f"{amount} of the 21 skipped messages can no longer be read"
        lost = NotHeldByTarget(
            "session", "keys", what, False, 2, f"session {amount}", amount=amount
        )
        behind = LeftBehind("contacts", amount, "names")
        return CopySummary("a", "b", "c", "d", {}, 1, (lost,), left_behind=(behind,))

    totals = Totals()
    for amount in (1, 2, 40):
        totals.add(carried(amount))
    (lost,) = totals.not_held()
    assert lost.what == "43 of the 21 skipped messages can no longer be read"
    assert (lost.count, lost.amount, lost.example) == (6, 43, "session 1")
    assert totals.left_behind() == (LeftBehind("contacts", 43, "names"),)


# -- which folders are devices


def test_only_folders_with_a_device_are_devices(tmp_path: Path, one: str) -> None:
    """A backup within a device's folder, or what a killed copy left, would be copied as one."""
    root = tmp_path / "tree"
    copy_all(one, f"baileys:{root}")
    shutil.copytree(root / "a", root / "a" / "backup")
    shutil.copytree(root / "a", root / ".a.ratchetkeep-stage-1-00ff")
    (root / "empty" / "deep").mkdir(parents=True)
    (root / "notes.txt").write_text("mine")
    (root / "creds.json").mkdir()
    summary = copy_all(f"baileys:{root}", f"sqlite:{tmp_path}/two.db")
    assert outcomes(summary) == dict.fromkeys(NAMES, "copied")


def test_links_are_not_followed(tmp_path: Path, one: str) -> None:
    """A copy would run in a circle, take a device twice, or take one from out of the tree; or
    a device that only a link leads to would be missed without a word."""
    root = tmp_path / "tree"
    copy_all(one, f"baileys:{root}")
    (root / "loop").symlink_to(root)
    (root / "again").symlink_to(root / "a")
    (root / "broken").symlink_to(tmp_path / "nothing")
    (root / "etc").symlink_to("/etc")
    outside = small_baileys(tmp_path / "outside")
    (root / "elsewhere").symlink_to(outside)
    summary = copy_all(f"baileys:{root}", f"sqlite:{tmp_path}/two.db")
    assert errors(summary) == {"elsewhere": "InvalidValue"}
    assert outcomes(summary) == {**dict.fromkeys(NAMES, "copied"), "elsewhere": "failed"}


def test_nothing_is_written_through_a_link(tmp_path: Path, one: str) -> None:
    """A device would be written out of the tree, where the link leads."""
    root, outside = tmp_path / "tree", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "a").symlink_to(outside)
    (root / "fleet").symlink_to(outside)
    summary = copy_all(one, f"baileys:{root}")
    assert errors(summary) == {"a": "InvalidValue"}
    assert list(outside.iterdir()) == []
    assert sorted(path.name for path in root.iterdir() if not path.is_symlink()) == [
        "b b",
        "fleet%2Fx",
        "fleet%2Fy",
        "ü",
    ]
    back = copy_all(f"baileys:{root}", f"sqlite:{tmp_path}/two.db")
    assert outcomes(back) == dict.fromkeys(["b b", "fleet/x", "fleet/y", "ü"], "copied")


def test_names_that_are_no_names_are_told(tmp_path: Path) -> None:
    """One odd folder would stop the copy of a whole tree, or be missed without a word."""
    root = tmp_path / "tree"
    root.mkdir()
    small_baileys(root / "good")
    small_baileys(root / os.fsdecode(b"not \xff UTF-8"))
    (root / ("d" * 200)).mkdir()
    small_baileys(root / ("d" * 200) / ("e" * 100))
    summary = copy_all(f"baileys:{root}", f"baileys:{tmp_path}/new")
    assert [each.outcome for each in summary.devices] == ["failed", "copied", "failed"]
    assert {type(each.error) for each in summary.failed} == {InvalidValue}
    assert [each.target for each in summary.failed] == ["", ""]


def test_two_folders_of_one_name_are_not_mixed(tmp_path: Path) -> None:
    """One of two devices would be copied over the other."""
    root = tmp_path / "tree"
    (root / "a").mkdir(parents=True)
    small_baileys(root / "a" / "b")
    small_baileys(root / "a%2Fb")
    summary = copy_all(f"baileys:{root}", f"sqlite:{tmp_path}/two.db")
    assert sorted(each.outcome for each in summary.devices) == ["copied", "failed"]
    assert [type(each.error).__name__ for each in summary.failed] == ["NameCollision"]


# -- before anything is written


@pytest.mark.parametrize("target", ["sqlite:{}/two.db", "baileys:{}/tree", "whatsmeow:{}/go.db"])
def test_a_dry_run_writes_nothing(tmp_path: Path, one: str, target: str) -> None:
    """Looking at what a copy would do would do part of it, or tell something else."""
    url = target.format(tmp_path)
    before = sorted(os.listdir(tmp_path))
    planned = copy_all(one, url, dry_run=True)
    assert sorted(os.listdir(tmp_path)) == before
    assert planned.dry_run and outcomes(planned) == dict.fromkeys(NAMES, "to be copied")
    done = copy_all(one, url)
    assert (planned.records, planned.size, planned.not_held) == (
        done.records,
        done.size,
        done.not_held,
    )
    again = copy_all(one, url, dry_run=True)
    assert outcomes(again) == dict.fromkeys(NAMES, "already there")


def test_confirm_sees_the_plan_before_anything_is_written(tmp_path: Path, one: str) -> None:
    """A user would be asked when it is too late to say no."""
    seen: list[CopyAllSummary] = []

    def refuse(summary: CopyAllSummary) -> None:
        seen.append(summary)
        raise Stop

    before = sorted(os.listdir(tmp_path))
    with pytest.raises(Stop):
        copy_all(one, f"baileys:{tmp_path}/tree", confirm=refuse)
    assert sorted(os.listdir(tmp_path)) == before
    done = copy_all(one, f"baileys:{tmp_path}/tree", confirm=seen.append)
    assert [outcomes(each) for each in seen] == [dict.fromkeys(NAMES, "to be copied")] * 2
    assert (done.records, done.not_held) == (seen[0].records, seen[0].not_held)
    assert done.complete and outcomes(done) == dict.fromkeys(NAMES, "copied")


def test_progress_counts_devices_and_records(tmp_path: Path, one: str) -> None:
    """A user would not see how far a copy of an hour is."""
    seen: list[tuple[str, int, int, int]] = []
    done = copy_all(
        one,
        f"baileys:{tmp_path}/tree",
        confirm=lambda summary: None,
        progress=lambda *each: seen.append(each),
    )
    for step in ("check", "copy"):
        steps = [each[1:] for each in seen if each[0] == step]
        assert steps[0] == (0, len(NAMES), 0)
        assert steps[-1] == (len(NAMES), len(NAMES), done.total + len(NAMES))
        assert steps == sorted(steps)


@pytest.mark.parametrize("within", [False, True])
def test_progress_may_stop_it(tmp_path: Path, one: str, within: bool) -> None:
    """What the caller raised would be told as a bug in a device, and the copy would go on."""
    seen = []

    def stop(step: str, done: int, total: int, records: int) -> None:
        seen.append(done)
        if done == 2 and seen.count(2) == 1 + within:
            raise Stop

    with pytest.raises(Stop):
        copy_all(one, f"baileys:{tmp_path}/tree", progress=stop)
    assert leftovers(tmp_path) == []
    assert {name.partition("/")[0] for name in files(tmp_path / "tree")} == {"a", "b b"}


# -- what would take longer the more devices there are


def test_no_device_looks_through_all_of_them(tmp_path: Path, monkeypatch: Any) -> None:
    """A copy of ten thousand devices would take a hundred times as long as one of a thousand."""
    names = [f"{number:03}" for number in range(40)]
    fleet(f"sqlite:{tmp_path}/one.db", names, records=0)
    root = f"{tmp_path}/tree"
    listed, checked = [0], [0]
    real_list, real_findings = Disk.list, SqliteStore.findings

    def count_list(disk: Disk, folder: str) -> list[str]:
        listed[0] += folder == root
        return real_list(disk, folder)

    def count_findings(store: SqliteStore, device: str) -> Any:
        checked[0] += 1
        return real_findings(store, device)

    monkeypatch.setattr(Disk, "list", count_list)
    monkeypatch.setattr(SqliteStore, "findings", count_findings)
    monkeypatch.setattr(SqliteStore, "devices", counted_devices(asked := [0]))
    assert copy_all(f"sqlite:{tmp_path}/one.db", f"baileys:{root}", jobs=1).complete
    assert copy_all(f"baileys:{root}", f"sqlite:{tmp_path}/two.db", jobs=1).complete
    assert listed[0] <= 2
    assert checked[0] == 1
    assert asked[0] <= 4


def counted_devices(asked: list[int]) -> Any:
    real = SqliteStore.devices

    def devices(store: SqliteStore) -> list[str]:
        asked[0] += 1
        return real(store)

    return devices
