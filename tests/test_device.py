"""Device beyond the store contract: cache, locks, contexts, arguments, reprs."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ratchetkeep import (
    Device,
    EncodedRecord,
    InvalidValue,
    NotHeld,
    RatchetkeepError,
    StoreDamaged,
    open_device,
    open_store,
)
from ratchetkeep._cache import Cache
from ratchetkeep.model import AccountSettings, DisappearingMode
from ratchetkeep.testing import Holds, record

KINDS = ("memory", "sqlite", "baileys", "baileysex")


@pytest.fixture
def device() -> Iterator[Device]:
    with open_device(f"memory:{uuid.uuid4()}", create=True) as device:
        yield device


def place(kind: str, folder: Path) -> str:
    return f"{kind}:{uuid.uuid4()}" if kind == "memory" else f"{kind}:{folder}/{kind}.place"


# -- the cache and the locks


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_cache_forgets_nothing(kind: str, tmp_path: Path) -> None:
    """A record that left the cache would be taken for absent."""
    with open_device(place(kind, tmp_path), create=True) as device:
        device._memory._cache = Cache(max_bytes=2000)
        for number in range(1, 30):
            device.set({"lid-mapping": {str(number): f"lid {number}"}})
        ids = [str(number) for number in range(40)]
        expected = {str(number): f"lid {number}" for number in range(1, 30)}
        assert device.get("lid-mapping", ids) == expected
        assert device.get("lid-mapping", reversed(ids)) == expected


def test_a_nested_transaction_keeps_the_outer_lock(device: Device) -> None:
    """The inner end would let another thread in while the outer one still works."""
    with device.transaction("a"):
        with device.transaction("a", "b"):
            pass
        # What the inner one locked stays locked: its changes are not committed yet.
        assert set(device._locks._holders) == {"a", "b"}
        with pytest.raises(InvalidValue), device.transaction("c"):
            device.set({"session": {"1": 1}})
        # What failed locked leaves with it.
        assert set(device._locks._holders) == {"a", "b"}
    assert device._locks._holders == {}


# -- transactions and contexts


def test_a_transaction_is_of_its_own_thread_and_task(device: Device) -> None:
    """Two asyncio tasks would write into each other's transaction."""

    async def work(name: str, fails: bool) -> None:
        try:
            with device.transaction():
                device.set({"lid-mapping": {name: "1"}})
                await asyncio.sleep(0)
                assert device.ids("lid-mapping") == [name]
                if fails:
                    raise KeyError
        except KeyError:
            assert fails

    async def both() -> None:
        await asyncio.gather(work("a", True), work("b", True))
        assert device.ids("lid-mapping") == []
        await work("c", False)

    asyncio.run(both())
    assert device.ids("lid-mapping") == ["c"]


def test_two_devices_have_their_own_transactions(device: Device) -> None:
    """A transaction of one device would swallow what is set on another."""
    with open_device("memory:", create=True) as other:
        with pytest.raises(KeyError), device.transaction():
            other.set({"lid-mapping": {"1": "2"}})
            device.set({"lid-mapping": {"3": "4"}})
            raise KeyError
        assert other.ids("lid-mapping") == ["1"]
        assert device.ids("lid-mapping") == []


def test_a_context_that_outlives_its_transaction_loses_nothing(device: Device) -> None:
    """What is set in a context that was copied inside a transaction would go into the ended one:
    lost, and nobody is told."""
    with device.transaction():
        context = contextvars.copy_context()
    try:
        context.run(device.set, {"lid-mapping": {"1": "2"}})
    except RatchetkeepError:
        assert device.ids("lid-mapping") == []
    else:
        assert device.ids("lid-mapping") == ["1"]
    assert context.run(device.ids, "lid-mapping") == device.ids("lid-mapping")


def test_a_task_started_in_a_transaction_loses_nothing(device: Device) -> None:
    """The same as it happens in real clients: an asyncio task inherits the transaction."""

    async def later(ended: asyncio.Event) -> bool:
        await ended.wait()
        try:
            device.set({"lid-mapping": {"1": "2"}})
        except RatchetkeepError:
            return False
        return True

    async def main() -> bool:
        ended = asyncio.Event()
        with device.transaction():
            task = asyncio.create_task(later(ended))
            await asyncio.sleep(0)
        ended.set()
        return await task

    was_taken = asyncio.run(main())
    assert device.ids("lid-mapping") == (["1"] if was_taken else [])


@pytest.mark.parametrize("fails", [False, True])
def test_a_transaction_takes_nothing_after_its_end(device: Device, fails: bool) -> None:
    """What is set on an ended transaction would be lost without a word."""
    try:
        with device.transaction() as transaction:
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    with pytest.raises(RatchetkeepError):
        transaction.set({"lid-mapping": {"1": "2"}})
    with pytest.raises(RatchetkeepError):
        transaction.save_credentials(device.credentials.replace(registered=True))
    assert device.ids("lid-mapping") == []
    assert not device.credentials.registered


# -- arguments and reprs


@pytest.mark.parametrize("ids", ["1.0", b"1.0", [1], [None], [""], ["a\0"]])
def test_ids_must_be_a_list_of_texts(device: Device, ids: Any) -> None:
    """get("session", "15.0") would look for the ids 1, 5, ., 0 and find none."""
    with pytest.raises(InvalidValue):
        device.get("session", ids)
    with device.transaction() as transaction, pytest.raises(InvalidValue):
        transaction.get("session", ids)


