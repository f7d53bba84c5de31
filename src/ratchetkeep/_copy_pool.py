"""Processes that try the records of a large source, each on a processor of its own.

Each is a new interpreter, never a fork: a fork would have this process's locks and SQLite files. It
is given what the copy reads, and answers with what came of it; it opens nothing and writes nothing.
What goes wrong there is no answer, and the copy does the work itself: so it meets the same error
in its own place, and needs no processes where there are none to be had.
"""

from __future__ import annotations

import json
import os
import select
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import IO, NamedTuple

import msgspec

from ratchetkeep._copy_source import Chunk, digest_of
from ratchetkeep._copy_spelling import Spelled
from ratchetkeep._copy_trial import Counts, Recipe, Trial, Tried
from ratchetkeep.formats import native
from ratchetkeep.model import CREDENTIALS, Credentials, Key
from ratchetkeep.stores import urls

__all__ = ["Helpers", "Worker", "framed", "helpers", "main", "read_frame"]

MOST_WORKERS = 4

# What a process says first. A program that is no Python interpreter, though it stands in
# sys.executable, would start itself and never say it.
GREETING = b"ratchetkeep"
PATIENCE = 10.0

_LENGTH = struct.Struct(">I")
_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.stdin.buffer.readline()); "
    "from ratchetkeep._copy_pool import main; main()"
)


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
        # Answers have a pipe of their own, since anything may print something when Python starts.
        receiving, sending = os.pipe()
        self._from = os.fdopen(receiving, "rb")
        try:
            # A group of its own: Ctrl-C is for the copy, which ends its processes.
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, str(sending)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(sending,),
                process_group=0,
            )
        except BaseException:
            self._from.close()
            raise
        finally:
            os.close(sending)
        assert self._process.stdin  # noqa: S101 - for mypy
        self._to = self._process.stdin
        with suppress(OSError):  # one that has ended already does not greet
            self._to.write(json.dumps(sys.path).encode() + b"\n")
            self._to.flush()
        self._setup = framed(setup)
        self._is_ready: bool | None = None

    def _check_ready(self) -> None:
        """:raises OSError: if the process has not greeted, and is not ours."""
        if self._is_ready is None:
            said, _, _ = select.select([self._from], [], [], PATIENCE)
            self._is_ready = bool(said) and read_frame(self._from) == GREETING
        if not self._is_ready:
            raise OSError("no helper was started")

    def ask(self, chunk: Chunk) -> _Answer | None:
        """What came of a chunk; None if nothing did."""
        try:
            self._check_ready()
            self._send(_encode(chunk))
            answer = read_frame(self._from)
            return None if answer is None else _decode_answer(answer)
        except (OSError, ValueError, msgspec.MsgspecError):
            return None

    def _send(self, asked: bytes) -> None:
        self._to.write(self._setup + framed(asked))
        self._to.flush()
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
            return read_frame(self._from)
        return None

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._to, self._from):
            with suppress(OSError):
                pipe.close()


def framed(data: bytes) -> bytes:
    """Bytes as they go through a pipe."""
    return _LENGTH.pack(len(data)) + data


def read_frame(pipe: IO[bytes]) -> bytes | None:
    """The next bytes that :func:`framed` made; None if the other end is gone."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    data = pipe.read(length)
    return data if len(data) == length else None


def helpers(recipe: Recipe, credentials: Credentials) -> Helpers | None:
    """Helpers for a copy, if there are processors for them and they can be had; to be closed."""
    number = min(_processors(), MOST_WORKERS)
    # A frozen program's executable is the program itself.
    if number > 1 and sys.executable and not getattr(sys, "frozen", False):
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
    source, target = sys.stdin.buffer, os.fdopen(int(sys.argv[1]), "wb")
    target.write(framed(GREETING))
    target.flush()
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
