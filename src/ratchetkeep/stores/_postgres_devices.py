"""The rows of devices in PostgreSQL: which there are, who has them, and what becomes of them."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote
from uuid import UUID

from ratchetkeep.errors import DecodeError, StoreDamaged, UnsupportedVersion

from ._moved import Moved, moved_of, to_milliseconds
from ._postgres_driver import Connection
from ._postgres_keys import COLUMNS, Entry, Keys
from ._postgres_leases import ALIVE, Held
from .base import Finding, Listed

__all__ = [
    "commits_of",
    "committed",
    "find",
    "findings",
    "generations",
    "is_there",
    "listing",
    "mark",
    "moved",
    "names",
    "place_of",
    "remedy",
    "remove",
]

# One that never committed anything is about to be made, and not there yet.
_NAMES = "SELECT generation, name FROM ratchetkeep.devices WHERE commits > 0"
_GENERATIONS = "SELECT generation, name FROM ratchetkeep.devices"
_THERE = "SELECT 1 FROM ratchetkeep.devices WHERE id = ANY(%s) AND commits > 0"
_FIND = f"SELECT {COLUMNS} FROM ratchetkeep.devices AS d WHERE d.id = ANY(%s) AND d.commits > 0"
_LISTING = (
    f"SELECT {COLUMNS}, coalesce(d.moved_to, ''), coalesce(CASE WHEN {ALIVE} THEN o.name END, ''), "
    f"CASE WHEN {ALIVE} THEN extract(epoch FROM o.until - now())::float8 END, "
    "coalesce(r.number, 0), d.committed "
    "FROM ratchetkeep.devices AS d LEFT JOIN ratchetkeep.owners AS o ON o.id = d.owner "
    "LEFT JOIN (SELECT device, count(*) AS number FROM ratchetkeep.records GROUP BY device) AS r "
    "ON r.device = d.id WHERE d.commits > 0"
)
_COMMITS = "SELECT commits FROM ratchetkeep.devices WHERE id = %s"
_COMMITTED = "SELECT committed FROM ratchetkeep.devices WHERE id = %s"
_REMOVE = (
    "WITH gone AS (DELETE FROM ratchetkeep.devices "
    "WHERE id = %(id)s AND owner = %(owner)s AND epoch = %(epoch)s RETURNING id), "
    "records AS (DELETE FROM ratchetkeep.records AS r USING gone WHERE r.device = gone.id), "
    "takeovers AS (DELETE FROM ratchetkeep.takeovers AS t USING gone WHERE t.device = gone.id) "
    "SELECT EXISTS (SELECT 1 FROM gone) "
    "OR NOT EXISTS (SELECT 1 FROM ratchetkeep.devices WHERE id = %(id)s)"
)
_MARK = (
    "UPDATE ratchetkeep.devices SET moved_to = %s, moved_at = %s "
    "WHERE id = %s AND owner = %s AND epoch = %s RETURNING commits"
)
_MOVED = (
    f"SELECT d.moved_to, d.moved_at, {COLUMNS} FROM ratchetkeep.devices AS d WHERE d.id = ANY(%s)"
)
# What a server must not be set to, where commits are to survive a power cut.
_SAFE = ("fsync", "full_page_writes")
_SETTINGS = "SELECT current_setting(%s, true)"


def names(connection: Connection, keys: Keys) -> list[str]:
    """The names of all devices, sorted."""
    found = connection.execute(_NAMES).fetchall()
    _see_keys(connection, keys, (generation for generation, _ in found))
    return sorted(keys.name_of(*row) for row in found)


def generations(connection: Connection, keys: Keys) -> dict[str, int]:
    """Which data key each device is sealed with, by name; those too that are about to be made."""
    found = connection.execute(_GENERATIONS).fetchall()
    return {keys.name_of(*row): row[0] for row in found}


def listing(connection: Connection, keys: Keys) -> list[Listed]:
    """All devices, sorted by name."""
    found = [
        (Entry(*row[:_WIDTH]), *row[_WIDTH:]) for row in connection.execute(_LISTING, binary=True)
    ]
    _see_keys(connection, keys, (entry.generation for entry, *_ in found))
    return sorted(
        Listed(keys.name_of(entry.generation, entry.name), _shown(keys, entry, to), *more)
        for entry, to, *more in found
    )


_WIDTH = len(Entry._fields)


def _see_keys(connection: Connection, keys: Keys, generations: Iterable[int]) -> None:
    """Read the ring again if there are devices that are sealed with a key which we do not know."""
    if not {*generations} <= {*keys.vault.generations}:
        keys.renew(connection)


def _shown(keys: Keys, entry: Entry, to: str) -> str:
    """Where a device was moved to, for a list: opening it tells of a mark that does not open."""
    with suppress(StoreDamaged, UnsupportedVersion):
        return place_of(keys, entry, to) if to else ""
    return ""


def place_of(keys: Keys, entry: Entry, to: str) -> str:
    """Where a device was moved to, as its row has it.

    :raises StoreDamaged: if that was not sealed for it.
    """
    name = keys.name_of(entry.generation, entry.name)
    cipher = keys.vault.cipher(entry.generation, name, entry.lineage.hex)
    try:
        return cipher.open_text(to)
    except DecodeError as error:
        place = f"{keys.url} (device {name!r})"
        raise StoreDamaged(place, f"its mark {error.what}") from None
    except UnsupportedVersion as error:
        raise UnsupportedVersion(keys.url, error.what) from None


def is_there(connection: Connection, keys: Keys, device: str) -> bool:
    """True if there is such a device."""
    return _sought(connection, keys, _THERE, device) is not None


def _sought(connection: Connection, keys: Keys, statement: str, device: str) -> Any:
    """The row of a device; None if it is not there."""

    def look() -> Any:
        ids = list(keys.ids_of(device))
        return connection.execute(statement.encode(), (ids,)).fetchone()

    return keys.anew(connection, look)


def find(connection: Connection, keys: Keys, device: str) -> Held | None:
    """A device that is only read; None if it is not there.

    :raises StoreDamaged: if something else than its commits changed its row.
    """
    ids = list(keys.ids_of(device))
    row = connection.execute(_FIND, (ids,), binary=True).fetchone()
    if row is None:
        return None
    entry = Entry(*row)
    known = keys.known(entry)
    return Held(known.name, entry.id, 0, entry.commits, *known[1:])


def remedy(names: Sequence[str]) -> str | None:
    """What to tell whoever named a device that is not there."""
    if not names:
        return None
    listed = ", ".join(f"?device={quote(name)}" for name in names[:3])
    more = ", and more" if len(names) > 3 else ""
    return f"Name one of those it holds after the path: {listed}{more}"


def commits_of(connection: Connection, held: Held) -> int | None:
    """How many commits a device has; None if it is not there."""
    row = connection.execute(_COMMITS, (held.id,)).fetchone()
    return None if row is None else int(row[0])


def committed(connection: Connection, held: Held) -> datetime.datetime | None:
    """When a device's last commit was; None if it is not there."""
    row = connection.execute(_COMMITTED, (held.id,)).fetchone()
    return None if row is None else row[0]


