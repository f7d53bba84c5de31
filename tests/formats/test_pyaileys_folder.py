"""pyaileys' own folder: fidelity to its files, what it reads of ours, and refusal of damage."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyaileys.auth.creds import AuthenticationCreds
from pyaileys.auth.store import MultiFileAuthState, _fix_filename
from pyaileys.signal.address import jid_to_signal_address
from pyaileys.signal.group import jid_to_sender_key_name
from pyaileys.util import json as bufferjson

from _helpers import ALICE, BOB, GOLDEN, bytes_of, key_of, records
from ratchetkeep import (
    DeviceExists,
    InvalidValue,
    NameCollision,
    NotHeld,
    UnknownStore,
    copy_device,
    open_device,
    verify_device,
)
from ratchetkeep.clients import _pyaileys_creds, _pyaileys_records
from ratchetkeep.errors import DecodeError, RatchetkeepError
from ratchetkeep.formats import baileys, native, pyaileys
from ratchetkeep.model import (
    CREDENTIALS,
    FAMILIES,
    AppStateSyncKey,
    Credentials,
    EncodedRecord,
    Key,
    KeyPair,
    SessionRecord,
)
from ratchetkeep.stores import urls
from ratchetkeep.stores.layouts import LAYOUTS
from ratchetkeep.testing._forms import as_pyaileys
from ratchetkeep.testing._samples import some_bytes
from ratchetkeep.testing.strategies import NATIVE, PYAILEYS, ids, values_for

FOLDERS = [GOLDEN / "pyaileys" / name for name in ("alice", "bob", "new")]
FILES = [path for folder in FOLDERS for path in records(folder)]
LAYOUT = LAYOUTS["pyaileys"]
RATCHETS = ("session", "sender-key")
_VALUES = values_for(PYAILEYS)
_ALL = values_for(NATIVE)
SLOW = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def key_in(path: Path) -> Key:
    key = LAYOUT.key_of(path.name)
    assert key is not None
    return key


def encoded(key: Key, value: Any) -> bytes:
    made = pyaileys.encode(key, value)
    assert made.losses == () and made.data is not None
    return made.data


def text_of(document: Any, indent: int | None = None) -> bytes:
    return bufferjson.dumps(document, indent=indent).encode()


# The files of the real library.


def test_golden_files_are_there() -> None:
    """The golden tests would pass by looking at nothing."""
    assert {key_in(path).family for path in FILES} == {*FAMILIES, CREDENTIALS.family}
    assert len(FILES) == 40


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_golden_files_come_back_as_the_same_bytes(folder: Path) -> None:
    """A folder that is only copied would change on its way through us."""
    for path in records(folder):
        key, raw = key_in(path), path.read_bytes()
        value = pyaileys.decode(key, raw)
        assert encoded(key, value) == raw, path.name
        kept = native.encode(key, value).data
        assert kept is not None
        assert encoded(key, native.decode(key, kept)) == raw, path.name


def test_golden_files_are_of_the_model() -> None:
    """Other libraries could not read what pyaileys keeps, though the model has a place for it."""
    for path in FILES:
        key = key_in(path)
        value = pyaileys.decode(key, path.read_bytes())
        if key.family in RATCHETS:
            data = bufferjson.loads(path.read_text())
            assert value == EncodedRecord(encoding="signal-protobuf", data=data)
        else:
            assert not isinstance(value, EncodedRecord), path.name
            assert "pyaileys" not in getattr(value, "extra", {}), path.name


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_golden_folder_is_sound(folder: Path, tmp_path: Path) -> None:
    """A folder that pyaileys left would be called damaged."""
    shutil.copytree(folder, tmp_path / "copy")
    assert [
        each for each in verify_device(str(tmp_path / "copy")) if each.severity == "error"
    ] == []
    copy_device(f"pyaileys:{folder}", f"sqlite:{tmp_path}/x.db")
    copy_device(f"sqlite:{tmp_path}/x.db", f"pyaileys:{tmp_path}/back")
    assert bytes_of(tmp_path / "back") == bytes_of(folder)


def test_the_adapter_and_the_folder_give_the_same_values() -> None:
    """A device would differ by whether pyaileys saved it through our adapter or in its folder."""
    for path in FILES:
        key, raw = key_in(path), path.read_bytes()
        value = pyaileys.decode(key, raw)
        if key != CREDENTIALS:
            assert _pyaileys_records.to_model(key, bufferjson.loads(raw.decode())) == value
            continue
        theirs = asyncio.run(MultiFileAuthState.load(path.parent)).creds
        names = AuthenticationCreds.__slots__
        assert _pyaileys_creds.with_changes(Credentials.new(), theirs, names) == value
        assert _pyaileys_creds.to_client(value) == theirs


def test_credentials_without_a_pair_for_pairing(tmp_path: Path) -> None:
    """Not every library keeps one, and pyaileys cannot open a folder without."""
    credentials = Credentials.new().replace(pairing_ephemeral_key_pair=None)
    raw = encoded(CREDENTIALS, credentials)
    assert encoded(CREDENTIALS, credentials) == raw
    made = pyaileys.decode(CREDENTIALS, raw).pairing_ephemeral_key_pair
    assert made is not None and made.is_matched
    other = Credentials.new().replace(pairing_ephemeral_key_pair=None)
    assert (
        pyaileys.decode(CREDENTIALS, encoded(CREDENTIALS, other)).pairing_ephemeral_key_pair != made
    )
    (tmp_path / "creds.json").write_bytes(raw)
    assert asyncio.run(MultiFileAuthState.load(tmp_path)).creds.registration_id


def test_public_keys_are_spelled_as_pyaileys_compares_them() -> None:
    """pyaileys would take a contact's identity for a new one and drop the session, or put the type
    byte twice before its own keys."""
    pair = KeyPair.new()
    typed = pair.replace(public=b"\5" + pair.public)
    assert encoded(Key("pre-key", "1"), typed) == encoded(Key("pre-key", "1"), pair)
    identity = Key("identity-key", "1.0")
    assert encoded(identity, pair.public) == encoded(identity, typed.public)
    assert pyaileys.decode(identity, encoded(identity, pair.public)) == typed.public


def test_a_record_without_an_open_session_is_told() -> None:
    """A copy would not say that pyaileys begins a new conversation."""
    path = ALICE / "session-998877665544332_1.7.json"
    credentials = baileys.decode(CREDENTIALS, (ALICE / "creds.json").read_bytes())
    record: SessionRecord = baileys.decode(key_of(path), path.read_bytes())
    closed = {
        base_key: session.replace(index_info=session.index_info.replace(closed=1_763_600_000_000))
        for base_key, session in record.sessions.items()
    }
    made = pyaileys.encode(key_of(path), record.replace(sessions=closed), credentials)
    assert made.data is not None
    assert [loss.what for loss in made.losses if "open session" in loss.what and loss.derived]


@pytest.mark.parametrize(
    ("jid", "address"),
    [
        ("15551230001@s.whatsapp.net", "15551230001.0"),
        ("15551230001:7@s.whatsapp.net", "15551230001.7"),
        ("998877@lid", "998877_1.0"),
        ("998877:99@lid", "998877_1.99"),
        ("15551230001:99@hosted", "15551230001_128.99"),
        ("998877:99@hosted.lid", "998877_129.99"),
    ],
)
def test_ids_are_those_of_baileys(jid: str, address: str) -> None:
    """pyaileys would look for a session or a sender key under another id."""
    assert str(jid_to_signal_address(jid)) == address
    name, _, device = address.rpartition(".")
    assert jid_to_sender_key_name("1@g.us", jid).serialize() == f"1@g.us::{name}::{device}"


# Other values than pyaileys' usual ones.


@pytest.mark.parametrize(
    ("family", "value"),
    [
        ("session", {"a": b"b"}),
        ("session", None),
        ("sender-key", [1.5, float("inf")]),
        ("pre-key", {"public": b"\5" + bytes(32), "private": bytes(32)}),
        ("pre-key", {"public": bytes(31), "private": bytes(32)}),
        ("identity-key", bytes(32)),
        ("app-state-sync-key", b"\x0a\x01x\x98\x06\x01"),
        ("app-state-sync-key", b"no protobuf"),
        ("app-state-sync-version", {"version": 1, "hash": b"short", "indexValueMap": {}}),
        ("lid-mapping", 7),
        ("device-list", ["0", 1]),
        ("tctoken", b"bytes alone"),
        ("sender-key-memory", {"1.0": 1}),
    ],
)
def test_what_the_model_has_no_form_for_is_untouched(family: str, value: Any) -> None:
    """A value of another version of pyaileys would be changed, or make the device unreadable."""
    key = Key(family, "1")
    for raw in (text_of(value), b" " + text_of(value) + b"\n"):
        held = pyaileys.decode(key, raw)
        assert held == EncodedRecord(encoding="pyaileys-json", data=raw)
        assert encoded(key, held) == raw


def test_unknown_members_are_carried() -> None:
    """What a later version of pyaileys keeps would be gone."""
    document = json.loads((FOLDERS[0] / "creds.json").read_bytes())
    document["of_tomorrow"] = {"a": [1, float("inf"), {"type": "Buffer", "data": "AAAA"}]}
    document["pyaileys"] = {"noise_key": 1}
    document["me"]["nick"] = "x"
    document["noise_key"]["made"] = 7
    document["signed_pre_key"].update(timestamp_s=1763600000, more=None)
    raw = text_of(document, indent=2)
    credentials = pyaileys.decode(CREDENTIALS, raw)
    assert credentials.extra["of_tomorrow"]["a"][2] == bytes(3)
    assert credentials.signed_pre_key.extra["timestamp_s"] == 1763600000
    assert encoded(CREDENTIALS, credentials) == raw
    token = text_of({"token": b"\1", "timestamp": None, "since": 2.0})
    assert encoded(Key("tctoken", "1"), pyaileys.decode(Key("tctoken", "1"), token)) == token


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("account", "text"),
        ("account", {"type": "Buffer", "data": "CgF4CgF5"}),
        ("account_settings", {"unarchive_chats": 1}),
        ("processed_history_messages", [{"no": "key"}]),
        ("signal_identities", {}),
        ("last_account_sync_timestamp", 1.5),
        ("last_account_sync_timestamp", 2**63),
        ("adv_secret_key", base64.encodebytes(bytes(32)).decode()),
        ("additional_data", [float("-inf"), 2**70, "\ud800"]),
    ],
)
def test_odd_credentials_come_back(name: str, value: Any) -> None:
    """pyaileys' credentials would be refused for a member that it does not need, or changed."""
    document = json.loads((FOLDERS[0] / "creds.json").read_bytes())
    raw = text_of({**document, name: value}, indent=2)
    credentials = pyaileys.decode(CREDENTIALS, raw)
    assert encoded(CREDENTIALS, credentials) == raw
    kept = native.encode(CREDENTIALS, credentials).data
    assert kept is not None
    assert encoded(CREDENTIALS, native.decode(CREDENTIALS, kept)) == raw


