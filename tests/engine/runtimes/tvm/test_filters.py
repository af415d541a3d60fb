"""Each filter against its definition, written plainly; together; and where nothing is filtered."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mlc_widget.engine.runtimes.tvm.filters import filtered

from .conftest import greedy


def reference(p, top_k=0, typical_p=1.0, top_p=1.0, min_p=0.0):
    """The ids that the filters leave, by their definitions."""
    ids = sorted(range(len(p)), key=lambda i: (-p[i], i))
    if top_k:
        ids = ids[:top_k]
    if typical_p < 1:
        ids = [i for i in ids if p[i] > 0]
        q = np.array([p[i] for i in ids]) / sum(p[i] for i in ids)
        entropy = -(q * np.log(q)).sum()
        nearest = sorted(range(len(ids)), key=lambda j: abs(-np.log(q[j]) - entropy))
        ids = sorted(cut(nearest, q, typical_p))
        order = sorted(range(len(p)), key=lambda i: (-p[i], i))
        if top_k:
            order = order[:top_k]
        ids = [[i for i in order if p[i] > 0][j] for j in ids]
    if top_p < 1:
        total = sum(p[i] for i in ids)
        ids = cut(ids, {i: p[i] / total for i in ids}, top_p)
    return sorted(i for i in ids if p[i] >= min_p * p[ids[0]])


def cut(ids, q, mass):
    kept, sum_ = [], 0.0
    for i in ids:
        kept.append(i)
        sum_ += q[i]
        if sum_ >= mass:
            break
    return kept


SPREAD = np.random.default_rng(7).permutation(np.exp(-np.arange(60) / 6)).astype(np.float32)
ONE = [
    *({"top_k": k} for k in (1, 2, 7, 59)),
    *({"min_p": p} for p in (0.01, 0.3, 0.99, 1.0)),
    *({"typical_p": p} for p in (0.0, 0.2, 0.8, 0.99)),
    *({"top_p": p} for p in (1e-9, 0.4, 0.95)),
]
TOGETHER = [
    dict(zip(("top_k", "typical_p", "top_p", "min_p"), values, strict=True))
    for values in itertools.product((0, 12), (1.0, 0.7), (1.0, 0.8), (0.0, 0.35))
]


@pytest.mark.parametrize("given", [*ONE, *TOGETHER], ids=str)
def test_filters_keep_what_their_definitions_say(given):
    kept = filtered(SPREAD, greedy(temperature=1.0, **given))
    expected = reference(SPREAD.astype(float), **given)
    neutral = {"top_k": 0, "typical_p": 1.0, "top_p": 1.0, "min_p": 0.0}
    if {**neutral, **given} == neutral:
        assert kept is None
    else:
        assert kept.tolist() == expected


@pytest.mark.parametrize(
    "given",
    [{}, {"top_k": 0}, {"top_k": 60}, {"top_k": 10**9}, {"min_p": 0.0}, {"typical_p": 1.0}],
    ids=str,
)
def test_values_that_ask_for_nothing_filter_nothing(given):
    assert filtered(SPREAD, greedy(temperature=1.0, **given)) is None


def test_of_equal_tokens_the_first_are_kept():
    flat = np.ones(300, np.float32)
    assert filtered(flat, greedy(top_k=3)).tolist() == [0, 1, 2]
    flat[5] = 2
    assert filtered(flat, greedy(top_k=3)).tolist() == [0, 1, 5]
    assert filtered(flat, greedy(min_p=1.0)).tolist() == [5]


MANY = {
    "flat": lambda r: np.ones(9000),
    "two values": lambda r: r.choice([1.0, 1.5], 9000),
    "near to each other": lambda r: 1 + r.random(9000) / 1e4,
    "normal": lambda r: np.exp(r.normal(0, 1, 9000)),
    "most are impossible": lambda r: np.where(r.random(9000) < 0.4, 1 + r.random(9000), 0),
}


@pytest.mark.parametrize("kind", MANY)
@pytest.mark.parametrize("top_p", [1e-9, 0.3, 0.95, 1 - 1e-9])
def test_top_p_of_many_tokens_keeps_what_sorting_all_would(kind, top_p):
    mass = MANY[kind](np.random.default_rng(3)).astype(np.float32)
    order = np.argsort(-mass, kind="stable")
    cumulative = np.cumsum(mass[order], dtype=np.float64)
    count = int(np.searchsorted(cumulative, top_p * cumulative[-1])) + 1
    kept = filtered(mass, greedy(temperature=1.0, top_p=top_p))
    assert kept.tolist() == sorted(order[:count])


@pytest.mark.parametrize("given", ONE, ids=str)
def test_one_token_with_all_the_mass_is_kept(given):
    sure = np.zeros(50, np.float32)
    sure[3] = 1
    kept = filtered(sure, greedy(**given))
    assert kept is None or kept[0] == 3
