"""How sessions and sender keys are read at once from Baileys' JSON: see :mod:`._json_reader`."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ratchetkeep.model import SenderKeyRecord, SenderSigningKey, SessionRecord
from ratchetkeep.model._checks import define

from ._baileys_signal import (
    ARRAY,
    ARRAY_PUBLIC,
    ENTRY,
    PUBLIC,
    STATES,
    ByKey,
    MessageKeys,
    SenderKeyCodec,
    SessionCodec,
    SigningCodec,
)
from ._json import BASE64
from ._json_reader import InBuffer, JsonReader, Mirror

__all__ = ["READER"]


class _InArray(msgspec.Struct, gc=False):
    """A Buffer object with its bytes as a list of numbers."""

    type: Literal["Buffer"]
    data: list[int]


class _Signing(msgspec.Struct, gc=False):
    public: _InArray
    private: _InArray


READER = JsonReader()
READER.mirrors |= {
    PUBLIC: Mirror(bytes),
    ARRAY: Mirror(_InArray, "bytes({}.data)".format),
    ARRAY_PUBLIC: Mirror(_InArray, "bytes({}.data)".format),
}


def _session(_: SessionCodec) -> Mirror:
    sessions = READER.mapped(bytes, ENTRY)
    mirror = msgspec.defstruct(
        "SessionRecord",
        [("sessions", sessions.type), ("version", Literal["v1"])],
        rename={"sessions": "_sessions"},
        gc=False,
    )
    make = define(
        f"def make(v):\n    return record(sessions={sessions.make('v.sessions')})\n",
        **READER.names,
        record=SessionRecord,
    )
    return Mirror(mirror, READER.call(make))


def _signing(found: _Signing) -> SenderSigningKey:
    private = bytes(found.private.data)
    return SenderSigningKey(public=bytes(found.public.data), private=private or None)


def _sender_key(_: SenderKeyCodec) -> Mirror:
    read_states = READER.reader_of(READER.of(STATES))

    def make(found: InBuffer) -> Any:
        states = read_states(found.data)
        return None if states is None else SenderKeyRecord(states=states)

    return Mirror(InBuffer, READER.call(make))


READER.kinds |= {
    ByKey: lambda codec: READER.mapped(bytes, codec.item),
    MessageKeys: lambda _: READER.mapped(int, BASE64),
    SessionCodec: _session,
    SigningCodec: lambda _: Mirror(_Signing, READER.call(_signing)),
    SenderKeyCodec: _sender_key,
}
