"""Group commit: who leads, who shares a sync, and who is told what."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from _aio_helpers import (
    HANG,
    PATIENCE,
    Background,
    HeldDisk,
    opened,
    put,
    simulated,
    soon,
    until,
    waiting,
)
from _power import KINDS, running
from ratchetkeep import (
    Device,
    NameCollision,
    RatchetkeepError,
    StoreClosed,
    open_device,
    open_store,
)
from ratchetkeep.aio import AsyncDevice
from ratchetkeep.commit import Commit
from ratchetkeep.formats import Encoded, Format
from ratchetkeep.model import CREDENTIALS, Credentials, Key
from ratchetkeep.testing.faults import SimulatedDisk

# -- syncs, counted


def syncs(disk: SimulatedDisk) -> int:
    return disk.steps.count("sync")


async def commits_of_tasks(*devices: AsyncDevice, tasks: int, turns: int) -> None:
    """Tasks that commit again and again, each on the next device."""

    async def committer(number: int) -> None:
        for turn in range(turns):
            id = f"{number}.{turn}"
            await devices[number % len(devices)].set({"lid-mapping": {id: "x"}})

    await asyncio.gather(*(committer(number) for number in range(tasks)))


@pytest.mark.parametrize("kind", KINDS)
def test_64_tasks_share_syncs(kind: str) -> None:
    """Each of 64 tasks would pay a sync of its own."""
    with simulated(kind) as (device, disk):
        before = syncs(disk)
        asyncio.run(commits_of_tasks(AsyncDevice(device), tasks=64, turns=10))
        assert len(device.ids("lid-mapping")) == 641
        assert 10 <= syncs(disk) - before <= 640 / 8


@pytest.mark.parametrize("kind", KINDS)
def test_threads_that_wait_share_a_sync(kind: str) -> None:
    """Each of 16 threads would pay a sync of its own."""
    with simulated(kind) as (device, disk):
        before, gate = syncs(disk), HeldDisk(device)
        first = Background(lambda: put(device, "0"))
        gate.began.wait()
        others = [Background(partial(put, device, id)) for id in map(str, range(1, 17))]
        until(lambda: waiting(device) == 16)
        gate.let_go()
        assert all(each.ends() and each.error is None for each in [first, *others])
        assert gate.batches == [1, 16]
        # A journal that grows pays more, now and then.
        assert syncs(disk) - before <= 4
        assert len(device.ids("lid-mapping")) == 18


def test_threads_and_tasks_of_two_devices_share_a_sync() -> None:
    """Each device of a SQLite file would pay syncs of its own, and so would tasks beside threads:
    a host of many devices would be as slow as the sum of them."""
    disk = SimulatedDisk()
    with running("sqlite", disk) as store, ExitStack() as devices:
        one, two = (devices.enter_context(opened(store, name)) for name in ("a", "b"))
        before, gate = syncs(disk), HeldDisk(one)
        first = Background(lambda: put(two, "first"))
        gate.began.wait()
        threads = [
            Background(partial(put, device, id)) for device in (one, two) for id in ("x", "y", "z")
        ]
        tasks = Background(commits_of_tasks(AsyncDevice(one), AsyncDevice(two), tasks=8, turns=1))
        until(lambda: waiting(two) == 14)
        gate.let_go()
        assert all(each.ends() and each.error is None for each in [first, *threads, tasks])
        assert gate.batches == [1, 14]
        assert syncs(disk) - before == 2
        assert len(one.ids("lid-mapping")) == 7
        assert len(two.ids("lid-mapping")) == 8


@pytest.mark.parametrize("kind", KINDS)
def test_a_lone_commit_is_made_by_its_own_thread(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program without threads would pay for waking one up, twice for each commit."""
    started, wrote = [], set()
    start = threading.Thread.start

    def noted(self: threading.Thread) -> None:
        started.append(self.name)
        start(self)

    with simulated(kind) as (device, disk):
        monkeypatch.setattr(threading.Thread, "start", noted)
        disk.on_step = lambda verb: wrote.add(threading.get_ident())
        put(device, "1")
        with device.transaction("k") as transaction:
            transaction.set({"lid-mapping": {"2": "x"}})
        device.mint_pre_keys(70)
        device.save_credentials(device.credentials.replace(platform="x"))
        disk.on_step = None
        assert wrote == {threading.get_ident()}
        assert started == []


