"""The auth state of the released waeys over a device: its own engine, its own socket."""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve

import nodepeer
from _helpers import ALICE, BOB, IDS, PENDING, private_copy
from clients._waeys_peer import (
    GROUP,
    Peer,
    Silent,
    acquainted,
    auth_utils,
    crypto,
    defaults,
    durable,
    in_loop,
    in_memory,
    libsignal,
    new_peer,
    pairing,
    proto,
    session_record,
    signal,
    socket,
    whisper,
)
from ratchetkeep import (
    EncodedRecord,
    InvalidValue,
    NoDevice,
    NotHeld,
    StoreDamaged,
    StoreInUse,
    copy_device,
    open_device,
)
from ratchetkeep.clients import _waeys_values as values
from ratchetkeep.clients.waeys import AuthState, load
from ratchetkeep.model import FAMILIES, SessionRecord
from ratchetkeep.testing.strategies import BAILEYS, NATIVE, ids, values_for

ROOT = Path(__file__).parents[2]
STORES = ("sqlite", "baileys", "baileysex", "memory")


# -- the released client, as it is ---------------------------------------------------------------


@in_loop
async def test_the_released_transaction_is_over_before_the_work() -> None:
    """What the page says of waeys' own transactions would not be so (any more)."""
    kept = auth_utils.make_memory_key_store()
    wrapped = auth_utils.add_transaction_capability(kept, Silent(), {})
    seen: list[Any] = []

    async def work() -> None:
        seen.append(wrapped.is_in_transaction())
        await wrapped.set({"lid-mapping": {"1": "2"}})
        seen.append(await kept.get("lid-mapping", ["1"]))

    await wrapped.transaction(work, "key")
    assert seen == [False, {"1": "2"}]


@in_loop
async def test_the_released_engine_cannot_use_the_wrapped_keys() -> None:
    """The engine would not need our key store itself."""
    auth = {
        "creds": auth_utils.init_auth_creds(),
        "keys": auth_utils.add_transaction_capability(
            auth_utils.make_memory_key_store(), Silent(), {}
        ),
    }
    engine = libsignal.make_libsignal_repository(auth)
    with pytest.raises(TypeError, match="key"):
        await engine["encryptMessage"]({"jid": "15550000000@s.whatsapp.net", "data": b"hello"})


# -- conversations -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STORES[:3])
@in_loop
async def test_a_conversation_goes_on_over_reopening(tmp_path: Path, kind: str) -> None:
    """Messages would be lost or not understood after a restart, in order or not."""
    alice, bob = await acquainted(tmp_path, kind)
    first = await alice.send(bob, "hello")
    assert first["type"] == "pkmsg"
    await alice.reopen()
    assert await bob.read(first) == "hello"
    assert "1" not in await bob.auth["keys"].get("pre-key", ["1"])
    await bob.reopen()
    answer = await bob.send(alice, "hello yourself")
    assert answer["type"] == "msg"
    assert await alice.read(answer) == "hello yourself"
    for turn in range(4):
        sent = [await alice.send(bob, f"{turn}.{number}") for number in range(4)]
        await bob.reopen()
        await alice.reopen()
        # The second and the fourth come later than those after them.
        assert [await bob.read(sent[place]) for place in (0, 2)] == [f"{turn}.0", f"{turn}.2"]
        await bob.reopen()
        assert await alice.read(await bob.send(alice, f"got {turn}")) == f"got {turn}"
        assert [await bob.read(sent[place]) for place in (3, 1)] == [f"{turn}.3", f"{turn}.1"]
        with pytest.raises(Exception, match="No matching sessions"):
            await bob.read(sent[1])
    await alice.close()
    await bob.close()


@pytest.mark.parametrize("kind", STORES[:2])
@in_loop
async def test_a_group_goes_on_over_reopening(tmp_path: Path, kind: str) -> None:
    """The group would fall silent after a restart, or for messages out of order."""
    alice, bob = await acquainted(tmp_path, kind)
    await bob.admit(alice)
    await alice.admit(bob)
    for turn in range(2 if kind == "sqlite" else 1):
        for author, reader in ((alice, bob), (bob, alice)):
            sent = [await author.send_group(f"{turn}.{number}") for number in range(3)]
            await author.reopen()
            assert await reader.read_group(sent[2]) == f"{turn}.2"
            await reader.reopen()
            assert await reader.read_group(sent[0]) == f"{turn}.0"
            with pytest.raises(ValueError, match="old counter"):
                await reader.read_group(sent[0])
            assert await reader.read_group(sent[1]) == f"{turn}.1"
    await alice.close()
    await bob.close()


@in_loop
async def test_what_was_sent_is_durable_before_it_leaves(tmp_path: Path) -> None:
    """After a crash the next message would use a message key a second time."""
    alice, bob = await acquainted(tmp_path)
    address = bob.address()

    def counter() -> int:
        session = durable(alice.url)["session"][address].open_session
        (chain,) = session.chains.values()
        return int(chain.chain_key.counter)

    assert counter() == -1
    for number in range(3):
        await alice.send(bob, "hello")
        assert counter() == number
    for number in range(3):
        message = await alice.send_group("hello all")
        (record,) = durable(alice.url)["sender-key"].values()
        assert record.states[0].sender_chain_key.iteration > number
        assert message["msg"]
    await alice.close()
    await bob.close()


