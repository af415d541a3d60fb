"""A step that two cores share gives the bits of one that a single core computes."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from mlc_widget.engine.runtimes.tvm import loading, threads
from mlc_widget.engine.runtimes.tvm.divided_steps import Savings, SecondThread, divide
from mlc_widget.engine.runtimes.tvm.step_inputs import Span

from .conftest import executor_for

NAME = "gqa-tied-q4f32_1"


@pytest.mark.parametrize(
    ("rows", "tile", "first"),
    [
        ([1] * 4, 4, 4),  # waits for the memory
        ([1] * 5, 4, 4),
        ([1] * 8, 4, 4),
        ([1] * 9, 4, 5),
        ([1] * 12, 4, 6),
        ([1] * 8, 8, 8),
        ([1] * 16, 8, 8),
        ([64, 64], 4, 1),
        ([256], 4, 1),  # a sequence's rows need each other's keys
        ([256, 1, 1, 1], 4, 4),  # would save too little
        ([1, 1, 1, 256], 4, 4),  # the first part is the longer one
    ],
)
def test_where_a_step_is_divided(rows: list[int], tile: int, first: int) -> None:
    assert divide(rows, tile) == first


def test_a_core_that_others_use_is_left_alone_for_longer_and_longer() -> None:
    savings = Savings()

    def steps_until_worthwhile() -> int:
        return next(i for i in range(1000) if savings.worthwhile())

    assert steps_until_worthwhile() == 0
    savings.count(0.01)
    savings.count(-0.005)  # less than was saved
    assert steps_until_worthwhile() == 0
    savings.count(-0.01)
    first = steps_until_worthwhile()
    savings.count(-0.01)
    second = steps_until_worthwhile()
    assert 0 < first < second
    for _ in range(10):
        savings.count(-0.01)
        longest = steps_until_worthwhile()
    assert longest < 300
    savings.count(0.01)
    savings.count(-1.0)
    assert steps_until_worthwhile() == first


def test_an_error_of_either_part_is_raised_when_both_have_ended() -> None:
    thread = SecondThread()
    ended = threading.Event()

    def fail() -> None:
        raise ValueError("part")

    for first, second in ((fail, ended.set), (ended.set, fail)):
        ended.clear()
        with pytest.raises(ValueError, match="part"):
            thread.run_both(first, second)
        assert ended.is_set()
    thread.run_both(ended.clear, lambda: None)
    assert not ended.is_set()
    thread.end()


def spans(executor: Any, *, logits: bool) -> list[Span]:
    """A prompt, and sequences of several lengths; the prompt asks for no logits, or none do."""
    per_sequence = executor.pages // 9
    lengths = [40, 1, 2, 1, 7, 1, 1, 30]
    made = []
    for i, n in enumerate(lengths):
        pages = list(range(i * per_sequence, (i + 1) * per_sequence))
        wanted = [n - 1] if logits and i else []
        made.append(Span([(7 * i + 3 * k) % 50 for k in range(n)], 0, pages, wanted))
    return made


def test_the_bits_do_not_depend_on_the_division(cache_dir, monkeypatch) -> None:
    monkeypatch.setattr(loading, "has_second_core", lambda parameters: True)
    monkeypatch.setattr(loading, "default_threads", lambda parameters: 1)
    alone = executor_for(NAME, cache_dir, threads=1)
    divided = executor_for(NAME, cache_dir)
    second = divided._second
    assert second is not None
    assert alone._second is None
    monkeypatch.setattr(second[0].savings, "worthwhile", lambda: True)
    divisions: list[bool] = []
    run_both = second[0].run_both
    monkeypatch.setattr(
        second[0], "run_both", lambda *parts: (divisions.append(True), run_both(*parts))
    )
    # A part without logits, beside one with; both without.
    for logits in (True, False):
        made = spans(alone, logits=logits)
        expected, found = alone.run(made), divided.run(made)
        assert len(found) == (7 if logits else 0)
        assert np.array_equal(np.asarray(found), np.asarray(expected))
    assert len(divisions) == 2
    for copy in ("_k", "_v"):
        assert np.array_equal(getattr(divided, copy), getattr(alone, copy))
    divided.end()


async def test_a_model_that_is_unloaded_leaves_no_second_thread(load, monkeypatch) -> None:
    monkeypatch.setattr(loading, "has_second_core", lambda parameters: True)
    monkeypatch.setattr(loading, "default_threads", lambda parameters: 1)

    def busy() -> int:
        return len(threads._all) - sum(map(len, threads._idle.values()))

    before = busy()
    runtime = await load(NAME)
    assert busy() == before + 2
    await runtime.unload()
    assert busy() == before


def test_only_two_cores_are_shared(monkeypatch) -> None:
    for cores, expected in ((1, False), (2, True), (3, False)):
        monkeypatch.setattr(threads, "_cores", lambda cores=cores: cores)
        assert threads.has_second_core(100_000_000) is expected
        assert not threads.has_second_core(1_000_000)
