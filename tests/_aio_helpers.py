"""What the tests of the asyncio face and of group commit share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from ratchetkeep import Device
from ratchetkeep.stores.base import Joint, Prepared

# What takes longer hangs. No test that passes waits for it.
PATIENCE = 30


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
