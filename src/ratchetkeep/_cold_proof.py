"""Whether an older state may be put back exactly: only if it is the newest that there ever was.

**What proves it.** The target holds the same device, in the same history, with the same number of
commits as the backup: nothing was committed after the backup, as far as this store knows, and what
is put back is what is there (a damaged record of it apart).

**What does not.** A target that is not there, or holds another history: the newer commits would be
lost with it. One with fewer commits: it was put back itself. One whose commits are not counted
(folders, ``whatsmeow:``). And a witness by itself, which may be behind its store: that it saw no
later commit does not mean that there was none. A witness that has seen more disproves it: the
target may have been put back together with what it knows. One that is named and knows nothing of
the device is not its witness, or was itself put back.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

from ratchetkeep._cold_store import credentials_of
from ratchetkeep.errors import NoDevice, RatchetkeepError, StoreRewound, WrongKey
from ratchetkeep.model import Credentials
from ratchetkeep.stores import urls
from ratchetkeep.stores.base import History

if TYPE_CHECKING:
    from ratchetkeep.sealing.keys import SealKey

__all__ = ["LastSeen", "prove"]

LastSeen = Callable[[str], int | None]
"""The highest number of commits that a witness saw of a history id; None if it knows nothing."""

REMEDY = (
    "Nothing was changed. Restore it without exact (--exact): it keeps the link and goes on with "
    "new sessions"
)


def prove(
    history: History | None,
    credentials: Credentials,
    target: urls.Target,
    key: str | bytes | SealKey | None,
    last_seen: LastSeen | None = None,
) -> None:
    """See that the state of a backup is the newest one of its device.

    :param history: the backup's.
    :param credentials: the backup's.
    :raises StoreRewound: if that is not proven, saying why.
    """
    place = urls.shown(target)
    if history is None:
        what = "the backup is of a store that counts no commits, so nothing tells what came after"
        raise StoreRewound(place, what, REMEDY)
    if last_seen:
        _refuse_seen(history, last_seen(history.id), place)
    found, own = _state_of(target, key)
    if own.signed_identity_key != credentials.signed_identity_key:
        raise StoreRewound(place, "holds another device, which proves nothing of this one", REMEDY)
    if found is None:
        what = "counts no commits, so it cannot tell that nothing came after the backup"
        raise StoreRewound(place, what, REMEDY)
    if found.id != history.id:
        what = "holds the device in another history than the backup's: it was put there otherwise"
        raise StoreRewound(place, what, REMEDY)
    if found.commits != history.commits:
        how = "has gone on since" if found.commits > history.commits else "is itself an older one"
        what = f"{how}: it is at commit {found.commits}, the backup at commit {history.commits}"
        raise StoreRewound(place, what, REMEDY)


def _refuse_seen(history: History, seen: int | None, place: str) -> None:
    if seen is None:
        what = "the witness knows nothing of this device in the backup's history"
        raise StoreRewound(place, what, f"{REMEDY}. Or name the right witness")
    if seen > history.commits:
        what = (
            f"the witness has seen commit {seen} of this device, and the backup was made after "
            f"commit {history.commits}"
        )
        raise StoreRewound(place, what, REMEDY)


def _state_of(
    target: urls.Target, key: str | bytes | SealKey | None
) -> tuple[History | None, Credentials]:
    place = urls.shown(target)
    with closing(urls.open_target(target, key)) as store:
        try:
            store.acquire(target.device, read_only=True, create=False)
            return store.history(target.device), credentials_of(store, target.device)
        except WrongKey:
            raise
        except NoDevice:
            what = "holds no such device, so nothing proves that none of it is newer"
            raise StoreRewound(place, what, REMEDY) from None
        except RatchetkeepError as error:
            what = f"cannot be read, so it proves nothing: {error.what}"
            raise StoreRewound(place, what, REMEDY) from None
