"""whatsmeow's rows <-> the model.

The store moves rows; this module says what their columns mean. A record's bytes are what the store
reads from a row and writes to one:

* ``session`` and ``sender-key``: the JSON blob as it stands in the table;
* ``identity-key``: the 32 bytes; ``lid-mapping``: the other user's name in UTF-8;
* all others, MessagePack of a map: the credentials :class:`~._whatsmeow_creds.DeviceBytes`,
  ``pre-key`` :class:`PreKeyRow`, ``app-state-sync-key`` :class:`SyncKeyRow`,
  ``app-state-sync-version`` :class:`SyncVersionRow`, ``tctoken`` :class:`TokenRow`.

Keys are the model's; :mod:`._addresses` turns their ids into columns. What cannot stand in a row is
a loss of the whole record. Source: whatsmeow's schema (versions 8 to 15) and its client, by running
neonize 0.5.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import msgpack

from ratchetkeep.errors import DecodeError, InvalidValue
from ratchetkeep.model import (
    CREDENTIALS,
    AppStateSyncKey,
    AppStateSyncVersion,
    Credentials,
    EncodedRecord,
    IndexValue,
    Key,
    KeyFingerprint,
    KeyPair,
    TcToken,
    check_record,
)
from ratchetkeep.model._checks import Refused, kind_of
from ratchetkeep.model.keys import KEY_TYPE, public_of

from . import spellings
from ._addresses import Jid, mapping_of, sender_key_parts, to_whatsmeow_address
from ._base import Encoded
from ._json import from_base64, to_base64
from ._proto import message, parsed
from ._shape import Losses
from ._whatsmeow_creds import DeviceBytes, decode_credentials, encode_credentials, private_of

name = "whatsmeow"

GO_JSON = "go-json"
"""The encoding of sessions and sender keys in the tables."""

Number = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""A number as databases keep it."""

MAX_PRE_KEY_ID = 2**24 - 1
MAC_BYTES = 32


class PreKeyRow(msgspec.Struct, forbid_unknown_fields=True):
    """A pre-key: its private key, and whether the server has it."""

    key: bytes
    uploaded: bool


class SyncKeyRow(msgspec.Struct, forbid_unknown_fields=True):
    """An app state sync key: milliseconds since 1970, and a protobuf message."""

    key_data: bytes
    timestamp: Number
    fingerprint: bytes


class SyncVersionRow(msgspec.Struct, forbid_unknown_fields=True):
    """An app state collection, with the value MACs of its records by index MAC."""

    version: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    hash: bytes
    macs: dict[bytes, bytes]


class TokenRow(msgspec.Struct, forbid_unknown_fields=True):
    """A trusted-contact token: seconds since 1970, when it came and when we gave ours."""

    token: bytes
    timestamp: Number
    sender_timestamp: Number | None = None


class _NotHeld(Exception):
    """The record cannot be in the tables at all: why, and whether anybody needs it."""

    def __init__(self, what: str, *, derived: bool = False, path: str = "") -> None:
        self.what, self.derived, self.path = what, derived, path
        super().__init__(what)


def _number(value: Any) -> int | None:
    """A 64-bit number in any of its forms; None if no column can hold it."""
    if isinstance(value, dict):
        number = (value["high"] & 0xFFFFFFFF) << 32 | (value["low"] & 0xFFFFFFFF)
        value = number if value["unsigned"] or number < 2**63 else number - 2**64
    number = int(value)
    return number if -(2**63) <= number < 2**63 else None


def _note_extra(value: Any, path: str, losses: Losses) -> None:
    if value.extra:
        losses.note(path, "members that whatsmeow has no column for are left out")


# --- one family each ----------------------------------------------------------------------------


def _pre_key(row: PreKeyRow) -> KeyPair:
    if len(row.key) != 32:
        raise Refused(f"expected 32 bytes, got {kind_of(row.key)}", ".key")
    return KeyPair(public=public_of(row.key), private=row.key)


