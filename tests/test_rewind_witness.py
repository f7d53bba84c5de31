"""A witness finds a file that was put back, before the client says a word with it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from ratchetkeep import StoreRewound, open_device
from ratchetkeep.restore import cool_device
from rewind.casts import BAILEYS, PYAILEYS, maker
from rewind.over_node import Driver
from rewind.over_pyaileys import Pyaileys
from rewind.story import US, Story

PEER = "peer 1"


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    driver = Driver()
    yield driver
    driver.close()


def play(
    scene: Callable[[Story, Path], Coroutine[Any, Any, None]], driver: Driver, folder: Path
) -> None:
    """A scene with a witnessed device and peers of both kinds; it gets a copy of our files as they
    are after the beginning."""

    async def played() -> None:
        witness = folder / "elsewhere"
        peers = [maker(name, driver) for name in (BAILEYS, PYAILEYS)]
        (folder / "story").mkdir()
        told = Story(folder / "story", random.Random(1), lambda: Pyaileys(witness), peers)
        await told.begin()
        await scene(told, await told.save_files())
        await told.close()

    asyncio.run(played())


def test_a_file_that_was_put_back(driver: Driver, tmp_path: Path) -> None:
    """pyaileys would go on with an older file, and use message keys twice; or it could not go on
    after the remedy that the error names."""

    async def scene(told: Story, copy: Path) -> None:
        for sender, recipient in ((US, PEER), (PEER, US), (US, PEER)):
            await told.say(sender, recipient)
            await told.settle()
        await told.us.close()
        told.put_back(copy)
        figures = told.mark()
        for _ in range(2):
            with pytest.raises(StoreRewound):
                await told.us.engine.open(told.us.folder, told.us.me)
        with pytest.raises(StoreRewound):
            open_device(told.us.url, witness=tmp_path / "elsewhere")
        cool_device(told.us.url)
        await told.us.open()
        await told.everyone_speaks()
        assert figures().is_harmless

    play(scene, driver, tmp_path)


def test_without_a_witness_nobody_notices(driver: Driver, tmp_path: Path) -> None:
    """What the witness finds would be found by something else, and the test of it shows nothing."""

    async def scene(told: Story, copy: Path) -> None:
        await told.say(US, PEER)
        await told.settle()
        await told.us.close()
        told.put_back(copy)
        told.us.engine = Pyaileys()
        await told.us.open()
        figures = told.mark()
        await told.say(US, PEER)
        await told.settle()
        assert figures().message_keys == 1

    play(scene, driver, tmp_path)


def test_it_is_silent_while_nothing_is_put_back(driver: Driver, tmp_path: Path) -> None:
    """A device that only goes on, is closed and opened again is taken for one that was rewound."""

    async def scene(told: Story, copy: Path) -> None:
        for _ in range(3):
            await told.say(US, PEER)
            await told.settle()
            await told.us.close()
            await told.us.open()
        assert told.refusals() == []

    play(scene, driver, tmp_path)
