"""whatsmeow's tables: what they are called, what is in them, and since which version.

Each row of a device names the device's JID; almost all such tables have a foreign key to
``whatsmeow_device`` that deletes their rows with it. ``whatsmeow_privacy_tokens`` has none, so its
rows must be deleted by hand. ``whatsmeow_lid_map`` belongs to no device: all of them share it.

Source: the database that neonize 0.5.2 (whatsmeow of 2026) makes: version 15, compatible from
version 8. The tests compare it with ours, column by column.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

LATEST, COMPATIBLE, OLDEST = 15, 8, 8
"""The version that we make, the one that it is compatible with, and the oldest that we know."""

VERSION_TABLE = "whatsmeow_version"
DEVICE_TABLE = "whatsmeow_device"
LID_TABLE = "whatsmeow_lid_map"
_APP_STATE, _MACS = "whatsmeow_app_state_version", "whatsmeow_app_state_mutation_macs"


class Column(NamedTuple):
    """A column.

    :ivar since: the version that added it.
    """

    name: str
    type: str
    rule: str = ""
    since: int = 1

    @property
    def default(self) -> object:
        """What the column holds in rows that do not say."""
        if "DEFAULT" not in self.rule:
            return None
        return 0 if self.rule.endswith("0") else ""


class Table(NamedTuple):
    """A table.

    :ivar key: the primary key.
    :ivar owner: the column that names the device; "" in tables that belong to none.
    :ivar parent: the table that a foreign key of ours leads to, by its first columns' names.
    :ivar what: what a client keeps there, for tables that no other library has.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    owner: str = ""
    parent: tuple[str, tuple[str, ...], tuple[str, ...]] | None = None
    since: int = 1
    indexes: tuple[tuple[str, tuple[str, ...], int], ...] = ()
    what: str = ""

    def names(self, version: int = LATEST) -> tuple[str, ...]:
        """The names of the columns that a version has."""
        return tuple(column.name for column in self.columns if column.since <= version)


def _sized(name: str, size: int, *, required: bool = True) -> Column:
    null = "NOT NULL " if required else ""
    return Column(name, "bytea", f"{null}CHECK ( length({name}) = {size} )")


def _number(name: str, limit: int, *, type: str, required: bool = True) -> Column:
    null = "NOT NULL " if required else ""
    return Column(name, type, f"{null}CHECK ( {name} >= 0 AND {name} < {limit} )")


def _text(name: str, *, required: bool = False) -> Column:
    return Column(name, "TEXT", "NOT NULL" if required else "")


def _bytes(name: str, *, required: bool = True) -> Column:
    return Column(name, "bytea", "NOT NULL" if required else "")


def _time(name: str) -> Column:
    return Column(name, "BIGINT", "NOT NULL")


