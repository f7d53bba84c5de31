"""The command that makes a key to seal stores with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ratchetkeep.cli import _failures as fail
from ratchetkeep.cli import _output as out
from ratchetkeep.cli._failures import guarded


@guarded
def key(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where; nothing may be there.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, errors too (on stderr).")
    ] = False,
) -> int:
    """Make a new random key, in a file that its owner alone can read.

    Name it with RATCHETKEEP_KEY_FILE. Keep a copy of it apart from the stores that it seals: it
    opens them, and without it they are lost.
    """
    from ratchetkeep.sealing.keys import make_key_file

    make_key_file(file)
    if as_json:
        out.say_json({"file": str(file)})
    else:
        name = out.clean(str(file))
        out.say(f"made a key in {name}")
        out.say(f"next: keep a copy of it elsewhere, and set RATCHETKEEP_KEY_FILE={name}")
    return fail.DONE
