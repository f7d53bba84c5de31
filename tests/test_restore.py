"""A device that is put back: cold into every kind of store, exactly only where that is proven."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from _backups import with_passphrase
from _helpers import ALICE, BOB, GOLDEN, OTP29, footprint
from ratchetkeep import (
    DeviceExists,
    InvalidValue,
    NoDevice,
    RatchetkeepError,
    StoreDamaged,
    StoreInUse,
    StoreRewound,
    WrongKey,
    copy_device,
    open_device,
)
from ratchetkeep._cold_ids import AFTER
from ratchetkeep.backup import backup_device
from ratchetkeep.prekeys import MAX_PRE_KEY_ID
from ratchetkeep.restore import cool_device, restore_all, restore_device
from ratchetkeep.stores import urls
from test_cold import records_of

WORD = "a passphrase of the tests"
KINDS = ["sqlite", "baileys", "baileysex", "baileysex-json", "pyaileys", "whatsmeow", "memory"]
GONE = {"session", "pre-key", "sender-key-memory"}


def state_of(url: str) -> dict[Any, bytes]:
    """All records at a place, and their bytes."""
    target = urls.parse(url)
    store = urls.open_target(target)
    store.acquire(target.device, read_only=True, create=False)
    try:
        return dict(store.entries(target.device))
    finally:
        store.close()


def saved(folder: Path, source: Any = ALICE) -> Path:
    """A plain backup of a golden device."""
    backup_device(source, folder / "b", plaintext=True)
    return folder / "b"


@pytest.mark.parametrize("source", [ALICE, OTP29, GOLDEN / "pyaileys" / "alice"], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_into_every_kind(kind: str, source: Path, tmp_path: Path) -> None:
    """A kind of store would get something that must not go on, or not what must."""
    file, url = saved(tmp_path, source), f"{kind}:{tmp_path}/device"
    summary = restore_device(file, url)
    with open_device(url) as device:
        credentials = device.credentials
        found = {family for family in GONE if device.ids(family)}
        assert credentials.next_pre_key_id == summary.next_pre_key_id
        assert found == ({"pre-key"} if kind == "whatsmeow" else set())
        before = {int(id) for id in device.ids("pre-key")}
        made = {int(id) for id in device.mint_pre_keys(5)}
        assert min(made) >= summary.next_pre_key_id
        assert not made & before
    old = {int(key.id) for key in records_of(source) if key.family == "pre-key"}
    assert not made & old
    cooler = cool_device(url)
    assert cooler.next_pre_key_id > max(made)
    with pytest.raises(DeviceExists):
        restore_device(file, url)
    again = restore_device(file, url, overwrite=True)
    # Ahead of what was there or, where the way ahead is too short, far from it on the circle.
    assert (again.next_pre_key_id - cooler.next_pre_key_id) % MAX_PRE_KEY_ID >= AFTER


def test_counts(tmp_path: Path) -> None:
    """The summary would say other numbers than those of the device."""
    records = records_of(ALICE)
    summary = restore_device(saved(tmp_path), f"sqlite:{tmp_path}/d.db")
    assert summary.total + sum(each.count for each in summary.dropped) == len(records) - 1
    assert len(state_of(f"sqlite:{tmp_path}/d.db")) == summary.total + 1


def test_dry_runs_write_nothing(tmp_path: Path) -> None:
    """A dry run would change something."""
    file, url = saved(tmp_path), f"sqlite:{tmp_path}/d.db"
    before = footprint(tmp_path)
    assert restore_device(file, url, dry_run=True).dry_run
    assert footprint(tmp_path) == before
    copy_device(ALICE, url)
    state = state_of(url)
    assert cool_device(url, dry_run=True).dropped
    assert state_of(url) == state


def test_wrong_passphrase(tmp_path: Path) -> None:
    """A wrong passphrase would leave something at the target."""
    (tmp_path / "b").write_bytes(with_passphrase(saved(tmp_path).read_bytes(), WORD))
    before = footprint(tmp_path)
    for word in (None, "another"):
        with pytest.raises(WrongKey):
            restore_device(tmp_path / "b", f"sqlite:{tmp_path}/d.db", passphrase=word)
    assert footprint(tmp_path) == before
    assert restore_device(tmp_path / "b", f"sqlite:{tmp_path}/d.db", passphrase=WORD).total


def test_damaged_backups_change_nothing(tmp_path: Path) -> None:
    """A backup that is damaged anywhere would be restored, in whole or in part."""
    file, url = saved(tmp_path), f"sqlite:{tmp_path}/d.db"
    copy_device(BOB, url)
    whole, state = file.read_bytes(), state_of(url)
    for at in range(0, len(whole), len(whole) // 60):
        damage = bytearray(whole)
        damage[at] ^= 1
        file.write_bytes(damage)
        with pytest.raises(RatchetkeepError):
            restore_device(file, url, overwrite=True)
        file.write_bytes(whole[:at])
        with pytest.raises(StoreDamaged):
            restore_device(file, url, overwrite=True)
    assert state_of(url) == state


def test_exact_over_the_same_state(tmp_path: Path) -> None:
    """A damaged record could not be replaced from a backup of the very same state."""
    url = f"sqlite:{tmp_path}/d.db"
    copy_device(ALICE, url)
    file, state = saved(tmp_path, url), state_of(url)
    summary = restore_device(file, url, exact=True, overwrite=True)
    assert summary.exact
    assert state_of(url) == state
    # The history is a new one: the same backup proves nothing any more.
    with pytest.raises(StoreRewound, match="another history"):
        restore_device(file, url, exact=True, overwrite=True)


def test_exact_is_refused(tmp_path: Path) -> None:
    """An older state would go on as if nothing had come after it."""
    url, none = f"sqlite:{tmp_path}/d.db", f"sqlite:{tmp_path}/none.db"
    other = f"sqlite:{tmp_path}/o.db"
    copy_device(ALICE, url)
    copy_device(BOB, other)
    file = saved(tmp_path, url)
    with pytest.raises(StoreRewound, match="no such device"):
        restore_device(file, none, exact=True)
    with pytest.raises(StoreRewound, match="another device"):
        restore_device(file, other, exact=True, overwrite=True)
    with open_device(url) as device:
        device.set({"lid-mapping": {"1": "2"}})
    state = state_of(url)
    with pytest.raises(StoreRewound, match="gone on since"):
        restore_device(file, url, exact=True, overwrite=True)
    backup_device(ALICE, tmp_path / "folder", plaintext=True)
    with pytest.raises(StoreRewound, match="counts no commits"):
        restore_device(tmp_path / "folder", url, exact=True, overwrite=True)
    assert state_of(url) == state
    assert not Path(f"{tmp_path}/none.db").exists()


@pytest.mark.parametrize("kind", ["sqlite", "baileys", "whatsmeow", "memory"])
def test_cool_in_place(kind: str, tmp_path: Path) -> None:
    """A store that was put back would keep a session, or go on in its old history."""
    url = f"{kind}:{tmp_path}/device"
    copy_device(ALICE, url)
    with open_device(url) as _, pytest.raises(StoreInUse):
        cool_device(url)
    summary = cool_device(url)
    families = {key.family for key in state_of(url)}
    assert families & GONE == ({"pre-key"} if kind == "whatsmeow" else set())
    assert {each.family for each in summary.dropped} >= {"session", "pre-key", "sender-key"}
    with pytest.raises(NoDevice):
        cool_device(f"{kind}:{tmp_path}/nothing")


def test_one_of_many_and_all(tmp_path: Path) -> None:
    """The wrong device would be restored, or not every one."""
    store, file = f"sqlite:{tmp_path}/many.db", tmp_path / "b"
    copy_device(ALICE, f"{store}?device=a")
    copy_device(BOB, f"{store}?device=b")
    backup_device(store, file, plaintext=True, all_devices=True)
    with pytest.raises(InvalidValue, match="2 devices"):
        restore_device(file, f"sqlite:{tmp_path}/one.db")
    with pytest.raises(NoDevice):
        restore_device(file, f"sqlite:{tmp_path}/one.db", device="c")
    restore_device(file, f"sqlite:{tmp_path}/one.db", device="b")
    for target in (f"sqlite:{tmp_path}/all.db", f"baileys:{tmp_path}/tree"):
        assert [each.outcome for each in restore_all(file, target)] == ["restored"] * 2
        assert [each.outcome for each in restore_all(file, target)] == ["already there"] * 2
    with open_device(f"sqlite:{tmp_path}/one.db") as device:
        assert device.credentials.me is not None
        assert device.credentials.me.id.startswith("15551230001")


@pytest.mark.parametrize("kind", ["whatsmeow", "baileysex"])
def test_side_files_bring_nothing_back(kind: str, tmp_path: Path) -> None:
    """A copy from a cooled place would complete it with what it must not use again."""
    url, back = f"{kind}:{tmp_path}/device", f"sqlite:{tmp_path}/back.db"
    copy_device(ALICE, url, keep_rest=True)
    summary = cool_device(url)
    copy_device(url, back)
    old = {int(key.id) for key in records_of(ALICE) if key.family == "pre-key"}
    with open_device(back) as device:
        assert not device.ids("session")
        assert not device.ids("sender-key-memory")
        assert not {int(id) for id in device.ids("pre-key")} & old
        assert len(device.ids("sender-key")) == summary.kept["sender-key"]
        assert device.credentials.next_pre_key_id >= summary.next_pre_key_id
        assert min(int(id) for id in device.mint_pre_keys(3)) >= summary.next_pre_key_id
