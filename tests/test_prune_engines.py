"""Real engines go on with what was pruned: Baileys in Node, pyaileys and waeys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import nodepeer
from _helpers import ALICE, BOB, IDS, PENDING, private_copy
from moves.engines import Bench, Engine, NodeDevice, Refused
from moves.scenario import ACCOUNT, GROUP, JIDS, ME, PN
from ratchetkeep import copy_device, open_device
from ratchetkeep.formats import spellings
from ratchetkeep.model import Key, SessionRecord
from ratchetkeep.prune import Pruned, PrunePolicy, prune_device

PEER = JIDS["bob"]
# The place in the bench, and the kind of store that it is.
PLACES = {"baileys 7": "baileys", "pyaileys": "pyaileys", "waeys over sqlite": "sqlite"}
Sent = tuple[str, bytes, bytes]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Bench() as bench:
        yield bench


class Talk:
    """My device in a store, and a peer of Node's in memory, in one session."""

    def __init__(self, bench: Bench, place: str, path: Path) -> None:
        self.library = bench.libraries[place]
        self.url = f"{PLACES[place]}:{path}"
        self.path = path
        self.me: Engine = self.library.create(path, ME, ACCOUNT)
        self.peer: NodeDevice = bench.seven.create(None, {"id": PEER}, {})
        self.count = 0
        self.peer.begin(PN, self.me.bundle(1))
        self.hear(self.sent())
        self.answer()

    def sent(self) -> Sent:
        """A message of the peer's that I have not got yet."""
        self.count += 1
        text = f"message {self.count}".encode()
        return (*self.peer.encrypt(PN, text), text)

    def hear(self, sent: Sent) -> None:
        kind, data, text = sent
        assert self.me.decrypt(PEER, kind, data) == text

    def refused(self, sent: Sent) -> None:
        with pytest.raises(Refused):
            self.me.decrypt(PEER, sent[0], sent[1])

    def answer(self) -> None:
        kind, data = self.me.encrypt(PEER, b"answer")
        assert self.peer.decrypt(PN, kind, data) == b"answer"

    def turn(self) -> Sent:
        """The peer says something, and I answer: both step their ratchets."""
        sent = self.sent()
        self.hear(sent)
        self.answer()
        return sent

    def pruned(self, policy: PrunePolicy = PrunePolicy()) -> dict[str, Pruned]:  # noqa: B008
        """Close the client, prune with a dry run before it and one more run after it, open it."""
        self.me.close()
        told = prune_device(self.url, policy=policy, dry_run=True)
        done = prune_device(self.url, policy=policy)
        assert (done.pruned, done.left) == (told.pruned, told.left)
        assert prune_device(self.url, policy=policy).pruned == ()
        self.me = self.library.open(self.path)
        return {each.kind: each for each in done.pruned}

    def session(self) -> SessionRecord:
        """My session record with the peer."""
        with open_device(self.url, read_only=True) as device:
            (id,) = device.ids("session")
            value = device.get("session", [id])[id]
        record = spellings.to_model(Key("session", id), value)
        assert isinstance(record, SessionRecord)
        return record

    def close(self) -> None:
        self.me.close()
        self.peer.close()


@pytest.fixture(params=PLACES)
def talk(request: pytest.FixtureRequest, bench: Bench, tmp_path: Path) -> Iterator[Talk]:
    made = Talk(bench, request.param, tmp_path / "me")
    yield made
    made.close()


def test_late_messages_within_the_window_are_read(talk: Talk) -> None:
    """Pruning would take the key of a message that is still on its way, or an engine could not go
    on with the record."""
    late = [talk.sent() for _ in range(30)]
    talk.hear(talk.sent())
    gone = talk.pruned(PrunePolicy(message_keys=10))
    assert gone["skipped message keys"].items == 20
    talk.turn()
    for sent in reversed(late[20:]):
        talk.hear(sent)
        talk.refused(sent)
    for sent in late[:20]:
        talk.refused(sent)
    for _ in range(3):
        talk.turn()


def test_the_default_policy_takes_nothing_that_an_engine_keeps(talk: Talk) -> None:
    """A conversation as they are would lose something, though no limit was passed."""
    late = [talk.sent() for _ in range(5)]
    for _ in range(8):
        talk.turn()
    last = talk.sent()
    talk.hear(talk.sent())
    before = talk.session()
    assert talk.pruned() == {}
    assert talk.session() == before
    talk.hear(last)
    if not talk.url.startswith("pyaileys:"):  # which keeps five chains
        for sent in late:
            talk.hear(sent)
    talk.turn()


@pytest.mark.parametrize("place", ["baileys 7", "waeys over sqlite"])
def test_a_chain_ends_with_libsignals_window(bench: Bench, place: str, tmp_path: Path) -> None:
    """Keys beyond the 2000 highest numbers of a chain would stay, or others than the lowest go."""
    talk = Talk(bench, place, tmp_path / "me")
    late: list[Sent] = []
    for _ in range(7):  # waeys recurses for each message that it skips
        late += [talk.sent() for _ in range(300)]
        talk.hear(talk.sent())
    gone = talk.pruned()
    assert gone["skipped message keys"].items == 100
    for number in (99, 0):
        talk.refused(late[number])
    for number in (100, 101, 1499, 1500, 2099):
        talk.hear(late[number])
    talk.turn()
    talk.close()


