"""Where many devices are: a store that holds many, or a tree of folders with one in each."""

from __future__ import annotations

import os

from ratchetkeep._copy_all_tree import Found, Tree
from ratchetkeep._copy_spelling import check_client
from ratchetkeep._rest import Rest
from ratchetkeep._retire import refuse_unmarkable
from ratchetkeep.copy import How, parse_target, place_of
from ratchetkeep.errors import InvalidValue, UnknownStore
from ratchetkeep.stores import urls
from ratchetkeep.stores.base import DEFAULT_DEVICE, Finding
from ratchetkeep.stores.layouts import LAYOUTS

__all__ = ["Place", "Shelf", "find_source", "find_target", "has_one_owner", "refuse_nonsense"]


class Shelf:
    """A store that holds many devices."""

    def __init__(self, target: urls.Target) -> None:
        self.kind, self.target = target.kind, target
        self.url = urls.shown(target)

    def devices(self) -> list[Found]:
        """The devices, sorted by their names; raises as :meth:`Store.devices`."""
        store = urls.open_target(self.target)
        try:
            names = sorted(store.devices())
        finally:
            store.close()
        return [Found(name, self.target._replace(device=name)) for name in names]

    def place(self, name: str) -> Found:
        """Where a device of this name is, or is to be."""
        # whatsmeow keeps a device under its own JID, which its credentials tell.
        device = DEFAULT_DEVICE if self.kind == "whatsmeow" else name
        return Found(name, self.target._replace(device=device))

    def make_way(self, target: urls.Target) -> None:
        """Nothing has to be made for one of its devices."""

    def findings(self, device: str) -> list[Finding]:
        """What is the matter with the whole store, which has this device."""
        store = urls.open_target(self.target)
        try:
            store.acquire(device, read_only=True, create=False)
            return list(store.findings(device))
        finally:
            store.close()


Place = Shelf | Tree


def find_source(url: str | os.PathLike[str]) -> Place:
    """The place that many devices are copied from.

    :raises UnknownStore: if it names none.
    :raises InvalidValue: if it names one device.
    """
    text = os.fsdecode(url)
    if _is_bare_folder(text):
        return Tree("", text)
    return _place(urls.parse(text))


def find_target(url: str | os.PathLike[str]) -> Place:
    """The place that they are copied to; raises as :func:`find_source`."""
    text = os.fsdecode(url)
    try:
        return _place(parse_target(text))
    except UnknownStore as error:
        if not _is_bare_folder(text):
            raise
        what = "does not say which kind of folders it is to have"
        raise UnknownStore(error.place, what, urls.HELP) from None


def _is_bare_folder(text: str) -> bool:
    kind, mark, _ = text.partition(":")
    return not (mark and kind in urls.KINDS) and os.path.isdir(text)


def _place(target: urls.Target) -> Place:
    if target.kind in LAYOUTS:
        return Tree(target.kind, target.path)
    if target.device != DEFAULT_DEVICE:
        remedy = "Leave out what follows the ?"
        raise InvalidValue(urls.shown(target), "names one device, and all are to be copied", remedy)
    if target.kind == "memory" and not target.path:
        raise InvalidValue("memory:", "is another store each time", "Use memory:NAME")
    return Shelf(target)


def has_one_owner(place: Place) -> bool:
    """True if only one process can write to its devices."""
    if isinstance(place, Tree):
        return False
    is_file = "://" not in place.target.path
    return place.kind in ("sqlite", "memory") or (place.kind == "whatsmeow" and is_file)


def refuse_nonsense(source: Place, target: Place, how: How) -> None:
    """See that such a copy can be made at all.

    :raises InvalidValue: if a place would be copied into itself; or for a client that we do not
        know, or that cannot use the target.
    :raises NotHeld: if side files have no place at the target, or marks at the source.
    """
    if isinstance(source, Tree) and isinstance(target, Tree):
        roots = [os.path.realpath(each.root) for each in (source, target)]
        if os.path.commonpath(roots) in roots:
            what = f"and {source.url} are one tree, or one is a part of the other"
            raise InvalidValue(target.url, what, "Choose a folder outside of the source")
    if isinstance(source, Shelf) and isinstance(target, Shelf):
        is_same = source.kind == target.kind
        if is_same and place_of(source.target) == place_of(target.target):
            raise InvalidValue(target.url, "source and target are the same store")
    some = target.place("a").target if isinstance(target, Shelf) else _folder_in(target)
    check_client(how.client, some.kind, urls.open_target(some))
    Rest(some, keep=how.keep_rest)
    if how.retire and isinstance(source, Shelf):
        refuse_unmarkable(urls.open_target(source.target))


def _folder_in(tree: Tree) -> urls.Target:
    return urls.Target(tree.kind, tree.root)
