"""Verifying a device: everything that can be wrong is said, and nothing where nothing is."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from _helpers import (
    ALICE,
    BOB,
    FAMILY_FILES,
    LEGACY,
    MANIFEST,
    OTP29,
    bytes_of,
    canonical,
    footprint,
    private_copy,
    small_baileys,
)
from ratchetkeep import (
    Credentials,
    EncodedRecord,
    Finding,
    KeyPair,
    NoDevice,
    UnknownStore,
    copy_device,
    open_device,
    verify_device,
)
from ratchetkeep.device import open_in
from ratchetkeep.formats import baileysex, etf
from ratchetkeep.model import (
    CREDENTIALS,
    Chain,
    ChainKey,
    IndexInfo,
    Ratchet,
    SenderChainKey,
    SenderKeyRecord,
    SenderKeyState,
    SenderMessageKey,
    SenderSigningKey,
    Session,
    SessionRecord,
)
from ratchetkeep.stores.directory import DirectoryStore
from ratchetkeep.stores.layouts import read_manifest, write_manifest

TARGETS = [
    "sqlite:{}/t.db", "baileys:{}/t", "baileys6:{}/t", "baileysex:{}/t", "baileysex-json:{}/t",
    "memory:{}",
]  # fmt: skip


def public(number: int) -> bytes:
    return b"\x05" + bytes([number]) * 32


def session(number: int, **changes: Any) -> tuple[bytes, Session]:
    """A sound open session, by its base key."""
    pair = KeyPair.new()
    pair = pair.replace(public=b"\x05" + pair.public)
    made = Session(
        registration_id=1,
        current_ratchet=Ratchet(
            ephemeral_key_pair=pair,
            last_remote_ephemeral_key=public(2),
            previous_counter=0,
            root_key=bytes(32),
        ),
        index_info=IndexInfo(
            base_key=public(number),
            base_key_type=1,
            used=1,
            created=1,
            remote_identity_key=public(3),
        ),
        chains={pair.public: Chain(chain_key=ChainKey(counter=3, key=bytes(32)), chain_type=1)},
    )
    return public(number), made.replace(**changes)


def state(number: int, **changes: Any) -> SenderKeyState:
    made = SenderKeyState(
        sender_key_id=number,
        sender_chain_key=SenderChainKey(iteration=2, seed=bytes(32)),
        sender_signing_key=SenderSigningKey(public=public(4)),
    )
    return made.replace(**changes)


def findings_with(tmp_path: Path, records: dict[str, dict[str, Any]]) -> list[Finding]:
    url = f"sqlite:{tmp_path}/d.db"
    with open_device(url, create=True) as device:
        device.save_credentials(device.credentials.replace(next_pre_key_id=100))
        device.set(records)
    return verify_device(url)


def one(findings: list[Finding], severity: str, what: str) -> Finding:
    """The only finding, which must be of that kind."""
    assert len(findings) == 1, findings
    assert findings[0].severity == severity and what in findings[0].what, findings[0]
    return findings[0]


# Nothing where nothing is.


@pytest.mark.parametrize("golden", [ALICE, BOB, LEGACY / "alice", LEGACY / "bob"])
def test_a_whole_folder_gives_no_findings_but_its_modes(tmp_path: Path, golden: Path) -> None:
    """Warnings that mean nothing would hide the one that does."""
    for path in (folder := private_copy(golden, tmp_path / "d")).iterdir():
        path.chmod(0o644)
    finding = one(verify_device(f"baileys:{folder}"), "warning", "can be read by other users")
    assert str(len(list(folder.iterdir()))) in finding.what and "chmod" in finding.remedy
    assert verify_device(f"baileys:{private_copy(golden, tmp_path / 'e')}") == []


@pytest.mark.parametrize("target", TARGETS)
def test_a_copy_gives_no_findings(tmp_path: Path, target: str) -> None:
    """Our own files would be called wrong."""
    copy_device(f"baileys:{ALICE}", target.format(tmp_path))
    assert verify_device(target.format(tmp_path)) == []


def test_a_new_device_gives_no_findings(tmp_path: Path) -> None:
    """A device that was just made would be called wrong."""
    with open_device(f"sqlite:{tmp_path}/d.db", create=True):
        pass
    assert verify_device(f"sqlite:{tmp_path}/d.db") == []


@pytest.mark.parametrize("encoding", ["signal-protobuf", "go-json"])
@pytest.mark.parametrize("family", ["session", "sender-key"])
def test_damage_in_a_clients_own_spelling_is_found(
    tmp_path: Path, encoding: str, family: str
) -> None:
    """A session that its client cannot read would be called whole."""
    url = f"sqlite:{tmp_path}/d.db"
    damaged = EncodedRecord(encoding=encoding, data=b"{\xff")
    with open_device(url, create=True) as device:
        device.set({family: {"g@g.us::1::0": damaged}})
    (found,) = verify_device(url)
    assert found.severity == "error"
    assert family in found.place


def test_sound_records_give_no_findings(tmp_path: Path) -> None:
    """The tests below could find anything in records that are wrong anyway."""
    records: dict[str, dict[str, Any]] = {
        "session": {
            "1.0": SessionRecord(sessions=dict([session(1)])),
            "2.0": EncodedRecord(encoding="some-client", data=b"\xff"),
        },
        "sender-key": {"g@g.us::1::0": SenderKeyRecord(states=(state(1), state(2)))},
        "pre-key": {"99": KeyPair.new()},
        "identity-key": {"1.0": public(3), "9.9": public(9)},
        "lid-mapping": {"1": "2", "2_reverse": "1"},
    }
    assert findings_with(tmp_path, records) == []


def test_verifying_changes_nothing(tmp_path: Path) -> None:
    """Looking at a folder would change it."""
    private_copy(ALICE, tmp_path / "js")
    private_copy(OTP29, tmp_path / "ex")
    before = footprint(tmp_path)
    verify_device(f"baileys:{tmp_path}/js")
    verify_device(f"baileysex:{tmp_path}/ex")
    assert footprint(tmp_path) == before


def test_nothing_there_is_no_finding(tmp_path: Path) -> None:
    """A typing error would be reported as a device that is whole, or as one that is damaged."""
    with pytest.raises(NoDevice):
        verify_device(f"baileys:{tmp_path}/none")
    with pytest.raises(NoDevice):
        verify_device(f"sqlite:{tmp_path}/none.db")
    with pytest.raises(UnknownStore):
        verify_device("mongo:x")


# Credentials.


def mismatched(pair: KeyPair) -> KeyPair:
    return pair.replace(public=KeyPair.new().public)


CREDENTIAL_FAULTS: dict[str, Callable[[Credentials], dict[str, Any]]] = {
    "noise_key": lambda c: {"noise_key": mismatched(c.noise_key)},
    "signed_pre_key.key_pair": lambda c: {
        "signed_pre_key": c.signed_pre_key.replace(key_pair=mismatched(c.signed_pre_key.key_pair))
    },
    "signed_identity_key": lambda c: {"signed_identity_key": mismatched(c.signed_identity_key)},
    "pairing_ephemeral_key_pair": lambda c: {"pairing_ephemeral_key_pair": mismatched(c.noise_key)},
    "signature": lambda c: {"signed_pre_key": c.signed_pre_key.replace(signature=bytes(64))},
}


@pytest.mark.parametrize("fault", CREDENTIAL_FAULTS)
def test_credentials_that_do_not_fit_together(tmp_path: Path, fault: str) -> None:
    """A damaged identity would be called whole, and its good backup thrown away."""
    url = f"sqlite:{tmp_path}/d.db"
    with open_device(url, create=True) as device:
        creds = device.credentials
        device.save_credentials(creds.replace(**CREDENTIAL_FAULTS[fault](creds)))
    errors = verify_device(url)
    assert {finding.severity for finding in errors} == {"error"}
    assert any(fault in finding.what for finding in errors)
    assert all("credentials" in finding.place for finding in errors)


def test_counters_that_do_not_fit(tmp_path: Path) -> None:
    """Pre-keys would be given out twice, and nobody would be told."""
    url = f"sqlite:{tmp_path}/d.db"
    with open_device(url, create=True) as device:
        device.save_credentials(device.credentials.replace(first_unuploaded_pre_key_id=2))
    one(verify_device(url), "warning", "first_unuploaded_pre_key_id")
    with open_device(url) as device:
        device.save_credentials(device.credentials.replace(first_unuploaded_pre_key_id=1))
        device.set({"pre-key": {"1": KeyPair.new(), "7": KeyPair.new()}})
    one(verify_device(url), "warning", "2 pre-keys with an id at or above")


def test_an_app_state_key_that_is_not_there(tmp_path: Path) -> None:
    """The client would fail at its next app state patch, without a hint before."""
    url = f"sqlite:{tmp_path}/d.db"
    with open_device(url, create=True) as device:
        device.save_credentials(device.credentials.replace(my_app_state_key_id="AAAA"))
    one(verify_device(url), "warning", "my_app_state_key_id")


@pytest.mark.parametrize("damage", [b"", b"null", b"{", None])
def test_damaged_or_missing_credentials(tmp_path: Path, damage: bytes | None) -> None:
    """Damage of the credentials would hide what is the matter with everything else."""
    folder = small_baileys(tmp_path / "d")
    (folder / "session-1.0.json").write_bytes(b"{}")
    (folder / "session-1.0.json").chmod(0o600)
    if damage is None:
        (folder / "creds.json").unlink()
    else:
        (folder / "creds.json").write_bytes(damage)
    errors = verify_device(f"baileys:{folder}")
    assert [finding.severity for finding in errors] == ["error", "error"]
    whole = " ".join(f"{finding.place} {finding.what}" for finding in errors)
    assert "session-1.0.json" in whole
    assert ("creds.json" if damage is not None else "no credentials") in whole


# Sessions.


SESSION_FAULTS: dict[str, Callable[[], dict[bytes, Session]]] = {
    "base key": lambda: {public(9): session(1)[1]},
    "another device's identity": lambda: {
        key: made.replace(index_info=made.index_info.replace(local_identity_key=public(9)))
        for key, made in [session(1)]
    },
    "ratchet's public key": lambda: {
        key: made.replace(
            current_ratchet=made.current_ratchet.replace(
                ephemeral_key_pair=KeyPair(public=public(7), private=bytes(32))
            )
        )
        for key, made in [session(1)]
    },
    "no sending chain": lambda: {
        key: made.replace(chains={public(8): next(iter(made.chains.values()))})
        for key, made in [session(1)]
    },
    "beyond its chain": lambda: {
        key: made.replace(
            chains={
                **made.chains,
                public(8): Chain(
                    chain_key=ChainKey(counter=3, key=bytes(32)),
                    chain_type=2,
                    message_keys={4: bytes(32)},
                ),
            }
        )
        for key, made in [session(1)]
    },
}


@pytest.mark.parametrize("fault", SESSION_FAULTS)
def test_sessions_that_do_not_hold_together(tmp_path: Path, fault: str) -> None:
    """The next message would fail with "Bad MAC", and verifying have said that all is well."""
    record = SessionRecord(sessions=SESSION_FAULTS[fault]())
    finding = one(findings_with(tmp_path, {"session": {"1.0": record}}), "error", fault)
    assert "session 1.0" in finding.place and finding.remedy


def test_two_open_sessions(tmp_path: Path) -> None:
    """Which session is sent on would be left to chance without a word."""
    record = SessionRecord(sessions=dict([session(1), session(2)]))
    findings = findings_with(tmp_path, {"session": {"1.0": record}})
    one(findings, "warning", "more than one session is open")


def test_an_identity_that_is_not_the_sessions(tmp_path: Path) -> None:
    """A contact's changed identity would go unseen."""
    record = SessionRecord(sessions=dict([session(1)]))
    findings = findings_with(
        tmp_path, {"session": {"1.0": record}, "identity-key": {"1.0": public(8)}}
    )
    one(findings, "warning", "not the identity of the open session")


