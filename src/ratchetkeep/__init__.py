"""Keeps the auth state of linked devices: durable, atomic, movable between client libraries."""

from importlib import import_module
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
    from ratchetkeep.backup import BackupSummary, backup_device
    from ratchetkeep.prune import PrunePolicy, PruneSummary, prune_device
    from ratchetkeep.reseal import ResealSummary, rekey_store, seal_store, unseal_store
    from ratchetkeep.restore import RestoreSummary, cool_device, restore_all, restore_device
    from ratchetkeep.sealing.keys import KeyCommand, KeyFile, Keyring, Passphrase, make_key_file

__all__ = [
    "AsyncDevice",
    "AsyncTransaction",
    "BackupSummary",
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
    "KeyCommand",
    "KeyFile",
    "KeyPair",
    "Keyring",
    "LeftBehind",
    "NameCollision",
    "NoDevice",
    "NotHeld",
    "NotHeldByTarget",
    "OwnershipLost",
    "Passphrase",
    "PreKeyStock",
    "PrunePolicy",
    "PruneSummary",
    "RatchetkeepError",
    "ReadOnly",
    "Repair",
    "ResealSummary",
    "RestoreSummary",
    "StoreClosed",
    "StoreDamaged",
    "StoreInUse",
    "StoreRewound",
    "StoreUnreadable",
    "Transaction",
    "UnknownStore",
    "UnsupportedVersion",
    "WrongKey",
    "backup_device",
    "cool_device",
    "copy_all",
    "copy_device",
    "create_device",
    "inspect_device",
    "make_key_file",
    "open_async_device",
    "open_device",
    "open_store",
    "prune_device",
    "rekey_store",
    "repair_device",
    "restore_all",
    "restore_device",
    "seal_store",
    "unseal_store",
    "verify_device",
]


# What most programs do not use: asyncio alone would be a sixth of the start of every program, the
# command line's too.
_LATER = {
    "aio": ("AsyncDevice", "AsyncTransaction", "open_async_device"),
    "backup": ("BackupSummary", "backup_device"),
    "prune": ("PrunePolicy", "PruneSummary", "prune_device"),
    "reseal": ("ResealSummary", "rekey_store", "seal_store", "unseal_store"),
    "restore": ("RestoreSummary", "cool_device", "restore_all", "restore_device"),
    "sealing.keys": ("KeyCommand", "KeyFile", "Keyring", "Passphrase", "make_key_file"),
}


def __getattr__(name: str) -> Any:
    for module, names in _LATER.items():
        if name in names:
            return getattr(import_module(f"ratchetkeep.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
