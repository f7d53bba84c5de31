"""Seal the devices of a store, unseal them, or seal them with another key.

Each command does the same: the store gets the data key that is to be beside the one that it has;
every device goes over to it, in one step of its own, and can be read all the time; nothing of the
old spelling is left in the store; then the old data key goes. Ended at any point, the same command
goes on where it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ratchetkeep.errors import InvalidValue, WrongKey
from ratchetkeep.sealing.keys import SealKey, Secret, as_key, from_environment
from ratchetkeep.sealing.opening import GIVE_A_KEY, IfSealed
from ratchetkeep.sealing.ring import Vault, make, new_data_key
from ratchetkeep.stores import urls
from ratchetkeep.stores.base import Resealing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ratchetkeep.sealing.ring import Work

__all__ = ["ResealSummary", "rekey_store", "seal_store", "unseal_store"]

Given = str | bytes | SealKey | None
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ResealSummary:
    """What was done with a store.

    :ivar store: its URL.
    :ivar devices: how many devices were sealed, unsealed or sealed with another data key now.
    :ivar records: how many records they have, with the credentials.
    :ivar resumed: True if an earlier command was ended before it was done, and this one went on.
    """

    store: str
    devices: int
    records: int
    resumed: bool


def seal_store(
    url: str | os.PathLike[str], key: Given = None, *, progress: Progress | None = None
) -> ResealSummary:
    """Seal all devices of a store that is plain.

    :param key: what is to open it: a passphrase, 32 bytes, or a source of
        :mod:`ratchetkeep.sealing.keys`; None asks the environment (``RATCHETKEEP_KEY_*``).
    :param progress: called with how many devices are done, of how many.
    :raises InvalidValue: if it is sealed, or is of a kind that cannot be; or if there is no key.
    :raises StoreInUse: if somebody has it open.
    :raises StoreDamaged: if a record cannot be read.
    """
    secret = _source(key, url).secret()
    # One that is half sealed is opened with the key; a plain one needs none.
    with _resealing(url, IfSealed(_Known(secret))) as (place, work):
        vault = work.vault
        resumed = vault.work == "seal"
        if not vault.is_plain and not resumed:
            raise InvalidValue(place, "is sealed already", "For another key: `ratchetkeep rekey`")
        _refuse_other_work(vault, "seal", place)
        if not resumed:
            begun = make(place)
            begun = begun.changed(current=begun.current, work="seal", keys=begun.keys)
            work.put_ring(begun, secret)
        return _carry_out(place, work, secret, resumed, progress)


def unseal_store(
    url: str | os.PathLike[str], key: Given = None, *, progress: Progress | None = None
) -> ResealSummary:
    """Make all devices of a sealed store plain again.

    Parameters and errors as those of :func:`seal_store`.

    :raises WrongKey: if it is sealed with another key.
    """
    secret = _source(key, url).secret()
    with _resealing(url, _Known(secret)) as (place, work):
        vault = _sealed(work, place)
        _refuse_other_work(vault, "unseal", place)
        resumed = vault.work == "unseal"
        if not resumed:
            work.put_ring(vault.changed(current=0, work="unseal", keys=vault.keys), secret)
        return _carry_out(place, work, None, resumed, progress)


def rekey_store(
    url: str | os.PathLike[str],
    key: Given = None,
    new_key: Given = None,
    *,
    data_key: bool = False,
    progress: Progress | None = None,
) -> ResealSummary:
    """Have another key open a sealed store.

    :param key: what opens it now; None asks the environment (``RATCHETKEEP_KEY_*``).
    :param new_key: what is to open it from now on; None leaves it the same, with ``data_key``.
    :param data_key: seal every record anew, with a new data key: whoever knows the old one (a copy
        of the store and its key) can read nothing that is written from now on. Without it only the
        data key is wrapped anew, in one small commit.
    :raises WrongKey: if it is sealed with another key. If an earlier ``data_key`` run was ended,
        the new key opens the store by now.
    :raises InvalidValue: if it is not sealed, or nothing was asked for.
    """
    if new_key is None and not data_key:
        raise InvalidValue("new_key", "is missing", "Give a new key, or ask for a new data key")
    old = _source(key, url).secret()
    secret = old if new_key is None else _source(new_key, url).secret()
    with _resealing(url, _Known(old)) as (place, work):
        vault = _sealed(work, place)
        resumed = vault.work == "rekey"
        if not data_key and not resumed:
            _refuse_other_work(vault, "", place)
            work.put_ring(vault, secret)
            return ResealSummary(place, 0, 0, resumed=False)
        _refuse_other_work(vault, "rekey", place)
        if not resumed:
            number = max(vault.keys) + 1
            keys = {**vault.keys, number: new_data_key()}
            vault = vault.changed(current=number, work="rekey", keys=keys)
        # Wrapped by the new key at once: the old one opens nothing from here on.
        work.put_ring(vault, secret)
        return _carry_out(place, work, secret, resumed, progress)


class _Known:
    """A key that was asked for already: its source may be a person, or count."""

    told = "the key"

    def __init__(self, secret: Secret) -> None:
        self._secret = secret

    def secret(self) -> Secret:
        """The secret."""
        return self._secret


def _carry_out(
    place: str,
    work: Resealing,
    secret: Secret | None,
    resumed: bool,
    progress: Progress | None,
) -> ResealSummary:
    """Bring all devices to the current data key, and forget the others."""
    current = work.vault.current
    waiting = [name for name, generation in work.devices().items() if generation != current]
    records = 0
    for done, name in enumerate(waiting):
        if progress:
            progress(done, len(waiting))
        records += work.reseal(name, current)
    if progress:
        progress(len(waiting), len(waiting))
    # Before the mark of what was begun goes: it may be ended in between.
    work.compact()
    keys = {number: each for number, each in work.vault.keys.items() if number == current}
    work.put_ring(work.vault.changed(current=current, work="", keys=keys), secret)
    return ResealSummary(place, len(waiting), records, resumed)


@contextmanager
def _resealing(url: str | os.PathLike[str], key: Given) -> Iterator[tuple[str, Resealing]]:
    store = urls.open_target(urls.parse(url), key)
    try:
        with store.resealing() as work:
            yield store.url, work
    finally:
        store.close()


def _source(key: Given, url: str | os.PathLike[str]) -> SealKey:
    source = as_key(key) or from_environment()
    if source is None:
        raise WrongKey(urls.shown(urls.parse(url)), "no key was given", GIVE_A_KEY)
    return source


def _sealed(work: Resealing, place: str) -> Vault:
    if work.vault.is_plain:
        raise InvalidValue(place, "is not sealed", "`ratchetkeep seal` seals it")
    return work.vault


def _refuse_other_work(vault: Vault, work: Work, place: str) -> None:
    if vault.work not in ("", work):
        what = f"`ratchetkeep {vault.work}` was begun here and is not finished"
        raise InvalidValue(place, what, f"Run `ratchetkeep {vault.work}` again first")
