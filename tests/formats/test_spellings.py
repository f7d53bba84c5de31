"""Sessions and sender keys between all their spellings: what can be carried is carried, what
cannot is said."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import _go_strict
from _helpers import ALICE, BOB, PENDING, key_of, records
from _pyaileys_engine import raw
from _signal_records import (
    CREDS,
    after_node,
    dumped,
    sender_documents,
    session_documents,
)
from ratchetkeep.errors import DecodeError
from ratchetkeep.formats import baileys, baileysex, go_json, native, signal_proto, spellings
from ratchetkeep.formats._shape import Losses
from ratchetkeep.model import (
    OPEN,
    RECEIVING,
    SENDING,
    Chain,
    ChainKey,
    Credentials,
    EncodedRecord,
    IndexInfo,
    Key,
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
from ratchetkeep.testing.strategies import BAILEYS, values_for

SESSION, SENDER_KEY = Key("session", "15551230002.0"), Key("sender-key", "1@g.us::2::0")
PROTO, GO = signal_proto.ENCODING, go_json.ENCODING


def key(number: int) -> bytes:
    return bytes([number]) * 32


def public(number: int) -> bytes:
    return b"\x05" + key(number)


def go(document: dict[str, Any]) -> EncodedRecord:
    return EncodedRecord(encoding=GO, data=dumped(document))


def through(record: Key, value: Any, hop: str) -> Any:
    """The record as it is after it was held in one spelling."""
    if hop in (PROTO, GO):
        made = spellings.respell(record, value, hop, CREDS, Losses())
        assert made is not None
        if hop == GO:
            check = _go_strict.check_session if record is SESSION else _go_strict.check_sender_key
            check(made.data)
        return made
    if hop == "model":
        return spellings.to_model(record, value)
    form = {"native": native, "json": baileys, "etf": baileysex}[hop]
    data = form.encode(record, value, CREDS).data
    return form.decode(record, data)


def in_go(record: Key, value: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(through(record, value, GO).data)
    return document


LIBSIGNALS = st.lists(st.sampled_from([PROTO, GO, "native", "model"]), max_size=6)
ALL = st.lists(st.sampled_from([PROTO, GO, "native", "model", "json", "etf"]), max_size=6)


@settings(max_examples=150, deadline=None)
@given(session_documents(), LIBSIGNALS)
def test_a_session_is_the_same_after_any_route_between_libsignals(
    document: dict[str, Any], route: list[str]
) -> None:
    """Something of a session would be lost or changed by copies between pyaileys and whatsmeow."""
    value: Any = go(document)
    for hop in route:
        value = through(SESSION, value, hop)
    assert in_go(SESSION, value) == document


@settings(max_examples=150, deadline=None)
@given(session_documents(plain=True), ALL, st.sampled_from(["json", "etf"]), ALL)
def test_a_session_loses_no_more_by_any_route_than_by_one_through_node(
    document: dict[str, Any], before: list[str], node: str, after: list[str]
) -> None:
    """A session would become another one on its way through the libraries."""
    value: Any = go(document)
    for hop in [*before, node, *after]:
        value = through(SESSION, value, hop)
    assert in_go(SESSION, value) == after_node(document)


@settings(max_examples=100, deadline=None)
@given(sender_documents(), ALL)
def test_a_sender_key_is_the_same_after_any_route(
    document: dict[str, Any], route: list[str]
) -> None:
    """Group messages would be unreadable after some copies."""
    value: Any = go(document)
    for hop in route:
        value = through(SENDER_KEY, value, hop)
    assert in_go(SENDER_KEY, value) == document


@settings(max_examples=150, deadline=None)
@given(values_for(BAILEYS).records["session"], st.sampled_from([PROTO, GO]))
def test_any_session_of_node_can_be_tried(value: Any, encoding: str) -> None:
    """A session that is odd would stop a copy, or bring Go down."""
    losses = Losses()
    made = spellings.respell(SESSION, value, encoding, CREDS, losses)
    if made is None:
        assert losses.found
        return
    back = spellings.to_model(SESSION, made)
    again = spellings.respell(SESSION, back, encoding, CREDS, Losses())
    assert again == made
    if encoding == GO:
        assert json.loads(made.data)["SessionState"]["SenderChain"]["ChainKey"]["Key"]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([SESSION, SENDER_KEY]), st.sampled_from([PROTO, GO]), st.data())
def test_damaged_records_are_refused_as_such(record: Key, encoding: str, data: Any) -> None:
    """A record that was damaged would stop a copy with an error that is not ours."""
    documents = session_documents() if record is SESSION else sender_documents()
    raw = bytearray(through(record, go(data.draw(documents)), encoding).data)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    for spoilt in (bytes(raw), cut):
        value = EncodedRecord(encoding=encoding, data=spoilt)
        try:
            model = spellings.to_model(record, value)
        except DecodeError:
            continue
        assert isinstance(model, SessionRecord | SenderKeyRecord)


SECRET = bytes(range(100, 132))


@pytest.mark.parametrize("encoding", [PROTO, GO])
def test_errors_show_no_content(encoding: str) -> None:
    """Key material would end up in a log."""
    raw = through(SESSION, ENTRY_RECORD, encoding).data
    wrong = raw.replace(SECRET, SECRET[:8] + b"\0" * 24) if encoding == PROTO else raw
    with pytest.raises(DecodeError) as caught:
        spellings.to_model(SESSION, EncodedRecord(encoding=encoding, data=wrong[:-3]))
    assert "defghijk" not in f"{caught.value!r} {caught.value}"


# -- what node's records become ------------------------------------------------------------------

ENTRY = Session(
    registration_id=57,
    current_ratchet=Ratchet(
        ephemeral_key_pair=KeyPair(public=public(1), private=key(2)),
        last_remote_ephemeral_key=public(3),
        previous_counter=-1,
        root_key=SECRET,
    ),
    index_info=IndexInfo(
        base_key=public(5),
        base_key_type=RECEIVING,
        used=1763600000123,
        created=1763600000000,
        remote_identity_key=public(6),
    ),
    chains={
        public(3): Chain(
            chain_key=ChainKey(counter=4, key=key(7)),
            chain_type=RECEIVING,
            message_keys={1: key(8), 3: key(9)},
        ),
        public(4): Chain(chain_key=ChainKey(counter=2), chain_type=RECEIVING),
        public(1): Chain(chain_key=ChainKey(counter=-1, key=key(10)), chain_type=SENDING),
    },
)
ENTRY_RECORD = SessionRecord(sessions={public(5): ENTRY})


def closed(number: int, at: int, **changes: Any) -> Session:
    """The session under another base key, closed at some time."""
    info = ENTRY.index_info.replace(base_key=public(number), closed=at)
    return ENTRY.replace(index_info=info, **changes)


def record_of(*sessions: Session) -> SessionRecord:
    return SessionRecord(sessions={each.index_info.base_key: each for each in sessions})


def test_what_go_gets_of_a_session_of_node() -> None:
    """whatsmeow would read the wrong message with each key, or take old sessions for new ones."""
    record = record_of(closed(20, 1000), ENTRY, closed(21, 3000), closed(22, 2000))
    losses = Losses()
    made = spellings.for_client(SESSION, record, "whatsmeow", CREDS, losses)
    document = _go_strict.check_session(made.data)  # type: ignore[union-attr]
    state = document["SessionState"]
    assert state["PreviousCounter"] == 4294967295
    assert state["LocalRegistrationID"] == CREDS.registration_id
    assert state["SenderChain"]["ChainKey"]["Index"] == 0
    first, last = state["ReceiverChains"]
    assert first["ChainKey"] == {"Key": None, "Index": 3}
    assert last["ChainKey"]["Index"] == 5
    derived = _go_strict.hkdf(key(8), b"WhisperMessageKeys", 80)
    skipped = last["MessageKeys"][0]
    parts = [raw(skipped[name]) for name in ("CipherKey", "MacKey", "IV")]
    assert skipped["Index"] == 1 and b"".join(parts) == derived
    bases = [raw(each["SenderBaseKey"]) for each in document["PreviousStates"]]
    assert bases == [public(21), public(22), public(20)]
    assert [loss for loss in losses.found if not loss.derived] == []


def test_a_session_that_waits_for_its_first_answer_has_its_receiver_chain_in_go() -> None:
    """The first answer to a chat begun with Baileys would be unreadable in whatsmeow."""
    pending = PendingPreKey(signed_key_id=2**31 + 5, base_key=public(5), pre_key_id=0)
    chains = {public(1): ENTRY.chains[public(1)]}
    waiting = ENTRY.replace(pending_pre_key=pending, chains=chains)
    document = in_go(SESSION, record_of(waiting))["SessionState"]
    assert document["PendingPreKey"]["PreKeyID"] == {"Value": 0, "IsEmpty": True}
    (chain,) = document["ReceiverChains"]
    assert chain["ChainKey"] == {"Key": None, "Index": 0} and chain["MessageKeys"] == []
    for hop in (PROTO, GO):
        back = through(SESSION, through(SESSION, record_of(waiting), hop), "json").open_session
        assert back.current_ratchet.last_remote_ephemeral_key == public(3)
        assert list(back.chains) == [public(1)] and back.pending_pre_key == pending.replace(
            pre_key_id=None
        )
        assert back.index_info.base_key_type == SENDING


@pytest.mark.parametrize(
    ("sessions", "is_held"),
    [
        ([], False),
        ([closed(20, 1000)], False),
        ([ENTRY.replace(chains={})], False),
        ([ENTRY.replace(chains={}), closed(20, 1000)], False),
        ([ENTRY, closed(20, 1000, chains={})], True),
    ],
)
def test_what_go_has_no_spelling_for_is_said(sessions: list[Session], is_held: bool) -> None:
    """Go would panic at a record, or send with a session that was closed."""
    losses = Losses()
    made = spellings.respell(SESSION, record_of(*sessions), GO, CREDS, losses)
    assert (made is not None) is is_held and losses.found
    if made is not None:
        assert _go_strict.check_session(made.data)["PreviousStates"] == []


def test_records_without_an_open_session_are_held_by_protobuf() -> None:
    """Late messages of closed sessions would be unreadable."""
    made = through(SESSION, record_of(closed(20, 1000), closed(21, 2000)), PROTO)
    back = spellings.to_model(SESSION, made)
    assert back.open_session is None and list(back.sessions) == [public(21), public(20)]


def test_a_device_that_is_not_known_cannot_be_repeated_in_a_session() -> None:
    """Go would panic at a session that does not name the device's own identity."""
    losses = Losses()
    for encoding in (PROTO, GO):
        assert spellings.respell(SESSION, ENTRY_RECORD, encoding, None, losses) is None
    assert all("own identity" in loss.what for loss in losses.found)


