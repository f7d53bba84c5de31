"""Where devices live: DeviceStore, URLs, bare paths and what is found there."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from ratchetkeep import (
    DeviceExists,
    InvalidValue,
    NoDevice,
    OwnershipLost,
    RatchetkeepError,
    StoreClosed,
    StoreDamaged,
    StoreInUse,
    UnknownStore,
    open_device,
    open_store,
    verify_device,
)
from ratchetkeep.stores import _sqlite_file, urls

KINDS = ("memory", "sqlite", "baileys", "baileys6", "baileysex", "baileysex-json")


def place(kind: str, folder: Path) -> str:
    return f"{kind}:{uuid.uuid4()}" if kind == "memory" else f"{kind}:{folder}/{kind}.place"


# -- DeviceStore


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_of_one_device(kind: str, tmp_path: Path) -> None:
    """The store API would treat a folder otherwise than a file, or find devices in no place."""
    url = place(kind, tmp_path)
    with open_store(url) as store:
        assert store.devices() == []
        with pytest.raises(NoDevice):
            store.open()
        with pytest.raises(NoDevice):
            store.remove()
        with store.create() as device:
            credentials = device.credentials
        assert store.devices() == ["default"]
        with pytest.raises(DeviceExists):
            store.create()
        with store.open(read_only=True) as device:
            assert device.credentials == credentials
        with store.open() as device:
            device.set({"lid-mapping": {"1": "2"}})
        store.remove()
        assert store.devices() == []
    with pytest.raises(NoDevice):
        open_device(url)
    with open_device(url, create=True) as device:
        assert device.credentials != credentials
        assert device.ids("lid-mapping") == []


@pytest.mark.parametrize("kind", KINDS[2:])
def test_a_folder_holds_one_device(kind: str, tmp_path: Path) -> None:
    """A second device would be written over the first one."""
    with open_store(place(kind, tmp_path)) as store:
        store.create().close()
        with pytest.raises(NoDevice):
            store.create("other")
        with pytest.raises(NoDevice):
            store.open("other")
        assert store.devices() == ["default"]


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("name", ["", "a\0b", "\ud800"])
def test_device_names_that_no_url_can_name_are_refused(
    kind: str, name: str, tmp_path: Path
) -> None:
    """A device would be made that can never be opened by its URL, or SQLite's error be shown."""
    with open_store(place(kind, tmp_path)) as store:
        with pytest.raises(InvalidValue):
            store.create(name)
        assert store.devices() == []


@pytest.mark.parametrize("kind", KINDS)
def test_closing_a_store_closes_its_devices(kind: str, tmp_path: Path) -> None:
    """A device of a closed store would answer from memory while another process owns it."""
    url = place(kind, tmp_path)
    store = open_store(url)
    device = store.create()
    device.set({"lid-mapping": {"1": "2"}})
    store.close()
    store.close()
    with open_device(url) as owner:
        owner.set({"lid-mapping": {"1": "3"}})
        for use in (
            lambda: device.set({"lid-mapping": {"1": "4"}}),
            lambda: device.get("lid-mapping", ["1"]),
            lambda: device.credentials,
        ):
            with pytest.raises(StoreClosed):
                use()
        device.close()
        owner.set({"lid-mapping": {"1": "5"}})


def test_looking_at_a_file_does_not_endanger_its_owner(tmp_path: Path) -> None:
    """Opening and closing the file beside SQLite drops the owner's locks on it. Another program
    then takes itself for the last one and removes the log that the owner writes to: what is
    committed after that is gone with a crash."""
    url = f"sqlite:{tmp_path}/device.db"
    visit = _VISIT.format(path=tmp_path / "device.db")
    code = f"""
import os, subprocess, sys
from ratchetkeep import open_device, open_store, verify_device
device = open_device({url!r}, create=True)
open_store({url!r}).devices()
open_device({url!r}, read_only=True).close()
open_device({str(tmp_path / "device.db")!r}, read_only=True).close()
verify_device({url!r})
subprocess.run([sys.executable, "-c", {visit!r}], check=True)
device.set({{"lid-mapping": {{"1": "2"}}}})
os._exit(9)
"""
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert died.returncode == 9, died.stderr
    with open_device(url) as device:
        assert device.get("lid-mapping", ["1"]) == {"1": "2"}
    assert verify_device(url) == []


_VISIT = """
import sqlite3
visitor = sqlite3.connect("{path}")
visitor.execute("SELECT count(*) FROM records").fetchall()
visitor.close()
"""


