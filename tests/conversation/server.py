"""The server of the conversation: it keeps every ciphertext until its recipient acknowledges it.

It listens on a Unix socket, for lines of JSON. A device has two connections: on the one it asks
what to send, on the other it takes in what was sent to it, both at the same time.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from .course import PEER, Course, Item, Task, as_bytes
from .ledger import Identity, Ledger

LONGEST_LINE = 1 << 22
START = "start"
OVERTAKING, FURTHEST = 0.25, 3

Request = dict[str, Any]


class Server:
    """Queues, sockets and the course of one conversation.

    ``on_event`` is called with a device and what it just did (``hello``, ``task``, ``sent``,
    ``upload``, ``receive``, ``ack``), before the device is answered.
    """

    def __init__(self, rng: random.Random, *, group_share: float) -> None:
        self.rng = rng
        self.ledger = Ledger()
        self.queues: dict[str, list[Item]] = {device: [] for device in PEER}
        self.course = Course(rng, self.ledger, self.queues, group_share)
        self.is_closing = False
        self.busy: dict[str, dict[object, float]] = {device: {} for device in PEER}
        """What each device does by itself now, by the time when it began: its start, or a
        connection that was answered and has not asked again."""
        self.on_event: Callable[[str, str], None] = lambda device, event: None
        self._at_work: dict[str, Task] = {}
        self._open: dict[str, set[asyncio.Task[None]]] = defaultdict(set)
        self._dead: set[str] = set()
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

    def expect(self, device: str) -> None:
        """A process was started: it must come here."""
        self.busy[device][START] = time.monotonic()

    async def gone(self, device: str) -> None:
        """Wait until all that a dead device had sent is read; what it was doing is given up."""
        self._dead.add(device)
        self._change()
        while self._open[device]:
            await asyncio.wait(self._open[device])
        self._dead.discard(device)
        self.busy[device].clear()
        self._at_work.pop(device, None)
        self.course.gave_up(device)
        self._change()

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
        try:
            device = json.loads(await reader.readline())["device"]
            self._open[device].add(this)
            await self._serve_lane(device, this, reader, writer)
        except (ConnectionError, json.JSONDecodeError):
            pass  # killed in the middle of a line
        finally:
            for device in PEER:
                self.busy[device].pop(this, None)
                self._open[device].discard(this)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve_lane(
        self,
        device: str,
        lane: object,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        while (line := await reader.readline()).endswith(b"\n"):
            self.busy[device].pop(lane, None)
            answer = await self._answer(device, json.loads(line))
            writer.write(json.dumps(answer).encode() + b"\n")
            self.busy[device][lane] = time.monotonic()

    async def _answer(self, device: str, request: Request) -> Task:
        handler: Callable[[str, Request], Awaitable[Task]] = getattr(self, f"_{request['op']}")
        answer = await handler(device, request)
        self._change()
        self.on_event(device, request["op"])
        return answer

    async def _wait_for(self, device: str, find: Callable[[], Task | None]) -> Task:
        while True:
            if self.is_closing or device in self._dead:
                return {"do": "close"}
            task = find()
            if task is not None:
                return task
            await self.changed()

    async def _hello(self, device: str, request: Request) -> Task:
        self.busy[device].pop(START, None)
        identity = request["identity"]
        self.ledger.saw_identity(
            device,
            Identity(
                identity["registration_id"],
                as_bytes(identity["identity_key"]),
                identity["signed_pre_key_id"],
                as_bytes(identity["signed_pre_key"]),
                as_bytes(identity["signature"]),
            ),
        )
        self.ledger.saw_stock(device, set(request["pre_keys"]))
        self.ledger.counts["starts"] += 1
        return {}

    async def _task(self, device: str, request: Request) -> Task:
        task = await self._wait_for(device, lambda: self.course.task_for(device))
        self._at_work[device] = task
        return task

    async def _upload(self, device: str, request: Request) -> Task:
        keys = {int(id): as_bytes(public) for id, public in request["keys"].items()}
        self.ledger.saw_upload(device, keys)
        return {}

    async def _sent(self, device: str, request: Request) -> Task:
        task = self._at_work.pop(device)
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

    async def _receive(self, device: str, request: Request) -> Task:
        return await self._wait_for(device, lambda: self._next_item(device))

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

    async def _ack(self, device: str, request: Request) -> Task:
        item = self._taken(device, request["id"])
        self.ledger.counts[f"taken in {request['how']}"] += 1
        self.ledger.delivered(device, item.kind, item.body, is_acknowledged=True)
        self.course.acknowledged(device, item)
        return {}

    async def _undecryptable(self, device: str, request: Request) -> Task:
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
