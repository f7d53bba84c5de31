"""whatsmeow's rows: the same device back, and nothing of it lost in silence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import msgpack

from _helpers import ALICE, BOB
from _whatsmeow_rows import (
    DEVICE,
    IDENTITY,
    INT64,
    NAMES,
    NOISE,
    OWN,
    PLAIN_ROW,
    PRIVATE,
    ROW,
    SIGNED,
    credentials,
    creds_of,
    device,
    encode,
    not_held,
    row_of,
)
from ratchetkeep.errors import DecodeError
from ratchetkeep.formats import baileys, native, whatsmeow
from ratchetkeep.model import (
    CREDENTIALS,
    Credentials,
    SignalAddress,
    SignalIdentity,
)


def test_a_row_is_read() -> None:
    """A device that whatsmeow paired would have to be paired again in another client."""
    creds = credentials(device(ROW))
    assert creds.me and creds.account
    assert (creds.me.id, creds.me.lid, creds.me.name) == (ROW["jid"], ROW["lid"], ROW["push_name"])
    assert creds.noise_key == NOISE and creds.signed_identity_key == IDENTITY
    assert creds.signed_pre_key.key_pair == SIGNED
    assert creds.signed_pre_key.key_id == ROW["signed_pre_key_id"]
    assert creds.signed_pre_key.signature == ROW["signed_pre_key_sig"]
    assert creds.registration_id == ROW["registration_id"]
    assert creds.adv_secret_key == ROW["adv_key"]
    assert creds.account.details == ROW["adv_details"]
    assert creds.account.account_signature == ROW["adv_account_sig"]
    assert creds.account.account_signature_key == ROW["adv_account_sig_key"]
    assert creds.account.device_signature == ROW["adv_device_sig"]
    assert creds.platform == "android"
    assert (creds.next_pre_key_id, creds.first_unuploaded_pre_key_id) == (121, 91)
    assert creds.my_app_state_key_id == "+/+/AA=="
    assert creds.extra == {"whatsmeow": {name: ROW[name] for name in OWN}}


def test_what_baileys_wants_to_know_is_worked_out() -> None:
    """Baileys would wait for a first sync that never comes, and bots would ask to pair again."""
    creds = credentials(device(PLAIN_ROW))
    assert creds.registered and creds.account_sync_counter == 1
    identity = SignalIdentity(
        identifier=SignalAddress(name="112233445566778:12@lid", device_id=0),
        identifier_key=b"\x05" + b"k" * 32,
    )
    assert creds.signal_identities == (identity,)
    assert creds.extra == {}
    alone = credentials(device(PLAIN_ROW | {"lid": None}))
    assert alone.signal_identities
    assert alone.signal_identities[0].identifier.name == "4915112345678:12@s.whatsapp.net"


def test_the_golden_account_makes_the_same_identity_as_baileys() -> None:
    """The phone's identity would be listed as lost in every copy from Baileys."""
    for folder in (ALICE, BOB):
        creds = creds_of(folder)
        made = whatsmeow.encode(CREDENTIALS, creds)
        assert made.data is not None
        assert credentials(made.data).signal_identities == creds.signal_identities
        assert "signal_identities" not in {loss.place for loss in made.losses}


@pytest.mark.parametrize("row", [ROW, PLAIN_ROW], ids=["own columns", "plain"])
def test_a_device_of_whatsmeow_comes_back_byte_for_byte(row: dict[str, Any]) -> None:
    """whatsmeow -> our store -> whatsmeow would lose what only whatsmeow keeps."""
    raw = device(row)
    kept = native.encode(CREDENTIALS, credentials(raw)).data
    assert kept is not None
    made = whatsmeow.encode(CREDENTIALS, native.decode(CREDENTIALS, kept))
    assert made.losses == ()
    assert made.data == raw


