"""How a folder names its files: record <-> file name, for each kind of folder.

Both libraries escape a name by ``/`` -> ``__`` and ``:`` -> ``-``, which cannot be undone in
general. The grammar of the ids that clients make undoes it (Baileys); BaileysEx keeps ids in its
manifest, as terms or as JSON.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from itertools import filterfalse
from typing import Any, NamedTuple, Protocol

from ratchetkeep.errors import (
    DecodeError,
    InvalidValue,
    NameCollision,
    StoreDamaged,
    UnsupportedVersion,
)
from ratchetkeep.formats import Format, baileys, baileys6, baileysex, baileysex_json, etf, pyaileys
from ratchetkeep.model import CREDENTIALS, FAMILIES, Key, check_key

from . import _json_manifest
from ._signal_ids import LID, address_of, with_agent

# ``sender-key-memory`` before ``sender-key``: the longer prefix is the family.
_BY_LENGTH = sorted(FAMILIES, key=len, reverse=True)
MAX_NAME_BYTES = 255


class Manifest(NamedTuple):
    """How a library spells its list of ids.

    :ivar read: the ids by family; raises DecodeError if it is damaged or another backend's, and
        UnsupportedVersion.
    :ivar write: its bytes, as the library writes it.
    :ivar texts: the texts that stand whole in a damaged one.
    """

    read: Callable[[bytes], dict[str, list[str]]]
    write: Callable[[Mapping[str, Iterable[str]]], bytes]
    texts: Callable[[bytes], Iterator[str]]

    def listed_in(self, raw: bytes, place: str) -> dict[str, list[str]]:
        """The ids that a manifest lists, by family, of the families that we know.

        :raises StoreDamaged: naming ``place``, if it is damaged or lists what no record is called.
        :raises UnsupportedVersion: as :attr:`read`.
        """
        try:
            ids = self.read(raw)
        except DecodeError as error:
            raise StoreDamaged(place, error.what) from None
        except UnsupportedVersion as error:
            raise UnsupportedVersion(place, error.what) from None
        known = {family: ids[family] for family in ids if family in FAMILIES}
        try:
            for family in known:
                for id in filterfalse(_PLAIN_IDS[family], known[family]):
                    check_key(family, id)
        except InvalidValue as error:
            raise StoreDamaged(place, f"lists {error.place}, but {error.what}") from None
        return known

    def of(self, keys: Iterable[Key]) -> bytes:
        """The manifest that lists ``keys``; the credentials are never listed."""
        ids: dict[str, list[str]] = {}
        for family, id in keys:
            if family != CREDENTIALS.family:
                ids.setdefault(family, []).append(id)
        return self.write(ids)


class Layout(Protocol):
    """The file names of one kind of folder.

    :ivar kind: as in a URL.
    :ivar suffix: of record files.
    :ivar manifest: name of the file that lists the ids, or "".
    :ivar listing: how that file spells them, or None.
    :ivar is_told_by_manifest: without it, the files could be another library's.
    """

    kind: str
    suffix: str
    manifest: str
    listing: Manifest | None
    is_told_by_manifest: bool
    format: Format

    def file_name(self, key: Key) -> str:
        """The name of a record's file.

        :raises InvalidValue: if no file system could hold it.
        :raises NameCollision: if it would be read back as another id.
        """

    def key_of(self, name: str) -> Key | None:
        """The record that a file name stands for by itself, or None for other files."""

    def records(self, names: Iterable[str]) -> set[str]:
        """The names that stand for a record and are spelled as its own is; a name that is spelled
        otherwise is some other file's."""

    def doubtful(self, family: str, ids: Iterable[str], names: Container[str]) -> list[str]:
        """The ids that have no file in ``names``, or one that may stand for another id by itself;
        in their order."""

    def leftovers(self, names: Iterable[str]) -> list[str]:
        """The names of temporary files of the library: one left over can make a later save fail."""


def _escape(text: str) -> str:
    return text.replace("/", "__").replace(":", "-")


def _file_name(key: Key, suffix: str) -> str:
    if key == CREDENTIALS:
        return "creds" + suffix
    name = _escape(f"{key.family}-{key.id}") + suffix
    if len(name.encode()) > MAX_NAME_BYTES:
        raise InvalidValue(str(key)[:80], f"its file name would have over {MAX_NAME_BYTES} bytes")
    return name


def _split(name: str, suffix: str) -> tuple[str, str] | None:
    stem = name.removesuffix(suffix)
    if stem == name:
        return None
    family = next((f for f in _BY_LENGTH if stem.startswith(f + "-")), None)
    try:
        return check_key(family, stem[len(family) + 1 :]) if family else None
    except InvalidValue:
        return None  # no id of that family: some other file


_SENDER = re.compile(r"(?s)(.+)--([^-]+)--(\d+)")

