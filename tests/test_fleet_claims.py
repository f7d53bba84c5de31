"""The statements that take and give back many devices, on a real server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

import pgserver
from _aio_helpers import Background
from _fleet import LONG, as_worker, asked, filled, hub_of, names, owned
from ratchetkeep import InvalidValue, OwnershipLost, open_device
from ratchetkeep.device import open_in
from ratchetkeep.stores import _postgres_claims as claims
from ratchetkeep.stores import urls
from ratchetkeep.stores._postgres_claims import Claims, Worker
from ratchetkeep.stores._postgres_hub import Hub
from ratchetkeep.stores._postgres_link import open_one
from ratchetkeep.stores.postgres import PostgresStore


@pytest.fixture(scope="module")
def server() -> Iterator[pgserver.Server]:
    with pgserver.running() as server:
        yield server


def claim_all(hub: Hub, start: threading.Barrier, limit: int) -> list[str]:
    """Claim until nothing is left."""
    start.wait()
    found: list[str] = []
    while taken := hub.claim(limit):
        found += taken
    return found


@pytest.mark.parametrize("limit", [3, 200])
def test_claims_are_exclusive(server: pgserver.Server, limit: int) -> None:
    """Two workers that claim at the same moment would both have a device, or none would."""
    url, workers = filled(server, 120), 6
    with ExitStack() as stack:
        hubs = [stack.enter_context(hub_of(as_worker(url, n))) for n in range(workers)]
        start = threading.Barrier(workers)
        threads = [Background(partial(claim_all, hub, start, limit)) for hub in hubs]
        for thread in threads:
            assert thread.ends()
            assert thread.error is None
        taken = [name for thread in threads for name in thread.result]
        # What a claim passed over because another one was at it may be left; it is not lost.
        taken += [name for hub in hubs for name in hub.claim(200)]
        assert sorted(taken) == sorted(names(120))
        for hub in hubs:
            owner = "SELECT id, epoch FROM ratchetkeep.devices WHERE owner = %s"
            held = {id: held.epoch for id, held in hub.held.items()}
            assert dict(asked(url, owner, hub.owner)) == held


def test_a_claim_that_waited_takes_nothing_twice(server: pgserver.Server) -> None:
    """A claim whose statement began before another's ended would take its devices from it: what it
    saw as free is not free any more."""
    url = filled(server, 1)
    with hub_of(as_worker(url, 1)) as first, hub_of(as_worker(url, 2)) as second:
        late = psycopg.connect(url)
        # Chosen in one moment, taken in a later one: what a slow statement does.
        late.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        (chosen,) = late.execute("SELECT id, epoch FROM ratchetkeep.devices").fetchall()
        assert first.claim(1) == ["device 0"]
        taking = claims._CLAIM[claims._CLAIM.index("taken AS") :]
        values = {"owner": second.owner, "name": "late", "id": chosen[0], "epoch": chosen[1]}
        start = "WITH chosen (id, epoch) AS (VALUES (%(id)s, %(epoch)s)), "
        assert late.execute((start + taking).encode(), values).fetchall() == []
        late.close()
        assert second.claim(1) == []


def test_what_is_not_claimed(server: pgserver.Server) -> None:
    """A device that is in use, was moved, is excluded or is only about to be made would be
    claimed."""
    url = filled(server, 5)
    asked(url, "UPDATE ratchetkeep.devices SET moved_to = 'x' WHERE name = 'device 1'")
    asked(url, "UPDATE ratchetkeep.devices SET commits = 0 WHERE name = 'device 2'")
    with (
        open_device(f"{url}&lease={LONG}&device=device 0"),
        hub_of(as_worker(url, 1)) as hub,
    ):
        assert Claims(hub).survey(10, ["device 3"]).free == 1
        assert hub.claim(10, ["device 3"]) == ["device 4"]
        assert hub.claim(10, ["device 3"]) == []


def test_a_dead_owner(server: pgserver.Server) -> None:
    """What a worker had that died would never be claimed, or at once, while it lives."""
    url = filled(server, 3)
    with hub_of(as_worker(url, 1)) as dead, hub_of(as_worker(url, 2)) as hub:
        dead.claim(2)
        assert len(hub.claim(10)) == 1
        past = "UPDATE ratchetkeep.owners SET until = now() - interval '1 s' WHERE id = %s"
        asked(url, past, dead.owner)
        assert Claims(hub).survey(10, []).free == 2
        assert len(hub.claim(10)) == 2
        told = "SELECT count(*) FROM ratchetkeep.takeovers WHERE owner = %s"
        assert asked(url, told, hub.owner) == [(3,)]


def test_a_claim_with_a_lease_that_ran_out(server: pgserver.Server) -> None:
    """A worker that stood still would claim its own devices, and refuse the commits of those that
    it has open."""
    url = filled(server, 2)
    with hub_of(as_worker(url, 1)) as hub:
        assert len(hub.claim(1)) == 1
        asked(url, "UPDATE ratchetkeep.owners SET until = now() - interval '1 s'")
        assert len(hub.claim(10)) == 1


def test_a_locked_device_is_passed_over(server: pgserver.Server) -> None:
    """A copy that replaces one device would hold up the claims of all others."""
    url = filled(server, 3)
    with psycopg.connect(url) as other, hub_of(as_worker(url, 1)) as hub:
        lock = "SELECT 1 FROM ratchetkeep.devices WHERE name = 'device 1' FOR UPDATE"
        other.execute(lock)
        assert sorted(hub.claim(10)) == ["device 0", "device 2"]
        other.rollback()
        assert hub.claim(10) == ["device 1"]


def test_workers_choose_different_devices(server: pgserver.Server) -> None:
    """Workers that start together would all go for the same devices, and most come back empty."""
    url = filled(server, 40)
    chosen = set()
    for number in range(8):
        with hub_of(as_worker(url, number)) as hub:
            taken = hub.claim(5)
            chosen.add(frozenset(taken))
            hub.give_back_all(taken)
    assert len(chosen) > 4


def test_a_device_that_came_back_unnoticed(server: pgserver.Server) -> None:
    """A device that was stolen, given back and claimed again would have a user here that believes
    it never lost it, and whose commits are refused."""
    url = filled(server, 1)
    lost: list[OwnershipLost] = []
    with hub_of(as_worker(url, 1)) as hub:
        assert hub.claim(1) == ["device 0"]
        hub.watch("device 0", lost.append)
        open_device(f"{url}&device=device 0", steal=True).close()
        assert hub.claim(1) == ["device 0"]
        assert len(lost) == 1
        ((epoch,),) = asked(url, "SELECT epoch FROM ratchetkeep.devices")
        assert hub.the("device 0").epoch == epoch


def test_a_lost_answer(server: pgserver.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices whose claim was carried out, and whose answer was lost, would belong for ever to a
    worker that does not know it."""
    url = filled(server, 3)
    carry_out = claims.claim

    def loses(*arguments: Any) -> list[Any]:
        carry_out(*arguments)
        raise psycopg.OperationalError("gone")

    with hub_of(as_worker(url, 1)) as hub:
        each = Claims(hub)
        with monkeypatch.context() as patch, pytest.raises(Exception, match="cannot do it"):
            patch.setattr(claims, "claim", loses)
            each.claim(10, [])
        assert owned(url) == 3
        each.note_loss()
        each.survey(10, [])
        each.survey(10, [])
        assert owned(url) == 0
        assert len(each.claim(10, [])) == 3


