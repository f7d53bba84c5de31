"""pyaileys' Signal engine with one commit around each step that moves a ratchet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import TYPE_CHECKING

from pyaileys.signal.group import jid_to_sender_key_name
from pyaileys.signal.repository import PreKeyBundle, SignalRepository

if TYPE_CHECKING:
    from .pyaileys import AuthState

Keep = Callable[[str, str | None, bytes], Awaitable[None]]
"""Called with the sender's JID, the group's JID or None, and the plaintext, before the commit."""


class Repository(SignalRepository):
    """A SignalRepository whose verbs are commits of the device.

    A verb's changes are durable before it returns. If it fails nothing of it is kept, neither on
    the disk nor in memory. Verbs on one address wait for each other, whatever task they run in.
    """

    def __init__(self, auth: AuthState, before: SignalRepository, keep: Keep | None) -> None:
        super().__init__(auth, curve=before._curve)
        # What the engine that this one replaces has learned, and who waits for whom there.
        self._locks = before._locks
        self._mac_mode = before._mac_mode
        self._auth = auth
        self._keep = keep

    async def decrypt_message(self, jid: str, *, message_type: str, ciphertext: bytes) -> bytes:
        """Session, identity and the consumed pre-key in one commit; see SignalRepository."""
        names = [self._session(jid)]
        if message_type == "pkmsg":
            names += _pre_key(ciphertext)
        async with self._auth.transaction(*names):
            plaintext = await super().decrypt_message(
                jid, message_type=message_type, ciphertext=ciphertext
            )
            if self._keep is not None:
                await self._keep(jid, None, plaintext)
            return plaintext

    async def encrypt_message(self, jid: str, *, data: bytes) -> tuple[str, bytes]:
        """The moved session is durable before the ciphertext is returned.

        :raises InvalidValue: inside a transaction, which would be committed only after that.
        """
        self._auth._refuse_to_join("encrypt_message")
        async with self._auth.transaction(self._session(jid)):
            return await super().encrypt_message(jid, data=data)

    async def inject_outgoing_session(self, jid: str, bundle: PreKeyBundle) -> None:
        """The new session and the identity in one commit; see SignalRepository."""
        async with self._auth.transaction(self._session(jid)):
            await super().inject_outgoing_session(jid, bundle)

    async def encrypt_group_message(
        self, *, group_jid: str, me_jid: str, data: bytes
    ) -> tuple[bytes, bytes]:
        """The moved sender key is durable before ciphertext and distribution are returned.

        :raises InvalidValue: inside a transaction, which would be committed only after that.
        """
        self._auth._refuse_to_join("encrypt_group_message")
        async with self._auth.transaction(_sender_key(group_jid, me_jid)):
            return await super().encrypt_group_message(
                group_jid=group_jid, me_jid=me_jid, data=data
            )

    async def decrypt_group_message(
        self, *, group_jid: str, author_jid: str, ciphertext: bytes
    ) -> bytes:
        """The moved sender key in one commit; see SignalRepository."""
        async with self._auth.transaction(_sender_key(group_jid, author_jid)):
            plaintext = await super().decrypt_group_message(
                group_jid=group_jid, author_jid=author_jid, ciphertext=ciphertext
            )
            if self._keep is not None:
                await self._keep(author_jid, group_jid, plaintext)
            return plaintext

    async def process_sender_key_distribution_message(
        self, group_jid: str, *, author_jid: str, distribution_bytes: bytes
    ) -> None:
        """The new sender key in one commit; see SignalRepository."""
        async with self._auth.transaction(_sender_key(group_jid, author_jid)):
            await super().process_sender_key_distribution_message(
                group_jid, author_jid=author_jid, distribution_bytes=distribution_bytes
            )

    def _session(self, jid: str) -> str:
        return f"session {self.jid_to_address(jid)}"


def _sender_key(group_jid: str, author_jid: str) -> str:
    return f"sender-key {jid_to_sender_key_name(group_jid, author_jid).serialize()}"


def _pre_key(ciphertext: bytes) -> list[str]:
    """The name of the pre-key that a first message uses up: two must not use the same one."""
    # Imported when first needed, as the engine itself does: there are a thousand messages.
    first = import_module("pyaileys.proto.WAProto_pb2").PreKeySignalMessage()
    try:
        first.ParseFromString(ciphertext[1:])
    except import_module("google.protobuf.message").DecodeError:
        return []  # the engine says what is wrong with it
    return [f"pre-key {first.preKeyId}"] if first.preKeyId else []
