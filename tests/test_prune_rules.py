"""What goes and what stays, for values of every valid shape, on devices in memory."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchetkeep import Credentials, InvalidValue, KeyPair, create_device, open_device
from ratchetkeep.model import (
    RECEIVING,
    SENDING,
    Chain,
    ChainKey,
    Contact,
    EncodedRecord,
    IndexInfo,
    Ratchet,
    SenderChainKey,
    SenderKeyRecord,
    SenderKeyState,
    SenderMessageKey,
    SenderSigningKey,
    Session,
    SessionRecord,
    TcToken,
)
from ratchetkeep.prekeys import MAX_PRE_KEY_ID
from ratchetkeep.prune import PrunePolicy, PruneSummary, prune_device
from ratchetkeep.testing._samples import some_bytes, some_pair
from ratchetkeep.testing.strategies import NATIVE, values_for

CREDS = Credentials.new()
PAIR = some_pair("pair", 1)
NUMBERS = itertools.count()
DAY = 86_400
EVERYTHING = PrunePolicy(0, 0, 5, 1, 0, "unused", 28, 812)
"""As much as a policy can take."""


def url_of(records: Mapping[str, Mapping[str, Any]], credentials: Credentials = CREDS) -> str:
    """A device in memory that holds these records."""
    url = f"memory:prune-{next(NUMBERS)}"
    with create_device(url, credentials) as device:
        device.set(records)
    return url


def held(url: str) -> dict[str, dict[str, Any]]:
    """All records of a device."""
    families = ("session", "sender-key", "device-list", "tctoken", "pre-key")
    with open_device(url, read_only=True) as device:
        return {family: device.get(family, device.ids(family)) for family in families}


def items(summary: PruneSummary) -> dict[str, int]:
    return {each.kind: each.items for each in summary.pruned}


def public(number: int) -> bytes:
    return b"\5" + some_bytes("public", number)


def chain(counter: int, *, is_ended: bool = False, keys: Any = (), derived: Any = ()) -> Chain:
    """A receiving chain."""
    return Chain(
        chain_key=ChainKey(counter=counter, key=None if is_ended else bytes(32)),
        chain_type=RECEIVING,
        message_keys={number: some_bytes("seed", number) for number in keys},
        derived_keys={number: some_bytes("derived", number, 80) for number in derived},
    )


def session(number: int, closed: int, chains: Mapping[bytes, Chain], last: bytes = b"") -> Session:
    return Session(
        registration_id=7,
        current_ratchet=Ratchet(
            ephemeral_key_pair=PAIR,
            last_remote_ephemeral_key=last,
            previous_counter=0,
            root_key=bytes(32),
        ),
        index_info=IndexInfo(
            base_key=public(number),
            base_key_type=2,
            closed=closed,
            used=5,
            created=5,
            remote_identity_key=public(0),
        ),
        chains=chains,
    )


def record(*sessions: Session) -> SessionRecord:
    return SessionRecord(sessions={each.index_info.base_key: each for each in sessions})


# -- properties ----------------------------------------------------------------------------------

VALUES = values_for(NATIVE)
POLICIES = st.builds(
    PrunePolicy,
    closed_sessions=st.none() | st.integers(0, 2),
    message_keys=st.none() | st.integers(0, 2),
    receiving_chains=st.none() | st.just(5),
    sender_key_states=st.none() | st.integers(1, 2),
    sender_message_keys=st.none() | st.integers(0, 2),
    device_lists=st.sampled_from([None, "unused"]),
    tctoken_days=st.none() | st.integers(28, 20_000),
    pre_keys=st.none() | st.just(812),
)


@given(VALUES.credentials, VALUES.batches, POLICIES)
def test_a_second_run_finds_nothing_more(
    credentials: Credentials, batch: dict[str, dict[str, Any]], policy: PrunePolicy
) -> None:
    """Pruning would go on for ever, a dry run tell something else, or what stays be changed."""
    url = url_of(batch, credentials)
    before = held(url)
    told = prune_device(url, policy=policy, dry_run=True)
    assert held(url) == before
    done = prune_device(url, policy=policy)
    assert (done.pruned, done.left, done.records) == (told.pruned, told.left, told.records)
    assert prune_device(url, policy=policy).pruned == ()
    after = held(url)
    changed = [
        (family, id)
        for family, records in before.items()
        for id, value in records.items()
        if after[family].get(id) != value
    ]
    assert len(changed) == done.records
    assert all(id in before[family] for family in after for id in after[family])
    sizes = sum(len(records) for records in before.values())
    assert sizes - sum(len(records) for records in after.values()) == done.removed


@given(VALUES.credentials, VALUES.batches)
def test_nothing_within_the_windows_goes(
    credentials: Credentials, batch: dict[str, dict[str, Any]]
) -> None:
    """A record that is no larger than what engines keep would lose something."""
    url = url_of(batch, credentials)
    before = held(url)
    prune_device(url, policy=PrunePolicy(tctoken_days=None, device_lists=None))
    assert held(url) == before


@given(st.sets(st.integers(0, 60), max_size=30), st.integers(0, 30), st.booleans())
def test_the_highest_numbers_of_a_chain_stay(numbers: set[int], keep: int, is_mixed: bool) -> None:
    """A key of a later message would go instead of one of an earlier."""
    derived = {number for number in numbers if is_mixed and number % 2}
    made = chain(99, keys=numbers - derived, derived=derived)
    url = url_of({"session": {"1.0": record(session(1, -1, {public(5): made}, public(5)))}})
    summary = prune_device(url, policy=PrunePolicy(message_keys=keep))
    left = held(url)["session"]["1.0"].sessions[public(1)].chains[public(5)]
    assert {*left.message_keys, *left.derived_keys} == set(sorted(numbers)[::-1][:keep])
    assert items(summary).get("skipped message keys", 0) == max(0, len(numbers) - keep)


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(0, 6), st.none() | st.integers(0, 12))
def test_the_newest_closed_sessions_stay(times: list[int], keep: int, place: int | None) -> None:
    """A closed session that is still written to would go, or the open one."""
    made = [session(number, closed, {}) for number, closed in enumerate(times, 1)]
    if place is not None:
        made.insert(min(place, len(made)), session(99, -1, {}))
    url = url_of({"session": {"1.0": record(*made)}})
    prune_device(url, policy=PrunePolicy(closed_sessions=keep))
    left = held(url)["session"]["1.0"].sessions
    # Of those that were closed in one moment, the later one is the newer one.
    ranked = sorted(enumerate(times, 1), key=lambda each: (each[1], each[0]), reverse=True)
    stay = {number for number, _ in ranked[: max(keep, 1) if place is None else keep]}
    expected = [
        each for each in made if each.is_open or each.index_info.base_key in map(public, stay)
    ]
    assert list(left.values()) == expected


# -- chains --------------------------------------------------------------------------------------


def test_only_ended_chains_without_a_key_go() -> None:
    """A chain that can still read something would go, the sending chain, or the current one."""
    last, sending, kept, alive = public(10), PAIR.public, public(11), public(12)
    chains = {
        last: chain(3, is_ended=True),
        sending: chain(3).replace(chain_type=SENDING),
        kept: chain(3, is_ended=True, keys=[1]),
        alive: chain(3),
        **{public(20 + number): chain(number, is_ended=True) for number in range(12)},
    }
    url = url_of({"session": {"1.0": record(session(1, -1, chains, last))}})
    summary = prune_device(url, policy=PrunePolicy(receiving_chains=5))
    left = held(url)["session"]["1.0"].sessions[public(1)].chains
    newest = [public(20 + number) for number in range(7, 12)]
    assert list(left) == [last, sending, kept, alive, *newest]
    assert items(summary) == {"ended receiving chains": 7}


def test_chains_of_baileysex_stay(tmp_path: Any) -> None:
    """Of chains that stand in no order the wrong ones would go; and nobody would be told."""
    chains = {public(20 + number): chain(number, is_ended=True) for number in range(12)}
    made = session(1, -1, chains)
    info = made.index_info.replace(used=None, created=None, local_identity_key=public(0))
    url = url_of({"session": {"1.0": record(made.replace(index_info=info))}})
    summary = prune_device(url, policy=EVERYTHING)
    assert summary.pruned == ()
    assert [(each.family, each.records) for each in summary.left] == [("session", 1)]
    assert "no order" in summary.left[0].why


# -- sender keys ---------------------------------------------------------------------------------


def state(number: int, iterations: Any = ()) -> SenderKeyState:
    return SenderKeyState(
        sender_key_id=number,
        sender_chain_key=SenderChainKey(iteration=99, seed=bytes(32)),
        sender_signing_key=SenderSigningKey(public=public(number)),
        sender_message_keys=tuple(
            SenderMessageKey(iteration=each, seed=some_bytes("seed", each)) for each in iterations
        ),
    )


@given(st.lists(st.integers(0, 40), max_size=12, unique=True), st.integers(0, 12))
def test_the_newest_group_keys_stay(iterations: list[int], keep: int) -> None:
    """A group message that is on its way would not be read, though an older one would."""
    made = SenderKeyRecord(states=(state(1, iterations),))
    url = url_of({"sender-key": {"g@g.us::1::0": made}})
    prune_device(url, policy=PrunePolicy(sender_message_keys=keep))
    left = held(url)["sender-key"]["g@g.us::1::0"].states[0].sender_message_keys
    stay = set(sorted(iterations)[::-1][:keep])
    assert [each.iteration for each in left] == [each for each in iterations if each in stay]


def test_the_newest_sender_keys_stay() -> None:
    """The sender key that an author uses now would go instead of a former one."""
    made = SenderKeyRecord(states=tuple(state(number) for number in range(7)))
    url = url_of({"sender-key": {"g@g.us::1::0": made}})
    assert items(prune_device(url)) == {"sender-key states": 2}
    left = held(url)["sender-key"]["g@g.us::1::0"].states
    assert [each.sender_key_id for each in left] == [2, 3, 4, 5, 6]


# -- tctokens ------------------------------------------------------------------------------------


def token(days: float | None, sent: float | None = None, size: int = 3) -> TcToken:
    """A token that came, and was answered, so many days ago."""
    now = int(time.time())
    return TcToken(
        token=bytes(size),
        timestamp=None if days is None else str(now - int(days * DAY)),
        sender_timestamp=None if sent is None else now - int(sent * DAY),
    )


def test_only_tokens_that_ran_out_go() -> None:
    """A token that a client still sends would go, or one that nobody looks at stay."""
    tokens = {
        "young@lid": token(27.9),
        "old@lid": token(28.1),
        "answered@lid": token(60, sent=2),
        "both@lid": token(60, sent=40),
        "asked@lid": token(None, sent=40, size=0),
        "asks@lid": token(None, sent=4, size=0),
        "timeless@lid": token(None),
        "__index": token(None, size=40),
        "future@lid": token(-400),
    }
    url = url_of({"tctoken": tokens})
    summary = prune_device(url)
    gone = {"old@lid", "both@lid", "asked@lid"}
    assert set(held(url)["tctoken"]) == set(tokens) - gone
    assert items(summary) == {"tctokens": 3}
    assert [(each.family, each.records) for each in summary.left] == [("tctoken", 1)]


def test_times_of_every_form_are_read() -> None:
    """A token would stay, or go, because of how its time is spelled."""
    old = int(time.time()) - 90 * DAY
    long = {"low": old & 0x7FFFFFFF, "high": 0, "unsigned": True}
    forms = {"number@lid": old, "text@lid": str(old), "long@lid": long}
    url = url_of({"tctoken": {id: TcToken(token=b"t", timestamp=t) for id, t in forms.items()}})
    assert items(prune_device(url)) == {"tctokens": 3}


# -- device lists --------------------------------------------------------------------------------


def test_only_lists_of_nobody_known_go() -> None:
    """The list that moves sessions from a phone number to a LID would go before they are moved."""
    open_one = record(session(1, -1, {}))
    me = Contact(id="100:3@s.whatsapp.net", lid="200:3@lid")
    lists = ("100", "200", "301", "302", "303", "304", "305", "999", "998")
    url = url_of(
        {
            "session": {"301.2": open_one, "403_1.0": open_one},
            "sender-key": {"g@g.us::302::0": SenderKeyRecord(states=(state(1),))},
            "lid-mapping": {"303": "403", "404_reverse": "304"},
            "sender-key-memory": {"g@g.us": {"404:1@lid": True, "305@s.whatsapp.net": True}},
            "device-list": dict.fromkeys(lists, ("0", "1")),
        },
        CREDS.replace(me=me),
    )
    assert items(prune_device(url)) == {"device lists": 2}
    assert sorted(held(url)["device-list"]) == sorted(set(lists) - {"999", "998"})


@pytest.mark.parametrize("family", ["session", "sender-key", "sender-key-memory", "lid-mapping"])
def test_lists_stay_where_whose_something_is_cannot_be_told(family: str) -> None:
    """The list of a user would go whose session is kept under a name that we do not know."""
    values: dict[str, dict[str, Any]] = {
        "session": {"we/ird": record(session(1, -1, {}))},
        "sender-key": {"odd": SenderKeyRecord(states=(state(1),))},
        "sender-key-memory": {"g@g.us": EncodedRecord(encoding="waeys-json", data=b"[]")},
        "lid-mapping": {"1": "2 3"},
    }
    url = url_of({family: values[family], "device-list": {"999": ("0",)}})
    summary = prune_device(url)
    assert summary.pruned == ()
    assert [(each.family, each.records) for each in summary.left] == [("device-list", 1)]


# -- pre-keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [1, 100, 2_000, MAX_PRE_KEY_ID - 2, MAX_PRE_KEY_ID])
def test_the_newest_uploaded_pre_keys_stay(first: int) -> None:
    """A key that the server may still give out would go, where the ids began anew, say; or one
    that waits for upload."""

    def around(id: int) -> int:
        return (id - 1) % MAX_PRE_KEY_ID + 1

    pair = KeyPair.new()
    uploaded = [around(first - steps) for steps in range(1, 831)]
    waiting = [around(first + steps) for steps in range(5)]
    ahead = [around(first + 50), around(first + 1000)]
    keys = {str(id): pair for id in (*uploaded, *waiting, *ahead, MAX_PRE_KEY_ID + 1)}
    creds = CREDS.replace(first_unuploaded_pre_key_id=first, next_pre_key_id=around(first + 5))
    url = url_of({"pre-key": keys}, creds)
    assert prune_device(url).pruned == ()
    assert items(prune_device(url, policy=PrunePolicy(pre_keys=812))) == {"pre-keys": 18}
    assert set(held(url)["pre-key"]) == set(keys) - {str(id) for id in uploaded[812:]}


# -- the policy ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("closed_sessions", -1),
        ("message_keys", -1),
        ("receiving_chains", 4),
        ("sender_key_states", 0),
        ("sender_message_keys", True),
        ("device_lists", "all"),
        ("tctoken_days", 27),
        ("pre_keys", 811),
        ("pre_keys", "812"),
    ],
)
def test_what_conversations_need_cannot_be_asked_for(knob: str, value: Any) -> None:
    """A slip in a number would cost a device its stock of pre-keys or its tokens."""
    with pytest.raises(InvalidValue, match=knob):
        PrunePolicy(**{knob: value})


def test_none_switches_a_knob_off() -> None:
    """There would be no way to keep something."""
    knobs = dict.fromkeys(PrunePolicy.__dataclass_fields__)
    made = record(session(1, 5, {}), session(2, 6, {}), session(3, -1, {}))
    url = url_of(
        {"session": {"1.0": made}, "device-list": {"9": ("0",)}, "tctoken": {"a": token(99)}}
    )
    before = held(url)
    assert prune_device(url, policy=PrunePolicy(**knobs)).pruned == ()
    assert held(url) == before
    assert set(items(prune_device(url, policy=EVERYTHING))) == {
        "closed sessions",
        "device lists",
        "tctokens",
    }
