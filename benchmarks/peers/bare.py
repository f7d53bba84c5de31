"""The limit: overwriting the same bytes in a file that has its size already, then one sync."""

from __future__ import annotations

import os
from collections.abc import Sequence
from time import perf_counter_ns

from benchmarks.data import Change

from .base import Peer

# As a log would, it goes round in the file. Written in full first: a hole would be filled later.
FILE_BYTES = 16 * 1024 * 1024


class BareLimit(Peer):
    """``pwrite`` and ``fdatasync``; nothing durable can be faster on this disk."""

    name = "bare limit"
    syncs = "one sync"
    reads = False

    def build(self) -> None:
        with open(self.folder / "bytes", "wb") as file:
            file.write(os.urandom(FILE_BYTES))
            os.fsync(file.fileno())

    def open(self) -> int:
        start = perf_counter_ns()
        self._file = os.open(self.folder / "bytes", os.O_WRONLY)
        self._at = 0
        return perf_counter_ns() - start

    def close(self) -> None:
        os.close(self._file)

    def commits(self, changes: Sequence[Change]) -> list[int]:
        return [self._commit(b"".join(self._parts(change))) for change in changes]

    def _parts(self, change: Change) -> list[bytes]:
        return [data or b"" for data in self.data.rows(change).values()]

    def _commit(self, data: bytes) -> int:
        if self._at + len(data) > FILE_BYTES:
            self._at = 0
        start = perf_counter_ns()
        os.pwrite(self._file, data, self._at)
        os.fdatasync(self._file)
        taken = perf_counter_ns() - start
        self._at += len(data)
        return taken
