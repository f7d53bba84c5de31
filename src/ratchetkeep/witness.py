"""A witness: it remembers, elsewhere, how many commits a device has had.

A store that is itself put back (a copy of its file, a snapshot of its machine) looks whole, and is
older than what was sent: going on with it uses message keys a second time. With a witness that is
found when the device is opened: the store has fewer commits of a history than the witness saw.

In its default form the witness is told at most :data:`DELAY` seconds after a commit, once for all
commits until then, by a thread of its own: the commits cost no sync more. So it may know less than
the store had when a process was killed, and a store that is put back to no more than that is not
found. With a delay of 0 every commit is told before it returns.

It never knows of a commit that is not durable: else it would call a store older that is not.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Mapping
from typing import Protocol
from weakref import WeakValueDictionary

from ratchetkeep._witness_file import WitnessFile
from ratchetkeep._witness_store import WitnessStore
from ratchetkeep.errors import CommitFailed, InvalidValue, RatchetkeepError, StoreRewound
from ratchetkeep.stores import urls
from ratchetkeep.stores.base import History, Store

__all__ = ["DELAY", "Watch", "Watching", "open_witness", "seen"]

DELAY = 1.0
"""Seconds after a commit in which the witness is told, if nothing else is asked for."""

# Seconds after which a thread that has nothing to tell ends.
IDLE = 5.0
THREAD = "ratchetkeep-witness"

_LONGEST = 86400.0
_COUNT_COMMITS = ("sqlite", "postgresql", "memory")

_log = logging.getLogger("ratchetkeep")


class Keeper(Protocol):
    """Where a witness keeps its counts. ``identity`` tells it from others."""

    place: str
    identity: object

    def read(self) -> dict[str, int]:
        """All counts by history."""

    def note(self, counts: Mapping[str, int]) -> None:
        """Keep these counts too, durable on return; none goes down."""


def open_witness(witness: str | os.PathLike[str]) -> Keeper:
    """What a path, or the URL of a store, names.

    :raises UnknownStore: for a URL that names no store.
    :raises InvalidValue: for a store that can keep no counts.
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


class Watching:
    """A device that is about to be opened, and the witness that is to watch it. Made before the
    device is acquired, or made: a witness that cannot be asked stops that.

    :param delay: see :data:`DELAY`; 0 tells of every commit before it returns.
    :raises InvalidValue: for a store that counts no commits, a witness in that very store, or
        another delay than 0 to 86,400 seconds.
    :raises StoreDamaged: if the witness cannot be read.
    """

    def __init__(
        self,
        store: Store,
        witness: str | os.PathLike[str],
        delay: float | None,
        *,
        read_only: bool,
    ) -> None:
        self._store = store
        self._keeper = open_witness(witness)
        self._delay = DELAY if delay is None else float(delay)
        if not 0 <= self._delay <= _LONGEST:
            raise InvalidValue("witness_delay", f"must be 0 to {_LONGEST:.0f} seconds")
        if store.kind not in _COUNT_COMMITS:
            what = f"a {store.kind}: store counts no commits, so that no witness can watch it"
            remedy = "Use a sqlite: or postgresql: store, or open it without a witness"
            raise InvalidValue(store.url, what, remedy)
        if _is_inside(store, self._keeper):
            what = "is kept in the store that it is to watch: both would be put back together"
            raise InvalidValue(f"{self._keeper.place} (witness)", what, "Keep it elsewhere")
        # A reader sees the moment when it acquires the device, while its owner goes on: what the
        # witness learns after that would look like a later state.
        self._before = self._keeper.read()
        self._read_only = read_only

    def begin(self, device: str) -> Watch | None:
        """See that the device, which is open now and about to be used, is not older than what was
        seen; what watches it from now on, if it can change.

        :raises StoreRewound: if it is.
        :raises CommitFailed: if the witness cannot be told of it.
        """
        history = self._store.history(device)
        known = self._before if self._read_only else self._keeper.read()
        if history is None:
            return None
        seen = known.get(history.id, 0)
        if seen > history.commits:
            what = (
                f"device {device!r} is at commit {history.commits}, and the witness "
                f"{self._keeper.place} has seen commit {seen}: an older state was put back"
            )
            raise StoreRewound(self._store.url, what)
        if self._read_only:
            return None
        watch = Watch(self._store, device, history, Clerk.of(self._keeper, self._delay))
        watch.told = seen
        watch.begin()
        return watch


def _is_inside(store: Store, keeper: Keeper) -> bool:
    if not isinstance(keeper, WitnessStore) or keeper.target.kind != store.kind:
        return False
    path = keeper.target.path
    if store.kind == "memory":
        return path != "" and store.url == f"memory:{path}"
    if "://" in path:
        return path.partition("?")[0] == getattr(store, "conninfo", "").partition("?")[0]
    return os.path.realpath(path) == os.path.realpath(getattr(store, "path", ""))


