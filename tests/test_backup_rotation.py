"""Older backups beside the file, and what kills, full disks and Ctrl-C leave."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from _backups import IDENTITY, RECIPIENT, Victim, of_backup, of_store, small_sqlite
from ratchetkeep import CommitFailed, open_device
from ratchetkeep.backup import backup_device, open_backup

KEEP = 3
CALLS = ("rename", "link", "replace", "unlink", "fsync")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return small_sqlite(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "kept").mkdir()
    return tmp_path / "kept" / "b"


def commit(url: str) -> None:
    with open_device(url) as device:
        device.set({"lid-mapping": {"turn": str(time.monotonic_ns())}})


def commits_in(path: Path) -> int:
    """How far the device had come in a backup, which must be whole."""
    with open_backup(path) as backup:
        history = backup.manifest.devices[0].history
        assert history is not None
        return history.commits


def kept(file: Path) -> list[int]:
    """What the backups hold, the youngest first: each once, since a kill may leave two names."""
    numbers = (int(path.name.rpartition(".")[2]) for path in file.parent.glob(f"{file.name}.*"))
    found = [commits_in(file)] if file.exists() else []
    found += [commits_in(file.with_name(f"{file.name}.{number}")) for number in sorted(numbers)]
    return list(dict.fromkeys(found))


def is_kept(before: list[int], after: list[int]) -> bool:
    """Whether all that was to be kept is there: the old row, or the new one, which may hold one
    more until the next backup."""
    if after == before:
        return True
    return after[1:] in (before, before[:KEEP])


def test_older_ones_move_on(url: str, file: Path) -> None:
    """An older backup would be lost, or too many stay."""
    seen: list[int] = []
    for _ in range(KEEP + 3):
        commit(url)
        summary = backup_device(url, file, plaintext=True, keep=KEEP)
        seen.insert(0, commits_in(file))
        assert kept(file) == seen[: KEEP + 1]
        assert summary.older == tuple(f"{file}.{n}" for n in range(1, len(seen[: KEEP + 1])))
    assert len(list(file.parent.iterdir())) == KEEP + 1
    commit(url)
    backup_device(url, file, plaintext=True, keep=1)
    assert len(kept(file)) == 2
    commit(url)
    backup_device(url, file, plaintext=True)  # without keep: the older one stays as it is
    assert len(kept(file)) == 2


def test_a_link_is_followed(url: str, file: Path, tmp_path: Path) -> None:
    """The link that leads to the backup would be replaced, and the backup be on the wrong disk."""
    link = tmp_path / "link"
    link.symlink_to(file)
    for _ in range(2):
        commit(url)
        backup_device(url, link, plaintext=True, keep=2)
    assert link.is_symlink()
    assert len(kept(file)) == 2


def test_file_systems_without_links(url: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that knows no second names no older backups could be kept."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", refuse)
    for _ in range(3):
        commit(url)
        backup_device(url, file, plaintext=True, keep=2)
    assert len(kept(file)) == 3
    assert len(list(file.parent.iterdir())) == 3


def ending_at(number: int) -> Callable[[], None]:
    """Have the process end, as by kill -9, before its ``number``-th change of the disk."""
    left = [number]

    def install() -> None:
        for name in CALLS:
            real = getattr(os, name)

            def call(
                *args: object, _real: Callable[..., object] = real, **kwargs: object
            ) -> object:
                left[0] -= 1
                if left[0] == 0:
                    os._exit(77)
                return _real(*args, **kwargs)

            setattr(os, name, call)

    return install


def test_kills_between_all_steps(url: str, file: Path) -> None:
    """A kill at some step of the rotation would leave no backup, or lose an older one."""
    for _ in range(KEEP + 1):
        commit(url)
        backup_device(url, file, plaintext=True, keep=KEEP)
    ended = 0
    for step in range(1, 40):
        commit(url)
        before = kept(file)
        child = os.fork()
        if child == 0:
            try:
                ending_at(step)()
                backup_device(url, file, plaintext=True, keep=KEEP)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        after = kept(file)
        assert is_kept(before, after), (step, before, after)
        assert len(after) > KEEP
        if os.waitstatus_to_exitcode(status) == 0:
            break
        ended += 1
        if step % 2:  # the next one finishes; or there are two kills in a row
            commit(url)
            backup_device(url, file, plaintext=True, keep=KEEP)
            assert len(list(file.parent.iterdir())) == KEEP + 1
    assert ended > KEEP + 4


def test_kills_of_the_command(url: str, file: Path) -> None:
    """A kill -9 of the real command would leave no backup, half a one, or keys on the disk."""
    asked = ("--recipient", RECIPIENT, "--keep", KEEP)
    victim = Victim(file.parent, "backup", url, file, *asked)
    for _ in range(KEEP + 1):
        commit(url)
        victim.run()
    # Told apart by their bytes, and read once: each is a file of its own for age.
    read: dict[bytes, Any] = {}

    def contents() -> list[Any]:
        paths = [file, *(file.with_name(f"b.{number}") for number in range(1, KEEP + 3))]
        found = list(dict.fromkeys(path.read_bytes() for path in paths if path.exists()))
        for path in paths:
            if path.exists() and path.read_bytes() not in read:
                read[path.read_bytes()] = of_backup(path, identities=[IDENTITY])["default"]
        return [read[data] for data in found]

    before, killed = contents(), 0
    while killed < 22:
        commit(url)
        now = of_store(url)
        killed += victim.kill()
        after = contents()
        assert after == before or after[1:] in (before, before[:KEEP])
        assert after == before or after[0] == now
        for path in file.parent.glob(".*"):  # what is left is encrypted, like the backup itself
            assert path.read_bytes()[:22] in (b"", b"age-encryption.org/v1\n")
        before = after
    commit(url)
    victim.run()
    assert contents() == [of_store(url), *before[:KEEP]]
    names = {path.name for path in file.parent.iterdir()}
    assert names == {"b", *(f"b.{number}" for number in range(1, KEEP + 1))}


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("name", ["write", "fsync", "link", "replace", "rename", "open"])
def test_a_disk_that_fails(
    name: str, error: int, url: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full or read-only disk would cost the backup of before, or be told as success."""
    for _ in range(2):
        commit(url)
        backup_device(url, file, plaintext=True, keep=2)
    before = kept(file)
    real = getattr(os, name)

    def fail(*args: object, **kwargs: object) -> object:
        is_ours = name in ("write", "fsync") or str(file.parent) in str(args[0])
        if is_ours and not (name == "open" and not int(str(args[1])) & os.O_CREAT):
            raise OSError(error, os.strerror(error))
        return real(*args, **kwargs)

    commit(url)
    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(CommitFailed):
            backup_device(url, file, recipients=[RECIPIENT], keep=2)
    assert kept(file) == before
    commit(url)
    backup_device(url, file, plaintext=True, keep=2)
    assert kept(file)[1:] == before[:2]
    assert len(list(file.parent.iterdir())) == 3


