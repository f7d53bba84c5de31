"""``python -m benchmarks``: measure, profile one workload, or plan a fleet."""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from . import profiling, report, resources
from .committers import committers, syncs_of_minting
from .copying import copies
from .data import ROOT, Data, load
from .fleet import plan
from .fleet.measuring import fleet
from .measure import say
from .plot import draw
from .sealing import unlocks
from .targets import Measured, targets
from .workloads import (
    Field,
    Scale,
    cached_gets,
    cold_gets,
    commits,
    openings,
    streams,
)

INTO = ROOT / "docs" / "benchmarks"
PLAN = ROOT / "docs" / "howto" / "plan-a-fleet.md"
QUICK_MINUTES = 1.5
# Of the time that is asked for; building, copying and the slowest peers take the rest.
TURNS = 0.5
# What is assumed of a fleet, and what each means.
PLANNED = {
    "messages": "of a device in a day",
    "commits": "for each message",
    "records": "of a device",
    "peak": "the busiest second over the mean one",
    "share": "devices of a worker",
}
PROFILE_RUNS = {"session": 2000, "bundle": 800, "group": 20, "mint": 20, "get": 20000}


@contextmanager
def workplace(below: Path) -> Iterator[Path]:
    """A folder below ``below``, for all peers, so that they share a file system; removed
    afterwards."""
    with tempfile.TemporaryDirectory(prefix=".benchmarks-", dir=below) as name:
        yield Path(name)


def measure(field: Field) -> Measured:
    """Run everything."""
    field.build()
    # What is ours here would make each of the collector's passes longer for whoever's turn it is.
    gc.collect()
    gc.freeze()
    field.open()
    try:
        times = commits(field)
        times["cached get"] = cached_gets(field)
        together = committers(field)
    finally:
        field.close()
    times["cold get"] = cold_gets(field)
    times["open"] = openings(field)
    times |= streams(field)
    times["unlock"] = unlocks()
    found, of_fleet = fleet(field)
    times |= of_fleet
    return Measured(
        scale=field.scale,
        times=times,
        committers=together,
        memory=resources.memory(field),
        disk=resources.disk(field),
        copies=copies(field),
        mint_syncs=syncs_of_minting(field),
        key_seconds=field.data.key_seconds,
        turn_seconds=field.turn_seconds,
        fleet=found,
    )


def explain(run: Measured, below: Path, data: Data) -> dict[str, str]:
    """A profile for each target that was missed and has one, by its title."""
    found: dict[str, str] = {}
    for each in targets(run):
        if not each.is_missed or not each.profile or each.profile in found:
            continue
        size = each.size or run.scale.main
        found[each.profile] = profiled(each.workload, each.kind, size, None, below, data)
    return found


def profiled(
    workload: str, kind: str, size: int, count: int | None, below: Path, data: Data
) -> str:
    """The profile of a workload, in a folder of its own."""
    say(f"profiling: {workload} on {kind}")
    runs = PROFILE_RUNS.get(workload, 10) if count is None else count
    with workplace(below) as folder:
        return profiling.profile(workload, kind, size, runs, folder, data)


def run(scale: Scale, below: Path, into: Path, command: str) -> Measured:
    """Measure, and write the results, the picture and the page into ``into``.

    :param command: the line that asked for it, for the page.
    """
    start = time.monotonic()
    data = load()
    with workplace(below) as folder:
        field = Field(folder, data, scale)
        try:
            found = measure(field)
        finally:
            field.end()
        about = report.machine(below)
    profiles = explain(found, below, data)
    into.mkdir(parents=True, exist_ok=True)
    results = report.as_json(found, about, field.missing, command)
    (into / "results.json").write_text(results)
    if found.fleet is not None:
        place = PLAN if into == INTO else into / PLAN.name
        place.write_text(plan.page(json.loads(results)))
    page = report.as_page(found, about, field.missing, profiles, command)
    (into / "index.md").write_text(page)
    draw(found, into / "curves.svg")
    missed = [each.what for each in targets(found) if each.is_missed]
    say(f"done in {(time.monotonic() - start) / 60:.1f} minutes; {len(missed)} targets missed")
    return found


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=5.0, help="about how long; the disk decides"
    )
    parser.add_argument(
        "--quick", action="store_true", help="few turns, and no folders of 100,000 files"
    )
    parser.add_argument("--folder", type=Path, default=Path(), help="whose disk is measured")
    parser.add_argument("--into", type=Path, default=INTO, help="where the page goes")
    commands = parser.add_subparsers(dest="command")
    one = commands.add_parser("profile", help="show where the time of one workload goes")
    one.add_argument("workload", choices=profiling.WORKLOADS)
    one.add_argument("--store", choices=profiling.STORES, default="sqlite")
    one.add_argument("--size", type=int, default=1_000, help="sessions in the device")
    one.add_argument("--runs", type=int, help="how often")
    usual = plan.Assumptions()
    planned = commands.add_parser("plan", help="plan a fleet with the results of a run")
    planned.add_argument("--results", type=Path, default=INTO / "results.json", help="of the run")
    planned.add_argument(
        "--devices", type=int, nargs="+", default=plan.DEVICES, help="how many, for each plan"
    )
    for name, what in PLANNED.items():
        value = getattr(usual, name)
        planned.add_argument(f"--{name}", type=type(value), default=value, help=what)
    return parser.parse_args(given)


def planned(asked: argparse.Namespace) -> str:
    """What one of each costs, and the plans."""
    costs = plan.Costs.of(json.loads(asked.results.read_text()))
    given = plan.Assumptions(**{name: getattr(asked, name) for name in PLANNED})
    tables = plan.costs_table(costs), plan.plan_table(costs, given, tuple(asked.devices))
    return "\n\n".join(tables)


def command_line(asked: argparse.Namespace) -> str:
    """What measures this way, without the names of this machine's folders."""
    words = ["python -m benchmarks", "--quick" if asked.quick else f"--minutes {asked.minutes:g}"]
    words += ["--folder FOLDER"] if asked.folder != Path() else []
    words += ["--into FOLDER"] if asked.into != INTO else []
    return " ".join(words)


def main(given: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    asked = _arguments(given)
    below = asked.folder.resolve()
    if asked.command == "profile":
        what = (asked.workload, asked.store, asked.size, asked.runs)
        report.show(profiled(*what, below, load()))
    elif asked.command == "plan":
        report.show(planned(asked))
    else:
        minutes = QUICK_MINUTES if asked.quick else asked.minutes
        scale = Scale(seconds=60 * minutes * TURNS)
        if asked.quick:
            scale = replace(scale, most_files=10_000, fewest=2, children=1, quick=True)
            scale = replace(scale, fleets=((1, 200), (4, 1_000)), idle=200, mixed=1_000, lease=2.0)
        run(scale, below, asked.into, command_line(asked))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
