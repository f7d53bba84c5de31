"""Copies of many devices to and from PostgreSQL, by several processes at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import pgserver
from _copy_all import NAMES, errors, files, fleet, held, leftovers, outcomes
from ratchetkeep import CommitFailed, StoreUnreadable, copy_all, open_device

SECONDS = 120
MANY = [f"{number:03}" if number % 3 else f"some/{number:03}" for number in range(300)]


@pytest.fixture(scope="module")
def server() -> Iterator[pgserver.Server]:
    """A server for these tests."""
    with pgserver.running() as server:
        yield server


@pytest.fixture
def database(server: pgserver.Server) -> str:
    """The URL of a new database."""
    return server.new_database()


@pytest.fixture
def tree(tmp_path: Path) -> str:
    """A tree with some devices."""
    fleet(f"sqlite:{tmp_path}/one.db")
    assert copy_all(f"sqlite:{tmp_path}/one.db", f"baileys:{tmp_path}/tree").complete
    return f"baileys:{tmp_path}/tree"


KILLED = """
import os, signal, sys
from ratchetkeep import copy_all
def end(step, done, total, records):
    if done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
    copy_all(sys.argv[1], sys.argv[2], jobs=2, progress=end)
"""


def test_a_fleet_comes_back_though_its_copies_were_killed(tmp_path: Path, database: str) -> None:
    """A fleet could not be moved into a database by several processes and back; or a copy that was
    killed would leave half devices, or begin anew."""
    fleet(f"sqlite:{tmp_path}/one.db", MANY, records=0)
    assert copy_all(f"sqlite:{tmp_path}/one.db", f"baileys:{tmp_path}/tree", jobs=2).complete
    ways = [(f"baileys:{tmp_path}/tree", database), (database, f"baileys:{tmp_path}/back")]
    for source, target in ways:
        for at in (1, 60, 200):
            command = [sys.executable, "-c", KILLED, source, target, str(at)]
            done = subprocess.run(command, timeout=SECONDS, check=False)
            assert done.returncode == -signal.SIGKILL
        summary = copy_all(source, target, jobs=2)
        assert summary.complete, summary.failed
        assert summary.jobs == 2
        assert summary.count("already there") >= 199
        assert summary.count("copied") + summary.count("already there") == len(MANY)
    assert files(tmp_path / "back") == files(tmp_path / "tree")
    assert leftovers(tmp_path) == []


def test_records_are_the_same(tmp_path: Path, tree: str, database: str) -> None:
    """Records would be in another device, or be lost."""
    assert copy_all(tree, database, jobs=2).complete
    assert held(database) == held(f"sqlite:{tmp_path}/one.db")
    assert copy_all(database, f"sqlite:{tmp_path}/two.db", jobs=2).complete
    assert held(f"sqlite:{tmp_path}/two.db") == held(f"sqlite:{tmp_path}/one.db")
    other = copy_all(database, f"baileys:{tmp_path}/back", jobs=2)
    assert other.complete
    assert files(tmp_path / "back") == files(tmp_path / "tree")
    # What is the matter with the server is told once, and not for each device.
    assert len({each.what for each in other.findings}) == len(other.findings)


def test_a_device_in_use_does_not_stop_the_others(tree: str, database: str) -> None:
    """A running fleet could not be copied over but for one device; or it would lose its lease."""
    assert copy_all(tree, database, jobs=2).complete
    with open_device(f"{database}&device=a") as device:
        there = copy_all(tree, database, jobs=2)
        assert outcomes(there) == dict.fromkeys(NAMES, "already there")
        over = copy_all(tree, database, overwrite=True, jobs=2)
        assert errors(over) == {"a": "StoreInUse"}
        assert over.stopped is None and over.count("copied") == len(NAMES) - 1
        device.set({"lid-mapping": {"4915112345678": "112233445566778"}})


def test_devices_are_retired_by_several_processes(tmp_path: Path, tree: str, database: str) -> None:
    """A fleet would live on in two places."""
    assert copy_all(tree, database, retire=True, jobs=2).complete
    assert errors(copy_all(tree, f"sqlite:{tmp_path}/x.db")) == dict.fromkeys(NAMES, "DeviceMoved")
    back = copy_all(database, f"baileys:{tmp_path}/back", retire=True, jobs=2)
    assert back.complete and back.jobs == 2
    again = copy_all(database, f"baileys:{tmp_path}/back", retire=True, jobs=2)
    assert outcomes(again) == dict.fromkeys(NAMES, "already there")
    moved = copy_all(database, f"sqlite:{tmp_path}/x.db")
    assert errors(moved) == dict.fromkeys(NAMES, "DeviceMoved")


def test_a_database_that_is_gone_stops_the_copy(
    tmp_path: Path, tree: str, server: pgserver.Server, database: str
) -> None:
    """Every device would wait for a database that does not answer."""
    name = database.rpartition("/")[2].partition("?")[0]

    def drop(step: str, done: int, total: int, records: int) -> None:
        if done == 2:
            with psycopg.connect(server.url(), autocommit=True) as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

    summary = copy_all(tree, database, jobs=1, progress=drop)
    assert isinstance(summary.stopped, CommitFailed | StoreUnreadable)
    assert summary.count("copied") == 2 and summary.count("not copied") == len(NAMES) - 2
    with pytest.raises(StoreUnreadable):
        copy_all(tree, database)


def test_the_password_is_nowhere(
    tmp_path: Path,
    tree: str,
    server: pgserver.Server,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever lists the processes, or reads a log, would have the password of the database."""
    started: list[Any] = []
    real = subprocess.Popen

    def start(*args: Any, **options: Any) -> Any:
        started.append(real(*args, **options))
        lines = Path(f"/proc/{started[-1].pid}/cmdline").read_bytes()
        environment = Path(f"/proc/{started[-1].pid}/environ").read_bytes()
        assert server.password.encode() not in lines + environment
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    there = copy_all(tree, database, jobs=2)
    back = copy_all(database, f"baileys:{tmp_path}/back", jobs=2)
    assert len(started) == 4 and there.complete and back.complete
    assert server.password not in f"{there!r} {back!r}"
    assert there.devices[0].target.endswith("?device=a")
    assert there.target.startswith("postgresql://keeper:***@127.0.0.1:")
    assert os.path.exists(f"{tmp_path}/back/a/creds.json")
