"""What a process has open in one PostgreSQL database: its lease, its devices and their commits.

One *owner* stands for the process, and has its devices for as long as its lease runs, by the
database's clock. Whoever takes a device over raises its epoch, and a commit that names an earlier
epoch changes nothing. So the lease decides who should have a device, and the epoch who can write.

A commit whose connection was lost may be stored or not. It is settled before its caller is told:
the epoch of each device is raised, which waits for a transaction that is still under way and keeps
out one that comes later; then the device's count of commits says whether this one is in it.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar
from uuid import UUID, uuid4

from ratchetkeep import _metrics
from ratchetkeep.errors import (
    CommitFailed,
    NoDevice,
    OwnershipLost,
    RatchetkeepError,
    StoreInUse,
)

from . import _postgres_claims as claims
from . import _postgres_leases as leases
from . import _postgres_rows as rows
from . import _postgres_schema as schema
from ._postgres_applying import AGAIN, TAKEN, Applying, Work
from ._postgres_driver import Connection, driver, mapped
from ._postgres_keeper import Keeper
from ._postgres_keys import Given, Keys, refuse_key
from ._postgres_leases import Held
from ._postgres_link import BRIEF, SCHEMA, Link, is_lost, is_rolled_back, open_one
from ._postgres_sealing import Tags
from .base import Prepared, Refused

__all__ = ["KIND", "Hub"]

T = TypeVar("T")

KIND = "postgresql"
# Groups of commits that are under way at once, of devices of their own: while the server carries
# out one, the next is put together.
LANES = 2
# Of so many renewals one looks at which devices are ours, even if their number is right.
LOOKS = 4


class Hub:
    """All that this process has open in one database. Thread-safe.

    :param lease: how long the process keeps its devices without a sign of life, in seconds.
    """

    _open: dict[tuple[str, float, int], Hub] = {}
    _guard = threading.RLock()

    def __init__(self, conninfo: str, url: str, lease: float, connections: int) -> None:
        self.url = url
        self.lease = lease
        self.owner = uuid4()
        self.held: dict[UUID, Held] = {}
        # Those that a thread is about to take.
        self._taking: set[UUID] = set()
        # Those that the database says are ours, and nobody here has.
        self._strays: set[UUID] = set()
        self._renewals = 0
        # Of what the process offers to take, if it is one of a fleet; see the fleet's claims.
        self.capacity: int | None = None
        self.keys = Keys(url)
        self.tags = Tags()
        self._conninfo = conninfo
        self._is_prepared = False
        self._pid = os.getpid()
        self._users = 0
        self._lock = threading.RLock()
        self._lanes = [Lane(self) for _ in range(LANES)]
        self.link = Link(conninfo, url, connections, patience=max(2.0, lease / 2))
        self._keeper = Keeper(self)
        self._recorder = _metrics.recorder()
        self._end_watching = (
            self._recorder.watch_leases(KIND, self.held.__len__) if self._recorder else None
        )

    # -- one for all stores of a process

    @classmethod
    def attach(cls, conninfo: str, url: str, lease: float, connections: int) -> Hub:
        """The process's hub of a database, which the first user opens."""
        with cls._guard:
            key = (conninfo, lease, connections)
            hub = cls._open.get(key)
            if hub is None:
                hub = cls._open[key] = cls(conninfo, url, lease, connections)
            hub._users += 1
            return hub

    def detach(self) -> None:
        """The last user closes it."""
        with self._guard:
            self._users -= 1
            if self._users:
                return
            Hub._open = {key: hub for key, hub in Hub._open.items() if hub is not self}
        self._close()

    def _close(self) -> None:
        if self.is_forked:
            return
        self._keeper.stop_renewing()
        if self._keeper.has_begun:
            # Watched: a server that hangs would hold up the end of the program.
            with suppress(driver.Error), self.link.connection(BRIEF) as connection:
                leases.forget_owner(connection, self.owner)
        self._keeper.stop()
        if self._end_watching:
            self._end_watching()
        self.link.close()

    @classmethod
    def close_all(cls) -> None:
        """At the end of the program: give back what nobody closed, so that it need not be waited
        for."""
        for hub in list(cls._open.values()):
            hub.give_back_all([held.name for held in list(hub.held.values())])
            hub._close()
        cls._open = {}

    @classmethod
    def forget(cls) -> None:
        """In a forked child: the connections and devices are its parent's."""
        cls._parents = list(cls._open.values())  # kept: the collector would close them
        cls._open = {}
        cls._guard = threading.RLock()

    _parents: list[Hub] = []

    def prepare(self, *, make: bool, upgrade: bool, key: Given = None) -> bool:
        """See that the tables are there, and are of our version; False if there are none.

        :param key: what the store brings that asks for it.
        :raises StoreUnreadable: if the server cannot be reached, or refuses us.
        """
        if not self._is_prepared:
            connection = open_one(self._conninfo, self.url)
            try:
                with mapped(self.url, schema=SCHEMA):
                    if key is not None and 0 < schema.version_of(connection) < schema.SEALS:
                        refuse_key(connection, self.url)
                    self._is_prepared = schema.prepare(
                        connection, self.url, make=make, upgrade=upgrade
                    )
                    if self._is_prepared:
                        self.keys.look(connection)
            finally:
                connection.close()
            self.link.open()
        return self._is_prepared

    def admit(self, key: Given, *, make: bool) -> bool:
        """Let a store in that brings this key; see :meth:`Keys.admit`."""
        if self.keys.ring is None and key is None:
            return self.keys.admit(None, key, make=make)
        with mapped(self.url, schema=SCHEMA):
            return self.retried(lambda connection: self.keys.admit(connection, key, make=make))

    @property
    def is_forked(self) -> bool:
        """True in a process that was forked after the database was opened."""
        return os.getpid() != self._pid

    # -- what may take several tries

    def retried(self, call: Callable[[Connection], T]) -> T:
        """Carry out what may be done twice, again if the connection was lost; until the lease has
        run out. The driver's errors come as they are."""
        for is_last in self.tries(self.lease):
            try:
                with self.link.connection() as connection:
                    return call(connection)
            except driver.Error as error:
                if is_last or not (is_lost(error) or is_rolled_back(error)):
                    raise
                self.link.renew(error)
        raise AssertionError("the last try returns or raises")

    def tries(self, patience: float) -> Iterator[bool]:
        """Tries that are further and further apart; True is the last one."""
        end = time.monotonic() + patience
        pause = 0.02
        while (left := end - time.monotonic()) > 0:
            yield False
            time.sleep(min(pause, left))
            pause = min(2 * pause, 1.0)
        yield True

    # -- devices

    def take(self, name: str, *, create: bool, steal: bool) -> Held:
        """Have a device from now on.

        :raises NoDevice: if there is none, unless ``create``.
        :raises StoreInUse: if it has a living owner, unless ``steal``; or if it is open here.
        """
        ids = self.keys.ids_of(name)
        with self._lock:
            if any(id in self.held or id in self._taking for id in ids):
                raise StoreInUse(self.url, f"device {name!r} is open already in this process")
            self._taking.update(ids)
        try:
            held = self._taken(name, create=create, steal=steal)
            if held.damage is not None:
                self._tell_free(held)
                raise held.damage
            return self.enter(held)
        finally:
            self._taking.difference_update(ids)

    def _taken(self, name: str, *, create: bool, steal: bool) -> Held:
        with mapped(self.url, schema=SCHEMA):
            self._keeper.ensure()
            while True:
                held = self.retried(
                    lambda connection: leases.take(
                        connection, self.keys, self.owner, name, create=create, steal=steal
                    )
                )
                if held is not None:
                    return held
                # Not under this name, as it is sealed with the keys that we know.
                if not self.retried(self.keys.renew) and not create:
                    raise NoDevice(self.url, f"holds no device {name!r}")

    def enter(self, held: Held) -> Held:
        """Note a device that the database says is ours."""
        with self._lock:
            self.held[held.id] = held
        return held

    def join(self, capacity: int) -> None:
        """Offer, as a worker of a fleet, to take so many devices."""
        self.capacity = capacity
        with mapped(self.url, schema=SCHEMA):
            self._keeper.ensure()
            self.retried(self.keep)

    def claim(self, limit: int, exclude: Collection[str] = ()) -> list[str]:
        """Have up to ``limit`` free devices from now on, other than ``exclude``; their names."""
        ids = [*self.ids_of(exclude), *self._taking]
        with mapped(self.url, schema=SCHEMA):
            self._keeper.ensure()
            # One try: what the answer was lost of is given back with a renewal.
            with self.link.connection() as connection:
                taken = claims.claim(connection, self.keys, self.owner, limit, ids)
        return [held.name for held in taken if self._enter_claimed(held)]

    def _enter_claimed(self, held: Held) -> bool:
        before = self.held.get(held.id)
        if before is not None and before.epoch < held.epoch:
            # It was taken from us and given back since, and nobody has noticed.
            self.lose(before, TAKEN)
        with self._lock:
            # A thread that opens it by its name has taken it again meanwhile, or will.
            is_ours = held.id not in self.held.keys() | self._taking
            if is_ours:
                self.enter(held)
            return is_ours

    def give_back_all(self, names: Collection[str]) -> None:
        """As :meth:`give_back`, many devices at once."""
        with self._lock:
            found = [self.held.pop(id, None) for id in self.ids_of(names)]
            epochs = {held.id: held.epoch for held in found if held is not None}
            self._taking.update(epochs)
        try:
            if epochs and not self.is_forked:
                with suppress(driver.Error), self.link.connection(BRIEF) as connection:
                    claims.give_back(connection, self.owner, epochs)
        finally:
            with self._lock:
                self._taking.difference_update(epochs)

    def give_back(self, name: str) -> None:
        """Let others have a device. If the database cannot be told now, it is with a renewal."""
        with self._lock:
            held = self.held_as(name)
            if held is None:
                return
            del self.held[held.id]
            if self.is_forked:
                return
            self._taking.add(held.id)  # or it might be taken again before it is given back
        try:
            self._tell_free(held)
        finally:
            self._taking.discard(held.id)

    def _tell_free(self, held: Held) -> None:
        with suppress(driver.Error), self.link.connection(BRIEF) as connection:
            leases.give_back(connection, held.id, self.owner, held.epoch)

    def watch(self, name: str, lost: Callable[[OwnershipLost], None]) -> None:
        """Have ``lost`` called when the device is found lost; at once if it is."""
        with self._lock:
            held = self.held_as(name)
            if held is not None:
                held.lost = lost
                return
        lost(self.lost(name, TAKEN))

    def forget_device(self, name: str) -> None:
        """A device was removed."""
        with self._lock:
            held = self.held_as(name)
            if held is not None:
                del self.held[held.id]

    def ids_of(self, names: Collection[str]) -> list[UUID]:
        """What the ids of devices may be."""
        return [id for name in names for id in self.keys.ids_of(name)]

    def held_as(self, name: str) -> Held | None:
        """The device of that name, if this process has it."""
        for id in self.keys.ids_of(name):
            held = self.held.get(id)
            if held is not None:
                return held
        return None

    def the(self, name: str) -> Held:
        """A device that this process has.

        :raises OwnershipLost: if it has it no more.
        """
        held = self.held_as(name)
        if held is None or self.is_forked:
            raise self.lost(name, TAKEN)
        return held

    def note_retry(self) -> None:
        """A commit is tried again."""
        if self._recorder:
            self._recorder.retried(KIND)

    def lose(self, held: Held, why: str) -> OwnershipLost:
        """A device is another owner's by now: whoever uses it is told."""
        error = self.lost(held.name, why)
        with self._lock:
            if self.held.get(held.id) is not held:
                return error  # told before, or given back
            held.ended = why
            del self.held[held.id]
        if self._recorder:
            self._recorder.leases_lost(KIND, 1)
        if held.lost is not None:
            held.lost(error)
        return error

    def lost(self, name: str, why: str) -> OwnershipLost:
        """What whoever uses a device is told that this process has no more."""
        if self.is_forked:
            return OwnershipLost(self.url, "was opened by another process, which forked this one")
        return OwnershipLost(f"{self.url} (device {name!r})", why)

    def keep(self, connection: Connection) -> None:
        """Renew the lease, and find out what was lost, or was closed and not given back."""
        before = dict(self.held)
        count = leases.renew(connection, self.owner, self.lease, len(before), self.capacity)
        self._renewals += 1
        # One may have been lost and another one gained, by a statement whose answer did not come.
        is_due = self._renewals % LOOKS == 0
        if count == len(before) and not self._strays and not is_due:
            return
        owned = leases.owned(connection, self.owner)
        for id, held in before.items():
            if id not in owned:
                self.lose(held, TAKEN)
        strays = owned.keys() - self.held.keys() - self._taking
        # Only what was one at the last renewal too: it may be taken, and not entered yet.
        forgotten = {id: owned[id] for id in strays & self._strays}
        if forgotten:
            claims.give_back(connection, self.owner, forgotten)
        self._strays = strays

    def expire(self) -> None:
        """The lease has run out, and the database cannot be asked who has the devices now."""
        for held in list(self.held.values()):
            self.lose(held, f"its lease of {self.lease:g} s ran out: the database did not answer")

    def is_still_ours(self, held: Held) -> bool:
        """Ask for a device that has another epoch than we know: what was sent to settle a commit
        may have come late, and raised it."""
        found = self.retried(lambda link: leases.settle(link, self.owner, [held.id]))
        if held.id not in found:
            return False
        held.epoch = found[held.id].epoch
        return found[held.id].commits == held.commits or bool(held.failed)

    # -- reading

    def reading(self, name: str, call: Callable[[Connection, Held], T | None]) -> T:
        """Read of a device that this process has; ``call`` gives None if it is another owner's.

        :raises OwnershipLost: then.
        """
        held = self.the(name)
        with mapped(self.url, schema=SCHEMA):
            found = self.retried(lambda connection: call(connection, held))
        if found is None:
            raise self.lose(held, TAKEN)
        return found

    # -- commits

    def lane(self, name: str) -> Lane:
        """What carries out the device's commits, with those of many other devices."""
        return self._lanes[rows.id_of(name).int % LANES]

    def writable(self, name: str, refused: dict[str, RatchetkeepError]) -> Held | None:
        held = None if self.is_forked else self.held_as(name)
        if held is None:
            refused[name] = self.lost(name, TAKEN)
        elif held.failed:
            what = f"an earlier commit failed ({held.failed})"
            refused[name] = CommitFailed(self.url, what, AGAIN)
        else:
            return held
        return None


class Lane:
    """The commits of some of a hub's devices, a group at a time."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._applying = threading.Lock()

    @contextmanager
    def still(self) -> Iterator[None]:
        """No commit of these devices is under way, inside this block."""
        with self._applying:
            yield

    def apply(self, *batches: Prepared) -> Refused:
        """Make batches durable in one transaction; see :meth:`Store.apply`."""
        refused: dict[str, RatchetkeepError] = {}
        work: Work = {}
        with self._applying:
            for batch in batches:
                held = self._hub.writable(batch.device, refused)
                if held is not None:
                    work.setdefault(held.id, (held, {}))[1].update(batch.changes)
            try:
                Applying(self._hub, work, refused).run()
            except BaseException as error:
                for held, _ in work.values():
                    held.failed = type(error).__name__
                raise
        return refused


os.register_at_fork(after_in_child=Hub.forget)
atexit.register(Hub.close_all)
