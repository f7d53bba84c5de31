"""pyaileys' credentials object <-> the model's credentials, by way of the JSON of its own folder.

How each member is spelled says :mod:`ratchetkeep.formats._pyaileys_creds`. Here is what only a
running client needs: changing some members and leaving the others, with what other libraries noted
beside them, as they are.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pyaileys.auth import creds as client
from pyaileys.auth.serde import creds_from_dict
from pyaileys.util import json as bufferjson

from ratchetkeep.errors import InvalidValue
from ratchetkeep.formats._json import from_free
from ratchetkeep.formats._pyaileys_creds import (
    EXTRA,
    MEMBERS,
    decode_member,
    encode_creds,
    kept_of,
)
from ratchetkeep.formats._pyaileys_json import dump
from ratchetkeep.formats._shape import Losses, Many
from ratchetkeep.model import (
    Account,
    AccountSettings,
    Contact,
    Credentials,
    KeyPair,
    SignedPreKey,
)
from ratchetkeep.model._checks import Refused

Texts = dict[str, str]

# What pyaileys keeps as objects, or as bytes, that have no place for what else was there.
_OBJECTS = (Account, AccountSettings, Contact, KeyPair, SignedPreKey)
# In ``extra`` of the model's values, and yet known to pyaileys.
_OWN = frozenset({"timestamp_s"})


def texts_of(creds: client.AuthenticationCreds) -> Texts:
    """Each member as pyaileys' own JSON, or "" if it has none: what changed is found by comparing
    these."""
    texts = {}
    for each in dataclasses.fields(creds):
        try:
            texts[each.name] = text_of("", getattr(creds, each.name))
        except InvalidValue:
            # Said where it is saved. Until then it must not stop what has nothing to do with it.
            texts[each.name] = ""
    return texts


def to_client(credentials: Credentials) -> client.AuthenticationCreds:
    """pyaileys' view of the credentials."""
    document = bufferjson.loads(dump(encode_creds(credentials, Losses())).decode())
    creds = creds_from_dict(document)
    for each in dataclasses.fields(creds):
        if each.name not in MEMBERS and each.name in document:
            setattr(creds, each.name, document[each.name])  # of a later version
    return creds


def with_changes(
    credentials: Credentials, creds: client.AuthenticationCreds, names: Iterable[str]
) -> Credentials:
    """``credentials`` with the members ``names`` of ``creds``; all others stay as they are.

    :raises InvalidValue: naming the member that the model refuses.
    """
    kept = kept_of(credentials)
    extra = {name: each for name, each in credentials.extra.items() if name != EXTRA}
    changes: dict[str, Any] = {}
    for name in names:
        raw = json.loads(plain_text(f"creds.{name}", getattr(creds, name)))
        kept.pop(name, None)
        try:
            if name not in MEMBERS:
                extra[name] = from_free(raw)
                continue
            held, is_exact = decode_member(name, raw)
            if is_exact:
                held = _with_rest(name, raw, held, getattr(credentials, name))
            else:
                kept[name] = from_free(raw)
        except Refused as refused:
            raise InvalidValue(f"creds.{name}", refused.what) from None
        changes[name] = held
    return credentials.replace(**changes, extra={**extra, EXTRA: kept} if kept else extra)


def plain_text(place: str, value: Any) -> str:
    """The JSON of ``value`` as pyaileys' own store would give it back.

    :raises InvalidValue: if that store could not write it, or not read it.
    """
    try:
        return bufferjson.dumps(bufferjson.loads(text_of(place, value)))
    except ValueError:
        raise InvalidValue(place, "holds a Buffer object that is not base64") from None


def text_of(place: str, value: Any) -> str:
    """The JSON of ``value``.

    :raises InvalidValue: if it has none.
    """
    try:
        return bufferjson.dumps(value)
    except (TypeError, ValueError, RecursionError):
        what = f"a value of type {type(value).__name__} cannot be stored as JSON"
        raise InvalidValue(place, what) from None


def _with_rest(name: str, raw: Any, held: Any, stored: Any) -> Any:
    """``held`` with what other libraries noted in ``stored``, which pyaileys does not hand back."""
    codec = MEMBERS[name].codec
    if isinstance(codec, Many) and held and stored:
        spelled = [dump(codec.item.encode(each, "", Losses())) for each in stored]
        # Items that did not change stay as they are.
        known = dict(zip(spelled, stored, strict=True))
        return tuple(known.get(dump(each), new) for each, new in zip(raw, held, strict=True))
    return _merged(held, stored)


def _merged(held: Any, stored: Any) -> Any:
    if not isinstance(held, _OBJECTS) or type(held) is not type(stored):
        return held
    members = {
        name: _merged(getattr(held, name), getattr(stored, name))
        for name in held.__struct_fields__
        if isinstance(getattr(held, name), _OBJECTS)
    }
    rest: Mapping[str, Any] = {n: each for n, each in stored.extra.items() if n not in _OWN}
    return held.replace(**members, extra={**rest, **held.extra})
