"""Group commits on a disk that fails, and on one whose power is cut."""

from __future__ import annotations

import asyncio
import errno
import random
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import apsw
import pytest

from _aio_helpers import Background, HeldDisk, held, opened, put, turns, until, waiting
from _power import KINDS, after, folder, running
from ratchetkeep import AsyncDevice, CommitFailed, KeyPair
from ratchetkeep.stores import _sqlite_file
from ratchetkeep.stores.base import Store
from ratchetkeep.stores.sqlite import SqliteStore
from ratchetkeep.testing.faults import MirroredVFS, SimulatedDisk, closing


class Place:
    """Where a store is, on a disk that can be told to fail."""

    def __init__(self, kind: str, above: str, disk: SimulatedDisk, vfs: MirroredVFS) -> None:
        self._kind, self._path, self._disk, self._vfs = kind, f"{above}/x.db", disk, vfs
        _sqlite_file.make(self._path)

    @contextmanager
    def store(self) -> Iterator[Store]:
        """The store; it can be opened again and again."""
        if self._kind == "sqlite":
            with closing(SqliteStore(self._path, vfs=self._vfs.name)) as store:
                yield store
        else:
            with folder(self._disk, self._kind) as store:
                yield store

    def breaks(self, verb: str) -> None:
        """From now on, ``write`` or ``sync`` fails."""
        self._vfs.fail(verb, apsw.IOError)
        self._disk.fail({"write": "write_at"}.get(verb, verb), errno.EIO)

    def heals(self) -> None:
        """Everything works again."""
        self._vfs.heal()
        self._disk.heal()


@contextmanager
def place_of(kind: str) -> Iterator[Place]:
    # SQLite's files are real, and only watched: the simulated disk beneath is another one.
    with tempfile.TemporaryDirectory() as above, MirroredVFS(SimulatedDisk()) as vfs:
        yield Place(kind, above, SimulatedDisk(), vfs)


IDS = [str(number) for number in range(8)]


def told_and_kept(errors: list[BaseException | None]) -> None:
    """Each has an error of its own."""
    assert {type(error) for error in errors} == {CommitFailed}
    assert len({id(error) for error in errors}) == len(errors)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", ["write", "sync"])
def test_all_tasks_of_a_group_are_told_that_it_failed(kind: str, verb: str) -> None:
    """Some of those that shared a sync which failed would be told that their commit is durable, or
    memory would show what is not stored."""

    async def main(place: Place, device: AsyncDevice) -> None:
        before = held(device._core)
        place.breaks(verb)
        told = await asyncio.gather(
            *(device.set({"lid-mapping": {id: "x"}}) for id in IDS),
            device.save_credentials(device.credentials.replace(platform="lost")),
            device.mint_pre_keys(2),
            return_exceptions=True,
        )
        told_and_kept([each for each in told if isinstance(each, BaseException)])
        assert len(told) == 10
        assert held(device._core) == before
        place.heals()
        # A disk that works again is no reason to go on without looking.
        with pytest.raises(CommitFailed):
            await device.set({"lid-mapping": {"later": "x"}})
        assert held(device._core) == before

    with place_of(kind) as place:
        with place.store() as store, opened(store) as core:
            put(core, "first")
            before = held(core)
            asyncio.run(main(place, AsyncDevice(core)))
        with place.store() as store, opened(store) as again:
            # The group reached the disk whole, or not at all.
            found = set(again.ids("lid-mapping"))
            assert found in ({"first"}, {"first", *IDS})
            was_lost = found == {"first"}
            changed = before["credentials"].replace(platform="lost")
            assert again.credentials == (before["credentials"] if was_lost else changed)
            # It waited for the lock of the one that saved the credentials.
            assert again.ids("pre-key") == []
            asyncio.run(AsyncDevice(again).set({"lid-mapping": {"now": "x"}}))
            assert "now" in again.ids("lid-mapping")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", ["write", "sync"])
def test_all_threads_of_a_group_are_told_that_it_failed(kind: str, verb: str) -> None:
    """The same for threads that wait; and of two devices in one SQLite file, the second would go on
    in a file that takes no more."""
    with place_of(kind) as place:
        with place.store() as store, ExitStack() as devices:
            names = ["default", "other"] if kind == "sqlite" else ["default"]
            all_ = [devices.enter_context(opened(store, name)) for name in names]
            before = [held(device) for device in all_]
            gate = HeldDisk(all_[0])
            commits = [partial(put, device, id) for id in IDS for device in all_]
            first = Background(partial(put, all_[0], "0"))
            gate.began.wait()
            others = [Background(commit) for commit in commits]
            until(lambda: waiting(all_[0]) == len(commits))
            place.breaks(verb)
            gate.let_go()
            assert all(each.ends() for each in [first, *others])
            told_and_kept([each.error for each in [first, *others]])
            assert [held(device) for device in all_] == before
            place.heals()
            for device in all_:
                with pytest.raises(CommitFailed):
                    put(device, "later")
        with place.store() as store, ExitStack() as devices:
            for name in names:
                device = devices.enter_context(opened(store, name))
                # The first commit alone, if anything: nothing is tried after it failed.
                assert set(device.ids("lid-mapping")) <= {"0"}
                put(device, "now")
                assert "now" in device.ids("lid-mapping")


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_that_is_cancelled_while_its_commit_fails(kind: str) -> None:
    """Memory would show what is not stored, or a lock stay behind, where the task that would have
    been told is gone."""

    async def main(place: Place, device: AsyncDevice) -> None:
        before, gate = held(device._core), HeldDisk(device._core)

        async def commit() -> None:
            async with device.transaction("k") as transaction:
                await transaction.set({"lid-mapping": {"1": "x"}})

        task = asyncio.create_task(commit())
        while not gate.began.is_set():
            await turns(1)
        place.breaks("sync")
        task.cancel()
        await turns()
        assert not task.done(), "nobody knows yet"
        gate.let_go()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert held(device._core) == before
        with pytest.raises(CommitFailed):
            async with device.transaction("k") as transaction:
                await transaction.set({"lid-mapping": {"2": "x"}})
        place.heals()

    with place_of(kind) as place, place.store() as store, opened(store) as core:
        asyncio.run(main(place, AsyncDevice(core)))


