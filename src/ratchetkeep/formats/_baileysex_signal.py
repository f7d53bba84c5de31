"""Sessions and sender keys as BaileysEx's structs: the model of libsignal-node with atoms and raw
bytes. ``closed`` is nil where the model has -1; a session repeats the device's identity key."""

from __future__ import annotations

from typing import Any

from ratchetkeep.model import (
    OPEN,
    RECEIVING,
    SENDING,
    Chain,
    ChainKey,
    Credentials,
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

from . import etf
from ._baileys_signal import prefixed
from ._json import from_base64, to_base64
from ._libsignal import group_message_key
from ._shape import Codec, Losses, Many, Member, Shape
from ._terms import BYTES, INT, AtomMap, AtomOf, from_bytes, from_integer

_GROUP = "Elixir.BaileysEx.Signal.Group."
SKIPPED_STRUCT = _GROUP + "SenderMessageKey"


def _full(cls: type, *members: Member, struct: str | None = None) -> Shape:
    names = [member.name for member in members]
    return Shape(cls, AtomMap(*names, full=True, struct=struct, strict=True), members)


class Keyed:
    """A map by binary or integer keys."""

    def __init__(self, key: Codec, item: Codec) -> None:
        self.key = key
        self.item = item

    def decode(self, raw: Any) -> FrozenDict[Any, Any]:
        if not isinstance(raw, etf.Map):
            raise Refused(f"expected a map, got {kind_of(raw)}")
        members = {}
        for place, (name, value) in enumerate(raw.items()):
            try:
                members[self.key.decode(name)] = self.item.decode(value)
            except Refused as refused:
                raise Refused(refused.what, f"[{place}]{refused.path}") from None
        return FrozenDict(members)

    def encode(self, value: Any, path: str, losses: Losses) -> etf.Map:
        pairs = (
            (self.key.encode(name, path, losses), self.item.encode(each, f"{path}[{i}]", losses))
            for i, (name, each) in enumerate(value.items())
        )
        return etf.Map(tuple(pairs))


class Base64Binary:
    """Bytes as base64 text in a binary: chains are keyed so."""

    def decode(self, raw: Any) -> bytes:
        return from_base64(from_bytes(raw).decode("latin-1"))

    def encode(self, value: bytes, path: str, losses: Losses) -> bytes:
        return to_base64(value).encode()


class Closed:
    """When a session was closed, in milliseconds."""

    def decode(self, raw: Any) -> int:
        return from_integer(raw)

    def encode(self, value: int, path: str, losses: Losses) -> Any:
        return etf.Atom("nil") if value == OPEN else value


BASE64_BINARY, CLOSED = Base64Binary(), Closed()
CHAIN_KEY = _full(ChainKey, Member("counter", "counter", INT), Member("key", "key", BYTES, None))
TYPE = AtomOf(sending=SENDING, receiving=RECEIVING)
CHAIN = _full(
    Chain,
    Member("chain_key", "chain_key", CHAIN_KEY),
    Member("chain_type", "chain_type", TYPE),
    Member("message_keys", "message_keys", Keyed(INT, BYTES)),
)
EPHEMERAL = _full(KeyPair, Member("public", "public", BYTES), Member("private", "private", BYTES))
RATCHET = _full(
    Ratchet,
    Member("root_key", "root_key", BYTES),
    Member("ephemeral_key_pair", "ephemeral_key_pair", EPHEMERAL, None),
    Member("last_remote_ephemeral_key", "last_remote_ephemeral", BYTES),
    Member("previous_counter", "previous_counter", INT),
)
INDEX_INFO = _full(
    IndexInfo,
    Member("remote_identity_key", "remote_identity_key", BYTES),
    Member("local_identity_key", "local_identity_key", BYTES, None),
    Member("base_key", "base_key", BYTES),
    Member("base_key_type", "base_key_type", TYPE),
    Member("closed", "closed", CLOSED, OPEN),
)
PENDING = _full(
    PendingPreKey,
    Member("pre_key_id", "pre_key_id", INT, None),
    Member("signed_key_id", "signed_pre_key_id", INT),
    Member("base_key", "base_key", BYTES),
)
ENTRY = _full(
    Session,
    Member("current_ratchet", "current_ratchet", RATCHET),
    Member("index_info", "index_info", INDEX_INFO),
    Member("chains", "chains", Keyed(BASE64_BINARY, CHAIN)),
    Member("pending_pre_key", "pending_pre_key", PENDING, None),
    Member("registration_id", "registration_id", INT, None),
)
RECORD = _full(
    SessionRecord,
    Member("sessions", "sessions", Keyed(BYTES, ENTRY)),
    struct="Elixir.BaileysEx.Signal.SessionRecord",
)


def session_record(raw: Any) -> SessionRecord:
    """A session record of a term; raises Refused."""
    return in_order(RECORD.decode(raw))


def in_order(record: SessionRecord) -> SessionRecord:
    """The record with the open session first, then the closed ones from the newest on, as other
    libraries look for a message's session: Erlang keeps no order."""
    ordered = sorted(record.sessions.items(), key=_newest_first)
    return record.replace(sessions=FrozenDict(ordered))


def with_identities(
    record: SessionRecord, losses: Losses, creds: Credentials | None
) -> SessionRecord:
    """The record as RECORD spells it: every session repeats the device's identity key."""
    sessions = {}
    for place, (base_key, session) in enumerate(record.sessions.items()):
        path = f"sessions[{place}]"
        info = session.index_info
        if info.used is not None or info.created is not None:
            what = "BaileysEx has no place for when it was used and created"
            losses.note(f"{path}.used", what, derived=True)
        if info.local_identity_key is None:
            info = info.replace(local_identity_key=_identity(creds, path, losses))
            session = session.replace(index_info=info)
        sessions[base_key] = session
    return record.replace(sessions=sessions)


def _newest_first(item: tuple[bytes, Session]) -> tuple[bool, int, bytes]:
    base_key, session = item
    return (not session.is_open, -session.index_info.closed, base_key)


def _identity(creds: Credentials | None, path: str, losses: Losses) -> bytes | None:
    if creds is None:
        losses.note(path, "the device's identity key, which each session repeats, is not known")
        return None
    return prefixed(creds.signed_identity_key.public)


class SkippedCodec:
    """The key of a skipped group message. BaileysEx repeats what follows from the seed."""

    def __init__(self) -> None:
        members = (Member("iteration", "iteration", INT), Member("seed", "seed", BYTES))
        names = ("cipher_key", "iteration", "iv", "seed")
        self.dialect = AtomMap(*names, full=True, struct=SKIPPED_STRUCT, strict=True)
        self.shape = Shape(SenderMessageKey, self.dialect, members)

    def decode(self, raw: Any) -> SenderMessageKey:
        if not isinstance(raw, etf.Map):
            raise Refused(f"expected a map, got {kind_of(raw)}")
        derived = {etf.Atom("iv"), etf.Atom("cipher_key")}
        plain = etf.Map(tuple(pair for pair in raw.items() if pair[0] not in derived))
        key: SenderMessageKey = self.shape.decode(plain)
        if (raw.get(etf.Atom("iv")), raw.get(etf.Atom("cipher_key"))) != group_message_key(
            key.seed
        ):
            raise Refused("its IV and cipher key do not follow from its seed")
        return key

    def encode(self, value: SenderMessageKey, path: str, losses: Losses) -> etf.Map:
        iv, cipher_key = group_message_key(value.seed)
        members = {"iteration": value.iteration, "seed": value.seed}
        members |= {"iv": iv, "cipher_key": cipher_key}
        return self.dialect.join(members, value.extra, path, losses)


SKIPPED = SkippedCodec()
SENDER_STATE = _full(
    SenderKeyState,
    Member("sender_key_id", "sender_key_id", INT),
    Member(
        "sender_chain_key",
        "sender_chain_key",
        _full(
            SenderChainKey,
            Member("iteration", "iteration", INT),
            Member("seed", "seed", BYTES),
            struct=_GROUP + "SenderChainKey",
        ),
    ),
    Member(
        "sender_signing_key",
        "sender_signing_key",
        _full(
            SenderSigningKey,
            Member("public", "public", BYTES),
            Member("private", "private", BYTES, None),
        ),
    ),
    Member("sender_message_keys", "sender_message_keys", Many(SKIPPED)),
    struct=_GROUP + "SenderKeyState",
)
SENDER_KEY: Codec = _full(
    SenderKeyRecord,
    Member("states", "sender_key_states", Many(SENDER_STATE)),
    struct=_GROUP + "SenderKeyRecord",
)
