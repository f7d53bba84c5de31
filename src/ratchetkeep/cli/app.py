"""The commands: each calls the library once and prints what it got."""

from __future__ import annotations

from typing import Annotated

import typer

from ratchetkeep.cli import _failures as fail
from ratchetkeep.cli import _output as out
from ratchetkeep.cli import _show as show
from ratchetkeep.cli._failures import guarded

CODES = "\n".join(f"{code:>5}  {meaning}" for code, meaning in fail.MEANINGS.items())
# "\b" keeps the lines as they are.
EPILOG = f"\b\nExit codes:\n{CODES}"

Url = Annotated[
    str,
    typer.Argument(
        metavar="URL",
        help=(
            "sqlite:PATH[?device=NAME], baileys:DIR, baileys6:DIR, baileysex:DIR, "
            "baileysex-json:DIR, pyaileys:DIR, whatsmeow:PATH[?jid=JID], or a bare path"
        ),
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, errors too (on stderr).")]

app = typer.Typer(
    name="ratchetkeep",
    help="Keep, check and move the auth state of linked devices. Secrets are never printed.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    # Plain help loads no rich. Pretty exceptions would print local variables: keys.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        out.say(f"ratchetkeep {version('ratchetkeep')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Keep, check and move the auth state of linked devices. Secrets are never printed."""


@app.command(epilog=EPILOG)
@guarded
def new(
    url: Url,
    seal: Annotated[
        bool,
        typer.Option(
            "--seal", help="Seal a store that is made, with the key of RATCHETKEEP_KEY_*."
        ),
    ] = False,
    as_json: Json = False,
) -> int:
    """Create a device, ready to be paired."""
    from ratchetkeep._device_store import open_store
    from ratchetkeep.cli._secrets import new_key_for, when_sealed
    from ratchetkeep.errors import DeviceExists, NoDevice, UnknownStore
    from ratchetkeep.stores import urls

    try:
        target = urls.parse(url)
    except NoDevice as error:
        what = "does not say which kind of store it is to be"
        raise UnknownStore(error.place, what, urls.HELP) from None
    try:
        key = new_key_for(urls.shown(target)) if seal else when_sealed(url)
        with open_store(url, key=key) as store, store.create(target.device) as device:
            made = {"url": device.url, "device": device.name}
    except KeyboardInterrupt:
        raise fail.Interrupted("`ratchetkeep inspect` shows whether it was created") from None
    except DeviceExists as error:
        raise DeviceExists(
            error.place, error.what, "Nothing was changed. Choose another place"
        ) from None
    if as_json:
        out.say_json(made)
    else:
        out.say(f"created {out.clean(made['device'])} in {out.clean(made['url'])}")
        out.say("next: open it with your client and pair it with a phone (QR or pairing code)")
    return fail.DONE


@app.command(epilog=EPILOG)
@guarded
def inspect(url: Url, as_json: Json = False) -> int:
    """Show who a device is and what it holds.

    Also how old it is and who has it open. Changes nothing, and shows no secret.
    """
    from ratchetkeep.cli._secrets import when_sealed
    from ratchetkeep.inspect import inspect_device

    summary = inspect_device(url, key=when_sealed(url))
    if as_json:
        out.say_json(show.inspect_json(summary))
    else:
        show.show_device(summary)
    return fail.DONE


@app.command(epilog=EPILOG)
@guarded
def verify(url: Url, as_json: Json = False) -> int:
    """Check that a device is whole.

    Every record, key pair and signature. Changes nothing; the exit code is 1 if there are errors.
    """
    from ratchetkeep.cli._secrets import when_sealed
    from ratchetkeep.verify import verify_device

    findings = verify_device(url, key=when_sealed(url))
    if as_json:
        out.say_json(show.verify_json(_place(url), findings))
    else:
        show.show_findings(findings)
    return fail.FOUND if show.count_findings(findings)["error"] else fail.DONE


@app.command(epilog=EPILOG)
@guarded
def repair(
    url: Url,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be mended; write nothing.")
    ] = False,
    keep_files: Annotated[
        bool,
        typer.Option(
            "--keep-files",
            help="If another program wrote after an unclean stop: keep its files, not the journal.",
        ),
    ] = False,
    as_json: Json = False,
) -> int:
    """Mend what can be mended of a device without guessing.

    Leftovers, modes, an unclean journal, a manifest, indexes. Never a key or a record; what is
    replaced is kept beside the target. The exit code is 5 if errors are left.
    """
    from ratchetkeep.repair import errors_left, repair_device

    try:
        repairs = repair_device(url, dry_run=dry_run, keep_files=keep_files)
        left = errors_left(url, repairs if dry_run else ())
    except KeyboardInterrupt:
        what = "what was begun is done or not done; run `ratchetkeep repair` again"
        raise fail.Interrupted("nothing was changed" if dry_run else what) from None
    if as_json:
        out.say_json(show.repair_json(_place(url), repairs, left, dry_run=dry_run))
    else:
        show.show_repairs(repairs, left, dry_run=dry_run)
    return fail.DAMAGED if left else fail.DONE


def _place(url: str) -> str:
    """The store's own name for itself: a URL as it was typed may hold a password."""
    from ratchetkeep.stores import urls

    return urls.open_target(urls.parse(url)).url


@app.command(epilog=EPILOG)
@guarded
def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The device to copy; not changed.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="Where to, with the kind of store.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the device at DST, in one step.")
    ] = False,
    client: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="CLIENT",
            help="Who opens DST: pyaileys, waeys, baileys, baileysex or whatsmeow. A store of ours "
            "gets the sessions in that library's spelling.",
        ),
    ] = None,
    keep_rest: Annotated[
        bool,
        typer.Option(
            "--keep-rest", help="Keep what DST cannot hold in a file beside it, for the way back."
        ),
    ] = False,
    retire: Annotated[
        bool,
        typer.Option(
            "--retire", help="Then mark SRC as moved: ratchetkeep lets nobody go on with it."
        ),
    ] = False,
    from_retired: Annotated[
        bool,
        typer.Option(
            "--from-retired", help="Copy from a device that was moved: DST of then is lost."
        ),
    ] = False,
    copy_all: Annotated[
        bool,
        typer.Option(
            "--all",
            help="All devices of a store, or of a tree of folders with one in each. Run again, "
            "it goes on.",
        ),
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", min=1, metavar="N", help="With --all: copy in N processes, where that works."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and tell; write nothing.")
    ] = False,
    plaintext: Annotated[
        bool, typer.Option("--plaintext", help="From a sealed SRC to a DST that is not sealed.")
    ] = False,
    seal: Annotated[
        bool,
        typer.Option(
            "--seal", help="Seal DST, which is made: with RATCHETKEEP_NEW_KEY_*, else _KEY_*."
        ),
    ] = False,
    as_json: Json = False,
) -> int:
    """Copy a device, or with --all many of them, without pairing again.

    To another store or another library's format. What is converted, and what the target cannot
    hold, is listed before anything is written. The source is not changed, but for the mark of
    --retire. Go on with one of the two only: two living copies break each other's sessions.
    """
    from ratchetkeep.cli import _copy
    from ratchetkeep.errors import InvalidValue

    asked = _copy.Asked(
        source,
        target,
        overwrite,
        client,
        keep_rest,
        retire,
        from_retired,
        dry_run,
        plaintext,
        seal,
    )
    if copy_all:
        return _copy.copy_many(asked, jobs=jobs, as_json=as_json)
    if jobs is not None:
        raise InvalidValue("--jobs", "is for many devices", "Use it with --all")
    return _copy.copy_one(asked, as_json=as_json)


