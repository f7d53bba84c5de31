"""Finishing what a folder's journal holds after an unclean stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ratchetkeep.errors import StoreDamaged, StoreUnreadable

from ._follower import TEMPORARY, put_file
from ._stage import sweep_beside

if TYPE_CHECKING:
    from .directory import DirectoryStore


def recover(store: DirectoryStore, latest: Mapping[str, bytes | None]) -> list[str]:
    """Bring the files up to date with the journal, and remove what a crash left. All of it is
    synced on return, so that the journal can go; until then it can be done again.

    :param latest: the bytes that the journal has for each file, None for one to be removed.
    :returns: the names that are in the folder then, so that it is listed once.
    """
    disk, folder = store.disk, store.path
    sweep_beside(disk, folder)
    # Before any record: a file written over its old bytes could be left as a mix of both.
    disk.unlink(f"{folder}/{TEMPORARY}")
    for name, data in latest.items():
        put_file(disk, folder, name, data)
    for name, data in latest.items():
        if data is not None:
            disk.sync(f"{folder}/{name}")
    if store._journal.ids:
        _recover_manifest(store)
    names = store.names()
    leftovers = store.layout.leftovers(names)
    for name in leftovers:
        disk.unlink(f"{folder}/{name}")
    if latest or leftovers:
        disk.sync_folder(folder)
    return [name for name in names if name not in leftovers] if leftovers else names


def _recover_manifest(store: DirectoryStore) -> None:
    """Write the manifest with the ids that the journal's commits changed in it. The files are in
    their places."""
    try:
        store._build_index()
    except StoreUnreadable:
        raise
    except StoreDamaged:
        return  # opening has refused it; repairing goes on, and makes it from the files
    manifest = store._manifest_now()
    put_file(store.disk, store.path, store.layout.manifest, manifest, sync=True)
