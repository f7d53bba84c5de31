"""What the tests of witnesses share: commits, and files that are put back."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

import pgserver
from ratchetkeep import Device, open_device
from ratchetkeep.witness import THREAD, seen

PATIENCE = 30


def put(device: Device, value: object = "x") -> None:
    """One commit."""
    device.set({"lid-mapping": {"15551230001": str(value)}})


def at(device: Device) -> int:
    """How many commits a device that is open has had."""
    history = device.history
    assert history is not None
    return history.commits


def known(witness: object, device: Device) -> int | None:
    """How many commits of an open device a witness knows of."""
    history = device.history
    assert history is not None
    return seen(str(witness), history.id)


def commits(url: str, witness: object, count: int, delay: float | None = None) -> None:
    """Open a device, make commits, and close it."""
    with open_device(url, create=True, witness=str(witness), witness_delay=delay) as device:
        for number in range(count):
            put(device, number)


def tellers() -> list[threading.Thread]:
    """The threads that tell a witness."""
    return [each for each in threading.enumerate() if each.name == THREAD]


def until(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    tick = threading.Event()
    for _ in range(PATIENCE * 200):
        if condition():
            return
        tick.wait(0.005)
    raise AssertionError("it never was")


class SqliteCopies:
    """An SQLite file, copied away and put back.

    :param with_log: copies are taken while the device is open, with the file's log.
    """

    def __init__(self, folder: Path, *, with_log: bool = False) -> None:
        self.with_log = with_log
        self.folder = folder
        self.path = folder / "watched.db"
        self.url = f"sqlite:{self.path}"

    def save(self, name: str) -> None:
        """Copy it away."""
        target = self.folder / name
        target.mkdir()
        for path in self._files():
            shutil.copy2(path, target / path.name)

    def put_back(self, name: str) -> None:
        """Put a copy in its place."""
        for path in self._files():
            path.unlink()
        for path in (self.folder / name).iterdir():
            shutil.copy2(path, self.path.parent / path.name)

    def _files(self) -> list[Path]:
        paths = (Path(f"{self.path}{end}") for end in ("", "-wal", "-shm"))
        return [path for path in paths if path.exists()]


class PostgresCopies:
    """A database, copied and put back as a whole; nothing may be open in it."""

    with_log = False

    def __init__(self, server: pgserver.Server) -> None:
        self._server = server
        database = server.new_database()
        self._name = urlsplit(database).path[1:]
        self.url = f"{database}&lease=2"

    def save(self, name: str) -> None:
        """Copy it."""
        self._run(f"CREATE DATABASE {self._name}{name} TEMPLATE {self._name}")

    def put_back(self, name: str) -> None:
        """Put a copy in its place; the copy is used up."""
        self._run(f"DROP DATABASE {self._name} WITH (FORCE)")
        self._run(f"ALTER DATABASE {self._name}{name} RENAME TO {self._name}")

    def _run(self, statement: str) -> None:
        with psycopg.connect(self._server.url(), autocommit=True) as connection:
            connection.execute(
                b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                (self._name,),
            )
            connection.execute(statement.encode())


Copies = SqliteCopies | PostgresCopies


def end_at_once(child: int) -> None:
    """Wait for a forked child, which must have ended well."""
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
