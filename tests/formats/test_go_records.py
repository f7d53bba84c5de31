"""Records that Go made, carried to the engines of the other libraries: the messages that were not
delivered yet are read there, and the conversation goes on."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from pyaileys.signal.repository import SignalError, SignalRepository

import _go_strict
import nodepeer
from _helpers import GOLDEN
from _pyaileys_engine import Keys, engine_of, raw
from ratchetkeep.formats import baileys, baileysex, go_json, signal_proto, spellings
from ratchetkeep.formats._proto import message
from ratchetkeep.formats._shape import Losses
from ratchetkeep.model import Credentials, EncodedRecord, Key, KeyPair, SignedPreKey

RECORDS: dict[str, Any] = json.loads((GOLDEN / "whatsmeow" / "go-records.json").read_bytes())
SCRIPT = nodepeer.NODE_FOLDER / "go_records.mjs"
# The Go side and its peer; any addresses will do.
ME, PEER = "15551230001@s.whatsapp.net", "15551230002@s.whatsapp.net"
GROUP = "120363041234567890@g.us"
SESSION, SENDER_KEY = Key("session", "15551230002.0"), Key("sender-key", f"{GROUP}::15551230002::0")


def pair(of: dict[str, Any]) -> KeyPair:
    return KeyPair(public=raw(of["pub"])[-32:], private=raw(of["priv"]))


def credentials(of: dict[str, Any]) -> Credentials:
    """The credentials of a side of the fixture."""
    signed = SignedPreKey(
        key_pair=pair(of["spk"]), signature=raw(of["spk"]["sig"]), key_id=of["spk"]["id"]
    )
    return Credentials(
        noise_key=pair(of),
        signed_identity_key=pair(of),
        signed_pre_key=signed,
        registration_id=of["reg"],
        adv_secret_key=bytes(32),
    )


def session(name: str) -> EncodedRecord:
    return EncodedRecord(encoding=go_json.ENCODING, data=RECORDS[name]["session"].encode())


def sender_key(name: str) -> EncodedRecord:
    return EncodedRecord(encoding=go_json.ENCODING, data=RECORDS[name]["sender_key"].encode())


def in_json(key: Key, value: Any, creds: Credentials | None) -> Any:
    """A record as Baileys' folder would hold it."""
    data = baileys.encode(key, value, creds).data
    assert data is not None
    return json.loads(data)


