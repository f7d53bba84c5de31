"""Back up one device of a store, or all of them, into one file.

The records are read as one consistent moment of each device, decoded, and kept in our native
format, which holds everything. The file is written beside its place, read back from the disk and
checked against what was read from the store; only then it is put there.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ratchetkeep import _backup_age as age
from ratchetkeep._backup_file import (
    NONE,
    PASSPHRASE,
    RECIPIENTS,
    Backup,
    Content,
    Entry,
    Manifest,
    Plain,
    SavedDevice,
    manifest_of,
    open_backup,
)
from ratchetkeep._backup_format import Header, Packer, Record
from ratchetkeep._backup_place import Place, Staged
from ratchetkeep._checker import Checker
from ratchetkeep._copy_source import Digest, chunks, digest_of
from ratchetkeep._copy_trial import refuse_errors
from ratchetkeep._retire import refuse_owner
from ratchetkeep.errors import (
    CommitFailed,
    InvalidValue,
    NoDevice,
    RatchetkeepError,
    StoreDamaged,
    StoreInUse,
)
from ratchetkeep.formats import native
from ratchetkeep.model import CREDENTIALS, Key
from ratchetkeep.stores import urls
from ratchetkeep.stores.base import DEFAULT_DEVICE, Store

if TYPE_CHECKING:
    from ratchetkeep.sealing.keys import SealKey

__all__ = [
    "Backup",
    "BackupSummary",
    "Entry",
    "Manifest",
    "SavedDevice",
    "backup_device",
    "open_backup",
]


@dataclass(frozen=True)
class BackupSummary:
    """A backup that was made, and verified by reading it back.

    :ivar source: the URL of the store, without a password.
    :ivar file: the path of the backup.
    :ivar made: when it was begun (UTC).
    :ivar encryption: ``recipients``, ``passphrase`` or ``none``.
    :ivar recipients: how many recipients can open it.
    :ivar size: bytes of the file.
    :ivar devices: what it holds.
    :ivar skipped: devices of the store that were moved to another place, and are not in it.
    :ivar older: older backups that were kept beside it, the youngest first.
    :ivar sealed: whether the store is sealed, which its backup is not: it has its own encryption.
    """

    source: str
    file: str
    made: datetime.datetime
    encryption: str
    recipients: int
    size: int
    devices: tuple[SavedDevice, ...]
    skipped: tuple[str, ...]
    older: tuple[str, ...]
    sealed: bool = False

    @property
    def records(self) -> dict[str, int]:
        """How many records of all devices, by family, with the credentials."""
        found: dict[str, int] = {}
        for device in self.devices:
            for family, count in device.records.items():
                found[family] = found.get(family, 0) + count
        return dict(sorted(found.items()))


def backup_device(
    url: str | os.PathLike[str],
    file: str | os.PathLike[str],
    *,
    recipients: Iterable[str | os.PathLike[str]] = (),
    passphrase: str | None = None,
    plaintext: bool = False,
    all_devices: bool = False,
    keep: int | None = None,
    key: str | bytes | SealKey | None = None,
) -> BackupSummary:
    """Back up the device at ``url`` into ``file``, which is replaced in one step if it is a backup.

    An owner may go on writing to a store whose readers see snapshots (``sqlite:``, ``postgresql:``,
    ``whatsmeow:``); a folder must not be written meanwhile. Say exactly one of ``recipients``,
    ``passphrase`` and ``plaintext``.

    :param recipients: who can open it: ``age1...``, ``ssh-ed25519 ...`` or ``ssh-rsa ...``, or
        paths of files with one a line.
    :param passphrase: what opens it. All of the backup is held in memory then: up to 256 MiB.
    :param plaintext: do not encrypt it: whoever reads the file has the keys of the devices.
    :param all_devices: all devices of the store, by name; each as one moment of its own. Those that
        were moved to another place are left out.
    :param keep: keep so many older backups beside it, ``FILE.1`` the youngest.
    :param key: what opens a sealed store; see :func:`ratchetkeep.open_device`.
    :raises NoDevice: if no device is there.
    :raises StoreDamaged: if anything of a device cannot be read, or its credentials do not fit
        together.
    :raises StoreInUse: if a folder is being written.
    :raises DeviceMoved: if the device was moved to another place.
    :raises DeviceExists: if ``file`` is there, and is no backup.
    :raises NotHeld: for more than a passphrase can encrypt.
    :raises WrongKey: if the store is sealed, and the key does not open it.
    :raises InvalidValue: for a recipient that is none, or if ``pyrage`` is not installed.
    :raises CommitFailed: if the file cannot be written, or does not read back as it was written.
        What was there before is as it was.
    """
    how = _how(list(recipients), passphrase, plaintext)
    place = Place(_path(file), _checked(keep))
    target = urls.parse(url)
    if all_devices and target.device != DEFAULT_DEVICE:
        what = "names one device, and all were asked for"
        raise InvalidValue(urls.shown(target), what, "Leave out which, or do not ask for all")
    store = urls.open_target(target, key)
    try:
        saving = _Saving(store, target, all_devices)
        place.check()
        with place.staged() as staged:
            how.write(saving.parts(), staged)
            staged.sync()
            _verify(how, staged, place, saving)
            place.put(staged)
        return saving.summary(how, place, staged.size)
    finally:
        store.close()


def _path(file: str | os.PathLike[str]) -> str:
    path = os.fsdecode(file)
    if not path or "\0" in path or path.endswith("/"):
        raise InvalidValue("file", "is no path of a file", "Name the file of the backup")
    return path


def _checked(keep: int | None) -> int | None:
    if keep is None or (type(keep) is int and 1 <= keep <= 9999):
        return keep
    raise InvalidValue("keep", "must be a number of older backups from 1 to 9999")


# -- how it is encrypted


class _How(NamedTuple):
    """How a backup is encrypted, and how it is read back.

    :ivar recipients: with the one that was made for this file alone.
    """

    encryption: str
    recipients: Sequence[Any] = ()
    identity: age.Identities | None = None
    passphrase: str | None = None

    def write(self, parts: Iterator[bytes], staged: Staged) -> None:
        """Write the bytes of a backup."""
        if self.encryption == RECIPIENTS:
            age.encrypt(parts, staged, self.recipients)
        elif self.passphrase is not None:
            age.encrypt_held(parts, staged, self.passphrase)
        else:
            for part in parts:
                staged.write(part)

    @contextmanager
    def content(self, path: str) -> Iterator[Content]:
        """What is in the file that was written."""
        with open(path, "rb") as file:
            if self.encryption == NONE:
                yield Plain(file, path)
            else:
                identities = self.identity or age.Identities(())
                yield age.Decryption(file, path, identities, self.passphrase)

    def __repr__(self) -> str:
        return f"_How({self.encryption})"


def _how(given: list[str | os.PathLike[str]], passphrase: str | None, plaintext: bool) -> _How:
    remedy = "Give recipients, or a passphrase, or ask for a plain file (plaintext)"
    if bool(given) + (passphrase is not None) + bool(plaintext) != 1:
        raise InvalidValue("backup", "is to be encrypted in exactly one way, or in none", remedy)
    if plaintext:
        return _How(NONE)
    if passphrase is not None:
        if not isinstance(passphrase, str) or not passphrase:
            raise InvalidValue("passphrase", "must be text that is not empty", remedy)
        age.pyrage()
        return _How(PASSPHRASE, passphrase=passphrase)
    found = age.as_recipients(given)
    identity, own = age.identity_of_one_file()
    return _How(RECIPIENTS, [*found, own], age.Identities([identity]))


def _verify(how: _How, staged: Staged, place: Place, saving: _Saving) -> None:
    """Read the new file back.

    :raises CommitFailed: if it is not what was read from the store.
    """
    try:
        with place.writing(), how.content(staged.path) as content:
            found = manifest_of(content, staged.path)
    except CommitFailed:
        raise
    except RatchetkeepError:
        found = None
    if found is None or found != saving.packer.manifest:
        what = "did not come back as it was written"
        raise CommitFailed(place.shown, what, "What was there before is as it was. Try again")


# -- what is saved


class _Saving:
    """The devices that a backup is made of, as they are read."""

    def __init__(self, store: Store, target: urls.Target, all_devices: bool) -> None:
        self._store, self._target, self._all = store, target, all_devices
        self.packer = Packer()
        self.made = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        self.skipped: list[str] = []

    def parts(self) -> Iterator[bytes]:
        """The bytes of the backup."""
        from importlib.metadata import version  # takes long to load

        by = f"ratchetkeep {version('ratchetkeep')}"
        yield self.packer.begin(Header(made=self.made, by=by, kind=self._store.kind))
        for name in self._names():
            yield from self._device(name)
        yield self.packer.finish()

    def _names(self) -> list[str]:
        if not self._all:
            return [self._target.device]
        names = self._store.devices()
        self.skipped = [name for name in names if self._store.moved(name) is not None]
        found = [name for name in names if name not in self.skipped]
        if not found:
            moved = " that was not moved to another place" if self.skipped else ""
            raise NoDevice(self._store.url, f"holds no device{moved}")
        return found

    def _device(self, name: str) -> Iterator[bytes]:
        store = self._store
        store.acquire(name, read_only=True, create=False)
        try:
            store.refuse_moved(name)
            refuse_owner(store, name)
            reader = _Reader(store, name)
            history = store.history(name)
            yield from self.packer.device(
                name, history, store.kind, store.format.name, reader.records()
            )
            reader.refuse_changed()
        finally:
            store.release(name)

    def summary(self, how: _How, place: Place, size: int) -> BackupSummary:
        """What was made."""
        manifest = self.packer.manifest
        assert manifest is not None  # noqa: S101 - it was verified
        one = "" if self._all else urls.query_of(self._target)
        return BackupSummary(
            source=self._store.url + one,
            file=place.shown,
            made=self.made,
            encryption=how.encryption,
            # Not the one that read it back.
            recipients=max(len(how.recipients) - 1, 0),
            size=size,
            devices=manifest.devices,
            skipped=tuple(self.skipped),
            older=tuple(place.older()),
            sealed=self._store.seals(),
        )


class _Reader:
    """The records of one device, tried as they are read."""

    def __init__(self, store: Store, device: str) -> None:
        self._store, self._device = store, device
        self._digest = Digest()

    def records(self) -> Iterator[Record]:
        """All records, in the native format.

        :raises StoreDamaged: if one cannot be read, or the credentials do not fit together.
        """
        store, device = self._store, self._device
        if CREDENTIALS not in store.read(device, [CREDENTIALS]):
            left = store.trace(device)
            what = f"holds no credentials, but something of a device: {left}"
            raise StoreDamaged(store.url, what)
        refuse_errors(list(store.findings(device)))
        for chunk in chunks(store, device):
            for key, raw in self._digest.add(chunk):
                yield key, self._native(key, raw)

    def _native(self, key: Key, raw: bytes) -> bytes:
        store = self._store
        value = store.decode(self._device, key, raw)
        if key == CREDENTIALS:
            checker = Checker(value, lambda key: store.where(self._device, key))
            refuse_errors(list(checker.check_alone(key, value)))
        data = native.encode(key, value).data
        if data is None or (data != raw and native.decode(key, data) != value):
            where = store.where(self._device, key)
            raise CommitFailed(where, "would not come back as it is saved", "Nothing was changed")
        return data

    def refuse_changed(self) -> None:
        """See that what was read is one moment of the device.

        :raises StoreInUse: if it was written meanwhile.
        """
        if self._store.reads_snapshots:
            return
        refuse_owner(self._store, self._device)
        if digest_of(self._store, self._device) != self._digest.digest():
            what = "was changed by another program during the backup"
            raise StoreInUse(self._store.url, what, "Stop that program, then back it up again")
