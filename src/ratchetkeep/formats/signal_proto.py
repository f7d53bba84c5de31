"""Sessions and sender keys in libsignal's protocol buffers, as pyaileys stores them.

``RecordStructure`` and ``SenderKeyRecordStructure``. The states of a sender key stand oldest first,
as in Baileys (found by running pyaileys 0.1.5, which sends with the last one); libsignal itself
would write them newest first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ratchetkeep.errors import DecodeError, InvalidValue
from ratchetkeep.model import (
    Credentials,
    EncodedRecord,
    FrozenDict,
    Key,
    SenderChainKey,
    SenderKeyRecord,
    SenderKeyState,
    SenderMessageKey,
    SenderSigningKey,
    SessionRecord,
)

from ._libsignal import (
    MEMBERS,
    REST,
    UNKNOWN,
    VERSION,
    Link,
    Pending,
    State,
    in_order,
    is_unknown,
    note_extra,
    note_unknown,
    to_record,
    to_state,
)
from ._proto import message, parsed, unknown_members
from ._shape import Losses

ENCODING = "signal-protobuf"

_EXCHANGE = (
    "sequence",
    "localBaseKey",
    "localBaseKeyPrivate",
    "localRatchetKey",
    "localRatchetKeyPrivate",
    "localIdentityKey",
    "localIdentityKeyPrivate",
)


def decode(key: Key, data: bytes) -> Any:
    """The record of the model in ``data``.

    :raises DecodeError: naming the member and what is wrong with it, never its content.
    """
    kind = "RecordStructure" if key.family == "session" else "SenderKeyRecordStructure"
    record = parsed(kind, data)
    if record is None:
        raise DecodeError("", "is not a protocol buffer")
    if data and not record.ListFields():
        raise DecodeError("", f"is not the protocol buffer of a {key.family}")
    reader = _Reader(has_unknown=_has_unknown(record))
    return reader.session_record(record) if key.family == "session" else reader.sender_key(record)


def encode(
    key: Key, value: Any, credentials: Credentials | None, losses: Losses
) -> EncodedRecord | None:
    """The record in this spelling; what of it cannot be held is noted in ``losses``."""
    if key.family == "session":
        return _session_record(value, credentials, losses)
    return _sender_key(value, losses)


def _has_unknown(record: Any) -> bool:
    known = type(record)()
    known.CopyFrom(record)
    known.DiscardUnknownFields()
    return bool(known.ByteSize() != record.ByteSize())


def _sized(of: Any, name: str, path: str, *sizes: int) -> bytes:
    """A member that must be there and have one of the ``sizes``."""
    data = bytes(getattr(of, name))
    if not of.HasField(name):
        raise DecodeError(f"{path}.{name}".lstrip("."), "is missing")
    if len(data) not in sizes or (len(data) == 33 and data[0] != 5):
        raise DecodeError(f"{path}.{name}".lstrip("."), f"is no key: it has {len(data)} bytes")
    return data


def _optional(of: Any, name: str, path: str, *sizes: int) -> bytes | None:
    return _sized(of, name, path, *sizes) if getattr(of, name) else None


class _Reader:
    """Reads one record."""

    def __init__(self, *, has_unknown: bool) -> None:
        self.has_unknown = has_unknown

    def unknown(self, of: Any) -> dict[str, Any]:
        """The rest that keeps the unknown members of a message."""
        data = unknown_members(of) if self.has_unknown else b""
        return {UNKNOWN: data} if data else {}

    def session_record(self, record: Any) -> SessionRecord:
        has = record.HasField("currentSession")
        current = self.state(record.currentSession, "currentSession") if has else None
        previous = [
            self.state(each, f"previousSessions[{place}]")
            for place, each in enumerate(record.previousSessions)
        ]
        read = to_record(current, previous, ("currentSession", "previousSessions"))
        rest = self.unknown(record)
        return read.replace(extra={REST: rest}) if rest else read

    def state(self, of: Any, path: str) -> State:
        has_sender, has_pending = of.HasField("senderChain"), of.HasField("pendingPreKey")
        has_remote_id = of.HasField("remoteRegistrationId")
        return State(
            local_identity=_optional(of, "localIdentityPublic", path, 32, 33),
            local_registration_id=of.localRegistrationId,
            remote_identity=_sized(of, "remoteIdentityPublic", path, 32, 33),
            remote_registration_id=of.remoteRegistrationId if has_remote_id else None,
            root_key=_sized(of, "rootKey", path, 32),
            previous_counter=of.previousCounter,
            base_key=_sized(of, "aliceBaseKey", path, 32, 33),
            sender=self.chain(of.senderChain, f"{path}.senderChain") if has_sender else None,
            receivers=[
                self.chain(each, f"{path}.receiverChains[{place}]", is_sender=False)
                for place, each in enumerate(of.receiverChains)
            ],
            pending=self.pending(of.pendingPreKey, path) if has_pending else None,
            rest=FrozenDict(self.state_rest(of)),
        )

    def state_rest(self, of: Any) -> dict[str, Any]:
        rest = self.unknown(of)
        if of.sessionVersion != VERSION:
            rest["sessionVersion"] = of.sessionVersion
        if of.needsRefresh:
            rest["needsRefresh"] = True
        if of.HasField("pendingKeyExchange"):
            exchange = of.pendingKeyExchange
            members = {name: getattr(exchange, name) for name in _EXCHANGE}
            rest["pendingKeyExchange"] = {**members, **self.unknown(exchange)}
        if of.HasField("pendingPreKey"):
            for name, data in self.unknown(of.pendingPreKey).items():
                rest[f"pendingPreKey.{name}"] = data
        return rest

    def pending(self, of: Any, path: str) -> Pending:
        return Pending(
            pre_key_id=of.preKeyId if of.HasField("preKeyId") else None,
            signed_pre_key_id=of.signedPreKeyId & 0xFFFFFFFF,
            base_key=_sized(of, "baseKey", f"{path}.pendingPreKey", 32, 33),
        )

    def chain(self, of: Any, path: str, *, is_sender: bool = True) -> Link:
        rest = self.unknown(of)
        for name, data in self.unknown(of.chainKey).items():
            rest[f"chainKey.{name}"] = data
        private = _optional(of, "senderRatchetKeyPrivate", path, 32)
        if private is not None and not is_sender:
            rest["senderRatchetKeyPrivate"] = private
        keys = []
        for place, each in enumerate(of.messageKeys):
            where = f"{path}.messageKeys[{place}]"
            parts = (("cipherKey", 32), ("macKey", 32), ("iv", 16))
            derived = b"".join(_sized(each, name, where, size) for name, size in parts)
            keys.append((each.index, derived))
            for name, data in self.unknown(each).items():
                rest[f"messageKeys.{each.index}.{name}"] = data
        return Link(
            public=_sized(of, "senderRatchetKey", path, 32, 33),
            private=private,
            following=of.chainKey.index,
            key=_optional(of.chainKey, "key", f"{path}.chainKey", 32),
            keys=keys,
            rest=FrozenDict(rest),
        )

    def sender_key(self, record: Any) -> SenderKeyRecord:
        states = [
            self.sender_state(each, f"senderKeyStates[{place}]")
            for place, each in enumerate(record.senderKeyStates)
        ]
        return SenderKeyRecord(states=tuple(states), extra=self.rest(record))

    def sender_state(self, of: Any, path: str) -> SenderKeyState:
        chain, signing = of.senderChainKey, of.senderSigningKey
        if not of.HasField("senderChainKey"):
            raise DecodeError(f"{path}.senderChainKey", "is missing")
        keys = []
        for place, each in enumerate(of.senderMessageKeys):
            seed = _sized(each, "seed", f"{path}.senderMessageKeys[{place}]", 32)
            extra = self.rest(each)
            keys.append(SenderMessageKey(iteration=each.iteration, seed=seed, extra=extra))
        where = f"{path}.senderSigningKey"
        try:
            return SenderKeyState(
                sender_key_id=of.senderKeyId,
                sender_chain_key=SenderChainKey(
                    iteration=chain.iteration,
                    seed=_sized(chain, "seed", f"{path}.senderChainKey", 32),
                    extra=self.rest(chain),
                ),
                sender_signing_key=SenderSigningKey(
                    public=_sized(signing, "public", where, 32, 33),
                    private=_optional(signing, "private", where, 32),
                    extra=self.rest(signing),
                ),
                sender_message_keys=tuple(keys),
                extra=self.rest(of),
            )
        except InvalidValue as invalid:
            raise DecodeError(path, invalid.what) from None

    def rest(self, of: Any) -> dict[str, Any]:
        """The ``extra`` of a message's value."""
        rest = self.unknown(of)
        return {REST: rest} if rest else {}