# Groups, mappings, pre-keys.


SKIPPED = SenderMessageKey(iteration=2, seed=bytes(32))
GROUP_FAULTS: dict[str, tuple[str, tuple[SenderKeyState, ...]]] = {
    "the public key is not the private key's": (
        "error",
        (
            state(
                1,
                sender_signing_key=SenderSigningKey(public=public(4), private=bytes(32)),
            ),
        ),
    ),
    "beyond its chain": ("error", (state(1, sender_message_keys=(SKIPPED,)),)),
    "stands twice": ("warning", (state(1), state(1))),
    "6 states": ("warning", tuple(state(number) for number in range(6))),
    "2001 skipped": (
        "warning",
        (
            state(
                1,
                sender_chain_key=SenderChainKey(iteration=5000, seed=bytes(32)),
                sender_message_keys=(SKIPPED,) * 2001,
            ),
        ),
    ),
}


@pytest.mark.parametrize("fault", GROUP_FAULTS)
def test_sender_keys_that_do_not_hold_together(tmp_path: Path, fault: str) -> None:
    """A group could not be read any more, and verifying have said that all is well."""
    severity, states = GROUP_FAULTS[fault]
    records = {"sender-key": {"g::1::0": SenderKeyRecord(states=states)}}
    assert "sender-key g::1::0" in one(findings_with(tmp_path, records), severity, fault).place


