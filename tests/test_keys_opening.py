"""``key=`` wherever a device is opened, made, copied or looked at: the right key works, and no
other one; one that is given counts before the environment; a folder takes none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from _backups import of_store, small_sqlite
from ratchetkeep import (
    InvalidValue,
    WrongKey,
    copy_device,
    create_device,
    inspect_device,
    open_async_device,
    open_device,
    open_store,
    verify_device,
)
from ratchetkeep.model import FAMILIES
from ratchetkeep.prune import prune_device
from ratchetkeep.restore import cool_device
from ratchetkeep.sealing.keys import key_variables
from ratchetkeep.testing._samples import paired
from ratchetkeep.testing.strategies import BAILEYS
from test_prune_rules import CREDS

KEY, OTHER = bytes(range(32)), bytes(range(32, 64))
VARIABLE = "RATCHETKEEP_KEY_PASSPHRASE"
Use = Callable[[str, Any], Any]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in key_variables():
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A sealed store with one device."""
    sealed = f"sqlite:{tmp_path}/sealed.db"
    copy_device(small_sqlite(tmp_path), sealed, target_key=KEY)
    return sealed


def _in_task(url: str, key: Any, how: Any) -> Any:
    async def held() -> list[str]:
        async with open_async_device(url, key=key, **how) as device:
            return list(await device.ids("lid-mapping"))

    return asyncio.run(held())


def _opened(url: str, key: Any, **how: Any) -> Any:
    with open_device(url, key=key, **how) as device:
        return {family: device.ids(family) for family in FAMILIES}


def _new(url: str) -> str:
    """Where a new device has room: beside the others, or in a place of its own."""
    return f"{url}?device=new" if url.startswith("sqlite:") else url


def _created(url: str, key: Any) -> Any:
    with create_device(_new(url), paired(CREDS, BAILEYS), key=key) as device:
        return device.credentials


def _through_the_store(url: str, key: Any) -> Any:
    with open_store(url, key=key) as store:
        found = store.devices()
        store.create("second").close()
        with store.open("second") as device:
            assert device.credentials
        store.remove("second")
        return found


USES: dict[str, Use] = {
    "open_device": _opened,
    "open_device to read": lambda url, key: _opened(url, key, read_only=True),
    "open_device that is made": lambda url, key: _opened(_new(url), key, create=True),
    "create_device": _created,
    "open_async_device": lambda url, key: _in_task(url, key, {}),
    "open_async_device to read": lambda url, key: _in_task(url, key, {"read_only": True}),
    "open_store": _through_the_store,
    "copy_device from it": lambda url, key: copy_device(
        url, f"{url}.copy", key=key, target_key=OTHER
    ),
    "copy_device to a plain one": lambda url, key: copy_device(
        url, f"{url}.copy", key=key, plaintext=True
    ),
    "copy_device to it": lambda url, key: copy_device(
        url.replace("sealed.db", "s.db"), url, overwrite=True, target_key=key
    ),
    "verify_device": lambda url, key: verify_device(url, key=key),
    "inspect_device": lambda url, key: inspect_device(url, key=key),
    "cool_device": lambda url, key: cool_device(url, key=key),
    "prune_device": lambda url, key: prune_device(url, key=key),
}
each_use = pytest.mark.parametrize("use", USES)


@each_use
def test_the_key_that_is_given(use: str, url: str) -> None:
    """A sealed store could not be used so, or without its key, or with another one."""
    before = Path(url.removeprefix("sqlite:")).read_bytes()
    for wrong in (None, OTHER, "a passphrase"):
        with pytest.raises(WrongKey):
            USES[use](url, wrong)
        assert not Path(url.removeprefix("sqlite:") + ".copy").exists()
    assert Path(url.removeprefix("sqlite:")).read_bytes() == before
    assert USES[use](url, KEY) is not None


@each_use
def test_the_environment(use: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of the environment would not be found; or be tried where another one is given, so that
    a program opens what it was not to open."""
    monkeypatch.setenv(VARIABLE, as_text(KEY))
    with pytest.raises(WrongKey):
        USES[use](url, OTHER)
    assert USES[use](url, None) is not None


@each_use
def test_a_key_that_is_given_counts_first(
    use: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key of the environment, which is for another store, would be tried in place of the one that
    is given."""
    monkeypatch.setenv(VARIABLE, as_text(OTHER))
    with pytest.raises(WrongKey):
        USES[use](url, None)
    assert USES[use](url, KEY) is not None


def as_text(key: bytes) -> str:
    """A raw key as an environment has it."""
    import base64

    return "ratchetkeep-key-1:" + base64.b64encode(key).decode()


def test_copies_between_stores_with_two_keys(url: str, tmp_path: Path) -> None:
    """The keys of a copy would be mixed up, or its target not be sealed with its own."""
    target = f"sqlite:{tmp_path}/other.db"
    for keys in ((OTHER, OTHER), (OTHER, KEY)):
        with pytest.raises(WrongKey):
            copy_device(url, target, key=keys[0], target_key=keys[1])
    copy_device(url, target, key=KEY, target_key=OTHER)
    assert of_store(target, OTHER) == of_store(url, KEY)
    with pytest.raises(WrongKey):
        of_store(target, KEY)


def test_a_copy_that_lays_keys_open_must_be_asked_for(url: str, tmp_path: Path) -> None:
    """The keys of a sealed store would lie open because somebody mistyped a target."""
    for target in (f"sqlite:{tmp_path}/plain.db", f"baileys:{tmp_path}/plain"):
        with pytest.raises(InvalidValue, match="plaintext"):
            copy_device(url, target, key=KEY)
    assert not list(tmp_path.glob("plain*"))
    copy_device(url, f"baileys:{tmp_path}/plain", key=KEY, plaintext=True)
    assert of_store(f"sqlite:{tmp_path}/s.db").keys() == of_store(url, KEY).keys()


@pytest.mark.parametrize("use", [use for use in USES if "copy" not in use])
@pytest.mark.parametrize("kind", ["baileys", "pyaileys", "whatsmeow", "memory"])
def test_what_cannot_be_sealed_takes_no_key(use: str, kind: str, tmp_path: Path) -> None:
    """Somebody who gives a key would believe a folder to be sealed."""
    url = f"{kind}:{tmp_path}/device"
    with pytest.raises(InvalidValue, match="cannot be sealed"):
        USES[use](url, KEY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("use", [use for use in USES if "made" in use or use == "create_device"])
def test_a_store_that_is_made_with_a_key(use: str, tmp_path: Path) -> None:
    """A new store would be plain though a key was given; or sealed because the environment has
    one, which is for another store."""
    url = f"sqlite:{tmp_path}/new.db"
    USES[use](url, KEY)
    with pytest.raises(WrongKey):
        open_device(f"{url}?device=new")
    with open_device(f"{url}?device=new", key=KEY) as device:
        assert device.credentials


def test_the_environment_seals_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store would be sealed that nobody asked to be, and be lost with a key of another one."""
    monkeypatch.setenv(VARIABLE, "a passphrase of another store")
    _opened(f"sqlite:{tmp_path}/new.db", None, create=True)
    monkeypatch.delenv(VARIABLE)
    assert _opened(f"sqlite:{tmp_path}/new.db", None)
