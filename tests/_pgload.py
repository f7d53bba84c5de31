"""Devices in PostgreSQL behind a proxy, a load of commits, and what must be true afterwards."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import psycopg

import pgserver
from pgproxy import Fault, Proxy
from ratchetkeep import (
    AsyncDevice,
    CommitFailed,
    Device,
    OwnershipLost,
    StoreUnreadable,
    open_device,
)
from ratchetkeep.stores.postgres import PostgresStore

# The batches of the store, each known by its statement.
COMMIT = rb"WITH mine AS"
SETTLE = rb"SET epoch = epoch \+ 1 WHERE"

# Seconds. A connection that is silent is given up after half of a lease.
LEASE = 6
PATIENCE = 30

Ask = Callable[[Proxy, bytes, int], Fault]

# Faults after which the server has not carried out the batch, and after which it has.
NOT_STORED: dict[str, Ask] = {
    "before": lambda proxy, pattern, nth: proxy.cut_before(pattern, nth),
    "half of it": lambda proxy, pattern, nth: proxy.cut_within(pattern, nth),
    "all but Sync": lambda proxy, pattern, nth: proxy.cut_within(pattern, nth, missing=5),
    "held": lambda proxy, pattern, nth: proxy.hold(pattern, nth),
}
STORED: dict[str, Ask] = {
    "no answer": lambda proxy, pattern, nth: proxy.cut_answer(pattern, nth),
    "half an answer": lambda proxy, pattern, nth: proxy.cut_within_answer(pattern, nth),
    "no end": lambda proxy, pattern, nth: proxy.cut_within_answer(pattern, nth, missing=6),
    "left": lambda proxy, pattern, nth: proxy.leave(pattern, nth),
}
FAULTS = {**NOT_STORED, **STORED}

Place = tuple[str, str]
"""A counter: the device, and the id of its record."""


class Fleet:
    """A new database behind a proxy, with devices whose records are counters."""

    def __init__(self, server: pgserver.Server, proxy: Proxy, lease: float = LEASE) -> None:
        self.proxy = proxy
        self.lease = lease
        self._direct = server.new_database()

    def url(self, name: str = "alice") -> str:
        """A device, through the proxy."""
        return f"{self.proxy.url(self._direct)}&lease={self.lease}&device={name}"

    def beside(self, name: str = "alice") -> str:
        """The same device, without the proxy: as another process would open it."""
        return f"{self._direct}&lease={self.lease}&device={name}"

    def open(self, name: str = "alice") -> Device:
        """A device, made if it is not there."""
        return open_device(self.url(name), create=True)

    def commits(self, name: str = "alice") -> int:
        """How many commits the database counts of a device."""
        statement = b"SELECT commits FROM ratchetkeep.devices WHERE name = %s"
        with psycopg.connect(self._direct) as connection:
            (found,) = connection.execute(statement, [name]).fetchone() or (0,)
            return int(found)

    def stored(self, name: str = "alice") -> dict[str, int]:
        """The counters of a device, as the database has them now."""
        with open_device(self.beside(name), read_only=True) as device:
            return _counters(device)

    @contextmanager
    def locked(self) -> Iterator[Lock]:
        """Every commit waits, inside this block."""
        with psycopg.connect(self._direct) as connection:
            connection.execute("SELECT 1 FROM ratchetkeep.devices FOR UPDATE")
            yield Lock(connection)

    def read_at_once(self, devices: Sequence[Device]) -> None:
        """Have all devices read at the same time, so that there is a connection for each."""
        threads = [
            threading.Thread(target=device.get, args=("lid-mapping", ["absent"]))
            for device in devices
        ]
        with psycopg.connect(self._direct) as connection:
            connection.execute("LOCK TABLE ratchetkeep.records")
            for thread in threads:
                thread.start()
            Lock(connection).wait_for(len(threads))
        for thread in threads:
            thread.join(PATIENCE)

    def check_memory(self, device: Device) -> dict[str, int]:
        """See that a device and the database hold the same; gives its counters."""
        stored = self.stored(device.name)
        # By their ids, so that they come from memory where they are known there.
        found = device.get("lid-mapping", list(stored))
        assert {id: int(value) for id, value in found.items()} == stored
        assert _counters(device) == stored
        with open_device(self.beside(device.name), read_only=True) as other:
            assert device.credentials == other.credentials
        return stored


class Lock:
    """Holds the rows of all devices, so that every commit waits.

    :param connection: beside the proxy.
    """

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def wait_for(self, number: int) -> None:
        """Wait until so many statements wait for it."""
        waiting = (
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        until = time.monotonic() + PATIENCE
        while self._connection.execute(waiting).fetchone() != (number,):
            assert time.monotonic() < until, "nobody waits"
            # What it shows is of one moment in each transaction.
            self._connection.execute("SELECT pg_stat_clear_snapshot()")


def _counters(device: Device) -> dict[str, int]:
    found = device.get("lid-mapping", device.ids("lid-mapping"))
    return {id: int(value) for id, value in found.items()}


def add(device: Device, id: str = "1") -> None:
    """Count one more, in a transaction."""
    with device.transaction(id) as transaction:
        before = int(transaction.get("lid-mapping", [id]).get(id, "0"))
        transaction.set({"lid-mapping": {id: str(before + 1)}})


async def add_async(device: AsyncDevice, id: str = "1") -> None:
    """As :func:`add`, for asyncio."""
    async with device.transaction(id) as transaction:
        found = await transaction.get("lid-mapping", [id])
        await transaction.set({"lid-mapping": {id: str(int(found.get(id, "0")) + 1)}})


def says_unknown(error: BaseException) -> bool:
    """The error tells that nobody knows whether the commit is stored."""
    return isinstance(error, CommitFailed) and "whether it is stored" in error.what


def device_commits(device: Device) -> int:
    """How many commits the store believes that a device has."""
    store = device._store
    assert isinstance(store, PostgresStore)
    held = store._writable(device.name).the(device.name)
    return held.commits


class Load:
    """Threads that count, each its own counter, until they have done their rounds or one raised.

    :ivar returned: how many commits of each counter returned.
    :ivar unknown: counters with a commit of which nobody knows whether it is stored.
    :ivar errors: what was raised.
    """

    def __init__(self, devices: Iterable[Device], threads: int, rounds: int) -> None:
        self.returned: Counter[Place] = Counter()
        self.unknown: Counter[Place] = Counter()
        self.errors: list[BaseException] = []
        self._more = threading.Event()
        self._rounds = rounds
        self._devices = list(devices)
        self._threads = [
            threading.Thread(target=self._work, args=(device, str(number)))
            for device in self._devices
            for number in range(threads)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def run(self) -> None:
        """Begin, and wait until all are done."""
        self.start()
        self.join()

    def begin_again(self) -> None:
        """Wait until one more commit returned."""
        self._more.clear()
        assert self._more.wait(PATIENCE), "no commit returns"

    @property
    def is_over(self) -> bool:
        """All are done."""
        return not any(thread.is_alive() for thread in self._threads)

    def join(self) -> None:
        """Wait until all are done."""
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a commit hangs"

    def check(self, fleet: Fleet) -> None:
        """See that what returned is there once, and that what raised is not."""
        for device in self._devices:
            stored = fleet.stored(device.name)
            for place, returned in self.returned.items():
                if place[0] != device.name:
                    continue
                found = stored.get(place[1], 0)
                assert returned <= found <= returned + self.unknown[place], place
            assert sum(stored.values()) >= fleet.commits(device.name) - 1

    def _work(self, device: Device, id: str) -> None:
        place = (device.name, id)
        self.returned[place] = 0
        for _ in range(self._rounds):
            try:
                add(device, id)
            except (CommitFailed, OwnershipLost, StoreUnreadable) as error:
                self.errors.append(error)
                self.unknown[place] += says_unknown(error)
                return
            self.returned[place] += 1
            self._more.set()