# -- URLs and paths


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("sqlite:a.db", ("sqlite", "a.db", "default")),
        ("sqlite:/a/b c.db?device=x%20y", ("sqlite", "/a/b c.db", "x y")),
        ("sqlite:///a/b.db", ("sqlite", "/a/b.db", "default")),
        ("baileys:auth", ("baileys", "auth", "default")),
        ("baileys6:auth", ("baileys6", "auth", "default")),
        ("baileysex:/x?y", ("baileysex", "/x?y", "default")),
        ("baileysex-json:/x", ("baileysex-json", "/x", "default")),
        ("memory:", ("memory", "", "default")),
        ("memory:a", ("memory", "a", "default")),
    ],
)
def test_urls(url: str, target: tuple[str, str, str]) -> None:
    """A URL would lead to another place than it says."""
    assert urls.parse(url) == target


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:", "baileys:", "baileysex:", "baileysex-json:",
        "redis:x", "sqlite:a?device=", "sqlite:a?name=b",
        "sqlite:a?device=a&device=b", "sqlite:a?device=%00", "http://user:hunter2@host/x", ":x",
    ],
)  # fmt: skip
def test_urls_that_name_no_store(url: str) -> None:
    """A mistake in a URL would make a new device somewhere, or show a password."""
    for create in (False, True):
        with pytest.raises(UnknownStore) as caught:
            open_device(url, create=create)
        assert "sqlite:PATH" in str(caught.value)
        assert "hunter2" not in str(caught.value)


def test_create_and_read_only_exclude_each_other(tmp_path: Path) -> None:
    """Credentials would be minted that are never stored, or a place made by a reader."""
    for kind in KINDS:
        with pytest.raises(InvalidValue):
            open_device(place(kind, tmp_path), create=True, read_only=True)
    assert list(tmp_path.iterdir()) == []


def _folder(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).write_bytes(b"{}")
    return path


def _foreign_sqlite(path: Path) -> Path:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (a)")
    connection.close()
    return path


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _ours(path: Path) -> Path:
    open_device(f"sqlite:{path}", create=True).close()
    return path


def _link(path: Path, target: str) -> Path:
    path.symlink_to(target)
    return path


FOUND: list[tuple[str, Callable[[Path], Path], str]] = [
    ("ours", lambda p: _ours(p / "a.bin"), "sqlite"),
    ("link", lambda p: _link(p / "l", _ours(p / "a.bin").name), "sqlite"),
    ("missing .db", lambda p: p / "a.db", "sqlite"),
    ("missing .sqlite3", lambda p: p / "a.sqlite3", "sqlite"),
    ("creds.json", lambda p: _folder(p / "a", "creds.json"), "baileys"),
    ("pre-keys", lambda p: _folder(p / "a", "pre-key-1.json"), "baileys"),
    ("etf", lambda p: _folder(p / "a", "creds.etf"), "baileysex"),
    ("manifest", lambda p: _folder(p / "a", urls._MANIFEST), "baileysex"),
    ("compat", lambda p: _folder(p / "a", urls._COMPAT_MANIFEST, "creds.json"), "baileysex-json"),
    ("colon", lambda p: _folder(p / "a:b", "creds.json"), "baileys"),
]
REFUSED: list[tuple[str, Callable[[Path], Path], type[RatchetkeepError], str]] = [
    ("missing", lambda p: p / "a", NoDevice, "nothing is there"),
    ("empty folder", lambda p: _folder(p / "a"), NoDevice, "empty folder"),
    ("other folder", lambda p: _folder(p / "a", "x.txt", "y"), UnknownStore, "2 other files"),
    ("both", lambda p: _folder(p / "a", urls._COMPAT_MANIFEST, urls._MANIFEST), UnknownStore,
     "both"),
    ("foreign sqlite", lambda p: _foreign_sqlite(p / "a.db"), UnknownStore, "another program"),
    ("text", lambda p: _file(p / "a.db", b"hello"), UnknownStore, "not an SQLite database"),
    ("empty file", lambda p: _file(p / "a.db", b""), StoreDamaged, "empty file"),
    ("only a log", lambda p: _file(p / "a.db-wal", b"1").with_name("a.db"), StoreDamaged, "log"),
    ("broken link", lambda p: _link(p / "l", "nowhere"), RatchetkeepError, ""),
]  # fmt: skip


