"""Which store a URL or a bare path names."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs, quote, unquote

from ratchetkeep.errors import InvalidValue, NoDevice, StoreUnreadable, UnknownStore

from .base import DEFAULT_DEVICE, Store

if TYPE_CHECKING:
    from ratchetkeep.sealing.keys import SealKey

KINDS = (
    "sqlite",
    "baileys",
    "baileys6",
    "baileysex",
    "baileysex-json",
    "pyaileys",
    "whatsmeow",
    "postgresql",
    "memory",
)
HELP = (
    "Name the kind of store: sqlite:PATH (one file, the default; also a bare PATH.db), "
    "postgresql://HOST/DATABASE, "
    "baileys:DIR, baileys6:DIR, baileysex:DIR, baileysex-json:DIR, pyaileys:DIR, "
    "whatsmeow:PATH (or whatsmeow:postgresql://...) or memory:NAME"
)
POSTGRES = ("postgresql://", "postgres://")
SEALABLE = ("sqlite", "postgresql")
# What names a device behind the path, in stores that hold many.
_QUERIES = {"sqlite": "device", "postgresql": "device", "whatsmeow": "jid"}
_SAFE = {"jid": "@:"}
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
    if text.startswith(POSTGRES):
        return Target("postgresql", *_database(text, text, "device"))
    if kind not in KINDS:
        if os.path.lexists(text):
            return Target(_detect(text), text)
        raise UnknownStore(_shown(text), f"{kind!r} is no kind of store we know", HELP)
    if kind == "whatsmeow" and rest.startswith(POSTGRES):
        return Target(kind, *_database(text, rest, "jid"))
    if kind == "postgresql":
        raise UnknownStore(_shown(text), "names no server", "Write postgresql://HOST/DATABASE")
    name = _QUERIES.get(kind)
    path, device = _query(text, rest, name) if name else (rest, DEFAULT_DEVICE)
    path = path[2:] if path.startswith("//") else path
    # A shell leaves ~ alone behind a colon.
    path = os.path.expanduser(path) if path.startswith("~/") else path
    if kind == "sqlite" and path == ":memory:":
        raise UnknownStore(text, "is no file", "For tests use memory:NAME")
    if not path and kind != "memory":
        raise UnknownStore(text, "names no path", HELP)
    return Target(kind, path, device)


def shown(target: Target) -> str:
    """The URL of a target, for errors; without a password."""
    kind = "" if target.kind == "postgresql" else f"{target.kind}:"
    return f"{kind}{_without_password(target.path)}{query_of(target)}"


def query_of(target: Target) -> str:
    """What names the device behind the URL of its store."""
    if target.device == DEFAULT_DEVICE:
        return ""
    name = _QUERIES.get(target.kind, "device")
    mark = "&" if "?" in _without_password(target.path) and "://" in target.path else "?"
    return f"{mark}{name}={quote(target.device, safe=_SAFE.get(name, ''))}"


def open_target(target: Target, key: str | bytes | SealKey | None = None) -> Store:
    """The store of ``target``; nothing is opened yet.

    :param key: what opens the store if it is sealed; see :func:`ratchetkeep.sealing.keys.as_key`.
        None asks the environment, once that turns out.
    :raises InvalidValue: for a key where nothing can be sealed.
    """
    if key is not None and target.kind not in SEALABLE:
        what = f"a {target.kind}: store cannot be sealed, so there is nothing that a key opens"
        raise InvalidValue(shown(target), what, "Use a sqlite: or postgresql: store, or give none")
    # Imported only when asked for: a folder user pays nothing for SQLite.
    if target.kind == "sqlite":
        from .sqlite import SqliteStore

        return SqliteStore(target.path, key=key)
    if target.kind == "whatsmeow":
        from .whatsmeow import WhatsmeowStore

        return WhatsmeowStore(target.path, f"whatsmeow:{_without_password(target.path)}")
    if target.kind == "postgresql":
        from .postgres import PostgresStore

        return PostgresStore(target.path, _without_password(target.path), key=key)
    if target.kind == "memory":
        from .memory import MemoryStore

        return MemoryStore(target.path)
    if target.kind == "baileys6":
        from .baileys6 import Baileys6Store

        return Baileys6Store(target.path)
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
    kind, mark, rest = text.partition(":")
    if mark and "://" in rest:
        return f"{kind}:{_without_password(rest)}"
    return _without_password(text)


def _without_password(path: str) -> str:
    """A path as it is; of a server's URL the user, the server and the database alone."""
    scheme, mark, rest = path.partition("://")
    if not mark:
        return path
    rest, _, query = rest.partition("?")
    login, _, place = rest.rpartition("@")
    user = login.partition(":")[0]
    # A password that is not spelled as URLs need it may hold the marks that end one: then nothing
    # tells what is part of it.
    others = [part for part in query.split("&") if not part.startswith(("jid=", "device="))]
    if any("@" in part for part in others) or not _PLACE.fullmatch(place):
        return f"{scheme}://***"
    named = f"{user}:***@" if login.count(":") else f"{user}@" if user else ""
    return f"{scheme}://{named}{place}"


