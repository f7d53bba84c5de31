"""What several test modules share: golden folders, and how a folder looks from outside."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ratchetkeep.formats import etf
from ratchetkeep.model import Key
from ratchetkeep.stores.layouts import LAYOUTS, Manifest

GOLDEN = Path(__file__).parent / "golden"
ALICE = GOLDEN / "baileys" / "alice"
BOB = GOLDEN / "baileys" / "bob"
IDS = GOLDEN / "baileys" / "ids.json"
PENDING = GOLDEN / "baileys" / "pending.json"
LEGACY = GOLDEN / "baileys" / "legacy-6.17.16"
OTP29 = GOLDEN / "baileysex" / "native-otp29"
OTP25 = GOLDEN / "baileysex" / "native-otp25"
COMPAT = GOLDEN / "baileysex" / "compat"
MANIFEST = ".baileys_ex_native_file_persistence.etf"
COMPAT_MANIFEST = ".baileys_ex_file_persistence.json"

FAMILY_FILES = {
    "credentials": "creds.json",
    "pre-key": "pre-key-1.json",
    "session": "session-998877665544332_1.7.json",
    "sender-key": "sender-key-120363025246125486@g.us--998877665544332_1--7.json",
    "sender-key-memory": "sender-key-memory-status@broadcast.json",
    "app-state-sync-key": "app-state-sync-key-AAAAAAsp.json",
    "app-state-sync-version": "app-state-sync-version-regular.json",
    "lid-mapping": "lid-mapping-15551230001.json",
    "device-list": "device-list-15551230001.json",
    "tctoken": "tctoken-998877665544332@lid.json",
    "identity-key": "identity-key-998877665544332_1.7.json",
}
"""One golden Baileys file of every family."""


def kind_of(path: Path) -> str:
    """The kind of folder that a golden file is of."""
    if path.suffix == ".etf":
        return "baileysex"
    return "baileysex-json" if path.parent == COMPAT else "baileys"


def key_of(path: Path) -> Key:
    """The record that a golden file holds, by its name."""
    key = LAYOUTS[kind_of(path)].key_of(path.name)
    assert key is not None, path.name
    return key


def manifest_in(folder: Path) -> tuple[Path, Manifest]:
    """The manifest of a folder of BaileysEx's, and how it is spelled."""
    for layout in LAYOUTS.values():
        if layout.listing and (folder / layout.manifest).exists():
            return folder / layout.manifest, layout.listing
    raise AssertionError("there is none")


def listed_in(folder: Path) -> dict[str, list[str]]:
    """The ids that the manifest of a folder lists, by family."""
    path, listing = manifest_in(folder)
    return listing.read(path.read_bytes())


def list_in(folder: Path, ids: dict[str, list[str]]) -> Path:
    """Write the manifest of a folder anew."""
    path, listing = manifest_in(folder)
    path.write_bytes(listing.write(ids))
    return path


def records(folder: Path) -> list[Path]:
    """The record files of a golden folder, without the manifest."""
    return sorted(path for path in folder.iterdir() if path.name[0] != ".")


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def footprint(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Names, bytes, modes and times of everything in a folder: equal means nothing was touched."""
    return {
        str(path.relative_to(folder)): (
            path.read_bytes() if path.is_file() else b"",
            path.lstat().st_mode,
            path.lstat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
    }


def private_copy(source: Path, target: Path) -> Path:
    """A copy of a golden folder as we would have written it: for its owner alone."""
    shutil.copytree(source, target)
    target.chmod(0o700)
    for path in target.iterdir():
        path.chmod(0o600)
    return target


def small_baileys(target: Path) -> Path:
    """A device with one golden record of every family: enough where a whole folder is slow."""
    target.mkdir(mode=0o700)
    for name in FAMILY_FILES.values():
        shutil.copy(ALICE / name, target / name)
        (target / name).chmod(0o600)
    edit_json(target / "creds.json", myAppStateKeyId="AAAAAAsp")
    mapped = "lid-mapping-998877665544332_reverse.json"
    shutil.copy(ALICE / mapped, target / mapped)
    (target / mapped).chmod(0o600)
    return target


def edit_json(path: Path, **members: Any) -> None:
    """Replace top-level members of a JSON file."""
    document = {**json.loads(path.read_bytes()), **members}
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    path.write_text(text, encoding="utf-8")


def atoms_of(term: Any) -> Iterator[str]:
    """Every atom that stands anywhere in a term."""
    if isinstance(term, etf.Atom):
        yield term.name
    elif isinstance(term, etf.Map):
        for pair in term.items():
            yield from atoms_of(pair)
    elif isinstance(term, etf.ImproperList):
        yield from atoms_of((*term.items, term.tail))
    elif isinstance(term, list | tuple):
        for each in term:
            yield from atoms_of(each)


def canonical(data: bytes) -> bytes:
    """ETF bytes in the one order that equal terms share."""
    return etf.canonical(etf.decode(data))


def dead_pid() -> int:
    """The id of a process that has ended."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child
