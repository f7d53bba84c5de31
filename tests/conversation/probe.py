"""What a worker's process is told, and the places inside of it where it dies or falls asleep."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from unittest.mock import patch
from uuid import UUID

from ratchetkeep.stores import _postgres_leases as leases
from ratchetkeep.stores import _postgres_rows as rows
from ratchetkeep.stores._postgres_applying import Applying
from ratchetkeep.stores._postgres_driver import Connection

POINTS = (
    "opened",
    "begun",
    "encrypted",
    "in group",
    "sent",
    "decrypted",
    "noted",
    "committed",
    "logged",
    "acknowledged",
    "minted",
    "uploaded",
)
"""Where a process can kill itself or fall asleep: after each of these steps."""

STORE_POINTS = ("writing", "written")
"""Two more in a database: before a commit is sent to it, and when it has answered but nobody knows
yet."""

LONGEST_ANSWER = 100
FENCED, SETTLED, LANDED = "fenced", "settled", "landed"
"""What is counted: commits that the database refused by their epoch; those of which the worker had
to find out then, or after a connection was lost, what became of them; and those that the worker
sent after it had slept at a point, and that were stored."""


@dataclass
class Spec:
    """What a device needs to know: its name and which of its workers this is, its engine and place,
    the server's socket, its log, and how often each point may be reached before the process kills
    itself there; or ``sleeps`` there, until it is woken.

    ``lease``: the seconds of the store's lease, 0 if it has none. ``steals``: take the device from
    whoever has it.
    """

    device: str
    life: int
    engine: str
    url: str
    socket: str
    log: str
    points: dict[str, int] = field(default_factory=dict)
    sleeps: bool = False
    lease: float = 0.0
    steals: bool = False

    def as_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


class Probe:
    """One worker's points.

    :ivar seen: what the store did.
    """

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._points = dict(spec.points)
        self._has_slept = False
        self.seen: Counter[str] = Counter()
        if spec.lease:
            self._watch_database()

    def at(self, point: str) -> None:
        """A point is reached: the process may end here, or sleep."""
        if point not in self._points:
            return
        self._points[point] -= 1
        if self._points[point] >= 0:
            return
        if self._spec.sleeps:
            del self._points[point]
            if self._may_sleep():
                # To this thread: it would go on until another one has taken the signal.
                signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
                self._has_slept = True
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    def _may_sleep(self) -> bool:
        """Tell the server: nobody else is told when a process falls asleep by itself. Without
        asyncio, as this may be any thread."""
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(self._spec.socket)
            who = {"device": self._spec.device, "life": self._spec.life}
            line.sendall(json.dumps(who).encode() + b'\n{"op": "sleep"}\n')
            return bool(json.loads(line.recv(LONGEST_ANSWER)).get("do"))

    def _watch_database(self) -> None:
        """Points around what is written, as the process is this worker's alone."""
        write, settle, carry_out = rows.write, leases.settle, Applying._write

        def counted_write(connection: Connection, writes: Sequence[rows.Write]) -> set[UUID]:
            has_slept = self._has_slept
            landed = write(connection, writes)
            self.seen[FENCED] += len(writes) - len(landed)
            self.seen[LANDED] += len(landed) if has_slept else 0
            return landed

        def counted_settle(
            connection: Connection, owner: UUID, ids: Sequence[UUID]
        ) -> dict[UUID, leases.Settled]:
            self.seen[SETTLED] += len(ids)
            return settle(connection, owner, ids)

        def watched(applying: Applying) -> None:
            self.at("writing")
            carry_out(applying)
            self.at("written")

        patch.object(rows, "write", counted_write).start()
        patch.object(leases, "settle", counted_settle).start()
        patch.object(Applying, "_write", watched).start()
