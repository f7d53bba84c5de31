"""The data keys of a PostgreSQL database, and what they make of the names in its rows.

They belong to all that this process has open there. Each store that is opened shows its own key,
so that one with a wrong key is refused even while others work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar
from uuid import UUID, uuid4

from ratchetkeep.errors import DecodeError, InvalidValue, StoreDamaged, UnsupportedVersion
from ratchetkeep.sealing.cipher import Cipher, Sealed, State
from ratchetkeep.sealing.keys import SealKey
from ratchetkeep.sealing.opening import IfSealed, new_ring, open_ring
from ratchetkeep.sealing.ring import PLAIN_VAULT, Vault

from . import _postgres_rows as rows
from ._postgres_driver import Connection

__all__ = [
    "COLUMNS",
    "LOCK",
    "RING_IS",
    "Entry",
    "Given",
    "Keys",
    "Known",
    "New",
    "read_ring",
    "refuse_key",
]

Given = str | bytes | SealKey | None
"""What a caller gives as the key; None asks the environment."""

COLUMNS = "d.id, d.name, d.lineage, d.generation, d.commits, d.state"
"""What of a device's row an :class:`Entry` is made of."""

T = TypeVar("T")

# Whoever makes a device asks for it in the same statement: the database may have been sealed since
# its ring was read. Whoever changes the ring keeps out those who write devices meanwhile.
RING_IS = "(SELECT g.data FROM ratchetkeep.ring AS g WHERE g.id = 1) IS NOT DISTINCT FROM "
_RING = "SELECT data FROM ratchetkeep.ring WHERE id = 1"
LOCK = "LOCK TABLE ratchetkeep.devices IN SHARE MODE"
_HOLDS = "SELECT EXISTS (SELECT 1 FROM ratchetkeep.devices)"
_FIRST = "INSERT INTO ratchetkeep.ring (id, data) VALUES (1, %s) ON CONFLICT (id) DO NOTHING"
# Names that are looked up again and again are not sealed again each time.
_REMEMBERED = 65_536


class Entry(NamedTuple):
    """What a device's row tells of it, as it stands there."""

    id: UUID
    name: str
    lineage: UUID
    generation: int
    commits: int
    state: bytes | None


class Known(NamedTuple):
    """A device whose row was understood.

    :ivar history: the id of its history; see :class:`ratchetkeep.stores.base.History`.
    :ivar state: what it holds; of a plain one the number of commits alone.
    """

    name: str
    history: str
    cipher: Cipher
    state: State


class New(NamedTuple):
    """A device that is about to be made: its row, and what that says."""

    entry: Entry
    known: Known


