"""waeys' own Signal engine over a ratchetkeep device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from typing import Any

from ratchetkeep.clients import waeys
from ratchetkeep.errors import OwnershipLost

from .course import as_bytes
from .engines import Engine, Keep
from .ledger import Identity

# The package has no types.
signal: Any = import_module("WAeys.Utils.signal")
crypto: Any = import_module("WAeys.Utils.crypto")
WAProto: Any = import_module("WAeys.WAProto.WAProto")


class Waeys:
    """waeys over ratchetkeep."""

    has_hook = True

    def __init__(self, auth: waeys.AuthState) -> None:
        self.auth = auth
        self.repository = auth.make_signal_repository()

    @classmethod
    async def open(cls, url: str, keep: Keep) -> Waeys:
        """See Engine."""
        auth = await waeys.load(url)
        auth.on_plaintext = lambda text, message: keep(text)
        return cls(auth)

    async def close(self) -> None:
        """See Engine."""
        await self.auth.close()

    def on_lost(self, told: Callable[[OwnershipLost], None]) -> None:
        """See Engine."""
        self.auth.device.on_lost(told)

    def transaction(self, *names: str) -> AbstractAsyncContextManager[Any]:
        """See Engine."""
        return self.auth.transaction(*names)

    def identity(self) -> Identity:
        """See Engine."""
        creds = self.auth["creds"]
        signed = creds["signedPreKey"]
        return Identity(
            registration_id=creds["registrationId"],
            identity_key=crypto.generate_signal_pub_key(creds["signedIdentityKey"]["public"]),
            signed_pre_key_id=signed["keyId"],
            signed_pre_key=crypto.generate_signal_pub_key(signed["keyPair"]["public"]),
            signature=signed["signature"],
        )

    async def begin(self, jid: str, bundle: dict[str, Any], *, drop: bool) -> None:
        """See Engine."""
        if drop:
            await self.repository["deleteSession"]([jid])
        session = {
            "registrationId": bundle["registration_id"],
            "identityKey": as_bytes(bundle["identity_key"]),
            "signedPreKey": {
                "keyId": bundle["signed_pre_key_id"],
                "publicKey": as_bytes(bundle["signed_pre_key"]),
                "signature": as_bytes(bundle["signature"]),
            },
            "preKey": {"keyId": bundle["pre_key_id"], "publicKey": as_bytes(bundle["pre_key"])},
        }
        await self.repository["injectE2ESession"]({"jid": jid, "session": session})

    async def encrypt(self, jid: str, data: bytes) -> tuple[str, bytes]:
        """See Engine."""
        message = await self.repository["encryptMessage"]({"jid": jid, "data": data})
        return message["type"], message["ciphertext"]

    async def decrypt(self, jid: str, kind: str, data: bytes) -> bytes:
        """See Engine."""
        message = {"jid": jid, "type": kind, "ciphertext": data}
        return bytes(await self.repository["decryptMessage"](message))

    async def encrypt_group(self, group: str, me: str, data: bytes) -> tuple[bytes, bytes]:
        """See Engine."""
        wanted = {"group": group, "meId": me, "data": data}
        message = await self.repository["encryptGroupMessage"](wanted)
        return message["ciphertext"], message["senderKeyDistributionMessage"]

    async def take_sender_key(self, group: str, author: str, key: bytes) -> None:
        """See Engine."""
        item = WAProto.Message.SenderKeyDistributionMessage(
            groupId=group, axolotlSenderKeyDistributionMessage=key
        )
        take = self.repository["processSenderKeyDistributionMessage"]
        await take({"item": item, "authorJid": author})

    async def decrypt_group(self, group: str, author: str, data: bytes) -> bytes:
        """See Engine."""
        message = {"group": group, "authorJid": author, "msg": data}
        return bytes(await self.repository["decryptGroupMessage"](message))

    async def pre_key_ids(self) -> Iterable[int]:
        """See Engine."""
        return [int(id) for id in await self.auth.device.ids("pre-key")]

    async def pre_keys_to_upload(self, count: int, *, as_client: bool) -> dict[int, bytes]:
        """See Engine. The counters of waeys pass the new pre-keys at once, so none is ever left
        over; either as its socket does it, or with a transaction of ours around it."""
        if as_client:
            # Its socket hears of the new counters by an event, and saves them after the pre-keys.
            made = await signal.get_next_pre_keys(self.auth, count)
            self.auth["creds"].update(made["update"])
            await self.auth.save_creds()
        else:
            async with self.auth.transaction("upload"):
                made = await signal.get_next_pre_keys(self.auth, count)
                self.auth["creds"].update(made["update"])
        keys = made["preKeys"].items()
        return {int(id): crypto.generate_signal_pub_key(pair["public"]) for id, pair in keys}

    async def uploaded(self, ids: Iterable[int]) -> None:
        """See Engine."""


ENGINE: type[Engine] = Waeys
