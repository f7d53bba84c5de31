"""whatsmeow's JSON: read with all its quirks, and what would bring Go down is never written."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings

import _go_strict
from _signal_records import (
    CREDS,
    Document,
    dumped,
    group_key,
    public,
    sender_documents,
    session_documents,
    text,
)
from ratchetkeep.errors import DecodeError
from ratchetkeep.formats import go_json, signal_proto, spellings
from ratchetkeep.formats._shape import Losses
from ratchetkeep.model import Key, SenderKeyRecord, SessionRecord

SESSION, SENDER_KEY = Key("session", "15551230002.0"), Key("sender-key", "1@g.us::2::0")


def chain(number: int, private: int | None = None) -> Document:
    return {
        "SenderRatchetKeyPublic": public(number),
        "SenderRatchetKeyPrivate": None if private is None else text(bytes([private]) * 32),
        "ChainKey": {"Key": text(b"\7" * 32), "Index": 4},
        "MessageKeys": [],
    }


def session() -> Document:
    """A record with every member."""
    exchange = {name: text(b"\1" * 33) for name in _go_strict.EXCHANGE_MEMBERS}
    receiver = chain(3)
    receiver["MessageKeys"] = [
        {
            "CipherKey": text(b"\2" * 32),
            "MacKey": text(b"\3" * 32),
            "IV": text(b"\4" * 16),
            "Index": 1,
        }
    ]
    state = {
        "LocalIdentityPublic": public(1),
        "LocalRegistrationID": 5,
        "NeedsRefresh": True,
        "PendingKeyExchange": {**exchange, "Sequence": 9},
        "PendingPreKey": {
            "PreKeyID": {"Value": 7, "IsEmpty": False},
            "SignedPreKeyID": 1,
            "BaseKey": public(4),
        },
        "PreviousCounter": 0,
        "ReceiverChains": [receiver],
        "RemoteIdentityPublic": public(2),
        "RemoteRegistrationID": 6,
        "RootKey": text(b"\6" * 32),
        "SenderBaseKey": public(4),
        "SenderChain": chain(5, 6),
        "SessionVersion": 3,
    }
    return {"SessionState": state, "PreviousStates": []}


def sender_key() -> Document:
    return {
        "SenderKeyStates": [
            {
                "Keys": [group_key(1, text(b"\1" * 32))],
                "KeyID": 2**32 - 1,
                "SenderChainKey": {"Iteration": 2, "ChainKey": text(b"\2" * 32)},
                "SigningKeyPrivate": None,
                "SigningKeyPublic": public(3),
            }
        ]
    }


def at(document: Document, path: str) -> tuple[Any, Any]:
    """The parent of a member, and its name in it."""
    *parents, last = path.replace("[", ".").replace("]", "").split(".")
    part: Any = document
    for name in parents:
        part = part[int(name) if name.isdecimal() else name]
    return part, int(last) if last.isdecimal() else last


def changed(path: str, value: Any) -> tuple[Key, bytes]:
    key, document = (SENDER_KEY, sender_key()) if "SenderKey" in path else (SESSION, session())
    parent, name = at(document, path)
    if value is ...:
        del parent[name]
    else:
        parent[name] = value
    return key, dumped(document)


def test_the_samples_are_right() -> None:
    """What the next tests refuse would be refused for another reason."""
    _go_strict.check_session(dumped(session()))
    _go_strict.check_sender_key(dumped(sender_key()))
    assert isinstance(go_json.decode(SESSION, dumped(session())), SessionRecord)
    assert isinstance(go_json.decode(SENDER_KEY, dumped(sender_key())), SenderKeyRecord)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("SessionState", None),
        ("SessionState", []),
        ("SessionState.SenderChain", None),
        ("SessionState.SenderChain", ...),
        ("SessionState.SenderChain.ChainKey", None),
        ("SessionState.SenderChain.ChainKey.Index", -1),
        ("SessionState.SenderChain.ChainKey.Index", 2**32),
        ("SessionState.SenderChain.ChainKey.Index", 1.0),
        ("SessionState.SenderChain.ChainKey.Index", "1"),
        ("SessionState.SenderChain.ChainKey.Key", text(bytes(31))),
        ("SessionState.LocalIdentityPublic", None),
        ("SessionState.LocalIdentityPublic", text(bytes(33))),
        ("SessionState.SenderBaseKey", ...),
        ("SessionState.SenderBaseKey", text(bytes(32))),
        ("SessionState.RootKey", "not base64"),
        ("SessionState.RootKey", [1, 2]),
        ("SessionState.NeedsRefresh", 1),
        ("SessionState.ReceiverChains", {}),
        ("SessionState.ReceiverChains[0]", None),
        ("SessionState.ReceiverChains[0].ChainKey", None),
        ("SessionState.ReceiverChains[0].MessageKeys[0]", 5),
        ("SessionState.ReceiverChains[0].MessageKeys[0].IV", text(bytes(12))),
        ("SessionState.ReceiverChains[0].MessageKeys[0].MacKey", None),
        ("SessionState.PendingPreKey.BaseKey", None),
        ("SessionState.PendingPreKey.PreKeyID", 7),
        ("PreviousStates", {}),
        ("SenderKeyStates[0]", None),
        ("SenderKeyStates[0].SenderChainKey", None),
        ("SenderKeyStates[0].SenderChainKey.ChainKey", None),
        ("SenderKeyStates[0].SigningKeyPublic", None),
        ("SenderKeyStates[0].KeyID", -1),
    ],
)
def test_what_would_bring_go_down_is_refused(path: str, value: Any) -> None:
    """A damaged record would become keys that are none, and overwrite good ones."""
    key, data = changed(path, value)
    with pytest.raises(DecodeError) as caught:
        go_json.decode(key, data)
    assert caught.value.place == path


def test_an_element_of_the_previous_states_that_is_null_is_refused() -> None:
    """A damaged record would be taken for a whole one."""
    document = {**session(), "PreviousStates": [None]}
    with pytest.raises(DecodeError) as caught:
        go_json.decode(SESSION, dumped(document))
    assert caught.value.place == "PreviousStates[0]"


def test_a_group_key_that_does_not_follow_from_its_seed_is_refused() -> None:
    """A skipped group message would be unreadable, and nothing would tell why."""
    document = sender_key()
    document["SenderKeyStates"][0]["Keys"][0]["IV"] = text(bytes(16))
    with pytest.raises(DecodeError, match="do not follow"):
        go_json.decode(SENDER_KEY, dumped(document))


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b'{"a":1', b'{"a":1,"a":2}', b"\xff", b"{}"])
def test_what_is_none_of_it_is_refused(data: bytes) -> None:
    """Another row's bytes would be read as a contact without sessions."""
    for key in (SESSION, SENDER_KEY):
        with pytest.raises(DecodeError):
            go_json.decode(key, data)


