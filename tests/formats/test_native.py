"""Our own record format: everything comes back, damage is seen, old versions stay readable.

``python tests/formats/test_native.py write`` writes the golden files of the current version, one a
record of :data:`RECORDS`, where they are missing. They are never written again: a new version of
the format gets a folder of its own beside them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratchetkeep.errors import DecodeError, RatchetkeepError, UnsupportedVersion
from ratchetkeep.formats import native
from ratchetkeep.model import (
    CREDENTIALS,
    FAMILIES,
    Account,
    AccountSettings,
    AppStateSyncKey,
    AppStateSyncVersion,
    Chain,
    ChainKey,
    Contact,
    Credentials,
    DisappearingMode,
    EncodedRecord,
    Foreign,
    FrozenDict,
    HistoryMessage,
    IndexInfo,
    IndexValue,
    Key,
    KeyFingerprint,
    KeyPair,
    MessageKey,
    PendingPreKey,
    Ratchet,
    SenderChainKey,
    SenderKeyRecord,
    SenderKeyState,
    SenderMessageKey,
    SenderSigningKey,
    Session,
    SessionRecord,
    SignalAddress,
    SignalIdentity,
    SignedPreKey,
    TcToken,
    Value,
)

GOLDEN = Path(__file__).parent.parent / "golden" / "native-v1"


def key(number: int) -> bytes:
    return bytes([number]) * 32


def public(number: int) -> bytes:
    return b"\x05" + key(number)


def pair(number: int) -> KeyPair:
    return KeyPair(public=key(number), private=key(number + 1))


def record_of(sessions: Iterable[Session]) -> SessionRecord:
    return SessionRecord(sessions={each.index_info.base_key: each for each in sessions})


SESSION = SessionRecord(
    sessions={
        public(1): Session(
            registration_id=77,
            current_ratchet=Ratchet(
                ephemeral_key_pair=KeyPair(public=public(2), private=key(3)),
                last_remote_ephemeral_key=public(4),
                previous_counter=-1,
                root_key=key(5),
            ),
            index_info=IndexInfo(
                base_key=public(1),
                base_key_type=1,
                closed=-1,
                used=1763600000123,
                created=1763600000000,
                remote_identity_key=public(6),
                local_identity_key=public(7),
            ),
            chains={
                public(8): Chain(
                    chain_key=ChainKey(counter=5, key=key(9)),
                    chain_type=2,
                    message_keys={1: key(10), 4: key(11)},
                ),
                public(2): Chain(chain_key=ChainKey(counter=0), chain_type=1),
            },
            pending_pre_key=PendingPreKey(signed_key_id=1, base_key=public(1), pre_key_id=12),
        ),
        public(13): Session(
            current_ratchet=Ratchet(
                last_remote_ephemeral_key=b"", previous_counter=0, root_key=key(14)
            ),
            index_info=IndexInfo(
                base_key=public(13), base_key_type=2, closed=99, remote_identity_key=public(6)
            ),
        ),
    },
    extra={"future": (1, "two", b"\3")},
)
# As libsignal's spellings are read: keys of skipped messages are derived, and the device's own
# registration id is repeated.
LIBSIGNAL = SESSION.replace(
    sessions={
        public(1): SESSION.sessions[public(1)].replace(
            chains={
                public(8): Chain(
                    chain_key=ChainKey(counter=5, key=key(9)),
                    chain_type=2,
                    derived_keys={1: bytes(range(80)), 2**32 - 1: bytes(80)},
                ),
                public(2): Chain(chain_key=ChainKey(counter=0), chain_type=1),
            },
            local_registration_id=0,
        )
    }
)
NEW = Credentials(
    noise_key=pair(1),
    signed_identity_key=pair(3),
    signed_pre_key=SignedPreKey(key_pair=pair(5), signature=bytes(64), key_id=1),
    registration_id=0,
    adv_secret_key=key(7),
)
FULL = NEW.replace(
    pairing_ephemeral_key_pair=pair(8),
    registration_id=16383,
    processed_history_messages=(
        HistoryMessage(
            key=MessageKey(
                remote_jid="1@s.whatsapp.net",
                from_me=True,
                id="3EB0",
                participant="2@lid",
                participant_alt="3@lid",
                remote_jid_alt="4@lid",
                addressing_mode="pn",
                server_id="118",
            ),
            message_timestamp="1763600000",
        ),
        HistoryMessage(key=MessageKey()),
    ),
    next_pre_key_id=121,
    first_unuploaded_pre_key_id=120,
    account_sync_counter=3,
    account_settings=AccountSettings(
        unarchive_chats=True,
        default_disappearing_mode=DisappearingMode(
            ephemeral_expiration=604800, ephemeral_setting_timestamp=1763600100
        ),
    ),
    registered=True,
    pairing_code="ABCD1234",
    last_prop_hash="4xgIsC",
    routing_info=b"\x08\xff",
    additional_data={"note": "kept", "list": (1, None, True, b"\0", 0.5)},
    account=Account(
        details=b"\1",
        account_signature_key=key(9),
        account_signature=bytes(64),
        device_signature=b"",
    ),
    me=Contact(id="1:2@s.whatsapp.net", name="Ana ☕", lid="3:2@lid"),
    signal_identities=(
        SignalIdentity(
            identifier=SignalAddress(name="3:2@lid", device_id=0), identifier_key=public(10)
        ),
    ),
    platform="android",
    last_account_sync_timestamp={"low": 1, "high": 0, "unsigned": False},
    my_app_state_key_id="AAAA",
    extra={"newMember": None},
)
RICH = FULL.replace(
    me=Contact(id="1", name="half \ud83d"),
    additional_data={
        "big": 2**64,
        "negative": -(2**200),
        "edge": (2**63, -(2**63), 2**64 - 1),
        "term": Foreign("etf", b"\x83j"),
        "\udc00 name": {"inner \ud800": (Foreign("etf", b"\x83t\0\0\0\0"),)},
    },
)
RECORDS: dict[str, tuple[Key, Any]] = {
    "credentials-new": (CREDENTIALS, NEW),
    "credentials": (CREDENTIALS, FULL),
    "credentials-rich": (CREDENTIALS, RICH),
    "session": (Key("session", "1.0"), SESSION),
    "session-rich": (Key("session", "1.0"), SESSION.replace(extra={"\ud83d": 2**70})),
    "session-libsignal": (Key("session", "1.0"), LIBSIGNAL),
    "session-empty": (Key("session", "2.0"), SessionRecord()),
    "session-encoded": (
        Key("session", "3.0"),
        EncodedRecord(encoding="signal-protobuf", data=b"\n\0\xff"),
    ),
    "pre-key": (Key("pre-key", "16777215"), pair(20)),
    "sender-key": (
        Key("sender-key", "1@g.us::2::0"),
        SenderKeyRecord(
            states=(
                SenderKeyState(
                    sender_key_id=2**32 - 1,
                    sender_chain_key=SenderChainKey(iteration=5, seed=key(21)),
                    sender_signing_key=SenderSigningKey(public=public(22), private=key(23)),
                    sender_message_keys=(SenderMessageKey(iteration=1, seed=key(24)),),
                ),
                SenderKeyState(
                    sender_key_id=0,
                    sender_chain_key=SenderChainKey(iteration=0, seed=key(25)),
                    sender_signing_key=SenderSigningKey(public=public(26)),
                ),
            )
        ),
    ),
    "sender-key-memory": (Key("sender-key-memory", "1@g.us"), {"2@lid": True, "1@lid": False}),
    "app-state-sync-key": (
        Key("app-state-sync-key", "AAD///vv"),
        AppStateSyncKey(
            key_data=key(27),
            fingerprint=KeyFingerprint(raw_id=305419899, current_index=3, device_indexes=(0, 2)),
            timestamp="1763600000124",
        ),
    ),
    "app-state-sync-version": (
        Key("app-state-sync-version", "regular"),
        AppStateSyncVersion(
            version=2**64 - 1,
            hash=bytes(range(128)),
            index_value_map={"AAA=": IndexValue(value_mac=key(28))},
        ),
    ),
    "lid-mapping": (Key("lid-mapping", "1_reverse"), "998877665544332"),
    "lid-mapping-rich": (Key("lid-mapping", "2"), "\ud83d"),
    "device-list": (Key("device-list", "1"), ("12", "0")),
    "tctoken": (
        Key("tctoken", "__index"),
        TcToken(token=b"[]", timestamp="1", sender_timestamp=2, extra={"x": ()}),
    ),
    "identity-key": (Key("identity-key", "Müller.0"), public(29)),
}
NAMES = sorted(RECORDS)


# Members that the model got after the golden files were written: shown if they hold something.
LATER = {"derived_keys", "local_registration_id"}


def holds(value: Any, member: str) -> bool:
    return getattr(value, member) not in (None, {})


def show(value: Any) -> str:
    """The value with all of its content, the same in every version of Python and msgspec."""
    if isinstance(value, Foreign):
        return f"Foreign({value.encoding}, {value.data.hex()})"
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{show(k)}: {show(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(show, value)) + ")"
    if hasattr(value, "__struct_fields__"):
        shown = [n for n in value.__struct_fields__ if n not in LATER or holds(value, n)]
        members = ", ".join(f"{n}={show(getattr(value, n))}" for n in shown)
        return f"{type(value).__name__}({members})"
    return ascii(value)


def stored(name: str) -> bytes:
    data = native.encode(*RECORDS[name]).data
    assert data is not None
    return data


def refusal(record: Key, raw: bytes) -> bool:
    """True if the bytes are refused; any other error than ours is raised."""
    try:
        native.decode(record, raw)
    except (DecodeError, UnsupportedVersion):
        return True
    return False


@pytest.mark.parametrize("name", NAMES)
def test_everything_comes_back(name: str) -> None:
    """A record would change by being saved in our default store."""
    record, value = RECORDS[name]
    back = native.decode(record, stored(name))
    assert back == value
    assert show(back) == show(value)
    assert type(back) is type(value) or isinstance(value, dict)
    assert native.encode(record, back) == native.encode(record, value)


@pytest.mark.parametrize(
    ("value", "flag"),
    [
        (LIBSIGNAL, native.LIBSIGNAL),
        (SESSION, 0),
        (
            record_of(
                session.replace(local_registration_id=None)
                for session in LIBSIGNAL.sessions.values()
            ),
            native.LIBSIGNAL,
        ),
        (
            record_of(each.replace(chains={}) for each in LIBSIGNAL.sessions.values()),
            native.LIBSIGNAL,
        ),
        (LIBSIGNAL.replace(extra={"big": 2**70}), native.LIBSIGNAL | native.RICH),
    ],
)
def test_a_session_of_libsignal_says_so(value: SessionRecord, flag: int) -> None:
    """A release that does not know its members would drop them, and with them messages."""
    raw = native.encode(Key("session", "1.0"), value).data
    assert raw is not None and raw[3] == flag
    assert native.decode(Key("session", "1.0"), raw) == value


def test_every_family_is_tried() -> None:
    """A family would have no golden file, so a change of its format would go unseen."""
    assert {record.family for record, _ in RECORDS.values()} == {*FAMILIES, "credentials"}
    assert sorted(path.stem for path in GOLDEN.glob("*.rk")) == NAMES
    assert sorted(path.stem for path in GOLDEN.glob("*.txt")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_golden_files_of_version_1_read_as_they_were(name: str) -> None:
    """Devices saved by an earlier release could not be opened, or would read as something else."""
    raw = (GOLDEN / f"{name}.rk").read_bytes()
    record, value = RECORDS[name]
    assert raw[:3] == b"RK\x01"
    back = native.decode(record, raw)
    assert show(back) + "\n" == (GOLDEN / f"{name}.txt").read_text("utf-8")
    assert back == value


@pytest.mark.parametrize("flags", [8, 16, 128, 9])
def test_unknown_flags_are_refused_as_newer(flags: int) -> None:
    """An encrypted record of a later version would be called damaged, and be replaced."""
    raw = bytearray(stored("tctoken"))
    raw[3] |= flags
    with pytest.raises(UnsupportedVersion):
        native.decode(RECORDS["tctoken"][0], bytes(raw))


@pytest.mark.parametrize("version", [2, 3, 255])
def test_newer_versions_are_refused(version: int) -> None:
    """A newer record would be read by old rules, or called damaged."""
    raw = bytearray(stored("tctoken"))
    raw[2] = version
    with pytest.raises(UnsupportedVersion):
        native.decode(RECORDS["tctoken"][0], bytes(raw))


def test_version_0_was_never_written() -> None:
    """Damage to the version would lead to an upgrade that does not exist."""
    raw = bytearray(stored("tctoken"))
    raw[2] = 0
    with pytest.raises(DecodeError):
        native.decode(RECORDS["tctoken"][0], bytes(raw))


def test_an_older_version_is_upgraded_on_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first change of the format would leave every saved device behind."""
    monkeypatch.setattr(native, "VERSION", 2)
    seen = []

    def upgrade(family: str, payload: bytes) -> bytes:
        seen.append(family)
        return payload

    monkeypatch.setitem(native.UPGRADES, 1, upgrade)
    for name in NAMES:
        record, value = RECORDS[name]
        assert native.decode(record, (GOLDEN / f"{name}.rk").read_bytes()) == value
    assert len(seen) == len(NAMES)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("lid-mapping", Key("lid-mapping", "1")),
        ("lid-mapping", Key("lid-mapping", "1_reverse ")),
        ("lid-mapping", Key("device-list", "1_reverse")),
        ("pre-key", Key("pre-key", "1677721")),
        ("session", Key("session", "1.00")),
        ("session-encoded", Key("sender-key", "3.0")),
        ("credentials", Key("session", "")),
        ("sender-key-memory", Key("sender-key", "memory-1@g.us")),
    ],
)
def test_a_record_under_another_name_is_refused(name: str, other: Key) -> None:
    """Rows that were exchanged would give one contact another's session."""
    with pytest.raises(DecodeError):
        native.decode(other, stored(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_flipped_bit_is_seen(name: str) -> None:
    """A bit that rotted on the disk would become another key."""
    record, raw = RECORDS[name][0], stored(name)
    missed = []
    for position in range(len(raw) * 8):
        spoilt = bytearray(raw)
        spoilt[position // 8] ^= 1 << position % 8
        if not refusal(record, bytes(spoilt)):
            missed.append(position)
    assert missed == []


@pytest.mark.parametrize("name", NAMES)
def test_every_truncation_is_seen(name: str) -> None:
    """A record that was cut short would be read as a smaller one."""
    record, raw = RECORDS[name][0], stored(name)
    assert [size for size in range(len(raw)) if not refusal(record, raw[:size])] == []
    assert refusal(record, raw + b"\0")


def test_a_true_checksum_over_wrong_members_is_refused() -> None:
    """A payload of other members would raise an error that is not ours, or be taken as it is."""
    for record, _ in RECORDS.values():
        for payload in (
            b"",
            b"\xc0",
            b"\x80",
            b"\xa1x",
            b"\x81\xa1x\xc0",
            b"\xc1",
            b"\x93" * 99999,
        ):
            for flags in (0, 1, 2, 3):
                check = native._checksum(1, flags, record, payload)
                raw = b"RK" + bytes((1, flags)) + check + payload
                try:
                    value = native.decode(record, raw)
                except DecodeError:
                    continue
                # A few payloads are values of their own: then they must be whole ones.
                assert native.decode(record, native.encode(record, value).data or b"") == value


def forged(record: Key, members: Any) -> bytes:
    """A record of any members, with the checksum that belongs to them."""
    payload = msgspec.msgpack.encode(members)
    return b"RK\x01\0" + native._checksum(1, 0, record, payload) + payload


PAIR_MEMBERS = {"public": public(1), "private": key(2)}
CHAIN_MEMBERS = {"chain_key": {"counter": 1}, "chain_type": 1}
NEW_MEMBERS = msgspec.to_builtins(NEW, builtin_types=(bytes,))


@pytest.mark.parametrize(
    ("family", "members"),
    [
        ("pre-key", PAIR_MEMBERS | {"private": key(2)[:31]}),
        ("pre-key", PAIR_MEMBERS | {"public": b"\6" + key(1)}),
        ("pre-key", PAIR_MEMBERS | {"extra": {1: 2}}),
        ("pre-key", PAIR_MEMBERS | {"private": None}),
        ("credentials", NEW_MEMBERS | {"adv_secret_key": b""}),
        ("credentials", NEW_MEMBERS | {"registration_id": 2**32}),
        ("credentials", NEW_MEMBERS | {"noise_key": PAIR_MEMBERS | {"public": b""}}),
        ("credentials", NEW_MEMBERS | {"additional_data": {1: 2}}),
        ("credentials", NEW_MEMBERS | {"last_account_sync_timestamp": [1]}),
        ("sender-key-memory", {"1": 1}),
        ("device-list", [1]),
        ("identity-key", key(1)[:31]),
        ("app-state-sync-version", {"version": -1, "hash": bytes(128)}),
        ("app-state-sync-version", {"version": 1, "hash": bytes(127)}),
    ],
)
def test_a_true_checksum_over_wrong_values_is_refused(family: str, members: Any) -> None:
    """Members that no caller may store would be taken from a file that someone put together."""
    record = CREDENTIALS if family == "credentials" else Key(family, "7")
    with pytest.raises(DecodeError):
        native.decode(record, forged(record, members))


@pytest.mark.parametrize(
    "chain",
    [
        CHAIN_MEMBERS,
        CHAIN_MEMBERS | {"chain_type": 3},
        CHAIN_MEMBERS | {"message_keys": {1: key(1), 2: key(2)[:31]}},
        CHAIN_MEMBERS | {"message_keys": {-1: key(1)}},
        CHAIN_MEMBERS | {"chain_key": {"counter": 1, "key": b""}},
    ],
)
def test_the_depth_of_a_session_is_checked_when_read(chain: dict[str, Any]) -> None:
    """A wrong key deep in a session would reach the client from a file that someone made."""
    record = Key("session", "1.0")
    members = msgspec.to_builtins(SESSION, builtin_types=(bytes,))
    session = members["sessions"][public(1)]
    session["chains"][public(8)] = chain
    if chain is CHAIN_MEMBERS:
        native.decode(record, forged(record, members))  # what the others differ from is right
        session["chains"] = {b"\6" + key(8): chain}
    with pytest.raises(DecodeError):
        native.decode(record, forged(record, members))


def changeable(value: Any) -> list[str]:
    """The types of what could be changed in a value, at any depth."""
    if isinstance(value, dict):
        below = [each for pair in value.items() for part in pair for each in changeable(part)]
        return below if type(value) is FrozenDict else [type(value).__name__, *below]
    if type(value) is tuple:
        return [each for part in value for each in changeable(part)]
    if isinstance(value, Value):
        return [e for name in value.__struct_fields__ for e in changeable(getattr(value, name))]
    fixed = (type(None), bool, int, float, str, bytes, Foreign)
    return [] if type(value) in fixed else [type(value).__name__]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_cannot_be_changed(name: str) -> None:
    """A record that readers share would change under one of them, at some depth."""
    record, value = RECORDS[name]
    back = native.decode(record, stored(name))
    assert changeable(back) == []
    assert isinstance(value, dict) or hash(back) == hash(value)


def test_text_in_place_of_a_record_is_refused() -> None:
    """A row that someone wrote as text into the database would stop the program."""
    text: Any = "RK\x01\0 and some more text"
    with pytest.raises(DecodeError):
        native.decode(Key("lid-mapping", "1"), text)


def test_errors_show_no_content() -> None:
    """Key material would end up in a log."""
    record = Key("lid-mapping", "1")
    payload = b"\x81\xa6secret\xa6secret"
    raw = b"RK\x01\0" + native._checksum(1, 0, record, payload) + payload
    with pytest.raises(DecodeError) as caught:
        native.decode(record, raw)
    assert "secret" not in f"{caught.value!r} {caught.value}"


TEXTS = st.text(st.characters(codec=None), max_size=5)
FREE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | TEXTS
    | st.binary(max_size=5)
    | st.binary(max_size=5).map(lambda data: Foreign("etf", data)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(FREE, st.dictionaries(TEXTS, FREE, max_size=2))
def test_any_free_value_comes_back(data: Any, extra: dict[str, Any]) -> None:
    """Something that an application keeps would change in our default store."""
    for record, value in [
        (CREDENTIALS, FULL.replace(additional_data=data, extra=extra)),
        (Key("session", "1"), SESSION.replace(extra=extra)),
        (Key("sender-key", "1"), RECORDS["sender-key"][1].replace(extra=extra)),
    ]:
        encoded = native.encode(record, value).data
        assert encoded is not None
        back = native.decode(record, encoded)
        assert back == value and show(back) == show(value)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(NAMES), st.binary(max_size=60), st.integers(0, 3))
def test_no_bytes_bring_up_an_error_that_is_not_ours(name: str, tail: bytes, flags: int) -> None:
    """A damaged row would stop the program instead of being reported."""
    record = RECORDS[name][0]
    for raw in (
        tail,
        b"RK" + tail,
        b"RK" + bytes((1, flags)) + native._checksum(1, flags, record, tail) + tail,
    ):
        try:
            native.decode(record, raw)
        except RatchetkeepError:
            continue


def main(arguments: list[str]) -> int:
    if arguments != ["write"]:
        sys.stderr.write("usage: python tests/formats/test_native.py write\n")
        return 2
    GOLDEN.mkdir(exist_ok=True)
    for name in NAMES:
        path = GOLDEN / f"{name}.rk"
        if not path.exists():
            path.write_bytes(stored(name))
            text = show(RECORDS[name][1]) + "\n"
            path.with_suffix(".txt").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
