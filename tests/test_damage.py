"""The damage matrix: each kind of damage in each store, and what becomes of it.

=========  ====================================================================================
whole      every value is as it was; at most a note (info)
warned     every value is as it was, and verifying tells of what is odd
record     the device opens; what is damaged raises an error of ours that names it, when it is read
           and when it is verified; everything else is as it was
told       a value is gone or another one, and verifying tells of it
refused    the device does not open: an error of ours that names the place; nothing was changed
older      all is as it was before the last commits: what is left of them cannot be told from a
           commit that was never finished, and so never acknowledged
unseen     the format has nothing that could show it. Such cells say so, so that nobody relies on it
=========  ====================================================================================

Opening is always tried with ``create=True``: in no cell may new credentials come up.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import pytest

from _helpers import ALICE, BOB, list_in, listed_in, manifest_in, private_copy, small_baileys
from ratchetkeep import (
    InvalidValue,
    KeyPair,
    RatchetkeepError,
    StoreDamaged,
    UnknownStore,
    UnsupportedVersion,
    copy_device,
    open_device,
    open_store,
    verify_device,
)
from ratchetkeep.device import open_in
from ratchetkeep.formats import baileys, etf, native
from ratchetkeep.model import CREDENTIALS, FAMILIES, Key
from ratchetkeep.stores import journal, urls
from ratchetkeep.stores.directory import DirectoryStore
from ratchetkeep.stores.layouts import LAYOUTS
from ratchetkeep.stores.memory import MemoryStore

SEED = 20250721
KINDS = ["sqlite", "baileys", "baileysex", "baileysex-json"]
JOURNAL = ".ratchetkeep.journal"

SESSION = Key("session", "998877665544332_1.7")  # its identity-key is there
OTHER_SESSION = Key("session", "4917000000003.0")  # without an identity-key
PRE_KEYS = Key("pre-key", "1"), Key("pre-key", "2")
SENDER = Key("sender-key", "120363025246125486@g.us::998877665544332_1::7")
EXTRA = ["session-4917000000003.0.json", "pre-key-2.json"]
BOBS_SESSION = BOB / "session-112233445566778_1.12.json"

Values = dict[Key, Any]


class Place:
    """A device in a folder of its own, that damage can be done to."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.path = folder / ("d.db" if kind == "sqlite" else "d")
        self.url = f"{kind}:{self.path}"
        self.suffix = LAYOUTS[kind].suffix if kind in LAYOUTS else ""

    def file(self, key: Key) -> Path:
        """The file of a record; in SQLite all share one."""
        return self.path / LAYOUTS[self.kind].file_name(key) if self.suffix else self.path

    def log(self) -> Path:
        """What holds the commits that are not in their place yet."""
        return self.path / JOURNAL if self.suffix else Path(f"{self.path}-wal")

    def lock(self, name: str) -> Path:
        """The lock (``lock``) or the note beside it (``owner``)."""
        return self.path / f".ratchetkeep.{name}" if self.suffix else Path(f"{self.path}.{name}")

    def execute(self, text: str, *values: Any) -> list[Any]:
        """SQL, as another program would run it."""
        connection = apsw.Connection(str(self.path))
        try:
            return connection.execute(text, values).fetchall()
        finally:
            connection.close()


def values_of(url: str) -> Values:
    """Everything that a device holds."""
    with open_device(url, read_only=True) as device:
        found: Values = {CREDENTIALS: device.credentials}
        for family in FAMILIES:
            found |= {
                Key(family, id): value
                for id, value in device.get(family, device.ids(family)).items()
            }
    return found


class Golden(NamedTuple):
    """A sound device, and one that was killed after two commits, with what they hold."""

    sound: Path
    crashed: Path
    values: Values
    states: list[Values]


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Golden]:
    """Made once; each case damages a copy."""
    base = tmp_path_factory.mktemp("golden")
    source = small_baileys(base / "source")
    for name in EXTRA:
        shutil.copy(ALICE / name, source / name)
        (source / name).chmod(0o600)
    made = {}
    for kind in KINDS:
        place = Place(kind, base / kind)
        place.folder.mkdir()
        copy_device(f"baileys:{source}", place.url)
        crashed = Place(kind, base / f"{kind}-crashed")
        shutil.copytree(place.folder, crashed.folder)
        states = _crash(crashed)
        made[kind] = Golden(place.folder, crashed.folder, values_of(place.url), states)
    return made


