"""What devices take: memory, disk space, and the time of a copy."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time

from ratchetkeep import copy_device
from ratchetkeep.device import create_device

from .data import ROOT, address
from .measure import Spread, say
from .peers import OurBaileys, OurBaileysEx, Ours, OurSqlite, OurSqliteAsync
from .workloads import Field, Scale

# Sessions that a process reads at most: more than the cache keeps.
READ = 30_000
# Larger devices are not copied to a folder: a sync for each file takes minutes.
MOST_FILES = 10_000
KINDS: list[type[Ours]] = [OurSqlite, OurBaileys, OurBaileysEx]


def _child(url: str, sessions: int) -> dict[str, int]:
    ids = "".join(f"{address(number)}\n" for number in range(sessions))
    command = [sys.executable, "-m", "benchmarks.child", url]
    done = subprocess.run(
        command, cwd=ROOT, input=ids, stdout=subprocess.PIPE, encoding="utf-8", check=True
    )
    found: dict[str, int] = json.loads(done.stdout)
    return found


def memory(field: Field) -> dict[str, dict[int, dict[str, Spread]]]:
    """Bytes of an open device above an empty one, by peer and size, after opening and after
    reading up to :data:`READ` of its sessions. The devices are closed."""
    say("measuring: memory")
    found: dict[str, dict[int, dict[str, Spread]]] = {}
    for kind in KINDS:
        empty = kind(field.folder / f"empty-{kind.__name__}", field.data, 0)
        empty.folder.mkdir()
        create_device(empty.url, field.data.credentials).close()
        sizes = field.scale.sizes_of(kind)
        rises: dict[tuple[int, str], list[int]] = {}
        for _ in range(field.scale.children):
            without = _child(empty.url, 0)["opened"]
            for size in sizes:
                count = min(size, READ)
                for part, taken in _child(_url(field, kind, size), count).items():
                    rises.setdefault((size, part), []).append(taken - without)
        found[kind.name] = {
            size: {part: Spread.of(rises[size, part]) for part in ("opened", "read")}
            for size in sizes
        }
    return found


def _url(field: Field, kind: type[Ours], size: int) -> str:
    peer = field.one(kind, size)
    if not isinstance(peer, Ours):
        raise TypeError("only our own devices are opened by URL")
    return peer.url


def disk(field: Field) -> dict[str, dict[int, int]]:
    """Bytes on the disk by peer and size. The devices are closed."""
    found: dict[str, dict[int, int]] = {}
    for each in field.contenders:
        if each.peer.reads and not isinstance(each.peer, OurSqliteAsync):
            found.setdefault(each.peer.name, {})[each.peer.size] = each.peer.disk_bytes()
    return found


def copies(field: Field) -> dict[str, dict[int, float]]:
    """Seconds that a copy takes, by way and size; the first way is the limit: the same bytes
    written to a new file and synced. The devices are closed."""
    found: dict[str, dict[int, float]] = {}
    for size in field.scale.sizes:
        for source, target in itertools.product(KINDS, KINDS):
            if _is_copied(field.scale, source, target, size):
                say(f"copying {size:,} sessions: {_short(source)} -> {_short(target)}")
                taken = _copy(field, source, target, size)
                found.setdefault(f"{_short(source)} to {_short(target)}", {})[size] = taken
        found.setdefault("plain copy of the SQLite file", {})[size] = _plain(field, size)
    return found


def _is_copied(scale: Scale, source: type[Ours], target: type[Ours], size: int) -> bool:
    if OurSqlite not in (source, target) or size not in scale.sizes_of(source):
        return False
    # So does decoding that many Erlang terms.
    return size <= MOST_FILES or (OurBaileysEx not in (source, target) and target is OurSqlite)


def _short(kind: type[Ours]) -> str:
    return kind.name.removeprefix("ratchetkeep ")


def _copy(field: Field, source: type[Ours], target: type[Ours], size: int) -> float:
    place = target(field.folder / f"copy-{source.__name__}-{target.__name__}-{size}", field.data, 0)
    place.folder.mkdir()
    start = time.perf_counter()
    copy_device(_url(field, source, size), place.url)
    return time.perf_counter() - start


def _plain(field: Field, size: int) -> float:
    origin = field.one(OurSqlite, size)
    content = (origin.folder / "device.db").read_bytes()
    start = time.perf_counter()
    with open(field.folder / f"plain-{size}", "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - start
