"""pyaileys' credentials <-> the model's, member by member.

What pyaileys holds and the model has no place for (an account identity in other bytes than the
usual ones, members of later versions) stays in ``Credentials.extra["pyaileys"]``. It counts only as
long as the model's own member is the one that it was written with: if another program changed that,
its value is the newer one.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from pyaileys.auth import creds as client
from pyaileys.auth.serde import account_settings_from_dict
from pyaileys.util import json as bufferjson

from ratchetkeep.errors import DecodeError, InvalidValue
from ratchetkeep.formats import baileys
from ratchetkeep.formats._json import from_base64, parse
from ratchetkeep.formats._shape import Losses, Shape
from ratchetkeep.model import (
    Account,
    AccountSettings,
    Contact,
    Credentials,
    Foreign,
    KeyPair,
    SignedPreKey,
)
from ratchetkeep.model._checks import Refused

from ._pyaileys_proto import message, parsed

# The member of Credentials.extra for what the model has no place for.
EXTRA = "pyaileys"

Texts = dict[str, str]


class _Unfit(Exception):
    """A value of pyaileys has no form in the model."""


def texts_of(creds: client.AuthenticationCreds) -> Texts:
    """Each member as pyaileys' own JSON, or "" if it has none: what changed is found by comparing
    these."""
    texts = {}
    for each in dataclasses.fields(creds):
        try:
            texts[each.name] = _text("", getattr(creds, each.name))
        except InvalidValue:
            # Said where it is saved. Until then it must not stop what has nothing to do with it.
            texts[each.name] = ""
    return texts


def to_client(credentials: Credentials) -> client.AuthenticationCreds:
    """pyaileys' view of the credentials."""
    kept = _kept(credentials)
    values: dict[str, Any] = {}
    for name, member in MEMBERS.items():
        held = getattr(credentials, name)
        values[name] = member.write(held)
        if name in kept:
            exact = member.rebuild(kept[name])
            if _read(name, exact, held)[0] == held:
                values[name] = exact
    for each in dataclasses.fields(client.AuthenticationCreds):
        if each.name not in MEMBERS and each.name in kept:
            values[each.name] = kept[each.name]
    return client.AuthenticationCreds(**values)


def with_changes(
    credentials: Credentials, creds: client.AuthenticationCreds, names: Iterable[str]
) -> Credentials:
    """``credentials`` with the members ``names`` of ``creds``; all others stay as they are.

    :raises InvalidValue: naming the member that the model refuses.
    """
    kept = _kept(credentials)
    changes: dict[str, Any] = {}
    for name in names:
        value = getattr(creds, name)
        kept.pop(name, None)
        if name not in MEMBERS:
            kept[name] = plain(f"creds.{name}", value)
            continue
        changes[name], is_exact = _read(name, value, getattr(credentials, name))
        if not is_exact:
            kept[name] = plain(f"creds.{name}", value)
    extra = {name: value for name, value in credentials.extra.items() if name != EXTRA}
    return credentials.replace(**changes, extra={**extra, EXTRA: kept} if kept else extra)


def _kept(credentials: Credentials) -> dict[str, Any]:
    """pyaileys' values that the model has no place for, by member."""
    kept = thaw(credentials.extra.get(EXTRA))
    return kept if isinstance(kept, dict) else {}


def plain(place: str, value: Any) -> Any:
    """``value`` as pyaileys' own store would give it back.

    :raises InvalidValue: if that store could not write it, or not read it.
    """
    text = _text(place, value)
    try:
        return bufferjson.loads(text)
    except ValueError:
        raise InvalidValue(place, "holds a Buffer object that is not base64") from None


