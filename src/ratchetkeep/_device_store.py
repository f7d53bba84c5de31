"""A store with its devices, opened as one."""

from __future__ import annotations

import os
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakSet

from ratchetkeep.device import Device, open_in
from ratchetkeep.errors import StoreClosed
from ratchetkeep.stores import urls
from ratchetkeep.stores.base import DEFAULT_DEVICE, Store

if TYPE_CHECKING:
    from ratchetkeep.sealing.keys import SealKey


class DeviceStore:
    """A store with its devices. Made by :func:`open_store`; use it as a context manager."""

    def __init__(
        self,
        store: Store,
        witness: str | os.PathLike[str] | None = None,
        witness_delay: float | None = None,
    ) -> None:
        self._store = store
        self._watched: dict[str, Any] = {"witness": witness, "witness_delay": witness_delay}
        self._devices: WeakSet[Device] = WeakSet()
        self._pid = os.getpid()
        self._is_open = True

    def __repr__(self) -> str:
        return f"<DeviceStore {self._store.url}>"

    def devices(self) -> list[str]:
        """Names of the devices, sorted; a damaged one counts too."""
        self._check_open()
        return self._store.devices()

    def open(
        self,
        name: str = DEFAULT_DEVICE,
        read_only: bool = False,
        *,
        wait: float = 0.0,
        steal: bool = False,
    ) -> Device:
        """Open a device; parameters and errors as those of :func:`open_device`."""
        return self._opened(name, create=False, read_only=read_only, wait=wait, steal=steal)

    def create(self, name: str = DEFAULT_DEVICE) -> Device:
        """Make a device with new credentials and open it.

        :raises DeviceExists: if there is one of that name.
        """
        return self._opened(name, create=True, read_only=False, must_be_new=True)

    def remove(self, name: str = DEFAULT_DEVICE) -> None:
        """Remove a device with all its records, in one step. Its keys are gone for good.

        :raises NoDevice: if there is none of that name.
        :raises StoreInUse: if it is open.
        """
        self._check_open()
        urls.check_name(name, self._store.url)
        self._store.acquire(name, read_only=False, create=False)
        try:
            self._store.remove(name)
        finally:
            self._store.release(name)

    def close(self) -> None:
        """Close the store and what is still open in it."""
        if os.getpid() != self._pid:
            return  # a forked child: they are its parent's
        self._is_open = False
        for device in list(self._devices):
            device.close()
        self._store.close()

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreClosed(self._store.url, "the store was closed")

    def _opened(self, name: str, **how: Any) -> Device:
        self._check_open()
        urls.check_name(name, self._store.url)
        device = open_in(self._store, name, **how, **self._watched)
        self._devices.add(device)
        return device

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_store(
    url: str | os.PathLike[str],
    *,
    key: str | bytes | SealKey | None = None,
    witness: str | os.PathLike[str] | None = None,
    witness_delay: float | None = None,
) -> DeviceStore:
    """The store that ``url`` names, with its devices; ``?device=`` has no meaning here.

    :param key: as for :func:`open_device`.
    :param witness: watches all devices that are opened here, as for :func:`open_device`; so does
        ``witness_delay``.
    :raises UnknownStore: if ``url`` names no store.
    """
    return DeviceStore(urls.open_target(urls.parse(url), key), witness, witness_delay)
