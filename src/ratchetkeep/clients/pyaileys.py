"""A device as the auth state of pyaileys.

::

    from pyaileys.client import WhatsAppClient
    from ratchetkeep.clients.pyaileys import load

    async with await load("bot.db") as auth:
        client = WhatsAppClient(auth=auth)
        auth.attach(client)
        await client.connect()

Tested with pyaileys 0.1.5. Its sessions and sender keys are stored as they are, under the encoding
``signal-protobuf``; values of other families are stored as the model's, or under the encoding
``pyaileys-json`` where the model has no form that gives back the same. A store that cannot hand
these back as they are, such as a folder of Baileys, is refused by ``load``.
"""

from __future__ import annotations

import copy
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

try:
    import pyaileys  # noqa: F401
except ModuleNotFoundError as missing:
    if missing.name != "pyaileys":
        raise
    raise ImportError(
        "pyaileys is not installed: pip install pyaileys, or ratchetkeep with its extra 'pyaileys'",
        name="pyaileys",
    ) from missing

from pyaileys.auth.creds import AuthenticationCreds
from pyaileys.auth.state import AuthenticationState
from pyaileys.client import WhatsAppClient

from ratchetkeep import prekeys
from ratchetkeep.aio import AsyncDevice, open_async_device
from ratchetkeep.errors import InvalidValue, NotHeld, RatchetkeepError, StoreClosed
from ratchetkeep.formats.pyaileys import PROTOBUF
from ratchetkeep.model import Credentials, EncodedRecord, Key, KeyPair, check_key
from ratchetkeep.stores import urls

from ._pyaileys_creds import Texts, texts_of, to_client, with_changes
from ._pyaileys_records import check_form
from ._pyaileys_records import to_client as to_client_value
from ._pyaileys_records import to_model as to_model_value
from ._pyaileys_signal import Keep, Repository
from ._ratchets import check_ratchets

if TYPE_CHECKING:
    from ratchetkeep.sealing.keys import SealKey

__all__ = ["AuthState", "KeyStore", "load", "load_device"]


async def load(
    url: str | os.PathLike[str],
    *,
    create: bool = True,
    wait: float = 0.0,
    key: str | bytes | SealKey | None = None,
    witness: str | os.PathLike[str] | None = None,
    witness_delay: float | None = None,
) -> AuthState:
    """The auth state of the device that ``url`` names, open until it is closed.

    :param create: make new credentials if the place holds no trace of a device.
    :param wait: how many seconds to wait for another owner.
    :param key: what opens a sealed store; ``witness`` and ``witness_delay``: what remembers how far
        the device came. All three as for :func:`ratchetkeep.open_device`.
    :raises NoDevice: if nothing is there and ``create`` is not set.
    :raises StoreDamaged: if something is there and cannot be read; nothing new is made over it.
    :raises StoreInUse: if another owner has the device open.
    :raises NotHeld: if the store has no place for pyaileys' sessions, or holds the sessions of
        another library.
    """
    _check_store(url)
    device = await open_async_device(
        url, create=create, wait=wait, key=key, witness=witness, witness_delay=witness_delay
    )
    try:
        return await load_device(device)
    except BaseException:
        await device.close()
        raise


async def load_device(device: AsyncDevice) -> AuthState:
    """The auth state of a device that is open, such as one that a fleet hands out.

    :raises NotHeld: if it holds the sessions of another library.
    """
    await check_ratchets(device, partial(check_form, device.url))
    credentials = device.credentials
    if credentials.pairing_ephemeral_key_pair is None:
        # Not every library keeps one, and pyaileys knows no credentials without.
        await device.save_credentials(credentials.replace(pairing_ephemeral_key_pair=KeyPair.new()))
    return AuthState(device)


class KeyStore:
    """pyaileys' SignalKeyStore on a device; ``set`` is one commit, or part of one."""

    def __init__(self, auth: AuthState) -> None:
        self._auth = auth

    async def get(self, key_type: str, ids: list[str]) -> dict[str, Any]:
        """Values by id; None for those that are not there.

        :raises NotHeld: if one of them is stored in the form of another library.
        :raises StoreDamaged: if one of them is there and cannot be read.
        """
        device = self._auth.device
        found = await device.get(key_type, ids)
        return {
            id: to_client_value(device.url, Key(key_type, id), found[id]) if id in found else None
            for id in ids
        }

    async def set(self, data: Mapping[str, Mapping[str, Any | None]]) -> None:
        """Store ``{family: {id: value}}``, durably; None deletes. Inside a transaction it is stored
        when that ends.

        New pre-keys move ``next_pre_key_id`` behind them in the same commit, so that a client which
        is killed before it saves its credentials does not make the same ids again.

        :raises InvalidValue: for a value that cannot be stored, an unknown family or a bad id.
        :raises NotHeld: if it would replace a record in the form of another library.
        :raises CommitFailed: if it could not be made durable.
        """
        records = {family: _records(family, members) for family, members in data.items()}
        new = [int(id) for id, held in records.get("pre-key", {}).items() if held is not None]
        await self._auth._store(records, max(new) + 1 if new else 0)

    async def clear(self) -> None:
        """Delete all records in one commit; the credentials stay."""
        await self._auth.device.clear()


