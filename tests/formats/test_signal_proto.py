"""Sessions and sender keys as protocol buffers: the same messages as pyaileys' own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from pyaileys.proto import WAProto_pb2

from _helpers import ALICE, BOB, PENDING, key_of, records
from _pyaileys_engine import Keys, engine_of, raw
from _signal_records import CREDS, dumped, sender_documents, session_documents
from ratchetkeep.errors import DecodeError
from ratchetkeep.formats import baileys, go_json, signal_proto, spellings
from ratchetkeep.formats._proto import message, parsed
from ratchetkeep.formats._shape import Losses
from ratchetkeep.model import Credentials, EncodedRecord, Key, SenderKeyRecord, SessionRecord

theirs: Any = WAProto_pb2
SESSION, SENDER_KEY = Key("session", "15551230002.0"), Key("sender-key", "1@g.us::2::0")
THEIRS = {
    "RecordStructure": theirs.RecordStructure,
    "SessionStructure": theirs.SessionStructure,
    "Chain": theirs.SessionStructure.Chain,
    "ChainKey": theirs.SessionStructure.Chain.ChainKey,
    "MessageKey": theirs.SessionStructure.Chain.MessageKey,
    "PendingKeyExchange": theirs.SessionStructure.PendingKeyExchange,
    "PendingPreKey": theirs.SessionStructure.PendingPreKey,
    "SenderKeyRecordStructure": theirs.SenderKeyRecordStructure,
    "SenderKeyStateStructure": theirs.SenderKeyStateStructure,
    "SenderChainKey": theirs.SenderKeyStateStructure.SenderChainKey,
    "SenderSigningKey": theirs.SenderKeyStateStructure.SenderSigningKey,
    "SenderMessageKey": theirs.SenderKeyStateStructure.SenderMessageKey,
    "AppStateSyncKeyFingerprint": theirs.Message.AppStateSyncKeyFingerprint,
    "AppStateSyncKeyData": theirs.Message.AppStateSyncKeyData,
    "ADVSignedDeviceIdentity": theirs.ADVSignedDeviceIdentity,
}
# A member of the number 99 with the text "hello".
STRANGE = b"\x9a\x06\x05hello"


def members(descriptor: Any) -> list[tuple[Any, ...]]:
    return sorted(
        (
            field.number,
            field.name,
            field.type,
            field.is_repeated,
            field.message_type and field.message_type.name,
        )
        for field in descriptor.fields
    )


@pytest.mark.parametrize("name", THEIRS)
def test_messages_are_those_of_pyaileys(name: str) -> None:
    """A record would be read with its members exchanged."""
    assert members(message(name).DESCRIPTOR) == members(THEIRS[name].DESCRIPTOR)


def test_what_is_no_protobuf_is_none() -> None:
    """Damage would end a copy with an error of another library."""
    for data in (b"\xff", b"\x0a\x05abc", b"\x0a" * 9):
        assert parsed("RecordStructure", data) is None


def proto(document: dict[str, Any], key: Key = SESSION) -> bytes:
    """A record of Go's, as protocol buffer."""
    record = EncodedRecord(encoding=go_json.ENCODING, data=dumped(document))
    made = spellings.respell(key, record, signal_proto.ENCODING, CREDS, Losses())
    assert made is not None
    return made.data


@settings(max_examples=60, deadline=None)
@given(session_documents())
def test_pyaileys_reads_what_is_written(document: dict[str, Any]) -> None:
    """pyaileys would find a member of a session in another place."""
    record = theirs.RecordStructure()
    record.ParseFromString(proto(document))
    state, current = document["SessionState"], record.currentSession
    assert len(record.previousSessions) == len(document["PreviousStates"])
    assert current.aliceBaseKey == raw(state["SenderBaseKey"])
    assert current.previousCounter == state["PreviousCounter"]
    assert current.senderChain.chainKey.index == state["SenderChain"]["ChainKey"]["Index"]
    assert [chain.senderRatchetKey for chain in current.receiverChains] == [
        raw(chain["SenderRatchetKeyPublic"]) for chain in state["ReceiverChains"]
    ]
    pending = state["PendingPreKey"]
    assert current.HasField("pendingPreKey") is (pending is not None)
    if pending is not None:
        assert current.pendingPreKey.signedPreKeyId & 0xFFFFFFFF == pending["SignedPreKeyID"]
        assert current.pendingPreKey.HasField("preKeyId") is not pending["PreKeyID"]["IsEmpty"]


@settings(max_examples=60, deadline=None)
@given(sender_documents())
def test_pyaileys_sends_with_the_newest_sender_key(document: dict[str, Any]) -> None:
    """pyaileys would send to a group with an old sender key."""
    record = theirs.SenderKeyRecordStructure()
    record.ParseFromString(proto(document, SENDER_KEY))
    ids = [state.senderKeyId for state in record.senderKeyStates]
    assert ids[::-1] == [state["KeyID"] for state in document["SenderKeyStates"]]


