"""What an open folder knows of its files: the same as two dicts of all keys and names would, for a
fraction of their memory."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _helpers import COMPAT_MANIFEST, MANIFEST, small_baileys
from ratchetkeep import StoreDamaged, copy_device, open_device
from ratchetkeep.errors import InvalidValue, NameCollision, UnknownStore
from ratchetkeep.model import CREDENTIALS, FAMILIES, Key, check_key
from ratchetkeep.stores._index import Change, Index, with_changes
from ratchetkeep.stores.directory import DirectoryStore
from ratchetkeep.stores.disk import Disk
from ratchetkeep.stores.layouts import LAYOUTS, Layout, _split, write_manifest

KINDS = ["baileys", "baileysex", "baileysex-json"]
PIECES = [
    *("-", "--", "---", "_", "__", "___", ":", "::", "/", ".", ".tmp-", "tmp-1", ".json", ".etf"),
    *("memory-", "memory", "1", "23", "@g.us", "@lid", "__index", "a", "creds", "pre-key-"),
    *("ü", "\n", " ", "~", "x" * 120, "7" * 199),
]
# "\udc80": a byte that is no text in the name of a file.
IN_NAMES = [piece for piece in PIECES if piece != "/"] + ["\udc80"]
FAMILY = st.sampled_from(list(FAMILIES))
SENDERS = st.sampled_from(["1@g.us::2::3", "memory-1@g.us::2::3", "1@g.us::4_5::6", "a--b::2::3"])
IDS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join) | SENDERS
TAILS = st.lists(st.sampled_from(IN_NAMES), max_size=4).map("".join)
SUFFIXES = st.sampled_from([".json", ".etf", ""])
NAMES = st.builds("{}-{}{}".format, FAMILY, TAILS, SUFFIXES) | st.builds(
    "{}{}".format, TAILS, SUFFIXES
)


@st.composite
def keys(draw: st.DrawFn) -> Key:
    family, id = draw(FAMILY), draw(IDS)
    return Key(family, "".join(filter(str.isdecimal, id)) or "1" if family == "pre-key" else id)


def restored(layout: Layout, name: str) -> Key | None:
    """The record of a file name, taken apart without the pattern that settles most names."""
    if name == "creds" + layout.suffix:
        return CREDENTIALS
    parts = _split(name, layout.suffix)
    if parts is None or (layout.listing and ".tmp-" in name):
        return None
    return Key(parts[0], layout._restore(*parts))  # type: ignore[attr-defined]


def name_of(layout: Layout, key: Key) -> str:
    try:
        return layout.file_name(key)
    except InvalidValue:
        return ""


class Reference:
    """The same with a dict each way; slow and large, and easy to follow."""

    def __init__(self, layout: Layout, folder: set[str], listed: list[Key]) -> None:
        self.names: dict[Key, str] = {}
        self.owners: dict[str, Key] = {}
        self.missing = []
        for key in listed:
            name = layout.file_name(key)
            if name in folder:
                self.names[key] = name
                self.owners.setdefault(name, key)
            else:
                self.missing.append(key)
        for name in folder - self.owners.keys():
            key = layout.key_of(name) or CREDENTIALS
            self.names[key], self.owners[name] = name, key

    def is_shared(self, name: str) -> bool:
        return list(self.names.values()).count(name) > 1

    def put(self, key: Key, name: str) -> bool:
        """False if it is refused."""
        if self.owners.get(name, key) != key or self.is_shared(name):
            return False
        self.names[key], self.owners[name] = name, key
        return True

    def drop(self, key: Key) -> bool:
        if key in self.names:
            if self.is_shared(self.names[key]):
                return False
            del self.owners[self.names.pop(key)]
        return True


def matches(index: Index, wanted: Reference, others: list[Key]) -> None:
    assert sorted(index.records()) == sorted(wanted.names)
    assert len(index) == len(wanted.names)
    assert index.files == set(wanted.owners)
    for key in [*wanted.names, *others]:
        assert index.name_of(key) == wanted.names.get(key)
    for name, key in wanted.owners.items():
        assert index.owner_of(name) == key
        assert index.is_shared(name) == wanted.is_shared(name)
    shared = [key for key, name in wanted.names.items() if wanted.owners[name] != key]
    assert sorted(index.sharers()) == sorted(shared)
    for family in [*FAMILIES, CREDENTIALS.family]:
        assert sorted(index.records(family)) == sorted(k for k in wanted.names if k[0] == family)


@given(names=st.lists(NAMES, max_size=12))
@pytest.mark.parametrize("kind", KINDS)
def test_names_are_told_as_by_taking_each_apart(kind: str, names: list[str]) -> None:
    """A file of another program would be taken for a record, or a record not be found."""
    layout = LAYOUTS[kind]
    records = layout.records(names)
    for name in names:
        key = restored(layout, name)
        assert layout.key_of(name) == key
        assert (name in records) == (key is not None and name_of(layout, key) == name)


@given(key=keys(), has_file=st.booleans())
@pytest.mark.parametrize("kind", KINDS)
def test_only_ids_that_their_files_tell_are_beyond_doubt(
    kind: str, key: Key, has_file: bool
) -> None:
    """An id of BaileysEx's manifest would become another one."""
    layout = LAYOUTS[kind]
    name = name_of(layout, key)
    if not layout.doubtful(key.family, [key.id], {name} if name and has_file else set()):
        assert has_file and restored(layout, name) == key == check_key(*key)


