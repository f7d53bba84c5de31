"""The command line: it prints what the library did, and decides nothing.

Every command ends with one of these exit codes:

===  ===============================================================================
  0  done
  1  verify found errors
  2  wrong usage: an option, an argument, or a URL that names no kind of store
  3  no device is there
  4  something is there already
  5  damaged, or the operating system refused
  6  in use by another owner, moved to another place, or ownership was lost
  7  the target cannot hold it, or a newer version wrote it
  8  a write failed; none of it counts
  9  sealed, and the key is wrong or missing
 70  a bug in ratchetkeep
130  interrupted
===  ===============================================================================

Errors go to stderr as ``error: <place>: <what>`` and ``next:  <remedy>``; with ``--json`` as
``{"error": {"kind", "place", "what", "remedy"}}``, and then stdout stays empty.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command that ``sys.argv`` names, and exit with its code."""
    # Imported here, since ``import ratchetkeep.cli`` has no need of typer.
    from ratchetkeep.cli._failures import shielded

    with shielded():
        from ratchetkeep.cli.app import app

        app(prog_name="ratchetkeep")
