"""BaileysEx's compat JSON: the same bytes back, the values of its native files, no silent loss."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _helpers import (
    ALICE,
    BOB,
    COMPAT,
    GOLDEN,
    OTP29,
    key_of,
    records,
)
from ratchetkeep import (
    DecodeError,
)
from ratchetkeep.formats import baileys, baileysex, baileysex_json, native
from ratchetkeep.formats._elixir_json import dump, is_printable
from ratchetkeep.model import (
    CREDENTIALS,
    Account,
    AppStateSyncKey,
    Credentials,
    EncodedRecord,
    Foreign,
    Key,
    SignalAddress,
    TcToken,
)
from ratchetkeep.stores.layouts import LAYOUTS
from ratchetkeep.testing.strategies import BAILEYSEX_JSON, NATIVE, ids, values_for

FILES = records(COMPAT)
LISTING: Any = LAYOUTS["baileysex-json"].listing
MEMO = Key("sender-key-memory", "1@g.us")
TOKEN = Key("tctoken", "1@lid")


def written(key: Key, value: Any, credentials: Credentials | None = None) -> bytes:
    made = baileysex_json.encode(key, value, credentials)
    assert made.data is not None
    return made.data


def losses(key: Key, value: Any, credentials: Credentials | None = None) -> set[str]:
    return {loss.place for loss in baileysex_json.encode(key, value, credentials).losses}


def creds_of(folder: Path = COMPAT) -> Credentials:
    form: Any = baileysex_json if folder == COMPAT else baileys
    value = form.decode(CREDENTIALS, (folder / "creds.json").read_bytes())
    assert isinstance(value, Credentials)
    return value


def a_document(name: str) -> Any:
    return json.loads((COMPAT / name).read_bytes())


# The files of the real library.


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_golden_files_come_back_as_the_same_bytes(path: Path) -> None:
    """A folder that is only copied would change on its way through us."""
    raw, key = path.read_bytes(), key_of(path)
    value = baileysex_json.decode(key, raw)
    kept = native.encode(key, value).data
    assert kept is not None
    assert native.decode(key, kept) == value
    assert losses(key, value) == set()
    assert written(key, value) == raw


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_both_backends_hold_the_same_values(path: Path) -> None:
    """A device would be another one after BaileysEx's own migration between its backends."""
    key = key_of(path)
    one = baileysex_json.decode(key, path.read_bytes())
    other = baileysex.decode(key, (OTP29 / f"{path.stem}.etf").read_bytes())
    if key == CREDENTIALS:
        # The native one also holds what JSON cannot, and which members are said to be nil.
        bare = [
            creds.replace(
                additional_data=None,
                processed_history_messages=[
                    message.replace(key=message.key.replace(extra={}))
                    for message in creds.processed_history_messages
                ],
            )
            for creds in (one, other)
        ]
        one, other = bare
    assert one == other


@pytest.mark.parametrize("path", records(OTP29), ids=lambda path: path.name)
def test_native_files_become_the_files_of_the_other_backend(path: Path) -> None:
    """Records that were copied from one backend to the other would be spelled in a way of ours."""
    key = key_of(path)
    value = baileysex.decode(key, path.read_bytes())
    if key == CREDENTIALS:
        assert losses(key, value) == {"additional_data"}
        value = value.replace(additional_data=creds_of().additional_data)
    raw, found = (COMPAT / f"{path.stem}.json").read_bytes(), written(key, value)
    # The two keep a map of over 32 members in orders of their own.
    assert found == raw or (
        len(value.index_value_map) > 32 and dump_sorted(found) == dump_sorted(raw)
    )


def dump_sorted(raw: bytes) -> str:
    return json.dumps(json.loads(raw), sort_keys=True)


def test_free_values_are_read_by_type() -> None:
    """What an application keeps would come back as another type."""
    data: Any = creds_of().additional_data
    nested = {"n": 1.5, "nil": None, "t": True, "token": b"\x05\x06\xff"}
    assert data == {"labels": ("alpha", "beta"), "nested": nested}


