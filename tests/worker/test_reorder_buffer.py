"""Numbered messages are delivered in order, and a number that never arrives is reported."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from mlc_widget.api.errors import ProtocolError
from mlc_widget.protocol.messages import MAX_MESSAGE_BYTES
from mlc_widget.worker import reorder_buffer
from mlc_widget.worker.reorder_buffer import _LOOKS, MAX_EARLY, ReorderBuffer

from ..waiting import until


class Taken:
    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.lost: list[tuple[int, int]] = []
        self.buffer = ReorderBuffer(self.messages.append, lambda a, b: self.lost.append((a, b)))

    def take(self, *numbers: int) -> None:
        for number in numbers:
            self.buffer.take(number, number)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reorder_buffer, "PATIENCE_S", 0.05)


async def test_messages_pass_by_their_numbers() -> None:
    taken = Taken()
    numbers = list(range(500))
    random.Random(1).shuffle(numbers)
    taken.take(*numbers)
    assert taken.messages == list(range(500))
    assert taken.lost == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("numbers", "lost", "passed"),
    [
        ([1], [(0, 0)], [1]),
        ([0, 3, 4], [(1, 2)], [0, 3, 4]),
        ([0, 2, 4, 6], [(1, 1), (3, 3), (5, 5)], [0, 2, 4, 6]),
        ([10**12, 0], [(1, 10**12 - 1)], [0, 10**12]),
        ([2**70], [(0, 2**70 - 1)], [2**70]),
    ],
)
async def test_a_missing_number_is_given_up_and_named(
    numbers: list[int], lost: list[tuple[int, int]], passed: list[int]
) -> None:
    taken = Taken()
    taken.take(*numbers)
    await until(lambda: taken.messages == passed)
    assert taken.lost == lost
    taken.take(passed[-1] + 1)
    assert taken.messages[-1] == passed[-1] + 1


class Looks:
    """The buffer's timer, which a test lets pass."""

    def __init__(self) -> None:
        self._next: Callable[[], object] | None = None

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Looks:
        self._next = partial(callback, *args)
        return self

    def cancel(self) -> None:
        self._next = None

    def let_pass(self, count: int) -> None:
        for _ in range(count):
            assert self._next is not None, "the buffer waits for nothing"
            look, self._next = self._next, None
            look()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    made = Looks()
    loop = SimpleNamespace(get_running_loop=lambda: made)
    monkeypatch.setattr(reorder_buffer, "asyncio", loop)
    return made


def test_a_gap_that_closes_is_not_named(looks: Looks) -> None:
    taken = Taken()
    for i in range(0, 60, 2):
        taken.take(i + 1)
        looks.let_pass(_LOOKS - 1)
        taken.take(i)
    assert taken.lost == []
    assert taken.messages == list(range(60))


def test_gaps_one_after_the_other_are_each_waited_for(looks: Looks) -> None:
    taken = Taken()
    taken.take(1, 3)
    looks.let_pass(_LOOKS - 1)
    taken.take(0)
    looks.let_pass(_LOOKS - 1)
    assert taken.lost == []
    taken.take(2)
    assert taken.messages == [0, 1, 2, 3]


def test_a_gap_that_stays_is_named_after_the_last_look(looks: Looks) -> None:
    taken = Taken()
    taken.take(2)
    looks.let_pass(_LOOKS - 1)
    assert taken.lost == []
    looks.let_pass(1)
    assert taken.lost == [(0, 1)]
    assert taken.messages == [2]


def test_a_loop_that_was_held_up_gives_nothing_up(looks: Looks) -> None:
    """However long it was: one look is late then, and the others are still to come."""
    taken = Taken()
    taken.take(1)
    looks.let_pass(1)
    assert taken.lost == []
    taken.take(0)
    assert taken.messages == [0, 1]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("number", [0, 1, 2, 5], ids=["taken", "given up", "behind", "waiting"])
async def test_a_number_that_came_before_is_refused(number: int) -> None:
    taken = Taken()
    taken.take(0, 2)
    await until(lambda: taken.lost)
    taken.take(5)
    with pytest.raises(ProtocolError, match=f"Message {number} arrived twice or too late"):
        taken.take(number)
    assert taken.messages == [0, 2]
    taken.take(3, 4)
    assert taken.messages == [0, 2, 3, 4, 5]
    taken.buffer.close()


async def test_what_waits_is_bounded_in_number() -> None:
    taken = Taken()
    taken.take(*range(1, MAX_EARLY + 1))
    assert taken.messages == []
    taken.take(MAX_EARLY + 1)
    assert taken.lost == [(0, 0)]
    assert taken.messages == list(range(1, MAX_EARLY + 2))


async def test_what_waits_is_bounded_in_bytes() -> None:
    taken = Taken()
    message = {"content": "x" * (MAX_MESSAGE_BYTES // 2)}
    for number in (1, 2, 3):
        taken.buffer.take(number, message)
    assert taken.messages == []
    taken.buffer.take(4, message)
    assert taken.lost == [(0, 0)]
    assert len(taken.messages) == 4
    deep: Any = []
    for _ in range(10_000):
        deep = [deep]
    for number in (6, 7, 8):
        taken.buffer.take(number, deep)
    assert taken.lost == [(0, 0), (5, 5)]
    taken.buffer.close()
    while deep:  # Python itself would overflow its stack
        deep = deep.pop()