def _crash(place: Place) -> list[Values]:
    """Leave the place as a killed owner does, after two commits; the values after each."""
    states = [values_of(place.url)]
    store = urls.open_target(urls.parse(place.url))
    if place.suffix:
        store = DirectoryStore(place.kind, str(place.path), background=False)
    aside = place.folder.with_name("aside")
    with open_in(store, "default", create=False, read_only=False) as device:
        device.set({"device-list": {"1": ["0"]}, "pre-key": {"1": None, "3": KeyPair.new()}})
        states.append(_now(states[-1], device, Key("device-list", "1"), Key("pre-key", "3")))
        del states[-1][PRE_KEYS[0]]
        device.set({"device-list": {"1": ["0", "7"]}})
        states.append(_now(states[-1], device, Key("device-list", "1")))
        shutil.copytree(place.folder, aside)
    store.close()
    shutil.rmtree(place.folder)
    for left in aside.rglob("*"):
        if left.name.endswith((".lock", ".owner", "-shm")):
            left.unlink()
    aside.rename(place.folder)
    return states


def _now(before: Values, device: Any, *keys: Key) -> Values:
    return before | {key: device.get(key.family, [key.id])[key.id] for key in keys}


def copied(golden: Golden, kind: str, tmp_path: Path, *, crashed: bool = False) -> Place:
    """A copy of a golden device; times are as they were, or a journal would look foreign."""
    shutil.copytree(golden.crashed if crashed else golden.sound, tmp_path / "x")
    return Place(kind, tmp_path / "x")


# What becomes of a place.


def outcome(place: Place, *states: Values) -> str:
    """One word of the table above; any error that is not ours comes through."""
    states = states[::-1]  # the newest first
    findings = verify_findings(place.url)
    told = [finding for finding in findings if finding.severity != "info"]
    errors = [finding for finding in findings if finding.severity == "error"]
    identities = {values[CREDENTIALS].signed_identity_key for values in states}
    try:
        with open_device(place.url, create=True) as device:
            is_known = device.credentials.signed_identity_key in identities
            assert is_known or told, "new credentials"
            found, damaged = _read_all(device, states[0])
    except (StoreDamaged, UnsupportedVersion, UnknownStore) as error:
        assert error.place and error.what
        assert errors or isinstance(error, UnknownStore) or _is_of_lock(error), error
        return "refused"
    if damaged:
        assert errors, "a damaged record is not told"
        sound = {key: value for key, value in states[0].items() if key not in damaged}
        if place.kind == "sqlite":  # whose damaged pages may hide rows: only verify tells of them
            sound = {key: value for key, value in sound.items() if key in found}
        assert {key: found.get(key) for key in sound} == sound
        return "record"
    if found == states[0]:
        return "warned" if told else "whole"
    if found in states[1:]:
        return "older"
    return "told" if told else "unseen"


def _is_of_lock(error: RatchetkeepError) -> bool:
    return "cannot be locked" in error.what


def verify_findings(url: str) -> list[Any]:
    try:
        return list(verify_device(url))
    except UnknownStore:
        return []


def _read_all(device: Any, expected: Values) -> tuple[Values, set[Key]]:
    found: Values = {CREDENTIALS: device.credentials}
    keys = set(expected) - {CREDENTIALS}
    for family in FAMILIES:
        keys |= {Key(family, id) for id in device.ids(family)}
    damaged = set()
    for key in keys:
        try:
            got = device.get(key.family, [key.id])
        except (StoreDamaged, UnsupportedVersion) as error:
            assert error.place and error.what
            damaged.add(key)
            continue
        if got:
            found[key] = got[key.id]
    return found, damaged


# Damage, as functions of a place.

Damage = Callable[[Place], object]


def cut(key: Key, share: float) -> Damage:
    def damage(place: Place) -> None:
        path = place.file(key)
        os.truncate(path, int(path.stat().st_size * share))

    return damage


def flip(key: Key) -> Damage:
    """A bit of a length or of a name, which every format sees."""

    def damage(place: Place) -> None:
        path = place.file(key)
        raw = bytearray(path.read_bytes())
        raw[1] ^= 1
        path.write_bytes(raw)

    return damage