@in_loop
async def test_many_at_once_on_one_session(tmp_path: Path) -> None:
    """Two messages at once would use one message key, or fail for a session that is there."""
    alice, bob = await acquainted(tmp_path)
    assert await bob.read(await alice.send(bob, "hello")) == "hello"
    await alice.read(await bob.send(alice, "hello"))
    texts = [f"message {number}" for number in range(30)]
    sent = await asyncio.gather(*(alice.send(bob, text) for text in texts))
    assert len({each["ciphertext"] for each in sent}) == len(texts)
    answers = asyncio.gather(*(bob.send(alice, text) for text in texts))
    assert await asyncio.gather(*(bob.read(each) for each in sent)) == texts
    assert await asyncio.gather(*(alice.read(each) for each in await answers)) == texts
    await alice.close()
    await bob.close()


@in_loop
async def test_a_pre_key_is_used_once(tmp_path: Path) -> None:
    """Two first messages at once would both use one pre-key."""
    alice, bob = await acquainted(tmp_path)
    carol = await new_peer(f"sqlite:{tmp_path}/carol.db").open()
    await carol.meet(bob, 1)
    first = [await alice.send(bob, "from alice"), await carol.send(bob, "from carol")]
    results = await asyncio.gather(*map(bob.read, first), return_exceptions=True)
    read = [each for each in results if isinstance(each, str)]
    assert len(read) == 1
    assert len(durable(bob.url)["session"]) == len(durable(bob.url)["identity-key"]) == 1
    for peer in (alice, bob, carol):
        await peer.close()


@in_loop
async def test_an_address_stays_one_within_a_verb(tmp_path: Path) -> None:
    """A LID that is learnt while a message is encrypted would leave the old session behind, and a
    later migration would put it back over the new one: message keys used twice."""
    alice, bob = await acquainted(tmp_path)
    user = bob.jid.partition("@")[0]
    answers: list[list[dict[str, str]]] = [[], [{"pn": bob.jid, "lid": "998877000000001@lid"}]]

    async def ask(_: list[str]) -> list[dict[str, str]]:
        return answers.pop(0) if answers else []

    alice.engine = alice.auth.make_signal_repository(alice.auth, Silent(), ask)
    await alice.send(bob, "hello")
    assert await alice.auth.device.ids("session") == [f"{user}.0"]
    assert len(answers) == 1
    await alice.close()
    await bob.close()


@in_loop
async def test_not_to_know_an_address_is_not_to_have_no_session(tmp_path: Path) -> None:
    """While the server cannot be asked, waeys would say that there is no session, or begin another
    one over it."""
    alice, bob = await acquainted(tmp_path)

    async def unreachable(_: list[str]) -> list[dict[str, str]]:
        raise ConnectionError("the network is gone")

    first, on_disk = await alice.send(bob, "hello"), durable(bob.url)
    for peer in (alice, bob):
        peer.engine = peer.auth.make_signal_repository(peer.auth, Silent(), unreachable)
    with pytest.raises(ConnectionError):
        await alice.send(bob, "hello")
    with pytest.raises(ConnectionError):
        await bob.read(first)
    assert durable(bob.url) == on_disk
    await alice.close()
    await bob.close()


@in_loop
async def test_one_address_is_looked_up_by_two_at_once(tmp_path: Path) -> None:
    """waeys would await one look-up twice, which fails, and take that for "there is no session"."""

    async def ask(numbers: list[str]) -> list[dict[str, str]]:
        await asyncio.sleep(0.01)
        return [{"pn": each, "lid": "998877000000003@lid"} for each in numbers]

    async with await load(f"{tmp_path}/bot.db") as auth:
        mapping = auth.make_signal_repository(auth, Silent(), ask)["lidMapping"]
        look_ups = (mapping.get_lid_for_pn("15559990003@s.whatsapp.net") for _ in range(3))
        assert await asyncio.gather(*look_ups) == ["998877000000003@lid"] * 3
        look_ups = (mapping.get_pn_for_lid("998877000000003@lid") for _ in range(3))
        assert len(set(await asyncio.gather(*look_ups))) == 1


# -- all or nothing ------------------------------------------------------------------------------


@in_loop
async def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    """A pre-key would be gone without the session that it made, or credentials would slip."""
    alice, bob = await acquainted(tmp_path)
    first = await alice.send(bob, "hello")
    before, on_disk = await in_memory(bob.auth), durable(bob.url)
    with pytest.raises(RuntimeError, match="our own"):
        async with bob.auth.transaction():
            assert await bob.read(first) == "hello"
            creds = bob.auth["creds"]
            creds["platform"] = "changed"
            creds.update({"me": {"id": "1@s.whatsapp.net"}, "unheard-of": b"bytes"})
            creds["accountSettings"]["unarchiveChats"] = True
            await signal.get_next_pre_keys(bob.auth, 20)
            await bob.auth.save_creds()
            await bob.auth["keys"].set({"lid-mapping": {"1": "2"}})
            raise RuntimeError("our own")
    assert await in_memory(bob.auth) == before
    assert durable(bob.url) == on_disk
    await bob.reopen()
    assert await in_memory(bob.auth) == before
    assert await bob.read(first) == "hello"
    await alice.close()
    await bob.close()


@in_loop
async def test_a_transaction_is_one_commit(tmp_path: Path) -> None:
    """Session, pre-key, identity and credentials would be parted by a crash."""
    alice, bob = await acquainted(tmp_path)
    first = await alice.send(bob, "hello")
    on_disk = durable(bob.url)
    async with bob.auth.transaction():
        assert await bob.read(first) == "hello"
        bob.auth["creds"]["platform"] = "changed"
        assert durable(bob.url) == on_disk
    after = durable(bob.url)
    assert set(after["session"]) == set(after["identity-key"]) == {alice.address()}
    assert set(after["pre-key"]) == {"2", "3", "4", "5"}
    assert after["credentials"].platform == "changed"
    await alice.close()
    await bob.close()