# -- encoding


class SlowFormat:
    """A store's own format, which stops where it encodes the record of one id."""

    def __init__(self, real: Format) -> None:
        self._real = real
        self.name = real.name
        self.began, self.go_on = threading.Event(), threading.Event()

    def decode(self, key: Key, raw: bytes) -> Any:
        return self._real.decode(key, raw)

    def encode(self, key: Key, value: Any, credentials: Credentials | None = None) -> Encoded:
        if key.id == "slow":
            self.began.set()
            assert self.go_on.wait(PATIENCE)
        return self._real.encode(key, value, credentials)


@pytest.mark.parametrize("kind", KINDS)
def test_others_commit_while_a_thread_encodes(kind: str) -> None:
    """All threads and tasks would wait while one encodes a large commit."""
    with simulated(kind) as (device, _):
        device._store.format = slow = SlowFormat(device._store.format)
        large = Background(lambda: put(device, "slow"))
        slow.began.wait()
        thread = Background(lambda: put(device, "1"))
        task = Background(AsyncDevice(device).set({"lid-mapping": {"2": "x"}}))
        reader = Background(lambda: device.get("lid-mapping", ["first", "slow", "unknown"]))
        for each in (thread, task, reader):
            assert each.ends(HANG) and each.error is None
        assert reader.result == {"first": "x"}
        assert device.ids("lid-mapping") == ["1", "2", "first"]
        slow.go_on.set()
        assert large.ends() and large.error is None
        assert device.ids("lid-mapping") == ["1", "2", "first", "slow"]


def test_the_event_loop_goes_on_while_a_task_encodes_many() -> None:
    """All tasks would stand still while one commits hundreds of records."""

    async def main(core: Device, slow: SlowFormat) -> list[str]:
        device = AsyncDevice(core)
        many = dict.fromkeys(["slow", *map(str, range(100))], "x")
        task = asyncio.create_task(device.set({"lid-mapping": many}))
        await soon(slow.began)
        await device.set({"lid-mapping": {"other": "x"}})
        before = await device.ids("lid-mapping")
        slow.go_on.set()
        await task
        return before

    with simulated("sqlite") as (device, _):
        device._store.format = slow = SlowFormat(device._store.format)
        assert asyncio.run(main(device, slow)) == ["first", "other"]
        assert len(device.ids("lid-mapping")) == 103


# -- one of a group that cannot be carried out


def test_one_that_is_refused_stops_no_other(tmp_path: Path) -> None:
    """Commits of others would fail, or be lost, because one among them names an id whose file
    another one owns."""
    with open_device(f"baileysex:{tmp_path}/x", create=True) as device:
        put(device, "a/b", "mine")
        gate = HeldDisk(device)
        first = Background(lambda: put(device, "1"))
        gate.began.wait()
        ids = ["2", "a__b", "3"]
        others = [Background(partial(put, device, id)) for id in ids]
        # The fourth and fifth collide with each other.
        others += [Background(partial(put, device, id)) for id in ("c/d", "c__d")]
        until(lambda: waiting(device) == 5)
        gate.let_go()
        assert all(each.ends() for each in [first, *others])
        assert [type(each.error) for each in (first, *others[:3])] == [
            type(None),
            type(None),
            NameCollision,
            type(None),
        ]
        assert {type(each.error) for each in others[3:]} == {type(None), NameCollision}
        assert device.get("lid-mapping", ["a/b", "a__b"]) == {"a/b": "mine"}
        known = device.ids("lid-mapping")
        assert len(known) == 5
    with open_device(f"baileysex:{tmp_path}/x") as again:
        assert again.ids("lid-mapping") == known


