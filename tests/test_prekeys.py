"""Pre-key accounting: minting, upload, use, stock, and ids that wrap."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _aio_helpers import HANG, Background, outcomes, turns, until
from ratchetkeep import (
    AsyncDevice,
    Device,
    InvalidValue,
    KeyPair,
    PreKeyStock,
    open_async_device,
    open_device,
    prekeys,
)
from ratchetkeep.model import Credentials, EncodedRecord

PAIR = KeyPair.new()
LAST = 0xFFFFFE
"""The highest id, as libsignal's KeyHelper has it: Medium.MAX_VALUE (0xFFFFFF) less one."""


@pytest.fixture
def device() -> Iterator[Device]:
    with open_device("memory:", create=True) as device:
        yield device


def set_counters(device: Device, next_id: int, first_unuploaded: int | None = None) -> None:
    """As a client that has been running for long has them."""
    first = next_id if first_unuploaded is None else first_unuploaded
    device.save_credentials(
        device.credentials.replace(next_pre_key_id=next_id, first_unuploaded_pre_key_id=first)
    )


def counters(device: Device) -> tuple[int, int]:
    found = device.credentials
    return found.next_pre_key_id, found.first_unuploaded_pre_key_id


def hold(device: Device, *ids: int) -> None:
    """Pre-keys that are there already."""
    device.set({"pre-key": {str(id): PAIR for id in ids}})


def unchanged(device: Device, call: Callable[[], object]) -> None:
    """Refused, and nothing is different afterwards."""
    before = counters(device), device.ids("pre-key")
    with pytest.raises(InvalidValue) as caught:
        call()
    assert caught.value.what
    assert (counters(device), device.ids("pre-key")) == before


# -- a client's life


def test_a_client_s_life(device: Device) -> None:
    """Pre-keys would be uploaded twice, or never, or one that is used would be counted."""
    first = device.mint_pre_keys(5)
    assert list(first) == [1, 2, 3, 4, 5]
    assert counters(device) == (6, 1)
    assert device.get("pre-key", ["1", "5"]) == {"1": first[1], "5": first[5]}
    assert device.unuploaded_pre_keys() == first
    device.mark_pre_keys_uploaded(3)
    assert list(device.unuploaded_pre_keys()) == [4, 5]
    with device.transaction() as transaction:
        assert transaction.consume_pre_key(2) == first[2]
    assert device.pre_key_stock() == PreKeyStock(held=4, lowest=1, highest=5, waiting=2, next_id=6)
    second = device.mint_pre_keys(2)
    assert list(second) == [6, 7]
    assert list(device.unuploaded_pre_keys()) == [4, 5, 6, 7]
    device.mark_pre_keys_uploaded(7)
    assert device.unuploaded_pre_keys() == {}
    assert counters(device) == (8, 8)
    assert device.pre_key_stock() == PreKeyStock(held=6, lowest=1, highest=7, waiting=0, next_id=8)


def test_an_empty_stock(device: Device) -> None:
    """A new device could not be asked what it has."""
    assert device.unuploaded_pre_keys() == {}
    expected = PreKeyStock(held=0, lowest=None, highest=None, waiting=0, next_id=1)
    assert device.pre_key_stock() == expected


def test_a_client_s_own_encoding_is_listed_too(device: Device) -> None:
    """Pre-keys that a client stored in its own bytes would not be uploaded."""
    own: Any = EncodedRecord(encoding="own", data=b"bytes")
    device.set({"pre-key": {"1": own, "2": own}})
    set_counters(device, 3, 1)
    assert device.unuploaded_pre_keys() == {1: own, 2: own}
    with device.transaction() as transaction:
        assert transaction.consume_pre_key(1) == own


def test_minting_inside_a_transaction_is_part_of_it(device: Device) -> None:
    """Pre-keys would stay, or the counter, where the transaction that they belong to failed."""
    with pytest.raises(KeyError), device.transaction():
        assert list(device.mint_pre_keys(2)) == [1, 2]
        assert list(device.mint_pre_keys(1)) == [3]
        device.mark_pre_keys_uploaded(2)
        assert list(device.unuploaded_pre_keys()) == [3]
        assert device.pre_key_stock().held == 3
        raise KeyError
    assert counters(device) == (1, 1)
    assert device.ids("pre-key") == []
    assert list(device.mint_pre_keys(1)) == [1]


# -- ids that wrap


