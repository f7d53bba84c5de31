"""The file of a witness: how many commits were seen of each history of a device.

It is JSON: ``format`` (``ratchetkeep-witness``), ``version`` (1) and ``seen``, an object of counts
by the 32 hexadecimal digits of a history. It is replaced in one step, so that a reader finds the
old counts or the new ones. Writers of all processes take turns by a lock on ``PATH.lock``.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ratchetkeep.errors import CommitFailed, StoreDamaged, StoreUnreadable, UnsupportedVersion
from ratchetkeep.stores.disk import Disk

FORMAT, VERSION = "ratchetkeep-witness", 1
REMEDY = "Put the witness back from a copy; or remove it, and what it saw until now is not checked"
# Seconds that another writer may take: one that is stopped holds the lock for as long.
PATIENCE = 10.0
_HISTORY = re.compile(r"[0-9a-f]{32}")


class WitnessFile:
    """Counts in a file of its own.

    :param path: the file; its folder must be there.
    """

    def __init__(self, path: str) -> None:
        self.path = self.place = os.path.abspath(path)
        self.identity: object = ("file", self.path)
        self._disk = Disk()

    def read(self) -> dict[str, int]:
        """All counts by history; none where no file is.

        :raises StoreDamaged: if it is no witness, or damaged; never taken for absence.
        :raises StoreUnreadable: if it cannot be read, or its very folder is missing: a disk that is
            not mounted must not look like a witness that knows of nothing.
        :raises UnsupportedVersion: if a newer version wrote it.
        """
        try:
            raw = self._disk.read(self.path)
        except FileNotFoundError:
            require_folder(self.path)
            return {}
        except OSError as error:
            raise StoreUnreadable(self.path, f"cannot be read: {error.strerror}") from None
        return _counts(raw, self.path)

    def note(self, counts: Mapping[str, int]) -> None:
        """Keep these counts too, durable on return. No count ever goes down.

        :raises CommitFailed: if they could not be written; the file is as it was then.
        """
        try:
            with self._turn():
                known = self.read()
                merged = known | {each: max(n, known.get(each, 0)) for each, n in counts.items()}
                if merged != known:
                    self._replace(merged)
        except OSError as error:
            what = f"cannot keep what the witness saw: {error.strerror}"
            raise CommitFailed(
                self.path, what, "Mend the cause: nothing of it was changed"
            ) from None

    @contextmanager
    def _turn(self) -> Iterator[None]:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(f"{self.path}.lock", flags, 0o600)
        try:
            self._lock(descriptor)
            yield
        finally:
            # Not by closing alone: a child that was forked meanwhile has it open too.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > end:
                    what = f"another process has been writing to the witness for {PATIENCE:.0f} s"
                    remedy = "Find out which one (by its lock, PATH.lock), and let it go on or end"
                    raise CommitFailed(self.path, what, remedy) from None
            time.sleep(0.005)

    def _replace(self, counts: Mapping[str, int]) -> None:
        document = {"format": FORMAT, "version": VERSION, "seen": dict(sorted(counts.items()))}
        temporary = f"{self.path}.tmp"
        self._disk.unlink(temporary)  # left by a crash, perhaps with other modes
        self._disk.write(temporary, json.dumps(document).encode() + b"\n")
        self._disk.sync(temporary)
        self._disk.rename(temporary, self.path)
        self._disk.sync_folder(os.path.dirname(self.path))


def require_folder(path: str) -> None:
    """:raises StoreUnreadable: if there is no folder in which something can be at ``path``."""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        what = f"the folder of the witness is not there: {folder}"
        raise StoreUnreadable(path, what, "Mount its disk, or make the folder, and try again")


def _counts(raw: bytes, place: str) -> dict[str, int]:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise StoreDamaged(place, "is no witness, or is damaged", REMEDY)
    version = document.get("version")
    if type(version) is int and version > VERSION:
        raise UnsupportedVersion(place, f"is a witness of version {version}, this is {VERSION}")
    seen = document.get("seen")
    if version != VERSION or not isinstance(seen, dict) or not all(map(_is_count, seen.items())):
        raise StoreDamaged(place, "is a witness that is damaged", REMEDY)
    return seen


def _is_count(item: tuple[str, object]) -> bool:
    history, count = item
    return bool(_HISTORY.fullmatch(history)) and type(count) is int and 0 <= count < 2**63