@pytest.mark.parametrize("face", ["threads", "tasks"])
def test_one_whose_device_was_closed_stops_no_other(face: str, tmp_path: Path) -> None:
    """Commits of other devices of the file would fail because one of them was closed meanwhile."""
    url = f"sqlite:{tmp_path}/x.db"
    with ExitStack() as devices:
        one, two, three = (
            devices.enter_context(open_device(f"{url}?device={name}", create=True))
            for name in "abc"
        )
        gate = HeldDisk(one)
        first = Background(lambda: put(one, "1"))
        gate.began.wait()
        others = [
            Background(
                AsyncDevice(device).set({"lid-mapping": {"2": "x"}})
                if face == "tasks"
                else partial(put, device, "2")
            )
            for device in (one, two, three)
        ]
        until(lambda: waiting(one) == 3)
        two.close()
        gate.let_go()
        assert all(each.ends() for each in [first, *others])
        assert [type(each.error).__name__ for each in [first, *others]] == [
            "NoneType",
            "NoneType",
            "StoreClosed",
            "NoneType",
        ]
        assert one.ids("lid-mapping") == ["1", "2"]
        assert three.ids("lid-mapping") == ["2"]
    with open_device(f"{url}?device=b") as again:
        assert again.ids("lid-mapping") == []


# -- a device that is closed, and opened again, while its commit waits


def test_a_commit_of_a_closed_device_is_not_made_behind_a_new_one(tmp_path: Path) -> None:
    """A commit that waited while its device was closed and opened again would be stored behind the
    new device, whose memory then differs from what is stored."""
    url = f"sqlite:{tmp_path}/x.db"
    with open_device(f"{url}?device=b", create=True) as other:
        device = open_device(f"{url}?device=a", create=True)
        disk = HeldDisk(other)
        first = Background(lambda: put(other, "1"))
        disk.began.wait()
        late = Background(lambda: put(device, "2", "stale"))
        until(lambda: waiting(other))
        device.close()
        with open_device(f"{url}?device=a") as again:
            assert again.get("lid-mapping", ["2"]) == {}
            disk.let_go()
            assert first.ends() and late.ends()
            assert isinstance(late.error, StoreClosed)
            assert first.error is None
            assert again.ids("lid-mapping") == []
            assert other.ids("lid-mapping") == ["1"]


@pytest.mark.parametrize("kind", ["baileys", "baileysex"])
def test_the_same_in_a_folder(kind: str, tmp_path: Path) -> None:
    """The same, where one store object is used again."""
    with open_store(f"{kind}:{tmp_path}/x") as store:
        device = store.create()
        disk, reopened, leads = HeldDisk(device), threading.Event(), iter([False, True])
        lead = device._group._lead

        def lead_late() -> None:
            # The second leader is slow, as a thread may be.
            if next(leads):
                assert reopened.wait(HANG)
            lead()

        device._group._lead = lead_late  # type: ignore[method-assign]
        first = Background(lambda: put(device, "1"))
        disk.began.wait()
        late = Background(lambda: put(device, "2", "stale"))
        until(lambda: waiting(device))
        disk.let_go()
        assert first.ends()
        device.close()
        again = store.open()
        assert again.get("lid-mapping", ["2"]) == {}
        reopened.set()
        assert late.ends()
        assert isinstance(late.error, StoreClosed)
        assert again.ids("lid-mapping") == ["1"]


# -- several event loops


