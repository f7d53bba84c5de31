"""One conversation, in two halves: what happens before a device moves, and what must go on after.

The device that moves is "me". The others are Baileys 7 in memory and never move; each run of the
second half has them as they were at the end of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from .engines import Account, Engine, NodeDevice, NodeLibrary, Refused

ME = {"id": "4915550001111:5@s.whatsapp.net", "lid": "880000000001111:5@lid", "name": "Me"}
PN, LID = ME["id"], ME["lid"]
ACCOUNT: Account = {
    "details": b"\x08\x01\x10\x02\x18\x03",
    "accountSignatureKey": b"\5" * 32,
    "accountSignature": b"\6" * 64,
    "deviceSignature": b"\7" * 64,
}
JIDS = {
    "bob": "4915550002222:4@s.whatsapp.net",
    "carol": "880000000003333:7@lid",
    "dave": "4915550004444@s.whatsapp.net",
    "erin": "880000000005555:2@lid",
    "frank": "4915550006666:1@s.whatsapp.net",
}
GROUP, LID_GROUP = "120363041234500001@g.us", "120363041234500002@g.us"
I_AM = {GROUP: PN, LID_GROUP: LID}
"""Who I am in each group."""

IN_OPEN_CHAIN = "late messages of the open chain"
IN_OLDER_CHAIN = "a late message of an older chain"
END_OF_OLDER_CHAIN = "the unread end of an older chain"
OF_LID = "a late message from a LID"
READ_TWICE = "what was read before stays read"
TO_BOB, FROM_BOB = "the next messages to the other side", "the next messages from the other side"
WITH_LID = "the next messages to and from a LID"
PENDING = "a session that waits for its answer"
UNHEARD = "a session of which nobody has read anything"
OWN_LATE = "own messages that arrive late"
GROUP_LATE = "late messages of a group"
GROUP_FORMER = "late and next messages under an author's former sender key"
GROUP_LID = "late and next messages of an author with a LID"
GROUP_NEXT = "the next messages of a group"
GROUP_OWN = "own messages to a group"
GROUP_OWN_LID = "own messages to a group, as a LID"
NEW_SESSION = "a new session through a pre-key"
REOPENED = "messages after a restart"
GROUP_REOPENED = "messages of a group after a restart"
CLOSED = "a late message for a closed session"

STEPS = (
    IN_OPEN_CHAIN,
    IN_OLDER_CHAIN,
    END_OF_OLDER_CHAIN,
    OF_LID,
    READ_TWICE,
    TO_BOB,
    FROM_BOB,
    WITH_LID,
    OWN_LATE,
    PENDING,
    UNHEARD,
    GROUP_LATE,
    GROUP_FORMER,
    GROUP_LID,
    GROUP_NEXT,
    GROUP_OWN,
    GROUP_OWN_LID,
    NEW_SESSION,
    REOPENED,
    GROUP_REOPENED,
    # Last: libsignal 6.0.0 and its port in waeys spoil the open session with it.
    CLOSED,
)


class Message(NamedTuple):
    """A message to me, or from me; ``kind`` is ``skmsg`` in the group.

    :ivar other: who of the others wrote it, or is to read it.
    """

    other: str
    kind: str
    data: bytes
    text: bytes

    def read(self, me: Engine) -> None:
        """I read it, and it says what it must."""
        jid = JIDS[self.other]
        if self.kind == "skmsg":
            found = me.decrypt_group(GROUP, jid, self.data)
        else:
            found = me.decrypt(jid, self.kind, self.data)
        assert found == self.text, f"{self.text!r} reads differently"

    def refuse(self, me: Engine) -> None:
        """I was sent it before, and must not read it again."""
        try:
            self.read(me)
        except Refused:
            return
        raise AssertionError(f"{self.text!r} was read twice")


@dataclass
class Cast:
    """Those who stay where they are."""

    devices: dict[str, NodeDevice]
    count: int = 0

    @classmethod
    def fresh(cls, library: NodeLibrary) -> Cast:
        """New devices in memory."""
        made = {name: library.create(None, {"id": jid}, {}) for name, jid in JIDS.items()}
        return cls(made)

    def fork(self) -> Cast:
        """The same devices as they are now."""
        return Cast({name: device.fork() for name, device in self.devices.items()}, self.count)

    def close(self) -> None:
        """Forget them."""
        for device in self.devices.values():
            device.close()

    def _text(self, author: str) -> bytes:
        self.count += 1
        return f"{author} {self.count}".encode()

    def says(self, author: str, *, to: str = PN) -> Message:
        """A message to me that nobody has read."""
        text = self._text(author)
        kind, data = self.devices[author].encrypt(to, text)
        return Message(author, kind, data, text)

    def says_in_group(self, author: str) -> Message:
        """A message to the group that nobody has read."""
        text = self._text(author)
        data, _ = self.devices[author].encrypt_group(GROUP, JIDS[author], text)
        return Message(author, "skmsg", data, text)

    def gives_sender_key(self, author: str, me: Engine) -> Message:
        """I take in the author's sender key; returned is the first message under it, unread."""
        text = self._text(author)
        data, key = self.devices[author].encrypt_group(GROUP, JIDS[author], text)
        me.take_sender_key(GROUP, JIDS[author], key)
        return Message(author, "skmsg", data, text)

    def is_told(self, name: str, me: Engine) -> Message:
        """I say something to one of them, who has not read it yet."""
        text = self._text("me")
        kind, data = me.encrypt(JIDS[name], text)
        return Message(name, kind, data, text)

    def reads(self, message: Message, as_: str = PN) -> None:
        """One of them reads a message of mine."""
        found = self.devices[message.other].decrypt(as_, message.kind, message.data)
        assert found == message.text, f"{message.text!r} reads differently"

    def hears(self, name: str, me: Engine, *, as_: str = PN, kind: str = "msg") -> None:
        """I say something to one of them, who reads it."""
        message = self.is_told(name, me)
        assert message.kind == kind, f"my message is a {message.kind}"
        self.reads(message, as_)

    def hear_in_group(self, me: Engine, group: str = GROUP, *, is_first: bool = False) -> None:
        """I say something to a group; those who were given my sender key the first time read it."""
        text = self._text("me")
        data, key = me.encrypt_group(group, I_AM[group], text)
        for name in ("bob", "carol"):
            if is_first:
                self.devices[name].take_sender_key(group, I_AM[group], key)
            assert self.devices[name].decrypt_group(group, I_AM[group], data) == text


