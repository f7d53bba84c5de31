"""BaileysEx's native files: Erlang terms <-> the model.

Source: BaileysEx 0.1.0-alpha on OTP 25, 27 and 29, by running it. Its loader refuses a file with an
atom that the running system does not know, so nothing but its own atoms is ever written; those that
came from one of its files go back as they came.
"""

from __future__ import annotations

from typing import Any

from ratchetkeep.errors import InvalidValue
from ratchetkeep.model import (
    CREDENTIALS,
    Account,
    AccountSettings,
    AppStateSyncKey,
    AppStateSyncVersion,
    Contact,
    Credentials,
    DisappearingMode,
    FrozenDict,
    HistoryMessage,
    IndexValue,
    Key,
    KeyPair,
    MessageKey,
    SignalAddress,
    SignalIdentity,
    SignedPreKey,
    TcToken,
)
from ratchetkeep.model._checks import Refused

from . import etf, spellings
from ._baileysex_direct import DIRECT
from ._baileysex_signal import RECORD, SENDER_KEY, session_record, with_identities
from ._base import Encoded, decoded
from ._direct import Inline, Out, refuse
from ._etf_direct import IN_BASE64, TEXTUAL, binary, free
from ._json import from_base64, to_base64
from ._shape import PRIVATE, TAKEN, Codec, Leaf, Losses, Many, Member, Shape
from ._terms import (
    BOOL,
    BYTES,
    FREE,
    INT,
    NUMBER64,
    TEXT,
    AtomMap,
    AtomOf,
    by_text,
    from_bytes,
)

name = "baileysex"


def _full(cls: type, *members: Member, struct: str | None = None, strict: bool = False) -> Shape:
    names = [member.name for member in members]
    dialect = AtomMap(*names, full=True, struct=struct, strict=strict, plain=True)
    return Shape(cls, dialect, members)


def _sparse(cls: type, *members: Member, struct: str | None = None) -> Shape:
    names = [member.name for member in members]
    return Shape(cls, AtomMap(*names, full=False, struct=struct), members)


class TextKeyed:
    """A map by text whose values are all of one codec."""

    def __init__(self, item: Codec) -> None:
        self.item = item

    def decode(self, raw: Any) -> FrozenDict[str, Any]:
        return FrozenDict({name: self.item.decode(value) for name, value in by_text(raw).items()})

    def encode(self, value: Any, path: str, losses: Losses) -> etf.Map:
        return etf.Map(
            tuple(
                (TEXT.encode(name, path, losses), self.item.encode(each, path, losses))
                for name, each in value.items()
            )
        )


_EXPIRING = frozenset({"ephemeral_expiration", "ephemeral_setting_timestamp"})


class ExpiringMode:
    """The disappearing mode, which BaileysEx keys by text.

    :param free: the format's codec of values of no fixed shape.
    """

    def __init__(self, free: Codec) -> None:
        self._free = free

    def decode(self, raw: Any) -> DisappearingMode:
        known = self._free.decode(raw)
        if not isinstance(known, FrozenDict):
            raise Refused("expected a map by text")
        rest = dict(known)
        try:
            return DisappearingMode(
                ephemeral_expiration=rest.pop("ephemeral_expiration", None),
                ephemeral_setting_timestamp=rest.pop("ephemeral_setting_timestamp", None),
                extra=rest,
            )
        except InvalidValue as invalid:
            raise Refused(invalid.what, "." + invalid.place.partition(".")[2]) from None

    def encode(self, value: DisappearingMode, path: str, losses: Losses) -> Any:
        for name in value.extra:
            if name in _EXPIRING:
                losses.note(f"{path}.{name}", TAKEN)
        return self._free.encode(self.members(value), path, losses)

    def members(self, value: DisappearingMode) -> FrozenDict[str, Any]:
        """All members, as a value of no fixed shape."""
        members: dict[str, Any] = {}
        if value.ephemeral_expiration is not None:
            members["ephemeral_expiration"] = value.ephemeral_expiration
        if value.ephemeral_setting_timestamp is not None:
            members["ephemeral_setting_timestamp"] = value.ephemeral_setting_timestamp
        unknown = {
            name: each
            for name, each in value.extra.items()
            if not name.startswith(PRIVATE) and name not in _EXPIRING
        }
        return FrozenDict(members | unknown)