# What nearly every id and every name of a device looks like. Opening a folder has no time to take
# each name apart, so one of these patterns settles them; whatever else there is, is taken apart.
# Printable ASCII without "/" and ":", and so short that the name fits.
_PLAIN = r"[!-.0-9;-~]{1,200}"
_PLAIN_IDS = {
    **dict.fromkeys(FAMILIES, re.compile(_PLAIN).fullmatch),
    "pre-key": re.compile(r"[0-9]{1,200}").fullmatch,
    # Not "memory-": that file would be another family's.
    "sender-key": re.compile(
        r"(?!memory-)[0-9A-Za-z@.-]{1,150}::[0-9]{1,20}(?:_[0-9]{1,9})?::[0-9]{1,9}"
    ).fullmatch,
}
_TEMPORARY = ".tmp-"


def _plain_name(suffix: str) -> re.Pattern[str]:
    """Matches names of records, spelled as their own; its groups are the family and the id as it
    is in the name."""
    # The first family that fits is it, as in _split: hence no way back out of the group.
    families = "|".join(map(re.escape, _BY_LENGTH))
    end = re.escape(suffix)
    return re.compile(rf"(?!pre-key-(?![0-9]+{end}\Z))(?>({families})-)({_PLAIN}){end}")


_FAMILY = {family: family for family in FAMILIES}


class _Names(ABC):
    """What both kinds of folder do alike."""

    suffix: str
    manifest = ""
    listing: Manifest | None = None
    is_told_by_manifest = False
    # What only names of temporary files hold, or "".
    temporary = ""

    def __init__(self) -> None:
        self._plain = _plain_name(self.suffix).fullmatch

    @abstractmethod
    def file_name(self, key: Key) -> str:
        """As :meth:`Layout.file_name`."""

    @abstractmethod
    def _restore(self, family: str, escaped: str) -> str:
        """The id that an escaped one with "--" or "__" in it stands for."""

    def key_of(self, name: str) -> Key | None:
        plain = self._plain(name)
        if plain is None and name == "creds" + self.suffix:
            return CREDENTIALS
        parts = plain.groups() if plain else _split(name, self.suffix)
        if not parts or (self.temporary and self.temporary in name):
            return None
        family, escaped = parts
        if "--" in escaped or "__" in escaped:
            escaped = self._restore(family, escaped)
        # One text for each family, however many keys there are.
        return Key(_FAMILY[family], escaped)

    def records(self, names: Iterable[str]) -> set[str]:
        plain = self._plain
        found, others = set(), []
        for name in names:
            if plain(name) and _TEMPORARY not in name:
                found.add(name)
            else:
                others.append(name)
        found.update(filter(self._is_record, others))
        return found

    def _is_record(self, name: str) -> bool:
        key = self.key_of(name)
        try:
            return key is not None and self.file_name(key) == name
        except InvalidValue:
            return False

    def leftovers(self, names: Iterable[str]) -> list[str]:
        if not self.temporary:
            return []
        mark = self.suffix + self.temporary
        return [name for name in names if name.rpartition(mark)[2].isdecimal() and mark in name]

    def doubtful(self, family: str, ids: Iterable[str], names: Container[str]) -> list[str]:
        plain, prefix, suffix = _PLAIN_IDS[family], family + "-", self.suffix
        return [
            id
            for id in ids
            if not plain(id)
            or "__" in id
            or _TEMPORARY in id
            or f"{prefix}{id.replace('::', '--')}{suffix}" not in names
        ]


class BaileysLayout(_Names):
    """Baileys' multi-file folder. An id that no client makes, and that would come back as another
    one, is refused."""

    kind = "baileys"
    suffix = ".json"
    format: Format = baileys

    def file_name(self, key: Key) -> str:
        name = _file_name(key, self.suffix)
        if self.key_of(name) != key:
            raise NameCollision(str(key), f"would share the file {name!r} with another id")
        return name

    def _restore(self, family: str, escaped: str) -> str:
        if family == "sender-key" and (match := _SENDER.fullmatch(escaped)):
            return "::".join(match.groups())
        if family == "app-state-sync-key":
            # Standard base64 has "/" and no "_".
            return escaped.replace("__", "/")
        return escaped


_BAILEYS = BaileysLayout()


class Baileys6Layout(BaileysLayout):
    """Baileys 6's folder. It knows an address by user and device alone, so that LIDs have no mark
    in its file names.

    :param lids: users that are known to be LIDs; a file of any other one is taken for that of a
        phone number.
    """

    kind = "baileys6"
    format: Format = baileys6

    def __init__(self, lids: Container[str] = frozenset()) -> None:
        super().__init__()
        self.lids = lids

    def file_name(self, key: Key) -> str:
        name = _BAILEYS.file_name(with_agent(key, 0))
        if self.key_of(name) is None:
            raise NameCollision(str(key), f"would have the file {name!r}, which is no record's")
        return name

    def key_of(self, name: str) -> Key | None:
        key = super().key_of(name)
        address = key and address_of(key)
        if key is None or address is None:
            return key
        if address.agent:
            return None  # Baileys 7's spelling, which 6 never finds
        return with_agent(key, LID) if address.user in self.lids else key

    def records(self, names: Iterable[str]) -> set[str]:
        found = super().records(names)
        return {name for name in found if "_1" not in name or self._is_record(name)}

    def doubtful(self, family: str, ids: Iterable[str], names: Container[str]) -> list[str]:
        return list(ids)


