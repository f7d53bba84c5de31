"""Which device lists, tctokens and pre-keys go: told from ids, times and counters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ratchetkeep.formats._addresses import Address, Jid, mapping_of, sender_key_parts
from ratchetkeep.model import Credentials, TcToken
from ratchetkeep.prekeys import MAX_PRE_KEY_ID, is_waiting

DAY = 86_400
"""Seconds."""

TOKEN_INDEX = "__index"  # noqa: S105 - the name of a record
"""The id under which Baileys keeps the list of its tctokens, which is none itself. It leaves out of
it what it does not find when it prunes the next time."""


class Users:
    """The users of whom something is kept beside a device list.

    :ivar is_sure: False once something came of which it cannot be told whose it is: it may be
        anybody's.
    """

    def __init__(self, credentials: Credentials) -> None:
        self._kept: set[str] = set()
        self._pairs: dict[str, set[str]] = {}
        self.is_sure = True
        me = credentials.me
        for jid in (me.id, me.lid) if me else ():
            if jid:
                self.add_jid(jid)

    def add(self, family: str, id: str, value: Any = None) -> None:
        """A record that is kept: of the sessions and sender keys the id is enough."""
        if family == "session":
            self._add_address(Address.from_node(id))
        elif family == "sender-key":
            parts = sender_key_parts(id)
            self._add_address(Address.from_go(parts[1]) if parts else None)
        elif family == "sender-key-memory":
            self._add_memory(value)
        elif family == "lid-mapping":
            self._add_pair(id, value)

    def add_jid(self, jid: str) -> None:
        """A user, or one of a user's devices."""
        found = Jid.from_node(jid)
        if found is None:
            self.is_sure = False
        else:
            self._kept.add(found.user)

    def _add_address(self, address: Address | None) -> None:
        if address is None:
            self.is_sure = False  # whose it is cannot be told
        else:
            self._kept.add(address.user)

    def _add_memory(self, value: Any) -> None:
        if not isinstance(value, Mapping):
            self.is_sure = False
            return
        for jid in value:
            self.add_jid(jid)

    def _add_pair(self, id: str, other: Any) -> None:
        pair = mapping_of(id, other) if isinstance(other, str) else None
        if pair is None:
            self.is_sure = False
            return
        lid, pn = pair
        self._pairs.setdefault(lid, set()).add(pn)
        self._pairs.setdefault(pn, set()).add(lid)

    def names(self, user: str) -> bool | None:
        """True if something is kept of the user, by phone number or by LID; None if that cannot be
        told."""
        address = Address.from_node(f"{user}.0")
        if address is None:
            return None
        if not {address.user, *self._pairs.get(address.user, ())}.isdisjoint(self._kept):
            return True
        return False if self.is_sure else None


def has_run_out(token: TcToken, days: int, now: float) -> bool:
    """True if every time of the record is ``days`` ago, and what has none is not needed either.

    ``timestamp`` is the token's own, ``sender_timestamp`` when the other side last got ours.
    """
    times = [_seconds(token.sender_timestamp)] if token.sender_timestamp is not None else []
    if token.token:
        times.append(_seconds(token.timestamp))
    limit = now - days * DAY
    return bool(times) and all(time is not None and time < limit for time in times)


def is_without_time(token: TcToken) -> bool:
    """True for a token of which nobody can say how old it is."""
    return bool(token.token) and _seconds(token.timestamp) is None


def _seconds(value: Any) -> int | None:
    """Seconds since 1970: a number, its text, or a JS Long; None if it is none."""
    if isinstance(value, Mapping):
        value = (int(value["high"]) << 32) | (int(value["low"]) & 0xFFFFFFFF)
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def spare_pre_keys(ids: Iterable[str], credentials: Credentials, keep: int) -> list[str]:
    """The pre-keys that were uploaded, without the ``keep`` newest of them; oldest first.

    What waits for upload stays, and so does what the counters do not speak of: ids that no client
    gives, and those ahead of the next one.
    """
    behind = {}
    for id in ids:
        steps = _behind(int(id), credentials)
        if steps is not None:
            behind[id] = steps
    oldest_first = sorted(behind, key=lambda id: (-behind[id], id))
    return oldest_first[: max(0, len(oldest_first) - keep)]


def _behind(id: int, credentials: Credentials) -> int | None:
    """Steps from an uploaded pre-key forward to the first that waits; None for all others."""
    if not 1 <= id <= MAX_PRE_KEY_ID or is_waiting(id, credentials):
        return None
    steps = (credentials.first_unuploaded_pre_key_id - id) % MAX_PRE_KEY_ID
    # More than half way round it is ahead: nobody knows whether it was uploaded.
    return steps if 0 < steps <= MAX_PRE_KEY_ID // 2 else None
