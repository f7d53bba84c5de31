"""The commands ``seal``, ``unseal`` and ``rekey``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from ratchetkeep.cli import _failures as fail
from ratchetkeep.cli import _output as out
from ratchetkeep.cli._failures import guarded
from ratchetkeep.stores.base import counted

if TYPE_CHECKING:
    from ratchetkeep.reseal import ResealSummary

AGAIN = "every device is sealed the old way or the new one; the same command goes on"

Url = Annotated[
    str,
    typer.Argument(metavar="URL", help="sqlite:PATH, a bare path of one, or postgresql://..."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, errors too (on stderr).")]


@guarded
def seal(url: Url, as_json: Json = False) -> int:
    """Seal a store: nothing in it can be read any more without its key.

    The key is that of RATCHETKEEP_KEY_*, or a passphrase that is typed. Ended at any point, the
    same command goes on. Keep the key: without it the devices are lost.
    """
    from ratchetkeep.cli._secrets import new_key_for
    from ratchetkeep.reseal import seal_store

    key = new_key_for(_place(url))
    summary = _run(lambda: seal_store(url, key))
    _tell(summary, "sealed", as_json=as_json)
    return fail.DONE


@guarded
def unseal(url: Url, as_json: Json = False) -> int:
    """Make a sealed store plain again: whoever can read it can take over its devices.

    Ended at any point, the same command goes on.
    """
    from ratchetkeep.cli._secrets import key_of
    from ratchetkeep.reseal import unseal_store

    key = key_of(_place(url))
    summary = _run(lambda: unseal_store(url, key))
    _tell(summary, "unsealed", as_json=as_json)
    return fail.DONE


@guarded
def rekey(
    url: Url,
    data_key: Annotated[
        bool,
        typer.Option("--data-key", help="Seal every record anew, with a new data key."),
    ] = False,
    same_key: Annotated[
        bool, typer.Option("--same-key", help="With --data-key: the key itself stays the same.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Have another key open a sealed store.

    The old key is that of RATCHETKEEP_KEY_*, the new one of RATCHETKEEP_NEW_KEY_*; else both are
    typed. Without --data-key this is one small write. With it, what is written from now on is safe
    from whoever has a copy of the store and its old key; ended at any point, the same command with
    the new key in place of the old one goes on.
    """
    from ratchetkeep.cli._secrets import NEW_KEY, key_of, new_key_for
    from ratchetkeep.errors import InvalidValue
    from ratchetkeep.reseal import rekey_store

    if same_key and not data_key:
        raise InvalidValue("--same-key", "is for a new data key", "Use it with --data-key")
    place = _place(url)
    old = key_of(place)
    new = None if same_key else new_key_for(place, NEW_KEY)
    summary = _run(lambda: rekey_store(url, old, new, data_key=data_key))
    _tell(summary, "sealed anew", as_json=as_json)
    return fail.DONE


def _place(url: str) -> str:
    from ratchetkeep.stores import urls

    return urls.shown(urls.parse(url))


def _run(work: Callable[[], ResealSummary]) -> ResealSummary:
    try:
        return work()
    except KeyboardInterrupt:
        raise fail.Interrupted(AGAIN) from None


def _tell(summary: ResealSummary, what: str, *, as_json: bool) -> None:
    if as_json:
        out.say_json(
            {
                "store": summary.store,
                "devices": summary.devices,
                "records": summary.records,
                "resumed": summary.resumed,
            }
        )
        return
    went_on = ", going on with what was begun earlier" if summary.resumed else ""
    place = out.clean(summary.store)
    if what == "sealed anew" and not summary.devices:
        out.say(f"{place} has another key now; its records stay as they are")
        return
    devices = counted(summary.devices, "device")
    records = counted(summary.records, "record")
    out.say(f"{what}: {devices} with {records} in {place}{went_on}")
