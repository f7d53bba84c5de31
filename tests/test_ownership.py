"""One owner at a time, with real processes: races, deaths, stale notes, forks."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from _helpers import dead_pid
from ratchetkeep import (
    Device,
    OwnershipLost,
    RatchetkeepError,
    StoreClosed,
    StoreInUse,
    open_device,
    open_store,
    verify_device,
)
from ratchetkeep.stores._sqlite_owned import OwnedFile

KINDS = ["sqlite", "baileys", "baileysex"]
RACERS = 6
PATIENCE = 30

# A server without threads forks the processes, so that they start quickly and clean.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["ratchetkeep", "ratchetkeep.stores.sqlite", "ratchetkeep.stores.directory", "pytest"]
)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(kind: str, tmp_path: Path) -> str:
    """A place with a new device, closed."""
    made = f"{kind}:{tmp_path}/device{'.db' if kind == 'sqlite' else ''}"
    with open_device(made, create=True) as device:
        put(device, "1", "first")
    return made


def put(device: Device, id: str, value: str) -> None:
    device.set({"lid-mapping": {id: value}})


def held(device: Device) -> dict[str, str]:
    return device.get("lid-mapping", device.ids("lid-mapping"))


def note_of(url: str) -> Path:
    kind, _, path = url.partition(":")
    return Path(path + ".owner") if kind == "sqlite" else Path(path, ".ratchetkeep.owner")


def lock_of(url: str) -> Path:
    return note_of(url).with_suffix(".lock")


# -- other processes


class Other:
    """Another process; it is told what to do, and answers."""

    def __init__(self) -> None:
        self.pipe, its_end = CONTEXT.Pipe()
        self.process: BaseProcess = CONTEXT.Process(target=serve, args=(its_end,), daemon=True)
        self.process.start()
        its_end.close()

    def tell(self, *order: Any) -> None:
        self.pipe.send(order)

    def answer(self) -> str:
        assert self.pipe.poll(PATIENCE), "the other process hangs"
        return str(self.pipe.recv())

    def ask(self, *order: Any) -> str:
        self.tell(*order)
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.join(PATIENCE)

    def end(self) -> None:
        """Let it end as programs do."""
        self.pipe.close()
        self.process.join(PATIENCE)
        assert self.process.exitcode == 0


@contextmanager
def others(count: int) -> Iterator[list[Other]]:
    made: list[Other] = []
    try:
        made.extend(Other() for _ in range(count))
        yield made
    finally:
        for other in made:
            other.kill()
            other.pipe.close()


@pytest.fixture
def other() -> Iterator[Other]:
    with others(1) as (made,):
        yield made


def serve(pipe: Connection) -> None:
    """What the other process does: it keeps what it opens until told otherwise."""
    opened: dict[str, Device] = {}
    while True:
        try:
            order, *arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = ORDERS[order](opened, *arguments)
        except RatchetkeepError as error:
            answer = f"{type(error).__name__}: {error}"
        except Exception as error:  # noqa: BLE001 - told to the test, which fails
            answer = f"BUG {type(error).__name__}: {error}"
        pipe.send(answer)


def _open(opened: dict[str, Device], url: str, **how: Any) -> str:
    opened[url] = open_device(url, **how)
    return "open"


def _wait_and_open(opened: dict[str, Device], url: str, start: float) -> str:
    time.sleep(max(0.0, start - time.monotonic()))
    return _open(opened, url)


def _put(opened: dict[str, Device], url: str, id: str, value: str) -> str:
    put(opened[url], id, value)
    return "put"


def _close(opened: dict[str, Device], url: str) -> str:
    opened.pop(url).close()
    return "closed"


def _read(opened: dict[str, Device], url: str) -> str:
    with open_device(url, read_only=True) as device:
        return json.dumps(held(device), sort_keys=True)


ORDERS: dict[str, Callable[..., str]] = {
    "open": _open,
    "open at": _wait_and_open,
    "put": _put,
    "close": _close,
    "read": _read,
}


# -- races


def test_a_race_has_one_winner(url: str) -> None:
    """Two processes that start at once would both own the device, or none; or one would crash."""
    with others(RACERS) as racers:
        for turn in range(8):
            start = time.monotonic() + 0.02
            for racer in racers:
                racer.tell("open at", url, start)
            answers = [racer.answer() for racer in racers]
            winners = [
                racer for racer, answer in zip(racers, answers, strict=True) if answer == "open"
            ]
            assert len(winners) == 1, answers
            for answer in answers:
                assert answer == "open" or answer.startswith("StoreInUse: ")
            assert winners[0].ask("put", url, f"turn {turn}", "won") == "put"
            assert winners[0].ask("close", url) == "closed"
    with open_device(url) as device:
        assert held(device) == {"1": "first", **{f"turn {turn}": "won" for turn in range(8)}}


def test_owners_that_come_and_go_never_overlap(url: str) -> None:
    """An opener could take a lock file that its owner is just removing, beside a third one."""
    with others(4) as racers:
        for racer in racers:
            racer.tell("come and go", url, 25)
        answers = [racer.answer() for racer in racers]
    assert all(answer.isdecimal() for answer in answers), answers
    total = sum(int(answer) for answer in answers)
    assert total > 0
    with open_device(url) as device:
        assert len(held(device)) == 1 + total


def _come_and_go(opened: dict[str, Device], url: str, times: int) -> str:
    """Open, note who comes in and who goes, close; how often that worked."""
    witness = Path(url.partition(":")[2] + ".witness")
    done = 0
    for turn in range(times):
        try:
            device = open_device(url)
        except StoreInUse:
            continue
        with device:
            descriptor = os.open(witness, os.O_CREAT | os.O_EXCL)  # fails beside another owner
            put(device, f"{os.getpid()} {turn}", "in")
            os.close(descriptor)
            witness.unlink()
        done += 1
    return str(done)


ORDERS["come and go"] = _come_and_go


def test_the_loser_is_told_who_holds_it(url: str, other: Other) -> None:
    """A user could not find the program that holds the device."""
    assert other.ask("open", url) == "open"
    with pytest.raises(StoreInUse) as caught:
        open_device(url)
    for said in (str(caught.value), caught.value.holder):
        assert f"process {other.process.pid} on {socket.gethostname()} since 20" in said


# -- deaths and what they leave


def test_after_the_holder_is_killed_the_next_opens_at_once(url: str) -> None:
    """A crashed client could not start again before somebody removes a lock."""
    for turn in range(5):
        with others(1) as (holder,):
            assert holder.ask("open", url) == "open"
            assert holder.ask("put", url, f"{turn}", "acknowledged") == "put"
            holder.kill()
            with open_device(url) as device:
                assert held(device)[f"{turn}"] == "acknowledged"


def _notes() -> dict[str, Callable[[], str]]:
    def note(pid: int, host: str) -> str:
        return json.dumps({"pid": pid, "host": host, "since": "2020-01-01T00:00:00+00:00"})

    here = socket.gethostname()
    return {
        "dead process": lambda: note(dead_pid(), here),
        "another host": lambda: note(os.getppid(), "another-host"),
        "reused pid": lambda: note(os.getppid(), here),
        "own pid": lambda: note(os.getpid(), here),
        "half a note": lambda: note(1, here)[:20],
        "empty": lambda: "",
        "no note": lambda: "\0\xff[1, 2",
        "huge": lambda: "9" * 100_000,
    }


@pytest.mark.parametrize("note", _notes())
@pytest.mark.parametrize("with_lock", [True, False], ids=["lock file", "no lock file"])
def test_a_stale_note_blocks_nobody(url: str, note: str, with_lock: bool, other: Other) -> None:
    """What a dead owner left would lock the device for ever, or its pid's new process would."""
    note_of(url).write_text(_notes()[note](), encoding="latin-1")
    if with_lock:
        lock_of(url).touch(mode=0o600)
    assert other.ask("read", url) == '{"1": "first"}'
    assert other.ask("open", url) == "open"
    with pytest.raises(StoreInUse) as caught:
        open_device(url)
    assert f"process {other.process.pid} on" in caught.value.holder
    assert other.ask("close", url) == "closed"
    assert not note_of(url).exists() and not lock_of(url).exists()


