"""Locks by name for transactions: fair, nested, and refused where waiting could never end.

Neither face of a device is known here: whoever waits says how to be woken, and waits its own way.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ratchetkeep.errors import InvalidValue


class Holder:
    """Whoever takes locks: a transaction, perhaps inside another.

    :ivar outer: the one that it is inside of. What the outer one holds does not stop an inner one;
        what an inner one took goes to the outer one when it ends.
    """

    def __init__(self, outer: Holder | None = None) -> None:
        self.outer = outer
        self.root: Holder = outer.root if outer else self
        self.has_ended = False
        # Names that it holds or has lent to an inner one, and who held each before.
        self.taken: dict[str, Holder | None] = {}

    def is_within(self, other: Holder) -> bool:
        """True for ``other`` itself and for what is inside of it."""
        holder: Holder | None = self
        while holder is not None and holder is not other:
            holder = holder.outer
        return holder is other

    def living(self) -> Holder | None:
        """It, or the nearest one around it that has not ended."""
        holder: Holder | None = self
        while holder is not None and holder.has_ended:
            holder = holder.outer
        return holder


@dataclass(eq=False)
class Wait:
    """A request for locks that was not granted at once; ``wake`` is called when it is."""

    holder: Holder
    names: list[str]
    wake: Callable[[], None]
    is_over: bool = False


@dataclass(eq=False)
class _Queue:
    """Who waits for one name. Inner ones may hold what others wait for, so they go first and in
    any order; all others wait in line."""

    inner: list[Wait] = field(default_factory=list)
    line: deque[Wait] = field(default_factory=deque)

    def first(self) -> Wait | None:
        """The first in line."""
        while self.line and self.line[0].is_over:
            self.line.popleft()
        return self.line[0] if self.line else None

    def remove(self, wait: Wait) -> None:
        """Forget who waits no longer; in the line they are skipped later."""
        if wait in self.inner:
            self.inner.remove(wait)


class KeyLocks:
    """Exclusive locks by name."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._holders: dict[str, Holder] = {}
        self._queues: dict[str, _Queue] = {}
        self._waits: dict[Holder, list[Wait]] = {}

    def ask(self, holder: Holder, names: Iterable[str], wake: Callable[[], None]) -> Wait | None:
        """Take all ``names`` in one step: None if they are taken, else who waits.

        :param wake: called, from any thread, when they are taken later.
        :raises InvalidValue: if waiting would never end.
        """
        wanted = list(dict.fromkeys(names))
        if not wanted:
            return None
        with self._mutex:
            in_line = holder.outer is None and any(self._is_awaited(name) for name in wanted)
            if not in_line and not self._blockers(holder, wanted):
                self._grant(holder, wanted)
                return None
            # One that is inside no other holds nothing yet, so nobody waits for it.
            if holder.outer is not None and self._never_ends(holder, wanted):
                raise InvalidValue(
                    "transaction",
                    "waiting for these keys would never end: another transaction holds them and "
                    "waits for ours",
                    "Name all keys when the outermost transaction begins",
                )
            return self._enqueue(Wait(holder, wanted, wake))

    def withdraw(self, wait: Wait) -> bool:
        """Wait no longer; False if it was granted meanwhile."""
        with self._mutex:
            if wait.is_over:
                return False
            self._end(wait)
            woken = [each for name in wait.names for each in self._pass_on(name)]
        _wake(woken)
        return True

    def give_back(self, holder: Holder, *, keep: bool) -> None:
        """End ``holder``: its locks go to those who wait.

        :param keep: if it is inside another, that one gets them.
        """
        with self._mutex:
            holder.has_ended = True
            for name, before in holder.taken.items():
                if self._holders.get(name) is not holder:
                    continue  # lent to an inner one that has not ended
                heir = holder.outer if keep else before
                heir = heir.living() if heir else None
                if heir is None:
                    del self._holders[name]
                else:
                    heir.taken.setdefault(name, None)
                    self._holders[name] = heir
            woken = [each for name in holder.taken for each in self._pass_on(name)]
        _wake(woken)

    def _is_awaited(self, name: str) -> bool:
        queue = self._queues.get(name)
        return queue is not None and queue.first() is not None

    def _blockers(self, holder: Holder, names: Iterable[str]) -> set[Holder]:
        """Who holds one of ``names`` so that ``holder`` cannot have it."""
        held = (self._holders.get(name) for name in names)
        return {other for other in held if other is not None and not holder.is_within(other)}

    def _grant(self, holder: Holder, names: Iterable[str]) -> None:
        for name in names:
            before = self._holders.get(name)
            if before is not holder:
                holder.taken[name] = before
                self._holders[name] = holder

    def _enqueue(self, wait: Wait) -> Wait:
        for name in wait.names:
            queue = self._queues.setdefault(name, _Queue())
            (queue.line if wait.holder.outer is None else queue.inner).append(wait)
        self._waits.setdefault(wait.holder.root, []).append(wait)
        return wait

    def _end(self, wait: Wait) -> None:
        wait.is_over = True
        waits = self._waits[wait.holder.root]
        waits.remove(wait)
        if not waits:
            del self._waits[wait.holder.root]
        for name in wait.names:
            self._queues[name].remove(wait)

    def _pass_on(self, name: str) -> list[Wait]:
        """Grant what a free name lets be granted; gives who is to be woken."""
        queue = self._queues.get(name)
        if queue is None:
            return []
        woken = [wait for wait in list(queue.inner) if self._try(wait)]
        first = queue.first()
        if first is not None and all(self._is_first(first, each) for each in first.names):
            woken += [first] if self._try(first) else []
        if not queue.inner and queue.first() is None:
            del self._queues[name]
        return woken

    def _is_first(self, wait: Wait, name: str) -> bool:
        return self._queues[name].first() is wait

    def _try(self, wait: Wait) -> bool:
        if self._blockers(wait.holder, wait.names):
            return False
        self._grant(wait.holder, wait.names)
        self._end(wait)
        return True

    def _never_ends(self, holder: Holder, names: Iterable[str]) -> bool:
        """True if one that is in the way ends only after ``holder``."""
        seen: set[Holder] = set()
        todo = self._blockers(holder, names)
        while todo:
            other = todo.pop()
            if holder.is_within(other):
                return True
            if other in seen:
                continue
            seen.add(other)
            for wait in self._waits.get(other.root, ()):
                # It ends after what is inside of it.
                if wait.holder.is_within(other):
                    todo |= self._blockers(wait.holder, wait.names)
        return False


def _wake(waits: Iterable[Wait]) -> None:
    for wait in waits:
        wait.wake()
