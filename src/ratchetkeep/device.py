"""A device: the auth state of one linked device, with a cache, transactions and its credentials."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from contextvars import ContextVar
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ratchetkeep import _metrics, prekeys
from ratchetkeep._block import WithBlock
from ratchetkeep._locks import KeyLocks
from ratchetkeep._memory import Memory
from ratchetkeep._transaction import Records, Transaction, checked_credentials, listed
from ratchetkeep.commit import Commit, GroupCommit
from ratchetkeep.errors import (
    DeviceExists,
    InvalidValue,
    NoDevice,
    OwnershipLost,
    RatchetkeepError,
    ReadOnly,
    StoreClosed,
    StoreDamaged,
    StoreInUse,
)
from ratchetkeep.model import CREDENTIALS, FAMILIES, Credentials, Key, KeyPair, check_key
from ratchetkeep.prekeys import PreKeyStock
from ratchetkeep.stores import urls
from ratchetkeep.stores.base import History, Store

if TYPE_CHECKING:
    import asyncio  # not at run time: it would be a sixth of the start of every program

    from ratchetkeep.sealing.keys import SealKey
    from ratchetkeep.witness import Watching

REMEDY_NEW = (
    "Nothing was changed, and no new credentials were made: they would replace this device. "
    "Restore the credentials from a backup, or choose an empty place"
)


# A forked child has another one, and its parent's devices are not its own.
_PROCESS = object()


def _in_forked_child() -> None:
    global _PROCESS
    _PROCESS = object()


os.register_at_fork(after_in_child=_in_forked_child)

# The transactions that a context is in, at most one of each device. One variable for all devices:
# contexts keep an entry for every variable that was ever set in them.
_RUNNING: ContextVar[Mapping[Device, Transaction]] = ContextVar("transactions", default={})  # noqa: B039


class Device:
    """One linked device, open. Use it as a context manager; all methods are thread-safe.

    Values are those of :mod:`ratchetkeep.model`: ``session`` -> SessionRecord, ``pre-key`` ->
    KeyPair, ``sender-key`` -> SenderKeyRecord, ``sender-key-memory`` -> mapping of text to bool,
    ``app-state-sync-key`` -> AppStateSyncKey, ``app-state-sync-version`` -> AppStateSyncVersion,
    ``lid-mapping`` -> text, ``device-list`` -> tuple of texts, ``tctoken`` -> TcToken,
    ``identity-key`` -> bytes; or an EncodedRecord for a client's own encoding.
    """

    def __init__(self, store: Store, name: str, *, read_only: bool, owns_store: bool) -> None:
        self._store = store
        self._name = name
        self._read_only = read_only
        self._owns_store = owns_store
        self._is_open = True
        self._memory = Memory(store, name, read_only=read_only)
        self._locks = KeyLocks()
        self._process = _PROCESS

    def __repr__(self) -> str:
        state = "open" if self._is_open else "closed"
        return f"<Device {self._name!r} in {self._store.url} ({state})>"

    @property
    def name(self) -> str:
        """The device's name in its store."""
        return self._name

    @property
    def url(self) -> str:
        """The store's URL."""
        return self._store.url

    @property
    def credentials(self) -> Credentials:
        """The credentials; inside a transaction, with its changes."""
        if not self._is_open:
            raise StoreClosed(self._store.url, "the device was closed")
        self._memory.check()
        transaction = self._running()
        return transaction.credentials if transaction else self._memory.credentials

    def save_credentials(self, credentials: Credentials) -> None:
        """Replace the credentials; durable on return.

        To change them, read and save them in one ``transaction("credentials")``: other threads
        that do so too, and pre-keys that are minted meanwhile, cannot come between.

        :raises InvalidValue: if they are not :class:`Credentials`.
        :raises CommitFailed: if they could not be made durable.
        """
        with self.transaction(prekeys.LOCK) as transaction:
            transaction.save_credentials(credentials)

    @property
    def history(self) -> History | None:
        """Which life of the device this is, and how many commits it has had; None in a store that
        counts none (folders, ``whatsmeow:``)."""
        self._check_open()
        return self._store.history(self._name)

    def get(self, family: str, ids: Iterable[str]) -> dict[str, Any]:
        """Records by id; ids that are not there are left out.

        :raises InvalidValue: for an unknown family or an id that is not text.
        :raises StoreDamaged: if one of them is there and cannot be read.
        """
        transaction = self._running()
        if transaction:
            self._check_open()
            return transaction.get(family, ids)
        return self._stored(family, listed(ids))

    def set(self, records: Records) -> None:
        """Store ``{family: {id: value}}`` in one atomic, durable commit; None deletes.

        :raises InvalidValue: naming the member that is refused; nothing is stored.
        :raises NotHeld: if the store's format has no place for part of a value.
        :raises CommitFailed: if it could not be made durable.
        """
        with self.transaction() as transaction:
            transaction.set(records)

    def transaction(self, *keys: str) -> AbstractContextManager[Transaction]:
        """Commit everything set inside together, on leaving; an exception drops it all.

        :param keys: names to lock, any text (ids that are read and then written, say): no other
            transaction that names one of them runs meanwhile. ``"credentials"`` is the one that
            saving credentials and minting pre-keys take.

        A transaction inside another joins it: what it sets is committed with the outer one, and
        if it fails, what it set is dropped even where the outer one goes on. One that is begun in a
        task or thread that runs in a copy of this context is inside too.
        """
        self._check_open()
        return self._block(keys, self._running())

    def _block(self, keys: tuple[str, ...], outer: Transaction | None) -> WithBlock:
        return WithBlock(self, keys, outer)

    @property
    def in_transaction(self) -> bool:
        """True inside a transaction."""
        return self._running() is not None

    def ids(self, family: str) -> list[str]:
        """All ids of a family, sorted; inside a transaction, with its changes.

        :raises InvalidValue: for an unknown family.
        """
        self._check_open()
        check_key(family, "1")
        found = self._memory.ids(family)
        transaction = self._running()
        if transaction:
            transaction._change_ids(family, found)
        return sorted(found)

    def clear(self) -> None:
        """Delete all Signal key records in one commit; the credentials stay."""
        with self.transaction() as transaction:
            self._clear(transaction)

    def mint_pre_keys(self, count: int) -> dict[int, KeyPair]:
        """Make one-time pre-keys, by id: they and the moved ``next_pre_key_id`` are one commit.

        :param count: how many.
        :raises InvalidValue: if there is no room for so many.
        """
        with self.transaction(prekeys.LOCK) as transaction:
            return self._mint(transaction, count)

    def unuploaded_pre_keys(self) -> dict[int, KeyPair]:
        """The pre-keys that are not on the server yet, by id, oldest first."""
        with self._memory.order:  # all of one moment
            ids = prekeys.waiting(self.ids("pre-key"), self.credentials)
            return {int(id): pair for id, pair in self.get("pre-key", ids).items()}

    def mark_pre_keys_uploaded(self, up_to: int) -> None:
        """Note, durably, that the pre-keys up to and with this id are on the server.

        :raises InvalidValue: for an id that was not minted yet.
        """
        with self.transaction(prekeys.LOCK) as transaction:
            transaction.save_credentials(prekeys.uploaded(up_to, transaction.credentials))

    def pre_key_stock(self) -> PreKeyStock:
        """How many one-time pre-keys there are, and how many wait for upload."""
        with self._memory.order:
            return prekeys.stock(self.ids("pre-key"), self.credentials)

    def on_lost(self, told: Callable[[OwnershipLost], None]) -> None:
        """Have ``told`` called once, by any thread, as soon as it is found out that the device is
        no longer this process's (a lease that another worker took, say): end its connection then.
        At once if that was found out before; not for a device that was closed.

        From then on all of the device's verbs raise that error. ``told`` must not block.
        """
        self._memory.when_lost(told)

    def close(self) -> None:
        """Give the device back. Everything is in its final place when this returns."""
        if self._process is not _PROCESS:
            return  # a forked child: the device is its parent's
        with self._memory.order:
            if not self._is_open:
                return
            self._is_open = False
            self._memory.close()
            with ExitStack() as steps:  # the last one first, whatever goes wrong
                if self._owns_store:
                    steps.callback(self._store.close)
                steps.callback(self._store.release, self._name)
                if self._memory.watch is not None:
                    steps.callback(self._memory.watch.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _running(self) -> Transaction | None:
        """The transaction that this context is in. A context can outlive it (a task that was
        started inside), so one that has ended does not count."""
        current = _RUNNING.get().get(self)
        if current is None or not current.has_ended:
            return current
        living = current.living()
        assert living is None or isinstance(living, Transaction)  # noqa: S101 - for types
        return living

    def _run(self, transaction: Transaction | None) -> None:
        """Let this context be in a transaction, or in none."""
        running = {device: each for device, each in _RUNNING.get().items() if device is not self}
        _RUNNING.set(running if transaction is None else {**running, self: transaction})

    def _abandon(self, transaction: Transaction) -> None:
        """End a transaction whose block nobody left; what it set is dropped."""
        transaction._changes = {}
        self._locks.abandon(transaction)

    def _check_open(self) -> None:
        # First of all: a lock that another thread held while forking is held for ever here.
        if self._process is not _PROCESS:
            what = "was opened by another process, which forked this one"
            raise OwnershipLost(self._store.url, what)
        if not self._is_open:
            raise StoreClosed(self._store.url, "the device was closed")
        self._memory.check()

    def _check_writable(self) -> None:
        self._check_open()
        if self._read_only:
            raise ReadOnly(self._store.url, "the device was opened read-only")

    @property
    def _credentials(self) -> Credentials:
        return self._memory.credentials

    def _stored(self, family: str, ids: Sequence[str]) -> dict[str, Any]:
        """Committed records, from memory if all of them are there."""
        found = self._memory.look(family, ids)
        if found is None or not self._is_open or self._process is not _PROCESS:
            self._check_open()
            return self._memory.load(family, ids)
        return found

    def _clear(self, transaction: Transaction) -> None:
        for family in FAMILIES:
            transaction.set({family: dict.fromkeys(self.ids(family))})

    def _mint(self, transaction: Transaction, count: int) -> dict[int, KeyPair]:
        ids = self.ids("pre-key")
        made, credentials = prekeys.minted(count, ids, transaction.credentials)
        transaction.set({"pre-key": {str(id): pair for id, pair in made.items()}})
        transaction.save_credentials(credentials)
        return made

    def _prepare(
        self, changes: dict[Key, Any], loop: asyncio.AbstractEventLoop | None = None
    ) -> Commit:
        """Encode changes; no lock is held."""
        self._check_writable()
        credentials = changes.get(CREDENTIALS, self._memory.credentials)
        try:
            batch = self._store.prepare(self._name, changes, credentials)
        except RatchetkeepError:
            if (recorder := _metrics.recorder()) is not None:
                recorder.ended(self._store.kind, _metrics.REFUSED)
            raise
        return Commit(self._memory, changes, batch, loop)

    @cached_property
    def _group(self) -> GroupCommit:
        return GroupCommit.of(self._store, self._name)

    def _commit(self, changes: dict[Key, Any]) -> None:
        self._group.run(self._prepare(changes))


def open_in(
    store: Store,
    name: str,
    *,
    create: bool,
    read_only: bool,
    owns_store: bool = False,
    initial: Credentials | None = None,
    must_be_new: bool = False,
    wait: float = 0.0,
    steal: bool = False,
    witness: str | os.PathLike[str] | None = None,
    witness_delay: float | None = None,
) -> Device:
    """Open a device of ``store``; see :func:`open_device`. ``initial`` are the credentials of a
    device that is made."""
    try:
        _check_options(create=create, read_only=read_only, steal=steal)
        watching = _watching(store, witness, witness_delay, read_only=read_only)
        for pause in pauses(wait):
            try:
                _acquire(store, name, read_only=read_only, create=create, steal=steal)
                break
            except StoreInUse:
                if pause is None:
                    raise
            time.sleep(pause)
    except BaseException:
        if owns_store:
            store.close()
        raise
    device = Device(store, name, read_only=read_only, owns_store=owns_store)
    try:
        store.watch(name, device._memory.lose)
        if not read_only:
            store.refuse_moved(name)
        raw = store.read(name, [CREDENTIALS]).get(CREDENTIALS)
        if raw is not None and must_be_new:
            raise DeviceExists(store.url, f"holds a device {name!r} already")
        if raw is not None:
            device._memory.credentials = store.decode(name, CREDENTIALS, raw)
            if watching is not None:
                device._memory.watch = watching.begin(name)
            return device
        trace = store.trace(name)
        if trace:
            what = f"holds no credentials, but something of a device: {trace}"
            raise StoreDamaged(store.url, what, REMEDY_NEW)
        if not create:
            raise NoDevice(store.url, "holds no device")
        device._memory.credentials = initial or Credentials.new()
        device._commit({CREDENTIALS: device._memory.credentials})
        if watching is not None:
            device._memory.watch = watching.begin(name)
        return device
    except BaseException:
        device.close()
        raise


def _watching(store: Store, place: Any, delay: float | None, *, read_only: bool) -> Watching | None:
    if place is None:
        return None
    from ratchetkeep.witness import Watching  # only then

    return Watching(store, place, delay, read_only=read_only)


def pauses(wait: float) -> Iterator[float | None]:
    """How long to sleep after each try to open what is in use, in seconds; None after the last."""
    end = time.monotonic() + wait
    pause = 0.05
    while (left := end - time.monotonic()) > 0:
        yield min(pause, left)
        pause = min(2 * pause, 1.0)
    yield None


def _check_options(*, create: bool, read_only: bool, steal: bool) -> None:
    if create and read_only:
        raise InvalidValue("open_device", "create and read_only cannot both be asked for")
    if steal and read_only:
        raise InvalidValue("open_device", "steal and read_only cannot both be asked for")


def _acquire(store: Store, name: str, *, read_only: bool, create: bool, steal: bool) -> None:
    if steal:
        store.take(name, create=create)
    else:
        store.acquire(name, read_only=read_only, create=create)


def open_device(
    url: str | os.PathLike[str],
    create: bool = False,
    read_only: bool = False,
    *,
    key: str | bytes | SealKey | None = None,
    wait: float = 0.0,
    steal: bool = False,
    witness: str | os.PathLike[str] | None = None,
    witness_delay: float | None = None,
) -> Device:
    """Open the device that ``url`` names: ``sqlite:PATH?device=NAME``,
    ``postgresql://...?device=NAME``, ``baileys:DIR``, ``baileys6:DIR``, ``baileysex:DIR``,
    ``baileysex-json:DIR``, ``pyaileys:DIR``, ``whatsmeow:PATH?jid=JID``, ``memory:NAME``, or a bare
    path, which is looked at.

    :param create: make new credentials, committed before this returns, if the place holds no
        trace of a device.
    :param read_only: take no ownership, write nothing; possible while another process owns it.
    :param key: what opens a store that is sealed: a passphrase, 32 bytes, or a source such as
        :class:`KeyFile`; None asks the environment (``RATCHETKEEP_KEY_*``). A store that is made is
        sealed if a key is given here.
    :param wait: how many seconds to wait for an owner that has the device open.
    :param steal: take the device from its owner, which can write nothing more; for people who know
        that it is not alive. Only where owners have leases: ``postgresql:``.
    :param witness: a file elsewhere, or the URL of any other store, that remembers how many commits
        the device has had: :mod:`ratchetkeep.witness`.
    :param witness_delay: within how many seconds of a commit the witness is told, 1.0 by default;
        with 0 before the commit returns.
    :raises StoreRewound: if the store is older than what the witness saw; nothing was changed.
    :raises NoDevice: if nothing is there and ``create`` is not set.
    :raises StoreDamaged: if something is there and cannot be read, or credentials are missing;
        never taken for absence.
    :raises StoreInUse: if another owner has the device open.
    :raises DeviceMoved: if it was moved to another place; it can still be opened read-only.
    :raises WrongKey: if it is sealed, and the key does not open it, or there is none.
    :raises UnknownStore: if ``url`` names no store.
    """
    target = urls.parse(url)
    store = urls.open_target(target, key)
    return open_in(
        store,
        target.device,
        create=create,
        read_only=read_only,
        owns_store=True,
        wait=wait,
        steal=steal,
        witness=witness,
        witness_delay=witness_delay,
    )


def create_device(
    url: str | os.PathLike[str],
    credentials: Credentials,
    *,
    key: str | bytes | SealKey | None = None,
    witness: str | os.PathLike[str] | None = None,
    witness_delay: float | None = None,
) -> Device:
    """Open the device that ``url`` names, as :func:`open_device`; if the place holds no trace of
    one it is made, with ``credentials``."""
    target = urls.parse(url)
    initial = checked_credentials(credentials)
    return open_in(
        urls.open_target(target, key),
        target.device,
        create=True,
        read_only=False,
        owns_store=True,
        initial=initial,
        witness=witness,
        witness_delay=witness_delay,
    )
