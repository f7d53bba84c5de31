"""What a target cannot hold, kept in a side file beside it: the way back is complete."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from _helpers import private_copy
from ratchetkeep import (
    NotHeld,
    StoreDamaged,
    copy_device,
    open_device,
    verify_device,
)
from ratchetkeep.formats import spellings
from ratchetkeep.formats._shape import Losses
from ratchetkeep.model import Chain, Key, SessionRecord
from ratchetkeep.stores._stage import FolderStage
from ratchetkeep.testing import _samples as samples

ALICE = Path(__file__).parents[1] / "examples" / "alice"

# Every library's own store, and how its side file is called.
KINDS = ["baileysex", "baileysex-json", "pyaileys", "whatsmeow"]


@pytest.fixture
def alice(tmp_path: Path) -> Path:
    """A device of Baileys in a folder."""
    return private_copy(ALICE, tmp_path / "alice")


def files(folder: Path) -> dict[str, Any]:
    """What is in the files. The order of an object's members means nothing, and 64-bit numbers may
    be text."""
    return {path.name: json.loads(path.read_bytes(), parse_int=str) for path in folder.iterdir()}


def values(url: str) -> dict[Key, Any]:
    """All records of a device."""
    with open_device(url, read_only=True) as device:
        found: dict[Key, Any] = {Key("credentials", ""): device.credentials}
        for family in ("session", "sender-key", "pre-key", "device-list", "sender-key-memory"):
            held = device.get(family, device.ids(family))
            found |= {Key(family, id): value for id, value in held.items()}
        return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_way_back_is_complete(tmp_path: Path, alice: Path, kind: str) -> None:
    """A device that was in another library for a while would come back poorer, although the user
    asked to keep what that library cannot hold."""
    there = f"{kind}:{tmp_path}/there"
    kept = copy_device(f"baileys:{alice}", there, keep_rest=True)
    assert Path(kept.rest).parent == tmp_path
    assert Path(kept.rest).exists()
    back = copy_device(there, f"baileys:{tmp_path}/back")
    assert back.completed_from == kept.rest
    assert files(tmp_path / "back") == files(alice)


@pytest.mark.parametrize("kind", KINDS)
def test_without_it_less_comes_back(tmp_path: Path, alice: Path, kind: str) -> None:
    """The tests of the way back would prove nothing: these formats do hold less."""
    there = f"{kind}:{tmp_path}/there"
    assert copy_device(f"baileys:{alice}", there).rest == ""
    assert list(tmp_path.glob("*.ratchetkeep-rest")) == []
    assert copy_device(there, f"baileys:{tmp_path}/back").completed_from == ""
    assert files(tmp_path / "back") != files(alice)


def test_it_is_private_and_no_device_by_itself(tmp_path: Path, alice: Path) -> None:
    """Other users could read the keys in it, or a program would go on with a second copy."""
    kept = copy_device(f"baileys:{alice}", f"pyaileys:{tmp_path}/there", keep_rest=True)
    assert os.stat(kept.rest).st_mode & 0o777 == 0o600
    with pytest.raises(Exception, match="holds no device"):
        open_device(f"sqlite:{kept.rest}")


def test_a_dry_run_writes_none(tmp_path: Path, alice: Path) -> None:
    """A look at what a copy would do would leave keys on the disk."""
    before = sorted(os.listdir(tmp_path))
    copy_device(f"baileys:{alice}", f"pyaileys:{tmp_path}/there", keep_rest=True, dry_run=True)
    assert sorted(os.listdir(tmp_path)) == before


def test_an_interrupted_copy_leaves_none(tmp_path: Path, alice: Path) -> None:
    """A copy that did not come to be would leave keys beside the place of its target."""

    def stop(step: str, done: int, total: int) -> None:
        if step == "write" and done:
            raise KeyboardInterrupt

    before = sorted(os.listdir(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        copy_device(f"baileys:{alice}", f"pyaileys:{tmp_path}/there", keep_rest=True, progress=stop)
    left = [name for name in os.listdir(tmp_path) if name not in before]
    assert [name for name in left if not name.endswith((".lock", ".owner"))] == []


@pytest.mark.parametrize("target", ["memory:rest", "sqlite:{}/x.db?device=two"])
def test_where_it_goes(tmp_path: Path, alice: Path, target: str) -> None:
    """It would be written into another device's side file, or be lost without a word."""
    url = target.format(tmp_path)
    if url.startswith("memory:"):
        with pytest.raises(NotHeld, match="no place beside it"):
            copy_device(f"baileys:{alice}", url, keep_rest=True)
    else:
        assert copy_device(f"baileys:{alice}", url, keep_rest=True).rest.endswith(
            "x.db.two.ratchetkeep-rest"
        )


