"""Leaving a source behind: the copy goes on, and the source is marked, so that it does not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ratchetkeep.errors import CommitFailed, NotHeld, RatchetkeepError, StoreInUse
from ratchetkeep.stores import urls
from ratchetkeep.stores.base import Store

if TYPE_CHECKING:
    from ratchetkeep.sealing.keys import SealKey

__all__ = ["mark_source", "reading", "refuse_owner", "refuse_unmarkable"]


@contextmanager
def reading(
    source: urls.Target,
    *,
    owned: bool,
    to_mark: bool,
    from_retired: bool,
    key: str | bytes | SealKey | None = None,
) -> Iterator[Store]:
    """The source of a copy, open.

    :param owned: keep every other owner out meanwhile.
    :param to_mark: see that it can be marked as moved.
    :param from_retired: fine if it was moved itself.
    :param key: what opens the source if it is sealed; None asks the environment.
    """
    store = urls.open_target(source, key)
    try:
        if to_mark:
            refuse_unmarkable(store)
        store.acquire(source.device, read_only=not owned, create=False)
        if not from_retired:
            store.refuse_moved(source.device)
        if not owned:
            refuse_owner(store, source.device, even_of_snapshots=to_mark)
        yield store
    finally:
        store.close()


def refuse_unmarkable(store: Store) -> None:
    """:raises NotHeld: if a device of the store cannot be marked as moved."""
    if store.no_mark:
        remedy = "Copy without retiring, and see to it that the source is not used any more"
        what = f"cannot be marked as moved: {store.no_mark}"
        raise NotHeld(store.url, what, remedy)


def refuse_owner(store: Store, device: str, *, even_of_snapshots: bool = False) -> None:
    """See that nobody writes to the source, where that would mix two moments of it.

    :raises StoreInUse: naming the owner.
    """
    if store.reads_snapshots and not even_of_snapshots:
        return
    holder = store.holder(device)
    if holder:
        what = f"is being written by {holder}, so it cannot be read as a whole"
        if store.reads_snapshots:
            what = f"is in use by {holder}, so it cannot be retired"
        raise StoreInUse(store.url, what, "Stop that program first", holder=holder)


def mark_source(reader: Store, device: str, store: Store, target: urls.Target) -> None:
    """Mark the source as moved to the target, which holds all of it by now.

    :raises CommitFailed: if it cannot be marked; both can be used then.
    """
    try:
        reader.mark_moved(device, _lasting_url(store, target))
    except RatchetkeepError as error:
        what = f"was copied to {store.url}, but could not be marked as moved: {error.what}"
        remedy = "The copy is whole. Use it alone, or mark the source by hand: remove it"
        raise CommitFailed(reader.url, what, remedy) from None


def _lasting_url(store: Store, target: urls.Target) -> str:
    """The target's URL, so that it says where that is from any other folder too."""
    url = store.url
    if target.kind != "memory" and url == f"{target.kind}:{target.path}":
        url = f"{target.kind}:{os.path.abspath(target.path)}"
    return url + urls.query_of(target)
