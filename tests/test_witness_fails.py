"""A witness that fails, its thread, and what it costs: nothing may hang, be lost or go unsaid."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from _aio_helpers import Background
from _witness import PATIENCE, at, commits, end_at_once, known, put, tellers, until
from ratchetkeep import (
    CommitFailed,
    OwnershipLost,
    open_async_device,
    open_device,
    open_store,
    witness,
)
from ratchetkeep import _witness_file as of_file
from ratchetkeep import _witness_store as of_store
from ratchetkeep.stores.disk import Disk


@pytest.fixture(autouse=True)
def no_thread_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A thread that idles would stay for as long as the program runs."""
    until(lambda: not tellers())  # of other tests
    monkeypatch.setattr(witness, "IDLE", 0.05)
    monkeypatch.setattr(witness, "DELAY", 0.05)  # of another try, too
    yield
    until(lambda: not tellers())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the witness is."""
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder / "seen"


@contextmanager
def gone(place: Path) -> Iterator[None]:
    """The disk of a witness is not there."""
    away = place.parent.with_name("away")
    place.parent.rename(away)
    try:
        yield
    finally:
        away.rename(place.parent)


# -- a witness that cannot be told


@pytest.mark.parametrize("kind", ["", "sqlite:"])
def test_the_strict_form(tmp_path: Path, place: Path, kind: str) -> None:
    """A commit that the witness does not know of would be acted upon; or be called lost, though it
    is stored; or the device take more, or be closed without a word."""
    url, where = f"sqlite:{tmp_path}/a.db", f"{kind}{place}"
    device = open_device(url, create=True, witness=where, witness_delay=0)
    put(device, 1)
    with gone(place):
        with pytest.raises(CommitFailed, match="is stored, but its witness"):
            put(device, 2)
        for call in (lambda: put(device, 3), lambda: device.get("lid-mapping", ["15551230001"])):
            with pytest.raises(CommitFailed):
                call()
        with pytest.raises(CommitFailed, match="witness could not be told"):
            device.close()
    with open_device(url, witness=where, witness_delay=0) as device:
        assert device.get("lid-mapping", ["15551230001"]) == {"15551230001": "2"}
        assert known(where, device) == at(device) == 3
        put(device, 4)
        assert known(where, device) == 4


def test_the_strict_form_with_asyncio(tmp_path: Path, place: Path) -> None:
    """A task would get no error for a commit that the witness does not know, or wait for ever."""

    async def program() -> None:
        url = f"sqlite:{tmp_path}/a.db"
        device = await open_async_device(url, create=True, witness=place, witness_delay=0)
        with gone(place):
            together = [device.set({"lid-mapping": {str(n): "1"}}) for n in range(3)]
            found = await asyncio.gather(*together, return_exceptions=True)
            assert {type(each) for each in found} == {CommitFailed}
        await device.close()

    asyncio.run(program())


def test_the_loop_goes_on_while_the_witness_is_told(tmp_path: Path, place: Path) -> None:
    """A witness that is slow would stop the whole event loop."""

    async def program() -> None:
        url = f"sqlite:{tmp_path}/a.db"
        async with open_async_device(url, create=True, witness=place, witness_delay=0) as device:
            with held(place):
                commit = asyncio.ensure_future(device.set({"lid-mapping": {"1": "1"}}))
                for _ in range(20):
                    await asyncio.sleep(0.005)
                assert not commit.done()
            await commit

    asyncio.run(program())


@contextmanager
def held(place: Path) -> Iterator[None]:
    """Another writer has the witness file, and does not go on."""
    with open(f"{place}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_a_writer_that_is_stopped(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process that has the witness would stop all others for ever."""
    monkeypatch.setattr(of_file, "PATIENCE", 0.05)
    device = open_device(f"sqlite:{tmp_path}/a.db", create=True, witness=place, witness_delay=0)
    with held(place), pytest.raises(CommitFailed, match="another process has been writing"):
        put(device)
    device.close()  # which tells
    assert list(json.loads(place.read_bytes())["seen"].values()) == [2]


