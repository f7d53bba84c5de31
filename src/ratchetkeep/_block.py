"""The block of a transaction: begun, left, and what becomes of what was set inside."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ratchetkeep._locks import Wait
from ratchetkeep._transaction import Transaction
from ratchetkeep.model import Key

if TYPE_CHECKING:
    from ratchetkeep.device import Device


class Block:
    """The block of a transaction, as far as it does not wait: what both faces have in common."""

    def __init__(self, device: Device, keys: tuple[str, ...], outer: Transaction | None) -> None:
        self._device = device
        self._keys = keys
        self._outer = outer
        self._transaction = Transaction(device, outer)
        self._has_joined = False

    def _begin(self) -> Transaction:
        """Let this context be in the transaction; its locks are taken."""
        device = self._device
        self._before = device._running()
        try:
            device._run(self._transaction)
            return self._transaction
        except BaseException:
            # Ctrl-C: there will be no __exit__, and later calls would join this transaction.
            device._abandon(self._transaction)
            raise

    def __del__(self) -> None:
        # A block that was begun and never left: a task that was never ended, or a Ctrl-C at the
        # very beginning of leaving.
        if not self._transaction.gave_back:
            self._device._abandon(self._transaction)

    def _stop_waiting(self, wait: Wait) -> None:
        """Interrupted or cancelled while it waited for its locks."""
        if not self._device._locks.withdraw(wait):
            self._device._locks.give_back(self._transaction, keep=False)

    def _close(self, *, is_fine: bool) -> dict[Key, Any]:
        """Take no more changes; gives those that are to be committed here and now."""
        if not is_fine:
            return {}
        if self._outer is not None:
            self._transaction._join(self._outer)
            self._has_joined = True
            return {}
        if self._transaction._changes:
            self._transaction.has_ended = True
        return self._transaction._changes

    def _end(self) -> None:
        # A task that was started inside may keep the transaction in its context for long.
        self._transaction._changes = {}
        self._device._locks.give_back(self._transaction, keep=self._has_joined)


class WithBlock(Block, AbstractContextManager[Transaction]):
    """The ``with`` block of a transaction."""

    def __enter__(self) -> Transaction:
        if self._keys:
            self._lock()
        return self._begin()

    def _lock(self) -> None:
        locks, granted = self._device._locks, threading.Event()

        def wake() -> bool:
            granted.set()
            return True

        wait = locks.ask(self._transaction, self._keys, wake)
        if wait is None:
            return
        try:
            granted.wait()
        except BaseException:
            self._stop_waiting(wait)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._device._run(self._before)
        try:
            changes = self._close(is_fine=kind is None)
            if changes:
                self._device._commit(changes)
        finally:
            self._end()
