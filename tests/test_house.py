"""The structure that the code keeps: who imports whom, what is public, how large a module is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ratchetkeep

SOURCE = Path(ratchetkeep.__file__).parent
ROOT = SOURCE.parents[1]

# From the top down. A module imports from its own layer and from those below it only.
LAYERS = [
    ["__main__"],
    ["cli"],
    ["native_file", "multi_file", "migrate", "inspect"],
    ["restore", "_cold", "_cold_ids", "_cold_proof", "_cold_store"],
    ["backup", "_backup_age", "_backup_file", "_backup_format", "_backup_place"],
    [
        "prune",
        "_prune_caches",
        "_prune_policy",
        "_prune_ratchets",
        "_prune_records",
        "_prune_survey",
        "reseal",
    ],
    ["_auth_state"],
    ["clients"],
    ["fleet", "_fleet_service", "_fleet_shares", "_fleet_pauses"],
    ["aio"],
    ["_device_store"],
    ["device", "_block", "_transaction"],
    ["_memory", "_cache", "_locks", "prekeys"],
    ["witness", "_witness_file", "_witness_store"],
    ["commit"],
    ["repair", "_repair_folder", "_repair_sqlite", "_repair_job"],
    [
        "copy",
        "copy_all",
        "_copy_all_among",
        "_copy_all_job",
        "_copy_all_names",
        "_copy_all_places",
        "_copy_all_pool",
        "_copy_all_run",
        "_copy_all_sum",
        "_copy_all_tree",
        "_copy_child",
        "_copy_plan",
        "_copy_pool",
        "_copy_run",
        "_copy_source",
        "_copy_spelling",
        "_copy_trial",
        "_merge",
        "_rest",
        "_spool",
        "_retire",
        "verify",
        "_checker",
    ],
    ["stores"],
    ["sealing"],
    ["formats"],
    ["model"],
    ["errors", "_metrics"],
]
HEIGHT = {name: height for height, layer in enumerate(reversed(LAYERS)) for name in layer}
MODULES = sorted(path for path in SOURCE.rglob("*.py"))


def layer_of(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """First names below the package that a module imports, type-checking imports too."""
    package = ["ratchetkeep", *path.relative_to(SOURCE).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = base + (node.module.split(".") if node.module else [])
            names = [[*stem, alias.name] for alias in node.names]
        else:
            continue
        found |= {name[1] for name in names if name[0] == "ratchetkeep" and len(name) > 1}
    return found & {layer_of(module) for module in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down(path: Path) -> None:
    """A layer would depend on one above it, and could no longer be read or tested by itself."""
    layer = layer_of(path)
    if layer in ("__init__", "testing"):
        return  # the public names, and the kit that tests all layers
    assert layer in HEIGHT, f"{layer} has no place in the house"
    higher = {name for name in imported(path) if HEIGHT[name] > HEIGHT[layer]}
    assert higher == set()


def test_public_names() -> None:
    """A public name would be missing, or one would be public by accident."""
    assert ratchetkeep.__all__ == sorted(ratchetkeep.__all__)
    assert all(hasattr(ratchetkeep, name) for name in ratchetkeep.__all__)
    errors = {name for name, each in vars(ratchetkeep.errors).items() if isinstance(each, type)}
    assert errors <= set(ratchetkeep.__all__)


def test_every_error_stands_in_the_tree() -> None:
    """The tree in the docs of the errors would not be the tree."""
    drawn = ratchetkeep.errors.__doc__
    assert drawn is not None
    for name in ratchetkeep.errors.__all__:
        assert f" {name} " in drawn or f"    {name}\n" in drawn, name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_modules_fit_in_one_reading(path: Path) -> None:
    """A module would grow until nobody reads it whole."""
    assert len(path.read_text().splitlines()) <= 500
