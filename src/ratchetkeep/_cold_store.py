"""A device that goes on cold in the place where it is: one step, while nobody else has it open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from ratchetkeep._cold import Cold, known_ids, placeholder
from ratchetkeep._copy_source import CHUNK, Chunk, chunks
from ratchetkeep._retire import refuse_owner
from ratchetkeep.errors import CommitFailed, StoreDamaged
from ratchetkeep.formats import native
from ratchetkeep.model import CREDENTIALS, Credentials, Key
from ratchetkeep.stores import urls
from ratchetkeep.stores.base import Stage, Store

if TYPE_CHECKING:
    from ratchetkeep.sealing.keys import SealKey

__all__ = ["cool", "credentials_of"]


def cool(
    target: urls.Target, key: str | bytes | SealKey | None, *, dry_run: bool
) -> tuple[Cold, str]:
    """Cool a device in its place; gives what came of it, and the URL of its store."""
    with closing(urls.open_target(target, key)) as store:
        # Before anything is made: a stage would begin a store where there is none.
        store.acquire(target.device, read_only=True, create=False)
        store.refuse_moved(target.device)
        if dry_run:
            refuse_owner(store, target.device)
            cold = _cold_of(store, target.device)
            for _ in _kept(store, target.device, cold):
                pass
            return cold, store.url
        store.release(target.device)
        if store.format is native:
            return _anew(store, target, key), store.url
        return _in_place(store, target), store.url


def _anew(store: Store, target: urls.Target, key: str | bytes | SealKey | None) -> Cold:
    """In a store of ours: a stage replaces the device, so that a new history begins."""
    device = target.device
    with (
        store.stage(device, overwrite=True) as stage,
        closing(urls.open_target(target, key)) as reader,
    ):
        # The stage owns the device by now, and nobody sees what it has cleared: this reads the last
        # commit there will have been.
        reader.acquire(device, read_only=True, create=False)
        cold = _cold_of(reader, device)
        made = store.encode(CREDENTIALS, cold.credentials, cold.credentials).data
        _write(store, stage, [(CREDENTIALS, made or b"")])
        for chunk in _kept(reader, device, cold):
            _write(store, stage, [(each, raw) for each, raw, _ in chunk])
        reader.release(device)
        stage.publish()
    return cold


def _write(store: Store, stage: Stage, chunk: Chunk) -> None:
    records = dict(chunk)
    stage.write(records)
    back = stage.read(records)
    for each, data in chunk:
        if back.get(each) != data:
            what = "did not come back as it was written"
            raise CommitFailed(f"{store.url} ({each})", what, "Nothing was changed")


def _in_place(store: Store, target: urls.Target) -> Cold:
    """In a store of another library: one commit, which leaves alone what it keeps beside them."""
    device = target.device
    store.acquire(device, read_only=False, create=False)
    try:
        cold = _cold_of(store, device)
        stay = {key for chunk in _kept(store, device, cold) for key, _, _ in chunk}
        changes: dict[Key, Any] = {
            key: None for key in store.scan(device) if key != CREDENTIALS and key not in stay
        }
        changes[CREDENTIALS] = cold.credentials
        if target.kind == "whatsmeow":
            changes.update([placeholder(cold.credentials)])
        store.apply(store.prepare(device, changes, cold.credentials))
        return cold
    finally:
        store.release(device)


def _cold_of(reader: Store, device: str) -> Cold:
    credentials = credentials_of(reader, device)
    return Cold(credentials, known_ids(credentials, reader.scan(device, "pre-key")))


def _kept(reader: Store, device: str, cold: Cold) -> Iterator[list[tuple[Key, bytes, Any]]]:
    """What stays, without the credentials, in portions; each was read without damage."""
    for chunk in chunks(reader, device, CHUNK):
        kept = []
        for key, raw in chunk:
            read = partial(reader.decode, device, key, raw)
            if key != CREDENTIALS and cold.keeps(key, read):
                kept.append((key, raw, read()))
        yield kept


def credentials_of(reader: Store, device: str) -> Credentials:
    """The credentials of a device that is open.

    :raises StoreDamaged: if it has none.
    """
    raw = reader.read(device, [CREDENTIALS]).get(CREDENTIALS)
    if raw is None:
        left = reader.trace(device)
        raise StoreDamaged(reader.url, f"holds no credentials, but something of a device: {left}")
    credentials: Credentials = reader.decode(device, CREDENTIALS, raw)
    return credentials
