"""All sampling fields together, against their definitions in the order that is documented.

The reference is float64 numpy and shares nothing with the sampler but the random numbers.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from mlc_widget.engine.runtimes.base import Sampling
from mlc_widget.engine.runtimes.tvm.sampler import Sampler, Uniforms

from .conftest import greedy
from .test_sampler import Numbers

VOCABULARY = 40
FIELDS = {
    "repetition_penalty": (0.7, 1.3),
    "frequency_penalty": (-0.5, 0.8),
    "presence_penalty": (-0.4, 1.1),
    "dry_multiplier": (0.6, 2.0),
    "logit_bias": ({3: 4.0, 7: -100.0}, {0: 1.5, 39: 2.5, 12: -1.0}),
    "top_k": (1, 5, 20, 1000),
    "typical_p": (0.3, 0.8),
    "top_p": (0.2, 0.9),
    "min_p": (0.05, 0.5),
}
"""Each field's values, other than those that change nothing."""


def repetitions(ids: list[int]) -> dict[int, int]:
    """For each token that would repeat what came before: how many tokens it would go on."""
    found: dict[int, int] = {}
    for at in range(1, len(ids)):
        length = 0
        while length < at and ids[at - 1 - length] == ids[-1 - length]:
            length += 1
        found[ids[at]] = max(found.get(ids[at], 0), length)
    return found


def reference(s: Sampling, logits: np.ndarray, prompt: list[int], answer: list[int]) -> int:
    """The token after prompt and answer."""
    x = logits.astype(float)
    for token in {*prompt, *answer}:
        x[token] *= s.repetition_penalty if x[token] <= 0 else 1 / s.repetition_penalty
    for token in set(answer):
        x[token] -= s.frequency_penalty * answer.count(token) + s.presence_penalty
    if s.dry_multiplier:
        for token, length in repetitions([*prompt, *answer]).items():
            if length >= s.dry_allowed_length:
                x[token] -= s.dry_multiplier * s.dry_base ** (length - s.dry_allowed_length)
    for token, bias in s.logit_bias.items():
        x[token] += bias
    if s.temperature == 0:
        return int(np.argmax(x))
    p = np.exp((x - x.max()) / s.temperature)
    kept = sorted(range(len(p)), key=lambda i: (-p[i], i))
    if s.top_k:
        kept = kept[: s.top_k]
    if s.typical_p < 1:
        q = p[kept] / p[kept].sum()
        distance = np.abs(-np.log(q) - -(q * np.log(q)).sum())
        kept = [kept[i] for i in sorted(head(np.argsort(distance, kind="stable"), q, s.typical_p))]
    if s.top_p < 1:
        q = p[kept] / p[kept].sum()
        kept = [kept[i] for i in head(np.arange(len(q)), q, s.top_p)]
    kept = [i for i in kept if p[i] >= s.min_p * p[kept[0]]]
    kept.sort()
    share = np.cumsum(p[kept]) / p[kept].sum()
    u = Uniforms(s.seed, s.choice).at(len(prompt) + len(answer))[0]  # there is one block of tokens
    return kept[int(np.searchsorted(share, u, side="right"))]


def head(order: np.ndarray, q: np.ndarray, mass: float) -> list[int]:
    """The first of `order` that together have `mass`."""
    count = int(np.searchsorted(np.cumsum(q[order]), mass)) + 1
    return [int(i) for i in order[:count]]


@pytest.mark.parametrize("seed", range(8))
def test_any_combination_is_what_the_definitions_say(seed):
    chance = random.Random(seed)
    for case in range(25):
        names = chance.sample(sorted(FIELDS), chance.randrange(1, len(FIELDS) + 1))
        given = {name: chance.choice(FIELDS[name]) for name in names}
        sampling = greedy(
            temperature=chance.choice([0.0, 0.6, 1.0, 1.7]),
            seed=case,
            choice=seed,
            dry_sequence_breakers=(),
            **given,
        )
        few = range(6)  # so that the prompt repeats itself
        prompt = [chance.choice(few) for _ in range(chance.randrange(12))]
        sampler, answer = Sampler(sampling, prompt, Numbers()), list[int]()
        numbers = np.random.default_rng(case)
        for _ in range(10):
            logits = numbers.normal(0, 2, VOCABULARY).astype(np.float32)
            logits[:6] += 3
            expected = reference(sampling, logits, prompt, answer)
            position = len(prompt) + len(answer)
            assert sampler.sample(logits, position)[0] == expected, (given, sampling.temperature)
            answer.append(expected)
