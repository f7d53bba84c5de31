"""The folder of Baileys 6: ``baileys6:DIR``.

It is Baileys 7's but for how sender keys are spelled and what files are called: version 6 knows an
address by user and device alone, so nothing in its file names says that a user is a LID. What we
write we note in a small file of ours (:mod:`._address_book`). Of what that version writes, LIDs are
those who are told to be by anything else in the folder; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from typing import Any

from ratchetkeep.errors import DecodeError, InvalidValue, StoreUnreadable, UnsupportedVersion
from ratchetkeep.formats import Encoded, Loss
from ratchetkeep.model import CREDENTIALS, Key

from ._address_book import NAME, AddressBook, read_book
from ._index import Change
from ._signal_ids import ADDRESSED, LID, PHONE, Users, address_of
from ._stage import FolderStage
from .base import Finding, Prepared, Stage, Store, counted
from .directory import DirectoryStore
from .disk import Disk
from .journal import Entry
from .layouts import LAYOUTS, Baileys6Layout

_SEVEN = LAYOUTS["baileys"]


class Baileys6Store(DirectoryStore):
    """One device in a folder of Baileys 6."""

    def __init__(self, path: str, disk: Disk | None = None, *, background: bool = True) -> None:
        self._lay_out(Users())
        self._book = AddressBook()
        # Of a copy to here: records that have a file with another one, which is carried.
        self._rivals: dict[Key, Key] = {}
        super().__init__("baileys6", path, disk, background=background)

    def _lay_out(self, users: Users) -> None:
        self._users = users
        self.layout = self._names = Baileys6Layout(users.lids)

    # -- finding what is there

    def _build_index(self, names: Iterable[str] | None = None) -> None:
        names = list(self.names() if names is None else names)
        raw = self._read_file(NAME)
        place = f"{self.shown}/{NAME}"
        self._book = AddressBook() if raw is None else read_book(raw, place)
        self._lay_out(self._users_in([*names, *self.overlay]))
        super()._build_index(names)
        # Baileys 6 removes files, and leaves their ids in the book: LIDs stay what they are.
        self.unlisted = []

    def _in_manifest(self) -> dict[str, list[str]]:
        return self._book.ids()

    def _users_in(self, names: Iterable[str]) -> Users:
        """What all files together say of users."""
        users, layout = self._book.users(), Baileys6Layout()
        for key in filter(None, map(layout.key_of, names)):
            if key == CREDENTIALS:
                self._with(key, users.add_credentials)
            elif key.family == "sender-key-memory":
                self._with(key, users.add_jids)
            elif key.family not in ADDRESSED:
                users.add_key(key)
        return users

    def _with(self, key: Key, take: Callable[[Any], None]) -> None:
        """Give the value of a record to ``take``; what cannot be read is told when it is read."""
        with suppress(DecodeError, UnsupportedVersion, StoreUnreadable):
            raw = self._read_file(self.layout.file_name(key))
            if raw is not None:
                take(self.format.decode(key, raw))

    # -- writing

    def foresee(self, source: Store, device: str) -> None:
        """Find the records that have one file here with another one."""
        owners: dict[str, Key] = {}
        self._rivals = {}
        found = (key for family in ADDRESSED for key in source.scan(device, family))
        for key in sorted(filter(_is_marked, found), key=_rank):
            with suppress(InvalidValue):
                owner = owners.setdefault(self.layout.file_name(key), key)
                if owner != key:
                    self._rivals[key] = owner
        for family in ADDRESSED if owners else ():
            for key in source.scan(device, family):
                with suppress(InvalidValue):
                    owner = key if _is_marked(key) else owners.get(self.layout.file_name(key), key)
                    if owner != key:
                        self._rivals[key] = owner

    def fits(self, key: Key, data: bytes) -> Encoded:
        """The record, unless another one of the source has its file; see :class:`Store`."""
        rival = self._rivals.get(key)
        return Encoded(data, ()) if rival is None else _instead(rival)

    def _files(self, batches: Iterable[Prepared]) -> tuple[list[Entry], Change]:
        files, change = super()._files(batches)
        is_new = False
        if files and change.keeps_no_record:  # another device, or none: what was noted was of it
            is_new, self._book = bool(self._book), AddressBook()
        for key, name in change.names.items():
            is_new |= name is not None and self._book.note(key, self._names)
        if is_new:
            files.append((NAME, self._book.written() if self._book else None))
        return files, change

    def stage(self, device: str, *, overwrite: bool) -> AbstractContextManager[Stage]:
        return _Stage(self, overwrite=overwrite)

    # -- checking

    def findings(self, device: str) -> Iterator[Finding]:
        yield from super().findings(device)
        sevens = sum(
            name not in self.index.files and _is_of_seven(name) for name in sorted(self.names())
        )
        if sevens:
            what = f"{counted(sevens, 'file')} named as Baileys 7 does it, which 6 never looks for"
            remedy = f"If Baileys 7 uses this folder, call it baileys:{self.shown}"
            yield Finding("warning", self.shown, what, remedy)
        unclear = [sum(map(self._is_unclear, self.index.records(each))) for each in ADDRESSED]
        if any(unclear):
            sessions, sender_keys = unclear
            what = (
                f"{counted(sessions, 'session')} and {counted(sender_keys, 'sender key')} may be of"
                " LIDs: Baileys 6 does not say, and nothing else here does"
            )
            remedy = (
                "They are taken for those of phone numbers. With a LID among them another library"
                " begins a new session; only messages that are on their way are not read"
            )
            yield Finding("info", self.shown, what, remedy)

    def _is_unclear(self, key: Key) -> bool:
        address = address_of(key)
        return address is not None and not (
            address.agent or self._users.are_told(address.user) or address.user in self._book.phones
        )


class _Stage(FolderStage):
    """As of any folder, with the book of addresses."""

    def _finish(self) -> None:
        book, layout = AddressBook(), Baileys6Layout()
        for key in self._index.records():
            book.note(key, layout)
        if book:
            self._disk.write(f"{self._folder}/{NAME}", book.written())
        super()._finish()


def _instead(rival: Key) -> Encoded:
    what = f"Baileys 6 has one file for it and another user's {rival.family}, which is carried"
    return Encoded(None, (Loss("", what, False),))


def _is_marked(key: Key) -> bool:
    address = address_of(key)
    return address is not None and address.agent != PHONE


def _rank(key: Key) -> tuple[bool, str]:
    """A LID's first: that is whom Baileys 6 meets under the name."""
    address = address_of(key)
    return address is None or address.agent != LID, key.id


def _is_of_seven(name: str) -> bool:
    key = _SEVEN.key_of(name)
    return key is not None and _is_marked(key)
