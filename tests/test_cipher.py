"""How records, ids, names and states are sealed: what a stranger's program must be able to count
on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratchetkeep import DecodeError, UnsupportedVersion
from ratchetkeep.model import Key
from ratchetkeep.sealing.cipher import NameCipher, Sealed, State, padded
from ratchetkeep.sealing.keys import RawKey, Secret
from ratchetkeep.sealing.ring import make, unlock

VECTORS = Path(__file__).parent / "golden" / "sealed" / "cipher-1.json"
DATA_KEY, STORE, HISTORY = bytes(range(32)), bytes(range(16)), "0123456789abcdef" * 2
# Header, nonce and tag of a sealed record.
AROUND = 3 + 12 + 16
KEYS = st.builds(
    Key,
    st.sampled_from(["session", "pre-key", "credentials", "lid-mapping"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
)
RECORD = Key("session", "15551230001.0")


def cipher(**changed: Any) -> Sealed:
    """A device's cipher; members that are named differ from the others' of these tests."""
    how: dict[str, Any] = {
        "data_key": DATA_KEY,
        "store": STORE,
        "generation": 1,
        "device": "+15551230001",
        "history": HISTORY,
        **changed,
    }
    return Sealed(**how)


OTHERS = {
    "data_key": bytes(32),
    "store": bytes(16),
    "generation": 2,
    "device": "+15551230002",
    "history": "f" * 32,
}


@given(KEYS, st.binary(max_size=5000))
def test_what_is_sealed_opens_again(key: Key, data: bytes) -> None:
    """A record would come back with bytes more or less, such as zeros at its end."""
    one = cipher()
    assert one.open(key, one.seal(key, data)) == data
    assert one.key_of(key.family, one.row_id(key)) == key
    padding = data + b"\x80\0\0"
    assert one.open(key, one.seal(key, padding)) == padding


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_names_and_texts_open_again(text: str) -> None:
    """A device would be listed under another name, or be said to have moved elsewhere."""
    names = NameCipher(DATA_KEY, STORE, 1)
    assert names.open(names.seal(text)) == text
    assert names.seal(text) == names.seal(text)
    one = cipher()
    assert one.open_text(one.seal_text(text)) == text


@given(st.integers(0, 2**256 - 1), st.integers(0, 2**63), st.integers(0, 2**63))
def test_a_state_opens_again(total: int, rows: int, commits: int) -> None:
    """The sum of a device's rows would be read back wrong, and each verify tell of damage."""
    one = cipher()
    state = State(total, rows, commits)
    assert one.open_state(one.seal_state(state)) == state
    with pytest.raises(DecodeError):
        one.open(Key("", ""), one.seal_state(state))


@pytest.mark.parametrize("size", [0, 1, 63, 64, 500])
def test_any_bit_that_changed_does_not_open(size: int) -> None:
    """Somebody without the key could change what a record says."""
    one = cipher()
    sealed = one.seal(RECORD, bytes(size))
    for place in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises((DecodeError, UnsupportedVersion)):
            one.open(RECORD, bytes(changed))
    for cut in range(len(sealed)):
        with pytest.raises(DecodeError):
            one.open(RECORD, sealed[:cut])
    with pytest.raises(DecodeError):
        one.open(RECORD, sealed + b"\0")


@pytest.mark.parametrize("id", ["1", "15551230001.0", "x" * 40])
def test_an_id_has_one_spelling(id: str) -> None:
    """A second row for the same record could be put in, that a copy reads and a look-up does
    not."""
    one, names = cipher(), NameCipher(DATA_KEY, STORE, 1)
    spelled, name = one.row_id(Key("session", id)), names.seal(id)
    for place in range(len(spelled)):
        for other in ("A", "B", "_", "=", "\n", " "):
            if spelled[place] != other:
                with pytest.raises(DecodeError):
                    one.key_of("session", spelled[:place] + other + spelled[place + 1 :])
            with pytest.raises(DecodeError):
                one.key_of("session", spelled[:place] + other + spelled[place:])
            with pytest.raises(DecodeError):
                names.open(name[:place] + other + name[place:])
    for end in ("\n", "=", "====", " ", "AAAA"):
        with pytest.raises(DecodeError):
            one.key_of("session", spelled + end)


