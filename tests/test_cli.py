"""The command line: what it prints, which exit code it ends with, and that it keeps secrets."""

from __future__ import annotations

import base64
import datetime
import inspect as python_inspect
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from typer.testing import CliRunner

import ratchetkeep
from ratchetkeep import cli, errors, open_device
from ratchetkeep.cli import _failures, _output
from ratchetkeep.cli._progress import Bar
from ratchetkeep.cli.app import app
from ratchetkeep.inspect import inspect_device
from ratchetkeep.model import CREDENTIALS, FAMILIES, Foreign

GOLDEN = Path(__file__).parent / "golden"
RUNNER = CliRunner()


class Done:
    """A command that ran."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code, self.stdout, self.stderr = code, stdout, stderr

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def error(self) -> dict[str, str]:
        told: dict[str, str] = json.loads(self.stderr)["error"]
        return told


def run(*arguments: object) -> Done:
    """In this process."""
    done = RUNNER.invoke(app, [str(each) for each in arguments])
    return Done(done.exit_code, done.stdout, done.stderr)


def shell(*arguments: object, **environment: str) -> Done:
    """In a process of its own."""
    command = [sys.executable, "-m", "ratchetkeep", *map(str, arguments)]
    return _process(command, environment)


def script(code: str, *arguments: object, **environment: str) -> Done:
    """The command line in a process of its own, after ``code``."""
    code = textwrap.dedent(code) + "\nfrom ratchetkeep.cli import main\nmain()\n"
    return _process([sys.executable, "-c", code, *map(str, arguments)], environment)


def _process(command: list[str], environment: Mapping[str, str]) -> Done:
    done = subprocess.run(
        command, capture_output=True, env={**os.environ, **environment}, check=False, timeout=60
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
def alice(tmp_path: Path) -> Path:
    """A Baileys folder, its modes as they should be."""
    return _private(shutil.copytree(GOLDEN / "baileys/alice", tmp_path / "alice"))


@pytest.fixture
def elixir(tmp_path: Path) -> Path:
    """A BaileysEx folder, which holds ids and values that Baileys cannot."""
    return _private(shutil.copytree(GOLDEN / "baileysex/native-otp29", tmp_path / "elixir"))


def _private(folder: Path) -> Path:
    folder.chmod(0o700)
    for path in folder.iterdir():
        path.chmod(0o600)
    return folder


def tree(place: Path) -> dict[str, bytes]:
    """Every file below a folder, but for what SQLite makes to read one of its files."""
    files = (path for path in place.rglob("*") if path.is_file())
    files = (path for path in files if not path.name.endswith(("-shm", "-wal")))
    return {str(path.relative_to(place)): path.read_bytes() for path in files}


# -- what the commands do


def test_new_creates_a_device_that_opens(tmp_path: Path) -> None:
    """A new device could not be opened, or the user is not told where it is and to pair it."""
    done = run("new", f"sqlite:{tmp_path}/new.db")
    assert done.code == 0
    assert done.stdout.splitlines()[0] == f"created default in sqlite:{tmp_path}/new.db"
    assert "pair" in done.stdout.splitlines()[1]
    with open_device(f"sqlite:{tmp_path}/new.db", read_only=True) as device:
        assert not device.credentials.registered


def test_new_makes_a_named_device_beside_others(tmp_path: Path) -> None:
    """A second device of a file could not be made, or would replace the first."""
    assert run("new", f"{tmp_path}/many.db").code == 0
    done = run("new", f"sqlite:{tmp_path}/many.db?device=two", "--json")
    assert done.json == {"url": f"sqlite:{tmp_path}/many.db", "device": "two"}
    assert [
        each["device"] for each in run("devices", f"{tmp_path}/many.db", "--json").json["devices"]
    ] == [
        "default",
        "two",
    ]


@pytest.mark.parametrize("kind", ["baileys", "sqlite"])
def test_new_never_replaces_a_device(tmp_path: Path, alice: Path, kind: str) -> None:
    """Creating over a device would mint a new identity and lose the old one."""
    place = f"baileys:{alice}" if kind == "baileys" else f"sqlite:{tmp_path}/a.db"
    if kind == "sqlite":
        run("new", place)
    before = tree(tmp_path)
    done = run("new", place)
    assert done.code == 4
    assert done.stdout == ""
    assert "--overwrite" not in done.stderr
    assert tree(tmp_path) == before


def test_inspect_tells_who_and_what(alice: Path) -> None:
    """The summary names the wrong device, or counts wrongly."""
    os.utime(alice / "creds.json")
    lines = dict(
        line.split("  ", 1) for line in run("inspect", alice).stdout.splitlines() if "  " in line
    )
    told = {name.strip(): text.strip() for name, text in lines.items()}
    assert told["device"] == f"default in baileys:{alice}"
    assert told["jid"] == "4915112345678:12@s.whatsapp.net"
    assert told["lid"] == "112233445566778:12@lid"
    assert told["name"] == "Alice Müller 🦊"
    assert told["platform"] == "android"
    assert told["registration id"] == "172"
    assert told["pre-keys"] == "99 held, ids 1 to 120; 0 not uploaded yet; next id 121"
    assert told["last sync"].endswith("ago (2025-11-20T04:19:05Z)")
    assert told["last change"].startswith("just now (")
    assert told["owner"] == "nobody has it open"
    assert told["session"].split() == ["27", "26.7", "KiB"]
    assert told["total"].split()[0] == "178"


def test_inspect_json_has_every_member(alice: Path) -> None:
    """A script that reads the JSON finds other members, or numbers that do not add up."""
    value = run("inspect", alice, "--json").json
    summary = inspect_device(alice)
    assert value["records"] == summary.records == 177
    assert value["size"] == summary.size == sum(map(len, tree(alice).values()))
    assert value["pre_keys"] == {
        "held": 99,
        "lowest": 1,
        "highest": 120,
        "waiting": 0,
        "next_id": 121,
    }
    assert (value["registered"], value["paired"]) == (False, True)
    assert datetime.datetime.fromisoformat(value["synced"]).year == 2025
    assert datetime.datetime.fromisoformat(value["changed"]).tzinfo


@pytest.mark.parametrize("kind", ["sqlite", "baileys"])
def test_inspect_names_the_owner_and_changes_nothing(tmp_path: Path, kind: str) -> None:
    """A device in use could not be looked at, or looking at it disturbs its owner."""
    url = f"{kind}:{tmp_path}/owned"
    with open_device(url, create=True) as device:
        done = shell("inspect", url, "--json")
        assert done.json["owner"].startswith(f"process {os.getpid()} on ")
        device.set({"lid-mapping": {"1": "2"}})
    assert run("inspect", url, "--json").json["owner"] == ""


def test_looking_does_not_make_a_device_young(tmp_path: Path) -> None:
    """The age of a device is that of the last time somebody looked at it."""
    place = tmp_path / "a.db"
    run("new", place)
    os.utime(place, (10**9, 10**9))
    for _ in range(2):
        assert run("inspect", place, "--json").json["changed"] == "2001-09-09T01:46:40Z"


def test_inspect_leaves_a_folder_as_it_was(alice: Path) -> None:
    """A read-only command writes."""
    before = tree(alice)
    assert run("inspect", alice).code == run("verify", alice).code == 0
    assert run("devices", alice).code == 0
    assert tree(alice) == before


def test_verify_of_a_whole_device(alice: Path) -> None:
    """A whole device is called damaged."""
    done = run("verify", alice)
    assert (done.code, done.stdout, done.stderr) == (0, "no errors, no warnings\n", "")


def test_verify_puts_errors_first_and_counts(alice: Path) -> None:
    """Errors drown among warnings, or a script cannot see them by the exit code."""
    (alice / "creds.json").chmod(0o644)
    (alice / "session-1.0.json").write_text("{")
    (alice / "session-1.0.json").chmod(0o600)
    done = run("verify", alice)
    lines = done.stdout.splitlines()
    assert done.code == 1
    assert lines[0].startswith(f"error: {alice}/session-1.0.json: ")
    assert lines[1].startswith("  next: ")
    assert lines[2].startswith(f"warning: {alice}: 1 file ")
    assert lines[-1] == "1 error, 1 warning"
    value = run("verify", alice, "--json")
    assert value.code == 1
    assert value.json["counts"] == {"error": 1, "warning": 1, "info": 0}
    assert [each["severity"] for each in value.json["findings"]] == ["error", "warning"]
    assert value.json["url"] == f"baileys:{alice}"


def test_copy_there_and_back_is_the_same_bytes(tmp_path: Path, alice: Path) -> None:
    """The main job loses something."""
    there = run("copy", alice, f"sqlite:{tmp_path}/a.db")
    assert there.code == 0
    assert there.stderr == ""
    assert "carried    the credentials and 177 records" in there.stdout
    assert "lost: nothing" in there.stdout
    assert "use only one of the two copies from now on" in there.stdout.splitlines()[-1]
    back = run("copy", f"{tmp_path}/a.db", f"baileys:{tmp_path}/back", "--json")
    assert back.json["total"] == 177
    assert "use only one" in back.json["advice"]
    assert tree(tmp_path / "back") == tree(alice)


def test_copy_dry_run_writes_nothing(tmp_path: Path, alice: Path) -> None:
    """A rehearsal changes the disk, or calls itself a copy."""
    before = tree(tmp_path)
    done = run("copy", alice, f"sqlite:{tmp_path}/a.db", "--dry-run")
    assert done.code == 0
    assert done.stdout.splitlines()[-1] == "dry run: nothing was written"
    assert "use only one" not in done.stdout
    value = run("copy", alice, f"sqlite:{tmp_path}/a.db", "--dry-run", "--json").json
    assert (value["dry_run"], value["advice"]) == (True, "")
    assert tree(tmp_path) == before


def test_copy_lists_what_the_target_cannot_hold(tmp_path: Path, elixir: Path, alice: Path) -> None:
    """Something is lost in a copy and the user is not told before it is."""
    lossy = run("copy", elixir, f"baileys:{tmp_path}/lossy", "--dry-run")
    assert "LOST, the target has no place for it:" in lossy.stdout
    assert "identity-key (the whole record): would share the file" in lossy.stdout
    assert "lost: nothing" not in lossy.stdout
    derived = run("copy", alice, f"baileysex:{tmp_path}/derived", "--dry-run")
    assert "left out, made again or not needed there:" in derived.stdout
    assert "in 5 records, such as app-state-sync-key" in derived.stdout
    assert "lost: nothing" in derived.stdout
    listed = run("copy", elixir, f"baileys:{tmp_path}/lossy", "--dry-run", "--json").json
    assert set(listed["not_held"][0]) == {
        *("family", "member", "what", "derived", "count", "example", "amount", "whole")
    }


def test_copy_tells_the_plan_before_it_writes(
    tmp_path: Path, alice: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user learns of a loss only when it has happened."""
    target, told = tmp_path / "target", []
    monkeypatch.setattr(
        "ratchetkeep.cli._show.show_plan", lambda summary: told.append(target.exists())
    )
    assert run("copy", alice, f"baileys:{target}").code == 0
    assert told == [False]


