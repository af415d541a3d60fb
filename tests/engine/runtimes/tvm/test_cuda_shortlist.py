"""Tokens that are chosen from what a GPU leaves of the logits, beside the choice from all."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from mlc_widget.api.errors import InternalEngineError
from mlc_widget.engine.runtimes.base import Sampling
from mlc_widget.engine.runtimes.tvm.candidates import Best, Candidates
from mlc_widget.engine.runtimes.tvm.cuda.records import (
    BINS,
    ERROR,
    MOST,
    PER_UNIT,
    WANTED,
    WANTED_WORDS,
    WORDS,
    best_of,
    blocks_of,
    candidates_of,
)
from mlc_widget.engine.runtimes.tvm.cuda.shortlist import make_best_tokens, make_choose_tokens
from mlc_widget.engine.runtimes.tvm.draws import BLOCK
from mlc_widget.engine.runtimes.tvm.sampler import Sampler
from mlc_widget.engine.runtimes.tvm.step_inputs import Span

from .conftest import executor_for, needs_gpu
from .test_architectures import data, folder_of  # noqa: F401
from .test_cuda_attention import compiled

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1e-42, -1e-42]
VOCAB = 3000


def special_rows():
    """Rows whose largest number is there twice, is 0 with either sign, or is not finite."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((32, VOCAB)).astype(np.float32)
    rows[1, [7, 2900]] = 9.0
    rows[2] = -np.abs(rows[2])
    rows[2, [5, 2000]] = -0.0, 0.0
    rows[3, [400, 2999]] = np.nan
    rows[4, 2998], rows[5, 3] = np.inf, -np.nan
    rows[6] = -np.inf
    rows[7] = -np.abs(rows[7]) - 1
    rows[8] = rng.choice(np.array(SPECIAL[:2] + SPECIAL[6:], np.float32), VOCAB)
    rows[9] = rng.choice(np.array(SPECIAL, np.float32), VOCAB)
    rows[10] = 0.0
    return rows


def test_a_key_holds_the_best_token():
    # 3.0 of token 5, then a number that is not one, infinity and minus infinity of token 0
    keys = [0xC0400000FFFFFFFA, 0xFFFFFFFFFFFFFFFF, 0xFF800000FFFFFFFF, 0x007FFFFFFFFFFFFF]
    found = best_of(np.array(keys, np.uint64))
    assert found == [Best(5, True), Best(0, False), Best(0, False), Best(0, False)]


def key(logit, token):
    """The key of a token."""
    bits = int(np.float32(logit + 0.0).view(np.uint32))
    return (bits ^ (0xFFFFFFFF if bits >> 31 else 0x80000000)) << 32 | 0xFFFFFFFF - token


def record_of(logits, scale, at=-1.0):
    """What the kernels leave of a row of finite logits."""
    record, best = np.zeros(WORDS, np.uint64), int(logits.argmax())
    record[0] = key(logits[best], best)
    if scale == 0:
        return record
    mass = np.exp((logits - logits[best]).astype("f8") * scale)
    sums = record[1:5].view(np.float64)
    sums[0] = mass.sum()
    if at >= 0:
        blocks = np.add.reduceat(mass, np.arange(0, len(mass), BLOCK))
        block = int(np.searchsorted(blocks.cumsum(), at * sums[0], side="right"))
        record[2:3].view(np.int32)[1] = block
        sums[2:] = blocks[:block].sum(), blocks[block]
        inside = logits[block * BLOCK :][:BLOCK]
        record[5:].view(np.float32)[: len(inside)] = inside
        return record
    bins = ((logits[best] - logits) * np.float32(PER_UNIT)).clip(max=BINS - 1)
    bins = bins.astype(int)
    sizes = np.bincount(bins, minlength=BINS)[:-1].cumsum()
    cut = int(np.searchsorted(sizes, MOST, side="right")) - 1
    ids = np.random.default_rng(0).permutation(np.flatnonzero(bins <= cut))
    record[2:3].view(np.int32)[:] = len(ids), cut
    words = ids.astype(np.uint64) << np.uint64(32) | logits[ids].view(np.uint32)
    record[3 : 3 + len(ids)] = words
    return record


FILTERS = [
    {"top_p": 0.9},
    {"top_p": 0.95, "top_k": 20},
    {"top_k": 1},
    {"top_k": 400},
    {"top_p": 1e-9},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"top_p": 0.8, "min_p": 0.1},
    {"top_k": 50, "min_p": 0.02, "top_p": 0.99},
    {"top_p": 0.999, "temperature": 3.0},
    {"min_p": 1e-6},
    {"top_p": 0.9, "temperature": 1e-30},
    {"top_p": 0.5, "temperature": 0.1},
]


