"""Credentials <-> the row of a device in whatsmeow's table.

Source: whatsmeow's schema (versions 8 to 15) and its pairing, by running it (neonize 0.5.2). A row
exists once a device is paired. Of key pairs it holds the private keys alone; what else is in
Baileys' credentials it has no place for, and what no other client knows stays in the credentials'
``extra`` under ``whatsmeow``, by column.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import msgpack

from ratchetkeep.errors import InvalidValue
from ratchetkeep.model import (
    Account,
    AccountSettings,
    Contact,
    Credentials,
    KeyPair,
    SignalAddress,
    SignalIdentity,
    SignedPreKey,
)
from ratchetkeep.model._checks import Refused, kind_of
from ratchetkeep.model.keys import KEY_TYPE, public_of

from ._addresses import Jid
from ._json import from_base64, to_base64
from ._shape import Losses

__all__ = ["DeviceBytes", "decode_credentials", "encode_credentials", "private_of", "well_formed"]

EXTRA = "whatsmeow"
"""The member of ``Credentials.extra`` that holds what only whatsmeow has a column for."""

_MISSING: Any = object()


class DeviceBytes(msgspec.Struct, forbid_unknown_fields=True):
    """What the store hands over as the bytes of the credentials (MessagePack).

    :ivar row: the row of ``whatsmeow_device``, by column.
    :ivar next_pre_key_id: one more than the highest pre-key's.
    :ivar first_unuploaded_pre_key_id: pre-keys from here on are not on the server yet.
    :ivar app_state_key_id: of the newest app state sync key.
    """

    row: dict[str, Any]
    next_pre_key_id: int
    first_unuploaded_pre_key_id: int
    app_state_key_id: bytes | None = None


def private_of(pair: KeyPair, path: str, losses: Losses) -> bytes:
    """The private key, from which whatsmeow works out the public one."""
    if not pair.is_matched:
        what = "the public key is not the private key's; whatsmeow works out the right one"
        losses.note(f"{path}.public", what)
    if pair.extra:
        losses.note(path, "members beside the keys are left out")
    return pair.private


def well_formed(text: str, path: str, losses: Losses) -> str:
    """Text that every database takes: no half characters, no NUL."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    made = whole.replace("\0", "\ufffd")
    if made != text:
        what = "half of a character (a lone surrogate) or a NUL is replaced"
        losses.note(path, what, derived=True)
    return made


# --- the row as credentials ---------------------------------------------------------------------


class _Row:
    """Takes columns out of a row, checked; what is left at the end is whatsmeow's own."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.rest = dict(row)

    def take(self, column: str, kind: type, default: Any = ...) -> Any:
        value = self.rest.pop(column, _MISSING)
        if value is _MISSING or (value is None and default is not ...):
            if default is ...:
                raise Refused("is missing", f".row.{column}")
            return default
        if type(value) is not kind:
            what = f"expected {'a number' if kind is int else kind.__name__}, got {kind_of(value)}"
            raise Refused(what, f".row.{column}")
        return value

    def private(self, column: str) -> KeyPair:
        private: bytes = self.take(column, bytes)
        if len(private) != 32:
            raise Refused(f"expected 32 bytes, got {kind_of(private)}", f".row.{column}")
        return KeyPair(public=public_of(private), private=private)

    def sized(self, column: str, size: int) -> bytes:
        data: bytes = self.take(column, bytes)
        if len(data) != size:
            raise Refused(f"expected {size} bytes, got {kind_of(data)}", f".row.{column}")
        return data

    def jid(self, column: str, default: Any = ...) -> str | None:
        text = self.take(column, str, default)
        if not text:
            return None
        jid = Jid.from_go(text)
        if jid is None:
            raise Refused("is no JID of a device", f".row.{column}")
        return jid.node


def decode_credentials(given: DeviceBytes) -> Credentials:
    """The credentials of a row.

    :raises Refused: naming the column.
    :raises InvalidValue: for numbers that no column may hold.
    """
    row = _Row(given.row)
    account = Account(
        details=row.take("adv_details", bytes),
        account_signature=row.sized("adv_account_sig", 64),
        account_signature_key=row.sized("adv_account_sig_key", 32),
        device_signature=row.sized("adv_device_sig", 64),
    )
    id = row.jid("jid")
    if id is None:
        raise Refused("is no JID of a device", ".row.jid")
    me = Contact(id=id, lid=row.jid("lid", None), name=row.take("push_name", str, None) or None)
    signed = SignedPreKey(
        key_pair=row.private("signed_pre_key"),
        signature=row.sized("signed_pre_key_sig", 64),
        key_id=row.take("signed_pre_key_id", int),
    )
    key_id = given.app_state_key_id
    return Credentials(
        noise_key=row.private("noise_key"),
        signed_identity_key=row.private("identity_key"),
        signed_pre_key=signed,
        registration_id=row.take("registration_id", int),
        adv_secret_key=row.sized("adv_key", 32),
        next_pre_key_id=given.next_pre_key_id,
        first_unuploaded_pre_key_id=given.first_unuploaded_pre_key_id,
        # A device in the table is paired, and has had its first sync: Baileys would wait for it,
        # and its users' programs would ask for a pairing code.
        account_sync_counter=1,
        registered=True,
        account=account,
        me=me,
        signal_identities=(_main_device(me, account.account_signature_key or b""),),
        platform=row.take("platform", str, None) or None,
        my_app_state_key_id=None if key_id is None else to_base64(key_id),
        extra=_kept(row.rest),
    )


def _main_device(me: Contact, signature_key: bytes) -> SignalIdentity:
    """The phone's identity, as Baileys notes it at pairing."""
    return SignalIdentity(
        identifier=SignalAddress(name=me.lid or me.id, device_id=0),
        identifier_key=KEY_TYPE + signature_key[-32:],
    )


