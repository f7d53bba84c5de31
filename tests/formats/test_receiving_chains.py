"""Which receiving chains of a session libsignal's spellings get, and in which order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from _pyaileys_engine import raw
from _signal_records import CREDS
from ratchetkeep import copy_device, open_device
from ratchetkeep.formats import go_json, signal_proto, spellings
from ratchetkeep.formats._proto import parsed
from ratchetkeep.formats._shape import Losses
from ratchetkeep.model import (
    RECEIVING,
    SENDING,
    Chain,
    ChainKey,
    IndexInfo,
    Key,
    KeyPair,
    Ratchet,
    Session,
    SessionRecord,
)

SESSION = Key("session", "15551230002.0")


def public(number: int) -> bytes:
    return b"\x05" + bytes([number]) * 32


OWN, NEWEST, OLDER = public(1), public(2), public(3)


def chain(kind: int) -> Chain:
    return Chain(chain_key=ChainKey(counter=4, key=bytes(32)), chain_type=kind)


def record(chains: dict[bytes, Chain], last: bytes = NEWEST) -> SessionRecord:
    """One open session with these chains."""
    base = public(9)
    session = Session(
        registration_id=57,
        current_ratchet=Ratchet(
            ephemeral_key_pair=KeyPair(public=OWN, private=bytes(32)),
            last_remote_ephemeral_key=last,
            previous_counter=2,
            root_key=bytes(32),
        ),
        index_info=IndexInfo(
            base_key=base,
            base_key_type=RECEIVING,
            used=1,
            created=1,
            remote_identity_key=public(8),
        ),
        chains=chains,
    )
    return SessionRecord(sessions={base: session})


def receivers(value: SessionRecord, encoding: str, losses: Losses) -> list[bytes]:
    """The ratchet keys of the receiving chains, as a spelling has them."""
    made = spellings.respell(SESSION, value, encoding, CREDS, losses)
    assert made is not None
    if encoding == go_json.ENCODING:
        chains = json.loads(made.data)["SessionState"]["ReceiverChains"]
        return [raw(each["SenderRatchetKeyPublic"]) for each in chains]
    state = parsed("RecordStructure", made.data)
    assert state is not None
    return [each.senderRatchetKey for each in state.currentSession.receiverChains]


@pytest.mark.parametrize("encoding", [go_json.ENCODING, signal_proto.ENCODING])
def test_the_newest_receiving_chain_is_written_last(encoding: str) -> None:
    """The next answer would be read with an older ratchet key, and the chat would break off."""
    value = record({NEWEST: chain(RECEIVING), OWN: chain(SENDING), OLDER: chain(RECEIVING)})
    losses = Losses()
    assert receivers(value, encoding, losses) == [OLDER, NEWEST]
    assert [loss for loss in losses.found if not loss.derived] == []


@pytest.mark.parametrize("encoding", [go_json.ENCODING, signal_proto.ENCODING])
@pytest.mark.parametrize(
    "value",
    [
        record({OWN: chain(SENDING), OWN[1:]: chain(RECEIVING), NEWEST: chain(RECEIVING)}),
        record({OWN: chain(SENDING), OLDER: chain(RECEIVING)}, last=OWN),
    ],
    ids=["beside the sending one", "as the newest"],
)
def test_a_receiving_chain_under_the_own_ratchet_key_is_left_out(
    value: SessionRecord, encoding: str
) -> None:
    """A copy would succeed, and the one after it would be refused as damaged."""
    losses = Losses()
    assert OWN not in receivers(value, encoding, losses)
    assert ["own ratchet key" in loss.what for loss in losses.found if not loss.derived] == [True]


def test_a_copy_without_such_a_chain_can_be_copied_again(tmp_path: Path) -> None:
    """A device would be stuck in pyaileys' folder."""
    value = record({OWN: chain(RECEIVING), NEWEST: chain(RECEIVING)})
    with open_device(f"sqlite:{tmp_path}/a.db", create=True) as device:
        device.set({"session": {SESSION.id: value}})
    summary = copy_device(f"sqlite:{tmp_path}/a.db", f"pyaileys:{tmp_path}/b")
    assert any("own ratchet key" in each.what for each in summary.not_held)
    copy_device(f"pyaileys:{tmp_path}/b", f"baileys:{tmp_path}/c")
    with open_device(f"baileys:{tmp_path}/c") as device:
        (session,) = device.get("session", [SESSION.id])[SESSION.id].sessions.values()
        assert NEWEST in session.chains
