"""Erlang terms as Python values, and their encoding. Private: use :mod:`ratchetkeep.formats.etf`.

The term classes and the encoder are one module because they need each other: a map finds its keys,
and tells 1 from 1.0, by their encoded form.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any, TypeAlias, Union

from ratchetkeep.errors import InvalidValue

__all__ = [
    "DEFAULT_LIMITS",
    "OPAQUE_TAGS",
    "Atom",
    "BitString",
    "ImproperList",
    "Limits",
    "Map",
    "Opaque",
    "Term",
    "atom_bytes",
    "canonical",
    "encode",
    "integer_bytes",
    "key_bytes",
]

OPAQUE_TAGS = frozenset({88, 89, 90, 101, 102, 103, 112, 113, 114, 117, 120})
"""Tags of pids, ports, references, funs and exports."""

_MAX_DEPTH = 10_000
"""Bounds the walk of a list that (wrongly) holds itself; no limit may be above it."""


def _refused(what: str, remedy: str | None = None) -> InvalidValue:
    return InvalidValue("", what, remedy)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one encoded term.

    :ivar size: bytes, before and after inflating.
    :ivar depth: containers inside one another.
    :ivar terms: terms in all (but not the bytes of a charlist), since a term of one byte can take
        a hundred in memory.
    :raises InvalidValue: a limit is not positive, or the depth is above 10,000.
    """

    size: int = 64 * 1024 * 1024
    depth: int = 256
    terms: int = 4_000_000

    def __post_init__(self) -> None:
        if min(self.size, self.depth, self.terms) < 1 or self.depth > _MAX_DEPTH:
            raise _refused(f"limits must be positive, and the depth at most {_MAX_DEPTH}")


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Atom:
    """An atom; ``nil``, ``true`` and ``false`` too.

    :raises InvalidValue: the name is no text, has over 255 characters or a lone surrogate.
    """

    name: str

    def __post_init__(self) -> None:
        if type(self.name) is not str:
            raise _refused(f"an atom's name must be str, not {type(self.name).__name__}")
        if len(self.name) > 255:
            raise _refused(f"an atom has at most 255 characters, not {len(self.name)}")
        if not self.name.isascii() and any("\ud800" <= char <= "\udfff" for char in self.name):
            raise _refused("an atom's name holds a lone surrogate")


@dataclass(frozen=True, slots=True, repr=False)
class BitString:
    """A bitstring whose length is no multiple of 8.

    :ivar bits: bits in use in the last byte, from the highest down: 1 to 7.
    :raises InvalidValue: there are no bytes, the number of bits is wrong or an unused bit is set.
    """

    data: bytes
    bits: int

    def __post_init__(self) -> None:
        whole = type(self.data) is bytes and type(self.bits) is int
        if not whole or not self.data or not 1 <= self.bits <= 7:
            raise _refused("a bitstring needs bytes, and 1 to 7 bits in the last of them")
        if self.data[-1] & (0xFF >> self.bits):
            raise _refused("a bitstring's unused bits must be zero")

    def __repr__(self) -> str:
        return f"<BitString of {len(self.data) * 8 - 8 + self.bits} bits>"


