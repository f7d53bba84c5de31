"""What every repair shares: its report, ownership meanwhile, and copies of what it replaces."""

from __future__ import annotations

import datetime
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ratchetkeep.errors import CommitFailed, StoreInUse
from ratchetkeep.stores._owner import Ownership
from ratchetkeep.stores._stage import sweep
from ratchetkeep.stores.disk import Disk

KEPT = ".ratchetkeep-kept-"

# Names that a report gives before it only counts.
EXAMPLES = 5


@dataclass(frozen=True)
class Repair:
    """Something that was mended, or with ``dry_run`` would be.

    :ivar place: the file or folder.
    :ivar what: what was the matter, and what was done; no content.
    :ivar kept: path of the copy of what was replaced, or "".
    """

    place: str
    what: str
    kept: str = ""


class Job:
    """Collects the repairs, and keeps a copy of what they replace."""

    def __init__(self, target: str, *, shown: str, dry_run: bool) -> None:
        self.target = target
        self._shown = shown
        self.dry_run = dry_run
        self.disk = Disk()
        self.repairs: list[Repair] = []
        self._folder = ""

    def note(self, place: str, what: str, kept: str = "") -> None:
        """Report a repair; places in the target are shown as its user named it."""
        if place == self.target or place.startswith(self.target + "/"):
            place = self._shown + place[len(self.target) :]
        self.repairs.append(Repair(place, what, kept))

    @contextmanager
    def writing(self, place: str) -> Iterator[None]:
        """Around what writes: a system that refuses is named."""
        try:
            yield
        except OSError as error:
            what = f"cannot be mended: {error.strerror}"
            raise CommitFailed(place, what, "Mend the cause and run it again") from None

    @contextmanager
    def owning(self, owner: Ownership) -> Iterator[None]:
        """Own the place meanwhile; what a dead owner left of its lock is gone after it."""
        marks = [str(p) for p in (owner.lock_path, owner.note_path) if os.path.lexists(p)]
        if not self.dry_run:
            owner.take()
        elif holder := owner.holder():
            raise StoreInUse(owner.place, f"is in use by {holder}", holder=holder)
        for mark in marks:
            self.note(mark, "was left by a process that is gone: removed")
        try:
            yield
        finally:
            if not self.dry_run:
                owner.release()

    def keep(self, path: str) -> str:
        """Copy a file into the folder of kept copies, durable; "" in a dry run."""
        if self.dry_run:
            return ""
        if not self._folder:
            self._folder = self._make_folder()
        copy = f"{self._folder}/{os.path.basename(path)}"
        self.disk.write(copy, b"")  # with its mode, before anything is in it
        shutil.copyfile(path, copy)
        self.disk.sync(copy)
        self.disk.sync_folder(self._folder)
        return copy

    def _make_folder(self) -> str:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        wanted = path = f"{self.target}{KEPT}{now}"
        number = 1
        while self.disk.exists(path):
            number += 1
            path = f"{wanted}-{number}"
        self.disk.make_folder(path)
        return path

    def remove(self, path: str) -> None:
        """Remove a file, durable."""
        if not self.dry_run:
            self.disk.unlink(path)
            self.disk.sync_folder(os.path.dirname(path))

    def replace(self, path: str, temporary: str, data: bytes) -> None:
        """Put new bytes in a file's place, so that any crash leaves the old or the new ones."""
        if not self.dry_run:
            self.disk.write(temporary, data)
            self.disk.sync(temporary)
            self.disk.rename(temporary, path)
            self.disk.sync_folder(os.path.dirname(path))

    def sweep(self, prefix: str) -> None:
        """Remove what killed copies left beside the target."""
        above = os.path.dirname(self.target)
        noting = _Noting()
        with self.writing(above):
            sweep(noting, above, prefix)
            for path in sorted(noting.gone):
                self.note(path, "was left by a copy that was stopped: removed")
                if self.dry_run:
                    continue
                if self.disk.is_folder(path):
                    self.disk.remove_tree(path)
                else:
                    self.disk.unlink(path)
            if noting.gone and not self.dry_run:
                self.disk.sync_folder(above)

    def close_to_others(self, place: str, files: Iterable[str], folder: str = "") -> None:
        """Give files the mode 0600, and a folder 0700."""
        wrong = [path for path in files if self._is_wrong(path, stat.S_ISREG, 0o600)]
        if folder and self._is_wrong(folder, stat.S_ISDIR, 0o700):
            self.note(folder, "was open to other users, or closed to its owner: its mode is 0700")
            self._chmod(folder, 0o700)
        if wrong:
            files_are = "1 file was" if len(wrong) == 1 else f"{len(wrong)} files were"
            what = "open to other users, or closed to the owner: mode 0600"
            self.note(place, f"{files_are} {what}")
            for path in wrong:
                self._chmod(path, 0o600)

    def _is_wrong(self, path: str, is_kind: object, wanted: int) -> bool:
        try:
            mode = self.disk.mode(path)
        except OSError:
            return False
        return bool(callable(is_kind) and is_kind(mode)) and (
            bool(mode & 0o077) or mode & wanted != wanted
        )

    def _chmod(self, path: str, mode: int) -> None:
        if not self.dry_run:
            with self.writing(path):
                os.chmod(path, mode)


class _Noting(Disk):
    """Notes what is to be removed, and removes nothing."""

    def __init__(self) -> None:
        self.gone: list[str] = []

    def remove_tree(self, path: str) -> None:
        self.gone.append(path)

    def unlink(self, path: str) -> None:
        self.gone.append(path)


def number(things: Iterable[object], noun: str) -> str:
    """``1 file``, ``2 files``."""
    count = len(list(things))
    return f"{count} {noun if count == 1 else noun + 's'}"


def examples(names: list[str]) -> str:
    """The first few of them."""
    shown = ", ".join(names[:EXAMPLES])
    more = len(names) - EXAMPLES
    return f"{shown} and {more} more" if more > 0 else shown
