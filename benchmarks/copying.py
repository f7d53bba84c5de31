"""What copying a device takes: time beside a bare loop over the same bytes, and memory."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ratchetkeep import copy_device
from ratchetkeep.stores import urls

from .data import ROOT, SAMPLE
from .measure import Spread, say
from .peers import SEALING_KEY
from .workloads import Field, Scale

# Of a thousand records: what a device holds that has been in use for years.
MIX = {
    "session": 450,
    "identity-key": 150,
    "lid-mapping": 150,
    "sender-key": 100,
    "device-list": 70,
    "tctoken": 50,
    "sender-key-memory": 22,
    "pre-key": 8,
}
_IDS = {
    "session": "{0}.{1}",
    "identity-key": "{0}.{1}",
    "lid-mapping": "{0}",
    "sender-key": "12036302{0}@g.us--{0}_1--7",
    "device-list": "{0}",
    "tctoken": "{0}@lid",
    "sender-key-memory": "12036302{0}@g.us",
    "pre-key": "{2}",
}

# Larger devices are neither copied to a folder nor from Erlang terms: the bare loop's syncs, and
# making the source, take minutes.
MOST_FILES = 10_000
ROUNDS = 3

SEALED = "sqlite, sealed"
"""``sqlite:`` files that are sealed, among the kinds."""

WAYS = [
    ("baileys", "sqlite"),
    ("sqlite", "sqlite"),
    ("sqlite", "baileys"),
    ("baileysex", "sqlite"),
    ("baileys", "pyaileys"),
    ("baileys", "whatsmeow"),
    ("sqlite", SEALED),
    (SEALED, SEALED),
    (SEALED, "sqlite"),
]
"""Kinds of source and target; those that this version has are measured."""

_ROWS = ("sqlite", "whatsmeow", SEALED)


@dataclass(frozen=True)
class Copied:
    """What copies of one device took, in turns.

    :ivar ours: nanoseconds of a copy.
    :ivar bare: nanoseconds of the bare loop.
    :ivar peak: the most bytes of memory that a copy had in use.
    :ivar helper: the same of the largest process that helped it; 0 without one.
    """

    ours: Spread
    bare: Spread
    peak: int
    helper: int

    @property
    def ratio(self) -> float:
        """Our median over the bare loop's."""
        return self.ours.p50 / self.bare.p50


Copies = dict[str, dict[int, Copied]]


def files(count: int) -> Iterator[tuple[str, bytes]]:
    """Names and texts of a Baileys folder with ``count`` records beside what there is once."""
    there = sorted(path for path in SAMPLE.iterdir() if "__index" not in path.name)
    for path in there:
        if path.name.startswith(("creds", "app-state")):
            yield path.name, path.read_bytes()
    texts = {
        family: [path.read_bytes() for path in there if _family(path.name) == family]
        for family in MIX
    }
    order = [family for family, number in MIX.items() for _ in range(number)]
    random.Random(3).shuffle(order)
    for number in range(count):
        family = order[number % len(order)]
        raw = texts[family][number % len(texts[family])]
        id = _IDS[family].format(4_915_200_000_000 + number, number % 100, 1_000 + number)
        yield f"{family}-{id}.json", raw


def _family(name: str) -> str:
    return max((family for family in MIX if name.startswith(f"{family}-")), key=len, default="")


def copies(field: Field) -> Copies:
    """Copies by way and number of records."""
    found: Copies = {}
    above = field.folder / "copies"
    for size in sizes(field.scale):
        sources: dict[str, str] = {}
        for source, target in WAYS:
            if not _is_measured(field.scale, source, target, size):
                continue
            if source not in sources:
                sources[source] = _make(above / str(size), source, size)
            say(f"copying {size:,} records: {source} to {target}")
            taken = _measured(sources[source], target, above / "target")
            found.setdefault(way(source, target), {})[size] = taken
        shutil.rmtree(above, ignore_errors=True)
    return found


def way(source: str, target: str) -> str:
    """How a way is called in the tables."""
    return " to ".join(
        "sqlite:, sealed" if kind == SEALED else f"{kind}:" for kind in (source, target)
    )


def sizes(scale: Scale) -> tuple[int, ...]:
    """The numbers of records that are copied."""
    return scale.sizes[-2:]


def _is_measured(scale: Scale, source: str, target: str, size: int) -> bool:
    if not {source, target} <= {*urls.KINDS, SEALED}:
        return False
    if SEALED in (source, target):
        return size <= MOST_FILES
    if target not in _ROWS or source == "baileysex":
        return size <= min(scale.most_files, MOST_FILES)
    return source in _ROWS or size <= scale.most_files


def _make(folder: Path, kind: str, size: int) -> str:
    """A source of a kind; its URL."""
    origin = folder / "baileys"
    if not origin.exists():
        origin.mkdir(parents=True)
        for name, raw in files(size):
            (origin / name).write_bytes(raw)
    url = _url(kind, folder / kind.replace(", ", "-"))
    if kind != "baileys":
        copy_device(f"baileys:{origin}", url, target_key=_key(kind))
    return url


def _url(kind: str, path: Path) -> str:
    """The URL of a kind of store."""
    return f"{kind.partition(',')[0]}:{path}{'.db' if kind in _ROWS else ''}"


def _key(kind: str) -> bytes | None:
    """What a store of a kind is sealed with."""
    return SEALING_KEY if kind == SEALED else None


def _measured(source: str, kind: str, folder: Path) -> Copied:
    times: dict[str, list[float]] = {"bare": [], "ours": []}
    peaks: list[tuple[int, int]] = []
    for turn in range(ROUNDS):
        for how, found in times.items():
            url = _url(kind, folder / f"{how}-{turn}")
            done = _child("sealed" if how == "ours" and kind == SEALED else how, source, url)
            found.append(done["seconds"] * 1e9)
            if how == "ours":
                peaks.append((int(done["peak"]), int(done["helper"])))
        shutil.rmtree(folder)
    peak, helper = (max(each) for each in zip(*peaks, strict=True))
    return Copied(Spread.of(times["ours"]), Spread.of(times["bare"]), peak, helper)


def _child(how: str, source: str, target: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.copy_child", how, source, target]
    written = base64.b64encode(SEALING_KEY).decode()
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "RATCHETKEEP_KEY_PASSPHRASE": f"ratchetkeep-key-1:{written}"},
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found
