"""Where the key of a sealed store comes from: a passphrase, a key file, the system's keyring, or a
command that prints it.

What any of them gives is text. ``ratchetkeep-key-1:`` and the base64 of 32 bytes is a raw key; any
other text is a passphrase, in Unicode's form NFC, since keyboards differ. One newline at the end is
dropped, as editors and programs put it there.

Errors name the source and never hold any part of a secret: neither in their words, nor in the
exceptions behind them, nor in the local variables of the frames that a traceback shows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ratchetkeep.errors import InvalidValue

from ._key_file import KeyFile, make_key_file
from ._key_text import KEY_SIZE, MAX_TEXT, Secret, checked, secret_of_bytes, secret_of_text

__all__ = [
    "KeyCommand",
    "KeyFile",
    "Keyring",
    "Passphrase",
    "RawKey",
    "SealKey",
    "Secret",
    "as_key",
    "from_environment",
    "key_variables",
    "make_key_file",
]

# What a command may take, in seconds: a person may have to touch a token meanwhile.
COMMAND_TIME = 60.0
VARIABLES = ("FILE", "PASSPHRASE", "KEYRING", "COMMAND")


@runtime_checkable
class SealKey(Protocol):
    """A source of the key of a sealed store. It is asked once for each opening."""

    @property
    def told(self) -> str:
        """What it is, in words, without any secret: "the key file PATH"."""

    def secret(self) -> Secret:
        """Get the secret.

        :raises InvalidValue: if what is there is no key, or may not be used as one.
        :raises StoreUnreadable: if the source cannot be reached or read.
        """


class Passphrase:
    """A passphrase, or a raw key written as text.

    :param text: the passphrase; not empty.
    :raises InvalidValue: if it cannot be one.
    """

    told = "the passphrase"

    def __init__(self, text: str) -> None:
        found = secret_of_text(text)
        del text  # a traceback shows the variables of this frame
        self._secret = checked(found, self.told)

    def __repr__(self) -> str:
        return "<Passphrase>"

    def secret(self) -> Secret:
        """The secret."""
        return self._secret


class RawKey:
    """A raw key that the caller holds.

    :param data: its 32 bytes.
    :raises InvalidValue: for another length.
    """

    told = "the key"

    def __init__(self, data: bytes) -> None:
        size, self._secret = len(data), Secret(bytes(data), is_passphrase=False)
        del data
        if size != KEY_SIZE:
            remedy = f"A raw key is {KEY_SIZE} random bytes; give a passphrase as text"
            raise InvalidValue("key", f"has {size} bytes", remedy)

    def __repr__(self) -> str:
        return "<RawKey>"

    def secret(self) -> Secret:
        """The secret."""
        return self._secret


class Keyring:
    """An entry of the system's keyring; needs ``pip install 'ratchetkeep[keyring]'``.

    :param service: the entry's service.
    :param user: the entry's user name.
    """

    def __init__(self, service: str, user: str) -> None:
        self._service, self._user = service, user
        if not service or not user:
            raise InvalidValue("keyring", "an entry has a service and a user, both not empty")

    def __repr__(self) -> str:
        return f"Keyring({self._service!r}, {self._user!r})"

    @property
    def told(self) -> str:
        """What it is, in words."""
        return f"the entry {self._service}/{self._user} of the keyring"

    def secret(self) -> Secret:
        """Ask the keyring; it may ask its user to unlock it.

        :raises InvalidValue: if the package is missing, there is no such entry, or it is no key.
        :raises StoreUnreadable: if there is no keyring, or it failed.
        """
        from ._keyring import ask

        return checked(secret_of_text(ask(self._service, self._user)), self.told)


class KeyCommand:
    """A command that prints the key: one that asks a KMS or a vault, say.

    No shell runs it. It reads nothing from us. What it writes to its standard error goes to ours,
    unread: it is how it says why it failed, or what its user must do.

    :param argv: the program and its arguments. Errors name the program only.
    :param timeout: what it may take, in seconds.
    """

    def __init__(self, argv: Sequence[str], *, timeout: float = COMMAND_TIME) -> None:
        self._argv = () if isinstance(argv, str) else tuple(argv)
        self._timeout = timeout
        del argv  # a traceback shows the variables of this frame
        if not self._argv or not self._argv[0] or "\0" in "".join(self._argv):
            raise InvalidValue("key command", "must be a program and its arguments, as a list")

    def __repr__(self) -> str:
        return f"<KeyCommand: {self._argv[0] if self._argv else None}>"

    @property
    def told(self) -> str:
        """What it is, in words."""
        return f"the key command {self._argv[0]}"

    def secret(self) -> Secret:
        """Run it.

        :raises InvalidValue: if what it printed is no key.
        :raises StoreUnreadable: if it cannot be run, fails, prints too much or takes too long.
        """
        from ._key_command import run

        return checked(secret_of_bytes(run(self._argv, MAX_TEXT, self._timeout)), self.told)


def as_key(value: str | bytes | SealKey | None) -> SealKey | None:
    """The source that a caller means.

    :param value: a passphrase, the 32 bytes of a raw key, a source, or None for none.
    :raises InvalidValue: if it is none of these.
    """
    if value is None:
        return None
    if isinstance(value, str):
        text, value = value, None
        try:
            return Passphrase(text)
        finally:
            del text  # a traceback shows the variables of this frame
    if isinstance(value, bytes | bytearray):
        data, value = bytes(value), None
        try:
            return RawKey(data)
        finally:
            del data
    if isinstance(value, type) or not isinstance(value, SealKey):
        kind = type(value).__name__
        del value
        remedy = "Give a passphrase, 32 bytes, or a KeyFile, Keyring or KeyCommand"
        raise InvalidValue("key", f"is of type {kind}", remedy)
    return value


def key_variables(prefix: str = "RATCHETKEEP_KEY") -> list[str]:
    """The names of the variables of the environment that name a key."""
    return [f"{prefix}_{each}" for each in VARIABLES]


def from_environment(prefix: str = "RATCHETKEEP_KEY") -> SealKey | None:
    """The source that the environment names; None if it names none.

    ``{prefix}_FILE`` is the path of a key file, ``{prefix}_PASSPHRASE`` a passphrase or a key as
    text, ``{prefix}_KEYRING`` is ``service/user``, and ``{prefix}_COMMAND`` is a command, split
    into words as a shell does it; no shell runs it.

    :raises InvalidValue: if more than one is set, or one cannot be what it says.
    """
    names = [name for name in key_variables(prefix) if name in os.environ]
    if not names:
        return None
    if len(names) > 1:
        what = "are set together, and only one can be meant"
        raise InvalidValue(" and ".join(names), what, "Unset all but one")
    name = names[0]
    if not os.environ[name]:
        raise InvalidValue(name, "is set, but empty", "Unset it, or name a key")
    if name.endswith("_FILE"):
        return KeyFile(os.environ[name])
    if name.endswith("_PASSPHRASE"):
        return Passphrase(os.environ[name])
    if name.endswith("_KEYRING"):
        service, _, user = os.environ[name].rpartition("/")
        if service and user:
            return Keyring(service, user)
        del service, user  # if it is a secret in the wrong variable, a traceback would show it
        raise InvalidValue(name, "must be SERVICE/USER of an entry of the keyring")
    return KeyCommand(_words(name))


def _words(name: str) -> list[str]:
    """The words of a variable that holds a command."""
    import shlex

    try:
        words = shlex.split(os.environ[name])
    except ValueError as error:
        what = f"cannot be split into words: {str(error).lower()}"
    else:
        if words:
            return words
        what = "holds no command"
    raise InvalidValue(name, what)