def test_ids_begin_again_after_the_last(device: Device) -> None:
    """An id would have more than three bytes, or be 0: no other client could use the key."""
    set_counters(device, LAST - 1)
    made = device.mint_pre_keys(4)
    assert list(made) == [LAST - 1, LAST, 1, 2]
    assert counters(device) == (3, LAST - 1)
    assert list(device.unuploaded_pre_keys()) == [LAST - 1, LAST, 1, 2]
    assert device.unuploaded_pre_keys() == made
    expected = PreKeyStock(held=4, lowest=1, highest=LAST, waiting=4, next_id=3)
    assert device.pre_key_stock() == expected
    device.mark_pre_keys_uploaded(LAST)
    assert list(device.unuploaded_pre_keys()) == [1, 2]
    device.mark_pre_keys_uploaded(LAST - 1)
    assert list(device.unuploaded_pre_keys()) == [1, 2]
    unchanged(device, lambda: device.mark_pre_keys_uploaded(3))
    device.mark_pre_keys_uploaded(2)
    assert counters(device) == (3, 3)


@pytest.mark.parametrize("next_id", [LAST + 1, LAST + 2])
def test_a_counter_that_went_past_the_last_id(device: Device, next_id: int) -> None:
    """A device whose client never wrapped would mint ids that do not fit on the wire."""
    set_counters(device, next_id)
    (id,) = device.mint_pre_keys(1)
    assert id == next_id - LAST
    assert list(device.unuploaded_pre_keys()) == [id]


def test_counters_that_stand_the_wrong_way(device: Device) -> None:
    """A client that moved one counter and not the other would upload every key once more, or could
    never mint again."""
    hold(device, 3, 5, 12)
    set_counters(device, 10, 20)
    assert device.unuploaded_pre_keys() == {}
    assert device.pre_key_stock().waiting == 0
    assert list(device.mint_pre_keys(2)) == [10, 11]
    assert list(device.unuploaded_pre_keys()) == [10, 11]
    assert counters(device) == (12, 10)


def test_a_live_id_is_never_given_out_again(device: Device) -> None:
    """A key that somebody may still use would be replaced: their first message could never be
    read."""
    hold(device, 1, 2, 5)
    set_counters(device, LAST)
    assert list(device.mint_pre_keys(1)) == [LAST]
    device.mark_pre_keys_uploaded(LAST)
    # 1 and 2 are taken, and two in a row are free from 3 on.
    assert list(device.mint_pre_keys(2)) == [3, 4]
    device.mark_pre_keys_uploaded(4)
    assert list(device.mint_pre_keys(2)) == [6, 7]
    assert device.get("pre-key", ["1", "2", "5"]) == {"1": PAIR, "2": PAIR, "5": PAIR}


def test_minting_is_refused_while_older_ones_are_in_the_way(device: Device) -> None:
    """What is skipped would be taken for waiting, and be uploaded a second time."""
    set_counters(device, 10)
    hold(device, 12)
    device.mint_pre_keys(1)
    unchanged(device, lambda: device.mint_pre_keys(2))
    assert list(device.mint_pre_keys(1)) == [11]
    unchanged(device, lambda: device.mint_pre_keys(1))
    device.mark_pre_keys_uploaded(11)
    assert list(device.mint_pre_keys(2)) == [13, 14]
    assert list(device.unuploaded_pre_keys()) == [13, 14]


@pytest.mark.parametrize("count", [0, -1, True, 1.0, "1", None, LAST])
def test_counts_that_are_refused(device: Device, count: object) -> None:
    """Nothing would be minted without a word, or far more than there is room for."""
    unchanged(device, lambda: device.mint_pre_keys(count))  # type: ignore[arg-type]


@pytest.mark.parametrize("up_to", [0, -1, True, 1.0, "1", None, LAST + 1])
def test_ids_that_cannot_be_marked(device: Device, up_to: object) -> None:
    """A counter would be moved to what is no id."""
    device.mint_pre_keys(2)
    unchanged(device, lambda: device.mark_pre_keys_uploaded(up_to))  # type: ignore[arg-type]


@pytest.mark.parametrize("next_id", [1, 2, 100, prekeys.MAX_PRE_KEY_ID])
def test_an_id_that_was_never_minted_cannot_be_marked(next_id: int) -> None:
    """A client that marks one too many would not be told, and would take the next minted one for
    uploaded."""
    credentials = Credentials.new().replace(
        next_pre_key_id=next_id, first_unuploaded_pre_key_id=next_id
    )
    with pytest.raises(InvalidValue, match="minted"):
        prekeys.uploaded(next_id, credentials)


