"""One connection through the proxy, and what can go wrong on it."""

from __future__ import annotations

import asyncio
import re
import struct
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from _pgcontrol import SECONDS
from _pgwire import ASKS_FOR_ENCRYPTION, READY, Batch, Batches, Messages

HOST = "127.0.0.1"
_PIECE = 1 << 16

# How a batch is passed on, if not as always.
Strike = Callable[["Link", Batch, "Fault"], Awaitable[None]]


async def connected(**where: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """As ``asyncio.open_connection``; a connection that is made while its task is cancelled is
    closed, which nobody else would do."""
    opening = asyncio.ensure_future(asyncio.open_connection(**where))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        _, writer = await opening
        writer.close()
        raise


class Fault:
    """Something that goes wrong once, with the n-th batch that has the pattern.

    :ivar answer: what the server answered and the client did not get, as far as it came.
    """

    def __init__(
        self, pattern: bytes, nth: int, strike: Strike, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.answer = b""
        self.delivery = asyncio.Event()
        self._pattern = re.compile(pattern, re.DOTALL)
        self._left = nth
        self._strike = strike
        self._loop = loop
        self._happened = threading.Event()
        self._over = threading.Event()

    def wait(self) -> None:
        """Wait until it has happened: the client cannot get its answer any more."""
        assert self._happened.wait(SECONDS), f"{self._left} more batches with the pattern to come"

    def deliver(self) -> bytes:
        """Let the server have the batch that was held back; gives its answer, empty if the server
        has ended that connection."""
        self.wait()
        self._loop.call_soon_threadsafe(self.delivery.set)
        return self.wait_over()

    def wait_over(self) -> bytes:
        """Wait until the server is done with the batch; gives its answer, as :meth:`deliver`."""
        assert self._over.wait(SECONDS), "the server does not answer"
        return self.answer

    @property
    def has_happened(self) -> bool:
        """It has begun, or is over."""
        return self._happened.is_set()

    # -- in the proxy's thread

    def matches(self, batch: Batch) -> bool:
        """It is this batch's turn."""
        if batch.text and self._pattern.search(batch.text):
            self._left -= 1
            return self._left == 0
        return False

    def mark(self) -> None:
        """It has happened."""
        self._happened.set()

    async def strike(self, link: Link, batch: Batch) -> None:
        """Let it happen."""
        try:
            await self._strike(link, batch, self)
        finally:
            # However it ended: nobody may wait for it any more.
            self._over.set()
            self._happened.set()


class Link:
    """A client's connection and the one to the server that belongs to it.

    :param flowing: not set while nothing may pass.
    :param struck: gives the fault that a batch is to meet, if any.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        flowing: asyncio.Event,
        struck: Callable[[Batch], Fault | None],
    ) -> None:
        self.is_cut = False
        self._client, self._to_client = reader, writer
        self._to_server: asyncio.StreamWriter | None = None
        self._flowing = flowing
        self._struck = struck
        # Answers that the server owes; one for the startup message.
        self._owed = 1
        # The fault that gets the answer to the last batch, in place of the client.
        self._taker: Fault | None = None
        self._taken = asyncio.Event()

    async def run(self, upstream: int) -> None:
        """Pass everything on until one side ends, or a fault ends it."""
        first = await self._startup()
        await self._flowing.wait()
        server, self._to_server = await connected(host=HOST, port=upstream)
        await self._send(first)
        passing = [
            asyncio.ensure_future(self._pass_batches()),
            asyncio.ensure_future(self._pass_answers(server)),
        ]
        try:
            await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in passing:
                task.cancel()
            await asyncio.wait(passing)
        for task in passing:
            if not task.cancelled():
                task.result()

    async def close(self) -> None:
        """Close both sides; what was sent still arrives."""
        writers = [each for each in (self._to_server, self._to_client) if each is not None]
        for writer in writers:  # before it waits, where it may be cancelled
            writer.close()
        for writer in writers:
            with suppress(OSError):
                await writer.wait_closed()

    def cut(self) -> None:
        """End both sides; what was not sent yet is lost."""
        self.cut_client()
        if self._to_server is not None:
            self._to_server.transport.abort()

    def cut_client(self) -> None:
        """End the client's side; the server hears nothing of it."""
        self.is_cut = True
        self._to_client.transport.abort()

    async def carry_out(self, batch: Batch, fault: Fault) -> None:
        """Pass a batch on, and wait for its answer, which the fault gets."""
        assert batch.is_answered, "only a batch up to Sync, or a simple query, can meet this fault"
        self._taker = fault
        await self._send(batch)
        await self._taken.wait()

    async def pass_part(self, batch: Batch, missing: int | None) -> None:
        """Pass a batch on without ``missing`` bytes of its end (or without half of them)."""
        data = batch.data
        await self._write(data[: -missing if missing else len(data) // 2])

    async def give_part(self, answer: bytes, missing: int | None) -> None:
        """Give the client an answer without ``missing`` bytes of its end (or half of it)."""
        self._to_client.write(answer[: -missing if missing else len(answer) // 2])
        await self._to_client.drain()

    async def _startup(self) -> Batch:
        while True:
            length = await self._client.readexactly(4)
            body = await self._client.readexactly(struct.unpack("!I", length)[0] - 4)
            code = struct.unpack_from("!I", body)[0]
            if code in ASKS_FOR_ENCRYPTION:
                self._to_client.write(b"N")
                continue
            batch = Batch()
            batch.data = length + body
            return batch

    async def _pass_batches(self) -> None:
        messages, batches = Messages(), Batches()
        while data := await self._client.read(_PIECE):
            for message in messages.take(data):
                batch = batches.add(message)
                if batch is None:
                    continue
                await self._flowing.wait()
                fault = self._struck(batch)
                if fault is not None:
                    await fault.strike(self, batch)
                    return
                await self._send(batch)

    async def _send(self, batch: Batch) -> None:
        self._owed += batch.is_answered
        await self._write(batch.data)

    async def _write(self, data: bytes) -> None:
        assert self._to_server is not None, "it is connected before anything is sent"
        self._to_server.write(data)
        await self._to_server.drain()

    async def _pass_answers(self, server: asyncio.StreamReader) -> None:
        messages = Messages()
        try:
            while data := await server.read(_PIECE):
                for message in messages.take(data):
                    await self._flowing.wait()
                    await self._answer(message)
        finally:
            self._taken.set()

    async def _answer(self, message: bytes) -> None:
        # Answers to what the client sent before are the client's.
        if self._taker is not None and self._owed == 1:
            self._taker.answer += message
        elif not self.is_cut:
            self._to_client.write(message)
            await self._to_client.drain()
        if message[:1] == READY:
            self._owed -= 1
            if self._owed == 0 and self._taker is not None:
                self._taken.set()
