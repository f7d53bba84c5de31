"""Power cuts under a sealed SQLite file: each leaves a device whose rows are those of its sum."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from _power import commits, credentials, few, many_pre_keys
from _sealing import KEY
from ratchetkeep.sealing.opening import new_ring
from ratchetkeep.stores import _sqlite_file
from ratchetkeep.stores.base import Store
from ratchetkeep.stores.sqlite import SqliteStore
from ratchetkeep.testing.faults import Commit, MirroredVFS, PowerCuts, SimulatedDisk, closing


@contextmanager
def running(disk: SimulatedDisk) -> Iterator[Store]:
    """A sealed store with its real settings, mirrored on a simulated disk."""
    above = Path(tempfile.mkdtemp())
    path = above / "x.db"
    try:
        with MirroredVFS(disk) as vfs:
            _sqlite_file.make(str(path), new_ring(KEY, "x"))
            disk.adopt("/x.db", path.read_bytes())
            with closing(SqliteStore(str(path), vfs=vfs.name, key=KEY)) as store:
                yield store
    finally:
        shutil.rmtree(above)


@contextmanager
def after(disk: SimulatedDisk) -> Iterator[Store]:
    """A sealed store on real files, as a power cut left them."""
    above = Path(tempfile.mkdtemp())
    try:
        for path, data in disk.files().items():
            (above / path[1:]).write_bytes(data)
            (above / path[1:]).chmod(0o600)
        with closing(SqliteStore(str(above / "x.db"), key=KEY)) as store:
            yield store
        disk.replace_all({f"/{path.name}": path.read_bytes() for path in above.iterdir()})
    finally:
        shutil.rmtree(above)


@pytest.mark.parametrize(
    ("run", "every", "least"),
    [(commits(), 1, 60), (few(), 1, 40), (many_pre_keys(), 30, 8)],
    ids=["a client's life", "few", "many at once"],
)
def test_a_power_cut_at_any_step(run: list[Commit], every: int, least: int) -> None:
    """A power cut would leave rows that are not those of the sum, so that verify cries over a
    whole device for ever."""
    cuts = PowerCuts(
        running, after, run, credentials=credentials(), per_step=3, every=every, seed=11
    )
    assert cuts.run().states >= least
