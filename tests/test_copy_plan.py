"""What a copy says before it writes: carried, converted, left out, lost, and what stays behind."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from _helpers import ALICE, BOB, bytes_of, small_baileys
from ratchetkeep import (
    Converted,
    CopySummary,
    Credentials,
    EncodedRecord,
    LeftBehind,
    NotHeld,
    NotHeldByTarget,
    copy_device,
    create_device,
    open_device,
)
from ratchetkeep.cli.app import app
from ratchetkeep.formats import Loss
from ratchetkeep.formats._shape import Losses
from ratchetkeep.model import CREDENTIALS, FAMILIES, Key

SKIPPED = "{n} skipped messages that have not arrived yet can no longer be read"


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def ways(summary: CopySummary) -> dict[str, tuple[int, str, str]]:
    return {each.family: (each.count, each.source, each.target) for each in summary.converted}


# Converted.


def test_a_copy_of_one_kind_converts_nothing(tmp_path: Path) -> None:
    """The user would be told of a conversion that there is none of."""
    for source, target in (
        (f"baileys:{ALICE}", f"baileys:{tmp_path}/a"),
        (f"baileys:{tmp_path}/a", f"sqlite:{tmp_path}/a.db"),
        (f"sqlite:{tmp_path}/a.db", f"memory:{tmp_path}"),
    ):
        summary = copy_device(source, target)
    assert summary.converted == ()
    again = copy_device(f"baileys:{ALICE}", f"baileys:{tmp_path}/b", dry_run=True)
    assert again.converted == ()
    shown = command("copy", "--dry-run", ALICE, f"baileys:{tmp_path}/b").stdout
    assert "converted  nothing: all of it goes as it is" in shown


def test_every_record_is_counted_once(tmp_path: Path) -> None:
    """The plan would speak of more or fewer records than are converted."""
    summary = copy_device(f"baileys:{BOB}", f"baileysex:{tmp_path}/ex", dry_run=True)
    assert ways(summary) == {
        **{family: (count, "baileys", "baileysex") for family, count in summary.records.items()},
        "credentials": (1, "baileys", "baileysex"),
    }
    shown = command("copy", "--dry-run", BOB, f"baileysex:{tmp_path}/ex").stdout
    assert "converted  all of it, from Baileys' JSON to BaileysEx's terms (ETF)" in shown
    assert "converted:" not in shown


def test_records_that_stay_as_they_are_are_not_listed(tmp_path: Path) -> None:
    """A user could not tell which sessions are touched, and which are carried byte for byte."""
    copy_device(f"baileys:{BOB}", f"sqlite:{tmp_path}/b.db", client="whatsmeow")
    with open_device(f"sqlite:{tmp_path}/b.db") as device:
        device.set({"lid-mapping": {"1": EncodedRecord(encoding="some-client", data=b"1")}})
    summary = copy_device(f"sqlite:{tmp_path}/b.db", f"sqlite:{tmp_path}/p.db", client="pyaileys")
    assert summary.converted == (
        Converted("sender-key", 6, "go-json", "signal-protobuf"),
        Converted("session", 1, "go-json", "signal-protobuf"),
    )
    shown = command(
        "copy", "--dry-run", "--for", "waeys", f"{tmp_path}/p.db", f"sqlite:{tmp_path}/w.db"
    ).stdout
    assert "converted  7 of 150, as listed" in shown
    assert "1 session record, from libsignal's protobuf to ratchetkeep's own form" in shown
    assert "6 sender-key records, from libsignal's protobuf" in shown
    assert "all else" not in shown


def test_a_whatsmeow_device_keeps_its_go_json(tmp_path: Path) -> None:
    """The plan would not show that sessions stay as they are, while all else is read off rows."""
    copy_device(f"baileys:{BOB}", f"whatsmeow:{tmp_path}/w.db")
    summary = copy_device(f"whatsmeow:{tmp_path}/w.db", f"sqlite:{tmp_path}/s.db")
    assert not {"session", "sender-key"} & ways(summary).keys()
    assert ways(summary)["pre-key"] == (119, "whatsmeow", "native")
    back = copy_device(f"sqlite:{tmp_path}/s.db", f"whatsmeow:{tmp_path}/v.db")
    assert not {"session", "sender-key"} & ways(back).keys()
    assert not [each for each in back.not_held if each.family in ("session", "sender-key")]


# Lost, and left out.


def test_amounts_are_added_up_over_all_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list would have a line for every record, and no total that anybody could weigh."""
    from ratchetkeep.formats import baileys

    encode = baileys.encode

    def lossy(key: Key, value: Any, credentials: Credentials | None = None) -> Any:
        losses = Losses()
        if key.family == "identity-key":
            losses.note("a[0]", SKIPPED, amount=3)
            losses.note("a[1]", SKIPPED, amount=4)
            losses.note("b", "all of it is gone", derived=True)
        made = encode(key, value, credentials)
        return made._replace(losses=made.losses + tuple(losses.found))

    monkeypatch.setattr(baileys, "encode", lossy)
    summary = copy_device(f"baileys:{ALICE}", f"baileys:{tmp_path}/a", dry_run=True)
    assert [(e.member, e.what, e.derived, e.count, e.amount) for e in summary.not_held] == [
        ("a[]", SKIPPED.format(n=147), False, 21, 147),
        ("b", "all of it is gone", True, 21, None),
    ]
    shown = command("copy", "--dry-run", ALICE, f"baileys:{tmp_path}/a").stdout
    assert "identity-key a[]: 147 skipped messages that have not arrived yet" in shown
    assert "in 21 records, such as identity-key" in shown


