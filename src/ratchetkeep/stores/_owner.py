"""One owner a place: an OS lock on a file, and a note beside it that says who holds it.

The lock itself is ``filelock``'s: the operating system drops it when its process ends, however that
happens, so a note left by a dead process, another host or a reused pid is only words, never a lock.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ratchetkeep.errors import OwnershipLost, StoreInUse, StoreUnreadable

# A closing owner unlinks its lock file as its last act; a few tries get past that moment.
PATIENCE = 0.2


class Ownership:
    """The ownership of the place that ``lock_path`` stands for.

    :param place: the place's name in errors.
    """

    def __init__(self, place: str, lock_path: Path, note_path: Path) -> None:
        self.place = place
        self.note_path = note_path
        self.lock_path = lock_path
        self._lock = FileLock(lock_path, mode=0o600, thread_local=False, is_singleton=False)
        self._pid = 0
        self._file = (0, 0)

    def take(self) -> None:
        """Become the owner.

        :raises StoreInUse: naming the holder.
        :raises StoreUnreadable: if the lock file cannot be made (a read-only disk, say).
        """
        try:
            # Once more, if there is no lock file in the end: its owner may have closed just then.
            is_ours = self._try() or (not self.lock_path.exists() and self._try())
        except OSError as error:
            raise self._cannot_lock(str(error.strerror)) from None
        if not is_ours:
            if not self.lock_path.exists():
                raise self._cannot_lock("no lock file can be made there")
            holder = read_holder(self.note_path)
            what = f"is in use by {holder or 'another process'}"
            raise StoreInUse(self.place, what, holder=holder)
        self._pid = os.getpid()
        self._file = self._lock_file()
        with suppress(OSError):
            self._write_note()

    def _try(self) -> bool:
        with suppress(Timeout):
            self._lock.acquire(timeout=PATIENCE, poll_interval=0.02)
            return True
        return False

    def _lock_file(self) -> tuple[int, int]:
        """Which file is under the lock's name now; (0, 0) for none."""
        try:
            found = os.lstat(self.lock_path)
        except OSError:
            return (0, 0)
        return found.st_dev, found.st_ino

    def _cannot_lock(self, why: str) -> StoreUnreadable:
        remedy = "Make it writable, or open it with read_only=True"
        return StoreUnreadable(self.place, f"cannot be locked: {why}", remedy)

    def _write_note(self) -> None:
        since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        note = {"pid": self._pid, "host": socket.gethostname(), "since": since}
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        descriptor = os.open(self.note_path, flags, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(note, file)

    def check(self) -> None:
        """Refuse to write in a process that is not the owner: a forked child, or one whose lock
        file somebody removed, so that another process may own the place by now.

        :raises OwnershipLost: there.
        """
        if os.getpid() != self._pid:
            raise OwnershipLost(self.place, "was opened by another process, which forked this one")
        if self._lock_file() != self._file:
            raise OwnershipLost(
                self.place, f"its lock file {self.lock_path.name} was moved or removed"
            )

    def holder(self) -> str:
        """Who owns the place now, in words; "" if nobody does. Changes nothing."""
        if not self.lock_path.exists():
            return ""
        lock = FileLock(self.lock_path, thread_local=False, is_singleton=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return read_holder(self.note_path) or "another process"
        except OSError:
            return ""
        lock.release()
        return ""

    @property
    def is_forked(self) -> bool:
        """True in a process that was forked after the place was taken."""
        return self._pid not in (0, os.getpid())

    def release(self) -> None:
        """Give the place back; nothing of the lock stays behind."""
        if os.getpid() != self._pid:
            return
        self._pid = 0
        if self._lock_file() == self._file:  # else they are another owner's
            for path in (self.note_path, self.lock_path):
                with suppress(OSError):
                    path.unlink()
        self._lock.release()


def read_holder(note_path: Path) -> str:
    """Who the note says holds the place: process, host, since; "" if it says nothing."""
    try:
        note = json.loads(note_path.read_text()[:4096])
        return f"process {int(note['pid'])} on {note['host']!s:.80} since {note['since']!s:.40}"
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return ""