class SyncKey:
    """An app state sync key: its bytes alone (what BaileysEx writes), or a map with them.

    :param alone: how the bytes alone are spelled.
    :param as_map: how the map is.
    """

    bare = PRIVATE + "map"

    def __init__(self, alone: Codec, as_map: Codec) -> None:
        self._alone = alone
        self._as_map = as_map

    def decode(self, raw: Any) -> AppStateSyncKey:
        if self.is_alone(raw):
            return AppStateSyncKey(key_data=self._alone.decode(raw))
        key: AppStateSyncKey = self._as_map.decode(raw)
        return key.replace(extra={**key.extra, self.bare: True})

    def is_alone(self, raw: Any) -> bool:
        """Whether the bytes stand alone there."""
        return type(raw) is bytes

    def encode(self, value: AppStateSyncKey, path: str, losses: Losses) -> Any:
        for attr in ("fingerprint", "timestamp"):
            if getattr(value, attr) is not None:
                losses.note(f"{path}.{attr}", "BaileysEx keeps the key's bytes alone", derived=True)
        as_map = self._as_map.encode(value, path, losses)
        is_map = self.bare in value.extra
        return as_map if is_map else self._alone.encode(value.key_data, path, losses)


KEY_PAIR = _full(KeyPair, Member("private", "private", BYTES), Member("public", "public", BYTES))
SIGNED_PRE_KEY = _full(
    SignedPreKey,
    Member("key_pair", "key_pair", KEY_PAIR),
    Member("signature", "signature", BYTES),
    Member("key_id", "key_id", INT),
)
MESSAGE_KEY = _sparse(
    MessageKey,
    Member("remote_jid", "remote_jid", TEXT, None),
    Member("from_me", "from_me", BOOL, None),
    Member("id", "id", TEXT, None),
    Member("participant", "participant", TEXT, None),
    Member("participant_alt", "participant_alt", TEXT, None),
    Member("remote_jid_alt", "remote_jid_alt", TEXT, None),
    Member("addressing_mode", "addressing_mode", AtomOf(pn="pn", lid="lid"), None),
    Member("server_id", "server_id", TEXT, None),
)
HISTORY_MESSAGE = _sparse(
    HistoryMessage,
    Member("key", "key", MESSAGE_KEY),
    Member("message_timestamp", "message_timestamp", NUMBER64, None),
)
EXPIRING = ExpiringMode(FREE)
SETTINGS = _full(
    AccountSettings,
    Member("unarchive_chats", "unarchive_chats", BOOL, False),
    Member("default_disappearing_mode", "default_disappearing_mode", EXPIRING, None),
)
ACCOUNT = _full(
    Account,
    Member("details", "details", BYTES, None),
    Member("account_signature_key", "account_signature_key", BYTES, None),
    Member("account_signature", "account_signature", BYTES, None),
    Member("device_signature", "device_signature", BYTES, None),
    struct="Elixir.BaileysEx.Protocol.Proto.ADVSignedDeviceIdentity",
)
CONTACT = _sparse(
    Contact,
    Member("id", "id", TEXT),
    Member("name", "name", TEXT, None),
    Member("lid", "lid", TEXT, None),
)
ADDRESS = _full(SignalAddress, Member("name", "name", TEXT), Member("device_id", "device_id", INT))
IDENTITY = _full(
    SignalIdentity,
    Member("identifier", "identifier", ADDRESS),
    Member("identifier_key", "identifier_key", BYTES),
)
# The ADV secret is base64 text there as well; BaileysEx hands it to the QR code as it is.
ADV_SECRET = Leaf(
    lambda raw: from_base64(from_bytes(raw).decode("latin-1")),
    lambda data: to_base64(data).encode(),
)
STATE = _full(
    Credentials,
    Member("noise_key", "noise_key", KEY_PAIR),
    Member("pairing_ephemeral_key_pair", "pairing_ephemeral_key", KEY_PAIR, None),
    Member("signed_identity_key", "signed_identity_key", KEY_PAIR),
    Member("signed_pre_key", "signed_pre_key", SIGNED_PRE_KEY),
    Member("registration_id", "registration_id", INT),
    Member("adv_secret_key", "adv_secret_key", ADV_SECRET),
    Member("processed_history_messages", "processed_history_messages", Many(HISTORY_MESSAGE), ()),
    Member("next_pre_key_id", "next_pre_key_id", INT),
    Member("first_unuploaded_pre_key_id", "first_unuploaded_pre_key_id", INT),
    Member("account_sync_counter", "account_sync_counter", INT, 0),
    Member("account_settings", "account_settings", SETTINGS, AccountSettings()),
    Member("registered", "registered", BOOL, False),
    Member("pairing_code", "pairing_code", TEXT, None),
    Member("last_prop_hash", "last_prop_hash", TEXT, None),
    Member("routing_info", "routing_info", BYTES, None),
    Member("additional_data", "additional_data", FREE, None),
    Member("account", "account", ACCOUNT, None),
    Member("me", "me", CONTACT, None),
    Member("signal_identities", "signal_identities", Many(IDENTITY), None),
    Member("platform", "platform", TEXT, None),
    Member("last_account_sync_timestamp", "last_account_sync_timestamp", NUMBER64, None),
    Member("my_app_state_key_id", "my_app_state_key_id", TEXT, None),
    struct="Elixir.BaileysEx.Auth.State",
    strict=True,
)
SYNC_KEY_MAP = _sparse(AppStateSyncKey, Member("key_data", "key_data", BYTES))
SYNC_KEY = SyncKey(BYTES, SYNC_KEY_MAP)
SYNC_VERSION = _full(
    AppStateSyncVersion,
    Member("version", "version", INT),
    Member("hash", "hash", BYTES),
    Member(
        "index_value_map",
        "index_value_map",
        TextKeyed(_full(IndexValue, Member("value_mac", "value_mac", BYTES))),
    ),
)
TCTOKEN = _sparse(
    TcToken,
    Member("token", "token", BYTES),
    Member("timestamp", "timestamp", NUMBER64, None),
    Member("sender_timestamp", "sender_timestamp", NUMBER64, None),
)

