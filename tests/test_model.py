"""The model: fresh credentials, refused values, immutability, silence about keys, signatures."""

from __future__ import annotations

import base64
import copy
import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratchetkeep import model
from ratchetkeep.errors import InvalidValue
from ratchetkeep.formats import baileys
from ratchetkeep.model import (
    CREDENTIALS,
    FAMILIES,
    AppStateSyncKey,
    Chain,
    ChainKey,
    Contact,
    Credentials,
    EncodedRecord,
    Foreign,
    FrozenDict,
    IndexInfo,
    IndexValue,
    Key,
    KeyPair,
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
    check_record,
)
from ratchetkeep.model import _checks as checks
from ratchetkeep.model.keys import sign, verify
from ratchetkeep.testing import Holds, record
from ratchetkeep.testing.strategies import NATIVE, values_for

GOLDEN = Path(__file__).parent / "golden" / "baileys"
GOLDEN_CREDS = sorted(GOLDEN.rglob("creds.json"))
SECRET = "squeamish ossifrage, thirty-two."
SECRET_BYTES = SECRET.encode()
FEW = settings(deadline=None, database=None, max_examples=60)

PUBLIC = b"\x05" + bytes(32)
PAIR = KeyPair(public=PUBLIC, private=SECRET_BYTES)
CHAIN_KEY = ChainKey(counter=-1, key=SECRET_BYTES)
CHAIN = Chain(chain_key=CHAIN_KEY, chain_type=1, message_keys={7: SECRET_BYTES})
RATCHET = Ratchet(
    ephemeral_key_pair=PAIR,
    last_remote_ephemeral_key=PUBLIC,
    previous_counter=0,
    root_key=SECRET_BYTES,
)
INFO = IndexInfo(base_key=PUBLIC, base_key_type=1, remote_identity_key=PUBLIC)
SESSION = Session(current_ratchet=RATCHET, index_info=INFO, chains={PUBLIC: CHAIN})
CREDS = Credentials.new()


def private_keys(credentials: Credentials) -> list[bytes]:
    pairs = [
        credentials.noise_key,
        credentials.pairing_ephemeral_key_pair,
        credentials.signed_identity_key,
        credentials.signed_pre_key.key_pair,
    ]
    return [pair.private for pair in pairs if pair is not None]


def test_new_credentials_fit_together() -> None:
    """A device would be made that no phone accepts."""
    new = Credentials.new()
    pair = new.pairing_ephemeral_key_pair
    assert pair is not None
    assert pair.is_matched
    for each in (new.noise_key, new.signed_identity_key, new.signed_pre_key.key_pair):
        assert each.is_matched
        assert len(each.public) == 32
        # The clamped form, which Signal's libraries keep and sign with.
        assert (each.private[0] & 7, each.private[31] >> 6) == (0, 1)
    assert new.signed_pre_key.is_signed_by(new.signed_identity_key.public)
    assert new.signed_pre_key.is_signed_by(b"\x05" + new.signed_identity_key.public)
    assert not new.signed_pre_key.is_signed_by(new.noise_key.public)
    assert (new.signed_pre_key.key_id, new.next_pre_key_id) == (1, 1)
    assert new.first_unuploaded_pre_key_id == 1
    assert (new.registered, new.me, new.account) == (False, None, None)


def test_new_credentials_are_never_the_same() -> None:
    """Two devices would share a key, or a registration id would have more than 14 bits."""
    made = [Credentials.new() for _ in range(60)]
    keys = [key for each in made for key in (*private_keys(each), each.adv_secret_key)]
    assert len(set(keys)) == len(keys) == 60 * 5
    registrations = {each.registration_id for each in made}
    assert all(0 <= number < 2**14 for number in registrations)
    # A birthday among 16,384 is likely once, and a constant is what this finds.
    assert len(registrations) > 50
    assert len({each.signed_pre_key.signature for each in made}) == 60


@pytest.mark.parametrize(
    "path", GOLDEN_CREDS, ids=lambda p: p.parent.relative_to(GOLDEN).as_posix()
)
def test_signatures_of_the_real_library_verify(path: Path) -> None:
    """A sound device would be called damaged, or a forged signature accepted."""
    credentials = baileys.decode(CREDENTIALS, path.read_bytes())
    raw = json.loads(path.read_bytes())
    identity = base64.b64decode(raw["signedIdentityKey"]["public"]["data"])
    signed = credentials.signed_pre_key
    assert signed.is_signed_by(identity)
    assert signed.key_pair.is_matched
    assert credentials.signed_identity_key.is_matched
    assert credentials.noise_key.is_matched
    for place in (0, 31, 32, 62, 63):
        forged = bytearray(signed.signature)
        forged[place] ^= 1
        assert not signed.replace(signature=bytes(forged)).is_signed_by(identity)
    assert not signed.replace(key_pair=credentials.noise_key).is_signed_by(identity)
    assert not signed.is_signed_by(credentials.noise_key.public)


