"""pyaileys' credentials: the JSON of each member <-> the model's.

What pyaileys holds and the model has no place for (an account identity in other bytes than the
usual ones, a member of another shape) stays in ``Credentials.extra["pyaileys"]``. It counts only as
long as the model's own member is the one that it was written with: if another program changed that,
its value is the newer one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from ratchetkeep.errors import InvalidValue
from ratchetkeep.model import (
    Account,
    AccountSettings,
    Contact,
    Credentials,
    KeyPair,
    SignedPreKey,
)
from ratchetkeep.model._checks import Refused, kind_of
from ratchetkeep.model.keys import public_of

from . import baileys
from ._json import BOOL, INT, NUMBER64, TEXT, from_base64, to_base64
from ._proto import message, parsed
from ._pyaileys_json import BARE_PUBLIC, BUFFER, FREE, OBJECT, Whole, is_same, note_extra
from ._shape import ABSENT, Codec, Leaf, Losses, Many, Member

EXTRA = "pyaileys"
"""The member of ``Credentials.extra`` for what the model has no place for."""

KEY_PAIR = Whole(
    KeyPair,
    OBJECT,
    [Member("private", "private", BUFFER), Member("public", "public", BARE_PUBLIC)],
)
_SIGNED = Whole(
    SignedPreKey,
    OBJECT,
    [
        Member("key_pair", "key_pair", KEY_PAIR),
        Member("signature", "signature", BUFFER),
        Member("key_id", "key_id", INT),
    ],
)
_CONTACT = Whole(
    Contact,
    OBJECT,
    [
        Member("id", "id", TEXT),
        Member("name", "name", TEXT, None),
        Member("lid", "lid", TEXT, None),
    ],
)
_SETTINGS = Whole(
    AccountSettings,
    OBJECT,
    [
        Member("unarchive_chats", "unarchive_chats", BOOL, False),
        Member(
            "default_disappearing_mode", "default_disappearing_mode", baileys.DISAPPEARING, None
        ),
    ],
)
_TIME = "timestamp_s"


class _Signed:
    """The signed pre-key. Its time is a member that only pyaileys has."""

    def decode(self, raw: Any) -> Any:
        if isinstance(raw, dict) and raw.get(_TIME, ABSENT) is None:
            raw = {name: each for name, each in raw.items() if name != _TIME}
        return _SIGNED.decode(raw)

    def encode(self, value: Any, path: str, losses: Losses) -> dict[str, Any]:
        written = _SIGNED.encode(value, path, losses)
        if type(written.get(_TIME)) is not int:
            written[_TIME] = None
        return written


def _secret(raw: Any) -> bytes:
    """base64 text; pyaileys does not mind white space in it."""
    return from_base64("".join(raw.split()) if isinstance(raw, str) else raw)


_IDENTITY = "ADVSignedDeviceIdentity"
# The model's member, and the field of that message.
_ACCOUNT = {
    "details": "details",
    "account_signature_key": "accountSignatureKey",
    "account_signature": "accountSignature",
    "device_signature": "deviceSignature",
}


class _AccountBytes:
    """The account: the bytes of a protobuf message."""

    def decode(self, raw: Any) -> Account:
        identity = parsed(_IDENTITY, BUFFER.decode(raw))
        if identity is None:
            raise Refused(f"is no {_IDENTITY}")
        members: dict[str, Any] = {
            ours: bytes(getattr(identity, theirs)) if identity.HasField(theirs) else None
            for ours, theirs in _ACCOUNT.items()
        }
        return Account(**members)

    def encode(self, value: Any, path: str, losses: Losses) -> Any:
        note_extra(value, path, losses)
        identity = message(_IDENTITY)
        for ours, theirs in _ACCOUNT.items():
            if getattr(value, ours) is not None:
                setattr(identity, theirs, getattr(value, ours))
        return BUFFER.encode(bytes(identity.SerializeToString()), path, losses)


def number(value: Any) -> int:
    """A 64-bit number that some formats keep as text, or as the halves of a JavaScript Long."""
    if isinstance(value, Mapping):
        whole: int = (value["high"] & 0xFFFFFFFF) << 32 | value["low"] & 0xFFFFFFFF
        return whole - 2**64 if whole >= 2**63 and not value["unsigned"] else whole
    return int(value)


class Time:
    """A time as a plain number, whatever other formats keep it as."""

    def decode(self, raw: Any) -> Any:
        return NUMBER64.decode(raw)

    def encode(self, value: Any, path: str, losses: Losses) -> int | None:
        whole = number(value)
        if -(2**63) <= whole < 2**63:
            return whole
        losses.note(path, "a time of over 64 bits is left out", derived=True)
        return None


TIME = Time()


class _Item(NamedTuple):
    """A member of the credentials.

    :ivar default: what stands in the model for JSON that has no form in it; ``...`` if such JSON
        is refused.
    :ivar nothing: what null stands for; ``...`` if null is refused.
    """

    codec: Codec
    default: Any = ...
    nothing: Any = ...


_PAIR = _Item(KEY_PAIR)
_NUMBER = _Item(INT)
_TEXT = _Item(TEXT, nothing=None)

MEMBERS: Mapping[str, _Item] = {
    "noise_key": _PAIR,
    "pairing_ephemeral_key_pair": _PAIR,
    "signed_identity_key": _PAIR,
    "signed_pre_key": _Item(_Signed()),
    "registration_id": _NUMBER,
    "adv_secret_key": _Item(Leaf(_secret, to_base64)),
    "me": _Item(_CONTACT, nothing=None),
    "account": _Item(_AccountBytes(), None, None),
    "signal_identities": _Item(Many(baileys.IDENTITY), None, None),
    "my_app_state_key_id": _TEXT,
    "first_unuploaded_pre_key_id": _NUMBER,
    "next_pre_key_id": _NUMBER,
    "last_account_sync_timestamp": _Item(TIME, None, None),
    "platform": _TEXT,
    "processed_history_messages": _Item(Many(baileys.HISTORY_MESSAGE), (), ()),
    "account_sync_counter": _NUMBER,
    "account_settings": _Item(_SETTINGS, AccountSettings(), AccountSettings()),
    "registered": _Item(BOOL, nothing=False),
    "pairing_code": _TEXT,
    "last_prop_hash": _TEXT,
    "routing_info": _Item(BUFFER, nothing=None),
    "additional_data": _Item(FREE, nothing=None),
}
"""Every member of pyaileys' credentials, by its name there and in the model."""


