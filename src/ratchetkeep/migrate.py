"""Explicit migration between stores, by BaileysEx's name for it: the linked session is preserved.

from ratchetkeep.migrate import migrate
migrate("baileys:auth_info", "sqlite:bot.db")
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ratchetkeep.copy import CopySummary, copy_device

__all__ = ["MigrationSummary", "migrate"]


@dataclass(frozen=True)
class MigrationSummary:
    """What a migration carried.

    :ivar migrated_keys: number of Signal key records, without the credentials.
    :ivar copy: the whole summary, with what the target cannot hold.
    """

    source_backend: str
    target_backend: str
    source_path: str
    target_path: str
    migrated_keys: int
    copy: CopySummary


def migrate(
    source: str | os.PathLike[str], target: str | os.PathLike[str], overwrite: bool = False
) -> MigrationSummary:
    """Copy the device at ``source`` to ``target``, which must be missing or empty unless
    ``overwrite`` is set. The source is untouched; the target appears whole, in one step.

    :raises RatchetkeepError: as :func:`ratchetkeep.copy_device`.
    """
    summary = copy_device(source, target, overwrite)
    return MigrationSummary(
        source_backend=summary.source_kind,
        target_backend=summary.target_kind,
        source_path=summary.source.partition(":")[2],
        target_path=summary.target.partition(":")[2],
        migrated_keys=summary.total,
        copy=summary,
    )
