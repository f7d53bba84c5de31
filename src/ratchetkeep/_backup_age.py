"""Encryption of backups in the age format, by ``pyrage`` (the extra ``backup``).

age is described at https://c2sp.org/age. What is encrypted to recipients passes through in
portions; what is encrypted with a passphrase is held in memory: pyrage takes it as a whole.
"""

from __future__ import annotations

import importlib
import io
import os
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import IO, Any, Protocol

from ratchetkeep._backup_format import Read, damaged
from ratchetkeep.errors import InvalidValue, NotHeld, RatchetkeepError, WrongKey

__all__ = [
    "MAX_HELD",
    "Decryption",
    "Identities",
    "as_identities",
    "as_recipients",
    "encrypt",
    "encrypt_held",
    "identity_of_one_file",
    "is_encrypted",
    "is_with_passphrase",
    "pyrage",
]

INSTALL = "Install it: pip install 'ratchetkeep[backup]'"
BINARY = b"age-encryption.org/v1\n"
IDENTITY = "age-secret-key-"
ARMOR = b"-----BEGIN AGE ENCRYPTED FILE-----"
MAX_HELD = 256 * 1024 * 1024
"""Bytes of a backup that is encrypted with a passphrase, at most."""

_PART = 1024 * 1024
_MAX_KEYS = 1024 * 1024


def pyrage() -> ModuleType:
    """The package.

    :raises InvalidValue: if it is not installed.
    """
    try:
        return importlib.import_module("pyrage")
    except ImportError:
        what = "the package that encrypts backups (pyrage) is not installed"
        raise InvalidValue("backup", what, INSTALL) from None


class Writable(Protocol):
    """Where encrypted bytes go."""

    def write(self, data: bytes, /) -> Any: ...


# -- who may read


def as_recipients(given: Iterable[str | os.PathLike[str]]) -> list[Any]:
    """Recipients as pyrage takes them: of texts (``age1...``, ``ssh-ed25519 ...``, ``ssh-rsa ...``)
    and of files with one a line.

    :raises InvalidValue: for one that is none, naming the file and line.
    """
    found: list[Any] = []
    for each in given:
        if isinstance(each, str) and _is_text_of_key(each, ("age1", "ssh-", IDENTITY)):
            found.append(_recipient(each.strip(), "recipients"))
            continue
        path = os.fsdecode(each)
        lines = [
            (number, line)
            for number, line in _lines(path, "recipients")
            if line and not line.startswith("#")
        ]
        if not lines:
            raise InvalidValue(path, "names no recipient", "Write one a line: age1... or ssh-...")
        found += [_recipient(line, f"{path}, line {number}") for number, line in lines]
    return found


def _is_text_of_key(given: str, starts: tuple[str, ...]) -> bool:
    """Whether it is a key and no path; in any case, since no secret may be shown as a path."""
    return given.strip().lower().startswith(starts)


def _recipient(text: str, place: str) -> Any:
    age = pyrage()
    if _is_text_of_key(text, (IDENTITY,)):
        what = "is a secret key, and a recipient is a public one (age1...)"
        raise InvalidValue(place, what, "Keep it secret; `age-keygen -y` shows its public key")
    kind = age.ssh if text.startswith("ssh-") else age.x25519
    try:
        return kind.Recipient.from_str(text)
    except age.RecipientError:
        what = "holds a recipient that is not well-formed"
        remedy = "A recipient is age1..., ssh-ed25519 ... or ssh-rsa ..., or a file of them"
        raise InvalidValue(place, what, remedy) from None


def _lines(path: str, what: str) -> list[tuple[int, str]]:
    data = _small(path, what)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise InvalidValue(path, f"is no text, so it holds no {what}") from None
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]


def _small(path: str, what: str) -> bytes:
    remedy = f"Name a file that holds {what}, one a line"
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_KEYS + 1)
    except OSError as error:
        raise InvalidValue(path, f"cannot be read: {error.strerror}", remedy) from None
    except ValueError:
        raise InvalidValue("recipients", "is no path", remedy) from None
    if len(data) > _MAX_KEYS:
        raise InvalidValue(path, f"is too large to hold {what}", remedy)
    return data