class Watch:
    """A device whose commits a witness is told of.

    :ivar count: how many commits are durable.
    :ivar told: how many of them the witness knows of.
    :ivar is_closed: True if nobody is to try again.
    """

    def __init__(self, store: Store, device: str, history: History, clerk: Clerk) -> None:
        self.history = history.id
        self.count = history.commits
        self.told = 0
        self.is_closed = False
        self._store = store
        self._device = device
        self._clerk = clerk
        self._is_due = False

    def committed(self) -> CommitFailed | None:
        """A commit is durable. In the strict form: why the witness does not know of it, if so."""
        try:
            # Asked, not counted here: commits of one device that go together may be one commit.
            now = self._store.history(self._device)
        except RatchetkeepError as error:  # lost at this moment
            return self._failed(error) if self._clerk.is_strict else None
        self.count = now.commits if now else self.count
        if self._clerk.is_strict:
            return self._tell()
        if not self._is_due:
            self._is_due = True
            if not self._clerk.call(self):
                self._is_due = False  # the next commit calls again
        return None

    def _tell(self) -> CommitFailed | None:
        try:
            self._clerk.tell([self])
        except RatchetkeepError as error:
            return self._failed(error)
        return None

    def _failed(self, error: RatchetkeepError) -> CommitFailed:
        cause = f"{error.place}: {error.what}" if error.place else error.what
        what = f"what was committed is stored, but its witness could not be told: {cause}"
        remedy = "Act on no such commit. Mend the witness, then close the device and open it again"
        return CommitFailed(self._store.url, what, remedy)

    def taken(self) -> int:
        """What is to be told of it now."""
        self._is_due = False  # first: a commit that comes meanwhile is told again
        return self.count

    def missed(self) -> None:
        """It could not be told."""
        self._is_due = True

    def begin(self) -> None:
        """Have the witness know of the device before its next commit.

        :raises CommitFailed: if it cannot be told.
        """
        error = self._tell()
        if error is not None:
            raise error

    def close(self) -> None:
        """Tell what was not told yet; waits for what is being told. This is the last try.

        :raises CommitFailed: if that failed; the commits themselves are durable.
        """
        try:
            self.begin()
        finally:
            self.is_closed = True
            self._clerk.drop(self)


class Clerk:
    """Tells one witness of all devices of this process that it watches."""

    _known: WeakValueDictionary[object, Clerk] = WeakValueDictionary()
    _guard = threading.Lock()

    def __init__(self, keeper: Keeper, delay: float) -> None:
        self._keeper = keeper
        self._delay = delay
        self._due: dict[Watch, None] = {}
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._called = threading.Event()
        # Set while nothing is due: then nobody sleeps.
        self._is_idle = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_failing = False

    @property
    def is_strict(self) -> bool:
        """True if every commit is told before it returns."""
        return self._delay <= 0

    @classmethod
    def of(cls, keeper: Keeper, delay: float) -> Clerk:
        """The one of a witness."""
        with cls._guard:
            return cls._known.setdefault((keeper.identity, delay), cls(keeper, delay))

    @classmethod
    def forget(cls) -> None:
        """In a forked child: the devices are its parent's, and so is the thread."""
        cls._known, cls._guard = WeakValueDictionary(), threading.Lock()

    def call(self, watch: Watch) -> bool:
        """Have a device's commits told soon; False if nobody will: call again then."""
        with self._lock:
            self._due[watch] = None
            self._is_idle.clear()
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # no thread to be had, or the interpreter is ending
                    return False
                self._thread = thread
        self._called.set()
        return True

    def drop(self, watch: Watch) -> None:
        """A device was closed."""
        with self._lock:
            self._due.pop(watch, None)
            if not self._due:
                self._is_idle.set()

    def tell(self, watches: Iterable[Watch]) -> None:
        """Tell of some devices now; what the witness knows already is not told again.

        :raises CommitFailed: if that failed.
        """
        with self._writing:
            counts: dict[str, int] = {}
            try:
                for watch in watches:
                    count = watch.taken()
                    if count > watch.told:
                        counts[watch.history] = max(counts.get(watch.history, 0), count)
                if counts:
                    self._keeper.note(counts)
            except BaseException:
                for watch in watches:
                    watch.missed()
                raise
            for watch in watches:
                watch.told = max(watch.told, counts.get(watch.history, 0))

    def _run(self) -> None:
        while True:
            if not self._called.wait(IDLE):
                with self._lock:
                    if not self._due:
                        self._thread = None
                        return
            self._called.clear()
            self._is_idle.wait(self._delay)
            with self._lock:
                due, self._due = self._due, {}
                self._is_idle.set()
            if due:
                self._try(due)

    def _try(self, due: dict[Watch, None]) -> None:
        try:
            self.tell(due)
        except Exception as error:  # noqa: BLE001 - told and tried again, whatever it is
            self._note_failure(error)
            with self._lock:
                self._due = {each: None for each in (*due, *self._due) if not each.is_closed}
                if self._due:
                    self._is_idle.clear()
                    self._called.set()
            self._is_idle.wait(max(DELAY - self._delay, 0.0))
        else:
            if self._is_failing:
                self._is_failing = False
                _log.info("the witness %s is told again", self._keeper.place)

    def _note_failure(self, error: Exception) -> None:
        if self._is_failing:
            return  # said already, and nothing changed
        self._is_failing = True
        text = str(error) if isinstance(error, RatchetkeepError) else type(error).__name__
        _log.warning("a witness could not be told, and will be again and again: %s", text)


os.register_at_fork(after_in_child=Clerk.forget)
