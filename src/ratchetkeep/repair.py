"""Mend what can be mended of a device without guessing, and nothing else.

Leftovers of dead processes, modes, an unclean journal, BaileysEx's manifest, SQLite's indexes: each
can be made right from what is there. No key is made up, no record is deleted, and a copy of what is
replaced is synced beside the target first. What opening does anyway (finishing a journal) is done
as opening does it. Killed at any point, a step is done or not done; run it again to go on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from ratchetkeep._repair_folder import Folder
from ratchetkeep._repair_job import Job, Repair
from ratchetkeep.errors import StoreDamaged, StoreUnreadable, UnsupportedVersion
from ratchetkeep.stores import urls
from ratchetkeep.stores.base import Finding
from ratchetkeep.verify import verify_device

__all__ = ["Repair", "errors_left", "repair_device"]


def repair_device(
    url: str | os.PathLike[str], *, dry_run: bool = False, keep_files: bool = False
) -> list[Repair]:
    """Mend what can be mended of the device that ``url`` names; a second run finds nothing more.

    What cannot be mended stays as it is and is not raised: :func:`errors_left` tells of it.

    :param dry_run: say what would be mended; write nothing.
    :param keep_files: if another program went on with a folder after an unclean stop, keep what it
        wrote and move the journal away, with the commits that wait in it. Only you can know
        whether that is right.
    :raises NoDevice: if nothing is there.
    :raises StoreInUse: if the device is open.
    :raises CommitFailed: if a repair cannot be written; those before it are done.
    :raises UnknownStore: if ``url`` names no store.
    """
    target = urls.parse(url)
    if target.kind in ("whatsmeow", "postgresql", "memory"):
        _look_only(target)  # there are no files of ours
        return []
    # SQLite's own files, and our lock, stand beside the file that a link leads to.
    path = (os.path.realpath if target.kind == "sqlite" else os.path.abspath)(target.path)
    shown = path if target.kind == "sqlite" else target.path.rstrip("/")
    job = Job(path, shown=shown, dry_run=dry_run)
    try:
        if target.kind == "sqlite":
            # Imported only when asked for: a folder user pays nothing for SQLite.
            from ratchetkeep._repair_sqlite import mend_file

            mend_file(job, target.path, target.device)
        else:
            Folder(target.kind, target.path).mend(job, keep_files=keep_files)
    except StoreUnreadable:
        if not job.repairs:
            raise
    except (StoreDamaged, UnsupportedVersion):
        pass  # it stays as it is; verifying tells of it
    return job.repairs


def errors_left(url: str | os.PathLike[str], repairs: Iterable[Repair] = ()) -> list[Finding]:
    """The errors that verifying the device brings up.

    :param repairs: of a dry run: their places are left out.
    """
    places = {repair.place for repair in repairs}
    found = verify_device(url)
    return [each for each in found if each.severity == "error" and each.place not in places]


def _look_only(target: urls.Target) -> None:
    store = urls.open_target(target)
    try:
        store.acquire(target.device, read_only=False, create=False)
    finally:
        store.close()