@pytest.mark.parametrize(
    ("path", "value", "becomes"),
    [
        ("SessionState.ReceiverChains[0].ChainKey.Key", "", None),
        ("SessionState.ReceiverChains[0].SenderRatchetKeyPrivate", text(bytes(32)), None),
        ("SessionState.ReceiverChains[0].MessageKeys", None, []),
        ("SessionState.ReceiverChains", None, []),
        ("PreviousStates", None, []),
        ("SessionState.PendingPreKey.PreKeyID", None, {"Value": 0, "IsEmpty": True}),
        (
            "SessionState.PendingPreKey.PreKeyID",
            {"Value": 0, "IsEmpty": False},
            {"Value": 0, "IsEmpty": True},
        ),
        (
            "SessionState.PendingPreKey.PreKeyID",
            {"Value": 9, "IsEmpty": True},
            {"Value": 0, "IsEmpty": True},
        ),
        ("SenderKeyStates[0].SigningKeyPrivate", text(bytes(32)), None),
        ("SenderKeyStates[0].Keys", None, []),
    ],
)
def test_spellings_that_go_takes_for_the_same_are_read(path: str, value: Any, becomes: Any) -> None:
    """A record that Go has loaded and saved again could not be copied."""
    key, data = changed(path, value)
    made = go_json.encode(key, go_json.decode(key, data), None, Losses())
    assert made is not None
    check = _go_strict.check_session if key is SESSION else _go_strict.check_sender_key
    parent, name = at(check(made.data), path)
    assert parent[name] == becomes


@settings(max_examples=100, deadline=None)
@given(session_documents())
def test_any_session_comes_back(document: Document) -> None:
    """A session would change by being read and written."""
    losses = Losses()
    made = go_json.encode(SESSION, go_json.decode(SESSION, dumped(document)), None, losses)
    assert made is not None and made.data == dumped(document) and losses.found == []
    _go_strict.check_session(made.data)


@settings(max_examples=60, deadline=None)
@given(sender_documents())
def test_any_sender_key_comes_back(document: Document) -> None:
    """A sender key would change by being read and written."""
    losses = Losses()
    read = go_json.decode(SENDER_KEY, dumped(document))
    made = go_json.encode(SENDER_KEY, read, None, losses)
    assert made is not None and made.data == dumped(document) and losses.found == []
    _go_strict.check_sender_key(made.data)


# -- members of a newer version ------------------------------------------------------------------

PARTS = [
    "",
    "SessionState",
    "SessionState.SenderChain",
    "SessionState.ReceiverChains[0]",
    "SessionState.ReceiverChains[0].ChainKey",
    "SessionState.ReceiverChains[0].MessageKeys[0]",
    "SessionState.PendingPreKey",
    "SessionState.PendingKeyExchange",
    "SenderKeyStates[0]",
    "SenderKeyStates[0].SenderChainKey",
    "SenderKeyStates[0].Keys[0]",
]


@pytest.mark.parametrize("part", PARTS)
def test_members_of_a_newer_version_are_carried_and_said_to_be_lost(part: str) -> None:
    """What a newer whatsmeow keeps in its records would vanish without a word."""
    key, document = (SENDER_KEY, sender_key()) if "SenderKey" in part else (SESSION, session())
    strange = copy.deepcopy(document)
    of: Any = strange
    if part:
        parent, name = at(strange, part)
        of = parent[name]
    of["Strange"] = {"a": [1, None, "x"]}
    model = go_json.decode(key, dumped(strange))
    losses = Losses()
    back = go_json.encode(key, model, None, losses)
    assert back is not None and json.loads(back.data) == strange and losses.found == []
    made = signal_proto.encode(key, model, CREDS, losses)
    plain = go_json.decode(key, dumped(document))
    assert made == signal_proto.encode(key, plain, CREDS, Losses())
    assert [loss for loss in losses.found if not loss.derived]
    losses = Losses()
    spellings.for_node(key, model, CREDS, losses)
    assert [loss for loss in losses.found if "left out" in loss.what]


def test_what_only_libsignal_knows_is_said_to_be_lost_for_node() -> None:
    """A key exchange that whatsmeow is in the middle of would vanish without a word."""
    losses = Losses()
    model = go_json.decode(SESSION, dumped(session()))
    plain = spellings.for_node(SESSION, model, CREDS.replace(registration_id=5), losses)
    assert isinstance(plain, SessionRecord)
    told = [loss.told for loss in losses.found if not loss.derived]
    assert len(told) == 2 and "skipped messages" in told[1] and told[1].endswith(": 1")
    (only,) = plain.sessions.values()
    assert not only.extra and not any(chain.extra for chain in only.chains.values())