@dataclass
class History:
    """What the first half leaves: the others, and messages on their way by what they are."""

    cast: Cast
    late: dict[str, list[Message]] = field(default_factory=dict)
    own: dict[str, list[Message]] = field(default_factory=dict)
    was_read: list[Message] = field(default_factory=list)


def begin(me: Engine, cast: Cast) -> History:
    """The first half: every kind of state that a device can be in."""
    story = History(cast)
    _with_bob(me, cast, story)
    _with_carol(me, cast, story)
    me.begin(JIDS["dave"], cast.devices["dave"].bundle(1))
    cast.hears("dave", me, kind="pkmsg")
    story.late[PENDING] = [cast.says("dave")]
    me.begin(JIDS["frank"], cast.devices["frank"].bundle(1))
    story.own[UNHEARD] = [cast.is_told("frank", me)]
    _in_group(me, cast, story)
    return story


def _with_bob(me: Engine, cast: Cast, story: History) -> None:
    """A closed session, and an open one with keys of skipped messages in two chains."""
    bob = cast.devices["bob"]
    bob.begin(PN, me.bundle(1))
    cast.says("bob").read(me)
    cast.hears("bob", me)
    cast.says("bob").read(me)
    story.late[CLOSED] = [cast.says("bob")]
    bob.begin(PN, me.bundle(2), drop=True)
    cast.says("bob").read(me)
    cast.hears("bob", me)
    older = [cast.says("bob") for _ in range(4)]
    older[0].read(me)
    older[2].read(me)
    story.late[IN_OLDER_CHAIN] = [older[1]]
    story.late[END_OF_OLDER_CHAIN] = [older[3]]
    cast.hears("bob", me)
    newer = [cast.says("bob") for _ in range(3)]
    # They end a chain: bob learns how many there were from the next one's messages.
    story.own[OWN_LATE] = [cast.is_told("bob", me) for _ in range(2)]
    newer[2].read(me)
    story.late[IN_OPEN_CHAIN] = newer[:2]
    story.was_read += [older[2], newer[2]]


def _with_carol(me: Engine, cast: Cast, story: History) -> None:
    """A session that I began, with a LID."""
    me.begin(JIDS["carol"], cast.devices["carol"].bundle(1))
    cast.hears("carol", me, as_=LID, kind="pkmsg")
    cast.says("carol", to=LID).read(me)
    cast.hears("carol", me, as_=LID)
    late, read = cast.says("carol", to=LID), cast.says("carol", to=LID)
    read.read(me)
    story.late[OF_LID] = [late]


