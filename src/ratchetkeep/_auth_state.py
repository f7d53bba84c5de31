"""What :mod:`ratchetkeep.native_file` and :mod:`ratchetkeep.multi_file` share: the names of the
other libraries over a :class:`Device`."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, Self, overload

from ratchetkeep._transaction import Records, Transaction
from ratchetkeep.device import Device, create_device, open_device
from ratchetkeep.errors import InvalidValue
from ratchetkeep.model import Credentials

Path = str | os.PathLike[str]


class KeyStore:
    """The Signal key store of an auth state: ``get``, ``set``, ``clear`` and ``transaction``."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def get(self, family: str, ids: Iterable[str]) -> dict[str, Any]:
        """Records by id; absent ids are left out."""
        return self._device.get(family, ids)

    def set(self, records: Records) -> None:
        """Store ``{family: {id: value}}`` in one durable commit; None deletes."""
        self._device.set(records)

    def clear(self) -> None:
        """Delete all records; the credentials stay."""
        self._device.clear()

    def transaction(self, *keys: str) -> AbstractContextManager[Transaction]:
        """As :meth:`Device.transaction`."""
        return self._device.transaction(*keys)


class AuthState:
    """Credentials and keys. The credentials' members can be read off it directly, as off
    BaileysEx's state; assign to ``creds`` and call ``save_creds`` to change them.

    :ivar creds: the credentials.
    :ivar keys: the Signal key store.
    """

    def __init__(self, device: Device) -> None:
        self.creds = device.credentials
        self.keys = KeyStore(device)

    def __getattr__(self, name: str) -> Any:
        if name == "creds":
            raise AttributeError(name)
        return getattr(self.creds, name)

    def __repr__(self) -> str:
        return f"AuthState(creds={self.creds!r})"


class AuthStateHelper:
    """What a client is started with. Close it, or use it as a context manager: it owns the folder.

    :ivar state: the :class:`AuthState`.
    :ivar connect_opts: options for a client: its ``signal_store``.
    :ivar device: the device beneath.
    """

    def __init__(self, device: Device, closed: Any) -> None:
        self.device = device
        self.state = AuthState(device)
        self.connect_opts = {"signal_store": self.state.keys}
        self._closed = closed

    def save_creds(self, credentials: Credentials | None = None) -> None:
        """Save ``credentials``, or ``state.creds`` as it is now; durable on return."""
        saved = self.state.creds if credentials is None else credentials
        self.device.save_credentials(saved)
        self.state.creds = saved

    def close(self) -> None:
        """Give the folder back."""
        self._closed(self.device)
        self.device.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Backend:
    """The functions of one kind of folder. Each takes the folder first, or works in the default.

    :param kind: as in a URL.
    :param default: the folder in the current one that is used where no path is given.
    """

    def __init__(self, kind: str, default: str) -> None:
        self.kind = kind
        self.default = default
        self._open: dict[str, Device] = {}
        self._guard = threading.Lock()

    def use_auth_state(self, path: Path | None = None) -> AuthStateHelper:
        """Open the folder as an auth state; a folder without a trace of a device gets a new one.

        :raises StoreDamaged: if something is there and cannot be read: it is never made anew.
        :raises StoreInUse: if another owner has it open.
        """
        place = self._place(path)
        device = open_device(place, create=True)
        with self._guard:
            self._open[place] = device
        return AuthStateHelper(device, lambda device: self._forget(place, device))

    def load_credentials(self, path: Path | None = None) -> Credentials:
        """The credentials in the folder.

        :raises NoDevice: if there are none; none are made.
        """
        with self._device(path) as device:
            return device.credentials

    @overload
    def save_credentials(self, credentials: Credentials, /) -> None: ...
    @overload
    def save_credentials(self, path: Path, credentials: Credentials, /) -> None: ...
    def save_credentials(self, *args: Any) -> None:
        """Save credentials; durable on return. A folder without a trace of a device becomes one."""
        path, credentials = split_path(args, 1, "save_credentials")
        with self._device(path, initial=credentials) as device:
            device.save_credentials(credentials)

    @overload
    def load_keys(self, family: str, id: str, /) -> Any: ...
    @overload
    def load_keys(self, path: Path, family: str, id: str, /) -> Any: ...
    def load_keys(self, *args: Any) -> Any:
        """One Signal key record, or None if it is not there."""
        path, family, id = split_path(args, 2, "load_keys")
        with self._device(path) as device:
            return device.get(family, [id]).get(id)

    @overload
    def save_keys(self, family: str, id: str, value: Any, /) -> None: ...
    @overload
    def save_keys(self, path: Path, family: str, id: str, value: Any, /) -> None: ...
    def save_keys(self, *args: Any) -> None:
        """Save one Signal key record; durable on return."""
        path, family, id, value = split_path(args, 3, "save_keys")
        with self._device(path) as device:
            device.set({family: {id: value}})

    @overload
    def delete_keys(self, family: str, id: str, /) -> None: ...
    @overload
    def delete_keys(self, path: Path, family: str, id: str, /) -> None: ...
    def delete_keys(self, *args: Any) -> None:
        """Delete one Signal key record; durable on return. Fine if it is not there."""
        path, family, id = split_path(args, 2, "delete_keys")
        with self._device(path) as device:
            device.set({family: {id: None}})

    def _place(self, path: Path | None) -> str:
        return f"{self.kind}:{os.path.realpath(self.default if path is None else path)}"

    def _forget(self, place: str, device: Device) -> None:
        with self._guard:
            if self._open.get(place) is device:
                del self._open[place]

    @contextmanager
    def _device(self, path: Path | None, initial: Credentials | None = None) -> Iterator[Device]:
        """The one that a helper of this process holds, or one that is opened for this call."""
        place = self._place(path)
        with self._guard:
            held = self._open.get(place)
        if held is not None:
            yield held
            return
        with open_device(place) if initial is None else create_device(place, initial) as device:
            yield device


def split_path(args: tuple[Any, ...], count: int, call: str) -> tuple[Any, ...]:
    """``args`` with the path first: None where it was left out."""
    if len(args) == count:
        return (None, *args)
    if len(args) == count + 1:
        return args
    raise InvalidValue(call, f"takes {count} arguments, or {count + 1} with the path first")
