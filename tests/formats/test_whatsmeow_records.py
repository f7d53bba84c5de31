"""Records in whatsmeow's rows: the same ones back, and nothing lost in silence."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import msgpack

from _helpers import ALICE, BOB, GOLDEN
from _whatsmeow_rows import (
    DEVICE,
    INT64,
    NAMES,
    NOISE,
    PRIVATE,
    SIGNED,
    creds_of,
    encode,
    golden,
    not_held,
)
from ratchetkeep.errors import DecodeError
from ratchetkeep.formats import Encoded, whatsmeow
from ratchetkeep.model import (
    CREDENTIALS,
    AppStateSyncKey,
    AppStateSyncVersion,
    Credentials,
    EncodedRecord,
    FrozenDict,
    IndexValue,
    Key,
    KeyFingerprint,
    KeyPair,
    SessionRecord,
    TcToken,
)
from ratchetkeep.testing.strategies import ids, values_for

GO_RECORDS = json.loads((GOLDEN / "whatsmeow" / "go-records.json").read_bytes())


@pytest.mark.parametrize("folder", [ALICE, BOB], ids=["alice", "bob"])
@pytest.mark.parametrize(
    "family",
    ["pre-key", "identity-key", "app-state-sync-key", "app-state-sync-version", "lid-mapping"],
)
def test_golden_records_come_back(folder: Path, family: str) -> None:
    """Records of a real Baileys device would change on the way through whatsmeow."""
    creds = creds_of(folder)
    found = golden(folder, family)
    assert found
    for key, value in found:
        if isinstance(value, AppStateSyncVersion) and value.version == 0:
            continue
        made = whatsmeow.encode(key, value, creds)
        assert made.losses == () and made.data is not None, key
        assert whatsmeow.decode(key, made.data) == value, key


@pytest.mark.parametrize("folder", [ALICE, BOB], ids=["alice", "bob"])
def test_a_state_of_nothing_is_not_written(folder: Path) -> None:
    """whatsmeow would report an error for a collection that Baileys has not fetched yet, and never
    fetch it."""
    found = [
        whatsmeow.encode(key, value, creds_of(folder))
        for key, value in golden(folder, "app-state-sync-version")
        if value.version == 0
    ]
    assert found
    for made in found:
        what, is_derived = not_held(made)
        assert "fetches all of it" in what and is_derived


def test_golden_tokens_come_back() -> None:
    """Contacts who only let known people write to them would refuse the device's messages."""
    held = 0
    for key, value in golden(ALICE, "tctoken") + golden(BOB, "tctoken"):
        made = whatsmeow.encode(key, value, DEVICE)
        if key.id == "__index" or not value.token:
            assert not_held(made)[1], key
        else:
            held += 1
            assert made.data is not None and made.losses == ()
            assert whatsmeow.decode(key, made.data) == value
    assert held >= 3


def test_rows_of_records() -> None:
    """The store would write columns that whatsmeow reads otherwise."""
    pair = KeyPair(public=SIGNED.public, private=SIGNED.private)
    assert msgpack.decode(encode("pre-key", "90", pair).data or b"") == {
        "key": SIGNED.private,
        "uploaded": True,
    }
    assert msgpack.decode(encode("pre-key", "91", pair).data or b"")["uploaded"] is False
    assert msgpack.decode(encode("pre-key", "91", pair, None).data or b"")["uploaded"] is True
    assert encode("identity-key", "1.0", b"\x05" + b"i" * 32).data == b"i" * 32
    assert encode("identity-key", "1.0", b"i" * 32).data == b"i" * 32
    assert encode("lid-mapping", "1", "2").data == b"2"
    token = TcToken(token=b"t", timestamp="1763600555", sender_timestamp=1763600556)
    assert msgpack.decode(encode("tctoken", "1@lid", token).data or b"") == {
        "token": b"t",
        "timestamp": 1763600555,
        "sender_timestamp": 1763600556,
    }
    mac = base64.b64encode(b"m" * 32).decode()
    version = AppStateSyncVersion(
        version=2, hash=b"h" * 128, index_value_map={mac: IndexValue(value_mac=b"v" * 32)}
    )
    assert msgpack.decode(encode("app-state-sync-version", "regular", version).data or b"") == {
        "version": 2,
        "hash": b"h" * 128,
        "macs": {b"m" * 32: b"v" * 32},
    }


