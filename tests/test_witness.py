"""A witness finds a store that was put back, through all faces, in both forms, in every place."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import pgserver
from _aio_helpers import Background, HeldDisk, waiting
from _helpers import footprint
from _sealing import KEY
from _witness import Copies, PostgresCopies, SqliteCopies, at, commits, known, put, until
from ratchetkeep import (
    Credentials,
    InvalidValue,
    NoDevice,
    OwnershipLost,
    RatchetkeepError,
    StoreDamaged,
    StoreRewound,
    StoreUnreadable,
    UnsupportedVersion,
    create_device,
    open_async_device,
    open_device,
    open_store,
)
from ratchetkeep.restore import cool_device
from ratchetkeep.sealing.keys import make_key_file
from ratchetkeep.witness import seen

FORMS = [None, 0]
WITNESSES = ["file", "sqlite", "baileys", "baileysex", "pyaileys", "postgresql"]


@pytest.fixture(scope="module")
def server() -> Iterator[pgserver.Server]:
    with pgserver.running() as server:
        yield server


@pytest.fixture(params=WITNESSES)
def witness(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Each place of a witness."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    if request.param == "file":
        return f"{folder}/seen"
    if request.param == "postgresql":
        return str(request.getfixturevalue("server").new_database())
    return f"{request.param}:{folder}/seen{'.db' if request.param == 'sqlite' else ''}"


@pytest.fixture(params=["closed file", "file with its log", "postgresql"])
def copies(request: pytest.FixtureRequest, tmp_path: Path) -> Copies:
    """Each store that a witness watches, which can be put back."""
    if request.param == "postgresql":
        return PostgresCopies(request.getfixturevalue("server"))
    return SqliteCopies(tmp_path, with_log=request.param == "file with its log")


def live(copies: Copies, witness: str, delay: float | None) -> None:
    """A device is made, copied away, and goes on."""
    commits(copies.url, witness, 3, delay)
    with open_device(copies.url, witness=witness, witness_delay=delay) as device:
        put(device, "before")
        if copies.with_log:
            copies.save("old")
    if not copies.with_log:
        copies.save("old")
    commits(copies.url, witness, 2, delay)


@pytest.mark.parametrize("delay", FORMS)
def test_a_store_that_was_put_back(copies: Copies, witness: str, delay: float | None) -> None:
    """A store that was put back would be opened, and message keys used twice; or it could not go on
    after the remedy that the error names."""
    live(copies, witness, delay)
    copies.put_back("old")
    for read_only in (False, True, False):
        with pytest.raises(StoreRewound) as raised:
            open_device(copies.url, read_only=read_only, witness=witness, witness_delay=delay)
    assert "ratchetkeep cool" in str(raised.value)
    with open_device(copies.url, read_only=True) as device:  # nothing was changed
        assert at(device) == 5
    cool_device(copies.url)
    with open_device(copies.url, witness=witness, witness_delay=delay) as device:
        put(device, "on")
    with open_device(copies.url, read_only=True, witness=witness) as device:
        assert known(witness, device) == at(device)


@pytest.mark.parametrize("delay", FORMS)
def test_the_face_for_asyncio(tmp_path: Path, delay: float | None) -> None:
    """asyncio's devices would not be watched, or block the event loop while the witness is told."""
    copies, witness = SqliteCopies(tmp_path), tmp_path / "seen"

    async def live(count: int) -> None:
        url = copies.url
        initial = None if copies.path.exists() else Credentials.new()
        opening = open_async_device(url, initial=initial, witness=witness, witness_delay=delay)
        async with opening as device:
            together = (device.set({"lid-mapping": {str(n): "1"}}) for n in range(count))
            await asyncio.gather(*together)
            if delay == 0:
                assert known(witness, device._core) == at(device._core)

    asyncio.run(live(5))
    copies.save("old")
    asyncio.run(live(1))
    copies.put_back("old")
    with pytest.raises(StoreRewound):
        asyncio.run(live(1))


