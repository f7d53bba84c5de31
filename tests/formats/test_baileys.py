"""Baileys' multi-file JSON: fidelity to real files, the old spellings, and refusal of damage."""

from __future__ import annotations

import base64
import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _helpers import ALICE, BOB, FAMILY_FILES, LEGACY, key_of, records
from ratchetkeep.errors import DecodeError
from ratchetkeep.formats import baileys, native, spellings
from ratchetkeep.formats._baileys_direct import DIRECT
from ratchetkeep.formats._shape import Losses
from ratchetkeep.model import (
    CREDENTIALS,
    AppStateSyncKey,
    Contact,
    Credentials,
    EncodedRecord,
    HistoryMessage,
    Key,
    KeyPair,
    MessageKey,
    Session,
    SessionRecord,
    TcToken,
)
from ratchetkeep.model.session import Chain, ChainKey, IndexInfo, Ratchet
from ratchetkeep.testing.strategies import BAILEYS, NATIVE, ids, values_for

GOLDEN_FILES = [*records(ALICE), *records(BOB)]
LEGACY_FILES = [*records(LEGACY / "alice"), *records(LEGACY / "bob")]


def golden(family: str) -> Any:
    return json.loads((ALICE / FAMILY_FILES[family]).read_bytes())


def golden_key(family: str) -> Key:
    return key_of(ALICE / FAMILY_FILES[family])


def text_of(document: Any) -> bytes:
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace")


def at(document: Any, path: str) -> Any:
    """The member at a path such as ``_sessions/0/indexInfo``; a number is a place."""
    for step in path.split("/") if path else ():
        if step.isdecimal():
            document = list(document.values() if isinstance(document, dict) else document)[
                int(step)
            ]
        else:
            document = document[step]
    return document


def encoded(key: Key, value: Any) -> bytes:
    made = baileys.encode(key, value)
    assert made.losses == () and made.data is not None
    return made.data


def again(key: Key, raw: bytes) -> bytes:
    """Through the model, through our own format, and back."""
    value = baileys.decode(key, raw)
    kept = native.encode(key, value).data
    assert kept is not None
    assert native.decode(key, kept) == value
    return encoded(key, native.decode(key, kept))


# The files of the real library.


def test_golden_files_are_there() -> None:
    """The golden tests would pass by looking at nothing."""
    assert len(GOLDEN_FILES) == 178 + 149
    assert len(LEGACY_FILES) == 29
    assert {key_of(path).family for path in GOLDEN_FILES} == set(FAMILY_FILES)


@pytest.mark.parametrize("folder", [ALICE, BOB], ids=["alice", "bob"])
def test_golden_files_come_back_as_the_same_bytes(folder: Path) -> None:
    """A folder that is only copied would change on its way through us."""
    for path in records(folder):
        raw = path.read_bytes()
        assert encoded(key_of(path), baileys.decode(key_of(path), raw)) == raw, path.name
        assert again(key_of(path), raw) == raw, path.name