def test_states_with_one_base_key_are_one_session() -> None:
    """Node would find an old copy of a session in place of the session."""
    again = json.loads(through(SESSION, ENTRY_RECORD, GO).data)
    again["PreviousStates"] = [{**again["SessionState"], "PreviousCounter": 77}]
    record = EncodedRecord(encoding=GO, data=dumped(again))
    (session,) = through(SESSION, record, "json").sessions.values()
    assert session.is_open and session.current_ratchet.previous_counter == -1


def test_times_that_node_needs_are_made_up() -> None:
    """Node would take a closed session for the open one, or try the oldest first."""
    record = record_of(closed(20, 1000), ENTRY, closed(21, 3000), closed(22, 2000))
    back = through(SESSION, through(SESSION, record, PROTO), "json")
    infos = [session.index_info for session in back.sessions.values()]
    assert [info.base_key for info in infos] == [public(n) for n in (5, 21, 22, 20)]
    times = [info.closed for info in infos[1:]]
    assert infos[0].closed == OPEN
    assert times == sorted(times, reverse=True) and min(times) > 1_600_000_000_000
    used = [info.used for info in infos]
    assert used == sorted(used, reverse=True) and all(info.created for info in infos)


def test_an_open_session_that_cannot_send_is_closed_for_node() -> None:
    """Node would fail at each message to that contact, for good."""
    losses = Losses()
    mute = ENTRY.replace(chains={}, current_ratchet=ENTRY.current_ratchet)
    proto = spellings.respell(SESSION, record_of(mute), PROTO, CREDS, losses)
    back = spellings.for_node(SESSION, proto, CREDS, losses)
    assert isinstance(back, SessionRecord) and back.open_session is None and back.sessions


