"""Baileys 6's multi-file JSON, which is Baileys 7's but for sender keys: those are the list of
states itself, with base64 text in it (source: running npm ``baileys`` 6.17.16).

That version takes nothing else for a sender key. Both versions' files are read. Files of families
that it does not know (``identity-key``, ``lid-mapping``, ``device-list``, ``tctoken``) are written
all the same: it never looks at them, and Baileys 7 finds them on the way back.
"""

from __future__ import annotations

from typing import Any

from ratchetkeep.model import (
    Credentials,
    EncodedRecord,
    Key,
    SenderChainKey,
    SenderKeyRecord,
    SenderKeyState,
    SenderMessageKey,
    SenderSigningKey,
)

from . import baileys, spellings
from ._baileys_signal import PUBLIC
from ._base import Encoded
from ._json import BASE64, INT, OBJECT, dump
from ._shape import Losses, Many, Member, Shape

name = "baileys6"

_CHAIN = Shape(
    SenderChainKey, OBJECT, [Member("iteration", "iteration", INT), Member("seed", "seed", BASE64)]
)
# The private key is left out of the keys of others.
_SIGNING = Shape(
    SenderSigningKey,
    OBJECT,
    [Member("public", "public", PUBLIC), Member("private", "private", BASE64, None)],
)
_MESSAGE = Shape(
    SenderMessageKey,
    OBJECT,
    [Member("iteration", "iteration", INT), Member("seed", "seed", BASE64)],
)
_STATES = Many(
    Shape(
        SenderKeyState,
        OBJECT,
        [
            Member("sender_key_id", "senderKeyId", INT),
            Member("sender_chain_key", "senderChainKey", _CHAIN),
            Member("sender_signing_key", "senderSigningKey", _SIGNING),
            Member("sender_message_keys", "senderMessageKeys", Many(_MESSAGE)),
        ],
    )
)

decode = baileys.decode


def encode(key: Key, value: Any, credentials: Credentials | None = None) -> Encoded:
    """The text of the file of ``key``, and what of ``value`` it cannot hold."""
    if key.family != "sender-key":
        return baileys.encode(key, value, credentials)
    losses = Losses()
    record: SenderKeyRecord | EncodedRecord | None = spellings.for_node(
        key, value, credentials, losses
    )
    if record is None or isinstance(record, EncodedRecord):
        return Encoded(None, tuple(losses.found))
    if record.extra:
        losses.note("", "members beside the states are left out")
    return Encoded(dump(_STATES.encode(record.states, "", losses)), tuple(losses.found))
