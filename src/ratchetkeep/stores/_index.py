"""Which records a folder holds, and under which file names.

An open folder keeps the name of each file and no more: a layout tells the record by the name, and
the name by the record. What else a manifest can list is kept beside: an id whose file reads back as
another id, and a file that several ids share.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence

from ratchetkeep.errors import InvalidValue, NameCollision
from ratchetkeep.model import CREDENTIALS, Key

from .layouts import Layout

Listed = Sequence[tuple[str, Sequence[str]]]
"""The ids of a manifest in its order: families, each with ids."""


class Index:
    """The records of a folder. Two of them share a file only if the folder came so; the first one
    that its manifest lists owns it then.

    Reading it while another thread enters a change needs that thread's lock, but for
    :meth:`records`, which gives one moment.

    :param files: names of record files, each spelled as its record's; the index keeps the set.
    :ivar files: the names of all record files.
    """

    def __init__(self, layout: Layout, files: set[str] | None = None) -> None:
        self.layout = layout
        self.files: set[str] = set() if files is None else files
        # Owners of the files whose names do not tell them, and who shares a file with its owner.
        self._owners: dict[str, Key] = {}
        self._sharers: dict[str, list[Key]] = {}
        self._entering = threading.Lock()

    def __len__(self) -> int:
        return len(self.files) + sum(map(len, self._sharers.values()))

    def name_of(self, key: Key) -> str | None:
        """The file of a record, or None if there is no such record."""
        try:
            name = self.layout.file_name(key)
        except InvalidValue:
            return None
        is_there = self.owner_of(name) == key or key in self._sharers.get(name, ())
        return name if is_there else None

    def owner_of(self, name: str) -> Key | None:
        """The record that a file belongs to, or None if there is no such file."""
        if name not in self.files:
            return None
        return self._owners.get(name) or self.layout.key_of(name)

    def is_shared(self, name: str) -> bool:
        """True for a file that several ids share."""
        return name in self._sharers

    def sharers(self) -> list[Key]:
        """Records whose file is owned by another one."""
        return [key for keys in self._sharers.values() for key in keys]

    def records(self, family: str | None = None) -> Iterator[Key]:
        """All records, or those of a family, as they are now; each key is made when its turn
        comes."""
        with self._entering:
            files = list(self.files)
            owners, sharers = dict(self._owners), self.sharers()
        return self._made(files, owners, sharers, family)

    def _made(
        self, files: list[str], owners: dict[str, Key], sharers: list[Key], family: str | None
    ) -> Iterator[Key]:
        start = "" if family is None else "creds." if family == CREDENTIALS.family else family + "-"
        for name in files:
            if name.startswith(start):
                key = owners.get(name) or self.layout.key_of(name)
                if key is not None and family in (None, key.family):
                    yield key
        yield from (key for key in sharers if family in (None, key.family))

    def in_order(self) -> Iterator[tuple[Key, str]]:
        """All records with their files, sorted by file name, as they are now."""
        with self._entering:
            files = sorted(self.files)
            owners, sharers = dict(self._owners), dict(self._sharers)
        for name in files:
            key = owners.get(name) or self.layout.key_of(name)
            if key is not None:
                yield key, name
            for key in sharers.get(name, ()):
                yield key, name

    def list_owners(self, listed: Listed) -> list[Key]:
        """Take the owners of the files from a manifest.

        :returns: the records that it lists and that have no file, in its order.
        :raises InvalidValue: if no file could hold a record that it lists.
        """
        missing: list[Key] = []
        unclear: dict[Key, str] = {}
        for family, ids in listed:
            for id in self.layout.doubtful(family, ids, self.files):
                key = Key(family, id)
                name = self.layout.file_name(key)
                if name not in self.files:
                    missing.append(key)
                elif (told := self.layout.key_of(name)) != key:
                    unclear[key] = name
                    if told is not None:
                        unclear[told] = name
        if unclear:
            self._list_in_order(listed, unclear)
        return missing

    def _list_in_order(self, listed: Listed, files: dict[Key, str]) -> None:
        """Enter those that are listed of the records whose ``files`` do not tell one owner."""
        for family, ids in listed:
            for id in ids:
                key = Key(family, id)
                if (name := files.get(key)) is None:
                    continue
                if self._owners.setdefault(name, key) != key:
                    sharers = self._sharers.setdefault(name, [])
                    if key not in sharers:
                        sharers.append(key)

    def enter(self, names: Iterable[tuple[str, Key | None]]) -> None:
        """Put files there, or (None) take them away; none of them is shared."""
        with self._entering:
            for name, key in names:
                if key is None:
                    self.files.discard(name)
                    self._owners.pop(name, None)
                    continue
                self.files.add(name)
                if self.layout.key_of(name) == key:
                    self._owners.pop(name, None)
                else:
                    self._owners[name] = key


class Change:
    """What a commit changes in an index; nothing is entered before :meth:`enter`.

    :ivar names: file names by key; None for keys that go.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._owners: dict[str, Key | None] = {}
        # The keys that were there before the change.
        self._known: set[Key] = set()
        self.names: dict[Key, str | None] = {}

    def put(self, key: Key, name: str, folder: str) -> None:
        """Enter a record.

        :raises NameCollision: if another id owns the file.
        """
        before = self._index.owner_of(name)
        owner = self._owners.get(name, before)
        if owner not in (None, key) or self._index.is_shared(name):
            raise NameCollision(f"{folder}/{name}", f"holds {owner}, so it cannot hold {key} too")
        if before == key:
            self._known.add(key)
        self._owners[name] = key
        self.names[key] = name

    def drop(self, key: Key) -> str | None:
        """Remove a record; its file name, or None if there is no file of its own."""
        if key in self.names:
            name = self.names[key]
        elif (name := self._index.name_of(key)) is not None:
            self._known.add(key)
        if name is None:
            return None
        if self._index.is_shared(name):
            what = "stands for several ids, so none of them can be removed alone"
            raise NameCollision(name, what)
        self._owners[name] = None
        self.names[key] = None
        return name

    @property
    def ids(self) -> dict[Key, bool]:
        """The keys that come (True) or go, and are no credentials."""
        return {
            key: name is not None
            for key, name in self.names.items()
            if (name is None) == (key in self._known) and key != CREDENTIALS
        }

    @property
    def leaves_nothing(self) -> bool:
        """True if no key is left after the change."""
        left = sum(name is not None for name in self.names.values())
        return len(self._index) - len(self._known) + left == 0

    @property
    def keeps_no_record(self) -> bool:
        """True if nothing but the credentials stays as it was."""
        left = len(self._index) - len(self._known)
        is_there = self._index.name_of(CREDENTIALS) is not None
        return left == 0 or (left == 1 and is_there and CREDENTIALS not in self._known)

    def keys(self) -> Iterator[Key]:
        """The keys after the change."""
        yield from (key for key in self._index.records() if self.names.get(key, "") is not None)
        yield from (k for k, name in self.names.items() if name and k not in self._known)

    def enter(self) -> None:
        """Carry the change out."""
        self._index.enter(self._owners.items())


def with_changes(
    listed: dict[str, list[str]], changed: dict[Key, bool]
) -> list[tuple[str, list[str]]]:
    """A manifest's ids by family as later commits leave them: True comes, False goes."""
    if not changed:
        return list(listed.items())
    known = {Key(family, id) for family, ids in listed.items() for id in ids}
    kept = [
        (family, [id for id in ids if changed.get(Key(family, id), True)])
        for family, ids in listed.items()
    ]
    new = [key for key, is_there in changed.items() if is_there and key not in known]
    return kept + [(key.family, [key.id]) for key in new]
