"""A device in a process of its own: it does what the server says, until it is killed.

Two lanes run at the same time on one device: one sends, one takes in. At points with a name the
process can be told to kill itself, which is the same SIGKILL as from outside, at a chosen moment.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .applog import Log
from .course import Task, as_bytes, as_text
from .engines import Engine, engine_class
from .server import LONGEST_LINE

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
"""Where a process can kill itself: after each of these steps."""


@dataclass
class Spec:
    """What a device needs to know: its name, its engine and place, the server's socket, its log,
    and how often each point may be reached before the process kills itself there."""

    device: str
    engine: str
    url: str
    socket: str
    log: str
    points: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


class Line:
    """One connection to the server: a question, an answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, spec: Spec) -> Line:
        """Connect, and say who is there."""
        line = cls(*await asyncio.open_unix_connection(spec.socket, limit=LONGEST_LINE))
        line._send({"device": spec.device})
        return line

    async def ask(self, op: str, **request: Any) -> Task:
        """The server's answer.

        :raises ConnectionError: if the server is gone.
        """
        self._send({"op": op, **request})
        await self._writer.drain()
        answer = await self._reader.readline()
        if not answer:
            raise ConnectionError("the server is gone")
        task: Task = json.loads(answer)
        return task

    def _send(self, message: dict[str, Any]) -> None:
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        await self._writer.wait_closed()


class Worker:
    """One life of a device."""

    def __init__(self, spec: Spec, log: Log) -> None:
        self._log = log
        self._points = dict(spec.points)
        self._by_hook: str | None = None

    async def open(self, name: str, url: str) -> Engine:
        """Open the device."""
        self._engine = await engine_class(name).open(url, self._keep)
        return self._engine

    def at(self, point: str) -> None:
        """A point is reached: the process may end here."""
        if point in self._points:
            self._points[point] -= 1
            if self._points[point] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    async def greet(self, line: Line) -> None:
        """Tell the server who this is and which one-time pre-keys it has."""
        identity = {
            name: as_text(value) if isinstance(value, bytes) else value
            for name, value in asdict(self._engine.identity()).items()
        }
        ids = sorted(await self._engine.pre_key_ids())
        self.at("opened")
        await line.ask("hello", identity=identity, pre_keys=ids)

    async def send_all(self, line: Line) -> None:
        """The lane that sends."""
        while (task := await line.ask("task"))["do"] != "close":
            if task["do"] == "upload":
                await self._upload(line, task)
                continue
            items = await self._items(task)
            self.at("encrypted")
            await line.ask("sent", items=[[kind, as_text(body)] for kind, body in items])
            self.at("sent")

    async def take_in_all(self, line: Line) -> None:
        """The lane that takes in."""
        while (item := await line.ask("receive"))["do"] != "close":
            if item["id"] in self._log.committed:
                await line.ask("ack", id=item["id"], how="known")
                continue
            await self._take_in(line, item)
            self.at("acknowledged")

    async def _items(self, task: Task) -> list[tuple[str, bytes]]:
        data = task["text"].encode()
        if task["do"] == "begin":
            await self._engine.begin(task["to"], task["bundle"], drop=task["drop"])
            self.at("begun")
        if "group" not in task:
            return [await self._engine.encrypt(task["to"], data)]
        return await self._group_items(task, data)

    async def _group_items(self, task: Task, data: bytes) -> list[tuple[str, bytes]]:
        body, key = await self._engine.encrypt_group(task["group"], task["me"], data)
        self.at("in group")
        if not task["distribute"]:
            return [("skmsg", body)]
        text = json.dumps({"group": task["group"], "key": as_text(key)})
        return [await self._engine.encrypt(task["to"], text.encode()), ("skmsg", body)]

    async def _upload(self, line: Line, task: Task) -> None:
        wanted, as_client = task["count"], task["as_client"]
        keys = await self._engine.pre_keys_to_upload(wanted, as_client=as_client)
        self.at("minted")
        await line.ask("upload", keys={str(id): as_text(key) for id, key in keys.items()})
        self.at("uploaded")
        await self._engine.uploaded(keys)

    async def _take_in(self, line: Line, item: Task) -> None:
        known = self._log.texts.get(item["id"])
        how = "new" if known is None else "redone"
        try:
            await self._decrypt_and_note(item)
        except Exception as error:  # noqa: BLE001 - a client has no common error
            if known is None:
                what = f"{type(error).__name__}: {error}"
                await line.ask("undecryptable", id=item["id"], error=what)
                return
            how = "known"  # it was committed, and the process died before it could note that
        self.at("committed")
        self._log.after(item["id"])
        self.at("logged")
        await line.ask("ack", id=item["id"], how=how)

    async def _decrypt_and_note(self, item: Task) -> None:
        """In one transaction: the one that decrypts, by the adapter's hook, or one around it."""
        if not item["by_hook"] or not self._engine.has_hook:
            async with self._engine.transaction(item["from"]):
                self._note(item["id"], await self._decrypt(item))
            return
        self._by_hook = item["id"]
        try:
            await self._decrypt(item)
        finally:
            self._by_hook = None

    async def _keep(self, data: bytes) -> None:
        """The adapter's hook: called inside the transaction that decrypts."""
        if self._by_hook is not None:
            self._note(self._by_hook, data.decode())

    def _note(self, id: str, text: str) -> None:
        self.at("decrypted")
        self._log.before(id, text)
        self.at("noted")

    async def _decrypt(self, item: Task) -> str:
        data, author = as_bytes(item["body"]), item["from"]
        if item["kind"] == "skmsg":
            return (await self._engine.decrypt_group(item["group"], author, data)).decode()
        text = (await self._engine.decrypt(author, item["kind"], data)).decode()
        if item["is_key"]:
            message = json.loads(text)
            await self._engine.take_sender_key(message["group"], author, as_bytes(message["key"]))
            return f"the key for {message['group']}"
        return text


def show_where() -> None:
    """Write to standard error what every task awaits, and where every thread is."""
    for task in asyncio.all_tasks():
        print(f"task {task.get_name()}", file=sys.stderr)  # noqa: T201 - for a person to read
        waiting: Any = task.get_coro()
        while (frame := getattr(waiting, "cr_frame", None)) is not None:
            code = frame.f_code
            where = f"{code.co_filename}:{frame.f_lineno} {code.co_qualname}"
            print(f"  {where}", file=sys.stderr)  # noqa: T201
            waiting = waiting.cr_await
    faulthandler.dump_traceback(all_threads=True)


async def live(spec: Spec) -> None:
    """One life: open, greet, both lanes until the server says to close."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, show_where)
    log = Log(Path(spec.log))
    worker = Worker(spec, log)
    engine = await worker.open(spec.engine, spec.url)
    sending, taking_in = await Line.open(spec), await Line.open(spec)
    await worker.greet(sending)
    async with asyncio.TaskGroup() as lanes:
        lanes.create_task(worker.send_all(sending))
        lanes.create_task(worker.take_in_all(taking_in))
    await sending.close()
    await taking_in.close()
    await engine.close()
    log.close()
