"""Signal addresses, sender-key names and JIDs, in Baileys' spelling and in whatsmeow's.

The ids of the model's records are Baileys': a session or identity is kept under ``name.device``, a
sender key under ``group::name::device``. whatsmeow keeps ``name:device`` in one column, and the
group and the sender in two. The name is the same in both: the user, with ``_agent`` after it where
the user is not of the main domain.

A JID is ``user_agent:device@server`` in Baileys and ``user.agent:device@server`` in whatsmeow. Both
leave out an agent of 0, one that follows from the server, and a device of 0.

All functions are total: what the other side has no spelling for gives None, so that the caller can
say so. What they give reads back as what they were given.

Sources: npm ``baileys`` 7.0.0-rc14 and whatsmeow's ``types`` package, by running them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = [
    "Address",
    "Jid",
    "from_whatsmeow_address",
    "from_whatsmeow_jid",
    "mapping_key",
    "mapping_of",
    "sender_key_id",
    "sender_key_parts",
    "to_whatsmeow_address",
    "to_whatsmeow_jid",
]

# The agents that stand for a server; in a JID of that server they are not written.
_AGENT_OF = {"s.whatsapp.net": 0, "lid": 1, "hosted": 128, "hosted.lid": 129}

# whatsmeow reads devices as 16 bits in a JID, and as 32 bits in an address.
_MAX_AGENT, _MAX_JID_DEVICE, _MAX_DEVICE = 2**8 - 1, 2**16 - 1, 2**32 - 1

_NUMBER = r"(?:0|[1-9][0-9]{0,9})"
# No mark that separates parts in either spelling may stand in a name, nor what no column can hold.
_NAME = r"[^\s.:@/\x00\ud800-\udfff]+"
_USER = r"[^\s.:@/_\x00\ud800-\udfff]+"
_NODE_ADDRESS = re.compile(rf"({_NAME})\.({_NUMBER})")
_GO_ADDRESS = re.compile(rf"({_NAME}):({_NUMBER})")
_AGENT = re.compile(r"(.+)_([1-9][0-9]{0,2})")
_SERVER = r"([a-z0-9][a-z0-9.\-]*)"
_NODE_JID = re.compile(rf"({_USER})(?:_({_NUMBER}))?(?::({_NUMBER}))?@{_SERVER}")
_GO_JID = re.compile(rf"({_USER})(?:\.({_NUMBER}))?(?::({_NUMBER}))?@{_SERVER}")
_REVERSE = "_reverse"


class Address(NamedTuple):
    """A Signal address.

    :ivar user: the user part of the JID.
    :ivar agent: the domain: 0 phone number, 1 LID, 128 hosted, 129 hosted LID.
    :ivar device: 0 is the phone itself.
    """

    user: str
    agent: int
    device: int

    @property
    def name(self) -> str:
        """The address's name: ``user`` or ``user_agent``."""
        return f"{self.user}_{self.agent}" if self.agent else self.user

    @property
    def node(self) -> str:
        """Baileys' spelling, ``name.device``."""
        return f"{self.name}.{self.device}"

    @property
    def go(self) -> str:
        """whatsmeow's spelling, ``name:device``."""
        return f"{self.name}:{self.device}"

    @classmethod
    def from_node(cls, text: str) -> Address | None:
        """The address of the id of a session or an identity key."""
        return cls._from(_NODE_ADDRESS.fullmatch(text))

    @classmethod
    def from_go(cls, text: str) -> Address | None:
        """The address in a column of whatsmeow's."""
        return cls._from(_GO_ADDRESS.fullmatch(text))

    @classmethod
    def _from(cls, found: re.Match[str] | None) -> Address | None:
        if found is None or int(found[2]) > _MAX_DEVICE:
            return None
        marked = _AGENT.fullmatch(found[1])
        if marked is None or int(marked[2]) > _MAX_AGENT:
            return cls(found[1], 0, int(found[2]))
        return cls(marked[1], int(marked[2]), int(found[2]))


