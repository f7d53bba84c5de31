"""Power cuts at every step of a run of commits, for any store that a simulated disk can carry."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from ratchetkeep.device import Device, open_in
from ratchetkeep.errors import NoDevice
from ratchetkeep.model import Credentials, Key
from ratchetkeep.stores.base import DEFAULT_DEVICE, Store
from ratchetkeep.verify import check_store

from .disk import SimulatedDisk


@dataclass(frozen=True)
class Commit:
    """One commit: records as for :meth:`Device.set`, and credentials if they change with them."""

    records: dict[str, dict[str, Any]]
    credentials: Credentials | None = None

    def run(self, device: Device) -> None:
        """Make it."""
        with device.transaction() as transaction:
            transaction.set(self.records)
            if self.credentials is not None:
                transaction.save_credentials(self.credentials)


@dataclass
class Survived:
    """What a run saw: how many steps, and how many states after a power cut were opened."""

    steps: int = 0
    states: int = 0


OpenStore = Callable[[SimulatedDisk], AbstractContextManager[Store]]
"""Gives a store over a simulated disk. Its changes must reach that disk's ``on_step``."""


class NotSurvived(AssertionError):
    """A power cut left a state that breaks a promise; says at which step, and how."""


class PowerCuts:
    """Runs ``commits`` on a store, and at every step opens what a power cut then may leave.

    Each such state must open by itself; it must hold every commit that had returned, the one under
    way whole or not at all, and nothing that verifying finds wrong; it must be the same after
    closing and opening again.

    :param running: gives the store that the commits run on.
    :param after: gives a store over what a power cut left.
    :param between: called with the store and a number after each commit: to let files follow,
        say.
    :param per_step: how many states are tried at a step.
    :param every: power is cut at every so manieth step.
    :param nested: the share of states in which power is cut again while they are opened.
    """

    def __init__(
        self,
        running: OpenStore,
        after: OpenStore,
        commits: Sequence[Commit],
        *,
        credentials: Credentials,
        between: Callable[[Any, int], None] | None = None,
        per_step: int = 6,
        every: int = 1,
        nested: float = 0.02,
        seed: int = 0,
    ) -> None:
        self._running = running
        self._after = after
        self._commits = commits
        self._credentials = credentials
        self._between = between or (lambda store, number: None)
        self._nested = nested
        self._per_step = per_step
        self._every = every
        self._rng = random.Random(seed)
        self._expected: list[dict[Key, bytes] | None] = [None]
        self._done = 0
        self._under_way = False
        self.survived = Survived()

    def run(self) -> Survived:
        """Make the run.

        :raises NotSurvived: at the first state that breaks a promise.
        """
        self._expect()
        disk = SimulatedDisk()
        with self._running(disk) as store:
            disk.on_step = lambda verb: self._cut(disk, verb)
            self._go(store, lambda: None)
            disk.on_step = None
        self._under_way = False
        self._cut(disk, "closing")
        return self.survived

    def _expect(self) -> None:
        """What the store holds after each commit, from a run that nothing disturbs."""
        disk = SimulatedDisk()
        with self._running(disk) as store:
            self._go(store, lambda: self._expected.append(content(store)))

    def _go(self, store: Store, then: Callable[[], None]) -> None:
        self._done, self._under_way = 0, True
        device = open_in(
            store, DEFAULT_DEVICE, create=True, read_only=False, initial=self._credentials
        )
        self._done, self._under_way = 1, False
        then()
        for commit in self._commits:
            self._under_way = True
            commit.run(device)
            self._done, self._under_way = self._done + 1, False
            self._between(store, self._done)
            then()
        device.close()

    def _cut(self, disk: SimulatedDisk, verb: str) -> None:
        self.survived.steps += 1
        if self.survived.steps % self._every and verb != "closing":
            return
        for state in disk.crashes(self._rng, self._per_step):
            self.survived.states += 1
            try:
                self._check(state)
            except Exception as error:
                moment = f"{verb} of step {self.survived.steps}, {self._done} commits had returned"
                raise NotSurvived(f"after {moment}: {type(error).__name__}: {error}") from error

    def _check(self, state: SimulatedDisk) -> None:
        allowed = [self._expected[self._done]]
        if self._under_way:
            allowed.append(self._expected[self._done + 1])
        if self._rng.random() < self._nested:
            self._cut_while_opening(state, allowed)
        first = self._open(state)
        if first not in allowed:
            raise AssertionError("a commit is torn, lost, or came back after it was undone")
        if self._open(state) != first:
            raise AssertionError("recovering changed what the store holds")

    def _cut_while_opening(
        self, state: SimulatedDisk, allowed: list[dict[Key, bytes] | None]
    ) -> None:
        """Recovering is itself a run that power may cut at any step."""

        def cut(verb: str) -> None:
            for again in state.crashes(self._rng, 2):
                self.survived.states += 1
                if self._open(again) not in allowed:
                    raise AssertionError("a second power cut, while opening, breaks a commit")

        state.on_step = cut
        self._open(state)
        state.on_step = None

    def _open(self, state: SimulatedDisk) -> dict[Key, bytes] | None:
        with self._after(state) as store:
            try:
                device = open_in(store, DEFAULT_DEVICE, create=False, read_only=False)
            except NoDevice:
                return None
            found = content(store)
            wrong = [each for each in check_store(store, DEFAULT_DEVICE) if each.severity != "info"]
            device.close()
        if wrong:
            raise AssertionError(f"verifying finds: {wrong[0].what}")
        return found


def content(store: Store) -> dict[Key, bytes]:
    """All records of the default device, as the store's bytes."""
    return store.read(DEFAULT_DEVICE, list(store.scan(DEFAULT_DEVICE)))


@contextmanager
def closing(store: Store) -> Iterator[Store]:
    """A store that is closed again."""
    try:
        yield store
    finally:
        store.close()


__all__ = ["Commit", "NotSurvived", "PowerCuts", "Survived", "closing", "content"]
