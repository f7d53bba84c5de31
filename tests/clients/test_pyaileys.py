"""pyaileys 0.1.5 on a device: its own Signal engine, its own client, and the same as its folder."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import apsw
import pytest
from pyaileys.client import WhatsAppClient
from pyaileys.constants import KEY_BUNDLE_TYPE
from pyaileys.crypto.curve import DefaultCurve25519Provider
from pyaileys.messages.wa_message import encode_wa_message_bytes
from pyaileys.signal.repository import SignalError, SignalRepository
from pyaileys.wabinary.types import BinaryNode

from clients._sides import ALICE, BOB, OURS, THEIRS, Side, WAProto, attached, close, pair_of, run
from ratchetkeep import (
    CommitFailed,
    InvalidValue,
    NoDevice,
    NotHeld,
    StoreClosed,
    StoreDamaged,
    copy_device,
    open_device,
    prekeys,
)
from ratchetkeep.aio import AsyncDevice, open_async_device
from ratchetkeep.clients.pyaileys import AuthState, load
from ratchetkeep.device import open_in
from ratchetkeep.model import EncodedRecord, SessionRecord
from ratchetkeep.stores import _sqlite_file
from ratchetkeep.stores.base import DEFAULT_DEVICE
from ratchetkeep.stores.sqlite import SqliteStore
from ratchetkeep.testing.faults import MirroredVFS, SimulatedDisk

ROOT = Path(__file__).parents[2]
KINDS = [(OURS, OURS), (OURS, THEIRS), (THEIRS, OURS), (THEIRS, THEIRS)]


async def state_of(side: Side) -> dict[str, Any]:
    """All that a client sees of a side: its credentials and its records."""
    device = side.auth.device
    found: dict[str, Any] = {"creds": repr(side.auth.creds)}
    for family in ("session", "pre-key", "identity-key", "sender-key"):
        found[family] = await side.keys.get(family, await device.ids(family))
    return found


@pytest.mark.parametrize("kinds", KINDS, ids=" and ".join)
def test_a_conversation(kinds: tuple[str, str], tmp_path: Path) -> None:
    """A device could not go on with a conversation after a restart, or would read other words than
    pyaileys over its own folder."""

    async def scenario() -> list[bytes]:
        alice, bob = await pair_of(tmp_path, *kinds)
        heard = [await bob.hear(alice, await alice.say(bob, b"first"))]
        for turn in range(6):
            await alice.reopen()
            await bob.reopen()
            heard.append(await alice.hear(bob, await bob.say(alice, b"b%d" % turn)))
            early, late = await alice.say(bob, b"a%d" % turn), await alice.say(bob, b"c%d" % turn)
            heard.append(await bob.hear(alice, late))
            await bob.reopen()
            heard.append(await bob.hear(alice, early))
        assert (await bob.keys.get("pre-key", ["1", "2"]))["2"] is None
        await close(alice, bob)
        return heard

    expected = [b"first"]
    for turn in range(6):
        expected += [word % turn for word in (b"b%d", b"c%d", b"a%d")]
    assert run(scenario()) == expected


@pytest.mark.parametrize("kinds", KINDS, ids=" and ".join)
def test_a_group(kinds: tuple[str, str], tmp_path: Path) -> None:
    """Sender keys would be lost or slip back on a restart."""

    async def scenario() -> list[bytes]:
        alice, bob = await pair_of(tmp_path, *kinds)
        heard = []
        for speaker, listener in ((alice, bob), (bob, alice)):
            body, key = await speaker.say_to_group(b"begin")
            await listener.take_sender_key(speaker, key)
            heard.append(await listener.hear_in_group(speaker, body))
            for turn in range(4):
                await alice.reopen()
                await bob.reopen()
                said = [(await speaker.say_to_group(b"%d %d" % (turn, n)))[0] for n in (1, 2)]
                heard += [await listener.hear_in_group(speaker, body) for body in said[::-1]]
        await close(alice, bob)
        return heard

    turns = [b"%d %d" % (turn, n) for turn in range(4) for n in (2, 1)]
    assert run(scenario()) == [b"begin", *turns, b"begin", *turns]


def test_a_failed_decrypt_leaves_nothing(tmp_path: Path) -> None:
    """A message that was cut or forged would use up a pre-key, or move a session or an identity,
    and the real message could no longer be read."""

    async def scenario() -> None:
        alice, bob = await pair_of(tmp_path)
        kind, body = await alice.say(bob, b"real")
        before = await state_of(bob)
        with pytest.raises(SignalError):
            await bob.hear(alice, (kind, body[:-20] + bytes(20)))
        assert await state_of(bob) == before
        await bob.reopen()
        assert await state_of(bob) == before
        assert await bob.hear(alice, (kind, body)) == b"real"
        await close(alice, bob)

    run(scenario())


def test_a_failure_after_the_engine_leaves_nothing(tmp_path: Path) -> None:
    """A step of the application that failed would not take back the session, the pre-key, the
    identity and the credentials that were committed with it."""

    async def scenario() -> None:
        alice, bob = await pair_of(tmp_path)
        message = await alice.say(bob, b"again")
        before = await state_of(bob)
        with pytest.raises(ZeroDivisionError):
            async with bob.auth.transaction():
                assert await bob.hear(alice, message) == b"again"
                assert (await bob.keys.get("pre-key", ["2"]))["2"] is None
                bob.auth.creds.platform = "android"
                await bob.auth.save_creds()
                raise ZeroDivisionError
        assert await state_of(bob) == before
        await bob.reopen()
        assert await state_of(bob) == before
        async with bob.auth.transaction():
            assert await bob.hear(alice, message) == b"again"
            bob.auth.creds.platform = "android"
        await bob.reopen()
        assert bob.creds.platform == "android"
        assert (await bob.keys.get("pre-key", ["1", "2"]))["2"] is None
        assert (await state_of(bob))["identity-key"].keys() == {"15551230001.3"}
        await close(alice, bob)

    run(scenario())


def test_a_transaction_inside_another_is_dropped_alone(tmp_path: Path) -> None:
    """What failed inside a longer transaction would be committed with it."""

    async def scenario() -> None:
        async with await load(tmp_path / "x.db") as auth:
            async with auth.transaction():
                auth.creds.platform = "outer"
                auth.creds.account_sync_counter = 1
                with pytest.raises(ZeroDivisionError):
                    async with auth.transaction():
                        auth.creds.platform = "inner"
                        await auth.keys.set({"lid-mapping": {"1": "2"}})
                        raise ZeroDivisionError
                async with auth.transaction():
                    auth.creds.account_sync_counter += 1
                assert auth.creds.platform == "outer"
            creds = auth.device.credentials
            assert (creds.platform, creds.account_sync_counter) == ("outer", 2)
            assert (auth.creds.platform, auth.creds.account_sync_counter) == ("outer", 2)
            assert await auth.keys.get("lid-mapping", ["1"]) == {"1": None}

    run(scenario())


def test_changes_of_other_tasks_stay_when_a_transaction_fails(tmp_path: Path) -> None:
    """What the client learns from the server while a decrypt fails would be lost with it."""

    async def scenario() -> None:
        async with await load(tmp_path / "x.db") as auth:
            client = attached(auth)

            async def learn() -> None:
                client.socket.auth.creds.routing_info = b"here"
                client.socket.auth.creds.last_prop_hash = "unsaved"

            begun, learned = asyncio.Event(), asyncio.Event()

            async def fail() -> None:
                async with auth.transaction("someone"):
                    auth.creds.platform = "android"
                    begun.set()
                    await learned.wait()
                    raise ZeroDivisionError

            failing = asyncio.create_task(fail())
            await begun.wait()
            await learn()
            assert auth.creds.platform is None
            await client.socket.events.emit("creds.update", auth.creds)
            auth.creds.pairing_code = "later"
            learned.set()
            with pytest.raises(ZeroDivisionError):
                await failing
            creds = auth.creds
            assert (creds.routing_info, creds.platform) == (b"here", None)
            assert creds.pairing_code == "later"
            await auth.save_creds()
        with open_device(tmp_path / "x.db") as device:
            assert device.credentials.routing_info == b"here"
            assert device.credentials.last_prop_hash == "unsaved"
            assert device.credentials.pairing_code == "later"
            assert device.credentials.platform is None

    run(scenario())


def test_unsaved_changes_stay_beside_a_commit(tmp_path: Path) -> None:
    """What the client changed and has not saved yet would be undone by another task's commit, or
    come back over what a transaction changed later."""

    async def scenario() -> None:
        async with await load(tmp_path / "x.db") as auth:
            auth.creds.pairing_code = auth.creds.platform = "unsaved"
            async with auth.transaction():
                auth.creds.platform = "newer"
            assert (auth.creds.pairing_code, auth.creds.platform) == ("unsaved", "newer")
            stored = auth.device.credentials
            assert (stored.pairing_code, stored.platform) == (None, "newer")
            await auth.device.save_credentials(stored.replace(last_prop_hash="by the application"))
            await auth.save_creds()
            assert auth.creds.last_prop_hash == "by the application"
            assert auth.device.credentials.pairing_code == "unsaved"

    run(scenario())


def test_the_next_pre_key_id_never_goes_back(tmp_path: Path) -> None:
    """A task that read the counter before another one moved it would set it back, and the ids
    between would be made again."""

    async def scenario() -> None:
        async with await load(tmp_path / "x.db") as auth:
            await attached(auth).socket._upload_prekeys(30)
            auth.creds.next_pre_key_id = 11
            await auth.save_creds()
            assert auth.creds.next_pre_key_id == auth.device.credentials.next_pre_key_id == 31
            async with auth.transaction():
                auth.creds.next_pre_key_id = 11
            assert auth.creds.next_pre_key_id == auth.device.credentials.next_pre_key_id == 31
            pairs = await auth.keys.get("pre-key", ["1"])
            storing = asyncio.create_task(auth.keys.set({"pre-key": {"40": pairs["1"]}}))
            await asyncio.sleep(0)
            auth.creds.next_pre_key_id = 31
            saving = asyncio.create_task(auth.save_creds())
            await asyncio.sleep(0)
            assert auth.creds.next_pre_key_id == 41
            async with auth.transaction():
                auth.creds.next_pre_key_id = 12
            assert auth.creds.next_pre_key_id == 41
            await asyncio.gather(storing, saving)
            assert auth.creds.next_pre_key_id == auth.device.credentials.next_pre_key_id == 41
            with auth._reserved(51):
                async with auth.transaction():
                    auth.creds.next_pre_key_id = 12
                    auth.creds.platform = "android"
                assert auth.creds.next_pre_key_id == 51
            async with auth.device.transaction(prekeys.LOCK):
                auth.creds.next_pre_key_id = 13
                waiting = asyncio.create_task(auth.save_creds(), context=contextvars.Context())
                await asyncio.sleep(0)
                assert auth.creds.next_pre_key_id == 41
            await waiting

    run(scenario())


def test_a_commit_that_fails_is_told() -> None:
    """A ciphertext would leave, or a plaintext be handed on, though the disk did not take the state
    that goes with it."""

    async def scenario(path: Path, vfs: MirroredVFS) -> None:
        store = SqliteStore(str(path), vfs=vfs.name)
        core = open_in(store, DEFAULT_DEVICE, create=True, read_only=False, owns_store=True)
        auth = AuthState(AsyncDevice(core))
        client = attached(auth)
        other = Side(THEIRS, path.parent, BOB)
        await other.open()
        await client.signal.inject_outgoing_session(BOB, await other.bundle())
        before = await auth.keys.get("session", await auth.device.ids("session"))
        vfs.fail("write", apsw.FullError)
        with pytest.raises(CommitFailed):
            await client.signal.encrypt_message(BOB, data=b"lost")
        vfs.heal()
        with pytest.raises(CommitFailed):
            await client.signal.encrypt_message(BOB, data=b"lost")
        assert await auth.keys.get("session", list(before)) == before
        auth.creds.platform = "android"
        with pytest.raises(CommitFailed):
            await client.socket.events.emit("creds.update", auth.creds)
        with pytest.raises(CommitFailed):
            await client.socket._upload_prekeys(3)
        assert auth.creds.next_pre_key_id == 1
        await auth.close()

    with tempfile.TemporaryDirectory() as folder, MirroredVFS(SimulatedDisk()) as vfs:
        _sqlite_file.make(f"{folder}/x.db")
        run(scenario(Path(folder, "x.db"), vfs))


def test_a_cancelled_decrypt_leaves_all_or_nothing(tmp_path: Path) -> None:
    """A task that is cancelled at any moment would leave a used pre-key without its session, or a
    session beside a pre-key that is there still."""

    async def scenario() -> set[bool]:
        alice = Side(OURS, tmp_path, ALICE)
        bob = Side(OURS, tmp_path, BOB)
        await alice.open()
        await bob.open()
        await bob.mint(40)
        outcomes = set()
        for steps in range(40):
            number = str(steps + 1)
            jid = f"1555{steps:07}:1@s.whatsapp.net"
            await alice.signal.inject_outgoing_session(jid, await bob.bundle(pre_key=steps + 1))
            kind, body = await alice.signal.encrypt_message(jid, data=b"x")
            task = asyncio.create_task(
                bob.signal.decrypt_message(jid, message_type=kind, ciphertext=body)
            )
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            address = str(bob.signal.jid_to_address(jid))
            gone = (await bob.keys.get("pre-key", [number]))[number] is None
            for family in ("session", "identity-key"):
                assert ((await bob.keys.get(family, [address]))[address] is not None) == gone
            outcomes.add(gone)
        before = await state_of(bob)
        await bob.reopen()
        assert await state_of(bob) == before
        await close(alice, bob)
        return outcomes

    assert run(scenario()) == {True, False}


def test_a_failed_encrypt_leaves_nothing(tmp_path: Path) -> None:
    """A message that was never made would leave a new sender key, or move a session."""

    async def scenario() -> None:
        alice, bob = await pair_of(tmp_path)
        before = await state_of(alice)
        wrong: Any = None
        with pytest.raises(TypeError):
            await alice.say_to_group(wrong)
        with pytest.raises(TypeError):
            await alice.say(bob, wrong)
        assert await state_of(alice) == before
        await close(alice, bob)

    run(scenario())


def test_many_messages_at_once(tmp_path: Path) -> None:
    """Messages that arrive or leave at the same time would use one state twice."""

    async def scenario() -> None:
        alice, bob = await pair_of(tmp_path)
        await bob.hear(alice, await alice.say(bob, b"begin"))
        said = await asyncio.gather(*(alice.say(bob, b"%d" % n) for n in range(20)))
        assert len({body for _, body in said}) == 20
        heard = await asyncio.gather(*(bob.hear(alice, message) for message in said))
        assert sorted(heard) == sorted(b"%d" % n for n in range(20))
        group = await asyncio.gather(*(alice.say_to_group(b"%d" % n) for n in range(10)))
        await bob.take_sender_key(alice, group[0][1])
        heard = await asyncio.gather(*(bob.hear_in_group(alice, body) for body, _ in group))
        assert sorted(heard) == sorted(b"%d" % n for n in range(10))
        await close(alice, bob)

    run(scenario())


def test_one_pre_key_makes_one_session(tmp_path: Path) -> None:
    """Two first messages that name the same pre-key would both be read with it."""

    async def scenario() -> None:
        alice, bob = await pair_of(tmp_path)
        message = await alice.say(bob, b"one")
        other = Side(OURS, tmp_path, "15551230009:1@s.whatsapp.net")
        done = await asyncio.gather(
            bob.hear(alice, message), bob.hear(other, message), return_exceptions=True
        )
        assert [each for each in done if not isinstance(each, SignalError)] == [b"one"]
        await close(alice, bob)

    run(scenario())


def test_sending_is_durable_before_it_returns(tmp_path: Path) -> None:
    """A ciphertext would leave before its session is on the disk: after a crash the same message
    key would be used for another text."""

    async def scenario() -> None:
        alice, bob = await pair_of(tmp_path)
        copies = []
        for step in range(3):
            await alice.say(bob, b"%d" % step)
            await alice.say_to_group(b"%d" % step)
            with open_device(f"sqlite:{tmp_path / '15551230001'}.db", read_only=True) as reader:
                stored = [reader.get(family, reader.ids(family)) for family in RATCHETS]
            for family, found in zip(RATCHETS, stored, strict=True):
                now = await alice.keys.get(family, list(found))
                assert now == {id: record.data for id, record in found.items()}
            copies.append(repr(now))
        assert len(set(copies)) == 3
        await close(alice, bob)

    run(scenario())


RATCHETS = ("session", "sender-key")


def test_sending_inside_a_transaction_is_refused(tmp_path: Path) -> None:
    """A ciphertext would leave in the middle of a transaction, which may still fail."""

    async def scenario() -> None:
        alice, bob = await pair_of(tmp_path)
        before = await state_of(alice)
        ended = asyncio.Event()

        async def say_after(event: asyncio.Event) -> tuple[str, bytes]:
            await event.wait()
            return await alice.say(bob, b"late")

        for block in (alice.auth.transaction, alice.auth.device.transaction):
            async with block():
                with pytest.raises(InvalidValue, match="after the transaction"):
                    await alice.say(bob, b"no")
                with pytest.raises(InvalidValue, match="after the transaction"):
                    await alice.say_to_group(b"no")
        assert await state_of(alice) == before
        async with alice.auth.device.transaction():
            with pytest.raises(InvalidValue, match=r"auth\.transaction"):
                await alice.auth.save_creds()
            with pytest.raises(InvalidValue, match=r"auth\.transaction"):
                await alice.keys.set({"lid-mapping": {"1": "2"}})
        async with alice.auth.transaction():
            late = asyncio.create_task(say_after(ended))
        ended.set()
        assert await bob.hear(alice, await late) == b"late"
        await close(alice, bob)

    run(scenario())


def test_the_plaintext_is_kept_before_the_ratchet_moves(tmp_path: Path) -> None:
    """A message would be decrypted and lost if the process ends before the application kept it."""

    async def scenario() -> None:
        alice, bob = await pair_of(tmp_path)
        first, (body, key) = await alice.say(bob, b"one"), await alice.say_to_group(b"two")
        await close(bob)
        kept: list[Any] = []

        async def keep(sender: str, group: str | None, plaintext: bytes) -> None:
            with open_device(f"sqlite:{tmp_path / '998877000000002'}.db", read_only=True) as reader:
                stored = [len(reader.ids("session")), reader.ids("sender-key")]
            kept.append((sender, group, plaintext, stored))
            if len(kept) == 1:
                raise OSError("the inbox is full")

        await bob.open()
        bob.client = WhatsAppClient(auth=bob.auth)
        bob.auth.attach(bob.client, keep=keep)
        with pytest.raises(OSError, match="full"):
            await bob.hear(alice, first)
        assert await bob.hear(alice, first) == b"one"
        await bob.take_sender_key(alice, key)
        assert await bob.hear_in_group(alice, body) == b"two"
        assert kept[0] == kept[1] == (ALICE, None, b"one", [0, []])
        assert kept[2][:3] == (ALICE, "120363041234567890@g.us", b"two")
        await close(alice, bob)

    run(scenario())


def test_pre_keys_and_their_counter_are_one_commit(tmp_path: Path) -> None:
    """A client that is killed between storing pre-keys and saving its credentials would make the
    same ids again, over keys that the server holds."""

    async def scenario() -> None:
        async with await load(tmp_path / "x.db") as auth:
            client = attached(auth)
            asked: list[int] = []

            async def stop(_: Any) -> None:
                with open_device(tmp_path / "x.db", read_only=True) as reader:
                    assert sorted(map(int, reader.ids("pre-key"))) == list(range(1, 31))
                    asked.append(reader.credentials.next_pre_key_id)
                raise ConnectionError("killed here")

            client.socket.events._listeners["creds.update"].insert(0, stop)
            with pytest.raises(ConnectionError):
                await client.socket._upload_prekeys(30)
            assert asked == [31]
        async with await load(tmp_path / "x.db") as auth:
            client = attached(auth)
            sent: list[BinaryNode] = []

            async def answer(node: BinaryNode, *, timeout_s: float = 60.0) -> BinaryNode:
                assert auth.device.credentials.first_unuploaded_pre_key_id == 41
                sent.append(node)
                return node

            client.socket.query = answer  # type: ignore[method-assign]
            await client.socket._upload_prekeys(10)
            assert len(sent) == 1
            assert await auth.device.ids("pre-key") == sorted(map(str, range(1, 41)))
            assert auth.creds.next_pre_key_id == auth.device.credentials.next_pre_key_id == 41
            # One that is used up, or written once more, moves nothing.
            pair = (await auth.keys.get("pre-key", ["7"]))["7"]
            await auth.keys.set({"pre-key": {"7": pair, "8": None}})
            assert auth.device.credentials.next_pre_key_id == 41

    run(scenario())


def test_two_uploads_at_once_make_different_ids(tmp_path: Path) -> None:
    """Two reconnects at the same time would make the same pre-key ids with different keys."""

    async def scenario() -> None:
        async with await load(tmp_path / "x.db") as auth:
            client = attached(auth)
            uploaded: dict[bytes, bytes] = {}

            async def answer(node: BinaryNode, *, timeout_s: float = 60.0) -> BinaryNode:
                assert isinstance(node.content, list)
                for key in node.content[3].content:  # type: ignore[union-attr]
                    id, public = (part.content for part in key.content)  # type: ignore[union-attr]
                    assert id not in uploaded
                    uploaded[id] = public  # type: ignore[index, assignment]
                return node

            client.socket.query = answer  # type: ignore[method-assign]
            await asyncio.gather(*(client.socket._upload_prekeys(n) for n in (5, 3, 4)))
            assert auth.creds.next_pre_key_id == auth.device.credentials.next_pre_key_id == 13
            for id, public in uploaded.items():
                number = str(int.from_bytes(id, "big"))
                assert (await auth.keys.get("pre-key", [number]))[number]["public"] == public

    run(scenario())


def test_a_client_takes_it_and_its_events_save(tmp_path: Path) -> None:
    """The client would not take the auth state, or what it learns would not be saved."""

    async def scenario() -> None:
        async with await load(tmp_path / "x.db") as auth:
            client = WhatsAppClient(auth=auth)
            auth.attach(client)
            assert isinstance(client.signal, SignalRepository)
            with pytest.raises(InvalidValue, match="attached already"):
                auth.attach(client)
            async with await load(tmp_path / "y.db") as other:
                with pytest.raises(InvalidValue, match="another auth state"):
                    other.attach(client)
            routing = BinaryNode(tag="routing_info", attrs={}, content=b"edge")
            edge = BinaryNode(tag="edge_routing", attrs={}, content=[routing])
            await client.socket._on_edge_routing(BinaryNode(tag="ib", attrs={}, content=[edge]))
            assert auth.device.credentials.routing_info == b"edge"
        async with await load(tmp_path / "x.db", create=False) as auth:
            assert auth.creds.routing_info == b"edge"

    run(scenario())


def test_the_client_reads_a_message(tmp_path: Path) -> None:
    """The client would not read what arrives, though the engine could."""

    async def scenario() -> None:
        alice, bob = await pair_of(tmp_path)
        heard: asyncio.Queue[Any] = asyncio.Queue()
        for event in ("message.decrypted", "message.decrypt_error"):
            bob.client.on(event, heard.put_nowait)
        said = WAProto.Message()
        said.conversation = "hello"
        words = encode_wa_message_bytes(said.SerializeToString())
        for expected in ("pkmsg", "pkmsg"):
            kind, body = await alice.say(bob, words)
            assert kind == expected
            enc = BinaryNode(tag="enc", attrs={"type": kind, "v": "2"}, content=body)
            attrs = {"from": ALICE, "id": "1", "t": "1700000000"}
            await bob.client._on_message_stanza(
                BinaryNode(tag="message", attrs=attrs, content=[enc])
            )
            assert (await heard.get())["text"] == "hello"
        await close(alice, bob)

    run(scenario())


def test_new_credentials_are_good_for_pyaileys(tmp_path: Path) -> None:
    """A device made here could not pair, or nobody could begin a session with it."""

    async def scenario() -> None:
        with pytest.raises(NoDevice):
            await load(tmp_path / "x.db", create=False)
        async with await load(tmp_path / "x.db") as auth:
            creds = auth.creds
            signed, curve = creds.signed_pre_key, DefaultCurve25519Provider()
            assert curve.verify(
                creds.signed_identity_key.public,
                KEY_BUNDLE_TYPE + signed.key_pair.public,
                signed.signature,
            )
            again = repr(creds)
        async with await load(tmp_path / "x.db") as auth:
            assert repr(auth.creds) == again

    run(scenario())


def test_no_new_credentials_over_damage(tmp_path: Path) -> None:
    """A damaged device would be replaced by a new identity."""
    path = tmp_path / "x.db"
    path.write_bytes(b"")
    with pytest.raises(StoreDamaged):
        run(load(path))
    assert path.read_bytes() == b""


@pytest.mark.parametrize("kind", ["baileys", "baileysex"])
def test_a_folder_is_refused_before_anything_is_made(kind: str, tmp_path: Path) -> None:
    """A device would be made, and paired, in a folder that cannot hold its first session."""
    with pytest.raises(NotHeld, match="sqlite"):
        run(load(f"{kind}:{tmp_path / 'auth'}"))
    assert list(tmp_path.iterdir()) == []


def test_a_device_of_baileys_is_refused(tmp_path: Path) -> None:
    """pyaileys would run on sessions that it cannot read: it acknowledges messages before it
    decrypts them, so all of them would be lost."""
    copy_device(f"baileys:{ROOT / 'examples' / 'alice'}", f"sqlite:{tmp_path / 'x.db'}")
    with pytest.raises(NotHeld, match=r"sender-key .* is in the form of Baileys"):
        run(load(tmp_path / "x.db"))


def test_records_of_others_are_neither_read_nor_overwritten(tmp_path: Path) -> None:
    """pyaileys would be handed bytes that it cannot read, or write over another's session."""
    foreign: dict[str, dict[str, Any]] = {
        "session": {"2.0": SessionRecord(), "3.0": EncodedRecord(encoding="go-json", data=b"{}")},
        "lid-mapping": {"4": EncodedRecord(encoding="go-json", data=b"{}")},
    }

    async def scenario() -> None:
        async with await load(tmp_path / "x.db") as auth:
            client = attached(auth)
            other = Side(THEIRS, tmp_path, BOB)
            await other.open()
            await auth.device.set(foreign)
            for family, members in foreign.items():
                for id in members:
                    with pytest.raises(NotHeld, match=f"{family} {id}"):
                        await auth.keys.get(family, [id])
                    for value in (b"new", None):
                        with pytest.raises(NotHeld, match=f"{family} {id}"):
                            await auth.keys.set({family: {id: value}, "device-list": {"9": ["8"]}})
            with pytest.raises(NotHeld, match=r"session 2\.0"):
                await client.signal.inject_outgoing_session(
                    "2@s.whatsapp.net", await other.bundle()
                )
            assert await auth.keys.get("identity-key", ["2.0"]) == {"2.0": None}
            assert await auth.keys.get("device-list", ["9"]) == {"9": None}
            for family, members in foreign.items():
                assert await auth.device.get(family, members) == members
            await auth.keys.clear()
            assert await auth.keys.get("session", ["2.0"]) == {"2.0": None}

    run(scenario())


