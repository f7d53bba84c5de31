"""The Erlang external term format (ETF): bytes <-> terms, bounded, pure.

Written from "External Term Format" in the Erlang/OTP documentation (ERTS User's Guide).

Why our own. ``erlang_py`` 2.0.7 (MIT) writes back every file of our OTP 29 samples unchanged, but
its maps are dicts: of 1, 1.0 and ``true`` as keys it keeps one, and a duplicate key silently
replaces the first. It inflates zlib without a bound, takes NaN, raises RecursionError and
UnicodeDecodeError on damage, and turns the ``true`` and ``undefined`` atoms into Python's.
``erlpack`` 1.0.1 (Apache 2.0) cannot read bitstrings, takes the same duplicate key and gives other
bytes for three of four samples; ``erlastic`` 2.0.0 (BSD) reads neither maps nor improper lists.

============================== =================================================
Erlang                         Python
============================== =================================================
integer, float, binary         ``int``, ``float``, ``bytes``
atom (nil, true, false too)    :class:`Atom`
tuple, list                    ``tuple``, ``list`` (a charlist is a list of ints)
improper list, bitstring, map  :class:`ImproperList`, :class:`BitString`, :class:`Map`
pid, port, reference, fun      :class:`Opaque`: the bytes, untouched
============================== =================================================

No error holds any content: only tags, offsets, counts and lengths.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final, TypeAlias

from ratchetkeep.errors import DecodeError, InvalidValue
from ratchetkeep.formats._etf_cursor import DAMAGED, TOO_BIG, Cursor, known_atom
from ratchetkeep.formats._etf_terms import (
    DEFAULT_LIMITS,
    Atom,
    BitString,
    ImproperList,
    Limits,
    Map,
    Opaque,
    Term,
    canonical,
    encode,
    key_bytes,
)

__all__ = [
    "DEFAULT_LIMITS",
    "Atom",
    "BitString",
    "ImproperList",
    "Limits",
    "Map",
    "Opaque",
    "Term",
    "canonical",
    "decode",
    "encode",
]

_LIST, _NIL, _STRING = 108, 106, 107
_FUN, _NEW_FUN = 117, 112
_TAIL = -1
"""Stands for the tag of a list whose tail, which is no list, is being read."""


def decode(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Term:
    """Read one term, which must fill ``data``.

    :raises DecodeError: anything at all is wrong with the bytes, or they exceed a limit.
    """
    data = bytes(data)  # a bytearray or memoryview would come back in the terms
    if len(data) > limits.size:
        raise DecodeError("", f"{len(data)} bytes are over the limit of {limits.size}", TOO_BIG)
    if data[:1] != b"\x83":
        first = f"begins with byte {data[0]}, not 131" if data else "is empty"
        raise DecodeError("", f"the Erlang term {first}", DAMAGED)
    if data[1:2] == b"P":
        return _Decoder(_inflate(data, limits), 0, " of the inflated term", limits).run()
    return _Decoder(data, 1, "", limits).run()


def _inflate(data: bytes, limits: Limits) -> bytes:
    if len(data) < 6:
        raise DecodeError("", f"a compressed term is cut short at byte {len(data)}", DAMAGED)
    size = int.from_bytes(data[2:6], "big")
    if size > limits.size:
        what = f"a compressed term of {size} bytes is over the limit of {limits.size}"
        raise DecodeError("", what, TOO_BIG)
    inflater = zlib.decompressobj()
    try:
        # One byte more than stated: shows a stream that is longer, and lets the end be seen.
        inflated = inflater.decompress(data[6:], size + 1)
    except zlib.error:
        inflated = None
    # Raised outside of the except clause: an error must not carry one that may hold content.
    if inflated is None or not inflater.eof or inflater.unused_data or len(inflated) != size:
        raise DecodeError("", f"a compressed term does not inflate to {size} bytes", DAMAGED)
    return inflated


class _Open:
    """What a reader returns that has opened a frame, and a closer that wants more items."""


_OPEN: Final = _Open()
_Read: TypeAlias = "Term | _Open"


class _Frame:
    """A container whose items are being read."""

    __slots__ = ("end", "items", "start", "tag", "want")

    def __init__(self, tag: int, start: int, want: int, end: int) -> None:
        self.tag = tag
        self.start = start
        self.want = want
        self.end = end
        self.items: list[Term] = []


class _Decoder(Cursor):
    """Reads one term with a stack of frames of its own, so that depth costs no recursion."""

    def __init__(self, data: bytes, start: int, where: str, limits: Limits) -> None:
        super().__init__(data, start, where)
        self._limits = limits
        self._terms = 0
        self._frames: list[_Frame] = []
        # Keys within keys, and funs within funs, are copied once per level. This bounds all the
        # copying together, so that time stays linear, and is far above what real terms need.
        self._copies_left = 8 * len(data) + 1024 * 1024

    def run(self) -> Term:
        value = self._finish(self._read())
        while isinstance(value, _Open):
            value = self._finish(self._leaves())
        if self.at != len(self.data):
            raise self.damaged(f"{len(self.data) - self.at} bytes follow the term", self.at)
        return value

    def _finish(self, value: _Read) -> _Read:
        """Put a value into its frame and close the frames that it fills."""
        while True:
            if not isinstance(value, _Open):
                if not self._frames:
                    return value
                self._frames[-1].items.append(value)
            frame = self._frames[-1]
            if len(frame.items) < frame.want:
                return _OPEN
            value = _CLOSERS[frame.tag](self, frame)
            if not isinstance(value, _Open):
                self._frames.pop()

    def _leaves(self) -> _Read:
        """Read the small atoms, binaries and small integers that come next in the open frame.

        Most terms are these, and they take a third of the time here. Whatever is not whole, or is
        something else, is left to the readers.
        """
        data, at, frame = self.data, self.at, self._frames[-1]
        items, size = frame.items, len(data)
        start, most = len(items), len(items) + self._limits.terms - self._terms
        most = min(most, frame.want)
        while len(items) < most and at + 5 <= size:
            tag = data[at]
            if tag == 119:
                end = at + 2 + data[at + 1]
                value: Term | None = known_atom(data[at + 2 : end])
            elif tag == 109:
                end = at + 5 + int.from_bytes(data[at + 1 : at + 5], "big")
                value = data[at + 5 : end]
            elif tag == 97:
                end, value = at + 2, data[at + 1]
            else:
                break
            if end > size or value is None:
                break
            items.append(value)
            at = end
        self.at = at
        self._terms += len(items) - start
        return _OPEN if len(items) == frame.want else self._read()

    def _read(self) -> _Read:
        self._terms += 1
        if self._terms > self._limits.terms:
            raise self.too_big(f"over {self._limits.terms} terms")
        tag = self.number(1)
        reader = _READERS.get(tag)
        if reader is None:
            raise self.bad_tag(tag)
        return reader(self, tag)

    def _open(self, tag: int, want: int, *, start: int | None = None, end: int = 0) -> _Open:
        if len(self._frames) >= self._limits.depth:
            raise self.too_big(f"terms are nested over {self._limits.depth} deep")
        self._frames.append(_Frame(tag, self.at if start is None else start, want, end))
        return _OPEN

    def _copied(self, size: int) -> None:
        self._copies_left -= size
        if self._copies_left < 0:
            raise self.too_big("map keys or funs are nested too deep in one another")

    # Containers.

    def nil(self, _tag: int) -> Term:
        return []

    def string(self, _tag: int) -> Term:
        return list(self.take(self.number(2)))

    def small_tuple(self, tag: int) -> _Read:
        return self._open(tag, self.count(1, 1))

    def large_tuple(self, tag: int) -> _Read:
        return self._open(tag, self.count(4, 1))

    def map_(self, tag: int) -> _Read:
        return self._open(tag, 2 * self.count(4, 2))

    def list_(self, tag: int) -> _Read:
        return self._open(tag, self.count(4, 1, more=1))

    def close_tuple(self, frame: _Frame) -> Term:
        return tuple(frame.items)

    def close_map(self, frame: _Frame) -> Term:
        try:
            term = Map(tuple(zip(frame.items[::2], frame.items[1::2], strict=True)))
        except InvalidValue:
            term = None
        if term is None:
            raise self.damaged("a key stands twice in a map", frame.start)
        self._copied(key_bytes(term))
        return term

    def close_list(self, frame: _Frame) -> _Read:
        """Read a list's tail. One that is a list goes on in the same frame: it is one list."""
        while True:
            tag = self.number(1)
            if tag == _NIL:
                return frame.items
            if tag == _STRING:
                frame.items += self.take(self.number(2))
                return frame.items
            if tag != _LIST:
                self.at -= 1
                frame.tag = _TAIL
                frame.want += 1
                return _OPEN
            count = self.count(4, 1, more=1)
            if count:
                frame.want += count
                return _OPEN

    def close_improper(self, frame: _Frame) -> Term:
        *items, tail = frame.items
        # No items and a tail: the runtime reads that as the tail itself.
        return ImproperList(tuple(items), tail) if items else tail

    # Opaque terms: parsed to find their end, and kept as they are.

    def _opaque(self, start: int) -> Term:
        self._copied(self.at - start)
        return Opaque(self.data[start : self.at])

    def _expect(self, tags: tuple[int, ...]) -> None:
        tag = self.number(1)
        if tag not in tags:
            raise self.bad_tag(tag)
        _READERS[tag](self, tag)

    def identifier(self, tag: int) -> Term:
        start = self.at - 1
        self._expect(_ATOMS)
        self.take(_IDENTIFIERS[tag])
        return self._opaque(start)

    def reference(self, tag: int) -> Term:
        start = self.at - 1
        words = self.number(2)
        if not 1 <= words <= 5:
            raise self.damaged(f"a reference has {words} words, not 1 to 5")
        self._expect(_ATOMS)
        self.take(4 * words + (4 if tag == 90 else 1))
        return self._opaque(start)

    def export(self, _tag: int) -> Term:
        start = self.at - 1
        self._expect(_ATOMS)
        self._expect(_ATOMS)
        self._expect((97,))
        return self._opaque(start)

    def new_fun(self, tag: int) -> _Read:
        start = self.at - 1
        end = start + 1 + self.number(4)  # the size counts itself, but not the tag
        self.take(1 + 16 + 4)
        free = self.count(4, 1)
        for tags in (_ATOMS, _INTEGERS, _INTEGERS, _PIDS):
            self._expect(tags)
        return self._open(tag, free, start=start, end=end)

    def old_fun(self, tag: int) -> _Read:
        start = self.at - 1
        free = self.count(4, 1)
        for tags in (_PIDS, _ATOMS, _INTEGERS, _INTEGERS):
            self._expect(tags)
        return self._open(tag, free, start=start)

    def close_fun(self, frame: _Frame) -> Term:
        if frame.tag == _NEW_FUN and frame.end != self.at:
            raise self.damaged("the size of a fun is not what it holds", frame.start)
        return self._opaque(frame.start)