def thaw(value: Any) -> Any:
    """A value of no fixed shape as the dicts and lists that pyaileys works with."""
    if isinstance(value, Mapping):
        return {name: thaw(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return [thaw(each) for each in value]
    if isinstance(value, Foreign):
        return {"encoding": value.encoding, "data": value.data}
    return value


def _text(place: str, value: Any) -> str:
    try:
        return bufferjson.dumps(value)
    except (TypeError, ValueError, RecursionError):
        what = f"a value of type {type(value).__name__} cannot be stored as JSON"
        raise InvalidValue(place, what) from None


def _read(name: str, value: Any, stored: Any) -> tuple[Any, bool]:
    """The model's value, and whether pyaileys' value can be made from it again."""
    member = MEMBERS[name]
    try:
        held = member.read(value, stored)
    except _Unfit as unfit:
        if member.default is ...:
            raise InvalidValue(f"creds.{name}", str(unfit)) from None
        return member.default, False
    return held, _text(name, member.write(held)) == _text(name, value)


def _same(value: Any, stored: Any) -> Any:
    return value


def _read_pair(value: Any, stored: KeyPair | None) -> KeyPair:
    if not isinstance(value, client.KeyPair):
        raise _Unfit("expected a KeyPair")
    extra = stored.extra if stored else {}
    return KeyPair(public=_data(value.public), private=_data(value.private), extra=extra)


def _write_pair(pair: KeyPair) -> client.KeyPair:
    # Without the type byte, which some formats keep: pyaileys adds it itself.
    return client.KeyPair(public=pair.public[-32:], private=pair.private)


def _read_signed(value: Any, stored: SignedPreKey) -> SignedPreKey:
    if not isinstance(value, client.SignedKeyPair):
        raise _Unfit("expected a SignedKeyPair")
    extra = {name: each for name, each in stored.extra.items() if name != "timestamp_s"}
    if value.timestamp_s is not None:
        extra["timestamp_s"] = value.timestamp_s
    return SignedPreKey(
        key_pair=_read_pair(value.key_pair, stored.key_pair),
        signature=_data(value.signature),
        key_id=value.key_id,
        extra=extra,
    )


def _write_signed(signed: SignedPreKey) -> client.SignedKeyPair:
    timestamp = signed.extra.get("timestamp_s")
    return client.SignedKeyPair(
        key_pair=_write_pair(signed.key_pair),
        signature=signed.signature,
        key_id=signed.key_id,
        timestamp_s=timestamp if type(timestamp) is int else None,
    )


def _read_secret(value: Any, stored: bytes) -> bytes:
    try:
        return from_base64(value)
    except Refused:
        pass
    try:
        return base64.b64decode(value)
    except (TypeError, ValueError):
        raise _Unfit("is not base64 text") from None


def _write_secret(secret: bytes) -> str:
    return base64.b64encode(secret).decode("ascii")


def _read_contact(value: Any, stored: Contact | None) -> Contact | None:
    if value is None:
        return None
    if not isinstance(value, client.Contact):
        raise _Unfit("expected a Contact")
    extra = stored.extra if stored else {}
    return Contact(id=value.id, name=value.name, lid=value.lid, extra=extra)


def _write_contact(me: Contact | None) -> client.Contact | None:
    return None if me is None else client.Contact(id=me.id, name=me.name, lid=me.lid)


_IDENTITY = "ADVSignedDeviceIdentity"
# The model's member, and the field of that message.
_ACCOUNT = {
    "details": "details",
    "account_signature_key": "accountSignatureKey",
    "account_signature": "accountSignature",
    "device_signature": "deviceSignature",
}


def _read_account(value: Any, stored: Account | None) -> Account | None:
    if value is None:
        return None
    identity = parsed(_IDENTITY, value) if isinstance(value, bytes) else None
    if identity is None:
        raise _Unfit("is no ADVSignedDeviceIdentity")
    members: dict[str, Any] = {
        ours: bytes(getattr(identity, theirs)) if identity.HasField(theirs) else None
        for ours, theirs in _ACCOUNT.items()
    }
    return Account(**members, extra=stored.extra if stored else {})


def _write_account(account: Account | None) -> bytes | None:
    if account is None:
        return None
    identity = message(_IDENTITY)
    for ours, theirs in _ACCOUNT.items():
        if getattr(account, ours) is not None:
            setattr(identity, theirs, getattr(account, ours))
    return bytes(identity.SerializeToString())


def _read_settings(value: Any, stored: AccountSettings) -> AccountSettings:
    if not isinstance(value, client.AccountSettings) or type(value.unarchive_chats) is not bool:
        raise _Unfit("expected AccountSettings")
    mode = value.default_disappearing_mode
    shaped = None if mode is None else _shaped(baileys.DISAPPEARING, mode)
    return stored.replace(unarchive_chats=value.unarchive_chats, default_disappearing_mode=shaped)


def _write_settings(settings: AccountSettings) -> client.AccountSettings:
    mode = settings.default_disappearing_mode
    return client.AccountSettings(
        unarchive_chats=settings.unarchive_chats,
        default_disappearing_mode=None if mode is None else _spelled(baileys.DISAPPEARING, mode),
    )


def _shaped(shape: Shape, value: Any) -> Any:
    """The model's value of a dict that pyaileys took over from Baileys."""
    try:
        return shape.decode(parse(bufferjson.dumps(value)))
    except (Refused, DecodeError, InvalidValue, TypeError, ValueError, RecursionError):
        raise _Unfit(f"is no {shape.cls.__name__}") from None


def _spelled(shape: Shape, value: Any) -> Any:
    return bufferjson.loads(json.dumps(shape.encode(value, "", Losses())))


class _ManyOf:
    """A list of dicts. Items that did not change stay as they are stored."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def read(self, value: Any, stored: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, list):
            raise _Unfit("expected a list")
        known = [(bufferjson.dumps(_spelled(self.shape, each)), each) for each in stored or ()]
        return tuple(self._item(each, known) for each in value)

    def _item(self, value: Any, known: list[tuple[str, Any]]) -> Any:
        text = _text("creds", value)
        return next((each for spelled, each in known if spelled == text), None) or _shaped(
            self.shape, value
        )

    def write(self, held: Any) -> Any:
        return None if held is None else [_spelled(self.shape, each) for each in held]


def _read_free(value: Any, stored: Any) -> Any:
    return plain("creds.additional_data", value)


def _read_number(value: Any, stored: Any) -> Any:
    if value is not None and (type(value) is not int or not -(2**63) <= value < 2**63):
        raise _Unfit("expected a number")
    return value


def number(value: Any) -> int | None:
    """A 64-bit number that some formats keep as text, or as the halves of a JavaScript Long."""
    if isinstance(value, Mapping):
        whole: int = (value["high"] & 0xFFFFFFFF) << 32 | value["low"] & 0xFFFFFFFF
        return whole - 2**64 if whole >= 2**63 and not value["unsigned"] else whole
    return None if value is None else int(value)


class _Member(NamedTuple):
    """How one member goes from pyaileys to the model and back.

    :ivar read: from pyaileys' value and what is stored; raises _Unfit.
    :ivar default: the model's value where pyaileys' has no form in it; ``...`` if that is refused.
    :ivar rebuild: pyaileys' value from its plain JSON.
    """

    read: Callable[[Any, Any], Any] = _same
    write: Callable[[Any], Any] = lambda value: value
    default: Any = ...
    rebuild: Callable[[Any], Any] = lambda value: value


_HISTORY = _ManyOf(baileys.HISTORY_MESSAGE)
_IDENTITIES = _ManyOf(baileys.IDENTITY)
_PAIR = _Member(_read_pair, _write_pair)
_PLAIN = _Member()

MEMBERS: Mapping[str, _Member] = {
    "noise_key": _PAIR,
    "pairing_ephemeral_key_pair": _PAIR,
    "signed_identity_key": _PAIR,
    "signed_pre_key": _Member(_read_signed, _write_signed),
    "registration_id": _PLAIN,
    "adv_secret_key": _Member(_read_secret, _write_secret),
    "me": _Member(_read_contact, _write_contact),
    "account": _Member(_read_account, _write_account, None),
    "signal_identities": _Member(_IDENTITIES.read, _IDENTITIES.write, None),
    "my_app_state_key_id": _PLAIN,
    "first_unuploaded_pre_key_id": _PLAIN,
    "next_pre_key_id": _PLAIN,
    "last_account_sync_timestamp": _Member(_read_number, number, None),
    "platform": _PLAIN,
    "processed_history_messages": _Member(_HISTORY.read, _HISTORY.write, ()),
    "account_sync_counter": _PLAIN,
    "account_settings": _Member(
        _read_settings, _write_settings, AccountSettings(), account_settings_from_dict
    ),
    "registered": _PLAIN,
    "pairing_code": _PLAIN,
    "last_prop_hash": _PLAIN,
    "routing_info": _Member(lambda value, _: _data(value)),
    "additional_data": _Member(_read_free, thaw),
}


def _data(value: Any) -> Any:
    return bytes(value) if isinstance(value, bytearray | memoryview) else value
