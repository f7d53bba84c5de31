"""What pyaileys stores comes back as from its own store, whatever it is; nothing else is lost."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyaileys.appstate.processor import HashState
from pyaileys.auth.creds import (
    AccountSettings,
    AuthenticationCreds,
    Contact,
    KeyPair,
    SignedKeyPair,
)
from pyaileys.auth.store import MultiFileKeyStore
from pyaileys.auth.utils import init_auth_creds

from clients._sides import run
from ratchetkeep import InvalidValue, model, open_device
from ratchetkeep.clients import _pyaileys_creds, _pyaileys_records
from ratchetkeep.clients.pyaileys import load
from ratchetkeep.formats import native
from ratchetkeep.formats._proto import message
from ratchetkeep.formats._pyaileys_creds import number
from ratchetkeep.model import CREDENTIALS, FAMILIES, Credentials, EncodedRecord, Key
from ratchetkeep.testing.strategies import NATIVE, ids, values_for

_names = itertools.count()
_VALUES = values_for(NATIVE)


def exactly(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


TEXT = st.text(max_size=6)
INT64 = st.integers(-(2**63), 2**63 - 1)
UINT32 = st.integers(0, 2**32 - 1)
LEAVES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)
# {"type": "Buffer", ...} is how pyaileys' own store spells bytes.
MEMBERS = TEXT.filter(lambda name: name != "type")
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    LEAVES | TEXT | st.binary(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MEMBERS, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def sync_keys(draw: st.DrawFn) -> bytes:
    """An app state sync key as the phone shares it, with or without each member."""
    data = message("AppStateSyncKeyData")
    if draw(st.booleans()):
        data.keyData = draw(st.binary(max_size=32))
    if draw(st.booleans()):
        data.timestamp = draw(INT64)
    if draw(st.booleans()):
        data.fingerprint.SetInParent()
        if draw(st.booleans()):
            data.fingerprint.rawId = draw(UINT32)
        if draw(st.booleans()):
            data.fingerprint.currentIndex = draw(UINT32)
        data.fingerprint.deviceIndexes.extend(draw(st.lists(UINT32, max_size=3)))
    return bytes(data.SerializeToString() + draw(st.just(b"") | st.just(b"\x98\x06\x01")))


@st.composite
def accounts(draw: st.DrawFn) -> bytes:
    """The signed device identity, in the usual bytes or in others that mean the same."""
    account = message("ADVSignedDeviceIdentity")
    for field in ("details", "accountSignatureKey", "accountSignature", "deviceSignature"):
        if draw(st.booleans()):
            setattr(account, field, draw(st.binary(max_size=8)))
    return bytes(account.SerializeToString() + draw(st.just(b"") | st.just(b"\x0a\x01x")))


STATES = st.builds(
    HashState,
    version=st.integers(0, 2**64 - 1),
    hash=exactly(128),
    indexValueMap=st.dictionaries(TEXT, st.binary(max_size=32), max_size=3),
)
TOKEN = {"token": st.binary(max_size=8), "timestamp": st.none() | INT64.map(str)}
USUAL: dict[str, st.SearchStrategy[Any]] = {
    "session": st.binary(max_size=20),
    "sender-key": st.binary(max_size=20),
    "pre-key": st.fixed_dictionaries({"public": exactly(32), "private": exactly(32)}),
    "sender-key-memory": st.dictionaries(TEXT, st.booleans(), max_size=3),
    "app-state-sync-key": sync_keys(),
    "app-state-sync-version": STATES.map(HashState.to_store),
    "lid-mapping": TEXT,
    "device-list": st.lists(TEXT, max_size=3),
    "tctoken": st.fixed_dictionaries(TOKEN)
    | st.fixed_dictionaries({**TOKEN, "senderTimestamp": INT64}),
    "identity-key": exactly(32).map(lambda key: b"\5" + key),
}
BATCH = st.fixed_dictionaries(
    {},
    optional={
        family: st.dictionaries(ids(family), st.none() | value | ANYTHING, max_size=3)
        for family, value in USUAL.items()
    },
)


def kinds(value: Any) -> Any:
    """``value`` with the type of each part: True is not 1, and bytes are no text."""
    if isinstance(value, dict):
        return {name: kinds(each) for name, each in value.items()}
    return [kinds(each) for each in value] if isinstance(value, list) else (type(value), value)


@settings(deadline=None, max_examples=60)
@given(st.lists(BATCH, max_size=4))
def test_the_same_as_pyaileys_own_store(batches: list[dict[str, dict[str, Any]]]) -> None:
    """A value would come back as another one than from the store that pyaileys brings along."""

    async def scenario(folder: str) -> None:
        theirs = MultiFileKeyStore(Path(folder))
        async with await load(f"memory:values-{next(_names)}") as auth:
            seen: dict[str, set[str]] = {}
            for batch in batches:
                await theirs.set(batch)
                await auth.keys.set(batch)
                for family, members in batch.items():
                    seen.setdefault(family, {"1"}).update(members)
            for family, found in seen.items():
                wanted = sorted(found)
                ours = await auth.keys.get(family, wanted)
                assert kinds(ours) == kinds(await theirs.get(family, wanted))
            await theirs.clear()
            await auth.keys.clear()
            for family, found in seen.items():
                wanted = sorted(found)
                assert await auth.keys.get(family, wanted) == await theirs.get(family, wanted)

    with tempfile.TemporaryDirectory() as folder:
        run(scenario(folder))


@pytest.mark.parametrize("family", USUAL)
def test_usual_values_are_stored_as_the_models(family: str) -> None:
    """Other libraries could not read what pyaileys stored, though the model has a place for it."""
    usual = USUAL[family] if family != "app-state-sync-key" else st.just(b"\x0a\x01x\x18\x05")

    @settings(deadline=None, max_examples=25)
    @given(ids(family), usual)
    def check(id: str, value: Any) -> None:
        held = _pyaileys_records.to_model(Key(family, id), value)
        if family in ("session", "sender-key"):
            assert held == EncodedRecord(encoding="signal-protobuf", data=value)
        else:
            assert not isinstance(held, EncodedRecord)

    check()


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"session", "sender-key"}))
def test_pyaileys_can_read_what_others_stored(family: str) -> None:
    """A record of a device that came from another library would be read as another value, or not
    at all."""

    @settings(deadline=None, max_examples=40)
    @given(ids(family), _VALUES.records[family])
    def check(id: str, value: Any) -> None:
        key = Key(family, id)
        if isinstance(value, EncodedRecord):
            return
        seen = _pyaileys_records.to_client("here", key, value)
        again = _pyaileys_records.to_model(key, seen)
        assert kinds(_pyaileys_records.to_client("here", key, again)) == kinds(seen)

    check()


def test_bytes_in_any_spelling_are_bytes(tmp_path: Path) -> None:
    """A bytearray or memoryview would be stored as something else, or change once it is stored."""

    async def scenario() -> None:
        async with await load(tmp_path / "x.db") as auth:
            data = bytearray(b"session")
            await auth.keys.set(
                {"session": {"1.0": data, "2.0": memoryview(data)}, "lid-mapping": {"3": data}}
            )
            data[:] = b"changed"
            assert await auth.keys.get("session", ["1.0", "2.0"]) == {
                "1.0": b"session",
                "2.0": b"session",
            }
            assert await auth.keys.get("lid-mapping", ["3"]) == {"3": b"session"}
            memory = {"a": True}
            await auth.keys.set({"sender-key-memory": {"g": memory}})
            found = (await auth.keys.get("sender-key-memory", ["g"]))["g"]
            found["b"] = True
            assert await auth.keys.get("sender-key-memory", ["g"]) == {"g": memory}

    run(scenario())


@pytest.mark.parametrize("value", [object(), {"type": "Buffer", "data": "x"}, {1j: 2}])
def test_what_cannot_be_stored_is_refused(value: Any, tmp_path: Path) -> None:
    """A value that cannot be written would be stored in part, or stop the client later."""

    async def scenario() -> None:
        async with await load(tmp_path / "x.db") as auth:
            with pytest.raises(InvalidValue, match="device-list 1"):
                await auth.keys.set({"lid-mapping": {"1": "2"}, "device-list": {"1": value}})
            auth.creds.additional_data = value
            with pytest.raises(InvalidValue, match=r"creds\.additional_data"):
                await auth.save_creds()
            async with auth.transaction():
                auth.creds.platform = "android"
            assert auth.creds.additional_data is value
            assert auth.device.credentials.platform == auth.creds.platform == "android"
            with pytest.raises(InvalidValue, match=r"creds\.additional_data"):
                await auth.save_creds()
            for bad in ({"no-family": {"1": "2"}}, {"pre-key": {"x": None}}):
                with pytest.raises(InvalidValue):
                    await auth.keys.set(bad)
            assert await auth.keys.get("lid-mapping", ["1"]) == {"1": None}

    run(scenario())


PAIRS = st.builds(KeyPair, public=exactly(32), private=exactly(32))
NAMES = st.none() | TEXT
HISTORY = st.fixed_dictionaries(
    {"key": st.fixed_dictionaries({"remoteJid": TEXT, "fromMe": st.booleans(), "id": TEXT})},
    optional={"messageTimestamp": INT64, "x": ANYTHING},
)
IDENTITIES = st.fixed_dictionaries(
    {
        "identifier": st.fixed_dictionaries({"name": TEXT, "deviceId": UINT32}),
        "identifierKey": exactly(32).map(lambda key: b"\5" + key),
    }
)
MODES = st.fixed_dictionaries(
    {}, optional={"ephemeralExpiration": UINT32, "ephemeralSettingTimestamp": INT64}
)
CREDS = st.builds(
    AuthenticationCreds,
    noise_key=PAIRS,
    pairing_ephemeral_key_pair=PAIRS,
    signed_identity_key=PAIRS,
    signed_pre_key=st.builds(
        SignedKeyPair,
        key_pair=PAIRS,
        signature=exactly(64),
        key_id=st.integers(0, 2**24 - 1),
        timestamp_s=st.none() | INT64,
    ),
    registration_id=UINT32,
    adv_secret_key=exactly(32).map(lambda key: base64.b64encode(key).decode())
    | exactly(32).map(lambda key: base64.encodebytes(key).decode()),
    me=st.none() | st.builds(Contact, id=TEXT, name=NAMES, lid=NAMES),
    account=st.none() | accounts() | ANYTHING,
    signal_identities=st.none() | st.lists(IDENTITIES, max_size=2) | st.lists(ANYTHING, max_size=2),
    my_app_state_key_id=NAMES,
    first_unuploaded_pre_key_id=UINT32,
    next_pre_key_id=UINT32,
    last_account_sync_timestamp=st.none() | INT64 | st.floats(0, 2e9),
    platform=NAMES,
    processed_history_messages=st.lists(HISTORY | ANYTHING, max_size=2),
    account_sync_counter=INT64,
    account_settings=st.builds(
        AccountSettings,
        unarchive_chats=st.booleans(),
        default_disappearing_mode=st.none()
        | MODES
        | st.dictionaries(MEMBERS, ANYTHING, max_size=2),
    ),
    registered=st.booleans(),
    pairing_code=NAMES,
    last_prop_hash=NAMES,
    routing_info=st.none() | st.binary(max_size=8),
    additional_data=ANYTHING,
)
ALL = [each.name for each in dataclasses.fields(AuthenticationCreds)]


def stored(credentials: Credentials) -> Credentials:
    """The credentials, written and read."""
    data = native.encode(CREDENTIALS, credentials).data
    assert data is not None
    found = native.decode(CREDENTIALS, data)
    assert isinstance(found, Credentials)
    return found


@settings(deadline=None, max_examples=100)
@given(CREDS, _VALUES.credentials)
def test_credentials_of_pyaileys_come_back(creds: AuthenticationCreds, old: Credentials) -> None:
    """A member that pyaileys saved would be lost or come back as another value."""
    saved = stored(_pyaileys_creds.with_changes(old, creds, ALL))
    seen = _pyaileys_creds.to_client(saved)
    assert _pyaileys_creds.texts_of(seen) == _pyaileys_creds.texts_of(creds)


@settings(deadline=None, max_examples=100)
@given(_VALUES.credentials, CREDS, st.sampled_from(ALL))
def test_credentials_of_others_stay(
    old: Credentials, creds: AuthenticationCreds, name: str
) -> None:
    """A member that pyaileys does not know, or did not change, would be lost when it saves."""
    old = old.replace(pairing_ephemeral_key_pair=model.KeyPair.new())
    seen = _pyaileys_creds.to_client(old)
    assert _pyaileys_creds.with_changes(old, seen, []) == old
    before = _pyaileys_creds.texts_of(seen)
    setattr(seen, name, getattr(creds, name))
    saved = _pyaileys_creds.with_changes(old, seen, [name])
    kept = {other: value for other, value in saved.extra.items() if other != "pyaileys"}
    assert saved.replace(**{name: getattr(old, name)}, extra=kept) == old
    after = _pyaileys_creds.texts_of(_pyaileys_creds.to_client(stored(saved)))
    assert after == {**before, name: _pyaileys_creds.texts_of(creds)[name]}


def test_items_that_did_not_change_stay_as_they_are() -> None:
    """Saving one more identity would drop what another library noted beside the first."""
    first = model.SignalIdentity(
        identifier=model.SignalAddress(name="1", device_id=0, extra={"since": b"x"}),
        identifier_key=b"\5" * 33,
        extra={"other": model.Foreign("etf", b"x")},
    )
    old = Credentials.new().replace(signal_identities=(first,))
    creds = _pyaileys_creds.to_client(old)
    assert creds.signal_identities is not None
    identity = {"identifier": {"name": "2", "deviceId": 0}, "identifierKey": b"\5" * 33}
    creds.signal_identities.append(identity)
    saved = _pyaileys_creds.with_changes(old, creds, ["signal_identities"])
    assert saved.signal_identities is not None
    assert saved.signal_identities[0] == first
    assert saved.signal_identities[1].identifier.name == "2"


def test_what_another_program_changed_counts() -> None:
    """pyaileys' exact bytes of an account would come back after another program replaced it."""
    creds = init_auth_creds()
    creds.account = b"\x0a\x01x\x0a\x01y"  # one field twice: not the usual bytes
    saved = _pyaileys_creds.with_changes(Credentials.new(), creds, ALL)
    assert saved.account is not None
    assert saved.account.details == b"y"
    assert _pyaileys_creds.to_client(saved).account == creds.account
    changed = saved.replace(account=saved.account.replace(details=b"z"))
    assert _pyaileys_creds.to_client(changed).account == b"\x0a\x01z"


def test_members_of_other_libraries_survive(tmp_path: Path) -> None:
    """What a newer Baileys keeps in the credentials would be gone after pyaileys saved its own."""
    with open_device(tmp_path / "x.db", create=True) as device:
        me = model.Contact(id="1@s.whatsapp.net", extra={"verifiedName": "x"})
        extra = {"newMember": {"a": b"b"}}
        device.save_credentials(device.credentials.replace(me=me, extra=extra))

    async def scenario() -> None:
        async with await load(tmp_path / "x.db") as auth:
            assert auth.creds.me is not None
            auth.creds.me.lid = "2@lid"
            await auth.save_creds()

    run(scenario())
    with open_device(tmp_path / "x.db") as device:
        assert device.credentials.me == me.replace(lid="2@lid")
        assert device.credentials.extra == extra


def test_long_numbers() -> None:
    """A time that Baileys wrote as a JavaScript Long would be read as another number."""
    long = {"low": -1, "high": 0, "unsigned": True}
    assert number(long) == 2**32 - 1
    assert number({"low": 0, "high": -1, "unsigned": False}) == -(2**32)
    assert number({"low": 0, "high": -1, "unsigned": True}) == 2**64 - 2**32
    assert number("17") == 17