@pytest.mark.parametrize("member", OTHERS)
def test_nothing_opens_elsewhere(member: str) -> None:
    """Records could be carried from one device, life, store or data key to another; and who sees
    two stores would see which ids they share."""
    one, other = cipher(), cipher(**{member: OTHERS[member]})
    assert one.row_id(RECORD) == cipher().row_id(RECORD)
    assert one.row_id(RECORD) != other.row_id(RECORD)
    state = State(1, 2, 3)
    for opening, sealed in (
        (lambda: other.open(RECORD, one.seal(RECORD, b"x")), "record"),
        (lambda: other.key_of("session", one.row_id(RECORD)), "id"),
        (lambda: other.open_state(one.seal_state(state)), "state"),
        (lambda: other.open_text(one.seal_text("x")), "text"),
    ):
        with pytest.raises(DecodeError):
            opening()
            raise AssertionError(f"a {sealed} opened")
    data = one.seal(RECORD, b"x")
    assert one.hash_of("session", "id", data) != other.hash_of("session", "id", data)


@pytest.mark.parametrize(
    "other",
    [
        Key("session", "15551230001.1"),
        Key("identity-key", "15551230001.0"),
        Key("session1", "5551230001.0"),
        Key("sessio", "n15551230001.0"),
    ],
)
def test_nothing_opens_under_another_key(other: Key) -> None:
    """A record could be put in the place of another one."""
    one = cipher()
    assert one.row_id(RECORD) != one.row_id(other)
    with pytest.raises(DecodeError):
        one.open(other, one.seal(RECORD, b"x"))
    if other.family != RECORD.family:
        with pytest.raises(DecodeError):
            one.key_of(other.family, one.row_id(RECORD))


def test_a_newer_version_is_told_as_such() -> None:
    """A record of a newer version would be told as damage, and be restored from a backup."""
    one = cipher()
    sealed = bytearray(one.seal(RECORD, b"x"))
    sealed[2] = 2
    with pytest.raises(UnsupportedVersion):
        one.open(RECORD, bytes(sealed))


def test_equal_records_do_not_look_equal() -> None:
    """Who sees the file would see which records are the same, and which came back."""
    one = cipher()
    sealed = {one.seal(RECORD, b"the same") for _ in range(1000)}
    assert len({each[3:15] for each in sealed}) == len({each[15:] for each in sealed}) == 1000


