"""Folders that another library can open: ``baileys:DIR``, ``baileysex:DIR`` and their like.

One file a record, as that library names it, behind our commit journal: a commit is one write and
one sync, then the files follow. What is under ``.ratchetkeep.*`` is ours and gone after closing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
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
from ratchetkeep.model import Credentials, Key

from ._creds_kind import creds_of_another, refuse_creds_of_another
from ._folder_findings import folder_findings
from ._folder_names import JOURNAL, MOVED, is_of_another_kind, traces
from ._follower import Follower
from ._foreign import refuse_foreign_writes
from ._index import Change, Index, Listed, with_changes
from ._moved import Moved, mark_of_folder, moved_now, write_mark
from ._recovery import recover
from ._stage import FolderStage
from .base import DEFAULT_DEVICE, Finding, Prepared, Stage, Store
from .disk import MAX_FILE, Disk
from .journal import Entry, Journal
from .layouts import LAYOUTS

# The one kind whose files could be taken for another's.
COMPAT = LAYOUTS["baileysex-json"]
T = TypeVar("T")

# Beyond this the files are synced and the journal starts again, so that it stays small.
JOURNAL_LIMIT = 8 * 1024 * 1024


class DirectoryStore(Store):
    """One device in one folder.

    :param kind: as in a URL: one of :data:`LAYOUTS`.
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
        # Why the files could not be brought up to date after a commit, which is durable.
        self._late: CommitFailed | OwnershipLost | None = None
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
        self.index = Index(self.layout)
        self.unlisted: list[str] = []
        self.has_manifest = False
        self._is_manifest_synced = False
        self._is_moved = False

    # -- opening and closing

    def devices(self) -> list[str]:
        return [DEFAULT_DEVICE] if traces(self.names()) else []

    def acquire(self, device: str, *, read_only: bool, create: bool) -> None:
        with self._lock:
            self._acquire(device, read_only=read_only, create=create)

    def _acquire(self, device: str, *, read_only: bool, create: bool) -> None:
        if device != DEFAULT_DEVICE:
            raise NoDevice(self.url, f"a folder holds one device, {DEFAULT_DEVICE!r}")
        if self._state != "closed":
            raise StoreInUse(self.url, "is open already in this process")
        if not self._shows_a_device() and not create:
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

    def _shows_a_device(self) -> bool:
        """True for any trace of one; raises UnknownStore for a place of another kind. Credentials
        are enough: listing a large folder takes long, and its owner lists it again."""
        with suppress(OSError):
            others = "" if self.layout is COMPAT else f"{self.path}/{COMPAT.manifest}"
            if self.disk.exists(f"{self.path}/creds{self.layout.suffix}"):
                refuse_creds_of_another(self)
                return not (others and self.disk.exists(others)) or bool(self.names())
        return bool(traces(self.names()))

    def _make_folder(self) -> None:
        if self._do(lambda: self.disk.is_folder(self.path)):
            return
        try:
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
            if self._late and self._journal.is_in_place:
                raise self._late
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
        if COMPAT.manifest in found and self.layout.manifest not in found:
            what = "is a folder of BaileysEx's compat JSON"
            raise UnknownStore(self.url, what, f"Use {COMPAT.kind}:DIR")
        return found

    def check_vacant(self, device: str, *, overwrite: bool) -> None:
        names = self.names()
        found = traces(names)
        remedy = "Choose an empty place"
        if is_of_another_kind(self.layout, found) or creds_of_another(self, found):
            raise DeviceExists(self.url, "holds a device in another library's format", remedy)
        if found and not overwrite:
            raise DeviceExists(self.url, "holds a device already")
        if names and not found:
            raise DeviceExists(self.url, "is a folder with other files in it", remedy)

    def trace(self, device: str) -> str:
        found = sorted({*traces({*self.names(), *self.index.files})} - {JOURNAL})
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
            names = self._do(lambda: self._recover(latest))
            self._is_moved = MOVED in names
            self._build_index(names)
        else:
            self._build_index()

    def _refuse_foreign_writes(self, commits: list[list[Entry]]) -> None:
        """After a crash, another library may have gone on with the folder. Finishing our commits
        then would put its records back to an older state, which breaks conversations."""
        refuse_foreign_writes(self, commits, self._journal)

    def _recover(self, latest: Mapping[str, bytes | None]) -> list[str]:
        """Finish what was committed, then remove what a crash left: it needs no command. The names
        in the folder then."""
        names = recover(self, latest)
        if self.disk.exists(self._journal.path):
            self._journal.remove()
            self.disk.sync_folder(self.path)
        return names

    def _build_index(self, names: Iterable[str] | None = None) -> None:
        """:param names: what is in the folder, if that is known."""
        self.unlisted, self.has_manifest = [], False
        files = self.layout.records(self.names() if names is None else names)
        files -= self.overlay.keys()
        files |= self.layout.records(n for n, data in self.overlay.items() if data is not None)
        self.index = Index(self.layout, files)
        try:
            self.unlisted = [str(key) for key in self.index.list_owners(self._listed())]
        except InvalidValue as error:
            place = f"{self.shown}/{self.layout.manifest}"
            raise StoreDamaged(place, f"lists a record that {error.what}") from None

    def _listed(self) -> Listed:
        """The ids that BaileysEx's manifest lists, as the journal's commits leave it."""
        return with_changes(self._in_manifest(), self._journal.ids)

    def _in_manifest(self) -> dict[str, list[str]]:
        listing = self.layout.listing
        raw = self._read_file(self.layout.manifest) if listing else None
        if listing is None or raw is None:
            return {}
        self.has_manifest = True
        return listing.listed_in(raw, f"{self.shown}/{self.layout.manifest}")

    # -- reading

    def read(self, device: str, keys: Iterable[Key]) -> dict[Key, bytes]:
        self._check_open()
        found = {}
        for key in keys:
            with self._lock:
                name = self.index.name_of(key)
            if name is None:
                continue
            raw = self._read_file(name)
            if raw is None:
                with self._lock:
                    if self.index.name_of(key) != name or self.is_live:
                        continue
                raise StoreDamaged(f"{self.shown}/{name}", "vanished while the device was open")
            found[key] = raw
        return found

    def _read_file(self, name: str) -> bytes | None:
        pending, data = self._follower.look(name)
        return data if pending else self._read_settled(name)

    def _read_settled(self, name: str) -> bytes | None:
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
            return self.index.records(family)

    def count(self, device: str) -> int:
        self._check_open()
        return len(self.index)

    def entries(self, device: str) -> Iterator[tuple[Key, bytes]]:
        self._check_open()
        # Nothing is ever behind the files of a folder that is only read.
        read = self._read_settled if self._state == "read-only" else self._read_file
        for key, name in self.index.in_order():
            raw = read(name)
            if raw is not None:
                yield key, raw
            elif not self.is_live and self.index.name_of(key) == name:
                raise StoreDamaged(f"{self.shown}/{name}", "vanished while the device was open")

    def where(self, device: str, key: Key) -> str:
        name = self.index.name_of(key)
        return f"{self.shown}/{name}" if name else super().where(device, key)

    # -- writing

    def encode(self, key: Key, value: object, credentials: Credentials | None) -> Encoded:
        try:
            self.layout.file_name(key)
        except InvalidValue as error:
            return Encoded(None, (Loss("", error.what, False),))
        made = super().encode(key, value, credentials)
        if made.data is not None and len(made.data) > MAX_FILE:
            return Encoded(None, (Loss("", f"has over {MAX_FILE} bytes", False),))
        return made

    def prepare(
        self, device: str, changes: Mapping[Key, object], credentials: Credentials | None
    ) -> Prepared:
        for key, value in changes.items():
            if value is not None:
                self.layout.file_name(key)
        return super().prepare(device, changes, credentials)

    def apply(self, *batches: Prepared) -> None:
        with self._lock:
            self._check_open(write=True)
            files, change = self._files(batches)
            if files:
                self._commit(files, change)
                self._is_moved = False

    def _commit(self, files: list[Entry], change: Change) -> None:
        ids = change.ids if self.layout.manifest else {}
        try:
            self._sync_manifest(ids)
            self._journal.append(files, ids)
            change.enter()
            self._follow(files, of_ids=bool(ids))
            if self._journal.size > JOURNAL_LIMIT:
                self._begin_again()
        except OSError as error:
            self._failed = True
            raise CommitFailed(self.url, f"the commit failed: {error.strerror}") from None
        except BaseException:
            # Interrupted, or the journal is gone: nobody knows what the disk has.
            self._failed = True
            raise

    def _begin_again(self) -> None:
        """Empty the journal after a commit. That is durable, so whatever fails here is the next
        one's business."""
        try:
            self._settle(end=False)
        except (CommitFailed, OwnershipLost) as error:
            self._late = error.with_traceback(None)

    def _follow(self, files: list[Entry], *, of_ids: bool) -> None:
        manifest = self.layout.manifest
        if manifest:
            others = [entry for entry in files if entry[0] != manifest]
            if len(others) < len(files):
                files, of_ids, self.has_manifest = others, True, bool(self.index)
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
                    name = self.layout.file_name(key)
                    change.put(key, name, self.shown)
                    files[name] = data
        if self._is_moved:
            files[MOVED] = None  # whoever writes to it makes it a living device
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
            if self._late:
                raise CommitFailed(self.url, self._late.what, self._late.remedy)
            failure = self._follower.failure
            if self._failed or failure is not None:
                why = f": {failure}" if failure else ""
                raise CommitFailed(self.url, f"an earlier write failed{why}")

    def follow(self) -> None:
        """Bring the files up to date with the journal now; for a store without a thread."""
        self._follower.write_all()

    def _manifest_now(self) -> bytes | None:
        # Of one moment, since commits go on meanwhile.
        return self.manifest_of(self.index.records()) if self.index else None

    def manifest_of(self, keys: Iterable[Key]) -> bytes | None:
        """The manifest for ``keys``, or None where the library keeps none."""
        return self.layout.listing.of(keys) if self.layout.listing else None

    def stage(self, device: str, *, overwrite: bool) -> AbstractContextManager[Stage]:
        return FolderStage(self, overwrite=overwrite)

    def remove(self, device: str) -> None:
        with self._lock:
            self.apply(Prepared(device, dict.fromkeys(self.index.records())))
        self.release(device)
        if not self.names():
            self._do(lambda: self.disk.remove_folder(self.path))

    def mark_moved(self, device: str, to: str) -> None:
        with self._lock:
            self._check_open(write=True)
            self._commit([(MOVED, write_mark(moved_now(to)))], Change(self.index))
            self._is_moved = True

    def moved(self, device: str) -> Moved | None:
        with self._lock:
            return mark_of_folder(self)

    def findings(self, device: str) -> Iterator[Finding]:
        self._check_open()
        return folder_findings(self)

    def _do(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except OSError as error:
            raise StoreUnreadable(self.url, f"cannot be used: {error.strerror}") from None
