"""What all tests stand on."""

import signal
import sys
from collections.abc import Iterator

import pytest

# A shell starts background jobs with Ctrl-C ignored, and they hand that down to what they start:
# the tests that interrupt a program would wait for ever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def _no_database_stays_open() -> Iterator[None]:
    """Connections that a module left open would be made again and again after its server is gone,
    by threads that draw random numbers: Hypothesis takes those for a strategy's."""
    yield
    hub = sys.modules.get("ratchetkeep.stores._postgres_hub")
    if hub is not None:
        hub.Hub.close_all()
