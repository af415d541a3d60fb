"""The result of a row depends only on its own sequence, bit for bit."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest

from mlc_widget.engine.runtimes.tvm.threads import ComputeThread

from .conftest import DEADLINE, MODELS, Stepper, executor_for, golden_data, run_chunks


@pytest.fixture(scope="module", params=MODELS)
def case(request, tmp_path_factory, cache_dir):
    """(executor, prompt, logits of the prompt in one chunk)."""
    executor = executor_for(request.param, cache_dir)
    prompt = golden_data(request.param)["prompt"].tolist()
    return executor, prompt, run_chunks(executor, prompt, [len(prompt)])


def bits(logits: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(logits).view(np.uint32)


@pytest.mark.parametrize(
    "chunks",
    [[1] * 84, [16, 16, 16, 16, 16, 4], [17, 15, 1, 1, 50], [2] * 42, [83, 1], [7] * 12, [3] * 28],
    ids=str,
)
def test_any_cut_gives_the_same_bits(case, chunks):
    executor, prompt, reference = case
    assert np.array_equal(bits(run_chunks(executor, prompt, chunks)), bits(reference))


@pytest.mark.parametrize("size", range(2, 9))
def test_any_batch_gives_the_same_bits(case, size):
    executor, prompt, reference = case
    rng = random.Random(size)
    vocab = reference.shape[1]
    others = {f"o{i}": [rng.randrange(vocab) for _ in range(84)] for i in range(size - 1)}
    stepper = Stepper(executor)
    at = dict.fromkeys([*others, "a"], 0)
    while at["a"] < len(prompt):
        # A new company, order and cut at every step, decoding and prefilling mixed.
        names = [n for n in at if at[n] < 84 and (n == "a" or rng.random() < 0.8)]
        rng.shuffle(names)
        counts = {n: min(rng.choice([1, 1, 2, 5, 19]), 84 - at[n]) for n in names}
        tokens = {n: (prompt if n == "a" else others[n])[at[n] : at[n] + counts[n]] for n in names}
        stepper.step(**tokens)
        for n in names:
            at[n] += counts[n]
    assert np.array_equal(bits(stepper.all("a")), bits(reference))


def test_the_place_in_the_cache_does_not_matter(case):
    executor, prompt, reference = case
    pages = list(range(executor.pages))
    random.Random(1).shuffle(pages)
    stepper = Stepper(executor, pages)
    for at in range(0, len(prompt), 12):
        stepper.step(a=prompt[at : at + 12])
    assert np.array_equal(bits(stepper.all("a")), bits(reference))


def test_what_lies_in_unused_slots_does_not_matter(case):
    executor, prompt, reference = case
    executor._k.fill(np.nan)
    executor._v.fill(np.inf)
    try:
        assert np.array_equal(bits(run_chunks(executor, prompt, [40, 44])), bits(reference))
    finally:
        executor._k.fill(0)
        executor._v.fill(0)


def test_the_number_of_threads_does_not_matter(cache_dir):
    name = "gqa-tied-q4f32_1"
    prompt = golden_data(name)["prompt"].tolist()
    results = []
    for workers in (1, 2, 3):
        done = threading.Event()

        def run(done=done):
            results.append(run_chunks(executor_for(name, cache_dir), prompt, [50, 34]))
            done.set()

        ComputeThread.take(workers).run(run)
        assert done.wait(DEADLINE)
    assert np.array_equal(bits(results[0]), bits(results[1]))
    assert np.array_equal(bits(results[0]), bits(results[2]))
