"""Tables that say how the values of the model are spelled, and the small engine that follows them.

A format describes each type once, as a :class:`Shape` of members; decoding and encoding both read
that table. Leaves are :class:`Leaf` pairs of functions. Decoding raises :class:`Refused` with the
path collected while unwinding; encoding notes what the format cannot hold as :class:`Loss`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ratchetkeep.errors import InvalidValue
from ratchetkeep.model._checks import Refused

# What a format finds beside the members it knows, and no other format can spell, stays in the
# value's ``extra`` under names that begin so; no JSON member of a real file does.
PRIVATE = "\0"

ABSENT: Any = object()
"""Stands for a member that is not there."""

TAKEN = "the format keeps something else under this name; it is left out"
"""What becomes of another format's unknown member with the name of a known one."""


class Loss(NamedTuple):
    """What a target format cannot hold.

    :ivar place: the record and member, such as ``session 1555.0: indexInfo.used``.
    :ivar what: the consequence, in words; no content. Where ``amount`` is given it has an ``{n}``.
    :ivar derived: True if it can be made again, or is not needed by the library that owns the
        format; such a loss never stops a write.
    :ivar amount: how many of what ``what`` speaks of; a copy adds them up over all records.
    """

    place: str
    what: str
    derived: bool
    amount: int | None = None

    @property
    def told(self) -> str:
        """``what``, with the amount in it."""
        return tell_amount(self.what, self.amount)


def tell_amount(what: str, amount: int | None) -> str:
    """The consequence of a :class:`Loss`, with the amount where it has its ``{n}``."""
    return what if amount is None else what.replace("{n}", str(amount))


class Losses:
    """Collects what one record loses in a format."""

    def __init__(self) -> None:
        self.found: list[Loss] = []

    def note(
        self, path: str, what: str, *, derived: bool = False, amount: int | None = None
    ) -> None:
        """Add a loss at ``path``; with an ``amount``, ``what`` has an ``{n}`` for it."""
        self.found.append(Loss(path.lstrip("."), what, derived, amount))


class Codec(Protocol):
    """One spelling of one kind of value."""

    def decode(self, raw: Any) -> Any:
        """The model's value; raises Refused."""

    def encode(self, value: Any, path: str, losses: Losses) -> Any:
        """The format's value, or ABSENT if nothing of it can be held."""


class Leaf:
    """A codec of two functions that lose nothing."""

    def __init__(self, decode: Callable[[Any], Any], encode: Callable[[Any], Any]) -> None:
        self.decode = decode
        self._encode = encode

    def encode(self, value: Any, path: str, losses: Losses) -> Any:
        return self._encode(value)


class Free:
    """A codec of values of no fixed shape, of two functions; writing notes what is lost."""

    def __init__(
        self, decode: Callable[[Any], Any], encode: Callable[[Any, str, Losses], Any]
    ) -> None:
        self.decode = decode
        self.encode = encode


class Many:
    """A list of one codec."""

    def __init__(self, item: Codec) -> None:
        self.item = item

    def decode(self, raw: Any) -> tuple[Any, ...]:
        if not isinstance(raw, list):
            raise Refused("expected a list")
        items = []
        for place, each in enumerate(raw):
            try:
                items.append(self.item.decode(each))
            except Refused as refused:
                raise Refused(refused.what, f"[{place}]{refused.path}") from None
        return tuple(items)

    def encode(self, value: Any, path: str, losses: Losses) -> list[Any]:
        written = (self.item.encode(v, f"{path}[{i}]", losses) for i, v in enumerate(value))
        return [each for each in written if each is not ABSENT]


class Dialect(Protocol):
    """How a format writes an object with named members."""

    def split(self, raw: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Named members, and what else must be carried (goes to ``extra``); raises Refused."""

    def leftover(self, name: str, raw: Any, rest: dict[str, Any]) -> None:
        """Carry an unknown member, or a known one of an unknown shape, in ``rest``."""

    def join(
        self, members: dict[str, Any], extra: Mapping[str, Any], path: str, losses: Losses
    ) -> Any:
        """The format's object."""


class Member(NamedTuple):
    """A member: the model's name, the format's name, how its value is spelled.

    :ivar default: the value that stands for absence; ``...`` if the member must be there.
    """

    attr: str
    name: str
    codec: Codec
    default: Any = ...


class Shape:
    """An object of the format and the model type it is read into."""

    def __init__(self, cls: type, dialect: Dialect, members: Sequence[Member]) -> None:
        self.cls = cls
        self.dialect = dialect
        self.members = members
        self._names = {member.attr: member.name for member in members}
        self._own = frozenset(self._names.values())

    def decode(self, raw: Any) -> Any:
        named, rest = self.dialect.split(raw)
        given: dict[str, Any] = {}
        for member in self.members:
            value = self._member(member, named.pop(member.name, ABSENT), rest)
            if value is not ABSENT:
                given[member.attr] = value
        for name, unknown in named.items():
            self.dialect.leftover(name, unknown, rest)
        if rest:
            given["extra"] = rest
        try:
            return self.cls(**given)
        except InvalidValue as invalid:
            attr, mark, tail = invalid.place.partition(".")[2].partition("[")
            raise Refused(invalid.what, f".{self._names.get(attr, attr)}{mark}{tail}") from None

    def _member(self, member: Member, raw: Any, rest: dict[str, Any]) -> Any:
        if raw is ABSENT:
            if member.default is ...:
                raise Refused("is missing", f".{member.name}")
            return member.default
        if raw is None and member.default is not ...:
            # Said to be nothing, which is not the same as not being there: carried as it stands.
            self.dialect.leftover(member.name, None, rest)
            return member.default
        try:
            return member.codec.decode(raw)
        except Refused as refused:
            raise Refused(refused.what, f".{member.name}{refused.path}") from None

    def encode(self, value: Any, path: str, losses: Losses) -> Any:
        members: dict[str, Any] = {}
        extra = self.unknown(value.extra, path, losses)
        for member in self.members:
            held = getattr(value, member.attr)
            if held is None or (held == member.default and member.name in extra):
                continue  # there is nothing, or the source said so itself (see _member)
            written = member.codec.encode(held, f"{path}.{member.name}", losses)
            if written is not ABSENT:
                members[member.name] = written
        return self.dialect.join(members, extra, path, losses)

    def unknown(self, extra: Mapping[str, Any], path: str, losses: Losses) -> Mapping[str, Any]:
        """What of ``extra`` can stand beside the members. What another format did not know may have
        the name of one of them here, and would be taken for it."""
        if not extra or self._own.isdisjoint(extra):
            return extra
        kept = {}
        for name, each in extra.items():
            # None says that the member itself is nothing (see _member).
            if each is not None and name in self._own:
                losses.note(f"{path}.{name}", TAKEN)
            else:
                kept[name] = each
        return kept
