"""The devices of a whatsmeow database: their rows in ``whatsmeow_device``, and what is theirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import msgpack

from ratchetkeep.errors import InvalidValue, NotHeld, StoreDamaged
from ratchetkeep.formats import Encoded, Loss
from ratchetkeep.model import CREDENTIALS, Key

from ._whatsmeow_rows import FAMILY, checked, damaged, place_of, upsert
from ._whatsmeow_schema import COMPATIBLE, DEVICE_TABLE, TABLE
from ._whatsmeow_sql import Database, quoted
from .base import LeftBehind

Columns = Mapping[str, Mapping[str, str]]

_TYPES = {"text": str, "uuid": str, "bytea": bytes, "bigint": int, "integer": int}
_KNOWN = {column.name: column for column in TABLE[DEVICE_TABLE].columns}


def jids(db: Database) -> list[str]:
    """The JIDs of all devices, sorted.

    :raises StoreDamaged: if one is not text.
    """
    with db.mapped():
        found = [jid for (jid,) in db.rows(f"SELECT jid FROM {DEVICE_TABLE}")]
    if any(type(jid) is not str or not jid for jid in found):
        raise StoreDamaged(f"{db.url} ({DEVICE_TABLE})", "has a device whose JID is not text")
    return sorted(found)


def is_there(db: Database, jid: str) -> bool:
    """True if the database has a row for the device."""
    return bool(db.rows(f"SELECT 1 FROM {DEVICE_TABLE} WHERE jid = ?", (jid,)))


def read(db: Database, jid: str, keys: Iterable[Key]) -> dict[Key, bytes]:
    """The bytes of the keys that are there, with one statement for a family."""
    wanted: dict[str, list[str]] = {}
    for key in keys:
        wanted.setdefault(key.family, []).append(key.id)
    found: dict[Key, bytes] = {}
    if wanted.pop(CREDENTIALS.family, None) is not None:
        row = read_row(db, jid)
        if row is not None:
            found[CREDENTIALS] = msgpack.encode({"row": row, **_counters(db, jid)})
    for family, ids in wanted.items():
        if family in FAMILY:
            for id, data in FAMILY[family].read(db, jid, ids):
                found[Key(family, id)] = data
    return found


def write(db: Database, jid: str, changes: Mapping[Key, bytes | None]) -> None:
    """Write a device's changes in the transaction that is under way; None deletes.

    :raises InvalidValue: for the credentials of another device.
    """
    put: dict[str, dict[str, bytes]] = {}
    drop: dict[str, list[str]] = {}
    for key, data in changes.items():
        if key == CREDENTIALS:
            continue
        if key.family not in FAMILY:
            if data is not None:
                raise NotHeld(f"{db.url} ({key})", "whatsmeow has no table for it")
        elif data is None:
            drop.setdefault(key.family, []).append(key.id)
        else:
            put.setdefault(key.family, {})[key.id] = data
    if CREDENTIALS in changes:
        _write_credentials(db, jid, changes[CREDENTIALS])
    for family, ids in drop.items():
        FAMILY[family].drop(db, jid, ids)
    for family, records in put.items():
        FAMILY[family].put(db, jid, records)


def _write_credentials(db: Database, jid: str, data: bytes | None) -> None:
    if data is None:
        what = "whatsmeow has no device without credentials; remove the device as a whole"
        raise InvalidValue(f"{db.url} (credentials)", what)
    given = msgpack.decode(data)
    row = given["row"]
    if row["jid"] != jid:
        what = "the credentials are those of another device than the one in the URL (jid)"
        raise InvalidValue(f"{db.url} ({jid})", what)
    columns = [each for each in row if each != "jid" and each in db.columns[DEVICE_TABLE]]
    statement = upsert(DEVICE_TABLE, ["jid"], [quoted(each) for each in columns])
    db.rows(statement, (jid, *(row[each] for each in columns)))
    db.rows(
        "UPDATE whatsmeow_pre_keys SET uploaded = true "
        "WHERE jid = ? AND key_id < ? AND NOT uploaded",
        (jid, given["first_unuploaded_pre_key_id"]),
    )


def jid_of(credentials: bytes) -> str:
    """Whose the credentials are."""
    return str(msgpack.decode(credentials)["row"]["jid"])


def read_row(db: Database, jid: str) -> dict[str, Any] | None:
    """The device's row, by column; None if there is none.

    :raises StoreDamaged: naming the column that is not what it must be.
    """
    types = db.columns[DEVICE_TABLE]
    shown = ", ".join(db.shown(quoted(name), type) for name, type in types.items())
    rows = db.rows(f"SELECT {shown} FROM {DEVICE_TABLE} WHERE jid = ?", (jid,))
    if not rows:
        return None
    row = dict(zip(types, rows[0], strict=True))
    for name, value in row.items():
        column = _KNOWN.get(name)
        kind = _TYPES[column.type.lower()] if column else type(value)
        is_optional = column is None or "NOT NULL" not in column.rule
        if not checked(value, kind, optional=is_optional):
            raise damaged(db, DEVICE_TABLE, (jid,), f"{name} is not what it must be")
    return row


def _counters(db: Database, jid: str) -> dict[str, Any]:
    """What other libraries keep as numbers, and whatsmeow works out of its tables."""
    # What waits below an uploaded key may have been given out, so it is never uploaded again.
    ((last, waiting),) = db.rows(
        "SELECT max(key_id), min(CASE WHEN NOT uploaded AND key_id > (SELECT coalesce(max(key_id), "
        "-1) FROM whatsmeow_pre_keys WHERE jid = ? AND uploaded) THEN key_id END) "
        "FROM whatsmeow_pre_keys WHERE jid = ?",
        (jid, jid),
    )
    newest = db.rows(
        "SELECT key_id FROM whatsmeow_app_state_sync_keys WHERE jid = ? "
        "ORDER BY timestamp DESC, key_id DESC LIMIT 1",
        (jid,),
    )
    key_id = newest[0][0] if newest else None
    if not checked(last, int, optional=True) or not checked(waiting, int, optional=True):
        raise damaged(db, "whatsmeow_pre_keys", (), "has a key whose id is not a number")
    if not checked(key_id, bytes, optional=True):
        raise damaged(db, "whatsmeow_app_state_sync_keys", (), "has a key whose id is not bytes")
    following = 1 if last is None else last + 1
    return {
        "next_pre_key_id": following,
        "first_unuploaded_pre_key_id": following if waiting is None else waiting,
        "app_state_key_id": key_id,
    }


def recount(highest: int, credentials: bytes) -> tuple[Loss, ...]:
    """What becomes of the number of the next pre-key, which whatsmeow has no column for.

    :param highest: id of a pre-key, or 0: there is none above it.
    """
    following: int = msgpack.decode(credentials)["next_pre_key_id"]
    if following <= highest + 1:
        return ()
    what = (
        "whatsmeow counts on from the highest pre-key that is left: "
        f"ids from {highest + 1} to {following - 1} are given to new pre-keys once more"
    )
    return (Loss("next_pre_key_id", what, True),)


def fit(columns: Columns, key: Key, data: bytes) -> Encoded:
    """The bytes without what this database has no column for, and what of that is a loss."""
    if key == CREDENTIALS:
        given = msgpack.decode(data)
        row, known = given["row"], columns[DEVICE_TABLE]
        gone = {name: row.pop(name) for name in [*row] if name not in known}
        return Encoded(msgpack.encode(given) if gone else data, _losses(gone))
    if key.family == "tctoken" and _SENT not in columns["whatsmeow_privacy_tokens"]:
        token = msgpack.decode(data)
        gone = {_SENT: token[_SENT]}
        return Encoded(msgpack.encode({**token, _SENT: None}), _losses(gone))
    return Encoded(data, ())


_SENT = "sender_timestamp"
_LATER = {
    column.name: column.default
    for name in (DEVICE_TABLE, "whatsmeow_privacy_tokens")
    for column in TABLE[name].columns
    if column.since > COMPATIBLE
}


def _losses(gone: Mapping[str, Any]) -> tuple[Loss, ...]:
    losses = []
    for column, value in gone.items():
        if value not in (None, _LATER.get(column)):
            what = "this database has no such column: its schema is of another version"
            losses.append(Loss(column, what, column in _LATER))
    return tuple(losses)


def remove(db: Database, jid: str) -> None:
    """Delete everything of a device, in the transaction that is under way."""
    # Not all of it has foreign keys, and an older database may lack some.
    for table, owner in db.owned_tables().items():
        db.rows(f"DELETE FROM {quoted(table)} WHERE {quoted(owner)} = ?", (jid,))
    db.rows(f"DELETE FROM {DEVICE_TABLE} WHERE jid = ?", (jid,))


def trace(db: Database, jid: str) -> str:
    """What is here of a device without a row of its own, in words."""
    counts = {table: count for table, count in _counts(db, jid) if count}
    return ", ".join(f"{count} rows of {table}" for table, count in sorted(counts.items()))


def left_behind(db: Database, jid: str) -> list[LeftBehind]:
    """The tables that only whatsmeow has, with the device's rows in them."""
    found = []
    for table, count in _counts(db, jid):
        known = TABLE.get(table)
        if known is None:
            found.append(LeftBehind(table, count, "what a newer whatsmeow keeps there"))
        elif known.what:
            found.append(LeftBehind(table, count, known.what))
    return [each for each in found if each.rows]


def _counts(db: Database, jid: str) -> Iterator[tuple[str, int]]:
    for table, owner in sorted(db.owned_tables().items()):
        statement = f"SELECT count(*) FROM {quoted(table)} WHERE {quoted(owner)} = ?"
        yield table, db.rows(statement, (jid,))[0][0]


def where(jid: str, key: Key) -> str:
    """The place of a record, for errors."""
    if key == CREDENTIALS:
        return place_of(DEVICE_TABLE, (jid,))
    if key.family not in FAMILY:
        return str(key)
    return f"{jid}, {place_of(FAMILY[key.family].table, (key.id,))}"
