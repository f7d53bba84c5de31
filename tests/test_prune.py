"""Pruning of devices in every kind of store: the report, what it refuses, and the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import pgserver
from _helpers import ALICE, BOB, COMPAT, GOLDEN, LEGACY, OTP25, OTP29, footprint, private_copy
from _signal_records import CREDS as GO_CREDS
from _signal_records import dumped, session_documents
from ratchetkeep import (
    DeviceMoved,
    EncodedRecord,
    NoDevice,
    StoreDamaged,
    StoreInUse,
    WrongKey,
    copy_device,
    create_device,
    open_device,
    verify_device,
)
from ratchetkeep.cli import _prune
from ratchetkeep.formats import go_json, signal_proto, spellings
from ratchetkeep.formats._shape import Losses
from ratchetkeep.model import FAMILIES, Key, TcToken
from ratchetkeep.prune import PruneSummary, prune_device
from test_prune_rules import EVERYTHING, held, items

FIXTURES = {
    "baileys alice": ("baileys", ALICE),
    "baileys bob": ("baileys", BOB),
    "baileys6": ("baileys6", LEGACY / "alice"),
    "baileysex": ("baileysex", OTP29),
    "baileysex of OTP 25": ("baileysex", OTP25),
    "baileysex-json": ("baileysex-json", COMPAT),
    "pyaileys alice": ("pyaileys", GOLDEN / "pyaileys" / "alice"),
    "pyaileys bob": ("pyaileys", GOLDEN / "pyaileys" / "bob"),
}
APP = typer.Typer()
APP.command()(_prune.prune)
KEY = Key("session", "1.0")


@pytest.fixture(params=FIXTURES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    kind, golden = FIXTURES[request.param]
    return f"{kind}:{private_copy(golden, tmp_path / 'device')}"


@pytest.fixture
def alice(tmp_path: Path) -> Path:
    return private_copy(ALICE, tmp_path / "alice")


def everything(url: str) -> dict[str, Any]:
    with open_device(url, read_only=True) as device:
        found: dict[str, Any] = {f: device.get(f, device.ids(f)) for f in FAMILIES}
        return {**found, "credentials": device.credentials}


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.name[0] != ".")


def told(summary: PruneSummary) -> Any:
    return summary.pruned, summary.left, summary.records, summary.removed, summary.size


def findings(url: str) -> set[Any]:
    return {(each.severity, each.place, each.what) for each in verify_device(url)}


# -- every kind of store -------------------------------------------------------------------------


def test_each_fixture_is_pruned_and_whole_after_it(url: str) -> None:
    """A client's own store would be damaged, or the dry run tell other numbers than the run."""
    found, before = findings(url), everything(url)
    folder = Path(url.partition(":")[2])
    footprints = footprint(folder)
    dry = prune_device(url, policy=EVERYTHING, dry_run=True)
    assert footprint(folder) == footprints
    size = size_of(folder)
    done = prune_device(url, policy=EVERYTHING)
    assert told(done) == told(dry)
    assert done.pruned != ()
    assert findings(url) <= found
    after = everything(url)
    assert after["credentials"] == before["credentials"]
    for family in set(FAMILIES) - {"session", "sender-key", "tctoken", "device-list", "pre-key"}:
        assert after[family] == before[family]
    # A manifest lists the records, and the credentials' file stays; all else is in the report.
    assert size - size_of(folder) == done.size
    assert prune_device(url, policy=EVERYTHING).pruned == ()


@pytest.mark.parametrize("kind", ["sqlite", "baileysex", "baileysex-json", "pyaileys", "whatsmeow"])
def test_copies_of_a_device_are_pruned_alike(kind: str, alice: Path, tmp_path: Path) -> None:
    """What goes would hang on the kind of store, or be damaged by one."""
    url = f"{kind}:{tmp_path}/copy"
    copy_device(f"baileys:{alice}", url)
    found = findings(url)
    dry = prune_device(url, policy=EVERYTHING, dry_run=True)
    done = prune_device(url, policy=EVERYTHING)
    assert told(done) == told(dry)
    assert items(done)["sender-key message keys"] == 29
    assert items(done)["tctokens"] in (2, 3)  # whatsmeow has no place for one without a token
    assert findings(url) <= found
    assert prune_device(url, policy=EVERYTHING).pruned == ()
    assert done.room


