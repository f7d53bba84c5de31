"""A bounded walk over encoded Erlang bytes, and the terms that hold no other term.

Private: use :mod:`ratchetkeep.formats.etf`.
"""

from __future__ import annotations

import math
import re
import struct
from functools import lru_cache

from ratchetkeep.errors import DecodeError
from ratchetkeep.formats._etf_terms import Atom, BitString, Term

__all__ = ["DAMAGED", "TOO_BIG", "Cursor", "known_atom"]

DAMAGED = "The bytes are damaged or are no Erlang term: restore them from a backup"
TOO_BIG = "Decode with higher limits if the bytes can be trusted"
_FOREIGN = "Have it written again with plain term_to_binary/1"

_FLOAT_TEXT = re.compile(rb" *([-+]?[0-9]+\.[0-9]+(?:[eE][-+]?[0-9]+)?)\x00*")


@lru_cache(1024)
def known_atom(raw: bytes) -> Atom | None:
    """The atom with that name in UTF-8, made once; None if it is not UTF-8."""
    try:
        return Atom(raw.decode())
    except UnicodeDecodeError:
        return None


class Cursor:
    """Takes bytes from ``data``, never more than there are.

    Every method raises DecodeError and nothing else.

    :ivar at: the offset of the next byte.
    :ivar where: added to the offset in an error.
    """

    def __init__(self, data: bytes, at: int, where: str) -> None:
        self.data = data
        self.at = at
        self.where = where
        self._atoms: dict[tuple[str, bytes], Atom] = {}

    def error(self, what: str, at: int, remedy: str) -> DecodeError:
        return DecodeError("", f"{what}, at byte {at}{self.where}", remedy)

    def damaged(self, what: str, at: int | None = None) -> DecodeError:
        return self.error(what, self.at if at is None else at, DAMAGED)

    def too_big(self, what: str) -> DecodeError:
        return self.error(what, self.at, TOO_BIG)

    def bad_tag(self, tag: int) -> DecodeError:
        at = self.at - 1
        if tag == 82:
            what = "a reference (82) to the atom cache of a connection, which is not part of it"
            return self.error(what, at, _FOREIGN)
        if tag == 121:
            what = "a term (121) that only the runtime that wrote it can read"
            return self.error(what, at, _FOREIGN)
        return self.damaged(f"tag {tag} is not known or cannot stand here", at)

    # The walk.

    def need(self, size: int) -> None:
        left = len(self.data) - self.at
        if size > left:
            raise self.damaged(f"the term is cut short: {size} bytes needed, {left} left")

    def take(self, size: int) -> bytes:
        self.need(size)
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def count(self, width: int, each: int, more: int = 0) -> int:
        """A count of things that take ``each`` bytes or more, with ``more`` bytes after them."""
        count = self.number(width)
        self.need(count * each + more)
        return count

    # Numbers, atoms, bytes.

    def small_integer(self, _tag: int) -> Term:
        return self.number(1)

    def integer(self, _tag: int) -> int:
        return int.from_bytes(self.take(4), "big", signed=True)

    def big(self, tag: int) -> Term:
        size = self.number(1 if tag == 110 else 4)
        sign = self.number(1)
        if sign > 1:
            raise self.damaged(f"the sign of an integer is {sign}", self.at - 1)
        value = int.from_bytes(self.take(size), "little")
        return -value if sign else value

    def float_(self, _tag: int) -> Term:
        (value,) = struct.unpack(">d", self.take(8))
        return self._finite(value)

    def float_text(self, _tag: int) -> Term:
        match = _FLOAT_TEXT.fullmatch(self.take(31))
        if match is None:
            raise self.damaged("the text of a float is no number", self.at - 31)
        return self._finite(float(match[1]))

    def _finite(self, value: float) -> float:
        if not math.isfinite(value):
            raise self.damaged("a float is not finite")
        return value

    def atom(self, tag: int) -> Atom:
        encoding = "utf-8" if tag in (118, 119) else "latin-1"
        raw = self.take(self.number(1 if tag in (115, 119) else 2))
        atom = self._atoms.get((encoding, raw))
        if atom is None:
            atom = self._atoms[encoding, raw] = Atom(self._atom_name(raw, encoding))
        return atom

    def _atom_name(self, raw: bytes, encoding: str) -> str:
        try:
            name = raw.decode(encoding)
        except UnicodeDecodeError:
            name = None
        if name is None:  # outside of the except clause: that error holds the bytes
            raise self.damaged(f"an atom of {len(raw)} bytes is not valid UTF-8")
        if len(name) > 255:
            raise self.damaged(f"an atom has {len(name)} characters, over 255")
        return name

    def binary(self, _tag: int) -> Term:
        return self.take(self.number(4))

    def bit_binary(self, _tag: int) -> Term:
        size, bits = self.number(4), self.number(1)
        if not 1 <= bits <= 8 or not size:
            raise self.damaged(f"a bitstring of {size} bytes with {bits} bits in the last")
        data = self.take(size)
        if bits == 8:
            return data
        # The unused bits mean nothing and are written as zero: they must not tell terms apart.
        return BitString(data[:-1] + bytes((data[-1] & ~(0xFF >> bits),)), bits)
