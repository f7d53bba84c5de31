"""Repairs of a folder: leftovers, modes, an unclean journal, BaileysEx's manifest."""

from __future__ import annotations

import os
import re
import stat

from ratchetkeep._repair_job import Job, examples, number
from ratchetkeep.errors import (
    DecodeError,
    InvalidValue,
    NoDevice,
    StoreDamaged,
    StoreUnreadable,
    UnsupportedVersion,
)
from ratchetkeep.model import CREDENTIALS, FAMILIES, Key, check_key
from ratchetkeep.stores._folder_findings import PREFIX
from ratchetkeep.stores._folder_names import JOURNAL, traces
from ratchetkeep.stores._follower import TEMPORARY
from ratchetkeep.stores._stage import MARK
from ratchetkeep.stores.directory import DirectoryStore
from ratchetkeep.stores.layouts import Manifest


class Folder(DirectoryStore):
    """A folder that is mended piece by piece: opening it would stop at the first damage."""

    def mend(self, job: Job, *, keep_files: bool) -> None:
        """All repairs, in the order in which one makes the next possible."""
        if not traces(self.names()):
            found = "is empty" if self.disk.is_folder(self.path) else "is not there"
            raise NoDevice(self.url, found)
        with job.owning(self._owner):
            job.sweep(f".{os.path.basename(job.target)}{MARK}")
            self._mend_modes(job)
            self._mend_leftovers(job)
            self._mend_journal(job, keep_files=keep_files)
            if self.layout.listing:
                self._mend_manifest(job, self.layout.listing)

    def _mend_modes(self, job: Job) -> None:
        own = [name for name in self.names() if self._is_own(name)]
        # Through a link the folder is somebody else's to close.
        folder = "" if os.path.islink(self.path) else self.path
        job.close_to_others(self.path, [f"{self.path}/{name}" for name in own], folder)

    def _is_own(self, name: str) -> bool:
        return bool(
            self.layout.key_of(name)
            or name == self.layout.manifest
            or name.startswith(PREFIX)
            or self.layout.leftovers([name])
        )

    def _mend_leftovers(self, job: Job) -> None:
        names = self.names()
        ours = [TEMPORARY] if TEMPORARY in names else []
        for name in sorted([*ours, *self.layout.leftovers(names)]):
            path = f"{self.path}/{name}"
            with job.writing(path):
                if stat.S_ISREG(self.disk.mode(path)):
                    kept = job.keep(path)
                    job.remove(path)
                    job.note(path, "was left over by a program that was stopped: moved away", kept)

    def _mend_journal(self, job: Job, *, keep_files: bool) -> None:
        path = self._journal.path
        if JOURNAL not in self.names():
            return
        commits = self._do(self._journal.read)
        latest = {name: data for commit in commits for name, data in commit}
        try:
            self._refuse_foreign_writes(commits)
        except StoreUnreadable:
            raise
        except StoreDamaged:
            if not keep_files:
                raise
            with job.writing(path):
                kept = job.keep(path)
                job.remove(path)
            what = f"held {number(latest, 'file')} that another program changed since: moved away"
            job.note(path, what, kept)
            return
        job.note(path, f"{number(latest, 'file')} behind an unclean stop: brought up to date")
        if job.dry_run:
            self.overlay = latest
        else:
            with job.writing(path):
                self._recover(latest)

    def _mend_manifest(self, job: Job, listing: Manifest) -> None:
        why = self._fault_of_manifest()
        if not why:
            return
        path = f"{self.path}/{self.layout.manifest}"
        ids, unclear = self._ids(listing)
        if unclear:
            why += f"; not listed, since the name can be read in two ways: {examples(unclear)}"
        with job.writing(path):
            kept = job.keep(path) if self.disk.exists(path) else ""
            job.replace(path, f"{self.path}/{TEMPORARY}", listing.write(ids))
        job.note(path, why, kept)

    def _fault_of_manifest(self) -> str:
        """What is the matter with the manifest, or ""."""
        try:
            self._build_index()
        except StoreUnreadable:
            raise
        except StoreDamaged as error:
            return f"{error.what}: made again from the files"
        if self.unlisted:
            return f"lists what is not there ({examples(self.unlisted)}): made again"
        if not self.has_manifest and any(key != CREDENTIALS for key in self.index.records()):
            return "was missing: made again from the files"
        return ""

    def _ids(self, listing: Manifest) -> tuple[dict[str, list[str]], list[str]]:
        """The ids by family that have a file, and the files whose id cannot be told."""
        names = {name for name in self.names() if name not in self.overlay}
        names |= {name for name, data in self.overlay.items() if data is not None}
        ids: dict[str, list[str]] = {}
        listed = set()
        for key in self._known_keys(listing):
            name = self._name_of(key)
            if name in names:
                listed.add(name)
                ids.setdefault(key.family, []).append(key.id)
        unclear = []
        for name in sorted(names - listed):
            guessed = self.layout.key_of(name)
            if guessed is None or guessed == CREDENTIALS:
                continue
            if _is_certain(guessed.family, name):
                ids.setdefault(guessed.family, []).append(guessed.id)
            else:
                unclear.append(name)
        return ids, unclear

    def _name_of(self, key: Key) -> str:
        try:
            return self.layout.file_name(key)
        except InvalidValue:
            return ""

    def _known_keys(self, listing: Manifest) -> set[Key]:
        """What the old manifest knows, also where it can only be read in part."""
        raw = self._read_file(self.layout.manifest) or b""
        try:
            ids = listing.read(raw)
            keys = {Key(family, id) for family in ids for id in ids[family]}
        except (DecodeError, UnsupportedVersion):
            keys = {Key(family, id) for family in FAMILIES for id in listing.texts(raw)}
        # What the commits of an unclean stop changed in it, where it cannot be read.
        changed = self._journal.ids
        keys = {key for key in keys if changed.get(key, True)}
        keys |= {key for key, is_there in changed.items() if is_there}
        return {key for key in keys if key.family not in FAMILIES or _is_key(key)}


def _is_key(key: Key) -> bool:
    try:
        check_key(key.family, key.id)
    except InvalidValue:
        return False
    return True


# Escaped, ":" is "-" and "/" is "__". A name without either has one reading; of the others, these
# have only one that a client makes.
_ADDRESS = r"\d+(_\d+)?"
_GROUP = r"(\d+(-\d+)?@g\.us|status@broadcast)"
_ONE_READING = {
    "sender-key": rf"{_GROUP}--{_ADDRESS}--\d+",
    "sender-key-memory": _GROUP,
    "app-state-sync-key": r"([A-Za-z0-9+=]|__)+",
    "tctoken": "__index",
}


def _is_certain(family: str, name: str) -> bool:
    escaped = name.removeprefix(family + "-").rpartition(".")[0]
    if "-" not in escaped and "__" not in escaped:
        return True
    return bool(re.fullmatch(_ONE_READING.get(family, r"(?!)"), escaped))
