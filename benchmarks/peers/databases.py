"""Databases as one would use them without us: the standard library's sqlite3, and LMDB."""

from __future__ import annotations

import importlib
import sqlite3
from collections.abc import Sequence
from time import perf_counter_ns
from typing import Any

from benchmarks.data import Change, address

from .base import Peer, PeerMissing

_TABLE = (
    "CREATE TABLE records (device INTEGER, family TEXT, id TEXT, data BLOB,"
    " UNIQUE (device, family, id))"
)
_PUT = (
    "INSERT INTO records VALUES (1, ?, ?, ?)"
    " ON CONFLICT (device, family, id) DO UPDATE SET data = excluded.data"
)
_DROP = "DELETE FROM records WHERE device = 1 AND family = ? AND id = ?"
_GET = "SELECT data FROM records WHERE device = 1 AND family = ? AND id = ?"


class SqliteDefault(Peer):
    """A table of bytes with nothing set: a rollback journal, and full syncs."""

    name = "sqlite3, default settings"
    syncs = "several syncs a commit"
    settings: tuple[str, ...] = ()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.folder / "records.db")
        for setting in self.settings:
            connection.execute(setting)
        return connection

    def build(self) -> None:
        connection = self._connect()
        connection.execute(_TABLE)
        rows = self.data.first_rows(self.size).items()
        connection.executemany(_PUT, [(family, id, data) for (family, id), data in rows])
        connection.commit()
        connection.close()

    def open(self) -> int:
        start = perf_counter_ns()
        self._connection = self._connect()
        self._connection.execute(_GET, ("creds", "creds")).fetchone()
        return perf_counter_ns() - start

    def close(self) -> None:
        self._connection.close()

    def commits(self, changes: Sequence[Change]) -> list[int]:
        return [self._commit(change) for change in changes]

    def _commit(self, change: Change) -> int:
        rows = self.data.rows(change)
        put = [(family, id, data) for (family, id), data in rows.items() if data is not None]
        drop = [key for key, data in rows.items() if data is None]
        start = perf_counter_ns()
        if put:
            self._connection.executemany(_PUT, put)
        if drop:
            self._connection.executemany(_DROP, drop)
        self._connection.commit()
        return perf_counter_ns() - start

    def read(self, numbers: Sequence[int]) -> int:
        ids = [address(number) for number in numbers]
        execute = self._connection.execute
        start = perf_counter_ns()
        for id in ids:
            execute(_GET, ("session", id)).fetchone()
        return perf_counter_ns() - start


class SqliteBare(SqliteDefault):
    """One ``executemany`` of rows that are bytes already, in the mode that we use: what SQLite
    costs without anything of ours."""

    name = "bare SQLite, executemany"
    syncs = "one sync a commit"
    has_log = True
    reads = False
    settings = ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL")


class Lmdb(Peer):
    """A B-tree in mapped memory; the sync is on, as it is by default."""

    name = "LMDB"
    syncs = "one sync a commit"
    has_log = True

    @classmethod
    def check(cls) -> None:
        try:
            importlib.import_module("lmdb")
        except ImportError:
            raise PeerMissing("the package lmdb is not installed") from None

    def _open(self) -> Any:
        lmdb = importlib.import_module("lmdb")
        return lmdb.open(str(self.folder / "lmdb"), map_size=1 << 32, subdir=True)

    def build(self) -> None:
        environment = self._open()
        with environment.begin(write=True) as transaction:
            for key, data in self.data.first_rows(self.size).items():
                transaction.put("/".join(key).encode(), data)
        environment.close()

    def open(self) -> int:
        start = perf_counter_ns()
        self._environment = self._open()
        with self._environment.begin() as transaction:
            transaction.get(b"creds/creds")
        return perf_counter_ns() - start

    def close(self) -> None:
        self._environment.close()

    def commits(self, changes: Sequence[Change]) -> list[int]:
        return [self._commit(change) for change in changes]

    def _commit(self, change: Change) -> int:
        rows = [("/".join(key).encode(), data) for key, data in self.data.rows(change).items()]
        start = perf_counter_ns()
        with self._environment.begin(write=True) as transaction:
            for key, data in rows:
                if data is None:
                    transaction.delete(key)
                else:
                    transaction.put(key, data)
        return perf_counter_ns() - start

    def read(self, numbers: Sequence[int]) -> int:
        keys = [f"session/{address(number)}".encode() for number in numbers]
        start = perf_counter_ns()
        for key in keys:
            with self._environment.begin() as transaction:
                transaction.get(key)
        return perf_counter_ns() - start
