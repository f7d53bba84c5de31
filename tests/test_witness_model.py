"""Any sequence of commits, clean ends, crashes and files put back, against what must be found."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from _witness import at, put
from ratchetkeep import Device, StoreRewound, open_device
from ratchetkeep.restore import cool_device
from ratchetkeep.witness import seen

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.integers(1, 3)),
        st.tuples(st.just("end"), st.just(0)),
        st.tuples(st.just("crash"), st.just(0)),
        st.tuples(st.just("told"), st.just(0)),
        st.tuples(st.just("copy"), st.just(0)),
        st.tuples(st.just("put back"), st.integers(0, 20)),
        st.tuples(st.just("lose witness"), st.just(0)),
    ),
    max_size=14,
)


class World:
    """A device with its witness, and a model of both.

    A crash is what a kill leaves: the files as they are at that moment, in another place, where
    another process would find them. The device that crashed is let go where nobody looks.

    :ivar told: how many commits the witness must know of, by history; never more than were made.
    """

    def __init__(self, folder: Path, *, strict: bool) -> None:
        self.delay = 0.0 if strict else 3600.0
        self.folder = folder
        self.turn = 0
        self.told: dict[str, int] = {}
        self.copies: list[tuple[Path, str, int]] = []
        self.device: Device | None = None
        self.history, self.commits = "", 0
        self._home().mkdir()
        self.open()

    def _home(self) -> Path:
        return self.folder / str(self.turn)

    @property
    def url(self) -> str:
        """The store."""
        return f"sqlite:{self._home()}/store/a.db"

    @property
    def witness(self) -> str:
        """The witness."""
        return f"{self._home()}/seen"

    def open(self) -> None:
        """Open the device as the model says: it is found, or it is not."""
        is_older = self.commits < self.told.get(self.history, 0)
        for read_only in (True, False):
            if read_only and not self.commits:
                continue
            try:
                device = open_device(
                    self.url,
                    create=not self.commits,
                    read_only=read_only,
                    witness=self.witness,
                    witness_delay=self.delay,
                )
            except StoreRewound:
                assert is_older, "a false alarm"
                continue
            assert not is_older, "it was not found"
            if read_only:
                device.close()
            else:
                self._opened(device)
        if is_older:
            cool_device(self.url)
            self._opened(open_device(self.url, witness=self.witness, witness_delay=self.delay))

    def _opened(self, device: Device) -> None:
        history = device.history
        assert history is not None
        if history.id == self.history:
            assert history.commits == self.commits
        self.device = device
        self.history, self.commits = history
        self._note()

    def _note(self) -> None:
        """The witness was told, on opening, on closing or of a commit."""
        self.told[self.history] = max(self.told.get(self.history, 0), self.commits)

    def check(self) -> None:
        """The witness knows what the model says, no more and no less."""
        for history, count in self.told.items():
            assert seen(self.witness, history) == count
        if self.device is not None:
            assert at(self.device) == self.commits

    # -- the steps

    def commit(self, count: int) -> None:
        """Some commits."""
        assert self.device is not None
        for _ in range(count):
            put(self.device, self.commits)
            self.commits += 1
            if self.delay == 0:
                self._note()

    def told_now(self) -> None:
        """The delay is over."""
        assert self.device is not None
        watch = self.device._memory.watch
        assert watch is not None
        watch.begin()
        self._note()

    def end(self) -> None:
        """A clean end."""
        assert self.device is not None
        self.device.close()
        self.device = None
        self._note()

    def crash(self) -> None:
        """A crash: another process finds the files as they are now."""
        old = self._home()
        self.turn += 1
        shutil.copytree(old, self._home(), ignore=shutil.ignore_patterns("*.lock", "*.owner"))
        self._drop()

    def _drop(self) -> None:
        """The process that crashed is gone; what it does on its way out is nobody's business."""
        assert self.device is not None
        self.device.close()
        self.device = None

    def copy(self) -> None:
        """Copy the store away, in use, with its log."""
        target = self.folder / f"copy {len(self.copies)}"
        source = self._home() / "store"
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.lock", "*.owner"))
        self.copies.append((target, self.history, self.commits))

    def put_back(self, which: int) -> None:
        """Put any copy in the place of the store, after a clean end."""
        if not self.copies:
            return
        self.end()
        target, self.history, self.commits = self.copies[which % len(self.copies)]
        shutil.rmtree(self._home() / "store")
        shutil.copytree(target, self._home() / "store")

    def lose_witness(self) -> None:
        """The whole witness is lost."""
        Path(self.witness).unlink()
        self.told.clear()
        self.end()

    def run(self, step: str, number: int) -> None:
        """One step, after which the device is open again."""
        if step == "commit":
            self.commit(number)
        elif step == "put back":
            self.put_back(number)
        else:
            name = {"told": "told_now", "lose witness": "lose_witness"}.get(step, step)
            getattr(self, name)()
        if self.device is None:
            self.open()
        self.check()


@settings(deadline=None, database=None, max_examples=70)
@example([("copy", 0), ("commit", 1), ("put back", 0)], True)
@example([("copy", 0), ("commit", 1), ("put back", 0)], False)
@example([("copy", 0), ("commit", 2), ("crash", 0), ("put back", 0)], False)
@given(steps=STEPS, strict=st.booleans())
def test_exactly_what_must_be_found(steps: list[tuple[str, int]], strict: bool) -> None:
    """Some order of events would let an older store be opened that the witness has seen a later
    state of; or refuse one that nobody put back."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), strict=strict)
        try:
            for step, number in steps:
                world.run(step, number)
        finally:
            if world.device is not None:
                world.device.close()
