"""Rows of a sealed SQLite file that somebody swapped, removed, replayed or put in: reading gives an
error, or verifying tells of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from _sealing import (
    KEY,
    NAME,
    OTHER_KEY,
    Place,
    sealed,
    small_source,
    values_in,
    values_of,
)
from ratchetkeep import (
    DeviceMoved,
    NoDevice,
    RatchetkeepError,
    StoreDamaged,
    WrongKey,
    copy_device,
    open_device,
    open_store,
    verify_device,
)
from ratchetkeep.device import open_in
from ratchetkeep.stores import urls

OTHER = "other"
MAPPED = "15551230009"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A sealed file with two devices that hold the same, and two mappings more."""
    folder = tmp_path_factory.mktemp("rows")
    place = sealed(Place(folder / "file"), small_source(folder / "source"), NAME, OTHER)
    for name in (NAME, OTHER):
        with open_device(place.url(name), key=KEY) as device:
            device.set({"lid-mapping": {MAPPED: "first", "15551230010": "x"}})
    return place


@pytest.fixture
def place(made: Place, tmp_path: Path) -> Place:
    return made.copy(tmp_path / "file")


def errors_of(place: Place, device: str = NAME) -> list[str]:
    return [each.what for each in verify_device(place.url(device), key=KEY) if is_error(each)]


def is_error(finding: Any) -> bool:
    return bool(finding.severity == "error")


def read_all(place: Place, device: str = NAME) -> Any:
    return values_of(place.url(device))


def change(place: Place, **values: str) -> None:
    """A commit."""
    with open_device(place.url(), key=KEY) as device:
        device.set({"lid-mapping": values})


def test_nothing_is_found_where_nothing_was_changed(place: Place) -> None:
    """All other tests here would be about a file that is wrong anyway."""
    assert errors_of(place) == errors_of(place, OTHER) == []
    assert read_all(place) == read_all(place, OTHER)


@pytest.mark.parametrize("family", ["session", "pre-key", "lid-mapping", "credentials"])
def test_a_row_that_was_removed(place: Place, family: str) -> None:
    """A session or a pre-key that is gone would be taken for one that never was."""
    number = place.rows(family)[0][0]
    place.execute("DELETE FROM records WHERE rowid = ?", number)
    assert errors_of(place)
    assert errors_of(place, OTHER) == []
    if family == "credentials":
        with pytest.raises(StoreDamaged):
            open_device(place.url(), create=True, key=KEY)


def swapped_data(place: Place) -> None:
    """The data of two records of one family change places."""
    (one, _, _, first), (two, _, _, second), *_ = place.rows("lid-mapping")
    place.execute("UPDATE records SET data = ? WHERE rowid = ?", second, one)
    place.execute("UPDATE records SET data = ? WHERE rowid = ?", first, two)


def other_id(place: Place) -> None:
    """A record under the id of another one, which is gone."""
    (one, _, _, _), (two, _, id, _), *_ = place.rows("lid-mapping")
    place.execute("DELETE FROM records WHERE rowid = ?", two)
    place.execute("UPDATE records SET id = ? WHERE rowid = ?", id, one)


def other_family(place: Place) -> None:
    """A record in another family."""
    number = place.rows("lid-mapping")[0][0]
    place.execute("UPDATE records SET family = 'device-list' WHERE rowid = ?", number)


def other_device_data(place: Place) -> None:
    """The same record's data from another device of the file."""
    number = place.rows("credentials")[0][0]
    data = place.rows("credentials", device=2)[0][3]
    place.execute("UPDATE records SET data = ? WHERE rowid = ?", data, number)


def other_device_rows(place: Place) -> None:
    """All rows of two devices change places."""
    place.execute("UPDATE records SET device = 3 - device")


def other_device_numbers(place: Place) -> None:
    """Two devices change the numbers by which their rows are found."""
    for old, new in ((1, 9), (2, 1), (9, 2)):
        place.execute("UPDATE devices SET id = ? WHERE id = ?", new, old)


def other_names(place: Place) -> None:
    """Two devices change names: each would go on as the other."""
    names = dict(place.execute("SELECT id, name FROM devices"))
    place.execute("UPDATE devices SET name = 'x' WHERE id = 1")
    place.execute("UPDATE devices SET name = ? WHERE id = 2", names[1])
    place.execute("UPDATE devices SET name = ? WHERE id = 1", names[2])


def other_history(place: Place) -> None:
    """The device is given another life."""
    place.execute("UPDATE devices SET history = randomblob(16) WHERE id = 1")


def other_commits(place: Place) -> None:
    """The number of commits in the open is another one."""
    place.execute("UPDATE devices SET commits = commits + 1 WHERE id = 1")


def no_state(place: Place) -> None:
    """What the rows add up to is gone."""
    place.execute("UPDATE devices SET state = NULL WHERE id = 1")


def other_generation(place: Place) -> None:
    """The device is said to be plain."""
    place.execute("UPDATE devices SET generation = 0 WHERE id = 1")


