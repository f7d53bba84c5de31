"""A sealed store and the wrong key, no key, or a key of the other kind: an error that says so, and
nothing is touched."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from _sealing import KEY, OTHER_KEY, Place, sealed, small_source, values_of
from ratchetkeep import (
    InvalidValue,
    NoDevice,
    RatchetkeepError,
    StoreDamaged,
    StoreUnreadable,
    UnsupportedVersion,
    WrongKey,
    copy_device,
    inspect_device,
    open_device,
    open_store,
    verify_device,
)
from ratchetkeep.reseal import rekey_store, seal_store, unseal_store
from ratchetkeep.sealing.keys import KeyFile, make_key_file

PASSPHRASE = "correct horse"
VARIABLES = ("FILE", "PASSPHRASE", "KEYRING", "COMMAND")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(f"RATCHETKEEP_KEY_{name}", raising=False)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return small_source(tmp_path_factory.mktemp("source") / "device")


@pytest.fixture(scope="module")
def made(source: str, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Place]:
    """Stores that are sealed with a passphrase (True), and a raw key (False)."""
    folder = tmp_path_factory.mktemp("sealed")
    return {
        True: sealed(Place(folder / "passphrase"), source, key=PASSPHRASE),
        False: sealed(Place(folder / "raw"), source, key=KEY),
    }


@pytest.fixture(params=[True, False], ids=["passphrase", "raw key"])
def is_passphrase(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def place(made: dict[bool, Place], is_passphrase: bool, tmp_path: Path) -> Place:
    return made[is_passphrase].copy(tmp_path / "file")


Use = Callable[[Place, Any], Any]
USES: dict[str, Use] = {
    "open": lambda place, key: open_device(place.url(), key=key),
    "create": lambda place, key: open_device(place.url("new"), create=True, key=key),
    "create the same": lambda place, key: open_device(place.url(), create=True, key=key),
    "read": lambda place, key: open_device(place.url(), read_only=True, key=key),
    "list": lambda place, key: open_store(place.store, key=key).devices(),
    "remove": lambda place, key: open_store(place.store, key=key).remove("+15551230001"),
    "verify": lambda place, key: verify_device(place.url(), key=key),
    "inspect": lambda place, key: inspect_device(place.url(), key=key),
    "unseal": lambda place, key: unseal_store(place.store, key),
    "rekey": lambda place, key: rekey_store(place.store, key, b"n" * 32),
    "rekey all": lambda place, key: rekey_store(place.store, key, b"n" * 32, data_key=True),
    "copy from": lambda place, key: copy_device(
        place.url(), f"sqlite:{place.folder.parent}/target.db", key=key, plaintext=True
    ),
}
WRONG: dict[str, Any] = {
    "none": None,
    "another passphrase": "Correct horse",
    "another raw key": OTHER_KEY,
    "the raw key's text as a passphrase": KEY.hex(),
    "a raw key as text": "ratchetkeep-key-1:" + base64.b64encode(OTHER_KEY).decode(),
}


# Each verb with the wrong keys that differ most; and each wrong key.
CASES = [(use, wrong) for use in USES for wrong in ("none", "another raw key")]
CASES += [("open", wrong) for wrong in WRONG] + [("create", "another passphrase")]


@pytest.mark.parametrize(("use", "wrong"), CASES)
def test_nothing_is_touched(place: Place, use: str, wrong: str) -> None:
    """Whoever mistypes a passphrase would change the file, or leave something beside it; or be told
    that nothing is there, and make a new device."""
    before = place.state()
    with pytest.raises(WrongKey) as caught:
        USES[use](place, WRONG[wrong])
    after = place.state()
    # Who opens for writing takes the lock beside the file first, and gives it back.
    before.pop(""), after.pop("")
    assert after == before
    assert os.listdir(place.folder.parent) == ["file"]
    for secret in (PASSPHRASE, "Correct horse", KEY.hex(), OTHER_KEY.hex()):
        assert secret not in f"{caught.value} {caught.value.remedy}"


def test_a_log_that_was_left_is_not_touched(source: str, tmp_path: Path) -> None:
    """A wrong key would change the file of an owner that was killed: before a backup of it is made,
    say, or by somebody who may not."""
    live = sealed(Place(tmp_path / "live"), source, key=KEY)
    with open_device(live.url(), key=KEY) as device:
        device.set({"lid-mapping": {"15551230009": "x"}})
        place = live.copy(tmp_path / "left")
    before = place.state()
    for use in ("open", "create", "read", "rekey", "unseal"):
        with pytest.raises(WrongKey):
            USES[use](place, OTHER_KEY)
        after = place.state()
        for name in ("x.db", "x.db-wal"):
            assert after[name] == before[name], use
    assert values_of(place.url())


def test_the_right_key_of_each_kind(place: Place, is_passphrase: bool) -> None:
    """All other tests here would be green over a store that nothing opens."""
    key = PASSPHRASE if is_passphrase else KEY
    assert values_of(place.url(), key)
    as_text = "ratchetkeep-key-1:" + base64.b64encode(KEY).decode()
    if not is_passphrase:
        assert values_of(place.url(), as_text) == values_of(place.url(), key)


def test_kinds_are_told_apart(place: Place, is_passphrase: bool) -> None:
    """Whoever gives the key file in place of the passphrase would look for a mistyped one."""
    given: Any = KEY if is_passphrase else PASSPHRASE
    with pytest.raises(WrongKey, match=r"passphrase.*raw key|raw key.*passphrase"):
        open_device(place.url(), key=given)


def test_more_than_one_variable(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two keys would be taken by chance: a store be sealed with the one that is then
    thrown away."""
    monkeypatch.setenv("RATCHETKEEP_KEY_PASSPHRASE", PASSPHRASE)
    monkeypatch.setenv("RATCHETKEEP_KEY_COMMAND", "cat /nowhere")
    before = place.state()
    with pytest.raises(InvalidValue, match="RATCHETKEEP_KEY_PASSPHRASE"):
        open_device(place.url(), read_only=True)
    with pytest.raises(InvalidValue, match="RATCHETKEEP_KEY_COMMAND"):
        unseal_store(place.store)
    assert place.state()["x.db"] == before["x.db"]


