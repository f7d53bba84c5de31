"""A simulated disk that forgets what was not synced, as a power cut makes a real one do.

It has the verbs of :class:`ratchetkeep.stores.disk.Disk` and keeps, beside what a program sees,
what is durable: a file's bytes as of its last sync and its time as of the last full one, a folder's
names as of *its* last sync. From any moment :meth:`SimulatedDisk.crashes` gives the disks that a
power cut may leave: unsynced writes lost, kept in any mix, or torn at sector boundaries; new names,
renames and removals lost or kept in any mix until their folder was synced; times old or new.
"""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ratchetkeep.stores.disk import Disk, OpenFile

SECTOR = 512


@dataclass
class _File:
    """A file: what a program reads, what is durable, and the writes between the two."""

    data: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    unsynced: list[tuple[int, bytes]] = field(default_factory=list)
    modified: int = 0
    durable_modified: int = 0

    def write(self, offset: int, data: bytes) -> None:
        self.data.extend(bytes(max(0, offset - len(self.data))))
        self.data[offset : offset + len(data)] = data
        self.unsynced.append((offset, data))

    def truncate(self, size: int) -> None:
        del self.data[size:]
        self.unsynced.append((size, b""))

    def sync(self, *, data_only: bool = False) -> None:
        # Where no size changes, a sync of the data leaves the time to the file system's leisure.
        if not data_only or len(self.durable) != len(self.data):
            self.durable_modified = self.modified
        self.durable = bytes(self.data)
        self.unsynced.clear()


@dataclass
class _Folder:
    """A folder's names: what a program sees, and the changes since the last sync. A change is a
    mapping of names to files (None: gone), since a rename changes two names at once."""

    names: dict[str, _File | _Folder] = field(default_factory=dict)
    durable: dict[str, _File | _Folder] = field(default_factory=dict)
    unsynced: list[dict[str, _File | _Folder | None]] = field(default_factory=list)

    def change(self, names: dict[str, _File | _Folder | None]) -> None:
        _alter(self.names, names)
        self.unsynced.append(names)

    def sync(self) -> None:
        self.durable = dict(self.names)
        self.unsynced.clear()


def _alter(names: dict[str, _File | _Folder], changes: dict[str, _File | _Folder | None]) -> None:
    for name, node in changes.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


class NoOwnership:
    """Ownership that is always granted: a disk in memory has no other process."""

    is_forked = False

    def take(self) -> None: ...
    def check(self) -> None: ...
    def release(self) -> None: ...
    def holder(self) -> str:
        return ""


class SimulatedFile(OpenFile):
    """A file of a simulated disk that is held open: it goes on where nobody looks any more."""

    def __init__(self, disk: SimulatedDisk, file: _File, path: str) -> None:
        self._disk = disk
        self._file = file
        self._path = path

    def write(self, offset: int, data: bytes) -> None:
        self._disk._write("write_ahead", self._file, offset, data)

    def write_at(self, offset: int, data: bytes) -> None:
        self.write_unsynced(offset, data)
        self._disk._enter("sync")
        self._file.sync(data_only=True)
        self._disk._step("sync")

    def write_unsynced(self, offset: int, data: bytes) -> None:
        """The first half of ``write_at``."""
        self._disk._write("write_at", self._file, offset, data)

    def sync(self) -> None:
        self._disk._enter("sync")
        self._file.sync()
        self._disk._step("sync")

    def is_in_place(self) -> bool:
        return self._disk._find(self._path) is self._file

    def close(self) -> None:
        """Nothing is held."""


