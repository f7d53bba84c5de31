"""How the direct functions write JSON: see :mod:`._direct`."""

from __future__ import annotations

import binascii
from json.encoder import encode_basestring
from typing import Any

import msgspec

from ._direct import Direct, Inline, Out, Source, Write, can_be_none, refuse
from ._json import BASE64, BOOL, BUFFER, FREE, INT, NUMBER64, TEXT, dump, to_free
from ._shape import Codec, Losses, Many, Shape


def quoted(text: str) -> bytes:
    """A JSON string, as ``dump`` writes it."""
    return encode_basestring(text).encode("utf-8", "backslashreplace")


def number64(value: Any) -> bytes:
    """A 64-bit number; NotDirect if it is the object of a JavaScript Long."""
    if type(value) is int:
        return b"%d" % value
    return quoted(value) if type(value) is str else refuse()


def free(value: Any) -> bytes:
    """A value of no fixed shape; NotDirect if something of it is left out."""
    losses = Losses()
    raw = to_free(value, "", losses)
    return refuse() if losses.found else dump(raw)


_numbers = msgspec.json.Encoder().encode


def numbers(data: bytes) -> bytes:
    """Bytes as a JSON list of numbers."""
    return _numbers(list(data))


class JsonDirect(Direct):
    """Functions that write JSON."""

    def shape(self, shape: Shape, source: Source) -> None:
        optional = [can_be_none(shape.cls, member.attr) for member in shape.members]
        if optional[0]:
            # Which member comes first is not known: its comma becomes the brace when all is there.
            source.line("start = len(out)")
        for place, member in enumerate(shape.members):
            mark = b"," if place or optional[0] else b"{"
            name = mark + quoted(member.name) + b":"
            if optional[place]:
                source.line(f"held = value.{member.attr}")
                with source.block("if held is not None:"):
                    source.bytes(name)
                    source.value(member.codec, "held")
            else:
                source.bytes(name)
                source.value(member.codec, f"value.{member.attr}")
        if optional[0]:
            source.line("out[start:start + 1] = (b'{' + b''.join(out[start:start + 1])[1:],)")
        source.bytes(b"}")

    def many(self, codec: Many) -> Write:
        item = self.of(codec.item)

        def write(value: Any, out: Out) -> None:
            mark = b"["
            for each in value:
                out.append(mark)
                item(each, out)
                mark = b","
            out.append(b"]" if value else b"[]")

        return write

    def keyed(self, key: Inline, item: Codec) -> Write:
        """The function that writes an object whose names come from the mapping's keys."""
        source = Source(self)
        source.line("mark = b'{'")
        with source.block("for key, each in value.items():"):
            source.parts("mark")
            source.bytes(key.before)
            source.parts(key.parts.format(v="key"))
            source.bytes(key.after + b":")
            source.value(item, "each")
            source.line("mark = b','")
        source.parts("b'}' if value else b'{}'")
        return source.made()


QUOTED = Inline(b"", "quoted({v})")
IN_BASE64 = Inline(b'"', "b2a({v}, newline=False)", b'"')
DECIMAL = Inline(b"", 'b"%d" % {v}')

DIRECT = JsonDirect(
    b2a=binascii.b2a_base64, free=free, number64=number64, numbers=numbers, quoted=quoted
)
DIRECT.inline |= {
    TEXT: QUOTED,
    INT: DECIMAL,
    BOOL: Inline(b"", "b'true' if {v} else b'false'"),
    FREE: Inline(b"", "free({v})"),
    NUMBER64: Inline(b"", "number64({v})"),
    BASE64: IN_BASE64,
    BUFFER: Inline(b'{"type":"Buffer","data":"', "b2a({v}, newline=False)", b'"}'),
}
