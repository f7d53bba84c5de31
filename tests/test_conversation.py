"""Two devices of real clients talk while their processes are killed: the conversation goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from conversation import broken
from conversation.casts import CASTS, Cast
from conversation.course import PEER
from conversation.play import LAST_MESSAGES, Play, Score, perform
from conversation.wire import BadMessage, FirstMessage, MessageKey, first_message, message_key

SEED = 4
KILLS = {"pyaileys": 30, "waeys": 15, "both": 15}


@pytest.mark.parametrize("cast", CASTS, ids=lambda cast: cast.name)
def test_conversation_goes_on(cast: Cast, tmp_path: Path) -> None:
    """A kill would leave a message that nobody can read, a pre-key or a message key that is used
    twice, or a store that is not sound."""
    kills = KILLS[cast.client]
    score = asyncio.run(perform(cast.play(tmp_path, kills=kills, seed=SEED)))
    assert score.breaches == []
    assert score.counts["kills"] >= kills
    assert score.counts["messages"] >= len(PEER) * LAST_MESSAGES
    assert score.counts["pre-keys consumed"] > 0
    assert score.counts["skmsg"] > 0


def broken_play(
    engine: type, tmp_path: Path, *, is_ours: bool = True, allowed: int = 0, patience: float = 60.0
) -> Score:
    """What comes of a conversation with an engine that breaks a promise."""
    urls = {device: str(tmp_path / f"{device}{'.db' if is_ours else ''}") for device in PEER}
    name = f"{engine.__module__}:{engine.__name__}"
    play = Play(
        tmp_path,
        dict.fromkeys(PEER, name),
        urls,
        kills=400,
        seed=SEED,
        patience=patience,
        breaches_allowed=allowed,
        is_ours=is_ours,
    )
    return asyncio.run(perform(play))


def test_files_without_transactions_are_found_out(tmp_path: Path) -> None:
    """The harness would not notice a store that writes each record over in a file of its own: its
    figures would prove nothing."""
    assert broken_play(broken.Folder, tmp_path, is_ours=False).breaches != []


def test_records_committed_apart_are_found_out(tmp_path: Path) -> None:
    """The harness would not notice that an adapter commits the parts of one step one by one."""
    assert broken_play(broken.Apart, tmp_path).breaches != []


def test_ciphertexts_handed_out_too_early_are_found_out(tmp_path: Path) -> None:
    """The harness would not notice a message key that is used twice for sending."""
    score = broken_play(broken.Late, tmp_path, allowed=30)
    assert score.breached("reused message key") > 0


def test_pre_keys_minted_twice_are_found_out(tmp_path: Path) -> None:
    """The harness would not notice that a device gives out two pre-keys of one id."""
    score = broken_play(broken.Forgetful, tmp_path)
    assert score.breached("reused pre-key") > 0


def test_hangs_are_found_out(tmp_path: Path) -> None:
    """A kill would hide that two tasks of a device wait for each other for ever."""
    score = broken_play(broken.Stuck, tmp_path, patience=2.0)
    assert "hangs" in score.breaches[0].what
    assert "acquire" in "".join(path.read_text() for path in tmp_path.glob("*.errors"))


def field(number: int, value: bytes | int) -> bytes:
    """One field of a protobuf message, with small numbers only."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value


def test_wire() -> None:
    """The judge would take one message key for another, and see no key that is used twice."""
    inner = b"\x33" + field(1, b"r" * 33) + field(2, 7) + field(3, 0) + field(4, b"text") + b"m" * 8
    outer = b"\x33" + field(1, 5) + field(2, b"b" * 33) + field(4, inner) + field(6, 1)
    group = b"\x33" + field(1, 9) + field(2, 3) + field(3, b"text") + b"s" * 64
    key = message_key("msg", inner)
    assert (key.chain, key.at) == (b"r" * 33, 7)
    assert message_key("pkmsg", outer) == key
    assert first_message(outer) == FirstMessage(5, b"b" * 33)
    assert message_key("skmsg", group) == MessageKey(9, 3, message_key("skmsg", group).digest)
    assert message_key("msg", inner[:-1] + b"x").digest != key.digest


@pytest.mark.parametrize("data", [b"", b"\x33", b"\x22" + b"x" * 80, b"\x33" + b"\xff" * 80])
def test_wire_refuses(data: bytes) -> None:
    """Garbage would be taken for a message, or end the server instead of the run."""
    for kind in ("msg", "pkmsg", "skmsg"):
        with pytest.raises(BadMessage):
            message_key(kind, data)