class Identities:
    """Secret keys that may open a backup; shown, they tell nothing."""

    def __init__(self, found: Sequence[Any]) -> None:
        self.found = found

    def __bool__(self) -> bool:
        return bool(self.found)

    def __repr__(self) -> str:
        return f"Identities(<{len(self.found)}>)"


def as_identities(given: Iterable[str | os.PathLike[str]]) -> Identities:
    """Identities as pyrage takes them: of texts (``AGE-SECRET-KEY-1...``), and of files as ``age
    -i`` takes them: such texts one a line, or an SSH private key without a passphrase.

    :raises InvalidValue: for one that is none; the text is not shown.
    """
    found: list[Any] = []
    for each in given:
        if isinstance(each, str) and _is_text_of_key(each, (IDENTITY,)):
            found.append(_identity(each.strip(), "identities"))
        else:
            found += _identities_of(os.fsdecode(each))
    return Identities(found)


def _identities_of(path: str) -> list[Any]:
    age, data = pyrage(), _small(path, "identities")
    if data.lstrip().startswith(b"-----BEGIN") and b"PRIVATE KEY" in data[:100]:
        try:
            return [age.ssh.Identity.from_buffer(data)]
        except age.IdentityError:
            what = "is no SSH key that opens backups (ed25519 or rsa, without a passphrase)"
            raise InvalidValue(path, what) from None
    lines = [pair for pair in _lines(path, "identities") if pair[1] and pair[1][0] != "#"]
    if not lines:
        raise InvalidValue(path, "holds no identity", "It is a file as age-keygen writes it")
    return [_identity(line, f"{path}, line {number}") for number, line in lines]


def _identity(text: str, place: str) -> Any:
    age = pyrage()
    try:
        return age.x25519.Identity.from_str(text)
    except age.IdentityError:
        what = "holds an identity that is not well-formed"
        raise InvalidValue(place, what, "An identity is AGE-SECRET-KEY-1..., or a file") from None


def identity_of_one_file() -> tuple[Any, Any]:
    """An identity and its recipient, made in memory: to read back one file, then to be dropped."""
    identity = pyrage().x25519.Identity.generate()
    return identity, identity.to_public()


# -- encrypting


