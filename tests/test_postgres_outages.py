"""A PostgreSQL server that goes away and comes back, and what is late: opening, reading, giving
back and removing devices, whole fleets of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

import pgserver
from _helpers import ALICE
from _pgload import COMMIT, FAULTS, PATIENCE, Fleet, Load, add, device_commits
from pgproxy import Proxy
from ratchetkeep import (
    CommitFailed,
    OwnershipLost,
    RatchetkeepError,
    copy_device,
    open_device,
    open_store,
)


@pytest.fixture(scope="module")
def server() -> Iterator[pgserver.Server]:
    """A server for these tests."""
    with pgserver.running(max_connections="100") as server:
        yield server


@pytest.fixture
def proxy(server: pgserver.Server) -> Iterator[Proxy]:
    """A proxy to it."""
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def fleet(server: pgserver.Server, proxy: Proxy) -> Fleet:
    """A new database behind the proxy."""
    return Fleet(server, proxy)


# -- making, reading and giving back


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("pattern", [rb"INSERT INTO ratchetkeep.devices", COMMIT, rb"WITH taken"])
def test_opening_survives(fleet: Fleet, name: str, pattern: bytes) -> None:
    """A device could not be opened because its first or its own try stood in the way, or it would
    get credentials twice."""
    fault = FAULTS[name](fleet.proxy, pattern, 1)
    with fleet.open() as device:
        credentials = device.credentials
        add(device)
    with fleet.open() as device:
        assert fault.has_happened
        add(device)
        fault.deliver()
        add(device)
        assert fleet.check_memory(device) == {"1": 3} and fleet.commits() == 4
        assert device.credentials == credentials


@pytest.mark.parametrize("name", FAULTS)
def test_a_late_farewell_changes_nothing(fleet: Fleet, name: str) -> None:
    """A device that was given back and opened again would be given back once more, under the feet
    of its owner."""
    fault = FAULTS[name](fleet.proxy, rb"UPDATE ratchetkeep.devices SET owner = NULL", 1)
    with fleet.open("bob"):  # the process stays the same owner
        with fleet.open() as device:
            add(device)
        with fleet.open() as device:
            fault.deliver()
            add(device)
            assert fleet.check_memory(device) == {"1": 2}
            with pytest.raises(RatchetkeepError, match="in use"):
                open_device(fleet.beside())


@pytest.mark.parametrize("name", FAULTS)
def test_reads_survive(fleet: Fleet, name: str) -> None:
    """What is there would be taken for absent, or a read would fail for nothing."""
    with fleet.open() as device:
        add(device)
    fault = FAULTS[name](fleet.proxy, rb"SELECT r.family, r.id, r.data", 2)
    with fleet.open() as device:
        assert device.get("lid-mapping", ["1", "2"]) == {"1": "1"}
        assert fault.has_happened


def test_renewals_survive(server: pgserver.Server, proxy: Proxy) -> None:
    """A lease that could not be renewed at once would be lost, or a late renewal would give back
    what is held."""
    fleet = Fleet(server, proxy, lease=3)
    faults = [
        ask(proxy, rb"INSERT INTO ratchetkeep.owners", nth)
        for nth, ask in enumerate(FAULTS.values(), start=2)
    ]
    with fleet.open() as device:
        add(device)
        for fault in faults:
            fault.wait()
        for fault in faults:
            fault.deliver()
        add(device)
        assert fleet.check_memory(device) == {"1": 2} and fleet.commits() == 3


@pytest.mark.parametrize("name", FAULTS)
def test_a_late_removal_changes_nothing(fleet: Fleet, name: str) -> None:
    """A device that was removed and made again, by the same process, would be removed once more
    when the first removal arrives: new credentials would be lost."""
    fault = FAULTS[name](fleet.proxy, rb"WITH gone AS \(DELETE", 1)
    with open_store(fleet.url()) as store:
        store.create("alice").close()
        store.remove("alice")
        assert store.devices() == []
        with store.create("alice") as device:
            credentials = device.credentials
            fault.deliver()
            add(device)
            assert fleet.check_memory(device) == {"1": 1}
            assert device.credentials == credentials


@pytest.mark.parametrize("name", FAULTS)
def test_a_copy_knows_its_outcome(fleet: Fleet, name: str) -> None:
    """A copy would say that nothing was changed, and be there; or be taken for done, and not be
    there."""
    fleet.open("bob").close()
    fault = FAULTS[name](fleet.proxy, rb"^COMMIT", 1)
    told = ""
    try:
        copy_device(f"baileys:{ALICE}", fleet.url("copied"))
    except RatchetkeepError as error:
        told = str(error)
    fault.deliver()
    with open_store(fleet.beside()) as store:
        is_there = "copied" in store.devices()
    assert is_there == (not told) or "Nothing was changed" not in told


# -- outages


def test_a_short_partition_costs_nothing(fleet: Fleet) -> None:
    """A network that is away for a moment would stop a fleet, or lose a commit."""
    with fleet.open("alice") as alice, fleet.open("bob") as bob:
        load = Load([alice, bob], threads=3, rounds=30)
        load.start()
        for _ in range(3):
            load.begin_again()
            with fleet.proxy.partition():
                assert not load.is_over
        load.join()
        assert not load.errors
        load.check(fleet)
        for device in (alice, bob):
            assert fleet.check_memory(device) == {str(number): 30 for number in range(3)}


@pytest.mark.parametrize("outage", ["partition", "black hole", "frozen server"])
def test_a_long_outage_ends_in_an_error(server: pgserver.Server, proxy: Proxy, outage: str) -> None:
    """A commit would hang while another process has the device, or its caller would hear that
    nothing is stored where nobody knows."""
    fleet = Fleet(server, proxy, lease=2)
    with fleet.open("alice") as alice, fleet.open("bob") as bob:
        load = Load([alice, bob], threads=2, rounds=1000)
        load.start()
        load.begin_again()
        outages = {
            "partition": proxy.partition,
            "black hole": proxy.black_hole,
            "frozen server": server.frozen,
        }
        with outages[outage]():
            load.join()
        assert len(load.errors) == 4
        load.check(fleet)
        for device in (alice, bob):
            with pytest.raises((OwnershipLost, CommitFailed)):
                add(device)
            with pytest.raises((OwnershipLost, CommitFailed)):
                device.get("lid-mapping", ["1"])
    with open_device(fleet.beside("alice"), wait=PATIENCE) as alice:
        before = fleet.check_memory(alice).get("0", 0)
        add(alice, "0")
        assert fleet.check_memory(alice)["0"] == before + 1


@pytest.mark.parametrize("mode", pgserver.MODES)
def test_a_restart_loses_and_doubles_nothing(
    server: pgserver.Server, fleet: Fleet, mode: pgserver.Mode
) -> None:
    """A server that fails over, or is upgraded, would cost a fleet commits that were acknowledged,
    or do some twice."""
    names = ["alice", "bob", "carol"]
    with ExitStack() as blocks:
        devices = [blocks.enter_context(fleet.open(name)) for name in names]
        load = Load(devices, threads=2, rounds=40)
        load.start()
        for _ in range(2):
            load.begin_again()
            server.restart(mode)
            assert not load.is_over
        load.join()
        assert not load.errors
        load.check(fleet)
        for device in devices:
            assert fleet.check_memory(device) == {"0": 40, "1": 40}
            assert device_commits(device) == fleet.commits(device.name)


def test_idle_connections_do_not_hold_up_an_outage(server: pgserver.Server, proxy: Proxy) -> None:
    """Each connection of a network that is silent would be waited for, one after the other: a
    commit would hang, long after its lease ran out."""
    fleet = Fleet(server, proxy, lease=2)
    with ExitStack() as blocks:
        devices = [blocks.enter_context(fleet.open(f"device-{n}")) for n in range(6)]
        fleet.read_at_once(devices)
        load = Load(devices[:1], threads=1, rounds=1)
        with proxy.black_hole():
            load.run()
        assert len(load.errors) == 1
        load.check(fleet)


def test_what_was_lost_can_be_had_by_another(server: pgserver.Server, proxy: Proxy) -> None:
    """A process that lost a device in an outage, and lives on, would keep it from all others for
    ever."""
    fleet = Fleet(server, proxy, lease=1)
    with fleet.open("alice") as alice, fleet.open("bob"):
        load = Load([alice], threads=1, rounds=1000)
        load.start()
        load.begin_again()
        with proxy.partition():
            load.join()
        with fleet.open("carol") as carol:  # the process works on
            add(carol)
            with open_device(fleet.beside("alice"), wait=10) as again:
                add(again, "2")


def test_a_device_that_went_through_many_hands(server: pgserver.Server, proxy: Proxy) -> None:
    """A process that stood still for long would take the commits of those that had its device
    meanwhile for its own, and tell its caller that a lost commit is stored."""
    fleet = Fleet(server, proxy, lease=10)
    with fleet.open() as device:
        add(device)
        load = Load([device], threads=1, rounds=1)
        fault = proxy.hold(COMMIT, cut=False)
        load.start()
        fault.wait()
        with proxy.partition():
            with open_device(fleet.beside(), steal=True) as other:
                add(other)
            for _ in range(20):
                open_device(fleet.beside()).close()
            assert not load.is_over
        load.join()
        load.check(fleet)
        assert fleet.stored() == {"1": 2}
        assert [type(error) for error in load.errors] in ([OwnershipLost], [CommitFailed])
