"""Kill -9 of the real commands restore and cool: the device is the old or the new one, with all
that it holds, and the next run finishes and leaves nothing beside it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from _backups import IDENTITY, RECIPIENT, Victim, of_store, put
from _helpers import ALICE, BOB, footprint
from ratchetkeep import copy_device, open_device, verify_device
from ratchetkeep.backup import backup_device
from ratchetkeep.model import CREDENTIALS
from ratchetkeep.restore import cool_device, restore_device

KILLS = 15


def without_counters(url: str) -> dict[Any, Any]:
    """All that a device holds; its pre-key counters are other ones after each restore."""
    found = of_store(url)
    found[CREDENTIALS] = msgspec.structs.replace(
        found[CREDENTIALS], next_pre_key_id=1, first_unuploaded_pre_key_id=1
    )
    return found


def left_in(place: Path) -> dict[str, Any]:
    """Everything that lies there, by name; of a database the number of rows of each table."""
    found: dict[str, Any] = dict.fromkeys(footprint(place))
    for path in place.glob("*.db"):
        with closing(sqlite3.connect(path)) as database:
            tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            for (table,) in tables.fetchall():
                count = database.execute(f'SELECT count(*) FROM "{table}"').fetchone()
                found[f"{path.name} {table}"] = count
    return found


class Scene:
    """A place with a device, as often as asked."""

    def __init__(self, folder: Path, kind: str, source: Path) -> None:
        self.template, self.place = folder / "template", folder / "place"
        self.template.mkdir()
        name = "d.db" if kind == "sqlite" else "d"
        copy_device(source, f"{kind}:{self.template}/{name}")
        put(self.template, self.place)
        self.url = f"{kind}:{self.place}/{name}"

    def play(self, victim: Victim, finish: Any) -> None:
        """Kill it again and again; what is found must be whole, and ``finish`` must finish."""
        old = without_counters(self.url)
        victim.run()
        new, clean = without_counters(self.url), left_in(self.place)
        assert new != old
        ends = set()
        killed = 0
        while killed < KILLS:
            put(self.template, self.place)
            killed += victim.kill()
            found = without_counters(self.url)
            assert found in (old, new)
            ends.add(found == new)
            with open_device(self.url):  # as a client does, which may clear up
                pass
            assert without_counters(self.url) == found
            assert [each for each in verify_device(self.url) if each.severity == "error"] == []
            finish()
            assert without_counters(self.url) == new
            assert left_in(self.place) == clean
        assert False in ends


@pytest.mark.parametrize("kind", ["sqlite", "baileys"])
def test_restore(kind: str, tmp_path: Path) -> None:
    """A restore that is killed would leave a device that is neither the old nor the new one, or its
    keys beside it."""
    file, identity = tmp_path / "b", tmp_path / "identity"
    backup_device(ALICE, file, recipients=[RECIPIENT])
    identity.write_text(IDENTITY)
    before = file.read_bytes()
    scene = Scene(tmp_path, kind, BOB)
    asked = (file, scene.url, "--overwrite", "--identity", identity)
    scene.play(
        Victim(scene.place, "restore", *asked),
        lambda: restore_device(file, scene.url, identities=[identity], overwrite=True),
    )
    assert file.read_bytes() == before


@pytest.mark.parametrize("kind", ["sqlite", "baileys"])
def test_cool(kind: str, tmp_path: Path) -> None:
    """A device that is cooled while the power fails would go on with a part of its sessions, or be
    lost."""
    scene = Scene(tmp_path, kind, ALICE)
    scene.play(Victim(scene.place, "cool", scene.url), lambda: cool_device(scene.url))
