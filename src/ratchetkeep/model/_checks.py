"""Checks that the values of the model run on their members when they are made.

A check takes a value and returns the value to keep (a list becomes a tuple, a dict becomes a
:class:`FrozenDict`), or raises :class:`Refused`. What it says describes a value by type, length and
range only: members hold key material.

A check may have a test as well: Python source that is true of a value only if the check would keep
that very value as it is. Values that are decoded pass their tests, and a type's tests written out
in one function (:func:`define`) take a fraction of the time of a call of each member's check. What
no test accepts, the check decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from ratchetkeep.errors import InvalidValue

K = TypeVar("K")
V = TypeVar("V")

Check = Callable[[Any], Any]
C = TypeVar("C", bound=Check)

# Deep enough for every real file, shallow enough that no recursion limit is ever met.
MAX_DEPTH = 60


class Refused(Exception):
    """A check failed at ``path`` (relative to the checked member)."""

    def __init__(self, what: str, path: str = "") -> None:
        self.what = what
        self.path = path
        super().__init__(path, what)


class FrozenDict(dict[K, V]):
    """A dict that cannot be changed after it was made, so that cached values stay true."""

    __slots__ = ()

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("this mapping is part of an immutable value; build a new value instead")

    __setitem__ = __delitem__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse
    __ior__ = _refuse

    def __repr__(self) -> str:
        return f"<{len(self)} members>"

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (dict(self),))


EMPTY: FrozenDict[Any, Any] = FrozenDict()
"""The one empty mapping that all defaults share, so that a test may ask for it by identity."""


class Foreign:
    """A value that only one format can spell, carried through as that format's bytes.

    Not a dataclass, since serializers would take that apart without asking.

    :ivar encoding: the format's name, such as ``etf``.
    :ivar data: the value in that format.
    """

    __slots__ = ("data", "encoding")
    encoding: str
    data: bytes

    def __init__(self, encoding: str, data: bytes) -> None:
        if not isinstance(data, bytes) or not isinstance(encoding, str) or not encoding.isascii():
            raise InvalidValue("Foreign", "expected the name of an encoding and bytes")
        object.__setattr__(self, "encoding", encoding)
        object.__setattr__(self, "data", data)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Foreign value is immutable")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Foreign):
            return NotImplemented
        return (self.encoding, self.data) == (other.encoding, other.data)

    def __hash__(self) -> int:
        return hash((self.encoding, self.data))

    def __reduce__(self) -> tuple[Any, ...]:
        return (Foreign, (self.encoding, self.data))

    def __repr__(self) -> str:
        return f"Foreign({self.encoding!r}, <{len(self.data)} bytes>)"


# The tests, by check.
_TESTS: dict[Check, str] = {}
# What the source of a test may name, beside the builtins.
_NAMES: dict[str, Any] = {
    "EMPTY": EMPTY,
    "FrozenDict": FrozenDict,
    "PLAIN": frozenset({bool, int, float, str, bytes}),
}


def _tested(test: str) -> Callable[[C], C]:
    """Give a check its test, in which ``{v}`` stands for the value."""

    def note(check: C) -> C:
        _TESTS[check] = test
        return check

    return note


def test_of(check: Check, v: str) -> str:
    """The source of the test of what the name ``v`` holds; ``False`` where there is none."""
    return f"({_TESTS.get(check, 'False').format(v=v)})"


def define(source: str, **names: Any) -> Callable[..., Any]:
    """The function that ``source`` defines; tests may stand in it, and ``names``.

    Only tables of our own are put together to source here, and on import or first use.
    """
    made: dict[str, Any] = {}
    exec(source, {**_NAMES, **names}, made)  # noqa: S102 - see above
    (function,) = made.values()
    return function  # type: ignore[no-any-return]


def _collection(loose: str, kind: str, loop: str, tests: str, slow: Check) -> Check:
    """A check that keeps a ``loose`` collection as a ``kind``; ``slow`` if an item fails."""
    # The copy comes before the look at it: another thread may hold the loose one.
    return define(
        f"def check(given):\n"
        f"    if type(given) is {loose}:\n"
        f"        given = {kind}(given)\n"
        f"    elif type(given) is not {kind}:\n"
        f"        return slow(given)\n"
        f"    for {loop}:\n"
        f"        if not ({tests}):\n"
        f"            return slow(given)\n"
        f"    return given\n",
        slow=slow,
    )


def kind_of(value: object) -> str:
    """Say what ``value`` is without showing any of it."""
    if value is None:
        return "nothing"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return f"a value of type {type(value).__name__}"


def size(*allowed: int) -> Check:
    """Bytes of one of the ``allowed`` lengths."""
    wanted = " or ".join(str(n) for n in allowed)
    # Comparisons of small numbers are faster than a look into a tuple.
    sizes = " or ".join(f"len({{v}}) == {n}" for n in allowed)

    @_tested(f"type({{v}}) is bytes and ({sizes})")
    def check(value: Any) -> bytes:
        if type(value) is not bytes or len(value) not in allowed:
            raise Refused(f"expected {wanted} bytes, got {kind_of(value)}")
        return value

    return check


@_tested("type({v}) is bytes")
def data(value: Any) -> bytes:
    """Bytes of any length."""
    if type(value) is not bytes:
        raise Refused(f"expected bytes, got {kind_of(value)}")
    return value


@_tested("type({v}) is bytes and (len({v}) == 32 or (len({v}) == 33 and {v}[0] == 5))")
def public_key(value: Any) -> bytes:
    """A Curve25519 public key: 32 bytes, or 33 with Signal's type byte 0x05 before them."""
    if type(value) is bytes and (len(value) == 32 or (len(value) == 33 and value[0] == 5)):
        return value
    raise Refused(f"expected 32 bytes, or 33 that begin with 0x05, got {kind_of(value)}")


