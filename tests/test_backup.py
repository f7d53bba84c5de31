"""Backups: whole, of one moment, encrypted, and read back before they are told of."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from _backups import (
    IDENTITY,
    PASSPHRASE,
    RECIPIENT,
    of_backup,
    of_store,
    small_sqlite,
    with_passphrase,
)
from _helpers import ALICE, OTP29, footprint, private_copy, small_baileys
from ratchetkeep import (
    CommitFailed,
    DeviceExists,
    DeviceMoved,
    InvalidValue,
    NoDevice,
    StoreDamaged,
    StoreInUse,
    WrongKey,
    copy_device,
    open_device,
    open_store,
)
from ratchetkeep.backup import backup_device, open_backup
from ratchetkeep.cli.app import app
from ratchetkeep.device import open_in
from ratchetkeep.model import CREDENTIALS, Credentials, Key, KeyPair, SignedPreKey
from ratchetkeep.stores import urls
from ratchetkeep.testing.strategies import NATIVE, values_for

VALUES = values_for(NATIVE)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return small_sqlite(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "made").mkdir()
    return tmp_path / "made" / "b"


def run(*arguments: object, **environment: str) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments], env=environment)


def with_fitting_keys(credentials: Credentials) -> Credentials:
    """The same with keys that belong together, as those of any real device do."""
    identity, pair = KeyPair.new(), credentials.pairing_ephemeral_key_pair
    return msgspec.structs.replace(
        credentials,
        noise_key=KeyPair.new(),
        signed_identity_key=identity,
        signed_pre_key=SignedPreKey.new(identity, credentials.signed_pre_key.key_id),
        pairing_ephemeral_key_pair=None if pair is None else KeyPair.new(),
    )


# What is in it.


@settings(max_examples=40, deadline=None)
@given(VALUES.credentials, st.lists(VALUES.batches, max_size=3))
def test_everything_that_a_device_can_hold(
    tmp_path_factory: pytest.TempPathFactory, credentials: Any, batches: list[Any]
) -> None:
    """A value would come out of a backup as another one, or not at all."""
    file = tmp_path_factory.mktemp("backup") / "b"
    name = f"memory:{file}"
    store = urls.open_target(urls.parse(name))
    fitting = with_fitting_keys(credentials)
    with open_in(store, "default", create=True, read_only=False, initial=fitting) as device:
        for batch in batches:
            device.set(batch)
    backup_device(name, file, plaintext=True)
    assert of_backup(file) == {"default": of_store(name)}


@pytest.mark.parametrize("fixture", [ALICE, OTP29], ids=["alice", "otp29"])
def test_real_folders(fixture: Path, tmp_path: Path, file: Path) -> None:
    """A folder of another library would not be saved whole, or be changed by saving it."""
    kind = "baileys" if fixture is ALICE else "baileysex"
    folder = private_copy(fixture, tmp_path / "device")
    before = footprint(folder)
    summary = backup_device(f"{kind}:{folder}", file, recipients=[RECIPIENT])
    assert footprint(folder) == before
    found = of_backup(file, identities=[IDENTITY])["default"]
    assert found == of_store(f"{kind}:{folder}")
    assert sum(summary.records.values()) == len(found)
    assert summary.devices[0].history is None
    assert summary.size == file.stat().st_size
    assert file.stat().st_mode & 0o777 == 0o600


def test_many_records_are_kept_in_portions(url: str, file: Path) -> None:
    """Records beyond the first portion would be lost, or a large one end the backup."""
    large = {str(each): "x" * 700_000 for each in range(3)}
    with open_device(url) as device:
        device.set({"lid-mapping": {f"{each}": str(each) for each in range(3000)} | large})
    backup_device(url, file, plaintext=True)
    with open_backup(file) as backup:
        assert backup.manifest.devices[0].records["lid-mapping"] == 3002
    assert of_backup(file)["default"] == of_store(url)


def test_all_devices_of_a_store(tmp_path: Path, file: Path) -> None:
    """A device of a store would be missing or mixed up, or one that lives elsewhere return."""
    url = small_sqlite(tmp_path)
    for name in ("b", "a", "gone"):
        copy_device(url, f"{url}?device={name}")
    with open_device(f"{url}?device=b") as device:
        device.set({"lid-mapping": {"only": "b"}})
    copy_device(f"{url}?device=gone", f"sqlite:{tmp_path}/else.db", retire=True)
    summary = backup_device(url, file, plaintext=True, all_devices=True)
    assert [each.name for each in summary.devices] == ["a", "b", "default"]
    assert summary.skipped == ("gone",)
    found = of_backup(file)
    assert found == {name: of_store(f"{url}?device={name}") for name in ("a", "b", "default")}
    with open_backup(file) as backup:  # a device that is not read is passed over
        names = [e.name for e in backup.devices() if e.name != "a" or next(e.records())]
    assert names == ["a", "b", "default"]
    with pytest.raises(DeviceMoved):
        backup_device(f"{url}?device=gone", file, plaintext=True)
    with pytest.raises(InvalidValue, match="one device"):
        backup_device(f"{url}?device=a", file, plaintext=True, all_devices=True)


def test_how_far_the_device_had_come(url: str, file: Path) -> None:
    """A restore could not tell whether something newer existed."""
    with open_device(url) as device:
        for turn in range(3):
            device.set({"lid-mapping": {"1": str(turn)}})
    first = backup_device(url, file, plaintext=True).devices[0].history
    with open_device(url) as device:
        device.set({"lid-mapping": {"1": "4"}})
    second = backup_device(url, file, plaintext=True).devices[0].history
    assert first is not None
    assert second is not None
    assert (second.id, second.commits) == (first.id, first.commits + 1)
    with open_backup(file) as backup:
        assert [entry.history for entry in backup.devices()] == [second]


COMMITS = """
import sys
from ratchetkeep import open_device
with open_device(sys.argv[1]) as device:
    for turn in range(10**6):
        device.set({"lid-mapping": {"first": str(turn), "last": str(turn)},
                    "device-list": {"x": [str(turn)]}})
        if turn == 5:
            print("on its way", flush=True)
