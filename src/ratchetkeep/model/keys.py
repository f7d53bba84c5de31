"""Key pairs and the curve operations on them.

X25519 is RFC 7748. Signatures are XEdDSA (Signal, "The XEdDSA and VXEdDSA Signature Schemes"); as
in Signal's libraries the sign of the Edwards point travels in the top bit of the last byte.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import xeddsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from . import _checks as c
from ._value import EMPTY, Value

KEY_TYPE = b"\x05"


class KeyPair(Value, kw_only=True):
    """A Curve25519 key pair.

    :ivar public: 32 bytes, or 33 where the format keeps Signal's type byte 0x05 before them.
    :ivar private: 32 bytes.
    """

    public: bytes
    private: bytes
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {"public": c.public_key, "private": c.size(32), "extra": c.extra}

    @classmethod
    def new(cls) -> KeyPair:
        """A fresh pair from the operating system's randomness."""
        # The clamped form is what Signal's libraries keep, and what XEdDSA signs with.
        raw = bytearray(secrets.token_bytes(32))
        raw[0] &= 248
        raw[31] = (raw[31] & 127) | 64
        private = bytes(raw)
        return cls(public=public_of(private), private=private)

    @property
    def is_matched(self) -> bool:
        """True if the public key belongs to the private key."""
        return public_of(self.private) == self.public[-32:]


class SignedPreKey(Value, kw_only=True):
    """A pre-key pair signed by the identity key.

    :ivar key_pair: the pair.
    :ivar signature: 64 bytes, over 0x05 and the public key.
    :ivar key_id: 24-bit id.
    """

    key_pair: KeyPair
    signature: bytes
    key_id: int
    extra: Mapping[str, Any] = EMPTY
    CHECKS = {
        "key_pair": c.instance(KeyPair),
        "signature": c.size(64),
        "key_id": c.uint24,
        "extra": c.extra,
    }
    SHOWN = frozenset({"key_id"})

    @classmethod
    def new(cls, identity: KeyPair, key_id: int) -> SignedPreKey:
        """A fresh pair, signed by ``identity``."""
        pair = KeyPair.new()
        return cls(
            key_pair=pair,
            signature=sign(identity.private, KEY_TYPE + pair.public),
            key_id=key_id,
        )

    def is_signed_by(self, identity_public: bytes) -> bool:
        """True if the signature verifies under ``identity_public`` (32 or 33 bytes)."""
        return verify(identity_public, KEY_TYPE + self.key_pair.public[-32:], self.signature)


def public_of(private: bytes) -> bytes:
    """The 32-byte public key of a 32-byte private key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def sign(private: bytes, message: bytes) -> bytes:
    """The 64-byte XEdDSA signature of ``message``."""
    # Sign bit 0, as XEdDSA says: then verifiers that ignore the bit accept it as well.
    forced = xeddsa.priv_force_sign(private, False)
    return xeddsa.ed25519_priv_sign(forced, message, secrets.token_bytes(64))


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """True if ``signature`` (64 bytes) is ``public``'s over ``message``."""
    sign_bit = bool(signature[63] & 0x80)
    plain = signature[:63] + bytes([signature[63] & 0x7F])
    edwards = xeddsa.curve25519_pub_to_ed25519_pub(public[-32:], sign_bit)
    return bool(xeddsa.ed25519_verify(plain, edwards, message))