def test_what_only_whatsmeow_has_survives_a_stay_in_baileys() -> None:
    """The companion nonce and the migration time would be gone after a stay in Baileys."""
    raw = device(ROW | {"column_of_a_later_version": b"x"})
    kept = baileys.encode(CREDENTIALS, credentials(raw))
    assert kept.data is not None and kept.losses == ()
    made = whatsmeow.encode(CREDENTIALS, baileys.decode(CREDENTIALS, kept.data))
    assert made.losses == ()
    assert row_of(made) == ROW | {"column_of_a_later_version": b"x"}


def test_older_tables_lack_columns() -> None:
    """A database of whatsmeow's schema 8 could not be copied."""
    old = {name: value for name, value in PLAIN_ROW.items() if name not in OWN}
    assert credentials(device(old)) == credentials(device(PLAIN_ROW))
    nulls = PLAIN_ROW | dict.fromkeys(("lid", "facebook_uuid", *OWN), None)
    assert credentials(device(nulls)).extra == {}


def test_the_credentials_of_baileys_become_a_row() -> None:
    """whatsmeow would log in as another device than the one that Baileys paired."""
    creds = creds_of(ALICE)
    row = row_of(whatsmeow.encode(CREDENTIALS, creds))
    assert creds.me and creds.account
    assert row["jid"] == "4915112345678:12@s.whatsapp.net" == creds.me.id
    assert row["lid"] == "112233445566778:12@lid" == creds.me.lid
    assert row["push_name"] == creds.me.name
    assert row["noise_key"] == creds.noise_key.private
    assert row["identity_key"] == creds.signed_identity_key.private
    assert row["signed_pre_key"] == creds.signed_pre_key.key_pair.private
    assert row["adv_key"] == creds.adv_secret_key
    assert row["adv_account_sig_key"] == creds.account.account_signature_key
    back = credentials(whatsmeow.encode(CREDENTIALS, creds).data or b"")
    same = ("noise_key", "signed_identity_key", "signed_pre_key", "account", "me", "platform")
    counters = ("next_pre_key_id", "first_unuploaded_pre_key_id", "my_app_state_key_id")
    for name in (*same, *counters, "registration_id", "adv_secret_key", "signal_identities"):
        assert getattr(back, name) == getattr(creds, name), name


def test_what_a_row_cannot_hold_is_listed() -> None:
    """A copy to whatsmeow would drop members of the credentials without a word."""
    creds = creds_of(ALICE).replace(pairing_code="ABCD1234", account_sync_counter=3)
    found = {loss.place: loss for loss in whatsmeow.encode(CREDENTIALS, creds).losses}
    assert {place: loss.derived for place, loss in found.items()} == {
        "pairing_ephemeral_key_pair": True,
        "pairing_code": True,
        "processed_history_messages": True,
        "account_settings": True,
        "last_account_sync_timestamp": True,
        "last_prop_hash": True,
        "registered": True,
        "routing_info": True,
        "account_sync_counter": True,
        "additional_data": False,
    }
    assert (
        found["additional_data"].what == "what the application keeps in the credentials is left out"
    )
    assert found["pairing_code"].what == "it was only used for pairing"
    assert "works without it" in found["routing_info"].what
    assert "next history as its first" in found["processed_history_messages"].what


def test_what_is_made_up_on_the_way_back_is_listed() -> None:
    """Back in Baileys a device would be registered, or have identities, that it had not before."""
    wanted = {"registered", "account_sync_counter", "signal_identities"}
    plain = DEVICE.replace(registered=False, account_sync_counter=0, signal_identities=None)
    for creds in (plain, plain.replace(signal_identities=())):
        made = whatsmeow.encode(CREDENTIALS, creds)
        assert made.data is not None
        back = credentials(made.data)
        assert all(getattr(back, name) != getattr(creds, name) for name in wanted)
        assert wanted <= {loss.place for loss in made.losses if loss.derived}
    made = whatsmeow.encode(CREDENTIALS, credentials(device(ROW)))
    assert made.losses == ()


