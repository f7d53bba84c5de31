"""The benchmarks run: every workload on every peer, on a tiny scale. No figure is judged."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from benchmarks import report
from benchmarks.__main__ import main, measure, profiled
from benchmarks.data import Data, load
from benchmarks.fleet.counting import Messages
from benchmarks.fleet.measuring import fleet
from benchmarks.measure import Contender, Spread, rounds
from benchmarks.peers import PEERS, BareLimit, Peer
from benchmarks.target import Target, p99_ratio
from benchmarks.targets import Measured, targets
from benchmarks.workloads import Field, Scale

TINY = Scale(
    seconds=0.1,
    sizes=(20, 24),
    most_files=20,
    main=20,
    big=20,
    fewest=1,
    warm_bytes=1,
    workers=4,
    group=16,
    stock=4,
    children=1,
    stream=10,
    groups=2,
    fleets=((1, 6), (2, 8)),
    sessions=3,
    tasks=4,
    lease=1.0,
    idle=10,
    mixed=100,
)
OPTIONAL = {"LMDB": "lmdb", "waton SQLiteStorage": "waton"}
COMPARED = {"100 dict look-ups", "bare SELECT loop"}


@pytest.fixture(scope="module")
def data() -> Data:
    """The sample's sessions."""
    return load()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, data: Data) -> Iterator[tuple[Field, Measured]]:
    """One run of everything."""
    field = Field(tmp_path_factory.mktemp("benchmarks"), data, TINY)
    try:
        yield field, measure(field)
    finally:
        field.end()


def expected() -> set[str]:
    """The peers that this installation has: all but those whose package it lacks."""
    absent = {name for name, package in OPTIONAL.items() if find_spec(package) is None}
    return {peer.name for peer in PEERS} - absent


def test_every_peer_takes_part(tiny: tuple[Field, Measured]) -> None:
    """A peer would be missing from the tables although it is installed, without a word."""
    field, run = tiny
    assert set(field.missing) == {peer.name for peer in PEERS} - expected()
    for workload in ("session", "session by size", "bundle", "group", "mint"):
        assert {name for name, _ in run.times[workload]} == expected(), workload
    readers = {peer.name for peer in PEERS if peer.reads} & expected()
    for workload in ("cached get", "cold get", "open"):
        assert {name for name, _ in run.times[workload]} - COMPARED == readers, workload
    assert set(run.disk) == readers


def test_every_figure_is_positive(tiny: tuple[Field, Measured]) -> None:
    """A figure would be one of something that was not done at all."""
    _, run = tiny
    for workload, results in run.times.items():
        for key, spread in results.items():
            assert spread.count > 0, (workload, key)
            assert 0 < spread.low <= spread.p50 <= spread.high, (workload, key)
            assert spread.p99 is None or spread.p99 >= spread.high, (workload, key)
    for label, found in run.committers.items():
        assert found["one"].p50 > 0, label
        assert found["many"].p50 > 0, label
    assert {name: tuple(sizes) for name, sizes in run.memory.items()} == {
        "ratchetkeep sqlite:": (20, 24),
        "ratchetkeep baileys:": (20,),
        "ratchetkeep baileysex:": (20,),
    }
    assert all(total > 0 for sizes in run.disk.values() for total in sizes.values())
    for way, sizes in run.copies.items():
        assert sizes, way
        assert all(copied.ratio > 0 and copied.peak > 0 for copied in sizes.values()), way
    assert tuple(run.copies["sqlite: to sqlite:"]) == (20, 24)
    assert run.mint_syncs >= 1
    assert run.turn_seconds > 0


def test_the_page_and_the_results_are_whole(tiny: tuple[Field, Measured], tmp_path: Path) -> None:
    """The page would show a place that nothing was put into, or name this machine's folders."""
    field, run = tiny
    about = report.machine(tmp_path)
    page = report.as_page(run, about, field.missing, {"a title": "a profile"}, "the command")
    document = json.loads(report.as_json(run, about, field.missing, "the command"))
    assert "{{" not in page
    assert "sh\nthe command\n" in page
    assert "quick run" not in page
    assert all(row.what in page and row.unexplained for row in targets(run) if not row.profile)
    assert all(name in page for name in expected())
    assert len(document["targets"]) == len(targets(run))
    assert str(tmp_path.parent) not in page + json.dumps(document)


