"""Real engines of the client libraries, each behind the same few verbs, none of them async."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Coroutine
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, Self

from pyaileys.auth.creds import Contact
from pyaileys.auth.state import AuthenticationState
from pyaileys.auth.store import MultiFileAuthState
from pyaileys.signal.repository import SignalRepository

from conversation.over_pyaileys import PyaileysVerbs
from conversation.over_waeys import Waeys
from nodepeer import Talker, TalkerError
from ratchetkeep.clients import pyaileys, waeys

Bundle = dict[str, Any]
Account = dict[str, bytes]

PRE_KEYS = 6


class Refused(Exception):
    """The library could not do it."""


class Engine(Protocol):
    """One device, driven by a client library. A verb that the library cannot do raises Refused."""

    def close(self) -> None:
        """Forget all that is in memory."""

    def bundle(self, id: int) -> Bundle:
        """What another device needs to begin a session through the pre-key ``id``."""

    def has_pre_key(self, id: int) -> bool:
        """Whether the pre-key ``id`` was not used up."""

    def begin(self, jid: str, bundle: Bundle, *, drop: bool = False) -> None:
        """Begin a session; ``drop`` the former one before it."""

    def encrypt(self, jid: str, data: bytes) -> tuple[str, bytes]:
        """A message: ``msg`` or ``pkmsg``, and its bytes."""

    def decrypt(self, jid: str, kind: str, data: bytes) -> bytes:
        """The text of a message."""

    def encrypt_group(self, group: str, me: str, data: bytes) -> tuple[bytes, bytes]:
        """A message for a group, and the sender key that the others need."""

    def take_sender_key(self, group: str, author: str, key: bytes) -> None:
        """Take in the sender key of an author."""

    def decrypt_group(self, group: str, author: str, data: bytes) -> bytes:
        """The text of a message to a group."""


class Library(Protocol):
    """Opens devices with a client library."""

    def create(self, path: Path, me: dict[str, str], account: Account) -> Engine:
        """A device at a path that was just paired, with pre-keys from 1 on."""

    def open(self, path: Path) -> Engine:
        """The device at a path."""


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


class NodeDevice:
    """A device in the Node process."""

    def __init__(self, talker: Talker, device: int) -> None:
        self._talker = talker
        self._device = device

    def _ask(self, op: str, **request: Any) -> Any:
        try:
            return self._talker(op, device=self._device, **request)
        except TalkerError as error:
            raise Refused(str(error)) from error

    def fork(self) -> NodeDevice:
        """The same device as it is now, in memory."""
        return NodeDevice(self._talker, self._ask("fork"))

    def close(self) -> None:
        """See Engine."""
        self._ask("close")

    def bundle(self, id: int) -> Bundle:
        """See Engine."""
        found: Bundle = self._ask("bundle", id=id)
        return found

    def has_pre_key(self, id: int) -> bool:
        """See Engine."""
        return bool(self._ask("hasPreKey", id=id))

    def begin(self, jid: str, bundle: Bundle, *, drop: bool = False) -> None:
        """See Engine."""
        self._ask("begin", jid=jid, bundle=bundle, drop=drop)

    def encrypt(self, jid: str, data: bytes) -> tuple[str, bytes]:
        """See Engine."""
        kind, body = self._ask("encrypt", jid=jid, data=text(data))
        return kind, base64.b64decode(body)

    def decrypt(self, jid: str, kind: str, data: bytes) -> bytes:
        """See Engine."""
        return base64.b64decode(self._ask("decrypt", jid=jid, kind=kind, data=text(data)))

    def encrypt_group(self, group: str, me: str, data: bytes) -> tuple[bytes, bytes]:
        """See Engine."""
        sent = self._ask("encryptGroup", group=group, me=me, data=text(data))
        return base64.b64decode(sent[0]), base64.b64decode(sent[1])

    def take_sender_key(self, group: str, author: str, key: bytes) -> None:
        """See Engine."""
        self._ask("takeSenderKey", group=group, author=author, key=text(key))

    def drop_sender_key(self, group: str, me: str) -> None:
        """Forget the own sender key, so that the next message is under a new one."""
        self._ask("dropSenderKey", group=group, me=me)

    def decrypt_group(self, group: str, author: str, data: bytes) -> bytes:
        """See Engine."""
        return base64.b64decode(
            self._ask("decryptGroup", group=group, author=author, data=text(data))
        )


class NodeLibrary:
    """Baileys of one major version."""

    def __init__(self, talker: Talker, version: int) -> None:
        self._talker = talker
        self._version = version

    def create(self, path: Path | None, me: dict[str, str], account: Account) -> NodeDevice:
        """See Library; without a path it is in memory."""
        device = self._talker(
            "create",
            version=self._version,
            folder=None if path is None else str(path),
            me=me,
            account={name: text(value) for name, value in account.items()},
            count=PRE_KEYS,
        )
        return NodeDevice(self._talker, device)

    def open(self, path: Path) -> NodeDevice:
        """See Library."""
        return NodeDevice(
            self._talker, self._talker("open", version=self._version, folder=str(path))
        )


class Loop:
    """The one event loop of all engines in Python: waeys keeps locks for the whole process."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def __call__(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run it to its end.

        :raises Refused: for whatever the client raises.
        """
        try:
            return self._runner.run(work)
        except Exception as error:
            raise Refused(type(error).__name__) from error

    def close(self) -> None:
        """End the loop."""
        self._runner.close()


class PythonDevice:
    """A device of a client in Python, through what the conversation tests drive it with."""

    def __init__(self, loop: Loop, verbs: PyaileysVerbs | Waeys, keys: Any, end: Any) -> None:
        self._loop = loop
        self._verbs = verbs
        self._keys = keys
        self._end = end

    def close(self) -> None:
        """See Engine."""
        if self._end is not None:
            self._loop(self._end())

    def _pre_key(self, id: int) -> Any:
        return self._loop(self._keys.get("pre-key", [str(id)])).get(str(id))

    def bundle(self, id: int) -> Bundle:
        """See Engine."""
        known = self._verbs.identity()
        return {
            "registration_id": known.registration_id,
            "identity_key": text(known.identity_key),
            "signed_pre_key_id": known.signed_pre_key_id,
            "signed_pre_key": text(known.signed_pre_key),
            "signature": text(known.signature),
            "pre_key_id": id,
            "pre_key": text(b"\5" + self._pre_key(id)["public"][-32:]),
        }

    def has_pre_key(self, id: int) -> bool:
        """See Engine."""
        return self._pre_key(id) is not None

    def begin(self, jid: str, bundle: Bundle, *, drop: bool = False) -> None:
        """See Engine."""
        self._loop(self._verbs.begin(jid, bundle, drop=drop))

    def encrypt(self, jid: str, data: bytes) -> tuple[str, bytes]:
        """See Engine."""
        kind, body = self._loop(self._verbs.encrypt(jid, data))
        return kind, body

    def decrypt(self, jid: str, kind: str, data: bytes) -> bytes:
        """See Engine."""
        return bytes(self._loop(self._verbs.decrypt(jid, kind, data)))

    def encrypt_group(self, group: str, me: str, data: bytes) -> tuple[bytes, bytes]:
        """See Engine."""
        body, key = self._loop(self._verbs.encrypt_group(group, me, data))
        return body, key

    def take_sender_key(self, group: str, author: str, key: bytes) -> None:
        """See Engine."""
        self._loop(self._verbs.take_sender_key(group, author, key))

    def decrypt_group(self, group: str, author: str, data: bytes) -> bytes:
        """See Engine."""
        return bytes(self._loop(self._verbs.decrypt_group(group, author, data)))


def _identity_bytes(account: Account) -> bytes:
    """The account as pyaileys keeps it: a message of the protocol."""
    proto: Any = import_module("pyaileys.proto.WAProto_pb2")
    return bytes(proto.ADVSignedDeviceIdentity(**account).SerializeToString())


class PyaileysFolder:
    """pyaileys alone, on its own folder."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def create(self, path: Path, me: dict[str, str], account: Account) -> Engine:
        """See Library."""
        return self._open(path, me, account)

    def open(self, path: Path) -> Engine:
        """See Library."""
        return self._open(path)

    def _open(
        self, path: Path, me: dict[str, str] | None = None, account: Account | None = None
    ) -> Engine:
        async def load() -> tuple[PyaileysVerbs, Any]:
            state = await MultiFileAuthState.load(path)
            auth = AuthenticationState(creds=state.creds, keys=state.keys)
            verbs = PyaileysVerbs(auth, SignalRepository(auth))
            if me is not None and account is not None:
                await pair_pyaileys(verbs, state.save_creds, me, account)
            return verbs, state.keys

        verbs, keys = self._loop(load())
        return PythonDevice(self._loop, verbs, keys, None)