def test_a_damaged_note_of_a_living_owner(url: str, other: Other) -> None:
    """A note that cannot be read would let a second owner in, or end in a traceback."""
    assert other.ask("open", url) == "open"
    for text in ("", '{"pid": "x"}', "[]", '{"pid": 1e999, "host": 1, "since": []}', "[" * 5000):
        note_of(url).write_text(text)
        with pytest.raises(StoreInUse):
            open_device(url)
    note_of(url).unlink()
    with pytest.raises(StoreInUse, match="another process"):
        open_device(url)
    assert other.ask("put", url, "2", "still the owner") == "put"


# -- the lock file is touched by somebody


def test_an_owner_whose_lock_file_was_removed_is_not_followed_by_a_second_writer(
    url: str, other: Other
) -> None:
    """Somebody removes "the stale lock": two processes would write one device."""
    with open_device(url) as device:
        lock_of(url).unlink()
        second = other.ask("open", url)
        if second == "open":
            with pytest.raises(OwnershipLost):
                put(device, "2", "written beside the new owner")
            with pytest.raises(OwnershipLost):
                device.save_credentials(device.credentials.replace(platform="beside"))
        else:
            assert second.startswith("StoreInUse: ")
            put(device, "2", "the owner")
            return
        assert other.ask("put", url, "2", "new owner") == "put"
    with pytest.raises(StoreInUse):  # the old owner's closing has not ended the new ownership
        open_device(url)
    assert other.ask("put", url, "3", "new owner") == "put"
    assert other.ask("close", url) == "closed"
    with open_device(url) as device:
        assert held(device) == {"1": "first", "2": "new owner", "3": "new owner"}


