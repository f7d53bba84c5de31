"""A proxy between PostgreSQL's clients and the server, with faults that a test asks for.

It knows where messages and batches end, and recognises a batch by a pattern::

    with Proxy(server.port) as proxy:
        fault = proxy.cut_answer(rb"UPDATE ratchetkeep", nth=3)
        ...  # work through proxy.url(server.url())
        fault.wait()

A pattern is searched for in the statements that a batch runs and in the bytes of their parameters.
Preparing a statement is not running it. Only connections without TLS can be understood.
"""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

from _pgcontrol import SECONDS, free_port
from _pglink import HOST, Fault, Link, Strike, connected
from _pgwire import Batch

__all__ = ["Fault", "Proxy"]


class Proxy:
    """A proxy to the server at ``upstream``, a port of 127.0.0.1, in a thread of its own.

    :ivar port: where it listens.
    :ivar connections: how many clients came so far.
    """

    def __init__(self, upstream: int) -> None:
        self.port = free_port()
        self.connections = 0
        self._upstream = upstream
        self._faults: list[Fault] = []
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._listener: socket.socket | None = None
        # Its port stays ours while nobody listens there.
        self._holder = _bound(self.port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pgproxy")

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._listen)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ask(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()
        self._holder.close()
        if self._failures:
            raise self._failures[0]

    def url(self, server_url: str) -> str:
        """The URL of the same database through this proxy."""
        return re.sub(r"@[^/?]*", f"@{HOST}:{self.port}", server_url, count=1)

    # -- faults of one batch

    def cut_before(self, pattern: bytes, nth: int = 1) -> Fault:
        """Cut the connection before the server gets anything of the batch."""

        async def strike(link: Link, batch: Batch, fault: Fault) -> None:
            link.cut()

        return self._add(pattern, nth, strike)

    def cut_within(self, pattern: bytes, nth: int = 1, *, missing: int | None = None) -> Fault:
        """Cut the connection when the server has got part of the batch.

        :param missing: how many bytes of its end the server does not get; half if not given. The
            last five are Sync: without them everything ran, and nothing was committed.
        """

        async def strike(link: Link, batch: Batch, fault: Fault) -> None:
            await link.pass_part(batch, missing)

        return self._add(pattern, nth, strike)

    def cut_answer(self, pattern: bytes, nth: int = 1) -> Fault:
        """Let the server carry the batch out, and cut the connection before its answer."""

        async def strike(link: Link, batch: Batch, fault: Fault) -> None:
            await link.carry_out(batch, fault)
            link.cut()

        return self._add(pattern, nth, strike)

    def cut_within_answer(
        self, pattern: bytes, nth: int = 1, *, missing: int | None = None
    ) -> Fault:
        """Let the server carry the batch out, and cut the connection within its answer.

        :param missing: how many bytes of its end the client does not get; half if not given. The
            last six are ReadyForQuery.
        """

        async def strike(link: Link, batch: Batch, fault: Fault) -> None:
            await link.carry_out(batch, fault)
            await link.give_part(fault.answer, missing)

        return self._add(pattern, nth, strike)

    def hold(self, pattern: bytes, nth: int = 1, *, cut: bool = True) -> Fault:
        """Hold the batch back until ``fault.deliver()``, and the server's side of the connection
        open: a late write of a client that is thought dead.

        :param cut: cut the client's side; else the client waits, and never gets an answer.
        """

        async def strike(link: Link, batch: Batch, fault: Fault) -> None:
            if cut:
                link.cut_client()
            fault.mark()
            await fault.delivery.wait()
            await link.carry_out(batch, fault)

        return self._add(pattern, nth, strike)

    def leave(self, pattern: bytes, nth: int = 1) -> Fault:
        """Pass the batch on, and cut the client's side while the server may still carry it out;
        ``fault.wait_over()`` waits for that."""

        async def strike(link: Link, batch: Batch, fault: Fault) -> None:
            carrying = asyncio.ensure_future(link.carry_out(batch, fault))
            await asyncio.sleep(0)  # it is sent now
            link.cut_client()
            fault.mark()
            await carrying

        return self._add(pattern, nth, strike)

    # -- faults of all connections

    @contextmanager
    def partition(self) -> Iterator[None]:
        """All connections are cut, and new ones refused, inside this block."""
        self._call(self._part)
        try:
            yield
        finally:
            self._call(self._listen)

    @contextmanager
    def black_hole(self) -> Iterator[None]:
        """Connections stay, and new ones are taken, but nothing passes inside this block. What was
        sent meanwhile arrives afterwards."""
        self._call(self._flowing.clear)
        try:
            yield
        finally:
            self._call(self._flowing.set)

    def cut_all(self) -> None:
        """Cut all connections; new ones are taken."""
        self._call(self._cut_all)

    def _add(self, pattern: bytes, nth: int, strike: Strike) -> Fault:
        fault = Fault(pattern, nth, strike, self._loop)
        self._call(lambda: self._faults.append(fault))
        return fault

    # -- in the thread

    def _ask(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(SECONDS)

    def _call(self, call: Callable[[], None]) -> None:
        async def work() -> None:
            call()

        self._ask(work())

    def _listen(self) -> None:
        # Not asyncio's own server: one that is closed while a client comes forgets that client.
        self._listener = _bound(self.port)
        self._listener.listen()
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._take, self._listener)

    def _part(self) -> None:
        self._refuse()
        self._cut_all()

    def _refuse(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _cut_all(self) -> None:
        # Where the client's side is cut already, a batch may be on its way still.
        for link in self._links:
            if not link.is_cut:
                link.cut()

    async def _end(self) -> None:
        self._refuse()
        for link in self._links:
            link.cut()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _take(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:  # it went away at once
            return
        self.connections += 1
        task = self._loop.create_task(self._serve(client, listener))
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._note(task, client))

    def _note(self, task: asyncio.Task[None], client: socket.socket) -> None:
        self._tasks.discard(task)
        client.close()  # if the task ended before it began
        # A fault that cannot be had must fail its test.
        if not task.cancelled() and (failure := task.exception()):
            self._failures.append(failure)

    async def _serve(self, client: socket.socket, listener: socket.socket) -> None:
        reader, writer = await connected(sock=client)
        link = Link(reader, writer, self._flowing, self._struck)
        self._links.add(link)
        try:
            if listener is self._listener:  # nobody was refused meanwhile
                with suppress(OSError, asyncio.IncompleteReadError):
                    await link.run(self._upstream)
        finally:
            self._links.discard(link)
            await link.close()

    def _struck(self, batch: Batch) -> Fault | None:
        due = [fault for fault in self._faults if fault.matches(batch)]
        self._faults = [fault for fault in self._faults if fault not in due]
        return due[0] if due else None


def _bound(port: int) -> socket.socket:
    # With the protocol's number asyncio sees that it is TCP, and lets each message go at once.
    bound = socket.socket(proto=socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((HOST, port))
    return bound
