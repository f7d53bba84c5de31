"""Every decoder takes any bytes: a value, or an error of ours, in bounded memory and depth.

The corpus (``fuzz_corpus/<decoder>/<hash>``) is what a longer loop found worth keeping: small
inputs that between them reach the most lines and errors. It is replayed by every run. To grow it::

    python tests/test_fuzz.py grow --minutes 4

which mutates the golden files and the corpus, and writes the corpus anew. An input that brings up
an error that is not ours is printed and stays in the corpus: the tests fail until it is mended.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import sys
import tempfile
import time
import tracemalloc
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import msgpack

from _helpers import (
    ALICE,
    COMPAT,
    COMPAT_MANIFEST,
    FAMILY_FILES,
    LEGACY,
    MANIFEST,
    OTP29,
    key_of,
    records,
)
from ratchetkeep import RatchetkeepError
from ratchetkeep.formats import baileys, baileys6, baileysex, baileysex_json, etf, native
from ratchetkeep.model import Key
from ratchetkeep.stores import journal, urls
from ratchetkeep.stores._address_book import read_book
from ratchetkeep.stores._json_manifest import read_json_manifest
from ratchetkeep.stores.disk import Disk
from ratchetkeep.stores.layouts import read_manifest, write_manifest

CORPUS = Path(__file__).parent / "fuzz_corpus"
MAX_FILE, MAX_FILES = 2048, 80
KEYS = [key_of(ALICE / name) for name in FAMILY_FILES.values()]
GENERATION = bytes(range(16))


class Bytes(Disk):
    """A disk on which every file holds the same bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read_large(self, path: str) -> bytes:
        return self.data


# Each decoder as a function of bytes. The first byte says which record it is, and whether a
# checksum is put right first: else no input would ever get past it.


def _chosen(data: bytes) -> tuple[Key, bool, bytes]:
    choice = data[0] if data else 0
    return KEYS[choice % 16 % len(KEYS)], bool(choice & 0x80), data[1:]


def run_baileys(data: bytes) -> None:
    key, _, raw = _chosen(data)
    _stable(baileys, key, raw)


def run_baileys6(data: bytes) -> None:
    key, _, raw = _chosen(data)
    _stable(baileys6, key, raw)


def run_baileysex(data: bytes) -> None:
    key, _, raw = _chosen(data)
    _stable(baileysex, key, raw)


def run_baileysex_json(data: bytes) -> None:
    key, _, raw = _chosen(data)
    _stable(baileysex_json, key, raw)


def run_native(data: bytes) -> None:
    key, sealed, raw = _chosen(data)
    if sealed:
        flags, payload = raw[:1] or b"\0", raw[1:]
        check = native._checksum(1, flags[0], key, payload)
        raw = b"RK\x01" + flags + check + payload
    _stable(native, key, raw)


def _stable(format: Any, key: Key, raw: bytes) -> None:
    """What is read is written and read again as the same value."""
    value = format.decode(key, raw)
    encoded = format.encode(key, value)
    if encoded.data is not None and not encoded.losses:
        again = format.encode(key, format.decode(key, encoded.data)).data
        assert again == encoded.data, "the value is not stable"


def run_etf(data: bytes) -> None:
    term = etf.decode(data)
    assert etf.encode(etf.decode(etf.encode(term))) == etf.encode(term)


def run_addresses(data: bytes) -> None:
    book = read_book(data, "place")
    assert read_book(book.written(), "place").written() == book.written()


def run_manifest(data: bytes) -> None:
    ids = read_json_manifest(data) if data[:1] == b"{" else read_manifest(data)
    assert all(type(id) is str for family in ids for id in ids[family])


def run_journal(data: bytes) -> None:
    if data[:1] == b"\x01":  # one whole frame around anything
        data = journal._header(GENERATION) + journal._frame(GENERATION, 0, data[1:])
    for commit in journal.Journal(Bytes(data), "/journal").read():
        assert all(type(name) is str for name, _ in commit)


def run_urls(data: bytes) -> None:
    # A path outside of the test's own folder would be looked at, whatever it is.
    text = os.fsdecode(data).lstrip("/").replace("..", "__")
    target = urls.parse(text)
    assert target.kind in urls.KINDS
    urls.shown(target).encode()


TARGETS: dict[str, Callable[[bytes], None]] = {
    "etf": run_etf,
    "baileys": run_baileys,
    "baileys6": run_baileys6,
    "baileysex": run_baileysex,
    "baileysex-json": run_baileysex_json,
    "native": run_native,
    "journal": run_journal,
    "manifest": run_manifest,
    "addresses": run_addresses,
    "urls": run_urls,
}


