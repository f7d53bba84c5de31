"""Sessions and sender keys in Baileys' JSON (libsignal-node's own spelling).

Inside a session all bytes are base64 text. A sender key is JSON text inside a Buffer, whose inner
buffers are lists of numbers (7.x), or that list itself with base64 text (up to 6.17.16).
"""

from __future__ import annotations

from typing import Any

from ratchetkeep.errors import DecodeError
from ratchetkeep.model import (
    OPEN,
    Chain,
    ChainKey,
    FrozenDict,
    IndexInfo,
    KeyPair,
    PendingPreKey,
    Ratchet,
    SenderChainKey,
    SenderKeyRecord,
    SenderKeyState,
    SenderMessageKey,
    SenderSigningKey,
    Session,
    SessionRecord,
)
from ratchetkeep.model._checks import Refused, kind_of

from ._json import (
    BASE64,
    INT,
    OBJECT,
    dump,
    from_base64,
    from_buffer,
    from_either,
    parse,
    to_base64,
    to_buffer,
)
from ._shape import TAKEN, Codec, Leaf, Losses, Many, Member, Shape

VERSION = "v1"

# The last of the times that a session can have.
LAST = 2**63 - 1


def prefixed(public: bytes) -> bytes:
    """A public key with Signal's type byte before it."""
    return public if len(public) == 33 else b"\x05" + public


PUBLIC = Leaf(from_base64, lambda public: to_base64(prefixed(public)))


class ByKey:
    """An object by base64 text of bytes; order is kept, since it breaks ties of ``used``."""

    def __init__(self, item: Codec) -> None:
        self.item = item

    def decode(self, raw: Any) -> FrozenDict[bytes, Any]:
        if not isinstance(raw, dict):
            raise Refused(f"expected an object, got {kind_of(raw)}")
        members = {}
        for place, (name, value) in enumerate(raw.items()):
            try:
                members[from_base64(name)] = self.item.decode(value)
            except Refused as refused:
                raise Refused(refused.what, f"[{place}]{refused.path}") from None
        return FrozenDict(members)

    def encode(self, value: Any, path: str, losses: Losses) -> dict[str, Any]:
        return {
            BASE64.encode(key, path, losses): self.item.encode(each, f"{path}[{i}]", losses)
            for i, (key, each) in enumerate(value.items())
        }


class MessageKeys:
    """Seeds of skipped messages by their number."""

    def decode(self, raw: Any) -> FrozenDict[int, bytes]:
        if not isinstance(raw, dict):
            raise Refused(f"expected an object, got {kind_of(raw)}")
        seeds = {}
        for number, seed in raw.items():
            if not (number.isascii() and number.isdecimal() and str(int(number[:20])) == number):
                raise Refused("a skipped message's number is not a number")
            seeds[int(number)] = from_base64(seed)
        return FrozenDict(seeds)

    def encode(self, value: Any, path: str, losses: Losses) -> dict[str, str]:
        return {str(n): BASE64.encode(seed, path, losses) for n, seed in value.items()}


CHAIN_KEY = Shape(
    ChainKey, OBJECT, [Member("counter", "counter", INT), Member("key", "key", BASE64, None)]
)
CHAIN = Shape(
    Chain,
    OBJECT,
    [
        Member("chain_key", "chainKey", CHAIN_KEY),
        Member("chain_type", "chainType", INT),
        Member("message_keys", "messageKeys", MessageKeys()),
    ],
)
EPHEMERAL = Shape(
    KeyPair,
    OBJECT,
    [Member("public", "pubKey", PUBLIC), Member("private", "privKey", BASE64)],
)
RATCHET = Shape(
    Ratchet,
    OBJECT,
    [
        Member("ephemeral_key_pair", "ephemeralKeyPair", EPHEMERAL, None),
        Member("last_remote_ephemeral_key", "lastRemoteEphemeralKey", BASE64),
        Member("previous_counter", "previousCounter", INT),
        Member("root_key", "rootKey", BASE64),
    ],
)
INDEX_INFO = Shape(
    IndexInfo,
    OBJECT,
    [
        Member("base_key", "baseKey", BASE64),
        Member("base_key_type", "baseKeyType", INT),
        Member("closed", "closed", INT),
        Member("used", "used", INT, None),
        Member("created", "created", INT, None),
        Member("remote_identity_key", "remoteIdentityKey", PUBLIC),
    ],
)
PENDING = Shape(
    PendingPreKey,
    OBJECT,
    [
        Member("signed_key_id", "signedKeyId", INT),
        Member("base_key", "baseKey", BASE64),
        Member("pre_key_id", "preKeyId", INT, None),
    ],
)
ENTRY = Shape(
    Session,
    OBJECT,
    [
        Member("registration_id", "registrationId", INT, None),
        Member("current_ratchet", "currentRatchet", RATCHET),
        Member("index_info", "indexInfo", INDEX_INFO),
        Member("chains", "_chains", ByKey(CHAIN)),
        Member("pending_pre_key", "pendingPreKey", PENDING, None),
    ],
)
RECORD = Shape(SessionRecord, OBJECT, [Member("sessions", "_sessions", ByKey(ENTRY))])