def test_unknown_members_are_listed() -> None:
    """A member of a later Baileys would be dropped without a word."""
    strange = {"strange": 1}
    assert DEVICE.me and DEVICE.account
    creds = DEVICE.replace(
        extra=strange,
        me=DEVICE.me.replace(extra=strange),
        account=DEVICE.account.replace(extra=strange),
        noise_key=DEVICE.noise_key.replace(extra=strange),
        signed_pre_key=DEVICE.signed_pre_key.replace(extra=strange),
        account_settings=DEVICE.account_settings.replace(extra=strange),
    )
    losses = whatsmeow.encode(CREDENTIALS, creds).losses
    lost = {loss.place for loss in losses if not loss.derived}
    assert lost == {"extra", "me", "account", "noise_key", "signed_pre_key", "account_settings"}


@pytest.mark.parametrize(
    "changes",
    [
        {"me": None},
        {"account": None},
        {"me": None, "account": None, "platform": None},
    ],
)
def test_a_device_that_is_not_paired_is_refused(changes: dict[str, Any]) -> None:
    """whatsmeow would be given a device without an account, and crash on loading it."""
    what, derived = not_held(whatsmeow.encode(CREDENTIALS, DEVICE.replace(**changes)))
    assert what.startswith("the device is not paired yet") and not derived
    assert not_held(whatsmeow.encode(CREDENTIALS, Credentials.new()))[0] == what


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("details", None),
        ("account_signature", b"A" * 63),
        ("account_signature_key", b""),
        ("device_signature", None),
    ],
)
def test_half_an_account_is_refused(member: str, value: bytes | None) -> None:
    """The table would refuse the row in the middle of a copy."""
    assert DEVICE.account
    creds = DEVICE.replace(account=DEVICE.account.replace(**{member: value}))
    what, derived = not_held(whatsmeow.encode(CREDENTIALS, creds))
    assert what.startswith(f"account.{member} is ") and not derived
    assert "needs what the phone signed" in what


def test_a_device_without_a_jid_is_refused() -> None:
    """A device would be stored under a name that whatsmeow cannot read."""
    assert DEVICE.me
    creds = DEVICE.replace(me=DEVICE.me.replace(id="nobody"))
    assert "keeps a device under its JID" in not_held(whatsmeow.encode(CREDENTIALS, creds))[0]
    odd = DEVICE.replace(me=DEVICE.me.replace(lid="nobody"))
    made = whatsmeow.encode(CREDENTIALS, odd)
    assert row_of(made)["lid"] is None
    assert [(loss.place, loss.derived) for loss in made.losses] == [
        ("me.lid", True),
        ("signal_identities", True),
    ]


def test_names_that_no_database_takes_are_mended() -> None:
    """A name with half an emoji would make the whole copy fail in PostgreSQL."""
    assert DEVICE.me
    creds = DEVICE.replace(me=DEVICE.me.replace(name="A\ud83d\0B"))
    made = whatsmeow.encode(CREDENTIALS, creds)
    assert row_of(made)["push_name"] == "A\ufffd\ufffdB"
    assert [(loss.place, loss.derived) for loss in made.losses] == [("me.name", True)]


def test_a_public_key_of_another_pair_is_listed() -> None:
    """whatsmeow would work with another public key than the source without a word."""
    wrong = NOISE.replace(public=IDENTITY.public)
    (loss,) = whatsmeow.encode(CREDENTIALS, DEVICE.replace(noise_key=wrong)).losses
    assert (loss.place, loss.derived) == ("noise_key.public", False)
    (loss,) = encode("pre-key", "1", wrong).losses
    assert (loss.place, loss.derived) == ("public", False)