@_tested("type({v}) is str")
def text(value: Any) -> str:
    """Text; a lone surrogate may stand in it, since JavaScript writes such names."""
    if type(value) is not str:
        raise Refused(f"expected text, got {kind_of(value)}")
    return value


@_tested("type({v}) is str and {v} and {v}.isascii()")
def name(value: Any) -> str:
    """Well-formed text that is not empty."""
    if type(value) is not str or not value or any("\ud800" <= c <= "\udfff" for c in value):
        raise Refused(f"expected well-formed text, got {kind_of(value)}")
    return value


@_tested("type({v}) is bool")
def boolean(value: Any) -> bool:
    """True or False."""
    if type(value) is not bool:
        raise Refused(f"expected true or false, got {kind_of(value)}")
    return value


def integer(low: int, high: int) -> Check:
    """A whole number from ``low`` to ``high``."""

    @_tested(f"type({{v}}) is int and {low} <= {{v}} <= {high}")
    def check(value: Any) -> int:
        if type(value) is not int:
            raise Refused(f"expected a whole number, got {kind_of(value)}")
        if not low <= value <= high:
            raise Refused(f"expected a number from {low} to {high}")
        return value

    return check


uint24 = integer(0, 2**24 - 1)
uint32 = integer(0, 2**32 - 1)
int64 = integer(-(2**63), 2**63 - 1)
uint64 = integer(0, 2**64 - 1)
_half = integer(-(2**31), 2**32 - 1)


@_tested(f"type({{v}}) is int and {-(2**63)} <= {{v}} < {2**63}")
def number64(value: Any) -> Any:
    """A 64-bit number: a whole number, its text, or the {low, high, unsigned} of a JS Long."""
    if type(value) is int:
        return int64(value)
    if type(value) is str:
        if not (value.isascii() and value.removeprefix("-").isdecimal() and len(value) <= 20):
            raise Refused("expected a number or its text, got other text")
        return value
    if isinstance(value, Mapping) and set(value) == {"low", "high", "unsigned"}:
        return FrozenDict(
            low=_half(value["low"]),
            high=_half(value["high"]),
            unsigned=boolean(value["unsigned"]),
        )
    raise Refused(f"expected a number or its text, got {kind_of(value)}")


def instance(cls: type[V]) -> Check:
    """A value of the model's type ``cls``."""
    # Numbered, since two types may have one name.
    named = f"T{len(_NAMES)}"
    _NAMES[named] = cls

    @_tested(f"type({{v}}) is {named}")
    def check(value: Any) -> V:
        if type(value) is not cls:
            raise Refused(f"expected {cls.__name__}, got {kind_of(value)}")
        return value

    return check


def optional(inner: Check) -> Check:
    """None, or what ``inner`` takes."""

    @_tested(f"{{v}} is None or {test_of(inner, '{v}')}")
    def check(value: Any) -> Any:
        return None if value is None else inner(value)

    return check


def tuple_of(inner: Check) -> Check:
    """A list or tuple whose items ``inner`` takes."""

    def slow(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise Refused(f"expected a list, got {kind_of(value)}")
        items = []
        for place, item in enumerate(value):
            try:
                items.append(inner(item))
            except Refused as refused:
                raise Refused(refused.what, f"[{place}]{refused.path}") from None
        return tuple(items)

    check = _collection("list", "tuple", "v in given", test_of(inner, "v"), slow)
    return _tested("type({v}) is tuple and not {v}")(check)


def map_of(key: Check, inner: Check) -> Check:
    """A mapping whose keys ``key`` takes and whose values ``inner`` takes; its order is kept."""

    def slow(value: Any) -> FrozenDict[Any, Any]:
        if not isinstance(value, Mapping):
            raise Refused(f"expected a mapping, got {kind_of(value)}")
        members = {}
        for place, (name, item) in enumerate(value.items()):
            try:
                members[key(name)] = inner(item)
            except Refused as refused:
                raise Refused(refused.what, f"[{place}]{refused.path}") from None
        return FrozenDict(members)

    tests = f"{test_of(key, 'k')} and {test_of(inner, 'v')}"
    check = _collection("dict", "FrozenDict", "k, v in given.items()", tests, slow)
    return _tested("{v} is EMPTY")(check)


@_tested("{v} is None or type({v}) in PLAIN")
def free(value: Any, depth: int = 0) -> Any:
    """A value of no fixed shape: None, bool, int, float, text, bytes, lists and mappings by text,
    and :class:`Foreign` values that only one format can spell."""
    if value is None or type(value) in (bool, int, float, str, bytes, Foreign):
        return value
    if depth >= MAX_DEPTH:
        raise Refused(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, list | tuple):
        return tuple(free(item, depth + 1) for item in value)
    if isinstance(value, Mapping):
        if not all(type(name) is str for name in value):
            raise Refused("expected a mapping by text")
        return FrozenDict({name: free(item, depth + 1) for name, item in value.items()})
    raise Refused(f"{kind_of(value)} cannot be kept")


extra = map_of(text, free)
