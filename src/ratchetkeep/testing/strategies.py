"""Hypothesis strategies for valid values of the model, and ids as clients make them.

What a format can hold is said by :class:`Holds`; the formats of our stores are ``NATIVE``,
``BAILEYS``, ``BAILEYS6``, ``BAILEYSEX``, ``BAILEYSEX_JSON`` and ``PYAILEYS``.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from hypothesis import strategies as st

from ratchetkeep.model import (
    FAMILIES,
    OPEN,
    RECEIVING,
    SENDING,
    Account,
    AccountSettings,
    AppStateSyncKey,
    AppStateSyncVersion,
    Chain,
    ChainKey,
    Contact,
    Credentials,
    DisappearingMode,
    EncodedRecord,
    Foreign,
    HistoryMessage,
    IndexInfo,
    IndexValue,
    KeyFingerprint,
    KeyPair,
    MessageKey,
    PendingPreKey,
    Ratchet,
    SenderChainKey,
    SenderKeyRecord,
    SenderKeyState,
    SenderMessageKey,
    SenderSigningKey,
    Session,
    SessionRecord,
    SignalAddress,
    SignalIdentity,
    SignedPreKey,
    TcToken,
)

from ._forms import as_baileysex_json, as_pyaileys
from ._samples import Holds, Presence

__all__ = [
    "BAILEYS",
    "BAILEYS6",
    "BAILEYSEX",
    "BAILEYSEX_JSON",
    "NATIVE",
    "PYAILEYS",
    "Holds",
    "Values",
    "ids",
    "values_for",
]

Any_ = st.SearchStrategy[Any]

NATIVE = Holds()
BAILEYS = Holds(
    session_times="always",
    local_identity="never",
    bare_publics=False,
    libsignal=False,
    encodings=(("session", "baileys-buffer"),),
    sender_record_extra=False,
    surrogates="joined",
    foreign=False,
)
BAILEYS6 = replace(BAILEYS, agents=False)
BAILEYSEX = Holds(
    session_times="never",
    local_identity="always",
    libsignal=False,
    encodings=(),
    unknown_members=False,
    sender_record_extra=False,
    surrogates="none",
    foreign=False,
    longs=False,
    sync_key_details=False,
    addressing_modes=("pn", "lid"),
)
BAILEYSEX_JSON = replace(
    BAILEYSEX,
    unknown_members=True,
    sender_record_extra=True,
    numeric_names=False,
    form=as_baileysex_json,
)
PYAILEYS = Holds(
    encodings=(("session", "signal-protobuf"), ("sender-key", "signal-protobuf")),
    surrogates="joined",
    foreign=False,
    form=as_pyaileys,
)


class Values(NamedTuple):
    """Strategies for all that one device holds.

    :ivar credentials: credentials.
    :ivar records: values by family.
    :ivar batches: what ``Device.set`` takes: ``{family: {id: value or None}}``, over few ids, so
        that records are replaced and deleted.
    """

    credentials: st.SearchStrategy[Credentials]
    records: Mapping[str, Any_]
    batches: st.SearchStrategy[dict[str, dict[str, Any]]]


def _bytes(size: int) -> Any_:
    return st.binary(min_size=size, max_size=size)


def _maybe(inner: Any_) -> Any_:
    return st.none() | inner


def _present(how: Presence, inner: Any_) -> Any_:
    return {"any": _maybe(inner), "always": inner, "never": st.none()}[how]


_USERS = st.integers(0, 4).map(lambda n: str(15551230000 + n))
_LID = "99887700000000"
_LIDS = st.integers(0, 4).map(lambda n: f"{_LID}{n}")
_ADDRESSES = st.builds(
    "{}{}.{}".format, _USERS | _LIDS, st.sampled_from(["", "_1"]), st.integers(0, 2)
)
_GROUPS = st.sampled_from(
    ["120363041234567890@g.us", "4915112345678-1500000000@g.us", "status@broadcast"]
)
_SYNC_IDS = st.sampled_from([b"\0\0\0\1", b"\xff\xff\xbf\0\0", b"\xfb\xef\xbe", b"\0\0+/=="])
_IDS: dict[str, st.SearchStrategy[str]] = {
    "session": _ADDRESSES,
    "pre-key": st.integers(1, 6).map(str) | st.just(str(2**24 - 1)),
    "sender-key": st.builds("{}::{}::{}".format, _GROUPS, _USERS | _LIDS, st.integers(0, 2)),
    "sender-key-memory": _GROUPS,
    "app-state-sync-key": _SYNC_IDS.map(lambda raw: base64.b64encode(raw).decode()),
    "app-state-sync-version": st.sampled_from(["regular", "regular_high", "critical_block"]),
    "lid-mapping": _USERS | _LIDS.map(lambda lid: f"{lid}_reverse"),
    "device-list": _USERS | _LIDS,
    "tctoken": _LIDS.map(lambda lid: f"{lid}@lid") | _USERS.map(lambda u: f"{u}@s.whatsapp.net"),
    "identity-key": _ADDRESSES,
}


def ids(family: str, *, agents: bool = True) -> st.SearchStrategy[str]:
    """Ids of ``family`` as clients make them; few, so that the same one is drawn again.

    :param agents: as in :class:`Holds`.
    """
    return _IDS[family] if agents or family not in _ADDRESSED else _IDS[family].map(_with_agent)


_ADDRESSED = {"session", "sender-key", "identity-key"}


def _with_agent(id: str) -> str:
    """The id with the agent that its user's number stands for."""
    return re.sub(rf"\b({_LID}\d)(?=\.|::)", r"\1_1", id.replace("_1", ""))