def test_a_device_that_is_made_is_watched_at_once(tmp_path: Path) -> None:
    """The first commits of a device would be unknown to the witness: a store that is put back to
    its first day would be opened."""
    witness = tmp_path / "seen"
    with create_device(
        f"sqlite:{tmp_path}/a.db", Credentials.new(), witness=witness, witness_delay=60
    ) as device:
        assert known(witness, device) == at(device) == 1
    with open_store(f"sqlite:{tmp_path}/b.db", witness=witness, witness_delay=60) as store:
        assert known(witness, store.create("x")) == 1


def test_devices_of_an_open_store(tmp_path: Path) -> None:
    """The devices of an open store would not be watched; or one that was put back would keep the
    others of its file from being opened."""
    copies, witness = SqliteCopies(tmp_path), tmp_path / "seen"
    with open_store(copies.url, witness=witness) as store:
        for name in "ab":
            put(store.create(name))
    copies.save("old")
    with open_store(copies.url, witness=witness) as store:
        put(store.open("a"))
    copies.put_back("old")
    with open_store(copies.url, witness=witness) as store:
        with pytest.raises(StoreRewound):
            store.open("a")
        put(store.open("b"))


def test_commits_that_go_together(server: pgserver.Server, tmp_path: Path) -> None:
    """PostgreSQL counts commits of one device that go together as one: counted otherwise, the
    witness would know of commits that there never were, and every later opening be refused."""
    places = [f"sqlite:{tmp_path}/a.db", f"memory:{tmp_path}", server.new_database()]
    for place, delay in [(place, delay) for place in places for delay in (0, 0.01)]:
        for _ in range(2):
            with open_device(
                place, create=True, witness=tmp_path / "seen", witness_delay=delay
            ) as device:
                gate = HeldDisk(device)
                threads = [Background(partial(put, device, 0))]
                gate.began.wait()
                threads += [Background(partial(put, device, n)) for n in range(1, 9)]
                until(partial(lambda device: waiting(device) == 8, device))
                gate.let_go()
                assert all(each.ends() and each.error is None for each in threads)
                assert 8 in gate.batches
                last = at(device)
                assert (known(tmp_path / "seen", device) or 0) <= last
            with open_device(place, read_only=True) as device:
                assert known(tmp_path / "seen", device) == last == at(device)


def test_a_reader_beside_an_owner(tmp_path: Path) -> None:
    """A reader would take an owner who goes on while it opens for a store that was put back."""
    url, witness = f"sqlite:{tmp_path}/a.db", tmp_path / "seen"
    stop = threading.Event()
    with open_device(url, create=True, witness=witness, witness_delay=0) as owner:

        def go_on() -> None:
            while not stop.is_set():
                put(owner)

        writer = Background(go_on)
        for _ in range(60):
            with open_device(url, read_only=True, witness=witness) as reader:
                assert at(reader) <= at(owner)
        stop.set()
        assert writer.ends()
        assert writer.error is None


@pytest.mark.parametrize("sealed", ["watched", "witness", "both"])
def test_sealed_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sealed: str) -> None:
    """A sealed store could not be watched, or not be a witness."""
    monkeypatch.delenv("RATCHETKEEP_KEY_PASSPHRASE", raising=False)
    copies, witness = SqliteCopies(tmp_path), f"sqlite:{tmp_path}/seen.db"
    key = KEY if sealed != "witness" else None
    if sealed != "watched":
        make_key_file(tmp_path / "key")
        monkeypatch.setenv("RATCHETKEEP_KEY_FILE", str(tmp_path / "key"))
        text = (tmp_path / "key").read_text()
        open_device(f"{witness}?device=x", create=True, key=text).close()  # makes it, sealed

    def live() -> None:
        with open_device(copies.url, create=True, key=key, witness=witness) as device:
            put(device)

    live()
    copies.save("old")
    live()
    copies.put_back("old")
    with pytest.raises(StoreRewound):
        live()
    cool_device(copies.url, key=key)
    live()