class Keys:
    """The data keys of a database. Thread-safe, as each member is replaced as a whole.

    :ivar ring: what the database keeps of them; None if it is plain.
    :ivar vault: the same, opened.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.ring: bytes | None = None
        self.vault: Vault = PLAIN_VAULT
        self._given: Given = None
        self._is_open = False
        self._ids: dict[str, tuple[UUID, ...]] = {}
        # Devices whose names do not open, by what stands there.
        self._nameless: dict[str, UUID] = {}

    # -- the ring

    def look(self, connection: Connection) -> None:
        """Read the ring for the first time."""
        self.ring = read_ring(connection)

    def admit(self, connection: Connection | None, given: Given, *, make: bool) -> bool:
        """Let a store use the keys; False if it brings a key, and there is nothing to open yet.

        :param connection: where the ring is read again, as somebody may have changed it, or the
            database may have to be sealed now. None where it is plain, and no key is brought.
        :param make: seal it, if nothing is there.
        :raises WrongKey: if the key is not that of the database.
        :raises InvalidValue: if it brings one, and the database is plain.
        """
        ring = self.ring
        if connection is not None:
            ring = self._sealed_now(connection, given) if make else read_ring(connection)
            is_asking = given is not None and not isinstance(given, IfSealed)
            if ring is None and is_asking and not make and not _holds_devices(connection):
                return False
        vault = open_ring(ring, given, self.url)
        if not self._is_open or self.ring != ring:
            self._enter(vault, given, ring)
        return True

    def _sealed_now(self, connection: Connection, given: Given) -> bytes | None:
        """The ring, which is made if there is a key for it, and there are no devices."""
        found = read_ring(connection)
        if found is not None or _holds_devices(connection):
            return found
        made = new_ring(given, self.url)
        if made is None:
            return None
        with connection.transaction():
            connection.execute(LOCK)
            if not _holds_devices(connection):
                connection.execute(_FIRST, (made,))  # unless another worker was faster
        return read_ring(connection)

    def renew(self, connection: Connection) -> bool:
        """Read the ring again: somebody may have changed it. True if it is another one now; raises
        as :meth:`admit`."""
        found = read_ring(connection)
        if found == self.ring:
            return False
        self._enter(open_ring(found, self._given, self.url), self._given, found)
        return True

    def anew(self, connection: Connection, look: Callable[[], T | None]) -> T | None:
        """What ``look`` finds, by the ids that a device may have; the ring is read again if that is
        nothing, as the device may have gone over to another key."""
        found = look()
        return look() if found is None and self.renew(connection) else found

    def replace(self, ring: bytes | None, vault: Vault) -> None:
        """Use another ring, which this process has put there."""
        self._enter(vault, self._given, ring)

    def _enter(self, vault: Vault, given: Given, ring: bytes | None) -> None:
        self.vault, self._given = vault, given
        # Last: whoever makes a device reads it first, and the database then refuses an old one.
        self.ring, self._is_open = ring, True
        self._ids = {}

    # -- names

    def ids_of(self, name: str) -> tuple[UUID, ...]:
        """What the id of a device may be: one, unless the database is being sealed or opened."""
        found = self._ids.get(name)
        if found is None:
            if len(self._ids) >= _REMEMBERED:
                self._ids = {}
            spelled = self.vault.spellings(name)
            found = tuple(map(rows.id_of, spelled))
            if name in self._nameless:
                found = (*found, self._nameless[name])
            self._ids[name] = found
        return found

    def name_of(self, generation: int, spelled: str) -> str:
        """The name of a device.

        :raises StoreDamaged: if it was not sealed here.
        """
        return self.vault.open_name(generation, spelled)

    def nameless(self, entry: Entry) -> str:
        """What a device is called whose name does not open: what stands there."""
        self._nameless[entry.name] = entry.id
        self._ids.pop(entry.name, None)
        return entry.name

    # -- devices

    def new(self, name: str, commits: int = 0) -> New:
        """A device with a history of its own, sealed with the key of this moment.

        :param commits: how many it is to begin with.
        """
        vault, lineage = self.vault, uuid4()
        spelled = vault.seal_name(vault.current, name)
        cipher = vault.cipher(vault.current, name, lineage.hex)
        state = State(commits=commits)
        sealed = cipher.seal_state(state) if isinstance(cipher, Sealed) else None
        entry = Entry(rows.id_of(spelled), spelled, lineage, vault.current, commits, sealed)
        return New(entry, Known(name, lineage.hex, cipher, state))

    def is_known(self, entry: Entry) -> bool:
        """False if the device is sealed with a key that this vault may lack: it may be old."""
        return entry.generation in self.vault.generations

    def known(self, entry: Entry) -> Known:
        """What a device's row tells.

        :raises StoreDamaged: if something else than the device's commits changed it.
        """
        name = self.name_of(entry.generation, entry.name)
        if rows.id_of(entry.name) != entry.id:
            raise self._changed(name, "its id is not that of its name")
        history = entry.lineage.hex
        cipher = self.vault.cipher(entry.generation, name, history)
        state = State(commits=entry.commits)
        if isinstance(cipher, Sealed):
            state = self.state_of(cipher, name, entry.state)
            if state.commits != entry.commits:
                raise self._changed(name, "its number of commits is not what was sealed")
        return Known(name, history, cipher, state)

    def state_of(self, cipher: Sealed, name: str, sealed: bytes | None) -> State:
        """What a sealed device holds; raises as :meth:`known`."""
        try:
            return cipher.open_state(sealed or b"")
        except DecodeError as error:
            raise self._changed(name, f"the sum of its records {error.what}") from None
        except UnsupportedVersion as error:
            raise UnsupportedVersion(self.url, error.what) from None

    def _changed(self, name: str, what: str) -> StoreDamaged:
        return StoreDamaged(f"{self.url} (device {name!r})", what)


def read_ring(connection: Connection) -> bytes | None:
    """The ring; None in a plain database."""
    row = connection.execute(_RING, binary=True).fetchone()
    return None if row is None else bytes(row[0])


def refuse_key(connection: Connection, url: str) -> None:
    """:raises InvalidValue: if there are devices in tables that are too old to be sealed."""
    if _holds_devices(connection):
        what = "a key was given, and the store is not sealed"
        raise InvalidValue(url, what, "Seal it with `ratchetkeep seal`, or give no key")


def _holds_devices(connection: Connection) -> bool:
    return connection.execute(_HOLDS).fetchone() == (True,)
