"""The asyncio face of a device: tasks, cancellation, nesting."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from _aio_helpers import Background, HeldDisk
from ratchetkeep import (
    AsyncDevice,
    InvalidValue,
    KeyPair,
    StoreClosed,
    open_async_device,
    open_device,
)
from ratchetkeep._locks import KeyLocks

# A wait that never ends: the tests that look for one wait so long, in seconds.
HANG = 5

Outcomes = list[BaseException | None]


async def turns(count: int = 20) -> None:
    """Let other tasks run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def outcomes(*work: Coroutine[Any, Any, None]) -> Outcomes:
    """What each raised; fails if they hang."""
    tasks = [asyncio.create_task(each) for each in work]
    _, hanging = await asyncio.wait(tasks, timeout=HANG)
    for task in hanging:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not hanging, f"{len(hanging)} of {len(tasks)} wait for each other for ever"
    return [task.exception() for task in tasks]


async def outcomes_of(tasks: list[asyncio.Task[None]]) -> Outcomes:
    """What tasks that end raised."""
    await asyncio.gather(*tasks, return_exceptions=True)
    return [task.exception() for task in tasks]


async def lock(device: AsyncDevice, *names: str) -> None:
    """One transaction that does nothing."""
    async with device.transaction(*names):
        pass


def refused_once(found: Outcomes) -> bool:
    """One was told that its waiting would never end, and the others went on."""
    raised = [error for error in found if error is not None]
    return all(isinstance(error, InvalidValue) for error in raised) and len(raised) <= 1


# -- tasks inside a transaction that wait for what another one holds


def test_a_ring_that_is_closed_when_a_lock_goes_outward() -> None:
    """Two transactions with tasks inside would hang for ever: nobody waits for the other when the
    waiting begins, but the lock of one task goes to its transaction, which waits for another."""

    async def main() -> Outcomes:
        has_k, other_waits = asyncio.Event(), asyncio.Event()

        async with open_async_device("memory:", create=True) as device:

            async def first() -> None:
                async with device.transaction("k"):
                    has_k.set()
                    await other_waits.wait()
                    await turns()

            async def one() -> None:
                async with device.transaction():
                    await asyncio.gather(first(), lock(device, "q"))

            async def other() -> None:
                async with device.transaction("q"):
                    await has_k.wait()
                    await turns()
                    other_waits.set()
                    await lock(device, "k")

            return await outcomes(other(), one())

    assert refused_once(asyncio.run(main()))


def test_a_ring_that_is_closed_when_a_lock_is_granted() -> None:
    """The same where a lock that both wait for comes free, and goes to the one whose transaction
    waits for the other's."""

    async def main() -> Outcomes:
        waiting = asyncio.Event()

        async with open_async_device("memory:", create=True) as device:

            async def holder() -> None:
                async with device.transaction("k"):
                    await waiting.wait()
                    await turns()

            async def one() -> None:
                await turns(3)
                async with device.transaction():
                    await asyncio.gather(lock(device, "k"), lock(device, "q"))

            async def other() -> None:
                async with device.transaction("q"):
                    await turns(10)
                    waiting.set()
                    await lock(device, "k")

            return await outcomes(holder(), other(), one())

    assert refused_once(asyncio.run(main()))


def test_a_lock_that_a_child_borrowed_stays_until_the_commit_is_over(tmp_path: Path) -> None:
    """A counter that is read and written under a lock would lose a step: a child that outlives the
    block would free its parent's lock while the parent's commit is under way."""

    async def main() -> tuple[str, BaseException | None]:
        async with open_async_device(f"sqlite:{tmp_path}/x.db", create=True) as device:
            await device.set({"lid-mapping": {"n": "0"}})
            disk = HeldDisk(device._core)
            go_on = asyncio.Event()

            async def increment(child: Callable[[], Coroutine[Any, Any, None]] | None) -> Any:
                task = None
                async with device.transaction("n") as tx:
                    if child is not None:
                        task = asyncio.create_task(child())
                        await turns(2)
                    number = int((await tx.get("lid-mapping", ["n"]))["n"])
                    await tx.set({"lid-mapping": {"n": str(number + 1)}})
                return task

            async def child() -> None:
                async with device.transaction("n"):
                    await go_on.wait()

            one = asyncio.create_task(increment(child))
            while not disk.began.is_set():
                await asyncio.sleep(0.001)
            two = asyncio.create_task(increment(None))
            await turns()
            go_on.set()
            await turns()
            disk.let_go()
            task = await one
            await two
            (error,) = await outcomes_of([task])
            return (await device.get("lid-mapping", ["n"]))["n"], error

    value, outlived = asyncio.run(main())
    assert isinstance(outlived, StoreClosed)
    assert value == "2"


