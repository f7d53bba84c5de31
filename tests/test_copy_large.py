"""Copies of large devices: other processes help, and memory does not grow with the records."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import apsw
import pytest

from _helpers import ALICE, BOB, OTP29, bytes_of, edit_json, private_copy, small_baileys
from ratchetkeep import (
    CommitFailed,
    CopySummary,
    StoreDamaged,
    StoreInUse,
    copy_device,
)
from ratchetkeep import _copy_child as child
from ratchetkeep import _copy_pool as pool
from ratchetkeep import _copy_run as run
from ratchetkeep import _spool as spool
from ratchetkeep._spool import Spool
from ratchetkeep.model import Key
from ratchetkeep.stores import urls
from ratchetkeep.stores.base import DEFAULT_DEVICE


class Stop(Exception):
    """Raised by a test inside a copy."""


@pytest.fixture
def helped(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Other processes help with every copy, however small; the processes that were started."""
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def start(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(real(*args, **options))
        return started[-1]

    monkeypatch.setattr(run, "HELPED", 1)
    monkeypatch.setattr(run, "CHUNK", 32)
    monkeypatch.setattr(pool, "_processors", lambda: 2)
    monkeypatch.setattr(subprocess, "Popen", start)
    return started


def alone(copy: Callable[[], CopySummary]) -> CopySummary:
    """A copy that nobody helps with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "HELPED", 10**9)
        return copy()


def told(summary: CopySummary) -> CopySummary:
    """What it says, but for the places."""
    return replace(summary, source="", target="")


@pytest.mark.parametrize("source", [f"baileys:{ALICE}", f"baileysex:{OTP29}"], ids=["js", "ex"])
@pytest.mark.parametrize("target", ["sqlite:{}/{}.db", "baileys:{}/{}", "baileysex:{}/{}"])
def test_with_help_the_copy_is_the_same(
    tmp_path: Path, helped: list[subprocess.Popen[bytes]], source: str, target: str
) -> None:
    """A large device would be copied otherwise than a small one."""
    urls_of = [target.format(tmp_path, name) for name in ("helped", "alone")]
    found = copy_device(source, urls_of[0])
    assert len(helped) == 2 and all(each.returncode is not None for each in helped)
    assert told(alone(lambda: copy_device(source, urls_of[1]))) == told(found)
    rows = [everything(url) for url in urls_of]
    assert rows[0] == rows[1]


def everything(url: str) -> dict[Key, bytes]:
    store = urls.open_target(urls.parse(url))
    store.acquire(DEFAULT_DEVICE, read_only=True, create=False)
    try:
        found = list(store.entries(DEFAULT_DEVICE))
        assert found == list(store.entries(DEFAULT_DEVICE))
        assert store.count(DEFAULT_DEVICE) == len(found)
        assert dict(found) == store.read(DEFAULT_DEVICE, list(store.scan(DEFAULT_DEVICE)))
        return dict(found)
    finally:
        store.close()


def test_findings_and_damage_are_the_same_with_help(
    tmp_path: Path, helped: list[subprocess.Popen[bytes]]
) -> None:
    """What is wrong in a large device would be told without its place, or not at all."""
    folder = private_copy(ALICE, tmp_path / "src")
    other = json.loads((ALICE / "pre-key-5.json").read_bytes())
    edit_json(folder / "pre-key-6.json", private=other["private"])
    source = f"baileys:{folder}"
    found = copy_device(source, f"sqlite:{tmp_path}/a.db")
    assert [finding.place for finding in found.findings if finding.severity == "error"] == [
        f"{folder}/pre-key-6.json"
    ]
    lonely = alone(lambda: copy_device(source, f"sqlite:{tmp_path}/b.db"))
    assert found.findings == lonely.findings
    (folder / "lid-mapping-15551230001.json").write_bytes(b"{")
    errors = []
    for copy in (lambda c: c(), alone):
        with pytest.raises(StoreDamaged) as caught:
            copy(lambda: copy_device(source, f"sqlite:{tmp_path}/c.db"))
        errors.append(str(caught.value))
    assert errors[0] == errors[1]
    assert not (tmp_path / "c.db").exists()
    assert all(each.returncode is not None for each in helped)


@pytest.mark.parametrize(
    "boot",
    [
        "raise SystemExit",
        "print('x' * 100); " + child._BOOT,
        "import os; os.write(3, b'x')",
        "import time; time.sleep(60)",
    ],
    ids=["ends", "prints", "fails", "is another program"],
)
def test_a_helper_that_fails_is_no_loss(
    tmp_path: Path,
    helped: list[subprocess.Popen[bytes]],
    boot: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A device could not be copied on a machine where a process fails or is killed."""
    monkeypatch.setattr(child, "_BOOT", boot)
    monkeypatch.setattr(pool, "PATIENCE", 0.5)
    copy_device(f"baileys:{BOB}", f"sqlite:{tmp_path}/a.db")
    copy_device(f"sqlite:{tmp_path}/a.db", f"baileys:{tmp_path}/b")
    assert bytes_of(tmp_path / "b") == bytes_of(BOB)
    assert all(each.returncode is not None for each in helped)


def test_a_frozen_program_is_not_started_again(
    tmp_path: Path, helped: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bot in one executable would start itself again, on the device that is being copied."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    copy_device(f"baileys:{BOB}", f"baileys:{tmp_path}/b")
    assert helped == []
    assert bytes_of(tmp_path / "b") == bytes_of(BOB)


def test_no_process_is_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device could not be copied where no process can be started."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(run, "HELPED", 1)
    monkeypatch.setattr(pool, "_processors", lambda: 2)
    monkeypatch.setattr(subprocess, "Popen", fail)
    copy_device(f"baileys:{BOB}", f"baileys:{tmp_path}/b")
    assert bytes_of(tmp_path / "b") == bytes_of(BOB)


@pytest.mark.parametrize("step", ["check", "write"])
@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_a_copy_that_is_stopped_leaves_no_process(
    tmp_path: Path,
    helped: list[subprocess.Popen[bytes]],
    step: str,
    error: type[BaseException],
) -> None:
    """Processes with keys in their memory would go on after Ctrl-C."""

    def progress(at: str, done: int, total: int) -> None:
        if at == step and done:
            raise error

    with pytest.raises(error):
        copy_device(f"baileys:{ALICE}", f"sqlite:{tmp_path}/a.db", progress=progress)
    assert helped and all(each.returncode is not None for each in helped)
    assert list(tmp_path.iterdir()) == []


def test_a_change_of_a_large_source_is_seen(
    tmp_path: Path, helped: list[subprocess.Popen[bytes]]
) -> None:
    """Half of another program's commit would be in the copy, which looks whole."""
    folder = small_baileys(tmp_path / "src")

    def confirm(summary: CopySummary) -> None:
        raw = (folder / "creds.json").read_bytes()
        (folder / "creds.json").write_bytes(raw.replace(b'"android"', b'"another"'))

    with pytest.raises(StoreInUse, match="during the copy"):
        copy_device(f"baileys:{folder}", f"sqlite:{tmp_path}/t.db", confirm=confirm)
    assert not (tmp_path / "t.db").exists()


def test_a_new_file_has_its_journal(tmp_path: Path) -> None:
    """A file that was put together without a journal would go on without one."""
    copy_device(f"baileys:{BOB}", f"sqlite:{tmp_path}/a.db")
    assert [path.name for path in tmp_path.iterdir()] == ["a.db"]
    connection = apsw.Connection(str(tmp_path / "a.db"), flags=apsw.SQLITE_OPEN_READONLY)
    assert connection.pragma("journal_mode") == "wal"
    assert connection.pragma("integrity_check") == "ok"
    connection.close()


# The spool.


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[IO[bytes]]]:
    """The spools' files, which have names here."""
    opened: list[IO[bytes]] = []

    def make(**options: Any) -> IO[bytes]:
        opened.append(open(tmp_path / f"spool-{len(opened)}", "w+b", **options))  # noqa: SIM115
        return opened[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", make)
    yield opened
    for each in opened:
        each.close()


def chunk_of(number: int) -> dict[Key, bytes]:
    return {
        Key("session", f"{number}.{n}"): b"a private key %d %d " % (number, n) * 20
        for n in range(8)
    }


def test_beyond_its_memory_a_spool_is_a_file_that_nobody_can_read(
    tmp_path: Path, files: list[IO[bytes]]
) -> None:
    """A copy of a large device would fill the memory, or leave its keys on the disk for others."""
    chunks = [chunk_of(number) for number in range(6)]
    with Spool(in_memory=10_000) as kept:
        for chunk in chunks:
            kept.add(chunk.items())
        assert [list(kept), list(kept)] == [chunks, chunks]
        written = (tmp_path / "spool-0").read_bytes()
        assert 0 < len(written) < 30_000
        assert b"private key" not in written
    assert [each.closed for each in files] == [True]


def test_a_spool_that_was_changed_is_noticed(tmp_path: Path, files: list[IO[bytes]]) -> None:
    """Other records than those of the source would be written into the target."""
    with Spool(in_memory=0) as kept:
        kept.add(chunk_of(1).items())
        path = tmp_path / "spool-0"
        data = path.read_bytes()
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        with pytest.raises(CommitFailed, match="Nothing was changed"):
            list(kept)


def test_a_spool_without_a_file_keeps_what_is_small(files: list[IO[bytes]]) -> None:
    """Copying a small device would write to a disk that is none of its business."""
    with Spool() as kept:
        kept.add(chunk_of(1).items())
        assert list(kept) == [chunk_of(1)]
    assert files == []


def test_a_copy_without_room_for_its_spool_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full temporary folder would be a traceback, or leave half a copy."""

    def full(**_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    monkeypatch.setattr(spool.Spool.__init__, "__defaults__", (1000,))
    with pytest.raises(CommitFailed, match="TMPDIR") as caught:
        copy_device(f"baileys:{BOB}", f"sqlite:{tmp_path}/a.db")
    assert caught.value.place == tempfile.gettempdir()
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_outgrows_the_spools_memory_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device of more than a few MiB would lose records on the way."""
    monkeypatch.setattr(spool.Spool.__init__, "__defaults__", (5000,))
    monkeypatch.setattr(run, "CHUNK", 16)
    copy_device(f"baileys:{ALICE}", f"sqlite:{tmp_path}/a.db")
    copy_device(f"sqlite:{tmp_path}/a.db", f"baileys:{tmp_path}/b")
    assert bytes_of(tmp_path / "b") == bytes_of(ALICE)
