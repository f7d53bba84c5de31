"""A process's connections to one PostgreSQL database: a pool, and an end to those that hang."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ratchetkeep.errors import UnknownStore

from ._postgres_driver import INSTALL, Connection, connect, driver, mapped, options

if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool

__all__ = ["BRIEF", "SCHEMA", "Link", "is_lost", "is_rolled_back", "open_one"]

SCHEMA = "ratchetkeep's"
# A dead server or network is found out in seconds, not when the system would give up by itself.
_KEEPALIVE = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
# What a connection's session is set to, where the server knows such a setting and has it otherwise.
_SETTINGS = {
    # A row that another transaction has locked is not waited for without end.
    "lock_timeout": "5s",
    # All of our statements are made for an index. The planner does not know yet how many rows there
    # are while a fleet is being set up, and it plans as well without the values: planning anew for
    # each commit would cost as much as carrying it out.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    # What a plan might cost is no measure of what it does cost here: compiling it would take longer
    # than any of our statements, a quarter of a second each time.
    "jit": "off",
}
_SET = "SELECT set_config(%s, %s, false) WHERE current_setting(%s, true) IS NOT NULL"
# A server that is set to answer before the disk does must not, for us.
_SET_DURABLE = (
    "SELECT set_config('synchronous_commit', 'on', false) "
    "WHERE current_setting('synchronous_commit', true) = 'off'"
)

# Seconds that one is waited for to tell what is told by a later renewal as well.
BRIEF = 1.0

# Seconds that a connection is waited for at a time. The pool gives up connecting after a second,
# and begins again when it is asked again.
GETTING = 1.5

# SQL states of a server that is gone or goes, and of one that may not write (any more).
_GONE = ("08", "57P")
_READ_ONLY = "25006"
# A transaction that another one stood in the way of.
_IN_THE_WAY = ("40001", "40P01", "55P03")


def is_lost(error: driver.Error) -> bool:
    """True if the connection was lost, so that nobody knows what became of the statement; or the
    server is one that was replaced by another."""
    state = error.sqlstate
    if state is None:
        return isinstance(error, driver.OperationalError | driver.InterfaceError)
    return state.startswith(_GONE) or state == _READ_ONLY


def is_rolled_back(error: driver.Error) -> bool:
    """True if the server dropped the transaction because another one stood in its way."""
    return error.sqlstate in _IN_THE_WAY


def _configure(connection: Connection) -> None:
    with connection.pipeline():
        for name, value in _SETTINGS.items():
            connection.execute(_SET, (name, value, name))
        connection.execute(_SET_DURABLE)


def open_one(conninfo: str, url: str) -> Connection:
    """A connection of its own, for what takes long.

    :raises StoreUnreadable: if the server cannot be reached, or refuses us.
    """
    connection = connect(conninfo, url)
    try:
        with mapped(url, schema=SCHEMA):
            _configure(connection)
    except BaseException:
        connection.close()
        raise
    return connection


class Link:
    """Connections to one database, for many threads.

    :param conninfo: libpq's URL, with the password.
    :param url: the same for errors, without it.
    :param most: how many connections there may be.
    :param patience: seconds that an answer may take.
    """

    def __init__(self, conninfo: str, url: str, most: int, patience: float) -> None:
        self.url = url
        self._pid = os.getpid()
        self._patience = patience
        # What is under way: the connection, and since when.
        self._busy: dict[int, tuple[Connection, float]] = {}
        self._numbers = iter(range(2**63))
        self._pool = self._make_pool(conninfo, url, most)

    def _make_pool(self, conninfo: str, url: str, most: int) -> ConnectionPool[Connection]:
        ours = options(conninfo, url)
        try:
            import psycopg_pool
        except ImportError:
            raise UnknownStore(url, "needs psycopg_pool, which is not installed", INSTALL) from None
        # libpq takes no less than 2 seconds.
        ours["connect_timeout"] = max(2, min(int(ours["connect_timeout"]), int(self._patience)))
        self._none_free = psycopg_pool.PoolTimeout
        # Whoever set up no logging would get the pool's warnings of each outage on stderr.
        logging.getLogger("psycopg.pool").addHandler(logging.NullHandler())
        return psycopg_pool.ConnectionPool(
            conninfo,
            kwargs={**_KEEPALIVE, **ours},
            configure=_configure,
            min_size=1,
            max_size=most,
            # Whoever needs a connection asks again and again: the pool's own waiting, which grows,
            # would last longer than a lease.
            reconnect_timeout=1.0,
            open=False,
            name=f"ratchetkeep {os.getpid()}",
        )

    def open(self) -> None:
        """Begin to connect. What is wrong with the URL or the server is better found out before,
        with a connection of its own: a pool does not say why it has none."""
        self._pool.open()

    @contextmanager
    def connection(self, patience: float = GETTING) -> Iterator[Connection]:
        """A connection; what the driver raises comes as it is.

        :param patience: how many seconds to wait for one.
        :raises psycopg.OperationalError: if there is none to be had in time.
        """
        connection = self._pool.getconn(patience)
        number = next(self._numbers)
        self._busy[number] = (connection, time.monotonic())
        try:
            yield connection
        finally:
            self._busy.pop(number, None)
            # Each statement is a transaction of its own. The pool rolls back what an interrupt left
            # open, and replaces a connection that was lost.
            self._pool.putconn(connection)

    def renew(self, after: driver.Error) -> None:
        """Replace all connections: after one was lost, the others most likely are too. To ask each
        of them would hang where the network swallows what is sent."""
        # If none was free in time, all may be in use, and whole.
        if is_lost(after) and not isinstance(after, self._none_free):
            self._pool.drain()

    def cut_hanging(self) -> None:
        """End connections that have not answered for too long: their callers get an error."""
        limit = time.monotonic() - self._patience
        for connection, since in list(self._busy.values()):
            if since < limit:
                _cut(connection)

    def close(self) -> None:
        """Close all connections."""
        # A forked child has its parent's: to close them would end the parent's sessions.
        if os.getpid() == self._pid:
            self._pool.close()


def _cut(connection: Any) -> None:
    """End a connection under the thread that waits for it."""
    # A duplicate: the socket stays the connection's to close.
    with (
        suppress(OSError, driver.Error),
        socket.socket(fileno=os.dup(connection.fileno())) as end,
    ):
        end.shutdown(socket.SHUT_RDWR)
