"""``--for CLIENT``: the sessions and sender keys in the spelling that a client can go on with."""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from pyaileys.client import WhatsAppClient
from pyaileys.proto import WAProto_pb2
from typer.testing import CliRunner

from _helpers import ALICE, BOB, PENDING, bytes_of, small_baileys
from ratchetkeep import (
    EncodedRecord,
    InvalidValue,
    NotHeld,
    StoreDamaged,
    copy_device,
    open_device,
)
from ratchetkeep.cli.app import app
from ratchetkeep.clients import pyaileys, waeys
from ratchetkeep.model import SenderKeyRecord, SessionRecord

RATCHETS = ("session", "sender-key")
PROTOBUF, GO = "signal-protobuf", "go-json"
# pyaileys' protobuf messages; their stubs name none of them.
WAProto: Any = WAProto_pb2


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(scenario)


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def spellings(url: str) -> set[Any]:
    """The encodings, or types, of all sessions and sender keys of a device."""
    with open_device(url, read_only=True) as device:
        return {
            value.encoding if isinstance(value, EncodedRecord) else type(value)
            for family in RATCHETS
            for value in device.get(family, device.ids(family)).values()
        }


def waiting(name: str, kind: str) -> list[dict[str, Any]]:
    """Messages of Node that were on their way to a golden device."""
    document = json.loads(PENDING.read_bytes())
    found = [each for each in document["pending"] if (each["to"], each["kind"]) == (name, kind)]
    assert found
    return [{**each, "data": base64.b64decode(each["data"])} for each in found]


# The clients.


def test_a_device_of_node_is_read_by_pyaileys(tmp_path: Path) -> None:
    """Messages that were on their way when the device moved from Node could not be read."""
    url = f"sqlite:{tmp_path}/bob.db"
    copy_device(f"baileys:{BOB}", url, client="pyaileys")
    assert spellings(url) == {PROTOBUF}

    async def scenario() -> None:
        async with await pyaileys.load(url, create=False) as auth:
            for id in await auth.device.ids("session"):
                record = WAProto.RecordStructure()
                record.ParseFromString((await auth.keys.get("session", [id]))[id])
                assert record.currentSession.rootKey or record.previousSessions
            client = WhatsAppClient(auth=auth)
            auth.attach(client)
            for each in waiting("bob", "msg"):
                text = await client.signal.decrypt_message(
                    each["from"], message_type="msg", ciphertext=each["data"]
                )
                assert text.decode() == each["text"]
            for each in waiting("bob", "group"):
                text = await client.signal.decrypt_group_message(
                    group_jid=each["group"], author_jid=each["from"], ciphertext=each["data"]
                )
                assert text.decode() == each["text"]

    run(scenario())


def test_two_libraries_talk_over_sessions_of_a_third(tmp_path: Path) -> None:
    """A conversation would end when one side moves to another library, or when it moves on."""
    people = json.loads(PENDING.read_bytes())
    alice, bob = people["alice"]["lid"], people["bob"]["lid"]
    here, there = f"sqlite:{tmp_path}/alice.db", f"sqlite:{tmp_path}/bob.db"
    copy_device(f"baileys:{ALICE}", here, client="pyaileys")
    copy_device(f"baileys:{BOB}", there, client="waeys")

    async def talk(in_pyaileys: tuple[str, str], in_waeys: tuple[str, str]) -> None:
        """Each says something, and the other one reads it."""
        (one, me), (two, you) = in_pyaileys, in_waeys
        async with await pyaileys.load(one) as left, await waeys.load(two) as right:
            client = WhatsAppClient(auth=left)
            left.attach(client)
            engine = right.make_signal_repository()
            for _ in range(3):
                kind, data = await client.signal.encrypt_message(you, data=b"from pyaileys")
                message = {"jid": me, "type": kind, "ciphertext": data}
                assert await engine["decryptMessage"](message) == b"from pyaileys"
                sent = await engine["encryptMessage"]({"jid": me, "data": b"from waeys"})
                assert (
                    await client.signal.decrypt_message(
                        you, message_type=sent["type"], ciphertext=bytes(sent["ciphertext"])
                    )
                    == b"from waeys"
                )

    run(talk((here, alice), (there, bob)))
    # And the other way round: each goes on in the library that the other one was in.
    copy_device(here, f"{here}.waeys", client="waeys", retire=True)
    copy_device(there, f"{there}.pyaileys", client="pyaileys", retire=True)
    run(talk((f"{there}.pyaileys", bob), (f"{here}.waeys", alice)))