def test_a_pre_key_that_does_not_fit(tmp_path: Path) -> None:
    """A contact's first message would be lost."""
    records = {"pre-key": {"1": mismatched(KeyPair.new())}}
    one(findings_with(tmp_path, records), "error", "the public key is not the private key's")


@pytest.mark.parametrize(
    ("mapping", "id"),
    [
        ({"1": "2", "2_reverse": "3", "3": "2"}, "1"),
        ({"1": "2", "2_reverse": "1", "4_reverse": "1"}, "4_reverse"),
    ],
)
def test_a_mapping_whose_way_back_leads_elsewhere(
    tmp_path: Path, mapping: dict[str, str], id: str
) -> None:
    """Messages would be encrypted to a number's former owner."""
    found = one(findings_with(tmp_path, {"lid-mapping": mapping}), "warning", "its way back")
    assert f"lid-mapping {id})" in found.place


def test_places_of_a_folder_are_its_files(tmp_path: Path) -> None:
    """A user could not find the file that is meant."""
    folder = small_baileys(tmp_path / "d")
    (folder / "lid-mapping-998877665544332_reverse.json").write_text('"1"')
    found = one(verify_device(f"baileys:{folder}"), "warning", "its way back")
    assert found.place == str(folder / FAMILY_FILES["lid-mapping"])


