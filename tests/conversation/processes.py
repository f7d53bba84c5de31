"""The processes of the workers, seen from the one that is never killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from .probe import Spec


class Nursery:
    """The process that forks the devices, seen from here."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._lock = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls, engines: set[str]) -> AsyncIterator[Nursery]:
        """Start it, and end it."""
        modules = sorted({name.partition(":")[0] for name in engines})
        paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "conversation.nursery", *modules),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
        try:
            yield cls(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()

    async def spawn(self, spec: Spec, errors: Path) -> Child:
        """Fork a device."""
        pid = (await self._ask({"spawn": json.loads(spec.as_json()), "errors": str(errors)}))["pid"]
        return Child(self, pid)

    async def reap(self, pid: int) -> int:
        """How a dead device ended: its exit code, or less the signal."""
        status: int = (await self._ask({"reap": pid}))["status"]
        return status

    async def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._lock:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            answer: dict[str, Any] = json.loads(await self._process.stdout.readline())
            return answer


class Child:
    """A worker's process. It is named by a descriptor, so no other process can be hit."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery = nursery
        self._pid = pid
        self._fd = os.pidfd_open(pid)
        self._dead = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._fd, self._dead.set)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """SIGKILL or another signal, now; nothing if it is dead."""
        if self._fd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, number)

    async def ended(self) -> int:
        """Wait for its end, and say how it ended."""
        await self._dead.wait()
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1  # the number may name something else soon
        return await self._nursery.reap(self._pid)
