"""A copy of many devices, from looking for them to the summary."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from ratchetkeep._copy_all_job import (
    COPIED,
    FAILED,
    LEFT,
    THERE,
    TO_COPY,
    Done,
    Job,
    Task,
    carry_out_here,
    shown,
)
from ratchetkeep._copy_all_places import Place, Shelf, has_one_owner
from ratchetkeep._copy_all_sum import CopyAllSummary, DeviceCopy, Totals
from ratchetkeep._copy_all_tree import Found, Tree
from ratchetkeep._copy_run import Progress
from ratchetkeep._copy_trial import refuse_errors
from ratchetkeep.copy import How
from ratchetkeep.errors import CommitFailed, NoDevice, RatchetkeepError
from ratchetkeep.stores.base import Finding

if TYPE_CHECKING:
    from ratchetkeep._copy_all_pool import Workers

__all__ = ["AllProgress", "Run"]

MOST_JOBS = 8
# Fewer devices are copied sooner than other processes are there to help; those help with a large
# device as well.
FEW = 32
# Stores that are checked as a whole, whichever of their devices is asked for.
_CHECKED_AS_WHOLE = ("sqlite", "whatsmeow", "postgresql")

Results = Generator[tuple[Task, Done], None, None]
AllProgress = Callable[[str, int, int, int], None]
"""Called with the step (``check`` or ``copy``), how many devices are done, of how many, and how
many records those hold."""


class Run:
    """A copy of many devices.

    :ivar stopped: the target's error that ended it, or None.
    """

    def __init__(self, source: Place, target: Place, how: How, progress: AllProgress) -> None:
        self._source, self._target, self._how = source, target, how
        self._progress = progress
        self._found: list[Found] = []
        # Where each is to be; those that cannot be copied are to be nowhere.
        self._places: list[Found | None] = []
        self._there: set[str] = set()
        self._findings: list[Finding] = []
        self._done: dict[int, Done] = {}
        self._jobs = self._used = 1
        self._workers: Workers | None = None
        self.stopped: RatchetkeepError | None = None

    # -- before

    def look(self, jobs: int | None) -> None:
        """Find the devices, and what is known of them before any is read."""
        self._found = self._source.devices()
        if not self._found:
            raise NoDevice(self._source.url, "holds no device")
        self._there = {each.name for each in self._target.devices() if each.error is None}
        for number, found in enumerate(self._found):
            place = None if found.error else self._target.place(found.name)
            self._places.append(place)
            error = found.error or (place and place.error)
            if error:
                self._done[number] = Done(FAILED, error=error)
        if self._is_checked_as_whole:
            assert isinstance(self._source, Shelf)  # noqa: S101 - for mypy
            self._findings = self._source.findings(self._found[0].name)
            refuse_errors(self._findings)
        self._jobs = self._most_jobs(jobs)

    @property
    def _is_checked_as_whole(self) -> bool:
        return isinstance(self._source, Shelf) and self._source.kind in _CHECKED_AS_WHOLE

    def _most_jobs(self, jobs: int | None) -> int:
        wanted = jobs or min(_processors(), MOST_JOBS)
        todo = len(self._found) - len(self._done)
        return min(wanted, todo) if jobs or todo >= FEW else 1

    def _job(self, *, is_alone: bool) -> Job:
        held = []
        for place, writes in ((self._target, True), (self._source, self._how.retire)):
            is_file = place.kind == "sqlite" and is_alone and writes
            if isinstance(place, Shelf) and (is_file or place.kind == "postgresql"):
                held.append(place.target)
        return Job(
            self._how,
            has_findings=self._is_checked_as_whole,
            is_swept=isinstance(self._target, Tree),
            is_helped=is_alone,
            held=tuple(held),
        )

    # -- the passes

    def carry_out(self, *, is_trial: bool) -> None:
        """Try all devices, or copy those that can be."""
        todo = [number for number in range(len(self._found)) if self._is_to_do(number)]
        step = _Step("check" if is_trial else "copy", len(todo), self._progress)
        step.report()
        tasks = self._tasks(todo, is_trial)
        with closing(self._run(tasks, is_trial, step)) as results:
            while (result := self._next(results)) is not None:
                task, done = result
                if done.stops:
                    self.stopped = done.error  # this device is not to blame
                    break
                self._done[task.number] = done
                step.add(done)
        if self.stopped is not None:
            self.close()

    def _next(self, results: Results) -> tuple[Task, Done] | None:
        try:
            return next(results, None)
        except RatchetkeepError as error:
            self.stopped = error
        except _FromOutside as stop:
            raise stop.error from None
        return None

    def close(self) -> None:
        """End the processes; what they are at is dropped."""
        if self._workers is not None:
            self._workers.close()

    def _is_to_do(self, number: int) -> bool:
        done = self._done.get(number)
        if done is None or done.outcome == TO_COPY:
            return True
        # Their sources may have to be marked yet.
        return done.outcome == THERE and self._how.retire

    def _tasks(self, todo: list[int], is_trial: bool) -> Iterator[Task]:
        for number in todo:
            found, place = self._found[number], self._places[number]
            assert place is not None  # noqa: S101 - for mypy
            task = Task(number, found.target, place.target, found.name in self._there, is_trial)
            if task.writes(self._how):
                self._make_way(task)
            yield task

    def _make_way(self, task: Task) -> None:
        try:
            self._target.make_way(task.target)
        except OSError as error:
            what = f"cannot be written: {error.strerror}"
            raise CommitFailed(self._target.url, what, "Mend the cause, and copy again") from None

    def _run(self, tasks: Iterator[Task], is_trial: bool, step: _Step) -> Results:
        self._used = 1
        if self._may_be_shared(is_trial):
            if self._workers is None:
                from ratchetkeep._copy_all_pool import start  # only when asked for

                self._workers = start(self._job(is_alone=False), self._jobs)
            if self._workers is not None:
                self._used = self._jobs
                yield from self._workers.run(tasks)
        # All of them, or those that are left if no process can be had any more.
        yield from carry_out_here(self._job(is_alone=True), tasks, step.inner)

    def _may_be_shared(self, is_trial: bool) -> bool:
        """Whether several processes can do it."""
        places = [self._source, self._target]
        if self._jobs < 2 or any(each.kind == "memory" for each in places):
            return False
        if is_trial:
            return True
        written = [self._target, self._source] if self._how.retire else [self._target]
        return not any(map(has_one_owner, written))

    # -- after

    def summary(self) -> CopyAllSummary:
        """What came of it so far."""
        totals = Totals(self._findings)
        kinds = {self._source.kind} if self._source.kind else set()
        for done in self._done.values():
            if done.summary is not None:
                totals.add(done.summary)
                kinds.add(done.summary.source_kind)
        return CopyAllSummary(
            source=self._source.url,
            target=self._target.url,
            source_kinds=tuple(sorted(kinds)),
            target_kind=self._target.kind,
            devices=tuple(map(self._device, range(len(self._found)))),
            records={family: totals.records[family] for family in sorted(totals.records)},
            size=totals.size,
            converted=totals.converted(),
            not_held=totals.not_held(),
            left_behind=totals.left_behind(),
            findings=tuple(totals.findings),
            client=self._how.client,
            retired=self._how.retire,
            dry_run=self._how.dry_run,
            jobs=self._used,
            stopped=self.stopped,
        )

    def _device(self, number: int) -> DeviceCopy:
        found, place = self._found[number], self._places[number]
        done = self._done.get(number, Done(LEFT))
        summary = done.summary
        outcome = done.outcome
        if outcome == TO_COPY and self.stopped is not None:
            outcome = LEFT
        return DeviceCopy(
            device=found.name,
            source=shown(found.target),
            target=shown(place.target) if place else "",
            outcome=outcome,
            records=summary.total if summary else 0,
            rest=summary.rest if summary and outcome == COPIED else "",
            error=done.error,
        )


class _FromOutside(BaseException):
    """What a caller's function raised while a device was copied: the device has not failed."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


def _processors() -> int:
    from ratchetkeep import _copy_pool  # only when asked for

    return _copy_pool._processors()


class _Step:
    """How far a pass over the devices is."""

    def __init__(self, name: str, total: int, progress: AllProgress) -> None:
        self._name, self._total, self._progress = name, total, progress
        self._devices = self._records = 0

    def report(self, more: int = 0) -> None:
        self._progress(self._name, self._devices, self._total, self._records + more)

    def add(self, done: Done) -> None:
        self._devices += 1
        self._records += done.summary.total + 1 if done.summary else 0
        self.report()

    def inner(self, task: Task) -> Progress:
        """What the copy of one device in this process reports to."""
        wanted = "check" if self._name == "check" else "write"

        def report(step: str, done: int, total: int) -> None:
            try:
                if step == wanted and done < total:
                    self.report(done)
            except Exception as error:  # noqa: BLE001 - raised again
                raise _FromOutside(error) from None

        return report
