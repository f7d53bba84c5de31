"""The file of a witness: its counts only grow, and damage is never absence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ratchetkeep._witness_file import WitnessFile
from ratchetkeep.errors import CommitFailed, StoreDamaged, StoreUnreadable, UnsupportedVersion

ONE, TWO = "0" * 31 + "1", "0" * 31 + "2"


def test_counts_only_grow(tmp_path: Path) -> None:
    """A late writer would make the witness forget commits, and a put-back store be believed."""
    file = WitnessFile(str(tmp_path / "seen"))
    assert file.read() == {}
    for counts in ({ONE: 5}, {ONE: 3, TWO: 1}, {TWO: 2}):
        file.note(counts)
    assert WitnessFile(file.path).read() == {ONE: 5, TWO: 2}
    assert (tmp_path / "seen").stat().st_mode & 0o777 == 0o600


def test_processes_share_a_file(tmp_path: Path) -> None:
    """One of two processes would write over what the other one saw."""
    path = str(tmp_path / "seen")
    code = (
        "import sys; from ratchetkeep._witness_file import WitnessFile\n"
        "for n in range(1, 41):\n"
        "    for m in range(2):\n"
        "        WitnessFile(sys.argv[1]).note({f'{int(sys.argv[2]) + m:032x}': n})"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, path, str(n)]) for n in (10, 20)]
    assert [each.wait(60) for each in both] == [0, 0]
    assert WitnessFile(path).read() == {f"{n:032x}": 40 for n in (10, 11, 20, 21)}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[" * 100000,
        b"{}",
        b'{"format": "ratchetkeep-witness", "version": 1}',
        json.dumps({"format": "ratchetkeep-witness", "version": 1, "seen": {"x": 1}}).encode(),
        json.dumps({"format": "ratchetkeep-witness", "version": 1, "seen": {ONE: True}}).encode(),
        json.dumps({"format": "ratchetkeep-witness", "version": 1, "seen": {ONE: -1}}).encode(),
        json.dumps({"format": "ratchetkeep-witness", "version": 0, "seen": {}}).encode(),
    ],
)
def test_a_damaged_file_is_never_absence(tmp_path: Path, content: bytes) -> None:
    """A damaged witness would have seen nothing, so that any store is believed; or be replaced."""
    path = tmp_path / "seen"
    path.write_bytes(content)
    for call in (WitnessFile(str(path)).read, lambda: WitnessFile(str(path)).note({ONE: 1})):
        with pytest.raises(StoreDamaged):
            call()
    assert path.read_bytes() == content


def test_a_newer_file_and_no_file(tmp_path: Path) -> None:
    """What a newer version wrote would be called damaged, or a place that cannot be, empty."""
    path = tmp_path / "seen"
    path.write_text(json.dumps({"format": "ratchetkeep-witness", "version": 2, "seen": {}}))
    with pytest.raises(UnsupportedVersion):
        WitnessFile(str(path)).read()
    with pytest.raises(StoreUnreadable):
        WitnessFile(str(tmp_path)).read()
    with pytest.raises(CommitFailed):
        WitnessFile(str(tmp_path / "no" / "seen")).note({ONE: 1})
