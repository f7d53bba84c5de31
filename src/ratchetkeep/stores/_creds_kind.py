"""Whose folder it is, where two libraries name their files alike: its credentials tell."""

from __future__ import annotations

from collections.abc import Container
from contextlib import suppress
from typing import TYPE_CHECKING

from ratchetkeep.errors import DecodeError
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
    if _CREDS not in names:
        return False
    with suppress(OSError):
        return kind_of_creds(store.disk.read(f"{store.path}/{_CREDS}")) not in (None, store.kind)
    return False
