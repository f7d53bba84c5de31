"""A bot on pyaileys that answers "ping" with "pong", and keeps its state in ratchetkeep.

Run it with ``python examples/pyaileys_bot.py bot.db`` and scan the code with the phone (Linked
devices). It goes on where it was when it is started again, however it ended.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from importlib import import_module
from typing import Any

from pyaileys.client import WhatsAppClient
from pyaileys.socket import ConnectionUpdate

from ratchetkeep.clients.pyaileys import load


def show_code(text: str) -> None:
    """Draw the pairing code if the package qrcode is installed, or print its text."""
    try:
        code = import_module("qrcode").QRCode(border=1)
    except ImportError:
        print("Pairing code (pip install qrcode draws it):", text, sep="\n")
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
            print("connection:", update.connection)

    def on_message(self, message: dict[str, Any]) -> None:
        """Answer a ping. In a task of its own: the client is still busy with the message."""
        if (message["text"] or "").strip().lower() == "ping":
            answer = asyncio.create_task(self.answer(message["chat_jid"]))
            self._answers.add(answer)
            answer.add_done_callback(self._answers.discard)

    async def answer(self, chat: str) -> None:
        """Say pong. When the client sends it, the session that made it is on the disk."""
        await self._client.send_text(chat, "pong")
        print("pong to", chat)


async def run(url: str) -> None:
    """Connect, and answer until interrupted."""
    async with await load(url) as auth:
        client = WhatsAppClient(auth=auth)
        auth.attach(client)
        Bot(client)
        try:
            await client.connect()
            await asyncio.Event().wait()
        finally:
            await client.disconnect()


def main() -> None:
    """Read the command line and run the bot."""
    parser = argparse.ArgumentParser(description='Answers "ping" with "pong".')
    parser.add_argument("url", help="where the device is kept, such as bot.db; made if missing")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(parser.parse_args().url))


if __name__ == "__main__":
    main()
