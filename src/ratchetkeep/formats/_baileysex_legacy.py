"""What BaileysEx's compat JSON backend wrote in its first versions: any Erlang term as JSON.

Such files stay as they are until BaileysEx changes the record, so a folder may hold both kinds.
Source: BaileysEx 0.1.0-alpha.3 (writes them), 0.1.0-alpha.11 (still reads them). They are read as
the terms that they stand for, and never written.
"""

from __future__ import annotations

from typing import Any

from ratchetkeep.errors import DecodeError, InvalidValue
from ratchetkeep.model._checks import MAX_DEPTH, Refused

from . import etf
from ._json import from_buffer
from ._terms import FALSE, NIL, STRUCT_KEY, TRUE

_KIND, _ATOM_KEYS = "__type__", "__atom_keys__"


def is_legacy(raw: Any) -> bool:
    """True for a record that is spelled so, which BaileysEx tells in the same way."""
    if not isinstance(raw, dict):
        return False
    return _KIND in raw or _ATOM_KEYS in raw or _is_list_of_bytes(raw)


def _is_list_of_bytes(raw: dict[str, Any]) -> bool:
    return raw.get("type") == "Buffer" and isinstance(raw.get("data"), list)


def term_of(raw: Any, depth: int = 0) -> Any:
    """The term that a JSON value stands for.

    :raises Refused: if it stands for none.
    :raises InvalidValue: if there can be no such term.
    """
    if depth > MAX_DEPTH:
        raise Refused(f"nested deeper than {MAX_DEPTH} levels")
    if raw is None or isinstance(raw, bool):
        return NIL if raw is None else TRUE if raw else FALSE
    if isinstance(raw, str):
        return raw.encode()
    if isinstance(raw, list):
        return [term_of(each, depth + 1) for each in raw]
    return _of_object(raw, depth) if isinstance(raw, dict) else raw


def _of_object(raw: dict[str, Any], depth: int) -> Any:
    if _is_list_of_bytes(raw):
        return from_buffer(raw)
    if _KIND in raw:
        return _tagged(raw, depth)
    names = raw.get(_ATOM_KEYS, [])
    if not isinstance(names, list):
        raise Refused("holds names of atoms that are no list")
    atoms = {name for name in names if isinstance(name, str)}
    return etf.Map(
        tuple(
            (etf.Atom(name) if name in atoms else name.encode(), term_of(each, depth + 1))
            for name, each in raw.items()
            if name != _ATOM_KEYS
        )
    )


def _tagged(raw: dict[str, Any], depth: int) -> Any:
    match raw:
        case {"__type__": "atom", "value": str(name)}:
            return etf.Atom(name)
        case {"__type__": "tuple", "items": list(items)}:
            return tuple(term_of(each, depth + 1) for each in items)
        case {"__type__": "map", "entries": list(entries)}:
            pairs = [term_of(each, depth + 1) for each in entries]
            if all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
                return etf.Map(tuple((name, each) for name, each in pairs))
        case {"__type__": "struct", "module": str(name), "value": dict(members)}:
            held = term_of(members, depth + 1)
            if isinstance(held, etf.Map):
                return etf.Map(((STRUCT_KEY, etf.Atom(name)), *held.items()))
    raise Refused("holds a tagged term of no kind that BaileysEx wrote")


def as_etf(raw: Any) -> bytes:
    """The record as BaileysEx's native backend would hold it.

    :raises DecodeError: if it stands for no term.
    """
    try:
        return etf.encode(term_of(raw))
    except (Refused, InvalidValue) as refused:
        raise DecodeError("", refused.what) from None