def test_the_fingerprint_is_the_message_that_the_phone_sent() -> None:
    """whatsmeow could not hand the key to the account's other devices."""
    fingerprint = KeyFingerprint(raw_id=300, current_index=1, device_indexes=(0, 1, 300))
    value = AppStateSyncKey(key_data=b"k", timestamp="1763600000124", fingerprint=fingerprint)
    row = msgpack.decode(encode("app-state-sync-key", "AAAAAAsp", value).data or b"")
    assert row == {
        "key_data": b"k",
        "timestamp": 1763600000124,
        "fingerprint": bytes.fromhex("08ac02 1001 1a04 0001ac02"),
    }


@pytest.mark.parametrize("raw", ["08ac02 2007", "1800 1801", "1001 0805"])
def test_a_fingerprint_in_another_spelling_comes_back_as_it_was(raw: str) -> None:
    """Fields of a later version of the message would be lost in a copy to our own store."""
    message = bytes.fromhex(raw)
    row = {"key_data": b"k", "timestamp": 1, "fingerprint": message}
    key = Key("app-state-sync-key", "AAAAAAsp")
    value = whatsmeow.decode(key, msgpack.encode(row))
    made = whatsmeow.encode(key, value, DEVICE)
    assert made.losses == () and made.data == msgpack.encode(row)
    changed = value.replace(fingerprint=value.fingerprint.replace(raw_id=9))
    (loss,) = whatsmeow.encode(key, changed, DEVICE).losses
    assert (loss.place, loss.derived) == ("fingerprint", False)


def test_of_keys_without_a_time_the_one_in_use_is_the_newest() -> None:
    """After a copy from BaileysEx, whatsmeow would encrypt app state with a key of long ago."""
    value = AppStateSyncKey(key_data=b"k")
    used = encode("app-state-sync-key", "+/+/AA==", value)
    other = encode("app-state-sync-key", "AAAAAAsp", value)
    times = [msgpack.decode(made.data or b"")["timestamp"] for made in (used, other)]
    assert times == [1, 0] and used.losses == other.losses == ()


def test_longs_become_numbers() -> None:
    """A time that JavaScript wrote in two halves could not be stored."""
    long = {"low": -1, "high": 1, "unsigned": False}
    token = TcToken(token=b"t", timestamp=long, sender_timestamp="7")
    row = msgpack.decode(encode("tctoken", "1@lid", token).data or b"")
    assert (row["timestamp"], row["sender_timestamp"]) == (2**33 - 1, 7)
    negative = {"low": -1, "high": -1, "unsigned": False}
    token = TcToken(token=b"t", timestamp=negative)
    assert msgpack.decode(encode("tctoken", "1@lid", token).data or b"")["timestamp"] == -1


HUGE = {"low": -1, "high": -1, "unsigned": True}
SOME = IndexValue(value_mac=b"v" * 32)


@pytest.mark.parametrize(
    ("family", "id", "value", "place", "derived"),
    [
        ("tctoken", "1@lid", TcToken(token=b"t"), "timestamp", False),
        ("tctoken", "1@lid", TcToken(token=b"t", timestamp=HUGE), "timestamp", False),
        (
            "tctoken",
            "1@lid",
            TcToken(token=b"t", timestamp=1, sender_timestamp=HUGE),
            "sender_timestamp",
            True,
        ),
        ("tctoken", "1@lid", TcToken(token=b"t", timestamp=1, extra={"x": 1}), "", False),
        (
            "app-state-sync-key",
            "AAAAAAsp",
            AppStateSyncKey(key_data=b"k", timestamp=HUGE),
            "timestamp",
            False,
        ),
        ("app-state-sync-key", "AA==", AppStateSyncKey(key_data=b"", extra={"x": 1}), "", False),
        (
            "app-state-sync-version",
            "regular",
            AppStateSyncVersion(version=1, hash=b"h" * 128, extra={"x": 1}),
            "",
            False,
        ),
        ("pre-key", "1", NOISE.replace(extra={"x": 1}), "", False),
    ],
)
def test_members_that_a_row_cannot_hold(
    family: str, id: str, value: Any, place: str, derived: bool
) -> None:
    """A member would be dropped or changed without a word."""
    made = encode(family, id, value)
    assert made.data is not None
    assert [(loss.place, loss.derived) for loss in made.losses] == [(place, derived)]


def sync_version(**changes: Any) -> AppStateSyncVersion:
    return AppStateSyncVersion(**{"version": 1, "hash": b"h" * 128, **changes})


