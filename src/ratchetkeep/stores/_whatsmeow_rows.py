"""Rows of whatsmeow's tables as records: which row holds which key, and its bytes.

The bytes are those that :mod:`ratchetkeep.formats.whatsmeow` reads and writes: a blob as it is, or
a MessagePack map of the columns.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import msgpack

from ratchetkeep.errors import InvalidValue, StoreDamaged
from ratchetkeep.formats import _addresses as addresses
from ratchetkeep.model import Key
from ratchetkeep.model.records import check_key

from ._whatsmeow_schema import LID_TABLE, TABLE
from ._whatsmeow_sql import Database, Row, places_for

# Rows whose keys are read at once while scanning.
PAGE = 4096
# Rows that one statement looks for.
MANY = 500

# What is wrong with a table that was not made by whatsmeow, or was changed.
OTHER_NAME = "was found under another name: the table does not compare names exactly"


def damaged(db: Database, table: str, ids: Sequence[Any], what: str) -> StoreDamaged:
    """The error for a row; its ids name it, its values are never shown."""
    return StoreDamaged(f"{db.url} ({place_of(table, ids)})", what)


def place_of(table: str, ids: Sequence[Any]) -> str:
    """A row's name in errors."""
    shown = " ".join(
        f"<{len(each)} bytes>" if isinstance(each, bytes) else f"{each!s:.80}" for each in ids
    )
    return f"{table}, row {ascii(shown)[1:-1]}" if shown else table


def checked(value: Any, kind: type, *, optional: bool = False) -> bool:
    """True if a column holds what its type says; SQLite's may hold anything."""
    if kind is bool:
        return value is True or value is False or (type(value) is int and value in (0, 1))
    return type(value) is kind or (optional and value is None)


