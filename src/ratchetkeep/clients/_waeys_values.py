"""What waeys keeps, as values of the model, and back.

waeys is a port of Baileys, so what it keeps are Baileys' shapes with ``bytes`` for buffers. They
are spelled as Baileys' JSON and read by that format's own tables; a record is kept so only if it
comes back exactly. What does not is kept as it is, as an EncodedRecord under :data:`ENCODING`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ratchetkeep.errors import DecodeError, InvalidValue, NotHeld
from ratchetkeep.formats._baileys_signal import SENDER_KEY, SENDER_STATE, SESSION
from ratchetkeep.formats._json import (
    dump,
    from_base64,
    from_buffer,
    parse,
    to_buffer,
    to_free,
)
from ratchetkeep.formats._shape import ABSENT, PRIVATE, Losses
from ratchetkeep.formats.baileys import CODECS, CREDS
from ratchetkeep.model import (
    Credentials,
    EncodedRecord,
    SenderKeyRecord,
    check_key,
    check_record,
)
from ratchetkeep.model._checks import MAX_DEPTH, Refused, kind_of
from ratchetkeep.model._value import Value

ENCODING = "waeys-json"
"""The encoding of records that the model cannot hold exactly: JSON, with Buffer objects."""

# Members that ``init_auth_creds`` makes as None; the model and Baileys leave them out.
_NONE_AT_FIRST = ("pairingCode", "lastPropHash", "routingInfo", "additionalData")
# Baileys writes these as base64 text; waeys encodes them as protocol buffers and needs bytes.
_ACCOUNT = ("details", "accountSignatureKey", "accountSignature", "deviceSignature")


def spelled(value: Any, depth: int = 0) -> Any:
    """``value`` as JSON with Buffer objects for bytes; Refused for what JSON cannot spell."""
    if depth > MAX_DEPTH:
        raise Refused(f"nested deeper than {MAX_DEPTH} levels")
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return to_buffer(bytes(value))
    if isinstance(value, int):
        return int(value)  # the enumerations of protocol buffers
    if isinstance(value, list | tuple):
        return [_part(each, f"[{place}]", depth) for place, each in enumerate(value)]
    if isinstance(value, Mapping):
        if not all(type(name) is str for name in value):
            raise Refused("expected a mapping by text")
        return {name: _part(each, f".{name}", depth) for name, each in value.items()}
    fields = getattr(type(value), "FIELDS", None)
    if fields is None:
        raise Refused(f"{kind_of(value)} cannot be kept")
    # A message of the protocol, such as the account that pairing gives.
    members = {name: getattr(value, name) for name in fields}
    return {name: _part(v, f".{name}", depth) for name, v in members.items() if v is not None}


def _part(value: Any, place: str, depth: int) -> Any:
    try:
        return spelled(value, depth + 1)
    except Refused as refused:
        raise Refused(refused.what, f"{place}{refused.path}") from None


def revived(raw: Any) -> Any:
    """The value that JSON with Buffer objects spells, new in every part."""
    if isinstance(raw, dict):
        if raw.get("type") == "Buffer" and set(raw) == {"type", "data"}:
            return from_buffer(raw)
        return {name: revived(each) for name, each in raw.items()}
    if isinstance(raw, list | tuple):
        return [revived(each) for each in raw]
    return raw


def _with_bytes(members: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {
        name: from_base64(value) if name in names and isinstance(value, str) else value
        for name, value in members.items()
    }


# -- records -------------------------------------------------------------------------------------


def to_record(family: str, id: str, value: Any) -> Any:
    """The record to keep for what waeys sets.

    :raises InvalidValue: naming the record, if it is nothing that JSON and bytes can spell.
    """
    key = check_key(family, id)
    try:
        model = _to_model(family, value)
        if model is not None and _is_same(family, model, value):
            return check_record(key, model)
    except (Refused, DecodeError, InvalidValue, ValueError, TypeError, LookupError, AttributeError):
        pass  # an odd one, not of the shape at all perhaps: kept as it is
    try:
        return EncodedRecord(encoding=ENCODING, data=dump(spelled(value)))
    except (Refused, ValueError) as error:
        if isinstance(error, Refused):
            raise InvalidValue(f"{key}{error.path}", error.what) from None
        raise InvalidValue(str(key), "holds a number that JSON cannot spell") from None


def from_record(family: str, id: str, record: Any, url: str = "") -> Any:
    """What waeys gets for a record: new in every part, since waeys changes what it is given.

    :param url: the store, for the error.
    :raises NotHeld: for a record in the encoding of another client.
    """
    if not isinstance(record, EncodedRecord):
        return _from_model(family, record)
    if record.encoding != ENCODING:
        raise NotHeld(
            f"{url} ({family} {id})",
            f"is in the encoding {record.encoding!r} of another client, which waeys cannot read",
            "Nothing was changed. Copy the device to a sqlite: store in waeys' form: "
            "`ratchetkeep copy SRC DST --for waeys`",
        )
    return revived(parse(record.data))


def _is_same(family: str, model: Any, value: Any) -> bool:
    """Whether waeys would get back what it set, in types too."""
    back = _from_model(family, model)
    if family == "session":
        return bool(_sessions(back, _without) == _sessions(value, _without))
    return bool(dump(spelled(back)) == dump(spelled(value)))


def _to_model(family: str, value: Any) -> Any:
    if family == "session":
        return SESSION.decode(_sessions(value, _without))
    if family == "sender-key":
        return SENDER_KEY.decode(parse(value)) if type(value) is bytes else None
    return CODECS[family].decode(spelled(value))


def _from_model(family: str, model: Any) -> Any:
    losses = Losses()  # of no interest: what JSON cannot spell, waeys could not use
    if family == "session":
        return _sessions(SESSION.encode(model, "", losses), _with)
    if family == "sender-key":
        return _sender_key(model, losses)
    value = revived(CODECS[family].encode(model, "", losses))
    if family == "app-state-sync-key":
        return _with_bytes(value, ("keyData",))
    return value


# waeys says None of these members, where Baileys leaves them out.
def _without(name: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    def change(members: Mapping[str, Any]) -> dict[str, Any]:
        return {each: value for each, value in members.items() if (each, value) != (name, None)}

    return change


def _with(name: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return lambda members: {name: None, **members}


def _sessions(record: Any, change: Callable[[str], Callable[[Mapping[str, Any]], Any]]) -> Any:
    """A session record with what closed chains and old sessions leave out changed by ``change``;
    the given one is left alone."""
    entry, chain_key = change("registrationId"), change("key")

    def chain(held: Any) -> Any:
        return {**held, "chainKey": chain_key(held["chainKey"])}

    def session(held: Any) -> Any:
        return entry({**held, "_chains": _each(held["_chains"], chain)})

    return {**record, "_sessions": _each(record["_sessions"], session)}


def _each(members: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    return {name: change(value) for name, value in members.items()}


def _sender_key(record: SenderKeyRecord, losses: Losses) -> bytes:
    """The JSON text that waeys keeps, letter by letter."""
    states = [SENDER_STATE.encode(state, "", losses) for state in record.states]
    for written, state in zip(states, record.states, strict=True):
        # Baileys' format writes 33 bytes; waeys keeps what the other side sent.
        public = list(state.sender_signing_key.public)
        written["senderSigningKey"]["public"] = {"type": "Buffer", "data": public}
    return json.dumps(states).encode()


# -- credentials ---------------------------------------------------------------------------------


def to_credentials(creds: Mapping[str, Any], stored: Credentials) -> Credentials:
    """The credentials to keep for waeys' ``creds``.

    :param stored: those that are kept now: what of them waeys cannot spell is carried over.
    :raises InvalidValue: naming the member that is refused.
    """
    given = {
        name: value
        for name, value in creds.items()
        if value is not None or name not in _NONE_AT_FIRST or name in stored.extra
    }
    try:
        decoded: Credentials = CREDS.decode(spelled(given))
    except Refused as refused:
        raise InvalidValue(f"creds{refused.path}", refused.what) from None
    return _unchanged(stored, _carried(stored, decoded), creds)


def _unchanged(old: Credentials, new: Credentials, creds: Mapping[str, Any]) -> Credentials:
    """``new`` with the members that are as waeys got them kept as they were, in all detail."""
    seen = from_credentials(old)

    def is_same(name: str) -> bool:
        return bool(dump(spelled(seen.get(name))) == dump(spelled(creds.get(name))))

    same = {each.attr: getattr(old, each.attr) for each in CREDS.members if is_same(each.name)}
    extra = {name: old.extra[name] for name in new.extra if name in old.extra and is_same(name)}
    return new.replace(**same, extra={**new.extra, **extra})


def from_credentials(credentials: Credentials) -> dict[str, Any]:
    """The ``creds`` of waeys, with the members that its ``init_auth_creds`` makes."""
    creds: dict[str, Any] = revived(CREDS.encode(credentials, "", Losses()))
    if isinstance(creds.get("account"), dict):
        creds["account"] = _with_bytes(creds["account"], _ACCOUNT)
    for name in _NONE_AT_FIRST:
        creds.setdefault(name, None)
    return creds


def _carried(old: Any, new: Any) -> Any:
    """``new`` with what only other formats can spell, as ``old`` held it."""
    changes: dict[str, Any] = {}
    for name in new.__struct_fields__:
        before, now = getattr(old, name), getattr(new, name)
        if isinstance(now, Value) and type(now) is type(before):
            kept = _carried(before, now)
            if kept is not now:
                changes[name] = kept
    hidden = {
        name: value
        for name, value in old.extra.items()
        if name not in new.extra
        and (name.startswith(PRIVATE) or to_free(value, "", Losses()) is ABSENT)
    }
    if hidden:
        changes["extra"] = {**new.extra, **hidden}
    return new.replace(**changes) if changes else new