def attempt(decoder: str, data: bytes) -> str:
    """Run it; the error in words without its numbers, or "". Other errors come through."""
    try:
        TARGETS[decoder](data)
    except RatchetkeepError as error:
        str(error).encode()
        what = re.sub(r"'.*'|\".*\"|[0-9]+", "N", error.what)
        return f"{type(error).__name__} {what[:60]}"
    return ""


# Where mutations start from.


@cache
def seeds(decoder: str) -> list[bytes]:
    """Sound inputs."""
    return [data for data in _SEEDS[decoder]() if len(data) < 20_000]


def _of_format(folder: Path, suffix: str) -> list[bytes]:
    first: dict[int, bytes] = {}
    for path in sorted(records(folder), key=lambda path: path.stat().st_size):
        families = [key.family for key in KEYS]
        if path.suffix == suffix:
            choice = families.index(key_of(path).family)
            first.setdefault(choice, bytes([choice]) + path.read_bytes())
    return list(first.values())


def _native() -> list[bytes]:
    made = []
    for choice, (key, name) in enumerate(zip(KEYS, FAMILY_FILES.values(), strict=True)):
        value = baileys.decode(key, (ALICE / name).read_bytes())
        raw = native.encode(key, value).data
        assert raw is not None
        made += [bytes([choice]) + raw, bytes([choice | 0x80]) + raw[3:4] + raw[native.HEADER :]]
    return made


def _journal() -> list[bytes]:
    payloads = [msgpack.encode([(f"name-{n}.json", b"{}"), ("gone.json", None)]) for n in range(3)]
    frames = [journal._frame(GENERATION, n, payload) for n, payload in enumerate(payloads)]
    header = journal._header(GENERATION)
    whole = [header + b"".join(frames[:n]) for n in range(4)]
    return [*whole, b"\x01" + payloads[0], header + frames[0] + frames[2], bytes(64)]


_SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "etf": lambda: [path.read_bytes() for path in records(OTP29)[:40]],
    "baileys": lambda: _of_format(ALICE, ".json"),
    "baileys6": lambda: _of_format(LEGACY / "alice", ".json"),
    "baileysex": lambda: _of_format(OTP29, ".etf"),
    "baileysex-json": lambda: _of_format(COMPAT, ".json"),
    "native": _native,
    "journal": _journal,
    "manifest": lambda: [
        (OTP29 / MANIFEST).read_bytes(),
        (COMPAT / COMPAT_MANIFEST).read_bytes(),
        write_manifest({"session": ["1.0"], "pre-key": ["1", "2"]}),
        write_manifest({}),
    ],
    "addresses": lambda: [
        b'{"format":"ratchetkeep-addresses","version":1,"ids":%b,"phones":%b}' % parts
        for parts in [
            (b"{}", b"[]"),
            (b'{"session":["9_1.0","8_128.99"],"sender-key":["1@g.us::9_1::0"]}', b'["7"]'),
        ]
    ],
    "urls": lambda: [
        b"sqlite:a.db?device=x%20y",
        b"baileys:dir",
        b"baileysex://dir",
        b"memory:",
        b"a.db",
        b"postgres://user:secret@host/name",
    ],
}
WORDS = [b"", b"\0", b"\xff" * 4, b"\x7f\xff\xff\xff", b"null", b"[[[[", b'{"', b"m\0\0", b"\x83P"]
WORDS += [b"1e999", b"-1", b'"type":"Buffer"', b"\xed\xa0\x80", b"l\xff\xff\xff\xff", b"\xc9\xff"]


def edited(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """``data`` with parts replaced: (where, how many bytes go, what comes)."""
    for where, gone, new in edits:
        at = where % (len(data) + 1)
        data = data[:at] + new + data[at + gone :]
    return data


EDITS = st.lists(
    st.tuples(
        st.integers(0, 1 << 16),
        st.integers(0, 8),
        st.one_of(st.sampled_from(WORDS), st.binary(max_size=6)),
    ),
    max_size=5,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=8) | st.sampled_from(["type", "data"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)
TERM = st.recursive(
    st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple),
    max_leaves=12,
)
FIRST = st.integers(0, 255).map(lambda number: bytes([number]))
STRUCTURED: dict[str, st.SearchStrategy[bytes]] = {
    "etf": TERM.map(etf.encode),
    "baileys": st.builds(lambda first, value: first + json.dumps(value).encode(), FIRST, JSON),
    "baileys6": st.builds(lambda first, value: first + json.dumps(value).encode(), FIRST, JSON),
    "addresses": st.fixed_dictionaries(
        {
            "format": st.just("ratchetkeep-addresses"),
            "version": st.integers(0, 2),
            "ids": JSON | st.dictionaries(st.sampled_from(["session", "sender-key"]), JSON),
            "phones": JSON,
        }
    ).map(lambda said: json.dumps(said).encode()),
    "baileysex-json": st.builds(
        lambda first, value: first + json.dumps(value).encode(), FIRST, JSON
    ),
    "baileysex": st.builds(lambda first, term: first + etf.encode(term), FIRST, TERM),
    "native": st.builds(
        lambda first, flags, value: first + bytes([flags]) + msgpack.encode(value),
        FIRST.map(lambda first: bytes([first[0] | 0x80])),
        st.integers(0, 3),
        st.recursive(
            st.none() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=40) | st.text(),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner),
            max_leaves=12,
        ),
    ),
    "journal": st.lists(st.tuples(st.text(max_size=9), st.none() | st.binary(max_size=9))).map(
        lambda entries: b"\x01" + msgpack.encode(entries)
    ),
    "manifest": st.dictionaries(st.text(max_size=9), st.lists(st.text(max_size=9))).map(
        write_manifest
    ),
    "urls": st.builds(
        lambda kind, rest: f"{kind}:{rest}".encode(),
        st.sampled_from([*urls.KINDS, "postgres", "", "file"]),
        st.text(),
    ),
}

