"""What devices take: memory and disk space."""

from __future__ import annotations

import json
import subprocess
import sys

from ratchetkeep.device import create_device

from .data import ROOT, address
from .measure import Spread, say
from .peers import OurBaileys, OurBaileysEx, Ours, OurSqlite, OurSqliteAsync
from .workloads import Field

# Sessions that a process reads at most: more than the cache keeps.
READ = 30_000
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
