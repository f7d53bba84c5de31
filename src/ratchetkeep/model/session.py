"""Signal session records, as libsignal-node keeps them: one model for every spelling.

A record holds the sessions with one address by base key; at most one is open, the closed ones still
read late messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import _checks as c
from ._value import EMPTY, Value
from .keys import KeyPair

OPEN = -1
"""``IndexInfo.closed`` of the open session."""

SENDING, RECEIVING = 1, 2
"""Chain types; also the base key types "ours" and "theirs"."""


class ChainKey(Value, kw_only=True):
    """A chain's key: 32 bytes, or None once closed; ``counter`` is the last number used, or -1."""

    counter: int
    key: bytes | None = None
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {"counter": c.int64, "key": c.optional(c.size(32)), "extra": c.extra}


class Chain(Value, kw_only=True):
    """A message chain.

    :ivar chain_type: SENDING or RECEIVING.
    :ivar message_keys: 32-byte seeds of skipped messages, by their number.
    :ivar derived_keys: 80 bytes of skipped messages, by their number: cipher key (32), MAC key
        (32), IV (16), as HKDF-SHA256 makes them of a seed with the info ``WhisperMessageKeys``.
        Libraries that keep these cannot give the seed back. A number is in one of the two.
    """

    chain_key: ChainKey
    chain_type: int
    message_keys: Mapping[int, bytes] = EMPTY
    derived_keys: Mapping[int, bytes] = EMPTY
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {
        "chain_key": c.instance(ChainKey),
        "chain_type": c.integer(SENDING, RECEIVING),
        "message_keys": c.map_of(c.uint32, c.size(32)),
        "derived_keys": c.map_of(c.uint32, c.size(80)),
        "extra": c.extra,
    }


class Ratchet(Value, kw_only=True):
    """The double ratchet's state. ``last_remote_ephemeral_key`` may be empty, never None."""

    ephemeral_key_pair: KeyPair | None = None
    last_remote_ephemeral_key: bytes
    previous_counter: int
    root_key: bytes
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {
        "ephemeral_key_pair": c.optional(c.instance(KeyPair)),
        "last_remote_ephemeral_key": c.size(0, 32, 33),
        "previous_counter": c.int64,
        "root_key": c.size(32),
        "extra": c.extra,
    }


class IndexInfo(Value, kw_only=True):
    """What a session is found by.

    :ivar closed: OPEN (-1), or when it was closed, in milliseconds since 1970.
    :ivar used: milliseconds since 1970, or None where the format has no place for it.
    :ivar created: as ``used``.
    :ivar local_identity_key: 33 bytes where the format keeps it here, else None.
    """

    base_key: bytes
    base_key_type: int
    closed: int = OPEN
    used: int | None = None
    created: int | None = None
    remote_identity_key: bytes
    local_identity_key: bytes | None = None
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {
        "base_key": c.public_key,
        "base_key_type": c.integer(SENDING, RECEIVING),
        "closed": c.int64,
        "used": c.optional(c.int64),
        "created": c.optional(c.int64),
        "remote_identity_key": c.public_key,
        "local_identity_key": c.optional(c.public_key),
        "extra": c.extra,
    }


class PendingPreKey(Value, kw_only=True):
    """What a first message repeats until it is answered; ``pre_key_id`` None: no one-time key."""

    signed_key_id: int
    base_key: bytes
    pre_key_id: int | None = None
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {
        "signed_key_id": c.uint32,
        "base_key": c.public_key,
        "pre_key_id": c.optional(c.uint32),
        "extra": c.extra,
    }


class Session(Value, kw_only=True):
    """One session with an address.

    :ivar registration_id: the other side's.
    :ivar chains: by the chain's public ratchet key.
    :ivar local_registration_id: the device's own where the format keeps it here, else None.
    """

    registration_id: int | None = None
    current_ratchet: Ratchet
    index_info: IndexInfo
    chains: Mapping[bytes, Chain] = EMPTY
    pending_pre_key: PendingPreKey | None = None
    local_registration_id: int | None = None
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {
        "registration_id": c.optional(c.uint32),
        "current_ratchet": c.instance(Ratchet),
        "index_info": c.instance(IndexInfo),
        "chains": c.map_of(c.public_key, c.instance(Chain)),
        "pending_pre_key": c.optional(c.instance(PendingPreKey)),
        "local_registration_id": c.optional(c.uint32),
        "extra": c.extra,
    }

    @property
    def is_open(self) -> bool:
        """True unless the session was closed."""
        return self.index_info.closed == OPEN


class SessionRecord(Value, kw_only=True):
    """All sessions with one address, by base key, in the source's order."""

    sessions: Mapping[bytes, Session] = EMPTY
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {
        "sessions": c.map_of(c.public_key, c.instance(Session)),
        "extra": c.extra,
    }

    @property
    def open_session(self) -> Session | None:
        """The first session that is open: the one a client sends with."""
        return next((s for s in self.sessions.values() if s.is_open), None)
