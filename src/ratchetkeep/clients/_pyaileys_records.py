"""Values of pyaileys' key store <-> values of the model, by way of the JSON of its own folder.

What form they have in the model says :mod:`ratchetkeep.formats.pyaileys`: the model's own where
that gives back exactly what pyaileys stored, else an encoding.
"""

from __future__ import annotations

from typing import Any

from pyaileys.util import json as bufferjson

from ratchetkeep.errors import DecodeError, InvalidValue, NotHeld, StoreDamaged
from ratchetkeep.formats import pyaileys
from ratchetkeep.formats.pyaileys import JSON, PROTOBUF, RATCHETS
from ratchetkeep.model import EncodedRecord, Key

from ._pyaileys_creds import plain_text

NOT_OURS = (
    "Nothing was changed. Copy the device to a sqlite: store in pyaileys' form: "
    "`ratchetkeep copy SRC DST --for pyaileys`"
)


def to_model(key: Key, value: Any) -> Any:
    """What is stored for a value of pyaileys.

    :raises InvalidValue: if pyaileys' own store could not write it either.
    """
    if key.family in RATCHETS and isinstance(value, bytes | bytearray | memoryview):
        return EncodedRecord(encoding=PROTOBUF, data=bytes(value))
    try:
        return pyaileys.decode(key, plain_text(str(key), value).encode())
    except DecodeError as error:
        raise InvalidValue(str(key), error.what) from None


def to_client(place: str, key: Key, held: Any) -> Any:
    """The value of pyaileys for what is stored.

    :raises NotHeld: if it is stored in a form that pyaileys cannot read.
    """
    check_form(place, key, held)
    if isinstance(held, EncodedRecord) and held.encoding == PROTOBUF:
        return held.data
    text = held.data if isinstance(held, EncodedRecord) else pyaileys.encode(key, held).data
    try:
        return bufferjson.loads((text or b"").decode())
    except (ValueError, RecursionError):
        raise StoreDamaged(place, f"{key} is not the JSON of pyaileys") from None


def check_form(place: str, key: Key, held: Any) -> None:
    """See that pyaileys can read what is stored.

    :raises NotHeld: if it is another library's.
    """
    encoding = held.encoding if isinstance(held, EncodedRecord) else None
    if encoding == JSON or (encoding == PROTOBUF and key.family in RATCHETS):
        return
    if encoding is not None:
        raise NotHeld(place, f"{key} is in the encoding {encoding!r} of another client", NOT_OURS)
    if key.family in RATCHETS:
        raise NotHeld(place, f"{key} is in the form of Baileys, not in that of pyaileys", NOT_OURS)
