"""Every error that ratchetkeep raises, in one tree.

::

    RatchetkeepError
    ├── NoDevice             the place is empty, and creating was not asked for
    ├── DeviceExists         something is already where a device was to be made
    ├── StoreDamaged         something is there that cannot be read as what it must be
    │   ├── StoreUnreadable  the operating system refused to let us read it
    │   └── StoreRewound     an older state than its witness has seen was put back
    ├── WrongKey             a sealed store, and the key is wrong, or there is none
    ├── UnsupportedVersion   written by a newer version than this one knows
    ├── CommitFailed         a commit is not durable; the store must be opened again
    ├── StoreInUse           another owner has the device open
    ├── DeviceMoved          the device goes on in another place; this is what stayed behind
    ├── OwnershipLost        this owner may not write any more
    ├── StoreClosed          the device or store was closed before the call
    ├── ReadOnly             a write to something that was opened read-only
    ├── UnknownStore         a URL or a path that names no kind of store we know
    ├── InvalidValue         a value from the caller is refused (also a ValueError)
    │   └── NameCollision    two ids of a folder would share one file
    ├── NotHeld              the target format has no place for part of a value
    └── DecodeError          bytes are not what their format says; carries no place yet

Each message says where, what happened and what to do next. None holds key material: values are
described by their type and length only.
"""

from __future__ import annotations

__all__ = [
    "CommitFailed",
    "DecodeError",
    "DeviceExists",
    "DeviceMoved",
    "InvalidValue",
    "NameCollision",
    "NoDevice",
    "NotHeld",
    "OwnershipLost",
    "RatchetkeepError",
    "ReadOnly",
    "StoreClosed",
    "StoreDamaged",
    "StoreInUse",
    "StoreRewound",
    "StoreUnreadable",
    "UnknownStore",
    "UnsupportedVersion",
    "WrongKey",
]


class RatchetkeepError(Exception):
    """The root of all our errors.

    :ivar place: where it happened: a URL, a path, a row, or the path of a member.
    :ivar what: what happened there.
    :ivar remedy: what to do next; may be empty.
    """

    default_remedy = ""

    def __init__(self, place: str, what: str, remedy: str | None = None) -> None:
        self.place = place
        self.what = what
        self.remedy = self.default_remedy if remedy is None else remedy
        super().__init__(place, what, self.remedy)

    def __str__(self) -> str:
        text = f"{self.place}: {self.what}" if self.place else self.what
        return f"{text}. {self.remedy}" if self.remedy else text


class NoDevice(RatchetkeepError):
    """The place holds no device and creating one was not asked for."""

    default_remedy = "Check the path, or create a device there with create=True (ratchetkeep new)"


class DeviceExists(RatchetkeepError):
    """Something is already where a device was to be made or copied to."""

    default_remedy = "Choose another place, or say that it may be replaced (overwrite)"


class StoreDamaged(RatchetkeepError):
    """Something is there that cannot be read as what it must be. It is never taken for absence."""

    default_remedy = (
        "Nothing was changed. Run `ratchetkeep verify` on it, and restore it from a backup "
        "before the device is used again"
    )


class StoreUnreadable(StoreDamaged):
    """The operating system refused to let us read it; the data itself may be whole."""

    default_remedy = (
        "Nothing was changed, and nothing is known to be lost. Mend the cause and open it again"
    )


class StoreRewound(StoreDamaged):
    """The store is older than what its witness saw of it: a copy of it, or of the machine, was put
    back. Going on with it would use message keys and pre-keys a second time."""

    default_remedy = (
        "Nothing was changed. If the newer state is lost, go on with new sessions: "
        "`ratchetkeep cool` on this place makes them, and keeps the link"
    )


class WrongKey(RatchetkeepError):
    """The place is sealed, and the key does not open it, or none was given. Nothing was tried a
    second time, and nothing was changed."""

    default_remedy = "Give the key that it was sealed with"


class UnsupportedVersion(RatchetkeepError):
    """Written by a newer version of the format than this one knows."""

    default_remedy = "Upgrade ratchetkeep; nothing was changed"


class CommitFailed(RatchetkeepError):
    """A commit could not be made durable. None of it is in memory; the store takes no more."""

    default_remedy = "Close the device and open it again: opening shows what reached the disk"


class StoreInUse(RatchetkeepError):
    """Another owner has the device open.

    :ivar holder: who holds it, in words (process id, host, since), or "" if unknown.
    """

    default_remedy = "Close it there first, or open it here with read_only=True"

    def __init__(
        self, place: str, what: str, remedy: str | None = None, *, holder: str = ""
    ) -> None:
        self.holder = holder
        super().__init__(place, what, remedy)


class DeviceMoved(RatchetkeepError):
    """The device was moved to another place, where it goes on. What is here is what stayed behind:
    if both went on, each would break the other's sessions.

    :ivar to: the URL of the place, without a password.
    """

    default_remedy = (
        "Open it there. If that copy is lost, copy the device from here with from_retired=True "
        "(ratchetkeep copy --from-retired)"
    )

    def __init__(self, place: str, what: str, remedy: str | None = None, *, to: str = "") -> None:
        self.to = to
        super().__init__(place, what, remedy)


class OwnershipLost(RatchetkeepError):
    """This owner may not write any more: it was forked, or its lock, file or folder is gone."""

    default_remedy = "Open the device again in the process that is to own it"


class StoreClosed(RatchetkeepError):
    """The device or store was closed before the call."""

    default_remedy = "Open it again"


class ReadOnly(RatchetkeepError):
    """A write to something that was opened read-only."""

    default_remedy = "Open it without read_only"


class UnknownStore(RatchetkeepError):
    """A URL or path that names no kind of store we know."""


class InvalidValue(RatchetkeepError, ValueError):
    """A value is refused. ``place`` is the path of the member, never its content."""


class NameCollision(InvalidValue):
    """Two ids would share one file of a folder, so one would silently replace the other."""

    default_remedy = "Keep this device in a sqlite: store, which holds any id"


class NotHeld(RatchetkeepError):
    """The target format has no place for part of a value."""

    default_remedy = "Use a store that can hold it, such as sqlite:"


class DecodeError(RatchetkeepError):
    """Bytes are not what their format says. Stores turn it into StoreDamaged with the place."""
