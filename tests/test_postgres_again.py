"""A device that is lost and opened again in PostgreSQL, by the same process or by others, while
something of its last owner is still under way."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

import pgserver
from _pgload import SETTLE, Fleet, add
from _postgres_worker import PATIENCE, Worker, in_one_group, until
from pgproxy import Proxy
from ratchetkeep import (
    CommitFailed,
    Device,
    OwnershipLost,
    copy_device,
    open_device,
    open_store,
)


@pytest.fixture(scope="module")
def server() -> Iterator[pgserver.Server]:
    with pgserver.running() as server:
        yield server


@pytest.fixture
def fleet(server: pgserver.Server) -> Iterator[Fleet]:
    """A new database behind a proxy; a short lease, as each loss is waited for."""
    with Proxy(server.port) as proxy:
        yield Fleet(server, proxy, lease=3)


def lose(device: Device, url: str) -> None:
    """Another worker takes the device and gives it back, and we hear of it."""
    lost = threading.Event()
    device.on_lost(lambda error: lost.set())
    with Worker() as thief:
        thief.ask("open", url, steal=True)
        thief.ask("close", url)
    assert lost.wait(PATIENCE), "nothing was told"


class Later:
    """Something that a thread does."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.error: Exception | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._call()
        except Exception as error:  # noqa: BLE001 - looked at by the test
            self.error = error

    def ended(self) -> Exception | None:
        """Wait for its end; gives what it raised."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "it hangs"
        return self.error


def test_closing_what_was_lost_ends_nothing(fleet: Fleet) -> None:
    """A program that opens a device again when it was told lost, and then closes the old one, would
    give back the new one: others would take it while it is in use."""
    with fleet.open("another"), fleet.open() as old:
        lose(old, fleet.url())
        with open_device(fleet.url(), wait=PATIENCE) as new:
            old.close()
            add(new)
            with Worker() as worker:
                assert worker.error_of("open", fleet.url()) == "StoreInUse"
    assert fleet.stored() == {"1": 1}


def test_a_commit_that_waited_is_not_its_successors(fleet: Fleet) -> None:
    """A commit that was made before the device was lost would be stored after it was opened again
    in the same process: whoever has it now knows nothing of it, and writes over it."""
    first, old = in_one_group(fleet.open, 2)
    url = fleet.url(old.name)
    with first, old:
        with psycopg.connect(fleet.beside().partition("&lease")[0]) as lock:
            lock.execute(
                "SELECT 1 FROM ratchetkeep.devices WHERE name = %s FOR UPDATE", [first.name]
            )
            ahead = Later(lambda: add(first))
            group = first._group
            until(lambda: group._leader is not None and not group._waiting)
            waiting = Later(lambda: add(old))
            until(lambda: bool(group._waiting))
            lose(old, url)
            new = open_device(url, wait=PATIENCE)
        assert ahead.ended() is None
        assert isinstance(waiting.ended(), OwnershipLost)
        with new:
            add(new, "2")
    assert fleet.stored(old.name) == {"2": 1}


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_an_unknown_commit_of_a_device_that_is_another_one(
    fleet: Fleet, how: str, tmp_path: Any
) -> None:
    """A commit whose answer was lost would be told as stored, because the device that took the
    place of its own has another count of commits."""
    fleet.lease = 60
    source = f"sqlite:{tmp_path}/source.db"
    open_device(source, create=True).close()
    with fleet.open() as device:
        add(device)
        lost = fleet.proxy.cut_before(rb"WITH mine AS")
        asking = fleet.proxy.hold(SETTLE, cut=False)
        commit = Later(lambda: add(device))
        lost.wait()
        asking.wait()
        with Worker() as other:
            other.ask("open", fleet.beside(), steal=True)
            other.ask("close", fleet.beside())
            if how == "removed":
                other.ask("remove", fleet.beside(), "alice")
                other.ask("open", fleet.beside(), create=True)
                other.ask("close", fleet.beside())
            else:
                # As if it had never been another's.
                with psycopg.connect(fleet.beside().partition("&lease")[0]) as connection:
                    connection.execute(
                        "DELETE FROM ratchetkeep.takeovers WHERE epoch = (SELECT epoch "
                        "FROM ratchetkeep.devices WHERE name = 'alice')"
                    )
                copy_device(source, fleet.beside(), overwrite=True)
        asking.deliver()
        assert type(commit.ended()) is (CommitFailed if how == "removed" else OwnershipLost)
    assert fleet.stored() == {}


def test_a_commit_does_not_outlast_its_lease(server: pgserver.Server, fleet: Fleet) -> None:
    """A commit of which nobody knows whether it is stored would hang as long as the database is
    away, with all that wait for it, although its device is lost already."""
    with fleet.open() as device:
        sent = fleet.proxy.hold(rb"WITH mine AS", cut=False)
        commit = Later(lambda: add(device))
        sent.wait()
        server.stop("kill")
        try:
            assert isinstance(commit.ended(), CommitFailed | OwnershipLost)
        finally:
            server.start()


def test_closing_does_not_wait_for_a_server_that_hangs(
    server: pgserver.Server, fleet: Fleet
) -> None:
    """A program could not end while its database hangs."""
    device = fleet.open()
    # More than one connection that nobody has found out about.
    readers = [Later(lambda: [device._store.devices() for _ in range(200)]) for _ in range(6)]
    assert [reader.ended() for reader in readers] == [None] * 6
    with server.frozen():
        assert Later(device.close).ended() is None


def test_a_forked_child_does_not_use_its_parents_connections(fleet: Fleet) -> None:
    """Parent and child would each read what the server answers the other: one device's records
    would be taken for another's."""
    with fleet.open() as device, open_store(fleet.url()) as store:
        add(device)
        assert store.devices() == ["alice"]
        child = os.fork()
        if child == 0:
            _be_the_child(lambda: store.devices(), lambda: store.open("alice", steal=True))
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert store.devices() == ["alice"]
        add(device)


def _be_the_child(*calls: Callable[[], Any]) -> None:
    """Never returns: pytest must not go on in the child."""
    refused = 0
    try:
        for call in calls:
            try:
                call()
            except OwnershipLost:
                refused += 1
    except BaseException:  # noqa: BLE001 - shown, and told by the exit code
        traceback.print_exc()
    finally:
        os._exit(0 if refused == len(calls) else 1)
