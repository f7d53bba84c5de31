"""Workers of a fleet that die, are restarted, or lose their database for a while."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest

import pgserver
from _fleet import (
    Board,
    as_worker,
    asked,
    filled,
    in_loop,
    names,
    program,
    working,
)
from ratchetkeep import (
    AsyncDevice,
    StoreUnreadable,
    open_device,
    open_store,
)
from ratchetkeep.fleet import Fleet


@pytest.fixture(scope="module")
def server() -> Iterator[pgserver.Server]:
    with pgserver.running() as server:
        yield server


@in_loop
async def test_a_killed_worker(server: pgserver.Server) -> None:
    """What a worker had that was killed would never be served again."""
    url, board = filled(server, 8), Board()
    async with program(board, as_worker(url, 1, lease=1), "killed") as other:
        await board.until(lambda: board.shares() == [8])
        async with working(board, as_worker(url, 2, lease=1), "a"):
            await board.until(lambda: board.shares() == [4, 4])
            await other.kill()
            await board.until(lambda: board.shares() == [8])
    assert (set(board.serves), board.told) == (set(), [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@in_loop
async def test_a_signal_drains(server: pgserver.Server, number: signal.Signals) -> None:
    """At each rolling restart, devices would wait for the end of a lease, or lose what their tasks
    commit at the end."""
    url, board = filled(server, 6), Board()
    async with (
        program(board, as_worker(url, 1), "ending") as ending,
        working(board, as_worker(url, 2), "a"),
    ):
        await board.until(lambda: board.shares() == [3, 3])
        theirs = [name for name, worker in board.serves.items() if worker == "ending"]
        ending.process.send_signal(number)
        # The lease is longer than the test waits.
        assert await ending.result() == 0
        assert ending.said[-1] == "done"
        assert not [line for line in ending.said if line.startswith("error")]
        await board.until(lambda: board.shares() == [6])
        assert board.twice == []
    for name in theirs:
        with open_device(f"{url}&device={name}") as device:
            assert device.get("lid-mapping", ["ended"]) == {"ended": name}
    assert asked(url, "SELECT count(*) FROM ratchetkeep.owners") == [(0,)]


@in_loop
async def test_processes_that_start_together(server: pgserver.Server) -> None:
    """Workers that claim at the same moment would take the same devices, or leave some."""
    url, board = filled(server, 30), Board()
    urls = [as_worker(url, 1) for _ in range(3)]
    async with (
        program(board, urls[0], "a"),
        program(board, urls[1], "b"),
        program(board, urls[2], "c"),
    ):
        await board.until(lambda: board.shares() == [10, 10, 10])
    assert board.twice == []


@pytest.mark.parametrize("mode", pgserver.MODES)
@in_loop
async def test_the_database_is_restarted(server: pgserver.Server, mode: pgserver.Mode) -> None:
    """A restart of the database that is shorter than the lease would cost connections, or end the
    worker, or stop it from claiming."""
    url, board, cancelled = filled(server, 4), Board(), []
    devices: dict[str, AsyncDevice] = {}

    async def serve(device: AsyncDevice) -> None:
        devices[device.name] = device
        try:
            await board.serve_as("a")(device)
        finally:
            cancelled.append(device.name)

    async with working(board, as_worker(url, 1), "a", serve):
        await board.until(lambda: len(board.serves) == 4)
        server.restart(mode)
        await asyncio.gather(*[each.set({"lid-mapping": {"x": "y"}}) for each in devices.values()])
        with open_store(url) as store:
            store.create("new").close()
        await board.until(lambda: "new" in board.serves)
        assert cancelled == []


@in_loop
async def test_an_outage_longer_than_the_lease(server: pgserver.Server) -> None:
    """After a long outage the devices would belong to a worker that does not serve them."""
    url, board = filled(server, 4), Board()
    async with (
        working(board, as_worker(url, 1, lease=1), "a"),
        working(board, as_worker(url, 2, lease=1), "b"),
    ):
        await board.until(lambda: board.shares() == [2, 2])
        server.stop()
        try:
            await board.until(lambda: not board.serves)
        finally:
            server.start()
        lost = {(name, "OwnershipLost") for name in names(4)}
        await board.until(lambda: lost <= board.kinds_told())
        await board.until(lambda: board.shares() == [2, 2])
    assert board.twice == []


@in_loop
async def test_lost_devices_of_a_living_owner(server: pgserver.Server) -> None:
    """Devices whose lease was over for the worker, and not for the database, would be the worker's
    for ever, and be served by nobody."""
    url, board = filled(server, 3), Board()
    async with working(board, as_worker(url, 1)) as fleet:
        await board.until(lambda: len(board.serves) == 3)
        hub = fleet._store.hub()
        assert hub is not None
        hub.expire()
        await board.until(lambda: len(board.told) == 3)
        await board.until(lambda: len(board.serves) == 3)
    assert board.twice == []


@in_loop
async def test_stopping_while_the_database_is_gone(server: pgserver.Server) -> None:
    """A worker would not end during an outage, and be killed with its tasks under way."""
    url, board = filled(server, 4), Board()
    async with working(board, as_worker(url, 1, lease=2), "a") as fleet:
        await board.until(lambda: len(board.serves) == 4)
        server.stop()
        try:
            fleet.stop()
            await board.until(lambda: not board.serves)
            await board.until(lambda: not fleet.devices)
        finally:
            server.start()


@in_loop
async def test_an_outage_is_told_once(server: pgserver.Server) -> None:
    """A worker would fill the log while the database is away, or say nothing."""
    url, board = filled(server, 1), Board()
    async with working(board, as_worker(url, 1, lease=2), "a") as fleet:
        await board.until(lambda: board.serves)
        server.stop()
        try:
            await board.until(lambda: not board.serves)
            polls = asyncio.Event()
            wait = fleet._wait

            async def counted() -> None:
                await wait()
                polls.set()

            fleet._wait = counted  # type: ignore[method-assign]
            for _ in range(2):
                polls.clear()
                await polls.wait()
        finally:
            server.start()
        await board.until(lambda: board.serves)
        assert [name for name, _ in board.told].count("") == 1


@in_loop
async def test_a_database_that_was_never_there(server: pgserver.Server) -> None:
    """A wrong URL would look like a fleet without devices."""
    fleet = Fleet(server.url("nowhere"), Board().serve_as("a"))
    with pytest.raises(StoreUnreadable):
        await fleet.run()