def test_missing_optional_members_are_read_as_pyaileys_does(tmp_path: Path) -> None:
    """A folder of an older version of pyaileys would be refused."""
    document = json.loads((FOLDERS[0] / "creds.json").read_bytes())
    for name in ("me", "account", "account_settings", "registered", "additional_data"):
        del document[name]
    document["processed_history_messages"] = None
    (tmp_path / "creds.json").write_bytes(text_of(document, indent=2))
    theirs = asyncio.run(MultiFileAuthState.load(tmp_path)).creds
    ours = pyaileys.decode(CREDENTIALS, (tmp_path / "creds.json").read_bytes())
    assert _pyaileys_creds.to_client(ours) == theirs


CREDS_TEXT = (FOLDERS[0] / "creds.json").read_text()


@pytest.mark.parametrize(
    ("key", "raw", "place"),
    [
        (CREDENTIALS, b"", ""),
        (CREDENTIALS, b"[]", ""),
        (CREDENTIALS, b"{}", "noise_key"),
        (CREDENTIALS, CREDS_TEXT[:-9].encode(), ""),
        (CREDENTIALS, CREDS_TEXT.replace('"key_id": 1', '"key_id": "1"').encode(), "key_id"),
        (CREDENTIALS, CREDS_TEXT.replace('"private"', '"secret"').encode(), "private"),
        (CREDENTIALS, CREDS_TEXT.replace('"Buffer"', '"Bluffer"').encode(), "me|key|info"),
        (Key("session", "1.0"), b'{"data": "AA", "type": "Buffer"}', ""),
        (Key("session", "1.0"), b'{"data": "AAB=", "type": "Buffer"}', ""),
        (Key("pre-key", "1"), b'{"public": {"data": "A!", "type": "Buffer"}}', ""),
        (Key("pre-key", "1"), b'{"a": 1, "a": 2}', ""),
        (Key("lid-mapping", "1"), b'"x" "y"', ""),
        (Key("lid-mapping", "1"), b'\xef\xbb\xbf"x"', ""),
        (Key("lid-mapping", "1"), b"\xff", ""),
        (Key("device-list", "1"), b"[" * 100_000, ""),
        (Key("device-list", "1"), b"9" * 5000, ""),
    ],
)
def test_damage_is_refused(key: Key, raw: bytes, place: str) -> None:
    """Damage would be read as a value, or stop the program."""
    with pytest.raises(DecodeError, match=place or "."):
        pyaileys.decode(key, raw)