def test_there_are_golden_credentials() -> None:
    """The test of the real library's signatures would pass by looking at nothing."""
    assert len(GOLDEN_CREDS) >= 3


@FEW
@given(seed=st.binary(min_size=32, max_size=32), message=st.binary(max_size=80))
def test_what_is_signed_verifies(seed: bytes, message: bytes) -> None:
    """Some private key would make signatures that no client accepts."""
    pair = KeyPair(public=model.keys.public_of(seed), private=seed)
    signature = sign(pair.private, message)
    assert len(signature) == 64
    assert signature[63] < 128
    assert verify(pair.public, message, signature)
    assert verify(b"\x05" + pair.public, message, signature)
    assert not verify(pair.public, message + b"1", signature)


def test_a_pair_that_does_not_match_is_seen() -> None:
    """A mixed-up key pair would pass for a sound one."""
    one, other = KeyPair.new(), KeyPair.new()
    assert one.is_matched
    assert one.replace(public=b"\x05" + one.public).is_matched
    assert not one.replace(public=other.public).is_matched


@pytest.mark.parametrize(
    "kind",
    [k for k in vars(model).values() if isinstance(k, type) and issubclass(k, Value)],
    ids=lambda kind: kind.__name__,
)
def test_every_member_is_checked(kind: type[Value]) -> None:
    """A member would take any value, which a store then cannot read back."""
    assert set(kind.CHECKS) == set(kind.__struct_fields__)
    assert kind.__struct_config__.frozen


class Odd(Mapping[str, int]):
    """A mapping that is no dict."""

    def __getitem__(self, name: str) -> int:
        return {"a": 1}[name]

    def __iter__(self) -> Iterator[str]:
        return iter("a")

    def __len__(self) -> int:
        return 1


class Text(str):
    """Text that can be given more members."""


# Values of every kind, at and beyond the edges of what members take.
ZOO: list[Any] = [
    None, True, False, 0.5, *(sign * 2**bits + add for bits in (0, 1, 24, 31, 32, 63, 64)
    for sign in (1, -1) for add in (-1, 0, 1)), "", "a", "-12", "é", "\ud800", Text("a"), b"",
    *(first + bytes(size) for size in (0, 30, 31, 32, 63, 127) for first in (b"\5", b"\6")),
    bytearray(32), {}, checks.EMPTY, FrozenDict(), FrozenDict(a=1), FrozenDict(a=[1]), {"a": {}},
    {"a": True, "b": 1}, {1: SECRET_BYTES}, FrozenDict({1: SECRET_BYTES, 2: b""}), {1.0: b""},
    {"low": 1, "high": 0, "unsigned": True}, Odd(), (), [], (1, 2), [1, -1], ("a", Text("a")),
    ["a"], {"a"}, object(), Foreign("etf", b""), PAIR, CHAIN_KEY, CHAIN, RATCHET, INFO, SESSION,
    (PAIR,), {PUBLIC: CHAIN}, {PUBLIC: SESSION}, FrozenDict({PUBLIC: CHAIN, b"": CHAIN}),
    {PUBLIC[:32]: CHAIN, b"\6" + PUBLIC[1:]: CHAIN}, {"a": IndexValue(value_mac=b"")},
]  # fmt: skip
ITEMS = (checks.data, checks.text, checks.uint32, checks.size(32, 33), checks.free, checks.name,
         checks.instance(Chain), checks.optional(checks.public_key))  # fmt: skip


def outcome(check: Callable[[Any], Any], value: Any) -> Any:
    try:
        return check(value)
    except checks.Refused as refused:
        return f"refused{refused.path}: {refused.what}"


def test_tests_accept_only_what_their_checks_keep() -> None:
    """A shortcut would let a value in that the member's check refuses, or leave it unfrozen."""
    every = {check for kind in Value.__subclasses__() for check in kind.CHECKS.values()}
    accepted = 0
    for check in every:
        test = checks.define(f"def test(v):\n    return {checks.test_of(check, 'v')}")
        for value in ZOO:
            if test(value):
                accepted += 1
                assert check(value) is value
    assert accepted > len(every)


