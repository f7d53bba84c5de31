"""Real clients lose their state again and again.

``python tests/rewind/run.py [--rounds 20] [--seed N] [--client NAME]``: each client has so many
rounds of each kind. In a round with an *older state* its files are put back as they were, and it
goes on with them; in a *cold* one it is restored from a backup, or what was put back is cooled, and
it goes on. It ends with a table, and with exit code 1 if a cold round did harm.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

if __name__ == "__main__":
    # Run as a file: the modules beside it are the package ``rewind``.
    sys.path[0] = str(Path(__file__).parents[1])

from rich.console import Console
from rich.table import Table

from rewind.casts import CLIENTS, story
from rewind.losses import Keeper, live_on_exactly, lose_and_restore
from rewind.over_node import Driver

ROUNDS_A_STORY = 5
"""Losses of one device, one after the other; then comes a new one."""

OLDER, COLD = "an older state goes on", "restored cold"
ROWS = {
    "losses": "losses",
    "messages": "messages",
    "message keys used twice": "message_keys",
    "pre-key ids given out twice": "ids",
    "used-up pre-keys back": "stock",
    "pre-keys used for two sessions": "sessions",
    "parts that could not be read": "refusals",
    "retry receipts": "receipts",
    "texts that never came out": "lost",
}


def main() -> int:
    """Run it; the exit code."""
    options = _options()
    clients = [options.client] if options.client else list(CLIENTS)
    console, began = Console(), time.monotonic()
    scores: dict[str, dict[str, Counter[str]]] = {OLDER: {}, COLD: {}}
    driver = Driver()
    for client in clients:
        with tempfile.TemporaryDirectory(prefix="rewind-") as folder, _quiet():
            where = (client, driver, Path(folder), options.rounds, options.seed)
            scores[OLDER][client] = asyncio.run(_exact(*where))
            scores[COLD][client] = asyncio.run(_cold(*where))
    driver.close()
    for kind, counts in scores.items():
        console.print(_table(kind, counts))
    console.print(f"seed {options.seed}, {time.monotonic() - began:.0f} s")
    return int(any(counts["harmful"] for counts in scores[COLD].values()))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The Signal engine of waeys prints what it thinks."""
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Real clients lose their state.")
    parser.add_argument("--rounds", type=int, default=20, help="of each kind, for each client")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--client", choices=CLIENTS)
    return parser.parse_args()


async def _exact(client: str, driver: Driver, folder: Path, rounds: int, seed: int) -> Counter[str]:
    score: Counter[str] = Counter()
    for number in range(rounds):
        told = story(client, driver, folder / f"exact {number}", seed + number)
        await told.begin()
        score.update(asdict(await live_on_exactly(told)), losses=1, messages=told.messages())
        await told.close()
    return score


async def _cold(client: str, driver: Driver, folder: Path, rounds: int, seed: int) -> Counter[str]:
    score: Counter[str] = Counter()
    for first in range(0, rounds, ROUNDS_A_STORY):
        told = story(client, driver, folder / f"cold {first}", seed + first)
        await told.begin()
        keeper = Keeper(told)
        for _ in range(min(ROUNDS_A_STORY, rounds - first)):
            figures = await lose_and_restore(told, keeper)
            score.update(asdict(figures), losses=1, harmful=not figures.is_harmless)
        score.update(messages=told.messages())
        await told.close()
    return score


def _table(kind: str, scores: dict[str, Counter[str]]) -> Table:
    table = Table(title=kind)
    table.add_column("", no_wrap=True)
    for client in scores:
        table.add_column(client, justify="right")
    for title, name in ROWS.items():
        table.add_row(title, *(str(counts[name]) for counts in scores.values()))
    return table


if __name__ == "__main__":
    sys.exit(main())
