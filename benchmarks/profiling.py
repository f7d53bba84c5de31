"""Where the time of one workload goes, by function, with nothing but the standard library."""

from __future__ import annotations

import cProfile
import io
import os
import pstats
import re
import statistics
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter_ns
from types import FrameType

from ratchetkeep import Device, open_device

from .committers import with_threads
from .data import Change, Data, address
from .fleet.building import build_devices
from .fleet.crowd import Ours as OurCrowd
from .fleet.server import Server, running
from .measure import Contender
from .peers import (
    BareLimit,
    BarePostgres,
    OurBaileys,
    OurBaileysEx,
    OurPostgres,
    OurPostgresSealed,
    Ours,
    OurSqlite,
    OurSqliteSealed,
    Peer,
)
from .peers.ours import OurFolder

WORKLOADS = ("session", "bundle", "group", "mint", "get", "cold", "open", "committers")
POSTGRES, POSTGRES_SEALED = "postgresql", "postgresql-sealed"
KINDS: dict[str, type[OurSqlite] | type[OurFolder]] = {
    "sqlite": OurSqlite,
    "sqlite-sealed": OurSqliteSealed,
    "baileys": OurBaileys,
    "baileysex": OurBaileysEx,
}
STORES = (*KINDS, POSTGRES, POSTGRES_SEALED)
SHOWN = 20
_THREADS = 64
_COLD = 1_000
_SAMPLE_SECONDS = 0.001

Call = Callable[[], object]


def profile(workload: str, kind: str, size: int, count: int, folder: Path, data: Data) -> str:
    """The profile of ``count`` runs of a workload on a store of a kind, as text."""
    (folder / "ours").mkdir()
    with ExitStack() as stack:
        return _profile(workload, kind, size, count, Place(folder, data, stack, kind))


class Place:
    """Where a workload is profiled.

    :param stack: ends the server, if one is needed.
    """

    def __init__(self, folder: Path, data: Data, stack: ExitStack, kind: str) -> None:
        self.folder, self.data = folder, data
        self.server: Server | None = None
        if kind in (POSTGRES, POSTGRES_SEALED):
            self.server = stack.enter_context(running(folder / "server"))

    def peer(self, kind: str, size: int) -> Ours:
        """The store that is profiled."""
        folder = self.folder / "ours"
        if self.server is None:
            return KINDS[kind](folder, self.data, size)
        chosen = OurPostgresSealed if kind == POSTGRES_SEALED else OurPostgres
        return chosen(folder, self.data, size, self.server.new_database())

    def limit(self) -> Peer:
        """What it is compared with."""
        if self.server is not None:
            database = self.server.new_database()
            return BarePostgres(self.folder, self.data, 1_000, database)
        (self.folder / "limit").mkdir()
        return BareLimit(self.folder / "limit", self.data, 1_000)

    def rate(self, workers: int, seconds: float) -> float:
        """Commits per second of so many threads, each with a device of its own."""
        assert self.server is not None  # noqa: S101 - asked for with a server only
        database = self.server.new_database()
        build_devices(database, self.data, workers, sessions=1)
        crowd = OurCrowd(self.data, workers, database.url)
        crowd.open()
        try:
            return crowd.rate(workers, seconds)
        finally:
            crowd.close()


def _profile(workload: str, kind: str, size: int, count: int, place: Place) -> str:
    peer = place.peer(kind, size)
    peer.build()
    peer.open()
    contender = Contender(peer)
    contender.warm()
    head = f"{workload} on {kind}: with {size:,} sessions, {count:,} runs"
    if workload == "committers":
        try:
            return f"{head}\n{_sampled(peer, place)}"
        finally:
            peer.close()
    if workload in ("cold", "open"):
        peer.close()
    try:
        plain = _run(_calls(workload, contender, count))
        calls = _calls(workload, contender, count)
        profiler = cProfile.Profile()
        profiler.enable()
        _run(calls)
        profiler.disable()
    finally:
        if workload not in ("cold", "open"):
            peer.close()
    line = f"median without the profiler: {plain / 1000:,.1f} microseconds"
    return "\n".join([head, line, *_limit(workload, count, place), _table(profiler)])


def _run(calls: Sequence[Call]) -> float:
    """Make all calls; the median in nanoseconds."""
    times = []
    for call in calls:
        start = perf_counter_ns()
        call()
        times.append(perf_counter_ns() - start)
    return statistics.median(times)