def gone(key: Key) -> Damage:
    def damage(place: Place) -> None:
        if place.suffix or key == CREDENTIALS:
            place.file(key).unlink()
        else:
            place.execute("DELETE FROM records WHERE family = ? AND id = ?", *key)

    return damage


def swapped(one: Key, other: Key) -> Damage:
    def damage(place: Place) -> None:
        if not place.suffix:
            get = "SELECT data FROM records WHERE family = ? AND id = ?"
            put = "UPDATE records SET data = ? WHERE family = ? AND id = ?"
            first, second = place.execute(get, *one)[0][0], place.execute(get, *other)[0][0]
            place.execute(put, first, *other)
            place.execute(put, second, *one)
            return
        first, second = place.file(one).read_bytes(), place.file(other).read_bytes()
        place.file(one).write_bytes(second)
        place.file(other).write_bytes(first)

    return damage


def from_another_device(key: Key, source: Path) -> Damage:
    """A sound record that a copy of another device would put there."""

    def damage(place: Place) -> None:
        value = baileys.decode(key, source.read_bytes())
        creds = baileys.decode(CREDENTIALS, (BOB / "creds.json").read_bytes())
        if place.suffix:
            data = LAYOUTS[place.kind].format.encode(key, value, creds).data
            assert data is not None
            place.file(key).write_bytes(data)
        else:
            put = "UPDATE records SET data = ? WHERE family = ? AND id = ?"
            place.execute(put, native.encode(key, value).data, *key)

    return damage


def replaced(key: Key, what: str) -> Damage:
    def damage(place: Place) -> None:
        path = place.file(key)
        away = place.folder / "away"
        if what == "a link inside":
            away = path.with_name("away")
        path.rename(away)
        put_there(path, what, away)

    return damage


def put_there(path: Path, what: str, away: Path) -> None:
    if what.startswith("a link"):
        path.symlink_to(away if what != "a link to nothing" else "nowhere")
    elif what == "a folder":
        path.mkdir()
    elif what == "a pipe":
        os.mkfifo(path)
    elif what == "a sparse terabyte":
        path.write_bytes(b"")
        os.truncate(path, 1 << 40)
    elif what == "deep nesting":
        path.write_bytes(b"[" * 500_000 if path.suffix == ".json" else b"\x83" + b"h\1" * 500_000)
    else:
        path.write_bytes(what.encode())
    if not path.is_symlink() and path.is_file():
        path.chmod(0o600)


def row(text: str, *values: Any) -> Damage:
    return lambda place: place.execute(text, *values)


def sealed_row(family: str, id: str) -> Damage:
    """A row whose checksum is right, of a family that we do not know."""

    def damage(place: Place) -> None:
        data = native.encode(Key(family, id), ("0",)).data
        text = "INSERT INTO records SELECT device, ?, ?, ? FROM records LIMIT 1"
        place.execute(text, family, id, data)

    return damage


def open_to_all(place: Place) -> None:
    for path in [place.path, *(place.path.iterdir() if place.suffix else [])]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def twice(name: Callable[[Path], str]) -> Damage:
    """A second file for one record, under another spelling and with another value."""

    def damage(place: Place) -> None:
        path = place.file(SENDER)
        other = path.with_name("sender-key-" + name(path))
        shutil.copy(place.file(Key("sender-key-memory", "status@broadcast")), other)

    return damage


def _colons(path: Path) -> str:
    return path.name.removeprefix("sender-key-").replace("--", "::")


def case_variant(place: Place) -> None:
    path = place.file(SESSION)
    shutil.copy(path, path.with_name(path.name.upper()))


def manifest(change: Callable[[dict[str, list[str]]], None]) -> Damage:
    def damage(place: Place) -> None:
        ids = listed_in(place.path)
        change(ids)
        list_in(place.path, ids)

    return damage


def manifest_bytes(change: Callable[[bytes], bytes]) -> Damage:
    def damage(place: Place) -> None:
        path = manifest_in(place.path)[0]
        path.write_bytes(change(path.read_bytes()))

    return damage


def _of_version_2(raw: bytes) -> bytes:
    return raw.replace(b"versiona\1", b"versiona\2").replace(b'"version":1', b'"version":2')


def of_lock(name: str, what: str) -> Damage:
    return lambda place: put_there(place.lock(name), what, place.path)