@pytest.mark.parametrize(
    ("id", "token"),
    [
        ("15550001111@s.whatsapp.net", bytes.fromhex("8996d034ce1b70f10e8f3ddbff2a61e5")),
        ("222222222222222@lid", b"\t\x08\x07"),
        ("15550003333@s.whatsapp.net", b""),
    ],
)
def test_a_token_that_elixir_can_print_stands_as_text(id: str, token: bytes) -> None:
    """A token would be refused, or BaileysEx read other bytes, depending on which bytes it has."""
    key = Key("tctoken", id)
    value = baileysex_json.decode(key, (COMPAT / f"tctoken-{id}.json").read_bytes())
    assert value.token == token
    assert (b'"Buffer"' in written(key, value)) is not is_printable(token)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", True), (b"abc \x7f\x1b\x07\r\v", True), ("é☕🙂".encode(), True), (b"\x00", False),
        (b"\x06", False), (b"\x0e", False), (b"\xc2\x80", False), (b"\xc2\xa0", True),
        (b"\xff", False), ("\ufffe".encode(), False), ("\ufffd".encode(), True), (b"ok\x01", False),
    ],
)  # fmt: skip
def test_what_elixir_can_print(data: bytes, expected: bool) -> None:
    """Bytes would be spelled in another way than BaileysEx spells them."""
    assert is_printable(data) is expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": 2, "é": 3, "Z": [None, True]}, '{"Z":[null,true],"a":2,"b":1,"é":3}'),
        ("\x00\x0b\x1f\x7f", '"\\u0000\\u000B\\u001F\x7f"'),
        ('"\\/\n\u2028\\u000b', '"\\"\\\\/\\n\u2028\\\\u000b"'),
        ([0.0, -0.0, 1.5, -2.5, 100.0, 1000.0], "[0.0,-0.0,1.5,-2.5,100.0,1.0e3]"),
        ([0.001, 0.0001, 0.00001, 0.001234], "[0.001,0.0001,1.0e-5,0.001234]"),
        ([12340.0, 123400.0, 1234567890.0], "[12340.0,1.234e5,1234567890.0]"),
        ([12345678900.0, 9007199254740991.0], "[12345678900.0,9007199254740991.0]"),
        ([9007199254740992.0, 1e22, 5e-324], "[9.007199254740992e15,1.0e22,5.0e-324]"),
        ([{}, [], ""], '[{},[],""]'),
    ],
    ids=str,
)  # fmt: skip
def test_text_is_as_elixir_writes_it(value: Any, text: str) -> None:
    """A file would change with each program that saves it."""
    assert dump(value).decode() == text


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 2**64 - 1))
def test_every_float_comes_back(bits: int) -> None:
    """A number of an application would be another one after a save."""
    (number,) = struct.unpack("d", struct.pack("Q", bits))
    if number == number and abs(number) != float("inf"):
        assert json.loads(dump([number])) == [number]


def test_a_large_map_keeps_its_order() -> None:
    """Erlang sorts maps of up to 32 members only; a larger one would be turned around."""
    for size, is_sorted in ((32, True), (33, False)):
        members = {f"{99 - number}@lid": True for number in range(size)}
        found = list(json.loads(written(MEMO, members)))
        assert (found == sorted(members)) is is_sorted
        assert is_sorted or found == list(members)


# From other formats.

JSON_FILES = [path for folder in (ALICE, BOB) for path in records(folder)]