"""


def test_one_moment_while_the_owner_commits(url: str, file: Path) -> None:
    """A backup would hold half of a commit, or say another moment than it holds."""
    owner = subprocess.Popen(
        [sys.executable, "-c", COMMITS, url], stdout=subprocess.PIPE, encoding="utf-8"
    )
    seen = set()
    try:
        assert owner.stdout is not None
        owner.stdout.readline()
        for _ in range(12):
            history = backup_device(url, file, plaintext=True).devices[0].history
            found = of_backup(file)["default"]
            turns = {value for key, value in found.items() if key.id in ("first", "last")}
            turns |= set(found[Key("device-list", "x")])
            assert len(turns) == 1
            assert history is not None
            seen.add((int(turns.pop()), history.commits))
    finally:
        owner.kill()
        owner.communicate()
    assert len(seen) > 1
    assert len({commits - turn for turn, commits in seen}) == 1


def test_a_folder_in_use(tmp_path: Path, file: Path) -> None:
    """A folder would be saved while it is written: records of different moments."""
    folder = small_baileys(tmp_path / "a")
    with open_device(f"baileys:{folder}"), pytest.raises(StoreInUse):
        backup_device(f"baileys:{folder}", file, plaintext=True)
    assert list(file.parent.iterdir()) == []


# Who can read it.


def test_recipients_of_each_kind(url: str, file: Path, tmp_path: Path) -> None:
    """Somebody to whom it is encrypted could not open it."""
    private = Ed25519PrivateKey.generate()
    plain = (ser.Encoding.PEM, ser.PrivateFormat.OpenSSH, ser.NoEncryption())
    (tmp_path / "ssh").write_bytes(private.private_bytes(*plain))
    public = private.public_key().public_bytes(ser.Encoding.OpenSSH, ser.PublicFormat.OpenSSH)
    listed = tmp_path / "recipients"
    listed.write_text(f"# who\n\n{RECIPIENT}\n")
    (tmp_path / "identity").write_text(f"# public key: ...\n{IDENTITY}\n")
    summary = backup_device(url, file, recipients=[public.decode(), listed])
    assert (summary.encryption, summary.recipients) == ("recipients", 2)
    for identity in (tmp_path / "ssh", tmp_path / "identity", IDENTITY):
        assert of_backup(file, identities=[identity])["default"] == of_store(url)


def test_a_key_that_does_not_open_it(url: str, file: Path) -> None:
    """A wrong key would look like damage, or a missing one like an empty backup."""
    other = "AGE-SECRET-KEY-1" + "0" * 58
    backup_device(url, file, recipients=[RECIPIENT])
    with pytest.raises(WrongKey, match="no identity"):
        open_backup(file)
    with pytest.raises(InvalidValue, match="not well-formed") as caught:
        open_backup(file, identities=[other])
    assert other not in str(caught.value)
    stranger = importlib.import_module("pyrage").x25519.Identity.generate()
    with pytest.raises(WrongKey, match="none of the identities"):
        open_backup(file, identities=[str(stranger)])
    backup_device(url, file, plaintext=True)
    file.write_bytes(with_passphrase(file.read_bytes(), PASSPHRASE))
    for opening, why in (
        ({}, "none was given"),
        ({"identities": [IDENTITY]}, "none was given"),
        ({"passphrase": "no"}, "does not open it"),
    ):
        with pytest.raises(WrongKey, match=why):
            open_backup(file, **opening)
    with open_backup(file, passphrase=PASSPHRASE) as backup:
        assert backup.encryption == "passphrase"
    assert of_backup(file, passphrase=PASSPHRASE)["default"] == of_store(url)


def test_nothing_of_the_device_can_be_read_in_it(url: str, file: Path) -> None:
    """An encrypted backup would show ids, names or keys."""
    with open_device(url, read_only=True) as device:
        creds = device.credentials
        assert creds.me is not None
        secrets = [
            creds.noise_key.private,
            creds.signed_identity_key.private,
            creds.signed_identity_key.public,
            creds.me.id.encode(),
        ]
    secrets += [key.id.encode() for key in of_store(url) if len(key.id) > 5]
    secrets += [b"lid-mapping", b"sqlite", b"RKBACKUP"]
    backup_device(url, file, plaintext=True)
    assert [each for each in secrets if each not in file.read_bytes()] == []
    for how in ({"recipients": [RECIPIENT]}, {"passphrase": PASSPHRASE}):
        backup_device(url, file, **how)
        assert [each for each in secrets if each in file.read_bytes()] == []


def test_exactly_one_way_must_be_asked_for(url: str, file: Path) -> None:
    """A backup would be written in the clear because nobody said anything."""
    for how in (
        {},
        {"passphrase": ""},
        {"plaintext": True, "passphrase": "x"},
        {"recipients": [RECIPIENT], "plaintext": True},
        {"recipients": ["age1nonsense"]},
        {"recipients": [IDENTITY]},
    ):
        with pytest.raises(InvalidValue) as caught:
            backup_device(url, file, **how)
        assert IDENTITY not in str(caught.value)
    assert list(file.parent.iterdir()) == []


def test_without_the_package(url: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without pyrage would get a traceback, or could not even make a plain backup."""
    backup_device(url, file, recipients=[RECIPIENT])
    monkeypatch.setitem(sys.modules, "pyrage", None)
    for how in ({"recipients": [RECIPIENT]}, {"passphrase": "x"}):
        with pytest.raises(InvalidValue, match=r"pip install 'ratchetkeep\[backup\]'"):
            backup_device(url, file, **how)
    with pytest.raises(InvalidValue, match=r"pip install 'ratchetkeep\[backup\]'"):
        open_backup(file, identities=[IDENTITY])
    backup_device(url, file, plaintext=True)