def test_fleets_are_measured(tiny: tuple[Field, Measured]) -> None:
    """A figure of PostgreSQL would be one of something that was not done."""
    _, run = tiny
    found = run.fleet
    assert found is not None
    assert found.settings["fsync"] == found.settings["full_page_writes"] == "on"
    assert set(found.committers) == {
        "ratchetkeep postgresql:, threads",
        "ratchetkeep postgresql:, tasks",
        "ratchetkeep sqlite:, threads",
        "ratchetkeep sqlite:, tasks",
        "bare psycopg_pool of 16, threads",
    }
    assert all(spread.p50 > 0 for rates in found.committers.values() for spread in rates.values())
    assert [(each.workers, each.devices) for each in found.loads] == [(1, 6), (2, 8)]
    for each in found.loads:
        assert each.workers <= each.connections
        assert min(each.rate, each.times.count, each.open_seconds, each.build_seconds) > 0
        assert min(each.worker_seconds, each.wal, each.updates, each.base_bytes) > 0
        assert each.grown_bytes >= each.records_bytes > 0
    # Six renewals; the server is told of them about once a second.
    assert 2 <= found.idle.transactions <= 12
    assert found.idle.seconds >= 2
    sizes = found.sizes
    assert sizes.records > 100
    assert sizes.record > sizes.data > sizes.index > 0
    assert min(sizes.device, sizes.takeover) > 50
    assert all(alone.wal > 100 for alone in found.alone.values())


def test_a_commit_is_one_round_trip(tiny: tuple[Field, Measured]) -> None:
    """A commit, with or without deletions, or one of many devices at once, would wait for the
    server more than once; or the proxy counts something else."""
    _, run = tiny
    assert run.fleet is not None
    assert [each.at_once for each in run.fleet.trips.values()] == [1, 1, TINY.workers]
    assert [each.each for each in run.fleet.trips.values()] == [1, 1, 1]
    assert all(each.trips == each.statements for each in run.fleet.trips.values())


