"""Who has which device in PostgreSQL: the statements that take, keep, settle and give back.

All times are the database's: a worker's clock may be wrong, or have stood still with the worker.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple
from uuid import UUID

from ratchetkeep.errors import (
    OwnershipLost,
    RatchetkeepError,
    StoreDamaged,
    StoreInUse,
    UnsupportedVersion,
)
from ratchetkeep.sealing.cipher import PLAIN, Cipher, State

from ._postgres_driver import Connection, who
from ._postgres_keys import COLUMNS, RING_IS, Entry, Keys

__all__ = [
    "Held",
    "Settled",
    "commits_of_epoch",
    "forget_owner",
    "give_back",
    "held_of",
    "holder",
    "look",
    "owned",
    "renew",
    "settle",
    "take",
]

# Takeovers of a device that are remembered: who had it, and how far each came.
REMEMBERED = 16

# An owner without devices that ended without a word is forgotten after so long.
_FORGOTTEN = "interval '1 day'"

ALIVE = "o.until > now()"
# Microseconds since 1970: a device that is removed and made again has no epoch that it had before,
# so nobody who had the old one can write to the new one.
FIRST_EPOCH = "(extract(epoch FROM now()) * 1000000)::bigint"
_LOOK = (
    f"SELECT d.id, d.epoch, d.owner, d.commits, coalesce({ALIVE}, false), o.name "
    "FROM ratchetkeep.devices AS d LEFT JOIN ratchetkeep.owners AS o ON o.id = d.owner "
    "WHERE d.id = ANY(%s)"
)
# Not if the ring is another one by now: the device is sealed with a key of it, or is not.
_MAKE = (
    "WITH made AS (INSERT INTO ratchetkeep.devices "
    "(id, name, created, epoch, owner, commits, lineage, generation, state) "
    f"SELECT %(id)b::uuid, %(name)t::text, now(), {FIRST_EPOCH}, %(owner)b::uuid, 0, "
    "%(lineage)b::uuid, %(generation)b::integer, %(state)b::bytea "
    f"WHERE {RING_IS} %(ring)b::bytea ON CONFLICT (id) DO NOTHING RETURNING id, epoch) "
    "INSERT INTO ratchetkeep.takeovers (device, epoch, owner, name, at, commits) "
    "SELECT id, epoch, %(owner)b, %(who)t, now(), 0 FROM made RETURNING epoch"
)
# Only if nobody was faster: then the epoch is another one.
_TAKE = (
    "WITH taken AS (UPDATE ratchetkeep.devices AS d SET epoch = epoch + 1, owner = %(owner)b "
    "WHERE d.id = %(id)b AND d.epoch = %(epoch)b AND d.owner IS NOT DISTINCT FROM %(before)b::uuid "
    f"RETURNING d.epoch, {COLUMNS}), "
    "noted AS (INSERT INTO ratchetkeep.takeovers (device, epoch, owner, name, at, commits) "
    "SELECT id, epoch, %(owner)b, %(who)t, now(), commits FROM taken) "
    "SELECT * FROM taken"
)
_RENEW = (
    "WITH kept AS (INSERT INTO ratchetkeep.owners (id, name, held, capacity, until) "
    "VALUES (%(owner)s, %(name)s, %(held)s, %(capacity)s::integer, "
    "now() + %(lease)s * interval '1 second') "
    "ON CONFLICT (id) DO UPDATE SET until = excluded.until, held = excluded.held, "
    "capacity = excluded.capacity) "
    "SELECT count(*) FROM ratchetkeep.devices WHERE owner = %(owner)s"
)
_OWNED = "SELECT id, epoch FROM ratchetkeep.devices WHERE owner = %s"
_SETTLE = (
    "UPDATE ratchetkeep.devices SET epoch = epoch + 1 WHERE id = ANY(%s) AND owner = %s "
    "RETURNING id, epoch, commits, state"
)
_END = (
    "SELECT commits FROM ratchetkeep.takeovers WHERE device = %(id)s AND epoch > %(epoch)s "
    # Or those in between are forgotten, and the oldest that is left tells of another owner's end.
    "AND EXISTS (SELECT 1 FROM ratchetkeep.takeovers "
    "WHERE device = %(id)s AND epoch <= %(epoch)s) ORDER BY epoch LIMIT 1"
)
# One that was made and never committed anything leaves no trace. The epoch: what comes late must
# not take the device from whoever has it by then, even in the same process.
_GIVE_BACK = (
    "WITH unmade AS (DELETE FROM ratchetkeep.devices "
    "WHERE id = %(id)s AND owner = %(owner)s AND epoch = %(epoch)s AND commits = 0 RETURNING id), "
    "free AS (UPDATE ratchetkeep.devices SET owner = NULL WHERE id = %(id)s "
    "AND owner = %(owner)s AND epoch = %(epoch)s AND commits > 0 RETURNING id, epoch) "
    "DELETE FROM ratchetkeep.takeovers AS t WHERE t.device = %(id)s "
    "AND (t.device IN (SELECT id FROM unmade) "
    "OR t.epoch <= (SELECT epoch FROM free) - %(remembered)s)"
)
_FREE_ALL = "UPDATE ratchetkeep.devices SET owner = NULL WHERE owner = %s AND commits > 0"
_FORGET = (
    "DELETE FROM ratchetkeep.owners AS o WHERE (o.id = %s OR "
    f"o.until < now() - {_FORGOTTEN}) "
    "AND NOT EXISTS (SELECT 1 FROM ratchetkeep.devices AS d WHERE d.owner = o.id)"
)


@dataclass(slots=True, eq=False)
class Held:
    """A device that this process has.

    :ivar epoch: the one that its commits name.
    :ivar commits: how many it has.
    :ivar history: the id of its history.
    :ivar cipher: how its rows are spelled.
    :ivar state: what it holds after those commits, if it is sealed.
    :ivar damage: why it cannot be used, if so; told to whoever opens it.
    :ivar lost: called when it is found lost.
    :ivar failed: why it takes no more commits, if so.
    :ivar ended: why the process has it no more, if so.
    :ivar number: no other one of this process has or had it.
    """

    name: str
    id: UUID
    epoch: int
    commits: int
    history: str = ""
    cipher: Cipher = PLAIN
    state: State = field(default_factory=State)
    damage: RatchetkeepError | None = None
    lost: Callable[[OwnershipLost], None] | None = None
    failed: str = ""
    ended: str = ""
    number: int = field(default_factory=count().__next__)


class Found(NamedTuple):
    """Which device of a name there is, and who has it.

    :ivar holder: the owner in words.
    """

    id: UUID
    epoch: int
    owner: UUID | None
    commits: int
    is_alive: bool
    holder: str | None


class Settled(NamedTuple):
    """A device as it is once nothing of it is under way."""

    epoch: int
    commits: int
    state: bytes | None


def held_of(connection: Connection, keys: Keys, epoch: int, entry: Entry) -> Held:
    """A device that the database says is ours since that epoch. What is the matter with its row, if
    something is, is noted in it."""
    if not keys.is_known(entry):
        keys.renew(connection)
    try:
        known = keys.known(entry)
    except (StoreDamaged, UnsupportedVersion) as error:
        try:
            name = keys.name_of(entry.generation, entry.name)
        except StoreDamaged:
            name = keys.nameless(entry)
        return Held(name, entry.id, epoch, entry.commits, damage=error)
    return Held(known.name, entry.id, epoch, entry.commits, *known[1:])


def look(connection: Connection, ids: Collection[UUID]) -> Found | None:
    """Which device has one of these ids."""
    row = connection.execute(_LOOK, (list(ids),), binary=True).fetchone()
    return None if row is None else Found(*row)


def take(
    connection: Connection, keys: Keys, owner: UUID, name: str, *, create: bool, steal: bool
) -> Held | None:
    """Have a device from now on; None if there is none, or none could be made with these keys. May
    be done again, if the answer was lost.

    :raises StoreInUse: if it has a living owner, unless ``steal``.
    """
    while True:
        found = look(connection, keys.ids_of(name))
        if found is None or (found.commits == 0 and not create):
            return _made(connection, keys, owner, name) if create else None
        if found.is_alive and found.owner != owner and not steal:
            what = f"device {name!r} is in use by {found.holder}"
            raise StoreInUse(keys.url, what, holder=found.holder or "")
        values = {
            "owner": owner,
            "id": found.id,
            "epoch": found.epoch,
            "before": found.owner,
            "who": who(),
        }
        taken = connection.execute(_TAKE, values, binary=True).fetchone()
        if taken:
            return held_of(connection, keys, taken[0], Entry(*taken[1:]))


def _made(connection: Connection, keys: Keys, owner: UUID, name: str) -> Held | None:
    """A device that was not there; None if it is, or the keys are others by now."""
    ring, new = keys.ring, keys.new(name)
    values = {**new.entry._asdict(), "owner": owner, "who": who(), "ring": ring}
    row = connection.execute(_MAKE, values).fetchone()
    return None if row is None else Held(name, new.entry.id, row[0], 0, *new.known[1:])


def renew(
    connection: Connection, owner: UUID, lease: float, held: int, capacity: int | None
) -> int:
    """Have the lease run from now on, for ``lease`` seconds; how many devices the owner has."""
    values = {"owner": owner, "name": who(), "held": held, "capacity": capacity, "lease": lease}
    (count,) = connection.execute(_RENEW, values, prepare=True).fetchone() or (0,)
    return int(count)


def owned(connection: Connection, owner: UUID) -> dict[UUID, int]:
    """The devices of an owner, with their epochs."""
    found = connection.execute(_OWNED, (owner,), binary=True)
    return {id: int(epoch) for id, epoch in found}


def settle(connection: Connection, owner: UUID, ids: Sequence[UUID]) -> dict[UUID, Settled]:
    """Raise the epochs of devices: what was sent before changes nothing from now on, and what is
    still under way is waited for. Gives those that are the owner's."""
    rows = connection.execute(_SETTLE, (list(ids), owner), binary=True)
    return {id: Settled(*values) for id, *values in rows}


def commits_of_epoch(connection: Connection, id: UUID, epoch: int) -> int | None:
    """How many commits a device had when another owner took it over after ``epoch``; None if nobody
    knows."""
    row = connection.execute(_END, {"id": id, "epoch": epoch}, binary=True).fetchone()
    return None if row is None else int(row[0])


def give_back(connection: Connection, id: UUID, owner: UUID, epoch: int) -> None:
    """Let others have a device that was the owner's in ``epoch``."""
    values = {"id": id, "owner": owner, "epoch": epoch, "remembered": REMEMBERED}
    connection.execute(_GIVE_BACK, values)


def forget_owner(connection: Connection, owner: UUID) -> None:
    """Remove an owner who ends, and those that were left behind. What it still has, since it was
    given back and nobody listened, is free."""
    connection.execute(_FREE_ALL, (owner,))
    connection.execute(_FORGET, (owner,))


def holder(connection: Connection, keys: Keys, name: str) -> str:
    """Who has a device, in words; "" if nobody has."""
    found = keys.anew(connection, lambda: look(connection, keys.ids_of(name)))
    return str(found.holder) if found is not None and found.is_alive else ""