@SLOW
@given(st.sampled_from(FILES), st.data())
def test_no_bytes_bring_up_an_error_that_is_not_ours(path: Path, data: st.DataObject) -> None:
    """A damaged file would stop the program instead of being reported, or would not come back."""
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw)))
        raw[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=3))
    key = key_in(path)
    try:
        value = pyaileys.decode(key, bytes(raw))
    except RatchetkeepError:
        return
    made = pyaileys.encode(key, value)
    assert made.data is not None and made.losses == ()
    assert pyaileys.decode(key, made.data) == value


# Any value.


@pytest.mark.parametrize("family", FAMILIES)
def test_what_it_holds_comes_back(family: str) -> None:
    """A value would change in a folder of pyaileys without a word."""

    @SLOW
    @given(ids(family), _VALUES.records[family])
    def check(id: str, value: Any) -> None:
        key = Key(family, id)
        assert pyaileys.decode(key, encoded(key, value)) == value
        assert (
            _pyaileys_records.to_model(key, _pyaileys_records.to_client("here", key, value))
            == value
        )

    check()


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(RATCHETS)))
def test_what_it_does_not_hold_is_told(family: str) -> None:
    """Part of a record of another library would be gone, and no copy would say so."""

    @SLOW
    @given(ids(family), _ALL.records[family])
    def check(id: str, value: Any) -> None:
        made = pyaileys.encode(Key(family, id), value)
        if made.data is None or pyaileys.decode(Key(family, id), made.data) != as_pyaileys(value):
            assert made.losses
        elif not isinstance(value, AppStateSyncKey):
            assert not [loss for loss in made.losses if "leave" in loss.what]

    check()


