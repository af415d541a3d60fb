"""Any draw from what a GPU leaves of rows of logits, beside the draw from the logits themselves."""

from __future__ import annotations

import functools
import random
from types import SimpleNamespace

import numpy as np
import pytest
import tvm_ffi

from mlc_widget.api.errors import BadRequestError
from mlc_widget.engine.runtimes.base import Sampling
from mlc_widget.engine.runtimes.tvm.candidates import Best, Block, Candidates, Scored
from mlc_widget.engine.runtimes.tvm.cuda import change_logits, shortlist, tensors
from mlc_widget.engine.runtimes.tvm.cuda.records import (
    DRAWN_WORDS,
    WANTED,
    best_of,
    block_of,
    blocks_of,
)
from mlc_widget.engine.runtimes.tvm.cuda.step_logits import StepLogits
from mlc_widget.engine.runtimes.tvm.draws import MOST_CHANGES
from mlc_widget.engine.runtimes.tvm.memory import as_tensor
from mlc_widget.engine.runtimes.tvm.sampler import Sampler

from .conftest import needs_gpu
from .test_cuda_attention import compiled
from .test_cuda_executor import KERNELS, on_host  # noqa: F401

VOCAB, WIDTH = 5000, 5120
LETTERS = SimpleNamespace(token_bytes=lambda i: b"%d " % i, is_special=lambda i: i == 7)
FIELDS = {
    "temperature": [0.0, 0.3, 1.0, 2.5],
    "top_k": [1, 30, 300, 10**6],
    "top_p": [0.5, 0.95, 1 - 1e-9],
    "min_p": [0.01, 0.3],
    "repetition_penalty": [0.8, 1.3],
    "frequency_penalty": [-0.5, 0.7],
    "presence_penalty": [0.4],
    "logit_bias": [{3: 5.0, 4: -100.0, 10**6: 1.0}, {i: i / 50 for i in range(VOCAB)}],
    "dry_multiplier": [0.8],
    "logprobs": [True],
}


class Masks:
    """Stands for a grammar that allows many tokens, few or one."""

    seconds = 0.0

    def __init__(self, seed: int) -> None:
        self._chance = np.random.default_rng(seed)

    def allowed(self, vocab_size):
        share = self._chance.choice([0.99, 0.2, 0.004, 0.0])
        mask = self._chance.random(vocab_size) < share
        mask[self._chance.integers(vocab_size)] = True
        return mask


def row_of(numbers):
    """A peaked or flat row, some with equal logits, or with few tokens above the others."""
    kind = numbers.integers(5)
    row = numbers.standard_normal(VOCAB) * [0.0, 0.01, 1.0, 4.0, 30.0][kind]
    if numbers.random() < 0.5:
        row[numbers.integers(VOCAB, size=4)] += 9
    if numbers.random() < 0.3:
        row = np.round(row)
    return row.astype(np.float32)


def cases(seed, count=32):
    """The sampler of each row, twice, its logits, and tokens that are drafted before it."""
    chance, numbers = random.Random(seed), np.random.default_rng(seed)
    for i in range(count):
        names = chance.sample(sorted(FIELDS), chance.randrange(5))
        given = {"temperature": 1.0, "top_p": 1.0, **{n: chance.choice(FIELDS[n]) for n in names}}
        prompt = [chance.randrange(20) for _ in range(chance.choice([1, 30, 300]))]
        answer = [chance.randrange(VOCAB) for _ in range(chance.randrange(12))]
        masked = chance.random() < 0.4 and "logprobs" not in given
        twins = []
        for _ in range(2):
            sampling = Sampling(max_tokens=None, seed=i, choice=seed, top_logprobs=3, **given)
            sampler = Sampler(sampling, prompt, LETTERS, Masks(i) if masked else None)
            for token in answer:
                sampler.remember(token)
            twins.append(sampler)
        drafted = []
        if not masked and "dry_multiplier" not in given and chance.random() < 0.5:
            drafted = [chance.randrange(20) for _ in range(3)]
        yield *twins, row_of(numbers), drafted


def compare(step, seeds):
    """Draw from what a step leaves, and from all logits; the number of rows of each kind."""
    found = dict.fromkeys((Best, Candidates, Block, Scored, "all logits"), 0)
    for seed in seeds:
        samplers, twins, rows, drafts = zip(*cases(seed), strict=True)
        logits = np.zeros((len(rows), WIDTH), np.float32)
        logits[:, :VOCAB] = np.stack(rows)
        logits[:, VOCAB:] = 1e9  # do not count
        tensors.copy(as_tensor(logits), step.tensor(len(rows)))
        step.clear([s.draws_at(drafted=bool(d)) for s, d in zip(samplers, drafts, strict=True)])
        draws = [s.draw(40, VOCAB, d) for s, d in zip(samplers, drafts, strict=True)]
        for sampler, twin, row, left, drafted in zip(
            samplers, twins, rows, step.rows(draws), drafts, strict=True
        ):
            found[type(left)] += 1
            chosen = left.found if isinstance(left, Scored) else left
            if not isinstance(chosen, Best):
                asked = chosen.row

                def ask(asked=asked):
                    found["all logits"] += 1
                    return asked()

                object.__setattr__(chosen, "row", ask)
            for token in drafted:
                sampler.remember(token)
                twin.remember(token)
            token, expected = sampler.sample(left, 40), twin.sample(row, 40)
            assert token == expected, (seed, sampler._s, type(chosen))
    return found


