"""BaileysEx's native files: the same terms back, no atom that the library lacks, no silent loss."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _helpers import (
    ALICE,
    BOB,
    LEGACY,
    MANIFEST,
    OTP25,
    OTP29,
    atoms_of,
    canonical,
    key_of,
    records,
)
from ratchetkeep.errors import DecodeError, InvalidValue, UnsupportedVersion
from ratchetkeep.formats import baileys, baileysex, etf, native, spellings
from ratchetkeep.formats._baileysex_direct import DIRECT
from ratchetkeep.formats._baileysex_signal import with_identities
from ratchetkeep.formats._shape import Losses
from ratchetkeep.model import (
    CREDENTIALS,
    AppStateSyncKey,
    Credentials,
    EncodedRecord,
    Foreign,
    Key,
    SessionRecord,
    TcToken,
)
from ratchetkeep.stores.layouts import LAYOUTS, read_manifest, write_manifest
from ratchetkeep.testing.strategies import BAILEYS, BAILEYSEX, NATIVE, ids, values_for

ETF_FILES = [path for folder in (OTP29, OTP25) for path in records(folder)]
NO_ATOMS_OF_ITS_OWN = {
    # What the application of the golden device keeps in additional_data.
    *("a", "alpha", "b", "beta", "big", "bin", "bits", "bools", "charlist", "empty", "float"),
    *("improper", "int_key", "ints", "keyword", "labels", "list", "map", "neg_big", "nested"),
    *("ok", "status", "tuple", "wide", "ünïcode", "атом-ü"),
}
STATE_MEMBERS = [
    "account",
    "account_settings",
    "account_sync_counter",
    "additional_data",
    "adv_secret_key",
    "first_unuploaded_pre_key_id",
    "last_account_sync_timestamp",
    "last_prop_hash",
    "me",
    "my_app_state_key_id",
    "next_pre_key_id",
    "noise_key",
    "pairing_code",
    "pairing_ephemeral_key",
    "platform",
    "processed_history_messages",
    "registered",
    "registration_id",
    "routing_info",
    "signal_identities",
    "signed_identity_key",
    "signed_pre_key",
]
ALLOWED = {
    *STATE_MEMBERS,
    *(a for path in records(OTP29) for a in atoms_of(etf.decode(path.read_bytes()))),
} - NO_ATOMS_OF_ITS_OWN
ATOM = b"w\x01a"
PID = b"X" + ATOM + bytes(12)
FUN_REST = b"\x01" + bytes(20) + struct.pack(">I", 0) + ATOM + b"a\x05" + b"b\0\0\1\0" + PID


def written(key: Key, value: Any, credentials: Credentials | None = None) -> bytes:
    made = baileysex.encode(key, value, credentials)
    assert made.data is not None
    return made.data


def losses(key: Key, value: Any, credentials: Credentials | None = None) -> set[str]:
    return {loss.place for loss in baileysex.encode(key, value, credentials).losses}


def again(key: Key, raw: bytes) -> bytes:
    """Through the model and our own format, back to terms; nothing may be lost on the way."""
    value = baileysex.decode(key, raw)
    kept = native.encode(key, value).data
    assert kept is not None
    back = native.decode(key, kept)
    assert back == value
    assert losses(key, back) == set()
    return written(key, back)


def the_state() -> etf.Map:
    term = etf.decode((OTP29 / "creds.etf").read_bytes())
    assert isinstance(term, etf.Map)
    return term


def with_member(term: Any, name: str, value: Any) -> etf.Map:
    """The map with the value of an atom key replaced or added."""
    key = etf.Atom(name)
    pairs = [(k, value if k == key else v) for k, v in term.items()]
    return etf.Map(tuple(pairs if key in term else [*pairs, (key, value)]))


def without_member(term: Any, name: str) -> etf.Map:
    return etf.Map(tuple(pair for pair in term.items() if pair[0] != etf.Atom(name)))


# The files of the real library.


@pytest.mark.parametrize("path", ETF_FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_golden_files_come_back_as_the_same_terms(path: Path) -> None:
    """A folder that is only copied would change on its way through us."""
    raw, key = path.read_bytes(), key_of(path)
    assert canonical(again(key, raw)) == canonical(raw)


def test_both_runtimes_files_read_the_same() -> None:
    """A device would look different after its runtime was upgraded."""
    for path in records(OTP29):
        key, raw = key_of(path), (OTP25 / path.name).read_bytes()
        old, new = baileysex.decode(key, raw), baileysex.decode(key, path.read_bytes())
        if key == CREDENTIALS:
            # Carried as it stands there, and the two runtimes order a map differently.
            assert canonical(old.additional_data.data) == canonical(new.additional_data.data)
            old, new = old.replace(additional_data=None), new.replace(additional_data=None)
        assert old == new, path.name


def test_credentials_of_the_library_are_read_member_by_member() -> None:
    """A member would be read from the wrong place, and still come back as the same term."""
    creds = baileysex.decode(CREDENTIALS, (OTP29 / "creds.etf").read_bytes())
    assert creds.registration_id == 8339
    assert creds.me.id == "15551234567:12@s.whatsapp.net"
    assert creds.me.name == "Ação ☕ 🙂"
    assert creds.platform == "smba" and creds.pairing_code == "ABCD1234"
    assert creds.noise_key.private.hex().startswith("5050d6256292afac")
    assert creds.noise_key.is_matched and creds.signed_identity_key.is_matched
    assert creds.signed_pre_key.is_signed_by(creds.signed_identity_key.public)
    assert len(creds.adv_secret_key) == 32
    assert creds.my_app_state_key_id == "AAD7//4/"
    assert [m.key.addressing_mode for m in creds.processed_history_messages] == ["pn", "lid", None]
    assert creds.account.details.hex() == "08c0c40710808fb2af06180c"


def test_the_manifest_comes_back_as_the_same_bytes() -> None:
    """BaileysEx refuses every load when it does not understand its manifest."""
    raw = (OTP29 / MANIFEST).read_bytes()
    ids = read_manifest(raw)
    assert {family: len(names) for family, names in ids.items()}["pre-key"] == 29
    assert write_manifest(ids) == raw
    shuffled = {family: list(reversed(ids[family])) for family in reversed(list(ids))}
    assert write_manifest(shuffled) == raw


@pytest.mark.parametrize("version", [0, 2, b"1", etf.Atom("nil")])
def test_a_manifest_of_another_version_is_refused(version: Any) -> None:
    """A newer library's index would be overwritten by an older one's."""
    manifest: Any = etf.decode((OTP29 / MANIFEST).read_bytes())
    pairs = dict(manifest.items())
    pairs[b"version"] = version
    with pytest.raises(UnsupportedVersion):
        read_manifest(etf.encode(etf.Map(tuple(pairs.items()))))


@pytest.mark.parametrize(
    "change",
    [
        {b"backend": b"file_persistence"},
        {b"backend": etf.Atom("native_file_persistence")},
        {b"key_index": []},
        {b"key_index": etf.Map(((b"session", b"1.0"),))},
        {b"key_index": etf.Map(((b"session", [1]),))},
        {b"key_index": etf.Map(((b"session", [b"\xff"]),))},
    ],
)
def test_a_damaged_manifest_is_refused(change: dict[bytes, Any]) -> None:
    """Ids that only the manifest knows would be lost with the next commit."""
    manifest: Any = etf.decode((OTP29 / MANIFEST).read_bytes())
    pairs = dict(manifest.items())
    pairs.update(change)
    with pytest.raises(DecodeError):
        read_manifest(etf.encode(etf.Map(tuple(pairs.items()))))


# Anything in additional_data.

ODD_TERMS = {
    "pid": PID,
    "old pid": b"g" + ATOM + bytes(9),
    "port": b"Y" + ATOM + bytes(8),
    "port of 64 bits": b"x" + ATOM + bytes(12),
    "reference": b"Z\0\3" + ATOM + bytes(16),
    "old reference": b"r\0\1" + ATOM + bytes(5),
    "fun": b"p" + struct.pack(">I", len(FUN_REST) + 4) + FUN_REST,
    "export": b"q" + ATOM + ATOM + b"a\2",
    "improper list": b"l\0\0\0\1a\1a\2",
    "improper list of binaries": b"l\0\0\0\1m\0\0\0\1xm\0\0\0\1y",
    "small big": b"n\x09\1" + b"\1" * 9,
    "large big": b"o\0\0\1\1\0" + b"\1" * 257,
    "bitstring": b"M\0\0\0\1\3\xa0",
    "tuple as key": b"t\0\0\0\1h\1a\1a\2",
    "map as key": b"t\0\0\0\1t\0\0\0\1a\1a\2a\2",
    "float and int keys": b"t\0\0\0\2a\1a\1F\x3f\xf0\0\0\0\0\0\0a\2",
    "binary key that is no text": b"t\0\0\0\1m\0\0\0\1\xffa\2",
    "string": b"k\0\3abc",
    "empty list": b"j",
    "empty map": b"t\0\0\0\0",
    "empty tuple": b"h\0",
    "unknown atom": b"w\x07unknown",
    "text": b"m\0\0\0\3abc",
    "bytes": b"m\0\0\0\3\xff\xfeA",
    "bytes that look like text": b"m\0\0\0\3\1\2\3",
    "buffer map": b"t\0\0\0\2m\0\0\0\4datam\0\0\0\4AQI=m\0\0\0\4typem\0\0\0\6Buffer",
    "buffer map, no text": b"t\0\0\0\2m\0\0\0\4datam\0\0\0\4/w==m\0\0\0\4typem\0\0\0\6Buffer",
    "buffer map, no base64": b"t\0\0\0\2m\0\0\0\4datam\0\0\0\1!m\0\0\0\4typem\0\0\0\6Buffer",
    "buffer map with atoms": b"t\0\0\0\2w\4datam\0\0\0\4AQI=w\4typem\0\0\0\6Buffer",
    "true": b"w\4true",
    "minus zero": b"F\x80\0\0\0\0\0\0\0",
    "deep": b"h\1" * 200 + b"j",
    "deep list": b"l\0\0\0\1" * 80 + b"j" + b"j" * 80,
    "struct": b"t\0\0\0\1w\x0a__struct__w\x09Elixir.My",
}


@pytest.mark.parametrize("name", ODD_TERMS)
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_whatever_stands_in_additional_data_survives(name: str, depth: int) -> None:
    """What an application keeps there would be lost or changed by opening the device once."""
    term = etf.decode(b"\x83" + ODD_TERMS[name])
    for _ in range(depth):
        term = etf.Map(((b"inside", [term, b"\xff", 1]),))
    raw = etf.encode(with_member(the_state(), "additional_data", term))
    assert canonical(again(CREDENTIALS, raw)) == canonical(raw)


@pytest.mark.parametrize("name", ODD_TERMS)
def test_members_that_we_do_not_know_survive(name: str) -> None:
    """What a newer BaileysEx keeps in its state would be lost."""
    odd = etf.decode(b"\x83" + ODD_TERMS[name])
    state = with_member(the_state(), "a_new_member", odd)
    state = etf.Map((*state.items(), (odd, b"under an odd key"), (b"text key", odd)))
    me = with_member(state.get(etf.Atom("me")), "verified", odd)
    raw = etf.encode(with_member(state, "me", me))
    assert canonical(again(CREDENTIALS, raw)) == canonical(raw)


@pytest.mark.parametrize("name", [n for n in ODD_TERMS if n != "buffer map, no text"])
def test_what_json_cannot_spell_is_listed(name: str) -> None:
    """A term would be dropped without a word when the device is copied to a JSON folder."""
    term = etf.decode(b"\x83" + ODD_TERMS[name])
    raw = etf.encode(with_member(the_state(), "additional_data", etf.Map(((b"x", term),))))
    value = baileysex.decode(CREDENTIALS, raw)
    made = baileys.encode(CREDENTIALS, value)
    assert made.data is not None
    back = baileys.decode(CREDENTIALS, made.data)
    if back.additional_data != value.additional_data:
        (loss,) = made.losses
        assert loss.place.startswith("additionalData.x") and not loss.derived
    else:
        assert made.losses == ()


def test_an_integer_of_any_length_goes_to_json_or_is_listed() -> None:
    """A number longer than Python prints would stop a copy with an error that is not ours."""
    term = etf.Map(((b"x", 2**20000),))
    raw = etf.encode(with_member(the_state(), "additional_data", term))
    value = baileysex.decode(CREDENTIALS, raw)
    made = baileys.encode(CREDENTIALS, value)
    if not made.losses:
        assert made.data is not None
        assert baileys.decode(CREDENTIALS, made.data).additional_data == value.additional_data


# From JSON.

JSON_FILES = [
    path for folder in (ALICE, BOB, LEGACY / "alice", LEGACY / "bob") for path in records(folder)
]


def creds_of(folder: Path) -> Credentials:
    value = baileys.decode(CREDENTIALS, (folder / "creds.json").read_bytes())
    assert isinstance(value, Credentials)
    return value


def test_no_atom_is_written_that_the_library_lacks() -> None:
    """One unknown atom makes the file unreadable: BaileysEx loads it with [:safe]."""
    assert len(ALLOWED) > 80 and not ALLOWED & NO_ATOMS_OF_ITS_OWN
    found: set[str] = set()
    for path in JSON_FILES:
        value = baileys.decode(key_of(path), path.read_bytes())
        data = written(key_of(path), value, creds_of(path.parent))
        found |= set(atoms_of(etf.decode(data)))
    assert found - ALLOWED == set()
    assert set(STATE_MEMBERS) < found


def test_no_unknown_member_of_json_becomes_an_atom() -> None:
    """A name from a JSON file would make the whole file unreadable as an atom."""
    strange: dict[str, Any] = {"strange": 1, "Elixir.Strange": {"deep_strange": [True, None]}}
    creds = creds_of(ALICE)
    assert creds.me and creds.account and creds.signal_identities
    creds = creds.replace(
        extra=strange,
        additional_data=strange,
        me=creds.me.replace(extra=strange),
        account=creds.account.replace(extra=strange),
        noise_key=creds.noise_key.replace(extra=strange),
        account_settings=creds.account_settings.replace(extra=strange),
        processed_history_messages=tuple(
            message.replace(key=message.key.replace(addressing_mode="strange"), extra=strange)
            for message in creds.processed_history_messages
        ),
    )
    assert set(atoms_of(etf.decode(written(CREDENTIALS, creds)))) <= ALLOWED
    listed = losses(CREDENTIALS, creds)
    assert {"strange", "me.strange", "account.strange", "noise_key.strange"} <= listed
    assert "processed_history_messages[0].key.addressing_mode" in listed


@pytest.mark.parametrize("path", JSON_FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_json_values_come_back_from_terms(path: Path) -> None:
    """A device that went through BaileysEx's format would be another one."""
    key, creds = key_of(path), creds_of(path.parent)
    value = baileys.decode(key, path.read_bytes())
    back = baileysex.decode(key, written(key, value, creds))
    if key.family == "session":
        assert losses(key, value, creds) == {
            f"sessions[{place}].used" for place in range(len(value.sessions))
        }
        assert bare(back) == bare(value)
        assert len(back.sessions) == len(value.sessions)
    elif key.family == "app-state-sync-key":
        assert losses(key, value, creds) == {"fingerprint", "timestamp"}
        assert back == AppStateSyncKey(key_data=value.key_data)
    else:
        assert losses(key, value, creds) == set()
        assert back == value