# -- writing -------------------------------------------------------------------------------------


def _bytes_of(record: Any) -> bytes:
    return bytes(record.SerializeToString(deterministic=True))


def _session_record(
    value: SessionRecord, credentials: Credentials | None, losses: Losses
) -> EncodedRecord | None:
    record = message("RecordStructure")
    current, others = in_order(value)
    seen: set[bytes] = set()
    for place, session in enumerate([current, *others] if current else others):
        path = f"sessions[{place}]"
        state = to_state(session, credentials, path, losses)
        if state is None:
            continue
        if state.base_key in seen:
            losses.note(path, "an older copy of a session is left out", derived=True)
            continue
        seen.add(state.base_key)
        for rest in (state.rest, *(link.rest for link in _links(state))):
            note_unknown(rest, MEMBERS, path, losses)
        is_current = session is current
        _put_state(record.currentSession if is_current else record.previousSessions.add(), state)
    if is_unknown(value.extra):
        losses.note("", "members beside the sessions are left out")
    rest = value.extra.get(REST, {})
    note_unknown(rest, MEMBERS, "", losses)
    _put_unknown(record, rest)
    if value.sessions and not seen:
        return None
    return EncodedRecord(encoding=ENCODING, data=_bytes_of(record))


def _links(state: State) -> list[Link]:
    return state.receivers if state.sender is None else [state.sender, *state.receivers]