# The folder itself.


def test_a_stray_file_is_only_mentioned(tmp_path: Path) -> None:
    """A user would think that a file of their own is part of the device."""
    folder = small_baileys(tmp_path / "d")
    (folder / "notes.txt").write_text("x")
    (folder / "sub").mkdir()
    found = verify_device(f"baileys:{folder}")
    assert [(f.severity, f.place) for f in found] == [
        ("info", str(folder / "notes.txt")),
        ("info", str(folder / "sub")),
    ]


def test_a_left_over_file_of_baileysex(tmp_path: Path) -> None:
    """BaileysEx would fail at its next save: it makes that name exclusively."""
    copy_device(f"baileys:{BOB}", f"baileysex:{tmp_path}/d")
    (tmp_path / "d" / "creds.etf.tmp-1").write_bytes(b"")
    one(verify_device(f"baileysex:{tmp_path}/d"), "warning", "left over")


@pytest.mark.parametrize("what", ["folder", "link"])
def test_something_else_in_place_of_a_file(tmp_path: Path, what: str) -> None:
    """The record would be said to be damaged, and not why."""
    folder = small_baileys(tmp_path / "d")
    path = folder / FAMILY_FILES["tctoken"]
    path.unlink()
    if what == "folder":
        path.mkdir()
    else:
        path.symlink_to(ALICE / FAMILY_FILES["tctoken"])
    found = verify_device(f"baileys:{folder}")
    assert {(f.severity, f.place) for f in found} == {("error", str(path))}
    assert any("is not a plain file" in f.what for f in found)