def decode_creds(raw: Any) -> Credentials:
    """The credentials in the JSON of ``creds.json``; raises Refused."""
    if not isinstance(raw, dict):
        raise Refused(f"expected an object, got {kind_of(raw)}")
    missing = next((name for name in MEMBERS if name not in raw and _is_needed(name)), None)
    if missing is not None:
        raise Refused("is missing", f".{missing}")
    held: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for name, each in raw.items():
        if name in MEMBERS:
            held[name], is_exact = decode_member(name, each)
            if not is_exact:
                OBJECT.leftover(name, each, kept)
        else:
            OBJECT.leftover(name, each, kept if name == EXTRA else extra)
    if kept:
        extra[EXTRA] = kept
    try:
        return Credentials(**held, extra=extra)
    except InvalidValue as invalid:
        raise Refused(invalid.what, "." + invalid.place.partition(".")[2]) from None


def _is_needed(name: str) -> bool:
    return MEMBERS[name].nothing is ...


def decode_member(name: str, raw: Any) -> tuple[Any, bool]:
    """The model's value of a member's JSON, and whether that JSON can be made from it again.

    :raises Refused: with the member in its path, for a member that the device cannot do without.
    """
    member = MEMBERS[name]
    if raw is None and member.nothing is not ...:
        return member.nothing, True
    try:
        held = _checked(name, member.codec.decode(raw))
    except Refused as refused:
        if member.default is ...:
            raise Refused(refused.what, f".{name}{refused.path}") from None
        return member.default, False
    again = member.codec.encode(held, "", Losses())
    return held, again is not ABSENT and is_same(again, raw)


def _checked(name: str, held: Any) -> Any:
    """The value as the model keeps it; raises Refused."""
    return Credentials.CHECKS[name](held)


def encode_creds(credentials: Credentials, losses: Losses) -> dict[str, Any]:
    """The JSON of ``creds.json``."""
    kept = kept_of(credentials)
    written = {name: _encode_member(name, credentials, kept, losses) for name in MEMBERS}
    own = EXTRA if kept else None
    others = {name: each for name, each in credentials.extra.items() if name != own} | kept
    for name in others.keys() & MEMBERS.keys():
        if others.pop(name) is not None and name not in kept:
            losses.note(f".{name}", "pyaileys keeps something else under this name")
    return OBJECT.join(written, others, "", losses)


def _encode_member(
    name: str, credentials: Credentials, kept: Mapping[str, Any], losses: Losses
) -> Any:
    held = getattr(credentials, name)
    if name in kept:
        exact = FREE.encode(kept[name], f".{name}", Losses())
        if exact is not ABSENT and decode_member(name, exact)[0] == held:
            return exact
    if held is None:
        # pyaileys knows no credentials without this pair, and needs it only to pair by code.
        return _pairing_pair(credentials) if name == "pairing_ephemeral_key_pair" else None
    written = MEMBERS[name].codec.encode(held, f".{name}", losses)
    return None if written is ABSENT else written


def kept_of(credentials: Credentials) -> dict[str, Any]:
    """What pyaileys holds and the model has no place for, by member."""
    kept = credentials.extra.get(EXTRA)
    return dict(kept) if isinstance(kept, Mapping) else {}


def _pairing_pair(credentials: Credentials) -> dict[str, Any]:
    """A pair that nobody else knows, the same each time."""
    secret = credentials.noise_key.private
    raw = bytearray(hashlib.blake2b(secret, digest_size=32, person=b"rk pairing pair").digest())
    raw[0] &= 248
    raw[31] = (raw[31] & 127) | 64
    pair = KeyPair(public=public_of(bytes(raw)), private=bytes(raw))
    return KEY_PAIR.encode(pair, "", Losses())