def _kept(rest: dict[str, Any]) -> dict[str, Any]:
    """``extra`` for the columns that only whatsmeow knows; what says nothing is left out."""
    for column, value in rest.items():
        if not _COLUMN.fullmatch(column) or type(value) not in _PLAIN:
            place = column if _COLUMN.fullmatch(column) else "(a column of an odd name)"
            raise Refused(f"{kind_of(value)} cannot be kept", f".row.{place}")
    columns = {
        column: value
        for column, value in rest.items()
        if column not in _OWN or value not in (None, _OWN[column])
    }
    return {EXTRA: columns} if columns else {}


# --- credentials as a row -----------------------------------------------------------------------

_COLUMN = re.compile(r"[a-z][a-z0-9_]{0,62}")
_PLAIN = (type(None), bool, int, float, str, bytes)

# Columns that only whatsmeow has, with what stands in them while nothing is known.
_OWN: dict[str, Any] = {
    "facebook_uuid": None,
    "business_name": "",
    "lid_migration_ts": 0,
    "companion_meta_nonce": "",
}

# The columns in the order of a new table; those of later versions come last, by name.
_ORDER = (
    *("jid", "lid", "facebook_uuid", "registration_id", "noise_key", "identity_key"),
    *("signed_pre_key", "signed_pre_key_id", "signed_pre_key_sig", "adv_key", "adv_details"),
    *("adv_account_sig", "adv_account_sig_key", "adv_device_sig", "platform", "business_name"),
    *("push_name", "lid_migration_ts", "companion_meta_nonce"),
)
# The columns that the model has members for.
_TAKEN = frozenset(_ORDER) - frozenset(_OWN)


def _place(column: str) -> tuple[int, str]:
    return (_ORDER.index(column), "") if column in _ORDER else (len(_ORDER), column)


_PAIRING = "it was only used for pairing"
# What only Baileys and its kin keep: the value that says nothing, and what its lack leads to.
_NOT_NEEDED: dict[str, tuple[Any, str]] = {
    "pairing_ephemeral_key_pair": (None, _PAIRING),
    "pairing_code": (None, _PAIRING),
    "processed_history_messages": (
        (),
        "whatsmeow keeps no list of the history that it was sent; "
        "Baileys would announce the next history as its first",
    ),
    "account_settings": (
        AccountSettings(),
        "whatsmeow leaves unarchiving and disappearing messages to the application; "
        "Baileys would learn the settings from the phone again",
    ),
    "last_account_sync_timestamp": (None, "the server says it again with the next account sync"),
    "last_prop_hash": (None, "whatsmeow keeps no server properties; Baileys would ask for them"),
    "routing_info": (None, "the server gives it again; the first connection works without it"),
}


def encode_credentials(creds: Credentials, losses: Losses) -> bytes | None:
    """The bytes for the store; None if the table cannot hold the device."""
    identity = _identity(creds, losses)
    if identity is None:
        return None
    signed = creds.signed_pre_key
    row = {
        **identity,
        "registration_id": creds.registration_id,
        "noise_key": private_of(creds.noise_key, "noise_key", losses),
        "identity_key": private_of(creds.signed_identity_key, "signed_identity_key", losses),
        "signed_pre_key": private_of(signed.key_pair, "signed_pre_key.key_pair", losses),
        "signed_pre_key_id": signed.key_id,
        "signed_pre_key_sig": signed.signature,
        "adv_key": creds.adv_secret_key,
        "platform": well_formed(creds.platform or "", "platform", losses),
        **_own_columns(creds.extra.get(EXTRA), losses),
    }
    _note_left_out(creds, losses)
    return msgpack.encode(
        DeviceBytes(
            row={column: row[column] for column in sorted(row, key=_place)},
            next_pre_key_id=creds.next_pre_key_id,
            first_unuploaded_pre_key_id=creds.first_unuploaded_pre_key_id,
            app_state_key_id=_sync_key_id(creds, losses),
        )
    )


