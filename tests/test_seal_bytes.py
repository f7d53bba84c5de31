"""No key, id, name or number of the fixtures stands in a sealed SQLite file, or in anything that
lies beside it, at any time."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from _helpers import ALICE, BOB, COMPAT, GOLDEN, OTP29
from _sealing import KEY, NAME, OTHER_KEY, Place, values_of
from _whatsmeow import SqliteFile, put_alice
from ratchetkeep import copy_device, open_device
from ratchetkeep.device import open_in
from ratchetkeep.model import CREDENTIALS, FAMILIES
from ratchetkeep.reseal import rekey_store, seal_store, unseal_store
from ratchetkeep.stores import urls

SOURCES = {
    "alice": f"baileys:{ALICE}",
    "bob": f"baileys:{BOB}",
    "baileysex": f"baileysex:{OTP29}",
    "baileysex-json": f"baileysex-json:{COMPAT}",
    "pyaileys alice": f"pyaileys:{GOLDEN}/pyaileys/alice",
    "pyaileys bob": f"pyaileys:{GOLDEN}/pyaileys/bob",
}
MOVED_TO = "sqlite:/srv/elsewhere/+4915112345678-alice.db"
# So many bytes tell one text from what comes up by chance.
TELLING = 8
Needles = Mapping[bytes, str]


def parts_of(value: Any) -> Iterator[bytes | str]:
    """All bytes and texts anywhere in a value."""
    if isinstance(value, bytes | str):
        yield value
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from parts_of(getattr(value, name))
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from parts_of(key)
            yield from parts_of(each)
    elif isinstance(value, list | tuple | set | frozenset):
        for each in value:
            yield from parts_of(each)


def spellings(part: bytes | str) -> Iterator[tuple[bytes, str]]:
    """How a file may hold it, and what that is called."""
    raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
    yield raw, "raw"
    yield raw.hex().encode(), "hex"
    yield raw.hex().upper().encode(), "HEX"
    for skipped in range(3):  # wherever in a longer text it begins
        whole = raw[skipped : skipped + (len(raw) - skipped) // 3 * 3]
        yield base64.b64encode(whole), "base64"
        yield base64.urlsafe_b64encode(whole), "base64url"
    if isinstance(part, str):
        yield part.encode("utf-16-le", "surrogatepass"), "UTF-16"
        yield part.encode("utf-16-be", "surrogatepass"), "UTF-16"


def needles_of(parts: Iterator[bytes | str]) -> Needles:
    """The first bytes of all spellings of what is worth looking for."""
    found: dict[bytes, str] = {}
    for part in parts:
        for spelled, how in spellings(part):
            start = spelled[:TELLING]
            if len(start) == TELLING and len(set(start)) >= 4:
                found[start] = f"{how} of {part!r:.60}"
    # Families and the names of members of our format are no secret.
    known = " ".join([*FAMILIES, "ratchetkeep"]).encode()
    return {start: told for start, told in found.items() if start not in known}


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """URLs of devices of all libraries."""
    database = SqliteFile(tmp_path_factory.mktemp("whatsmeow") / "whatsmeow.db")
    put_alice(database)
    return {**SOURCES, "whatsmeow": database.url()}


@pytest.fixture(scope="session")
def needles(sources: dict[str, str]) -> Needles:
    """What no sealed file may hold."""

    def parts() -> Iterator[bytes | str]:
        yield from (NAME, MOVED_TO, MOVED_TO[-25:], *sources)
        for url in sources.values():
            for key, value in values_of(url, None).items():
                yield from parts_of(value)
                if key != CREDENTIALS:
                    yield key.id

    found = needles_of(parts())
    assert len(found) > 8_000
    return found


def search(folder: Path, needles: Needles) -> list[str]:
    """What is found in the files of a folder, and in their names."""
    found = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes() + b"\0" * TELLING + path.name.encode()
        for place in range(len(data) - TELLING + 1):
            told = needles.get(data[place : place + TELLING])
            if told is not None:
                found.append(f"{path.name} at {place}: {told}")
    return found


def fill(place: Place, sources: dict[str, str], key: Any) -> None:
    for name, url in [*sources.items(), (NAME, SOURCES["alice"])]:
        copy_device(url, place.url(name), target_key=key)


def live(place: Place, key: Any) -> None:
    """A client's day: commits, deletions, and a mark."""
    store = urls.open_target(urls.parse(place.store), key)
    with open_in(store, NAME, create=False, read_only=False, owns_store=True) as device:
        device.mint_pre_keys(20)
        sessions = device.ids("session")
        device.set({"session": dict.fromkeys(sessions[:3])})
        found = device.get("session", sessions[3:6])
        device.set({"session": found})
        device.save_credentials(device.credentials)
        store.mark_moved(NAME, MOVED_TO)


