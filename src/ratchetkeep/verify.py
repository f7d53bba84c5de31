"""Check a whole device: is everything readable, and does it fit together?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ratchetkeep._checker import NEW_SESSION, Checker
from ratchetkeep.errors import (
    DecodeError,
    DeviceMoved,
    RatchetkeepError,
    StoreDamaged,
    UnsupportedVersion,
)
from ratchetkeep.model import CREDENTIALS, Credentials, EncodedRecord, Key
from ratchetkeep.stores import urls
from ratchetkeep.stores.base import Finding, Store

if TYPE_CHECKING:
    from ratchetkeep.sealing.keys import SealKey

__all__ = ["Finding", "verify_device"]


def verify_device(
    url: str | os.PathLike[str], *, key: str | bytes | SealKey | None = None
) -> list[Finding]:
    """Check the device that ``url`` names, read-only; it may be in use.

    Structure (every file or row readable, names match ids, leftovers, modes; of a sealed device
    that its rows are those of its last commit) and cryptography (public keys belong to private
    keys, the signed pre-key's signature verifies, ids are below their counters, sessions hold
    together). Damage is reported, not raised.

    :param key: what opens a sealed store; see :func:`open_device`.
    :raises NoDevice: if nothing is there.
    :raises WrongKey: if it is sealed, and the key does not open it.
    :raises UnknownStore: if ``url`` names no store.
    """
    target = urls.parse(url)
    store = urls.open_target(target, key)
    try:
        store.acquire(target.device, read_only=True, create=False)
        return check_store(store, target.device)
    except (StoreDamaged, UnsupportedVersion) as error:
        return [finding_of(error)]
    finally:
        store.close()


def check_store(store: Store, device: str) -> list[Finding]:
    """The findings of a device that is acquired."""
    return [*store.findings(device), *_mark(store, device), *_check(store, device)]


def finding_of(error: RatchetkeepError) -> Finding:
    """An error as a finding."""
    remedy = error.remedy
    if remedy == StoreDamaged.default_remedy:  # it says to verify
        remedy = "Restore it from a backup, or see what `ratchetkeep repair` can mend"
    return Finding("error", error.place, error.what, remedy)


def _mark(store: Store, device: str) -> Iterator[Finding]:
    """That the device was moved to another place, if it was."""
    try:
        store.refuse_moved(device)
    except DeviceMoved as moved:
        remedy = "Use it there; what is here is older. See `ratchetkeep copy --from-retired`"
        yield Finding("warning", moved.place, moved.what, remedy)
    except (StoreDamaged, UnsupportedVersion) as error:
        yield finding_of(error)


def _check(store: Store, device: str) -> Iterator[Finding]:
    keys = sorted(store.scan(device))
    credentials: Credentials | None = None
    if CREDENTIALS not in keys:
        what = f"holds no credentials, but something of a device: {store.trace(device)}"
        yield finding_of(StoreDamaged(store.url, what))
    else:
        try:
            raw = store.read(device, [CREDENTIALS])[CREDENTIALS]
            credentials = store.decode(device, CREDENTIALS, raw)
        except (StoreDamaged, UnsupportedVersion):
            pass  # reported below, with the other records
    checker = Checker(credentials, lambda key: store.where(device, key))
    for key in keys:
        yield from _check_one(store, device, key, checker)
    yield from checker.finish(lambda family: store.scan(device, family))


def _check_one(store: Store, device: str, key: Key, checker: Checker) -> Iterator[Finding]:
    try:
        raw = store.read(device, [key]).get(key)
        if raw is None and not store.reads_snapshots and store.holder(device):
            return  # its owner has deleted it meanwhile
        if raw is None:
            yield Finding("error", store.where(device, key), "cannot be read back", "")
            return
        value = store.decode(device, key, raw)
    except (StoreDamaged, UnsupportedVersion) as error:
        yield finding_of(error)
        return
    yield from _checked(store.where(device, key), key, value, checker)


def _checked(place: str, key: Key, value: Any, checker: Checker) -> Iterator[Finding]:
    """What is in a client's own spelling is read as its client would read it."""
    if isinstance(value, EncodedRecord):
        from ratchetkeep.formats import spellings  # only then: it loads protobuf

        try:
            value = spellings.to_model(key, value)
        except DecodeError as error:
            member = f"{error.place}: " if error.place else ""
            yield Finding("error", place, f"{member}{error.what}", NEW_SESSION)
            return
    yield from checker.check(key, value)