@pytest.mark.parametrize("kind", KINDS)
def test_what_clients_make_is_beyond_doubt(kind: str) -> None:
    """Opening a large device would take each of its names apart."""
    layout = LAYOUTS[kind]
    ids = {
        "session": ["4915200000000.0", "222222222222222_1.7"],
        "pre-key": ["1", "16777215"],
        "sender-key": ["120363041234567890@g.us::15551234567::12", "1-2@g.us::222_1::7"],
        "sender-key-memory": ["120363041234567890@g.us"],
        "lid-mapping": ["15550001111", "111111111111111_reverse"],
        "tctoken": ["222222222222222@lid"],
        "identity-key": ["15550001111.0"],
    }
    for family, some in ids.items():
        names = {layout.file_name(Key(family, id)) for id in some}
        assert layout.doubtful(family, some, names) == []
        assert layout.doubtful(family, [*some, "99"], names) == ["99"]


@given(data=st.data())
@pytest.mark.parametrize("kind", KINDS)
def test_an_index_is_two_dicts(kind: str, data: st.DataObject) -> None:
    """A record would be read from another's file, an id be lost, or a shared file written over."""
    layout = LAYOUTS[kind]
    pool = data.draw(st.lists(keys() | st.sampled_from(CLASHING), max_size=10))
    pool = [key for key in pool if name_of(layout, key)]
    listed = data.draw(st.lists(st.sampled_from(pool), max_size=8)) if pool else []
    files = [layout.file_name(key) for key in pool if data.draw(st.booleans())]
    folder = layout.records([*files, "creds" + layout.suffix])
    index = Index(layout, set(folder))
    missing = index.list_owners([(key.family, [key.id]) for key in listed])
    wanted = Reference(layout, folder, listed)
    assert missing == wanted.missing
    matches(index, wanted, pool)
    for _ in range(data.draw(st.integers(0, 3)) if pool else 0):
        _change(data, index, wanted, pool)
        matches(index, wanted, pool)


# Ids of BaileysEx that share files, in any order.
CLASHING = [
    *(Key("session", id) for id in ("a/b:c", "a__b-c", "a/b-c", "a__b:c", "a:b", "a-b")),
    *(Key("sender-key", id) for id in ("memory-x", "1::2::3", "1--2--3", "1:-2::3")),
    Key("sender-key-memory", "x"),
    *(Key("tctoken", id) for id in ("__index", "/index")),
]


def _change(data: st.DataObject, index: Index, wanted: Reference, pool: list[Key]) -> None:
    change, before = Change(index), dict(wanted.names)
    for key in data.draw(st.lists(st.sampled_from(pool), max_size=4)):
        name = index.layout.file_name(key)
        is_put = data.draw(st.booleans())
        is_done = wanted.put(key, name) if is_put else wanted.drop(key)
        try:
            change.put(key, name, "folder") if is_put else change.drop(key)
        except NameCollision:
            assert not is_done
        else:
            assert is_done
    came = dict.fromkeys(wanted.names.keys() - before, True)
    gone = dict.fromkeys(before.keys() - wanted.names.keys(), False)
    assert change.ids == came | gone
    assert change.leaves_nothing == (not wanted.names)
    assert sorted(change.keys()) == sorted(wanted.names)
    assert sorted(index.records()) == sorted(before)
    change.enter()


def test_the_first_that_a_manifest_lists_owns_a_shared_file() -> None:
    """Which of the ids the file is reported for would depend on how it is spelled."""
    plain, odd = Key("session", "a-b"), Key("session", "a:b")
    for first, second in ((plain, odd), (odd, plain)):
        index = Index(LAYOUTS["baileysex"], {"session-a-b.etf", "session-1.etf"})
        assert index.list_owners([("session", ["1", first.id, second.id, first.id])]) == []
        assert (index.owner_of("session-a-b.etf"), index.sharers()) == (first, [second])
        assert len(index) == 3
        for key in (plain, odd):
            with pytest.raises(NameCollision):
                Change(index).put(key, "session-a-b.etf", "folder")
            with pytest.raises(NameCollision):
                Change(index).drop(key)


def test_records_are_those_of_one_moment() -> None:
    """A manifest that is made while commits go on would hold half of one, or making it fail."""
    layout = LAYOUTS["baileysex"]
    index = Index(layout, {f"session-{number}.etf" for number in range(9)})
    before = sorted(index.records())
    reader: Iterator[Key] = index.records()
    some = [next(reader)]
    change = Change(index)
    for number in range(9):
        change.drop(Key("session", str(number)))
        change.put(Key("session", f"a:{number}"), f"session-a-{number}.etf", "folder")
    change.enter()
    assert sorted([*some, *reader]) == before
    assert {key.id for key in index.records()} == {f"a:{number}" for number in range(9)}


