"""The statements that read and write records in PostgreSQL, each one round trip.

A read names the owner that the device must have: whoever lost it would otherwise take what is not
there any more for what never was. Keys and bytes are here those of the rows, which may be sealed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

from ratchetkeep.model import Key
from ratchetkeep.sealing.cipher import TAG

from ._postgres_driver import Connection

__all__ = [
    "Write",
    "all_tags",
    "count",
    "id_of",
    "put",
    "read",
    "read_after",
    "scan",
    "tags",
    "write",
]

# Rows of a device that are read at once.
PORTION = 512

_OF = "d.id = %(id)b AND (%(owner)b::uuid IS NULL OR d.owner = %(owner)b)"
_READ = (
    "SELECT r.family, r.id, r.data FROM ratchetkeep.devices AS d LEFT JOIN ("
    "unnest(%(families)t::text[], %(ids)t::text[]) AS w (family, id) "
    "JOIN ratchetkeep.records AS r "
    "ON r.device = %(id)b AND r.family = w.family AND r.id = w.id) ON true "
    f"WHERE {_OF}"
)
_SCAN = (
    "SELECT r.family, r.id FROM ratchetkeep.devices AS d LEFT JOIN ratchetkeep.records AS r "
    "ON r.device = d.id AND (%(family)t::text IS NULL OR r.family = %(family)t) "
    f"WHERE {_OF}"
)
_AFTER = (
    "SELECT r.family, r.id, r.data FROM ratchetkeep.devices AS d "
    "LEFT JOIN ratchetkeep.records AS r "
    "ON r.device = %(id)b AND (r.family, r.id) > (%(family)t, %(last)t) "
    f"WHERE {_OF} ORDER BY r.family, r.id LIMIT {PORTION}"
)
_COUNT = (
    "SELECT (SELECT count(*) FROM ratchetkeep.records WHERE device = d.id) "
    f"FROM ratchetkeep.devices AS d WHERE {_OF}"
)

# The last bytes of rows, which no other row ends with. Whose the device is need not be asked: a
# commit follows that finds out.
_TAGS = (
    "SELECT r.device, r.family, r.id, "
    f"substring(r.data FROM greatest(octet_length(r.data) - {TAG - 1}, 1)) "
    "FROM unnest(%b::uuid[], %t::text[], %t::text[]) AS w (device, family, id) "
    "JOIN ratchetkeep.records AS r "
    "ON r.device = w.device AND r.family = w.family AND r.id = w.id"
)
# All of one device, in one moment with its own row.
_ALL_TAGS = (
    "SELECT d.commits, d.state, r.family, r.id, "
    f"substring(r.data FROM greatest(octet_length(r.data) - {TAG - 1}, 1)) "
    "FROM ratchetkeep.devices AS d LEFT JOIN ratchetkeep.records AS r ON r.device = d.id "
    f"WHERE {_OF}"
)

# The epoch is checked and the rows are written in one statement, which is one transaction: the
# device's row is locked until it ends, so nobody takes the device in between.
_FENCE = (
    "WITH mine AS (UPDATE ratchetkeep.devices AS d "
    "SET commits = d.commits + 1, committed = now(){state} "
    "FROM unnest(%b::uuid[], %b::bigint[], %b::bigint[]{array}) AS w (id, epoch, commits{column}) "
    "WHERE d.id = w.id AND d.epoch = w.epoch AND d.commits = w.commits RETURNING d.id)"
)
_FENCES = (
    _FENCE.format(state="", array="", column=""),
    _FENCE.format(state=", state = w.state", array=", %b::bytea[]", column=", state"),
)
# The same of one device, as most commits are. For a join the server may read the table of devices
# from end to end, as long as that seems cheaper than some look-ups in the index.
_FENCE_ONE = (
    "WITH mine AS (UPDATE ratchetkeep.devices AS d "
    "SET commits = d.commits + 1, committed = now(){state} "
    "WHERE d.id = %b AND d.epoch = %b AND d.commits = %b RETURNING d.id)"
)
_FENCES_ONE = (_FENCE_ONE.format(state=""), _FENCE_ONE.format(state=", state = %b"))
_PUT = (
    ", put AS (INSERT INTO ratchetkeep.records (device, family, id, data) "
    "SELECT p.* FROM unnest(%b::uuid[], %t::text[], %t::text[], %b::bytea[]) "
    "AS p (device, family, id, data) JOIN mine ON mine.id = p.device "
    "ON CONFLICT (device, family, id) DO UPDATE SET data = excluded.data)"
)
_PUT_ONE = (
    ", put AS (INSERT INTO ratchetkeep.records (device, family, id, data) "
    "SELECT mine.id, %t, %t, %b FROM mine "
    "ON CONFLICT (device, family, id) DO UPDATE SET data = excluded.data)"
)
_DROP = (
    ", dropped AS (DELETE FROM ratchetkeep.records AS r "
    "USING mine, unnest(%b::uuid[], %t::text[], %t::text[]) AS p (device, family, id) "
    "WHERE p.device = mine.id AND r.device = p.device AND r.family = p.family AND r.id = p.id)"
)
_LANDED = " SELECT id FROM mine"

_FILL = (
    "INSERT INTO ratchetkeep.records (device, family, id, data) "
    "SELECT %b, p.* FROM unnest(%t::text[], %t::text[], %b::bytea[]) AS p (family, id, data)"
)


class Write(NamedTuple):
    """What is written of one device.

    :ivar commits: how many the device has before this one.
    :ivar changes: new bytes by key; None deletes.
    :ivar state: what the device holds then, sealed; None of a plain one.
    """

    id: UUID
    epoch: int
    commits: int
    changes: Mapping[Key, bytes | None]
    state: bytes | None = None


@lru_cache(maxsize=65_536)
def id_of(name: str) -> UUID:
    """The id of a device, which is made of its name as it stands in its row: BLAKE2b of 16 bytes.
    So rows of all devices are spread evenly, and nobody has to ask for the id first."""
    digest = hashlib.blake2b(name.encode(), digest_size=16, person=b"ratchetkeep dev").digest()
    return UUID(bytes=digest)


def read(
    connection: Connection, id: UUID, owner: UUID | None, keys: Iterable[Key]
) -> dict[Key, bytes] | None:
    """The bytes of the keys that are there; None if the device is not that owner's."""
    families, ids = _columns(keys)
    values = {"id": id, "owner": owner, "families": families, "ids": ids}
    rows = connection.execute(_READ, values, prepare=True, binary=True).fetchall()
    if not rows:
        return None
    return {Key(family, name): data for family, name, data in rows if family is not None}