def test_a_device_in_postgresql_is_pruned(alice: Path) -> None:
    """Pruning would hang on a file or a folder."""
    with pgserver.running() as server:
        url = f"{server.new_database()}&device=alice"
        copy_device(f"baileys:{alice}", url)
        found = findings(url)
        dry = prune_device(url, policy=EVERYTHING, dry_run=True)
        with open_device(url), pytest.raises(StoreInUse):
            prune_device(url, policy=EVERYTHING)
        assert told(prune_device(url, policy=EVERYTHING)) == told(dry)
        assert items(dry)["sender-key message keys"] == 29
        assert findings(url) <= found
        assert prune_device(url, policy=EVERYTHING).pruned == ()


def test_a_sealed_device_is_pruned_with_its_key_alone(tmp_path: Path) -> None:
    """A sealed store could not be pruned, or anybody could do it."""
    url, key = f"sqlite:{tmp_path}/sealed.db", bytes(range(32))
    old = TcToken(token=b"t", timestamp="1500000000")
    with open_device(url, create=True, key=key) as device:
        device.set({"tctoken": {f"{number}@lid": old for number in range(300)}})
    for wrong in (None, bytes(32)):
        with pytest.raises(WrongKey):
            prune_device(url, key=wrong)
    dry = prune_device(url, dry_run=True, key=key)
    assert items(dry) == {"tctokens": 300}
    assert told(prune_device(url, key=key)) == told(dry)
    with open_device(url, key=key) as device:
        assert device.ids("tctoken") == []


def test_nothing_is_touched_where_nothing_goes(alice: Path, tmp_path: Path) -> None:
    """Each run would write to the disk, and a witness or a backup see commits for nothing."""
    prune_device(f"baileys:{alice}")
    before = footprint(alice)
    assert prune_device(f"baileys:{alice}").pruned == ()
    after = footprint(alice)
    assert {name: each[0] for name, each in after.items()} == {
        name: each[0] for name, each in before.items()
    }
    assert all(after[name][2] == before[name][2] for name in before if name.endswith(".json"))


# -- what it refuses -----------------------------------------------------------------------------


def test_a_device_in_use_is_refused(alice: Path) -> None:
    """Records would change under a living client, which keeps them in memory and writes them
    back."""
    with open_device(f"baileys:{alice}"):
        with pytest.raises(StoreInUse):
            prune_device(f"baileys:{alice}")
        assert prune_device(f"baileys:{alice}", dry_run=True).pruned
    assert prune_device(f"baileys:{alice}").pruned


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_moved_or_missing_device_is_refused(alice: Path, tmp_path: Path, dry_run: bool) -> None:
    """A dry run would promise what the run does not do."""
    copy_device(f"baileys:{alice}", f"sqlite:{tmp_path}/new.db", retire=True)
    with pytest.raises(DeviceMoved):
        prune_device(f"baileys:{alice}", dry_run=dry_run)
    with pytest.raises(NoDevice):
        prune_device(f"sqlite:{tmp_path}/none.db", dry_run=dry_run)


def test_a_damaged_record_stops_it_before_anything_is_changed(alice: Path) -> None:
    """A half of the device would be pruned, or damage be taken for something to throw away."""
    (alice / "session-4917000000003.0.json").write_text("{")
    before = {name: each[0] for name, each in footprint(alice).items()}
    with pytest.raises(StoreDamaged, match="4917000000003"):
        prune_device(f"baileys:{alice}", policy=EVERYTHING)
    assert {name: each[0] for name, each in footprint(alice).items()} == before


# -- spellings -----------------------------------------------------------------------------------


def respelled(document: bytes, encoding: str) -> EncodedRecord | None:
    record = EncodedRecord(encoding=go_json.ENCODING, data=document)
    return spellings.respell(KEY, spellings.to_model(KEY, record), encoding, GO_CREDS, Losses())


def in_memory(value: Any, numbers: Iterator[int] = iter(range(10**9))) -> str:  # noqa: B008
    url = f"memory:spelled-{next(numbers)}"
    with create_device(url, GO_CREDS) as device:
        device.set({"session": {"1.0": value}})
    return url