# -- any sequence, against a simple model, with few ids so that they wrap often

FEW = 24


class Model:
    """What is live, what waits in the order of minting, and which id comes next."""

    def __init__(self) -> None:
        self.live: set[int] = set()
        self.window: list[int] = []
        self.uploaded: list[int] = []
        self.next = 1

    def run_of(self, start: int, count: int) -> list[int]:
        return [(start + step - 1) % FEW + 1 for step in range(count)]

    def would_mint(self, count: int) -> list[int] | None:
        """The ids that minting gives, or None if it is refused."""
        if not 1 <= count <= FEW // 2 - len(self.window):
            return None
        for start in self.run_of(self.next, 1 if self.window else FEW):
            ids = self.run_of(start, count)
            if not self.live & set(ids):
                return ids
        return None

    def mint(self, ids: list[int]) -> None:
        self.live |= set(ids)
        self.window += ids
        self.next = self.run_of(ids[-1], 2)[1]

    def mark(self, id: int) -> None:
        while id in self.window:
            self.uploaded.append(self.window.pop(0))

    @property
    def waiting(self) -> list[int]:
        return [id for id in self.window if id in self.live]

    @property
    def marked_before(self) -> list[int]:
        """Some of those that were uploaded last, without a gap."""
        first = (self.window or [self.next])[0]
        near = self.run_of(first - 4, 4)
        return [id for id in self.uploaded[-4:] if id in near]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("mint"), st.integers(0, FEW // 2 + 1)),
        st.tuples(st.sampled_from(["mark", "mark all", "consume", "again"]), st.integers(0, FEW)),
    ),
    max_size=40,
)


@given(STEPS)
@settings(max_examples=150, deadline=None)
def test_any_sequence_agrees_with_the_model(program: list[tuple[str, int]]) -> None:
    """After many rounds a live id would be given out again, or one be uploaded twice or never."""
    model = Model()
    with pytest.MonkeyPatch.context() as patch, open_device("memory:", create=True) as device:
        patch.setattr(prekeys, "MAX_PRE_KEY_ID", FEW)
        patch.setattr(KeyPair, "new", lambda: PAIR)
        for step, number in program:
            follow(device, model, step, number)
            assert set(map(int, device.ids("pre-key"))) == model.live
            assert list(device.unuploaded_pre_keys()) == model.waiting
            assert device.pre_key_stock() == PreKeyStock(
                held=len(model.live),
                lowest=min(model.live, default=None),
                highest=max(model.live, default=None),
                waiting=len(model.waiting),
                next_id=model.next,
            )


def follow(device: Device, model: Model, step: str, number: int) -> None:
    """One step, on both."""
    if step == "mint":
        expected = model.would_mint(number)
        if expected is None:
            unchanged(device, lambda: device.mint_pre_keys(number))
            return
        assert not set(expected) & model.live
        assert list(device.mint_pre_keys(number)) == expected
        model.mint(expected)
    elif step == "consume" and model.live:
        id = sorted(model.live)[number % len(model.live)]
        with device.transaction() as transaction:
            transaction.consume_pre_key(id)
        model.live.remove(id)
    elif step in ("mark", "mark all") and model.window:
        id = model.window[-1 if step == "mark all" else number % len(model.window)]
        device.mark_pre_keys_uploaded(id)
        model.mark(id)
    elif step == "again":
        before = counters(device)
        for id in model.marked_before:
            device.mark_pre_keys_uploaded(id)
            assert counters(device) == before
        for id in model.run_of(model.next, 4):
            unchanged(device, partial(device.mark_pre_keys_uploaded, id))


# -- many at once


def disjoint(minted: list[list[int]], device: Device) -> None:
    """Each id was given out once, and all of them are there."""
    all_ = [id for ids in minted for id in ids]
    assert sorted(all_) == list(range(1, len(all_) + 1))
    assert sorted(map(int, device.ids("pre-key"))) == sorted(all_)
    assert counters(device) == (len(all_) + 1, 1)
    assert list(device.unuploaded_pre_keys()) == sorted(all_)


def test_fifty_tasks_mint_at_once() -> None:
    """Two tasks would give out one id."""

    async def main(device: AsyncDevice) -> list[list[int]]:
        async def mint(number: int) -> list[int]:
            return list(await device.mint_pre_keys(1 + number % 4))

        return await asyncio.gather(*(mint(number) for number in range(50)))

    with open_device("memory:", create=True) as device:
        disjoint(asyncio.run(main(AsyncDevice(device))), device)


