"""Metrics through OpenTelemetry, where the program has it. docs/reference/metrics.md says what each
one means.

OpenTelemetry is imported when the first device is opened, not when we are imported: every command
would start later. Where it is not installed there is no recorder, and nothing is counted.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import MethodType
from typing import TYPE_CHECKING, Protocol
from weakref import WeakMethod, WeakValueDictionary

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Counter, Meter, Observation

    Callback = Callable[[CallbackOptions], Iterable[Observation]]

__all__ = ["FAILED", "REFUSED", "STORED", "Counts", "OpenDevice", "Recorder", "recorder"]

STORE = "ratchetkeep.store"
OUTCOME = "outcome"
STORED, REFUSED, FAILED = "stored", "refused", "failed"

# From a sync that a disk's cache swallows to a server that hardly answers. In seconds.
_SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0),
)
_COMMITS = tuple(2.0**power for power in range(11))

Count = Callable[[], int]


class OpenDevice(Protocol):
    """What is told of a device that is open.

    :ivar kind: the kind of its store.
    :ivar pre_keys: how many one-time pre-keys it holds; None while that is not known.
    """

    kind: str
    pre_keys: int | None


class Counts:
    """What all devices in one kind of store have counted together, so that nothing of it goes away
    with a device. Plain numbers, told when metrics are collected: to count with the SDK takes
    longer than a look into a cache, and a third of a small commit.

    No lock: ``counts.hits += number`` has no call in it, and threads change places at calls and
    loops only.

    :ivar commits: by outcome.
    """

    __slots__ = ("commits", "hits", "misses")

    def __init__(self) -> None:
        self.commits = {STORED: 0, REFUSED: 0, FAILED: 0}
        self.hits = 0
        self.misses = 0


class Recorder:
    """Records what happens. All methods are thread-safe, and none raises or blocks for long."""

    def __init__(self, meter: Meter) -> None:
        # Weak: a device that was dropped without being closed must not stay for a gauge.
        self._open: WeakValueDictionary[int, OpenDevice] = WeakValueDictionary()
        self._device_kinds: dict[str, None] = {}
        self._leases: dict[object, tuple[str, Callable[[], Count | None]]] = {}
        self._lease_kinds: dict[str, None] = {}
        self._counts: dict[str, Counts] = {}
        self._make_commits(meter)
        self._make_leases(meter)
        self._make_cache(meter)
        self._make_devices(meter)

    def _make_commits(self, meter: Meter) -> None:
        meter.create_observable_counter(
            "ratchetkeep.commits",
            [self._commits],
            "{commit}",
            "Commits that are over, by their outcome",
        )
        self._duration = meter.create_histogram(
            "ratchetkeep.commit.duration",
            "s",
            "How long a group of commits took in the store",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._group_size = meter.create_histogram(
            "ratchetkeep.commit.group_size",
            "{commit}",
            "How many commits shared one step of the store",
            explicit_bucket_boundaries_advisory=_COMMITS,
        )
        self._retries = meter.create_counter(
            "ratchetkeep.commit.retries", "{retry}", "Commits repeated after a lost connection"
        )

    def _make_leases(self, meter: Meter) -> None:
        self._leases_lost = meter.create_counter(
            "ratchetkeep.leases.lost", "{lease}", "Leases that were lost, not given back"
        )
        meter.create_observable_gauge(
            "ratchetkeep.leases.held", [self._held], "{lease}", "Leases that this process holds"
        )

    def _make_cache(self, meter: Meter) -> None:
        meter.create_observable_counter(
            "ratchetkeep.cache.hits",
            [self._looks(lambda counts: counts.hits)],
            "{record}",
            "Records that were answered from memory",
        )
        meter.create_observable_counter(
            "ratchetkeep.cache.misses",
            [self._looks(lambda counts: counts.misses)],
            "{record}",
            "Records that had to be asked of the store",
        )

    def _make_devices(self, meter: Meter) -> None:
        meter.create_observable_gauge(
            "ratchetkeep.devices.open",
            [self._opened],
            "{device}",
            "Devices that are open in this process",
        )
        meter.create_observable_gauge(
            "ratchetkeep.pre_keys.lowest",
            [self._pre_keys(min)],
            "{pre_key}",
            "One-time pre-keys of the device that holds the fewest",
        )
        meter.create_observable_gauge(
            "ratchetkeep.pre_keys.total",
            [self._pre_keys(sum)],
            "{pre_key}",
            "One-time pre-keys of all devices together",
        )

    def counts(self, kind: str) -> Counts:
        """Where to count what happens in a kind of store."""
        return self._counts.setdefault(kind, Counts())

    def _looks(self, number: Callable[[Counts], int]) -> Callback:
        return lambda _: _observed(
            {kind: number(each) for kind, each in self._counts.copy().items()}
        )

    # -- commits

    def carried_out(self, kind: str, seconds: float, size: int) -> None:
        """A group of ``size`` commits was stored, which took the store so many seconds."""
        with suppress(Exception):  # what a meter raises must not fail the commit
            self._duration.record(seconds, {STORE: kind})
            self._group_size.record(size, {STORE: kind})

    def ended(self, kind: str, outcome: str, count: int = 1) -> None:
        """So many commits are over, with one outcome."""
        commits = self.counts(kind).commits
        commits[outcome] += count

    def _commits(self, _: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation

        return [
            Observation(count, {STORE: kind, OUTCOME: outcome})
            for kind, counts in self._counts.copy().items()
            for outcome, count in counts.commits.items()
        ]

    def retried(self, kind: str) -> None:
        """A store repeats a commit after it lost its connection."""
        _add(self._retries, 1, kind)

    # -- leases

    def leases_lost(self, kind: str, count: int) -> None:
        """So many leases were lost."""
        _add(self._leases_lost, count, kind)

    def watch_leases(self, kind: str, count: Count) -> Callable[[], None]:
        """Ask ``count`` how many leases a store holds, whenever metrics are collected; gives what
        ends that. A method is held weakly, so that its store may go away unclosed."""
        watch = object()
        self._lease_kinds[kind] = None
        method = WeakMethod(count) if isinstance(count, MethodType) else lambda: count
        self._leases[watch] = kind, method
        return lambda: self._unwatch(watch)

    def _unwatch(self, watch: object) -> None:
        self._leases.pop(watch, None)

    def _held(self, _: CallbackOptions) -> Iterable[Observation]:
        held = dict.fromkeys(self._lease_kinds.copy(), 0)
        for watch, (kind, method) in self._leases.copy().items():
            count = method()
            if count is None:
                self._unwatch(watch)
            else:
                held[kind] += count()
        return _observed(held)

    # -- devices

    def opened(self, device: OpenDevice) -> None:
        """A device is open, until :meth:`closed` or until nobody holds it any more."""
        self._device_kinds[device.kind] = None
        self._open[id(device)] = device

    def closed(self, device: OpenDevice) -> None:
        """A device is closed."""
        self._open.pop(id(device), None)

    def _devices(self) -> list[OpenDevice]:
        # valuerefs is a list of its own: devices may come and go meanwhile.
        found = (reference() for reference in self._open.valuerefs())
        return [device for device in found if device is not None]

    def _opened(self, _: CallbackOptions) -> Iterable[Observation]:
        # Zero for a kind that was open before: a gauge that ends would look like one that stands.
        counts = dict.fromkeys(self._device_kinds.copy(), 0)
        for device in self._devices():
            counts[device.kind] += 1
        return _observed(counts)

    def _pre_keys(self, of_all: Callable[[list[int]], int]) -> Callback:
        return lambda _: _observed({kind: of_all(each) for kind, each in self._stocks().items()})

    def _stocks(self) -> dict[str, list[int]]:
        """By kind of store, how many pre-keys each device holds of which that is known."""
        found: dict[str, list[int]] = {}
        for device in self._devices():
            count = device.pre_keys
            if count is not None:
                found.setdefault(device.kind, []).append(count)
        return found

    def in_forked_child(self) -> None:
        """The open devices and their leases are those of the parent."""
        self._open = WeakValueDictionary()
        self._leases = {}


def _add(counter: Counter, count: int, kind: str) -> None:
    with suppress(Exception):  # what a meter raises must not fail the store that tells us
        counter.add(count, {STORE: kind})


def _observed(values: Mapping[str, int]) -> Iterable[Observation]:
    from opentelemetry.metrics import Observation

    return [Observation(value, {STORE: kind}) for kind, value in values.items()]


class _Found:
    """What looking for OpenTelemetry gave: it is looked for once."""

    guard = threading.Lock()
    is_known = False
    recorder: Recorder | None = None

    @classmethod
    def in_forked_child(cls) -> None:
        cls.guard = threading.Lock()
        if cls.recorder is not None:
            cls.recorder.in_forked_child()


os.register_at_fork(after_in_child=_Found.in_forked_child)


def recorder() -> Recorder | None:
    """What records metrics, or None without OpenTelemetry; the first call imports it."""
    if not _Found.is_known:
        get_meter = _imported()  # not under the guard: it may wait for another thread's import
        with _Found.guard:
            if not _Found.is_known:
                _Found.recorder = None if get_meter is None else _made(get_meter)
                _Found.is_known = True
    return _Found.recorder


def _imported() -> Callable[..., Meter] | None:
    try:
        from opentelemetry.metrics import get_meter
    except ImportError:
        return None
    return get_meter


def _made(get_meter: Callable[..., Meter]) -> Recorder | None:
    try:
        return Recorder(get_meter("ratchetkeep", _version()))
    except Exception as error:  # noqa: BLE001 - wrong settings of metrics must not keep a device shut
        import logging

        # No more of it: settings may hold a password.
        name = type(error).__name__
        logging.getLogger("ratchetkeep").warning("no metrics: OpenTelemetry raised %s", name)
        return None


def _version() -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ratchetkeep")
    except PackageNotFoundError:  # run from its source
        return None
