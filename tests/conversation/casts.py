"""Who talks with whom, over which stores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .course import PEER, A, B
from .play import Play

PYAILEYS = "conversation.over_pyaileys:Pyaileys"
WAEYS = "conversation.over_waeys:Waeys"


@dataclass(frozen=True)
class Cast:
    """Two engines and a kind of store. ``share`` is its part of the kills of a long run; an engine
    in plain Python is slow, so it gets longer lives and fewer messages to groups.

    With a ``lease`` the store is a database, which other workers of a device can open too."""

    name: str
    client: str
    engines: tuple[str, str]
    store: str
    share: float
    slowness: float = 1.0
    group_share: float = 0.3
    lease: float = 0.0

    def play(
        self,
        folder: Path,
        *,
        kills: int,
        seed: int,
        pauses: int = 0,
        steals: int = 0,
        restarts: int = 0,
        refusals: int = 0,
        seconds: float = float("inf"),
    ) -> Play:
        """A conversation of this cast, in a folder."""
        ending = ".db" if self.store == "sqlite" else ""
        urls = {device: f"{self.store}:{folder}/{device}{ending}" for device in PEER}
        return Play(
            folder,
            dict(zip((A, B), self.engines, strict=True)),
            {} if self.lease else urls,
            kills,
            seed,
            pauses=pauses,
            steals=steals,
            restarts=restarts,
            refusals=refusals,
            lease=self.lease,
            slowness=self.slowness,
            group_share=self.group_share,
            seconds=seconds,
        )


DATABASE = "postgresql"

CASTS = (
    Cast("pyaileys, sqlite", "pyaileys", (PYAILEYS, PYAILEYS), "sqlite", 0.4),
    Cast("waeys, sqlite", "waeys", (WAEYS, WAEYS), "sqlite", 0.2, 2.0, 0.15),
    Cast("waeys, baileys", "waeys", (WAEYS, WAEYS), "baileys", 0.2, 2.0, 0.15),
    Cast("waeys and pyaileys, sqlite", "both", (WAEYS, PYAILEYS), "sqlite", 0.2, 2.0, 0.2),
)
"""The folders of Baileys have no place for the sessions of pyaileys, and its adapter refuses them;
a folder of BaileysEx likewise for both."""

FLEETS = (
    Cast("pyaileys, postgresql", "pyaileys", (PYAILEYS, PYAILEYS), DATABASE, 0.1, lease=1.0),
    Cast("waeys, postgresql", "waeys", (WAEYS, WAEYS), DATABASE, 0.1, 2.0, 0.15, lease=1.5),
)
"""Each device has several workers. The next one waits for a lease, so a fault takes longer."""
