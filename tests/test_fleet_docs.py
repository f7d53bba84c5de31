"""The page about fleets and the example worker, on a real server: what they show happens."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import pgserver
from _fleet import PATIENCE, as_worker, filled, in_loop, names, owned
from _pgcontrol import free_port
from ratchetkeep import open_device
from test_docs import DOCS, ROOT, blocks

PAGE = DOCS / "howto" / "fleet.md"
EXAMPLE = ROOT / "examples" / "fleet_worker.py"
BOT = """
import asyncio

async def serve(device):
    await device.set({"lid-mapping": {"served": "here"}})
    await device.pre_key_stock()
    print("serves", device.name, flush=True)
    if device.name == "device 0":
        raise ValueError("hidden")
    await asyncio.Event().wait()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[pgserver.Server]:
    with pgserver.running() as server:
        yield server


class Program:
    """A program, and the lines that it prints.

    :ivar said: those that were read.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[str] = []

    async def until(self, *lines: str) -> None:
        """Read until all of these were printed."""
        while not {*lines} <= {*self.said}:
            await self.next_line()

    async def next_line(self) -> None:
        """Read one line more."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = await self.process.stdout.readline()
        assert line, f"it ended; {self.said}"
        self.said.append(line.decode().rstrip())

    async def stop(self, number: signal.Signals) -> int:
        """Have it end, and read the rest; its exit code."""
        self.process.send_signal(number)
        async with asyncio.timeout(PATIENCE):
            rest, _ = await self.process.communicate()
        self.said += rest.decode().splitlines()
        return self.process.returncode or 0


@asynccontextmanager
async def started(folder: Path, *command: object) -> AsyncIterator[Program]:
    """A program in a folder, killed at the end of the block if it runs still."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *map(str, command),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def shown(start: str) -> str:
    """The block of the page that begins so."""
    (found,) = [block.text for block in blocks(PAGE) if block.text.startswith(start)]
    return found


@in_loop
async def test_the_worker_of_the_page(server: pgserver.Server, tmp_path: Path) -> None:
    """Who copies the worker from the page would have one that serves nothing, or gives back
    nothing when it is restarted."""
    url = filled(server, 3)
    for file in ("worker.py", "exporter.py"):
        (tmp_path / file).write_text(shown(f"# {file}"))
    port = free_port()
    watched = "import exporter, runpy, sys; exporter.export_metrics(int(sys.argv.pop(1))); "
    watched += "runpy.run_path('worker.py', run_name='__main__')"
    async with started(tmp_path, "-c", watched, port, as_worker(url, 1)) as worker:
        await worker.until(*(f"connected {name}" for name in names(3)))
        text = await asyncio.to_thread(read, f"http://127.0.0.1:{port}/metrics")
        assert re.search(r"^ratchetkeep_leases_held\{.*\} 3.0$", text, re.MULTILINE)
        assert await worker.stop(signal.SIGTERM) == 0
    assert {f"disconnected {name}" for name in names(3)} <= {*worker.said}
    assert owned(url) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@in_loop
async def test_the_example_holds_devices(
    server: pgserver.Server, tmp_path: Path, number: signal.Signals
) -> None:
    """The first worker that somebody starts would hold nothing, or end in a traceback."""
    url = filled(server, 2)
    async with started(tmp_path, EXAMPLE, as_worker(url, 1), "--capacity", 5) as worker:
        await worker.until(*(f"{name}: held, with 0 pre-keys" for name in names(2)))
        assert await worker.stop(number) == 0
    assert worker.said[-1] == "all devices are given back"
    assert {f"{name}: no longer held" for name in names(2)} <= {*worker.said}
    assert owned(url) == 0


@in_loop
async def test_the_example_with_a_bot_and_metrics(server: pgserver.Server, tmp_path: Path) -> None:
    """An alert would name a metric that nobody writes, and so never come; or the example would not
    find a client, or show what a client's error says."""
    url, port = filled(server, 3), free_port()
    (tmp_path / "my_bot.py").write_text(BOT)
    command = [EXAMPLE, as_worker(url, 1, lease=1), "my_bot:serve", "--metrics", port]
    async with started(tmp_path, *command, "--poll", 0.1) as worker:
        await worker.until(*(f"serves {name}" for name in names(3)), "device 0: ValueError")
        place = f"postgresql://keeper:***@127.0.0.1:{server.port}/"
        with open_device(f"{url}&device=device 1", steal=True):
            lost = "was taken over by another owner"
            while not any(place in line and lost in line for line in worker.said):
                await worker.next_line()
        text = await asyncio.to_thread(read, f"http://127.0.0.1:{port}/metrics")
        assert await worker.stop(signal.SIGTERM) == 0
    assert "hidden" not in "".join(worker.said)
    rules = shown("# fleet.yml")
    used = set(re.findall(r"\bratchetkeep_\w+", rules)) - {"ratchetkeep_store"}
    assert len(used) >= 5
    written = set(re.findall(r"^(ratchetkeep_\w+)\{", text, re.MULTILINE))
    assert used <= written
    for label in re.findall(r"(\w+=\"\w+\")", rules):
        assert label in text
    assert rules.count("- alert:") == rules.count("expr:") >= 5


def read(url: str) -> str:
    """What a web server of this machine answers."""
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        text: str = answer.read().decode()
        return text


def test_the_example_says_what_is_wrong(server: pgserver.Server, tmp_path: Path) -> None:
    """A mistyped argument would be a traceback, with the password of the URL perhaps."""
    wrong = {
        "A fleet needs postgresql:": ["bot.db"],
        "no such database": [server.url("nowhere")],
        "must be a whole number": [server.url(), "--capacity", "0"],
        "No module named 'my_bot'": [server.url(), "my_bot:serve"],
    }
    (tmp_path / "bot.db").touch()
    for text, arguments in wrong.items():
        command = [sys.executable, str(EXAMPLE), *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, ""), text
        assert done.stderr.startswith("error: "), done.stderr
        assert done.stderr.count("\n") == 1
        assert server.password not in done.stderr
