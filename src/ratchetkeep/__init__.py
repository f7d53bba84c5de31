"""Keeps the auth state of linked devices: durable, atomic, movable between client libraries."""

from ratchetkeep._device_store import DeviceStore, open_store
from ratchetkeep._transaction import Transaction
from ratchetkeep.aio import AsyncDevice, AsyncTransaction, open_async_device
from ratchetkeep.copy import CopySummary, NotHeldByTarget, copy_device
from ratchetkeep.device import Device, create_device, open_device
from ratchetkeep.errors import (
    CommitFailed,
    DecodeError,
    DeviceExists,
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
    StoreUnreadable,
    UnknownStore,
    UnsupportedVersion,
)
from ratchetkeep.inspect import DeviceSummary, FamilySummary, inspect_device
from ratchetkeep.model import Credentials, EncodedRecord, KeyPair
from ratchetkeep.prekeys import PreKeyStock
from ratchetkeep.repair import Repair, repair_device
from ratchetkeep.verify import Finding, verify_device

__all__ = [
    "AsyncDevice",
    "AsyncTransaction",
    "CommitFailed",
    "CopySummary",
    "Credentials",
    "DecodeError",
    "Device",
    "DeviceExists",
    "DeviceStore",
    "DeviceSummary",
    "EncodedRecord",
    "FamilySummary",
    "Finding",
    "InvalidValue",
    "KeyPair",
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
    "StoreUnreadable",
    "Transaction",
    "UnknownStore",
    "UnsupportedVersion",
    "copy_device",
    "create_device",
    "inspect_device",
    "open_async_device",
    "open_device",
    "open_store",
    "repair_device",
    "verify_device",
]
