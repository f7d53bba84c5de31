"""Transactions of a waeys auth state: its records, its live credentials and what waeys caches.

A transaction of the device beneath carries the records. Around it stands a :class:`Work`, which
knows what is locked, what the live credentials were, and which error waeys may have swallowed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

from ratchetkeep import prekeys
from ratchetkeep.aio import AsyncDevice
from ratchetkeep.errors import RatchetkeepError

from ._waeys_creds import LiveCreds, Work
from ._waeys_values import from_credentials, to_credentials

# Records that a verb reads to write them again. A session's lock stands for the identity too.
_LOCKED = {
    "session": "session",
    "identity-key": "session",
    "sender-key": "sender-key",
    "pre-key": "pre-key",
    "lid-mapping": "lid-mapping",
}

OnPlaintext = Callable[[bytes, dict[str, Any]], Awaitable[None]]


class Core:
    """What the key store, the Signal repository and the auth state share.

    :ivar caches: what waeys caches in memory; called ``forget`` when a transaction failed.
    """

    def __init__(self, device: AsyncDevice) -> None:
        self.device = device
        self.creds = LiveCreds(from_credentials(device.credentials), self.running)
        self.caches: WeakSet[Any] = WeakSet()
        self.on_plaintext: OnPlaintext | None = None
        self._work: ContextVar[Work | None] = ContextVar("work", default=None)

    def running(self) -> Work | None:
        """The transaction that this context is in; a task that was begun inside can outlive it."""
        work = self._work.get()
        while work is not None and work.has_ended:
            work = work.outer
        return work

    def is_inside(self) -> bool:
        """Whether what is set here is committed later, by whatever transaction of the device."""
        return self.device.in_transaction

    @asynccontextmanager
    async def transaction(self, *names: str, is_verb: bool = False) -> AsyncIterator[None]:
        """Commit what is set inside and the changes of ``creds`` together; drop all on an error."""
        outer = self.running()
        work = Work(outer, is_verb=is_verb)
        work.held.update(names)
        try:
            async with self.device.transaction(*names):
                with self._inside(work):
                    yield
                    self.check(work)
                    if outer is None:
                        await self._save_creds(work)
        except BaseException as error:
            if not self._is_stored(work):
                self.creds.undo(work)
            for cache in self.caches:
                cache.forget()
            if work.failure is not None and error is not work.failure:
                raise work.failure from error
            raise
        finally:
            self.creds.end(work)
        if outer is not None:
            outer.held |= work.held

    @contextmanager
    def _inside(self, work: Work) -> Iterator[None]:
        if not work.is_verb:
            self.creds.begin(work)  # a caller may change what stands deep inside of a member
        token = self._work.set(work)
        try:
            yield
        finally:
            work.has_ended = True
            self._work.reset(token)

    async def _save_creds(self, work: Work) -> None:
        if work.before is None:
            return  # nothing was touched
        stored = self.device.credentials
        if to_credentials(self.creds.seen_by(work), stored) == stored:
            return
        # Kept until the commit, so that no older state of the dict is committed after this one. A
        # leaf among the locks: whoever holds it waits for no other, it only commits.
        async with self.device.transaction(prekeys.LOCK) as changes:
            wanted = to_credentials(self.creds.seen_by(work), changes.credentials)
            await changes.save_credentials(wanted)
            work.saved = wanted

    def _is_stored(self, work: Work) -> bool:
        """Whether the commit took place although the caller was stopped meanwhile."""
        try:
            return work.saved is not None and self.device.credentials == work.saved
        except RatchetkeepError:
            return False

    def check(self, work: Work | None) -> None:
        """Raise what the store said inside this verb, whatever waeys made of it."""
        if work is not None and work.failure is not None:
            raise work.failure

    @contextmanager
    def noting_failure(self) -> Iterator[None]:
        """Remember an error of the store: waeys takes some for "there is no session"."""
        try:
            yield
        except Exception as error:
            work = self.running()
            while work is not None:
                if work.is_verb and work.failure is None:
                    work.failure = error
                work = work.outer
            raise

    async def lock(self, family: str, ids: Iterable[str]) -> None:
        """Inside a transaction, lock records until its end: they are read to be written again."""
        work = self.running()
        if work is None or family not in _LOCKED:
            return
        names = [name for name in lock_names(family, ids) if not work.holds(name)]
        if names:
            async with self.device.transaction(*names):
                pass  # what an inner one locks goes to the outer one
            work.held.update(names)

    async def deliver(self, plaintext: bytes, message: dict[str, Any]) -> None:
        """Give a message to the caller's hook, inside the transaction that read it."""
        work = self.running()
        self.check(work)
        if self.on_plaintext is not None and work is not None:
            self.creds.begin(work)  # the hook is the caller's code
            await self.on_plaintext(plaintext, message)


def lock_names(family: str, ids: Iterable[str]) -> list[str]:
    """The names under which records are locked."""
    return [f"{_LOCKED[family]} {id}" for id in ids] if family in _LOCKED else []
