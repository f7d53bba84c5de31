"""The store contract and the state machine, on every store of ours."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import run_state_machine_as_test

from ratchetkeep import Credentials, open_device
from ratchetkeep.model import CREDENTIALS, Key
from ratchetkeep.sealing.keys import KeyFile, make_key_file
from ratchetkeep.sealing.opening import new_ring
from ratchetkeep.stores import _sqlite_file, memory
from ratchetkeep.stores._sqlite_rows import View
from ratchetkeep.testing import Holds, StoreContract
from ratchetkeep.testing.stateful import make_store_machine
from ratchetkeep.testing.strategies import (
    BAILEYS,
    BAILEYS6,
    BAILEYSEX,
    BAILEYSEX_JSON,
    NATIVE,
    PYAILEYS,
    values_for,
)

PROFILE = settings(
    deadline=None,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
MACHINE = settings(PROFILE, max_examples=25, stateful_step_count=25)


class TestMemory(StoreContract):
    """memory:NAME"""

    many_devices = True
    many_processes = False

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"memory:{uuid.uuid4()}"

    def raw_get(self, url: str, key: Key) -> bytes:
        return _place(url)[key]

    def raw_put(self, url: str, key: Key, data: bytes | None) -> None:
        if data is None:
            del _place(url)[key]
        else:
            _place(url)[key] = data


def _place(url: str) -> dict[Key, bytes]:
    return memory._PLACES[url.removeprefix("memory:")].devices["default"]


class TestSqlite(StoreContract):
    """sqlite:PATH"""

    many_devices = True

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:{tmp_path}/device.db"

    def raw_get(self, url: str, key: Key) -> bytes:
        rows = self._execute(url, key, f"SELECT data FROM records WHERE {_ROW}", {})
        data: bytes = rows[0][0]
        return data

    def raw_put(self, url: str, key: Key, data: bytes | None) -> None:
        statement = _DELETE if data is None else _PUT
        assert self._execute(url, key, statement + " RETURNING id", {"data": data})

    @staticmethod
    def _execute(url: str, key: Key, statement: str, values: dict[str, Any]) -> list[Any]:
        path, _, query = url.removeprefix("sqlite:").partition("?")
        device = parse_qs(query).get("device", ["default"])[0]
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            values = {"device": device, "family": key.family, "id": key.id, **values}
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()


class TestSqliteSealed(TestSqlite):
    """sqlite:PATH, sealed"""

    @pytest.fixture
    def url(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        make_key_file(tmp_path / "key")
        monkeypatch.setenv("RATCHETKEEP_KEY_FILE", str(tmp_path / "key"))
        _sqlite_file.make(f"{tmp_path}/device.db", new_ring(KeyFile(tmp_path / "key"), ""))
        return f"sqlite:{tmp_path}/device.db"

    @staticmethod
    def _execute(url: str, key: Key, statement: str, values: dict[str, Any]) -> list[Any]:
        """The row of a record, whose place and bytes the key alone tells."""
        path, _, query = url.removeprefix("sqlite:").partition("?")
        device = parse_qs(query).get("device", ["default"])[0]
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            view = View(connection, url, None)
            row = view.find(device)
            assert row is not None
            name = view.vault.seal_name(row.cipher.generation, device)
            asked = {"device": name, "family": key.family, "id": row.cipher.row_id(key)}
            if values.get("data") is not None:
                values = {"data": row.cipher.seal(key, values["data"])}
            found: list[Any] = connection.execute(statement, {**asked, **values}).fetchall()
            if statement.startswith("SELECT"):
                return [(row.cipher.open(key, data),) for (data,) in found]
            return found
        finally:
            connection.close()


_ROW = "device = (SELECT id FROM devices WHERE name = :device) AND family = :family AND id = :id"
_DELETE = f"DELETE FROM records WHERE {_ROW}"
_PUT = (
    "INSERT INTO records (device, family, id, data) "
    "SELECT id, :family, :id, :data FROM devices WHERE name = :device "
    "ON CONFLICT (device, family, id) DO UPDATE SET data = excluded.data"
)


class TestSqliteNamedDevice(TestSqlite):
    """sqlite:PATH?device=NAME"""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:{tmp_path}/farm.sqlite3?device=Zo%C3%AB%2F7"


class _Folder(StoreContract):
    suffix = ""

    def raw_get(self, url: str, key: Key) -> bytes:
        return self._path(url, key).read_bytes()

    def raw_put(self, url: str, key: Key, data: bytes | None) -> None:
        path = self._path(url, key)
        assert path.exists() or key == CREDENTIALS
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)

    def _path(self, url: str, key: Key) -> Path:
        name = "creds" if key == CREDENTIALS else f"{key.family}-{key.id}"
        name = name.replace("/", "__").replace(":", "-") + self.suffix
        return Path(url.partition(":")[2]) / name


class TestBaileys(_Folder):
    """baileys:DIR"""

    holds = BAILEYS
    suffix = ".json"

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"baileys:{tmp_path}/auth"


class TestBaileys6(_Folder):
    """baileys6:DIR"""

    holds = BAILEYS6
    suffix = ".json"

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"baileys6:{tmp_path}/auth"

    def _path(self, url: str, key: Key) -> Path:
        return super()._path(url, key._replace(id=key.id.replace("_1.", ".")))


class TestBaileysEx(_Folder):
    """baileysex:DIR"""

    holds = BAILEYSEX
    suffix = ".etf"

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"baileysex:{tmp_path}/auth"


class TestBaileysExJson(_Folder):
    """baileysex-json:DIR"""

    holds = BAILEYSEX_JSON
    suffix = ".json"

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"baileysex-json:{tmp_path}/auth"


class TestPyaileys(_Folder):
    """pyaileys:DIR"""

    holds = PYAILEYS
    suffix = ".json"

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"pyaileys:{tmp_path}/auth"


PLACES: list[tuple[str, Holds]] = [
    ("memory:{name}", NATIVE),
    ("sqlite:{folder}/{name}.db", NATIVE),
    ("sqlite:{folder}/many.db?device={name}", NATIVE),
    ("baileys:{folder}/{name}", BAILEYS),
    ("baileys6:{folder}/{name}", BAILEYS6),
    ("baileysex:{folder}/{name}", BAILEYSEX),
    ("baileysex-json:{folder}/{name}", BAILEYSEX_JSON),
    ("pyaileys:{folder}/{name}", PYAILEYS),
]
IDS = [
    "memory",
    "sqlite",
    "sqlite-device",
    "baileys",
    "baileys6",
    "baileysex",
    "baileysex-json",
    "pyaileys",
]


@pytest.mark.parametrize(("place", "holds"), PLACES, ids=IDS)
def test_store_is_as_good_as_a_dict(place: str, holds: Holds, tmp_path: Path) -> None:
    """After some sequence of calls a store would hold something else than was put there."""

    def make_url() -> str:
        return place.format(folder=tmp_path, name=uuid.uuid4().hex)

    run_state_machine_as_test(make_store_machine(make_url, values_for(holds)), settings=MACHINE)


@pytest.mark.parametrize(("place", "holds"), PLACES, ids=IDS)
def test_any_value_that_the_format_holds_comes_back(place: str, holds: Holds) -> None:
    """Some valid value would change on its way to the disk and back, or fail to be read."""

    values = values_for(holds)

    @PROFILE
    @given(credentials=values.credentials, records=values.batches)
    def check(credentials: Credentials, records: dict[str, dict[str, Any]]) -> None:
        folder = tempfile.mkdtemp()
        url = place.format(folder=folder, name=uuid.uuid4().hex)
        try:
            with open_device(url, create=True) as device, device.transaction():
                device.save_credentials(credentials)
                device.set(records)
            with open_device(url) as device:
                assert device.credentials == credentials
                for family, members in records.items():
                    read = device.get(family, members)
                    assert read == {id: v for id, v in members.items() if v is not None}
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    check()
