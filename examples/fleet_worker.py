"""A worker of a fleet: serves devices of a PostgreSQL database, beside others that do the same.

    pip install '.[postgres]'       (in a checkout of ratchetkeep)
    python examples/fleet_worker.py postgresql://fleet@db.example/fleet my_bot:serve

``my_bot:serve`` is a coroutine function that takes an AsyncDevice: it connects the device with your
client library, and ends the connection when it is cancelled. Without it the worker holds its
devices and does nothing with them. Start as many workers as you like; they share the devices.
SIGTERM and Ctrl-C give all of them back.

With --metrics 9464 Prometheus finds the worker's metrics at http://HOST:9464/metrics; that needs
pip install '.[metrics]' opentelemetry-sdk opentelemetry-exporter-prometheus
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ratchetkeep import AsyncDevice

Serve = Callable[["AsyncDevice"], Awaitable[None]]


def say(*words: object) -> None:
    """Print at once, also into a pipe."""
    print(*words, flush=True)


async def hold(device: AsyncDevice) -> None:
    """Hold a device until it is to be given back."""
    stock = await device.pre_key_stock()  # from now on it is in the metrics
    say(f"{device.name}: held, with {stock.held} pre-keys")
    try:
        await asyncio.Event().wait()
    finally:
        say(f"{device.name}: no longer held")


def serve_of(name: str | None) -> Serve:
    """The function that ``module:function`` names."""
    if name is None:
        return hold
    module, _, function = name.partition(":")
    sys.path.insert(0, "")  # this folder's modules, as with python -m
    found: Serve = getattr(import_module(module), function)
    return found


def tell(name: str, error: BaseException) -> None:
    """Say what went wrong. What a client's error says may hold secrets: only its kind is shown."""
    from ratchetkeep import RatchetkeepError
    from ratchetkeep.fleet import Unfinished

    is_ours = isinstance(error, RatchetkeepError | Unfinished)
    say(f"{name or 'database'}: {error if is_ours else type(error).__name__}")


def export_metrics(port: int) -> None:
    """Have Prometheus find the metrics at this port."""
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from opentelemetry.metrics import set_meter_provider
    from opentelemetry.sdk.metrics import MeterProvider
    from prometheus_client import start_http_server

    set_meter_provider(MeterProvider([PrometheusMetricReader()]))
    start_http_server(port)


def main() -> None:
    """Read the command line and work."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="postgresql://USER@HOST/DATABASE")
    parser.add_argument("serve", nargs="?", help="module:function; without it, devices are held")
    parser.add_argument("--capacity", type=int, default=1000, help="devices at most (1000)")
    parser.add_argument("--poll", type=float, default=5, help="seconds between two looks (5)")
    parser.add_argument("--drain", type=float, default=30, help="seconds that a task may end in")
    parser.add_argument("--metrics", type=int, metavar="PORT", help="export metrics there")
    arguments = parser.parse_args()
    from ratchetkeep import RatchetkeepError
    from ratchetkeep.fleet import Fleet

    try:
        if arguments.metrics is not None:
            export_metrics(arguments.metrics)
        fleet = Fleet(
            arguments.url,
            serve_of(arguments.serve),
            capacity=arguments.capacity,
            poll=arguments.poll,
            drain=arguments.drain,
            on_error=tell,
        )
        asyncio.run(fleet.run())
    except (RatchetkeepError, ImportError, AttributeError, OSError) as error:
        sys.exit(f"error: {error}")
    say("all devices are given back")


if __name__ == "__main__":
    main()