def test_an_unfinished_journal(tmp_path: Path) -> None:
    """Nobody would know that the files are behind, and Node would be started on them."""
    folder = small_baileys(tmp_path / "d")
    with open_in(
        DirectoryStore("baileys", str(folder), background=False),
        "default",
        create=False,
        read_only=False,
    ) as device:
        device.set({"device-list": {"1": ["0"]}})
        crashed = private_copy(folder, tmp_path / "crashed")
    finding = one(verify_device(f"baileys:{crashed}"), "info", "1 file behind the journal")
    assert "Opening" in finding.remedy


def test_a_missing_manifest(tmp_path: Path) -> None:
    """Ids that only the manifest knew would be lost without a word."""
    copy_device(f"baileys:{BOB}", f"baileysex:{tmp_path}/d")
    (tmp_path / "d" / MANIFEST).unlink()
    one(verify_device(f"baileysex:{tmp_path}/d"), "warning", "is missing")


def test_a_manifest_that_lists_what_is_not_there(tmp_path: Path) -> None:
    """A lost session file would never be missed."""
    copy_device(f"baileys:{BOB}", f"baileysex:{tmp_path}/d")
    (tmp_path / "d" / "session-112233445566778_1.12.etf").unlink()
    one(verify_device(f"baileysex:{tmp_path}/d"), "warning", "lists session 112233445566778_1.12")


def test_ids_that_share_a_file(tmp_path: Path) -> None:
    """One of two records would silently stand for both."""
    copy_device(f"baileys:{BOB}", f"baileysex:{tmp_path}/d")
    path = tmp_path / "d" / MANIFEST
    ids = read_manifest(path.read_bytes())
    ids["device-list"] += ["a:b", "a-b"]
    path.write_bytes(write_manifest(ids))
    term = etf.encode([b"0"])
    (tmp_path / "d" / "device-list-a-b.etf").write_bytes(term)
    (tmp_path / "d" / "device-list-a-b.etf").chmod(0o600)
    one(verify_device(f"baileysex:{tmp_path}/d"), "warning", "shares its file")


def test_a_damaged_sqlite_file(tmp_path: Path) -> None:
    """A rotten page would be found only when its record is needed."""
    path = tmp_path / "d.db"
    copy_device(f"baileys:{ALICE}", f"sqlite:{path}")
    raw = bytearray(path.read_bytes())
    for page in range(8192, len(raw), 4096):
        raw[page : page + 8] = b"\xff" * 8
    path.write_bytes(raw)
    assert any(finding.severity == "error" for finding in verify_device(f"sqlite:{path}"))


def test_a_damaged_row(tmp_path: Path) -> None:
    """A changed bit in a record would be found only when the record is needed."""
    path = tmp_path / "d.db"
    copy_device(f"baileys:{ALICE}", f"sqlite:{path}")
    connection = apsw.Connection(str(path))
    connection.execute(
        "UPDATE records SET data = zeroblob(length(data)) WHERE family = 'session' AND id = ?",
        ("4917000000003.0",),
    )
    connection.close()
    finding = one(verify_device(f"sqlite:{path}"), "error", "not a record of ours")
    assert "session 4917000000003.0" in finding.place