class PyaileysLayout(BaileysLayout):
    """pyaileys' multi-file folder: it names its files as Baileys does."""

    kind = "pyaileys"
    format: Format = pyaileys


class _BaileysEx(_Names):
    """What BaileysEx's two backends do alike. The manifest knows every id; without it, names are
    undone as that library does it."""

    temporary = _TEMPORARY

    def file_name(self, key: Key) -> str:
        name = _file_name(key, self.suffix)
        if _TEMPORARY in name:
            raise NameCollision(str(key), "would have the name of a temporary file of BaileysEx")
        # sender-key "memory-": no id of sender-key-memory is empty.
        if key.family in FAMILIES and self.key_of(name) is None:
            raise NameCollision(str(key), f"would have the file {name!r}, which is no record's")
        return name

    def _restore(self, family: str, escaped: str) -> str:
        restored = escaped.replace("__", "/")
        if family == "sender-key" and (match := _SENDER.fullmatch(restored)):
            return "::".join(match.groups())
        if family == "tctoken" and escaped == "__index":
            return escaped
        return restored


_BACKEND, _VERSION = b"native_file_persistence", 1


def read_manifest(raw: bytes) -> dict[str, list[str]]:
    """The ids by family in BaileysEx's manifest.

    :raises DecodeError: if it is damaged or another backend's.
    :raises UnsupportedVersion: for a version other than 1, as BaileysEx does.
    """
    term = etf.decode(raw)
    if not isinstance(term, etf.Map) or term.get(b"backend") != _BACKEND:
        raise DecodeError("", "is not the manifest of BaileysEx's native backend")
    if term.get(b"version") != _VERSION:
        raise UnsupportedVersion("", "the manifest's version is not 1")
    index = term.get(b"key_index")
    if not isinstance(index, etf.Map):
        raise DecodeError("", "the manifest's key_index is not a map")
    return {_text(family): [_text(id) for id in _list(ids)] for family, ids in index.items()}


def write_manifest(ids: Mapping[str, Iterable[str]]) -> bytes:
    """BaileysEx's manifest of ``ids`` by family, as it writes it."""
    index: tuple[tuple[Any, Any], ...] = tuple(
        (family.encode(), [id.encode() for id in sorted(ids[family], key=str.encode)])
        for family in sorted(ids)
    )
    pairs: tuple[tuple[Any, Any], ...] = (
        (b"backend", _BACKEND),
        (b"key_index", etf.Map(index)),
        (b"version", _VERSION),
    )
    return etf.encode(etf.Map(pairs))


def _text(term: Any) -> str:
    try:
        if type(term) is bytes:
            return term.decode()
    except UnicodeDecodeError:
        pass
    raise DecodeError("", "a name in the manifest is not text")


def _list(term: Any) -> list[Any]:
    if type(term) is not list:
        raise DecodeError("", "the manifest's ids are not a list")
    return term


def _texts_of_terms(raw: bytes) -> Iterator[str]:
    """The texts that stand whole in a damaged term: tag 109, length, bytes."""
    at = -1
    while (at := raw.find(b"m", at + 1)) >= 0:
        size = int.from_bytes(raw[at + 1 : at + 5], "big")
        text = raw[at + 5 : at + 5 + size]
        if 0 < size <= 255 and len(text) == size and text.isascii():
            yield text.decode()


class BaileysExLayout(_BaileysEx):
    """BaileysEx's native folder."""

    kind = "baileysex"
    suffix = ".etf"
    manifest = ".baileys_ex_native_file_persistence.etf"
    listing: Manifest | None = Manifest(read_manifest, write_manifest, _texts_of_terms)
    format: Format = baileysex


class BaileysExJsonLayout(_BaileysEx):
    """The folder of BaileysEx's compat JSON. Its files are called as Baileys' are."""

    kind = "baileysex-json"
    suffix = ".json"
    manifest = _json_manifest.NAME
    listing: Manifest | None = Manifest(
        _json_manifest.read_json_manifest,
        _json_manifest.write_json_manifest,
        _json_manifest.texts_of_json,
    )
    is_told_by_manifest = True
    format: Format = baileysex_json


LAYOUTS: dict[str, Layout] = {
    "baileys": _BAILEYS,
    "baileys6": Baileys6Layout(),
    "baileysex": BaileysExLayout(),
    "baileysex-json": BaileysExJsonLayout(),
    "pyaileys": PyaileysLayout(),
}
