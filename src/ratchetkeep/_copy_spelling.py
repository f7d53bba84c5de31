"""The target as a copy writes to it: which spelling each record has there, and which it had."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from ratchetkeep._copy_source import Source
from ratchetkeep.errors import DecodeError, InvalidValue, StoreDamaged
from ratchetkeep.formats import Encoded, native
from ratchetkeep.formats._shape import Losses
from ratchetkeep.model import Credentials, EncodedRecord, Key
from ratchetkeep.stores.base import Store

__all__ = ["Converted", "Spelled", "check_client"]

# The ratchets, which every library spells its own way.
RATCHETS = ("session", "sender-key")

# Who can go on with each kind of store that has a spelling of its own; its library comes first.
CLIENTS_OF = {
    "baileys": ("baileys", "waeys"),
    "baileys6": ("baileys",),
    "baileysex": ("baileysex",),
    "baileysex-json": ("baileysex",),
    "pyaileys": ("pyaileys",),
    "whatsmeow": ("whatsmeow",),
}

# Formats that differ in sender keys alone.
ALIKE = {"baileys", "baileys6"}


@dataclass(frozen=True)
class Converted:
    """Records of one family that have another spelling in the target.

    :ivar source: the format, or the encoding of an :class:`EncodedRecord`, that they had.
    :ivar target: the one that they get.
    """

    family: str
    count: int
    source: str
    target: str


def check_client(client: str | None, kind: str, store: Store) -> str | None:
    """The client whose spelling is to be made; None where the target settles that.

    :raises InvalidValue: for a client that we do not know, or one that cannot use the target.
    """
    if client is None:
        return None
    from ratchetkeep.formats import spellings  # only when asked for: it loads protobuf

    if client not in spellings.CLIENTS:
        known = ", ".join(spellings.CLIENTS)
        raise InvalidValue("client", f"{client!r} is no client we know", f"Name one of {known}")
    if store.format is native:
        return client
    able = CLIENTS_OF.get(kind, (kind,))
    if client not in able:
        what = f"{client} cannot use a target of the kind {kind}, which is {able[0]}'s own"
        raise InvalidValue("client", what, f"Leave it out, or copy to sqlite: for {client}")
    return None


class Spelled:
    """A target store that gets the records of a source in the spelling of ``client``.

    :param source: what is read, which has ``device`` open.
    :ivar counts: records by family, the spelling that they had and the one that they get.
    """

    def __init__(self, store: Store, source: Source, device: str, client: str | None) -> None:
        self.url = store.url
        self.format = store.format
        self.fits = store.fits
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self._store = store
        self._source, self._device = source, device
        self._client = client
        # By family and what is written. One record tells for all that are alike.
        self._known: dict[tuple[str, str], str] = {}

    def encode(self, key: Key, value: Any, credentials: Credentials | None) -> Encoded:
        """The record's bytes in the target, with what of it cannot be held.

        :raises StoreDamaged: if it has to be converted and is not what its spelling says.
        """
        try:
            return self._encode(key, value, credentials)
        except DecodeError as error:
            member = f"{error.place}: " if error.place else ""
            place = self._source.where(self._device, key)
            raise StoreDamaged(place, f"{member}{error.what}") from None

    def _encode(self, key: Key, value: Any, credentials: Credentials | None) -> Encoded:
        losses: tuple[Any, ...] = ()
        spelled = value
        if self._client is not None and key.family in RATCHETS:
            from ratchetkeep.formats import spellings

            noted = Losses()
            spelled = spellings.for_client(key, value, self._client, credentials, noted)
            losses = tuple(noted.found)
            if spelled is None:
                return Encoded(None, losses)
        made = self._store.encode(key, spelled, credentials)
        if made.data is not None:
            was = value.encoding if isinstance(value, EncodedRecord) else self._source.format.name
            self.counts[key.family, was, self._spelling(key, spelled, made.data)] += 1
        return Encoded(made.data, losses + made.losses) if losses else made

    def _spelling(self, key: Key, spelled: Any, data: bytes) -> str:
        given = spelled.encoding if isinstance(spelled, EncodedRecord) else ""
        known = self._known.get((key.family, given))
        if known is None:
            back = self.format.decode(key, data)
            known = back.encoding if isinstance(back, EncodedRecord) else self.format.name
            self._known[key.family, given] = known
        return known

    def converted(self) -> tuple[Converted, ...]:
        """The records that do not stay as they are."""
        return tuple(
            Converted(family, count, was, becomes)
            for (family, was, becomes), count in sorted(self.counts.items())
            if was != becomes and not ({was, becomes} == ALIKE and family != "sender-key")
        )