def _identity(creds: Credentials, losses: Losses) -> dict[str, Any] | None:
    """The columns that say who the device is; None if it is nobody yet."""
    me, account = creds.me, creds.account
    if me is None or account is None:
        what = "the device is not paired yet, and whatsmeow stores a device only once it is paired"
        losses.note("", what)
        return None
    jid = Jid.from_node(me.id)
    if jid is None:
        losses.note("", "its id is no JID, and whatsmeow keeps a device under its JID")
        return None
    wanted = {
        "adv_account_sig_key": ("account_signature_key", account.account_signature_key, (32,)),
        "adv_account_sig": ("account_signature", account.account_signature, (64,)),
        "adv_device_sig": ("device_signature", account.device_signature, (64,)),
        "adv_details": ("details", account.details, None),
    }
    row: dict[str, Any] = {"jid": jid.go, "lid": _lid(me, losses)}
    for column, (attr, data, sizes) in wanted.items():
        if data is None or (sizes and len(data) not in sizes):
            what = f"account.{attr} is {kind_of(data)}, and whatsmeow needs what the phone signed"
            losses.note("", what)
            return None
        row[column] = data
    row["push_name"] = well_formed(me.name or "", "me.name", losses)
    _note_identities(creds, me, account, losses)
    return row


def _lid(me: Contact, losses: Losses) -> str | None:
    lid = Jid.from_node(me.lid) if me.lid else None
    if me.lid and lid is None:
        what = "is no JID; the server says it again with the next connection"
        losses.note("me.lid", what, derived=True)
    return lid and lid.go


def _note_identities(creds: Credentials, me: Contact, account: Account, losses: Losses) -> None:
    for value, path in ((me, "me"), (account, "account"), (creds.signed_pre_key, "signed_pre_key")):
        if value.extra:
            losses.note(path, "members that whatsmeow has no column for are left out")
    if creds.signal_identities != (_main_device(me, account.account_signature_key or b""),):
        what = "whatsmeow takes the phone's identity from what the phone signed at pairing"
        losses.note("signal_identities", what, derived=True)


def _own_columns(own: Any, losses: Losses) -> dict[str, Any]:
    """The columns that only whatsmeow has, from ``extra``; nobody else's spelling is trusted."""
    columns = dict(_OWN)
    if own is not None and not isinstance(own, Mapping):
        losses.note(f"extra.{EXTRA}", "is not what whatsmeow kept there, and is left out")
        return columns
    for column, value in (own or {}).items():
        if _is_sound(column, value):
            columns[column] = value
        else:
            what = "is not what whatsmeow kept there, and is left out"
            losses.note(f"extra.{EXTRA}", what)
    return columns


def _is_sound(column: str, value: Any) -> bool:
    if column in _TAKEN or not _COLUMN.fullmatch(column) or type(value) not in _PLAIN:
        return False
    if isinstance(value, str) and well_formed(value, "", Losses()) != value:
        return False
    if column == "facebook_uuid":
        return value is None or _is_uuid(value)
    if type(value) is int and not -(2**63) <= value < 2**63:
        return False
    return column not in _OWN or type(value) is type(_OWN[column])


def _is_uuid(value: Any) -> bool:
    try:
        return isinstance(value, str) and str(uuid.UUID(value)) == value.lower()
    except ValueError:
        return False


def _note_left_out(creds: Credentials, losses: Losses) -> None:
    for attr, (nothing, what) in _NOT_NEEDED.items():
        if getattr(creds, attr) != nothing:
            losses.note(attr, what, derived=True)
    if creds.account_sync_counter != 1:
        losses.note("account_sync_counter", "whatsmeow does not count syncs", derived=True)
    if not creds.registered:
        what = "whatsmeow keeps paired devices only; back in Baileys it would be true"
        losses.note("registered", what, derived=True)
    if creds.account_settings.extra:
        losses.note("account_settings", "members that whatsmeow does not know are left out")
    if creds.additional_data is not None:
        what = "what the application keeps in the credentials is left out"
        losses.note("additional_data", what)
    if any(name != EXTRA for name in creds.extra):
        losses.note("extra", "members that whatsmeow has no column for are left out")


def _sync_key_id(creds: Credentials, losses: Losses) -> bytes | None:
    """Which app state sync key is in use; whatsmeow uses the newest."""
    if creds.my_app_state_key_id is None:
        return None
    try:
        return from_base64(creds.my_app_state_key_id)
    except (Refused, InvalidValue):
        what = "is no key's id; whatsmeow uses the newest key"
        losses.note("my_app_state_key_id", what, derived=True)
        return None
