"""A bot that answers "ping" with "pong", on pyaileys; its state is in ratchetkeep.

    pip install '.[pyaileys]'       (in a checkout of ratchetkeep)
    python examples/pyaileys_bot.py bot.db

Scan the code that it shows with the phone (Linked devices). Ctrl-C stops it. Started again, it goes
on where it was, even after a crash.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyaileys.client import WhatsAppClient
    from pyaileys.socket import ConnectionUpdate

    from ratchetkeep.clients.pyaileys import AuthState

CLOSE_SECONDS = 2


def say(*words: object) -> None:
    """Print at once, also into a pipe."""
    print(*words, flush=True)


def show_code(text: str) -> None:
    """Draw the pairing code if the package qrcode is installed, or print its text."""
    try:
        code = import_module("qrcode").QRCode(border=1)
    except ImportError:
        say("Pairing code (pip install qrcode draws it):\n" + text)
        return
    code.add_data(text)
    code.print_ascii(invert=True)


class Bot:
    """The bot's answers to what the client tells."""

    def __init__(self, client: WhatsAppClient) -> None:
        self._client = client
        self._answers: set[asyncio.Task[None]] = set()
        client.on("connection.update", self.on_connection)
        client.on("message.decrypted", self.on_message)

    def on_connection(self, update: ConnectionUpdate) -> None:
        """Show the pairing code, and how the connection is."""
        if update.qr:
            show_code(update.qr)
        if update.connection:
            reason = f" ({update.last_disconnect})" if update.last_disconnect else ""
            say(f"connection: {update.connection}{reason}")

    def on_message(self, message: dict[str, Any]) -> None:
        """Answer a ping. In a task of its own: the client is still busy with the message."""
        if (message["text"] or "").strip().lower() == "ping":
            answer = asyncio.create_task(self.answer(message["chat_jid"]))
            self._answers.add(answer)
            answer.add_done_callback(self.on_answered)

    async def answer(self, chat: str) -> None:
        """Say pong. When the client sends it, the session that made it is on the disk."""
        await self._client.send_text(chat, "pong")
        say("pong to", chat)

    def on_answered(self, answer: asyncio.Task[None]) -> None:
        """Say why an answer was not sent."""
        self._answers.discard(answer)
        if not answer.cancelled() and (error := answer.exception()) is not None:
            say("not answered:", error)

    async def close(self) -> None:
        """Stop answering and disconnect. A server that does not answer is not waited for."""
        for answer in self._answers:
            answer.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._client.disconnect()


async def open_auth(store: str) -> AuthState:
    """The device in ``store``, new if there is none: said, so that a mistyped path is noticed."""
    from ratchetkeep import NoDevice
    from ratchetkeep.clients.pyaileys import load

    try:
        return await load(store, create=False)
    except NoDevice:
        auth = await load(store)
        say("made a new device at", auth.device.url)
        return auth


async def connect(client: WhatsAppClient) -> None:
    """Connect for the first time; later the client connects again by itself.

    :raises ConnectionError: if that fails.
    """
    from pyaileys.exceptions import PyaileysError

    try:
        await client.connect()
    except TimeoutError as error:
        raise ConnectionError("the server does not answer") from error
    except PyaileysError as error:
        raise ConnectionError(str(error)) from error


async def run(store: str) -> None:
    """Connect, and answer until interrupted."""
    async with await open_auth(store) as auth:
        from pyaileys.client import WhatsAppClient

        client = WhatsAppClient(auth=auth)
        auth.attach(client)
        bot = Bot(client)
        try:
            await connect(client)
            await asyncio.Event().wait()
        finally:
            await bot.close()


def main() -> None:
    """Read the command line and run the bot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", help="where the device is kept, such as bot.db; made if missing")
    arguments = parser.parse_args()
    try:
        # Imported here so that Ctrl-C is no traceback from the first moment on.
        from ratchetkeep import RatchetkeepError

        expected = (RatchetkeepError, ImportError, OSError)
        asyncio.run(run(arguments.store))
    except KeyboardInterrupt:
        say("stopped")
        sys.exit(130)
    except expected as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