def test_it_says_nothing_of_keys(tmp_path: Path) -> None:
    """A log line with the auth state would hold the private keys."""

    async def scenario() -> None:
        async with await load(tmp_path / "x.db") as auth:
            assert repr(auth).startswith("<AuthState of <AsyncDevice")
            auth.creds.adv_secret_key = "c2VjcmV0"
            with pytest.raises(InvalidValue) as caught:
                await auth.save_creds()
            assert "c2VjcmV0" not in str(caught.value)
            with pytest.raises(InvalidValue) as caught:
                await auth.keys.set({"tctoken": {"1": {"token": object()}}})
            assert "tctoken 1" in str(caught.value)

    run(scenario())


def test_after_closing_nothing_works(tmp_path: Path) -> None:
    """A client that goes on after the device was closed would write to another owner's device."""

    async def scenario() -> None:
        auth = await load(tmp_path / "x.db")
        client = attached(auth)
        await auth.close()
        await auth.close()
        auth.creds.platform = "android"
        for call in (auth.save_creds(), auth.keys.get("session", ["1.0"])):
            with pytest.raises(StoreClosed):
                await call
        with pytest.raises(StoreClosed):
            await client.signal.encrypt_message(BOB, data=b"x")

    run(scenario())


def test_one_owner(tmp_path: Path) -> None:
    """Loading would leave the device open where it fails, or open it twice."""

    async def scenario() -> None:
        device = await open_async_device(tmp_path / "x.db", create=True)
        await device.set({"session": {"2.0": SessionRecord()}})
        await device.close()
        for _ in range(2):
            with pytest.raises(NotHeld):
                await load(tmp_path / "x.db")
        async with open_async_device(tmp_path / "x.db") as device:
            await device.clear()
        await (await load(tmp_path / "x.db")).close()

    run(scenario())


