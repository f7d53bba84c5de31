"""What the model refuses: wrong members, records and keys, told by place and never by content."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ratchetkeep import model
from ratchetkeep.errors import InvalidValue
from ratchetkeep.model import (
    CREDENTIALS,
    FAMILIES,
    Account,
    AccountSettings,
    AppStateSyncKey,
    AppStateSyncVersion,
    Chain,
    ChainKey,
    Contact,
    Credentials,
    DisappearingMode,
    EncodedRecord,
    HistoryMessage,
    IndexInfo,
    IndexValue,
    Key,
    KeyFingerprint,
    KeyPair,
    MessageKey,
    PendingPreKey,
    Ratchet,
    SenderChainKey,
    SenderKeyRecord,
    SenderKeyState,
    SenderMessageKey,
    SenderSigningKey,
    Session,
    SessionRecord,
    SignalAddress,
    SignalIdentity,
    TcToken,
    Value,
    check_key,
    check_record,
)
from ratchetkeep.testing import Holds, record

SECRET = "squeamish ossifrage, thirty-two."
SECRET_BYTES = SECRET.encode()

PUBLIC = b"\x05" + bytes(32)
PAIR = KeyPair(public=PUBLIC, private=SECRET_BYTES)
CHAIN_KEY = ChainKey(counter=-1, key=SECRET_BYTES)
CHAIN = Chain(chain_key=CHAIN_KEY, chain_type=1, message_keys={7: SECRET_BYTES})
RATCHET = Ratchet(
    ephemeral_key_pair=PAIR,
    last_remote_ephemeral_key=PUBLIC,
    previous_counter=0,
    root_key=SECRET_BYTES,
)
INFO = IndexInfo(base_key=PUBLIC, base_key_type=1, remote_identity_key=PUBLIC)
SESSION = Session(current_ratchet=RATCHET, index_info=INFO, chains={PUBLIC: CHAIN})
CREDS = Credentials.new()
STATE = SenderKeyState(
    sender_key_id=1,
    sender_chain_key=SenderChainKey(iteration=0, seed=SECRET_BYTES),
    sender_signing_key=SenderSigningKey(public=PUBLIC),
)
IDENTITY = SignalIdentity(identifier=SignalAddress(name="1", device_id=0), identifier_key=PUBLIC)

# A type, a member, a refused value, and where the error must point.
REFUSED: list[tuple[Callable[..., Any], str, Any, str]] = [
    (PAIR.replace, "private", SECRET_BYTES[:31], "KeyPair.private"),
    (PAIR.replace, "private", SECRET, "KeyPair.private"),
    (PAIR.replace, "private", bytearray(SECRET_BYTES), "KeyPair.private"),
    (PAIR.replace, "private", None, "KeyPair.private"),
    (PAIR.replace, "public", b"\x06" + SECRET_BYTES, "KeyPair.public"),
    (PAIR.replace, "public", SECRET_BYTES + b"12", "KeyPair.public"),
    (PAIR.replace, "extra", {SECRET_BYTES: 1}, "KeyPair.extra[0]"),
    (PAIR.replace, "extra", [SECRET], "KeyPair.extra"),
    (PAIR.replace, "extra", {"a": 1, "b": {SECRET}}, "KeyPair.extra[1]"),
    (CREDS.signed_pre_key.replace, "signature", SECRET_BYTES, "SignedPreKey.signature"),
    (CREDS.signed_pre_key.replace, "key_id", 2**24, "SignedPreKey.key_id"),
    (CREDS.signed_pre_key.replace, "key_pair", {"private": SECRET}, "SignedPreKey.key_pair"),
    (CHAIN_KEY.replace, "key", SECRET_BYTES[1:], "ChainKey.key"),
    (CHAIN_KEY.replace, "counter", SECRET, "ChainKey.counter"),
    (CHAIN_KEY.replace, "counter", True, "ChainKey.counter"),
    (CHAIN_KEY.replace, "counter", 2**63, "ChainKey.counter"),
    (CHAIN.replace, "chain_type", 0, "Chain.chain_type"),
    (CHAIN.replace, "chain_type", 3, "Chain.chain_type"),
    (CHAIN.replace, "message_keys", {1: SECRET_BYTES, 2: SECRET}, "Chain.message_keys[1]"),
    (CHAIN.replace, "message_keys", {SECRET: SECRET_BYTES}, "Chain.message_keys[0]"),
    (CHAIN.replace, "chain_key", PAIR, "Chain.chain_key"),
    (RATCHET.replace, "root_key", b"", "Ratchet.root_key"),
    (RATCHET.replace, "last_remote_ephemeral_key", None, "Ratchet.last_remote_ephemeral_key"),
    (RATCHET.replace, "last_remote_ephemeral_key", b"1", "Ratchet.last_remote_ephemeral_key"),
    (RATCHET.replace, "ephemeral_key_pair", SECRET_BYTES, "Ratchet.ephemeral_key_pair"),
    (INFO.replace, "base_key", SECRET, "IndexInfo.base_key"),
    (INFO.replace, "base_key_type", None, "IndexInfo.base_key_type"),
    (INFO.replace, "closed", None, "IndexInfo.closed"),
    (INFO.replace, "used", 1.5, "IndexInfo.used"),
    (INFO.replace, "local_identity_key", b"", "IndexInfo.local_identity_key"),
    (SESSION.replace, "chains", {SECRET_BYTES: PAIR}, "Session.chains[0]"),
    (SESSION.replace, "chains", {SECRET: CHAIN}, "Session.chains[0]"),
    (SESSION.replace, "registration_id", -1, "Session.registration_id"),
    (SESSION.replace, "pending_pre_key", PAIR, "Session.pending_pre_key"),
    (SessionRecord, "sessions", {PUBLIC: SECRET}, "SessionRecord.sessions[0]"),
    (SessionRecord, "sessions", [SESSION], "SessionRecord.sessions"),
    (
        PendingPreKey(signed_key_id=1, base_key=PUBLIC).replace,
        "pre_key_id",
        2**32,
        "PendingPreKey.pre_key_id",
    ),
    (SenderChainKey(iteration=0, seed=SECRET_BYTES).replace, "seed", b"", "SenderChainKey.seed"),
    (
        SenderMessageKey(iteration=0, seed=SECRET_BYTES).replace,
        "iteration",
        -1,
        "SenderMessageKey.iteration",
    ),
    (SenderSigningKey(public=PUBLIC).replace, "private", SECRET, "SenderSigningKey.private"),
    (SenderKeyRecord, "states", [SECRET], "SenderKeyRecord.states[0]"),
    (SenderKeyRecord, "states", SECRET, "SenderKeyRecord.states"),
    (KeyFingerprint, "device_indexes", [0, SECRET], "KeyFingerprint.device_indexes[1]"),
    (AppStateSyncKey, "key_data", SECRET, "AppStateSyncKey.key_data"),
    (AppStateSyncKey(key_data=b"").replace, "timestamp", SECRET, "AppStateSyncKey.timestamp"),
    (IndexValue, "value_mac", SECRET, "IndexValue.value_mac"),
    (
        AppStateSyncVersion(version=1, hash=bytes(128)).replace,
        "hash",
        SECRET_BYTES,
        "AppStateSyncVersion.hash",
    ),
    (
        AppStateSyncVersion(version=1, hash=bytes(128)).replace,
        "index_value_map",
        {"a": SECRET},
        "AppStateSyncVersion.index_value_map[0]",
    ),
    (TcToken, "token", SECRET, "TcToken.token"),
    (TcToken(token=b"").replace, "timestamp", 2**63, "TcToken.timestamp"),
    (TcToken(token=b"").replace, "timestamp", 1.5, "TcToken.timestamp"),
    (TcToken(token=b"").replace, "timestamp", {"low": 1}, "TcToken.timestamp"),
    (
        TcToken(token=b"").replace,
        "timestamp",
        {"low": SECRET, "high": None, "unsigned": 1},
        "TcToken.timestamp",
    ),
    (EncodedRecord(encoding="x", data=b"").replace, "data", SECRET, "EncodedRecord.data"),
    (EncodedRecord(encoding="x", data=b"").replace, "encoding", 1, "EncodedRecord.encoding"),
    (Contact(id="1").replace, "name", SECRET_BYTES, "Contact.name"),
    (MessageKey().replace, "from_me", 1, "MessageKey.from_me"),
    (SignalAddress(name="1", device_id=0).replace, "device_id", "0", "SignalAddress.device_id"),
    (CREDS.replace, "adv_secret_key", SECRET, "Credentials.adv_secret_key"),
    (CREDS.replace, "registration_id", None, "Credentials.registration_id"),
    (CREDS.replace, "signed_identity_key", None, "Credentials.signed_identity_key"),
    (CREDS.replace, "additional_data", {SECRET_BYTES: 1}, "Credentials.additional_data"),
    (CREDS.replace, "additional_data", object(), "Credentials.additional_data"),
    (CREDS.replace, "signal_identities", [PAIR], "Credentials.signal_identities[0]"),
    (CREDS.replace, "registered", 1, "Credentials.registered"),
    (CREDS.replace, "me", {"id": SECRET}, "Credentials.me"),
    (Account, "details", SECRET, "Account.details"),
    (AccountSettings, "unarchive_chats", None, "AccountSettings.unarchive_chats"),
    (DisappearingMode, "ephemeral_expiration", SECRET, "DisappearingMode.ephemeral_expiration"),
    (HistoryMessage, "key", {"id": SECRET}, "HistoryMessage.key"),
    (STATE.replace, "sender_message_keys", [SECRET], "SenderKeyState.sender_message_keys[0]"),
    (STATE.replace, "sender_key_id", 2**32, "SenderKeyState.sender_key_id"),
    (IDENTITY.replace, "identifier_key", SECRET, "SignalIdentity.identifier_key"),
]


@pytest.mark.parametrize(
    ("make", "member", "value", "place"),
    REFUSED,
    ids=[f"{place}-{n}" for n, (_, _, _, place) in enumerate(REFUSED)],
)
def test_a_wrong_member_is_refused(
    make: Callable[..., Any], member: str, value: Any, place: str
) -> None:
    """A wrong value would be stored, or an error would not say which or show its content."""
    with pytest.raises(InvalidValue) as caught:
        make(**{member: value})
    assert caught.value.place == place or caught.value.place.startswith(place + "[")
    shown = f"{caught.value} {caught.value!r}"
    assert "squeamish" not in shown
    assert "ossifrage" not in shown
    assert isinstance(caught.value, ValueError)


def test_every_type_is_tried_with_a_wrong_member() -> None:
    """A new type of the model would have no test of its checks."""
    tried = {place.partition(".")[0] for _, _, _, place in REFUSED}
    kinds = [getattr(model, name) for name in model.__all__]
    values = {k.__name__ for k in kinds if isinstance(k, type) and issubclass(k, Value)}
    assert values - {"Value"} == tried


@pytest.mark.parametrize("depth", [60, 61])
def test_free_members_are_of_bounded_depth(depth: int) -> None:
    """A value nested without end would be stored, and reading it would break the process."""
    nested: Any = SECRET
    for _ in range(depth):
        nested = [nested]
    if depth <= 60:
        assert CREDS.replace(additional_data=nested).additional_data[0]
    else:
        with pytest.raises(InvalidValue, match="deeper"):
            CREDS.replace(additional_data=nested)


@pytest.mark.parametrize(
    "key",
    [
        ("session", ""), ("session", "a\0b"), ("session", 1), ("session", None), ("session", b"1"),
        ("session", "\ud800"), ("session", "é" * 513), ("pre-key", "1.0"), ("pre-key", "-1"),
        ("pre-key", "٣"), ("pre-key", "¹"), ("credentials", "1"), ("", "1"), ("Session", "1"),
    ],
)  # fmt: skip
def test_wrong_keys_are_refused(key: tuple[Any, Any]) -> None:
    """A record would be stored under a name that no store can give back."""
    with pytest.raises(InvalidValue):
        check_key(*key)


def test_ids_that_clients_make_are_taken() -> None:
    """A client's record would be refused."""
    for id in ("15551230001.0", "998877_1.7", "120363@g.us::1555::0", "é" * 512, "A+/=", "\x01"):
        assert check_key("session", id) == Key("session", id)
    assert str(Key("session", "1.0")) == "session 1.0"
    assert str(CREDENTIALS) == "credentials"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_takes_its_own_values_only(family: str) -> None:
    """A value would be stored in a family that cannot be decoded from it."""
    key = Key(family, "7")
    for other in FAMILIES:
        value = record(other, 1, CREDS, Holds())
        if other == family:
            assert check_record(key, value) == value
        else:
            with pytest.raises(InvalidValue) as caught:
                check_record(key, value)
            assert caught.value.place.startswith(f"{family} 7")
    encoded = EncodedRecord(encoding="go-json", data=SECRET_BYTES)
    assert check_record(key, encoded) is encoded
    with pytest.raises(InvalidValue):
        check_record(key, None)
