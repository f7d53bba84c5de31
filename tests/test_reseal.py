"""Sealing, rekeying and unsealing a store that is there: what it tells, whom it refuses, and what
can be done while it is half way."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from _sealing import KEY, OTHER_KEY, Place, sealed, small_source, values_of
from ratchetkeep import (
    InvalidValue,
    NoDevice,
    StoreDamaged,
    StoreInUse,
    StoreUnreadable,
    WrongKey,
    open_device,
    open_store,
    verify_device,
)
from ratchetkeep.reseal import ResealSummary, rekey_store, seal_store, unseal_store
from ratchetkeep.sealing.keys import RawKey
from ratchetkeep.sealing.opening import IfSealed
from ratchetkeep.stores import _sqlite_file, urls

NAMES = ("a", "b", "c")
THIRD_KEY = b"3" * 32
EITHER = IfSealed(RawKey(KEY))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return small_source(tmp_path_factory.mktemp("source") / "device")


@pytest.fixture
def plain(source: str, tmp_path: Path) -> Place:
    return sealed(Place(tmp_path / "plain"), source, *NAMES, key=None)


@pytest.fixture
def place(source: str, tmp_path: Path) -> Place:
    return sealed(Place(tmp_path / "file"), source, *NAMES)


class Ended(Exception):
    """Raised in the middle of a command."""


def ended_at(number: int) -> Callable[[int, int], None]:
    """Ends a command before its device of this number, from 0."""

    def progress(done: int, of: int) -> None:
        assert of <= len(NAMES)
        if done == number:
            raise Ended

    return progress


def histories(place: Place, key: Any) -> dict[str, Any]:
    store = urls.open_target(urls.parse(place.store), key)
    found = {}
    for name in store.devices():
        store.acquire(name, read_only=True, create=False)
        found[name] = store.history(name)
    store.close()
    return found


def all_well(place: Place, key: Any, expected: Any, names: Any = NAMES) -> None:
    with open_store(place.store, key=key) as store:
        assert store.devices() == sorted(names)
    for name in names:
        assert values_of(place.url(name), key) == expected
        found = verify_device(place.url(name), key=key)
        assert [each.what for each in found if each.severity == "error"] == []


def test_there_and_back(plain: Place) -> None:
    """A store that was sealed would not come back as it was, or a client, a witness or a backup
    take its devices for others."""
    before, lives = values_of(plain.url("a"), None), histories(plain, None)
    records = len(before) * len(NAMES)
    seen: list[tuple[int, int]] = []
    summary = seal_store(plain.store, KEY, progress=lambda *now: seen.append(now))
    assert summary == ResealSummary(plain.store, 3, records, resumed=False)
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    all_well(plain, KEY, before)
    assert histories(plain, KEY) == lives
    assert rekey_store(plain.store, KEY, OTHER_KEY) == ResealSummary(plain.store, 0, 0, False)
    all_well(plain, OTHER_KEY, before)
    summary = rekey_store(plain.store, OTHER_KEY, data_key=True)
    assert (summary.devices, summary.records) == (3, records)
    all_well(plain, OTHER_KEY, before)
    assert histories(plain, OTHER_KEY) == lives
    assert unseal_store(plain.store, OTHER_KEY).records == records
    all_well(plain, None, before)
    assert histories(plain, None) == lives


def test_a_new_data_key_leaves_nothing_under_the_old_one(place: Place, tmp_path: Path) -> None:
    """Whoever has a copy of the store and of its key could go on reading what is written."""
    ring = place.execute("SELECT data FROM ring")[0][0]
    names = {name for (name,) in place.execute("SELECT name FROM devices")}
    rows = {(id, data) for _, _, id, data in place.rows()}
    rekey_store(place.store, KEY, OTHER_KEY, data_key=True)
    place.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = place.path.read_bytes()
    assert not [name for name in names if name.encode() in data]
    assert not [id for id, record in rows if id.encode() in data or record[3:40] in data]
    found = json.loads(place.execute("SELECT data FROM ring")[0][0])
    assert list(found["keys"]) == ["2"]
    # With the old ring, that is with the old data key, nothing opens.
    place.execute("UPDATE ring SET data = ?", ring)
    with pytest.raises(StoreDamaged):
        open_device(place.url("a"), key=KEY)


COMMANDS: dict[str, Callable[..., ResealSummary]] = {
    "seal": lambda place, **how: seal_store(place.store, KEY, **how),
    "rekey": lambda place, **how: rekey_store(place.store, KEY, data_key=True, **how),
    "unseal": lambda place, **how: unseal_store(place.store, KEY, **how),
}


@pytest.fixture(params=sorted(COMMANDS))
def command(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def begun(command: str, source: str, tmp_path: Path) -> Place:
    """A store where a command was ended after the first device."""
    key = None if command == "seal" else KEY
    place = sealed(Place(tmp_path / "begun"), source, *NAMES, key=key)
    with pytest.raises(Ended):
        COMMANDS[command](place, progress=ended_at(1))
    return place


def test_the_same_command_goes_on(begun: Place, command: str) -> None:
    """A command that was ended would begin anew, or refuse the store for ever."""
    before = values_of(begun.url("c"), EITHER)
    all_well(begun, EITHER, before)
    summary = COMMANDS[command](begun)
    assert (summary.devices, summary.resumed) == (2, True)
    all_well(begun, None if command == "unseal" else KEY, before)
    assert len(begun.execute("SELECT DISTINCT generation FROM devices")) == 1


def test_other_commands_wait(begun: Place, command: str) -> None:
    """Two commands would each do half, and leave devices with keys that the store has not."""
    before = values_of(begun.url("c"), EITHER)
    for other in sorted(set(COMMANDS) - {command}):
        with pytest.raises(InvalidValue) as caught:
            COMMANDS[other](begun)
        if other != "seal":
            assert f"ratchetkeep {command}" in f"{caught.value} {caught.value.remedy}"
    all_well(begun, EITHER, before)
    COMMANDS[command](begun)


def test_a_store_that_is_half_way_is_used(begun: Place, command: str) -> None:
    """A client that starts meanwhile would not find its device, or mint it anew; or what it commits
    be lost when the command goes on."""
    with pytest.raises(NoDevice):
        open_device(begun.url("nobody"), key=EITHER)
    for name in NAMES:
        with open_device(begun.url(name), create=True, key=EITHER) as device:
            device.set({"lid-mapping": {"15551230009": name}})
    with open_device(begun.url("new"), create=True, key=EITHER) as device:
        device.set({"lid-mapping": {"15551230009": "new"}})
    with open_store(begun.store, key=EITHER) as store:
        store.remove("c")
        assert store.devices() == ["a", "b", "new"]
    COMMANDS[command](begun)
    key = None if command == "unseal" else KEY
    for name in ("a", "b", "new"):
        with open_device(begun.url(name), key=key) as device:
            assert device.get("lid-mapping", ["15551230009"]) == {"15551230009": name}
        found = verify_device(begun.url(name), key=key)
        assert [each.what for each in found if each.severity == "error"] == []


def test_a_store_that_is_half_way_needs_its_key(begun: Place) -> None:
    """A store that is half sealed would show its plain half to whoever asks, or lose its ring to a
    wrong key."""
    ring = begun.execute("SELECT data FROM ring")
    for name in NAMES:
        for key in (None, OTHER_KEY):
            with pytest.raises(WrongKey):
                open_device(begun.url(name), key=key)
    with pytest.raises(WrongKey):
        seal_store(begun.store, OTHER_KEY)
    assert begun.execute("SELECT data FROM ring") == ring


def test_going_on_with_another_new_key(place: Place) -> None:
    """Whoever lost the new key's file between two runs could not choose another one."""
    with pytest.raises(Ended):
        rekey_store(place.store, KEY, OTHER_KEY, data_key=True, progress=ended_at(1))
    with pytest.raises(WrongKey):
        rekey_store(place.store, KEY, OTHER_KEY, data_key=True)
    before = values_of(place.url("a"), OTHER_KEY)
    assert rekey_store(place.store, OTHER_KEY, THIRD_KEY).resumed
    all_well(place, THIRD_KEY, before)


