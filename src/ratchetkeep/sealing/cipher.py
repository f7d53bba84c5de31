"""How one device's records are sealed, and how it is found out that one is missing or old.

A sealed record is ``RS``, format version (1 byte), nonce (12 bytes), and what AES-256-GCM
(NIST SP 800-38D) makes of the record in the native format, filled up to a step of sizes. The
associated data are the format version, the store, the generation of its data key, the device, the
device's history, the family and the id: what stands in another place does not open.

An id is stored as the base64url text of AES-SIV (RFC 5297, 512-bit key) over the id, filled up,
with the family as associated data: a keyed hash of the id, followed by the id sealed under it. The
same id has the same text, so that it can be looked up; nobody without the key can tell which.

A nonce is 12 bytes of a keyed hash (BLAKE2b) over 16 random bytes, the associated data and the
record. Each device has keys of its own, so that no key seals more than that device's records:
2**32 of them, a hundred a second for more than a year, make two equal nonces with a chance of
2**-33. And should the same random bytes come twice (a virtual machine that was put back draws them
again), the nonces differ all the same, unless the record is the same too.

The *state* of a device is the sum, modulo 2**256, of a keyed hash of each of its rows, with their
number and the number of commits. It changes by what a commit changes, and is sealed like a record.
"""

from __future__ import annotations

import hashlib
import os
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from ratchetkeep.errors import DecodeError, UnsupportedVersion
from ratchetkeep.model import Key

__all__ = ["MODULUS", "PLAIN", "TAG", "Cipher", "NameCipher", "Sealed", "State", "padded"]

MAGIC = b"RS"
VERSION = 1
_HEADER = MAGIC + bytes([VERSION])
_NONCE = 12
TAG = 16
"""Bytes at the end of a sealed record that no other one ends with."""

MODULUS = 2**256
"""Of the sum that a state is."""
_STATE = struct.Struct(">32sQQ")
# Ids that are looked up again and again are not sealed again each time; a device.
_REMEMBERED = 256


class State(NamedTuple):
    """What a device holds, as far as one number can tell.

    :ivar total: the sum of its rows' hashes.
    :ivar rows: how many rows there are, with the credentials.
    :ivar commits: how many commits it has had.
    """

    total: int = 0
    rows: int = 0
    commits: int = 0

    def after(self, removed: Iterable[int], added: Iterable[int]) -> State:
        """The state when rows with these hashes went and came."""
        gone, new = list(removed), list(added)
        total = (self.total - sum(gone) + sum(new)) % MODULUS
        return State(total, self.rows - len(gone) + len(new), self.commits)


class Cipher(Protocol):
    """How a device's records are spelled in the rows of a store."""

    generation: int

    def row_id(self, key: Key) -> str:
        """The id of a record's row."""

    def key_of(self, family: str, row_id: str) -> Key:
        """The record that a row is of.

        :raises DecodeError: if it was not sealed for this device.
        """

    def seal(self, key: Key, data: bytes) -> bytes:
        """A record's bytes as its row holds them."""

    def open(self, key: Key, data: bytes) -> bytes:
        """The other way round.

        :raises DecodeError: if it is damaged, or another record's.
        :raises UnsupportedVersion: if a newer version sealed it.
        """

    def seal_text(self, text: str) -> str:
        """A text that stands beside the records, for its place."""

    def open_text(self, text: str) -> str:
        """The other way round; raises as :meth:`open`."""


class _Plain:
    """Rows hold records as they are."""

    generation = 0

    def row_id(self, key: Key) -> str:
        return key.id

    def key_of(self, family: str, row_id: str) -> Key:
        return Key(family, row_id)

    def seal(self, key: Key, data: bytes) -> bytes:
        return data

    open = seal

    def seal_text(self, text: str) -> str:
        return text

    open_text = seal_text


PLAIN: Cipher = _Plain()