@pytest.mark.parametrize(
    "own",
    [
        "text",
        {"jid": "1555:1@s.whatsapp.net"},
        {"identity_key": b"x" * 32},
        {"facebook_uuid": "no uuid"},
        {"facebook_uuid": 7},
        {"lid_migration_ts": "7"},
        {"lid_migration_ts": 2**63},
        {"business_name": "a\0"},
        {"x) VALUES (1); --": 1},
        {"column": {"deep": 1}},
    ],
)
def test_what_others_put_under_our_name_is_not_trusted(own: Any) -> None:
    """A tampered file of another client could change the device's keys, or the SQL."""
    made = whatsmeow.encode(CREDENTIALS, DEVICE.replace(extra={"whatsmeow": own}))
    assert row_of(made) == PLAIN_ROW
    (loss,) = made.losses
    assert (loss.place, loss.derived) == ("extra.whatsmeow", False)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"jid": ...}, "row.jid"),
        ({"jid": ""}, "row.jid"),
        ({"jid": "nobody"}, "row.jid"),
        ({"jid": None}, "row.jid"),
        ({"lid": "nobody"}, "row.lid"),
        ({"noise_key": b"x" * 31}, "row.noise_key"),
        ({"noise_key": "x" * 32}, "row.noise_key"),
        ({"identity_key": ...}, "row.identity_key"),
        ({"signed_pre_key_sig": b""}, "row.signed_pre_key_sig"),
        ({"signed_pre_key_id": 2**24}, "key_id"),
        ({"registration_id": -1}, "registration_id"),
        ({"registration_id": "7"}, "row.registration_id"),
        ({"adv_key": b"x" * 33}, "row.adv_key"),
        ({"adv_account_sig_key": b"x" * 33}, "row.adv_account_sig_key"),
        ({"adv_details": None}, "row.adv_details"),
        ({"push_name": b"x"}, "row.push_name"),
        ({"own": [1]}, "row.own"),
        ({"Own": 1}, "row.(a column of an odd name)"),
    ],
)
def test_a_damaged_row_is_damage(changes: dict[str, Any], place: str) -> None:
    """A damaged device would be read as another one, or crash a command."""
    row = {name: value for name, value in (ROW | changes).items() if value is not ...}
    with pytest.raises(DecodeError) as caught:
        whatsmeow.decode(CREDENTIALS, device(row))
    assert caught.value.place == place


ROWS = st.fixed_dictionaries(
    {
        "jid": st.integers(1, 65535).map("1555:{}@s.whatsapp.net".format),
        "lid": st.none() | st.integers(0, 65535).map(lambda n: f"99:{n}@lid" if n else "99@lid"),
        "registration_id": st.integers(0, 2**32 - 1),
        "signed_pre_key_id": st.integers(0, 2**24 - 1),
        "facebook_uuid": st.none() | st.uuids().map(str),
        "lid_migration_ts": INT64,
        **dict.fromkeys(("noise_key", "identity_key", "signed_pre_key", "adv_key"), PRIVATE),
        **dict.fromkeys(("platform", "business_name", "push_name", "companion_meta_nonce"), NAMES),
        "adv_details": st.binary(max_size=8),
        "adv_account_sig_key": PRIVATE,
        **dict.fromkeys(
            ("signed_pre_key_sig", "adv_account_sig", "adv_device_sig"),
            st.binary(min_size=64, max_size=64),
        ),
    }
)


@given(ROWS, st.integers(0, 2**32 - 1), st.none() | st.binary(max_size=6))
@settings(max_examples=60)
def test_any_device_comes_back(row: dict[str, Any], counter: int, key_id: bytes | None) -> None:
    """A device would change in a copy from one whatsmeow database to another."""
    counters = {"next_pre_key_id": counter, "first_unuploaded_pre_key_id": counter}
    raw = device(row, app_state_key_id=key_id, **counters)
    creds = credentials(raw)
    made = whatsmeow.encode(CREDENTIALS, creds)
    assert made.losses == () and msgpack.decode(made.data or b"") == msgpack.decode(raw)
    kept = native.encode(CREDENTIALS, creds).data or b""
    assert native.decode(CREDENTIALS, kept) == creds
