"""Processes that copy one device at a time, each on a processor of its own.

Each is told over a pipe what to do: URLs, which may hold
passwords, are in no command line. A process that is ended, however that happens, leaves its device
whole at the target or not there, and the others go on.
"""

from __future__ import annotations

import selectors
import signal
import subprocess
import time
from collections.abc import Generator, Iterator
from contextlib import closing, suppress

import msgspec

from ratchetkeep._copy_all_job import FAILED, Done, Held, Job, Task, carry_out, pack, shown, unpack
from ratchetkeep._copy_child import Child, can_start, framed, greet, read_frame
from ratchetkeep.errors import CommitFailed, RatchetkeepError
from ratchetkeep.stores._stage import sweep_beside
from ratchetkeep.stores.disk import Disk
from ratchetkeep.stores.layouts import LAYOUTS

__all__ = ["Workers", "main", "start"]

# Seconds that a process may take to greet.
PATIENCE = 30.0
# How long a process that is to end may take to remove what it was putting together.
TIDYING = 10.0

_encode = msgspec.msgpack.Encoder().encode
_decode_job = msgspec.msgpack.Decoder(Job).decode
_decode_task = msgspec.msgpack.Decoder(Task).decode


def start(job: Job, number: int) -> Workers | None:
    """Processes for a copy, to be closed; None where there are none to be had."""
    if number > 1 and can_start():
        workers = Workers(job)
        try:
            if workers.hire(number):
                return workers
        except BaseException:
            workers.close()
            raise
        workers.close()
    return None


class Workers:
    """The processes, which :meth:`close` ends."""

    def __init__(self, job: Job) -> None:
        self._setup = framed(_encode(job))
        self._workers: list[_Worker] = []

    def hire(self, number: int) -> bool:
        """Start this many more; True if there are any."""
        new = []
        with suppress(OSError):
            for _ in range(number):
                new.append(_Worker(self._setup))
                self._workers.append(new[-1])
        until = time.monotonic() + PATIENCE
        for worker in new:
            if not worker.greets(until):
                self._dismiss(worker)
        return bool(self._workers)

    def _dismiss(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.end(1.0)

    def run(self, tasks: Iterator[Task]) -> Generator[tuple[Task, Done], None, None]:
        """Carry out the tasks, and tell what came of each, in no order. It ends early if all
        processes were ended, and no new one can be had."""
        with selectors.DefaultSelector() as busy:
            while True:
                self._hand_out(tasks, busy)
                if not busy.get_map():
                    return
                for key, _ in busy.select():
                    worker: _Worker = key.data
                    busy.unregister(worker.answers)
                    yield self._finish(worker)

    def _hand_out(self, tasks: Iterator[Task], busy: selectors.BaseSelector) -> None:
        for worker in [each for each in self._workers if each.is_gone]:
            self._dismiss(worker)
            self.hire(1)
        for worker in self._workers:
            if worker.task is None:
                task = next(tasks, None)
                if task is None:
                    return
                worker.begin(task)
                busy.register(worker.answers, selectors.EVENT_READ, worker)

    def _finish(self, worker: _Worker) -> tuple[Task, Done]:
        task, answer = worker.finish()
        with suppress(ValueError, msgspec.MsgspecError):
            if answer is not None:
                return task, unpack(answer)
        self._dismiss(worker)
        _tidy(task)
        self.hire(1)
        what = f"the process that copied it was ended{worker.fate}"
        remedy = "The device is whole there, or not there at all. Copy again"
        return task, Done(FAILED, error=CommitFailed(shown(task.target), what, remedy))

    def close(self) -> None:
        """End the processes: what they have not finished is dropped."""
        unfinished = [worker.task for worker in self._workers if worker.task is not None]
        for worker in self._workers:
            worker.ask_to_end()
        until = time.monotonic() + TIDYING
        try:
            while self._workers:
                self._workers[-1].end(max(0.0, until - time.monotonic()))
                self._workers.pop()
        finally:
            for worker in self._workers:
                worker.end(0)
            for task in unfinished:
                _tidy(task)


def _tidy(task: Task) -> None:
    """Remove what a killed process was putting together: it holds keys."""
    if task.target.kind in LAYOUTS:
        sweep_beside(Disk(), task.target.path)


class _Worker:
    """One process, as seen from here.

    :ivar task: what it is at.
    :ivar answers: the pipe that its answers come from.
    :ivar fate: how it ended, in words, once it has.
    """

    def __init__(self, setup: bytes) -> None:
        self.task: Task | None = None
        self.fate = ""
        self._child = Child("ratchetkeep._copy_all_pool")
        self.answers = self._child.answers
        self._tell(setup)

    def _tell(self, data: bytes) -> None:
        with suppress(OSError):  # one that has ended does not answer
            self._child.tell(data)

    def greets(self, until: float) -> bool:
        """True once it is ready; False if it is not by then, or is no process of ours."""
        return self._child.greets(max(0.0, until - time.monotonic()))

    @property
    def is_gone(self) -> bool:
        """True if it was ended while it had nothing to do."""
        return self.task is None and self._child.process.poll() is not None

    def begin(self, task: Task) -> None:
        """Give it something to do."""
        self.task = task
        self._tell(framed(_encode(task)))

    def finish(self) -> tuple[Task, bytes | None]:
        """What it did, and its answer; None if it was ended."""
        assert self.task is not None  # noqa: S101 - for mypy
        task, answer = self.task, read_frame(self.answers)
        self.task = None
        return task, answer

    def ask_to_end(self) -> None:
        """Let it drop what it is at, and end."""
        if self.task is not None:
            self._child.process.send_signal(signal.SIGTERM)
        with suppress(OSError):
            self._child.tasks.close()

    def end(self, patience: float) -> None:
        """Wait until it has ended; then see to it."""
        with suppress(subprocess.TimeoutExpired):
            self._child.process.wait(patience)
        code = self._child.end()
        self.fate = f" by signal {-code}" if code < 0 else f" with exit code {code}"


def main() -> None:
    """What a process does until nobody asks any more."""
    # It is ended as by Ctrl-C, so that it drops what it was putting together.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    asked, answers = greet()
    setup = read_frame(asked)
    if setup is None:
        return
    job = _decode_job(setup)
    with closing(Held(job)) as held:
        while (raw := read_frame(asked)) is not None:
            answers.write(framed(pack(_carried_out(job, _decode_task(raw), held))))
            answers.flush()


def _carried_out(job: Job, task: Task, held: Held) -> Done:
    try:
        held.take(task)
    except RatchetkeepError as error:
        return Done(FAILED, error=error, stops=True)
    return carry_out(job, task)
