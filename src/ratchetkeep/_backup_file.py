"""Opening the file of a backup: it is read and checked as a whole before anything is given out."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import IO, Protocol, Self

from ratchetkeep._backup_age import Decryption, as_identities, is_encrypted
from ratchetkeep._backup_format import Event, Manifest, Read, Record, SavedDevice, Unpacker, damaged
from ratchetkeep.errors import InvalidValue, NoDevice, StoreUnreadable
from ratchetkeep.model import Key
from ratchetkeep.stores.base import History

__all__ = [
    "Backup",
    "Content",
    "Entry",
    "Manifest",
    "Plain",
    "SavedDevice",
    "manifest_of",
    "open_backup",
]

NONE, RECIPIENTS, PASSPHRASE = "none", "recipients", "passphrase"


class Content(Protocol):
    """What a file holds, readable from its beginning as often as asked."""

    def opened(self) -> AbstractContextManager[Read]: ...


class Plain:
    """A file that is not encrypted."""

    def __init__(self, file: IO[bytes], place: str) -> None:
        self._file, self._place = file, place

    @contextmanager
    def opened(self) -> Iterator[Read]:
        """What is inside, from its beginning."""
        self._file.seek(0)
        yield self._read

    def _read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except OSError as error:
            raise unreadable(self._place, error) from None


class Entry:
    """A device of a backup that is being read.

    :ivar saved: what the manifest says of it.
    """

    def __init__(self, saved: SavedDevice, portions: Iterator[list[Record]], place: str) -> None:
        self.saved = saved
        self._portions, self._place = portions, place
        self._is_given = self._is_passed = False

    @property
    def name(self) -> str:
        """How the device was called in its store."""
        return self.saved.name

    @property
    def history(self) -> History | None:
        """Which life of the device it was, and after how many commits; None if not known."""
        return self.saved.history

    def records(self) -> Iterator[tuple[Key, bytes]]:
        """Its records, each with its bytes in :mod:`ratchetkeep.formats.native`: the credentials
        first, without holding all of them. The file is read in one go: they are given out once, and
        before the next device is asked for.

        The file was checked as a whole when it was opened, and each portion is checked again before
        its records are given out. Should another program write into the file meanwhile, an error
        ends the iterator: put in place what it gave only after it has ended without one.

        :raises StoreDamaged: if the file was changed since it was opened.
        :raises InvalidValue: if they were asked for before, or the next device was.
        """
        if self._is_given:
            raise self._once("were asked for before")
        self._refuse_passed()
        self._is_given = True
        return self._each()

    def _each(self) -> Iterator[Record]:
        for portion in self._portions:
            for record in portion:
                self._refuse_passed()
                yield record
        # Not by a pause before the end: what came after it was passed over then.
        self._refuse_passed()

    def pass_over(self) -> None:
        """Read on to the next device: nothing more of this one is given out."""
        self._is_passed = True
        for _ in self._portions:
            pass

    def _refuse_passed(self) -> None:
        if self._is_passed:
            raise self._once("were asked for after the next device was")

    def _once(self, what: str) -> InvalidValue:
        place = f"{self._place}, device {self.name!r}"
        return InvalidValue(place, f"its records {what}", "Read them first, or open it again")


class Backup:
    """An open backup, which is known to be whole; see :func:`open_backup`.

    :ivar place: how the file is called in errors.
    :ivar manifest: what it holds.
    :ivar encryption: ``none``, ``recipients`` or ``passphrase``.
    """

    def __init__(self, file: IO[bytes], place: str, content: Content, encryption: str) -> None:
        self._file, self._content = file, content
        self.place, self.encryption = place, encryption
        self.manifest = manifest_of(content, place)

    def devices(self) -> Iterator[Entry]:
        """The devices, one after the other, in the order of the manifest. One iteration at a time.

        :raises StoreDamaged: if the file was changed since it was opened.
        """
        with self._content.opened() as read:
            unpacker = Unpacker(read, self.place)
            events = unpacker.events()
            for saved in self.manifest.devices:
                entry = Entry(saved, self._portions(events, saved), self.place)
                yield entry
                entry.pass_over()
            if next(events, None) is not None or unpacker.manifest != self.manifest:
                raise self._changed()

    def _portions(self, events: Iterator[Event], saved: SavedDevice) -> Iterator[list[Record]]:
        begun = next(events, None)
        if begun is None or begun.begun != saved.name:
            raise self._changed()
        for event in events:
            if event.records is None:
                if event.ended != saved:
                    raise self._changed()
                return
            yield event.records

    def _changed(self) -> Exception:
        return damaged(self.place, "was changed by another program while it was read")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_backup(
    file: str | os.PathLike[str],
    *,
    identities: Iterable[str | os.PathLike[str]] = (),
    passphrase: str | None = None,
) -> Backup:
    """Open a backup, and read all of it: every checksum is right when this returns.

    Use it in a ``with`` statement::

        with open_backup(file, identities=["key.txt"]) as backup:
            for entry in backup.devices():
                for key, data in entry.records(): ...

    The checksums find damage. Only encryption keeps anybody from writing a backup that is whole and
    false.

    :param identities: for a backup that is encrypted to recipients: ``AGE-SECRET-KEY-1...`` texts,
        and paths of files that ``age -i`` takes: such texts one a line, or an SSH private key
        without a passphrase. Not needed for others.
    :param passphrase: for a backup that is encrypted with one.
    :raises NoDevice: if there is no such file.
    :raises StoreUnreadable: if the operating system does not let us read it.
    :raises StoreDamaged: if it is no backup, is cut short, or anything in it is damaged.
    :raises WrongKey: if it is encrypted, and nothing was given that opens it.
    :raises UnsupportedVersion: if a newer version wrote it.
    :raises InvalidValue: for an identity that is none; or if it is encrypted and ``pyrage`` is not
        installed.
    """
    place = os.fsdecode(file)
    stream = _opened(place)
    try:
        start = stream.read(64)
        if not is_encrypted(start):
            return Backup(stream, place, Plain(stream, place), NONE)
        content = Decryption(stream, place, as_identities(identities), passphrase)
        encryption = PASSPHRASE if content.is_held else RECIPIENTS
        return Backup(stream, place, content, encryption)
    except OSError as error:
        stream.close()
        raise unreadable(place, error) from None
    except BaseException:
        stream.close()
        raise


def _opened(place: str) -> IO[bytes]:
    """The file, open for reading: a plain one, since it is read more than once."""
    try:
        # Not blocking: a pipe would wait for its other end.
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NoDevice(place, "no backup is there", "Check the path") from None
    except OSError as error:
        raise unreadable(place, error) from None
    except ValueError:
        raise InvalidValue("file", "is no path") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StoreUnreadable(place, "is no file", "Name the file of a backup")
    return open(descriptor, "rb")


def unreadable(place: str, error: OSError) -> StoreUnreadable:
    return StoreUnreadable(place, f"cannot be read: {error.strerror or 'input failed'}")


def manifest_of(content: Content, place: str) -> Manifest:
    """Read all of a backup; what it holds, once every checksum is known to be right.

    :raises StoreDamaged: if anything is damaged or missing.
    """
    with content.opened() as read:
        unpacker = Unpacker(read, place)
        for _ in unpacker.events():
            pass
    manifest = unpacker.manifest
    if manifest is None:
        raise damaged(place, "is cut short")
    return manifest
