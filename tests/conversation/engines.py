"""What the harness asks of a client's Signal engine, and how it finds one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from typing import Any, Protocol

from ratchetkeep.errors import OwnershipLost

from .ledger import Identity

Keep = Callable[[bytes], Awaitable[None]]
"""Awaited by the adapters with each text that is decrypted, before the commit."""


class Engine(Protocol):
    """A client's own Signal code over a store; every key has 33 bytes.

    Each verb that changes something returns when the change is durable, as the adapters promise;
    verbs inside a transaction are durable when it is left. A verb that cannot do its work raises
    whatever the client raises.
    """

    @classmethod
    async def open(cls, url: str, keep: Keep) -> Engine:
        """Open the device at a place, and make it if there is none. ``keep`` becomes the adapter's
        hook, where ``has_hook``."""
        ...

    @property
    def has_hook(self) -> bool:
        """Whether ``keep`` is called."""
        ...

    async def close(self) -> None:
        """Close the device."""
        ...

    def on_lost(self, told: Callable[[OwnershipLost], None]) -> None:
        """Have ``told`` called if another process takes the device."""
        ...

    def transaction(self, *names: str) -> AbstractAsyncContextManager[Any]:
        """One commit of all that is done inside; the names say with whom."""
        ...

    def identity(self) -> Identity:
        """What others need to begin a session, without a one-time pre-key."""
        ...

    async def begin(self, jid: str, bundle: dict[str, Any], *, drop: bool) -> None:
        """Begin a session with a bundle of the other side; ``drop`` the former one before it."""
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

    async def take_sender_key(self, group: str, author: str, key: bytes) -> None:
        """Take in the sender key of an author."""
        ...

    async def decrypt_group(self, group: str, author: str, data: bytes) -> bytes:
        """The text of a message to a group."""
        ...

    async def pre_key_ids(self) -> Iterable[int]:
        """The one-time pre-keys in the store."""
        ...

    async def pre_keys_to_upload(self, count: int, *, as_client: bool) -> dict[int, bytes]:
        """Public one-time pre-keys that are stored and not known to the server: those left over
        from before, or else as many new ones, made by the client's own steps or by the device."""
        ...

    async def uploaded(self, ids: Iterable[int]) -> None:
        """The server has these."""
        ...


def engine_class(name: str) -> type[Engine]:
    """The engine that is named ``module:class``."""
    module, _, attribute = name.partition(":")
    found: type[Engine] = getattr(import_module(module), attribute)
    return found
