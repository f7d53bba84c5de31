"""What is the matter with a folder's own structure; the records are checked elsewhere."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ratchetkeep.errors import StoreUnreadable

from .base import Finding, counted

if TYPE_CHECKING:
    from .directory import DirectoryStore

PREFIX = ".ratchetkeep."


def folder_findings(store: DirectoryStore) -> Iterator[Finding]:
    """Files that are no record, leftovers, modes, an unfinished journal, the manifest."""
    open_to_others = 0
    names = sorted(store.names())
    leftovers, mode_of = store.layout.leftovers(names), store.disk.mode
    for name in names:
        try:
            mode = mode_of(f"{store.path}/{name}")
        except FileNotFoundError:
            continue  # its owner has removed it meanwhile
        except OSError as error:
            path = f"{store.shown}/{name}"
            raise StoreUnreadable(path, f"cannot be read: {error.strerror}") from None
        known = name in store.index.files or name == store.layout.manifest
        if known and name not in leftovers and stat.S_ISREG(mode):
            open_to_others += mode & 0o077 != 0
            continue
        path = f"{store.shown}/{name}"
        if name in leftovers:
            remedy = "Open the device once: opening removes it"
            yield Finding("warning", path, "was left over by a stopped program", remedy)
        elif known and not stat.S_ISREG(mode):
            yield Finding("error", path, "is not a plain file", "Put the file itself there")
        elif not known and not name.startswith(PREFIX) and name not in store.overlay:
            yield Finding("info", path, "belongs to no record", "It is never read or copied")
        elif mode & 0o077 and not stat.S_ISDIR(mode):
            open_to_others += 1
    if open_to_others:
        what = f"{counted(open_to_others, 'file')} with keys can be read by other users"
        yield Finding("warning", store.shown, what, f"chmod -R go= {store.shown}")
    if store.overlay and not store.is_live:
        what = f"{counted(len(store.overlay), 'file')} behind the journal of an unclean stop"
        yield Finding("info", store.shown, what, "Opening the device brings them up to date")
    if store.layout.manifest:
        yield from _manifest_findings(store)


def _manifest_findings(store: DirectoryStore) -> Iterator[Finding]:
    place = f"{store.shown}/{store.layout.manifest}"
    if not store.has_manifest and len(store.index) > 1:
        what = "is missing; ids were read off the file names, which cannot show every id"
        yield Finding("warning", place, what, "The next commit writes it again")
    for listed in store.unlisted:
        what = f"lists {listed}, whose file is not there"
        remedy = "BaileysEx leaves this when stopped while deleting; else restore the file"
        yield Finding("warning", place, what, remedy)
    for key in sorted(store.index.sharers()):
        remedy = "Copy the device to a sqlite: store, which keeps them apart"
        yield Finding("warning", place, f"{key} shares its file with another id", remedy)
