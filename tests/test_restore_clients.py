"""A restored device in PostgreSQL, sealed, and in real clients, which go on by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pgserver
from _helpers import ALICE, GOLDEN
from ratchetkeep import WrongKey, copy_device, open_device
from ratchetkeep.backup import backup_device
from ratchetkeep.restore import cool_device, restore_device

FAMILIES = {"session", "pre-key", "sender-key-memory"}


@pytest.fixture(scope="module")
def server() -> Iterator[pgserver.Server]:
    """A server for these tests."""
    with pgserver.running() as server:
        yield server


@pytest.mark.parametrize("prefix", ["", "whatsmeow:"])
def test_postgresql(prefix: str, server: pgserver.Server, tmp_path: Path) -> None:
    """A device could not be restored into a database, or cooled there."""
    backup_device(ALICE, tmp_path / "b", plaintext=True)
    url = prefix + server.new_database()
    restored = restore_device(tmp_path / "b", url)
    cooler = cool_device(url)
    assert cooler.next_pre_key_id > restored.next_pre_key_id
    with open_device(url) as device:
        held = {family for family in FAMILIES if device.ids(family)}
        assert held == ({"pre-key"} if prefix else set())
        assert device.credentials.next_pre_key_id == cooler.next_pre_key_id
    again = restore_device(tmp_path / "b", url, overwrite=True)
    assert again.next_pre_key_id != cooler.next_pre_key_id


def test_sealed(tmp_path: Path) -> None:
    """A sealed store could not be restored or cooled with its key, or could be without."""
    url = f"sqlite:{tmp_path}/d.db"
    backup_device(ALICE, tmp_path / "b", plaintext=True)
    restore_device(tmp_path / "b", url, key="a long passphrase")
    with pytest.raises(WrongKey):
        cool_device(url, key="another passphrase")
    with pytest.raises(WrongKey):
        restore_device(tmp_path / "b", url, overwrite=True, key="another passphrase")
    cooler = cool_device(url, key="a long passphrase")
    with open_device(url, key="a long passphrase") as device:
        assert device.credentials.next_pre_key_id == cooler.next_pre_key_id


def test_pyaileys_goes_on(tmp_path: Path) -> None:
    """pyaileys would give out pre-key ids a second time, or none."""
    from pyaileys.client import WhatsAppClient

    from ratchetkeep.clients.pyaileys import load

    backup_device(GOLDEN / "pyaileys" / "alice", tmp_path / "b", plaintext=True)
    summary = restore_device(tmp_path / "b", f"sqlite:{tmp_path}/d.db")

    async def upload() -> list[str]:
        async with await load(f"sqlite:{tmp_path}/d.db", create=False) as auth:
            socket: Any = WhatsAppClient(auth=auth).socket

            async def query(node: Any, **_: Any) -> Any:
                return SimpleNamespace(tag="iq", attrs={}, content=[])

            socket.query = query
            await socket._upload_prekeys(10)
            await auth.save_creds()
            return list(await auth.device.ids("pre-key"))

    first = summary.next_pre_key_id
    assert sorted(map(int, asyncio.run(upload()))) == list(range(first, first + 10))


def test_waeys_goes_on(tmp_path: Path) -> None:
    """waeys would give out pre-key ids a second time, or none."""
    from ratchetkeep.clients.waeys import load

    # It has no types.
    signal = import_module("WAeys.Utils.signal")
    url = f"sqlite:{tmp_path}/d.db"
    copy_device(ALICE, url)
    summary = cool_device(url)

    async def mint() -> list[str]:
        auth = await load(url, create=False)
        try:
            made = await signal.get_next_pre_keys(auth, 5)
            return list(made["preKeys"])
        finally:
            await auth.close()

    first = summary.next_pre_key_id
    assert sorted(map(int, asyncio.run(mint()))) == list(range(first, first + 5))
