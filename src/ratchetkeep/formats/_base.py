"""What every format offers, and what encoding a record gives."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from ratchetkeep.model import Credentials, Key

from ._shape import Loss


class Encoded(NamedTuple):
    """A record's bytes in a format; None if the format cannot hold the record at all."""

    data: bytes | None
    losses: tuple[Loss, ...]


class Format(Protocol):
    """Bytes <-> model, one record at a time, pure."""

    @property
    def name(self) -> str:
        """The format's name, as in a URL."""

    def decode(self, key: Key, raw: bytes) -> Any:
        """The value; raises DecodeError or UnsupportedVersion."""

    def encode(self, key: Key, value: Any, credentials: Credentials | None = None) -> Encoded:
        """The bytes. ``credentials`` are the device's, for what a format repeats from them."""
