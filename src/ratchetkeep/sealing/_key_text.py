"""The text that a key or a passphrase is written as."""

from __future__ import annotations

import base64
import binascii
import os
import re
import unicodedata
from typing import NamedTuple

from ratchetkeep.errors import InvalidValue

# A raw key, in bytes: what every cipher with keys of 256 bits takes.
KEY_SIZE = 32
# The longest text that is read, in bytes; no key is near it, and a wrong file may be large.
MAX_TEXT = 64 * 1024
_KEY = re.compile(r"\s*ratchetkeep-key-(\d+):(.*?)\s*", re.DOTALL)


class Secret(NamedTuple):
    """What a source of keys gave.

    :ivar data: a passphrase as UTF-8, or the 32 bytes of a raw key.
    :ivar is_passphrase: True if a key must first be made of it, slowly.
    """

    data: bytes
    is_passphrase: bool

    def __repr__(self) -> str:
        return "<Secret: a passphrase>" if self.is_passphrase else "<Secret: a key>"


def secret_of_text(text: str) -> Secret | str:
    """The secret that is written as text, or what is wrong with it."""
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        return "holds no key: it is not text in UTF-8"
    return secret_of_bytes(raw)


def secret_of_bytes(raw: bytes) -> Secret | str:
    """The secret that is written as UTF-8, or what is wrong with it."""
    if len(raw) > MAX_TEXT:
        return f"holds no key: it is longer than {MAX_TEXT // 1024} KiB"
    raw = raw.removesuffix(b"\n").removesuffix(b"\r") if raw.endswith(b"\n") else raw
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return "holds no key: it is not text in UTF-8"
    if not text.strip():
        return "holds no key: it is empty"
    written = _KEY.fullmatch(text)
    if written is None:
        return Secret(unicodedata.normalize("NFC", text).encode(), is_passphrase=True)
    if written[1] != "1":
        return f"holds a key of version {written[1]}; this ratchetkeep knows version 1"
    try:
        data = base64.b64decode(written[2], validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != KEY_SIZE:
        return "holds a key that is damaged: it is not the base64 of 32 bytes"
    return Secret(data, is_passphrase=False)


def new_key_text() -> bytes:
    """A new random key, as text, with a newline."""
    return b"ratchetkeep-key-1:" + base64.b64encode(os.urandom(KEY_SIZE)) + b"\n"


def checked(found: Secret | str, place: str) -> Secret:
    """The secret.

    :raises InvalidValue: naming ``place``, if ``found`` tells what is wrong instead.
    """
    if isinstance(found, str):
        remedy = "Nothing was changed. `ratchetkeep key FILE` makes a key; any text is a passphrase"
        raise InvalidValue(place, found, remedy)
    return found
