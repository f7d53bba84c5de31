"""Copies of many devices in several processes, and such that were ended: the same copy goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from _copy_all import NAMES, errors, files, fleet, held, leftovers, outcomes
from _helpers import ALICE, dead_pid
from ratchetkeep import CommitFailed, NotHeld, copy_all, copy_device, open_device
from ratchetkeep import _copy_all_pool as pool
from ratchetkeep import copy as copies

SECONDS = 120
MANY = [f"{number:02}" if number % 2 else f"some/{number:02}" for number in range(24)]


@pytest.fixture
def one(tmp_path: Path) -> str:
    """A store with some devices."""
    fleet(f"sqlite:{tmp_path}/one.db")
    return f"sqlite:{tmp_path}/one.db"


@pytest.fixture
def many(tmp_path: Path) -> str:
    """A store with so many devices that a copy can be ended in the middle."""
    fleet(f"sqlite:{tmp_path}/one.db", MANY)
    return f"sqlite:{tmp_path}/one.db"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes that copies started; all of them have to be over in the end."""
    found: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def start(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        found.append(real(*args, **options))
        return found[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    yield found
    assert found and all(each.returncode is not None for each in found)


# -- in several processes


@pytest.mark.parametrize("target", ["baileys:{}/tree", "sqlite:{}/two.db"])
def test_several_processes_copy_the_same(
    tmp_path: Path, many: str, target: str, started: list[subprocess.Popen[bytes]]
) -> None:
    """A fleet would arrive otherwise from a machine with more processors."""
    first = copy_all(many, f"baileys:{tmp_path}/source", jobs=2)
    second = copy_all(f"baileys:{tmp_path}/source", target.format(tmp_path), jobs=2)
    assert len(started) == (4 if target.startswith("baileys") else 2)
    assert (first.jobs, second.jobs) == (2, 2 if target.startswith("baileys") else 1)
    assert first.complete and second.complete
    assert outcomes(second) == dict.fromkeys(sorted(MANY), "copied")
    alone = copy_all(f"baileys:{tmp_path}/source", f"baileys:{tmp_path}/alone", jobs=1)
    assert files(tmp_path / "alone") == files(tmp_path / "source")
    assert (alone.records, alone.findings) == (second.records, second.findings)
    if target.startswith("baileys"):
        assert files(tmp_path / "tree") == files(tmp_path / "source")
    else:
        assert held(f"sqlite:{tmp_path}/two.db") == held(many)


def test_processes_tell_what_failed(
    tmp_path: Path, many: str, started: list[subprocess.Popen[bytes]]
) -> None:
    """A damaged device would be missed, or be told without its place and remedy."""
    copy_all(many, f"baileys:{tmp_path}/tree", jobs=2)
    (tmp_path / "tree" / "01" / "pre-key-1.json").write_bytes(b"")
    damaged = copy_all(f"{tmp_path}/tree", f"baileysex:{tmp_path}/ex", jobs=2)
    (failed,) = damaged.failed
    assert failed.device == "01"
    assert str(failed.error).startswith(f"{tmp_path}/tree/01/pre-key-1.json: is empty. Nothing")


def test_no_url_is_on_a_command_line(
    tmp_path: Path, many: str, started: list[subprocess.Popen[bytes]]
) -> None:
    """Whoever lists the processes would read the password of a database."""
    copy_all(many, f"baileys:{tmp_path}/tree", jobs=2)
    assert len(started) == 2
    for each in started:
        assert isinstance(each.args, list)
        assert not any(str(tmp_path) in str(part) for part in each.args)


def test_a_process_that_is_killed_fails_its_device_alone(
    tmp_path: Path, many: str, started: list[subprocess.Popen[bytes]], monkeypatch: Any
) -> None:
    """The copy would hang for ever, or take a device for copied that is not."""
    real, killed = pool._Worker.begin, [0]

    def begin(worker: pool._Worker, task: Any) -> None:
        if task.source.device not in ("03", "some/04"):
            return real(worker, task)
        # It is asked while it sleeps, and never wakes up.
        os.kill(worker._child.process.pid, signal.SIGSTOP)
        real(worker, task)
        # As it would leave what it was putting together.
        above, name = os.path.split(task.target.path)
        os.mkdir(f"{above}/.{name}.ratchetkeep-stage-{worker._child.process.pid}-00ff")
        os.kill(worker._child.process.pid, signal.SIGKILL)
        killed[0] += 1
        return None

    with monkeypatch.context() as patch:
        patch.setattr(pool._Worker, "begin", begin)
        summary = copy_all(many, f"baileys:{tmp_path}/tree", jobs=2)
    assert killed == [2] and len(started) == 4
    assert errors(summary) == {"03": "CommitFailed", "some/04": "CommitFailed"}
    assert all("ended by signal 9" in str(each.error) for each in summary.failed)
    assert leftovers(tmp_path) == []
    again = copy_all(many, f"baileys:{tmp_path}/tree", jobs=2)
    assert [d for d, what in outcomes(again).items() if what == "copied"] == ["03", "some/04"]


def test_a_process_that_dies_with_nothing_to_do_is_replaced(
    tmp_path: Path, many: str, started: list[subprocess.Popen[bytes]]
) -> None:
    """A device would be told to have failed that nobody has touched."""

    def kill(step: str, done: int, total: int, records: int) -> None:
        if done == total - 1 or done == 3:
            for each in started:
                idle = [w for w in workers if w.task is None and w._child.process is each]
                if idle and each.poll() is None:
                    each.kill()
                    each.wait()

    workers: list[Any] = []
    real = pool._Worker.__init__

    def remember(worker: Any, setup: bytes) -> None:
        real(worker, setup)
        workers.append(worker)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool._Worker, "__init__", remember)
        summary = copy_all(many, f"baileys:{tmp_path}/tree", jobs=2, progress=kill)
    assert len(started) > 2
    assert summary.complete


def test_without_other_processes_it_is_copied_here(
    tmp_path: Path, many: str, monkeypatch: Any
) -> None:
    """Where no process can be had, in a container say, nothing could be copied."""

    def refuse(*args: Any, **options: Any) -> Any:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    summary = copy_all(many, f"baileys:{tmp_path}/tree", jobs=2)
    assert summary.complete and summary.jobs == 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupted_copy_leaves_whole_devices(tmp_path: Path, many: str, jobs: int) -> None:
    """Half a device would be left, or a process that goes on writing."""
    counts = []

    def stop(step: str, done: int, total: int, records: int) -> None:
        counts.append(done)
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_all(many, f"baileys:{tmp_path}/tree", jobs=jobs, progress=stop)
    assert leftovers(tmp_path) == []
    whole = copy_all(f"baileys:{tmp_path}/tree", f"memory:{tmp_path}", dry_run=True)
    assert whole.complete and 5 <= len(whole.devices) <= 5 + jobs
    assert copy_all(many, f"baileys:{tmp_path}/tree", jobs=jobs).complete
    copy_all(many, f"baileys:{tmp_path}/other", jobs=1)
    assert files(tmp_path / "tree") == files(tmp_path / "other")


# -- going on


KILLED = """
import os, signal, sys
from ratchetkeep import copy_all
def end(step, done, total, records):
    if done == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
    assert copy_all(sys.argv[1], sys.argv[2], jobs=int(sys.argv[3]), progress=end).complete
"""


@pytest.mark.parametrize(
    ("target", "jobs"), [("baileys:{}/tree", 1), ("baileys:{}/tree", 2), ("sqlite:{}/two.db", 1)]
)
def test_a_killed_copy_goes_on(tmp_path: Path, many: str, target: str, jobs: int) -> None:
    """A copy of hours would begin anew after every crash, or take half a device for a whole one."""
    url = target.format(tmp_path)
    for end in (0, 6, 7, 18):
        command = [sys.executable, "-c", KILLED, many, url, str(jobs), str(end)]
        assert subprocess.run(command, timeout=SECONDS, check=False).returncode == -signal.SIGKILL
    summary = copy_all(many, url, jobs=jobs)
    assert summary.complete and {*outcomes(summary).values()} == {"copied", "already there"}
    assert leftovers(tmp_path) == []
    if target.startswith("sqlite"):
        assert held(url) == held(many)
    else:
        copy_all(many, f"baileys:{tmp_path}/other", jobs=1)
        assert files(tmp_path / "tree") == files(tmp_path / "other")


def test_what_killed_copies_left_is_removed(tmp_path: Path, one: str) -> None:
    """Private keys would lie about in forgotten files for ever."""
    tree, gone = tmp_path / "tree", dead_pid()
    (tree / "fleet").mkdir(parents=True)
    left = [
        tree / f".a.ratchetkeep-stage-{gone}-00ff",
        tree / f".other.ratchetkeep-stage-{gone}-0f",
    ]
    left.append(tree / "fleet" / f".x.ratchetkeep-stage-{gone}-1234")
    for path in left:
        path.mkdir()
        (path / "creds.json").write_text("{}")
    left.append(tree / f"a.ratchetkeep-rest.new.stage-{gone}-00ff")
    left[-1].write_text("a key")
    alive = tree / ".a.ratchetkeep-stage-1-00ff"
    alive.mkdir()
    assert copy_all(one, f"baileys:{tree}").complete
    assert [path for path in left if path.exists()] == []
    assert alive.exists()


def test_a_second_copy_does_not_look_for_changes(tmp_path: Path, one: str) -> None:
    """The docs would promise what it does not do: only overwriting brings what came later."""
    tree = f"baileys:{tmp_path}/tree"
    copy_all(one, tree)
    before = files(tmp_path / "tree")
    with open_device(one + "?device=a") as device:
        device.set({"lid-mapping": {"4915112345678": "112233445566778"}})
    assert outcomes(copy_all(one, tree)) == dict.fromkeys(NAMES, "already there")
    assert files(tmp_path / "tree") == before
    assert outcomes(copy_all(one, tree, overwrite=True)) == dict.fromkeys(NAMES, "copied")
    changed = {n for n, raw in files(tmp_path / "tree").items() if before.get(n) != raw}
    assert changed == {"a/lid-mapping-4915112345678.json"}


def test_a_device_that_was_paired_since_is_the_same(tmp_path: Path, one: str) -> None:
    """A device that went on would be told to be another one."""
    target = f"sqlite:{tmp_path}/two.db"
    with open_device(one + "?device=a") as device:
        me = device.credentials.me
        device.save_credentials(device.credentials.replace(me=None))
    copy_device(one + "?device=a", target + "?device=a")
    with open_device(target + "?device=a") as device:
        device.save_credentials(device.credentials.replace(me=me))
    assert outcomes(copy_all(one, target))["a"] == "already there"


def test_what_runs_at_the_target_does_not_matter(tmp_path: Path, one: str) -> None:
    """A fleet that is in use already could not be looked over by the same command."""
    target = f"sqlite:{tmp_path}/two.db"
    copy_all(one, target)
    code = "import sys; from ratchetkeep import *; d = open_device(sys.argv[1]); print(flush=True)"
    owner = subprocess.Popen(
        [sys.executable, "-c", f"{code}; input()", target + "?device=a"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert owner.stdout and owner.stdout.readline() == b"\n"
        assert outcomes(copy_all(one, target)) == dict.fromkeys(NAMES, "already there")
        assert copy_all(one, target, overwrite=True).stopped is not None
    finally:
        owner.communicate(b"\n", timeout=SECONDS)


# -- retiring


@pytest.mark.parametrize("there", ["sqlite:{}/two.db", "baileysex:{}/ex"])
@pytest.mark.parametrize("here", ["sqlite", "baileys"])
def test_sources_are_retired(tmp_path: Path, one: str, here: str, there: str) -> None:
    """Both copies of a device would go on, and break each other's sessions."""
    target = there.format(tmp_path)
    source = one
    if here == "baileys":
        source = f"baileys:{tmp_path}/tree"
        copy_all(one, source)
    summary = copy_all(source, target, retire=True, jobs=2)
    assert summary.complete and summary.retired
    assert summary.jobs == (2 if here == "baileys" and there.startswith("baileys") else 1)
    again = copy_all(source, target, retire=True)
    assert outcomes(again) == dict.fromkeys(NAMES, "already there")
    elsewhere = copy_all(source, f"memory:{tmp_path}/a")
    assert errors(elsewhere) == dict.fromkeys(NAMES, "DeviceMoved")
    assert copy_all(source, f"memory:{tmp_path}/b", from_retired=True).complete
    assert leftovers(tmp_path) == []


def unmarked(*args: Any) -> None:
    raise CommitFailed("the source", "was ended before it was marked")


def test_a_copy_that_was_ended_before_the_mark_is_finished(
    tmp_path: Path, one: str, monkeypatch: Any
) -> None:
    """A device would live in both places, though the user asked for one, and has copied again."""
    target = f"baileysex:{tmp_path}/ex"
    with monkeypatch.context() as patch:
        patch.setattr(copies, "mark_source", unmarked)
        assert errors(copy_all(one, target, retire=True)) == dict.fromkeys(NAMES, "CommitFailed")
    copied = files(tmp_path / "ex")
    # One of the two was used since: nobody can say which of them is to live.
    with open_device(one + "?device=a") as device:
        device.set({"lid-mapping": {"4915112345678": "112233445566778"}})
    with open_device(f"{target}/ü") as device:
        device.set({"lid-mapping": {"4915112345678": "112233445566778"}})
    planned = copy_all(one, target, retire=True, dry_run=True)
    assert planned.complete
    summary = copy_all(one, target, retire=True, confirm=lambda summary: None)
    assert errors(summary) == {"a": "DeviceExists", "ü": "DeviceExists"}
    assert {what for name, what in outcomes(summary).items() if name not in ("a", "ü")} == {
        "already there"
    }
    moved = copy_all(one, f"memory:{tmp_path}", dry_run=True)
    assert errors(moved) == dict.fromkeys(["b b", "fleet/x", "fleet/y"], "DeviceMoved")
    assert {n: raw for n, raw in files(tmp_path / "ex").items() if n[0] == "a"} == {
        n: raw for n, raw in copied.items() if n[0] == "a"
    }


def test_what_cannot_be_marked_is_refused_at_once(tmp_path: Path, monkeypatch: Any) -> None:
    """Every device would be copied, and none retired."""
    from ratchetkeep.stores.memory import MemoryStore

    fleet(f"memory:{tmp_path}", ["a"])
    monkeypatch.setattr(MemoryStore, "no_mark", "there is no place for it")
    with pytest.raises(NotHeld, match="no place for it"):
        copy_all(f"memory:{tmp_path}", f"sqlite:{tmp_path}/two.db", retire=True)
    assert list(tmp_path.iterdir()) == []


# -- the rest


def test_the_rest_is_kept_beside_each_device(tmp_path: Path, one: str) -> None:
    """What the other library cannot hold would be lost on the way back."""
    copy_device(f"baileys:{ALICE}", one + "?device=fleet/alice")
    before = held(one)
    there = copy_all(one, f"baileysex:{tmp_path}/ex", keep_rest=True, jobs=2)
    assert there.complete
    rests = {each.device: each.rest for each in there.devices}
    assert rests["fleet/alice"] == f"{tmp_path}/ex/fleet/alice.ratchetkeep-rest"
    assert all(os.path.exists(path) for path in rests.values())
    back = copy_all(f"baileysex:{tmp_path}/ex", f"sqlite:{tmp_path}/two.db")
    assert back.complete
    assert held(f"sqlite:{tmp_path}/two.db")["fleet/alice"] == before["fleet/alice"]
    assert leftovers(tmp_path) == []
