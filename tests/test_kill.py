"""Real kills of a real process: nothing acknowledged is lost, nothing is half there."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from _helpers import dead_pid
from ratchetkeep import copy_device, open_device
from ratchetkeep.testing import Holds, chaos
from ratchetkeep.testing.faults import kill
from ratchetkeep.testing.faults._worker import ADD_BULK, DROP_BULK
from ratchetkeep.testing.faults.kill import (
    NEVER,
    Breach,
    KilledDevice,
    Killer,
    Moment,
    has_strace,
    kill_copy,
    kill_creation,
    leftovers,
)
from ratchetkeep.testing.strategies import BAILEYS, BAILEYSEX, NATIVE

HOLDS = {"sqlite": NATIVE, "baileys": BAILEYS, "baileysex": BAILEYSEX}

# Calls that each store makes while it works; a kind that is missing here is never killed at.
CALLS = {
    "sqlite": ["pwrite64", "fdatasync", "unlink", "openat", "write"],
    "baileys": ["write", "pwrite64", "fdatasync", "rename", "fsync", "unlink", "openat"],
    "baileysex": ["write", "pwrite64", "fdatasync", "rename", "fsync", "unlink", "openat"],
}
RANDOM_KILLS, CALL_KILLS = 40, 25


def place(kind: str, folder: Path, name: str = "device") -> str:
    return f"{kind}:{folder}/{name}{'.db' if kind == 'sqlite' else ''}"


@pytest.fixture(params=sorted(HOLDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def holds(kind: str) -> Holds:
    return HOLDS[kind]


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    with Killer(seed=20) as killer:
        yield killer


@pytest.fixture
def device(killer: Killer, kind: str, holds: Holds, tmp_path: Path) -> KilledDevice:
    killer.reach.clear()
    return KilledDevice(killer, place(kind, tmp_path), holds=holds)


def test_kills_at_random_moments(killer: Killer, device: KilledDevice) -> None:
    """A crash would lose a commit that was acknowledged, tear one, or make the next start fail."""
    while device.tally.kills < RANDOM_KILLS:
        device.kill(killer.random_moment())
    assert device.tally.opened == 2 * device.tally.rounds
    assert device.tally.acknowledged > RANDOM_KILLS


def test_kills_at_system_calls(killer: Killer, device: KilledDevice, kind: str) -> None:
    """A crash between two steps of a commit would tear it, or leave what stops the next start."""
    # Random moments stand in where there is no strace: more of them, since fewer are telling.
    wanted = CALL_KILLS if has_strace() else 3 * CALL_KILLS
    while device.tally.kills < wanted:
        device.kill(killer.moment_at(CALLS[kind]))


def test_kills_while_many_records_are_committed(killer: Killer, device: KilledDevice) -> None:
    """A crash while hundreds of pre-keys are stored at once would store some of them."""
    for commit in (ADD_BULK, DROP_BULK):
        device.kill(NEVER, commits=commit - 1 - device.number, each=50)
        for _ in range(4):
            # The commit under way, or the files that follow it, or their removal.
            device.kill(Moment(acks=0, seconds=0.04 * killer.rng.random()), commits=1, each=1)


def test_kills_while_opening_and_recovering(
    killer: Killer, device: KilledDevice, kind: str
) -> None:
    """A crash during the recovery from a crash would lose what the first one had left whole."""
    for turn in range(4):
        device.kill(Moment(acks=8, seconds=0.001 * turn), each=40, is_checked=False)
        for _ in range(3):
            device.kill_opening(killer.moment_at(CALLS[kind]), is_checked=False)
        device.kill_opening(Moment(seconds=0.004 * turn), is_checked=False)
        device.check()


def test_kills_while_closing(killer: Killer, device: KilledDevice) -> None:
    """A crash while a device is closed would leave it behind what it had acknowledged."""
    for turn in range(8):
        device.kill(Moment(acks=5, seconds=0.002 * turn), commits=5, each=5)


def test_kills_while_the_first_device_is_made(killer: Killer, kind: str, tmp_path: Path) -> None:
    """A crash while pairing would leave something that is neither a device nor an empty place."""
    killer.reach.clear()
    for turn in range(24):
        by_call = turn % 2 == 0
        moment = killer.moment_at(CALLS[kind]) if by_call else Moment(seconds=0.001 * turn)
        kill_creation(killer, place(kind, tmp_path / str(turn)), moment)


@pytest.fixture(scope="module")
def source(killer: Killer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A device that every kind of store can hold, with many pre-keys."""
    url = place("sqlite", tmp_path_factory.mktemp("source"))
    device = KilledDevice(killer, url, holds=BAILEYSEX)
    device.kill(NEVER, commits=14, each=14)
    return url


def test_kills_while_copying(killer: Killer, source: str, kind: str, tmp_path: Path) -> None:
    """A crash would leave half a device that looks whole, or one that no copy can replace."""
    killer.reach.clear()
    whole = place(kind, tmp_path, "whole")
    copy_device(source, whole)
    for turn in range(8):
        by_call = turn % 2 == 0
        moment = killer.moment_at(CALLS[kind]) if by_call else Moment(seconds=0.03 * turn)
        target = place(kind, tmp_path / str(turn))
        kill_copy(killer, source, target, moment, whole=whole)


