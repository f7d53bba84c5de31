"""Locks by name for transactions: fair, nested, and refused where waiting might never end.

Neither face of a device is known here: whoever waits says how to be woken, and waits its own way.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from ratchetkeep.errors import InvalidValue


class Holder:
    """Whoever takes locks: a transaction, perhaps inside another.

    :ivar outer: the one that it is inside of. What the outer one holds does not stop an inner one;
        what an inner one took goes to the outer one when it ends.
    :ivar has_ended: it takes no more changes.
    """

    def __init__(self, outer: Holder | None = None) -> None:
        self.outer = outer
        self.root: Holder = outer.root if outer else self
        self.has_ended = False
        # Names that it holds or has lent to an inner one, and who held each before.
        self.taken: dict[str, Holder | None] = {}
        # Later than has_ended: locks are held until the changes are committed.
        self.gave_back = False
        # True once there is one inside of it.
        self.has_inner = False
        if outer is not None:
            outer.has_inner = True

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
    """A request for locks that was not granted at once.

    :ivar number: who asked first has the lower one.
    :ivar wake: called, from any thread, when it is granted; False if nobody is there to be woken.
    """

    holder: Holder
    names: list[str]
    wake: Callable[[], bool]
    number: int
    is_over: bool = False

    @property
    def is_inner(self) -> bool:
        """True if its holder may hold what others wait for."""
        return self.holder.outer is not None


@dataclass(eq=False)
class _Queue:
    """Who waits for one name, in the order of asking."""

    inner: dict[Wait, None] = field(default_factory=dict)
    line: dict[Wait, None] = field(default_factory=dict)

    def add(self, wait: Wait) -> None:
        """Put one at the end."""
        (self.inner if wait.is_inner else self.line)[wait] = None

    def remove(self, wait: Wait) -> None:
        """Forget one."""
        (self.inner if wait.is_inner else self.line).pop(wait, None)

    def candidates(self) -> Iterator[Wait]:
        """Who may come next, in the order of asking: inner ones, and the first of the others."""
        first = next(iter(self.line), None)
        for wait in self.inner:
            if first is not None and first.number < wait.number:
                yield first
                first = None
            yield wait
        if first is not None:
            yield first


class KeyLocks:
    """Exclusive locks by name.

    Who asks first is first. Only one that is inside another may pass those who cannot be granted
    yet: it may hold what they wait for.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._holders: dict[str, Holder] = {}
        self._queues: dict[str, _Queue] = {}
        self._waits: dict[Holder, dict[Wait, None]] = {}
        self._asked = 0
        self._abandoned: deque[Holder] = deque()

    def ask(self, holder: Holder, names: Iterable[str], wake: Callable[[], bool]) -> Wait | None:
        """Take all ``names`` in one step: None if they are taken, else who waits.

        :param wake: see :class:`Wait`.
        :raises InvalidValue: if waiting might never end.
        """
        wanted = list(dict.fromkeys(names))
        if not wanted:
            return None
        while self._abandoned:
            self.give_back(self._abandoned.popleft(), keep=False)
        with self._mutex:
            in_line = holder.outer is None and any(name in self._queues for name in wanted)
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
            return self._enqueue(Wait(holder, wanted, wake, self._asked))

    def withdraw(self, wait: Wait) -> bool:
        """Wait no longer; False if it was granted meanwhile."""
        with self._mutex:
            if wait.is_over:
                return False
            self._end(wait)
            granted = [each for name in wait.names for each in self._pass_on(name)]
        self._wake(granted)
        return True

    def abandon(self, holder: Holder) -> None:
        """End ``holder``, which nobody ended in its time. Takes no lock, so that it may be called
        wherever an object is freed; others get its locks when the next one asks."""
        holder.has_ended = True
        self._abandoned.append(holder)

    def give_back(self, holder: Holder, *, keep: bool) -> None:
        """End ``holder``: its locks go to those who wait.

        :param keep: if it is inside another, that one gets them.
        """
        holder.has_ended = holder.gave_back = True
        if not holder.has_inner and not holder.taken:
            return  # most take none, and nobody gives it any
        with self._mutex:
            granted = self._release(holder, keep=keep)
        self._wake(granted)

    def _wake(self, granted: list[Wait]) -> None:
        while granted:
            wait = granted.pop()
            if not wait.wake():
                wait.holder.has_ended = wait.holder.gave_back = True
                with self._mutex:
                    granted += self._release(wait.holder, keep=False)

    def _release(self, holder: Holder, *, keep: bool) -> list[Wait]:
        freed = [name for name in holder.taken if self._holders.get(name) is holder]
        for name in freed:
            heir = holder.outer if keep else holder.taken[name]
            while heir is not None and heir.gave_back:
                heir = heir.outer
            if heir is None:
                del self._holders[name]
                continue
            self._holders[name] = heir
            heir.taken.setdefault(name, self._before(name, holder, heir))
        return [wait for name in freed for wait in self._pass_on(name)]

    def _before(self, name: str, holder: Holder, heir: Holder) -> Holder | None:
        """Who held a name before ``holder`` and is around ``heir``."""
        before = holder.taken[name]
        while before is not None and (before is heir or not heir.is_within(before)):
            before = before.taken.get(name)
        return before

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
        self._asked += 1
        for name in wait.names:
            self._queues.setdefault(name, _Queue()).add(wait)
        self._waits.setdefault(wait.holder.root, {})[wait] = None
        return wait

    def _end(self, wait: Wait) -> None:
        wait.is_over = True
        waits = self._waits[wait.holder.root]
        del waits[wait]
        if not waits:
            del self._waits[wait.holder.root]
        for name in wait.names:
            queue = self._queues[name]
            queue.remove(wait)
            if not queue.inner and not queue.line:
                del self._queues[name]

    def _pass_on(self, name: str) -> list[Wait]:
        """Grant a free name to who comes next, if that one can be granted all that it waits for."""
        for wait in self._candidates(name):
            if self._can_be_granted(wait):
                self._grant(wait.holder, wait.names)
                self._end(wait)
                return [wait]
        return []

    def _candidates(self, name: str) -> Iterable[Wait]:
        queue, holder = self._queues.get(name), self._holders.get(name)
        if queue is None:
            return ()
        if holder is None:
            return queue.candidates()
        # Held by an outer one: only what is inside of it can have it.
        return [wait for wait in self._waits.get(holder.root, ()) if wait in queue.inner]

    def _can_be_granted(self, wait: Wait) -> bool:
        if self._blockers(wait.holder, wait.names):
            return False
        if wait.is_inner:
            return not self._closes_a_ring(wait)
        return all(next(self._queues[name].candidates()) is wait for name in wait.names)

    def _closes_a_ring(self, wait: Wait) -> bool:
        """True if others that want the same would then wait for ever."""
        if len(self._waits[wait.holder.root]) == 1:
            return False  # it will wait for nobody
        others = {other for name in wait.names for other in self._queues[name].inner} - {wait}
        return any(self._leads_to(other.holder, {wait.holder}, skip=wait) for other in others)

    def _never_ends(self, holder: Holder, names: Iterable[str]) -> bool:
        return self._leads_to(holder, self._blockers(holder, names))

    def _leads_to(self, asker: Holder, todo: set[Holder], skip: Wait | None = None) -> bool:
        """True if one of ``todo`` ends only after ``asker``. What one holds goes outward when it
        ends, so all around it that is not around ``asker`` has to end as well."""
        seen: set[Holder] = set()
        while todo:
            other = todo.pop()
            while other.outer is not None and not asker.is_within(other.outer):
                other = other.outer
            if asker.is_within(other):
                return True
            if other in seen:
                continue
            seen.add(other)
            for wait in self._waits.get(other.root, ()):
                # It ends after what is inside of it.
                if wait is not skip and wait.holder.is_within(other):
                    todo |= self._blockers(wait.holder, wait.names)
        return False
