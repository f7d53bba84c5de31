"""Sessions and sender keys of every valid shape, as Go spells them, made without our own code."""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import strategies as st

from _go_strict import hkdf
from ratchetkeep.model import Credentials
from ratchetkeep.testing._samples import some_bytes, some_pair

Document = dict[str, Any]

UINT32 = st.integers(0, 2**32 - 1)
CREDS = Credentials.new().replace(registration_id=4711, signed_identity_key=some_pair("own", 1))
"""The device of all these records."""


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def of(size: int) -> st.SearchStrategy[str]:
    """Base64 text of bytes that look like a key: all zeros are none for Go."""
    return st.integers(0, 2**40).map(lambda n: text(some_bytes("key", n, size)))


def public(number: int) -> str:
    return text(b"\x05" + some_bytes("public", number))


PUBLICS = st.integers(0, 2**40).map(public)
OWN_IDENTITY = text(b"\x05" + CREDS.signed_identity_key.public[-32:])


def dumped(document: Document) -> bytes:
    """The bytes as Go writes them."""
    return json.dumps(document, separators=(",", ":")).encode()


@st.composite
def chains(draw: Any, key: str, *, is_sender: bool) -> Document:
    """A chain; message keys only of messages that were skipped."""
    following = draw(st.integers(0, 5) | UINT32)
    numbers = [] if is_sender else draw(st.lists(st.integers(0, 40), max_size=3, unique=True))
    skipped = sorted(number for number in numbers if number < following)
    chain_key = draw(of(32)) if is_sender else draw(of(32) | st.none())
    return {
        "SenderRatchetKeyPublic": key,
        "SenderRatchetKeyPrivate": draw(of(32)) if is_sender else None,
        "ChainKey": {"Key": chain_key, "Index": following},
        "MessageKeys": [
            {
                "CipherKey": draw(of(32)),
                "MacKey": draw(of(32)),
                "IV": draw(of(16)),
                "Index": number,
            }
            for number in skipped
        ],
    }


@st.composite
def states(draw: Any, base_key: str, *, plain: bool) -> Document:
    """A session; a ``plain`` one has nothing that only libsignal's spellings hold."""
    keys = draw(st.lists(PUBLICS, min_size=1, max_size=4, unique=True))
    sender = draw(chains(keys[0], is_sender=True))
    receivers = [draw(chains(key, is_sender=False)) for key in keys[1:]]
    pending = exchange = None
    if draw(st.booleans()):
        number = draw(st.integers(0, 2**24 - 1))
        pending = {
            "PreKeyID": {"Value": number, "IsEmpty": number == 0},
            "SignedPreKeyID": draw(UINT32),
            "BaseKey": draw(PUBLICS),
        }
    if not plain and draw(st.booleans()):
        kinds = ("BaseKey", "RatchetKey", "IdentityKey")
        names = [f"Local{kind}{half}" for kind in kinds for half in ("Public", "Private")]
        members = {name: draw(of(33) | st.none()) for name in names}
        exchange = {"Sequence": draw(UINT32), **members}
    if not plain and receivers and draw(st.booleans()):
        receivers[0]["SenderRatchetKeyPrivate"] = draw(of(32))
    return {
        "LocalIdentityPublic": OWN_IDENTITY,
        "LocalRegistrationID": CREDS.registration_id,
        "NeedsRefresh": not plain and draw(st.booleans()),
        "PendingKeyExchange": exchange,
        "PendingPreKey": pending,
        "PreviousCounter": draw(st.integers(0, 9) | UINT32),
        "ReceiverChains": receivers,
        "RemoteIdentityPublic": draw(PUBLICS),
        "RemoteRegistrationID": draw(UINT32),
        "RootKey": draw(of(32)),
        "SenderBaseKey": base_key,
        "SenderChain": sender,
        "SessionVersion": 3 if plain else draw(st.sampled_from([3, 2, 4])),
    }


@st.composite
def session_documents(draw: Any, *, plain: bool = False) -> Document:
    """A session record of Go's."""
    keys = draw(st.lists(PUBLICS, min_size=1, max_size=3, unique=True))
    first, *previous = [draw(states(key, plain=plain)) for key in keys]
    return {"SessionState": first, "PreviousStates": previous}


def after_node(document: Document) -> Document:
    """A plain record after libsignal-node has held it, by section 3 of the facts on formats:
    derived keys are gone, and so are chains on which nothing was received, but for the key of the
    last one."""

    def state(of: Document) -> Document:
        held = [
            {**chain, "MessageKeys": []}
            for chain in of["ReceiverChains"]
            if chain["ChainKey"]["Index"]
        ]
        if of["ReceiverChains"]:
            last = of["ReceiverChains"][-1]
            if not last["ChainKey"]["Index"]:
                key = {"Key": None, "Index": 0}
                held.append({**last, "ChainKey": key, "MessageKeys": []})
        return {**of, "ReceiverChains": held}

    previous = [state(each) for each in document["PreviousStates"]]
    return {"SessionState": state(document["SessionState"]), "PreviousStates": previous}


@st.composite
def sender_documents(draw: Any) -> Document:
    """A sender-key record of Go's."""
    ids = draw(st.lists(UINT32, min_size=1, max_size=4, unique=True))
    return {"SenderKeyStates": [draw(sender_states(number)) for number in ids]}


@st.composite
def sender_states(draw: Any, number: int) -> Document:
    iterations = draw(st.lists(UINT32, max_size=3, unique=True))
    return {
        "Keys": [group_key(iteration, draw(of(32))) for iteration in iterations],
        "KeyID": number,
        "SenderChainKey": {"Iteration": draw(UINT32), "ChainKey": draw(of(32))},
        "SigningKeyPrivate": draw(of(32) | st.none()),
        "SigningKeyPublic": draw(PUBLICS),
    }


def group_key(iteration: int, seed: str) -> Document:
    derived = hkdf(base64.b64decode(seed), b"WhisperGroup", 48)
    return {
        "Iteration": iteration,
        "IV": text(derived[:16]),
        "CipherKey": text(derived[16:]),
        "Seed": seed,
    }
