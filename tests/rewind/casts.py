"""The clients whose state is lost, each over its kind of store, and their peers."""

from __future__ import annotations

import random
from pathlib import Path

from .over_node import Baileys, Driver
from .over_pyaileys import Pyaileys
from .over_waeys import Waeys
from .story import Maker, Story

PYAILEYS, BAILEYS, WAEYS, WAEYS_FOLDER = "pyaileys", "Baileys", "waeys", "waeys, its folder"
CLIENTS = (PYAILEYS, BAILEYS, WAEYS, WAEYS_FOLDER)


def maker(name: str, driver: Driver) -> Maker:
    """What makes engines of a client."""
    makers: dict[str, Maker] = {
        PYAILEYS: Pyaileys,
        BAILEYS: lambda: Baileys(driver),
        WAEYS: Waeys,
        WAEYS_FOLDER: lambda: Waeys("baileys"),
    }
    return makers[name]


def story(
    name: str, driver: Driver, folder: Path, seed: int, peers: tuple[str, ...] = (BAILEYS, PYAILEYS)
) -> Story:
    """A story of this client in a folder of its own; its peers are of each kind in turn."""
    folder.mkdir()
    others = [maker(peer, driver) for peer in peers]
    return Story(folder, random.Random(seed), maker(name, driver), others)
