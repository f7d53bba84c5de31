"""A device's records as one that goes on cold: what an older state must not use again is gone.

An older state that goes on as if nothing had happened since gives message keys to two messages,
answers first messages with pre-keys that are used up, and every contact finds a "Bad MAC". Cold
means that the client makes anew whatever moves with a message, and keeps what the link is made of.

**Kept**

* the credentials, but for the two pre-key counters, and app state keys and versions: the client
  asks for the patches that it lacks;
* lid mappings, device lists, tctokens and identity keys: what others said, perhaps since outdated.
  The client refreshes them as it does any day;
* sender keys of others. They only read. Their chains may be behind: a chain turns forward as far
  as the next message says, within the limit of the protocol (2,000 messages in libsignal, 25,000 in
  some). Nothing is ever sent on them, so that no key serves twice; but a message that was read
  between the backup and the loss would be read again, if it came again. If the sender has changed
  its key since, its next message names one that is not here: a client that sends retry receipts
  asks for it again.

**Dropped**

* all sessions: the sending chain of an older one gives its message keys out a second time;
* sender keys of our own, for the same reason, and the whole sender-key-memory: a client that finds
  a group's member in there would not hand out the new sender key;
* all pre-keys: those on the server may have been asked for since, and those that waited may have
  been uploaded and asked for. The counters move far ahead (:mod:`._cold_ids`), and nothing waits.

**Counters that stay**, and why that is safe

* ``signed_pre_key``: it is on the server, which hands it out for any number of sessions; without
  it nobody could write a first message. If the client has changed it since, the server's is lost,
  and first messages cannot be read until the client uploads keys again, which brings this one
  along (read in the code of Baileys, pyaileys and waeys). The next one may get an id that the lost
  one had.
* ``account_sync_counter``, ``processed_history_messages``, ``last_account_sync_timestamp``,
  ``last_prop_hash``: what the client has got already. Older, it fetches something twice.
* ``my_app_state_key_id``: an older key of the account still reads and writes patches.
* ``routing_info``: a hint; the server gives a new one with each connection.
* ``registration_id``, ``adv_secret_key``, ``noise_key``: they never change. Each connection makes a
  key of its own for the handshake.

**What each client does then.** How Baileys 7.0.0-rc14, pyaileys 0.1.5 and waeys 0.1.3 make
pre-keys, sessions and sender keys after a cold restore was run: their own functions, on restored
devices, in conversations (``tests/test_rewind_cold.py``). When they upload, and what they do after
a login, was read in their code: no test has a real server. Of whatsmeow nothing was run after a
restore, and its code was not read: only the tables are known that it makes (neonize 0.5.2).

* Baileys (``getNextPreKeys``) counts on from ``nextPreKeyId``, makes as many as it is to upload if
  nothing waits, and never begins again at 1. After the login, as its code reads, it looks whether
  the key before ``nextPreKeyId`` is there; it is not, and so it uploads.
* pyaileys counts on from ``next_pre_key_id``, and, as its code reads, uploads after the login if
  the server has ten or fewer left. Until then contacts get old ones from the server.
* waeys makes them as Baileys does; as its code reads, if the server has five or more left it asks
  itself for none and uploads an empty list, so that new ones come when the server says that few are
  left, or with the second time that it asks for a message.
* whatsmeow's tables have no counter. So there a new pre-key that nobody ever gets holds the place
  before the first one (:func:`placeholder`), for a client that counts on from the highest id. Our
  own code does; that whatsmeow does, and when it uploads, is not shown here.

The server still hands out old ones, where the client does not replace them: a contact's first
message with one of these cannot be read. A client that sends retry receipts asks for it again, with
a new key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from ratchetkeep._cold_ids import cold_start
from ratchetkeep.errors import DecodeError
from ratchetkeep.formats import spellings
from ratchetkeep.formats._addresses import Address, Jid
from ratchetkeep.model import CREDENTIALS, Credentials, Key, KeyPair, SenderKeyRecord
from ratchetkeep.prekeys import MAX_PRE_KEY_ID

__all__ = ["REASONS", "Cold", "cooled", "known_ids", "placeholder"]

REASONS: Mapping[str, str] = {
    "session": "an older one would use message keys twice; the client makes new ones",
    "sender-key": "our own, which would use message keys twice; the client makes new ones",
    "sender-key-memory": "with it the client would not hand its new sender keys out",
    "pre-key": "they may be used up since; the client makes new ones",
}
"""The families of which something is dropped, and why."""


class Cold:
    """What of one device goes on.

    :param credentials: the device's.
    :param ids: of pre-keys that were given out, and counters, as :func:`known_ids` gives them; also
        those of a later state of the device, where one is known.
    :ivar credentials: as they go on.
    :ivar kept: how many records stay, by family, without the credentials.
    :ivar dropped: how many are dropped, by family.
    """

    def __init__(self, credentials: Credentials, ids: Iterable[int]) -> None:
        own = known_ids(credentials, ())
        self.next_id = cold_start([*own, *ids])
        self.credentials = credentials.replace(
            next_pre_key_id=self.next_id, first_unuploaded_pre_key_id=self.next_id
        )
        self.kept: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self._names = _names_of(credentials)

    def keeps(self, key: Key, read: Callable[[], Any]) -> bool:
        """Whether a record, other than the credentials, goes on; it is counted.

        :param read: gives its value; called only where that matters.
        """
        is_kept = self._keeps(key, read)
        (self.kept if is_kept else self.dropped)[key.family] += 1
        return is_kept

    def _keeps(self, key: Key, read: Callable[[], Any]) -> bool:
        if key.family == "sender-key":
            return not (self._names_us(key.id) or _may_sign(key, read()))
        return key.family not in REASONS

    def _names_us(self, id: str) -> bool:
        """Whether a sender key's id, ``group::name::device``, names this very device."""
        _, *sender = id.rsplit("::", 2)
        address = Address.from_node(".".join(sender))
        return address is not None and (address.user, address.device) in self._names


