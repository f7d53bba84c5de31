"""Damage of every kind: it is never taken for absence, and no error but ours comes up.

How much of it can be seen depends on the format. Every cut-off file is refused: neither JSON nor
ETF is whole without its end. Neither has a checksum, so a changed byte may leave a well-formed file
with another value: a letter of a name, a digit of a time or of a counter, a byte of a chain key, of
a root key, of a token or of an app state MAC. No reader can tell these from what was meant, and
they go back as the very bytes that were found. What can be told is told: keys with a public half
(noise, identity, signed pre-key, pairing, pre-keys, ratchet keys, signing keys of one's own), the
signature of the signed pre-key, the keys that follow from a seed in BaileysEx's files, and members
that stand twice. Our own format has a checksum, and sees every changed bit (``test_native.py``).
"""

from __future__ import annotations

import base64
import errno
import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from _helpers import (
    ALICE,
    COMPAT,
    MANIFEST,
    OTP29,
    bytes_of,
    footprint,
    key_of,
    kind_of,
    manifest_in,
    private_copy,
    records,
    small_baileys,
)
from ratchetkeep import (
    DecodeError,
    NoDevice,
    RatchetkeepError,
    StoreDamaged,
    StoreUnreadable,
    UnsupportedVersion,
    open_device,
    verify_device,
)
from ratchetkeep._checker import Checker
from ratchetkeep.formats import baileys, baileysex, baileysex_json, etf
from ratchetkeep.model import CREDENTIALS, Credentials
from ratchetkeep.stores.disk import Disk

SEED = 20250721
FORMATS: dict[str, Any] = {each.name: each for each in (baileys, baileysex, baileysex_json)}
FILES = [
    *(p for p in records(ALICE) if not re.search(r"pre-key-\d{2}|\.(1\d|[3-9])\.json$", p.name)),
    *(p for p in records(OTP29) + records(COMPAT) if not re.search(r"pre-key-\d{2}", p.name)),
]
IDS = [f"{kind_of(path)}-{path.name}" for path in FILES]


def sample(size: int) -> list[int]:
    """Positions in a file: all, or both ends and some between."""
    if size <= 300:
        return list(range(size))
    between = random.Random(SEED + size).sample(range(40, size - 40), 40)
    return sorted({*range(40), *between, *range(size - 40, size)})