@SLOW
@given(_VALUES.credentials, _ALL.credentials)
def test_any_credentials(held: Credentials, other: Credentials) -> None:
    """A member of the credentials would change in a folder of pyaileys without a word."""
    assert pyaileys.decode(CREDENTIALS, encoded(CREDENTIALS, held)) == held
    made = pyaileys.encode(CREDENTIALS, other)
    assert made.data is not None
    kept = pyaileys.decode(CREDENTIALS, made.data)
    same = as_pyaileys(other).replace(pairing_ephemeral_key_pair=kept.pairing_ephemeral_key_pair)
    assert kept == same or made.losses


@pytest.mark.parametrize("family", ["session", "pre-key", "lid-mapping"])
def test_encodings_of_others_have_no_place(family: str, tmp_path: Path) -> None:
    """A record that pyaileys cannot read would stand in its folder."""
    odd = EncodedRecord(encoding="of nobody", data=some_bytes("odd", 0))
    broken = EncodedRecord(encoding="pyaileys-json", data=b"{")
    with open_device(f"pyaileys:{tmp_path}/x", create=True) as device:
        for value in (odd, broken):
            with pytest.raises(NotHeld, match=f"{family} 1"):
                device.set({family: {"1": value}})
            assert device.ids(family) == []


def test_a_damaged_session_of_others_is_no_session(tmp_path: Path) -> None:
    """A copy would leave a damaged session out and go on, and its contact would be lost."""
    key, broken = Key("session", "1.0"), b"\xff\xff"
    odd = EncodedRecord(encoding="go-json", data=broken)
    with pytest.raises(DecodeError):
        pyaileys.encode(key, odd, Credentials.new())
    with open_device(f"pyaileys:{tmp_path}/x", create=True) as device:
        with pytest.raises(InvalidValue, match=r"session 1\.0"):
            device.set({"session": {"1.0": odd}})
        assert device.ids("session") == []
    own = EncodedRecord(encoding="signal-protobuf", data=broken)
    assert pyaileys.decode(key, pyaileys.encode(key, own, None).data or b"") == own


