"""Checks of a device's values, one record at a time and then across records.

What is compared across records is not held until then, but 64-bit hashes of it are: a device may
have hundreds of thousands of records. Two of them that collide could hide, or make up, one warning.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any

from ratchetkeep.model import (
    CREDENTIALS,
    SENDING,
    Credentials,
    EncodedRecord,
    Key,
    KeyPair,
    SenderKeyRecord,
    Session,
    SessionRecord,
)
from ratchetkeep.stores.base import Finding, counted

PAIR_AGAIN = "Restore it from a backup; if there is none, this device must be paired again"
NEW_SESSION = "Restore it from a backup, or delete it: the client then builds a new session"
RESTORE = "Restore it from a backup, or delete it"

# What libsignal-node keeps at most; more is no damage, but something did not prune.
MAX_SENDER_STATES, MAX_SKIPPED = 5, 2000

Place = Callable[[Key], str]


Scan = Callable[[str], Iterator[Key]]
"""Gives the keys of a family once more."""


class Checker:
    """Feed it every record, then ask for what concerns them together.

    :param credentials: the device's, or None if they cannot be read.
    :param place: where a record lives, for the findings.
    """

    def __init__(self, credentials: Credentials | None, place: Place) -> None:
        self._credentials = credentials
        self._place = place
        self._pre_keys_beyond = 0
        self._has_used_sync_key = False
        self._remotes = _Links()
        self._identities = _Links()
        self._mappings = _Links()
        self._ways_back = _Links()

    def check(self, key: Key, value: Any) -> Iterator[Finding]:
        """Findings of one record or of the credentials."""
        self.note(key, fact_of(key, value))
        yield from self.check_alone(key, value)

    def check_alone(self, key: Key, value: Any) -> Iterator[Finding]:
        """The same, without remembering anything of it for :meth:`finish`."""
        if isinstance(value, EncodedRecord):
            return
        if key == CREDENTIALS:
            yield from self._check_credentials(value)
        elif key.family == "pre-key":
            yield from self._check_pair(key, "", value, RESTORE)
        elif key.family == "session":
            yield from self._check_session(key, value)
        elif key.family == "sender-key":
            yield from self._check_sender_key(key, value)

    def note(self, key: Key, fact: bytes | None) -> None:
        """Remember of a record what :func:`fact_of` gives of it."""
        if fact is None:
            return
        family, id = key
        creds = self._credentials
        if family == "session":
            self._remotes.add(id, fact)
        elif family == "identity-key":
            self._identities.add(id, fact)
        elif family == "lid-mapping":
            self._mappings.add(id, fact)
            self._ways_back.add(*_way_back(id, fact.decode("utf-8", "surrogatepass")))
        elif family == "pre-key" and creds is not None:
            self._pre_keys_beyond += int(id) >= creds.next_pre_key_id
        elif family == "app-state-sync-key" and creds is not None:
            self._has_used_sync_key |= id == creds.my_app_state_key_id

    def _error(self, key: Key, what: str, remedy: str) -> Finding:
        return Finding("error", self._place(key), what, remedy)

    def _warning(self, key: Key, what: str, remedy: str) -> Finding:
        return Finding("warning", self._place(key), what, remedy)

    def _check_pair(self, key: Key, member: str, pair: KeyPair, remedy: str) -> Iterator[Finding]:
        if not pair.is_matched:
            what = f"{member}: " if member else ""
            yield self._error(key, f"{what}the public key is not the private key's", remedy)

    def _check_credentials(self, creds: Credentials) -> Iterator[Finding]:
        pairs = {
            "noise_key": creds.noise_key,
            "signed_identity_key": creds.signed_identity_key,
            "signed_pre_key.key_pair": creds.signed_pre_key.key_pair,
            "pairing_ephemeral_key_pair": creds.pairing_ephemeral_key_pair,
        }
        for member, pair in pairs.items():
            if pair is not None:
                yield from self._check_pair(CREDENTIALS, member, pair, PAIR_AGAIN)
        if not creds.signed_pre_key.is_signed_by(creds.signed_identity_key.public):
            what = "signed_pre_key: its signature does not verify under the identity key"
            yield self._error(CREDENTIALS, what, PAIR_AGAIN)
        if creds.first_unuploaded_pre_key_id > creds.next_pre_key_id:
            what = "first_unuploaded_pre_key_id is above next_pre_key_id"
            yield self._warning(CREDENTIALS, what, "The client mints and uploads new pre-keys")

    def _check_session(self, key: Key, record: SessionRecord) -> Iterator[Finding]:
        if sum(session.is_open for session in record.sessions.values()) > 1:
            yield self._warning(key, "more than one session is open", "The client uses the first")
        for place, (base_key, session) in enumerate(record.sessions.items()):
            what = self._session_fault(base_key, session)
            if what:
                yield self._error(key, f"session {place}: {what}", NEW_SESSION)

    def _session_fault(self, base_key: bytes, session: Session) -> str:
        info, ratchet = session.index_info, session.current_ratchet
        if base_key != info.base_key:
            return "its base key is not the one that it is kept under"
        local = info.local_identity_key
        ours = self._credentials.signed_identity_key.public if self._credentials else None
        if local is not None and ours is not None and local[-32:] != ours[-32:]:
            return "it belongs to another device's identity"
        pair = ratchet.ephemeral_key_pair
        if pair is not None and not pair.is_matched:
            return "the ratchet's public key is not the private key's"
        sending = {public for public, c in session.chains.items() if c.chain_type == SENDING}
        if pair is not None and sending and pair.public not in sending:
            return "it has no sending chain for its ratchet key"
        for chain in session.chains.values():
            if any(number > chain.chain_key.counter for number in chain.message_keys):
                return "a skipped message is beyond its chain"
        return ""

    def _check_sender_key(self, key: Key, record: SenderKeyRecord) -> Iterator[Finding]:
        for place, state in enumerate(record.states):
            signing = state.sender_signing_key
            if signing.private is not None:
                pair = KeyPair(public=signing.public, private=signing.private)
                yield from self._check_pair(key, f"state {place}", pair, RESTORE)
            skipped = state.sender_message_keys
            if any(each.iteration >= state.sender_chain_key.iteration for each in skipped):
                what = f"state {place}: a skipped message is beyond its chain"
                yield self._error(key, what, RESTORE)
            if len(skipped) > MAX_SKIPPED:
                yield self._warning(key, f"state {place}: {len(skipped)} skipped messages", "")
        if len({state.sender_key_id for state in record.states}) != len(record.states):
            yield self._warning(key, "a sender key id stands twice", "The client uses the first")
        if len(record.states) > MAX_SENDER_STATES:
            yield self._warning(key, f"{len(record.states)} states", "The client drops the oldest")

    def finish(self, scan: Scan) -> Iterator[Finding]:
        """Findings across records; call it once, after the last record."""
        creds = self._credentials
        if creds is not None:
            yield from self._check_ids(creds)
        odd = self._identities.contradicting(self._remotes, self._identities)
        for key in _named(odd, "identity-key", scan):
            what = "is not the identity of the open session with that address"
            remedy = "The contact may have reinstalled; the client decides on the next message"
            yield self._warning(key, what, remedy)
        odd = self._ways_back.contradicting(self._mappings, self._mappings)
        for key in _named(odd, "lid-mapping", scan):
            remedy = "The client asks the server again"
            yield self._warning(key, "its way back leads elsewhere", remedy)

    def _check_ids(self, creds: Credentials) -> Iterator[Finding]:
        beyond = self._pre_keys_beyond
        if beyond:
            what = f"{counted(beyond, 'pre-key')} with an id at or above next_pre_key_id"
            remedy = "Raise next_pre_key_id above them, or their ids are given out again"
            yield self._warning(CREDENTIALS, what, remedy)
        if creds.my_app_state_key_id is not None and not self._has_used_sync_key:
            what = "my_app_state_key_id names an app-state-sync-key that is not there"
            yield self._warning(CREDENTIALS, what, "The phone sends it again when asked")


def fact_of(key: Key, value: Any) -> bytes | None:
    """What of a record is compared with other records: an identity, where a mapping leads, or that
    it is there (b""). None if nothing is."""
    if isinstance(value, EncodedRecord):
        return None
    if key.family == "session":
        session = value.open_session
        return None if session is None else bytes(session.index_info.remote_identity_key[-32:])
    if key.family == "identity-key":
        return bytes(value[-32:])
    if key.family == "lid-mapping":
        return bytes(value.encode("utf-8", "surrogatepass"))
    return b"" if key.family in ("pre-key", "app-state-sync-key") else None


def _way_back(id: str, other: str) -> tuple[str, bytes]:
    """The mapping that leads back from ``other``, and where it must lead."""
    is_reverse = id.endswith("_reverse")
    return other if is_reverse else other + "_reverse", id.removesuffix("_reverse").encode()


class _Links:
    """What ids lead to, as hashes."""

    def __init__(self) -> None:
        self._ids = array("q")
        self._links = array("q")

    def add(self, id: str, to: bytes) -> None:
        self._ids.append(hash(id))
        self._links.append(hash((id, to)))

    def contradicting(self, others: _Links, named: _Links) -> set[int]:
        """Hashes of the ids in ``named`` at the places whose id leads elsewhere in ``others``."""
        ids, links = _sorted(others._ids), _sorted(others._links)
        return {
            name
            for id, link, name in zip(self._ids, self._links, named._ids, strict=True)
            if _is_in(ids, id) and not _is_in(links, link)
        }


def _sorted(numbers: array[int]) -> array[int]:
    return array("q", sorted(numbers))


def _is_in(ordered: array[int], number: int) -> bool:
    place = bisect_left(ordered, number)
    return place < len(ordered) and ordered[place] == number


def _named(hashes: set[int], family: str, scan: Scan) -> list[Key]:
    """The keys with these hashes, sorted."""
    return sorted(key for key in scan(family) if hash(key.id) in hashes) if hashes else []