def test_workers_see_each_other(server: pgserver.Server) -> None:
    """A worker would see others late, with numbers of long ago, or one that has left."""
    url = filled(server, 5)
    with hub_of(as_worker(url, 1)) as one, hub_of(as_worker(url, 2)) as two:
        first, second = Claims(one), Claims(two)
        first.join(7)
        second.join(9)
        assert second.survey(10, []) == ([Worker(0, 7)], 5)
        taken = first.claim(3, [])
        assert second.survey(10, []) == ([Worker(3, 7)], 2)
        first.give_back(taken[:1])
        assert second.survey(10, []) == ([Worker(2, 7)], 3)
        assert second.survey(1, []).free == 1
        first.leave()
        assert second.survey(10, []).others == []


def test_one_worker_in_a_hub(server: pgserver.Server) -> None:
    """The second fleet of a process would count the first one's devices as its own."""
    url = filled(server, 1)
    with hub_of(as_worker(url, 1)) as hub:
        Claims(hub).join(5)
        with pytest.raises(InvalidValue, match="another fleet"):
            Claims(hub).join(5)


def test_giving_back_many(server: pgserver.Server) -> None:
    """Devices that are given back together would stay owned; or what was taken again since would
    be taken from its new user."""
    url = filled(server, 4)
    with hub_of(as_worker(url, 1)) as hub, open_one(url, url) as link:
        taken = hub.claim(10)
        before = {id: held.epoch for id, held in hub.held.items()}
        hub.give_back_all(taken[:3])
        assert (owned(url), len(hub.held)) == (1, 1)
        assert len(hub.claim(10)) == 3
        claims.give_back(link, hub.owner, before)
        assert owned(url) == 3  # of the one that was never given back, the epoch is the same
        assert hub.claim(10) == [taken[3]]


