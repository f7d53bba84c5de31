"""Which records a folder holds, and under which file names."""

from __future__ import annotations

from collections.abc import Iterator

from ratchetkeep.errors import NameCollision
from ratchetkeep.model import CREDENTIALS, Key


class Index:
    """Keys and file names of a folder. Two keys may share a name only if the folder came so; the
    first one then owns the file.

    :ivar names: file name by key.
    :ivar keys: the owning key by file name.
    :ivar contested: names that several keys share.
    """

    def __init__(self) -> None:
        self.names: dict[Key, str] = {}
        self.keys: dict[str, Key] = {}
        self.contested: set[str] = set()

    def add(self, key: Key, name: str) -> None:
        """Enter a record that was found."""
        self.names[key] = name
        if self.keys.setdefault(name, key) != key:
            self.contested.add(name)

    def shared(self) -> Iterator[Key]:
        """Keys whose file is owned by another key."""
        return (key for key, name in self.names.items() if self.keys.get(name) != key)


class Change:
    """What a commit changes in an index; nothing is entered before :meth:`enter`.

    :ivar names: file names by key; None for keys that go.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._owners: dict[str, Key | None] = {}
        self.names: dict[Key, str | None] = {}

    def put(self, key: Key, name: str, folder: str) -> None:
        """Enter a record.

        :raises NameCollision: if another id owns the file.
        """
        owner = self._owner(name)
        if owner not in (None, key) or name in self._index.contested:
            raise NameCollision(f"{folder}/{name}", f"holds {owner}, so it cannot hold {key} too")
        self._owners[name] = key
        self.names[key] = name

    def drop(self, key: Key) -> str | None:
        """Remove a record; its file name, or None if there is no file of its own."""
        name = self.names.get(key, self._index.names.get(key))
        if name is None:
            return None
        if name in self._index.contested:
            what = "stands for several ids, so none of them can be removed alone"
            raise NameCollision(name, what)
        self._owners[name] = None
        self.names[key] = None
        return name

    def _owner(self, name: str) -> Key | None:
        return self._owners.get(name, self._index.keys.get(name))

    @property
    def ids(self) -> dict[Key, bool]:
        """The keys that come (True) or go, and are no credentials."""
        return {
            key: name is not None
            for key, name in self.names.items()
            if (name is None) == (key in self._index.names) and key != CREDENTIALS
        }

    @property
    def leaves_nothing(self) -> bool:
        """True if no key is left after the change."""
        known = sum(key in self._index.names for key in self.names)
        left = sum(name is not None for name in self.names.values())
        return len(self._index.names) - known + left == 0

    def keys(self) -> Iterator[Key]:
        """The keys after the change."""
        yield from (key for key in self._index.names if self.names.get(key, "") is not None)
        yield from (k for k, name in self.names.items() if name and k not in self._index.names)

    def enter(self) -> None:
        """Carry the change out."""
        for key, name in self.names.items():
            old = self._index.names.pop(key, None)
            if old is not None and self._index.keys.get(old) == key:
                del self._index.keys[old]
            if name is not None:
                self._index.add(key, name)
