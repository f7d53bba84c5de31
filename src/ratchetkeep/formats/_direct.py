"""Writes records in one go: functions that are made once, on first use, from a format's tables.

The tables of :mod:`._shape` say what a format holds, and following them member by member gives
every loss its place; but almost all records have nothing to lose, and then the way over dicts or
terms only takes time. So a format also has a function per type that appends the record's bytes
part by part. The one rule: **it writes only what has no unknown members and loses nothing.** For
all else it raises :class:`NotDirect`, and the tables write the whole record. Both give the same
bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

from ratchetkeep.model._checks import Refused, define
from ratchetkeep.model._value import Value

from ._shape import Codec, Many, Shape

__all__ = ["Direct", "Inline", "NotDirect", "Out", "Source", "Write", "can_be_none", "refuse"]

Out = list[bytes]
"""The parts of the bytes so far."""

Write = Callable[[Any, Out], None]
"""Appends a value's bytes; raises NotDirect."""


class NotDirect(Exception):
    """The value must be written by the tables."""


def refuse(*_: Any) -> NoReturn:
    """The writer of what only the tables write."""
    raise NotDirect


class Inline(NamedTuple):
    """How a leaf is written, as source that stands in the functions of those that hold it.

    :ivar parts: expressions of bytes with commas between them; ``{v}`` is the value.
    """

    before: bytes
    parts: str
    after: bytes = b""


def can_be_none(cls: type[Value], attr: str) -> bool:
    """Whether the model takes None for a member."""
    try:
        cls.CHECKS[attr](None)
    except Refused:
        return False
    return True


class Source:
    """The source of one function. Bytes that follow each other are one part."""

    def __init__(self, direct: Direct) -> None:
        self._direct = direct
        self._lines = ["def write(value, out):"]
        self._indent = "    "
        self._parts: list[bytes | str] = []
        self._names: dict[str, Any] = {"NotDirect": NotDirect}

    def line(self, text: str) -> None:
        """A statement, after the parts so far."""
        self.flush()
        self._lines.append(self._indent + text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """The statements of an ``if`` or a loop."""
        self.line(head)
        self._indent += "    "
        yield
        self.flush()
        self._indent = self._indent[4:]

    def bytes(self, data: bytes) -> None:
        """A part that is always the same."""
        before = self._parts[-1] if self._parts else ""
        if isinstance(before, str):
            self._parts.append(data)
        else:
            self._parts[-1] = before + data

    def parts(self, expressions: str) -> None:
        """Parts that depend on the value."""
        self._parts.append(expressions)

    def value(self, codec: Codec, v: str) -> None:
        """The value that the expression ``v`` gives, spelled by ``codec``."""
        inline = self._direct.inline.get(codec)
        if inline is not None:
            if inline.before:
                self.bytes(inline.before)
            self.parts(inline.parts.format(v=v))
            if inline.after:
                self.bytes(inline.after)
            return
        name = f"write_{len(self._names)}"
        self._names[name] = self._direct.of(codec)
        self.line(f"{name}({v}, out)")

    def flush(self) -> None:
        """Append the parts so far."""
        if self._parts:
            texts = [each if isinstance(each, str) else repr(each) for each in self._parts]
            self._parts = []
            self._lines.append(f"{self._indent}out += ({', '.join(texts)},)")

    def made(self) -> Write:
        """The function."""
        self.flush()
        return define("\n".join(self._lines), **self._direct.names, **self._names)


class Direct(ABC):
    """One format's functions, by codec.

    :ivar inline: how leaves are written.
    :ivar kinds: what makes the function of a codec, by the codec's type.
    :ivar names: what the source of leaves may name.
    """

    def __init__(self, **names: Any) -> None:
        self.inline: dict[Codec, Inline] = {}
        self.kinds: dict[type, Callable[[Any], Write]] = {Shape: self._shape, Many: self.many}
        self.names = names
        self._made: dict[Codec, Write] = {}

    def of(self, codec: Codec) -> Write:
        """The function that writes what ``codec`` spells."""
        # All of them take some ten milliseconds to make, so none is made on import. Two threads
        # may make the same one at once; either will do.
        if codec not in self._made:
            self._made[codec] = self._make(codec)
        return self._made[codec]

    def written(self, codec: Codec, value: Any) -> bytes | None:
        """The bytes of a whole record; None if the tables must write it."""
        out: Out = []
        try:
            self.of(codec)(value, out)
        except NotDirect:
            return None
        return b"".join(out)

    def _make(self, codec: Codec) -> Write:
        if codec in self.inline:
            source = Source(self)
            source.value(codec, "value")
            return source.made()
        return self.kinds[type(codec)](codec)

    def _shape(self, shape: Shape) -> Write:
        source = Source(self)
        with source.block("if value.extra:"):
            source.line("raise NotDirect")
        self.shape(shape, source)
        return source.made()

    @abstractmethod
    def shape(self, shape: Shape, source: Source) -> None:
        """Write out a shape whose value has no unknown members."""

    @abstractmethod
    def many(self, codec: Many) -> Write:
        """The function that writes a list."""
