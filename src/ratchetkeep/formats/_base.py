"""What every format offers, and what encoding a record gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from ratchetkeep.errors import DecodeError, InvalidValue
from ratchetkeep.model import CREDENTIALS, Credentials, Key, check_record
from ratchetkeep.model._checks import Refused

from ._shape import Loss


class Encoded(NamedTuple):
    """A record's bytes in a format; None if the format cannot hold the record at all."""

    data: bytes | None
    losses: tuple[Loss, ...]


def decoded(key: Key, read: Callable[[Any], Any], raw: Any) -> Any:
    """What ``read`` makes of a record's raw value, checked.

    :raises DecodeError: naming the member and what is wrong with it, never its content.
    """
    try:
        value = read(raw)
        return value if key == CREDENTIALS else check_record(key, value)
    except Refused as refused:
        raise DecodeError(refused.path.lstrip("."), refused.what) from None
    except InvalidValue as invalid:
        raise DecodeError("", invalid.what) from None


class Format(Protocol):
    """Bytes <-> model, one record at a time, pure."""

    @property
    def name(self) -> str:
        """The format's name, as in a URL."""

    def decode(self, key: Key, raw: bytes) -> Any:
        """The value; raises DecodeError or UnsupportedVersion."""

    def encode(self, key: Key, value: Any, credentials: Credentials | None = None) -> Encoded:
        """The bytes. ``credentials`` are the device's, for what a format repeats from them."""
