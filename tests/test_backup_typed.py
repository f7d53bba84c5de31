"""Passphrases that are typed: of backups, and of the stores that they are restored into."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from _backups import PASSPHRASE, of_backup, of_store, small_sqlite, with_passphrase
from _terminal import shown_on_terminal
from ratchetkeep import open_device
from ratchetkeep.backup import backup_device
from ratchetkeep.sealing.keys import key_variables

KEY = "the key of a sealed store"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    backup = "RATCHETKEEP_BACKUP_PASSPHRASE"
    for name in (*key_variables(), backup, f"{backup}_FILE"):
        monkeypatch.delenv(name, raising=False)


def shown(*arguments: object, typed: list[str]) -> str:
    """What the command shows; nothing that is typed may be in it."""
    command = [sys.executable, "-m", "ratchetkeep", *map(str, arguments)]
    found = shown_on_terminal(command, [f"{each}\n" for each in typed])
    assert [each for each in typed if each and each in found] == []
    assert "Traceback" not in found
    return found


def test_a_backup_with_a_typed_passphrase(tmp_path: Path) -> None:
    """Nobody at a terminal could make a backup with a passphrase; or one would be made with what
    was mistyped once, or with nothing, which nobody can open or anybody can."""
    url, file = small_sqlite(tmp_path), tmp_path / "b"
    assert "not the same" in shown("backup", url, file, typed=[PASSPHRASE, "something else"])
    assert "protects nothing" in shown("backup", url, file, typed=[""])
    assert not file.exists()
    told = shown("backup", url, file, typed=[PASSPHRASE, PASSPHRASE])
    assert "encrypted with a passphrase" in told
    assert of_backup(file, passphrase=PASSPHRASE)["default"] == of_store(url)


def test_restores_with_typed_passphrases(tmp_path: Path) -> None:
    """Nobody at a terminal could restore such a backup, or into a sealed store; or the two
    passphrases would be mixed up."""
    file, url = tmp_path / "b", f"sqlite:{tmp_path}/sealed.db"
    backup_device(small_sqlite(tmp_path), file, plaintext=True)
    file.write_bytes(with_passphrase(file.read_bytes(), PASSPHRASE))
    assert "does not open it" in shown("restore", file, url, typed=["another"])
    assert not (tmp_path / "sealed.db").exists()
    told = shown("restore", file, url, "--seal", typed=[PASSPHRASE, KEY, KEY])
    assert "new ones begin at id" in told
    told = shown("restore", file, url, "--overwrite", typed=[PASSPHRASE, KEY])
    assert "new ones begin at id" in told
    assert "new ones begin at id" in shown("cool", url, typed=[KEY])
    with open_device(url, key=KEY) as device:
        assert device.ids("lid-mapping")