_ATOMS, _INTEGERS, _PIDS = (100, 115, 118, 119), (97, 98), (88, 103)
_IDENTIFIERS = {88: 12, 89: 8, 101: 5, 102: 5, 103: 9, 120: 12}
"""Pids, ports and old references: the bytes after the name of the node."""

_READERS: dict[int, Callable[[_Decoder, int], _Read]] = {
    70: _Decoder.float_,
    77: _Decoder.bit_binary,
    90: _Decoder.reference,
    97: _Decoder.small_integer,
    98: _Decoder.integer,
    99: _Decoder.float_text,
    104: _Decoder.small_tuple,
    105: _Decoder.large_tuple,
    _NIL: _Decoder.nil,
    _STRING: _Decoder.string,
    _LIST: _Decoder.list_,
    109: _Decoder.binary,
    110: _Decoder.big,
    111: _Decoder.big,
    _NEW_FUN: _Decoder.new_fun,
    113: _Decoder.export,
    114: _Decoder.reference,
    116: _Decoder.map_,
    _FUN: _Decoder.old_fun,
    **dict.fromkeys(_ATOMS, _Decoder.atom),
    **dict.fromkeys(_IDENTIFIERS, _Decoder.identifier),
}

_CLOSERS: dict[int, Callable[[_Decoder, _Frame], _Read]] = {
    104: _Decoder.close_tuple,
    105: _Decoder.close_tuple,
    116: _Decoder.close_map,
    _LIST: _Decoder.close_list,
    _TAIL: _Decoder.close_improper,
    _NEW_FUN: _Decoder.close_fun,
    _FUN: _Decoder.close_fun,
}
