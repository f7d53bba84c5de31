"""What the folder stores ask of a disk: few verbs, so that tests can put a failing one there.

Paths are ``str``. Nothing is durable before ``sync`` (a file's bytes) and ``sync_folder`` (its
name).
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from ._owner import Ownership

MAX_FILE = 64 * 1024 * 1024


class OpenFile:
    """A file that is held open for writing. It is closed when it is let go, at the latest.

    Writing through a descriptor goes on where nobody looks once the file was moved or removed:
    ask :meth:`is_in_place` after a write, before anything is promised.
    """

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._path = path
        found = os.fstat(descriptor)
        self._which = found.st_dev, found.st_ino
        self._link = f"/proc/self/fd/{descriptor}"
        self._name = self._name_now()

    def write(self, offset: int, data: bytes) -> None:
        """Write at ``offset``, not yet synced."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            offset, view = offset + written, view[written:]

    def write_at(self, offset: int, data: bytes) -> None:
        """Write at ``offset`` and sync the bytes; the file's time may not be durable."""
        self.write(offset, data)
        flush(self._descriptor, data_only=True)

    def sync(self) -> None:
        """Make the bytes durable, and the file's size and time."""
        flush(self._descriptor)

    def is_in_place(self) -> bool:
        """True if the file still has the name that it was opened under."""
        # Not by its status where that can be helped: Linux gives a file whose time was asked for a
        # new one at the next write, and a sync then takes a third longer.
        if self._name:
            return self._name_now() == self._name
        try:
            found = os.lstat(self._path)
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == self._which

    def _name_now(self) -> str:
        """What Linux calls the file: another name once it was moved, removed or replaced."""
        try:
            return os.readlink(self._link)
        except OSError:
            return ""

    def close(self) -> None:
        """Close it; fine if it is closed."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        with suppress(OSError, AttributeError):
            self.close()


class Disk:
    """The real disk. All verbs raise OSError."""

    def ownership(self, place: str, folder: str) -> Ownership:
        """The lock of a folder, which is called ``place`` in errors."""
        lock, note = (Path(folder, f".ratchetkeep.{name}") for name in ("lock", "owner"))
        return Ownership(place, lock, note)

    def list(self, folder: str) -> list[str]:
        """Names in ``folder``."""
        return os.listdir(folder)

    def is_folder(self, path: str) -> bool:
        """True for a folder; False only if nothing or something else is there."""
        try:
            return stat.S_ISDIR(os.stat(path).st_mode)
        except FileNotFoundError:
            return False

    def exists(self, path: str) -> bool:
        """True for anything at all under this name, a broken link too."""
        try:
            os.lstat(path)
        except FileNotFoundError:
            return False
        return True

    def mode(self, path: str) -> int:
        """Type and permission bits of what is there; a link is not followed."""
        return os.lstat(path).st_mode

    def make_folder(self, path: str) -> None:
        """Make a folder for its owner alone, and the ones above it; their names are synced."""
        above = os.path.dirname(os.path.abspath(path))
        if not self.is_folder(above):
            self.make_folder(above)
        os.mkdir(path, 0o700)
        self.sync_folder(above)

    def read_large(self, path: str) -> bytes:
        """All bytes of a file of ours, which may be larger than a record."""
        return self._read(path, 1 << 36)

    def read(self, path: str) -> bytes:
        """All bytes of a plain file; a link in its place is an error."""
        return self._read(path, MAX_FILE)

    def _read(self, path: str, limit: int) -> bytes:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            size = os.fstat(descriptor).st_size
            if size > limit:
                raise OSError(errno.EFBIG, "larger than any record")
            asked = max(size + 1, 65536)
            part = os.read(descriptor, asked)
            if len(part) == size:
                return part  # more was asked for, so this is where it ends
            parts = []
            while part:
                parts.append(part)
                part = os.read(descriptor, asked)
            return b"".join(parts)
        finally:
            os.close(descriptor)

    def modified(self, path: str) -> int:
        """When the file's bytes last changed, in nanoseconds."""
        return os.stat(path, follow_symlinks=False).st_mtime_ns

    def write(self, path: str, data: bytes) -> None:
        """Write a new file, or all of an old one, readable by its owner alone."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            _write_all(descriptor, data)
        finally:
            os.close(descriptor)

    def open_new(self, path: str) -> OpenFile:
        """Make a file, readable by its owner alone, and hold it open; an error if it is there."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return OpenFile(os.open(path, flags, 0o600), path)

    def rename(self, old: str, new: str) -> None:
        """Rename, replacing what is there."""
        os.replace(old, new)

    def rename_folder(self, old: str, new: str) -> None:
        """Rename a folder; ``new`` must be missing or empty."""
        os.rename(old, new)

    def unlink(self, path: str) -> None:
        """Remove a file; fine if it is gone."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            return

    def remove_tree(self, path: str) -> None:
        """Remove a folder of ours with all in it; fine if it is gone."""
        shutil.rmtree(path, ignore_errors=True)

    def remove_folder(self, path: str) -> None:
        """Remove an empty folder."""
        os.rmdir(path)

    def sync(self, path: str) -> None:
        """Make a file's bytes durable."""
        self._sync(path, os.O_RDONLY)

    def sync_folder(self, path: str) -> None:
        """Make the names in a folder durable."""
        self._sync(path, os.O_RDONLY | os.O_DIRECTORY)

    def hurry(self, path: str) -> None:
        """Let all that was written to the folder's disk be on its way at once. Nothing is promised,
        but syncing many files after this takes a tenth of the time."""
        import ctypes  # only for large writes: it takes long to load

        # Linux has it, Python does not.
        syncfs = getattr(ctypes.CDLL(None), "syncfs", None)
        if syncfs is None:
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syncfs(descriptor)
        finally:
            os.close(descriptor)

    def _sync(self, path: str, flags: int) -> None:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
        try:
            flush(descriptor)
        finally:
            os.close(descriptor)


def flush(descriptor: int, *, data_only: bool = False) -> None:
    """Make an open file durable: its bytes, and unless ``data_only`` all of its metadata."""
    if hasattr(fcntl, "F_FULLFSYNC"):  # macOS, where fsync stops at the drive's own cache
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    elif data_only:
        os.fdatasync(descriptor)
    else:
        os.fsync(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
