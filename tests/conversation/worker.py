"""A worker of a device, in a process of its own: it does what the server says, until it is killed.

Two lanes run at the same time on one device: one sends, one takes in. At points with a name the
process can be told to kill itself, which is the same SIGKILL as from outside, at a chosen moment;
or to sleep there, for as long as another worker needs to take the device over.

A worker whose device is another one's by now ends its connection, as :meth:`Device.on_lost` says.
What a lane was doing then it tries to finish: the store must refuse it.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import signal
import sys
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ratchetkeep import open_async_device
from ratchetkeep.errors import (
    CommitFailed,
    OwnershipLost,
    RatchetkeepError,
    StoreClosed,
    StoreInUse,
    StoreUnreadable,
)

from .applog import Log
from .course import Task, as_bytes, as_text
from .engines import Engine, engine_class
from .probe import Probe, Spec
from .server import CLOSE, LONGEST_LINE, REPLACED

GAVE_UP = 3
"""The exit code of a worker that has lost its device or its store."""
REFUSED, FAILED, TOLD = "refused", "failed", "told"
"""How a lane ends, beside what the server says: the store says that the device is another owner's;
it failed, and must be opened again; the other lane has ended, or the device was told lost."""
ENDING = (CommitFailed, OwnershipLost, StoreClosed, StoreUnreadable)
"""Errors of a store that has to be opened again."""
PAUSE = 0.05


class Line:
    """One connection to the server: a question, an answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, spec: Spec) -> Line:
        """Connect, and say who is there."""
        line = cls(*await asyncio.open_unix_connection(spec.socket, limit=LONGEST_LINE))
        line._send({"device": spec.device, "life": spec.life})
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

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._probe = Probe(spec)
        self._by_hook: str | None = None
        self._ending = asyncio.Event()
        self._told = asyncio.Event()
        self._log: Log
        self._engine: Engine

    # -- one life

    async def open(self) -> bool:
        """Have the device, as soon as nobody else has it; False if it is lost again by then. The
        log is read only when it is ours: what the former owner took in stands there."""
        if self._spec.steals:
            await self._steal()
        engine = engine_class(self._spec.engine)
        while True:
            try:
                self._engine = await engine.open(self._spec.url, self._keep)
                break
            except (StoreInUse, StoreUnreadable):
                if not self._spec.lease:
                    raise
            except (CommitFailed, OwnershipLost):
                if not self._spec.lease:
                    raise
                return False
            await asyncio.sleep(PAUSE)
        self._log = Log(Path(self._spec.log), self._spec.life)
        self._engine.on_lost(self._on_lost)
        return True

    async def _steal(self) -> None:
        """Take the device from its owner; it is opened in the usual way then."""
        while True:
            try:
                await (await open_async_device(self._spec.url, steal=True)).close()
                return
            except StoreUnreadable:
                await asyncio.sleep(PAUSE)

    def _on_lost(self, error: OwnershipLost) -> None:
        self._told.set()
        self._ending.set()

    async def run(self) -> list[str]:
        """Both lanes until they end; how they did."""
        sending, taking_in = await Line.open(self._spec), await Line.open(self._spec)
        ends = [await self._until_end(self._greet(sending))]
        if not ends[0]:
            async with asyncio.TaskGroup() as lanes:
                both = (self._send_all(sending), self._take_in_all(taking_in))
                tasks = [lanes.create_task(self._until_end(lane)) for lane in both]
            ends = [task.result() for task in tasks]
        await sending.close()
        await taking_in.close()
        return ends

    async def close(self, ends: Sequence[str]) -> int:
        """Close the device; the exit code."""
        if set(ends) == {CLOSE}:
            await self._engine.close()
            self._log.close()
            return 0
        if {REPLACED, REFUSED, TOLD} & set(ends) and FAILED not in ends:
            await self._told.wait()  # whoever lost a device is told, even one who does nothing
        line = await Line.open(self._spec)
        await line.ask("bye", ends=list(ends), seen=dict(self._probe.seen))
        await line.close()
        with suppress(RatchetkeepError):  # credentials that it would have saved
            await self._engine.close()
        self._log.close()
        return GAVE_UP

    async def _until_end(self, lane: Awaitable[str]) -> str:
        try:
            return await lane
        except Exception as error:
            ending = ending_in(error)
            if ending is None or not self._spec.lease:
                raise
            self._ending.set()
            return REFUSED if isinstance(ending, OwnershipLost) else FAILED

    async def _greet(self, line: Line) -> str:
        """Tell the server who this is and which one-time pre-keys it has."""
        identity = {
            name: as_text(value) if isinstance(value, bytes) else value
            for name, value in asdict(self._engine.identity()).items()
        }
        ids = sorted(await self._engine.pre_key_ids())
        self._probe.at("opened")
        answer = await line.ask("hello", identity=identity, pre_keys=ids)
        return str(answer.get("do", ""))

    async def _next(self, line: Line, op: str) -> Task:
        """What the server says, if there is still someone to do it."""
        asking = asyncio.create_task(line.ask(op))
        ending = asyncio.create_task(self._ending.wait())
        await asyncio.wait([asking, ending], return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if asking.done():
            return asking.result()
        asking.cancel()
        return {"do": TOLD}

    # -- the lane that sends

    async def _send_all(self, line: Line) -> str:
        """How it ends."""
        while (task := await self._next(line, "task"))["do"] in ("send", "begin", "upload"):
            if task["do"] == "upload":
                await self._upload(line, task)
                continue
            items = await self._items(task)
            self._probe.at("encrypted")
            await line.ask("sent", items=[[kind, as_text(body)] for kind, body in items])
            self._probe.at("sent")
        return str(task["do"])

    async def _items(self, task: Task) -> list[tuple[str, bytes]]:
        data = task["text"].encode()
        if task["do"] == "begin":
            await self._engine.begin(task["to"], task["bundle"], drop=task["drop"])
            self._probe.at("begun")
        if "group" not in task:
            return [await self._engine.encrypt(task["to"], data)]
        return await self._group_items(task, data)

    async def _group_items(self, task: Task, data: bytes) -> list[tuple[str, bytes]]:
        body, key = await self._engine.encrypt_group(task["group"], task["me"], data)
        self._probe.at("in group")
        if not task["distribute"]:
            return [("skmsg", body)]
        text = json.dumps({"group": task["group"], "key": as_text(key)})
        return [await self._engine.encrypt(task["to"], text.encode()), ("skmsg", body)]

    async def _upload(self, line: Line, task: Task) -> None:
        wanted, as_client = task["count"], task["as_client"]
        keys = await self._engine.pre_keys_to_upload(wanted, as_client=as_client)
        self._probe.at("minted")
        await line.ask("upload", keys={str(id): as_text(key) for id, key in keys.items()})
        self._probe.at("uploaded")
        await self._engine.uploaded(keys)

    # -- the lane that takes in

    async def _take_in_all(self, line: Line) -> str:
        """How it ends."""
        while (item := await self._next(line, "receive"))["do"] == "deliver":
            if item["id"] in self._log.committed:
                await line.ask("ack", id=item["id"], how="known")
                continue
            await self._take_in(line, item)
            self._probe.at("acknowledged")
        return str(item["do"])

    async def _take_in(self, line: Line, item: Task) -> None:
        id: str = item["id"]
        known = self._log.text_of(id)
        how = "new" if known is None else "redone"
        try:
            await self._decrypt_and_note(item)
        except Exception as error:
            ending = ending_in(error)
            if isinstance(ending, OwnershipLost):
                self._log.refused(id)
            if ending is not None:
                raise
            if known is None:
                what = f"{type(error).__name__}: {error}"
                await line.ask("undecryptable", id=id, error=what)
                return
            how = "known"  # it was committed, and the process died before it could note that
        self._probe.at("committed")
        self._log.after(id)
        self._probe.at("logged")
        await line.ask("ack", id=id, how=how)

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
        self._probe.at("decrypted")
        self._log.before(id, text)
        self._probe.at("noted")

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


def ending_in(error: BaseException | None) -> RatchetkeepError | None:
    """The store's end behind what a client raises, if there is one."""
    while error is not None:
        if isinstance(error, ENDING):
            return error
        error = error.__cause__ or error.__context__
    return None


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


async def live(spec: Spec) -> int:
    """One life: open, greet, both lanes until the server says to close; the exit code."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, show_where)
    worker = Worker(spec)
    if not await worker.open():
        return GAVE_UP
    return await worker.close(await worker.run())
