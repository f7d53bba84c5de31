"""``ratchetkeep copy --all``: what it prints, how it ends, and how it is ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from _copy_all import NAMES, files, fleet, held, leftovers
from ratchetkeep import open_device
from ratchetkeep.cli._progress import AllBar
from ratchetkeep.cli.app import app

RUNNER = CliRunner()
SECONDS = 120


class Done:
    """A command that ran."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code, self.stdout, self.stderr = code, stdout, stderr
        self.lines = stdout.splitlines()

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


def run(*arguments: object) -> Done:
    """In this process."""
    done = RUNNER.invoke(app, [str(each) for each in arguments])
    return Done(done.exit_code, done.stdout, done.stderr)


def script(code: str, *arguments: object) -> Done:
    """The command line in a process of its own, after ``code``."""
    code = textwrap.dedent(code) + "\nfrom ratchetkeep.cli import main\nmain()\n"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=SECONDS)
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
def one(tmp_path: Path) -> str:
    """A store with some devices."""
    fleet(f"sqlite:{tmp_path}/one.db")
    return f"sqlite:{tmp_path}/one.db"


def test_the_plan_is_short_and_comes_first(tmp_path: Path, one: str) -> None:
    """A user would not know what becomes of a fleet, or read it for each device."""
    done = run("copy", "--all", one, f"baileysex:{tmp_path}/tree")
    assert (done.code, done.stderr) == (0, "")
    assert done.lines[:3] == [
        f"from       {one}, 5 devices",
        f"to         baileysex:{tmp_path}/tree",
        "devices    5 to be copied",
    ]
    assert done.lines[3].startswith("carried    50 records, ")
    assert done.lines[4] == (
        "converted  all of it, from ratchetkeep's own form to BaileysEx's terms (ETF)"
    )
    assert ["credentials", "5"] in [line.split() for line in done.lines]
    assert "    in 5 records, such as session 998877000000000_1.0" in done.lines
    assert done.lines[-3:-1] == [
        "lost: nothing",
        f"copied 5 devices to baileysex:{tmp_path}/tree",
    ]
    again = run("copy", "--all", one, f"baileysex:{tmp_path}/tree")
    assert (again.code, len(again.lines)) == (0, 5)
    assert again.lines[2] == "devices  5 already there"
    assert again.lines[3] == f"copied 0 devices to baileysex:{tmp_path}/tree, 5 already there"


def test_what_some_devices_need_is_listed(tmp_path: Path, one: str) -> None:
    """What is converted or lost in a few devices would be hidden by the others."""
    done = run("copy", "--all", "--for", "pyaileys", one, f"sqlite:{tmp_path}/two.db")
    assert done.code == 0
    assert "converted  as listed" in done.lines and "for        pyaileys" in done.lines
    assert "  5 session records, from ratchetkeep's own form to libsignal's protobuf" in done.lines
    own = run("copy", "--all", one, f"baileys:{tmp_path}/tree")
    assert own.code == 0
    other = run(
        "copy", "--all", "--for", "whatsmeow", f"{tmp_path}/tree", f"sqlite:{tmp_path}/3.db"
    )
    way = "from Baileys' JSON to ratchetkeep's own form"
    assert f"  the credentials of 5 devices, {way}" in other.lines


def test_a_dry_run_writes_nothing(tmp_path: Path, one: str) -> None:
    """Looking at what a copy would do would do part of it."""
    before = sorted(os.listdir(tmp_path))
    done = run("copy", "--all", "--dry-run", one, f"baileys:{tmp_path}/tree")
    assert (done.code, done.lines[2]) == (0, "devices    5 to be copied")
    assert done.lines[-1] == "dry run: nothing was written"
    told = run("copy", "--all", "--dry-run", "--json", one, f"baileys:{tmp_path}/tree").json
    assert {each["outcome"] for each in told["devices"]} == {"to be copied"}
    assert sorted(os.listdir(tmp_path)) == before


def test_json_has_every_device(tmp_path: Path, one: str) -> None:
    """A script could not tell which device failed, and why."""
    copied = run("copy", "--all", "--json", one, f"baileys:{tmp_path}/tree")
    assert (copied.code, copied.stderr) == (0, "")
    assert copied.json["devices"][2] == {
        "device": "fleet/x",
        "source": f"{one}?device=fleet%2Fx",
        "target": f"baileys:{tmp_path}/tree/fleet/x",
        "outcome": "copied",
        "records": 10,
        "rest": "",
        "error": None,
    }
    (tmp_path / "tree" / "a" / "creds.json").write_bytes(b"")
    done = run("copy", "--all", "--json", f"{tmp_path}/tree", f"sqlite:{tmp_path}/two.db")
    assert (done.code, done.stderr) == (5, "")
    told = done.json
    assert (told["complete"], told["stopped"], told["total"]) == (False, None, 40)
    assert told["devices"][0]["outcome"] == "failed"
    assert told["devices"][0]["error"] == {
        "kind": "StoreDamaged",
        "place": f"{tmp_path}/tree/a/creds.json",
        "what": "is empty",
        "remedy": told["devices"][0]["error"]["remedy"],
    }
    assert "backup" in told["devices"][0]["error"]["remedy"]