def test_a_loss_tells_its_amount() -> None:
    """An error about one record would show a placeholder in place of a number."""
    losses = Losses()
    losses.note("", SKIPPED, amount=7)
    losses.note("x", "no {n} here")
    assert [each.told for each in losses.found] == [SKIPPED.format(n=7), "no {n} here"]
    assert losses.found[0] == Loss("", SKIPPED, False, 7)


def test_whole_records_are_told_from_parts_of_them(tmp_path: Path) -> None:
    """A user would think that a session is gone, of which only skipped messages are; or keep one
    that is gone."""
    with open_device(f"sqlite:{tmp_path}/s.db", create=True) as device:
        odd = EncodedRecord(encoding="some-client", data=b"1")
        device.set({"session": {"1.0": odd}, "lid-mapping": {"a/b": "1"}})
    summary = copy_device(f"sqlite:{tmp_path}/s.db", f"baileys:{tmp_path}/t", dry_run=True)
    assert {each.family for each in summary.not_held if each.whole} == {"session", "lid-mapping"}
    copy_device(f"baileys:{ALICE}", f"sqlite:{tmp_path}/a.db", client="pyaileys")
    summary = copy_device(f"sqlite:{tmp_path}/a.db", f"baileys:{tmp_path}/a", dry_run=True)
    assert "session" in {each.family for each in summary.not_held}
    assert not any(each.whole for each in summary.not_held)
    assert (
        "(the whole record)"
        not in command("copy", "--dry-run", f"{tmp_path}/a.db", f"baileys:{tmp_path}/a").stdout
    )


def test_skipped_messages_are_counted(tmp_path: Path) -> None:
    """The user would not learn how many messages a move costs."""
    copy_device(f"baileys:{ALICE}", f"sqlite:{tmp_path}/a.db", client="pyaileys")
    with open_device(f"{tmp_path}/a.db", read_only=True) as device:
        from ratchetkeep.formats import spellings

        records = device.get("session", device.ids("session"))
        models = [spellings.to_model(Key("session", id), each) for id, each in records.items()]
    keys = sum(
        len(chain.derived_keys)
        for record in models
        for session in record.sessions.values()
        for chain in session.chains.values()
    )
    assert keys
    summary = copy_device(f"{tmp_path}/a.db", f"baileys:{tmp_path}/a", dry_run=True)
    (line,) = [each for each in summary.not_held if each.amount is not None]
    assert (line.family, line.derived, line.amount) == ("session", False, keys)
    assert str(keys) in line.what and "skipped messages" in line.what


