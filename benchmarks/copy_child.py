"""``python -m benchmarks.copy_child HOW SOURCE TARGET``: one copy in a process of its own.

``ours`` is what is measured; ``sealed`` seals what it makes with the key of the environment, which
opens a sealed source too. ``bare`` moves the same bytes as durably and does nothing
else: it reads every record of the source and writes it into one table in one transaction, or into
one file each, every one of them synced.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import apsw

from ratchetkeep import copy_device
from ratchetkeep.sealing.keys import from_environment

_SCHEMA = """
PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
CREATE TABLE records (
    device INTEGER NOT NULL, family TEXT NOT NULL, id TEXT NOT NULL, data BLOB NOT NULL,
    UNIQUE (device, family, id)
) STRICT;
"""
_INSERT = "INSERT INTO records (device, family, id, data) VALUES (1, ?, ?, ?)"
_LARGEST = 1 << 16

Record = tuple[str, str, bytes]


def bare(source: str, target: str) -> None:
    """Move the bytes of ``source`` to ``target``, both of them paths."""
    records = _files(source) if os.path.isdir(source) else _rows(source)
    if target.endswith(".db"):
        _into_rows(records, target)
    else:
        _into_files(records, target)


def _files(folder: str) -> Iterator[Record]:
    for name in os.listdir(folder):
        descriptor = os.open(f"{folder}/{name}", os.O_RDONLY)
        data = os.read(descriptor, _LARGEST)
        os.close(descriptor)
        family, _, id = name.partition("-")
        yield family, id, data


def _rows(path: str) -> Iterator[Record]:
    connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
    yield from connection.execute("SELECT family, id, data FROM records")
    connection.close()


def _into_rows(records: Iterator[Record], path: str) -> None:
    connection = apsw.Connection(path)
    connection.execute(_SCHEMA).fetchall()
    with connection:
        connection.executemany(_INSERT, records)
    connection.close()


def _into_files(records: Iterator[Record], folder: str) -> None:
    os.mkdir(folder, 0o700)
    for family, id, data in records:
        name = f"{folder}/{family}-{id.replace('/', '__').replace(':', '-')}"
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, data)
        os.fsync(descriptor)
        os.close(descriptor)
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def path_of(url: str) -> str:
    """The path in a URL."""
    return url.partition(":")[2]


def peak_memory() -> int:
    """The most memory that this program had in use, in bytes. What getrusage says of a process
    counts what its parent had when it was started."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("the system does not say how much memory is in use")


def main(how: str, source: str, target: str) -> None:
    """Copy, and print how long it took, and the most memory that was in use."""
    Path(path_of(target)).parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    if how == "bare":
        bare(path_of(source), path_of(target))
    else:
        key = from_environment() if how == "sealed" else None
        copy_device(source, target, plaintext=how == "ours", target_key=key)
    taken = time.perf_counter() - start
    helper = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    peak = peak_memory()
    sys.stdout.write(json.dumps({"seconds": taken, "peak": peak, "helper": helper}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
