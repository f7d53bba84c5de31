"""A bot that answers "ping" with "pong", on waeys; its state is in ratchetkeep.

    pip install '.[waeys]'          (in a checkout of ratchetkeep)
    python examples/waeys_bot.py bot.db

Link it as any companion device: show the text that it prints as a QR code to the phone, or start it
with --phone and type the code that it prints. Ctrl-C stops it. Started again, it goes on where it
was, even after a crash.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Coroutine
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ratchetkeep.clients.waeys import AuthState

RETRY_SECONDS = 5
CLOSE_SECONDS = 2


def say(*words: object) -> None:
    """Print at once, also into a pipe."""
    print(*words, flush=True)


class Quiet:
    """A logger as waeys calls it. Its own prints every step, whatever the level."""

    level = "silent"

    def child(self, _fields: Any) -> Quiet:
        """Itself."""
        return self

    def trace(self, *_message: Any) -> None:
        """Nothing."""

    debug = info = warn = error = trace


def text_of(message: dict[str, Any]) -> str:
    """The text of a message, or an empty one."""
    content = message.get("message") or {}
    extended = content.get("extendedTextMessage") or {}
    return str(content.get("conversation") or extended.get("text") or "")


class Connection:
    """One connection, from its socket to its end.

    :ivar ended: why it ended, once it has.
    """

    def __init__(self, auth: AuthState, phone: str | None) -> None:
        defaults = import_module("WAeys.Defaults.index")
        make_socket = import_module("WAeys.Socket.socket").make_socket
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._auth, self._phone = auth, phone
        self._others = asyncio.all_tasks()
        self._tasks: set[asyncio.Task[None]] = set()
        config = auth.configure(defaults.default_connection_config())
        config["logger"] = Quiet()
        self._sock = make_socket(config)
        auth.attach(self._sock)
        self._sock["ev"].on("connection.update", self.on_update)
        self._sock["ev"].on("messages.upsert", self.on_messages)
        if phone is not None and not auth["creds"].get("me"):
            self.start(self.pair(phone))

    def on_update(self, update: dict[str, Any]) -> None:
        """Show the pairing code, and how the connection is."""
        if update.get("qr") and self._phone is None:
            say("Show this to WhatsApp > Linked devices, as a QR code:\n" + update["qr"])
        if update.get("connection") == "open":
            say("connected")
        if update.get("connection") == "close" and not self.ended.done():
            self.ended.set_result((update.get("lastDisconnect") or {}).get("error"))

    def on_messages(self, upsert: dict[str, Any]) -> None:
        """Answer pings, each in a task of its own."""
        for message in upsert["messages"] if upsert["type"] == "notify" else []:
            if text_of(message).strip().lower() == "ping" and not message["key"]["fromMe"]:
                self.start(self.answer(message["key"]["remoteJid"]))

    async def answer(self, chat: str) -> None:
        """Say pong. When waeys sends it, the session that made it is on the disk."""
        await self._sock["sendMessage"](chat, {"text": "pong"})
        say("pong to", chat)

    async def pair(self, phone: str) -> None:
        """Ask for a pairing code."""
        say("Type this code into the phone:", await self._sock["requestPairingCode"](phone))

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` in a task."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self.on_done)

    def on_done(self, task: asyncio.Task[None]) -> None:
        """Say why a task failed, unless it is the end of the connection, which is said anyway."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.ended.done():
            say("failed:", error)

    async def close(self) -> None:
        """End the socket, and what waeys has left running. A silent server is not waited for."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._sock["end"]()
        while left := asyncio.all_tasks() - self._others:
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        await self._auth.save_creds()  # one of these tasks may have been about to


async def open_auth(store: str) -> AuthState:
    """The device in ``store``, new if there is none: said, so that a mistyped path is noticed."""
    from ratchetkeep import NoDevice
    from ratchetkeep.clients.waeys import load

    try:
        return await load(store, create=False)
    except NoDevice:
        auth = await load(store)
        say("made a new device at", auth.device.url)
        return auth


async def run(store: str, phone: str | None) -> None:
    """Open the device and serve, again and again, until the phone unlinks it."""
    async with await open_auth(store) as auth:
        logged_out = import_module("WAeys.Types.index").DisconnectReason.loggedOut
        while True:
            connection = Connection(auth, phone)
            try:
                error = await connection.ended
            finally:
                await connection.close()
            if getattr(error, "statusCode", None) == logged_out:
                say("The phone has unlinked this device.")
                return
            say(f"connection lost: {error or 'closed'}; again in {RETRY_SECONDS} s")
            await asyncio.sleep(RETRY_SECONDS)


def main() -> None:
    """Read the command line and run the bot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", help="where the device is kept, such as bot.db; made if missing")
    parser.add_argument("--phone", help="pair by a code for this number (digits only)")
    arguments = parser.parse_args()
    try:
        # Imported here so that Ctrl-C is no traceback from the first moment on.
        from ratchetkeep import RatchetkeepError

        expected = (RatchetkeepError, ImportError, OSError)
        asyncio.run(run(arguments.store, arguments.phone))
    except KeyboardInterrupt:
        say("stopped")
        sys.exit(130)
    except expected as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
