"""Folders of Baileys 6: what its files are called, and what is in them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from _helpers import ALICE, LEGACY, key_of, private_copy
from ratchetkeep import (
    CopySummary,
    NameCollision,
    RatchetkeepError,
    StoreDamaged,
    UnsupportedVersion,
    copy_device,
    open_device,
    verify_device,
)
from ratchetkeep.formats import baileys6
from ratchetkeep.model import EncodedRecord, Key, SessionRecord
from ratchetkeep.stores import urls
from ratchetkeep.stores.layouts import Baileys6Layout

BOOK = ".ratchetkeep.addresses"
EMPTY = SessionRecord()
GROUP = "120363041234567890@g.us"
LID, PHONE = "998877665544331", "4915112345678"


def contents(folder: Path) -> dict[str, bytes]:
    """The client's files in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != BOOK}


def sessions(url: str) -> list[str]:
    with open_device(url, read_only=True) as device:
        return device.ids("session")


@pytest.fixture
def legacy(tmp_path: Path) -> Path:
    """A device as Baileys 6.17.16 left it."""
    return private_copy(LEGACY / "alice", tmp_path / "legacy")


def add_session(folder: Path, id: str) -> None:
    """What Baileys 6 writes for a session, under another address."""
    (folder / f"session-{id}.json").write_bytes(
        (folder / "session-15551230001.7.json").read_bytes()
    )
    (folder / f"session-{id}.json").chmod(0o600)


def change_credentials(folder: Path, **members: Any) -> None:
    path = folder / "creds.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **members}))


def lost(summary: CopySummary) -> list[str]:
    return [each.example for each in summary.not_held if not each.derived]


# -- the records


@pytest.mark.parametrize(
    "path",
    [path for side in ("alice", "bob") for path in sorted((LEGACY / side).iterdir())],
    ids=lambda path: f"{path.parent.name} {path.name}",
)
def test_what_baileys_6_wrote_comes_back_byte_by_byte(path: Path) -> None:
    """Baileys 6 would meet another spelling than its own: of sender keys it reads no other."""
    key = key_of(path)
    made = baileys6.encode(key, baileys6.decode(key, path.read_bytes()))
    assert made.data == path.read_bytes() and made.losses == ()


def test_sender_keys_of_baileys_7_become_lists_with_text(tmp_path: Path) -> None:
    """Baileys 6 would fail at every message of a group."""
    copy_device(f"baileys:{ALICE}", f"baileys6:{tmp_path}/six")
    paths = sorted((tmp_path / "six").glob("sender-key-*@*--*"))
    assert len(paths) == 6
    for path in paths:
        for state in json.loads(path.read_bytes()):
            assert next(iter(state["senderSigningKey"])) == "public"
            assert state["senderSigningKey"].get("private", "x") != ""
            assert type(state["senderChainKey"]["seed"]) is str


def test_sender_keys_that_cannot_be_spelled_are_lost_aloud() -> None:
    """Some other client's bytes would be written where Baileys 6 expects its own."""
    odd = EncodedRecord(encoding="waeys-json", data=b"{}")
    made = baileys6.encode(Key("sender-key", f"{GROUP}::1::0"), odd)
    assert made.data is None and made.losses


# -- the names


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (Key("session", "1555.7"), "session-1555.7.json"),
        (Key("session", "99_1.7"), "session-99.7.json"),
        (Key("session", "1555_128.99"), "session-1555.99.json"),
        (Key("session", "99_129.99"), "session-99.99.json"),
        (Key("session", "99_5.1"), "session-99_5.1.json"),
        (Key("sender-key", "1@g.us::99_1::7"), "sender-key-1@g.us--99--7.json"),
        (Key("identity-key", "99_1.7"), "identity-key-99_1.7.json"),
        (Key("sender-key-memory", "1@g.us"), "sender-key-memory-1@g.us.json"),
    ],
)
def test_addresses_have_no_agent_in_file_names(key: Key, name: str) -> None:
    """Baileys 6 would not find a session with a LID, nor its sender key."""
    assert Baileys6Layout().file_name(key) == name
    back = Baileys6Layout({"99"}).key_of(name)
    assert back == key or (back is not None and key.id.endswith(".99"))


def test_names_of_baileys_7_are_no_records_and_said_to_be_there(legacy: Path) -> None:
    """A folder that Baileys 7 uses would be taken for one of 6, and half of it be left out."""
    add_session(legacy, "998877665544332_1.7")
    assert sessions(f"baileys6:{legacy}") == ["15551230001.7"]
    (found,) = [each for each in verify_device(f"baileys6:{legacy}") if each.severity == "warning"]
    assert found.what.startswith("1 file named as Baileys 7") and "baileys:" in found.remedy