def test_a_device_that_is_open_here(place: Place, command: str, plain: Place) -> None:
    """The records of a running client would be spelled anew behind its back."""
    store, key = (plain, None) if command == "seal" else (place, KEY)
    with open_device(store.url("b"), key=key) as device:
        with pytest.raises(StoreInUse):
            COMMANDS[command](store)
        device.set({"lid-mapping": {"15551230009": "x"}})
    COMMANDS[command](store)


HOLD = """
import sys
from ratchetkeep import open_device
device = open_device(sys.argv[1], key=bytes.fromhex(sys.argv[2]))
print("open", flush=True)
sys.stdin.read()
"""


def test_a_device_that_another_process_owns(place: Place) -> None:
    """The same, of a client in another process."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, place.url("b"), KEY.hex()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdin and holder.stdout
    assert holder.stdout.readline() == b"open\n"
    before = place.execute("SELECT data FROM ring")
    with pytest.raises(StoreInUse, match=f"process {holder.pid}"):
        rekey_store(place.store, KEY, OTHER_KEY)
    holder.communicate()
    assert place.execute("SELECT data FROM ring") == before


def test_a_reader_that_stays(plain: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader would see half of two spellings; or the plain pages that it still needs be left in
    the log, and the store be said to be sealed."""
    monkeypatch.setattr(_sqlite_file, "BUSY_MILLISECONDS", 300)
    before = values_of(plain.url("a"), None)
    with open_device(plain.url("a"), read_only=True) as reader:
        with pytest.raises(StoreInUse, match="reader"):
            seal_store(plain.store, KEY)
        assert values_of(plain.url("b"), EITHER) == before
        assert reader.get("session", reader.ids("session"))
        found = json.loads(plain.execute("SELECT data FROM ring")[0][0])
        assert found["work"] == "seal"
    summary = seal_store(plain.store, KEY)
    assert summary.resumed
    all_well(plain, KEY, before)
    assert b"15551230001" not in plain.path.read_bytes()


