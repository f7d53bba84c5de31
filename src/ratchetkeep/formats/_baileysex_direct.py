"""How sessions and sender keys are written directly as BaileysEx's terms: see :mod:`._direct`."""

from __future__ import annotations

from ratchetkeep.model import OPEN, SenderMessageKey

from ._baileysex_signal import (
    BASE64_BINARY,
    CLOSED,
    SKIPPED,
    SKIPPED_STRUCT,
    Keyed,
    SkippedCodec,
)
from ._direct import Inline, Out, Write, refuse
from ._etf_direct import DIRECT, IN_BASE64, NUMBER, binary, map_head
from ._etf_terms import atom_bytes, integer_bytes
from ._libsignal import group_message_key

__all__ = ["DIRECT"]

DIRECT.names |= {"OPEN": OPEN}
DIRECT.inline |= {
    BASE64_BINARY: IN_BASE64,
    CLOSED: Inline(b"", f"NIL if {{v}} == OPEN else {NUMBER.parts}"),
}


def _keyed(codec: Keyed) -> Write:
    return DIRECT.keyed(DIRECT.inline[codec.key], codec.item)


_CIPHER_KEY, _ITERATION, _IV, _SEED = map(atom_bytes, SKIPPED.dialect.names)
_SKIPPED = map_head(5) + atom_bytes("__struct__") + atom_bytes(SKIPPED_STRUCT) + _CIPHER_KEY


def _skipped(value: SenderMessageKey, out: Out) -> None:
    if value.extra:
        refuse()
    iv, cipher_key = group_message_key(value.seed)
    out += (_SKIPPED, binary(cipher_key), _ITERATION, integer_bytes(value.iteration))
    out += (_IV, binary(iv), _SEED, binary(value.seed))


DIRECT.kinds[Keyed] = _keyed
DIRECT.kinds[SkippedCodec] = lambda _: _skipped
