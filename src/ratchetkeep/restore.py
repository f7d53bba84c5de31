"""Put a device back from a backup, or make one go on that was itself put back.

By default it goes on **cold**: what the link is made of is kept, and what an older state must not
use again is dropped, so that the client makes it anew (:mod:`._cold` says what, and why). The whole
backup is read and checked before anything is written; then the device is put together beside its
place, read back, and put there in one step.
"""

from __future__ import annotations

import datetime
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ratchetkeep._backup_file import Backup, Entry, open_backup
from ratchetkeep._cold import REASONS, Cold, known_ids, placeholder
from ratchetkeep._cold_proof import LastSeen, prove
from ratchetkeep._cold_store import cool, credentials_of
from ratchetkeep._copy_all_among import Among
from ratchetkeep._copy_all_places import find_target
from ratchetkeep._copy_all_tree import Tree
from ratchetkeep._copy_plan import CopySummary
from ratchetkeep.copy import How, Keys, copy_between, parse_target
from ratchetkeep.errors import (
    DeviceExists,
    InvalidValue,
    NoDevice,
    RatchetkeepError,
    StoreDamaged,
    UnsupportedVersion,
    WrongKey,
)
from ratchetkeep.formats import native
from ratchetkeep.model import CREDENTIALS, Credentials, Key
from ratchetkeep.stores import urls
from ratchetkeep.stores.base import History, Stage, Store
from ratchetkeep.stores.memory import MemoryStore

if TYPE_CHECKING:
    from ratchetkeep.sealing.keys import SealKey

__all__ = [
    "DeviceRestore",
    "Dropped",
    "RestoreSummary",
    "cool_device",
    "restore_all",
    "restore_device",
]


@dataclass(frozen=True)
class Dropped:
    """Records of one family that do not go on.

    :ivar what: why.
    """

    family: str
    count: int
    what: str


@dataclass(frozen=True)
class RestoreSummary:
    """What a restore put in place, or with ``dry_run`` would put there.

    :ivar source: the backup's path; of a device that was cooled in its place, its own URL.
    :ivar target: URL of the device.
    :ivar device: how it is called in the backup, or in its store.
    :ivar made: when the backup was made (UTC); None without one.
    :ivar history: which life of the device the backup is of, and after how many commits; None where
        that is not known.
    :ivar exact: True if everything is as it was.
    :ivar kept: number of records that stay, by family, without the credentials.
    :ivar dropped: what does not go on; nothing if ``exact``.
    :ivar next_pre_key_id: the first pre-key id that the client gives out.
    :ivar copy: what was converted, what the target cannot hold, and what checking brought up; None
        for a device that was cooled in its place.
    :ivar unread: why what is replaced could not be asked for the pre-key ids that it gave out, so
        that new ones may be the same; empty if it could, or if it is another device or none.
    """

    source: str
    target: str
    device: str
    made: datetime.datetime | None
    history: History | None
    exact: bool
    kept: dict[str, int]
    dropped: tuple[Dropped, ...]
    next_pre_key_id: int
    copy: CopySummary | None = None
    dry_run: bool = False
    unread: str = ""

    @property
    def total(self) -> int:
        """Number of records that stay, without the credentials."""
        return sum(self.kept.values())


@dataclass(frozen=True)
class DeviceRestore:
    """What came of one device of many.

    :ivar outcome: ``restored``, ``already there`` or ``failed``; ``to be restored`` with
        ``dry_run``.
    :ivar summary: what was put in place, or None.
    :ivar error: why it failed.
    """

    device: str
    outcome: str
    summary: RestoreSummary | None = None
    error: RatchetkeepError | None = None


