"""A terminal at which somebody sits and types."""

from __future__ import annotations

import os
import pty
import select
import time


def shown_on_terminal(command: list[str], typed: list[str], **environment: str) -> str:
    """All that a terminal shows while a command runs there.

    :param typed: what is typed, one after each question, which ends in a colon.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(command[0], command, {**os.environ, **environment})
    shown, waiting = "", list(typed)
    end = time.monotonic() + 60
    try:
        while time.monotonic() < end:
            if not select.select([terminal], [], [], 1)[0]:
                continue
            try:
                part = os.read(terminal, 4096)
            except OSError:  # Linux says so when the other end is closed
                break
            if not part:
                break
            shown += part.decode()
            if shown.endswith(": ") and waiting:
                os.write(terminal, waiting.pop(0).encode())
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)
    assert waiting == []
    return shown
