"""Copy many devices: a store that holds many, or a tree of folders, to another one.

Each device is put in its place in one step, so what is at the target is complete, and the same copy
goes on where it was ended. What is wrong with one device does not stop the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing

from ratchetkeep._copy_all_places import find_source, find_target, refuse_nonsense
from ratchetkeep._copy_all_run import AllProgress, Run
from ratchetkeep._copy_all_sum import CopyAllSummary, DeviceCopy
from ratchetkeep.copy import How
from ratchetkeep.errors import InvalidValue

__all__ = ["AllProgress", "CopyAllSummary", "DeviceCopy", "copy_all"]


def copy_all(
    source_url: str | os.PathLike[str],
    target_url: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    jobs: int | None = None,
    client: str | None = None,
    keep_rest: bool = False,
    retire: bool = False,
    from_retired: bool = False,
    dry_run: bool = False,
    plaintext: bool = False,
    progress: AllProgress | None = None,
    confirm: Callable[[CopyAllSummary], None] | None = None,
) -> CopyAllSummary:
    """Copy every device at ``source_url`` to ``target_url``.

    Both are a store that holds many devices, such as ``sqlite:fleet.db``, or the root of a tree of
    folders with one device in each, such as ``baileys:devices``, where a device is named by its
    folder. A device that the target has already is left as it is, so that the same call goes on
    with a copy that was ended; it does not see that the source has changed since.

    What goes wrong with one device, the others are copied nevertheless: look at
    :attr:`CopyAllSummary.complete`, and at the devices that failed.

    :param overwrite: copy every device, and replace those that are at the target.
    :param jobs: how many processes copy, at most; by default one for each processor, up to 8. Where
        only one process can write, as to a ``sqlite:`` file, it is one.
    :param client: as for :func:`copy_device`; so are ``keep_rest``, ``retire``, ``from_retired``.
    :param dry_run: check, and say what would be carried; write nothing.
    :param plaintext: copy from a sealed store to one that is not. What opens sealed stores is asked
        of the environment (``RATCHETKEEP_KEY_*``), by all processes.
    :param progress: called after each device, and in one process while records are copied.
    :param confirm: called once all devices were checked and before anything is written; may raise
        to stop. Without it each device is checked before it is written.
    :raises NoDevice: if the source holds none.
    :raises InvalidValue: if one place is within the other, or names one device alone; for a client
        that we do not know, or that cannot use the target; for fewer jobs than one.
    :raises NotHeld: if there is no place for side files, or for marks of moved devices.
    :raises StoreDamaged: if it cannot be told which devices there are; or if a file that holds all
        of them is damaged.
    :raises UnknownStore: for a URL that names no place of many devices.
    """
    if jobs is not None and jobs < 1:
        raise InvalidValue("jobs", f"{jobs} is no number of processes", "Use 1 or more")
    how = How(overwrite, client, keep_rest, retire, from_retired, dry_run, plaintext)
    source, target = find_source(source_url), find_target(target_url)
    refuse_nonsense(source, target, how)
    copy = Run(source, target, how, progress or (lambda step, done, total, records: None))
    copy.look(jobs)
    with closing(copy):
        if dry_run or confirm:
            copy.carry_out(is_trial=True)
            if confirm and copy.stopped is None:
                confirm(copy.summary())
        if not dry_run and copy.stopped is None:
            copy.carry_out(is_trial=False)
        return copy.summary()
