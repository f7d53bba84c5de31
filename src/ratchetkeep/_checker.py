"""Checks of a device's values, one record at a time and then across records."""

from __future__ import annotations

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


class Checker:
    """Feed it every record, then ask for what concerns them together.

    :param credentials: the device's, or None if they cannot be read.
    :param place: where a record lives, for the findings.
    """

    def __init__(self, credentials: Credentials | None, place: Place) -> None:
        self._credentials = credentials
        self._place = place
        self._pre_keys: list[int] = []
        self._sync_keys: set[str] = set()
        self._identities: dict[str, bytes] = {}
        self._remotes: dict[str, bytes] = {}
        self._mappings: dict[str, str] = {}

    def check(self, key: Key, value: Any) -> Iterator[Finding]:
        """Findings of one record or of the credentials."""
        if isinstance(value, EncodedRecord):
            return
        if key == CREDENTIALS:
            yield from self._check_credentials(value)
        elif key.family == "pre-key":
            self._pre_keys.append(int(key.id))
            yield from self._check_pair(key, "", value, RESTORE)
        elif key.family == "session":
            yield from self._check_session(key, value)
        elif key.family == "sender-key":
            yield from self._check_sender_key(key, value)
        elif key.family == "app-state-sync-key":
            self._sync_keys.add(key.id)
        elif key.family == "identity-key":
            self._identities[key.id] = value
        elif key.family == "lid-mapping":
            self._mappings[key.id] = value

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
        open_session = record.open_session
        if open_session is not None:
            self._remotes[key.id] = open_session.index_info.remote_identity_key
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

    def finish(self) -> Iterator[Finding]:
        """Findings across records; call it once, after the last record."""
        creds = self._credentials
        if creds is not None:
            yield from self._check_ids(creds)
        for id, identity in self._identities.items():
            if id in self._remotes and self._remotes[id][-32:] != identity[-32:]:
                what = "is not the identity of the open session with that address"
                remedy = "The contact may have reinstalled; the client decides on the next message"
                yield self._warning(Key("identity-key", id), what, remedy)
        for id, other in self._mappings.items():
            back = other if id.endswith("_reverse") else other + "_reverse"
            if self._mappings.get(back, id.removesuffix("_reverse")) != id.removesuffix("_reverse"):
                remedy = "The client asks the server again"
                yield self._warning(Key("lid-mapping", id), "its way back leads elsewhere", remedy)

    def _check_ids(self, creds: Credentials) -> Iterator[Finding]:
        beyond = sum(id >= creds.next_pre_key_id for id in self._pre_keys)
        if beyond:
            what = f"{counted(beyond, 'pre-key')} with an id at or above next_pre_key_id"
            remedy = "Raise next_pre_key_id above them, or their ids are given out again"
            yield self._warning(CREDENTIALS, what, remedy)
        used = creds.my_app_state_key_id
        if used is not None and used not in self._sync_keys:
            what = "my_app_state_key_id names an app-state-sync-key that is not there"
            yield self._warning(CREDENTIALS, what, "The phone sends it again when asked")