def restore_device(
    file: str | os.PathLike[str],
    url: str | os.PathLike[str],
    *,
    device: str | None = None,
    identities: Iterable[str | os.PathLike[str]] = (),
    passphrase: str | None = None,
    exact: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    witness: str | os.PathLike[str] | None = None,
    client: str | None = None,
    key: str | bytes | SealKey | None = None,
    confirm: Callable[[RestoreSummary], None] | None = None,
) -> RestoreSummary:
    """Put a device of the backup ``file`` in place at ``url``, to go on with new sessions.

    Whatever else is left of the device must not go on: two copies break each other's sessions.

    :param device: which one of the backup; not needed if it holds one.
    :param identities: as for a backup's encryption to recipients; see ``open_backup``.
    :param passphrase: of a backup that is encrypted with one.
    :param exact: put everything back as it was, sessions too. Only if it is proven that the device
        did nothing after the backup: the target holds it in the same history and with as many
        commits, as when one record of it is damaged.
    :param overwrite: replace a device that is at the target, in one step. If that is a later state
        of the same device, no pre-key id that it knows is given out again.
    :param dry_run: check, and say what would be put in place; write nothing.
    :param witness: with ``exact``: the witness of the device, as for :func:`open_device`. ``exact``
        is refused if it has seen more commits than the backup has, or knows nothing of the device.
        It proves nothing by itself.
    :param client: who is to open the target, as in :func:`ratchetkeep.copy_device`.
    :param key: what unlocks a sealed target; None asks the environment. A store that is made is
        sealed if a key is given here.
    :param confirm: called with the summary before anything is written; may raise to stop.
    :raises NoDevice: if there is no such file, or no such device in it.
    :raises StoreDamaged: if anything of the backup is damaged.
    :raises StoreRewound: if ``exact`` is not proven, saying why.
    :raises WrongKey: if the backup or the target cannot be decrypted.
    :raises DeviceExists: if the target holds something and ``overwrite`` is not set.
    :raises StoreInUse: if somebody has the target open.
    :raises InvalidValue: if the backup holds many devices and none is named; for a witness without
        ``exact``; or for a key where the target is not sealed, or cannot be.
    :raises NotHeld: if the target has no place for the credentials.
    :raises CommitFailed: if the target could not be written.
    """
    target = parse_target(url)
    asked = _last_seen(witness, exact=exact)
    task = _Task(exact, overwrite, dry_run, asked, client, key, confirm)
    with open_backup(file, identities=identities, passphrase=passphrase) as backup:
        name = _chosen(backup, device)
        for entry in backup.devices():
            if entry.name == name:
                return task.restore(backup, entry, target)
    raise AssertionError  # pragma: no cover - the manifest names it


def restore_all(
    file: str | os.PathLike[str],
    url: str | os.PathLike[str],
    *,
    identities: Iterable[str | os.PathLike[str]] = (),
    passphrase: str | None = None,
    exact: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    witness: str | os.PathLike[str] | None = None,
    client: str | None = None,
    key: str | bytes | SealKey | None = None,
) -> tuple[DeviceRestore, ...]:
    """Put all devices of a backup in place at ``url``: a store that holds many, or the root of a
    tree of folders. Each is put there in one step. One that is there already is left as it is, so
    that the same call goes on with a restore that was ended; what goes wrong with one device does
    not stop the others. The parameters and errors are those of :func:`restore_device`.

    :return: what came of each, in the order of the backup.
    """
    place = find_target(url)
    asked = _last_seen(witness, exact=exact)
    task = _Task(exact, overwrite, dry_run, asked, client, key, None)
    found = []
    with open_backup(file, identities=identities, passphrase=passphrase) as backup:
        if isinstance(place, Tree):
            place.devices()  # learns which folders there are
        for entry in backup.devices():
            try:
                where = place.place(entry.name)
                if where.error is not None:
                    raise where.error
                if not dry_run:
                    place.make_way(where.target)
                summary = task.restore(backup, entry, where.target)
                outcome = "to be restored" if dry_run else "restored"
                found.append(DeviceRestore(entry.name, outcome, summary))
            except DeviceExists:
                found.append(DeviceRestore(entry.name, "already there"))
            except WrongKey:
                raise
            except RatchetkeepError as error:
                found.append(DeviceRestore(entry.name, "failed", error=error))
    return tuple(found)


