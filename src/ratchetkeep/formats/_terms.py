"""The spelling of the model's values as Erlang terms: leaves, and objects keyed by atoms.

Absence is the atom ``nil`` where BaileysEx always writes every member ("full" objects), or no
member at all ("sparse" ones). What only a term can spell is carried in ``extra`` under private
names: members that we do not know as one ETF map, the names said to be nil, and a struct's name
where it is not the usual one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ratchetkeep.errors import DecodeError
from ratchetkeep.model import Foreign, FrozenDict
from ratchetkeep.model._checks import MAX_DEPTH, Refused, free, kind_of

from . import etf
from ._json import from_base64, to_base64
from ._shape import ABSENT, PRIVATE, Free, Leaf, Losses

REST = PRIVATE + "etf"
NILS = PRIVATE + "nil"
STRUCT = PRIVATE + "struct"

NIL, TRUE, FALSE = etf.Atom("nil"), etf.Atom("true"), etf.Atom("false")
STRUCT_KEY = etf.Atom("__struct__")
_CONSTANTS = {NIL: None, TRUE: True, FALSE: False}


def from_text(raw: Any) -> str:
    """The text of a binary."""
    if type(raw) is not bytes:
        raise Refused(f"expected text, got {kind_of(raw)}")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Refused("is not UTF-8 text") from None


def from_bytes(raw: Any) -> bytes:
    """A binary."""
    if type(raw) is not bytes:
        raise Refused(f"expected a binary, got {kind_of(raw)}")
    return raw


def from_integer(raw: Any) -> int:
    """An integer."""
    if type(raw) is not int:
        raise Refused(f"expected an integer, got {kind_of(raw)}")
    return raw


def from_boolean(raw: Any) -> bool:
    """The atoms ``true`` and ``false``."""
    if raw != TRUE and raw != FALSE:
        raise Refused("expected true or false")
    return bool(raw == TRUE)


def from_number64(raw: Any) -> int | str:
    """A number, or its text in a binary."""
    return raw if type(raw) is int else from_text(raw)


class Text:
    """Text as a binary; a lone surrogate, which UTF-8 cannot spell, becomes U+FFFD and is noted."""

    def decode(self, raw: Any) -> str:
        return from_text(raw)

    def encode(self, value: str, path: str, losses: Losses) -> bytes:
        try:
            return value.encode()
        except UnicodeEncodeError:
            losses.note(path, "half of a character (a lone surrogate) is replaced", derived=True)
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


class Number64:
    """A 64-bit number; a JavaScript Long becomes the number that it stands for."""

    def decode(self, raw: Any) -> int | str:
        return from_number64(raw)

    def encode(self, value: Any, path: str, losses: Losses) -> int | bytes:
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, int):
            return value
        losses.note(path, "a JavaScript Long becomes a plain number", derived=True)
        number: int = (value["high"] & 0xFFFFFFFF) << 32 | (value["low"] & 0xFFFFFFFF)
        if number < 2**63:
            return number
        # As text it is one that the model takes.
        return str(number).encode() if value["unsigned"] else number - 2**64


TEXT, NUMBER64 = Text(), Number64()
BYTES = Leaf(from_bytes, lambda value: value)
INT = Leaf(from_integer, lambda value: value)
BOOL = Leaf(from_boolean, lambda value: TRUE if value else FALSE)


class AtomOf:
    """A value that BaileysEx spells as one of few atoms; no other atom is ever written.

    :ivar atoms: the atoms by what they stand for.
    """

    def __init__(self, **names: Any) -> None:
        self.atoms = {value: etf.Atom(name) for name, value in names.items()}
        self._from = {etf.Atom(name): value for name, value in names.items()}

    def decode(self, raw: Any) -> Any:
        if isinstance(raw, etf.Atom) and raw in self._from:
            return self._from[raw]
        raise Refused("expected one of few atoms")

    def encode(self, value: Any, path: str, losses: Losses) -> Any:
        if value in self.atoms:
            return self.atoms[value]
        losses.note(path, "BaileysEx knows no such value; it is left out")
        return ABSENT


def _foreign(term: Any) -> Foreign:
    return Foreign("etf", etf.encode(term))


def _carried(rest: Mapping[str, Any]) -> tuple[tuple[Any, Any], ...]:
    """The pairs of the map of unknown members."""
    term = etf.decode(rest[REST].data) if REST in rest else None
    return term.items() if isinstance(term, etf.Map) else ()


def from_free(term: Any, depth: int = 0) -> Any:
    """A term of no fixed shape. Binaries that are UTF-8 become text, others bytes; what has no
    counterpart in the model is carried as ETF."""
    if depth > MAX_DEPTH:
        raise Refused(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(term, etf.Atom):
        return _CONSTANTS[term] if term in _CONSTANTS else _foreign(term)
    if type(term) in (int, float):
        return term
    if type(term) is bytes:
        try:
            return term.decode()
        except UnicodeDecodeError:
            return term
    try:
        if type(term) is list:
            return free([from_free(each, depth + 1) for each in term], depth)
        if isinstance(term, etf.Map) and all(type(name) is bytes for name in term):
            return _free_map(term, depth)
    except Refused:
        pass
    return _foreign(term)


def _free_map(term: etf.Map, depth: int) -> Any:
    members = {from_text(name): from_free(v, depth + 1) for name, v in term.items()}
    if set(members) == {"type", "data"} and members["type"] == "Buffer":
        # Our own spelling of bytes that would read back as text (see to_free).
        try:
            data = from_base64(members["data"])
            data.decode()
        except (Refused, UnicodeDecodeError):
            pass
        else:
            return data
    return free(members, depth)


def to_free(value: Any, path: str, losses: Losses) -> Any:
    """The term of a value of no fixed shape. Bytes that would read back as text are written as a
    map ``{"data", "type" => "Buffer"}``, since a binary says nothing of which it is."""
    if isinstance(value, Foreign):
        return _from_foreign(value, path, losses)
    if value is None or isinstance(value, bool):
        return NIL if value is None else TRUE if value else FALSE
    if isinstance(value, float) and not math.isfinite(value):
        losses.note(path, "a number that ETF cannot spell is left out")
        return ABSENT
    if isinstance(value, int | float):
        return value
    if isinstance(value, str):
        return TEXT.encode(value, path, losses)
    if isinstance(value, bytes):
        return _to_free_bytes(value)
    if isinstance(value, tuple):
        items = [to_free(each, f"{path}[{i}]", losses) for i, each in enumerate(value)]
        return ABSENT if any(item is ABSENT for item in items) else items
    pairs = [(name, to_free(each, f"{path}.{name}", losses)) for name, each in value.items()]
    written = [(_member_name(name, path, losses), term) for name, term in pairs]
    return etf.Map(tuple(pair for pair in written if all(each is not ABSENT for each in pair)))


def _member_name(name: str, path: str, losses: Losses) -> Any:
    try:
        return name.encode()
    except UnicodeEncodeError:
        losses.note(path, "a member whose name has half of a character in it is left out")
        return ABSENT


def _from_foreign(value: Foreign, path: str, losses: Losses) -> Any:
    if value.encoding == "etf":
        try:
            return etf.decode(value.data)
        except DecodeError:
            pass
    losses.note(path, f"a value that only {value.encoding.upper()} can spell is left out")
    return ABSENT


def _to_free_bytes(value: bytes) -> Any:
    try:
        value.decode()
    except UnicodeDecodeError:
        return value
    return etf.Map(((b"data", to_base64(value).encode()), (b"type", b"Buffer")))


FREE = Free(from_free, to_free)


class AtomMap:
    """The dialect of maps and structs keyed by atoms.

    :ivar full: every member is always written, ``nil`` where there is nothing.
    :ivar struct: the struct's usual name, or None for a plain map.
    :ivar strict: another struct's name is refused: BaileysEx would not read it.
    :ivar plain: a plain map is taken where it is strict, as BaileysEx does for credentials.
    """

    def __init__(
        self,
        *names: str,
        full: bool,
        struct: str | None = None,
        strict: bool = False,
        plain: bool = False,
    ) -> None:
        self.plain = plain
        self.names = names
        self.full = full
        self.struct = etf.Atom(struct) if struct else None
        self.strict = strict

    def split(self, raw: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        if not isinstance(raw, etf.Map):
            raise Refused(f"expected a map, got {kind_of(raw)}")
        named: dict[str, Any] = {}
        others: list[tuple[Any, Any]] = []
        rest: dict[str, Any] = {}
        struct: Any = None
        for key, value in raw.items():
            if type(key) is not etf.Atom:
                others.append((key, value))
            elif key.name == "__struct__":
                struct = value
            else:
                is_nil = type(value) is etf.Atom and value.name == "nil"
                named[key.name] = None if is_nil else value
        self._struct(struct, rest)
        if others:
            rest[REST] = _foreign(etf.Map(tuple(others)))
        return named, rest

    def _struct(self, struct: Any, rest: dict[str, Any]) -> None:
        if struct == self.struct:
            return
        is_refused = self.strict and not (self.plain and struct is None)
        if is_refused or not (struct is None or isinstance(struct, etf.Atom)):
            wanted = self.struct.name if self.struct else "no struct"
            raise Refused(f"expected %{wanted.removeprefix('Elixir.')}{{}}")
        rest[STRUCT] = struct.name if struct else ""

    def leftover(self, name: str, raw: Any, rest: dict[str, Any]) -> None:
        if raw is None and name in self.names:
            if not self.full:
                rest[NILS] = (*rest.get(NILS, ()), name)
            return
        pair = (etf.Atom(name), NIL if raw is None else raw)
        rest[REST] = _foreign(etf.Map((*_carried(rest), pair)))

    def join(
        self, members: dict[str, Any], extra: Mapping[str, Any], path: str, losses: Losses
    ) -> etf.Map:
        pairs: list[tuple[Any, Any]] = []
        struct = extra.get(STRUCT, self.struct.name if self.struct else "")
        if struct:
            pairs.append((STRUCT_KEY, _atom(struct)))
        nils = self.names if self.full else extra.get(NILS, ())
        for name in self.names:
            if name in members:
                pairs.append((_atom(name), members[name]))
            elif name in nils:
                pairs.append((_atom(name), NIL))
        pairs.extend(_carried(extra))
        for name, value in extra.items():
            if not name.startswith(PRIVATE):
                # A null where BaileysEx writes nil anyway says nothing more.
                what = "BaileysEx has no place for it; it is left out"
                losses.note(f"{path}.{name}", what, derived=value is None)
        return etf.Map(tuple(pairs))


# The same few names stand in every record.
_atom = lru_cache(1024)(etf.Atom)


def by_text(raw: Any) -> FrozenDict[str, Any]:
    """The members of a map by text; raises Refused."""
    if not isinstance(raw, etf.Map):
        raise Refused(f"expected a map, got {kind_of(raw)}")
    return FrozenDict({from_text(name): value for name, value in raw.items()})