@in_loop
async def test_a_message_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    """Whoever sends rubbish in a peer's name would make us forget the session with that peer."""
    alice, bob = await acquainted(tmp_path)
    first = await alice.send(bob, "hello")
    inner = whisper.PreKeyWhisperMessage.decode(first["ciphertext"][1:])
    inner.message = inner.message[:-1] + bytes([inner.message[-1] ^ 1])
    body = first["ciphertext"][:1] + whisper.PreKeyWhisperMessage.encode(inner)
    before, on_disk = await in_memory(bob.auth), durable(bob.url)
    with pytest.raises(Exception, match=r"MAC"):
        await bob.read({**first, "ciphertext": body})
    assert (await in_memory(bob.auth), durable(bob.url)) == (before, on_disk)
    assert await bob.read(first) == "hello"
    await alice.close()
    await bob.close()


@in_loop
async def test_cancelled_at_any_moment_it_is_all_or_nothing(tmp_path: Path) -> None:
    """A handler that is cancelled would leave a pre-key consumed and no session, or the reverse."""
    alice, bob = await acquainted(tmp_path)
    first = await alice.send(bob, "hello")
    before = await in_memory(bob.auth)
    outcomes = []
    for patience in range(200):
        task = asyncio.ensure_future(bob.read(first))
        for _ in range(patience):
            await asyncio.sleep(0)
        task.cancel()
        done = await asyncio.gather(task, return_exceptions=True)
        after, on_disk = await in_memory(bob.auth), durable(bob.url)
        assert {family: after[family] for family in on_disk if family in after} == {
            family: on_disk[family] for family in on_disk if family in after
        }
        outcomes.append(after == before)
        if not outcomes[-1]:
            assert set(after["session"]) == set(after["identity-key"]) == {alice.address()}
            assert "1" not in after["pre-key"]
            break
        assert isinstance(done[0], asyncio.CancelledError)
    assert outcomes[0]
    assert not outcomes[-1]
    await alice.close()
    await bob.close()


@in_loop
async def test_credentials_of_a_cancelled_save_are_those_on_the_disk(tmp_path: Path) -> None:
    """Cancelled while it commits, memory would go on with other counters than the disk."""
    url = f"{tmp_path}/bot.db"

    async def change(name: str) -> None:
        async with auth.transaction():
            auth["creds"]["platform"] = name

    async with await load(url) as auth:
        kept = set()
        for patience in range(60):
            task = asyncio.ensure_future(change(f"of {patience}"))
            for _ in range(patience):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert auth["creds"].get("platform") == durable(url)["credentials"].platform
            kept.add((task.cancelled(), auth["creds"].get("platform") == f"of {patience}"))
            if not task.cancelled():
                break
        # Before the commit, and while it was under way.
        assert {(True, False), (True, True)} <= kept


@in_loop
async def test_damage_is_not_taken_for_a_new_contact(tmp_path: Path) -> None:
    """waeys reads an error of the store as "no session", and would write over the damaged one."""
    alice, bob = await acquainted(tmp_path)
    await bob.read(await alice.send(bob, "hello"))
    again = await alice.send(bob, "hello again")
    await bob.close()
    with open_device(bob.url) as device:
        # The first one is looked at when the device is opened.
        device.set({"session": {"!": SessionRecord(sessions={})}})
    with sqlite3.connect(f"{tmp_path}/bob.sqlite") as database:
        database.execute("UPDATE records SET data = x'00' WHERE family = 'session' AND id <> '!'")
    database.close()
    await bob.open()
    await alice.mint(1)
    verbs: list[Any] = [
        lambda: bob.read(again),
        lambda: bob.send(alice, "hello"),
        lambda: bob.engine["validateSession"](alice.jid),
        lambda: bob.meet(alice, 1),
    ]
    for verb in verbs:
        with pytest.raises(StoreDamaged, match="session"):
            await verb()
    await alice.close()
    await bob.close()
    with pytest.raises(StoreDamaged), open_device(bob.url) as device:
        device.get("session", device.ids("session"))


@in_loop
async def test_encrypting_inside_a_transaction_is_refused(tmp_path: Path) -> None:
    """A ciphertext would leave before the state that it made is durable."""
    alice, bob = await acquainted(tmp_path)
    on_disk = durable(alice.url)
    verbs: list[Any] = [
        lambda: alice.send(bob, "hello"),
        lambda: alice.send_group("hello"),
        lambda: bob.admit(alice),
    ]
    for verb in verbs:
        with pytest.raises(InvalidValue, match="after the transaction"):
            async with alice.auth.transaction():
                await verb()
        with pytest.raises(InvalidValue, match="after the transaction"):
            async with alice.auth.device.transaction():
                await verb()
        with pytest.raises(InvalidValue, match="after the transaction"):
            await alice.auth["keys"].transaction(verb, "key")
    assert durable(alice.url) == on_disk
    await alice.close()
    await bob.close()


@in_loop
async def test_the_hook_has_the_message_before_its_key_is_gone(tmp_path: Path) -> None:
    """A message would be lost if the process died between reading and storing it."""
    alice, bob = await acquainted(tmp_path)
    inbox: list[tuple[bytes, Any]] = []
    on_disk = durable(bob.url)

    async def full(plaintext: bytes, message: dict[str, Any]) -> None:
        bob.auth["creds"]["accountSettings"]["unarchiveChats"] = True
        bob.auth["creds"]["platform"] = "changed"
        raise OSError("no space left")

    async def keep(plaintext: bytes, message: dict[str, Any]) -> None:
        assert durable(bob.url) == on_disk
        inbox.append((plaintext, message))

    first = await alice.send(bob, "hello")
    bob.auth.on_plaintext = full
    with pytest.raises(OSError, match="no space"):
        await bob.read(first)
    assert durable(bob.url) == on_disk
    assert "platform" not in bob.auth["creds"]
    assert not bob.auth["creds"]["accountSettings"]["unarchiveChats"]
    bob.auth.on_plaintext = keep
    assert await bob.read(first) == "hello"
    assert inbox == [(b"hello", first)]
    bob.auth.on_plaintext = None
    await bob.admit(alice)
    on_disk = durable(bob.url)
    bob.auth.on_plaintext = keep
    message = await alice.send_group("hello all")
    assert await bob.read_group(message) == "hello all"
    assert inbox[1:] == [(b"hello all", message)]
    await alice.close()
    await bob.close()


