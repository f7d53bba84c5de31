"""The stores that are measured, ours and others'."""

from __future__ import annotations

from .bare import BareLimit
from .base import Peer, PeerMissing
from .clients import Pyaileys, Waton
from .databases import Lmdb, SqliteBare, SqliteDefault
from .files import OneFile
from .node import Baileys
from .ours import OurBaileys, OurBaileysEx, Ours, OurSqlite, OurSqliteAsync

PEERS: list[type[Peer]] = [
    BareLimit,
    OurSqlite,
    OurSqliteAsync,
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
    "Baileys",
    "BareLimit",
    "Lmdb",
    "OneFile",
    "OurBaileys",
    "OurBaileysEx",
    "OurSqlite",
    "OurSqliteAsync",
    "Ours",
    "Peer",
    "Pyaileys",
    "SqliteBare",
    "SqliteDefault",
    "Waton",
    "present",
]
