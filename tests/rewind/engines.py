"""What a story asks of a client: its Signal engine, and what its socket keeps beside it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from conversation.ledger import Identity


@dataclass(frozen=True)
class Me:
    """Who a device is: its JID by number, and by LID, which groups of the second kind use."""

    id: str
    lid: str


class Engine(Protocol):
    """A client's own Signal code over a store; a public key has 33 bytes.

    A verb that cannot do its work raises whatever the client raises.
    """

    @property
    def name(self) -> str:
        """Which client this is."""
        ...

    def url(self, folder: Path) -> str:
        """Where a device in this folder is, for ratchetkeep."""
        ...

    async def open(self, folder: Path, me: Me) -> None:
        """Open the device in a folder, and make it if there is none."""
        ...

    async def close(self) -> None:
        """Close it: what is in memory is forgotten."""
        ...

    def identity(self) -> Identity:
        """What others need to begin a session, without a one-time pre-key."""
        ...

    async def pre_key_ids(self) -> Iterable[int]:
        """The one-time pre-keys in the store."""
        ...

    async def pre_keys(self, count: int) -> dict[int, bytes]:
        """Public one-time pre-keys that nobody has, by the client's own steps before an upload, and
        before a retry receipt with keys."""
        ...

    async def begin(self, jid: str, bundle: dict[str, Any]) -> None:
        """Begin a session with a bundle of another device."""
        ...

    async def has_session(self, jid: str) -> bool:
        """Whether there is one to send in."""
        ...

    async def drop_session(self, jid: str) -> None:
        """Forget it, as a client does that asks a second time."""
        ...

    async def encrypt(self, jid: str, data: bytes) -> tuple[str, bytes]:
        """A message for a device: ``msg`` or ``pkmsg``, and its bytes."""
        ...

    async def decrypt(self, jid: str, kind: str, data: bytes) -> bytes:
        """The text of such a message."""
        ...

    async def encrypt_group(self, group: str, me: str, data: bytes) -> tuple[bytes, bytes]:
        """A message for a group, and the sender key that the others need to read it."""
        ...

    async def own_sender_key(self, group: str, me: str) -> bytes:
        """The sender key alone, for someone who asked again."""
        ...

    async def take_sender_key(self, group: str, author: str, key: bytes) -> None:
        """Take in the sender key of an author."""
        ...

    async def drop_sender_key(self, group: str, me: str) -> None:
        """Forget the own sender key, as a client does when someone has left the group."""
        ...

    async def decrypt_group(self, group: str, author: str, data: bytes) -> bytes:
        """The text of a message to a group."""
        ...

    async def memory(self, group: str) -> set[str]:
        """The JIDs of those who have the own sender key (``sender-key-memory``)."""
        ...

    async def remember(self, group: str, jids: Iterable[str] | None) -> None:
        """Set these; None forgets the record."""
        ...