def test_closing_leaves_the_lock_file_of_another_owner(url: str, other: Other) -> None:
    """An owner that lost its lock would remove its successor's, and let a third one in."""
    device = open_device(url)
    lock_of(url).rename(lock_of(url).with_suffix(".moved"))
    second = other.ask("open", url)
    try:
        device.close()
    except OwnershipLost:
        assert second == "open"
    lock_of(url).with_suffix(".moved").unlink(missing_ok=True)
    if second == "open":
        with pytest.raises(StoreInUse) as caught:
            open_device(url)
        assert f"process {other.process.pid} on" in caught.value.holder
        assert other.ask("close", url) == "closed"
    open_device(url).close()
    assert [each for each in verify_device(url) if each.severity != "info"] == []


@pytest.mark.parametrize("stands_there", ["folder", "link", "text"])
def test_something_else_under_the_lock_file_s_name(url: str, stands_there: str) -> None:
    """A strange file in the lock's place would end in a traceback, or be followed elsewhere."""
    elsewhere = lock_of(url).with_suffix(".elsewhere")
    if stands_there == "folder":
        lock_of(url).mkdir()
    elif stands_there == "link":
        lock_of(url).symlink_to(elsewhere)
    else:
        lock_of(url).write_text("not a lock")
    if stands_there == "text":
        open_device(url).close()
        return
    with pytest.raises(RatchetkeepError) as caught:
        open_device(url)
    assert "cannot be locked" in str(caught.value)
    assert not elsewhere.exists()
    with open_device(url, read_only=True) as device:
        assert held(device) == {"1": "first"}


# -- forks


def in_child(action: Callable[[], None], seconds: int = PATIENCE) -> None:
    """Run ``action`` in a forked child; its failure is a failure here."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest's own would go on here
            signal.alarm(seconds)  # a child that hangs dies, which its parent sees
            action()
            code = 0
        except BaseException as error:  # noqa: BLE001 - shown, and told by the exit code
            os.write(2, f"child: {type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def refused_everything(device: Device) -> None:
    changed = device.credentials.replace(platform="child")
    expect(OwnershipLost, lambda: put(device, "2", "child"))
    expect(OwnershipLost, lambda: device.save_credentials(changed))
    expect(OwnershipLost, device.clear)


@pytest.mark.parametrize("ending", ["exit", "close", "collect"])
def test_a_forked_child_neither_writes_nor_ends_its_parent_s_ownership(
    url: str, ending: str, other: Other
) -> None:
    """The child of a forking server would write its parent's device, or its end would unlock it."""
    device = open_device(url)
    put(device, "2", "parent")

    def be_the_child() -> None:
        refused_everything(device)
        if ending == "close":
            device.close()
        elif ending == "collect":
            _forget(device)

    in_child(be_the_child)
    assert other.ask("open", url).startswith("StoreInUse: ")
    assert note_of(url).exists() and lock_of(url).exists()
    put(device, "3", "parent")
    device.close()
    with open_device(url) as again:
        assert held(again) == {"1": "first", "2": "parent", "3": "parent"}
    assert [each for each in verify_device(url) if each.severity != "info"] == []


def _forget(device: Device) -> None:
    """Run the finalizers that an interpreter's end runs, and pytest's fixtures would prevent."""
    OwnedFile._open.clear()
    device.__dict__.clear()
    gc.collect()


