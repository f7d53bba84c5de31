"""A device in PostgreSQL goes on with another worker: after a kill, while the former worker sleeps
or goes on, and through restarts of the database. Two devices of real clients talk meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pytest

import pgserver
from conversation import broken
from conversation.applog import Log
from conversation.casts import FLEETS, Cast
from conversation.course import PEER
from conversation.play import LAST_MESSAGES, Play, perform
from ratchetkeep import open_device
from ratchetkeep.clients import pyaileys, waeys
from ratchetkeep.stores import _postgres_rows as rows
from ratchetkeep.stores._postgres_driver import Connection
from ratchetkeep.stores._postgres_hub import Hub

SEED = 4
FAULTS = {"kills": 3, "pauses": 4, "steals": 2, "restarts": 2}


@pytest.fixture(scope="module")
def server() -> Iterator[pgserver.Server]:
    with pgserver.running() as server:
        yield server


@pytest.mark.parametrize("cast", FLEETS, ids=lambda cast: cast.name)
def test_another_worker_goes_on(cast: Cast, tmp_path: Path) -> None:
    """A device that moves to another worker, or outlives its database, would leave a message that
    nobody can read, or use a pre-key or a message key twice; or a worker that has slept meanwhile
    would still write."""
    score = asyncio.run(perform(cast.play(tmp_path, **FAULTS, refusals=1, seed=SEED)))
    assert score.breaches == []
    assert all(score.counts[name] >= wanted for name, wanted in FAULTS.items())
    assert score.counts["database restarts"] == score.counts["restarts"]
    assert score.counts["taken over"] >= score.counts["refused"] > 0
    assert score.counts["messages"] >= len(PEER) * LAST_MESSAGES
    assert score.counts["pre-keys consumed"] > 0
    assert score.counts["skmsg"] > 0


def test_commits_that_check_no_epoch_are_found_out(tmp_path: Path) -> None:
    """The harness would not notice that a worker writes to a device that another one has: its
    figures would prove nothing about leases."""
    name = f"{broken.__name__}:{broken.Unfenced.__name__}"
    engines = dict.fromkeys(PEER, name)
    play = Play(tmp_path, engines, {}, 0, SEED, pauses=100, lease=1.0, places=("writing",))
    score = asyncio.run(perform(play))
    assert score.breaches != []
    assert score.breached("failed") == 0


@pytest.mark.parametrize("client", [pyaileys, waeys], ids=["pyaileys", "waeys"])
def test_what_is_stored_is_not_told_refused(client: Any, server: pgserver.Server) -> None:
    """A client whose device is found lost just after a commit would be told that the commit was
    refused, and would not know a message that it has taken in."""
    write = rows.write
    has_written: list[UUID] = []

    def lost_afterwards(connection: Connection, writes: Sequence[rows.Write]) -> set[UUID]:
        landed = write(connection, writes)
        for hub in list(Hub._open.values()):
            hub.expire()
        has_written.extend(landed)
        return landed

    async def commit() -> None:
        auth = await client.load(url)
        try:
            with patch.object(rows, "write", lost_afterwards):
                async with auth.transaction("1"):
                    await auth.device.set({"lid-mapping": {"1": "2"}})
        finally:
            await auth.device.close()

    url = server.new_database()
    asyncio.run(commit())
    assert len(has_written) == 1
    with open_device(url, read_only=True) as device:
        assert device.get("lid-mapping", ["1"]) == {"1": "2"}


def test_refused_messages_are_not_in_the_log(tmp_path: Path) -> None:
    """The harness would take a message for read that only a worker without the device has read."""
    path = tmp_path / "log"
    for life in (1, 2):
        log = Log(path, life)
        log.before("a1", "hello")
        log.before("a2", "there")
        if life == 1:
            log.refused("a1")
            log.refused("a2")
        else:
            log.after("a2")
            log.refused("a1")
        log.close()
    with path.open("ab") as file:
        file.write(b'["a1", "before", "hel')  # cut off by a kill
    log = Log(path)
    log.before("a3", "still here")
    log.close()
    log = Log(path)
    assert log.texts == {"a2": "there", "a3": "still here"}
    assert log.committed == {"a2"}
    log.close()