def test_threads_mint_at_once(device: Device) -> None:
    """Two threads would give out one id."""
    threads = [Background(lambda: list(device.mint_pre_keys(3))) for _ in range(12)]
    assert all(each.ends() and each.error is None for each in threads)
    disjoint([each.result for each in threads], device)


def test_saving_credentials_and_minting_lose_nothing(device: Device) -> None:
    """A client that saves the credentials beside would turn the counter back."""

    async def main(face: AsyncDevice) -> None:
        async def names(number: int) -> None:
            async with face.transaction("credentials") as transaction:
                before = transaction.credentials
                await turns(number % 3)
                await transaction.save_credentials(
                    before.replace(platform=f"{before.platform or ''}x")
                )

        await asyncio.gather(
            *(names(number) for number in range(20)),
            *(face.mint_pre_keys(2) for _ in range(20)),
        )

    asyncio.run(main(AsyncDevice(device)))
    assert counters(device) == (41, 1)
    assert str(device.credentials.platform).endswith("x" * 20)


# -- using one


def test_one_that_is_consumed_is_gone(device: Device) -> None:
    """A pre-key would be used a second time."""
    hold(device, 5)
    with device.transaction() as transaction:
        assert transaction.consume_pre_key("5") == PAIR
        assert transaction.get("pre-key", ["5"]) == {}
        with pytest.raises(InvalidValue, match="used before"):
            transaction.consume_pre_key(5)
        with pytest.raises(InvalidValue, match="used before"):
            transaction.consume_pre_key(6)
    with device.transaction() as transaction, pytest.raises(InvalidValue):
        transaction.consume_pre_key(5)
    assert device.ids("pre-key") == []


def test_a_failing_transaction_uses_nothing_up(device: Device) -> None:
    """A pre-key would be lost with a message that could not be read, and the next try fail."""
    hold(device, 5)
    for _ in range(2):
        with pytest.raises(KeyError), device.transaction() as transaction:
            assert transaction.consume_pre_key(5) == PAIR
            raise KeyError
    with device.transaction() as outer:
        with pytest.raises(KeyError), device.transaction() as inner:
            assert inner.consume_pre_key(5) == PAIR
            raise KeyError
        assert outer.get("pre-key", ["5"]) == {"5": PAIR}
        assert outer.consume_pre_key(5) == PAIR
    assert device.ids("pre-key") == []


@pytest.mark.parametrize("first_fails", [False, True])
def test_one_pre_key_is_consumed_once_by_threads(device: Device, first_fails: bool) -> None:
    """Two first messages that name one pre-key would both be taken, at once; or the second be
    refused though the first one failed."""
    hold(device, 5)
    has_it, go_on = threading.Event(), threading.Event()

    def first() -> None:
        with device.transaction() as transaction:
            transaction.consume_pre_key(5)
            has_it.set()
            assert go_on.wait(HANG)
            if first_fails:
                raise KeyError

    def second() -> None:
        with device.transaction() as transaction:
            transaction.consume_pre_key(5)

    one = Background(first)
    assert has_it.wait(HANG)
    two = Background(second)
    until(lambda: device._locks._waits)
    go_on.set()
    assert one.ends() and two.ends()
    assert isinstance(one.error, KeyError if first_fails else type(None))
    assert isinstance(two.error, type(None) if first_fails else InvalidValue)
    assert device.ids("pre-key") == []


@pytest.mark.parametrize("first_fails", [False, True])
def test_one_pre_key_is_consumed_once_by_tasks(first_fails: bool) -> None:
    """The same for tasks, and for tasks inside one transaction."""

    async def main() -> list[str]:
        async with open_async_device("memory:", create=True) as device:
            names = []
            for shared in (False, True):
                await device.set({"pre-key": {"5": PAIR}})

                async def message(fails: bool) -> None:
                    async with device.transaction() as transaction:
                        await transaction.consume_pre_key(5)
                        await turns(3)
                        if fails:
                            raise KeyError

                async def both() -> list[BaseException | None]:
                    return await outcomes(message(first_fails), message(False))

                if shared:
                    async with device.transaction():
                        told = await both()
                else:
                    told = await both()
                names += [type(error).__name__ for error in told]
                assert await device.ids("pre-key") == []
            return names

    expected = ["KeyError", "NoneType"] if first_fails else ["NoneType", "InvalidValue"]
    assert asyncio.run(main()) == expected * 2
