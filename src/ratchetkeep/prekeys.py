"""One-time pre-keys: minting, what waits for upload, and the stock.

Ids go from 1 to 0xFFFFFE and begin again, as libsignal draws them (``KeyHelper.generatePreKeys``);
on the wire an id has three bytes. The credentials' ``next_pre_key_id`` and
``first_unuploaded_pre_key_id`` bound those that are not on the server yet.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ratchetkeep.errors import InvalidValue
from ratchetkeep.model import Credentials, Key, KeyPair

__all__ = ["MAX_PRE_KEY_ID", "PreKeyStock"]

MAX_PRE_KEY_ID = 0xFFFFFE
LOCK = "credentials"
"""The lock that a change of the credentials takes, so that none is lost."""


@dataclass(frozen=True)
class PreKeyStock:
    """The one-time pre-keys.

    :ivar held: how many are in the store.
    :ivar lowest: the lowest id held, or None without any.
    :ivar highest: the highest id held, or None without any.
    :ivar waiting: how many of them are not on the server yet.
    :ivar next_id: the id that the next minted one gets, unless it is taken.
    """

    held: int
    lowest: int | None
    highest: int | None
    waiting: int
    next_id: int


def _wrapped(id: int) -> int:
    return (id - 1) % MAX_PRE_KEY_ID + 1


def _ahead(start: int, end: int) -> int:
    """Steps from ``start`` forward to ``end``."""
    return (end - start) % MAX_PRE_KEY_ID


def is_waiting(id: int, credentials: Credentials) -> bool:
    """True if a pre-key of this id is not on the server yet."""
    if id > MAX_PRE_KEY_ID:
        return False  # no client of ours made it, and the wire has no room for it
    first = _wrapped(credentials.first_unuploaded_pre_key_id)
    return _ahead(first, id) < _pending(credentials)


def _pending(credentials: Credentials) -> int:
    """How many ids lie between the first that waits and the next one."""
    first, next_id = credentials.first_unuploaded_pre_key_id, credentials.next_pre_key_id
    count = _ahead(_wrapped(first), _wrapped(next_id))
    # More than half way round: the counters stand the wrong way, and nothing waits.
    return 0 if count > MAX_PRE_KEY_ID // 2 else count


def stock(ids: Iterable[str], credentials: Credentials) -> PreKeyStock:
    """The stock, of the ids that are in the store."""
    held = [int(id) for id in ids]
    return PreKeyStock(
        held=len(held),
        lowest=min(held, default=None),
        highest=max(held, default=None),
        waiting=sum(is_waiting(id, credentials) for id in held),
        next_id=_wrapped(credentials.next_pre_key_id),
    )


def waiting(ids: Iterable[str], credentials: Credentials) -> list[str]:
    """Of the ids in the store, those that are not on the server yet, oldest first."""
    first = _wrapped(credentials.first_unuploaded_pre_key_id)
    found = [id for id in ids if is_waiting(int(id), credentials)]
    return sorted(found, key=lambda id: _ahead(first, int(id)))


def minted(
    count: int, ids: Collection[str], credentials: Credentials
) -> tuple[dict[int, KeyPair], Credentials]:
    """New pre-keys by id, none of an id that is in the store, and the credentials beside them.

    :raises InvalidValue: if there is no room for so many.
    """
    pending = _pending(credentials)
    room = MAX_PRE_KEY_ID // 2 - pending
    if type(count) is not int or not 1 <= count <= room:
        raise InvalidValue("count", f"expected a number from 1 to {room}")
    next_id = _wrapped(credentials.next_pre_key_id)
    start = _free_run(next_id, count, {int(id) for id in ids})
    if pending and start != next_id:
        # What would be skipped is on the server perhaps: it must not be taken for waiting.
        raise InvalidValue(
            "pre-keys",
            "the next ids are taken by older pre-keys while others wait for upload",
            "Upload those and mark them uploaded, then mint again",
        )
    made = {_wrapped(start + step): KeyPair.new() for step in range(count)}
    first = credentials.first_unuploaded_pre_key_id if pending else start
    next_id = _wrapped(start + count)
    return made, credentials.replace(next_pre_key_id=next_id, first_unuploaded_pre_key_id=first)


def _free_run(start: int, count: int, taken: set[int]) -> int:
    """The first id from ``start`` on that begins ``count`` free ones in a row."""
    begin, length, step = start, 0, 0
    while length < count:
        if step >= MAX_PRE_KEY_ID + count:
            raise InvalidValue("pre-keys", f"there are no {count} free ids in a row")
        id = _wrapped(start + step)
        step += 1
        if id in taken:
            begin, length = _wrapped(id + 1), 0
        else:
            length += 1
    return begin


def uploaded(up_to: int, credentials: Credentials) -> Credentials:
    """The credentials when all pre-keys up to this id are on the server.

    :raises InvalidValue: for an id that was not minted yet.
    """
    if type(up_to) is not int or not 1 <= up_to <= MAX_PRE_KEY_ID:
        raise InvalidValue("up_to", f"expected a number from 1 to {MAX_PRE_KEY_ID}")
    if is_waiting(up_to, credentials):
        return credentials.replace(first_unuploaded_pre_key_id=_wrapped(up_to + 1))
    first, next_id = credentials.first_unuploaded_pre_key_id, credentials.next_pre_key_id
    # Nearer to the next id than to those that are uploaded; the next id itself is not behind.
    behind = _ahead(up_to, _wrapped(first)) or MAX_PRE_KEY_ID
    if _ahead(_wrapped(next_id), up_to) < behind:
        raise InvalidValue("up_to", f"no pre-key {up_to} was minted yet")
    return credentials


class Tally:
    """How many pre-keys an open device holds, for the metrics: not known before its store was
    asked for their ids, and kept up with its commits from then on.

    The caller sees to it that no commit comes between the store's answer and :meth:`learn`.

    :param kind: the kind of its store.
    :param is_kept_up: False where others may change them (the device is open read-only): then it is
        never known.
    :ivar pre_keys: how many, or None.
    """

    def __init__(self, kind: str, *, is_kept_up: bool = True) -> None:
        self.kind = kind
        self.is_kept_up = is_kept_up
        self.pre_keys: int | None = None
        # Where runs of ids begin and where they end. Minted ids follow each other, so that this is
        # short: a set of them would be as large as all else that is kept of an idle device.
        self._edges: list[int] = []

    def learn(self, ids: Collection[str]) -> None:
        """These are the ids in the store."""
        if not self.is_kept_up:
            return
        edges: list[int] = []
        for number in sorted(map(_number, ids)):
            if edges and edges[-1] == number:
                edges[-1] = number + 1
            else:
                edges += (number, number + 1)
        self._edges = edges
        self.pre_keys = len(ids)

    def settle(self, changes: Mapping[Key, Any]) -> None:
        """This was committed: new values by key; None deletes."""
        if self.pre_keys is None:
            return
        for key, value in changes.items():
            if key.family == "pre-key":
                self._put(_number(key.id), is_there=value is not None)

    def _put(self, number: int, *, is_there: bool) -> None:
        was_there = bisect_right(self._edges, number) % 2 == 1
        if was_there == is_there or self.pre_keys is None:
            return
        self.pre_keys += 1 if is_there else -1
        # Both edges turn round: one that is there vanishes, for two runs have become one.
        for edge in (number, number + 1):
            at = bisect_left(self._edges, edge)
            if self._edges[at : at + 1] == [edge]:
                del self._edges[at]
            else:
                self._edges.insert(at, edge)

    def forget(self) -> None:
        """Nobody knows any more what is in the store."""
        self.is_kept_up = False
        self.pre_keys = None
        self._edges = []


def _number(id: str) -> int:
    # A digit before it: 7 and 007 are two ids.
    return int(f"1{id}")
