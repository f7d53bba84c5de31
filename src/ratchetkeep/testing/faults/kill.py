"""Kills of a real process (SIGKILL): at a random moment, or at the Nth system call of a kind.

::

    with Killer(seed=7) as killer:
        device = KilledDevice(killer, "sqlite:/tmp/it/device.db")
        for _ in range(100):
            device.kill(killer.random_moment())

A worker opens the device and makes commits that are a known function of their number; it
acknowledges each one on a pipe. After the kill the device must open by itself and hold every
acknowledged commit, and the one under way whole or not at all. The next round goes on from there.

For a store of your own, name an ``opener``: a function ``(url, create, read_only) -> Device``, as
``module:function``, so that the worker finds it too. Kills at system calls need strace.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import TracebackType
from typing import Any, Self

from ratchetkeep.copy import copy_device
from ratchetkeep.errors import NoDevice
from ratchetkeep.stores.base import Finding
from ratchetkeep.testing._samples import Holds
from ratchetkeep.verify import verify_device

from ._worker import (
    OPENER,
    PATIENCE,
    Breach,
    Course,
    Ended,
    Moment,
    Tally,
    apart,
    leftovers,
    opened,
    opener_of,
    records_of,
    state,
    told,
)

CALLS = ("fdatasync", "fsync", "pwrite64", "write", "rename", "unlink", "openat", "fcntl")
"""System calls that stores make while they commit, open and close."""


NEVER = Moment(acks=1_000_000)
"""The worker finishes before it."""


@cache
def has_strace() -> bool:
    """True if strace is there and may trace."""
    path = shutil.which("strace")
    if path is None:
        return False
    command = [path, "-f", "-o", os.devnull, "-e", "trace=none", sys.executable, "-c", ""]
    return subprocess.run(command, capture_output=True).returncode == 0


class Killer:
    """Starts workers and kills them. Use it as a context manager; nothing of it is left then.

    :param seed: of its random moments.
    :ivar reach: highest call number to draw for a kind of call; it is found by trying.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.reach: dict[str, int] = {}
        self._heard = b""

    def __enter__(self) -> Self:
        command = [sys.executable, "-B", "-m", "ratchetkeep.testing.faults._worker"]
        self._template = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The end of its input ends the template, and a worker that still runs with it.
        for pipe in (self._template.stdin, self._template.stdout):
            if pipe is not None:
                pipe.close()
        self._template.wait(PATIENCE)

    # -- moments

    def random_moment(self) -> Moment:
        """While opening, while committing, or while closing."""
        rng = self.rng
        if rng.random() < 0.3:
            return Moment(0, rng.uniform(0, 0.02))
        return Moment(rng.randint(1, 9), rng.uniform(0, rng.choice([0.001, 0.004, 0.04])))

    def moment_at(self, calls: Iterable[str] = CALLS) -> Moment:
        """At a call of one of these kinds; a random moment where strace is missing."""
        if not has_strace():
            return self.random_moment()
        call = self.rng.choice(sorted(calls))
        return Moment(call=call, number=self.rng.randint(1, self.reach.setdefault(call, 12)))

    def _learn(self, moment: Moment, was_killed: bool) -> None:
        reach = self.reach.setdefault(moment.call, 12)
        wider = min(600, reach + reach // 3 + 1)
        self.reach[moment.call] = wider if was_killed else max(1, min(reach, moment.number - 1))

    # -- running a worker

    def run(self, moment: Moment, **job: Any) -> Ended:
        """Let a worker do a job, and kill it at that moment unless it has finished before.

        :raises Breach: if it failed by itself.
        """
        self._send({"opener": OPENER, "traced": bool(moment.call), **job})
        ended = Ended()
        worker = self._started(ended)
        try:
            if moment.call:
                self._trace(worker, moment)
            else:
                self._wait(moment, ended)
        finally:
            os.kill(worker, signal.SIGKILL)  # not reaped yet, so it is no other process
            code = self._reap(ended)
        if ended.failure or code not in (0, -signal.SIGKILL):
            raise Breach("failed", f"the worker ended: {ended.failure or code}")
        ended.was_killed = code != 0
        if moment.call:
            self._learn(moment, ended.was_killed)
        return ended

    def _send(self, message: object) -> None:
        if self._template.stdin is None:
            raise ValueError("the killer was not entered")
        self._template.stdin.write(json.dumps(message).encode() + b"\n")

    def _started(self, ended: Ended) -> int:
        while not (line := self._line()).startswith("started "):
            ended.take(line)
        return int(line.split()[1])

    def _wait(self, moment: Moment, ended: Ended) -> None:
        while len(ended.acks) < moment.acks and not ended.is_done and not ended.failure:
            ended.take(self._line())
        time.sleep(moment.seconds)

    def _trace(self, worker: int, moment: Moment) -> None:
        """Runs until the worker is killed or finishes."""
        inject = f"inject={moment.call}:signal=SIGKILL:when={moment.number}"
        command = ["strace", "-f", "-qq", "-o", os.devnull, "-p", str(worker)]
        options = ["-e", f"trace={moment.call}", "-e", inject]
        # Nothing is on its standard error unless it could not attach.
        done = subprocess.run([*command, *options], capture_output=True, timeout=PATIENCE)
        if done.stderr:
            raise OSError(f"strace cannot trace the worker: {done.stderr.decode()}")

    def _reap(self, ended: Ended) -> int:
        self._send("reap")
        while not (line := self._line()).startswith("ended "):
            ended.take(line)
        return int(line.split()[1])

    def _line(self) -> str:
        """The next line that the template or its worker says."""
        out = self._template.stdout
        if out is None:
            raise ValueError("the killer was not entered")
        while b"\n" not in self._heard:
            if not select.select([out], [], [], PATIENCE)[0]:
                raise Breach("failed", "the worker hangs")
            part = os.read(out.fileno(), 65536)
            if not part:
                raise OSError("the template of the workers has ended")
            self._heard += part
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode()


class KilledDevice:
    """One device that lives through many kills.

    :param url: where nothing is yet; the device is made there.
    :param opener: the function that opens it.
    :param check: what finds faults in it while it is closed.
    :ivar number: of the commit that is known to be the last.
    """

    def __init__(
        self,
        killer: Killer,
        url: str,
        *,
        holds: Holds | None = None,
        opener: str = OPENER,
        check: Callable[[str], list[Finding]] = verify_device,
    ) -> None:
        self.url = url
        self.tally = Tally()
        self.number = 0
        # Numbers of the commit that may be the last.
        self._allowed = {0}
        self._killer = killer
        self._opener = opener
        self._check = check
        self._holds = holds or Holds()
        with opener_of(opener)(url, True, False) as device:
            self._course = Course(device.credentials, self._holds)

    def kill(
        self, moment: Moment, *, commits: int = 40, each: int = 0, is_checked: bool = True
    ) -> bool:
        """One round: a worker commits and is killed, and what it left is checked.

        :param commits: how many it makes at most.
        :param each: after how many it closes the device and opens it again; 0: drawn.
        :param is_checked: False leaves it as it is, for the next round's worker to recover.
        :returns: False if the worker had finished before.
        :raises Breach: at what breaks a promise.
        """
        each = each or self._killer.rng.choice([1, 3, 8, 40])
        return self._round(moment, is_checked, do="commit", commits=commits, each=each)

    def kill_opening(self, moment: Moment, *, is_checked: bool = True) -> bool:
        """One round where the worker only opens and closes: it may change nothing."""
        return self._round(moment, is_checked, do="open")

    def race(self, rivals: Sequence[Killer]) -> None:
        """One round where workers take the device from each other, commit by commit, and all are
        killed: no two may own it at once, and a kill may not keep the others out."""

        def run(rival: Killer) -> Ended:
            return rival.run(rival.random_moment(), do="contend", **self._job())

        with told(f"{self.url}, a race, commit {self.number} was the last"):
            with ThreadPoolExecutor(len(rivals)) as pool:
                ended = list(pool.map(run, rivals))
            for each in ended:
                self._note(each, is_committing=True)
            acks = [int(ack) for each in ended for ack in each.acks]
            if len(set(acks)) < len(acks):
                raise Breach("torn", "a commit was acknowledged by two owners")
            last = max([self.number, *acks])
            self._allowed = set(range(last, last + len(rivals) + 1))
            self.check()

    def _job(self) -> dict[str, Any]:
        holds = {
            "session_times": self._holds.session_times,
            "local_identity": self._holds.local_identity,
        }
        return {"url": self.url, "opener": self._opener, "holds": holds}

    def _round(self, moment: Moment, is_checked: bool, **job: Any) -> bool:
        with told(f"{self.url}, {moment}, commit {self.number} was the last"):
            ended = self._killer.run(moment, **self._job(), **job)
            self._note(ended, is_committing=job["do"] == "commit")
            if is_checked:
                self.check()
        return ended.was_killed

    def _note(self, ended: Ended, *, is_committing: bool) -> None:
        self.tally.rounds += 1
        self.tally.kills += ended.was_killed
        self.tally.acknowledged += len(ended.acks)
        if ended.acks:
            self._allowed = {int(ended.acks[-1])}
        if is_committing and not ended.is_done:
            self._allowed |= {number + 1 for number in self._allowed}

    def check(self) -> None:
        """Open what is there, twice: it recovers by itself, and stays the same then.

        :raises Breach: at what breaks a promise.
        """
        self.number = self._open()
        self._allowed = {self.number}
        left = leftovers(self.url)
        if left:
            raise Breach("unclean", f"closing left {left}")
        wrong = [each for each in self._check(self.url) if each.severity != "info"]
        if wrong:
            raise Breach("unclean", f"verifying finds at {wrong[0].place}: {wrong[0].what}")
        if leftovers(self.url):
            raise Breach("unclean", f"verifying left {leftovers(self.url)}")
        self._open()

    def _open(self) -> int:
        with opened(self._opener, self.url) as device:
            self.tally.opened += 1
            number = device.credentials.account_sync_counter
            if number < min(self._allowed):
                raise Breach("lost", f"commit {number} is the last, {self._allowed} was told")
            if number not in self._allowed:
                raise Breach("torn", f"commit {number} is the last, {self._allowed} may be")
            if device.credentials != self._course.credentials(number):
                raise Breach("torn", f"the credentials are not those of commit {number}")
            found, expected = records_of(device), self._course.records(number)
            if found != expected:
                raise Breach("torn", f"not the state of commit {number}: {apart(found, expected)}")
        return number


def kill_creation(killer: Killer, url: str, moment: Moment, *, opener: str = OPENER) -> bool:
    """Kill a worker that makes the first device at ``url``. It must be there as acknowledged, or
    whole, or not at all; and then creating it must work.

    :returns: False if the worker had finished before.
    :raises Breach: at what breaks a promise.
    """
    with told(f"{url}, creating, {moment}"):
        ended = killer.run(moment, do="create", url=url, opener=opener)
        identities = [*ended.acks]
        for create in (False, True, False):
            try:
                with opened(opener, url, create=create) as device:
                    identities.append(device.credentials.signed_identity_key.public.hex())
            except NoDevice:
                if identities:
                    raise Breach("lost", "the device was acknowledged") from None
            if len(set(identities)) > 1:
                raise Breach("lost", "another identity was made over the first one")
        left = leftovers(url)
        if left:
            raise Breach("unclean", f"closing left {left}")
    return ended.was_killed


def kill_copy(
    killer: Killer, source: str, target: str, moment: Moment, *, whole: str, overwrite: bool = False
) -> bool:
    """Kill a worker that copies a device. The target must be as before or a whole copy; if there
    was none, and is none, copying again must work; nothing of the first try may be left then.

    :param whole: an undisturbed copy in a store of the target's kind.
    :returns: False if the worker had finished before.
    :raises Breach: at what breaks a promise.
    """
    before, copied = state(target), state(whole)
    with told(f"{source} to {target}, copying, {moment}"):
        ended = killer.run(moment, do="copy", url=source, target=target, overwrite=overwrite)
        found = state(target)
        if found != copied and (ended.acks or found != before):
            raise Breach("torn", "the target is neither as it was nor a whole copy")
        if found is None or overwrite:
            copy_device(source, target, overwrite=overwrite)
            found = state(target)
        if found != copied:
            raise Breach("torn", "copying again gave something else")
        opener_of(OPENER)(target, False, False).close()
        left = leftovers(target)
        if left:
            raise Breach("unclean", f"copying left {left}")
    return ended.was_killed


__all__ = [
    "CALLS",
    "NEVER",
    "Breach",
    "Ended",
    "KilledDevice",
    "Killer",
    "Moment",
    "Tally",
    "has_strace",
    "kill_copy",
    "kill_creation",
    "leftovers",
]
