"""The store contract and the state machine on PostgreSQL, and what this store has to itself."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import run_state_machine_as_test

import _pgsealed
import pgserver
from ratchetkeep import Credentials, Device, copy_device, open_device
from ratchetkeep.model import Key
from ratchetkeep.stores import _postgres_rows as rows
from ratchetkeep.testing import StoreContract
from ratchetkeep.testing.stateful import make_store_machine
from ratchetkeep.testing.strategies import NATIVE, values_for

PROFILE = settings(
    deadline=None,
    database=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
MACHINE = settings(PROFILE, max_examples=12, stateful_step_count=25)


@pytest.fixture(scope="module")
def server() -> Iterator[pgserver.Server]:
    with pgserver.running() as server:
        yield server


class TestPostgres(StoreContract):
    """postgresql://HOST/DATABASE?device=NAME"""

    many_devices = True

    @pytest.fixture
    def url(self, server: pgserver.Server) -> str:
        return server.new_database() + "&lease=2&device=Zo%C3%AB%2F7"

    def raw_get(self, url: str, key: Key) -> bytes:
        data: bytes = self._execute(url, key, f"SELECT data FROM {_ROW}")[0][0]
        return data

    def raw_put(self, url: str, key: Key, data: bytes | None) -> None:
        statement = f"DELETE FROM {_ROW}" if data is None else _PUT
        assert self._execute(url, key, statement + " RETURNING id", data=data)

    def open_orphan(self, url: str, *, read_only: bool) -> Device:
        return open_device(url, read_only=read_only, wait=30)

    @staticmethod
    def _execute(url: str, key: Key, statement: str, **more: Any) -> list[Any]:
        name = parse_qs(urlsplit(url).query).get("device", ["default"])[0]
        values = {"device": rows.id_of(name), "family": key.family, "id": key.id, **more}
        with psycopg.connect(url.partition("&lease=")[0]) as connection:
            return connection.execute(statement.encode(), values).fetchall()


_ROW = (
    "ratchetkeep.records WHERE device = %(device)s AND family = %(family)s "
    "AND (id = %(id)s OR family = 'credentials')"
)
_PUT = (
    "INSERT INTO ratchetkeep.records (device, family, id, data) "
    "VALUES (%(device)s, %(family)s, %(id)s, %(data)s) "
    "ON CONFLICT (device, family, id) DO UPDATE SET data = excluded.data"
)


class TestSealedPostgres(TestPostgres):
    """The same, sealed."""

    @pytest.fixture(autouse=True)
    def key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _pgsealed.give_key(monkeypatch)
        # The contract copies to places that are not sealed.
        for tests in ("_records", "_moves"):
            name = f"ratchetkeep.testing.{tests}.copy_device"
            monkeypatch.setattr(name, partial(copy_device, plaintext=True))

    @pytest.fixture
    def url(self, server: pgserver.Server) -> str:
        return _pgsealed.sealed_database(server) + "&lease=2&device=Zo%C3%AB%2F7"

    def raw_get(self, url: str, key: Key) -> bytes:
        row = _pgsealed.row_of(url, key)
        ((data,),) = _pgsealed.asked(url, f"SELECT data FROM {_pgsealed.ROW}", **row)
        return _pgsealed.device_of(url).cipher.open(key, data)

    def raw_put(self, url: str, key: Key, data: bytes | None) -> None:
        row = _pgsealed.row_of(url, key)
        if data is None:
            statement = f"DELETE FROM {_pgsealed.ROW}"
        else:
            statement, row["data"] = _PUT, _pgsealed.device_of(url).cipher.seal(key, data)
        assert _pgsealed.asked(url, statement + " RETURNING id", **row)


@pytest.fixture(params=["plain", "sealed"])
def database(
    request: pytest.FixtureRequest, server: pgserver.Server, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The URL of a new database."""
    if request.param == "plain":
        return server.new_database()
    _pgsealed.give_key(monkeypatch)
    return _pgsealed.sealed_database(server)


def test_store_is_as_good_as_a_dict(database: str) -> None:
    """After some sequence of calls the store would hold something else than was put there."""

    def make_url() -> str:
        return f"{database}&device={uuid.uuid4().hex}"

    run_state_machine_as_test(make_store_machine(make_url, values_for(NATIVE)), settings=MACHINE)


def test_any_value_comes_back(database: str) -> None:
    """Some valid value would change on its way to the database and back, or fail to be read."""
    values = values_for(NATIVE)

    @PROFILE
    @given(credentials=values.credentials, records=values.batches)
    def check(credentials: Credentials, records: dict[str, dict[str, Any]]) -> None:
        url = f"{database}&device={uuid.uuid4().hex}"
        with open_device(url, create=True) as device, device.transaction():
            device.save_credentials(credentials)
            device.set(records)
        with open_device(url) as device:
            assert device.credentials == credentials
            for family, members in records.items():
                read = device.get(family, members)
                assert read == {id: v for id, v in members.items() if v is not None}

    check()
