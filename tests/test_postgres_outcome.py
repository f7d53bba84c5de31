"""Commits to PostgreSQL whose answer is lost: each is stored once, or is not, and its caller knows.

A proxy between the store and a real server cuts, holds back and swallows; the server is stopped,
killed and frozen.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

import _pgsealed
import pgserver
from _pgload import (
    COMMIT,
    FAULTS,
    PATIENCE,
    SETTLE,
    Fleet,
    Load,
    add,
    add_async,
    device_commits,
)
from pgproxy import Fault, Proxy
from ratchetkeep import (
    AsyncDevice,
    open_async_device,
    open_device,
)


@pytest.fixture(scope="module")
def server() -> Iterator[pgserver.Server]:
    """A server for these tests."""
    with pgserver.running(max_connections="100") as server:
        yield server


@pytest.fixture
def proxy(server: pgserver.Server) -> Iterator[Proxy]:
    """A proxy to it."""
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def fleet(
    request: pytest.FixtureRequest,
    server: pgserver.Server,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> Fleet:
    """A new database behind the proxy."""
    if getattr(request, "param", "plain") == "plain":
        return Fleet(server, proxy)
    _pgsealed.give_key(monkeypatch)
    return _pgsealed.SealedFleet(server, proxy)


# Of a sealed device the sum of its records has to stay right whatever became of a commit.
BOTH = pytest.mark.parametrize("fleet", ["plain", "sealed"], indirect=True)


# -- one commit after the other


@BOTH
@pytest.mark.parametrize("name", FAULTS)
def test_each_commit_is_stored_once(fleet: Fleet, name: str) -> None:
    """A commit whose answer was lost would be lost, or done twice: a ratchet would go back, or a
    step be skipped. The third runs for the first time, the seventh by its statement's name."""
    faults = [FAULTS[name](fleet.proxy, COMMIT, nth) for nth in (3, 7)]
    with fleet.open() as device:
        for count in range(1, 9):
            add(device)
            assert fleet.check_memory(device) == {"1": count}
            assert fleet.commits() == count + 1
        assert all(fault.has_happened for fault in faults)


@BOTH
@pytest.mark.parametrize("second", FAULTS)
@pytest.mark.parametrize("first", ["held", "no answer"])
def test_finding_out_can_fail_too(fleet: Fleet, first: str, second: str) -> None:
    """The connection that is to tell the outcome is lost as well, as it is where a network is bad:
    the outcome would be taken from an answer that never came."""
    faults = [FAULTS[first](fleet.proxy, COMMIT, 2), FAULTS[second](fleet.proxy, SETTLE, 1)]
    with fleet.open() as device:
        for count in range(1, 4):
            add(device)
            assert fleet.check_memory(device) == {"1": count}
            assert fleet.commits() == count + 1
        assert all(fault.has_happened for fault in faults)


@BOTH
@pytest.mark.parametrize("pattern", [COMMIT, SETTLE], ids=["commit", "settle"])
def test_a_late_batch_changes_nothing(fleet: Fleet, pattern: bytes) -> None:
    """What was held up in the network for minutes arrives when its sender has long done it again:
    an old state would come over a new one, or the owner would lose its device to itself."""
    late = [fleet.proxy.hold(pattern)]
    if pattern == SETTLE:
        late.append(fleet.proxy.hold(COMMIT, 2))
    with fleet.open() as device:
        for _ in range(3):
            add(device)
        for fault in late:
            fault.deliver()
            assert fleet.check_memory(device) == {"1": 3} and fleet.commits() == 4
        for count in range(4, 7):
            add(device)
            assert fleet.check_memory(device) == {"1": count}
            assert fleet.commits() == count + 1


def test_a_late_commit_of_an_earlier_owner_changes_nothing(fleet: Fleet) -> None:
    """A worker that was thought dead would write over what its successor did."""
    late = fleet.proxy.hold(COMMIT, 2)
    with fleet.open() as device:
        add(device)
    with open_device(fleet.beside()) as successor:
        add(successor)
        assert b"SELECT 0" in late.deliver()
        assert fleet.check_memory(successor) == {"1": 2} and fleet.commits() == 3
        add(successor)
        assert fleet.check_memory(successor) == {"1": 3}


@BOTH
def test_a_commit_that_still_runs_is_waited_for(fleet: Fleet) -> None:
    """Its connection is gone, and the server goes on with it: if the store did not wait for it, it
    would do it again, and both would be stored."""
    with fleet.open() as device:
        add(device)
        left = fleet.proxy.leave(COMMIT)
        load = Load([device], threads=1, rounds=1)
        with fleet.locked() as lock:
            load.start()
            left.wait()
            lock.wait_for(2)
            assert not load.returned["alice", "0"]
        load.join()
        assert b"SELECT 1" in left.wait_over()
        assert not load.errors
        assert fleet.check_memory(device) == {"0": 1, "1": 1} and fleet.commits() == 3


