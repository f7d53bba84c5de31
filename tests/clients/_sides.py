"""Two sides of a conversation in pyaileys' own Signal engine, each over a store of its kind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from pyaileys.auth.creds import AuthenticationCreds
from pyaileys.auth.state import AuthenticationState
from pyaileys.auth.store import MultiFileAuthState
from pyaileys.client import WhatsAppClient
from pyaileys.proto import WAProto_pb2
from pyaileys.signal.repository import PreKeyBundle, PreKeyBundleKey, SignalRepository
from pyaileys.wabinary.types import BinaryNode

from ratchetkeep.clients.pyaileys import AuthState, load

# pyaileys' protobuf messages; their stubs name none of them.
WAProto: Any = WAProto_pb2

OURS, THEIRS, SHARED = "ratchetkeep", "pyaileys' own folder", "ratchetkeep on that folder"
GROUP = "120363041234567890@g.us"
ALICE, BOB = "15551230001:3@s.whatsapp.net", "998877000000002:7@lid"


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    """Run a scenario in an event loop of its own."""
    return asyncio.run(scenario)


def attached(auth: AuthState, **how: Any) -> WhatsAppClient:
    """A client of the auth state; whatever it asks the server is answered with nothing."""
    client = WhatsAppClient(auth=auth)
    auth.attach(client, **how)

    async def answer(node: BinaryNode, *, timeout_s: float = 60.0) -> BinaryNode:
        return BinaryNode(tag="iq", attrs={})

    client.socket.query = answer  # type: ignore[method-assign]
    return client


class Side:
    """One side: a store of one kind with a client on it.

    :ivar kind: of its store. Between closing and opening, ``THEIRS`` and ``SHARED`` may take turns.
    :ivar jid: who it is.
    """

    def __init__(self, kind: str, folder: Path, jid: str) -> None:
        self.kind = kind
        self.jid = jid
        self._folder = folder
        self._auth: AuthState | None = None
        self._folder_auth: MultiFileAuthState | None = None
        self.client: WhatsAppClient

    @property
    def auth(self) -> AuthState:
        """Our auth state."""
        assert self._auth is not None
        return self._auth

    @property
    def creds(self) -> AuthenticationCreds:
        """The live credentials."""
        return self.client.socket.auth.creds

    @property
    def keys(self) -> Any:
        """The key store."""
        return self.client.socket.auth.keys

    @property
    def signal(self) -> SignalRepository:
        """The engine."""
        return self.client.signal

    async def open(self) -> Side:
        """Open the store; the first time it is made."""
        place = self._folder / self.jid.partition(":")[0]
        if self.kind in (OURS, SHARED):
            self._auth = await load(
                f"sqlite:{place}.db" if self.kind == OURS else f"pyaileys:{place}"
            )
            self.client = attached(self._auth)
            return self
        state = await MultiFileAuthState.load(place)
        self._folder_auth = state
        self.client = WhatsAppClient(auth=AuthenticationState(creds=state.creds, keys=state.keys))
        self.client.on("creds.update", lambda _: state.save_creds())

        async def answer(node: BinaryNode, *, timeout_s: float = 60.0) -> BinaryNode:
            return BinaryNode(tag="iq", attrs={})

        self.client.socket.query = answer  # type: ignore[method-assign]
        await state.save_creds()
        return self

    async def close(self) -> None:
        """Close it; everything in memory is forgotten."""
        if self._auth is not None:
            await self._auth.close()
            self._auth = None

    async def reopen(self) -> None:
        """As if the process had been started again."""
        await self.close()
        await self.open()

    async def bundle(self, pre_key: int | None = None) -> PreKeyBundle:
        """What the server would hand out of this side."""
        signed = self.creds.signed_pre_key
        one_time = None
        if pre_key is not None:
            pair = (await self.keys.get("pre-key", [str(pre_key)]))[str(pre_key)]
            one_time = PreKeyBundleKey(key_id=pre_key, public_key=b"\5" + pair["public"])
        return PreKeyBundle(
            registration_id=self.creds.registration_id,
            identity_key=b"\5" + self.creds.signed_identity_key.public,
            signed_pre_key=PreKeyBundleKey(
                key_id=signed.key_id,
                public_key=b"\5" + signed.key_pair.public,
                signature=signed.signature,
            ),
            pre_key=one_time,
        )

    async def mint(self, count: int) -> None:
        """Make pre-keys and upload them, as the client does."""
        await self.client.socket._upload_prekeys(count)

    async def say(self, other: Side, text: bytes) -> tuple[str, bytes]:
        """A message for the other side."""
        return await self.signal.encrypt_message(other.jid, data=text)

    async def hear(self, other: Side, message: tuple[str, bytes]) -> bytes:
        """What a message of the other side says."""
        kind, body = message
        return await self.signal.decrypt_message(other.jid, message_type=kind, ciphertext=body)

    async def say_to_group(self, text: bytes) -> tuple[bytes, bytes]:
        """A message for the group, and the sender key."""
        return await self.signal.encrypt_group_message(group_jid=GROUP, me_jid=self.jid, data=text)

    async def hear_in_group(self, other: Side, body: bytes) -> bytes:
        """What the other side said in the group."""
        return await self.signal.decrypt_group_message(
            group_jid=GROUP, author_jid=other.jid, ciphertext=body
        )

    async def take_sender_key(self, other: Side, key: bytes) -> None:
        """Take in the other side's sender key for the group."""
        await self.signal.process_sender_key_distribution_message(
            GROUP, author_jid=other.jid, distribution_bytes=key
        )


async def pair_of(folder: Path, alice: str = OURS, bob: str = OURS) -> tuple[Side, Side]:
    """Alice and Bob, where Alice has a session with Bob, who has pre-keys from 1 on."""
    one, two = Side(alice, folder, ALICE), Side(bob, folder, BOB)
    await one.open()
    await two.open()
    await two.mint(3)
    await one.signal.inject_outgoing_session(two.jid, await two.bundle(pre_key=2))
    return one, two


async def close(*sides: Side) -> None:
    """Close all sides."""
    for side in sides:
        await side.close()