@in_loop
async def test_our_transaction_in_both_ways_that_waeys_calls_it(tmp_path: Path) -> None:
    """``keys.transaction(work, key)`` would not commit together, or not give back the result."""
    async with await load(f"{tmp_path}/bot.db") as auth:
        keys = auth["keys"]

        async def work() -> str:
            assert keys.is_in_transaction()
            await keys.set({"lid-mapping": {"1": "2"}})
            await keys["set"]({"tctoken": {"1@lid": {"token": b"token"}}})
            assert await keys.get("lid-mapping", ["1"]) == {"1": "2"}
            assert durable(f"{tmp_path}/bot.db")["lid-mapping"] == {}
            return "done"

        assert await keys["transaction"](work, "key") == "done"
        assert await keys.get("tctoken", ["1@lid"]) == {"1@lid": {"token": b"token"}}

        async def failing() -> None:
            await keys.set({"lid-mapping": {"1": None, "3": "4"}})
            raise RuntimeError("our own")

        with pytest.raises(RuntimeError):
            await keys.transaction(failing, "key")
        assert await keys.get("lid-mapping", ["1", "3"]) == {"1": "2"}
        async with keys.transaction("key"):
            await keys.set({"lid-mapping": {"5": "6"}})
            assert durable(f"{tmp_path}/bot.db")["lid-mapping"] == {"1": "2"}
        assert not keys.is_in_transaction()
        assert durable(f"{tmp_path}/bot.db")["lid-mapping"] == {"1": "2", "5": "6"}
        await keys.clear()
        assert await keys.get("lid-mapping", ["1"]) == {}


@in_loop
async def test_waeys_forgets_what_was_never_committed(tmp_path: Path) -> None:
    """A mapping would live on in waeys' cache that no store holds."""
    async with await load(f"{tmp_path}/bot.db") as auth:
        mapping = auth.make_signal_repository()["lidMapping"]
        pair = {"pn": "15559990001@s.whatsapp.net", "lid": "998877000000002@lid"}
        with pytest.raises(RuntimeError):
            async with auth.transaction():
                await mapping.store_lidpn_mappings([pair])
                raise RuntimeError("our own")
        assert await mapping.get_lid_for_pn(pair["pn"]) is None
        await mapping.store_lidpn_mappings([pair])
        assert await mapping.get_lid_for_pn(pair["pn"]) == pair["lid"]
        stored = durable(f"{tmp_path}/bot.db")["lid-mapping"]
        assert stored == {
            "15559990001": "998877000000002",
            "998877000000002_reverse": "15559990001",
        }


# -- credentials ---------------------------------------------------------------------------------


@in_loop
async def test_new_credentials_are_those_of_waeys(tmp_path: Path) -> None:
    """waeys would miss a member of its own credentials, or refuse our keys."""
    async with await load(f"{tmp_path}/bot.db") as auth:
        creds, made = auth["creds"], auth_utils.init_auth_creds()
        assert set(auth) == {"creds", "keys"}
        assert set(creds) == set(made)
        for name, value in made.items():
            assert type(creds[name]) is type(value), name
            if isinstance(value, bytes | str | dict):
                assert len(creds[name]) == len(value), name
        pair, signed = creds["signedIdentityKey"], creds["signedPreKey"]
        public = crypto.generate_signal_pub_key(signed["keyPair"]["public"])
        assert crypto.Curve.verify(pair["public"], public, signed["signature"])


@in_loop
async def test_changed_credentials_come_back(tmp_path: Path) -> None:
    """A member that waeys sets would not be there after a restart, or of another type."""
    url = f"{tmp_path}/bot.db"
    account = proto.ADVSignedDeviceIdentity(
        details=b"details", accountSignatureKey=b"k" * 32, accountSignature=b"s" * 64
    )
    account.deviceSignature = b"d" * 64
    changes = {
        "me": {"id": "15550001:3@s.whatsapp.net", "name": None, "lid": "9988:3@lid"},
        "signalIdentities": [
            {
                "identifier": {"name": "9988:3@lid", "deviceId": 0},
                "identifierKey": b"\5" + b"i" * 32,
            }
        ],
        "platform": "android",
        "routingInfo": b"\x08\x0d",
        "pairingCode": "ABCD1234",
        "accountSettings": {
            "unarchiveChats": True,
            "defaultDisappearingMode": {
                "ephemeralExpiration": 86400,
                "ephemeralSettingTimestamp": "1700000000",
            },
        },
        "processedHistoryMessages": [
            {"key": {"remoteJid": "1@s.whatsapp.net", "id": "A"}, "messageTimestamp": 5}
        ],
        "registered": True,
        "additionalData": {"mine": [1, b"two", None]},
        "ofALaterVersion": {"nested": [b"bytes", 1.5]},
    }
    async with await load(url) as auth:
        auth["creds"].update({**changes, "account": account})
        await auth.save_creds()
        expected = {**auth["creds"], "account": dict(account.__dict__)}
    async with await load(url) as auth:
        assert dict(auth["creds"]) == expected
        encode = pairing.encode_signed_device_identity
        assert encode(auth["creds"]["account"], True) == encode(account, True)
        auth["creds"]["oops"] = object()
        with pytest.raises(InvalidValue, match=r"creds"):
            await auth.save_creds()
        del auth["creds"]["oops"]


