"""Brings a folder's files up to date behind its journal, in a thread of its own.

A commit is acknowledged when the journal is synced; its files follow here at once. Until a file is
written its new bytes are read from memory, so the owner never sees an old one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from ratchetkeep.errors import OwnershipLost

from .disk import Disk
from .journal import Entry

# One name, reused: what a crash leaves of it is removed on open, and no library trips over it.
TEMPORARY = ".ratchetkeep.tmp"


class Follower:
    """Pending files of ``folder``; all methods are thread-safe.

    :param check: called before each file; raises OwnershipLost where they are no longer ours.
    :param background: write them at once, in a thread; else only when asked to settle.
    """

    def __init__(
        self, disk: Disk, folder: str, *, check: Callable[[], None], background: bool
    ) -> None:
        self._check = check
        self._background = background
        self._disk = disk
        self._folder = folder
        self._pending: dict[str, bytes | None] = {}
        self._touched: set[str] = set()
        self._failure: OSError | OwnershipLost | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stop = False

    def add(self, entries: Iterable[Entry]) -> None:
        """Take over the files of one commit."""
        with self._changed:
            for name, data in entries:
                self._pending.pop(name, None)
                self._pending[name] = data
            if self._thread is None and self._background:
                self._thread = threading.Thread(
                    target=self._run, name="ratchetkeep-files", daemon=True
                )
                try:
                    self._thread.start()
                except RuntimeError:  # no thread to be had, or the interpreter is ending
                    self._thread, self._background = None, False
            self._changed.notify_all()

    def look(self, name: str) -> tuple[bool, bytes | None]:
        """Whether the file is pending, and its bytes (None: to be removed)."""
        with self._changed:
            return name in self._pending, self._pending.get(name)

    @property
    def failure(self) -> OSError | OwnershipLost | None:
        """Why files stay behind their journal, if they do."""
        return self._failure

    def settle(self) -> None:
        """Wait until every file is written, and sync them and their names.

        :raises OSError: if that cannot be done; the journal must then be kept.
        :raises OwnershipLost: if they are no longer ours.
        """
        if not self._background:
            self.write_all()
        with self._changed:
            self._changed.wait_for(lambda: not self._pending or self._failure is not None)
            if self._failure is not None:
                raise self._failure
            touched, self._touched = self._touched, set()
        for name in sorted(touched):
            path = f"{self._folder}/{name}"
            if self._disk.exists(path):
                self._disk.sync(path)
        if touched:
            self._disk.sync_folder(self._folder)

    def stop(self) -> None:
        """End the thread; what is pending stays in the journal."""
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._pending) or self._stop)
                if self._stop:
                    return
            if not self.write_all():
                return

    def write_all(self) -> bool:
        """Write what is pending, not yet synced; False if that failed."""
        while (next_file := self._next()) is not None:
            name, data = next_file
            try:
                self._check()
                put_file(self._disk, self._folder, name, data)
            except Exception as error:  # noqa: BLE001 - whatever it is, closing must not wait for ever
                with self._changed:
                    if not isinstance(error, OSError | OwnershipLost):
                        error = OSError(0, type(error).__name__)
                    self._failure = error
                    self._changed.notify_all()
                return False
            with self._changed:
                self._touched.add(name)
                # Unless a newer commit has replaced it meanwhile.
                if name in self._pending and self._pending[name] is data:
                    del self._pending[name]
                self._changed.notify_all()
        return True

    def _next(self) -> Entry | None:
        with self._changed:
            return None if self._stop else next(iter(self._pending.items()), None)


def put_file(disk: Disk, folder: str, name: str, data: bytes | None) -> None:
    """Replace or remove one file, so that a reader sees the old or the new one whole."""
    path = f"{folder}/{name}"
    if data is None:
        disk.unlink(path)
    else:
        temporary = f"{folder}/{TEMPORARY}"
        disk.write(temporary, data)
        disk.rename(temporary, path)