def test_an_id_with_two_agents_is_refused() -> None:
    """It would come back as another one."""
    with pytest.raises(NameCollision):
        Baileys6Layout().file_name(Key("session", "9_1_1.0"))


# -- there and back


@pytest.mark.parametrize("side", ["alice", "bob"])
def test_what_baileys_6_wrote_is_the_same_after_a_copy_there_and_back(
    tmp_path: Path, side: str
) -> None:
    """A device that was elsewhere for a while would be another one to Baileys 6."""
    copy_device(f"baileys6:{LEGACY / side}", f"sqlite:{tmp_path}/a.db")
    copy_device(f"sqlite:{tmp_path}/a.db", f"baileys6:{tmp_path}/back")
    assert contents(tmp_path / "back") == contents(LEGACY / side)


def test_a_device_of_baileys_7_is_the_same_after_baileys_6(tmp_path: Path) -> None:
    """LIDs, hosted devices, or what only Baileys 7 keeps would be gone on the way back."""
    summary = copy_device(f"baileys:{ALICE}", f"baileys6:{tmp_path}/six")
    assert summary.not_held == ()
    assert [each.family for each in summary.converted] == ["sender-key"]
    assert verify_device(f"baileys6:{tmp_path}/six") == []
    copy_device(f"baileys6:{tmp_path}/six", f"baileys:{tmp_path}/seven")
    assert contents(tmp_path / "seven") == contents(ALICE)


def test_a_copy_over_a_copy_forgets_the_one_before(tmp_path: Path) -> None:
    """Users of one device would be told by what was noted of another one."""
    copy_device(f"baileys:{ALICE}", f"baileys6:{tmp_path}/six")
    copy_device(f"baileys6:{LEGACY / 'bob'}", f"baileys6:{tmp_path}/six", overwrite=True)
    assert contents(tmp_path / "six") == contents(LEGACY / "bob")
    assert "998877665544332" not in (tmp_path / "six" / BOOK).read_text()


def test_sessions_that_baileys_6_makes_later_are_of_a_lid_if_its_user_is(tmp_path: Path) -> None:
    """A LID's new device would be taken for that of a phone number."""
    url = f"baileys6:{tmp_path}/six"
    with open_device(url, create=True) as device:
        device.set({"session": {f"{LID}_1.7": EMPTY, f"{PHONE}.2": EMPTY}})
    folder = tmp_path / "six"
    (folder / f"session-{LID}.7.json").rename(folder / f"session-{LID}.9.json")
    assert sessions(url) == [f"{PHONE}.2", f"{LID}_1.9"]


# -- what tells a LID


def _me(folder: Path) -> None:
    change_credentials(folder, me={"id": f"{PHONE}:5@s.whatsapp.net", "lid": f"{LID}:5@lid"})


def _identity(folder: Path) -> None:
    key = {"type": "Buffer", "data": base64.b64encode(b"\5" * 33).decode()}
    identity = {"identifier": {"name": f"{LID}:5@lid", "deviceId": 0}, "identifierKey": key}
    change_credentials(folder, signalIdentities=[identity])


def _history(folder: Path) -> None:
    message = {"key": {"remoteJid": GROUP, "fromMe": False, "id": "A", "participant": f"{LID}@lid"}}
    change_credentials(folder, processedHistoryMessages=[{**message, "messageTimestamp": 1}])


def _memory(folder: Path) -> None:
    (folder / f"sender-key-memory-{GROUP}.json").write_text(json.dumps({f"{LID}:3@lid": True}))


def _mapping(folder: Path) -> None:
    (folder / f"lid-mapping-{LID}_reverse.json").write_text(json.dumps(PHONE))


def _token(folder: Path) -> None:
    (folder / f"tctoken-{LID}@lid.json").write_text('{"token":{"type":"Buffer","data":"AA=="}}')


def _noted(folder: Path) -> None:
    noted = {"ids": {"sender-key": [f"{GROUP}::{LID}_1::7"]}, "phones": []}
    header = {"format": "ratchetkeep-addresses", "version": 1}
    (folder / BOOK).write_text(json.dumps({**header, **noted}))


@pytest.mark.parametrize("tell", [_me, _identity, _history, _memory, _mapping, _token, _noted])
def test_a_user_who_is_told_to_be_a_lid_is_one(legacy: Path, tell: Any) -> None:
    """Baileys 7 would not find the session, and late messages be lost."""
    add_session(legacy, f"{LID}.3")
    assert f"{LID}.3" in sessions(f"baileys6:{legacy}")
    tell(legacy)
    assert f"{LID}_1.3" in sessions(f"baileys6:{legacy}")


