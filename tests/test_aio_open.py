"""Opening and closing for asyncio: cancelled, raced, and in a forked child."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest

import ratchetkeep.aio
from _aio_helpers import (
    PATIENCE,
    Background,
    CancelledAt,
    HeldDisk,
    goes_on,
    held,
    held_on_disk,
    soon,
    turns,
)
from ratchetkeep import (
    AsyncDevice,
    Device,
    InvalidValue,
    NoDevice,
    OwnershipLost,
    ReadOnly,
    StoreClosed,
    StoreInUse,
    open_async_device,
    open_device,
)

KINDS = ("sqlite", "baileys", "baileysex")


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place with a device."""
    url = f"{request.param}:{tmp_path}/x"
    open_device(url, create=True).close()
    return url


async def awaited(url: str) -> None:
    """Opens and closes."""
    device = await open_async_device(url)
    await device.close()


async def entered(url: str) -> None:
    """Opens for a block, which does something."""
    async with open_async_device(url) as device:
        await device.set({"lid-mapping": {"1": "x"}})


# -- opening


@pytest.mark.parametrize("how", CancelledAt.HOW)
def test_opening_that_is_cancelled_at_any_point(url: str, how: str) -> None:
    """The device would stay owned by nobody, so that the program could never open it again."""

    async def main() -> None:
        for number in count(1):
            run = CancelledAt(entered(url), number, how)

            async def task(run: CancelledAt = run) -> None:
                await run

            (error,) = await asyncio.gather(asyncio.create_task(task()), return_exceptions=True)
            assert error is None or isinstance(error, asyncio.CancelledError)
            open_device(url).close()
            if run.is_past_the_end:
                assert error is None
                return

    asyncio.run(main())


def test_a_device_that_is_awaited_and_cancelled_before_it_is_there(url: str) -> None:
    """The same without a block: nobody has got the device, so nobody would close it."""

    async def main(how: str) -> None:
        async def opens() -> AsyncDevice:
            return await open_async_device(url)

        for number in (1, 2):
            run = CancelledAt(opens(), number, how)
            got: list[AsyncDevice] = []

            async def task(run: CancelledAt = run, got: list[AsyncDevice] = got) -> None:
                got.append(await run)

            await asyncio.gather(asyncio.create_task(task()), return_exceptions=True)
            for device in got:
                await device.close()
            open_device(url).close()

    for how in CancelledAt.HOW:
        asyncio.run(main(how))


class SlowOpening:
    """Opens as ever, when it is let."""

    def __init__(self) -> None:
        self.began, self.go_on = threading.Event(), threading.Event()

    def __call__(self, url: str, **how: Any) -> Device:
        self.began.set()
        assert self.go_on.wait(PATIENCE)
        return open_device(url, **how)


