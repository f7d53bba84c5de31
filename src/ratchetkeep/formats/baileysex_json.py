"""BaileysEx's compat JSON: the text of each file <-> the model.

Source: BaileysEx 0.1.0-alpha.11 (its ``file_persistence``) and files that it wrote. It is not
Baileys' JSON, which cannot read it: names are BaileysEx's own, maps by bytes are keyed by base64.
The tables are those of its native files, with each leaf spelled in JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ratchetkeep.model import AppStateSyncKey, Credentials, Key, TcToken

from . import _terms, baileysex
from ._baileysex_legacy import as_etf, is_legacy
from ._baileysex_signal import (
    BASE64_BINARY,
    CLOSED,
    Closed,
    Keyed,
    SkippedCodec,
    in_order,
)
from ._base import Encoded, decoded
from ._elixir_json import (
    FREE,
    LOOSE,
    NUMBER64,
    TEXT,
    Base64Twice,
    ByName,
    Numeral,
    Object,
    OneOf,
    dump,
    parse,
)
from ._json import BASE64, BOOL, BUFFER, INT, to_buffer
from ._shape import ABSENT, PRIVATE, Codec, Losses, Many, Member, Shape
from ._terms import AtomMap

name = "baileysex-json"


class ClosedOrNull(Closed):
    """When a session was closed, in milliseconds; ``null`` for an open one."""

    def decode(self, raw: Any) -> int:
        closed: int = INT.decode(raw)
        return closed

    def encode(self, value: int, path: str, losses: Losses) -> Any:
        written = super().encode(value, path, losses)
        return written if type(written) is int else ABSENT


class SyncKey(baileysex.SyncKey):
    """An app state sync key: its bytes alone, or an object with them and what else is there."""

    def decode(self, raw: Any) -> AppStateSyncKey:
        key = super().decode(raw)
        if all(member.startswith(PRIVATE) for member in key.extra):
            return key
        # Nothing needs to say that it was an object: it cannot be written in another way.
        return key.replace(extra={k: v for k, v in key.extra.items() if k != self.bare})

    def is_alone(self, raw: Any) -> bool:
        return not isinstance(raw, dict) or raw.get("type") == "Buffer"

    def encode(self, value: AppStateSyncKey, path: str, losses: Losses) -> Any:
        if not all(member.startswith(PRIVATE) for member in value.extra):
            value = value.replace(extra={**value.extra, self.bare: True})
        return super().encode(value, path, losses)


class Whole(Object):
    """The account, which BaileysEx reads only with all its members."""

    def join(
        self, members: dict[str, Any], extra: Mapping[str, Any], path: str, losses: Losses
    ) -> dict[str, Any]:
        for member in self.names:
            if member not in members:
                losses.note(f"{path}.{member}", "BaileysEx needs one; it is empty", derived=True)
                members[member] = to_buffer(b"")
        return super().join(members, extra, path, losses)


# What stands in the tables of the native files -> what stands in ours.
_SPELLED: dict[Codec, Codec] = {
    _terms.TEXT: TEXT,
    _terms.BYTES: BUFFER,
    _terms.INT: INT,
    _terms.BOOL: BOOL,
    _terms.NUMBER64: NUMBER64,
    _terms.FREE: FREE,
    CLOSED: ClosedOrNull(),
    baileysex.ADV_SECRET: BASE64,
    baileysex.EXPIRING: baileysex.ExpiringMode(FREE),
}
_NAMES: dict[Codec, Codec] = {
    _terms.BYTES: BASE64,
    _terms.INT: Numeral(),
    BASE64_BINARY: Base64Twice(),
}
# Sparse as terms, but always with all members as JSON.
_FULL = (baileysex.MESSAGE_KEY, baileysex.HISTORY_MESSAGE, baileysex.TCTOKEN)
# Null where there is none would be a list that BaileysEx cannot read.
_LEFT_OUT = ("signal_identities",)


def _in_json(codec: Codec) -> Codec:
    if codec not in _SPELLED:
        _SPELLED[codec] = _KINDS[type(codec)](codec)
    return _SPELLED[codec]


def _shape(shape: Shape) -> Shape:
    kind = Whole if shape is baileysex.ACCOUNT else Object
    members = [member._replace(codec=_in_json(member.codec)) for member in shape.members]
    names = [member.name for member in members]
    is_full = shape in _FULL or (isinstance(shape.dialect, AtomMap) and shape.dialect.full)
    dialect = kind(names, full=is_full, left_out=_LEFT_OUT)
    return Shape(shape.cls, dialect, members)


_KINDS: dict[type, Callable[[Any], Codec]] = {
    Shape: _shape,
    Many: lambda codec: Many(_in_json(codec.item)),
    Keyed: lambda codec: ByName(_NAMES[codec.key], _in_json(codec.item)),
    baileysex.TextKeyed: lambda codec: ByName(TEXT, _in_json(codec.item)),
    _terms.AtomOf: lambda codec: OneOf({value: atom.name for value, atom in codec.atoms.items()}),
    # Without what follows from the seed.
    SkippedCodec: lambda codec: _in_json(codec.shape),
    baileysex.SyncKey: lambda _: SyncKey(BUFFER, _in_json(baileysex.SYNC_KEY_MAP)),
}
TCTOKEN = Shape(
    TcToken,
    Object(("token", "timestamp", "senderTimestamp"), full=True),
    [
        Member("token", "token", LOOSE),
        Member("timestamp", "timestamp", NUMBER64, None),
        Member("sender_timestamp", "senderTimestamp", NUMBER64, None),
    ],
)
CODECS: dict[str, Codec] = {
    family: TCTOKEN if codec is baileysex.TCTOKEN else _in_json(codec)
    for family, codec in baileysex.CODECS.items()
}


def decode(key: Key, raw: bytes) -> Any:
    """The value in the text of the file of ``key``.

    :raises DecodeError: naming the member and what is wrong with it, never its content.
    """
    parsed = parse(raw)
    if is_legacy(parsed):
        return baileysex.decode(key, as_etf(parsed))
    value = decoded(key, CODECS[key.family].decode, parsed)
    return in_order(value) if key.family == "session" else value


def encode(key: Key, value: Any, credentials: Credentials | None = None) -> Encoded:
    """The text of the file of ``key``, and what of ``value`` it cannot hold.

    :param credentials: the device's, whose identity key every session repeats.
    """
    losses = Losses()
    value = baileysex.for_elixir(key, value, credentials, losses)
    if value is None:
        return Encoded(None, tuple(losses.found))
    written = CODECS[key.family].encode(value, "", losses)
    if is_legacy(written):
        losses.note("", "a member's name is one by which BaileysEx would read it otherwise")
        return Encoded(None, tuple(losses.found))
    return Encoded(dump(written), tuple(losses.found))