def rows_to_draw_from():
    """Peaked and flat rows, with many equal logits or masses, none or few above the others."""
    rng = np.random.default_rng(1)
    for width in (0.01, 1.0, 4.0, 30.0):
        rows = (rng.standard_normal((3, VOCAB)) * width + 100).astype(np.float32)
        rows[1] = np.round(rows[1])
        rows[2] += np.float32(1e-5) * rng.integers(0, 3, VOCAB)
        yield from rows


def sampler_of(seed, given):
    sampling = Sampling(
        **{"max_tokens": None, "temperature": 0.7, "top_p": 1.0, "seed": seed, **given}
    )
    vocabulary = SimpleNamespace(token_bytes=bytes, is_special=lambda token: False)
    return Sampler(sampling, [1], vocabulary)


def same_draws(given, logits, record, scale, positions):
    """Draw from all logits and from candidates; the number of draws that needed all logits."""
    asked = []

    def row():
        asked.append(1)
        return logits

    found = candidates_of(record, best_of(record[:1])[0], scale, len(logits), row)
    for position in positions:
        expected = sampler_of(position, given).sample(logits, position)
        assert sampler_of(position, given).sample(found, position) == expected, given
    return len(asked)


@pytest.mark.parametrize("given", FILTERS, ids=str)
def test_candidates_give_the_tokens_that_all_logits_give(given):
    needed = []
    for logits in rows_to_draw_from():
        with np.errstate(over="ignore", invalid="ignore"):
            scale = np.float32(1 / given.get("temperature", 0.7))
            record = record_of(logits, scale)
            needed.append(same_draws(given, logits, record, float(scale), range(5)))
    assert 0 in needed  # candidates suffice for some of the rows


def test_what_candidates_leave_open_is_not_guessed():
    logits = np.linspace(10, 4, VOCAB, dtype=np.float32)
    record = record_of(logits, np.float32(1))
    found = candidates_of(record, best_of(record[:1])[0], 1.0, VOCAB, lambda: logits)
    mass = np.exp(logits - 10, dtype=np.float32)
    at = float(mass[:100].sum(dtype=np.float64) / mass.sum(dtype=np.float64))
    for top_p, decided in ((at, False), (at - 1e-4, True), (0.999, False)):
        asked = []
        counted = dataclasses.replace(found, row=lambda asked=asked: asked.append(1) or logits)
        sampler_of(0, {"temperature": 1.0, "top_p": top_p}).sample(counted, 0)
        assert (not asked) == decided


def test_each_token_is_timed_once_in_any_form():
    logits = np.linspace(10, 4, VOCAB, dtype=np.float32)
    record = record_of(logits, np.float32(1))
    best = best_of(record[:1])[0]
    found = candidates_of(record, best, 1.0, VOCAB, lambda: logits)
    given = {"temperature": 1.0, "top_p": 0.999, "latency_breakdown": True}  # all are needed
    sampler = sampler_of(0, given)
    for position, row in enumerate((logits, best, found)):
        sampler.sample(row, position)
    times = {stage: len(times) for stage, times in sampler.latency.items()}
    assert times["totalTime"] == times["sampleTime"] == times["grammarBitmaskTime"] == 3


@pytest.mark.parametrize(
    ("given", "temperature"),
    [
        ({"temperature": 0.0}, 0.0),
        ({"temperature": 0.0, "top_p": 0.5}, 0.0),
        ({"top_p": 0.5}, 0.7),
        ({"top_k": 5}, 0.7),
        ({"min_p": 0.1}, 0.7),
        ({}, 0.7),
        ({"repetition_penalty": 1.1, "logit_bias": {1: 2.0}}, 0.7),
        ({"top_p": 0.5, "typical_p": 0.5}, None),
        ({"temperature": 0.0, "typical_p": 0.5}, 0.0),
        ({"temperature": 0.0, "logprobs": True}, 0.0),
        ({"temperature": 0.0, "frequency_penalty": 0.1}, 0.0),
    ],
    ids=str,
)
def test_all_logits_are_asked_for_only_if_they_are_needed(given, temperature):
    assert sampler_of(0, given).draws_at() == temperature
    assert sampler_of(0, given).draws_at(drafted=True) == temperature


@pytest.mark.parametrize(
    ("given", "suffices"),
    [
        ({"temperature": 0.0}, True),
        ({"top_p": 0.5}, True),
        ({"min_p": 0.1, "top_k": 5}, True),
        ({"top_k": 5}, False),  # which may be as many as there are tokens
        ({}, False),
        *(
            ({"temperature": 0.0, name: value}, False)
            for name, value in {
                "logit_bias": {1: 2.0},
                "repetition_penalty": 1.1,
                "frequency_penalty": 0.1,
                "presence_penalty": 0.1,
                "dry_multiplier": 0.1,
                "logprobs": True,
            }.items()
        ),
    ],
    ids=str,
)
def test_the_temperature_suffices_where_nothing_else_matters(given, suffices):
    assert sampler_of(0, given).temperature_suffices == suffices


