"""Claims of a fleet in PostgreSQL: which devices are free, who else works, taking and giving back
many devices at once.

A device is free if it has no owner, or one whose lease has run out. Ids are hashes of names, so a
claim begins at a random one and wraps round: workers that start together choose different devices.
Two that choose the same one are told apart by the epoch, as everywhere.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID, uuid4

from ratchetkeep.errors import InvalidValue, RatchetkeepError

from ._postgres_driver import Connection, driver, mapped, who
from ._postgres_keys import COLUMNS, Entry, Keys
from ._postgres_leases import ALIVE, REMEMBERED, Held, held_of
from ._postgres_link import BRIEF, SCHEMA

if TYPE_CHECKING:
    from ._postgres_hub import Hub

__all__ = ["Claims", "Survey", "Worker", "claim", "give_back", "survey"]

# The order is that of one index, owner before id, and no other one has it: statistics that are old
# (all devices were free when they were made) would make the planner read the whole table. That is
# also why owners are compared as rows, not with "=".
_PAGE = (
    "SELECT d.id, d.epoch FROM ratchetkeep.devices AS d WHERE {} "
    "AND d.commits > 0 AND d.moved_to IS NULL AND d.id <> ALL(%(exclude)s::uuid[]) "
    "ORDER BY d.owner, d.id LIMIT %(limit)s"
)
_OF_GONE = f"SELECT f.* FROM gone AS g CROSS JOIN LATERAL ({_PAGE}) AS f"
_LAST = "'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid"
_BRANCHES = (
    f"({_PAGE})".format("d.owner IS NULL AND d.id >= %(start)s"),
    f"({_PAGE})".format("d.owner IS NULL AND d.id < %(start)s"),
    _OF_GONE.format(f"(d.owner, d.id) >= (g.id, %(start)s) AND (d.owner, d.id) <= (g.id, {_LAST})"),
    _OF_GONE.format("(d.owner, d.id) < (g.id, %(start)s) AND d.owner >= g.id"),
)
# Our own lease may have run out too: what we have open is not free.
_FREE = (
    "WITH gone AS MATERIALIZED (SELECT id FROM ratchetkeep.owners "
    "WHERE until < now() AND id <> %(owner)s), "
    f"free AS ({' UNION ALL '.join(_BRANCHES)}), "
    "page AS MATERIALIZED (SELECT id, epoch FROM free LIMIT %(limit)s)"
)
# A row that another transaction has locked (a copy that replaces the device, say) is not waited
# for. That alone does not keep two workers apart: what was locked and let go since our snapshot
# passes, and only its epoch tells that it was taken.
_CLAIM = (
    f"{_FREE}, chosen AS MATERIALIZED (SELECT d.id, d.epoch FROM page AS p "
    "JOIN ratchetkeep.devices AS d ON d.id = p.id AND d.epoch = p.epoch "
    "FOR UPDATE OF d SKIP LOCKED), "
    "taken AS (UPDATE ratchetkeep.devices AS d SET epoch = d.epoch + 1, owner = %(owner)s "
    "FROM chosen AS c WHERE d.id = c.id AND d.epoch = c.epoch "
    f"RETURNING d.epoch, {COLUMNS}), "
    "noted AS (INSERT INTO ratchetkeep.takeovers (device, epoch, owner, name, at, commits) "
    "SELECT id, epoch, %(owner)s, %(name)s, now(), commits FROM taken) "
    "SELECT * FROM taken"
)
_COUNT = f"{_FREE} SELECT count(*) FROM page"
_WORKERS = (
    "SELECT o.id = %s, o.held, o.capacity FROM ratchetkeep.owners AS o "
    f"WHERE o.capacity IS NOT NULL AND {ALIVE}"
)
# The epoch: as where one is given back.
_GIVE_BACK = (
    "WITH given AS (UPDATE ratchetkeep.devices AS d SET owner = NULL "
    "FROM unnest(%(ids)b::uuid[], %(epochs)b::bigint[]) AS w (id, epoch) "
    "WHERE d.id = w.id AND d.epoch = w.epoch AND d.owner = %(owner)b RETURNING d.id, d.epoch) "
    "DELETE FROM ratchetkeep.takeovers AS t USING given AS g "
    "WHERE t.device = g.id AND t.epoch <= g.epoch - %(remembered)b"
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
    connection: Connection, keys: Keys, owner: UUID, limit: int, exclude: Collection[UUID]
) -> list[Held]:
    """Take up to ``limit`` free devices, other than ``exclude``."""
    values = {**_values(owner, limit, exclude), "name": who()}
    taken = _planned_anew(connection, _CLAIM, values)
    return [held_of(connection, keys, row[0], Entry(*row[1:])) for row in taken]


def survey(connection: Connection, owner: UUID, limit: int, exclude: Collection[UUID]) -> Survey:
    """Who else works, and how many devices are free."""
    rows = connection.execute(_WORKERS, (owner,)).fetchall()
    others = [Worker(held, capacity) for is_me, held, capacity in rows if not is_me]
    ((free,),) = _planned_anew(connection, _COUNT, _values(owner, limit, exclude))
    return Survey(others, int(free))


def give_back(connection: Connection, owner: UUID, epochs: Mapping[UUID, int]) -> None:
    """Let others have devices that were the owner's in those epochs."""
    ids = sorted(epochs)  # in the order in which a group of commits locks them
    values = {"ids": ids, "epochs": [epochs[id] for id in ids], "owner": owner}
    connection.execute(_GIVE_BACK, {**values, "remembered": REMEMBERED}, binary=True)


