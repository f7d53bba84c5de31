"""``--retire``: one living copy. The source is marked once the copy is in its place, not before."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from _helpers import ALICE, OTP29, bytes_of, private_copy, small_baileys
from ratchetkeep import (
    CommitFailed,
    CopySummary,
    DeviceExists,
    DeviceMoved,
    NoDevice,
    NotHeld,
    RatchetkeepError,
    StoreDamaged,
    StoreInUse,
    UnsupportedVersion,
    copy_device,
    inspect_device,
    open_device,
    open_store,
    repair_device,
    verify_device,
)
from ratchetkeep.cli.app import app
from ratchetkeep.model import FAMILIES
from ratchetkeep.stores.directory import DirectoryStore
from ratchetkeep.stores.memory import MemoryStore
from ratchetkeep.stores.sqlite import SqliteStore

MARK = ".ratchetkeep.moved"
KINDS = ["baileys:{}/s", "baileysex:{}/s", "sqlite:{}/s.db", "sqlite:{}/s.db?device=a", "memory:{}"]
IDS = ["baileys", "baileysex", "sqlite", "named", "memory"]
STORES = {"baileys": DirectoryStore, "baileysex": DirectoryStore, "sqlite": SqliteStore}


class Stop(Exception):
    """Raised by a test inside a copy."""


@pytest.fixture(params=KINDS, ids=IDS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A small device in each kind of store."""
    small = small_baileys(tmp_path / "small")
    url: str = request.param.format(tmp_path)
    copy_device(f"baileys:{small}", url)
    return url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small device in a folder of Baileys."""
    return small_baileys(tmp_path / "alice")


def everything(url: str) -> dict[str, Any]:
    with open_device(url, read_only=True) as device:
        found: dict[str, Any] = {each: device.get(each, device.ids(each)) for each in FAMILIES}
        return {**found, "credentials": device.credentials}


def is_alive(url: str) -> bool:
    """Whether the device can be opened for writing."""
    try:
        open_device(url).close()
    except DeviceMoved:
        return False
    return True


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments])


# When it is marked.


def test_the_mark_comes_after_the_target_is_in_its_place(source: str, tmp_path: Path) -> None:
    """A copy that stops halfway would leave no device that can be used."""
    target = f"sqlite:{tmp_path}/t.db"

    def stop(step: str, done: int, total: int) -> None:
        if step == "write" and done == total:
            raise Stop

    def refuse(summary: CopySummary) -> None:
        assert summary.retired
        raise Stop

    for how in ({"progress": stop}, {"confirm": refuse}, {"dry_run": True, "confirm": refuse}):
        with pytest.raises(Stop):
            copy_device(source, target, retire=True, **how)
        with pytest.raises(NoDevice):
            open_device(target)
        assert is_alive(source)
    before = everything(source)
    assert copy_device(source, target, retire=True).retired
    assert not is_alive(source)
    assert everything(source) == everything(target) == before


def test_a_crash_before_the_mark_leaves_both_usable(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device would be gone: neither here nor there."""
    store = STORES.get(source.partition(":")[0], MemoryStore)
    target = f"sqlite:{tmp_path}/t.db"

    def interrupted(self: Any, device: str, to: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "mark_moved", interrupted)
        with pytest.raises(KeyboardInterrupt):
            copy_device(source, target, retire=True)
    assert is_alive(source) and is_alive(target)


def test_a_mark_that_cannot_be_written_is_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user would think that the source is retired, and let both go on."""

    def full(self: Any, device: str, to: str) -> None:
        raise CommitFailed(self.url, "no space left")

    monkeypatch.setattr(DirectoryStore, "mark_moved", full)
    target = f"sqlite:{tmp_path}/t.db"
    with pytest.raises(CommitFailed, match=r"was copied to sqlite:.* could not be marked") as told:
        copy_device(f"baileys:{folder}", target, retire=True)
    assert str(folder) in told.value.place and "no space left" in told.value.what
    assert is_alive(target)


def test_nobody_opens_the_source_meanwhile(source: str, tmp_path: Path) -> None:
    """A client would commit to the source after it was read: its last messages would be lost."""
    tried = []

    def progress(step: str, done: int, total: int) -> None:
        with pytest.raises(StoreInUse):
            open_device(source)
        tried.append(step)

    copy_device(source, f"sqlite:{tmp_path}/t.db", retire=True, progress=progress)
    assert {"check", "write"} == set(tried)


def test_what_is_open_cannot_be_retired(source: str, tmp_path: Path) -> None:
    """A running client would go on beside the copy that replaces it."""
    with open_device(source) as device:
        with pytest.raises(StoreInUse):
            copy_device(source, f"sqlite:{tmp_path}/t.db", retire=True)
        device.set({"lid-mapping": {"1": "2"}})
    with pytest.raises(NoDevice):
        open_device(f"sqlite:{tmp_path}/t.db")
    assert is_alive(source)


def test_a_store_without_a_place_for_the_mark_says_so_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A move would be promised, and only a second copy be made."""
    monkeypatch.setattr(DirectoryStore, "no_mark", "its database has no place for one")
    before = bytes_of(tmp_path)
    for dry_run in (True, False):
        with pytest.raises(NotHeld, match="cannot be marked as moved: its database has no place"):
            copy_device(
                f"baileys:{folder}", f"sqlite:{tmp_path}/t.db", retire=True, dry_run=dry_run
            )
    assert bytes_of(tmp_path) == before
    assert is_alive(f"baileys:{folder}")


