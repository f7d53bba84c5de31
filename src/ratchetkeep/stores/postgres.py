"""Devices in a PostgreSQL database, for many processes on many machines:
``postgresql://USER@HOST/DATABASE?device=NAME``.

Each device has one owner at a time, by a lease that its process renews in the background; commits
of an owner that lost it change nothing. ``lease=SECONDS`` (30) and ``connections=NUMBER`` (8) in
the URL are ours; all else in it is libpq's. All stores of a process that name a database by the
same URL share its lease, its connections and its commits.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

from ratchetkeep.errors import (
    CommitFailed,
    DeviceExists,
    NoDevice,
    OwnershipLost,
    RatchetkeepError,
    ReadOnly,
    StoreClosed,
    StoreInUse,
    UnknownStore,
)
from ratchetkeep.formats import native
from ratchetkeep.model import Key
from ratchetkeep.sealing.cipher import PLAIN
from ratchetkeep.sealing.opening import IfSealed

from . import _postgres_devices as table
from . import _postgres_leases as leases
from . import _postgres_rows as rows
from . import _postgres_schema as schema
from . import _postgres_sealing as sealing
from ._moved import Moved, moved_now
from ._postgres_applying import TAKEN
from ._postgres_driver import Connection, driver, mapped
from ._postgres_hub import KIND, Hub, Lane
from ._postgres_keys import Given, Keys
from ._postgres_leases import Held
from ._postgres_link import SCHEMA, open_one
from ._postgres_reseal import PostgresResealing
from ._postgres_stage import PostgresStage
from .base import (
    Finding,
    History,
    Joint,
    Listed,
    Prepared,
    Refused,
    Resealing,
    Stage,
    Store,
)

__all__ = ["PostgresStore"]

T = TypeVar("T")

LEASE, SHORTEST_LEASE = 30.0, 1.0
CONNECTIONS = 8


class PostgresStore(Store):
    """The devices in one database.

    :param conninfo: libpq's URL, with ``lease`` and ``connections`` if they are given.
    :param url: the same for errors, without a password.
    """

    kind = KIND
    format = native
    reads_snapshots = True

    def __init__(self, conninfo: str, url: str, key: Given = None) -> None:
        self.url = url
        self.key = key
        self.conninfo, self._lease, self._connections = settings(conninfo, url)
        self._hub: Hub | None = None
        # None if it was lost before it was adopted.
        self._owned: dict[str, Held | None] = {}
        self._adopted: set[str] = set()
        self._readers: dict[str, Reader] = {}
        # Whether its key was found to be that of the database.
        self._is_admitted = False
        self._lock = threading.RLock()

    # -- the hub, and connections for reading

    def hub(self, *, make: bool = False, upgrade: bool = False) -> Hub | None:
        """What this process has open in the database; None if our tables are not there.

        :param make: make them then.
        :param upgrade: upgrade those of an older version.
        """
        with self._lock:
            if self._is_forked:
                # Its connections are the parent's too: each would get the other's answers.
                what = "was opened by another process, which forked this one"
                raise OwnershipLost(self.url, what)
            if self._hub is None:
                self._hub = Hub.attach(self.conninfo, self.url, self._lease, self._connections)
            if not self._hub.prepare(make=make, upgrade=upgrade, key=self.key):
                return None
            # Each store by itself: another one of this process may have had the right key.
            if not self._is_admitted:
                self._is_admitted = self._hub.admit(self.key, make=make)
            return self._hub if self._is_admitted else None

    def _asked(self, call: Callable[[Connection, Keys], T], nothing: T) -> T:
        """Read what belongs to no device that is open; ``nothing`` without tables."""
        hub = self.hub()
        if hub is None:
            return nothing
        with mapped(self.url, schema=SCHEMA):
            return hub.retried(lambda connection: call(connection, hub.keys))

    def _reading(self, device: str, call: Callable[[Connection, Held], T | None]) -> T:
        """Read of a device that is open."""
        reader = self._readers.get(device)
        if reader is None:
            return self._writable(device).reading(device, call)
        with self._lock, mapped(self.url, schema=SCHEMA):
            found = call(reader.connection, reader.held)
        if found is None:
            raise NoDevice(self.url, f"holds no device {device!r}")
        return found

    def _writable(self, device: str) -> Hub:
        if device in self._readers:
            raise ReadOnly(self.url, "was opened read-only")
        if device not in self._owned or self._hub is None:
            raise StoreClosed(self.url, f"device {device!r} is not open")
        return self._hub

    def _owner(self, device: str) -> Any:
        """Whom a read asks the device to belong to; None if it does not matter."""
        return None if device in self._readers or self._hub is None else self._hub.owner

    # -- devices

    def devices(self) -> list[str]:
        return self._asked(table.names, [])

    def listing(self) -> list[Listed]:
        return self._asked(table.listing, [])

    def acquire(self, device: str, *, read_only: bool, create: bool) -> None:
        if device in self._adopted and not read_only:
            self._adopted.discard(device)
            held = self._owned[device]
            if held is not None and held.damage is not None:
                raise held.damage
            return
        self._check_free(device)
        if read_only:
            self._readers[device] = self._snapshot(device)
        else:
            self._take(device, create=create, steal=False)

    def take(self, device: str, *, create: bool) -> None:
        self._check_free(device)
        self._take(device, create=create, steal=True)

    def _check_free(self, device: str) -> None:
        if device in self._owned or device in self._readers:
            raise StoreInUse(self.url, f"device {device!r} is open already in this process")

    def _take(self, device: str, *, create: bool, steal: bool) -> None:
        hub = self.hub(make=create, upgrade=True)
        if hub is None:
            raise self._no_device(device)
        try:
            self._owned[device] = hub.take(device, create=create, steal=steal)
        except NoDevice:
            raise self._no_device(device) from None

    def adopt(self, device: str) -> None:
        """Have a device that the hub took as one of many: the next to acquire it has it."""
        self._check_free(device)
        hub = self.hub()
        self._owned[device] = hub.held_as(device) if hub else None
        self._adopted.add(device)

    def _no_device(self, device: str) -> NoDevice:
        return NoDevice(self.url, f"holds no device {device!r}", table.remedy(self.devices()))

    def _snapshot(self, device: str) -> Reader:
        """A device as it is at this moment, from now on."""
        connection, keys = open_one(self.conninfo, self.url), Keys(self.url)
        try:
            with mapped(self.url, schema=SCHEMA):
                if not schema.prepare(connection, self.url):
                    raise NoDevice(self.url, "holds no devices of ours")
                connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                keys.look(connection)
                keys.admit(connection, self.key, make=False)
                held = table.find(connection, keys, device)
                if held is None:
                    raise self._no_device(device)
        except BaseException:
            connection.close()
            raise
        return Reader(connection, keys, held)

    def release(self, device: str) -> None:
        reader = self._readers.pop(device, None)
        if reader is not None and not self._is_forked:
            with suppress(driver.Error):
                reader.connection.close()
        self._adopted.discard(device)
        held = self._owned.pop(device, None)
        # After a loss another store of this process may have it again: that one goes on.
        if held is not None and self._hub is not None and self._hub.held.get(held.id) is held:
            self._hub.give_back(device)

    @property
    def _is_forked(self) -> bool:
        return self._hub is not None and self._hub.is_forked

    def close(self) -> None:
        for device in [*self._owned, *self._readers]:
            self.release(device)
        with self._lock:
            hub, self._hub = self._hub, None
        if hub is not None:
            hub.detach()

    def watch(self, device: str, lost: Callable[[OwnershipLost], None]) -> None:
        if device in self._owned and self._hub is not None:
            self._hub.watch(device, lost)

    def committed(self, device: str) -> datetime.datetime | None:
        return self._reading(device, table.committed)

    def holder(self, device: str) -> str:
        return self._asked(lambda link, keys: leases.holder(link, keys, device), "")

    # -- records

    def read(self, device: str, keys: Iterable[Key]) -> dict[Key, bytes]:
        wanted, owner = list(keys), self._owner(device)
        if not wanted:
            return {}

        def asked(link: Connection, held: Held) -> tuple[Held, int, dict[Key, bytes]] | None:
            commits, spelled = held.commits, sealing.spelled(held.cipher, wanted)
            found = rows.read(link, held.id, owner, spelled)
            return None if found is None else (held, commits, found)

        held, commits, found = self._reading(device, asked)
        if held.cipher is PLAIN:
            return found
        spelled = sealing.spelled(held.cipher, wanted)
        if self._hub is not None and device in self._owned:
            self._hub.tags.learn(held, commits, spelled, found)
        return {
            key: sealing.opened(held.cipher, key, found[row], self.where(device, key))
            for row, key in spelled.items()
            if row in found
        }

    def scan(self, device: str, family: str | None = None) -> Iterator[Key]:
        owner = self._owner(device)
        held, found = self._reading(
            device, lambda link, held: _with(held, rows.scan(link, held.id, owner, family))
        )
        return (sealing.key_of(held.cipher, row, self._place(device)) for row in found)

    def count(self, device: str) -> int:
        owner = self._owner(device)
        return self._reading(device, lambda link, held: rows.count(link, held.id, owner))

    def entries(self, device: str) -> Iterator[tuple[Key, bytes]]:
        owner, last = self._owner(device), Key("", "")
        while True:
            held, found = self._reading(device, _page(owner, last))
            if not found:
                return
            for row, data in found:
                key = sealing.key_of(held.cipher, row, self._place(device))
                yield key, sealing.opened(held.cipher, key, data, self.where(device, key))
            last = found[-1][0]

    def apply(self, *batches: Prepared) -> Refused | None:
        lanes: dict[Lane, list[Prepared]] = {}
        for batch in batches:
            lane = self._writable(batch.device).lane(batch.device)
            lanes.setdefault(lane, []).append(batch)
        refused: dict[str, RatchetkeepError] = {}
        for lane, those in lanes.items():
            refused |= lane.apply(*those)
        return refused

    def joint(self, device: str) -> Joint:
        return self._writable(device).lane(device)

    def trace(self, device: str) -> str:
        commits, records = self._reading(device, table.commits_of), self.count(device)
        # Records may be what is left of a device whose entry was lost.
        return f"an entry and {records} records" if commits or records else ""

    def check_vacant(self, device: str, *, overwrite: bool) -> None:
        # By its name, and not among all of them: a copy of thousands asks for each.
        def is_there(link: Connection, keys: Keys) -> bool:
            return table.is_there(link, keys, device)

        if not overwrite and self._asked(is_there, False):
            raise DeviceExists(self.url, f"holds a device {device!r} already")

    def stage(self, device: str, *, overwrite: bool) -> AbstractContextManager[Stage]:
        return PostgresStage(self, device, overwrite)

    def remove(self, device: str) -> None:
        self._change(device, table.remove)
        self._owned.pop(device, None)
        assert self._hub is not None  # noqa: S101 - it was writable
        self._hub.forget_device(device)

    def mark_moved(self, device: str, to: str) -> None:
        mark = moved_now(to)
        self._change(device, lambda link, held, owner: table.mark(link, held, owner, mark))

    def _change(self, device: str, call: Callable[[Connection, Held, Any], bool]) -> None:
        """Change the device's own row; ``call`` gives False if it is another owner's."""
        hub = self._writable(device)
        held = hub.the(device)
        wrong = partial(CommitFailed, self.url)
        # Not beside a commit: to settle one moves on what the other has sent.
        with hub.lane(device).still(), mapped(self.url, wrong, schema=SCHEMA):
            while not hub.retried(lambda connection: call(connection, held, hub.owner)):
                if not hub.is_still_ours(held):
                    raise hub.lose(held, TAKEN)

    def moved(self, device: str) -> Moved | None:
        reader = self._readers.get(device)
        if reader is not None:
            with self._lock, mapped(self.url, schema=SCHEMA):
                return table.moved(reader.connection, reader.keys, device)
        return self._asked(lambda link, keys: table.moved(link, keys, device), None)

    def findings(self, device: str) -> Iterator[Finding]:
        yield from self._reading(device, lambda link, held: table.findings(link, self.url))
        yield from self.sum_findings(device)

    def sum_findings(self, device: str) -> Iterator[Finding]:
        owner, keys = self._owner(device), self._keys(device)
        yield from self._reading(
            device, lambda link, held: sealing.compared(link, keys, held, owner)
        )

    def history(self, device: str) -> History | None:
        reader = self._readers.get(device)
        held = reader.held if reader else self._writable(device).the(device)
        return History(held.history, held.commits) if held.commits else None

    def seals(self) -> bool:
        hub = self.hub()
        if hub is None:
            return self.key is not None and not isinstance(self.key, IfSealed)
        return hub.keys.vault.current > 0

    @contextmanager
    def resealing(self) -> Iterator[Resealing]:
        hub = self.hub(upgrade=True)
        if hub is None:
            raise NoDevice(self.url, "holds no devices of ours")
        if self._owned or self._readers:
            raise StoreInUse(self.url, "has devices that are open in this process")
        yield PostgresResealing(hub, self.conninfo)

    def _keys(self, device: str) -> Keys:
        reader = self._readers.get(device)
        return reader.keys if reader else self._writable(device).keys

    def _place(self, device: str) -> str:
        return f"{self.url} (device {device!r})"


class Reader(NamedTuple):
    """A device that was opened read-only: a moment of it, with the keys of that moment."""

    connection: Connection
    keys: Keys
    held: Held


def _with(held: Held, found: T | None) -> tuple[Held, T] | None:
    return None if found is None else (held, found)


Page = tuple[Held, list[tuple[Key, bytes]]]


def _page(owner: Any, last: Key) -> Callable[[Connection, Held], Page | None]:
    return lambda link, held: _with(held, rows.read_after(link, held.id, owner, last))


def settings(conninfo: str, url: str) -> tuple[str, float, int]:
    """The URL without what is ours in it, the seconds of a lease, and how many connections.

    :raises UnknownStore: if one of them is no such number.
    """
    base, mark, query = conninfo.partition("?")
    parts = query.split("&") if mark else []
    found: dict[str, str] = {}
    for part in list(parts):
        name, _, value = part.partition("=")
        if name in ("lease", "connections"):
            found[name] = unquote(value)
            parts.remove(part)
    try:
        lease = float(found.get("lease", LEASE))
        connections = int(found.get("connections", CONNECTIONS))
    except ValueError:
        lease = connections = 0
    if not (SHORTEST_LEASE <= lease <= 86_400 and 2 <= connections <= 1_000):
        what = "lease= takes 1 to 86400 seconds, connections= a number of 2 to 1000"
        raise UnknownStore(url, what, "Mend the URL")
    return base + ("?" + "&".join(parts) if parts else ""), lease, connections