@in_loop
async def test_only_its_own_changes_are_undone_and_kept_back(tmp_path: Path) -> None:
    """Saving from one task would keep half of another's transaction; its failure would take back
    what others changed."""
    url = f"{tmp_path}/bot.db"
    async with await load(url) as auth:
        creds = auth["creds"]
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def failing() -> None:
            async with auth.transaction():
                creds["platform"] = "of the failed one"
                creds["accountSyncCounter"] = 7
                begun.set()
                await go_on.wait()
                raise RuntimeError("our own")

        task = asyncio.ensure_future(failing())
        await begun.wait()
        creds["lastPropHash"] = "of another"
        creds["accountSyncCounter"] = 9
        await auth.save_creds()
        kept = durable(url)["credentials"]
        assert (kept.platform, kept.last_prop_hash, kept.account_sync_counter) == (
            None,
            "of another",
            9,
        )
        go_on.set()
        with pytest.raises(RuntimeError):
            await task
        assert "platform" not in creds
        assert (creds["lastPropHash"], creds["accountSyncCounter"]) == ("of another", 9)


@in_loop
async def test_no_pre_key_id_is_minted_twice(tmp_path: Path) -> None:
    """Killed between the pre-keys and the event that moves the counters, waeys would mint other
    keys under ids that the server may hold."""
    url = f"{tmp_path}/bot.db"
    auth = await load(url)
    made = await signal.get_next_pre_keys(auth, 5)
    assert list(made["preKeys"]) == ["1", "2", "3", "4", "5"]
    # Killed here: the event of this update never came.
    assert durable(url)["credentials"].next_pre_key_id == 6
    assert auth["creds"]["nextPreKeyId"] == made["update"]["nextPreKeyId"] == 6
    await auth.device.close()
    async with await load(url) as again:
        assert again["creds"]["nextPreKeyId"] == 6
        later = await signal.get_next_pre_keys(again, 8)
        assert list(later["preKeys"]) == [str(id) for id in range(1, 9)]
        for id in made["preKeys"]:
            assert later["preKeys"][id] == made["preKeys"][id]
        again["creds"].update(later["update"])
        await again.save_creds()
        newer = await signal.get_next_pre_keys(again, 2)
        assert list(newer["preKeys"]) == ["9", "10"]


@in_loop
async def test_the_released_upload_finds_the_keys(tmp_path: Path) -> None:
    """waeys mints pre-keys under numbers and looks for them as text: it would upload none."""
    async with await load(f"{tmp_path}/bot.db") as auth:
        made = await signal.get_next_pre_keys_node(auth, 5)
        listed = made["node"].content[3].content
        held = await auth["keys"].get("pre-key", [1, 2, 3, 4, 5, 6])
        assert set(held) == {1, 2, 3, 4, 5}
        assert [key.content[1].content for key in listed] == [
            pair["public"] for pair in held.values()
        ]


# -- records -------------------------------------------------------------------------------------


def pair(seed: int) -> dict[str, bytes]:
    return {"private": bytes([seed]) * 32, "public": bytes([seed + 1]) * 32}


SYNC_VERSION = {"version": 3, "hash": b"h" * 128, "indexValueMap": {"a": {"valueMac": b"m" * 32}}}
OPERATIONS: list[dict[str, dict[str, Any]]] = [
    {"pre-key": {"7": pair(1), "8": pair(3)}},
    {"pre-key": {"7": None}, "identity-key": {"1.0": b"\5" + b"i" * 32}},
    {"sender-key-memory": {GROUP: {"1@lid": True, "2@lid": False}}},
    {"lid-mapping": {"1": "2", "2_reverse": "1"}, "device-list": {"1": ["0", "3"]}},
    {"tctoken": {"1@lid": {"token": b"t", "timestamp": "5"}, "2@lid": {"token": b""}}},
    {
        "tctoken": {
            "__index": {"token": b'["1@lid"]'},
            "2@lid": {"token": b"", "senderTimestamp": 5},
        }
    },
    {"app-state-sync-version": {"regular": SYNC_VERSION}},
    {"app-state-sync-key": {"AAAA": {"keyData": b"k" * 32, "timestamp": 5}}},
    {"lid-mapping": {"1": None}, "device-list": {"1": [], "9": ["0"]}},
    # None of them is what waeys makes today; they come back all the same.
    {"lid-mapping": {"7": {"lid": "8"}}, "device-list": {"8": [0, 1]}},
    {
        "session": {"8.0": {"of": ["a", b"later"], "version": "v2"}},
        "tctoken": {"3": {"token": 1.5}},
    },
    {"identity-key": {"8.0": b"short"}, "pre-key": {"9": {"private": b"p", "other": None}}},
    {"sender-key": {"g::1::0": b"not JSON", "g::2::0": b"[]", "g::3::0": b" [ ] "}},
]


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
@in_loop
async def test_it_keeps_what_the_clients_own_store_keeps(tmp_path: Path, kind: str) -> None:
    """A value would come back other than waeys set it."""
    kept = auth_utils.make_memory_key_store()
    url = f"{kind}:{tmp_path}/bot"
    auth = await load(url)
    for operation in OPERATIONS:
        await kept.set(operation)
        await auth["keys"].set(operation)
    for family in FAMILIES:
        asked = [*sorted({id for each in OPERATIONS for id in each.get(family, {})}), "no-such"]
        if family == "pre-key":
            asked.remove("no-such")
        expected = await kept.get(family, asked)
        assert repr(await auth["keys"].get(family, asked)) == repr(expected)
    await auth.close()