def test_copy_replaces_only_when_asked(tmp_path: Path, alice: Path) -> None:
    """A device at the target is lost without having been asked for, or cannot be replaced."""
    target = f"sqlite:{tmp_path}/a.db"
    run("new", target)
    before = tree(tmp_path)
    for arguments in (("--json",), ("--dry-run",), ("--dry-run", "--json")):
        refused = run("copy", alice, target, *arguments)
        assert (refused.code, refused.stdout) == (4, "")
        assert "--overwrite" in refused.stderr
    assert tree(tmp_path) == before
    assert run("copy", alice, target, "--overwrite").code == 0
    assert inspect_device(target).records == 177


def test_devices_lists_urls_that_work(tmp_path: Path, alice: Path) -> None:
    """A listed URL does not open its device."""
    place = f"sqlite:{tmp_path}/many.db"
    run("new", place)
    run("copy", alice, f"{place}?device=two words %26")
    rows = run("devices", place).stdout.splitlines()
    assert rows[0].split(maxsplit=2) == ["default", place, "1 record"]
    name, url, records = re.split(" {2,}", rows[1])
    assert (name, records) == ("two words &", "178 records")
    assert run("inspect", url, "--json").json["device"] == "two words &"
    assert run("devices", alice).stdout.split() == ["default", f"baileys:{alice}"]


