"""Kill -9 of the real command: every record is whole, old or pruned, and the next run finishes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from _backups import Victim, put
from ratchetkeep import create_device, open_device, verify_device
from ratchetkeep.model import TcToken
from ratchetkeep.prune import PrunePolicy, prune_device
from ratchetkeep.testing._samples import paired
from ratchetkeep.testing.strategies import BAILEYS
from test_prune_rules import CREDS, chain, public, record, session

KILLS = 10
TOKENS = 520
FAMILIES = ("session", "tctoken", "pre-key", "identity-key")


def prepared(url: str) -> None:
    """A device of which much goes, in many commits."""
    chains = {public(number): chain(number, is_ended=True) for number in range(20)}
    made = record(*(session(number, number, chains) for number in range(1, 4)))
    old = TcToken(token=b"token", timestamp="1500000000")
    with create_device(url, paired(CREDS, BAILEYS)) as device:
        device.set(
            {
                "tctoken": {f"{number}@lid": old for number in range(TOKENS)},
                "session": {f"{number}.0": made for number in range(100)},
                "identity-key": {"1.0": public(0)},
            }
        )
        device.mint_pre_keys(3)


def all_of(url: str) -> dict[tuple[str, str], Any]:
    with open_device(url) as device:
        return {
            (family, id): value
            for family in FAMILIES
            for id, value in device.get(family, device.ids(family)).items()
        }


@pytest.mark.parametrize("kind", ["sqlite", "baileys"])
def test_a_killed_run_leaves_every_record_whole(kind: str, tmp_path: Path) -> None:
    """A crash would tear a record, lose one that was to stay, or leave what no run can finish."""
    template, place = tmp_path / "template", tmp_path / "place"
    template.mkdir()
    prepared(f"{kind}:{template}/device")
    url = f"{kind}:{place}/device"
    put(template, place)
    before = all_of(url)
    victim = Victim(place, "prune", url, "--closed-sessions", 1, "--chains", 5)
    victim.run()
    after = all_of(url)
    assert len(after) == len(before) - TOKENS
    partial = killed = 0
    while killed < KILLS:
        put(template, place)
        killed += victim.kill()
        found = all_of(url)
        assert found.keys() >= after.keys()
        assert all(value in (before[key], after.get(key)) for key, value in found.items())
        assert all(found[key] == before[key] for key in after if after[key] == before[key])
        partial += found not in (before, after)
        assert [each for each in verify_device(url) if each.severity == "error"] == []
        prune_device(url, policy=PrunePolicy(closed_sessions=1, receiving_chains=5))
        assert all_of(url) == after
    assert partial