@dataclass(frozen=True)
class Records:
    """A family that has a table of its own.

    :ivar ids: the columns that name the record, beside the device's; with their types.
    :ivar values: the columns that hold it; with their types. A None in a column may stand only
        where ``optional`` names it; such a column may be missing in an older version.
    :ivar to_id: the record's id, of the id columns; None if they are not what they must be.
    :ivar to_ids: the way back; None if no row can have that id.
    """

    family: str
    table: str
    ids: Mapping[str, type]
    values: Mapping[str, type]
    to_id: Callable[..., str | None]
    to_ids: Callable[[str], tuple[Any, ...] | None]
    optional: frozenset[str] = field(default=frozenset())

    @property
    def owner(self) -> str:
        """The column that names the device."""
        return TABLE[self.table].owner

    def page(self, db: Database, jid: str, after: Row | None) -> list[Row]:
        """The ids of the next rows; ``after`` is the last of those before."""
        names = ", ".join(self.ids)
        statement = f"SELECT {names} FROM {self.table} WHERE {self.owner} = ?"
        if after is not None:
            statement += f" AND ({names}) > ({', '.join('?' * len(after))})"
        return db.rows(f"{statement} ORDER BY {names} LIMIT {PAGE}", (jid, *(after or ())))

    def keys_of(self, db: Database, row: Row) -> Iterator[Key]:
        """The key of a row that ``page`` gave.

        :raises StoreDamaged: if no record has such a row.
        """
        if all(type(value) is kind for value, kind in zip(row, self.ids.values(), strict=True)):
            id = self.to_id(*row)
            if id is not None and self.to_ids(id) == row:
                try:
                    yield check_key(self.family, id)
                    return
                except InvalidValue:
                    pass
        raise damaged(db, self.table, row, f"is not named as a row of a {self.family}")

    def read(self, db: Database, jid: str, ids: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """The bytes of the records that are there."""
        wanted = {row: id for id in ids if (row := self.to_ids(id)) is not None}
        columns = self._columns(db)
        names = ", ".join(self.ids)
        for chunk in _chunks(list(wanted)):
            # The device's JID stands in each of them: a database without statistics would else read
            # all rows of the device, and look through them.
            found, values = places_for((jid, *row) for row in chunk)
            rows = db.rows(
                f"SELECT {', '.join([*self.ids, *columns])} FROM {self.table} "
                f"WHERE ({self.owner}, {names}) IN {found}",
                values,
            )
            for row in rows:
                ids_of_row = row[: len(self.ids)]
                if ids_of_row not in wanted:
                    raise damaged(db, self.table, ids_of_row, OTHER_NAME)
                held = dict(zip(columns, row[len(self.ids) :], strict=True))
                self._check(db, ids_of_row, held)
                yield wanted[ids_of_row], self.pack(held)

    def _columns(self, db: Database) -> list[str]:
        known = db.columns.get(self.table, {})
        return [each for each in self.values if each in known or each not in self.optional]

    def _check(self, db: Database, ids: Row, held: Mapping[str, Any]) -> None:
        for column, value in held.items():
            if not checked(value, self.values[column], optional=column in self.optional):
                what = f"{column} is not what it must be, but {_kind_of(value)}"
                raise damaged(db, self.table, ids, what)

    def pack(self, held: Mapping[str, Any]) -> bytes:
        """The bytes of a row's values."""
        if len(self.values) == 1:
            (blob,) = held.values()
            return bytes(blob)
        flags = {name: bool(held[name]) for name, kind in self.values.items() if kind is bool}
        return msgpack.encode({**dict.fromkeys(self.values), **held, **flags})

    def unpack(self, data: bytes) -> dict[str, Any]:
        """The way back."""
        if len(self.values) == 1:
            return {next(iter(self.values)): data}
        unpacked: dict[str, Any] = msgpack.decode(data)
        return unpacked

    def drop(self, db: Database, jid: str, ids: Iterable[str]) -> None:
        """Delete rows; those that are not there are fine."""
        where = " AND ".join(f"{column} = ?" for column in (self.owner, *self.ids))
        rows = [(jid, *row) for id in ids if (row := self.to_ids(id)) is not None]
        if rows:
            db.run_many(f"DELETE FROM {self.table} WHERE {where}", rows)

    def put(self, db: Database, jid: str, records: Mapping[str, bytes]) -> None:
        """Write rows."""
        columns = self._columns(db)
        rows = []
        for id, data in records.items():
            row = self.to_ids(id)
            if row is None:
                raise InvalidValue(f"{self.family} {id}", "whatsmeow has no row for such an id")
            held = self.unpack(data)
            rows.append((jid, *row, *(held[column] for column in columns)))
        key = (self.owner, *self.ids)
        if rows:
            db.run_many(upsert(self.table, key, columns), rows)


def upsert(table: str, key: Sequence[str], columns: Sequence[str]) -> str:
    """The statement that writes a row, whether it is there or not."""
    names = ", ".join([*key, *columns])
    updates = ", ".join(f"{column} = excluded.{column}" for column in columns)
    return (
        f"INSERT INTO {table} ({names}) "
        f"VALUES ({', '.join('?' * (len(key) + len(columns)))}) "
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {updates}"
    )


class _AppStates(Records):
    """The states of app state collections, with the MACs of what is in them."""

    _macs = "whatsmeow_app_state_mutation_macs"

    def read(self, db: Database, jid: str, ids: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        found = dict(super().read(db, jid, ids))
        macs: dict[str, dict[bytes, bytes]] = {name: {} for name in found}
        for chunk in _chunks([(name,) for name in found]):
            names, values = places_for((jid, *row) for row in chunk)
            # The newest of a MAC is the one that counts.
            rows = db.rows(
                f"SELECT name, index_mac, value_mac FROM {self._macs} "
                f"WHERE (jid, name) IN {names} ORDER BY version",
                values,
            )
            for name, index, value in rows:
                if name not in macs:
                    raise damaged(db, self._macs, (name,), OTHER_NAME)
                if type(index) is not bytes or type(value) is not bytes:
                    raise damaged(db, self._macs, (name,), "holds a MAC that is not bytes")
                macs[name][index] = value
        for name, data in found.items():
            yield (
                name,
                msgpack.encode({**msgpack.decode(data), "macs": dict(sorted(macs[name].items()))}),
            )

    def put(self, db: Database, jid: str, records: Mapping[str, bytes]) -> None:
        states = {name: self.unpack(data) for name, data in records.items()}
        self._drop_macs(db, jid, states)
        super().put(db, jid, records)
        rows = [
            (jid, name, state["version"], index, value)
            for name, state in states.items()
            for index, value in state["macs"].items()
        ]
        if rows:
            names = "jid, name, version, index_mac, value_mac"
            db.run_many(f"INSERT INTO {self._macs} ({names}) VALUES (?, ?, ?, ?, ?)", rows)

    def drop(self, db: Database, jid: str, ids: Iterable[str]) -> None:
        names = list(ids)
        self._drop_macs(db, jid, names)
        super().drop(db, jid, names)

    def _drop_macs(self, db: Database, jid: str, names: Iterable[str]) -> None:
        rows = [(jid, name) for name in names]
        if rows:
            db.run_many(f"DELETE FROM {self._macs} WHERE jid = ? AND name = ?", rows)


class _Mappings:
    """The one table that all devices share; a row is two records, one for each direction."""

    family, table = "lid-mapping", LID_TABLE

    def page(self, db: Database, jid: str, after: Row | None) -> list[Row]:
        where = "" if after is None else " WHERE lid > ?"
        values = () if after is None else after[:1]
        return db.rows(f"SELECT lid, pn FROM {LID_TABLE}{where} ORDER BY lid LIMIT {PAGE}", values)

    def keys_of(self, db: Database, row: Row) -> Iterator[Key]:
        if type(row[0]) is str and type(row[1]) is str:
            ids = addresses.mapping_key(pn=row[1]), addresses.mapping_key(lid=row[0])
            values = row[0], row[1]
            if all(addresses.mapping_of(*pair) == row for pair in zip(ids, values, strict=True)):
                yield from (check_key(self.family, id) for id in ids)
                return
        raise damaged(db, LID_TABLE, row[:1], "does not map a LID to a phone number")

    def read(self, db: Database, jid: str, ids: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        wanted = {id: addresses.mapping_of(id, "0") for id in ids}
        for column in ("lid", "pn"):
            at = ("lid", "pn").index(column)
            asked = {
                pair[at]: id
                for id, pair in wanted.items()
                if pair and addresses.mapping_key(**{column: pair[at]}) == id
            }
            for chunk in _chunks([(user,) for user in asked]):
                users, values = places_for(chunk)
                statement = f"SELECT lid, pn FROM {LID_TABLE} WHERE {column} IN {users}"
                for row in db.rows(statement, values):
                    list(self.keys_of(db, row))
                    if row[at] not in asked:
                        raise damaged(db, LID_TABLE, row[:1], OTHER_NAME)
                    yield asked[row[at]], row[1 - at].encode()

    def put(self, db: Database, jid: str, records: Mapping[str, bytes]) -> None:
        by_lid: dict[str, str] = {}
        by_pn: dict[str, str] = {}
        for id, data in records.items():
            pair = addresses.mapping_of(id, data.decode())
            if pair is None:
                raise InvalidValue(f"{self.family} {id}", "whatsmeow has no row for such an id")
            lid, pn = pair
            # The last one counts, as if each were written by itself.
            by_pn.pop(by_lid.pop(lid, ""), None)
            by_lid.pop(by_pn.pop(pn, ""), None)
            by_lid[lid], by_pn[pn] = pn, lid
        # What is known of either of the two is replaced, as whatsmeow does it.
        statement = f"DELETE FROM {LID_TABLE} WHERE pn = ? AND lid <> ?"
        db.run_many(statement, list(by_pn.items()))
        db.run_many(upsert(LID_TABLE, ("lid",), ("pn",)), list(by_lid.items()))

    def drop(self, db: Database, jid: str, ids: Iterable[str]) -> None:
        for id in ids:
            pair = addresses.mapping_of(id, "0")
            if pair is not None:
                column = "pn" if addresses.mapping_key(pn=pair[1]) == id else "lid"
                user = pair[1] if column == "pn" else pair[0]
                db.rows(f"DELETE FROM {LID_TABLE} WHERE {column} = ?", (user,))


def outdated(mappings: Mapping[str, str]) -> set[str]:
    """The ids of ``lid-mapping`` records that others contradict, so that they are not in one table
    with them: a LID or a phone number that got another partner leaves half of its old pair behind.

    :param mappings: all values by id.
    """
    pairs = {id: addresses.mapping_of(id, other) for id, other in mappings.items()}
    votes = Counter(pair for pair in pairs.values() if pair)
    kept: set[tuple[str, str]] = set()
    lids: set[str] = set()
    pns: set[str] = set()
    # A pair that both sides tell of is newer than one that a side has forgotten.
    for lid, pn in sorted(votes, key=lambda pair: (-votes[pair], pair)):
        if lid not in lids and pn not in pns:
            kept.add((lid, pn))
            lids.add(lid)
            pns.add(pn)
    return {id for id, pair in pairs.items() if pair and pair not in kept}


def _base64(key_id: bytes) -> str:
    return base64.b64encode(key_id).decode()


def _from_base64(id: str) -> tuple[bytes] | None:
    try:
        key_id = base64.b64decode(id, validate=True)
    except (binascii.Error, ValueError):
        return None
    return (key_id,) if _base64(key_id) == id else None


def _number(id: str) -> tuple[int] | None:
    return (int(id),) if re.fullmatch("0|[1-9][0-9]{0,9}", id) else None


def _one(spell: Callable[[str], str | None]) -> Callable[[str], tuple[str] | None]:
    def ids(id: str) -> tuple[str] | None:
        spelled = spell(id)
        return None if spelled is None else (spelled,)

    return ids


_ADDRESS = (addresses.from_whatsmeow_address, _one(addresses.to_whatsmeow_address))
_THEIRS = {"their_id": str}

FAMILY: Mapping[str, Records | _Mappings] = {
    each.family: each
    for each in (
        Records("session", "whatsmeow_sessions", _THEIRS, {"session": bytes}, *_ADDRESS),
        Records("identity-key", "whatsmeow_identity_keys", _THEIRS, {"identity": bytes}, *_ADDRESS),
        Records(
            "pre-key",
            "whatsmeow_pre_keys",
            {"key_id": int},
            {"key": bytes, "uploaded": bool},
            str,
            _number,
        ),
        Records(
            "sender-key",
            "whatsmeow_sender_keys",
            {"chat_id": str, "sender_id": str},
            {"sender_key": bytes},
            addresses.sender_key_id,
            addresses.sender_key_parts,
        ),
        Records(
            "app-state-sync-key",
            "whatsmeow_app_state_sync_keys",
            {"key_id": bytes},
            {"key_data": bytes, "timestamp": int, "fingerprint": bytes},
            _base64,
            _from_base64,
        ),
        _AppStates(
            "app-state-sync-version",
            "whatsmeow_app_state_version",
            {"name": str},
            {"version": int, "hash": bytes},
            str,
            lambda name: (name,),
        ),
        Records(
            "tctoken",
            "whatsmeow_privacy_tokens",
            {"their_jid": str},
            {"token": bytes, "timestamp": int, "sender_timestamp": int},
            addresses.from_whatsmeow_jid,
            _one(addresses.to_whatsmeow_jid),
            frozenset({"sender_timestamp"}),
        ),
        _Mappings(),
    )
}
"""The families that whatsmeow has a place for."""


def _kind_of(value: Any) -> str:
    return "empty" if value is None else f"of type {type(value).__name__}"


def _chunks(rows: list[Any]) -> Iterator[list[Any]]:
    return (rows[start : start + MANY] for start in range(0, len(rows), MANY))