def pre_key_number(id: str) -> int | None:
    """The number of a pre-key's column; None if whatsmeow can have no such key."""
    number = int(id)
    return number if str(number) == id and number <= MAX_PRE_KEY_ID else None


def _pre_key_row(key: Key, pair: KeyPair, creds: Credentials | None, losses: Losses) -> PreKeyRow:
    number = pre_key_number(key.id)
    if number is None:
        raise _NotHeld(f"its id is no number from 0 to {MAX_PRE_KEY_ID}")
    # A key that is called uploaded and is not is never used; the other way round the server could
    # give it to two contacts, and the second one's first message could not be read.
    uploaded = creds is None or number < creds.first_unuploaded_pre_key_id
    return PreKeyRow(private_of(pair, "", losses), uploaded)


def _sync_key(row: SyncKeyRow) -> AppStateSyncKey:
    return AppStateSyncKey(
        key_data=row.key_data,
        # As Baileys spells it.
        timestamp=str(row.timestamp),
        fingerprint=_fingerprint(row.fingerprint),
    )


_MESSAGE = "AppStateSyncKeyFingerprint"
# Where a fingerprint is spelled otherwise than we do it, its bytes are kept under this name.
_FINGERPRINT = "whatsmeow"


def _fingerprint(raw: bytes) -> KeyFingerprint | None:
    if not raw:
        return None
    found = parsed(_MESSAGE, raw)
    if found is None:
        raise Refused("is no protobuf message", ".fingerprint")
    fingerprint = KeyFingerprint(
        raw_id=found.rawId if found.HasField("rawId") else None,
        current_index=found.currentIndex if found.HasField("currentIndex") else None,
        device_indexes=tuple(found.deviceIndexes) or None,
    )
    if _fingerprint_bytes(fingerprint) != raw:
        return fingerprint.replace(extra={_FINGERPRINT: raw})
    return fingerprint


def _fingerprint_bytes(value: KeyFingerprint) -> bytes:
    made = message(_MESSAGE)
    if value.raw_id is not None:
        made.rawId = value.raw_id
    if value.current_index is not None:
        made.currentIndex = value.current_index
    made.deviceIndexes.extend(value.device_indexes or ())
    return bytes(made.SerializeToString())


def _kept_fingerprint(value: KeyFingerprint | None, losses: Losses) -> bytes:
    if value is None:
        return b""
    kept = value.extra.get(_FINGERPRINT)
    if isinstance(kept, bytes):
        try:
            if _fingerprint(kept) == value:
                return kept
        except Refused:
            pass
    _note_extra(value, "fingerprint", losses)
    return _fingerprint_bytes(value)


def _sync_key_row(
    key: Key, value: AppStateSyncKey, creds: Credentials | None, losses: Losses
) -> SyncKeyRow:
    try:
        from_base64(key.id)
    except Refused:
        raise _NotHeld("its id is not base64 text, and whatsmeow keeps the bytes") from None
    _note_extra(value, "", losses)
    return SyncKeyRow(
        value.key_data,
        _sync_key_time(key, value, creds, losses),
        _kept_fingerprint(value.fingerprint, losses),
    )


def _sync_key_time(
    key: Key, value: AppStateSyncKey, creds: Credentials | None, losses: Losses
) -> int:
    """When the key was made: whatsmeow uses the newest."""
    if value.timestamp is None:
        # Of keys without a time, the one in use must be the newest.
        return int(creds is not None and creds.my_app_state_key_id == key.id)
    number = _number(value.timestamp)
    if number is None:
        what = "no column can hold the number; whatsmeow takes the key for its oldest"
        losses.note("timestamp", what)
    return number or 0


def _sync_version(row: SyncVersionRow) -> AppStateSyncVersion:
    macs = {to_base64(index): IndexValue(value_mac=mac) for index, mac in row.macs.items()}
    return AppStateSyncVersion(version=row.version, hash=row.hash, index_value_map=macs)


