"""The curves over the number of records, as one picture."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .peers import PEERS
from .targets import MIB, Measured
from .workloads import is_floor

Curves = Mapping[str, Mapping[int, float]]

TIMES = {
    "session by size": "one session, a commit",
    "bundle": "session, pre-key deleted, credentials",
    "group": "1,024 sessions, a commit",
    "mint": "812 pre-keys and credentials",
    "cached get": "one get, cached",
    "cold get": "1,000 sessions, cold (or all)",
    "open": "open a device",
}
_STYLES = ("-", "--", ":")


def _times(run: Measured, workload: str) -> Curves:
    """Milliseconds by peer and size."""
    found: dict[str, dict[int, float]] = {}
    for (name, size), spread in run.times[workload].items():
        found.setdefault(name, {})[size] = spread.p50 / 1e6
    return found


def _panels(run: Measured) -> dict[tuple[str, str], Curves]:
    """What is drawn, by title and unit."""
    panels: dict[tuple[str, str], Curves] = {
        (title, "ms"): _times(run, workload) for workload, title in TIMES.items()
    }
    panels["memory above an empty device", "MiB"] = {
        name: {size: max(0.01, parts["opened"].p50 / MIB) for size, parts in sizes.items()}
        for name, sizes in run.memory.items()
    }
    panels["disk space for each session", "bytes"] = {
        name: {size: total / size for size, total in sizes.items()}
        for name, sizes in run.disk.items()
    }
    panels["copy a device", "s"] = {
        way: {size: copied.ours.p50 / 1e9 for size, copied in sizes.items()}
        for way, sizes in run.copies.items()
    }
    return panels


def draw(run: Measured, path: Path) -> None:
    """Write the picture as SVG."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {"svg.hashsalt": "ratchetkeep", "svg.fonttype": "none", "font.size": 8}
    )
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    panels = _panels(run)
    figure, axes = pyplot.subplots(4, 3, figsize=(13, 15), layout="constrained")
    cells = list(axes.flat)
    looks = _Looks()
    for cell, ((title, unit), curves) in zip(cells, panels.items(), strict=False):
        _fill(cell, f"{title} ({unit})", curves, looks)
    rest = cells[len(panels) :]
    for cell in rest:
        cell.axis("off")
    names = [*cells[0].get_legend_handles_labels()[1]]
    handles: dict[str, Any] = {}
    for cell in cells[: len(panels) - 1]:
        handles |= dict(zip(*reversed(cell.get_legend_handles_labels()), strict=True))
    ordered = sorted(handles, key=lambda name: (name not in names, name))
    rest[0].legend([handles[name] for name in ordered], ordered, loc="upper left", frameon=False)
    cells[len(panels) - 1].legend(frameon=False, fontsize=7)
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)


class _Looks:
    """One colour and style for each name, in all panels."""

    def __init__(self) -> None:
        self._known = {peer.name: at for at, peer in enumerate(PEERS)}

    def of(self, name: str) -> dict[str, Any]:
        """What ``plot`` takes."""
        at = self._known.setdefault(name, len(self._known))
        ours = name.startswith("ratchetkeep")
        style = _STYLES[at // 10 % len(_STYLES)]
        return {"color": f"C{at % 10}", "linestyle": style, "linewidth": 2.2 if ours else 1.1}


def _fill(cell: Any, title: str, curves: Curves, looks: _Looks) -> None:
    for name, points in curves.items():
        sizes = sorted(points)
        values = [points[size] for size in sizes]
        if len(sizes) == 1 and is_floor(name):
            # It has no device, so it is the same for all sizes.
            cell.axhline(values[0], label=name, **looks.of(name))
        else:
            cell.plot(sizes, values, marker="o", markersize=3, label=name, **looks.of(name))
    cell.set(xscale="log", yscale="log", title=title, xlabel="sessions in the device")
    ticker: Any = importlib.import_module("matplotlib.ticker")
    cell.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    cell.yaxis.set_minor_locator(ticker.NullLocator())
    for axis in (cell.xaxis, cell.yaxis):
        axis.set_major_formatter(ticker.FuncFormatter(lambda number, _: f"{number:,.7g}"))
        axis.set_minor_formatter(ticker.NullFormatter())
    cell.grid(True, which="major", linewidth=0.3)