def bare(record: SessionRecord) -> SessionRecord:
    """A record without what BaileysEx has no place for, and without its order."""
    return SessionRecord(
        sessions={
            base_key: session.replace(
                index_info=session.index_info.replace(
                    used=None, created=None, local_identity_key=None
                )
            )
            for base_key, session in sorted(record.sessions.items())
        }
    )


def test_the_open_session_comes_first_and_is_used_last() -> None:
    """libsignal-node would send on a session that was closed long ago."""
    path = ALICE / "session-998877665544332_1.7.json"
    value = baileys.decode(key_of(path), path.read_bytes())
    back = baileysex.decode(key_of(path), written(key_of(path), value, creds_of(ALICE)))
    first, *closed = back.sessions.values()
    assert first.is_open and closed
    assert not any(session.is_open for session in closed)
    data = baileys.encode(key_of(path), back).data
    assert data is not None
    infos = [s.index_info for s in baileys.decode(key_of(path), data).sessions.values()]
    assert all(infos[0].used > info.used for info in infos[1:])
    assert all(info.used and info.created for info in infos)


def test_a_session_says_whose_it_is() -> None:
    """BaileysEx would compute wrong MACs: it takes our identity key from the session."""
    path = ALICE / "session-998877665544332_1.7.json"
    creds = creds_of(ALICE)
    value = baileys.decode(key_of(path), path.read_bytes())
    back = baileysex.decode(key_of(path), written(key_of(path), value, creds))
    identity = b"\x05" + creds.signed_identity_key.public
    for session in back.sessions.values():
        assert session.index_info.local_identity_key == identity
    assert any("identity" in loss.what for loss in baileysex.encode(key_of(path), value).losses)