def test_kills_while_a_copy_replaces_a_device(
    killer: Killer, source: str, kind: str, tmp_path: Path
) -> None:
    """A crash would leave a mix of the old device and the new one, or neither."""
    killer.reach.clear()
    whole = place(kind, tmp_path, "whole")
    copy_device(source, whole)
    for turn in range(4):
        target = place(kind, tmp_path, f"target {turn}")
        with open_device(target, create=True) as old:
            old.set({"lid-mapping": {"1": "of the old device"}, "device-list": {"1": ["0"]}})
        moment = Moment(seconds=0.05 * turn) if turn % 2 else killer.moment_at(CALLS[kind])
        kill_copy(killer, source, target, moment, whole=whole, overwrite=True)


@pytest.mark.parametrize("kind", ["baileys", "baileysex"])
def test_opening_sweeps_what_a_killed_replacement_left(kind: str, tmp_path: Path) -> None:
    """A whole second set of the keys would lie beside the device until somebody copies again."""
    url = place(kind, tmp_path)
    open_device(url, create=True).close()
    left, under_way = (
        tmp_path / f".device.ratchetkeep-stage-{pid}-0a1b2c3d" for pid in (dead_pid(), os.getpid())
    )
    for staged in (left, under_way):
        staged.mkdir(mode=0o700)
        (staged / "creds.json").write_bytes(b"keys")
    open_device(url).close()
    assert not left.exists()
    assert (under_way / "creds.json").exists()  # a copy that goes on is not disturbed


# -- the harness itself: it must see what it is there for


def test_a_lost_commit_is_seen(killer: Killer, device: KilledDevice, kind: str) -> None:
    """The harness would be green over a store that forgets."""
    with open_device(device.url) as opened:
        before = opened.credentials
    device.kill(NEVER, commits=3, each=3)
    with open_device(device.url) as opened:
        opened.save_credentials(before)
    with pytest.raises(Breach) as caught:
        device.check()
    assert caught.value.kind == "lost"


@pytest.mark.parametrize("family", ["session", "identity-key", "pre-key"])
def test_a_torn_commit_is_seen(killer: Killer, device: KilledDevice, family: str) -> None:
    """The harness would be green over a store that tears a commit."""
    device.kill(NEVER, commits=9, each=9)
    with open_device(device.url) as opened:
        opened.set({family: {opened.ids(family)[-1]: None}})
    with pytest.raises(Breach) as caught:
        device.check()
    assert caught.value.kind == "torn"


def test_a_leftover_is_seen(device: KilledDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness would be green over a store that leaves its temporary files."""
    path = device.url.partition(":")[2]
    Path(path + ".lock").touch()
    assert leftovers(device.url) == [Path(path + ".lock").name]
    monkeypatch.setattr(kill, "opened", lambda *_: open_device(device.url, read_only=True))
    with pytest.raises(Breach) as caught:
        device.check()
    assert caught.value.kind == "unclean"


def test_a_device_that_does_not_open_is_seen(
    killer: Killer, device: KilledDevice, tmp_path: Path
) -> None:
    """The harness would be green over a store that does not start again."""
    held = open_device(device.url)
    with pytest.raises(Breach) as caught:
        device.check()
    assert caught.value.kind == "failed"
    with pytest.raises(Breach) as caught:
        device.kill(Moment(acks=1))
    held.close()
    assert caught.value.kind == "failed"
    assert "StoreInUse" in str(caught.value)


def test_the_course_of_commits_covers_what_it_should(killer: Killer, device: KilledDevice) -> None:
    """Kills would hit commits of one kind only, and the others would go untested."""
    course = device._course
    sizes = [len(course.commit(number).records["pre-key"]) for number in range(1, 81)]
    assert max(sizes) > 812
    pre_keys = {len(course.records(number).get("pre-key", {})) for number in range(1, 81)}
    assert {2, 814} <= pre_keys
    for number in random.Random(1).sample(range(1, 200), 20):
        commit = course.commit(number)
        assert {"session", "pre-key", "identity-key"} == set(commit.records)
        assert commit.credentials is not None
        assert None in commit.records["pre-key"].values()


# -- all of it in turn


def test_chaos_for_a_few_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    """The long run before a release would not start, or the stores would break in it."""
    assert chaos.main(["--rounds", "5", "--seed", "5"]) == 0
    shown = capsys.readouterr().out
    for kind in HOLDS:
        assert kind in shown
    assert "Seed 5" in shown


def test_chaos_ends_with_1_at_a_breach(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A breach would go by unseen, or nobody could find out what it was."""

    def broken(victim: chaos.Victim, rng: random.Random) -> None:
        raise Breach("lost", "as it is told to be")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(chaos.Victim, "_power_cuts", broken)
    assert chaos.main(["--rounds", "9", "--seed", "6", "--stores", "sqlite"]) == 1
    shown = capsys.readouterr().out
    assert "as it is told to be" in shown
    assert "--stores sqlite --seed 6 --first 2 --rounds 1" in shown
    kept = next(tmp_path.glob("ratchetkeep-chaos-*"))
    assert str(kept) in shown.replace("\n", "")
    assert list(kept.glob("sqlite-*/device.db"))


def test_chaos_refuses_a_store_that_it_does_not_know() -> None:
    """A misspelled store would be left out in silence."""
    with pytest.raises(SystemExit) as caught:
        chaos.main(["--stores", "sqlite,nosuch"])
    assert caught.value.code == 2
