"""What the tests of whatsmeow's rows share: a device's row, and how records are written to rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from msgspec import msgpack

from _helpers import key_of, records
from ratchetkeep.formats import Encoded, baileys, whatsmeow
from ratchetkeep.model import (
    CREDENTIALS,
    Credentials,
    Key,
    KeyPair,
)
from ratchetkeep.model.keys import public_of

PRIVATE = st.binary(min_size=32, max_size=32)
INT64 = st.integers(-(2**63), 2**63 - 1)
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)

NOISE, IDENTITY, SIGNED = (
    KeyPair(public=public_of(bytes([n]) * 32), private=bytes([n]) * 32) for n in (1, 2, 3)
)

ROW: dict[str, Any] = {
    "jid": "4915112345678:12@s.whatsapp.net",
    "lid": "112233445566778:12@lid",
    "facebook_uuid": "01234567-89ab-cdef-0123-456789abcdef",
    "registration_id": 2**32 - 1,
    "noise_key": NOISE.private,
    "identity_key": IDENTITY.private,
    "signed_pre_key": SIGNED.private,
    "signed_pre_key_id": 2**24 - 1,
    "signed_pre_key_sig": b"s" * 64,
    "adv_key": b"a" * 32,
    "adv_details": b"details",
    "adv_account_sig": b"A" * 64,
    "adv_account_sig_key": b"k" * 32,
    "adv_device_sig": b"D" * 64,
    "platform": "android",
    "business_name": "Shop",
    "push_name": "Alice Müller 🦊",
    "lid_migration_ts": 1763600000,
    "companion_meta_nonce": "nonce",
}
OWN = ("facebook_uuid", "business_name", "lid_migration_ts", "companion_meta_nonce")
PLAIN_ROW = ROW | {
    "facebook_uuid": None,
    "business_name": "",
    "lid_migration_ts": 0,
    "companion_meta_nonce": "",
}


def device(row: dict[str, Any], **members: Any) -> bytes:
    counters = {"next_pre_key_id": 121, "first_unuploaded_pre_key_id": 91}
    key_id = {"app_state_key_id": b"\xfb\xff\xbf\0"}
    return msgpack.encode({"row": row, **counters, **key_id, **members})


def credentials(raw: bytes) -> Credentials:
    value = whatsmeow.decode(CREDENTIALS, raw)
    assert isinstance(value, Credentials)
    return value


def row_of(encoded: Encoded) -> dict[str, Any]:
    assert encoded.data is not None
    row: dict[str, Any] = msgpack.decode(encoded.data)["row"]
    return row


def golden(folder: Path, family: str) -> list[tuple[Key, Any]]:
    found = [(key_of(path), path) for path in records(folder)]
    return [
        (key, baileys.decode(key, path.read_bytes())) for key, path in found if key.family == family
    ]


def creds_of(folder: Path) -> Credentials:
    ((_, value),) = golden(folder, "credentials")
    assert isinstance(value, Credentials)
    return value


DEVICE = credentials(device(PLAIN_ROW))


def encode(family: str, id: str, value: Any, creds: Credentials | None = DEVICE) -> Encoded:
    return whatsmeow.encode(Key(family, id), value, creds)


def not_held(encoded: Encoded) -> tuple[str, bool]:
    """Why the record as a whole has no row, and whether it can be done without."""
    assert encoded.data is None
    (loss,) = encoded.losses
    return loss.what, loss.derived