@pytest.mark.parametrize(
    ("given", "wanted", "listed"),
    [
        (5, 5, set()),
        ("5", "5", set()),
        ({"low": 7, "high": 1, "unsigned": False}, 2**32 + 7, {"timestamp"}),
        ({"low": -1, "high": -1, "unsigned": False}, -1, {"timestamp"}),
        ({"low": -1, "high": -1, "unsigned": True}, str(2**64 - 1), {"timestamp"}),
    ],
)
def test_a_javascript_long_becomes_its_number(given: Any, wanted: Any, listed: set[str]) -> None:
    """A time would be off by 2**32 seconds after a copy."""
    key = Key("tctoken", "1@lid")
    value = TcToken(token=b"", timestamp=given)
    assert losses(key, value) == listed
    term = etf.decode(written(key, value))
    assert isinstance(term, etf.Map)
    stored = term.get(etf.Atom("timestamp"))
    assert stored == (wanted.encode() if isinstance(wanted, str) else wanted)
    assert baileysex.decode(key, written(key, value)).timestamp == wanted


@pytest.mark.parametrize("low", ["7", None, 1.5, True, [1]])
def test_a_long_of_no_numbers_never_breaks_a_copy(low: Any) -> None:
    """A damaged Long in a JSON file would stop a copy with an error that is not ours."""
    raw = {"low": low, "high": 0, "unsigned": False}
    try:
        value = TcToken(token=b"", timestamp=raw)
    except ValueError:
        return
    assert losses(Key("tctoken", "1@lid"), value) == {"timestamp"}


