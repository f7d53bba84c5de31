"""One device of ours and its peers: a conversation, a backup, more conversation, a loss, and on.

Peers are of both kinds of engine. New ones come all the time, each with one of our pre-keys; groups
are of both kinds, and sometimes a member changes its sender key.
"""

from __future__ import annotations

import itertools
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .engines import Engine, Me
from .exchange import Exchange, Group
from .member import Member, Refusal

US = "we"
GROUPS = (Group("120363041234567890@g.us", False), Group("120363049876543210@g.us", True))
MOST_IN_GROUPS = 5
MOST_STEPS = 20_000

Maker = Callable[[], Engine]

# waeys keeps one lock per address for the whole process, bound to the event loop that first waited
# for it. So no two stories use one address.
_numbers = itertools.count(15550200001)


@dataclass(frozen=True)
class Figures:
    """What happened since a mark.

    :ivar message_keys: how many messages were made with a key that another one was made with.
    :ivar ids: how many pre-keys were made with an id that another one has.
    :ivar stock: how many used-up pre-keys were in the store again.
    :ivar sessions: how many sessions were begun with a pre-key that another one was begun with.
    :ivar refusals: how many parts of messages could not be read.
    :ivar receipts: how many retry receipts were sent.
    :ivar lost: how many texts have not come out.
    """

    message_keys: int
    ids: int
    stock: int
    sessions: int
    refusals: int
    receipts: int
    lost: int

    @property
    def is_harmless(self) -> bool:
        """Nothing was used twice, and nothing is lost; asking again is no harm."""
        return not (self.message_keys or self.ids or self.stock or self.sessions or self.lost)


