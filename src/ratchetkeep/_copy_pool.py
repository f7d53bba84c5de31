"""Processes that try the records of a large source, each on a processor of its own.

Each is given what the copy reads, and answers with what came of it; it opens nothing and writes
nothing. What goes wrong there is no answer, and the copy does the work itself: so it meets the same
error in its own place, and needs no processes where there are none to be had.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import NamedTuple

import msgspec

from ratchetkeep._copy_child import Child, can_start, framed, greet, read_frame
from ratchetkeep._copy_source import Chunk, digest_of
from ratchetkeep._copy_spelling import Spelled
from ratchetkeep._copy_trial import Counts, Recipe, Trial, Tried
from ratchetkeep.formats import native
from ratchetkeep.model import CREDENTIALS, Credentials, Key
from ratchetkeep.stores import urls

__all__ = ["Helpers", "Worker", "helpers", "main"]

MOST_WORKERS = 4

# Seconds that a process may take to greet.
PATIENCE = 10.0


class _Answer(NamedTuple):
    tried: Tried
    counts: list[tuple[str, str, str, int]]


_encode = msgspec.msgpack.Encoder().encode
_decode_setup = msgspec.msgpack.Decoder(tuple[Recipe, bytes]).decode
_decode_chunk = msgspec.msgpack.Decoder(list[tuple[Key, bytes]]).decode
_decode_answer = msgspec.msgpack.Decoder(_Answer).decode


class Helpers:
    """The processes; results come in the order of the chunks."""

    def __init__(self, number: int, recipe: Recipe, credentials: Credentials) -> None:
        setup = _encode((recipe, native.encode(CREDENTIALS, credentials).data))
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        self._workers: list[Worker] = []
        self._threads = ThreadPoolExecutor(number, thread_name_prefix="ratchetkeep-copy")
        self._waiting: deque[tuple[Chunk, Future[_Answer | None]]] = deque()
        self._ahead = 2 * number
        try:
            for _ in range(number):
                self._workers.append(Worker(setup))
                self._idle.put(self._workers[-1])
        except BaseException:
            self.close()
            raise

    def tried(
        self, chunks: Iterator[Chunk], trial: Trial, counts: Counts
    ) -> Iterator[tuple[Chunk, Tried]]:
        """What comes of each chunk."""
        for chunk in chunks:
            self._waiting.append((chunk, self._threads.submit(self._ask, chunk)))
            if len(self._waiting) > self._ahead:
                yield self._next(trial, counts)
        while self._waiting:
            yield self._next(trial, counts)

    def _next(self, trial: Trial, counts: Counts) -> tuple[Chunk, Tried]:
        chunk, future = self._waiting.popleft()
        answer = future.result()
        # What is found there has no place in a store that is not open.
        if answer is None or answer.tried.findings:
            return chunk, trial.run(chunk)
        for family, was, becomes, number in answer.counts:
            counts[family, was, becomes] += number
        return chunk, answer.tried

    def _ask(self, chunk: Chunk) -> _Answer | None:
        worker = self._idle.get()
        try:
            return worker.ask(chunk)
        finally:
            self._idle.put(worker)

    def spare(self) -> Worker:
        """One of the processes, which stays when the others end; all chunks are done."""
        worker = self._idle.get()
        self._workers.remove(worker)
        return worker

    def close(self) -> None:
        """End the processes."""
        for _, future in self._waiting:
            future.cancel()
        for worker in self._workers:
            worker.end()
        self._threads.shutdown()


class Worker:
    """One process, as seen from here."""

    def __init__(self, setup: bytes) -> None:
        self._child = Child("ratchetkeep._copy_pool")
        self._setup = framed(setup)
        self._is_ready: bool | None = None

    def _check_ready(self) -> None:
        """:raises OSError: if the process has not greeted, and is not ours."""
        if self._is_ready is None:
            self._is_ready = self._child.greets(PATIENCE)
        if not self._is_ready:
            raise OSError("no helper was started")

    def ask(self, chunk: Chunk) -> _Answer | None:
        """What came of a chunk; None if nothing did."""
        try:
            self._check_ready()
            self._send(_encode(chunk))
            answer = read_frame(self._child.answers)
            return None if answer is None else _decode_answer(answer)
        except (OSError, ValueError, msgspec.MsgspecError):
            return None

    def _send(self, asked: bytes) -> None:
        self._child.tell(self._setup + framed(asked))
        self._setup = b""

    def begin_digest(self) -> None:
        """Let it read the whole source."""
        with suppress(OSError, ValueError):
            self._check_ready()
            self._send(b"")

    def digest(self) -> bytes | None:
        """The digest of the source; None if it could not be read."""
        with suppress(OSError, ValueError):
            self._check_ready()
            return read_frame(self._child.answers)
        return None

    def end(self) -> None:
        """End the process, whatever it does."""
        self._child.end()


def helpers(recipe: Recipe, credentials: Credentials) -> Helpers | None:
    """Helpers for a copy, if there are processors for them and they can be had; to be closed."""
    number = min(_processors(), MOST_WORKERS)
    if number > 1 and can_start():
        with suppress(OSError):
            return Helpers(number, recipe, credentials)
    return None


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def main() -> None:
    """What a process does until nobody asks any more."""
    source, target = greet()
    setup = read_frame(source)
    if setup is None:
        return
    recipe, raw = _decode_setup(setup)
    work = _Work(recipe, native.decode(CREDENTIALS, raw))
    while (asked := read_frame(source)) is not None:
        answer = b""
        with suppress(Exception):  # the copy meets it itself
            answer = work.tried(_decode_chunk(asked)) if asked else work.digest()
        target.write(framed(answer))
        target.flush()


class _Work:
    """What a process is there for."""

    def __init__(self, recipe: Recipe, credentials: Credentials) -> None:
        self._recipe, self._credentials = recipe, credentials
        self._device = recipe.source.device
        self._reader = urls.open_target(recipe.source)
        self._store = urls.open_target(recipe.target)

    def tried(self, chunk: Chunk) -> bytes:
        """What comes of a chunk; nothing is opened."""
        spelled = Spelled(self._store, self._reader, self._device, self._recipe.client)
        tried = Trial(self._reader, self._device, spelled, self._credentials).run(chunk)
        counts = [(*names, number) for names, number in spelled.counts.items()]
        return _encode(_Answer(tried, counts))

    def digest(self) -> bytes:
        """The digest of the source, which is opened for it."""
        self._reader.acquire(self._device, read_only=True, create=False)
        return digest_of(self._reader, self._device)