# -- messages that were not delivered ------------------------------------------------------------


@pytest.mark.parametrize("side", [ALICE, BOB], ids=lambda side: side.name)
def test_pyaileys_reads_what_was_not_delivered_to_a_device_of_baileys(side: Path) -> None:
    """Messages that were on their way during a copy from Baileys to pyaileys would be lost."""
    creds: Credentials = baileys.decode(Key("credentials", ""), (side / "creds.json").read_bytes())
    keys = Keys()
    for path in records(side):
        key = key_of(path)
        if key.family in spellings.FAMILIES:
            value = baileys.decode(key, path.read_bytes())
            made = spellings.for_client(key, value, "pyaileys", creds, Losses())
            assert made is not None
            keys.families.setdefault(key.family, {})[key.id] = made.data
        elif key.family == "pre-key":
            pair = baileys.decode(key, path.read_bytes())
            held = {"public": pair.public, "private": pair.private}
            keys.families.setdefault(key.family, {})[key.id] = held
    me = engine_of(creds, keys)
    read = []
    for m in json.loads(PENDING.read_bytes())["pending"]:
        if m["to"] != side.name:
            continue
        if m["kind"] == "group":
            call = me.decrypt_group_message(
                group_jid=m["group"], author_jid=m["from"], ciphertext=raw(m["data"])
            )
        else:
            call = me.decrypt_message(m["from"], message_type=m["kind"], ciphertext=raw(m["data"]))
        assert asyncio.run(call).decode() == m["text"], m["why"]
        read.append(m["why"])
    assert read


# -- reading -------------------------------------------------------------------------------------


def sample() -> Any:
    """A session record with every member, as pyaileys' own message."""

    def key(number: int) -> bytes:
        return b"\x05" + bytes([number]) * 32

    record = theirs.RecordStructure()
    state = record.currentSession
    state.sessionVersion = 3
    state.localIdentityPublic, state.remoteIdentityPublic = key(1), key(2)
    state.rootKey, state.aliceBaseKey = bytes([3]) * 32, key(4)
    state.previousCounter, state.remoteRegistrationId, state.localRegistrationId = 1, 2, 3
    for chain, n in ((state.senderChain, 5), (state.receiverChains.add(), 6)):
        chain.senderRatchetKey = key(n)
        chain.chainKey.index, chain.chainKey.key = 4, bytes([n]) * 32
    state.senderChain.senderRatchetKeyPrivate = bytes([7]) * 32
    state.receiverChains[0].messageKeys.add(
        index=2, cipherKey=bytes(32), macKey=bytes(32), iv=bytes(16)
    )
    state.pendingPreKey.baseKey, state.pendingPreKey.signedPreKeyId = key(4), 1
    return record


def sender_sample() -> Any:
    record = theirs.SenderKeyRecordStructure()
    state = record.senderKeyStates.add(senderKeyId=7)
    state.senderChainKey.iteration, state.senderChainKey.seed = 3, bytes(32)
    state.senderSigningKey.public = bytes(32)
    state.senderMessageKeys.add(iteration=1, seed=bytes(32))
    return record


def test_the_samples_are_right() -> None:
    """What the next tests refuse would be refused for another reason."""
    assert isinstance(signal_proto.decode(SESSION, sample().SerializeToString()), SessionRecord)
    read = signal_proto.decode(SENDER_KEY, sender_sample().SerializeToString())
    assert isinstance(read, SenderKeyRecord)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("currentSession.rootKey", bytes(31)),
        ("currentSession.rootKey", None),
        ("currentSession.localIdentityPublic", bytes(33)),
        ("currentSession.remoteIdentityPublic", None),
        ("currentSession.aliceBaseKey", None),
        ("currentSession.senderChain.senderRatchetKey", bytes(5)),
        ("currentSession.senderChain.senderRatchetKeyPrivate", bytes(33)),
        ("currentSession.senderChain.senderRatchetKeyPrivate", None),
        ("currentSession.receiverChains[0].chainKey.key", bytes(16)),
        ("currentSession.receiverChains[0].messageKeys[0].iv", bytes(32)),
        ("currentSession.receiverChains[0].messageKeys[0].macKey", None),
        ("currentSession.receiverChains[0].senderRatchetKey", b"\x05" * 33),
        ("currentSession.pendingPreKey.baseKey", b""),
        ("senderKeyStates[0].senderChainKey", None),
        ("senderKeyStates[0].senderChainKey.seed", b""),
        ("senderKeyStates[0].senderSigningKey.public", None),
        ("senderKeyStates[0].senderSigningKey.private", bytes(64)),
        ("senderKeyStates[0].senderMessageKeys[0].seed", bytes(33)),
    ],
)
def test_what_is_no_record_is_refused(member: str, value: bytes | None) -> None:
    """A damaged record would become keys that are none, and overwrite good ones."""
    key = SENDER_KEY if member.startswith("senderKey") else SESSION
    record = sender_sample() if key is SENDER_KEY else sample()
    *parents, last = member.split(".")
    part = record
    for name in parents:
        name, _, place = name.partition("[")
        part = getattr(part, name)
        part = part[int(place[:-1])] if place else part
    if value is None:
        part.ClearField(last.partition("[")[0])
    else:
        setattr(part, last.partition("[")[0], value)
    with pytest.raises(DecodeError) as caught:
        signal_proto.decode(key, record.SerializeToString())
    # Two cases are seen only once the parts are put together.
    assert member.startswith(caught.value.place) and caught.value.place


