"""Who has which device in PostgreSQL: the statements that take, keep, settle and give back.

All times are the database's: a worker's clock may be wrong, or have stood still with the worker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from ratchetkeep.errors import NoDevice, OwnershipLost, StoreInUse

from . import _postgres_rows as rows
from ._postgres_driver import Connection, who

__all__ = [
    "Held",
    "commits_of_epoch",
    "forget_owner",
    "give_back",
    "holder",
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
    f"SELECT d.epoch, d.owner, d.commits, coalesce({ALIVE}, false), o.name "
    "FROM ratchetkeep.devices AS d LEFT JOIN ratchetkeep.owners AS o ON o.id = d.owner "
    "WHERE d.id = %s"
)
_MAKE = (
    "WITH made AS (INSERT INTO ratchetkeep.devices (id, name, created, epoch, owner, commits) "
    f"VALUES (%s, %s, now(), {FIRST_EPOCH}, %s, 0) "
    "ON CONFLICT (id) DO NOTHING RETURNING id, epoch) "
    "INSERT INTO ratchetkeep.takeovers (device, epoch, owner, name, at, commits) "
    "SELECT id, epoch, %s, %s, now(), 0 FROM made RETURNING epoch"
)
# Only if nobody was faster: then the epoch is another one.
_TAKE = (
    "WITH taken AS (UPDATE ratchetkeep.devices SET epoch = epoch + 1, owner = %s "
    "WHERE id = %s AND epoch = %s AND owner IS NOT DISTINCT FROM %s "
    "RETURNING id, epoch, commits) "
    "INSERT INTO ratchetkeep.takeovers (device, epoch, owner, name, at, commits) "
    "SELECT id, epoch, %s, %s, now(), commits FROM taken RETURNING epoch, commits"
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
    "RETURNING id, epoch, commits"
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
    :ivar lost: called when it is found lost.
    :ivar failed: why it takes no more commits, if so.
    :ivar ended: why the process has it no more, if so.
    """

    name: str
    id: UUID
    epoch: int
    commits: int
    lost: Callable[[OwnershipLost], None] | None = None
    failed: str = ""
    ended: str = ""


def take(
    connection: Connection, url: str, owner: UUID, name: str, *, create: bool, steal: bool
) -> Held:
    """Have a device from now on. May be done again, if the answer was lost.

    :raises NoDevice: if there is none, unless ``create``.
    :raises StoreInUse: if it has a living owner, unless ``steal``.
    """
    id = rows.id_of(name)
    while True:
        row = connection.execute(_LOOK, (id,), binary=True).fetchone()
        if not create and (row is None or row[2] == 0):
            raise NoDevice(url, f"holds no device {name!r}")
        if row is None:
            made = connection.execute(_MAKE, (id, name, owner, owner, who())).fetchone()
            if made:
                return Held(name, id, made[0], 0)
            continue  # another process made it meanwhile
        epoch, before, _, is_alive, holder = row
        if is_alive and before != owner and not steal:
            raise StoreInUse(url, f"device {name!r} is in use by {holder}", holder=holder)
        values = (owner, id, epoch, before, owner, who())
        taken = connection.execute(_TAKE, values, binary=True).fetchone()
        if taken:
            return Held(name, id, *taken)


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


def settle(connection: Connection, owner: UUID, ids: Sequence[UUID]) -> dict[UUID, tuple[int, int]]:
    """Raise the epochs of devices: what was sent before changes nothing from now on, and what is
    still under way is waited for. Gives epoch and commits of those that are the owner's."""
    rows = connection.execute(_SETTLE, (list(ids), owner), binary=True)
    return {id: (epoch, commits) for id, epoch, commits in rows}


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


def holder(connection: Connection, name: str) -> str:
    """Who has a device, in words; "" if nobody has."""
    row = connection.execute(_LOOK, (rows.id_of(name),), binary=True).fetchone()
    return str(row[4]) if row is not None and row[3] else ""