# File names and folders.


@pytest.mark.parametrize("family", FAMILIES)
def test_files_are_named_as_pyaileys_names_them(family: str) -> None:
    """pyaileys would not find a record, or we would take its file for another one's."""

    @SLOW
    @given(ids(family) | st.text("1a_-:/.@", min_size=1, max_size=8))
    def check(id: str) -> None:
        try:
            name = LAYOUT.file_name(Key(family, id))
        except NameCollision:
            return
        except InvalidValue:
            return
        assert name == _fix_filename(f"{family}-{id}.json")
        assert LAYOUT.key_of(name) == Key(family, id)

    check()


@pytest.mark.parametrize(
    ("folder", "kind"),
    [(FOLDERS[0], "pyaileys"), (FOLDERS[2], "pyaileys"), (ALICE, "baileys")],
    ids=["pyaileys", "pyaileys, new", "baileys"],
)
def test_a_bare_path_is_looked_into(folder: Path, kind: str) -> None:
    """A folder of pyaileys would be taken for one of Baileys, whose files have the same names."""
    assert urls.parse(folder).kind == kind


@pytest.mark.parametrize(("there", "kind"), [(ALICE, "pyaileys"), (FOLDERS[0], "baileys")])
def test_another_librarys_folder_is_neither_opened_nor_replaced(
    there: Path, kind: str, tmp_path: Path
) -> None:
    """New credentials, or another device, would be written over those of another library."""
    folder = tmp_path / "auth"
    shutil.copytree(there, folder)
    with pytest.raises(UnknownStore, match="is a folder of the kind"):
        open_device(f"{kind}:{folder}", create=True)
    copy_device(f"baileys:{BOB}", f"sqlite:{tmp_path}/x.db")
    with pytest.raises(DeviceExists, match="another library"):
        copy_device(f"sqlite:{tmp_path}/x.db", f"{kind}:{folder}", overwrite=True)
    assert bytes_of(folder) == bytes_of(there)
