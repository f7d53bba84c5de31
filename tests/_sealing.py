"""What the tests of sealing share: sealed stores, what they hold, and how a foreign hand changes
them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw

from _helpers import small_baileys
from ratchetkeep import Device, copy_device, open_device
from ratchetkeep.model import CREDENTIALS, FAMILIES, Key

KEY = bytes(range(32))
OTHER_KEY = bytes(range(32, 64))
NAME = "+15551230001"

Values = dict[Key, Any]


class Place:
    """An SQLite file of ours in a folder of its own."""

    def __init__(self, folder: Path, name: str = "x.db") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.path = folder / name
        self.store = f"sqlite:{self.path}"

    def url(self, device: str = NAME) -> str:
        return f"{self.store}?device={quote(device)}"

    def execute(self, text: str, *values: Any) -> list[Any]:
        """SQL, as another program would run it."""
        connection = apsw.Connection(str(self.path))
        connection.set_busy_timeout(5000)
        try:
            return connection.execute(text, values).fetchall()
        finally:
            connection.close()

    def rows(self, family: str | None = None, device: int = 1) -> list[tuple[Any, ...]]:
        """The rows of a device's records: number, family, id and data."""
        only = "" if family is None else " AND family = ?"
        values = (device,) if family is None else (device, family)
        text = f"SELECT rowid, family, id, data FROM records WHERE device = ?{only} ORDER BY rowid"
        return self.execute(text, *values)

    def copy(self, folder: Path) -> Place:
        """The same files elsewhere, as they are now."""
        other = Place(folder, self.path.name)
        for path in self.folder.iterdir():
            shutil.copy2(path, folder / path.name)
        return other

    def state(self) -> dict[str, tuple[bytes, int, int]]:
        """All files with their modes and times, and the folder's own."""
        found = {path.name: path for path in self.folder.iterdir()} | {"": self.folder}
        return {
            name: (path.read_bytes() if name else b"", path.stat().st_mode, path.stat().st_mtime_ns)
            for name, path in found.items()
        }


def values_in(device: Device) -> Values:
    """Everything that an open device holds."""
    found: Values = {CREDENTIALS: device.credentials}
    for family in FAMILIES:
        if family != CREDENTIALS.family:
            for id, value in device.get(family, device.ids(family)).items():
                found[Key(family, id)] = value
    return found


def values_of(url: str, key: Any = KEY) -> Values:
    """Everything that a device holds."""
    with open_device(url, read_only=True, key=key) as device:
        return values_in(device)


def small_source(folder: Path) -> str:
    """The URL of a Baileys device with a record of every family."""
    return f"baileys:{small_baileys(folder)}"


def sealed(place: Place, source: str, *devices: str, key: Any = KEY) -> Place:
    """Copies of a device, in a sealed file (a plain one, without a key)."""
    for device in devices or (NAME,):
        copy_device(source, place.url(device), target_key=key)
    return place


@contextmanager
def environment(monkeypatch: Any, **values: str) -> Iterator[None]:
    """Variables of RATCHETKEEP_KEY_* for a while."""
    with monkeypatch.context() as patch:
        for name, value in values.items():
            patch.setenv(f"RATCHETKEEP_KEY_{name}", value)
        yield


def without(values: Mapping[Key, Any], *gone: Key) -> Values:
    """Some values less."""
    return {key: value for key, value in values.items() if key not in gone}