# -- records that stay as they are ---------------------------------------------------------------


@pytest.mark.parametrize("path", [*records(ALICE), *records(BOB)], ids=lambda path: path.name)
def test_records_of_node_are_not_touched_for_node(path: Any) -> None:
    """Each save of a record would rewrite it, and some would change."""
    record = key_of(path)
    value = baileys.decode(record, path.read_bytes())
    losses = Losses()
    assert spellings.for_node(record, value, CREDS, losses) is value
    for client in ("waeys", "baileys", "baileysex"):
        assert spellings.for_client(record, value, client, CREDS, losses) is value
    assert losses.found == []


@pytest.mark.parametrize(("client", "encoding"), [("pyaileys", PROTO), ("whatsmeow", GO)])
def test_records_of_a_client_are_not_touched_for_it(client: str, encoding: str) -> None:
    """A record would be taken apart and put together for nothing, and its damage hidden."""
    value = EncodedRecord(encoding=encoding, data=b"no record at all")
    losses = Losses()
    for record in (SESSION, SENDER_KEY):
        assert spellings.for_client(record, value, client, CREDS, losses) is value
        assert spellings.respell(record, value, encoding, CREDS, losses) is value
    assert losses.found == []


@pytest.mark.parametrize(
    ("client", "own"),
    [("pyaileys", "pyaileys-json"), ("waeys", "waeys-json"), ("baileys", "baileys-buffer")],
)
def test_odd_values_of_a_client_stay_its_own(client: str, own: str) -> None:
    """A value that only one client understands would be lost for it, or given to another."""
    value = EncodedRecord(encoding=own, data=b"{}")
    for record in (SESSION, Key("tctoken", "1@lid")):
        for each in spellings.CLIENTS:
            losses = Losses()
            made = spellings.for_client(record, value, each, CREDS, losses)
            assert made is (value if each == client else None)
            assert bool(losses.found) is (each != client)


