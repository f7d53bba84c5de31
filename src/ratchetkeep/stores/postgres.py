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
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any, TypeVar
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

from . import _postgres_devices as table
from . import _postgres_leases as leases
from . import _postgres_rows as rows
from . import _postgres_schema as schema
from ._moved import Moved, moved_now
from ._postgres_applying import TAKEN
from ._postgres_driver import Connection, driver, mapped
from ._postgres_hub import KIND, Hub, Lane
from ._postgres_leases import Held
from ._postgres_link import SCHEMA, open_one
from ._postgres_stage import PostgresStage
from .base import Finding, Joint, Listed, Prepared, Refused, Stage, Store

if TYPE_CHECKING:
    from ratchetkeep.sealing.keys import SealKey

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

    def __init__(self, conninfo: str, url: str, key: str | bytes | SealKey | None = None) -> None:
        self.url = url
        self._key = key
        self.conninfo, self._lease, self._connections = settings(conninfo, url)
        self._hub: Hub | None = None
        # None if it was lost before it was adopted.
        self._owned: dict[str, Held | None] = {}
        self._adopted: set[str] = set()
        self._readers: dict[str, Connection] = {}
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
            return self._hub if self._hub.prepare(make=make, upgrade=upgrade) else None

    def _asked(self, call: Callable[[Connection], T], nothing: T) -> T:
        """Read what belongs to no device that is open; ``nothing`` without tables."""
        hub = self.hub()
        if hub is None:
            return nothing
        with mapped(self.url, schema=SCHEMA):
            return hub.retried(call)

    def _reading(self, device: str, call: Callable[[Connection, Held], T | None]) -> T:
        """Read of a device that is open."""
        reader = self._readers.get(device)
        if reader is None:
            return self._writable(device).reading(device, call)
        with self._lock, mapped(self.url, schema=SCHEMA):
            found = call(reader, Held(device, rows.id_of(device), 0, 0))
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
        self._owned[device] = hub.held.get(rows.id_of(device)) if hub else None
        self._adopted.add(device)

    def _no_device(self, device: str) -> NoDevice:
        return NoDevice(self.url, f"holds no device {device!r}", table.remedy(self.devices()))

    def _snapshot(self, device: str) -> Connection:
        """A connection that sees one moment of the database, from now on."""
        connection = open_one(self.conninfo, self.url)
        try:
            with mapped(self.url, schema=SCHEMA):
                if not schema.prepare(connection, self.url):
                    raise NoDevice(self.url, "holds no devices of ours")
                connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                if not table.is_there(connection, device):
                    raise self._no_device(device)
        except BaseException:
            connection.close()
            raise
        return connection

    def release(self, device: str) -> None:
        reader = self._readers.pop(device, None)
        if reader is not None and not self._is_forked:
            with suppress(driver.Error):
                reader.close()
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
        return self._asked(lambda connection: leases.holder(connection, device), "")

    # -- records

    def read(self, device: str, keys: Iterable[Key]) -> dict[Key, bytes]:
        wanted, owner = list(keys), self._owner(device)
        if not wanted:
            return {}
        return self._reading(device, lambda link, held: rows.read(link, held.id, owner, wanted))

    def scan(self, device: str, family: str | None = None) -> Iterator[Key]:
        owner = self._owner(device)
        return iter(
            self._reading(device, lambda link, held: rows.scan(link, held.id, owner, family))
        )

    def count(self, device: str) -> int:
        owner = self._owner(device)
        return self._reading(device, lambda link, held: rows.count(link, held.id, owner))

    def entries(self, device: str) -> Iterator[tuple[Key, bytes]]:
        owner, last = self._owner(device), Key("", "")
        while True:
            found = self._reading(device, _page(owner, last))
            if not found:
                return
            yield from found
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
        if not overwrite and self._asked(lambda link: table.is_there(link, device), False):
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
        with mapped(self.url, lambda what: CommitFailed(self.url, what), schema=SCHEMA):
            while not hub.retried(lambda connection: call(connection, held, hub.owner)):
                if not hub.is_still_ours(held):
                    raise hub.lose(held, TAKEN)

    def moved(self, device: str) -> Moved | None:
        reader = self._readers.get(device)
        if reader is not None:
            with self._lock, mapped(self.url, schema=SCHEMA):
                return table.moved(reader, device, self.url)
        return self._asked(lambda connection: table.moved(connection, device, self.url), None)

    def findings(self, device: str) -> Iterator[Finding]:
        yield from self._reading(device, lambda link, held: table.findings(link, self.url))


def _page(owner: Any, last: Key) -> Callable[[Connection, Held], list[tuple[Key, bytes]] | None]:
    return lambda connection, held: rows.read_after(connection, held.id, owner, last)


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
