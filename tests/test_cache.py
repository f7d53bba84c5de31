"""The cache of decoded records: its bound, what goes first, and looks that need no lock."""

from __future__ import annotations

import gc
import threading
import time
import tracemalloc
from weakref import WeakSet

import pytest

from ratchetkeep import _cache
from ratchetkeep._cache import ABSENT, DECODED, OVERHEAD, Cache
from ratchetkeep.formats import native
from ratchetkeep.model import Credentials, Key
from ratchetkeep.testing import Holds, record

COST = 100 * DECODED + OVERHEAD


def key(number: int) -> Key:
    return Key("session", str(number))


def held(cache: Cache, count: int) -> list[int]:
    known = cache.get(key(number) for number in range(count))
    return [number for number in range(count) if key(number) in known]


def test_the_cache_is_bounded() -> None:
    """A client with many contacts would fill the memory."""
    cache = Cache(max_bytes=10 * COST)
    for number in range(1000):
        cache.put([(key(number), number, 100)])
    assert held(cache, 1000) == list(range(990, 1000))
    cache.put([(key(number), ABSENT, 0) for number in range(1000)])
    assert len(held(cache, 1000)) == 10 * COST // OVERHEAD


def test_what_is_in_use_stays() -> None:
    """The sessions in use would be read from the disk for each message."""
    cache = Cache(max_bytes=3 * COST)
    for number in range(3):
        cache.put([(key(number), number, 100)])
    for number in range(3, 100):
        assert cache.look("session", ["0"]) == {"0": 0}
        cache.put([(key(number), number, 100)])
    assert held(cache, 100) == [0, 98, 99]


def test_replacing_an_entry_does_not_grow_the_cache() -> None:
    """A session that changes with every message would fill the cache by itself."""
    cache = Cache(max_bytes=2 * COST)
    cache.put([(key(0), 0, 100)])
    for number in range(100):
        cache.put([(key(1), number, 100)])
    assert cache.look("session", ["0", "1"]) == {"0": 0, "1": 99}
    cache.put([(key(2), 2, 10_000)])
    assert held(cache, 3) == [0, 1], "larger than the whole cache"
    cache.put([(key(2), 2, 100)])
    assert held(cache, 3) == [1, 2]
    cache.clear()
    assert held(cache, 3) == []


def test_a_look_tells_absent_from_unknown() -> None:
    """An id that is known to be absent would be read from the disk each time, or one that is not
    known would be taken for absent."""
    cache = Cache()
    cache.put([(key(1), "one", 3), (key(2), ABSENT, 0)])
    assert cache.look("session", ["1", "2"]) == {"1": "one"}
    assert cache.look("session", ["1", "3"]) is None
    assert cache.look("pre-key", ["1"]) is None
    assert cache.look("session", [["1"]]) is None  # type: ignore[list-item]
    assert cache.look("session", []) == {}


def test_a_look_sees_one_moment() -> None:
    """A session of after a commit would be handed out beside a pre-key of before it."""
    cache = Cache()
    keys = [key(number) for number in range(8)]
    cache.put([(each, 0, 10) for each in keys])
    stop = threading.Event()

    def commit() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            cache.put([(each, number, 10) for each in keys])
            time.sleep(0)

    writer = threading.Thread(target=commit)
    writer.start()
    ids = [each.id for each in keys]
    looks = [cache.look("session", ids) for _ in range(100_000)]
    stop.set()
    writer.join()
    seen = [look for look in looks if look is not None]
    assert seen
    assert all(len(set(look.values())) == 1 for look in seen)


def test_an_entry_takes_about_what_it_is_said_to() -> None:
    """The bound would be one in name only."""
    cache = Cache(max_bytes=4 * 1024 * 1024)
    creds = Credentials.new()
    raw = [(key(n), record("session", n, creds, Holds())) for n in range(20)]
    encoded = [native.encode(each, value).data or b"" for each, value in raw]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(20_000):
        source, data = raw[number % 20][0], encoded[number % 20]
        cache.put([(key(number), native.decode(source, data), len(data))])
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(held(cache, 20_000)) < 20_000, "the cache was never full"
    assert taken < 1.5 * 4 * 1024 * 1024


def test_many_devices_share_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker with thousands of devices would take as much memory for each as a program that has
    one."""
    gc.collect()  # caches of earlier tests
    monkeypatch.setattr(_cache, "ALL_BYTES", 8 * 5 * COST)
    monkeypatch.setattr(_cache, "LEAST_BYTES", COST)
    monkeypatch.setattr(Cache, "_open", WeakSet())
    caches = [Cache(max_bytes=10 * COST) for _ in range(8)]

    def filled(cache: Cache) -> int:
        cache.put((key(number), number, 100) for number in range(20))
        return len(held(cache, 20))

    assert [filled(cache) for cache in caches] == [5] * 8
    for cache in caches[1:]:
        cache.close()
    assert filled(caches[0]) == 10