def test_other_families_have_one_spelling() -> None:
    """A pre-key would be refused because a session could not be written so."""
    pair = KeyPair(public=key(1), private=key(2))
    for client in spellings.CLIENTS:
        assert spellings.for_client(Key("pre-key", "1"), pair, client, CREDS, Losses()) is pair


# -- all that real devices hold ------------------------------------------------------------------


@pytest.mark.parametrize("side", [ALICE, BOB], ids=lambda side: side.name)
def test_real_sessions_and_sender_keys_come_back(side: Any) -> None:
    """A device of Baileys would lose a session, a chain or a sender key by moving to another
    library and back; all but the keys of skipped messages come back."""
    creds: Credentials = baileys.decode(Key("credentials", ""), (side / "creds.json").read_bytes())
    tried = 0
    for path in records(side):
        record = key_of(path)
        if record.family not in spellings.FAMILIES:
            continue
        value = baileys.decode(record, path.read_bytes())
        for encoding in (PROTO, GO):
            losses = Losses()
            made = spellings.respell(record, value, encoding, creds, losses)
            if made is None:
                assert encoding == GO and value.open_session is None and losses.found
                continue
            tried += 1
            assert all(loss.derived for loss in losses.found)
            back = spellings.for_node(record, made, creds, losses)
            if record.family == "sender-key":
                assert back == value
            else:
                assert isinstance(back, SessionRecord)
                assert comparable(back) == comparable(value)
    assert tried > 10


