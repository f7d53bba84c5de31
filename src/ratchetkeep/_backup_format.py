"""The container of a backup: what its bytes are, written and read in portions.

A backup is one stream: a preamble, then frames. Each frame ends with a checksum over everything
before it, so that nothing is given out of a frame that is damaged, missing, twice there or out of
place; the last frame says what the whole must hold. ``docs/reference/backup-format.md`` describes
every byte. The stream stands in a file as it is, or encrypted by age (:mod:`_backup_age`).
"""

from __future__ import annotations

import datetime
import hashlib
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import msgpack

from ratchetkeep.errors import InvalidValue, NotHeld, StoreDamaged, UnsupportedVersion
from ratchetkeep.model import CREDENTIALS, FAMILIES, Key, check_key
from ratchetkeep.stores.base import History

__all__ = [
    "MAGIC",
    "VERSION",
    "Header",
    "Manifest",
    "Packer",
    "Read",
    "Record",
    "SavedDevice",
    "Unpacker",
    "damaged",
]

MAGIC = b"RKBACKUP"
VERSION = 1
_PREAMBLE = struct.Struct(">8sH6s")
_FRAME = struct.Struct(">cI")
CHECK = 32

# A frame of records is closed once it holds so much.
PORTION_RECORDS = 256
PORTION_BYTES = 1024 * 1024
MAX_RECORD = 128 * 1024 * 1024
_MAX_FRAME = MAX_RECORD + 2 * PORTION_BYTES

_HEADER, _DEVICE, _RECORDS, _END, _MANIFEST = b"H", b"D", b"R", b"E", b"M"

Record = tuple[Key, bytes]
"""A record: its key, and its bytes in :mod:`ratchetkeep.formats.native`."""

Read = Callable[[int], bytes]
"""Gives that many bytes of the stream; fewer only at its end."""

T = TypeVar("T")


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup says of itself first.

    :ivar made: when it was begun (UTC).
    :ivar by: which version of ratchetkeep wrote it, such as ``ratchetkeep 0.1.0``.
    :ivar kind: the kind of store that it was made of, as in a URL.
    """

    made: datetime.datetime
    by: str
    kind: str


class _Begin(msgspec.Struct, frozen=True, kw_only=True):
    """The frame before a device's records."""

    name: str
    history: tuple[str, int] | None
    kind: str
    format: str


class SavedDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device in a backup.

    :ivar name: how it is called in its store.
    :ivar history: which life of the device it was, and after how many commits; None where its store
        counts none.
    :ivar kind: the kind of store.
    :ivar format: the name of the store's own format; the records here are in the native one.
    :ivar records: how many records of which family, with the credentials.
    :ivar size: bytes of all records.
    :ivar checksum: BLAKE2b over all records in their order, 32 bytes.
    """

    name: str
    history: History | None
    kind: str
    format: str
    records: dict[str, int]
    size: int
    checksum: bytes

    @property
    def total(self) -> int:
        """How many records, with the credentials."""
        return sum(self.records.values())


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a whole backup holds: its last frame."""

    header: Header
    devices: tuple[SavedDevice, ...]


class _Sum:
    """Counts and checksum of one device's records."""

    def __init__(self) -> None:
        self.records: Counter[str] = Counter()
        self.size = 0
        self._hash = hashlib.blake2b(digest_size=CHECK, person=b"rk-backup-device")

    def add(self, records: Iterable[tuple[str, str, bytes]]) -> None:
        for family, id, data in records:
            self.records[family] += 1
            self.size += len(data)
            head = b"%b\0%b\0%b" % (family.encode(), id.encode(), len(data).to_bytes(8, "big"))
            self._hash.update(head)
            self._hash.update(data)

    def of(self, begun: _Begin) -> SavedDevice:
        """The device whose records were added."""
        return SavedDevice(
            name=begun.name,
            history=None if begun.history is None else History(*begun.history),
            kind=begun.kind,
            format=begun.format,
            records={family: self.records[family] for family in sorted(self.records)},
            size=self.size,
            checksum=self._hash.digest(),
        )


class Packer:
    """Makes the bytes of a backup. Each call gives those that come next; write all of them."""

    def __init__(self) -> None:
        self._all = hashlib.blake2b(digest_size=CHECK, person=b"rk-backup-stream")
        self._devices: list[SavedDevice] = []
        self.manifest: Manifest | None = None

    def begin(self, header: Header) -> bytes:
        """The preamble and the header."""
        self._header = header
        start = preamble(VERSION)
        self._all.update(start)
        return start + self._frame(_HEADER, header)

    def device(
        self,
        name: str,
        history: History | None,
        kind: str,
        format: str,
        records: Iterable[Record],
    ) -> Iterator[bytes]:
        """One device, in portions; ``records`` are read as they are asked for, and begin with the
        credentials.

        :raises NotHeld: for a record of more than 128 MiB.
        """
        begun = _Begin(
            name=name,
            history=None if history is None else (history.id, history.commits),
            kind=kind,
            format=format,
        )
        yield self._frame(_DEVICE, begun)
        total = _Sum()
        for portion in _portions(records):
            total.add(portion)
            yield self._frame(_RECORDS, portion)
        saved = total.of(begun)
        self._devices.append(saved)
        yield self._frame(_END, saved)

    def finish(self) -> bytes:
        """The manifest, after which nothing follows."""
        self.manifest = Manifest(header=self._header, devices=tuple(self._devices))
        return self._frame(_MANIFEST, self.manifest)

    def _frame(self, kind: bytes, value: Any) -> bytes:
        payload = msgpack.encode(value)
        frame = _FRAME.pack(kind, len(payload)) + payload
        self._all.update(frame)
        check = self._all.digest()
        self._all.update(check)
        return frame + check


