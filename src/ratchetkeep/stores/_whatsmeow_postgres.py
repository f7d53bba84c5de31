"""whatsmeow's tables in a PostgreSQL database, through psycopg 3 (the extra ``postgres``).

A device that is written is owned by an advisory lock of the session that writes it: the server
drops the lock with the session, so a session that was lost can write nothing more.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any

from ratchetkeep.errors import StoreInUse

from ._postgres_driver import connect, driver, mapped
from ._whatsmeow_schema import statements
from ._whatsmeow_sql import Database, Row, Wrap

_PLAIN = frozenset({"text", "bytea", "bigint", "integer", "smallint", "boolean"})


class PostgresDatabase(Database):
    """A connection to a PostgreSQL database.

    :param conninfo: libpq's URL, with the password.
    :param url: the same for errors, without it.
    :param read_only: see one moment of the database, from now on.
    :raises StoreUnreadable: if the server cannot be reached, or refuses us.
    """

    def __init__(self, conninfo: str, url: str, *, read_only: bool = False) -> None:
        self.url = url
        self.columns = {}
        self._pid = os.getpid()
        self._connection = connect(conninfo, url)
        try:
            with self.mapped():
                if read_only:
                    self.rows("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                else:
                    # A server that is set to answer before the disk does must not, for us.
                    self.rows(
                        "SELECT set_config('synchronous_commit', 'on', false) "
                        "WHERE current_setting('synchronous_commit') = 'off'"
                    )
        except BaseException:
            self.close()
            raise

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        cursor = self._connection.execute(_text(statement), values, binary=True)
        return cursor.fetchall() if cursor.description else []

    def run_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany(_text(statement), rows)

    def begin(self) -> None:
        self.rows("BEGIN")

    def commit(self) -> None:
        cursor = self._connection.execute(b"COMMIT")
        if cursor.statusmessage != "COMMIT":
            raise driver.OperationalError("the server rolled the transaction back")

    def rollback(self) -> None:
        if self._connection.info.transaction_status != driver.pq.TransactionStatus.IDLE:
            with suppress(driver.Error):
                self._connection.execute(b"ROLLBACK")

    def close(self) -> None:
        # A forked child has its parent's connection: to close it would end the parent's session.
        if os.getpid() == self._pid:
            with suppress(driver.Error):
                self._connection.close()

    def mapped(self, wrap: Wrap | None = None) -> AbstractContextManager[None]:
        return mapped(self.url, wrap, schema="whatsmeow's")

    def shown(self, column: str, type: str) -> str:
        return column if type in _PLAIN else f"{column}::text"

    def problems(self) -> list[tuple[str, str]]:
        return []

    def make(self) -> None:
        """Make whatsmeow's tables, in the transaction that is under way."""
        for statement in statements():
            self.rows(statement)

    def _read_columns(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        rows = self.rows(
            "SELECT c.relname::text, a.attname::text, format_type(a.atttypid, NULL) "
            "FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid "
            "WHERE c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid) "
            "AND starts_with(c.relname::text, 'whatsmeow_') "
            "AND a.attnum > 0 AND NOT a.attisdropped"
        )
        for table, column, type in rows:
            found.setdefault(table, {})[column] = type
        return found

    # -- ownership

    def wait_to_make(self) -> None:
        """Let nobody else of ours make the tables until the transaction ends."""
        self.rows("SELECT 1 FROM pg_advisory_xact_lock(?)", (_number(""),))

    def lock(self, name: str) -> None:
        """Take the advisory lock of a name, until the session ends.

        :raises StoreInUse: naming the session that has it.
        """
        with self.mapped():
            if self.rows("SELECT pg_try_advisory_lock(?)", (_number(name),))[0][0] is True:
                return
            holder = self.holder(name)
        what = f"device {name!r} is in use by {holder or 'another process'}"
        raise StoreInUse(self.url, what, holder=holder)

    def holder(self, name: str) -> str:
        """Which session has the advisory lock of a name, in words; "" if none has."""
        number = _number(name) % 2**64
        rows = self.rows(
            "SELECT a.application_name, to_char(a.backend_start AT TIME ZONE 'UTC', "
            '\'YYYY-MM-DD"T"HH24:MI:SS"Z"\') '
            "FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid "
            "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 "
            "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
            "AND l.classid = ?::bigint::oid AND l.objid = ?::bigint::oid",
            (number >> 32, number & (2**32 - 1)),
        )
        if not rows:
            return ""
        name, since = rows[0]
        return f"{name or 'another process'} since {since}" if since else "another process"


# A quoted name or text, or the place of a value.
_QUOTED_OR_PLACE = re.compile(r"""("[^"]*"|'[^']*')|\?""")


def _text(statement: str) -> bytes:
    """The statement in psycopg's spelling; what is quoted stays as it is."""
    whole = statement.replace("%", "%%")
    return _QUOTED_OR_PLACE.sub(lambda found: found[1] or "%s", whole).encode()


def _number(name: str) -> int:
    """The number of a name's advisory lock: 64 bits with a sign."""
    digest = hashlib.blake2b(b"ratchetkeep\0" + name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