class _Source:
    """Parts as a file that pyrage reads; keeps the error that reading them raised, since pyrage
    makes a text of it."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts, self._left = parts, memoryview(b"")
        self.error: BaseException | None = None

    def read(self, size: int = -1) -> bytes:
        try:
            while not self._left:
                part = next(self._parts, None)
                if part is None:
                    return b""
                self._left = memoryview(part)
        except BaseException as error:
            self.error = error
            raise
        size = len(self._left) if size < 0 else size
        data, self._left = self._left[:size], self._left[size:]
        return bytes(data)


class _Sink:
    """A file that pyrage writes, which keeps the error that writing raised."""

    def __init__(self, file: Writable) -> None:
        self._file = file
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        try:
            self._file.write(data)
        except BaseException as error:
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        """Nothing is held back here."""


def encrypt(parts: Iterator[bytes], file: Writable, recipients: Sequence[Any]) -> None:
    """Encrypt ``parts`` to ``recipients``, in portions. Raises what reading or writing raises."""
    age = pyrage()
    source, sink = _Source(parts), _Sink(file)
    try:
        age.encrypt_io(source, sink, list(recipients))
    except (age.EncryptError, OSError):
        error = source.error or sink.error
        if error is None:
            raise InvalidValue("recipients", "nothing can be encrypted to them") from None
        raise error from None


def encrypt_held(parts: Iterator[bytes], file: Writable, passphrase: str) -> None:
    """Encrypt ``parts`` with a passphrase (scrypt), all of them held in memory.

    :raises NotHeld: beyond :data:`MAX_HELD`.
    """
    held = bytearray()
    for part in parts:
        held += part
        if len(held) > MAX_HELD:
            what = f"is larger than {MAX_HELD // 2**20} MiB, which a passphrase cannot encrypt"
            raise NotHeld("backup", what, "Nothing was changed. Encrypt it to a recipient")
    sealed = pyrage().passphrase.encrypt(bytes(held), passphrase)
    file.write(sealed)


# -- decrypting


def is_encrypted(start: bytes) -> bool:
    """Whether a file that starts so is one of age."""
    return start.startswith((BINARY, ARMOR))


def is_with_passphrase(start: bytes) -> bool:
    """Whether an age file that starts so, which is not armoured, is for a passphrase."""
    return start.startswith(BINARY + b"-> scrypt ")


class Decryption:
    """What an age file holds, to be read in portions as often as asked.

    :param file: the file, which stays open.
    :raises WrongKey: if nothing was given that can open it.
    """

    def __init__(
        self, file: IO[bytes], place: str, identities: Identities, passphrase: str | None
    ) -> None:
        self._file, self._place, self._identities = file, place, identities
        file.seek(0)
        start = file.read(4096)
        is_passphrase = is_with_passphrase(start)
        if start.startswith(ARMOR):
            is_passphrase = not identities
        self._held: bytes | None = None
        if is_passphrase:
            if passphrase is None:
                raise _locked(place, "is encrypted with a passphrase, and none was given")
            self._held = self._unlocked(passphrase)
        elif not identities:
            raise _locked(place, "is encrypted to recipients, and no identity was given")

    def _unlocked(self, passphrase: str) -> bytes:
        age = pyrage()
        size = self._file.seek(0, os.SEEK_END)
        if size > 2 * MAX_HELD:
            raise damaged(self._place, "is larger than a passphrase can encrypt")
        self._file.seek(0)
        try:
            held: bytes = age.passphrase.decrypt(self._file.read(), passphrase)
        except (age.DecryptError, OSError) as error:
            raise self._failed(error, "the passphrase does not open it") from None
        return held

    def _failed(self, error: Exception, wrong: str) -> RatchetkeepError:
        # age's header says only that a key does not fit, whether the key or the header is wrong.
        if str(error) in ("No matching keys found", "Decryption failed"):
            return WrongKey(self._place, f"{wrong}, or its beginning is damaged", OTHER_KEY)
        return damaged(self._place, "is damaged or cut short: it cannot be decrypted")

    @property
    def is_held(self) -> bool:
        """Whether it was encrypted with a passphrase: all of it is in memory then."""
        return self._held is not None

    @contextmanager
    def opened(self) -> Iterator[Read]:
        """What is inside, from its beginning."""
        if self._held is not None:
            yield io.BytesIO(self._held).read
            return
        self._file.seek(0)
        pipe = _Pipe(self._decrypt)
        try:
            yield pipe.read
        finally:
            pipe.close()

    def _decrypt(self, sink: _Sink) -> None:
        age = pyrage()
        try:
            age.decrypt_io(self._file, sink, self._identities.found)
        except (age.DecryptError, OSError) as error:
            if sink.error is None:
                wrong = "none of the identities opens it"
                raise self._failed(error, wrong) from None


OTHER_KEY = "Give the identity or the passphrase that it was made for"


def _locked(place: str, what: str) -> WrongKey:
    return WrongKey(place, what, OTHER_KEY)


class _Stopped(Exception):
    """Nobody reads on."""


class _Pipe:
    """Turns what a function writes into something to read: the function runs in a thread, which is
    never more than a few parts ahead."""

    def __init__(self, produce: Any) -> None:
        self._queue: queue.Queue[bytes | BaseException | None] = queue.Queue(4)
        self._left = bytearray()
        self._is_ended = self._is_closed = False
        self._produce = produce
        self._thread = threading.Thread(
            target=self._run, name="ratchetkeep-backup-reader", daemon=True
        )
        self._thread.start()

    def _run(self) -> None:
        end: BaseException | None = None
        try:
            self._produce(_Sink(self))
        except BaseException as error:  # noqa: BLE001 - raised by whoever reads
            end = error
        with suppress(_Stopped):
            self._put(end)

    def write(self, data: bytes) -> None:
        """A part comes; waits until there is room for it."""
        self._put(data)

    def _put(self, item: bytes | BaseException | None) -> None:
        while not self._is_closed:
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return
        raise _Stopped

    def read(self, size: int) -> bytes:
        """So many bytes, or fewer at the end."""
        while len(self._left) < size and not self._is_ended:
            item = self._queue.get()
            if isinstance(item, bytes):
                self._left += item
                continue
            self._is_ended = True
            if item is not None:
                raise item
        data = bytes(self._left[:size])
        del self._left[:size]
        return data

    def close(self) -> None:
        """End the thread."""
        self._is_closed = True
        self._thread.join()
