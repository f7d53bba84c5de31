"""From what a store keeps, and the key that somebody gives, to its data keys."""

from __future__ import annotations

from ratchetkeep.errors import InvalidValue, WrongKey

from .keys import SealKey, Secret, as_key, from_environment
from .ring import PLAIN_VAULT, Vault, make, unlock

__all__ = ["GIVE_A_KEY", "IfSealed", "new_ring", "open_ring"]

GIVE_A_KEY = (
    "Give it with key=, or set one of RATCHETKEEP_KEY_FILE, RATCHETKEEP_KEY_PASSPHRASE, "
    "RATCHETKEEP_KEY_KEYRING and RATCHETKEEP_KEY_COMMAND"
)


class IfSealed:
    """A key for a store that may be plain, and then needs none."""

    def __init__(self, source: SealKey) -> None:
        self._source = source

    @property
    def told(self) -> str:
        """What it is, in words."""
        return self._source.told

    def secret(self) -> Secret:
        """The secret."""
        return self._source.secret()


def open_ring(ring: bytes | None, key: str | bytes | SealKey | None, place: str) -> Vault:
    """The vault of a store.

    :param ring: what it keeps; None if it is plain.
    :param key: what opens it; the environment is asked if that is None.
    :raises WrongKey: if it does not, or there is none. It is tried once.
    :raises InvalidValue: for a key where nothing is sealed.
    """
    if ring is None:
        if key is not None and not isinstance(key, IfSealed):
            what = "a key was given, and the store is not sealed"
            raise InvalidValue(place, what, "Seal it with `ratchetkeep seal`, or give no key")
        return PLAIN_VAULT
    source = as_key(key) or from_environment()
    if source is None:
        raise WrongKey(place, "is sealed, and no key was given", GIVE_A_KEY)
    return unlock(ring, source.secret(), place)


def new_ring(key: str | bytes | SealKey | None, place: str) -> bytes | None:
    """What a new store is to keep; None for a plain one, without a key."""
    source = as_key(key)
    if source is None or isinstance(source, IfSealed):
        return None
    return make(place).wrapped(source.secret())
