"""The log file of the application on a device: which messages came in, and what they said.

A line is written inside the transaction that takes a message in, before it is committed, and a
second one after the commit. After a crash a message with the first line alone is tried again: the
transaction may or may not have been committed. If the store refused the commit, a line says so, and
the first line does not count: another worker must be able to read the message.

Several workers of a device may write at the same time, one of which owns it; each line says whose
it is.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

BEFORE, AFTER, REFUSED = "before", "after", "refused"


class Log:
    """The lines of one device, as they are when a worker opens it; then its own are added.

    :ivar committed: the messages with a line after the commit.
    """

    def __init__(self, path: Path, life: int = 0) -> None:
        self.committed: set[str] = set()
        self._life = life
        # By message and by worker.
        self._texts: dict[str, dict[int, str]] = {}
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        data = path.read_bytes()
        for line in data.split(b"\n"):
            self._take_line(line)
        if data and not data.endswith(b"\n"):
            # A line that a kill has cut off says nothing. It is not removed: another worker may
            # have written behind it meanwhile.
            os.write(self._fd, b"\n")

    def text_of(self, id: str) -> str | None:
        """What a message said. One that came out a second time with another text has both."""
        noted = dict.fromkeys(self._texts.get(id, {}).values())
        return " | ".join(noted) if noted else None

    @property
    def texts(self) -> dict[str, str]:
        """What each message said."""
        found = {id: self.text_of(id) for id in self._texts}
        return {id: text for id, text in found.items() if text is not None}

    def before(self, id: str, text: str) -> None:
        """Note a message that is about to be committed."""
        self._write(id, BEFORE, text)

    def after(self, id: str) -> None:
        """Note that it is committed."""
        self._write(id, AFTER, "")

    def refused(self, id: str) -> None:
        """Note that its commit was refused, so that nothing of it is stored."""
        self._write(id, REFUSED, "")

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _write(self, id: str, mark: str, text: str) -> None:
        os.write(self._fd, json.dumps([id, mark, text, self._life]).encode() + b"\n")
        self._take(id, mark, text, self._life)

    def _take_line(self, line: bytes) -> None:
        try:
            fields = json.loads(line)
        except ValueError:
            return
        self._take(*fields)

    def _take(self, id: str, mark: str, text: str, life: int) -> None:
        if mark == AFTER:
            self.committed.add(id)
        elif mark == REFUSED:
            self._texts.get(id, {}).pop(life, None)
        else:
            noted = self._texts.setdefault(id, {})
            former = noted.get(life, text)
            noted[life] = text if former == text else f"{former} | {text}"
