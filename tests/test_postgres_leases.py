"""Who owns a device in PostgreSQL, with real processes that stand still, are killed, and fight."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

import pgserver
from _postgres_worker import FACES, PATIENCE, Refused, Worker, in_one_group, until, workers
from ratchetkeep import (
    Device,
    InvalidValue,
    NoDevice,
    OwnershipLost,
    StoreInUse,
    open_async_device,
    open_device,
    open_store,
)

LEASE = 1
# Long enough that within a test nobody finds out anything by himself.
LONG = 60


@pytest.fixture(scope="module")
def server() -> Iterator[pgserver.Server]:
    with pgserver.running(max_connections="200") as server:
        yield server


class Fleet:
    """A new database, with devices that are there."""

    def __init__(self, server: pgserver.Server) -> None:
        self.database = server.new_database()

    def url(self, name: str = "alice", lease: float = LEASE) -> str:
        return f"{self.database}&lease={lease}&device={name}"

    def made(self, name: str = "alice", lease: float = LEASE) -> str:
        """The URL of a device that is there, with a record."""
        with open_device(self.url(name, lease), create=True) as device:
            put(device, "1", "first")
        return self.url(name, lease)

    def query(self, statement: str, *values: object) -> list[Any]:
        with psycopg.connect(self.database) as connection:
            return connection.execute(statement.encode(), values).fetchall()

    def stored(self, name: str = "alice") -> dict[str, str]:
        """The records of a device, as the database has them now."""
        with open_device(self.url(name), read_only=True) as device:
            return device.get("lid-mapping", device.ids("lid-mapping"))


@pytest.fixture
def fleet(server: pgserver.Server) -> Fleet:
    return Fleet(server)


def put(device: Device, id: str, value: str) -> None:
    device.set({"lid-mapping": {id: value}})


# -- an owner that stands still


@pytest.mark.parametrize("face", FACES)
def test_an_owner_that_stood_still_can_do_nothing(fleet: Fleet, face: str) -> None:
    """A worker that was suspended for longer than its lease would go on with old ratchets, or write
    over what its successor did."""
    url = fleet.made()
    with Worker() as first, Worker() as second:
        first.ask("open", url, face=face)
        first.ask("put", url, "2", "of the first")
        first.stop()
        second.ask("open", url, wait=PATIENCE)
        second.ask("put", url, "2", "of the second")
        first.resume()
        assert first.error_of("put", url, "2", "late") == "OwnershipLost"
        assert "alice" in first.ask("lost", url)
        assert first.error_of("put", url, "3", "late") == "OwnershipLost"
        assert second.ask("get", url, "2") == "of the second"
        second.ask("put", url, "4", "goes on")
        assert second.ask("times_told", url) == 0
    assert fleet.stored() == {"1": "first", "2": "of the second", "4": "goes on"}


@pytest.mark.parametrize("face", FACES)
def test_an_owner_is_told_without_asking(fleet: Fleet, face: str) -> None:
    """A worker that only listens would keep its connection to the servers beside its successor's,
    for ever: nothing of its own would ever tell it. Or it would read from memory what was once."""
    url = fleet.made()
    with Worker() as first, Worker() as second:
        first.ask("open", url, face=face)
        assert first.ask("get", url, "1") == "first"
        first.stop()
        second.ask("open", url, wait=PATIENCE)
        first.resume()
        told = first.ask("lost", url)
        assert "alice" in told and "Open the device again" in told
        for order in (["get", url, "1"], ["get", url, "2"], ["ids", url], ["credentials", url]):
            assert first.error_of(*order) == "OwnershipLost", order
        assert first.error_of("put", url, "2", "late") == "OwnershipLost"
        assert first.ask("times_told", url) == 1
        first.ask("close", url)
        # That was not the end of the successor's ownership.
        second.ask("put", url, "1", "of the second")
    assert fleet.stored() == {"1": "of the second"}


def test_a_renewal_tells_of_a_theft(fleet: Fleet) -> None:
    """A device that was taken from a worker that lives and listens would have two, until the first
    one happens to write."""
    url, other = fleet.made(lease=3), fleet.made("bob", lease=3)
    with Worker() as first, Worker() as second:
        first.ask("open", url)
        first.ask("open", other)
        second.ask("open", url, steal=True)
        assert "taken over by another owner" in first.ask("lost", url)
        first.ask("put", other, "2", "its own")
        assert first.ask("times_told", other) == 0


@pytest.mark.parametrize("face", FACES)
def test_the_database_refuses_what_a_thief_had_before(fleet: Fleet, face: str) -> None:
    """An owner that does not know yet that its device was taken would write to it, or take what it
    does not find any more for what never was."""
    url = fleet.made(lease=LONG)
    with Worker() as first, Worker() as second:
        first.ask("open", url, face=face)
        second.ask("open", url, face=face, steal=True)
        second.ask("put", url, "2", "of the second")
        if face == "sync":
            assert first.error_of("put", url, "2", "late") == "OwnershipLost"
        else:
            assert first.error_of("get", url, "2") == "OwnershipLost"
        assert "taken over by another owner" in first.ask("lost", url)
        assert first.error_of("put", url, "3", "late") == "OwnershipLost"
        assert first.error_of("get", url, "1") == "OwnershipLost"
    assert fleet.stored() == {"1": "first", "2": "of the second"}


@pytest.mark.parametrize("order", [["get", "9"], ["ids"]])
def test_the_database_refuses_reads_of_a_lost_device(fleet: Fleet, order: list[str]) -> None:
    """A pre-key that the successor has used up would be read as one that never was, a new session
    as none."""
    url = fleet.made(lease=LONG)
    with Worker() as first, Worker() as second:
        first.ask("open", url)
        second.ask("open", url, steal=True)
        assert first.error_of(order[0], url, *order[1:]) == "OwnershipLost"
        second.ask("put", url, "2", "of the second")


def test_a_device_made_again_is_another_one(fleet: Fleet) -> None:
    """A worker that slept would write the records of a device that was removed into the one that
    was paired anew under its name."""
    url = fleet.made(lease=LONG)
    with Worker() as first, Worker() as second:
        first.ask("open", url)
        second.ask("open", url, steal=True)
        second.ask("close", url)
        second.ask("remove", url, "alice")
        second.ask("open", url, create=True)
        second.ask("close", url)
        second.ask("open", url)  # as often as the first one was: so many owners it had then
        assert first.error_of("put", url, "2", "late") == "OwnershipLost"
        assert first.error_of("get", url, "1") == "OwnershipLost"
        second.ask("put", url, "3", "new")
        assert second.ask("ids", url) == ["3"]
    assert fleet.stored() == {"3": "new"}


def test_one_stolen_device_of_a_group(fleet: Fleet) -> None:
    """The commits of all devices of a worker would fail because one of them was taken, or that one
    would be written in the company of the others."""
    told: list[str] = []
    with ExitStack() as stack, Worker() as thief:
        found = in_one_group(lambda name: open_device(fleet.made(name, lease=LONG)), 4)
        devices = {each.name: stack.enter_context(each) for each in found}
        first, _, taken, _ = names = list(devices)
        for name, device in devices.items():
            device.on_lost(lambda error, name=name: told.append(name))  # type: ignore[misc]
        lock = stack.enter_context(psycopg.connect(fleet.database))
        lock.execute("SELECT 1 FROM ratchetkeep.devices WHERE name = %s FOR UPDATE", [first])
        url = fleet.url(taken, lease=LONG)
        errors = committed_together(devices, lambda: taken_then_free(thief, url, lock))
    assert {name: type(error) for name, error in errors.items()} == {taken: OwnershipLost}
    assert told == [taken]
    for name in names:
        expected = {"1": "first"} if name == taken else {"1": "first", "2": name}
        assert fleet.stored(name) == expected, name


def taken_then_free(thief: Worker, url: str, lock: psycopg.Connection) -> None:
    thief.ask("open", url, steal=True)
    lock.rollback()


def committed_together(
    devices: dict[str, Device], meanwhile: Callable[[], None]
) -> dict[str, Exception]:
    """Commit to the first device, which waits for a lock, and then to the others, which wait for
    the first one; gives the errors."""
    errors: dict[str, Exception] = {}

    def commit(name: str) -> None:
        try:
            put(devices[name], "2", name)
        except Exception as error:  # noqa: BLE001 - looked at by the test
            errors[name] = error

    threads = [threading.Thread(target=commit, args=(name,)) for name in devices]
    group = next(iter(devices.values()))._group
    for number, thread in enumerate(threads):
        thread.start()
        until(lambda: group._leader is not None and len(group._waiting) == number)  # noqa: B023
    meanwhile()
    for thread in threads:
        thread.join(PATIENCE)
    return errors


# -- leases


def test_a_killed_owner_is_waited_for(fleet: Fleet) -> None:
    """A device would be taken from a worker whose connections alone are gone, or be nobody's for
    ever after its worker was killed."""
    url = fleet.made(lease=2)
    with Worker() as first, Worker() as second:
        first.ask("open", url)
        first.ask("put", url, "2", "acknowledged")
        first.kill()
        with pytest.raises(Refused, match=f"StoreInUse.*process {first.process.pid} on"):
            second.ask("open", url)
        second.ask("open", url, wait=PATIENCE)
        assert second.ask("get", url, "2") == "acknowledged"
        # Its row is still there, with the end of the lease that was waited for.
        (is_after,) = fleet.query(
            "SELECT t.at >= o.until FROM ratchetkeep.owners AS o, ratchetkeep.takeovers AS t, "
            "ratchetkeep.devices AS d WHERE o.name LIKE %s AND t.epoch = d.epoch",
            f"%process {first.process.pid} on%",
        )
        assert is_after == (True,)


def test_a_living_owner_keeps_its_device(fleet: Fleet) -> None:
    """A worker that does nothing for a while would lose its devices to whoever waits for them."""
    url = fleet.made()
    with Worker() as first, Worker() as second:
        first.ask("open", url)
        with pytest.raises(Refused, match="StoreInUse"):
            second.ask("open", url, wait=5 * LEASE)
        first.ask("put", url, "2", "still its own")
        assert first.ask("times_told", url) == 0
    assert fleet.query("SELECT count(*) FROM ratchetkeep.takeovers") == [(2,)]


@pytest.mark.parametrize("face", FACES)
def test_a_device_that_is_waited_for(fleet: Fleet, face: str) -> None:
    """A worker that is to go on with a device would give up while the one before it still closes
    it, or go on without waiting for its end."""
    url = fleet.made(lease=LONG)
    with Worker() as first, Worker() as second:
        first.ask("open", url)
        second.tell("open", url, face=face, wait=PATIENCE)
        first.ask("put", url, "2", "the last")
        first.ask("close", url)
        second.answer()
        assert second.ask("get", url, "2") == "the last"
        assert first.error_of("open", url, wait=0.1) == "StoreInUse"


@pytest.mark.parametrize(("whose", "hours"), [("owner's", -30), ("owner's", 30), ("other's", 30)])
def test_the_clocks_of_workers_do_not_matter(fleet: Fleet, whose: str, hours: float) -> None:
    """A machine whose clock is wrong, or is set, would lose its devices or take those of others."""
    url = fleet.made()
    with Worker() as first, Worker() as second:
        first.ask("open", url)
        (first if whose == "owner's" else second).ask("shift_clock", hours)
        assert second.error_of("open", url, wait=2 * LEASE) == "StoreInUse"
        first.ask("put", url, "2", "its own")
        assert first.ask("times_told", url) == 0
        first.kill()
        second.ask("open", url, wait=PATIENCE)
        assert second.ask("get", url, "2") == "its own"


def test_the_end_of_a_program_gives_its_devices_back(fleet: Fleet) -> None:
    """After each restart of a worker that closes nothing its devices would be nobody's for the rest
    of their lease."""
    urls = [fleet.made(name, lease=LONG) for name in ("alice", "bob")]
    with Worker() as first:
        for url, face in zip(urls, FACES, strict=True):
            first.ask("open", url, face=face)
            first.ask("put", url, "2", "the last")
        first.end()
    for url in urls:
        with open_device(url) as device:
            assert device.get("lid-mapping", ["2"]) == {"2": "the last"}
    assert fleet.query("SELECT count(*) FROM ratchetkeep.owners") == [(0,)]


# -- stealing


def test_what_cannot_be_stolen(fleet: Fleet, tmp_path: Path) -> None:
    """Someone in a hurry would take a device from a process that lives and writes, in a store that
    cannot keep it out; or a mistyped name would make a device."""
    places = [f"sqlite:{tmp_path}/a.db", f"baileys:{tmp_path}/b", f"memory:{uuid.uuid4()}"]
    places += [f"baileysex:{tmp_path}/c"]

    async def steal(url: str) -> None:
        await open_async_device(url, steal=True)

    for url in places:
        with open_device(url, create=True) as device:
            with pytest.raises(InvalidValue, match="cannot be deprived"):
                open_device(url, steal=True)
            with pytest.raises(InvalidValue, match="cannot be deprived"):
                asyncio.run(steal(url))
            put(device, "1", "goes on")
    fleet.made()
    with pytest.raises(NoDevice, match="device=alice"):
        open_device(fleet.url("alcie"), steal=True)
    with pytest.raises(NoDevice, match="device=alice"):
        asyncio.run(steal(fleet.url("alcie")))


def test_nobody_steals_from_itself(fleet: Fleet) -> None:
    """Two parts of one program would have the same device, each with a memory of its own."""
    url = fleet.made()
    with open_device(url) as device:
        with pytest.raises(StoreInUse, match="already in this process"):
            open_device(url, steal=True)
        put(device, "2", "goes on")


# -- many


def test_a_device_is_made_once(fleet: Fleet) -> None:
    """Two workers that start together would pair the same device twice, each with an identity of
    its own."""
    fleet.made("another")
    with workers(2) as both:
        for turn in range(15):
            url = fleet.url(f"device {turn}", lease=LONG)
            for worker in both:
                worker.tell("open", url, create=True, face=FACES[turn % 2])
            made = []
            for worker in both:
                with suppress(Refused):
                    worker.answer()
                    made.append(worker)
            assert len(made) == 1
            identity = made[0].ask("credentials", url)
            with open_device(url, read_only=True) as device:
                assert device.credentials.registration_id == identity


@pytest.mark.parametrize("thieves", [0, 4])
def test_twenty_fight_over_one_device(fleet: Fleet, thieves: int) -> None:
    """Of two workers that take turns, or take the device from each other, one would not see what
    the other wrote, or write over it."""
    url = fleet.made(lease=LONG)
    with workers(20) as fighters:
        for number, worker in enumerate(fighters):
            worker.tell("count_up", url, 3, number < thieves)
        lost = [worker.answer() for worker in fighters]
        assert thieves or not any(lost), "nobody took it from anybody"
        each = {str(worker.process.pid): 3 for worker in fighters}
    counted = fleet.stored()
    assert counted.pop("1") == "first"
    assert counted.pop("last") == "60"
    assert set(counted) == {f"n{number}" for number in range(1, 61)}
    assert Counter(counted.values()) == each


# -- partitions


@pytest.mark.parametrize("how", ["frozen", "killed"])
def test_a_partition(server: pgserver.Server, fleet: Fleet, how: str) -> None:
    """Workers that cannot reach the database would go on with devices that others can have by now,
    or never hear of it; or they could not go on when it is back."""
    urls = {face: fleet.made(face, lease=4) for face in FACES}
    with Worker() as worker, Worker() as other:
        for face, url in urls.items():
            worker.ask("open", url, face=face)
        with ExitStack() as outage:
            if how == "frozen":
                outage.enter_context(server.frozen())
            else:
                server.stop("kill")
                outage.callback(server.start)
            for url in urls.values():
                assert "lease" in worker.ask("lost", url)
                assert worker.error_of("put", url, "2", "late") == "OwnershipLost"
                assert worker.error_of("get", url, "1") == "OwnershipLost"
        # One goes on where it was, one elsewhere; although nobody closed them.
        worker.ask("open", urls["sync"], wait=PATIENCE)
        worker.ask("put", urls["sync"], "3", "goes on")
        other.ask("open", urls["async"], wait=PATIENCE)
        other.ask("put", urls["async"], "3", "goes on")
        assert other.error_of("open", urls["sync"], wait=6) == "StoreInUse"
        worker.ask("put", urls["sync"], "4", "still")
        assert worker.ask("times_told", urls["sync"]) == 1
    assert fleet.stored("sync") == {"1": "first", "3": "goes on", "4": "still"}
    assert fleet.stored("async") == {"1": "first", "3": "goes on"}


def test_what_was_closed_in_an_outage_is_free_after_it(
    server: pgserver.Server, fleet: Fleet
) -> None:
    """A device that was closed while the database was away would stay its last owner's, as long as
    that process has others."""
    urls = [fleet.made(name, lease=6) for name in ("closed", "kept")]
    with Worker() as worker:
        for url in urls:
            worker.ask("open", url)
        server.stop("kill")
        worker.ask("close", urls[0])
        server.start()
        worker.ask("put", urls[1], "2", "its own")
        with open_device(urls[0], wait=PATIENCE) as device, open_store(fleet.database) as store:
            assert store.devices() == ["closed", "kept"]
            put(device, "2", "free")
        worker.ask("put", urls[1], "3", "its own")
        assert worker.ask("times_told", urls[1]) == 0
