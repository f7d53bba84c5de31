"""A worker of a fleet as a program: it says on stdout which devices it serves.

    python _fleet_worker.py URL

A device that is to be given back gets a last commit, as a client's would that ends its connection.
"""

from __future__ import annotations

import asyncio
import sys

from ratchetkeep import AsyncDevice
from ratchetkeep.fleet import Fleet


def say(*words: object) -> None:
    """Print at once."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def serve(device: AsyncDevice) -> None:
    """Serve until cancelled."""
    say("serves", device.name)
    try:
        await asyncio.Event().wait()
    finally:
        await device.set({"lid-mapping": {"ended": device.name}})
        say("ended", device.name)


def main() -> None:
    """Work until a signal comes."""
    fleet = Fleet(sys.argv[1], serve, poll=0.05, on_error=lambda *told: say("error", *told))
    asyncio.run(fleet.run())
    say("done")


if __name__ == "__main__":
    main()
