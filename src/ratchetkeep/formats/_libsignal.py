"""What libsignal's two spellings of a session have in common: protobuf and Go's JSON.

Both keep a session in the same parts (:class:`State`), and differ from libsignal-node's model in
the same ways: a chain's index is the next number and not the last one, keys of skipped messages are
derived already, the device's own identity and registration id are repeated in each session, and
nothing is said of when a session was used. Facts found by running go.mau.fi/libsignal 0.2, npm
``libsignal`` 6.0.0 and pyaileys 0.1.5.

What libsignal keeps and the model has no member for (it is hardly ever there) is carried in
``extra`` under :data:`REST`, by the names of the protobuf members.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ratchetkeep.errors import DecodeError, InvalidValue
from ratchetkeep.model import (
    OPEN,
    RECEIVING,
    SENDING,
    Chain,
    ChainKey,
    Credentials,
    FrozenDict,
    IndexInfo,
    KeyPair,
    PendingPreKey,
    Ratchet,
    Session,
    SessionRecord,
)

from ._baileys_signal import prefixed
from ._shape import PRIVATE, Losses

UNKNOWN, MEMBERS = "unknown", "members"
"""The names in :data:`REST` of what a newer version may add to a message of protobuf (bytes), and
to an object of Go (a mapping)."""

REST = PRIVATE + "libsignal"
"""The name in ``extra`` of what the model has no member for."""

VERSION = 3
"""The version of every session that WhatsApp's clients make."""

# A previous counter of -1 (nothing was sent before) as an unsigned number.
NO_COUNTER = 2**32 - 1

# When the closed sessions of libsignal's records were closed is not known: 2024-01-01 in
# milliseconds, one less for each older session. Any real time would do, if it has passed.
CLOSED_FROM = 1_704_067_200_000


class Link(NamedTuple):
    """A message chain as libsignal keeps it.

    :ivar following: the next message's number.
    :ivar key: None once closed.
    :ivar keys: number and 80 derived bytes of each skipped message.
    :ivar rest: what the model has no member for.
    """

    public: bytes
    private: bytes | None
    following: int
    key: bytes | None
    keys: list[tuple[int, bytes]]
    rest: Mapping[str, Any] = FrozenDict()


class Pending(NamedTuple):
    """What a first message repeats until it is answered."""

    pre_key_id: int | None
    signed_pre_key_id: int
    base_key: bytes


class State(NamedTuple):
    """One session as libsignal keeps it; receiving chains end with the newest."""

    local_identity: bytes | None
    local_registration_id: int
    remote_identity: bytes
    remote_registration_id: int | None
    root_key: bytes
    previous_counter: int
    base_key: bytes
    sender: Link | None
    receivers: list[Link]
    pending: Pending | None
    rest: Mapping[str, Any] = FrozenDict()


def message_keys(seed: bytes) -> bytes:
    """The 80 bytes of a skipped message: cipher key (32), MAC key (32), IV (16)."""
    return HKDF(SHA256(), 80, salt=bytes(32), info=b"WhisperMessageKeys").derive(seed)


def group_message_key(seed: bytes) -> tuple[bytes, bytes]:
    """IV (16 bytes) and cipher key (32) of a group message: HKDF-SHA256, info ``WhisperGroup``."""
    made = HKDF(SHA256(), 48, salt=bytes(32), info=b"WhisperGroup").derive(seed)
    return made[:16], made[16:]


def is_of_libsignal(session: Session) -> bool:
    """True for what libsignal's spellings were read into: libsignal-node keeps none of it."""
    if session.local_registration_id is not None:
        return True
    for chain in session.chains.values():  # noqa: SIM110 - half the time of any()
        if chain.derived_keys:
            return True
    return False


# -- reading -------------------------------------------------------------------------------------


def to_record(current: State | None, previous: list[State], path: tuple[str, str]) -> SessionRecord:
    """The record of the model.

    Of states with one base key the first is kept: libsignal looks no further.

    :param path: the names of the current and the previous states in the spelling, for errors.
    :raises DecodeError: naming the member that no session has.
    """
    sessions: dict[bytes, Session] = {}
    if current is not None:
        sessions[prefixed(current.base_key)] = _session(current, OPEN, path[0])
    for place, state in enumerate(previous):
        session = _session(state, CLOSED_FROM - place, f"{path[1]}[{place}]")
        sessions.setdefault(prefixed(state.base_key), session)
    return SessionRecord(sessions=sessions)


