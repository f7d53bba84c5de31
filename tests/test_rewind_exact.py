"""What an older state does that goes on as it is: the files of our device are put back by hand.

Every failure here is one that a real client or its peer reported; where it reads like somebody's
error message, it is that. ``docs/concepts/rewinding.md`` says why each of them happens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from rewind.casts import BAILEYS, PYAILEYS, story
from rewind.exchange import Stanza
from rewind.losses import live_on_exactly
from rewind.over_node import Driver
from rewind.story import GROUPS, US, Story

PEER = "peer 1"
USED_KEY = {
    PYAILEYS: "message key for old counter not found",
    BAILEYS: "Key used already or never filled",
}
"""What a peer says of a message that was made with a key which it has used."""
BAD_MAC = {PYAILEYS: "signal MAC mismatch", BAILEYS: "Bad MAC"}
OLD_ITERATION = {
    PYAILEYS: "received message with old counter",
    BAILEYS: "Received message with old counter",
}
each = pytest.mark.parametrize("us", [PYAILEYS, BAILEYS])
pairs = pytest.mark.parametrize(("us", "peer"), [(PYAILEYS, BAILEYS), (BAILEYS, PYAILEYS)])
"""Each client on each side."""


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    driver = Driver()
    yield driver
    driver.close()


def play(
    scene: Callable[[Story, Path], Coroutine[Any, Any, None]],
    us: str,
    peer: str,
    driver: Driver,
    folder: Path,
) -> None:
    """A scene with one peer, who has answered us; it gets a copy of our files as they are then."""

    async def played() -> None:
        told = story(us, driver, folder / "story", 1, (peer,))
        await told.begin(peers=1)
        await told.say(US, PEER)
        await told.settle()
        await scene(told, await told.save_files())
        await told.close()

    asyncio.run(played())


async def rewind(told: Story, copy: Path) -> None:
    """Our files are the older ones, and our client goes on with them."""
    await told.us.close()
    told.put_back(copy)
    await told.us.open()


async def refusal_of(told: Story, who: str) -> str:
    """Why a member could not read what is next for it."""
    member = told.members[who]
    before = len(member.refusals)
    await member.take_next()
    (refused,) = member.refusals[before:]
    return refused.error


def breaches(told: Story) -> list[str]:
    """What the server saw on the wire that may never be."""
    return [str(breach) for breach in told.exchange.ledger.breaches]


@pairs
def test_we_send_with_a_used_key(us: str, peer: str, driver: Driver, tmp_path: Path) -> None:
    """The docs are wrong about what a peer says to a message whose key was used before: or nothing
    is wrong with a rewound state, and all of the cold path is for nothing."""

    async def scene(told: Story, copy: Path) -> None:
        await told.say(US, PEER)
        await told.settle()
        assert breaches(told) == []
        await rewind(told, copy)
        await told.say(US, PEER)
        assert breaches(told) == ["reused message key: we made two direct messages at 3"]
        assert USED_KEY[peer] in await refusal_of(told, PEER)

    play(scene, us, peer, driver, tmp_path)


@pairs
def test_two_messages_under_one_key_are_alike(
    us: str, peer: str, driver: Driver, tmp_path: Path
) -> None:
    """The docs are wrong about what whoever sees both ciphertexts can see."""

    async def scene(told: Story, copy: Path) -> None:
        seen = []
        for text in ("what begins alike: one", "what begins alike: two"):
            await told.us.tell(PEER, text)
            (message,) = told.exchange.queues[PEER]
            assert isinstance(message, Stanza)
            ((kind, body),) = message.parts
            assert kind == "msg"
            seen.append(body)
            await told.settle()
            await rewind(told, copy)
        # The version, ratchet key, two counters and the length; then blocks of 16 bytes.
        until = 1 + 35 + 2 + 2 + 2 + 16
        assert seen[0] != seen[1]
        assert seen[0][:until] == seen[1][:until]

    play(scene, us, peer, driver, tmp_path)


@pairs
def test_we_send_in_a_former_chain(us: str, peer: str, driver: Driver, tmp_path: Path) -> None:
    """The same after the conversation has turned often: pyaileys has forgotten the chain by then,
    takes its key for a new one, and says what it says to a forgery."""
    said = BAD_MAC if peer == PYAILEYS else USED_KEY

    async def scene(told: Story, copy: Path) -> None:
        for _ in range(7):
            await told.say(US, PEER)
            await told.settle()
            await told.say(PEER, US)
            await told.settle()
        await rewind(told, copy)
        await told.say(US, PEER)
        assert breaches(told) == ["reused message key: we made two direct messages at 3"]
        assert said[peer] in await refusal_of(told, PEER)

    play(scene, us, peer, driver, tmp_path)


@pairs
def test_we_cannot_read_the_next_turn(us: str, peer: str, driver: Driver, tmp_path: Path) -> None:
    """The docs are wrong about what our client says to a peer whose ratchet has turned since: the
    "Bad MAC" that people report."""

    async def scene(told: Story, copy: Path) -> None:
        await told.say(US, PEER)
        await told.settle()
        await told.say(PEER, US)
        await told.settle()
        await told.say(US, PEER)
        await told.settle()
        await rewind(told, copy)
        await told.say(PEER, US)
        assert BAD_MAC[us] in await refusal_of(told, US)

    play(scene, us, peer, driver, tmp_path)


@pairs
def test_the_group_refuses_us(us: str, peer: str, driver: Driver, tmp_path: Path) -> None:
    """The docs are wrong about what a group says to an iteration of our sender key that it has
    read."""

    async def scene(told: Story, copy: Path) -> None:
        await told.say_to_group(US, GROUPS[0])
        await told.settle()
        await rewind(told, copy)
        await told.say_to_group(US, GROUPS[0])
        assert breaches(told) == ["reused message key: we made two group messages at 2"]
        assert OLD_ITERATION[peer] in await refusal_of(told, PEER)

    play(scene, us, peer, driver, tmp_path)


@pairs
def test_an_id_means_two_pre_keys(us: str, peer: str, driver: Driver, tmp_path: Path) -> None:
    """The docs are wrong about what becomes of a new peer who was given a pre-key that we made
    before the loss, when we have made another one of its id since."""

    async def scene(told: Story, copy: Path) -> None:
        await told.us.upload()
        given = max(told.exchange.ledger.pre_keys[US])
        await rewind(told, copy)
        await told.us.upload()
        assert f"reused pre-key: we made pre-key {given} twice" in breaches(told)
        while max(i for i, key in keys_of_ours(told).items() if key.is_handed_out) < given - 1:
            told.exchange.bundle(US)
        late = told.add_peer()
        await late.open()
        await told.say(late.name, US)
        assert BAD_MAC[us] in await refusal_of(told, US)

    play(scene, us, peer, driver, tmp_path)


def keys_of_ours(told: Story) -> dict[int, Any]:
    """Our pre-keys, as the server knows them."""
    keys: dict[int, Any] = told.exchange.ledger.pre_keys[US]
    return keys


@pairs
def test_a_first_message_comes_out_again(
    us: str, peer: str, driver: Driver, tmp_path: Path
) -> None:
    """The docs are wrong about a used-up pre-key that is back: whoever has kept the first message
    of a session can have us read it again, as if it had just been said. A state that was not
    rewound refuses it."""

    async def scene(told: Story, copy: Path) -> None:
        late = told.add_peer()
        await late.open()
        id = await told.say(late.name, US)
        first = told.exchange.queues[US][0]
        await told.settle()
        told.exchange.queues[US].append(first)
        assert USED_KEY[us] in await refusal_of(told, US)
        await rewind(told, copy)
        (back,) = breaches(told)
        assert back.startswith("reused pre-key: we still has the consumed pre-key")
        told.us.heard.clear()
        told.exchange.queues[US].append(first)
        await told.us.take_next()
        assert list(told.us.heard) == [id]

    play(scene, us, peer, driver, tmp_path)


@pairs
def test_it_does_not_heal_by_itself(us: str, peer: str, driver: Driver, tmp_path: Path) -> None:
    """The docs are wrong about clients that send no retry receipts: once the ratchet has turned
    often, two sides of a rewound session never understand each other again."""

    async def scene(told: Story, copy: Path) -> None:
        for sender, recipient in [(US, PEER), (PEER, US)] * 7:
            await told.say(sender, recipient)
            await told.settle()
        await rewind(told, copy)
        told.exchange.has_receipts = False
        before = len(told.refusals())
        for sender, recipient in [(US, PEER), (PEER, US)] * 4:
            await told.say(sender, recipient)
            await told.settle()
        assert len(told.refusals()) - before == 8
        _, *others = told.members[PEER].refusals
        said = {PYAILEYS: BAD_MAC[PYAILEYS], BAILEYS: "Chain closed"}
        assert all(said[peer] in refused.error for refused in others)
        assert len(told.lost()) == 8

    play(scene, us, peer, driver, tmp_path)


@each
def test_a_life_goes_on_with_an_older_state(us: str, driver: Driver, tmp_path: Path) -> None:
    """The harness that shows a cold restore to be harmless would not notice what is harmful."""

    async def played() -> None:
        told = story(us, driver, tmp_path / "story", 1)
        await told.begin()
        figures = await live_on_exactly(told)
        await told.close()
        assert figures.message_keys > 0
        assert figures.ids > 0
        assert figures.stock > 0
        assert figures.refusals > 0
        assert not figures.is_harmless

    asyncio.run(played())