def flips(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """The file with one bit changed, at each position of the sample."""
    bits = random.Random(SEED)
    for position in sample(len(raw)):
        spoilt = bytearray(raw)
        spoilt[position] ^= 1 << bits.randrange(8)
        yield position, bytes(spoilt)


def decoded(path: Path, raw: bytes) -> Any:
    """The value of a file's bytes, or the error; errors that are not ours come through."""
    try:
        return FORMATS[kind_of(path)].decode(key_of(path), raw)
    except (DecodeError, UnsupportedVersion) as error:
        return error


def credentials_of(path: Path) -> Credentials:
    creds = path.parent / f"creds{path.suffix}"
    value = FORMATS[kind_of(path)].decode(CREDENTIALS, creds.read_bytes())
    assert isinstance(value, Credentials)
    return value


def plain(path: Path, raw: bytes) -> Any:
    """A file as plain JSON or as a term, with the JSON text inside a sender key taken apart."""
    if path.suffix == ".etf":
        return etf.decode(raw)
    document = json.loads(raw)
    if key_of(path).family == "sender-key" and kind_of(path) == "baileys":
        return json.loads(base64.b64decode(document["data"]))
    return document


def holds(one: Any, other: Any) -> bool:
    """True if all that ``other`` says stands in ``one``, which may say more in its objects: a
    member whose name was damaged is carried as an unknown one, and the known one is made up."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(name in one and holds(one[name], other[name]) for name in other)
    if isinstance(one, etf.Map) and isinstance(other, etf.Map):
        return all(key in one and holds(one.get(key), value) for key, value in other.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(holds, one, other))
    return type(one) is type(other) and bool(one == other)


def same_file(path: Path, raw: bytes, value: Any) -> bool:
    """True if the value goes back as what was found: nothing of it was changed in silence."""
    back = FORMATS[kind_of(path)].encode(key_of(path), value, credentials_of(path)).data
    return back is not None and (back == raw or holds(plain(path, back), plain(path, raw)))


def key_findings(path: Path, value: Any) -> list[str]:
    creds = value if key_of(path) == CREDENTIALS else credentials_of(path)
    found = Checker(creds, str).check(key_of(path), value)
    return [finding.what for finding in found if finding.severity == "error"]


# At the format's level: every file.


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_every_truncation_of_a_file_is_refused(path: Path) -> None:
    """The rest of a file that was being written at a power cut would be read as a record."""
    raw = path.read_bytes()
    read = [n for n in sample(len(raw)) if not isinstance(decoded(path, raw[:n]), DecodeError)]
    assert read == []


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_every_flipped_byte_is_refused_or_carried_as_it_is(path: Path) -> None:
    """A changed bit would change more than itself, or stop the program."""
    raw = path.read_bytes()
    value = decoded(path, raw)
    for position, spoilt in flips(raw):
        found = decoded(path, spoilt)
        harmless = (
            isinstance(found, RatchetkeepError)
            or found == value
            or same_file(path, spoilt, found)
            or bool(key_findings(path, found))
        )
        assert harmless, f"byte {position} of {path.name}"


def test_how_much_damage_is_seen() -> None:
    """The share of damage that is seen would sink, and nobody would notice."""
    seen: dict[str, list[bool]] = {kind: [] for kind in FORMATS}
    for path in FILES:
        raw = path.read_bytes()
        value = decoded(path, raw)
        for _, spoilt in flips(raw):
            found = decoded(path, spoilt)
            shown = isinstance(found, RatchetkeepError) or bool(key_findings(path, found))
            seen[kind_of(path)].append(shown or found == value)
    shares = {suffix: sum(each) / len(each) for suffix, each in seen.items()}
    assert shares["baileys"] > 0.7, shares
    assert shares["baileysex"] > 0.55, shares
    assert shares["baileysex-json"] > 0.7, shares


KEY_MEMBERS = {
    "creds.json": [
        '"noiseKey":{',
        '"pairingEphemeralKeyPair":{',
        '"signedIdentityKey":{',
        '"keyPair":{',
    ],
    "pre-key-1.json": ["{"],
}


def positions_of_keys(raw: bytes, name: str) -> list[int]:
    """Where the base64 text of key pairs and of the signature stands."""
    text = raw.decode("latin-1")
    found: list[int] = []
    for mark in KEY_MEMBERS[name]:
        at = text.index(mark)
        for match in list(re.compile(r'"data":"([^"]+)"').finditer(text, at))[:2]:
            found += range(*match.span(1))
    if name == "creds.json":
        signature = re.search(r'"signature":\{"type":"Buffer","data":"([^"]+)"', text)
        assert signature
        found += range(*signature.span(1))
    return found


@pytest.mark.parametrize("name", KEY_MEMBERS)
def test_a_changed_key_or_signature_is_reported(name: str) -> None:
    """A device with half of its identity changed would be called whole."""
    path, bits = ALICE / name, random.Random(SEED)
    raw = path.read_bytes()
    positions = positions_of_keys(raw, name)
    assert len(positions) == (8 * 44 + 88 if name == "creds.json" else 88)
    missed = []
    for position in positions:
        spoilt = bytearray(raw)
        spoilt[position] ^= 1 << bits.randrange(8)
        found = decoded(path, bytes(spoilt))
        if isinstance(found, RatchetkeepError) or key_findings(path, found):
            continue
        if clamps(raw, position):
            continue
        missed.append(position)
    assert missed == []


def clamps(raw: bytes, position: int) -> bool:
    """True in the first and last letters of a private key, where X25519 ignores some bits: such
    a key is the same key."""
    start = raw.rindex(b'"', 0, position) + 1
    member = raw[: raw.rindex(b'{"type"', 0, start)]
    return member.endswith(b'"private":') and (position - start < 2 or position - start > 40)


@pytest.mark.parametrize("members", ["noise_key", "signed_identity_key", "pairing_ephemeral_key"])
@pytest.mark.parametrize("half", ["public", "private"])
def test_a_changed_key_of_baileysex_is_reported(members: str, half: str) -> None:
    """A device with half of its identity changed would be called whole."""
    path = OTP29 / "creds.etf"
    raw = path.read_bytes()
    term: Any = etf.decode(raw)
    key = term.get(etf.Atom(members)).get(etf.Atom(half))
    start = raw.index(key)
    for offset in range(1, 31):
        spoilt = bytearray(raw)
        spoilt[start + offset] ^= 1 << offset % 8
        found = decoded(path, bytes(spoilt))
        assert isinstance(found, RatchetkeepError) or key_findings(path, found), offset


# At the folder's level: creds and manifest.


def refuses_to_mint(url: str, folder: Path, name: str) -> str:
    """Try to create a device over a damaged one: nothing may change. How it ended, in a word."""
    before = bytes_of(folder)
    try:
        with open_device(url, create=True):
            outcome = "opened"
    except (StoreDamaged, UnsupportedVersion) as error:
        assert name in error.place or "_file_persistence." in error.place, error.place
        outcome = "refused"
    # Nothing else may come up, and even an owner that opens writes nothing of its own accord.
    assert bytes_of(folder) == before
    return outcome


def folder_of(kind: str, folder: Path) -> str:
    """A golden device of that kind; the name of its credentials."""
    if kind == "baileys":
        small_baileys(folder)
    else:
        private_copy(OTP29 if kind == "baileysex" else COMPAT, folder)
    return "creds.etf" if kind == "baileysex" else "creds.json"


@pytest.mark.parametrize("kind", FORMATS)
def test_cut_credentials_are_never_replaced(tmp_path: Path, kind: str) -> None:
    """A new identity would be minted over the old one, and the device be lost."""
    folder = tmp_path / "d"
    name = folder_of(kind, folder)
    raw = (folder / name).read_bytes()
    for size in [*range(0, len(raw), len(raw) // 25), 1, 2, len(raw) - 1]:
        (folder / name).write_bytes(raw[:size])
        assert refuses_to_mint(f"{kind}:{folder}", folder, name) == "refused"
        assert [f for f in verify_device(f"{kind}:{folder}") if f.severity == "error"]


@pytest.mark.parametrize("kind", FORMATS)
def test_changed_credentials_are_never_replaced(tmp_path: Path, kind: str) -> None:
    """A new identity would be minted over the old one, and the device be lost."""
    folder = tmp_path / "d"
    name = folder_of(kind, folder)
    path = folder / name
    outcomes = []
    for _, spoilt in [*flips(path.read_bytes())][::4]:
        path.write_bytes(spoilt)
        outcomes.append(refuses_to_mint(f"{kind}:{folder}", folder, name))
        found = verify_device(f"{kind}:{folder}")
        if outcomes[-1] == "refused":
            assert [finding for finding in found if finding.severity == "error"]
    assert outcomes.count("refused") > len(outcomes) // 4


@pytest.mark.parametrize("kind", ["baileysex", "baileysex-json"])
def test_a_damaged_manifest_is_never_replaced(tmp_path: Path, kind: str) -> None:
    """Ids that only the manifest knows would be lost, and BaileysEx refuse every load."""
    folder = tmp_path / "d"
    folder_of(kind, folder)
    manifest, listing = manifest_in(folder)
    url, raw = f"{kind}:{folder}", manifest.read_bytes()
    ids = listing.read(raw)
    for size in [0, 1, 2, *range(3, len(raw), 97), len(raw) - 1]:
        manifest.write_bytes(raw[:size])
        assert refuses_to_mint(url, folder, manifest.name) == "refused"
        assert [f for f in verify_device(url) if f.severity == "error"]
    for position, spoilt in [*flips(raw)][::3]:
        manifest.write_bytes(spoilt)
        try:
            changed = listing.read(spoilt) != ids
        except (DecodeError, UnsupportedVersion):
            assert refuses_to_mint(url, folder, manifest.name) == "refused"
        else:
            if refuses_to_mint(url, folder, manifest.name) == "refused":
                assert changed, position  # an id that no record of that family can have
                continue
            # Another id, which has no file, or an unknown member: whoever reads that can tell.
            missing = [f for f in verify_device(url) if "whose file is not there" in f.what]
            assert bool(missing) == changed, position


# What may stand where credentials were.


def in_place_of(path: Path, what: str) -> None:
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "link":
        path.symlink_to(ALICE / "creds.json")
    elif what == "broken link":
        path.symlink_to("nowhere")
    elif what == "pipe":
        os.mkfifo(path)
    elif what != "missing":
        path.write_bytes(CONTENTS[what])


CONTENTS = {
    "empty": b"",
    "null": b"null",
    "braces": b"{}",
    "blank": b" \n",
    "zeros": bytes(4096),
    "garbage": random.Random(SEED).randbytes(5000),
    "BOM": b"\xef\xbb\xbf" + (ALICE / "creds.json").read_bytes(),
    "another record": (ALICE / "pre-key-1.json").read_bytes(),
    "many brackets": b"[" * 1_000_000,
}


@pytest.mark.parametrize("what", [*CONTENTS, "missing", "folder", "link", "broken link", "pipe"])
def test_whatever_stands_for_the_credentials_is_not_absence(tmp_path: Path, what: str) -> None:
    """A new identity would be minted over the old one, and the device be lost."""
    folder = small_baileys(tmp_path / "d")
    in_place_of(folder / "creds.json", what)
    names = sorted(path.name for path in folder.iterdir())
    for create in (False, True):
        with pytest.raises(StoreDamaged):
            open_device(f"baileys:{folder}", create=create)
    with pytest.raises(StoreDamaged):
        open_device(f"baileys:{folder}", read_only=True)
    assert [f for f in verify_device(f"baileys:{folder}") if f.severity == "error"]
    assert sorted(path.name for path in folder.iterdir()) == names
    if what in CONTENTS:
        assert (folder / "creds.json").read_bytes() == CONTENTS[what]


@pytest.mark.parametrize("what", [*CONTENTS, "folder", "link", "broken link", "pipe"])
@pytest.mark.parametrize("name", ["session-998877665544332_1.7", "pre-key-1"])
def test_a_damaged_record_is_not_absence(tmp_path: Path, what: str, name: str) -> None:
    """A session would be built anew, or a pre-key be said to be gone, over one that is damaged."""
    if (name, what) == ("pre-key-1", "another record"):
        what = "braces"
    folder = small_baileys(tmp_path / "d")
    in_place_of(folder / f"{name}.json", what)
    family, id = re.fullmatch(r"(session|pre-key)-(.*)", name).groups()  # type: ignore[union-attr]
    with open_device(f"baileys:{folder}") as device:
        for _ in range(2):
            with pytest.raises(StoreDamaged, match=re.escape(name)):
                device.get(family, [id])
        assert device.ids(family) == [id]
    assert [f for f in verify_device(f"baileys:{folder}") if f.severity == "error"]


@pytest.mark.parametrize("trace", ["pre-key-1.json", "session-1.0.json", "creds.etf", MANIFEST])
@pytest.mark.parametrize("kind", ["baileys", "baileysex"])
def test_any_trace_of_a_device_forbids_a_new_one(tmp_path: Path, kind: str, trace: str) -> None:
    """A new identity would be made where only the credentials of the old one got lost."""
    folder = tmp_path / "d"
    folder.mkdir()
    shutil.copy(
        OTP29 / trace if trace.endswith("etf") else ALICE / "pre-key-1.json", folder / trace
    )
    before = footprint(folder)
    if kind == "baileysex" and trace == "creds.etf":
        with open_device(f"{kind}:{folder}", create=True) as device:
            assert device.credentials.registration_id == 8339
        return
    with pytest.raises(StoreDamaged):
        open_device(f"{kind}:{folder}", create=True)
    assert footprint(folder) == before


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.EIO, errno.ENFILE])
@pytest.mark.parametrize("name", ["creds.json", "session-998877665544332_1.7.json"])
def test_what_the_system_will_not_read_is_not_absence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, name: str
) -> None:
    """No file descriptor left: and a new identity would be minted over the old one."""
    folder = small_baileys(tmp_path / "d")
    read = Disk.read

    def failing(self: Disk, path: str) -> bytes:
        if path.endswith(name):
            raise OSError(number, os.strerror(number))
        return read(self, path)

    before = bytes_of(folder)
    monkeypatch.setattr(Disk, "read", failing)
    for create in (True, False):
        with pytest.raises(StoreUnreadable) as caught:  # noqa: SIM117
            with open_device(f"baileys:{folder}", create=create) as device:
                device.get("session", ["998877665544332_1.7"])
        assert name in caught.value.place
        assert os.strerror(number) in caught.value.what
    assert any(f.severity == "error" for f in verify_device(f"baileys:{folder}"))
    monkeypatch.undo()
    assert bytes_of(folder) == before


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.EIO])
@pytest.mark.parametrize("verb", ["list", "is_folder"])
def test_a_folder_that_the_system_will_not_list_is_not_absence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, verb: str
) -> None:
    """A folder on a disk that is not answering would be taken for an empty place."""
    folder = small_baileys(tmp_path / "d")

    def failing(self: Disk, path: str) -> Any:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Disk, verb, failing)
        for create in (True, False):
            with pytest.raises(StoreUnreadable):
                open_device(f"baileys:{folder}", create=create)
    with open_device(f"baileys:{folder}") as device:
        assert device.credentials.registration_id == 172


@pytest.mark.parametrize("name", ["creds.json", "session-998877665544332_1.7.json"])
def test_a_huge_file_is_refused_unread(tmp_path: Path, name: str) -> None:
    """A file of terabytes would take the machine's memory with it."""
    folder = small_baileys(tmp_path / "d")
    with (folder / name).open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(StoreUnreadable):  # noqa: SIM117
        with open_device(f"baileys:{folder}", create=True) as device:
            device.get("session", ["998877665544332_1.7"])
    assert any(f.severity == "error" for f in verify_device(f"baileys:{folder}"))
    assert (folder / name).stat().st_size == 1 << 40


@pytest.mark.parametrize("name", ["pre-key-abc.json", "pre-key-٣.json", "pre-key--1.json"])
def test_a_file_whose_name_is_no_id_stops_nothing(tmp_path: Path, name: str) -> None:
    """One file with a strange name would make checking and copying fail with a stray error."""
    folder = small_baileys(tmp_path / "d")
    shutil.copy(folder / "pre-key-1.json", folder / name)
    assert any(name in finding.place for finding in verify_device(f"baileys:{folder}"))
    with open_device(f"baileys:{folder}") as device:
        assert device.ids("pre-key") == ["1"]


def test_file_names_that_are_not_utf8_stop_nothing(tmp_path: Path) -> None:
    """One file with a strange name would make the whole folder unusable."""
    folder = small_baileys(tmp_path / "d")
    strange = os.fsencode(folder) + b"/session-\xff.json"
    with open(strange, "wb") as file:
        file.write(b"{}")
    found = verify_device(f"baileys:{folder}")
    assert any(finding.severity != "info" or "session" in finding.place for finding in found)
    with open_device(f"baileys:{folder}") as device:
        assert device.credentials.registration_id == 172


def test_an_empty_place_is_absence(tmp_path: Path) -> None:
    """Everything would be called damaged, and no device could ever be made."""
    (tmp_path / "d").mkdir()
    for folder in (tmp_path / "d", tmp_path / "none"):
        with pytest.raises(NoDevice):
            open_device(f"baileys:{folder}")
        with open_device(f"baileys:{folder}", create=True) as device:
            made = device.credentials
        with open_device(f"baileys:{folder}", create=True) as device:
            assert device.credentials == made