def test_a_store_that_is_in_use(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A witness that another process has open would stop every commit for ever."""
    monkeypatch.setattr(of_store, "PATIENCE", 0.05)
    url, where = f"sqlite:{tmp_path}/a.db", f"sqlite:{place}.db"
    commits(url, where, 1)
    device = open_device(url, witness=where, witness_delay=0)
    with (
        open_device(f"{where}?device={of_store.NAME}"),
        pytest.raises(CommitFailed, match=r"is stored.*open already"),
    ):
        put(device)
    device.close()
    with open_device(url, witness=where) as device:
        assert known(where, device) == at(device)


def test_the_default_form(tmp_path: Path, place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A witness that is away for a while would stop the commits, be forgotten, or fill the log."""
    caplog.set_level(logging.INFO, "ratchetkeep")
    with open_device(
        f"sqlite:{tmp_path}/a.db", create=True, witness=place, witness_delay=0.01
    ) as device:
        with gone(place):
            put(device, 1)
            until(lambda: caplog.records)
            put(device, 2)
        until(lambda: known(place, device) == 3)
        until(lambda: len(caplog.records) == 2)
    first, last = caplog.records
    assert first.levelno == logging.WARNING
    assert str(place) in first.getMessage()
    assert "told again" in last.getMessage()


def test_closing_says_what_the_witness_does_not_know(tmp_path: Path, place: Path) -> None:
    """A program would think that a clean end is known to the witness; or the device stay owned."""
    url = f"sqlite:{tmp_path}/a.db"
    device = open_device(url, create=True, witness=place, witness_delay=60)
    put(device)
    with gone(place), pytest.raises(CommitFailed, match="is stored, but its witness"):
        device.close()
    with open_device(url, witness=place) as device:
        assert known(place, device) == at(device) == 2


def test_a_full_disk(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk would leave half a witness, or one that forgot."""
    url = f"sqlite:{tmp_path}/a.db"
    device = open_device(url, create=True, witness=place, witness_delay=0)
    before = place.read_bytes()
    real = Disk.write

    def full(disk: Any, path: str, data: bytes) -> None:
        real(disk, path, data[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Disk, "write", full)
    with pytest.raises(CommitFailed, match="No space left"):
        put(device)
    assert place.read_bytes() == before
    monkeypatch.undo()
    device.close()
    assert place.read_bytes() != before


def test_ctrl_c_while_the_witness_is_told(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C the device would be used as if the witness knew of its commit, keep its owner or
    the witness's lock, or keep another thread waiting."""
    url = f"sqlite:{tmp_path}/a.db"
    device = open_device(url, create=True, witness=place, witness_delay=0)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            put(device)
        other = Background(lambda: put(device))
        assert other.ends()
        assert isinstance(other.error, CommitFailed)
        with pytest.raises(KeyboardInterrupt):
            device.close()
    with open_device(url, witness=place, witness_delay=0) as device:
        assert known(place, device) == at(device) == 2
        put(device)


# -- closing, threads and forks


class Slow:
    """Holds up whoever writes a witness file."""

    def __init__(self, patch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.began, self.go_on = threading.Event(), threading.Event()
        real = Disk.write

        def write(disk: Any, path: str, data: bytes) -> None:
            self.began.set()
            assert self.go_on.wait(PATIENCE)
            if error is not None:
                raise error
            real(disk, path, data)

        patch.setattr(Disk, "write", write)


@pytest.mark.parametrize("error", [None, OSError(5, "Input/output error")])
def test_closing_waits_for_what_is_being_told(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    """A program that ends after a clean close would kill the thread at its work; or never hear that
    its work failed."""
    device = open_device(f"sqlite:{tmp_path}/a.db", create=True, witness=place, witness_delay=0.001)
    slow = Slow(monkeypatch, error)
    put(device)
    assert slow.began.wait(PATIENCE)
    closing = Background(device.close)
    assert not closing.ends(0.1)
    slow.go_on.set()
    assert closing.ends()
    assert isinstance(closing.error, CommitFailed if error else type(None))
    monkeypatch.undo()
    open_device(device.url, witness=place).close()
    assert 2 in json.loads(place.read_bytes())["seen"].values()


def test_a_commit_while_the_witness_is_told(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that comes while the thread writes would wait for it, or never be told."""
    with open_device(
        f"sqlite:{tmp_path}/a.db", create=True, witness=place, witness_delay=0.001
    ) as device:
        slow = Slow(monkeypatch)
        put(device, 1)
        assert slow.began.wait(PATIENCE)
        for number in range(5):
            put(device, number)
        slow.go_on.set()
        until(lambda: known(place, device) == 7)


def test_no_thread_to_be_had(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a moment without threads the witness would be told of nothing any more."""
    with open_device(
        f"sqlite:{tmp_path}/a.db", create=True, witness=place, witness_delay=0.001
    ) as device:
        real = threading.Thread.start

        def refused(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refused)
        put(device)
        monkeypatch.setattr(threading.Thread, "start", real)
        put(device)
        until(lambda: known(place, device) == 3)


def test_a_thousand_devices(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each device would have a thread, or a write to the witness, of its own."""
    writes: list[int] = []
    with open_store(f"sqlite:{tmp_path}/a.db", witness=place, witness_delay=0.5) as store:
        with monkeypatch.context() as patch:
            patch.setattr(Disk, "sync", lambda *_: None)  # of the file alone
            devices = [store.create(str(n)) for n in range(1000)]
        assert tellers() == []
        real = of_file.WitnessFile.note

        def noted(self: Any, counts: dict[str, int]) -> None:
            writes.append(len(counts))
            real(self, counts)

        monkeypatch.setattr(of_file.WitnessFile, "note", noted)
        for device in devices:
            put(device)
        assert len(tellers()) == 1
        until(lambda: sum(writes) >= 1000)
        assert len(writes) <= 20
    assert sum(writes) == 1000  # closing told nothing twice
    assert set(json.loads(place.read_bytes())["seen"].values()) == {2}


def test_no_witness_no_thread(tmp_path: Path, place: Path) -> None:
    """A program without a witness, a reader and the strict form would pay for a thread."""
    url = f"sqlite:{tmp_path}/a.db"
    for how in ({"create": True}, {"read_only": True}, {"witness": place, "witness_delay": 0}):
        with open_device(url, **how) as device:
            if "read_only" not in how:
                put(device)
        assert tellers() == []


def test_the_thread_begins_again(tmp_path: Path, place: Path) -> None:
    """After a quiet time no commit would be told any more."""
    with open_device(
        f"sqlite:{tmp_path}/a.db", create=True, witness=place, witness_delay=0.001
    ) as device:
        for number in range(2, 6):
            put(device)
            until(partial(lambda number: known(place, device) == number, number))
            until(lambda: not tellers())


def test_a_forked_child(tmp_path: Path, place: Path) -> None:
    """A child would wait for a lock that its parent's thread held, tell of its parent's devices, or
    have no thread for its own; and the parent's witness would stop with it."""
    with open_device(
        f"sqlite:{tmp_path}/a.db", create=True, witness=place, witness_delay=0.001
    ) as device:
        for _ in range(10):
            put(device)
            child = os.fork()
            if child == 0:
                code = 1
                with suppress(BaseException):
                    _as_child(device, f"sqlite:{tmp_path}/{os.getpid()}.db", place)
                    code = 0
                os._exit(code)
            put(device)
            end_at_once(child)
        until(lambda: known(place, device) == at(device))
    with open_device(f"sqlite:{tmp_path}/a.db", read_only=True) as device:
        assert at(device) == known(place, device) == 21
    assert len(json.loads(place.read_bytes())["seen"]) == 11


def _as_child(device: Any, url: str, place: Path) -> None:
    with pytest.raises(OwnershipLost):
        put(device)
    device.close()
    with open_device(url, create=True, witness=place, witness_delay=0.001) as own:
        put(own)
        until(lambda: known(place, own) == 2)


def test_a_child_that_was_forked_while_the_witness_was_told(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child would keep the lock of the witness for as long as it lives."""
    monkeypatch.setattr(of_file, "PATIENCE", 2.0)
    reading, writing = os.pipe()
    with open_device(
        f"sqlite:{tmp_path}/a.db", create=True, witness=place, witness_delay=0.001
    ) as device:
        slow = Slow(monkeypatch)
        put(device)
        assert slow.began.wait(PATIENCE)
        child = os.fork()
        if child == 0:
            os.read(reading, 1)  # until the parent is done
            os._exit(0)
        slow.go_on.set()
        until(lambda: known(place, device) == 2)
        put(device)
        until(lambda: known(place, device) == 3)
    os.write(writing, b"x")
    end_at_once(child)
    for descriptor in (reading, writing):
        os.close(descriptor)


# -- what it costs


@pytest.mark.parametrize("delay", [None, 0])
def test_syncs_of_a_commit(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, delay: float | None
) -> None:
    """The default form would cost the commits a sync, or wait for one; in the strict form a commit
    would return before the witness has it on its disk."""
    monkeypatch.setattr(witness, "DELAY", 30.0)
    ours: list[str] = []

    def counting(name: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(descriptor: int) -> None:
            if threading.current_thread() is threading.main_thread():
                ours.append(name)
            real(descriptor)

        return call

    with open_device(
        f"sqlite:{tmp_path}/a.db", create=True, witness=place, witness_delay=delay
    ) as device:
        with monkeypatch.context() as patch:
            for name in ("fsync", "fdatasync"):
                patch.setattr(os, name, counting(name, getattr(os, name)))
            for number in range(10):
                put(device, number)
        # Those of SQLite are its own, and not seen here: these are the witness's.
        assert len(ours) == (0 if delay is None else 20)
        seen = known(place, device)
        assert seen == (1 if delay is None else 11)