@pytest.mark.parametrize("place", ["baileys 7", "waeys over sqlite"])
def test_ended_chains_go_and_those_with_a_key_stay(
    bench: Bench, place: str, tmp_path: Path
) -> None:
    """A session of Node's would grow at every turn, or a late message of an old chain be lost."""
    talk = Talk(bench, place, tmp_path / "me")
    heard = [talk.turn() for _ in range(2)]
    late = talk.sent()
    heard += [talk.turn() for _ in range(120)]
    chains = len(next(iter(talk.session().sessions.values())).chains)
    gone = talk.pruned()["ended receiving chains"]
    session = talk.session().open_session
    assert session is not None
    # The newest 100 and my own; and one with the key of the late message.
    assert len(session.chains) == 102 == chains - gone.items
    talk.hear(late)
    for sent in (heard[0], heard[1], heard[60], heard[-1]):
        talk.refused(sent)  # one that was read before, of a chain that went or stayed
    for _ in range(3):
        talk.turn()
    talk.close()


@pytest.mark.parametrize("place", ["baileys 7", "waeys over sqlite"])
def test_the_newest_closed_sessions_read_late_messages(
    bench: Bench, place: str, tmp_path: Path
) -> None:
    """A closed session that went would not be the oldest, or the open one would be hurt."""
    talk = Talk(bench, place, tmp_path / "me")
    late = []
    for pre_key in range(2, 6):  # each closes the session before it
        late.append(talk.sent())
        talk.hear(talk.sent())
        talk.peer.begin(PN, talk.me.bundle(pre_key))
        talk.hear(talk.sent())
        talk.answer()
    assert talk.pruned() == {}
    gone = talk.pruned(PrunePolicy(closed_sessions=2))["closed sessions"]
    assert (gone.items, gone.records, gone.removed) == (2, 1, 0)
    # Before them, since a late message for a closed session hurts libsignal-node's open one.
    talk.turn()
    talk.refused(late[0])
    talk.refused(late[1])
    talk.turn()
    talk.hear(late[3])
    talk.close()


def test_nodes_own_limit_of_closed_sessions_is_not_undercut(bench: Bench, tmp_path: Path) -> None:
    """The default would take closed sessions that libsignal-node itself keeps."""
    talk = Talk(bench, "baileys 7", tmp_path / "me")
    for _ in range(45):
        # As if its record were lost, the peer begins anew each time, without a one-time key.
        talk.me.begin(PEER, talk.peer.bundle(1))
        talk.me.encrypt(PEER, b"anew")
    closed = [each for each in talk.session().sessions.values() if not each.is_open]
    assert len(closed) == 39
    assert talk.pruned() == {}
    talk.close()


def test_late_group_messages_within_the_window_are_read(talk: Talk) -> None:
    """A group would lose messages that are on their way, or its next ones."""

    def said() -> tuple[bytes, bytes]:
        talk.count += 1
        text = f"to all {talk.count}".encode()
        return talk.peer.encrypt_group(GROUP, PEER, text)[0], text

    def hear(sent: tuple[bytes, bytes]) -> None:
        assert talk.me.decrypt_group(GROUP, PEER, sent[0]) == sent[1]

    first, key = talk.peer.encrypt_group(GROUP, PEER, b"first")
    talk.me.take_sender_key(GROUP, PEER, key)
    hear((first, b"first"))
    late = [said() for _ in range(20)]
    hear(said())
    assert talk.pruned() == {}
    # Baileys as the author takes every second number, so that each message skips one more.
    gone = talk.pruned(PrunePolicy(sender_message_keys=16))["sender-key message keys"]
    assert gone.items == 41 - 16
    hear(said())
    for sent in late[:12]:
        with pytest.raises(Refused):
            talk.me.decrypt_group(GROUP, PEER, sent[0])
    for sent in late[12:]:
        hear(sent)
    hear(said())


def test_only_the_oldest_sender_keys_go(talk: Talk) -> None:
    """A sender key that an author still uses would go."""
    last = []
    for number in range(4):
        if number:
            talk.peer.drop_sender_key(GROUP, PEER)
        text = b"under key %d" % number
        data, key = talk.peer.encrypt_group(GROUP, PEER, text)
        talk.me.take_sender_key(GROUP, PEER, key)
        last.append((data, text))
    gone = talk.pruned(PrunePolicy(sender_key_states=2))["sender-key states"]
    assert gone.items == 2
    for data, _ in last[:2]:
        with pytest.raises(Refused):
            talk.me.decrypt_group(GROUP, PEER, data)
    for data, text in last[2:]:
        assert talk.me.decrypt_group(GROUP, PEER, data) == text


@pytest.mark.parametrize("between", ["baileys", "sqlite", "baileysex"])
def test_the_golden_conversation_goes_on(tmp_path: Path, between: str) -> None:
    """A folder that Node wrote could not be gone on with by Node after pruning."""
    for name, golden in (("alice", ALICE), ("bob", BOB)):
        private_copy(golden, tmp_path / f"{name}.golden")
        url = f"{between}:{tmp_path}/{name}.between"
        copy_device(f"baileys:{tmp_path}/{name}.golden", url)
        prune_device(url, policy=PrunePolicy(tctoken_days=None))
        copy_device(url, f"baileys:{tmp_path}/{name}")
    steps = nodepeer.converse(tmp_path / "alice", tmp_path / "bob", PENDING, IDS)
    assert {"pending-direct-bob", "closed-session", "direct", "reload"} <= {
        step["name"] for step in steps if step["ok"]
    }