def test_more_than_a_passphrase_can_encrypt(
    url: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A huge backup would take all memory instead of saying that it needs a recipient."""
    from ratchetkeep import NotHeld, _backup_age

    monkeypatch.setattr(_backup_age, "MAX_HELD", 2000)
    with pytest.raises(NotHeld, match="recipient"):
        backup_device(url, file, passphrase=PASSPHRASE)
    assert list(file.parent.iterdir()) == []


def test_a_sealed_store(tmp_path: Path, file: Path) -> None:
    """A sealed store could not be saved, or be saved by whoever lacks its key."""
    url, key = f"sqlite:{tmp_path}/sealed.db", "the key of a sealed store"
    with open_device(url, create=True, key=key) as device:
        device.set({"lid-mapping": {"somebody": "else"}})
        credentials = device.credentials
    for wrong in (None, "another key"):
        with pytest.raises(WrongKey):
            backup_device(url, file, recipients=[RECIPIENT], key=wrong)
        assert list(file.parent.iterdir()) == []
    assert run("backup", url, file, "--recipient", RECIPIENT).exit_code == 9
    environment = {"RATCHETKEEP_KEY_PASSPHRASE": key}
    assert run("backup", url, file, "--recipient", RECIPIENT, **environment).exit_code == 0
    backup_device(url, file, recipients=[RECIPIENT], key=key)
    found = of_backup(file, identities=[IDENTITY])["default"]
    assert found == {CREDENTIALS: credentials, Key("lid-mapping", "somebody"): "else"}


# Sources that cannot be saved.


def test_a_damaged_source_replaces_nothing(tmp_path: Path, file: Path) -> None:
    """A damaged device would take the place of its last good backup."""
    folder = small_baileys(tmp_path / "a")
    backup_device(f"baileys:{folder}", file, plaintext=True)
    before = file.read_bytes()
    session = next(folder.glob("session-*"))
    session.write_bytes(session.read_bytes()[:-20])
    with pytest.raises(StoreDamaged, match="session"):
        backup_device(f"baileys:{folder}", file, plaintext=True, keep=2)
    (folder / "creds.json").unlink()
    with pytest.raises((StoreDamaged, NoDevice)):
        backup_device(f"baileys:{folder}", file, plaintext=True)
    with pytest.raises(NoDevice):
        backup_device(f"sqlite:{tmp_path}/none.db", file, plaintext=True)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_credentials_that_do_not_fit_together(tmp_path: Path, file: Path) -> None:
    """A device that can never connect again would rotate out the backups that can be used."""
    url = small_sqlite(tmp_path)
    backup_device(url, file, plaintext=True)
    before = file.read_bytes()
    with open_device(url) as device:
        torn = KeyPair(public=b"x" * 32, private=b"y" * 32)
        device.save_credentials(msgspec.structs.replace(device.credentials, noise_key=torn))
    with pytest.raises(StoreDamaged, match="noise_key"):
        backup_device(url, file, plaintext=True)
    assert file.read_bytes() == before


def test_nothing_but_a_backup_is_replaced(url: str, tmp_path: Path) -> None:
    """A mistyped name would replace a database, or something else that nobody meant."""
    database = tmp_path / "s.db"
    before = database.read_bytes()
    with pytest.raises(DeviceExists, match="no backup"):
        backup_device(url, database, plaintext=True)
    assert database.read_bytes() == before
    (tmp_path / "b.1").write_text("mine")
    with pytest.raises(DeviceExists):
        backup_device(url, tmp_path / "b", plaintext=True, keep=1)
    for odd in ("", f"{tmp_path}/", "a\0b"):
        with pytest.raises(InvalidValue):
            backup_device(url, odd, plaintext=True)
    for number in (0, -1, True, 10**6):
        with pytest.raises(InvalidValue, match="keep"):
            backup_device(url, tmp_path / "c", plaintext=True, keep=number)
    with pytest.raises(CommitFailed):
        backup_device(url, tmp_path / "nowhere" / "b", plaintext=True)


# Reading one.


def test_records_are_given_out_once(tmp_path: Path, file: Path) -> None:
    """Whoever asks for the records of a device twice, or too late, would be given a part of them or
    none, and take that for all."""
    url = small_sqlite(tmp_path)
    copy_device(url, f"{url}?device=second")
    backup_device(url, file, plaintext=True, all_devices=True)
    with open_backup(file) as backup:
        first: Any = None
        begun: Any = None
        for entry in backup.devices():
            if first is not None:
                with pytest.raises(InvalidValue, match="after the next device was"):
                    first.records()
                continue
            first = entry
        with pytest.raises(InvalidValue, match="after the next device was"):
            next(first.records())
    with open_backup(file) as backup:
        for entry in backup.devices():
            if begun is not None:
                with pytest.raises(InvalidValue, match="after the next device was"):
                    list(begun)
            begun = entry.records()
            next(begun)
            with pytest.raises(InvalidValue, match=r"'(default|second)'.*were asked for before"):
                entry.records()
    with open_backup(file) as backup:  # a device that is not read is passed over
        assert [entry.name for entry in backup.devices()] == ["default", "second"]


# The command.


def test_the_command_tells_what_it_did(url: str, file: Path) -> None:
    """The command would not say what was saved, or whether it was checked."""
    done = run("backup", url, file, "--recipient", RECIPIENT)
    assert done.exit_code == 0, done.output
    assert "encrypted to 1 recipient" in done.output
    assert "verified by reading it back" in done.output
    assert f"ratchetkeep restore {file}" in done.output
    told = json.loads(run("backup", url, file, "--plaintext", "--keep", 2, "--json").output)
    assert told["encryption"] == "none"
    assert told["older"] == [f"{file}.1"]
    assert told["devices"][0]["records"]["credentials"] == 1
    assert told["devices"][0]["records"] == {
        **dict.fromkeys(told["devices"][0]["records"], 1),
        "lid-mapping": 2,
    }


def test_a_passphrase_comes_from_the_environment(url: str, file: Path, tmp_path: Path) -> None:
    """A passphrase could not be given to a timer's backup, or an open file be taken for secret."""
    secret = tmp_path / "secret"
    secret.write_text(f"{PASSPHRASE}\n")
    name = "RATCHETKEEP_BACKUP_PASSPHRASE"
    assert run("backup", url, file).exit_code == 2
    secret.chmod(0o644)
    assert run("backup", url, file, **{f"{name}_FILE": str(secret)}).exit_code == 2
    secret.chmod(0o600)
    both = {name: PASSPHRASE, f"{name}_FILE": str(secret)}
    assert run("backup", url, file, **both).exit_code == 2
    assert not file.exists()
    done = run("backup", url, file, **{f"{name}_FILE": str(secret)})
    assert done.exit_code == 0, done.output
    assert "encrypted with a passphrase" in done.output
    assert CREDENTIALS in of_backup(file, passphrase=PASSPHRASE)["default"]
    assert run("backup", url, file, "--recipient", str(tmp_path / "r")).exit_code == 2


def test_a_store_with_many_devices_by_the_command(url: str, file: Path) -> None:
    """The command would save one device where all were asked for."""
    with open_store(url) as store:
        store.create("second").close()
    done = run("backup", url, file, "--all", "--plaintext")
    assert done.exit_code == 0, done.output
    assert "NOT encrypted" in done.output
    assert sorted(of_backup(file)) == ["default", "second"]