def test_the_first_device_that_failed_tells_the_exit_code(tmp_path: Path, one: str) -> None:
    """A script would take a copy with failures for done, or not know what to look for."""
    run("copy", "--all", one, f"baileys:{tmp_path}/tree")
    (tmp_path / "tree" / "fleet" / "x" / "pre-key-1.json").write_bytes(b"")
    with open_device(f"baileys:{tmp_path}/tree/b b"):
        done = run("copy", "--all", f"baileys:{tmp_path}/tree", f"sqlite:{tmp_path}/two.db")
    assert done.code == 6
    assert "devices    3 to be copied, 2 cannot be copied" in done.lines
    errors = done.stderr.splitlines()
    assert errors[0].startswith(f"error: baileys:{tmp_path}/tree/b b: is being written by ")
    assert errors[1] == "next:  Stop that program first"
    assert errors[2] == f"error: {tmp_path}/tree/fleet/x/pre-key-1.json: is empty"
    assert errors[4:] == ["2 of 5 devices failed"]


def test_what_stops_everything_tells_the_exit_code(
    tmp_path: Path, one: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk would look like a device that failed, or the way on would not be told."""
    from ratchetkeep.stores.disk import Disk

    def refuse(disk: Disk, path: str, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Disk, "write", refuse)
    done = run("copy", "--all", one, f"baileys:{tmp_path}/tree")
    assert done.code == 8
    assert "No space left on device" in done.stderr.splitlines()[0]
    assert done.stderr.splitlines()[2:] == [
        "5 of 5 devices were not copied: once the cause is mended, the same command goes on"
    ]
    told = run("copy", "--all", "--json", one, f"baileys:{tmp_path}/tree")
    assert (told.code, told.json["stopped"]["kind"]) == (8, "CommitFailed")


def test_retired_sources_are_told(tmp_path: Path, one: str) -> None:
    """A user would not know that Node goes on where the devices were."""
    run("copy", "--all", one, f"baileys:{tmp_path}/tree")
    done = run("copy", "--all", "--retire", f"baileys:{tmp_path}/tree", f"sqlite:{tmp_path}/2.db")
    assert done.code == 0
    assert "then       each source is marked as moved" in done.lines
    assert done.lines[-3] == "retired their sources: they are marked as moved"
    assert "Node does not look at the mark" in done.lines[-1]
    moved = run("copy", "--all", f"baileys:{tmp_path}/tree", f"sqlite:{tmp_path}/3.db")
    assert moved.code == 6
    assert moved.stderr.splitlines()[-1] == "5 of 5 devices failed"
    back = ("copy", "--all", "--from-retired", f"baileys:{tmp_path}/tree")
    assert run(*back, f"sqlite:{tmp_path}/3.db").code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--jobs", "2", "{one}?device=a", "{new}"],
        ["--all", "--jobs", "0", "{one}", "{new}"],
        ["--all", "{one}?device=a", "{new}"],
        ["--all", "{one}", "{one}"],
        ["--all", "{one}", "somewhere"],
        ["--all", "--for", "nobody", "{one}", "{new}"],
        ["--all", "nothing-there:", "{new}"],
    ],
    ids=lambda each: " ".join(each),
)
def test_what_makes_no_sense_ends_with_2(tmp_path: Path, one: str, arguments: list[str]) -> None:
    """A slip of the pen would copy one device for a fleet, or write somewhere else."""
    before = sorted(os.listdir(tmp_path))
    filled = [each.format(one=one, new=f"sqlite:{tmp_path}/new.db") for each in arguments]
    done = run("copy", *filled)
    assert (done.code, done.stdout) == (2, "")
    assert sorted(os.listdir(tmp_path)) == before


def test_nothing_to_copy_ends_with_3(tmp_path: Path) -> None:
    """A mistyped root would look like an empty fleet that was copied."""
    (tmp_path / "empty").mkdir()
    for place in ("empty", "missing"):
        done = run("copy", "--all", f"baileys:{tmp_path}/{place}", f"sqlite:{tmp_path}/new.db")
        assert (done.code, done.stdout) == (3, "")
    assert not (tmp_path / "new.db").exists()


# -- ended

ENDED = """
    import os, signal
    from ratchetkeep.cli._progress import AllBar
    report = AllBar.report
    def ended(bar, step, done, total, records=0):
        report(bar, step, done, total, records)
        if step == "{step}" and done == {done}:
            os.kill(os.getpid(), signal.{signal})
    AllBar.report = ended
"""


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_ended_copy_says_how_far_it_got(tmp_path: Path, jobs: int, name: str) -> None:
    """A user would not know what is there, or that the same command goes on."""
    names = [f"{number:02}" for number in range(20)]
    fleet(f"sqlite:{tmp_path}/one.db", names, records=0)
    copy = ("copy", "--all", "--jobs", jobs, f"sqlite:{tmp_path}/one.db", f"baileys:{tmp_path}/t")
    done = script(ENDED.format(step="copy", done=7, signal=name), *copy)
    assert done.code == 130
    assert done.stderr == (
        "interrupted: 7 of 20 devices are done, and each is whole or not there; the same command "
        "goes on\n"
    )
    assert leftovers(tmp_path) == []
    again = run(*copy)
    assert again.code == 0
    there = int(again.lines[-2].split(", ")[1].split()[0])
    assert 7 <= there < 7 + 2 * jobs
    run("copy", "--all", f"baileys:{tmp_path}/t", f"sqlite:{tmp_path}/two.db")
    assert held(f"sqlite:{tmp_path}/two.db") == held(f"sqlite:{tmp_path}/one.db")


def test_an_ended_check_changes_nothing(tmp_path: Path, one: str) -> None:
    """A user would look for what was written, where nothing was."""
    done = script(
        ENDED.format(step="check", done=2, signal="SIGINT"), "copy", "--all", one, "memory:x"
    )
    assert (done.code, done.stderr) == (130, "interrupted: nothing was changed\n")


def test_an_ended_copy_as_json(tmp_path: Path, one: str) -> None:
    """A script could not tell an ended copy from a failed one."""
    ended = ENDED.format(step="copy", done=2, signal="SIGTERM")
    copy = ("copy", "--all", "--overwrite", "--json", one, f"baileys:{tmp_path}/tree")
    done = script(ended, *copy)
    assert (done.code, done.stdout) == (130, "")
    told = json.loads(done.stderr)["error"]
    assert told["kind"] == "Interrupted"
    assert told["what"].startswith("2 of 5 devices are done")
    assert told["what"].endswith("the same command begins again")


def test_a_killed_command_goes_on(tmp_path: Path) -> None:
    """A copy of hours would begin anew after a crash, or leave half devices."""
    names = [f"{number:02}" for number in range(40)]
    fleet(f"sqlite:{tmp_path}/one.db", names, records=0)
    copy = ("copy", "--all", "--jobs", 2, f"sqlite:{tmp_path}/one.db", f"baileys:{tmp_path}/t")
    for at in (1, 5, 10):
        done = script(ENDED.format(step="copy", done=at, signal="SIGKILL"), *copy)
        assert done.code == -signal.SIGKILL
    assert run(*copy).code == 0
    assert leftovers(tmp_path) == []
    run("copy", "--all", f"sqlite:{tmp_path}/one.db", f"baileys:{tmp_path}/other")
    assert files(tmp_path / "t") == files(tmp_path / "other")


# -- the bar


def test_the_bar_tells_devices_and_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user would not see how far a copy of an hour is; or a log would be filled with it."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    with AllBar() as bar:
        bar.report("copy", 1, 2, 30)
        assert bar._progress is None
        assert (bar.step, bar.done, bar.total) == ("copy", 1, 2)
    monkeypatch.setenv("TERM", "xterm")
    moments = iter([10.0, 10.0, 14.0])
    clock = SimpleNamespace(monotonic=lambda: next(moments))
    monkeypatch.setattr("ratchetkeep.cli._progress.time", clock)
    with AllBar() as bar:
        bar.report("copy", 0, 1000, 0)
        assert bar.more == ""
        bar.report("copy", 500, 1000, 10_000)
        assert bar.more == "2,500 records/s"
        assert bar._progress is not None
        (task,) = bar._progress.tasks
        assert (task.description, task.completed, task.total) == ("copying", 500, 1000)
    assert bar._progress is None


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    """A device's name moves the cursor, or forges a line."""
    fleet(f"sqlite:{tmp_path}/one.db", ["x\x1b[2J\nerror: y"], records=0)
    run("copy", "--all", f"sqlite:{tmp_path}/one.db", f"baileys:{tmp_path}/tree")
    (folder,) = (tmp_path / "tree").iterdir()
    (folder / "creds.json").write_text("{")
    done = run("copy", "--all", f"baileys:{tmp_path}/tree", f"sqlite:{tmp_path}/two.db")
    assert done.code == 5
    assert "\x1b" not in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 3


def test_all_devices_are_copied_without_a_word_of_a_secret(tmp_path: Path, one: str) -> None:
    """A key would be in a log, where a fleet is copied by a timer."""
    secrets = {
        value.hex()
        for each in held(one).values()
        for pair in (each["credentials"].noise_key, each["credentials"].signed_identity_key)
        for value in (pair.private,)
    }
    assert len(secrets) == 2 * len(NAMES)
    done = run("copy", "--all", "--json", one, f"baileys:{tmp_path}/tree")
    assert not any(secret in done.stdout + done.stderr for secret in secrets)