def cool_device(
    url: str | os.PathLike[str],
    *,
    dry_run: bool = False,
    key: str | bytes | SealKey | None = None,
) -> RestoreSummary:
    """Make a device go on cold in its place: one that was itself put back, with the file, the disk
    or the machine that it is on. It loses what a restore drops, in one step; nobody may have it
    open. A store of ours begins a new history with it.

    :param dry_run: only say what would be dropped.
    :param key: what unlocks a sealed store; None asks the environment.
    :raises NoDevice: if nothing is there.
    :raises StoreDamaged: if what is to stay cannot be read.
    :raises StoreInUse: if somebody has it open.
    :raises DeviceMoved: if it goes on in another place.
    :raises WrongKey: if the store is sealed and the key does not open it.
    :raises CommitFailed: if it could not be written; nothing was changed then.
    """
    target = urls.parse(url)
    cold, place = cool(target, key, dry_run=dry_run)
    shown = place + urls.query_of(target)
    return RestoreSummary(
        source=shown,
        target=shown,
        device=target.device,
        made=None,
        history=None,
        exact=False,
        kept=dict(sorted(cold.kept.items())),
        dropped=_dropped(cold),
        next_pre_key_id=cold.next_id,
        dry_run=dry_run,
    )


def _chosen(backup: Backup, device: str | None) -> str:
    names = [saved.name for saved in backup.manifest.devices]
    if device is None and len(names) == 1:
        return names[0]
    if device in names and device is not None:
        return device
    some = ", ".join(repr(name) for name in names[:5]) + (", ..." if len(names) > 5 else "")
    if device is None and names:
        what = f"holds {len(names)} devices: {some}"
        raise InvalidValue(backup.place, what, "Name one (--device), or restore all (--all)")
    raise NoDevice(backup.place, f"holds no device {device!r}", f"It holds {some or 'none'}")


def _dropped(cold: Cold) -> tuple[Dropped, ...]:
    return tuple(
        Dropped(family, cold.dropped[family], what)
        for family, what in REASONS.items()
        if cold.dropped[family]
    )


def _last_seen(witness: str | os.PathLike[str] | None, *, exact: bool) -> LastSeen | None:
    if witness is None:
        return None
    if not exact:
        what = "is asked only whether everything can be put back as it was"
        raise InvalidValue("witness", what, "Use it with exact (--exact)")
    from ratchetkeep.witness import seen

    return partial(seen, witness)