def plain_row(place: Place) -> None:
    """A record as it would stand in a plain file."""
    number = place.rows("lid-mapping")[0][0]
    place.execute("UPDATE records SET data = X'52' WHERE rowid = ?", number)


def twice(place: Place) -> None:
    """A row once more, under an id that is spelled a little differently."""
    _, family, id, data = place.rows("lid-mapping")[0]
    text = "INSERT INTO records (device, family, id, data) VALUES (1, ?, ?, ?)"
    place.execute(text, family, id + "\n", data)


def from_outside(place: Place) -> None:
    """A row under an id that nobody sealed."""
    _, family, _, data = place.rows("lid-mapping")[0]
    text = "INSERT INTO records (device, family, id, data) VALUES (1, ?, ?, ?)"
    place.execute(text, family, "A" * 64, data)


CHANGES = [
    swapped_data,
    other_id,
    other_family,
    other_device_data,
    other_device_rows,
    other_device_numbers,
    other_names,
    other_history,
    other_commits,
    no_state,
    other_generation,
    plain_row,
    twice,
    from_outside,
]


@pytest.mark.parametrize("changed", CHANGES, ids=lambda each: each.__name__)
def test_rows_that_were_changed(place: Place, changed: Callable[[Place], None]) -> None:
    """Somebody without the key could exchange the keys of a conversation, and nobody would know."""
    before = read_all(place)
    changed(place)
    try:
        errors = errors_of(place)
    except NoDevice:
        raise AssertionError("a device that was changed is told to be absent") from None
    assert errors
    try:
        with open_device(place.url(), create=True, key=KEY) as device:
            after = values_in(device)
    except RatchetkeepError:
        return
    assert [key for key in after if after[key] != before.get(key)] == []


def test_a_copy_takes_nothing_that_was_replayed(place: Place, tmp_path: Path) -> None:
    """An old session would come into a new store, where nothing tells any more that it is old."""
    old = place.rows("lid-mapping")
    change(place, **{MAPPED: "second"})
    for number, _, _, data in old:
        place.execute("UPDATE records SET data = ? WHERE rowid = ?", data, number)
    target = Place(tmp_path / "target")
    with pytest.raises(StoreDamaged):
        copy_device(place.url(), target.url(), key=KEY, target_key=KEY)
    assert not target.path.exists()


@pytest.mark.parametrize("count", [1, 2])
def test_rows_put_back_from_an_older_state(place: Place, count: int) -> None:
    """Message keys and chain keys of a session would be used a second time."""
    old = place.rows("lid-mapping")
    change(place, **{MAPPED: "second", "15551230010": "y"})
    new = {number: data for number, _, _, data in place.rows("lid-mapping")}
    stale = [row for row in old if new[row[0]] != row[3]]
    assert len(stale) == 2
    for number, _, _, data in stale[:count]:
        place.execute("UPDATE records SET data = ? WHERE rowid = ?", data, number)
    assert errors_of(place)
    with open_device(place.url(), key=KEY) as device:
        # The owner goes on and replaces just that record: what was changed does not go under.
        device.set({"lid-mapping": {MAPPED: "third"}})
    assert errors_of(place)


def test_a_row_that_was_deleted_is_put_back(place: Place) -> None:
    """A pre-key that was used would be there again, and be used a second time."""
    _, family, id, data = place.rows("pre-key")[0]
    with open_device(place.url(), key=KEY) as device:
        device.set({"pre-key": {device.ids("pre-key")[0]: None}})
    text = "INSERT INTO records (device, family, id, data) VALUES (1, ?, ?, ?)"
    place.execute(text, family, id, data)
    assert errors_of(place)


def test_the_devices_row_alone_is_put_back(place: Place) -> None:
    """Old sums would fit new records."""
    columns = "name, created, moved_to, moved_at, history, commits, generation, state"
    old = place.execute(f"SELECT {columns} FROM devices WHERE id = 1")[0]
    change(place, **{MAPPED: "second"})
    marks = ", ".join("?" * len(old))
    place.execute(f"UPDATE devices SET ({columns}) = ({marks}) WHERE id = 1", *old)
    assert errors_of(place)


def test_a_whole_device_that_is_put_back_is_not_found(place: Place) -> None:
    """What the documentation says of this would be wrong: all rows of a device from one older state
    are a device as it was, and only a witness elsewhere can tell."""
    rows, columns = place.rows(), "commits, state"
    old = place.execute(f"SELECT {columns} FROM devices WHERE id = 1")[0]
    before = read_all(place)
    change(place, **{MAPPED: "second"})
    place.execute("DELETE FROM records WHERE device = 1")
    for _, family, id, data in rows:
        text = "INSERT INTO records (device, family, id, data) VALUES (1, ?, ?, ?)"
        place.execute(text, family, id, data)
    place.execute(f"UPDATE devices SET ({columns}) = (?, ?) WHERE id = 1", *old)
    assert errors_of(place) == []
    assert read_all(place) == before
    store = urls.open_target(urls.parse(place.store), KEY)
    store.acquire(NAME, read_only=True, create=False)
    history = store.history(NAME)
    store.close()
    assert history is not None and history.commits == old[0]  # what a witness would see


