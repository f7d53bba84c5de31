"""waeys' own locks and the device's: whatever the order, no verbs wait for each other for ever."""

from __future__ import annotations

import asyncio
from pathlib import Path

from clients._waeys_peer import Peer, acquainted, in_loop

TURNS = 16
# Seconds in which a verb must end that does not wait for ever.
PATIENCE = 30


async def later(turns: int, sender: Peer, to: Peer) -> dict[str, object]:
    for _ in range(turns):
        await asyncio.sleep(0)
    return await sender.send(to, "meanwhile")


@in_loop
async def test_sending_while_a_first_message_comes_in(tmp_path: Path) -> None:
    """A bot that answers while the other side still sends first messages would hang for good:
    encrypting takes waeys' lock first, decrypting a first message takes the device's."""
    alice, bob = await acquainted(tmp_path)
    assert await bob.read(await alice.send(bob, "hello")) == "hello"
    for turn in range(TURNS):
        await bob.reopen()  # what is in memory would be read without a pause
        message = await alice.send(bob, f"{turn}")
        assert message["type"] == "pkmsg"
        async with asyncio.timeout(PATIENCE):
            read, _ = await asyncio.gather(bob.read(message), later(turn, bob, alice))
        assert read == f"{turn}"
    await alice.close()
    await bob.close()
