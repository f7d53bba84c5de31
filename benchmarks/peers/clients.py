"""The stores that Python clients bring with them, driven through their own verbs.

neonize is not here: its store is inside a compiled library that exports no way to write one
session, so nothing of it can be measured without a server.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from benchmarks.data import Change, address

from .base import Peer, PeerMissing, file_names, sync_names


class _Awaited(Peer):
    """A store whose verbs are awaited: one event loop for all of its turns."""

    def open(self) -> int:
        self._runner = asyncio.Runner()
        return self._runner.run(self._open())

    def close(self) -> None:
        self._runner.run(self._close())
        self._runner.close()

    def commits(self, changes: Sequence[Change]) -> list[int]:
        return self._runner.run(self._commits(changes))

    async def _commits(self, changes: Sequence[Change]) -> list[int]:
        return [await self._commit(change) for change in changes]

    def read(self, numbers: Sequence[int]) -> int:
        return self._runner.run(self._read([address(number) for number in numbers]))

    async def _open(self) -> int:
        raise NotImplementedError

    async def _close(self) -> None:
        raise NotImplementedError

    async def _commit(self, change: Change) -> int:
        raise NotImplementedError

    async def _read(self, ids: list[str]) -> int:
        raise NotImplementedError


class Pyaileys(_Awaited):
    """The folder store of pyaileys. The sessions are bytes, as its Signal code gives them."""

    name = "pyaileys MultiFileAuthState"
    syncs = "never syncs"
    most = 10_000
    is_folder = True
    _turn: Sequence[Change] = ()

    @classmethod
    def check(cls) -> None:
        try:
            importlib.import_module("pyaileys.auth.store")
        except ImportError:
            raise PeerMissing("the package pyaileys is not installed") from None

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.folder / "auth"

    def build(self) -> None:
        dumps = importlib.import_module("pyaileys.util.json").dumps
        self.open()
        self._runner.run(self._state.save_creds())
        self.close()
        for number in range(self.size):
            text = dumps(self.data.raw[self.data.template(number)])
            (self.path / f"session-{address(number)}.json").write_text(text)

    async def _open(self) -> int:
        kind = importlib.import_module("pyaileys.auth.store").MultiFileAuthState
        start = perf_counter_ns()
        self._state = await kind.load(self.path)
        return perf_counter_ns() - start

    async def _close(self) -> None:
        self._state = None

    async def _commit(self, change: Change) -> int:
        records: dict[str, dict[str, Any]] = {}
        for (family, id), data in self.data.rows(change).items():
            if family == "session":
                records.setdefault(family, {})[id] = data
        keys: dict[str, Any] = {str(id): self._pair(id) for id in change.put_pre_keys}
        keys |= {str(id): None for id in change.drop_pre_keys}
        if keys:
            records["pre-key"] = keys
        if change.credentials is not None:
            self._state.creds.account_sync_counter = change.credentials
        start = perf_counter_ns()
        await self._state.keys.set(records)
        if change.credentials is not None:
            await self._state.save_creds()
        return perf_counter_ns() - start

    def _pair(self, id: int) -> dict[str, bytes]:
        pair = self.data.pre_key(id)
        return {"public": pair.public, "private": pair.private}

    def commits(self, changes: Sequence[Change]) -> list[int]:
        self._turn = changes
        return super().commits(changes)

    def rest(self) -> None:
        names = [name for change in self._turn for name in file_names(change, ".json")]
        sync_names(self.path, names)
        self._turn = ()

    async def _read(self, ids: list[str]) -> int:
        get = self._state.keys.get
        start = perf_counter_ns()
        for id in ids:
            await get("session", [id])
        return perf_counter_ns() - start


class Waton(_Awaited):
    """The SQLite store of waton: every verb is a transaction of its own, and none deletes a
    pre-key, so that part of a commit is left out."""

    name = "waton SQLiteStorage"
    syncs = "several syncs a record, not atomic"
    is_slow = True

    @classmethod
    def check(cls) -> None:
        try:
            importlib.import_module("waton.infra.storage_sqlite")
        except ImportError:
            raise PeerMissing("the package waton is not installed") from None

    def build(self) -> None:
        self.open()
        self._runner.run(self._fill())
        self.close()

    async def _fill(self) -> None:
        make = importlib.import_module("waton.utils.auth").init_auth_creds
        await self._storage.save_creds(make())
        raw, encode = self.data.raw, self._storage._b64_encode
        rows = [(address(n), encode(raw[self.data.template(n)])) for n in range(self.size)]
        # In one go: through its own verb, a commit a record, this would take minutes.
        await self._storage._db.executemany("INSERT INTO sessions VALUES (?, ?)", rows)
        await self._storage._db.commit()

    async def _open(self) -> int:
        kind = importlib.import_module("waton.infra.storage_sqlite").SQLiteStorage
        start = perf_counter_ns()
        self._storage = kind(str(self.folder / "waton.db"))
        await self._storage.connect()
        self._creds = await self._storage.get_creds()
        return perf_counter_ns() - start

    async def _close(self) -> None:
        await self._storage.close()

    async def _commit(self, change: Change) -> int:
        storage, bytes_of = self._storage, self.data.bytes_of
        sessions = [(address(n), bytes_of(n, content)) for n, content in change.sessions]
        keys = [(id, self.data.pre_key_bytes(id)) for id in change.put_pre_keys]
        if change.credentials is not None:
            self._creds.account_sync_counter = change.credentials
        start = perf_counter_ns()
        for id, data in sessions:
            await storage.save_session(id, data)
        for number, data in keys:
            await storage.save_prekey(number, data)
        if change.credentials is not None:
            await storage.save_creds(self._creds)
        return perf_counter_ns() - start

    async def _read(self, ids: list[str]) -> int:
        get = self._storage.get_session
        start = perf_counter_ns()
        for id in ids:
            await get(id)
        return perf_counter_ns() - start