def test_randomness_that_comes_back_gives_no_nonce_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that was put back to a snapshot would use one nonce for two records, and give away
    the key that authenticates."""
    monkeypatch.setattr(os, "urandom", lambda size: bytes(size))
    one = cipher()
    nonces = {one.seal(Key("session", f"{n}.0"), b"%d" % n)[3:15] for n in range(500)}
    nonces |= {one.seal(RECORD, b"%d" % n)[3:15] for n in range(500)}
    nonces |= {one.seal_state(State(n, n, n))[3:15] for n in range(500)}
    assert len(nonces) == 1500


def test_sizes_go_by_steps() -> None:
    """How long a record is would tell which it is: how many messages of a session were skipped,
    say."""
    assert padded(0) == padded(63) == 64
    last = 0
    for size in range(100_001):
        to = padded(size)
        step = max(64, 1 << max(0, (size + 1).bit_length() - 4))
        assert to % step == 0
        assert size < to <= size + step
        assert to >= last
        assert size < 1024 or to - size <= size / 7
        last = to
    assert len({padded(size) for size in range(100_001)}) < 80


@given(st.integers(0, 100_000))
@settings(max_examples=60)
def test_a_sealed_record_is_of_the_size_of_its_step(size: int) -> None:
    """The steps would be computed, and not kept."""
    assert len(cipher().seal(RECORD, bytes(size))) == AROUND + padded(size)


@given(st.integers(0, 40), st.integers(0, 40))
def test_ids_of_a_step_have_one_size(one: int, other: int) -> None:
    """How long an id is would tell a phone number from a LID."""
    sizes = {len(cipher().row_id(Key("session", "1" * size))) for size in (one, other)}
    assert (len(sizes) == 1) == (one // 32 == other // 32)


ROWS = st.lists(st.tuples(st.text("abc", max_size=3), st.binary(min_size=16, max_size=20)))


@given(ROWS, ROWS, st.randoms(use_true_random=False))
def test_a_sum_tells_rows_from_other_rows(one: Any, other: Any, random: Any) -> None:
    """Rows in another order would look changed, or others look the same."""
    sealed = cipher()

    def total(rows: Any) -> State:
        return State().after((), [sealed.hash_of("session", *row) for row in rows])

    mixed = [*one]
    random.shuffle(mixed)
    assert total(one) == total(mixed)
    tags = sorted((id, data[-16:]) for id, data in one)
    assert (total(one) == total(other)) == (tags == sorted((id, d[-16:]) for id, d in other))
    hashes = [sealed.hash_of("session", *row) for row in one]
    assert total([*one, *other]).after(hashes, []) == total(other)


# -- golden: another program can check its own by these


def vectors() -> dict[str, Any]:
    """What the golden file says, made again: with randomness that is a count of bytes."""
    drawn = iter(range(256))
    real, os.urandom = os.urandom, lambda size: bytes([next(drawn)]) * size
    try:
        one, names = cipher(), NameCipher(DATA_KEY, STORE, 1)
        records = [
            (RECORD, b""),
            (RECORD, b"record"),
            (Key("credentials", "credentials"), bytes(range(200))),
            (Key("lid-mapping", "Müller"), b"\x80\0"),
        ]
        found: dict[str, Any] = {"records": [], "names": {}}
        for key, data in records:
            sealed = one.seal(key, data)
            row = {"family": key.family, "id": key.id, "data": data.hex()}
            row |= {"row": one.row_id(key), "sealed": sealed.hex()}
            row["hash"] = f"{one.hash_of(key.family, one.row_id(key), sealed):064x}"
            found["records"].append(row)
        for name in ("default", "+15551230001", "Müller"):
            found["names"][name] = names.seal(name)
        found["state"] = one.seal_state(State(2**255 + 1, 4, 5)).hex()
        found["text"] = one.seal_text("sqlite:/srv/x.db")
        vault = make("").changed(current=1, work="", keys={1: DATA_KEY})
        vault.store = STORE
        found["ring, raw key"] = vault.wrapped(Secret(bytes(32), is_passphrase=False)).decode()
        secret = Secret("Paßwort".encode(), is_passphrase=True)
        found["ring, passphrase"] = vault.wrapped(secret).decode()
    finally:
        os.urandom = real
    return found


def test_the_golden_vectors_are_made_again() -> None:
    """The format would have changed under the same version, and old stores not open any more."""
    assert json.loads(VECTORS.read_text()) == vectors()


def test_the_golden_vectors_open() -> None:
    """What another program wrote by these vectors could not be read."""
    golden, one = json.loads(VECTORS.read_text()), cipher()
    for row in golden["records"]:
        key = Key(row["family"], row["id"])
        assert one.open(key, bytes.fromhex(row["sealed"])) == bytes.fromhex(row["data"])
        assert one.key_of(row["family"], row["row"]) == key
    assert one.open_state(bytes.fromhex(golden["state"])) == State(2**255 + 1, 4, 5)
    assert one.open_text(golden["text"]) == "sqlite:/srv/x.db"
    vault = unlock(golden["ring, raw key"].encode(), RawKey(bytes(32)).secret(), "golden")
    assert (vault.keys, vault.store, vault.current) == ({1: DATA_KEY}, STORE, 1)
    secret = Secret("Paßwort".encode(), is_passphrase=True)
    assert unlock(golden["ring, passphrase"].encode(), secret, "golden").keys == {1: DATA_KEY}
