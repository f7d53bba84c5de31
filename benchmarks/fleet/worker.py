"""``python -m benchmarks.fleet.worker URL FIRST COUNT TASKS SESSIONS``: a worker process with open
devices. Each line of standard input is for how many seconds they commit; each answer is a line of
JSON, and the first one comes unasked, when all devices are open."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from contextlib import ExitStack
from itertools import count
from time import perf_counter_ns

from benchmarks.child import resident_bytes
from benchmarks.data import Data, address, load
from ratchetkeep import AsyncDevice, Device, open_store

from .building import name_of

# Contents that are committed in turn.
_CONTENTS = 512


class Worker:
    """Devices that are committed to at random by tasks, none of them by two at a time.

    :param sessions: that each device has.
    """

    def __init__(self, devices: list[Device], tasks: int, sessions: int, data: Data) -> None:
        self._tasks = tasks
        self._ids = [address(number) for number in range(sessions)]
        self._faces = [AsyncDevice(device) for device in devices]
        self._order = random.Random(name_of(len(devices)))
        self._contents = [data.value(number, -number) for number in range(_CONTENTS)]
        self._numbers = count()

    async def load(self, seconds: float) -> list[int]:
        """Commit for so long; nanoseconds of each commit."""
        times: list[int] = []
        order = list(range(len(self._faces)))
        self._order.shuffle(order)
        end = time.perf_counter() + seconds
        tasks = min(self._tasks, len(order))
        await asyncio.gather(*(self._run(order[task::tasks], end, times) for task in range(tasks)))
        return times

    async def _run(self, mine: list[int], end: float, times: list[int]) -> None:
        while time.perf_counter() < end:
            face, number = self._faces[self._order.choice(mine)], next(self._numbers)
            records = {
                "session": {self._order.choice(self._ids): self._contents[number % _CONTENTS]}
            }
            start = perf_counter_ns()
            await face.set(records)
            times.append(perf_counter_ns() - start)


def main(url: str, first: str, many: str, tasks: str, sessions: str) -> None:
    """Open the devices, and do what standard input asks."""
    data = load()
    with open_store(url) as store, ExitStack() as stack:
        # One is opened and closed first: what the first device needs is not a device's cost.
        store.open(name_of(int(first))).close()
        base = resident_bytes()
        start = time.perf_counter()
        numbers = range(int(first), int(first) + int(many))
        devices = [store.open(name_of(number)) for number in numbers]
        opened = time.perf_counter() - start
        worker = Worker(devices, int(tasks), int(sessions), data)
        runner = stack.enter_context(asyncio.Runner())
        _answer(base=base, seconds=opened, bytes=resident_bytes())
        for line in sys.stdin:
            used = time.process_time()
            times = runner.run(worker.load(float(line)))
            used = time.process_time() - used
            _answer(times=times, seconds=used, bytes=resident_bytes())


def _answer(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
