"""Damaged backups, and those of version 1, which are read for ever."""

from __future__ import annotations

import hashlib
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from _backups import (
    IDENTITY,
    PASSPHRASE,
    RECIPIENT,
    frames_of,
    of_store,
    payload_of,
    small_sqlite,
    with_passphrase,
)
from _helpers import GOLDEN
from ratchetkeep import NoDevice, StoreDamaged, StoreUnreadable, UnsupportedVersion, WrongKey
from ratchetkeep.backup import backup_device, open_backup
from ratchetkeep.formats import native

FILES = GOLDEN / "backup"
WAYS: dict[str, dict[str, Any]] = {
    "version-1.backup": {},
    "version-1-recipients.age": {"identities": [IDENTITY]},
    "version-1-passphrase.age": {"passphrase": PASSPHRASE},
}
PLAIN = FILES / "version-1.backup"


def write() -> None:
    """Write the golden files; the ones of a version that was released are never written again."""
    import tempfile

    FILES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        url = small_sqlite(Path(folder))
        backup_device(url, PLAIN, plaintext=True)
        backup_device(url, FILES / "version-1-recipients.age", recipients=[RECIPIENT])
        backup_device(url, FILES / "version-1-passphrase.age", passphrase=PASSPHRASE)


@pytest.mark.parametrize("name", WAYS)
def test_backups_of_version_1(name: str, tmp_path: Path) -> None:
    """A backup that was made years ago could not be read any more."""
    with open_backup(FILES / name, **WAYS[name]) as backup:
        manifest = backup.manifest
        found = {
            key: native.decode(key, data)
            for entry in backup.devices()
            for key, data in entry.records()
        }
    (saved,) = manifest.devices
    assert (manifest.header.kind, saved.name, saved.kind) == ("sqlite", "default", "sqlite")
    assert saved.history is not None
    assert saved.total == 12
    assert found == of_store(small_sqlite(tmp_path))


def test_the_description_of_the_format_is_true() -> None:
    """Another program that follows the description could not read a backup."""
    data = PLAIN.read_bytes()
    frames = frames_of(data)
    kinds = b"".join(kind for _, _, kind in frames)
    assert kinds == b"HDREM"
    header, device, records, end, manifest = (payload_of(data, frame) for frame in frames)
    assert set(header) == {"made", "by", "kind"}
    assert set(device) == {"name", "history", "kind", "format"}
    assert device["history"][1] >= 1
    assert records[0][:2] == ["credentials", ""]
    total = hashlib.blake2b(digest_size=32, person=b"rk-backup-device")
    for family, id, value in records:
        total.update(family.encode() + b"\0" + id.encode() + b"\0")
        total.update(len(value).to_bytes(8, "big") + value)
    assert end["checksum"] == total.digest()
    assert end["size"] == sum(len(value) for _, _, value in records)
    assert manifest == {"header": header, "devices": [end]}


def opened(path: Path, **opening: Any) -> None:
    open_backup(path, **opening).close()


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    return tmp_path / "broken"


def test_every_flipped_byte_is_found(broken: Path) -> None:
    """Damage would be restored as if it were a key."""
    data = PLAIN.read_bytes()
    for place in [*range(200), *range(200, len(data), 11), *range(len(data) - 400, len(data))]:
        for bit in (0x01, 0x80):
            changed = bytearray(data)
            changed[place] ^= bit
            broken.write_bytes(changed)
            with pytest.raises(StoreDamaged, match="broken"):
                opened(broken)


def test_every_cut_is_found(broken: Path) -> None:
    """A backup that a full disk cut short would be taken for a whole one."""
    data = PLAIN.read_bytes()
    ends = {end for _, end, _ in frames_of(data)} - {len(data)}
    for length in sorted({*range(0, len(data), 13), *range(120), *ends, len(data) - 1}):
        broken.write_bytes(data[:length])
        with pytest.raises(StoreDamaged):
            opened(broken)
    broken.write_bytes(data + b"x")
    with pytest.raises(StoreDamaged, match="follows"):
        opened(broken)