@dataclass(frozen=True, slots=True, repr=False)
class Opaque:
    """A pid, port, reference, fun or export: the bytes of the term with its tag, untouched.

    :raises InvalidValue: the bytes do not begin with the tag of such a term.
    """

    data: bytes

    def __post_init__(self) -> None:
        if type(self.data) is not bytes or not self.data or self.data[0] not in OPAQUE_TAGS:
            raise _refused("an opaque term must begin with the tag of a pid, port, ref or fun")

    def __repr__(self) -> str:
        return f"<Opaque tag {self.data[0]}, {len(self.data)} bytes>"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class ImproperList:
    """A list that does not end in the empty list, such as ``[1 | 2]``.

    :raises InvalidValue: there are no items, the tail is a list, or something is no term.
    """

    items: tuple[Term, ...]
    tail: Term

    def __post_init__(self) -> None:
        if type(self.items) is not tuple or not self.items:
            raise _refused("an improper list needs a tuple of one item or more")
        if type(self.tail) in (list, ImproperList):
            raise _refused("the tail of an improper list cannot be a list")
        for term in (*self.items, self.tail):
            if type(term) not in _WRITERS:
                raise _no_term(term)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ImproperList):
            return NotImplemented
        return canonical(self) == canonical(other)

    def __hash__(self) -> int:
        return hash(canonical(self))

    def __repr__(self) -> str:
        return f"<ImproperList of {len(self.items)} items and a tail>"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Map:
    """A map that keeps the order of its pairs; equality and lookup are Erlang's ``=:=``.

    So 1 and 1.0 are two keys, and maps are equal whatever the order of their pairs. Lists inside
    a map must not be changed.

    :raises InvalidValue: a pair is no tuple of two, holds something that is no term, or a key
        stands twice.
    """

    pairs: tuple[tuple[Term, Term], ...]
    # Encoded keys -> position. Made at once, from the inside out: so no map with a duplicate key
    # exists, nested keys are encoded once, and nothing recurses.
    _index: dict[bytes, int] = field(init=False)

    def __post_init__(self) -> None:
        index: dict[bytes, int] = {}
        if type(self.pairs) is not tuple:
            raise _refused(f"a map needs a tuple of pairs, not {type(self.pairs).__name__}")
        for position, pair in enumerate(self.pairs):
            if type(pair) is not tuple or len(pair) != 2:
                raise _refused(f"pair {position} of a map is not a tuple of two")
            if type(pair[1]) not in _WRITERS:
                raise _no_term(pair[1])
            key = pair[0]
            index[atom_bytes(key.name) if type(key) is Atom else _body(key)] = position
        if len(index) != len(self.pairs):
            raise _refused("a key stands twice in a map")
        object.__setattr__(self, "_index", index)

    def get(self, key: Term, default: Term | None = None) -> Term | None:
        """The value of ``key``. :raises InvalidValue: the key is no term."""
        position = self._index.get(_body(key))
        return default if position is None else self.pairs[position][1]

    def items(self) -> tuple[tuple[Term, Term], ...]:
        """The pairs in their order."""
        return self.pairs

    def __contains__(self, key: Term) -> bool:
        return _body(key) in self._index

    def __iter__(self) -> Iterator[Term]:
        return (key for key, _ in self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Map):
            return NotImplemented
        return self._index.keys() == other._index.keys() and canonical(self) == canonical(other)

    def __hash__(self) -> int:
        return hash(canonical(self))

    def __repr__(self) -> str:
        return f"<Map of {len(self.pairs)} pairs>"


Term: TypeAlias = Union[
    int,
    float,
    bytes,
    Atom,
    BitString,
    Opaque,
    ImproperList,
    Map,
    "tuple[Term, ...]",
    "list[Term]",
]


def key_bytes(term: Map) -> int:
    """How many bytes the encoded keys of a map take."""
    return sum(map(len, term._index))


class _Raw(bytes):
    """Part of a term that is already encoded."""


_Children: TypeAlias = Iterable[Any]
_NIL = _Raw(b"j")


