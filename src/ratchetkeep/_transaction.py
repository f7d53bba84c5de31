"""What a transaction holds: changes that nobody else sees before they are committed."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ratchetkeep._locks import Holder
from ratchetkeep.errors import InvalidValue, StoreClosed
from ratchetkeep.model import CREDENTIALS, Credentials, Key, KeyPair, check_key, check_record

if TYPE_CHECKING:
    from ratchetkeep.device import Device

Records = Mapping[str, Mapping[str, Any]]
_UNCHANGED: Any = object()


class Transaction(Holder):
    """Changes that are committed together, or not at all. Made by :meth:`Device.transaction`.

    One inside another keeps its changes apart until it ends: then they are the outer one's, or
    dropped.
    """

    def __init__(self, device: Device, outer: Transaction | None = None) -> None:
        super().__init__(outer)
        self._device = device
        self._changes: dict[Key, Any] = {}

    @property
    def _around(self) -> Transaction | None:
        assert self.outer is None or isinstance(self.outer, Transaction)  # noqa: S101 - for types
        return self.outer

    def _check_running(self) -> None:
        if self.has_ended:
            raise StoreClosed(self._device.url, "the transaction has ended", "Begin a new one")

    def _pending(self, key: Key) -> Any:
        """The changed value (None: deleted), or _UNCHANGED."""
        layer: Transaction | None = self
        while layer is not None:
            if key in layer._changes:
                return layer._changes[key]
            layer = layer._around
        return _UNCHANGED

    def _split(self, family: str, ids: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """The changed values of ``ids`` (None: deleted), and which are to be read."""
        changed: dict[str, Any] = {}
        unchanged = []
        for id in ids:
            value = self._pending(check_key(family, id))
            if value is _UNCHANGED:
                unchanged.append(id)
            else:
                changed[id] = value
        return changed, unchanged

    def get(self, family: str, ids: Iterable[str]) -> dict[str, Any]:
        """As :meth:`Device.get`, with this transaction's own changes."""
        self._check_running()
        wanted = listed(ids)
        changed, unchanged = self._split(family, wanted)
        return merged(wanted, changed, self._device._stored(family, unchanged))

    def set(self, records: Records) -> None:
        """As :meth:`Device.set`, but nothing is stored before the transaction ends."""
        self._check_running()
        self._device._check_writable()
        self._changes.update(checked(records))

    @property
    def credentials(self) -> Credentials:
        """The credentials, with this transaction's own changes."""
        self._check_running()
        pending = self._pending(CREDENTIALS)
        found: Credentials = self._device._credentials if pending is _UNCHANGED else pending
        return found

    def save_credentials(self, credentials: Credentials) -> None:
        """As :meth:`Device.save_credentials`, but stored when the transaction ends."""
        self._check_running()
        self._device._check_writable()
        self._changes[CREDENTIALS] = checked_credentials(credentials)

    def consume_pre_key(self, id: str | int) -> KeyPair:
        """Take a one-time pre-key: it is deleted in this transaction, beside the session that it
        makes.

        :raises InvalidValue: if it is not there; it may have been used before.
        """
        text = str(id)
        self._check_running()
        # Locked: another transaction may be about to take the same.
        with self._device._block((pre_key_lock(text),), self) as inner:
            pair = inner.get("pre-key", [text]).get(text)
            return inner._consumed(text, pair)

    def _consumed(self, id: str, pair: KeyPair | None) -> KeyPair:
        if pair is None:
            raise InvalidValue(
                f"pre-key {id}",
                "is not there: it was used before, or never made",
                "Ask the sender to send again with a new pre-key",
            )
        self.set({"pre-key": {id: None}})
        return pair

    def _change_ids(self, family: str, ids: builtins.set[str]) -> None:
        """Put this transaction's changes into the stored ``ids`` of a family."""
        if self._around is not None:
            self._around._change_ids(family, ids)
        # A copy: a task that was started inside may set something meanwhile.
        for key, value in self._changes.copy().items():
            if key.family == family:
                (ids.discard if value is None else ids.add)(key.id)

    def _join(self, outer: Transaction) -> None:
        """Give the changes to the transaction around this one."""
        if outer.has_ended:
            what = "the transaction around it ended first, so its changes are dropped"
            raise StoreClosed(self._device.url, what, "Wait for tasks that were started inside it")
        outer._changes.update(self._changes)


def pre_key_lock(id: str) -> str:
    """The lock that taking a pre-key takes."""
    return f"pre-key {id}"


def merged(ids: Iterable[str], changed: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """Both, in the order of ``ids``, without what is deleted."""
    if not changed:
        return stored
    values = ((id, changed[id] if id in changed else stored.get(id)) for id in ids)
    return {id: value for id, value in values if value is not None}


def listed(ids: Iterable[str]) -> Sequence[str]:
    """``ids`` as something that can be gone through twice.

    :raises InvalidValue: for one text.
    """
    if type(ids) is list or type(ids) is tuple:
        return ids
    if isinstance(ids, str | bytes):
        raise InvalidValue("ids", "expected a list of ids, got one text", "Pass [id]")
    return list(ids)


def checked(records: Records) -> dict[Key, Any]:
    """``records`` by key, checked and frozen.

    :raises InvalidValue: naming the member that is refused.
    """
    if not isinstance(records, Mapping):
        raise InvalidValue("records", "expected a mapping {family: {id: value}}")
    found: dict[Key, Any] = {}
    for family, members in records.items():
        if not isinstance(members, Mapping):
            raise InvalidValue(str(family)[:40], "expected a mapping {id: value}")
        for id, value in members.items():
            key = check_key(family, id)
            found[key] = None if value is None else check_record(key, value)
    return found


def checked_credentials(credentials: Credentials) -> Credentials:
    """``credentials``.

    :raises InvalidValue: if they are none.
    """
    if type(credentials) is not Credentials:
        what = f"expected Credentials, got {type(credentials).__name__}"
        raise InvalidValue("credentials", what)
    return credentials