PARENT = """
import os, signal, sys
from ratchetkeep import open_device
device = open_device(sys.argv[1])
device.set({"lid-mapping": {"2": "parent"}})
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    os.close(writer)
    os.read(reader, 1)  # until the parent is gone
    sys.exit(0)  # and with all of an interpreter's finalizers
print(child, flush=True)
device.set({"lid-mapping": {"3": "parent"}})
if sys.argv[2] == "close":
    device.close()
    print("closed", flush=True)
    sys.stdin.readline()
    os.close(writer)
    os.waitpid(child, 0)
else:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@contextmanager
def forking_parent(url: str, ending: str) -> Iterator[subprocess.Popen[str]]:
    """A program that has a device open and forks a child, which outlives its ownership."""
    command = [sys.executable, "-c", PARENT, url, ending]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        try:
            yield parent
        finally:
            parent.kill()


def test_a_child_that_ends_after_its_parent_s_ownership_harms_nobody(
    url: str, other: Other
) -> None:
    """The exit of an old child would remove a lock, or a log with commits, of the next owner."""
    with forking_parent(url, "close") as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert parent.stdout.readline() == "closed\n"
        assert other.ask("open", url) == "open"
        assert other.ask("put", url, "4", "next owner") == "put"
        parent.communicate("let the child end\n", timeout=PATIENCE)
        assert parent.returncode == 0
    with pytest.raises(StoreInUse):
        open_device(url)
    assert other.ask("put", url, "5", "next owner") == "put"
    other.kill()
    with open_device(url) as device:
        assert held(device) == {
            "1": "first",
            **dict.fromkeys("23", "parent"),
            **dict.fromkeys("45", "next owner"),
        }


def test_a_child_that_ends_after_the_next_owner_was_killed_harms_nothing(
    url: str, other: Other
) -> None:
    """The exit of an old child would remove the log with the commits of an owner that crashed."""
    with forking_parent(url, "close") as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert parent.stdout.readline() == "closed\n"
        assert other.ask("open", url) == "open"
        assert other.ask("put", url, "4", "next owner") == "put"
        other.kill()
        parent.communicate("let the child end\n", timeout=PATIENCE)
    with open_device(url) as device:
        assert held(device)["4"] == "next owner"


def test_after_a_killed_parent_its_child_s_end_harms_nothing(url: str) -> None:
    """The exit of a killed owner's child would lose what the owner had acknowledged."""
    with forking_parent(url, "kill") as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.wait(PATIENCE)
        assert parent.returncode == -signal.SIGKILL
    wait_until(lambda: has_ended(child))
    with open_device(url) as device:
        assert held(device) == {"1": "first", "2": "parent", "3": "parent"}
    assert [each for each in verify_device(url) if each.severity != "info"] == []


def has_ended(pid: int) -> bool:
    """True for a process that is gone, or that nobody has waited for yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it hangs"
        time.sleep(0.01)


def test_forking_at_any_moment_leaves_a_child_that_does_not_hang(url: str) -> None:
    """A child forked while another thread commits would wait for ever for that thread's locks."""
    stop = threading.Event()
    with open_device(url) as device:

        def commit() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                device.set({"lid-mapping": {f"{number % 50}": f"{number}"}})

        thread = threading.Thread(target=commit)
        thread.start()
        try:
            for _ in range(15):
                in_child(lambda: expect(OwnershipLost, lambda: put(device, "2", "child")), 5)
                in_child(lambda: quiet_close(device), 5)
        finally:
            stop.set()
            thread.join(PATIENCE)
        assert not thread.is_alive()
    assert [each for each in verify_device(url) if each.severity != "info"] == []


def quiet_close(device: Device) -> None:
    with suppress(OwnershipLost):
        device.close()


def expect(kind: type[Exception], action: Callable[[], object]) -> None:
    try:
        action()
    except kind:
        return
    raise AssertionError(f"no {kind.__name__} was raised")


def test_a_child_may_read_and_must_ask_like_anyone_else(url: str) -> None:
    """A worker forked by a server could not inspect the device, or would share its ownership."""
    with open_device(url) as device:

        def be_the_child() -> None:
            with open_device(url, read_only=True) as peek:
                assert held(peek) == {"1": "first"}
            expect(StoreInUse, lambda: open_device(url))

        in_child(be_the_child)
        put(device, "2", "parent")
    in_child(lambda: open_device(url).close())


def test_a_child_owns_the_device_once_its_parent_has_closed_it(url: str) -> None:
    """A daemon that forks after a first look would never get its device."""
    with open_device(url) as device:
        put(device, "2", "parent")

    def be_the_child() -> None:
        with open_device(url) as own:
            put(own, "3", "child")

    in_child(be_the_child)
    with open_device(url) as device:
        assert held(device) == {"1": "first", "2": "parent", "3": "child"}


# -- other ways to share


