"""The rows of devices in PostgreSQL: which there are, who has them, and what becomes of them."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from urllib.parse import quote
from uuid import UUID

from . import _postgres_rows as rows
from ._moved import Moved, moved_of, to_milliseconds
from ._postgres_driver import Connection
from ._postgres_leases import ALIVE, Held
from .base import Finding, Listed

__all__ = [
    "commits_of",
    "committed",
    "findings",
    "is_there",
    "listing",
    "mark",
    "moved",
    "names",
    "remedy",
    "remove",
]

# One that never committed anything is about to be made, and not there yet.
_NAMES = "SELECT name FROM ratchetkeep.devices WHERE commits > 0"
_THERE = "SELECT 1 FROM ratchetkeep.devices WHERE id = %s AND commits > 0"
_LISTING = (
    f"SELECT d.name, coalesce(d.moved_to, ''), coalesce(CASE WHEN {ALIVE} THEN o.name END, ''), "
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
_MOVED = "SELECT moved_to, moved_at FROM ratchetkeep.devices WHERE id = %s"
# What a server must not be set to, where commits are to survive a power cut.
_SAFE = ("fsync", "full_page_writes")
_SETTINGS = "SELECT current_setting(%s, true)"


def names(connection: Connection) -> list[str]:
    """The names of all devices, sorted."""
    return sorted(name for (name,) in connection.execute(_NAMES))


def listing(connection: Connection) -> list[Listed]:
    """All devices, sorted by name."""
    return sorted(Listed(*row) for row in connection.execute(_LISTING, binary=True))


def is_there(connection: Connection, device: str) -> bool:
    """True if there is such a device."""
    return connection.execute(_THERE, (rows.id_of(device),)).fetchone() is not None


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
    values = (mark.to, mark.at, held.id, owner, held.epoch)
    row = connection.execute(_MARK, values).fetchone()
    return row is not None


def moved(connection: Connection, device: str, place: str) -> Moved | None:
    """Where a device was moved to, if it was."""
    row = connection.execute(_MOVED, (rows.id_of(device),)).fetchone()
    to, at = row or (None, None)
    if to is None and at is None:
        return None
    return moved_of(to, None if at is None else to_milliseconds(at), place)


def findings(connection: Connection, place: str) -> list[Finding]:
    """What of the server's settings makes that commits may be lost."""
    found = []
    for name in _SAFE:
        if connection.execute(_SETTINGS, (name,)).fetchone() == ("off",):
            what = f"the server runs with {name}=off: a power cut may lose or damage commits"
            remedy = f"Set {name} to on in the server's configuration"
            found.append(Finding("warning", place, what, remedy))
    return found