@dataclass(frozen=True)
class _Task:
    """What was asked for, for each device alike."""

    exact: bool
    overwrite: bool
    dry_run: bool
    last_seen: LastSeen | None
    client: str | None
    key: str | bytes | SealKey | None
    confirm: Callable[[RestoreSummary], None] | None

    def restore(self, backup: Backup, entry: Entry, target: urls.Target) -> RestoreSummary:
        """Restore one device."""
        records = entry.records()
        first, raw = next(records)
        assert first == CREDENTIALS  # noqa: S101 - the container sees to it
        private = urls.Target("memory", f"restore of {backup.place}", secrets.token_hex(16))
        store = MemoryStore(private.path)
        with closing(store), _named(store, private.device, backup.place):
            credentials: Credentials = store.decode(private.device, CREDENTIALS, raw)
            proof = partial(prove, entry.history, credentials, target, self.key, self.last_seen)
            if self.exact:
                proof()
            ids, unread = ([], "") if self.exact else self._ids(credentials, target)
            cold = None if self.exact else Cold(credentials, ids)
            self._fill(store, private.device, (raw, records), cold, target.kind)
            among = _Onto(proof if self.exact else None)
            how = How(overwrite=self.overwrite, client=self.client, dry_run=self.dry_run)

            def summarized(copy: CopySummary) -> RestoreSummary:
                findings = tuple(
                    each._replace(place=_told(each.place, store, private.device, backup.place))
                    for each in copy.findings
                )
                copy = replace(copy, source=backup.place, findings=findings)
                found = self._summary(backup, entry, cold, credentials, copy)
                return replace(found, unread=unread)

            def confirm(copy: CopySummary) -> None:
                if self.confirm:
                    self.confirm(summarized(copy))

            return summarized(
                copy_between(private, target, how, among, Keys(target=self.key), confirm=confirm)
            )

    def _ids(self, credentials: Credentials, target: urls.Target) -> tuple[list[int], str]:
        """Ids that a later state at the target knows of, none if it is not the same device; and why
        it could not be asked."""
        with closing(urls.open_target(target, self.key)) as store:
            try:
                store.acquire(target.device, read_only=True, create=False)
                there = credentials_of(store, target.device)
                if there.signed_identity_key.private != credentials.signed_identity_key.private:
                    return [], ""
                return known_ids(there, store.scan(target.device, "pre-key")), ""
            except NoDevice:
                return [], ""
            except (StoreDamaged, UnsupportedVersion) as error:
                return [], error.what  # it is replaced, if that was asked for

    def _fill(
        self,
        store: Store,
        device: str,
        saved: tuple[bytes, Iterator[tuple[Key, bytes]]],
        cold: Cold | None,
        kind: str,
    ) -> None:
        """Put what goes on into the private store.

        :param saved: the credentials' bytes, and all other records.
        """
        raw, records = saved
        with store.stage(device, overwrite=False) as stage:
            if cold is None:
                stage.write({CREDENTIALS: raw})
            else:
                _write(stage, CREDENTIALS, cold.credentials)
                if kind == "whatsmeow":
                    _write(stage, *placeholder(cold.credentials))
            for key, data in records:
                if cold is None or cold.keeps(key, partial(store.decode, device, key, data)):
                    stage.write({key: data})
            stage.publish()

    def _summary(
        self,
        backup: Backup,
        entry: Entry,
        cold: Cold | None,
        credentials: Credentials,
        copy: CopySummary,
    ) -> RestoreSummary:
        saved = dict(entry.saved.records)
        saved.pop(CREDENTIALS.family, None)
        return RestoreSummary(
            source=backup.place,
            target=copy.target,
            device=entry.name,
            made=backup.manifest.header.made,
            history=entry.history,
            exact=self.exact,
            kept=saved if cold is None else dict(sorted(cold.kept.items())),
            dropped=() if cold is None else _dropped(cold),
            next_pre_key_id=credentials.next_pre_key_id if cold is None else cold.next_id,
            copy=copy,
            dry_run=self.dry_run,
        )


def _write(stage: Stage, key: Key, value: Any) -> None:
    data = native.encode(key, value).data
    assert data is not None  # noqa: S101 - our own format holds everything
    stage.write({key: data})


def _told(place: str, store: Store, device: str, file: str) -> str:
    """A place in the private store as one in the backup."""
    return place.replace(store.url, file).replace(f"{device}, ", "")


@contextmanager
def _named(store: Store, device: str, file: str) -> Iterator[None]:
    """Forget the private device at the end, and name the backup instead of it in errors."""
    try:
        yield
    except RatchetkeepError as error:
        error.place = _told(error.place, store, device, file)
        raise
    finally:
        if device in store.devices():
            store.acquire(device, read_only=False, create=False)
            store.remove(device)


class _Onto(Among):
    """A copy out of the private store, with what must be true once the target is owned."""

    def __init__(self, proof: Callable[[], None] | None) -> None:
        # Another process does not see this one's memory.
        super().__init__(is_helped=False)
        self._proof = proof

    def watched(self, stage: Stage) -> Stage:
        if self._proof:
            self._proof()
        return super().watched(stage)
