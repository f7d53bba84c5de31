"""A process that works for a copy: how it is started, and what goes through its pipes.

It is a new interpreter, never a fork: a fork would have this process's locks and SQLite files.
"""

from __future__ import annotations

import json
import os
import select
import struct
import subprocess
import sys
from contextlib import suppress
from typing import IO

__all__ = ["Child", "can_start", "framed", "greet", "read_frame"]

# What a process says first. A program that is no Python interpreter, though it stands in
# sys.executable, would start itself and never say it.
GREETING = b"ratchetkeep"

_LENGTH = struct.Struct(">I")
_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.stdin.buffer.readline()); "
    "from {} import main; main()"
)


def can_start() -> bool:
    """True if there is an interpreter to start: a frozen program's executable is the program."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


class Child:
    """A process that runs the ``main`` of a module, as seen from here.

    :ivar tasks: the pipe that it is told what to do through.
    :ivar answers: the pipe that its answers come from.
    """

    def __init__(self, module: str) -> None:
        # Answers have a pipe of their own, since anything may print something when Python starts.
        receiving, sending = os.pipe()
        self.answers = os.fdopen(receiving, "rb")
        try:
            # A group of its own: Ctrl-C is for the copy, which ends its processes.
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BOOT.format(module), str(sending)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(sending,),
                process_group=0,
            )
        except BaseException:
            self.answers.close()
            raise
        finally:
            os.close(sending)
        assert self.process.stdin  # noqa: S101 - for mypy
        self.tasks = self.process.stdin
        with suppress(OSError):  # one that has ended already does not greet
            self.tell(json.dumps(sys.path).encode() + b"\n")

    def tell(self, data: bytes) -> None:
        """:raises OSError: if it has ended."""
        self.tasks.write(data)
        self.tasks.flush()

    def greets(self, patience: float) -> bool:
        """True once it is ready; False if it is not in so many seconds, or is none of ours."""
        said = select.poll()  # not select(), which takes no number above 1023
        said.register(self.answers, select.POLLIN)
        return bool(said.poll(patience * 1000)) and read_frame(self.answers) == GREETING

    def end(self) -> int:
        """End it, whatever it does; its exit code."""
        self.process.kill()
        code = self.process.wait()
        for pipe in (self.tasks, self.answers):
            with suppress(OSError):
                pipe.close()
        return code


def greet() -> tuple[IO[bytes], IO[bytes]]:
    """In the process: say that it is ready; the pipes for what is asked and for the answers."""
    asked, answers = sys.stdin.buffer, os.fdopen(int(sys.argv[1]), "wb")
    answers.write(framed(GREETING))
    answers.flush()
    return asked, answers


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