@pytest.mark.parametrize(
    ("client", "kept"),
    [
        ("pyaileys", {PROTOBUF}),
        ("whatsmeow", {GO}),
        ("waeys", {SessionRecord, SenderKeyRecord}),
        ("baileys", {SessionRecord, SenderKeyRecord}),
        ("baileysex", {SessionRecord, SenderKeyRecord}),
    ],
)
@pytest.mark.parametrize("before", [None, "pyaileys", "whatsmeow", "waeys"])
@pytest.mark.parametrize("place", ["sqlite:{}/t.db", "memory:{}"])
def test_every_spelling_from_every_spelling(
    tmp_path: Path, client: str, kept: set[Any], before: str | None, place: str
) -> None:
    """A device that had been with one client could not be made ready for another one."""
    folder, target = small_baileys(tmp_path / "small"), place.format(tmp_path)
    copy_device(f"baileys:{folder}", f"sqlite:{tmp_path}/s.db", client=before)
    summary = copy_device(f"sqlite:{tmp_path}/s.db", target, client=client)
    assert spellings(target) == kept
    assert summary.client == client
    assert not [each for each in summary.not_held if each.whole]
    with open_device(target, read_only=True) as device:
        assert {family: len(device.ids(family)) for family in RATCHETS} == dict.fromkeys(
            RATCHETS, 1
        )


def test_without_it_a_store_of_ours_keeps_what_the_source_had(tmp_path: Path) -> None:
    """A backup would not be what was backed up; or cost what only an exact copy keeps."""
    first, second = f"sqlite:{tmp_path}/a.db", f"sqlite:{tmp_path}/b.db"
    copy_device(f"baileys:{BOB}", first, client="pyaileys")
    summary = copy_device(first, second)
    assert (summary.converted, summary.not_held) == ((), ())
    assert spellings(second) == {PROTOBUF}
    with open_device(first, read_only=True) as one, open_device(second, read_only=True) as two:
        for family in RATCHETS:
            ids = one.ids(family)
            assert one.get(family, ids) == two.get(family, ids)


def test_a_folder_gets_its_own_library_s_spelling(tmp_path: Path) -> None:
    """``--for baileys`` would be refused for Baileys' own folder, or change what is written."""
    copy_device(f"baileys:{BOB}", f"sqlite:{tmp_path}/b.db", client="pyaileys")
    for name, client in (("with", "baileys"), ("without", None)):
        copy_device(f"sqlite:{tmp_path}/b.db", f"baileys:{tmp_path}/{name}", client=client)
    assert bytes_of(tmp_path / "with") == bytes_of(tmp_path / "without")


# What is refused.


@pytest.mark.parametrize(
    ("target", "client", "what"),
    [
        ("sqlite:{}/t.db", "whatsapp", "is no client we know"),
        ("baileys:{}/t", "pyaileys", "pyaileys cannot use a target of the kind baileys"),
        ("baileysex:{}/t", "baileys", "which is baileysex's own"),
        ("whatsmeow:{}/t.db", "waeys", "which is whatsmeow's own"),
        ("pyaileys:{}/t", "waeys", "which is pyaileys's own"),
    ],
)
def test_a_client_that_cannot_use_the_target(
    tmp_path: Path, target: str, client: str, what: str
) -> None:
    """The user would find out at the first message that the client cannot read the device."""
    target = target.format(tmp_path)
    with pytest.raises(InvalidValue, match=what) as told:
        copy_device(f"baileys:{BOB}", target, client=client)
    assert told.value.remedy
    assert list(tmp_path.iterdir()) == []
    done = command("copy", BOB, target, "--for", client)
    assert done.exit_code == 2
    assert client in done.stderr and "next:" in done.stderr


