"""Whose folder it is, where two libraries name their files alike: its credentials tell."""

from __future__ import annotations

from collections.abc import Container
from contextlib import suppress
from typing import TYPE_CHECKING

from ratchetkeep.errors import DecodeError, UnknownStore
from ratchetkeep.formats._json import parse

if TYPE_CHECKING:
    from .directory import DirectoryStore

_CREDS = "creds.json"

# A member that only that library's credentials have, and the kind of folder.
_MARKS = {
    "pairing_ephemeral_key_pair": "pyaileys",
    "noiseKey": "baileys",
    "pairing_ephemeral_key": "baileysex-json",
    # The same, by its first versions.
    "__type__": "baileysex-json",
}

# Kinds whose credentials are those of another kind.
_SAME = {"baileys6": "baileys"}


def kind_of_creds(raw: bytes) -> str | None:
    """The kind of folder that a ``creds.json`` is of, or None if it cannot be told."""
    try:
        members = parse(raw, constant=float)
    except DecodeError:
        return None
    found = (kind for mark, kind in _MARKS.items() if mark in members)
    return next(found, None) if isinstance(members, dict) else None


def creds_of_another(store: DirectoryStore, names: Container[str]) -> bool:
    """True if the credentials among the folder's ``names`` are of another kind than the store."""
    return _CREDS in names and _other_kind(store) is not None


def refuse_creds_of_another(store: DirectoryStore) -> None:
    """:raises UnknownStore: if the folder's credentials are of another kind than the store."""
    other = _other_kind(store)
    if other is not None:
        raise UnknownStore(store.url, f"is a folder of the kind {other}", f"Use {other}:DIR")


def _other_kind(store: DirectoryStore) -> str | None:
    if store.layout.suffix != ".json":
        return None
    with suppress(OSError):
        kind = kind_of_creds(store.disk.read(f"{store.path}/{_CREDS}"))
        return None if kind == _SAME.get(store.kind, store.kind) else kind
    return None
