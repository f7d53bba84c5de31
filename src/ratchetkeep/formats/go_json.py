"""Sessions and sender keys as whatsmeow stores them: JSON that Go writes.

Source: go.mau.fi/libsignal 0.2, by running it. Go panics at a null where it expects a part, so
what is written has every part; what is read must have them too. Bytes are standard base64 text,
a missing key is null, or 32 zero bytes once Go has loaded and saved it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ratchetkeep.errors import DecodeError
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
from ratchetkeep.model._checks import Refused, free

from ._baileys_signal import prefixed
from ._json import dump, from_base64, parse, to_base64
from ._libsignal import (
    MEMBERS,
    REST,
    UNKNOWN,
    VERSION,
    Link,
    Pending,
    State,
    group_message_key,
    in_order,
    is_unknown,
    note_extra,
    note_unknown,
    to_record,
    to_state,
)
from ._shape import Losses

ENCODING = "go-json"

_ZEROS = bytes(32)
# libsignal's names of the members of a key exchange, and Go's.
_EXCHANGE = {
    "sequence": "Sequence",
    "localBaseKey": "LocalBaseKeyPublic",
    "localBaseKeyPrivate": "LocalBaseKeyPrivate",
    "localRatchetKey": "LocalRatchetKeyPublic",
    "localRatchetKeyPrivate": "LocalRatchetKeyPrivate",
    "localIdentityKey": "LocalIdentityKeyPublic",
    "localIdentityKeyPrivate": "LocalIdentityKeyPrivate",
}


def decode(key: Key, data: bytes) -> Any:
    """The record of the model in ``data``.

    :raises DecodeError: naming the member and what is wrong with it, never its content.
    """
    whole = _Object(parse(data), "")
    return _read_session_record(whole) if key.family == "session" else _read_sender_key(whole)


def encode(
    key: Key, value: Any, credentials: Credentials | None, losses: Losses
) -> EncodedRecord | None:
    """The record in this spelling; None, with a loss, if Go has no spelling for it."""
    if key.family == "session":
        written = _session_record(value, credentials, losses)
    else:
        written = _sender_key(value, losses)
    return None if written is None else EncodedRecord(encoding=ENCODING, data=dump(written))


# -- reading -------------------------------------------------------------------------------------


class _Object:
    """The members of a JSON object, taken one by one; what is left nobody knows."""

    def __init__(self, raw: Any, path: str) -> None:
        if not isinstance(raw, dict):
            raise DecodeError(path, "is no object")
        self.path = path
        self.left: dict[str, Any] = dict(raw)

    def at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def data(self, name: str, *sizes: int) -> bytes:
        """Bytes that must be there."""
        data = self.optional(name, *sizes)
        if data is None:
            raise DecodeError(self.at(name), "is missing")
        return data

    def optional(self, name: str, *sizes: int) -> bytes | None:
        """Bytes, or None for nothing."""
        raw = self.left.pop(name, None)
        if raw is None or raw == "":
            return None
        try:
            data = from_base64(raw)
        except Refused as refused:
            raise DecodeError(self.at(name), refused.what) from None
        if sizes and (len(data) not in sizes or (len(data) == 33 and data[0] != 5)):
            raise DecodeError(self.at(name), f"is no key: it has {len(data)} bytes")
        return data

    def private(self, name: str) -> bytes | None:
        """A private key; Go writes zeros for none."""
        data = self.optional(name, 32)
        return None if data == _ZEROS else data

    def number(self, name: str) -> int:
        """A whole number of 32 bits; Go leaves none out."""
        raw = self.left.pop(name, 0)
        if type(raw) is not int or not 0 <= raw < 2**32:
            raise DecodeError(self.at(name), "is no whole number of 32 bits")
        return raw

    def boolean(self, name: str) -> bool:
        raw = self.left.pop(name, False)
        if type(raw) is not bool:
            raise DecodeError(self.at(name), "is neither true nor false")
        return raw

    def part(self, name: str) -> _Object | None:
        """An object, or None for null."""
        raw = self.left.pop(name, None)
        return None if raw is None else _Object(raw, self.at(name))

    def parts(self, name: str) -> list[_Object]:
        """The objects of a list; Go reads null as an empty one."""
        raw = self.left.pop(name, None)
        if raw is None:
            return []
        if not isinstance(raw, list):
            raise DecodeError(self.at(name), "is no list")
        return [_Object(each, f"{self.at(name)}[{place}]") for place, each in enumerate(raw)]

    def needed(self, name: str) -> _Object:
        """An object without which Go would panic."""
        part = self.part(name)
        if part is None:
            raise DecodeError(self.at(name), "is missing")
        return part

    def rest(self) -> dict[str, Any]:
        """What nobody has taken, to be carried along."""
        if not self.left:
            return {}
        try:
            return {MEMBERS: free(self.left)}
        except Refused as refused:
            raise DecodeError(self.path, refused.what) from None


def _extra(*parts: _Object) -> dict[str, Any]:
    rest: dict[str, Any] = {}
    for part in parts:
        rest |= part.rest()
    return {REST: rest} if rest else {}


def _read_session_record(whole: _Object) -> SessionRecord:
    current = _read_state(whole.needed("SessionState"))
    previous = [_read_state(each) for each in whole.parts("PreviousStates")]
    record = to_record(current, previous, ("SessionState", "PreviousStates"))
    extra = _extra(whole)
    return record.replace(extra=extra) if extra else record


def _read_state(of: _Object) -> State:
    pending, rest = _read_pending(of)
    rest |= _read_exchange(of)
    version = of.number("SessionVersion")
    if version != VERSION:
        rest["sessionVersion"] = version
    if of.boolean("NeedsRefresh"):
        rest["needsRefresh"] = True
    state = State(
        local_identity=of.data("LocalIdentityPublic", 33),
        local_registration_id=of.number("LocalRegistrationID"),
        remote_identity=of.data("RemoteIdentityPublic", 33),
        remote_registration_id=of.number("RemoteRegistrationID"),
        root_key=of.data("RootKey", 32),
        previous_counter=of.number("PreviousCounter"),
        base_key=of.data("SenderBaseKey", 33),
        sender=_read_chain(of.needed("SenderChain"), is_sender=True),
        receivers=[_read_chain(each) for each in of.parts("ReceiverChains")],
        pending=pending,
    )
    return state._replace(rest=FrozenDict({**rest, **of.rest()}))


def _read_pending(of: _Object) -> tuple[Pending | None, dict[str, Any]]:
    part = of.part("PendingPreKey")
    if part is None:
        return None, {}
    one_time = part.part("PreKeyID")
    found = None
    if one_time is not None:
        number, is_empty = one_time.number("Value"), one_time.boolean("IsEmpty")
        found = None if is_empty else number
    pending = Pending(found, part.number("SignedPreKeyID"), part.data("BaseKey", 33))
    return pending, {f"pendingPreKey.{name}": left for name, left in part.rest().items()}


def _read_exchange(of: _Object) -> dict[str, Any]:
    part = of.part("PendingKeyExchange")
    if part is None:
        return {}
    members: dict[str, Any] = {"sequence": part.number("Sequence")}
    for name, spelled in _EXCHANGE.items():
        if name != "sequence":
            members[name] = part.optional(spelled) or b""
    return {"pendingKeyExchange": {**members, **part.rest()}}


def _read_chain(of: _Object, *, is_sender: bool = False) -> Link:
    key = of.needed("ChainKey")
    rest: dict[str, Any] = {}
    private = of.private("SenderRatchetKeyPrivate")
    if private is not None and not is_sender:
        rest["senderRatchetKeyPrivate"] = private
    keys = []
    for each in of.parts("MessageKeys"):
        parts = (("CipherKey", 32), ("MacKey", 32), ("IV", 16))
        derived = b"".join(each.data(name, size) for name, size in parts)
        number = each.number("Index")
        keys.append((number, derived))
        rest |= {f"messageKeys.{number}.{name}": left for name, left in each.rest().items()}
    link = Link(
        public=of.data("SenderRatchetKeyPublic", 33),
        private=private,
        following=key.number("Index"),
        key=key.optional("Key", 32),
        keys=keys,
    )
    rest |= {f"chainKey.{name}": left for name, left in key.rest().items()}
    return link._replace(rest=FrozenDict({**rest, **of.rest()}))


def _read_sender_key(whole: _Object) -> SenderKeyRecord:
    """A sender-key record. Go looks for the first state of an id and never at another one of it,
    while the model's owner would look at the oldest: so only the first is kept."""
    if "SenderKeyStates" not in whole.left:
        raise DecodeError("SenderKeyStates", "is missing")
    states: dict[int, SenderKeyState] = {}
    for each in whole.parts("SenderKeyStates"):
        state = _read_sender_state(each)
        states.setdefault(state.sender_key_id, state)
    return SenderKeyRecord(states=tuple(reversed(states.values())), extra=_extra(whole))


