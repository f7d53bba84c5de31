"""Long conversations of real clients, killed all the time.

``python tests/conversation/run.py --kills 1000 [--client pyaileys|waeys|both] [--seed N]
[--minutes M]``: every cast of the clients has its share of the kills. It ends with a table, and
with exit code 1 at a breach, whose folder it keeps.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    # Run as a file: the modules beside it are the package ``conversation``.
    sys.path[0] = str(Path(__file__).parents[1])

from rich.console import Console
from rich.table import Table

from conversation.casts import CASTS, Cast
from conversation.play import Score, perform

COUNTED = {
    "messages": "messages",
    "kills": "kills",
    "restarts": "starts",
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
    "other breaches": ("failed", "not sound"),
}


def main() -> int:
    """Run it; the exit code."""
    options = _options()
    console = Console()
    casts = [cast for cast in CASTS if options.client in (None, cast.client)]
    shares = sum(cast.share for cast in casts)
    until = time.monotonic() + 60 * options.minutes
    scores: dict[str, Score] = {}
    began = time.monotonic()
    for cast in casts:
        kills = round(options.kills * cast.share / shares)
        share = cast.share / sum(each.share for each in casts if each.name not in scores)
        seconds = (until - time.monotonic()) * share
        scores[cast.name] = _one(cast, kills, options.seed, seconds, console)
    console.print(_table(scores))
    console.print(f"seed {options.seed}, {time.monotonic() - began:.0f} s")
    return int(any(score.breaches for score in scores.values()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Conversations of real clients, with kills.")
    parser.add_argument("--kills", type=int, default=1000, help="in all conversations together")
    parser.add_argument("--client", choices=sorted({cast.client for cast in CASTS}))
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end earlier then")
    return parser.parse_args()


def _one(cast: Cast, kills: int, seed: int, seconds: float, console: Console) -> Score:
    folder = Path(tempfile.mkdtemp(prefix="conversation-"))
    score = asyncio.run(perform(cast.play(folder, kills=kills, seed=seed, seconds=seconds)))
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
