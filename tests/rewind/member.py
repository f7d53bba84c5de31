"""A device with its application: the steps of a client's socket around its Signal engine.

They are Baileys' (``relayMessage``, ``sendRetryRequest``, ``sendMessagesAgain``): a session is made
when there is none to send in; a sender key goes to those who are not in ``sender-key-memory``; who
cannot read a message asks for it again, the second time with keys of its own and without the
session; who is asked makes a new session, from these keys or from the server's, forgets who has its
sender key, and sends the text again. pyaileys 0.1.5 neither sends nor answers retry receipts, so
that these steps are the story's there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conversation.course import as_bytes, as_text

from .engines import Engine, Me
from .exchange import BATCH, Exchange, Group, Receipt, Stanza

MOST_RETRIES = 5
"""Baileys' ``maxMsgRetryCount``: a message that cannot be read then is lost."""


@dataclass(frozen=True)
class Refusal:
    """A part of a message that a device could not read, and what its client said."""

    id: str
    sender: str
    kind: str
    error: str


class Member:
    """One device.

    :ivar sent: text and group of each message, for those who ask again. It is the application's,
        like ``heard``, and no rewound store takes it back.
    :ivar heard: the texts that came out.
    :ivar refusals: what could not be read.
    :ivar begun: how many sessions it has begun.
    :ivar is_in_groups: whether it hears what is said to groups, and says something there.
    """

    def __init__(self, name: str, engine: Engine, me: Me, folder: Path, exchange: Exchange) -> None:
        self.name = name
        self.engine = engine
        self.me = me
        self.folder = folder
        self.exchange = exchange
        self.sent: dict[str, tuple[str, Group | None]] = {}
        self.heard: dict[str, str] = {}
        self.refusals: list[Refusal] = []
        self.begun = 0
        self.is_online = False
        self.is_in_groups = True
        self._tries: Counter[str] = Counter()
        self._dropped: set[str] = set()

    @property
    def url(self) -> str:
        """Its store."""
        return self.engine.url(self.folder)

    async def open(self) -> None:
        """Start it; it uploads pre-keys if the server has few."""
        await self.engine.open(self.folder, self.me)
        self.is_online = True
        self.exchange.joined(self.name, self.me, self.engine.identity())
        self.exchange.ledger.saw_stock(self.name, set(await self.engine.pre_key_ids()))
        await self.upload_if_low()

    async def close(self) -> None:
        """Stop it."""
        self.is_online = False
        await self.engine.close()

    async def upload_if_low(self) -> None:
        """What a client does when the server tells it that few pre-keys are left."""
        if self.exchange.is_low(self.name):
            await self.upload()

    async def upload(self) -> None:
        """Make pre-keys, and give them to the server."""
        self.exchange.upload(self.name, await self.engine.pre_keys(BATCH))

    # -- sending

    async def tell(self, other: str, text: str) -> str:
        """Say something to a device; the message's id."""
        id = self._remember(text, None)
        await self._ensure_session(other)
        await self._post(other, id, text, None, [await self._sealed(other, text=text)])
        return id

    async def tell_group(self, group: Group, others: Iterable[str], text: str) -> str:
        """Say something to a group; the message's id."""
        id = self._remember(text, group)
        known = await self.engine.memory(group.jid)
        me = group.called(self.me)
        body, key = await self.engine.encrypt_group(group.jid, me, _payload(text=text))
        for other in others:
            parts = [("skmsg", body)]
            jid = group.called(self.exchange.people[other])
            if jid not in known:
                await self._ensure_session(other)
                parts.insert(0, await self._sealed(other, group=group.jid, key=as_text(key)))
                known.add(jid)
            await self._post(other, id, text, group, parts)
        await self.engine.remember(group.jid, known)
        return id

    async def forget_sender_key(self, group: Group) -> None:
        """As a client does when someone has left: the next message has a new key, for all."""
        await self.engine.drop_sender_key(group.jid, group.called(self.me))
        await self.engine.remember(group.jid, None)

    def _remember(self, text: str, group: Group | None) -> str:
        id = f"{self.name} {len(self.sent) + 1}"
        self.sent[id] = (text, group)
        return id

    async def _ensure_session(self, other: str) -> None:
        if not await self.engine.has_session(self.exchange.people[other].id):
            await self._begin(other, self.exchange.bundle(other))

    async def _begin(self, other: str, bundle: dict[str, Any]) -> None:
        self.begun += 1
        await self.engine.begin(self.exchange.people[other].id, bundle)

    async def _sealed(self, other: str, **payload: str) -> tuple[str, bytes]:
        return await self.engine.encrypt(self.exchange.people[other].id, _payload(**payload))

    async def _post(
        self, other: str, id: str, text: str, group: Group | None, parts: list[tuple[str, bytes]]
    ) -> None:
        self.exchange.post(other, Stanza(id, self.name, group, tuple(parts)), text)

    # -- taking in

    async def take_next(self) -> bool:
        """Take in what is next for it; False if nothing is there."""
        await self.upload_if_low()
        item = self.exchange.next_for(self.name)
        if isinstance(item, Receipt):
            await self._send_again(item)
        elif item is not None:
            await self._take_in(item)
        return item is not None

    async def _take_in(self, stanza: Stanza) -> None:
        failures = 0
        for kind, body in stanza.parts:
            error = None
            try:
                await self._read(stanza, kind, body)
            except Exception as failure:  # noqa: BLE001 - each client has errors of its own
                error = str(failure)
                failures += 1
                self.refusals.append(Refusal(stanza.id, stanza.sender, kind, error))
            self.exchange.ledger.delivered(self.name, kind, body, is_acknowledged=error is None)
        if failures:
            await self._ask_again(stanza)

    async def _read(self, stanza: Stanza, kind: str, body: bytes) -> None:
        sender = self.exchange.people[stanza.sender]
        if kind == "skmsg":
            assert stanza.group is not None
            author = stanza.group.called(sender)
            data = await self.engine.decrypt_group(stanza.group.jid, author, body)
        else:
            data = await self.engine.decrypt(sender.id, kind, body)
        payload = json.loads(data)
        if "key" in payload:
            assert stanza.group is not None
            author = stanza.group.called(sender)
            key = as_bytes(payload["key"])
            await self.engine.take_sender_key(payload["group"], author, key)
        if "text" in payload:
            self.heard[stanza.id] = payload["text"]

    async def _ask_again(self, stanza: Stanza) -> None:
        name = f"{stanza.id} {stanza.sender}"
        self._tries[name] += 1
        count = self._tries[name]
        if count > MOST_RETRIES:
            return
        keys = None
        if count > 1:
            if stanza.sender not in self._dropped:  # at most once an hour
                self._dropped.add(stanza.sender)
                await self.engine.drop_session(self.exchange.people[stanza.sender].id)
            made = await self.engine.pre_keys(1)
            keys = self.exchange.bundle_of_its_own(self.name, made)
        self.exchange.ask_again(stanza.sender, Receipt(stanza.id, self.name, count, keys))

    async def _send_again(self, receipt: Receipt) -> None:
        text, group = self.sent[receipt.id]
        other = receipt.asker
        await self._begin(other, receipt.keys or self.exchange.bundle(other))
        payload = {"text": text}
        if group is not None:
            await self.engine.remember(group.jid, None)
            key = await self.engine.own_sender_key(group.jid, group.called(self.me))
            payload |= {"group": group.jid, "key": as_text(key)}
        part = await self._sealed(other, **payload)
        await self._post(other, receipt.id, text, group, [part])


def _payload(**payload: str) -> bytes:
    return json.dumps(payload).encode()
