"""What the tests of fleets share: databases with devices, workers in this process and in others."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import psycopg

import pgserver
from ratchetkeep import AsyncDevice, open_store
from ratchetkeep.fleet import Fleet
from ratchetkeep.stores import urls
from ratchetkeep.stores._postgres_hub import Hub
from ratchetkeep.stores.postgres import PostgresStore

P = ParamSpec("P")

PROGRAM = Path(__file__).with_name("_fleet_worker.py")
# What takes longer hangs. No test that passes waits for it.
PATIENCE = 100
# A lease that nobody waits for in a test.
LONG = 200
POLL = 0.05


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test that runs in an event loop."""

    @wraps(test)
    def run(*arguments: P.args, **named: P.kwargs) -> None:
        asyncio.run(test(*arguments, **named))

    return run


def names(count: int) -> list[str]:
    """The names of the devices of :func:`filled`."""
    return [f"device {number}" for number in range(count)]


def filled(server: pgserver.Server, count: int) -> str:
    """The URL of a new database with so many devices."""
    url = server.new_database()
    with open_store(url) as store:
        for name in names(count):
            store.create(name).close()
        if not count:
            store.create().close()
            store.remove()
    return url


def asked(url: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """What the database answers."""
    with psycopg.connect(url.partition("&lease")[0]) as connection:
        cursor = connection.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []


def owned(url: str) -> int:
    """How many devices have an owner, dead or alive."""
    ((count,),) = asked(url, "SELECT count(owner) FROM ratchetkeep.devices")
    return int(count)


def as_worker(url: str, number: int, lease: float = LONG) -> str:
    """A URL that stands for a process of its own: what a process shares depends on its URL."""
    return f"{url}&lease={lease}&connections={4 + number}"


@contextmanager
def hub_of(url: str) -> Iterator[Hub]:
    """A process's hub, as a fleet has it."""
    store = urls.open_target(urls.parse(url))
    assert isinstance(store, PostgresStore)
    hub = store.hub()
    assert hub is not None
    try:
        yield hub
    finally:
        store.close()


class Board:
    """Who serves which device, by all workers that are told of it.

    :ivar serves: worker by device.
    :ivar told: what workers were told of, by device.
    :ivar twice: devices that two workers served at the same moment.
    """

    def __init__(self) -> None:
        self.serves: dict[str, str] = {}
        self.told: list[tuple[str, BaseException]] = []
        self.twice: list[str] = []
        self._changed = asyncio.Event()

    def note(self) -> None:
        """Something has changed."""
        self._changed.set()

    def begins(self, worker: str, name: str) -> None:
        """A worker serves a device."""
        if name in self.serves:
            self.twice.append(name)
        self.serves[name] = worker
        self.note()

    def ends(self, worker: str, name: str) -> None:
        """It no longer does."""
        if self.serves.get(name) == worker:
            del self.serves[name]
        self.note()

    def shares(self) -> list[int]:
        """How many devices each worker serves that serves any; sorted."""
        return sorted(Counter(self.serves.values()).values())

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something is so."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"it never was; {self.shares()}, {self.told}") from None

    def serve_as(self, worker: str) -> Callable[[AsyncDevice], Awaitable[None]]:
        """What a worker serves devices with."""

        async def serve(device: AsyncDevice) -> None:
            self.begins(worker, device.name)
            try:
                await asyncio.Event().wait()
            finally:
                self.ends(worker, device.name)

        return serve

    def tell(self, name: str, error: BaseException) -> None:
        """What workers are to call with errors."""
        self.told.append((name, error))
        self.note()

    def kinds_told(self) -> set[tuple[str, str]]:
        """Of which devices what was told."""
        return {(name, type(error).__name__) for name, error in self.told}


@asynccontextmanager
async def working(
    board: Board,
    url: str,
    worker: str = "a",
    serve: Callable[[AsyncDevice], Awaitable[None]] | None = None,
    **settings: Any,
) -> AsyncIterator[Fleet]:
    """A worker in this process, which is stopped at the end of the block."""
    settings = {"poll": POLL, "on_error": board.tell, **settings}
    fleet = Fleet(url, serve or board.serve_as(worker), **settings)
    run = asyncio.create_task(fleet.run())
    run.add_done_callback(lambda _: board.note())
    try:
        yield fleet
    finally:
        fleet.stop()
        async with asyncio.timeout(PATIENCE):
            await run


class Polls:
    """Counts the polls of a worker."""

    def __init__(self, fleet: Fleet, board: Board) -> None:
        self.count = 0
        poll = fleet._poll

        async def counted() -> bool:
            is_more = await poll()
            self.count += 1
            board.note()
            return is_more

        fleet._poll = counted  # type: ignore[method-assign]


class Program:
    """A worker in a process of its own, which tells the board what it serves.

    :ivar said: all that it printed.
    """

    def __init__(self, board: Board, worker: str, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[str] = []
        self._board, self._worker = board, worker
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.said.append(line.decode().rstrip())
            word, _, name = self.said[-1].partition(" ")
            if word == "serves":
                self._board.begins(self._worker, name)
            elif word == "ended":
                self._board.ends(self._worker, name)
            self._board.note()

    async def kill(self) -> None:
        """End it without a word."""
        self.process.kill()
        await self.result()
        for name, worker in list(self._board.serves.items()):
            if worker == self._worker:
                self._board.ends(worker, name)

    async def result(self) -> int:
        """Wait for its end; its exit code."""
        async with asyncio.timeout(PATIENCE):
            await self._reading
            return await self.process.wait()


@asynccontextmanager
async def program(board: Board, url: str, worker: str) -> AsyncIterator[Program]:
    """A worker in a process of its own, killed at the end of the block if it runs still."""
    command = [sys.executable, str(PROGRAM), url]
    started = Program(
        board,
        worker,
        await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE),
    )
    try:
        yield started
    finally:
        if started.process.returncode is None:
            started.process.kill()
        await started.result()
