"""The processes of a PostgreSQL server, from outside: all of them killed, or frozen for a while."""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

SECONDS = 60


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on.

    It is below those that the system gives to clients: a server that is started again finds it
    free, and a client that tries again and again meanwhile is never connected to itself.
    """
    for port in random.sample(range(20000, 32000), 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def kill(postmaster: int) -> None:
    """Kill the server with all that it started; on return no child is left.

    The postmaster itself is a child of ours, and for the caller to wait for.
    """
    ours = freeze(postmaster)
    # A process id can be given away again, these cannot.
    handles = [os.pidfd_open(pid) for pid in ours]
    try:
        for handle in handles:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        for handle in handles:
            ended, _, _ = select.select([handle], [], [], SECONDS)
            assert ended, "a process of the server survived its kill"
    finally:
        for handle in handles:
            os.close(handle)


def freeze(postmaster: int) -> list[int]:
    """Stop the server with all that it started, where they stand; gives their ids."""
    # The postmaster first: it can start nothing any more.
    _stop([postmaster])
    children = _children(postmaster)
    _stop(children)
    return [postmaster, *children]


def thaw(processes: Sequence[int]) -> None:
    """Let them go on."""
    for pid in reversed(processes):
        os.kill(pid, signal.SIGCONT)


def _stop(processes: Sequence[int]) -> None:
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + SECONDS
    while not all(_state(pid)[0] in "TZ" for pid in processes):
        assert time.monotonic() < until, "a process of the server does not stop"
        time.sleep(0.001)


def _children(parent: int) -> list[int]:
    numbers = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())
    return [pid for pid in numbers if _state(pid)[1] == parent and _state(pid)[0] != "Z"]


def _state(pid: int) -> tuple[str, int]:
    """The state of a process and its parent; Z if it is gone."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "Z", 0
    state, parent = status.rpartition(")")[2].split()[:2]
    return state, int(parent)