def test_what_stays_the_same_is_not_found(tmp_path: Path) -> None:
    """A store that nothing was committed to since it was copied would be refused: it is no older
    than what was seen."""
    copies, witness = SqliteCopies(tmp_path), tmp_path / "seen"
    commits(copies.url, witness, 2)
    copies.save("old")
    commits(copies.url, witness, 0)
    copies.put_back("old")
    commits(copies.url, witness, 1)


def test_one_witness_of_many_places(tmp_path: Path) -> None:
    """Two devices would take each other's counts, or a copy of a device be taken for an older state
    of it: each has a history of its own."""
    witness = tmp_path / "seen"
    for name, count in (("a", 7), ("b", 2), ("a", 1), ("b", 1)):
        commits(f"sqlite:{tmp_path}/{name}.db", witness, count)
    with open_device(f"sqlite:{tmp_path}/b.db", witness=witness) as device:
        assert known(witness, device) == at(device) == 4


def test_an_owner_that_was_deprived(server: pgserver.Server, tmp_path: Path) -> None:
    """What a deprived owner tells on closing would be ahead of the store, or keep the new owner
    from it."""
    # With another lease the second is another owner, as in another process.
    database, witness = server.new_database(), tmp_path / "seen"
    first = open_device(f"{database}&lease=60", create=True, witness=witness, witness_delay=3600)
    put(first, 1)
    url = f"{database}&lease=2"
    with open_device(url, steal=True, witness=witness, witness_delay=3600) as second:
        assert known(witness, second) == at(second) == 2
        with pytest.raises(OwnershipLost):
            put(first, 2)
        put(second, 3)
        first.close()
        assert known(witness, second) == 2
    with open_device(url, read_only=True, witness=witness) as device:
        assert known(witness, device) == at(device) == 3