def _read_sender_state(of: _Object) -> SenderKeyState:
    chain = of.needed("SenderChainKey")
    signing = SenderSigningKey(
        public=of.data("SigningKeyPublic", 33), private=of.private("SigningKeyPrivate")
    )
    keys = []
    for each in of.parts("Keys"):
        seed = each.data("Seed", 32)
        given = (each.data("IV"), each.data("CipherKey"))
        if given != group_message_key(seed):
            raise DecodeError(each.path, "its IV and cipher key do not follow from its seed")
        number = each.number("Iteration")
        keys.append(SenderMessageKey(iteration=number, seed=seed, extra=_extra(each)))
    number, seed = chain.number("Iteration"), chain.data("ChainKey", 32)
    return SenderKeyState(
        sender_key_id=of.number("KeyID"),
        sender_chain_key=SenderChainKey(iteration=number, seed=seed, extra=_extra(chain)),
        sender_signing_key=signing,
        sender_message_keys=tuple(keys),
        extra=_extra(of),
    )


# -- writing -------------------------------------------------------------------------------------


def _text(data: bytes | None) -> str | None:
    return to_base64(data) if data else None


def _members(rest: Mapping[str, Any], name: str = MEMBERS) -> Mapping[str, Any]:
    """The members that a newer version may have, as JSON."""
    members: Mapping[str, Any] = rest.get(name, {})
    return members


