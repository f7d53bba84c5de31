"""Sealed PostgreSQL databases: whose keys are asked for, what is found out of rows that were
tampered with, and what can be read in the server's files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import pgserver
from _fleet import as_worker, hub_of
from _helpers import ALICE
from _pgsealed import (
    KEY,
    OTHER,
    PUT,
    ROW,
    asked,
    device_of,
    errors_of,
    give_key,
    row_of,
    sealed_database,
)
from ratchetkeep import (
    DeviceMoved,
    InvalidValue,
    NoDevice,
    RatchetkeepError,
    StoreDamaged,
    WrongKey,
    copy_device,
    open_device,
    open_store,
)
from ratchetkeep.model import CREDENTIALS, Key


@pytest.fixture(scope="module")
def server() -> Iterator[pgserver.Server]:
    with pgserver.running(max_connections="100") as server:
        yield server


@pytest.fixture
def url(server: pgserver.Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A sealed database, whose key the environment gives."""
    give_key(monkeypatch)
    return sealed_database(server)


def everything(url: str) -> list[Any]:
    """Every row of ours, with the transaction that wrote it."""
    tables = ("devices", "records", "takeovers", "owners", "ring", "upgrades")
    return [
        sorted(asked(url, f"SELECT xmin::text, t::text FROM ratchetkeep.{t} AS t")) for t in tables
    ]


def mapping(id: str) -> Key:
    return Key("lid-mapping", id)


# -- keys


