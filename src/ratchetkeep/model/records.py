"""The ten families of Signal key records, and what each holds under which ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from ratchetkeep.errors import InvalidValue

from . import _checks as c
from ._checks import Check, Refused
from ._value import EMPTY, EncodedRecord, Value
from .keys import KeyPair
from .sender_key import SenderKeyRecord
from .session import SessionRecord


class KeyFingerprint(Value, kw_only=True):
    """Which devices an app state sync key is for."""

    raw_id: int | None = None
    current_index: int | None = None
    device_indexes: tuple[int, ...] | None = None
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {
        "raw_id": c.optional(c.uint32),
        "current_index": c.optional(c.uint32),
        "device_indexes": c.optional(c.tuple_of(c.uint32)),
        "extra": c.extra,
    }


class AppStateSyncKey(Value, kw_only=True):
    """A key of the app state patches; ``timestamp`` in milliseconds, often as text."""

    key_data: bytes
    fingerprint: KeyFingerprint | None = None
    timestamp: Any = None
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {
        "key_data": c.data,
        "fingerprint": c.optional(c.instance(KeyFingerprint)),
        "timestamp": c.optional(c.number64),
        "extra": c.extra,
    }


class IndexValue(Value, kw_only=True):
    """The MAC of one app state record's value."""

    value_mac: bytes
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {"value_mac": c.data, "extra": c.extra}


class AppStateSyncVersion(Value, kw_only=True):
    """The state of one app state collection.

    :ivar hash: 128 bytes, the LT hash.
    :ivar index_value_map: by index MAC (base64 text).
    """

    version: int
    hash: bytes
    index_value_map: Mapping[str, IndexValue] = EMPTY
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {
        "version": c.uint64,
        "hash": c.size(128),
        "index_value_map": c.map_of(c.text, c.instance(IndexValue)),
        "extra": c.extra,
    }


class TcToken(Value, kw_only=True):
    """A trusted-contact token; times in seconds since 1970, the received one as text."""

    token: bytes
    timestamp: Any = None
    sender_timestamp: Any = None
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {
        "token": c.data,
        "timestamp": c.optional(c.number64),
        "sender_timestamp": c.optional(c.number64),
        "extra": c.extra,
    }


class Key(NamedTuple):
    """Where a record lives in a device. Credentials are ``CREDENTIALS``."""

    family: str
    id: str

    def __str__(self) -> str:
        return f"{self.family} {self.id}" if self.id else self.family


CREDENTIALS = Key("credentials", "")

# What each family holds; the type is the one that msgspec decodes.
FAMILIES: Mapping[str, tuple[Any, Check]] = {
    "session": (SessionRecord, c.instance(SessionRecord)),
    "pre-key": (KeyPair, c.instance(KeyPair)),
    "sender-key": (SenderKeyRecord, c.instance(SenderKeyRecord)),
    "sender-key-memory": (dict[str, bool], c.map_of(c.text, c.boolean)),
    "app-state-sync-key": (AppStateSyncKey, c.instance(AppStateSyncKey)),
    "app-state-sync-version": (AppStateSyncVersion, c.instance(AppStateSyncVersion)),
    "lid-mapping": (str, c.text),
    "device-list": (tuple[str, ...], c.tuple_of(c.text)),
    "tctoken": (TcToken, c.instance(TcToken)),
    "identity-key": (bytes, c.public_key),
}

MAX_ID_BYTES = 1024
# Half the time of a call of Key, for what is done for every record.
_key: Callable[[tuple[str, str]], Key] = partial(tuple.__new__, Key)


def check_key(family: str, id: str) -> Key:
    """The key of a record.

    :raises InvalidValue: for an unknown family, or an id that is not 1 to 1024 bytes of text
        without NUL (a number is refused too: ids are text).
    """
    if family not in FAMILIES:
        raise InvalidValue(str(family)[:40], "is none of the families " + ", ".join(FAMILIES))
    if type(id) is not str or not id or "\0" in id:
        raise InvalidValue(family, f"an id must be text that is not empty, got {c.kind_of(id)}")
    is_ascii = id.isascii()
    if not is_ascii or len(id) > MAX_ID_BYTES:
        _check_size(family, id)
    if family == "pre-key" and not (is_ascii and id.isdecimal()):
        raise InvalidValue("pre-key", "an id must be a decimal number as text")
    return _key((family, id))


def _check_size(family: str, id: str) -> None:
    try:
        if len(id.encode()) > MAX_ID_BYTES:
            raise InvalidValue(family, f"an id must be at most {MAX_ID_BYTES} bytes long")
    except UnicodeEncodeError:
        raise InvalidValue(family, "an id must be well-formed Unicode text") from None


def check_record(key: Key, value: Any) -> Any:
    """The value to keep for ``key``: checked, and frozen if it was a list or dict.

    :raises InvalidValue: naming the record and what was expected, never the content.
    """
    if type(value) is EncodedRecord:
        return value
    try:
        return FAMILIES[key.family][1](value)
    except Refused as refused:
        raise InvalidValue(f"{key}{refused.path}", refused.what) from None
