"""pyaileys' own folder (``MultiFileAuthState``): the text of each file <-> the model.

Reads and writes what ``pyaileys`` 0.1.5 does (source: running it); a file that came from it goes
back as the same bytes. Sessions and sender keys are the protobuf bytes of libsignal, which are kept
as they are, in the encoding ``signal-protobuf``. A value of another family that the model has no
form for is kept as the file's bytes, in the encoding ``pyaileys-json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    TcToken,
    check_record,
)
from ratchetkeep.model._checks import Refused

from . import baileys, spellings
from ._base import Encoded
from ._json import BOOL, INT, NUMBER64, TEXT, to_base64
from ._proto import message, parsed
from ._pyaileys_creds import KEY_PAIR, TIME, decode_creds, encode_creds
from ._pyaileys_json import (
    BUFFER,
    OBJECT,
    TYPED_PUBLIC,
    check_buffers,
    dump,
    is_same,
    note_extra,
    parse_text,
)
from ._shape import Codec, Losses, Many, Member, Shape

name = "pyaileys"

PROTOBUF = "signal-protobuf"
JSON = "pyaileys-json"

RATCHETS = frozenset(spellings.FAMILIES)
"""The families whose records are bytes of libsignal."""

_SYNC_KEY = "AppStateSyncKeyData"


class SyncKeyBytes:
    """An app state sync key: the bytes of the protobuf message that the phone shared."""

    def decode(self, raw: Any) -> AppStateSyncKey:
        data = parsed(_SYNC_KEY, BUFFER.decode(raw))
        if data is None or not data.HasField("keyData"):
            raise Refused(f"is no {_SYNC_KEY}")
        mark = data.fingerprint
        fingerprint = KeyFingerprint(
            raw_id=mark.rawId if mark.HasField("rawId") else None,
            current_index=mark.currentIndex if mark.HasField("currentIndex") else None,
            device_indexes=tuple(mark.deviceIndexes) or None,
        )
        return AppStateSyncKey(
            key_data=data.keyData,
            fingerprint=fingerprint if data.HasField("fingerprint") else None,
            timestamp=data.timestamp if data.HasField("timestamp") else None,
        )

    def encode(self, value: AppStateSyncKey, path: str, losses: Losses) -> Any:
        note_extra(value, path, losses)
        data = message(_SYNC_KEY)
        data.keyData = value.key_data
        if value.timestamp is not None:
            timestamp = TIME.encode(value.timestamp, f"{path}.timestamp", losses)
            if timestamp is not None:
                data.timestamp = timestamp
        mark = value.fingerprint
        if mark is not None:
            note_extra(mark, f"{path}.fingerprint", losses)
            data.fingerprint.SetInParent()
            if mark.raw_id is not None:
                data.fingerprint.rawId = mark.raw_id
            if mark.current_index is not None:
                data.fingerprint.currentIndex = mark.current_index
            data.fingerprint.deviceIndexes.extend(mark.device_indexes or ())
        return BUFFER.encode(bytes(data.SerializeToString()), path, losses)


class IndexMac:
    """The MAC of one app state record: the bytes alone."""

    def decode(self, raw: Any) -> IndexValue:
        return IndexValue(value_mac=BUFFER.decode(raw))

    def encode(self, value: IndexValue, path: str, losses: Losses) -> Any:
        note_extra(value, path, losses)
        return BUFFER.encode(value.value_mac, path, losses)


_SYNC_VERSION = Shape(
    AppStateSyncVersion,
    OBJECT,
    [
        Member("version", "version", INT),
        Member("hash", "hash", BUFFER),
        Member("index_value_map", "indexValueMap", baileys.MapOf(IndexMac())),
    ],
)
_TCTOKEN = Shape(
    TcToken,
    OBJECT,
    [
        Member("token", "token", BUFFER),
        Member("timestamp", "timestamp", NUMBER64, None),
        Member("sender_timestamp", "senderTimestamp", NUMBER64, None),
    ],
)

CODECS: Mapping[str, Codec] = {
    "pre-key": KEY_PAIR,
    "sender-key-memory": baileys.MapOf(BOOL),
    "app-state-sync-key": SyncKeyBytes(),
    "app-state-sync-version": _SYNC_VERSION,
    "lid-mapping": TEXT,
    "device-list": Many(TEXT),
    "tctoken": _TCTOKEN,
    "identity-key": TYPED_PUBLIC,
}


def decode(key: Key, raw: bytes) -> Any:
    """The value in the text of the file of ``key``.

    :raises DecodeError: naming the member and what is wrong with it, never its content.
    """
    try:
        given = parse_text(raw)
        if key == CREDENTIALS:
            return decode_creds(given)
        return _decode_record(key, given, raw)
    except Refused as refused:
        raise DecodeError(refused.path.lstrip("."), refused.what) from None


def _decode_record(key: Key, given: Any, raw: bytes) -> Any:
    """The model's value, if that gives back what pyaileys stored; else what it stored."""
    try:
        if key.family in RATCHETS:
            return EncodedRecord(encoding=PROTOBUF, data=BUFFER.decode(given))
        value = check_record(key, CODECS[key.family].decode(given))
        if is_same(CODECS[key.family].encode(value, "", Losses()), given):
            return value
    except (Refused, InvalidValue):
        pass
    check_buffers(given)
    return EncodedRecord(encoding=JSON, data=raw)


def encode(key: Key, value: Any, credentials: Credentials | None = None) -> Encoded:
    """The text of the file of ``key``, and what of ``value`` it cannot hold.

    :raises DecodeError: for a session or sender key in another spelling that is damaged.
    """
    losses = Losses()
    if key == CREDENTIALS:
        data: bytes | None = dump(encode_creds(value, losses), indent=2)
    elif isinstance(value, EncodedRecord) and value.encoding == JSON:
        data = _untouched(key, value.data, losses)
    elif key.family in RATCHETS:
        data = _encode_ratchet(key, value, credentials, losses)
    elif isinstance(value, EncodedRecord):
        what = f"a record in the encoding {value.encoding!r} cannot be read by pyaileys"
        losses.note("", what)
        data = None
    else:
        data = dump(CODECS[key.family].encode(value, "", losses))
    return Encoded(data, tuple(losses.found))


def _untouched(key: Key, data: bytes, losses: Losses) -> bytes | None:
    """pyaileys' own JSON as it came."""
    try:
        decode(key, data)
    except DecodeError as error:
        losses.note(error.place, f"is not the JSON of pyaileys: it {error.what}")
        return None
    return data


def _encode_ratchet(
    key: Key, value: Any, credentials: Credentials | None, losses: Losses
) -> bytes | None:
    spelled = spellings.for_client(key, value, name, credentials, losses)
    if spelled is None:
        return None
    # As dump does it, in one step: there are thousands.
    return b'{"data": "%b", "type": "Buffer"}' % to_base64(spelled.data).encode("ascii")
