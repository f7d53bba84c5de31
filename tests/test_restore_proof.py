"""When everything may be put back as it was; and what is said where less than that is known."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from _backups import IDENTITY, RECIPIENT, of_store, small_sqlite
from ratchetkeep import (
    DeviceExists,
    InvalidValue,
    RatchetkeepError,
    StoreDamaged,
    StoreRewound,
    open_device,
    verify_device,
)
from ratchetkeep.backup import backup_device
from ratchetkeep.cli.app import app
from ratchetkeep.restore import restore_all, restore_device

KEY = bytes(range(32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.db"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return small_sqlite(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "b"


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["restore", *map(str, arguments)])


def commit(url: str, key: Any = None) -> None:
    with open_device(url, key=key) as device:
        device.set({"lid-mapping": {"1": "2"}})


def damage(path: Path, family: str) -> None:
    """Cut a record short."""
    with closing(sqlite3.connect(path)) as database, database:
        changed = database.execute(
            "UPDATE records SET data = substr(data, 1, length(data) - 9) "
            "WHERE rowid = (SELECT min(rowid) FROM records WHERE family = ?)",
            (family,),
        )
        assert changed.rowcount == 1


def errors_of(url: str) -> list[Any]:
    return [each for each in verify_device(url) if each.severity == "error"]


def test_a_damaged_record_is_replaced(url: str, path: Path, file: Path) -> None:
    """The one thing that an exact restore is for would not work: a device of which a record is
    damaged would lose all its sessions."""
    backup_device(url, file, plaintext=True)
    before = of_store(url)
    damage(path, "session")
    assert errors_of(url)
    summary = restore_device(file, url, exact=True, overwrite=True)
    assert (summary.exact, summary.dropped, summary.unread) == (True, (), "")
    assert of_store(url) == before
    assert errors_of(url) == []


def test_a_target_that_is_older(url: str, path: Path, file: Path, tmp_path: Path) -> None:
    """A target that was itself put back would prove that the backup is the newest state."""
    shutil.copy(path, tmp_path / "older.db")
    commit(url)
    backup_device(url, file, plaintext=True)
    older = f"sqlite:{tmp_path}/older.db"
    before = of_store(older)
    with pytest.raises(StoreRewound, match="is itself an older one"):
        restore_device(file, older, exact=True, overwrite=True)
    assert of_store(older) == before


def test_a_target_that_cannot_be_read(url: str, path: Path, file: Path) -> None:
    """A target that says nothing would prove something; or nobody be told that its pre-key ids are
    not known, after a restore that replaces it."""
    backup_device(url, file, plaintext=True)
    damage(path, "credentials")
    before = path.read_bytes()
    with pytest.raises(StoreRewound, match="cannot be read, so it proves nothing"):
        restore_device(file, url, exact=True, overwrite=True)
    with pytest.raises(DeviceExists):
        restore_device(file, url)
    assert path.read_bytes() == before
    dry = restore_device(file, url, overwrite=True, dry_run=True)
    assert dry.unread
    told = run(file, url, "--overwrite", "--dry-run")
    assert told.exit_code == 0, told.output
    assert f"not read  what is at the target: {dry.unread}" in told.output
    done = run(file, url, "--overwrite", "--json")
    assert json.loads(done.stdout)["unread"] == dry.unread
    assert errors_of(url) == []
    assert restore_device(file, url, overwrite=True).unread == ""


def test_a_damaged_encrypted_backup(url: str, path: Path, file: Path) -> None:
    """A part of an encrypted backup would be restored before its damage is found."""
    backup_device(url, file, recipients=[RECIPIENT])
    commit(url)
    whole, before = file.read_bytes(), path.read_bytes()
    beginning = whole.index(b"\n---") + 60
    for at in (beginning, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(StoreDamaged):
            restore_device(file, url, identities=[IDENTITY], overwrite=True)
        file.write_bytes(whole[:at])
        with pytest.raises(RatchetkeepError):
            restore_device(file, url, identities=[IDENTITY], overwrite=True)
    assert path.read_bytes() == before


# Witnesses.


@pytest.fixture(params=["a file", "a store"])
def witness(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "seen") if request.param == "a file" else f"sqlite:{tmp_path}/seen.db"


def watched(url: str, witness: str, turn: int) -> None:
    with open_device(url, witness=witness) as device:
        device.set({"lid-mapping": {"1": str(turn)}})


def test_a_witness_disproves(
    url: str, path: Path, file: Path, witness: str, tmp_path: Path
) -> None:
    """A machine that was put back with its store would be put back exactly: what its witness has
    seen of the later life would not count."""
    watched(url, witness, 1)
    backup_device(url, file, plaintext=True)
    shutil.copy(path, tmp_path / "snapshot")
    watched(url, witness, 2)
    shutil.copy(tmp_path / "snapshot", path)
    before = of_store(url)
    with pytest.raises(StoreRewound, match=r"the witness has seen commit \d+"):
        restore_device(file, url, exact=True, overwrite=True, witness=witness)
    done = run(file, url, "--exact", "--overwrite", "--witness", witness)
    assert done.exit_code == 5
    assert "the witness has seen commit" in done.stderr
    assert of_store(url) == before
    # Without it nobody can know: this is what the witness is for.
    assert restore_device(file, url, exact=True, overwrite=True).exact


def test_a_witness_that_agrees(url: str, file: Path, witness: str, tmp_path: Path) -> None:
    """A witness would stand in the way of what is proven; or prove something by itself."""
    watched(url, witness, 1)
    backup_device(url, file, plaintext=True)
    none = f"sqlite:{tmp_path}/none.db"
    with pytest.raises(StoreRewound, match="no such device"):
        restore_device(file, none, exact=True, witness=witness)
    commit(url)  # which the witness was not told
    with pytest.raises(StoreRewound, match="has gone on since"):
        restore_device(file, url, exact=True, overwrite=True, witness=witness)
    backup_device(url, file, plaintext=True)
    done = run(file, url, "--exact", "--overwrite", "--witness", witness)
    assert done.exit_code == 0, done.output


def test_a_witness_of_something_else(url: str, file: Path, tmp_path: Path) -> None:
    """A mistyped witness would be taken for one that has seen nothing; a damaged one too; or one be
    asked for nothing."""
    backup_device(url, file, plaintext=True)
    with pytest.raises(StoreRewound, match="knows nothing of this device"):
        restore_device(file, url, exact=True, overwrite=True, witness=tmp_path / "nowhere")
    (tmp_path / "damaged").write_bytes(b"{")
    with pytest.raises(StoreDamaged):
        restore_device(file, url, exact=True, overwrite=True, witness=tmp_path / "damaged")
    with pytest.raises(InvalidValue, match="witness"):
        restore_device(file, url, overwrite=True, witness=tmp_path / "nowhere")
    with pytest.raises(InvalidValue, match="witness"):
        restore_all(file, url, overwrite=True, witness=tmp_path / "nowhere")
    assert run(file, url, "--overwrite", "--witness", tmp_path / "nowhere").exit_code == 2


def test_a_sealed_device_is_proven_like_any(url: str, file: Path, tmp_path: Path) -> None:
    """A sealed device could never be put back exactly, or its later commits not be seen."""
    sealed = f"sqlite:{tmp_path}/sealed.db"
    backup_device(url, file, plaintext=True)
    restore_device(file, sealed, key=KEY)
    backup_device(sealed, file, recipients=[RECIPIENT], key=KEY)
    asked: dict[str, Any] = {"identities": [IDENTITY], "key": KEY, "overwrite": True}
    assert restore_device(file, sealed, exact=True, **asked).exact
    backup_device(sealed, file, recipients=[RECIPIENT], key=KEY)
    commit(sealed, KEY)
    with pytest.raises(StoreRewound, match="has gone on since"):
        restore_device(file, sealed, exact=True, **asked)
