"""Three-way merge of a record that was in a poorer format for a while.

``ours`` went into another format, which could hold ``base`` of it; ``theirs`` is what comes back.
What the other library left as it was is taken from ours, which is richer; what it changed, added or
removed is its own. Nothing that it used up comes back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ratchetkeep.model import OPEN, Chain, Credentials, FrozenDict, SessionRecord, Value

__all__ = ["merged"]


def merged(base: Any, theirs: Any, ours: Any) -> Any:
    """What the record is now: ``theirs``, completed from ``ours`` where only the format was poorer.

    :param base: what the format gives back of ``ours``; None if it cannot hold the record.
    """
    if base is None and isinstance(theirs, SessionRecord) and isinstance(ours, SessionRecord):
        base = SessionRecord()  # none of its sessions could be held
    value = _merged(base, theirs, ours)
    if isinstance(value, Credentials) and isinstance(ours, Credentials):
        # Some formats keep no counters: an id that may have been given out is never given again.
        counters = ("next_pre_key_id", "first_unuploaded_pre_key_id")
        value = value.replace(**{n: max(getattr(theirs, n), getattr(ours, n)) for n in counters})
    return _one_open(value, theirs) if isinstance(value, SessionRecord) else value


def _merged(base: Any, theirs: Any, ours: Any) -> Any:
    if theirs == base:
        return ours
    if base == ours:
        return theirs
    if isinstance(theirs, Value) and type(theirs) is type(base) is type(ours):
        members = {
            name: _merged(getattr(base, name), getattr(theirs, name), getattr(ours, name))
            for name in theirs.__struct_fields__
        }
        return _settled(base, theirs, ours, members)
    if all(isinstance(each, Mapping) for each in (base, theirs, ours)):
        return _merged_items(base, theirs, ours)
    return theirs


def _merged_items(
    base: Mapping[Any, Any], theirs: Mapping[Any, Any], ours: Mapping[Any, Any]
) -> FrozenDict[Any, Any]:
    items: dict[Any, Any] = {}
    for key, value in ours.items():
        if key not in base:
            items[key] = theirs.get(key, value)  # had no place there
        elif key in theirs:
            items[key] = _merged(base[key], theirs[key], value)
    # What is in base alone was made up for ours, and is left out where it is still the same.
    new = {key: value for key, value in theirs.items() if key not in ours}
    items |= {key: value for key, value in new.items() if key not in base or base[key] != value}
    return FrozenDict(items)


def _settled(base: Any, theirs: Any, ours: Any, members: dict[str, Any]) -> Any:
    if isinstance(ours, Chain):
        # The key of a message that has arrived meanwhile is used up, in either spelling of it.
        used = base.derived_keys.keys() - theirs.derived_keys.keys()
        seeds = members["message_keys"].items()
        members["message_keys"] = {n: seed for n, seed in seeds if n not in used}
    return theirs.replace(**members)


def _one_open(record: SessionRecord, theirs: SessionRecord) -> SessionRecord:
    """The record with no more than one open session: theirs, if they have one."""
    open_keys = [key for key, session in record.sessions.items() if session.is_open]
    if len(open_keys) < 2:
        return record
    in_theirs = {key for key, session in theirs.sessions.items() if session.is_open}
    living = next((key for key in open_keys if key in in_theirs), open_keys[0])
    sessions = dict(record.sessions)
    for key in open_keys:
        if key != living:
            info = sessions[key].index_info
            # Just older than the one that took its place.
            closed = max(info.used or 0, OPEN + 1)
            sessions[key] = sessions[key].replace(index_info=info.replace(closed=closed))
    return record.replace(sessions=sessions)