def comparable(record: SessionRecord) -> list[Any]:
    """What libsignal's spellings hold of a record, but for the seeds."""
    ordered = sorted(record.sessions.values(), key=lambda s: (not s.is_open, -s.index_info.closed))
    return [
        (
            session.registration_id,
            session.current_ratchet,
            session.index_info.base_key,
            session.index_info.remote_identity_key,
            session.is_open,
            {
                public: (chain.chain_key, chain.chain_type)
                for public, chain in session.chains.items()
            },
            session.pending_pre_key,
        )
        for session in ordered
    ]


def test_the_golden_devices_hold_what_is_hard() -> None:
    """The test above would pass without ever seeing the hard cases."""
    assert PENDING.exists()
    found = set()
    for side in (ALICE, BOB):
        for path in records(side):
            if key_of(path).family == "session":
                value = baileys.decode(key_of(path), path.read_bytes())
                for session in value.sessions.values():
                    found.add("closed" if not session.is_open else "open")
                    found |= {"pending"} if session.pending_pre_key else set()
                    chains = session.chains.values()
                    found |= {"skipped" for chain in chains if chain.message_keys}
                    found |= {"ended" for chain in chains if chain.chain_key.key is None}
    assert found == {"closed", "open", "pending", "skipped", "ended"}


# -- sender keys ---------------------------------------------------------------------------------


def state(number: int, iteration: int, *, public_key: bytes = public(30)) -> SenderKeyState:
    return SenderKeyState(
        sender_key_id=number,
        sender_chain_key=SenderChainKey(iteration=iteration, seed=key(31)),
        sender_signing_key=SenderSigningKey(public=public_key),
        sender_message_keys=(SenderMessageKey(iteration=1, seed=key(32)),),
    )


def test_of_states_with_one_id_go_gets_the_one_that_baileys_uses() -> None:
    """Skipped group messages would be unreadable: Baileys reads with its oldest state of an id,
    and Go with its newest."""
    states = (state(7, 5), state(8, 1), state(7, 9), state(9, 2))
    losses = Losses()
    record = SenderKeyRecord(states=states)
    made = spellings.respell(SENDER_KEY, record, GO, None, losses)
    assert made is not None
    found = [
        (each["KeyID"], each["SenderChainKey"]["Iteration"])
        for each in _go_strict.check_sender_key(made.data)["SenderKeyStates"]
    ]
    assert found == [(9, 2), (7, 5), (8, 1)]
    assert [loss.derived for loss in losses.found] == [True]
    proto = spellings.respell(SENDER_KEY, record, PROTO, None, losses)
    assert spellings.to_model(SENDER_KEY, proto) == record


def test_of_states_with_one_id_node_gets_the_one_that_go_uses() -> None:
    """Group messages would be unreadable after a copy to Baileys."""
    newest_first = [in_go(SENDER_KEY, SenderKeyRecord(states=(state(7, n),))) for n in (9, 5)]
    states = [each["SenderKeyStates"][0] for each in newest_first]
    record = go({"SenderKeyStates": states})
    (only,) = through(SENDER_KEY, record, "json").states
    assert only.sender_chain_key.iteration == 9


def test_public_keys_get_their_type_byte_for_go() -> None:
    """Go would refuse the signing key of a group."""
    record = SenderKeyRecord(states=(state(1, 0, public_key=key(30)),))
    (found,) = in_go(SENDER_KEY, record)["SenderKeyStates"]
    assert raw(found["SigningKeyPublic"]) == public(30)
    proto = through(SENDER_KEY, record, PROTO)
    assert spellings.to_model(SENDER_KEY, proto) == record
