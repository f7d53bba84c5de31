"""Both faces of a device are one: the same verbs, the same results, the same errors."""

from __future__ import annotations

import asyncio
import inspect
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _aio_helpers import held, held_on_disk
from ratchetkeep import (
    AsyncDevice,
    AsyncTransaction,
    Credentials,
    Device,
    KeyPair,
    RatchetkeepError,
    open_async_device,
    open_device,
)
from ratchetkeep._transaction import Transaction
from ratchetkeep.device import create_device
from ratchetkeep.model import EncodedRecord

# -- programs: lists of verbs with arguments; a transaction holds a program of its own

PAIR = KeyPair.new()
CREDENTIALS = Credentials.new()
VALUES: dict[str, Any] = {
    "lid-mapping": st.sampled_from(["a", "b"]),
    "device-list": st.just(("0", "1")),
    "pre-key": st.just(PAIR),
    "session": st.just(EncodedRecord(encoding="own", data=b"bytes")),
}
WRONG = st.sampled_from([7, b"", "", object])
IDS = st.sampled_from(["1", "2", "3", "60"])
FAMILIES = st.sampled_from([*VALUES, *VALUES, "no family"])


def _records() -> st.SearchStrategy[Any]:
    families = {
        family: st.dictionaries(IDS, st.none() | value, max_size=3)
        for family, value in VALUES.items()
    }
    right = st.fixed_dictionaries({}, optional=families)
    wrong: st.SearchStrategy[Any] = st.one_of(
        st.dictionaries(FAMILIES, st.dictionaries(IDS, WRONG, max_size=2), max_size=1),
        st.sampled_from([None, [], {"session": None}, {1: {}}, {"session": {"": None}}]),
    )
    return st.one_of(right, right, right, wrong)


LISTS = st.lists(IDS, max_size=4) | st.sampled_from(["60", [1], [""], [None], (), ("1", "1")])
NUMBERS = st.integers(-1, 6)
CHANGES = st.fixed_dictionaries(
    {}, optional={"platform": st.sampled_from(["a", "b"]), "registered": st.booleans()}
)
KEYS = st.lists(st.sampled_from(["k", "l", "credentials", "pre-key 1"]), max_size=2)
INSIDE = st.one_of(
    st.tuples(st.just("get"), FAMILIES, LISTS),
    st.tuples(st.just("set"), _records()),
    st.tuples(st.just("consume_pre_key"), st.sampled_from([1, "2", 3, "x", 60])),
    st.tuples(st.just("save_credentials"), CHANGES),
    st.tuples(st.just("credentials")),
)
VERBS = st.one_of(
    st.tuples(st.just("get"), FAMILIES, LISTS),
    st.tuples(st.just("set"), _records()),
    st.tuples(st.just("ids"), FAMILIES),
    st.tuples(st.just("save_credentials"), CHANGES),
    st.tuples(st.just("save_credentials"), st.none()),
    st.tuples(st.just("credentials")),
    st.tuples(st.just("in_transaction")),
    st.tuples(st.just("clear")),
    st.tuples(st.just("mint_pre_keys"), NUMBERS),
    st.tuples(st.just("mark_pre_keys_uploaded"), NUMBERS),
    st.tuples(st.just("unuploaded_pre_keys")),
    st.tuples(st.just("pre_key_stock")),
)
PROGRAMS: st.SearchStrategy[list[Any]] = st.recursive(
    st.lists(VERBS, max_size=5),
    lambda inner: st.lists(
        VERBS
        | st.tuples(st.just("inside"), INSIDE)
        | st.tuples(st.just("transaction"), KEYS, inner, st.booleans()),
        max_size=6,
    ),
    max_leaves=4,
)


class Fails(Exception):
    """What a program raises in a block of its own."""


def shown(verb: str, result: Any) -> Any:
    """A result, so that it can be compared: keys that are minted are random."""
    if verb in ("mint_pre_keys", "unuploaded_pre_keys"):
        return list(result)
    if verb == "get" and isinstance(result, dict):
        return [(id, type(v) if isinstance(v, KeyPair) else v) for id, v in result.items()]
    return type(result) if isinstance(result, KeyPair) else result


def failure(error: Exception) -> Any:
    """Which error, where, and what it says."""
    if isinstance(error, RatchetkeepError):
        # memory: places are called by names of their own.
        return type(error), error.what, error.remedy
    return type(error)


def argument(device: Device | AsyncDevice, verb: str, rest: tuple[Any, ...]) -> tuple[Any, ...]:
    if verb == "save_credentials" and rest[0] is not None:
        return (device.credentials.replace(**rest[0]),)
    return rest


def run(device: Device, program: list[Any], tx: Transaction | None = None) -> list[Any]:
    """A program on the synchronous face, and what came of each verb."""
    said: list[Any] = []
    for verb, *rest in program:
        on: Any = device
        name, args = verb, tuple(rest)
        if verb == "inside":
            if tx is None:
                continue
            on, (name, *args) = tx, rest[0]
        try:
            if name == "transaction":
                keys, inner, fails = args
                with device.transaction(*keys) as nested:
                    said.append(run(device, inner, nested))
                    if fails:
                        raise Fails
                continue
            result = getattr(on, name)
            if callable(result):
                result = result(*argument(device, name, tuple(args)))
            said.append((name, shown(name, result)))
        except (Fails, RatchetkeepError, TypeError) as error:
            said.append((name, failure(error)))
    return said


