"""Baileys' multi-file JSON: the text of each file <-> the model.

Reads what npm ``baileys`` 6.x and 7.x write, writes what 7.x writes (source: running 6.7.18,
6.17.16 and 7.0.0-rc14). Members are listed in the order in which Baileys writes them, so that a
file that came from it goes back as the same bytes.
"""

from __future__ import annotations

from typing import Any

from ratchetkeep.model import (
    CREDENTIALS,
    FAMILIES,
    Account,
    AccountSettings,
    AppStateSyncKey,
    AppStateSyncVersion,
    Contact,
    Credentials,
    DisappearingMode,
    EncodedRecord,
    FrozenDict,
    HistoryMessage,
    IndexValue,
    Key,
    KeyFingerprint,
    KeyPair,
    MessageKey,
    SessionRecord,
    SignalAddress,
    SignalIdentity,
    SignedPreKey,
    TcToken,
)
from ratchetkeep.model._checks import Refused, kind_of

from . import spellings
from ._baileys_direct import DIRECT
from ._baileys_reader import READER
from ._baileys_signal import SENDER_KEY, SESSION
from ._base import Encoded, decoded
from ._json import (
    BASE64,
    BOOL,
    BUFFER,
    FREE,
    INT,
    NUMBER64,
    OBJECT,
    TEXT,
    dump,
    from_buffer,
    from_either,
    parse,
    to_base64,
    to_buffer,
)
from ._json_direct import IN_BASE64, QUOTED
from ._shape import Codec, Leaf, Losses, Many, Member, Shape

name = "baileys"


# Base64 text (7.x), or the Buffer object of some 6.x versions.
TEXT_BYTES = Leaf(from_either, to_base64)

KEY_PAIR = Shape(
    KeyPair,
    OBJECT,
    [Member("private", "private", BUFFER), Member("public", "public", BUFFER)],
)
SIGNED_PRE_KEY = Shape(
    SignedPreKey,
    OBJECT,
    [
        Member("key_pair", "keyPair", KEY_PAIR),
        Member("signature", "signature", BUFFER),
        Member("key_id", "keyId", INT),
    ],
)
MESSAGE_KEY = Shape(
    MessageKey,
    OBJECT,
    [
        Member("remote_jid", "remoteJid", TEXT, None),
        Member("remote_jid_alt", "remoteJidAlt", TEXT, None),
        Member("from_me", "fromMe", BOOL, None),
        Member("id", "id", TEXT, None),
        Member("participant", "participant", TEXT, None),
        Member("participant_alt", "participantAlt", TEXT, None),
        Member("addressing_mode", "addressingMode", TEXT, None),
        Member("server_id", "server_id", TEXT, None),
    ],
)
HISTORY_MESSAGE = Shape(
    HistoryMessage,
    OBJECT,
    [
        Member("key", "key", MESSAGE_KEY),
        Member("message_timestamp", "messageTimestamp", NUMBER64, None),
    ],
)
DISAPPEARING = Shape(
    DisappearingMode,
    OBJECT,
    [
        Member("ephemeral_expiration", "ephemeralExpiration", INT, None),
        Member("ephemeral_setting_timestamp", "ephemeralSettingTimestamp", NUMBER64, None),
    ],
)
SETTINGS = Shape(
    AccountSettings,
    OBJECT,
    [
        Member("unarchive_chats", "unarchiveChats", BOOL, False),
        Member("default_disappearing_mode", "defaultDisappearingMode", DISAPPEARING, None),
    ],
)
ACCOUNT = Shape(
    Account,
    OBJECT,
    [
        Member("details", "details", TEXT_BYTES, None),
        Member("account_signature_key", "accountSignatureKey", TEXT_BYTES, None),
        Member("account_signature", "accountSignature", TEXT_BYTES, None),
        Member("device_signature", "deviceSignature", TEXT_BYTES, None),
    ],
)
CONTACT = Shape(
    Contact,
    OBJECT,
    [
        Member("id", "id", TEXT),
        Member("name", "name", TEXT, None),
        Member("lid", "lid", TEXT, None),
    ],
)
ADDRESS = Shape(
    SignalAddress, OBJECT, [Member("name", "name", TEXT), Member("device_id", "deviceId", INT)]
)
IDENTITY = Shape(
    SignalIdentity,
    OBJECT,
    [
        Member("identifier", "identifier", ADDRESS),
        Member("identifier_key", "identifierKey", BUFFER),
    ],
)
CREDS = Shape(
    Credentials,
    OBJECT,
    [
        Member("noise_key", "noiseKey", KEY_PAIR),
        Member("pairing_ephemeral_key_pair", "pairingEphemeralKeyPair", KEY_PAIR, None),
        Member("signed_identity_key", "signedIdentityKey", KEY_PAIR),
        Member("signed_pre_key", "signedPreKey", SIGNED_PRE_KEY),
        Member("registration_id", "registrationId", INT),
        Member("adv_secret_key", "advSecretKey", BASE64),
        Member("processed_history_messages", "processedHistoryMessages", Many(HISTORY_MESSAGE), ()),
        Member("next_pre_key_id", "nextPreKeyId", INT),
        Member("first_unuploaded_pre_key_id", "firstUnuploadedPreKeyId", INT),
        Member("account_sync_counter", "accountSyncCounter", INT, 0),
        Member("account_settings", "accountSettings", SETTINGS, AccountSettings()),
        Member("registered", "registered", BOOL, False),
        Member("pairing_code", "pairingCode", TEXT, None),
        Member("last_prop_hash", "lastPropHash", TEXT, None),
        Member("routing_info", "routingInfo", BUFFER, None),
        Member("additional_data", "additionalData", FREE, None),
        Member("account", "account", ACCOUNT, None),
        Member("me", "me", CONTACT, None),
        Member("signal_identities", "signalIdentities", Many(IDENTITY), None),
        Member("platform", "platform", TEXT, None),
        Member("last_account_sync_timestamp", "lastAccountSyncTimestamp", NUMBER64, None),
        Member("my_app_state_key_id", "myAppStateKeyId", TEXT, None),
    ],
)
FINGERPRINT = Shape(
    KeyFingerprint,
    OBJECT,
    [
        Member("raw_id", "rawId", INT, None),
        Member("current_index", "currentIndex", INT, None),
        Member("device_indexes", "deviceIndexes", Many(INT), None),
    ],
)
SYNC_KEY = Shape(
    AppStateSyncKey,
    OBJECT,
    [
        Member("key_data", "keyData", TEXT_BYTES),
        Member("fingerprint", "fingerprint", FINGERPRINT, None),
        Member("timestamp", "timestamp", NUMBER64, None),
    ],
)
INDEX_VALUE = Shape(IndexValue, OBJECT, [Member("value_mac", "valueMac", BUFFER)])


