"""The base of all values of the model: immutable, checked when made, silent about secrets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self, dataclass_transform

import msgspec
from msgspec.structs import force_setattr

from ratchetkeep.errors import InvalidValue

from . import _checks as c
from ._checks import EMPTY, Check, Refused

__all__ = ["EMPTY", "EncodedRecord", "Value"]


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A value of the model.

    Members are checked and frozen when the value is made, decoded values too. What is immutable
    cannot stand in a circle, so the garbage collector need not look at values (``gc=False``).

    :raises InvalidValue: naming the member (``KeyPair.private``), never its content.
    """

    CHECKS: ClassVar[dict[str, Check]] = {}
    # Members whose content may be shown; all others are shown by type and size only.
    SHOWN: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__post_init__ = _checker_of(cls.CHECKS)  # type: ignore[assignment, method-assign]

    def __post_init__(self) -> None:
        """Check and freeze the members; each type has a function of its own for it."""

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


def _checker_of(checks: dict[str, Check]) -> Callable[[Any], None]:
    """The function that checks and freezes a new value's members, with all tests written out."""
    lines = ["def check_members(self):", "    try:"]
    for name, check in checks.items():
        lines += [
            f"        given = self.{name}",
            f"        if not {c.test_of(check, 'given')}:",
            f"            member = {name!r}",
            f"            kept = check_{name}(given)",
            "            if kept is not given:",
            "                force_setattr(self, member, kept)",
        ]
    lines += [
        "    except Refused as refused:",
        "        raise wrong(self, member, refused) from None",
    ]
    named = {f"check_{name}": check for name, check in checks.items()}
    return c.define(
        "\n".join(lines), force_setattr=force_setattr, Refused=Refused, wrong=_wrong, **named
    )


def _wrong(value: Value, member: str, refused: Refused) -> InvalidValue:
    return InvalidValue(f"{type(value).__name__}.{member}{refused.path}", refused.what)


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