@in_loop
async def test_the_engines_records_are_the_same_in_both(tmp_path: Path) -> None:
    """A session or sender key would come back other than the engine wrote it."""
    alice, bob = await acquainted(tmp_path)
    kept = auth_utils.make_memory_key_store()
    keys, set_in_device = alice.auth["keys"], alice.auth["keys"].set

    async def set_in_both(data: Any) -> None:
        await kept.set(data)
        await set_in_device(data)

    keys._methods["set"] = set_in_both
    await alice.admit(bob)
    await bob.admit(alice)
    await alice.mint(1)
    await bob.meet(alice, 1)
    for turn in range(3):
        late = [await bob.send(alice, "late") for _ in range(turn)]
        await alice.read(await bob.send(alice, "hello"))
        await bob.read(await alice.send(bob, "hello"))
        for message in late:
            await alice.read(message)
        await bob.send_group("skipped")
        await alice.read_group(await bob.send_group("hello"))
        await alice.send_group("hello")
    for family in ("session", "sender-key", "identity-key"):
        held = await alice.auth.device.ids(family)
        assert held
        assert await keys.get(family, held) == await kept.get(family, held)
        for record in (await alice.auth.device.get(family, held)).values():
            assert not isinstance(record, EncodedRecord)
    (session,) = (await keys.get("session", [bob.address()])).values()
    assert len(session["_sessions"]) == 2
    closed = [
        chain
        for entry in session["_sessions"].values()
        for chain in entry["_chains"].values()
        if chain["chainKey"]["key"] is None
    ]
    assert closed
    await alice.close()
    await bob.close()


@in_loop
async def test_values_are_copies(tmp_path: Path) -> None:
    """waeys changes what it got or gave: the store would change with it, without a commit."""
    async with await load(f"{tmp_path}/bot.db") as auth:
        keys, given = auth["keys"], {"1@lid": True}
        await keys.set({"sender-key-memory": {GROUP: given}})
        given["2@lid"] = True
        got = (await keys.get("sender-key-memory", [GROUP]))[GROUP]
        assert got == {"1@lid": True}
        got["3@lid"] = True
        assert (await keys.get("sender-key-memory", [GROUP]))[GROUP] == {"1@lid": True}


@in_loop
async def test_it_works_below_the_clients_own_cache(tmp_path: Path) -> None:
    """Whoever wraps the keys as waeys' users are used to would lose messages."""
    alice, bob = await acquainted(tmp_path)
    cached = auth_utils.make_cacheable_signal_key_store(bob.auth["keys"])
    assert await cached.get("pre-key", ["1", "2"]) == await bob.auth["keys"].get(
        "pre-key", ["1", "2"]
    )
    bob.engine = bob.auth.make_signal_repository(
        {"creds": bob.auth["creds"], "keys": cached}, Silent()
    )
    for _ in range(3):
        assert await bob.read(await alice.send(bob, "hello")) == "hello"
        assert await alice.read(await bob.send(alice, "hello")) == "hello"
    await cached.set({"lid-mapping": {"1": "2"}})
    assert await bob.auth["keys"].get("lid-mapping", ["1"]) == {"1": "2"}
    await alice.close()
    await bob.close()


@in_loop
async def test_another_clients_record_is_not_taken_for_absence(tmp_path: Path) -> None:
    """A session that only another client can read would be replaced by a new one."""
    url = f"{tmp_path}/bot.db"
    with open_device(url, create=True) as device:
        record = EncodedRecord(encoding="some-client", data=b"its own")
        device.set({"session": {"1.0": record}})
    with pytest.raises(NotHeld, match="some-client"):
        await load(url)
    async with await load(f"sqlite:{url}?device=other") as auth:
        await auth.device.set({"session": {"1.0": record}})
        with pytest.raises(NotHeld, match="some-client"):
            await auth["keys"].get("session", ["1.0"])
        with pytest.raises(NotHeld, match="some-client"):
            await auth.make_signal_repository()["validateSession"]("1@s.whatsapp.net")


@in_loop
async def test_a_value_that_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    """What no JSON can spell would be stored as something else, or half of a set."""
    async with await load(f"{tmp_path}/bot.db") as auth:
        for value in (object(), {1: 2}, float("nan"), [object()]):
            with pytest.raises(InvalidValue, match="lid-mapping 2"):
                await auth["keys"].set({"lid-mapping": {"1": "2", "2": value}})
        with pytest.raises(InvalidValue, match="none of the families"):
            await auth["keys"].set({"no-such": {"1": 1}})
        assert await auth["keys"].get("lid-mapping", ["1", "2"]) == {}


RECORDS = st.sampled_from(sorted(FAMILIES)).flatmap(
    lambda family: st.tuples(st.just(family), ids(family), values_for(BAILEYS).records[family])
)


@settings(max_examples=150, deadline=None)
@given(RECORDS)
def test_what_waeys_gets_it_can_give_back(record: tuple[str, str, Any]) -> None:
    """Reading a record and writing it back would change it, or what waeys sees of it."""
    family, id, value = record
    if isinstance(value, EncodedRecord):
        return
    seen = values.from_record(family, id, value)
    kept = values.to_record(family, id, seen)
    assert values.from_record(family, id, kept) == seen
    if family == "session":
        # Through the engine's own eyes.
        engine = session_record.SessionRecord
        if not all(s.current_ratchet.ephemeral_key_pair for s in value.sessions.values()):
            return
        served = engine.deserialize(seen).serialize()
        again = values.from_record(family, id, values.to_record(family, id, served))
        assert again == served