def open_chain(record: SessionRecord) -> tuple[bytes, bytes, Chain]:
    """A chain with skipped messages: base key, ratchet key and chain."""
    return next(
        (base_key, public, chain)
        for base_key, session in record.sessions.items()
        for public, chain in session.chains.items()
        if len(chain.message_keys) + len(chain.derived_keys) > 1
    )


def test_what_was_used_up_stays_used_up(tmp_path: Path, alice: Path) -> None:
    """The key of a message that arrived in the other library would come back, and with it the
    message could be read twice."""
    there = f"pyaileys:{tmp_path}/there"
    copy_device(f"baileys:{alice}", there, keep_rest=True)
    with open_device(there) as device:
        for id in device.ids("session"):
            key = Key("session", id)
            record = spellings.to_model(key, device.get("session", [id])[id])
            if any(
                len(c.derived_keys) > 1 for s in record.sessions.values() for c in s.chains.values()
            ):
                break
        base_key, public, chain = open_chain(record)
        used = min(chain.derived_keys)
        rest = {n: key for n, key in chain.derived_keys.items() if n != used}
        session = record.sessions[base_key]
        chains = {**session.chains, public: chain.replace(derived_keys=rest)}
        sessions = {**record.sessions, base_key: session.replace(chains=chains)}
        moved = spellings.for_client(
            key, record.replace(sessions=sessions), "pyaileys", device.credentials, Losses()
        )
        consumed = device.ids("pre-key")[0]
        device.set({"session": {id: moved}, "pre-key": {consumed: None}})
    copy_device(there, f"baileys:{tmp_path}/back")
    now, before = values(f"baileys:{tmp_path}/back"), values(f"baileys:{alice}")
    assert Key("pre-key", consumed) not in now
    after = now[key].sessions[base_key].chains[public].message_keys
    was = before[key].sessions[base_key].chains[public].message_keys
    assert after == {n: seed for n, seed in was.items() if n != used}


def test_what_the_other_library_changed_stays_changed(tmp_path: Path, alice: Path) -> None:
    """A ratchet that moved on in the other library would slip back."""
    there = f"baileysex:{tmp_path}/there"
    copy_device(f"baileys:{alice}", there, keep_rest=True)
    with open_device(there) as device:
        id = device.ids("session")[0]
        record = device.get("session", [id])[id]
        base_key, session = next(iter(record.sessions.items()))
        root = samples.some_bytes("moved", 1)
        ratchet = session.current_ratchet.replace(root_key=root)
        changed = session.replace(current_ratchet=ratchet)
        device.set(
            {"session": {id: record.replace(sessions={**record.sessions, base_key: changed})}}
        )
        device.save_credentials(device.credentials.replace(next_pre_key_id=9000))
    copy_device(there, f"baileys:{tmp_path}/back")
    now, before = values(f"baileys:{tmp_path}/back"), values(f"baileys:{alice}")
    back = now[Key("session", id)].sessions[base_key]
    assert back.current_ratchet.root_key == root
    assert back.index_info.used == before[Key("session", id)].sessions[base_key].index_info.used
    assert now[Key("credentials", "")].next_pre_key_id == 9000


def test_caches_come_back_only_while_nothing_has_moved(tmp_path: Path, alice: Path) -> None:
    """A list of devices, or of who has our sender key, would be older than the ratchets: devices
    that came since would get no messages."""
    there = f"whatsmeow:{tmp_path}/there.db"
    copy_device(f"baileys:{alice}", there, keep_rest=True)
    with open_device(there) as device:
        device.set({"session": {device.ids("session")[0]: None}})
    copy_device(there, f"baileys:{tmp_path}/back")
    families = {key.family for key in values(f"baileys:{tmp_path}/back")}
    assert families & {"device-list", "sender-key-memory"} == set()


def test_another_devices_side_file_is_not_used(tmp_path: Path, alice: Path) -> None:
    """Keys of a device that was there before would be mixed into this one."""
    there = f"pyaileys:{tmp_path}/there"
    copy_device(f"baileys:{alice}", there, keep_rest=True)
    bob = private_copy(ALICE.parent.parent / "tests" / "golden" / "baileys" / "bob", tmp_path / "b")
    side = (tmp_path / "there.ratchetkeep-rest").read_bytes()
    copy_device(f"baileys:{bob}", f"pyaileys:{tmp_path}/bob")
    (tmp_path / "bob.ratchetkeep-rest").write_bytes(side)
    summary = copy_device(f"pyaileys:{tmp_path}/bob", f"baileys:{tmp_path}/back")
    assert summary.completed_from == ""


def test_a_copy_over_it_removes_the_old_one(tmp_path: Path, alice: Path) -> None:
    """What an earlier copy could not carry would be mixed into a later one."""
    there = f"pyaileys:{tmp_path}/there"
    side = tmp_path / "there.ratchetkeep-rest"
    copy_device(f"baileys:{alice}", there, keep_rest=True)
    assert side.exists()
    copy_device(f"baileys:{alice}", there, overwrite=True)
    assert not side.exists()


