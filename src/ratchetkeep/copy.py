"""Copy one device from store to store, without pairing again.

Everything is read, checked and tried on the target's format before anything is written; then it is
put together beside the target, read back, and published in one step. The source is never touched;
one that is to be retired is marked after that.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from ratchetkeep._copy_plan import Converted, CopySummary, LeftBehind, NotHeldByTarget
from ratchetkeep._copy_run import Progress, Recipe, Survey, survey, write
from ratchetkeep._copy_spelling import Spelled, check_client
from ratchetkeep._rest import Completed, Rest, completed
from ratchetkeep._retire import mark_source, reading, refuse_owner
from ratchetkeep.errors import InvalidValue, NoDevice, NotHeld, UnknownStore
from ratchetkeep.model import CREDENTIALS
from ratchetkeep.stores import urls

__all__ = [
    "Converted",
    "CopySummary",
    "LeftBehind",
    "NotHeldByTarget",
    "Progress",
    "copy_device",
]


def copy_device(
    source_url: str | os.PathLike[str],
    target_url: str | os.PathLike[str],
    overwrite: bool = False,
    *,
    client: str | None = None,
    keep_rest: bool = False,
    retire: bool = False,
    from_retired: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    confirm: Callable[[CopySummary], None] | None = None,
) -> CopySummary:
    """Copy the device at ``source_url`` to ``target_url``.

    Two copies of one device that both go on sending break each other: use only one from then on.

    :param overwrite: replace a device that is at the target, in one step.
    :param client: who is to open the target: ``baileys``, ``baileysex``, ``pyaileys``, ``waeys`` or
        ``whatsmeow``. A store of ours then gets the sessions and sender keys in that library's
        spelling; without it they stay as the source has them. Another library's store has its own.
    :param keep_rest: keep what the target cannot hold in a side file next to it. A copy from the
        target finds it there and completes what it carries, so that the way back is complete.
    :param retire: mark the source as moved once the target is in its place: opening it for writing
        raises DeviceMoved from then on. It is owned for the whole copy, so nobody may have it open.
    :param from_retired: copy from a device that was moved itself: the way back, if that place is
        lost.
    :param dry_run: check, and say what would be carried; write nothing.
    :param progress: called while records are checked and written.
    :param confirm: called with the summary before anything is written; may raise to stop.
    :raises NoDevice: if there is no source.
    :raises StoreDamaged: if anything of the source cannot be read, or its credentials do not fit
        together. Other records that look wrong are carried as they are, and reported.
    :raises StoreInUse: if the source is a folder that its owner is writing, or is to be retired and
        somebody has it open; or if the target is open.
    :raises DeviceMoved: if the source was moved to another place.
    :raises DeviceExists: if the target holds something and ``overwrite`` is not set.
    :raises NotHeld: if the target has no place for the credentials, such as those of a device that
        is not paired yet; or for a side file; or if the source cannot be marked as moved.
    :raises InvalidValue: for a client that we do not know, or that cannot use the target.
    :raises CommitFailed: if the target could not be written; or if the source could not be marked,
        after the target was put in its place.
    """
    source, target = urls.parse(source_url), _parse_target(target_url)
    if _place(source) == _place(target):
        raise InvalidValue(urls.shown(target), "source and target are the same device")
    report = progress or (lambda step, done, total: None)
    owned = retire and not dry_run
    store = urls.open_target(target)
    try:
        client = check_client(client, target.kind, store)
        store.check_vacant(target.device, overwrite=overwrite)
        rest = Rest(target, keep=keep_rest)
        with (
            reading(source, owned=owned, to_mark=retire, from_retired=from_retired) as opened,
            completed(opened, source) as reader,
        ):
            store.foresee(opened, source.device)
            spelled = Spelled(store, reader, source.device, client)
            # Other processes read the store alone.
            recipe = Recipe(source, target, client) if reader is opened else None
            found = survey(reader, source.device, spelled, report, keep=not dry_run, recipe=recipe)
            with found:
                _refuse_without_credentials(found, spelled)
                summary = _summary(
                    found,
                    spelled,
                    source=reader.url,
                    target=store.url,
                    source_kind=source.kind,
                    target_kind=target.kind,
                    dry_run=dry_run,
                    left_behind=tuple(opened.left_behind(source.device)),
                    client=client,
                    retired=retire,
                    rest=rest.path(found.credentials) if keep_rest else "",
                    completed_from=reader.path if isinstance(reader, Completed) else "",
                )
                if confirm:
                    confirm(summary)
                if dry_run:
                    return summary
                with ExitStack() as stages:
                    stage = stages.enter_context(store.stage(target.device, overwrite=overwrite))
                    stages.enter_context(rest.stage(found.credentials))
                    rest.write(reader, source.device, spelled, found.credentials, report)
                    write(reader, source.device, spelled, stage, found, report)
                    if not owned:
                        refuse_owner(opened, source.device)
                    # In this order: a side file of an earlier copy must never stand beside a later
                    # one, or what was used up meanwhile would come back.
                    rest.publish()
                    stage.publish()
            if retire:
                mark_source(opened, source.device, store, target)
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
    if target.kind == "whatsmeow":  # which keeps a device under its JID, whatever it is called by
        return (target.path if "://" in target.path else os.path.realpath(target.path),)
    return (os.path.realpath(target.path), target.device)


def _refuse_without_credentials(found: Survey, target: Spelled) -> None:
    if found.records[CREDENTIALS.family]:
        return
    lost = [each for each in found.losses.lines() if each.family == CREDENTIALS.family]
    why = next((f": {each.what}" for each in lost if not each.derived), "")
    what = f"cannot hold the device's credentials{why}"
    raise NotHeld(target.url, what, "Nothing was changed. Use another store, such as sqlite:")


def _summary(found: Survey, spelled: Spelled, **known: Any) -> CopySummary:
    records = {family: found.records[family] for family in sorted(found.records)}
    records.pop(CREDENTIALS.family)
    return CopySummary(
        records=records,
        size=found.size,
        not_held=found.losses.lines(),
        findings=tuple(found.findings),
        converted=spelled.converted(),
        **known,
    )
