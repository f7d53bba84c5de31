"""The mark of a device that was moved to another place: what it says, and the small file that keeps
it where a store has no better place for it.

The file is JSON: ``format`` (``ratchetkeep-moved``), ``version`` (1), ``to`` (the URL, without a
password) and ``at`` (milliseconds since 1970).
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from ratchetkeep.errors import CommitFailed, StoreDamaged, StoreUnreadable, UnsupportedVersion

from ._folder_names import MOVED
from .disk import Disk

if TYPE_CHECKING:
    from .directory import DirectoryStore

FORMAT, VERSION = "ratchetkeep-moved", 1
# A mark holds one URL.
MAX_MARK = 64 * 1024
REMEDY = "If the device is to be used here, copy it back here with --overwrite; else remove it"


class Moved(NamedTuple):
    """Where a device was moved to.

    :ivar to: the URL of the place, without a password.
    :ivar at: when.
    """

    to: str
    at: datetime.datetime

    @property
    def told(self) -> str:
        """In words."""
        return f"was moved to {self.to} on {self.at:%Y-%m-%d}"


def moved_now(to: str) -> Moved:
    """The mark of a device that was moved to ``to`` just now."""
    now = datetime.datetime.now(datetime.UTC)
    return Moved(to, now.replace(microsecond=now.microsecond // 1000 * 1000))


def to_milliseconds(at: datetime.datetime) -> int:
    """The moment as a mark keeps it."""
    return round(at.timestamp() * 1000)


def moved_of(to: object, at: object, place: str) -> Moved:
    """The mark of what is kept of it.

    :raises StoreDamaged: naming ``place``, if it is not a URL and a moment.
    """
    try:
        if type(to) is str and type(at) is int:
            return Moved(to, datetime.datetime.fromtimestamp(at / 1000, datetime.UTC))
    except (ValueError, OverflowError, OSError):
        pass
    raise StoreDamaged(place, "is the mark of a device that was moved, and is damaged", REMEDY)


def write_mark(moved: Moved) -> bytes:
    """The bytes of the file."""
    mark = {"format": FORMAT, "version": VERSION, "to": moved.to, "at": to_milliseconds(moved.at)}
    return json.dumps(mark).encode() + b"\n"


def read_mark(raw: bytes, place: str) -> Moved:
    """The mark in a file.

    :raises StoreDamaged: naming ``place``, if it is damaged.
    :raises UnsupportedVersion: if a newer version wrote it.
    """
    try:
        mark = json.loads(raw) if len(raw) <= MAX_MARK else None
    except (ValueError, RecursionError):
        mark = None
    if not isinstance(mark, dict) or mark.get("format") != FORMAT:
        mark = {}
    version = mark.get("version")
    if type(version) is int and version > VERSION:
        raise UnsupportedVersion(place, f"is a mark of version {version}, this is {VERSION}")
    return moved_of(mark.get("to") if version == VERSION else None, mark.get("at"), place)


class MarkFile:
    """A mark in a file of its own.

    :param path: the file.
    :param place: the store's name in errors.
    """

    def __init__(self, path: str, place: str) -> None:
        self.path = path
        self.place = place
        self._disk = Disk()

    def read(self) -> Moved | None:
        """The mark, if there is one; raises as :func:`read_mark`."""
        try:
            return read_mark(self._disk.read(self.path), self.path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreUnreadable(self.path, f"cannot be read: {error.strerror}") from None

    def write(self, moved: Moved) -> None:
        """Put the mark there, durable, in one step.

        :raises CommitFailed: if that failed.
        """
        temporary = f"{self.path}.tmp"
        try:
            self._disk.write(temporary, write_mark(moved))
            self._disk.sync(temporary)
            self._disk.rename(temporary, self.path)
            self._disk.sync_folder(os.path.dirname(self.path))
        except OSError as error:
            raise CommitFailed(self.place, f"cannot be marked: {error.strerror}") from None

    def remove(self) -> None:
        """Remove the mark, durable; fine if there is none.

        :raises CommitFailed: if that failed.
        """
        try:
            if self._disk.exists(self.path):
                self._disk.unlink(self.path)
                self._disk.sync_folder(os.path.dirname(self.path))
        except OSError as error:
            raise CommitFailed(self.place, f"cannot be unmarked: {error.strerror}") from None


def mark_of_folder(store: DirectoryStore) -> Moved | None:
    """The mark in a folder, as the commits in its journal leave it."""
    commits = store._do(store._journal.read) if store._state == "closed" else []
    found = [data for commit in commits for name, data in commit if name == MOVED]
    raw = found[-1] if found else store._read_file(MOVED)
    return None if raw is None else read_mark(raw, f"{store.shown}/{MOVED}")


def to_of(read: Callable[[], Moved | None]) -> str:
    """Where a device was moved to, or "". A mark that cannot be read is left out: opening the
    device tells of it."""
    with suppress(StoreDamaged, UnsupportedVersion):
        moved = read()
        return moved.to if moved else ""
    return ""
