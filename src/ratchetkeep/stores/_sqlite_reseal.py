"""All devices of an SQLite file on their way to another data key, or to none."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from ratchetkeep.errors import DecodeError, StoreDamaged, StoreInUse
from ratchetkeep.model import Key
from ratchetkeep.sealing.cipher import Cipher, Sealed, State
from ratchetkeep.sealing.keys import Secret
from ratchetkeep.sealing.ring import Vault

from ._sqlite_owned import OwnedFile
from ._sqlite_rows import DeviceRow, Mark, hash_of_mark, mark_of
from .base import where

__all__ = ["SqliteResealing"]

_PUT_RING = (
    "INSERT INTO ring (id, data) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET data = excluded.data"
)
_ENTRY = "UPDATE devices SET name = ?, generation = ?, state = ?, moved_to = ? WHERE id = ?"
# Rows that are held at once.
_PORTION = 256
_ROW = "SELECT family, id, data FROM records WHERE rowid = ?"
_PUT = "UPDATE records SET id = ?, data = ? WHERE rowid = ?"


class SqliteResealing:
    """See :class:`ratchetkeep.stores.base.Resealing`. The caller holds the file's lock."""

    def __init__(self, file: OwnedFile) -> None:
        self._file = file
        self._connection = file.connection

    @property
    def vault(self) -> Vault:
        return self._file.view.vault

    def put_ring(self, vault: Vault, secret: Secret | None) -> None:
        self._file.check()
        ring = None if secret is None else vault.wrapped(secret)
        with self._connection:
            if ring is None:
                self._connection.execute("DELETE FROM ring")
            else:
                self._connection.execute(_PUT_RING, (ring,))
        self._file.view.renew(ring, vault)

    def devices(self) -> dict[str, int]:
        view = self._file.view
        found = {}
        for name in view.names().values():
            row = view.find(name)
            if row is not None:
                found[name] = row.cipher.generation
        return found

    def reseal(self, device: str, generation: int) -> int:
        self._file.check()
        view = self._file.view
        with self._connection:
            row = view.find(device)
            if row is None:
                raise StoreDamaged(view.url, f"its device {device!r} is not there any more")
            moved = view.moved(device)
            cipher = view.vault.cipher(generation, device, row.history)
            to, at = mark = mark_of(self._connection, row.number)
            to = cipher.seal_text(moved.to) if moved else None
            state = self._spell_again(row, cipher, mark)
            records, sealed = state.rows, None
            if isinstance(cipher, Sealed):
                sealed = cipher.seal_state(state.after((), hash_of_mark(cipher, (to, at))))
            name = view.vault.seal_name(generation, device)
            self._connection.execute(_ENTRY, (name, generation, sealed, to, row.number))
        return records

    def _spell_again(self, row: DeviceRow, cipher: Cipher, mark: Mark) -> State:
        """Write every record as another cipher spells it; the state that they have then.

        :param mark: of the device, which is part of the state that it has now.
        """
        old, new = State(commits=row.state.commits), State(commits=row.state.commits)
        for portion in self._portions(row):
            put = []
            for number, family, id, data in portion:
                if isinstance(row.cipher, Sealed):
                    old = old.after((), [row.cipher.hash_of(family, id, data)])
                key, record = self._opened(row, family, id, data)
                spelled = cipher.row_id(key), cipher.seal(key, record)
                hashes = [cipher.hash_of(family, *spelled)] if isinstance(cipher, Sealed) else [0]
                new = new.after((), hashes)
                put.append((*spelled, number))
            self._connection.executemany(_PUT, put)
        if isinstance(row.cipher, Sealed):
            old = old.after((), hash_of_mark(row.cipher, mark))
        if isinstance(row.cipher, Sealed) and old != row.state:
            place = f"{self._file.url} (device {row.name!r})"
            raise StoreDamaged(place, "its records are not those of its last commit")
        return new

    def _portions(self, row: DeviceRow) -> Iterator[list[tuple[int, str, str, bytes]]]:
        # Numbers first: an id that changes moves its row in the order of ids.
        numbers = self._connection.execute(
            "SELECT rowid FROM records WHERE device = ?", (row.number,)
        ).fetchall()
        left = iter(numbers)
        while portion := [number for (number,) in islice(left, _PORTION)]:
            rows = []
            for number in portion:
                found: Any = self._connection.execute(_ROW, (number,)).fetchone()
                rows.append((number, *found))
            yield rows

    def _opened(self, row: DeviceRow, family: str, id: str, data: bytes) -> tuple[Key, bytes]:
        key = Key(family, "?")
        try:
            key = row.cipher.key_of(family, id)
            return key, row.cipher.open(key, data)
        except DecodeError as error:
            raise StoreDamaged(where(self._file.url, row.name, key), error.what) from None

    def compact(self) -> None:
        self._file.check()
        # In one transaction, through the log; then the log goes into the file, over what was free.
        self._connection.execute("VACUUM")
        found = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if found is None or found[0]:
            what = "everything is spelled anew, but a reader still needs old parts of the file"
            raise StoreInUse(self._file.url, what, "Close it, then run the same command again")
