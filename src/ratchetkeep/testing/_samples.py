"""Realistic records for tests, the same each time: matched keys, ids as clients make them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ratchetkeep.model import (
    FAMILIES,
    OPEN,
    RECEIVING,
    SENDING,
    Account,
    AppStateSyncKey,
    AppStateSyncVersion,
    Chain,
    ChainKey,
    Contact,
    Credentials,
    HistoryMessage,
    IndexInfo,
    IndexValue,
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
)
from ratchetkeep.model.keys import public_of

Presence = Literal["any", "always", "never"]


def _as_it_is(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Holds:
    """What a store's format can hold so that it comes back equal. The default is everything.

    :ivar session_times: ``used`` and ``created`` of a session.
    :ivar local_identity: ``local_identity_key`` of a session.
    :ivar bare_publics: public keys without the type byte in sessions and sender keys.
    :ivar libsignal: what only libsignal's spellings of a session have: derived message keys, the
        device's own registration id.
    :ivar encodings: families and encodings of an EncodedRecord; None: any encoding in any family.
    :ivar unknown_members: members that the model does not know, in ``extra``.
    :ivar sender_record_extra: the same beside the states of a sender-key record.
    :ivar surrogates: lone surrogates in text; ``joined``: only such that no two make a character.
    :ivar foreign: values that only one format can spell.
    :ivar longs: 64-bit numbers as the object of a JavaScript Long.
    :ivar sync_key_details: the fingerprint and the time of an app state sync key.
    :ivar addressing_modes: of the message keys in the credentials; None: any text.
    :ivar numeric_names: numbers as the names of members, where the shape is free.
    :ivar agents: addresses of which the name alone does not tell whether it is a LID's.
    :ivar form: what values and credentials are changed to, so that they are of a form that the
        format gives back.
    """

    session_times: Presence = "any"
    local_identity: Presence = "any"
    bare_publics: bool = True
    libsignal: bool = True
    encodings: tuple[tuple[str, str], ...] | None = None
    unknown_members: bool = True
    sender_record_extra: bool = True
    surrogates: Literal["any", "joined", "none"] = "any"
    foreign: bool = True
    longs: bool = True
    sync_key_details: bool = True
    addressing_modes: tuple[str, ...] | None = None
    numeric_names: bool = True
    agents: bool = True
    form: Callable[[Any], Any] = _as_it_is


def some_bytes(tag: str, number: int, length: int = 32) -> bytes:
    """Bytes that look random and are the same each time."""
    return hashlib.shake_256(f"{tag} {number}".encode()).digest(length)


def some_pair(tag: str, number: int, *, typed: bool = False) -> KeyPair:
    """A matched key pair; ``typed`` puts Signal's type byte before the public key."""
    raw = bytearray(some_bytes(tag, number))
    raw[0] &= 248
    raw[31] = (raw[31] & 127) | 64
    public = public_of(bytes(raw))
    return KeyPair(public=b"\x05" + public if typed else public, private=bytes(raw))


def _text64(tag: str, number: int, length: int) -> str:
    return base64.b64encode(some_bytes(tag, number, length)).decode()


def record_id(family: str, number: int) -> str:
    """An id of ``family`` as clients make it; another one for each number."""
    user = str(15551230000 + number)
    lid = str(998877000000000 + number)
    return {
        "session": f"{user}.{number % 4}" if number % 2 else f"{lid}_1.{number % 4}",
        "pre-key": str(number + 1),
        "sender-key": f"120363{number:012}@g.us::{user}::{number % 4}",
        "sender-key-memory": f"49151100-{number:010}@g.us",
        "app-state-sync-key": _text64("sync key id", number, 6),
        "app-state-sync-version": f"regular_{number}",
        "lid-mapping": user if number % 2 else f"{lid}_reverse",
        "device-list": user,
        "tctoken": f"{lid}@lid",
        "identity-key": f"{user}.{number % 4}",
    }[family]


def record(family: str, number: int, credentials: Credentials, holds: Holds) -> Any:
    """A value of ``family`` that ``holds`` allows; another one for each number.

    :param credentials: the device's, whose identity key sessions may repeat.
    """
    return holds.form(_MAKERS[family](number, credentials, holds))


def _session(number: int, credentials: Credentials, holds: Holds) -> SessionRecord:
    """Two sessions: a closed one, and an open one that waits for its first answer."""
    entries = {}
    for n, closed in ((number * 2, OPEN), (number * 2 + 1, 1_763_600_000_000 + number)):
        entry = _entry(n, closed, credentials, holds)
        entries[entry.index_info.base_key] = entry
    return SessionRecord(sessions=entries)


