"""waeys over a store of ratchetkeep: a SQLite file, or a folder of Baileys."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from conversation import over_waeys
from conversation.ledger import Identity

from .engines import Me


class Waeys:
    """waeys over ratchetkeep; the verbs are those of the conversation's engine."""

    name = "waeys"

    def __init__(self, kind: str = "sqlite") -> None:
        self._kind = kind
        self._engine: over_waeys.Waeys

    def url(self, folder: Path) -> str:
        """See Engine."""
        return f"{self._kind}:{folder / ('state.db' if self._kind == 'sqlite' else 'state')}"

    async def open(self, folder: Path, me: Me) -> None:
        """See Engine."""
        folder.mkdir(exist_ok=True)
        self._engine = await over_waeys.Waeys.open(self.url(folder), _keep_nothing)
        auth = self._engine.auth
        self._engine.repository = auth.make_signal_repository(auth, _Silent())
        if not auth["creds"].get("me"):
            auth["creds"].update(me={"id": me.id, "lid": me.lid}, registered=True)
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
        return await self._engine.pre_keys_to_upload(count, as_client=True)

    async def begin(self, jid: str, bundle: dict[str, Any]) -> None:
        """See Engine."""
        await self._engine.begin(jid, bundle, drop=False)

    async def has_session(self, jid: str) -> bool:
        """See Engine."""
        found = await self._engine.repository["validateSession"](jid)
        return bool(found["exists"])

    async def drop_session(self, jid: str) -> None:
        """See Engine."""
        await self._engine.repository["deleteSession"]([jid])

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
        """See Engine."""
        wanted = {"group": group, "meId": me}
        key: bytes = await self._engine.repository["getSenderKeyDistributionMessage"](wanted)
        return key

    async def take_sender_key(self, group: str, author: str, key: bytes) -> None:
        """See Engine."""
        await self._engine.take_sender_key(group, author, key)

    async def drop_sender_key(self, group: str, me: str) -> None:
        """See Engine."""
        user, _, device = self._engine.repository["jidToSignalProtocolAddress"](me).rpartition(".")
        await self._keys.set({"sender-key": {f"{group}::{user}::{device}": None}})

    async def decrypt_group(self, group: str, author: str, data: bytes) -> bytes:
        """See Engine."""
        return await self._engine.decrypt_group(group, author, data)

    async def memory(self, group: str) -> set[str]:
        """See Engine."""
        known = await self._keys.get("sender-key-memory", [group])
        return set(known.get(group) or ())

    async def remember(self, group: str, jids: Iterable[str] | None) -> None:
        """See Engine."""
        known = None if jids is None else dict.fromkeys(jids, True)
        await self._keys.set({"sender-key-memory": {group: known}})

    @property
    def _keys(self) -> Any:
        return self._engine.auth["keys"]


class _Silent:
    """A logger as waeys calls it."""

    level = "silent"

    def child(self, _: Any) -> _Silent:
        return self

    def trace(self, *_: Any) -> None:
        """Nothing."""

    debug = info = warn = error = trace


async def _keep_nothing(data: bytes) -> None:
    """The texts are kept by the story."""
