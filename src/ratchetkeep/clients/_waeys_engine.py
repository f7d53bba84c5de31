"""waeys' own Signal repository over a device: every verb is one transaction, durable on return."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from ratchetkeep.errors import InvalidValue

from ._waeys_core import Core

Verb = Callable[..., Awaitable[Any]]

# What they return leaves the device.
_SENDING = {"encryptMessage", "encryptGroupMessage", "getSenderKeyDistributionMessage"}
_READING = {"decryptMessage", "decryptGroupMessage"}
# They hold a lock of waeys' own, one for each address, some of them from the beginning and some
# after they have taken locks of the device. So they take one more before all others: else two of
# them could wait for each other for ever.
_QUEUED = {"encryptMessage", "decryptMessage", "injectE2ESession"}
_VERBS = {
    *_SENDING,
    *_READING,
    "processSenderKeyDistributionMessage",
    "hasSenderKey",
    "getSessionInfo",
    "injectE2ESession",
    "validateSession",
    "deleteSession",
    "migrateSession",
}


class _Uncoalesced(dict[str, Any]):
    """Look-ups under way, none of which is remembered: waeys would await one coroutine twice, fail
    with that, and take the failure for "there is no session"."""

    def __setitem__(self, name: str, value: Any) -> None:
        pass


class Repository(dict[str, Any]):
    """The members of waeys' repository by name; as attributes too, in either spelling, since waeys
    itself asks for ``inject_e2e_session`` so."""

    def __init__(self, core: Core, engine: dict[str, Any]) -> None:
        super().__init__(engine)
        self._forget = engine["close"]
        for name in _VERBS:
            queue = engine["jidToSignalProtocolAddress"] if name in _QUEUED else None
            self[name] = _transacted(core, name, engine[name], queue)
        _steady(core, engine["lidMapping"])
        core.caches.add(self)
        # Every verb holds the mapping, so whoever keeps but one verb keeps this alive.
        engine["lidMapping"].repository = self

    __hash__ = object.__hash__  # type: ignore[assignment]

    def forget(self) -> None:
        """Empty what waeys caches: it may be of a transaction that failed."""
        self._forget()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        camel = re.sub("_([a-z0-9])", lambda found: found[1].upper(), name).replace("E2e", "E2E")
        try:
            return self[camel]
        except KeyError:
            raise AttributeError(name) from None

    def __repr__(self) -> str:
        return f"<Signal repository of {len(self)} members>"


def _transacted(core: Core, name: str, verb: Verb, address_of: Callable[[str], Any] | None) -> Verb:
    """``verb`` as one transaction. Inside a caller's transaction it joins that one.

    :param address_of: which lock of its own the verb takes, of a message's JID.
    """

    async def run(*args: Any) -> Any:
        if name in _SENDING and core.is_inside():
            raise InvalidValue(
                name,
                "was called inside a transaction: what it returns could leave the device before "
                "the new state is durable, and a message key could be used twice",
                "Encrypt and send after the transaction",
            )
        queue = [f"queue {address_of(args[0]['jid'])}"] if address_of else []
        async with core.transaction(*queue, is_verb=True):
            result = await verb(*args)
            if name in _READING:
                await core.deliver(result, args[0])
        return result

    return run


def _steady(core: Core, mapping: Any) -> None:
    """Within one verb an address stays the same one. waeys resolves it anew for every read and
    write; a mapping that is learnt in between would leave the old session behind, in use."""
    look_up = mapping.get_lid_for_pn

    async def get_lid_for_pn(pn: str) -> Any:
        work = core.running()
        if work is None or not work.is_verb:
            return await look_up(pn)
        if pn not in work.pins:
            # Asking the server may fail, and not to know an address is not to have no session.
            with core.noting_failure():
                work.pins[pn] = await look_up(pn)
        return work.pins[pn]

    mapping.get_lid_for_pn = get_lid_for_pn
    mapping.inflight_lid_lookups = _Uncoalesced()
    mapping.inflight_pn_lookups = _Uncoalesced()
