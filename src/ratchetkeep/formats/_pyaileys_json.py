"""JSON as pyaileys reads and writes it: Python's ``json`` with sorted members and Buffer objects.

Source: ``pyaileys`` 0.1.5 (``util.json``), found by running it. Text is ASCII; the credentials are
indented. Unlike JavaScript, Python spells numbers that are not finite.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from ratchetkeep.model import Value
from ratchetkeep.model._checks import Refused

from ._json import JsonObject, from_base64, from_buffer, from_free, parse, to_buffer, to_free
from ._shape import Free, Leaf, Losses, Shape

FREE = Free(from_free, partial(to_free, finite=False))
OBJECT = JsonObject(FREE)


def parse_text(raw: bytes) -> Any:
    """The JSON value of ``raw``.

    :raises DecodeError: if it is not exactly one JSON value of bounded size and depth.
    """
    return parse(raw, constant=float)


def dump(value: Any, *, indent: int | None = None) -> bytes:
    """``value`` as pyaileys writes it."""
    return json.dumps(value, sort_keys=True, indent=indent).encode("ascii")


def is_same(raw: Any, other: Any) -> bool:
    """True if both are the same JSON: ``1`` is neither ``1.0`` nor ``true``."""
    return dump(raw) == dump(other)


def check_buffers(raw: Any) -> None:
    """See that every Buffer object holds base64 text as any encoder writes it: pyaileys would read
    other bytes out of damaged text.

    :raises Refused: if one does not.
    """
    left = [raw]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left.extend(value)
        elif isinstance(value, dict):
            if value.get("type") == "Buffer" and isinstance(value.get("data"), str):
                from_base64(value["data"])
            left.extend(value.values())


def _buffer(raw: Any) -> bytes:
    data = raw.get("data") if isinstance(raw, dict) else None
    if not isinstance(data, str):
        # Other spellings of Buffers are plain objects to pyaileys.
        raise Refused("expected a Buffer object with base64 text")
    return from_buffer(raw)


# pyaileys keeps its own public keys without Signal's type byte, and puts that before them itself;
# identity keys of others have it.
BUFFER = Leaf(_buffer, to_buffer)
BARE_PUBLIC = Leaf(_buffer, lambda public: to_buffer(public[-32:]))
TYPED_PUBLIC = Leaf(_buffer, lambda public: to_buffer((b"\x05" + public)[-33:]))


class Whole(Shape):
    """An object as pyaileys writes its dataclasses: every member is there, null for nothing."""

    def decode(self, raw: Any) -> Any:
        if isinstance(raw, dict):
            nothing = {member.name for member in self.members if member.default is not ...}
            raw = {n: each for n, each in raw.items() if each is not None or n not in nothing}
        return super().decode(raw)

    def encode(self, value: Any, path: str, losses: Losses) -> dict[str, Any]:
        written: dict[str, Any] = {}
        for member in self.members:
            held = getattr(value, member.attr)
            at = f"{path}.{member.name}"
            written[member.name] = None if held is None else member.codec.encode(held, at, losses)
        extra = self.unknown(value.extra, path, losses)
        joined: dict[str, Any] = self.dialect.join(written, extra, path, losses)
        return joined


def note_extra(value: Value, path: str, losses: Losses) -> None:
    """Note that the unknown members of ``value`` have no place: it is a protobuf message."""
    extra = getattr(value, "extra", {})
    if any(each is not None for each in extra.values()):
        losses.note(path, "members that pyaileys does not know are left out")