def left_over(name: str, what: str = "x") -> Damage:
    return lambda place: put_there(place.path / name, what, place.path)


def left_over_of_elixir(place: Place) -> None:
    put_there(place.path / f"creds{place.suffix}.tmp-7", "x", place.path)


def of_log(change: Callable[[bytes], bytes]) -> Damage:
    """Other bytes in the log of a crash, at the same time: nobody else wrote them."""

    def damage(place: Place) -> None:
        path = place.log()
        times = path.stat()
        path.write_bytes(change(path.read_bytes()))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    return damage


def flipped(at: float) -> Callable[[bytes], bytes]:
    """One bit, at a share of the length."""

    def change(raw: bytes) -> bytes:
        spoilt = bytearray(raw)
        spoilt[int((len(raw) - 1) * at)] ^= 4
        return bytes(spoilt)

    return change


def frame_flipped(number: int) -> Callable[[bytes], bytes]:
    """One bit of the payload of a commit in the journal."""

    def change(raw: bytes) -> bytes:
        generation, at = raw[4:20], journal.HEADER
        for _ in range(number):
            at = raw.find(generation, at + 1)
        spoilt = bytearray(raw)
        spoilt[at + 60] ^= 1
        return bytes(spoilt)

    return change


def log_of_another(place: Place) -> None:
    """The log that another device's crash left: here, one whose commit is of a session."""
    other = Place(place.kind, place.folder / "other")
    other.folder.mkdir()
    copy_device(f"baileys:{BOB}", other.url)
    store = urls.open_target(urls.parse(other.url))
    if place.suffix:
        store = DirectoryStore(place.kind, str(other.path), background=False)
    with open_in(store, "default", create=False, read_only=False) as device:
        session = device.get("session", ["112233445566778_1.12"])["112233445566778_1.12"]
        device.set({"session": {SESSION.id: session}})
        raw = other.log().read_bytes()
    store.close()
    shutil.rmtree(other.folder)
    place.log().write_bytes(raw)
    place.log().chmod(0o600)


def another_generation(raw: bytes) -> bytes:
    """A journal that was begun anew: its old frames lie behind a newer header."""
    generation = bytes(16)
    return journal._header(generation) + raw[journal.HEADER :]


def newer_journal(raw: bytes) -> bytes:
    return raw[:3] + b"\xff" + raw[4:]


def log_of(data: bytes) -> Damage:
    def damage(place: Place) -> None:
        place.log().write_bytes(data)
        place.log().chmod(0o600)

    return damage


def log_is_a_folder(place: Place) -> None:
    place.log().unlink()
    place.log().mkdir()


def written_by_another(place: Place) -> None:
    """Another program went on with the folder after the crash."""
    path = place.file(Key("device-list", "1"))
    path.write_bytes(etf.encode([b"3"]) if place.kind == "baileysex" else b'["3"]')
    path.chmod(0o600)
    later = place.log().stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later, later))


# The matrix. A cell is missing where the store has no such thing.

Row = tuple[Damage, dict[str, str]]


def cells(*outcomes: str) -> dict[str, str]:
    """In the order of the stores: sqlite, baileys, BaileysEx's two."""
    outcomes = (*outcomes, outcomes[-1])
    return {kind: word for kind, word in zip(KINDS, outcomes, strict=True) if word}


