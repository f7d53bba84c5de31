"""The source of a copy: all of its records, one after the other, and a digest of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, Protocol

from ratchetkeep.errors import StoreInUse
from ratchetkeep.formats import Format
from ratchetkeep.model import CREDENTIALS, Key
from ratchetkeep.stores.base import Finding

__all__ = ["CHUNK", "Chunk", "Digest", "Source", "changed", "chunks", "digest_of"]

# Records that are read, written and read back together.
CHUNK = 256

Chunk = list[tuple[Key, bytes]]
"""Records as the source has them."""


class Source(Protocol):
    """What of a store a copy reads; see :class:`ratchetkeep.stores.base.Store`."""

    url: str
    reads_snapshots: bool

    @property
    def format(self) -> Format: ...
    def scan(self, device: str, family: str | None = None) -> Iterator[Key]: ...
    def count(self, device: str) -> int: ...
    def entries(self, device: str) -> Iterator[tuple[Key, bytes]]: ...
    def read(self, device: str, keys: Iterable[Key]) -> dict[Key, bytes]: ...
    def decode(self, device: str, key: Key, raw: bytes) -> Any: ...
    def where(self, device: str, key: Key) -> str: ...
    def findings(self, device: str) -> Iterator[Finding]: ...
    def sum_findings(self, device: str) -> Iterator[Finding]: ...
    def trace(self, device: str) -> str: ...


def chunks(reader: Source, device: str, size: int = CHUNK) -> Iterator[Chunk]:
    """The records with their bytes, in an order that stays the same while nothing changes; the
    credentials first, since there are targets that file all else under what they say.

    :raises StoreDamaged: if one that is there cannot be read.
    """
    others = (pair for pair in reader.entries(device) if pair[0] != CREDENTIALS)
    records = chain(reader.read(device, [CREDENTIALS]).items(), others)
    while chunk := list(islice(records, size)):
        yield chunk


class Digest:
    """A digest of every record that was read, in their order."""

    def __init__(self) -> None:
        self._all = hashlib.blake2b(digest_size=32)

    def add(self, chunk: Chunk) -> Chunk:
        """Add a chunk, and give it back."""
        parts: list[bytes] = []
        for (family, id), raw in chunk:
            parts += (b"%b\0%b\0%d\0" % (family.encode(), id.encode(), len(raw)), raw)
        self._all.update(b"".join(parts))
        return chunk

    def digest(self) -> bytes:
        """The digest of all that was added."""
        return self._all.digest()


def digest_of(reader: Source, device: str) -> bytes:
    """The digest of all records as they are now."""
    now = Digest()
    for chunk in chunks(reader, device):
        now.add(chunk)
    return now.digest()


def changed(reader: Source) -> StoreInUse:
    """The error of a source that is not what it was."""
    what = "was changed by another program during the copy"
    return StoreInUse(reader.url, what, "Stop that program, then copy again")
