"""What the whatsmeow store asks of a database; SQLite and PostgreSQL do it alike.

Statements are the same text for both, with ``?`` for values. A database is used by one thread at a
time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from ratchetkeep.errors import RatchetkeepError, StoreDamaged, UnsupportedVersion

from ._whatsmeow_schema import COMPATIBLE, DEVICE_TABLE, LATEST, OLDEST, TABLES, VERSION_TABLE

Row = tuple[Any, ...]
Wrap = Callable[[str], RatchetkeepError]

# A table that belongs to a device names it in one of these columns.
OWNERS = ("our_jid", "jid")
_PREFIX = "whatsmeow_"
_OLD = (
    "Open it once with a current whatsmeow (neonize, say), which upgrades it by itself; "
    "nothing was changed"
)


class Database(ABC):
    """A connection to a database.

    :ivar url: the database's name in errors; it holds no password.
    :ivar columns: by table, the columns that the database has, with their types in lower case.
    """

    url: str
    columns: Mapping[str, Mapping[str, str]]

    @abstractmethod
    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        """Carry out a statement, and give its rows."""

    @abstractmethod
    def run_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Carry out a statement once for each of ``rows``."""

    @abstractmethod
    def begin(self) -> None:
        """Begin a transaction that writes. Driver's errors are the caller's to map."""

    @abstractmethod
    def commit(self) -> None:
        """Make the transaction durable."""

    @abstractmethod
    def rollback(self) -> None:
        """Drop the transaction, if there is one; raises nothing of the driver's."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection; raises nothing of the driver's."""

    @abstractmethod
    def mapped(self, wrap: Wrap | None = None) -> AbstractContextManager[None]:
        """Turn the driver's errors into ours: damage stays damage, ``wrap`` makes the rest."""

    @abstractmethod
    def shown(self, column: str, type: str) -> str:
        """The expression that gives a column of ``type`` (lower case) as number, text or bytes."""

    @abstractmethod
    def problems(self) -> list[tuple[str, str]]:
        """What the database's own check finds: the severity, and what it is in words."""

    @abstractmethod
    def _read_columns(self) -> dict[str, dict[str, str]]:
        """The columns of all tables whose names begin as whatsmeow's."""

    def look(self) -> bool:
        """Read the schema; False if there is none of whatsmeow's.

        :raises StoreDamaged: if it is not what its version must have.
        :raises UnsupportedVersion: if we cannot read or write it.
        """
        with self.mapped():
            self.columns = self._read_columns()
            if DEVICE_TABLE not in self.columns and VERSION_TABLE not in self.columns:
                return False
            self._check(*self._version())
        return True

    def _version(self) -> tuple[int, int]:
        """The version, and the oldest one that it is compatible with."""
        known = self.columns.get(VERSION_TABLE, {})
        compatible = "compat" if "compat" in known else "version"
        rows: list[Row] = []
        if "version" in known:
            rows = self.rows(f"SELECT version, {compatible} FROM {VERSION_TABLE}")
        numbers = [value for row in rows for value in row if value is not None]
        if len(rows) != 1 or not numbers or any(type(value) is not int for value in numbers):
            raise StoreDamaged(f"{self.url} ({VERSION_TABLE})", "does not say one version")
        return numbers[0], numbers[-1]

    def _check(self, version: int, compatible: int) -> None:
        if version < OLDEST:
            what = f"has whatsmeow's schema version {version}; {OLDEST} is the oldest that we read"
            raise UnsupportedVersion(self.url, what, _OLD)
        if version > LATEST and compatible > LATEST:
            what = (
                f"has whatsmeow's schema version {version}, which needs {compatible}; "
                f"we know those up to {LATEST}"
            )
            raise UnsupportedVersion(self.url, what)
        for table in TABLES:
            # What came after the version that all are compatible with may be missing or be there.
            known = self.columns.get(table.name)
            if known is None and table.since <= COMPATIBLE:
                raise StoreDamaged(f"{self.url} ({table.name})", "is missing from the schema")
            missing = {each.name for each in table.columns if each.since <= COMPATIBLE}
            missing -= set(known or missing)
            if missing:
                raise StoreDamaged(f"{self.url} ({table.name})", f"lacks {sorted(missing)}")

    def owned_tables(self) -> dict[str, str]:
        """All tables with rows of devices and the column that names the device; those whose rows
        others lead to come last."""
        found = {}
        for table, known in self.columns.items():
            owner = next((each for each in OWNERS if each in known), None)
            if table.startswith(_PREFIX) and table != DEVICE_TABLE and owner:
                found[table] = owner
        return dict(sorted(found.items(), key=lambda item: item[0].endswith("_app_state_version")))


def quoted(name: str) -> str:
    """A name as SQL writes it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def places(count: int) -> str:
    """Places for ``count`` values."""
    return "(" + ", ".join("?" * count) + ")"


def places_for(rows: Iterable[Sequence[Any]]) -> tuple[str, list[Any]]:
    """What stands after IN for these values or tuples of values, and the values in order."""
    listed = list(rows)
    values = [value for row in listed for value in row]
    if len(listed[0]) == 1:
        return places(len(listed)), values
    return f"(VALUES {', '.join([places(len(listed[0]))] * len(listed))})", values