def _in_group(me: Engine, cast: Cast, story: History) -> None:
    """Sender keys of both sides, one author with two of them, and skipped messages under each."""

    def four_of(author: str) -> Iterator[Message]:
        first = cast.gives_sender_key(author, me)
        first.read(me)
        late, read, unread = (cast.says_in_group(author) for _ in range(3))
        read.read(me)
        yield from (late, unread, read)

    *story.late[GROUP_FORMER], _ = four_of("bob")
    cast.devices["bob"].drop_sender_key(GROUP, JIDS["bob"])
    late, unread, read = four_of("bob")
    story.late[GROUP_LATE], story.late[GROUP_NEXT] = [late], [unread]
    story.was_read.append(read)
    *story.late[GROUP_LID], _ = four_of("carol")
    for group in I_AM:
        cast.hear_in_group(me, group, is_first=True)
        cast.hear_in_group(me, group)


Verb = Callable[[Engine, Cast, History], None]


def _late(name: str) -> Verb:
    def read(me: Engine, cast: Cast, story: History) -> None:
        for message in story.late[name]:
            message.read(me)

    return read


def _read_twice(me: Engine, cast: Cast, story: History) -> None:
    for message in story.was_read:
        message.refuse(me)


def _to_bob(me: Engine, cast: Cast, story: History) -> None:
    for _ in range(2):
        cast.hears("bob", me)


def _own_late(me: Engine, cast: Cast, story: History) -> None:
    for message in story.own[OWN_LATE]:
        cast.reads(message)


def _unheard(me: Engine, cast: Cast, story: History) -> None:
    """The later message comes first, so that it must say all that the first one says."""
    cast.hears("frank", me, kind="pkmsg")
    for message in story.own[UNHEARD]:
        cast.reads(message)
    cast.says("frank").read(me)
    cast.hears("frank", me)


def _from_bob(me: Engine, cast: Cast, story: History) -> None:
    """By turns, so that each side steps its ratchet, and one out of order."""
    for _ in range(2):
        first, second = cast.says("bob"), cast.says("bob")
        second.read(me)
        cast.hears("bob", me)
        cast.says("bob").read(me)
        first.read(me)
        first.refuse(me)


def _with_lid(me: Engine, cast: Cast, story: History) -> None:
    for _ in range(2):
        cast.hears("carol", me, as_=LID)
        cast.says("carol", to=LID).read(me)


def _pending(me: Engine, cast: Cast, story: History) -> None:
    cast.hears("dave", me, kind="pkmsg")
    _late(PENDING)(me, cast, story)
    cast.hears("dave", me)
    cast.says("dave").read(me)


def _own(group: str) -> Verb:
    return lambda me, cast, story: cast.hear_in_group(me, group)


def _new_session(me: Engine, cast: Cast, story: History) -> None:
    cast.devices["erin"].begin(LID, me.bundle(3))
    cast.says("erin", to=LID).read(me)
    assert not me.has_pre_key(3), "the pre-key was not used up"
    cast.hears("erin", me, as_=LID)
    cast.says("erin", to=LID).read(me)


def _again(me: Engine, cast: Cast, story: History) -> None:
    cast.hears("bob", me)
    cast.says("bob").read(me)
    cast.hears("dave", me)
    cast.says("dave").read(me)
    cast.hears("erin", me, as_=LID)


def _group_again(me: Engine, cast: Cast, story: History) -> None:
    cast.says_in_group("bob").read(me)
    cast.hear_in_group(me)


VERBS: dict[str, Verb] = {
    IN_OPEN_CHAIN: _late(IN_OPEN_CHAIN),
    IN_OLDER_CHAIN: _late(IN_OLDER_CHAIN),
    END_OF_OLDER_CHAIN: _late(END_OF_OLDER_CHAIN),
    OF_LID: _late(OF_LID),
    READ_TWICE: _read_twice,
    TO_BOB: _to_bob,
    FROM_BOB: _from_bob,
    WITH_LID: _with_lid,
    OWN_LATE: _own_late,
    PENDING: _pending,
    UNHEARD: _unheard,
    GROUP_LATE: _late(GROUP_LATE),
    GROUP_FORMER: _late(GROUP_FORMER),
    GROUP_LID: _late(GROUP_LID),
    GROUP_NEXT: _late(GROUP_NEXT),
    GROUP_OWN: _own(GROUP),
    GROUP_OWN_LID: _own(LID_GROUP),
    NEW_SESSION: _new_session,
    REOPENED: _again,
    GROUP_REOPENED: _group_again,
    CLOSED: _late(CLOSED),
}


def go_on(open_me: Callable[[], Engine], story: History) -> dict[str, str]:
    """The second half: each step that failed, and how. The history is left as it is."""
    cast = story.cast.fork()
    failed = {}
    me = open_me()
    try:
        for step in STEPS:
            if step == REOPENED:
                me.close()
                me = open_me()
            try:
                VERBS[step](me, cast, story)
            except (Refused, AssertionError) as error:
                failed[step] = f"{type(error).__name__}: {error}"
    finally:
        me.close()
        cast.close()
    return failed