def test_ids_are_listed_while_a_sibling_sets() -> None:
    """Listing the ids in one task would fail while another task of the transaction sets records."""

    async def main() -> int:
        async with open_async_device("memory:", create=True) as device:
            async with device.transaction() as tx:
                await tx.set({"lid-mapping": {str(n): "x" for n in range(3000)}})

                async def listing() -> None:
                    for _ in range(30):
                        await device.ids("lid-mapping")

                number, task = 3000, asyncio.create_task(listing())
                while not task.done():
                    await tx.set({"lid-mapping": {str(number): "x"}})
                    number += 1
                    await asyncio.sleep(0)
                await task
            return number - len(await device.ids("lid-mapping"))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        assert asyncio.run(main()) == 0
    finally:
        sys.setswitchinterval(before)


# -- loops that end


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_closed_loop_that_waits_for_a_lock_harms_nobody(tmp_path: Path) -> None:
    """A commit that is durable would be told as failed, with an error that is not its own, and the
    lock be held for ever by a task that never runs again."""
    with open_device(f"sqlite:{tmp_path}/x.db", create=True) as core:
        device, outside = AsyncDevice(core), contextvars.copy_context()
        loop = asyncio.new_event_loop()
        with core.transaction("k") as transaction:
            transaction.set({"lid-mapping": {"1": "a"}})
            task = loop.create_task(lock(device, "k"), context=outside)
            loop.call_soon(loop.stop)
            loop.run_forever()
            loop.close()
        assert not task.done()
        later = Background(lambda: put_under_lock(core))
        assert later.ends(HANG)
        assert later.error is None
        assert core.ids("lid-mapping") == ["1", "2"]
        del task


def put_under_lock(core: Any) -> None:
    with core.transaction("k") as transaction:
        transaction.set({"lid-mapping": {"2": "b"}})


# -- ten thousand tasks


def test_ten_thousand_tasks_that_save_the_credentials_inside() -> None:
    """The tasks of a busy client would take minutes: the time for each would grow with how many
    wait. Counted, not timed."""
    tries = 0
    plain = KeyLocks._blockers

    def counted(self: KeyLocks, *args: Any) -> Any:
        nonlocal tries
        tries += 1
        assert tries < 10_000 * 30, "each goes through all that wait"
        return plain(self, *args)

    async def main() -> int:
        async with open_async_device("memory:", create=True) as device:

            async def message(number: int) -> None:
                async with (
                    device.transaction(str(number % 50)),
                    device.transaction("credentials") as tx,
                ):
                    count = tx.credentials.next_pre_key_id
                    await asyncio.sleep(0)
                    await tx.save_credentials(tx.credentials.replace(next_pre_key_id=count + 1))

            async with asyncio.TaskGroup() as group:
                for number in range(10_000):
                    group.create_task(message(number))
            return device.credentials.next_pre_key_id

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeyLocks, "_blockers", counted)
        assert asyncio.run(main()) == 10_001


# -- pre-keys


def test_one_pre_key_is_consumed_once() -> None:
    """Two first messages that name one pre-key would both be taken, at once."""

    async def main() -> Outcomes:
        async with open_async_device("memory:", create=True) as device:
            await device.set({"pre-key": {"5": KeyPair.new()}})

            async def message(name: str) -> None:
                async with device.transaction(name) as tx:
                    await tx.consume_pre_key(5)
                    await turns(3)

            return await outcomes(message("a"), message("b"))

    found = asyncio.run(main())
    assert sorted(type(error).__name__ for error in found) == ["InvalidValue", "NoneType"]