def test_a_real_limit_of_room(url: str, file: Path) -> None:
    """The command would end with a traceback, or leave half a file, where there is no room."""
    with open_device(url) as device:
        device.set({"lid-mapping": {str(each): "x" * 1000 for each in range(100)}})
    backup_device(url, file, plaintext=True)
    before = file.read_bytes()
    command = [sys.executable, "-m", "ratchetkeep", "backup", url, str(file), "--plaintext"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", check=False, preexec_fn=limit
    )
    assert done.returncode == 8, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_file_that_does_not_read_back(
    url: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup that the disk did not keep would be told as made."""
    backup_device(url, file, plaintext=True)
    before, real = file.read_bytes(), os.write

    def flip(descriptor: int, data: bytes) -> int:
        return real(descriptor, bytes([data[0] ^ 1]) + bytes(data[1:]))

    for how in ({"plaintext": True}, {"recipients": [RECIPIENT]}):
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", flip)
            with pytest.raises(CommitFailed, match="did not come back"):
                backup_device(url, file, **how)
        assert file.read_bytes() == before
        assert list(file.parent.iterdir()) == [file]


def test_ctrl_c_while_it_is_written(url: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C would be swallowed by the encryption, or leave a part of a backup."""
    backup_device(url, file, plaintext=True)
    before, real = file.read_bytes(), os.write

    def interrupt(descriptor: int, data: bytes) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        backup_device(url, file, recipients=[RECIPIENT])
    monkeypatch.setattr(os, "write", real)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]
