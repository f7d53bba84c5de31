"""Keeping a lease: it is renewed in the background, and its end is noticed whatever hangs."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ._postgres_driver import driver

if TYPE_CHECKING:
    from ._postgres_hub import Hub

__all__ = ["Keeper"]

# A lease is renewed after this part of it, and tried again after the smaller one.
RENEWAL = 1 / 3
RETRY = 1 / 30
# A thread that wakes up later than that, in seconds, was kept from running.
STOOD_STILL = 2.0
THREADS = ("ratchetkeep-lease", "ratchetkeep-watch")


class Keeper:
    """The lease of a hub. One thread renews it; another one, which never waits for the database,
    ends what hangs and says when the lease has run out."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._lock = threading.Lock()
        # No more renewals; nothing is watched any more.
        self._ended = threading.Event()
        self._is_over = threading.Event()
        self._threads: list[threading.Thread] = []
        # When the last renewal that came back was sent, by this process's clock.
        self._renewed = 0.0

    @property
    def has_begun(self) -> bool:
        """True once there was a lease."""
        return bool(self._threads)

    def ensure(self) -> None:
        """Have a lease that runs, from the first time that something is to be owned.

        The driver's errors come as they are.
        """
        with self._lock:
            # Not through an outage, say: what is taken then would be anyone's at once.
            if self._threads and time.monotonic() < self._renewed + self._hub.lease / 2:
                return
            began = time.monotonic()
            self._hub.retried(self._hub.keep)
            self._renewed = began
            if self._threads:
                return
            jobs = (self._renew_always, self._watch)
            for job, name in zip(jobs, THREADS, strict=True):
                thread = threading.Thread(target=job, name=name, daemon=True)
                thread.start()
                self._threads.append(thread)

    def stop_renewing(self) -> None:
        """Have the lease no longer. What hangs is ended still."""
        self._ended.set()
        self._join(self._threads[:1])

    def stop(self) -> None:
        """End the threads."""
        self._ended.set()
        self._is_over.set()
        self._join(self._threads)

    def _join(self, threads: list[threading.Thread]) -> None:
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(self._hub.lease)

    def _renew_always(self) -> None:
        pause = self._hub.lease * RENEWAL
        while not self._ended.wait(pause):
            began = time.monotonic()
            try:
                with self._hub.link.connection() as connection:
                    self._hub.keep(connection)
            except driver.Error as error:
                # Also what is wrong with the tables: whoever reads or commits is told.
                self._hub.link.renew(error)
                pause = self._hub.lease * RETRY
            else:
                self._renewed = began
                pause = self._hub.lease * RENEWAL

    def _watch(self) -> None:
        pause = self._hub.lease * RETRY
        before, quiet_until = time.monotonic(), 0.0
        while not self._is_over.wait(pause):
            now = time.monotonic()
            if now > before + pause + STOOD_STILL:
                # The process was stopped, or its machine slept. The database may say that nobody
                # took the devices meanwhile: it is asked now, by the other thread.
                quiet_until = now + STOOD_STILL
            before = now
            self._hub.link.cut_hanging()
            if now > max(quiet_until, self._renewed + self._hub.lease) and self._hub.held:
                self._hub.expire()