def preamble(version: int) -> bytes:
    """The first 16 bytes, which are alike in all versions: they tell a newer one from damage."""
    start = MAGIC + version.to_bytes(2, "big")
    return start + hashlib.blake2b(start, digest_size=6).digest()


def _portions(records: Iterable[Record]) -> Iterator[list[tuple[str, str, bytes]]]:
    portion: list[tuple[str, str, bytes]] = []
    size = 0
    for key, data in records:
        if len(data) > MAX_RECORD:
            raise NotHeld(str(key), "is larger than a backup can hold (128 MiB)")
        portion.append((key.family, key.id, data))
        size += len(data)
        if size >= PORTION_BYTES or len(portion) >= PORTION_RECORDS:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


class Event(NamedTuple):
    """What a frame says: the name of a device that begins (``begun``), some of its records, or
    what it was (``ended``)."""

    begun: str | None = None
    records: list[Record] | None = None
    ended: SavedDevice | None = None


class Unpacker:
    """Reads the stream of a backup, in the order in which it was written.

    :param place: how the file is called in errors.
    """

    def __init__(self, read: Read, place: str) -> None:
        self._read_some, self._place = read, place
        self._all = hashlib.blake2b(digest_size=CHECK, person=b"rk-backup-stream")
        self._devices: list[SavedDevice] = []
        self.manifest: Manifest | None = None
        self.header = self._begin()

    def events(self) -> Iterator[Event]:
        """What comes after the header. What an event brings was read without damage; that nothing
        is missing is known when the iterator has ended without an error, and ``manifest`` is set
        then.

        :raises StoreDamaged: if the stream is cut short, damaged, or not what a backup can be.
        """
        while (frame := self._frame())[0] == _DEVICE:
            yield from self._device(self._decoded(frame[1], _Begin))
        kind, payload = frame
        if kind != _MANIFEST:
            raise damaged(self._place, "its parts are not in order")
        manifest = self._decoded(payload, Manifest)
        if manifest != Manifest(header=self.header, devices=tuple(self._devices)):
            raise damaged(self._place, "its manifest does not say what it holds")
        if self._read_some(1):
            raise damaged(self._place, "something follows behind its end")
        self.manifest = manifest

    def _begin(self) -> Header:
        start = self._read_some(_PREAMBLE.size)
        if start[: len(MAGIC)] != MAGIC:
            raise damaged(self._place, "is no backup, or its beginning is damaged")
        version = int.from_bytes(start[8:10], "big")
        if start != preamble(version):
            raise damaged(self._place, "its beginning is damaged or cut short")
        if version != VERSION:
            raise UnsupportedVersion(self._place, f"is a backup in format version {version}")
        self._all.update(start)
        kind, payload = self._frame()
        if kind != _HEADER:
            raise damaged(self._place, "its parts are not in order")
        return self._decoded(payload, Header)

    def _device(self, begun: _Begin) -> Iterator[Event]:
        yield Event(begun=begun.name)
        found, is_first = _Sum(), True
        while (frame := self._frame())[0] == _RECORDS:
            raw = self._decoded(frame[1], list[tuple[str, str, bytes]])
            found.add(raw)
            records = [(self._key(family, id), data) for family, id, data in raw]
            if [key == CREDENTIALS for key, _ in records] != _only_first(len(raw), is_first):
                raise damaged(self._place, "a device's credentials are not its first record")
            is_first = False
            yield Event(records=records)
        kind, payload = frame
        saved = found.of(begun)
        if kind != _END or is_first or self._decoded(payload, SavedDevice) != saved:
            raise damaged(self._place, "a device is not what its end says that it holds")
        self._devices.append(saved)
        yield Event(ended=saved)

    def _key(self, family: str, id: str) -> Key:
        if (family, id) == CREDENTIALS:
            return CREDENTIALS
        if family not in FAMILIES:
            raise UnsupportedVersion(self._place, "holds records of a family that we do not know")
        try:
            return check_key(family, id)
        except InvalidValue:
            raise damaged(self._place, f"a {family} record has no proper id") from None

    def _frame(self) -> tuple[bytes, bytes]:
        """The next frame, whose checksum is right."""
        head = self._exactly(_FRAME.size)
        kind, length = _FRAME.unpack(head)
        if length > _MAX_FRAME:
            raise damaged(self._place, "is damaged: a part says that it is larger than can be")
        payload = self._exactly(length)
        self._all.update(head)
        self._all.update(payload)
        check = self._exactly(CHECK)
        if check != self._all.digest():
            raise damaged(self._place, "is damaged: a checksum is wrong")
        self._all.update(check)
        return kind, payload

    def _exactly(self, size: int) -> bytes:
        data = self._read_some(size)
        if len(data) != size:
            raise damaged(self._place, "is cut short")
        return data

    def _decoded(self, payload: bytes, kind: type[T]) -> T:
        try:
            return msgpack.decode(payload, type=kind)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            # Never the error's own text: it may quote what it stumbled on.
            raise damaged(self._place, "a part of it is not what it must be") from None


def _only_first(count: int, is_first: bool) -> list[bool]:
    """Which of a portion's records must be the credentials."""
    return [is_first and place == 0 for place in range(count)]


def damaged(place: str, what: str) -> StoreDamaged:
    """The error of a backup that cannot be read."""
    remedy = "Nothing was changed. Use another backup: an older one may stand beside it (FILE.1)"
    return StoreDamaged(place, what, remedy)
