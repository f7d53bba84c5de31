"""Locks by name for transactions, taken all at once or in an order that cannot deadlock."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from ratchetkeep.errors import InvalidValue


class KeyLocks:
    """Exclusive locks by name. A holder takes all its names in one step; a holder that asks for
    more while it holds some is refused if waiting could never end."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holders: dict[str, object] = {}
        self._waiting: dict[object, frozenset[str]] = {}

    def take(self, holder: object, names: Iterable[str]) -> frozenset[str]:
        """Wait for all ``names``; gives those that were not held before.

        :raises InvalidValue: if waiting would be a deadlock.
        """
        with self._changed:
            wanted = frozenset(n for n in names if self._holders.get(n) is not holder)
            if not wanted:
                return wanted
            self._waiting[holder] = wanted
            try:
                while self._blockers(wanted):
                    if self._is_deadlock(holder):
                        raise InvalidValue(
                            "transaction",
                            "waiting for these keys would never end: another transaction holds "
                            "them and waits for ours",
                            "Name all keys when the outermost transaction begins",
                        )
                    self._changed.wait()
                self._holders.update(dict.fromkeys(wanted, holder))
            finally:
                self._waiting.pop(holder, None)
            return wanted

    def give_back(self, names: Iterable[str]) -> None:
        """Release names."""
        with self._changed:
            for name in names:
                del self._holders[name]
            self._changed.notify_all()

    def _blockers(self, names: Iterable[str]) -> set[object]:
        return {self._holders[name] for name in names if name in self._holders}

    def _is_deadlock(self, holder: object) -> bool:
        seen: set[object] = set()
        todo = self._blockers(self._waiting.get(holder, ()))
        while todo:
            other = todo.pop()
            if other is holder:
                return True
            if other not in seen:
                seen.add(other)
                todo |= self._blockers(self._waiting.get(other, ()))
        return False