def test_a_page_without_a_server_says_so(
    tiny: tuple[Field, Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no PostgreSQL, nothing at all could be measured."""
    _, run = tiny
    field = Field(Path("nowhere"), load(), TINY)
    monkeypatch.setattr("pgserver.programs", lambda: next(iter(())))
    assert fleet(field) == (None, {})
    assert field.missing == {"ratchetkeep postgresql:": "there is no PostgreSQL server here"}
    without = dataclasses.replace(run, fleet=None)
    page = report.as_page(without, {}, field.missing, {}, "the command")
    assert "{{" not in page
    assert "there is no server here" in page
    assert not any("postgresql" in row.what for row in targets(without))
    assert json.loads(report.as_json(without, {}, {}, "the command"))["postgresql"] is None


def test_messages_of_a_client_are_told_apart() -> None:
    """Round trips would be counted wrongly where a message comes in pieces."""
    first = (8).to_bytes(4, "big") + b"user"
    sent = first + b"Q" + (9).to_bytes(4, "big") + b"BEGIN" + b"S" + (4).to_bytes(4, "big")
    assert Messages().kinds(sent) == b"QS"
    pieces = Messages()
    assert b"".join(pieces.kinds(sent[at : at + 1]) for at in range(len(sent))) == b"QS"


def test_a_bound_is_met_from_its_own_side() -> None:
    """A missed target would be shown as met."""
    most = Target("what", 2.0, reached=2.1)
    assert not most.is_met
    assert dataclasses.replace(most, reached=2.0).is_met
    least = Target("what", 4.0, reached=3.9, at_least=True)
    assert not least.is_met
    assert dataclasses.replace(least, reached=4.0).is_met


def test_few_times_have_no_99th_percentile() -> None:
    """The longest of a few times would be shown as one that 99 of 100 are within, and judged."""
    few, some, many = (Spread.of(range(1, count + 1)) for count in (99, 299, 300))
    assert few.p99 is None
    assert some.p99 is not None
    assert p99_ratio(some, many) is None
    assert p99_ratio(many, few) is None
    assert p99_ratio(many, many) == 1
    unjudged = Target("what", 2.0, reached=None)
    assert unjudged.is_met is None
    assert not unjudged.is_missed


def test_costs_that_vary_between_sizes_are_not_flat(tiny: tuple[Field, Measured]) -> None:
    """A cost that is high at a size in the middle alone would be called flat."""
    _, run = tiny
    name = "ratchetkeep sqlite:"
    scale = dataclasses.replace(run.scale, sizes=(20, 22, 24))
    costs = {(name, size): Spread.of([cost]) for size, cost in ((20, 10), (22, 30), (24, 10))}
    by_size = {**run.times["session by size"], **costs}
    opened = {**run.times["open"], **costs}
    folders = [kind for kind, _ in run.times["open"] if kind.endswith("s:") or "ex:" in kind]
    opened |= {(kind, size): Spread.of([10]) for kind in folders for size in (20, 22, 24)}
    changed = dataclasses.replace(
        run, scale=scale, times={**run.times, "session by size": by_size, "open": opened}
    )
    flat = [row for row in targets(changed) if "highest over lowest" in row.what]
    assert [row.reached for row in flat if row.peer == name] == [3, 3]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ([], "python -m benchmarks --minutes 5"),
        (["--minutes", "2.5"], "python -m benchmarks --minutes 2.5"),
        (["--quick", "--into", "somewhere"], "python -m benchmarks --quick --into FOLDER"),
    ],
)
def test_the_page_names_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], line: str
) -> None:
    """The page would name a command that did not make it."""
    seen: list[tuple[str, bool]] = []

    def note(scale: Scale, below: Path, into: Path, command: str) -> None:
        seen.append((command, scale.quick))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("benchmarks.__main__.run", note)
    assert main(given) == 0
    assert seen == [(line, "--quick" in given)]


def test_turns_are_taken_by_all(tmp_path: Path, data: Data) -> None:
    """One peer would be measured at one time and another one later, on a disk that has changed."""
    contenders = [Contender(BareLimit(tmp_path, data, size)) for size in (1, 2, 3)]
    order = [each.peer.size for each in rounds(contenders, 0.0, 4)]
    assert [sorted(order[at : at + 3]) for at in range(0, 12, 3)] == [[1, 2, 3]] * 4


def test_a_commit_changes_what_is_stored(tmp_path: Path, data: Data) -> None:
    """A store would leave out the write and the sync of content that stays the same."""
    contender = Contender(BareLimit(tmp_path, data, 10))
    stored = {number: data.bytes_of(number, 0) for number in range(10)}
    for _ in range(50):
        ((number, content),) = contender.session().sessions
        assert data.bytes_of(number, content) != stored[number]
        stored[number] = data.bytes_of(number, content)


@pytest.mark.parametrize(
    ("workload", "store", "word"),
    [
        ("session", "sqlite", "ncalls"),
        ("bundle", "sqlite", "ncalls"),
        ("cold", "sqlite", "ncalls"),
        ("session", "postgresql", "median of bare psycopg"),
        ("committers", "postgresql", "64 threads"),
    ],
)
def test_a_profile_names_functions(
    tmp_path: Path, data: Data, workload: str, store: str, word: str
) -> None:
    """A missed target could not be explained."""
    text = profiled(workload, store, 20, 5, tmp_path, data)
    assert word in text
    assert str(tmp_path) not in text


def test_peers_are_told_apart() -> None:
    """Two peers would share a row."""
    names = [peer.name for peer in PEERS]
    assert len(set(names)) == len(names)
    assert all(issubclass(peer, Peer) for peer in PEERS)
