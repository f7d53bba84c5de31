"""Brings a folder's files up to date behind its journal, in a thread of its own.

A commit is acknowledged when the journal is synced; its files follow here, after a short pause, so
that a file that changes with every message is written once for many commits. Until a file is
written its new bytes are read from memory, so the owner never sees an old one.

The list of all ids that BaileysEx keeps grows with the device. It is written last and less often.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from ratchetkeep.errors import OwnershipLost

from .disk import Disk
from .journal import Entry

# One name, reused: what a crash leaves of it is removed on open, and no library trips over it.
TEMPORARY = ".ratchetkeep.tmp"

# Seconds after a change in which others may join it: files, and the list of ids.
PAUSE, LIST_PAUSE = 0.05, 2.0


class Follower:
    """Pending files of ``folder``; all methods are thread-safe.

    :param check: called before each file; raises OwnershipLost where they are no longer ours.
    :param background: write them by itself, in a thread; else only when asked to settle.
    :param list_name: the file that lists all ids, or "".
    :param make_list: its bytes as of now, None for no file; called in any thread, without a lock.
    """

    def __init__(
        self,
        disk: Disk,
        folder: str,
        *,
        check: Callable[[], None],
        background: bool,
        list_name: str = "",
        make_list: Callable[[], bytes | None] = lambda: None,
    ) -> None:
        self._check = check
        self._background = background
        self._disk = disk
        self._folder = folder
        self._list_name = list_name
        self._make_list = make_list
        self._pending: dict[str, bytes | None] = {}
        # When the list is to be written, on the monotonic clock; None: it is up to date.
        self._list_due: float | None = None
        self._list_version = 0
        self._touched: set[str] = set()
        self._failure: OSError | OwnershipLost | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_idle = False
        self._is_awaited = False
        self._stop = False

    def add(self, entries: Iterable[Entry], *, of_ids: bool = False) -> None:
        """Take over the files of one commit.

        :param of_ids: the list of ids changes too.
        """
        with self._changed:
            for name, data in entries:
                self._pending.pop(name, None)
                self._pending[name] = data
            if of_ids:
                self._list_version += 1
                if self._list_due is None:
                    self._list_due = time.monotonic() + LIST_PAUSE
            if self._thread is None and self._background:
                self._start()
            if self._is_idle:
                # Only then: a thread that is woken by every commit takes the interpreter from it.
                self._is_idle = False
                self._changed.notify_all()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="ratchetkeep-files", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no thread to be had, or the interpreter is ending
            self._thread, self._background = None, False

    def look(self, name: str) -> tuple[bool, bytes | None]:
        """Whether the file is pending, and its bytes (None: to be removed)."""
        with self._changed:
            return name in self._pending, self._pending.get(name)

    @property
    def failure(self) -> OSError | OwnershipLost | None:
        """Why files stay behind their journal, if they do."""
        return self._failure

    def settle(self) -> None:
        """Wait until every file is written, and sync them and their names. Nothing may be added
        meanwhile.

        :raises OSError: if that cannot be done; the journal must then be kept.
        :raises OwnershipLost: if they are no longer ours.
        """
        if not self._background:
            self.write_all()
        with self._changed:
            self._is_awaited, self._is_idle = True, False
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self._failure is not None or not self._is_behind())
            finally:
                self._is_awaited = False
            if self._failure is not None:
                raise self._failure
            touched, self._touched = self._touched, set()
        try:
            self._sync(touched)
        except OSError as error:
            # For good: a sync that is tried again can succeed without the bytes.
            self._failure = error
            raise

    def _sync(self, touched: Iterable[str]) -> None:
        for name in sorted(touched):
            path = f"{self._folder}/{name}"
            if self._disk.exists(path):
                self._disk.sync(path)
        if touched:
            self._disk.sync_folder(self._folder)

    def _is_behind(self) -> bool:
        return bool(self._pending) or self._list_due is not None

    def stop(self) -> None:
        """End the thread; what is pending stays in the journal."""
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while self._wait():
            # The list is late by choice, unless somebody waits.
            if not self._write(with_list=self._is_awaited or self._is_list_late()):
                return

    def _wait(self) -> bool:
        """Wait until there is something to write and time to write it; False to end."""
        with self._changed:
            while not self._is_hurried():
                if self._pending:
                    self._pause(PAUSE)
                    break
                if self._is_list_late():
                    break
                if self._list_due is not None:
                    # No commit wakes it, so it looks again soon: there may be files.
                    self._pause(PAUSE)
                    continue
                self._is_idle = True
                self._changed.wait_for(lambda: not self._is_idle or self._stop)
            return not self._stop

    def _is_hurried(self) -> bool:
        return self._stop or (self._is_awaited and self._is_behind())

    def _pause(self, seconds: float) -> None:
        self._changed.wait_for(self._is_hurried, seconds)

    def _is_list_late(self) -> bool:
        return self._list_due is not None and time.monotonic() >= self._list_due

    def write_all(self) -> bool:
        """Write what is pending, not yet synced; False if that failed."""
        return self._write(with_list=True)

    def _write(self, *, with_list: bool) -> bool:
        try:
            while (next_file := self._next()) is not None:
                self._check()
                put_file(self._disk, self._folder, *next_file)
                self._done(*next_file)
            if with_list:
                self._write_list()
        except Exception as error:  # noqa: BLE001 - whatever it is, closing must not wait for ever
            with self._changed:
                if not isinstance(error, OSError | OwnershipLost):
                    error = OSError(0, type(error).__name__)
                self._failure = error
                self._changed.notify_all()
            return False
        return True

    def _write_list(self) -> None:
        with self._changed:
            if self._list_due is None or self._stop:
                return
            version = self._list_version
        self._check()
        # The journal holds what changes in a list, never all of it: a power cut must leave the old
        # list or this one, whole.
        put_file(self._disk, self._folder, self._list_name, self._make_list(), sync=True)
        with self._changed:
            self._touched.add(self._list_name)
            is_newest = version == self._list_version
            self._list_due = None if is_newest else time.monotonic() + LIST_PAUSE
            self._changed.notify_all()

    def _done(self, name: str, data: bytes | None) -> None:
        with self._changed:
            self._touched.add(name)
            # Unless a newer commit has replaced it meanwhile.
            if name in self._pending and self._pending[name] is data:
                del self._pending[name]
            self._changed.notify_all()

    def _next(self) -> Entry | None:
        with self._changed:
            return None if self._stop else next(iter(self._pending.items()), None)


def put_file(disk: Disk, folder: str, name: str, data: bytes | None, *, sync: bool = False) -> None:
    """Replace or remove one file, so that a reader sees the old or the new one whole; with
    ``sync``, so does who reads it after a power cut."""
    path = f"{folder}/{name}"
    if data is None:
        disk.unlink(path)
    else:
        temporary = f"{folder}/{TEMPORARY}"
        disk.write(temporary, data)
        if sync:
            disk.sync(temporary)
        disk.rename(temporary, path)