@settings(max_examples=100, deadline=None)
@given(values_for(NATIVE).credentials)
def test_credentials_come_back_whole(credentials: Any) -> None:
    """A member of the credentials would be lost when waeys saves them."""
    creds = values.from_credentials(credentials)
    kept = values.to_credentials(creds, credentials)
    assert values.from_credentials(kept) == creds
    assert kept == credentials


def test_a_bare_public_signing_key_stays_bare() -> None:
    """A sender key of a client that sends 32 bytes would be kept so that Node cannot have it."""
    buffer = {"type": "Buffer", "data": [7] * 32}
    state = {
        "senderKeyId": 5,
        "senderChainKey": {"iteration": 0, "seed": buffer},
        "senderSigningKey": {"public": buffer, "private": {"type": "Buffer", "data": []}},
        "senderMessageKeys": [],
    }
    text = json.dumps([state]).encode()
    kept = values.to_record("sender-key", "g::1::0", text)
    assert not isinstance(kept, EncodedRecord)
    assert values.from_record("sender-key", "g::1::0", kept) == text


def test_a_baileys_device_needs_no_other_encoding() -> None:
    """A device that came from Baileys would be kept so that it cannot go back to Node."""
    with open_device(f"baileys:{ALICE}", read_only=True) as device:
        for family in FAMILIES:
            for id, record in device.get(family, device.ids(family)).items():
                seen = values.from_record(family, id, record)
                assert values.to_record(family, id, seen) == record, f"{family} {id}"
        creds = values.from_credentials(device.credentials)
        assert values.to_credentials(creds, device.credentials) == device.credentials


# -- the socket ----------------------------------------------------------------------------------