class MapOf:
    """An object by text whose values are all of one codec."""

    def __init__(self, item: Codec) -> None:
        self.item = item

    def decode(self, raw: Any) -> FrozenDict[str, Any]:
        if not isinstance(raw, dict):
            raise Refused(f"expected an object, got {kind_of(raw)}")
        return FrozenDict({name: self.item.decode(value) for name, value in raw.items()})

    def encode(self, value: Any, path: str, losses: Losses) -> dict[str, Any]:
        return {name: self.item.encode(each, path, losses) for name, each in value.items()}


SYNC_VERSION = Shape(
    AppStateSyncVersion,
    OBJECT,
    [
        Member("version", "version", INT),
        Member("hash", "hash", BUFFER),
        Member("index_value_map", "indexValueMap", MapOf(INDEX_VALUE)),
    ],
)
TCTOKEN = Shape(
    TcToken,
    OBJECT,
    [
        Member("token", "token", BUFFER),
        Member("timestamp", "timestamp", NUMBER64, None),
        Member("sender_timestamp", "senderTimestamp", NUMBER64, None),
    ],
)

CODECS: dict[str, Codec] = {
    CREDENTIALS.family: CREDS,
    "session": SESSION,
    "pre-key": KEY_PAIR,
    "sender-key": SENDER_KEY,
    "sender-key-memory": MapOf(BOOL),
    "app-state-sync-key": SYNC_KEY,
    "app-state-sync-version": SYNC_VERSION,
    "lid-mapping": TEXT,
    "device-list": Many(TEXT),
    "tctoken": TCTOKEN,
    "identity-key": BUFFER,
}

DIRECT.inline[TEXT_BYTES] = IN_BASE64
DIRECT.kinds[MapOf] = lambda codec: DIRECT.keyed(QUOTED, codec.item)
READER.mirrors[TEXT_BYTES] = READER.mirrors[BASE64]
READER.kinds[MapOf] = lambda codec: READER.mapped(str, codec.item)

# The encoding of session bytes that came in a Buffer: some client's own, which we do not look into.
BUFFER_ENCODING = "baileys-buffer"
_BUFFERED = (BUFFER_ENCODING, "session")


def decode(key: Key, raw: bytes) -> Any:
    """The value in the text of the file of ``key``.

    :raises DecodeError: naming the member and what is wrong with it, never its content.
    """
    if key != CREDENTIALS:  # they have members of no fixed shape
        value = READER.read(CODECS[key.family], raw, FAMILIES[key.family][1])
        if value is not None:
            return value
    return from_tables(key, raw)


def from_tables(key: Key, raw: bytes) -> Any:
    """As :func:`decode`, by the tables, whatever is in it."""
    parsed = parse(raw)
    if key.family == "session" and isinstance(parsed, dict) and parsed.get("type") == "Buffer":
        return decoded(key, _buffered, parsed)
    return decoded(key, CODECS[key.family].decode, parsed)


def _buffered(parsed: Any) -> EncodedRecord:
    return EncodedRecord(encoding=BUFFER_ENCODING, data=from_buffer(parsed))


def encode(key: Key, value: Any, credentials: Credentials | None = None) -> Encoded:
    """The text of the file of ``key``, and what of ``value`` it cannot hold."""
    losses = Losses()
    if isinstance(value, EncodedRecord) and (value.encoding, key.family) == _BUFFERED:
        return Encoded(dump(to_buffer(value.data)), ())
    value = spellings.for_node(key, value, credentials, losses)
    if value is None:
        return Encoded(None, tuple(losses.found))
    if key.family == "session":
        _note_identities(value, credentials, losses)
    data = DIRECT.written(CODECS[key.family], value)
    if data is None:
        data = by_tables(key, value, losses)
    return Encoded(data, tuple(losses.found))


def by_tables(key: Key, value: Any, losses: Losses) -> bytes:
    """The text of a record as the tables write it, whatever is in it."""
    return dump(CODECS[key.family].encode(value, "", losses))


def _note_identities(
    record: SessionRecord, credentials: Credentials | None, losses: Losses
) -> None:
    """Baileys takes the device's own identity off the credentials; no session repeats it."""
    ours = credentials.signed_identity_key.public[-32:] if credentials else None
    for place, session in enumerate(record.sessions.values()):
        local = session.index_info.local_identity_key
        if local is not None:
            path = f"_sessions[{place}].local_identity_key"
            what = "Baileys reads the device's identity key off the credentials"
            losses.note(path, what, derived=local[-32:] == ours)