def test_parts_that_are_missing_twice_there_or_out_of_order(broken: Path) -> None:
    """A backup put together from parts of others would be taken for one."""
    data = PLAIN.read_bytes()
    parts = [data[:16], *(data[start:end] for start, end, _ in frames_of(data))]
    rng = random.Random(4)
    for turn in range(60):
        mixed = list(parts)
        at = rng.randrange(len(mixed))
        if turn % 3 == 0:
            del mixed[at]
        elif turn % 3 == 1:
            mixed.insert(at, mixed[at])
        else:
            other = (at + 1 + rng.randrange(len(mixed) - 1)) % len(mixed)
            mixed[at], mixed[other] = mixed[other], mixed[at]
        broken.write_bytes(b"".join(mixed))
        with pytest.raises(StoreDamaged):
            opened(broken)


@pytest.mark.parametrize("name", [name for name in WAYS if "recipients" in name])
def test_damage_under_encryption(name: str, broken: Path) -> None:
    """Damage in an encrypted backup would go unseen, or crash the reader."""
    data = (FILES / name).read_bytes()
    begin = data.index(b"\n---") + 60
    for place in [*range(0, begin, 3), *range(begin, len(data), 97), len(data) - 1]:
        changed = bytearray(data)
        changed[place] ^= 1
        broken.write_bytes(changed)
        with pytest.raises(StoreDamaged if place >= begin else (StoreDamaged, WrongKey)):
            opened(broken, **WAYS[name])
    for length in (*range(23, len(data), 131), len(data) - 1):
        broken.write_bytes(data[:length])
        with pytest.raises(StoreDamaged):
            opened(broken, **WAYS[name])


def test_damage_under_a_passphrase(broken: Path) -> None:
    """Damage in a backup with a passphrase would go unseen, or look like a wrong passphrase."""
    data = with_passphrase(PLAIN.read_bytes(), PASSPHRASE)
    broken.write_bytes(data)
    opened(broken, passphrase=PASSPHRASE)
    for changed in (data[:-7], data[:-1] + bytes([data[-1] ^ 1]), data + b"x"):
        broken.write_bytes(changed)
        with pytest.raises(StoreDamaged):
            opened(broken, passphrase=PASSPHRASE)


def test_a_newer_version_is_told_from_damage(broken: Path) -> None:
    """A backup of a newer ratchetkeep would be called damaged, and thrown away."""
    start = b"RKBACKUP\x00\x02"
    check = hashlib.blake2b(start, digest_size=6).digest()
    broken.write_bytes(start + check + PLAIN.read_bytes()[16:])
    with pytest.raises(UnsupportedVersion, match="version 2"):
        opened(broken)


def test_what_is_no_backup(tmp_path: Path) -> None:
    """Something else would be read as a backup, or the reader hang on it."""
    with pytest.raises(NoDevice):
        opened(tmp_path / "none")
    with pytest.raises(StoreUnreadable):
        opened(tmp_path)
    (tmp_path / "text").write_text(json.dumps({"no": "backup"}))
    with pytest.raises(StoreDamaged, match="no backup"):
        opened(tmp_path / "text")


@pytest.mark.parametrize("name", ["version-1.backup", "version-1-recipients.age"])
def test_a_file_that_changes_while_it_is_read(name: str, broken: Path) -> None:
    """Records that were never checked would be restored."""
    data = (FILES / name).read_bytes()
    broken.write_bytes(data)
    with open_backup(broken, **WAYS[name]) as backup:
        with broken.open("r+b") as file:
            file.seek(len(data) - 700)
            file.write(b"something else")
        with pytest.raises(StoreDamaged):
            for entry in backup.devices():
                for _ in entry.records():
                    pass


if __name__ == "__main__" and sys.argv[1:] == ["write"]:
    write()