def test_half_a_character_is_replaced_and_listed() -> None:
    """Text that UTF-8 cannot spell would make a file that Elixir cannot read, or vanish unsaid."""
    creds = creds_of(ALICE)
    assert creds.me
    creds = creds.replace(me=creds.me.replace(name="Ana \ud83d"))
    assert losses(CREDENTIALS, creds) == {"me.name"}
    back = baileysex.decode(CREDENTIALS, written(CREDENTIALS, creds))
    assert back.me.name == "Ana \ufffd"


def test_half_a_character_in_a_name_is_listed() -> None:
    """A member's name would change without a word, or two members become one."""
    for names in ({"\ud83d": 1}, {"\ud83d": 1, "?": 2}):
        creds = creds_of(ALICE).replace(additional_data=names)
        assert any(place.startswith("additional_data") for place in losses(CREDENTIALS, creds))


def test_a_null_that_has_no_place_is_listed() -> None:
    """A member that says "nothing" would be dropped without a word."""
    creds = creds_of(ALICE).replace(extra={"newMember": None})
    assert losses(CREDENTIALS, creds) == {"newMember"}


def test_a_record_in_a_foreign_encoding_is_not_held() -> None:
    """Another client's session bytes would be written where BaileysEx crashes on them."""
    made = baileysex.encode(Key("session", "1.0"), EncodedRecord(encoding="waeys-json", data=b"{}"))
    assert made.data is None and len(made.losses) == 1 and not made.losses[0].derived