@pytest.mark.parametrize("path", JSON_FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_values_of_baileys_come_back(path: Path) -> None:
    """A device that went through BaileysEx's JSON would be another one than through its terms."""
    key, creds = key_of(path), creds_of(path.parent)
    value = baileys.decode(key, path.read_bytes())
    made, terms = (form.encode(key, value, creds) for form in (baileysex_json, baileysex))
    assert all(loss.derived for loss in made.losses)
    assert made.data is not None and terms.data is not None
    back = baileysex_json.decode(key, made.data)
    assert back == baileysex.decode(key, terms.data)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_what_is_not_listed_comes_back(data: Any) -> None:
    """A value would change on its way to BaileysEx's JSON without a word."""
    holds = data.draw(st.sampled_from([BAILEYSEX_JSON, NATIVE]))
    values = values_for(holds)
    family = data.draw(st.sampled_from(sorted(baileysex_json.CODECS)))
    if family == CREDENTIALS.family:
        key, value = CREDENTIALS, data.draw(values.credentials)
    else:
        key, value = Key(family, data.draw(ids(family))), data.draw(values.records[family])
    if isinstance(value, EncodedRecord):
        return  # of other formats
    made = baileysex_json.encode(key, value, creds_of())
    assert holds is NATIVE or not made.losses
    if made.data is not None and not made.losses and holds is BAILEYSEX_JSON:
        assert baileysex_json.decode(key, made.data) == value
    elif made.data is not None:
        assert isinstance(baileysex_json.decode(key, made.data), type(value))


def test_a_session_says_whose_it_is() -> None:
    """BaileysEx would compute wrong MACs: it takes our identity key from the session."""
    path, creds = ALICE / "session-998877665544332_1.7.json", creds_of(ALICE)
    value = baileys.decode(key_of(path), path.read_bytes())
    back = baileysex_json.decode(key_of(path), written(key_of(path), value, creds))
    identity = b"\x05" + creds.signed_identity_key.public
    infos = [session.index_info for session in back.sessions.values()]
    assert {info.local_identity_key for info in infos} == {identity}
    assert [info.closed == -1 for info in infos] == [True] + [False] * (len(infos) - 1)


@pytest.mark.parametrize(
    "name", ["established", "pending", "sender_key_own", "sender_key_received"]
)
def test_records_of_other_clients_are_spelled_as_in_the_native_files(name: str) -> None:
    """A device of another client would lose its conversations in one of the two backends only."""
    records = json.loads((GOLDEN / "whatsmeow" / "go-records.json").read_bytes())[name]
    family = "session" if "session" in records else "sender-key"
    key = Key(family, "1.0" if family == "session" else "1@g.us::2::3")
    record = EncodedRecord(encoding="go-json", data=records[family.replace("-", "_")].encode())
    made, terms = (form.encode(key, record, creds_of()) for form in (baileysex_json, baileysex))
    assert made.data is not None and terms.data is not None
    assert made.losses == terms.losses
    assert baileysex_json.decode(key, made.data) == baileysex.decode(key, terms.data)


def test_a_record_of_an_unknown_encoding_is_not_held() -> None:
    """Another client's session bytes would be written where BaileysEx fails on them."""
    made = baileysex_json.encode(Key("session", "1.0"), EncodedRecord(encoding="other", data=b"x"))
    assert made.data is None and len(made.losses) == 1 and not made.losses[0].derived


# What BaileysEx would read as something else.


@pytest.mark.parametrize(
    "value",
    [
        {"0": 1, "1": 255}, {"0": 1, "1": 256}, {"+5": 1}, {"type": "Buffer"}, Foreign("cbor", b""),
        {"type": "Buffer", "data": "AA==", "more": 1}, {"type": "Buffer", "data": b""},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("depth", [0, 1])
def test_what_would_be_read_as_something_else_is_listed(value: Any, depth: int) -> None:
    """BaileysEx takes such a map for bytes, or refuses all of the credentials because of it."""
    held = {"inside": value, "kept": 1} if depth else value
    creds = creds_of().replace(additional_data=held)
    assert losses(CREDENTIALS, creds) == {"additional_data" + ".inside" * depth}
    back = baileysex_json.decode(CREDENTIALS, written(CREDENTIALS, creds))
    assert back.additional_data == ({"kept": 1} if depth else None)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ('{"10":2,"9":1}', b"\x01\x02"),
        ('{"type":"Buffer","data":[1,255]}', b"\x01\xff"),
        ('{"9":true}', {"9": True}),
        ("{}", {}),
    ],
)
def test_bytes_are_read_as_baileysex_reads_them(raw: str, expected: Any) -> None:
    """What an application finds in BaileysEx would be something else here."""
    document = {**a_document("creds.json"), "additional_data": json.loads(raw)}
    creds = baileysex_json.decode(CREDENTIALS, json.dumps(document).encode())
    assert creds.additional_data == expected


@pytest.mark.parametrize("mark", ["__type__", "__atom_keys__"])
def test_a_mark_of_the_old_spelling_is_never_written(mark: str) -> None:
    """BaileysEx would read the whole record as another one."""
    for key, value in (
        (CREDENTIALS, creds_of().replace(extra={mark: []})),
        (MEMO, {mark: True}),
    ):
        made = baileysex_json.encode(key, value)
        assert made.data is None and not made.losses[-1].derived


def test_members_that_we_do_not_know_survive() -> None:
    """What a newer BaileysEx keeps would be lost by opening the device once."""
    document = a_document("creds.json")
    odd = {"x": [1, {"y": None}], "bytes": {"type": "Buffer", "data": "/w=="}}
    document |= {"a_new_member": odd, "another": None}
    document["me"] |= {"verified": odd, "name": None}
    raw = dump(document)
    creds = baileysex_json.decode(CREDENTIALS, raw)
    assert creds.extra["a_new_member"] == {"x": (1, {"y": None}), "bytes": b"\xff"}
    assert written(CREDENTIALS, creds) == raw


def test_a_sync_key_keeps_what_stands_beside_it() -> None:
    """A member beside the key's bytes would be dropped with the object that holds it."""
    key = Key("app-state-sync-key", "AAAA")
    value = AppStateSyncKey(key_data=b"\1", extra={"more": 1})
    assert losses(key, value) == set()
    assert baileysex_json.decode(key, written(key, value)) == value
    assert json.loads(written(key, AppStateSyncKey(key_data=b"\xff"))) == {
        "type": "Buffer",
        "data": "/w==",
    }


def test_an_account_has_all_its_members() -> None:
    """BaileysEx would fail to load the credentials: it decodes each of the four."""
    creds = creds_of().replace(account=Account(details=b"\1"))
    lost = baileysex_json.encode(CREDENTIALS, creds).losses
    assert len(lost) == 3 and all(loss.derived for loss in lost)
    account = json.loads(written(CREDENTIALS, creds))["account"]
    assert {name: each["data"] for name, each in account.items()} == {
        "details": "AQ==", "account_signature": "", "account_signature_key": "",
        "device_signature": "",
    }  # fmt: skip


def test_no_list_is_null() -> None:
    """BaileysEx would fail to load the credentials: it takes what is there for a list."""
    document = json.loads(written(CREDENTIALS, creds_of().replace(signal_identities=None)))
    assert "signal_identities" not in document
    assert baileysex_json.decode(CREDENTIALS, dump(document)).signal_identities is None


def test_half_a_character_is_replaced_and_listed() -> None:
    """Erlang refuses a file with half of a character in it."""
    creds = creds_of()
    assert creds.me and creds.signal_identities
    who = creds.signal_identities[0].replace(identifier=SignalAddress(name="\ud83d", device_id=0))
    creds = creds.replace(me=creds.me.replace(name="Ana \ud83d"), signal_identities=(who,))
    assert losses(CREDENTIALS, creds) == {"me.name", "signal_identities[0].identifier.name"}
    back = baileysex_json.decode(CREDENTIALS, written(CREDENTIALS, creds))
    assert back.me.name == "Ana \ufffd"
    first, second = "\ud83d", "\udc00"
    made = baileysex_json.encode(MEMO, {first: True, second: False})
    assert [loss.derived for loss in made.losses] == [True, True, False]


def test_a_javascript_long_becomes_its_number() -> None:
    """A time would be off by 2**32 seconds after a copy."""
    value = TcToken(token=b"", timestamp={"low": 7, "high": 1, "unsigned": False})
    assert losses(TOKEN, value) == {"timestamp"}
    assert json.loads(written(TOKEN, value))["timestamp"] == 2**32 + 7


# Damage.


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_cut_off_file_is_refused(path: Path) -> None:
    """A file that a full disk cut short would be read as a smaller record, or as none."""
    raw, key = path.read_bytes(), key_of(path)
    for size in {*range(min(len(raw), 60)), *range(0, len(raw), 37), len(raw) - 1}:
        with pytest.raises(DecodeError):
            baileysex_json.decode(key, raw[:size])


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("pre-key-1.json", '"private"', '"public"', "stands twice"),
        ("pre-key-1.json", "=", "!", "base64"),
        ("pre-key-1.json", '"Buffer"', '"Bufer"', "Buffer"),
        ("pre-key-1.json", '{"private"', '{"privat"', "private: is missing"),
        ("session-15550001111.0.json", '"sending"', '"sendin"', "few texts"),
        ("session-15550001111.0.json", '"1":', '"01":', "number as the name"),
        ("session-15550001111.0.json", '"QlZt', '"Q!Zt', "base64"),
        ("session-15550001111.0.json", '"BVUw', '"BV!w', "base64"),
        ("session-15550001111.0.json", '"closed":null', '"closed":"0"', "closed"),
        ("session-15550001111.0.json", '"counter":1', '"counter":1.0', "counter"),
        ("session-empty.0.json", '{"sessions":{}}', "null", "object"),
        ("session-empty.0.json", '"sessions"', '"session"', "sessions: is missing"),
        ("session-empty.0.json", '{"sessions":{}}', '{"__type__":"struct"}', "tagged"),
        ("sender-key-14156521415-1397622199@g.us--15551234567--12.json", "[", '{"a":[', "JSON"),
        ("creds.json", '"addressing_mode":"pn"', '"addressing_mode":"px"', "few texts"),
        ("creds.json", "Ação", "\\ud83d", "half of a character"),
        ("creds.json", '"n":1.5', '"n":1e999', "number"),
        ("creds.json", '"n":1.5', '"n":{"0":256}', "no bytes"),
        ("creds.json", '"registration_id":8339', '"registration_id":null', "registration_id"),
        ("creds.json", '"adv_secret_key":"mY0q', '"adv_secret_key":"mY0', "adv_secret_key"),
        ("creds.json", "{", "", "JSON"),
        ("device-list-15551234567.json", '"12"', "12", "text"),
        ("identity-key-alice-0.json", "Buffer", "buffer", "Buffer"),
        ("lid-mapping-15550001111.json", '"111111111111111"', "[]", "text"),
    ],
)  # fmt: skip
def test_damage_is_refused_and_named(name: str, old: str, new: str, said: str) -> None:
    """A damaged record would be read as another one, or the reason be hard to find."""
    raw = (COMPAT / name).read_text()
    assert old in raw
    with pytest.raises(DecodeError) as caught:
        baileysex_json.decode(key_of(COMPAT / name), raw.replace(old, new).encode())
    assert said in str(caught.value)


@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"a":' * 5000 + b"1" + b"}" * 5000])
def test_deep_nesting_is_refused(raw: bytes) -> None:
    """A hostile file would end the program."""
    for key in (CREDENTIALS, Key("session", "1.0"), MEMO):
        with pytest.raises(DecodeError):
            baileysex_json.decode(key, raw)
    marked = b'{"__type__":"tuple","items":[' * 200 + b"]}" * 200
    with pytest.raises(DecodeError):
        baileysex_json.decode(MEMO, marked)
