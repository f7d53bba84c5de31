"""One committer: our store, the bare driver and the default store, in turns."""

from __future__ import annotations

from benchmarks.measure import Contender, Results, committing, say
from benchmarks.peers import (
    BareLimit,
    BarePostgres,
    OurPostgres,
    OurPostgresAsync,
    OurPostgresSealed,
    OurSqlite,
    Peer,
)
from benchmarks.workloads import Field, bundles, run_turns

from .server import Server

SESSION, BUNDLE = "postgresql session", "postgresql bundle"


def lone(field: Field, server: Server) -> dict[str, Results]:
    """The times of one session, and of a session with its pre-key and the credentials."""
    database = server.new_database()
    folder, data, size = field.folder, field.data, field.scale.main
    peers: list[Peer] = [
        kind(folder / f"lone{number}", data, size)
        for number, kind in enumerate((BareLimit, OurSqlite))
    ]
    for peer in peers:
        peer.folder.mkdir()
    of_server: list[type[OurPostgres] | type[BarePostgres]]
    of_server = [OurPostgres, OurPostgresAsync, BarePostgres]
    peers += [kind(folder, data, size, database) for kind in of_server]
    # All devices of a database are sealed, or none.
    peers.append(OurPostgresSealed(folder, data, size, server.new_database()))
    contenders = [Contender(peer, field.scale.group, field.scale.stock) for peer in peers]
    for each in contenders:
        say(f"building {each.peer.name}, {size:,} sessions")
        each.peer.build()
        each.peer.open()
        each.warm(field.scale.warm_bytes)
    try:
        return {
            SESSION: run_turns(field, SESSION, contenders, committing(Contender.session)),
            BUNDLE: run_turns(field, BUNDLE, contenders, bundles),
        }
    finally:
        for each in contenders:
            each.peer.close()
