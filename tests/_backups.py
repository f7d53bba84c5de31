"""What the tests of backups share: a device, and what a backup holds, read in two ways."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

from msgspec import msgpack

from _helpers import small_baileys
from ratchetkeep import copy_device, open_device
from ratchetkeep.backup import open_backup
from ratchetkeep.formats import native
from ratchetkeep.model import CREDENTIALS, FAMILIES, Key

# Made for these tests, and published with them: they protect nothing.
IDENTITY = "AGE-SECRET-KEY-1XN442Q9PUF4D6JW4K5NN7AQMRJPUY4EW0T9FKMEFSSHE924D9FLSMZ04RT"
RECIPIENT = "age10gul2zhuymdf6z4ma2aznjza3ara5gvuz05z9v2wsyg77jyur3dq2gkcw2"
PASSPHRASE = "a passphrase of the tests"


def small_sqlite(folder: Path, name: str = "s.db") -> str:
    """A database with one small device."""
    small = folder / "small"
    if not small.exists():
        small_baileys(small)
    url = f"sqlite:{folder}/{name}"
    copy_device(f"baileys:{small}", url)
    return url


def of_store(url: str) -> dict[Key, Any]:
    """Every record of a device."""
    with open_device(url, read_only=True) as device:
        found: dict[Key, Any] = {CREDENTIALS: device.credentials}
        for family in FAMILIES:
            values = device.get(family, device.ids(family))
            found |= {Key(family, id): value for id, value in values.items()}
        return found


def of_backup(file: Path, **opening: Any) -> dict[str, dict[Key, Any]]:
    """Every record of a backup, by device."""
    with open_backup(file, **opening) as backup:
        return {
            entry.name: {key: native.decode(key, data) for key, data in entry.records()}
            for entry in backup.devices()
        }


def frames_of(data: bytes) -> list[tuple[int, int, bytes]]:
    """The frames of a backup, read by its description alone: where each begins and ends, and its
    kind. Every checksum is looked at."""
    start = b"RKBACKUP\x00\x01"
    assert data[:16] == start + hashlib.blake2b(start, digest_size=6).digest()
    at, found = 16, []
    while at < len(data):
        kind, length = struct.unpack_from(">cI", data, at)
        end = at + 5 + length
        check = hashlib.blake2b(data[:end], digest_size=32, person=b"rk-backup-stream").digest()
        assert data[end : end + 32] == check
        found.append((at, end + 32, kind))
        at = end + 32
    return found


def payload_of(data: bytes, frame: tuple[int, int, bytes]) -> Any:
    """What a frame says."""
    return msgpack.decode(data[frame[0] + 5 : frame[1] - 32])
