"""The commit journal of the folder stores: one write and one sync make a commit durable.

A file beside the records. A header names its generation; each frame after it is one commit: the
names of files and their new bytes (None: removed). A frame is whole or it is not there, by its
checksum, which covers the generation and its number in it, so frames of an older generation that
still lie behind the newest one are not taken for frames of this one.

Once a few commits are in it the file is made larger ahead of them, with zeros: a sync is then of
bytes alone and changes nothing of the file itself, which takes half the time. Zeros behind the last
frame are its end.

Header (32 bytes): ``RKJ``, version (2), generation (16, random), BLAKE2b-96 over these 20 bytes.
Frame: generation (16), number (8), payload length (4, both big endian), BLAKE2b-128 over all of
these and the payload (16), payload: MessagePack of ``[[name, bytes | nil], ...]``. The generation
marks where frames begin, so that one behind a damaged one is still found.

A name ``FAMILY/ID`` stands for no file, since no name of a file holds a slash, but for an id that
BaileysEx's manifest lists from then on (empty bytes), or no longer (nil). Version 1 has no such
names: each of its commits that changes ids holds the whole manifest. Both are read; 2 is written.
"""

from __future__ import annotations

import errno
import hashlib
import secrets
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import msgpack

from ratchetkeep.errors import InvalidValue, OwnershipLost, StoreDamaged, UnsupportedVersion
from ratchetkeep.model import Key, check_key

from .disk import Disk, OpenFile

MAGIC = b"RKJ"
VERSION = 2
HEADER = 32
FRAME_HEAD = 44
MAX_PAYLOAD = 1 << 32

# A program that opens a device for a few commits does not wait for zeros.
SMALL = 8
# What the file grows by: a quarter of a megabyte, then whole ones.
STEP, STEP_OF_LARGE = 256 * 1024, 1024 * 1024

Entry = tuple[str, bytes | None]
_DECODER = msgpack.Decoder(list[Entry])


def _header(generation: bytes, version: int = VERSION) -> bytes:
    head = MAGIC + bytes((version,)) + generation
    return head + hashlib.blake2b(head, digest_size=12).digest()


def _frame(generation: bytes, number: int, payload: bytes) -> bytes:
    head = generation + number.to_bytes(8, "big") + len(payload).to_bytes(4, "big")
    return head + hashlib.blake2b(head + payload, digest_size=16).digest() + payload


