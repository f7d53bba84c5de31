"""How long a worker of a fleet leaves a device alone that it could not serve, or has served."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

__all__ = ["MOST", "Pauses"]

# The longest pause, as a multiple of the first.
MOST = 128


class Pauses:
    """The pauses of all devices. Each is about twice as long as the device's last one; they differ
    by chance, so that devices that failed together are not tried together for ever.

    :param first: about how long a first pause is, in seconds.
    """

    def __init__(self, first: float, now: Callable[[], float] = time.monotonic) -> None:
        self._first = first
        self._now = now
        # By name: how long the last one was meant to be, and when it ends.
        self._known: dict[str, tuple[float, float]] = {}

    def begin(self, name: str, served: float) -> None:
        """A device is left alone from now on.

        :param served: how long it was served, in seconds; if that was long, all begins anew.
        """
        last, _ = self._known.get(name, (0.0, 0.0))
        most = MOST * self._first
        pause = self._first if served > most or not last else min(2 * last, most)
        self._known[name] = pause, self._now() + pause * random.uniform(0.75, 1.25)

    def resting(self) -> list[str]:
        """The devices to leave alone now."""
        now, kept = self._now(), MOST * self._first
        gone = [name for name, (_, until) in self._known.items() if until + 2 * kept < now]
        for name in gone:
            del self._known[name]
        return [name for name, (_, until) in self._known.items() if until > now]
