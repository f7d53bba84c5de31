"""A whole device put together beside the folder that it is for, and put there in one step."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ratchetkeep.errors import CommitFailed, DeviceExists, StoreUnreadable
from ratchetkeep.model import Key

from ._index import Change, Index
from .base import DEFAULT_DEVICE, Prepared
from .disk import Disk

if TYPE_CHECKING:
    from .directory import DirectoryStore

MARK = ".ratchetkeep-stage-"


class FolderStage:
    """A staging folder beside the target; publishing renames it (the target is missing or empty),
    or, to replace a device, makes one commit of its files in the target itself."""

    def __init__(self, store: DirectoryStore, *, overwrite: bool) -> None:
        self._store = store
        self._disk = store.disk
        self._overwrite = overwrite
        # Nothing can be renamed onto a link, but onto the folder that it leads to.
        self._target = _folder_of(store.path)
        self._above, name = os.path.split(self._target)
        self._prefix = f".{name}{MARK}"
        self._folder = f"{self._above}/{staging_name(self._prefix)}"
        self._replaces = False
        self._index = Index(store.layout)

    def __enter__(self) -> Self:
        self._store.check_vacant(DEFAULT_DEVICE, overwrite=self._overwrite)
        self._replaces = bool(self._store.devices())
        self._guard(self._begin)
        return self

    def _begin(self) -> None:
        if not self._disk.is_folder(self._above):
            self._disk.make_folder(self._above)
        sweep(self._disk, self._above, self._prefix)
        self._disk.make_folder(self._folder)

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            what = f"cannot be written: {error.strerror}"
            raise CommitFailed(self._store.url, what, "Nothing was changed") from None

    def write(self, changes: Mapping[Key, bytes]) -> None:
        change = Change(self._index)
        for key in changes:
            change.put(key, self._store.layout.file_name(key), self._store.shown)
        change.enter()
        self._guard(lambda: self._write(changes))

    def _write(self, changes: Mapping[Key, bytes]) -> None:
        for key, data in changes.items():
            self._disk.write(self._path(key), data)

    def _path(self, key: Key) -> str:
        return f"{self._folder}/{self._store.layout.file_name(key)}"

    def read(self, keys: Iterable[Key]) -> dict[Key, bytes]:
        try:
            return {key: self._disk.read(self._path(key)) for key in keys}
        except OSError as error:
            raise StoreUnreadable(self._folder, f"cannot be read: {error.strerror}") from None

    def publish(self) -> None:
        if self._replaces:
            self._replace()
        else:
            self._guard(self._finish)
            self._guard(self._rename)

    def _finish(self) -> None:
        manifest = self._store.manifest_of(self._index.records())
        if manifest is not None:
            self._disk.write(f"{self._folder}/{self._store.layout.manifest}", manifest)
        self._disk.hurry(self._folder)
        for name in self._disk.list(self._folder):
            self._disk.sync(f"{self._folder}/{name}")
        self._disk.sync_folder(self._folder)

    def _rename(self) -> None:
        try:
            self._disk.rename_folder(self._folder, self._target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            what = "was filled by another program during the copy"
            raise DeviceExists(self._store.url, what) from None
        self._disk.sync_folder(self._above)

    def _replace(self) -> None:
        store = self._store
        store.acquire(DEFAULT_DEVICE, read_only=False, create=False)
        try:
            old: dict[Key, bytes | None] = dict.fromkeys(store.scan(DEFAULT_DEVICE))
            store.apply(Prepared(DEFAULT_DEVICE, {**old, **self.read(self._index.records())}))
        finally:
            store.release(DEFAULT_DEVICE)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._disk.remove_tree(self._folder)


def staging_name(prefix: str) -> str:
    """A name that no other copy has: of this process and of this copy."""
    return f"{prefix}{os.getpid()}-{secrets.token_hex(4)}"


def sweep(disk: Disk, folder: str, prefix: str) -> None:
    """Remove what killed copies left beside a target: their processes are gone."""
    for name in disk.list(folder):
        pid = name.removeprefix(prefix).partition("-")[0]
        if name.startswith(prefix) and pid.isdecimal() and not _is_alive(int(pid)):
            path = f"{folder}/{name}"
            if disk.is_folder(path):
                disk.remove_tree(path)
            else:
                disk.unlink(path)


def sweep_beside(disk: Disk, path: str) -> None:
    """Remove what killed copies to the folder ``path`` left: it holds keys. Where the folder above
    cannot be read or written, it stays."""
    above, name = os.path.split(_folder_of(os.path.abspath(path)))
    with suppress(OSError):
        sweep(disk, above, f".{name}{MARK}")


def _folder_of(path: str) -> str:
    """The folder itself where ``path`` is a link to it."""
    return os.path.realpath(path) if os.path.islink(path) else path


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
