"""Which addresses the files of a Baileys 6 folder stand for: the small file in which we note it.

The file is JSON: ``format`` (``ratchetkeep-addresses``), ``version`` (1), ``ids`` (by family, those
of the records whose file names do not tell them) and ``phones`` (users that are phone numbers; it
only keeps them from being taken for unknown). What Baileys 6 writes later is not in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from ratchetkeep.errors import DecodeError, InvalidValue, StoreDamaged, UnsupportedVersion
from ratchetkeep.formats._json import parse
from ratchetkeep.model import Key, check_key

from ._signal_ids import ADDRESSED, PHONE, Users, address_of
from .layouts import Baileys6Layout

NAME = ".ratchetkeep.addresses"
FORMAT, VERSION = "ratchetkeep-addresses", 1
_REMEDY = "Without the file, ids are read off the file names: LIDs that nothing tells lose theirs"


class AddressBook:
    """What the file says.

    :ivar named: records by the file names that do not tell them.
    :ivar phones: users that are phone numbers.
    """

    def __init__(self) -> None:
        self.named: dict[str, Key] = {}
        self.phones: set[str] = set()

    def note(self, key: Key, layout: Baileys6Layout) -> bool:
        """Note the record, if it has an address; True if that is news."""
        address = address_of(key)
        if address is None:
            return False
        name = layout.file_name(key)
        wanted = key if address.agent or layout.key_of(name) != key else None
        is_news = self.named.get(name) != wanted
        if wanted is not None:
            self.named[name] = wanted
        else:
            self.named.pop(name, None)
        if address.agent == PHONE and address.user not in self.phones:
            self.phones.add(address.user)
            is_news = True
        return is_news

    def __bool__(self) -> bool:
        return bool(self.named or self.phones)

    def users(self) -> Users:
        """The users that it knows."""
        users = Users()
        for key in self.named.values():
            users.add_address(address_of(key))
        users.phones |= self.phones
        return users

    def ids(self) -> dict[str, list[str]]:
        """The ids of the records, by family."""
        return {
            family: sorted(key.id for key in self.named.values() if key.family == family)
            for family in ADDRESSED
        }

    def written(self) -> bytes:
        """The bytes of the file."""
        said = {"ids": self.ids(), "phones": sorted(self.phones)}
        return json.dumps({"format": FORMAT, "version": VERSION, **said}).encode() + b"\n"


def read_book(raw: bytes, place: str) -> AddressBook:
    """What a file says.

    :raises StoreDamaged: naming ``place``, if it is damaged.
    :raises UnsupportedVersion: if a newer version wrote it.
    """
    try:
        said = parse(raw)
    except DecodeError:
        said = None
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise StoreDamaged(place, "is no list of addresses", _REMEDY)
    version = said.get("version")
    if type(version) is int and version > VERSION:
        what = f"is a list of addresses of version {version}, this is {VERSION}"
        raise UnsupportedVersion(place, what)
    book, layout = AddressBook(), Baileys6Layout()
    try:
        for key in _keys(said["ids"]):
            # The first one owns the file, should two have one name.
            book.named.setdefault(layout.file_name(key), key)
        book.phones = set(_texts(said["phones"]))
    except (KeyError, TypeError, InvalidValue):
        raise StoreDamaged(place, "is a damaged list of addresses", _REMEDY) from None
    return book


def _keys(ids: object) -> Iterator[Key]:
    if not isinstance(ids, dict):
        raise TypeError
    for family in ADDRESSED:
        yield from (check_key(family, id) for id in _texts(ids.get(family, [])))


def _texts(found: object) -> list[str]:
    if not isinstance(found, list) or not all(type(each) is str for each in found):
        raise TypeError
    return found
