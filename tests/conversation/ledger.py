"""What the server knows to be true, and what it may never see.

The ledger is kept by the process that is never killed. It holds every plaintext, every message key
that was ever seen on the wire, and every one-time pre-key with what became of it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Literal

from .wire import BadMessage, MessageKey, first_message, message_key

BreachKind = Literal[
    "undecryptable",
    "reused message key",
    "reused pre-key",
    "wrong text",
    "lost message",
    "write without ownership",
    "failed",
    "not sound",
]

KEPT_CHAINS = 2
"""Former chains of a sender whose messages each client can still read."""


@dataclass(frozen=True)
class Breach:
    """A promise that was broken: ``kind`` names the promise, ``what`` says where, without keys."""

    kind: BreachKind
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


@dataclass
class PreKey:
    """A one-time pre-key that a device uploaded, and what is known of it."""

    public: bytes
    is_handed_out: bool = False
    base_keys: set[bytes] = field(default_factory=set)
    """Sessions that were begun with it, as the wire shows; more than one is a breach."""
    is_delivered: bool = False
    """A message that consumes it was given to its device, so it may be gone."""
    is_consumed: bool = False
    """Its device acknowledged such a message, so it must be gone."""


@dataclass(frozen=True)
class Identity:
    """What a device says of itself when it starts: it must say the same for ever. The keys have
    33 bytes, the signature 64."""

    registration_id: int
    identity_key: bytes
    signed_pre_key_id: int
    signed_pre_key: bytes
    signature: bytes


@dataclass
class Ledger:
    """The truth about one conversation, and the breaches found."""

    breaches: list[Breach] = field(default_factory=list)
    texts: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    """For each device the texts that it must have in the end, by the message's id."""
    identities: dict[str, Identity] = field(default_factory=dict)
    pre_keys: dict[str, dict[int, PreKey]] = field(default_factory=lambda: defaultdict(dict))
    counts: Counter[str] = field(default_factory=Counter)
    _minted: dict[tuple[str, int], bytes] = field(default_factory=dict)
    _chains: dict[str, list[bytes | int]] = field(default_factory=lambda: defaultdict(list))
    _keys: dict[tuple[str, bytes | int, int], str] = field(default_factory=dict)

    def breach(self, kind: BreachKind, what: str) -> None:
        """Note a broken promise."""
        self.breaches.append(Breach(kind, what))

    def saw_identity(self, device: str, identity: Identity) -> None:
        """A device said who it is."""
        if self.identities.setdefault(device, identity) != identity:
            self.breach("not sound", f"{device} has become another device")

    def saw_ciphertext(self, sender: str, recipient: str, kind: str, data: bytes) -> None:
        """Something left a device; whether it arrives is no matter here."""
        try:
            key = message_key(kind, data)
            if kind == "pkmsg":
                self._saw_first(sender, recipient, data)
        except BadMessage as error:
            self.breach("failed", f"{sender} sent a {kind} that is none: {error}")
            return
        self.counts[kind] += 1
        self._saw_key(sender, kind, key)

    def _saw_key(self, sender: str, kind: str, key: MessageKey) -> None:
        chain = "group" if kind == "skmsg" else "direct"
        name = (f"{sender} {chain}", key.chain, key.at)
        if chain == "direct" and key.chain not in self._chains[sender]:
            self._chains[sender].append(key.chain)
        if self._keys.setdefault(name, key.digest) != key.digest:
            self.breach("reused message key", f"{sender} made two {chain} messages at {key.at}")

    def is_of_late(self, sender: str, kind: str, data: bytes) -> bool:
        """Whether a message is of a chain so new that its recipient can read it out of order: a
        client keeps the keys of few former chains."""
        try:
            chain = message_key(kind, data).chain
        except BadMessage:
            return False
        known = self._chains[sender]
        return kind == "skmsg" or chain not in known or chain in known[-KEPT_CHAINS:]

    def _saw_first(self, sender: str, recipient: str, data: bytes) -> None:
        first = first_message(data)
        if first.pre_key_id is None:
            return
        pre_key = self.pre_keys[recipient].get(first.pre_key_id)
        if pre_key is None or not pre_key.is_handed_out:
            self.breach("reused pre-key", f"{sender} used pre-key {first.pre_key_id} unasked")
            return
        pre_key.base_keys.add(first.base_key)
        if len(pre_key.base_keys) > 1:
            what = f"two sessions were begun with pre-key {first.pre_key_id} of {recipient}"
            self.breach("reused pre-key", what)

    def saw_upload(self, device: str, public_keys: dict[int, bytes]) -> None:
        """A device uploaded one-time pre-keys: 33 bytes each, by id. The same again is fine."""
        self.saw_pre_keys(device, public_keys)
        for id, public in public_keys.items():
            self.pre_keys[device].setdefault(id, PreKey(public))

    def saw_pre_keys(self, device: str, public_keys: dict[int, bytes]) -> None:
        """Pre-keys left a device; whether the server takes them is no matter here."""
        for id, public in public_keys.items():
            if self._minted.setdefault((device, id), public) != public:
                self.breach("reused pre-key", f"{device} made pre-key {id} twice")

    def saw_stock(self, device: str, ids: set[int]) -> None:
        """A device told which one-time pre-keys it has: all that others may use, none used up."""
        for id, pre_key in self.pre_keys[device].items():
            if pre_key.is_consumed and id in ids:
                self.breach("reused pre-key", f"{device} still has the consumed pre-key {id}")
            if not pre_key.is_delivered and id not in ids:
                self.breach("not sound", f"{device} lost pre-key {id}, which others may use")

    def hand_out(self, device: str) -> tuple[int, bytes] | None:
        """A one-time pre-key for someone who begins a session; each goes out once."""
        for id, pre_key in self.pre_keys[device].items():
            if not pre_key.is_handed_out:
                pre_key.is_handed_out = True
                self.counts["pre-keys handed out"] += 1
                return id, pre_key.public
        return None

    def stock(self, device: str) -> int:
        """How many one-time pre-keys of a device are left to hand out."""
        return sum(not pre_key.is_handed_out for pre_key in self.pre_keys[device].values())

    def delivered(self, device: str, kind: str, data: bytes, *, is_acknowledged: bool) -> None:
        """A message was given to its device, or acknowledged by it."""
        id = first_message(data).pre_key_id if kind == "pkmsg" else None
        if id is not None and id in self.pre_keys[device]:
            self.pre_keys[device][id].is_delivered = True
            self.pre_keys[device][id].is_consumed |= is_acknowledged

    def consumed(self) -> int:
        """How many one-time pre-keys of both devices are consumed."""
        every = (pre_key for known in self.pre_keys.values() for pre_key in known.values())
        return sum(pre_key.is_consumed for pre_key in every)

    def saw_log(self, device: str, texts: dict[str, str]) -> None:
        """The texts that a device has in the end."""
        truth = self.texts[device]
        for id in sorted(truth.keys() | texts.keys()):
            if id not in texts:
                self.breach("lost message", f"{id} never came out at {device}")
            elif id not in truth:
                self.breach("wrong text", f"{id} came out at {device}, and nobody sent it")
            elif texts[id] != truth[id]:
                self.breach("wrong text", f"{id} came out at {device} as something else")