class Cutter:
    """Cuts the power at some steps, and keeps what may be left beside what was acknowledged."""

    def __init__(self, disk: SimulatedDisk, share: float = 1.0) -> None:
        self.acknowledged: list[str] = []
        self.states: list[tuple[list[str], SimulatedDisk]] = []
        self._disk = disk
        self._share = share
        self._rng = random.Random(7)

    def cut(self, verb: str) -> None:
        """A step of the disk."""
        if self._rng.random() < self._share:
            known = list(self.acknowledged)
            self.states += [(known, state) for state in self._disk.crashes(self._rng, 2)]


async def committers(device: AsyncDevice, acknowledged: list[str]) -> None:
    """Tasks, each of whose commits has two records and moves a number in the credentials."""

    async def one(number: int) -> None:
        for turn in range(4):
            id = f"{number}.{turn}"
            async with (
                device.transaction("credentials") if turn == 2 else device.transaction() as t
            ):
                await t.set({"lid-mapping": {id: "x"}, "device-list": {id: ["0"]}})
                if turn == 2:
                    count = t.credentials.next_pre_key_id
                    await t.save_credentials(t.credentials.replace(next_pre_key_id=count + 1))
            acknowledged.append(id)

    await asyncio.gather(*(one(number) for number in range(12)))


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_task_was_told_survives_a_power_cut(kind: str) -> None:
    """A task would go on, and send a message, though its commit is gone after a power cut; or half
    of a commit would be there."""
    disk = SimulatedDisk()
    cutter = Cutter(disk, 0.3)
    with running(kind, disk) as store, opened(store) as core:
        first = core.credentials.next_pre_key_id
        disk.on_step = cutter.cut
        asyncio.run(committers(AsyncDevice(core), cutter.acknowledged))
        disk.on_step = None
    assert len(cutter.acknowledged) == 48
    assert len(cutter.states) >= 10
    assert any(0 < len(known) < 48 for known, _ in cutter.states)
    for known, state in cutter.states:
        with after(kind, state) as store, opened(store) as device:
            found = device.ids("lid-mapping")
            assert set(known) <= set(found), "acknowledged, and gone"
            assert device.ids("device-list") == found
            moved = device.credentials.next_pre_key_id - first
            assert moved == sum(id.endswith(".2") for id in found)


# -- pre-keys


@pytest.mark.parametrize("kind", KINDS)
def test_a_power_cut_leaves_all_of_a_minting_or_none(kind: str) -> None:
    """The counter would be moved without the keys, or stay behind them: ids would be given out
    twice after a power cut."""

    async def mints(device: AsyncDevice, told: list[str]) -> None:
        for turn in range(5):
            told += map(str, await device.mint_pre_keys(7))
            await device.mark_pre_keys_uploaded(turn * 7 + 3)

    disk = SimulatedDisk()
    cutter = Cutter(disk, 0.5)
    with running(kind, disk) as store, opened(store) as core:
        core.save_credentials(
            core.credentials.replace(next_pre_key_id=1, first_unuploaded_pre_key_id=1)
        )
        disk.on_step = cutter.cut
        asyncio.run(mints(AsyncDevice(core), cutter.acknowledged))
        disk.on_step = None
    assert len(cutter.states) > 10
    for known, state in cutter.states:
        with after(kind, state) as store, opened(store) as device:
            ids = sorted(map(int, device.ids("pre-key")))
            next_id = device.credentials.next_pre_key_id
            first = device.credentials.first_unuploaded_pre_key_id
            assert len(ids) % 7 == 0
            assert ids == list(range(1, next_id)), "the counter and the keys differ"
            assert set(map(int, known)) <= set(ids), "a minting that had returned is gone"
            assert first % 7 in (1, 4)
            assert list(device.unuploaded_pre_keys()) == list(range(first, next_id))


@pytest.mark.parametrize("kind", KINDS)
def test_a_power_cut_leaves_a_pre_key_or_what_it_made(kind: str) -> None:
    """A pre-key would be gone without the session that it made, or be used a second time."""
    disk = SimulatedDisk()
    cutter = Cutter(disk)
    with running(kind, disk) as store, opened(store) as device:
        device.set({"pre-key": {id: KeyPair.new() for id in IDS[1:]}})
        made = b"\x05" + bytes(32)
        disk.on_step = cutter.cut
        for id in IDS[1:]:
            with device.transaction() as transaction:
                transaction.consume_pre_key(id)
                transaction.set({"identity-key": {f"{id}.0": made}})
            cutter.acknowledged.append(id)
        disk.on_step = None
    assert len(cutter.states) > 10
    for known, state in cutter.states:
        with after(kind, state) as store, opened(store) as device:
            used = {id.split(".")[0] for id in device.ids("identity-key")}
            assert set(known) <= used
            assert set(device.ids("pre-key")) == set(IDS[1:]) - used
