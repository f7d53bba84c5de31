"""What a ciphertext says about itself on the outside: which message key it was made with.

Written for this harness alone, with no code of a client: the judge must not share the faults of
the judged. Numbers of fields are those of the Signal protocol's own messages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

MAC_LENGTH = 8
SIGNATURE_LENGTH = 64
VARINT, BYTES = 0, 2


class BadMessage(ValueError):
    """Bytes that are no message of the protocol."""


@dataclass(frozen=True)
class MessageKey:
    """The name of a message key: a chain, and the place in it.

    ``chain`` is the sender's ratchet key (33 bytes) or the id of a sender key; ``at`` the counter
    or iteration; ``digest`` tells apart two messages that were made with the key.
    """

    chain: bytes | int
    at: int
    digest: str


@dataclass(frozen=True)
class FirstMessage:
    """What a pre-key message names beside the message inside: ``pre_key_id`` is None without a
    one-time pre-key; ``base_key`` (33 bytes) is the session's."""

    pre_key_id: int | None
    base_key: bytes


def message_key(kind: str, data: bytes) -> MessageKey:
    """The key that made a message.

    :param kind: ``msg``, ``pkmsg`` or ``skmsg``.
    :raises BadMessage: if the bytes are no such message.
    """
    if kind == "skmsg":
        fields = _fields(_framed(data, SIGNATURE_LENGTH))
        return MessageKey(_number(fields, 1), _number(fields, 2), _digest(data))
    if kind == "pkmsg":
        data = _bytes(_fields(_framed(data, 0)), 4)
    fields = _fields(_framed(data, MAC_LENGTH))
    return MessageKey(_bytes(fields, 1), _number(fields, 2), _digest(data))


def first_message(data: bytes) -> FirstMessage:
    """The wrapping of a pre-key message.

    :raises BadMessage: if the bytes are no such message.
    """
    fields = _fields(_framed(data, 0))
    pre_key_id = _number(fields, 1) if 1 in fields else None
    return FirstMessage(pre_key_id, _bytes(fields, 2))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _framed(data: bytes, tail: int) -> bytes:
    """The protobuf between the version and what authenticates it."""
    if len(data) <= 1 + tail or data[0] != 0x33:
        raise BadMessage("no message of version 3")
    return data[1 : len(data) - tail]


def _fields(data: bytes) -> dict[int, int | bytes]:
    return dict(_each_field(data))


def _each_field(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        value, at = _varint(data, at)
        if tag & 7 == VARINT:
            yield tag >> 3, value
        elif tag & 7 == BYTES and at + value <= len(data):
            yield tag >> 3, data[at : at + value]
            at += value
        else:
            raise BadMessage("a field that these messages do not have")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise BadMessage("a number without an end")


def _number(fields: dict[int, int | bytes], field: int) -> int:
    value = fields.get(field, 0)  # a zero need not be written
    if not isinstance(value, int):
        raise BadMessage(f"field {field} is no number")
    return value


def _bytes(fields: dict[int, int | bytes], field: int) -> bytes:
    value = fields.get(field)
    if not isinstance(value, bytes):
        raise BadMessage(f"field {field} is missing")
    return value