def _values(owner: UUID, limit: int, exclude: Collection[UUID]) -> dict[str, Any]:
    return {"owner": owner, "limit": limit, "exclude": list(exclude), "start": uuid4()}


def _planned_anew(connection: Connection, statement: str, values: dict[str, Any]) -> list[Any]:
    # With the values in its text. As parameters they would be planned for as any values, and a
    # plan for any limit reads and sorts all that is free.
    with driver.ClientCursor(connection) as cursor:
        return cursor.execute(statement.encode(), values).fetchall()


class Claims:
    """What a fleet does with its process's hub. Each verb is one try: the fleet's next poll is the
    other. ``give_back`` may be called while another verb runs."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        # No more than one at a time renews or claims: the hub takes for a stray, and gives back,
        # what two renewals find owned and unknown.
        self._guard = threading.Lock()
        self._renewals = 0

    def join(self, capacity: int) -> None:
        """Be seen by other workers as one that takes so many devices.

        :raises InvalidValue: if there is such a worker in this process already.
        """
        hub = self._hub
        if hub.capacity is not None:
            what = "another fleet of this process works on this database"
            raise InvalidValue(hub.url, what, "One fleet serves all devices of a process")
        try:
            hub.join(capacity)
        except BaseException:
            hub.capacity = None
            raise

    def leave(self) -> None:
        """Be no worker any more. If the database cannot be told now, it is with a renewal."""
        self._hub.capacity = None
        self._renew()

    def note_loss(self) -> None:
        """A device was found lost. After an outage the database may say that it is ours still:
        the next two renewals, which give it back, are not waited for."""
        self._renewals = 2

    def survey(self, limit: int, exclude: Collection[str]) -> Survey:
        """Who else works, and how many devices are free, of up to ``limit``.

        :raises StoreUnreadable: if the database cannot be asked.
        """
        hub = self._hub
        if self._renewals:
            self._renewals -= 1
            self._renew()
        ids = hub.ids_of(exclude)
        with self._told(), hub.link.connection() as connection:
            return survey(connection, hub.owner, limit, ids)

    def claim(self, limit: int, exclude: Collection[str]) -> list[str]:
        """Take up to ``limit`` free devices, other than ``exclude``; gives their names.

        :raises StoreUnreadable: if the database cannot be asked.
        """
        with self._guard, self._told():
            names = self._hub.claim(limit, exclude)
        if names:
            self._renew()
        return names

    def give_back(self, names: Collection[str]) -> None:
        """Let others have devices. If the database cannot be told now, it is with a renewal."""
        self._hub.give_back_all(names)
        self._renew()

    def _renew(self) -> None:
        """Let other workers see at once how many devices we have: they would take or give too many
        in the third of a lease until the next renewal."""
        hub = self._hub
        with (
            self._guard,
            suppress(RatchetkeepError),
            self._told(),
            hub.link.connection(BRIEF) as connection,
        ):
            hub.keep(connection)

    @contextmanager
    def _told(self) -> Iterator[None]:
        hub = self._hub
        with mapped(hub.url, schema=SCHEMA):
            try:
                yield
            except driver.Error as error:
                hub.link.renew(error)
                raise
