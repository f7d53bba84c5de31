"""What the tests of copies of many devices share."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from _helpers import bytes_of
from ratchetkeep import CopyAllSummary, open_device, open_store
from ratchetkeep.model import FAMILIES
from ratchetkeep.stores import urls
from ratchetkeep.testing._samples import Holds, paired, record, record_id

# What Baileys can hold.
PLAIN = Holds(
    session_times="always",
    local_identity="never",
    bare_publics=False,
    libsignal=False,
    encodings=(),
    unknown_members=False,
    sender_record_extra=False,
    surrogates="none",
    foreign=False,
    sync_key_details=False,
)
NAMES = ["a", "b b", "fleet/x", "fleet/y", "ü"]


def fleet(url: str, names: Iterable[str] = NAMES, *, records: int = 1) -> list[str]:
    """Make paired devices with a few records of every family, each with another identity."""
    made = list(names)
    with open_store(url) as store:
        for number, name in enumerate(made):
            with store.create(name) as device:
                credentials = paired(device.credentials, PLAIN)
                assert credentials.me is not None
                me = credentials.me.replace(id=f"1555{number:07}:7@s.whatsapp.net")
                device.save_credentials(credentials.replace(me=me, additional_data={}))
                for family in FAMILIES:
                    values = {
                        record_id(family, n): record(family, n, credentials, PLAIN)
                        for n in range(records)
                    }
                    device.set({family: values})
    return made


def held(url: str) -> dict[str, dict[Any, Any]]:
    """Everything that the devices of a store hold, by their names."""
    with open_store(url) as store:
        names = store.devices()
    target = urls.parse(url)
    place = url.partition("?")[0]
    found: dict[str, dict[Any, Any]] = {}
    for name in names:
        with open_device(place + urls.query_of(target._replace(device=name)), read_only=True) as d:
            records: dict[Any, Any] = {"credentials": d.credentials}
            for family in FAMILIES:
                records |= {(family, id): v for id, v in d.get(family, d.ids(family)).items()}
            found[name] = records
    return found


def outcomes(summary: CopyAllSummary) -> dict[str, str]:
    """What came of each device."""
    return {each.device: each.outcome for each in summary.devices}


def errors(summary: CopyAllSummary) -> dict[str, str]:
    """What went wrong, by device."""
    return {each.device: type(each.error).__name__ for each in summary.failed}


def leftovers(place: Path) -> list[str]:
    """What no copy may leave behind."""
    names = (str(path.relative_to(place)) for path in place.rglob("*"))
    marks = ("ratchetkeep-stage", ".stage-", ".lock", ".owner", ".journal")
    return [name for name in names if any(mark in os.path.basename(name) for mark in marks)]


def files(root: Path) -> dict[str, bytes]:
    """Every file of a tree."""
    return bytes_of(root)
