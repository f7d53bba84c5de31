"""A progress bar for people: on stderr, and only if that is a terminal."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress

STEPS = {
    "check": "checking",
    "rest": "keeping the rest",
    "write": "writing",
    "copy": "copying",
}


class Bar:
    """Shows how far a copy is; :meth:`report` is what ``copy_device`` calls.

    :ivar written: True once every record is written and only putting it in place is left.
    :ivar finished: True once the copy is in place; set by the command.
    :ivar more: what is told behind the bar.
    """

    def __init__(self) -> None:
        self.written = False
        self.finished = False
        self._shown = _can_draw()
        self._progress: Progress | None = None
        self._step = ""
        self.more = ""

    def report(self, step: str, done: int, total: int) -> None:
        """``done`` of ``total`` records of a step."""
        self.written = step == "write" and done == total
        if not self._shown:
            return
        if step != self._step or self._progress is None:
            self.hide()
            self._progress, self._step = _start(), step
            self._progress.add_task(STEPS.get(step, step), total=total, more="")
        self._progress.update(self._progress.task_ids[0], completed=done, more=self.more)

    def hide(self) -> None:
        """Wipe the bar, so that something else can be printed; the next report shows it again."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.hide()


class AllBar(Bar):
    """Shows how far a copy of many devices is; :meth:`report` is what ``copy_all`` calls.

    :ivar step: ``check`` or ``copy``.
    :ivar done: devices that this step is done with.
    :ivar total: of how many.
    """

    def __init__(self) -> None:
        super().__init__()
        self.step, self.done, self.total = "", 0, 0
        self._since = 0.0

    def report(self, step: str, done: int, total: int, records: int = 0) -> None:
        """``done`` of ``total`` devices of a step, with so many records."""
        if step != self.step:
            self._since = time.monotonic()
        self.step, self.done, self.total = step, done, total
        took = time.monotonic() - self._since
        self.more = f"{records / took:,.0f} records/s" if took > 1 else ""
        super().report(step, done, total)


def _can_draw() -> bool:
    # A dumb terminal cannot go back in a line: every update would be a new one.
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    return is_terminal and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def _start() -> Progress:
    # Imported only for a terminal: it takes longer to load than most commands to run.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    more = TextColumn("{task.fields[more]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), more)
    progress = Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    progress.start()
    return progress