def node_side(of: dict[str, Any], records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A side as the script takes it, with its one-time pre-key."""
    creds = credentials(of)
    document = in_json(Key("credentials", ""), creds, None)
    names = ("signedIdentityKey", "signedPreKey", "registrationId")
    one_time = in_json(Key("pre-key", str(of["pk"]["id"])), pair(of["pk"]), None)
    records = {"pre-key": {str(of["pk"]["id"]): one_time}, **records}
    return {"creds": {name: document[name] for name in names}, "records": records}


def in_node(task: dict[str, Any], tmp_path: Path) -> list[str]:
    """What came of each step of a task in Node."""
    (tmp_path / "task.json").write_text(json.dumps(task))
    answers: list[str] = json.loads(nodepeer.run_module(SCRIPT, tmp_path / "task.json"))
    return answers


def buffer(data: str) -> dict[str, str]:
    return {"type": "Buffer", "data": data}


def routes(key: Key, record: EncodedRecord, creds: Credentials) -> dict[str, Any]:
    """The record as it is, and as it comes from Go by way of protocol buffers and BaileysEx."""
    proto = spellings.respell(key, record, signal_proto.ENCODING, creds, Losses())
    etf = baileysex.encode(key, record, creds).data
    assert etf is not None
    return {"go": record, "protobuf": proto, "etf": baileysex.decode(key, etf)}


@pytest.mark.parametrize("route", ["go", "protobuf", "etf"])
def test_node_goes_on_with_a_session_of_go(route: str, tmp_path: Path) -> None:
    """A chat of whatsmeow would be broken after a copy to Baileys: the next messages unreadable,
    or what is sent unreadable for the other side. (Skipped keys cannot be carried: see the
    losses.)"""
    sides = RECORDS["established"]
    creds = credentials(sides["me"])
    record = routes(SESSION, session("established"), creds)[route]
    steps: list[dict[str, Any]] = [
        {"do": "read", "peer": "me", "from": PEER, "type": m["type"], "data": buffer(m["data"])}
        for m in sides["undelivered"]
        if not m.get("skipped")
    ]
    back = {"do": "send", "peer": "me", "to": PEER, "reader": "peer", "from": ME}
    forth = {"do": "send", "peer": "peer", "to": ME, "reader": "me", "from": PEER}
    for number in range(4):
        steps += [{**(back if number % 2 == 0 else forth), "text": f"m{number}"}] * 2
    task = {
        "peers": {
            "me": node_side(
                sides["me"], {"session": {"15551230002.0": in_json(SESSION, record, creds)}}
            ),
            "peer": node_side(
                sides["peer"]["secret"],
                {"session": {"15551230001.0": sides["peer"]["node_record"]}},
            ),
        },
        "steps": steps,
    }
    said = [f"msg m{number}" for number in range(4) for _ in range(2)]
    assert in_node(task, tmp_path) == ["next0", "next1", *said]


@pytest.mark.parametrize("route", ["go", "protobuf", "etf"])
def test_node_goes_on_with_a_session_that_waits_for_its_first_answer(
    route: str, tmp_path: Path
) -> None:
    """A chat that whatsmeow began, not answered yet, would be broken after a copy to Baileys."""
    sides = RECORDS["pending"]
    creds = credentials(sides["me"])
    record = routes(SESSION, session("pending"), creds)[route]
    me = node_side(sides["me"], {"session": {"15551230002.0": in_json(SESSION, record, creds)}})
    task = {
        "peers": {"me": me, "peer": node_side(sides["peer"]["secret"], {})},
        "steps": [
            {"do": "send", "peer": "me", "to": PEER, "reader": "peer", "from": ME, "text": "a"},
            {"do": "send", "peer": "me", "to": PEER, "reader": "peer", "from": ME, "text": "b"},
            {"do": "send", "peer": "peer", "to": ME, "reader": "me", "from": PEER, "text": "c"},
            {"do": "send", "peer": "me", "to": PEER, "reader": "peer", "from": ME, "text": "d"},
            {"do": "send", "peer": "peer", "to": ME, "reader": "me", "from": PEER, "text": "e"},
        ],
    }
    assert in_node(task, tmp_path) == ["pkmsg a", "pkmsg b", "msg c", "msg d", "msg e"]


def test_node_reads_the_groups_of_go(tmp_path: Path) -> None:
    """Group messages, skipped ones too, would be unreadable after a copy to Baileys."""
    record = in_json(SENDER_KEY, sender_key("sender_key_received"), None)
    me = node_side(
        RECORDS["established"]["me"], {"sender-key": {f"{GROUP}::15551230002::0": record}}
    )
    steps = [
        {
            "do": "read-skipped-group" if m.get("skipped") else "read-group",
            "peer": "me",
            "group": GROUP,
            "from": PEER,
            "data": buffer(m["data"]),
        }
        for m in RECORDS["sender_key_received"]["undelivered"]
    ]
    assert in_node({"peers": {"me": me}, "steps": steps}, tmp_path) == ["g2", "g1", "g4"]


# -- pyaileys ------------------------------------------------------------------------------------


def engine(of: dict[str, Any], keys: Keys) -> SignalRepository:
    """pyaileys' engine for a side of the fixture."""
    return engine_of(credentials(of), keys)


def read(engine: SignalRepository, messages: list[dict[str, Any]]) -> list[str]:
    """The texts of direct messages from the peer."""

    async def all_of_them() -> list[str]:
        return [
            (
                await engine.decrypt_message(
                    PEER, message_type=m["type"], ciphertext=raw(m["data"])
                )
            ).decode()
            for m in messages
        ]

    return asyncio.run(all_of_them())


def proto_of(key: Key, record: EncodedRecord, creds: Credentials) -> bytes:
    losses = Losses()
    spelled = spellings.for_client(key, record, "pyaileys", creds, losses)
    assert isinstance(spelled, EncodedRecord) and all(loss.derived for loss in losses.found)
    return spelled.data


@pytest.mark.parametrize("times", [0, 1])
def test_pyaileys_reads_every_message_of_a_session_of_go(times: int) -> None:
    """Messages that were skipped and arrive late, or the next ones, would be unreadable after a
    copy of a whatsmeow store to pyaileys, at once or after a copy there and back."""
    sides = RECORDS["established"]
    creds = credentials(sides["me"])
    data = proto_of(SESSION, session("established"), creds)
    for _ in range(times):
        record = EncodedRecord(encoding=signal_proto.ENCODING, data=data)
        back = spellings.for_client(SESSION, record, "whatsmeow", creds, Losses())
        assert back == session("established")
        data = proto_of(SESSION, back, creds)
    me = engine(sides["me"], Keys(session={"15551230002.0": data}))
    texts = [m["text"] for m in sides["undelivered"]]
    assert read(me, sides["undelivered"]) == texts
    with pytest.raises(SignalError):
        read(me, sides["undelivered"][:1])


def test_pyaileys_sends_on_with_a_session_of_go(tmp_path: Path) -> None:
    """What pyaileys sends after a copy of a whatsmeow store would be unreadable for the other
    side."""
    sides = RECORDS["established"]
    creds = credentials(sides["me"])
    keys = Keys(session={"15551230002.0": proto_of(SESSION, session("established"), creds)})
    me = engine(sides["me"], keys)
    kind, data = asyncio.run(me.encrypt_message(PEER, data=b"from pyaileys"))
    assert kind == "msg"
    later = EncodedRecord(
        encoding=signal_proto.ENCODING, data=keys.families["session"]["15551230002.0"]
    )
    record = sides["peer"]["node_record"]
    task = {
        "peers": {
            "peer": node_side(sides["peer"]["secret"], {"session": {"15551230001.0": record}}),
            # And on, in Node, from where pyaileys has stopped.
            "me": node_side(
                sides["me"], {"session": {"15551230002.0": in_json(SESSION, later, creds)}}
            ),
        },
        "steps": [
            {
                "do": "read",
                "peer": "peer",
                "from": ME,
                "type": kind,
                "data": buffer(base64.b64encode(data).decode()),
            },
            {"do": "send", "peer": "me", "to": PEER, "reader": "peer", "from": ME, "text": "on"},
        ],
    }
    assert in_node(task, tmp_path) == ["from pyaileys", "msg on"]


def test_the_closed_session_of_go_is_whole_in_protobuf(tmp_path: Path) -> None:
    """Late messages of a closed session would be unreadable in a library that looks there.
    (pyaileys does not: so here the closed session is made its open one.)"""
    sides = RECORDS["established"]
    creds = credentials(sides["me"])
    record = message("RecordStructure")
    record.ParseFromString(proto_of(SESSION, session("established"), creds))
    (closed,) = record.previousSessions
    record.currentSession.CopyFrom(closed)
    me = engine(sides["me"], Keys(session={"15551230002.0": record.SerializeToString()}))
    kind, data = asyncio.run(me.encrypt_message(PEER, data=b"on the closed one"))
    record_of_peer = {"15551230001.0": sides["peer"]["node_record"]}
    step = {"do": "read", "peer": "peer", "from": ME, "type": kind}
    task = {
        "peers": {"peer": node_side(sides["peer"]["secret"], {"session": record_of_peer})},
        "steps": [{**step, "data": buffer(base64.b64encode(data).decode())}],
    }
    assert in_node(task, tmp_path) == ["on the closed one"]


def test_pyaileys_reads_and_sends_in_the_groups_of_go() -> None:
    """Group messages would be unreadable after a copy of a whatsmeow store to pyaileys, or the
    group could not read what is sent."""
    creds = credentials(RECORDS["established"]["me"])
    received = proto_of(SENDER_KEY, sender_key("sender_key_received"), creds)
    own = proto_of(SENDER_KEY, sender_key("sender_key_own"), creds)
    names = {f"{GROUP}::15551230002::0": received, f"{GROUP}::15551230001::0": own}
    me = engine(RECORDS["established"]["me"], Keys(sender_key=names))

    async def texts() -> list[str]:
        found = []
        for m in RECORDS["sender_key_received"]["undelivered"]:
            plain = await me.decrypt_group_message(
                group_jid=GROUP, author_jid=PEER, ciphertext=raw(m["data"])
            )
            found.append(plain.decode())
        sent, distribution = await me.encrypt_group_message(
            group_jid=GROUP, me_jid=ME, data=b"from pyaileys"
        )
        other = engine(RECORDS["established"]["peer"]["secret"], Keys())
        await other.process_sender_key_distribution_message(
            GROUP, author_jid=ME, distribution_bytes=distribution
        )
        plain = await other.decrypt_group_message(group_jid=GROUP, author_jid=ME, ciphertext=sent)
        return [*found, plain.decode()]

    assert asyncio.run(texts()) == ["g2", "g1", "g4", "from pyaileys"]


@pytest.mark.parametrize("name", ["established", "pending"])
def test_a_session_of_go_comes_back_byte_for_byte(name: str) -> None:
    """A record that went through the model or protocol buffers would no longer be Go's."""
    creds = credentials(RECORDS[name]["me"])
    losses = Losses()
    model = spellings.to_model(SESSION, session(name))
    for value in (model, spellings.respell(SESSION, model, signal_proto.ENCODING, None, losses)):
        assert spellings.respell(SESSION, value, go_json.ENCODING, creds, losses) == session(name)
    assert losses.found == []
    _go_strict.check_session(session(name).data)


@pytest.mark.parametrize("name", ["sender_key_own", "sender_key_received"])
def test_a_sender_key_of_go_comes_back(name: str) -> None:
    """A sender key would change on its way through the model or another library's spelling."""
    record = sender_key(name)
    losses = Losses()
    folder = baileys.decode(SENDER_KEY, baileys.encode(SENDER_KEY, record).data or b"")
    proto = spellings.respell(SENDER_KEY, record, signal_proto.ENCODING, None, losses)
    wanted = json.loads(record.data)
    for state in wanted["SenderKeyStates"]:
        if set(raw(state["SigningKeyPrivate"])) == {0}:
            state["SigningKeyPrivate"] = None
    for value in (spellings.to_model(SENDER_KEY, record), folder, proto):
        back = spellings.respell(SENDER_KEY, value, go_json.ENCODING, None, losses)
        assert back is not None and _go_strict.check_sender_key(back.data) == wanted
    assert losses.found == []


def test_what_go_cannot_carry_to_node_is_said() -> None:
    """Messages would be lost by a copy to Baileys without a word."""
    sides = RECORDS["established"]
    creds = credentials(sides["me"])
    lost = list(baileys.encode(SESSION, session("established"), creds).losses)
    (skipped,) = [each for each in lost if not each.derived]
    assert skipped.amount == 3 and "skipped messages" in skipped.told
    stranger = creds.replace(registration_id=1)
    told = baileys.encode(SESSION, session("established"), stranger).losses
    assert any("registration id" in each.what and not each.derived for each in told)
