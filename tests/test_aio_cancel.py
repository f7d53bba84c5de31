"""Cancellation: all or nothing, memory as it is stored, and no lock left behind."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable, Coroutine
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest

from _aio_helpers import (
    CancelledAt,
    HeldDisk,
    goes_on,
    held,
    held_on_disk,
    soon,
    turns,
)
from ratchetkeep import AsyncDevice, InvalidValue, KeyPair, RatchetkeepError, open_async_device

PAIRS = {str(number): KeyPair.new() for number in range(1, 6)}


def place(kind: str, folder: Path) -> str:
    """A new place each time."""
    name = uuid.uuid4()
    return f"memory:{name}" if kind == "memory" else f"{kind}:{folder}/{name}"


async def fill(device: AsyncDevice) -> None:
    """What the device holds before: five pre-keys that wait for upload, and some names."""
    async with device.transaction() as tx:
        await tx.set({"pre-key": PAIRS, "lid-mapping": {"old": "x", "n": "0"}})
        await tx.save_credentials(
            device.credentials.replace(next_pre_key_id=6, first_unuploaded_pre_key_id=1)
        )


# -- what a program does; each is one commit


async def sets(device: AsyncDevice) -> None:
    await device.set({"lid-mapping": {"1": "x", "old": None}, "device-list": {"1": ["0"]}})


async def sets_many(device: AsyncDevice) -> None:
    await device.set({"lid-mapping": {str(number): "x" for number in range(200)}})


async def saves(device: AsyncDevice) -> None:
    await device.save_credentials(device.credentials.replace(platform="new"))


async def decrypts(device: AsyncDevice) -> None:
    """As a client does it: reads, changes, uses up a pre-key, starts tasks inside."""
    async with device.transaction("k", "l") as tx:
        await tx.get("lid-mapping", ["old", "unknown"])
        await tx.consume_pre_key(1)
        await tx.set({"lid-mapping": {"1": "x"}})
        async with asyncio.TaskGroup() as group:
            group.create_task(device.set({"lid-mapping": {"2": "x"}}))
            group.create_task(saves(device))
        async with device.transaction("m"):
            await device.ids("lid-mapping")
            await device.set({"device-list": {"1": ["0"]}})


async def waits_for_a_lock(device: AsyncDevice) -> None:
    async with device.transaction("busy", "k") as tx:
        await tx.set({"lid-mapping": {"1": "x"}})


async def mints(device: AsyncDevice) -> None:
    await device.mint_pre_keys(3)


async def marks(device: AsyncDevice) -> None:
    await device.mark_pre_keys_uploaded(3)


async def clears(device: AsyncDevice) -> None:
    await device.clear()


async def reads(device: AsyncDevice) -> None:
    await device.get("device-list", ["unknown"])
    await device.ids("pre-key")
    await device.unuploaded_pre_keys()
    await device.pre_key_stock()


WORK = [sets, sets_many, saves, decrypts, waits_for_a_lock, mints, marks, clears, reads]
Work = Callable[[AsyncDevice], Coroutine[Any, Any, None]]


def outline(held: dict[str, Any]) -> Any:
    """What is held, without what is random: ids and counters."""
    ids = {family: sorted(found) for family, found in held.items() if family != "credentials"}
    creds = held["credentials"]
    counters = creds.next_pre_key_id, creds.first_unuploaded_pre_key_id, creds.platform
    return ids, counters


async def keep_busy(device: AsyncDevice, has_begun: asyncio.Event) -> None:
    """Hold a lock for a while."""
    async with device.transaction("busy"):
        has_begun.set()
        await turns(10)


async def undisturbed(kind: str, folder: Path, work: Work) -> Any:
    """How the device looks when the work is done."""
    async with open_async_device(place(kind, folder), create=True) as device:
        await fill(device)
        await work(device)
        return outline(held(device._core))


async def cancelled(url: str, work: Work, number: int, how: str, after: Any) -> CancelledAt:
    """One run of the work, cancelled at one point."""
    async with open_async_device(url, create=True) as device:
        await fill(device)
        before, has_begun = outline(held(device._core)), asyncio.Event()
        busy = asyncio.create_task(keep_busy(device, has_begun))
        await has_begun.wait()
        run = CancelledAt(work(device), number, how)

        async def task() -> None:
            await run

        (error,) = await asyncio.gather(asyncio.create_task(task()), return_exceptions=True)
        await busy
        found = held(device._core)
        assert error is None or isinstance(error, asyncio.CancelledError)
        if run.is_past_the_end:
            assert error is None
        if error is None:
            assert outline(found) == after
        assert outline(found) in (before, after), "half of it is there"
        assert not device.in_transaction
        await goes_on(device)
        found = held(device._core)
    assert held_on_disk(url) == found, "memory differs from what is stored"
    return run


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("how", CancelledAt.HOW)
@pytest.mark.parametrize("work", WORK)
def test_cancelled_at_every_await_point(kind: str, work: Work, how: str, tmp_path: Path) -> None:
    """Half of a change would be stored, memory would differ from what is stored, or a lock stay
    behind for ever, where a task is cancelled at an unlucky moment."""

    async def main() -> int:
        after = await undisturbed(kind, tmp_path, work)
        for number in count(1):
            run = await cancelled(place(kind, tmp_path), work, number, how, after)
            if run.is_past_the_end:
                break
        return run.points

    assert asyncio.run(main()) >= 1


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_the_same_device_goes_on_after_every_cancellation(kind: str, tmp_path: Path) -> None:
    """A device that is not opened again would keep a lock, or take no more."""

    async def main() -> None:
        url = place(kind, tmp_path)
        async with open_async_device(url, create=True) as device:
            for work in WORK:
                for number in range(1, 9):
                    await fill(device)
                    run = CancelledAt(work(device), number, "at once")

                    async def task(run: CancelledAt = run) -> None:
                        await run

                    await asyncio.gather(asyncio.create_task(task()), return_exceptions=True)
                    await goes_on(device)
            found = held(device._core)
        assert held_on_disk(url) == found

    asyncio.run(main())


@pytest.mark.parametrize("records", [1, 200])
def test_a_commit_that_is_under_way_is_waited_for(records: int, tmp_path: Path) -> None:
    """A cancelled task would end while its commit goes on: nobody could tell what is stored, and
    another task would take its lock before."""

    async def main() -> None:
        url = f"sqlite:{tmp_path}/x.db"
        async with open_async_device(url, create=True) as device:
            gate = HeldDisk(device._core)

            async def commit() -> None:
                async with device.transaction("k") as tx:
                    await tx.set({"lid-mapping": {str(n): "x" for n in range(records)}})

            async def reads_after() -> int:
                async with device.transaction("k") as tx:
                    return len(await tx.get("lid-mapping", map(str, range(records))))

            task = asyncio.create_task(commit())
            await soon(gate.began)
            other = asyncio.create_task(reads_after())
            for _ in range(3):
                task.cancel()
                await turns()
                assert not task.done() and not other.done()
            gate.let_go()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await other == records
            await goes_on(device)

    asyncio.run(main())


# -- storms


class Storm:
    """Tasks that count under a lock, each with a record of its own in the same commit, and are
    stopped at any moment."""

    def __init__(self, device: AsyncDevice, seed: int) -> None:
        self.device = device
        self.rng = random.Random(seed)
        self.done: set[str] = set()
        self.stopped = 0

    async def step(self, number: int) -> None:
        """Move the number on, and leave a mark."""
        device = self.device
        async with device.transaction("n") as tx:
            before = int((await tx.get("lid-mapping", ["n"]))["n"])
            await turns(self.rng.randrange(2))
            async with device.transaction("m"):
                await device.set({"device-list": {str(number): ["0"]}})
            many = {f"{number}.{n}": "x" for n in range(80 if number % 5 == 0 else 1)}
            await tx.set({"lid-mapping": {"n": str(before + 1), **many}})
        self.done.add(str(number))

    async def check(self, tasks: int) -> None:
        """The number is what the marks say; what was told is there."""
        device = self.device
        await goes_on(device)
        marks = set(await device.ids("device-list"))
        assert (await device.get("lid-mapping", ["n"]))["n"] == str(len(marks))
        assert self.done <= marks
        names = {id.split(".")[0] for id in await device.ids("lid-mapping") if "." in id}
        assert names == marks
        # Else the storm was none.
        assert 0 < self.stopped < tasks
        assert self.done


async def by_timeouts(storm: Storm, number: int) -> None:
    """asyncio.timeout(), as a client limits a call."""
    try:
        async with asyncio.timeout(None if number % 3 == 0 else storm.rng.random() * 0.02):
            await storm.step(number)
    except TimeoutError:
        storm.stopped += 1


async def by_groups(storm: Storm, number: int) -> None:
    """A task group of which one task fails, which cancels the others."""

    async def fails(after: int) -> None:
        await turns(after)
        raise KeyError

    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(storm.step(number))
            if number % 3:
                group.create_task(fails(storm.rng.randrange(12)))
            await task
    except BaseExceptionGroup as errors:
        storm.stopped += 1
        assert errors.split(KeyError)[1] is None


async def by_moving_on(storm: Storm, number: int) -> None:
    """anyio.move_on_after(): what awaits inside is cancelled again and again."""
    limit = None if number % 3 == 0 else storm.rng.random() * 0.02
    with anyio.move_on_after(limit) as scope:
        await storm.step(number)
    storm.stopped += scope.cancelled_caught


async def by_failing(storm: Storm, number: int) -> None:
    """anyio.fail_after()."""
    try:
        with anyio.fail_after(None if number % 3 == 0 else storm.rng.random() * 0.02):
            await storm.step(number)
    except TimeoutError:
        storm.stopped += 1


async def by_scopes(storm: Storm, number: int) -> None:
    """A scope of anyio that another task cancels at any turn."""
    async with anyio.create_task_group() as group:

        async def cancels(after: int) -> None:
            await turns(after)
            group.cancel_scope.cancel()

        if number % 3:
            group.start_soon(cancels, storm.rng.randrange(12))
        await storm.step(number)
        group.cancel_scope.cancel()
    storm.stopped += str(number) not in storm.done


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("way", [by_timeouts, by_groups, by_moving_on, by_failing, by_scopes])
def test_a_storm_of_cancellations(
    kind: str, way: Callable[[Storm, int], Coroutine[Any, Any, None]], tmp_path: Path
) -> None:
    """Under load, with many tasks that are stopped, a step would be lost or counted twice, a lock
    stay behind, or memory differ from what is stored."""
    tasks, url = 120, place(kind, tmp_path)

    async def main() -> Any:
        async with open_async_device(url, create=True) as device:
            await device.set({"lid-mapping": {"n": "0"}})
            storm = Storm(device, seed=3)
            async with anyio.create_task_group() as group:
                for number in range(tasks):
                    group.start_soon(way, storm, number)
            await storm.check(tasks)
            return held(device._core)

    found = anyio.run(main)
    assert held_on_disk(url) == found


@pytest.mark.parametrize("work", WORK)
def test_a_scope_that_was_cancelled_before(work: Work, tmp_path: Path) -> None:
    """In a scope of anyio that is cancelled already, where every await ends at once, half of a
    change would be stored, or closing would leave the device owned."""

    async def main() -> None:
        url = f"sqlite:{tmp_path}/x.db"
        after = await undisturbed("memory", tmp_path, work)
        device = await open_async_device(url, create=True)
        await fill(device)
        before = outline(held(device._core))
        with anyio.CancelScope() as scope:
            scope.cancel()
            await work(device)
        found = held(device._core)
        assert outline(found) in (before, after)
        await goes_on(device)
        expected = held(device._core)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await device.close()
        # Closed, though the one that closed it was cancelled.
        assert held_on_disk(url) == expected

    anyio.run(main)


def test_a_refusal_inside_is_not_hidden_by_cancelling() -> None:
    """An error that a block raises would be replaced, or a nested one leave its lock behind, where
    both come together."""

    async def main() -> None:
        async with open_async_device("memory:", create=True) as device:

            async def refused() -> None:
                async with device.transaction("k") as tx:
                    await tx.consume_pre_key(77)

            with pytest.raises(InvalidValue):
                await refused()
            task = asyncio.create_task(refused())
            task.cancel()
            with pytest.raises((asyncio.CancelledError, RatchetkeepError)):
                await task
            await goes_on(device)

    asyncio.run(main())