@pytest.mark.parametrize("path", LEGACY_FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_files_of_6x_keep_their_meaning(path: Path) -> None:
    """Moving from 6.x to 7.x would change a record."""
    key, raw = key_of(path), path.read_bytes()
    value = baileys.decode(key, raw)
    assert baileys.decode(key, encoded(key, value)) == value
    if key.family != "sender-key":
        assert encoded(key, value) == raw


def test_sender_keys_of_6x_are_written_as_7x_reads_them() -> None:
    """7.x answers a 6.x sender key with a JSON error, and the group cannot be read any more."""
    paths = [path for path in LEGACY_FILES if key_of(path).family == "sender-key"]
    assert paths
    for path in paths:
        old = json.loads(path.read_bytes())
        outer = json.loads(encoded(key_of(path), baileys.decode(key_of(path), path.read_bytes())))
        assert list(outer) == ["type", "data"] and outer["type"] == "Buffer"
        new = json.loads(base64.b64decode(outer["data"], validate=True))
        assert len(new) == len(old)
        for before, after in zip(old, new, strict=True):
            assert after["senderKeyId"] == before["senderKeyId"]
            assert octets(after["senderChainKey"]["seed"]) == unbase64(
                before["senderChainKey"]["seed"]
            )
            assert after["senderChainKey"]["iteration"] == before["senderChainKey"]["iteration"]
            signing = before["senderSigningKey"]
            assert octets(after["senderSigningKey"]["public"]) == unbase64(signing["public"])
            private = octets(after["senderSigningKey"]["private"])
            assert private == unbase64(signing.get("private", ""))
            assert [(k["iteration"], octets(k["seed"])) for k in after["senderMessageKeys"]] == [
                (k["iteration"], unbase64(k["seed"])) for k in before["senderMessageKeys"]
            ]


def unbase64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def octets(buffer: Any) -> bytes:
    """The inner buffers of a 7.x sender key are lists of numbers."""
    assert list(buffer) == ["type", "data"] and buffer["type"] == "Buffer"
    return bytes(buffer["data"])


# Other spellings of the same value.


@pytest.mark.parametrize(
    "spelling",
    [
        lambda data: {"type": "Buffer", "data": list(data)},
        lambda data: {"data": list(data), "type": "Buffer"},
        lambda data: {"buffer": True, "value": base64.b64encode(data).decode()},
        lambda data: {"buffer": True, "value": list(data)},
    ],
    ids=["array", "array, other order", "old", "old array"],
)
def test_other_spellings_of_a_buffer(spelling: Any) -> None:
    """Folders of older versions would be refused, or their keys read as something else."""
    document = golden("pre-key")
    pair = {name: spelling(unbase64(document[name]["data"])) for name in ("private", "public")}
    key = golden_key("pre-key")
    assert encoded(key, baileys.decode(key, text_of(pair))) == text_of(document)


@pytest.mark.parametrize(
    "buffer",
    [
        {"type": "Buffer", "data": [256]},
        {"type": "Buffer", "data": [-1]},
        {"type": "Buffer", "data": [1.0]},
        {"type": "Buffer", "data": [True]},
        {"type": "Buffer", "data": "AAA"},
        {"type": "Buffer", "data": "AAB="},
        {"type": "Buffer", "data": "AAAA\n"},
        {"type": "Buffer", "data": "-_AA"},
        {"type": "Buffer", "data": "AAAA===="},
        {"type": "Buffer", "data": None},
        {"type": "buffer", "data": "AAAA"},
        {"type": "Buffer", "data": "AAAA", "more": 1},
        {"buffer": 1, "value": "AAAA"},
        "AAAA",
        None,
        [],
    ],
)
def test_what_is_no_canonical_buffer_is_refused(buffer: Any) -> None:
    """Damage to the text of a key would be read as another key."""
    with pytest.raises(DecodeError):
        baileys.decode(Key("tctoken", "1@lid"), text_of({"token": buffer}))


@pytest.mark.parametrize(
    "number", [0, 1763600558, "1763600558", "-1", {"low": -1, "high": 12, "unsigned": False}]
)
def test_numbers_as_text_and_as_longs_keep_their_spelling(number: Any) -> None:
    """A time would come back in a spelling that its library does not expect, or be lost."""
    for key, document in [
        (Key("tctoken", "1@lid"), {"token": {"type": "Buffer", "data": ""}, "timestamp": number}),
        (Key("app-state-sync-key", "AAAA"), {"keyData": "AAAA", "timestamp": number}),
        (CREDENTIALS, {**golden("credentials"), "lastAccountSyncTimestamp": number}),
    ]:
        assert json.loads(again(key, text_of(document))) == document


@pytest.mark.parametrize(
    "name", ["Ana \ud83d", "\udc00\ud83d", "\ud83e\udd8a", '\u2028\x7f\x01\u0000"\\/']
)
def test_odd_text_is_kept_as_the_same_bytes(name: str) -> None:
    """A name cut in half of an emoji, which WhatsApp sends, would break or change the file."""
    document = golden("credentials")
    document["me"]["name"] = name
    # A pair of surrogates in a JavaScript string is one character.
    joined = name.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    wanted = copy.deepcopy(document)
    wanted["me"]["name"] = joined
    raw = json.dumps(document, separators=(",", ":")).encode()
    assert again(CREDENTIALS, raw) == text_of(wanted)
    assert baileys.decode(CREDENTIALS, raw).me.name == joined


def test_a_lone_surrogate_is_written_as_javascript_writes_it() -> None:
    """The file would not be UTF-8 any more, and no library could read it."""
    document = golden("credentials")
    document["me"]["name"] = "x\ud83dy"
    value = baileys.decode(CREDENTIALS, text_of(document))
    assert rb'"x\ud83dy"' in encoded(CREDENTIALS, value)


# What we do not know.

UNKNOWN = {
    "flag": True,
    "nothing": None,
    "number": 2**70,
    "fraction": 0.5,
    "text": "\ud83d?",
    "list": [1, [2, {"deep": "x"}]],
    "bytes": {"type": "Buffer", "data": "aGVsbG8="},
    "old bytes": {"type": "Buffer", "data": [1, 2]},
    "nearly": {"type": "Buffer", "data": "no base64"},
    "4917": {"4917@s.whatsapp.net": 1763600000},
}
LEVELS = {
    "credentials": [
        "",
        "noiseKey",
        "signedPreKey",
        "signedPreKey/keyPair",
        "me",
        "account",
        "accountSettings",
        "accountSettings/defaultDisappearingMode",
        "processedHistoryMessages/0",
        "processedHistoryMessages/0/key",
        "signalIdentities/0",
        "signalIdentities/0/identifier",
        "additionalData",
    ],
    "session": [
        "",
        "_sessions/0",
        "_sessions/0/currentRatchet",
        "_sessions/0/currentRatchet/ephemeralKeyPair",
        "_sessions/0/indexInfo",
        "_sessions/0/_chains/0",
        "_sessions/0/_chains/0/chainKey",
    ],
    "pre-key": [""],
    "tctoken": [""],
    "app-state-sync-key": ["", "fingerprint"],
    "app-state-sync-version": [""],
}


@pytest.mark.parametrize(
    ("family", "level"), [(family, level) for family in LEVELS for level in LEVELS[family]]
)
def test_unknown_members_survive(family: str, level: str) -> None:
    """What a newer version of the library keeps would be lost in a copy."""
    document = golden(family)
    at(document, level).update(UNKNOWN)
    assert json.loads(again(golden_key(family), text_of(document))) == document


@pytest.mark.parametrize("level", ["0", "0/senderChainKey", "0/senderSigningKey"])
def test_unknown_members_of_a_sender_key_survive(level: str) -> None:
    """What a newer version keeps in a group's state would be lost in a copy."""
    key = golden_key("sender-key")
    inner = json.loads(unbase64(golden("sender-key")["data"]))
    at(inner, level)["future"] = {"list": [1, "x"]}
    raw = text_of({"type": "Buffer", "data": base64.b64encode(text_of(inner)).decode()})
    back = json.loads(again(key, raw))
    assert json.loads(unbase64(back["data"])) == inner


@pytest.mark.parametrize(
    ("family", "level", "member"),
    [
        ("credentials", "", "routingInfo"),
        ("credentials", "", "me"),
        ("credentials", "", "signalIdentities"),
        ("credentials", "", "pairingCode"),
        ("credentials", "", "additionalData"),
        ("credentials", "", "processedHistoryMessages"),
        ("credentials", "", "accountSettings"),
        ("credentials", "me", "lid"),
        ("credentials", "account", "deviceSignature"),
        ("session", "_sessions/0", "pendingPreKey"),
        ("tctoken", "", "timestamp"),
        ("app-state-sync-key", "", "fingerprint"),
    ],
)
def test_an_explicit_null_survives(family: str, level: str, member: str) -> None:
    """Null and absence mean different things to some readers."""
    document = golden(family)
    at(document, level)[member] = None
    assert json.loads(again(golden_key(family), text_of(document))) == document


def test_objects_keyed_by_numbers_stay_objects() -> None:
    """Baileys' own reader turns such objects into bytes; doing the same would lose them."""
    trap = {"4917@s.whatsapp.net": 1763600000, "1": 2}
    document = {**golden("credentials"), "additionalData": trap, "future": trap}
    value = baileys.decode(CREDENTIALS, text_of(document))
    assert value.additional_data == trap
    assert json.loads(again(CREDENTIALS, text_of(document))) == document


def test_order_is_kept() -> None:
    """libsignal-node looks for a message's session in this order, and lists of devices have one."""
    key, document = golden_key("session"), golden("session")
    document["_sessions"] = dict(reversed(document["_sessions"].items()))
    for entry in document["_sessions"].values():
        entry["_chains"] = dict(reversed(entry["_chains"].items()))
    assert again(key, text_of(document)) == text_of(document)
    memory = {"z@lid": True, "a@lid": False}
    assert again(Key("sender-key-memory", "g@g.us"), text_of(memory)) == text_of(memory)


def test_session_bytes_of_a_client_are_carried_untouched() -> None:
    """A session in another client's own encoding would be refused, or changed."""
    key, raw = Key("session", "1.0"), b'{"type":"Buffer","data":"CgMBAgM="}'
    assert baileys.decode(key, raw) == EncodedRecord(encoding="baileys-buffer", data=b"\n\3\1\2\3")
    assert again(key, raw) == raw


# Damage.

BAD = {
    "empty": b"",
    "blank": b"  ",
    "null": b"null",
    "cut": b'{"token":{"type":"Buffer","data":"AAAA"}',
    "two values": b'{"token":{"type":"Buffer","data":""}}{}',
    "trailing comma": b'{"token":{"type":"Buffer","data":""},}',
    "twice": b'{"token":{"type":"Buffer","data":""},"token":{"type":"Buffer","data":"AAAA"}}',
    "twice inside": b'{"token":{"type":"Buffer","data":""},"x":[{"a":1,"a":1}]}',
    "NaN": b'{"token":{"type":"Buffer","data":""},"x":NaN}',
    "Infinity": b'{"token":{"type":"Buffer","data":""},"x":-Infinity}',
    "BOM": b'\xef\xbb\xbf{"token":{"type":"Buffer","data":""}}',
    "UTF-16": '{"token":{"type":"Buffer","data":""}}'.encode("utf-16"),
    "not UTF-8": b'{"token":{"type":"Buffer","data":""},"x":"\xff"}',
    "encoded surrogate": b'{"token":{"type":"Buffer","data":""},"x":"\xed\xa0\x80"}',
    "huge number": b'{"token":{"type":"Buffer","data":""},"x":' + b"9" * 5000 + b"}",
    "deep": b'{"token":{"type":"Buffer","data":""},"x":' + b"[" * 61 + b"]" * 61 + b"}",
    "very deep": b"[" * 200_000 + b"]" * 200_000,
    "NUL bytes": bytes(64),
    "control": b'{"token":{"type":"Buffer","data":""},"x":"\x01"}',
    "hidden name": b'{"token":{"type":"Buffer","data":""},"\\u0000etf":"x"}',
    "time as text": b'{"token":{"type":"Buffer","data":""},"timestamp":"soon"}',
    "time too big": b'{"token":{"type":"Buffer","data":""},"timestamp":9223372036854775808}',
}


@pytest.mark.parametrize("name", BAD)
def test_damage_is_refused(name: str) -> None:
    """Damage would be read as some value, and written back over what can still be saved."""
    with pytest.raises(DecodeError):
        baileys.decode(Key("tctoken", "1@lid"), BAD[name])


def test_a_number_beyond_all_floats_is_refused() -> None:
    """1e999 would be read as infinity, which JSON cannot spell when it is written again."""
    raw = b'{"token":{"type":"Buffer","data":""},"x":1e999}'
    with pytest.raises(DecodeError):
        baileys.decode(Key("tctoken", "1@lid"), raw)


@pytest.mark.parametrize("family", FAMILY_FILES)
@pytest.mark.parametrize("raw", [b"0", b"true", b'"\\u0001"', b"[1]", b"{}", b"null", b'[{"a":1}]'])
def test_a_value_of_another_kind_is_refused(family: str, raw: bytes) -> None:
    """A file that was exchanged with another one would be taken for a record."""
    fits = {("sender-key-memory", b"{}"), ("lid-mapping", b'"\\u0001"')}
    if (family, raw) in fits:
        assert baileys.decode(golden_key(family), raw) is not None
        return
    with pytest.raises(DecodeError):
        baileys.decode(golden_key(family), raw)


def test_errors_show_no_content() -> None:
    """Key material would end up in a log."""
    document = golden("credentials")
    document["noiseKey"]["private"]["data"] += "A"
    with pytest.raises(DecodeError) as caught:
        baileys.decode(CREDENTIALS, text_of(document))
    assert caught.value.place == "noiseKey.private"
    assert document["noiseKey"]["private"]["data"][:8] not in str(caught.value)


def test_a_session_used_at_the_end_of_time_has_none_after_it() -> None:
    """A copy would end in an error about a record that its source held."""
    key, last = Key("session", "1.0"), 2**63 - 1
    path = next(path for path in GOLDEN_FILES if key_of(path).family == "session")
    record = baileys.decode(key, path.read_bytes())
    ((base, session),) = list(record.sessions.items())[:1]
    info = session.index_info
    both = {
        base: session.replace(index_info=info.replace(closed=5, used=last, created=1)),
        b"\x05" + bytes(32): session.replace(
            index_info=info.replace(closed=-1, used=None, created=None)
        ),
    }
    for extra in ({}, {"odd": 1}):
        made = baileys.encode(key, SessionRecord(sessions=both, extra=extra))
        back = baileys.decode(key, made.data or b"")
        assert [each.index_info.used for each in back.sessions.values()] == [last, last]


@pytest.mark.parametrize("version", ["v2", None, 1, ["v1"]])
def test_sessions_of_another_version_are_refused(version: Any) -> None:
    """A newer session layout would be read by the old rules."""
    document = {**golden("session"), "version": version}
    with pytest.raises(DecodeError):
        baileys.decode(golden_key("session"), text_of(document))


@pytest.mark.parametrize("number", ["01", "-1", "1.0", "x", "", "٣", "4294967296"])
def test_skipped_messages_have_canonical_numbers(number: str) -> None:
    """Two names of one number would overwrite each other's key."""
    document = golden("session")
    chain = at(document, "_sessions/0/_chains/0")
    chain["messageKeys"] = {number: base64.b64encode(bytes(32)).decode()}
    with pytest.raises(DecodeError):
        baileys.decode(golden_key("session"), text_of(document))


# Any value.

KEYS = st.binary(min_size=32, max_size=32)
PUBLICS = KEYS.map(lambda key: b"\x05" + key)
TEXTS = st.text(st.characters(codec=None), max_size=6).map(
    lambda text: text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
)
NAMES = TEXTS.filter(lambda name: not name.startswith("\0"))
FREE = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
EXTRAS = st.dictionaries(NAMES.map(lambda name: "x" + name), FREE, max_size=2)
UINT32 = st.integers(0, 2**32 - 1)
NUMBERS = st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(0, 10**19).map(str)
PAIRS = st.builds(KeyPair, public=KEYS, private=KEYS, extra=EXTRAS)
CHAINS = st.builds(
    Chain,
    chain_key=st.builds(ChainKey, counter=UINT32, key=st.none() | KEYS, extra=EXTRAS),
    chain_type=st.sampled_from([1, 2]),
    message_keys=st.dictionaries(UINT32, KEYS, max_size=2),
    extra=EXTRAS,
)
SESSIONS = st.builds(
    Session,
    registration_id=st.none() | UINT32,
    current_ratchet=st.builds(
        Ratchet,
        ephemeral_key_pair=st.none() | st.builds(KeyPair, public=PUBLICS, private=KEYS),
        last_remote_ephemeral_key=st.just(b"") | PUBLICS,
        previous_counter=st.integers(-1, 9),
        root_key=KEYS,
    ),
    index_info=st.builds(
        IndexInfo,
        base_key=PUBLICS,
        base_key_type=st.sampled_from([1, 2]),
        closed=st.integers(-1, 2**62),
        used=st.integers(0, 2**62),
        created=st.integers(0, 2**62),
        remote_identity_key=PUBLICS,
        extra=EXTRAS,
    ),
    chains=st.dictionaries(PUBLICS, CHAINS, max_size=2),
    extra=EXTRAS,
)
RECORDS: st.SearchStrategy[tuple[Key, Any]] = st.one_of(
    st.tuples(st.just(Key("pre-key", "1")), PAIRS),
    st.tuples(
        st.just(Key("session", "1.0")),
        st.builds(
            SessionRecord,
            sessions=st.dictionaries(PUBLICS, SESSIONS, max_size=2),
            extra=EXTRAS,
        ),
    ),
    st.tuples(
        st.just(Key("tctoken", "1")),
        st.builds(TcToken, token=st.binary(max_size=9), timestamp=NUMBERS, extra=EXTRAS),
    ),
    st.tuples(
        st.just(Key("app-state-sync-key", "AAAA")),
        st.builds(AppStateSyncKey, key_data=st.binary(max_size=9), timestamp=NUMBERS, extra=EXTRAS),
    ),
    st.tuples(
        st.just(CREDENTIALS),
        st.builds(
            lambda pair, creds: Credentials.new().replace(noise_key=pair, **creds),
            PAIRS,
            st.fixed_dictionaries(
                {
                    "additional_data": FREE,
                    "extra": EXTRAS,
                    "me": st.none() | st.builds(Contact, id=TEXTS, name=st.none() | TEXTS),
                    "processed_history_messages": st.lists(
                        st.builds(
                            HistoryMessage,
                            key=st.builds(MessageKey, id=TEXTS, from_me=st.booleans()),
                            message_timestamp=NUMBERS,
                        ),
                        max_size=2,
                    ),
                }
            ),
        ),
    ),
)


@settings(max_examples=150, deadline=None)
@given(RECORDS)
def test_any_value_comes_back(record: tuple[Key, Any]) -> None:
    """Some value would change by being saved and loaded."""
    key, value = record
    raw = encoded(key, value)
    assert baileys.decode(key, raw) == value
    assert again(key, raw) == raw


# The direct way and the tables.


def written_both_ways(key: Key, value: Any) -> bool:
    """Whether the record is written directly; it must be as the tables write it in any case."""
    if isinstance(value, EncodedRecord):
        return True
    made = baileys.encode(key, value)
    losses = Losses()
    value = spellings.for_node(key, value, None, losses)
    direct = DIRECT.written(baileys.CODECS[key.family], value)
    assert made.data == baileys.by_tables(key, value, losses)
    assert direct in (None, made.data)
    # Only the note on identities, which is not the tables', may stand beside direct bytes.
    assert set(losses.found) <= set(made.losses)
    beside = set(made.losses) - set(losses.found)
    assert direct is None or all("local_identity_key" in loss.place for loss in beside)
    return direct is not None


@pytest.mark.parametrize("path", [*GOLDEN_FILES, *LEGACY_FILES], ids=lambda path: path.name)
def test_real_records_are_written_directly(path: Path) -> None:
    """Each commit would take the slow way, and nothing else would tell."""
    key = key_of(path)
    assert written_both_ways(key, baileys.decode(key, path.read_bytes()))


@pytest.mark.parametrize("family", list(baileys.CODECS))
def test_both_ways_write_the_same_bytes(family: str) -> None:
    """What a record holds would depend on which way it was written."""
    ways = set()

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def check(data: Any) -> None:
        values = values_for(data.draw(st.sampled_from([BAILEYS, NATIVE])))
        if family == CREDENTIALS.family:
            ways.add(written_both_ways(CREDENTIALS, data.draw(values.credentials)))
        else:
            key = Key(family, data.draw(ids(family)))
            ways.add(written_both_ways(key, data.draw(values.records[family])))

    check()
    assert True in ways
