"""A witness: it remembers, elsewhere, how many commits a device has had.

A store that is itself put back (a copy of its file, a snapshot of its machine) looks whole, and is
older than what was sent: going on with it uses message keys a second time. With a witness that is
found when the device is opened: the store has fewer commits of a history than the witness saw.

In its default form the witness is told at most :data:`DELAY` seconds after a commit, once for all
commits until then, by a thread of its own: the commits cost no sync more. So it may know less than
the store had when a process was killed, and a store that is put back to no more than that is not
found. With a delay of 0 every commit is told before it returns.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import Protocol

from ratchetkeep._witness_file import WitnessFile
from ratchetkeep._witness_store import WitnessStore
from ratchetkeep.errors import CommitFailed, InvalidValue, RatchetkeepError, StoreRewound
from ratchetkeep.stores import urls
from ratchetkeep.stores.base import History, Store

__all__ = ["DELAY", "Watch", "check", "open_witness", "seen"]

DELAY = 1.0
"""Seconds after a commit in which the witness is told, if nothing else is asked for."""

# Seconds after which a thread that has nothing to tell ends.
IDLE = 5.0
THREAD = "ratchetkeep-witness"

_log = logging.getLogger("ratchetkeep")


class Keeper(Protocol):
    """Where a witness keeps its counts."""

    @property
    def place(self) -> str:
        """It, for errors and to tell it from others."""

    def read(self) -> dict[str, int]:
        """All counts by history."""

    def note(self, counts: Mapping[str, int]) -> None:
        """Keep these counts too, durable on return; none goes down."""


def open_witness(witness: str | os.PathLike[str]) -> Keeper:
    """What a path, or the URL of a store, names.

    :raises UnknownStore: for a URL that names no store.
    """
    text = os.fsdecode(witness)
    kind, mark, _ = text.partition(":")
    if mark and (kind in urls.KINDS or text.startswith(urls.POSTGRES)):
        return WitnessStore(text)
    return WitnessFile(text)


def seen(witness: str | os.PathLike[str], history: str) -> int | None:
    """How many commits a witness saw of a history; None if it knows nothing of it.

    :raises StoreDamaged: if the witness cannot be read.
    """
    return open_witness(witness).read().get(history)


def check(store: Store, device: str, keeper: Keeper) -> History | None:
    """See that a device, which is open and about to be used, is not older than what was seen.

    :returns: where it stands; None if nothing was committed yet.
    :raises StoreRewound: if it is.
    :raises InvalidValue: if it is in a store that counts no commits.
    """
    if _is_inside(store, keeper):
        what = "is kept in the store that it is to watch: both would be put back together"
        raise InvalidValue(f"{keeper.place} (witness)", what, "Keep it elsewhere")
    history = store.history(device)
    if history is None:
        if store.trace(device):
            what = f"a {store.kind}: store counts no commits, so that no witness can watch it"
            remedy = "Use a sqlite: or postgresql: store, or open it without a witness"
            raise InvalidValue(store.url, what, remedy)
        return None
    known = keeper.read().get(history.id, 0)
    if known > history.commits:
        what = (
            f"device {device!r} is at commit {history.commits}, and the witness {keeper.place} has "
            f"seen commit {known}: an older state was put back"
        )
        raise StoreRewound(store.url, what)
    return history


def _is_inside(store: Store, keeper: Keeper) -> bool:
    if not isinstance(keeper, WitnessStore) or keeper.target.kind != store.kind:
        return False
    path = keeper.target.path
    if "://" in path or store.kind == "memory":
        return keeper.place.partition("?")[0] == store.url.partition("?")[0]
    return os.path.realpath(path) == os.path.realpath(getattr(store, "path", ""))


class Watch:
    """A device whose commits a witness is told of.

    :param history: where the device stands.
    :param delay: see :data:`DELAY`; 0 tells of every commit before it returns.
    """

    def __init__(self, history: History, keeper: Keeper, delay: float, url: str) -> None:
        self.history = history.id
        self.count = history.commits
        self._url = url
        self._is_due = False
        self._is_strict = delay <= 0
        self._clerk = Clerk.of(keeper, max(delay, 0.0))

    def begin(self) -> None:
        """Have the witness know of the device before its first commit.

        :raises CommitFailed: if it cannot be told.
        """
        self._clerk.tell([self])

    def committed(self) -> CommitFailed | None:
        """A commit is durable. In the strict form: why the witness does not know of it, if so."""
        self.count += 1
        if self._is_strict:
            return self._tell_at_once()
        if not self._is_due:
            self._is_due = True
            self._clerk.call(self)
        return None

    def _tell_at_once(self) -> CommitFailed | None:
        try:
            self._clerk.tell([self])
        except RatchetkeepError as error:
            what = f"the commit is stored, and its witness could not be told: {error}"
            remedy = "Send nothing of it. Mend the witness, then close the device and open it again"
            return CommitFailed(self._url, what, remedy)
        return None

    def taken(self) -> int:
        """What is to be told of it now."""
        self._is_due = False  # first: a commit that comes meanwhile is told again
        return self.count

    def missed(self) -> None:
        """It could not be told."""
        self._is_due = True

    def close(self) -> None:
        """Tell what was not told yet.

        :raises CommitFailed: if that failed; the commits themselves are durable.
        """
        if self._is_due:
            self._clerk.tell([self])


class Clerk:
    """Tells one witness of all devices of this process that it watches."""

    _known: dict[tuple[str, float], Clerk] = {}
    _guard = threading.Lock()

    def __init__(self, keeper: Keeper, delay: float) -> None:
        self._keeper = keeper
        self._delay = delay
        self._due: list[Watch] = []
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._called = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def of(cls, keeper: Keeper, delay: float) -> Clerk:
        """The one of a witness."""
        with cls._guard:
            return cls._known.setdefault((keeper.place, delay), cls(keeper, delay))

    @classmethod
    def forget(cls) -> None:
        """In a forked child: the devices are its parent's, and so is the thread."""
        cls._known, cls._guard = {}, threading.Lock()

    def call(self, watch: Watch) -> None:
        """Have a device's commits told soon."""
        with self._lock:
            self._due.append(watch)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the interpreter is ending: closing tells
                    return
                self._thread = thread
        self._called.set()

    def tell(self, watches: list[Watch]) -> None:
        """Tell of some devices now.

        :raises CommitFailed: if that failed.
        """
        with self._writing:
            counts: dict[str, int] = {}
            for watch in watches:
                counts[watch.history] = max(counts.get(watch.history, 0), watch.taken())
            try:
                self._keeper.note(counts)
            except BaseException:
                for watch in watches:
                    watch.missed()
                raise

    def _run(self) -> None:
        while True:
            if not self._called.wait(IDLE):
                with self._lock:
                    if not self._due:
                        self._thread = None
                        return
            self._called.clear()
            time.sleep(self._delay)
            with self._lock:
                due, self._due = self._due, []
            if due:
                self._try(due)

    def _try(self, due: list[Watch]) -> None:
        try:
            self.tell(due)
        except Exception as error:  # noqa: BLE001 - told and tried again, whatever it is
            text = str(error) if isinstance(error, RatchetkeepError) else type(error).__name__
            _log.warning("the witness could not be told, and will be again: %s", text)
            with self._lock:
                self._due = [*due, *self._due]
            time.sleep(max(self._delay, DELAY))
            self._called.set()


os.register_at_fork(after_in_child=Clerk.forget)
