"""A bot that answers "ping" with "pong", on waeys; its state is in ratchetkeep.

    pip install 'ratchetkeep[waeys]'
    python examples/waeys_bot.py bot.db

Link it as any companion device: show the text that it prints as a QR code to the phone, or start it
with --phone and type the code that it prints. Started again, it goes on where it was, even after a
crash.
"""

from __future__ import annotations

import argparse
import asyncio
from importlib import import_module
from typing import Any

from ratchetkeep.clients.waeys import AuthState, load

RETRY_SECONDS = 5


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


async def answer(sock: dict[str, Any], message: dict[str, Any]) -> None:
    """Answer one message. What is sent is durable before it leaves: nothing to do about it here."""
    if text_of(message).strip().lower() == "ping" and not message["key"]["fromMe"]:
        await sock["sendMessage"](message["key"]["remoteJid"], {"text": "pong"})


async def connect_once(auth: AuthState, phone: str | None) -> int | None:
    """Serve until the connection ends; the status code of its end."""
    defaults = import_module("WAeys.Defaults.index")
    make_socket = import_module("WAeys.Socket.socket").make_socket
    ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
    tasks: set[asyncio.Task[None]] = set()

    def on_connection(update: dict[str, Any]) -> None:
        if update.get("qr") and phone is None:
            print("Show this to WhatsApp > Linked devices, as a QR code:", update["qr"], sep="\n")
        if update.get("connection") == "open":
            print("connected", flush=True)
        if update.get("connection") == "close" and not ended.done():
            error = (update.get("lastDisconnect") or {}).get("error")
            ended.set_result(getattr(error, "statusCode", None))

    def on_messages(upsert: dict[str, Any]) -> None:
        for message in upsert["messages"] if upsert["type"] == "notify" else []:
            task = asyncio.ensure_future(answer(sock, message))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def pair() -> None:
        print("Type this code into the phone:", await sock["requestPairingCode"](phone), flush=True)

    config = auth.configure(defaults.default_connection_config())
    config["logger"] = Quiet()
    sock = make_socket(config)
    auth.attach(sock)
    sock["ev"].on("connection.update", on_connection)
    sock["ev"].on("messages.upsert", on_messages)
    if phone is not None and not auth["creds"].get("me"):
        tasks.add(asyncio.ensure_future(pair()))
    return await ended


async def main() -> None:
    """Open the device and serve, again and again, until the phone unlinks it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", help="where the device is kept, such as bot.db")
    parser.add_argument("--phone", help="pair by a code for this number (digits only)")
    arguments = parser.parse_args()
    async with await load(arguments.store) as auth:
        logged_out = import_module("WAeys.Types.index").DisconnectReason.loggedOut
        while await connect_once(auth, arguments.phone) != logged_out:
            await asyncio.sleep(RETRY_SECONDS)
        print("The phone has unlinked this device.")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        print("stopped")
