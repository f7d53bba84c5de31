"""ratchetkeep itself, through its public names."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from benchmarks.data import Change, Data, address, in_base64, salt
from ratchetkeep import AsyncDevice, Device, open_async_device, open_device
from ratchetkeep.device import create_device
from ratchetkeep.stores.layouts import write_manifest

from .base import Peer, file_names, sync_names

# Records that one commit holds while a device is built.
PORTION = 5_000
# How long a turn waits for the files that follow a commit, before it gives up waiting at all.
PATIENCE = 2.0
SEALING_KEY = hashlib.blake2b(b"the key of the benchmarks", digest_size=32).digest()
"""What opens the sealed stores that are measured: a raw key."""


class Ours(Peer):
    """A :class:`ratchetkeep.Device`."""

    has_log = True
    url = ""
    key: bytes | None = None
    _device: Device

    def open(self) -> int:
        start = perf_counter_ns()
        self._device = open_device(self.url, key=self.key)
        return perf_counter_ns() - start

    def close(self) -> None:
        self._device.close()

    @property
    def device(self) -> Device:
        """The open device."""
        return self._device

    def records(self, change: Change) -> dict[str, dict[str, Any]]:
        """What ``set`` takes for a commit."""
        value = self.data.value
        records: dict[str, dict[str, Any]] = {}
        if change.sessions:
            records["session"] = {address(n): value(n, content) for n, content in change.sessions}
        keys: dict[str, Any] = {str(id): self.data.pre_key(id) for id in change.put_pre_keys}
        keys |= {str(id): None for id in change.drop_pre_keys}
        return {**records, "pre-key": keys} if keys else records

    def commits(self, changes: Sequence[Change]) -> list[int]:
        return [self._commit(change) for change in changes]

    def _commit(self, change: Change) -> int:
        records, device = self.records(change), self._device
        if change.credentials is None:
            start = perf_counter_ns()
            device.set(records)
            return perf_counter_ns() - start
        credentials = self.data.credentials.replace(account_sync_counter=change.credentials)
        start = perf_counter_ns()
        with device.transaction() as transaction:
            transaction.set(records)
            transaction.save_credentials(credentials)
        return perf_counter_ns() - start

    def stream(self, changes: Sequence[Change]) -> tuple[int, int]:
        """Commit all without a pause, then close; nanoseconds until each of the two was done."""
        prepared, device = [self.records(change) for change in changes], self._device
        start = perf_counter_ns()
        for records in prepared:
            device.set(records)
        committed = perf_counter_ns()
        device.close()
        return committed - start, perf_counter_ns() - start

    def read(self, numbers: Sequence[int]) -> int:
        ids, get = [[address(number)] for number in numbers], self._device.get
        start = perf_counter_ns()
        for each in ids:
            get("session", each)
        return perf_counter_ns() - start

    def read_at_once(self, numbers: Sequence[int]) -> int:
        ids = [address(number) for number in numbers]
        start = perf_counter_ns()
        self._device.get("session", ids)
        return perf_counter_ns() - start


def fill(url: str, data: Data, size: int, key: bytes | None = None) -> None:
    """Make the device of a URL, with sessions; with a key, in a store that is sealed with it."""
    with create_device(url, data.credentials, key=key) as device:
        for first in range(0, size, PORTION):
            numbers = range(first, min(first + PORTION, size))
            sessions = {address(n): data.sessions[data.template(n)] for n in numbers}
            device.set({"session": sessions})


class OurSqlite(Ours):
    """The default store."""

    name = "ratchetkeep sqlite:"
    syncs = "one sync a commit"

    def __init__(self, folder: Path, *others: Any) -> None:
        super().__init__(folder, *others)
        self.path = folder / "device.db"
        self.url = f"sqlite:{self.path}"

    def build(self) -> None:
        fill(self.url, self.data, self.size, self.key)


class OurSqliteSealed(OurSqlite):
    """The same store, sealed."""

    name = "ratchetkeep sqlite:, sealed"
    key = SEALING_KEY


class Awaited(Ours):
    """A device that is awaited."""

    reads = False
    runner: asyncio.Runner
    face: AsyncDevice

    def open(self) -> int:
        self.runner = asyncio.Runner()
        return self.runner.run(self.open_face())

    async def open_face(self) -> int:
        """Open the device in its loop; nanoseconds."""
        start = perf_counter_ns()
        self.face = await open_async_device(self.url)
        return perf_counter_ns() - start

    def close(self) -> None:
        self.runner.run(self.face.close())
        self.runner.close()

    def commits(self, changes: Sequence[Change]) -> list[int]:
        return self.runner.run(self._commits(changes))

    async def _commits(self, changes: Sequence[Change]) -> list[int]:
        return [await self._commit_awaited(change) for change in changes]

    async def _commit_awaited(self, change: Change) -> int:
        records, device = self.records(change), self.face
        if change.credentials is None:
            start = perf_counter_ns()
            await device.set(records)
            return perf_counter_ns() - start
        credentials = self.data.credentials.replace(account_sync_counter=change.credentials)
        start = perf_counter_ns()
        async with device.transaction() as transaction:
            await transaction.set(records)
            await transaction.save_credentials(credentials)
        return perf_counter_ns() - start


class OurSqliteAsync(Awaited, OurSqlite):
    """The same store, awaited."""

    name = "ratchetkeep sqlite:, asyncio"


class OurFolder(Ours):
    """A folder that another library can open. Its files follow each commit in a thread; a turn
    ends when they have, so that nobody else pays for them."""

    syncs = "one sync a commit, files follow"
    is_folder = True
    # The files follow when no more commits come for a moment, and a turn waits for that.
    longer_turns = 3
    suffix = ""
    _is_patient = True
    _turn: Sequence[Change] = ()

    def __init__(self, folder: Path, *others: Any) -> None:
        super().__init__(folder, *others)
        self.path = folder / "device"
        self.url = f"{self.kind}:{self.path}"

    @property
    def kind(self) -> str:
        """The store's name in URLs."""
        return self.name.removeprefix("ratchetkeep ").removesuffix(":")

    def files(self) -> Iterator[tuple[str, bytes]]:
        """The files of the device as the folder's own library leaves them."""
        raise NotImplementedError

    def marker(self, number: int, content: int) -> bytes:
        """What a session's file holds once it is written."""
        return salt(number, content)

    def build(self) -> None:
        self.path.mkdir(mode=0o700)
        for name, data in self.files():
            (self.path / name).write_bytes(data)

    def commits(self, changes: Sequence[Change]) -> list[int]:
        taken = super().commits(changes)
        self._turn = changes
        return taken

    def rest(self) -> None:
        if self._turn and self._is_patient:
            self._is_patient = self._wait(self._turn[-1])
        names = [name for change in self._turn for name in file_names(change, self.suffix)]
        sync_names(self.path, names)
        self._turn = ()

    def _wait(self, change: Change) -> bool:
        """Wait until the last file of a commit is there; False if that takes too long."""
        until = time.monotonic() + PATIENCE + len(change.sessions) / 200
        while time.monotonic() < until:
            if self._has_followed(change):
                return True
            time.sleep(0.0005)
        return False

    def _has_followed(self, change: Change) -> bool:
        for number, content in change.sessions[-1:]:
            path = self.path / f"session-{address(number)}{self.suffix}"
            if self.marker(number, content) not in path.read_bytes():
                return False
        put = (self.path / f"pre-key-{id}{self.suffix}" for id in change.put_pre_keys[-1:])
        drop = (self.path / f"pre-key-{id}{self.suffix}" for id in change.drop_pre_keys[-1:])
        return all(path.exists() for path in put) and not any(path.exists() for path in drop)


class OurBaileys(OurFolder):
    """The JSON folder of Baileys."""

    name = "ratchetkeep baileys:"
    suffix = ".json"

    def marker(self, number: int, content: int) -> bytes:
        return in_base64(salt(number, content)).encode()

    def files(self) -> Iterator[tuple[str, bytes]]:
        yield "creds.json", self.data.credentials_json
        for number in range(self.size):
            yield f"session-{address(number)}.json", self.data.json[self.data.template(number)]


class OurBaileysEx(OurFolder):
    """The native folder of BaileysEx."""

    name = "ratchetkeep baileysex:"
    suffix = ".etf"

    def files(self) -> Iterator[tuple[str, bytes]]:
        yield "creds.etf", self.data.credentials_etf
        for number in range(self.size):
            yield f"session-{address(number)}.etf", self.data.etf[self.data.template(number)]
        ids = {"session": [address(number) for number in range(self.size)]}
        yield ".baileys_ex_native_file_persistence.etf", write_manifest(ids)
