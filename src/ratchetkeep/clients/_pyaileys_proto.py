"""pyaileys' protobuf messages, imported when first needed: there are a thousand of them."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def message(name: str) -> Any:
    """An empty message of the dotted name, such as ``Message.AppStateSyncKeyData``."""
    found: Any = import_module("pyaileys.proto.WAProto_pb2")
    for part in name.split("."):
        found = getattr(found, part)
    return found()


def parsed(name: str, data: bytes) -> Any | None:
    """The message in ``data``, or None if there is none."""
    not_protobuf = import_module("google.protobuf.message").DecodeError
    found = message(name)
    try:
        found.ParseFromString(data)
    except not_protobuf:
        return None
    return found
