"""The commands ``restore`` and ``cool``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ratchetkeep.cli import _failures as fail
from ratchetkeep.cli import _output as out
from ratchetkeep.cli._failures import guarded
from ratchetkeep.cli._output import clean, number, pairs, say

if TYPE_CHECKING:
    from ratchetkeep.errors import RatchetkeepError
    from ratchetkeep.restore import DeviceRestore, RestoreSummary

Json = Annotated[bool, typer.Option("--json", help="Print JSON, errors too (on stderr).")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and tell; write nothing.")]

NEXT = (
    "next: start the client on it alone; whatever else is left of the device must not go on",
    "  it makes new sessions; what contacts write in old ones cannot be read, and arrives late",
    "  where the client asks for it again; the link and the identity key stay as they were",
)


@guarded
def restore(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The backup; not changed.")],
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to, with the kind of store.")],
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="Which device of FILE.")
    ] = None,
    all_devices: Annotated[
        bool, typer.Option("--all", help="All devices of FILE. Run again, it goes on.")
    ] = False,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="Sessions too. Only if URL proves that nothing came after FILE."
        ),
    ] = False,
    witness: Annotated[
        str | None,
        typer.Option("--witness", metavar="W", help="With --exact: W must not have seen more."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the device at URL, in one step.")
    ] = False,
    seal: Annotated[
        bool,
        typer.Option(
            "--seal", help="Seal a store that is made, with the key of RATCHETKEEP_KEY_*."
        ),
    ] = False,
    dry_run: DryRun = False,
    identity: Annotated[
        list[str] | None,
        typer.Option("--identity", "-i", metavar="FILE", help="An age or SSH key. Repeatable."),
    ] = None,
    client: Annotated[
        str | None,
        typer.Option("--for", metavar="CLIENT", help="Who opens URL, as for copy."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Put a device back from a backup, so that it goes on with new sessions.

    Its link, app state and mappings are kept; sessions, its own sender keys and pre-keys are not,
    since older ones would be used twice. A passphrase comes from RATCHETKEEP_BACKUP_PASSPHRASE, the
    file named by RATCHETKEEP_BACKUP_PASSPHRASE_FILE, or is asked for. URL is sealed if it is so
    already, or with --seal; the backup of a sealed store can be restored into a plain one.
    """
    from ratchetkeep.cli._secrets import new_key_for, when_sealed
    from ratchetkeep.errors import InvalidValue
    from ratchetkeep.restore import restore_all, restore_device

    if device is not None and all_devices:
        raise InvalidValue("--device", "names one device, and --all means all", "Give one of them")
    options: dict[str, Any] = {
        "identities": identity or (),
        "passphrase": _passphrase(file, has_identity=bool(identity)),
        "exact": exact,
        "witness": witness,
        "overwrite": overwrite,
        "dry_run": dry_run,
        "client": client,
        "key": new_key_for(_place(url)) if seal else when_sealed(url),
    }
    try:
        if all_devices:
            found = restore_all(file, url, **options)
        else:
            summary = restore_device(file, url, device=device, **options)
    except KeyboardInterrupt:
        what = "the target is either as it was or the whole device"
        raise fail.Interrupted("nothing was changed" if dry_run else what) from None
    if not all_devices:
        if as_json:
            out.say_json(restore_json(summary))
        else:
            show_restore(summary)
        return fail.DONE
    if as_json:
        out.say_json([_device_json(each) for each in found])
    else:
        _show_all(found)
    errors = [each.error for each in found if each.error is not None]
    return fail.exit_code(errors[0]) if errors else fail.DONE


