"""The results as JSON and as a page."""

from __future__ import annotations

import json
import os
import platform
import re
import sqlite3
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import apsw

from .fleet import page as fleet_page
from .fleet.lone import BUNDLE, SESSION
from .measure import Results, Spread
from .peers import PEERS, BareLimit, BarePostgres, OurBaileys, OurBaileysEx, SqliteBare
from .resources import READ
from .sealing import parts as sealed_parts
from .tables import DASH, figure, in_units, table
from .target import Target
from .targets import MIB, Measured, targets
from .workloads import BareSelect, Lookups

PAGE = Path(__file__).with_name("page.md")
# Beyond this ratio of its limit's quartiles, a disk is busy with something else, or throttled.
UNEVEN = 2.5
PACKAGES = (
    "ratchetkeep",
    "apsw",
    "cryptography",
    "lmdb",
    "psycopg",
    "psycopg-pool",
    "pyaileys",
    "waton",
)


def machine(folder: Path) -> dict[str, str]:
    """What the figures depend on; nothing that names one machine."""
    found = {
        "system": _system(),
        "processor": _processor(),
        "processors": str(os.cpu_count()),
        "file system": _file_system(folder),
        "Python": platform.python_version(),
        "SQLite of ratchetkeep": apsw.sqlite_lib_version(),
        "SQLite of the standard library": sqlite3.sqlite_version,
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _system() -> str:
    """The system with its major and minor version; the rest names a host's own build."""
    numbers = re.match(r"\d+(\.\d+)?", platform.release())
    return f"{platform.system()} {numbers[0]}" if numbers else platform.system()


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1] if named else platform.machine()