def test_credentials_that_have_no_place_refuse_the_copy(tmp_path: Path) -> None:
    """A target without credentials would be made, over a device perhaps; and be called a copy."""
    create_device(f"sqlite:{tmp_path}/new.db", Credentials.new()).close()
    before = bytes_of(tmp_path)
    for dry_run in (True, False):
        with pytest.raises(NotHeld, match="cannot hold the device's credentials: ") as told:
            copy_device(f"sqlite:{tmp_path}/new.db", f"whatsmeow:{tmp_path}/w.db", dry_run=dry_run)
        assert str(tmp_path) in told.value.place
    assert command("copy", f"{tmp_path}/new.db", f"whatsmeow:{tmp_path}/w.db").exit_code == 7
    assert bytes_of(tmp_path) == before


# What stays behind.


def test_what_stays_behind_is_told(tmp_path: Path) -> None:
    """The user would learn only later that the contacts' names did not come along."""
    copy_device(f"baileys:{ALICE}", f"whatsmeow:{tmp_path}/w.db")
    assert copy_device(f"whatsmeow:{tmp_path}/w.db", f"memory:{tmp_path}").left_behind == ()
    connection = sqlite3.connect(tmp_path / "w.db")
    (jid,) = connection.execute("SELECT jid FROM whatsmeow_device").fetchone()
    connection.executemany(
        "INSERT INTO whatsmeow_contacts (our_jid, their_jid, full_name) VALUES (?, ?, ?)",
        [(jid, f"{number}@s.whatsapp.net", "\x1b[31mName") for number in range(3)],
    )
    connection.commit()
    connection.close()
    summary = copy_device(f"whatsmeow:{tmp_path}/w.db", f"sqlite:{tmp_path}/s.db")
    (left,) = summary.left_behind
    assert isinstance(left, LeftBehind)
    assert (left.table, left.rows) == ("whatsmeow_contacts", 3)
    arguments = ("copy", "--dry-run", f"whatsmeow:{tmp_path}/w.db", f"sqlite:{tmp_path}/x.db")
    shown = command(*arguments).stdout
    assert f"whatsmeow_contacts, 3 rows: {left.what}" in shown
    assert "Name" not in shown
    told = json.loads(command(*arguments, "--json").stdout)
    assert told["left_behind"] == [left._asdict()]


# The plan as a whole.


def test_a_dry_run_tells_what_the_copy_then_does(tmp_path: Path) -> None:
    """The plan would be of another copy than the one that is made."""
    small = small_baileys(tmp_path / "small")
    for target in ("whatsmeow:{}/w.db", "pyaileys:{}/p", "baileysex:{}/e", "sqlite:{}/s.db"):
        url = target.format(tmp_path)
        before = sorted(path.name for path in tmp_path.iterdir())
        planned = copy_device(f"baileys:{small}", url, dry_run=True)
        assert sorted(path.name for path in tmp_path.iterdir()) == before
        done = copy_device(f"baileys:{small}", url)
        for name in ("records", "converted", "not_held", "left_behind", "size"):
            assert getattr(planned, name) == getattr(done, name), (target, name)
        with open_device(url, read_only=True) as device:
            there = {family: len(device.ids(family)) for family in FAMILIES}
        assert {family: n for family, n in there.items() if n} == done.records
        assert CREDENTIALS.family not in done.records


def test_the_json_is_the_summary(tmp_path: Path) -> None:
    """A script could not see what a person is shown."""
    arguments = ("copy", "--json", "--dry-run", ALICE, f"baileysex:{tmp_path}/e")
    told = json.loads(command(*arguments).stdout)
    summary = copy_device(f"baileys:{ALICE}", f"baileysex:{tmp_path}/e", dry_run=True)
    assert [Converted(**each) for each in told["converted"]] == list(summary.converted)
    assert [NotHeldByTarget(**each) for each in told["not_held"]] == list(summary.not_held)
    for name in ("client", "retired", "dry_run", "records", "size", "total"):
        assert told[name] == getattr(summary, name)
