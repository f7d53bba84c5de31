"""Processes that seal, unseal and rekey a store while they are killed, and one that reads it."""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from _sealing import KEY, OTHER_KEY, Values, values_in
from ratchetkeep import RatchetkeepError, WrongKey, open_device, open_store
from ratchetkeep.reseal import rekey_store, seal_store, unseal_store
from ratchetkeep.sealing.keys import RawKey
from ratchetkeep.sealing.opening import IfSealed

__all__ = ["COMMANDS", "either_key", "read", "work"]


def _seal(url: str) -> None:
    seal_store(url, KEY)


def _rekey(url: str) -> None:
    either_key(lambda key: rekey_store(url, key, OTHER_KEY, data_key=True))


def _unseal(url: str) -> None:
    unseal_store(url, OTHER_KEY)


COMMANDS: dict[str, Callable[[str], None]] = {"seal": _seal, "rekey": _rekey, "unseal": _unseal}


def either_key(use: Callable[[Any], Any]) -> Any:
    """What ``use`` gives, with the key that opens the store at this moment, if it is sealed."""
    for _ in range(3):
        for key in (KEY, OTHER_KEY):
            try:
                return use(IfSealed(RawKey(key)))
            except WrongKey as error:
                last = error
    raise last


def work(command: str, url: str, limit: int, pipe: Connection) -> None:
    """Carry out a command; tell when it begins, and how it ended.

    :param limit: files cannot become larger, as on a disk that is full; 0 for none.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    pipe.send("begins")
    try:
        COMMANDS[command](url)
        pipe.send("done")
    except RatchetkeepError as error:
        pipe.send(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        pipe.send("interrupted")


def read(url: str, expected: Values, pipe: Connection) -> None:
    """Read all devices again and again until something is sent; tell how often, and what was
    wrong."""
    rounds, wrong = 0, ""
    while not pipe.poll() and not wrong:
        rounds += 1
        try:
            wrong = either_key(lambda key: _look(url, key, expected))
        except RatchetkeepError as error:
            wrong = f"round {rounds}: {type(error).__name__}: {error}"
        time.sleep(0.01)
    pipe.send((rounds, wrong))


def _look(url: str, key: Any, expected: Values) -> str:
    with open_store(url, key=key) as store:
        names = store.devices()
    for name in names:
        with open_device(f"{url}?device={name}", read_only=True, key=key) as device:
            if values_in(device) != expected:
                return f"device {name} is not what it was"
    return "" if len(names) == 3 else f"there are the devices {names}"