def _entry(n: int, closed: int, credentials: Credentials, holds: Holds) -> Session:
    ratchet = some_pair("ratchet", n, typed=True)
    theirs = some_pair("their ratchet", n, typed=True).public
    base_key = some_pair("base", n, typed=True).public
    local = b"\x05" + credentials.signed_identity_key.public[-32:]
    time = None if holds.session_times == "never" else 1_763_500_000_000 + n
    skipped = {2: some_bytes("skipped", n), 5: some_bytes("skipped too", n)}
    return Session(
        registration_id=n + 1,
        current_ratchet=Ratchet(
            ephemeral_key_pair=ratchet,
            last_remote_ephemeral_key=theirs,
            previous_counter=3,
            root_key=some_bytes("root", n),
        ),
        index_info=IndexInfo(
            base_key=base_key,
            base_key_type=SENDING,
            closed=closed,
            used=time,
            created=time,
            remote_identity_key=some_pair("remote", n, typed=True).public,
            local_identity_key=None if holds.local_identity == "never" else local,
        ),
        chains={
            ratchet.public: Chain(
                chain_key=ChainKey(counter=4, key=some_bytes("chain", n)), chain_type=SENDING
            ),
            theirs: Chain(
                chain_key=ChainKey(counter=9), chain_type=RECEIVING, message_keys=skipped
            ),
        },
        pending_pre_key=None
        if n % 2
        else PendingPreKey(signed_key_id=1, base_key=base_key, pre_key_id=n + 7),
    )


def _sender_key(number: int, credentials: Credentials, holds: Holds) -> SenderKeyRecord:
    pair = some_pair("signing", number, typed=True)
    chain = SenderChainKey(iteration=12, seed=some_bytes("sender chain", number))
    skipped = SenderMessageKey(iteration=7, seed=some_bytes("sender skipped", number))
    own = SenderKeyState(
        sender_key_id=number + 1,
        sender_chain_key=chain,
        sender_signing_key=SenderSigningKey(public=pair.public, private=pair.private),
    )
    other = own.replace(
        sender_key_id=number + 2,
        sender_signing_key=SenderSigningKey(public=pair.public),
        sender_message_keys=(skipped,),
    )
    return SenderKeyRecord(states=(own, other))


def _sync_key(number: int, credentials: Credentials, holds: Holds) -> AppStateSyncKey:
    key = AppStateSyncKey(key_data=some_bytes("sync key", number))
    if not holds.sync_key_details:
        return key
    fingerprint = KeyFingerprint(raw_id=number, current_index=1, device_indexes=(0, 1, 2))
    return key.replace(fingerprint=fingerprint, timestamp=str(1_763_600_000_000 + number))


def _sync_version(number: int, credentials: Credentials, holds: Holds) -> AppStateSyncVersion:
    return AppStateSyncVersion(
        version=number + 1,
        hash=some_bytes("lt hash", number, 128),
        index_value_map={
            _text64("index mac", n, 32): IndexValue(value_mac=some_bytes("value mac", n))
            for n in range(number, number + 3)
        },
    )


_MAKERS: dict[str, Any] = {
    "session": _session,
    "pre-key": lambda n, *_: some_pair("pre-key", n),
    "sender-key": _sender_key,
    "sender-key-memory": lambda n, *_: {f"{n}.0": True, f"{n}:3@s.whatsapp.net": False},
    "app-state-sync-key": _sync_key,
    "app-state-sync-version": _sync_version,
    "lid-mapping": lambda n, *_: str(998877000000000 + n),
    "device-list": lambda n, *_: ("0", "1", str(n + 2)),
    "tctoken": lambda n, *_: TcToken(token=some_bytes("tc", n, 11), timestamp=str(1763600000 + n)),
    "identity-key": lambda n, *_: some_pair("identity", n, typed=True).public,
}
assert set(_MAKERS) == set(FAMILIES)  # noqa: S101 - a new family needs a maker here


def paired(credentials: Credentials, holds: Holds) -> Credentials:
    """``credentials`` as they are after pairing and some use."""
    identity = SignalIdentity(
        identifier=SignalAddress(name="15551230001:7@s.whatsapp.net", device_id=0),
        identifier_key=b"\x05" + credentials.signed_identity_key.public[-32:],
    )
    message = MessageKey(remote_jid="15551230001@s.whatsapp.net", from_me=True, id="3EB0AB")
    used = credentials.replace(
        me=Contact(id="15551230001:7@s.whatsapp.net", name="Zoë 🐚", lid="998877@lid"),
        account=Account(
            details=some_bytes("details", 0, 18),
            account_signature_key=some_bytes("account key", 0),
            account_signature=some_bytes("account signature", 0, 64),
            device_signature=some_bytes("device signature", 0, 64),
        ),
        signal_identities=(identity,),
        processed_history_messages=(HistoryMessage(key=message, message_timestamp=1763600000),),
        registered=True,
        platform="android",
        routing_info=b"\x08\x0d\x08\x05",
        additional_data={"app": ["notes", 1, 2.5, None, True], "key": b"\xff\x00"},
        next_pre_key_id=813,
        first_unuploaded_pre_key_id=813,
        last_account_sync_timestamp=1763600001,
        my_app_state_key_id=record_id("app-state-sync-key", 0),
        extra={"aMemberOfTomorrow": {"n": [1, None]}} if holds.unknown_members else {},
    )
    formed: Credentials = holds.form(used)
    return formed