_REFETCH = "whatsmeow fetches the whole collection again"


def _sync_version_row(
    key: Key, value: AppStateSyncVersion, creds: Credentials | None, losses: Losses
) -> SyncVersionRow:
    if value.version >= 2**63:
        raise _NotHeld(f"no column can hold the number; {_REFETCH}", derived=True, path="version")
    if value.version == 0:
        what = "whatsmeow takes version 0 for an error; with no record it fetches all of it"
        raise _NotHeld(what, derived=True)
    _note_extra(value, "", losses)
    macs: dict[bytes, bytes] = {}
    for index, each in value.index_value_map.items():
        _note_extra(each, "index_value_map", losses)
        macs[_mac(index)] = each.value_mac
        if len(each.value_mac) != MAC_BYTES:
            raise _bad_mac()
    return SyncVersionRow(value.version, value.hash, dict(sorted(macs.items())))


def _mac(index: str) -> bytes:
    try:
        mac = from_base64(index)
    except Refused:
        raise _bad_mac() from None
    if len(mac) != MAC_BYTES:
        raise _bad_mac()
    return mac


def _bad_mac() -> _NotHeld:
    # Without one of its MACs, the collection's hash would be wrong with the next change.
    what = f"not every MAC is {MAC_BYTES} bytes long; {_REFETCH}"
    return _NotHeld(what, derived=True, path="index_value_map")


def _token(row: TokenRow) -> TcToken:
    return TcToken(
        token=row.token,
        timestamp=str(row.timestamp),
        sender_timestamp=row.sender_timestamp,
    )


# Baileys' own list of the tokens it has.
INDEX = "__index"


def _token_row(key: Key, value: TcToken, creds: Credentials | None, losses: Losses) -> TokenRow:
    if key.id == INDEX:
        what = "whatsmeow needs no list of its tokens; Baileys would not prune the older ones"
        raise _NotHeld(what, derived=True)
    jid = Jid.from_node(key.id)
    if jid is None or jid != jid.bare or jid.go != key.id:
        raise _NotHeld("its id is no user's JID, and whatsmeow keeps tokens by user")
    if not value.token:
        what = "whatsmeow keeps no empty token; it tells the contact its own one again"
        raise _NotHeld(what, derived=True)
    _note_extra(value, "", losses)
    return TokenRow(value.token, _token_time(value, losses), _given_time(value, losses))


def _token_time(value: TcToken, losses: Losses) -> int:
    number = None if value.timestamp is None else _number(value.timestamp)
    if number is None:
        what = "the token has no time that a column can hold: whatsmeow takes it for expired"
        losses.note("timestamp", what)
    return number or 0


def _given_time(value: TcToken, losses: Losses) -> int | None:
    number = None if value.sender_timestamp is None else _number(value.sender_timestamp)
    if number is None and value.sender_timestamp is not None:
        what = "no column can hold the number; whatsmeow tells the contact its own token again"
        losses.note("sender_timestamp", what, derived=True)
    return number


_DECODERS: dict[str, tuple[msgpack.Decoder[Any], Callable[[Any], Any]]] = {
    CREDENTIALS.family: (msgpack.Decoder(DeviceBytes), decode_credentials),
    "pre-key": (msgpack.Decoder(PreKeyRow), _pre_key),
    "app-state-sync-key": (msgpack.Decoder(SyncKeyRow), _sync_key),
    "app-state-sync-version": (msgpack.Decoder(SyncVersionRow), _sync_version),
    "tctoken": (msgpack.Decoder(TokenRow), _token),
}

_ROWS: dict[str, Callable[[Key, Any, Credentials | None, Losses], Any]] = {
    "pre-key": _pre_key_row,
    "app-state-sync-key": _sync_key_row,
    "app-state-sync-version": _sync_version_row,
    "tctoken": _token_row,
}