def _session(state: State, closed: int, path: str) -> Session:
    chains: dict[bytes, Chain] = {}
    for link in state.receivers:
        _add_chain(chains, link, RECEIVING, path)
    pair = None
    if state.sender is not None:
        _add_chain(chains, state.sender, SENDING, path)
        if state.sender.private is None:
            raise DecodeError(path, "the private key of its sending chain is missing")
        pair = KeyPair(public=state.sender.public, private=state.sender.private)
    unknown = state.previous_counter == NO_COUNTER
    pending = state.pending
    try:
        return Session(
            registration_id=state.remote_registration_id,
            current_ratchet=Ratchet(
                ephemeral_key_pair=pair,
                last_remote_ephemeral_key=state.receivers[-1].public if state.receivers else b"",
                previous_counter=-1 if unknown else state.previous_counter,
                root_key=state.root_key,
            ),
            index_info=IndexInfo(
                base_key=state.base_key,
                base_key_type=SENDING if pending else RECEIVING,
                closed=closed,
                remote_identity_key=state.remote_identity,
                local_identity_key=state.local_identity,
            ),
            chains=chains,
            pending_pre_key=pending
            and PendingPreKey(
                signed_key_id=pending.signed_pre_key_id,
                base_key=pending.base_key,
                pre_key_id=pending.pre_key_id,
            ),
            local_registration_id=state.local_registration_id,
            extra={REST: state.rest} if state.rest else {},
        )
    except InvalidValue as invalid:
        raise DecodeError(path, f"{invalid.place}: {invalid.what}") from None


def _add_chain(chains: dict[bytes, Chain], link: Link, kind: int, path: str) -> None:
    if link.public in chains:
        raise DecodeError(path, "two of its chains have the same ratchet key")
    keys = dict(link.keys)
    if len(keys) != len(link.keys):
        raise DecodeError(path, "two skipped messages of a chain have the same number")
    chains[link.public] = Chain(
        chain_key=ChainKey(counter=link.following - 1, key=link.key),
        chain_type=kind,
        derived_keys=keys,
        extra={REST: link.rest} if link.rest else {},
    )


# -- writing -------------------------------------------------------------------------------------


def in_order(record: SessionRecord) -> tuple[Session | None, list[Session]]:
    """The open session, and the others from the newest on."""
    current = record.open_session
    others = [session for session in record.sessions.values() if session is not current]
    # More than one can be open after all; libsignal-node sends with the first.
    others.sort(key=lambda each: (not each.is_open, -each.index_info.closed))
    return current, others


def to_state(
    session: Session, credentials: Credentials | None, path: str, losses: Losses
) -> State | None:
    """The session as libsignal keeps it; None, with a loss, if it cannot."""
    info, ratchet = session.index_info, session.current_ratchet
    local, own_id = info.local_identity_key, session.local_registration_id
    if credentials is not None:
        local = local or credentials.signed_identity_key.public
        own_id = credentials.registration_id if own_id is None else own_id
    if local is None or own_id is None:
        losses.note(path, "the device's own identity, which each session repeats, is not known")
        return None
    sender, receivers = _links(session)
    if sender is not None and any(link.public == sender.public for link in receivers):
        # libsignal would not tell it from the sending chain.
        losses.note(path, "a receiving chain under the device's own ratchet key is left out")
        receivers = [link for link in receivers if link.public != sender.public]
    links = receivers if sender is None else [*receivers, sender]
    counters = [ratchet.previous_counter + 1, *(link.following for link in links)]
    if not all(0 <= counter < 2**32 for counter in counters):
        losses.note(path, "it counts messages by numbers that no session reaches: it is left out")
        return None
    _note(session, path, losses)
    return State(
        local_identity=prefixed(local),
        local_registration_id=own_id,
        remote_identity=prefixed(info.remote_identity_key),
        remote_registration_id=session.registration_id,
        root_key=ratchet.root_key,
        previous_counter=ratchet.previous_counter & NO_COUNTER,
        base_key=prefixed(info.base_key),
        sender=sender,
        receivers=receivers,
        pending=_pending(session.pending_pre_key),
        rest=session.extra.get(REST, FrozenDict()),
    )


