"""Telling another program's write from what a power cut left of our own."""

from __future__ import annotations

from collections.abc import Iterable

# What a disk writes at once, whatever the file system.
SECTOR = 512


def is_foreign(found: bytes, ours: Iterable[bytes | None]) -> bool:
    """True unless the bytes are one of ours, or what a power cut may leave of one that was never
    synced: cut short, or with sectors of zeros."""
    return not any(data is not None and _is_left_of(found, data) for data in ours)


def _is_left_of(found: bytes, data: bytes) -> bool:
    parts = range(0, len(found), SECTOR)
    return len(found) <= len(data) and all(
        found[at : at + SECTOR] == data[at : min(at + SECTOR, len(found))]
        or not any(found[at : at + SECTOR])
        for at in parts
    )