def _of_device(owner: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    return DEVICE_TABLE, (owner,), ("jid",)


_EMPTY = "NOT NULL DEFAULT ''"
_OURS, _THEIRS = _text("our_jid"), _text("their_id")

TABLES: tuple[Table, ...] = (
    Table(
        DEVICE_TABLE,
        (
            Column("jid", "TEXT", "PRIMARY KEY"),
            _text("lid"),
            Column("facebook_uuid", "uuid"),
            _number("registration_id", 2**32, type="BIGINT"),
            _sized("noise_key", 32),
            _sized("identity_key", 32),
            _sized("signed_pre_key", 32),
            _number("signed_pre_key_id", 2**24, type="INTEGER"),
            _sized("signed_pre_key_sig", 64),
            _bytes("adv_key"),
            _bytes("adv_details"),
            _sized("adv_account_sig", 64),
            _sized("adv_account_sig_key", 32),
            _sized("adv_device_sig", 64),
            Column("platform", "TEXT", _EMPTY),
            Column("business_name", "TEXT", _EMPTY),
            Column("push_name", "TEXT", _EMPTY),
            Column("lid_migration_ts", "BIGINT", "NOT NULL DEFAULT 0", since=10),
            Column("companion_meta_nonce", "TEXT", _EMPTY, since=15),
        ),
        key=("jid",),
    ),
    Table(
        "whatsmeow_identity_keys",
        (_OURS, _THEIRS, _sized("identity", 32)),
        key=("our_jid", "their_id"),
        owner="our_jid",
        parent=_of_device("our_jid"),
    ),
    Table(
        "whatsmeow_pre_keys",
        (
            _text("jid"),
            _number("key_id", 2**24, type="INTEGER", required=False),
            _sized("key", 32),
            Column("uploaded", "BOOLEAN", "NOT NULL"),
        ),
        key=("jid", "key_id"),
        owner="jid",
        parent=_of_device("jid"),
    ),
    Table(
        "whatsmeow_sessions",
        (_OURS, _THEIRS, _bytes("session", required=False)),
        key=("our_jid", "their_id"),
        owner="our_jid",
        parent=_of_device("our_jid"),
    ),
    Table(
        "whatsmeow_sender_keys",
        (_OURS, _text("chat_id"), _text("sender_id"), _bytes("sender_key")),
        key=("our_jid", "chat_id", "sender_id"),
        owner="our_jid",
        parent=_of_device("our_jid"),
    ),
    Table(
        "whatsmeow_app_state_sync_keys",
        (
            _text("jid"),
            _bytes("key_id", required=False),
            _bytes("key_data"),
            _time("timestamp"),
            _bytes("fingerprint"),
        ),
        key=("jid", "key_id"),
        owner="jid",
        parent=_of_device("jid"),
    ),
    Table(
        _APP_STATE,
        (_text("jid"), _text("name"), _time("version"), _sized("hash", 128)),
        key=("jid", "name"),
        owner="jid",
        parent=_of_device("jid"),
    ),
    Table(
        _MACS,
        (
            _text("jid"),
            _text("name"),
            Column("version", "BIGINT"),
            _sized("index_mac", 32, required=False),
            _sized("value_mac", 32),
        ),
        key=("jid", "name", "version", "index_mac"),
        owner="jid",
        parent=(_APP_STATE, ("jid", "name"), ("jid", "name")),
    ),
    Table(
        "whatsmeow_contacts",
        (
            _OURS,
            _text("their_jid"),
            _text("first_name"),
            _text("full_name"),
            _text("push_name"),
            _text("business_name"),
            Column("redacted_phone", "TEXT", since=11),
        ),
        key=("our_jid", "their_jid"),
        owner="our_jid",
        parent=_of_device("our_jid"),
        what="names of contacts; they come back as contacts write and sync",
    ),
    Table(
        "whatsmeow_chat_settings",
        (
            _OURS,
            _text("chat_jid"),
            Column("muted_until", "BIGINT", "NOT NULL DEFAULT 0"),
            Column("pinned", "BOOLEAN", "NOT NULL DEFAULT false"),
            Column("archived", "BOOLEAN", "NOT NULL DEFAULT false"),
        ),
        key=("our_jid", "chat_jid"),
        owner="our_jid",
        parent=_of_device("our_jid"),
        what="which chats are muted, pinned or archived; a full app state sync brings it back",
    ),
    Table(
        "whatsmeow_message_secrets",
        (
            _OURS,
            _text("chat_jid"),
            _text("sender_jid"),
            _text("message_id"),
            _bytes("key"),
        ),
        key=("our_jid", "chat_jid", "sender_jid", "message_id"),
        owner="our_jid",
        parent=_of_device("our_jid"),
        what="secrets of messages: votes, reactions and edits that refer to them cannot be read",
    ),
    Table(
        "whatsmeow_privacy_tokens",
        (
            _OURS,
            _text("their_jid"),
            _bytes("token"),
            _time("timestamp"),
            Column("sender_timestamp", "BIGINT", since=12),
        ),
        key=("our_jid", "their_jid"),
        owner="our_jid",
        since=4,
        indexes=(("idx_whatsmeow_privacy_tokens_our_jid_timestamp", ("our_jid", "timestamp"), 12),),
    ),
    Table(
        "whatsmeow_nct_salt",
        (Column("our_jid", "TEXT", "PRIMARY KEY"), _bytes("salt")),
        key=("our_jid",),
        owner="our_jid",
        parent=_of_device("our_jid"),
        since=14,
        what="a salt for tokens of new chats; the server sends it again",
    ),
    Table(
        LID_TABLE,
        (Column("lid", "TEXT", "PRIMARY KEY"), Column("pn", "TEXT", "UNIQUE NOT NULL")),
        key=("lid",),
        since=8,
    ),
    Table(
        "whatsmeow_event_buffer",
        (
            _text("our_jid", required=True),
            _sized("ciphertext_hash", 32),
            _bytes("plaintext", required=False),
            _time("server_timestamp"),
            _time("insert_timestamp"),
        ),
        key=("our_jid", "ciphertext_hash"),
        owner="our_jid",
        parent=_of_device("our_jid"),
        since=9,
        what="messages that were decrypted and perhaps not handled yet; let the client handle "
        "them before it is stopped",
    ),
    Table(
        "whatsmeow_retry_buffer",
        (
            _text("our_jid", required=True),
            _text("chat_jid", required=True),
            _text("message_id", required=True),
            _text("format", required=True),
            _bytes("plaintext"),
            _time("timestamp"),
        ),
        key=("our_jid", "chat_jid", "message_id"),
        owner="our_jid",
        parent=_of_device("our_jid"),
        since=13,
        indexes=(("whatsmeow_retry_buffer_timestamp_idx", ("our_jid", "timestamp"), 13),),
        what="messages of the last days, kept to answer requests to send them again",
    ),
)
TABLE: Mapping[str, Table] = {table.name: table for table in TABLES}


def statements(version: int = LATEST) -> list[str]:
    """What makes a new database: its tables as a version had them, and the row that says so."""
    made = [f"CREATE TABLE {VERSION_TABLE} (version INTEGER, compat INTEGER)"]
    for table in TABLES:
        if table.since <= version:
            made.append(_create(table, version))
            made += [
                f"CREATE INDEX {name} ON {table.name} ({', '.join(columns)})"
                for name, columns, since in table.indexes
                if since <= version
            ]
    compatible = min(version, COMPATIBLE)
    return [*made, f"INSERT INTO {VERSION_TABLE} VALUES ({version}, {compatible})"]


def _create(table: Table, version: int) -> str:
    parts = [
        f"{column.name} {column.type} {column.rule}".rstrip()
        for column in table.columns
        if column.since <= version
    ]
    if not any("PRIMARY KEY" in column.rule for column in table.columns):
        parts.append(f"PRIMARY KEY ({', '.join(table.key)})")
    if table.parent:
        parent, ours, theirs = table.parent
        parts.append(
            f"FOREIGN KEY ({', '.join(ours)}) REFERENCES {parent}({', '.join(theirs)}) "
            "ON DELETE CASCADE ON UPDATE CASCADE"
        )
    return f"CREATE TABLE {table.name} ({', '.join(parts)})"
