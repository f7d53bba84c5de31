"""The Erlang external term format: fidelity to real files, and safety against any bytes."""

from __future__ import annotations

import pickle
import random
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ratchetkeep.errors import DecodeError, InvalidValue
from ratchetkeep.formats import etf
from ratchetkeep.formats.etf import (
    Atom,
    BitString,
    ImproperList,
    Limits,
    Map,
    Opaque,
    Term,
    canonical,
    decode,
    encode,
)

GOLDEN = Path(__file__).parent.parent / "golden" / "baileysex"
OTP29 = GOLDEN / "native-otp29"
OTP25 = GOLDEN / "native-otp25"
FILES = sorted(path.name for path in OTP29.iterdir())
EXPECTED = (GOLDEN / "native.expected.txt").read_text("utf-8").splitlines()
MANIFEST = ".baileys_ex_native_file_persistence.etf"
ATOM = b"w\x01a"
ESCAPES = str.maketrans({"\a": r"\a", "\b": r"\b", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
"""How native.expected.txt shows the control characters that Elixir calls printable."""
PID = b"X" + ATOM + b"\x00" * 12


def load(name: str, folder: Path = OTP29) -> Any:
    return decode((folder / name).read_bytes())


def nested(depth: int, opening: bytes = b"h\x01", inside: bytes = b"j") -> bytes:
    return b"\x83" + opening * depth + inside


def a_map(*pairs: bytes) -> bytes:
    return b"t" + struct.pack(">I", len(pairs) // 2) + b"".join(pairs)


def fun(free: bytes = b"", count: int = 0, slip: int = 0) -> bytes:
    rest = b"\x01" + bytes(16) + bytes(4) + struct.pack(">I", count)
    rest += ATOM + b"a\x05" + b"b\x00\x00\x01\x00" + PID + free
    return b"p" + struct.pack(">I", len(rest) + 4 + slip) + rest


# The files of the real library.


def test_golden_files_are_there() -> None:
    """The golden tests would pass by looking at nothing."""
    assert len(FILES) == 65
    assert MANIFEST in FILES
    assert sorted(path.name for path in OTP25.iterdir()) == FILES


@pytest.mark.parametrize("name", FILES)
def test_otp29_files_come_back_byte_for_byte(name: str) -> None:
    """A record that is only copied would change on its way through us."""
    data = (OTP29 / name).read_bytes()
    assert encode(decode(data)) == data


@pytest.mark.parametrize("name", FILES)
def test_otp25_files_hold_the_same_terms(name: str) -> None:
    """A folder written by an older runtime (latin-1 atoms, map order) would read otherwise."""
    old, new = load(name, OTP25), load(name)
    assert canonical(old) == canonical(new)
    assert old == new


def inspect_key(key: Any) -> str:
    """The step of a path, as native.expected.txt writes it."""
    if isinstance(key, Atom):
        return f".:{key.name}" if re.fullmatch(r"\w+", key.name) else f'.:"{key.name}"'
    if isinstance(key, tuple):
        assert key == (Atom("tuple"), b"key")
        return '.<term {:tuple, "key"}>'
    return f".<{inspect_leaf(key)}>"


def inspect_leaf(value: Any) -> str:
    match value:
        case int():
            return f"int {value}"
        case float():
            return f"float {value!r}"
        case Atom("true" | "false" | "nil"):
            return f"atom {value.name}"
        case Atom():
            return f"atom :{value.name}"
        case BitString():
            whole = int.from_bytes(value.data, "big") >> (8 - value.bits)
            assert len(value.data) == 1
            return f"bits({value.bits}) <<{whole}::size({value.bits})>>"
        case ImproperList():
            return f"improper [{value.items[0]!r} | {value.tail!r}]"
        case bytes():
            text = value.decode("utf-8", "replace")
            text = text.translate(ESCAPES)
            if "\ufffd" not in text and text.isprintable():
                return f'str({len(value)}) "{text}"'
            return f"bin({len(value)}) 0x{value.hex()}"
    raise AssertionError(type(value))


def inspect(path: str, value: Any) -> Iterator[str]:
    """Every line that native.expected.txt must hold for a term."""
    children: list[tuple[str, Any]]
    if isinstance(value, Map):
        name = value.get(Atom("__struct__"))
        pairs = [(key, item) for key, item in value.items() if key != Atom("__struct__")]
        children = [(inspect_key(key), item) for key, item in pairs]
        if isinstance(name, Atom):
            head = f"struct {name.name.removeprefix('Elixir.')}"
        else:
            head = f"map({len(value)})" if value else "%{}"
    elif isinstance(value, list):
        head = f"list({len(value)})" if value else "[]"
        children = [(f"[{at}]", item) for at, item in enumerate(value)]
    elif isinstance(value, tuple):
        head = f"tuple({len(value)})"
        children = [(f"{{{at}}}", item) for at, item in enumerate(value)]
    else:
        head, children = inspect_leaf(value), []
    yield f"{path} = {head}"
    for step, item in children:
        yield from inspect(path + step, item)


def test_credentials_hold_what_the_real_library_reads() -> None:
    """A field, a nested value or its type would be read otherwise than by the real library."""
    want = [line for line in EXPECTED if re.match(r"creds( =|\.:)", line)]
    assert len(want) > 150
    assert sorted(inspect("creds", load("creds.etf"))) == sorted(want)


def test_records_hold_what_the_real_library_reads() -> None:
    """A Signal record would be read otherwise than by the real library."""
    want = [line for line in EXPECTED if line.startswith("key ")]
    # The real library was asked by more than one id where two ids share a file.
    keys = {match.groups() for line in want if (match := re.match(r'key (\S+) "([^"]*)"', line))}
    got: list[str] = []
    for family, key_id in keys:
        name = f"{family}-{key_id.replace('/', '__').replace(':', '-')}.etf"
        got += inspect(f'key {family} "{key_id}"', load(name))
    index = load(MANIFEST).get(b"key_index").items()
    assert {(family.decode(), key_id.decode()) for family, ids in index for key_id in ids} <= keys
    assert len(want) > 450
    assert sorted(got) == sorted(want)


def test_rare_terms_of_the_credentials() -> None:
    """A value would be wrong that the inspecting tests could hide by a mistake of their own."""
    extra = load("creds.etf").get(Atom("additional_data"))
    assert extra.get(Atom("charlist")) == [97, 98, 99]
    assert extra.get(Atom("big")) == 123456789012345678901234567890
    assert extra.get(Atom("neg_big")) == -9999999999999
    assert extra.get(Atom("improper")) == ImproperList((1,), 2)
    assert extra.get(Atom("bits")) == BitString(b"\xa0", 3)
    assert extra.get(Atom("float")) == 1.5e-10
    assert extra.get(Atom("атом-ü")) == Atom("ünïcode")
    assert extra.get((Atom("tuple"), b"key")) == b"tuple key"
    assert extra.get(17) == Atom("int_key")
    assert extra.get(17.0) is None


# Round trips.

SIGNS = st.sampled_from([1, -1])
atoms = st.text(st.characters(exclude_categories=["Cs"]), max_size=255).map(Atom)
leaves: st.SearchStrategy[Any] = st.one_of(
    st.integers(),
    st.builds(lambda size, sign: sign * (2 ** (8 * size) - 1), st.integers(250, 260), SIGNS),
    st.sampled_from([0, 255, 256, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**2040]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.binary(max_size=40),
    atoms,
    st.just([]),
    st.lists(st.integers(0, 255), max_size=300),
    st.tuples(st.binary(min_size=1, max_size=4), st.integers(1, 7)).map(
        lambda pair: BitString(pair[0][:-1] + bytes([pair[0][-1] & ~(0xFF >> pair[1])]), pair[1])
    ),
    st.sampled_from([PID, fun(), fun(b"j" + PID, 2), b"q" + ATOM + ATOM + b"a\x03"]).map(Opaque),
)


def unique(pairs: list[tuple[Any, Any]]) -> Map:
    return Map(tuple({canonical(key): (key, value) for key, value in pairs}.values()))


def no_list(term: Any) -> Any:
    return (term,) if isinstance(term, list | ImproperList) else term


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    items = st.lists(inner, max_size=5)
    return st.one_of(
        items,
        items.map(tuple),
        st.lists(st.tuples(inner, inner), max_size=5).map(unique),
        st.builds(
            ImproperList, st.lists(inner, min_size=1, max_size=3).map(tuple), inner.map(no_list)
        ),
    )


# Deferred for its short repr: Hypothesis prints the strategy of a test.
terms = st.deferred(lambda: st.recursive(leaves, containers, max_leaves=25))


@given(terms)
@settings(max_examples=300, deadline=None)
def test_any_term_survives(term: Term) -> None:
    """A term that a client may store would change, or be written in another way the second time."""
    data = encode(term)
    back = decode(data)
    assert encode(back) == data
    assert canonical(back) == canonical(term)
    assert type(back) is type(term)


@given(st.lists(st.tuples(terms, terms), max_size=5).map(unique), st.randoms())
@settings(max_examples=60, deadline=None)
def test_maps_are_equal_in_any_order(term: Map, chance: random.Random) -> None:
    """A map written by another runtime would count as changed; or lookup would miss a key."""
    pairs = list(term.items())
    chance.shuffle(pairs)
    other = Map(tuple(pairs))
    assert other == term
    assert hash(other) == hash(term)
    assert encode(other) == b"\x83t" + struct.pack(">I", len(pairs)) + b"".join(
        encode(part)[1:] for pair in pairs for part in pair
    )
    for key, value in pairs:
        assert key in term
        found = term.get(key)
        assert found is not None
        assert canonical(found) == canonical(value)


@pytest.mark.parametrize(
    "term",
    [
        tuple(range(300)),
        [b"x"] * 70_000,
        [7] * 65_535,
        [7] * 65_536,
        [7] * 65_536 + [1.5],
        Map(tuple((number, b"") for number in range(5_000))),
        2**2040 - 1,
        2**2040,
        -(2**100_000),
        Atom("ж" * 127),
        Atom("ж" * 128),
        Atom("🙂" * 255),
        Atom(""),
    ],
    ids=lambda term: type(term).__name__,
)
def test_wide_terms_survive(term: Term) -> None:
    """The boundary between two encodings of a kind of term would be off by one."""
    back = decode(encode(term))
    assert back == term
    assert encode(back) == encode(term)


@pytest.mark.parametrize(
    ("term", "data"),
    [
        (0, b"a\x00"),
        (255, b"a\xff"),
        (256, b"b\x00\x00\x01\x00"),
        (-1, b"b\xff\xff\xff\xff"),
        (2**31, b"n\x04\x00\x00\x00\x00\x80"),
        (-(2**31), b"b\x80\x00\x00\x00"),
        (-(2**31) - 1, b"n\x04\x01\x01\x00\x00\x80"),
        (2**2040 - 1, b"n\xff\x00" + b"\xff" * 255),
        (2**2040, b"o\x00\x00\x01\x00\x00" + bytes(255) + b"\x01"),
        (-0.0, b"F\x80" + bytes(7)),
        (Atom("é"), b"w\x02\xc3\xa9"),
        (Atom("é" * 128), b"v\x01\x00" + b"\xc3\xa9" * 128),
        ((), b"h\x00"),
        (tuple([0] * 256), b"i\x00\x00\x01\x00" + b"a\x00" * 256),
        ([], b"j"),
        ([0], b"k\x00\x01\x00"),
        ([7] * 65_536, b"l\x00\x01\x00\x00" + b"a\x07" * 65_536 + b"j"),
        ([1, 256], b"l\x00\x00\x00\x02a\x01b\x00\x00\x01\x00j"),
        (b"", b"m\x00\x00\x00\x00"),
        (BitString(b"\xff\x80", 1), b"M\x00\x00\x00\x02\x01\xff\x80"),
        (ImproperList((1,), 2), b"l\x00\x00\x00\x01a\x01a\x02"),
        (Map(((b"k", []),)), b"t\x00\x00\x00\x01m\x00\x00\x00\x01kj"),
        (Opaque(PID), PID),
    ],
    ids=lambda value: type(value).__name__,
)
def test_encoding_is_that_of_the_runtime(term: Term, data: bytes) -> None:
    """Files would differ from what term_to_binary/1 writes for the same term."""
    assert encode(term) == b"\x83" + data
    assert canonical(decode(b"\x83" + data)) == canonical(term)


# Tags that older runtimes wrote, and the opaque ones.


@pytest.mark.parametrize(
    ("data", "term"),
    [
        (b"d\x00\x01\xe9", Atom("é")),
        (b"s\x01\xe9", Atom("é")),
        (b"v\x00\x02\xc3\xa9", Atom("é")),
        (b"c" + b"%-31s" % b"1.50000000000000000000e+00".ljust(31, b"\x00"), 1.5),
        (b"c" + b"-2.5e-3".ljust(31, b"\x00"), -0.0025),
        (b"l\x00\x00\x00\x02a\x01a\x02j", [1, 2]),
        (b"l\x00\x00\x00\x01a\x01k\x00\x01\x02", [1, 2]),
        (b"l\x00\x00\x00\x01a\x01l\x00\x00\x00\x00l\x00\x00\x00\x01a\x02j", [1, 2]),
        (b"l\x00\x00\x00\x01a\x01l\x00\x00\x00\x01a\x02a\x03", ImproperList((1, 2), 3)),
        (b"l\x00\x00\x00\x00j", []),
        (b"l\x00\x00\x00\x00a\x03", 3),
        (b"k\x00\x00", []),
        (b"i\x00\x00\x00\x01a\x01", (1,)),
        (b"n\x01\x00\x05", 5),
        (b"n\x00\x01", 0),
        (b"n\x01\x01\x00", 0),
        (b"o\x00\x00\x00\x02\x01\x05\x00", -5),
        (b"b\x00\x00\x00\x05", 5),
        (b"M\x00\x00\x00\x01\x08x", b"x"),
        (b"M\x00\x00\x00\x01\x03\xbf", BitString(b"\xa0", 3)),
        (a_map(b"a\x02", b"j", b"a\x01", b"j"), Map(((1, []), (2, [])))),
    ],
)
def test_other_spellings_are_read(data: bytes, term: Term) -> None:
    """A file of an older runtime or another encoder would be called damaged, or read as another."""
    got = decode(b"\x83" + data)
    assert canonical(got) == canonical(term)
    squeezed = b"\x83P" + struct.pack(">I", len(data)) + zlib.compress(data)
    assert canonical(decode(squeezed)) == canonical(term)


OPAQUE = {
    "NEW_PID": PID,
    "PID": b"g" + ATOM + bytes(9),
    "PID latin-1 node": b"gd\x00\x01\xe9" + bytes(9),
    "NEW_PORT": b"Y" + ATOM + bytes(8),
    "PORT": b"f" + ATOM + bytes(5),
    "V4_PORT": b"x" + ATOM + bytes(12),
    "REFERENCE": b"e" + ATOM + bytes(5),
    "NEW_REFERENCE": b"r\x00\x03" + ATOM + bytes(13),
    "NEWER_REFERENCE": b"Z\x00\x05" + ATOM + bytes(24),
    "EXPORT": b"q" + ATOM + ATOM + b"a\x02",
    "NEW_FUN": fun(),
    "NEW_FUN free": fun(b"l\x00\x00\x00\x01a\x01a\x02" + fun(b"h\x01j", 1), 2),
    "FUN": b"u\x00\x00\x00\x01" + PID + ATOM + b"a\x01" + b"a\x02" + b"h\x01j",
}


@pytest.mark.parametrize("data", OPAQUE.values(), ids=OPAQUE.keys())
def test_opaque_terms_pass_untouched(data: bytes) -> None:
    """A pid, port, reference or fun inside the credentials would be changed or lost."""
    assert decode(b"\x83" + data) == Opaque(data)
    inside = b"\x83h\x03a\x01" + data + a_map(data, data)
    assert encode(decode(inside)) == inside
    squeezed = b"\x83P" + struct.pack(">I", len(data)) + zlib.compress(data)
    assert decode(squeezed) == Opaque(data)
    for cut in range(1, len(data)):
        with pytest.raises(DecodeError):
            decode(b"\x83" + data[:cut])


# Nothing but a term or DecodeError.


def only_term_or_decode_error(data: bytes) -> None:
    try:
        term = decode(data)
    except DecodeError as error:
        assert error.place == ""
        assert error.what
        assert error.remedy
        assert error.__context__ is None, "a chained error may hold the data"
    else:
        written = encode(term)
        assert encode(decode(written)) == written


@given(st.binary(max_size=200))
@example(b"")
@example(b"\x83")
@settings(max_examples=400, deadline=None)
def test_arbitrary_bytes(data: bytes) -> None:
    """Damage in a file would surface as some other exception than the one that stores catch."""
    only_term_or_decode_error(data)
    only_term_or_decode_error(b"\x83" + data)
    squeezed = zlib.compress(data)
    only_term_or_decode_error(b"\x83P" + struct.pack(">I", len(data)) + squeezed)


TAGS = bytes([70, 77, 80, 82, 88, 89, 90, *range(97, 122)])


@given(
    st.lists(st.one_of(st.sampled_from(TAGS), st.sampled_from(b"\x00\x01\x02\x05")), max_size=90)
)
@settings(max_examples=600, deadline=None)
def test_bytes_that_look_like_terms(data: list[int]) -> None:
    """A combination of tags and small counts would get past the checks of one of them."""
    only_term_or_decode_error(b"\x83" + bytes(data))


def test_mutated_files() -> None:
    """Bit rot in a real file would surface as another exception."""
    chance = random.Random(20240229)
    files = [(OTP29 / name).read_bytes() for name in FILES]
    files += [(OTP25 / name).read_bytes() for name in FILES]
    for _ in range(3_000):
        data = bytearray(chance.choice(files))
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data))
            match chance.randrange(4):
                case 0:
                    data[at] = chance.randrange(256)
                case 1:
                    data[at] ^= 1 << chance.randrange(8)
                case 2:
                    data[at] = chance.choice(TAGS)
                case _:
                    del data[at : at + chance.randint(1, 8)]
            data = data or bytearray(b"\x83")
        only_term_or_decode_error(bytes(data))


@pytest.mark.parametrize("name", ["creds.etf", "session-15550001111.0.etf", MANIFEST])
def test_truncated_at_every_length(name: str) -> None:
    """A torn write would be taken for a whole file."""
    data = (OTP29 / name).read_bytes()
    for cut in range(len(data)):
        with pytest.raises(DecodeError):
            decode(data[:cut])
    with pytest.raises(DecodeError, match="follow"):
        decode(data + b"\x00")


def squeeze(data: bytes, size: int | None = None, after: bytes = b"") -> bytes:
    stated = len(data) if size is None else size
    return b"\x83P" + struct.pack(">I", stated) + zlib.compress(data, 9) + after


HUGE = b"\xff\xff\xff\xff"
BOMB = b"m" + struct.pack(">I", 80_000_000) + bytes(80_000_000)
HOSTILE = {
    "empty": (b"", "empty"),
    "version": (b"\x82a\x01", "131"),
    "only the version": (b"\x83", "cut short"),
    "trailing": (b"\x83a\x01j", "follow"),
    "unknown tag": (b"\x83\x00", "tag 0"),
    "cache reference": (b"\x83R\x00", "atom cache"),
    "cache reference as node": (b"\x83XR\x00" + bytes(12), "atom cache"),
    "local": (b"\x83y" + bytes(20), "only the runtime"),
    "compressed inside": (b"\x83h\x01P" + bytes(9), "tag 80"),
    "huge tuple": (b"\x83i" + HUGE, "cut short"),
    "huge list": (b"\x83l" + HUGE, "cut short"),
    "huge list tail": (b"\x83l\x00\x00\x00\x01jl" + HUGE, "cut short"),
    "huge map": (b"\x83t" + HUGE, "cut short"),
    "huge binary": (b"\x83m" + HUGE, "cut short"),
    "huge bitstring": (b"\x83M" + HUGE + b"\x01", "cut short"),
    "huge integer": (b"\x83o" + HUGE + b"\x00", "cut short"),
    "huge fun": (b"\x83p" + HUGE + bytes(21) + HUGE, "cut short"),
    "huge old fun": (b"\x83u" + HUGE, "cut short"),
    "list with no room for its tail": (b"\x83l\x00\x00\x00\x02jj", "cut short"),
    "map with half a pair": (b"\x83t\x00\x00\x00\x02jja\x01", "cut short"),
    "sign": (b"\x83n\x01\x02\x01", "sign"),
    "NaN": (b"\x83F\x7f\xf8" + bytes(6), "finite"),
    "infinity": (b"\x83F\xff\xf0" + bytes(6), "finite"),
    "text infinity": (b"\x83c" + b"1.0e999".ljust(31, b"\x00"), "finite"),
    "text nan": (b"\x83c" + b"nan".ljust(31, b"\x00"), "no number"),
    "text with underscore": (b"\x83c" + b"1_0.0".ljust(31, b"\x00"), "no number"),
    "text with rubbish after": (b"\x83c" + b"1.0\x00x".ljust(31, b"\x00"), "no number"),
    "atom not UTF-8": (b"\x83w\x01\xff", "UTF-8"),
    "atom with a surrogate": (b"\x83w\x03\xed\xa0\x80", "UTF-8"),
    "atom too long": (b"\x83v\x01\x00" + b"a" * 256, "255"),
    "latin-1 atom too long": (b"\x83d\x01\x00" + b"a" * 256, "255"),
    "bits 0": (b"\x83M\x00\x00\x00\x01\x00x", "bitstring"),
    "bits 9": (b"\x83M\x00\x00\x00\x01\x09x", "bitstring"),
    "bits of nothing": (b"\x83M\x00\x00\x00\x00\x01", "bitstring"),
    "reference of no words": (b"\x83Z\x00\x00" + ATOM + bytes(4), "words"),
    "reference of six words": (b"\x83Z\x00\x06" + ATOM + bytes(28), "words"),
    "node is no atom": (b"\x83Xa\x01" + bytes(12), "tag 97"),
    "export's arity is no byte": (b"\x83q" + ATOM + ATOM + b"b\x00\x00\x00\x01", "tag 98"),
    "fun is longer than it says": (b"\x83" + fun(slip=-1), "size of a fun"),
    "fun is shorter than it says": (b"\x83" + fun(slip=1), "size of a fun"),
    "fun without pid": (b"\x83" + fun().replace(PID, ATOM), "tag 119"),
    "duplicate integer": (b"\x83" + a_map(b"a\x01", b"j", b"a\x01", b"j"), "twice"),
    "duplicate, spelt otherwise": (
        b"\x83" + a_map(b"a\x01", b"j", b"n\x01\x00\x01", b"j"),
        "twice",
    ),
    "duplicate atom": (b"\x83" + a_map(b"d\x00\x01a", b"j", b"w\x01a", b"j"), "twice"),
    "duplicate list": (
        b"\x83" + a_map(b"k\x00\x01a", b"j", b"l\x00\x00\x00\x01aaj", b"j"),
        "twice",
    ),
    "duplicate map": (
        b"\x83" + a_map(a_map(b"j", b"j", ATOM, b"j"), b"j", a_map(ATOM, b"j", b"j", b"j"), b"j"),
        "twice",
    ),
    "duplicate in a fun": (b"\x83" + fun(a_map(b"j", b"j", b"j", b"j"), 1), "twice"),
    "nested tuples": (nested(1_000_000), "deep"),
    "nested lists": (nested(1_000_000, b"l\x00\x00\x00\x01"), "cut short|deep"),
    "nested maps": (nested(1_000_000, b"t\x00\x00\x00\x01j"), "cut short|deep"),
    "nested keys": (nested(1_000_000, b"t\x00\x00\x00\x01"), "cut short|deep"),
    "nested funs": (nested(1_000_000, fun(count=1)), "deep"),
    "zlib bomb": (squeeze(BOMB), "over the limit"),
    "zlib bomb that lies": (squeeze(BOMB, 100), "inflate"),
    "zlib too short": (squeeze(b"j", 2), "inflate"),
    "zlib too long": (squeeze(b"jj", 1), "inflate"),
    "zlib trailing": (squeeze(b"j", after=b"x"), "inflate"),
    "zlib cut": (squeeze(b"j")[:-1], "inflate"),
    "zlib damaged": (b"\x83P\x00\x00\x00\x01rubbish", "inflate"),
    "zlib of nothing": (squeeze(b""), "cut short"),
    "zlib in zlib": (squeeze(squeeze(b"j")[1:]), "tag 80"),
    "zlib header": (b"\x83P\x00\x00", "cut short"),
    "zlib trailing term": (squeeze(b"jj"), "follow"),
}


@pytest.mark.parametrize(("data", "what"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_input_is_refused(data: bytes, what: str) -> None:
    """Damaged or made-up bytes would be believed, or would cost memory, time or a crash."""
    with pytest.raises(DecodeError, match=what) as caught:
        decode(data)
    assert caught.value.__context__ is None
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("data", "limits", "what"),
    [
        (b"\x83" + bytes(100), Limits(size=50), "over the limit of 50"),
        (squeeze(b"m\x00\x00\x00\x64" + bytes(100)), Limits(size=50), "over the limit of 50"),
        (nested(4), Limits(depth=3), "over 3 deep"),
        (b"\x83h\x03jjj", Limits(terms=3), "over 3 terms"),
    ],
)
def test_limits_are_kept(data: bytes, limits: Limits, what: str) -> None:
    """A caller's own limit would not be kept."""
    with pytest.raises(DecodeError, match=what):
        decode(data, limits=limits)


def test_depth_at_the_limit() -> None:
    """The depth that can be written would not be the depth that can be read."""
    deep = decode(nested(256))
    assert encode(deep) == nested(256)
    with pytest.raises(DecodeError, match="deep"):
        decode(nested(257))
    with pytest.raises(InvalidValue, match="deep"):
        encode((deep,))
    far = nested(10_000)
    assert encode(decode(far, limits=Limits(depth=10_000)), limits=Limits(depth=10_000)) == far


@pytest.mark.parametrize(
    "body",
    [
        # Integers whose Python hashes are all the same: a dict keyed by them would be quadratic.
        a_map(
            *(
                part
                for number in range(1, 20_001)
                for part in (encode(number * (2**61 - 1))[1:], b"j")
            )
        ),
        # A large key inside a key, inside a key ...: each level would be copied.
        b"t\x00\x00\x00\x01" * 200 + b"m\x00\x40\x00\x00" + bytes(4 << 20) + b"j" * 200,
        b"o\x01\x00\x00\x00\x00" + b"\xff" * (1 << 24),
        b"l\x00\x00\x00\x01j" * 200_000 + b"j",
        b"i\x00\x06\x1a\x80" + b"j" * 400_000,
    ],
    ids=["colliding keys", "keys in keys", "big integer", "chained lists", "many empty lists"],
)
def test_time_stays_linear(body: bytes) -> None:
    """A small file made on purpose would hold the process up for minutes: the run times out."""
    only_term_or_decode_error(b"\x83" + body)


def test_nested_funs_are_copied_in_bounds() -> None:
    """Funs within funs would be copied once for every level."""
    data = b"m" + struct.pack(">I", 1 << 20) + bytes(1 << 20)
    for _ in range(100):
        data = fun(data, 1)
    with pytest.raises(DecodeError, match="in one another"):
        decode(b"\x83" + data)


def test_modest_nesting_of_keys_and_funs_is_read() -> None:
    """The bound on copies would refuse a term that a real program may write."""
    key, free = b"j", b"j"
    for _ in range(200):
        key, free = a_map(key, b"j"), fun(free, 1)
    for data in (key, free):
        assert encode(decode(b"\x83" + data)) == b"\x83" + data


def test_keys_are_compared_as_erlang_does() -> None:
    """1 and 1.0 are two keys in Erlang and would be one here, or the other way round."""
    data = b"\x83" + a_map(
        b"a\x01", b"j", encode(1.0)[1:], b"a\x01", encode(Atom("true"))[1:], b"j"
    )
    term = decode(data)
    assert isinstance(term, Map)
    assert (len(term), term.get(1), term.get(1.0)) == (3, [], 1)
    assert encode(term) == data
    assert list(term) == [1, 1.0, Atom("true")]
    assert 2 not in term
    assert term.get(2) is None
    assert Map(((1, 0),)) != Map(((1.0, 0),))
    assert Map(((0, 1),)) != Map(((0, 1.0),))
    assert Map(((0, (1,)),)) != Map(((0, (1.0,)),))
    assert ImproperList((1,), 2) != ImproperList((1,), 2.0)
    assert Map(()) != ()


# Values from the caller.


@pytest.mark.parametrize(
    "value",
    [True, None, "text", {1: 2}, {1}, 1j, bytearray(b"x"), float("nan"), float("-inf"), object()],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_term_is_refused(value: Any) -> None:
    """A Python value with no meaning in Erlang would be written as something it is not."""
    for term in (value, [value], (1, [value])):
        with pytest.raises(InvalidValue) as caught:
            encode(term)
        assert "text" not in caught.value.what
        with pytest.raises(InvalidValue):
            canonical(term)
    with pytest.raises(InvalidValue):
        Map(((value, 1),))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Atom(1),  # type: ignore[arg-type]
        lambda: Atom("a" * 256),
        lambda: Atom("\ud800"),
        lambda: BitString(b"", 1),
        lambda: BitString(b"\x80", 0),
        lambda: BitString(b"\x80", 8),
        lambda: BitString(b"\x80", True),
        lambda: BitString(b"\xff", 1),
        lambda: ImproperList((), 1),
        lambda: ImproperList((1,), []),
        lambda: ImproperList((1,), ImproperList((1,), 2)),
        lambda: ImproperList((1,), True),
        lambda: ImproperList([1], 2),  # type: ignore[arg-type]
        lambda: Opaque(b""),
        lambda: Opaque(b"a\x01"),
        lambda: Map(((1, 1), (1, 2))),
        lambda: Map(((1, None),)),  # type: ignore[arg-type]
        lambda: Map([(1, 1)]),  # type: ignore[arg-type]
        lambda: Map(((1,),)),  # type: ignore[arg-type]
        lambda: Map(()).get("text"),  # type: ignore[arg-type]
        lambda: Limits(depth=10_001),
        lambda: Limits(size=0),
    ],
)
def test_impossible_terms_cannot_be_made(make: Any) -> None:
    """A term that Erlang has no place for would be found out only by its reader."""
    with pytest.raises(InvalidValue):
        make()


def test_what_cannot_be_read_back_is_not_written() -> None:
    """A file would be written that decode refuses by its limits."""
    with pytest.raises(InvalidValue, match="limit"):
        encode(b"x" * 100, limits=Limits(size=100))
    with pytest.raises(InvalidValue, match="over 3 terms"):
        encode((1, 2, 3), limits=Limits(terms=3))
    endless: list[Any] = []
    endless.append(endless)
    for write in (encode, canonical):
        with pytest.raises(InvalidValue, match="deep"):
            write(endless)


@pytest.mark.parametrize(
    "term",
    [
        Opaque(PID.replace(ATOM, b"w\x06secret")),
        BitString(b"secret\x80", 1),
        ImproperList((b"secret",), b"secret"),
        Map(((b"secret", b"secret"),)),
    ],
    ids=repr,
)
def test_repr_shows_no_content(term: Term) -> None:
    """Key material would get into logs through the repr of a term."""
    assert "secret" not in repr(term)
    assert "secret" not in str(term)


def test_errors_show_no_content() -> None:
    """Key material would get into logs through the message of an error, or its attributes."""
    secret = b"topsecret"
    for data in (
        b"\x83w\x0a" + secret + b"\xff",
        b"\x83d\x01\x08" + secret * 30,
        b"\x83" + a_map(*[b"m\x00\x00\x00\x09" + secret] * 4),
        b"\x83P\x00\x00\x00\x09" + secret,
        b"\x83c" + secret.ljust(31),
        b"\x83h\x02m\x00\x00\x00\x09" + secret,
    ):
        with pytest.raises(DecodeError) as caught:
            decode(data)
        assert "secret" not in f"{caught.value!r} {caught.value} {caught.value.__context__!r}"


def test_terms_cannot_be_changed() -> None:
    """A term shared by two holders would change under one of them."""
    atom, term = Atom("a"), Map(((1, 2),))
    with pytest.raises(AttributeError):
        atom.name = "b"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        term.pairs = ()  # type: ignore[misc]
    assert len({atom, term, Atom("a"), Map(((1, 2),))}) == 2
    assert pickle.loads(pickle.dumps(term)) == term


def test_atoms_are_no_text() -> None:
    """An atom would be taken for a binary or a text, and be written back as one."""
    assert not isinstance(Atom("true"), str)
    assert decode(b"\x83w\x04true") == Atom("true")
    assert decode(b"\x83w\x03nil") == Atom("nil")
    assert canonical(Atom("a")) != canonical(b"a")


def test_bytes_like_input_gives_bytes() -> None:
    """A buffer that is used again would change the terms that were read from it."""
    data = bytearray(b"\x83m\x00\x00\x00\x01x")
    term = decode(data)  # type: ignore[arg-type]
    data[-1] = 0
    assert term == b"x"
    assert type(term) is bytes


def test_public_names() -> None:
    """A name that callers import would be missing."""
    data = {"Atom", "BitString", "ImproperList", "Map", "Opaque", "Term"}
    assert set(etf.__all__) == data | {"DEFAULT_LIMITS", "Limits", "canonical", "decode", "encode"}
    assert all(hasattr(etf, name) for name in etf.__all__)
