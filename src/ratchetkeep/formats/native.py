"""Our own record format: an envelope around MessagePack of the model.

``RK``, format version (1 byte), flags (1 byte), checksum (8 bytes), payload. The checksum is
BLAKE2b-64 over version, flags, the record's family and id, and the payload: it finds damage, and a
row that stands under another record's id. Flags say what the payload needs of its reader; a flag or
version that we do not know is refused, so that a later version can add encryption.

The payload is the value's members by name (MessagePack, by msgspec). What plain MessagePack cannot
hold, lone surrogates and numbers over 64 bits, are extension values, marked by a flag.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import msgpack
from msgspec.msgpack import Ext

from ratchetkeep.errors import DecodeError, InvalidValue, UnsupportedVersion
from ratchetkeep.model import (
    CREDENTIALS,
    FAMILIES,
    Credentials,
    EncodedRecord,
    Foreign,
    Key,
    Session,
    SessionRecord,
    Value,
    check_record,
)

from ._base import Encoded

name = "native"

MAGIC = b"RK"
VERSION = 1
_HEADER = struct.Struct("2sBB8s")
HEADER = _HEADER.size

RICH = 1
"""The payload holds extension values."""
ENCODED = 2
"""The payload is an EncodedRecord, whatever the family."""
LIBSIGNAL = 4
"""The payload is a session with members that only libsignal's spellings have."""
KNOWN_FLAGS = RICH | ENCODED | LIBSIGNAL

_SURROGATES, _BIG, _FOREIGN, _PAIRS = 1, 2, 3, 4

# Payload upgrades, by the version that they start from: version n's gives version n + 1's bytes.
UPGRADES: dict[int, Callable[[str, bytes], bytes]] = {}


# Copied for every record: setting the parameters takes as long as hashing a small record.
_HASH = hashlib.blake2b(digest_size=8, person=b"ratchetkeep")


@lru_cache(maxsize=64)
def _begun(version: int, flags: int, family: str) -> Any:
    """The hash over what many records have in common."""
    checksum = _HASH.copy()
    checksum.update(b"%c%c%b\0" % (version, flags, family.encode()))
    return checksum


def _checksum(version: int, flags: int, key: Key, payload: bytes) -> bytes:
    checksum = _begun(version, flags, key.family).copy()
    checksum.update(b"%b\0%b" % (key.id.encode(), payload))
    return bytes(checksum.digest())


def _to_ext(value: Any) -> Ext:
    if isinstance(value, Foreign):
        return Ext(_FOREIGN, msgpack.encode((value.encoding, value.data)))
    raise TypeError(f"{type(value).__name__} has no native form")


def _from_ext(code: int, data: memoryview) -> Any:
    if code == _FOREIGN:
        return Foreign(*msgpack.decode(data, type=tuple[str, bytes]))
    if code == _SURROGATES:
        return bytes(data).decode("utf-8", "surrogatepass")
    if code == _BIG:
        return int.from_bytes(data, "big", signed=True)
    if code == _PAIRS:
        return dict(_ANY.decode(data))
    raise ValueError("an extension value of an unknown kind")


_ENCODER = msgpack.Encoder(enc_hook=_to_ext)
_ANY = msgpack.Decoder(ext_hook=_from_ext)
_TYPES: dict[str, Any] = {family: kind for family, (kind, _) in FAMILIES.items()}
_TYPES[CREDENTIALS.family] = Credentials
_TYPED = {family: msgpack.Decoder(kind, ext_hook=_from_ext) for family, kind in _TYPES.items()}
_ENCODED = msgpack.Decoder(EncodedRecord)


def _rich(value: Any) -> Any:
    """``value`` as builtins, with extension values for what MessagePack cannot hold."""
    if isinstance(value, msgspec.Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        return {name: _rich(v) for name, v in fields.items() if v is not None}
    if isinstance(value, dict):
        pairs = [(_rich(k), _rich(v)) for k, v in value.items()]
        if any(isinstance(k, Ext) for k, _ in pairs):
            return Ext(_PAIRS, _ENCODER.encode(pairs))
        return dict(pairs)
    if isinstance(value, tuple | list):
        return [_rich(each) for each in value]
    if type(value) is int and not -(2**63) <= value < 2**64:
        return Ext(_BIG, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    if isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value):
        return Ext(_SURROGATES, value.encode("utf-8", "surrogatepass"))
    return value


def encode(key: Key, value: Any, credentials: Credentials | None = None) -> Encoded:
    """The record's bytes; this format holds everything, so nothing is ever lost."""
    flags = _needs(value)
    try:
        payload = _ENCODER.encode(value)
    except (UnicodeEncodeError, OverflowError):
        flags |= RICH
        payload = _ENCODER.encode(_rich(value))
    checksum = _checksum(VERSION, flags, key, payload)
    return Encoded(b"%b%c%c%b%b" % (MAGIC, VERSION, flags, checksum, payload), ())


def _needs(value: Any) -> int:
    """What a reader must know of: one that does not would drop it."""
    if isinstance(value, EncodedRecord):
        return ENCODED
    if isinstance(value, SessionRecord) and any(map(_is_of_libsignal, value.sessions.values())):
        return LIBSIGNAL
    return 0


def _is_of_libsignal(session: Session) -> bool:
    if session.local_registration_id is not None:
        return True
    return any(chain.derived_keys for chain in session.chains.values())


def decode(key: Key, raw: bytes) -> Any:
    """The value in ``raw``, upgraded if an older version wrote it.

    :raises UnsupportedVersion: if a newer version wrote it.
    :raises DecodeError: if it is damaged, or is another record's.
    """
    if len(raw) < HEADER or raw[:2] != MAGIC:
        raise DecodeError("", "is not a record of ours, or is cut short")
    _, version, flags, checksum = _HEADER.unpack_from(raw)
    if version > VERSION or flags & ~KNOWN_FLAGS:
        raise UnsupportedVersion("", f"is in format version {version}, flags {flags}")
    payload = raw[HEADER:]
    if _checksum(version, flags, key, payload) != checksum:
        raise DecodeError("", "its checksum is wrong: it is damaged, or another record's")
    decoder = _TYPED.get(key.family)
    if decoder is None:
        raise UnsupportedVersion("", "is of a family that this version does not know")
    if version != VERSION:
        payload = _upgraded(version, key.family, payload)
    try:
        value = _decode_flagged(key, flags, payload) if flags else decoder.decode(payload)
        # Values of the model have checked themselves, and are of the type that was asked for.
        return value if isinstance(value, Value) else check_record(key, value)
    except (msgspec.MsgspecError, InvalidValue, ValueError, TypeError, RecursionError):
        # Never the error's own text: it may quote what it stumbled on.
        raise DecodeError("", f"its members are not those of a {key.family} record") from None


def _upgraded(version: int, family: str, payload: bytes) -> bytes:
    if version not in UPGRADES:
        raise DecodeError("", f"format version {version} was never written")
    for step in range(version, VERSION):
        payload = UPGRADES[step](family, payload)
    return payload


def _decode_flagged(key: Key, flags: int, payload: bytes) -> Any:
    if flags & ENCODED:
        return _ENCODED.decode(payload)
    if not flags & RICH:
        return _TYPED[key.family].decode(payload)
    return msgspec.convert(_ANY.decode(payload), _TYPES[key.family], builtin_types=(bytes,))