def test_devices_tells_who_has_them_open(tmp_path: Path, alice: Path) -> None:
    """An operator could not see which process to stop."""
    many = f"sqlite:{tmp_path}/many.db"
    for place in (many, f"baileys:{alice}"):
        with open_device(place, create=place == many):
            (found,) = run("devices", place, "--json").json["devices"]
            assert f"process {os.getpid()} " in found["owner"]
            assert found["owner"] in run("devices", place).stdout
        assert run("devices", place, "--json").json["devices"][0]["owner"] == ""


# -- how they fail


def test_every_error_class_has_an_exit_code() -> None:
    """A new error class would end with a code that nobody chose."""
    classes = {
        each
        for _, each in python_inspect.getmembers(errors, python_inspect.isclass)
        if issubclass(each, errors.RatchetkeepError)
    }
    assert classes == set(_failures.EXIT_CODES)
    assert set(_failures.EXIT_CODES.values()) <= set(_failures.MEANINGS)


def test_the_exit_codes_are_documented_alike() -> None:
    """The help, the package's docstring and the program say different things."""
    helps = [run("--help").stdout, *(run(name, "--help").stdout for name in ("copy", "verify"))]
    for code, meaning in _failures.MEANINGS.items():
        assert f"\n{code:>3}  {meaning}\n" in (cli.__doc__ or "")
        assert all(f" {code:>5}  {meaning}" in text for text in helps)


