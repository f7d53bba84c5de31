"""What is written and read: the sessions of the sample device, under as many addresses as needed.

Every commit writes bytes that differ from the stored ones. SQLite leaves out the write and the sync
of a row that stays the same, so equal content would measure nothing.
"""

from __future__ import annotations

import base64
import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path

from ratchetkeep import Credentials, KeyPair, open_device
from ratchetkeep.formats import baileysex, native
from ratchetkeep.model import CREDENTIALS, Key, SessionRecord

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "examples" / "alice"
STOCK = 812
"""Pre-keys that Baileys makes at once."""
FIRST_PRE_KEY = 1_000


@dataclass(frozen=True)
class Change:
    """One commit.

    :ivar sessions: number of a session, and what its new content is made from.
    :ivar put_pre_keys: ids of pre-keys to store.
    :ivar drop_pre_keys: ids of pre-keys to delete.
    :ivar credentials: the new account sync counter, or None to leave the credentials alone.
    """

    sessions: tuple[tuple[int, int], ...] = ()
    put_pre_keys: tuple[int, ...] = ()
    drop_pre_keys: tuple[int, ...] = ()
    credentials: int | None = None


def address(number: int) -> str:
    """The id of session ``number``."""
    return f"{4_915_200_000_000 + number}.{number % 100}"


def salt(number: int, content: int) -> bytes:
    """32 bytes that stand in for a root key: the same for the same arguments."""
    return hashlib.blake2b(b"%d %d" % (number, content), digest_size=32).digest()


def root_key(record: SessionRecord) -> bytes:
    """The root key of a record's first session."""
    return next(iter(record.sessions.values())).current_ratchet.root_key


@dataclass
class Data:
    """The sample's sessions, credentials and fresh pre-keys, in every spelling that is needed.

    :ivar raw: sessions in our own format; stores of other makers get these bytes as they are.
    :ivar key_seconds: how long making the pre-keys took.
    """

    credentials: Credentials
    credentials_raw: bytes
    sessions: list[SessionRecord]
    raw: list[bytes]
    json: list[bytes]
    etf: list[bytes]
    credentials_json: bytes
    credentials_etf: bytes
    pre_keys: list[KeyPair]
    pre_keys_raw: list[bytes]
    key_seconds: float
    _places: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        pairs = zip(self.raw, self.sessions, strict=True)
        self._places = [raw.index(root_key(record)) for raw, record in pairs]

    def template(self, number: int) -> int:
        """Which of the sample's sessions number ``number`` is made from."""
        return number % len(self.sessions)

    def value(self, number: int, content: int) -> SessionRecord:
        """A session with content of its own."""
        record = self.sessions[self.template(number)]
        base, session = next(iter(record.sessions.items()))
        ratchet = session.current_ratchet.replace(root_key=salt(number, content))
        changed = session.replace(current_ratchet=ratchet)
        return record.replace(sessions={**record.sessions, base: changed})

    def bytes_of(self, number: int, content: int) -> bytes:
        """The same as bytes, for stores that decode nothing; the checksum is left as it was."""
        at = self.template(number)
        raw, place = self.raw[at], self._places[at]
        return raw[:place] + salt(number, content) + raw[place + 32 :]

    def pre_key(self, id: int) -> KeyPair:
        """The pre-key that is stored under ``id``."""
        return self.pre_keys[id % len(self.pre_keys)]

    def pre_key_bytes(self, id: int) -> bytes:
        """The same as bytes."""
        return self.pre_keys_raw[id % len(self.pre_keys)]

    def credentials_bytes(self, counter: int) -> bytes:
        """Credentials as bytes with content of their own."""
        return self.credentials_raw[:-8] + counter.to_bytes(8, "big")

    def rows(self, change: Change) -> dict[tuple[str, str], bytes | None]:
        """A commit as bytes by family and id; None deletes."""
        rows: dict[tuple[str, str], bytes | None] = {
            ("session", address(number)): self.bytes_of(number, content)
            for number, content in change.sessions
        }
        rows |= {("pre-key", str(id)): self.pre_key_bytes(id) for id in change.put_pre_keys}
        rows |= {("pre-key", str(id)): None for id in change.drop_pre_keys}
        if change.credentials is not None:
            rows["creds", "creds"] = self.credentials_bytes(change.credentials)
        return rows

    def first_rows(self, size: int) -> dict[tuple[str, str], bytes]:
        """What a device of ``size`` sessions holds at first, with its credentials."""
        rows = {
            ("session", address(number)): self.raw[self.template(number)] for number in range(size)
        }
        return {**rows, ("creds", "creds"): self.credentials_raw}


def load() -> Data:
    """Read the sample device and make the pre-keys."""
    with open_device(f"baileys:{SAMPLE}", read_only=True) as device:
        credentials = device.credentials
        found = device.get("session", device.ids("session"))
    sessions = {Key("session", id): value for id, value in found.items() if value.sessions}
    start = time.perf_counter()
    pre_keys = [KeyPair.new() for _ in range(STOCK)]
    key_seconds = time.perf_counter() - start
    return Data(
        credentials=credentials,
        credentials_raw=_native(CREDENTIALS, credentials),
        sessions=list(sessions.values()),
        raw=[_native(key, value) for key, value in sessions.items()],
        json=[(SAMPLE / f"session-{key.id}.json").read_bytes() for key in sessions],
        etf=[_etf(key, value, credentials) for key, value in sessions.items()],
        credentials_json=(SAMPLE / "creds.json").read_bytes(),
        credentials_etf=_etf(CREDENTIALS, credentials, credentials),
        pre_keys=pre_keys,
        pre_keys_raw=[_native(Key("pre-key", "1"), pair) for pair in pre_keys],
        key_seconds=key_seconds,
    )


def _native(key: Key, value: object) -> bytes:
    return native.encode(key, value).data or b""


def _etf(key: Key, value: object, credentials: Credentials) -> bytes:
    return baileysex.encode(key, value, credentials).data or b""


def in_base64(data: bytes) -> str:
    """Standard base64, as JSON folders spell bytes."""
    return base64.b64encode(data).decode()