def encode(term: Term, *, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """What ``term_to_binary/1`` of OTP 26 and later writes, with map pairs in their own order.

    :raises InvalidValue: something is no term (bool, None, str, ...), a float is not finite, or
        :func:`decode` would refuse the result because of its limits.
    """
    data = b"\x83" + _write(term, ordered=False, limits=limits)
    if len(data) > limits.size:
        raise _refused(f"the term takes {len(data)} bytes, over the limit of {limits.size}")
    return data


def canonical(term: Term) -> bytes:
    """An encoding with map pairs sorted by encoded key: equal bytes mean equal terms (``=:=``).

    0.0 and -0.0 differ, as from OTP 27 on; opaque terms are compared by their bytes.

    :raises InvalidValue: something is no term, a float is not finite, or a list holds itself.
    """
    return b"\x83" + _body(term)


def _body(term: Term) -> bytes:
    if type(term) in _LEAVES:  # what most keys are
        return _WRITERS[type(term)](term, True)[0]
    return _write(term, ordered=True, limits=_UNLIMITED)


_UNLIMITED = Limits(size=2**63, depth=_MAX_DEPTH, terms=2**63)


def _write(term: Term, *, ordered: bool, limits: Limits) -> bytes:
    """Encode with a stack of our own: how deep a term is must not depend on Python's."""
    out: list[bytes] = []
    stack: list[Iterator[Any]] = [iter((term,))]
    while stack:
        for item in stack[-1]:
            writer = _WRITERS.get(type(item))
            if writer is None:
                raise _no_term(item)
            head, children = writer(item, ordered)
            out.append(head)
            if children is not None:
                stack.append(iter(children))
                break
        else:
            stack.pop()
        if len(stack) > limits.depth + 1:
            raise _refused(f"the term is nested over {limits.depth} deep")
        if len(out) > limits.terms:
            raise _refused(f"the term holds over {limits.terms} terms")
    return b"".join(out)


def _no_term(value: object) -> InvalidValue:
    return _refused(
        f"a value of type {type(value).__name__} is no Erlang term",
        "Text is written as bytes; true, false and nil as Atom",
    )


_Written: TypeAlias = tuple[bytes, _Children | None]


def _raw(data: bytes, _ordered: bool) -> _Written:
    return data, None


def _atom(atom: Atom, _ordered: bool) -> _Written:
    return atom_bytes(atom.name), None


@lru_cache(1024)
def atom_bytes(text: str) -> bytes:
    """The atom of that name, encoded."""
    # The same few hundred names stand in every term of a device.
    name = text.encode()
    head = struct.pack(">BH", 118, len(name)) if len(name) > 255 else bytes((119, len(name)))
    return head + name


def integer_bytes(value: int) -> bytes:
    """An integer, encoded."""
    if 0 <= value <= 255:
        return bytes((97, value))
    if -(2**31) <= value < 2**31:
        return struct.pack(">Bi", 98, value)
    size = (value.bit_length() + 7) // 8
    head = struct.pack(">BI", 111, size) if size > 255 else bytes((110, size))
    return b"".join((head, bytes((value < 0,)), abs(value).to_bytes(size, "little")))


def _int(value: int, _ordered: bool) -> _Written:
    return integer_bytes(value), None


def _float(value: float, _ordered: bool) -> _Written:
    if not math.isfinite(value):
        raise _refused("a float that is not finite is no Erlang term")
    return struct.pack(">Bd", 70, value), None


def _binary(value: bytes, _ordered: bool) -> _Written:
    return struct.pack(">BI", 109, len(value)) + value, None


def _bitstring(value: BitString, _ordered: bool) -> _Written:
    return struct.pack(">BIB", 77, len(value.data), value.bits) + value.data, None


def _opaque(value: Opaque, _ordered: bool) -> _Written:
    return value.data, None


def _tuple(value: tuple[Term, ...], _ordered: bool) -> _Written:
    size = len(value)
    return (struct.pack(">BI", 105, size) if size > 255 else bytes((104, size))), value


def _list(value: list[Term], _ordered: bool) -> _Written:
    if not value:
        return _NIL, None
    if len(value) <= 65535 and all(type(item) is int and 0 <= item <= 255 for item in value):
        return struct.pack(">BH", 107, len(value)) + bytes(value), None  # type: ignore[arg-type]
    return struct.pack(">BI", 108, len(value)), chain(value, (_NIL,))


def _improper(value: ImproperList, _ordered: bool) -> _Written:
    return struct.pack(">BI", 108, len(value.items)), chain(value.items, (value.tail,))


def _map(value: Map, ordered: bool) -> _Written:
    head = struct.pack(">BI", 116, len(value))
    if ordered:
        keys = sorted(value._index.items())
        return head, (part for key, at in keys for part in (_Raw(key), value.pairs[at][1]))
    return head, chain.from_iterable(value.pairs)


# What holds no other term.
_LEAVES = frozenset({_Raw, Atom, int, float, bytes, BitString, Opaque})

# By exact type: a bool is an int to isinstance, and would be written as a number.
_WRITERS: dict[type, Callable[[Any, bool], _Written]] = {
    _Raw: _raw,
    Atom: _atom,
    int: _int,
    float: _float,
    bytes: _binary,
    BitString: _bitstring,
    Opaque: _opaque,
    tuple: _tuple,
    list: _list,
    ImproperList: _improper,
    Map: _map,
}
