"""Random devices along random routes of stores: what nobody said was lost is there at the end."""

from __future__ import annotations

import base64
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from _helpers import ALICE
from ratchetkeep import CopySummary, copy_device, open_device
from ratchetkeep.model import (
    OPEN,
    RECEIVING,
    SENDING,
    AppStateSyncKey,
    AppStateSyncVersion,
    Chain,
    ChainKey,
    Credentials,
    IndexInfo,
    IndexValue,
    KeyFingerprint,
    KeyPair,
    PendingPreKey,
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
from ratchetkeep.model._value import Value
from ratchetkeep.testing.strategies import BAILEYS, ids, values_for

KINDS: dict[str, dict[str, Any]] = {
    "sqlite": {},
    "baileys": {},
    "baileys6": {},
    "baileysex": {},
    "baileysex-json": {},
    "pyaileys": {},
    "whatsmeow": {},
}
"""The kinds of store on a route, and what a copy to one must be told."""

WORKED_OUT = {
    "account_sync_counter",
    "first_unuploaded_pre_key_id",
    "my_app_state_key_id",
    "next_pre_key_id",
    "registered",
    "signal_identities",
}
"""Members of the credentials that whatsmeow works out from the rest of a paired device."""

VALUES = values_for(replace(BAILEYS, unknown_members=False, longs=False, surrogates="none"))
with open_device(f"baileys:{ALICE}", read_only=True) as alice:
    PAIRED: Credentials = alice.credentials

# Not all zero: Go writes that for a key that it has not.
_KEY = st.binary(min_size=32, max_size=32).filter(any)
_PUBLIC = _KEY.map(lambda raw: b"\5" + raw)
_NUMBER = st.integers(0, 2000)


@st.composite
def chains(draw: st.DrawFn, kind: int, least: int = 0) -> Chain:
    """A chain as libsignal-node leaves it: every key that was put aside is behind its end."""
    counter = draw(st.integers(least, 40))
    aside: dict[int, bytes] = {}
    if kind == RECEIVING and counter > 0:
        aside = draw(st.dictionaries(st.integers(0, counter - 1), _KEY, max_size=3))
    key = _KEY if kind == SENDING else st.none() | _KEY
    return Chain(
        chain_key=ChainKey(counter=counter, key=draw(key)), chain_type=kind, message_keys=aside
    )


@st.composite
def sessions(draw: st.DrawFn, base_key: bytes, remote: bytes, closed: int) -> Session:
    """A session that somebody answered, or one that waits for its first answer."""
    is_pending = draw(st.booleans())
    ours, *theirs = draw(st.lists(_PUBLIC, min_size=2, max_size=4, unique=True))
    own = KeyPair(public=ours, private=draw(_KEY))
    made = {own.public: draw(chains(SENDING, least=-1))}
    pending = None
    if is_pending:
        one_time = st.none() | st.integers(1, 2**24 - 1)
        pending = PendingPreKey(
            signed_key_id=draw(_NUMBER), base_key=base_key, pre_key_id=draw(one_time)
        )
    else:
        made |= {public: draw(chains(RECEIVING)) for public in theirs}
    return Session(
        registration_id=draw(st.integers(1, 16383)),
        current_ratchet=Ratchet(
            ephemeral_key_pair=own,
            last_remote_ephemeral_key=theirs[-1],
            previous_counter=draw(st.integers(-1, 40)),
            root_key=draw(_KEY),
        ),
        index_info=IndexInfo(
            base_key=base_key,
            base_key_type=SENDING if is_pending else draw(st.sampled_from([SENDING, RECEIVING])),
            closed=closed,
            used=1763600000000,
            created=1763600000000,
            remote_identity_key=remote,
        ),
        chains=made,
        pending_pre_key=pending,
    )


@st.composite
def session_records(draw: st.DrawFn) -> SessionRecord:
    """An open session and some that were closed before it."""
    base_keys = draw(st.lists(_PUBLIC, min_size=1, max_size=3, unique=True))
    remote = draw(_PUBLIC)
    made = {}
    for age, base_key in enumerate(reversed(base_keys)):
        closed = OPEN if age == 0 else 1763600000000 - age
        made[base_key] = draw(sessions(base_key, remote, closed))
    return SessionRecord(sessions=dict(reversed(made.items())))


@st.composite
def sender_states(draw: st.DrawFn) -> SenderKeyState:
    """A sender key, with seeds that were put aside behind its end."""
    iteration = draw(st.integers(1, 2**31))
    aside = draw(st.dictionaries(st.integers(0, iteration - 1), _KEY, max_size=3))
    return SenderKeyState(
        sender_key_id=draw(st.integers(1, 2**32 - 1)),
        sender_chain_key=SenderChainKey(iteration=iteration, seed=draw(_KEY)),
        sender_signing_key=SenderSigningKey(public=draw(_PUBLIC), private=draw(st.none() | _KEY)),
        sender_message_keys=tuple(
            SenderMessageKey(iteration=number, seed=seed) for number, seed in sorted(aside.items())
        ),
    )


@st.composite
def credentials(draw: st.DrawFn) -> Credentials:
    """Credentials of a paired device, with anything in the members that are nobody's keys."""
    drawn = draw(VALUES.credentials)
    kept = ("noise_key", "pairing_ephemeral_key_pair", "signed_identity_key", "signed_pre_key")
    keys = {name: getattr(PAIRED, name) for name in (*kept, "me", "account")}
    first, count = draw(st.integers(1, 1000)), draw(st.integers(0, 100))
    return drawn.replace(
        **keys,
        registration_id=draw(st.integers(1, 16383)),
        platform=draw(st.sampled_from([None, "android", "iphone"])),
        first_unuploaded_pre_key_id=first,
        next_pre_key_id=first + count,
    )


_SECONDS = st.integers(1, 2**32)
_MACS = st.dictionaries(
    _KEY.map(lambda raw: base64.b64encode(raw).decode()),
    _KEY.map(lambda mac: IndexValue(value_mac=mac)),
    max_size=2,
)
_FINGERPRINTS = st.builds(
    KeyFingerprint,
    raw_id=_NUMBER,
    current_index=_NUMBER,
    device_indexes=st.lists(_NUMBER, max_size=3).map(tuple),
)
RECORDS = {
    **VALUES.records,
    "session": session_records(),
    "sender-key": st.lists(
        sender_states(), min_size=1, max_size=3, unique_by=lambda state: state.sender_key_id
    ).map(lambda states: SenderKeyRecord(states=tuple(states))),
    "app-state-sync-key": st.builds(
        AppStateSyncKey, key_data=_KEY, timestamp=_SECONDS, fingerprint=_FINGERPRINTS
    ),
    "app-state-sync-version": st.builds(
        AppStateSyncVersion,
        version=st.integers(1, 2**40),
        hash=st.binary(min_size=128, max_size=128),
        index_value_map=_MACS,
    ),
    "tctoken": st.builds(
        TcToken,
        token=st.binary(min_size=1, max_size=20),
        timestamp=_SECONDS,
        sender_timestamp=st.none() | _SECONDS,
    ),
}


@st.composite
def records(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    """Some families with one record each; a mapping of a LID has its way back, and whether a user
    is a LID does not change from record to record."""
    families = draw(st.lists(st.sampled_from(sorted(RECORDS)), max_size=4, unique=True))
    made = {family: {draw(ids(family, agents=False)): draw(RECORDS[family])} for family in families}
    if "lid-mapping" in made:
        made["lid-mapping"] = {
            "15551230001": "998877000000001",
            "998877000000001_reverse": "15551230001",
        }
    return made


@dataclass
class Trip:
    """What the copies of one trip said they could not keep.

    :ivar members: by family; names as the model has them, "" for whole records.
    """

    members: dict[str, set[str]] = field(default_factory=dict)
    lost_for_good: list[Any] = field(default_factory=list)
    keys_lost: int = 0

    def add(self, summary: CopySummary) -> None:
        """Add what one copy said."""
        for loss in summary.not_held:
            first = re.split(r"[.\[]", loss.member, maxsplit=1)[0]
            name = re.sub("([A-Z])", r"_\1", first).lower()
            self.members.setdefault(loss.family, set()).add(name)
            if not loss.derived:
                self.lost_for_good.append(loss)
                self.keys_lost += loss.amount or 0


def travel(start: str, folder: Path, route: list[str]) -> tuple[str, Trip]:
    """Copy a device along a route, and at its end to a store of our own in Baileys' form."""
    trip, here = Trip(), start
    if "whatsmeow" in route:
        trip.members["credentials"] = set(WORKED_OUT)
    for place, kind in enumerate([*route, "sqlite"]):
        there = f"{kind}:{folder}/{place}"
        options = {"client": "baileys"} if place == len(route) else KINDS[kind]
        trip.add(copy_device(here, there, **options))
        here = there
    return here, trip


def held(url: str) -> dict[str, Any]:
    """All that a device holds."""
    with open_device(url, read_only=True) as device:
        found: dict[str, Any] = {
            f"{family} {id}": value
            for family in RECORDS
            for id, value in device.get(family, device.ids(family)).items()
        }
        return {**found, "credentials": device.credentials}


def plain(value: Any, name: str = "") -> Any:
    """The value without its spelling: a public key may stand with its type byte or without, a
    64-bit number as text, and an empty list may be none."""
    if isinstance(value, bytes):
        return value[1:] if len(value) == 33 and value.startswith(b"\5") else value
    if isinstance(value, Mapping):
        if value.keys() == {"low", "high", "unsigned"}:
            return (value["high"] << 32) + (value["low"] & 0xFFFFFFFF)
        return {plain(each): plain(held) for each, held in value.items()}
    if isinstance(value, tuple):
        return [plain(each) for each in value] or None
    if isinstance(value, Value):
        return {each: plain(getattr(value, each), each) for each in value.__struct_fields__}
    return int(value) if name.endswith("timestamp") and isinstance(value, str) else value


def essence(value: SessionRecord, trip: Trip) -> Any:
    """What of a session must arrive wherever it went: all but what can be made again, and keys of
    skipped messages where a copy said that it loses some."""
    found = plain(value)["sessions"]
    for session in found.values():
        info = session["index_info"]
        session["index_info"] = (info["base_key"], info["remote_identity_key"], info["closed"] < 0)
        for chain in session["chains"].values():
            if trip.keys_lost:
                chain["message_keys"] = {}
    return found


def compare(before: dict[str, Any], after: dict[str, Any], trip: Trip) -> None:
    """See that nothing is missing or different but what the trip said."""
    assert after.keys() <= before.keys()
    for name, value in before.items():
        family = name.partition(" ")[0]
        said = trip.members.get(family, set())
        if name not in after:
            assert "" in said, f"{name} is gone"
        elif family == "credentials":
            for member in value.__struct_fields__:
                if plain(getattr(value, member), member) != plain(
                    getattr(after[name], member), member
                ):
                    unknown = member == "extra" and any(name[:1] in ("", "x") for name in said)
                    assert member in said or unknown, f"{member} of the credentials is another"
        elif family == "session":
            assert essence(after[name], trip) == essence(value, trip), f"{name} is another"
        elif plain(after[name]) != plain(value):
            assert said, f"{name} is another"


# Not shrunk: each example is a dozen copies, and the route says enough.
@settings(max_examples=40, deadline=None, phases=[Phase.reuse, Phase.generate])
@given(st.data())
def test_a_device_that_goes_round_is_the_same(data: st.DataObject) -> None:
    """Something of the device would be lost on its way through the libraries, and no copy said so;
    or it would be lost little by little, each time that it moves."""
    route = data.draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=3, max_size=5))
    with tempfile.TemporaryDirectory() as folder:
        start = f"sqlite:{folder}/start"
        with open_device(start, create=True) as device:
            stored = data.draw(records())
            newest = next(iter(stored.get("app-state-sync-key", {})), None)
            paired = data.draw(credentials()).replace(my_app_state_key_id=newest)
            device.save_credentials(paired)
            device.set(stored)
        (Path(folder) / "first").mkdir()
        (Path(folder) / "second").mkdir()
        once, trip = travel(start, Path(folder) / "first", route)
        compare(held(start), held(once), trip)
        twice, again = travel(once, Path(folder) / "second", route)
        after, later = held(once), held(twice)
        changed = [name for name in after if after[name] != later.get(name)]
        assert changed == [], f"changed on the second trip along {route}"
        assert again.lost_for_good == [], route
