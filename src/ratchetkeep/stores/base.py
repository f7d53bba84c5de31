"""The contract of a store: where the records of one or many devices live.

A store moves bytes; what they mean is the business of its ``format``. All verbs are safe to call
from several threads. Every store promises:

* ``apply`` is all or nothing for each device that it is given, and durable when it returns;
* what cannot be read raises :class:`StoreDamaged`, it is never taken for absence;
* ``acquire`` finishes or drops what a crash left behind, by itself;
* after a failed ``apply`` it takes no more until the device is opened again.

:class:`ratchetkeep.testing.StoreContract` tests all of this.
"""

from __future__ import annotations

import datetime
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ratchetkeep.errors import (
    DecodeError,
    DeviceExists,
    DeviceMoved,
    InvalidValue,
    NotHeld,
    OwnershipLost,
    RatchetkeepError,
    StoreDamaged,
    UnsupportedVersion,
)
from ratchetkeep.formats import Encoded, Format, Loss
from ratchetkeep.model import Credentials, Key

from ._moved import Moved, to_of

if TYPE_CHECKING:
    from ratchetkeep.sealing.keys import Secret
    from ratchetkeep.sealing.ring import Vault

DEFAULT_DEVICE = "default"

# Records that are read together where all are read one after the other.
_PORTION = 256


class Prepared(NamedTuple):
    """A batch that is encoded and checked: what ``apply`` takes.

    :ivar changes: new bytes by key; None deletes.
    """

    device: str
    changes: Mapping[Key, bytes | None]

    def __repr__(self) -> str:
        return f"Prepared(device={self.device!r}, <{counted(len(self.changes), 'record')}>)"


class Finding(NamedTuple):
    """Something that verifying a device brought up.

    :ivar severity: ``error`` (the device is not whole), ``warning`` or ``info``.
    :ivar place: the file, row or record.
    :ivar what: what is the matter; no content.
    :ivar remedy: what to do.
    """

    severity: str
    place: str
    what: str
    remedy: str


class Listed(NamedTuple):
    """A device of a store, as a list of many tells of it.

    :ivar moved_to: the URL of the place where it goes on, if it was moved; else "".
    :ivar owner: who has it open for writing, in words; "" if nobody.
    :ivar lease: seconds that the owner's lease still runs; None where owners have none.
    :ivar records: how many it holds, with the credentials; None where that is not known at once.
    :ivar committed: when the last commit was; None where that is not known.
    """

    device: str
    moved_to: str = ""
    owner: str = ""
    lease: float | None = None
    records: int | None = None
    committed: datetime.datetime | None = None


class History(NamedTuple):
    """Which life of a device this is, and how far it came.

    :ivar id: 32 hexadecimal digits, random: made when the device is put in its place, by creating,
        copying or restoring it.
    :ivar commits: how many commits there were since.
    """

    id: str
    commits: int


class LeftBehind(NamedTuple):
    """Something beside the records that a library keeps for a device, and no other one has.

    :ivar table: where it is.
    :ivar rows: how much there is.
    :ivar what: what it is, and what its lack leads to.
    """

    table: str
    rows: int
    what: str


def counted(number: int, noun: str) -> str:
    """A number with its noun: ``1 file``, ``2 files``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def where(url: str, device: str, key: Key) -> str:
    """The place of a record, for errors."""
    name = "" if device == DEFAULT_DEVICE else f"{device}, "
    return f"{url} ({name}{key})"


class Readable(Protocol):
    """What records are read from."""

    def read(self, device: str, keys: Iterable[Key]) -> dict[Key, bytes]: ...
    def where(self, device: str, key: Key) -> str: ...


def entries_of(source: Readable, device: str, keys: Iterator[Key]) -> Iterator[tuple[Key, bytes]]:
    """The records of ``keys`` with their bytes, in that order, without holding all of them.

    :raises StoreDamaged: if a record that is there cannot be read.
    """
    while portion := list(islice(keys, _PORTION)):
        found = source.read(device, portion)
        for key in portion:
            if key not in found:
                what = "was there, and cannot be read back"
                raise StoreDamaged(source.where(device, key), what)
            yield key, found[key]


class Stage(Protocol):
    """A device that is being put together beside its place; nobody sees it before ``publish``."""

    def write(self, changes: Mapping[Key, bytes]) -> None:
        """Add records."""

    def read(self, keys: Iterable[Key]) -> dict[Key, bytes]:
        """Read back what was written."""

    def publish(self) -> None:
        """Make it durable and put it in its place, in one step."""


class Resealing(Protocol):
    """A store whose devices are about to be sealed with another data key, or with none."""

    @property
    def vault(self) -> Vault:
        """The store's data keys as they are now."""

    def put_ring(self, vault: Vault, secret: Secret | None) -> None:
        """Have other data keys from now on, durably.

        :param secret: what wraps them; None leaves a store without data keys.
        """

    def devices(self) -> dict[str, int]:
        """The names of all devices, with the generation of the data key that each is sealed with;
        0 for a plain one."""

    def reseal(self, device: str, generation: int) -> int:
        """Seal a device with another data key, in one step; how many records it has. Its history
        stays the same.

        :raises StoreDamaged: if its records are not those of its last commit.
        :raises StoreInUse: if another owner has it open.
        """

    def compact(self) -> None:
        """Leave nothing of what was deleted and replaced in what is free of the store.

        :raises StoreInUse: if a reader still needs it.
        """


