"""Addresses, sender-key names and JIDs: the same device in Baileys' spelling and in whatsmeow's."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _helpers import IDS
from ratchetkeep.formats._addresses import (
    Address,
    Jid,
    from_whatsmeow_address,
    from_whatsmeow_jid,
    mapping_key,
    mapping_of,
    sender_key_id,
    sender_key_parts,
    to_whatsmeow_address,
    to_whatsmeow_jid,
)
from ratchetkeep.testing.strategies import ids

ADDRESSES = {
    "15551230001.0": "15551230001:0",
    "998877665544332_1.7": "998877665544332_1:7",
    "5511999990000_128.99": "5511999990000_128:99",
    "223344556677889_129.99": "223344556677889_129:99",
    "15551230001.4294967295": "15551230001:4294967295",
    "status_me.3": "status_me:3",
    "a_999.3": "a_999:3",
}
NO_ADDRESSES = [
    "",
    "15551230001",
    "15551230001.",
    ".0",
    "15551230001.007",
    "15551230001.-1",
    "15551230001.4294967296",
    "15551230001.99999999999999999999",
    "1555.1230001.0",
    "15551230001:0",
    "15551230001@s.whatsapp.net.0",
    "session we/ird-user@s.whatsapp.net::3",
    "we/ird-user@s.whatsapp.net::3",
    "15551230001.\u0663",
    "1555 1230001.0",
    "\ud83d.0",
]
GROUPS = ["120363025246125486@g.us", "4915112345678-1400000000@g.us", "status@broadcast"]


def golden_ids(family: str) -> list[str]:
    devices = json.loads(IDS.read_bytes())
    return [id for device in ("alice", "bob") for id in devices[device][family]]


@pytest.mark.parametrize(("node", "go"), ADDRESSES.items())
def test_addresses(node: str, go: str) -> None:
    """A session would be kept under an address that the other library never looks under."""
    assert to_whatsmeow_address(node) == go
    assert from_whatsmeow_address(go) == node


@pytest.mark.parametrize("id", NO_ADDRESSES)
def test_what_is_no_address_is_said_to_be_none(id: str) -> None:
    """A record under an odd id would be moved under another one, or dropped, without a word."""
    assert to_whatsmeow_address(id) is None
    assert from_whatsmeow_address(id.replace(".", ":")) is None or id == "15551230001:0"


def test_every_golden_id_has_an_address() -> None:
    """Sessions and identities of a real device would stay behind in a copy."""
    found = golden_ids("session") + golden_ids("identity-key")
    assert len(found) > 40
    for id in found:
        go = to_whatsmeow_address(id)
        assert go is not None and from_whatsmeow_address(go) == id


def test_parts_of_an_address() -> None:
    """The domain of a contact would be taken for a part of its name."""
    assert Address.from_node("998877665544332_1.7") == ("998877665544332", 1, 7)
    assert Address.from_go("998877665544332_1:7") == ("998877665544332", 1, 7)
    assert Address.from_node("5511999990000_128.99") == ("5511999990000", 128, 99)
    assert Address.from_node("15551230001.0") == ("15551230001", 0, 0)
    assert Address.from_node("status_me.0") == ("status_me", 0, 0)
    assert Address.from_node("a_0.0") == ("a_0", 0, 0)
    assert Address.from_node("a_256.0") == ("a_256", 0, 0)


def test_sender_key_names() -> None:
    """A group's messages could not be read: its sender keys would be under other names."""
    found = golden_ids("sender-key")
    assert {group for id in found for group in (id.split("::")[0],)} == set(GROUPS)
    for id in found:
        group, name, device = id.split("::")
        assert sender_key_parts(id) == (group, f"{name}:{device}")
        assert sender_key_id(group, f"{name}:{device}") == id


@pytest.mark.parametrize(
    "id",
    [
        "",
        "::",
        "120363025246125486@g.us",
        "120363025246125486@g.us::15551230001",
        "::15551230001::0",
        "120363025246125486@g.us::15551230001::x",
        "120363025246125486@g.us::15551230001::00",
        "120363025246125486@g.us::1555.1::0",
        "120363025246125486@g.us::::0",
        "120363025246125486@g.us:15551230001:0",
    ],
)
def test_what_names_no_sender_key(id: str) -> None:
    """A sender key under an odd id would be moved under another one without a word."""
    assert sender_key_parts(id) is None


def test_odd_groups_come_back() -> None:
    """Two sender keys of groups with odd names would become one."""
    for group in ("a::b", "a:", ":a", "a::", "we/ird"):
        id = sender_key_id(group, "1_1:2")
        assert id is not None and sender_key_parts(id) == (group, "1_1:2")
    assert sender_key_id("", "1:2") is None
    assert sender_key_id("group", "1.2") is None


