"""Ctrl-C again and again in a thread that commits beside others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PATIENCE = 120

# Each device is used until an interrupt has left a commit in doubt.
PROGRAM = """
import faulthandler, random, signal, sys, threading, time
from ratchetkeep import open_device
from ratchetkeep.errors import RatchetkeepError

def raise_interrupt(*_):
    raise KeyboardInterrupt

def after(seconds):
    signal.setitimer(signal.ITIMER_REAL, seconds)

signal.signal(signal.SIGALRM, raise_interrupt)
faulthandler.dump_traceback_later(90, exit=True)
rounds = interrupts = 0
while interrupts < 1000:
    rounds += 1
    url = f"sqlite:{sys.argv[1]}/{rounds}.db"
    device = open_device(url, create=True)
    stop = threading.Event()
    strange = []

    def commit(name):
        while not stop.is_set():
            try:
                device.set({"lid-mapping": {name: "a"}})
            except RatchetkeepError:
                return
            except BaseException as error:
                strange.append(error)
                return

    others = [threading.Thread(target=commit, args=(str(n),), daemon=True) for n in range(3)]
    for other in others:
        other.start()
    acknowledged, number, in_doubt = 0, 0, False
    while interrupts < 1000 and not in_doubt:
        try:
            try:
                after(random.uniform(0.00005, 0.004))
                for _ in range(50):
                    number += 1
                    device.set({"lid-mapping": {"main": str(number)}})
                    acknowledged = number
            except RatchetkeepError:
                in_doubt = True
            after(0)
        except KeyboardInterrupt:  # once only
            interrupts += 1
    stop.set()
    for other in others:
        other.join(20)
        assert not other.is_alive(), "a thread waits for ever"
    assert not strange, strange
    device.close()
    with open_device(url) as device:
        found = int(device.get("lid-mapping", ["main"]).get("main", "0"))
    assert found >= acknowledged, (found, acknowledged)
print("interrupted", interrupts)
"""


def test_nobody_waits_for_a_thread_that_was_interrupted(tmp_path: Path) -> None:
    """One Ctrl-C in a program that goes on would stop every other thread's commits for ever, or
    lose a commit that was acknowledged."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "interrupted 1000\n"
