"""What the tests of the asyncio face and of group commit share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from _power import credentials, running
from ratchetkeep import AsyncDevice, Device, open_device
from ratchetkeep.device import open_in
from ratchetkeep.model import FAMILIES
from ratchetkeep.stores.base import DEFAULT_DEVICE, Joint, Prepared, Store
from ratchetkeep.testing.faults import SimulatedDisk

# What takes longer hangs. No test that passes waits for it.
PATIENCE = 30
# The same for a wait that never ends where something is wrong, in seconds.
HANG = 5

Outcomes = list[BaseException | None]
Held = dict[str, Any]


# -- disks


class HeldDisk:
    """Stands between a group and its store, and can hold up a commit there.

    :ivar began: set when a commit reached the store.
    :ivar batches: how many batches each commit of the store had.
    """

    def __init__(self, device: Device) -> None:
        self._joint: Joint = device._group._joint
        self._free = threading.Event()
        self.began = threading.Event()
        self.batches: list[int] = []
        device._group._joint = self

    def apply(self, *batches: Prepared) -> None:
        self.began.set()
        assert self._free.wait(PATIENCE)
        self.batches.append(len(batches))
        self._joint.apply(*batches)

    def let_go(self) -> None:
        """Let commits through, from now on."""
        self._free.set()


def waiting(device: Device) -> int:
    """How many commits of its group wait."""
    return len(device._group._waiting)


def until(condition: Callable[[], object]) -> None:
    """Wait in a thread until something is so."""
    tick = threading.Event()
    for _ in range(PATIENCE * 1000):
        if condition():
            return
        tick.wait(0.001)
    raise AssertionError("it never was")


class Background:
    """A thread that runs a call, or a coroutine in an event loop of its own."""

    def __init__(self, call: Callable[[], Any] | Coroutine[Any, Any, Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._call = call
        # Should it hang, the test fails and the run goes on.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call() if callable(self._call) else asyncio.run(self._call)
        except BaseException as error:  # noqa: BLE001 - for the test to look at
            self.error = error

    def ends(self, patience: float = PATIENCE) -> bool:
        """Wait for it; False if it hangs."""
        self._thread.join(patience)
        return not self._thread.is_alive()


# -- devices


def opened(store: Store, name: str = DEFAULT_DEVICE) -> Device:
    """A device of a store; it is made if it is not there."""
    return open_in(store, name, create=True, read_only=False, initial=credentials())


@contextmanager
def simulated(kind: str) -> Iterator[tuple[Device, SimulatedDisk]]:
    """A new device on a simulated disk, which has made a first commit."""
    disk = SimulatedDisk()
    with running(kind, disk) as store, opened(store) as device:
        put(device, "first")
        yield device, disk


def put(device: Device, id: str, value: str = "x") -> None:
    """One small commit."""
    device.set({"lid-mapping": {id: value}})


def held(device: Device) -> Held:
    """All that a device holds, by family, and its credentials."""
    found: Held = {family: device.get(family, device.ids(family)) for family in FAMILIES}
    return {**found, "credentials": device.credentials}


def held_on_disk(url: str) -> Held:
    """What a device that is closed holds."""
    with open_device(url) as device:
        return held(device)


# -- tasks


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


async def soon(event: threading.Event) -> None:
    """Wait in a task for what a thread sets."""
    async with asyncio.timeout(PATIENCE):
        while not event.is_set():
            await asyncio.sleep(0.001)


async def goes_on(device: AsyncDevice) -> None:
    """Fails if a lock was left behind, or if the device takes no commit."""
    names = ("k", "l", "credentials", "pre-key 1")
    async with asyncio.timeout(PATIENCE), device.transaction(*names) as transaction:
        await transaction.set({"lid-mapping": {"goes on": "x"}})
    locks = device._core._locks
    assert (locks._holders, locks._queues, locks._waits) == ({}, {}, {})


class CancelledAt:
    """Awaits a coroutine, and cancels its task at one of its await points.

    :param number: at which one; the first is 1.
    :param how: ``at once``; ``when done``: what it waits for is done, and the task does not run
        yet; ``again and again``: there and at every later one, as anyio does it.
    :ivar points: how many await points there were.
    """

    HOW = ("at once", "when done", "again and again")

    def __init__(self, work: Coroutine[Any, Any, Any], number: int, how: str) -> None:
        self._work = work
        self._number = number
        self._how = how
        self.points = 0

    @property
    def is_past_the_end(self) -> bool:
        """True if there was no such point."""
        return self.points < self._number

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[[], Any] = partial(self._work.send, None)
        while True:
            try:
                waits_for = step()
            except StopIteration as end:
                return end.value
            self.points += 1
            self._cancel(waits_for)
            try:
                yield waits_for
            except BaseException as error:  # noqa: BLE001 - thrown into the coroutine
                step = partial(self._work.throw, error)
            else:
                step = partial(self._work.send, None)

    def _cancel(self, waits_for: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        is_again = self.points > self._number and self._how == "again and again"
        if self.points == self._number and self._how == "when done" and waits_for is not None:
            # Called before the task's own callback, which is added later.
            waits_for.add_done_callback(lambda _: task.cancel())
        elif self.points == self._number or is_again:
            asyncio.get_running_loop().call_soon(task.cancel)
