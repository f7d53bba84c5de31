"""Reads JSON records in one go: types and functions that are made once, from a format's tables.

msgspec decodes a record into plain types that mirror the tables, and writes it again from them. If
that gives the very bytes that were read, nothing was overlooked: no unknown member, none that
stands twice, no other spelling of a number, a text or bytes. Only then the value is made of what
was decoded. All else the tables read, and they alone say what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import msgspec

from ratchetkeep.errors import InvalidValue
from ratchetkeep.model import FrozenDict
from ratchetkeep.model._checks import EMPTY, Check, Refused, define

from ._direct import can_be_none
from ._json import BASE64, BOOL, BUFFER, INT, MAX_BYTES, NUMBER64, TEXT
from ._shape import Codec, Many, Shape

__all__ = ["InBuffer", "JsonReader", "Mirror"]


class Mirror(NamedTuple):
    """How a codec's values are read.

    :ivar type: what msgspec decodes.
    :ivar make: gives the source of the model's value, of the source of what was decoded.
    """

    type: Any
    make: Callable[[str], str] = str


class InBuffer(msgspec.Struct, gc=False):
    """A Buffer object with its bytes in base64."""

    type: Literal["Buffer"]
    data: bytes


class JsonReader:
    """One format's types and functions, by codec.

    :ivar mirrors: what is known without a table.
    :ivar kinds: what gives the mirror of a codec, by the codec's type.
    :ivar names: what the source of values may name.
    """

    def __init__(self, **names: Any) -> None:
        self.mirrors: dict[Codec, Mirror] = {
            TEXT: Mirror(str),
            INT: Mirror(int),
            BOOL: Mirror(bool),
            NUMBER64: Mirror(int | str),
            BASE64: Mirror(bytes),
            BUFFER: Mirror(InBuffer, "{}.data".format),
        }
        self.kinds: dict[type, Callable[[Any], Mirror]] = {Shape: self._shape, Many: self._many}
        self.names: dict[str, Any] = {"EMPTY": EMPTY, "FrozenDict": FrozenDict, **names}
        self._readers: dict[Codec, Callable[[bytes], Any]] = {}

    def read(self, codec: Codec, raw: bytes, check: Check) -> Any:
        """The value in ``raw`` as ``check`` keeps it; None if the tables must read it."""
        # Made on first use; two threads may make the same one at once, and either will do.
        reader = self._readers.get(codec)
        if len(raw) > MAX_BYTES:
            return None
        if reader is None:
            reader = self._readers[codec] = self._reader(codec)
        try:
            found = reader(raw)
            return None if found is None else check(found)
        except (msgspec.MsgspecError, Refused, InvalidValue, ValueError, TypeError, RecursionError):
            return None

    def _reader(self, codec: Codec) -> Callable[[bytes], Any]:
        return self.reader_of(self.of(codec))

    def reader_of(self, mirror: Mirror) -> Callable[[bytes], Any]:
        """The function that reads a text; it gives None if it cannot, or raises what :meth:`read`
        catches."""
        return define(
            "def read(raw):\n"
            "    found = decode(raw)\n"
            f"    return {mirror.make('found')} if encode(found) == raw else None\n",
            **self.names,
            decode=msgspec.json.Decoder(mirror.type).decode,
            encode=msgspec.json.Encoder().encode,
        )

    def of(self, codec: Codec) -> Mirror:
        """The mirror of a codec."""
        if codec not in self.mirrors:
            self.mirrors[codec] = self.kinds[type(codec)](codec)
        return self.mirrors[codec]

    def call(self, function: Callable[[Any], Any]) -> Callable[[str], str]:
        """Gives the source of a call of ``function``."""
        name = f"made_{len(self.names)}"
        self.names[name] = function
        return (name + "({})").format

    def _shape(self, shape: Shape) -> Mirror:
        fields: list[Any] = []
        made: list[str] = []
        for member in shape.members:
            inner = self.of(member.codec)
            held = f"v.{member.attr}"
            value = inner.make(held)
            if can_be_none(shape.cls, member.attr):
                fields.append((member.attr, inner.type | None, None))
                if value != held:
                    value = f"None if {held} is None else {value}"
            else:
                fields.append((member.attr, inner.type))
            made.append(f"{member.attr}={value}")
        mirror = msgspec.defstruct(
            shape.cls.__name__,
            fields,
            rename={member.attr: member.name for member in shape.members},
            omit_defaults=True,
            kw_only=True,
            gc=False,
        )
        source = f"def make(v):\n    return cls({', '.join(made)})\n"
        make = define(source, **self.names, cls=shape.cls)
        return Mirror(mirror, self.call(make))

    def _many(self, codec: Many) -> Mirror:
        inner = self.of(codec.item)
        made = inner.make("each")

        def make(v: str) -> str:
            return f"tuple({v if made == 'each' else f'[{made} for each in {v}]'})"

        return Mirror(list[inner.type], make)  # type: ignore[name-defined]

    def mapped(self, key: type, item: Codec) -> Mirror:
        """The mirror of an object whose names are of the type ``key``."""
        inner = self.of(item)
        made = inner.make("each")

        def make(v: str) -> str:
            items = v if made == "each" else f"{{key: {made} for key, each in {v}.items()}}"
            return f"(FrozenDict({items}) if {v} else EMPTY)"

        return Mirror(dict[key, inner.type], make)  # type: ignore[name-defined,valid-type]
