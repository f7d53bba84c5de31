"""Metrics: what is counted, what is not, and what is told of it."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader

from _aio_helpers import Background, HeldDisk, put, until, waiting
from ratchetkeep import (
    CommitFailed,
    Device,
    KeyPair,
    NameCollision,
    NoDevice,
    OwnershipLost,
    StoreClosed,
    _metrics,
    open_async_device,
    open_device,
    open_store,
)
from ratchetkeep._cache import Cache, CountingCache
from ratchetkeep.model import Key
from ratchetkeep.prekeys import Tally

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "metrics.md"
PAIR = KeyPair.new()
THREADS, TURNS = 8, 25


class Metrics:
    """What OpenTelemetry's own SDK got of us."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self.recorder = _metrics.Recorder(self._provider.get_meter("ratchetkeep"))

    def text(self) -> str:
        """Everything, as an exporter would write it down."""
        found = self._reader.get_metrics_data()
        return found.to_json() if found else ""

    def each(self) -> Iterator[Any]:
        """The metrics that have a value."""
        found = self._reader.get_metrics_data()
        for resource in found.resource_metrics if found else ():
            for scope in resource.scope_metrics:
                yield from scope.metrics

    def points(self, name: str) -> dict[tuple[str, ...], Any]:
        """The points of one metric, by the values of its attributes, the store's kind first."""
        return {
            tuple(str(point.attributes[each]) for each in sorted(point.attributes, reverse=True)): (
                point if isinstance(point, HistogramDataPoint) else point.value
            )
            for metric in self.each()
            if metric.name == f"ratchetkeep.{name}"
            for point in metric.data.data_points
        }

    def value(self, name: str, kind: str = "sqlite") -> Any:
        """The value of one metric for one kind of store; None if there is none."""
        return self.points(name).get((kind,))

    def commits(self, outcome: str, kind: str = "sqlite") -> int:
        """How many commits ended so."""
        found = self.points("commits").get((kind, outcome), 0)
        assert isinstance(found, int)
        return found

    def close(self) -> None:
        self._provider.shutdown()


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metrics]:
    metrics = Metrics()
    monkeypatch.setattr(_metrics, "recorder", lambda: metrics.recorder)
    yield metrics
    metrics.close()


@pytest.fixture
def device(metrics: Metrics, tmp_path: Path) -> Iterator[Device]:
    with open_device(f"sqlite:{tmp_path / 'bot.db'}", create=True) as device:
        yield device


# -- commits


def test_commits_of_threads_and_tasks_are_counted(metrics: Metrics, tmp_path: Path) -> None:
    """An operator could not tell how much a worker stores, or would see a wrong number."""
    url = f"sqlite:{tmp_path / 'bot.db'}"
    with open_device(url, create=True) as device:

        def commit(number: int) -> None:
            for turn in range(TURNS):
                put(device, f"{number}.{turn}")

        threads = [Background(partial(commit, number)) for number in range(THREADS)]
        assert all(each.ends() and each.error is None for each in threads)
        assert metrics.commits("stored") == 1 + THREADS * TURNS

    async def tasks() -> None:
        async with open_async_device(url) as device:
            await asyncio.gather(*(device.set({"lid-mapping": {str(n): "x"}}) for n in range(50)))

    asyncio.run(tasks())
    total = 1 + THREADS * TURNS + 50
    assert metrics.commits("stored") == total
    assert metrics.commits("refused") == metrics.commits("failed") == 0
    assert metrics.value("commit.group_size").sum == total
    assert metrics.value("commit.duration").count == metrics.value("commit.group_size").count


def test_a_group_is_counted_with_its_size(metrics: Metrics, device: Device) -> None:
    """Nobody could see whether commits share a sync, nor what one costs."""
    before, gate = metrics.value("commit.group_size"), HeldDisk(device)
    first = Background(lambda: put(device, "0"))
    gate.began.wait()
    others = [Background(partial(put, device, id)) for id in map(str, range(1, 17))]
    until(lambda: waiting(device) == 16)
    gate.let_go()
    assert all(each.ends() and each.error is None for each in [first, *others])
    after, took = metrics.value("commit.group_size"), metrics.value("commit.duration")
    assert (after.count - before.count, after.sum - before.sum, after.max) == (2, 17, 16)
    assert (took.count, took.sum > 0) == (3, True)
    # The SDK's own bounds are made for milliseconds: all commits would be in the first bucket.
    assert 0.0001 in took.explicit_bounds
    assert max(took.explicit_bounds) == 10
    assert 1024 in after.explicit_bounds


