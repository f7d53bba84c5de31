"""Worker processes whose devices commit at random, and one whose devices do nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.data import ROOT
from benchmarks.measure import Spread, say
from benchmarks.workloads import Field

from .building import build_devices
from .found import Idle, Load
from .server import Database, Server

# Leases that an idle worker is watched for.
_LEASES = 2
_TELLING = 1.5
# How often connections are counted.
_LOOK = 0.2
_SIZE = "SELECT pg_total_relation_size('ratchetkeep.records')"


class Child:
    """A worker process; its first answer says what its devices took."""

    def __init__(self, url: str, devices: range, tasks: int, sessions: int) -> None:
        numbers = [devices.start, len(devices), tasks, sessions]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.fleet.worker", url, *map(str, numbers)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        self.count = len(devices)
        self.opened: dict[str, Any] = {}

    def tell(self, line: str) -> None:
        """Have it commit for so many seconds."""
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The next answer."""
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with exit code {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        """End it. It gives nothing back: its database is not used any more."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def working(
    database: Database, every: Sequence[range], tasks: int, sessions: int
) -> Iterator[list[Child]]:
    """Workers that have opened their devices.

    :param every: the devices of each.
    :param tasks: that commit at the same time in all of them together.
    """
    with ExitStack() as stack:
        children = []
        for devices in every:
            child = Child(database.url, devices, max(1, tasks // len(every)), sessions)
            stack.callback(child.end)
            children.append(child)
        for child in children:
            child.opened = child.answer()
        yield children


def loads(field: Field, server: Server) -> list[Load]:
    """Each load of the scale."""
    found = []
    budget = field.scale.budget("postgresql load") / len(field.scale.fleets)
    for workers, devices in field.scale.fleets:
        say(f"measuring: postgresql load, {devices:,} devices in {workers} workers")
        start = time.monotonic()
        found.append(_load(field, server, workers, devices, max(0.2, budget)))
        field.turn_seconds += time.monotonic() - start
    return found


def _load(field: Field, server: Server, workers: int, devices: int, seconds: float) -> Load:
    sessions, database = field.scale.sessions, server.new_database()
    start = time.monotonic()
    build_devices(database, field.data, devices, sessions)
    built = time.monotonic() - start
    (before,) = database.numbers(_SIZE)
    share = devices // workers
    every = [range(first, first + share) for first in range(0, share * workers, share)]
    with working(database, every, field.scale.tasks, sessions) as children:
        mark = server.mark()
        answers, connections = _run(children, server, database, seconds)
        spent = server.mark().since(mark)
    (after,) = database.numbers(_SIZE)
    times = [each for answer in answers for each in answer["times"]]
    opened = [child.opened for child in children]
    count = len(times)
    found = Load(
        workers=workers,
        devices=share * workers,
        sessions=sessions,
        build_seconds=built,
        open_seconds=max(each["seconds"] for each in opened),
        rate=count / seconds,
        times=Spread.of(times),
        idle_bytes=sum((each["bytes"] - each["base"]) / share for each in opened) / workers,
        busy_bytes=sum(
            (answer["bytes"] - each["base"]) / share
            for answer, each in zip(answers, opened, strict=True)
        )
        / workers,
        base_bytes=sum(each["base"] for each in opened) / workers,
        connections=connections,
        worker_seconds=sum(answer["seconds"] for answer in answers) / count,
        server_seconds=spent.seconds / count,
        wal=spent.wal / count,
        updates=count / (share * workers * sessions),
        records_bytes=before,
        grown_bytes=after,
    )
    database.drop()
    return found


def _run(
    children: Sequence[Child], server: Server, database: Database, seconds: float
) -> tuple[list[dict[str, Any]], int]:
    """Have all of them work; their answers, and the most connections that there were."""
    most = 0
    done = threading.Event()

    def look() -> None:
        nonlocal most
        while not done.wait(_LOOK):
            most = max(most, server.connections(database.name))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for child in children:
            child.tell(f"{seconds}")
        answers = [child.answer() for child in children]
        most = max(most, server.connections(database.name))
    finally:
        done.set()
        looking.join()
    return answers, most


def idle(field: Field, server: Server) -> Idle:
    """What a worker costs the server whose devices do nothing."""
    scale = field.scale
    say(f"measuring: postgresql, {scale.idle:,} idle devices for {_LEASES} leases")
    database = server.new_database(lease=scale.lease)
    build_devices(database, field.data, scale.idle, scale.sessions)
    with working(database, [range(scale.idle)], 1, scale.sessions):
        # A connection tells what it did when it does something next, a second after it told before.
        time.sleep(scale.lease + _TELLING)
        start, before = time.monotonic(), server.transactions(database.name)
        time.sleep(_LEASES * scale.lease)
        done = server.transactions(database.name) - before
        seconds = time.monotonic() - start
    database.drop()
    return Idle(devices=scale.idle, lease=scale.lease, seconds=seconds, transactions=done)
