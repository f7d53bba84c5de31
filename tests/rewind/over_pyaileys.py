"""pyaileys over a SQLite file of ratchetkeep."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyaileys.auth.creds import Contact
from pyaileys.client import WhatsAppClient
from pyaileys.signal.group import GroupSessionBuilder, SenderKeyName, jid_to_sender_key_name

from conversation import over_pyaileys
from conversation.ledger import Identity
from ratchetkeep import open_async_device
from ratchetkeep.clients import pyaileys

from .engines import Me


class Pyaileys:
    """pyaileys over ratchetkeep; the verbs are those of the conversation's engine.

    :param witness: of its device.
    """

    name = "pyaileys"

    def __init__(self, witness: Path | None = None) -> None:
        self._witness = witness
        self._engine: over_pyaileys.Pyaileys

    def url(self, folder: Path) -> str:
        """See Engine."""
        return f"sqlite:{folder / 'state.db'}"

    async def open(self, folder: Path, me: Me) -> None:
        """See Engine."""
        folder.mkdir(exist_ok=True)
        device = await open_async_device(self.url(folder), create=True, witness=self._witness)
        auth = await pyaileys.load_device(device)
        client = WhatsAppClient(auth=auth)  # never connected: only its Signal engine is used
        auth.attach(client)
        self._engine = over_pyaileys.Pyaileys(auth, client.signal)
        if auth.creds.me is None:
            auth.creds.me = Contact(id=me.id, lid=me.lid)
            auth.creds.registered = True
            await auth.save_creds()

    async def close(self) -> None:
        """See Engine."""
        await self._engine.close()

    def identity(self) -> Identity:
        """See Engine."""
        return self._engine.identity()

    async def pre_key_ids(self) -> Iterable[int]:
        """See Engine."""
        return await self._engine.pre_key_ids()

    async def pre_keys(self, count: int) -> dict[int, bytes]:
        """See Engine."""
        return await self._engine.mint_as_client(count)

    async def begin(self, jid: str, bundle: dict[str, Any]) -> None:
        """See Engine."""
        await self._engine.begin(jid, bundle, drop=False)

    async def has_session(self, jid: str) -> bool:
        """See Engine."""
        address = self._address(jid)
        return (await self._keys.get("session", [address]))[address] is not None

    async def drop_session(self, jid: str) -> None:
        """See Engine."""
        await self._keys.set({"session": {self._address(jid): None}})

    async def encrypt(self, jid: str, data: bytes) -> tuple[str, bytes]:
        """See Engine."""
        return await self._engine.encrypt(jid, data)

    async def decrypt(self, jid: str, kind: str, data: bytes) -> bytes:
        """See Engine."""
        return await self._engine.decrypt(jid, kind, data)

    async def encrypt_group(self, group: str, me: str, data: bytes) -> tuple[bytes, bytes]:
        """See Engine."""
        return await self._engine.encrypt_group(group, me, data)

    async def own_sender_key(self, group: str, me: str) -> bytes:
        """See Engine. pyaileys has no verb for this; these are its own classes."""
        name = jid_to_sender_key_name(group, me)
        built = await GroupSessionBuilder(_SenderKeys(self._engine)).create(name)
        return bytes(built.serialize())

    async def take_sender_key(self, group: str, author: str, key: bytes) -> None:
        """See Engine."""
        await self._engine.take_sender_key(group, author, key)

    async def drop_sender_key(self, group: str, me: str) -> None:
        """See Engine."""
        name = jid_to_sender_key_name(group, me).serialize()
        await self._keys.set({"sender-key": {name: None}})

    async def decrypt_group(self, group: str, author: str, data: bytes) -> bytes:
        """See Engine."""
        return await self._engine.decrypt_group(group, author, data)

    async def memory(self, group: str) -> set[str]:
        """See Engine."""
        known = (await self._keys.get("sender-key-memory", [group]))[group]
        return set(known or ())

    async def remember(self, group: str, jids: Iterable[str] | None) -> None:
        """See Engine."""
        known = None if jids is None else dict.fromkeys(jids, True)
        await self._keys.set({"sender-key-memory": {group: known}})

    @property
    def _keys(self) -> Any:
        return self._engine.auth.keys

    def _address(self, jid: str) -> str:
        return str(self._engine.repository.jid_to_address(jid))


class _SenderKeys:
    """Sender keys as pyaileys' builder asks for them."""

    def __init__(self, engine: over_pyaileys.Pyaileys) -> None:
        self._repository = engine.repository

    async def load_sender_key(self, name: SenderKeyName) -> Any:
        return await self._repository._load_sender_key_record(name.serialize())

    async def store_sender_key(self, name: SenderKeyName, record: Any) -> None:
        await self._repository._store_sender_key_record(name.serialize(), record)