@app.command(epilog=EPILOG)
@guarded
def devices(url: Url, as_json: Json = False) -> int:
    """List the devices of a store.

    With their URLs, how many records each holds, who has it open, how long the owner's lease runs,
    and when the last commit was: as far as the kind of store tells without opening them.
    """
    from ratchetkeep.cli._secrets import when_sealed
    from ratchetkeep.errors import NoDevice
    from ratchetkeep.stores import urls

    target = urls.parse(url)
    store = urls.open_target(target, when_sealed(url))
    try:
        listed, place = store.listing(), store.url
    finally:
        store.close()
    if not listed:
        raise NoDevice(place, "holds no device")
    found = [(each, place + urls.query_of(target._replace(device=each.device))) for each in listed]
    if as_json:
        out.say_json(show.devices_json(place, found))
    else:
        show.show_devices(found)
    return fail.DONE


def _register() -> None:
    """The commands that stand in modules of their own."""
    from ratchetkeep.cli._backups import backup
    from ratchetkeep.cli._key import key
    from ratchetkeep.cli._prune import prune
    from ratchetkeep.cli._restore import cool, restore
    from ratchetkeep.cli._seal import rekey, seal, unseal

    for command in (backup, restore, cool, prune, seal, unseal, rekey, key):
        app.command(epilog=EPILOG)(command)


_register()
