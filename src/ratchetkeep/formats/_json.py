"""JSON as Baileys reads and writes it: BufferJSON, strict, the same bytes as ``JSON.stringify``.

Source: npm ``baileys`` 6.17.16 and 7.0.0-rc14 (``BufferJSON`` of ``Utils/generics``), found by
running them. Text is compact UTF-8 without BOM or newline; a lone surrogate is written ``\\udXXX``.
"""

from __future__ import annotations

import binascii
import codecs
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from ratchetkeep.errors import DecodeError
from ratchetkeep.model import Foreign, FrozenDict
from ratchetkeep.model._checks import MAX_DEPTH, Refused, free, kind_of

from ._shape import ABSENT, PRIVATE, Codec, Free, Leaf, Losses

MAX_BYTES = 64 * 1024 * 1024
# Python prints and parses numbers of up to 4300 digits.
MAX_BITS = 14_000


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Refused("the same member stands twice in an object")
    return members


def _constant(name: str) -> NoReturn:
    raise Refused(f"{name} is not JSON")


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise Refused("a number is beyond all that JavaScript can hold")
    return number


def parse(raw: bytes | str, *, constant: Callable[[str], Any] = _constant) -> Any:
    """The JSON value of ``raw``.

    :param constant: what ``NaN``, ``Infinity`` and ``-Infinity`` stand for; they are no JSON.
    :raises DecodeError: if it is not exactly one JSON value of bounded size and depth.
    """
    if len(raw) > MAX_BYTES:
        raise DecodeError("", f"more than {MAX_BYTES} bytes of JSON")
    if isinstance(raw, bytes) and raw.startswith(codecs.BOM_UTF8):
        raise DecodeError("", "begins with a byte order mark, which no client reads")
    try:
        text = raw.decode() if isinstance(raw, bytes) else raw
        return json.loads(
            text, object_pairs_hook=_pairs, parse_constant=constant, parse_float=_float
        )
    except json.JSONDecodeError as error:
        what = "is empty" if not raw.strip() else f"is not JSON (at character {error.pos})"
        raise DecodeError("", what) from None
    except UnicodeDecodeError as error:
        raise DecodeError("", f"is not UTF-8 (at byte {error.start})") from None
    except Refused as refused:
        raise DecodeError("", refused.what) from None
    except RecursionError:
        raise DecodeError("", "is nested too deeply") from None
    except ValueError:
        raise DecodeError("", "holds a number of too many digits") from None


def dump(value: Any) -> bytes:
    """``value`` as ``JSON.stringify`` writes it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace")


def from_base64(raw: Any) -> bytes:
    """The bytes of canonical base64 text: damage must not read as other bytes."""
    if type(raw) is not str:
        raise Refused(f"expected base64 text, got {kind_of(raw)}")
    try:
        data = binascii.a2b_base64(raw, strict_mode=True)
    except ValueError:
        raise Refused("is not base64 text") from None
    if to_base64(data) != raw:
        raise Refused("is not base64 text as any encoder writes it")
    return data


def to_base64(data: bytes) -> str:
    """Standard base64 text, padded."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def from_buffer(raw: Any) -> bytes:
    """The bytes of a Buffer object: base64 (7.x) or a list of numbers (6.x; sender keys)."""
    if not isinstance(raw, dict) or raw.get("type") != "Buffer" or set(raw) != {"type", "data"}:
        if isinstance(raw, dict) and raw.get("buffer") is True and set(raw) == {"buffer", "value"}:
            return _octets(raw["value"])
        raise Refused(f"expected a Buffer object, got {kind_of(raw)}")
    return _octets(raw["data"])


def from_either(raw: Any) -> bytes:
    """Bytes as base64 text or as a Buffer object: which one depends on the version."""
    return from_base64(raw) if isinstance(raw, str) else from_buffer(raw)


def _octets(raw: Any) -> bytes:
    if not isinstance(raw, list):
        return from_base64(raw)
    if not all(type(n) is int and 0 <= n <= 255 for n in raw):
        raise Refused("expected a list of numbers from 0 to 255")
    return bytes(raw)