class Jid(NamedTuple):
    """A JID of a user or of one of a user's devices.

    :ivar agent: as written: 0 where the server says it.
    """

    user: str
    agent: int
    device: int
    server: str

    @property
    def node(self) -> str:
        """Baileys' spelling."""
        return self._spelled("_", f":{self.device}" if self.device else "")

    @property
    def go(self) -> str:
        """whatsmeow's spelling, which writes the device wherever it writes an agent."""
        return self._spelled(".", f":{self.device}" if self.device or self.agent else "")

    @property
    def bare(self) -> Jid:
        """The user's JID, without agent and device."""
        return Jid(self.user, 0, 0, self.server)

    def _spelled(self, mark: str, device: str) -> str:
        agent = f"{mark}{self.agent}" if self.agent else ""
        return f"{self.user}{agent}{device}@{self.server}"

    @classmethod
    def from_node(cls, text: str) -> Jid | None:
        """The JID in credentials and ids of Baileys."""
        return cls._from(_NODE_JID.fullmatch(text))

    @classmethod
    def from_go(cls, text: str) -> Jid | None:
        """The JID in a column of whatsmeow's."""
        return cls._from(_GO_JID.fullmatch(text))

    @classmethod
    def _from(cls, found: re.Match[str] | None) -> Jid | None:
        if found is None:
            return None
        agent, device, server = int(found[2] or 0), int(found[3] or 0), found[4]
        if agent > _MAX_AGENT or device > _MAX_JID_DEVICE:
            return None
        return cls(found[1], 0 if agent == _AGENT_OF.get(server) else agent, device, server)


def to_whatsmeow_address(id: str) -> str | None:
    """``their_id`` of a session or an identity key; None if whatsmeow has no such address."""
    address = Address.from_node(id)
    return address and address.go


def from_whatsmeow_address(text: str) -> str | None:
    """The id of a session or an identity key; None if ``text`` is no address."""
    address = Address.from_go(text)
    return address and address.node


def sender_key_parts(id: str) -> tuple[str, str] | None:
    """``chat_id`` and ``sender_id`` of a sender key; None if ``id`` does not name both."""
    group, _, rest = id.rpartition("::")[0].rpartition("::")
    address = Address.from_node(f"{rest}.{id.rpartition('::')[2]}")
    return (group, address.go) if group and address else None


def sender_key_id(group: str, sender: str) -> str | None:
    """The id of the sender key of the columns ``chat_id`` and ``sender_id``."""
    address = Address.from_go(sender)
    return f"{group}::{address.name}::{address.device}" if group and address else None


def to_whatsmeow_jid(id: str) -> str | None:
    """whatsmeow's spelling of a user's or device's JID in Baileys'."""
    jid = Jid.from_node(id)
    return jid and jid.go


def from_whatsmeow_jid(text: str) -> str | None:
    """Baileys' spelling of a user's or device's JID in whatsmeow's."""
    jid = Jid.from_go(text)
    return jid and jid.node


def mapping_of(id: str, other: str) -> tuple[str, str] | None:
    """The LID and the phone number (users, without server) that a ``lid-mapping`` record pairs.

    :param id: of the record: ``pn``, or ``lid_reverse``.
    :param other: its value: the LID, or the phone number.
    :return: (lid, pn), or None if one of them is no user part.
    """
    lid, pn = (id.removesuffix(_REVERSE), other) if id.endswith(_REVERSE) else (other, id)
    return (lid, pn) if all(map(_is_user, (lid, pn))) else None


def mapping_key(*, lid: str = "", pn: str = "") -> str:
    """The id of the ``lid-mapping`` record by phone number, or by LID."""
    return pn or f"{lid}{_REVERSE}"


def _is_user(text: str) -> bool:
    return re.fullmatch(_NAME, text) is not None and not text.endswith(_REVERSE)
