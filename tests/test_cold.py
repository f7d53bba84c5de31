"""What of a device goes on cold: nothing that an older state would use twice, and all else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _helpers import ALICE, BOB, COMPAT, GOLDEN, OTP29
from ratchetkeep._cold import REASONS, cooled, placeholder
from ratchetkeep._cold_ids import AFTER, LAST_START, cold_start
from ratchetkeep.formats import spellings
from ratchetkeep.formats._shape import Losses
from ratchetkeep.model import CREDENTIALS, EncodedRecord, Key
from ratchetkeep.prekeys import MAX_PRE_KEY_ID
from ratchetkeep.stores import urls

FIXTURES = [ALICE, BOB, OTP29, COMPAT, GOLDEN / "pyaileys" / "alice", GOLDEN / "pyaileys" / "bob"]


def records_of(path: Any) -> dict[Key, Any]:
    """All records of a golden device."""
    store = urls.open_target(urls.parse(path))
    store.acquire("default", read_only=True, create=False)
    try:
        return {key: store.decode("default", key, raw) for key, raw in store.entries("default")}
    finally:
        store.close()


@pytest.mark.parametrize("path", FIXTURES, ids=str)
def test_what_goes_on(path: Any) -> None:
    """A session, a pre-key or a key that we send with would be used twice; or something that the
    link needs would be lost."""
    records = records_of(path)
    cold = cooled(records)
    own = {key for key in records if key.family == "sender-key" and is_signing(key, records[key])}
    gone = {key for key in records if key.family in REASONS and key.family != "sender-key"} | own
    assert own
    assert cold.keys() == records.keys() - gone
    assert all(cold[key] == records[key] for key in cold if key != CREDENTIALS)
    old, new = records[CREDENTIALS], cold[CREDENTIALS]
    assert new.next_pre_key_id == new.first_unuploaded_pre_key_id
    assert new.next_pre_key_id >= old.next_pre_key_id + AFTER
    counters = {
        "next_pre_key_id": old.next_pre_key_id,
        "first_unuploaded_pre_key_id": old.first_unuploaded_pre_key_id,
    }
    assert new.replace(**counters) == old


def is_signing(key: Key, value: Any) -> bool:
    """Whether a sender key has a private key to sign with."""
    states = spellings.to_model(key, value).states
    return any(state.sender_signing_key.private is not None for state in states)


@pytest.mark.parametrize("encoding", ["signal-protobuf", "go-json"])
def test_other_spellings(encoding: str) -> None:
    """A session or sender key of ours in another library's spelling would go on."""
    records = records_of(ALICE)
    for key, value in records.items():
        if key.family in spellings.FAMILIES:
            spelled = spellings.respell(key, value, encoding, records[CREDENTIALS], Losses())
            records[key] = spelled or value
    cold = cooled(records)
    assert set(cold) == set(cooled(records_of(ALICE)))


def test_sender_keys_that_nobody_can_read() -> None:
    """One of ours would go on because its spelling is unknown or it is damaged."""
    records = records_of(ALICE)
    for encoding, id in (("of-nobody", "g@g.us::5::1"), ("go-json", "g@g.us::5::2")):
        records[Key("sender-key", id)] = EncodedRecord(encoding=encoding, data=b"{")
    cold = cooled(records)
    assert not {key for key in cold if key.id.startswith("g@g.us::5::")}


def test_the_sender_key_of_our_id_alone() -> None:
    """A sender key that is called ours would go on, since its private key is not there; or that of
    our phone, which is not ours, would be dropped."""
    records = records_of(ALICE)
    other = next(
        value
        for key, value in records.items()
        if key.family == "sender-key" and not is_signing(key, value)
    )
    ours = [
        Key("sender-key", f"g@g.us::{name}::12") for name in ("4915112345678", "112233445566778_1")
    ]
    phone = Key("sender-key", "g@g.us::4915112345678::0")
    records.update(dict.fromkeys([*ours, phone], other))
    cold = cooled(records)
    assert phone in cold
    assert not {*ours} & cold.keys()


def ahead(start: int, end: int) -> int:
    """Steps forward on the circle of ids."""
    return (end - start) % MAX_PRE_KEY_ID


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3))
def test_new_ids_are_far_from_known_ones(known: list[int]) -> None:
    """The life after the backup, or the new one, would come to ids that the other gave out."""
    start = cold_start(known)
    assert 1 < start <= LAST_START
    for id in known:
        mark = (id - 1) % MAX_PRE_KEY_ID + 1
        assert ahead(mark, start) >= AFTER
        assert ahead(start, mark) >= AFTER


def test_restores_of_one_backup_begin_apart() -> None:
    """Two restores of a backup would give out the same ids."""
    starts = sorted(cold_start([813]) for _ in range(50))
    assert len(set(starts)) == 50
    assert starts[-1] - starts[0] > 2**20


def test_ids_all_over_the_circle() -> None:
    """A device with ids everywhere could not be restored."""
    known = range(1, MAX_PRE_KEY_ID, 100_000)
    start = cold_start(known)
    assert min(min(ahead(id, start), ahead(start, id)) for id in known) > 10_000


def test_a_later_state_counts() -> None:
    """A restore over a later state would give out ids that it has given out."""
    cold = cooled(records_of(ALICE), [5_000_000])
    assert cold[CREDENTIALS].next_pre_key_id >= 5_000_000 + AFTER


def test_placeholder() -> None:
    """whatsmeow would begin again at 1."""
    credentials = cooled(records_of(ALICE))[CREDENTIALS]
    key, pair = placeholder(credentials)
    assert int(key.id) + 1 == credentials.next_pre_key_id
    assert pair.is_matched
