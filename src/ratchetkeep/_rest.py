"""What a target cannot hold, kept in a side file next to it, so that the way back is complete.

The side file is a store of ours with one device of the name ``rest``: the credentials and every
record of which the target holds less, as they were. A copy *from* that target later finds the file
and completes what it reads (:mod:`._merge`): what the other library changed stays changed, what it
used up stays used up.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any
from urllib.parse import quote

import msgspec

from ratchetkeep._copy_run import Progress
from ratchetkeep._copy_source import CHUNK, Source, chunks
from ratchetkeep._copy_spelling import RATCHETS, Spelled
from ratchetkeep._merge import merged
from ratchetkeep.errors import (
    CommitFailed,
    DecodeError,
    NoDevice,
    NotHeld,
    StoreDamaged,
    UnknownStore,
)
from ratchetkeep.formats import Format, native
from ratchetkeep.formats._addresses import to_whatsmeow_jid
from ratchetkeep.formats._baileys_signal import prefixed
from ratchetkeep.model import CREDENTIALS, Credentials, EncodedRecord, Key, SessionRecord
from ratchetkeep.stores import urls
from ratchetkeep.stores._stage import sweep
from ratchetkeep.stores.base import DEFAULT_DEVICE, Finding, Stage, Store, entries_of
from ratchetkeep.stores.disk import Disk

__all__ = ["Completed", "Rest", "completed"]

SUFFIX = ".ratchetkeep-rest"
NEW = ".new"
DEVICE = "rest"
# Of what a side file is called by; more is told by a digest.
_LONGEST = 100

# The encoding of what is kept: the record's native bytes, and what the target got of it, or None.
# What it got is kept too, and never worked out anew: another version may spell it otherwise.
_KEPT = "ratchetkeep-rest"

# The member of the kept credentials' ``extra`` that tells whether a ratchet has moved since.
_MARK = "ratchetkeep-rest"

CACHES = frozenset({"device-list", "sender-key-memory"})
"""What a client learns again, and what misleads it once it is old: these come back only while no
ratchet has moved."""


def _has_place(target: urls.Target) -> bool:
    """True if the target is a file or a folder, which another file can stand beside."""
    return target.kind != "memory" and "://" not in target.path


def _path_of(target: urls.Target, credentials: Credentials) -> str:
    """The side file of a device, beside its file or folder; "" where there is no place for one."""
    if not _has_place(target):
        return ""
    name = "" if target.device == DEFAULT_DEVICE else target.device
    if target.kind == "whatsmeow":  # whose devices are called by their JIDs, named or not
        name = (credentials.me and to_whatsmeow_jid(credentials.me.id)) or name
    name = quote(name, safe="@:+")
    if len(name) > _LONGEST:  # as a file's name; the side file itself says whose it is
        name = f"{name[:_LONGEST]}~{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}"
    name = "." + name if name else ""
    return os.path.realpath(target.path) + name + SUFFIX


def _side_file(path: str) -> Store:
    from ratchetkeep.stores.sqlite import SqliteStore  # only then: folders need no SQLite

    return SqliteStore(path)


class Rest:
    """The side file of a copy's target; one that an earlier copy left there is replaced or removed,
    since it is not about what is in the target then.

    :param keep: keep what the target cannot hold; else there is to be no side file.
    :param is_swept: what killed copies were putting together was removed already.
    :raises NotHeld: if there is no place for one.
    """

    def __init__(self, target: urls.Target, *, keep: bool, is_swept: bool = False) -> None:
        self._target, self._keep, self._is_swept = target, keep, is_swept
        self._path = ""
        self._stage: Stage | None = None
        if keep and not _has_place(target):
            what = "has no place beside it for a side file"
            remedy = "Keep the source, or copy it to a sqlite: file as well: that holds everything"
            raise NotHeld(urls.shown(target), what, remedy)

    def path(self, credentials: Credentials) -> str:
        """Where it is for the device of these credentials."""
        return _path_of(self._target, credentials)

    @contextmanager
    def stage(self, credentials: Credentials) -> Iterator[None]:
        """Put it together beside its place; leaving without :meth:`publish` drops it."""
        self._path = self.path(credentials)
        if not self._keep:
            yield
            return
        # Under another name until all of it is there: what an earlier copy left may be damaged.
        self._remove(self._path + NEW)
        try:
            with _side_file(self._path + NEW).stage(DEVICE, overwrite=False) as self._stage:
                yield
        finally:
            self._remove(self._path + NEW)

    def write(
        self,
        reader: Source,
        device: str,
        target: Spelled,
        credentials: Credentials,
        report: Progress,
    ) -> None:
        """Write every record of which the target holds less.

        One more pass over the source: most devices have little of it, and nothing may be written
        before the plan is known.
        """
        if self._stage is None:
            return
        total, done, ratchets = reader.count(device), 0, _Fingerprint()
        there: bytes | None = None
        for chunk in chunks(reader, device):
            report("rest", done, total)
            kept: dict[Key, bytes] = {}
            for key, raw in chunk:
                value = reader.decode(device, key, raw)
                data, losses = target.encode(key, value, credentials)
                if data is not None and target.fits is not None:
                    data, more = target.fits(key, data)
                    losses += more
                ratchets.add(key, data)
                if key == CREDENTIALS:
                    there = data
                elif losses or data is None:
                    both = _pack((_native(key, value), data))
                    kept[key] = _native(key, EncodedRecord(encoding=_KEPT, data=both))
            self._stage.write(kept)
            done += len(chunk)
        extra = {**credentials.extra, _MARK: _pack((ratchets.digest(), there))}
        marked = credentials.replace(extra=extra)
        self._stage.write({CREDENTIALS: _native(CREDENTIALS, marked)})

    def publish(self) -> None:
        """Put it in its place, or remove what was there."""
        if self._stage is not None:
            self._stage.publish()
        if not self._path:
            return  # there is no place for one
        try:
            self._remove(self._path)
            if self._stage is None:
                self._remove(self._path + NEW)
            else:
                Disk().rename(self._path + NEW, self._path)
                Disk().sync_folder(os.path.dirname(self._path))
        except OSError as error:
            what = f"cannot be written: {error.strerror}"
            raise CommitFailed(self._path, what, "The target was not changed") from None

    def _remove(self, path: str) -> None:
        """Remove a side file, and what a killed copy may have left of it: all of them hold keys."""
        disk = Disk()
        folder, name = os.path.split(path)
        if not disk.is_folder(folder):
            return
        if not self._is_swept:
            sweep(disk, folder, f"{name}.stage-")
        left = [path + suffix for suffix in ("", "-wal", "-shm", ".lock", ".owner")]
        left = [each for each in left if disk.exists(each)]
        for each in left:
            disk.unlink(each)
        if left:
            disk.sync_folder(folder)


def _native(key: Key, value: Any) -> bytes:
    data = native.encode(key, value).data
    if data is None:
        raise NotHeld(str(key), "has no native form")
    return data


@contextmanager
def completed(source: Store, named: urls.Target) -> Iterator[Source]:
    """The source of a copy, completed from its side file if there is one that is about it.

    :raises StoreDamaged: if the side file cannot be read.
    """
    raw = source.read(named.device, [CREDENTIALS]).get(CREDENTIALS)
    if raw is None:
        yield source  # the copy says what is the matter
        return
    credentials: Credentials = source.decode(named.device, CREDENTIALS, raw)
    path = _path_of(named, credentials)
    if not path or not Disk().exists(path):
        yield source
        return
    both = Completed(source, named.device, path)
    try:
        yield both if both.is_of(credentials) else source
    finally:
        both.close()


class _Fingerprint:
    """A hash over all ratchets, in whatever order they come."""

    def __init__(self) -> None:
        self._sum = 0

    def add(self, key: Key, data: bytes | None) -> None:
        if key.family in RATCHETS and data is not None:
            name = f"{key.family}\0{key.id}\0".encode()
            made = hashlib.blake2b(name + data, digest_size=16)
            self._sum += int.from_bytes(made.digest(), "big")

    def digest(self) -> bytes:
        return (self._sum % 2**128).to_bytes(16, "big")


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[bytes, bytes | None]).decode
_unpack_mark = msgspec.msgpack.Decoder(tuple[bytes, bytes]).decode


REMEDY = (
    "The device itself is whole. Restore the side file, or move it away and copy without what the "
    "other library could not hold"
)


class _Kept(bytes):
    """The native bytes of a record that only the side file has."""


class Completed:
    """A source whose records are completed from the side file next to it; read as a store is.

    :ivar path: the side file.
    """

    def __init__(self, source: Store, device: str, path: str) -> None:
        self.path = path
        self.url = source.url
        self.reads_snapshots = source.reads_snapshots
        self.format: Format = source.format
        self._source, self._device = source, device
        self._rest = _side_file(path)
        try:
            self._rest.acquire(DEVICE, read_only=True, create=False)
            self._credentials, self._there, self._ratchets = self._marked()
        except (NoDevice, StoreDamaged, UnknownStore) as error:
            self._rest.close()
            raise StoreDamaged(path, error.what, REMEDY) from None
        self._moved: bool | None = None

    def _marked(self) -> tuple[Credentials, bytes, bytes]:
        raw = self._rest.read(DEVICE, [CREDENTIALS]).get(CREDENTIALS)
        if raw is None:
            raise self._damaged(CREDENTIALS)
        kept: Credentials = self._rest.decode(DEVICE, CREDENTIALS, raw)
        extra = dict(kept.extra)
        try:
            ratchets, there = _unpack_mark(extra.pop(_MARK, b""))
        except (msgspec.MsgspecError, TypeError):
            raise self._damaged(CREDENTIALS) from None
        return kept.replace(extra=extra), there, ratchets

    def _damaged(self, key: Key) -> StoreDamaged:
        return StoreDamaged(self._rest.where(DEVICE, key), "is not what a copy kept there", REMEDY)

    def is_of(self, credentials: Credentials) -> bool:
        """True if the side file is about this device: another one may have taken its place."""
        ours, theirs = self._credentials, credentials
        return (
            ours.registration_id == theirs.registration_id
            and ours.signed_identity_key.private == theirs.signed_identity_key.private
        )

    def close(self) -> None:
        """Close the side file; the source stays open."""
        self._rest.close()

    def scan(self, device: str, family: str | None = None) -> Iterator[Key]:
        """The source's keys, then those that only the side file has."""
        yield from self._source.scan(device, family)
        for chunk in _chunks(self._rest.scan(DEVICE, family)):
            there = self._source.read(device, chunk)
            yield from (key for key in chunk if key not in there and self._comes_back(key))

    def _comes_back(self, key: Key) -> bool:
        """True for a record that the source's format had no place for; others were removed."""
        if key.family in CACHES and self._has_moved():
            return False
        return self._own(key)[1] is None

    def _has_moved(self) -> bool:
        if self._moved is None:
            found = _Fingerprint()
            for family in RATCHETS:
                keys = self._source.scan(self._device, family)
                for key, raw in entries_of(self._source, self._device, keys):
                    found.add(key, raw)
            self._moved = found.digest() != self._ratchets
        return self._moved

    def count(self, device: str) -> int:
        """As :meth:`Store.count`."""
        return sum(1 for _ in self.scan(device))

    def entries(self, device: str) -> Iterator[tuple[Key, bytes]]:
        """As :meth:`Store.entries`."""
        return entries_of(self, device, self.scan(device))

    def read(self, device: str, keys: Iterable[Key]) -> dict[Key, bytes]:
        """As :meth:`Store.read`."""
        wanted = list(keys)
        found = self._source.read(device, wanted)
        absent = [key for key in wanted if key not in found]
        kept = self._rest.read(DEVICE, absent) if absent else {}
        return found | {key: _Kept(raw) for key, raw in kept.items()}

    def decode(self, device: str, key: Key, raw: bytes) -> Any:
        """As :meth:`Store.decode`, completed."""
        if isinstance(raw, _Kept):
            return self._unpacked(key, raw)[0]
        theirs = self._source.decode(device, key, raw)
        ours, data = (self._credentials, self._there) if key == CREDENTIALS else self._own(key)
        if ours is None:
            return theirs
        base = None if data is None else self._source.decode(device, key, data)
        if theirs == base:
            return ours
        sides = [_model(key, each) for each in (base, theirs, ours)]
        if any(isinstance(each, EncodedRecord) for each in sides):
            return theirs
        return merged(*sides)

    def _own(self, key: Key) -> tuple[Any, bytes | None]:
        """What was kept of a record, and what the target got of it; (None, None) for nothing."""
        raw = self._rest.read(DEVICE, [key]).get(key)
        return (None, None) if raw is None else self._unpacked(key, raw)

    def _unpacked(self, key: Key, raw: bytes) -> tuple[Any, bytes | None]:
        both = self._rest.decode(DEVICE, key, raw)
        try:
            own, there = _unpack(both.data)
        except (msgspec.MsgspecError, AttributeError):
            raise self._damaged(key) from None
        return self._rest.decode(DEVICE, key, own), there

    def where(self, device: str, key: Key) -> str:
        """As :meth:`Store.where`."""
        return self._source.where(device, key)

    def findings(self, device: str) -> Iterator[Finding]:
        """As :meth:`Store.findings`."""
        return self._source.findings(device)

    def sum_findings(self, device: str) -> Iterator[Finding]:
        """As :meth:`Store.sum_findings`."""
        return self._source.sum_findings(device)

    def trace(self, device: str) -> str:
        """As :meth:`Store.trace`."""
        return self._source.trace(device)


def _model(key: Key, value: Any) -> Any:
    from ratchetkeep.formats import spellings  # only then: it loads protobuf

    try:
        model = spellings.to_model(key, value)
    except DecodeError:
        return value
    return _prefixed(model) if isinstance(model, SessionRecord) else model


def _prefixed(record: SessionRecord) -> SessionRecord:
    """The record with its sessions and chains under public keys of one form: with the type byte."""
    sessions = {}
    for base_key, session in record.sessions.items():
        chains = {prefixed(public): chain for public, chain in session.chains.items()}
        sessions[prefixed(base_key)] = session.replace(chains=chains)
    return record.replace(sessions=sessions)


def _chunks(keys: Iterator[Key]) -> Iterator[list[Key]]:
    while chunk := list(islice(keys, CHUNK)):
        yield chunk
