"""A device as the auth state of waeys (import name ``WAeys``), a port of Baileys to Python.

::

    async with await load("bot.db") as auth:
        config = auth.configure(default_connection_config())
        sock = make_socket(config)
        auth.attach(sock)

Every verb of the Signal repository is one durable commit before it returns. How waeys' own
"transactions" end in ours: ``make_socket`` wraps the key store once more. That wrapper only keeps
order, since in waeys 0.1.3 its transaction is over before the work begins; so each ``set`` through
it comes to ours at once, commits by itself, or joins the transaction of ours that is running. The
Signal repository gets our key store directly. Nothing of waeys is patched.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from contextlib import AbstractAsyncContextManager
from contextvars import Context
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ratchetkeep.aio import AsyncDevice, open_async_device, outcome_of
from ratchetkeep.errors import RatchetkeepError

from ._ratchets import check_ratchets
from ._waeys_core import Core, OnPlaintext
from ._waeys_engine import Repository
from ._waeys_keys import Keys
from ._waeys_values import from_record

if TYPE_CHECKING:
    from ratchetkeep.sealing.keys import SealKey

__all__ = ["AuthState", "load", "load_device"]

logger = logging.getLogger(__name__)


def _client(module: str) -> Any:
    try:
        return import_module(f"WAeys.{module}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "WAeys":
            raise
        message = "waeys is not installed: pip install waeys, or ratchetkeep with its extra 'waeys'"
        raise ImportError(message, name="WAeys") from None


class AuthState(dict[str, Any]):
    """What ``make_socket`` takes as ``config['auth']``: ``creds`` and ``keys``. Made by
    :func:`load`; close it, or use it as a context manager: it owns the device.

    ``creds`` is the live dict that waeys changes. Changes are kept by :meth:`save_creds`, by the
    end of a transaction in which they were made, and by :meth:`attach`.

    :ivar device: the device beneath. Change its credentials through ``creds`` only.
    """

    def __init__(self, device: AsyncDevice) -> None:
        self.device = device
        self._core = Core(device)
        self._make_engine = _client("Signal.libsignal").make_libsignal_repository
        store = _client("Utils.auth_utils").SignalKeyStore
        super().__init__(creds=self._core.creds, keys=store(Keys(self._core).methods()))
        self._saver: asyncio.Task[None] | None = None
        self._is_waiting = False
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<AuthState of {self.device!r}>"

    @property
    def on_plaintext(self) -> OnPlaintext | None:
        """``await on_plaintext(plaintext, message)`` is called inside the transaction that decrypts
        a message, before it is committed: what it stores is stored before the message key is gone.
        If it raises, nothing is committed and the message can be decrypted again. ``message`` is
        what the verb was given: ``jid``, ``type`` and ``ciphertext``, or ``group``, ``authorJid``
        and ``msg``. The plaintext is padded, as WhatsApp sends it.
        """
        return self._core.on_plaintext

    @on_plaintext.setter
    def on_plaintext(self, hook: OnPlaintext | None) -> None:
        self._core.on_plaintext = hook

    def transaction(self, *names: str) -> AbstractAsyncContextManager[None]:
        """Commit all records and changes of ``creds`` inside together, on leaving; an exception
        drops them all, in memory too.

        :param names: names to lock, any text.

        Decrypting inside joins it. Encrypting inside is refused: send after it.
        """
        return self._core.transaction(*names)

    async def save_creds(self) -> None:
        """Keep ``creds`` as they are now; durable on return (inside a transaction: with it).

        :raises InvalidValue: naming the member that cannot be kept.
        """
        async with self._core.transaction():
            pass  # leaving it saves what differs from what is stored

    def make_signal_repository(
        self, auth: Any = None, logger: Any = None, pn_to_lid: Any = None
    ) -> Repository:
        """waeys' own Signal repository over this device, as ``config['makeSignalRepository']``.

        :param auth: what ``make_socket`` would have it use, which is not needed.
        :param pn_to_lid: asks the server for LIDs.
        """
        engine = self._make_engine(self, logger, pn_to_lid)
        return Repository(self._core, engine)

    def configure(self, config: dict[str, Any]) -> dict[str, Any]:
        """Put this auth state and its Signal repository into the config of ``make_socket``."""
        config["auth"] = self
        config["makeSignalRepository"] = self.make_signal_repository
        return config

    def attach(self, sock: dict[str, Any]) -> None:
        """Save ``creds`` whenever the socket changes them. If that fails it is logged, and
        tried again with the next change and by :meth:`close`, which raises."""
        sock["ev"].on("creds.update", self._save_soon)

    def _save_soon(self, _update: Any) -> None:
        self._is_waiting = True
        if self._saver is None or self._saver.done():
            # In a context of its own, since this may be called inside a transaction.
            loop = asyncio.get_running_loop()
            self._saver = loop.create_task(self._save_waiting(), context=Context())

    async def _save_waiting(self) -> None:
        while self._is_waiting:
            self._is_waiting = False
            try:
                await self.save_creds()
            except RatchetkeepError as error:
                logger.error("creds could not be saved: %s", error)

    async def close(self) -> None:
        """Save what ``creds`` still hold, and give the device back.

        :raises RatchetkeepError: if they could not be saved; the device is given back all the same.
        """
        if self._is_closed:
            return
        self._is_closed = True
        # Cancelled meanwhile, it saves and closes all the same.
        await outcome_of(asyncio.get_running_loop().create_task(self._finish()))

    async def _finish(self) -> None:
        try:
            if self._saver is not None:
                await asyncio.gather(self._saver, return_exceptions=True)
            await self.save_creds()
        finally:
            await self.device.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            await self.close()
            return
        # The caller's own error is the one to show.
        with contextlib.suppress(RatchetkeepError):
            await self.close()


async def load(
    url: str | os.PathLike[str],
    *,
    create: bool = True,
    wait: float = 0.0,
    key: str | bytes | SealKey | None = None,
    witness: str | os.PathLike[str] | None = None,
    witness_delay: float | None = None,
) -> AuthState:
    """Open the device that ``url`` names as an auth state of waeys.

    :param create: make new credentials if the place holds no trace of a device.
    :param wait: how many seconds to wait for another owner.
    :param key: what opens a sealed store; ``witness`` and ``witness_delay``: what remembers how far
        the device came. All three as for :func:`ratchetkeep.open_device`.
    :raises ImportError: if waeys is not installed.
    :raises NoDevice: if nothing is there and ``create`` is not set.
    :raises StoreDamaged: if something is there and cannot be read; it is never made anew.
    :raises StoreInUse: if another owner has the device open.
    :raises NotHeld: if it holds the sessions of another client in that client's own encoding.
    """
    _client("Signal.libsignal")
    device = await open_async_device(
        url, create=create, wait=wait, key=key, witness=witness, witness_delay=witness_delay
    )
    try:
        return await load_device(device)
    except BaseException:
        await device.close()
        raise


async def load_device(device: AsyncDevice) -> AuthState:
    """The auth state of a device that is open, such as one that a fleet hands out.

    :raises ImportError: if waeys is not installed.
    :raises NotHeld: if it holds the sessions of another client in that client's own encoding.
    """
    _client("Signal.libsignal")
    await check_ratchets(device, lambda key, held: from_record(*key, held, device.url))
    return AuthState(device)
