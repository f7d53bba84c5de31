"""What is made at pairing and kept for the life of a linked device.

The members are those of Baileys' ``AuthenticationCreds``, in snake_case. Members that we do not
know stay in ``extra`` under the name that the source gave them.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from . import _checks as c
from ._value import EMPTY, Value
from .keys import KeyPair, SignedPreKey

# WhatsApp clients draw registration ids of 14 bits.
REGISTRATION_ID_BITS = 14


class Account(Value, kw_only=True):
    """The signed device identity (ADVSignedDeviceIdentity) that the phone gave at pairing."""

    details: bytes | None = None
    account_signature_key: bytes | None = None
    account_signature: bytes | None = None
    device_signature: bytes | None = None
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {
        "details": c.optional(c.data),
        "account_signature_key": c.optional(c.data),
        "account_signature": c.optional(c.data),
        "device_signature": c.optional(c.data),
        "extra": c.extra,
    }


class Contact(Value, kw_only=True):
    """Who the device is: ``id`` is its phone-number JID, ``lid`` its LID JID."""

    id: str
    name: str | None = None
    lid: str | None = None
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {
        "id": c.text,
        "name": c.optional(c.text),
        "lid": c.optional(c.text),
        "extra": c.extra,
    }


class SignalAddress(Value, kw_only=True):
    """A Signal protocol address: a name and a device number."""

    name: str
    device_id: int
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {"name": c.text, "device_id": c.uint32, "extra": c.extra}


class SignalIdentity(Value, kw_only=True):
    """An identity key known at pairing: 33 bytes with the type byte."""

    identifier: SignalAddress
    identifier_key: bytes
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {
        "identifier": c.instance(SignalAddress),
        "identifier_key": c.public_key,
        "extra": c.extra,
    }


class DisappearingMode(Value, kw_only=True):
    """The default disappearing mode: seconds, and when it was set (seconds since 1970)."""

    ephemeral_expiration: int | None = None
    ephemeral_setting_timestamp: Any = None
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {
        "ephemeral_expiration": c.optional(c.uint32),
        "ephemeral_setting_timestamp": c.optional(c.number64),
        "extra": c.extra,
    }


class AccountSettings(Value, kw_only=True):
    """Account settings that the client keeps."""

    unarchive_chats: bool = False
    default_disappearing_mode: DisappearingMode | None = None
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {
        "unarchive_chats": c.boolean,
        "default_disappearing_mode": c.optional(c.instance(DisappearingMode)),
        "extra": c.extra,
    }


class MessageKey(Value, kw_only=True):
    """Which message: WhatsApp's message key."""

    remote_jid: str | None = None
    from_me: bool | None = None
    id: str | None = None
    participant: str | None = None
    participant_alt: str | None = None
    remote_jid_alt: str | None = None
    addressing_mode: str | None = None
    server_id: str | None = None
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {
        "remote_jid": c.optional(c.text),
        "from_me": c.optional(c.boolean),
        "id": c.optional(c.text),
        "participant": c.optional(c.text),
        "participant_alt": c.optional(c.text),
        "remote_jid_alt": c.optional(c.text),
        "addressing_mode": c.optional(c.text),
        "server_id": c.optional(c.text),
        "extra": c.extra,
    }


class HistoryMessage(Value, kw_only=True):
    """A history message that was processed; its time is in seconds since 1970."""

    key: MessageKey
    message_timestamp: Any = None
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {
        "key": c.instance(MessageKey),
        "message_timestamp": c.optional(c.number64),
        "extra": c.extra,
    }


class Credentials(Value, kw_only=True):
    """The credentials of one linked device.

    :ivar noise_key: key pair of the Noise handshake with the server.
    :ivar signed_identity_key: the Signal identity: losing it means pairing again.
    :ivar signed_pre_key: its signature verifies under the identity key.
    :ivar registration_id: Signal registration id.
    :ivar adv_secret_key: 32 bytes, shown to the phone in the pairing QR code.
    :ivar next_pre_key_id: the id that the next minted pre-key gets.
    :ivar first_unuploaded_pre_key_id: pre-keys from here on are not on the server yet.
    :ivar routing_info: bytes for the next connection, or None.
    :ivar my_app_state_key_id: id (base64 text) of the ``app-state-sync-key`` in use, or None.
    :ivar additional_data: what the application keeps here; any shape.
    """

    noise_key: KeyPair
    pairing_ephemeral_key_pair: KeyPair | None = None
    signed_identity_key: KeyPair
    signed_pre_key: SignedPreKey
    registration_id: int
    adv_secret_key: bytes
    processed_history_messages: tuple[HistoryMessage, ...] = ()
    next_pre_key_id: int = 1
    first_unuploaded_pre_key_id: int = 1
    account_sync_counter: int = 0
    account_settings: AccountSettings = AccountSettings()
    registered: bool = False
    pairing_code: str | None = None
    last_prop_hash: str | None = None
    routing_info: bytes | None = None
    additional_data: Any = None
    account: Account | None = None
    me: Contact | None = None
    signal_identities: tuple[SignalIdentity, ...] | None = None
    platform: str | None = None
    last_account_sync_timestamp: Any = None
    my_app_state_key_id: str | None = None
    extra: Mapping[str, Any] = EMPTY

    CHECKS = {
        "noise_key": c.instance(KeyPair),
        "pairing_ephemeral_key_pair": c.optional(c.instance(KeyPair)),
        "signed_identity_key": c.instance(KeyPair),
        "signed_pre_key": c.instance(SignedPreKey),
        "registration_id": c.uint32,
        "adv_secret_key": c.size(32),
        "processed_history_messages": c.tuple_of(c.instance(HistoryMessage)),
        "next_pre_key_id": c.uint32,
        "first_unuploaded_pre_key_id": c.uint32,
        "account_sync_counter": c.int64,
        "account_settings": c.instance(AccountSettings),
        "registered": c.boolean,
        "pairing_code": c.optional(c.text),
        "last_prop_hash": c.optional(c.text),
        "routing_info": c.optional(c.data),
        "additional_data": c.free,
        "account": c.optional(c.instance(Account)),
        "me": c.optional(c.instance(Contact)),
        "signal_identities": c.optional(c.tuple_of(c.instance(SignalIdentity))),
        "platform": c.optional(c.text),
        "last_account_sync_timestamp": c.optional(c.number64),
        "my_app_state_key_id": c.optional(c.text),
        "extra": c.extra,
    }
    SHOWN = frozenset({"next_pre_key_id", "first_unuploaded_pre_key_id", "platform"})

    @classmethod
    def new(cls) -> Credentials:
        """Credentials for a device that is about to pair, from the system's randomness."""
        identity = KeyPair.new()
        return cls(
            noise_key=KeyPair.new(),
            pairing_ephemeral_key_pair=KeyPair.new(),
            signed_identity_key=identity,
            signed_pre_key=SignedPreKey.new(identity, 1),
            registration_id=secrets.randbits(REGISTRATION_ID_BITS),
            adv_secret_key=secrets.token_bytes(32),
        )