def shell(place: Place, *arguments: str, **variables: str) -> tuple[int, str]:
    clean = {name: each for name, each in os.environ.items() if "RATCHETKEEP_KEY" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "ratchetkeep", *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**clean, **variables},
    )
    return done.returncode, done.stderr + done.stdout


def test_commands_end_with_9(made: dict[bool, Place], tmp_path: Path) -> None:
    """A script could not tell a wrong key from damage, and restore an old backup over a store that
    is whole."""
    place = made[False].copy(tmp_path / "file")
    before = place.state()
    text = "ratchetkeep-key-1:" + base64.b64encode(OTHER_KEY).decode()
    for command in (["inspect"], ["verify", "--json"], ["unseal"]):
        code, told = shell(place, *command, place.url(), RATCHETKEEP_KEY_PASSPHRASE=text)
        assert code == 9, told
        assert text not in told
    assert place.state()["x.db"] == before["x.db"]
    code, told = shell(place, "inspect", place.url())
    assert code == 9
    assert "RATCHETKEEP_KEY_FILE" in told


def test_a_key_where_nothing_is_sealed(source: str, tmp_path: Path) -> None:
    """Somebody who put a plain file in the place of a sealed one would go unseen, and its keys be
    kept for all to read from then on."""
    place = sealed(Place(tmp_path / "plain"), source, key=None)
    before = place.state()
    for use in ("open", "read", "list", "create"):
        with pytest.raises(InvalidValue, match="not sealed"):
            USES[use](place, KEY)
    with pytest.raises(InvalidValue):
        unseal_store(place.store, KEY)
    assert place.state()["x.db"] == before["x.db"]


def test_a_store_is_sealed_once(place: Place, is_passphrase: bool) -> None:
    """Sealing what is sealed would leave records that two keys are needed for."""
    before = place.state()["x.db"]
    with pytest.raises((InvalidValue, WrongKey)):
        seal_store(place.store, PASSPHRASE if is_passphrase else KEY)
    assert place.state()["x.db"] == before


def test_key_files_that_others_can_read(place: Place, tmp_path: Path) -> None:
    """A key that everybody can read would seal nothing, and nobody be told."""
    path = tmp_path / "key"
    make_key_file(path)
    path.chmod(0o640)
    with pytest.raises(InvalidValue, match="mode 0640"):
        open_device(place.url(), key=KeyFile(path))
    with pytest.raises(StoreUnreadable):
        open_device(place.url(), key=KeyFile(tmp_path / "nothing"))


