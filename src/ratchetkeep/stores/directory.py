"""Folders that another library can open: ``baileys:DIR`` and ``baileysex:DIR``.

One file a record, as that library names it, behind our commit journal: a commit is one write and
one sync, then the files follow. What is under ``.ratchetkeep.*`` is ours and gone after closing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TypeVar

from ratchetkeep.errors import (
    CommitFailed,
    DeviceExists,
    InvalidValue,
    NoDevice,
    OwnershipLost,
    ReadOnly,
    StoreClosed,
    StoreDamaged,
    StoreInUse,
    StoreUnreadable,
    UnknownStore,
)
from ratchetkeep.formats import Encoded, Loss
from ratchetkeep.model import FAMILIES, Credentials, Key

from ._folder_findings import folder_findings, is_leftover
from ._follower import Follower
from ._foreign import refuse_foreign_writes
from ._index import Change, Index
from ._recovery import recover
from ._stage import FolderStage
from .base import DEFAULT_DEVICE, Finding, Prepared, Stage, Store
from .disk import MAX_FILE, Disk
from .journal import Entry, Journal
from .layouts import LAYOUTS, Layout, listed_in, manifest_of

JOURNAL = ".ratchetkeep.journal"
COMPAT_MANIFEST = ".baileys_ex_file_persistence.json"
COMPAT = (
    "is a folder of BaileysEx's compat JSON, which this version cannot read",
    "In BaileysEx, migrate it to the native backend, then use baileysex:DIR",
)
T = TypeVar("T")

# Beyond this the files are synced and the journal starts again, so that it stays small.
JOURNAL_LIMIT = 8 * 1024 * 1024


class DirectoryStore(Store):
    """One device in one folder.

    :param kind: ``baileys`` or ``baileysex``.
    :param path: the folder.
    :param background: let the files follow their journal in a thread; else when closing.
    :ivar index: the records and their file names.
    :ivar is_live: read-only: an owner has the folder open, so files may come and go.
    :ivar overlay: read-only: files that an unclean stop left in the journal alone.
    :ivar unlisted: records that the manifest lists and that have no file.
    """

    def __init__(
        self, kind: str, path: str, disk: Disk | None = None, *, background: bool = True
    ) -> None:
        self.layout = LAYOUTS[kind]
        self.format = self.layout.format
        # Absolute, since a program may change its folder; errors show what was asked for.
        self.shown = path.rstrip("/") or "/"
        self.path = os.path.abspath(path)
        self.kind = kind
        self.url = f"{kind}:{path}"
        self.disk = disk or Disk()
        self._background = background
        self._owner = self.disk.ownership(self.url, self.path)
        self._lock = threading.RLock()
        self._state = "closed"
        self._failed = False
        self.is_live = False
        self._reset()

    def _reset(self) -> None:
        self._journal = Journal(self.disk, f"{self.path}/{JOURNAL}", limit=JOURNAL_LIMIT)
        self._follower = Follower(
            self.disk,
            self.path,
            check=self._owner.check,
            background=self._background,
            list_name=self.layout.manifest,
            make_list=self._manifest_now,
        )
        self.overlay: dict[str, bytes | None] = {}
        self.index = Index()
        self.unlisted: list[str] = []
        self.has_manifest = False
        self._is_manifest_synced = False

    # -- opening and closing

    def devices(self) -> list[str]:
        return [DEFAULT_DEVICE] if self._traces(self.names()) else []

    def acquire(self, device: str, *, read_only: bool, create: bool) -> None:
        with self._lock:
            self._acquire(device, read_only=read_only, create=create)

    def _acquire(self, device: str, *, read_only: bool, create: bool) -> None:
        if device != DEFAULT_DEVICE:
            raise NoDevice(self.url, f"a folder holds one device, {DEFAULT_DEVICE!r}")
        if self._state != "closed":
            raise StoreInUse(self.url, "is open already in this process")
        names = self.names()
        if not create and not self._traces(names):
            found = "is empty" if self.disk.is_folder(self.path) else "is not there"
            raise NoDevice(self.url, found)
        if read_only:
            self._load(owner=False)
            self._state = "read-only"
            return
        self._make_folder()
        self._owner.take()
        try:
            self._load(owner=True)
        except BaseException:
            self._owner.release()
            raise
        self._state, self._failed = "open", False

    def _make_folder(self) -> None:
        try:
            if not self.disk.is_folder(self.path):
                self.disk.make_folder(self.path)
        except OSError as error:
            what = f"cannot be written: {error.strerror}"
            raise CommitFailed(self.url, what, "Nothing was changed") from None

    def release(self, device: str) -> None:
        with self._lock:
            state, self._state = self._state, "closed"
            if state != "open":
                self._reset()
                return
            try:
                self._owner.check()
                self._settle(end=True)
            except OwnershipLost:
                # Where the next owner has carried out our journal nothing is behind.
                if self._journal.size:
                    raise
            finally:
                self._follower.stop()
                self._journal.close()
                self._owner.release()
                self._reset()

    def close(self) -> None:
        if self._state != "closed":
            self.release(DEFAULT_DEVICE)

    def holder(self, device: str) -> str:
        return self._owner.holder()

    def _settle(self, *, end: bool) -> None:
        """Bring the files up to date; at the ``end`` the journal goes."""
        try:
            self._owner.check()
            if self._failed and self._journal.is_in_place:
                return  # it holds every commit, and one of which nobody knows yet
            self._follower.settle()
            if end:
                self._journal.remove()
                self.disk.sync_folder(self.path)
            else:
                self._journal.restart()
        except OSError as error:
            self._failed = True
            raise CommitFailed(
                self.url,
                f"every commit is safe in the journal, but the files are behind: {error.strerror}",
                "Mend the cause and open it once with ratchetkeep before another program does",
            ) from None

    # -- finding what is there

    def names(self) -> list[str]:
        """Names in the folder; none if it is not there."""
        try:
            if not self.disk.is_folder(self.path):
                if self.disk.exists(self.path):
                    raise UnknownStore(self.url, "is not a folder")
                return []
            found = self.disk.list(self.path)
        except OSError as error:
            raise StoreUnreadable(self.url, f"cannot be read: {error.strerror}") from None
        if COMPAT_MANIFEST in found:
            raise UnknownStore(self.url, *COMPAT)
        return found

    def _traces(self, names: Iterable[str]) -> list[str]:
        """What names a device of any library, or what is left of one."""
        found = []
        for name in names:
            stem = name.removesuffix(".json").removesuffix(".etf")
            if (
                name == JOURNAL
                or name.startswith(("creds.", ".baileys_ex_"))
                or any(stem.startswith(family + "-") for family in FAMILIES)
            ):
                found.append(name)
        return found

    def check_vacant(self, device: str, *, overwrite: bool) -> None:
        names = self.names()
        traces = self._traces(names)
        remedy = "Choose an empty place"
        if any(self._is_of_another_kind(name) for name in traces):
            raise DeviceExists(self.url, "holds a device in another library's format", remedy)
        if traces and not overwrite:
            raise DeviceExists(self.url, "holds a device already")
        if names and not traces:
            raise DeviceExists(self.url, "is a folder with other files in it", remedy)

    def _is_of_another_kind(self, name: str) -> bool:
        is_ours = name == self.layout.manifest or self.layout.key_of(name) or is_leftover(name)
        return name != JOURNAL and not is_ours

    def trace(self, device: str) -> str:
        found = sorted({*self._traces({*self.names(), *self.index.keys})} - {JOURNAL})
        if not found:
            return ""
        others = f" and {len(found) - 1} more files" if len(found) > 1 else ""
        return f"{found[0]!r}{others}"

    def _load(self, *, owner: bool) -> None:
        self._reset()
        commits = self._do(self._journal.read)
        latest = {name: data for commit in commits for name, data in commit}
        # The journal of a folder that is in use is its owner's business.
        self.is_live = not owner and bool(self._owner.holder())
        if latest and not self.is_live:
            self._refuse_foreign_writes(commits)
        self.overlay = latest
        if owner:
            if self._journal.ids:
                self._listed()  # a damaged one is refused before anything is changed
            self.overlay = {}
            self._do(lambda: self._recover(latest))
        self._build_index()

    def _refuse_foreign_writes(self, commits: list[list[Entry]]) -> None:
        """After a crash, another library may have gone on with the folder. Finishing our commits
        then would put its records back to an older state, which breaks conversations."""
        refuse_foreign_writes(self, commits, self._journal)

    def _recover(self, latest: Mapping[str, bytes | None]) -> None:
        """Finish what was committed, then remove what a crash left: it needs no command."""
        recover(self, latest)
        if JOURNAL in self.disk.list(self.path):
            self._journal.remove()
            self.disk.sync_folder(self.path)

    def _build_index(self) -> None:
        self.index, self.unlisted, self.has_manifest = Index(), [], False
        # A name that is spelled otherwise than its record's is some other file.
        names = {name for name in self.names() if self._is_record(name)}
        names |= {n for n, data in self.overlay.items() if data is not None}
        names -= {n for n, data in self.overlay.items() if data is None}
        for key in self._listed():
            try:
                name = self.layout.file_name(key)
            except InvalidValue as error:
                place = f"{self.shown}/{self.layout.manifest}"
                raise StoreDamaged(place, f"lists a record that {error.what}") from None
            if name in names:
                self.index.add(key, name)
            else:
                self.unlisted.append(str(key))
        for name in names:
            guessed = self.layout.key_of(name)
            if guessed and name not in self.index.keys:
                self.index.add(guessed, name)

    def _is_record(self, name: str) -> bool:
        key = self.layout.key_of(name)
        return key is not None and _spelled(self.layout, key) == name

    def _listed(self) -> list[Key]:
        """The records that BaileysEx's manifest lists, as the journal's commits leave it."""
        if not self.layout.manifest:
            return []
        changed = self._journal.ids
        keys = [key for key in self._in_manifest() if changed.get(key, True)]
        known = set(keys)
        return keys + [key for key, is_there in changed.items() if is_there and key not in known]

    def _in_manifest(self) -> list[Key]:
        raw = self._read_file(self.layout.manifest)
        if raw is None:
            return []
        self.has_manifest = True
        return listed_in(raw, f"{self.shown}/{self.layout.manifest}")

    # -- reading

    def read(self, device: str, keys: Iterable[Key]) -> dict[Key, bytes]:
        self._check_open()
        found = {}
        for key in keys:
            with self._lock:
                name = self.index.names.get(key)
            if name is None:
                continue
            raw = self._read_file(name)
            if raw is None:
                with self._lock:
                    if self.index.names.get(key) != name or self.is_live:
                        continue
                raise StoreDamaged(f"{self.shown}/{name}", "vanished while the device was open")
            found[key] = raw
        return found

    def _read_file(self, name: str) -> bytes | None:
        pending, data = self._follower.look(name)
        if pending:
            return data
        if name in self.overlay:
            return self.overlay[name]
        try:
            return self.disk.read(f"{self.path}/{name}")
        except FileNotFoundError:
            return None
        except OSError as error:
            shown = f"{self.shown}/{name}"
            raise StoreUnreadable(shown, f"cannot be read: {error.strerror}") from None

    def scan(self, device: str, family: str | None = None) -> Iterator[Key]:
        self._check_open()
        with self._lock:
            keys = list(self.index.names)
        return (key for key in keys if family is None or key.family == family)

    def where(self, device: str, key: Key) -> str:
        name = self.index.names.get(key)
        return f"{self.shown}/{name}" if name else super().where(device, key)

    # -- writing

    def encode(self, key: Key, value: object, credentials: Credentials | None) -> Encoded:
        try:
            self._file_name(key)
        except InvalidValue as error:
            return Encoded(None, (Loss("", error.what, False),))
        made = super().encode(key, value, credentials)
        if made.data is not None and len(made.data) > MAX_FILE:
            return Encoded(None, (Loss("", f"has over {MAX_FILE} bytes", False),))
        return made

    def _file_name(self, key: Key) -> str:
        # A file that is there has the name that its record's key gives it.
        return self.index.names.get(key) or self.layout.file_name(key)

    def prepare(
        self, device: str, changes: Mapping[Key, object], credentials: Credentials | None
    ) -> Prepared:
        for key, value in changes.items():
            if value is not None:
                self._file_name(key)
        return super().prepare(device, changes, credentials)

    def apply(self, *batches: Prepared) -> None:
        with self._lock:
            self._check_open(write=True)
            files, change = self._files(batches)
            if not files:
                return
            ids = change.ids if self.layout.manifest else {}
            try:
                self._sync_manifest(ids)
                self._journal.append(files, ids)
                change.enter()
                self._follow(files, of_ids=bool(ids))
                if self._journal.size > JOURNAL_LIMIT:
                    self._settle(end=False)
            except OSError as error:
                self._failed = True
                raise CommitFailed(self.url, f"the commit failed: {error.strerror}") from None
            except BaseException:
                # Interrupted, or the journal is gone: nobody knows what the disk has.
                self._failed = True
                raise

    def _follow(self, files: list[Entry], *, of_ids: bool) -> None:
        manifest = self.layout.manifest
        if manifest:
            of_ids = of_ids or any(name == manifest for name, _ in files)
            files = [entry for entry in files if entry[0] != manifest]
            self.has_manifest = bool(self.index.names)
        self._follower.add(files, of_ids=of_ids)

    def _files(self, batches: Iterable[Prepared]) -> tuple[list[Entry], Change]:
        """The files of a commit, and what it changes in the index."""
        change = Change(self.index)
        files: dict[str, bytes | None] = {}
        for batch in batches:
            for key, data in batch.changes.items():
                if data is None:
                    if (gone := change.drop(key)) is not None:
                        files[gone] = None
                else:
                    name = self._file_name(key)
                    change.put(key, name, self.shown)
                    files[name] = data
        if files and self.layout.manifest:
            if change.leaves_nothing:
                files[self.layout.manifest] = None
            elif not self.has_manifest:
                # None to change: the journal holds all of it, once.
                files[self.layout.manifest] = self.manifest_of(change.keys())
        return list(files.items()), change

    def _sync_manifest(self, ids: Mapping[Key, bool]) -> None:
        """A commit that changes ids is worth what the manifest is that it changes: another program
        may have written that without a sync."""
        if ids and self.has_manifest and not self._is_manifest_synced:
            path = f"{self.path}/{self.layout.manifest}"
            if self.disk.exists(path):
                self.disk.sync(path)
            self._is_manifest_synced = True

    def _check_open(self, *, write: bool = False) -> None:
        if self._state == "closed":
            raise StoreClosed(self.url, "is not open")
        if write:
            if self._state == "read-only":
                raise ReadOnly(self.url, "was opened read-only")
            self._owner.check()
            failure = self._follower.failure
            if self._failed or failure is not None:
                why = f": {failure}" if failure else ""
                raise CommitFailed(self.url, f"an earlier write failed{why}")

    def follow(self) -> None:
        """Bring the files up to date with the journal now; for a store without a thread."""
        self._follower.write_all()

    def _manifest_now(self) -> bytes | None:
        # A copy in one step, since commits go on meanwhile.
        keys = list(self.index.names)
        return self.manifest_of(keys) if keys else None

    def manifest_of(self, keys: Iterable[Key]) -> bytes | None:
        """The manifest for ``keys``, or None where the library keeps none."""
        if not self.layout.manifest:
            return None
        return manifest_of(keys)

    def stage(self, device: str, *, overwrite: bool) -> AbstractContextManager[Stage]:
        return FolderStage(self, overwrite=overwrite)

    def remove(self, device: str) -> None:
        with self._lock:
            self.apply(Prepared(device, dict.fromkeys(self.index.names)))
        self.release(device)
        if not self.names():
            self._do(lambda: self.disk.remove_folder(self.path))

    def findings(self, device: str) -> Iterator[Finding]:
        self._check_open()
        return folder_findings(self)

    def _do(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except OSError as error:
            raise StoreUnreadable(self.url, f"cannot be used: {error.strerror}") from None


def _spelled(layout: Layout, key: Key) -> str:
    try:
        return layout.file_name(key)
    except InvalidValue:
        return ""
