"""Many who commit at the same time, each of them a device of its own."""

from __future__ import annotations

import asyncio
import importlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

from benchmarks.committers import Rates, contents_of
from benchmarks.data import Change, Data, address
from benchmarks.measure import Spread, say
from benchmarks.peers.postgres import BARE_PUT, BARE_TABLE
from benchmarks.workloads import Field
from ratchetkeep import AsyncDevice, Device, open_store

from .building import build_devices, name_of
from .server import Database, Server

POOL = 16
"""Connections of the bare driver's pool."""
_REPEATS = 5
# Commits that each committer makes before anything is timed.
_FIRST = 3

Commit = Callable[[int, int], object]
"""Has a committer make its next commit: which one it is, and how many it has made."""


class Crowd(ABC):
    """Something with a device for each of ``workers`` committers.

    :cvar name: how it is called in the tables.
    """

    name: str

    def __init__(self, data: Data, workers: int) -> None:
        self.data = data
        self.workers = workers

    @abstractmethod
    def open(self) -> None:
        """Make the devices and open them."""

    @abstractmethod
    def close(self) -> None:
        """Close them."""

    @abstractmethod
    def rate(self, workers: int, seconds: float) -> float:
        """Commits per second of so many of them."""


class Ours(Crowd):
    """Devices of one of our stores, one for each thread."""

    def __init__(self, data: Data, workers: int, url: str) -> None:
        super().__init__(data, workers)
        self.url = url
        self.devices: list[Device] = []
        self.contents = [contents_of(data, worker) for worker in range(workers)]

    def open(self) -> None:
        self._stack = ExitStack()
        store = self._stack.enter_context(open_store(self.url))
        if "postgresql" not in self.url:
            for worker in range(self.workers):
                store.create(name_of(worker)).close()
        self.devices = [store.open(name_of(worker)) for worker in range(self.workers)]

    def close(self) -> None:
        self._stack.close()

    def change(self, worker: int, count: int) -> dict[str, dict[str, Any]]:
        """What ``set`` takes for a committer's next commit."""
        contents = self.contents[worker]
        return {"session": {address(0): contents[count % len(contents)]}}

    def commit(self, worker: int, count: int) -> None:
        """A committer's next commit."""
        self.devices[worker].set(self.change(worker, count))

    def rate(self, workers: int, seconds: float) -> float:
        return with_threads(self.commit, workers, seconds)


class OursAwaited(Ours):
    """The same, one for each task."""

    def __init__(self, data: Data, workers: int, url: str) -> None:
        super().__init__(data, workers, url)
        self._faces: list[AsyncDevice] = []

    def open(self) -> None:
        super().open()
        self._runner = asyncio.Runner()
        self._faces = [AsyncDevice(device) for device in self.devices]

    def close(self) -> None:
        self._runner.close()
        super().close()

    async def commit_awaited(self, worker: int, count: int) -> None:
        """A committer's next commit."""
        await self._faces[worker].set(self.change(worker, count))

    def rate(self, workers: int, seconds: float) -> float:
        return self._runner.run(with_tasks(self.commit_awaited, workers, seconds))


class BarePool(Crowd):
    """Threads that share a pool of the bare driver's connections, a transaction for each commit."""

    name = f"bare psycopg_pool of {POOL}, threads"

    def __init__(self, data: Data, workers: int, database: Database) -> None:
        super().__init__(data, workers)
        self._database = database
        self._ids = [uuid4() for _ in range(workers)]

    def open(self) -> None:
        with self._database.connect() as connection:
            connection.execute(BARE_TABLE)
        pool = importlib.import_module("psycopg_pool").ConnectionPool
        size = {"min_size": POOL, "max_size": POOL}
        url = self._database.libpq
        self._pool = pool(url, kwargs={"autocommit": True}, open=True, **size)
        self._pool.wait()

    def close(self) -> None:
        self._pool.close()

    def commit(self, worker: int, count: int) -> None:
        """A committer's next commit."""
        ((key, data),) = self.data.rows(Change(sessions=((0, worker + count),))).items()
        with self._pool.connection() as connection:
            connection.execute(BARE_PUT, (self._ids[worker], *key, data), prepare=True)

    def rate(self, workers: int, seconds: float) -> float:
        return with_threads(self.commit, workers, seconds)


def with_threads(commit: Commit, workers: int, seconds: float) -> float:
    """Commits per second of so many threads."""
    counts = [0] * workers
    starting = threading.Barrier(workers + 1)
    end = 0.0

    def run(worker: int) -> None:
        starting.wait()
        while time.perf_counter() < end:
            commit(worker, counts[worker])
            counts[worker] += 1

    threads = [threading.Thread(target=run, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    start = time.perf_counter()
    end = start + seconds
    starting.wait()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


async def with_tasks(
    commit: Callable[[int, int], Awaitable[None]], workers: int, seconds: float
) -> float:
    """Commits per second of so many tasks."""
    counts = [0] * workers
    start = time.perf_counter()
    end = start + seconds

    async def run(worker: int) -> None:
        while time.perf_counter() < end:
            await commit(worker, counts[worker])
            counts[worker] += 1

    await asyncio.gather(*(run(worker) for worker in range(workers)))
    return sum(counts) / (time.perf_counter() - start)


def crowds(field: Field, server: Server) -> dict[str, dict[str, Spread]]:
    """One and many committers in turn; a spread is of commits per second."""
    say("measuring: postgresql committers")
    start = time.monotonic()
    with ExitStack() as stack:
        every = _crowds(field, server)
        for crowd in every:
            crowd.open()
            stack.callback(crowd.close)
            crowd.rate(crowd.workers, _FIRST * 0.05)
        found = _alternate(every, field.scale.budget("postgresql committers"))
    field.turn_seconds += time.monotonic() - start
    return found


def _crowds(field: Field, server: Server) -> list[Crowd]:
    data, workers = field.data, field.scale.workers
    every: list[Crowd] = []
    for kind, suffix in ((Ours, "threads"), (OursAwaited, "tasks")):
        database = server.new_database()
        build_devices(database, data, workers, sessions=1)
        every += [kind(data, workers, database.url), kind(data, workers, _file(field, suffix))]
        for crowd, store in zip(every[-2:], ("postgresql", "sqlite"), strict=True):
            crowd.name = f"ratchetkeep {store}:, {suffix}"
    return [*every, BarePool(data, workers, server.new_database())]


def _file(field: Field, suffix: str) -> str:
    folder = Path(field.folder / f"crowd of {suffix}")
    folder.mkdir()
    return f"sqlite:{folder / 'devices.db'}"


def _alternate(every: list[Crowd], budget: float) -> dict[str, dict[str, Spread]]:
    seconds = max(0.02, budget / (2 * _REPEATS * len(every)))
    rates = {crowd.name: Rates() for crowd in every}
    for _ in range(_REPEATS):
        for crowd in every:
            rates[crowd.name].one.append(crowd.rate(1, seconds))
            rates[crowd.name].many.append(crowd.rate(crowd.workers, seconds))
    return {
        name: {"one": Spread.of(found.one), "many": Spread.of(found.many)}
        for name, found in rates.items()
    }
