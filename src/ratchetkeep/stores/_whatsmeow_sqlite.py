"""whatsmeow's tables in an SQLite file: how it is found, opened and made.

The file is another library's: its journal mode stays as it is. ``synchronous`` is EXTRA, which in
a file without a write-ahead log also syncs the folder when the journal goes, so that no power cut
brings back a commit's undo log.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import apsw

from ratchetkeep.errors import CommitFailed, StoreDamaged, StoreInUse, StoreUnreadable, UnknownStore

from . import _sqlite_file as sql
from ._whatsmeow_schema import statements
from ._whatsmeow_sql import Database, Row, Wrap
from .disk import Disk

if TYPE_CHECKING:
    from collections.abc import Iterator

# No value of a client comes near; a damaged or hostile file could claim two gigabytes.
MAX_VALUE = 64 * 2**20

_SETTINGS = (
    "PRAGMA foreign_keys = ON; PRAGMA synchronous = EXTRA; PRAGMA fullfsync = ON;"
    "PRAGMA checkpoint_fullfsync = ON; PRAGMA cell_size_check = ON;"
    "PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY"
)


class SqliteDatabase(Database):
    """A connection to an SQLite file.

    :param read_only: see one moment of the file, from now on. Without a write-ahead log, a reader
        that holds on to a moment keeps writers out, and a client whose writes fail loses messages;
        so it does not, and is told (StoreInUse) as soon as there is another moment.
    :raises StoreDamaged: if it cannot be read.
    """

    def __init__(self, path: str, url: str, *, read_only: bool = False) -> None:
        self.url = url
        self.columns = {}
        # The moment that a reader sees, where no transaction holds it.
        self._moment: int | None = None
        with self.mapped():
            self._connection = sql.connect_foreign(path, read_only=read_only)
        try:
            with self.mapped():
                self._connection.limit(apsw.SQLITE_LIMIT_LENGTH, MAX_VALUE)
                if not read_only:
                    self._set()
                elif not self._connection.in_transaction:
                    self._moment = self._connection.pragma("data_version")
        except BaseException:
            self.close()
            raise

    def _set(self) -> None:
        if self._connection.readonly("main"):
            remedy = "Make it writable, or open it with read_only=True"
            raise StoreUnreadable(self.url, "cannot be written: the file is read-only", remedy)
        self._connection.execute(_SETTINGS).fetchall()

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        found = self._connection.execute(statement, values).fetchall()
        if self._moment is not None and self._connection.pragma("data_version") != self._moment:
            what = "was changed by another program while it was read"
            raise StoreInUse(self.url, what, "Stop that program, then try again")
        return found

    def run_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        self._connection.executemany(statement, rows)

    def begin(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self._connection.execute("COMMIT")

    def rollback(self) -> None:
        if self._connection.in_transaction:
            with suppress(apsw.Error):
                self._connection.execute("ROLLBACK")

    def close(self) -> None:
        sql.disconnect(self._connection)

    def mapped(self, wrap: Wrap | None = None) -> AbstractContextManager[None]:
        return _mapped(self.url, wrap)

    def shown(self, column: str, type: str) -> str:
        return column

    def problems(self) -> list[tuple[str, str]]:
        with self.mapped():
            found = [str(row[0]) for row in self.rows("PRAGMA integrity_check(20)")]
            orphans = Counter(str(row[0]) for row in self.rows("PRAGMA foreign_key_check"))
        problems = [("error", problem) for problem in found if problem != "ok"]
        # Left by programs that do not switch foreign keys on; nobody reads them.
        for table, count in sorted(orphans.items()):
            problems.append(("warning", f"{count} rows of {table} belong to nothing that is there"))
        return problems

    def _read_columns(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        rows = self.rows(
            "SELECT m.name, c.name, lower(c.type) FROM sqlite_schema AS m, "
            "pragma_table_info(m.name) AS c WHERE m.type = 'table' AND m.name GLOB 'whatsmeow_*'"
        )
        for table, column, type in rows:
            found.setdefault(table, {})[column] = type
        return found


# What SQLite says of a statement that the schema does not fit.
_NO_SCHEMA = re.compile("no such (table|column)|has no column|ON CONFLICT clause does not match")


@contextmanager
def _mapped(url: str, wrap: Wrap | None) -> Iterator[None]:
    with sql.mapped(url, wrap):
        try:
            yield
        except apsw.TooBigError:
            raise StoreDamaged(url, "holds a value of more than 64 MiB") from None
        except apsw.BusyError:
            what = "another program has had the file locked for a while"
            remedy = "Nothing was changed. Stop that program, then try again"
            raise StoreInUse(url, what, remedy) from None
        except apsw.SQLError as error:
            if not _NO_SCHEMA.search(str(error)):
                raise
            raise StoreDamaged(url, f"is not whatsmeow's schema: {error}") from None
        except UnicodeError:
            raise StoreDamaged(url, "holds text that is not UTF-8") from None


def is_there(path: str, url: str) -> bool:
    """True if the file is a whatsmeow database, False if nothing is there.

    :raises UnknownStore: if something else is.
    """
    found = sql.look(path)
    if found in ("", sql.WHATSMEOW):
        return bool(found)
    what = "a database of ratchetkeep: use sqlite: before the path" if found == "ours" else found
    raise UnknownStore(url, f"is {what}", "Nothing was changed. Check the path")


def fill(path: str) -> None:
    """Give the empty file at ``path`` whatsmeow's schema."""
    with sql.mapped(path, lambda what: CommitFailed(path, what, "Nothing was changed")):
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            with connection:
                for statement in statements():
                    connection.execute(statement)
        finally:
            connection.close()


def make(path: str) -> None:
    """Make an empty whatsmeow database at ``path``, durable, in one step."""
    staged = sql.begin_staging(path, fill)
    try:
        sql.publish(staged, path)
    except OSError as error:
        raise sql.write_failed(path, error) from None
    finally:
        Disk().unlink(staged)