async def pair_pyaileys(
    verbs: PyaileysVerbs, save: Callable[[], Any], me: dict[str, str], account: Account
) -> None:
    """Bring new credentials to where pairing would leave them."""
    creds = verbs.auth.creds
    creds.me = Contact(**me)
    creds.account = _identity_bytes(account)
    creds.registered = True
    creds.platform = "android"
    await save()
    if not hasattr(verbs.auth, "save_creds"):
        verbs.auth = _WithSave(verbs.auth, save)
    await verbs.mint_as_client(PRE_KEYS)


class _WithSave:
    """pyaileys' own auth state, which others save."""

    def __init__(self, auth: AuthenticationState, save: Callable[[], Any]) -> None:
        self.creds = auth.creds
        self.keys = auth.keys
        self.save_creds = save


class PyaileysAdapter:
    """pyaileys over a device of ratchetkeep."""

    def __init__(self, loop: Loop, kind: str) -> None:
        self._loop = loop
        self._kind = kind

    def create(self, path: Path, me: dict[str, str], account: Account) -> Engine:
        """See Library."""
        return self._open(path, me, account)

    def open(self, path: Path) -> Engine:
        """See Library."""
        return self._open(path)

    def _open(
        self, path: Path, me: dict[str, str] | None = None, account: Account | None = None
    ) -> Engine:
        async def load() -> tuple[PyaileysVerbs, Any, Any]:
            from pyaileys.client import WhatsAppClient

            auth = await pyaileys.load(f"{self._kind}:{path}", create=me is not None)
            client = WhatsAppClient(auth=auth)
            auth.attach(client)
            verbs = PyaileysVerbs(auth, client.signal)
            if me is not None and account is not None:
                await pair_pyaileys(verbs, auth.save_creds, me, account)
            return verbs, auth.keys, auth.close

        return PythonDevice(self._loop, *self._loop(load()))


