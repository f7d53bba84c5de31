"""What pruning may take away: the knobs, what each is there for, and how low it can be turned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ratchetkeep.errors import InvalidValue

__all__ = [
    "CHAINS",
    "CLOSED_SESSIONS",
    "DEVICE_LISTS",
    "KINDS",
    "MESSAGE_KEYS",
    "PRE_KEYS",
    "SENDER_KEY_STATES",
    "SENDER_MESSAGE_KEYS",
    "TCTOKENS",
    "PrunePolicy",
]

CLOSED_SESSIONS = "closed sessions"
MESSAGE_KEYS = "skipped message keys"
CHAINS = "ended receiving chains"
SENDER_KEY_STATES = "sender-key states"
SENDER_MESSAGE_KEYS = "sender-key message keys"
DEVICE_LISTS = "device lists"
TCTOKENS = "tctokens"
PRE_KEYS = "pre-keys"
KINDS = (
    CLOSED_SESSIONS,
    MESSAGE_KEYS,
    CHAINS,
    SENDER_KEY_STATES,
    SENDER_MESSAGE_KEYS,
    DEVICE_LISTS,
    TCTOKENS,
    PRE_KEYS,
)
"""All that is pruned, in the order of the reports."""

# Below these, what a live conversation needs would go.
_LEAST = {
    "closed_sessions": 0,
    "message_keys": 0,
    "receiving_chains": 5,
    "sender_key_states": 1,
    "sender_message_keys": 0,
    "tctoken_days": 28,
    "pre_keys": 812,
}


@dataclass(frozen=True)
class PrunePolicy:
    """How much of each kind is kept. None switches a knob off: nothing of that kind goes.

    The defaults take what is of no use to a conversation that is going on, as far as the engines
    tell; for what comes very late, three of them take what an engine could still have used. See
    ``message_keys``, ``receiving_chains`` and ``pre_keys``. Facts found in npm ``libsignal`` 6.0.0
    and ``baileys`` 7.0.0-rc14, pyaileys 0.1.5 and waeys 0.1.3.

    :ivar closed_sessions: the newest closed sessions of each session record, by when they were
        closed; the open one does not count, and the newest of a record never goes. They read
        messages that the other side sent before it knew of the new session. 40 is what every
        engine keeps itself, so that with it nothing goes that one would still have; what is above
        it comes from programs that do not count.
    :ivar message_keys: keys of skipped messages in each chain, the highest numbers; each reads
        one message that has not arrived. 2000 is what libsignal keeps of a chain, and how far
        ahead any engine lets a message be. libsignal-node keeps them all: it could still have read
        a message that is late by more than 2000 in its chain, and has to ask for it again then.
    :ivar receiving_chains: the newest receiving chains of each session that are kept whatever is in
        them. Of those before them an ended chain goes if it holds no key at all: it can read
        nothing more. libsignal-node adds one at every turn of a conversation and removes none. It
        uses such a chain for one thing still: to tell a message that came twice from one that
        cannot be read. Without it, one that comes again after a hundred turns is asked for again
        instead of dropped. libsignal keeps 5 chains; 100 is twenty times that. 5 is the least. A
        chain with a key in it stays at any age.
    :ivar sender_key_states: the newest sender keys of each sender in each group. 5 is what every
        engine keeps; 1 is the least.
    :ivar sender_message_keys: keys of skipped group messages in each of these, the highest numbers.
        2000 is what every engine keeps.
    :ivar device_lists: ``"unused"``: lists of users of whom nothing else is kept: no session and no
        sender key of any of their devices, and no mention in a sender-key memory, neither by
        phone number nor by LID, and not the account itself. A list is a copy of what the server
        knows. Baileys and waeys write it when they have asked, and read it only to find the
        sessions that move from a phone number to a LID; there are none then.
    :ivar tctoken_days: tokens of trusted contacts younger than this, in days since the times in the
        record. Baileys, waeys and WhatsApp's own web client take one as run out after 21 to 28
        days, the fourth turn of a week, and neither send it nor look at it again. A token stays if
        its record has no time. 28 is the least.
    :ivar pre_keys: the newest one-time pre-keys that were uploaded and have not been asked for, by
        the circle of ids. The server has at most as many as a client uploads at a time: 812
        (Baileys, waeys; 30 and 50 elsewhere), and a few. Messages that begin a session can wait
        there while the device is away, and arrive after the next upload: 812 more. 3248 is twice
        that, for those who keep a key for long. This takes it that the server does not give out
        the newest ones first, which nothing here shows: of a server that does, older ones may be
        there still, and the first to get one of them writes a message that cannot be read. Should
        a message with a key that is gone come, a client that sends retry receipts asks for it
        again, with a new key. 812 is the least.
    :raises InvalidValue: for a knob that is no number, or below what conversations need.
    """

    closed_sessions: int | None = 40
    message_keys: int | None = 2000
    receiving_chains: int | None = 100
    sender_key_states: int | None = 5
    sender_message_keys: int | None = 2000
    device_lists: Literal["unused"] | None = "unused"
    tctoken_days: int | None = 28
    pre_keys: int | None = 4 * 812

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                what = f"expected a number from {least} on, or None to keep everything"
                raise InvalidValue(f"PrunePolicy.{name}", what)
        if self.device_lists not in ("unused", None):
            what = "expected 'unused', or None to keep everything"
            raise InvalidValue("PrunePolicy.device_lists", what)

    @property
    def prunes_sessions(self) -> bool:
        """True if anything may go from session records."""
        return not (self.closed_sessions is self.message_keys is self.receiving_chains is None)

    @property
    def prunes_sender_keys(self) -> bool:
        """True if anything may go from sender-key records."""
        return not (self.sender_key_states is self.sender_message_keys is None)
