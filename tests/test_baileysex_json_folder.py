"""The folder of BaileysEx's compat JSON: its manifest, and Baileys' folders, which look alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from _helpers import (
    ALICE,
    COMPAT,
    COMPAT_MANIFEST,
    OTP29,
    bytes_of,
    footprint,
    private_copy,
)
from ratchetkeep import (
    DeviceExists,
    StoreDamaged,
    UnknownStore,
    UnsupportedVersion,
    copy_device,
    open_device,
    repair_device,
    verify_device,
)
from ratchetkeep.formats import baileysex_json
from ratchetkeep.model import (
    CREDENTIALS,
    Credentials,
)
from ratchetkeep.stores.layouts import LAYOUTS

LISTING: Any = LAYOUTS["baileysex-json"].listing


def the_credentials() -> Credentials:
    value = baileysex_json.decode(CREDENTIALS, (COMPAT / "creds.json").read_bytes())
    assert isinstance(value, Credentials)
    return value


# The manifest.


def test_the_manifest_comes_back_as_the_same_bytes() -> None:
    """BaileysEx refuses every load when it does not understand its manifest."""
    raw = (COMPAT / COMPAT_MANIFEST).read_bytes()
    listed = LISTING.read(raw)
    assert LISTING.write(listed) == raw
    shuffled = {family: list(reversed(listed[family])) for family in reversed(list(listed))}
    assert LISTING.write(shuffled) == raw


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"version": 2}, UnsupportedVersion), ({"version": None}, UnsupportedVersion),
        ({"version": True}, UnsupportedVersion), ({"version": "1"}, UnsupportedVersion),
        ({"backend": "native_file_persistence"}, StoreDamaged), ({"backend": None}, StoreDamaged),
        ({"key_index": []}, StoreDamaged), ({"key_index": {"session": "1.0"}}, StoreDamaged),
        ({"key_index": {"session": [1]}}, StoreDamaged),
        ({"key_index": {"session": [""]}}, StoreDamaged),
    ],
    ids=str,
)  # fmt: skip
def test_a_manifest_that_is_not_understood_is_refused(
    tmp_path: Path, change: dict[str, Any], error: type[Exception]
) -> None:
    """Ids that only the manifest knows would be lost with the next commit."""
    folder = private_copy(COMPAT, tmp_path / "d")
    path = folder / COMPAT_MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **change}))
    before = bytes_of(folder)
    for read_only in (True, False):
        with pytest.raises(error, match=r"manifest|lists"):
            open_device(f"baileysex-json:{folder}", read_only=read_only)
    assert bytes_of(folder) == before


def test_a_damaged_manifest_is_made_again(tmp_path: Path) -> None:
    """Ids whose file names can be read in two ways would be lost with a damaged manifest."""
    folder = private_copy(COMPAT, tmp_path / "d")
    path = folder / COMPAT_MANIFEST
    raw = path.read_bytes()
    path.write_bytes(raw[:-20])
    repair_device(f"baileysex-json:{folder}")
    assert path.read_bytes() == raw


# The folder.


def test_a_bare_folder_is_told_by_its_manifest_or_its_credentials(tmp_path: Path) -> None:
    """A folder of BaileysEx's would be taken for Baileys' own, which names its files alike."""
    folder = private_copy(COMPAT, tmp_path / "d")
    with open_device(str(folder)) as device:
        assert device.credentials == the_credentials()
        assert "we/ird:user@s.whatsapp.net::3" in device.ids("session")
    (folder / COMPAT_MANIFEST).unlink()
    with open_device(str(folder), read_only=True) as device:
        assert device.credentials == the_credentials()


def test_a_folder_of_both_backends_is_never_guessed(tmp_path: Path) -> None:
    """An old copy of the device would be opened and used beside the living one."""
    folder = private_copy(COMPAT, tmp_path / "d")
    shutil.copytree(OTP29, folder, dirs_exist_ok=True)
    with pytest.raises(UnknownStore, match="baileysex-json:DIR"):
        open_device(str(folder))
    for kind in ("baileysex", "baileysex-json"):
        with open_device(f"{kind}:{folder}", read_only=True) as device:
            assert device.credentials.registration_id == 8339


@pytest.mark.parametrize("kind", ["baileys", "baileysex"])
def test_another_kind_refuses_the_folder(tmp_path: Path, kind: str) -> None:
    """Records would be written there in a format that the library of the folder cannot read."""
    folder = private_copy(COMPAT, tmp_path / "d")
    before = footprint(folder)
    for create in (False, True):
        with pytest.raises(UnknownStore, match="baileysex-json:DIR"):
            open_device(f"{kind}:{folder}", create=create)
    with pytest.raises((UnknownStore, DeviceExists)):
        copy_device(str(ALICE), f"{kind}:{folder}", overwrite=True)
    assert footprint(folder) == before


@pytest.mark.parametrize("manifest", [True, False])
def test_a_folder_of_baileys_is_not_ours(tmp_path: Path, manifest: bool) -> None:
    """A device of Baileys would be replaced by one that Baileys cannot read."""
    folder = private_copy(COMPAT if manifest else ALICE, tmp_path / "d")
    source, target = str(COMPAT), f"baileysex-json:{folder}"
    if manifest:
        copy_device(source, target, overwrite=True)
        return
    before = footprint(folder)
    with pytest.raises(DeviceExists, match="another library"):
        copy_device(source, target, overwrite=True)
    with pytest.raises(UnknownStore, match="is a folder of the kind baileys"):
        open_device(target)
    assert footprint(folder) == before


def test_left_over_files_go(tmp_path: Path) -> None:
    """BaileysEx would fail at its next save of the manifest: it makes that name exclusively."""
    folder = private_copy(COMPAT, tmp_path / "d")
    left = [f"{COMPAT_MANIFEST}.tmp-7", "creds.json.tmp-12"]
    for name in left:
        (folder / name).write_bytes(b"half")
        (folder / name).chmod(0o600)
    found = [f.place for f in verify_device(str(folder)) if "left over" in f.what]
    assert found == sorted(f"{folder}/{name}" for name in left)
    (folder / "notes.json.tmp-x").write_bytes(b"mine")
    open_device(str(folder)).close()
    assert not any((folder / name).exists() for name in left)
    assert (folder / "notes.json.tmp-x").exists()


def test_a_copy_is_the_same_folder(tmp_path: Path) -> None:
    """BaileysEx would find other files than it left."""
    copy_device(str(COMPAT), f"baileysex-json:{tmp_path}/a")
    copy_device(f"baileysex-json:{tmp_path}/a", f"sqlite:{tmp_path}/b.db")
    copy_device(f"sqlite:{tmp_path}/b.db", f"baileysex-json:{tmp_path}/c")
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "c") == bytes_of(COMPAT)


def test_a_commit_is_what_baileysex_would_have_written(tmp_path: Path) -> None:
    """BaileysEx would not find a new record, or look for one that is gone."""
    folder = private_copy(COMPAT, tmp_path / "d")
    with open_device(str(folder)) as device:
        device.set({"device-list": {"a/b:1": ("1",), "15551234567": None}})
    assert (folder / "device-list-a__b-1.json").read_bytes() == b'["1"]'
    listed = LISTING.read((folder / COMPAT_MANIFEST).read_bytes())
    assert listed["device-list"] == ["15550001111", "a/b:1", "alice/device:0"]
