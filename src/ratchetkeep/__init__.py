"""Keeps the auth state of linked devices: durable, atomic, movable between client libraries."""

from typing import TYPE_CHECKING, Any

from ratchetkeep._device_store import DeviceStore, open_store
from ratchetkeep._transaction import Transaction
from ratchetkeep.copy import Converted, CopySummary, LeftBehind, NotHeldByTarget, copy_device
from ratchetkeep.copy_all import CopyAllSummary, DeviceCopy, copy_all
from ratchetkeep.device import Device, create_device, open_device
from ratchetkeep.errors import (
    CommitFailed,
    DecodeError,
    DeviceExists,
    DeviceMoved,
    InvalidValue,
    NameCollision,
    NoDevice,
    NotHeld,
    OwnershipLost,
    RatchetkeepError,
    ReadOnly,
    StoreClosed,
    StoreDamaged,
    StoreInUse,
    StoreRewound,
    StoreUnreadable,
    UnknownStore,
    UnsupportedVersion,
    WrongKey,
)
from ratchetkeep.inspect import DeviceSummary, FamilySummary, inspect_device
from ratchetkeep.model import Credentials, EncodedRecord, KeyPair
from ratchetkeep.prekeys import PreKeyStock
from ratchetkeep.repair import Repair, repair_device
from ratchetkeep.verify import Finding, verify_device

if TYPE_CHECKING:
    from ratchetkeep.aio import AsyncDevice, AsyncTransaction, open_async_device

__all__ = [
    "AsyncDevice",
    "AsyncTransaction",
    "CommitFailed",
    "Converted",
    "CopyAllSummary",
    "CopySummary",
    "Credentials",
    "DecodeError",
    "Device",
    "DeviceCopy",
    "DeviceExists",
    "DeviceMoved",
    "DeviceStore",
    "DeviceSummary",
    "EncodedRecord",
    "FamilySummary",
    "Finding",
    "InvalidValue",
    "KeyPair",
    "LeftBehind",
    "NameCollision",
    "NoDevice",
    "NotHeld",
    "NotHeldByTarget",
    "OwnershipLost",
    "PreKeyStock",
    "RatchetkeepError",
    "ReadOnly",
    "Repair",
    "StoreClosed",
    "StoreDamaged",
    "StoreInUse",
    "StoreRewound",
    "StoreUnreadable",
    "Transaction",
    "UnknownStore",
    "UnsupportedVersion",
    "WrongKey",
    "copy_all",
    "copy_device",
    "create_device",
    "inspect_device",
    "open_async_device",
    "open_device",
    "open_store",
    "repair_device",
    "verify_device",
]


def __getattr__(name: str) -> Any:
    # asyncio would be a sixth of the start of every program, of the command line too.
    if name in ("AsyncDevice", "AsyncTransaction", "open_async_device"):
        from ratchetkeep import aio

        return getattr(aio, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