@pytest.mark.parametrize("name", ["pyaileys", "waeys"])
def test_a_refusal_of_a_client_names_the_command(tmp_path: Path, name: str) -> None:
    """Who has a device of another client would not learn how to go on with it."""
    adapter = {"pyaileys": pyaileys, "waeys": waeys}[name]
    other = {"pyaileys": "waeys", "waeys": "pyaileys"}[name]
    copy_device(f"baileys:{BOB}", f"sqlite:{tmp_path}/b.db", client=other)
    with pytest.raises(NotHeld, match=f"ratchetkeep copy SRC DST --for {name}"):
        run(adapter.load(f"{tmp_path}/b.db"))


@pytest.mark.parametrize("encoding", [PROTOBUF, GO])
@pytest.mark.parametrize("target", ["sqlite:{}/t.db", "baileys:{}/t"])
def test_a_damaged_record_is_not_converted(tmp_path: Path, encoding: str, target: str) -> None:
    """A damaged session would become one that looks whole, or the error would not say where."""
    client = "waeys" if target.startswith("sqlite") else None
    with open_device(f"sqlite:{tmp_path}/s.db", create=True) as device:
        device.set({"session": {"1.0": EncodedRecord(encoding=encoding, data=b"\xff\xff{")}})
    with pytest.raises(StoreDamaged, match=r"s\.db.*session 1\.0"):
        copy_device(f"sqlite:{tmp_path}/s.db", target.format(tmp_path), client=client)
    assert not (tmp_path / "t.db").exists() and not (tmp_path / "t").exists()


@pytest.mark.parametrize("kind", ["baileys", "baileysex", "baileysex-json", "pyaileys"])
def test_a_damaged_row_of_whatsmeow_stops_every_copy(tmp_path: Path, kind: str) -> None:
    """A contact's session would be left out of a copy that says that it went well."""
    copy_device(f"baileys:{ALICE}", f"whatsmeow:{tmp_path}/w.db")
    client = sqlite3.connect(tmp_path / "w.db")
    with client:
        client.execute("UPDATE whatsmeow_sessions SET session = ?", (b'{"SessionState":{}}',))
    client.close()
    with pytest.raises(StoreDamaged, match="whatsmeow_sessions, row"):
        copy_device(f"whatsmeow:{tmp_path}/w.db", f"{kind}:{tmp_path}/t")
    assert not (tmp_path / "t").exists()


def test_an_empty_record_is_no_row_of_whatsmeow(tmp_path: Path) -> None:
    """whatsmeow would find a session that it cannot read, or the error would not say where."""
    copy_device(f"baileys:{ALICE}", f"sqlite:{tmp_path}/s.db")
    with open_device(f"sqlite:{tmp_path}/s.db") as device:
        device.set({"session": {"1.0": EncodedRecord(encoding=GO, data=b"")}})
    with pytest.raises(StoreDamaged, match=r"s\.db.*session 1\.0.*is empty"):
        copy_device(f"sqlite:{tmp_path}/s.db", f"whatsmeow:{tmp_path}/w.db")
    assert not (tmp_path / "w.db").exists()


# The command line.


def test_the_command_line_tells_what_is_converted(tmp_path: Path) -> None:
    """The user would not see that, and into what, the sessions are made."""
    done = command("copy", BOB, f"sqlite:{tmp_path}/b.db", "--for", "pyaileys", "--dry-run")
    assert done.exit_code == 0
    assert "1 session record, from Baileys' JSON to libsignal's protobuf" in done.stdout
    assert "all else, from Baileys' JSON to ratchetkeep's own form" in done.stdout
    done = command("copy", BOB, f"sqlite:{tmp_path}/b.db", "--for", "pyaileys", "--json")
    told = json.loads(done.stdout)
    assert told["client"] == "pyaileys"
    ways = {
        each["family"]: (each["count"], each["source"], each["target"])
        for each in told["converted"]
    }
    assert ways["session"] == (1, "baileys", PROTOBUF)
    assert ways["sender-key"] == (6, "baileys", PROTOBUF)
    assert ways["pre-key"] == (119, "baileys", "native")