@pytest.mark.parametrize("value", ZOO, ids=lambda value: type(value).__name__)
def test_collections_are_checked_item_by_item(value: Any) -> None:
    """One wrong item among right ones would be kept, or a list or dict would stay changeable."""
    for item in ITEMS:
        if isinstance(value, list | tuple):
            alone = [outcome(item, each) for each in value]
            kept = outcome(checks.tuple_of(item), value)
            _check_kept(alone, kept, tuple)
        if isinstance(value, Mapping):
            for key in ITEMS[:-1]:
                pairs = [(outcome(key, k), outcome(item, v)) for k, v in value.items()]
                alone = [each for pair in pairs for each in pair]
                kept = outcome(checks.map_of(key, item), value)
                _check_kept(alone, kept, FrozenDict)


def _check_kept(alone: list[Any], kept: Any, kind: type) -> None:
    """Refused if one of the items is when it stands alone; else what the items became."""
    wrong = [each for each in alone if isinstance(each, str) and each.startswith("refused")]
    if wrong:
        assert isinstance(kept, str) and kept.startswith("refused[")
        assert any(each.partition(": ")[2] in kept for each in wrong)
        return
    flat = [e for pair in kept.items() for e in pair] if isinstance(kept, dict) else list(kept)
    assert type(kept) is kind
    assert flat == alone
    hash(kept)


def test_types_of_one_name_are_not_confused() -> None:
    """A value of another type would be kept, only since its type is called the same."""
    kinds = [type("Same", (), {}) for _ in range(2)]
    first, second = (checks.tuple_of(checks.instance(kind)) for kind in kinds)
    assert first([kinds[0]()]) and second([kinds[1]()])
    with pytest.raises(checks.Refused):
        first((kinds[1](),))


def test_values_cannot_be_changed() -> None:
    """A cached record would be changed by its reader, without being stored."""
    given = {PUBLIC: CHAIN}
    session = SESSION.replace(chains=given, extra={"a": [1, {"b": [2]}]})
    given.clear()
    assert len(session.chains) == 1
    assert session.extra == {"a": (1, {"b": (2,)})}
    with pytest.raises(AttributeError):
        session.registration_id = 5  # type: ignore[misc]
    frozen: Any = session.chains
    changes: tuple[Callable[[], Any], ...] = (
        lambda: frozen.update({}), lambda: frozen.clear(), lambda: frozen.pop(PUBLIC),
        lambda: frozen.popitem(), lambda: frozen.setdefault(PUBLIC), lambda: frozen.__ior__({}),
        lambda: frozen.__setitem__(PUBLIC, CHAIN), lambda: frozen.__delitem__(PUBLIC),
        lambda: session.extra["a"][1].update(b=3),
    )  # fmt: skip
    for change in changes:
        with pytest.raises(TypeError):
            change()
    assert len(session.chains) == 1


def test_values_can_be_copied_and_hashed() -> None:
    """A value could not be sent to a worker process, or put into a set."""
    extra = {"a": [1], "f": Foreign("etf", b"1")}
    for value in (CREDS.replace(extra=extra), SESSION, SessionRecord(sessions={PUBLIC: SESSION})):
        again = pickle.loads(pickle.dumps(value))
        assert again == value == copy.deepcopy(value)
        assert hash(again) == hash(value)
        assert type(again.extra) is FrozenDict
    foreign: Any = Foreign("etf", b"1")
    assert foreign == copy.copy(foreign) != Foreign("go", b"1")
    with pytest.raises(AttributeError):
        foreign.data = b"2"


def test_replace_checks_anew() -> None:
    """A changed copy would hold a value that was never checked."""
    assert PAIR.replace(extra={"a": 1}).extra == {"a": 1}
    assert PAIR.replace() == PAIR
    with pytest.raises(InvalidValue):
        PAIR.replace(private=b"")
    with pytest.raises(TypeError):
        PAIR.replace(nothing=1)


def test_decoded_values_are_checked_as_well() -> None:
    """A wrong value in a file would get past the checks that a caller's value meets."""
    raw = msgspec.msgpack.encode({"public": bytes(32), "private": bytes(31)})
    with pytest.raises((msgspec.ValidationError, InvalidValue)):
        msgspec.msgpack.decode(raw, type=KeyPair)


def test_text_keeps_what_javascript_writes() -> None:
    """A push name that JavaScript cut in half would make the whole credentials unreadable."""
    assert Contact(id="1", name="\ud83d").name == "\ud83d"


