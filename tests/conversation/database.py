"""A PostgreSQL server for one conversation, which ends and starts again in the middle of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from typing import TypeVar

import pgserver

T = TypeVar("T")

CONNECTIONS = 4


class Database:
    """The server. It ends with the thread that has started it, so one thread does it all."""

    def __init__(self, thread: ThreadPoolExecutor, server: pgserver.Server, base: str) -> None:
        self._thread = thread
        self._server = server
        self._base = base

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Database]:
        """Start it with an empty database, and end it."""
        with ThreadPoolExecutor(1) as thread, ExitStack() as stack:
            server = await _do(thread, lambda: stack.enter_context(pgserver.running()))
            try:
                yield cls(thread, server, server.new_database())
            finally:
                await _do(thread, stack.close)

    def url(self, device: str, lease: float) -> str:
        """Where a device lives."""
        return f"{self._base}&device={device}&lease={lease:g}&connections={CONNECTIONS}"

    async def restart(self, mode: pgserver.Mode, seconds: float) -> None:
        """End it, and start it again after so many seconds."""
        await _do(self._thread, lambda: self._server.stop(mode))
        await asyncio.sleep(seconds)
        await _do(self._thread, self._server.start)


async def _do(thread: ThreadPoolExecutor, call: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(thread, call)
