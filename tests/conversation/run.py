"""Long conversations of real clients, killed all the time.

``python tests/conversation/run.py --kills 1000 [--client pyaileys|waeys|both]
[--store files|postgresql] [--pauses N] [--steals N] [--restarts N] [--seed N] [--minutes M]``:
every cast of the clients has its share of the kills. Those over PostgreSQL, where other workers
take over, have pauses, steals and restarts of the database too; as many as go with their kills, if
none are asked for. It ends with a table, and with exit code 1 at a breach, whose folder it keeps.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    # Run as a file: the modules beside it are the package ``conversation``.
    sys.path[0] = str(Path(__file__).parents[1])

from rich.console import Console
from rich.table import Table

from conversation.casts import CASTS, DATABASE, FLEETS, Cast
from conversation.play import Score, perform

COUNTED = {
    "messages": "messages",
    "kills": "kills",
    "pauses": "pauses",
    "steals": "steals",
    "database restarts": "database restarts",
    "starts of workers": "starts",
    "taken over alive": "taken over",
    "of these refused": "refused",
    "by the database itself": "fenced",
    "gave up by themselves": "lost by themselves",
    "commits in doubt, settled": "settled",
    "late messages": "late",
    "of these read": "late and read",
    "sessions begun": "sessions",
    "pre-keys consumed": "pre-keys consumed",
    "redelivered": "redelivered",
    "of these duplicates": "taken in known",
    "out of order": "out of order",
}
BREACHES = {
    "undecryptable": ("undecryptable", "lost message", "wrong text"),
    "reused pre-keys": ("reused pre-key",),
    "reused message keys": ("reused message key",),
    "writes of non-owners": ("write without ownership",),
    "other breaches": ("failed", "not sound"),
}
FILES = "files"
# To so many kills, where not said otherwise.
TO_ONE_KILL = {"pauses": 0.5, "steals": 0.25, "restarts": 0.1}


def main() -> int:
    """Run it; the exit code."""
    options = _options()
    console = Console()
    casts = [
        cast
        for cast in (*CASTS, *FLEETS)
        if options.client in (None, cast.client)
        and options.store in (None, DATABASE if cast.lease else FILES)
    ]
    until = time.monotonic() + 60 * options.minutes
    scores: dict[str, Score] = {}
    began = time.monotonic()
    for cast in casts:
        faults = _faults_of(cast, casts, options)
        share = cast.share / sum(each.share for each in casts if each.name not in scores)
        seconds = (until - time.monotonic()) * share
        scores[cast.name] = _one(cast, faults, options.seed, seconds, console)
    console.print(_table(scores))
    console.print(f"seed {options.seed}, {time.monotonic() - began:.0f} s")
    return int(any(score.breaches for score in scores.values()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Conversations of real clients, with kills.")
    parser.add_argument("--kills", type=int, default=1000, help="in all conversations together")
    parser.add_argument("--client", choices=sorted({cast.client for cast in CASTS}))
    parser.add_argument("--store", choices=(FILES, DATABASE))
    for name in TO_ONE_KILL:
        parser.add_argument(f"--{name}", type=int, help=f"over {DATABASE}, in all together")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end earlier then")
    return parser.parse_args()


def _faults_of(cast: Cast, casts: Sequence[Cast], options: argparse.Namespace) -> dict[str, int]:
    """How many of each fault a cast has."""
    faults = {"kills": round(options.kills * cast.share / sum(each.share for each in casts))}
    if not cast.lease:
        return faults
    share = cast.share / sum(each.share for each in casts if each.lease)
    for name, rate in TO_ONE_KILL.items():
        wanted: int | None = getattr(options, name)
        faults[name] = round(faults["kills"] * rate if wanted is None else wanted * share)
    return faults


def _one(cast: Cast, faults: dict[str, int], seed: int, seconds: float, console: Console) -> Score:
    folder = Path(tempfile.mkdtemp(prefix="conversation-"))
    score = asyncio.run(perform(cast.play(folder, **faults, seed=seed, seconds=seconds)))
    if score.breaches:
        console.print(
            f"{cast.name}: broken with seed {seed}, kept in {folder}", style="red", soft_wrap=True
        )
        for breach in score.breaches:
            console.print(f"  {breach}", markup=False, soft_wrap=True)
    else:
        shutil.rmtree(folder)
    return score


def _table(scores: dict[str, Score]) -> Table:
    table = Table(title="conversations")
    table.add_column("", no_wrap=True)
    for name in scores:
        table.add_column(name, justify="right")
    table.add_column("all", justify="right")
    rows = {
        title: [score.counts[name] for score in scores.values()] for title, name in COUNTED.items()
    }
    for title, kinds in BREACHES.items():
        rows[title] = [sum(map(score.breached, kinds)) for score in scores.values()]
    for title, counts in rows.items():
        table.add_row(title, *map(str, counts), str(sum(counts)))
    return table


if __name__ == "__main__":
    sys.exit(main())
