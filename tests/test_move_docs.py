"""The pages about moving: the table is what is proven, a route's page tells what the plan tells."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from _helpers import ALICE, private_copy
from moves.places import PLACES, proven
from moves.scenario import CLOSED, IN_OPEN_CHAIN, WITH_LID
from ratchetkeep import copy_device
from ratchetkeep.stores import urls
from test_docs import DOCS, blocks, commands

MOVE = DOCS / "howto" / "move.md"
PAGES = DOCS / "howto" / "move"

# The names of the table, with the places of the tests.
PLACES_OF = {
    "Baileys 7": ["baileys 7"],
    "Baileys 6": ["baileys 6"],
    "BaileysEx native": ["baileysex"],
    "BaileysEx compat JSON": ["baileysex-json"],
    "pyaileys": ["pyaileys", "pyaileys over sqlite"],
    "waeys": ["waeys over baileys", "waeys over sqlite"],
    "whatsmeow": ["whatsmeow"],
}
# What the letters stand for, by the step that then fails.
LETTERS = {"s": IN_OPEN_CHAIN, "c": CLOSED, "l": WITH_LID}
TICK, NONE = "\N{CHECK MARK}", "\N{EN DASH}"

KINDS = {
    "baileys": "baileys",
    "baileysex": "baileysex",
    "pyaileys": "pyaileys",
    "waeys": "sqlite",
    "whatsmeow": "whatsmeow",
}
ROUTES = list(itertools.permutations(KINDS, 2))


def cell(source: str, target: str) -> str:
    """What the table must say: a tick if the target's own library goes on in the tests."""
    there = [PLACES[name] for name in PLACES_OF[target]]
    failed = proven()[PLACES[PLACES_OF[source][0]].library, there[0].library]
    mark = NONE if any(place.back for place in there) else TICK
    return " ".join([mark, *(letter for letter, step in LETTERS.items() if step in failed)])


def test_the_table_is_what_is_proven() -> None:
    """The page would promise a move that no test makes, or hide one that works."""
    rows = re.findall(r"^\| (.+) \|$", MOVE.read_text().partition("| from \\ to ")[2], re.MULTILINE)
    head, cells = rows[0].split(" | "), [row.split(" | ") for row in rows[1:]]
    assert head == list(PLACES_OF)
    assert cells == [[name, *(cell(name, to) for to in PLACES_OF)] for name in PLACES_OF]


def test_the_table_has_every_place() -> None:
    """A store that the tests move devices to would stand in no row."""
    assert sorted(itertools.chain(*PLACES_OF.values())) == sorted(PLACES)


def test_each_letter_is_explained() -> None:
    """A letter of the table would mean nothing to the reader."""
    assert all(f"\n* *{letter}*: " in MOVE.read_text() for letter in LETTERS)


def test_each_route_has_a_page() -> None:
    """The way between two libraries would have no page, or one that nobody is led to."""
    names = {f"{source}-to-{target}.md" for source, target in ROUTES}
    assert {page.name for page in PAGES.iterdir()} == names
    assert set(re.findall(r"\(move/(.+?)\)", MOVE.read_text())) == names


class Copy(NamedTuple):
    """A copy on a page."""

    options: set[str]
    client: str | None
    source: str
    target: str

    @classmethod
    def of(cls, line: str) -> Copy:
        """The copy of a command line."""
        words = iter(shlex.split(line)[2:])
        options, client, places = set(), None, []
        for word in words:
            if word == "--for":
                client = next(words)
            elif word.startswith("--"):
                options.add(word)
            else:
                places.append(word)
        return cls(options, client, *places)


def copies(page: Path) -> list[Copy]:
    """The copies on a page, in order."""
    lines = [
        line
        for block in blocks(page)
        if block.language == "console"
        for line, _, _ in commands(block.text)
    ]
    return [Copy.of(line) for line in lines if line.startswith("ratchetkeep copy ")]


@pytest.mark.parametrize(("source", "target"), ROUTES, ids="-to-".join)
def test_a_page_shows_its_route(source: str, target: str) -> None:
    """A page would move another library's device, leave two living copies behind, or end in a
    place from which there is no way back."""
    *before, there, back = copies(PAGES / f"{source}-to-{target}.md")
    assert urls.parse(there.source).kind == KINDS[source]
    assert urls.parse(there.target).kind == KINDS[target]
    assert there.options == {"--keep-rest", "--retire"}
    assert there.client == ("waeys" if target == "waeys" else None)
    assert back.options == {"--overwrite", "--retire"}
    assert (back.source, back.target) == (there.target, there.source)
    assert [each.target for each in before] == ([] if source == "baileys" else [there.source])


@pytest.mark.parametrize(("source", "target"), ROUTES, ids="-to-".join)
def test_a_page_tells_all_that_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, target: str
) -> None:
    """The reader would learn from the plan, or never, what the page leaves out."""
    private_copy(ALICE, tmp_path / "alice")
    monkeypatch.chdir(tmp_path)
    page = PAGES / f"{source}-to-{target}.md"
    *before, there, _ = copies(page)
    for each in before:
        copy_device(each.source, each.target, client=each.client)
    summary = copy_device(there.source, there.target, client=there.client, dry_run=True)
    text = page.read_text()
    missing = [each for each in summary.not_held if f": {each.what}\n" not in text]
    if target == "whatsmeow" and source != "baileys":
        assert "(baileys-to-whatsmeow.md)" in text
        text = (PAGES / "baileys-to-whatsmeow.md").read_text()
        missing = [each for each in missing if not each.derived or f": {each.what}\n" not in text]
    assert [(each.member, each.what) for each in missing] == []
