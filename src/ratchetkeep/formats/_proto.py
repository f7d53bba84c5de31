"""The protocol buffers that clients store, as messages of Google's runtime.

Descriptors are built here, in a pool of our own, so that they meet no other library's of the same
name. All members are optional and have presence. Numbers and names are those of WhatsApp's and
libsignal's messages, found in what pyaileys 0.1.5 writes.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any

# Members by message: number, name, type (a scalar's name or a message's); ``*`` for a list.
_MESSAGES: dict[str, tuple[tuple[int, str, str], ...]] = {
    "RecordStructure": (
        (1, "currentSession", "SessionStructure"),
        (2, "previousSessions", "*SessionStructure"),
    ),
    "SessionStructure": (
        (1, "sessionVersion", "uint32"),
        (2, "localIdentityPublic", "bytes"),
        (3, "remoteIdentityPublic", "bytes"),
        (4, "rootKey", "bytes"),
        (5, "previousCounter", "uint32"),
        (6, "senderChain", "Chain"),
        (7, "receiverChains", "*Chain"),
        (8, "pendingKeyExchange", "PendingKeyExchange"),
        (9, "pendingPreKey", "PendingPreKey"),
        (10, "remoteRegistrationId", "uint32"),
        (11, "localRegistrationId", "uint32"),
        (12, "needsRefresh", "bool"),
        (13, "aliceBaseKey", "bytes"),
    ),
    "Chain": (
        (1, "senderRatchetKey", "bytes"),
        (2, "senderRatchetKeyPrivate", "bytes"),
        (3, "chainKey", "ChainKey"),
        (4, "messageKeys", "*MessageKey"),
    ),
    "ChainKey": ((1, "index", "uint32"), (2, "key", "bytes")),
    "MessageKey": (
        (1, "index", "uint32"),
        (2, "cipherKey", "bytes"),
        (3, "macKey", "bytes"),
        (4, "iv", "bytes"),
    ),
    "PendingKeyExchange": (
        (1, "sequence", "uint32"),
        (2, "localBaseKey", "bytes"),
        (3, "localBaseKeyPrivate", "bytes"),
        (4, "localRatchetKey", "bytes"),
        (5, "localRatchetKeyPrivate", "bytes"),
        (7, "localIdentityKey", "bytes"),
        (8, "localIdentityKeyPrivate", "bytes"),
    ),
    "PendingPreKey": (
        (1, "preKeyId", "uint32"),
        (2, "baseKey", "bytes"),
        (3, "signedPreKeyId", "int32"),
    ),
    "SenderKeyRecordStructure": ((1, "senderKeyStates", "*SenderKeyStateStructure"),),
    "SenderKeyStateStructure": (
        (1, "senderKeyId", "uint32"),
        (2, "senderChainKey", "SenderChainKey"),
        (3, "senderSigningKey", "SenderSigningKey"),
        (4, "senderMessageKeys", "*SenderMessageKey"),
    ),
    "SenderChainKey": ((1, "iteration", "uint32"), (2, "seed", "bytes")),
    "SenderSigningKey": ((1, "public", "bytes"), (2, "private", "bytes")),
    "SenderMessageKey": ((1, "iteration", "uint32"), (2, "seed", "bytes")),
    "AppStateSyncKeyFingerprint": (
        (1, "rawId", "uint32"),
        (2, "currentIndex", "uint32"),
        (3, "deviceIndexes", "*uint32"),
    ),
    "AppStateSyncKeyData": (
        (1, "keyData", "bytes"),
        (2, "fingerprint", "AppStateSyncKeyFingerprint"),
        (3, "timestamp", "int64"),
    ),
    "ADVSignedDeviceIdentity": (
        (1, "details", "bytes"),
        (2, "accountSignatureKey", "bytes"),
        (3, "accountSignature", "bytes"),
        (4, "deviceSignature", "bytes"),
    ),
}

_PACKAGE = "ratchetkeep"


@lru_cache(maxsize=1)
def _classes() -> dict[str, Any]:
    """The message classes, made when the first is needed: most uses of the project need none."""
    descriptor = import_module("google.protobuf.descriptor_pb2")
    pool = import_module("google.protobuf.descriptor_pool").DescriptorPool()
    factory = import_module("google.protobuf.message_factory")
    file = descriptor.FileDescriptorProto(
        name="ratchetkeep.proto", package=_PACKAGE, syntax="proto2"
    )
    for name, members in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, member, kind in members:
            _add_member(message, number, member, kind)
    pool.Add(file)
    found = {name: pool.FindMessageTypeByName(f"{_PACKAGE}.{name}") for name in _MESSAGES}
    return {name: factory.GetMessageClass(each) for name, each in found.items()}


def _add_member(message: Any, number: int, name: str, kind: str) -> None:
    field = message.field.add(number=number, name=name)
    scalar = kind.removeprefix("*")
    field.label = field.LABEL_REPEATED if kind != scalar else field.LABEL_OPTIONAL
    if scalar in _MESSAGES:
        field.type = field.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{scalar}"
    else:
        field.type = getattr(field, f"TYPE_{scalar.upper()}")
        field.options.packed = kind != scalar


def message(name: str) -> Any:
    """An empty message of the name ``name``."""
    return _classes()[name]()


def parsed(name: str, data: bytes) -> Any | None:
    """The message in ``data``, or None if there is none. Unknown members are carried in it."""
    found = message(name)
    not_protobuf = import_module("google.protobuf.message").DecodeError
    try:
        found.ParseFromString(data)
    except not_protobuf:
        return None
    return found


def unknown_members(of: Any) -> bytes:
    """The members of the message ``of`` that are none of its own, as they came."""
    copy = type(of)()
    copy.CopyFrom(of)
    for field, _ in of.ListFields():
        copy.ClearField(field.name)
    return bytes(copy.SerializeToString())
