"""One file a record, each made durable by itself, with a manifest: what BaileysEx does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from time import perf_counter_ns

from benchmarks.data import Change

from .base import Peer

_MANIFEST = "manifest"


class OneFile(Peer):
    """Each record and then the manifest of all ids: a new file, its sync, a rename, and the sync
    of the folder. Reading the manifest back twice a record, as BaileysEx does, is left out, and so
    is the work of its virtual machine: both would only make it slower."""

    name = "one file per record, fsync (as BaileysEx)"
    syncs = "four syncs a record, not atomic"
    most = 10_000
    is_slow = True
    is_folder = True
    reads = False

    def build(self) -> None:
        for key, data in self.data.first_rows(self.size).items():
            (self.folder / "-".join(key)).write_bytes(data)

    def open(self) -> int:
        start = perf_counter_ns()
        self._ids = dict.fromkeys(sorted(set(os.listdir(self.folder)) - {_MANIFEST}))
        self._lines = "\n".join(self._ids).encode()
        (self.folder / "creds-creds").read_bytes()
        return perf_counter_ns() - start

    def close(self) -> None:
        self._ids = {}

    def commits(self, changes: Sequence[Change]) -> list[int]:
        return [self._commit(change) for change in changes]

    def _commit(self, change: Change) -> int:
        rows = [("-".join(key), data) for key, data in self.data.rows(change).items()]
        start = perf_counter_ns()
        for name, data in rows:
            if data is None:
                os.unlink(self.folder / name)
                self._sync_folder()
            else:
                self._put(name, data)
            self._list(name, data is not None)
            self._put(_MANIFEST, self._lines)
        return perf_counter_ns() - start

    def _list(self, name: str, is_there: bool) -> None:
        if is_there == (name in self._ids):
            return
        if is_there:
            self._ids[name] = None
        else:
            del self._ids[name]
        self._lines = "\n".join(self._ids).encode()

    def _put(self, name: str, data: bytes) -> None:
        path = f"{self.folder}/{name}"
        temporary = f"{path}.tmp"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
        self._sync_folder()

    def _sync_folder(self) -> None:
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