def test_what_follows_the_text_needs_all_logits_after_drafts():
    sampler = sampler_of(0, {"temperature": 0.0, "dry_multiplier": 0.1})
    assert (sampler.draws_at(), sampler.draws_at(drafted=True)) == (0.0, None)


@pytest.mark.parametrize("kind", ["best", "candidates"])
def test_logits_that_are_not_finite_are_an_error_in_any_form(kind):
    best, none = Best(3, False), np.zeros(0, np.float32)
    found = Candidates(best, none.astype(np.int64), none, 1.0, (0.0, 0.0), 9, lambda: none)
    with pytest.raises(InternalEngineError, match="not finite"):
        sampler_of(0, {}).sample(best if kind == "best" else found, 1)


@needs_gpu
def test_a_gpu_finds_the_best_token_of_any_row_and_the_candidates_of_most():
    import tvm

    choose, device = compiled(make_choose_tokens(VOCAB)), tvm.cuda(0)
    find_best = compiled(make_best_tokens(VOCAB))

    def records_of(rows, scales, vocab):
        wanted = np.zeros(len(rows), WANTED)
        wanted["scale"], wanted["at"] = scales, -1
        arrays = (
            wanted.view(np.int32).reshape(-1, WANTED_WORDS),
            np.zeros((len(rows), WORDS), np.int64),
            np.zeros((len(rows), BINS), np.int32),
            np.zeros((len(rows), blocks_of(VOCAB))),
        )
        memory = [tvm.runtime.tensor(array, device) for array in arrays]
        choose(tvm.runtime.tensor(rows, device), vocab, *memory)
        return memory[1].numpy().view(np.uint64)

    rows = special_rows()
    for vocab in (1, 31, 2500, VOCAB):
        best = rows[:, :vocab].argmax(axis=1)
        finite = np.isfinite(rows[np.arange(len(rows)), best])
        for scale in (0.0, 1.0):
            found = best_of(records_of(rows, [scale] * len(rows), vocab)[:, 0])
            assert [b.token for b in found] == best.tolist()
            assert [b.finite for b in found] == finite.tolist()
        keys = tvm.runtime.tensor(np.zeros((len(rows), 1), np.int64), device)
        find_best(tvm.runtime.tensor(rows, device), vocab, keys)
        assert best_of(keys.numpy().view(np.uint64)[:, 0]) == found
    rows = np.stack(list(rows_to_draw_from()))
    for given in FILTERS:
        with np.errstate(over="ignore", invalid="ignore"):
            scale = np.float32(1 / given.get("temperature", 0.7))
            records = records_of(rows, [scale] * len(rows), VOCAB)
            needed = [
                same_draws(given, row, record, float(scale), range(5))
                for row, record in zip(rows, records, strict=True)
            ]
        assert 0 in needed
        for row, record in zip(rows, records, strict=True):
            expected = record_of(row, scale)
            listed = int(expected[2:3].view(np.int32)[0])
            assert record[0] == expected[0]
            assert record[2] == expected[2]
            assert set(record[3 : 3 + listed]) == set(expected[3 : 3 + listed])
            if np.isfinite(scale):
                total, wanted = (r[1:2].view(np.float64)[0] for r in (record, expected))
                assert abs(total - wanted) < ERROR / 2 * wanted


@needs_gpu
def test_rows_come_as_what_suffices_on_a_gpu(folder_of, cache_dir):  # noqa: F811
    prompt = data("llama", "q4f16_1")[0][:20]
    folder = folder_of("llama", "q4f16_1")
    executor = executor_for(folder, cache_dir, device="cuda", kv_cache_dtype="float16")
    executor.run([Span(prompt, 0, [0, 1])])
    executor.run([Span(prompt, 0, [2, 3])])

    def spans(*temperatures, last=1):
        held = [[0, 1], [2, 3]] * 8
        return [
            Span(prompt[-last:], len(prompt) - last, held[i], range(last), temperature)
            for i, temperature in enumerate(temperatures)
        ]

    for last in (1, 3):
        expected = executor.run(spans(None, last=last)).copy()
        tokens = [Best(int(row.argmax()), True) for row in expected]
        for wanted in ([0], [None, 0], [0, 0.5], [0, None, None, 0.7, None, 1.0]):
            for i, row in enumerate(executor.run(spans(*wanted, last=last))):
                logits, temperature = expected[i % last], wanted[i // last]
                if temperature is None:
                    assert np.array_equal(row, logits)
                elif temperature == 0:
                    assert row == tokens[i % last]
                else:
                    assert row.best == tokens[i % last]
                    assert len(row.ids) > 0
                    assert np.array_equal(logits[row.ids], row.logits)
                    assert np.array_equal(row.row(), logits)
