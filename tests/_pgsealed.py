"""Sealed databases: made, looked at row by row, and tampered with."""

from __future__ import annotations

import base64
from typing import Any

import psycopg
import pytest

import pgserver
from _pgload import LEASE, Fleet
from pgproxy import Proxy
from ratchetkeep import Device, open_store, verify_device
from ratchetkeep.model import Key
from ratchetkeep.stores import urls
from ratchetkeep.stores._postgres_leases import Held
from ratchetkeep.stores.postgres import PostgresStore

KEY = bytes(range(100, 132))
OTHER = bytes(range(32))
VARIABLE = "RATCHETKEEP_KEY_PASSPHRASE"


def give_key(patch: pytest.MonkeyPatch, key: bytes = KEY) -> None:
    """Have the environment give a key."""
    patch.setenv(VARIABLE, f"ratchetkeep-key-1:{base64.b64encode(key).decode()}")


def sealed_database(server: pgserver.Server) -> str:
    """The URL of a new database that is sealed, and empty."""
    url = server.new_database()
    seal_empty(url)
    return url


def seal_empty(url: str) -> None:
    """Seal a database without devices."""
    with open_store(url, key=KEY) as store:
        store.create("first").close()
        store.remove("first")


def device_of(url: str) -> Held:
    """A device as its row has it, opened."""
    target = urls.parse(url)
    store = urls.open_target(target)
    assert isinstance(store, PostgresStore)
    try:
        store.acquire(target.device, read_only=True, create=False)
        return store._readers[target.device].held
    finally:
        store.close()


def asked(url: str, statement: str, **values: Any) -> list[tuple[Any, ...]]:
    """What the database answers."""
    with psycopg.connect(_base(url)) as connection:
        cursor = connection.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []


def row_of(url: str, key: Key) -> dict[str, Any]:
    """What names a record's row in statements."""
    held = device_of(url)
    return {"device": held.id, "family": key.family, "id": held.cipher.row_id(key)}


ROW = "ratchetkeep.records WHERE device = %(device)s AND family = %(family)s AND id = %(id)s"
PUT = (
    "INSERT INTO ratchetkeep.records (device, family, id, data) "
    "VALUES (%(device)s, %(family)s, %(id)s, %(data)s) "
    "ON CONFLICT (device, family, id) DO UPDATE SET data = excluded.data"
)


def _base(url: str) -> str:
    """The URL without what is ours in it."""
    base, _, query = url.partition("?")
    ours = ("device=", "lease=", "connections=")
    return f"{base}?{'&'.join(part for part in query.split('&') if not part.startswith(ours))}"


class SealedFleet(Fleet):
    """A fleet whose database is sealed."""

    def __init__(self, server: pgserver.Server, proxy: Proxy, lease: float = LEASE) -> None:
        super().__init__(server, proxy, lease)
        seal_empty(self.beside().partition("&lease")[0])

    def commits(self, name: str = "alice") -> int:
        """See Fleet."""
        return device_of(self.beside(name)).commits

    def check_memory(self, device: Device) -> dict[str, int]:
        """See Fleet; and that the records are those of the last commit."""
        assert errors_of(self.beside(device.name)) == []
        return super().check_memory(device)


def errors_of(url: str) -> list[str]:
    """What is the matter with a device."""
    return [found.what for found in verify_device(url) if found.severity == "error"]