QUICK = settings(
    max_examples=120,
    deadline=None,
    database=None,
    derandomize=True,  # the loop below looks for what is new
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("decoder", TARGETS)
def test_damaged_inputs_bring_up_no_stray_error(decoder: str) -> None:
    """A damaged file would stop the program with an error that names no place."""

    @QUICK
    @given(st.sampled_from(seeds(decoder)), EDITS)
    def damaged(seed: bytes, edits: list[tuple[int, int, bytes]]) -> None:
        attempt(decoder, edited(seed, edits))

    damaged()


@pytest.mark.parametrize("decoder", TARGETS)
def test_arbitrary_bytes_bring_up_no_stray_error(decoder: str) -> None:
    """A file of garbage would stop the program with an error that names no place."""

    @QUICK
    @given(st.binary(max_size=200))
    def arbitrary(data: bytes) -> None:
        attempt(decoder, data)

    arbitrary()


@pytest.mark.parametrize("decoder", TARGETS)
def test_well_formed_inputs_bring_up_no_stray_error(decoder: str) -> None:
    """A sound file that holds something else would stop the program with a stray error."""

    @QUICK
    @given(STRUCTURED[decoder])
    def structured(data: bytes) -> None:
        attempt(decoder, data)

    structured()


@pytest.mark.parametrize("decoder", TARGETS)
def test_sound_inputs_are_read(decoder: str) -> None:
    """The fuzzing would start from inputs that are refused at once, and reach nothing."""
    outcomes = [attempt(decoder, seed) for seed in seeds(decoder)]
    assert outcomes.count("") >= max(1, len(outcomes) // 2), outcomes


@pytest.mark.parametrize("decoder", TARGETS)
def test_the_corpus_brings_up_no_stray_error(decoder: str) -> None:
    """An input that once reached something rare would now stop the program."""
    files = sorted((CORPUS / decoder).iterdir())
    assert files
    for path in files:
        data = path.read_bytes()
        assert len(data) < MAX_FILE and path.name == name_of(data)
        attempt(decoder, data)
    assert len(list(CORPUS.rglob("*"))) <= MAX_FILES + len(TARGETS)


# Memory and depth.

DEEP = 200_000
BOMBS: dict[str, tuple[str, bytes]] = {
    "brackets": ("baileys", b"\x01" + b"[" * DEEP),
    "braces": ("baileys", b"\x01" + b'{"a":' * DEEP),
    "digits": ("baileys", b"\x01" + b"9" * DEEP),
    "terms within terms": ("etf", b"\x83" + b"h\x01" * DEEP),
    "lists as tails": ("etf", b"\x83" + b"l\0\0\0\1a\1" * DEEP),
    "a list of billions": ("etf", b"\x83l\xff\xff\xff\xffj"),
    "a map of billions": ("etf", b"\x83t\xff\xff\xff\xff"),
    "a tuple of billions": ("etf", b"\x83i\xff\xff\xff\xff"),
    "a binary of gigabytes": ("etf", b"\x83m\xff\xff\xff\xff"),
    "a number of gigabytes": ("etf", b"\x83o\xff\xff\xff\xff\0"),
    "inflates to more than it says": ("etf", b"\x83P\0\0\0\x09" + zlib.compress(bytes(10**7))),
    "says that it inflates to gigabytes": ("etf", b"\x83P\xff\xff\xff\xff" + zlib.compress(b"")),
    "objects in a record": ("baileysex-json", b"\x01" + b'{"a":' * DEEP),
    "tuples in a record": ("baileysex-json", b"\x01" + b'{"__type__":"tuple","items":[' * DEEP),
    "term in a record": ("baileysex", b"\x01\x83" + b"h\x01" * DEEP),
    "term as a manifest": ("manifest", b"\x83" + b"h\x01" * DEEP),
    "arrays": ("native", b"\x81\0" + b"\x91" * DEEP),
    "arrays with extensions": ("native", b"\x80\x01" + b"\x81\xa1a" * DEEP),
    "an array of billions": ("native", b"\x81\0" + b"\xdd\xff\xff\xff\xff"),
    "bytes of gigabytes": ("native", b"\x81\0" + b"\xc6\xff\xff\xff\xff"),
    "a commit of arrays": ("journal", b"\x01" + b"\x91" * DEEP),
    "a commit of billions": ("journal", b"\x01\xdd\xff\xff\xff\xff"),
    "a commit of gigabytes": (
        "journal",
        journal._header(GENERATION) + GENERATION + bytes(8) + b"\xff" * 4 + bytes(16),
    ),
    "generations without end": ("journal", journal._header(GENERATION) + GENERATION * 10_000),
    "a long path": ("urls", b"sqlite:" + b"a/" * DEEP),
    "a long query": ("urls", b"sqlite:a?" + b"device=a&" * 500),
}


# The rest of a frame that was never finished is no damage.
NOT_REFUSED = {"a commit of gigabytes", "generations without end"}


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_is_deep_or_says_that_it_is_huge_is_refused_cheaply(bomb: str) -> None:
    """A few bytes in a file would take all memory, or overflow the stack."""
    decoder, data = BOMBS[bomb]
    tracemalloc.start()
    try:
        refused = attempt(decoder, data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused or decoder == "urls" or bomb in NOT_REFUSED
    assert peak < 2_000_000 + 40 * len(data), peak


# Growing the corpus.


def name_of(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def traced(decoder: str, data: bytes) -> set[object]:
    """What an input reaches: lines of our code, and the error that it ends with."""
    reached: set[object] = set()

    def line(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            reached.add((frame.f_code.co_filename, frame.f_lineno))
        return line

    def call(frame: FrameType, event: str, _: Any) -> Any:
        return line if "ratchetkeep" in frame.f_code.co_filename else None

    sys.settrace(call)
    try:
        ended = attempt(decoder, data)
    except Exception as error:  # noqa: BLE001 - what the loop looks for
        sys.settrace(None)
        ended = f"STRAY {type(error).__name__}"
    finally:
        sys.settrace(None)
    return reached | {ended}


def _mutated(chance: random.Random, pool: list[bytes]) -> bytes:
    data = chance.choice(pool)
    if chance.random() < 0.1:
        other = chance.choice(pool)
        data = data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]
    edits = []
    for _ in range(chance.choice([1, 1, 2, 4, 8])):
        new = chance.choice([chance.choice(WORDS), chance.randbytes(chance.randrange(4))])
        edits.append((chance.randrange(1 << 16), chance.choice([0, 1, 1, 2, 4, 40, 400]), new))
    return edited(data, edits)


def _weight(new: set[object], data: bytes) -> tuple[bool, int, int, bytes]:
    return any("STRAY" in str(each) for each in new), len(new), -len(data), data


def _chosen_files(found: dict[bytes, set[object]], count: int) -> list[bytes]:
    """The inputs that between them reach most."""
    chosen: list[bytes] = []
    covered: set[object] = set()
    small = {data: reached for data, reached in found.items() if len(data) < MAX_FILE}
    while small and len(chosen) < count:
        best = max(small, key=lambda data: _weight(small[data] - covered, data))
        if not small[best] - covered:
            break
        covered |= small.pop(best)
        chosen.append(best)
    return chosen


def grow(minutes: float) -> None:
    """Fuzz every decoder in turn, and write the corpus anew."""
    chance = random.Random()
    share = minutes * 60 / len(TARGETS)
    for decoder in TARGETS:
        folder = CORPUS / decoder
        folder.mkdir(parents=True, exist_ok=True)
        kept = [path.read_bytes() for path in sorted(folder.iterdir())]
        found = {data: traced(decoder, data) for data in [*seeds(decoder), *kept]}
        covered = set().union(*found.values())
        pool, tried, end = list(found), 0, time.monotonic() + share
        while time.monotonic() < end:
            data = _mutated(chance, pool)
            tried += 1
            reached = traced(decoder, data)
            if reached - covered:
                sys.stdout.write("".join(f"{each}\n" for each in reached if "STRAY" in str(each)))
                covered |= reached
                found[data] = reached
                pool.append(data)
        for path in folder.iterdir():
            path.unlink()
        for data in _chosen_files(found, MAX_FILES // len(TARGETS)):
            (folder / name_of(data)).write_bytes(data)
        sys.stdout.write(f"{decoder}: {tried} inputs, {len(covered)} lines and errors\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz every decoder, and grow the corpus.")
    parser.add_argument("command", choices=["grow"])
    parser.add_argument("--minutes", type=float, default=4.0)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as empty:
        os.chdir(empty)
        grow(minutes)


if __name__ == "__main__":
    main()
