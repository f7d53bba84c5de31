"""The spellings of sessions and sender keys, and which of them each client can go on with.

A record comes in one of three: the model, which is libsignal-node's own (Baileys, BaileysEx,
waeys); libsignal's protocol buffers (pyaileys); Go's JSON (whatsmeow). The last two are kept as
:class:`EncodedRecord` and are looked into only when another client is to go on with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, TypeVar

from ratchetkeep.model import (
    RECEIVING,
    Chain,
    Credentials,
    EncodedRecord,
    Key,
    SenderKeyRecord,
    SenderKeyState,
    Session,
    SessionRecord,
)
from ratchetkeep.model._checks import EMPTY
from ratchetkeep.model._value import Value

from . import go_json, signal_proto
from ._baileys_signal import with_times
from ._libsignal import CLOSED_FROM, REST, is_of_libsignal
from ._shape import Losses

__all__ = ["CLIENTS", "FAMILIES", "for_client", "for_node", "is_known", "respell", "to_model"]

V = TypeVar("V", bound=Value)

FAMILIES = ("session", "sender-key")
"""The families whose records have several spellings."""

CLIENTS = ("pyaileys", "waeys", "baileys", "whatsmeow", "baileysex")
"""The clients that a record can be made ready for."""

_CODECS: dict[str, ModuleType] = {
    signal_proto.ENCODING: signal_proto,
    go_json.ENCODING: go_json,
}
# What a client keeps; for the others, the model.
_OF_CLIENT = {"pyaileys": signal_proto.ENCODING, "whatsmeow": go_json.ENCODING}
# How a client keeps a value that the model has no form for.
_OWN = {"pyaileys": "pyaileys-json", "waeys": "waeys-json", "baileys": "baileys-buffer"}


def is_known(key: Key, value: Any) -> bool:
    """True for a record in a spelling that is read here."""
    return type(value) is EncodedRecord and value.encoding in _CODECS and key.family in FAMILIES


def to_model(key: Key, value: Any) -> Any:
    """A session or sender key in a known spelling as a value of the model; others unchanged.

    The value says all that the record says, in libsignal's way: see :func:`for_node`.

    :raises DecodeError: if it is damaged, naming the member and never its content.
    """
    return _CODECS[value.encoding].decode(key, value.data) if is_known(key, value) else value


def respell(
    key: Key, value: Any, encoding: str, credentials: Credentials | None, losses: Losses
) -> EncodedRecord | None:
    """A session or sender key in the spelling ``encoding``; untouched if it is in that already.

    :param credentials: the device's, whose identity every session repeats.
    :param losses: collects what is lost; None is returned if nothing of the record can be held.
    :raises DecodeError: if the record is damaged.
    """
    if type(value) is EncodedRecord:
        if value.encoding == encoding:
            return value
        value = to_model(key, value)
    codec = _CODECS.get(encoding)
    if codec is None or not isinstance(value, SessionRecord | SenderKeyRecord):
        _unreadable(value, losses)
        return None
    written: EncodedRecord | None = codec.encode(key, value, credentials, losses)
    return written


def _unreadable(value: Any, losses: Losses) -> None:
    encoding = value.encoding if isinstance(value, EncodedRecord) else "the model"
    losses.note("", f"a record in the encoding {encoding!r} cannot be written in another one")


def for_client(
    key: Key, value: Any, client: str, credentials: Credentials | None, losses: Losses
) -> Any | None:
    """The value of a record to store so that ``client`` can go on with it.

    :param client: one of :data:`CLIENTS`.
    :param losses: collects what is lost; None is returned if nothing of the record can be held.
    :raises DecodeError: if the record is damaged.
    """
    if type(value) is EncodedRecord and value.encoding == _OWN.get(client):
        return value
    encoding = _OF_CLIENT.get(client)
    if encoding is None or key.family not in FAMILIES:
        return for_node(key, value, credentials, losses)
    spelled = respell(key, value, encoding, credentials, losses)
    if client == "pyaileys" and spelled not in (value, None) and key.family == "session":
        _note_unread(to_model(key, value), losses)
    return spelled


def _note_unread(record: SessionRecord, losses: Losses) -> None:
    """Note what pyaileys carries and does not look at: it decrypts with the open session alone."""
    closed = sum(not session.is_open for session in record.sessions.values())
    if closed and record.open_session is None:
        what = "has no open session: pyaileys takes it as none, and makes a new one"
        losses.note("", what, derived=True)
    elif closed:
        what = "late messages of closed sessions, which it carries, are not read by pyaileys: {n}"
        losses.note("sessions", what, derived=True, amount=closed)


def for_node(
    key: Key,
    value: Any,
    credentials: Credentials | None,
    losses: Losses,
    *,
    times: bool = True,
) -> Any | None:
    """The record as libsignal-node can go on with it: a value of the model.

    What is libsignal-node's already is returned unchanged. None if nothing of it can be held.

    :param credentials: the device's, which a session need not repeat.
    :param times: make up the times by which libsignal-node orders sessions, where there are none.
    :raises DecodeError: if the record is damaged.
    """
    if type(value) is EncodedRecord:
        value = to_model(key, value)
        if type(value) is EncodedRecord:
            _unreadable(value, losses)
            return None
    if type(value) is SessionRecord:
        for session in value.sessions.values():
            if is_of_libsignal(session):
                record = _node_record(value, credentials, losses)
                return with_times(record) if times else record
        return value
    return _node_sender_key(value, losses) if type(value) is SenderKeyRecord else value


def _node_record(
    record: SessionRecord, credentials: Credentials | None, losses: Losses
) -> SessionRecord:
    lost = 0
    sessions = {}
    for place, (base_key, session) in enumerate(record.sessions.items()):
        if is_of_libsignal(session):
            path = f"sessions[{place}]"
            lost += sum(len(chain.derived_keys) for chain in session.chains.values())
            _note_registration(session, credentials, path, losses)
            session = _node_session(session, place, path, losses)
        sessions[base_key] = session
    if lost:
        what = "skipped messages that have not arrived yet can no longer be read: {n}"
        losses.note("", what, amount=lost)
    return _plain(record.replace(sessions=sessions), "", losses)


def _node_session(session: Session, place: int, path: str, losses: Losses) -> Session:
    chains = {
        public: _plain(chain.replace(derived_keys=EMPTY), path, losses)
        for public, chain in session.chains.items()
        if _was_used(chain)
    }
    info = session.index_info
    pair = session.current_ratchet.ephemeral_key_pair
    sender = chains.get(pair.public) if pair else None
    if session.is_open and (sender is None or sender.chain_key.key is None):
        # libsignal-node would fail at each message that it is to send with this one.
        info = info.replace(closed=CLOSED_FROM - place)
    plain = _plain(session, path, losses)
    return plain.replace(chains=chains, index_info=info, local_registration_id=None)


def _was_used(chain: Chain) -> bool:
    """False for a chain on which nothing was received: libsignal makes one for the other side's
    first ratchet key, and libsignal-node would take it for one that is to be ended."""
    if chain.chain_type != RECEIVING or chain.message_keys:
        return True
    return chain.chain_key.counter >= 0


def _note_registration(
    session: Session, credentials: Credentials | None, path: str, losses: Losses
) -> None:
    own = session.local_registration_id
    if own is not None:
        is_same = credentials is not None and own == credentials.registration_id
        what = "the client reads the device's registration id off the credentials"
        losses.note(f"{path}.local_registration_id", what, derived=is_same)


def _plain(value: V, path: str, losses: Losses) -> V:
    """``value`` without what only libsignal's spellings hold."""
    extra: Mapping[str, Any] = value.extra  # type: ignore[attr-defined]
    rest = extra.get(REST)
    if rest is None:
        return value
    if "sessionVersion" in rest:
        losses.note(path, "it is of a protocol version that the client does not speak")
    if rest.keys() - {"sessionVersion"}:
        losses.note(path, "members that only libsignal knows are left out")
    return value.replace(extra={name: each for name, each in extra.items() if name != REST})


def _node_sender_key(record: SenderKeyRecord, losses: Losses) -> SenderKeyRecord:
    if not record.extra and not any(map(_has_extra, record.states)):
        return record
    states = [
        _node_sender_state(state, f"states[{place}]", losses)
        for place, state in enumerate(record.states)
    ]
    if any(new is not old for new, old in zip(states, record.states, strict=True)):
        record = record.replace(states=states)
    return _plain(record, "", losses)


def _has_extra(state: SenderKeyState) -> bool:
    if state.extra or state.sender_chain_key.extra or state.sender_signing_key.extra:
        return True
    for key in state.sender_message_keys:  # noqa: SIM110 - half the time of any()
        if key.extra:
            return True
    return False


def _node_sender_state(state: SenderKeyState, path: str, losses: Losses) -> SenderKeyState:
    if not _has_extra(state):
        return state
    parts = {
        "sender_chain_key": _plain(state.sender_chain_key, path, losses),
        "sender_signing_key": _plain(state.sender_signing_key, path, losses),
    }
    keys = [_plain(key, path, losses) for key in state.sender_message_keys]
    return _plain(state.replace(**parts, sender_message_keys=keys), path, losses)
