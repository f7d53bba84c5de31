"""Engines that break a promise: the harness must find them out, or it finds nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID

from pyaileys.auth.creds import AuthenticationCreds
from pyaileys.auth.store import MultiFileAuthState
from pyaileys.signal.repository import SignalRepository

from ratchetkeep.clients import pyaileys
from ratchetkeep.stores import _postgres_rows as rows
from ratchetkeep.stores._postgres_driver import Connection

from .engines import Engine, Keep
from .over_pyaileys import Pyaileys, PyaileysVerbs

DELAY = 0.1
EPOCH = "SELECT epoch FROM ratchetkeep.devices WHERE id = %s"


class Folder(PyaileysVerbs):
    """pyaileys over its own folder: each record in a file that is written over in place, and no
    transaction around the records that belong together."""

    @classmethod
    async def open(cls, url: str, keep: Keep) -> Folder:
        """See Engine."""
        auth: Any = await MultiFileAuthState.load(url)  # what pyaileys says it takes, it is not
        await auth.save_creds()
        return cls(auth, SignalRepository(auth))

    async def close(self) -> None:
        """See Engine."""

    def transaction(self, *names: str) -> AbstractAsyncContextManager[Any]:
        """There is none."""
        return nullcontext()

    async def pre_key_ids(self) -> Iterable[int]:
        """See Engine."""
        folder: Path = self.auth.folder
        return [int(path.stem.removeprefix("pre-key-")) for path in folder.glob("pre-key-*.json")]

    async def pre_keys_to_upload(self, count: int, *, as_client: bool) -> dict[int, bytes]:
        """See Engine."""
        return await self.mint_as_client(count)

    async def uploaded(self, ids: Iterable[int]) -> None:
        """See Engine."""


class Apart(Pyaileys):
    """ratchetkeep's store, but every record a commit by itself: the adapter's transactions are not
    used."""

    has_hook = False

    @classmethod
    async def open(cls, url: str, keep: Keep) -> Apart:
        """See Engine."""
        auth = await pyaileys.load(url)
        return cls(auth, SignalRepository(auth))

    def transaction(self, *names: str) -> AbstractAsyncContextManager[Any]:
        """There is none."""
        return nullcontext()


class LateKeys:
    """A key store that keeps what an encryption sets in memory, and stores it in the background."""

    def __init__(self, auth: pyaileys.AuthState) -> None:
        self.is_sending = ContextVar("is_sending", default=False)
        self._auth = auth
        self._waiting: dict[str, dict[str, Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def get(self, key_type: str, ids: list[str]) -> dict[str, Any]:
        """Values by id, with those that wait."""
        found = await self._auth.keys.get(key_type, ids)
        waiting = self._waiting.get(key_type, {})
        return found | {id: waiting[id] for id in ids if id in waiting}

    async def set(self, data: Mapping[str, Mapping[str, Any | None]]) -> None:
        """Take them, and store them later; at once if nothing is being sent."""
        if not self.is_sending.get():
            for family, members in data.items():
                for id in members:
                    self._waiting.get(family, {}).pop(id, None)
            await self._auth.keys.set(data)
            return
        for family, members in data.items():
            self._waiting.setdefault(family, {}).update(members)
        task = asyncio.create_task(self._store())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _store(self) -> None:
        await asyncio.sleep(DELAY)
        waiting, self._waiting = self._waiting, {}
        await self._auth.keys.set(waiting)

    async def settle(self) -> None:
        """Wait until everything is stored."""
        while self._tasks:
            await asyncio.wait(self._tasks)


class LateState:
    """An auth state with such a key store."""

    def __init__(self, auth: pyaileys.AuthState) -> None:
        self.held = auth
        self.keys = LateKeys(auth)

    @property
    def creds(self) -> AuthenticationCreds:
        """The credentials."""
        return self.held.creds


class Late(Pyaileys):
    """An adapter that hands out the ciphertext and commits later; all else it does well."""

    has_hook = False
    late: LateKeys

    @classmethod
    async def open(cls, url: str, keep: Keep) -> Late:
        """See Engine."""
        auth = await pyaileys.load(url)
        state: Any = LateState(auth)
        engine = cls(auth, SignalRepository(state))
        engine.late = state.keys
        return engine

    async def encrypt(self, jid: str, data: bytes) -> tuple[str, bytes]:
        """See Engine."""
        with self._sending():
            return await super().encrypt(jid, data)

    async def encrypt_group(self, group: str, me: str, data: bytes) -> tuple[bytes, bytes]:
        """See Engine."""
        with self._sending():
            return await super().encrypt_group(group, me, data)

    @contextmanager
    def _sending(self) -> Iterator[None]:
        token = self.late.is_sending.set(True)
        try:
            yield
        finally:
            self.late.is_sending.reset(token)

    async def close(self) -> None:
        """See Engine."""
        await self.late.settle()
        await super().close()


class Forgetful(Pyaileys):
    """Its counter of pre-keys is in memory alone: each process begins with the first id again."""

    next_id = 1

    async def pre_keys_to_upload(self, count: int, *, as_client: bool) -> dict[int, bytes]:
        """See Engine."""
        self.auth.creds.next_pre_key_id = self.next_id
        self.next_id += count
        return await self.mint_as_client(count)


class Stuck(Pyaileys):
    """Its lanes wait for each other: whoever takes something in never lets go of a lock that those
    who send need."""

    lock: asyncio.Lock | None = None

    async def encrypt(self, jid: str, data: bytes) -> tuple[str, bytes]:
        """See Engine."""
        self.lock = self.lock or asyncio.Lock()
        async with self.lock:
            return await super().encrypt(jid, data)

    async def decrypt(self, jid: str, kind: str, data: bytes) -> bytes:
        """See Engine."""
        self.lock = self.lock or asyncio.Lock()
        await self.lock.acquire()
        return await super().decrypt(jid, kind, data)


class Unfenced(Pyaileys):
    """A database whose commits do not check the epoch of the device: they take whatever it is now.
    So whoever has owned the device once can write, for as long as it does not know better."""

    @classmethod
    async def open(cls, url: str, keep: Keep) -> Unfenced:
        """See Engine."""
        patch.object(rows, "write", partial(write_in_any_epoch, rows.write)).start()
        whole = await super().open(url, keep)
        return cls(whole.auth, whole.repository)


def write_in_any_epoch(
    write: Callable[[Connection, Sequence[rows.Write]], set[UUID]],
    connection: Connection,
    writes: Sequence[rows.Write],
) -> set[UUID]:
    """Write as the owner of this moment, whoever that is."""
    as_owner = []
    for each in writes:
        row = connection.execute(EPOCH, (each.id,)).fetchone()
        assert row is not None
        as_owner.append(each._replace(epoch=row[0]))
    return write(connection, as_owner)


BROKEN: tuple[type[Engine], ...] = (Folder, Apart, Late, Forgetful, Stuck, Unfenced)
