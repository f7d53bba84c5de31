"""The Signal key store that waeys sees: its ``get``, ``set``, ``clear`` and ``transaction``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from ._waeys_core import Core, lock_names
from ._waeys_values import from_record, to_record

Data = Mapping[str, Mapping[Any, Any]]


class ByNumber(dict[Any, Any]):
    """Records by id. waeys sets pre-keys under numbers, asks for them as text, and looks the
    answer up by numbers again: both find the record."""

    def __missing__(self, id: Any) -> Any:
        if type(id) is not int:
            raise KeyError(id)
        return self[str(id)]


class Keys:
    """The methods of the key store."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def methods(self) -> dict[str, Callable[..., Any]]:
        """By the names that waeys calls them."""
        return {
            "get": self.get,
            "set": self.set,
            "clear": self.clear,
            "transaction": self.transaction,
            "isInTransaction": self.is_in_transaction,
            "is_in_transaction": self.is_in_transaction,
        }

    async def get(self, family: str, ids: Iterable[Any]) -> dict[Any, Any]:
        """Records by id; absent ids are left out. Every value is the caller's own copy.

        :raises StoreDamaged: if one of them is there and cannot be read.
        :raises NotHeld: if one is in the encoding of another client.
        """
        texts = {id: _text(id) for id in ids}
        with self._core.noting_failure():
            await self._core.lock(family, texts.values())
            found = await self._core.device.get(family, list(dict.fromkeys(texts.values())))
            return ByNumber(
                (id, from_record(family, text, found[text], self._core.device.url))
                for id, text in texts.items()
                if text in found
            )

    async def set(self, data: Data) -> None:
        """Store ``{family: {id: value}}`` in one durable commit, or in the transaction that is
        running; None deletes. The values are taken as they are now.

        :raises InvalidValue: naming a record that cannot be kept; nothing is stored.
        """
        core = self._core
        with core.noting_failure():
            records = {family: _records(family, members) for family, members in data.items()}
            names = [name for family, ids in records.items() for name in _names(family, ids)]
            if core.running() is None:
                async with core.transaction(*names, is_verb=True):
                    await self._set(records)
                return
            for family, members in records.items():
                await core.lock(family, _rewritten(family, members))
            await self._set(records)

    async def _set(self, records: dict[str, dict[str, Any]]) -> None:
        """Set, and count new pre-keys in the same commit: waeys moves its counter later, and after
        a crash between the two it would mint other keys under ids that the server may hold."""
        new = [int(id) for id, value in records.get("pre-key", {}).items() if value is not None]
        creds = self._core.creds
        if new and max(new) >= creds["nextPreKeyId"]:
            creds["nextPreKeyId"] = max(new) + 1
        await self._core.device.set(records)

    async def clear(self) -> None:
        """Delete all records; the credentials stay."""
        await self._core.device.clear()

    def is_in_transaction(self) -> bool:
        """Whether what is set here is committed later, with more."""
        return self._core.is_inside()

    def transaction(
        self, work: str | Callable[[], Any], key: str | None = None
    ) -> AbstractAsyncContextManager[None] | Awaitable[Any]:
        """Both ways in which waeys calls it: ``await transaction(work, key)`` runs ``work`` in a
        transaction; ``async with transaction(key)`` is one.

        :param key: a name to lock.
        """
        if callable(work):
            return self._run(work, key)
        if self._core.running() is not None:
            # waeys' engine inside one of its verbs: the verb is the transaction, and has its locks.
            return nullcontext()
        return self._core.transaction(work)

    async def _run(self, work: Callable[[], Any], key: str | None) -> Any:
        is_outermost = self._core.running() is None
        async with self._core.transaction(*([key] if is_outermost and key else [])):
            result = work()
            return await result if isinstance(result, Awaitable) else result


def _text(id: Any) -> Any:
    return str(id) if type(id) is int else id


def _records(family: str, members: Mapping[Any, Any]) -> dict[str, Any]:
    texts = {_text(id): value for id, value in members.items()}
    return {
        id: None if value is None else to_record(family, id, value) for id, value in texts.items()
    }


def _rewritten(family: str, members: Mapping[str, Any]) -> list[str]:
    """The ids to lock: new pre-keys are nobody's yet."""
    return [id for id, value in members.items() if family != "pre-key" or value is None]


def _names(family: str, members: Mapping[str, Any]) -> list[str]:
    return lock_names(family, _rewritten(family, members))
