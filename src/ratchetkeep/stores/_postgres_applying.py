"""Commits on their way into PostgreSQL, until it is known of each whether it is stored."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

from ratchetkeep.errors import CommitFailed, RatchetkeepError
from ratchetkeep.model import Key

from . import _postgres_leases as leases
from . import _postgres_rows as rows
from ._postgres_driver import driver, mapped
from ._postgres_leases import Held
from ._postgres_link import SCHEMA, is_lost, is_rolled_back
from ._postgres_sealing import Spelled, spell

if TYPE_CHECKING:
    from ._postgres_hub import Hub

__all__ = ["AGAIN", "TAKEN", "Applying", "Work"]

AGAIN = "Close the device and open it again: opening shows what is stored"
TAKEN = "was taken over by another owner"
WENT_BACK = (
    "has lost commits in the database that were confirmed: a standby that took over lacked them, "
    "or a backup was put back"
)
CHANGED = "was changed in the database by something else than its owner's commits"

# The commits of a group, of each device all together.
Work: TypeAlias = dict[UUID, tuple[Held, dict[Key, bytes | None]]]


class Applying:
    """A group of commits.

    :param work: the commits; those whose outcome is known are removed.
    :param refused: where those go of which nothing is stored.
    """

    def __init__(self, hub: Hub, work: Work, refused: dict[str, RatchetkeepError]) -> None:
        self._hub = hub
        self._work = work
        self._refused = refused
        # Whether an answer is missing: the commits are stored, or not, or will be.
        self._is_unknown = False
        # Whether a device has another epoch than we know.
        self._is_fenced_off = False
        self._was_sent = False
        # What those of sealed devices are to store, the same in each try: the one that is found to
        # be stored is then this one.
        self._spelled: dict[UUID, Spelled] = {}

    def run(self) -> None:
        """Carry them out, again and again while the connection is lost and the lease runs."""
        for _ in self._hub.tries(math.inf):
            self._drop_lost()
            if not self._work:
                return  # all are told: to find out more could last as long as an outage
            self._was_sent = False
            try:
                if self._is_unknown or self._is_fenced_off:
                    self._settle()
                if self._work:
                    self._write()
                if not self._work:
                    return
            except driver.Error as error:
                if not (is_lost(error) or is_rolled_back(error)):
                    self._give_up(error)
                    return
                if is_lost(error):
                    self._is_unknown |= self._was_sent
                    self._hub.link.renew(error)
            self._hub.note_retry()

    def _give_up(self, error: driver.Error) -> None:
        """The database refuses: nothing of what is left is stored, unless an answer is missing."""
        try:
            with mapped(self._hub.url, self._failed, schema=SCHEMA):
                raise error
        except RatchetkeepError as ours:
            for held, _ in self._work.values():
                held.failed = type(error).__name__
                self._refused[held.name] = self._unknown(ours.what) if self._is_unknown else ours

    def _unknown(self, then: str) -> RatchetkeepError:
        what = "the connection was lost during a commit, and nobody knows whether it is stored"
        return self._failed(f"{what}: {then}")

    def _failed(self, what: str) -> RatchetkeepError:
        return CommitFailed(self._hub.url, what, AGAIN)

    def _drop_lost(self) -> None:
        for id, (held, _) in list(self._work.items()):
            if self._hub.held.get(id) is held:
                continue
            del self._work[id]
            why = held.ended or "the device was closed"
            self._refused[held.name] = (
                self._unknown(why) if self._is_unknown else self._hub.lost(held.name, why)
            )

    def _write(self) -> None:
        hub = self._hub
        with hub.link.connection() as connection:
            new = [each for id, each in self._work.items() if id not in self._spelled]
            self._spelled |= spell(connection, hub.tags, new)
            writes = [self._as_write(held, each) for held, each in self._work.values()]
            self._was_sent = True
            landed = rows.write(connection, writes)
        for id in landed:
            self._note_landed(self._work.pop(id)[0])
        # Most likely another owner's by now; but to settle may come late as well, after the answer
        # to one that was sent later, and raise the epoch of what is ours.
        self._is_fenced_off = bool(self._work)

    def _as_write(self, held: Held, changes: dict[Key, bytes | None]) -> rows.Write:
        spelled = self._spelled.get(held.id)
        if spelled is None:
            return rows.Write(held.id, held.epoch, held.commits, changes)
        return rows.Write(held.id, held.epoch, held.commits, spelled.changes, spelled.sealed)

    def _note_landed(self, held: Held) -> None:
        spelled = self._spelled.get(held.id)
        if spelled is None:
            held.commits += 1
        else:
            self._hub.tags.landed(held, spelled)

    def _settle(self) -> None:
        """Find out which are stored, and which devices are ours; no earlier try can store anything
        from now on."""
        with self._hub.link.connection() as connection:
            ours = leases.settle(connection, self._hub.owner, list(self._work))
            ends = {
                id: leases.commits_of_epoch(connection, id, held.epoch)
                for id, (held, _) in self._work.items()
                if id not in ours
            }
        was_unknown, self._is_unknown = self._is_unknown, False
        for id, (held, _) in list(self._work.items()):
            before = held.commits
            if id in ours:
                held.epoch, commits, state = ours[id]
                if commits != before:
                    del self._work[id]
                    self._note_settled(held, commits, state)
                continue
            del self._work[id]
            error = self._hub.lose(held, TAKEN)
            end = ends[id]
            if not was_unknown or end == before:
                self._refused[held.name] = error
            elif end != before + 1:
                self._refused[held.name] = self._unknown(TAKEN)

    def _note_settled(self, held: Held, commits: int, state: bytes | None) -> None:
        """A device has another number of commits than we know of."""
        spelled = self._spelled.get(held.id)
        if commits < held.commits:
            self._refused[held.name] = self._hub.lose(held, WENT_BACK)
        elif spelled is not None and (commits, state) != (spelled.state.commits, spelled.sealed):
            self._refused[held.name] = self._hub.lose(held, CHANGED)
        elif spelled is not None:
            self._hub.tags.landed(held, spelled)
        else:
            held.commits = commits
