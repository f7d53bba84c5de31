"""Pruning of one record of sessions or sender keys, in whichever spelling it is kept."""

from __future__ import annotations

from typing import Any, NamedTuple

from ratchetkeep import _prune_ratchets as ratchets
from ratchetkeep._prune_policy import PrunePolicy
from ratchetkeep.errors import DecodeError
from ratchetkeep.formats import spellings
from ratchetkeep.formats._shape import Losses
from ratchetkeep.model import Credentials, EncodedRecord, Key, SenderKeyRecord, SessionRecord
from ratchetkeep.stores.base import Store

NOT_READ = "their encoding is not read here"
NOT_SAME = "written again in their own spelling, they would not have the same bytes"
NO_ORDER = "which of their chains are older is not known: BaileysEx keeps them in no order"


class Outcome(NamedTuple):
    """What pruning makes of a record.

    :ivar value: the record after it; the very same one if nothing goes.
    :ivar size: its bytes in the store.
    :ivar gone: of each kind of which something went: the kind, how many, and bytes.
    :ivar left: why something was left that may be more than the policy keeps, or "".
    """

    value: Any
    size: int
    gone: tuple[tuple[str, int, int], ...] = ()
    left: str = ""


class Pruner:
    """Prunes records of one device."""

    def __init__(self, store: Store, credentials: Credentials, policy: PrunePolicy) -> None:
        self._store = store
        self._credentials = credentials
        self._policy = policy

    def prune(self, key: Key, value: Any, size: int) -> Outcome:
        """What pruning makes of a session or a sender key.

        :param size: bytes of the record in the store.
        """
        try:
            record = spellings.to_model(key, value)
        except DecodeError:
            record = None  # verifying tells what is the matter with it
        if not isinstance(record, SessionRecord | SenderKeyRecord):
            return Outcome(value, size, left=NOT_READ)
        left = NO_ORDER if self._is_unordered(record) else ""
        now = Outcome(value, size)
        gone: list[tuple[str, int, int]] = []
        for kind, step in ratchets.steps_of(key.family, self._policy):
            record, items = step(record)
            if items:
                if not gone and not self._is_same(key, value):
                    return Outcome(value, size, left=NOT_SAME)
                after = self._stored(key, record, value)
                gone.append((kind, items, now.size - after.size))
                now = after
        return now._replace(gone=tuple(gone), left=left)

    def _stored(self, key: Key, record: Any, like: Any) -> Outcome:
        """The record in the spelling of ``like``, with its size."""
        value = (
            self._respelled(key, record, like.encoding, Losses()) if _is_encoded(like) else record
        )
        data, _ = self._store.encode(key, value, self._credentials)
        return Outcome(value, len(data or b""))

    def _is_same(self, key: Key, value: Any) -> bool:
        """True if the record, read and written again, has the bytes that it has."""
        if not _is_encoded(value):
            return True
        losses = Losses()
        again = self._respelled(key, spellings.to_model(key, value), value.encoding, losses)
        return bool(again == value) and not losses.found

    def _respelled(self, key: Key, record: Any, encoding: str, losses: Losses) -> Any:
        return spellings.respell(key, record, encoding, self._credentials, losses)

    def _is_unordered(self, record: Any) -> bool:
        """True if chains would go, were it known which ones are old."""
        keep = self._policy.receiving_chains
        if keep is None or not isinstance(record, SessionRecord):
            return False
        return any(
            ratchets.ended_chains(session, keep)
            for session in record.sessions.values()
            if not ratchets.has_order(session)
        )


def _is_encoded(value: Any) -> bool:
    return isinstance(value, EncodedRecord)
