"""A cold restore heals: the same clients, the same losses, and nothing is used twice or lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from rewind.casts import BAILEYS, PYAILEYS, WAEYS, WAEYS_FOLDER, story
from rewind.losses import Keeper, lose_and_restore
from rewind.over_node import Driver
from rewind.story import GROUPS, US, Figures, Story

PEER = "peer 1"
each = pytest.mark.parametrize("us", [PYAILEYS, BAILEYS])


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    driver = Driver()
    yield driver
    driver.close()


def play(
    scene: Callable[[Story], Coroutine[Any, Any, None]],
    us: str,
    driver: Driver,
    folder: Path,
    seed: int = 1,
    peers: int = 2,
) -> None:
    """A scene with peers of both kinds, who have all heard each other."""

    async def played() -> None:
        told = story(us, driver, folder / "story", seed)
        await told.begin(peers)
        await scene(told)
        await told.close()

    asyncio.run(played())


async def restored(told: Story, keeper: Keeper, *, how: str) -> None:
    """All is lost since the first backup or snapshot, and we are back, cold."""
    await told.us.close()
    if how == "in place":
        keeper.cool(keeper.snapshots[0])
    else:
        keeper.restore(keeper.backups[0], wipe=how == "on a new machine")
    keeper.check_cold()
    await told.us.open()


async def kept(told: Story) -> Keeper:
    """A backup and a snapshot of now."""
    keeper = Keeper(told)
    await keeper.take_snapshot()
    await keeper.back_up()
    return keeper


@pytest.mark.parametrize(
    ("us", "how"),
    [
        (PYAILEYS, "on a new machine"),
        (PYAILEYS, "in place"),
        (BAILEYS, "over the newer state"),
        (BAILEYS, "in place"),
    ],
)
def test_everyone_talks_again(us: str, how: str, driver: Driver, tmp_path: Path) -> None:
    """After a cold restore a peer or a group stays deaf, something is used twice, or a text that
    somebody sent before, during or after the loss never comes out."""

    async def scene(told: Story) -> None:
        keeper = await kept(told)
        figures = told.mark()
        await told.live(10)
        await told.us.close()
        await told.talk(6)
        await told.us.open()
        await restored(told, keeper, how=how)
        await told.everyone_speaks()
        assert figures().is_harmless, (figures(), told.lost())
        assert figures().receipts > 0
        healed = told.mark()
        await told.everyone_speaks()
        assert healed() == Figures(0, 0, 0, 0, 0, 0, 0)

    play(scene, us, driver, tmp_path)


@each
def test_a_peer_who_writes_first(us: str, driver: Driver, tmp_path: Path) -> None:
    """What the docs say a peer sees is wrong: in its old session, with a pre-key that the server
    still has, and then with one of ours."""

    async def scene(told: Story) -> None:
        keeper = await kept(told)
        await told.say(PEER, US)
        await told.settle()
        await restored(told, keeper, how="on a new machine")
        figures = told.mark()
        id = await told.say(PEER, US)
        await told.settle()
        first, second = told.us.refusals
        assert (first.id, first.kind) == (id, "msg")
        assert (second.id, second.kind) == (id, "pkmsg")
        said = {PYAILEYS: "missing one-time pre-key", BAILEYS: "PreKeyError: Invalid PreKey ID"}
        assert said[us] in second.error
        assert figures().receipts == 2
        assert figures().is_harmless
        await told.say(PEER, US)
        await told.say(US, PEER)
        await told.settle()
        assert figures().receipts == 2

    play(scene, us, driver, tmp_path)


@each
def test_we_write_first(us: str, driver: Driver, tmp_path: Path) -> None:
    """What the docs say is wrong: whoever we write to first is asked for nothing again, on either
    side."""

    async def scene(told: Story) -> None:
        keeper = await kept(told)
        await told.say(PEER, US)
        await told.settle()
        await restored(told, keeper, how="on a new machine")
        told.exchange.has_receipts = False  # as with pyaileys, which sends none
        figures = told.mark()
        before = told.us.begun
        await told.say(US, PEER)
        await told.settle()
        await told.say(PEER, US)
        await told.settle()
        assert told.us.begun == before + 1
        assert figures() == Figures(0, 0, 0, 0, 0, 0, 0)

    play(scene, us, driver, tmp_path)


@each
def test_a_new_peer_with_a_pre_key_that_is_gone(us: str, driver: Driver, tmp_path: Path) -> None:
    """Someone who was given one of our former pre-keys never reaches us."""

    async def scene(told: Story) -> None:
        keeper = await kept(told)
        await told.us.close()
        stranger = await told.newcomer()
        await told.us.open()
        await restored(told, keeper, how="on a new machine")
        figures = told.mark()
        await told.settle()
        await told.say(US, stranger.name)
        await told.settle()
        assert figures().is_harmless
        assert figures().receipts > 0

    play(scene, us, driver, tmp_path)


@each
def test_groups(us: str, driver: Driver, tmp_path: Path) -> None:
    """A group does not hear our new sender key; or a member's chain that stands where the backup
    left it cannot be turned to what the member says now; or a member that has changed its sender
    key since is not asked again; in groups by number and by LID."""

    async def scene(told: Story) -> None:
        keeper = await kept(told)
        for group in GROUPS:
            for _ in range(3):
                await told.say_to_group(PEER, group)
                await told.say_to_group("peer 2", group)
        await told.settle()
        await told.members["peer 2"].forget_sender_key(GROUPS[0])
        await told.say_to_group("peer 2", GROUPS[0])
        await told.settle()
        await restored(told, keeper, how="on a new machine")
        figures = told.mark()
        for group in GROUPS:
            await told.say_to_group(US, group)
        await told.settle()
        assert figures().refusals == 0
        for group in GROUPS:
            await told.say_to_group(PEER, group)
        await told.say_to_group("peer 2", GROUPS[1])
        await told.settle()
        assert figures().refusals == 0
        id = await told.say_to_group("peer 2", GROUPS[0])
        await told.settle()
        # In its answer it begins a session with a pre-key that the server still has, and we do not.
        refused = [(each.id, each.kind) for each in told.us.refusals]
        assert refused == [(id, "skmsg"), (id, "pkmsg")]
        assert figures().receipts == 2
        await told.say_to_group("peer 2", GROUPS[0])
        await told.settle()
        assert figures().receipts == 2
        assert figures().is_harmless

    play(scene, us, driver, tmp_path)


@each
def test_a_first_message_that_comes_again(us: str, driver: Driver, tmp_path: Path) -> None:
    """The message that used up a pre-key after the backup comes out again after a cold restore."""

    async def scene(told: Story) -> None:
        keeper = await kept(told)
        late = told.add_peer()
        await late.open()
        id = await told.say(late.name, US)
        first = told.exchange.queues[US][0]
        await told.settle()
        assert told.us.heard.pop(id)
        await restored(told, keeper, how="on a new machine")
        told.exchange.queues[US].append(first)
        await told.us.take_next()
        assert id not in told.us.heard
        assert [refused.id for refused in told.us.refusals] == [id]

    play(scene, us, driver, tmp_path)


@each
def test_a_group_message_that_comes_again(us: str, driver: Driver, tmp_path: Path) -> None:
    """The docs are wrong about the one thing that a cold restore leaves: the kept sender key of an
    author reads once more what it read after the backup, though once only."""

    async def scene(told: Story) -> None:
        keeper = await kept(told)
        id = await told.say_to_group(PEER, GROUPS[0])
        message = told.exchange.queues[US][0]
        await told.settle()
        assert told.us.heard.pop(id)
        await restored(told, keeper, how="on a new machine")
        told.exchange.queues[US].append(message)
        await told.us.take_next()
        assert told.us.heard.pop(id)
        told.exchange.queues[US].append(message)
        await told.us.take_next()
        assert id not in told.us.heard
        assert [refused.id for refused in told.us.refusals] == [id]

    play(scene, us, driver, tmp_path)


@each
def test_the_same_backup_again(us: str, driver: Driver, tmp_path: Path) -> None:
    """Two lives that begin with one backup give out the same pre-key ids, or a message key."""

    async def scene(told: Story) -> None:
        keeper = await kept(told)
        figures = told.mark()
        for _ in range(2):
            await restored(told, keeper, how="on a new machine")
            await told.us.upload()
            for name in (PEER, "peer 2"):
                await told.say(US, name)
            await told.say_to_group(US, GROUPS[0])
            await told.settle()
        assert figures().is_harmless

    play(scene, us, driver, tmp_path)


@pytest.mark.parametrize(("us", "seed", "rounds"), [(PYAILEYS, 11, 2), (BAILEYS, 12, 1)])
def test_rounds(us: str, seed: int, rounds: int, driver: Driver, tmp_path: Path) -> None:
    """Losses at random, one after the other, harm after all: older backups, the same one twice,
    snapshots that are put back and cooled, new machines, peers who come while we are gone."""

    async def scene(told: Story) -> None:
        keeper = Keeper(told)
        for _ in range(rounds):
            figures = await lose_and_restore(told, keeper)
            assert figures.is_harmless, (figures, told.lost())

    play(scene, us, driver, tmp_path, seed)


@pytest.mark.parametrize("us", [WAEYS, WAEYS_FOLDER])
def test_waeys(us: str, driver: Driver, tmp_path: Path) -> None:
    """A device of waeys that is restored cold is one that it cannot go on with; over a folder, as
    its owner."""

    async def scene(told: Story) -> None:
        keeper = await kept(told)
        await told.say(US, PEER)
        await told.settle()
        figures = told.mark()
        await restored(told, keeper, how="over the newer state")
        await told.say(PEER, US)
        await told.settle()
        await told.say(US, PEER)
        await told.settle()
        assert figures().is_harmless

    play(scene, us, driver, tmp_path, peers=1)
