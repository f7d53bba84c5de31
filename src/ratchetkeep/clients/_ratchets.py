"""Whose sessions a device holds: what every adapter looks at when it opens one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ratchetkeep.aio import AsyncDevice
from ratchetkeep.model import Key

RATCHETS = frozenset({"session", "sender-key"})
"""The families whose records are a client's own business."""


async def check_ratchets(device: AsyncDevice, check: Callable[[Key, Any], object]) -> None:
    """See that the device is not another client's: a client acknowledges what it cannot read, so
    messages would be lost. One record of each family tells; the others are checked when used.

    :param check: raises NotHeld for a record that is of another client.
    """
    for family in sorted(RATCHETS):
        first = (await device.ids(family))[:1]
        for id, held in (await device.get(family, first)).items():
            check(Key(family, id), held)
