"""What is said next, by whom, and when a new session is begun.

A new session replaces the old one in one of the clients at once: pyaileys keeps no former session,
and WAeys harms the other sessions of a record while it tries them on a message. So the course lets
all messages arrive before one side begins a new session, and lets the other side speak again when
it has acknowledged the first message of that session. Kills go on all the time.
"""

from __future__ import annotations

import base64
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .ledger import Ledger

A, B = "a", "b"
PEER = {A: B, B: A}
JID = {A: "15550100001:3@s.whatsapp.net", B: "15550100002:7@s.whatsapp.net"}

LOW_STOCK, BATCH = 3, 6
MOST_WAITING = 24
MESSAGES_A_GROUP = 30

Phase = Literal["quiet", "begin", "settle", "talk"]
Task = dict[str, Any]


def as_text(data: bytes) -> str:
    """Bytes as they stand in a message between a device and the server."""
    return base64.b64encode(data).decode()


def as_bytes(text: str) -> bytes:
    """The way back."""
    return base64.b64decode(text)


@dataclass
class Item:
    """One ciphertext on its way. ``distributes`` is the group whose sender key it brings,
    ``group`` the one that it was sent to."""

    id: str
    sender: str
    kind: str
    body: bytes
    group: str | None = None
    distributes: str | None = None
    overtaken: int = 0
    deliveries: int = 0

    def as_task(self) -> Task:
        """What its recipient is told."""
        task = {"do": "deliver", "id": self.id, "kind": self.kind, "body": as_text(self.body)}
        return task | {"from": JID[self.sender], "group": self.group, "is_key": self.is_key}

    @property
    def is_key(self) -> bool:
        """Whether it brings a sender key, and no text."""
        return self.distributes is not None


@dataclass
class Course:
    """The order of the conversation; ``rng`` decides, ``queues`` are the server's."""

    rng: random.Random
    ledger: Ledger
    queues: Mapping[str, list[Item]]
    group_share: float = 0.3
    phase: Phase = "begin"
    beginner: str = A
    sessions: int = 0
    _is_final: bool = False
    _left: Counter[str] = field(default_factory=Counter)
    _until_session: int = 0
    _numbers: Counter[str] = field(default_factory=Counter)
    _group_numbers: Counter[str] = field(default_factory=Counter)
    _unfinished: dict[str, Task] = field(default_factory=dict)
    _at_work: set[str] = field(default_factory=set)
    _distributed: set[tuple[str, str]] = field(default_factory=set)

    def finish(self, messages: int) -> None:
        """Say so many more on each side, and begin no more sessions."""
        self._is_final = True
        self._left = Counter(dict.fromkeys(PEER, messages))

    def is_finished(self) -> bool:
        """Whether all is said and has arrived."""
        return self._is_final and self._left.total() == 0 and self._is_quiet()

    def task_for(self, device: str) -> Task | None:
        """What a device should do now; None while it has to wait."""
        if self.ledger.stock(device) < LOW_STOCK:
            return {"do": "upload", "count": BATCH, "as_client": self.rng.random() < 0.5}
        if self.phase == "quiet" and self._is_quiet():
            self.phase = "begin"
        task = self._saying(device) if self._may_speak(device) else None
        if task is not None:
            self._at_work.add(device)
        return task

    def gave_up(self, device: str) -> None:
        """A device was killed: what it was told to send may be told again."""
        self._at_work.discard(device)

    def sent(self, device: str, task: Task) -> None:
        """The server has what the task asked for."""
        self._at_work.discard(device)
        self._unfinished.pop(device, None)
        if task["do"] == "begin":
            self.phase = "settle"
            self.sessions += 1
        if task.get("distribute"):
            self._distributed.add((device, task["group"]))
        self._until_session -= 1
        if self._is_final:
            self._left[device] = max(0, self._left[device] - 1)
        elif self.phase == "talk" and self._until_session <= 0:
            self.phase, self.beginner = "quiet", self.rng.choice([A, B])

    def acknowledged(self, device: str, item: Item) -> None:
        """A device has taken a message in, and said so."""
        if self.phase == "settle" and device != self.beginner and item.kind == "pkmsg":
            self.phase = "talk"
            self._until_session = self.rng.randint(6, 30)

    def may_come_late(self, device: str, task: Task, session: int) -> bool:
        """Whether what a device was told to send, in session number ``session``, can still be read
        when it comes from a worker that was replaced: not if it begins a session or a group, which
        was begun anew since, and not in another session."""
        if session != self.sessions or self.phase not in ("talk", "quiet"):
            return False
        group = task.get("group")
        is_known = group is None or (device, group) in self._distributed
        return task.get("do") == "send" and not task.get("distribute") and is_known

    def _is_quiet(self) -> bool:
        return not self._at_work and not any(self.queues.values())

    def _may_speak(self, device: str) -> bool:
        if self._is_final and self._left[device] == 0:
            return False
        if len(self.queues[PEER[device]]) >= MOST_WAITING:
            return False
        return self.phase == "talk" or (self.phase != "quiet" and device == self.beginner)

    def _saying(self, device: str) -> Task | None:
        task = self._unfinished.get(device) or self._new_message(device)
        self._unfinished[device] = task
        if self.phase != "begin":
            return task
        # A bundle that a killed device had is lost, as with the real server: here is the next one.
        bundle = self._bundle(PEER[device])
        if bundle is None:
            return None
        kept = {name: task[name] for name in ("id", "to", "me", "text")}
        return kept | {"do": "begin", "bundle": bundle, "drop": self.rng.random() < 0.5}

    def _new_message(self, device: str) -> Task:
        self._numbers[device] += 1
        id = f"{device}{self._numbers[device]}"
        length = self.rng.choices([0, 8, 40, 300], weights=[2, 10, 7, 1])[0]
        text = f"{id} " + "".join(self.rng.choices("abcdefgh \N{SNOWMAN}", k=length))
        task = {"do": "send", "id": id, "to": JID[PEER[device]], "me": JID[device], "text": text}
        is_last = self._is_final and self._left[device] == 1  # the end of every course has groups
        is_group = is_last or self.rng.random() < self.group_share
        if self.phase == "begin" or not is_group:
            return task
        self._group_numbers[device] += 1
        group = f"1203630{self._group_numbers[device] // MESSAGES_A_GROUP:04}@g.us"
        is_new = (device, group) not in self._distributed
        return task | {"group": group, "distribute": is_new}

    def _bundle(self, device: str) -> dict[str, Any] | None:
        identity = self.ledger.identities.get(device)
        pre_key = self.ledger.hand_out(device) if identity is not None else None
        if identity is None or pre_key is None:
            return None
        return {
            "registration_id": identity.registration_id,
            "identity_key": as_text(identity.identity_key),
            "signed_pre_key_id": identity.signed_pre_key_id,
            "signed_pre_key": as_text(identity.signed_pre_key),
            "signature": as_text(identity.signature),
            "pre_key_id": pre_key[0],
            "pre_key": as_text(pre_key[1]),
        }