class Journal:
    """The journal at ``path``. Not thread-safe: its store holds a lock.

    :param limit: bytes up to which it is made larger ahead of its commits.
    :ivar size: bytes of the current generation.
    :ivar ids: as :meth:`read` found them: ids that its commits listed (True) or struck out.
    """

    def __init__(self, disk: Disk, path: str, *, limit: int = 0) -> None:
        self.disk = disk
        self.path = path
        self.size = 0
        self.ids: dict[Key, bool] = {}
        self._limit = limit
        self._generation = b""
        self._number = 0
        self._file: OpenFile | None = None
        # The file's own size: behind the last frame are zeros, or an older generation.
        self._grown = 0

    def read(self) -> list[list[Entry]]:
        """The files of the whole commits that are in it, oldest first. Changes nothing.

        :raises StoreDamaged: if a commit was acknowledged and can no longer be read.
        :raises OSError: if it cannot be read.
        """
        try:
            raw = self.disk.read_large(self.path)
            for _ in range(5):
                try:
                    return self._commits(raw)
                except StoreDamaged:
                    # One commit half and the next one whole: that, too, is what a reader may see
                    # while an owner writes. Only what stays as it is counts.
                    before, raw = raw, self.disk.read_large(self.path)
                    if raw == before:
                        break
            return self._commits(raw)
        except FileNotFoundError:
            return []

    def _commits(self, raw: bytes) -> list[list[Entry]]:
        self.ids = {}
        if len(raw) < HEADER:
            # It was never finished: the header is synced before the first commit.
            return []
        version, generation = raw[3], raw[4:20]
        if raw[:3] == MAGIC and version > VERSION:
            raise UnsupportedVersion(self.path, f"is in journal version {version}")
        if not version or raw[:HEADER] != _header(generation, version):
            # A header is synced before the first commit, so a journal without one has none.
            if not any(raw):
                return []
            raise StoreDamaged(self.path, "the journal's header is damaged")
        return self._frames(raw, generation, version)

    def _frames(self, raw: bytes, generation: bytes, version: int) -> list[list[Entry]]:
        commits: list[list[Entry]] = []
        at = HEADER
        while (payload := _payload(raw, at, generation, len(commits))) is not None:
            try:
                entries = _DECODER.decode(payload)
                commits.append([entry for entry in entries if "/" not in entry[0]])
                ids = [entry for entry in entries if "/" in entry[0]]
                if ids and version == 1:
                    raise InvalidValue(self.path, "names no file")
                for name, data in ids:
                    family, _, id = name.partition("/")
                    self.ids[check_key(family, id)] = data is not None
            except (msgspec.MsgspecError, InvalidValue, RecursionError, UnicodeDecodeError):
                raise StoreDamaged(self.path, f"commit {len(commits)} cannot be read") from None
            at += FRAME_HEAD + len(payload)
        if _later_frame(raw, at, generation, len(commits)):
            raise StoreDamaged(self.path, f"commit {len(commits)} is damaged, and later ones exist")
        return commits

    def append(self, entries: Sequence[Entry], ids: Mapping[Key, bool] | None = None) -> None:
        """Make one commit durable. On any error its outcome is unknown until it is read again.

        :param ids: ids that come (True) or go.
        :raises OSError: if it cannot be written.
        :raises OwnershipLost: if the journal is no longer under its name.
        """
        listed: list[Entry] = [
            (f"{key.family}/{key.id}", b"" if is_there else None)
            for key, is_there in (ids or {}).items()
        ]
        payload = msgpack.encode([*entries, *listed])
        if len(payload) >= MAX_PAYLOAD:
            raise OSError(errno.EFBIG, "more than a commit can hold")
        file = self._file or self._begin()
        frame = _frame(self._generation, self._number, payload)
        self._grow(file, self.size + len(frame))
        file.write_at(self.size, frame)
        if not file.is_in_place():
            raise self._displaced()
        self.size += len(frame)
        self._number += 1

    def _begin(self) -> OpenFile:
        # Never over what is there: opening has carried out every journal, and removed it.
        self._file = file = self.disk.open_new(self.path)
        try:
            self.restart()
            self.disk.sync_folder(self.path.rpartition("/")[0] or ".")
        except BaseException:
            self.close()
            raise
        return file

    def _grow(self, file: OpenFile, end: int) -> None:
        """Make the file larger than ``end``, if it is not. A full disk is found out here, before
        anything of a commit is written. The commit's own sync is that of the new size too."""
        if end <= self._grown:
            return
        if self._number >= SMALL:
            step = STEP if end < STEP_OF_LARGE else STEP_OF_LARGE
            goal = max(end, min(end + step - end % step, self._limit))
            file.write(self._grown, bytes(goal - self._grown))
            end = goal
        self._grown = end

    def restart(self) -> None:
        """Begin a new generation: all commits so far are in their files, synced."""
        if self._file is None:
            return
        self._generation = secrets.token_bytes(16)
        self._number = 0
        self._file.write(0, _header(self._generation))
        # Synced by itself, so that no mix of an old header and new frames can ever be read; and
        # with the file's time, which must not be older than that of the files before it.
        self._file.sync()
        self.size = HEADER
        self._grown = max(self._grown, HEADER)

    @property
    def is_in_place(self) -> bool:
        """False if it was moved, removed or replaced since its first commit."""
        return self._file is None or self._file.is_in_place()

    def remove(self) -> None:
        """Remove it: all commits are in their files, synced.

        :raises OwnershipLost: if there is another one in its place.
        """
        if not self.is_in_place and self.disk.exists(self.path):
            raise self._displaced()
        self.disk.unlink(self.path)
        self.close()

    def close(self) -> None:
        """Let the file go; what is in it stays."""
        file, self._file = self._file, None
        self._generation, self._number, self.size, self._grown = b"", 0, 0, 0
        if file is not None:
            file.close()

    def _displaced(self) -> OwnershipLost:
        return OwnershipLost(
            self.path,
            "was moved, removed or replaced while it was open",
            "What was committed before is in the files when this device is closed; open it again",
        )


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
