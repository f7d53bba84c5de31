"""SQLite files of every version of the tables, plain and sealed, that were written once and are
read for ever.

``PYTHONPATH=tests python tests/test_seal_golden.py write`` writes those of the current version that
are not there. They are never written again. Files of older versions were written by the same
function with the package as it was then (``PYTHONPATH`` of an older commit's ``src``).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from ratchetkeep.model import CREDENTIALS, Key
from ratchetkeep.stores.base import Prepared
from ratchetkeep.stores.sqlite import SqliteStore

GOLDEN = Path(__file__).parent / "golden"
PLAIN, SEALED = GOLDEN / "sqlite", GOLDEN / "sealed"
PASSPHRASE = "Größe 7, golden"
MOVED_TO = "sqlite:/srv/alice.db"
FIRST, SECOND = b"1" * 32, b"2" * 32
CURRENT = 3

# The records of the golden device: their bytes are golden themselves.
RECORDS = {
    CREDENTIALS: "credentials-rich",
    Key("session", "1.0"): "session",
    Key("session", "2.0"): "session-empty",
    Key("session", "3.0"): "session-encoded",
    Key("pre-key", "16777215"): "pre-key",
    Key("sender-key", "1@g.us::2::0"): "sender-key",
    Key("sender-key-memory", "1@g.us"): "sender-key-memory",
    Key("app-state-sync-key", "AAD///vv"): "app-state-sync-key",
    Key("app-state-sync-version", "regular"): "app-state-sync-version",
    Key("lid-mapping", "1_reverse"): "lid-mapping",
    Key("lid-mapping", "2"): "lid-mapping-rich",
    Key("device-list", "1"): "device-list",
    Key("tctoken", "__index"): "tctoken",
    Key("identity-key", "Müller.0"): "identity-key",
}


def expected() -> dict[Key, bytes]:
    """What a golden device holds."""
    folder = GOLDEN / "native-v1"
    return {key: (folder / f"{name}.rk").read_bytes() for key, name in RECORDS.items()}


def write(path: Path, **how: Any) -> None:
    """Write a golden file: two devices that hold the same, one of them marked as moved if the
    version can mark it."""
    store = SqliteStore(str(path), **how)
    for name in ("alice", "moved"):
        store.acquire(name, read_only=False, create=True)
        records = expected()
        gone = Key("pre-key", "7")
        store.apply(Prepared(name, {gone: records[Key("pre-key", "16777215")], **records}))
        store.apply(Prepared(name, {gone: None}))
        if name == "moved" and hasattr(store, "mark_moved"):
            store.mark_moved(name, MOVED_TO)
        store.release(name)
    store.close()


def write_missing() -> None:
    """Write the golden files of the current version."""
    from ratchetkeep.sealing.keys import make_key_file

    key = SEALED / "version-3.key"
    if not key.exists():
        make_key_file(key)
    how: dict[Path, dict[str, Any]] = {
        PLAIN / "version-3.sqlite": {},
        SEALED / "version-3-key.sqlite": {"key": key.read_text()},
        SEALED / "version-3-passphrase.sqlite": {"key": PASSPHRASE},
    }
    for path, given in how.items():
        if not path.exists():
            write(path, **given)


def key_of(path: Path) -> str | None:
    """What opens a golden file."""
    if path.parent == PLAIN:
        return None
    return PASSPHRASE if "passphrase" in path.name else (SEALED / "version-3.key").read_text()


def content(path: Path, name: str, key: str | bytes | None) -> dict[Key, bytes]:
    """All records of a device, as they are in our format."""
    store = SqliteStore(str(path), key=key)
    store.acquire(name, read_only=True, create=False)
    try:
        return dict(store.entries(name))
    finally:
        store.close()


FILES = sorted([*PLAIN.glob("*.sqlite"), *SEALED.glob("*.sqlite")])


@pytest.fixture(params=FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def golden(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture
def file(golden: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    copied = tmp_path / golden.name
    shutil.copyfile(golden, copied)
    copied.chmod(0o600)
    return copied


def test_there_is_a_file_of_every_version() -> None:
    """A version of the tables would be changed, and nobody would see that its files cannot be read
    any more."""
    versions = {int.from_bytes(path.read_bytes()[60:64], "big") for path in FILES}
    assert versions == set(range(1, CURRENT + 1))
    assert len([path for path in FILES if path.parent == SEALED]) == 2


def test_it_is_read(golden: Path, file: Path) -> None:
    """A store of somebody who was away for a year could not be opened any more."""
    from ratchetkeep import DeviceMoved, open_device, open_store

    before, key = file.read_bytes(), key_of(golden)
    with open_store(f"sqlite:{file}", key=key) as store:
        assert store.devices() == ["alice", "moved"]
    for name in ("alice", "moved"):
        assert content(file, name, key) == expected()
    assert file.read_bytes() == before
    is_marked = int.from_bytes(before[60:64], "big") > 1
    if is_marked:
        with pytest.raises(DeviceMoved, match=MOVED_TO):
            open_device(f"sqlite:{file}?device=moved", key=key)
    with open_device(f"sqlite:{file}?device=alice", key=key) as device:
        assert device.ids("identity-key") == ["Müller.0"]
        device.set({"lid-mapping": {"3": "4"}})
    assert {key.id for key in content(file, "alice", key)} >= {"3", "1_reverse", "2"}


def test_nothing_strange_is_found(golden: Path, file: Path) -> None:
    """Verify would call each store of an older version damaged."""
    from ratchetkeep import verify_device

    key = key_of(golden)
    for name in ("alice", "moved"):
        for finding in verify_device(f"sqlite:{file}?device={name}", key=key):
            assert "last commit" not in finding.what
            assert "SQLite" not in finding.what


def test_it_can_be_sealed_and_unsealed(golden: Path, file: Path) -> None:
    """A store that was made by an older version could not be sealed, or what it holds be another
    afterwards."""
    from ratchetkeep import DeviceMoved, open_device
    from ratchetkeep.reseal import rekey_store, seal_store, unseal_store

    key, url = key_of(golden), f"sqlite:{file}"
    if key is None:
        seal_store(url, FIRST)
    else:
        rekey_store(url, key, FIRST)
    rekey_store(url, FIRST, SECOND, data_key=True)
    for name in ("alice", "moved"):
        assert content(file, name, SECOND) == expected()
    if golden.name != "version-1.sqlite":
        with pytest.raises(DeviceMoved, match=MOVED_TO):
            open_device(f"{url}?device=moved", key=SECOND)
    with open_device(f"{url}?device=alice", key=SECOND) as device:
        device.set({"lid-mapping": {"3": "4"}})
        device.set({"lid-mapping": {"3": None}})
    assert content(file, "alice", SECOND) == expected()
    unseal_store(url, SECOND)
    for name in ("alice", "moved"):
        assert content(file, name, None) == expected()


if __name__ == "__main__" and sys.argv[1:] == ["write"]:
    write_missing()
