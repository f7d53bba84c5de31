"""What BaileysEx's compat JSON backend wrote in its first versions, which it still reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from _helpers import OTP29, key_of, records
from ratchetkeep import DecodeError, open_device
from ratchetkeep.formats import baileysex, baileysex_json, etf
from ratchetkeep.formats._elixir_json import is_printable
from ratchetkeep.model import CREDENTIALS, Key

MEMO = Key("sender-key-memory", "1@g.us")


def old_spelling(term: Any) -> Any:
    """A term as the first versions of the backend spelled it."""
    if isinstance(term, etf.Atom):
        plain = {"nil": None, "true": True, "false": False}
        return plain.get(term.name, {"__type__": "atom", "value": term.name})
    if isinstance(term, etf.Map):
        return _old_map(term)
    if isinstance(term, list):
        return [old_spelling(each) for each in term]
    if isinstance(term, tuple):
        return {"__type__": "tuple", "items": [old_spelling(each) for each in term]}
    if isinstance(term, bytes):
        return term.decode() if is_printable(term) else {"type": "Buffer", "data": list(term)}
    return term


def _old_map(term: Any) -> Any:
    struct = term.get(etf.Atom("__struct__"))
    if isinstance(struct, etf.Atom):
        rest = etf.Map(tuple(pair for pair in term.items() if pair[0].name != "__struct__"))
        value = old_spelling(rest)
        return {"__type__": "struct", "module": struct.name, "value": value}
    atoms = [name.name for name in term if isinstance(name, etf.Atom)]
    names = [name for name in term if isinstance(name, bytes) and is_printable(name)]
    if len(atoms) + len(names) < len(term):
        pairs = [[old_spelling(name), old_spelling(each)] for name, each in term.items()]
        return {"__type__": "map", "entries": pairs}
    members = {
        name.name if isinstance(name, etf.Atom) else name.decode(): old_spelling(each)
        for name, each in term.items()
    }
    return {**members, "__atom_keys__": atoms} if atoms else members


@pytest.mark.parametrize("path", records(OTP29), ids=lambda path: path.name)
def test_files_of_its_first_versions_are_read(path: Path) -> None:
    """A folder that was begun with an early BaileysEx, and its pre-keys, could not be opened."""
    key, term = key_of(path), etf.decode(path.read_bytes())
    if key == CREDENTIALS:
        pairs = term.items() if isinstance(term, etf.Map) else ()
        kept = [pair for pair in pairs if pair[0] != etf.Atom("additional_data")]
        term = etf.Map((*kept, (etf.Atom("additional_data"), [b"\xff", 1, (b"a",)])))
    raw = json.dumps(old_spelling(term)).encode()
    assert baileysex_json.decode(key, raw) == baileysex.decode(key, etf.encode(term))


@pytest.mark.parametrize(
    "raw",
    [
        '{"__type__":"atom","value":7}', '{"__type__":"map","entries":[[1]]}',
        '{"__type__":"map","entries":[[1,2],[1,3]]}',
        '{"__type__":"struct","module":"A","value":1}',
        '{"__type__":"tuple","items":{}}', '{"__atom_keys__":{}}', '{"__atom_keys__":"public"}',
        '{"type":"Buffer","data":[256]}', '{"type":"Buffer","data":["1"]}',
        json.dumps({"__type__": "atom", "value": "a" * 256}),
        json.dumps({"__atom_keys__": ["a" * 256], "a" * 256: 1}),
        '{"__type__":"pid"}',
    ],
)  # fmt: skip
def test_a_damaged_old_spelling_is_refused(raw: str) -> None:
    """A damaged record would be read as another one, or end with an error that is not ours."""
    for key in (CREDENTIALS, MEMO, Key("pre-key", "1"), Key("identity-key", "1.0")):
        with pytest.raises(DecodeError):
            baileysex_json.decode(key, raw.encode())


def test_the_first_versions_kept_no_manifest(tmp_path: Path) -> None:
    """A folder of an early BaileysEx would be taken for Baileys' own and called damaged."""
    (tmp_path / "d").mkdir(mode=0o700)
    term = etf.decode((OTP29 / "creds.etf").read_bytes())
    assert isinstance(term, etf.Map)
    kept = [pair for pair in term.items() if pair[0] != etf.Atom("additional_data")]
    state = etf.Map((*kept, (etf.Atom("additional_data"), etf.Atom("nil"))))
    (tmp_path / "d" / "creds.json").write_text(json.dumps(old_spelling(state)))
    with open_device(str(tmp_path / "d"), read_only=True) as device:
        assert device.credentials.registration_id == 8339
