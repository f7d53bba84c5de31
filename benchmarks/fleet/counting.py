"""Counts what goes to a PostgreSQL server: a proxy that looks at the messages of its clients."""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter
from contextlib import suppress
from types import TracebackType
from typing import Self

_HOST = "127.0.0.1"
_PORTION = 1 << 16
# The client waits for an answer after each of these: Query, and Sync at the end of a batch.
_WAITS = b"QS"
# These run something: Query and Execute.
_RUNS = b"QE"


class Messages:
    """Where messages begin in what a client sends."""

    def __init__(self) -> None:
        self._rest = b""
        # The first one, with the user and the database, has no letter.
        self._letters = 0

    def kinds(self, data: bytes) -> bytes:
        """The letters of the messages that end in the next portion."""
        self._rest += data
        found = bytearray()
        while len(self._rest) >= self._letters + 4:
            length = int.from_bytes(self._rest[self._letters : self._letters + 4], "big")
            end = self._letters + length
            if len(self._rest) < end:
                break
            found += self._rest[: self._letters]
            self._rest, self._letters = self._rest[end:], 1
        return bytes(found)


class Counting:
    """A proxy to the server of a URL, in threads of its own. Connections without TLS only."""

    def __init__(self, url: str) -> None:
        found = re.search(r"@[^/:]*:(\d+)/", url)
        if found is None:
            raise ValueError("the URL names no port")
        self._upstream = int(found[1])
        self._listener = socket.create_server((_HOST, 0))
        port = self._listener.getsockname()[1]
        self.url = f"{url[: found.start()]}@{_HOST}:{port}/{url[found.end() :]}"
        self._sockets: list[socket.socket] = [self._listener]
        self._kinds: Counter[int] = Counter()
        self._lock = threading.Lock()

    @property
    def trips(self) -> int:
        """How often a client waited for an answer."""
        return self._sum(_WAITS)

    @property
    def statements(self) -> int:
        """How many statements were run."""
        return self._sum(_RUNS)

    def _sum(self, kinds: bytes) -> int:
        with self._lock:
            return sum(self._kinds[kind] for kind in kinds)

    def __enter__(self) -> Self:
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each in self._sockets:
            _end(each)

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((_HOST, self._upstream))
                for each in (client, server):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets += [client, server]
                threading.Thread(target=self._requests, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answers, args=(server, client), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        messages = Messages()
        with suppress(OSError):
            while data := client.recv(_PORTION):
                # Before the server gets it: who has an answer finds it counted.
                with self._lock:
                    self._kinds.update(messages.kinds(data))
                server.sendall(data)
        _end(server)

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(_PORTION):
                client.sendall(data)
        _end(client)


def _end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