def test_a_server_as_witness_whose_writer_was_killed(
    server: pgserver.Server, tmp_path: Path
) -> None:
    """A process that is killed while it tells would keep all others from the witness for as long as
    its lease: 30 seconds, in which no device can be opened."""
    url, witness = f"sqlite:{tmp_path}/a.db", server.new_database()
    commits(url, witness, 1)
    program = (
        "import os, sys\n"
        "from ratchetkeep._witness_store import WitnessStore\n"
        "from ratchetkeep.stores import urls\n"
        "witness = WitnessStore(sys.argv[1])\n"
        "store = urls.open_target(witness.target)\n"
        "store.acquire(witness.target.device, read_only=False, create=False)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program, witness], check=False)
    commits(url, witness, 1)


# -- what is refused, with nothing made or changed


@pytest.mark.parametrize("kind", ["baileys", "baileysex", "pyaileys"])
def test_a_store_that_counts_nothing(tmp_path: Path, kind: str) -> None:
    """A folder would be opened as if the witness watched it; or be made first, and then refused."""
    with pytest.raises(InvalidValue, match="counts no commits"):
        open_device(f"{kind}:{tmp_path}/f", create=True, witness=tmp_path / "seen")
    assert list(tmp_path.iterdir()) == []


def test_a_witness_in_the_store_that_it_watches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: pgserver.Server
) -> None:
    """Both would be put back together, and the witness never find it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    database, place = server.new_database(), f"sqlite:{tmp_path}/a.db"
    for url, witness in [
        (place, place),
        (place, "sqlite:a.db?device=w"),
        (place, f"sqlite:{tmp_path}/link/a.db"),
        (f"memory:{tmp_path}", f"memory:{tmp_path}"),
        (f"{database}&device=a", f"{database}&lease=9"),
    ]:
        with pytest.raises(InvalidValue, match="put back together"):
            open_device(url, create=True, witness=witness)
    assert not (tmp_path / "a.db").exists()


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), 86401])
def test_a_delay_that_is_none(tmp_path: Path, delay: float) -> None:
    """The thread that tells would end with an error, or sleep for ever."""
    with pytest.raises(InvalidValue, match="witness_delay"):
        open_device(
            f"sqlite:{tmp_path}/a.db", create=True, witness=tmp_path / "w", witness_delay=delay
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", StoreDamaged),
        (b'{"format": "ratchetkeep-witness", "version": 1, "seen": {"x": 1}}', StoreDamaged),
        (b'{"format": "ratchetkeep-witness", "version": 2}', UnsupportedVersion),
    ],
)
@pytest.mark.parametrize("read_only", [False, True])
def test_a_damaged_witness(
    tmp_path: Path, content: bytes, error: type[RatchetkeepError], read_only: bool
) -> None:
    """A damaged witness would be one that knows of nothing; or be written over."""
    url, witness = f"sqlite:{tmp_path}/a.db", tmp_path / "seen"
    commits(url, witness, 1)
    witness.write_bytes(content)
    before = footprint(tmp_path)
    with pytest.raises(error):
        open_device(url, read_only=read_only, witness=witness)
    with pytest.raises(error):
        open_device(f"sqlite:{tmp_path}/new.db", create=True, witness=witness)
    assert footprint(tmp_path) == before


@pytest.mark.parametrize("kind", ["", "sqlite:", "baileys:"])
def test_a_folder_that_is_missing(tmp_path: Path, kind: str) -> None:
    """A disk that is not mounted would look like a witness that knows of nothing, and a new witness
    be begun below its mount point."""
    url, place = f"sqlite:{tmp_path}/a.db", tmp_path / "disk"
    witness = f"{kind}{place}/seen"
    place.mkdir()
    commits(url, witness, 1)
    place.rename(tmp_path / "gone")
    for read_only in (False, True):
        with pytest.raises(StoreUnreadable):
            open_device(url, read_only=read_only, witness=witness)
    with pytest.raises(StoreUnreadable):
        seen(witness, "0" * 32)
    assert not place.exists()


def test_a_store_that_can_be_no_witness(tmp_path: Path) -> None:
    """A place with a device of somebody's would get records that do not belong there."""
    url = f"sqlite:{tmp_path}/a.db"
    commits(url, tmp_path / "seen", 1)
    with open_device(f"baileys:{tmp_path}/other", create=True) as other:
        other.mint_pre_keys(1)
    before = footprint(tmp_path / "other")
    with pytest.raises(StoreDamaged, match="not what a witness keeps"):
        open_device(url, witness=f"baileys:{tmp_path}/other")
    assert footprint(tmp_path / "other") == before
    with pytest.raises(InvalidValue, match="paired devices"):
        open_device(url, witness=f"whatsmeow:{tmp_path}/w.db")


def test_a_witness_of_a_paired_device(tmp_path: Path) -> None:
    """Counts would be written into a device that is in use."""
    paired = f"baileys:{tmp_path}/paired"
    create_device(paired, Credentials.new().replace(registered=True)).close()
    with pytest.raises(InvalidValue, match="paired"):
        open_device(f"sqlite:{tmp_path}/a.db", create=True, witness=paired)


def test_a_relative_witness_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that changes its folder would go on with another witness."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "one")
    for number, witness in enumerate(["seen", "sqlite:seen.db"]):
        os.chdir(tmp_path / "one")
        url = f"sqlite:{tmp_path}/{number}.db"
        with open_device(url, create=True, witness=witness, witness_delay=0) as device:
            os.chdir(tmp_path / "two")
            put(device)
            where = witness.replace("seen", f"{tmp_path}/one/seen")
            assert known(where, device) == at(device)
    assert list((tmp_path / "two").iterdir()) == []


def test_no_device_stays_no_device(tmp_path: Path) -> None:
    """A place without a device would be reported as something else where a witness watches."""
    with pytest.raises(NoDevice):
        open_device(f"sqlite:{tmp_path}/a.db", witness=tmp_path / "seen")
    assert not (tmp_path / "seen").exists()
