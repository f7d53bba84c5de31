"""Records that are read at once are read as the tables read them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from _helpers import ALICE, BOB, LEGACY, key_of, records
from ratchetkeep import DecodeError
from ratchetkeep.formats import baileys
from ratchetkeep.formats._baileys_reader import READER
from ratchetkeep.formats._shape import Losses
from ratchetkeep.model import CREDENTIALS, FAMILIES, Key

FOLDERS = [ALICE, BOB, LEGACY / "alice", LEGACY / "bob"]
FILES = [path for folder in FOLDERS for path in records(folder) if key_of(path) != CREDENTIALS]


def at_once(key: Key, raw: bytes) -> Any:
    return READER.read(baileys.CODECS[key.family], raw, FAMILIES[key.family][1])


def outcome(decode: Callable[[Key, bytes], Any], key: Key, raw: bytes) -> Any:
    """What decoding gives: the value with its order, or the error."""
    try:
        value = decode(key, raw)
    except DecodeError as error:
        return (error.place, error.what)
    return value, type(value), baileys.by_tables(key, value, Losses())


def few_of_each(number: int) -> list[Path]:
    """Some files of every family."""
    chosen: dict[str, list[Path]] = {}
    for path in FILES:
        chosen.setdefault(key_of(path).family, []).append(path)
    return [path for paths in chosen.values() for path in paths[:number]]


def test_what_baileys_writes_is_read_at_once() -> None:
    """Copies and first reads would take many times as long, though every value is right."""
    slow = [path for path in FILES if at_once(key_of(path), path.read_bytes()) is None]
    # Sender keys of 6.x are spelled in another way.
    assert all(LEGACY in path.parents and "sender-key-" in path.name for path in slow)
    assert len(slow) == 4


@pytest.mark.parametrize("path", few_of_each(3), ids=lambda path: path.name)
def test_both_ways_give_the_same_value(path: Path) -> None:
    """A record would be read as something else than its own tables say it is."""
    key, raw = key_of(path), path.read_bytes()
    assert outcome(baileys.decode, key, raw) == outcome(baileys.from_tables, key, raw)


def other_spellings(raw: bytes) -> Iterator[bytes]:
    """The text with something in it that a quick reader could overlook."""
    yield raw + b"\n"
    yield raw.replace(b":", b": ", 1)
    yield raw.replace(b'"}', b'","type":"Buffer"}', 1)
    for number in (b"1.0", b"1e0", b"-0", b"01", b"null", b'"1"', b"1" * 30):
        yield from (raw.replace(old, b":" + number, 1) for old in (b":1", b":2", b":-1", b":0"))
    # The last character of base64 before "=" has bits that mean nothing.
    for old in (b"A=", b"E=", b"I=", b"M=", b"c=", b"k=", b"o=", b"w=", b"8="):
        at = raw.find(old)
        yield raw[:at] + bytes([raw[at] + 1]) + raw[at + 1 :]
    document = json.loads(raw)
    if isinstance(document, dict):
        for name in document:
            text = raw.rstrip()[:-1]
            twice = json.dumps({name: document[name]}, separators=(",", ":")).encode()[1:]
            yield text + b"," + twice
        changed = [
            dict(reversed(document.items())),
            {**document, "unknown": 1},
            {**document, "\0etf": 1},
            {**document, next(iter(document), "x"): None},
        ]
        changed += [{n: v for n, v in document.items() if n != name} for name in document]
        yield from (json.dumps(each, separators=(",", ":")).encode() for each in changed)


@pytest.mark.parametrize("path", few_of_each(2), ids=lambda path: path.name)
def test_other_spellings_are_read_as_the_tables_read_them(path: Path) -> None:
    """Damage, or a member that we do not know, would be overlooked by the quick way."""
    key = key_of(path)
    for raw in other_spellings(path.read_bytes()):
        assert outcome(baileys.decode, key, raw) == outcome(baileys.from_tables, key, raw), raw


@pytest.mark.parametrize("seed", range(4))
def test_damaged_texts_are_read_as_the_tables_read_them(seed: int) -> None:
    """A rotten byte would be an error one way, and another key the other way."""
    rng = random.Random(seed)
    for path in few_of_each(2):
        key, good = key_of(path), path.read_bytes()
        for _ in range(60):
            raw = bytearray(good)
            for _ in range(rng.choice((1, 1, 2))):
                at = rng.randrange(len(raw))
                raw[at : at + rng.choice((0, 1, 1, 4))] = rng.choice(
                    (bytes([rng.randrange(256)]), bytes([raw[at] ^ 1]), b'"', b"0", b",", b"")
                )
            found = outcome(baileys.decode, key, bytes(raw))
            assert found == outcome(baileys.from_tables, key, bytes(raw)), bytes(raw)