# -- the ring


def change_ring(place: Place, change: Callable[[dict[str, Any]], None]) -> None:
    ring = json.loads(place.execute("SELECT data FROM ring")[0][0])
    change(ring)
    place.execute("UPDATE ring SET data = ?", json.dumps(ring).encode())


@pytest.mark.parametrize("member", ["iterations", "lanes", "memory"])
@pytest.mark.parametrize("value", [-1, 0, 2**31 - 1, 2**40, 2**70, 1e9, "1", None, True])
def test_parameters_that_are_out_of_reason(
    made: dict[bool, Place], tmp_path: Path, member: str, value: Any
) -> None:
    """Whoever can write the file could have its owner run out of memory, or wait for a year, or let
    a weak derivation make the key easy to guess."""
    place = made[True].copy(tmp_path / "file")
    change_ring(place, lambda ring: ring["derivation"].update({member: value}))
    with pytest.raises(StoreDamaged):
        open_device(place.url(), create=True, key=PASSPHRASE)


RINGS: dict[str, Callable[[dict[str, Any]], None]] = {
    "store": lambda ring: ring.update(store=base64.b64encode(bytes(16)).decode()),
    "current": lambda ring: ring.update(current=0),
    "work": lambda ring: ring.update(work="unseal"),
    "salt": lambda ring: ring["derivation"].update(salt=base64.b64encode(bytes(16)).decode()),
    "passes": lambda ring: ring["derivation"].update(iterations=1),
    "kind": lambda ring: ring["derivation"].update(
        kind="raw" if ring["derivation"]["kind"] == "argon2id" else "argon2id"
    ),
    "a key more": lambda ring: ring["keys"].update({"2": ring["keys"]["1"]}),
    "another number": lambda ring: ring.update(keys={"2": ring["keys"]["1"]}),
    "no key": lambda ring: ring.update(keys={}),
    "short key": lambda ring: ring.update(keys={"1": "AAAA"}),
    "no number": lambda ring: ring.update(keys={"one": ring["keys"]["1"]}),
    "format": lambda ring: ring.update(format="other"),
    "version 0": lambda ring: ring.update(version=0),
    "version": lambda ring: ring.update(version=2),
    "no version": lambda ring: ring.pop("version"),
}


@pytest.mark.parametrize("change", RINGS)
def test_a_ring_that_was_changed(place: Place, is_passphrase: bool, change: str) -> None:
    """Somebody without the key could have new devices kept plain, or sealed with a key that they
    know."""
    change_ring(place, RINGS[change])
    key = PASSPHRASE if is_passphrase else KEY
    for create, read_only in ((False, False), (True, False), (False, True)):
        with pytest.raises((WrongKey, StoreDamaged, UnsupportedVersion)) as caught:
            open_device(place.url(), create, read_only, key=key)
        assert not isinstance(caught.value, NoDevice)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"version": 1e400}', b"[" * 5000])
def test_a_ring_that_is_none(place: Place, data: bytes) -> None:
    """A damaged ring would end in an error that says nothing, or in a device that is made anew."""
    place.execute("UPDATE ring SET data = ?", data)
    with pytest.raises(RatchetkeepError) as caught:
        open_device(place.url(), create=True, key=PASSPHRASE)
    assert isinstance(caught.value, StoreDamaged)
    assert not isinstance(caught.value, NoDevice)


@pytest.mark.parametrize("to_passphrase", [True, False])
def test_the_old_key_opens_nothing_after_a_rekey(
    place: Place, is_passphrase: bool, to_passphrase: bool
) -> None:
    """The old ring would be left in what is free of the file: whoever learns the old passphrase
    could still open it."""
    old = PASSPHRASE if is_passphrase else KEY
    wrapped = json.loads(place.execute("SELECT data FROM ring")[0][0])["keys"]["1"]
    values = values_of(place.url(), old)
    new: Any = "a new one" if to_passphrase else OTHER_KEY
    summary = rekey_store(place.store, old, new)
    assert (summary.devices, summary.records) == (0, 0)
    for path in place.folder.iterdir():
        assert wrapped.encode() not in path.read_bytes()
        assert wrapped.encode()[20:40] not in path.read_bytes()
    with pytest.raises(WrongKey):
        open_device(place.url(), key=old)
    assert values_of(place.url(), new) == values
