"""How sessions and sender keys are written directly as Baileys' JSON: see :mod:`._direct`."""

from __future__ import annotations

import binascii

from ratchetkeep.model import SenderKeyRecord, SenderSigningKey, SessionRecord

from ._baileys_signal import (
    ARRAY,
    ARRAY_PUBLIC,
    ENTRY,
    PUBLIC,
    STATES,
    VERSION,
    ByKey,
    MessageKeys,
    SenderKeyCodec,
    SessionCodec,
    SigningCodec,
    prefixed,
    with_times,
)
from ._direct import Inline, Out, Write, refuse
from ._json import BASE64
from ._json_direct import DECIMAL, DIRECT, IN_BASE64, numbers

__all__ = ["DIRECT"]

_ARRAY = b'{"type":"Buffer","data":'

DIRECT.names |= {"prefixed": prefixed}
DIRECT.inline |= {
    PUBLIC: Inline(b'"', "b2a(prefixed({v}), newline=False)", b'"'),
    ARRAY: Inline(_ARRAY, "numbers({v})", b"}"),
    ARRAY_PUBLIC: Inline(_ARRAY, "numbers(prefixed({v}))", b"}"),
}
_NUMBER_IN_QUOTES = Inline(b'"', DECIMAL.parts, b'"')

DIRECT.kinds[ByKey] = lambda codec: DIRECT.keyed(IN_BASE64, codec.item)
DIRECT.kinds[MessageKeys] = lambda _: DIRECT.keyed(_NUMBER_IN_QUOTES, BASE64)


def _session(_: SessionCodec) -> Write:
    sessions = DIRECT.keyed(IN_BASE64, ENTRY)

    def write(value: SessionRecord, out: Out) -> None:
        if value.extra:
            refuse()
        out.append(b'{"_sessions":')
        sessions(with_times(value).sessions, out)
        out.append(b',"version":"%b"}' % VERSION.encode())

    return write


def _signing(value: SenderSigningKey, out: Out) -> None:
    if value.extra:
        refuse()
    public, private = numbers(prefixed(value.public)), numbers(value.private or b"")
    out += (b'{"public":', _ARRAY, public, b'},"private":', _ARRAY, private, b"}}")


def _sender_key(_: SenderKeyCodec) -> Write:
    states = DIRECT.of(STATES)

    def write(value: SenderKeyRecord, out: Out) -> None:
        if value.extra:
            refuse()
        inner: Out = []
        states(value.states, inner)
        text = binascii.b2a_base64(b"".join(inner), newline=False)
        out += (_ARRAY, b'"', text, b'"}')

    return write


DIRECT.kinds[SessionCodec] = _session
DIRECT.kinds[SigningCodec] = lambda _: _signing
DIRECT.kinds[SenderKeyCodec] = _sender_key