def _put_unknown(to: Any, rest: Mapping[str, Any], name: str = UNKNOWN) -> None:
    data = rest.get(name)
    if data:
        to.MergeFromString(data)


def _put_state(to: Any, state: State) -> None:
    rest = state.rest
    version = rest.get("sessionVersion", VERSION)
    if version:
        to.sessionVersion = version
    if state.local_identity is not None:
        to.localIdentityPublic = state.local_identity
    to.remoteIdentityPublic = state.remote_identity
    to.rootKey = state.root_key
    to.previousCounter = state.previous_counter
    if state.sender is not None:
        _put_chain(to.senderChain, state.sender)
    for link in state.receivers:
        _put_chain(to.receiverChains.add(), link)
    exchange = rest.get("pendingKeyExchange")
    if exchange is not None:
        to.pendingKeyExchange.SetInParent()
        for name in _EXCHANGE:
            if exchange.get(name):
                setattr(to.pendingKeyExchange, name, exchange[name])
        _put_unknown(to.pendingKeyExchange, exchange)
    if state.pending is not None:
        _put_pending(to.pendingPreKey, state.pending)
        _put_unknown(to.pendingPreKey, rest, f"pendingPreKey.{UNKNOWN}")
    if state.remote_registration_id is not None:
        to.remoteRegistrationId = state.remote_registration_id
    to.localRegistrationId = state.local_registration_id
    if rest.get("needsRefresh"):
        to.needsRefresh = True
    to.aliceBaseKey = state.base_key
    _put_unknown(to, rest)


def _put_pending(to: Any, pending: Pending) -> None:
    if pending.pre_key_id is not None:
        to.preKeyId = pending.pre_key_id
    signed = pending.signed_pre_key_id
    to.signedPreKeyId = signed if signed < 2**31 else signed - 2**32
    to.baseKey = pending.base_key


def _put_chain(to: Any, link: Link) -> None:
    to.senderRatchetKey = link.public
    private = link.private or link.rest.get("senderRatchetKeyPrivate")
    if private is not None:
        to.senderRatchetKeyPrivate = private
    to.chainKey.index = link.following
    if link.key is not None:
        to.chainKey.key = link.key
    for number, derived in link.keys:
        key = to.messageKeys.add(
            index=number, cipherKey=derived[:32], macKey=derived[32:64], iv=derived[64:]
        )
        _put_unknown(key, link.rest, f"messageKeys.{number}.{UNKNOWN}")
    _put_unknown(to.chainKey, link.rest, f"chainKey.{UNKNOWN}")
    _put_unknown(to, link.rest)


def _sender_key(value: SenderKeyRecord, losses: Losses) -> EncodedRecord:
    record = message("SenderKeyRecordStructure")
    for place, state in enumerate(value.states):
        _put_sender_state(record.senderKeyStates.add(), state)
        chain, signing = state.sender_chain_key, state.sender_signing_key
        for part in (state, chain, signing, *state.sender_message_keys):
            note_extra(part, MEMBERS, f"senderKeyStates[{place}]", losses)
    note_extra(value, MEMBERS, "", losses)
    _put_unknown(record, value.extra.get(REST, {}))
    return EncodedRecord(encoding=ENCODING, data=_bytes_of(record))


def _put_sender_state(to: Any, state: SenderKeyState) -> None:
    chain, signing = state.sender_chain_key, state.sender_signing_key
    to.senderKeyId = state.sender_key_id
    to.senderChainKey.iteration = chain.iteration
    to.senderChainKey.seed = chain.seed
    to.senderSigningKey.public = signing.public
    if signing.private is not None:
        to.senderSigningKey.private = signing.private
    for key in state.sender_message_keys:
        made = to.senderMessageKeys.add(iteration=key.iteration, seed=key.seed)
        _put_unknown(made, key.extra.get(REST, {}))
    _put_unknown(to.senderChainKey, chain.extra.get(REST, {}))
    _put_unknown(to.senderSigningKey, signing.extra.get(REST, {}))
    _put_unknown(to, state.extra.get(REST, {}))
