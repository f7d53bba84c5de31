"""What all peers have in common: a store with one device, timed by itself in nanoseconds."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from benchmarks.data import Change, Data, address

MANY = 32
"""Files; from here on it is quicker to let the system write everything that waits."""


class PeerMissing(Exception):
    """The library of a peer is not installed here; the text says which."""


class Peer(ABC):
    """One store of ``size`` sessions in ``folder``, which is the peer's own.

    Every verb that returns nanoseconds makes what it needs before it starts its clock.

    :cvar name: how it is called in the tables.
    :cvar syncs: what is on the disk when its commit returns, in words.
    :cvar most: the largest size that it is measured with.
    :cvar is_slow: True if each record of a commit is synced by itself; what writes many is then
        measured at one size only.
    :cvar is_folder: True if there is a file for each record.
    :cvar longer_turns: by what its turns of small commits are longer than others'.
    :cvar has_log: True if it must be written to for a while before its log has its final size.
    :cvar reads: True if it is measured when reading and opening.
    """

    name: ClassVar[str]
    syncs: ClassVar[str]
    most: ClassVar[int] = 100_000
    is_slow: ClassVar[bool] = False
    is_folder: ClassVar[bool] = False
    longer_turns: ClassVar[int] = 1
    has_log: ClassVar[bool] = False
    reads: ClassVar[bool] = True

    def __init__(self, folder: Path, data: Data, size: int) -> None:
        self.folder = folder
        self.data = data
        self.size = size

    @classmethod
    def check(cls) -> None:
        """:raises PeerMissing: if it cannot run here."""
        return

    @abstractmethod
    def build(self) -> None:
        """Make the device with its sessions and credentials; it is closed afterwards."""

    @abstractmethod
    def open(self) -> int:
        """Open the device and read its credentials; nanoseconds."""

    @abstractmethod
    def close(self) -> None:
        """Close it, with everything in its place."""

    @abstractmethod
    def commits(self, changes: Sequence[Change]) -> list[int]:
        """Commit each; nanoseconds of each."""

    def read(self, numbers: Sequence[int]) -> int:
        """Get sessions, one call each; nanoseconds of all."""
        raise NotImplementedError

    def read_at_once(self, numbers: Sequence[int]) -> int:
        """Get sessions in one call, where the store can; nanoseconds."""
        return self.read(numbers)

    def rest(self) -> None:
        """Let nothing be under way or unwritten that would slow the next peer's turn."""
        return

    def disk_bytes(self) -> int:
        """What its files take on the disk, in whole blocks."""
        found = [self.folder, *self.folder.rglob("*")]
        return sum(os.lstat(path).st_blocks * 512 for path in found)


def sync_names(folder: Path, names: Sequence[str]) -> None:
    """Make files durable that a peer left unsynced, so that the next turn does not pay for them."""
    if len(names) > MANY:
        os.sync()
        return
    for name in {*names, "."}:
        try:
            descriptor = os.open(folder / name, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def file_names(change: Change, suffix: str) -> list[str]:
    """The files of a commit in a folder of Baileys' layout, those that stay."""
    names = [f"session-{address(number)}{suffix}" for number, _ in change.sessions]
    names += [f"pre-key-{id}{suffix}" for id in change.put_pre_keys]
    return names + ([f"creds{suffix}"] if change.credentials is not None else [])
