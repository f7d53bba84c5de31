"""The base of all values of the model: immutable, checked when made, silent about secrets."""

from __future__ import annotations

from typing import Any, ClassVar, Self, dataclass_transform

import msgspec
from msgspec.structs import force_setattr

from ratchetkeep.errors import InvalidValue

from . import _checks as c
from ._checks import Check, FrozenDict, Refused

EMPTY: FrozenDict[str, Any] = FrozenDict()


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A value of the model.

    Members are checked and frozen when the value is made, decoded values too.

    :raises InvalidValue: naming the member (``KeyPair.private``), never its content.
    """

    CHECKS: ClassVar[dict[str, Check]] = {}
    # Members whose content may be shown; all others are shown by type and size only.
    SHOWN: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        for name, check in self.CHECKS.items():
            given = getattr(self, name)
            try:
                kept = check(given)
            except Refused as refused:
                place = f"{type(self).__name__}.{name}{refused.path}"
                raise InvalidValue(place, refused.what) from None
            if kept is not given:
                force_setattr(self, name, kept)

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}={_mask(getattr(self, name), name in self.SHOWN)}"
            for name in self.__struct_fields__
            if getattr(self, name) is not None
        )
        return f"{type(self).__name__}({shown})"

    def replace(self, **changes: Any) -> Self:
        """A copy with some members changed, checked anew."""
        return msgspec.structs.replace(self, **changes)


def _mask(value: Any, shown: bool) -> str:
    if shown or isinstance(value, bool | Value):
        return repr(value)
    if isinstance(value, bytes | str):
        return f"<{len(value)} {'bytes' if isinstance(value, bytes) else 'characters'}>"
    if isinstance(value, tuple | dict):
        return f"<{len(value)} items>"
    return f"<{type(value).__name__}>"


class EncodedRecord(Value, kw_only=True):
    """A whole record in a client's own encoding, kept as it is and handed back untouched.

    :ivar encoding: the encoding's name, such as ``signal-protobuf`` or ``go-json``.
    :ivar data: the client's bytes.
    """

    encoding: str
    data: bytes
    CHECKS = {"encoding": c.name, "data": c.data}
    SHOWN = frozenset({"encoding"})
