"""The commit journal of the folder stores: one append and one sync make a commit durable.

A file beside the records. A header names its generation; each frame after it is one commit: the
names of files and their new bytes (None: removed). A frame is whole or it is not there, by its
checksum, which covers the generation and its number in it, so frames of an older generation that
still lie behind the newest one are not taken for frames of this one.

Header (32 bytes): ``RKJ``, version (1), generation (16, random), BLAKE2b-96 over these 20 bytes.
Frame: generation (16), number (8), payload length (4, both big endian), BLAKE2b-128 over all of
these and the payload (16), payload: MessagePack of ``[[name, bytes | nil], ...]``. The generation
marks where frames begin, so that one behind a damaged one is still found.
"""

from __future__ import annotations

import errno
import hashlib
import secrets
from collections.abc import Sequence

import msgspec
from msgspec import msgpack

from ratchetkeep.errors import StoreDamaged, UnsupportedVersion

from .disk import Disk

MAGIC = b"RKJ"
VERSION = 1
HEADER = 32
FRAME_HEAD = 44
MAX_PAYLOAD = 1 << 32

Entry = tuple[str, bytes | None]
_DECODER = msgpack.Decoder(list[Entry])


def _header(generation: bytes) -> bytes:
    head = MAGIC + bytes((VERSION,)) + generation
    return head + hashlib.blake2b(head, digest_size=12).digest()


def _frame(generation: bytes, number: int, payload: bytes) -> bytes:
    head = generation + number.to_bytes(8, "big") + len(payload).to_bytes(4, "big")
    return head + hashlib.blake2b(head + payload, digest_size=16).digest() + payload


class Journal:
    """The journal at ``path``. Not thread-safe: its store holds a lock.

    :ivar size: bytes of the current generation.
    """

    def __init__(self, disk: Disk, path: str) -> None:
        self.disk = disk
        self.path = path
        self.size = 0
        self._generation = b""
        self._number = 0

    def read(self) -> list[list[Entry]]:
        """The whole commits that are in it, oldest first. Changes nothing.

        :raises StoreDamaged: if a commit was acknowledged and can no longer be read.
        :raises OSError: if it cannot be read.
        """
        try:
            raw = self.disk.read_large(self.path)
        except FileNotFoundError:
            return []
        if len(raw) < HEADER:
            # It was never finished: the header is synced before the first commit.
            return []
        if raw[:3] == MAGIC and raw[3] > VERSION:
            raise UnsupportedVersion(self.path, f"is in journal version {raw[3]}")
        generation = raw[4:20]
        if raw[:HEADER] != _header(generation):
            # A header is synced before the first commit, so a journal without one has none.
            if not any(raw):
                return []
            raise StoreDamaged(self.path, "the journal's header is damaged")
        return self._frames(raw, generation)

    def _frames(self, raw: bytes, generation: bytes) -> list[list[Entry]]:
        commits: list[list[Entry]] = []
        at = HEADER
        while (payload := _payload(raw, at, generation, len(commits))) is not None:
            try:
                commits.append(_DECODER.decode(payload))
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
                raise StoreDamaged(self.path, f"commit {len(commits)} cannot be read") from None
            at += FRAME_HEAD + len(payload)
        if _later_frame(raw, at, generation, len(commits)):
            raise StoreDamaged(self.path, f"commit {len(commits)} is damaged, and later ones exist")
        return commits

    def append(self, entries: Sequence[Entry]) -> None:
        """Make one commit durable. On OSError its outcome is unknown until it is read again."""
        is_new = not self._generation
        payload = msgpack.encode(entries)
        if len(payload) >= MAX_PAYLOAD:
            raise OSError(errno.EFBIG, "more than a commit can hold")
        if is_new:
            self.restart()
            self.disk.sync_folder(self.path.rpartition("/")[0] or ".")
        frame = _frame(self._generation, self._number, payload)
        self.disk.write_at(self.path, self.size, frame)
        self.size += len(frame)
        self._number += 1

    def restart(self) -> None:
        """Begin a new generation: all commits so far are in their files, synced."""
        self._generation = secrets.token_bytes(16)
        self._number = 0
        # Synced by itself, so that no mix of an old header and new frames can ever be read.
        self.disk.write_at(self.path, 0, _header(self._generation))
        self.size = HEADER

    def remove(self) -> None:
        """Remove it: all commits are in their files, synced."""
        self.disk.unlink(self.path)
        self._generation, self._number, self.size = b"", 0, 0


def _payload(raw: bytes, at: int, generation: bytes, number: int) -> bytes | None:
    """The payload of the frame at ``at`` if it is whole and has that number."""
    start = at + FRAME_HEAD
    length = int.from_bytes(raw[at + 24 : at + 28], "big")
    payload = raw[start : start + length]
    whole = len(payload) == length and raw[at : start + length] == _frame(
        generation, number, payload
    )
    return payload if whole else None


def _later_frame(raw: bytes, at: int, generation: bytes, number: int) -> bool:
    """True if a whole frame follows the one at ``at``, which is not: it was acknowledged before
    a later one was begun, so it is damaged and was not merely never finished."""
    while (at := raw.find(generation, at + 1)) > 0:
        later = int.from_bytes(raw[at + 16 : at + 24], "big")
        if later > number and _payload(raw, at, generation, later) is not None:
            return True
    return False