def test_the_search_finds_what_a_plain_file_holds(
    sources: dict[str, str], needles: Needles, tmp_path: Path
) -> None:
    """The search would find nothing anywhere, and all other tests here mean nothing."""
    place = Place(tmp_path / "plain")
    fill(place, sources, None)
    live(place, None)
    found = search(place.folder, needles)
    assert len(found) > 1000
    assert any(MOVED_TO[:20] in each for each in found)
    for part in (b"\x01\x02\x03\x04secret-key-of-32-bytes--", "+15551230001"):
        few = needles_of(iter([part]))
        for spelled, how in spellings(part):
            (tmp_path / "one").mkdir(exist_ok=True)
            (tmp_path / "one" / "file").write_bytes(b"\0\1\2" + spelled + b"\3\4")
            assert search(tmp_path / "one", few), how


@pytest.fixture(scope="module")
def filled(sources: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A sealed file of devices of all libraries."""
    place = Place(tmp_path_factory.mktemp("sealed"))
    fill(place, sources, KEY)
    return place


def test_while_it_is_open_and_after(filled: Place, needles: Needles, tmp_path: Path) -> None:
    """A copy of the folder, a backup of the disk, would hold keys and phone numbers: in the file,
    its log, its shared memory, or in what tells of the owner."""
    place = filled.copy(tmp_path / "file")
    assert search(place.folder, needles) == []
    with (
        open_device(place.url(), key=KEY) as device,
        open_device(place.url("alice"), read_only=True, key=KEY) as reader,
    ):
        device.mint_pre_keys(30)
        assert reader.ids("session")
        names = {path.name for path in place.folder.iterdir()}
        assert {"x.db-wal", "x.db-shm", "x.db.lock", "x.db.owner"} <= names
        assert search(place.folder, needles) == []
    live(place, KEY)
    assert search(place.folder, needles) == []


WORK = """
import os, sys
from ratchetkeep import open_device
device = open_device(sys.argv[1], key=bytes.fromhex(sys.argv[2]))
device.mint_pre_keys(300)
device.set({"session": device.get("session", device.ids("session"))})
os.kill(os.getpid(), 9)
"""


def test_after_its_owner_was_killed(filled: Place, needles: Needles, tmp_path: Path) -> None:
    """What a crash leaves would hold keys."""
    place = filled.copy(tmp_path / "file")
    done = subprocess.run([sys.executable, "-c", WORK, place.url(), KEY.hex()], check=False)
    assert done.returncode == -9
    assert (place.folder / "x.db-wal").stat().st_size > 0
    assert search(place.folder, needles) == []


def seal_it(place: Place) -> None:
    seal_store(place.store, KEY)


def seal_and_rekey(place: Place) -> None:
    seal_store(place.store, KEY)
    rekey_store(place.store, KEY, OTHER_KEY, data_key=True)


@pytest.mark.parametrize("work", [seal_it, seal_and_rekey])
def test_a_plain_file_that_is_sealed(
    work: Callable[[Place], None], sources: dict[str, str], needles: Needles, tmp_path: Path
) -> None:
    """Sealing would leave plain records in pages that are free, in the log, or beside the file."""
    place = Place(tmp_path / "file")
    fill(place, {"alice": sources["alice"], "pyaileys bob": sources["pyaileys bob"]}, None)
    live(place, None)
    assert search(place.folder, needles)
    work(place)
    assert sorted(os.listdir(place.folder)) == ["x.db"]
    assert search(place.folder, needles) == []


def test_a_plain_file_with_a_log_of_a_killed_owner(
    sources: dict[str, str], needles: Needles, tmp_path: Path
) -> None:
    """The log of an owner that was killed would keep its keys when the store is sealed."""
    live_one = Place(tmp_path / "live")
    copy_device(sources["alice"], live_one.url())
    with open_device(live_one.url()) as device:
        device.mint_pre_keys(50)
        place = live_one.copy(tmp_path / "left")
    for name in ("x.db.lock", "x.db.owner"):
        (place.folder / name).unlink()
    shutil.rmtree(live_one.folder)
    assert (place.folder / "x.db-wal").stat().st_size > 0
    seal_store(place.store, KEY)
    assert search(place.folder, needles) == []


def test_unsealing_gives_it_all_back(filled: Place, needles: Needles, tmp_path: Path) -> None:
    """The search after sealing would find nothing because nothing was there to be sealed."""
    place = filled.copy(tmp_path / "file")
    before = values_of(place.url())
    unseal_store(place.store, KEY)
    assert values_of(place.url(), None) == before
    assert len(search(place.folder, needles)) > 1000