# Hosts with their ports, or a socket's folder spelled as URLs need it; and the database.
_HOST = r"(?:[\w.%-]*|\[[\da-fA-F:.]+\])(?::\d{1,5})?"
_PLACE = re.compile(rf"{_HOST}(?:,{_HOST})*(?:/[^/:@]*)?")


def _database(url: str, rest: str, name: str) -> tuple[str, str]:
    """libpq's URL without what names the device, and the device. All else in it is the store's
    business."""
    base, mark, query = rest.partition("?")
    parts = query.split("&") if mark else []
    start = f"{name}="
    names = [unquote(part[len(start) :]) for part in parts if part.startswith(start)]
    others = "&".join(part for part in parts if not part.startswith(start))
    if len(names) > 1:
        raise UnknownStore(_shown(url), f"names more than one device ({name})", HELP)
    try:
        device = check_name(names[0], "") if names else DEFAULT_DEVICE
    except InvalidValue as error:
        raise UnknownStore(_shown(url), error.what, HELP) from None
    return base + ("?" + others if others else ""), device


def _query(url: str, rest: str, name: str) -> tuple[str, str]:
    path, mark, query = rest.partition("?")
    if not mark:
        return rest, DEFAULT_DEVICE
    try:
        wanted = parse_qs(query, keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        wanted = {"": []}
    names = wanted.pop(name, [DEFAULT_DEVICE])
    if wanted or len(names) != 1:
        raise UnknownStore(url, f"only ?{name}=NAME may follow the path", HELP)
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
    from ._sqlite_file import WHATSMEOW, look

    found = look(path)
    if found in ("ours", WHATSMEOW):
        return "sqlite" if found == "ours" else "whatsmeow"
    raise UnknownStore(path, f"is {found}", HELP)


def _detect_folder(path: str, names: set[str]) -> str:
    if {_MANIFEST, _COMPAT_MANIFEST} <= names:
        what = "holds the files of both of BaileysEx's backends"
        raise UnknownStore(path, what, "Say which you mean: baileysex:DIR or baileysex-json:DIR")
    if _COMPAT_MANIFEST in names:
        return "baileysex-json"
    if _MANIFEST in names or any(name.endswith(".etf") for name in names):
        return "baileysex"
    if "creds.json" in names:
        return _kind_of_creds(f"{path}/creds.json") or "baileys"
    if any(name.startswith("pre-key-") for name in names):
        return "baileys"
    if ".ratchetkeep.journal" in names:
        what = "is a folder whose first commit was never finished"
        raise UnknownStore(path, what, "Say which kind it is, such as baileys:DIR")
    if not names:
        raise NoDevice(path, "is an empty folder", HELP)
    raise UnknownStore(path, f"is a folder without credentials ({len(names)} other files)", HELP)


def _kind_of_creds(creds: str) -> str | None:
    from ._creds_kind import kind_of_creds
    from .disk import Disk

    with suppress(OSError):  # said when the folder is opened
        return kind_of_creds(Disk().read(creds))
    return None
