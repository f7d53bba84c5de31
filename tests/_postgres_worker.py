"""A worker of a fleet, as a process of its own: it is told what to do, line by line, and answers.

``python _postgres_worker.py`` reads orders as JSON from its input and ends with it, as a program
does that forgot to close its devices. The tests start it with :class:`Worker`.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import contextmanager, suppress
from typing import Any, Self, TypeVar

from ratchetkeep import (
    AsyncDevice,
    Device,
    OwnershipLost,
    RatchetkeepError,
    open_async_device,
    open_device,
    open_store,
)

T = TypeVar("T")

PATIENCE = 60
FACES = ("sync", "async")


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that tells nobody."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.001)


def in_one_group(opened: Callable[[str], Device], number: int) -> list[Device]:
    """So many devices whose commits wait for each other."""
    found: list[Device] = []
    for name in map("device {}".format, range(99)):
        device = opened(name)
        if found and device._group is not found[0]._group:
            device.close()
            continue
        found.append(device)
        if len(found) == number:
            return found
    raise AssertionError("each has a group of its own")


class Refused(Exception):
    """An error of the worker's.

    :ivar kind: the name of its class.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


class Worker:
    """A worker, seen from the test: a context manager that ends it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, order: str, *args: Any, **how: Any) -> None:
        """Have something done, and do not wait for it."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([order, args, how]) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        """What came of the last order.

        :raises Refused: if that was an error.
        """
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        assert ready, "the worker hangs"
        error, answer = json.loads(self.process.stdout.readline())
        if error is not None:
            raise Refused(*error)
        return answer

    def ask(self, order: str, *args: Any, **how: Any) -> Any:
        """Have something done, and wait for it."""
        self.tell(order, *args, **how)
        return self.answer()

    def error_of(self, order: str, *args: Any, **how: Any) -> str:
        """The name of the error that an order ends with; "" for none."""
        try:
            self.ask(order, *args, **how)
        except Refused as error:
            return error.kind
        return ""

    def stop(self) -> None:
        """It stands still, wherever it is."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def resume(self) -> None:
        """It goes on, and knows nothing of the time between."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """It is gone."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def end(self) -> None:
        """Let it end as programs do that close nothing."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(PATIENCE) == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


class _Face:
    """A device by either face, as the orders need it."""

    def __init__(self, device: Device | AsyncDevice, do: Callable[[Any], Any]) -> None:
        self.device = device
        # Waits for what an AsyncDevice gives to await, in its event loop.
        self.do = do


class _Orders:
    """What a worker can be told. Devices are called by their URLs."""

    def __init__(self) -> None:
        self._faces: dict[str, _Face] = {}
        self._told: dict[str, list[OwnershipLost]] = {}
        self._news = threading.Condition()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    # -- opening and closing

    def open(self, url: str, face: str = "sync", **how: Any) -> None:
        """Open a device, and note when it is lost."""
        self._faces[url] = opened = self._open(url, face, how)

        def told(error: OwnershipLost) -> None:
            with self._news:
                self._told.setdefault(url, []).append(error)
                self._news.notify_all()

        async def watch() -> None:
            opened.device.on_lost(told)

        self._wait(watch())

    def _open(self, url: str, face: str, how: dict[str, Any]) -> _Face:
        if face == "sync":
            return _Face(open_device(url, **how), lambda done: done)

        async def opened() -> AsyncDevice:
            return await open_async_device(url, **how)

        return _Face(self._wait(opened()), self._wait)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def close(self, url: str) -> None:
        face = self._faces.pop(url)
        face.do(face.device.close())

    def remove(self, url: str, name: str) -> None:
        """Remove a device that nobody has."""
        with open_store(url) as store:
            store.remove(name)

    # -- records

    def put(self, url: str, id: str, value: str) -> None:
        face = self._faces[url]
        face.do(face.device.set({"lid-mapping": {id: value}}))

    def get(self, url: str, id: str) -> str | None:
        face = self._faces[url]
        found: dict[str, str] = face.do(face.device.get("lid-mapping", [id]))
        return found.get(id)

    def ids(self, url: str) -> list[str]:
        face = self._faces[url]
        found: list[str] = face.do(face.device.ids("lid-mapping"))
        return found

    def credentials(self, url: str) -> int:
        return self._faces[url].device.credentials.registration_id

    def count_up(self, url: str, times: int, steals: bool) -> int:
        """Open the device and count one more, as often; gives how many tries were lost."""
        lost = done = 0
        while done < times:
            try:
                with open_device(url, wait=PATIENCE, steal=steals) as device:
                    _count(device)
                done += 1
            except OwnershipLost:
                lost += 1
        return lost

    # -- ownership

    def lost(self, url: str) -> str:
        """Wait until it is told that the device was lost; gives that error's text."""
        with self._news:
            assert self._news.wait_for(lambda: url in self._told, PATIENCE), "nothing was told"
            return str(self._told[url][0])

    def times_told(self, url: str) -> int:
        with self._news:
            return len(self._told.get(url, []))

    def shift_clock(self, hours: float) -> None:
        """The machine's clock is set, as far as this program sees it."""
        true = time.time
        time.time = lambda: true() + hours * 3600


def _count(device: Device) -> None:
    with device.transaction() as transaction:
        last = int(transaction.get("lid-mapping", ["last"]).get("last", "0"))
        mine = f"n{last + 1}"
        assert not transaction.get("lid-mapping", [mine]), "two counted to the same number"
        transaction.set({"lid-mapping": {"last": str(last + 1), mine: str(os.getpid())}})


@contextmanager
def workers(count: int) -> Any:
    """So many workers."""
    made: list[Worker] = []
    try:
        made.extend(Worker() for _ in range(count))
        yield made
    finally:
        for worker in made:
            worker.__exit__()


def main() -> None:
    """Do what is told."""
    orders = _Orders()
    for line in sys.stdin:
        order, args, how = json.loads(line)
        error, answer = None, None
        try:
            answer = getattr(orders, order)(*args, **how)
        except (RatchetkeepError, AssertionError) as raised:
            error = (type(raised).__name__, str(raised))
        sys.stdout.write(json.dumps([error, answer]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
