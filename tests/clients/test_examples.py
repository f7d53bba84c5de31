"""The example bots as their user meets them: started as programs, without the network."""

from __future__ import annotations

import asyncio
import importlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyaileys.client import WhatsAppClient
from pyaileys.exceptions import TransportError
from pyaileys.socket import ConnectionUpdate
from websockets.utils import accept_key

from clients._sides import ALICE
from ratchetkeep import open_device

EXAMPLES = Path(__file__).parents[2] / "examples"
BOTS = {"pyaileys": "pyaileys", "waeys": "WAeys"}
both = pytest.mark.parametrize("name", BOTS)


PROGRAM = """
import runpy, signal, sys, websockets
# A shell starts background jobs with Ctrl-C ignored, and they hand that down.
signal.signal(signal.SIGINT, signal.default_int_handler)
missing, port, sys.argv = sys.argv[1], sys.argv[2], sys.argv[3:]
if missing:
    sys.modules[missing] = None
connect = websockets.connect
websockets.connect = lambda _url, **options: connect(f"ws://127.0.0.1:{port}", **options)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Server:
    """All that a bot reaches: it accepts the WebSocket, and then says nothing."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.settimeout(120)
        self.port = self.socket.getsockname()[1]

    def accept(self) -> socket.socket:
        """A connection on which the client has said its first words."""
        connection = self.socket.accept()[0]
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += connection.recv(4096)
        key = request.lower().index(b"sec-websocket-key: ") + len("sec-websocket-key: ")
        answer = accept_key(request[key : key + 24].decode())
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + answer.encode() + b"\r\n\r\n"
        )
        assert connection.recv(1)
        return connection


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that is silent, or gone once its socket is closed."""
    server = Server()
    with server.socket:
        yield server


def start(
    server: Server | None, name: str, *arguments: object, missing: str = ""
) -> subprocess.Popen[str]:
    """Start a bot that takes ``server`` for WhatsApp's, with the package ``missing`` missing."""
    bot = [EXAMPLES / f"{name}_bot.py", *arguments]
    port = 0 if server is None else server.port
    command = [sys.executable, "-c", PROGRAM, missing, str(port), *map(str, bot)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result_of(bot: subprocess.Popen[str]) -> tuple[int, str, str]:
    """How a bot ended: its exit code and what it printed."""
    out, err = bot.communicate(timeout=120)
    return bot.returncode, out, err


def assert_one_error(result: tuple[int, str, str], text: str) -> None:
    """Exit code 1 and one line, which names what is wrong."""
    code, _, err = result
    assert (code, err.count("\n"), err[:7]) == (1, 1, "error: "), err
    assert text in err


@both
def test_help_without_the_client(name: str) -> None:
    """Who has not installed the client would not learn what to install."""
    code, out, err = result_of(start(None, name, "--help", missing=BOTS[name]))
    assert (code, err) == (0, "")
    assert f"pip install '.[{name}]'" in out
    assert "bot.db" in out


@both
def test_without_the_client(name: str, tmp_path: Path) -> None:
    """Who has not installed the client would see a traceback, or leave a device behind."""
    bot = start(None, name, tmp_path / "bot.db", missing=BOTS[name])
    assert_one_error(result_of(bot), f"{name} is not installed")
    assert list(tmp_path.iterdir()) == []


@both
def test_places_that_hold_no_device(name: str, tmp_path: Path) -> None:
    """A wrong place would end in a traceback, or be taken for a new device."""
    (tmp_path / "empty.db").touch()
    (tmp_path / "text.db").write_text("not a database " * 99)
    (tmp_path / "file").touch()
    bots = {
        "no kind of store": start(None, name, "postgres:bot"),
        "empty file": start(None, name, tmp_path / "empty.db"),
        "not an SQLite database": start(None, name, tmp_path / "text.db"),
        "Not a directory": start(None, name, tmp_path / "file" / "bot.db"),
    }
    for text, bot in bots.items():
        assert_one_error(result_of(bot), text)


@both
def test_a_device_in_use(name: str, tmp_path: Path) -> None:
    """Started twice, a bot would show a traceback and not who has the device."""
    with open_device(tmp_path / "bot.db", create=True):
        assert_one_error(result_of(start(None, name, tmp_path / "bot.db")), "bot.db")


def test_a_folder_has_no_place_for_pyaileys(tmp_path: Path) -> None:
    """The refusal of a folder would be a traceback."""
    bot = start(None, "pyaileys", f"baileys:{tmp_path / 'bot'}")
    assert_one_error(result_of(bot), "has no place for pyaileys' sessions")


@both
def test_ctrl_c_while_the_server_is_silent(name: str, tmp_path: Path, server: Server) -> None:
    """Ctrl-C would be a traceback, or leave the device locked or its commits in a side file."""
    for is_new in (True, False):
        bot = start(server, name, tmp_path / "bot.db")
        with server.accept():
            bot.send_signal(signal.SIGINT)
            code, out, err = result_of(bot)
        assert (code, err) == (130, "")
        assert out.endswith("stopped\n")
        assert ("made a new device at sqlite:" in out) == is_new
        assert [path.name for path in tmp_path.iterdir()] == ["bot.db"]


def test_pyaileys_offline(tmp_path: Path, server: Server) -> None:
    """Without a network the bot would end in a traceback."""
    server.socket.close()
    assert_one_error(result_of(start(server, "pyaileys", tmp_path / "bot.db")), "failed to connect")
    assert [path.name for path in tmp_path.iterdir()] == ["bot.db"]


@pytest.mark.parametrize("phone", [(), ("--phone", "4915100000000")], ids=["code", "phone"])
def test_waeys_offline(phone: tuple[str, ...], tmp_path: Path, server: Server) -> None:
    """Without a network the bot would fall silent, or asyncio would report forgotten tasks."""
    server.socket.close()
    bot = start(server, "waeys", tmp_path / "bot.db", *phone)
    assert bot.stdout is not None
    assert bot.stdout.readline().startswith("made a new device at sqlite:")
    for _ in range(2):  # it tries again
        lost = bot.stdout.readline()
        assert lost.startswith("connection lost: ")
        assert lost.endswith("; again in 5 s\n")
    bot.send_signal(signal.SIGINT)
    assert result_of(bot) == (130, "stopped\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["bot.db"]


@pytest.mark.parametrize("phone", [(), ("--phone", "4915100000000")], ids=["code", "phone"])
def test_waeys_when_the_server_hangs_up(
    phone: tuple[str, ...], tmp_path: Path, server: Server
) -> None:
    """A lost connection would not be said, or leave tasks of the client behind."""
    bot = start(server, "waeys", tmp_path / "bot.db", *phone)
    assert bot.stdout is not None
    assert bot.stdout.readline().startswith("made a new device at sqlite:")
    server.accept().close()
    assert bot.stdout.readline().startswith("connection lost: ")
    with server.accept():
        bot.send_signal(signal.SIGINT)
        assert result_of(bot) == (130, "stopped\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["bot.db"]


def test_pyaileys_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bot would not answer a ping, would answer itself for ever, or hide a failed answer."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    bot: Any = importlib.import_module("pyaileys_bot")
    sent: list[tuple[str, str]] = []

    async def connect(client: WhatsAppClient) -> None:
        emit = client.socket.events.emit
        await emit("connection.update", ConnectionUpdate(connection="open", qr="1@code"))
        for text in ("Ping ", "pong", None, "ping"):
            message = {"text": text, "chat_jid": ALICE, "sender_jid": ALICE}
            await emit("message.decrypted", message)
        while len(sent) < 2:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        raise KeyboardInterrupt

    async def send_text(client: WhatsAppClient, jid: str, text: str) -> None:
        sent.append((jid, text))
        if len(sent) == 2:
            raise TransportError("gone")

    monkeypatch.setattr(WhatsAppClient, "connect", connect)
    monkeypatch.setattr(WhatsAppClient, "send_text", send_text)
    monkeypatch.setattr(sys, "argv", ["pyaileys_bot.py", str(tmp_path / "bot.db")])
    with pytest.raises(SystemExit) as ended:
        bot.main()
    assert ended.value.code == 130
    assert sent == [(ALICE, "pong")] * 2
    out = capsys.readouterr().out
    for line in ("connection: open", f"pong to {ALICE}", "not answered: gone", "stopped"):
        assert f"{line}\n" in out
    open_device(tmp_path / "bot.db").close()
