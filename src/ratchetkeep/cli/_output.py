"""How text leaves the program: always printable, never in the way of a closed pipe."""

from __future__ import annotations

import datetime
import json
import os
import re
import sys
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TextIO

UNITS = ("KiB", "MiB", "GiB", "TiB")
AGES = (
    (86400 * 365, "year"),
    (86400 * 30, "month"),
    (86400, "day"),
    (3600, "hour"),
    (60, "minute"),
)

# Control and format characters: a name in a file must not be able to steer a terminal.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069]")


def prepare_streams() -> None:
    """Characters that the terminal's encoding lacks, and lone surrogates, are spelled out."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def say(text: str = "") -> None:
    """A line of the result."""
    _write(sys.stdout, text)


def complain(text: str) -> None:
    """A line on stderr."""
    with suppress(OSError):
        _write(sys.stderr, text)


def say_json(value: Any) -> None:
    """The result as one JSON document."""
    say(json.dumps(value, indent=2))


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:
        return
    try:
        stream.write(text + "\n")
        stream.flush()
    except OSError as error:
        # What is left in the buffer would fail once more when Python exits, with a traceback.
        silence(stream)
        if not isinstance(error, BrokenPipeError):
            error.filename = error.filename or "standard output"
            raise


def silence(stream: TextIO) -> None:
    """Let what is written to ``stream`` from now on vanish: nobody reads it any more."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)


def clean(text: str) -> str:
    """Text from a file or a path, on one line and without control characters."""
    return _UNSAFE.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def width(text: str) -> int:
    """Columns that the text takes in a terminal."""
    marks = sum(unicodedata.combining(char) > 0 for char in text)
    return len(text) - marks + sum(unicodedata.east_asian_width(char) in "WF" for char in text)


def pairs(rows: Sequence[tuple[str, str]], *, indent: str = "") -> None:
    """Lines of a name and what it is, in two columns."""
    column = max((width(name) for name, _ in rows), default=0)
    for name, text in rows:
        say(f"{indent}{name}{' ' * (column - width(name))}  {text}".rstrip())


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table: the first column to the left, the others to the right."""
    lines = [head, *rows]
    columns = [max(width(line[at]) for line in lines) for at in range(len(head))]
    for first, *others in lines:
        cells = [first + " " * (columns[0] - width(first))]
        cells += [" " * (columns[at] - width(t)) + t for at, t in enumerate(others, 1)]
        say("  ".join(cells).rstrip())


def size(count: int) -> str:
    """Bytes in human units."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in UNITS:
        value /= 1024
        if value < 1023.95 or unit == UNITS[-1]:
            break
    return f"{value:.1f} {unit}"


def number(count: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{count} {noun if count == 1 else noun + 's'}"


def age(moment: datetime.datetime, now: datetime.datetime | None = None) -> str:
    """How long ago, and the moment itself."""
    seconds = ((now or datetime.datetime.now(datetime.UTC)) - moment).total_seconds()
    return f"{_ago(seconds)} ({stamp(moment)})"


def stamp(moment: datetime.datetime) -> str:
    """The moment in ISO 8601, in UTC."""
    utc = moment.astimezone(datetime.UTC).replace(microsecond=0)
    return utc.isoformat().replace("+00:00", "Z")


def _ago(seconds: float) -> str:
    if seconds < -60:
        return "in the future"
    for length, unit in AGES:
        if seconds >= length:
            return f"{number(int(seconds // length), unit)} ago"
    return "just now"
