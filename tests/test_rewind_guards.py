"""The tests of the cold path, tested: each leaves out one thing that it does, and must see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ratchetkeep import Device, open_device
from rewind.casts import PYAILEYS, story
from rewind.losses import Keeper
from rewind.over_node import Driver
from rewind.story import GROUPS, US, Figures

PEER = "peer 1"

Leave = Callable[[Device, Device], None]


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    driver = Driver()
    yield driver
    driver.close()


def keep(family: str) -> Leave:
    """Put the older records of a family back."""

    def leave(older: Device, device: Device) -> None:
        device.set({family: older.get(family, older.ids(family))})

    return leave


def keep_counters(older: Device, device: Device) -> None:
    """Put the older counters of the pre-keys back."""
    before = older.credentials
    device.save_credentials(
        device.credentials.replace(
            next_pre_key_id=before.next_pre_key_id,
            first_unuploaded_pre_key_id=before.first_unuploaded_pre_key_id,
        )
    )


@pytest.mark.parametrize(
    ("leave", "sees"),
    [
        pytest.param(keep("session"), lambda seen: seen.message_keys, id="sessions"),
        pytest.param(keep("sender-key"), lambda seen: seen.message_keys, id="sender keys"),
        pytest.param(keep("sender-key-memory"), lambda seen: seen.refusals, id="memory"),
        pytest.param(keep("pre-key"), lambda seen: seen.stock, id="pre-keys"),
        pytest.param(keep_counters, lambda seen: seen.ids, id="counters"),
    ],
)
def test_what_is_left_out_is_seen(
    leave: Leave, sees: Callable[[Figures], int], driver: Driver, tmp_path: Path
) -> None:
    """A cold restore could leave this out, and all tests of it would pass."""

    async def played() -> None:
        told = story(PYAILEYS, driver, tmp_path / "story", 1)
        await told.begin()
        keeper = Keeper(told)
        snapshot = await keeper.take_snapshot()
        await keeper.back_up()
        await told.us.upload()
        stranger = await told.newcomer()
        await told.say(US, PEER)
        await told.say_to_group(US, GROUPS[0])
        await told.settle()
        await told.us.close()
        keeper.restore(keeper.backups[0], wipe=True)
        with (
            open_device(f"sqlite:{snapshot}/state.db", read_only=True) as older,
            open_device(told.us.url) as device,
        ):
            leave(older, device)
        figures = told.mark()
        await told.us.open()
        await told.us.upload()
        for name in (PEER, "peer 2", stranger.name):
            await told.say(US, name)
        await told.say_to_group(US, GROUPS[0])
        await told.settle()
        await told.close()
        assert sees(figures()) > 0

    asyncio.run(played())
