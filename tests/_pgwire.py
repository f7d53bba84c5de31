"""As much of PostgreSQL's protocol as is needed to tell one message, and one batch, from the next.

A message is a byte for its type, four for its length (which counts itself) and the rest. The first
one of a client has no type. A batch is what a client sends until it waits for an answer: everything
up to Sync, or one simple Query; the server ends its answer with ReadyForQuery.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

READY = b"Z"
"""The type of the message that ends an answer."""

# A Flush asks for the answers so far, and the client may wait for them.
_ENDS = frozenset({b"S", b"Q", b"F", b"H"})
_ALONE = frozenset({b"p", b"X", b"d", b"c", b"f"})

# What a client may send instead of a startup message, and hears a single byte to.
ASKS_FOR_ENCRYPTION = frozenset({80877103, 80877104})


class Messages:
    """Cuts what comes in pieces into whole messages."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, data: bytes) -> Iterator[bytes]:
        """The messages that are whole now."""
        self._rest += data
        while len(self._rest) >= 5:
            end = 1 + struct.unpack_from("!I", self._rest, 1)[0]
            if len(self._rest) < end:
                return
            message, self._rest = self._rest[:end], self._rest[end:]
            yield message


class Batch:
    """What a client sends before it waits.

    :ivar data: its bytes.
    :ivar text: the statements that it runs, each with the bytes of its parameters behind it.
    :ivar is_answered: the server ends its answer with ReadyForQuery.
    """

    def __init__(self) -> None:
        self.data = b""
        self.text = b""
        self.is_answered = False


class Batches:
    """Puts the messages of one client together into batches.

    A client can name a statement once and run it by its name later, so they are kept by name.
    """

    def __init__(self) -> None:
        self._statements: dict[bytes, bytes] = {}
        self._batch = Batch()

    def add(self, message: bytes) -> Batch | None:
        """The batch that this message ends, if it ends one."""
        kind, body = message[:1], message[5:]
        self._batch.data += message
        if kind == b"P":
            name, statement, _ = body.split(b"\0", 2)
            self._statements[name] = statement
        elif kind == b"B":
            _, name, parameters = body.split(b"\0", 2)
            self._batch.text += self._statements.get(name, b"") + b"\n" + parameters + b"\n"
        elif kind == b"Q":
            self._batch.text += body.rstrip(b"\0") + b"\n"
        if kind not in _ENDS and kind not in _ALONE:
            return None
        batch, self._batch = self._batch, Batch()
        batch.is_answered = kind in (b"S", b"Q", b"F")
        return batch
