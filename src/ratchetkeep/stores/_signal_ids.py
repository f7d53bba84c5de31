"""The Signal addresses in the ids of records, and what tells a LID from a phone number.

Baileys 6 knows an address by its user and device. That its user is a LID, or the device a hosted
one, is the address's agent, which Baileys 7 and the model keep in the id (``user_agent.device``).
"""

from __future__ import annotations

from collections.abc import Iterable

from ratchetkeep.formats._addresses import Address, Jid
from ratchetkeep.model import Credentials, Key

__all__ = ["ADDRESSED", "LID", "PHONE", "Users", "address_of", "with_agent"]

ADDRESSED = ("session", "sender-key")
"""The families whose ids hold an address that Baileys 6 looks for."""

PHONE, LID, HOSTED, HOSTED_LID = 0, 1, 128, 129
_AGENTS = {PHONE, LID, HOSTED, HOSTED_LID}
_LID_SERVERS = {"lid", "hosted.lid"}


def address_of(key: Key) -> Address | None:
    """The address in the id of a session or a sender key; None if there is none, or one whose agent
    nobody gives out."""
    text = key.id
    if key.family == "sender-key":
        text, _, device = text.rpartition("::")
        text = f"{text.rpartition('::')[2]}.{device}"
    elif key.family != "session":
        return None
    address = Address.from_node(text)
    return address if address and address.agent in _AGENTS else None


def with_agent(key: Key, agent: int) -> Key:
    """The key with another agent in its address; the key itself if it has no address."""
    address = address_of(key)
    if address is None or address.agent == agent:
        return key
    address = address._replace(agent=agent)
    if key.family == "session":
        return Key(key.family, address.node)
    group = key.id.rpartition("::")[0].rpartition("::")[0]
    return Key(key.family, f"{group}::{address.name}::{address.device}")


class Users:
    """The users of whom something tells whether they are LIDs or phone numbers.

    :ivar lids: those who are LIDs, whatever else is said of them.
    """

    def __init__(self) -> None:
        self.lids: set[str] = set()
        self.phones: set[str] = set()

    def are_told(self, user: str) -> bool:
        """True if it is known what the user is."""
        return user in self.lids or user in self.phones

    def add(self, user: str, *, is_lid: bool) -> None:
        """Take in a user."""
        (self.lids if is_lid else self.phones).add(user)

    def add_address(self, address: Address | None) -> None:
        """Take in an address whose agent can be relied on."""
        if address is not None:
            self.add(address.user, is_lid=address.agent in (LID, HOSTED_LID))

    def add_jids(self, jids: Iterable[str | None]) -> None:
        """Take in whoever has a JID of a LID or of a phone number."""
        for text in jids:
            jid = Jid.from_node(text) if text else None
            if jid is None:
                continue
            if jid.server in _LID_SERVERS:
                self.add(jid.user, is_lid=True)
            elif jid.server in ("s.whatsapp.net", "hosted"):
                self.add(jid.user, is_lid=False)

    def add_key(self, key: Key) -> None:
        """Take in what the id of a record says, of a family that Baileys 6 does not write."""
        if key.family == "lid-mapping":
            self.add(key.id.removesuffix("_reverse"), is_lid=key.id.endswith("_reverse"))
        elif key.family == "identity-key":
            self.add_address(Address.from_node(key.id))
        elif key.family == "tctoken":
            self.add_jids([key.id])

    def add_credentials(self, credentials: Credentials) -> None:
        """Take in the JIDs in the credentials: the device's own, and those of old messages."""
        if credentials.me is not None:
            self.add_jids([credentials.me.id, credentials.me.lid])
        self.add_jids(each.identifier.name for each in credentials.signal_identities or ())
        for message in credentials.processed_history_messages:
            key = message.key
            self.add_jids([key.remote_jid, key.remote_jid_alt])
            self.add_jids([key.participant, key.participant_alt])
