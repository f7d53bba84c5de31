"""A copy of one device as one of many: what was looked for already, and whom an error is about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from os.path import abspath, dirname
from typing import TYPE_CHECKING

from ratchetkeep.errors import RatchetkeepError
from ratchetkeep.model import Key
from ratchetkeep.stores import urls
from ratchetkeep.stores.base import Stage, Store
from ratchetkeep.stores.disk import Disk

if TYPE_CHECKING:
    from ratchetkeep.sealing.keys import SealKey

__all__ = ["Among"]


class Among:
    """A copy by itself, or one among many.

    :param has_findings: what is the matter with the source's store was found for all devices.
    :param is_swept: what killed copies left beside the target was removed for all devices.
    :param is_helped: other processes may help with a large device.
    :ivar of_target: the error that the target raised.
    """

    def __init__(
        self, *, has_findings: bool = False, is_swept: bool = False, is_helped: bool = True
    ) -> None:
        self.has_findings, self.is_swept, self.is_helped = has_findings, is_swept, is_helped
        self.of_target: RatchetkeepError | None = None

    def open_target(self, target: urls.Target, key: str | bytes | SealKey | None = None) -> Store:
        """The store of the target; nothing is opened yet."""
        store = urls.open_target(target, key)
        if self.is_swept:
            from ratchetkeep.stores.directory import DirectoryStore  # only then

            if isinstance(store, DirectoryStore):
                store.disk = _SweptDisk(dirname(abspath(target.path)))
        return store

    @contextmanager
    def blaming(self, kind: type[RatchetkeepError] = RatchetkeepError) -> Iterator[None]:
        """Note that an error is the target's."""
        try:
            yield
        except kind as error:
            self.of_target = error
            raise

    def watched(self, stage: Stage) -> Stage:
        """The stage, whose errors are the target's."""
        return _Watched(stage, self)


class _Watched:
    def __init__(self, stage: Stage, among: Among) -> None:
        self._stage, self._among = stage, among

    def write(self, changes: Mapping[Key, bytes]) -> None:
        with self._among.blaming():
            self._stage.write(changes)

    def read(self, keys: Iterable[Key]) -> dict[Key, bytes]:
        with self._among.blaming():
            return self._stage.read(keys)

    def publish(self) -> None:
        with self._among.blaming():
            self._stage.publish()


class _SweptDisk(Disk):
    """A disk that shows nothing in the folder above the target, where nothing of killed copies is
    left. Looking through 10,000 devices for each of them would take longer than to copy them."""

    def __init__(self, above: str) -> None:
        self._above = above

    def list(self, folder: str) -> list[str]:
        return [] if folder == self._above else super().list(folder)
