"""The tests' own tools: the faults of the proxy to PostgreSQL, and servers that stop and start."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg
import pytest

import pgserver
from pgproxy import Fault, Proxy

INSERT = "INSERT INTO kept VALUES (%s)"
PATTERN = rb"INSERT INTO kept"
SECONDS = 30


@pytest.fixture(scope="module")
def server() -> Iterator[pgserver.Server]:
    """A server for these tests."""
    with pgserver.running() as server:
        yield server


@pytest.fixture
def proxy(server: pgserver.Server) -> Iterator[Proxy]:
    """A proxy to it."""
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def url(server: pgserver.Server) -> str:
    """A database with a table, without the proxy."""
    url = server.new_database()
    with connect(url) as connection:
        connection.execute("CREATE TABLE kept (value integer)")
    return url


def connect(url: str) -> psycopg.Connection:
    return psycopg.connect(url, autocommit=True, connect_timeout=SECONDS)


def kept(url: str) -> list[int]:
    """The rows that are there."""
    with connect(url) as connection:
        rows = connection.execute("SELECT value FROM kept ORDER BY value")
        return [value for (value,) in rows]


def insert(client: psycopg.Connection, value: int) -> None:
    client.execute(INSERT, [value])


def is_lost(client: psycopg.Connection, value: int) -> bool:
    """The client got no answer to an INSERT."""
    with pytest.raises(psycopg.OperationalError):
        insert(client, value)
    return client.closed


# -- faults of one batch

Ask = Callable[[Proxy, int], Fault]
LOST: dict[str, Ask] = {
    "before": lambda proxy, nth: proxy.cut_before(PATTERN, nth),
    "half of the batch": lambda proxy, nth: proxy.cut_within(PATTERN, nth),
    "all but Sync": lambda proxy, nth: proxy.cut_within(PATTERN, nth, missing=5),
    "all but a byte": lambda proxy, nth: proxy.cut_within(PATTERN, nth, missing=1),
    "held": lambda proxy, nth: proxy.hold(PATTERN, nth),
}
DONE: dict[str, Ask] = {
    "no answer": lambda proxy, nth: proxy.cut_answer(PATTERN, nth),
    "half of the answer": lambda proxy, nth: proxy.cut_within_answer(PATTERN, nth),
    "all but ReadyForQuery": lambda proxy, nth: proxy.cut_within_answer(PATTERN, nth, missing=6),
    "left": lambda proxy, nth: proxy.leave(PATTERN, nth),
}


@pytest.mark.parametrize("name", [*LOST, *DONE])
@pytest.mark.parametrize("nth", [1, 3, 9])
def test_a_fault_meets_its_batch(proxy: Proxy, url: str, name: str, nth: int) -> None:
    """A test of an unknown outcome would test another outcome than it says, or none: the n-th
    INSERT is there or is not, as the fault promises. The ninth runs by its statement's name."""
    fault = {**LOST, **DONE}[name](proxy, nth)
    with connect(proxy.url(url)) as client:
        for value in range(1, nth):
            insert(client, value)
        assert not fault.has_happened
        assert is_lost(client, nth)
    fault.wait()
    if name in DONE:
        assert b"INSERT 0 1" in fault.wait_over()
    assert kept(url) == list(range(1, nth + (name in DONE)))
    with connect(proxy.url(url)) as client:
        insert(client, 99)
    assert kept(url)[-1] == 99


def test_a_batch_that_was_held_arrives_late(proxy: Proxy, url: str) -> None:
    """Nobody would see what a worker that is thought dead can still write."""
    fault = proxy.hold(PATTERN)
    with connect(proxy.url(url)) as client:
        assert is_lost(client, 1)
    with connect(proxy.url(url)) as client:
        insert(client, 2)
    assert kept(url) == [2]
    assert b"INSERT 0 1" in fault.deliver()
    assert kept(url) == [1, 2]


def test_a_client_can_be_left_waiting(proxy: Proxy, url: str) -> None:
    """A connection that is silent, and not closed, would not be tried."""
    fault = proxy.hold(PATTERN, cut=False)
    ended = threading.Event()

    def work() -> None:
        with connect(proxy.url(url)) as client:
            assert is_lost(client, 1)
        ended.set()

    worker = threading.Thread(target=work)
    worker.start()
    fault.wait()
    assert kept(url) == [] and not ended.is_set()
    assert b"INSERT 0 1" in fault.deliver()
    worker.join(SECONDS)
    assert ended.is_set() and kept(url) == [1]


def test_a_statement_goes_on_when_its_client_is_gone(proxy: Proxy, url: str) -> None:
    """A transaction that still runs when its client comes back would not be tried."""
    fault = proxy.leave(PATTERN)
    with connect(url) as other, other.transaction():
        other.execute("LOCK TABLE kept")
        with connect(proxy.url(url)) as client:
            assert is_lost(client, 1)
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while other.execute(waiting).fetchone() != (1,):
            pass
    assert b"INSERT 0 1" in fault.wait_over()
    assert kept(url) == [1]


