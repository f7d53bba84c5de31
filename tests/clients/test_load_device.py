"""Auth states of devices that are open already, as a fleet hands them out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import ModuleType

import pytest

from ratchetkeep import (
    KeyFile,
    StoreInUse,
    StoreRewound,
    WrongKey,
    make_key_file,
    open_async_device,
    open_device,
)
from ratchetkeep.clients import pyaileys, waeys

CLIENTS = pytest.mark.parametrize("client", [pyaileys, waeys], ids=["pyaileys", "waeys"])


@CLIENTS
def test_an_open_device_is_loaded(client: ModuleType, tmp_path: Path) -> None:
    """A fleet could hand out devices that no client can be given."""

    async def run() -> None:
        async with open_async_device(f"sqlite:{tmp_path}/bot.db", create=True) as device:
            auth = await client.load_device(device)
            assert auth.device is device
            await device.set({"lid-mapping": {"1": "2"}})
        with open_device(f"sqlite:{tmp_path}/bot.db") as again:
            assert again.ids("lid-mapping") == ["1"]

    asyncio.run(run())


@CLIENTS
def test_loading_waits_for_the_owner(client: ModuleType, tmp_path: Path) -> None:
    """A worker that takes over would fail while the one before it is closing, or wait for ever."""
    url = f"sqlite:{tmp_path}/bot.db"

    async def run() -> None:
        owner = open_device(url, create=True)
        with pytest.raises(StoreInUse):
            await client.load(url, wait=0.1)
        loading = asyncio.ensure_future(client.load(url, wait=30))
        await asyncio.sleep(0)
        owner.close()
        await (await loading).close()

    asyncio.run(run())


@CLIENTS
def test_a_client_opens_a_sealed_device_that_is_watched(client: ModuleType, tmp_path: Path) -> None:
    """A bot could not be started on a sealed store, or would go on with an older state of it."""
    url, key = f"sqlite:{tmp_path}/bot.db", KeyFile(tmp_path / "key")
    make_key_file(tmp_path / "key")

    async def run() -> None:
        how = {"key": key, "witness": tmp_path / "witness"}
        await (await client.load(url, **how)).close()
        older = (tmp_path / "bot.db").read_bytes()
        auth = await client.load(url, **how)
        await auth.device.mint_pre_keys(1)
        await auth.close()
        with pytest.raises(WrongKey):
            await client.load(url, key="another")
        (tmp_path / "bot.db").write_bytes(older)
        with pytest.raises(StoreRewound):
            await client.load(url, **how)

    asyncio.run(run())