class Story:
    """The members and their server; ``make`` makes engines, ours first."""

    def __init__(self, folder: Path, rng: random.Random, us: Maker, peers: list[Maker]) -> None:
        self.folder = folder
        self.rng = rng
        self.exchange = Exchange()
        self.members: dict[str, Member] = {}
        self._peers = itertools.cycle(peers)
        self._texts = itertools.count(1)
        self._saved = itertools.count(1)
        self.us = self._add(US, us())

    def _add(self, name: str, engine: Engine) -> Member:
        number = next(_numbers)
        me = Me(f"{number}:3@s.whatsapp.net", f"99{number}:3@lid")
        member = Member(name, engine, me, self.folder / name, self.exchange)
        self.members[name] = member
        return member

    # -- the course

    async def begin(self, peers: int = 2) -> None:
        """We and a few peers; all have heard each other, and are in the groups."""
        await self.us.open()
        for _ in range(peers):
            await self.newcomer()
        for group in GROUPS:
            for name in self._in_groups():
                await self.say_to_group(name, group)
        await self.settle()

    async def newcomer(self) -> Member:
        """A new peer writes to us, with a pre-key of ours that the server gave it, and to everyone
        who is in the groups with it; later ones are in no group. All who are online hear it before
        they write to it: pyaileys keeps one session with a peer, and two that begin with each other
        at the same time ask again."""
        others = self._in_groups()
        member = self.add_peer()
        member.is_in_groups = len(others) < MOST_IN_GROUPS
        await member.open()
        for name in others if member.is_in_groups else [US]:
            await self.say(member.name, name)
        await self.settle()
        return member

    def add_peer(self) -> Member:
        """One more peer, who is not there yet."""
        return self._add(f"peer {len(self.members)}", next(self._peers)())

    def _in_groups(self) -> list[str]:
        return [name for name, member in self.members.items() if member.is_in_groups]

    async def say(self, sender: str, recipient: str) -> str:
        """One message to one device; its id."""
        return await self.members[sender].tell(recipient, self._text())

    async def say_to_group(self, sender: str, group: Group) -> str:
        """One message to a group; its id."""
        others = [name for name in self._in_groups() if name != sender]
        return await self.members[sender].tell_group(group, others, self._text())

    def _text(self) -> str:
        return f"text {next(self._texts)}"

    async def talk(self, messages: int) -> None:
        """So many messages of those who are online, most of them to or from us; what is on its way
        arrives now and then, and some of it is still on its way in the end."""
        for _ in range(messages):
            online = [name for name, member in self.members.items() if member.is_online]
            sender = self.rng.choice(online)
            if self.members[sender].is_in_groups and self.rng.random() < 0.3:
                await self.say_to_group(sender, self.rng.choice(GROUPS))
            elif sender == US:
                await self.say(US, self.rng.choice([name for name in self.members if name != US]))
            else:
                await self.say(sender, US)
            for _ in range(self.rng.randrange(4)):
                await self.step()

    async def live(self, messages: int) -> None:
        """All that happens to a device in a while: talk, a new peer, a new sender key, and new
        pre-keys."""
        await self.talk(messages // 2)
        if self.us.is_online:
            await self.us.upload()
        await self.newcomer()
        peer = self.rng.choice([name for name in self._in_groups() if name != US])
        await self.members[peer].forget_sender_key(self.rng.choice(GROUPS))
        await self.talk(messages - messages // 2)

    async def step(self) -> bool:
        """Something arrives somewhere; False if nothing is on its way to those who are online."""
        waiting = [
            member
            for name, member in self.members.items()
            if member.is_online and self.exchange.waits(name)
        ]
        return await self.rng.choice(waiting).take_next() if waiting else False

    async def settle(self) -> None:
        """All arrives."""
        for _ in range(MOST_STEPS):
            if not await self.step():
                return
        raise AssertionError("they ask each other for ever")

    async def everyone_speaks(self) -> None:
        """Each of them to us, we to each of them, and everyone to both groups."""
        for name in list(self.members):
            if name != US:
                await self.say(US, name)
                await self.say(name, US)
                await self.settle()
        for group in GROUPS:
            for name in self._in_groups():
                await self.say_to_group(name, group)
        await self.settle()

    # -- our files

    async def save_files(self) -> Path:
        """A copy of our files as they are after a clean close, as a snapshot of a machine has."""
        copy = self.folder / f"saved {next(self._saved)}"
        await self.us.close()
        shutil.copytree(self.us.folder, copy)
        await self.us.open()
        return copy

    def put_back(self, copy: Path) -> None:
        """Our files are the older ones again; we are offline."""
        assert not self.us.is_online
        shutil.rmtree(self.us.folder)
        shutil.copytree(copy, self.us.folder)

    async def close(self) -> None:
        """All go."""
        for member in self.members.values():
            if member.is_online:
                await member.close()

    # -- what came of it

    def mark(self) -> Callable[[], Figures]:
        """To call later: what happened since."""
        breaches, refusals = len(self.exchange.ledger.breaches), len(self.refusals())
        receipts = self.exchange.ledger.counts["retry receipts"]

        def figures() -> Figures:
            kinds = Counter(map(_kind_of, self.exchange.ledger.breaches[breaches:]))
            return Figures(
                message_keys=kinds["message key"],
                ids=kinds["id"],
                stock=kinds["stock"],
                sessions=kinds["session"],
                refusals=len(self.refusals()) - refusals,
                receipts=self.exchange.ledger.counts["retry receipts"] - receipts,
                lost=len(self.lost()),
            )

        return figures

    def refusals(self) -> list[tuple[str, Refusal]]:
        """Who could not read what, by member."""
        return [(name, each) for name, member in self.members.items() for each in member.refusals]

    def messages(self) -> int:
        """How many texts there are for somebody."""
        return sum(map(len, self.exchange.ledger.texts.values()))

    def lost(self) -> list[str]:
        """Texts that have not come out, or not as they were sent."""
        return [
            f"{id} at {name}"
            for name, texts in self.exchange.ledger.texts.items()
            for id, text in texts.items()
            if self.members[name].heard.get(id) != text
        ]


def _kind_of(breach: object) -> str:
    """What a breach of the ledger is about."""
    text = str(breach)
    for kind, words in _WORDS.items():
        if words in text:
            return kind
    raise AssertionError(text)


_WORDS = {
    "message key": "reused message key",
    "id": "made pre-key",
    "stock": "still has the consumed pre-key",
    "session": "two sessions were begun",
    "gone": "lost pre-key",
    "unasked": "unasked",
}