def _pending(pending: PendingPreKey | None) -> Pending | None:
    if pending is None:
        return None
    # Ids of one-time pre-keys begin at 1: a 0 says that there was none.
    one_time = pending.pre_key_id or None
    return Pending(one_time, pending.signed_key_id, prefixed(pending.base_key))


def _links(session: Session) -> tuple[Link | None, list[Link]]:
    ratchet = session.current_ratchet
    pair, last = ratchet.ephemeral_key_pair, ratchet.last_remote_ephemeral_key
    own = prefixed(pair.public) if pair else b""
    newest = prefixed(last) if last else b""
    # Without a chain the key is still what the next answer is read with.
    sender = Link(own, pair.private, 0, None, []) if pair else None
    receivers = {}
    for public, chain in session.chains.items():
        typed = prefixed(public)
        if chain.chain_type == RECEIVING:
            receivers[typed] = _link(typed, None, chain)
        elif pair is not None and typed == own:
            sender = _link(typed, pair.private, chain)
    if newest:
        # An initiator that waits for its answer has received nothing yet: libsignal keeps the
        # other side's first ratchet key all the same, as a chain.
        empty = Link(newest, None, 0, None, [])
        receivers[newest] = receivers.pop(newest, empty)
    return sender, list(receivers.values())


def _link(public: bytes, private: bytes | None, chain: Chain) -> Link:
    keys = list(chain.derived_keys.items())
    if chain.message_keys:
        seeds = chain.message_keys.items()
        made = {number: message_keys(seed) for number, seed in seeds}
        keys = sorted({**made, **chain.derived_keys}.items()) if keys else list(made.items())
    key = chain.chain_key
    rest = chain.extra.get(REST, FrozenDict())
    return Link(public, private, key.counter + 1, key.key, keys, rest)


def _note(session: Session, path: str, losses: Losses) -> None:
    """What libsignal's spellings have no place for."""
    info = session.index_info
    kind = RECEIVING if session.pending_pre_key is None else SENDING
    if info.used is not None or info.created is not None or info.base_key_type != kind:
        what = "libsignal has no place for when it was used and closed, and who began it"
        losses.note(path, what, derived=True)
    own = session.current_ratchet.ephemeral_key_pair
    for public, chain in session.chains.items():
        is_own = own is not None and prefixed(public) == prefixed(own.public)
        if chain.chain_type == SENDING and not is_own:
            what = "a sending chain that nothing is sent on is left out"
            losses.note(path, what, derived=True)
    ratchet, pending = session.current_ratchet, session.pending_pre_key
    parts: list[Any] = [session, info, ratchet, own, pending]
    parts += [part for chain in session.chains.values() for part in (chain, chain.chain_key)]
    if any(part is not None and is_unknown(part.extra) for part in parts):
        losses.note(path, "members that libsignal does not know are left out")


def note_unknown(rest: Mapping[str, Any], kind: str, path: str, losses: Losses) -> None:
    """Note the members of a newer version that another spelling has: ``kind`` is what they stand
    under in its ``rest``."""
    nested = rest.get("pendingKeyExchange", {})
    if any(name.endswith(kind) for name in (*rest, *nested)):
        losses.note(path, "members that the client does not know are left out")


def is_unknown(extra: Mapping[str, Any]) -> bool:
    """True if something beside :data:`REST` is in ``extra`` (what is said to be nothing is not)."""
    return any(value is not None for name, value in extra.items() if name != REST)


def note_extra(part: Any, kind: str, path: str, losses: Losses) -> None:
    """Note what stands in the ``extra`` of a part of a sender key and a spelling does not know."""
    if part.extra:
        if is_unknown(part.extra):
            losses.note(path, "members that libsignal does not know are left out")
        note_unknown(part.extra.get(REST, {}), kind, path, losses)
