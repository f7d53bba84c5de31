"""Real kills: what a witness finds afterwards, and that it never finds what is not so."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from _witness import SqliteCopies, at, commits, known, put, until
from ratchetkeep import StoreRewound, open_device
from ratchetkeep.witness import seen

# Each line that it reads is a commit, or the order to copy the file away with its log.
PROGRAM = """
import shutil, sys
from pathlib import Path
from ratchetkeep import open_device

path, witness, delay = sys.argv[1:]
device = open_device(f"sqlite:{path}", create=True, witness=witness, witness_delay=float(delay))
print(device.history.id, flush=True)
for line in sys.stdin:
    if line == "copy\\n":
        folder = Path(path).parent / "old"
        folder.mkdir()
        for end in ("", "-wal"):
            shutil.copy2(path + end, folder)
    else:
        device.set({"lid-mapping": {"1": line}})
    print(device.history.commits, flush=True)
"""


class Child:
    """A process that has the device open.

    :ivar commits: of how many commits it has said that they returned.
    """

    def __init__(self, copies: SqliteCopies, witness: str, delay: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, copies.path, witness, str(delay)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._orders, self._answers = self._process.stdin, self._process.stdout
        self.history = self._answers.readline().strip()
        self.commits = 0

    def order(self, line: str, count: int = 1) -> None:
        """Have it do something, again and again, without waiting for it."""
        self._orders.write(f"{line}\n" * count)
        self._orders.flush()

    def answers(self, count: int) -> None:
        """Wait until it has done so much of it."""
        for _ in range(count):
            self.commits = int(self._answers.readline())

    def kill(self) -> None:
        """End it at once; what it has said until then counts."""
        self._process.kill()
        for line in self._answers.readlines():
            if line.endswith("\n"):
                self.commits = int(line)
        self._process.wait()
        for pipe in (self._orders, self._answers):
            with suppress(BrokenPipeError):  # orders that nobody read
                pipe.close()


def knows_all(witness: str, child: Child) -> bool:
    """True once the witness was told of all that a child has said."""
    return (seen(witness, child.history) or 0) >= child.commits


@pytest.mark.parametrize("kind", ["", "sqlite:"])
def test_strict_whatever_returned_is_known(tmp_path: Path, kind: str) -> None:
    """A commit that returned would not be known to the witness after a crash; or the witness know
    of one that is not durable, and refuse a store that nobody put back; or a kill while the witness
    is written damage it."""
    chance = random.Random(4)
    for turn in range(6):
        folder = tmp_path / str(turn)
        folder.mkdir()
        copies, witness = SqliteCopies(folder), f"{kind}{folder}/seen"
        child = Child(copies, witness, 0)
        before = chance.randrange(4)
        child.order("commit", before)
        child.order("copy")
        child.answers(before + 1)
        child.order("commit", 400)
        child.answers(chance.randrange(1, 12))
        child.kill()
        told = seen(witness, child.history)
        assert told is not None
        assert told >= child.commits
        with open_device(copies.url, witness=witness, witness_delay=0) as device:
            assert at(device) >= told
            put(device)
        copies.put_back("old")
        for read_only in (False, True):
            with pytest.raises(StoreRewound):
                open_device(copies.url, read_only=read_only, witness=witness)


def test_default_what_was_told_is_known(tmp_path: Path) -> None:
    """In the default form more would be unknown after a crash than the commits that were not told
    yet; or a store that nobody put back be refused."""
    chance = random.Random(5)
    found = 0
    for turn in range(6):
        folder = tmp_path / str(turn)
        folder.mkdir()
        copies, witness = SqliteCopies(folder), f"{folder}/seen"
        child = Child(copies, witness, 0.02)
        child.order("commit", 3)
        child.order("copy")
        child.answers(4)
        copied = child.commits
        if turn % 2:
            child.order("commit", 2)
            child.answers(2)
            until(partial(knows_all, witness, child))
        child.order("commit", 400)
        child.answers(chance.randrange(60))
        child.kill()
        told = seen(witness, child.history)
        assert told is not None
        shutil.copytree(folder, saved := tmp_path / f"{turn} as it was")
        with open_device(f"sqlite:{saved}/watched.db", witness=f"{saved}/seen") as device:
            assert at(device) >= told
            assert at(device) >= child.commits
        copies.put_back("old")
        if told > copied:
            found += 1
            with pytest.raises(StoreRewound):
                open_device(copies.url, witness=witness)
        else:
            assert turn % 2 == 0  # those that were told are known
            open_device(copies.url, witness=witness).close()
    assert found >= 3


def test_what_was_not_told_is_not_found(tmp_path: Path) -> None:
    """The page says that commits within the delay before a crash are not known: it would promise
    too little, or this test nothing."""
    copies, witness = SqliteCopies(tmp_path), tmp_path / "seen"
    child = Child(copies, str(witness), 3600)
    child.order("copy")
    child.order("commit", 5)
    child.answers(6)
    child.kill()
    assert seen(witness, child.history) == 1
    copies.put_back("old")
    commits(copies.url, witness, 1)


def test_two_processes_of_one_witness(tmp_path: Path) -> None:
    """One of two processes would write over what the other has told, or wait for it for ever."""
    places = [SqliteCopies(tmp_path / name) for name in "ab"]
    for place in places:
        place.folder.mkdir()
    children = [Child(place, f"{tmp_path}/seen", 0) for place in places]
    for child in children:
        child.order("commit", 60)
    for child in children:
        child.answers(60)
    for child in children:
        child.kill()
    for place, child in zip(places, children, strict=True):
        with open_device(place.url, read_only=True) as device:
            assert known(tmp_path / "seen", device) == child.commits == at(device) == 61
