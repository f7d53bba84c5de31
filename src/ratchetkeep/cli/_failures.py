"""How a command fails: which exit code an error has, and how it is told: no traceback."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, ParamSpec

import typer

from ratchetkeep import errors
from ratchetkeep.cli import _output as out

P = ParamSpec("P")

DEBUG = "RATCHETKEEP_DEBUG"

(
    DONE,
    FOUND,
    USAGE,
    MISSING,
    EXISTS,
    DAMAGED,
    IN_USE,
    NOT_HELD,
    NOT_WRITTEN,
    SEALED,
    BUG,
    INTERRUPTED,
) = (
    *range(10),
    70,
    130,
)

# The table of the package's docstring and of --help; a test keeps the three alike.
MEANINGS = {
    DONE: "done",
    FOUND: "verify found errors",
    USAGE: "wrong usage: an option, an argument, or a URL that names no kind of store",
    MISSING: "no device is there",
    EXISTS: "something is there already",
    DAMAGED: "damaged, or the operating system refused",
    IN_USE: "in use by another owner, moved to another place, or ownership was lost",
    NOT_HELD: "the target cannot hold it, or a newer version wrote it",
    NOT_WRITTEN: "a write failed; none of it counts",
    SEALED: "sealed, and the key is wrong or missing",
    BUG: "a bug in ratchetkeep",
    INTERRUPTED: "interrupted",
}

# The one place that says which error ends with which code.
EXIT_CODES: dict[type[errors.RatchetkeepError], int] = {
    errors.RatchetkeepError: DAMAGED,
    errors.NoDevice: MISSING,
    errors.DeviceExists: EXISTS,
    errors.StoreDamaged: DAMAGED,
    errors.StoreUnreadable: DAMAGED,
    errors.StoreRewound: DAMAGED,
    errors.WrongKey: SEALED,
    errors.DecodeError: DAMAGED,
    errors.UnsupportedVersion: NOT_HELD,
    errors.NotHeld: NOT_HELD,
    errors.NameCollision: NOT_HELD,
    errors.CommitFailed: NOT_WRITTEN,
    errors.ReadOnly: NOT_WRITTEN,
    errors.StoreInUse: IN_USE,
    errors.DeviceMoved: IN_USE,
    errors.OwnershipLost: IN_USE,
    errors.StoreClosed: IN_USE,
    errors.UnknownStore: USAGE,
    errors.InvalidValue: USAGE,
}

# The library's own remedies speak of Python; these are the same for a shell.
REMEDIES: dict[type[errors.RatchetkeepError], str] = {
    errors.NoDevice: "Check the path, or create a device there with `ratchetkeep new`",
    errors.DeviceExists: "Choose another place, or replace what is there with --overwrite",
    errors.StoreInUse: "Close it there first",
    errors.DeviceMoved: (
        "Use it there. If that copy is lost, bring it back from here with `ratchetkeep copy "
        "--from-retired`"
    ),
    errors.CommitFailed: "Look at what is there with `ratchetkeep verify`, then try again",
}
# Where an error brings no remedy along.
FALLBACK = {USAGE: "See `ratchetkeep --help`", NOT_HELD: "Use a sqlite: store, which holds it"}
OTHERWISE = "Mend the cause and try again"


class Failure(NamedTuple):
    """What is told of an error, and the exit code."""

    kind: str
    place: str
    what: str
    remedy: str
    code: int


def exit_code(error: errors.RatchetkeepError) -> int:
    """The exit code of an error; a class that the table lacks has its parent's."""
    return next(EXIT_CODES[each] for each in type(error).__mro__ if each in EXIT_CODES)


def failure_of(error: Exception) -> Failure:
    """What to tell of an error."""
    kind = type(error).__name__
    if isinstance(error, errors.RatchetkeepError):
        code = exit_code(error)
        return Failure(kind, error.place, error.what, _remedy(error, code), code)
    if isinstance(error, OSError):
        place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        return Failure(kind, place, error.strerror or "input or output failed", OTHERWISE, DAMAGED)
    # Its message is not told: nobody knows what is in it.
    remedy = f"This is a bug. Please report it, with what {DEBUG}=1 shows"
    return Failure(kind, "", f"unexpected {kind}", remedy, BUG)


def _remedy(error: errors.RatchetkeepError, code: int) -> str:
    if error.remedy == type(error).default_remedy:
        return REMEDIES.get(type(error)) or error.remedy or FALLBACK.get(code, OTHERWISE)
    return error.remedy or FALLBACK.get(code, OTHERWISE)


def tell(error: Exception, *, as_json: bool) -> int:
    """Tell of an error on stderr; returns its exit code."""
    failure = failure_of(error)
    if failure.code == BUG and os.environ.get(DEBUG):
        _trace(error)
    if as_json:
        out.complain(json.dumps({"error": error_json(failure)}))
        return failure.code
    place = f"{out.clean(failure.place)}: " if failure.place else ""
    out.complain(f"error: {place}{out.clean(failure.what)}")
    out.complain(f"next:  {out.clean(failure.remedy)}")
    return failure.code


def error_json(failure: Failure) -> dict[str, str]:
    """An error as ``--json`` tells of it."""
    return {name: getattr(failure, name) for name in ("kind", "place", "what", "remedy")}


def _trace(error: BaseException | None) -> None:
    """Where it happened: frames alone, since messages and locals may hold keys."""
    while error is not None:
        for line in traceback.format_tb(error.__traceback__):
            out.complain(line.rstrip("\n"))
        out.complain(type(error).__name__)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def tell_interrupt(what: str, *, as_json: bool) -> int:
    """One line about Ctrl-C; returns the exit code."""
    told = {"kind": "Interrupted", "place": "", "what": what, "remedy": ""}
    out.complain(json.dumps({"error": told}) if as_json else f"interrupted: {what}")
    return INTERRUPTED


class Interrupted(Exception):
    """Ctrl-C, by a command that can say what it left behind."""


def guarded(command: Callable[P, int]) -> Callable[P, None]:
    """A command that returns its exit code, as one that typer can run and that never blows up."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        as_json = bool(kwargs.get("as_json"))
        try:
            code = command(*args, **kwargs)
        except Interrupted as stop:
            code = tell_interrupt(str(stop), as_json=as_json)
        except KeyboardInterrupt:
            code = tell_interrupt("nothing was changed", as_json=as_json)
        except typer.Exit:
            raise
        except Exception as error:  # noqa: BLE001 - the last stop before the user
            code = tell(error, as_json=as_json)
        raise typer.Exit(code)

    return run


@contextmanager
def shielded() -> Iterator[None]:
    """Around everything: what comes before, after and between the commands."""
    out.prepare_streams()
    # A service manager or a closed terminal ends a copy as Ctrl-C does: it cleans up first.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(tell_interrupt("nothing was changed", as_json=False))
    except Exception as error:  # noqa: BLE001 - the last stop before the user
        sys.exit(tell(error, as_json="--json" in sys.argv))
