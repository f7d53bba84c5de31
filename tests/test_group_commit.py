"""Group commit: who leads, who shares a sync, and who is told what."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from _aio_helpers import Background, HeldDisk, until, waiting
from ratchetkeep import Device, RatchetkeepError, StoreClosed, open_device, open_store
from ratchetkeep.aio import AsyncDevice
from ratchetkeep.commit import Commit
from ratchetkeep.model import CREDENTIALS

# A commit that nobody carries out: the tests that look for one wait so long, in seconds.
HANG = 5


def put(device: Device, id: str, value: str = "x") -> None:
    device.set({"lid-mapping": {id: value}})


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


def test_an_interrupt_just_after_waking_is_no_lost_wake_up(tmp_path: Path) -> None:
    """A thread that is interrupted in the moment it is woken would sleep for ever."""
    with open_device(f"sqlite:{tmp_path}/x.db", create=True) as device:
        credentials = device.credentials
        commit = Commit(
            device._memory,
            {CREDENTIALS: credentials},
            device._store.prepare("default", {CREDENTIALS: credentials}, credentials),
        )
        commit.prepare_to_sleep()

        class Interrupted:
            """A lock whose first acquire succeeds, and is interrupted before it returns."""

            def __init__(self, real: threading.Lock) -> None:
                self.real = real
                self.was_interrupted = False

            def acquire(self) -> bool:
                taken = self.real.acquire()
                if not self.was_interrupted:
                    self.was_interrupted = True
                    raise KeyboardInterrupt
                return taken

            def release(self) -> None:
                self.real.release()

        assert commit._wake is not None
        commit._wake = Interrupted(commit._wake)  # type: ignore[assignment]
        sleeper = Background(commit.sleep)
        commit.wake()
        assert sleeper.ends(HANG)
        assert sleeper.error is None


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

            def acquire(self) -> None:
                two._memory.order = plain
                raise KeyboardInterrupt

            def release(self) -> None:
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
