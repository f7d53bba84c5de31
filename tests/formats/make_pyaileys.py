"""Makes the golden folders of pyaileys: two devices that talk, each over its MultiFileAuthState.

``PYTHONPATH=tests python tests/formats/make_pyaileys.py FOLDER``
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from pyaileys.appstate.processor import HashState
from pyaileys.auth.creds import Contact
from pyaileys.auth.store import MultiFileAuthState

from clients._sides import ALICE, BOB, GROUP, THEIRS, Side, WAProto
from ratchetkeep.testing._samples import some_bytes

SYNC_IDS = [b"\0\0\0\1", b"\xff\xff\xbf\0\0", b"\xfb\xef\xbe"]


def shared_keys() -> Any:
    """App state sync keys as the phone shares them; the last one with no more than it needs."""
    share = WAProto.Message.AppStateSyncKeyShare()
    for number, id in enumerate(SYNC_IDS):
        key = share.keys.add()
        key.keyId.keyId = id
        key.keyData.keyData = some_bytes("sync key", number)
        if number < 2:
            key.keyData.fingerprint.rawId = 2**32 - 1 - number
            key.keyData.fingerprint.currentIndex = number
            key.keyData.fingerprint.deviceIndexes.extend([0, 1, 300])
            key.keyData.timestamp = 1_763_600_000_000 + number
    return share


async def pair(side: Side, name: str, lid: str) -> None:
    """Fill the credentials as pairing and some use do."""
    account = WAProto.ADVSignedDeviceIdentity()
    account.details = some_bytes(name, 0, 18)
    account.accountSignatureKey = some_bytes(name, 1)
    account.accountSignature = some_bytes(name, 2, 64)
    account.deviceSignature = some_bytes(name, 3, 64)
    creds = side.creds
    creds.account = account.SerializeToString()
    creds.me = Contact(id=side.jid, name=f"{name} Zoë 🐚", lid=lid)
    creds.platform = "android"
    creds.registered = True
    creds.routing_info = b"\x08\x0d\x08\x05"
    creds.last_prop_hash = "2P1Yhf"
    creds.account_settings.default_disappearing_mode = {
        "ephemeralExpiration": 86400,
        "ephemeralSettingTimestamp": 1763600001,
    }
    creds.processed_history_messages = [
        {"key": {"remoteJid": GROUP, "fromMe": False, "id": "3EB0AB"}, "messageTimestamp": 1763600}
    ]
    creds.signal_identities = [
        {
            "identifier": {"name": lid, "deviceId": 0},
            "identifierKey": b"\5" + creds.signed_identity_key.public,
        }
    ]
    creds.additional_data = {"notes": ["é", 1, 2.5, None, True], "key": b"\xff\x00"}
    await side.client.socket.events.emit("creds.update", creds)


async def use(side: Side, other: Side) -> None:
    """Records of the families that have nothing to do with the conversation."""
    await side.client._handle_app_state_sync_key_share(shared_keys())
    macs = {"AAAA": some_bytes("mac", 0), "+/8=": some_bytes("mac", 1)}
    state = HashState(version=12, hash=some_bytes("hash", 0, 128), indexValueMap=macs)
    await side.keys.set(
        {
            "app-state-sync-version": {
                "regular_high": state.to_store(),
                "critical_block": HashState().to_store(),
            },
            "tctoken": {
                other.jid.replace(":7", "").replace(":3", ""): {
                    "token": b"\1\2",
                    "timestamp": "1763600558",
                },
                "1555@s.whatsapp.net": {"token": b"\3", "timestamp": None},
            },
            "sender-key-memory": {GROUP: {other.jid: True, "1555:1@s.whatsapp.net": False}},
            "lid-mapping": {"15551230001": "998877", "998877_reverse": "15551230001"},
            "device-list": {"15551230001": ["0", "3"]},
        }
    )


async def talk(alice: Side, bob: Side) -> dict[str, Any]:
    """A conversation with skipped messages. What was said and has not arrived, by its receiver."""
    await bob.hear(alice, await alice.say(bob, b"first"))
    late = {"bob": [], "alice": []}  # type: dict[str, list[Any]]
    for turn in range(3):
        await alice.hear(bob, await bob.say(alice, b"b%d" % turn))
        late["bob"].append([f"a{turn} early", *await alice.say(bob, b"a%d early" % turn)])
        await bob.hear(alice, await alice.say(bob, b"a%d" % turn))
    for speaker, listener, name in ((alice, bob, "bob"), (bob, alice, "alice")):
        body, key = await speaker.say_to_group(b"begin")
        await listener.take_sender_key(speaker, key)
        await listener.hear_in_group(speaker, body)
        skipped, _ = await speaker.say_to_group(b"skipped")
        late[name].append(["skipped", "skmsg", skipped])
        await listener.hear_in_group(speaker, (await speaker.say_to_group(b"after"))[0])
    late["alice"].append(["next", *await bob.say(alice, b"next")])
    # A session that waits for its first answer.
    await alice.signal.inject_outgoing_session("1555:4@s.whatsapp.net", await bob.bundle(pre_key=1))
    return late


async def make(folder: Path) -> None:
    alice, bob = Side(THEIRS, folder, ALICE), Side(THEIRS, folder, BOB)
    for side in (alice, bob):
        await side.open()
        await side.mint(3)
    await pair(alice, "Alice", "887700000000001:3@lid")
    await pair(bob, "Bob", BOB)
    await use(alice, bob)
    await use(bob, alice)
    await alice.signal.inject_outgoing_session(bob.jid, await bob.bundle(pre_key=2))
    late = await talk(alice, bob)
    said = {
        name: [{"text": t, "kind": kind, "data": body.hex()} for t, kind, body in each]
        for name, each in late.items()
    }
    for name, jid in (("alice", ALICE), ("bob", BOB)):
        made = folder / jid.partition(":")[0]
        assert (await MultiFileAuthState.load(made)).creds.me is not None
        made.rename(folder / name)
    (folder / "pending.json").write_text(json.dumps(said, indent=1) + "\n")
    (folder / "new").mkdir()
    await (await MultiFileAuthState.load(folder / "new")).save_creds()


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir()
    asyncio.run(make(target))