def test_takeovers_are_forgotten(server: pgserver.Server) -> None:
    """A device that goes from worker to worker would leave a row behind with each."""
    url = filled(server, 1)
    with hub_of(as_worker(url, 1)) as hub:
        for _ in range(40):
            hub.give_back_all(hub.claim(1))
    ((count,),) = asked(url, "SELECT count(*) FROM ratchetkeep.takeovers")
    assert count <= 17


def test_an_adopted_device_is_opened(server: pgserver.Server) -> None:
    """A claimed device could not be opened in the process that claimed it; or could be opened
    twice."""
    url = as_worker(filled(server, 1), 1)
    store = urls.open_target(urls.parse(url))
    assert isinstance(store, PostgresStore)
    hub = store.hub()
    assert hub is not None
    try:
        store.adopt(*hub.claim(1))
        epoch = hub.the("device 0").epoch
        with open_in(store, "device 0", create=False, read_only=False) as device:
            device.set({"lid-mapping": {"x": "y"}})
            assert hub.the("device 0").epoch == epoch
            with pytest.raises(Exception, match="open already"):
                open_in(store, "device 0", create=False, read_only=False)
        assert owned(url) == 0
    finally:
        store.close()


@pytest.mark.parametrize("statistics", ["fresh", "old"])
def test_looking_is_cheap(server: pgserver.Server, statistics: str) -> None:
    """Each look for free devices would read the whole table where all devices have an owner: at
    once, or as long as the server's statistics are of the time when all were free."""
    url = filled(server, 0)
    with open_one(url, url) as link:
        link.execute(
            "INSERT INTO ratchetkeep.devices (id, name, created, epoch, commits) "
            "SELECT md5(i::text)::uuid, i::text, now(), 1, 1 FROM generate_series(1, 20000) AS i"
        )
        link.execute("ANALYZE ratchetkeep.devices")
        link.execute("UPDATE ratchetkeep.devices SET owner = md5((name::int % 50)::text)::uuid")
        # This alone leaves the statistics as they are.
        link.execute(
            "VACUUM ANALYZE ratchetkeep.devices"
            if statistics == "fresh"
            else "VACUUM ratchetkeep.devices"
        )
        values = {**claims._values(uuid4(), 100, [UUID(int=1)]), "name": "x"}
        for statement in (claims._CLAIM, claims._COUNT):
            explain = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + statement
            with psycopg.ClientCursor(link) as cursor:
                ((plan,),) = cursor.execute(explain.encode(), values).fetchall()
            root = plan[0]["Plan"]
            assert root["Shared Hit Blocks"] + root["Shared Read Blocks"] < 50