def test_a_device_whose_entry_was_removed_is_not_made_anew(place: Place) -> None:
    """New credentials would be minted over those of a device that is still there, all but its entry
    in the list."""
    place.execute("DELETE FROM devices WHERE id = 1")
    with pytest.raises(StoreDamaged):
        open_device(place.url(), create=True, key=KEY)
    assert place.rows()


def test_a_name_that_was_changed_hides_no_device(place: Place) -> None:
    """New credentials would be minted over those of a device whose name cannot be read."""
    place.execute("UPDATE devices SET name = 'A' || substr(name, 2) WHERE id = 1")
    place.execute("UPDATE devices SET name = 'B' || substr(name, 2) WHERE id = 1")
    with pytest.raises(StoreDamaged):
        open_device(place.url(), create=True, key=KEY)
    with pytest.raises(StoreDamaged):
        open_store(place.store, key=KEY).devices()


@pytest.mark.parametrize("is_given", [True, False])
def test_a_ring_that_was_removed(
    place: Place, is_given: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The store would be taken for a plain one: the device for absent, and its successor's keys be
    written for everybody to read."""
    key: Any = KEY if is_given else None
    if not is_given:
        monkeypatch.setenv("RATCHETKEEP_KEY_PASSPHRASE", "any")
    place.execute("DELETE FROM ring")
    for create in (False, True):
        with pytest.raises(RatchetkeepError) as caught:
            open_device(place.url(), create=create, key=key)
        assert not isinstance(caught.value, NoDevice)
    assert len(place.execute("SELECT 1 FROM devices")) == 2


@pytest.mark.parametrize("key", [KEY, OTHER_KEY], ids=["same key", "other key"])
def test_the_ring_of_another_store(place: Place, key: bytes, tmp_path: Path) -> None:
    """Records would be sealed with the keys of another store, or one's own be lost."""
    stranger = sealed(Place(tmp_path / "stranger"), small_source(tmp_path / "source"), key=key)
    ring = stranger.execute("SELECT data FROM ring")[0][0]
    place.execute("UPDATE ring SET data = ?", ring)
    expected = StoreDamaged if key == KEY else WrongKey
    for create in (False, True):
        with pytest.raises(expected):
            open_device(place.url(), create=create, key=KEY)


@pytest.mark.parametrize("key", [KEY, OTHER_KEY], ids=["same key", "other key"])
def test_rows_of_another_store(place: Place, key: bytes, tmp_path: Path) -> None:
    """Whoever has another store could put its records into this one, even under the same key."""
    stranger = sealed(Place(tmp_path / "stranger"), small_source(tmp_path / "source"), key=key)
    place.execute("DELETE FROM records WHERE device = 1")
    for _, family, id, data in stranger.rows():
        text = "INSERT INTO records (device, family, id, data) VALUES (1, ?, ?, ?)"
        place.execute(text, family, id, data)
    assert errors_of(place)
    with pytest.raises(StoreDamaged):
        open_device(place.url(), create=True, key=KEY)


def test_a_plain_device_put_into_a_sealed_store(place: Place, tmp_path: Path) -> None:
    """Somebody without the key could put a device of their own in the place of one of ours."""
    stranger = sealed(Place(tmp_path / "s"), small_source(tmp_path / "source"), "new", key=None)
    text = "INSERT INTO devices (id, name, created, history, commits) VALUES (7, 'new', 0, ?, 1)"
    place.execute(text, bytes(16))
    for _, family, id, data in stranger.rows():
        text = "INSERT INTO records (device, family, id, data) VALUES (7, ?, ?, ?)"
        place.execute(text, family, id, data)
    with pytest.raises(StoreDamaged):
        open_device(place.url("new"), create=True, key=KEY)
    assert errors_of(place) == []


def test_a_mark_that_was_removed(place: Place) -> None:
    """A device that was moved would go on here as well, and each would break the other's
    sessions."""
    store = urls.open_target(urls.parse(place.store), KEY)
    store.acquire(NAME, read_only=False, create=False)
    store.mark_moved(NAME, "sqlite:/srv/elsewhere.db")
    store.close()
    assert errors_of(place) == []
    with pytest.raises(DeviceMoved):
        open_device(place.url(), key=KEY)
    place.execute("UPDATE devices SET moved_to = NULL, moved_at = NULL WHERE id = 1")
    assert errors_of(place)


def test_marks_and_commits_by_turns(place: Place) -> None:
    """A mark that is set between two commits would be taken for something changed from outside."""
    store = urls.open_target(urls.parse(place.store), KEY)
    with open_in(store, NAME, create=False, read_only=False, owns_store=True) as device:
        for turn in range(3):
            device.set({"lid-mapping": {MAPPED: str(turn)}})
            store.mark_moved(NAME, f"sqlite:/srv/{turn}.db")
    assert errors_of(place) == []