@guarded
def cool(
    url: Annotated[str, typer.Argument(metavar="URL", help="The device, as for inspect.")],
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Let a device go on whose store was itself put back: with new sessions.

    It loses what a restore does not bring back, in one step. Stop the client first.
    """
    from ratchetkeep.cli._secrets import when_sealed
    from ratchetkeep.restore import cool_device

    try:
        summary = cool_device(url, dry_run=dry_run, key=when_sealed(url))
    except KeyboardInterrupt:
        what = "the device is either as it was or wholly changed"
        raise fail.Interrupted("nothing was changed" if dry_run else what) from None
    if as_json:
        out.say_json(restore_json(summary))
    else:
        show_restore(summary)
    return fail.DONE


def _place(url: str) -> str:
    from ratchetkeep.copy import parse_target
    from ratchetkeep.stores import urls

    return urls.shown(parse_target(url))


def _passphrase(file: str, *, has_identity: bool) -> str | None:
    """What opens the backup: of the environment, else typed if it is encrypted with one."""
    from ratchetkeep._backup_age import is_encrypted, is_with_passphrase
    from ratchetkeep.cli._backups import VARIABLE, known_passphrase
    from ratchetkeep.cli._secrets import typed
    from ratchetkeep.errors import WrongKey

    found = known_passphrase()
    if found is not None or has_identity:
        return found
    try:
        with open(file, "rb") as stream:
            start = stream.read(4096)
    except OSError:
        return None  # told by whoever opens it
    if not (is_encrypted(start) and is_with_passphrase(start)):
        return None
    remedy = f"Set {VARIABLE} or {VARIABLE}_FILE, or run it on a terminal"
    none = WrongKey(file, "is encrypted with a passphrase, and none was given", remedy)
    return typed(f"Passphrase of {file}: ", none)


def restore_json(summary: RestoreSummary) -> dict[str, Any]:
    """The summary as JSON."""
    copy = summary.copy
    return {
        "source": summary.source,
        "target": summary.target,
        "device": summary.device,
        "made": summary.made and out.stamp(summary.made),
        "history": summary.history and summary.history._asdict(),
        "exact": summary.exact,
        "dry_run": summary.dry_run,
        "kept": summary.kept,
        "dropped": {each.family: each.count for each in summary.dropped},
        "next_pre_key_id": summary.next_pre_key_id,
        "unread": summary.unread,
        "not_held": [
            {"family": each.family, "member": each.member, "count": each.count, "what": each.what}
            for each in (copy.not_held if copy else ())
        ],
    }


def _device_json(found: DeviceRestore) -> dict[str, Any]:
    summary, error = found.summary, found.error
    return {
        "device": found.device,
        "outcome": found.outcome,
        "summary": summary and restore_json(summary),
        "error": error and fail.error_json(fail.failure_of(error)),
    }


def show_restore(summary: RestoreSummary) -> None:
    """What was put in place, what was not, and what happens next."""
    rows = [("from", clean(summary.source)), ("to", clean(summary.target))]
    if summary.made:
        rows.append(("made", out.age(summary.made)))
    rows.append(("kept", f"the credentials and {number(summary.total, 'record')}"))
    rows += [("dropped", f"{each.count} {each.family}: {each.what}") for each in summary.dropped]
    for lost in summary.copy.not_held if summary.copy else ():
        where = f"{lost.family} {lost.member}".strip()
        rows.append(("not held", clean(f"{lost.count} {where}: {lost.what}")))
    rows.append(("pre-keys", f"new ones begin at id {summary.next_pre_key_id}"))
    if summary.unread:
        why = "the ids that it gave out are not known, and new ones may be the same"
        rows.append(("not read", clean(f"what is at the target: {summary.unread}; {why}")))
    pairs(rows)
    if summary.dry_run:
        say("dry run: nothing was written")
    elif summary.exact:
        say("restored exactly: nothing came after the backup")
    else:
        for line in NEXT:
            say(line)


def _show_all(found: tuple[DeviceRestore, ...]) -> None:
    for each in found:
        say(f"{each.outcome}: {clean(each.device)}{_why(each.error)}")
    if any(each.outcome == "restored" for each in found):
        for line in NEXT:
            say(line)


def _why(error: RatchetkeepError | None) -> str:
    return f": {clean(str(error))}" if error else ""