class AuthState(AuthenticationState):
    """pyaileys' AuthenticationState on a device. Made by :func:`load`.

    :ivar device: the device; use :meth:`transaction` of this class, not the device's own.
    :ivar keys: pyaileys' SignalKeyStore.
    """

    def __init__(self, device: AsyncDevice) -> None:
        self.device = device
        self.keys = KeyStore(self)
        self._seen = device.credentials
        self._live = to_client(self._seen)
        self._saved: Texts = texts_of(self._live)
        self._on_their_way: list[int] = []
        self._current: ContextVar[_Scope | None] = ContextVar("transaction", default=None)

    def __repr__(self) -> str:
        return f"<AuthState of {self.device!r}>"

    @property
    def creds(self) -> AuthenticationCreds:
        """The credentials, as an object that the client changes in place. Inside a transaction it
        is that transaction's own one, which is dropped if the transaction fails."""
        scope = self._running()
        return self._live if scope is None else scope.creds

    @creds.setter
    def creds(self, creds: AuthenticationCreds) -> None:
        scope = self._running()
        if scope is None:
            self._live = creds
        else:
            scope.replace(creds)

    async def save_creds(self) -> None:
        """Store what changed in ``creds``, durably; nothing else of the device's credentials is
        touched. Inside a transaction it is stored when that ends.

        :raises InvalidValue: naming the member that cannot be stored.
        :raises CommitFailed: if it could not be made durable.
        """
        if self._running() is not None:
            return
        self._refuse_device_transaction()
        self._keep_ahead(self.device.credentials)
        try:
            async with self.device.transaction(prekeys.LOCK) as changes:
                texts = texts_of(self._live)
                names = [name for name, text in texts.items() if text != self._saved[name]]
                await _save(changes, self._live, names)
        finally:
            self._follow()

    @asynccontextmanager
    async def transaction(self, *names: str) -> AsyncIterator[None]:
        """Commit everything inside together, on leaving, changes of ``creds`` too; an exception
        drops it all.

        :param names: names to lock, any text; no other transaction that names one runs meanwhile.

        Inside it, decrypting joins: store the plaintext before leaving, and it is kept before the
        ratchet moves on. Encrypting is refused, for its ciphertext must not leave before the
        commit. A transaction inside another is committed with the outer one.
        """
        outer = self._running()
        if outer is None:
            self._refuse_device_transaction()
        scope = _Scope(self, outer)
        try:
            async with self.device.transaction(*names):
                self._current.set(scope)
                try:
                    yield
                finally:
                    scope.has_ended = True
                    self._current.set(outer)
                await self._pass_on(scope)
        finally:
            if outer is None:
                self._follow(scope.changed)

    def attach(self, client: WhatsAppClient, *, keep: Keep | None = None) -> None:
        """Make each decrypt and encrypt of ``client`` one commit, and save the credentials whenever
        the client says that they changed. To be called before ``connect``.

        :param keep: awaited with each decrypted message, before the commit: the sender's JID, the
            group's JID or None, and the plaintext (padded, as pyaileys decrypts it). What it stores
            is kept before the ratchet moves on; if it raises, nothing moves.
        :raises InvalidValue: if the client was not made with this auth state, or is attached.
        """
        if client.socket.auth is not self:
            what = "was made with another auth state"
            raise InvalidValue("client", what, "Make it with WhatsAppClient(auth=auth)")
        if isinstance(client.signal, Repository):
            raise InvalidValue("client", "is attached already")
        client.signal = Repository(self, client.signal, keep)
        client.on("creds.update", self._on_creds_update)

    def _refuse_to_join(self, verb: str) -> None:
        """See that no transaction is running here: what ``verb`` returns leaves the process.

        :raises InvalidValue: if one is.
        """
        if self.device.in_transaction:
            what = "inside a transaction the ciphertext would leave before its state is durable"
            raise InvalidValue(verb, what, "Send after the transaction has ended")

    async def close(self) -> None:
        """Give the device back. Everything is in its final place when this returns."""
        await self.device.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _on_creds_update(self, *_: Any) -> None:
        await self.save_creds()

    def _running(self) -> _Scope | None:
        """The transaction that this context is in; those that ended do not count."""
        scope = self._current.get()
        while scope is not None and scope.has_ended:
            scope = scope.outer
        return scope

    def _refuse_device_transaction(self) -> None:
        """Inside a transaction of the device itself nothing would be known of its end here."""
        if self.device.in_transaction:
            what = "a transaction of the device itself is running"
            raise InvalidValue("transaction", what, "Begin it with auth.transaction()")

    async def _store(self, records: dict[str, dict[str, Any]], next_id: int) -> None:
        with self._reserved(next_id):
            async with self.transaction():
                for family, members in records.items():
                    for id, held in (await self.device.get(family, members)).items():
                        check_form(self.device.url, Key(family, id), held)
                await self.device.set(records)
                scope = self._running()
                if scope is not None:
                    scope.next_id = max(scope.next_id, next_id)

    @contextmanager
    def _reserved(self, next_id: int) -> Iterator[None]:
        """No other task makes the same pre-key ids while these are on their way to the disk."""
        # Looked at only if needed: inside a transaction this makes a copy.
        creds = self.creds if next_id else self._live
        before = creds.next_pre_key_id
        if next_id <= before:
            yield
            return
        creds.next_pre_key_id = next_id
        self._on_their_way.append(next_id)
        try:
            yield
        except BaseException:
            if creds.next_pre_key_id == next_id:
                creds.next_pre_key_id = before
            raise
        finally:
            self._on_their_way.remove(next_id)

    def _keep_ahead(self, stored: Credentials) -> None:
        """A task that read ``next_pre_key_id`` before another one moved it must not set it back."""
        ahead = max(stored.next_pre_key_id, self._live.next_pre_key_id, *self._on_their_way)
        self._live.next_pre_key_id = ahead

    async def _pass_on(self, scope: _Scope) -> None:
        """What a transaction changed in the credentials: to the outer one, or to the device."""
        scope.find_changes()
        if scope.outer is not None:
            scope.outer.absorb(scope)
        elif scope.changed or scope.next_id:
            async with self.device.transaction(prekeys.LOCK) as changes:
                await _save(changes, scope.creds, scope.changed, scope.next_id)

    def _follow(self, saved: Iterable[str] = ()) -> None:
        """Bring ``creds`` to what is stored, but for what the client has changed and not saved.

        :param saved: what a transaction had changed in its own credentials.
        """
        try:
            credentials = self.device.credentials
        except RatchetkeepError:
            # Closed or lost by now. What was committed before that is stored: an error here would
            # tell the caller that it was refused.
            return
        if credentials is not self._seen:
            stored = to_client(credentials)
            texts, live = texts_of(stored), texts_of(self._live)
            for name, text in texts.items():
                if live[name] != text and (live[name] == self._saved[name] or name in saved):
                    setattr(self._live, name, getattr(stored, name))
            self._seen, self._saved = credentials, texts
        self._keep_ahead(credentials)