def _session_record(
    value: SessionRecord, credentials: Credentials | None, losses: Losses
) -> dict[str, Any] | None:
    if not value.sessions:
        losses.note("", "whatsmeow keeps no record that has no session", derived=True)
        return None
    current, others = in_order(value)
    # The closed sessions only read late messages. Go has no spelling for a record of them alone:
    # the newest of them would be the one that it sends with.
    if current is None:
        what = "late messages of closed sessions can no longer be read: none is open to send with"
        losses.note("", what)
        return None
    states: dict[bytes, dict[str, Any]] = {}
    for place, session in enumerate([current, *others]):
        path = f"sessions[{place}]"
        state = to_state(session, credentials, path, losses)
        if state is None or state.sender is None or state.sender.key is None:
            if state is not None:
                losses.note(path, "its messages can no longer be read: it has no sending chain")
            if session is current:
                return None
        elif state.base_key in states:
            losses.note(path, "an older copy of a session is left out", derived=True)
        else:
            states[state.base_key] = _state(state, state.sender, path, losses)
    first, *previous = states.values()
    if is_unknown(value.extra):
        losses.note("", "members beside the sessions are left out")
    rest = value.extra.get(REST, {})
    note_unknown(rest, UNKNOWN, "", losses)
    return {"SessionState": first, "PreviousStates": previous, **_members(rest)}


def _state(state: State, sender: Link, path: str, losses: Losses) -> dict[str, Any]:
    rest = state.rest
    for each in (rest, sender.rest, *(link.rest for link in state.receivers)):
        note_unknown(each, UNKNOWN, path, losses)
    return {
        "LocalIdentityPublic": _text(state.local_identity),
        "LocalRegistrationID": state.local_registration_id,
        "NeedsRefresh": bool(rest.get("needsRefresh", False)),
        "PendingKeyExchange": _exchange(rest.get("pendingKeyExchange")),
        "PendingPreKey": state.pending and _pending(state.pending, rest),
        "PreviousCounter": state.previous_counter,
        "ReceiverChains": [_chain(link) for link in state.receivers],
        "RemoteIdentityPublic": _text(state.remote_identity),
        "RemoteRegistrationID": state.remote_registration_id or 0,
        "RootKey": _text(state.root_key),
        "SenderBaseKey": _text(state.base_key),
        "SenderChain": _chain(sender),
        "SessionVersion": rest.get("sessionVersion", VERSION),
        **_members(rest),
    }


