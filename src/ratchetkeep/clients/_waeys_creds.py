"""The live ``creds`` of waeys, and what a transaction did to them.

waeys changes one dict in place, from everywhere. A transaction remembers how the dict was when it
began; members that others write meanwhile are noted, so that undoing it takes back its own changes
only, and so that what others save holds nothing of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

_ABSENT: Any = object()


class Work:
    """One transaction of an auth state, perhaps inside another.

    :ivar is_verb: True for one verb of the Signal repository, False for a caller's own block.
    :ivar failure: the first error of the store inside a verb: waeys takes some for "no session".
    :ivar pins: LIDs by phone-number JID, as this verb saw them first.
    :ivar held: names that it has locked.
    :ivar saved: the credentials that go with its commit.
    """

    def __init__(self, outer: Work | None, *, is_verb: bool) -> None:
        self.outer = outer
        self.root: Work = outer.root if outer else self
        self.is_verb = is_verb
        self.has_ended = False
        self.failure: Exception | None = None
        self.pins: dict[str, Any] = {}
        self.held: set[str] = set()
        self.saved: Any = None
        self.before: dict[str, Any] | None = None
        self.outside: set[str] = set()

    def is_within(self, other: Work) -> bool:
        """True for ``other`` itself and for what is inside of it."""
        work: Work | None = self
        while work is not None and work is not other:
            work = work.outer
        return work is other

    def holds(self, name: str) -> bool:
        """Whether it, or one around it, has locked ``name``."""
        work: Work | None = self
        while work is not None and name not in work.held:
            work = work.outer
        return work is not None


class LiveCreds(dict[str, Any]):
    """``creds`` as waeys has them: a dict, changed in place, that tells who changes it."""

    def __init__(self, members: dict[str, Any], running: Callable[[], Work | None]) -> None:
        super().__init__(members)
        self._running = running
        self._open: list[Work] = []

    def begin(self, work: Work) -> None:
        """Remember the members as they are before ``work`` changes them."""
        if work.before is None:
            work.before = copy.deepcopy(dict(self))
            self._open.append(work)

    def end(self, work: Work) -> None:
        """``work`` is over, one way or the other."""
        if work in self._open:
            self._open.remove(work)

    def undo(self, work: Work) -> None:
        """Take back what ``work`` changed."""
        for name, value in self._changed_by(work).items():
            if value is _ABSENT:
                super().pop(name, None)
            else:
                super().__setitem__(name, value)

    def seen_by(self, work: Work) -> dict[str, Any]:
        """The members without what other transactions, not committed yet, have changed."""
        seen = dict(self)
        for other in reversed(self._open):
            if other.root is not work.root:
                seen.update(self._changed_by(other))
        return {name: value for name, value in seen.items() if value is not _ABSENT}

    def _changed_by(self, work: Work) -> dict[str, Any]:
        """What ``work`` changed, as it was before."""
        before = work.before
        if before is None:
            return {}
        names = (before.keys() | self.keys()) - work.outside
        held = {name: (before.get(name, _ABSENT), self.get(name, _ABSENT)) for name in names}
        return {name: old for name, (old, now) in held.items() if old is not now and old != now}

    def _touch(self, names: Iterable[str]) -> None:
        current = self._running()
        if current is not None:
            self.begin(current)
        for work in self._open:
            if current is None or not current.is_within(work):
                work.outside.update(names)

    def __setitem__(self, name: str, value: Any) -> None:
        self._touch([name])
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        self._touch([name])
        super().__delitem__(name)

    def update(self, *args: Any, **members: Any) -> None:
        """As of any dict."""
        changes = dict(*args, **members)
        self._touch(changes)
        super().update(changes)

    def __ior__(self, other: Any) -> LiveCreds:  # type: ignore[override, misc]
        self.update(other)
        return self

    def setdefault(self, name: str, default: Any = None) -> Any:
        """As of any dict."""
        if name not in self:
            self[name] = default
        return self[name]

    def pop(self, name: str, *default: Any) -> Any:
        """As of any dict."""
        self._touch([name])
        return super().pop(name, *default)

    def popitem(self) -> NoReturn:
        """Not for credentials."""
        raise TypeError("credentials have no last member to take away")

    def clear(self) -> None:
        """As of any dict."""
        self._touch(self)
        super().clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return (dict, (dict(self),))

    def __repr__(self) -> str:
        return f"<creds of {len(self)} members>"