def test_a_pattern_sees_parameters(proxy: Proxy, url: str) -> None:
    """The batch of one device could not be told from those of others."""
    fault = proxy.cut_before(rb"INSERT INTO words.*alice")
    with connect(url) as maker:
        maker.execute("CREATE TABLE words (word text)")
    with connect(proxy.url(url)) as client:
        client.execute("INSERT INTO words VALUES (%s)", ["bob"])
        with pytest.raises(psycopg.OperationalError):
            client.execute("INSERT INTO words VALUES (%s)", ["alice"])
    assert fault.has_happened


def test_answers_to_what_came_before_arrive(proxy: Proxy, url: str) -> None:
    """A client that sends without waiting would lose more than the fault takes."""
    fault = proxy.cut_answer(rb"INSERT INTO kept.*second")
    lost = pytest.raises(psycopg.OperationalError)
    with connect(proxy.url(url)) as client, lost, client.pipeline() as pipeline:
        first = client.execute("INSERT INTO kept VALUES (1) RETURNING 'first'")
        pipeline.sync()
        client.execute("INSERT INTO kept VALUES (2) RETURNING 'second'")
        assert first.fetchone() == ("first",)
        pipeline.sync()
    assert b"second" in fault.wait_over() and b"first" not in fault.answer
    assert kept(url) == [1, 2]


# -- faults of all connections


def test_a_partition_cuts_and_refuses(proxy: Proxy, url: str) -> None:
    """A network that is down for a while would not be tried."""
    with connect(proxy.url(url)) as client:
        insert(client, 1)
        with proxy.partition():
            assert is_lost(client, 2)
            with pytest.raises(psycopg.OperationalError, match="refused"):
                connect(proxy.url(url))
    with connect(proxy.url(url)) as client:
        insert(client, 3)
    assert kept(url) == [1, 3]


def test_a_black_hole_passes_nothing_on(proxy: Proxy, url: str) -> None:
    """A network that says nothing would not be tried: what was sent arrives when it is over."""
    with connect(proxy.url(url)) as client:
        insert(client, 1)
        worker = threading.Thread(target=insert, args=(client, 2))
        with proxy.black_hole():
            worker.start()
            with pytest.raises(psycopg.OperationalError, match="timeout"):
                psycopg.connect(proxy.url(url), connect_timeout=2)
            assert kept(url) == [1] and worker.is_alive()
        worker.join(SECONDS)
    assert kept(url) == [1, 2]


def test_connections_are_counted_and_cut(proxy: Proxy, url: str) -> None:
    """A test could not tell whether a client came again."""
    clients = [connect(proxy.url(url)) for _ in range(3)]
    assert proxy.connections == 3
    proxy.cut_all()
    assert all(is_lost(client, 1) for client in clients)
    with connect(proxy.url(url)) as client:
        insert(client, 2)
    assert proxy.connections == 4 and kept(url) == [2]


def test_a_server_that_is_down_is_seen_through_the_proxy(url: str) -> None:
    """A client would wait for ever for a server that is not there."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with Proxy(nobody.getsockname()[1]) as proxy, pytest.raises(psycopg.OperationalError):
            connect(proxy.url(url))


# -- the server


@pytest.mark.parametrize("mode", pgserver.MODES)
def test_a_restart_keeps_what_was_committed(
    server: pgserver.Server, url: str, mode: pgserver.Mode
) -> None:
    """A test could not tell a commit that a store loses from one that its server loses; and what
    was not committed must be gone."""
    with connect(url) as client, closing(connect(url)) as open_one:
        insert(client, 1)
        open_one.execute("BEGIN")
        insert(open_one, 2)
        server.stop(mode)
        assert is_lost(client, 3)
        with pytest.raises(psycopg.OperationalError):
            connect(url)
        server.start()
    assert kept(url) == [1]
    log = (server.folder / "log").read_text().rpartition("starting PostgreSQL")[2]
    assert ("was not properly shut down" in log) == (mode != "fast")


def test_a_frozen_server_goes_on(server: pgserver.Server, url: str) -> None:
    """A machine that stands still for a while would not be tried."""
    with connect(url) as client:
        worker = threading.Thread(target=insert, args=(client, 1))
        with server.frozen():
            worker.start()
            with pytest.raises(psycopg.OperationalError, match="timeout"):
                psycopg.connect(url, connect_timeout=2)
            assert worker.is_alive()
        worker.join(SECONDS)
    assert kept(url) == [1]


def test_a_server_has_the_settings_that_are_asked_for() -> None:
    """A test that needs a real sync, or many connections, would not have them."""
    with pgserver.running(fsync="on", max_connections="7") as server, connect(server.url()) as own:
        shown = [own.execute(f"SHOW {name}").fetchone() for name in ("fsync", "max_connections")]
        assert shown == [("on",), ("7",)]
        server.restart("immediate")
        with connect(server.url()) as again:
            assert again.execute("SHOW fsync").fetchone() == ("on",)