@pytest.mark.parametrize("error", list(_failures.EXIT_CODES), ids=lambda each: each.__name__)
def test_each_error_is_told_with_its_code(
    error: type[errors.RatchetkeepError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the library reaches the user as a traceback, or without a next step."""

    def fail(url: str, **how: object) -> None:
        raise error("here", "it broke")

    monkeypatch.setattr("ratchetkeep.inspect.inspect_device", fail)
    done = run("inspect", "x")
    first, second = done.stderr.splitlines()
    assert (done.code, done.stdout) == (_failures.EXIT_CODES[error], "")
    assert first == "error: here: it broke"
    assert second.startswith("next:  ")
    assert len(second) > len("next:  ")
    told = run("inspect", "x", "--json")
    assert (told.code, told.stdout) == (done.code, "")
    assert told.error == {
        "kind": error.__name__,
        "place": "here",
        "what": "it broke",
        "remedy": second.removeprefix("next:  "),
    }


def test_an_unlisted_error_has_its_parents_code() -> None:
    """A store that brings its own error class would make the program fail on it."""

    class Odd(errors.StoreInUse):
        pass

    assert _failures.exit_code(Odd("x", "y")) == 6


@pytest.mark.parametrize(
    "arguments",
    [[], ["frob"], ["inspect"], ["copy", "x"], ["inspect", "x", "--frob"]],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    """Wrong usage looks like success, or like a finding of verify."""
    done = run(*arguments)
    assert (done.code, done.stdout) == (2, "")
    assert "Usage: " in done.stderr


@pytest.mark.parametrize("command", ["new", "inspect", "verify", "devices"])
@pytest.mark.parametrize("url", ["redis:x", "sqlite:", "sqlite:x.db?frob=1"])
def test_an_unknown_store_ends_with_2(command: str, url: str) -> None:
    """A mistyped URL is taken for a missing device."""
    done = run(command, url, "--json")
    assert (done.code, done.error["kind"]) == (2, "UnknownStore")


def test_a_place_without_a_kind_is_refused(tmp_path: Path, alice: Path) -> None:
    """A bare path that is not there would be guessed to be some kind of store."""
    for arguments in (("new", tmp_path / "bare"), ("copy", alice, tmp_path / "bare")):
        done = run(*arguments)
        assert done.code == 2
        assert "which kind of store" in done.stderr
    assert run("copy", alice, f"baileys:{alice}").code == 2


@pytest.mark.parametrize("command", ["inspect", "verify", "devices"])
def test_nothing_there_ends_with_3(tmp_path: Path, command: str) -> None:
    """A wrong path looks like an empty device."""
    for url in (f"{tmp_path}/no", f"sqlite:{tmp_path}/no.db", f"baileys:{tmp_path}/no", tmp_path):
        done = run(command, url, "--json")
        assert (done.code, done.stdout, done.error["kind"]) == (3, "", "NoDevice")
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_copy_ends_with_3(tmp_path: Path) -> None:
    """A copy of nothing would make an empty target."""
    assert run("copy", f"sqlite:{tmp_path}/no.db", f"sqlite:{tmp_path}/to.db").code == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"noiseKey": 1}'])
def test_damaged_credentials_end_with_5(tmp_path: Path, alice: Path, content: bytes) -> None:
    """Truncated credentials are taken for no device, and replaced or copied."""
    (alice / "creds.json").write_bytes(content)
    before = tree(alice)
    for arguments in (("inspect", alice), ("copy", alice, f"sqlite:{tmp_path}/a.db")):
        done = run(*arguments)
        assert (done.code, done.stdout) == (5, "")
        assert done.stderr.startswith(f"error: {alice}/creds.json: ")
    assert run("verify", alice).code == 1
    assert run("new", f"baileys:{alice}").code == 4
    assert tree(alice) == before


def test_an_empty_sqlite_file_ends_with_5(tmp_path: Path) -> None:
    """A truncated file is taken for a place to create in."""
    place = tmp_path / "a.db"
    place.touch()
    for command in ("new", "inspect", "devices"):
        assert run(command, f"sqlite:{place}").code == 5
    assert run("verify", place.with_name("b.db")).code == 3
    assert place.read_bytes() == b""


def test_a_path_through_a_file_is_told(tmp_path: Path, alice: Path) -> None:
    """An impossible path ends in a traceback."""
    file = alice / "creds.json"
    for url in (f"sqlite:{file}/x/a.db", f"baileys:{file}/x/a"):
        for arguments in (("inspect", url), ("new", url), ("copy", alice, url)):
            done = run(*arguments, "--json")
            assert done.code in (3, 5), arguments
            assert done.error["kind"] in ("NoDevice", "StoreUnreadable"), arguments


def test_an_operating_system_error_ends_with_5(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk error that the library lets through ends in a traceback."""

    def fail(url: str, **how: object) -> None:
        raise PermissionError(13, "Permission denied", "/locked")

    monkeypatch.setattr("ratchetkeep.verify.verify_device", fail)
    done = run("verify", "x")
    assert (done.code, done.stdout) == (5, "")
    assert done.stderr.splitlines()[0] == "error: /locked: Permission denied"
    assert run("verify", "x", "--json").error["kind"] == "PermissionError"


def test_a_device_in_use_ends_with_6(tmp_path: Path, alice: Path) -> None:
    """A copy reads a folder while its owner writes it, or writes into one that is open."""
    with open_device(f"baileys:{alice}"):
        source = shell("copy", alice, f"sqlite:{tmp_path}/a.db")
    assert source.code == 6
    assert f"process {os.getpid()}" in source.stderr
    with open_device(f"sqlite:{tmp_path}/b.db", create=True):
        target = shell("copy", alice, f"sqlite:{tmp_path}/b.db", "--overwrite")
    assert target.code == 6
    assert "next:  Close it there first" in target.stderr


def test_a_newer_version_ends_with_7(tmp_path: Path) -> None:
    """A file of a newer version is taken for a damaged one."""
    run("new", f"sqlite:{tmp_path}/a.db")
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    done = run("inspect", f"{tmp_path}/a.db")
    assert done.code == 7
    assert "Upgrade ratchetkeep" in done.stderr


def test_a_failed_write_ends_with_8(
    tmp_path: Path, alice: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that failed looks like success, or leaves half a target."""

    def fail(staged: str, path: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ratchetkeep.stores._sqlite_file.publish", fail)
    done = run("copy", alice, f"sqlite:{tmp_path}/a.db", "--json")
    assert (done.code, done.stdout, done.error["kind"]) == (8, "", "CommitFailed")
    assert [path.name for path in tmp_path.iterdir()] == ["alice"]


UNEXPECTED = """
    import ratchetkeep.inspect
    def fail(url, **how):
        secret = "c2VjcmV0"
        raise KeyError(secret + "-in-a-message")
    ratchetkeep.inspect.inspect_device = fail
"""


def test_a_bug_is_told_without_a_traceback() -> None:
    """A bug prints a traceback, whose message or locals may hold keys."""
    plain = script(UNEXPECTED, "inspect", "x")
    assert (plain.code, plain.stdout) == (70, "")
    assert plain.stderr.splitlines()[0] == "error: unexpected KeyError"
    assert "RATCHETKEEP_DEBUG=1" in plain.stderr
    assert (
        json.loads(script(UNEXPECTED, "inspect", "x", "--json").stderr)["error"]["kind"]
        == "KeyError"
    )
    debug = script(UNEXPECTED, "inspect", "x", RATCHETKEEP_DEBUG="1")
    assert "in fail" in debug.stderr
    assert "KeyError" in debug.stderr
    assert "c2VjcmV0-in" not in plain.stderr + debug.stderr


def test_pretty_exceptions_are_off() -> None:
    """Typer would print the local variables of a failing command: keys."""
    assert app.pretty_exceptions_enable is False
    assert typer.main.get_command(app).name == "ratchetkeep"


# -- Ctrl-C

INTERRUPTED = """
    import os, signal, ratchetkeep._copy_run
    from ratchetkeep.cli._progress import Bar
    ratchetkeep._copy_run.CHUNK = 16
    report = Bar.report
    def interrupted(bar, step, done, total):
        report(bar, step, done, total)
        if step == "write" and done >= 48:
            os.kill(os.getpid(), signal.SIGINT)
    Bar.report = interrupted
"""


@pytest.mark.parametrize("kind", ["sqlite", "baileys", "baileysex"])
@pytest.mark.parametrize("is_there", [False, True], ids=["empty", "overwritten"])
def test_ctrl_c_leaves_the_target_as_it_was(
    tmp_path: Path, alice: Path, kind: str, is_there: bool
) -> None:
    """An interrupted copy leaves half a device, or damages the one that was to be replaced."""
    folder = tmp_path / "to"
    target = f"{kind}:{folder}/a.db"
    if is_there:
        run("new", target)
    before = tree(folder) if is_there else {}
    done = script(INTERRUPTED, "copy", alice, target, "--overwrite")
    assert done.code == 130
    assert done.stderr == "interrupted: the target is as it was\n"
    assert tree(folder) == before
    assert run("inspect", target).code == (0 if is_there else 3)


def test_ctrl_c_as_json(tmp_path: Path, alice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script cannot tell an interrupted copy from a failed one."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Bar, "report", stop)
    done = run("copy", alice, f"sqlite:{tmp_path}/a.db", "--json")
    assert (done.code, done.stdout, done.error["kind"]) == (130, "", "Interrupted")


def test_ctrl_c_elsewhere_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in a long check prints a traceback."""

    def stop(url: str, **how: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("ratchetkeep.verify.verify_device", stop)
    done = run("verify", "x")
    assert (done.code, done.stderr) == (130, "interrupted: nothing was changed\n")


# -- pipes, terminals and encodings


def test_a_closed_pipe_is_silent(tmp_path: Path, alice: Path) -> None:
    """`ratchetkeep inspect x | head -1` complains, or a copy stops half way for it."""
    for arguments in (("inspect", alice), ("copy", alice, f"sqlite:{tmp_path}/a.db")):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "ratchetkeep", *map(str, arguments)]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
        os.close(writer)
        assert (done.returncode, done.stderr) == (0, b"")
    assert inspect_device(f"{tmp_path}/a.db").records == 177


def test_an_encoding_without_the_name_s_letters(alice: Path) -> None:
    """A name with letters that the terminal lacks ends in a traceback."""
    done = shell("inspect", alice, PYTHONIOENCODING="ascii", NO_COLOR="1", TERM="dumb")
    assert done.code == 0
    assert "Alice M\\xfcller" in done.stdout
    assert shell("--help", PYTHONIOENCODING="ascii").code == 0


def test_names_cannot_steer_the_terminal(alice: Path) -> None:
    """A name in a device moves the cursor, colours the text or forges a line."""
    creds = json.loads((alice / "creds.json").read_text())
    creds["me"]["name"] = "x\x1b[2J\nowner  me\u202e"
    (alice / "creds.json").write_text(json.dumps(creds))
    done = run("inspect", alice)
    assert "x\\x1b[2J\\x0aowner  me\\x202e" in done.stdout
    assert "\x1b" not in done.stdout


def test_the_bar_needs_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log file or a dumb terminal is filled with progress lines."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    with Bar() as bar:
        bar.report("write", 1, 2)
        assert bar._progress is None
    monkeypatch.setenv("TERM", "xterm")
    with Bar() as bar:
        bar.report("check", 1, 2)
        bar.report("write", 2, 2)
        assert bar._progress is not None
        assert bar.written
    assert bar._progress is None


def test_help_loads_neither_sqlite_nor_rich() -> None:
    """Asking for help takes as long as a copy."""
    code = """
        import atexit, os, sys
        def look():
            if {"apsw", "rich"} & {name.partition(".")[0] for name in sys.modules}:
                os._exit(99)
        atexit.register(look)
    """
    assert script(code, "--help").code == 0
    assert script(code, "copy", "--help").code == 0


def test_version() -> None:
    """The version cannot be told in a report of a bug."""
    assert run("--version").stdout == "ratchetkeep 0.1.0\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (2**50, "1024.0 TiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    """A size is off by a unit."""
    assert _output.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (5, "just now"),
        (60, "1 minute ago"),
        (7200, "2 hours ago"),
        (86400 * 400, "1 year ago"),
        (-99, "in the future"),
    ],
)
def test_ages(seconds: int, text: str) -> None:
    """An age is off by a unit, or a clock that is wrong is not noticed."""
    then = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
    assert (
        _output.age(then, then + datetime.timedelta(seconds=seconds))
        == f"{text} (2025-01-01T00:00:00Z)"
    )


# -- secrets


def _bytes_in(value: Any) -> Iterator[bytes]:
    """Every byte string in a value: keys, seeds, tokens, signatures."""
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, Foreign):
        yield value.data
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from _bytes_in(getattr(value, name))
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _bytes_in(name)
            yield from _bytes_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _bytes_in(item)


