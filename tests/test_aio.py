"""The asyncio face of a device: tasks, cancellation, nesting."""

from __future__ import annotations

import asyncio
import contextvars
import random
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from _aio_helpers import (
    HANG,
    Background,
    HeldDisk,
    Outcomes,
    goes_on,
    outcomes,
    outcomes_of,
    turns,
)
from ratchetkeep import (
    AsyncDevice,
    AsyncTransaction,
    InvalidValue,
    KeyPair,
    StoreClosed,
    open_async_device,
    open_device,
)
from ratchetkeep._locks import KeyLocks


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


def test_ten_thousand_tasks_count_on_a_disk(tmp_path: Path) -> None:
    """With more tasks than can wait at once anywhere, a step would be lost, or a task never come to
    its turn."""
    tasks, names = 10_000, [str(number) for number in range(400)]
    url, random_ = f"sqlite:{tmp_path}/x.db", random.Random(2)
    wanted = [random_.sample(names, random_.choice([1, 1, 2, 3])) for _ in range(tasks)]
    expected = Counter(name for each in wanted for name in each)

    async def main() -> None:
        async with open_async_device(url, create=True) as device:

            async def step(mine: list[str]) -> None:
                async with device.transaction(*mine) as tx:
                    found = await tx.get("lid-mapping", mine)
                    await asyncio.sleep(0)
                    await tx.set(
                        {"lid-mapping": {name: str(int(found.get(name, 0)) + 1) for name in mine}}
                    )

            async with asyncio.TaskGroup() as group:
                for mine in wanted:
                    group.create_task(step(mine))
            await goes_on(device)

    asyncio.run(main())
    with open_device(url) as again:
        found = again.get("lid-mapping", names)
    assert {name: int(count) for name, count in found.items()} == expected


# -- order


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_who_asks_first_is_first(kind: str, tmp_path: Path) -> None:
    """A task would be overtaken by later ones, under load for ever."""
    url = "memory:" if kind == "memory" else f"sqlite:{tmp_path}/x.db"

    async def main() -> list[int]:
        order: list[int] = []
        async with open_async_device(url, create=True) as device:

            async def one(number: int) -> None:
                async with device.transaction("k", *(["l"] if number % 3 == 0 else [])) as tx:
                    order.append(number)
                    await tx.set({"lid-mapping": {str(number): "x"}})

            async with device.transaction("k"):
                # Outside of this one: they are no part of it.
                tasks = [
                    asyncio.create_task(one(number), context=contextvars.Context())
                    for number in range(100)
                ]
                await turns(3)
                for task in tasks[::7]:
                    task.cancel()
                await turns(3)
            await asyncio.gather(*tasks, return_exceptions=True)
            await goes_on(device)
        return order

    assert asyncio.run(main()) == [number for number in range(100) if number % 7]


def test_newcomers_do_not_starve_one_that_waits() -> None:
    """A task that names two keys would never get both while others come and go."""

    async def main() -> int:
        others, is_over = 0, asyncio.Event()
        async with open_async_device("memory:", create=True) as device:

            async def newcomers(name: str) -> None:
                nonlocal others
                while not is_over.is_set():
                    async with device.transaction(name):
                        others += 1
                        await turns(2)

            async def both() -> None:
                await turns(10)
                async with device.transaction("a", "b"):
                    is_over.set()

            tasks = [asyncio.create_task(newcomers(name)) for name in "aabb"]
            async with asyncio.timeout(HANG):
                await asyncio.gather(both(), *tasks)
        return others

    assert asyncio.run(main()) < 100


# -- siblings: tasks inside one transaction


class Child(Exception):
    """What a task of a transaction fails with."""


async def of_asyncio(*work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run them as siblings in a task group."""
    async with asyncio.TaskGroup() as group:
        for each in work:
            group.create_task(each())


async def of_anyio(*work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """The same with anyio."""
    async with anyio.create_task_group() as group:
        for each in work:
            group.start_soon(each)


@pytest.mark.parametrize("siblings", [of_asyncio, of_anyio])
def test_a_sibling_that_fails_drops_only_its_own(siblings: Any) -> None:
    """A message of a group that cannot be decrypted would drop what the others did, or leave half
    of its own."""

    async def main() -> tuple[list[str], list[str], dict[str, Any]]:
        async with open_async_device("memory:", create=True) as device:

            async def one(number: int) -> None:
                try:
                    async with device.transaction("k" if number % 2 else str(number)) as tx:
                        await tx.set({"lid-mapping": {str(number): "x", "last": str(number)}})
                        await turns(number % 3)
                        assert (await device.get("lid-mapping", ["last"]))["last"] == str(number)
                        if number % 4 == 0:
                            raise Child
                except Child:
                    pass

            async with device.transaction() as tx:
                await tx.set({"lid-mapping": {"mine": "x"}})
                await siblings(*(partial(one, number) for number in range(20)))
                inside = await device.ids("lid-mapping")
                stored = device._core._memory.load("lid-mapping", inside)
            return inside, await device.ids("lid-mapping"), stored

    inside, after, stored = asyncio.run(main())
    expected = {"mine", "last", *(str(number) for number in range(20) if number % 4)}
    assert set(inside) == set(after) == expected
    assert stored == {}, "others would see what is not committed"


@pytest.mark.parametrize("siblings", [of_asyncio, of_anyio])
def test_siblings_that_fail_together_leave_nothing(siblings: Any) -> None:
    """An error that leaves the outermost block would still store what some task did."""

    async def main() -> list[str]:
        async with open_async_device("memory:", create=True) as device:

            async def one(number: int) -> None:
                async with device.transaction("k") as tx:
                    await tx.set({"lid-mapping": {str(number): "x"}})
                    await turns(2)
                    if number == 3:
                        raise Child

            with pytest.raises(ExceptionGroup) as caught:
                async with device.transaction():
                    await siblings(*(partial(one, number) for number in range(6)))
            assert caught.value.split(Child)[1] is None
            await goes_on(device)
            return await device.ids("lid-mapping")

    assert asyncio.run(main()) == ["goes on"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_child_that_outlives_its_parent_is_told(fails: bool) -> None:
    """What a task does after the transaction that it was started in would be lost without a word,
    or be stored though that one failed."""

    async def main() -> None:
        async with open_async_device("memory:", create=True) as device:
            ended = asyncio.Event()

            async def nested() -> None:
                async with device.transaction() as tx:
                    await tx.set({"lid-mapping": {"nested": "x"}})
                    await ended.wait()

            async def late(tx: AsyncTransaction) -> None:
                await ended.wait()
                await tx.set({"lid-mapping": {"late": "x"}})

            async def reads_late(tx: AsyncTransaction) -> None:
                await ended.wait()
                await tx.get("lid-mapping", ["1"])

            async def on_its_own() -> None:
                await ended.wait()
                assert not device.in_transaction
                await device.set({"lid-mapping": {"own": "x"}})

            with pytest.raises(Child):
                async with device.transaction() as tx:
                    await tx.set({"lid-mapping": {"parent": "x"}})
                    work = [nested(), late(tx), reads_late(tx), on_its_own()]
                    tasks = [asyncio.create_task(each) for each in work]
                    await turns(3)
                    if fails:
                        raise Child
                raise Child
            ended.set()
            told = [type(error) for error in await outcomes_of(tasks)]
            assert told == [StoreClosed, StoreClosed, StoreClosed, type(None)]
            expected = ["own"] if fails else ["own", "parent"]
            assert await device.ids("lid-mapping") == expected

    asyncio.run(main())


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
