"""What a test class of a store provides, and helpers of the contract's tests."""

from __future__ import annotations

import base64
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ratchetkeep import Device, DeviceStore, open_device, open_store
from ratchetkeep.model import FAMILIES, Key

from ._samples import Holds, record, record_id

F = TypeVar("F", bound=Callable[..., Any])

# A thread or a process of a test that takes longer hangs.
PATIENCE = 30

_NEEDS: dict[str, tuple[tuple[str, ...], Callable[..., Any]]] = {}


def needs(*flags: str) -> Callable[[F], F]:
    """The test is there only in classes where all ``flags`` are true: none is ever skipped."""

    def enter(test: F) -> F:
        _NEEDS[test.__name__] = (flags, test)
        return test

    return enter


class Hooks:
    """Override what differs for your store; see :class:`StoreContract`."""

    holds: Holds = Holds()
    many_devices: bool = False
    many_processes: bool = True
    marks: bool = True
    other_process: str = "from ratchetkeep import open_device as open_it"

    def __init_subclass__(cls) -> None:
        for name, (flags, test) in _NEEDS.items():
            if hasattr(cls, name):
                setattr(cls, name, test if all(getattr(cls, flag) for flag in flags) else None)

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        """A place where nothing is yet, a new one for each test."""
        raise NotImplementedError

    @pytest.fixture
    def device(self, url: str) -> Iterator[Device]:
        """A new device in ``url``, open."""
        with self.open(url, create=True) as device:
            yield device

    def open(self, url: str, *, create: bool = False, read_only: bool = False) -> Device:
        """Open the device that ``url`` names."""
        return open_device(url, create=create, read_only=read_only)

    def open_orphan(self, url: str, *, read_only: bool) -> Device:
        """Open the device whose owner died; where owners have leases, once that one has run out."""
        return self.open(url, read_only=read_only)

    def open_store(self, url: str) -> DeviceStore:
        """Open the store that ``url`` names."""
        return open_store(url)

    def reopen(self, device: Device, url: str) -> Device:
        """Close ``device`` and open it again, so that nothing is answered from memory."""
        device.close()
        return self.open(url)

    def raw_get(self, url: str, key: Key) -> bytes:
        """The record's stored bytes, read around the store; the device is closed."""
        raise NotImplementedError

    def raw_put(self, url: str, key: Key, data: bytes | None) -> None:
        """Replace the record's stored bytes, or remove it, around the store; the device is
        closed."""
        raise NotImplementedError

    def raw_corrupt(self, url: str, key: Key) -> None:
        """Damage the record so that its format can tell, around the store."""
        raw = self.raw_get(url, key)
        self.raw_put(url, key, raw[: len(raw) // 2])

    def value(self, family: str, number: int, device: Device) -> Any:
        """A realistic value that the store can hold; another one for each number."""
        return record(family, number, device.credentials, self.holds)

    def fill(self, device: Device, count: int = 3) -> dict[str, dict[str, Any]]:
        """Store ``count`` records of every family; what was stored."""
        records = {
            family: {record_id(family, n): self.value(family, n, device) for n in range(count)}
            for family in FAMILIES
        }
        device.set(records)
        return records

    def elsewhere(self, url: str, code: str) -> subprocess.CompletedProcess[str]:
        """Run ``code`` in another process, where ``open_it(url, create, read_only)`` opens."""
        text = f"{self.other_process}\nurl = {url!r}\n{code}"
        return subprocess.run(
            [sys.executable, "-c", text], capture_output=True, text=True, timeout=PATIENCE
        )


def contents(device: Device) -> dict[str, dict[str, Any]]:
    """All records of a device."""
    found = {family: device.get(family, device.ids(family)) for family in FAMILIES}
    for family, members in found.items():
        if sorted(members) != device.ids(family):
            raise AssertionError(f"ids() and get() disagree about {family}")
    return found


def leaked(error: BaseException, *secrets: bytes) -> list[str]:
    """Spellings of the secrets that stand in the error, its repr or its traceback."""
    shown = "".join([str(error), repr(error), *traceback.format_exception(error)])
    spelled = [
        form
        for secret in secrets
        if len(secret) >= 16  # fewer bytes may stand there by chance
        for form in (
            base64.b64encode(secret).decode()[:10],
            secret.hex()[:16],
            repr(secret)[2:-1][:24],
            str(list(secret))[1:24],
        )
    ]
    return [form for form in spelled if form in shown]


def run_threads(*actions: Callable[[], None]) -> list[BaseException]:
    """Run them at once; what they raised. A thread that hangs is a failure."""
    raised: list[BaseException] = []

    def run(action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            raised.append(error)

    threads = [threading.Thread(target=run, args=(each,), daemon=True) for each in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    if any(thread.is_alive() for thread in threads):
        raise AssertionError("a thread hangs")
    return raised