def spelled(secret: bytes) -> list[str]:
    return [base64.b64encode(secret).decode()[:12], secret.hex()[:12], repr(secret)[2:-1][:12]]


@pytest.mark.parametrize("family", FAMILIES)
def test_no_repr_of_a_record_shows_keys(family: str) -> None:
    """A log line with a record in it would give the conversation away."""
    value = record(family, 1, CREDS, Holds())
    if not isinstance(value, Value):
        _check_collection(family)
        return
    shown = repr(value) + str(value) + f"{value}"
    for secret in _bytes_in(msgspec.to_builtins(value, builtin_types=(bytes,))):
        assert not any(form in shown for form in spelled(secret))
    assert type(value).__name__ in shown


def _check_collection(family: str) -> None:
    frozen = check_record(Key(family, "7"), record(family, 1, CREDS, Holds()))
    if isinstance(frozen, FrozenDict):
        assert repr(frozen) == f"<{len(frozen)} members>"
    else:
        assert family in ("lid-mapping", "device-list", "identity-key")


def _bytes_in(value: Any) -> list[bytes]:
    if isinstance(value, bytes):
        return [value] if len(value) >= 8 else []
    if isinstance(value, dict):
        return [each for pair in value.items() for part in pair for each in _bytes_in(part)]
    if isinstance(value, list | tuple):
        return [each for part in value for each in _bytes_in(part)]
    return []


def test_no_repr_of_credentials_shows_keys() -> None:
    """A log line with the credentials in it would give the account away."""
    full = CREDS.replace(
        pairing_code=SECRET,
        routing_info=SECRET_BYTES,
        additional_data={"token": SECRET},
        extra={"token": SECRET, "more": [SECRET_BYTES]},
        me=Contact(id="1555@s.whatsapp.net", name=SECRET),
        signal_identities=(
            SignalIdentity(
                identifier=SignalAddress(name=SECRET, device_id=0), identifier_key=PUBLIC
            ),
        ),
    )
    shown = repr(full) + str(full) + f"{full}" + repr([full]) + repr({"c": full})
    assert "squeamish" not in shown
    for secret in (*private_keys(full), full.adv_secret_key, full.signed_pre_key.signature):
        assert not any(form in shown for form in spelled(secret))
    assert "1555" not in shown
    assert "next_pre_key_id=1" in shown


def test_no_repr_of_nested_values_shows_keys() -> None:
    """A debugger's line of one member would show a key."""
    state = SenderKeyState(
        sender_key_id=1,
        sender_chain_key=SenderChainKey(iteration=0, seed=SECRET_BYTES),
        sender_signing_key=SenderSigningKey(public=PUBLIC, private=SECRET_BYTES),
        sender_message_keys=(SenderMessageKey(iteration=0, seed=SECRET_BYTES),),
        extra={SECRET: SECRET_BYTES},
    )
    values = (
        PAIR, CHAIN_KEY, CHAIN, CHAIN.message_keys, RATCHET, SESSION, SESSION.chains, state,
        state.extra, SenderKeyRecord(states=(state,)), Foreign("etf", SECRET_BYTES),
        EncodedRecord(encoding="go-json", data=SECRET_BYTES), TcToken(token=SECRET_BYTES),
        AppStateSyncKey(key_data=SECRET_BYTES), IndexValue(value_mac=SECRET_BYTES),
    )  # fmt: skip
    for value in values:
        assert "squeamish" not in repr(value) + str(value)
    assert "go-json" in repr(EncodedRecord(encoding="go-json", data=b""))


@FEW
@given(data=st.data(), family=st.sampled_from(sorted(FAMILIES)))
def test_any_drawn_value_is_taken_unchanged(data: st.DataObject, family: str) -> None:
    """A valid value would be refused, or changed by its own checks."""
    value = data.draw(VALUES.records[family])
    kept = check_record(Key(family, "7"), value)
    assert kept == value
    assert check_record(Key(family, "7"), kept) == kept
    assert isinstance(kept, bytes | str | tuple) or type(hash(kept)) is int


VALUES = values_for(NATIVE)


def test_signed_pre_key_is_made_for_its_identity() -> None:
    """A rotated signed pre-key would not verify at the server."""
    identity = KeyPair.new()
    signed = SignedPreKey.new(identity, 77)
    assert signed.key_id == 77
    assert signed.key_pair.is_matched
    assert signed.is_signed_by(identity.public)
