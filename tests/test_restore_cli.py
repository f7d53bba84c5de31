"""The commands restore and cool: what they print, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from _backups import with_passphrase
from _helpers import ALICE
from ratchetkeep.backup import backup_device
from ratchetkeep.cli import _restore

WORD = "a passphrase of the tests"
app = typer.Typer()
app.command()(_restore.restore)
app.command()(_restore.cool)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A backup that is encrypted with a passphrase."""
    path = tmp_path_factory.mktemp("backup") / "b"
    backup_device(ALICE, path, plaintext=True)
    path.write_bytes(with_passphrase(path.read_bytes(), WORD))
    return str(path)


def run(*words: str, word: str | None = WORD) -> Result:
    """Run a command with a passphrase in its environment."""
    return CliRunner(env={"RATCHETKEEP_BACKUP_PASSPHRASE": word}).invoke(app, words)


def test_restore_and_cool(file: str, tmp_path: Path) -> None:
    """A user would not be told what was kept and dropped, nor what happens next."""
    url = f"sqlite:{tmp_path}/d.db"
    dry = run("restore", file, url, "--dry-run")
    assert "dry run: nothing was written" in dry.stdout
    assert not (tmp_path / "d.db").exists()
    done = run("restore", file, url)
    assert done.exit_code == 0, done.stderr
    for text in ("27 session", "new ones begin at id", "must not go on"):
        assert text in done.stdout
    cooled = json.loads(run("cool", url, "--json").stdout)
    assert cooled["dropped"] == {}
    assert cooled["kept"]["sender-key"] == 3


@pytest.mark.parametrize(
    ("word", "options", "code"),
    [
        (None, [], 9),
        ("another", [], 9),
        (WORD, ["--exact"], 5),
        (WORD, ["--device", "nobody"], 3),
        (WORD, ["--device", "default", "--all"], 2),
    ],
)
def test_refusals(
    word: str | None, options: list[str], code: int, file: str, tmp_path: Path
) -> None:
    """A command would end as if it had worked, or leave something behind."""
    done = run("restore", file, f"sqlite:{tmp_path}/d.db", *options, word=word)
    assert done.exit_code == code, done.stderr
    assert "next:" in done.stderr
    assert not (tmp_path / "d.db").exists()


def test_all(file: str, tmp_path: Path) -> None:
    """The second run of a restore of all devices would fail, or begin again."""
    for outcome in ("restored", "already there"):
        done = run("restore", file, f"sqlite:{tmp_path}/d.db", "--all", "--json")
        assert done.exit_code == 0, done.stderr
        assert [each["outcome"] for each in json.loads(done.stdout)] == [outcome]
