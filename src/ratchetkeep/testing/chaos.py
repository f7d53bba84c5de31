"""Everything that can go wrong, in turn, until the time is over.

``python -m ratchetkeep.testing.chaos --minutes 5 [--seed N] [--stores sqlite,baileys]``: kills at
random moments and at system calls, power cuts, damaged copies, races for ownership. It ends with a
table, and with exit code 1 at a breach of a promise, whose folder it keeps.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ratchetkeep.device import open_device
from ratchetkeep.errors import NoDevice, RatchetkeepError
from ratchetkeep.model import Credentials
from ratchetkeep.stores.base import Store
from ratchetkeep.stores.directory import DirectoryStore
from ratchetkeep.stores.sqlite import SqliteStore
from ratchetkeep.testing._samples import Holds
from ratchetkeep.verify import verify_device

from .faults._worker import Course, Records, records_of
from .faults.disk import SimulatedDisk
from .faults.kill import Breach, KilledDevice, Killer
from .faults.powercut import NotSurvived, PowerCuts, closing
from .faults.sqlite import MirroredVFS
from .strategies import BAILEYS, BAILEYSEX, BAILEYSEX_JSON, NATIVE

STORES: dict[str, Holds] = {
    "sqlite": NATIVE,
    "baileys": BAILEYS,
    "baileysex": BAILEYSEX,
    "baileysex-json": BAILEYSEX_JSON,
}
RIVALS = 3
KILLS_A_ROUND = 4
BREACHES = ("torn", "lost", "failed", "unclean")
DONE = {
    "rounds": "rounds",
    "kills": "kills",
    "opened": "opened after kills",
    "acknowledged": "commits acknowledged",
    "cuts": "opened after power cuts",
    "damaged": "damaged copies",
}


@dataclass
class Score:
    """What was done to one store, and what broke."""

    rounds: int = 0
    kills: int = 0
    opened: int = 0
    acknowledged: int = 0
    cuts: int = 0
    damaged: int = 0
    breaches: dict[str, int] = field(default_factory=lambda: dict.fromkeys(BREACHES, 0))


class Victim:
    """One store with the device that lives through all rounds."""

    def __init__(self, kind: str, folder: Path, killers: Sequence[Killer]) -> None:
        self.kind = kind
        self.folder = folder
        self.score = Score()
        self.holds = STORES[kind]
        self._killers = killers
        self._begin()
        self.rounds: list[Callable[[random.Random], None]] = [
            self._random_kills,
            self._call_kills,
            self._power_cuts,
            self._damage,
            self._race,
        ]

    def _begin(self) -> None:
        place = Path(tempfile.mkdtemp(dir=self.folder, prefix=f"{self.kind}-"))
        self.path = place / ("device.db" if self.kind == "sqlite" else "device")
        self.url = f"{self.kind}:{self.path}"
        self.device = KilledDevice(self._killers[0], self.url, holds=self.holds)

    def run(self, number: int, seed: int) -> None:
        """One round.

        :raises NotSurvived: at a breach.
        """
        rng = random.Random(f"{seed} {self.kind} {number}")
        for killer in self._killers:
            killer.rng.seed(rng.random())
        self.score.rounds += 1
        try:
            self.rounds[number % len(self.rounds)](rng)
        except NotSurvived as breach:
            self.score.breaches[breach.kind if isinstance(breach, Breach) else "torn"] += 1
            raise
        finally:
            tally = self.device.tally
            self.score.kills, self.score.opened = tally.kills, tally.opened
            self.score.acknowledged = tally.acknowledged

    def _random_kills(self, rng: random.Random) -> None:
        for _ in range(KILLS_A_ROUND):
            self.device.kill(self._killers[0].random_moment(), is_checked=rng.random() < 0.8)
        self.device.check()

    def _call_kills(self, rng: random.Random) -> None:
        killer = self._killers[0]
        for _ in range(KILLS_A_ROUND):
            if rng.random() < 0.2:
                self.device.kill_opening(killer.moment_at())
            else:
                self.device.kill(killer.moment_at(), is_checked=rng.random() < 0.8)
        self.device.check()

    def _race(self, rng: random.Random) -> None:
        self.device.race(self._killers)

    def _power_cuts(self, rng: random.Random) -> None:
        base = Credentials.new()
        course = Course(base, self.holds)
        # Short runs from anywhere in the course; the commit of many pre-keys has its own tests.
        first = rng.choice([1, 17, 30])
        cuts = PowerCuts(
            lambda disk: _running(self.kind, disk),
            lambda disk: _after(self.kind, disk),
            [course.commit(number) for number in range(first, first + rng.randint(2, 5))],
            credentials=base,
            between=lambda store, _: _follow(store) if rng.random() < 0.5 else None,
            per_step=4,
            every=rng.randint(1, 3),
            seed=rng.randrange(2**32),
        )
        self.score.cuts += cuts.run().states

    def _damage(self, rng: random.Random) -> None:
        with open_device(self.url, read_only=True) as device:
            expected = records_of(device)
        for _ in range(KILLS_A_ROUND):
            self.score.damaged += 1
            self._damage_one(rng, expected)

    def _damage_one(self, rng: random.Random, expected: Records) -> None:
        with tempfile.TemporaryDirectory(dir=self.folder) as above:
            copy = Path(above, self.path.name)
            if self.path.is_dir():
                shutil.copytree(self.path, copy)
                victim = rng.choice(sorted(copy.iterdir()))
            else:
                shutil.copy(self.path, copy)
                victim = copy
            what = _harm(victim, rng)
            absent = _silently_absent(f"{self.kind}:{copy}", expected)
            if absent:
                shutil.copytree(above, self.folder / "damaged")
                raise Breach("lost", f"{what} of {victim.name}: {absent}")


def _harm(path: Path, rng: random.Random) -> str:
    """Flip a bit or cut the end off, in the way that a bad disk or a full one does."""
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    if rng.random() < 0.5:
        data[at] ^= 1 << rng.randrange(8)
        what = f"a flipped bit in byte {at}"
    else:
        del data[at:]
        what = f"the loss of all from byte {at}"
    path.write_bytes(bytes(data))
    return what


def _silently_absent(url: str, expected: Records) -> str:
    """Whether something is missing without an error of ours or a finding; "" if not. A value that
    changed and still reads is no matter here: the folders of other libraries have no checksums."""
    try:
        with open_device(url) as device:
            found = records_of(device)
        findings = [each for each in verify_device(url) if each.severity != "info"]
    except NoDevice as error:
        return f"damage was taken for absence: {error}"
    except RatchetkeepError:
        return ""
    except Exception as error:  # noqa: BLE001 - an error that is not ours is what is looked for
        return f"{type(error).__name__}: {error}"
    gone = [
        f"{family} {id}"
        for family, members in expected.items()
        for id in members
        if id not in found.get(family, {})
    ]
    return f"{gone[0]} is gone, and nothing is said" if gone and not findings else ""


# -- stores over a simulated disk


def _follow(store: Store) -> None:
    if isinstance(store, DirectoryStore):
        store.follow()


def _running(kind: str, disk: SimulatedDisk) -> AbstractContextManager[Store]:
    return _sqlite_running(disk) if kind == "sqlite" else _folder(kind, disk)


def _after(kind: str, disk: SimulatedDisk) -> AbstractContextManager[Store]:
    return _sqlite_after(disk) if kind == "sqlite" else _folder(kind, disk)


@contextmanager
def _folder(kind: str, disk: SimulatedDisk) -> Iterator[Store]:
    if not disk.is_folder("/device"):
        disk.make_folder("/device")
    with closing(DirectoryStore(kind, "/device", disk, background=False)) as store:
        yield store


@contextmanager
def _sqlite_running(disk: SimulatedDisk) -> Iterator[Store]:
    with (
        tempfile.TemporaryDirectory() as above,
        MirroredVFS(disk) as vfs,
        closing(SqliteStore(f"{above}/device.db", vfs=vfs.name)) as store,
    ):
        yield store


@contextmanager
def _sqlite_after(disk: SimulatedDisk) -> Iterator[Store]:
    with tempfile.TemporaryDirectory() as above:
        for path, data in disk.files().items():
            Path(above, path[1:]).write_bytes(data)
            Path(above, path[1:]).chmod(0o600)
        with closing(SqliteStore(f"{above}/device.db")) as store:
            yield store
        disk.replace_all({f"/{path.name}": path.read_bytes() for path in Path(above).iterdir()})


# -- the run


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ratchetkeep.testing.chaos")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long to go on")
    parser.add_argument("--rounds", type=int, help="how many rounds a store, instead")
    parser.add_argument("--first", type=int, default=0, help="number of the first round")
    parser.add_argument("--seed", type=int, help="of everything random")
    parser.add_argument("--stores", default=",".join(STORES), help="which, with commas between")
    parsed = parser.parse_args(arguments)
    parsed.stores = parsed.stores.split(",")
    unknown = sorted(set(parsed.stores) - set(STORES))
    if unknown:
        parser.error(f"no such store: {unknown[0]}; there are {', '.join(STORES)}")
    if parsed.seed is None:
        parsed.seed = random.SystemRandom().randrange(10**6)
    return parsed


def _table(victims: Sequence[Victim]) -> Table:
    table = Table("", title="Summary")
    for victim in victims:
        table.add_column(victim.kind, justify="right")
    for name in DONE:
        table.add_row(DONE[name], *(f"{getattr(each.score, name):,}" for each in victims))
    table.add_section()
    for name in BREACHES:
        table.add_row(f"{name} (must be 0)", *(str(each.score.breaches[name]) for each in victims))
    return table


def _run(victims: Sequence[Victim], wanted: argparse.Namespace, console: Console) -> bool:
    """Round after round; True if nothing broke."""
    deadline = time.monotonic() + 60 * wanted.minutes
    number = wanted.first
    while number < wanted.first + wanted.rounds if wanted.rounds else time.monotonic() < deadline:
        for victim in victims:
            try:
                victim.run(number, wanted.seed)
            except NotSurvived as breach:
                again = f"--stores {victim.kind} --seed {wanted.seed} --first {number} --rounds 1"
                console.print(f"BREACH in round {number}: {breach}", style="bold red", markup=False)
                console.print(
                    f"Kept: {victim.folder}\nTo try it again (kills depend on the machine's timing,"
                    f" so perhaps often, or with more rounds):\n"
                    f"  python -m ratchetkeep.testing.chaos {again}",
                    markup=False,
                    soft_wrap=True,
                )
                return False
        number += 1
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit code."""
    wanted = _parsed(arguments)
    console = Console()
    console.print(f"Seed {wanted.seed}, stores {', '.join(wanted.stores)}")
    folder = Path(tempfile.mkdtemp(prefix="ratchetkeep-chaos-"))
    with ExitStack() as stack:
        killers = [stack.enter_context(Killer()) for _ in range(RIVALS)]
        victims = [Victim(kind, folder, killers) for kind in wanted.stores]
        survived = _run(victims, wanted, console)
    console.print(_table(victims))
    if survived:
        shutil.rmtree(folder)
    return 0 if survived else 1


if __name__ == "__main__":
    sys.exit(main())
