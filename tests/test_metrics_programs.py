"""Programs with and without OpenTelemetry, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def program(code: str, **environment: str) -> str:
    """What a program of its own prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


WORK = """
import asyncio, sys
from ratchetkeep import open_device, open_async_device, _metrics

def imported():
    return [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]

def work():
    with open_device("memory:", create=True) as device:
        device.mint_pre_keys(3)
        device.set({"lid-mapping": {"1": "x"}})
        assert device.get("lid-mapping", ["1", "2"]) == {"1": "x"}
        assert device.pre_key_stock().held == 3
        asyncio.run(tasks())

async def tasks():
    async with open_async_device("memory:", create=True) as device:
        await device.set({"lid-mapping": {"1": "x"}})
        assert await device.get("lid-mapping", ["1"]) == {"1": "x"}
"""

SDK = """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()

def commits():
    found = reader.get_metrics_data()
    return sum(
        point.value
        for scope in (found.resource_metrics[0].scope_metrics if found else ())
        for metric in scope.metrics if metric.name == "ratchetkeep.commits"
        for point in metric.data.data_points
    )
"""

BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
"""


def test_without_opentelemetry_nothing_is_recorded() -> None:
    """A program that did not ask for metrics could not run, or would pay for them."""
    check = """
work()
assert _metrics.recorder() is None
assert imported() == []
with open_device("memory:", create=True) as device:
    print(type(device._memory._cache).__name__, device._memory._tally, device._group._recorder)
"""
    assert program(BLOCK + WORK + check) == "Cache None None\n"


def test_importing_us_does_not_import_opentelemetry() -> None:
    """Every command would start later, those that open no device too."""
    check = """
import ratchetkeep.cli, ratchetkeep.aio
print(imported())
work()
print(imported() != [])
"""
    assert program(WORK + check) == "[]\nTrue\n"


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_program_may_set_its_provider_at_any_time(order: str) -> None:
    """A program that opens its devices first would have no metrics."""
    set_up = "metrics.set_meter_provider(MeterProvider([reader]))\n"
    work = "work()\n"
    begin = set_up + work if order == "before" else work + set_up
    count = "before = commits()\nwork()\nprint(commits() - before)"
    assert program(WORK + SDK + begin + count) == "5\n"


def test_wrong_settings_of_opentelemetry_keep_no_device_shut() -> None:
    """A typing error in what the metrics need would stop the fleet."""
    code = WORK + "work(); print(_metrics.recorder())"
    assert program(code, OTEL_PYTHON_METER_PROVIDER="no such provider") == "None\n"