# Devices whose batches were refused, with why: nothing of these was stored.
Refused = Mapping[str, RatchetkeepError]


class Joint(Protocol):
    """What devices share whose commits can share a sync."""

    def apply(self, *batches: Prepared) -> Refused | None:
        """As :meth:`Store.apply`, for any of these devices."""


class Store(ABC):
    """A store. ``url`` names it in errors; it holds no password."""

    kind: str
    format: Format
    url: str
    # True if a reader sees one moment of the device, whatever its owner writes meanwhile.
    reads_snapshots = False
    # Why a device here cannot be marked as moved, in words; "" where it can.
    no_mark = ""

    @abstractmethod
    def devices(self) -> list[str]:
        """Names of the devices here, sorted; a damaged one counts too.

        :raises StoreDamaged: if that cannot be read.
        """

    def listing(self) -> list[Listed]:
        """The devices here with what can be told of them without opening them, sorted by name.

        :raises StoreDamaged: as :meth:`devices`.
        """
        return [
            Listed(name, to_of(partial(self.moved, name)), self.holder(name))
            for name in self.devices()
        ]

    @abstractmethod
    def acquire(self, device: str, *, read_only: bool, create: bool) -> None:
        """Open a device: take ownership (not if ``read_only``) and recover from a crash.

        :raises NoDevice: if nothing is there and ``create`` is not set. With ``create`` the place
            is made, but no credentials.
        :raises StoreInUse: if another owner has it.
        :raises StoreDamaged: if it cannot be read or recovered.
        """

    def take(self, device: str, *, create: bool) -> None:
        """As :meth:`acquire`, from whoever has the device: that owner can write nothing more.

        :raises InvalidValue: if ownership here is a lock that a living process cannot lose.
        """
        what = "an owner here cannot be deprived of a device while its process lives"
        raise InvalidValue(f"{self.url} (steal)", what, "End that process, then open the device")

    def watch(self, device: str, lost: Callable[[OwnershipLost], None]) -> None:  # noqa: B027
        """Have ``lost`` called, by any thread, as soon as the store finds out that this process no
        longer owns the device. A store that finds out only when it writes need not."""

    @abstractmethod
    def release(self, device: str) -> None:
        """Close a device: everything is in its final place when this returns."""

    @abstractmethod
    def read(self, device: str, keys: Iterable[Key]) -> dict[Key, bytes]:
        """The bytes of the keys that are there."""

    @abstractmethod
    def scan(self, device: str, family: str | None = None) -> Iterator[Key]:
        """The keys of one family, or of everything with the credentials; in no order."""

    def count(self, device: str) -> int:
        """How many records there are, with the credentials."""
        return sum(1 for _ in self.scan(device))

    def entries(self, device: str) -> Iterator[tuple[Key, bytes]]:
        """All records with their bytes, the credentials too; in an order that stays the same while
        nothing changes, and without holding all of them.

        :raises StoreDamaged: if a record that is there cannot be read.
        """
        return entries_of(self, device, self.scan(device))

    @abstractmethod
    def apply(self, *batches: Prepared) -> Refused | None:
        """Make all batches durable in one step.

        A store whose devices have owners of their own gives those that were lost: the batches of
        all others are durable.

        :raises CommitFailed: if that failed; the store then takes no more until opened again.
        :raises OwnershipLost: in a process that does not own the device.
        """

    def joint(self, device: str) -> Joint:
        """What carries out this device's commits, the same for all that can share a sync.

        :raises ReadOnly: if the device was opened read-only.
        """
        return self

    @abstractmethod
    def trace(self, device: str) -> str:
        """What is here of a device without credentials, in words; "" only if there is no trace of
        one. Minting new credentials over a trace would lose the old device."""

    def check_vacant(self, device: str, *, overwrite: bool) -> None:
        """See that a device can be staged here.

        :raises DeviceExists: if one is there and ``overwrite`` is not set, or something that even
            then is not to be replaced.
        """
        if not overwrite and device in self.devices():
            raise DeviceExists(self.url, f"holds a device {device!r} already")

    @abstractmethod
    def stage(self, device: str, *, overwrite: bool) -> AbstractContextManager[Stage]:
        """Put a whole device together beside its place; leaving without ``publish`` drops it.

        :raises DeviceExists: as :meth:`check_vacant`; also if a device is made there meanwhile.
        """

    @abstractmethod
    def remove(self, device: str) -> None:
        """Remove a device that this process has acquired, in one step."""

    @abstractmethod
    def mark_moved(self, device: str, to: str) -> None:
        """Note, durably, that the device that this process has acquired goes on at the URL ``to``.
        The mark goes away when a stage replaces the device, or with the device.

        :raises CommitFailed: if that failed.
        """

    @abstractmethod
    def moved(self, device: str) -> Moved | None:
        """Where the device was moved to, if it was; it need not be acquired.

        :raises StoreDamaged: if the mark cannot be read.
        :raises UnsupportedVersion: if a newer version wrote it.
        """

    def refuse_moved(self, device: str) -> None:
        """:raises DeviceMoved: if the device was moved to another place."""
        moved = self.moved(device)
        if moved is not None:
            name = "" if device == DEFAULT_DEVICE else f"device {device!r} "
            raise DeviceMoved(self.url, name + moved.told, to=moved.to)

    def seals(self) -> bool:
        """True if what is put here is sealed.

        :raises WrongKey: if it is, and the key does not open it.
        """
        return False

    def resealing(self) -> AbstractContextManager[Resealing]:
        """Own the store, with none of its devices open here, to seal them with another data key.

        :raises InvalidValue: if a store of this kind cannot be sealed.
        :raises StoreInUse: if somebody else has it.
        :raises WrongKey: if it is sealed with another key.
        """
        what = f"a {self.kind}: store cannot be sealed"
        raise InvalidValue(self.url, what, "Copy the device to a sqlite: or postgresql: store")

    @abstractmethod
    def findings(self, device: str) -> Iterator[Finding]:
        """What is the matter with the store's own structure: leftovers, strays, modes, index."""

    def sum_findings(self, device: str) -> Iterator[Finding]:
        """Of the :meth:`findings`, those of one device alone: whether a sealed one's rows are those
        of its last commit."""
        return iter(())

    def left_behind(self, device: str) -> list[LeftBehind]:
        """What a copy of the device, which this process has acquired, leaves behind: its library
        keeps it beside the records, and no other one has a place for it."""
        return []

    def history(self, device: str) -> History | None:
        """How far the device, which this process has acquired, has come; None where that is not
        counted, or nothing was committed yet."""
        return None

    def committed(self, device: str) -> datetime.datetime | None:
        """When the device's last commit was, where the store knows it."""
        return None

    @abstractmethod
    def holder(self, device: str) -> str:
        """Which process has the device open for writing, in words; "" if none has."""

    @abstractmethod
    def close(self) -> None:
        """Release everything."""

    def where(self, device: str, key: Key) -> str:
        """The place of a record, for errors."""
        return where(self.url, device, key)

    # Where this very place can hold less than its kind: of a record's bytes in our format, those
    # that it can hold, and what is lost. It is asked after :meth:`encode`, where it is not None.
    fits: Callable[[Key, bytes], Encoded] | None = None

    def foresee(self, source: Store, device: str) -> None:  # noqa: B027 - most need not
        """Look over the source of a copy to here, which has ``device`` open, for what no single
        record tells and ``fits`` is to know."""

    def encode(self, key: Key, value: Any, credentials: Credentials | None) -> Encoded:
        """The record's bytes here, with what of it cannot be held."""
        return self.format.encode(key, value, credentials)

    def decode(self, device: str, key: Key, raw: bytes) -> Any:
        """The value of a record.

        :raises StoreDamaged: naming the place, if it cannot be read.
        """
        try:
            return self.format.decode(key, raw)
        except DecodeError as error:
            member = f"{error.place}: " if error.place else ""
            raise StoreDamaged(self.where(device, key), f"{member}{error.what}") from None
        except UnsupportedVersion as error:
            raise UnsupportedVersion(self.where(device, key), error.what) from None

    def prepare(
        self, device: str, changes: Mapping[Key, Any], credentials: Credentials | None
    ) -> Prepared:
        """Encode a batch; no lock is held. None deletes.

        :param credentials: the device's as they are after the batch.
        :raises NotHeld: if something that cannot be made again has no place in this format.
        :raises InvalidValue: for a record in another client's spelling that is damaged.
        """
        encoded: dict[Key, bytes | None] = {}
        for key, value in changes.items():
            if value is None:
                encoded[key] = None
                continue
            try:
                data, losses = self.encode(key, value, credentials)
            except DecodeError as error:  # an EncodedRecord that is not what its encoding says
                member = f"{key} {error.place}".strip()
                raise InvalidValue(member, error.what, "Nothing was stored") from None
            if data is not None and self.fits is not None:
                data, more = self.fits(key, data)
                losses = (*losses, *more)
            if losses or data is None:
                self._check_held(key, data, [loss for loss in losses if not loss.derived])
            encoded[key] = data
        return Prepared(device, encoded)

    def _check_held(self, key: Key, data: bytes | None, lost: Sequence[Loss]) -> None:
        if lost or data is None:
            place = f"{key} {lost[0].place}".strip() if lost else str(key)
            what = lost[0].told if lost else "cannot be held"
            raise NotHeld(f"{self.url} ({place})", what)