class SimulatedDisk(Disk):
    """The disk. ``on_step`` is called after every change with its verb, such as ``rename``.

    :ivar steps: the verbs of all changes so far.
    """

    def __init__(self, on_step: Callable[[str], None] | None = None) -> None:
        self.on_step = on_step
        self.steps: list[str] = []
        self._root = _Folder()
        self._clock = 0
        self._faults: dict[str, tuple[int, int]] = {}

    # -- making it fail

    def fail(self, verb: str, error: int, *, after: int = 0) -> None:
        """Let every call of ``verb`` but the next ``after`` ones fail with errno ``error``."""
        self._faults[verb] = (after, error)

    def heal(self) -> None:
        """Let everything work again."""
        self._faults.clear()

    def _enter(self, verb: str) -> None:
        left, error = self._faults.get(verb, (1, 0))
        if left > 0:
            if verb in self._faults:
                self._faults[verb] = (left - 1, error)
            return
        raise OSError(error, os.strerror(error))

    def _step(self, verb: str) -> None:
        self.steps.append(verb)
        self._clock += 1
        if self.on_step:
            self.on_step(verb)

    # -- the verbs of a disk

    def ownership(self, place: str, folder: str) -> NoOwnership:  # type: ignore[override]
        return NoOwnership()

    def list(self, folder: str) -> list[str]:
        self._enter("list")
        return list(self._folder(folder).names)

    def is_folder(self, path: str) -> bool:
        return isinstance(self._find(path), _Folder)

    def exists(self, path: str) -> bool:
        return self._find(path) is not None

    def mode(self, path: str) -> int:
        node = self._find(path)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        return (stat.S_IFDIR | 0o700) if isinstance(node, _Folder) else (stat.S_IFREG | 0o600)

    def make_folder(self, path: str) -> None:
        self._enter("make_folder")
        above, name = self._parent(path)
        above.change({name: _Folder()})
        self._step("make_folder")
        self.sync_folder(path.rpartition("/")[0])

    def read(self, path: str) -> bytes:
        self._enter("read")
        return bytes(self._file(path).data)

    def read_large(self, path: str) -> bytes:
        return self.read(path)

    def modified(self, path: str) -> int:
        return self._file(path).modified

    def write(self, path: str, data: bytes) -> None:
        self._enter("write")
        above, name = self._parent(path)
        file = above.names.get(name)
        if isinstance(file, _File):
            file.truncate(0)
        else:
            file = _File(modified=self._clock, durable_modified=self._clock)
            above.change({name: file})
            self._step("create")
        file.write(0, data)
        file.modified = self._clock
        self._step("write")

    def open_new(self, path: str) -> SimulatedFile:
        self._enter("open_new")
        above, name = self._parent(path)
        if name in above.names:
            raise FileExistsError(errno.EEXIST, "there is a file", path)
        file = _File(modified=self._clock, durable_modified=self._clock)
        above.change({name: file})
        self._step("create")
        return SimulatedFile(self, file, path)

    def write_unsynced(self, path: str, offset: int, data: bytes) -> None:
        """Write into a file at ``offset``; it is made if it is missing."""
        above, name = self._parent(path)
        file = above.names.get(name)
        if not isinstance(file, _File):
            file = _File(modified=self._clock, durable_modified=self._clock)
            above.change({name: file})
            self._step("create")
        self._write("write_at", file, offset, data)

    def _write(self, verb: str, file: _File, offset: int, data: bytes) -> None:
        try:
            self._enter(verb)
        except OSError:
            # A full or failing disk takes part of a write.
            file.write(offset, data[: len(data) // 2])
            self._step(verb)
            raise
        file.write(offset, data)
        file.modified = self._clock
        self._step(verb)

    def adopt(self, path: str, data: bytes) -> None:
        """Put a file there that is durable, name and all."""
        above, name = self._parent(path)
        above.names[name] = above.durable[name] = _File(bytearray(data), data)

    def truncate(self, path: str, size: int) -> None:
        """Cut a file short."""
        self._file(path).truncate(size)
        self._step("truncate")

    def rename(self, old: str, new: str) -> None:
        self._enter("rename")
        above, name = self._parent(old)
        there, new_name = self._parent(new)
        if above is not there:
            raise OSError(errno.EXDEV, "a rename stays in its folder")
        above.change({name: None, new_name: above.names[name]})
        self._step("rename")

    def rename_folder(self, old: str, new: str) -> None:
        if self.is_folder(new) and self.list(new):
            raise OSError(errno.ENOTEMPTY, "not empty")
        self.rename(old, new)

    def unlink(self, path: str) -> None:
        self._enter("unlink")
        above, name = self._parent(path)
        if name in above.names:
            above.change({name: None})
            self._step("unlink")

    def remove_tree(self, path: str) -> None:
        self.unlink(path)

    def remove_folder(self, path: str) -> None:
        self.unlink(path)

    def sync(self, path: str) -> None:
        self._enter("sync")
        self._file(path).sync()
        self._step("sync")

    def sync_folder(self, path: str) -> None:
        self._enter("sync_folder")
        self._folder(path).sync()
        self._step("sync_folder")

    def hurry(self, path: str) -> None:
        """Promises nothing, and does nothing."""

    # -- finding nodes

    def _find(self, path: str) -> _File | _Folder | None:
        node: _File | _Folder | None = self._root
        for name in path.strip("/").split("/"):
            if name:
                node = node.names.get(name) if isinstance(node, _Folder) else None
        return node

    def _folder(self, path: str) -> _Folder:
        node = self._find(path)
        if isinstance(node, _Folder):
            return node
        raise FileNotFoundError(errno.ENOENT, "no such folder", path)

    def _file(self, path: str) -> _File:
        node = self._find(path)
        if isinstance(node, _File):
            return node
        raise FileNotFoundError(errno.ENOENT, "no such file", path)

    def _parent(self, path: str) -> tuple[_Folder, str]:
        above, _, name = path.rpartition("/")
        return self._folder(above), name

    # -- after a power cut

    def crashes(self, rng: random.Random, count: int) -> Iterator[SimulatedDisk]:
        """``count`` disks that a power cut now may leave: about half of them have all or nothing of
        the unsynced names and of the unsynced bytes, the others any mix."""
        for turn in range(count):
            if turn % 2:
                names, data = rng.random(), rng.random()
            else:
                names, data = float(rng.random() < 0.5), float(rng.random() < 0.5)
            yield self.after_power_cut(rng, names=names, data=data)

    def after_power_cut(
        self, rng: random.Random, *, names: float = 0.0, data: float = 0.0
    ) -> SimulatedDisk:
        """One such disk: each unsynced change of a name is kept with probability ``names``, each
        unsynced sector with probability ``data``."""
        left = SimulatedDisk()
        left._clock = self._clock
        left._root = _left_folder(self._root, {}, rng, names, data)
        return left

    def replace_all(self, files: dict[str, bytes]) -> None:
        """Hold these files of the root instead, all of them durable."""
        self._root = _Folder()
        for path, data in files.items():
            self.adopt(path, data)

    def files(self) -> dict[str, bytes]:
        """All files by path, as a program sees them."""
        found: dict[str, bytes] = {}

        def walk(folder: _Folder, path: str) -> None:
            for name, node in folder.names.items():
                if isinstance(node, _Folder):
                    walk(node, f"{path}/{name}")
                else:
                    found[f"{path}/{name}"] = bytes(node.data)

        walk(self._root, "")
        return found


def _left_folder(
    folder: _Folder, seen: dict[int, _File], rng: random.Random, names: float, data: float
) -> _Folder:
    kept = dict(folder.durable)
    for change in folder.unsynced:
        if rng.random() < names:
            _alter(kept, change)
    left = _Folder()
    for name, node in kept.items():
        if isinstance(node, _Folder):
            left.names[name] = _left_folder(node, seen, rng, names, data)
        else:
            # One file under two names (a rename half kept) has one content.
            left.names[name] = seen.setdefault(id(node), _left_file(node, rng, data))
    left.durable = dict(left.names)
    return left


def _left_file(file: _File, rng: random.Random, data: float) -> _File:
    content = bytearray(file.durable)
    for offset, written in file.unsynced:
        if not written:
            if rng.random() < data:
                del content[offset:]
            continue
        for at in range(offset - offset % SECTOR, offset + len(written), SECTOR):
            if rng.random() < data:
                low, high = max(at, offset), min(at + SECTOR, offset + len(written))
                content.extend(bytes(max(0, high - len(content))))
                content[low:high] = written[low - offset : high - offset]
    modified = file.modified if rng.random() < data else file.durable_modified
    return _File(bytearray(content), bytes(content), modified=modified, durable_modified=modified)


__all__ = ["SECTOR", "SimulatedDisk"]