def _file_system(folder: Path) -> str:
    """The type of the file system that ``folder`` is on."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return "unknown"
    real = folder.resolve()
    found = [line.split()[1:3] for line in mounts]
    above = [(place, kind) for place, kind in found if real.is_relative_to(place)]
    return max(above, key=lambda each: len(each[0]))[1] if above else "unknown"


def as_json(
    run: Measured, about: Mapping[str, str], missing: Mapping[str, str], command: str
) -> str:
    """Everything, times in nanoseconds."""
    document: dict[str, Any] = {
        "measured": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "seconds of turns": round(run.turn_seconds, 1),
        "machine": dict(about),
        "scale": asdict(run.scale),
        "left out": dict(missing),
        "targets": [{**asdict(each), "is_met": each.is_met} for each in targets(run)],
        "nanoseconds": {name: _nested(found) for name, found in run.times.items()},
        "commits per second": {
            name: {part: asdict(spread) for part, spread in found.items()}
            for name, found in run.committers.items()
        },
        "memory bytes": {
            name: {
                size: {part: asdict(s) for part, s in parts.items()} for size, parts in x.items()
            }
            for name, x in run.memory.items()
        },
        "disk bytes": run.disk,
        "copies": {
            way: {size: asdict(copied) for size, copied in sizes.items()}
            for way, sizes in run.copies.items()
        },
        "syncs of minting": run.mint_syncs,
        "seconds of making 812 pre-keys": run.key_seconds,
        "postgresql": None if run.fleet is None else asdict(run.fleet),
    }
    return json.dumps(document, indent=1) + "\n"


def _nested(results: Results) -> dict[str, dict[int, dict[str, float]]]:
    found: dict[str, dict[int, dict[str, float]]] = {}
    for (name, size), spread in results.items():
        found.setdefault(name, {})[size] = asdict(spread)
    return found


def as_page(
    run: Measured,
    about: Mapping[str, str],
    missing: Mapping[str, str],
    profiles: Mapping[str, str],
    command: str,
) -> str:
    """The page with its tables filled in."""
    parts = {
        "command": command,
        "make": _make(command),
        "machine": _machine(run, about),
        "main": f"{run.scale.main:,}",
        "big": f"{run.scale.big:,}",
        "peers": _peers(missing),
        "targets": _targets(targets(run)),
        "session": _times(run, "session", run.scale.main, BareLimit.name),
        "bundle": _times(run, "bundle", run.scale.main, BareLimit.name),
        "group": _times(run, "group", run.scale.big, BareLimit.name),
        "mint": _times(run, "mint", run.scale.main, SqliteBare.name),
        "keys": f"{run.key_seconds * 1000:.0f} ms",
        "stream": _streams(run),
        "committers": _rates(run.committers, run.scale.workers),
        "cached": _times(run, "cached get", run.scale.main, Lookups.name),
        "cold": _times(run, "cold get", run.scale.big, BareSelect.name),
        "open": _by_size(run, "open"),
        "sizes": _by_size(run, "session by size"),
        "memory": _memory(run),
        "disk": _disk(run),
        "copies": _copies(run),
        "folders": _folders(run),
        "profiles": _profiles(targets(run), profiles),
        **sealed_parts(run.times, run.disk, run.copies, run.scale),
        **_fleet(run),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], PAGE.read_text())


def _machine(run: Measured, about: Mapping[str, str]) -> str:
    words = ", ".join(f"{name} {value}" for name, value in about.items())
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    text = f"Measured {day}, {run.turn_seconds:.0f} seconds of turns: {words}."
    if run.scale.quick:
        text = (
            f"**This was a quick run:** few turns, and no folder of more than "
            f"{run.scale.most_files:,} files. It shows that everything works; its figures are "
            f"rough.\n\n{text}"
        )
    limit = run.spread("session", BareLimit.name)
    if limit.high < UNEVEN * limit.low:
        return text
    spread = f"{in_units(limit.low)} to {in_units(limit.high)}"
    return (
        f"{text}\n\n**The disk was uneven in this run:** the quartiles of its limit are {spread}."
    )


def _peers(missing: Mapping[str, str]) -> str:
    rows = [
        (
            peer.name,
            peer.syncs,
            f"not in this run: {missing[peer.name]}" if peer.name in missing else "",
        )
        for peer in PEERS
    ]
    lines = ["| peer | what a commit costs on the disk | |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _targets(rows: list[Target]) -> str:
    lines = ["| target | bound | reached | |", "|---|---:|---:|---|"]
    for row in rows:
        bound = f"{'at least' if row.at_least else 'at most'} {row.limit:g}{row.unit}"
        met = {True: "yes", False: "**no**", None: "not judged: too few times"}[row.is_met]
        reached = DASH if row.reached is None else f"{row.reached:.2f}{row.unit}"
        lines.append(f"| {row.what} | {bound} | {reached} | {met} |")
    return "\n".join(lines)


def _times(run: Measured, workload: str, size: int, to: str) -> str:
    results = run.times[workload]
    base = results[to, size if (to, size) in results else run.scale.main]
    found = {name: s for (name, at), s in results.items() if at == size}
    found[to] = base
    rows = [
        (
            name,
            in_units(spread.p50),
            f"{in_units(spread.low)} to {in_units(spread.high)}",
            DASH if spread.p99 is None else in_units(spread.p99),
            f"{figure(spread.p50 / base.p50)} x",
            f"{figure(spread.p99 / base.p99)} x" if spread.p99 and base.p99 else DASH,
            f"{spread.count:,}",
            *([in_units(spread.first)] if base.first else []),
        )
        for name, spread in sorted(found.items(), key=lambda each: each[1].p50)
    ]
    head = ["peer", "p50", "quartiles", "p99", f"p50 over {to}", "p99 over its p99", "times"]
    return table([*head, "a turn's first"] if base.first else head, rows)


def _by_size(run: Measured, workload: str) -> str:
    sizes = run.scale.sizes
    results = run.times[workload]
    names = dict.fromkeys(name for name, _ in results)
    rows = []
    for name in names:
        cells = [results.get((name, size)) for size in sizes]
        there = [cell.p50 for cell in cells if cell]
        ratios = (there[-1] / there[0], max(there) / min(there))
        shown = [f"{each:.2f} x" if len(there) > 1 else "" for each in ratios]
        rows.append((name, *(in_units(c.p50) if c else "" for c in cells), *shown))
    ends = ["largest over smallest device", "highest over lowest"]
    return table(["peer", *(f"{size:,}" for size in sizes), *ends], rows)


def _streams(run: Measured) -> str:
    rows = []
    for (name, size), alone in run.times["stream"].items():
        closed = run.times["stream and close"][name, size]
        rates = [f"{1e9 / spread.p50:,.0f}" for spread in (alone, closed)]
        rows.append((name, in_units(alone.p50), in_units(closed.p50), *rates))
    head = ["peer", "a commit", "with its part of closing", "commits per second", "with closing"]
    return table(head, rows)


def _rates(committers: Mapping[str, Mapping[str, Spread]], workers: int) -> str:
    rows = [
        (
            name,
            _rate(found["one"]),
            _rate(found["many"]),
            f"{found['many'].p50 / found['one'].p50:.1f} x",
        )
        for name, found in committers.items()
    ]
    return table(["commits per second", "one", f"{workers} at once", "ratio"], rows)


def _rate(spread: Spread) -> str:
    return f"{spread.p50:,.0f} ({spread.low:,.0f} to {spread.high:,.0f})"


def _memory(run: Measured) -> str:
    rows = []
    for name, sizes in run.memory.items():
        for part, when in (("opened", "just opened"), ("read", f"up to {READ:,} read")):
            cells = [
                f"{sizes[size][part].p50 / MIB:.1f} MiB" if size in sizes else ""
                for size in run.scale.sizes
            ]
            rows.append((f"{name}, {when}", *cells))
    return table(["above an empty device", *(f"{size:,}" for size in run.scale.sizes)], rows)


def _disk(run: Measured) -> str:
    sizes = run.scale.sizes
    rows = [
        (name, *(f"{found[size] / size:,.0f}" if size in found else "" for size in sizes))
        for name, found in run.disk.items()
    ]
    return table(["bytes for each session", *(f"{size:,}" for size in sizes)], rows)


def _copies(run: Measured) -> str:
    rows = [
        (
            way,
            f"{size:,}",
            in_units(copied.ours.p50),
            in_units(copied.bare.p50),
            f"{copied.ratio:.1f} x",
            f"{copied.peak / MIB:.0f} MiB",
            f"{copied.helper / MIB:.0f} MiB" if copied.helper else DASH,
        )
        for way, sizes in run.copies.items()
        for size, copied in sizes.items()
    ]
    head = ["copy", "records", "time", "bare loop", "ratio", "memory", "of a helper"]
    return table(head, rows)


def _folders(run: Measured) -> str:
    """How long folders take to open, in a sentence."""
    parts = []
    for kind in (OurBaileys, OurBaileysEx):
        size = run.scale.sizes_of(kind)[-1]
        taken = run.spread("open", kind.name, size).p50 / 1e6
        parts.append(f"`{kind.name[12:]}` took {taken:,.1f} ms to open with {size:,} sessions")
    text = f"In this run {' and '.join(parts)}."
    if run.scale.most_files < run.scale.sizes[-1]:
        text += f" {run.scale.sizes[-1]:,} files were left out of this run."
    return text


def _fleet(run: Measured) -> dict[str, str]:
    """What the page has of PostgreSQL."""
    if run.fleet is None:
        return dict.fromkeys(fleet_page.PARTS, "Not in this run: there is no server here.")
    return {
        "fleet_session": _times(run, SESSION, run.scale.main, BarePostgres.name),
        "fleet_bundle": _times(run, BUNDLE, run.scale.main, BarePostgres.name),
        "fleet_committers": _rates(run.fleet.committers, run.scale.workers),
        "fleet_sessions": str(run.scale.sessions),
        **fleet_page.parts(run.fleet),
    }


def _make(command: str) -> str:
    """What ``make`` has for the same, in a sentence, if it has."""
    minutes = re.fullmatch(r"python -m benchmarks --minutes (\S+)", command)
    if minutes is None:
        return ""
    same = "make bench" if minutes[1] == "5" else f"make bench MINUTES={minutes[1]}"
    return f"`{same}` installs what is needed and runs the same line.\n\n"


def _profiles(rows: list[Target], profiles: Mapping[str, str]) -> str:
    """The missed targets: first those without a profile, then the profiles."""
    missed = [row for row in rows if row.is_missed]
    without = [row for row in missed if row.profile not in profiles]
    parts = [] if missed else ["No target was missed in this run."]
    if without:
        parts.append("Missed, and without a profile:")
        parts.append("\n".join(f"* {row.what}. {row.unexplained}" for row in without))
    for title, text in profiles.items():
        about = "\n".join(f"* {row.what}" for row in missed if row.profile == title)
        parts.append(f"### {title}\n\nMissed:\n\n{about}\n\n```text\n{text}\n```")
    return "\n\n".join(parts)


def show(text: str) -> None:
    """Print something that was asked for."""
    sys.stdout.write(text + "\n")