def test_a_missing_pair_for_pairing_is_made_once(tmp_path: Path) -> None:
    """A device of a library that keeps no pairing key pair could not be loaded."""

    async def scenario() -> None:
        async with open_async_device(tmp_path / "x.db", create=True) as device:
            bare = device.credentials.replace(pairing_ephemeral_key_pair=None)
            await device.save_credentials(bare)
        async with await load(tmp_path / "x.db") as auth:
            made = auth.creds.pairing_ephemeral_key_pair
        async with await load(tmp_path / "x.db") as auth:
            assert auth.creds.pairing_ephemeral_key_pair == made
            assert auth.device.credentials.replace(pairing_ephemeral_key_pair=None) == bare

    run(scenario())


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_without_pyaileys_it_says_what_to_install() -> None:
    """A user without the client would see an error that does not help."""
    code = "import sys; sys.modules['pyaileys'] = None; import ratchetkeep.clients.pyaileys"
    done = python(code)
    assert done.returncode == 1
    assert "ImportError: pyaileys is not installed" in done.stderr
    assert "pip install pyaileys" in done.stderr


def test_the_package_imports_no_client() -> None:
    """Whoever uses one client would need all of them."""
    done = python(
        "import sys, ratchetkeep.clients;"
        "print([name for name in ('pyaileys', 'WAeys', 'google.protobuf') if name in sys.modules])"
    )
    assert done.stdout == "[]\n"
