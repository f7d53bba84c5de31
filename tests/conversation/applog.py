"""The log file of the application on a device: which messages came in, and what they said.

A line is written inside the transaction that takes a message in, before it is committed, and a
second one after the commit. After a crash a message with the first line alone is tried again: the
transaction may or may not have been committed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

BEFORE, AFTER = "before", "after"


class Log:
    """The lines of one device; ``texts`` and ``committed`` are kept in memory too. A message that
    came out a second time with another text has both."""

    def __init__(self, path: Path) -> None:
        self.texts: dict[str, str] = {}
        self.committed: set[str] = set()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        data = path.read_bytes()
        for line in data.split(b"\n")[:-1]:
            self._take(*json.loads(line))
        # A line that a kill has cut off says nothing.
        os.ftruncate(self._fd, data.rfind(b"\n") + 1)

    def before(self, id: str, text: str) -> None:
        """Note a message that is about to be committed."""
        self._write(id, BEFORE, text)

    def after(self, id: str) -> None:
        """Note that it is committed."""
        self._write(id, AFTER, "")

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _write(self, id: str, mark: str, text: str) -> None:
        os.write(self._fd, json.dumps([id, mark, text]).encode() + b"\n")
        self._take(id, mark, text)

    def _take(self, id: str, mark: str, text: str) -> None:
        if mark == AFTER:
            self.committed.add(id)
        else:
            former = self.texts.get(id, text)
            self.texts[id] = text if former == text else f"{former} | {text}"