WAYS: dict[str, Callable[[str, Any], Any]] = {
    "writing": lambda url, key: open_device(url, key=key),
    "making": lambda url, key: open_device(url, create=True, key=key),
    "another": lambda url, key: open_device(url + "&device=new", create=True, key=key),
    "reading": lambda url, key: open_device(url, read_only=True, key=key),
    "stealing": lambda url, key: open_device(url, steal=True, key=key),
    "listing": lambda url, key: open_store(url, key=key).devices(),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_open", [False, True], ids=["alone", "beside"])
def test_a_wrong_key_changes_nothing(
    server: pgserver.Server, monkeypatch: pytest.MonkeyPatch, way: str, is_open: bool
) -> None:
    """Whoever has the wrong key, or none, would get a device, even if only because another part of
    the program has opened the database; or something would be written."""
    url = sealed_database(server)
    with open_device(url, create=True, key=KEY) as device:
        device.set({"lid-mapping": {"1": "x"}})
    beside = open_device(url, key=KEY) if is_open else None
    try:
        before = everything(url)
        for key in (OTHER, "a passphrase", None):
            with pytest.raises(WrongKey):
                WAYS[way](url, key)
        give_key(monkeypatch, OTHER)
        with pytest.raises(WrongKey):
            WAYS[way](url, None)
        assert everything(url) == before
    finally:
        if beside is not None:
            beside.close()
    with open_device(url, key=KEY) as device:
        assert device.get("lid-mapping", ["1"]) == {"1": "x"}


def test_a_key_for_a_plain_database(server: pgserver.Server) -> None:
    """A program that believes its devices sealed would write them in the clear."""
    url = server.new_database()
    open_device(url, create=True).close()
    before = everything(url)
    for way in WAYS.values():
        with pytest.raises(InvalidValue, match="not sealed"):
            way(url, KEY)
    assert everything(url)[:3] == before[:3]


def test_a_key_where_nothing_is(server: pgserver.Server) -> None:
    """Looking into an empty database with a key would make tables there, or keep a device from
    being made sealed afterwards."""
    url = server.new_database()
    with open_store(url, key=KEY) as store:
        assert store.devices() == []
        with pytest.raises(NoDevice):
            store.open("alice")
        store.create("alice").close()
    with pytest.raises(WrongKey):
        open_device(url + "&device=alice")


def test_workers_that_start_together_seal_once(server: pgserver.Server) -> None:
    """Of two workers that set up a database one would seal with a key that is lost at once."""
    url = server.new_database()
    errors: list[BaseException] = []
    start = threading.Barrier(6)

    def work(number: int) -> None:
        start.wait()
        try:
            worker = as_worker(url, number)
            open_device(f"{worker}&device=d{number}", create=True, key=KEY).close()
        except BaseException as error:  # noqa: BLE001 - looked at below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with open_store(url, key=KEY) as store:
        assert store.devices() == [f"d{number}" for number in range(6)]
        for name in store.devices():
            store.open(name).close()


def test_a_plain_worker_makes_nothing_in_a_sealed_database(server: pgserver.Server) -> None:
    """A worker that has looked before the database was sealed would make a device in the clear."""
    url = server.new_database()
    with open_store(url) as early:
        early.create("first").close()
        early.remove("first")
        with open_store(as_worker(url, 1), key=KEY) as late:
            late.create("sealed").close()
        with pytest.raises(WrongKey):
            early.create("plain")
        with pytest.raises(WrongKey):
            copy_device(f"baileys:{ALICE}", url + "&device=plain")
    assert asked(url, "SELECT generation FROM ratchetkeep.devices") == [(1,)]


# -- what can be done with sealed devices


def test_claims_of_a_sealed_fleet(url: str) -> None:
    """Workers could not share the devices of a sealed database, or one whose row was changed would
    keep them from all others."""
    with open_store(url) as store:
        for name in ("alice", "bob", "carol"):
            store.create(name).close()
    bob = device_of(url + "&device=bob").id
    asked(url, "UPDATE ratchetkeep.devices SET commits = 9 WHERE id = %(id)s", id=bob)
    worker = as_worker(url, 1)
    with open_store(worker) as store, hub_of(worker) as hub:
        store.devices()
        assert sorted(hub.claim(5, ["carol"])) == ["alice", "bob"]
        assert hub.claim(5) == ["carol"]
        assert hub.the("bob").damage is not None and hub.the("alice").damage is None
        hub.give_back_all(["alice", "bob", "carol"])
        assert asked(url, "SELECT count(owner) FROM ratchetkeep.devices") == [(0,)]
        # Also one whose name does not open can be left alone.
        asked(url, "UPDATE ratchetkeep.devices SET name = 'x' WHERE id = %(id)s", id=bob)
        assert sorted(hub.claim(5)) == ["alice", "carol", "x"]
        hub.give_back_all(["alice", "carol", "x"])
        assert sorted(hub.claim(5, ["x"])) == ["alice", "carol"]


def test_the_history_of_a_device(server: pgserver.Server, url: str) -> None:
    """A witness could not tell a device that was put back from one that goes on, or would take a
    new one for the old one."""
    for place in (server.new_database(), url):
        target = f"{place}&device=alice"
        with open_device(target, create=True) as device:
            first = device._store.history("alice")
            device.set({"lid-mapping": {"1": "x"}})
            second = device._store.history("alice")
        assert first is not None and second is not None
        assert second == (first.id, first.commits + 1) and len(first.id) == 32
        with open_device(target, read_only=True) as device:
            assert device._store.history("alice") == second
        copy_device(f"baileys:{ALICE}", target, overwrite=True)
        with open_device(target) as device:
            copied = device._store.history("alice")
        assert copied is not None and copied.id != first.id


# -- tampering


@pytest.fixture
def filled(url: str) -> str:
    """A sealed device with records, after several commits."""
    target = f"{url}&device=alice"
    with open_device(target, create=True) as device:
        for number in range(4):
            device.set({"lid-mapping": {str(number): f"value {number}"}})
    assert errors_of(target) == []
    return target


def data_of(url: str, key: Key) -> bytes:
    ((data,),) = asked(url, f"SELECT data FROM {ROW}", **row_of(url, key))
    return bytes(data)


def put(url: str, key: Key, data: bytes) -> None:
    asked(url, PUT, **row_of(url, key), data=data)


def test_records_that_were_swapped_do_not_open(filled: str) -> None:
    """Two records that change places, or one of another device, would be taken for what they are
    not."""
    one, two = data_of(filled, mapping("1")), data_of(filled, mapping("2"))
    put(filled, mapping("1"), two)
    put(filled, mapping("2"), one)
    with open_device(filled, read_only=True) as device:
        for id in ("1", "2"):
            with pytest.raises(StoreDamaged, match="does not open"):
                device.get("lid-mapping", [id])
        assert device.get("lid-mapping", ["3"]) == {"3": "value 3"}
    assert len(errors_of(filled)) >= 2


def test_a_record_of_another_device_does_not_open(filled: str) -> None:
    """Whoever can write rows could give a device another one's identity."""
    other = filled.replace("alice", "bob")
    open_device(other, create=True).close()
    put(other, CREDENTIALS, data_of(filled, CREDENTIALS))
    for how in (False, True):
        with pytest.raises(StoreDamaged):
            open_device(other, read_only=how)


SUM = "not the .* of its last commit"


def test_what_was_removed_is_found(filled: str) -> None:
    """A record that somebody has removed would be taken for one that never was."""
    asked(filled, f"DELETE FROM {ROW}", **row_of(filled, mapping("2")))
    (found,) = errors_of(filled)
    assert "its 4 records are not the 5" in found
    with open_device(filled) as device:  # and it stays found
        device.set({"lid-mapping": {"2": "again", "5": "new"}})
    assert errors_of(filled) != []


def test_what_was_put_back_is_found(filled: str) -> None:
    """An older state of a session that somebody puts back would be used: its keys twice. Nor may
    what the device does afterwards hide it."""
    old = data_of(filled, mapping("1"))
    with open_device(filled) as device:
        device.set({"lid-mapping": {"1": "newer"}})
    put(filled, mapping("1"), old)
    assert len(errors_of(filled)) == 1
    with open_device(filled) as device:
        device.set({"lid-mapping": {"1": "written over", "3": None}})
    assert len(errors_of(filled)) == 1


def test_what_was_put_in_again_is_found(filled: str) -> None:
    """A record that was deleted (a pre-key that was used) would come back."""
    used = data_of(filled, mapping("1"))
    with open_device(filled) as device:
        device.set({"lid-mapping": {"1": None}})
    put(filled, mapping("1"), used)
    assert len(errors_of(filled)) == 1


def test_a_row_from_outside_is_found(filled: str) -> None:
    """A row that nobody has sealed would not be told of."""
    held = device_of(filled)
    asked(filled, PUT, device=held.id, family="session", id="1.0", data=b"\0" * 80)
    assert errors_of(filled) != []
    with open_device(filled, read_only=True) as device, pytest.raises(StoreDamaged):
        device.ids("session")


CHANGES = {
    "commits": "commits = commits - 1",
    "a state that was put back": "state = %(old)s",
    "no state": "state = NULL",
    "a part of the state": "state = substring(state FROM 1 FOR 40)",
    "another lineage": "lineage = gen_random_uuid()",
    "no seal": "generation = 0",
    "another generation": "generation = 2",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_entry_is_found(filled: str, change: str) -> None:
    """A device's row that somebody has changed would be taken for what its owner has left."""
    held = device_of(filled)
    where = "WHERE id = %(id)s"
    ((old,),) = asked(filled, f"SELECT state FROM ratchetkeep.devices {where}", id=held.id)
    with open_device(filled) as device:
        device.set({"lid-mapping": {"5": "x"}})
    asked(filled, f"UPDATE ratchetkeep.devices SET {CHANGES[change]} {where}", id=held.id, old=old)
    before = asked(filled, f"SELECT owner FROM ratchetkeep.devices {where}", id=held.id)
    for read_only in (False, True):
        with pytest.raises(StoreDamaged):
            open_device(filled, read_only=read_only)
    assert errors_of(filled) != []
    assert asked(filled, f"SELECT owner FROM ratchetkeep.devices {where}", id=held.id) == before


def test_a_changed_mark_is_found(filled: str) -> None:
    """Somebody could send a client to another place."""
    copy_device(filled, filled.replace("alice", "bob"), retire=True)
    with pytest.raises(DeviceMoved):
        open_device(filled)
    asked(filled, "UPDATE ratchetkeep.devices SET moved_to = 'x' WHERE moved_to IS NOT NULL")
    with pytest.raises(StoreDamaged, match="its mark"):
        open_device(filled)


def test_every_byte_counts(filled: str) -> None:
    """A byte of a sealed row could be changed, and nobody would notice."""
    data = data_of(filled, mapping("1"))
    for place in range(0, len(data), 3):
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        put(filled, mapping("1"), bytes(changed))
        with open_device(filled, read_only=True) as device, pytest.raises(RatchetkeepError):
            device.get("lid-mapping", ["1"])
    put(filled, mapping("1"), data)
    assert errors_of(filled) == []


def test_commits_of_unknown_rows(filled: str) -> None:
    """A commit that replaces what this process has never read would leave a wrong sum."""
    with open_device(filled) as device:
        device.set({"lid-mapping": {"1": "blind", "2": None, "absent": None, "new": "x"}})
        assert errors_of(filled) == []
        device.set({"lid-mapping": {"1": "again", "2": "back", "new": None}})
        assert errors_of(filled) == []
        device.clear()
        assert errors_of(filled) == []


# -- the server's files


@pytest.mark.parametrize("is_sealed", [True, False], ids=["sealed", "plain"])
def test_the_servers_files(monkeypatch: pytest.MonkeyPatch, is_sealed: bool) -> None:
    """Whoever gets the server's disk, or a backup of it, could read keys, contacts or names. That
    the search finds them in a plain database shows that it would find them."""
    name = "a device's own name"
    with pgserver.running() as server:
        if is_sealed:
            give_key(monkeypatch)
        url = sealed_database(server) if is_sealed else server.new_database()
        target = f"{url}&device={name}"
        copy_device(f"baileys:{ALICE}", target)
        with open_device(target) as device:
            secrets = needles(device)
            for family in ("session", "identity-key", "pre-key"):
                device.set({family: device.get(family, device.ids(family))})
        copy_device(target, f"{url}&device=elsewhere", retire=True)
        asked(url, "CHECKPOINT")
        server.stop()
        found = {what for path in server.folder.rglob("*") for what in hits(path, secrets)}
    wanted = {name.encode(), *secrets}
    assert len(secrets) > 20
    assert found == set() if is_sealed else len(found) > len(wanted) / 2


def needles(device: Any) -> set[bytes]:
    """Texts and keys of a device that nobody else's files hold by chance."""
    creds = device.credentials
    secrets = {
        b"a device's own name",
        creds.noise_key.private,
        creds.signed_identity_key.private,
        creds.signed_pre_key.key_pair.private,
    }
    for family in ("session", "pre-key", "sender-key", "identity-key", "lid-mapping"):
        for id, value in device.get(family, device.ids(family)).items():
            if len(id) >= 8:
                secrets.add(id.encode())
            if family == "pre-key":
                secrets.add(value.private)
            if family == "session":
                for session in value.sessions.values():
                    secrets.add(session.current_ratchet.root_key)
    return secrets


def hits(path: Path, secrets: set[bytes]) -> set[bytes]:
    """Which of them a file holds."""
    if not path.is_file() or "program" in path.parts:
        return set()
    with suppress(PermissionError):
        data = path.read_bytes()
        return {secret for secret in secrets if secret in data}
    return set()
