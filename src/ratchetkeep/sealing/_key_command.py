"""Running a command that prints a key."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Sequence

from ratchetkeep.errors import StoreUnreadable

REMEDY = "Nothing was changed. Run the command by hand to see why"


def run(argv: Sequence[str], limit: int, timeout: float) -> bytes:
    """What the command prints.

    :param limit: how much it may print, in bytes.
    :param timeout: what it may take, in seconds.
    :raises StoreUnreadable: if it cannot be run, fails, prints too much or takes too long.
    """
    printed, problem = _run(argv, limit, time.monotonic() + timeout)
    if problem:
        place = f"key command {argv[0]}"
        del printed, argv  # a traceback shows the variables of this frame
        raise StoreUnreadable(place, problem, REMEDY)
    return printed


def _run(argv: Sequence[str], limit: int, end: float) -> tuple[bytes, str]:
    """What it printed, and what went wrong or ""."""
    try:
        # Its standard error stays ours: what it says there is for the user, and we do not keep it.
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0
        )
    except OSError as error:
        return b"", f"cannot be run: {error.strerror}"
    assert process.stdout is not None  # noqa: S101 - for types
    try:
        printed, problem = _output(process.stdout.fileno(), limit, end)
        if problem:
            return b"", problem
        try:
            code = process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            return b"", "took too long, and was ended"
        return printed, _failure(code)
    finally:
        process.stdout.close()  # what it started may still hold the other end
        if process.poll() is None:
            process.kill()
            process.wait()


def _output(descriptor: int, limit: int, end: float) -> tuple[bytes, str]:
    """All that comes until the end of the stream, and what went wrong or ""."""
    printed = b""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while poll.poll(max(0.0, end - time.monotonic()) * 1000):
        part = os.read(descriptor, limit + 1 - len(printed))
        if not part:
            return printed, ""
        printed += part
        if len(printed) > limit:
            return b"", f"printed more than {limit // 1024} KiB, and was ended"
    return b"", "took too long, and was ended"


def _failure(code: int) -> str:
    if code < 0:
        return f"was ended by signal {-code}"
    return f"failed with exit code {code}" if code else ""
