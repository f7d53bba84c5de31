"""The server's part: it keeps what is on its way, hands out pre-keys, and writes all of it down.

What it saw is in the ledger of the conversations (``conversation/ledger.py``): every message key on
the wire, every one-time pre-key with what became of it, and every text that must come out.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from conversation.course import as_text
from conversation.ledger import Identity, Ledger

from .engines import Me

LOW, BATCH = 4, 8
"""A device is told to upload so many more pre-keys when fewer are left."""


@dataclass(frozen=True)
class Group:
    """A group; in one of the second kind its members are known by their LIDs."""

    jid: str
    is_by_lid: bool

    def called(self, me: Me) -> str:
        """The JID of a member in it."""
        return me.lid if self.is_by_lid else me.id


@dataclass(frozen=True)
class Stanza:
    """A message to one device: each part is a kind (``msg``, ``pkmsg`` or ``skmsg``) and bytes."""

    id: str
    sender: str
    group: Group | None
    parts: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class Receipt:
    """A retry receipt: ``asker`` could not read a message; ``keys`` are a bundle that it made for
    its sender, if it asks not for the first time."""

    id: str
    asker: str
    count: int
    keys: dict[str, Any] | None


@dataclass
class Exchange:
    """Queues, pre-keys and the ledger.

    :ivar has_receipts: whether retry receipts arrive. pyaileys 0.1.5 sends none.
    """

    ledger: Ledger = field(default_factory=Ledger)
    people: dict[str, Me] = field(default_factory=dict)
    queues: dict[str, list[Stanza | Receipt]] = field(default_factory=lambda: defaultdict(list))
    has_receipts: bool = True
    _seen: set[bytes] = field(default_factory=set)

    def joined(self, name: str, me: Me, identity: Identity) -> None:
        """A device is there, for the first time or again."""
        self.people[name] = me
        self.ledger.saw_identity(name, identity)

    def upload(self, name: str, keys: dict[int, bytes]) -> None:
        """A device uploads one-time pre-keys."""
        self.ledger.saw_upload(name, keys)

    def is_low(self, name: str) -> bool:
        """Whether a device should upload more."""
        return self.ledger.stock(name) < LOW

    def bundle(self, name: str) -> dict[str, Any]:
        """What somebody needs to begin a session with a device."""
        handed_out = self.ledger.hand_out(name)
        assert handed_out is not None, f"no pre-key of {name} is left"
        return self._bundle(name, *handed_out)

    def bundle_of_its_own(self, name: str, keys: dict[int, bytes]) -> dict[str, Any]:
        """The same with a pre-key that a device puts into a retry receipt."""
        self.ledger.saw_upload(name, keys)
        ((id, key),) = keys.items()
        self.ledger.pre_keys[name][id].is_handed_out = True
        return self._bundle(name, id, key)

    def _bundle(self, name: str, id: int, key: bytes) -> dict[str, Any]:
        identity = self.ledger.identities[name]
        return {
            "registration_id": identity.registration_id,
            "identity_key": as_text(identity.identity_key),
            "signed_pre_key_id": identity.signed_pre_key_id,
            "signed_pre_key": as_text(identity.signed_pre_key),
            "signature": as_text(identity.signature),
            "pre_key_id": id,
            "pre_key": as_text(key),
        }

    def post(self, recipient: str, stanza: Stanza, text: str) -> None:
        """A message leaves its sender; ``text`` must come out at its recipient some day."""
        self.ledger.texts[recipient][stanza.id] = text
        for kind, body in stanza.parts:
            if body in self._seen:
                continue  # one message to a group goes to all of them
            self._seen.add(body)
            self.ledger.saw_ciphertext(stanza.sender, recipient, kind, body)
        self.queues[recipient].append(stanza)

    def ask_again(self, sender: str, receipt: Receipt) -> None:
        """A retry receipt goes to the sender of the message."""
        if self.has_receipts:
            self.ledger.counts["retry receipts"] += 1
            self.queues[sender].append(receipt)

    def next_for(self, name: str) -> Stanza | Receipt | None:
        """What a device takes in next."""
        queue = self.queues[name]
        return queue.pop(0) if queue else None

    def waits(self, name: str) -> bool:
        """Whether something is there for a device."""
        return bool(self.queues[name])
