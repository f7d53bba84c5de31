"""The rules of the locks by name: one holder, nesting, order, and refusal where waiting never ends.

Directly on :class:`KeyLocks`, where no thread or task blurs who came first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratchetkeep._locks import Holder, KeyLocks, Wait
from ratchetkeep.errors import InvalidValue


def ignored() -> bool:
    """A waker of one who looks by itself."""
    return True


def ask(locks: KeyLocks, holder: Holder, *names: str) -> Wait | None:
    return locks.ask(holder, names, ignored)


def holding(locks: KeyLocks, *names: str, outer: Holder | None = None) -> Holder:
    """A new holder that got ``names`` at once."""
    holder = Holder(outer)
    assert ask(locks, holder, *names) is None
    return holder


def is_free(locks: KeyLocks, name: str) -> bool:
    """True if a newcomer gets the name."""
    stranger = Holder()
    wait = ask(locks, stranger, name)
    if wait is None:
        locks.give_back(stranger, keep=False)
        return True
    assert locks.withdraw(wait)
    return False


def assert_nothing_stays(locks: KeyLocks) -> None:
    assert (locks._holders, locks._queues, locks._waits) == ({}, {}, {})


# -- nesting


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_lock_outlives_failed_ones_inside(depth: int) -> None:
    """Two transactions would hold one lock, and a ratchet step be lost: the outermost holds it,
    something in the middle inherits it from what is inside and fails, and the outermost goes on."""
    locks = KeyLocks()
    outermost = holding(locks, "k")
    middle: list[Holder] = []
    for _ in range(depth):
        middle.append(Holder(middle[-1] if middle else outermost))
    inner = holding(locks, "k", outer=middle[-1])
    locks.give_back(inner, keep=True)
    for holder in reversed(middle):
        locks.give_back(holder, keep=False)
    assert not is_free(locks, "k")
    locks.give_back(outermost, keep=False)
    assert is_free(locks, "k")
    assert_nothing_stays(locks)


def test_what_a_failed_one_took_is_free_again() -> None:
    """A part that failed would keep others out until the outermost ends."""
    locks = KeyLocks()
    outermost = holding(locks, "a")
    inner = holding(locks, "a", "b", outer=outermost)
    locks.give_back(inner, keep=False)
    assert is_free(locks, "b")
    assert not is_free(locks, "a")
    locks.give_back(outermost, keep=False)
    assert_nothing_stays(locks)


def test_what_an_inner_one_took_goes_outward() -> None:
    """Changes that are not committed yet would stand without their lock."""
    locks = KeyLocks()
    outermost = Holder()
    middle = Holder(outermost)
    locks.give_back(holding(locks, "k", outer=middle), keep=True)
    assert not is_free(locks, "k")
    locks.give_back(middle, keep=True)
    assert not is_free(locks, "k")
    locks.give_back(outermost, keep=False)
    assert_nothing_stays(locks)


def test_siblings_exclude_each_other() -> None:
    """Two tasks of one transaction would both work under one lock."""
    locks = KeyLocks()
    outer = holding(locks, "k")
    first, second = Holder(outer), Holder(outer)
    assert ask(locks, first, "k") is None
    wait = ask(locks, second, "k")
    assert wait is not None
    locks.give_back(first, keep=True)
    assert wait.is_over
    locks.give_back(second, keep=True)
    assert not is_free(locks, "k")
    locks.give_back(outer, keep=False)
    assert_nothing_stays(locks)


def test_an_inner_one_that_outlives_its_outer_one_frees_what_it_took() -> None:
    """The lock of a task that nobody waited for would be held for ever."""
    locks = KeyLocks()
    outer = holding(locks, "a")
    inner = holding(locks, "a", "b", outer=outer)
    locks.give_back(outer, keep=False)
    assert not is_free(locks, "a")
    locks.give_back(inner, keep=False)
    assert is_free(locks, "a")
    assert_nothing_stays(locks)


# -- order


def test_all_that_wait_get_their_turn_in_line() -> None:
    """Whoever waits longest would wait for ever while newcomers go before."""
    locks = KeyLocks()
    order: list[int] = []
    holder = holding(locks, "k")
    waiting = []

    def come(number: int) -> bool:
        order.append(number)
        return True

    for number in range(50):
        each = Holder()
        assert locks.ask(each, ["k"], partial(come, number)) is not None
        waiting.append(each)
    for number, each in enumerate([holder, *waiting]):
        assert order == list(range(number))
        locks.give_back(each, keep=False)
    assert order == list(range(50))
    assert_nothing_stays(locks)


def test_who_cannot_be_woken_stands_in_nobody_s_way() -> None:
    """A task whose event loop was closed would be granted a lock, and keep it for ever."""
    locks = KeyLocks()
    holder, gone = holding(locks, "a", "b"), [Holder(), Holder()]
    for each in gone:
        assert locks.ask(each, ["a", "b"], lambda: False) is not None
    behind = ask(locks, Holder(), "b")
    assert behind is not None
    locks.give_back(holder, keep=False)
    assert all(each.has_ended for each in gone)
    assert behind.is_over
    locks.give_back(behind.holder, keep=False)
    assert_nothing_stays(locks)


def test_one_that_waits_for_several_is_not_overtaken() -> None:
    """A transaction that names two keys would starve among those that name one."""
    locks = KeyLocks()
    first = holding(locks, "a")
    both = Holder()
    wait = ask(locks, both, "a", "b")
    assert wait is not None
    late = ask(locks, Holder(), "b")
    assert late is not None, "b is free, but somebody is first in line"
    locks.give_back(first, keep=False)
    assert wait.is_over and not late.is_over
    locks.give_back(both, keep=False)
    assert late.is_over


def test_an_outermost_one_is_not_starved_by_inner_ones() -> None:
    """save_credentials() would never return while messages keep coming, each of which saves the
    credentials inside its own transaction."""
    locks = KeyLocks()
    current = Holder()
    locks.give_back(holding(locks, "credentials", outer=current), keep=True)
    plain = ask(locks, Holder(), "credentials")
    assert plain is not None
    for _ in range(20):
        message = Holder()
        inner = Holder(message)
        wait = ask(locks, inner, "credentials")
        locks.give_back(current, keep=False)
        if plain.is_over:
            return
        assert wait is None or wait.is_over
        locks.give_back(inner, keep=True)
        current = message
    raise AssertionError("twenty that came later went before")


def test_an_inner_one_that_waits_for_several_is_not_overtaken() -> None:
    """An inner transaction that names two keys would starve among newcomers that name one."""
    locks = KeyLocks()
    holder = holding(locks, "a")
    inner = Holder(holding(locks, "c"))
    wait = ask(locks, inner, "a", "b")
    assert wait is not None
    newcomer = Holder()
    assert ask(locks, newcomer, "b") is not None, "it holds nothing, so it can wait"
    locks.give_back(holder, keep=False)
    assert wait.is_over


def test_an_inner_one_goes_before_who_waits_for_its_own() -> None:
    """A transaction would be refused, or hang, because somebody stands in line for its lock."""
    locks = KeyLocks()
    outer = holding(locks, "a")
    both = ask(locks, Holder(), "a", "b")
    assert both is not None
    inner = holding(locks, "b", outer=outer)
    locks.give_back(inner, keep=True)
    assert not both.is_over
    locks.give_back(outer, keep=False)
    assert both.is_over


def test_a_long_line_of_inner_ones_is_not_gone_through_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten thousand messages that save the credentials would take minutes: the work for each would
    grow with how many wait."""
    tries = 0
    plain = KeyLocks._blockers

    def counted(self: KeyLocks, *args: object) -> set[Holder]:
        nonlocal tries
        tries += 1
        return plain(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(KeyLocks, "_blockers", counted)
    locks, pairs = KeyLocks(), []
    for number in range(300):
        outer = holding(locks, str(number))
        inner = Holder(outer)
        ask(locks, inner, "credentials")
        pairs.append((outer, inner))
    for outer, inner in pairs:
        locks.give_back(inner, keep=True)
        locks.give_back(outer, keep=False)
    assert_nothing_stays(locks)
    assert tries < 300 * 20


# -- waiting that never ends


def test_each_waits_for_the_other() -> None:
    """Both would hang."""
    locks = KeyLocks()
    one, two = holding(locks, "a"), holding(locks, "b")
    wait = ask(locks, Holder(one), "b")
    assert wait is not None
    with pytest.raises(InvalidValue, match="never end"):
        ask(locks, Holder(two), "a")
    locks.give_back(two, keep=False)
    assert wait.is_over


@pytest.mark.parametrize("length", [3, 5, 10])
def test_a_ring_of_many(length: int) -> None:
    """A ring of more than two would hang."""
    locks = KeyLocks()
    ring = [holding(locks, str(number)) for number in range(length)]
    for number in range(length - 1):
        assert ask(locks, Holder(ring[number]), str(number + 1)) is not None
    with pytest.raises(InvalidValue, match="never end"):
        ask(locks, Holder(ring[-1]), "0")


def test_a_line_is_no_ring() -> None:
    """A transaction that only has to wait would be refused."""
    locks = KeyLocks()
    outer = holding(locks, "a")
    assert ask(locks, Holder(), "a", "b") is not None
    assert ask(locks, Holder(), "b", "c") is not None
    for name in ("b", "c", "d"):
        assert ask(locks, Holder(outer), name) is None


# -- withdrawing


def test_one_that_withdraws_leaves_the_way_free() -> None:
    """A cancelled task would stand in the way of those behind it."""
    locks = KeyLocks()
    holder = holding(locks, "a")
    cancelled = ask(locks, Holder(), "a", "b")
    behind = ask(locks, Holder(), "b")
    assert cancelled is not None and behind is not None
    assert locks.withdraw(cancelled)
    assert behind.is_over
    assert not locks.withdraw(cancelled)
    assert not locks.withdraw(behind), "granted meanwhile"
    locks.give_back(behind.holder, keep=False)
    locks.give_back(holder, keep=False)
    assert_nothing_stays(locks)


@pytest.mark.parametrize("is_inner", [False, True])
def test_nothing_stays_of_many_that_withdraw(is_inner: bool) -> None:
    """Memory would grow with every cancelled task."""
    locks = KeyLocks()
    holder = holding(locks, "a")
    for number in range(50):
        outer = Holder() if is_inner else None
        wait = ask(locks, Holder(outer), "a", f"b{number}")
        assert wait is not None
        assert locks.withdraw(wait)
    locks.give_back(holder, keep=False)
    assert_nothing_stays(locks)


def test_no_name_is_no_lock() -> None:
    """A transaction without keys would wait for something."""
    locks = KeyLocks()
    assert ask(locks, Holder()) is None
    assert_nothing_stays(locks)


# -- any sequence of transactions, each with at most one inside it at a time


NAMES = ["a", "b", "c", "d"]


class Model:
    """Runs transactions as programs do: one inside another ends first, and who waits does nothing
    else. Knows by itself who may hold what."""

    def __init__(self) -> None:
        self.locks = KeyLocks()
        self.stacks: list[list[Holder]] = []
        self.believes: dict[Holder, set[str]] = {}
        self.waits: dict[Holder, Wait] = {}

    def begin(self, stack: list[Holder], names: list[str]) -> None:
        """A transaction in what the stack runs, or a new outermost one."""
        outer = stack[-1] if stack else None
        holder = Holder(outer)
        try:
            wait = self.locks.ask(holder, names, self._granted(holder, names))
        except InvalidValue:
            assert outer is not None, "one that holds nothing was refused"
            assert self._is_ring(holder, names), "refused though it had only to wait"
            self.locks.give_back(holder, keep=False)
            return
        stack.append(holder)
        self.believes[holder] = set()
        if wait is None:
            self.believes[holder] = set(names)
        else:
            self.waits[holder] = wait

    def _granted(self, holder: Holder, names: list[str]) -> Callable[[], bool]:
        def wake() -> bool:
            assert self.waits.pop(holder).is_over
            self.believes[holder] |= set(names)
            return True

        return wake

    def end(self, stack: list[Holder], *, fails: bool) -> None:
        """The innermost transaction ends, or gives up waiting."""
        holder = stack.pop()
        mine = self.believes.pop(holder)
        if holder in self.waits:
            wait = self.waits.pop(holder)
            assert self.locks.withdraw(wait)
            return
        if stack and not fails:
            self.believes[stack[-1]] |= mine
        self.locks.give_back(holder, keep=bool(stack) and not fails)

    def runs(self) -> list[list[Holder]]:
        """The stacks that do not wait."""
        self.stacks = [stack for stack in self.stacks if stack]
        return [stack for stack in self.stacks if stack[-1] not in self.waits]

    def _stack_of(self, name: str, asker: Holder) -> list[Holder] | None:
        for stack in self.stacks:
            for holder in stack:
                if name in self.believes[holder] and not asker.is_within(holder):
                    return stack
        return None

    def _is_ring(self, holder: Holder, names: list[str]) -> bool:
        """True if a way of waiting leads back to the asker's own stack."""
        todo, seen = [(holder, names)], set()
        while todo:
            asker, wanted = todo.pop()
            for name in wanted:
                stack = self._stack_of(name, asker)
                if stack is None or id(stack) in seen:
                    continue
                if stack[0] is holder.root:
                    return True
                seen.add(id(stack))
                if stack[-1] in self.waits:
                    todo.append((stack[-1], self.waits[stack[-1]].names))
        return False

    def check(self) -> None:
        """One holder a name, and nobody waits for what is free."""
        for name in NAMES:
            stacks = [s for s in self.stacks if any(name in self.believes[h] for h in s)]
            assert len(stacks) <= 1, f"{name} is held twice"
        for holder, wait in self.waits.items():
            blocked = any(self._stack_of(name, holder) for name in wait.names)
            in_line = any(
                set(wait.names) & set(other.names)
                for other in self.waits.values()
                if other is not wait
            )
            assert blocked or in_line, "waits for nothing"
        if any(self.stacks):
            assert self.runs(), "all wait, and nobody was refused"


steps = st.lists(
    st.tuples(
        st.sampled_from(["new", "inside", "inside", "end", "end", "fail", "give up"]),
        st.integers(0, 7),
        st.lists(st.sampled_from(NAMES), max_size=3),
    ),
    max_size=60,
)


@given(steps)
@settings(max_examples=400, deadline=None)
def test_any_sequence_of_transactions(program: list[tuple[str, int, list[str]]]) -> None:
    """Two would hold one lock, somebody wait for ever, or a lock stay behind."""
    model = Model()
    for step, which, names in program:
        running = model.runs()
        stack = running[which % len(running)] if running else []
        if step == "new" or not stack:
            model.stacks.append([])
            model.begin(model.stacks[-1], names)
        elif step == "inside":
            model.begin(stack, names)
        elif step == "give up":
            waiting = [each for each in model.stacks if each and each[-1] in model.waits]
            if waiting:
                model.end(waiting[which % len(waiting)], fails=True)
        else:
            model.end(stack, fails=step == "fail")
        model.runs()
        model.check()
    while running := model.runs():
        model.end(running[-1], fails=False)
        model.runs()
        model.check()
    assert not model.waits
    assert_nothing_stays(model.locks)


def test_threads_exclude_each_other() -> None:
    """Two threads would be let in at once."""
    locks, inside = KeyLocks(), [0, 0, 0]
    wrong: list[str] = []

    def work(number: int) -> None:
        for turn in range(150):
            names = [str((number + turn) % 3), str((number * turn) % 3)]
            holder, granted = Holder(), threading.Event()

            def wake(granted: threading.Event = granted) -> bool:
                granted.set()
                return True

            if locks.ask(holder, names, wake) is not None:
                granted.wait()
            for name in set(names):
                inside[int(name)] += 1
            time.sleep(0)  # let another one run
            wrong.extend(name for name in names if inside[int(name)] != 1)
            for name in set(names):
                inside[int(name)] -= 1
            locks.give_back(holder, keep=False)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert_nothing_stays(locks)