@pytest.mark.parametrize(
    ("family", "id", "value", "what", "derived"),
    [
        ("device-list", "1", ("0", "7"), "asks the server for each contact's devices", True),
        (
            "sender-key-memory",
            "120363025246125486@g.us",
            FrozenDict({"1:2@lid": True}),
            "sends its sender key along with every group message",
            True,
        ),
        ("session", "odd", SessionRecord(), "never find the record", False),
        ("identity-key", "odd", b"i" * 32, "never find the record", False),
        ("sender-key", "1.0", EncodedRecord(encoding="go-json", data=b"{}"), "never find", False),
        ("session", "1.0", EncodedRecord(encoding="other", data=b"x"), "'other'", False),
        ("sender-key", "g::1::0", EncodedRecord(encoding="other", data=b"x"), "'other'", False),
        ("pre-key", "1", EncodedRecord(encoding="other", data=b"x"), "'other'", False),
        ("pre-key", "007", NOISE, "no number from 0 to 16777215", False),
        ("pre-key", str(2**24), NOISE, "no number from 0 to 16777215", False),
        ("app-state-sync-key", "AAA", AppStateSyncKey(key_data=b""), "not base64 text", False),
        ("app-state-sync-version", "x", sync_version(version=2**63), "fetches the whole", True),
        (
            "app-state-sync-version",
            "x",
            sync_version(index_value_map={"AA==": SOME}),
            "fetches the whole collection again",
            True,
        ),
        (
            "app-state-sync-version",
            "x",
            sync_version(index_value_map={"?": SOME}),
            "fetches the whole collection again",
            True,
        ),
        (
            "app-state-sync-version",
            "x",
            sync_version(
                index_value_map={base64.b64encode(b"m" * 32).decode(): IndexValue(value_mac=b"")}
            ),
            "fetches the whole collection again",
            True,
        ),
        ("lid-mapping", "1", "2@lid", "is no LID and phone number", False),
        ("lid-mapping", "1", "\ud83d", "is no LID and phone number", False),
        ("tctoken", "__index", TcToken(token=b"[]"), "would not prune", True),
        ("tctoken", "1:2@lid", TcToken(token=b"t"), "no user's JID", False),
        ("tctoken", "nobody", TcToken(token=b"t"), "no user's JID", False),
        ("tctoken", "1@lid", TcToken(token=b""), "tells the contact its own one again", True),
    ],
)
def test_records_without_a_row(family: str, id: str, value: Any, what: str, derived: bool) -> None:
    """A record would be dropped without a word, or stop the copy in the database."""
    said, can_be_made = not_held(encode(family, id, value))
    assert what in said and can_be_made is derived


def test_sessions_and_sender_keys_stay_in_their_own_encoding() -> None:
    """whatsmeow's ratchets would be converted twice, and lose their skipped keys, for nothing."""
    kinds = {"session": ("session", "1_1.0"), "sender_key": ("sender-key", "g@g.us::1_1::2")}
    found = [
        (Key(*kinds[member]), entry[member].encode())
        for entry in GO_RECORDS.values()
        for member in kinds
        if member in entry
    ]
    assert len(found) == 4
    for key, raw in found:
        value = whatsmeow.decode(key, raw)
        assert value == EncodedRecord(encoding="go-json", data=raw)
        assert whatsmeow.encode(key, value, DEVICE) == Encoded(raw, ())


def test_baileys_sessions_are_spelled_for_go() -> None:
    """whatsmeow would start every conversation anew after a copy from Baileys."""
    creds = creds_of(ALICE)
    found = golden(ALICE, "session") + golden(ALICE, "sender-key")
    held = 0
    for key, value in found:
        made = whatsmeow.encode(key, value, creds)
        if made.data is None:
            assert made.losses
            continue
        held += 1
        blob = json.loads(made.data)
        if key.family == "session":
            local = b"\x05" + creds.signed_identity_key.public
            assert base64.b64decode(blob["SessionState"]["LocalIdentityPublic"]) == local
        else:
            assert blob["SenderKeyStates"]
    assert held > 20


MACS = st.dictionaries(PRIVATE, PRIVATE, max_size=3)
RECORDS: dict[str, st.SearchStrategy[bytes]] = {
    "pre-key": st.builds(lambda key: {"key": key, "uploaded": True}, PRIVATE).map(msgpack.encode),
    "identity-key": PRIVATE,
    "app-state-sync-key": st.fixed_dictionaries(
        {
            "key_data": st.binary(max_size=8),
            "timestamp": INT64,
            "fingerprint": st.sampled_from([b"", b"\x08\x05", b"\x1a\x02\0\1", b"\x20\x07"]),
        }
    ).map(msgpack.encode),
    "app-state-sync-version": st.fixed_dictionaries(
        {
            "version": st.integers(1, 2**63 - 1),
            "hash": st.binary(min_size=128, max_size=128),
            "macs": MACS,
        }
    ).map(msgpack.encode),
    "tctoken": st.fixed_dictionaries(
        {
            "token": st.binary(min_size=1, max_size=8),
            "timestamp": INT64,
            "sender_timestamp": st.none() | INT64,
        }
    ).map(msgpack.encode),
}