def to_buffer(data: bytes) -> dict[str, str]:
    """The Buffer object of ``data``, as 7.x writes it."""
    return {"type": "Buffer", "data": to_base64(data)}


def from_free(raw: Any, depth: int = 0) -> Any:
    """A value of no fixed shape; Buffer objects become bytes if they come back the same."""
    if depth > MAX_DEPTH:
        raise Refused(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(raw, dict):
        if set(raw) == {"type", "data"} and raw["type"] == "Buffer":
            try:
                return from_base64(raw["data"])
            except Refused:
                pass
        return free({name: from_free(each, depth + 1) for name, each in raw.items()}, depth)
    if isinstance(raw, list):
        return free([from_free(each, depth + 1) for each in raw], depth)
    return free(raw, depth)


def to_free(value: Any, path: str, losses: Losses, *, finite: bool = True) -> Any:
    """JSON of a value of no fixed shape; what JSON cannot spell is noted and left out.

    :param finite: numbers that are not finite have no spelling.
    """
    if isinstance(value, Foreign):
        losses.note(path, f"a value that only {value.encoding.upper()} can spell is left out")
        return ABSENT
    if isinstance(value, bytes):
        return to_buffer(value)
    if isinstance(value, dict):
        written = {k: to_free(v, f"{path}.{k}", losses, finite=finite) for k, v in value.items()}
        return {k: v for k, v in written.items() if v is not ABSENT}
    if isinstance(value, tuple):
        items = [to_free(v, f"{path}[{i}]", losses, finite=finite) for i, v in enumerate(value)]
        # A hole would move the items behind it, so a list is held whole or not at all.
        return ABSENT if any(item is ABSENT for item in items) else items
    if (finite and isinstance(value, float) and not math.isfinite(value)) or (
        isinstance(value, int) and value.bit_length() > MAX_BITS
    ):
        losses.note(path, "a number that JSON cannot spell is left out")
        return ABSENT
    return value


def typed(kind: type) -> Leaf:
    """A leaf of exactly the JSON type ``kind``."""

    def decode(raw: Any) -> Any:
        if type(raw) is not kind:
            raise Refused(f"expected {kind.__name__}, got {kind_of(raw)}")
        return raw

    return Leaf(decode, lambda value: value)


TEXT, INT, BOOL = typed(str), typed(int), typed(bool)
BASE64 = Leaf(from_base64, to_base64)
BUFFER = Leaf(from_buffer, to_buffer)
# A 64-bit number: JSON number, text, or the object of a JavaScript Long; the model checks it.
NUMBER64 = Leaf(lambda raw: FrozenDict(raw) if isinstance(raw, dict) else raw, lambda value: value)
FREE = Free(from_free, to_free)


class JsonObject:
    """The dialect of JSON objects.

    :param free: how members that we do not know are spelled.
    """

    def __init__(self, free: Codec = FREE) -> None:
        self._free = free

    def split(self, raw: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        if not isinstance(raw, dict):
            raise Refused(f"expected an object, got {kind_of(raw)}")
        return dict(raw), {}

    def leftover(self, name: str, raw: Any, rest: dict[str, Any]) -> None:
        if name.startswith(PRIVATE):
            raise Refused("holds a member whose name begins with NUL")
        try:
            rest[name] = self._free.decode(raw)
        except Refused as refused:
            raise Refused(refused.what, f".{name}{refused.path}") from None

    def join(
        self, members: dict[str, Any], extra: Mapping[str, Any], path: str, losses: Losses
    ) -> dict[str, Any]:
        for name, value in extra.items():
            if not name.startswith(PRIVATE):
                written = self._free.encode(value, f"{path}.{name}", losses)
                if written is not ABSENT:
                    members.setdefault(name, written)
            elif isinstance(value, Foreign):
                what = f"members that only {value.encoding.upper()} can spell are left out"
                losses.note(path, what)
        return members


OBJECT = JsonObject()