def test_a_damaged_one_is_an_error(tmp_path: Path, alice: Path) -> None:
    """A way back that is not complete would be taken for a complete one."""
    there = f"pyaileys:{tmp_path}/there"
    side = Path(copy_device(f"baileys:{alice}", there, keep_rest=True).rest)
    side.write_bytes(side.read_bytes()[:5000])
    with pytest.raises(StoreDamaged, match="ratchetkeep-rest"):
        copy_device(there, f"baileys:{tmp_path}/back")
    assert not (tmp_path / "back").exists()


def test_over_several_stops(tmp_path: Path, alice: Path) -> None:
    """What the first stop could not hold would be lost at the second."""
    here = f"baileys:{alice}"
    for stop in ("baileysex", "pyaileys", "whatsmeow", "baileysex-json"):
        there = f"{stop}:{tmp_path}/{stop}"
        copy_device(here, there, keep_rest=True)
        here = there
    copy_device(here, f"baileys:{tmp_path}/back")
    assert [
        each for each in verify_device(f"baileys:{tmp_path}/back") if each.severity == "error"
    ] == []
    assert files(tmp_path / "back") == files(alice)


def test_a_killed_copy_leaves_no_older_one(
    tmp_path: Path, alice: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The side file of an earlier copy would stand beside a later one's device, and bring back what
    was used up between the two."""
    there = f"pyaileys:{tmp_path}/there"
    side = Path(copy_device(f"baileys:{alice}", there, keep_rest=True).rest)
    replace = FolderStage.publish

    def killed(stage: FolderStage) -> None:
        replace(stage)
        raise KeyboardInterrupt

    monkeypatch.setattr(FolderStage, "publish", killed)
    with pytest.raises(KeyboardInterrupt):
        copy_device(f"baileys:{alice}", there, overwrite=True)
    assert not side.exists()


def test_counters_do_not_slip_back(tmp_path: Path, alice: Path) -> None:
    """Ids of pre-keys that were given out would be given out again."""
    with open_device(f"baileys:{alice}") as device:
        device.save_credentials(device.credentials.replace(next_pre_key_id=900))
    there = f"whatsmeow:{tmp_path}/there.db"
    copy_device(f"baileys:{alice}", there, keep_rest=True)
    copy_device(there, f"baileys:{tmp_path}/back")
    assert values(f"baileys:{tmp_path}/back")[Key("credentials", "")].next_pre_key_id == 900


def test_a_way_back_for_a_client(tmp_path: Path, alice: Path) -> None:
    """What a client could not read would not come back, although the plan says so."""
    copy_device(f"baileys:{alice}", f"whatsmeow:{tmp_path}/go.db")
    copy_device(f"whatsmeow:{tmp_path}/go.db", f"sqlite:{tmp_path}/go-too.db")
    source, there = f"sqlite:{tmp_path}/go-too.db", f"sqlite:{tmp_path}/waeys.db"
    summary = copy_device(source, there, client="waeys", keep_rest=True)
    assert any(each.amount for each in summary.not_held)
    copy_device(there, f"sqlite:{tmp_path}/back.db", client="whatsmeow")
    now, before = values(f"sqlite:{tmp_path}/back.db"), values(source)
    skipped = [skipped_keys(key, held) for key, held in before.items() if key.family == "session"]
    assert any(skipped)
    back = [skipped_keys(key, now[key]) for key in before if key.family == "session"]
    assert back == skipped


def skipped_keys(key: Key, held: Any) -> set[bytes]:
    """The derived keys of skipped messages in a session."""
    record = spellings.to_model(key, held)
    chains = [chain for session in record.sessions.values() for chain in session.chains.values()]
    return {derived for chain in chains for derived in chain.derived_keys.values()}


def test_a_link_is_the_same_place(tmp_path: Path, alice: Path) -> None:
    """The side file would not be found by another name of the same target."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    kept = copy_device(f"baileys:{alice}", f"pyaileys:{tmp_path}/link/there", keep_rest=True)
    back = copy_device(f"pyaileys:{tmp_path}/real/there", f"baileys:{tmp_path}/back")
    assert back.completed_from == kept.rest


def test_a_damaged_one_can_be_replaced(tmp_path: Path, alice: Path) -> None:
    """Nobody could copy to a place any more whose side file is damaged."""
    there = f"pyaileys:{tmp_path}/there"
    side = Path(copy_device(f"baileys:{alice}", there, keep_rest=True).rest)
    side.write_bytes(b"junk")
    with pytest.raises(StoreDamaged, match="move it away"):
        copy_device(there, f"baileys:{tmp_path}/back")
    copy_device(f"baileys:{alice}", there, overwrite=True, keep_rest=True)
    copy_device(there, f"baileys:{tmp_path}/back")
    assert files(tmp_path / "back") == files(alice)
