"""The command ``backup``."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ratchetkeep.cli import _failures as fail
from ratchetkeep.cli import _output as out
from ratchetkeep.cli._failures import guarded
from ratchetkeep.cli._output import clean, number, pairs, say

if TYPE_CHECKING:
    from ratchetkeep.backup import BackupSummary

VARIABLE = "RATCHETKEEP_BACKUP_PASSPHRASE"


@guarded
def backup(
    url: Annotated[str, typer.Argument(metavar="URL", help="The device, as for inspect.")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file of the backup.")],
    all_devices: Annotated[bool, typer.Option("--all", help="All devices of the store.")] = False,
    recipient: Annotated[
        list[str] | None,
        typer.Option(
            "--recipient",
            "-r",
            metavar="R",
            help="Encrypt to R: age1..., ssh-ed25519 ... or ssh-rsa ... Can be repeated.",
        ),
    ] = None,
    recipients_file: Annotated[
        list[Path] | None,
        typer.Option(
            "--recipients-file",
            "-R",
            metavar="F",
            help="Encrypt to the recipients in F, one a line. Can be repeated.",
        ),
    ] = None,
    plaintext: Annotated[
        bool,
        typer.Option("--plaintext", help="Do not encrypt: whoever reads FILE has the keys."),
    ] = False,
    keep: Annotated[
        int | None,
        typer.Option("--keep", min=1, metavar="N", help="Keep N older ones: FILE.1, FILE.2, ..."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, errors too (on stderr).")
    ] = False,
) -> int:
    """Back up a device, or with --all every device of a store.

    Into one file, encrypted in the age format: to recipients, or else with a passphrase, which
    RATCHETKEEP_BACKUP_PASSPHRASE or the file named by RATCHETKEEP_BACKUP_PASSPHRASE_FILE holds, or
    which is asked for. An owner of a database may go on meanwhile. FILE is read back and checked
    before it replaces the one of before.
    """
    from ratchetkeep.backup import backup_device
    from ratchetkeep.cli._secrets import when_sealed

    recipients: list[str | os.PathLike[str]] = [*(recipients_file or [])]
    recipients += [_checked(each) for each in recipient or []]
    try:
        asks = not (recipients or plaintext)
        summary = backup_device(
            url,
            file,
            recipients=recipients,
            passphrase=_new_passphrase(file) if asks else None,
            plaintext=plaintext,
            all_devices=all_devices,
            keep=keep,
            key=when_sealed(url),
        )
    except KeyboardInterrupt:
        what = f"{clean(file)} is as it was, or the whole new backup"
        raise fail.Interrupted(what) from None
    if as_json:
        out.say_json(backup_json(summary))
    else:
        show_backup(summary)
    return fail.DONE


def _checked(recipient: str) -> str:
    """A recipient of the command line; a path is not one, and a secret key was not to be there."""
    from ratchetkeep.errors import InvalidValue

    if recipient.strip().startswith(("age1", "ssh-")):
        return recipient
    what = "is no recipient"
    remedy = "Write age1..., ssh-ed25519 ... or ssh-rsa ..., or name a file (--recipients-file)"
    raise InvalidValue("--recipient", what, remedy)


# -- passphrases


def known_passphrase() -> str | None:
    """The passphrase that the environment holds or names a file of; None if it does neither.

    :raises InvalidValue: if it does both, or the file cannot be one.
    """
    from ratchetkeep.errors import InvalidValue

    text, path = os.environ.get(VARIABLE), os.environ.get(f"{VARIABLE}_FILE")
    if text and path:
        what = "and the variable that names a file are both set"
        raise InvalidValue(VARIABLE, what, "Set one of the two")
    if not path:
        return text or None
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(65537)
    except OSError as error:
        raise InvalidValue(path, f"cannot be read: {error.strerror}") from None
    if stat.S_ISREG(mode) and mode & 0o077:
        what = "holds a passphrase, and others than its owner can read it"
        raise InvalidValue(path, what, "Give it to its owner alone: chmod 600")
    try:
        found = data.decode()
    except UnicodeDecodeError:
        raise InvalidValue(path, "is no text, so it holds no passphrase") from None
    found = found.removesuffix("\n").removesuffix("\r")
    if not found or len(data) > 65536 or "\n" in found:
        raise InvalidValue(path, "must hold one line, which is the passphrase")
    return found


def _new_passphrase(file: str) -> str:
    """What the backup is to be encrypted with: of the environment, else typed twice.

    :raises InvalidValue: if there is none and nobody can be asked.
    """
    from ratchetkeep.cli._secrets import typed
    from ratchetkeep.errors import InvalidValue

    found = known_passphrase()
    if found is not None:
        return found
    remedy = (
        f"Name recipients (--recipient, --recipients-file), set {VARIABLE} or {VARIABLE}_FILE, run "
        "it on a terminal, or ask for a plain file (--plaintext)"
    )
    none = InvalidValue(file, "is to be encrypted, and nothing says for whom", remedy)
    first = typed(f"Passphrase of {file}: ", none)
    if not first:
        raise InvalidValue(file, "an empty passphrase protects nothing", remedy)
    if typed("The same again: ", none) != first:
        what = "the two passphrases are not the same"
        raise InvalidValue(file, what, "Nothing was changed. Try again")
    return first


# -- what is printed


def backup_json(summary: BackupSummary) -> dict[str, Any]:
    """The summary as JSON."""
    return {
        "source": summary.source,
        "file": summary.file,
        "made": out.stamp(summary.made),
        "encryption": summary.encryption,
        "recipients": summary.recipients,
        "size": summary.size,
        "verified": True,
        "devices": [
            {
                "device": each.name,
                "history": None if each.history is None else each.history._asdict(),
                "kind": each.kind,
                "format": each.format,
                "records": each.records,
                "size": each.size,
                "checksum": each.checksum.hex(),
            }
            for each in summary.devices
        ],
        "skipped": list(summary.skipped),
        "older": list(summary.older),
        "sealed": summary.sealed,
    }


def show_backup(summary: BackupSummary) -> None:
    """What was saved, how it was checked, and what restores it."""
    devices = number(len(summary.devices), "device")
    rows = [
        ("from", clean(summary.source)),
        ("to", f"{clean(summary.file)}, {out.size(summary.size)}, {_encryption(summary)}"),
        ("saved", f"{devices}: {', '.join(clean(each.name) for each in summary.devices[:5])}"),
    ]
    if len(summary.devices) > 5:
        rows[-1] = ("saved", f"{rows[-1][1]}, ...")
    if summary.skipped:
        rows.append(("left out", f"{number(len(summary.skipped), 'device')} that were moved"))
    if summary.older:
        rows.append(("kept", f"{number(len(summary.older), 'older backup')} beside it"))
    pairs(rows)
    say()
    lines = [(family, str(count)) for family, count in summary.records.items()]
    lines.append(("total", str(sum(summary.records.values()))))
    out.table(("family", "records"), lines)
    say()
    say("verified by reading it back: it holds what was read, and every checksum is right")
    say(f"next: `ratchetkeep restore {clean(summary.file)} URL` restores it, should that be needed")


def _encryption(summary: BackupSummary) -> str:
    if summary.encryption == "recipients":
        return f"encrypted to {number(summary.recipients, 'recipient')}"
    if summary.encryption == "passphrase":
        return "encrypted with a passphrase"
    plain = "NOT encrypted: whoever reads it has the keys"
    return f"{plain}, though the store is sealed" if summary.sealed else plain
