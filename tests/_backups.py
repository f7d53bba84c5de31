"""What the tests of backups share: a device, what a backup holds, read in two ways, and kills."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
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


def of_store(url: str, key: Any = None) -> dict[Key, Any]:
    """Every record of a device."""
    with open_device(url, read_only=True, key=key) as device:
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


def with_passphrase(data: bytes, passphrase: str) -> bytes:
    """Bytes as an age file for a passphrase, made by the description of age alone: with so little
    work that tests need not wait a second for each."""
    salt, key, nonce = os.urandom(16), os.urandom(16), os.urandom(16)
    wrapping = hashlib.scrypt(
        passphrase.encode(), salt=b"age-encryption.org/v1/scrypt" + salt, n=2, r=8, p=1, dklen=32
    )
    wrapped = ChaCha20Poly1305(wrapping).encrypt(bytes(12), key, None)
    head = f"age-encryption.org/v1\n-> scrypt {_text(salt)} 1\n{_text(wrapped)}\n---".encode()
    mac = hmac.digest(_derived(key, b"", b"header"), head, "sha256")
    stream = ChaCha20Poly1305(_derived(key, nonce, b"payload"))
    parts = [data[at : at + 65536] for at in range(0, len(data), 65536)]
    sealed = [
        stream.encrypt(number.to_bytes(11) + bytes([number == len(parts) - 1]), part, None)
        for number, part in enumerate(parts)
    ]
    return head + f" {_text(mac)}\n".encode() + nonce + b"".join(sealed)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _derived(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(key)


class Victim:
    """The real command, which is killed (kill -9) at some moment, most often while it writes.

    :param folder: what it writes into.
    """

    def __init__(self, folder: Path, *command: object) -> None:
        self._folder = folder
        self._command = [sys.executable, "-m", "ratchetkeep", *map(str, command)]
        self._rng = random.Random(7)
        self._span = 0.1

    def run(self) -> None:
        """To its end; learns how long it writes."""
        child = self._started()
        begun = self._wait_for_a_write(child)
        _, told = child.communicate()
        self._span = time.monotonic() - begun
        assert child.returncode == 0, told

    def kill(self) -> bool:
        """Start it and kill it; whether it was still there."""
        if self._rng.random() < 0.2:
            child = self._started()
            time.sleep(self._rng.uniform(0.0, 0.6))
        else:
            child = self._started()
            self._wait_for_a_write(child)
            time.sleep(self._rng.uniform(0.0, 1.1 * self._span))
        child.kill()
        child.communicate()
        return child.returncode == -signal.SIGKILL

    def _started(self) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
        )

    def _wait_for_a_write(self, child: subprocess.Popen[str]) -> float:
        before = self._looks()
        while child.poll() is None and self._looks() == before:
            time.sleep(0.001)
        return time.monotonic()

    def _looks(self) -> list[Any]:
        found = [self._folder.stat().st_mtime_ns]
        for entry in self._folder.iterdir():
            with suppress(FileNotFoundError):
                stat = entry.stat()
                found += [stat.st_mtime_ns, stat.st_size]
        return found


def put(template: Path, place: Path) -> None:
    """The template in the place, as it was."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(template, place)
