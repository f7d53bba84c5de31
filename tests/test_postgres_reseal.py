"""PostgreSQL databases that are sealed, unsealed and sealed anew while they hold devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

import pgserver
from _fleet import as_worker
from _pgsealed import KEY, OTHER, asked, device_of, errors_of, give_key
from ratchetkeep import (
    CommitFailed,
    DeviceMoved,
    InvalidValue,
    OwnershipLost,
    StoreDamaged,
    StoreInUse,
    WrongKey,
    copy_device,
    open_device,
    open_store,
)
from ratchetkeep.model import Key
from ratchetkeep.reseal import rekey_store, seal_store, unseal_store

NAMES = ["Zoë/7", "alice", "bob", "moved"]


@pytest.fixture(scope="module")
def server() -> Iterator[pgserver.Server]:
    with pgserver.running(max_connections="100") as server:
        yield server


@pytest.fixture
def url(server: pgserver.Server) -> str:
    """A plain database with devices, of which one was moved."""
    url = server.new_database()
    with open_store(url) as store:
        for name in NAMES:
            with store.create(name) as device:
                device.set({"lid-mapping": {str(n): f"{name} {n}" for n in range(700)}})
    copy_device(f"{url}&device=moved", f"{url}&device=there", retire=True)
    with open_store(url) as store:
        store.remove("there")
    return url


def content(url: str, key: bytes | None) -> dict[str, Any]:
    """All that the devices hold, as readers see it, and their histories."""
    found = {}
    with open_store(url, key=key) as store:
        for name in store.devices():
            with store.open(name, read_only=True) as device:
                mappings = device.get("lid-mapping", device.ids("lid-mapping"))
                history = device._store.history(name)
                found[name] = (device.credentials, mappings, history)
    return found


def generations(url: str) -> set[int]:
    return {row[0] for row in asked(url, "SELECT generation FROM ratchetkeep.devices")}


class Ended(Exception):
    """The program was ended."""


def ended_after(number: int) -> Callable[[int, int], None]:
    """A program that is ended when so many devices are done."""

    def progress(done: int, of: int) -> None:
        assert of == len(NAMES)
        if done == number:
            raise Ended

    return progress


@pytest.mark.parametrize("ended", [0, 2, 4, None])
def test_there_and_back(url: str, monkeypatch: pytest.MonkeyPatch, ended: int | None) -> None:
    """A database would lose something on its way to being sealed, to another data key and to being
    plain again; or one whose program was ended on the way could not be read, or not go on."""
    before = content(url, None)
    steps: list[tuple[Callable[..., Any], dict[str, Any], bytes | None, set[int]]] = [
        (seal_store, {"key": KEY}, KEY, {1}),
        (rekey_store, {"key": KEY, "data_key": True}, KEY, {2}),
        (rekey_store, {"key": KEY, "new_key": OTHER, "data_key": True}, OTHER, {3}),
        (unseal_store, {"key": OTHER}, None, {0}),
    ]
    for step, how, after, expected in steps:
        if ended is not None:
            with pytest.raises(Ended):
                step(url, **how, progress=ended_after(ended))
            meanwhile = how.get("new_key", how["key"])
            assert content(url, meanwhile) == before
            how = {**how, "key": meanwhile}
        done = step(url, **how)
        assert done.resumed == (ended is not None)
        assert done.devices == len(NAMES) - (ended or 0)
        assert generations(url) == expected
        assert content(url, after) == before
        with monkeypatch.context() as patch:
            if after:
                give_key(patch, after)
            for name in NAMES:
                assert errors_of(f"{url}&device={name}") == []
            with pytest.raises(DeviceMoved) as moved:
                open_device(f"{url}&device=moved")
            assert moved.value.to.endswith("device=there")
            with open_device(f"{url}&device=alice") as device:
                device.set({"lid-mapping": {"1": "alice 1"}})
            before["alice"] = content(url, after)["alice"]
    assert asked(url, "SELECT count(*) FROM ratchetkeep.ring") == [(0,)]


def test_a_new_passphrase_changes_no_record(url: str) -> None:
    """To change who can open a database would take as long as to seal it anew."""
    seal_store(url, KEY)
    rows = "SELECT xmin::text, id FROM ratchetkeep.records"
    before, records = content(url, KEY), sorted(asked(url, rows))
    rekey_store(url, KEY, "another passphrase")
    with pytest.raises(WrongKey):
        content(url, KEY)
    with open_store(url, key="another passphrase") as store:
        assert store.devices() == sorted(before)
        # Also where the program has the database open meanwhile.
        rekey_store(as_worker(url, 1), "another passphrase", KEY)
        with pytest.raises(WrongKey):
            open_device(f"{url}&device=bob", key="another passphrase")
        open_device(f"{url}&device=bob", key=KEY).close()
    assert sorted(asked(url, rows)) == records


def test_a_device_in_use_is_not_touched(url: str) -> None:
    """The records of a device that a worker has open would change their keys under it."""
    with open_device(f"{as_worker(url, 1)}&device=bob") as bob:
        with pytest.raises(StoreInUse, match="bob"):
            seal_store(url, KEY)
        bob.set({"lid-mapping": {"1": "it goes on"}})
        assert bob.get("lid-mapping", ["2"]) == {"2": "bob 2"}
    assert seal_store(url, KEY).resumed
    with open_device(f"{url}&device=bob", key=KEY) as bob:
        assert bob.get("lid-mapping", ["1"]) == {"1": "it goes on"}


def test_a_worker_that_runs_meanwhile(url: str) -> None:
    """A worker that has the database open while it gets another data key would take its devices for
    damaged or for gone, and make new ones in their place."""
    seal_store(url, KEY)
    with open_store(as_worker(url, 1), key=KEY) as worker:
        assert worker.devices() == sorted(NAMES)
        rekey_store(url, KEY, data_key=True)
        with worker.open("alice") as alice:
            alice.set({"lid-mapping": {"1": "x"}})
        rekey_store(url, KEY, data_key=True)
        assert worker.devices() == sorted(NAMES)
        with worker.open("alice", read_only=True) as alice:
            assert alice.get("lid-mapping", ["1"]) == {"1": "x"}
        rekey_store(url, KEY, data_key=True)
        with pytest.raises(DeviceMoved):
            worker.open("moved")
        rekey_store(url, KEY, data_key=True)
        worker.create("new").close()
    assert generations(url) == {5}
    assert "new" in content(url, KEY)


def test_an_owner_that_was_thought_dead_writes_nothing(url: str) -> None:
    """A worker whose lease ran out, and which lives on, would write what is in the clear among what
    is sealed."""
    worker = f"{as_worker(url, 1)}&device=bob"
    with open_device(worker) as bob:
        asked(url, "UPDATE ratchetkeep.owners SET until = now() - interval '1 s'")
        seal_store(url, KEY)
        with pytest.raises(OwnershipLost, match="taken over"):
            bob.set({"lid-mapping": {"1": "in the clear"}})
    with open_device(f"{url}&device=bob", key=KEY) as bob:
        assert bob.get("lid-mapping", ["1"]) == {"1": "bob 1"}


def test_tampered_devices_are_not_sealed_anew(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody has removed or put back would be covered by a new sum."""
    seal_store(url, KEY)
    give_key(monkeypatch)
    alice = device_of(f"{url}&device=alice")
    asked(
        url,
        "DELETE FROM ratchetkeep.records WHERE device = %(id)s AND id = %(row)s",
        id=alice.id,
        row=alice.cipher.row_id(Key("lid-mapping", "1")),
    )
    with pytest.raises(StoreDamaged, match="not those of its last commit"):
        rekey_store(url, KEY, data_key=True)
    assert errors_of(f"{url}&device=alice") != []


