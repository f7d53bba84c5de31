"""Fault injection for stores: power cuts, failing disks, kills. For our stores and third parties'.

* :class:`SimulatedDisk`: a disk in memory that forgets what was not synced, for folder stores.
* :class:`MirroredVFS`: the same model beneath SQLite, which runs with its real settings.
* :class:`PowerCuts`: runs commits and opens what a power cut may leave at every step.
* :mod:`ratchetkeep.testing.faults.kill`: real processes, killed.
"""

from .disk import SimulatedDisk
from .powercut import Commit, NotSurvived, PowerCuts, Survived, closing, content
from .sqlite import MirroredVFS

__all__ = [
    "Commit",
    "MirroredVFS",
    "NotSurvived",
    "PowerCuts",
    "SimulatedDisk",
    "Survived",
    "closing",
    "content",
]