# What the mark says.


def test_the_refusal_names_the_new_place(source: str, tmp_path: Path) -> None:
    """The user would know neither why it is refused nor where to go on."""
    copy_device(source, f"sqlite:{tmp_path}/t.db?device=Zo%C3%AB", retire=True)
    for opening in (open_device, lambda url: open_device(url, create=True)):
        with pytest.raises(
            DeviceMoved, match=r"was moved to sqlite:.* on 20\d\d-\d\d-\d\d"
        ) as told:
            opening(source)
        assert told.value.to == f"sqlite:{tmp_path}/t.db?device=Zo%C3%AB"
        assert "--from-retired" in told.value.remedy
        assert is_alive(told.value.to)


def test_the_new_place_is_named_from_anywhere(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path means another place once the program runs in another folder."""
    monkeypatch.chdir(tmp_path)
    copy_device("baileys:alice", "sqlite:new.db", retire=True)
    with pytest.raises(DeviceMoved) as told:
        open_device(f"baileys:{folder}")
    assert told.value.to == f"sqlite:{tmp_path}/new.db"


def test_a_folder_gets_one_small_file_more(folder: Path, tmp_path: Path) -> None:
    """Records would be changed, other users could read it, or ours would lie about."""
    before = bytes_of(folder)
    copy_device(f"baileys:{folder}", f"sqlite:{tmp_path}/t.db", retire=True)
    after = bytes_of(folder)
    mark = json.loads(after.pop(MARK))
    assert after == before
    assert (folder / MARK).stat().st_mode & 0o777 == 0o600
    assert mark.pop("at") > 1_700_000_000_000
    assert mark == {"format": "ratchetkeep-moved", "version": 1, "to": f"sqlite:{tmp_path}/t.db"}


def test_looking_shows_the_mark(source: str, tmp_path: Path) -> None:
    """Nobody could tell the living copy from the one that stayed behind."""
    target = f"sqlite:{tmp_path}/t.db"
    assert (inspect_device(source).moved_to, inspect_device(source).moved_at) == ("", None)
    copy_device(source, target, retire=True)
    summary = inspect_device(source)
    assert summary.moved_to == target and summary.moved_at is not None
    (finding,) = verify_device(source)
    assert finding.severity == "warning" and target in finding.what
    assert verify_device(target) == []


@pytest.mark.parametrize(
    ("mark", "error"),
    [
        (b"", StoreDamaged),
        (b"[]", StoreDamaged),
        (b"[" * 100_000, StoreDamaged),
        (b'{"format":"ratchetkeep-moved","version":1}', StoreDamaged),
        (b'{"format":"ratchetkeep-moved","version":1,"to":"x","at":1e400}', StoreDamaged),
        (b'{"format":"ratchetkeep-moved","version":1,"to":"x","at":%d}' % 10**30, StoreDamaged),
        (b'{"format":"another","version":9,"to":"x","at":1}', StoreDamaged),
        (b'{"format":"ratchetkeep-moved","version":2,"gone":1}', UnsupportedVersion),
    ],
)
def test_a_mark_that_cannot_be_read_is_no_absence(
    folder: Path, tmp_path: Path, mark: bytes, error: type[RatchetkeepError]
) -> None:
    """A damaged mark, or one of a newer version, would let the old copy go on."""
    (folder / MARK).write_bytes(mark)
    (folder / MARK).chmod(0o600)
    with pytest.raises(error, match=MARK):
        open_device(f"baileys:{folder}")
    with pytest.raises(error):
        copy_device(f"baileys:{folder}", f"sqlite:{tmp_path}/t.db")
    open_device(f"baileys:{folder}", read_only=True).close()
    assert [f.severity for f in verify_device(f"baileys:{folder}")] == ["error"]
    assert run("devices", folder).exit_code == 0
    copy_device(f"baileys:{ALICE}", f"baileys:{folder}", overwrite=True)
    assert is_alive(f"baileys:{folder}")


def test_a_damaged_mark_in_a_file(tmp_path: Path, folder: Path) -> None:
    """Half of a mark would be taken for none."""
    url = f"sqlite:{tmp_path}/s.db"
    copy_device(f"baileys:{folder}", url)
    copy_device(url, f"memory:{tmp_path}", retire=True)
    with sqlite3.connect(tmp_path / "s.db") as connection:
        connection.execute("UPDATE devices SET moved_at = NULL")
    connection.close()
    with pytest.raises(StoreDamaged):
        open_device(url)
    assert "error" in [finding.severity for finding in verify_device(url)]


# Living on.


def test_overwriting_makes_it_a_living_device(source: str, tmp_path: Path) -> None:
    """A device that came back would still be refused; or be open before it is whole."""
    copy_device(source, f"sqlite:{tmp_path}/t.db", retire=True)
    with pytest.raises(DeviceExists):
        copy_device(f"sqlite:{tmp_path}/t.db", source)
    assert not is_alive(source)

    def stop(step: str, done: int, total: int) -> None:
        if step == "write" and done == total:
            raise Stop

    with pytest.raises(Stop):
        copy_device(f"sqlite:{tmp_path}/t.db", source, overwrite=True, progress=stop)
    assert not is_alive(source)
    copy_device(f"sqlite:{tmp_path}/t.db", source, overwrite=True)
    assert is_alive(source)
    assert inspect_device(source).moved_to == ""


def test_a_source_that_moved_can_move_on(source: str, tmp_path: Path) -> None:
    """After the target was lost, the mark would go on naming a place that is no more."""
    copy_device(source, f"sqlite:{tmp_path}/t.db", retire=True)
    with pytest.raises(DeviceMoved):
        copy_device(source, f"sqlite:{tmp_path}/u.db", retire=True)
    copy_device(source, f"sqlite:{tmp_path}/u.db", retire=True, from_retired=True)
    assert inspect_device(source).moved_to == f"sqlite:{tmp_path}/u.db"
    assert is_alive(f"sqlite:{tmp_path}/u.db")


@pytest.mark.parametrize("kind", ["baileys", "baileysex"])
def test_a_mark_alone_is_a_trace_of_a_device(kind: str, tmp_path: Path) -> None:
    """``rm alice/*`` leaves the mark: a new identity would be minted there by a program that was
    never told, or nothing could be put there any more."""
    folder = private_copy(ALICE if kind == "baileys" else OTP29, tmp_path / "a")
    url = f"{kind}:{folder}"
    copy_device(url, f"sqlite:{tmp_path}/t.db", retire=True)
    for path in folder.iterdir():
        if path.name != MARK:
            path.unlink()
    with pytest.raises(DeviceMoved):
        open_device(url, create=True)
    with pytest.raises(DeviceExists):
        copy_device(f"sqlite:{tmp_path}/t.db", url)
    copy_device(f"sqlite:{tmp_path}/t.db", url, overwrite=True)
    assert is_alive(url)


@pytest.mark.parametrize("kind", ["baileys:{}/s", "baileysex:{}/s", "sqlite:{}/s.db"])
def test_a_moved_device_can_be_removed(kind: str, tmp_path: Path, folder: Path) -> None:
    """What stayed behind, with its keys, could not be removed; or its mark would stay."""
    url = kind.format(tmp_path)
    copy_device(f"baileys:{folder}", url)
    copy_device(url, f"memory:{tmp_path}", retire=True)
    with open_store(url) as store:
        store.remove()
        assert store.devices() == []
    with open_device(url, create=True) as device:
        assert device.ids("session") == []


def test_a_move_inside_one_file(tmp_path: Path, folder: Path) -> None:
    """Moving a device to another name would stop the devices beside it, or itself."""
    url = f"sqlite:{tmp_path}/many.db"
    copy_device(f"baileys:{folder}", f"{url}?device=a")
    with open_store(url) as store:
        with store.create("b") as beside:
            beside.set({"lid-mapping": {"1": "2"}})
            copy_device(f"{url}?device=a", f"{url}?device=c", retire=True)
            beside.set({"lid-mapping": {"3": "4"}})
        with pytest.raises(DeviceMoved, match="device 'a' was moved to"):
            store.open("a")
        for name in ("b", "c"):
            store.open(name).close()
        store.remove("a")
        with store.create("a") as again:
            assert again.ids("session") == []


# Crashes, and older files.


def test_a_mark_is_there_once_it_is_acknowledged(folder: Path, tmp_path: Path) -> None:
    """A crash right after the move would leave two living copies."""
    store = DirectoryStore("baileys", str(folder), background=False)
    store.acquire("default", read_only=False, create=False)
    store.mark_moved("default", "sqlite:/new.db")
    crashed = tmp_path / "crashed"
    shutil.copytree(folder, crashed, ignore=shutil.ignore_patterns("*.lock", "*.owner"))
    store.close()
    assert not (crashed / MARK).exists(), "it waits in the journal"
    assert "sqlite:/new.db" in run("devices", crashed).stdout
    assert inspect_device(crashed).moved_to == "sqlite:/new.db"
    assert not is_alive(f"baileys:{crashed}")
    assert (crashed / MARK).exists()
    repair_device(crashed)
    assert not is_alive(f"baileys:{crashed}")


VERSION_1 = """
CREATE TABLE devices (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, created INTEGER NOT NULL
) STRICT;
CREATE TABLE records (
    device INTEGER NOT NULL, family TEXT NOT NULL, id TEXT NOT NULL, data BLOB NOT NULL,
    UNIQUE (device, family, id)
) STRICT;
PRAGMA application_id = 0x524B4550;
PRAGMA user_version = 1;
"""


def _old_file(path: Path, small: Path) -> str:
    """A file as the schema before marks had it."""
    copy_device(f"baileys:{small}", f"sqlite:{path}.new")
    connection = sqlite3.connect(path)
    connection.executescript(VERSION_1)
    connection.execute(f"ATTACH '{path}.new' AS new")
    connection.execute("INSERT INTO devices SELECT id, name, created FROM new.devices")
    connection.execute("INSERT INTO records SELECT * FROM new.records")
    connection.commit()
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    os.chmod(path, 0o600)
    return f"sqlite:{path}"


def test_a_file_of_version_1_is_read_and_upgraded(tmp_path: Path, folder: Path) -> None:
    """A store that an older version made could not be opened, or not be moved."""
    url = _old_file(tmp_path / "old.db", folder)
    before = (tmp_path / "old.db").read_bytes()
    assert inspect_device(url).moved_to == ""
    assert verify_device(url) == []
    copy_device(url, f"sqlite:{tmp_path}/t.db")
    assert (tmp_path / "old.db").read_bytes() == before, "reading must not upgrade"
    copy_device(url, f"sqlite:{tmp_path}/t.db", overwrite=True, retire=True)
    assert not is_alive(url)
    connection = sqlite3.connect(tmp_path / "old.db")
    assert connection.execute("PRAGMA user_version").fetchone() == (3,)
    connection.close()


# The command line.


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_line(folder: Path, tmp_path: Path, as_json: bool) -> None:
    """A user of the command line would not see that, where to, and what is left to be done."""
    target = f"sqlite:{tmp_path}/t.db"
    flags = ["--json"] if as_json else []
    done = run("copy", folder, target, "--retire", *flags)
    assert done.exit_code == 0
    assert "Node does not look at the mark" in done.stdout
    assert "two that both go on" not in done.stdout
    told: list[Callable[[str], Any]] = [json.loads, str]
    shown = told[not as_json](run("inspect", folder, *flags).stdout)
    assert shown["moved_to"] == target if as_json else f"to {target}" in shown
    shown = told[not as_json](run("devices", folder, *flags).stdout)
    assert shown["devices"][0]["moved_to"] == target if as_json else f"moved to {target}" in shown
    assert run("verify", folder, *flags).exit_code == 0
    refused = run("copy", folder, f"sqlite:{tmp_path}/u.db", *flags)
    assert refused.exit_code == 6
    assert "--from-retired" in refused.stderr and target in refused.stderr
    assert run("copy", folder, f"sqlite:{tmp_path}/u.db", "--from-retired", *flags).exit_code == 0


def test_ctrl_c_says_where_to_look(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C nobody would know which of the two lives."""

    def interrupted(self: Any, device: str, to: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(DirectoryStore, "mark_moved", interrupted)
    done = run("copy", folder, f"sqlite:{tmp_path}/t.db", "--retire")
    assert done.exit_code == 130
    assert "whether it is marked as moved" in done.stderr
