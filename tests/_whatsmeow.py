"""What the tests of the whatsmeow store share: databases to look into, and the real library."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw
import psycopg

from _helpers import ALICE, BOB
from ratchetkeep import copy_device
from ratchetkeep.stores import _whatsmeow_schema as schema

ALICE_JID, BOB_JID = "4915112345678:12@s.whatsapp.net", "15551230001:7@s.whatsapp.net"
SECONDS = 60

_NEONIZE = """
import json, sys
from neonize.client import ClientFactory
found = ClientFactory.get_all_devices_from_db(sys.argv[1])
print()
print(json.dumps([[f"{each.JID.User}@{each.JID.Server}", each.PushName] for each in found]))
"""


class Database(ABC):
    """A whatsmeow database of a test.

    :ivar address: what whatsmeow's own programs open.
    """

    address: str

    def url(self, jid: str | None = None) -> str:
        """Our URL of a device in it, or of the only one."""
        if jid is None:
            return f"whatsmeow:{self.address}"
        mark = "&" if "?" in self.address else "?"
        return f"whatsmeow:{self.address}{mark}jid={quote(jid, safe='@:')}"

    @abstractmethod
    def run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Carry out a statement around the code under test; places are ``?``."""

    def make(self, version: int = schema.LATEST) -> None:
        """Make whatsmeow's tables as a version had them."""
        for statement in schema.statements(version):
            self.run(statement)

    def dump(self, *, but: str = "") -> dict[str, list[tuple[Any, ...]]]:
        """All rows of all tables; those of the device ``but`` are left out."""
        found = {}
        for table in schema.TABLES:
            names = self.columns(table.name)
            if names:
                where = f" WHERE {table.owner or 'jid'} <> '{but}'" if but else ""
                where = "" if table.name == schema.LID_TABLE else where
                rows = self.run(f"SELECT {', '.join(names)} FROM {table.name}{where}")
                found[table.name] = sorted(rows, key=repr)
        return found

    @abstractmethod
    def columns(self, table: str) -> list[str]:
        """The columns of a table, none if it is not there."""

    @abstractmethod
    def described(self) -> Any:
        """The whole schema, in a form that is equal for equal schemas."""

    def neonize(self) -> list[list[str]]:
        """The JIDs and names of the devices that the real library reads."""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _NEONIZE, self.address],
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stderr
        assert not re.search("error|failed|panic", done.stdout + done.stderr, re.I), done.stderr
        found: list[list[str]] = json.loads(done.stdout.splitlines()[-1])
        return sorted(found)


class SqliteFile(Database):
    """An SQLite file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.address = str(path)

    def run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.open() as connection:
            return connection.execute(statement, values).fetchall()

    @contextmanager
    def open(self) -> Iterator[apsw.Connection]:
        """A connection of another program."""
        connection = apsw.Connection(str(self.path))
        try:
            yield connection
        finally:
            connection.close()

    def make(self, version: int = schema.LATEST) -> None:
        super().make(version)
        self.path.chmod(0o600)

    def columns(self, table: str) -> list[str]:
        return [row[1] for row in self.run(f"PRAGMA table_info({table})")]

    def described(self) -> Any:
        rows = self.run("SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema")
        return sorted((*row[:3], re.sub(r"\s", "", row[3])) for row in rows)


class PostgresDatabase(Database):
    """A PostgreSQL database."""

    def __init__(self, url: str) -> None:
        self.address = url

    def run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.address, autocommit=True) as connection:
            cursor = connection.execute(statement.replace("?", "%s").encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def columns(self, table: str) -> list[str]:
        rows = self.run(
            "SELECT column_name::text FROM information_schema.columns "
            "WHERE table_schema = 'public' AND table_name = ? ORDER BY ordinal_position",
            table,
        )
        return [name for (name,) in rows]

    def described(self) -> Any:
        return [
            sorted(self.run(statement), key=repr)
            for statement in (
                "SELECT table_name, column_name, ordinal_position, column_default, is_nullable, "
                "data_type FROM information_schema.columns WHERE table_schema = 'public'",
                "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) "
                "FROM pg_constraint WHERE connamespace = 'public'::regnamespace",
                "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
            )
        ]


def put_alice(database: Database) -> None:
    """Copy the golden device to a database."""
    copy_device(f"baileys:{ALICE}", database.url())


def put_bob(database: Database) -> None:
    """Copy the other golden device to a database."""
    copy_device(f"baileys:{BOB}", database.url())


def expected_row(folder: Path) -> dict[str, Any]:
    """The row of a golden Baileys device, as whatsmeow would have written it, by what section is
    said of the columns; worked out from the JSON alone."""
    creds = json.loads((folder / "creds.json").read_bytes())

    def raw(value: Any) -> bytes:
        return base64.b64decode(value["data"] if isinstance(value, dict) else value)

    account, signed = creds["account"], creds["signedPreKey"]
    return {
        "jid": creds["me"]["id"],
        "lid": creds["me"]["lid"],
        "facebook_uuid": None,
        "registration_id": creds["registrationId"],
        "noise_key": raw(creds["noiseKey"]["private"]),
        "identity_key": raw(creds["signedIdentityKey"]["private"]),
        "signed_pre_key": raw(signed["keyPair"]["private"]),
        "signed_pre_key_id": signed["keyId"],
        "signed_pre_key_sig": raw(signed["signature"]),
        "adv_key": raw(creds["advSecretKey"]),
        "adv_details": raw(account["details"]),
        "adv_account_sig": raw(account["accountSignature"]),
        "adv_account_sig_key": raw(account["accountSignatureKey"]),
        "adv_device_sig": raw(account["deviceSignature"]),
        "platform": creds["platform"],
        "business_name": "",
        "push_name": creds["me"]["name"],
        "lid_migration_ts": 0,
        "companion_meta_nonce": "",
    }


# Rows of the tables that only whatsmeow has, by table: the columns after the device's.
OWN_ROWS: dict[str, tuple[Any, ...]] = {
    "whatsmeow_contacts": ("1@s.whatsapp.net", "Zoë", "Zoë M", "zoe", "", "+1 ∙∙∙ 1"),
    "whatsmeow_chat_settings": ("1@s.whatsapp.net", -1, True, False),
    "whatsmeow_message_secrets": ("1@s.whatsapp.net", "1@lid", "3EB0", b"s" * 32),
    "whatsmeow_nct_salt": (b"salt",),
    "whatsmeow_event_buffer": (b"h" * 32, b"plain", 1, 2),
    "whatsmeow_retry_buffer": ("1@s.whatsapp.net", "3EB0", "text", b"plain", 1),
}


def put_own_rows(database: Database, jid: str) -> None:
    """Give a device a row in every table that only whatsmeow has."""
    for table, row in OWN_ROWS.items():
        places = ", ".join("?" * (len(row) + 1))
        database.run(f"INSERT INTO {table} VALUES ({places})", jid, *row)
