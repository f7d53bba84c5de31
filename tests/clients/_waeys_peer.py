"""Devices that talk through the released waeys' own engine, and what the tests ask of them."""

from __future__ import annotations

import asyncio
import copy
import functools
import itertools
from collections.abc import Callable, Coroutine
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ParamSpec, Self

from ratchetkeep import Device, open_device
from ratchetkeep.clients.waeys import AuthState, load

P = ParamSpec("P")

auth_utils = import_module("WAeys.Utils.auth_utils")
crypto = import_module("WAeys.Utils.crypto")
pairing = import_module("WAeys.Utils.validate_connection")
proto = import_module("WAeys.WAProto.WAProto")
signal = import_module("WAeys.Utils.signal")
libsignal = import_module("WAeys.Signal.libsignal")
session_record = import_module("WAeys.Signal.libsignal_session_record")
socket = import_module("WAeys.Socket.socket")
whisper = import_module("WAeys.Signal.whisper_text_protocol")
defaults = import_module("WAeys.Defaults.index")

GROUP = "120363041234567890@g.us"
# waeys keeps one lock per address for the whole process, bound to the event loop that first waited
# for it. So no two tests use one address.
_NUMBERS = itertools.count(15550000001)


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test that is a coroutine, run in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


class Silent:
    """A logger as waeys calls it."""

    level = "silent"

    def child(self, _: Any) -> Self:
        return self

    def trace(self, *_: Any) -> None:
        """Nothing."""

    debug = info = warn = error = trace


class Peer:
    """One device with waeys' engine over it.

    :ivar jid: where others write to it.
    """

    def __init__(self, url: str, jid: str) -> None:
        self.url = url
        self.jid = jid
        self.auth: AuthState
        self.engine: Any

    async def open(self) -> Self:
        self.auth = await load(self.url)
        self.engine = self.auth.make_signal_repository(self.auth, Silent())
        return self

    async def close(self) -> None:
        await self.auth.close()

    async def reopen(self) -> None:
        await self.close()
        await self.open()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def mint(self, count: int) -> list[str]:
        """Pre-keys by the released function, and the event that follows; their ids."""
        made = await signal.get_next_pre_keys(self.auth, count)
        self.auth["creds"].update(made["update"])
        await self.auth.save_creds()
        return list(made["preKeys"])

    async def bundle(self, id: int) -> dict[str, Any]:
        """What another device needs to begin a session with this one."""
        creds = self.auth["creds"]
        pair = (await self.auth["keys"].get("pre-key", [str(id)]))[str(id)]
        signed = creds["signedPreKey"]
        return {
            "registrationId": creds["registrationId"],
            "identityKey": crypto.generate_signal_pub_key(creds["signedIdentityKey"]["public"]),
            "signedPreKey": {
                "keyId": signed["keyId"],
                "publicKey": crypto.generate_signal_pub_key(signed["keyPair"]["public"]),
                "signature": signed["signature"],
            },
            "preKey": {"keyId": id, "publicKey": crypto.generate_signal_pub_key(pair["public"])},
        }

    async def meet(self, other: Peer, id: int) -> None:
        """Begin a session with ``other`` through its pre-key ``id``."""
        session = await other.bundle(id)
        await self.engine["injectE2ESession"]({"jid": other.jid, "session": session})

    async def send(self, to: Peer, text: str) -> dict[str, Any]:
        """A message to ``to``, as its ``decryptMessage`` takes it."""
        sent = await self.engine["encryptMessage"]({"jid": to.jid, "data": text.encode()})
        return {"jid": self.jid, **sent}

    async def read(self, message: dict[str, Any]) -> str:
        plain: bytes = await self.engine["decryptMessage"](message)
        return plain.decode()

    async def send_group(self, text: str) -> dict[str, Any]:
        """A message to the group, as ``decryptGroupMessage`` takes it."""
        sent = await self.engine["encryptGroupMessage"](
            {"group": GROUP, "meId": self.jid, "data": text.encode()}
        )
        return {"group": GROUP, "authorJid": self.jid, "msg": sent["ciphertext"]}

    async def read_group(self, message: dict[str, Any]) -> str:
        plain: bytes = await self.engine["decryptGroupMessage"](message)
        return plain.decode()

    async def admit(self, author: Peer) -> None:
        """Take ``author``'s sender key for the group."""
        given = await author.engine["getSenderKeyDistributionMessage"](
            {"group": GROUP, "meId": author.jid}
        )
        item = SimpleNamespace(groupId=GROUP, axolotlSenderKeyDistributionMessage=given)
        verb = self.engine["processSenderKeyDistributionMessage"]
        await verb({"authorJid": author.jid, "item": item})

    def address(self) -> str:
        """The Signal address that others keep it under."""
        address: str = self.engine["jidToSignalProtocolAddress"](self.jid)
        return address


def new_peer(url: str, server: str = "s.whatsapp.net") -> Peer:
    """A peer with a number that nobody else has."""
    return Peer(url, f"{next(_NUMBERS)}@{server}")


async def acquainted(
    folder: Path, kind: str = "sqlite", server: str = "s.whatsapp.net"
) -> tuple[Peer, Peer]:
    """Two open devices; the first has just begun a session with the second."""
    alice = await new_peer(f"{kind}:{folder}/alice.{kind}", server).open()
    bob = await new_peer(f"{kind}:{folder}/bob.{kind}", server).open()
    await bob.mint(5)
    await alice.meet(bob, 1)
    return alice, bob


def stored(device: Device) -> dict[str, Any]:
    """Everything that a device holds."""
    families = ("session", "pre-key", "identity-key", "sender-key", "lid-mapping")
    found: dict[str, Any] = {family: device.get(family, device.ids(family)) for family in families}
    found["credentials"] = device.credentials
    return found


def durable(url: str) -> dict[str, Any]:
    """What is on the disk, read past the owner."""
    with open_device(url, read_only=True) as device:
        return stored(device)


async def in_memory(auth: AuthState) -> dict[str, Any]:
    """What the owner sees, its live credentials too."""
    found = {
        family: await auth.device.get(family, await auth.device.ids(family))
        for family in ("session", "pre-key", "identity-key", "sender-key", "lid-mapping")
    }
    return {**found, "creds": copy.deepcopy(dict(auth["creds"]))}