_NO_TABLE = {
    "device-list": "whatsmeow asks the server for each contact's devices after every start",
    "sender-key-memory": "whatsmeow sends its sender key along with every group message",
}


# --- the format ---------------------------------------------------------------------------------


def decode(key: Key, raw: bytes) -> Any:
    """The value in the row of ``key``; sessions and sender keys stay in their own encoding.

    :raises DecodeError: naming the column and what is wrong with it, never its content.
    """
    try:
        value = _decoded(key, raw)
        return value if key == CREDENTIALS else check_record(key, value)
    except Refused as refused:
        raise DecodeError(refused.path.lstrip("."), refused.what) from None
    except InvalidValue as invalid:
        raise DecodeError(invalid.place.partition(".")[2], invalid.what) from None


def _decoded(key: Key, raw: bytes) -> Any:
    if key.family in ("session", "sender-key"):
        if not raw:
            raise Refused("is empty")
        return EncodedRecord(encoding=GO_JSON, data=raw)
    if key.family == "identity-key":
        if len(raw) != 32:
            raise Refused(f"expected 32 bytes, got {kind_of(raw)}")
        return KEY_TYPE + raw
    if key.family == "lid-mapping":
        return _other_user(key, raw)
    if key.family not in _DECODERS:
        raise Refused("is of a family that whatsmeow has no table for")
    decoder, read = _DECODERS[key.family]
    try:
        row = decoder.decode(raw)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        # Never the error's own text: it may quote what it stumbled on.
        raise Refused("its columns are not those of the table") from None
    return read(row)


def _other_user(key: Key, raw: bytes) -> str:
    try:
        other = raw.decode()
    except UnicodeDecodeError:
        raise Refused("is not UTF-8 text") from None
    if mapping_of(key.id, other) is None:
        raise Refused("is no LID and phone number")
    return other


def encode(key: Key, value: Any, credentials: Credentials | None = None) -> Encoded:
    """The row of ``key``, and what of ``value`` it cannot hold.

    :param credentials: the device's: which pre-keys the server has, and whose sessions these are.
    :raises DecodeError: for a session or sender key in another spelling that is damaged.
    """
    losses = Losses()
    try:
        data = _encoded(key, value, credentials, losses)
    except _NotHeld as reason:
        losses.note(reason.path, reason.what, derived=reason.derived)
        data = None
    return Encoded(data, tuple(losses.found))


def _encoded(key: Key, value: Any, creds: Credentials | None, losses: Losses) -> bytes | None:
    if key == CREDENTIALS:
        return encode_credentials(value, losses)
    if key.family in _NO_TABLE:
        raise _NotHeld(_NO_TABLE[key.family], derived=True)
    if key.family in ("session", "sender-key"):
        return _spelled(key, value, creds, losses)
    if isinstance(value, EncodedRecord):
        raise _NotHeld(f"a record in the encoding {value.encoding!r} cannot be written as a row")
    if key.family == "identity-key":
        _check_address(key)
        return bytes(value[-32:])
    if key.family == "lid-mapping":
        if mapping_of(key.id, value) is None:
            raise _NotHeld("is no LID and phone number, and whatsmeow keeps nothing else")
        return bytes(value.encode())
    return msgpack.encode(_ROWS[key.family](key, value, creds, losses))


def _check_address(key: Key) -> None:
    if key.family == "sender-key":
        held = sender_key_parts(key.id) is not None
    else:
        held = to_whatsmeow_address(key.id) is not None
    if not held:
        raise _NotHeld("its id is no Signal address, and whatsmeow would never find the record")


def _spelled(key: Key, value: Any, creds: Credentials | None, losses: Losses) -> bytes | None:
    _check_address(key)
    record = spellings.respell(key, value, GO_JSON, creds, losses)
    if record is None and not losses.found:
        raise _NotHeld("the record has no spelling that whatsmeow can read")
    if record is not None and not record.data:
        raise DecodeError("", "is empty")
    return None if record is None else record.data
