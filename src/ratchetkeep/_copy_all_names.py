"""The names of many devices as folders below one root, and back: no name leads out of the root, and
reading the folders gives the same names.

A name is the folder's path. Only what cannot be one is percent-encoded: a slash that would lead
nowhere or into another device's folder (``%2F``), ``.`` and ``..`` (``%2E``), our own files' names,
control characters, and a ``%`` that would be read as one of these. A part that is too long for a
folder goes on in one below, behind a ``%`` at the end.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

__all__ = ["folder_of", "is_ours", "name_of"]

# Beside a folder stands what a copy puts together, under its name with up to 52 bytes more; no name
# has more than 255.
LONGEST = 200
# A part of this length at least is said to go on.
_GOES_ON = LONGEST - 12

_CONTROL = "[\x00-\x1f\x7f\x80-\x9f]"
# The dot of a name that ratchetkeep gives to files of its own, in a device's folder or beside it.
_OURS = r"\.(?=ratchetkeep[-.])"
_TO_ENCODE = re.compile(rf"/|{_CONTROL}|{_OURS}|\A\.(?=\.?\Z)")
_ENCODED = re.compile("(?:%(?:25|2E|2F|[01][0-9A-F]|7F|C2%[89][0-9A-F]))+")

_STAGED = re.compile(r"(?s)\..+\.ratchetkeep-stage-\d+-[0-9a-f]+\Z")


def is_ours(part: str) -> bool:
    """True for the folder that a copy puts a device together in: it is no device yet."""
    return _STAGED.match(part) is not None


def folder_of(name: str, is_closed: Callable[[str], bool]) -> str:
    """The folder of a device, as a path below the root.

    :param is_closed: whether nothing can be put into a folder, which is another device's, say.
    """
    done: list[str] = []
    current, *parts = name.split("/")
    for part in parts:
        # An empty part would be no folder.
        is_folder = current and part and not current.endswith("/")
        if is_folder and not is_closed("/".join([*done, *_encoded(current)])):
            done += _encoded(current)
            current = part
        else:
            current += "/" + part
    return "/".join([*done, *_encoded(current)])


def name_of(folder: str) -> str:
    """The name of the device in a folder, which is a path below the root."""
    return "/".join(_decoded(part) for part in _joined(folder.split("/")))


def _encoded(part: str) -> list[str]:
    """The folders, one in another, that a part of a name becomes."""
    text = _TO_ENCODE.sub(_percent, part)
    if name_of("/".join(_split(text))) != part:
        text = _TO_ENCODE.sub(_percent, part.replace("%", "%25"))
    return _split(text)


def _percent(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode())


def _decoded(part: str) -> str:
    return _ENCODED.sub(lambda found: bytes.fromhex(found[0].replace("%", "")).decode(), part)


def _split(text: str) -> list[str]:
    if len(text.encode()) <= LONGEST:
        return [text]
    parts, current = [], ""
    for unit in _units(text):
        if len((current + unit).encode()) >= LONGEST:
            parts.append(current + "%")
            current = "%2E" if unit == "." else unit  # a dot alone would be the folder itself
        else:
            current += unit
    return [*parts, current]


def _units(text: str) -> Iterator[str]:
    """What is not to be torn apart."""
    for found in re.finditer(r"%C2%[0-9A-F]{2}|%[0-9A-F]{2}|(?s:.)", text):
        yield found[0]


def _joined(parts: list[str]) -> Iterator[str]:
    current = ""
    for part in parts:
        current += part
        if part.endswith("%") and len(os.fsencode(part)) >= _GOES_ON:
            current = current[:-1]
        else:
            yield current
            current = ""
    if current:
        yield current