def test_refused_and_failed_commits_are_counted_apart(metrics: Metrics, tmp_path: Path) -> None:
    """A disk that fails would look like a caller's mistake, or the other way round."""
    with open_device(f"baileys:{tmp_path / 'folder'}", create=True) as device:
        with pytest.raises(NameCollision):
            put(device, "a/b")
        gate = HeldDisk(device)
        first = Background(lambda: put(device, "1"))
        gate.began.wait()
        late = Background(lambda: put(device, "2"))
        until(lambda: waiting(device) == 1)
        device._memory.close()  # before its turn
        gate.let_go()
        assert first.ends()
        assert late.ends()
    assert (first.error, type(late.error)) == (None, StoreClosed)
    assert metrics.commits("refused", "baileys") == 2
    assert metrics.commits("stored", "baileys") == 2
    assert metrics.commits("failed", "baileys") == 0


@pytest.mark.parametrize("error", [CommitFailed("p", "w"), OwnershipLost("p", "w"), MemoryError()])
def test_a_commit_that_fails(
    metrics: Metrics, device: Device, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full, or a lease that was lost, would not be seen."""
    device.mint_pre_keys(3)
    stored, groups = metrics.commits("stored"), metrics.value("commit.duration").count

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(device._group._joint, "apply", fail)
    with pytest.raises(type(error)):
        put(device, "1")
    assert (metrics.commits("failed"), metrics.commits("stored")) == (1, stored)
    assert metrics.value("commit.duration").count == groups
    # After the others nobody knows what the store holds.
    known = 3 if type(error) is CommitFailed else None
    assert metrics.value("pre_keys.total") == known
    device.close()


def test_one_lost_device_is_not_its_group_s(
    metrics: Metrics, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commits of devices whose leases were lost would be counted as stored."""
    lost = {device.name: OwnershipLost(device.url, "was taken")}
    monkeypatch.setattr(device._group._joint, "apply", lambda *_: lost)
    with pytest.raises(OwnershipLost):
        put(device, "1")
    assert (metrics.commits("failed"), metrics.commits("stored")) == (1, 1)


def test_a_meter_that_raises_fails_no_commit(device: Device, metrics: Metrics) -> None:
    """What is wrong with the metrics would lose messages."""

    class Broken:
        def add(self, *_: object) -> None:
            raise RuntimeError

        record = add

    for name in ("_duration", "_group_size", "_retries", "_leases_lost"):
        setattr(metrics.recorder, name, Broken())
    put(device, "1")
    metrics.recorder.retried("sqlite")
    metrics.recorder.leases_lost("sqlite", 2)
    assert device.get("lid-mapping", ["1"]) == {"1": "x"}


# -- what a store with leases tells


class Leases:
    """A store's leases."""

    def __init__(self, count: int) -> None:
        self.held = count

    def count(self) -> int:
        return self.held


def test_leases_and_retries(metrics: Metrics) -> None:
    """An operator would not see that workers lose their devices, or their server."""
    recorder = metrics.recorder
    assert metrics.value("leases.held", "postgresql") is None
    one, two = Leases(3), Leases(4)
    end_one = recorder.watch_leases("postgresql", one.count)
    end_two = recorder.watch_leases("postgresql", two.count)
    end_three = recorder.watch_leases("other", lambda: 1)
    assert metrics.points("leases.held") == {("postgresql",): 7, ("other",): 1}
    one.held = 5
    end_two()
    end_three()
    assert metrics.points("leases.held") == {("postgresql",): 5, ("other",): 0}
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None, "a store that was dropped without being closed was kept"
    assert metrics.value("leases.held", "postgresql") == 0
    end_one()
    recorder.leases_lost("postgresql", 2)
    recorder.leases_lost("postgresql", 1)
    recorder.retried("postgresql")
    assert metrics.value("leases.lost", "postgresql") == 3
    assert metrics.value("commit.retries", "postgresql") == 1


# -- the cache


def cache(metrics: Metrics) -> tuple[int, int]:
    return metrics.value("cache.hits"), metrics.value("cache.misses")


def test_hits_and_misses_are_counted_once_each(metrics: Metrics, tmp_path: Path) -> None:
    """Nobody could tell whether the cache is large enough."""
    url = f"sqlite:{tmp_path / 'bot.db'}"
    with open_device(url, create=True) as device:
        device.set({"lid-mapping": {"1": "x", "2": "x", "3": "x"}})
        assert cache(metrics) == (0, 0)
        device.get("lid-mapping", ["1", "2", "absent"])
        assert cache(metrics) == (2, 1)
        device.get("lid-mapping", ["absent"])  # it is known that it is not there
        assert cache(metrics) == (3, 1)

    async def again() -> None:
        async with open_async_device(url) as device:
            await device.get("lid-mapping", ["1", "2"])
            await device.get("lid-mapping", ["1", "2"])

    asyncio.run(again())
    assert cache(metrics) == (5, 3), "the counts of a device that was closed stay"


def test_hits_of_many_threads_are_counted(
    metrics: Metrics, device: Device, request: pytest.FixtureRequest
) -> None:
    """Counts would be lost where threads look at the same time."""
    put(device, "1")
    request.addfinalizer(partial(sys.setswitchinterval, sys.getswitchinterval()))
    sys.setswitchinterval(1e-6)
    start = threading.Barrier(THREADS)

    def look() -> None:
        start.wait()
        for _ in range(2000):
            device.get("lid-mapping", ["1"])

    threads = [Background(look) for _ in range(THREADS)]
    assert all(each.ends() and each.error is None for each in threads)
    assert cache(metrics) == (THREADS * 2000, 0)


def test_a_counting_cache_is_chosen_only_for_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program without metrics would pay for them with each record that it reads."""
    monkeypatch.setattr(_metrics, "recorder", lambda: None)
    with open_device("memory:", create=True) as device:
        assert type(device._memory._cache) is Cache
        assert device._memory._tally is None
        assert device._group._recorder is None
        device.mint_pre_keys(2)
        assert device.pre_key_stock().held == 2
    monkeypatch.undo()
    with open_device("memory:", create=True) as device:
        assert type(device._memory._cache) is CountingCache


# -- devices and their pre-keys


def stock(metrics: Metrics) -> tuple[Any, Any]:
    return metrics.value("pre_keys.lowest"), metrics.value("pre_keys.total")


def test_the_stock_is_kept_up(metrics: Metrics, device: Device) -> None:
    """A device would run out of pre-keys, and nobody would be told before."""
    assert stock(metrics) == (None, None)
    device.set({"pre-key": {"7": PAIR}})
    assert stock(metrics) == (None, None), "nobody has asked the store yet"
    assert device.pre_key_stock().held == 1
    assert stock(metrics) == (1, 1)
    device.mint_pre_keys(5)
    with device.transaction() as transaction:
        transaction.consume_pre_key(2)
    assert stock(metrics) == (5, 5)
    device.set({"pre-key": {"3": PAIR, "2": None, "100": None}, "lid-mapping": {"1": "x"}})
    assert stock(metrics) == (5, 5), "replaced, deleted before, never there"
    with pytest.raises(KeyError), device.transaction() as transaction:
        transaction.consume_pre_key(1)
        assert device.pre_key_stock().held == 4
        raise KeyError
    assert stock(metrics) == (5, 5), "what was not committed does not count"
    device.clear()
    assert stock(metrics) == (0, 0)


def test_no_commit_comes_between_the_store_and_the_count(
    metrics: Metrics, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pre-key that is used while another thread asks for the stock would be counted for ever."""
    scan, order, asked = device._store.scan, device._memory.order, []

    def is_free() -> bool:
        free = order.acquire(blocking=False)
        if free:
            order.release()
        return free

    def noted(name: str, family: str | None = None) -> Iterator[Key]:
        other = Background(is_free)
        assert other.ends()
        asked.append(other.result)
        return scan(name, family)

    monkeypatch.setattr(device._store, "scan", noted)
    device.ids("pre-key")
    assert asked == [False]


def test_the_lowest_stock_of_several_devices(metrics: Metrics, tmp_path: Path) -> None:
    """One of a thousand devices that runs out would not be seen."""
    with open_store(f"sqlite:{tmp_path / 'fleet.db'}") as store, ExitStack() as devices:
        for count in (30, 4, 12):
            device = devices.enter_context(store.create(f"with {count}"))
            device.mint_pre_keys(count)
        devices.enter_context(store.create("not known"))
        assert stock(metrics) == (4, 46)
        assert metrics.value("devices.open") == 4
        device.close()
        assert stock(metrics) == (4, 34)
    assert stock(metrics) == (None, None)
    assert metrics.value("devices.open") == 0


def test_only_its_owner_tells_a_device_s_stock(metrics: Metrics, tmp_path: Path) -> None:
    """Pre-keys would be counted twice, or as they were long ago."""
    url = f"sqlite:{tmp_path / 'bot.db'}"
    with open_device(url, create=True) as device:
        device.mint_pre_keys(10)
        with open_device(url, read_only=True) as reader:
            assert reader.pre_key_stock().held == 10
            assert stock(metrics) == (10, 10)
            assert metrics.value("devices.open") == 2


def test_devices_that_are_not_closed_are_not_kept(metrics: Metrics, tmp_path: Path) -> None:
    """A worker that forgets devices would fill its memory, and a gauge would count the dead."""
    device = open_device(f"sqlite:{tmp_path / 'bot.db'}", create=True)
    device.mint_pre_keys(3)
    assert metrics.value("devices.open") == 1
    gone = weakref.ref(device)
    del device
    gc.collect()
    assert gone() is None
    assert metrics.value("devices.open") == 0
    assert stock(metrics) == (None, None)


def test_a_device_that_cannot_be_opened_is_not_open(metrics: Metrics) -> None:
    """The gauge would rise with every failed try."""
    with pytest.raises(NoDevice):
        open_device("memory:empty")
    assert metrics.value("devices.open", "memory") in (None, 0)


def test_a_forked_child_has_none_of_its_parent_s_devices(
    metrics: Metrics, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker that a server forks would count the devices of them all."""
    device.mint_pre_keys(3)
    recorder = metrics.recorder
    end = recorder.watch_leases("sqlite", lambda: 5)
    monkeypatch.setattr(_metrics._Found, "recorder", recorder)
    child = os.fork()
    if child == 0:
        has_none = (recorder._devices(), recorder._leases) == ([], {})
        os._exit(0 if has_none else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (metrics.value("devices.open"), metrics.value("leases.held")) == (1, 5)
    end()


IDS = st.sampled_from(
    ["0", "1", "2", "3", "4", "5", "6", "05", "9", "10", "11", "16777214", "9" * 40]
)


@given(st.sets(IDS), st.lists(st.dictionaries(IDS, st.booleans())))
def test_any_commits_leave_the_right_number(
    first: set[str], commits: list[dict[str, bool]]
) -> None:
    """The number would drift away from what is in the store, a little with every mistake."""
    tally, held = Tally("sqlite"), set(first)
    tally.learn(first)
    for commit in commits:
        tally.settle(
            {Key("pre-key", id): PAIR if is_there else None for id, is_there in commit.items()}
        )
        held = {id for id in held | set(commit) if commit.get(id, True)}
        assert tally.pre_keys == len(held)
    edges = list(tally._edges)
    tally.learn(held)
    assert edges == tally._edges
    tally.forget()
    tally.learn(held)
    assert tally.pre_keys is None, "it was forgotten for good"


# -- what is told, and what is not


def test_the_page_describes_every_metric() -> None:
    """An operator would look in vain for what a metric means, or for one that the page promises."""
    row = r"^\| `(ratchetkeep\.[\w.]+)` \| (\w+) \| `(\S+)` \|"
    described = re.findall(row, PAGE.read_text(), re.MULTILINE)
    meter = Mock()
    _metrics.Recorder(meter)
    made = [
        (name, verb.rpartition("_")[2], next(each for each in rest if isinstance(each, str)))
        for verb, (name, *rest), _ in meter.method_calls
    ]
    assert len(made) == 11
    assert sorted(made) == sorted(described)


def test_nothing_names_a_device(metrics: Metrics, tmp_path: Path) -> None:
    """A name of a customer, a path or a password would be in the metrics; and every device would
    be a series of its own."""
    with open_store(f"sqlite:{tmp_path / 'private.db'}") as store:
        device = store.create("4915112345678")
        device.mint_pre_keys(3)
        device.get("lid-mapping", ["1"])
        metrics.recorder.retried("postgresql")
        metrics.recorder.leases_lost("postgresql", 1)
        end = metrics.recorder.watch_leases("postgresql", lambda: 1)
        text = metrics.text()
        end()
    assert "ratchetkeep.pre_keys.lowest" in text
    assert "4915112345678" not in text
    assert "private" not in text
    points = [point for metric in metrics.each() for point in metric.data.data_points]
    assert {name for point in points for name in point.attributes} == {
        "ratchetkeep.store",
        "outcome",
    }