def spawned(pipe: Connection, url: str) -> None:
    """Runs in a process that multiprocessing spawned."""
    try:
        open_device(url)
    except StoreInUse as error:
        with open_device(url, read_only=True) as peek:
            pipe.send((error.holder, held(peek)))


def test_a_spawned_process_is_another_process(url: str) -> None:
    """A pool of spawned workers would own the device many times."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    with open_device(url):
        process = multiprocessing.get_context("spawn").Process(target=spawned, args=(theirs, url))
        process.start()
        theirs.close()
        try:
            assert ours.poll(PATIENCE)
            holder, found = ours.recv()
        finally:
            process.join(PATIENCE)
            process.kill()
            ours.close()
    assert f"process {os.getpid()} on" in holder
    assert found == {"1": "first"}


def test_two_devices_of_a_file_in_one_process(tmp_path: Path, other: Other) -> None:
    """A bot with many numbers in one file could open one only, or would share it with another."""
    place = f"sqlite:{tmp_path}/many.db"
    with open_store(place) as store:
        store.create("one").close()
        store.create("two").close()
    one, two = (f"{place}?device={name}" for name in ("one", "two"))
    with open_device(one) as first, open_device(two) as second:
        put(first, "1", "one")
        put(second, "1", "two")
        for url in (one, two):
            assert other.ask("open", url).startswith("StoreInUse: ")
            with pytest.raises(StoreInUse):
                open_device(url)
        second.close()
        assert other.ask("open", two).startswith("StoreInUse: ")
        put(first, "2", "one")
    assert other.ask("open", two) == "open"
    with pytest.raises(StoreInUse):
        open_device(one)
    assert other.ask("close", two) == "closed"
    with open_device(one) as first, open_device(two) as second:
        assert (held(first), held(second)) == ({"1": "one", "2": "one"}, {"1": "two"})


def test_readers_beside_the_owner(url: str, other: Other) -> None:
    """An inspection would need the client to be stopped, or would take its lock for a moment."""
    with open_device(url) as device:
        for number in range(20):
            put(device, "2", str(number))
            assert other.ask("read", url) == json.dumps({"1": "first", "2": str(number)})
            assert verify_device(url) == verify_device(url)
    assert other.ask("open", url) == "open"
    for _ in range(5):
        with open_device(url, read_only=True) as peek:
            assert held(peek)["1"] == "first"
    assert other.ask("put", url, "3", "owner") == "put"


def test_looking_does_not_keep_an_opener_out(url: str, other: Other) -> None:
    """A status command at the wrong moment would make a client's start fail."""
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            with suppress(RatchetkeepError):
                verify_device(url)

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(25):
            assert other.ask("open", url) == "open"
            assert other.ask("close", url) == "closed"
    finally:
        stop.set()
        for looker in lookers:
            looker.join(PATIENCE)


class Committer(threading.Thread):
    """Commits numbers, each in two records, until it is refused."""

    def __init__(self, device: Device, number: int) -> None:
        super().__init__(daemon=True)
        self.device = device
        self.number = number
        self.started = threading.Event()
        self.raised: BaseException | None = None

    def run(self) -> None:
        try:
            while True:
                number = str(self.number + 1)
                self.device.set({"lid-mapping": {"n": number}, "device-list": {"n": [number]}})
                self.number += 1
                self.started.set()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            self.raised = error
            self.started.set()


def test_closing_while_another_thread_commits(url: str) -> None:
    """A commit that was acknowledged while the device closed would be lost, or be half there."""
    number = 0
    for turn in range(12):
        device = open_device(url)
        committer = Committer(device, number)
        committer.start()
        assert committer.started.wait(PATIENCE)
        time.sleep(turn / 4000)
        device.close()
        committer.join(PATIENCE)
        assert not committer.is_alive()
        assert type(committer.raised) is StoreClosed, committer.raised
        number = committer.number
        with open_device(url) as again:
            assert again.get("lid-mapping", ["n"]) == {"n": str(number)}
            assert again.get("device-list", ["n"]) == {"n": (str(number),)}


def test_an_owner_that_closes_just_then_stands_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening would be refused as if the place were read-only, when its owner removed the lock file
    at the end of the wait."""
    real, tries = FileLock.acquire, []

    def acquire(self: FileLock, *args: Any, **how: Any) -> Any:
        tries.append(self.lock_file)
        if len(tries) == 1:
            raise Timeout(self.lock_file)
        return real(self, *args, **how)

    monkeypatch.setattr(FileLock, "acquire", acquire)
    with open_device(f"sqlite:{tmp_path}/device.db", create=True) as device:
        device.set({"lid-mapping": {"1": "2"}})
    assert len(tries) > 1