@pytest.mark.parametrize("wrong", [[], None, "session", {"session": None}, {"session": [("1", 2)]}])
def test_records_must_be_mappings(device: Device, wrong: Any) -> None:
    """A wrong call would end in an error that does not say what was wrong."""
    with pytest.raises(InvalidValue):
        device.set(wrong)


def test_other_arguments_are_checked(device: Device) -> None:
    """A misspelt family would look empty, or credentials be stored that cannot be read."""
    noise: Any = {"noise_key": device.credentials.noise_key}
    with pytest.raises(InvalidValue):
        device.ids("sessions")
    with pytest.raises(InvalidValue):
        device.save_credentials(noise)


@pytest.mark.parametrize("kind", KINDS)
def test_no_repr_shows_a_key(kind: str, tmp_path: Path) -> None:
    """A log line with a device or a transaction in it would give the account away."""
    url = place(kind, tmp_path)
    with open_store(url) as store, store.create() as device:
        device.set({"pre-key": {"1": record("pre-key", 1, device.credentials, Holds())}})
        with device.transaction() as transaction:
            transaction.set({"lid-mapping": {"1": "a secret name"}})
            shown = [repr(x) for x in (device, store, transaction, device._store, device._memory)]
        assert url in repr(device)
        assert "default" in repr(device)
        assert "open" in repr(device)
        private = device.credentials.signed_identity_key.private
        for text in shown:
            assert "secret" not in text
            assert repr(private)[2:14] not in text
        assert (device.name, device.url) == ("default", url)
    assert "closed" in repr(device)


@pytest.mark.parametrize("kind", ["baileys", "baileysex"])
@pytest.mark.parametrize("family", ["session", "lid-mapping", "pre-key", "identity-key"])
@pytest.mark.parametrize("encoding", ["baileys-buffer", "etf", "go-json"])
def test_an_encoded_record_comes_back_or_is_refused(
    kind: str, family: str, encoding: str, tmp_path: Path
) -> None:
    """A client's own bytes would be stored so that they cannot be read, or come back as others."""
    url, value = place(kind, tmp_path), EncodedRecord(encoding=encoding, data=b"\x05" + bytes(32))
    with open_device(url, create=True) as device:
        try:
            device.set({family: {"1": value}})
            held = {"1": value}
        except (NotHeld, InvalidValue):
            held = {}
    with open_device(url) as device:
        assert device.get(family, ["1"]) == held


@pytest.mark.parametrize("kind", KINDS)
def test_odd_encoding_names_come_back_or_are_refused(kind: str, tmp_path: Path) -> None:
    """An encoding's name that UTF-8 cannot hold would make a record that cannot be read again."""
    url = place(kind, tmp_path)
    held: dict[str, EncodedRecord] = {}
    with open_device(url, create=True) as device:
        try:
            odd = EncodedRecord(encoding="\ud800", data=b"1")
            device.set({"session": {"1": odd}})
            held = {"1": odd}
        except (NotHeld, InvalidValue):
            held = {}
    with open_device(url) as device:
        assert device.get("session", ["1"]) == held


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [1, 2])
def test_odd_names_in_the_credentials_are_taken_or_refused(
    kind: str, number: int, tmp_path: Path
) -> None:
    """Half of a character in an application's own data would stop the credentials from being
    saved, with an error that names no member, or would give the member another name."""
    url, data = place(kind, tmp_path), {chr(0xD800 + n): n for n in range(number)}
    with open_device(url, create=True) as device:
        saved = before = device.credentials
        try:
            device.save_credentials(before.replace(additional_data=data))
            saved = device.credentials
        except NotHeld as error:
            assert "additional_data" in error.place
    with open_device(url) as device:
        assert device.credentials == saved


def test_a_wrong_member_of_a_file_is_damage(tmp_path: Path) -> None:
    """A damaged file would be reported as a mistake of the caller, who then has no place and no
    remedy, and code that handles StoreDamaged would not see it."""
    url = f"baileysex:{tmp_path}/auth"
    with open_device(url, create=True) as device:
        mode = DisappearingMode(ephemeral_expiration=86400)
        settings = AccountSettings(default_disappearing_mode=mode)
        device.save_credentials(device.credentials.replace(account_settings=settings))
    file = tmp_path / "auth" / "creds.etf"
    number, text = b"b\x00\x01\x51\x80", b"m\x00\x00\x00\x04soon"
    assert file.read_bytes().count(number) == 1
    file.write_bytes(file.read_bytes().replace(number, text))
    with pytest.raises(StoreDamaged):
        open_device(url)


def test_other_commits_do_not_turn_the_credentials_back(device: Device) -> None:
    """A commit of records that ran beside a save would bring the old credentials back into memory,
    and the next save would write them."""
    stop = threading.Event()

    def commit() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            device.set({"lid-mapping": {str(number % 9): str(number)}})

    others = [threading.Thread(target=commit) for _ in range(2)]
    for other in others:
        other.start()
    try:
        for number in range(100, 250):
            device.save_credentials(device.credentials.replace(next_pre_key_id=number))
            assert device.credentials.next_pre_key_id == number
    finally:
        stop.set()
        for other in others:
            other.join()


def test_an_inner_lock_is_kept_until_the_outer_commit(device: Device) -> None:
    """Another thread would read what the outer transaction is about to change: a lost update."""

    def count() -> None:
        with device.transaction("n"):
            held = device.get("lid-mapping", ["n"]).get("n", "0")
            device.set({"lid-mapping": {"n": str(int(held) + 1)}})

    other = threading.Thread(target=count)
    with device.transaction():
        count()
        other.start()
        other.join(0.2)
    other.join()
    assert device.get("lid-mapping", ["n"]) == {"n": "2"}
