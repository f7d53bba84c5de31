"""The real Node library goes on with the conversation after our copies and our changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import nodepeer
from _helpers import ALICE, BOB, IDS, LEGACY, PENDING, edit_json
from ratchetkeep import KeyPair, copy_device, open_device

SIDES = {"alice": ALICE, "bob": BOB}
LEGACY_SIDES = {"alice": LEGACY / "alice", "bob": LEGACY / "bob"}


def copied(tmp_path: Path, between: str, sides: dict[str, Path] = SIDES) -> dict[str, Path]:
    """Both sides, each through a store of the given kind and back to a folder."""
    for name, golden in sides.items():
        place = f"{between}:{tmp_path}/{name}.between"
        copy_device(f"baileys:{golden}", place)
        copy_device(place, f"baileys:{tmp_path}/{name}")
    return {name: tmp_path / name for name in sides}


def passed(steps: list[dict[str, object]]) -> set[object]:
    """Names of the steps that ran; :func:`nodepeer.converse` has checked that they passed."""
    return {step["name"] for step in steps if step["ok"] and step["detail"] != "skipped"}


ESSENTIAL = {
    "identity-alice",
    "identity-bob",
    "known-to-each-other",
    "ids-alice",
    "ids-bob",
    "closed-session",
    "pending-direct-alice",
    "pending-direct-bob",
    "pending-group-alice",
    "pending-group-bob",
    "direct",
    "group-120363025246125486@g.us",
    "group-4915112345678-1400000000@g.us",
    "group-status@broadcast",
    "new-session-alice",
    "new-session-bob",
    "reload",
}


@pytest.mark.parametrize("between", ["sqlite", "baileysex", "baileys"])
def test_the_conversation_goes_on_after_a_copy(tmp_path: Path, between: str) -> None:
    """A device that was moved cannot talk any more: its peers answer "Bad MAC"."""
    sides = copied(tmp_path, between)
    steps = nodepeer.converse(sides["alice"], sides["bob"], PENDING, IDS)
    assert passed(steps) >= ESSENTIAL


def test_a_copied_side_talks_with_one_that_stayed(tmp_path: Path) -> None:
    """Both sides could be wrong in the same way, which no peer in the world would be."""
    copy_device(f"baileys:{ALICE}", f"sqlite:{tmp_path}/alice.db")
    copy_device(f"sqlite:{tmp_path}/alice.db", f"baileysex:{tmp_path}/ex")
    copy_device(f"baileysex:{tmp_path}/ex", f"baileys:{tmp_path}/alice")
    shutil.copytree(BOB, tmp_path / "bob")
    steps = nodepeer.converse(tmp_path / "alice", tmp_path / "bob", PENDING, IDS)
    assert passed(steps) >= ESSENTIAL


def test_the_conversation_goes_on_after_our_changes(tmp_path: Path) -> None:
    """A folder that we have opened and written is one that Node cannot go on with."""
    for name, golden in SIDES.items():
        shutil.copytree(golden, tmp_path / name)
        with open_device(f"baileys:{tmp_path}/{name}") as device:
            device.save_credentials(device.credentials.replace(platform="ours"))
            kept = device.get("pre-key", ["50"])["50"]
            device.set({"pre-key": {"50": None}})
            assert device.get("pre-key", ["50"]) == {}
            device.set({"pre-key": {"50": kept}})
            with device.transaction() as changes:
                for family in ("session", "sender-key", "identity-key", "tctoken"):
                    changes.set({family: device.get(family, device.ids(family))})
                changes.set({"pre-key": {"900": KeyPair.new()}})
        names = {path.name for path in (tmp_path / name).iterdir()}
        assert names == {path.name for path in golden.iterdir()} | {"pre-key-900.json"}
        assert json.loads((tmp_path / name / "creds.json").read_bytes())["platform"] == "ours"
    steps = nodepeer.converse(tmp_path / "alice", tmp_path / "bob", PENDING, IDS)
    assert passed(steps) >= ESSENTIAL


@pytest.mark.parametrize("between", ["sqlite", "baileysex"])
def test_a_pair_of_6x_folders_talks_on_7x(tmp_path: Path, between: str) -> None:
    """Upgrading Baileys would cost the device its groups or its sessions."""
    sides = copied(tmp_path, between, LEGACY_SIDES)
    steps = nodepeer.converse(sides["alice"], sides["bob"], None, legacy=True)
    assert {"identity-alice", "direct", "group-120363025246125486@g.us", "reload"} <= passed(steps)


def test_node_goes_on_and_so_do_we(tmp_path: Path) -> None:
    """What Node has written since would not be read by us, or not be copied as it is."""
    sides = copied(tmp_path, "sqlite")
    nodepeer.converse(sides["alice"], sides["bob"], PENDING, IDS)
    for name, folder in sides.items():
        copy_device(f"baileys:{folder}", f"sqlite:{tmp_path}/{name}.after.db")
        copy_device(f"sqlite:{tmp_path}/{name}.after.db", f"baileys:{tmp_path}/{name}.after")
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        after = {p.name: p.read_bytes() for p in (tmp_path / f"{name}.after").iterdir()}
        assert after == before


def spoil_identity(folder: Path) -> None:
    creds = json.loads((folder / "creds.json").read_bytes())
    edit_json(folder / "creds.json", signedIdentityKey=creds["noiseKey"])


def spoil_session(folder: Path) -> None:
    for path in folder.glob("session-*"):
        document = json.loads(path.read_bytes())
        for entry in document["_sessions"].values():
            ratchet = entry["currentRatchet"]
            ratchet["rootKey"] = "A" * 43 + "="
        edit_json(path, **document)


def spoil_sender_keys(folder: Path) -> None:
    for path in folder.glob("sender-key-120363025246125486@g.us--*"):
        path.unlink()


def spoil_pre_keys(folder: Path) -> None:
    (folder / "pre-key-50.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "step"),
    [
        (spoil_identity, "identity-alice"),
        (spoil_session, "direct"),
        (spoil_sender_keys, "group-120363025246125486@g.us"),
        (spoil_pre_keys, "new-session-alice"),
    ],
)
def test_a_damaged_copy_fails(tmp_path: Path, spoil: object, step: str) -> None:
    """The tests above would pass for any folder at all."""
    sides = {name: tmp_path / name for name in SIDES}
    for name, folder in sides.items():
        shutil.copytree(SIDES[name], folder)
    assert callable(spoil)
    spoil(sides["alice"])
    with pytest.raises(AssertionError, match=step):
        nodepeer.converse(sides["alice"], sides["bob"], PENDING, IDS)
