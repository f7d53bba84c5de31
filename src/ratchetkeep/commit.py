"""Group commit: commits that wait together share one sync.

Whoever commits while nothing is under way leads: it carries out all that wait, in one step of the
store, and hands over to the next. So a lone commit is made by its own thread, at once. Commits of
asyncio tasks, which must not block, are led by a thread of the group.
"""

from __future__ import annotations

import copy
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, Self

from ratchetkeep import _metrics
from ratchetkeep.errors import (
    CommitFailed,
    OwnershipLost,
    RatchetkeepError,
    StoreDamaged,
    StoreInUse,
)
from ratchetkeep.model import Key
from ratchetkeep.stores.base import Joint, Prepared, Refused, Store

if TYPE_CHECKING:
    import asyncio

# A leader waits for those who committed together before, as long as some of them come and no longer
# than the last sync took: else one of many would pay a sync for itself alone. In seconds.
MAX_GATHERING = 0.01
# Below this a sync is cheaper than waking up again.
MIN_GATHERING = 0.0002
# Devices whose commits go together.
MAX_OWNERS = 100
# After this the thread of a group that has nothing to do ends.
IDLE = 5.0
THREAD = "ratchetkeep-commit"


# What goes wrong for all commits of a group, not for one of them.
_OF_ALL = (CommitFailed, OwnershipLost, StoreDamaged, StoreInUse)


class Owner(Protocol):
    """The device of a commit.

    :ivar order: held while a commit is carried out and entered into memory.
    """

    order: threading.RLock
    url: str

    def settle(self, commit: Commit) -> None:
        """Enter a commit, which is durable now, into memory."""

    def lose(self, error: OwnershipLost) -> None:
        """The device is another process's by now: refuse everything until opened again."""

    def doubt(self) -> None:
        """Memory may differ from what is stored: refuse everything until opened again."""

    def refusal(self) -> RatchetkeepError | None:
        """Why a commit that waited must not be carried out, if so."""


