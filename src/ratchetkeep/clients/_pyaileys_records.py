"""Values of pyaileys' key store <-> values of the model.

A value is stored in the model's form only where that gives back exactly what pyaileys stored; all
others are kept in an encoding of their own:

* ``signal-protobuf``: the protobuf bytes of sessions and sender keys, as libsignal spells them;
* ``pyaileys-json``: any other value that the model has no form for, as pyaileys' own JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyaileys.util import json as bufferjson

from ratchetkeep.errors import InvalidValue, NotHeld, StoreDamaged
from ratchetkeep.model import (
    AppStateSyncKey,
    AppStateSyncVersion,
    EncodedRecord,
    IndexValue,
    Key,
    KeyFingerprint,
    KeyPair,
    TcToken,
    check_record,
)

from ._pyaileys_creds import number, plain, thaw
from ._pyaileys_proto import message, parsed
from ._ratchets import RATCHETS

PROTOBUF = "signal-protobuf"
JSON = "pyaileys-json"

# The families whose records are the client's own ratchet states.

NOT_OURS = (
    "Nothing was changed. Only a copy that converts it can bring it into pyaileys' form, and this "
    "version has none yet: pair pyaileys as a device of its own"
)


class _Unfit(Exception):
    """A value of pyaileys has no form in the model."""


def to_model(key: Key, value: Any) -> Any:
    """What is stored for a value of pyaileys.

    :raises InvalidValue: if pyaileys' own store could not write it either.
    """
    data = bytes(value) if isinstance(value, bytes | bytearray | memoryview) else None
    if key.family in RATCHETS and data is not None:
        return EncodedRecord(encoding=PROTOBUF, data=data)
    given = plain(str(key), value) if data is None else data
    try:
        held = check_record(key, _READ[key.family](given))
        if _WRITE[key.family](held) == given:
            return held
    except (_Unfit, InvalidValue):
        pass
    return EncodedRecord(encoding=JSON, data=bufferjson.dumps(given).encode())


def to_client(place: str, key: Key, held: Any) -> Any:
    """The value of pyaileys for what is stored.

    :raises NotHeld: if it is stored in a form that pyaileys cannot read.
    """
    check_form(place, key, held)
    if not isinstance(held, EncodedRecord):
        return _WRITE[key.family](held)
    if held.encoding == PROTOBUF:
        return held.data
    try:
        return bufferjson.loads(held.data.decode())
    except (ValueError, RecursionError):
        raise StoreDamaged(place, f"{key} is not the JSON of pyaileys") from None


def check_form(place: str, key: Key, held: Any) -> None:
    """See that pyaileys can read what is stored.

    :raises NotHeld: if it is another library's.
    """
    encoding = held.encoding if isinstance(held, EncodedRecord) else None
    if encoding == JSON or (encoding == PROTOBUF and key.family in RATCHETS):
        return
    if encoding is not None:
        raise NotHeld(place, f"{key} is in the encoding {encoding!r} of another client", NOT_OURS)
    if key.family in RATCHETS:
        raise NotHeld(place, f"{key} is in the form of Baileys, not in that of pyaileys", NOT_OURS)


def _none(value: Any) -> Any:
    raise _Unfit


def _same(value: Any) -> Any:
    return value


def _members(value: Any, *names: str) -> list[Any]:
    if not isinstance(value, dict) or set(value) != set(names):
        raise _Unfit
    return [value[name] for name in names]


def _read_pair(value: Any) -> KeyPair:
    public, private = _members(value, "public", "private")
    return KeyPair(public=public, private=private)


def _write_pair(pair: KeyPair) -> dict[str, bytes]:
    return {"public": pair.public, "private": pair.private}


def _read_token(value: Any) -> TcToken:
    names = ["token", "timestamp"]
    if isinstance(value, dict) and "senderTimestamp" in value:
        names.append("senderTimestamp")
    token, timestamp, *sent = _members(value, *names)
    return TcToken(token=token, timestamp=timestamp, sender_timestamp=sent[0] if sent else None)


def _write_token(token: TcToken) -> dict[str, Any]:
    members = {"token": token.token, "timestamp": thaw(token.timestamp)}
    if token.sender_timestamp is not None:
        members["senderTimestamp"] = thaw(token.sender_timestamp)
    return members


def _read_version(value: Any) -> AppStateSyncVersion:
    version, hash, index = _members(value, "version", "hash", "indexValueMap")
    if not isinstance(index, dict):
        raise _Unfit
    macs = {name: IndexValue(value_mac=mac) for name, mac in index.items()}
    return AppStateSyncVersion(version=version, hash=hash, index_value_map=macs)


def _write_version(state: AppStateSyncVersion) -> dict[str, Any]:
    macs = {name: value.value_mac for name, value in state.index_value_map.items()}
    return {"version": state.version, "hash": state.hash, "indexValueMap": macs}


_SYNC_KEY = "Message.AppStateSyncKeyData"


def _read_sync_key(value: Any) -> AppStateSyncKey:
    data = parsed(_SYNC_KEY, value) if isinstance(value, bytes) else None
    if data is None or not data.HasField("keyData"):
        raise _Unfit
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


def _write_sync_key(key: AppStateSyncKey) -> bytes:
    data = message(_SYNC_KEY)
    data.keyData = key.key_data
    timestamp = number(key.timestamp)
    if timestamp is not None and -(2**63) <= timestamp < 2**63:
        data.timestamp = timestamp
    if key.fingerprint is not None:
        data.fingerprint.SetInParent()
        if key.fingerprint.raw_id is not None:
            data.fingerprint.rawId = key.fingerprint.raw_id
        if key.fingerprint.current_index is not None:
            data.fingerprint.currentIndex = key.fingerprint.current_index
        data.fingerprint.deviceIndexes.extend(key.fingerprint.device_indexes or ())
    return bytes(data.SerializeToString())


_READ: Mapping[str, Callable[[Any], Any]] = {
    "session": _none,
    "sender-key": _none,
    "pre-key": _read_pair,
    "sender-key-memory": _same,
    "app-state-sync-key": _read_sync_key,
    "app-state-sync-version": _read_version,
    "lid-mapping": _same,
    "device-list": _same,
    "tctoken": _read_token,
    "identity-key": _same,
}
_WRITE: Mapping[str, Callable[[Any], Any]] = {
    "pre-key": _write_pair,
    "sender-key-memory": dict,
    "app-state-sync-key": _write_sync_key,
    "app-state-sync-version": _write_version,
    "lid-mapping": _same,
    "device-list": list,
    "tctoken": _write_token,
    "identity-key": _same,
}