def test_two_chains_of_one_key_are_refused() -> None:
    """One of two chains would be lost without a word."""
    record = sample()
    record.currentSession.receiverChains.add().CopyFrom(record.currentSession.receiverChains[0])
    with pytest.raises(DecodeError, match="same ratchet key"):
        signal_proto.decode(SESSION, record.SerializeToString())


@pytest.mark.parametrize("data", [b"\xff\xff", STRANGE, b"{}", b'{"_sessions":{}}'])
def test_what_is_none_of_it_is_refused(data: bytes) -> None:
    """Another file's bytes would be read as a contact without sessions."""
    for key in (SESSION, SENDER_KEY):
        with pytest.raises(DecodeError):
            signal_proto.decode(key, data)


def test_an_empty_record_is_one() -> None:
    """A contact whose sessions were all removed could not be copied."""
    assert signal_proto.decode(SESSION, b"") == SessionRecord()
    losses = Losses()
    made = signal_proto.encode(SESSION, SessionRecord(), CREDS, losses)
    assert made is not None and made.data == b"" and losses.found == []


# -- members of a newer version ------------------------------------------------------------------


def test_members_of_a_newer_version_are_carried_and_said_to_be_lost() -> None:
    """What a newer pyaileys keeps in its records would vanish without a word."""
    record = message("RecordStructure")
    record.ParseFromString(sample().SerializeToString())
    state = record.currentSession
    receiver = state.receiverChains[0]
    parts = (record, state, state.senderChain, receiver, receiver.chainKey, state.pendingPreKey)
    for part in (*parts, receiver.messageKeys[0]):
        part.MergeFromString(STRANGE)
    data = record.SerializeToString(deterministic=True)
    model = signal_proto.decode(SESSION, data)
    losses = Losses()
    back = signal_proto.encode(SESSION, model, CREDS, losses)
    assert back is not None and back.data == data and losses.found == []
    for form in (go_json.encode, spellings.for_node):
        losses = Losses()
        assert form(SESSION, model, CREDS, losses) is not None
        assert any("left out" in loss.what and not loss.derived for loss in losses.found)


def test_members_of_a_newer_sender_key_are_carried_and_said_to_be_lost() -> None:
    """The same for the keys of groups."""
    record = message("SenderKeyRecordStructure")
    record.ParseFromString(sender_sample().SerializeToString())
    (state,) = record.senderKeyStates
    parts = (record, state, state.senderChainKey, state.senderSigningKey)
    for part in (*parts, state.senderMessageKeys[0]):
        part.MergeFromString(STRANGE)
    data = record.SerializeToString(deterministic=True)
    model = signal_proto.decode(SENDER_KEY, data)
    losses = Losses()
    back = signal_proto.encode(SENDER_KEY, model, CREDS, losses)
    assert back is not None and back.data == data and losses.found == []
    assert go_json.encode(SENDER_KEY, model, None, losses) is not None
    assert len([loss for loss in losses.found if not loss.derived]) == 5
    losses = Losses()
    plain = spellings.for_node(SENDER_KEY, model, None, losses)
    assert isinstance(plain, SenderKeyRecord) and len(losses.found) == 5
    stripped = sender_sample().SerializeToString()
    assert plain == signal_proto.decode(SENDER_KEY, stripped)


def test_a_session_of_another_protocol_version_is_said_to_be_lost() -> None:
    """A contact would be dead after a copy, with no word about it."""
    record = sample()
    record.currentSession.sessionVersion = 2
    losses = Losses()
    spelled = EncodedRecord(encoding=signal_proto.ENCODING, data=record.SerializeToString())
    spellings.for_node(SESSION, spelled, CREDS.replace(registration_id=3), losses)
    assert [loss.what for loss in losses.found if "version" in loss.what]
