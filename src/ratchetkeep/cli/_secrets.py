"""How a command gets a key: from the environment, else by a hidden prompt on a terminal. Never from
its arguments, which every user of the machine can read, and which a shell remembers."""

from __future__ import annotations

import sys

from ratchetkeep.cli import _output as out
from ratchetkeep.errors import InvalidValue, RatchetkeepError, WrongKey
from ratchetkeep.sealing.keys import (
    Passphrase,
    SealKey,
    Secret,
    from_environment,
    key_variables,
)
from ratchetkeep.sealing.opening import IfSealed
from ratchetkeep.stores import urls

KEY, NEW_KEY = "RATCHETKEEP_KEY", "RATCHETKEEP_NEW_KEY"


def key_of(place: str) -> SealKey:
    """The key that a sealed store has: what ``RATCHETKEEP_KEY_*`` names, else what is typed.

    :param place: the store, for the prompt and in errors.
    :raises WrongKey: if there is none and nobody can be asked.
    :raises InvalidValue: if what is there cannot be a key.
    """
    none = WrongKey(place, "is sealed, and no key was given", _remedy(KEY))
    return from_environment(KEY) or Passphrase(typed(f"Passphrase of {place}: ", none))


class _Asked:
    """A key that is asked for once, and only if it is needed."""

    def __init__(self, place: str, prefix: str) -> None:
        self._place, self._prefix = place, prefix
        self._secret: Secret | None = None

    @property
    def told(self) -> str:
        """What it is, in words."""
        return "the key from the environment or the terminal"

    def secret(self) -> Secret:
        """The secret."""
        if self._secret is None:
            found = from_environment(self._prefix) if self._prefix != KEY else None
            self._secret = (found or key_of(self._place)).secret()
        return self._secret


def when_sealed(url: str, prefix: str = KEY) -> IfSealed | None:
    """What opens the store of a URL, asked for if it turns out to be sealed.

    :param prefix: of the variables that are looked at before ``RATCHETKEEP_KEY_*``.
    """
    try:
        target = urls.parse(url)
    except RatchetkeepError:
        return None  # told by whoever opens it
    return IfSealed(_Asked(urls.shown(target), prefix)) if target.kind in urls.SEALABLE else None


def new_key_for(place: str, prefix: str = KEY) -> SealKey:
    """The key that a store is to get: what the environment names, else what is typed twice.

    :param place: the store, for the prompt and in errors.
    :param prefix: of the variables: ``NEW_KEY`` where the store has another key until now.
    :raises InvalidValue: if there is none and nobody can be asked, if it cannot be a key, or if the
        second passphrase is not the first.
    """
    none = InvalidValue(place, "is to be sealed, and no key was given", _remedy(prefix))
    found = from_environment(prefix)
    if found is not None:
        return found
    key = Passphrase(typed(f"New passphrase of {place}: ", none))
    if Passphrase(typed("The same again: ", none)).secret() != key.secret():
        what = "the two passphrases are not the same"
        raise InvalidValue(place, what, "Nothing was changed. Try again")
    return key


def _remedy(prefix: str) -> str:
    names = key_variables(prefix)
    return f"Set {', '.join(names[:-1])} or {names[-1]}, or run it on a terminal"


def typed(prompt: str, none: RatchetkeepError) -> str:
    """What is typed on the terminal, unseen; raises ``none`` without one."""
    import getpass
    import warnings

    # Both must be one: with input from a pipe nobody sits there, and a prompt that goes into a log
    # is not seen.
    if not (_is_terminal(sys.stdin) and _is_terminal(sys.stderr)):
        raise none
    try:
        with warnings.catch_warnings():
            # It would go on and show what is typed.
            warnings.simplefilter("error", getpass.GetPassWarning)
            return getpass.getpass(out.clean(prompt), sys.stderr)
    except (EOFError, getpass.GetPassWarning, UnicodeDecodeError):
        pass
    raise none


def _is_terminal(stream: object) -> bool:
    return bool(stream and stream.isatty())  # type: ignore[attr-defined]