def _spellings(secret: bytes) -> Iterator[str]:
    yield secret.hex()
    yield secret.hex().upper()
    for encoded in (base64.b64encode(secret), base64.urlsafe_b64encode(secret)):
        yield encoded.decode().rstrip("=")
    yield repr(secret)[2:-1]


def secrets_of(place: Path) -> set[str]:
    """Every spelling of every byte string of a device; public keys are in it as well."""
    with open_device(place, read_only=True) as device:
        values: list[Any] = [device.credentials]
        for family in FAMILIES:
            values.extend(device.get(family, device.ids(family)).values())
        code = device.credentials.pairing_code
    found = {each for value in values for each in _bytes_in(value) if len(each) >= 8}
    assert len(found) > 100
    return {text for each in found for text in _spellings(each)} | ({code} if code else set())


@pytest.mark.parametrize("sample", ["baileys/alice", "baileysex/native-otp29"])
def test_no_command_shows_a_secret(tmp_path: Path, sample: str) -> None:
    """Key material ends up in a terminal, a log or a report of a bug."""
    place = _private(shutil.copytree(GOLDEN / sample, tmp_path / "device"))
    secrets = secrets_of(place)
    kind = sample.partition("/")[0]
    targets = [f"sqlite:{tmp_path}/a.db", f"baileys:{tmp_path}/b", f"baileysex:{tmp_path}/c"]
    commands: list[tuple[object, ...]] = [("copy", place, each, "--overwrite") for each in targets]
    for url in (f"{kind}:{place}", *targets):
        commands += [(name, url) for name in ("new", "inspect", "verify", "devices")]
    told = "".join(_all_output(commands))
    # Once more with every record cut short: errors must not quote what they could not read.
    for path in place.iterdir():
        path.write_bytes(path.read_bytes()[:-3])
    told += "".join(_all_output(commands))
    assert "1 error" in told or "errors" in told
    assert not [text for text in secrets if text in told]


def _all_output(commands: list[tuple[object, ...]]) -> Iterator[str]:
    for command in commands:
        for more in ((), ("--json",), ("--dry-run",)):
            done = run(*command, *more)
            assert done.code != 70
            yield done.stdout + done.stderr


def test_the_summary_holds_no_secret(alice: Path) -> None:
    """A program that logs the summary logs keys."""
    summary = repr(inspect_device(alice))
    assert not [text for text in secrets_of(alice) if text in summary]
    assert CREDENTIALS.family not in [each.family for each in inspect_device(alice).families]


def test_the_package_runs_as_a_module() -> None:
    """`python -m ratchetkeep` does something else than the command."""
    assert shell("--version").stdout == "ratchetkeep 0.1.0\n"
    assert ratchetkeep.__doc__


def test_the_demo_changes_nothing() -> None:
    """The example that people run first fails."""
    demo = Path(__file__).parents[1] / "examples/demo.py"
    done = _process([sys.executable, str(demo)], {})
    assert done.code == 0
    assert done.stdout.endswith("nothing changed: 178 of 178 files are the same bytes\n")
