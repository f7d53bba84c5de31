"""Pre-key accounting: minting, upload, use, stock, and ids that wrap."""

from __future__ import annotations

import threading

import pytest

from ratchetkeep import InvalidValue, KeyPair, open_device, prekeys
from ratchetkeep.model import Credentials


@pytest.mark.parametrize("next_id", [1, 2, 100, prekeys.MAX_PRE_KEY_ID])
def test_an_id_that_was_never_minted_cannot_be_marked(next_id: int) -> None:
    """A client that marks one too many would not be told, and would take the next minted one for
    uploaded."""
    credentials = Credentials.new().replace(
        next_pre_key_id=next_id, first_unuploaded_pre_key_id=next_id
    )
    with pytest.raises(InvalidValue, match="minted"):
        prekeys.uploaded(next_id, credentials)


def test_one_pre_key_is_consumed_once_by_threads() -> None:
    """Two first messages that name one pre-key would both be taken, at once."""
    with open_device("memory:", create=True) as device:
        device.set({"pre-key": {"5": KeyPair.new()}})
        begun = threading.Barrier(2, timeout=30)
        outcomes: list[str] = []

        def message() -> None:
            try:
                with device.transaction() as transaction:
                    begun.wait()
                    transaction.consume_pre_key(5)
                outcomes.append("taken")
            except InvalidValue:
                outcomes.append("refused")

        for _ in range(20):
            device.set({"pre-key": {"5": KeyPair.new()}})
            threads = [threading.Thread(target=message) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert sorted(outcomes) == ["refused"] * 20 + ["taken"] * 20
