"""A device that is put together in PostgreSQL: one transaction, unseen before its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self
from uuid import uuid4

from ratchetkeep.errors import CommitFailed, DeviceExists, RatchetkeepError, StoreInUse
from ratchetkeep.model import Key
from ratchetkeep.sealing.cipher import Sealed, State

from . import _postgres_rows as rows
from ._postgres_driver import Connection, driver, mapped, who
from ._postgres_keys import Keys, New, read_ring
from ._postgres_leases import ALIVE, FIRST_EPOCH
from ._postgres_link import SCHEMA, open_one
from ._postgres_sealing import opened, spelled

if TYPE_CHECKING:
    from .postgres import PostgresStore

__all__ = ["PostgresStage"]

_LOOK = (
    f"SELECT d.id, d.commits, coalesce({ALIVE}, false), o.name "
    "FROM ratchetkeep.devices AS d LEFT JOIN ratchetkeep.owners AS o ON o.id = d.owner "
    "WHERE d.id = ANY(%s) FOR UPDATE OF d"
)
_CLEAR = "DELETE FROM ratchetkeep.records WHERE device = %s"
# What replaces it may be sealed with another key, and so have another name and id.
_REPLACE = (
    "UPDATE ratchetkeep.devices SET id = %(id)s, name = %(name)s, epoch = epoch + 1, owner = NULL, "
    "moved_to = NULL, moved_at = NULL, commits = commits + 1, committed = now(), "
    "lineage = %(lineage)s, generation = %(generation)s, state = NULL "
    "WHERE id = %(before)s RETURNING epoch, commits"
)
_RENAME = "UPDATE ratchetkeep.takeovers SET device = %s WHERE device = %s"
# Waits for another one that makes the same device.
_MAKE = (
    "INSERT INTO ratchetkeep.devices "
    "(id, name, created, epoch, commits, committed, lineage, generation) "
    f"VALUES (%(id)s, %(name)s, now(), {FIRST_EPOCH}, 1, now(), %(lineage)s, %(generation)s) "
    "ON CONFLICT (id) DO NOTHING RETURNING epoch, commits"
)
_SUM = "UPDATE ratchetkeep.devices SET state = %s WHERE id = %s"
_NOTE = (
    "INSERT INTO ratchetkeep.takeovers (device, epoch, owner, name, at, commits) "
    "VALUES (%s, %s, %s, %s, now(), %s)"
)
_NOTED = "SELECT 1 FROM ratchetkeep.takeovers WHERE device = %s AND owner = %s"


class PostgresStage:
    """A device in one transaction of a connection of its own."""

    def __init__(self, store: PostgresStore, device: str, overwrite: bool) -> None:
        self._store, self._device, self._overwrite = store, device, overwrite
        # Whoever lost the connection finds by it whether the transaction was carried out.
        self._mark = uuid4()
        self._connection: Connection
        self._keys: Keys
        self._new: New
        self._state = State()

    def __enter__(self) -> Self:
        store = self._store
        store.check_vacant(self._device, overwrite=self._overwrite)
        hub = store.hub(make=True, upgrade=True)
        assert hub is not None  # noqa: S101 - the tables were made
        self._keys = hub.keys
        self._connection = open_one(store.conninfo, store.url)
        try:
            with self._mapped():
                while not self._begin():
                    self._connection.execute("ROLLBACK")
                    self._keys.renew(self._connection)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _begin(self) -> bool:
        """Make the place; False if the database has other keys by now."""
        connection, keys = self._connection, self._keys
        ring, new = keys.ring, keys.new(self._device)
        self._new, values = new, new.entry._asdict()
        self._id = new.entry.id
        connection.execute("BEGIN")
        found = connection.execute(_LOOK, (list(keys.ids_of(self._device)),)).fetchone()
        if found is not None:
            before = found[0]
            self._check_free(*found[1:])
            connection.execute(_CLEAR, (before,))
            if before != self._id:
                connection.execute(_RENAME, (self._id, before))
            made = connection.execute(_REPLACE, {**values, "before": before}).fetchone()
        else:
            made = connection.execute(_MAKE, values).fetchone()
        # From here on nobody changes the ring, who would have to wait for us.
        if read_ring(connection) != ring:
            return False
        if made is None:
            raise self._exists("was made by another program meanwhile")
        epoch, commits = made
        self._state = State(commits=commits)
        # How many there were before: the last owner may ask whether its last one is among them.
        connection.execute(_NOTE, (self._id, epoch, self._mark, who(), commits - 1))
        return True

    def _check_free(self, commits: int, is_alive: bool, holder: str) -> None:
        if commits and not self._overwrite:
            raise self._exists(f"holds a device {self._device!r} already")
        if is_alive:
            what = f"device {self._device!r} is in use by {holder}"
            raise StoreInUse(self._store.url, what, holder=holder)

    def _exists(self, what: str) -> DeviceExists:
        return DeviceExists(self._store.url, what)

    def write(self, changes: Mapping[Key, bytes]) -> None:
        cipher = self._new.known.cipher
        sealed = {
            Key(key.family, cipher.row_id(key)): cipher.seal(key, data)
            for key, data in changes.items()
        }
        if isinstance(cipher, Sealed):
            hashes = [cipher.hash_of(*row, data) for row, data in sealed.items()]
            self._state = self._state.after((), hashes)
        with self._mapped():
            rows.put(self._connection, self._id, sealed)

    def read(self, keys: Iterable[Key]) -> dict[Key, bytes]:
        cipher, store = self._new.known.cipher, self._store
        asked = spelled(cipher, keys)
        with self._mapped():
            found = rows.read(self._connection, self._id, None, asked) or {}
        return {
            key: opened(cipher, key, found[row], store.where(self._device, key))
            for row, key in asked.items()
            if row in found
        }

    def publish(self) -> None:
        with self._mapped():
            cipher = self._new.known.cipher
            if isinstance(cipher, Sealed):
                self._connection.execute(_SUM, (cipher.seal_state(self._state), self._id))
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
            connection.execute(_MAKE, self._new.entry._asdict())
            connection.execute(_LOOK, ([self._id],))
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
