"""JSON as BaileysEx writes it with Elixir's ``JSON``: the text, the leaves, objects and maps.

Source: BaileysEx 0.1.0-alpha.11 (its ``file_persistence``) and OTP 27 (its ``json``). Bytes are
Buffer objects. Erlang sorts maps of up to 32 members by name; larger ones have no order that could
be told, so theirs is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any

from ratchetkeep.errors import DecodeError
from ratchetkeep.model import FrozenDict
from ratchetkeep.model._checks import MAX_DEPTH, Refused, free, kind_of

from . import _json, _terms
from ._json import JsonObject, from_base64, from_buffer, to_base64, to_buffer
from ._shape import ABSENT, Codec, Free, Losses
from ._terms import NILS

# The size up to which Erlang keeps a map sorted.
SORTED = 32


def parse(raw: bytes) -> Any:
    """The JSON value of ``raw``.

    :raises DecodeError: as :func:`._json.parse`, and for half of a character, which Erlang refuses.
    """
    parsed = _json.parse(raw)
    if b"\\u" in raw:
        try:
            _refuse_halves(parsed)
        except Refused as refused:
            raise DecodeError("", refused.what) from None
    return parsed


def _refuse_halves(value: Any) -> None:
    texts = [value]
    while texts:
        each = texts.pop()
        if isinstance(each, str):
            if not is_whole(each):
                raise Refused("holds half of a character (a lone surrogate)")
        elif isinstance(each, dict):
            texts += [*each, *each.values()]
        elif isinstance(each, list):
            texts += each


def is_whole(text: str) -> bool:
    """False for text with half of a character (a lone surrogate) in it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def dump(value: Any) -> bytes:
    """``value`` as Elixir's ``JSON`` writes it."""
    out: list[str] = []
    _write(value, out)
    return "".join(out).encode()


def _write(value: Any, out: list[str]) -> None:
    if isinstance(value, str):
        out.append(_quoted(value))
    elif isinstance(value, dict):
        mark = "{"
        for name in sorted(value) if len(value) <= SORTED else value:
            out += (mark, _quoted(name), ":")
            _write(value[name], out)
            mark = ","
        out.append("}" if value else "{}")
    elif isinstance(value, list):
        mark = "["
        for each in value:
            out.append(mark)
            _write(each, out)
            mark = ","
        out.append("]" if value else "[]")
    elif value is None or isinstance(value, bool):
        out.append("null" if value is None else "true" if value else "false")
    else:
        out.append(_float(value) if isinstance(value, float) else str(value))


_ESCAPED = re.compile(r"\\(?:u(....)|.)")


def _quoted(text: str) -> str:
    quoted: str = encode_basestring(text)
    if "\\u" not in quoted:
        return quoted
    return _ESCAPED.sub(lambda each: f"\\u{each[1].upper()}" if each[1] else each[0], quoted)


def _float(value: float) -> str:
    """The shortest text, as Erlang's ``float_to_binary(F, [short])`` chooses it."""
    sign, found, exponent = Decimal(repr(value)).normalize().as_tuple()
    digits, minus = "".join(map(str, found)), "-" if sign else ""
    if not value or not isinstance(exponent, int):
        return f"{minus}0.0"
    size, power = len(digits), exponent + len(digits) - 1
    lowest = -4 if size == 1 else -(size + 2)
    highest = 2 if size == 1 or power >= 10 else 1
    if lowest <= exponent <= highest and abs(value) < 2**53:
        fixed = format(Decimal(repr(value)).normalize(), "f")
        return fixed if "." in fixed else f"{fixed}.0"
    return f"{minus}{digits[0]}.{digits[1:] or '0'}e{power}"


class Text:
    """Text; what Elixir cannot print stands in a Buffer. A lone surrogate becomes U+FFFD."""

    def decode(self, raw: Any) -> str:
        if type(raw) is str:
            return raw
        if not isinstance(raw, dict):
            raise Refused(f"expected text, got {kind_of(raw)}")
        return _terms.from_text(from_buffer(raw))

    def encode(self, value: str, path: str, losses: Losses) -> str:
        return _terms.TEXT.encode(value, path, losses).decode()


class Number64:
    """A 64-bit number, or its text; a JavaScript Long becomes the number that it stands for."""

    def decode(self, raw: Any) -> int | str:
        if type(raw) in (int, str):
            return raw  # type: ignore[no-any-return]
        raise Refused(f"expected a number or its text, got {kind_of(raw)}")

    def encode(self, value: Any, path: str, losses: Losses) -> int | str:
        written = _terms.NUMBER64.encode(value, path, losses)
        return written.decode() if isinstance(written, bytes) else written


TEXT, NUMBER64 = Text(), Number64()


def is_printable(data: bytes) -> bool:
    """Whether Elixir's ``String.printable?`` holds: such bytes are written as text."""
    try:
        return bool(_PRINTABLE(data.decode()))
    except UnicodeDecodeError:
        return False


_PRINTABLE = re.compile(
    "[\x07-\r\x1b\x20-\x7f\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*"
).fullmatch


class Loose:
    """Bytes: as text if Elixir can print them, else as a Buffer."""

    def decode(self, raw: Any) -> bytes:
        return raw.encode() if type(raw) is str else from_buffer(raw)

    def encode(self, value: bytes, path: str, losses: Losses) -> Any:
        return value.decode() if is_printable(value) else to_buffer(value)


LOOSE = Loose()
_INTEGER = re.compile(r"[+-]?[0-9]{1,4300}").fullmatch


