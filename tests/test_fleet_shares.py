"""How workers share devices, without a database: levels, convergence, pauses."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratchetkeep._fleet_pauses import MOST, Pauses
from ratchetkeep._fleet_shares import PATIENCE, Balance, level
from ratchetkeep.stores._postgres_claims import Survey, Worker

PROFILE = settings(deadline=None, database=None, max_examples=25)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(0, 300))
def test_level_is_the_lowest_that_holds_all(capacities: list[int], total: int) -> None:
    """Workers would leave devices alone that they could take, or take more than their share."""

    def holds(each: int) -> int:
        return sum(min(capacity, each) for capacity in capacities)

    found = level(capacities, total)
    assert holds(found) >= min(total, sum(capacities))
    assert found == 0 or holds(found - 1) < total


class Pool:
    """Devices and workers, as the database would have them."""

    def __init__(self, devices: int) -> None:
        self.free = devices
        self.held: dict[str, int] = {}
        self.moves = 0
        self._balances: dict[str, Balance] = {}
        self._capacities: dict[str, int] = {}
        self.refuses: set[str] = set()

    def join(self, name: str, capacity: int = 1000) -> None:
        """A worker comes."""
        self.held[name] = 0
        self._capacities[name] = capacity
        self._balances[name] = Balance(capacity)

    def leave(self, name: str) -> None:
        """A worker goes."""
        self.free += self.held.pop(name)
        del self._balances[name], self._capacities[name]

    def poll(self, name: str) -> None:
        """A worker looks once, and does what it finds right."""
        while True:
            others = [Worker(self.held[n], self._capacities[n]) for n in self.held if n != name]
            seen = Survey(others, self.free)
            count = self._balances[name].decide(self.held[name], 0, False, seen)
            if name in self.refuses:
                return
            if count > 0:
                self._balances[name].claimed(count)
            else:
                self.moves -= count
            self.held[name] += count
            self.free -= count
            if count <= 0:
                return

    def settle(self, order: random.Random, polls: int = 60) -> None:
        """All workers look, again and again, in any order."""
        for _ in range(polls):
            for name in order.sample(sorted(self.held), len(self.held)):
                self.poll(name)


@PROFILE
@given(st.integers(0, 400), st.integers(1, 6), st.randoms())
def test_workers_end_at_fair_shares(devices: int, count: int, order: random.Random) -> None:
    """Workers that came one after the other would not come to the same number of devices, or would
    never come to rest."""
    pool = Pool(devices)
    for number in range(count):
        pool.join(str(number))
        pool.settle(order)
    assert pool.free == 0
    assert max(pool.held.values()) <= -(-devices // count)
    before, pool.moves = dict(pool.held), 0
    pool.settle(order)
    assert (pool.held, pool.moves) == (before, 0)


@PROFILE
@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(0, 200), st.randoms())
def test_capacities_are_kept_and_used(
    capacities: list[int], devices: int, order: random.Random
) -> None:
    """A worker would take more than it can, or devices would be left while there is room."""
    pool = Pool(devices)
    for number, capacity in enumerate(capacities):
        pool.join(str(number), capacity)
    pool.settle(order)
    assert all(pool.held[str(n)] <= capacity for n, capacity in enumerate(capacities))
    assert pool.free == max(0, devices - sum(capacities))


def test_who_joins_gets_half_in_a_few_polls() -> None:
    """A new worker would wait for long for its share, or get it at one blow, with half of all
    connections cut at the same moment."""
    pool = Pool(100)
    pool.join("old")
    pool.poll("old")
    pool.join("new")
    most = 0
    for _ in range(10):
        pool.poll("old")
        most = max(most, pool.free)
        pool.poll("new")
    assert pool.held == {"old": 50, "new": 50}
    assert pool.moves == 50
    assert most <= 10


def test_what_others_leave_is_taken() -> None:
    """Devices that a hanging worker does not take would be served by nobody."""
    pool = Pool(100)
    for name in ("living", "hanging"):
        pool.join(name)
    pool.refuses = {"hanging"}
    for _ in range(PATIENCE + 2):
        pool.poll("living")
    assert pool.held["living"] == 100


def test_nothing_flaps_beside_a_worker_that_hangs() -> None:
    """Devices would be given back again and again for a worker that never takes them."""
    pool = Pool(100)
    for name in ("living", "hanging"):
        pool.join(name)
    pool.refuses = {"hanging"}
    moves = []
    for _ in range(4):
        pool.moves = 0
        for _ in range(100):
            pool.poll("living")
        moves.append(pool.moves)
    assert moves[-1] <= 20 < moves[0]


def test_a_worker_that_goes_leaves_its_devices_to_all() -> None:
    """What a worker had would all go to one of the others."""
    pool = Pool(90)
    order = random.Random(1)
    for name in "abc":
        pool.join(name)
        pool.settle(order)
    pool.leave("c")
    pool.settle(order)
    assert pool.held == {"a": 45, "b": 45}


class TestPauses:
    @pytest.fixture
    def clock(self) -> list[float]:
        return [100.0]

    @pytest.fixture
    def pauses(self, clock: list[float]) -> Pauses:
        return Pauses(1.0, lambda: clock[0])

    def pause(self, pauses: Pauses, clock: list[float], served: float = 0.0) -> float:
        """How long a device is left alone."""
        pauses.begin("x", served)
        began = clock[0]
        while "x" in pauses.resting():
            clock[0] += 0.05
        return clock[0] - began

    def test_they_grow_to_a_limit(self, pauses: Pauses, clock: list[float]) -> None:
        """A device that fails would be tried again and again without a pause, or never again."""
        lengths = [self.pause(pauses, clock) for _ in range(12)]
        for number, length in enumerate(lengths):
            meant = min(2.0**number, MOST)
            assert 0.75 * meant <= length <= 1.25 * meant + 0.1

    def test_a_long_service_begins_anew(self, pauses: Pauses, clock: list[float]) -> None:
        """A device that failed a few times weeks ago would be left alone for long."""
        for _ in range(5):
            self.pause(pauses, clock)
        assert self.pause(pauses, clock, served=10 * MOST) < 2

    def test_each_device_has_its_own(self, pauses: Pauses, clock: list[float]) -> None:
        """All devices would be left alone for one that fails."""
        pauses.begin("x", 0.0)
        assert pauses.resting() == ["x"]

    def test_old_ones_are_forgotten(self, pauses: Pauses, clock: list[float]) -> None:
        """A worker's memory would grow with every device that ever failed."""
        pauses.begin("x", 0.0)
        clock[0] += 10 * MOST
        assert pauses.resting() == []
        assert pauses._known == {}

    def test_they_differ_by_chance(self, pauses: Pauses) -> None:
        """Devices that failed together would all be tried at the same moment, for ever."""
        for number in range(20):
            pauses.begin(str(number), 0.0)
        assert len({until for _, until in pauses._known.values()}) > 10
