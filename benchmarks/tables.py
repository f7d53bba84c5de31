"""How figures are written on a page."""

from __future__ import annotations

from collections.abc import Iterable

DASH = "-"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    names = list(head)
    lines = [names, ["---", *["---:"] * (len(names) - 1)], *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def in_units(nanoseconds: float) -> str:
    """A time with the unit that suits it."""
    for unit, factor in (("ns", 1), ("µs", 1e3), ("ms", 1e6)):
        if nanoseconds < 1000 * factor:
            return f"{figure(nanoseconds / factor)} {unit}"
    return f"{figure(nanoseconds / 1e9)} s"


def figure(number: float) -> str:
    """Three digits that mean something."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"
