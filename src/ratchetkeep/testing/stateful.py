"""A Hypothesis state machine that compares a store with a plain dict."""
# ruff: noqa: S101

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ratchetkeep import Credentials, Device, open_device
from ratchetkeep.model import FAMILIES

from .strategies import Values

__all__ = ["make_store_machine"]

Records = dict[str, dict[str, Any]]


class _Undone(Exception):
    """Raised inside a transaction to undo it."""


def make_store_machine(
    make_url: Callable[[], str],
    values: Values,
    open_it: Callable[..., Device] = open_device,
) -> type[RuleBasedStateMachine]:
    """A state machine over one device; run it with ``run_state_machine_as_test``.

    :param make_url: gives a place where nothing is yet, another one each time.
    :param values: what the store's format can hold, as
        :func:`ratchetkeep.testing.strategies.values_for` gives it.
    :param open_it: opens a device: ``open_it(url, create=..., read_only=...)``.
    """

    class StoreMachine(RuleBasedStateMachine):
        """The device and what it must hold."""

        device: Device
        credentials: Credentials

        def __init__(self) -> None:
            super().__init__()
            self.records: Records = {family: {} for family in FAMILIES}

        @initialize()
        def create(self) -> None:
            self.url = make_url()
            self.device = open_it(self.url, create=True)
            self.credentials = self.device.credentials

        @rule(batch=values.batches)
        def set(self, batch: Records) -> None:
            self.device.set(batch)
            self.records = _after(self.records, batch)

        @rule(data=st.data())
        def delete(self, data: st.DataObject) -> None:
            there = [(f, id) for f, members in self.records.items() for id in members]
            if there:
                family, id = data.draw(st.sampled_from(there))
                self.device.set({family: {id: None}})
                del self.records[family][id]

        @rule(credentials=values.credentials)
        def save_credentials(self, credentials: Credentials) -> None:
            self.device.save_credentials(credentials)
            self.credentials = credentials

        @rule(
            first=values.batches,
            second=values.batches,
            last=values.batches,
            credentials=st.none() | values.credentials,
            clears=st.booleans(),
            inner_fails=st.booleans(),
            fails=st.booleans(),
        )
        def transaction(
            self,
            first: Records,
            second: Records,
            last: Records,
            credentials: Credentials | None,
            clears: bool,
            inner_fails: bool,
            fails: bool,
        ) -> None:
            expected, expected_credentials = self.records, self.credentials
            try:
                with self.device.transaction("key") as outer:
                    outer.set(first)
                    expected = _after(expected, first)
                    try:
                        with self.device.transaction("key", "other"):
                            self.device.set(second)
                            if clears:
                                self.device.clear()
                            if credentials is not None:
                                self.device.save_credentials(credentials)
                            if inner_fails:
                                raise _Undone
                    except _Undone:
                        pass
                    else:
                        expected = _after(expected, second)
                        if clears:
                            expected = {family: {} for family in FAMILIES}
                        expected_credentials = credentials or expected_credentials
                    self.device.set(last)
                    expected = _after(expected, last)
                    assert _contents(self.device) == expected
                    assert outer.credentials == expected_credentials
                    if fails:
                        raise _Undone
            except _Undone:
                pass
            else:
                self.records, self.credentials = expected, expected_credentials

        @rule()
        def clear(self) -> None:
            self.device.clear()
            self.records = {family: {} for family in FAMILIES}

        @rule(create=st.booleans())
        def reopen(self, create: bool) -> None:
            self.device.close()
            self.device = open_it(self.url, create=create)

        @rule()
        def peek(self) -> None:
            with open_it(self.url, read_only=True) as peek:
                assert _contents(peek) == self.records
                assert peek.credentials == self.credentials

        @invariant()
        def holds_what_was_set(self) -> None:
            assert _contents(self.device) == self.records
            assert self.device.credentials == self.credentials

        def teardown(self) -> None:
            if hasattr(self, "device"):
                self.device.close()

    return StoreMachine


def _after(records: Records, batch: Records) -> Records:
    """``records`` with ``batch`` set."""
    merged = {family: {**records[family], **batch.get(family, {})} for family in records}
    return {f: {id: v for id, v in m.items() if v is not None} for f, m in merged.items()}


def _contents(device: Device) -> Records:
    return {family: device.get(family, device.ids(family)) for family in FAMILIES}