@asynccontextmanager
async def connected(auth: AuthState) -> AsyncIterator[dict[str, Any]]:
    """A socket of waeys that is connected to a server which never says a word."""

    async def listen(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async with serve(listen, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        config = auth.configure(defaults.default_connection_config())
        config["waWebSocketUrl"] = f"ws://127.0.0.1:{port}/"
        config["logger"] = Silent()
        sock: dict[str, Any] = socket.make_socket(config)
        while not sock["ws"].is_open:
            await asyncio.sleep(0.001)
        yield sock
        await sock["end"]()
        for task in asyncio.all_tasks():
            if "WAeys" in repr(task.get_coro()):
                task.cancel()


@in_loop
async def test_the_socket_takes_it(tmp_path: Path) -> None:
    """``make_socket`` would refuse our auth state, or not use our repository."""
    url = f"{tmp_path}/bot.db"
    async with await load(url) as auth, connected(auth) as sock:
        auth.attach(sock)
        assert sock["authState"]["creds"] is auth["creds"]
        assert type(sock["signalRepository"]).__module__.startswith("ratchetkeep.")
        me = {"id": "1@s.whatsapp.net"}
        sock["ev"].emit("creds.update", {"platform": "android", "me": me})
        while durable(url)["credentials"].platform is None:
            await asyncio.sleep(0.01)
        sock["ev"].emit("creds.update", {"lastPropHash": "late"})
    assert durable(url)["credentials"].last_prop_hash == "late"
    assert durable(url)["credentials"].me.id == "1@s.whatsapp.net"


@in_loop
async def test_inside_the_sockets_transaction_a_verb_is_durable(tmp_path: Path) -> None:
    """waeys sends inside ``keys.transaction``: the ciphertext would leave before the commit."""
    alice, bob = await acquainted(tmp_path, server="lid")
    alice.auth["creds"]["me"] = {"id": alice.jid}
    async with connected(alice.auth) as sock:
        alice.engine, keys = sock["signalRepository"], sock["authState"]["keys"]
        sent: list[Any] = []

        async def send_all() -> None:
            on_disk = durable(alice.url)
            sent.append(await alice.send(bob, "hello"))
            assert durable(alice.url)["session"] != on_disk["session"]
            await keys.set({"sender-key-memory": {GROUP: {bob.jid: True}}})
            raise ConnectionError("the network is gone")

        with pytest.raises(ConnectionError):
            await keys.transaction(send_all, alice.jid)
        next_one = await alice.send(bob, "hello again")
        assert await bob.read(next_one) == "hello again"
        assert await bob.read(sent[0]) == "hello"
    await alice.close()
    await bob.close()


@in_loop
async def test_the_sockets_keys_join_a_transaction_of_ours(tmp_path: Path) -> None:
    """What waeys sets through its own wrapper would be committed without the rest."""
    url = f"{tmp_path}/bot.db"
    async with await load(url) as auth, connected(auth) as sock:
        state = sock["authState"]
        with pytest.raises(RuntimeError):
            async with auth.transaction():
                await state["keys"].set({"lid-mapping": {"1": "2"}, "device-list": {"1": ["0"]}})
                await signal.get_next_pre_keys(state, 3)
                assert await state["keys"].get("lid-mapping", ["1"]) == {"1": "2"}
                raise RuntimeError("our own")
        assert durable(url)["pre-key"] == {} == durable(url)["lid-mapping"]
        assert auth["creds"]["nextPreKeyId"] == 1
        await signal.get_next_pre_keys(state, 3)
        assert durable(url)["credentials"].next_pre_key_id == 4


@in_loop
async def test_the_released_parser_finds_the_verb() -> None:
    """A bundle of keys from the server would not become a session: waeys asks for an attribute."""
    async with await load("memory:attribute") as auth:
        engine = auth.make_signal_repository()
        assert engine.inject_e2e_session is engine["injectE2ESession"]
        assert engine.close is engine["close"]
        assert not hasattr(engine, "no_such_verb")


@in_loop
async def test_a_failed_save_is_not_forgotten(tmp_path: Path, caplog: Any) -> None:
    """Credentials that could not be saved would be lost without a word."""
    auth = await load(f"{tmp_path}/bot.db")
    async with connected(auth) as sock:
        auth.attach(sock)
        sock["ev"].emit("creds.update", {"platform": object()})
    with pytest.raises(InvalidValue, match=r"creds\.platform"):
        await auth.close()
    assert "creds could not be saved" in caplog.text
    with open_device(f"{tmp_path}/bot.db"):
        pass  # it was given back all the same


# -- opening -------------------------------------------------------------------------------------


@in_loop
async def test_opening(tmp_path: Path) -> None:
    """A damaged device would be replaced by a new one, or a missing one taken for granted."""
    url = f"{tmp_path}/bot.db"
    with pytest.raises(NoDevice):
        await load(url, create=False)
    async with await load(url) as auth:
        identity = auth["creds"]["signedIdentityKey"]
        assert repr(identity["private"]) not in repr(auth) + repr(auth["creds"])
        with pytest.raises(StoreInUse):
            await load(url)
    async with await load(url, create=False) as auth:
        assert auth["creds"]["signedIdentityKey"] == identity
        await auth.close()
    folder = private_copy(ALICE, tmp_path / "alice")
    (folder / "creds.json").write_text("{")
    with pytest.raises(StoreDamaged):
        await load(f"baileys:{folder}")
    (folder / "creds.json").unlink()
    with pytest.raises(StoreDamaged):
        await load(f"baileys:{folder}")


@in_loop
async def test_without_waeys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has not installed waeys would not learn how."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "WAeys"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="pip install waeys"):
        await load(f"{tmp_path}/bot.db")
    assert list(tmp_path.iterdir()) == []


# -- from Node and back --------------------------------------------------------------------------


def waiting(name: str, kind: str) -> list[dict[str, Any]]:
    """Messages that were on their way to a golden device."""
    document = json.loads(PENDING.read_bytes())
    return [each for each in document["pending"] if (each["to"], each["kind"]) == (name, kind)]


@in_loop
async def test_a_device_of_node_is_read_by_waeys(tmp_path: Path) -> None:
    """Messages that were on their way when the device moved from Node could not be read."""
    copy_device(f"baileys:{BOB}", f"sqlite:{tmp_path}/bob.db")
    async with await load(f"{tmp_path}/bob.db") as auth:
        engine = auth.make_signal_repository()
        direct, group = waiting("bob", "msg"), waiting("bob", "group")
        assert direct
        assert group
        for each in direct:
            data = base64.b64decode(each["data"])
            message = {"jid": each["from"], "type": "msg", "ciphertext": data}
            assert (await engine["decryptMessage"](message)).decode() == each["text"]
        for each in group:
            data = base64.b64decode(each["data"])
            message = {"group": each["group"], "authorJid": each["from"], "msg": data}
            assert (await engine["decryptGroupMessage"](message)).decode() == each["text"]
        assert auth["creds"]["account"]["details"]


async def talk(one: Peer, other: Peer) -> None:
    """Both directions by turns, in order and not, and in the group."""
    for turn in range(3):
        sent = [await one.send(other, f"{turn}.{number}") for number in range(3)]
        assert [await other.read(sent[place]) for place in (2, 0, 1)] == [
            f"{turn}.2",
            f"{turn}.0",
            f"{turn}.1",
        ]
        assert await one.read(await other.send(one, "answer")) == "answer"
        await other.send(one, "never arrives")
        assert await one.read(await other.send(one, "arrives")) == "arrives"


@in_loop
async def test_the_conversation_goes_from_node_to_waeys_and_back(tmp_path: Path) -> None:
    """A device that waeys has used could not go on with Node."""
    document = json.loads(PENDING.read_bytes())
    peers = {}
    for name, golden in (("alice", ALICE), ("bob", BOB)):
        copy_device(f"baileys:{golden}", f"sqlite:{tmp_path}/{name}.db")
        peers[name] = await Peer(f"sqlite:{tmp_path}/{name}.db", document[name]["lid"]).open()
    alice, bob = peers["alice"], peers["bob"]
    await talk(alice, bob)
    await talk(bob, alice)
    for group in document["groups"]:
        for author, reader in ((alice, bob), (bob, alice), (alice, bob)):
            sent = await author.engine["encryptGroupMessage"](
                {"group": group, "meId": author.jid, "data": b"hello all"}
            )
            message = {"group": group, "authorJid": author.jid, "msg": sent["ciphertext"]}
            assert await reader.engine["decryptGroupMessage"](message) == b"hello all"
    carol = await new_peer(f"sqlite:{tmp_path}/carol.db").open()
    await carol.meet(alice, 49)
    assert await alice.read(await carol.send(alice, "hello")) == "hello"
    for peer in (alice, bob, carol):
        peer.auth["creds"]["platform"] = "waeys"
        await peer.close()
    for name in ("alice", "bob"):
        done = copy_device(f"sqlite:{tmp_path}/{name}.db", f"baileys:{tmp_path}/{name}")
        assert not done.not_held
    with open_device(f"{tmp_path}/alice.db") as device:
        for record in device.get("session", device.ids("session")).values():
            assert type(record) is SessionRecord
    assert not (tmp_path / "alice" / "pre-key-49.json").exists()
    steps = nodepeer.converse(
        tmp_path / "alice", tmp_path / "bob", PENDING, IDS, skip=["ids-alice"]
    )
    assert {"direct", "closed-session", "pending-direct-bob", "new-session-alice", "reload"} <= {
        step["name"] for step in steps if step["ok"] and step["detail"] != "skipped"
    }