def test_a_value_that_only_another_format_can_spell_is_listed() -> None:
    """It would be dropped without a word."""
    creds = creds_of(ALICE).replace(additional_data={"x": Foreign("cbor", b"\xa0")})
    assert losses(CREDENTIALS, creds) == {"additional_data.x"}


# Refusals.


def session_term() -> Any:
    return etf.decode((OTP29 / "session-15550001111.0.etf").read_bytes())


def group_term() -> Any:
    for path in records(OTP29):
        if key_of(path).family == "sender-key":
            term: Any = etf.decode(path.read_bytes())
            (state, *_) = term.get(etf.Atom("sender_key_states"))
            if state.get(etf.Atom("sender_message_keys")):
                return term
    raise AssertionError("no golden sender key has skipped messages")


def plain_state() -> etf.Map:
    return without_member(the_state(), "__struct__")


@pytest.mark.parametrize(
    "struct_name", ["Elixir.BaileysEx.Signal.SessionRecor", "Elixir.Other", ""]
)
@pytest.mark.parametrize("family", ["session", "sender-key", "credentials"])
def test_a_wrong_struct_is_refused(family: str, struct_name: str) -> None:
    """BaileysEx takes such a file for no record, or crashes on it: so must not we accept it."""
    if (family, struct_name) == ("credentials", ""):
        # The one plain map that BaileysEx does take; without its keys it is refused all the same.
        assert isinstance(baileysex.decode(CREDENTIALS, etf.encode(plain_state())), Credentials)
        return
    term = {"session": session_term, "sender-key": group_term, "credentials": the_state}[family]()
    if struct_name:
        term = with_member(term, "__struct__", etf.Atom(struct_name))
    else:
        term = without_member(term, "__struct__")
    key = CREDENTIALS if family == "credentials" else Key(family, "1")
    with pytest.raises(DecodeError):
        baileysex.decode(key, etf.encode(term))