def values_for(holds: Holds = NATIVE) -> Values:
    """Strategies for what ``holds`` allows."""
    made = _Maker(holds)
    records = {family: value.map(holds.form) for family, value in made.records().items()}
    batch = {
        family: st.dictionaries(ids(family, agents=holds.agents), _maybe(value), max_size=3)
        for family, value in records.items()
    }
    batches = st.lists(st.sampled_from(sorted(batch)), max_size=4, unique=True).flatmap(
        lambda families: st.fixed_dictionaries({family: batch[family] for family in families})
    )
    return Values(made.credentials().map(holds.form), records, batches)


def _joined(text: str) -> str:
    """``text`` with each pair of surrogates as the character that it stands for."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


class _Maker:
    """Builds the strategies of one kind of values; leaves first."""

    def __init__(self, holds: Holds) -> None:
        self.holds = holds
        self.text: Any_ = st.text(max_size=8)
        if holds.surrogates != "none":
            halves = st.text(st.characters(exclude_categories=()), max_size=4)
            self.text |= halves.map(_joined) if holds.surrogates == "joined" else halves
        self.free = self._free()
        # No member that any format knows begins so.
        names = self.text.map(lambda name: f"x{name}")
        self.extra: Any_ = st.just({})
        if holds.unknown_members:
            self.extra |= st.dictionaries(names, self.free, max_size=2)
        typed = _bytes(32).map(lambda raw: b"\x05" + raw)
        self.public = _bytes(32) | typed
        self.typed = self.public if holds.bare_publics else typed
        self.int64 = st.integers(-(2**63), 2**63 - 1)
        self.uint32 = st.integers(0, 2**32 - 1)
        self.number64: Any_ = st.none() | self.int64 | self.int64.map(str)
        if holds.longs:
            half = st.integers(-(2**31), 2**31 - 1)
            self.number64 |= st.fixed_dictionaries(
                {"low": half, "high": half, "unsigned": st.booleans()}
            )

    def _free(self) -> Any_:
        leaves: Any_ = st.none() | st.booleans() | st.integers(-(2**70), 2**70)
        leaves |= st.floats(allow_nan=False, allow_infinity=False) | self.text
        leaves |= st.binary(max_size=8)
        if self.holds.foreign:
            leaves |= st.builds(Foreign, st.sampled_from(["etf", "go"]), st.binary(max_size=8))
        # {"type": "Buffer", ...} is how JSON spells bytes, so it cannot come back as a mapping.
        names = self.text.filter(lambda name: name != "type")
        if not self.holds.numeric_names:
            names = names.filter(lambda name: not name.strip("+-").isdecimal())
        return st.recursive(
            leaves,
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
            max_leaves=5,
        )

    def _build(self, kind: type, **members: Any_) -> Any_:
        return st.builds(kind, extra=self.extra, **members)

    def pair(self, public: Any_ | None = None) -> Any_:
        """Key pairs; nothing says that the keys belong together."""
        return self._build(
            KeyPair, public=self.public if public is None else public, private=_bytes(32)
        )

    def records(self) -> dict[str, Any_]:
        """Values by family."""
        index_value = self._build(IndexValue, value_mac=st.binary(max_size=40))
        made: dict[str, Any_] = {
            "session": self._session_record(),
            "pre-key": self.pair(),
            "sender-key": self._sender_key_record(),
            "sender-key-memory": st.dictionaries(self.text, st.booleans(), max_size=3),
            "app-state-sync-key": self._sync_key(),
            "app-state-sync-version": self._build(
                AppStateSyncVersion,
                version=st.integers(0, 2**64 - 1),
                hash=_bytes(128),
                index_value_map=st.dictionaries(self.text, index_value, max_size=2),
            ),
            "lid-mapping": self.text,
            "device-list": st.lists(self.text, max_size=4).map(tuple),
            "tctoken": self._build(
                TcToken,
                token=st.binary(max_size=20),
                timestamp=self.number64,
                sender_timestamp=self.number64,
            ),
            "identity-key": self.public,
        }
        encodings = self.holds.encodings
        for family in FAMILIES:
            names = [name for owner, name in encodings or () if owner == family]
            if encodings is None:
                name: Any_ = st.sampled_from(["signal-protobuf", "go-json"])
            elif names:
                name = st.sampled_from(names)
            else:
                continue
            made[family] |= st.builds(EncodedRecord, encoding=name, data=st.binary(max_size=20))
        return made

    def _sync_key(self) -> Any_:
        key = st.binary(max_size=40)
        if not self.holds.sync_key_details:
            return self._build(AppStateSyncKey, key_data=key)
        fingerprint = self._build(
            KeyFingerprint,
            raw_id=_maybe(self.uint32),
            current_index=_maybe(self.uint32),
            device_indexes=_maybe(st.lists(self.uint32, max_size=3)),
        )
        return self._build(
            AppStateSyncKey,
            key_data=key,
            fingerprint=_maybe(fingerprint),
            timestamp=self.number64,
        )

    def _session_record(self) -> Any_:
        entries = st.dictionaries(self.public, self._session(), max_size=2)
        return self._build(SessionRecord, sessions=entries)

    def _session(self) -> Any_:
        chain = self._build(
            Chain,
            chain_key=self._build(ChainKey, counter=self.int64, key=_maybe(_bytes(32))),
            chain_type=st.sampled_from([SENDING, RECEIVING]),
            message_keys=st.dictionaries(self.uint32, _bytes(32), max_size=2),
            derived_keys=self._of_libsignal(
                st.dictionaries(self.uint32, _bytes(80), max_size=2), st.just({})
            ),
        )
        ratchet = self._build(
            Ratchet,
            ephemeral_key_pair=_maybe(self.pair(self.typed)),
            last_remote_ephemeral_key=st.just(b"") | self.public,
            previous_counter=self.int64,
            root_key=_bytes(32),
        )
        info = self._build(
            IndexInfo,
            base_key=self.public,
            base_key_type=st.sampled_from([SENDING, RECEIVING]),
            closed=st.just(OPEN) | self.int64,
            used=_present(self.holds.session_times, self.int64),
            created=_present(self.holds.session_times, self.int64),
            remote_identity_key=self.typed,
            local_identity_key=_present(self.holds.local_identity, self.public),
        )
        pending = self._build(
            PendingPreKey,
            signed_key_id=self.uint32,
            base_key=self.public,
            pre_key_id=_maybe(self.uint32),
        )
        return self._build(
            Session,
            registration_id=_maybe(self.uint32),
            current_ratchet=ratchet,
            index_info=info,
            chains=st.dictionaries(self.public, chain, max_size=2),
            pending_pre_key=_maybe(pending),
            local_registration_id=self._of_libsignal(self.uint32, st.none()),
        )

    def _of_libsignal(self, inner: Any_, nothing: Any_) -> Any_:
        return nothing | inner if self.holds.libsignal else nothing

    def _sender_key_record(self) -> Any_:
        step = {"iteration": self.uint32, "seed": _bytes(32)}
        state = self._build(
            SenderKeyState,
            sender_key_id=self.uint32,
            sender_chain_key=self._build(SenderChainKey, **step),
            sender_signing_key=self._build(
                SenderSigningKey, public=self.typed, private=_maybe(_bytes(32))
            ),
            sender_message_keys=st.lists(self._build(SenderMessageKey, **step), max_size=2),
        )
        extra = self.extra if self.holds.sender_record_extra else st.just({})
        return st.builds(SenderKeyRecord, states=st.lists(state, max_size=2), extra=extra)

    def credentials(self) -> st.SearchStrategy[Credentials]:
        """Credentials; their keys need not belong together."""
        text, data = _maybe(self.text), _maybe(st.binary(max_size=12))
        modes = self.holds.addressing_modes
        message = self._build(
            MessageKey,
            remote_jid=text,
            from_me=_maybe(st.booleans()),
            id=text,
            participant=text,
            participant_alt=text,
            remote_jid_alt=text,
            addressing_mode=text if modes is None else _maybe(st.sampled_from(modes)),
            server_id=text,
        )
        history = self._build(HistoryMessage, key=message, message_timestamp=self.number64)
        disappearing = self._build(
            DisappearingMode,
            ephemeral_expiration=_maybe(self.uint32),
            ephemeral_setting_timestamp=self.number64,
        )
        address = self._build(SignalAddress, name=self.text, device_id=self.uint32)
        identity = self._build(SignalIdentity, identifier=address, identifier_key=self.public)
        return self._build(
            Credentials,
            noise_key=self.pair(),
            pairing_ephemeral_key_pair=_maybe(self.pair()),
            signed_identity_key=self.pair(),
            signed_pre_key=self._build(
                SignedPreKey,
                key_pair=self.pair(),
                signature=_bytes(64),
                key_id=st.integers(0, 2**24 - 1),
            ),
            registration_id=self.uint32,
            adv_secret_key=_bytes(32),
            processed_history_messages=st.lists(history, max_size=2),
            next_pre_key_id=self.uint32,
            first_unuploaded_pre_key_id=self.uint32,
            account_sync_counter=self.int64,
            account_settings=self._build(
                AccountSettings,
                unarchive_chats=st.booleans(),
                default_disappearing_mode=_maybe(disappearing),
            ),
            registered=st.booleans(),
            pairing_code=text,
            last_prop_hash=text,
            routing_info=data,
            additional_data=self.free,
            account=_maybe(
                self._build(
                    Account,
                    details=data,
                    account_signature_key=data,
                    account_signature=data,
                    device_signature=data,
                )
            ),
            me=_maybe(self._build(Contact, id=self.text, name=text, lid=text)),
            signal_identities=_maybe(st.lists(identity, max_size=2)),
            platform=text,
            last_account_sync_timestamp=self.number64,
            my_app_state_key_id=text,
        )