class Commit:
    """One commit on its way.

    :param changes: the new values by key; None deletes.
    :param batch: the same, encoded.
    :param loop: where its task waits; None if a thread does.
    """

    __slots__ = (
        "_is_awake",
        "_wake",
        "batch",
        "changes",
        "error",
        "future",
        "is_over",
        "is_taken",
        "loop",
        "owner",
    )

    def __init__(
        self,
        owner: Owner,
        changes: dict[Key, Any],
        batch: Prepared,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.owner = owner
        self.changes = changes
        self.batch = batch
        self.loop = loop
        self.future: asyncio.Future[None] | None = loop.create_future() if loop else None
        self.error: RatchetkeepError | None = None
        # A leader has taken it on; it is over.
        self.is_taken = False
        self.is_over = False
        self._wake: threading.Lock | None = None
        self._is_awake = False

    def prepare_to_sleep(self) -> None:
        """Before another thread could wake it."""
        self._wake = threading.Lock()
        self._wake.acquire()

    def sleep(self) -> BaseException | None:
        """Wait until it is over or is to lead; gives what interrupted it (Ctrl-C): that is raised
        only when the outcome is known."""
        interrupt: BaseException | None = None
        # The flag: an interrupt may come just after the lock was acquired.
        while self._wake is not None and not self._is_awake:
            try:
                self._wake.acquire()
            except BaseException as error:  # noqa: BLE001 - handed to the caller
                interrupt = error
        return interrupt

    def wake(self) -> None:
        """End the sleep of its thread."""
        self._is_awake = True
        if self._wake is not None:
            with suppress(RuntimeError):  # not locked: an interrupt ended the sleep before
                self._wake.release()

    def fail(self, error: RatchetkeepError) -> None:
        """It is over, and nothing of it is stored."""
        # A copy: several threads raise it, and each adds its traceback.
        self.error = copy.copy(error)
        self.is_over = True
        if isinstance(error, OwnershipLost):
            self.owner.lose(error)


class GroupCommit:
    """The commits of all devices that share a sync. All methods are thread-safe."""

    def __init__(self, joint: Joint, kind: str) -> None:
        self._joint = joint
        self._kind = kind
        self._recorder = _metrics.recorder()
        self._mutex = threading.Lock()
        self._waiting: list[Commit] = []
        # Whoever leads, and what it took on.
        self._leader: Commit | GroupCommit | None = None
        self._group: list[Commit] = []
        self._to_tell: deque[list[Commit]] = deque()
        self._interrupt: BaseException | None = None
        self._kicked: set[asyncio.AbstractEventLoop] = set()
        self._expected = 1
        self._took = 0.0
        self._full: threading.Lock | None = None
        self._work: SimpleQueue[None] | None = None

    @classmethod
    def of(cls, store: Store, device: str) -> GroupCommit:
        """The group of a device; it lives as long as what the device shares with others."""
        group: GroupCommit = vars(joint := store.joint(device)).setdefault(
            "group", cls(joint, store.kind)
        )
        return group

    def run(self, commit: Commit) -> None:
        """Carry out a commit, with others that wait; blocks.

        :raises CommitFailed: if it could not be made durable.
        """
        interrupt: BaseException | None = None
        try:
            with self._mutex:
                leads = self._leader is None
                if leads:
                    self._leader = commit
                else:
                    commit.prepare_to_sleep()
                self._add(commit)
            if not leads:
                interrupt = commit.sleep()
            if not commit.is_over:
                self._lead()
        except BaseException:
            self._leave(commit)
            raise
        if interrupt is not None:
            raise interrupt
        if commit.error is not None:
            raise commit.error

    def _leave(self, commit: Commit) -> None:
        """After an interrupt (Ctrl-C) at any step: nobody may wait for this thread."""
        with self._mutex:
            if commit in self._waiting:
                self._waiting.remove(commit)  # it was not begun
        if commit.is_taken and not commit.is_over and self._leader is not commit:
            commit.sleep()  # another thread carries it out
        if self._leader is commit:
            self._hand_over()
        else:
            self._tell_next()

    def submit(self, commit: Commit) -> None:
        """Have a commit of a task carried out; its future ends when it is over. Does not block."""
        assert commit.loop is not None  # noqa: S101 - what submit is for
        with self._mutex:
            self._add(commit)
            if self._leader is not None or commit.loop in self._kicked:
                return
            # One kick for each loop: another loop may be busy, or be closed before it kicks.
            self._kicked.add(commit.loop)
        # Not at once: other tasks that are ready may commit too.
        commit.loop.call_soon(self._kick)

    def _add(self, commit: Commit) -> None:
        self._waiting.append(commit)
        if self._full is not None and len(self._waiting) >= self._expected:
            full, self._full = self._full, None
            full.release()

    def _kick(self) -> None:
        with self._mutex:
            self._kicked.clear()
            if self._leader is not None or not self._waiting:
                return
            self._leader = self
        self._call_thread()

    def _lead(self) -> None:
        interrupt: BaseException | None = None
        try:
            self._gather()
        except BaseException as error:  # noqa: BLE001 - Ctrl-C, raised below
            interrupt = error
        self._take()
        started = time.perf_counter()
        try:
            self._carry_out(self._group)
        except BaseException as error:
            self._interrupt = error
            raise
        finally:
            self._took = time.perf_counter() - started
            self._hand_over()
        if interrupt is not None:
            raise interrupt

    def _gather(self) -> None:
        """Wait a little for those who are about to commit again."""
        limit = min(self._took, MAX_GATHERING)
        if self._expected < 2 or limit < MIN_GATHERING:
            return
        full = threading.Lock()
        full.acquire()
        with self._mutex:
            seen = len(self._waiting)
            if seen >= self._expected:
                return
            self._full = full
        try:
            end = time.perf_counter() + limit
            while not full.acquire(timeout=limit / 4):
                if len(self._waiting) == seen or time.perf_counter() > end:
                    break
                seen = len(self._waiting)
        finally:
            with self._mutex:
                self._full = None

    def _take(self) -> None:
        """Take on all that wait, of so many devices that their locks can be held one in another."""
        owners: set[int] = set()
        with self._mutex:
            count = 0
            for commit in self._waiting:
                owners.add(id(commit.owner))
                if len(owners) > MAX_OWNERS:
                    break
                commit.is_taken = True
                count += 1
            self._group, self._waiting = self._waiting[:count], self._waiting[count:]

    def _carry_out(self, group: Sequence[Commit]) -> None:
        self._hold(list({id(commit.owner): commit.owner for commit in group}.values()), group)

    def _hold(self, owners: Sequence[Owner], group: Sequence[Commit], held: int = 0) -> None:
        # One in another, and not in a list to be released: only a with block gives a lock back
        # wherever Ctrl-C comes. Nobody else holds several, so the order does not matter.
        if held < len(owners):
            with owners[held].order:
                self._hold(owners, group, held + 1)
            return
        for commit in group:
            refusal = commit.owner.refusal()
            if refusal is not None:
                commit.fail(refusal)
        try:
            self._together([commit for commit in group if not commit.is_over])
        except BaseException:
            # Ctrl-C, or no memory: nobody knows how far it got.
            for owner in owners:
                owner.doubt()
            raise

    def _together(self, group: Sequence[Commit]) -> None:
        if not group:
            return
        try:
            refused = self._apply([commit.batch for commit in group]) or {}
        except RatchetkeepError as error:
            if len(group) > 1 and not isinstance(error, _OF_ALL):
                # One of them is refused before anything is written; the others need not be.
                for commit in group:
                    self._together([commit])
                return
            for commit in group:
                commit.fail(error)
        else:
            for commit in group:
                refusal = refused.get(commit.batch.device)
                if refusal is not None:
                    commit.fail(refusal)
                    continue
                commit.owner.settle(commit)
                commit.is_over = True

    def _apply(self, batches: Sequence[Prepared]) -> Refused | None:
        if self._recorder is None:
            return self._joint.apply(*batches)
        started = time.perf_counter()
        refused = self._joint.apply(*batches)
        self._recorder.carried_out(self._kind, time.perf_counter() - started, len(batches))
        return refused

    def _hand_over(self) -> None:
        with self._mutex:
            group = self._group
            for commit in self._group:
                if not commit.is_over:
                    self._fail_interrupted(commit)
            self._expected = len(self._group) + len(self._waiting)
            if self._group:
                self._to_tell.append(self._group)
                self._group = []
            self._leader = self._heir()
        # Before they go on: who has waited for a commit finds it counted.
        if self._recorder is not None:
            self._count(self._recorder, group)
        self._tell_next()

    def _count(self, recorder: _metrics.Recorder, group: Sequence[Commit]) -> None:
        outcomes = [_outcome(commit) for commit in group]
        for outcome in set(outcomes):
            recorder.ended(self._kind, outcome, outcomes.count(outcome))

    def _fail_interrupted(self, commit: Commit) -> None:
        cause = self._interrupt
        name = f" by {type(cause).__name__}" if cause is not None else ""
        commit.fail(CommitFailed(commit.owner.url, f"the commit was interrupted{name}"))
        if commit.error is not None:
            commit.error.__cause__ = cause

    def _tell_next(self) -> None:
        """Wake who leads now, then those whose commits are over. Each step may be done twice: after
        an interrupt it is all done again."""
        leader = self._leader
        # The next sync begins before those of this one go on.
        if isinstance(leader, Commit):
            leader.wake()
        elif leader is not None:
            self._call_thread()
        while self._to_tell:
            with suppress(IndexError, ValueError):  # another thread was faster
                group = self._to_tell[0]
                _tell(group)
                self._to_tell.remove(group)

    def _heir(self) -> Commit | Self | None:
        """Who leads next: the first that a thread waits for, or our own thread."""
        for commit in self._waiting:
            if commit.loop is None:
                return commit
        return self if self._waiting else None

    def _call_thread(self) -> None:
        with self._mutex:
            if self._work is None:
                work: SimpleQueue[None] = SimpleQueue()
                thread = threading.Thread(
                    target=self._lead_for_tasks,
                    args=(work,),
                    name=THREAD,
                    daemon=True,
                )
                with suppress(RuntimeError):  # no thread to be had, or the interpreter is ending
                    thread.start()
                    self._work = work
            if self._work is not None:
                self._work.put(None)
                return
        self._lead()

    def _lead_for_tasks(self, work: SimpleQueue[None]) -> None:
        while True:
            try:
                work.get(timeout=IDLE)
            except Empty:
                with self._mutex:
                    if work.empty():
                        self._work = None
                        return
                continue
            # Whatever happens, the commits' own tasks are told.
            if self._leader is self:
                with suppress(Exception):
                    self._lead()


def _outcome(commit: Commit) -> str:
    if commit.error is None:
        return _metrics.STORED
    return _metrics.FAILED if isinstance(commit.error, _OF_ALL) else _metrics.REFUSED


def _tell(group: Sequence[Commit]) -> None:
    """Wake who waits for these commits, each event loop once."""
    loops: dict[asyncio.AbstractEventLoop, list[Commit]] = {}
    for commit in group:
        if commit.loop is not None:
            loops.setdefault(commit.loop, []).append(commit)
        else:
            commit.wake()
    for loop, commits in loops.items():
        with suppress(RuntimeError):  # the loop was closed: nobody waits there any more
            loop.call_soon_threadsafe(_resolve, commits)


def _resolve(commits: Sequence[Commit]) -> None:
    for commit in commits:
        if commit.future is not None and not commit.future.done():
            commit.future.set_result(None)
