"""One device that a worker of a fleet has: opened, served in a task of its own, and ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from ratchetkeep.aio import AsyncDevice
from ratchetkeep.errors import OwnershipLost

__all__ = ["Service", "Unfinished"]

Serve = Callable[[AsyncDevice], Awaitable[None]]


class Unfinished(Exception):
    """What a fleet tells of a task that did not end in time after it was cancelled."""


class Service:
    """A device and the task that serves it, which begins at once.

    :param opening: opens the device.
    :param slots: how many may be opened at once.
    :param patience: how long the task may take to end after it was cancelled, in seconds.
    :ivar device: the device, once it is open.
    :ivar lost: why this process has it no more, if so.
    :ivar is_stopping: whether the task is to end.
    """

    def __init__(
        self,
        name: str,
        opening: Awaitable[AsyncDevice],
        serve: Serve,
        slots: AbstractAsyncContextManager[None],
        patience: float,
    ) -> None:
        self.name = name
        self.device: AsyncDevice | None = None
        self.lost: OwnershipLost | None = None
        self.is_stopping = False
        self._opening, self._serve, self._slots = opening, serve, slots
        self._patience = patience
        self._began = time.monotonic()
        self._late: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._alarm: asyncio.TimerHandle | None = None
        self.task = asyncio.create_task(self._run(), name=f"ratchetkeep device {name}")

    async def _run(self) -> None:
        async with self._slots:
            self.device = await self._opening
        self._began = time.monotonic()
        self.device.on_lost(self._lose)
        await self._serve(self.device)

    def _lose(self, error: OwnershipLost) -> None:
        self.lost = error
        self.stop()

    def stop(self) -> None:
        """Have the task end."""
        if not self.is_stopping:
            self.is_stopping = True
            self.task.cancel()
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(self._patience, self._late.cancel)

    async def ended(self) -> BaseException | None:
        """Wait until the task has ended, or is too late; what is to be told of it."""
        await asyncio.wait({self.task, self._late}, return_when=asyncio.FIRST_COMPLETED)
        if self._alarm is not None:
            self._alarm.cancel()
        if not self.task.done():
            what = f"its task goes on {self._patience:g} s after it was cancelled"
            return Unfinished(f"{what}; the device is closed, and takes nothing more")
        error = None if self.task.cancelled() else self.task.exception()
        if isinstance(error, OwnershipLost):
            self.lost = self.lost or error
        return self.lost or error

    @property
    def served(self) -> float:
        """For how long it was served, in seconds."""
        return 0.0 if self.device is None else time.monotonic() - self._began