def test_nothing_is_guessed_and_that_is_said(tmp_path: Path, legacy: Path) -> None:
    """The user would wonder why other libraries begin some sessions anew."""
    add_session(legacy, f"{LID}.3")
    add_session(legacy, "4915100000099.0")
    summary = copy_device(f"baileys6:{legacy}", f"baileys:{tmp_path}/seven")
    (found,) = [each for each in summary.findings if "LID" in each.what]
    assert found.severity == "info" and found.what.startswith("2 sessions and 0 sender keys")
    assert f"{LID}.3" in sessions(f"baileys:{tmp_path}/seven")
    (legacy / f"sender-key-memory-{GROUP}.json").write_text("[")  # damage is told elsewhere
    assert f"{LID}.3" in sessions(f"baileys6:{legacy}")


# -- two records of one name


def test_of_two_records_with_one_name_a_copy_carries_the_lids(tmp_path: Path) -> None:
    """One would be written over the other, and nothing be said."""
    held = {f"{LID}.7": EMPTY, f"{LID}_1.7": EMPTY, f"{LID}.8": EMPTY}
    hosted = {f"{PHONE}_128.99": EMPTY, f"{PHONE}.99": EMPTY, f"{PHONE}_1.99": EMPTY}
    with open_device(f"sqlite:{tmp_path}/a.db", create=True) as device:
        device.set({"session": {**held, **hosted}})
    summary = copy_device(f"sqlite:{tmp_path}/a.db", f"baileys6:{tmp_path}/six", keep_rest=True)
    (line,) = summary.not_held
    assert line.whole and not line.derived and line.count == 3 and "one file" in line.what
    assert sessions(f"baileys6:{tmp_path}/six") == [
        f"{PHONE}_1.99", f"{LID}_1.7", f"{LID}_1.8",
    ]  # fmt: skip


def test_a_second_record_of_one_name_is_refused(tmp_path: Path) -> None:
    """A client's session would be written over with another user's."""
    with open_device(f"baileys6:{tmp_path}/six", create=True) as device:
        device.set({"session": {f"{LID}_1.7": EMPTY}})
        with pytest.raises(NameCollision, match="cannot hold"):
            device.set({"session": {f"{LID}.7": EMPTY}})
        device.set({"session": {f"{LID}_1.7": None}})
        device.set({"session": {f"{LID}.7": EMPTY}})
    assert sessions(f"baileys6:{tmp_path}/six") == [f"{LID}.7"]


# -- the file of addresses


HEAD = '{"format": "ratchetkeep-addresses", "version": 1'


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", StoreDamaged),
        ("[]", StoreDamaged),
        (HEAD + "}", StoreDamaged),
        (HEAD + ', "ids": {"session": [1]}, "phones": []}', StoreDamaged),
        (HEAD + ', "ids": {"session": [""]}, "phones": []}', StoreDamaged),
        (HEAD + ', "ids": {"session": []}, "phones": [[]]}', StoreDamaged),
        (HEAD.replace("1", "2") + "}", UnsupportedVersion),
    ],
)
def test_a_damaged_list_of_addresses_is_damage(
    legacy: Path, text: str, error: type[RatchetkeepError]
) -> None:
    """LIDs would become phone numbers, and nothing be said."""
    (legacy / BOOK).write_text(text)
    with pytest.raises(error, match=BOOK):
        open_device(f"baileys6:{legacy}")


def test_a_device_that_is_removed_leaves_none(tmp_path: Path) -> None:
    """Phone numbers of contacts would stay on the disk."""
    with open_device(f"baileys6:{tmp_path}/six", create=True) as device:
        device.set({"session": {f"{LID}_1.7": EMPTY}})
        assert (tmp_path / "six").exists()
        device.clear()
    assert list(contents(tmp_path / "six")) == ["creds.json"]
    assert not (tmp_path / "six" / BOOK).exists()


# -- the URL


def test_a_bare_folder_is_one_of_baileys_7(tmp_path: Path) -> None:
    """What Baileys 7 goes on with would be read by the names of 6: nothing in it tells for sure."""
    copy_device(f"baileys6:{LEGACY / 'alice'}", f"baileys6:{tmp_path}/six")
    assert urls.parse(str(LEGACY / "alice")).kind == "baileys"
    assert urls.parse(f"{tmp_path}/six").kind == "baileys"


def test_it_is_one_of_baileys_stores(tmp_path: Path) -> None:
    """The plan of a copy for Baileys would be refused for a folder of its own."""
    copy_device(f"baileys:{ALICE}", f"baileys6:{tmp_path}/six", client="baileys")