def test_two_commands_at_once(url: str) -> None:
    """Two that seal a database at the same moment would each make a data key, and one be lost with
    the devices that it has sealed."""

    def another(done: int, of: int) -> None:
        if done == 1:
            with pytest.raises(WrongKey):
                seal_store(as_worker(url, 1), OTHER)
            seal_store(as_worker(url, 2), KEY)

    with pytest.raises(StoreInUse, match="another program"):
        seal_store(url, KEY, progress=another)
    assert sorted(content(url, KEY)) == sorted(NAMES)
    with pytest.raises(InvalidValue, match="sealed already"):
        seal_store(url, KEY)


def test_nothing_of_the_old_rows_is_left(server: pgserver.Server, url: str) -> None:
    """What was in the clear before would stay in the free space of the tables' files."""
    name = url.partition("?")[0].rpartition("/")[2]
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        (number,) = connection.execute(
            "SELECT oid FROM pg_database WHERE datname = %s", [name]
        ).fetchone() or (0,)
    folder = server.folder / "data" / "base" / str(number)
    assert any(b"bob 699" in path.read_bytes() for path in folder.iterdir())
    seal_store(url, KEY)
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CHECKPOINT")
    assert not any(b"bob 699" in path.read_bytes() for path in folder.iterdir())


def test_a_user_who_may_not_write_the_tables_anew(server: pgserver.Server, url: str) -> None:
    """A worker's user would be told that all is sealed, while the old rows are still there."""
    role = f"sealer_{url.partition('?')[0].rpartition('/t')[2][:8]}"
    asked(url, f"CREATE ROLE {role} LOGIN PASSWORD '{server.password}'")
    asked(url, f"GRANT USAGE ON SCHEMA ratchetkeep TO {role}")
    tables = "ALL TABLES IN SCHEMA ratchetkeep"
    asked(url, f"GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO {role}")
    with pytest.raises(CommitFailed, match=r"free space.*as the owner"):
        seal_store(url.replace("//keeper:", f"//{role}:"), KEY)
    assert sorted(content(url, KEY)) == sorted(NAMES)
    assert seal_store(url, KEY).resumed