@given(session_documents(), st.sampled_from([go_json.ENCODING, signal_proto.ENCODING]))
def test_records_in_other_spellings_stay_in_them(document: Any, encoding: str) -> None:
    """whatsmeow or pyaileys would find a record that they cannot read, or one that lost more than
    its skipped keys and closed sessions."""
    value = respelled(dumped(document), encoding)
    assert value is not None
    url = in_memory(value)
    done = prune_device(url, policy=EVERYTHING)
    after = held(url)["session"]["1.0"]
    assert after.encoding == encoding
    if done.left:
        assert after == value
        return
    before, pruned = spellings.to_model(KEY, value), spellings.to_model(KEY, after)
    current, stays = before.open_session, pruned.open_session
    assert list(pruned.sessions) == [current.index_info.base_key]
    keys = sum(len(each.derived_keys) for each in current.chains.values())
    assert items(done).get("skipped message keys", 0) == keys
    assert sum(len(each.derived_keys) for each in stays.chains.values()) == 0
    bare = current.replace(
        chains={key: each.replace(derived_keys={}) for key, each in current.chains.items()}
    )
    if not any("messageKeys" in str(dict(each.extra)) for each in current.chains.values()):
        assert stays == bare


@pytest.mark.parametrize(
    ("data", "encoding"),
    [(None, "go-json"), (b"damaged", "go-json"), (b"\xff\xff", "signal-protobuf"), (b"?", "other")],
)
def test_what_cannot_be_written_back_is_left_and_told(data: bytes | None, encoding: str) -> None:
    """A record of somebody else's would be written anew with other bytes, or damaged further."""
    if data is None:  # Go writes no spaces: as somebody else spelled it
        golden = json.loads((GOLDEN / "whatsmeow" / "go-records.json").read_bytes())
        document = golden["established"]["session"]
        document = json.loads(document) if isinstance(document, str) else document
        data = json.dumps(document, indent=1).encode()
    url = in_memory(EncodedRecord(encoding=encoding, data=data))
    done = prune_device(url, policy=EVERYTHING)
    assert done.pruned == ()
    assert [(each.family, each.records) for each in done.left] == [("session", 1)]
    assert held(url)["session"]["1.0"].data == data


# -- the command ---------------------------------------------------------------------------------


def run(*arguments: object) -> Any:
    return CliRunner().invoke(APP, [str(each) for each in arguments])


def test_the_command_tells_and_does(alice: Path) -> None:
    """The report would not say what goes, or the dry run write."""
    dry = run(f"baileys:{alice}", "--dry-run", "--closed-sessions", "0", "--tctoken-days", "off")
    assert dry.exit_code == 0
    assert dry.stdout.splitlines()[0].split() == ["would", "go", "count", "records", "size"]
    assert "closed sessions" in dry.stdout
    assert "tctokens" not in dry.stdout
    assert "dry run: nothing was written" in dry.stdout
    done = run(f"baileys:{alice}", "--closed-sessions", "0", "--tctoken-days", "off", "--json")
    document = json.loads(done.stdout)
    assert [each["kind"] for each in document["pruned"]] == ["closed sessions"]
    assert document["size"] == document["pruned"][0]["size"] > 0
    again = run(f"baileys:{alice}", "--closed-sessions", "0", "--tctoken-days", "off")
    assert again.stdout == "nothing to prune\n"


def test_the_command_names_what_was_left(alice: Path) -> None:
    """Nobody would know of what was left, and why."""
    with open_device(f"baileys:{alice}") as device:
        device.set({"tctoken": {"7@lid": TcToken(token=b"t")}})
    assert "left: 1 tctoken record: they do not say" in run(f"baileys:{alice}").stdout


@pytest.mark.parametrize("text", ["811", "many", "-1", ""])
def test_the_command_refuses_what_is_no_policy(alice: Path, text: str) -> None:
    """A slip would prune by another policy than was meant."""
    done = run(f"baileys:{alice}", f"--pre-keys={text}", "--json")
    assert done.exit_code == 2
    error = json.loads(done.stderr)["error"]
    assert error["place"] == "--pre-keys"
    assert "'off'" in error["what"]


def test_the_command_shows_no_secret(alice: Path) -> None:
    """A key would stand in a terminal or a log."""
    done = run(f"baileys:{alice}", "--closed-sessions", "0", "--message-keys", "0", "--json")
    creds = json.loads(ALICE.joinpath("creds.json").read_bytes())
    assert creds["advSecretKey"] not in done.stdout
    assert "998877665544332" not in done.stdout