@pytest.mark.parametrize("member", ["iv", "cipher_key", "seed"])
@pytest.mark.parametrize("change", ["flip", "nil", "gone"])
def test_a_skipped_key_that_does_not_follow_from_its_seed_is_refused(
    member: str, change: str
) -> None:
    """A damaged key would be mended or dropped in silence, and its message lost."""
    term = group_term()
    states = term.get(etf.Atom("sender_key_states"))
    skipped = states[0].get(etf.Atom("sender_message_keys"))
    data = bytearray(skipped[0].get(etf.Atom(member)))
    data[0] ^= 1
    if change == "gone":
        broken = without_member(skipped[0], member)
    else:
        value = bytes(data) if change == "flip" else etf.Atom("nil")
        broken = with_member(skipped[0], member, value)
    state = with_member(states[0], "sender_message_keys", [broken, *skipped[1:]])
    spoilt = with_member(term, "sender_key_states", [state, *states[1:]])
    with pytest.raises(DecodeError):
        baileysex.decode(Key("sender-key", "1"), etf.encode(spoilt))


@pytest.mark.parametrize("member", sorted({*STATE_MEMBERS} & {
    "noise_key", "signed_identity_key", "signed_pre_key", "registration_id", "adv_secret_key",
    "next_pre_key_id", "first_unuploaded_pre_key_id",
}))  # fmt: skip
@pytest.mark.parametrize("value", ["gone", "nil", "list"])
def test_credentials_without_what_makes_them_are_refused(member: str, value: str) -> None:
    """Half of an identity would be taken for credentials."""
    state = the_state()
    if value == "gone":
        state = without_member(state, member)
    else:
        state = with_member(state, member, etf.Atom("nil") if value == "nil" else [])
    with pytest.raises(DecodeError):
        baileysex.decode(CREDENTIALS, etf.encode(state))


def test_sync_keys_keep_their_form() -> None:
    """A key that stood in a map would come back bare, or the other way round."""
    key = Key("app-state-sync-key", "AAAA")
    bare_key = etf.encode(b"\1" * 32)
    in_map = etf.encode(etf.Map(((etf.Atom("key_data"), b"\1" * 32),)))
    assert again(key, bare_key) == bare_key
    assert again(key, in_map) == in_map


