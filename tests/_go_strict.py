"""What Go accepts: a strict reader of whatsmeow's session and sender-key JSON.

Written from what go.mau.fi/libsignal 0.2 does, without any of our own code: it refuses whatever
makes Go panic, fail, or use a key that is none. Each function raises :class:`Refused` (an
AssertionError) that names the member.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

SESSION_MEMBERS = ["SessionState", "PreviousStates"]
STATE_MEMBERS = [
    "LocalIdentityPublic",
    "LocalRegistrationID",
    "NeedsRefresh",
    "PendingKeyExchange",
    "PendingPreKey",
    "PreviousCounter",
    "ReceiverChains",
    "RemoteIdentityPublic",
    "RemoteRegistrationID",
    "RootKey",
    "SenderBaseKey",
    "SenderChain",
    "SessionVersion",
]
CHAIN_MEMBERS = [
    "SenderRatchetKeyPublic",
    "SenderRatchetKeyPrivate",
    "ChainKey",
    "MessageKeys",
]
EXCHANGE_MEMBERS = [
    "Sequence",
    "LocalBaseKeyPublic",
    "LocalBaseKeyPrivate",
    "LocalRatchetKeyPublic",
    "LocalRatchetKeyPrivate",
    "LocalIdentityKeyPublic",
    "LocalIdentityKeyPrivate",
]
SENDER_STATE_MEMBERS = [
    "Keys",
    "KeyID",
    "SenderChainKey",
    "SigningKeyPrivate",
    "SigningKeyPublic",
]


class Refused(AssertionError):
    """Go would not go on with this."""


def _parse(data: bytes) -> Any:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(found)
        if len(members) != len(found):
            raise Refused("a member stands twice")
        return members

    if not isinstance(data, bytes):
        raise Refused("is not bytes")
    document = json.loads(data.decode("utf-8"), object_pairs_hook=pairs)
    if json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() != data:
        raise Refused("is not compact JSON")
    return document


def _object(value: Any, members: list[str], place: str) -> dict[str, Any]:
    """An object with exactly these members, in the order in which Go writes them."""
    if value is None:
        raise Refused(f"{place} is null: Go panics")
    if not isinstance(value, dict) or list(value) != members:
        raise Refused(f"{place} has other members, or another order")
    return value


def _number(value: Any, place: str) -> int:
    if type(value) is not int or not 0 <= value < 2**32:
        raise Refused(f"{place} is no uint32")
    return value


def _flag(value: Any, place: str) -> bool:
    if type(value) is not bool:
        raise Refused(f"{place} is no bool")
    return value


def _list(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise Refused(f"{place} is no list")
    return value


def _bytes(value: Any, size: int, place: str) -> bytes:
    if not isinstance(value, str):
        raise Refused(f"{place} is no base64 text")
    data = base64.b64decode(value, validate=True)
    if base64.b64encode(data).decode() != value or len(data) != size:
        raise Refused(f"{place} is not the standard base64 of {size} bytes")
    return data


def _public(value: Any, place: str) -> bytes:
    data = _bytes(value, 33, place)
    if data[0] != 5:
        raise Refused(f"{place} does not begin with 0x05")
    return data


def check_session(data: bytes) -> dict[str, Any]:
    """Check the bytes of ``whatsmeow_sessions.session``; return the document."""
    record = _object(_parse(data), SESSION_MEMBERS, "the record")
    states = [record["SessionState"], *_list(record["PreviousStates"], "PreviousStates")]
    base_keys = []
    for place, state in enumerate(states):
        name = f"PreviousStates[{place - 1}]" if place else "SessionState"
        base_keys.append(_check_state(state, name))
    if len(set(base_keys)) != len(base_keys):
        raise Refused("two states have the same base key")
    return record


def _check_state(value: Any, place: str) -> bytes:
    state = _object(value, STATE_MEMBERS, place)
    _public(state["LocalIdentityPublic"], f"{place}.LocalIdentityPublic")
    _public(state["RemoteIdentityPublic"], f"{place}.RemoteIdentityPublic")
    base_key = _public(state["SenderBaseKey"], f"{place}.SenderBaseKey")
    for name in (
        "LocalRegistrationID",
        "RemoteRegistrationID",
        "PreviousCounter",
        "SessionVersion",
    ):
        _number(state[name], f"{place}.{name}")
    _flag(state["NeedsRefresh"], f"{place}.NeedsRefresh")
    _bytes(state["RootKey"], 32, f"{place}.RootKey")
    if state["PendingKeyExchange"] is not None:
        exchange = _object(state["PendingKeyExchange"], EXCHANGE_MEMBERS, f"{place}.exchange")
        _number(exchange["Sequence"], f"{place}.exchange.Sequence")
    receivers = _list(state["ReceiverChains"], f"{place}.ReceiverChains")
    publics = [
        _check_chain(chain, f"{place}.ReceiverChains[{at}]", is_sender=False)
        for at, chain in enumerate(receivers)
    ]
    if len(set(publics)) != len(publics):
        raise Refused(f"{place}: two receiver chains have the same ratchet key")
    _check_chain(state["SenderChain"], f"{place}.SenderChain", is_sender=True)
    if state["PendingPreKey"] is not None:
        _check_pending(state["PendingPreKey"], f"{place}.PendingPreKey")
    return base_key


def _check_pending(value: Any, place: str) -> None:
    pending = _object(value, ["PreKeyID", "SignedPreKeyID", "BaseKey"], place)
    one_time = _object(pending["PreKeyID"], ["Value", "IsEmpty"], f"{place}.PreKeyID")
    number = _number(one_time["Value"], f"{place}.PreKeyID.Value")
    # Go sends what is not empty, and no server has a pre-key of the number 0.
    if _flag(one_time["IsEmpty"], f"{place}.PreKeyID.IsEmpty") != (number == 0):
        raise Refused(f"{place}.PreKeyID says both that there is one and that there is none")
    _number(pending["SignedPreKeyID"], f"{place}.SignedPreKeyID")
    _public(pending["BaseKey"], f"{place}.BaseKey")


def _check_chain(value: Any, place: str, *, is_sender: bool) -> bytes:
    chain = _object(value, CHAIN_MEMBERS, place)
    public = _public(chain["SenderRatchetKeyPublic"], f"{place}.SenderRatchetKeyPublic")
    private = chain["SenderRatchetKeyPrivate"]
    if is_sender or private is not None:
        _bytes(private, 32, f"{place}.SenderRatchetKeyPrivate")
    key = _object(chain["ChainKey"], ["Key", "Index"], f"{place}.ChainKey")
    following = _number(key["Index"], f"{place}.ChainKey.Index")
    if is_sender or key["Key"] is not None:
        _bytes(key["Key"], 32, f"{place}.ChainKey.Key")
    numbers = []
    for at, each in enumerate(_list(chain["MessageKeys"], f"{place}.MessageKeys")):
        where = f"{place}.MessageKeys[{at}]"
        message = _object(each, ["CipherKey", "MacKey", "IV", "Index"], where)
        _bytes(message["CipherKey"], 32, f"{where}.CipherKey")
        _bytes(message["MacKey"], 32, f"{where}.MacKey")
        _bytes(message["IV"], 16, f"{where}.IV")
        numbers.append(_number(message["Index"], f"{where}.Index"))
    # A key of a message that is yet to come would never be looked for.
    if len(set(numbers)) != len(numbers) or any(number >= following for number in numbers):
        raise Refused(f"{place} has message keys that are never looked for")
    return public


def check_sender_key(data: bytes) -> dict[str, Any]:
    """Check the bytes of ``whatsmeow_sender_keys.sender_key``; return the document."""
    record = _object(_parse(data), ["SenderKeyStates"], "the record")
    states = _list(record["SenderKeyStates"], "SenderKeyStates")
    if not states:
        raise Refused("a record of no state is none")
    ids = []
    for place, value in enumerate(states):
        name = f"SenderKeyStates[{place}]"
        state = _object(value, SENDER_STATE_MEMBERS, name)
        ids.append(_number(state["KeyID"], f"{name}.KeyID"))
        chain = _object(
            state["SenderChainKey"], ["Iteration", "ChainKey"], f"{name}.SenderChainKey"
        )
        _number(chain["Iteration"], f"{name}.SenderChainKey.Iteration")
        _bytes(chain["ChainKey"], 32, f"{name}.SenderChainKey.ChainKey")
        _public(state["SigningKeyPublic"], f"{name}.SigningKeyPublic")
        if state["SigningKeyPrivate"] is not None:
            _bytes(state["SigningKeyPrivate"], 32, f"{name}.SigningKeyPrivate")
        for at, each in enumerate(_list(state["Keys"], f"{name}.Keys")):
            _check_group_key(each, f"{name}.Keys[{at}]")
    if len(set(ids)) != len(ids):
        raise Refused("two states have the same id: Go never looks at the second")
    return record


def _check_group_key(value: Any, place: str) -> None:
    key = _object(value, ["Iteration", "IV", "CipherKey", "Seed"], place)
    _number(key["Iteration"], f"{place}.Iteration")
    seed = _bytes(key["Seed"], 32, f"{place}.Seed")
    derived = hkdf(seed, b"WhisperGroup", 48)
    if _bytes(key["IV"], 16, f"{place}.IV") != derived[:16]:
        raise Refused(f"{place}.IV does not follow from the seed")
    if _bytes(key["CipherKey"], 32, f"{place}.CipherKey") != derived[16:]:
        raise Refused(f"{place}.CipherKey does not follow from the seed")


def hkdf(seed: bytes, info: bytes, size: int) -> bytes:
    """HKDF-SHA256 (RFC 5869) with a salt of 32 zero bytes, by hand."""
    secret = hmac.new(bytes(32), seed, hashlib.sha256).digest()
    made = block = b""
    while len(made) < size:
        block = hmac.new(
            secret, block + info + bytes([len(made) // 32 + 1]), hashlib.sha256
        ).digest()
        made += block
    return made[:size]
