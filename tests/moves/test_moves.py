"""A device is moved from each library to each other one, and the conversation goes on."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import _go_strict
from moves.engines import Bench
from moves.places import PLACES, Place, hops, keys_lost, unread
from moves.scenario import ACCOUNT, ME, STEPS, VERBS, Cast, History, begin, go_on
from ratchetkeep import CopySummary, copy_device, verify_device


@dataclass
class Source:
    """A device in the middle of a conversation; copies are made of it, it never changes."""

    path: Path
    story: History


class Sources:
    """The devices that are moved, one in each place, made when first asked for."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.bench = bench
        self._folder = folder
        self._made: dict[str, Source] = {}

    def __getitem__(self, place: Place) -> Source:
        if place.name not in self._made:
            self._made[place.name] = self._converted(place) if place.back else self._new(place)
        return self._made[place.name]

    def _new(self, place: Place) -> Source:
        path = self._folder / place.name
        cast = Cast.fresh(self.bench.seven)
        me = self.bench.libraries[place.name].create(path, ME, ACCOUNT)
        try:
            return Source(path, begin(me, cast))
        finally:
            me.close()

    def _converted(self, place: Place) -> Source:
        """No engine of this library runs here: what it holds was made by Baileys."""
        origin, path = PLACES["baileys 7"], self._folder / place.name
        copy_device(origin.url(self[origin].path), place.url(path))
        return Source(path, self[origin].story)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sources]:
    with Bench() as bench:
        yield Sources(bench, tmp_path_factory.mktemp("sources"))


def is_sound(place: Place, path: Path) -> None:
    """See that a copy holds nothing that the library would stumble over."""
    assert verify_device(place.url(path)) == []
    if place.name == "whatsmeow":
        with contextlib.closing(sqlite3.connect(path)) as rows:
            for (session,) in rows.execute("SELECT session FROM whatsmeow_sessions"):
                _go_strict.check_session(session)
            for (sender_key,) in rows.execute("SELECT sender_key FROM whatsmeow_sender_keys"):
                _go_strict.check_sender_key(sender_key)


def goes_on(sources: Sources, place: Place, path: Path, story: History) -> dict[str, str]:
    """The steps that the library of a place fails at, and how."""
    library = sources.bench.libraries[place.name]
    return go_on(lambda: library.open(path), story)


def number_of_lost_keys(summary: CopySummary) -> int:
    """How many skipped messages a summary says cannot be read any more."""
    losses = [each for each in summary.not_held if each.family == "session" and not each.derived]
    return sum(each.amount or 0 for each in losses)


ENGINES = [place for place in PLACES.values() if not place.back]
PAIRS = [
    pytest.param(source, target, id=f"{source.name} to {target.name}")
    for source in PLACES.values()
    for target in PLACES.values()
]


@pytest.mark.parametrize("place", ENGINES, ids=lambda place: place.name)
def test_each_library_goes_on_by_itself(sources: Sources, tmp_path: Path, place: Place) -> None:
    """What a library cannot do without any move would be taken for the fault of the move."""
    source = sources[place]
    path = tmp_path / "moved"
    if source.path.is_dir():
        shutil.copytree(source.path, path)
    else:
        shutil.copy(source.path, path)
    assert goes_on(sources, place, path, source.story).keys() == unread([place])


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_the_conversation_goes_on(
    sources: Sources, tmp_path: Path, source: Place, target: Place
) -> None:
    """A device that was moved to this library could not talk any more, or messages that were on
    their way would be lost without a word."""
    for way in hops(source, target):
        path = sources[source].path
        for place, before, lost in zip(way[1:], way, keys_lost(way), strict=False):
            moved = tmp_path / f"{way[-1].name} {place.name}"
            summary = copy_device(before.url(path), place.url(moved), **place.options)
            assert number_of_lost_keys(summary) == lost
            is_sound(place, moved)
            path = moved
        failed = goes_on(sources, way[-1], path, sources[source].story)
        assert failed.keys() == unread(way), failed


def test_every_step_is_taken() -> None:
    """A part of the conversation would be missing from all the moves."""
    assert set(STEPS) == VERBS.keys()