def test_names_of_files_follow_the_library() -> None:
    """BaileysEx would not find a record under another name."""
    layout = LAYOUTS["baileysex"]
    ids = read_manifest((OTP29 / MANIFEST).read_bytes())
    names = {layout.file_name(Key(family, id)) for family in ids for id in ids[family]}
    assert names == {path.name for path in records(OTP29)} - {"creds.etf"}


# Any term.

ATOMS = st.sampled_from(["a", "nil", "true", "ünï", "__struct__"]).map(etf.Atom)
LEAVES = (
    st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.binary(max_size=6)
    | st.text(max_size=6).map(lambda text: text.encode("utf-8", "replace"))
    | ATOMS
)


def a_map(pairs: list[tuple[Any, Any]]) -> etf.Map:
    return etf.Map(tuple({etf.canonical(key): (key, v) for key, v in pairs}.values()))


TERMS = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.lists(st.tuples(st.binary(max_size=4) | inner, inner), max_size=3).map(a_map)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(TERMS, TERMS)
def test_any_term_comes_back(data: Any, unknown: Any) -> None:
    """Some term of an application would change by being saved and loaded."""
    state = with_member(the_state(), "additional_data", data)
    raw = etf.encode(with_member(state, "unknown", unknown))
    assert canonical(again(CREDENTIALS, raw)) == canonical(raw)


# The direct way and the tables.


def written_both_ways(key: Key, value: Any, credentials: Credentials | None) -> bool:
    """Whether the record is written directly; it must be as the tables write it in any case."""
    if isinstance(value, EncodedRecord):
        return True
    made = baileysex.encode(key, value, credentials)
    noted = Losses()
    value = spellings.for_node(key, value, credentials, noted, times=False)
    if key.family == "session":
        value = with_identities(value, noted, credentials)
    direct = DIRECT.record(baileysex.CODECS[key.family], value)
    by_tables = Losses()
    assert made.data == baileysex.by_tables(key, value, by_tables)
    assert made.losses == (*noted.found, *by_tables.found)
    assert direct is None or (direct == made.data and not by_tables.found)
    return direct is not None


@pytest.mark.parametrize("path", records(ALICE), ids=lambda path: path.name)
def test_records_of_baileys_are_written_directly(path: Path) -> None:
    """Each commit would take the slow way, and nothing else would tell."""
    key = key_of(path)
    is_detailed = key.family == "app-state-sync-key"  # which BaileysEx has no place for
    value = baileys.decode(key, path.read_bytes())
    assert written_both_ways(key, value, the_credentials()) is not is_detailed


def the_credentials() -> Credentials:
    credentials: Credentials = baileysex.decode(CREDENTIALS, (OTP29 / "creds.etf").read_bytes())
    return credentials


@pytest.mark.parametrize("path", ETF_FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_both_ways_write_real_records_the_same(path: Path) -> None:
    """A record would change by which way it was written."""
    key = key_of(path)
    written_both_ways(key, baileysex.decode(key, path.read_bytes()), None)


@pytest.mark.parametrize("family", list(baileysex.CODECS))
def test_both_ways_write_the_same_bytes(family: str) -> None:
    """What a record holds would depend on which way it was written."""
    ways = set()

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def check(data: Any) -> None:
        values = values_for(data.draw(st.sampled_from([BAILEYSEX, BAILEYS, NATIVE])))
        credentials = data.draw(st.sampled_from([None, the_credentials()]))
        if family == CREDENTIALS.family:
            ways.add(written_both_ways(CREDENTIALS, data.draw(values.credentials), None))
        else:
            key = Key(family, data.draw(ids(family)))
            ways.add(written_both_ways(key, data.draw(values.records[family]), credentials))

    check()
    assert True in ways


def test_deep_terms_are_refused_as_one() -> None:
    """A part within the limits would be written into a record that is beyond them."""
    deep = b"l\0\0\0\1" * 256 + b"j" * 257
    carried = Foreign("etf", b"\x83" + deep)
    assert etf.decode(carried.data)
    credentials = the_credentials().replace(additional_data=carried)
    with pytest.raises(InvalidValue, match="nested"):
        baileysex.encode(CREDENTIALS, credentials)
