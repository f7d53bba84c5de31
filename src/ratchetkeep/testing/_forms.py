"""What values become in the form of a client that has another one for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ratchetkeep.formats import native
from ratchetkeep.model import (
    Account,
    AppStateSyncKey,
    AppStateSyncVersion,
    Credentials,
    EncodedRecord,
    IndexValue,
    Key,
    KeyPair,
    SenderKeyRecord,
    SessionRecord,
    SignedPreKey,
)


def as_pyaileys(value: Any) -> Any:
    """The value as it comes back from a folder of pyaileys.

    Sessions and sender keys become some bytes, which that folder does not look into: another value
    gives other bytes.
    """
    make = _PYAILEYS.get(type(value))
    return value if make is None else make(value)


def _encoded(value: Any) -> EncodedRecord:
    data = native.encode(Key("session", "1.0"), value).data or b""
    return EncodedRecord(encoding="signal-protobuf", data=data)


def _pair(pair: KeyPair) -> KeyPair:
    return pair.replace(public=pair.public[-32:])


def _signed(signed: SignedPreKey) -> SignedPreKey:
    return signed.replace(key_pair=_pair(signed.key_pair))


def _identity(public: bytes) -> bytes:
    return b"\x05" + public[-32:]


def _sync_key(key: AppStateSyncKey) -> AppStateSyncKey:
    mark = key.fingerprint
    if mark is not None:
        mark = mark.replace(device_indexes=mark.device_indexes or None, extra={})
    return key.replace(fingerprint=mark, timestamp=_number(key.timestamp), extra={})


def _sync_version(state: AppStateSyncVersion) -> AppStateSyncVersion:
    macs = state.index_value_map.items()
    return state.replace(
        index_value_map={name: IndexValue(value_mac=mac.value_mac) for name, mac in macs}
    )


def _credentials(credentials: Credentials) -> Credentials:
    account: Account | None = credentials.account
    return credentials.replace(
        noise_key=_pair(credentials.noise_key),
        pairing_ephemeral_key_pair=_pair(
            credentials.pairing_ephemeral_key_pair or credentials.noise_key
        ),
        signed_identity_key=_pair(credentials.signed_identity_key),
        signed_pre_key=_signed(credentials.signed_pre_key),
        account=account and account.replace(extra={}),
        last_account_sync_timestamp=_number(credentials.last_account_sync_timestamp),
    )


def _number(value: Any) -> int | None:
    if isinstance(value, Mapping):
        low, high = value["low"] % 2**32, value["high"] % 2**32
        whole: int = high * 2**32 + low
        value = whole if value["unsigned"] or high < 2**31 else whole - 2**64
    number = None if value is None else int(value)
    return number if number is not None and -(2**63) <= number < 2**63 else None


_PYAILEYS: Mapping[type, Callable[[Any], Any]] = {
    SessionRecord: _encoded,
    SenderKeyRecord: _encoded,
    KeyPair: _pair,
    bytes: _identity,
    AppStateSyncKey: _sync_key,
    AppStateSyncVersion: _sync_version,
    Credentials: _credentials,
}


def as_baileysex_json(value: Any) -> Any:
    """A value with nothing in it that BaileysEx's compat JSON has no place for, or spells
    otherwise: an account has all of its members."""
    if isinstance(value, Credentials) and value.account is not None:
        parts = {name: getattr(value.account, name) or b"" for name in _OF_ACCOUNTS}
        return value.replace(account=value.account.replace(**parts))
    return value


_OF_ACCOUNTS = ("details", "account_signature_key", "account_signature", "device_signature")