def scan(
    connection: Connection, id: UUID, owner: UUID | None, family: str | None
) -> list[Key] | None:
    """The keys of a family, or all; None if the device is not that owner's."""
    values = {"id": id, "owner": owner, "family": family}
    rows = connection.execute(_SCAN, values, prepare=True, binary=True).fetchall()
    if not rows:
        return None
    return [Key(found, name) for found, name in rows if found is not None]


def read_after(
    connection: Connection, id: UUID, owner: UUID | None, last: Key
) -> list[tuple[Key, bytes]] | None:
    """The next records in the order of their keys; None if the device is not that owner's."""
    values = {"id": id, "owner": owner, "family": last.family, "last": last.id}
    rows = connection.execute(_AFTER, values, prepare=True, binary=True).fetchall()
    if not rows:
        return None
    return [(Key(family, name), data) for family, name, data in rows if family is not None]


def count(connection: Connection, id: UUID, owner: UUID | None) -> int | None:
    """How many records there are; None if the device is not that owner's."""
    row = connection.execute(_COUNT, {"id": id, "owner": owner}, binary=True).fetchone()
    return None if row is None else int(row[0])


def tags(
    connection: Connection, wanted: Sequence[tuple[UUID, Key]]
) -> dict[tuple[UUID, Key], bytes]:
    """The last bytes of the rows that are there."""
    values = [[id for id, _ in wanted], *_columns(key for _, key in wanted)]
    found = connection.execute(_TAGS, values, prepare=True, binary=True)
    return {(device, Key(family, id)): tag for device, family, id, tag in found}


def all_tags(
    connection: Connection, id: UUID, owner: UUID | None
) -> Iterator[tuple[int, bytes | None, str | None, str, bytes]]:
    """Of each row of a device: the device's commits and state, the row's family, id and last
    bytes. Nothing if the device is not that owner's; one without a family if it has no rows."""
    with connection.cursor(binary=True) as cursor:
        yield from cursor.stream(_ALL_TAGS.encode(), {"id": id, "owner": owner})


def write(connection: Connection, writes: Sequence[Write]) -> set[UUID]:
    """Carry out the writes of several devices in one transaction, durable on return: of each
    device all, or nothing if its epoch is another one. Gives those that were carried out."""
    # In one order: two transactions that lock the same rows in two would wait for each other.
    writes = sorted(writes, key=lambda write: write.id.int)
    puts = [(w.id, k, data) for w in writes for k, data in w.changes.items() if data is not None]
    drops = [(w.id, key) for w in writes for key, data in w.changes.items() if data is None]
    is_sealed = any(w.state is not None for w in writes)
    if len(writes) == 1:
        (only,) = writes
        values: list[object] = [*([only.state] if is_sealed else []), *only[:3]]
        statement = _FENCES_ONE[is_sealed]
    else:
        columns = [[*w[:3], w.state] if is_sealed else w[:3] for w in writes]
        values = [list(each) for each in zip(*columns, strict=True)]
        statement = _FENCES[is_sealed]
    if len(writes) == len(puts) == 1:
        _, key, data = puts[0]
        statement += _PUT_ONE
        values += [*key, data]
    else:
        statement += _PUT
        values += [[id for id, _, _ in puts], *_columns(key for _, key, _ in puts)]
        values.append([data for _, _, data in puts])
    if drops:
        statement += _DROP
        values += [[id for id, _ in drops], *_columns(key for _, key in drops)]
    statement += _LANDED
    return {id for (id,) in connection.execute(statement, values, prepare=True, binary=True)}


def put(connection: Connection, id: UUID, changes: Mapping[Key, bytes]) -> None:
    """Insert records of a device that is being put together."""
    connection.execute(_FILL, [id, *_columns(changes), list(changes.values())], prepare=True)


def _columns(keys: Iterable[Key]) -> Iterator[list[object]]:
    listed = list(keys)
    yield [family for family, _ in listed]
    yield [id for _, id in listed]
