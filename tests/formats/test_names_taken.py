"""Unknown members whose names the target's format has for something else, or cannot write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from _helpers import ALICE, COMPAT, bytes_of, key_of, private_copy, records
from ratchetkeep import copy_device, open_device
from ratchetkeep.formats import baileys, baileysex, baileysex_json, pyaileys
from ratchetkeep.formats._base import Format
from ratchetkeep.formats._shape import TAKEN
from ratchetkeep.model import CREDENTIALS, DisappearingMode, Key

KINDS = ("baileysex-json", "baileysex", "pyaileys", "whatsmeow", "sqlite", "baileys6")
HALF = "\ud800"


def first_session(folder: Path) -> Path:
    return min(path for path in folder.iterdir() if path.name.startswith("session-"))


def edited(path: Path, edit: Callable[[Any], None]) -> Any:
    """The value of a file of JSON that another program changed, and its record."""
    document = json.loads(path.read_bytes())
    edit(document)
    form: Any = baileysex_json if path.is_relative_to(COMPAT) else baileys
    return form.decode(key_of(path), json.dumps(document).encode())


def a_session(folder: Path) -> Path:
    return next(path for path in records(folder) if key_of(path).family == "session")


def in_one_session(**members: Any) -> Callable[[Any], None]:
    """Give the first session of a record more members."""

    def edit(document: Any) -> None:
        sessions = document.get("_sessions") or document["sessions"]
        next(iter(sessions.values())).update(members)

    return edit


@pytest.mark.parametrize("family", ["session", "credentials"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_name_with_half_of_a_character_stops_no_copy(
    tmp_path: Path, kind: str, family: str
) -> None:
    """One odd name in a Baileys folder would end the whole copy in an error without a place."""
    alice = private_copy(ALICE, tmp_path / "alice")
    path = first_session(alice) if family == "session" else alice / "creds.json"
    document = json.loads(path.read_bytes())
    inner = document
    if family == "session":
        inner = next(iter(document["_sessions"].values()))
    inner[f"odd{HALF}"] = 1
    path.write_text(json.dumps(document))
    told = copy_device(f"baileys:{alice}", f"{kind}:{tmp_path}/target")
    lost = [each.what for each in told.not_held if each.family == family and not each.derived]
    if kind == "baileysex-json":
        assert any("half of a character" in what for what in lost)
    copy_device(f"{kind}:{tmp_path}/target", f"sqlite:{tmp_path}/back.db")


def told(form: Format, key: Key, value: Any) -> dict[str, str]:
    """What is lost in a format, by place."""
    losses = form.encode(key, value, value if key == CREDENTIALS else None).losses
    return {loss.place: loss.what for loss in losses if not loss.derived}


@pytest.mark.parametrize("form", [baileysex_json, baileysex, pyaileys])
def test_an_unknown_member_of_baileys_never_becomes_a_known_one(form: Any) -> None:
    """A text that Baileys never looked at would become the pairing code, and what stood under
    another known name would be gone without a word."""

    def edit(document: Any) -> None:
        document.pop("pairingCode", None)
        document.update(noise_key=1, pairing_code="ABCD1234", last_prop_hash={"x": 1})

    creds = edited(ALICE / "creds.json", edit)
    lost = told(form, CREDENTIALS, creds)
    assert {"noise_key", "pairing_code", "last_prop_hash"} <= lost.keys()
    back = form.decode(CREDENTIALS, form.encode(CREDENTIALS, creds, creds).data)
    for name in ("noise_key", "pairing_code", "last_prop_hash"):
        assert getattr(back, name) == getattr(creds, name)
        assert name not in back.extra


def test_an_unknown_member_of_baileysex_never_becomes_one_of_baileys() -> None:
    """A text that BaileysEx never looked at would become Baileys' pairing code."""

    def edit(document: Any) -> None:
        document.update(noiseKey=1, pairingCode="ABCD1234", pairing_code=None, odd=7)

    creds = edited(COMPAT / "creds.json", edit)
    lost = told(baileys, CREDENTIALS, creds)
    assert (lost["noiseKey"], lost["pairingCode"]) == (TAKEN, TAKEN) and "odd" not in lost
    back = baileys.decode(CREDENTIALS, baileys.encode(CREDENTIALS, creds, creds).data or b"")
    assert (back.noise_key, back.pairing_code) == (creds.noise_key, None)
    assert back.extra["odd"] == 7


def test_unknown_members_of_sessions_are_told() -> None:
    """A member of a session would be gone in BaileysEx without a word."""
    path = a_session(ALICE)

    def edit(document: Any) -> None:
        in_one_session(chains=1)(document)
        next(iter(document["_sessions"].values()))["indexInfo"]["remote_identity_key"] = 7

    record = edited(path, edit)
    creds = edited(ALICE / "creds.json", lambda document: None)
    made = baileysex_json.encode(key_of(path), record, creds)
    lost = {loss.place for loss in made.losses if loss.what == TAKEN}
    assert lost == {"sessions[0].chains", "sessions[0].index_info.remote_identity_key"}


def test_the_version_of_a_session_stays_baileys() -> None:
    """Baileys would refuse a session, and begin a new one, for what BaileysEx never looked at."""
    path = a_session(COMPAT)
    for version, is_lost in ((5, True), (None, True), ("v1", False)):
        record = edited(path, lambda document, new=version: document.update(version=new))  # type: ignore[misc]
        made = baileys.encode(key_of(path), record)
        assert json.loads(made.data or b"")["version"] == "v1"
        assert [loss.what for loss in made.losses if loss.place == "version"] == [TAKEN] * is_lost


@pytest.mark.parametrize("form", [baileysex_json, baileysex])
def test_an_unknown_member_never_becomes_the_disappearing_time(form: Any) -> None:
    """Messages of new chats would disappear, or stay, by a number that nobody set."""
    creds = edited(ALICE / "creds.json", lambda document: None)
    mode = DisappearingMode(extra={"ephemeral_expiration": 7, "odd": 1})
    settings = creds.account_settings.replace(default_disappearing_mode=mode)
    creds = creds.replace(account_settings=settings)
    made = form.encode(CREDENTIALS, creds, creds)
    place = "account_settings.default_disappearing_mode.ephemeral_expiration"
    assert [loss.what for loss in made.losses if loss.place == place] == [TAKEN]
    back = form.decode(CREDENTIALS, made.data).account_settings.default_disappearing_mode
    assert back.ephemeral_expiration is None and back.extra == {"odd": 1}


def test_a_member_that_was_said_to_be_nothing_stays_so(tmp_path: Path) -> None:
    """A folder would change by being opened, or by a copy to its own kind."""
    alice = private_copy(ALICE, tmp_path / "alice")
    document = json.loads((alice / "creds.json").read_bytes())
    document["pairingCode"] = document["routingInfo"] = None
    (alice / "creds.json").write_text(json.dumps(document, separators=(",", ":")))
    before = bytes_of(alice)["creds.json"]
    copied = copy_device(f"baileys:{alice}", f"baileys:{tmp_path}/copy")
    assert copied.not_held == ()
    assert json.loads(bytes_of(tmp_path / "copy")["creds.json"]) == json.loads(before)
    with open_device(f"baileys:{tmp_path}/copy") as device:
        device.save_credentials(device.credentials.replace(pairing_code="ABCD1234"))
        assert device.credentials.pairing_code == "ABCD1234"
    with open_device(f"baileys:{tmp_path}/copy") as device:
        assert device.credentials.pairing_code == "ABCD1234"
