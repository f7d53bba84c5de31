"""Names of devices as folders: any name can be one, none leads out of the tree, all come back."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _copy_all import fleet, held
from ratchetkeep import copy_all
from ratchetkeep._copy_all_names import LONGEST, folder_of, name_of
from ratchetkeep._copy_all_tree import Tree

_TEXT = "a b / % 2 F 25 %2F %25 %2E %C2%80 . .. ü 🦊 .ratchetkeep -rest -stage-1-ab creds.json"
_ODD = ["\x01", "\n", "\x7f", "\x85", " ", "x" * 189, "%" * 5]
_PIECES = st.sampled_from([*_TEXT.split(), *_ODD])
NAMES = st.one_of(
    st.lists(_PIECES, min_size=1, max_size=12).map("".join),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=255),
)


@given(NAMES, st.booleans())
def test_every_name_is_a_folder_below_the_root(name: str, closed: bool) -> None:
    """A device would be written outside of the tree, over our own files, or under a name that does
    not come back."""
    folder = folder_of(name, lambda each: closed)
    assert name_of(folder) == name
    parts = folder.split("/")
    for part in parts:
        assert part not in ("", ".", "..")
        assert len(part.encode()) <= LONGEST
        assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in part)
        assert not part.startswith(".ratchetkeep.") and ".ratchetkeep-" not in part


@given(st.lists(NAMES, min_size=1, max_size=8, unique=True))
def test_no_device_is_put_into_another(names: list[str]) -> None:
    """Reading the tree would not find it: the folder of a device is not looked through."""
    with tempfile.TemporaryDirectory() as root:
        tree = Tree("baileys", root)
        assert tree.devices() == []
        folders = [os.path.relpath(tree.place(n).target.path, root) for n in sorted(names)]
        assert len({*folders}) == len(names)
        for one in folders:
            assert not any(other.startswith(one + "/") for other in folders)
        for folder in folders:
            Path(root, folder).mkdir(parents=True)
            Path(root, folder, "creds.json").write_text("{}")
        assert {each.name for each in Tree("baileys", root).devices()} == {*names}


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("49123@s.whatsapp.net", "49123@s.whatsapp.net"),
        ("fleet/one", "fleet/one"),
        ("100%", "100%"),
        ("a%40b", "a%40b"),
        (".hidden", ".hidden"),
        ("two words", "two words"),
        ("a//b", "a%2F%2Fb"),
        ("/a", "%2Fa"),
        ("a/", "a%2F"),
        ("..", "%2E."),
        ("../../etc", "%2E./%2E./etc"),
        ("a%2Fb", "a%252Fb"),
        ("x\ny", "x%0Ay"),
        (".ratchetkeep.journal", "%2Eratchetkeep.journal"),
        ("a.ratchetkeep-rest", "a%2Eratchetkeep-rest"),
    ],
)
def test_only_what_cannot_be_a_folder_is_spelled_otherwise(name: str, folder: str) -> None:
    """Folders would not be called as the tree that they come from calls them; or the documented
    spelling would change, and a second copy would not find what the first one made."""
    assert folder_of(name, lambda each: False) == folder
    assert name_of(folder) == name


def test_odd_names_come_back_from_a_tree(tmp_path: Path) -> None:
    """A fleet with odd names would lose devices, or write outside of the folder, on its way."""
    names = ["default", "a", "a/b", "a/b/c", "/etc", "..", "../up", "x/", "é" * 255, "z" * 255]
    names += ["creds.json", "session-1", "%2F", ".", "tab\there", "b/.."]
    root = tmp_path / "within" / "tree"
    fleet(f"sqlite:{tmp_path}/one.db", names, records=0)
    there = copy_all(f"sqlite:{tmp_path}/one.db", f"baileys:{root}")
    assert there.complete, there.failed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.db", "within"]
    assert [path.name for path in (tmp_path / "within").iterdir()] == ["tree"]
    back = copy_all(f"baileys:{root}", f"sqlite:{tmp_path}/two.db")
    assert back.complete, back.failed
    assert held(f"sqlite:{tmp_path}/two.db") == held(f"sqlite:{tmp_path}/one.db")
    assert {*held(f"sqlite:{tmp_path}/two.db")} == {*names}
