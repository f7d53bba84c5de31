"""The server of the conversation: it keeps every ciphertext until its recipient acknowledges it.

It listens on a Unix socket, for lines of JSON. A device has two connections: on the one it asks
what to send, on the other it takes in what was sent to it, both at the same time.

A device may have several workers at a time, of which one is to own it. The newest one that has
greeted replaces all before it, as a real server does with connections: whatever they ask then, they
are told so, and what they do is not done. A message that comes from one of them is looked at all
the same, and arrives late where the protocol can still read it: it may have been on its way.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from .course import PEER, Course, Item, Task, as_bytes
from .ledger import Identity, Ledger
from .lives import START, Life, Lives

LONGEST_LINE = 1 << 22
CLOSE, REPLACED = "close", "replaced"
OVERTAKING, FURTHEST = 0.25, 3

Request = dict[str, Any]
Handler = Callable[[Life, Request], Awaitable[Task]]


class Server:
    """Queues, sockets and the course of one conversation.

    ``on_event`` is called with a worker and what it just did (``hello``, ``task``, ``sent``,
    ``upload``, ``receive``, ``ack``, ``sleep``), before it is answered.
    """

    def __init__(self, rng: random.Random, *, group_share: float) -> None:
        self.rng = rng
        self.ledger = Ledger()
        self.queues: dict[str, list[Item]] = {device: [] for device in PEER}
        self.course = Course(rng, self.ledger, self.queues, group_share)
        self.lives = Lives()
        self.is_closing = False
        self.on_event: Callable[[Life, str], None] = lambda life, event: None
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def start(self, path: Path) -> None:
        """Listen at a path."""
        self._server = await asyncio.start_unix_server(self._serve, path, limit=LONGEST_LINE)

    async def stop(self) -> None:
        """Listen no more; every device must be gone."""
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def gone(self, life: Life) -> None:
        """Wait until all that a dead worker had sent is read; what it was doing is given up."""
        life.is_dead = True
        self._change()
        while life.lanes:
            await asyncio.wait(life.lanes)
        self.lives.forget(life)
        self._give_up(life)
        self._change()

    def _give_up(self, life: Life) -> None:
        if life.is_at_work:
            life.is_at_work = False
            self.course.gave_up(life.device)

    def close_devices(self) -> None:
        """Tell every device to close, as soon as it asks."""
        self.is_closing = True
        self._change()

    def changed(self) -> Awaitable[object]:
        """To await: that something has happened since this call."""
        return self._changed.wait()

    def _change(self) -> None:
        # Those who wait hold the event that is set; the next ones get a new one.
        self._changed.set()
        self._changed = asyncio.Event()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        this = asyncio.current_task()
        assert this is not None
        life: Life | None = None
        try:
            life = self.lives.of(**json.loads(await reader.readline()))
            life.lanes.add(this)
            await self._serve_lane(life, this, reader, writer)
        except (ConnectionError, json.JSONDecodeError):
            pass  # killed in the middle of a line
        finally:
            if life is not None:
                life.busy.pop(this, None)
                life.lanes.discard(this)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve_lane(
        self,
        life: Life,
        lane: object,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        while (line := await reader.readline()).endswith(b"\n"):
            life.busy.pop(lane, None)
            answer = await self._answer(life, json.loads(line))
            writer.write(json.dumps(answer).encode() + b"\n")
            life.busy[lane] = time.monotonic()

    async def _answer(self, life: Life, request: Request) -> Task:
        if request["op"] == "hello":
            life.busy.pop(START, None)
        prefix = "_late" if life.replaced.is_set() else ""
        handler: Handler = getattr(self, f"{prefix}_{request['op']}", self._tell_replaced)
        answer = await handler(life, request)
        self._change()
        self.on_event(life, request["op"])
        return answer

    async def _wait_for(self, life: Life, find: Callable[[], Task | None]) -> Task:
        while True:
            if life.replaced.is_set():
                return {"do": REPLACED}
            if self.is_closing or life.is_dead:
                return {"do": CLOSE}
            task = find()
            if task is not None:
                return task
            await self.changed()

    # -- what any worker says

    async def _sleep(self, life: Life, request: Request) -> Task:
        """It is about to fall asleep; it must not if nobody will wake it."""
        return {"do": "sleep"} if life.may_sleep else {}

    async def _bye(self, life: Life, request: Request) -> Task:
        """It ends, because it has lost its device or its store."""
        life.ends = request["ends"]
        life.seen.update(request["seen"])
        return {}

    # -- what one says that was replaced

    async def _tell_replaced(self, life: Life, request: Request) -> Task:
        return {"do": REPLACED}

    _late_sleep, _late_bye = _sleep, _bye

    async def _late_sent(self, life: Life, request: Request) -> Task:
        device, task = life.device, life.task
        items = [(kind, as_bytes(text)) for kind, text in request["items"]]
        is_readable = (
            not self.is_closing
            and self.course.may_come_late(device, task, life.session)
            and all(self.ledger.is_of_late(device, kind, body) for kind, body in items)
        )
        self.ledger.counts["late"] += 1
        for kind, body in items:
            self.ledger.saw_ciphertext(device, PEER[device], kind, body)
            if is_readable:
                id = f"{task['id']} late {life.number}"
                item = Item(id, device, kind, body, group=task.get("group"))
                self.queues[PEER[device]].append(item)
                self.ledger.texts[PEER[device]][id] = task["text"]
                self.ledger.counts["late and read"] += 1
        return {"do": REPLACED}

    async def _late_upload(self, life: Life, request: Request) -> Task:
        self.ledger.saw_pre_keys(life.device, _public_keys(request))
        return {"do": REPLACED}

    async def _late_undecryptable(self, life: Life, request: Request) -> Task:
        """A worker that is not the owner any more must learn that from its store, and not try
        messages on a state of which one half is its own and one half the new owner's."""
        what = f"{request['id']} at a former worker of {life.device}: {request['error']}"
        self.ledger.breach("undecryptable", what)
        return {"do": REPLACED}

    # -- what the one says that owns the device

    async def _hello(self, life: Life, request: Request) -> Task:
        for former in self.lives.greeted(life):
            self._give_up(former)
        identity = request["identity"]
        self.ledger.saw_identity(
            life.device,
            Identity(
                identity["registration_id"],
                as_bytes(identity["identity_key"]),
                identity["signed_pre_key_id"],
                as_bytes(identity["signed_pre_key"]),
                as_bytes(identity["signature"]),
            ),
        )
        self.ledger.saw_stock(life.device, set(request["pre_keys"]))
        self.ledger.counts["starts"] += 1
        return {}

    async def _task(self, life: Life, request: Request) -> Task:
        task = await self._wait_for(life, lambda: self.course.task_for(life.device))
        life.task, life.session = task, self.course.sessions
        life.is_at_work = task["do"] in ("send", "begin")
        return task

    async def _upload(self, life: Life, request: Request) -> Task:
        self.ledger.saw_upload(life.device, _public_keys(request))
        return {}

    async def _sent(self, life: Life, request: Request) -> Task:
        device, task = life.device, life.task
        life.is_at_work = False
        peer = PEER[device]
        group = task.get("group")
        for kind, text in request["items"]:
            body = as_bytes(text)
            self.ledger.saw_ciphertext(device, peer, kind, body)
            if group is not None and kind != "skmsg":
                id = f"{task['id']} key"
                self.queues[peer].append(Item(id, device, kind, body, distributes=group))
                self.ledger.texts[peer][id] = f"the key for {group}"
            else:
                self.queues[peer].append(Item(task["id"], device, kind, body, group=group))
        self.ledger.texts[peer][task["id"]] = task["text"]
        self.ledger.counts["messages"] += 1
        self.course.sent(device, task)
        return {}

    async def _receive(self, life: Life, request: Request) -> Task:
        return await self._wait_for(life, lambda: self._next_item(life.device))

    def _next_item(self, device: str) -> Task | None:
        queue = self.queues[device]
        if not queue:
            return None
        at = self._place(queue) if self.rng.random() < OVERTAKING else 0
        for overtaken in queue[:at]:
            overtaken.overtaken += 1
        item = queue[at]
        item.deliveries += 1
        self.ledger.counts["redelivered"] += item.deliveries > 1
        self.ledger.counts["out of order"] += at > 0
        self.ledger.delivered(device, item.kind, item.body, is_acknowledged=False)
        by_hook = not item.is_key and self.rng.random() < 0.5
        return item.as_task() | {"by_hook": by_hook}

    def _place(self, queue: list[Item]) -> int:
        """The place in the queue of something that may overtake all before it."""
        wanted = self.rng.randint(1, FURTHEST)
        for at in range(min(wanted, len(queue) - 1), 0, -1):
            if not any(self._must_stay(before, queue[at]) for before in queue[:at]):
                return at
        return 0

    def _must_stay(self, before: Item, item: Item) -> bool:
        if before.overtaken >= FURTHEST:
            return True
        return item.group is not None and before.distributes == item.group

    async def _ack(self, life: Life, request: Request) -> Task:
        device = life.device
        item = self._taken(device, request["id"])
        self.ledger.counts[f"taken in {request['how']}"] += 1
        self.ledger.delivered(device, item.kind, item.body, is_acknowledged=True)
        self.course.acknowledged(device, item)
        return {}

    async def _undecryptable(self, life: Life, request: Request) -> Task:
        device = life.device
        item = self._taken(device, request["id"])
        what = f"{item.id} ({item.kind}) at {device}, delivery {item.deliveries}"
        self.ledger.breach("undecryptable", f"{what}: {request['error']}")
        self.course.acknowledged(device, item)
        return {}

    def _taken(self, device: str, id: str) -> Item:
        queue = self.queues[device]
        item = next(item for item in queue if item.id == id)
        queue.remove(item)
        return item


def _public_keys(request: Request) -> dict[int, bytes]:
    return {int(id): as_bytes(public) for id, public in request["keys"].items()}
