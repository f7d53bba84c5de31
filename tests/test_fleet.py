"""Workers of a fleet on a real server: who serves what, when workers come, go and fail."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterator

import pytest

import pgserver
from _fleet import (
    LONG,
    PATIENCE,
    Board,
    Polls,
    as_worker,
    asked,
    filled,
    in_loop,
    owned,
    working,
)
from ratchetkeep import (
    AsyncDevice,
    InvalidValue,
    OwnershipLost,
    RatchetkeepError,
    open_device,
    open_store,
)
from ratchetkeep._fleet_pauses import Pauses
from ratchetkeep.fleet import Fleet, Unfinished
from ratchetkeep.stores import _postgres_rows as rows


@pytest.fixture(scope="module")
def server() -> Iterator[pgserver.Server]:
    with pgserver.running() as server:
        yield server


@in_loop
async def test_workers_come_and_go(server: pgserver.Server) -> None:
    """A new worker would get nothing to do, or what one leaves would be served by nobody until
    its lease is over; or two workers would serve one device."""
    url, board = filled(server, 20), Board()
    async with working(board, as_worker(url, 1), "a"):
        await board.until(lambda: board.shares() == [20])
        first = set(board.serves)
        async with working(board, as_worker(url, 2), "b"):
            await board.until(lambda: board.shares() == [10, 10])
            async with working(board, as_worker(url, 3), "c"):
                await board.until(lambda: board.shares() == [6, 7, 7])
            await board.until(lambda: board.shares() == [10, 10])
        await board.until(lambda: board.shares() == [20])
        assert set(board.serves) == first
    assert (owned(url), board.twice, board.told) == (0, [], [])


@in_loop
async def test_capacity(server: pgserver.Server) -> None:
    """A worker would take more devices than its machine can serve, or others would not take what
    it cannot."""
    url, board = filled(server, 12), Board()
    async with (
        working(board, as_worker(url, 1), "a", capacity=3),
        working(board, as_worker(url, 2), "b"),
    ):
        await board.until(lambda: board.shares() == [3, 9])


@in_loop
async def test_the_newest_are_given_back(server: pgserver.Server) -> None:
    """Devices that are connected for long would be cut off, and not those that just came."""
    url, board = filled(server, 10), Board()
    async with working(board, as_worker(url, 1), "a") as old:
        await board.until(lambda: board.shares() == [10])
        first = old.devices
        async with working(board, as_worker(url, 2), "b"):
            await board.until(lambda: board.shares() == [5, 5])
            assert old.devices == first[:5]


@in_loop
async def test_no_more_is_given_than_is_taken(server: pgserver.Server) -> None:
    """A worker whose tasks end slowly would cut off all its devices for one that joins, long before
    that one can have them."""
    url, board, cancelled = filled(server, 20), Board(), []
    may_end = asyncio.Event()

    async def serve(device: AsyncDevice) -> None:
        board.begins("a", device.name)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(device.name)
            board.note()
            await may_end.wait()
            board.ends("a", device.name)

    async with working(board, as_worker(url, 1), "a", serve) as fleet:
        await board.until(lambda: board.shares() == [20])
        async with working(board, as_worker(url, 2), "b"):
            await board.until(lambda: cancelled)
            polls = Polls(fleet, board)
            await board.until(lambda: polls.count >= 5)
            assert len(cancelled) == 2
            may_end.set()
            await board.until(lambda: board.shares() == [10, 10])


@in_loop
async def test_devices_that_come_later(server: pgserver.Server) -> None:
    """A worker that is started before there are devices, or tables, would never see any."""
    url, board = server.new_database(), Board()
    async with working(board, as_worker(url, 1)) as fleet:
        polled = asyncio.Event()
        poll = fleet._poll

        async def look() -> bool:
            polled.set()
            return await poll()

        fleet._poll = look  # type: ignore[method-assign]
        await polled.wait()
        with open_store(url) as store:
            store.create("late").close()
        await board.until(lambda: "late" in board.serves)


@in_loop
async def test_moved_devices_are_left_alone(server: pgserver.Server) -> None:
    """A device that goes on elsewhere would be connected a second time from here."""
    url, board = filled(server, 3), Board()
    with open_device(f"{url}&device=device 1") as device:
        device._store.mark_moved("device 1", "sqlite:elsewhere.db")
    async with working(board, as_worker(url, 1)) as fleet:
        await board.until(lambda: len(board.serves) == 2)
        polls = Polls(fleet, board)
        await board.until(lambda: polls.count >= 3)
        assert sorted(board.serves) == ["device 0", "device 2"]
    assert board.told == []


@in_loop
async def test_a_stolen_device(server: pgserver.Server) -> None:
    """The task of a device that somebody took by hand would go on, with a connection that fights
    the new owner's."""
    url, board = filled(server, 3), Board()
    async with working(board, as_worker(url, 1, lease=1)):
        await board.until(lambda: len(board.serves) == 3)
        with open_device(f"{url}&device=device 1", steal=True) as device:
            await board.until(lambda: board.told and "device 1" not in board.serves)
            device.set({"lid-mapping": {"x": "y"}})
        assert board.kinds_told() == {("device 1", "OwnershipLost")}
        await board.until(lambda: "device 1" in board.serves)


