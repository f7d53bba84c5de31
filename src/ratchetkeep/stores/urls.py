"""Which store a URL or a bare path names."""

from __future__ import annotations

import os
from typing import NamedTuple
from urllib.parse import parse_qs, quote

from ratchetkeep.errors import InvalidValue, NoDevice, StoreUnreadable, UnknownStore

from .base import DEFAULT_DEVICE, Store

KINDS = ("sqlite", "baileys", "baileysex", "memory")
HELP = (
    "Name the kind of store: sqlite:PATH (one file, the default; also a bare PATH.db), "
    "baileys:DIR, baileysex:DIR or memory:NAME"
)
SQLITE_SUFFIXES = (".db", ".sqlite", ".sqlite3")

_MANIFEST = ".baileys_ex_native_file_persistence.etf"
_COMPAT_MANIFEST = ".baileys_ex_file_persistence.json"


class Target(NamedTuple):
    """A store and a device in it."""

    kind: str
    path: str
    device: str = DEFAULT_DEVICE


def parse(url: str | os.PathLike[str]) -> Target:
    """The store that ``url`` names; a bare path is looked at.

    :raises UnknownStore: if it names none, saying what was found.
    :raises NoDevice: for a bare path with nothing there.
    """
    text = os.fsdecode(url)
    if not _is_text(text) or "\0" in text:
        shown = text.encode("utf-8", "replace").decode()
        raise UnknownStore(_shown(shown), "is not UTF-8 text", "Rename it, or use another path")
    kind, mark, rest = text.partition(":")
    if not mark or "/" in kind or os.sep in kind:
        return Target(_detect(text), text)
    if kind not in KINDS:
        if os.path.lexists(text):
            return Target(_detect(text), text)
        raise UnknownStore(_shown(text), f"{kind!r} is no kind of store we know", HELP)
    path, device = _query(text, rest) if kind == "sqlite" else (rest, DEFAULT_DEVICE)
    path = path[2:] if path.startswith("//") else path
    # A shell leaves ~ alone behind a colon.
    path = os.path.expanduser(path) if path.startswith("~/") else path
    if kind == "sqlite" and path == ":memory:":
        raise UnknownStore(text, "is no file", "For tests use memory:NAME")
    if not path and kind != "memory":
        raise UnknownStore(text, "names no path", HELP)
    return Target(kind, path, device)


def shown(target: Target) -> str:
    """The URL of a target, for errors."""
    device = "" if target.device == DEFAULT_DEVICE else f"?device={quote(target.device)}"
    return f"{target.kind}:{target.path}{device}"


def open_target(target: Target) -> Store:
    """The store of ``target``; nothing is opened yet."""
    # Imported only when asked for: a folder user pays nothing for SQLite.
    if target.kind == "sqlite":
        from .sqlite import SqliteStore

        return SqliteStore(target.path)
    if target.kind == "memory":
        from .memory import MemoryStore

        return MemoryStore(target.path)
    from .directory import DirectoryStore

    return DirectoryStore(target.kind, target.path)


def check_name(name: str, place: str) -> str:
    """The name of a device.

    :raises InvalidValue: unless it is 1 to 255 characters of text without NUL.
    """
    if type(name) is str and 0 < len(name) <= 255 and "\0" not in name and _is_text(name):
        return name
    raise InvalidValue(place, "a device's name must be 1 to 255 characters of text without NUL")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(text: str) -> str:
    """A URL for an error, without what may be a password."""
    scheme, mark, rest = text.partition("://")
    return f"{scheme}://***@{rest.rpartition('@')[2]}" if mark and "@" in rest else text


def _query(url: str, rest: str) -> tuple[str, str]:
    path, mark, query = rest.partition("?")
    if not mark:
        return rest, DEFAULT_DEVICE
    try:
        wanted = parse_qs(query, keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        wanted = {"": []}
    names = wanted.pop("device", [DEFAULT_DEVICE])
    if wanted or len(names) != 1:
        raise UnknownStore(url, "only ?device=NAME may follow the path", HELP)
    try:
        return path, check_name(names[0], url)
    except InvalidValue as error:
        raise UnknownStore(url, error.what, HELP) from None


def _detect(path: str) -> str:
    try:
        if os.path.isdir(path):
            return _detect_folder(path, set(os.listdir(path)))
        if not os.path.lexists(path):
            if path.endswith(SQLITE_SUFFIXES):
                return "sqlite"
            hint = (
                "?device= needs sqlite: before the path" if "?device=" in path else "Check the path"
            )
            raise NoDevice(path, "nothing is there", f"{hint}. {HELP}")
    except OSError as error:
        raise StoreUnreadable(path, f"cannot be read: {error.strerror}") from None
    from ._sqlite_file import look

    found = look(path)
    if found == "ours":
        return "sqlite"
    raise UnknownStore(path, f"is {found}", HELP)


def _detect_folder(path: str, names: set[str]) -> str:
    if _COMPAT_MANIFEST in names:
        from .directory import COMPAT

        raise UnknownStore(path, *COMPAT)
    if _MANIFEST in names or any(name.endswith(".etf") for name in names):
        return "baileysex"
    if "creds.json" in names or any(name.startswith("pre-key-") for name in names):
        return "baileys"
    if ".ratchetkeep.journal" in names:
        what = "is a folder whose first commit was never finished"
        raise UnknownStore(path, what, "Say which kind it is: baileys:DIR or baileysex:DIR")
    if not names:
        raise NoDevice(path, "is an empty folder", HELP)
    raise UnknownStore(path, f"is a folder without credentials ({len(names)} other files)", HELP)
