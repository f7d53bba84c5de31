"""The docs are true: every block in them runs, every link leads somewhere.

What a fence's language means: ``python`` is executed (with a first line ``# name.py`` it is saved
as that file instead, for a command below it), ``output`` is what the python block before it
printed, ``console`` holds command lines and what they print (``...`` stands for anything), ``sh``
and ``text`` are only read.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import ratchetkeep
from _helpers import private_copy
from ratchetkeep import errors
from ratchetkeep.cli._failures import MEANINGS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RUN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
ALL = [*RUN, ROOT / "CHANGELOG.md", ROOT / "tests" / "golden" / "README.md"]
LANGUAGES = {"python", "output", "console", "sh", "text"}

_FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_EXIT = re.compile(r"\s+# exit (\d+)$")
_FORBIDDEN = {
    "a path of one machine": r"/work\b|/home/\w|/root\b|/Users/\w",
    "a ticket": r"\btickets?\b|\b[Tt]ask \d|(?:^|\s)#\d+\b",
    "a registry host": r"(?i)\b(?:pypi|pythonhosted|npmjs|yarnpkg|crates|hex)\.(?:org|com|io|pm)\b",
}


def name_of(path: Path) -> str:
    """How a file is called in the names of tests."""
    return str(path.relative_to(ROOT))


class Block(NamedTuple):
    """A fenced block, and the line that its text begins at."""

    language: str
    text: str
    line: int


def blocks(path: Path) -> Iterator[Block]:
    """The fenced blocks of a file, in order."""
    text = path.read_text()
    for found in _FENCE.finditer(text):
        yield Block(found[1], found[2], text.count("\n", 0, found.start()) + 2)


def prose(path: Path) -> str:
    """A file's text without its fenced blocks."""
    return _FENCE.sub("", path.read_text())


def commands(text: str) -> Iterator[tuple[str, int, str]]:
    """Command lines of a console block: each with its exit code and the output below it. A block
    that begins with make is that one command: make prints command lines itself."""
    is_make = text.startswith("$ make ")
    for part in [text[2:]] if is_make else re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, output = part.partition("\n")
        code = _EXIT.search(line)
        yield _EXIT.sub("", line), int(code[1]) if code else 0, output


def matches(expected: str, actual: str) -> bool:
    """True if the text is as expected, where ``...`` stands for anything."""
    pattern = "".join(
        r"(?:.*\n)*?" if line == "..." else ".*".join(map(re.escape, line.split("..."))) + r"\n"
        for line in expected.strip("\n").splitlines()
    )
    return (
        re.fullmatch(pattern, actual.strip("\n") + "\n" if actual.strip("\n") else "") is not None
    )


def run(line: str) -> subprocess.CompletedProcess[str]:
    """Run a command line of the docs; its stdout and stderr come as one text."""
    program, *arguments = shlex.split(line)
    assert program in ("ratchetkeep", "pytest"), f"only these are run, not {program}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        env={**kept, "PYTHONUTF8": "1", "COLUMNS": "80", "TERM": "dumb"},
        check=False,
    )


def run_console(block: Block) -> None:
    """Run the command lines of a block, and compare what they print."""
    for line, code, expected in commands(block.text):
        if line.startswith("make "):
            continue  # test_make_targets_exist
        done = run(line)
        assert done.returncode == code, f"$ {line}\n{done.stdout}"
        assert matches(expected, done.stdout), f"$ {line}\n{done.stdout}"


def run_python(block: Block, path: Path, namespace: dict[str, Any]) -> str:
    """Execute a block, or save it as the file that it names; what it printed."""
    if named := re.match(r"# (\w+\.py)\n", block.text):
        Path(named[1]).write_text(block.text)
        return ""
    # Empty lines before it, so that a traceback names the line of the document.
    code = compile("\n" * (block.line - 1) + block.text, str(path), "exec")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)  # noqa: S102
    return printed.getvalue()


@pytest.mark.parametrize("path", RUN, ids=name_of)
def test_blocks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader who does what the page says would get an error, or something else than it shows."""
    private_copy(ROOT / "examples" / "alice", tmp_path / "alice")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "docs"}
    printed = ""
    for block in blocks(path):
        assert block.language in LANGUAGES, f"line {block.line}: {block.language!r}"
        if block.language == "python":
            printed = run_python(block, path, namespace)
        elif block.language == "output":
            assert matches(block.text, printed), f"line {block.line} printed:\n{printed}"
        elif block.language == "console":
            run_console(block)


@pytest.mark.parametrize("path", RUN, ids=name_of)
def test_make_targets_exist(path: Path) -> None:
    """A page would name a make target that is not there."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^\$ |`)make (\w+)", path.read_text(), re.MULTILINE))
    assert named <= targets


def test_make_run_prints_what_the_readme_shows() -> None:
    """The first thing that a reader runs would print something else than the README shows."""
    shown = [
        output
        for block in blocks(ROOT / "README.md")
        if block.language == "console"
        for line, _, output in commands(block.text)
        if line == "make run"
    ]
    assert len(shown) == 1
    demo = [sys.executable, str(ROOT / "examples" / "demo.py")]
    environment = {**os.environ, "PYTHONUTF8": "1"}
    done = subprocess.run(demo, capture_output=True, encoding="utf-8", env=environment, check=True)
    assert matches(shown[0], done.stdout), done.stdout


def anchors(path: Path) -> set[str]:
    """The anchors that a page's headings get."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        same = sum(each == plain or each.startswith(plain + "-") for each in found)
        found.add(f"{plain}-{same}" if plain in found else plain)
    return found


def links(path: Path) -> list[str]:
    """The relative links of a page."""
    text = re.sub(r"`[^`\n]+`", "", prose(path))
    return [link for link in _LINK.findall(text) if not link.startswith(("http:", "https:"))]


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    """A link of the page would lead nowhere."""
    for link in links(path):
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_can_be_reached() -> None:
    """A page would exist that no reader finds."""
    seen: set[Path] = set()
    todo = [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page not in seen:
            seen.add(page)
            files = {(page.parent / link.partition("#")[0]).resolve() for link in links(page)}
            todo += [file for file in files if file.suffix == ".md" and file.is_file()]
    assert set(DOCS.rglob("*.md")) <= seen


@pytest.mark.parametrize("path", ALL, ids=name_of)
@pytest.mark.parametrize("what", _FORBIDDEN)
def test_nothing_private_is_named(path: Path, what: str) -> None:
    """A page would speak of one machine, of planning or of a package registry."""
    found = re.search(_FORBIDDEN[what], path.read_text(), re.MULTILINE)
    assert found is None, f"{what}: {found}"


def test_every_public_name_is_documented() -> None:
    """A public name would stand in no reference."""
    text = (DOCS / "reference" / "python.md").read_text()
    text += (DOCS / "reference" / "errors.md").read_text()
    assert [name for name in ratchetkeep.__all__ if f"`{name}" not in text] == []


def test_every_error_and_exit_code_is_documented() -> None:
    """An error or an exit code would stand in no reference, or with another meaning."""
    text = (DOCS / "reference" / "errors.md").read_text()
    assert [name for name in errors.__all__ if f"### `{name}`" not in text] == []
    table = (DOCS / "reference" / "command-line.md").read_text()
    rows = [f"| {code} | {meaning} |" for code, meaning in MEANINGS.items()]
    assert [row for row in rows if row not in table] == []
