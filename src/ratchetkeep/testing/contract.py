"""The contract of a store, as a class of tests."""

from __future__ import annotations

from ._damage import DamageTests
from ._hooks import Hooks
from ._many import ManyDevicesTests
from ._moves import MovedTests
from ._ownership import OwnershipTests
from ._records import RecordTests
from ._samples import Holds, record, record_id
from ._transactions import TransactionTests

__all__ = ["Holds", "StoreContract", "record", "record_id"]


class StoreContract(
    RecordTests,
    TransactionTests,
    OwnershipTests,
    MovedTests,
    DamageTests,
    ManyDevicesTests,
    Hooks,
):
    """Tests of every promise that a store can show within one machine.

    ::

        class TestMyStore(StoreContract):
            @pytest.fixture
            def url(self, tmp_path):
                return f"sqlite:{tmp_path}/device.db"

            def raw_get(self, url, key): ...
            def raw_put(self, url, key, data): ...

    Give ``url`` (a fresh place for each test), ``raw_get`` and ``raw_put`` (the stored bytes,
    around the store), and override what differs:

    :cvar holds: what the store's format can hold.
    :cvar many_devices: True if ``url`` names one device of several that one place can hold.
    :cvar many_processes: False if no other process can reach the place.
    :cvar marks: False if a device there cannot be marked as moved, or copy_device not reach it.
    :cvar other_process: a line of code that defines ``open_it(url, create, read_only)`` there.
    """
