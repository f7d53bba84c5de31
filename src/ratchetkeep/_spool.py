"""What a copy is to write, kept between its two passes without a bound on the number of records.

Nothing may be written before the whole source was tried, and nothing is to be read and encoded
twice. So the encoded records wait here: in memory, and beyond a few MiB in a file without a name in
the system's folder for temporary files. It is encrypted with a key that only this process has,
since a disk may keep what was deleted.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import IO, Self

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ratchetkeep.errors import CommitFailed
from ratchetkeep.model import Key

__all__ = ["Spool"]

IN_MEMORY = 4 * 1024 * 1024

_Records = list[tuple[str, str, bytes]]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Records).decode


class Spool:
    """Chunks of records, given back in the order in which they came, as often as asked."""

    def __init__(self, in_memory: int = IN_MEMORY) -> None:
        self._room = in_memory
        self._held: list[bytes] = []
        self._file: IO[bytes] | None = None
        # Lengths of the chunks in the file; a chunk's place here makes its nonce.
        self._lengths: list[int] = []
        self._cipher = AESGCM(secrets.token_bytes(32))

    def add(self, records: Iterable[tuple[Key, bytes]]) -> None:
        """Add a chunk.

        :raises CommitFailed: if there is no room for it.
        """
        chunk = _encode([(family, id, data) for (family, id), data in records])
        self._room -= len(chunk)
        if self._room >= 0 and self._file is None:
            self._held.append(chunk)
            return
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - see close
            sealed = self._cipher.encrypt(_nonce(len(self._lengths)), chunk, None)
            _write_all(self._file, sealed)
        except OSError as error:
            raise _failed(str(error.strerror)) from None
        self._lengths.append(len(sealed))

    def __iter__(self) -> Iterator[dict[Key, bytes]]:
        for chunk in self._held:
            yield _records(chunk)
        if self._file is not None:
            try:
                self._file.seek(0)
                for place, length in enumerate(self._lengths):
                    sealed = _read_all(self._file, length)
                    yield _records(self._cipher.decrypt(_nonce(place), sealed, None))
            except OSError as error:
                raise _failed(str(error.strerror)) from None
            except InvalidTag:
                raise _failed("it did not come back as it was written") from None

    def close(self) -> None:
        """Forget everything."""
        self._held, self._lengths = [], []
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _records(chunk: bytes) -> dict[Key, bytes]:
    return {Key(family, id): data for family, id, data in _decode(chunk)}


def _nonce(place: int) -> bytes:
    return place.to_bytes(12, "big")


def _write_all(file: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _read_all(file: IO[bytes], length: int) -> bytes:
    parts = []
    while length and (part := file.read(length)):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _failed(why: str) -> CommitFailed:
    what = f"cannot keep what is to be copied: {why}"
    return CommitFailed(
        tempfile.gettempdir(), what, "Nothing was changed. Set TMPDIR to a folder with room"
    )
