"""What a sealed store keeps beside its records: its data keys, wrapped by the key of its owner.

The ring is JSON (members below; bytes in base64). A data key is 32 random bytes, and never leaves
the store but wrapped: nonce (12 bytes) and AES-256-GCM-SIV of it, whose associated data are all
other members of the ring, so that none can be changed by itself. The wrapping key is the 32 bytes
of a raw key, or Argon2id (RFC 9106) of a passphrase with the parameters that stand in the ring;
each by HKDF-SHA-256 for this use alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from ratchetkeep.errors import DecodeError, StoreDamaged, UnsupportedVersion, WrongKey

from .cipher import PLAIN, Cipher, NameCipher, Sealed

if TYPE_CHECKING:
    from .keys import Secret

__all__ = ["PLAIN_VAULT", "Vault", "Work", "make", "unlock"]

FORMAT, VERSION = "ratchetkeep-ring", 1
Work = Literal["", "seal", "rekey", "unseal"]

# RFC 9106, the second recommended choice: 64 MiB, three passes, four lanes.
ITERATIONS, LANES, MEMORY = 3, 4, 64 * 1024
# More than this nobody has chosen: whoever can write the ring must not make us run out of memory.
_MOST = {"iterations": 16, "lanes": 16, "memory": 1024 * 1024}


class _Derivation(msgspec.Struct, frozen=True):
    """How the wrapping key comes from the owner's: ``raw``, or ``argon2id`` with its parameters
    (``memory`` in KiB)."""

    kind: Literal["raw", "argon2id"]
    salt: bytes = b""
    iterations: int = 0
    lanes: int = 0
    memory: int = 0


class _Ring(msgspec.Struct, frozen=True):
    """The ring.

    :ivar store: 16 random bytes: which store it is.
    :ivar current: generation of the data key that new devices are sealed with; 0 for none.
    :ivar work: what was begun with all devices, and is not finished.
    :ivar keys: the wrapped data keys by generation.
    """

    format: str
    version: int
    store: bytes
    current: int
    work: Work
    derivation: _Derivation
    keys: dict[str, bytes]

    def bound(self, generation: str) -> bytes:
        """The associated data of a wrapped key."""
        return msgspec.json.encode([self.__replace__(keys={}), generation, sorted(self.keys)])

    def __replace__(self, **changes: object) -> _Ring:
        return msgspec.structs.replace(self, **changes)


class Vault:
    """A store's data keys, ready for use; without any, the store is plain.

    :ivar current: the generation that new devices are sealed with; 0: they are plain.
    :ivar work: what was begun with all devices, and is not finished.
    """

    def __init__(
        self, store: bytes, current: int, work: Work, keys: Mapping[int, bytes], place: str = ""
    ) -> None:
        self.store, self.current, self.work = store, current, work
        self.keys = dict(keys)
        self._place = place
        self._names = {number: NameCipher(key, store, number) for number, key in keys.items()}

    def __repr__(self) -> str:
        return f"<Vault with {len(self.keys)} data keys>"

    @property
    def is_plain(self) -> bool:
        """True if nothing is sealed here, nor about to be."""
        return not self.keys

    @property
    def generations(self) -> list[int]:
        """What devices may be sealed with here; 0 stands for plain ones."""
        may_be_plain = self.is_plain or self.work in ("seal", "unseal")
        return [*([0] if may_be_plain else []), *sorted(self.keys)]

    def cipher(self, generation: int, device: str, history: str) -> Cipher:
        """How a device's records are spelled.

        :raises StoreDamaged: for a generation that devices here cannot have.
        """
        if generation not in self.generations:
            what = f"device {device!r} is not sealed with a key of this store"
            raise StoreDamaged(self._place, what)
        if generation == 0:
            return PLAIN
        return Sealed(self.keys[generation], self.store, generation, device, history)

    def seal_name(self, generation: int, device: str) -> str:
        """A device's name as it stands in the list."""
        return device if generation == 0 else self._names[generation].seal(device)

    def open_name(self, generation: int, text: str) -> str:
        """The other way round.

        :raises StoreDamaged: if it was not sealed here.
        """
        if generation == 0 and 0 in self.generations:
            return text
        try:
            if generation in self._names:
                return self._names[generation].open(text)
        except DecodeError as error:
            raise StoreDamaged(self._place, error.what) from None
        raise StoreDamaged(self._place, "holds a device that is not sealed with a key of it")

    def spellings(self, device: str) -> list[str]:
        """All that a device's name may be here."""
        return [self.seal_name(generation, device) for generation in self.generations]

    def changed(self, *, current: int, work: Work, keys: Mapping[int, bytes]) -> Vault:
        """The same store's, with other data keys."""
        return Vault(self.store, current, work, keys, self._place)

    def wrapped(self, secret: Secret) -> bytes:
        """The ring, with the data keys wrapped by a key."""
        derivation = _Derivation("raw")
        if secret.is_passphrase:
            derivation = _Derivation("argon2id", os.urandom(16), ITERATIONS, LANES, MEMORY)
        ring = _Ring(
            FORMAT,
            VERSION,
            self.store,
            self.current,
            self.work,
            derivation,
            {str(number): b"" for number in self.keys},
        )
        cipher = _wrapping(derivation, secret)
        wrapped = {}
        for number, key in self.keys.items():
            nonce = os.urandom(12)
            wrapped[str(number)] = nonce + cipher.encrypt(nonce, key, ring.bound(str(number)))
        return msgspec.json.encode(ring.__replace__(keys=wrapped))


