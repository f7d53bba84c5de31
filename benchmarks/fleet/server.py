"""A PostgreSQL server that is measured: on the disk that all peers share, with its syncs on."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.data import ROOT
from benchmarks.peers import PeerMissing

# What differs from the server's own defaults. It is reached by TCP alone: the path of a socket is
# short, that of a folder to measure in may be long.
SETTINGS = {"fsync": "on", "max_connections": "100", "unix_socket_directories": ""}
# Of the server's settings, those that the figures depend on.
SHOWN = (
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_compression",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "autovacuum",
)
# A lease that is not renewed while something else is counted.
LONG_LEASE = 3600
_TICKS = os.sysconf("SC_CLK_TCK")

_TRANSACTIONS = "SELECT xact_commit FROM pg_stat_database WHERE datname = %s"
_CONNECTIONS = (
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = %s AND application_name LIKE 'ratchetkeep %%'"
)


@dataclass(frozen=True)
class Mark:
    """How far the server has come.

    :ivar wal: bytes of its log.
    :ivar seconds: processor time of all its processes.
    """

    wal: int
    seconds: float

    def since(self, before: Mark) -> Mark:
        """What came after another mark."""
        return Mark(self.wal - before.wal, self.seconds - before.seconds)


class Server:
    """A server that runs, seen from beside what is measured.

    :ivar version: of PostgreSQL.
    """

    def __init__(self, program: Any, driver: Any) -> None:
        self._program = program
        self._driver = driver
        # In a database of its own: what is asked here is not counted in the measured one.
        self._beside = driver.connect(program.url(), autocommit=True)
        self.version = self._word("SHOW server_version").split()[0]

    def close(self) -> None:
        """End the connection that asks."""
        self._beside.close()

    def new_database(self, *, lease: float = LONG_LEASE) -> Database:
        """A new, empty database."""
        name = f"b{uuid.uuid4().hex}"
        self._beside.execute(f"CREATE DATABASE {name}")
        return Database(self, name, f"{self._program.url(name)}&lease={lease:g}")

    def settings(self) -> dict[str, str]:
        """The settings that the figures depend on."""
        return {name: self._word(f"SHOW {name}") for name in SHOWN}

    def set(self, name: str, value: str) -> None:
        """Change a setting, for all connections."""
        self._beside.execute(f"ALTER SYSTEM SET {name} = {value}")
        self._beside.execute("SELECT pg_reload_conf()")

    def reset(self, name: str) -> None:
        """Undo :meth:`set`."""
        self._beside.execute(f"ALTER SYSTEM RESET {name}")
        self._beside.execute("SELECT pg_reload_conf()")

    def checkpoint(self) -> None:
        """Write everything to the tables: the next change of each page goes into the log whole."""
        self._beside.execute("CHECKPOINT")

    def mark(self) -> Mark:
        """How far it has come by now."""
        wal = int(self._word("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"))
        return Mark(wal, self._seconds())

    def transactions(self, database: str) -> int:
        """How many a database has committed, as far as its connections have told."""
        return int(self._word(_TRANSACTIONS, database))

    def connections(self, database: str) -> int:
        """How many connections of ours a database has now."""
        return int(self._word(_CONNECTIONS, database))

    def _word(self, statement: str, *values: str) -> str:
        (found,) = self._beside.execute(statement, values).fetchone()
        return str(found)

    def _seconds(self) -> float:
        """Processor time of the server; that of connections that ended is their parent's."""
        pid_file = self._program.folder / "data" / "postmaster.pid"
        parent = int(pid_file.read_text().splitlines()[0])
        ticks = 0
        for path in Path("/proc").iterdir():
            numbers = _stat(path) if path.name.isdecimal() else None
            if numbers is None:
                continue
            if int(path.name) == parent:
                ticks += sum(numbers[10:14])
            elif numbers[0] == parent:
                ticks += sum(numbers[10:12])
        return ticks / _TICKS


def _stat(process: Path) -> list[int] | None:
    """The numbers of a process, the parent's first; None if it is gone."""
    try:
        text = (process / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return [int(word) for word in text.rpartition(")")[2].split()[1:20]]


@dataclass(frozen=True)
class Database:
    """A database of the server.

    :ivar url: as the store takes it, without a device.
    """

    server: Server
    name: str
    url: str

    @property
    def libpq(self) -> str:
        """Its URL without what is ours in it."""
        return self.url.rpartition("&lease=")[0]

    def device(self, name: str) -> str:
        """The URL of a device."""
        return f"{self.url}&device={name}"

    def connect(self) -> Any:
        """A connection of the bare driver."""
        return self.server._driver.connect(self.libpq, autocommit=True)

    def numbers(self, statement: str, *values: object) -> tuple[int, ...]:
        """The one row of a statement."""
        with self.connect() as connection:
            return tuple(int(each) for each in connection.execute(statement, values).fetchone())

    def drop(self) -> None:
        """Remove it, to give its memory to the next one."""
        self.server._beside.execute(f"DROP DATABASE {self.name} WITH (FORCE)")


def check() -> None:
    """:raises PeerMissing: if no server can run here."""
    _programs()


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """A server with its data in ``folder``, or elsewhere on the same file system, for as long as
    the block.

    :raises PeerMissing: if none can run here.
    """
    pgserver, driver = _programs()
    folder.mkdir()
    with _reachable(folder) as place:
        program = pgserver.Server(place, SETTINGS)
        program.make()
        try:
            program.start()
            server = Server(program, driver)
            try:
                yield server
            finally:
                server.close()
        finally:
            program.ensure_stopped()


@contextmanager
def _reachable(folder: Path) -> Iterator[Path]:
    """The folder, or one beside the system's temporary files: PostgreSQL refuses to run as root,
    and root's server is a user's who may see nothing of ours."""
    if os.geteuid() != 0:
        yield folder
        return
    folder.parent.chmod(0o711)
    if all(above.stat().st_mode & 0o001 for above in folder.parents):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="rk-bench-") as name:
        if os.stat(name).st_dev != folder.stat().st_dev:
            raise PeerMissing("the user that PostgreSQL runs as cannot reach the folder")
        yield Path(name)


def _programs() -> tuple[Any, Any]:
    """What the tests start a server with, and the driver."""
    try:
        driver = importlib.import_module("psycopg")
        importlib.import_module("psycopg_pool")
        if str(ROOT / "tests") not in sys.path:
            sys.path.append(str(ROOT / "tests"))
        pgserver = importlib.import_module("pgserver")
        pgserver.programs()
    except ImportError:
        raise PeerMissing("the package psycopg or its pool is not installed") from None
    except StopIteration:
        raise PeerMissing("there is no PostgreSQL server here") from None
    return pgserver, driver
