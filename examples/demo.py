"""The main job on a sample device: from a Baileys folder to SQLite and back, and nothing changed.

Runs the real command line, as a shell would. The sample folder is only read.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

SAMPLE = Path(__file__).resolve().parent / "alice"


def run(*arguments: str) -> None:
    """Run one command and show it; a command that fails ends the demo with its exit code."""
    print("\n$ ratchetkeep", *arguments, flush=True)
    done = subprocess.run([sys.executable, "-m", "ratchetkeep", *arguments], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with its bytes."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def compare(before: dict[str, bytes], after: dict[str, bytes]) -> int:
    """Say what came back; the exit code."""
    names = before.keys() | after.keys()
    changed = sorted(name for name in names if before.get(name) != after.get(name))
    if changed or not before:
        print(f"\n{len(changed)} files are not the same:", *changed)
        return 1
    print(f"\nnothing changed: {len(before)} of {len(after)} files are the same bytes")
    return 0


def main() -> int:
    """Copy, verify, inspect, copy back, compare."""
    before = files_in(SAMPLE)
    with tempfile.TemporaryDirectory(prefix="ratchetkeep-demo-") as name:
        folder = Path(name)
        database, back = f"sqlite:{folder / 'alice.db'}", folder / "alice"
        run("copy", f"baileys:{SAMPLE}", database)
        run("verify", database)
        run("inspect", database)
        run("copy", database, f"baileys:{back}")
        return compare(before, files_in(back))


if __name__ == "__main__":
    sys.exit(main())