PLAIN_VAULT = Vault(b"", 0, "", {})


def make(place: str) -> Vault:
    """The vault of a new store, with a data key of its own."""
    return Vault(os.urandom(16), 1, "", {1: os.urandom(32)}, place)


def new_data_key() -> bytes:
    """A data key."""
    return os.urandom(32)


def unlock(data: bytes, secret: Secret, place: str) -> Vault:
    """The vault of a ring.

    :param place: the store, for errors.
    :raises WrongKey: if it was wrapped with another key.
    :raises StoreDamaged: if it is no ring.
    :raises UnsupportedVersion: if a newer version wrote it.
    """
    ring = _read(data, place)
    if secret.is_passphrase != (ring.derivation.kind == "argon2id"):
        kinds = "a passphrase", "a raw key"
        what, given = kinds if ring.derivation.kind == "argon2id" else kinds[::-1]
        raise WrongKey(place, f"is sealed with {what}, and {given} was given")
    asked = _remembered(data, secret)
    keys = _UNLOCKED.get(asked)
    if keys is None:
        keys = _unwrapped(ring, secret, place)
        if len(_UNLOCKED) >= 16:
            _UNLOCKED.clear()
        _UNLOCKED[asked] = keys
    return Vault(ring.store, ring.current, ring.work, keys, place)


def _unwrapped(ring: _Ring, secret: Secret, place: str) -> dict[int, bytes]:
    keys: dict[int, bytes] = {}
    try:
        cipher = _wrapping(ring.derivation, secret)
        for number, wrapped in ring.keys.items():
            keys[int(number)] = cipher.decrypt(wrapped[:12], wrapped[12:], ring.bound(number))
    except InvalidTag:
        keys.clear()  # a traceback may show the variables of this frame
        what = "is sealed with another key than the one given, or its ring of keys was changed"
        raise WrongKey(place, what) from None
    except (ValueError, MemoryError):
        raise _damaged(place) from None
    return keys


# A passphrase takes a tenth of a second: not once for each of a thousand devices. What is
# remembered of the passphrase is of no use outside of this process.
_UNLOCKED: dict[bytes, dict[int, bytes]] = {}
_MINE = os.urandom(32)


def _remembered(data: bytes, secret: Secret) -> bytes:
    hashed = hashlib.blake2b(key=_MINE, digest_size=32)
    hashed.update(len(secret.data).to_bytes(8) + secret.data + data)
    return hashed.digest()


def _read(data: bytes, place: str) -> _Ring:
    try:
        known = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        version = msgspec.json.decode(known.get("version", b"0"), type=int)
        if version > VERSION:
            raise UnsupportedVersion(place, f"its ring of keys is in version {version}")
        ring = msgspec.json.decode(data, type=_Ring)
    except (msgspec.MsgspecError, ValueError):
        raise _damaged(place) from None
    derivation = ring.derivation
    is_known = ring.format == FORMAT and all(number.isdecimal() for number in ring.keys)
    least = 1 if derivation.kind == "argon2id" else 0
    bounds = (least <= getattr(derivation, name) <= most for name, most in _MOST.items())
    if not is_known or not ring.keys or not all(bounds) or len(ring.store) != 16:
        raise _damaged(place)
    return ring


def _damaged(place: str) -> StoreDamaged:
    remedy = "Restore it from a backup: without its ring of keys nothing in it can be read"
    return StoreDamaged(place, "its ring of keys is not what was written", remedy)


def _wrapping(derivation: _Derivation, secret: Secret) -> AESGCMSIV:
    key = secret.data
    if derivation.kind == "argon2id":
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id  # only then

        key = Argon2id(
            salt=derivation.salt,
            length=32,
            iterations=derivation.iterations,
            lanes=derivation.lanes,
            memory_cost=derivation.memory,
        ).derive(secret.data)
    info = b"ratchetkeep wrap " + derivation.kind.encode()
    return AESGCMSIV(HKDFExpand(algorithm=SHA256(), length=32, info=info).derive(key))