def test_a_newer_row(tmp_path: Path) -> None:
    """A record of a newer version would be called damaged, and be thrown away."""
    path = tmp_path / "d.db"
    copy_device(f"baileys:{BOB}", f"sqlite:{path}")
    connection = apsw.Connection(str(path))
    connection.execute(
        "UPDATE records SET data = CAST(x'524b02' || substr(data, 4) AS BLOB) WHERE id = '7'"
    )
    connection.close()
    finding = one(verify_device(f"sqlite:{path}"), "error", "version 2")
    assert "Upgrade ratchetkeep" in finding.remedy


def test_an_sqlite_file_that_others_can_read(tmp_path: Path) -> None:
    """Private keys would lie open to every user of the machine."""
    copy_device(f"baileys:{BOB}", f"sqlite:{tmp_path}/d.db")
    (tmp_path / "d.db").chmod(0o644)
    found = verify_device(f"sqlite:{tmp_path}/d.db")
    assert found[0].place == str(tmp_path / "d.db")
    assert {(f.severity, f.what) for f in found} == {("warning", "can be read by other users")}


# While it is in use.


@pytest.mark.parametrize("target", TARGETS)
def test_a_device_in_use_can_be_verified(tmp_path: Path, target: str) -> None:
    """A running client would have to be stopped for it, or be called damaged."""
    url = target.format(tmp_path)
    copy_device(f"baileys:{BOB}", url)
    with open_device(url) as device:
        device.set({"device-list": {"1": ["0"]}})
        assert [f for f in verify_device(url) if f.severity != "info"] == []
        device.set({"device-list": {"2": ["0"]}})
    assert verify_device(url) == []


@pytest.mark.parametrize("kind", ["baileys", "baileysex"])
def test_a_device_that_is_being_written_can_be_verified(tmp_path: Path, kind: str) -> None:
    """A file that comes or goes meanwhile would be called damage of a sound device."""
    url = f"{kind}:{tmp_path}/t"
    copy_device(f"baileys:{BOB}", url)
    with open_device(url) as device:
        kept = device.get("pre-key", [str(number) for number in range(2, 40)])
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                device.set({"pre-key": dict.fromkeys(kept)})
                device.set({"pre-key": kept})

        writer = threading.Thread(target=write)
        writer.start()
        try:
            found = [finding for _ in range(20) for finding in verify_device(url)]
        finally:
            stop.set()
            writer.join()
    assert [finding for finding in found if finding.severity == "error"] == []


# Secrets.


def test_findings_hold_no_key_material(tmp_path: Path) -> None:
    """A report that a user sends to somebody would give the device away."""
    folder = private_copy(ALICE, tmp_path / "d")
    secrets = set()
    for path in folder.iterdir():
        document = path.read_bytes()
        for word in json.dumps(json.loads(document)).split('"'):
            if len(word) > 20 and not word.startswith(("session", "app-state")):
                secrets.add(word[:20])
        path.write_bytes(document.replace(b"A", b"B", 3)[: -1 if len(path.name) % 2 else None])
    shown = json.dumps(verify_device(f"baileys:{folder}"))
    assert shown.count("error") > 20
    names = " ".join(path.name for path in ALICE.iterdir())
    assert [s for s in secrets if s in shown and s not in names and "@" not in s] == []


def test_terms_are_verified_as_json_is(tmp_path: Path) -> None:
    """Damage that is seen in one format would pass in the other."""
    copy_device(f"baileys:{BOB}", f"baileysex:{tmp_path}/d")
    path = tmp_path / "d" / "creds.etf"
    creds = baileysex.decode(CREDENTIALS, path.read_bytes())
    spoilt = baileysex.encode(CREDENTIALS, creds.replace(noise_key=mismatched(creds.noise_key)))
    assert spoilt.data is not None
    assert canonical(spoilt.data) != canonical(path.read_bytes())
    path.write_bytes(spoilt.data)
    one(verify_device(f"baileysex:{tmp_path}/d"), "error", "noise_key")
    assert base64.b64encode(creds.noise_key.private) not in bytes_of(tmp_path / "d").values()
