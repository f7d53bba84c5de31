"""A public test kit for stores, ours and others'. It needs pytest.

:class:`StoreContract` holds the tests; :class:`Holds` says what a store's format can hold. Values
for property tests are in :mod:`ratchetkeep.testing.strategies`, and a state machine is in
:mod:`ratchetkeep.testing.stateful`; these two need Hypothesis as well.
"""

import pytest

# Before they are imported: so that a failed assertion in them shows what it compared.
pytest.register_assert_rewrite(
    "ratchetkeep.testing._damage",
    "ratchetkeep.testing._many",
    "ratchetkeep.testing._moves",
    "ratchetkeep.testing._ownership",
    "ratchetkeep.testing._records",
    "ratchetkeep.testing._transactions",
)

from .contract import Holds, StoreContract, record, record_id  # noqa: E402

__all__ = ["Holds", "StoreContract", "record", "record_id"]
