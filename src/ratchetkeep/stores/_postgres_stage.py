"""A device that is put together in PostgreSQL: one transaction, unseen before its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self
from uuid import uuid4

from ratchetkeep.errors import CommitFailed, DeviceExists, RatchetkeepError, StoreInUse
from ratchetkeep.model import Key

from . import _postgres_rows as rows
from ._postgres_driver import Connection, driver, mapped, who
from ._postgres_leases import ALIVE, FIRST_EPOCH
from ._postgres_link import SCHEMA, open_one

if TYPE_CHECKING:
    from .postgres import PostgresStore

__all__ = ["PostgresStage"]

_LOOK = (
    f"SELECT d.epoch, d.commits, coalesce({ALIVE}, false), o.name "
    "FROM ratchetkeep.devices AS d LEFT JOIN ratchetkeep.owners AS o ON o.id = d.owner "
    "WHERE d.id = %s FOR UPDATE OF d"
)
_REPLACE = (
    "UPDATE ratchetkeep.devices SET epoch = epoch + 1, owner = NULL, moved_to = NULL, "
    "moved_at = NULL, commits = commits + 1, committed = now() "
    "WHERE id = %s RETURNING epoch, commits"
)
_CLEAR = "DELETE FROM ratchetkeep.records WHERE device = %s"
# Waits for another one that makes the same device.
_MAKE = (
    "INSERT INTO ratchetkeep.devices (id, name, created, epoch, commits, committed) "
    f"VALUES (%s, %s, now(), {FIRST_EPOCH}, 1, now()) "
    "ON CONFLICT (id) DO NOTHING RETURNING epoch, commits"
)
_NOTE = (
    "INSERT INTO ratchetkeep.takeovers (device, epoch, owner, name, at, commits) "
    "VALUES (%s, %s, %s, %s, now(), %s)"
)
_NOTED = "SELECT 1 FROM ratchetkeep.takeovers WHERE device = %s AND owner = %s"


class PostgresStage:
    """A device in one transaction of a connection of its own."""

    def __init__(self, store: PostgresStore, device: str, overwrite: bool) -> None:
        self._store, self._device, self._overwrite = store, device, overwrite
        self._id = rows.id_of(device)
        # Whoever lost the connection finds by it whether the transaction was carried out.
        self._mark = uuid4()
        self._connection: Connection

    def __enter__(self) -> Self:
        store = self._store
        store.check_vacant(self._device, overwrite=self._overwrite)
        store.hub(make=True, upgrade=True)
        self._connection = open_one(store.conninfo, store.url)
        try:
            with self._mapped():
                self._begin()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _begin(self) -> None:
        connection = self._connection
        connection.execute("BEGIN")
        found = connection.execute(_LOOK, (self._id,)).fetchone()
        if found is not None:
            self._check_free(*found[1:])
            made = connection.execute(_REPLACE, (self._id,)).fetchone()
            connection.execute(_CLEAR, (self._id,))
        else:
            made = connection.execute(_MAKE, (self._id, self._device)).fetchone()
        if made is None:
            raise self._exists("was made by another program meanwhile")
        epoch, commits = made
        # How many there were before: the last owner may ask whether its last one is among them.
        connection.execute(_NOTE, (self._id, epoch, self._mark, who(), commits - 1))

    def _check_free(self, commits: int, is_alive: bool, holder: str) -> None:
        if commits and not self._overwrite:
            raise self._exists(f"holds a device {self._device!r} already")
        if is_alive:
            what = f"device {self._device!r} is in use by {holder}"
            raise StoreInUse(self._store.url, what, holder=holder)

    def _exists(self, what: str) -> DeviceExists:
        return DeviceExists(self._store.url, what)

    def write(self, changes: Mapping[Key, bytes]) -> None:
        with self._mapped():
            rows.put(self._connection, self._id, changes)

    def read(self, keys: Iterable[Key]) -> dict[Key, bytes]:
        with self._mapped():
            return rows.read(self._connection, self._id, None, keys) or {}

    def publish(self) -> None:
        with self._mapped():
            try:
                cursor = self._connection.execute("COMMIT")
            except (driver.OperationalError, driver.InterfaceError):
                if not self._was_published():
                    raise
                return
            if cursor.statusmessage != "COMMIT":
                raise driver.OperationalError("the server rolled the transaction back")

    def _was_published(self) -> bool:
        """After the connection was lost: whether the transaction was carried out.

        :raises CommitFailed: if that cannot be found out.
        """
        hub = self._store.hub()
        assert hub is not None  # noqa: S101 - the tables were made
        for _ in hub.tries(hub.lease):
            with suppress(driver.Error, RatchetkeepError):
                return self._is_noted()
        what = "the connection was lost at the end of a copy, and nobody knows whether it is there"
        raise CommitFailed(self._store.url, what, "Look with `ratchetkeep devices`")

    def _is_noted(self) -> bool:
        connection = open_one(self._store.conninfo, self._store.url)
        try:
            # Waits for the other transaction, if it is still under way.
            connection.execute("BEGIN")
            connection.execute(_MAKE, (self._id, self._device))
            connection.execute(_LOOK, (self._id,))
            return connection.execute(_NOTED, (self._id, self._mark)).fetchone() is not None
        finally:
            connection.close()

    def _mapped(self) -> AbstractContextManager[None]:
        url = self._store.url
        return mapped(
            url, lambda what: CommitFailed(url, what, "Nothing was changed"), schema=SCHEMA
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(driver.Error):
            self._connection.close()  # drops what was not published