class WaeysAdapter:
    """waeys over a device of ratchetkeep."""

    def __init__(self, loop: Loop, kind: str) -> None:
        self._loop = loop
        self._kind = kind

    def create(self, path: Path, me: dict[str, str], account: Account) -> Engine:
        """See Library."""

        async def make() -> tuple[Waeys, Any, Any]:
            auth = await waeys.load(f"{self._kind}:{path}")
            auth["creds"].update(me=me, account=account, registered=True, platform="android")
            await auth.save_creds()
            verbs = Waeys(auth)
            await verbs.pre_keys_to_upload(PRE_KEYS, as_client=True)
            return verbs, auth["keys"], auth.close

        return PythonDevice(self._loop, *self._loop(make()))

    def open(self, path: Path) -> Engine:
        """See Library."""

        async def load() -> tuple[Waeys, Any, Any]:
            auth = await waeys.load(f"{self._kind}:{path}", create=False)
            return Waeys(auth), auth["keys"], auth.close

        return PythonDevice(self._loop, *self._loop(load()))


class Bench:
    """All libraries, over one Node process and one event loop.

    :ivar libraries: by the name of the place that they keep a device in.
    """

    def __init__(self) -> None:
        self._talker = Talker()
        self._loop = Loop()
        self.seven = NodeLibrary(self._talker, 7)
        self.libraries: dict[str, Library] = {
            "baileys 7": self.seven,
            "baileys 6": NodeLibrary(self._talker, 6),
            "pyaileys": PyaileysFolder(self._loop),
            "pyaileys over sqlite": PyaileysAdapter(self._loop, "sqlite"),
            "waeys over baileys": WaeysAdapter(self._loop, "baileys"),
            "waeys over sqlite": WaeysAdapter(self._loop, "sqlite"),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._talker.close()
        self._loop.close()