JIDS = {
    "4915112345678:12@s.whatsapp.net": "4915112345678:12@s.whatsapp.net",
    "4915112345678@s.whatsapp.net": "4915112345678@s.whatsapp.net",
    "112233445566778:12@lid": "112233445566778:12@lid",
    "5511999990000:99@hosted": "5511999990000:99@hosted",
    "223344556677889:99@hosted.lid": "223344556677889:99@hosted.lid",
    "1555_2:3@s.whatsapp.net": "1555.2:3@s.whatsapp.net",
    "1555_2@c.us": "1555.2:0@c.us",
}


@pytest.mark.parametrize(("node", "go"), JIDS.items())
def test_jids(node: str, go: str) -> None:
    """The device itself would be taken for another one, and the server would refuse it."""
    assert to_whatsmeow_jid(node) == go
    assert from_whatsmeow_jid(go) == node
    assert Jid.from_node(node) == Jid.from_go(go)


@pytest.mark.parametrize(
    ("odd", "plain"),
    [
        ("1555:0@s.whatsapp.net", "1555@s.whatsapp.net"),
        ("1555_0:7@s.whatsapp.net", "1555:7@s.whatsapp.net"),
        ("1555_1:7@lid", "1555:7@lid"),
    ],
)
def test_a_jid_has_one_spelling(odd: str, plain: str) -> None:
    """One device would stand in whatsmeow's table twice."""
    assert to_whatsmeow_jid(odd) == plain


def test_old_jids_of_whatsmeow_are_read() -> None:
    """A device that an early whatsmeow paired could not be copied."""
    assert from_whatsmeow_jid("1555.0:7@s.whatsapp.net") == "1555:7@s.whatsapp.net"


@pytest.mark.parametrize(
    "text",
    [
        *("", "@lid", "1555", "1555@", "1555@@lid", "1555:x@lid", "1555:65536@lid", "1555_256@lid"),
        *("15 55@lid", "1555:7:8@lid", "1555@LID", "1555@lid\n", "\ud83d@lid", "1_2_3@lid"),
    ],
)
def test_what_is_no_jid_is_said_to_be_none(text: str) -> None:
    """Credentials with a damaged JID would be taken for those of another device."""
    assert to_whatsmeow_jid(text) is None
    assert from_whatsmeow_jid(text.replace("_", ".")) is None


def test_mappings_of_both_directions() -> None:
    """A contact's phone number and LID would be swapped, or one direction lost."""
    for device in json.loads(IDS.read_bytes()).values():
        for id in device["lid-mapping"]:
            lid, pn = ("1", "2")
            if id.endswith("_reverse"):
                assert mapping_of(id, pn) == (id.removesuffix("_reverse"), pn)
                assert mapping_key(lid=id.removesuffix("_reverse")) == id
            else:
                assert mapping_of(id, lid) == (lid, id)
                assert mapping_key(pn=id) == id


@pytest.mark.parametrize(
    ("id", "other"),
    [
        ("15551230001", ""),
        ("15551230001", "998877665544332@lid"),
        ("15551230001", "998877665544332_reverse"),
        ("15551230001@s.whatsapp.net", "998877665544332"),
        ("_reverse", "15551230001"),
        ("1_reverse_reverse", "15551230001"),
        ("998877665544332_reverse", "15551230001:2"),
        ("15551230001", "99\0"),
        ("15551230001", "\ud83d"),
    ],
)
def test_what_is_no_mapping(id: str, other: str) -> None:
    """whatsmeow's table, which all its devices share, would hold users that do not exist."""
    assert mapping_of(id, other) is None


@given(ids("session"), ids("sender-key"), ids("tctoken"))
def test_ids_as_clients_make_them_come_back(session: str, sender_key: str, token: str) -> None:
    """A record would come back from whatsmeow under another id than it went."""
    go = to_whatsmeow_address(session)
    assert go is not None and from_whatsmeow_address(go) == session
    parts = sender_key_parts(sender_key)
    assert parts is not None and sender_key_id(*parts) == sender_key
    assert to_whatsmeow_jid(token) == token


@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_any_text_is_refused_or_comes_back(text: str) -> None:
    """An id from a damaged source would stop a copy with a bare exception, or become another."""
    node, go = from_whatsmeow_address(text), to_whatsmeow_address(text)
    assert node is None or to_whatsmeow_address(node) == text
    assert go is None or from_whatsmeow_address(go) == text
    parts = sender_key_parts(text)
    assert parts is None or sender_key_id(*parts) == text
    jid = to_whatsmeow_jid(text)
    assert jid is None or to_whatsmeow_jid(from_whatsmeow_jid(jid) or "") == jid