class Sealed:
    """How the records of one device are sealed under one data key.

    :param data_key: 32 bytes.
    :param store: the store's random id, 16 bytes.
    :param generation: which of the store's data keys it is; from 1.
    :param device: the device's name.
    :param history: the device's history, as in :class:`ratchetkeep.stores.base.History`.
    """

    def __init__(
        self, data_key: bytes, store: bytes, generation: int, device: str, history: str
    ) -> None:
        self.generation = generation
        self._bound = _joined(
            b"ratchetkeep device", store, struct.pack(">I", generation), device, history
        )
        self._start = _HEADER + self._bound
        keys = _derived(data_key, self._bound, 160)
        self._records = _Aead(keys[:32], keys[128:])
        self._ids = AESSIV(keys[32:96])
        # Copied for every row: setting the key takes longer than hashing a row.
        self._sums = hashlib.blake2b(digest_size=32, key=keys[96:128])
        self._spelled = lru_cache(maxsize=_REMEMBERED)(self._spell)

    def _spell(self, key: Key) -> str:
        return _text(self._ids.encrypt(_filled(key.id.encode(), 32), [key.family.encode()]))

    def row_id(self, key: Key) -> str:
        """The id of a record's row."""
        return self._spelled(key)

    def key_of(self, family: str, row_id: str) -> Key:
        """The record that a row is of; raises DecodeError."""
        try:
            opened = self._ids.decrypt(_bytes(row_id), [family.encode()])
            return Key(family, _emptied(opened).decode())
        except (InvalidTag, ValueError):
            raise DecodeError("", "its id was not sealed for this device") from None

    def seal(self, key: Key, data: bytes) -> bytes:
        """A record's bytes as its row holds them."""
        return self._records.seal(_filled(data, _step(len(data) + 1)), self._place(key))

    def open(self, key: Key, data: bytes) -> bytes:
        """The other way round; raises DecodeError and UnsupportedVersion."""
        return _emptied(self._records.open(data, self._place(key)))

    def _place(self, key: Key) -> bytes:
        family, id = key
        place = f"{len(family)}:{len(id)}:{family}{id}".encode("utf-8", "surrogatepass")
        return self._start + place

    def hash_of(self, family: str, row_id: str, data: bytes) -> int:
        """What a row adds to the state's total.

        :param data: the row's bytes, or the last of them, :data:`TAG` in number.
        """
        hashed = self._sums.copy()
        # No sealed id holds a NUL, and the end has one length: no two rows give the same text.
        hashed.update(f"{row_id}\0{family}\0".encode() + data[-TAG:])
        return int.from_bytes(hashed.digest())

    def seal_state(self, state: State) -> bytes:
        """The state as it stands beside the device."""
        text = _STATE.pack(state.total.to_bytes(32), state.rows, state.commits)
        return self._records.seal(text, self._start)  # where no record is

    def open_state(self, data: bytes) -> State:
        """The other way round; raises as :meth:`open`."""
        total, rows, commits = _STATE.unpack(self._records.open(data, self._start))
        return State(int.from_bytes(total), rows, commits)

    def seal_text(self, text: str) -> str:
        """A text that stands beside the records: where the device was moved to."""
        return _text(self.seal(_BESIDE, text.encode()))

    def open_text(self, text: str) -> str:
        """The other way round; raises as :meth:`open`."""
        try:
            return self.open(_BESIDE, _bytes(text)).decode()
        except ValueError:
            raise DecodeError("", "is not what was sealed") from None


# No record has an empty family.
_BESIDE = Key("", "moved")


class NameCipher:
    """How the names of a store's devices are sealed under one data key; parameters as those of
    :class:`Sealed`."""

    def __init__(self, data_key: bytes, store: bytes, generation: int) -> None:
        bound = _joined(b"ratchetkeep names", store, struct.pack(">I", generation))
        self._names = AESSIV(_derived(data_key, bound, 64))

    def seal(self, name: str) -> str:
        """A name as it stands in the list of devices: the same each time."""
        return _text(self._names.encrypt(_filled(name.encode(), 32), None))

    def open(self, text: str) -> str:
        """The other way round; raises DecodeError."""
        try:
            return _emptied(self._names.decrypt(_bytes(text), None)).decode()
        except (InvalidTag, ValueError):
            raise DecodeError("", "is no device's name that was sealed with this key") from None


class _Aead:
    """AES-256-GCM, with nonces that depend on what is sealed as well."""

    def __init__(self, key: bytes, nonce_key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._nonces = hashlib.blake2b(digest_size=_NONCE, key=nonce_key)

    def seal(self, data: bytes, place: bytes) -> bytes:
        """Header, nonce, sealed bytes and tag; ``place`` is associated."""
        hashed = self._nonces.copy()
        # The place tells its own length.
        hashed.update(os.urandom(16) + place + data)
        nonce = hashed.digest()
        return _HEADER + nonce + self._cipher.encrypt(nonce, data, place)

    def open(self, data: bytes, place: bytes) -> bytes:
        """The other way round; raises DecodeError and UnsupportedVersion."""
        start = len(_HEADER) + _NONCE
        if len(data) < start + TAG or data[:2] != MAGIC:
            raise DecodeError("", "is not a sealed record, or is cut short")
        if data[2] < VERSION:
            raise DecodeError("", f"is sealed in format version {data[2]}, which there never was")
        if data[2] > VERSION:
            raise UnsupportedVersion("", f"is sealed in format version {data[2]}")
        try:
            return self._cipher.decrypt(data[len(_HEADER) : start], data[start:], place)
        except InvalidTag:
            what = "does not open: it was changed, or belongs to another record, device or store"
            raise DecodeError("", what) from None


def _derived(data_key: bytes, bound: bytes, length: int) -> bytes:
    return HKDFExpand(algorithm=SHA256(), length=length, info=bound).derive(data_key)


def _joined(start: bytes, *parts: str | bytes) -> bytes:
    """Parts with their lengths, so that no two lists of them look the same."""
    joined = [start]
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        joined += (len(data).to_bytes(4), data)
    return b"".join(joined)


def _step(size: int) -> int:
    """The step of sizes: 64 bytes up to 1 KiB, then an eighth of the power of two below."""
    return max(64, 1 << max(0, size.bit_length() - 4))


def padded(size: int) -> int:
    """How many bytes a record of ``size`` bytes is filled up to before it is sealed."""
    step = _step(size + 1)
    return -(-(size + 1) // step) * step


def _filled(data: bytes, step: int) -> bytes:
    """Filled up to a multiple of ``step``: one byte 0x80 and zeros (ISO/IEC 7816-4)."""
    return data + b"\x80" + bytes(-(len(data) + 1) % step)


def _emptied(data: bytes) -> bytes:
    text = data.rstrip(b"\0")
    if text[-1:] != b"\x80":
        raise DecodeError("", "is not filled up as a sealed record is")
    return text[:-1]


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).decode()


def _bytes(text: str) -> bytes:
    data = urlsafe_b64decode(text.encode())
    if _text(data) != text:  # the decoder takes other texts for the same bytes
        raise ValueError("not as we write it")
    return data
