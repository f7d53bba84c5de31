"""All devices of a PostgreSQL database on their way to another data key, or to none.

Each device goes in one transaction, which raises its epoch: an owner whose lease has run out can
write nothing afterwards. Devices with a living owner are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from ratchetkeep.errors import CommitFailed, NoDevice, StoreDamaged, StoreInUse
from ratchetkeep.model import Key
from ratchetkeep.sealing.cipher import Cipher, Sealed, State
from ratchetkeep.sealing.keys import Secret
from ratchetkeep.sealing.ring import Vault

from . import _postgres_devices as table
from . import _postgres_rows as rows
from ._postgres_driver import Connection, mapped, who
from ._postgres_keys import COLUMNS, LOCK, Entry, Known, read_ring
from ._postgres_leases import ALIVE
from ._postgres_link import SCHEMA, open_one
from ._postgres_sealing import key_of, opened

if TYPE_CHECKING:
    from ._postgres_hub import Hub

__all__ = ["PostgresResealing"]

_PUT_RING = (
    "INSERT INTO ratchetkeep.ring (id, data) VALUES (1, %s) "
    "ON CONFLICT (id) DO UPDATE SET data = excluded.data"
)
_DROP_RING = "DELETE FROM ratchetkeep.ring"
_LEFT = "SELECT name, generation FROM ratchetkeep.devices WHERE generation <> ALL(%s) LIMIT 1"
_FIND = (
    f"SELECT coalesce({ALIVE}, false), o.name, d.moved_to, {COLUMNS} "
    "FROM ratchetkeep.devices AS d LEFT JOIN ratchetkeep.owners AS o ON o.id = d.owner "
    "WHERE d.id = ANY(%s) FOR UPDATE OF d"
)
_ENTRY = (
    "UPDATE ratchetkeep.devices SET id = %(id)s, name = %(name)s, generation = %(generation)s, "
    "state = %(state)s, moved_to = %(to)s, epoch = epoch + 1, owner = NULL "
    "WHERE id = %(before)s RETURNING epoch, commits"
)
_RENAME = "UPDATE ratchetkeep.takeovers SET device = %s WHERE device = %s"
_NOTE = (
    "INSERT INTO ratchetkeep.takeovers (device, epoch, owner, name, at, commits) "
    "VALUES (%s, %s, %s, %s, now(), %s)"
)
_CLEAR = "DELETE FROM ratchetkeep.records WHERE device = %s"
# Rows that were deleted and replaced stay in the tables' files until these are written anew.
_COMPACT = tuple(
    f"VACUUM (FULL) ratchetkeep.{name}" for name in ("records", "devices", "takeovers", "ring")
)


class PostgresResealing:
    """See :class:`ratchetkeep.stores.base.Resealing`."""

    def __init__(self, hub: Hub, conninfo: str) -> None:
        self._hub, self._keys = hub, hub.keys
        self._conninfo, self._url = conninfo, hub.url

    @property
    def vault(self) -> Vault:
        return self._keys.vault

    def put_ring(self, vault: Vault, secret: Secret | None) -> None:
        ring = None if secret is None else vault.wrapped(secret)
        with self._connection() as connection, connection.transaction():
            # Whoever makes a device has done so, or will see the new ring.
            connection.execute(LOCK)
            if read_ring(connection) != self._keys.ring:
                what = "another program changes its keys at the same time"
                raise StoreInUse(self._url, what, "Run the same command again")
            found = connection.execute(_LEFT, (vault.generations,)).fetchone()
            if found is not None:
                name = self._keys.name_of(found[1], found[0])
                what = f"device {name!r} is not sealed with the keys that are to stay"
                raise StoreInUse(self._url, what, "Run the same command again")
            if ring is None:
                connection.execute(_DROP_RING)
            else:
                connection.execute(_PUT_RING, (ring,))
        self._keys.replace(ring, vault)

    def devices(self) -> dict[str, int]:
        with self._connection() as connection:
            return table.generations(connection, self._keys)

    def reseal(self, device: str, generation: int) -> int:
        with self._connection() as connection, connection.transaction():
            row = connection.execute(_FIND, (list(self._keys.ids_of(device)),)).fetchone()
            if row is None:
                raise NoDevice(self._url, f"holds no device {device!r} any more")
            is_alive, holder, to, *columns = row
            if is_alive:
                what = f"device {device!r} is in use by {holder}"
                raise StoreInUse(self._url, what, holder=holder)
            before = Entry(*columns)
            known = self._keys.known(before)
            if before.generation == generation:  # the same command, run beside this one, did it
                return rows.count(connection, before.id, None) or 0
            cipher = self.vault.cipher(generation, device, known.history)
            name = self.vault.seal_name(generation, device)
            id = rows.id_of(name)
            state = self._spell_again(connection, before.id, known, id, cipher)
            if to is not None:
                to = cipher.seal_text(table.place_of(self._keys, before, to))
            values = {
                "id": id,
                "name": name,
                "generation": generation,
                "state": cipher.seal_state(state) if isinstance(cipher, Sealed) else None,
                "to": to,
                "before": before.id,
            }
            connection.execute(_RENAME, (id, before.id))
            epoch, commits = connection.execute(_ENTRY, values).fetchone() or (0, 0)
            connection.execute(_NOTE, (id, epoch, uuid4(), who(), commits))
        return state.rows

    def _spell_again(
        self, connection: Connection, before: UUID, known: Known, id: UUID, cipher: Cipher
    ) -> State:
        """Write every record as another cipher spells it; the state that they have then."""
        old = new = State(commits=known.state.commits)
        place = f"{self._url} (device {known.name!r})"
        for portion in self._portions(connection, before):
            changes = {}
            for row, data in portion:
                if isinstance(known.cipher, Sealed):
                    old = old.after((), [known.cipher.hash_of(*row, data)])
                key = key_of(known.cipher, row, place)
                record = opened(known.cipher, key, data, f"{place} ({key})")
                spelled = Key(key.family, cipher.row_id(key))
                changes[spelled] = sealed = cipher.seal(key, record)
                hash = cipher.hash_of(*spelled, sealed) if isinstance(cipher, Sealed) else 0
                new = new.after((), [hash])
            rows.put(connection, id, changes)
        if isinstance(known.cipher, Sealed) and old != known.state:
            raise StoreDamaged(place, "its records are not those of its last commit")
        connection.execute(_CLEAR, (before,))
        return new

    @staticmethod
    def _portions(connection: Connection, id: UUID) -> Iterator[list[tuple[Key, bytes]]]:
        last = Key("", "")
        while portion := rows.read_after(connection, id, None, last):
            yield portion
            last = portion[-1][0]

    def compact(self) -> None:
        told: list[str | None] = []
        with self._connection() as connection:
            # Tables that this user may not write anew are passed over, with a warning.
            connection.add_notice_handler(lambda notice: told.append(notice.severity_nonlocalized))
            for statement in _COMPACT:
                connection.execute(statement.encode())
        if "WARNING" in told:
            what = (
                "everything is spelled anew, but the old rows are still in the tables' free space"
            )
            remedy = "Run the same command again as the owner of the tables"
            raise CommitFailed(self._url, what, remedy)

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        """A connection of its own: what it does takes long."""
        connection = open_one(self._conninfo, self._url)
        try:
            with mapped(self._url, partial(CommitFailed, self._url), schema=SCHEMA):
                yield connection
        finally:
            connection.close()