def test_a_loop_that_is_busy_holds_up_no_other_loop(tmp_path: Path) -> None:
    """The first commit of a group would be begun by an event loop that is blocked, while commits of
    other loops wait for it: for ever, if that loop waits for them."""
    submitted, done = threading.Event(), threading.Event()
    with open_device(f"sqlite:{tmp_path}/x.db", create=True) as core:
        device = AsyncDevice(core)

        async def busy() -> bool:
            task = asyncio.create_task(device.set({"lid-mapping": {"1": "a"}}))
            await asyncio.sleep(0)
            submitted.set()
            was_done = done.wait(HANG)
            await task
            return was_done

        async def other() -> None:
            await device.set({"lid-mapping": {"2": "b"}})
            done.set()

        one = Background(busy())
        submitted.wait()
        two = Background(other())
        assert one.ends() and two.ends()
        assert (one.error, two.error) == (None, None)
        assert one.result is True
        assert core.ids("lid-mapping") == ["1", "2"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_was_closed_stops_no_other_loop(tmp_path: Path) -> None:
    """Commits of all other loops would wait for ever for one that was closed while a commit was
    under way."""
    with open_device(f"sqlite:{tmp_path}/x.db", create=True) as core:
        device = AsyncDevice(core)
        loop = asyncio.new_event_loop()
        task = loop.create_task(device.set({"lid-mapping": {"1": "a"}}))
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
        assert not task.done()
        other = Background(device.set({"lid-mapping": {"2": "b"}}))
        has_ended = other.ends(HANG)
        put(core, "3")
        assert has_ended
        assert other.error is None
        del task
        assert set(core.ids("lid-mapping")) >= {"2", "3"}


# -- Ctrl-C


def sleeping(device: Device) -> Commit:
    """A commit whose thread is about to sleep."""
    credentials = device.credentials
    changes = {CREDENTIALS: credentials}
    commit = Commit(device._memory, changes, device._store.prepare("default", changes, credentials))
    commit.prepare_to_sleep()
    return commit


def test_an_interrupt_just_after_waking_is_no_lost_wake_up(tmp_path: Path) -> None:
    """A thread that is interrupted in the moment it is woken would sleep for ever."""
    with open_device(f"sqlite:{tmp_path}/x.db", create=True) as device:
        commit = sleeping(device)

        class Interrupted:
            """A lock whose first acquire succeeds, and is interrupted before it returns."""

            def __init__(self, real: threading.Lock) -> None:
                self.real, self.locked, self.release = real, real.locked, real.release
                self.began = threading.Event()

            def acquire(self) -> bool:
                is_first = not self.began.is_set()
                self.began.set()
                taken = self.real.acquire()
                if is_first:
                    raise KeyboardInterrupt
                return taken

        assert commit._wake is not None
        commit._wake = lock = Interrupted(commit._wake)  # type: ignore[assignment]
        sleeper = Background(commit.sleep)
        assert lock.began.wait(HANG)
        commit.wake()
        assert sleeper.ends(HANG)
        assert sleeper.error is None
        assert isinstance(sleeper.result, KeyboardInterrupt)


def test_one_that_is_awake_can_be_woken_again(tmp_path: Path) -> None:
    """A leader would end with an error of a lock, instead of telling the others, where one of them
    was interrupted in the moment it was woken: it is woken as the next leader, and then told."""
    with open_device(f"sqlite:{tmp_path}/x.db", create=True) as device:
        commit = sleeping(device)
        commit.wake()
        assert commit.sleep() is None
        commit.wake()


@pytest.mark.parametrize("where", ["_gather", "_carry_out", "_hand_over", "_lead"])
def test_an_interrupt_of_a_leader_stops_nobody_else(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a Ctrl-C at an unlucky moment every later commit would hang."""
    with open_device(f"sqlite:{tmp_path}/x.db", create=True) as device:
        put(device, "1")
        group = device._group

        def interrupted(*args: object) -> None:
            monkeypatch.undo()
            raise KeyboardInterrupt

        monkeypatch.setattr(group, where, interrupted)
        with pytest.raises(KeyboardInterrupt):
            put(device, "2")
        other = Background(lambda: put(device, "3"))
        assert other.ends(HANG)
        assert other.error is None or isinstance(other.error, RatchetkeepError)
        try:
            known = device.ids("lid-mapping")
        except RatchetkeepError:
            known = None
    with open_device(f"sqlite:{tmp_path}/x.db") as again:
        assert known in (None, again.ids("lid-mapping"))


def test_an_interrupt_between_two_devices_leaves_neither_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Ctrl-C while a leader waits for the second of two devices would keep the first one locked:
    its reads in other threads would hang, and so would closing it."""
    url = f"sqlite:{tmp_path}/x.db"
    with (
        open_device(f"{url}?device=a", create=True) as one,
        open_device(f"{url}?device=b", create=True) as two,
    ):
        plain = two._memory.order

        class Interrupting:
            """An order whose first acquire is interrupted, as a wait may be."""

            def __enter__(self) -> None:
                two._memory.order = plain
                raise KeyboardInterrupt

            def __exit__(self, *_: object) -> None:
                raise AssertionError("it was never taken")

        group = [
            Commit(d._memory, {}, d._store.prepare(d.name, {}, d.credentials)) for d in (one, two)
        ]
        two._memory.order = Interrupting()  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            one._group._carry_out(group)
        reader = Background(lambda: one._memory.load("lid-mapping", ["1"]))
        has_ended = reader.ends(HANG)
        while not has_ended:
            one._memory.order.release()
            has_ended = reader.ends()
            raise AssertionError("it stayed locked")
