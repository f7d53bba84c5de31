"""pyaileys' Signal engine over records in memory, for a device of ours."""

from __future__ import annotations

import base64
from types import SimpleNamespace
from typing import Any

from pyaileys.auth.creds import KeyPair as TheirPair
from pyaileys.auth.creds import SignedKeyPair
from pyaileys.signal.repository import SignalRepository

from ratchetkeep.model import Credentials, KeyPair


def raw(text: str) -> bytes:
    return base64.b64decode(text)


class Keys:
    """A key store in memory, as pyaileys asks for one."""

    def __init__(self, **families: dict[str, Any]) -> None:
        self.families = {name.replace("_", "-"): dict(of) for name, of in families.items()}

    async def get(self, family: str, ids: list[str]) -> dict[str, Any]:
        held = self.families.get(family, {})
        return {id: held[id] for id in ids if id in held}

    async def set(self, data: dict[str, dict[str, Any]]) -> None:
        for family, records in data.items():
            self.families.setdefault(family, {}).update(records)


def engine_of(creds: Credentials, keys: Keys) -> SignalRepository:
    """pyaileys' engine for a device."""
    signed = creds.signed_pre_key
    theirs = SimpleNamespace(
        signed_identity_key=TheirPair(*_halves(creds.signed_identity_key)),
        signed_pre_key=SignedKeyPair(
            key_pair=TheirPair(*_halves(signed.key_pair)),
            key_id=signed.key_id,
            signature=signed.signature,
        ),
        registration_id=creds.registration_id,
    )
    return SignalRepository(SimpleNamespace(creds=theirs, keys=keys))  # type: ignore[arg-type]


def _halves(of: KeyPair) -> tuple[bytes, bytes]:
    return of.public, of.private
