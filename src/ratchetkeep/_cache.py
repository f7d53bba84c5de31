"""Decoded records in memory, bounded by the bytes that they take there."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakSet

from ratchetkeep._metrics import Counts
from ratchetkeep.model import Key

MAX_BYTES = 16 * 1024 * 1024
# What all caches of a process may take together, about: a worker may have thousands of devices
# open. Each has its share then, but never less than the second.
ALL_BYTES = 512 * 1024 * 1024
LEAST_BYTES = 64 * 1024
# What an entry takes beside its value: an id that is known to be absent is not free either.
OVERHEAD = 400
# A decoded value takes about so many times the bytes that it has in the store.
DECODED = 3

ABSENT: Any = object()
"""Cached knowledge that a record is not there."""


class _Entry:
    __slots__ = ("cost", "value", "was_used")

    def __init__(self, value: Any, cost: int) -> None:
        self.value = value
        self.cost = cost
        self.was_used = False


class Cache:
    """Thread-safe. What was not used since it was last looked at goes first (the clock algorithm),
    so that a look needs no lock.

    :param max_bytes: about what it may take, as long as few caches are open.
    """

    _open: WeakSet[Cache] = WeakSet()

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max = max_bytes
        self._size = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        # Odd while entries change, so that a look never sees half of a commit.
        self._version = 0
        self._open.add(self)

    def close(self) -> None:
        """Forget everything, and leave others their share."""
        self.clear()
        self._open.discard(self)

    def look(self, family: str, ids: Sequence[str]) -> dict[str, Any] | None:
        """The values of ``ids`` by id, without absent ones, all of one moment; None if something
        is not known, or an id is none."""
        version = self._version
        entries = self._entries
        found = {}
        for id in ids:
            try:
                entry = entries.get((family, id))
            except TypeError:  # not hashable
                return None
            if entry is None:
                return None
            entry.was_used = True
            if entry.value is not ABSENT:
                found[id] = entry.value
        return found if version == self._version and not version & 1 else None

    def get(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """What is known of ``keys``: their values, or ABSENT."""
        with self._lock:
            return {key: self._entries[key].value for key in keys if key in self._entries}

    def put(self, values: Iterable[tuple[Key, Any, int]], *, only_known: bool = False) -> None:
        """Enter values (or ABSENT), each with its bytes in the store, in one step.

        :param only_known: replace what is there, enter nothing new.
        """
        with self._lock:
            self._version += 1
            try:
                entries, added = self._entries, 0
                for key, value, size in values:
                    if only_known and key not in entries:
                        continue
                    cost = size * DECODED + OVERHEAD
                    old = entries.pop(key, None)
                    added += cost - (old.cost if old else 0)
                    entries[key] = _Entry(value, cost)
                self._size += added
                self._shrink()
            finally:
                self._version += 1

    def _shrink(self) -> None:
        share = ALL_BYTES // max(1, len(self._open))
        most = min(self._max, max(LEAST_BYTES, share))
        while self._size > most:
            key, entry = self._entries.popitem(last=False)
            if entry.was_used:
                entry.was_used = False
                self._entries[key] = entry
            else:
                self._size -= entry.cost

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._version += 1
            self._entries.clear()
            self._size = 0
            self._version += 1


class CountingCache(Cache):
    """A cache that counts for the metrics what was found in it and what was not. A class of its
    own, so that a program without metrics pays nothing for it.

    :param counts: where; other caches may count there too.
    """

    def __init__(self, counts: Counts, max_bytes: int = MAX_BYTES) -> None:
        super().__init__(max_bytes)
        self._counts = counts

    def look(self, family: str, ids: Sequence[str]) -> dict[str, Any] | None:
        """As :meth:`Cache.look`; what it does not know is counted by :meth:`get`."""
        found = super().look(family, ids)
        if found is not None:
            number = len(ids)  # not in the next line, which holds no call: see Counts
            self._counts.hits += number
        return found

    def get(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """As :meth:`Cache.get`."""
        wanted = list(keys)
        known = super().get(wanted)
        number = sum(key in known for key in wanted)
        missing = len(wanted) - number
        self._counts.hits += number
        self._counts.misses += missing
        return known
