"""Backups of sealed stores, and restores into them: by the commands, with their environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from _backups import IDENTITY, RECIPIENT, of_backup, of_store, small_sqlite
from ratchetkeep import WrongKey, copy_device, open_device, open_store
from ratchetkeep.backup import backup_device
from ratchetkeep.cli.app import app
from ratchetkeep.model import TcToken

KEY, OTHER = "the key of a sealed store", "another key"
WITH_KEY = {"RATCHETKEEP_KEY_PASSPHRASE": KEY}
WITH_OTHER = {"RATCHETKEEP_KEY_PASSPHRASE": OTHER}


def run(*arguments: object, **environment: str) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments], env=environment)


@pytest.fixture
def plain(tmp_path: Path) -> str:
    return small_sqlite(tmp_path)


@pytest.fixture
def sealed(plain: str, tmp_path: Path) -> str:
    url = f"sqlite:{tmp_path}/sealed.db"
    copy_device(plain, url, target_key=KEY)
    return url


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "b"


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    (tmp_path / "identity").write_text(IDENTITY)
    return tmp_path / "identity"


def is_readable(path: Path) -> bool:
    """Whether a name of the device can be read in a file."""
    return b"15551230001" in path.read_bytes()


def test_backups_of_a_sealed_store(sealed: str, file: Path) -> None:
    """The secrecy of a sealed store would end in its backups, and nobody be told; or an encrypted
    one need a word more than that of a plain store."""
    done = run("backup", sealed, file, "--recipient", RECIPIENT, **WITH_KEY)
    assert done.exit_code == 0, done.output
    assert not is_readable(file)
    assert of_backup(file, identities=[IDENTITY])["default"] == of_store(sealed, KEY)
    done = run("backup", sealed, file, "--plaintext", **WITH_KEY)
    assert done.exit_code == 0, done.output
    assert "NOT encrypted: whoever reads it has the keys, though the store is sealed" in done.output
    assert is_readable(file)


def test_a_backup_of_a_plain_store_speaks_of_no_seal(plain: str, file: Path) -> None:
    """A user would be told of a seal that is not there."""
    done = run("backup", plain, file, "--plaintext")
    assert "NOT encrypted: whoever reads it has the keys" in done.output
    assert "sealed" not in done.output


def test_from_a_sealed_store_into_a_plain_one(
    sealed: str, file: Path, identity: Path, tmp_path: Path
) -> None:
    """A backup of a sealed store could be restored with its key alone, though a backup has another
    one: after the loss of the store's key all backups would be lost too."""
    backup_device(sealed, file, recipients=[RECIPIENT], key=KEY)
    done = run("restore", file, f"sqlite:{tmp_path}/n.db", "--identity", identity)
    assert done.exit_code == 0, done.output
    assert is_readable(tmp_path / "n.db")
    done = run("restore", file, f"baileys:{tmp_path}/n", "--identity", identity)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("options", [(), ("--all",)], ids=["one", "all"])
def test_a_new_sealed_store(plain: str, file: Path, tmp_path: Path, options: Any) -> None:
    """--seal would make a plain store, or one that its key does not open."""
    path = tmp_path / "n.db"
    backup_device(plain, file, plaintext=True)
    asked = ("restore", file, f"sqlite:{path}", "--seal", *options)
    assert run(*asked).exit_code == 2  # no key, and nobody to ask
    assert not path.exists()
    done = run(*asked, **WITH_KEY)
    assert done.exit_code == 0, done.output
    assert not is_readable(path)
    with open_device(f"sqlite:{path}", key=KEY) as device:
        assert device.ids("lid-mapping")
    with pytest.raises(WrongKey):
        open_device(f"sqlite:{path}", key=OTHER)


def test_seal_where_nothing_can_be_sealed(plain: str, file: Path, tmp_path: Path) -> None:
    """--seal would be passed over: the keys lie open, and their owner believes them sealed."""
    backup_device(plain, file, plaintext=True)
    before = sorted(tmp_path.rglob("*"))
    done = run("restore", file, f"baileys:{tmp_path}/n", "--seal", **WITH_KEY)
    assert done.exit_code == 2
    assert "cannot be sealed" in done.output
    done = run("restore", file, plain, "--seal", "--overwrite", **WITH_KEY)
    assert done.exit_code == 2
    assert "not sealed" in done.output
    assert sorted(tmp_path.rglob("*")) == before


def test_into_a_sealed_store(sealed: str, plain: str, file: Path, tmp_path: Path) -> None:
    """A device could not be restored into a sealed store by the command, or without its key; one of
    many neither."""
    backup_device(plain, file, plaintext=True)
    path = tmp_path / "sealed.db"
    before = path.read_bytes()
    for environment in ({}, WITH_OTHER):
        for options in (("--overwrite",), ("--all",)):
            assert run("restore", file, sealed, *options, **environment).exit_code == 9
        assert run("cool", sealed, **environment).exit_code == 9
    assert path.read_bytes() == before
    done = run("restore", file, sealed, "--overwrite", **WITH_KEY)
    assert done.exit_code == 0, done.output
    assert not is_readable(path)
    done = run("cool", sealed, "--json", **WITH_KEY)
    assert json.loads(done.stdout)["dropped"] == {}
    with open_store(sealed, key=KEY) as store:
        store.create("second").close()
    backup_device(sealed, file, plaintext=True, all_devices=True, key=KEY)
    done = run("restore", file, f"{sealed}.new", "--all", "--seal", "--json", **WITH_KEY)
    assert [each["outcome"] for each in json.loads(done.stdout)] == ["restored"] * 2
    # An existing one needs no word: it goes on sealed.
    done = run("restore", file, f"{sealed}.new", "--all", "--json", **WITH_KEY)
    assert [each["outcome"] for each in json.loads(done.stdout)] == ["already there"] * 2


def test_all_into_a_sealed_store_whose_key_is_typed(
    sealed: str, plain: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever types the passphrase could not restore all devices, or would type it for each."""
    from ratchetkeep.cli import _secrets

    asked = []

    def typed(prompt: str, none: Exception) -> str:
        asked.append(prompt)
        return KEY

    monkeypatch.setattr(_secrets, "typed", typed)
    backup_device(plain, file, plaintext=True)
    done = run("restore", file, sealed, "--all", "--overwrite", "--json")
    assert [each["outcome"] for each in json.loads(done.stdout)] == ["restored"], done.output
    assert len(asked) == 1


def test_prune_of_a_sealed_store(sealed: str, tmp_path: Path) -> None:
    """A sealed store could not be pruned by the command, or be without its key."""
    old = TcToken(token=b"t", timestamp="1500000000")
    with open_device(sealed, key=KEY) as device:
        device.set({"tctoken": {f"{number}@lid": old for number in range(30)}})
    before = (tmp_path / "sealed.db").read_bytes()
    for environment in ({}, WITH_OTHER):
        assert run("prune", sealed, **environment).exit_code == 9
        assert run("prune", sealed, "--dry-run", **environment).exit_code == 9
    assert (tmp_path / "sealed.db").read_bytes() == before
    assert "31 records removed" in run("prune", sealed, "--dry-run", **WITH_KEY).output
    done = run("prune", sealed, **WITH_KEY)
    assert done.exit_code == 0, done.output
    with open_device(sealed, key=KEY) as device:
        assert not any(id.endswith("@lid") for id in device.ids("tctoken"))
