"""Copy one device from store to store, without pairing again.

Everything is read, checked and tried on the target's format before anything is written; then it is
put together beside the target, read back, and published in one step. The source is never touched.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ratchetkeep._copy_plan import CopySummary, NotHeldByTarget, grouped
from ratchetkeep._copy_run import Progress, Survey, survey, write
from ratchetkeep.errors import InvalidValue, NoDevice, StoreInUse, UnknownStore
from ratchetkeep.model import CREDENTIALS
from ratchetkeep.stores import urls
from ratchetkeep.stores.base import Store

__all__ = ["CopySummary", "NotHeldByTarget", "Progress", "copy_device"]


def copy_device(
    source_url: str | os.PathLike[str],
    target_url: str | os.PathLike[str],
    overwrite: bool = False,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
    confirm: Callable[[CopySummary], None] | None = None,
) -> CopySummary:
    """Copy the device at ``source_url`` to ``target_url``.

    Two copies of one device that both go on sending break each other: use only one from then on.

    :param overwrite: replace a device that is at the target, in one step.
    :param dry_run: check, and say what would be carried; write nothing.
    :param progress: called while records are checked and written.
    :param confirm: called with the summary before anything is written; may raise to stop.
    :raises NoDevice: if there is no source.
    :raises StoreDamaged: if anything of the source cannot be read, or its credentials do not fit
        together. Other records that look wrong are carried as they are, and reported.
    :raises StoreInUse: if the source is a folder that its owner is writing, or the target is open.
    :raises DeviceExists: if the target holds something and ``overwrite`` is not set.
    """
    source, target = urls.parse(source_url), _parse_target(target_url)
    if _place(source) == _place(target):
        raise InvalidValue(urls.shown(target), "source and target are the same device")
    report = progress or (lambda step, done, total: None)
    store = urls.open_target(target)
    try:
        store.check_vacant(target.device, overwrite=overwrite)
        with _reading(source) as reader:
            found = survey(reader, source.device, store, report)
            summary = _summary(reader, source, store, target, found, dry_run)
            if confirm:
                confirm(summary)
            if dry_run:
                return summary
            with store.stage(target.device, overwrite=overwrite) as stage:
                write(reader, source.device, store, stage, found, report)
                _refuse_owner(reader, source.device)
                stage.publish()
            return summary
    finally:
        store.close()


def _parse_target(url: str | os.PathLike[str]) -> urls.Target:
    try:
        return urls.parse(url)
    except NoDevice as error:
        what = "does not say which kind of store it is to be"
        raise UnknownStore(error.place, what, urls.HELP) from None


def _place(target: urls.Target) -> tuple[str, ...]:
    if target.kind == "memory":
        return ("memory", target.path or str(id(target)), target.device)
    return (os.path.realpath(target.path), target.device)


@contextmanager
def _reading(source: urls.Target) -> Iterator[Store]:
    store = urls.open_target(source)
    try:
        store.acquire(source.device, read_only=True, create=False)
        _refuse_owner(store, source.device)
        yield store
    finally:
        store.close()


def _refuse_owner(store: Store, device: str) -> None:
    holder = "" if store.reads_snapshots else store.holder(device)
    if holder:
        what = f"is being written by {holder}, so it cannot be read as a whole"
        raise StoreInUse(store.url, what, "Stop that program first", holder=holder)


def _summary(
    reader: Store,
    source: urls.Target,
    store: Store,
    target: urls.Target,
    found: Survey,
    dry_run: bool,
) -> CopySummary:
    counts = Counter(key.family for key in found.keys if key != CREDENTIALS)
    return CopySummary(
        source=reader.url,
        target=store.url,
        source_kind=source.kind,
        target_kind=target.kind,
        records=dict(sorted(counts.items())),
        size=found.size,
        not_held=grouped(found.losses),
        findings=tuple(found.findings),
        dry_run=dry_run,
    )