@pytest.mark.parametrize("how", ["raises", "returns"])
@in_loop
async def test_a_device_that_cannot_be_served(server: pgserver.Server, how: str) -> None:
    """A device that fails would be tried again at once, for ever; or it would be kept, and no other
    worker could try it; or the other devices would go down with it."""
    url, board, tried = filled(server, 3), Board(), []
    fails = ValueError("of this worker")

    async def serve(device: AsyncDevice) -> None:
        if device.name == "device 1":
            tried.append(device.name)
            if how == "raises":
                raise fails
            return
        await board.serve_as("a")(device)

    async with working(board, as_worker(url, 1), serve=serve) as fleet:
        fleet._pauses = Pauses(3600)
        polls = Polls(fleet, board)
        await board.until(lambda: tried and polls.count >= 5)
        assert tried == ["device 1"]
        assert board.told == ([("device 1", fails)] if how == "raises" else [])
        assert owned(url) == 2
        async with working(board, as_worker(url, 2), "b"):
            await board.until(lambda: board.serves.get("device 1") == "b")
        fleet._pauses = Pauses(0.001)
        await board.until(lambda: len(tried) >= 3)
        assert {"device 0", "device 2"} <= board.serves.keys()


@in_loop
async def test_a_device_that_cannot_be_opened(server: pgserver.Server) -> None:
    """A damaged device, or one of a newer version, would end the worker, be told at each poll, or
    be kept from those who repair it."""
    url, board = filled(server, 4), Board()
    put = "UPDATE ratchetkeep.records SET data = %s WHERE device = %s AND family = 'credentials'"
    asked(url, put, b"damaged", rows.id_of("device 1"))
    asked(url, put, b"\x7f", rows.id_of("device 2"))
    async with working(board, as_worker(url, 1)) as fleet:
        fleet._pauses = Pauses(3600)
        await board.until(lambda: len(board.serves) == 2 and len(board.told) == 2)
        polls = Polls(fleet, board)
        await board.until(lambda: polls.count >= 3)
        assert {name for name, _ in board.told} == {"device 1", "device 2"}
        assert len(board.told) == 2
        assert all(isinstance(error, RatchetkeepError) for _, error in board.told)
        assert owned(url) == 2


@in_loop
async def test_a_task_that_does_not_end(server: pgserver.Server) -> None:
    """A task that ignores its end would keep its device for ever, or go on writing to it beside the
    next worker."""
    url, board = filled(server, 1), Board()
    goes_on, ended = asyncio.Event(), asyncio.Event()
    outcome: list[BaseException] = []

    async def serve(device: AsyncDevice) -> None:
        board.begins("a", device.name)
        while not goes_on.is_set():
            try:
                await goes_on.wait()
            except asyncio.CancelledError:
                board.ends("a", device.name)
        try:
            await device.set({"lid-mapping": {"x": "late"}})
        except RatchetkeepError as error:
            outcome.append(error)
        ended.set()

    async with working(board, as_worker(url, 2), "a", serve, drain=0.05):
        await board.until(lambda: board.serves)
    assert [type(error) for _, error in board.told] == [Unfinished]
    async with working(board, as_worker(url, 3), "b"):
        await board.until(lambda: board.serves == {"device 0": "b"})
        goes_on.set()
        await ended.wait()
        assert len(outcome) == 1


