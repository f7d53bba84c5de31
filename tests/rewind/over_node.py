"""Baileys itself, on Node, over a folder of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nodepeer
from conversation.course import as_bytes, as_text
from conversation.ledger import Identity

from .engines import Me


class Driver(nodepeer.Talker):
    """A Node process that runs ``rewind.mjs``: many devices, driven one call at a time."""

    def __init__(self) -> None:
        folder = nodepeer.ensure_installed()
        self._process = subprocess.Popen(
            [nodepeer.node(), str(folder / "rewind.mjs")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )


class Baileys:
    """Baileys over its multi-file folder."""

    name = "Baileys"

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._device: int | None = None

    def _ask(self, op: str, **request: Any) -> Any:
        return self._driver(op, device=self._device, **request)

    def url(self, folder: Path) -> str:
        """See Engine."""
        return f"baileys:{folder / 'state'}"

    async def open(self, folder: Path, me: Me) -> None:
        """See Engine."""
        state = folder / "state"
        self._device = self._driver("open", folder=str(state), me={"id": me.id, "lid": me.lid})

    async def close(self) -> None:
        """See Engine."""
        self._ask("close")
        self._device = None

    def identity(self) -> Identity:
        """See Engine."""
        told = self._ask("identity")
        return Identity(
            registration_id=told["registration_id"],
            identity_key=as_bytes(told["identity_key"]),
            signed_pre_key_id=told["signed_pre_key_id"],
            signed_pre_key=as_bytes(told["signed_pre_key"]),
            signature=as_bytes(told["signature"]),
        )

    async def pre_key_ids(self) -> Iterable[int]:
        """See Engine."""
        ids: list[int] = self._ask("preKeyIds")
        return ids

    async def pre_keys(self, count: int) -> dict[int, bytes]:
        """See Engine."""
        keys = self._ask("preKeys", count=count)
        return {int(id): as_bytes(key) for id, key in keys.items()}

    async def begin(self, jid: str, bundle: dict[str, Any]) -> None:
        """See Engine."""
        self._ask("begin", jid=jid, bundle=bundle)

    async def has_session(self, jid: str) -> bool:
        """See Engine."""
        return bool(self._ask("hasSession", jid=jid))

    async def drop_session(self, jid: str) -> None:
        """See Engine."""
        self._ask("dropSession", jid=jid)

    async def encrypt(self, jid: str, data: bytes) -> tuple[str, bytes]:
        """See Engine."""
        kind, body = self._ask("encrypt", jid=jid, data=as_text(data))
        return kind, as_bytes(body)

    async def decrypt(self, jid: str, kind: str, data: bytes) -> bytes:
        """See Engine."""
        return as_bytes(self._ask("decrypt", jid=jid, kind=kind, data=as_text(data)))

    async def encrypt_group(self, group: str, me: str, data: bytes) -> tuple[bytes, bytes]:
        """See Engine."""
        body, key = self._ask("encryptGroup", group=group, me=me, data=as_text(data))
        return as_bytes(body), as_bytes(key)

    async def own_sender_key(self, group: str, me: str) -> bytes:
        """See Engine."""
        return as_bytes(self._ask("ownSenderKey", group=group, me=me))

    async def take_sender_key(self, group: str, author: str, key: bytes) -> None:
        """See Engine."""
        self._ask("takeSenderKey", group=group, author=author, key=as_text(key))

    async def drop_sender_key(self, group: str, me: str) -> None:
        """See Engine."""
        self._ask("dropSenderKey", group=group, me=me)

    async def decrypt_group(self, group: str, author: str, data: bytes) -> bytes:
        """See Engine."""
        answer = self._ask("decryptGroup", group=group, author=author, data=as_text(data))
        return as_bytes(answer)

    async def memory(self, group: str) -> set[str]:
        """See Engine."""
        return set(self._ask("memory", group=group))

    async def remember(self, group: str, jids: Iterable[str] | None) -> None:
        """See Engine."""
        self._ask("remember", group=group, jids=None if jids is None else sorted(jids))
