"""Where a backup goes: written beside its file, verified, and put there in one step; older ones
move on before that, and at every moment the file is a whole backup."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ratchetkeep._backup_age import is_encrypted
from ratchetkeep._backup_format import MAGIC
from ratchetkeep.errors import CommitFailed, DeviceExists
from ratchetkeep.stores._stage import staging_name, sweep
from ratchetkeep.stores.disk import Disk, flush

__all__ = ["Place", "Staged"]

# Where a file system has no second names for a file.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Staged:
    """A new file beside the place, for its owner alone."""

    def __init__(self, path: str, place: Place) -> None:
        self.path, self._place = path, place
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        self.size = 0

    def write(self, data: bytes) -> None:
        """Add bytes.

        :raises CommitFailed: if there is no room, or the disk fails.
        """
        view = memoryview(data)
        with self._place.writing():
            while view:
                view = view[os.write(self._descriptor, view) :]
        self.size += len(data)

    def sync(self) -> None:
        """Make the bytes durable; then let the system forget them, so that reading them back reads
        the disk."""
        with self._place.writing():
            flush(self._descriptor)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)


class Place:
    """The file of a backup, and older ones beside it: ``FILE.1`` is the youngest of them.

    :param keep: how many older ones to keep; None replaces the file.
    """

    def __init__(self, file: str, keep: int | None) -> None:
        self.shown = file
        # Of a link it is the file that is replaced, not the link.
        path = os.path.realpath(file) if os.path.islink(file) else os.path.abspath(file)
        self.path, self._keep = path, keep
        self._folder, name = os.path.split(path)
        self._prefix = f".{name}.ratchetkeep-backup-"
        self._disk = Disk()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around what writes: the system's error becomes ours."""
        try:
            yield
        except OSError as error:
            what = f"cannot be written: {error.strerror or 'output failed'}"
            remedy = "What was there before is whole. Mend the cause and make the backup again"
            raise CommitFailed(self.shown, what, remedy) from None

    def check(self) -> None:
        """See that nothing but a backup is replaced.

        :raises DeviceExists: if something else is there.
        """
        paths = [self.path]
        if self._keep is not None:
            paths += [self._older(number) for number in range(1, self._first_free() + 1)]
        for path in paths:
            if not self._is_backup(path):
                what = "holds something that is no backup"
                remedy = "Nothing was changed. Name another file"
                raise DeviceExists(self._name_of(path), what, remedy)

    def _is_backup(self, path: str) -> bool:
        """Whether a backup is there, or nothing."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        try:
            start = os.read(descriptor, 64)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return start.startswith(MAGIC) or is_encrypted(start)

    @contextmanager
    def staged(self) -> Iterator[Staged]:
        """A new file beside the place, which goes away unless it is put there."""
        with self.writing():
            sweep(self._disk, self._folder, self._prefix)
            path = f"{self._folder}/{staging_name(self._prefix)}"
            staged = Staged(path, self)
        try:
            try:
                yield staged
            finally:
                staged.close()
        finally:
            with suppress(OSError):
                self._disk.unlink(path)

    def put(self, staged: Staged) -> None:
        """Put the new file in its place. Killed anywhere, the file is whole, the old one or the new
        one, and all that is to be kept is there: the next backup finishes.

        :raises CommitFailed: if that failed.
        """
        with self.writing(), self._alone():
            if self._keep is not None:
                self._make_room()
            os.replace(staged.path, self.path)
            self._disk.sync_folder(self._folder)
            if self._keep is not None:
                self._drop_beyond(self._keep)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other backups to this folder out: two that move the same files would lose some."""
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with suppress(OSError):  # where a folder cannot be locked
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _make_room(self) -> None:
        """Give the file a second name, as the first of the older ones."""
        try:
            now = os.stat(self.path)
        except FileNotFoundError:
            return
        first = self._older(1)
        if os.path.lexists(first) and os.path.samestat(now, os.lstat(first)):
            return  # a backup that was killed came as far as this
        # Up to the first gap, which one that was killed may have left, and from there down.
        for number in range(self._first_free(), 1, -1):
            os.rename(self._older(number - 1), self._older(number))
        self._link(first)
        self._disk.sync_folder(self._folder)

    def _link(self, first: str) -> None:
        try:
            os.link(self.path, first)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            copied = f"{self._folder}/{staging_name(self._prefix)}"
            try:
                descriptor = os.open(copied, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with open(descriptor, "wb") as target, open(self.path, "rb") as source:
                    shutil.copyfileobj(source, target)
                self._disk.sync(copied)
                os.rename(copied, first)
            finally:
                self._disk.unlink(copied)

    def _drop_beyond(self, keep: int) -> None:
        """Remove the older ones that are too many."""
        last = self._first_free() - 1
        for number in range(last, keep, -1):
            self._disk.unlink(self._older(number))
        if last > keep:
            self._disk.sync_folder(self._folder)

    def older(self) -> list[str]:
        """The older backups that are there, the youngest first."""
        return [self._name_of(self._older(each)) for each in range(1, self._first_free())]

    def _first_free(self) -> int:
        number = 1
        while os.path.lexists(self._older(number)):
            number += 1
        return number

    def _older(self, number: int) -> str:
        return f"{self.path}.{number}"

    def _name_of(self, path: str) -> str:
        return self.shown + path.removeprefix(self.path)
