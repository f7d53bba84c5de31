"""The stores that are measured, ours and others'."""

from __future__ import annotations

from .bare import BareLimit
from .base import Peer, PeerMissing
from .clients import Pyaileys, Waton
from .databases import Lmdb, SqliteBare, SqliteDefault
from .files import OneFile
from .node import Baileys
from .ours import (
    SEALING_KEY,
    OurBaileys,
    OurBaileysEx,
    Ours,
    OurSqlite,
    OurSqliteAsync,
    OurSqliteSealed,
)
from .postgres import BarePostgres, OurPostgres, OurPostgresAsync, OurPostgresSealed

PEERS: list[type[Peer]] = [
    BareLimit,
    OurSqlite,
    OurSqliteAsync,
    OurSqliteSealed,
    OurBaileys,
    OurBaileysEx,
    SqliteDefault,
    SqliteBare,
    Lmdb,
    OneFile,
    Baileys,
    Pyaileys,
    Waton,
]


def present() -> tuple[list[type[Peer]], dict[str, str]]:
    """The peers that can run here, and why each of the others cannot."""
    found, missing = [], {}
    for peer in PEERS:
        try:
            peer.check()
            found.append(peer)
        except PeerMissing as why:
            missing[peer.name] = str(why)
    return found, missing


__all__ = [
    "PEERS",
    "SEALING_KEY",
    "Baileys",
    "BareLimit",
    "BarePostgres",
    "Lmdb",
    "OneFile",
    "OurBaileys",
    "OurBaileysEx",
    "OurPostgres",
    "OurPostgresAsync",
    "OurPostgresSealed",
    "OurSqlite",
    "OurSqliteAsync",
    "OurSqliteSealed",
    "Ours",
    "Peer",
    "PeerMissing",
    "Pyaileys",
    "SqliteBare",
    "SqliteDefault",
    "Waton",
    "present",
]
