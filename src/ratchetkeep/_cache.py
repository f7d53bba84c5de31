"""Decoded records in memory, bounded by the bytes that they have in the store."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from ratchetkeep.model import Key

MAX_BYTES = 16 * 1024 * 1024
# What an entry takes beside its record: an id that is known to be absent is not free either.
OVERHEAD = 200

ABSENT: Any = object()
"""Cached knowledge that a record is not there."""


class Cache:
    """The least recently used records go first. Thread-safe."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max = max_bytes
        self._size = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, tuple[Any, int]] = OrderedDict()

    def get(self, key: Key) -> Any:
        """The value, ABSENT if it is known to be absent, None if nothing is known."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: Key, value: Any, size: int) -> None:
        """Enter a value (or ABSENT) that has ``size`` bytes in the store."""
        with self._lock:
            old = self._entries.pop(key, None)
            self._size += size + OVERHEAD - (old[1] if old else 0)
            self._entries[key] = (value, size + OVERHEAD)
            while self._size > self._max and self._entries:
                self._size -= self._entries.popitem(last=False)[1][1]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._size = 0