def _exchange(members: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if members is None:
        return None
    written: dict[str, Any] = {"Sequence": members.get("sequence", 0)}
    for name, spelled in _EXCHANGE.items():
        if name != "sequence":
            written[spelled] = _text(members.get(name))
    return {**written, **_members(members)}


def _pending(pending: Pending, rest: Mapping[str, Any]) -> dict[str, Any]:
    one_time = pending.pre_key_id
    return {
        "PreKeyID": {"Value": one_time or 0, "IsEmpty": one_time is None},
        "SignedPreKeyID": pending.signed_pre_key_id,
        "BaseKey": _text(pending.base_key),
        **_members(rest, f"pendingPreKey.{MEMBERS}"),
    }


def _chain(link: Link) -> dict[str, Any]:
    rest = link.rest
    return {
        "SenderRatchetKeyPublic": _text(link.public),
        "SenderRatchetKeyPrivate": _text(link.private or rest.get("senderRatchetKeyPrivate")),
        "ChainKey": {
            "Key": _text(link.key),
            "Index": link.following,
            **_members(rest, f"chainKey.{MEMBERS}"),
        },
        "MessageKeys": [
            {
                "CipherKey": _text(derived[:32]),
                "MacKey": _text(derived[32:64]),
                "IV": _text(derived[64:]),
                "Index": number,
                **_members(rest, f"messageKeys.{number}.{MEMBERS}"),
            }
            for number, derived in link.keys
        ],
        **_members(rest),
    }


def _sender_key(value: SenderKeyRecord, losses: Losses) -> dict[str, Any] | None:
    if not value.states:
        losses.note("", "whatsmeow keeps no record that has no sender key", derived=True)
        return None
    note_extra(value, UNKNOWN, "", losses)
    states = [
        _sender_state(state, f"states[{place}]", losses)
        for place, state in _used_states(value.states, losses)
    ]
    return {"SenderKeyStates": states, **_members(value.extra.get(REST, {}))}


def _used_states(
    states: tuple[SenderKeyState, ...], losses: Losses
) -> Iterable[tuple[int, SenderKeyState]]:
    """The states newest first, one of each id: that which the model's owner would use, the oldest,
    at the place of the newest."""
    used: dict[int, tuple[int, SenderKeyState]] = {}
    for place, state in enumerate(states):
        other = used.pop(state.sender_key_id, None)
        if other is not None:
            losses.note(f"states[{place}]", "a state that is never used is left out", derived=True)
        used[state.sender_key_id] = (place, state) if other is None else other
    return reversed(used.values())


def _sender_state(state: SenderKeyState, path: str, losses: Losses) -> dict[str, Any]:
    chain, signing = state.sender_chain_key, state.sender_signing_key
    for part in (state, chain, signing, *state.sender_message_keys):
        note_extra(part, UNKNOWN, path, losses)
    return {
        "Keys": [_sender_message_key(key) for key in state.sender_message_keys],
        "KeyID": state.sender_key_id,
        "SenderChainKey": {
            "Iteration": chain.iteration,
            "ChainKey": _text(chain.seed),
            **_members(chain.extra.get(REST, {})),
        },
        "SigningKeyPrivate": _text(signing.private),
        "SigningKeyPublic": _text(prefixed(signing.public)),
        **_members(state.extra.get(REST, {})),
    }


def _sender_message_key(key: SenderMessageKey) -> dict[str, Any]:
    iv, cipher_key = group_message_key(key.seed)
    return {
        "Iteration": key.iteration,
        "IV": _text(iv),
        "CipherKey": _text(cipher_key),
        "Seed": _text(key.seed),
        **_members(key.extra.get(REST, {})),
    }