def test_later_commits_change_what_a_manifest_lists() -> None:
    """A record that was deleted before a crash would be reported as missing, or a new one lost."""
    listed = {"session": ["1", "2"], "tctoken": ["3"]}
    one, new = Key("session", "1"), Key("lid-mapping", "9")
    found = with_changes(listed, {one: False, new: True, Key("session", "2"): True})
    assert found == [("session", ["2"]), ("tctoken", ["3"]), ("lid-mapping", ["9"])]
    assert with_changes(listed, {}) == list(listed.items())


def test_an_id_whose_file_would_be_no_record_s_is_refused(tmp_path: Path) -> None:
    """It would be stored, and not be there when the device is opened again."""
    small_baileys(tmp_path / "source")
    copy_device(f"baileys:{tmp_path}/source", f"baileysex:{tmp_path}/d")
    with open_device(f"baileysex:{tmp_path}/d") as device:
        value = next(iter(device.get("sender-key", device.ids("sender-key")).values()))
        with pytest.raises(NameCollision):
            device.set({"sender-key": {"memory-": value}})
        device.set({"sender-key": {"memory-x": value}})
    with open_device(f"baileysex:{tmp_path}/d") as device:
        assert device.get("sender-key", ["memory-x", "memory-"]) == {"memory-x": value}
        assert "x" not in device.ids("sender-key-memory")


def test_a_manifest_with_such_an_id_is_damage(tmp_path: Path) -> None:
    """What it stands for would be passed over in silence."""
    small_baileys(tmp_path / "source")
    copy_device(f"baileys:{tmp_path}/source", f"baileysex:{tmp_path}/d")
    (tmp_path / "d" / MANIFEST).write_bytes(write_manifest({"sender-key": ["memory-"]}))
    with pytest.raises(StoreDamaged, match="lists a record that"):
        open_device(f"baileysex:{tmp_path}/d")


# What a large folder costs.


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_takes_its_file_s_name_and_little_more(kind: str) -> None:
    """An open device of 100,000 records would take more memory than its cache may."""
    layout, count = LAYOUTS[kind], 100_000
    ids = [f"{4_915_200_000_000 + number}.{number % 100}" for number in range(count)]
    names = [layout.file_name(Key("session", id)) for id in ids]
    gc.collect()
    tracemalloc.start()
    try:
        index = Index(layout, layout.records(names))
        if layout.manifest:
            assert index.list_owners([("session", ids)]) == []
        assert index.name_of(Key("session", ids[7])) == names[7]
        assert sum(1 for _ in index.records("session")) == count
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(index) == count
    assert taken < 64 * count


class Asked(Disk):
    """Counts what is asked of the disk."""

    def __init__(self) -> None:
        self.listed: list[str] = []
        self.looked_at: list[str] = []

    def list(self, folder: str) -> list[str]:
        self.listed.append(folder)
        return super().list(folder)

    def exists(self, path: str) -> bool:
        self.looked_at.append(path)
        return super().exists(path)

    def mode(self, path: str) -> int:
        self.looked_at.append(path)
        return super().mode(path)

    def read(self, path: str) -> bytes:
        self.looked_at.append(path)
        return super().read(path)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_opening_lists_the_folder_once(kind: str, read_only: bool, tmp_path: Path) -> None:
    """Opening a large device would take a multiple of the time, or look at each of its files."""
    place = small_baileys(tmp_path / "source")
    if kind != "baileys":
        copy_device(f"baileys:{place}", f"{kind}:{tmp_path}/device")
        place = tmp_path / "device"
    disk = Asked()
    store = DirectoryStore(kind, str(place), disk)
    store.acquire("default", read_only=read_only, create=False)
    assert disk.listed.count(str(place)) == 1
    assert not [path for path in disk.looked_at if "session-" in path or "pre-key-" in path]
    assert store.scan("default")
    store.release("default")


@pytest.mark.parametrize("kind", ["baileys", "baileysex"])
def test_credentials_beside_a_compat_manifest_are_not_ours(kind: str, tmp_path: Path) -> None:
    """A folder of BaileysEx's other backend would be opened, and our lock be left in it."""
    place = small_baileys(tmp_path / "source")
    if kind == "baileysex":
        copy_device(f"baileys:{place}", f"baileysex:{tmp_path}/device")
        place = tmp_path / "device"
        (place / MANIFEST).unlink()
    (place / COMPAT_MANIFEST).write_bytes(b"{}")
    before = sorted(place.iterdir())
    for create in (False, True):
        with pytest.raises(UnknownStore):
            open_device(f"{kind}:{place}", create=create)
    assert sorted(place.iterdir()) == before