def test_damage_ends_it(place: Place) -> None:
    """Records that were replayed or removed would be sealed anew, and look whole from then on."""
    number = place.rows("pre-key", device=2)[0][0]
    place.execute("DELETE FROM records WHERE rowid = ?", number)
    for command in ("rekey", "unseal"):
        copied = place.copy(place.folder.parent / command)
        with pytest.raises(StoreDamaged, match="'b'"):
            COMMANDS[command](copied)
        assert values_of(copied.url("c"), KEY) == values_of(copied.url("a"), KEY)
        found = verify_device(copied.url("b"), key=KEY)
        assert "error" in [each.severity for each in found]


def test_two_commands_at_once(place: Place) -> None:
    """Two operators would each put a ring there, and one's data key be lost with its records."""
    outcomes: list[Any] = []
    start = threading.Barrier(2)

    def run(key: bytes) -> None:
        start.wait()
        try:
            outcomes.append(rekey_store(place.store, KEY, key, data_key=True) and key)
        except (StoreInUse, WrongKey) as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run, args=(key,)) for key in (OTHER_KEY, THIRD_KEY)]
    before = values_of(place.url("a"))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [each for each in outcomes if isinstance(each, bytes)]
    assert len(won) == 1, outcomes
    all_well(place, won[0], before)


def test_nothing_is_there(tmp_path: Path) -> None:
    """A mistyped path would be made into an empty sealed store."""
    for command in COMMANDS.values():
        with pytest.raises(NoDevice):
            command(Place(tmp_path / "empty"))
    assert os.listdir(tmp_path / "empty") == []
    with pytest.raises(InvalidValue):
        seal_store(f"baileys:{tmp_path}", KEY)
    with pytest.raises(WrongKey):
        seal_store(f"sqlite:{tmp_path}/x.db")


def test_a_disk_that_cannot_be_written(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sealed store on a read-only disk could not be read at all; or a command there fail with an
    error that says nothing."""
    before = values_of(place.url("a"))
    real = os.open

    def refused(path: Any, flags: int, *more: Any, **how: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *more, **how)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(StoreUnreadable, match="cannot be locked"):
        rekey_store(place.store, KEY, OTHER_KEY)
    assert values_of(place.url("a")) == before


def test_an_empty_store(tmp_path: Path) -> None:
    """A store whose last device was removed could not be sealed before the first is made."""
    place = Place(tmp_path / "empty")
    open_device(place.url(), create=True).close()
    with open_store(place.store) as store:
        store.remove("+15551230001")
    assert seal_store(place.store, KEY).devices == 0
    open_device(place.url("new"), create=True, key=KEY).close()
    assert b"new" not in b"".join(
        name.encode() for (name,) in place.execute("SELECT name FROM devices")
    )
    rekey_store(place.store, KEY, OTHER_KEY, data_key=True)
    with open_store(place.store, key=OTHER_KEY) as store:
        assert store.devices() == ["new"]
