"""A process that has imported everything and forks devices: so a start costs no imports.

It opens no device, has no thread and no event loop. Commands and answers are lines of JSON on its
standard input and output. It reaps a dead child only when it is told to, so the id of a child means
that child until then.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from .engines import engine_class
from .probe import Spec
from .worker import live

PRELOADED = (
    "pyaileys.proto.WAProto_pb2",
    "pyaileys.signal.group",
    "WAeys.Signal.libsignal",
    "psycopg_pool",
    "ratchetkeep.stores.postgres",
)
"""What the clients and the stores import only when they first need it."""


def main() -> None:
    """Answer commands until the input ends."""
    for name in (*PRELOADED, *sys.argv[1:]):
        import_module(name)
    gc.freeze()  # a child that collects garbage need not copy these pages
    for line in sys.stdin:
        command = json.loads(line)
        sys.stdout.write(json.dumps(_do(command)) + "\n")
        sys.stdout.flush()


def _do(command: dict[str, Any]) -> dict[str, int]:
    if "reap" in command:
        _, status = os.waitpid(command["reap"], 0)
        return {"status": os.waitstatus_to_exitcode(status)}
    spec = Spec(**command["spawn"])
    engine_class(spec.engine)  # imported here, once for all children
    pid = os.fork()
    if pid == 0:
        _be_device(spec, Path(command["errors"]))
    return {"pid": pid}


def _be_device(spec: Spec, errors: Path) -> None:
    """Live, in the child, and never return."""
    status = 1
    try:
        null = os.open(os.devnull, os.O_RDWR)
        log = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        status = asyncio.run(live(spec))
    except BaseException:  # noqa: BLE001 - the parent reads it in the file
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