@pytest.mark.parametrize("drain", [0.05, 30])
@in_loop
async def test_a_lost_device_whose_task_goes_on(server: pgserver.Server, drain: float) -> None:
    """One process would serve a device twice at the same moment: the task that has lost it ends
    slowly, and the device is claimed again."""
    url, board = filled(server, 1), Board()
    may_end, cancelled = asyncio.Event(), asyncio.Event()

    async def serve(device: AsyncDevice) -> None:
        board.begins("a", device.name)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            await may_end.wait()
            raise
        finally:
            board.ends("a", device.name)

    async with working(board, as_worker(url, 1, lease=1), "a", serve, drain=drain) as fleet:
        await board.until(lambda: board.serves)
        open_device(f"{url}&device=device 0", steal=True).close()
        await cancelled.wait()
        polls = Polls(fleet, board)
        await board.until(lambda: polls.count >= 10)
        assert board.twice == []
        may_end.set()
        await board.until(lambda: not board.serves)
        await board.until(lambda: board.serves)
        assert board.twice == []


@in_loop
async def test_one_fleet_in_a_process(server: pgserver.Server) -> None:
    """Two fleets would count each other's devices as their own; the second would stop the first."""
    url, board = as_worker(filled(server, 2), 1), Board()
    async with working(board, url):
        await board.until(lambda: len(board.serves) == 2)
        with pytest.raises(InvalidValue, match="another fleet"):
            await Fleet(url, board.serve_as("b")).run()
        assert len(board.serves) == 2


@in_loop
async def test_a_fleet_runs_once(server: pgserver.Server) -> None:
    """A second call would do nothing and say nothing."""
    fleet = Fleet(filled(server, 0), Board().serve_as("a"))
    fleet.stop()
    async with asyncio.timeout(PATIENCE):
        await fleet.run()
    with pytest.raises(InvalidValue):
        await fleet.run()


@in_loop
async def test_cancelled(server: pgserver.Server) -> None:
    """Whoever cancels the task of a fleet would leave its devices to the end of their lease."""
    url, board = filled(server, 3), Board()
    run = asyncio.create_task(Fleet(as_worker(url, 1), board.serve_as("a"), poll=0.05).run())
    await board.until(lambda: len(board.serves) == 3)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert (board.serves, owned(url)) == ({}, 0)


@in_loop
async def test_signals_are_given_back(server: pgserver.Server) -> None:
    """After a fleet, Ctrl-C would do nothing any more."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    board = Board()
    async with working(board, as_worker(filled(server, 1), 1)):
        await board.until(lambda: board.serves)
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@in_loop
async def test_nothing_secret_is_logged(
    server: pgserver.Server, caplog: pytest.LogCaptureFixture
) -> None:
    """What a client's error says, key material perhaps, would stand in the log; or nobody would
    learn that a device fails, or why."""
    url, board = filled(server, 1), Board()

    async def serve(device: AsyncDevice) -> None:
        board.note()
        raise ValueError("hidden")

    caplog.set_level(logging.INFO)
    async with working(board, as_worker(url, 1), "a", serve, on_error=None):
        await board.until(lambda: "ValueError" in caplog.text)
    assert "device 'device 0': serving it raised ValueError" in caplog.text
    assert "test_fleet.py, line" in caplog.text
    assert "hidden" not in caplog.text


@in_loop
async def test_a_callback_that_fails(
    server: pgserver.Server, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistake in on_error would end the worker, with all its devices."""
    url, board = filled(server, 3), Board()

    def tell(name: str, error: BaseException) -> None:
        board.tell(name, error)
        raise RuntimeError("told")

    async def serve(device: AsyncDevice) -> None:
        if device.name == "device 1":
            raise ValueError("no")
        await board.serve_as("a")(device)

    async with working(board, as_worker(url, 1), "a", serve, on_error=tell):
        await board.until(lambda: board.told and len(board.serves) == 2)
    assert "on_error of a fleet failed" in caplog.text


@pytest.mark.parametrize(
    "settings",
    [{"capacity": 0}, {"capacity": 1.5}, {"poll": 0}, {"poll": 1e9}, {"drain": -1}],
    ids=str,
)
def test_refused_settings(settings: dict[str, float]) -> None:
    """A mistyped setting would spin, or never look."""
    with pytest.raises(InvalidValue):
        Fleet("postgresql://localhost/x", Board().serve_as("a"), **settings)  # type: ignore[arg-type]


def test_a_store_without_leases() -> None:
    """A fleet on a file would be begun, and fail somewhere inside."""
    with pytest.raises(InvalidValue, match="postgresql"):
        Fleet("sqlite:bot.db", Board().serve_as("a"))


def test_lost_is_lost() -> None:
    """The lease of these tests would be waited for in some of them."""
    assert LONG > PATIENCE
    assert issubclass(OwnershipLost, RatchetkeepError)
