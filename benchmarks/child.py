"""``python -m benchmarks.child URL``: what memory an open device takes, in a process that has
loaded nothing else. Standard input names the sessions to read, one a line."""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
from pathlib import Path

from ratchetkeep import open_device

# Sessions that are read in one call when all of them are.
PORTION = 1_000


def resident_bytes() -> int:
    """What this process has in memory now."""
    gc.collect()
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except FileNotFoundError:  # not Linux: the most that it ever had, in bytes on macOS
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages * os.sysconf("SC_PAGE_SIZE")


def main(url: str) -> None:
    """Open a device, read what standard input names, and print what memory each left."""
    with open_device(url) as device:
        opened = resident_bytes()
        while ids := [line.strip() for line in _lines()]:
            if len(device.get("session", ids)) != len(ids):
                raise RuntimeError("a session is not there")
            del ids
        read = resident_bytes()
    sys.stdout.write(json.dumps({"opened": opened, "read": read}) + "\n")


def _lines() -> list[str]:
    """The next ids: as many as are read in one call."""
    lines = (sys.stdin.readline() for _ in range(PORTION))
    return [line for line in lines if line]


if __name__ == "__main__":
    main(sys.argv[1])
