"""The manifest of BaileysEx's compat JSON backend: the ids by family, as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ratchetkeep.errors import DecodeError, UnsupportedVersion
from ratchetkeep.formats._elixir_json import dump, parse

NAME = ".baileys_ex_file_persistence.json"
_BACKEND, _VERSION = "file_persistence", 1


def read_json_manifest(raw: bytes) -> dict[str, list[str]]:
    """The ids by family in the manifest of BaileysEx's compat JSON.

    :raises DecodeError: if it is damaged or another backend's.
    :raises UnsupportedVersion: for a version other than 1, as BaileysEx does.
    """
    manifest = parse(raw)
    if not isinstance(manifest, dict) or manifest.get("backend") != _BACKEND:
        raise DecodeError("", "is not the manifest of BaileysEx's compat JSON backend")
    version = manifest.get("version")
    if type(version) is not int or version != _VERSION:
        raise UnsupportedVersion("", "the manifest's version is not 1")
    index = manifest.get("key_index")
    if not isinstance(index, dict):
        raise DecodeError("", "the manifest's key_index is not an object")
    for ids in index.values():
        if type(ids) is not list:
            raise DecodeError("", "the manifest's ids are not a list")
        if not all(type(id) is str for id in ids):
            raise DecodeError("", "a name in the manifest is not text")
    return index


def write_json_manifest(ids: Mapping[str, Iterable[str]]) -> bytes:
    """The manifest of ``ids`` by family, as BaileysEx's compat JSON backend writes it."""
    index: dict[str, Any] = {family: sorted(ids[family]) for family in ids}
    return dump({"backend": _BACKEND, "key_index": index, "version": _VERSION})


_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"')


def texts_of_json(raw: bytes) -> Iterator[str]:
    """The texts that stand whole in damaged JSON."""
    for found in _TEXT.findall(raw):
        try:
            text = json.loads(found)
            text.encode()
        except ValueError:
            continue
        yield text