CODECS: dict[str, Codec] = {
    CREDENTIALS.family: STATE,
    "session": RECORD,
    "pre-key": KEY_PAIR,
    "sender-key": SENDER_KEY,
    "sender-key-memory": TextKeyed(BOOL),
    "app-state-sync-key": SYNC_KEY,
    "app-state-sync-version": SYNC_VERSION,
    "lid-mapping": TEXT,
    "device-list": Many(TEXT),
    "tctoken": TCTOKEN,
    "identity-key": BYTES,
}


def _sync_key(value: AppStateSyncKey, out: Out) -> None:
    if value.extra or value.fingerprint is not None or value.timestamp is not None:
        refuse()
    out.append(binary(value.key_data))


def _expiring(value: DisappearingMode) -> bytes:
    return refuse() if value.extra else free(EXPIRING.members(value))


DIRECT.names |= {"expiring": _expiring}
DIRECT.inline |= {
    ADV_SECRET: IN_BASE64,
    EXPIRING: Inline(b"", "expiring({v})"),
}
DIRECT.kinds[TextKeyed] = lambda codec: DIRECT.keyed(TEXTUAL, codec.item)
DIRECT.kinds[SyncKey] = lambda _: _sync_key


def decode(key: Key, raw: bytes) -> Any:
    """The value in the bytes of the file of ``key``.

    :raises DecodeError: naming the member and what is wrong with it, never its content.
    """
    read = session_record if key.family == "session" else CODECS[key.family].decode
    return decoded(key, read, etf.decode(raw))


def encode(key: Key, value: Any, credentials: Credentials | None = None) -> Encoded:
    """The bytes of the file of ``key``, and what of ``value`` it cannot hold.

    :param credentials: the device's, whose identity key every session repeats.
    """
    losses = Losses()
    value = for_elixir(key, value, credentials, losses)
    if value is None:
        return Encoded(None, tuple(losses.found))
    data = DIRECT.record(CODECS[key.family], value)
    if data is None:
        data = by_tables(key, value, losses)
    return Encoded(data, tuple(losses.found))


def for_elixir(key: Key, value: Any, credentials: Credentials | None, losses: Losses) -> Any | None:
    """The value as BaileysEx spells it: libsignal-node's model, and every session with the device's
    identity. None if nothing of it can be held."""
    value = spellings.for_node(key, value, credentials, losses, times=False)
    if value is None or key.family != "session":
        return value
    return with_identities(value, losses, credentials)


def by_tables(key: Key, value: Any, losses: Losses) -> bytes:
    """The bytes of a record as the tables write it, whatever is in it.

    :param value: for sessions, one with all identities.
    """
    return etf.encode(CODECS[key.family].encode(value, "", losses))
