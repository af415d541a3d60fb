from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mlc_widget.api.errors import InternalEngineError
from mlc_widget.engine.runtimes.tvm import sampler as sampler_module
from mlc_widget.engine.runtimes.tvm.candidates import Best, Candidates
from mlc_widget.engine.runtimes.tvm.sampler import Sampler, Uniforms
from mlc_widget.engine.runtimes.tvm.shortlists import shortlists

from .conftest import greedy

LOGITS = np.array([1.0, 3.0, 2.0, -1.0, 2.9], np.float32)


class Numbers:
    """A vocabulary of numbers, of which none is special."""

    def token_bytes(self, token_id):
        return b"%d" % token_id

    def is_special(self, token_id):
        return False


def draw(logits, position=0, *, prompt=(), **sampling):
    sampler = Sampler(greedy(**sampling), list(prompt), Numbers())
    return sampler.sample(logits, position)[0]


def frequencies(n=20000, **sampling):
    sampler = Sampler(greedy(**sampling), [], Numbers())
    counts = np.zeros(len(LOGITS))
    for position in range(n):
        counts[sampler.sample(LOGITS, position)[0]] += 1
    return counts / n


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def test_temperature_zero_is_the_most_probable_and_of_equals_the_first():
    assert draw(LOGITS) == 1
    assert draw(np.array([0, 5, 5], np.float32)) == 1


@pytest.mark.parametrize(
    "temperature", [*(pytest.param(t, marks=pytest.mark.soak) for t in (0.5, 1.0)), 2.0]
)
def test_the_distribution_is_the_softmax(temperature):
    expected = softmax(LOGITS.astype(float) / temperature)
    # Six standard deviations of 20000 draws.
    tolerance = 6 * np.sqrt(expected * (1 - expected) / 20000)
    assert (np.abs(frequencies(temperature=temperature) - expected) < tolerance).all()


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    p = softmax(LOGITS.astype(float))
    assert p[1] < 0.6 < p[1] + p[4] < 0.9 < p[1] + p[4] + p[2]
    for top_p, kept in [(0.6, [1, 4]), (0.9, [1, 2, 4]), (0.01, [1])]:
        got = frequencies(5000, temperature=1.0, top_p=top_p)
        assert np.flatnonzero(got).tolist() == kept
        assert np.abs(got[kept] - p[kept] / p[kept].sum()).max() < 0.03


def test_top_p_on_a_flat_distribution_keeps_its_share():
    flat = np.zeros(5000, np.float32)
    sampler = Sampler(greedy(temperature=1.0, top_p=0.5), [], Numbers())
    ids = [sampler.sample(flat, i)[0] for i in range(2000)]
    assert max(ids) < 2500 + 1
    assert len(set(ids)) > 1000


def test_random_numbers_depend_on_their_key_alone():
    number = Uniforms(1, 2)
    assert [number.at(3), number.at(0), number.at(3)] == [Uniforms(1, 2).at(p) for p in (3, 0, 3)]
    bits = np.random.Philox(key=[1, 2], counter=[0, 3, 0, 0]).random_raw(2)
    assert number.at(3) == tuple((bits >> np.uint64(11)) / 2**53)
    keys = [Uniforms(s, c) for s in (0, 1, 2**63 - 1) for c in (0, 1)]
    pairs = [key.at(position) for key in keys for position in range(500)]
    for numbers in zip(*pairs, strict=True):
        assert len(set(numbers)) == len(numbers)
        assert all(0 <= u < 1 for u in numbers)
        assert abs(np.mean(numbers) - 0.5) < 0.03
    assert abs(np.corrcoef(np.transpose(pairs))[0, 1]) < 0.1


def test_frequency_and_presence_penalty_count_the_answer():
    sampler = Sampler(greedy(presence_penalty=0.15, frequency_penalty=0.0), [1, 1, 1], Numbers())
    assert [sampler.sample(LOGITS, i)[0] for i in range(3)] == [1, 4, 1]
    sampler = Sampler(greedy(frequency_penalty=0.06), [1, 1, 1], Numbers())
    # 3 - 0.06 n against 2.9 - 0.06 m
    assert [sampler.sample(LOGITS, i)[0] for i in range(5)] == [1, 1, 4, 1, 4]


def test_repetition_penalty_counts_prompt_and_answer():
    assert draw(LOGITS, repetition_penalty=1.6, prompt=[1, 4]) == 2
    assert draw(LOGITS, repetition_penalty=1.5, prompt=[]) == 1
    negative = np.array([-1.0, -1.2], np.float32)
    assert draw(negative, repetition_penalty=1.5, prompt=[0]) == 1