CREDS = CREDENTIALS
MATRIX: dict[str, Row] = {
    # ------------------------------------------------------------  sqlite     baileys    baileysex
    "nothing": (lambda place: None, cells("whole", "whole", "whole")),
    # Credentials; in SQLite the whole file.
    "creds cut to half": (cut(CREDS, 0.5), cells("refused", "refused", "refused")),
    "creds cut to a tenth": (cut(CREDS, 0.1), cells("refused", "refused", "refused")),
    "creds cut to nothing": (cut(CREDS, 0), cells("refused", "refused", "refused")),
    "creds flipped": (flip(CREDS), cells("refused", "refused", "refused")),
    "creds gone": (gone(CREDS), cells("", "refused", "refused")),
    "creds row gone": (
        row("DELETE FROM records WHERE family = 'credentials'"),
        cells("refused", "", ""),
    ),
    "creds of another device": (
        from_another_device(CREDS, BOB / "creds.json"),
        cells("told", "told", "told"),
    ),
    # Records.
    "session cut": (cut(SESSION, 0.5), cells("", "record", "record")),
    "session emptied": (cut(SESSION, 0), cells("", "record", "record")),
    "session flipped": (flip(SESSION), cells("", "record", "record")),
    "session row flipped": (
        row("UPDATE records SET data = zeroblob(length(data)) WHERE family = 'session'"),
        cells("record", "", ""),
    ),
    "session row cut": (
        row("UPDATE records SET data = substr(data, 1, 40) WHERE family = 'session'"),
        cells("record", "", ""),
    ),
    "row of a newer version": (
        row(
            "UPDATE records SET data = CAST(x'524b02' || substr(data, 4) AS BLOB) WHERE id = ?",
            SESSION.id,
        ),
        cells("record", "", ""),
    ),
    # Only BaileysEx lists what must be there. It also leaves this when stopped in a deletion.
    "session gone": (gone(SESSION), cells("unseen", "unseen", "told")),
    "pre-key gone": (gone(PRE_KEYS[0]), cells("unseen", "unseen", "told")),
    # Our checksum binds a record to its id. A file binds nothing: two pre-keys are sound pairs
    # wherever they stand, sessions are compared with the contact's identity-key, if there is one.
    "two sessions swapped": (swapped(SESSION, OTHER_SESSION), cells("record", "told", "told")),
    "two pre-keys swapped": (swapped(*PRE_KEYS), cells("record", "unseen", "unseen")),
    # A session of another device: BaileysEx repeats the own identity in it, Baileys does not.
    "session of another device": (
        from_another_device(SESSION, BOBS_SESSION),
        cells("told", "told", "told"),
    ),
    "the same, of a contact without identity-key": (
        from_another_device(OTHER_SESSION, BOBS_SESSION),
        cells("unseen", "unseen", "told"),
    ),
    # Two of one record.
    "another spelling of a name": (twice(_colons), cells("", "whole", "whole")),
    "another case of a name": (case_variant, cells("", "whole", "whole")),
    "row of another case": (
        row("INSERT INTO records SELECT device, upper(family), id, data FROM records LIMIT 1"),
        cells("warned", "", ""),
    ),
    "sound row of an unknown family": (sealed_row("novelty", "1"), cells("warned", "", "")),
    "row of no device": (
        row("INSERT INTO records SELECT 99, family, id, data FROM records"),
        cells("whole", "", ""),
    ),
    # Modes.
    "open to all": (open_to_all, cells("warned", "warned", "warned")),
    # Something else in place of a file. A database may lie behind a link; a record may not.
    **{
        f"{what} in place of the credentials": (replaced(CREDS, what), cells(one, two, two))
        for what, one, two in [
            ("a link inside", "", "refused"),
            ("a link outside", "whole", "refused"),
            ("a link to nothing", "refused", "refused"),
            ("a folder", "refused", "refused"),
            ("a pipe", "refused", "refused"),
            ("a sparse terabyte", "refused", "refused"),
            ("deep nesting", "refused", "refused"),
        ]
    },
    **{
        f"{what} in place of a session": (replaced(SESSION, what), cells("", "record", "record"))
        for what in [
            "a link inside",
            "a link outside",
            "a link to nothing",
            "a folder",
            "a pipe",
            "a sparse terabyte",
            "deep nesting",
        ]
    },
    # BaileysEx's manifest.
    "manifest gone": (lambda p: manifest_in(p.path)[0].unlink(), cells("", "", "warned")),
    "manifest cut": (manifest_bytes(lambda raw: raw[:-9]), cells("", "", "refused")),
    "manifest emptied": (manifest_bytes(lambda raw: b""), cells("", "", "refused")),
    "manifest of zeros": (manifest_bytes(lambda raw: bytes(len(raw))), cells("", "", "refused")),
    "manifest of version 2": (
        manifest_bytes(_of_version_2),
        cells("", "", "refused"),
    ),
    "manifest without a session": (
        manifest(lambda ids: ids["session"].remove(SESSION.id)),
        cells("", "", "whole"),
    ),
    "manifest lists what never was": (
        manifest(lambda ids: ids["session"].append("1.0")),
        cells("", "", "warned"),
    ),
    # Leftovers.
    "left over of BaileysEx": (left_over_of_elixir, cells("", "", "warned")),
    "left over of ours": (left_over(".ratchetkeep.tmp"), cells("", "whole", "whole")),
    # Lock and note: words and an OS lock, never data.
    "dead lock": (of_lock("lock", ""), cells("whole", "whole", "whole")),
    "note of garbage": (of_lock("owner", "{{{"), cells("whole", "whole", "whole")),
    "note is a link": (of_lock("owner", "a link"), cells("whole", "warned", "warned")),
    "note is a folder": (of_lock("owner", "a folder"), cells("whole", "whole", "whole")),
    "lock is a folder": (of_lock("lock", "a folder"), cells("refused", "refused", "refused")),
    # Another program's, another version's.
    "newer schema": (row("PRAGMA user_version = 99"), cells("refused", "", "")),
    "no schema": (row("PRAGMA user_version = 0"), cells("refused", "", "")),
    "another program's database": (row("PRAGMA application_id = 7"), cells("refused", "", "")),
    "no records table": (row("DROP TABLE records"), cells("refused", "", "")),
    "no devices table": (row("DROP TABLE devices"), cells("refused", "", "")),
    "log of garbage": (
        log_of(b"x" * 9000),
        cells("whole", "refused", "refused"),
    ),
    "log of zeros": (
        log_of(bytes(9000)),
        cells("whole", "whole", "whole"),
    ),
}

