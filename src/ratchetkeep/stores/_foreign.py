"""Telling another program's write from what a power cut left of our own."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ratchetkeep.errors import DecodeError, StoreDamaged, StoreUnreadable, UnsupportedVersion
from ratchetkeep.model import Key

from .journal import Entry, Journal
from .layouts import Manifest

if TYPE_CHECKING:
    from .directory import DirectoryStore

# What a disk writes at once, whatever the file system.
SECTOR = 512


class Changed(NamedTuple):
    """The ids that commits changed in a manifest, and how it spells them."""

    ids: Collection[Key]
    listing: Manifest


def refuse_foreign_writes(
    store: DirectoryStore, commits: Iterable[Iterable[Entry]], journal: Journal
) -> None:
    """See that nobody wrote to the files of ``commits`` since the last one of them.

    :raises StoreDamaged: naming a file that another program wrote; nothing was changed.
    :raises StoreUnreadable: naming what cannot be read.
    """
    disk, listing = store.disk, store.layout.listing
    listed = {store.layout.manifest: Changed(journal.ids, listing)} if listing else {}
    try:
        written = disk.modified(journal.path)
    except OSError as error:
        raise StoreUnreadable(store.url, f"cannot be used: {error.strerror}") from None
    for name, ours in versions_of(commits).items():
        path, shown = f"{store.path}/{name}", f"{store.shown}/{name}"
        try:
            if disk.modified(path) > written and is_foreign(
                disk.read(path), ours, listed.get(name)
            ):
                raise StoreDamaged(
                    shown,
                    "was changed by another program after an unclean stop, while commits "
                    f"wait in {os.path.basename(journal.path)}",
                    "Nothing was changed. To keep what that program wrote, run `ratchetkeep "
                    "repair --keep-files`; to keep the commits, put the older file back",
                )
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreUnreadable(shown, f"cannot be read: {error.strerror}") from None


def versions_of(commits: Iterable[Iterable[Entry]]) -> dict[str, list[bytes | None]]:
    """All bytes that the commits gave a file, by its name."""
    versions: dict[str, list[bytes | None]] = {}
    for commit in commits:
        for name, data in commit:
            versions.setdefault(name, []).append(data)
    return versions


def is_foreign(found: bytes, ours: Sequence[bytes | None], changed: Changed | None = None) -> bool:
    """True unless the bytes are one of ours, or what a power cut may leave of one that was never
    synced: cut short, or with sectors of zeros.

    :param changed: for BaileysEx's manifest. It is written as it is after any of the commits, so
        it is ours if it lists what one of ours does, but for some of the ids that they changed.
    """
    written = [data for data in ours if data is not None]
    if any(_is_left_of(found, data) for data in written):
        return False
    if changed is None or (listed := _listed(found, changed.listing)) is None:
        return True
    lists = [_listed(data, changed.listing) for data in written]
    return not any(each is not None and listed ^ each <= set(changed.ids) for each in lists)


def _is_left_of(found: bytes, data: bytes) -> bool:
    parts = range(0, len(found), SECTOR)
    return len(found) <= len(data) and all(
        found[at : at + SECTOR] == data[at : min(at + SECTOR, len(found))]
        or not any(found[at : at + SECTOR])
        for at in parts
    )


def _listed(manifest: bytes, listing: Manifest) -> set[tuple[str, str]] | None:
    try:
        ids = listing.read(manifest)
    except (DecodeError, UnsupportedVersion):
        return None
    return {(family, id) for family in ids for id in ids[family]}
