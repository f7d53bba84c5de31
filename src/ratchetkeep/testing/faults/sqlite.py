"""A SQLite VFS over the system's own that mirrors every write, sync and removal on a simulated
disk, and can be told to fail or to be slow. The database runs with our real settings."""

from __future__ import annotations

import itertools
import os
import time
from types import TracebackType
from typing import Self

import apsw

from .disk import SimulatedDisk

_NUMBERS = itertools.count()


class MirroredVFS(apsw.VFS):
    """Use it as a context manager; ``name`` is what a connection or ``SqliteStore(vfs=)`` takes.

    Files that are in the folder already when they are first opened are taken to be durable.

    :param disk: the disk that mirrors the files, by base name in its root.
    :param sync_seconds: how long a sync takes at least.
    """

    def __init__(self, disk: SimulatedDisk, *, sync_seconds: float = 0.0) -> None:
        self.disk = disk
        self.sync_seconds = sync_seconds
        self.name = f"ratchetkeep-mirror-{os.getpid()}-{next(_NUMBERS)}"
        self._failures: dict[str, tuple[int, type[apsw.Error]]] = {}
        super().__init__(self.name, "")

    def fail(self, verb: str, error: type[apsw.Error], *, after: int = 0) -> None:
        """Let ``write``, ``sync`` or ``delete`` fail, all but the next ``after`` times."""
        self._failures[verb] = (after, error)

    def heal(self) -> None:
        """Let everything work again."""
        self._failures.clear()

    def enter(self, verb: str) -> None:
        """Fail if told to."""
        if verb not in self._failures:
            return
        left, error = self._failures[verb]
        if left <= 0:
            raise error(f"told to fail: {verb}")
        self._failures[verb] = (left - 1, error)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if not path or not flags[0] & (apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_WAL):
            return apsw.VFSFile("", name, flags)
        return _MirroredFile(self, name, path, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self.enter("delete")
        super().xDelete(filename, syncdir)
        self.disk.unlink("/" + os.path.basename(filename))
        if syncdir:
            self.disk.sync_folder("/")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.unregister()


class _MirroredFile(apsw.VFSFile):
    def __init__(
        self, vfs: MirroredVFS, name: str | apsw.URIFilename | None, path: str, flags: list[int]
    ) -> None:
        before = _content(path)
        super().__init__("", name, flags)
        self._vfs = vfs
        self._path = "/" + os.path.basename(path)
        disk = vfs.disk
        if before is not None and not disk.exists(self._path):
            disk.adopt(self._path, before)
        elif before is None:
            disk.write_unsynced(self._path, 0, b"")
        # SQLite's own VFS syncs the folder with the first sync of a log that it made.
        self._syncs_folder = before is None and bool(flags[0] & apsw.SQLITE_OPEN_WAL)

    def xWrite(self, data: bytes, offset: int) -> None:
        try:
            self._vfs.enter("write")
        except apsw.Error:
            half = bytes(data)[: len(data) // 2]
            super().xWrite(half, offset)
            self._vfs.disk.write_unsynced(self._path, offset, half)
            raise
        super().xWrite(data, offset)
        self._vfs.disk.write_unsynced(self._path, offset, bytes(data))

    def xTruncate(self, newsize: int) -> None:
        super().xTruncate(newsize)
        self._vfs.disk.truncate(self._path, newsize)

    def xSync(self, flags: int) -> None:
        self._vfs.enter("sync")
        super().xSync(flags)
        if self._vfs.sync_seconds:
            time.sleep(self._vfs.sync_seconds)
        self._vfs.disk.sync(self._path)
        if self._syncs_folder:
            self._vfs.disk.sync_folder("/")
            self._syncs_folder = False


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


__all__ = ["MirroredVFS"]