# The same after a crash: two commits wait in the log (SQLite's) or in the journal (ours).
AFTER_CRASH: dict[str, Row] = {
    # ------------------------------------------------------------  sqlite     baileys    baileysex
    "nothing": (lambda place: None, cells("whole", "whole", "whole")),
    "log header flipped": (of_log(flipped(0.0)), cells("older", "refused", "refused")),
    "log cut in the header": (of_log(lambda raw: raw[:20]), cells("older", "older", "older")),
    "log cut to half": (of_log(lambda raw: raw[: len(raw) // 2]), cells("older", "older", "older")),
    "log cut by a byte": (of_log(lambda raw: raw[:-1]), cells("older", "older", "older")),
    "log emptied": (of_log(lambda raw: b""), cells("older", "older", "older")),
    "log gone": (lambda place: place.log().unlink(), cells("older", "older", "older")),
    "last commit flipped": (of_log(frame_flipped(1)), cells("", "older", "older")),
    # One that a later commit follows was acknowledged.
    "first commit flipped": (of_log(frame_flipped(0)), cells("", "refused", "refused")),
    "log's last frame flipped": (of_log(flipped(1.0)), cells("older", "older", "older")),
    "log's first frame flipped": (of_log(flipped(0.05)), cells("older", "", "")),
    "another generation": (of_log(another_generation), cells("", "older", "older")),
    "newer journal": (of_log(newer_journal), cells("", "refused", "refused")),
    "another program went on": (written_by_another, cells("", "refused", "refused")),
    "database gone": (lambda place: place.path.unlink(), cells("refused", "", "")),
    "database cut": (cut(CREDS, 0.3), cells("refused", "", "")),
    "database emptied": (cut(CREDS, 0), cells("refused", "", "")),
    "database flipped": (flip(CREDS), cells("refused", "", "")),
    "open to all": (open_to_all, cells("warned", "warned", "warned")),
    "a sparse terabyte of log": (
        lambda place: os.truncate(place.log(), 1 << 40),
        cells("whole", "refused", "refused"),
    ),
    "log is a folder": (
        log_is_a_folder,
        cells("refused", "refused", "refused"),
    ),
}


def table(matrix: dict[str, Row]) -> list[Any]:
    return list(_table(matrix))


def _table(matrix: dict[str, Row]) -> Iterator[Any]:
    for name, (damage, row_of) in matrix.items():
        for kind, expected in row_of.items():
            yield pytest.param(kind, damage, expected, id=f"{kind}-{name}".replace(" ", "-"))


@pytest.mark.parametrize(("kind", "damage", "expected"), table(MATRIX))
def test_damage(
    golden: dict[str, Golden], tmp_path: Path, kind: str, damage: Damage, expected: str
) -> None:
    """Damage would be taken for absence, stop the program, or pass for the device's own data."""
    place = copied(golden[kind], kind, tmp_path)
    damage(place)
    assert outcome(place, golden[kind].values) == expected


@pytest.mark.parametrize(("kind", "damage", "expected"), table(AFTER_CRASH))
def test_damage_after_a_crash(
    golden: dict[str, Golden], tmp_path: Path, kind: str, damage: Damage, expected: str
) -> None:
    """A commit that was acknowledged would be dropped though it can be read, or half of it kept."""
    place = copied(golden[kind], kind, tmp_path, crashed=True)
    damage(place)
    assert outcome(place, *golden[kind].states) == expected


# No log names the device that it belongs to. What it brings along is seen only where it does not
# fit what is there: pages of another file, or a session whose contact has another identity-key.


@pytest.mark.parametrize("kind", KINDS)
def test_the_log_of_another_device(golden: dict[str, Golden], tmp_path: Path, kind: str) -> None:
    """Commits of another device would be carried out here, and nobody be told."""
    place = copied(golden[kind], kind, tmp_path)
    log_of_another(place)
    if kind == "sqlite":  # which pages fit depends on the sizes of both files
        assert [each for each in verify_findings(place.url) if each.severity == "error"] != []
    else:
        assert outcome(place, golden[kind].values) == "told"


# Sampled bits.


def _spots(size: int, count: int) -> list[int]:
    chance = random.Random(SEED + size)
    return sorted({*range(0, 100, 9), *(chance.randrange(size) for _ in range(count))})


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("crashed", [False, True], ids=["closed", "crashed"])
def test_any_bit_of_a_database(
    golden: dict[str, Golden], tmp_path: Path, crashed: bool, part: int
) -> None:
    """A rotten bit would make a record vanish, or come back as another value."""
    place = copied(golden["sqlite"], "sqlite", tmp_path, crashed=crashed)
    states = golden["sqlite"].states if crashed else [golden["sqlite"].values]
    files = {path: path.read_bytes() for path in place.folder.iterdir()}
    raw, seen = files[place.path], []
    for spot in _spots(len(raw), 60)[part::4]:
        for path in place.folder.iterdir():
            path.unlink()
        for path, data in files.items():
            path.write_bytes(data)
            path.chmod(0o600)
        spoilt = bytearray(raw)
        spoilt[spot] ^= 1 << spot % 8
        place.path.write_bytes(spoilt)
        seen.append((spot, outcome(place, *states)))
    wrong = [each for each in seen if each[1] not in ("whole", "warned", "record", "refused")]
    assert wrong == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", range(2))
def test_any_bit_of_a_log(golden: dict[str, Golden], tmp_path: Path, kind: str, part: int) -> None:
    """A rotten bit in the log would give half of a commit, or a mix of two."""
    place = copied(golden[kind], kind, tmp_path, crashed=True)
    raw = place.log().read_bytes()
    aside = tmp_path / "aside"
    shutil.copytree(place.folder, aside)
    seen = []
    for spot in _spots(len(raw), 24)[part::2]:
        shutil.rmtree(place.folder)
        shutil.copytree(aside, place.folder)
        of_log(lambda raw, spot=spot: raw[:spot] + bytes([raw[spot] ^ 2]) + raw[spot + 1 :])(place)  # type: ignore[misc]
        seen.append((spot, outcome(place, *golden[kind].states)))
    wrong = [each for each in seen if each[1] not in ("whole", "older", "refused")]
    assert wrong == []


@pytest.mark.parametrize("kind", KINDS[1:])
def test_every_cut_of_a_journal(golden: dict[str, Golden], tmp_path: Path, kind: str) -> None:
    """A journal cut at some length would be refused, and the device not open after a power cut."""
    place = copied(golden[kind], kind, tmp_path, crashed=True)
    raw = place.log().read_bytes()
    aside = tmp_path / "aside"
    shutil.copytree(place.folder, aside)
    for size in sorted(
        {*range(0, journal.HEADER + 2, 11), *range(journal.HEADER, len(raw), len(raw) // 12)}
    ):
        shutil.rmtree(place.folder)
        shutil.copytree(aside, place.folder)
        of_log(lambda raw, size=size: raw[:size])(place)  # type: ignore[misc]
        assert outcome(place, *golden[kind].states) == "older", size


# Memory: no disk, but the same bytes.


MEMORY: dict[str, Callable[[dict[Key, bytes]], object]] = {
    "session flipped": lambda held: held.update({SESSION: b"RK\1\0" + held[SESSION][4:-1] + b"x"}),
    "session cut": lambda held: held.update({SESSION: held[SESSION][:9]}),
    "session emptied": lambda held: held.update({SESSION: b""}),
    "two sessions swapped": lambda held: held.update(
        {SESSION: held[OTHER_SESSION], OTHER_SESSION: held[SESSION]}
    ),
    "two pre-keys swapped": lambda held: held.update(
        {PRE_KEYS[0]: held[PRE_KEYS[1]], PRE_KEYS[1]: held[PRE_KEYS[0]]}
    ),
    "newer version": lambda held: held.update({SESSION: b"RK\2" + held[SESSION][3:]}),
    "creds flipped": lambda held: held.update({CREDS: held[CREDS][:-1] + b"x"}),
    "creds gone": lambda held: held.pop(CREDS),
}


@pytest.mark.parametrize("damage", MEMORY)
def test_damage_in_memory(golden: dict[str, Golden], tmp_path: Path, damage: str) -> None:
    """The reference would allow what no other store may."""
    name = f"{tmp_path}/{damage}"
    url = f"memory:{name}"
    copy_device(f"baileys:{golden['baileys'].sound}/d", url)
    MEMORY[damage](MemoryStore(name)._place.devices["default"])
    place = Place("memory", tmp_path)
    place.url = url
    expected = "refused" if damage.startswith("creds") else "record"
    assert outcome(place, golden["sqlite"].values) == expected


# What needs no table.


@pytest.mark.parametrize("kind", KINDS[1:])
def test_an_id_whose_file_is_gone_is_told_until_it_is_mended(
    golden: dict[str, Golden], tmp_path: Path, kind: str
) -> None:
    """BaileysEx's own stop in a deletion would be damage, or a lost session pass unmentioned."""
    place = copied(golden[kind], kind, tmp_path)
    place.file(SESSION).unlink()
    with open_device(place.url) as device:
        assert device.get("session", [SESSION.id]) == {}
    told = [f for f in verify_device(place.url) if "whose file is not there" in f.what]
    assert len(told) == (kind != "baileys")


def test_other_devices_of_a_file_are_not_touched(tmp_path: Path) -> None:
    """One damaged device would take the thousand others of its file with it."""
    place = Place("sqlite", tmp_path)
    with open_store(place.url) as store:
        for name in ("one", "two"):
            store.create(name).close()
    place.execute(
        "UPDATE records SET data = x'00' WHERE device = (SELECT id FROM devices WHERE name = 'one')"
    )
    with pytest.raises(StoreDamaged):
        open_device(f"{place.url}?device=one", create=True)
    assert verify_device(f"{place.url}?device=two") == []
    with open_store(place.url) as store:
        assert store.devices() == ["one", "two"]


def test_a_folder_that_is_a_link_is_the_folder(golden: dict[str, Golden], tmp_path: Path) -> None:
    """A device behind a link would be called missing, and a new one be made."""
    place = copied(golden["baileys"], "baileys", tmp_path)
    (tmp_path / "link").symlink_to(place.path)
    assert values_of(f"baileys:{tmp_path}/link") == golden["baileys"].values


@pytest.mark.parametrize("name", ["creds.json", "session-998877665544332_1.7.json"])
def test_a_link_into_another_folder_is_not_written_through(
    golden: dict[str, Golden], tmp_path: Path, name: str
) -> None:
    """A commit here would change a file of another device."""
    other = private_copy(ALICE, tmp_path / "other")
    before = (other / name).read_bytes()
    place = copied(golden["baileys"], "baileys", tmp_path)
    (place.path / name).unlink()
    (place.path / name).symlink_to(other / name)
    with suppress(RatchetkeepError), open_device(place.url) as device:
        device.set(
            {"session": {SESSION.id: device.get("session", [OTHER_SESSION.id])[OTHER_SESSION.id]}}
        )
    assert (other / name).read_bytes() == before


def test_urls_with_damage_are_refused() -> None:
    """A mangled URL would open something else."""
    for url in ("sqlite:", "sqlite:a?device=", "sqlite:a?device=%00", "baileys:", "nothing:x"):
        with pytest.raises((UnknownStore, InvalidValue)):
            open_device(url)