async def run_async(
    device: AsyncDevice, program: list[Any], tx: AsyncTransaction | None = None
) -> list[Any]:
    """The same on the asyncio face."""
    said: list[Any] = []
    for verb, *rest in program:
        on: Any = device
        name, args = verb, tuple(rest)
        if verb == "inside":
            if tx is None:
                continue
            on, (name, *args) = tx, rest[0]
        try:
            if name == "transaction":
                keys, inner, fails = args
                async with device.transaction(*keys) as nested:
                    said.append(await run_async(device, inner, nested))
                    if fails:
                        raise Fails
                continue
            result = getattr(on, name)
            if callable(result):
                result = await result(*argument(device, name, tuple(args)))
            said.append((name, shown(name, result)))
        except (Fails, RatchetkeepError, TypeError) as error:
            said.append((name, failure(error)))
    return said


def comparable(held: dict[str, Any]) -> Any:
    """What is held, without the random keys."""
    return {
        name: [(id, type(v) if isinstance(v, KeyPair) else v) for id, v in found.items()]
        if name != "credentials"
        else found
        for name, found in held.items()
    }


@contextmanager
def two_places(kind: str) -> Iterator[tuple[str, str]]:
    if kind == "memory":
        yield f"memory:{uuid.uuid4()}", f"memory:{uuid.uuid4()}"
        return
    with tempfile.TemporaryDirectory() as above:
        yield f"{kind}:{above}/one", f"{kind}:{above}/two"


def compare(kind: str, program: list[Any]) -> None:
    with two_places(kind) as (one, two):

        async def main() -> tuple[list[Any], dict[str, Any]]:
            async with open_async_device(two, initial=CREDENTIALS) as device:
                return await run_async(device, program), held(device._core)

        with create_device(one, CREDENTIALS) as device:
            expected, left = run(device, program), comparable(held(device))
        said, found = asyncio.run(main())
        assert said == expected
        assert comparable(found) == left
        assert comparable(held_on_disk(one)) == left
        assert held_on_disk(two) == found


@given(PROGRAMS)
@settings(max_examples=150, deadline=None)
def test_any_program_does_the_same_on_both_faces(program: list[Any]) -> None:
    """A program that moves to asyncio would get other results, other errors, or store something
    else."""
    compare("memory", program)


@pytest.mark.parametrize("kind", ["sqlite", "baileysex"])
@given(program=PROGRAMS)
@settings(max_examples=15, deadline=None)
def test_any_program_does_the_same_on_disk(kind: str, program: list[Any]) -> None:
    """The same, where commits are made in another thread and records are read from a disk."""
    compare(kind, program)


# -- signatures


def members(kind: type) -> dict[str, Any]:
    """What a class itself offers."""
    return {name: member for name, member in vars(kind).items() if not name.startswith("_")}


def parameters(call: Callable[..., Any]) -> list[tuple[str, Any, Any, str]]:
    found = inspect.signature(call).parameters.values()
    return [(p.name, p.kind, p.default, str(p.annotation)) for p in found]


@pytest.mark.parametrize(
    ("plain", "awaited"), [(Device, AsyncDevice), (Transaction, AsyncTransaction)]
)
def test_both_faces_offer_the_same(plain: type, awaited: type) -> None:
    """A verb, an argument or a default would be missing on one face, or mean something else."""
    one, two = members(plain), members(awaited)
    assert set(one) == set(two)
    for name, member in one.items():
        other = two[name]
        assert other.__doc__, f"{name} is not documented"
        if isinstance(member, property):
            assert isinstance(other, property)
            assert member.fget.__annotations__ == other.fget.__annotations__
            continue
        assert parameters(member) == parameters(other), name
        if name in ("transaction", "on_lost"):
            assert not inspect.iscoroutinefunction(other), "it is entered or called, not awaited"
            continue
        assert inspect.iscoroutinefunction(other), name
        returns = inspect.signature(member).return_annotation
        assert inspect.signature(other).return_annotation == returns, name


def test_both_are_opened_alike() -> None:
    """A device would be opened with other arguments, or other defaults."""
    plain, awaited = parameters(open_device), parameters(open_async_device)
    assert awaited[: len(plain)] == plain
    assert [name for name, *_ in awaited[len(plain) :]] == ["initial"]
    for name in ("__enter__", "__exit__"):
        assert hasattr(Device, name)
        assert inspect.iscoroutinefunction(getattr(AsyncDevice, name.replace("__", "__a", 1)))


def test_a_repr_shows_no_key() -> None:
    """A log line with a device in it would give the account away."""

    async def main() -> tuple[str, str, str]:
        async with open_async_device("memory:shown", create=True) as device:
            async with device.transaction() as tx:
                await tx.set({"lid-mapping": {"1": "a secret name"}})
                inside = repr(tx)
            before = repr(device)
        return before, inside, repr(device)

    before, inside, after = asyncio.run(main())
    assert before == "<AsyncDevice 'default' in memory:shown (open)>"
    assert after == "<AsyncDevice 'default' in memory:shown (closed)>"
    assert "secret" not in inside