def _is_numeric(members: Mapping[str, Any]) -> bool:
    """True for an object that BaileysEx takes for bytes, one member a byte."""
    return bool(members) and all(
        type(each) is int and _INTEGER(name) for name, each in members.items()
    )


def from_free(raw: Any, depth: int = 0) -> Any:
    """A value of no fixed shape, as BaileysEx reads it."""
    if depth > MAX_DEPTH:
        raise Refused(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(raw, dict):
        if raw.get("type") == "Buffer":
            return from_buffer(raw)
        if _is_numeric(raw):
            octets = [raw[name] for name in sorted(raw, key=int)]
            if not all(0 <= each <= 255 for each in octets):
                raise Refused("has numbers for names, but its values are no bytes")
            return bytes(octets)
        return free({name: from_free(each, depth + 1) for name, each in raw.items()}, depth)
    if isinstance(raw, list):
        return free([from_free(each, depth + 1) for each in raw], depth)
    return free(raw, depth)


def to_free(value: Any, path: str, losses: Losses) -> Any:
    """JSON of a value of no fixed shape; what BaileysEx would not read as it is, is left out."""
    if isinstance(value, str):
        return TEXT.encode(value, path, losses)
    if isinstance(value, dict):
        if value.get("type") == "Buffer" or _is_numeric(value):
            losses.note(path, "BaileysEx would take it for bytes; it is left out")
            return ABSENT
        written = {
            TEXT.encode(name, path, losses): to_free(each, f"{path}.{name}", losses)
            for name, each in value.items()
        }
        _note_merged(value, written, path, losses)
        return {name: each for name, each in written.items() if each is not ABSENT}
    if isinstance(value, tuple):
        items = [to_free(each, f"{path}[{i}]", losses) for i, each in enumerate(value)]
        return ABSENT if any(item is ABSENT for item in items) else items
    return _json.to_free(value, path, losses)


def _note_merged(
    value: Mapping[Any, Any], written: Mapping[str, Any], path: str, losses: Losses
) -> None:
    if len(written) < len(value):
        losses.note(path, "members whose names differ in half of a character become one")


FREE = Free(from_free, to_free)


class ByName:
    """An object of any members: ``name`` spells their names, ``item`` their values."""

    def __init__(self, name: Codec, item: Codec) -> None:
        self.name = name
        self.item = item

    def decode(self, raw: Any) -> FrozenDict[Any, Any]:
        if not isinstance(raw, dict):
            raise Refused(f"expected an object, got {kind_of(raw)}")
        members = {}
        for place, (name, value) in enumerate(raw.items()):
            try:
                members[self.name.decode(name)] = self.item.decode(value)
            except Refused as refused:
                raise Refused(refused.what, f"[{place}]{refused.path}") from None
        return FrozenDict(members)

    def encode(self, value: Any, path: str, losses: Losses) -> dict[str, Any]:
        written = {
            self.name.encode(name, path, losses): self.item.encode(each, f"{path}[{i}]", losses)
            for i, (name, each) in enumerate(value.items())
        }
        _note_merged(value, written, path, losses)
        return written


class Numeral:
    """A number as the name of a member."""

    def decode(self, raw: str) -> int:
        if not re.fullmatch(r"0|-?[1-9][0-9]{0,18}", raw):
            raise Refused("expected a number as the name")
        return int(raw)

    def encode(self, value: int, path: str, losses: Losses) -> str:
        return str(value)


class Base64Twice:
    """Bytes as the name of a member, whose base64 text stands in base64 once more: chains."""

    def decode(self, raw: str) -> bytes:
        return from_base64(from_base64(raw).decode("latin-1"))

    def encode(self, value: bytes, path: str, losses: Losses) -> str:
        return to_base64(to_base64(value).encode())


class OneOf:
    """One of few texts.

    :param texts: the texts by what they stand for.
    """

    def __init__(self, texts: Mapping[Any, str]) -> None:
        self._texts = texts
        self._values = {text: value for value, text in texts.items()}

    def decode(self, raw: Any) -> Any:
        if type(raw) is str and raw in self._values:
            return self._values[raw]
        raise Refused("expected one of few texts")

    def encode(self, value: Any, path: str, losses: Losses) -> Any:
        if value in self._texts:
            return self._texts[value]
        losses.note(path, "BaileysEx knows no such value; it is left out")
        return ABSENT


class Object(JsonObject):
    """The dialect of objects with named members.

    :ivar full: every member is always written, ``null`` where there is nothing.
    :ivar left_out: but for these, which are left out then.
    """

    def __init__(self, names: Iterable[str], *, full: bool, left_out: Iterable[str] = ()) -> None:
        super().__init__(FREE)
        self.names = tuple(names)
        self.full = full
        self.left_out = frozenset(left_out)

    def leftover(self, name: str, raw: Any, rest: dict[str, Any]) -> None:
        if raw is None and name in self.names:
            if not self.full:
                rest[NILS] = (*rest.get(NILS, ()), name)
            return
        super().leftover(name, raw, rest)

    def join(
        self, members: dict[str, Any], extra: Mapping[str, Any], path: str, losses: Losses
    ) -> dict[str, Any]:
        kept = dict(extra)
        for name, value in extra.items():
            if name == "type" and value == "Buffer":
                losses.note(f"{path}.{name}", "BaileysEx would read the record otherwise")
                del kept[name]
            elif not is_whole(name):
                what = "a member whose name has half of a character in it is left out"
                losses.note(path, what)
                del kept[name]
        joined = super().join(members, kept, path, losses)
        for name in self.names if self.full else extra.get(NILS, ()):
            if name not in self.left_out:
                joined.setdefault(name, None)
        return joined