def cooled(records: Mapping[Key, Any], ids: Iterable[int] = ()) -> dict[Key, Any]:
    """All records of a device, the credentials too, as those of one that goes on cold.

    :param records: values of the model by key.
    :param ids: as for :class:`Cold`; those of ``records`` are known anyway.
    """
    credentials: Credentials = records[CREDENTIALS]
    cold = Cold(credentials, [*known_ids(credentials, records), *ids])
    kept = {
        key: value
        for key, value in records.items()
        if key != CREDENTIALS and cold.keeps(key, partial(_same, value))
    }
    return {CREDENTIALS: cold.credentials, **kept}


def known_ids(credentials: Credentials, keys: Iterable[Key]) -> list[int]:
    """The counters of a device, and the ids of its pre-keys."""
    numbers = (int(key.id) for key in keys if key.family == "pre-key")
    # What has no room on the wire was never given out.
    held = (number for number in numbers if 0 < number <= MAX_PRE_KEY_ID + 1)
    counters = (credentials.next_pre_key_id, credentials.first_unuploaded_pre_key_id)
    return [*counters, *held]


def _same(value: Any) -> Any:
    return value


def placeholder(credentials: Credentials) -> tuple[Key, KeyPair]:
    """A new pre-key with the id before ``next_pre_key_id``, for a store that counts on from the
    highest id. It counts as uploaded, though nobody has it: it is not uploaded, and not asked for.
    """
    id = (credentials.next_pre_key_id - 2) % MAX_PRE_KEY_ID + 1
    return Key("pre-key", str(id)), KeyPair.new()


def _names_of(credentials: Credentials) -> set[tuple[str, int]]:
    """The users that the device speaks as, each with the device's number."""
    me = credentials.me
    jids = [Jid.from_node(text) for text in (me.id, me.lid) if text] if me else []
    found = [jid for jid in jids if jid is not None]
    # Some write the LID of the user alone; the number is the same for both names.
    number = next((jid.device for jid in found if jid.device), 0)
    return {(jid.user, jid.device or number) for jid in found}


def _may_sign(key: Key, value: Any) -> bool:
    """Whether a sender key is, or may be, one that we send with: it has a private signing key. One
    in a spelling that nobody reads here may have one; a lost one of others is sent again."""
    try:
        record = spellings.to_model(key, value)
    except DecodeError:
        return True
    if type(record) is not SenderKeyRecord:
        return True
    privates = (state.sender_signing_key.private for state in record.states)
    return any(private is not None and any(private) for private in privates)
