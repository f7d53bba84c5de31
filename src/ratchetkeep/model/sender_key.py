"""Sender-key records: the group ratchets of one sender in one group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import _checks as c
from ._value import EMPTY, Value


class SenderChainKey(Value, kw_only=True):
    """The chain: ``iteration`` is the next message's number, ``seed`` 32 bytes."""

    iteration: int
    seed: bytes
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {"iteration": c.uint32, "seed": c.size(32), "extra": c.extra}


class SenderSigningKey(Value, kw_only=True):
    """Who signs: ``private`` (32 bytes) is None for the keys of others."""

    public: bytes
    private: bytes | None = None
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {"public": c.public_key, "private": c.optional(c.size(32)), "extra": c.extra}


class SenderMessageKey(Value, kw_only=True):
    """The key of a skipped message; cipher key and IV follow from the 32-byte seed."""

    iteration: int
    seed: bytes
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {"iteration": c.uint32, "seed": c.size(32), "extra": c.extra}


class SenderKeyState(Value, kw_only=True):
    """One sender key."""

    sender_key_id: int
    sender_chain_key: SenderChainKey
    sender_signing_key: SenderSigningKey
    sender_message_keys: tuple[SenderMessageKey, ...] = ()
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {
        "sender_key_id": c.uint32,
        "sender_chain_key": c.instance(SenderChainKey),
        "sender_signing_key": c.instance(SenderSigningKey),
        "sender_message_keys": c.tuple_of(c.instance(SenderMessageKey)),
        "extra": c.extra,
    }


class SenderKeyRecord(Value, kw_only=True):
    """The sender keys of one sender in one group, oldest first."""

    states: tuple[SenderKeyState, ...] = ()
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {"states": c.tuple_of(c.instance(SenderKeyState)), "extra": c.extra}