def test_logit_bias_is_added():
    assert draw(LOGITS, logit_bias={3: 10.0}) == 3
    assert draw(LOGITS, logit_bias={1: -100.0}) == 4
    assert draw(LOGITS, logit_bias={99: 10.0}) == 1


def test_the_logits_are_left_alone():
    logits = LOGITS.copy()
    logits.flags.writeable = False
    draw(logits, logit_bias={3: 10.0}, repetition_penalty=2.0, prompt=[1], temperature=1.0)
    assert np.array_equal(logits, LOGITS)


def test_logprobs():
    sampler = Sampler(greedy(logprobs=True, top_logprobs=2, temperature=2.0), [], Numbers())
    token, entry = sampler.sample(LOGITS, 5)
    expected = np.log(softmax(LOGITS.astype(float)))
    assert entry.token_id == token
    assert entry.token == b"%d" % token
    assert math.isclose(entry.logprob, expected[token], abs_tol=1e-6)
    assert [t[:2] for t in entry.top] == [(1, b"1"), (4, b"4")]
    assert math.isclose(entry.top[1][2], expected[4], abs_tol=1e-6)


def test_more_top_logprobs_than_tokens():
    sampler = Sampler(greedy(logprobs=True, top_logprobs=20), [], Numbers())
    _, entry = sampler.sample(LOGITS, 0)
    assert [t[0] for t in entry.top] == [1, 4, 2, 0, 3]


def test_top_logprobs_are_of_the_first_of_equal_tokens():
    sampler = Sampler(greedy(logprobs=True, top_logprobs=3), [], Numbers())
    logits = np.zeros(3000, np.float32)
    logits[2000] = 1
    _, entry = sampler.sample(logits, 0)
    assert [t[0] for t in entry.top] == [2000, 0, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers(bad, temperature):
    logits = LOGITS.copy()
    logits[2] = bad
    with pytest.raises(InternalEngineError, match="not finite"):
        draw(logits, temperature=temperature)


def test_shortlists_are_of_the_rows_that_have_a_temperature():
    rows = np.stack([LOGITS, -LOGITS, LOGITS, np.where(LOGITS > 2, np.inf, LOGITS)])
    alone, greedy_best, candidates, infinite = shortlists(rows, [None, 0.0, 1.0, 1.0])
    assert np.array_equal(alone, LOGITS)
    assert greedy_best == Best(3, True)
    assert (candidates.best, candidates.row().tolist()) == (Best(1, True), LOGITS.tolist())
    assert infinite == Best(1, False)


@pytest.mark.parametrize(
    "filters",
    [
        {"top_p": 0.9},
        {"top_p": 0.02},
        {"top_k": 5, "top_p": 0.95},
        {"top_p": 0.5, "min_p": 0.05},
        {"min_p": 0.05},
        {"top_k": 5},
    ],
)
@pytest.mark.parametrize("temperature", [1e-5, 0.2, 1.0])
def test_a_shortlist_chooses_the_token_that_all_logits_would(filters, temperature, monkeypatch):
    rng = np.random.default_rng(0)
    rows = [
        (spread * rng.standard_normal(9000) + peaks * (rng.random(9000) < 0.002)).astype(np.float32)
        for spread in (0.01, 0.5, 2.0, 4.0)
        for peaks in (0, 5, 20)
    ]
    decided = []

    def spy(self: Sampler, found: Any, position: int) -> int | None:
        token = drawn(self, found, position)
        decided.append(token is not None)
        return token

    drawn = Sampler._draw_of
    monkeypatch.setattr(Sampler, "_draw_of", spy)
    chosen = [draw(row, i, temperature=temperature, **filters) for i, row in enumerate(rows)]
    # The first ones have too many candidates; near 0, few are near enough to the best.
    assert decided.count(True) >= 3 or temperature < 0.1
    together = shortlists(np.stack(rows), [temperature] * len(rows))
    assert sum(isinstance(found, Candidates) for found in together) >= 3
    assert chosen == [
        draw(found, i, temperature=temperature, **filters) for i, found in enumerate(together)
    ]
    monkeypatch.setattr(sampler_module, "shortlists", lambda logits, _: list(logits))
    assert chosen == [
        draw(row, i, temperature=temperature, **filters) for i, row in enumerate(rows)
    ]
