"""The system's keyring, by the package of that name."""

from __future__ import annotations

from ratchetkeep.errors import InvalidValue, StoreUnreadable


def ask(service: str, user: str) -> str:
    """The password of an entry.

    :raises InvalidValue: if the package is missing, or there is no such entry.
    :raises StoreUnreadable: if there is no keyring, or it failed.
    """
    place = f"keyring entry {service}/{user}"
    try:
        import keyring
    except ImportError:
        remedy = "Install it: pip install 'ratchetkeep[keyring]'"
        raise InvalidValue(place, "needs the package keyring", remedy) from None
    import shlex

    setting = f"`{shlex.join(['keyring', 'set', service, user])}`"
    try:
        found = keyring.get_password(service, user)
    except keyring.errors.NoKeyringError:
        problem = "cannot be read: this system has no keyring"
    except Exception as error:  # noqa: BLE001 - backends raise what the system's libraries raise
        problem = f"cannot be read: the keyring failed ({type(error).__name__})"
    else:
        if found is not None:
            return found
        raise InvalidValue(place, "is not there", f"Set it with {setting}")
    # Out of the block above, so that what the backend raised, and what it knew, is not held on to.
    remedy = f"Nothing was changed. Unlock or set up a keyring, then set the entry with {setting}"
    raise StoreUnreadable(place, problem, remedy)
