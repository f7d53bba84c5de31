"""Claims of a fleet in PostgreSQL: which devices are free, who else works, taking and giving back
many devices at once.

A device is free if it has no owner, or one whose lease has run out. Ids are hashes of names, so a
claim begins at a random one and wraps round: workers that start together choose different devices.
Two that choose the same one are told apart by the epoch, as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from uuid import UUID, uuid4

from ratchetkeep.errors import InvalidValue, RatchetkeepError

from . import _postgres_rows as rows
from ._postgres_driver import Connection, driver, mapped, who
from ._postgres_leases import ALIVE, REMEMBERED, Held
from ._postgres_link import SCHEMA

if TYPE_CHECKING:
    from ._postgres_hub import Hub

__all__ = ["Claims", "Survey", "Worker", "claim", "give_back", "survey"]

T = TypeVar("T")

# So long is the fleet's leaving told to a database that does not answer, in seconds.
_PATIENCE = 1.0

# The order is that of an index, owner before id, and nothing else has it: statistics that are old
# (all devices were free when they were made) would make the planner read the whole table. That is
# also why owners are compared as rows, not with "=".
_PAGE = (
    "SELECT d.id, d.epoch FROM ratchetkeep.devices AS d WHERE {}"
    "AND d.commits > 0 AND d.moved_to IS NULL AND d.id <> ALL(%(exclude)b::uuid[]) "
    "ORDER BY d.owner, d.id LIMIT %(limit)b"
)
_UNOWNED = _PAGE.format("d.owner IS NULL AND d.id >= r.low AND d.id <= r.high ")
_LEFT = _PAGE.format("(d.owner, d.id) >= (g.id, r.low) AND (d.owner, d.id) <= (g.id, r.high) ")
# Our own lease may have run out too: what we have open is not free.
_FREE = (
    "WITH gone AS MATERIALIZED (SELECT id FROM ratchetkeep.owners "
    "WHERE until < clock_timestamp() AND id <> %(owner)b), "
    "ranges (low, high) AS (VALUES "
    "(%(start)b::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid), "
    "('00000000-0000-0000-0000-000000000000'::uuid, %(start)b::uuid)), "
    f"free AS (SELECT f.* FROM ranges AS r CROSS JOIN LATERAL ({_UNOWNED}) AS f UNION ALL "
    f"SELECT f.* FROM ranges AS r CROSS JOIN gone AS g CROSS JOIN LATERAL ({_LEFT}) AS f), "
    "page AS MATERIALIZED (SELECT id, epoch FROM free LIMIT %(limit)b)"
)
# A row that another transaction has locked (a copy that replaces the device, say) is not waited
# for. That alone does not keep two workers apart: what was locked and let go since our snapshot
# passes, and only its epoch tells that it was taken.
_CLAIM = (
    f"{_FREE}, chosen AS MATERIALIZED (SELECT d.id, d.epoch FROM page AS p "
    "JOIN ratchetkeep.devices AS d ON d.id = p.id AND d.epoch = p.epoch "
    "FOR UPDATE OF d SKIP LOCKED), "
    "taken AS (UPDATE ratchetkeep.devices AS d SET epoch = d.epoch + 1, owner = %(owner)b "
    "FROM chosen AS c WHERE d.id = c.id AND d.epoch = c.epoch "
    "RETURNING d.id, d.name, d.epoch, d.commits), "
    "noted AS (INSERT INTO ratchetkeep.takeovers (device, epoch, owner, name, at, commits) "
    "SELECT id, epoch, %(owner)b, %(name)t, clock_timestamp(), commits FROM taken) "
    "SELECT name, id, epoch, commits FROM taken"
)
_COUNT = f"{_FREE} SELECT count(*) FROM page"
_WORKERS = (
    "SELECT o.id = %s, o.held, o.capacity FROM ratchetkeep.owners AS o "
    f"WHERE o.capacity IS NOT NULL AND {ALIVE}"
)
_GIVE_BACK = (
    "WITH given AS (UPDATE ratchetkeep.devices SET owner = NULL "
    "WHERE id = ANY(%(ids)s) AND owner = %(owner)s RETURNING id, epoch) "
    "DELETE FROM ratchetkeep.takeovers AS t USING given AS g "
    "WHERE t.device = g.id AND t.epoch <= g.epoch - %(remembered)s"
)
_OURS = "SELECT id, epoch FROM ratchetkeep.devices WHERE owner = %s AND commits > 0"
_GIVE_STRAYS = (
    "UPDATE ratchetkeep.devices AS d SET owner = NULL "
    "FROM unnest(%s::uuid[], %s::bigint[]) AS s (id, epoch) "
    "WHERE d.id = s.id AND d.epoch = s.epoch AND d.owner = %s"
)


class Worker(NamedTuple):
    """A living worker of a fleet.

    :ivar held: how many devices it has.
    :ivar capacity: how many it takes.
    """

    held: int
    capacity: int


class Survey(NamedTuple):
    """How things stand.

    :ivar others: the workers but this one.
    :ivar free: devices that this worker could claim; no more of them are counted than asked for.
    """

    others: list[Worker]
    free: int


def claim(
    connection: Connection, owner: UUID, limit: int, exclude: Collection[UUID]
) -> list[Held]:
    """Take up to ``limit`` free devices, other than ``exclude``."""
    values = {**_values(owner, limit, exclude), "name": who()}
    return [Held(*row) for row in _planned_anew(connection, _CLAIM, values)]


def survey(connection: Connection, owner: UUID, limit: int, exclude: Collection[UUID]) -> Survey:
    """Who else works, and how many devices are free."""
    rows = connection.execute(_WORKERS, (owner,)).fetchall()
    others = [Worker(held, capacity) for is_me, held, capacity in rows if not is_me]
    ((free,),) = _planned_anew(connection, _COUNT, _values(owner, limit, exclude))
    return Survey(others, int(free))


def give_back(connection: Connection, owner: UUID, ids: Collection[UUID]) -> None:
    """Let others have devices."""
    # In the order in which a group of commits locks them.
    values = {"ids": sorted(ids), "owner": owner, "remembered": REMEMBERED}
    connection.execute(_GIVE_BACK, values)


def _values(owner: UUID, limit: int, exclude: Collection[UUID]) -> dict[str, Any]:
    return {"owner": owner, "limit": limit, "exclude": list(exclude), "start": uuid4()}


def _planned_anew(connection: Connection, statement: str, values: dict[str, Any]) -> list[Any]:
    # Never prepared: a plan for any limit is one for a large one.
    return connection.execute(statement.encode(), values, prepare=False, binary=True).fetchall()


class Claims:
    """What a fleet does with its process's hub. Each verb is one try: the fleet's next poll is the
    other. ``give_back`` may be called while another verb runs."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        # The database may say of devices that they are ours, and nobody here knows of them.
        self._may_have_strays = False

    def join(self, capacity: int) -> None:
        """Be seen by other workers as one that takes so many devices.

        :raises InvalidValue: if there is such a worker in this process already.
        """
        hub = self._hub
        if hub.capacity is not None:
            what = "another fleet of this process works on this database"
            raise InvalidValue(hub.url, what, "One fleet serves all devices of a process")
        try:
            hub.join(capacity, hub.lease)
        except BaseException:
            hub.capacity = None
            raise

    def leave(self) -> None:
        """Be no worker any more. If the database cannot be told, the lease tells it in time."""
        with suppress(RatchetkeepError):
            self._hub.join(None, _PATIENCE)

    def note_loss(self) -> None:
        """A device was found lost: after an outage the database may say that it is ours still."""
        self._may_have_strays = True

    def survey(self, limit: int, exclude: Collection[str]) -> Survey:
        """Who else works, and how many devices are free, of up to ``limit``.

        :raises StoreUnreadable: if the database cannot be asked.
        """
        hub, ids = self._hub, _ids(exclude)
        if self._may_have_strays:
            self._may_have_strays = False
            self._asked(self._give_strays)
        return self._asked(lambda connection: survey(connection, hub.owner, limit, ids))

    def claim(self, limit: int, exclude: Collection[str]) -> list[str]:
        """Take up to ``limit`` free devices, other than ``exclude``; gives their names."""
        try:
            names = self._hub.claim(limit, exclude)
        except RatchetkeepError:
            self._doubt()
            raise
        self._tell_number()
        return names

    def give_back(self, names: Collection[str]) -> None:
        """Let others have devices. If the database cannot be told, it is told later."""
        ids = self._hub.drop(names)
        if ids and not self._hub.is_forked:
            with suppress(RatchetkeepError):
                self._asked(lambda connection: give_back(connection, self._hub.owner, ids))
                self._tell_number()

    def _tell_number(self) -> None:
        """Let other workers see at once how many devices we have: they would wait for a third of
        a lease, and take or give too many meanwhile."""
        with suppress(RatchetkeepError):
            self._asked(self._hub.keep)

    def _give_strays(self, connection: Connection) -> None:
        """Let others have what the database says is ours, and is not: we took it and did not get
        the answer, or gave it back when nobody listened, or lost it while nobody could be asked."""
        hub = self._hub
        ours = connection.execute(_OURS, (hub.owner,), binary=True).fetchall()
        strays = hub.unknown(dict(ours))
        if strays:
            values = (list(strays), list(strays.values()), hub.owner)
            connection.execute(_GIVE_STRAYS, values)

    def _asked(self, call: Callable[[Connection], T]) -> T:
        hub = self._hub
        try:
            with mapped(hub.url, schema=SCHEMA):
                return hub.retried(call, patience=0)
        except RatchetkeepError:
            self._doubt()
            raise

    def _doubt(self) -> None:
        self._may_have_strays = True
        with suppress(driver.Error):
            self._hub.link.renew()


def _ids(names: Collection[str]) -> list[UUID]:
    return [rows.id_of(name) for name in names]
