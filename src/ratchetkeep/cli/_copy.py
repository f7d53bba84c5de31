"""The command ``copy``: of one device, and of many."""

from __future__ import annotations

from typing import NamedTuple

from ratchetkeep.cli import _failures as fail
from ratchetkeep.cli import _output as out
from ratchetkeep.cli import _show as show
from ratchetkeep.cli._progress import AllBar, Bar
from ratchetkeep.cli._secrets import NEW_KEY, new_key_for, when_sealed
from ratchetkeep.copy import CopySummary, copy_device
from ratchetkeep.copy_all import CopyAllSummary
from ratchetkeep.errors import InvalidValue
from ratchetkeep.sealing.keys import SealKey, from_environment


class Asked(NamedTuple):
    """What the command line says."""

    source: str
    target: str
    overwrite: bool
    client: str | None
    keep_rest: bool
    retire: bool
    from_retired: bool
    dry_run: bool
    plaintext: bool = False
    seal: bool = False


def copy_one(asked: Asked, *, as_json: bool) -> int:
    """Copy a device; gives the exit code."""
    bar = Bar()
    # A target of its own key has it in RATCHETKEEP_NEW_KEY_*.
    target_key: SealKey | None = when_sealed(asked.target, NEW_KEY)
    if asked.seal:
        target_key = from_environment(NEW_KEY) or new_key_for(asked.target)

    def confirm(summary: CopySummary) -> None:
        bar.hide()
        # A dry run tells only after it knows that the target is free.
        if not (as_json or asked.dry_run):
            show.show_plan(summary)

    try:
        with bar:
            summary = copy_device(
                asked.source,
                asked.target,
                asked.overwrite,
                client=asked.client,
                keep_rest=asked.keep_rest,
                retire=asked.retire,
                from_retired=asked.from_retired,
                dry_run=asked.dry_run,
                plaintext=asked.plaintext,
                key=when_sealed(asked.source),
                target_key=target_key,
                progress=bar.report,
                confirm=confirm,
            )
        bar.finished = True
        if as_json:
            out.say_json(show.copy_json(summary))
            return fail.DONE
        if asked.dry_run:
            show.show_plan(summary)
        show.show_copied(summary)
    except KeyboardInterrupt:
        raise fail.Interrupted(_outcome(bar, asked)) from None
    return fail.DONE


def _outcome(bar: Bar, asked: Asked) -> str:
    if bar.finished and not asked.dry_run:
        return "the copy is complete"
    if bar.written:
        # The one step that publishes may be done or not; it is never half done.
        what = "the target is either as it was or the whole copy; `ratchetkeep inspect` shows which"
        mark = ", and of the source whether it is marked as moved"
        return what + mark if asked.retire else what
    return "the target is as it was"


def copy_many(asked: Asked, *, jobs: int | None, as_json: bool) -> int:
    """Copy all devices of a place; gives the exit code."""
    from ratchetkeep.cli import _show_all as show_all
    from ratchetkeep.copy_all import copy_all

    if asked.seal:
        what = "makes a sealed place for one device"
        remedy = "Copy to a store that is sealed, or seal it afterwards with `ratchetkeep seal`"
        raise InvalidValue("--seal", what, remedy)
    bar = AllBar()

    def confirm(summary: CopyAllSummary) -> None:
        bar.hide()
        show_all.show_plan(summary)

    try:
        with bar:
            summary = copy_all(
                asked.source,
                asked.target,
                overwrite=asked.overwrite,
                jobs=jobs,
                client=asked.client,
                keep_rest=asked.keep_rest,
                retire=asked.retire,
                from_retired=asked.from_retired,
                dry_run=asked.dry_run,
                plaintext=asked.plaintext,
                progress=bar.report,
                # Nobody reads the plan of a program's copy before it is made.
                confirm=None if as_json else confirm,
            )
        bar.finished = True
        if as_json:
            out.say_json(show_all.copy_all_json(summary))
        else:
            show_all.show_copied(summary)
    except KeyboardInterrupt:
        raise fail.Interrupted(_outcome_of_many(bar, asked)) from None
    return show_all.exit_code(summary)


def _outcome_of_many(bar: AllBar, asked: Asked) -> str:
    if asked.dry_run or bar.step != "copy":
        return "nothing was changed"
    if bar.finished:
        return "all devices were done"
    begins = "begins again" if asked.overwrite else "goes on"
    what = f"{bar.done} of {bar.total} devices are done, and each is whole or not there"
    return f"{what}; the same command {begins}"