class _Scope:
    """A transaction of an auth state, with credentials of its own once they are looked at.

    :ivar next_id: the least ``next_pre_key_id`` that its pre-keys need.
    :ivar changed: the members of the credentials that it changed; known when it ends.
    """

    def __init__(self, auth: AuthState, outer: _Scope | None) -> None:
        self._auth = auth
        self.outer = outer
        self.has_ended = False
        self.next_id = 0
        self.changed: list[str] = []
        self._creds: AuthenticationCreds | None = None
        self._before: Texts = {}

    @property
    def creds(self) -> AuthenticationCreds:
        """The transaction's own credentials, begun as those around it."""
        if self._creds is None:
            around = self.outer.creds if self.outer is not None else self._auth._live
            self._before = texts_of(around)
            self._creds = copy.deepcopy(around)
        return self._creds

    def replace(self, creds: AuthenticationCreds) -> None:
        """Go on with other credentials."""
        self._creds = creds if self.creds else None

    def find_changes(self) -> None:
        """Say in ``changed`` what differs from the beginning."""
        if self._creds is not None:
            after = texts_of(self._creds)
            self.changed = [name for name, text in after.items() if text != self._before[name]]

    def absorb(self, inner: _Scope) -> None:
        """Take over what a transaction inside of this one changed."""
        if self.has_ended:
            raise StoreClosed(self._auth.device.url, "the transaction around this one has ended")
        self.next_id = max(self.next_id, inner.next_id)
        for name in inner.changed:
            setattr(self.creds, name, getattr(inner.creds, name))


async def _save(
    changes: Any, creds: AuthenticationCreds, names: Iterable[str], next_id: int = 0
) -> None:
    """Save the members ``names`` of ``creds``. The next pre-key id never goes back: a task that
    read it before another one moved it would make ids that are taken."""
    before: Credentials = changes.credentials
    after = with_changes(before, creds, names)
    after = after.replace(
        next_pre_key_id=max(before.next_pre_key_id, after.next_pre_key_id, next_id)
    )
    if after != before:
        await changes.save_credentials(after)


def _records(family: str, members: Mapping[str, Any | None]) -> dict[str, Any]:
    return {
        id: None if value is None else to_model_value(check_key(family, id), value)
        for id, value in members.items()
    }


def _check_store(url: str | os.PathLike[str]) -> None:
    """See that the store can hold pyaileys' sessions as they are, before anything is made in it."""
    target = urls.parse(url)
    format = urls.open_target(target).format
    key, example = Key("session", "1.0"), EncodedRecord(encoding=PROTOBUF, data=b"")
    data = format.encode(key, example, None).data
    if data is None or format.decode(key, data) != example:
        what = f"a {target.kind} folder has no place for pyaileys' sessions"
        raise NotHeld(urls.shown(target), what)