def remove(connection: Connection, held: Held, owner: UUID) -> bool:
    """Remove a device with all that is kept of it; True if it is gone."""
    values = {"id": held.id, "owner": owner, "epoch": held.epoch}
    return connection.execute(_REMOVE, values).fetchone() == (True,)


def mark(connection: Connection, held: Held, owner: UUID, mark: Moved) -> bool:
    """Note where a device was moved to; False if it is another owner's."""
    values = (held.cipher.seal_text(mark.to), mark.at, held.id, owner, held.epoch)
    row = connection.execute(_MARK, values).fetchone()
    return row is not None


def moved(connection: Connection, keys: Keys, device: str) -> Moved | None:
    """Where a device was moved to, if it was."""
    to, at, *columns = _sought(connection, keys, _MOVED, device) or (None, None)
    if to is None and at is None:
        return None
    to = to if to is None else place_of(keys, Entry(*columns), to)
    return moved_of(to, None if at is None else to_milliseconds(at), keys.url)


def findings(connection: Connection, place: str) -> list[Finding]:
    """What of the server's settings makes that commits may be lost."""
    found = []
    for name in _SAFE:
        if connection.execute(_SETTINGS, (name,)).fetchone() == ("off",):
            what = f"the server runs with {name}=off: a power cut may lose or damage commits"
            remedy = f"Set {name} to on in the server's configuration"
            found.append(Finding("warning", place, what, remedy))
    return found
