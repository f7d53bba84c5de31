"""Keys in files: reading one, and making one."""

from __future__ import annotations

import os
import stat

from ratchetkeep.errors import CommitFailed, DeviceExists, InvalidValue, StoreUnreadable

from ._key_text import MAX_TEXT, Secret, checked, new_key_text, secret_of_bytes


class KeyFile:
    """A file that holds a key (:func:`make_key_file`) or a passphrase.

    A link is followed, as it is how secrets are mounted into containers; what counts is the file
    that it leads to, which is checked as it was opened.

    :param path: the file, for its owner alone: mode 0600 or less, owned by this user or root.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        if not self._path or "\0" in self._path:
            raise InvalidValue("key file", "is no path of a file")

    def __repr__(self) -> str:
        return f"KeyFile({self._path!r})"

    @property
    def told(self) -> str:
        """What it is, in words."""
        return f"the key file {self._path}"

    def secret(self) -> Secret:
        """Read and check it.

        :raises InvalidValue: if it is not a plain file, others may read or write it, another user
            owns it, or its content is no key.
        :raises StoreUnreadable: if it is missing or cannot be read.
        """
        try:
            # A named pipe without a writer would hold us up for ever.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            what = f"cannot be read: {error.strerror}"
        else:
            what = ""
        if what:
            raise StoreUnreadable(self._path, what, "Nothing was changed. Mend the cause")
        try:
            self._check(os.fstat(descriptor))
            found = _read(descriptor)
        finally:
            os.close(descriptor)
        return checked(found, self._path)

    def _check(self, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise InvalidValue(self._path, "is not a plain file, so it is no key file")
        if found.st_uid not in (os.geteuid(), 0):
            what = f"is a key file of another user (uid {found.st_uid}), who can change it"
            remedy = "Let the user that runs this own it: `sudo chown $USER` on it"
            raise InvalidValue(self._path, what, remedy)
        if found.st_mode & 0o077:
            import shlex

            what = f"is a key file with mode {found.st_mode & 0o777:04o}: others can use it"
            remedy = f"If nobody did, run `chmod 600 {shlex.quote(self._path)}`; else rekey"
            raise InvalidValue(self._path, what, remedy)


def make_key_file(path: str | os.PathLike[str]) -> None:
    """Write a new random key to a new file, for its owner alone (0600), durable on return.

    Keep a copy of it elsewhere: without it, what it seals is lost.

    :raises InvalidValue: if that is no path.
    :raises DeviceExists: if something is there.
    :raises CommitFailed: if it could not be written; nothing is left of it then.
    """
    name = os.fspath(path)
    if not name or "\0" in name:
        raise InvalidValue("key file", "is no path of a file")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, 0o600)
    except FileExistsError:
        what, remedy = "is there already", "Nothing was changed: it may be the key of a store"
        raise DeviceExists(name, what, f"{remedy}. Choose another place") from None
    except OSError as error:
        what = f"cannot be made: {error.strerror}"
        raise CommitFailed(name, what, "Choose another place") from None
    try:
        try:
            _write_key(descriptor)
        finally:
            os.close(descriptor)
        _sync_folder(os.path.dirname(name) or ".")
    except BaseException as error:
        os.unlink(name)
        if not isinstance(error, OSError):
            raise
        what = f"cannot be written: {error.strerror}"
        raise CommitFailed(name, what, "Nothing of it is left. Mend the cause") from None


def _read(descriptor: int) -> Secret | str:
    """The secret in an open file, or what is wrong with it."""
    raw = b""
    while len(raw) <= MAX_TEXT:
        part = os.read(descriptor, MAX_TEXT + 1 - len(raw))
        if not part:
            break
        raw += part
    return secret_of_bytes(raw)


def _write_key(descriptor: int) -> None:
    os.fchmod(descriptor, 0o600)  # a umask may have taken away what its owner needs
    view = memoryview(new_key_text())
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
