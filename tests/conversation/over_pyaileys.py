"""pyaileys' own Signal engine over a ratchetkeep device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any

from pyaileys.auth.creds import AuthenticationCreds
from pyaileys.client import WhatsAppClient
from pyaileys.crypto.curve import DefaultCurve25519Provider
from pyaileys.signal.repository import PreKeyBundle, PreKeyBundleKey, SignalRepository
from pyaileys.signal.util import signal_pubkey

from ratchetkeep.clients import pyaileys
from ratchetkeep.errors import OwnershipLost

from .course import as_bytes
from .engines import Engine, Keep
from .ledger import Identity


class PyaileysVerbs:
    """What every engine with pyaileys' code has in common, whatever keeps its state."""

    has_hook = False

    def __init__(self, auth: Any, repository: SignalRepository) -> None:
        self.auth = auth
        self.repository = repository

    def on_lost(self, told: Callable[[OwnershipLost], None]) -> None:
        """Nobody can take a folder."""

    def identity(self) -> Identity:
        """See Engine."""
        creds: AuthenticationCreds = self.auth.creds
        return Identity(
            registration_id=creds.registration_id,
            identity_key=signal_pubkey(creds.signed_identity_key.public),
            signed_pre_key_id=creds.signed_pre_key.key_id,
            signed_pre_key=signal_pubkey(creds.signed_pre_key.key_pair.public),
            signature=creds.signed_pre_key.signature,
        )

    async def begin(self, jid: str, bundle: dict[str, Any], *, drop: bool) -> None:
        """See Engine."""
        if drop:
            address = str(self.repository.jid_to_address(jid))
            await self.auth.keys.set({"session": {address: None}})
        signed = PreKeyBundleKey(
            bundle["signed_pre_key_id"],
            as_bytes(bundle["signed_pre_key"]),
            as_bytes(bundle["signature"]),
        )
        one_time = PreKeyBundleKey(bundle["pre_key_id"], as_bytes(bundle["pre_key"]))
        identity_key = as_bytes(bundle["identity_key"])
        await self.repository.inject_outgoing_session(
            jid, PreKeyBundle(bundle["registration_id"], identity_key, signed, one_time)
        )

    async def encrypt(self, jid: str, data: bytes) -> tuple[str, bytes]:
        """See Engine."""
        return await self.repository.encrypt_message(jid, data=data)

    async def decrypt(self, jid: str, kind: str, data: bytes) -> bytes:
        """See Engine."""
        return await self.repository.decrypt_message(jid, message_type=kind, ciphertext=data)

    async def encrypt_group(self, group: str, me: str, data: bytes) -> tuple[bytes, bytes]:
        """See Engine."""
        return await self.repository.encrypt_group_message(group_jid=group, me_jid=me, data=data)

    async def take_sender_key(self, group: str, author: str, key: bytes) -> None:
        """See Engine."""
        await self.repository.process_sender_key_distribution_message(
            group, author_jid=author, distribution_bytes=key
        )

    async def decrypt_group(self, group: str, author: str, data: bytes) -> bytes:
        """See Engine."""
        return await self.repository.decrypt_group_message(
            group_jid=group, author_jid=author, ciphertext=data
        )

    async def mint_as_client(self, count: int) -> dict[int, bytes]:
        """New one-time pre-keys, by the steps that pyaileys' socket takes before an upload."""
        creds: AuthenticationCreds = self.auth.creds
        first = creds.next_pre_key_id
        curve = DefaultCurve25519Provider()
        pairs = {id: curve.generate_keypair() for id in range(first, first + count)}
        stored = {str(id): {"public": p.public, "private": p.private} for id, p in pairs.items()}
        await self.auth.keys.set({"pre-key": stored})
        creds.next_pre_key_id = creds.first_unuploaded_pre_key_id = first + count
        await self.auth.save_creds()
        return {id: signal_pubkey(pair.public) for id, pair in pairs.items()}


class Pyaileys(PyaileysVerbs):
    """pyaileys over ratchetkeep."""

    auth: pyaileys.AuthState
    has_hook = True

    @classmethod
    async def open(cls, url: str, keep: Keep) -> Pyaileys:
        """See Engine."""
        auth = await pyaileys.load(url)
        client = WhatsAppClient(auth=auth)  # never connected: only its Signal engine is used
        auth.attach(client, keep=lambda jid, group, text: keep(text))
        return cls(auth, client.signal)

    async def close(self) -> None:
        """See Engine."""
        await self.auth.close()

    def on_lost(self, told: Callable[[OwnershipLost], None]) -> None:
        """See Engine."""
        self.auth.device.on_lost(told)

    def transaction(self, *names: str) -> AbstractAsyncContextManager[Any]:
        """See Engine."""
        return self.auth.transaction(*names)

    async def pre_key_ids(self) -> Iterable[int]:
        """See Engine."""
        return [int(id) for id in await self.auth.device.ids("pre-key")]

    async def pre_keys_to_upload(self, count: int, *, as_client: bool) -> dict[int, bytes]:
        """See Engine."""
        device = self.auth.device
        left = await device.unuploaded_pre_keys()
        if as_client and not left:
            return await self.mint_as_client(count)
        if not left:
            async with self.auth.transaction():
                left = await device.mint_pre_keys(count)
        return {id: signal_pubkey(pair.public) for id, pair in left.items()}

    async def uploaded(self, ids: Iterable[int]) -> None:
        """See Engine."""
        async with self.auth.transaction():
            await self.auth.device.mark_pre_keys_uploaded(max(ids))


ENGINE: type[Engine] = Pyaileys