def test_a_silent_connection_is_given_up(fleet: Fleet) -> None:
    """A commit would wait for ever for an answer that does not come, on a connection that looks
    alive."""
    silent = fleet.proxy.hold(COMMIT, 2, cut=False)
    with fleet.open() as device:
        add(device)
        add(device)
        assert silent.has_happened
        assert fleet.check_memory(device) == {"1": 2} and fleet.commits() == 3
        silent.deliver()
        assert fleet.check_memory(device) == {"1": 2} and fleet.commits() == 3
        add(device)
        assert fleet.check_memory(device) == {"1": 3}


# -- many at once


@BOTH
@pytest.mark.parametrize("name", FAULTS)
def test_threads_lose_and_double_nothing(fleet: Fleet, name: str) -> None:
    """Of commits that go together one would be lost or doubled where the answer to all is lost."""
    faults = [FAULTS[name](fleet.proxy, COMMIT, nth) for nth in (5, 8)]
    with fleet.open("alice") as alice, fleet.open("bob") as bob:
        load = Load([alice, bob], threads=4, rounds=6)
        load.run()
        assert all(fault.has_happened for fault in faults)
        late = [fault.deliver() for fault in faults]
        assert not load.errors
        load.check(fleet)
        for device in (alice, bob):
            assert fleet.check_memory(device) == {str(number): 6 for number in range(4)}
            assert device_commits(device) == fleet.commits(device.name)
        assert name != "held" or all(b"SELECT 0" in answer for answer in late)


@pytest.mark.parametrize("name", FAULTS)
def test_tasks_lose_and_double_nothing(fleet: Fleet, name: str) -> None:
    """The same for asyncio, whose commits a thread carries out."""
    faults = [FAULTS[name](fleet.proxy, COMMIT, nth) for nth in (3, 6)]

    async def count(device: AsyncDevice, id: str) -> None:
        for _ in range(6):
            await add_async(device, id)

    async def work() -> None:
        async with await open_async_device(fleet.url(), create=True) as device:
            await asyncio.wait_for(
                asyncio.gather(*(count(device, str(number)) for number in range(6))), PATIENCE
            )
            for fault in faults:
                fault.deliver()
            assert fleet.check_memory(device._core) == {str(number): 6 for number in range(6)}

    asyncio.run(work())
    assert all(fault.has_happened for fault in faults)


def test_a_cancelled_task_waits_for_the_outcome(fleet: Fleet) -> None:
    """A task that is cancelled while nobody knows yet whether its commit is stored would leave a
    memory that differs from the database."""
    fault = fleet.proxy.cut_answer(COMMIT, 2)

    async def work() -> None:
        async with await open_async_device(fleet.url(), create=True) as device:
            with ExitStack() as blocks:
                blocks.callback(fault.wait)
                task = asyncio.create_task(add_async(device))
                while not fault.has_happened:
                    await asyncio.sleep(0.001)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert fleet.check_memory(device._core) == {"1": 1}
            await add_async(device)
            assert fleet.check_memory(device._core) == {"1": 2}

    asyncio.run(work())


# -- a campaign

STEPS = 12


@BOTH
@pytest.mark.parametrize("seed", range(4))
def test_random_faults(fleet: Fleet, seed: int) -> None:
    """Some sequence of faults, late batches and work would lose a commit, or do one twice."""
    dice = random.Random(seed)
    late: list[Fault] = []
    with ExitStack() as blocks:
        names = ["alice", "bob", "carol"][: dice.randint(1, 3)]
        devices = {name: blocks.enter_context(fleet.open(name)) for name in names}
        expected = {name: {str(number): 0 for number in range(2)} for name in names}
        for step in range(STEPS):
            told = f"seed {seed}, step {step}"
            for _ in range(dice.randint(0, 3)):
                pattern = dice.choice([COMMIT, COMMIT, SETTLE])
                ask = FAULTS[dice.choice(list(FAULTS))]
                late.append(ask(fleet.proxy, pattern, dice.randint(1, 4)))
            load = Load(devices.values(), threads=2, rounds=3)
            load.start()
            happened = [fault for fault in late if fault.has_happened]
            for fault in dice.sample(happened, dice.randint(0, len(happened))):
                fault.deliver()
            load.join()
            assert not load.errors, (told, load.errors)
            for name, device in devices.items():
                expected[name] = {id: count + 3 for id, count in expected[name].items()}
                assert fleet.check_memory(device) == expected[name], told
                assert device_commits(device) == fleet.commits(name), told
