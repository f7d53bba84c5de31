"""The process that the kill harness kills, and the commits that it makes.

Run as a module it is a template: it imports everything once, then forks one worker for each job
(a line of JSON on standard input), so that a worker starts in milliseconds. A worker says what it
has done on standard output, unbuffered, one line each: what was said was done before the kill.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ratchetkeep.copy import copy_device
from ratchetkeep.device import Device, open_device
from ratchetkeep.errors import NoDevice, RatchetkeepError, StoreInUse
from ratchetkeep.model import FAMILIES, Credentials, KeyPair, SessionRecord
from ratchetkeep.stores import urls
from ratchetkeep.testing._samples import Holds, record, record_id, some_pair

from .powercut import Commit, NotSurvived

Records = dict[str, dict[str, Any]]

# A worker that runs longer hangs, and ends by itself.
PATIENCE = 60

# Commits come in cycles: one of them adds as many pre-keys as a client uploads, later ones use
# some of them up, and one drops the rest.
CYCLE, BULK, SLOTS = 40, 812, 6
ADD_BULK, DROP_BULK, DROP_SESSION = 7, 16, 35
FIRST_SINGLE = 100_000

_PR_SET_PTRACER = 0x59616D61
_ANY_PROCESS = ctypes.c_ulong(-1)


class Breach(NotSurvived):
    """A promise was broken.

    :ivar kind: ``torn``, ``lost``, ``failed`` (it did not open), or ``unclean`` (something was
        left over, or verifying finds something).
    """

    def __init__(self, kind: str, what: str) -> None:
        self.kind = kind
        super().__init__(f"{kind}: {what}")


@dataclass(frozen=True)
class Moment:
    """When to kill: ``seconds`` after ``acks`` were heard; or, traced, at call ``number`` of the
    kind ``call``, which is counted for each thread by itself."""

    acks: int = 0
    seconds: float = 0.0
    call: str = ""
    number: int = 1

    def __str__(self) -> str:
        if self.call:
            return f"killed at {self.call} number {self.number}"
        return f"killed {self.seconds * 1000:.2f} ms after {self.acks} acknowledgements"


@dataclass
class Tally:
    """What was done and seen."""

    rounds: int = 0
    kills: int = 0
    opened: int = 0
    acknowledged: int = 0


@dataclass
class Ended:
    """How a worker ended.

    :ivar acks: what it acknowledged, in order.
    :ivar is_done: True if it said that it had finished.
    :ivar failure: the error that ended it, in words.
    :ivar was_killed: False if it had ended before.
    """

    acks: list[str] = field(default_factory=list)
    is_done: bool = False
    failure: str = ""
    was_killed: bool = False

    def take(self, line: str) -> None:
        """Take note of what was said."""
        word, _, rest = line.partition(" ")
        if word == "ack":
            self.acks.append(rest)
        elif word == "failed":
            self.failure = rest
        elif word == "done":
            self.is_done = True


class Course:
    """The commits of one device: each is a known function of its number, from 1.

    The number is in the credentials (``account_sync_counter``), which every commit changes, so
    whoever opens the device can tell which commit came last and what must be there.

    :param base: the device's credentials, as of any commit.
    :param holds: what the store can hold.
    """

    def __init__(self, base: Credentials, holds: Holds) -> None:
        self._base = base
        self._holds = holds
        self._made: dict[int, Commit] = {}

    def commit(self, number: int) -> Commit:
        """One commit: a session, its identity key, pre-keys and the credentials together."""
        if number not in self._made:
            if len(self._made) > 4 * CYCLE:
                self._made.clear()
            self._made[number] = Commit(self._records(number), self.credentials(number))
        return self._made[number]

    def credentials(self, number: int) -> Credentials:
        """The credentials after that commit; 0: before the first."""
        if number == 0:
            return self._base.replace(account_sync_counter=0)
        following = FIRST_SINGLE + number + 1
        return self._base.replace(
            account_sync_counter=number,
            next_pre_key_id=following,
            first_unuploaded_pre_key_id=following,
        )

    def records(self, number: int) -> Records:
        """All records after that commit."""
        state: Records = {}
        # Within two cycles every record of the device is written or dropped.
        for each in range(max(1, (number // CYCLE - 1) * CYCLE), number + 1):
            for family, members in self.commit(each).records.items():
                kept = state.setdefault(family, {})
                kept.update(members)
                state[family] = {id: value for id, value in kept.items() if value is not None}
        return {family: members for family, members in state.items() if members}

    def _records(self, number: int) -> Records:
        session: SessionRecord = record("session", number, self._base, self._holds)
        id = record_id("session", number % SLOTS)
        remote = session.open_session
        is_dropped = number % CYCLE == DROP_SESSION or remote is None
        return {
            "session": {id: None if is_dropped else session},
            "identity-key": {id: remote.index_info.remote_identity_key}
            if remote and not is_dropped
            else {id: None},
            "pre-key": {
                str(FIRST_SINGLE + number): _pre_key(number % 16),
                str(FIRST_SINGLE + number - 2): None,
                **_bulk(number),
            },
        }


def _bulk(number: int) -> dict[str, KeyPair | None]:
    cycle, phase = divmod(number, CYCLE)
    if phase == ADD_BULK:
        return {str(id): _pre_key(BULK * (cycle % 2) + id) for id in range(1, BULK + 1)}
    if ADD_BULK < phase < DROP_BULK:
        return {str(phase - ADD_BULK): None}
    if phase == DROP_BULK:
        return {str(id): None for id in range(phase - ADD_BULK, BULK + 1)}
    return {}


@cache
def _pre_key(number: int) -> KeyPair:
    return some_pair("pre-key", number)


Opener = Callable[[str, bool, bool], Device]
OPENER = "ratchetkeep.testing.faults._worker:open_default"


def open_default(url: str, create: bool, read_only: bool) -> Device:
    """The opener of stores that a URL of ours names."""
    return open_device(url, create=create, read_only=read_only)


def opener_of(name: str) -> Opener:
    """The function that ``module:function`` names."""
    module, _, function = name.partition(":")
    found: Opener = getattr(importlib.import_module(module), function)
    return found


def say(text: str) -> None:
    """Tell the harness, at once."""
    os.write(1, text.encode() + b"\n")


# -- looking at devices

# What a store, or the library whose folder it is, may leave when killed; gone after a clean close.
_LEFTOVERS = ("-wal", "-shm", "-journal", ".lock", ".owner")
_MARKS = (".ratchetkeep", ".stage-", ".tmp", ".etf.tmp-")


def records_of(device: Device) -> Records:
    """All records; families without any are left out."""
    found = {family: device.get(family, device.ids(family)) for family in FAMILIES}
    return {family: members for family, members in found.items() if members}


def leftovers(url: str) -> list[str]:
    """Names in a store's folder, or beside its file, that are ours or half made: there must be none
    while it is closed."""
    path = os.path.abspath(urls.parse(url).path)
    above, name = os.path.split(path)
    beside = [each for each in _names(above) if each.startswith((name, f".{name}"))]
    found = [
        each
        for each in [*beside, *(_names(path) if os.path.isdir(path) else [])]
        if each.endswith(_LEFTOVERS) or any(mark in each for mark in _MARKS)
    ]
    return sorted(found)


def _names(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []


def apart(found: Records, expected: Records) -> str:
    """Where two states differ; ids alone, no content."""
    apart = [
        f"{family} {id}"
        for family in FAMILIES
        for id in sorted({*found.get(family, {}), *expected.get(family, {})})
        if found.get(family, {}).get(id) != expected.get(family, {}).get(id)
    ]
    return f"{', '.join(apart[:5])} and {max(0, len(apart) - 5)} more differ"


@contextmanager
def opened(opener: str, url: str, *, create: bool = False) -> Iterator[Device]:
    """The device, open; an error of ours, or any other, but that there is none is a breach."""
    try:
        device = opener_of(opener)(url, create, False)
    except NoDevice:
        raise
    except Exception as error:
        raise Breach("failed", f"opening: {type(error).__name__}: {error}") from error
    with device:
        try:
            yield device
        except RatchetkeepError as error:
            raise Breach("failed", f"reading: {type(error).__name__}: {error}") from error


@contextmanager
def told(where: str) -> Iterator[None]:
    """Say in a breach where it happened."""
    try:
        yield
    except Breach as breach:
        breach.args = (f"{where}: {breach}",)
        raise


def state(url: str) -> tuple[Credentials, Records] | None:
    """What a device holds, read-only; None if there is none."""
    try:
        with opener_of(OPENER)(url, False, True) as device:
            return device.credentials, records_of(device)
    except NoDevice:
        return None
    except RatchetkeepError as error:
        raise Breach("failed", f"reading: {type(error).__name__}: {error}") from error


# -- the jobs of a worker


def _commit(job: dict[str, Any]) -> None:
    """``commits`` commits; the device is closed and opened again after every ``each`` of them."""
    opener, holds = opener_of(job["opener"]), Holds(**job["holds"])
    left = job["commits"]
    while left > 0:
        with opener(job["url"], False, False) as device:
            course = Course(device.credentials, holds)
            number = device.credentials.account_sync_counter
            for following in range(number + 1, number + 1 + min(left, job["each"])):
                course.commit(following).run(device)
                say(f"ack {following}")
        left -= job["each"]


def _contend(job: dict[str, Any]) -> None:
    """Commits one by one, each as the owner anew, beside workers that do the same; for ever."""
    opener, holds = opener_of(job["opener"]), Holds(**job["holds"])
    while True:
        try:
            device = opener(job["url"], False, False)
        except StoreInUse:
            continue
        with device:
            number = device.credentials.account_sync_counter + 1
            Course(device.credentials, holds).commit(number).run(device)
            say(f"ack {number}")


def _open(job: dict[str, Any]) -> None:
    opener_of(job["opener"])(job["url"], False, False).close()


def _create(job: dict[str, Any]) -> None:
    with opener_of(job["opener"])(job["url"], True, False) as device:
        say(f"ack {device.credentials.signed_identity_key.public.hex()}")


def _copy(job: dict[str, Any]) -> None:
    copy_device(job["url"], job["target"], overwrite=job["overwrite"])
    say("ack copy")


_JOBS = {"commit": _commit, "contend": _contend, "open": _open, "create": _create, "copy": _copy}


def _wait_for_tracer() -> None:
    """Go on when a tracer is attached. One open file: a tracer counts calls from then on."""
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANY_PROCESS, 0, 0, 0)
    status = os.open("/proc/self/status", os.O_RDONLY)
    while b"TracerPid:\t0\n" in os.pread(status, 8192, 0):
        time.sleep(0.0005)
    os.close(status)


def _be_the_worker(job: dict[str, Any]) -> None:
    """Never returns."""
    code = 1
    try:
        signal.alarm(PATIENCE)
        if job["traced"]:
            _wait_for_tracer()
        _JOBS[job["do"]](job)
        say("done")
        code = 0
    except BaseException as error:  # noqa: BLE001 - told to the harness
        say(f"failed {type(error).__name__}: {error}".replace("\n", " "))
    finally:
        os._exit(code)


def serve() -> None:
    """Fork a worker for each job. It is reaped when the harness says so, not before: until then
    its process id is nobody else's, and killing it cannot hit another process."""
    for number in range(2 * BULK + 1):
        _pre_key(number)
    importlib.import_module("ratchetkeep.stores.sqlite")
    importlib.import_module("ratchetkeep.stores.directory")
    say("ready")
    while line := sys.stdin.readline():
        job = json.loads(line)
        opener_of(job["opener"])
        worker = os.fork()
        if worker == 0:
            _be_the_worker(job)
        say(f"started {worker}")
        order = sys.stdin.readline()
        if not order:  # the harness is gone
            os.kill(worker, signal.SIGKILL)
        _, status = os.waitpid(worker, 0)
        say(f"ended {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    serve()
