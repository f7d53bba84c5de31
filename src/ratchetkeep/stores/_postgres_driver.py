"""PostgreSQL through psycopg 3 (the extra ``postgres``): connecting, and its errors as ours.

What libpq says of a connection that failed may hold pieces of a mistyped URL, its password among
them: such texts are never shown.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from ratchetkeep.errors import (
    RatchetkeepError,
    StoreDamaged,
    StoreInUse,
    StoreUnreadable,
    UnknownStore,
)

if TYPE_CHECKING:
    import psycopg as driver

try:
    import psycopg as driver
except ImportError:
    driver = None  # type: ignore[assignment]

__all__ = ["CONNECT_SECONDS", "Connection", "connect", "driver", "mapped", "options", "who"]

INSTALL = "Install it: pip install 'ratchetkeep[postgres]'"

# How long to wait for a server that does not answer, where the URL does not say.
CONNECT_SECONDS = 10

# Where the server's own words are about the server, never about a row.
_TELLING = ("08", "25", "28", "3D", "40", "42", "53", "55", "57", "58")
_LOCKED = "55P03"
_DAMAGED = ("XX001", "XX002")
_NO_SCHEMA = ("42P01", "42703", "42804", "42883")  # no such table or column, or of another type

# libpq's words, and ours.
_REFUSALS = (
    ("authentication failed", "the server refuses the user or the password"),
    ("no password supplied", "the server asks for a password"),
    ("does not exist", "the server has no such database or user"),
    ("pg_hba.conf", "the server takes no such connection (see its pg_hba.conf)"),
    ("could not translate host name", "there is no host of that name"),
    ("timeout", "no server answers in time"),
    ("Connection refused", "no server answers there"),
    ("No such file", "no server answers there"),
    ("SSL", "the server and we do not agree on TLS (see sslmode)"),
    ("starting up", "the server is starting up"),
    ("too many clients", "the server has too many connections"),
)

Row: TypeAlias = tuple[Any, ...]
Connection: TypeAlias = "driver.Connection[Row]"
Wrap = Callable[[str], RatchetkeepError]


def options(conninfo: str, url: str) -> dict[str, Any]:
    """What a connection is made with beside its URL.

    :raises UnknownStore: if psycopg is missing, or if it is no URL of a database.
    """
    if driver is None:
        raise UnknownStore(url, "needs psycopg, which is not installed", INSTALL)
    try:
        given = driver.conninfo.conninfo_to_dict(conninfo)
    except driver.ProgrammingError:
        raise UnknownStore(url, "is no URL of a PostgreSQL database", "Check it") from None
    timeout = str(given.get("connect_timeout", CONNECT_SECONDS))
    if not timeout.isdecimal():
        raise UnknownStore(url, "connect_timeout= takes a number of seconds", "Mend the URL")
    return {
        "connect_timeout": int(timeout),
        "application_name": given.get("application_name", who()),
        "client_encoding": "utf8",
        "autocommit": True,
    }


def connect(conninfo: str, url: str) -> Connection:
    """A connection.

    :raises StoreUnreadable: if the server cannot be reached, or refuses us.
    :raises UnknownStore: as :func:`options`.
    """
    ours = options(conninfo, url)
    try:
        return driver.connect(conninfo, **ours)
    except (driver.Error, ValueError) as error:
        told = (ours for theirs, ours in _REFUSALS if theirs in str(error))
        raise StoreUnreadable(url, next(told, "cannot be connected to")) from None


def who() -> str:
    """This process, as the server shows it and other owners are told."""
    # The server keeps 63 bytes.
    return f"ratchetkeep (process {os.getpid()} on {socket.gethostname():.24})"


@contextmanager
def mapped(url: str, wrap: Wrap | None = None, *, schema: str) -> Iterator[None]:
    """Turn the driver's errors into ours: damage stays damage, ``wrap`` makes the rest.

    :param schema: whose tables are expected.
    """
    try:
        yield
    except driver.Error as error:
        state = error.sqlstate or ""
        if state in _DAMAGED:
            raise StoreDamaged(url, f"PostgreSQL finds it damaged ({state})") from None
        if state == _LOCKED:
            what = "another program's transaction has had it locked for a while"
            raise StoreInUse(
                url, what, "Nothing was changed. Try again when it has ended"
            ) from None
        if state in _NO_SCHEMA:
            what = f"is not {schema} schema: {error.diag.message_primary}"
            raise StoreDamaged(url, what) from None
        words = error.diag.message_primary if state.startswith(_TELLING) else ""
        what = f"PostgreSQL cannot do it: {type(error).__name__}{f': {words}' if words else ''}"
        if error.diag.constraint_name:
            what += f" ({error.diag.table_name}: {error.diag.constraint_name})"
        raise (wrap or (lambda what: StoreUnreadable(url, what)))(what) from None
    except UnicodeError:
        raise StoreDamaged(url, "holds text that is not UTF-8") from None
