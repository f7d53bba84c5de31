"""A folder of pyaileys that we wrote, as pyaileys itself reads it and goes on with it."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from pyaileys.auth.state import AuthenticationState
from pyaileys.auth.store import MultiFileAuthState
from pyaileys.signal.repository import SignalRepository

from _helpers import ALICE, BOB, GOLDEN, PENDING, key_of, records
from clients._sides import SHARED, THEIRS, WAProto, pair_of, run
from ratchetkeep import copy_device
from ratchetkeep.model import OPEN


@pytest.mark.parametrize("folder", [ALICE, BOB], ids=["alice", "bob"])
def test_pyaileys_reads_a_device_of_baileys(folder: Path, tmp_path: Path) -> None:
    """A record that came from Baileys would be another one to pyaileys, or none."""
    done = copy_device(f"baileys:{folder}", f"pyaileys:{tmp_path}/auth")
    assert [each for each in done.not_held if not each.derived] == []

    async def read() -> None:
        auth = await MultiFileAuthState.load(tmp_path / "auth")
        theirs = json.loads((folder / "creds.json").read_bytes(), object_hook=_buffer)
        assert auth.creds.noise_key.private == theirs["noiseKey"]["private"]
        assert auth.creds.signed_pre_key.signature == theirs["signedPreKey"]["signature"]
        assert auth.creds.adv_secret_key == theirs["advSecretKey"]
        assert auth.creds.registration_id == theirs["registrationId"]
        assert auth.creds.me is not None and auth.creds.me.id == theirs["me"]["id"]
        assert auth.creds.next_pre_key_id == theirs["nextPreKeyId"]
        assert auth.creds.signal_identities == theirs["signalIdentities"]
        account = WAProto.ADVSignedDeviceIdentity.FromString(auth.creds.account)
        for name in ("details", "accountSignatureKey", "accountSignature", "deviceSignature"):
            assert getattr(account, name) == base64.b64decode(theirs["account"][name])
        for path in records(folder):
            if path.name != "creds.json":
                key, raw = key_of(path), json.loads(path.read_bytes(), object_hook=_buffer)
                found = (await auth.keys.get(key.family, [key.id]))[key.id]
                _CHECKS.get(key.family, _is_equal)(found, raw)

    asyncio.run(read())


def _buffer(raw: dict[str, Any]) -> Any:
    return base64.b64decode(raw["data"]) if raw.get("type") == "Buffer" else raw


def _is_equal(found: Any, raw: Any) -> None:
    assert found == raw


def _is_session(found: Any, raw: Any) -> None:
    record = WAProto.RecordStructure.FromString(found)
    entries = list(raw["_sessions"].values())
    is_open = [each for each in entries if each["indexInfo"]["closed"] == OPEN]
    assert record.HasField("currentSession") is bool(is_open)
    assert len(record.previousSessions) + bool(is_open) == len(entries)
    if is_open:
        root = base64.b64decode(is_open[0]["currentRatchet"]["rootKey"])
        assert record.currentSession.rootKey == root


def _is_sender_key(found: Any, raw: Any) -> None:
    record = WAProto.SenderKeyRecordStructure.FromString(found)
    wanted = [each["senderKeyId"] for each in json.loads(raw)]
    assert [state.senderKeyId for state in record.senderKeyStates] == wanted


def _is_sync_key(found: Any, raw: Any) -> None:
    data = WAProto.Message.AppStateSyncKeyData.FromString(found)
    assert data.keyData == base64.b64decode(raw["keyData"])
    assert data.timestamp == int(raw.get("timestamp") or 0)
    assert data.fingerprint.rawId == raw["fingerprint"]["rawId"]
    assert list(data.fingerprint.deviceIndexes) == raw["fingerprint"].get("deviceIndexes", [])


def _is_sync_version(found: Any, raw: Any) -> None:
    macs = {name: each["valueMac"] for name, each in raw["indexValueMap"].items()}
    assert found == {**raw, "indexValueMap": macs}


_CHECKS: dict[str, Any] = {
    "session": _is_session,
    "sender-key": _is_sender_key,
    "app-state-sync-key": _is_sync_key,
    "app-state-sync-version": _is_sync_version,
}


def test_messages_on_their_way_arrive_at_pyaileys(tmp_path: Path) -> None:
    """Messages that were on their way when the device moved from Node could not be read."""
    copy_device(f"baileys:{BOB}", f"pyaileys:{tmp_path}/bob")
    waiting = [each for each in json.loads(PENDING.read_bytes())["pending"] if each["to"] == "bob"]

    async def read() -> set[str]:
        state = await MultiFileAuthState.load(tmp_path / "bob")
        engine = SignalRepository(AuthenticationState(creds=state.creds, keys=state.keys))
        for each in waiting:
            data = base64.b64decode(each["data"])
            if each["kind"] == "group":
                text = await engine.decrypt_group_message(
                    group_jid=each["group"], author_jid=each["from"], ciphertext=data
                )
            else:
                text = await engine.decrypt_message(
                    each["from"], message_type=each["kind"], ciphertext=data
                )
            assert text.decode() == each["text"]
        return {each["kind"] for each in waiting}

    assert {"msg", "group"} <= asyncio.run(read())


def test_the_golden_conversation_goes_on(tmp_path: Path) -> None:
    """Messages that were on their way to pyaileys could not be read after we had the folder."""
    waiting = json.loads((GOLDEN / "pyaileys" / "pending.json").read_bytes())
    jids = {"alice": "998877000000002:7@lid", "bob": "15551230001:3@s.whatsapp.net"}

    async def read(name: str) -> None:
        state = await MultiFileAuthState.load(tmp_path / name)
        engine = SignalRepository(AuthenticationState(creds=state.creds, keys=state.keys))
        for each in waiting[name]:
            data, sender = bytes.fromhex(each["data"]), jids[name]
            if each["kind"] == "skmsg":
                group = "120363041234567890@g.us"
                text = await engine.decrypt_group_message(
                    group_jid=group, author_jid=sender, ciphertext=data
                )
            else:
                text = await engine.decrypt_message(
                    sender, message_type=each["kind"], ciphertext=data
                )
            assert text.decode() == each["text"]

    for name in jids:
        copy_device(f"pyaileys:{GOLDEN}/pyaileys/{name}", f"memory:golden-{name}")
        copy_device(f"memory:golden-{name}", f"pyaileys:{tmp_path}/{name}")
        assert waiting[name]
        asyncio.run(read(name))


def test_pyaileys_and_the_adapter_take_turns_on_a_folder(tmp_path: Path) -> None:
    """What one of them left in a folder could not be read by the other one, or would be older."""

    async def scenario() -> list[bytes]:
        alice, bob = await pair_of(tmp_path, SHARED, THEIRS)
        heard = [await bob.hear(alice, await alice.say(bob, b"first"))]
        for turn in range(6):
            for side in (alice, bob):
                await side.close()
                side.kind = {SHARED: THEIRS, THEIRS: SHARED}[side.kind]
                await side.open()
            heard.append(await alice.hear(bob, await bob.say(alice, b"b%d" % turn)))
            early, late = await alice.say(bob, b"a%d" % turn), await alice.say(bob, b"c%d" % turn)
            heard += [await bob.hear(alice, late), await bob.hear(alice, early)]
            body, key = await alice.say_to_group(b"g%d" % turn)
            if turn == 0:
                await bob.take_sender_key(alice, key)
            heard.append(await bob.hear_in_group(alice, body))
            alice.creds.platform = f"turn {turn}"
            alice.creds.account = b"\x0a\x01%d" % turn
            await alice.client.socket.events.emit("creds.update", alice.creds)
        await alice.close()
        alice.kind = THEIRS
        await alice.open()
        assert (alice.creds.platform, alice.creds.account) == ("turn 5", b"\x0a\x015")
        assert (await bob.keys.get("pre-key", ["1", "2"]))["2"] is None
        await bob.close()
        return heard

    words = [word % turn for turn in range(6) for word in (b"b%d", b"c%d", b"a%d", b"g%d")]
    assert run(scenario()) == [b"first", *words]
