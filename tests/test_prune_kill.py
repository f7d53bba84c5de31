"""Kill -9 of the real command: every record is whole, old or pruned, and the next run finishes."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ratchetkeep import create_device, open_device, verify_device
from ratchetkeep.model import TcToken
from ratchetkeep.prune import PrunePolicy, prune_device
from ratchetkeep.testing._samples import paired
from ratchetkeep.testing.strategies import BAILEYS
from test_prune_rules import CREDS, chain, public, record, session

KILLS = 12
FAMILIES = ("session", "tctoken", "pre-key", "identity-key")
# The command itself, which kills itself so many seconds after its commit of this number.
COMMAND = """
import os, signal, sys, threading, typer
from ratchetkeep.cli import _progress
from ratchetkeep.cli._prune import prune

commits, delay = int(sys.argv.pop(1)), float(sys.argv.pop(1))


class Bar(_progress.Bar):
    def report(self, step, done, total):
        global commits
        commits -= step == "write"
        if step == "write" and commits == 0:
            if not delay:
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()


_progress.Bar = Bar
typer.run(prune)
"""


def prepared(url: str) -> None:
    """A device of which much goes, in many commits."""
    chains = {public(number): chain(number, is_ended=True) for number in range(20)}
    made = record(*(session(number, number, chains) for number in range(1, 4)))
    old = TcToken(token=b"token", timestamp="1500000000")
    with create_device(url, paired(CREDS, BAILEYS)) as device:
        device.set(
            {
                "tctoken": {f"{number}@lid": old for number in range(1500)},
                "session": {f"{number}.0": made for number in range(400)},
                "identity-key": {"1.0": public(0)},
            }
        )
        device.mint_pre_keys(3)


def run(url: str, commits: int = 0, delay: float = 0.0) -> int:
    """Run the command, killed after so many commits; 0: not at all."""
    asked = [str(commits), str(delay), url, "--closed-sessions", "1", "--chains", "5"]
    done = subprocess.run([sys.executable, "-c", COMMAND, *asked], capture_output=True, check=False)
    return done.returncode


def all_of(url: str) -> dict[tuple[str, str], Any]:
    with open_device(url) as device:
        return {
            (family, id): value
            for family in FAMILIES
            for id, value in device.get(family, device.ids(family)).items()
        }


def put(template: Path, place: Path) -> None:
    """The template in the place, as it was."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(template, place)


@pytest.mark.parametrize("kind", ["sqlite", "baileys"])
def test_a_killed_run_leaves_every_record_whole(kind: str, tmp_path: Path) -> None:
    """A crash would tear a record, lose one that was to stay, or leave what no run can finish."""
    template, place = tmp_path / "template", tmp_path / "place"
    template.mkdir()
    prepared(f"{kind}:{template}/device")
    url = f"{kind}:{place}/device"
    put(template, place)
    before = all_of(url)
    assert run(url) == 0
    after = all_of(url)
    assert len(after) == len(before) - 1500
    partial = 0
    for turn in range(KILLS):
        put(template, place)
        # Between two commits, or somewhere in the next ones.
        ended = run(url, turn % 6 + 1, 0.0 if turn % 2 == 0 else 0.001 * turn)
        assert ended in ((-signal.SIGKILL,) if turn % 2 == 0 else (-signal.SIGKILL, 0))
        found = all_of(url)
        assert found.keys() >= after.keys()
        assert all(value in (before[key], after.get(key)) for key, value in found.items())
        assert all(found[key] == before[key] for key in after if after[key] == before[key])
        partial += found not in (before, after)
        assert [each for each in verify_device(url) if each.severity == "error"] == []
        prune_device(url, policy=PrunePolicy(closed_sessions=1, receiving_chains=5))
        assert all_of(url) == after
    assert partial >= KILLS // 2