def test_draws_are_those_from_all_logits(on_host):  # noqa: F811
    step = StepLogits(WIDTH, VOCAB, tvm_ffi.device("cuda", 0))
    step.prepare(KERNELS.__getitem__)
    found = compare(step, range(4))
    assert all(found.values())
    assert found["all logits"] < found[Candidates] / 2
    # all rows are greedy: alone, with changes, and with one that needs all logits
    logits = np.zeros((3, WIDTH), np.float32)
    logits[:, 5] = 2.0
    for bias in ({}, {5: -3.0}, dict.fromkeys(range(MOST_CHANGES + 1), 1.0)):
        tensors.copy(as_tensor(logits), step.tensor(3))
        sampling = Sampling(max_tokens=None, temperature=0.0, top_p=1.0, seed=0, logit_bias=bias)
        samplers = [Sampler(sampling, [1], LETTERS) for _ in range(3)]
        step.clear([0.0] * 3)
        rows = step.rows([sampler.draw(9, 10**6, ()) for sampler in samplers])
        if len(bias) > MOST_CHANGES:
            assert np.array_equal(rows, logits[:, :VOCAB])
        else:
            assert rows == [Best(0 if bias else 5, True)] * 3


def test_a_draw_next_to_a_border_is_not_trusted(on_host):  # noqa: F811
    step = StepLogits(1024, 1024, tvm_ffi.device("cuda", 0))
    step.prepare(KERNELS.__getitem__)
    sampler = Sampler(Sampling(max_tokens=None, temperature=1.0, top_p=1.0, seed=0), [1], LETTERS)
    draw = sampler.draw(9, 1024)
    tensors.copy(as_tensor(np.ones((1, 1024), np.float32)), step.tensor(1))
    # the middle of a block, both sides of a border, and both ends, which are no borders
    for at, sure in (
        (0.3, True),
        (0.5 - 1e-7, False),
        (0.5, False),
        (0.0, True),
        (1 - 1e-16, True),
    ):
        object.__setattr__(draw, "at", at)
        step.clear([1.0])
        (block,) = step.rows([draw])
        assert (block.sure, block.start) == (sure, int(at * 4) * 256)


def test_a_grammar_that_fails_fails_where_the_token_is_chosen():
    class Failing:
        def allowed(self, vocab_size):
            raise BadRequestError("too many")

    sampling = Sampling(max_tokens=None, temperature=1.0, top_p=1.0, seed=0)
    sampler = Sampler(sampling, [1], LETTERS, Failing())
    assert sampler.draw(9, VOCAB) is None
    with pytest.raises(BadRequestError, match="too many"):
        sampler.sample(np.zeros(VOCAB, np.float32), 9)


def check_draw_tokens(draw):
    """The tokens of a kernel of `make_draw_tokens`, and what it leaves of rows, in either turn."""
    import tvm

    device, count = tvm.cuda(0), 32
    numbers = np.random.default_rng(1)
    memory = [
        tvm.runtime.tensor(a, device)
        for a in (
            np.zeros((count, DRAWN_WORDS), np.int64),
            np.zeros((count, blocks_of(WIDTH))),
            np.zeros((count, 1), np.int64),
            np.zeros((2, count, DRAWN_WORDS), np.int64),
        )
    ]
    same = rows_drawn = 0
    for seed in range(20):
        rows = np.full((count, WIDTH), 1e9, np.float32)  # what is beyond `VOCAB` does not count
        rows[:, :VOCAB] = [row_of(numbers) for _ in range(count)]
        samplers, wanted = [], np.zeros(count, WANTED)
        for i in range(count):
            temperature = [0.0, 0.5, 1.0, 2.0][i % 4]
            sampling = Sampling(max_tokens=None, temperature=temperature, top_p=1.0, seed=i + seed)
            samplers.append(Sampler(sampling, [1], LETTERS))
            if temperature:
                within, at = samplers[i].uniforms(9)
                wanted["scale"][i], wanted["at"][i] = 1 / temperature, at
                wanted["within"][i] = within
        there = wanted.view(np.int32).reshape(count, -1)
        turn = tvm.runtime.tensor(np.array([seed % 2], np.int32), device)
        logits, there = (tvm.runtime.tensor(a, device) for a in (rows, there))
        draw(logits, VOCAB, there, *memory, turn)
        assert not memory[0].numpy()[:, 0].any()
        keys = best_of(memory[2].numpy()[:, 0].view(np.uint64))
        records = memory[3].numpy()[seed % 2].view(np.uint64)
        for i, best in enumerate(best_of(records[:, 0])):
            row = rows[i, :VOCAB]
            assert best == Best(int(row.argmax()), True)
            if i % 4 == 0:
                assert keys[i].token == best.token
                continue
            all_of = functools.partial(np.copy, row)
            block = block_of(records[i], best, wanted["at"][i], VOCAB, all_of)
            token = samplers[i].sample(row, 9)[0]
            assert samplers[i].sample(block, 9)[0] == token
            rows_drawn += 1
            same += keys[i].token == token
    assert same > 0.98 * rows_drawn


@needs_gpu
def test_draws_are_those_from_all_logits_on_a_gpu():
    step = StepLogits(WIDTH, VOCAB, tvm_ffi.device("cuda", 0))
    makers = (
        shortlist.make_choose_tokens,
        shortlist.make_best_tokens,
        change_logits.make_change_logits,
        change_logits.make_forbid_tokens,
    )
    kernels = [make(WIDTH) for make in makers]
    step.prepare({k.attrs["global_symbol"]: compiled(k) for k in kernels}.__getitem__)
    found = compare(step, range(40))
    check_draw_tokens(compiled(shortlist.make_draw_tokens(WIDTH)))
    assert all(found.values())
    assert found["all logits"] < found[Candidates] / 2
