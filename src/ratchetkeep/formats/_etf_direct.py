"""How the direct functions write Erlang terms: see :mod:`._direct`."""

from __future__ import annotations

import binascii
import struct
from typing import Any

from ratchetkeep.errors import InvalidValue

from ._direct import Direct, Inline, Out, Source, Write, can_be_none, refuse
from ._etf_terms import DEFAULT_LIMITS, Limits, atom_bytes, encode, integer_bytes
from ._shape import Codec, Losses, Many, Shape
from ._terms import BOOL, BYTES, FREE, INT, NUMBER64, TEXT, AtomMap, AtomOf, to_free

NIL, TRUE, FALSE = (atom_bytes(name) for name in ("nil", "true", "false"))

_HEAD = struct.Struct(">BI").pack
BINARY, LIST, MAP = 109, 108, 116

# The numbers and the lengths that nearly all are.
_INTEGERS = tuple(map(integer_bytes, range(256)))
_BINARIES = tuple(_HEAD(BINARY, size) for size in range(256))


def binary(data: bytes) -> bytes:
    """A binary."""
    return _HEAD(BINARY, len(data)) + data


def text(value: str) -> bytes:
    """Text as a binary; NotDirect if half of a character is in it."""
    try:
        return binary(value.encode())
    except UnicodeEncodeError:
        refuse()


def map_head(size: int) -> bytes:
    """What stands before the pairs of a map."""
    return _HEAD(MAP, size)


def number64(value: Any) -> bytes:
    """A 64-bit number; NotDirect if it is a JavaScript Long, which becomes a plain number."""
    if type(value) is int:
        return integer_bytes(value)
    return text(value) if type(value) is str else refuse()


# A record nests its members far less than 50 deep, so what passes here is within the whole's limit.
_PART = Limits(depth=DEFAULT_LIMITS.depth - 50)


def free(value: Any) -> bytes:
    """A term of no fixed shape; NotDirect if something of it is left out, or it is very deep."""
    losses = Losses()
    term = to_free(value, "", losses)
    if losses.found:
        refuse()
    try:
        return encode(term, limits=_PART)[1:]
    except InvalidValue:
        refuse()


class EtfDirect(Direct):
    """Functions that write Erlang terms."""

    def record(self, codec: Codec, value: Any) -> bytes | None:
        """The bytes of a record; None if the tables must write it.

        Terms take a byte or more each, so what is small enough is within every limit.
        """
        data = self.written(codec, value)
        return None if data is None or len(data) >= DEFAULT_LIMITS.terms else b"\x83" + data

    def shape(self, shape: Shape, source: Source) -> None:
        dialect = shape.dialect
        if not isinstance(dialect, AtomMap):
            raise TypeError("a shape of terms must be keyed by atoms")
        if list(dialect.names) != [member.name for member in shape.members]:
            raise TypeError("the members are not written in their order")
        fixed = b""
        if dialect.struct:
            fixed = atom_bytes("__struct__") + atom_bytes(dialect.struct.name)
        size = len(shape.members) + bool(dialect.struct)
        (self._full if dialect.full else self._sparse)(shape, source, size, fixed)

    def _full(self, shape: Shape, source: Source, size: int, fixed: bytes) -> None:
        source.bytes(map_head(size) + fixed)
        for member in shape.members:
            atom = atom_bytes(member.name)
            if not can_be_none(shape.cls, member.attr):
                source.bytes(atom)
                source.value(member.codec, f"value.{member.attr}")
                continue
            source.line(f"held = value.{member.attr}")
            with source.block("if held is None:"):
                source.bytes(atom + NIL)
            with source.block("else:"):
                source.bytes(atom)
                source.value(member.codec, "held")

    def _sparse(self, shape: Shape, source: Source, size: int, fixed: bytes) -> None:
        source.line(f"size, head = {size}, len(out)")
        source.line("out.append(b'')")
        if fixed:
            source.bytes(fixed)
        for member in shape.members:
            source.line(f"held = value.{member.attr}")
            with source.block("if held is None:"):
                source.line("size -= 1")
            with source.block("else:"):
                source.bytes(atom_bytes(member.name))
                source.value(member.codec, "held")
        source.line("out[head] = map_head(size)")

    def many(self, codec: Many) -> Write:
        if codec.item in (INT, NUMBER64, FREE):
            raise TypeError("a list of small numbers would have to be a string")
        item = self.of(codec.item)

        def write(value: Any, out: Out) -> None:
            if value:
                out.append(_HEAD(LIST, len(value)))
                for each in value:
                    item(each, out)
            out.append(b"j")  # the empty list, which is also every list's tail

        return write

    def keyed(self, key: Inline, item: Codec) -> Write:
        """The function that writes a map; its keys differ, since the mapping's do."""
        source = Source(self)
        source.parts("map_head(len(value))")
        with source.block("for key, each in value.items():"):
            source.parts(key.parts.format(v="key"))
            source.value(item, "each")
        return source.made()

    def atoms(self, codec: AtomOf) -> Write:
        """The function that writes one of few atoms."""
        known = {value: atom_bytes(atom.name) for value, atom in codec.atoms.items()}

        def write(value: Any, out: Out) -> None:
            out.append(known.get(value) or refuse())

        return write


IN_BINARY = Inline(b"", "BINARIES[len({v})] if len({v}) < 256 else binary_head(len({v})), {v}")
TEXTUAL = Inline(b"", "text({v})")
NUMBER = Inline(b"", "INTEGERS[{v}] if 0 <= {v} < 256 else integer({v})")
IN_BASE64 = Inline(b"", "binary(b2a({v}, newline=False))")

DIRECT = EtfDirect(
    BINARIES=_BINARIES,
    INTEGERS=_INTEGERS,
    FALSE=FALSE,
    NIL=NIL,
    TRUE=TRUE,
    b2a=binascii.b2a_base64,
    binary=binary,
    free=free,
    binary_head=lambda size: _HEAD(BINARY, size),
    integer=integer_bytes,
    map_head=map_head,
    number64=number64,
    text=text,
)
DIRECT.inline |= {
    TEXT: TEXTUAL,
    INT: NUMBER,
    FREE: Inline(b"", "free({v})"),
    NUMBER64: Inline(b"", "number64({v})"),
    BYTES: IN_BINARY,
    BOOL: Inline(b"", "TRUE if {v} else FALSE"),
}
DIRECT.kinds[AtomOf] = DIRECT.atoms
