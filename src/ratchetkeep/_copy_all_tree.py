"""A tree of folders, one device in each: which devices it holds, and where new ones go.

A folder with the files of a device is one, and nothing is looked for in it; other folders are
looked through. Links are not followed: they may lead out of the tree, or round in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from ratchetkeep._copy_all_names import folder_of, is_ours, name_of
from ratchetkeep.errors import (
    InvalidValue,
    NameCollision,
    RatchetkeepError,
    StoreUnreadable,
    UnknownStore,
)
from ratchetkeep.stores import urls
from ratchetkeep.stores._folder_names import traces
from ratchetkeep.stores._stage import sweep
from ratchetkeep.stores.disk import Disk

__all__ = ["Found", "Tree"]

# What killed copies were putting together: beside a folder, or beside its side file.
_LEFT = re.compile(r"(?s)(\..+\.ratchetkeep-stage-|.+\.ratchetkeep-rest(?:\.new)?\.stage-)\d+-")


class Found(NamedTuple):
    """A device of a place that holds many.

    :ivar target: where it is, unless that cannot be told.
    :ivar error: why it cannot be copied, if that is known already.
    """

    name: str
    target: urls.Target
    error: RatchetkeepError | None = None


class Tree:
    """The tree below ``root``.

    :param kind: of all its folders; "" where each is looked at.
    """

    def __init__(self, kind: str, root: str) -> None:
        self.kind, self.root = kind, root
        self.url = f"{kind}:{root}" if kind else root
        # By name, once they were looked for.
        self._folders: dict[str, str] = {}
        # Folders of devices, links and files: nothing can be put into them.
        self._closed: set[str] = set()
        self._links: set[str] = set()
        self._swept: set[str] = set()

    def devices(self) -> list[Found]:
        """The devices, sorted by their names.

        :raises InvalidValue: if the root is the folder of one device.
        :raises UnknownStore: if it is no folder.
        :raises StoreUnreadable: if it cannot be read.
        """
        self._refuse_root()
        found: list[Found] = []
        for folder, error in self._walk():
            name = name_of(folder)
            if error is None and name in self._folders:
                what = f"has the name of {self._path(self._folders[name])}, once it is decoded"
                error = NameCollision(self._path(folder), what, "Rename one of the two folders")
            if error is None:
                self._folders[name] = folder
            found.append(self._found(name, folder, error))
        return sorted(found, key=lambda each: each.name)

    def _refuse_root(self) -> None:
        if os.path.lexists(self.root) and not os.path.isdir(self.root):
            raise UnknownStore(self.url, "is not a folder")
        if _is_device(self.root):
            remedy = "Copy it without --all (copy_device), or name the folder above it"
            raise InvalidValue(self.url, "is the folder of one device, not of many", remedy)

    def _found(self, name: str, folder: str, error: RatchetkeepError | None) -> Found:
        path = self._path(folder)
        target = urls.Target(self.kind, path)
        if error is None:
            try:
                urls.check_name(name, path)
                target = target if self.kind else urls.parse(path)
            except RatchetkeepError as refused:
                error = refused
        return Found(name, target, error)

    def _path(self, folder: str) -> str:
        return os.path.join(self.root, folder)

    def _walk(self) -> Iterator[tuple[str, RatchetkeepError | None]]:
        """The folders of devices, below the root, and what is wrong with the folders on the way."""
        todo = [""]
        while todo:
            above = todo.pop()
            try:
                with os.scandir(self._path(above)) as entries:
                    within = sorted(entries, key=lambda entry: entry.name)
            except FileNotFoundError:
                continue  # the root, or one that was removed meanwhile
            except OSError as error:
                if not above:
                    raise _unreadable(self.url, error) from None
                yield above, _unreadable(self._path(above), error)
                continue
            for entry in within:
                folder = os.path.join(above, entry.name)
                if entry.is_symlink():
                    self._links.add(folder)
                    yield from self._link(folder)
                elif not entry.is_dir(follow_symlinks=False):
                    self._closed.add(folder)
                elif _is_device(entry.path):
                    if not is_ours(entry.name):
                        self._closed.add(folder)
                        yield folder, None
                elif not is_ours(entry.name):
                    todo.append(folder)

    def _link(self, folder: str) -> Iterator[tuple[str, RatchetkeepError | None]]:
        """A link to a device elsewhere, which would not be missed otherwise."""
        real = os.path.realpath(self._path(folder))
        root = os.path.realpath(self.root)
        is_within = os.path.commonpath((real, root)) == root
        if not is_within and os.path.isdir(real) and _is_device(real):
            remedy = f"Copy it by itself, from {real}"
            what = "is a link to the folder of a device out of the tree, which is not followed"
            yield folder, InvalidValue(self._path(folder), what, remedy)

    # -- as the target; its devices were looked for before

    def place(self, name: str) -> Found:
        """Where a device of this name is, or is to be."""
        folder = self._folders.get(name)
        if folder is None:
            folder = folder_of(name, lambda each: each in self._closed or each in self._links)
            self._folders[name] = folder
            self._closed.add(folder)
        target = urls.Target(self.kind, self._path(folder))
        if folder in self._links:
            what = "is a link, which may lead out of the tree"
            return Found(name, target, InvalidValue(target.path, what, "Remove it, and copy again"))
        return Found(name, target)

    def make_way(self, target: urls.Target) -> None:
        """Make the folder that a device's own folder is to be in, and remove what killed copies
        left there: once for all of its devices.

        :raises OSError: if that fails.
        """
        above = os.path.dirname(os.path.abspath(target.path))
        if above in self._swept:
            return
        disk = Disk()
        if not disk.is_folder(above):
            disk.make_folder(above)
        left = (_LEFT.match(name) for name in disk.list(above))
        for prefix in {found[1] for found in left if found}:
            sweep(disk, above, prefix)
        self._swept.add(above)


def _unreadable(place: str, error: OSError) -> StoreUnreadable:
    return StoreUnreadable(place, f"cannot be read: {error.strerror}")


def _is_device(path: str) -> bool:
    """True for a folder with any file of a device; one that cannot be read is told of later."""
    # First by name: there are folders of 100,000 files.
    if any(_is_file(os.path.join(path, name)) for name in ("creds.json", "creds.etf")):
        return True
    with suppress(OSError), os.scandir(path) as entries:
        return any(traces([entry.name]) and _is_file(entry.path) for entry in entries)
    return False


def _is_file(path: str) -> bool:
    """True for a file, or a broken link in its place; a folder may have any name."""
    return os.path.lexists(path) and not os.path.isdir(path)
