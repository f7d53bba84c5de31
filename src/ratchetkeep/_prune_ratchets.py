"""Pruning of sessions and sender keys: values of the model in, values of the model out.

A step gives the value without what goes, and how many of it went; the same value and 0 where
nothing goes. What is kept stays as it is and in its order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ratchetkeep import _prune_policy as kinds
from ratchetkeep._prune_policy import PrunePolicy
from ratchetkeep.formats._libsignal import is_of_libsignal
from ratchetkeep.model import (
    RECEIVING,
    Chain,
    SenderKeyRecord,
    SenderKeyState,
    Session,
    SessionRecord,
)

Step = Callable[[Any], tuple[Any, int]]
# The same, with how many are kept.
Pruning = Callable[[Any, int], tuple[Any, int]]


def steps_of(family: str, policy: PrunePolicy) -> Iterator[tuple[str, Step]]:
    """What is done to a record of the family, in order: the kind that goes, and the step."""
    named: dict[str, tuple[int | None, Pruning]]
    if family == "session":
        named = {
            kinds.CLOSED_SESSIONS: (policy.closed_sessions, without_closed_sessions),
            kinds.CHAINS: (policy.receiving_chains, without_ended_chains),
            kinds.MESSAGE_KEYS: (policy.message_keys, without_message_keys),
        }
    else:
        named = {
            kinds.SENDER_KEY_STATES: (policy.sender_key_states, without_states),
            kinds.SENDER_MESSAGE_KEYS: (policy.sender_message_keys, without_sender_message_keys),
        }
    for kind, (keep, function) in named.items():
        if keep is not None:
            yield kind, _keeping(function, keep)


def _keeping(function: Pruning, keep: int) -> Step:
    return lambda value: function(value, keep)


# -- sessions ------------------------------------------------------------------------------------


def without_closed_sessions(record: SessionRecord, keep: int) -> tuple[SessionRecord, int]:
    """Without all closed sessions but the ``keep`` newest; one session always stays.

    Of those that were closed at the same time, libsignal-node removes the first one first.
    """
    closed = [
        (session.index_info.closed, place, base_key)
        for place, (base_key, session) in enumerate(record.sessions.items())
        if not session.is_open
    ]
    if len(closed) == len(record.sessions):
        keep = max(keep, 1)
    gone = {base_key for _, _, base_key in sorted(closed)[: max(0, len(closed) - keep)]}
    if not gone:
        return record, 0
    left = {key: session for key, session in record.sessions.items() if key not in gone}
    return record.replace(sessions=left), len(gone)


def without_ended_chains(record: SessionRecord, keep: int) -> tuple[SessionRecord, int]:
    """Without ended receiving chains that hold no key, but for the ``keep`` newest chains."""
    return _each_session(record, lambda session: _without_ended_chains(session, keep))


def has_order(session: Session) -> bool:
    """True if a session's chains stand in the order of their age.

    BaileysEx keeps them in a map of Erlang's, which has an order of its own. Its sessions are
    those without times, but for libsignal's, whose chains stand in a list.
    """
    return session.index_info.used is not None or is_of_libsignal(session)


def _without_ended_chains(session: Session, keep: int) -> tuple[Session, int]:
    if not has_order(session):
        return session, 0
    gone = ended_chains(session, keep)
    if not gone:
        return session, 0
    left = {public: chain for public, chain in session.chains.items() if public not in gone}
    return session.replace(chains=left), len(gone)


def ended_chains(session: Session, keep: int) -> set[bytes]:
    """The receiving chains that can read nothing more, without the ``keep`` newest chains."""
    chains = session.chains
    if len(chains) <= keep:
        return set()
    last = session.current_ratchet.last_remote_ephemeral_key[-32:]
    receiving = [key for key, chain in chains.items() if chain.chain_type == RECEIVING]
    older = receiving[: max(0, len(receiving) - keep)]
    return {key for key in older if key[-32:] != last and _reads_nothing(chains[key])}


def _reads_nothing(chain: Chain) -> bool:
    return chain.chain_key.key is None and not chain.message_keys and not chain.derived_keys


def without_message_keys(record: SessionRecord, keep: int) -> tuple[SessionRecord, int]:
    """Without the keys of skipped messages beyond the ``keep`` highest numbers of each chain."""
    return _each_session(record, lambda session: _without_message_keys(session, keep))


def _without_message_keys(session: Session, keep: int) -> tuple[Session, int]:
    chains, total = dict(session.chains), 0
    for public, chain in session.chains.items():
        gone = _lowest((*chain.message_keys, *chain.derived_keys), keep)
        if gone and chain.chain_type == RECEIVING:
            chains[public] = chain.replace(
                message_keys=_without(chain.message_keys, gone),
                derived_keys=_without(chain.derived_keys, gone),
            )
            total += len(gone)
    return (session.replace(chains=chains), total) if total else (session, 0)


def _lowest(numbers: tuple[int, ...], keep: int) -> set[int]:
    """All but the ``keep`` highest; none where they are no more than that."""
    return set(sorted(numbers)[: len(numbers) - keep]) if len(numbers) > keep else set()


def _without(keys: Mapping[int, bytes], gone: set[int]) -> dict[int, bytes]:
    return {number: key for number, key in keys.items() if number not in gone}


def _each_session(
    record: SessionRecord, step: Callable[[Session], tuple[Session, int]]
) -> tuple[SessionRecord, int]:
    sessions, total = {}, 0
    for base_key, session in record.sessions.items():
        sessions[base_key], count = step(session)
        total += count
    return (record.replace(sessions=sessions), total) if total else (record, 0)


# -- sender keys ---------------------------------------------------------------------------------


def without_states(record: SenderKeyRecord, keep: int) -> tuple[SenderKeyRecord, int]:
    """Without all sender keys but the ``keep`` newest, which stand last."""
    count = max(0, len(record.states) - keep)
    return (record.replace(states=record.states[count:]), count) if count else (record, 0)


def without_sender_message_keys(record: SenderKeyRecord, keep: int) -> tuple[SenderKeyRecord, int]:
    """Without the message keys beyond the ``keep`` highest numbers of each sender key."""
    states, total = [], 0
    for state in record.states:
        left = list(_newest(state, keep))
        total += len(state.sender_message_keys) - len(left)
        has_fewer = len(left) < len(state.sender_message_keys)
        states.append(state.replace(sender_message_keys=left) if has_fewer else state)
    return (record.replace(states=states), total) if total else (record, 0)


def _newest(state: SenderKeyState, keep: int) -> Iterable[Any]:
    keys = state.sender_message_keys
    if len(keys) <= keep:
        return keys
    places = sorted(range(len(keys)), key=lambda place: (keys[place].iteration, place))
    kept = set(places[len(keys) - keep :])
    return (key for place, key in enumerate(keys) if place in kept)
