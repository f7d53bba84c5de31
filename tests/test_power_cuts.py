"""Power cuts, simulated at every step of real runs of commits."""

from __future__ import annotations

import random
from typing import Any

import pytest

from _power import (
    KINDS,
    commits,
    credentials,
    few,
    folder,
    folder_store,
    many_pre_keys,
    power_cuts,
)
from ratchetkeep.model import CREDENTIALS, Key, SessionRecord
from ratchetkeep.stores import directory, journal
from ratchetkeep.stores.base import DEFAULT_DEVICE, Store
from ratchetkeep.testing.faults import SimulatedDisk, content

# Enough to see every mutant of test_mutations.py; `make chaos` goes on with other seeds.
PER_STEP = {"sqlite": 6, "baileys": 6, "baileys6": 6, "baileysex": 4, "baileysex-json": 4}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_power_cut_at_any_step_is_survived(kind: str, seed: int) -> None:
    """A commit that had returned would be gone after a power cut, or half of one be there."""
    survived = power_cuts(kind, commits(), per_step=PER_STEP[kind], seed=seed).run()
    assert survived.steps > 30
    assert survived.states >= survived.steps * PER_STEP[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_812_pre_keys_are_one_commit(kind: str) -> None:
    """A power cut while pre-keys are minted would leave some of them, with ids given out twice."""
    every = 15 if kind == "sqlite" else 250
    survived = power_cuts(kind, many_pre_keys(), per_step=4, every=every, nested=0.0).run()
    assert survived.states > 20


@pytest.mark.parametrize("kind", ["baileys", "baileysex"])
def test_a_power_cut_while_the_journal_starts_again(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits of an older journal would come back over newer ones, or be lost with it."""
    monkeypatch.setattr(directory, "JOURNAL_LIMIT", 6000)
    run = [*few(), *few(), *few()]
    assert power_cuts(kind, run, per_step=6, nested=0.0).run().states > 300


def grow_early(patch: pytest.MonkeyPatch) -> None:
    """Let a journal grow ahead of its commits from the second one on, and begin again soon."""
    patch.setattr(directory, "JOURNAL_LIMIT", 9000)
    for name, value in {"SMALL": 1, "STEP": 2048, "STEP_OF_LARGE": 2048}.items():
        patch.setattr(journal, name, value)


@pytest.mark.parametrize("kind", ["baileys", "baileysex"])
def test_a_power_cut_while_the_journal_grows(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros, or what an older generation left there, would be mixed up with a commit."""
    grow_early(monkeypatch)
    run = [*few(), *few(), *few()]
    assert power_cuts(kind, run, per_step=6, seed=3).run().states > 300


@pytest.mark.parametrize("kind", ["baileys", "baileysex"])
def test_power_is_cut_again_while_recovering(kind: str) -> None:
    """Recovery would be good once: cut in turn, it would leave what the next one cannot mend."""
    cuts = power_cuts(kind, few(), per_step=4, every=2, nested=0.4)
    assert cuts.run().states > 300


@pytest.mark.parametrize("kind", ["baileys", "baileys6", "baileysex"])
def test_a_power_cut_during_a_copy(kind: str) -> None:
    """A copy that was cut would leave half of a device under the target's name."""
    disk, rng = SimulatedDisk(), random.Random(1)
    encoded = DirectoryRecords(kind)
    keys = [CREDENTIALS, Key("session", "9_1.0"), *(Key("lid-mapping", n) for n in "012")]
    records = {key: encoded.of(key) for key in keys}
    seen: set[int] = set()

    def cut(verb: str) -> None:
        for state in disk.crashes(rng, 6):
            seen.add(DirectoryRecords.check(kind, state, records))

    store = folder_store(kind, "/device", disk)
    disk.on_step = cut
    with store.stage(DEFAULT_DEVICE, overwrite=False) as stage:
        stage.write(records)
        stage.publish()
        disk.on_step = None
        for state in disk.crashes(rng, 20):
            assert DirectoryRecords.check(kind, state, records) == len(records)
    assert seen == {0, len(records)}


class DirectoryRecords:
    """Records in a folder's own format, and what a folder holds of them."""

    def __init__(self, kind: str) -> None:
        self._store: Store = directory.DirectoryStore(kind, "/none", SimulatedDisk())

    def of(self, key: Key) -> bytes:
        value: Any = credentials() if key == CREDENTIALS else "998877665544332" * 50
        if key.family == "session":
            value = SessionRecord(sessions={})
        data = self._store.encode(key, value, None).data
        assert data is not None
        return data

    @staticmethod
    def check(kind: str, state: SimulatedDisk, records: dict[Key, bytes]) -> int:
        """How many records the target has: none, or all of them whole."""
        if not state.is_folder("/device"):
            return 0
        with folder(state, kind) as store:
            store.acquire(DEFAULT_DEVICE, read_only=False, create=False)
            assert content(store) == records
        return len(records)