def _calls(workload: str, contender: Contender, count: int) -> list[Call]:
    """The workload, ``count`` times, with everything made beforehand."""
    peer = contender.peer
    if not isinstance(peer, Ours):
        raise TypeError("only our own stores are profiled")
    numbers = [number % peer.size for number in range(count)]
    if workload == "get":
        device = peer.device
        device.get("session", [address(number) for number in numbers])
        return [_getting(device, [address(number)]) for number in numbers]
    if workload in ("cold", "open"):
        ids = [address(number) for number in range(min(_COLD, peer.size))]
        return [_opening(peer, ids if workload == "cold" else []) for _ in numbers]
    while workload == "bundle" and contender.stock < count:
        peer.commits([contender.pre_keys(count)])
    make = {
        "session": contender.session,
        "bundle": contender.bundle,
        "group": contender.group,
        "mint": contender.mint,
    }[workload]
    return [_committing(peer, make()) for _ in numbers]


def _getting(device: Device, ids: list[str]) -> Call:
    return lambda: device.get("session", ids)


def _opening(peer: Ours, ids: list[str]) -> Call:
    def call() -> None:
        with open_device(peer.url, key=peer.key) as device:
            if ids:
                device.get("session", ids)

    return call


def _committing(peer: Ours, change: Change) -> Call:
    device, records = peer.device, peer.records(change)
    if change.credentials is None:
        return lambda: device.set(records)
    credentials = peer.data.credentials.replace(account_sync_counter=change.credentials)

    def call() -> None:
        with device.transaction() as transaction:
            transaction.set(records)
            transaction.save_credentials(credentials)

    return call


def _limit(workload: str, count: int, place: Place) -> list[str]:
    """The bare limit, or the bare driver, with the same bytes; for workloads that write."""
    if workload in ("get", "cold", "open"):
        return []
    limit = place.limit()
    limit.build()
    limit.open()
    contender = Contender(limit)
    contender.mint()
    makers = {
        "session": contender.session,
        "bundle": lambda: Change(contender.session().sessions, credentials=1),
        "group": contender.group,
        "mint": contender.mint,
    }
    times = limit.commits([makers[workload]() for _ in range(count)])
    limit.close()
    name = f"median of {'the ' * isinstance(limit, BareLimit)}{limit.name}:"
    return [f"{name:28} {statistics.median(times) / 1000:,.1f} microseconds"]


def _table(profiler: cProfile.Profile) -> str:
    """The functions that take most, by their own time, without the paths of this machine."""
    out = io.StringIO()
    statistics_of = pstats.Stats(profiler, stream=out)
    statistics_of.strip_dirs().sort_stats("tottime").print_stats(SHOWN)
    lines = out.getvalue().splitlines()
    first = next(at for at, line in enumerate(lines) if "ncalls" in line)
    kept = [line.rstrip() for line in lines[first:] if line.strip()]
    return re.sub(r" at 0x[0-9a-f]+", "", "\n".join(kept))


def _sampled(peer: Ours, place: Place) -> str:
    """Where all threads are while many of them commit, sampled: in which function, how often."""
    if not isinstance(peer, OurSqlite | OurBaileys | OurPostgres):
        return "this store is not measured with many committers"
    found: Counter[str] = Counter()
    done = threading.Event()
    me = threading.current_thread()

    def sample() -> None:
        mine = {threading.get_ident(), me.ident}
        while not done.wait(_SAMPLE_SECONDS):
            frames = sys._current_frames()
            found.update(_place(frame) for id, frame in frames.items() if id not in mine)

    sampler = threading.Thread(target=sample)
    sampler.start()
    if isinstance(peer, OurPostgres):
        rate = place.rate(_THREADS, 2.0)
    else:
        rate = with_threads(peer, _THREADS, 2.0)
    done.set()
    sampler.join()
    total = sum(found.values())
    rows = [f"{100 * n / total:6.1f} %  {place}" for place, n in found.most_common(SHOWN)]
    return "\n".join([f"{_THREADS} threads: {rate:,.0f} commits per second", *rows])


def _place(frame: FrameType) -> str:
    code = frame.f_code
    return f"{os.path.basename(code.co_filename)}:{frame.f_lineno} ({code.co_name})"