class SessionCodec:
    """A session record. libsignal finds sessions by ``used``, so times that the source has no
    place for are made: closed sessions from when they closed, the open one after all of them."""

    def decode(self, raw: Any) -> SessionRecord:
        if isinstance(raw, dict):
            raw = dict(raw)
            if raw.pop("version", None) != VERSION:
                raise Refused(f"the session's version is not {VERSION}", ".version")
        record: SessionRecord = RECORD.decode(raw)
        return record

    def encode(self, value: Any, path: str, losses: Losses) -> dict[str, Any]:
        written: dict[str, Any] = RECORD.encode(with_times(value), path, losses)
        if written.pop("version", VERSION) != VERSION:
            losses.note(f"{path}.version", TAKEN)
        return {"_sessions": written.pop("_sessions"), "version": VERSION, **written}


def with_times(record: SessionRecord) -> SessionRecord:
    """The record with all times that libsignal needs."""
    infos = [session.index_info for session in record.sessions.values()]
    if all(info.used is not None and info.created is not None for info in infos):
        return record
    newest = max([info.used or max(info.closed, 0) for info in infos], default=0)
    timed = {}
    for base_key, session in record.sessions.items():
        info = session.index_info
        made = min(newest + 1, LAST) if info.closed == OPEN else info.closed
        used = made if info.used is None else info.used
        created = used if info.created is None else info.created
        info = info.replace(used=used, created=created)
        timed[base_key] = session.replace(index_info=info)
    return record.replace(sessions=timed)


# ``JSON.stringify`` without a replacer: what Buffer.toJSON gives.
ARRAY = Leaf(from_either, lambda data: {"type": "Buffer", "data": list(data)})
ARRAY_PUBLIC = Leaf(from_either, lambda data: {"type": "Buffer", "data": list(prefixed(data))})


class PrivateOrEmpty:
    """The private signing key: an empty buffer (7.x) or nothing (6.x) for the keys of others."""

    def decode(self, raw: Any) -> bytes | None:
        return from_either(raw) or None

    def encode(self, value: Any, path: str, losses: Losses) -> Any:
        return ARRAY.encode(value, path, losses)


SENDER_CHAIN = Shape(
    SenderChainKey, OBJECT, [Member("iteration", "iteration", INT), Member("seed", "seed", ARRAY)]
)
SIGNING = Shape(
    SenderSigningKey,
    OBJECT,
    [
        Member("public", "public", ARRAY_PUBLIC),
        Member("private", "private", PrivateOrEmpty(), None),
    ],
)


class SigningCodec:
    """A signing key, with the empty private buffer that 7.x expects."""

    def decode(self, raw: Any) -> Any:
        return SIGNING.decode(raw)

    def encode(self, value: Any, path: str, losses: Losses) -> Any:
        written = SIGNING.encode(value, path, losses)
        public = written.pop("public")
        private = written.pop("private", {"type": "Buffer", "data": []})
        return {"public": public, "private": private, **written}


SENDER_MESSAGE = Shape(
    SenderMessageKey, OBJECT, [Member("iteration", "iteration", INT), Member("seed", "seed", ARRAY)]
)
SENDER_STATE = Shape(
    SenderKeyState,
    OBJECT,
    [
        Member("sender_key_id", "senderKeyId", INT),
        Member("sender_chain_key", "senderChainKey", SENDER_CHAIN),
        Member("sender_signing_key", "senderSigningKey", SigningCodec()),
        Member("sender_message_keys", "senderMessageKeys", Many(SENDER_MESSAGE)),
    ],
)
STATES = Many(SENDER_STATE)


class SenderKeyCodec:
    """A sender-key record, read in both spellings and written as 7.x does."""

    def decode(self, raw: Any) -> SenderKeyRecord:
        if isinstance(raw, dict):
            try:
                raw = parse(from_buffer(raw))
            except DecodeError as error:
                raise Refused(f"the text inside {error.what}") from None
        return SenderKeyRecord(states=STATES.decode(raw))

    def encode(self, value: Any, path: str, losses: Losses) -> dict[str, str]:
        if value.extra:
            losses.note(path, "members beside the states are left out")
        return to_buffer(dump(STATES.encode(value.states, path, losses)))


SESSION: Codec = SessionCodec()
SENDER_KEY: Codec = SenderKeyCodec()
