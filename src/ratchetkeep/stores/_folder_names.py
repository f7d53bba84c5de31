"""The names of a folder that are ours, and those that tell of a device."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from ratchetkeep.model import FAMILIES

from .layouts import Layout

JOURNAL = ".ratchetkeep.journal"
MOVED = ".ratchetkeep.moved"

_OURS = "|".join(map(re.escape, (JOURNAL, MOVED)))
_RECORDS = "|".join(map(re.escape, FAMILIES))
_TRACE = re.compile(rf"(?:{_OURS})\Z|creds\.|\.baileys_ex_|(?:{_RECORDS})-")


def traces(names: Iterable[str]) -> list[str]:
    """What names a device of any library, or what is left of one."""
    return list(filter(_TRACE.match, names))


def is_of_another_kind(layout: Layout, found: Collection[str]) -> bool:
    """True if one of the :func:`traces` of a device is of another kind of folder, or could be."""
    ours = {JOURNAL, MOVED, layout.manifest, *layout.leftovers(found)}
    others = [name for name in found if name not in ours]
    is_told = layout.manifest in found or not layout.is_told_by_manifest
    return not all(map(layout.key_of, others)) or bool(others and not is_told)