@pytest.mark.parametrize("how", ["task", "timeout", "anyio"])
@pytest.mark.parametrize("fails", [False, True])
def test_cancelled_while_a_thread_opens(
    fails: bool, how: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread would go on, and own the device after the task has gone."""
    slow = SlowOpening()
    monkeypatch.setattr(ratchetkeep.aio, "open_device", slow)
    where = url + "-not-there" if fails else url

    async def opens() -> None:
        if how == "timeout":
            async with asyncio.timeout(0.001):
                await awaited(where)
        elif how == "anyio":
            with anyio.fail_after(0.001):
                await awaited(where)
        else:
            await awaited(where)

    async def main() -> None:
        task = asyncio.create_task(opens())
        await soon(slow.began)
        if how == "task":
            task.cancel()
        else:
            await asyncio.sleep(0.005)  # until the limit of 0.001 is over
        await turns()
        assert not task.done()
        slow.go_on.set()
        with pytest.raises((asyncio.CancelledError, TimeoutError, NoDevice)):
            await task
        # At once: nobody has to wait for anything.
        open_device(url).close()

    asyncio.run(main())


def test_what_is_wrong_with_opening_is_told(tmp_path: Path) -> None:
    """An error of the thread that opens would be lost, or be another one than without asyncio."""

    async def main() -> None:
        there, nowhere = f"sqlite:{tmp_path}/x.db", f"sqlite:{tmp_path}/y.db"
        async with open_async_device(there, create=True) as device:
            with pytest.raises(StoreInUse):
                await open_async_device(there)
            with pytest.raises(NoDevice):
                await open_async_device(nowhere)
            await device.set({"lid-mapping": {"1": "x"}})
            async with open_async_device(there, read_only=True) as reader:
                assert await reader.get("lid-mapping", ["1"]) == {"1": "x"}
                with pytest.raises(ReadOnly):
                    await reader.set({"lid-mapping": {"2": "x"}})
                with pytest.raises(ReadOnly):
                    await reader.mint_pre_keys(1)
        with pytest.raises(InvalidValue):
            await open_async_device(there, create=True, read_only=True)
        with pytest.raises(InvalidValue):
            await open_async_device(there, initial=device_credentials(there), read_only=True)
        async with open_async_device(nowhere, initial=device_credentials(there)) as copy:
            assert copy.credentials == device_credentials(there)
        with pytest.raises(InvalidValue):
            await open_async_device(nowhere, initial="none")  # type: ignore[arg-type]

    asyncio.run(main())


def device_credentials(url: str) -> Any:
    with open_device(url, read_only=True) as device:
        return device.credentials


# -- races


def test_a_race_of_tasks_has_one_owner_at_a_time(url: str) -> None:
    """Two tasks would own one device, or none could open it in the end."""
    owners: list[int] = []
    opened = 0

    async def owner(number: int) -> None:
        nonlocal opened
        for turn in range(4):
            try:
                async with open_async_device(url) as device:
                    owners.append(number)
                    assert owners == [number]
                    await device.set({"lid-mapping": {f"{number}.{turn}": "x"}})
                    opened += 1
                    assert owners == [number]
                    owners.remove(number)
            except StoreInUse:
                await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(owner(number) for number in range(8)))

    asyncio.run(main())
    assert opened > 0
    with open_device(url) as device:
        assert len(device.ids("lid-mapping")) == opened


def test_closing_while_tasks_commit(url: str) -> None:
    """A commit that was acknowledged would be gone, one that was refused be there, or closing hang
    or leave the device owned."""
    told: list[str] = []
    refused: list[str] = []

    async def main() -> None:
        device = await open_async_device(url)
        gate = HeldDisk(device._core)

        async def committer(number: int) -> None:
            for turn in range(5):
                id = f"{number}.{turn}"
                try:
                    await device.set({"lid-mapping": {id: "x"}})
                    told.append(id)
                except StoreClosed:
                    refused.append(id)

        tasks = [asyncio.create_task(committer(0))]
        await soon(gate.began)
        # One is under way, those of the others wait.
        tasks += [asyncio.create_task(committer(number)) for number in range(1, 10)]
        await turns()
        closing = [asyncio.create_task(device.close()) for _ in range(3)]
        await turns()
        gate.let_go()
        await asyncio.gather(*tasks, *closing)
        for verb in (device.get("lid-mapping", ["0.0"]), device.ids("lid-mapping")):
            with pytest.raises(StoreClosed):
                await verb
        with pytest.raises(StoreClosed):
            device.transaction()
        assert "closed" in repr(device)

    asyncio.run(main())
    assert "0.0" in told
    assert sorted(told + refused) == sorted(f"{n}.{turn}" for n in range(10) for turn in range(5))
    with open_device(url) as device:
        assert device.ids("lid-mapping") == sorted(told)


@pytest.mark.parametrize("how", CancelledAt.HOW)
def test_closing_that_is_cancelled(url: str, how: str) -> None:
    """The device would be half closed: nobody could use it, and nobody open it again."""

    async def main() -> None:
        for number in count(1):
            device = await open_async_device(url)
            await device.set({"lid-mapping": {"1": "x"}})
            run = CancelledAt(device.close(), number, how)

            async def task(run: CancelledAt = run) -> None:
                await run

            await asyncio.gather(asyncio.create_task(task()), return_exceptions=True)
            open_device(url).close()
            if run.is_past_the_end:
                return

    asyncio.run(main())


def test_a_transaction_that_outlives_its_device(url: str) -> None:
    """A task whose device was closed meanwhile would commit into the air, or keep the next owner
    out."""

    async def main() -> None:
        device = await open_async_device(url)
        begun, closed = asyncio.Event(), asyncio.Event()

        async def late() -> None:
            async with device.transaction("k") as tx:
                await tx.set({"lid-mapping": {"1": "x"}})
                begun.set()
                await closed.wait()

        task = asyncio.create_task(late())
        await begun.wait()
        await device.close()
        async with open_async_device(url) as again:
            closed.set()
            with pytest.raises(StoreClosed):
                await task
            assert await again.ids("lid-mapping") == []
            await goes_on(again)

    asyncio.run(main())


def test_two_loops_use_one_device_and_threads_too(url: str) -> None:
    """Tasks of two event loops, and threads, on one device would lose each other's steps."""
    with open_device(url) as core:
        device = AsyncDevice(core)

        async def tasks() -> None:
            async def step() -> None:
                async with device.transaction("n") as tx:
                    before = (await tx.get("lid-mapping", ["n"])).get("n", "0")
                    await tx.set({"lid-mapping": {"n": str(int(before) + 1)}})

            await asyncio.gather(*(step() for _ in range(20)))

        def thread() -> None:
            for _ in range(20):
                with core.transaction("n") as tx:
                    before = tx.get("lid-mapping", ["n"]).get("n", "0")
                    tx.set({"lid-mapping": {"n": str(int(before) + 1)}})

        all_ = [Background(tasks()), Background(thread), Background(tasks()), Background(thread)]
        assert all(each.ends() and each.error is None for each in all_)
        assert core.get("lid-mapping", ["n"]) == {"n": "80"}
        expected = held(core)
    assert held_on_disk(url) == expected


# -- forks


def in_child(action: Callable[[], None]) -> None:
    """Run ``action`` in a forked child; its failure is a failure here."""
    child = os.fork()
    if child == 0:
        # One that hangs is ended.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(PATIENCE)
        try:
            action()
        except BaseException:  # noqa: BLE001 - nothing of pytest may run in the child
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_a_forked_child_is_refused_and_its_parent_goes_on(url: str) -> None:
    """The child of a forking server would write its parent's device, or wait for ever for threads
    that it does not have."""

    def refused(device: AsyncDevice, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        try:
            asyncio.run(work())
        except OwnershipLost:
            return
        raise AssertionError("it was not refused")

    with asyncio.Runner() as runner:
        device = runner.run(opened(url))
        runner.run(device.set({"lid-mapping": {"1": "parent"}}))
        runner.run(device.ids("lid-mapping"))

        async def transacts() -> None:
            async with device.transaction("k") as tx:
                await tx.set({"lid-mapping": {"2": "child"}})

        def be_the_child() -> None:
            refused(device, transacts)
            refused(device, lambda: device.set({"lid-mapping": {"2": "child"}}))
            refused(device, lambda: device.get("lid-mapping", ["1"]))
            refused(device, lambda: device.mint_pre_keys(1))
            refused(device, lambda: device.ids("lid-mapping"))
            # Ends its own use of it, and nothing of its parent's.
            asyncio.run(device.close())
            try:
                asyncio.run(awaited(url))
            except StoreInUse:
                return
            raise AssertionError("two own it")

        in_child(be_the_child)
        runner.run(device.set({"lid-mapping": {"3": "parent"}}))
        runner.run(goes_on(device))
        runner.run(device.close())
    with open_device(url) as again:
        assert again.ids("lid-mapping") == ["1", "3", "goes on"]


def test_forking_while_a_commit_is_under_way(url: str) -> None:
    """A child that was forked while a thread commits would hang in that thread's locks."""

    with asyncio.Runner() as runner:
        device = runner.run(opened(url))
        gate = HeldDisk(device._core)

        async def commits(number: int) -> None:
            await device.set({"lid-mapping": {str(number): "x"}})

        async def begins() -> list[asyncio.Task[None]]:
            tasks = [asyncio.create_task(commits(number)) for number in range(4)]
            await soon(gate.began)
            return tasks

        tasks = runner.run(begins())

        def be_the_child() -> None:
            for work in (commits(9), device.close()):
                try:
                    asyncio.run(work)
                except OwnershipLost:
                    continue
            # Something of its own works, with threads of its own.
            asyncio.run(uses_its_own(url + "-child"))

        in_child(be_the_child)
        gate.let_go()

        async def ends() -> None:
            await asyncio.gather(*tasks)
            await device.close()

        runner.run(ends())
    with open_device(url) as again:
        assert again.ids("lid-mapping") == ["0", "1", "2", "3"]


async def opened(url: str) -> AsyncDevice:
    return await open_async_device(url)


async def uses_its_own(url: str) -> None:
    async with open_async_device(url, create=True) as device:
        await asyncio.gather(*(device.set({"lid-mapping": {str(n): "x"}}) for n in range(5)))
        assert len(await device.ids("lid-mapping")) == 5