@pytest.mark.parametrize(("make", "kind"), [case[1:] for case in FOUND], ids=[c[0] for c in FOUND])
def test_bare_paths(make: Callable[[Path], Path], kind: str, tmp_path: Path) -> None:
    """A path would be opened as another kind of store than it holds."""
    path = make(tmp_path)
    assert urls.parse(path) == urls.parse(str(path)) == (kind, str(path), "default")


@pytest.mark.parametrize(
    ("make", "error", "words"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_bare_paths_that_hold_no_store(
    make: Callable[[Path], Path], error: type[RatchetkeepError], words: str, tmp_path: Path
) -> None:
    """Something else would be taken for an empty place, and a device made over it."""
    path = make(tmp_path)
    before = sorted(os.walk(tmp_path))
    for create in (False, True):
        with pytest.raises(error) as caught:
            open_device(path, create=create)
        assert words in str(caught.value)
        assert str(path) in caught.value.place
    assert sorted(os.walk(tmp_path)) == before


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_url_to_something_else_is_refused(kind: str, tmp_path: Path) -> None:
    """A text file, a folder or another program's database would be replaced by a device."""
    others = [_file(tmp_path / "text", b"hello"), _foreign_sqlite(tmp_path / "foreign")]
    if kind == "sqlite":
        others.append(_folder(tmp_path / "folder", "creds.json"))
    for path in others:
        before = path.read_bytes() if path.is_file() else sorted(path.iterdir())
        for create, read_only in ((True, False), (False, True), (False, False)):
            with pytest.raises(UnknownStore):
                open_device(f"{kind}:{path}", create, read_only)
        assert before == (path.read_bytes() if path.is_file() else sorted(path.iterdir()))


def test_paths_of_the_operating_system_are_taken(tmp_path: Path) -> None:
    """A pathlib path would be refused."""
    with open_device(tmp_path / "new folder" / "a.db", create=True) as device:
        assert device.url == f"sqlite:{tmp_path}/new folder/a.db"
    with open_device(tmp_path / "new folder" / "a.db", read_only=True) as device:
        assert device.ids("session") == []
    assert (tmp_path / "new folder").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "new folder" / "a.db").stat().st_mode & 0o777 == 0o600


def test_a_file_that_was_moved_while_open_takes_no_more(tmp_path: Path) -> None:
    """Commits would be acknowledged into a log that nobody finds again."""
    device = open_device(f"sqlite:{tmp_path}/a.db", create=True)
    (tmp_path / "a.db").rename(tmp_path / "b.db")
    with pytest.raises(OwnershipLost):
        device.set({"lid-mapping": {"1": "2"}})
    with pytest.raises(OwnershipLost):
        device.close()
    (tmp_path / "b.db").rename(tmp_path / "a.db")
    with open_device(f"sqlite:{tmp_path}/a.db") as again:
        again.set({"lid-mapping": {"1": "2"}})


def test_a_file_with_two_names_is_refused(tmp_path: Path) -> None:
    """Two processes would own one file, each under its own name."""
    open_device(f"sqlite:{tmp_path}/a.db", create=True).close()
    (tmp_path / "b.db").hardlink_to(tmp_path / "a.db")
    with pytest.raises(StoreInUse, match="hard link"):
        open_device(f"sqlite:{tmp_path}/b.db")


def test_a_relative_folder_is_found_after_changing_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that changes its folder would leave its device's files behind the journal."""
    monkeypatch.chdir(tmp_path)
    device = open_device("baileys:d", create=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    device.set({"lid-mapping": {"1": "2"}})
    device.close()
    assert {path.name for path in (tmp_path / "d").iterdir()} == {
        "creds.json",
        "lid-mapping-1.json",
    }


def test_a_busy_file_refuses_one_commit_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell that looks at the file in a transaction would stop the device for good, though
    nothing was written and nothing is in doubt."""
    monkeypatch.setattr(_sqlite_file, "BUSY_MILLISECONDS", 10)
    path = tmp_path / "x.db"
    with open_device(f"sqlite:{path}", create=True) as device:
        device.set({"lid-mapping": {"1": "2"}})
        code = (
            "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('BEGIN IMMEDIATE');"
            "print(flush=True); sys.stdin.read()"
        )
        other = subprocess.Popen(
            [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(StoreInUse, match="another program"):
            device.set({"lid-mapping": {"1": "3"}})
        assert device.get("lid-mapping", ["1"]) == {"1": "2"}
        other.communicate()
        device.set({"lid-mapping": {"1": "4"}})
    with open_device(f"sqlite:{path}") as device:
        assert device.get("lid-mapping", ["1"]) == {"1": "4"}