@given(st.data())
@settings(max_examples=150)
def test_any_row_comes_back(data: st.DataObject) -> None:
    """A record would change in a copy from one whatsmeow database to another."""
    family = data.draw(st.sampled_from(sorted(RECORDS)))
    raw = data.draw(RECORDS[family])
    id = "1" if family == "pre-key" else data.draw(ids(family))
    made = encode(family, id, whatsmeow.decode(Key(family, id), raw))
    assert made.data is not None and made.losses == ()
    assert made.data == raw or msgpack.decode(made.data) == msgpack.decode(raw)


HOSTILE = st.binary(max_size=64) | st.recursive(
    st.none() | st.booleans() | INT64 | NAMES | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
).map(msgpack.encode)
FAMILIES = ["credentials", *RECORDS, "lid-mapping", "device-list", "sender-key-memory", "odd"]


@given(st.sampled_from(FAMILIES), HOSTILE)
@settings(max_examples=300)
def test_any_bytes_are_read_or_refused(family: str, raw: bytes) -> None:
    """A damaged database would crash a command with a bare exception."""
    key = CREDENTIALS if family == "credentials" else Key(family, "1")
    try:
        value = whatsmeow.decode(key, raw)
    except DecodeError:
        return
    made = whatsmeow.encode(key, value, DEVICE)
    assert made.data is not None or made.losses


@pytest.mark.parametrize(
    ("family", "raw"),
    [
        ("credentials", b""),
        ("credentials", b"\x91" * 100_000),
        ("credentials", msgpack.encode({"row": {}})),
        ("pre-key", msgpack.encode({"key": b"k" * 31, "uploaded": True})),
        ("pre-key", msgpack.encode({"key": b"k" * 32, "uploaded": True, "more": 1})),
        ("pre-key", msgpack.encode({"key": b"k" * 32, "uploaded": 1})),
        ("identity-key", b"\x05" + b"k" * 32),
        ("identity-key", b""),
        ("app-state-sync-key", msgpack.encode({"key_data": b"", "timestamp": 1})),
        (
            "app-state-sync-key",
            msgpack.encode({"key_data": b"", "timestamp": 1, "fingerprint": b"\xff"}),
        ),
        (
            "app-state-sync-version",
            msgpack.encode({"version": 1, "hash": b"h" * 127, "macs": {}}),
        ),
        (
            "app-state-sync-version",
            msgpack.encode({"version": -1, "hash": b"h" * 128, "macs": {}}),
        ),
        ("tctoken", msgpack.encode({"token": b"", "timestamp": 2**63 + 5})),
        ("tctoken", msgpack.encode({"token": "t", "timestamp": 1})),
        ("lid-mapping", b"\xff"),
        ("lid-mapping", b""),
        ("lid-mapping", b"2@lid"),
        ("device-list", b"\x90"),
        ("session", b""),
        ("sender-key", b""),
    ],
)
def test_damaged_rows(family: str, raw: bytes) -> None:
    """Damage would be read as a record, and written over a good one."""
    with pytest.raises(DecodeError) as caught:
        whatsmeow.decode(CREDENTIALS if family == "credentials" else Key(family, "1"), raw)
    assert "kkkk" not in str(caught.value)


ANY = values_for()


@given(st.data())
@settings(max_examples=200)
def test_any_value_has_a_row_or_is_listed(data: st.DataObject) -> None:
    """A copy would stop half-way at a row that cannot be read back, or drop a record in silence."""
    family = data.draw(st.sampled_from(sorted(ANY.records)))
    key = Key(family, data.draw(ids(family)))
    try:
        made = whatsmeow.encode(key, data.draw(ANY.records[family]), DEVICE)
    except DecodeError:
        assert family in ("session", "sender-key")  # in another client's spelling, and damaged
        return
    assert made.data is not None or made.losses
    if made.data is not None:
        back = whatsmeow.decode(key, made.data)
        assert whatsmeow.encode(key, back, DEVICE) == Encoded(made.data, ())


@given(ANY.credentials, st.booleans())
@settings(max_examples=100)
def test_any_credentials_have_a_row_or_are_listed(creds: Credentials, paired: bool) -> None:
    """A copy would stop half-way at a device that cannot be read back."""
    if paired:
        creds = creds.replace(me=DEVICE.me, account=DEVICE.account)
    made = whatsmeow.encode(CREDENTIALS, creds)
    assert (made.data is not None) if paired else made.losses
    if made.data is not None:
        again = whatsmeow.encode(CREDENTIALS, whatsmeow.decode(CREDENTIALS, made.data))
        assert again == Encoded(made.data, ())
