"""Commands that seal, rekey and unseal a store, killed, interrupted and without room at any moment:
every record stays there and can be read, and the same command goes on.

``RESEAL_KILLS=5000 pytest tests/test_reseal_kill.py`` goes on for longer.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import _sealing_worker as worker
from _sealing import KEY, OTHER_KEY, Place, Values, small_source, values_of
from ratchetkeep import Finding, copy_device, open_device, verify_device

DEVICES = ("a", "b", "c")
KILLS = int(os.environ.get("RESEAL_KILLS", "150"))
KEY_AT_END = {"seal": KEY, "rekey": OTHER_KEY, "unseal": None}
# What a plain file shows of its records.
TELLING = (b"15551230001", b"998877665544332")


@pytest.fixture(scope="module")
def processes() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["_sealing_worker", "ratchetkeep.stores.sqlite"])
    return context


def is_done(told: str) -> bool:
    """True for a command that ended well; also where it was killed before, after its last step."""
    return told == "done" or "is sealed already" in told or "is not sealed" in told


def findings_of(url: str, key: Any) -> list[Finding]:
    return verify_device(url, key=key)


class Store:
    """A store with three equal devices, whose commands are ended."""

    def __init__(self, processes: Any, folder: Path, seed: int) -> None:
        self.processes = processes
        self.rng = random.Random(seed)
        self.place = Place(folder / "file")
        self.url = self.place.store
        source = small_source(folder / "source")
        copy_device(source, self.place.url("a"))
        with open_device(self.place.url("a")) as device:
            device.mint_pre_keys(120)
            self.expected: Values = {}
        for name in DEVICES[1:]:
            copy_device(self.place.url("a"), self.place.url(name))
        self.expected = values_of(self.place.url("a"), None)
        # How long a command takes, about, in seconds.
        self.seconds = dict.fromkeys(worker.COMMANDS, 0.1)
        self.ended = dict.fromkeys(worker.COMMANDS, 0)

    def run(self, command: str, *, ending: str = "", limit: int = 0) -> str:
        """Start a command, end it by a signal at a random moment; what it told in the end."""
        ours, theirs = self.processes.Pipe()
        process = self.processes.Process(
            target=worker.work, args=(command, self.url, limit, theirs)
        )
        process.start()
        theirs.close()
        assert ours.recv() == "begins"
        began = time.monotonic()
        if ending and not ours.poll(self.rng.random() * 1.1 * self.seconds[command]):
            os.kill(process.pid, getattr(signal, ending))
        try:
            told: str = ours.recv()
        except EOFError:
            told = "killed"
        process.join()
        if told == "done" and not ending:
            self.seconds[command] = time.monotonic() - began
        return told

    def check(self, *, fully: bool) -> None:
        """Every record of every device is there, and right."""
        for name in DEVICES:
            url = self.place.url(name)
            assert worker.either_key(partial(values_of, url)) == self.expected
        for name in DEVICES if fully else self.rng.sample(DEVICES, 1):
            url = self.place.url(name)
            findings = worker.either_key(partial(findings_of, url))
            assert [each for each in findings if each.severity == "error"] == []

    def check_done(self, command: str) -> None:
        """Nothing of what was before is left."""
        key = KEY_AT_END[command]
        for name in DEVICES:
            assert values_of(self.place.url(name), key) == self.expected
        self.check(fully=True)
        rings = self.place.execute("SELECT data FROM ring")
        generations = self.place.execute("SELECT DISTINCT generation FROM devices")
        if key is None:
            assert (rings, generations) == ([], [(0,)])
            return
        ring = json.loads(rings[0][0])
        assert ring["work"] == ""
        assert generations == [(ring["current"],)]
        assert list(ring["keys"]) == [str(ring["current"])]
        for path in self.place.folder.iterdir():
            with suppress(FileNotFoundError):  # the reader's, which has just closed
                assert not [text for text in TELLING if text in path.read_bytes()], path

    def end_and_go_on(self, command: str, ending: str) -> None:
        """Run a command that is ended until it is done."""
        while True:
            told = self.run(command, ending=ending)
            if is_done(told):
                break
            if told.startswith("StoreInUse"):  # the reader was there all the time
                continue
            assert told in ("killed", "interrupted"), told
            self.ended[command] += 1
            self.check(fully=False)
            if self.rng.random() < 0.3:
                self.finish(command)
                break
        self.check_done(command)

    def finish(self, command: str) -> None:
        told = self.run(command)
        while told.startswith("StoreInUse"):  # the reader was there all the time
            told = self.run(command)
        assert is_done(told), told

    def read_meanwhile(self) -> tuple[Any, Any]:
        """A process that reads all devices, and the pipe that ends it."""
        ours, theirs = self.processes.Pipe()
        reader = self.processes.Process(
            target=worker.read, args=(self.url, self.expected, theirs), daemon=True
        )
        reader.start()
        return reader, ours


@pytest.fixture
def store(processes: Any, tmp_path: Path) -> Iterator[Store]:
    store = Store(processes, tmp_path, seed=7)
    reader, pipe = store.read_meanwhile()
    yield store
    pipe.send("enough")
    rounds, wrong = pipe.recv()
    reader.join()
    assert not wrong
    assert rounds > 10


def test_kills_at_random_moments(store: Store) -> None:
    """A crash while a store is sealed would lose devices, or leave them readable by no command; or
    plain keys in a file that is said to be sealed."""
    while sum(store.ended.values()) < KILLS:
        for command in worker.COMMANDS:
            store.end_and_go_on(command, "SIGKILL")
    assert min(store.ended.values()) >= KILLS // 10, store.ended


def test_interrupts_at_random_moments(store: Store) -> None:
    """Ctrl-C would leave a transaction open, or a device in between."""
    while sum(store.ended.values()) < KILLS // 10:
        for command in worker.COMMANDS:
            store.end_and_go_on(command, "SIGINT")


def test_no_room_at_any_moment(processes: Any, tmp_path: Path) -> None:
    """A disk that gets full would leave a device half sealed, or its rest not readable."""
    store = Store(processes, tmp_path, seed=8)
    failed = 0
    for command in worker.COMMANDS:
        size = store.place.path.stat().st_size
        for limit in (1, size // 4, size // 2, size, size * 3 // 2, 2 * size, 3 * size):
            told = store.run(command, limit=limit)
            if told == "done":
                break
            assert told.startswith(("CommitFailed", "StoreUnreadable")), told
            failed += 1
            store.check(fully=True)
        store.finish(command)
        store.check_done(command)
    assert failed > 6
