"""The plans for fleets are worked out as their page says, and what the page tells to do works."""

from __future__ import annotations

import json
import re

import psycopg
import pytest
from benchmarks.__main__ import INTO, PLAN, main
from benchmarks.fleet import plan
from benchmarks.fleet.plan import Assumptions, Costs

import pgserver
from ratchetkeep import open_device, open_store

ONE = Costs(**dict.fromkeys(Costs.__dataclass_fields__, 1.0))


def test_a_plan_is_worked_out_as_it_says() -> None:
    """A fleet would be given a hundredth of what it needs."""
    given = Assumptions(messages=100, commits=2, records=50, peak=4, share=500)
    found = {row.what: row.value for row in plan.plan(ONE, given, 864_000)}
    assert found["rows of `records`"] == "43,200,000"
    assert found["size of the tables"] == "44.9 MB"  # 864,000 times 50 + 1 + 1
    assert found["commits in a day"] == "172,800,000"
    assert found["commits per second, mean"] == "2,000"
    assert found["commits per second, peak"] == "8,000"
    assert found["log in a day, at most"] == "173 MB"
    assert found["days to 200 million transactions"] == "1.16"
    assert found["processors of the server, peak"] == "8,000"
    assert found["workers"] == found["connections in use"] == "1,728"
    assert found["memory of a worker, at least"] == "501 B"
    assert found["memory of a worker that has read all records"] == "10.1 MB"
    assert found["connections at most"] == "13,824"
    assert found["renewals per second"] == "173"
    assert found["a worker opens its devices in"] == "500 s"


def test_the_page_has_the_figures_of_the_last_run() -> None:
    """The plans would be of a run whose figures are nowhere; run the benchmarks again, or write
    the page of their results."""
    document = json.loads((INTO / "results.json").read_text())
    assert PLAN.read_text() == plan.page(document)
    assert "{{" not in PLAN.read_text()


def test_the_command_plans_what_it_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody could plan a fleet of their own."""
    assert main(["plan", "--devices", "7", "7000", "--messages", "10", "--commits", "2"]) == 0
    shown = capsys.readouterr().out
    assert "| 7 devices | 7,000 devices |" in shown
    assert re.search(r"commits in a day .*\| 140 \| 140,000 \|", shown)


def _partitioning() -> str:
    """The statements of the page, which partition records, and the same for devices."""
    blocks: list[str] = re.findall(
        r"^```text\n(BEGIN;.*?)^```$", PLAN.read_text(), re.MULTILINE | re.DOTALL
    )
    (records,) = blocks
    devices = records.replace("records", "devices").replace("HASH (device)", "HASH (id)")
    return records + devices.replace("fillfactor = 80", "fillfactor = 50")


def test_partitioned_tables_hold_devices() -> None:
    """Whoever partitions the tables as the page says would find that the store does not work."""
    with pgserver.running() as server:
        url = server.new_database()
        with open_device(f"{url}&device=before", create=True) as device:
            device.mint_pre_keys(3)
            minted = device.get("pre-key", device.ids("pre-key"))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_partitioning().encode())
        with open_device(f"{url}&device=before") as device:
            assert device.get("pre-key", device.ids("pre-key")) == minted
            device.set({"pre-key": dict.fromkeys(minted, None)} | {"lid-mapping": {"1": "2"}})
        with open_store(url) as store:
            for number in range(8):
                with store.create(f"new-{number}") as device:
                    device.set({"lid-mapping": {"1": str(number)}})
            store.remove("new-0")
            assert store.devices() == ["before", *(f"new-{number}" for number in range(1, 8))]
            with store.open("before") as device:
                assert device.ids("pre-key") == []
                assert device.get("lid-mapping", ["1"]) == {"1": "2"}
        with psycopg.connect(url) as connection:
            used = connection.execute("SELECT DISTINCT tableoid::regclass FROM ratchetkeep.records")
            assert len(used.fetchall()) > 2
