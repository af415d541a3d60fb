"""The executor for GPUs, in the host's memory and with the CPU's kernels, beside the CPU's own."""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import tvm_ffi

from mlc_widget.engine.runtimes.base import Sampling
from mlc_widget.engine.runtimes.tvm import machine, planning
from mlc_widget.engine.runtimes.tvm.candidates import Best
from mlc_widget.engine.runtimes.tvm.cuda import cudart, decode, lookahead
from mlc_widget.engine.runtimes.tvm.cuda import executor as on_gpu
from mlc_widget.engine.runtimes.tvm.cuda.records import (
    BEST_TOKENS,
    CHANGE_LOGITS,
    CHOOSE_TOKENS,
    DRAW_TOKENS,
    DRAWN_WORDS,
    FORBID_TOKENS,
    NEXT_STEP,
    WANTED,
    best_of,
    blocks_of,
)
from mlc_widget.engine.runtimes.tvm.draws import BLOCK, Changes, Draw
from mlc_widget.engine.runtimes.tvm.sampler import Sampler
from mlc_widget.engine.runtimes.tvm.step_inputs import Span

from .conftest import executor_for, needs_gpu
from .test_cuda_shortlist import record_of

PAGES = [4, 1, 0, 6, 3]


class Memory:
    """Stands for `cudart.Pinned`."""

    def __init__(self, shape, dtype):
        self.array = np.zeros(shape, dtype)


class Event:
    """Stands for `cudart.Event`, as all is done at once."""

    def record(self):
        """Nothing is under way."""

    synchronize = record


class Recorded:
    """Stands for `cudart.Graph`."""

    def __init__(self, record):
        self.start = lambda: record(0)


def choose(logits, vocab, wanted, records, bins, sums):
    """As the kernels of `shortlist`, where all tokens can be listed."""
    rows, wanted = np.from_dlpack(logits)[:, :vocab], wanted_of(wanted)
    there = np.from_dlpack(records).view(np.uint64)
    assert not there.any()
    assert not np.from_dlpack(bins).any()
    assert np.from_dlpack(sums).shape[1] == blocks_of(logits.shape[1])
    for row, each, record in zip(rows, wanted, there, strict=True):
        record[:] = record_of(row, each["scale"], each["at"])


def wanted_of(there):
    return np.from_dlpack(there).view(WANTED)[:, 0]


def change(logits, vocab, wanted, changes):
    """As the kernel of `shortlist`, one logit after another."""
    tokens, amounts = np.from_dlpack(changes).T
    amounts = amounts.copy().view(np.float32)
    for row, each in zip(np.from_dlpack(logits)[:, :vocab], wanted_of(wanted), strict=True):
        at = each["start"]
        for token in tokens[at : at + each["repeated"]]:
            row[token] = (
                row[token] / each["penalty"] if row[token] > 0 else row[token] * each["penalty"]
            )
        at += each["repeated"]
        for i in range(at, at + each["parts"].sum()):
            row[tokens[i]] -= amounts[i]


def forbid(logits, vocab, wanted, masks):
    """As the kernel of `shortlist`."""
    bits = np.unpackbits(np.from_dlpack(masks).view(np.uint8), axis=1, bitorder="little")
    for row, each in zip(np.from_dlpack(logits)[:, :vocab], wanted_of(wanted), strict=True):
        if each["mask"]:
            row[bits[each["mask"] - 1, :vocab] == 0] = -np.inf


def find_best(logits, vocab, keys):
    """The same, where nothing is drawn."""
    rows, there = np.from_dlpack(logits)[:, :vocab], np.from_dlpack(keys).view(np.uint64)
    assert not there.any()
    for row, at in zip(rows, there, strict=True):
        at[0] = record_of(row, np.float32(0))[0]


def draw(logits, vocab, wanted, records, sums, keys, told, turn):
    """The same, where a token is drawn."""
    rows, wanted = np.from_dlpack(logits)[:, :vocab], wanted_of(wanted)
    assert not np.from_dlpack(records)[:, 0].any()
    assert np.from_dlpack(sums).shape[1] == blocks_of(logits.shape[1])
    there = np.from_dlpack(told)[np.from_dlpack(turn)[0]].view(np.uint64)
    for i, (row, each) in enumerate(zip(rows, wanted, strict=True)):
        there[i] = record_of(row, each["scale"], each["at"])[:DRAWN_WORDS]
        token = int(row.argmax())
        if each["scale"]:
            start = int(there[i, 2] >> 32) * BLOCK
            mass = np.exp((row[start:][:BLOCK] - row.max()).astype("f8") * each["scale"]).cumsum()
            token = start + int((mass <= each["within"] * mass[-1]).sum())
        np.from_dlpack(keys)[i] = 0xFFFFFFFF - token


def next_step(keys, ids, position, slot, table, told, turn):
    """As the kernel of `next_step`."""
    keys, ids, position, slot, table, told, turn = (
        np.from_dlpack(tensor) for tensor in (keys, ids, position, slot, table, told, turn)
    )
    told[turn[0], : len(keys)] = keys[:, 0]
    turn[0] = 1 - turn[0]
    ids[:] = [best.token for best in best_of(keys[:, 0].view(np.uint64))]
    keys[:] = 0
    position += 1
    page = np.minimum(position // 16, table.shape[1] - 1)
    slot[:] = table[np.arange(len(page)), page] * 16 + position % 16


KERNELS = {
    CHOOSE_TOKENS: choose,
    BEST_TOKENS: find_best,
    CHANGE_LOGITS: change,
    FORBID_TOKENS: forbid,
    DRAW_TOKENS: draw,
    NEXT_STEP: next_step,
}


@pytest.fixture
def on_host(monkeypatch):
    """Have what goes to a GPU stay in the host's memory."""
    device = tvm_ffi.device

    def copy(to, source, nbytes, kind, stream=0):
        ctypes.memmove(to, source, nbytes)

    for module, name in itertools.product((cudart, decode), ("copy", "Pinned", "Graph")):
        stand_in = {"copy": copy, "Pinned": Memory, "Graph": Recorded}[name]
        monkeypatch.setattr(module, name, stand_in)
    monkeypatch.setattr(cudart, "Event", Event)
    monkeypatch.setattr(cudart, "clear", lambda at, nbytes: ctypes.memset(at, 0, nbytes))
    monkeypatch.setattr(cudart, "synchronize", lambda: None)
    monkeypatch.setattr(cudart, "use", lambda index: None)
    monkeypatch.setattr(tvm_ffi, "device", lambda kind, index: device("cpu", 0))
    monkeypatch.setattr(tvm_ffi, "use_raw_stream", lambda device, stream: nullcontext())
    monkeypatch.setattr(on_gpu, "virtual_machine", lambda code, gpu: machine.virtual_machine(code))
    monkeypatch.setattr(on_gpu, "function", lambda code, name: KERNELS[name])


def run(executor):
    """Logits of a prompt, decode steps, a chunk, a copied page, and many rows."""
    tokens = np.random.default_rng(0).integers(0, 60, 70).tolist()
    steps = [[Span(tokens[:30], 0, PAGES, range(30))]]
    steps += [[Span([tokens[i]], i, PAGES, [0])] for i in range(30, 40)]
    steps += [[Span(tokens[40:], 40, PAGES, range(30))]]
    last = Span([tokens[41]], 41, PAGES, [0])
    rows = [executor.run(spans).copy() for spans in steps]
    executor.copy_page(PAGES[0], 9)
    rows.append(executor.run([Span([tokens[3]], 3, [9], [0]), last]).copy())
    rows.append(executor.run([last] * 40).copy())
    assert len(executor.run([Span(tokens[:5], 0, [7])])) == 0
    return np.concatenate(rows), last


@pytest.fixture
def executor(on_host, monkeypatch, cache_dir):
    """The executor for GPUs."""
    monkeypatch.setattr(planning, "_executor_class", lambda gpu: (on_gpu.CudaExecutor, "cpu"))
    return executor_for("gqa-tied-q4f32_1", cache_dir, max_total_sequence_length=4096)


@pytest.fixture
def started(monkeypatch):
    """For each decode step whose tokens the GPU chooses, whether the host gave its inputs."""
    found, start = [], decode.DecodeStep.start_choosing

    def noted(step, spans, **how):
        found.append(spans is not None)
        start(step, spans, **how)

    monkeypatch.setattr(decode.DecodeStep, "start_choosing", noted)
    return found


def generate(executor, count, temperature, sequences):
    """The tokens of some steps; sequences are lists of pages, start and first token."""
    out, last = [], [token for _, _, token in sequences]
    for i in range(count):
        rows = executor.run(
            [
                Span([token], start + i, pages[: (start + i) // 16 + 1], [0], temperature)
                for token, (pages, start, _) in zip(last, sequences, strict=True)
            ]
        )
        last = [int(row.argmax()) if temperature is None else row.token for row in rows]
        out.append(last)
    return out


def test_steps_that_go_on_are_started_ahead(executor, started):
    sequences = [(PAGES, 1, 5), ([7, 2, 5], 3, 9)]
    expected = generate(executor, 30, None, sequences)
    assert generate(executor, 30, 0.0, sequences) == expected
    # After step `SURE`, but for the one whose page the GPU's table does not have yet.
    assert started == [*[True] * 17, *[False] * 12, True, False]
    for others in (sequences[:1], sequences[::-1], sequences):  # what was started ahead is ignored
        generate(executor, 20, 0.0, sequences)
        assert generate(executor, 3, 0.0, others) == generate(executor, 3, None, others)


@pytest.mark.parametrize("change", ["token", "position", "page"])
def test_a_step_that_was_started_ahead_is_not_taken_for_another(executor, change):
    last = generate(executor, 20, 0.0, [(PAGES, 1, 5)])[-1][0]
    token, position, pages = last, 21, PAGES
    if change == "token":
        token = (last + 1) % 60
    elif change == "position":
        position = 20
    else:
        pages = [7, *PAGES[1:]]
    (best,) = executor.run([Span([token], position, pages, [0], 0.0)])
    (logits,) = executor.run([Span([token], position, pages, [0])])
    assert best.token == int(logits.argmax())


VOCABULARY = SimpleNamespace(token_bytes=bytes, is_special=lambda token: False)


def draw_all(executor, *, told):
    """The tokens of sequences that draw differently; one joins, one stops, one has filters at last.

    Args:
        executor: The executor.
        told: Whether it knows how tokens are drawn, so that it need not return all logits.
    """
    kinds = ({}, {"temperature": 0.0}, {"temperature": 3.0}, {}, {"top_p": 0.7})
    samplers = []
    for seed, given in enumerate(kinds):
        values = {"max_tokens": None, "temperature": 1.0, "top_p": 1.0, **given}
        samplers.append(Sampler(Sampling(seed=seed, **values), [5], VOCABULARY))
    texts = [[5 + i] for i in range(len(kinds))]
    at_once = [[0, 1, 2]] * 25 + [[0, 1, 2, 3]] * 25 + [[3, 0]] * 22 + [[0, 4]] * 2 + [[0]] * 20
    for running in at_once:
        spans = []
        for i in running:
            s, position = samplers[i], len(texts[i]) - 1
            pages = list(range(8 * i, 8 * i + 8))
            spans.append(Span([texts[i][-1]], position, pages, [0]))
            if told:
                known = {"temperature": s.draws_at(), "uniforms": s.uniforms}
                spans[-1] = dataclasses.replace(spans[-1], **known)
        rows = executor.run(spans)
        for i, row in zip(running, rows, strict=True):
            texts[i].append(samplers[i].sample(row, len(texts[i]))[0])
    return texts


def check_draws_ahead(executor, started, monkeypatch):
    """Tokens that are drawn by a GPU, also where the host is not sure of some, or draws others."""
    expected = draw_all(executor, told=False)
    assert not started
    assert draw_all(executor, told=True) == expected
    assert started.count(False) > 20
    count, block_of = itertools.count(1), lookahead.block_of

    def unsure(*args):
        block = block_of(*args)
        return dataclasses.replace(block, sure=bool(next(count) % 60))

    monkeypatch.setattr(lookahead, "block_of", unsure)
    ahead = started.count(False)
    started.clear()
    assert draw_all(executor, told=True) == expected
    assert 20 < started.count(False) <= ahead + 3  # those that were ignored are counted, too
    assert next(count) > 180


def test_steps_that_draw_are_started_ahead(executor, started, monkeypatch):
    check_draws_ahead(executor, started, monkeypatch)
    wrong = itertools.count(1)

    def draw_wrong(*args):
        draw(*args)
        if next(wrong) % 20 == 0:
            np.from_dlpack(args[5])[:] ^= 1

    executor._lookahead.draw = draw_wrong
    assert draw_all(executor, told=True) == draw_all(executor, told=False)
    assert next(wrong) > 90


@needs_gpu
@pytest.mark.parametrize("numerics", ["faithful", "fast"])
def test_steps_that_draw_are_started_ahead_on_a_gpu(numerics, started, monkeypatch, cache_dir):
    options = {"device": "cuda", "max_total_sequence_length": 4096}
    executor = executor_for("gqa-tied-q4f32_1", cache_dir, numerics=numerics, **options)
    check_draws_ahead(executor, started, monkeypatch)


def test_draws_of_other_seeds_are_not_taken_from_a_step_ahead(executor):
    def sampler(seed):
        sampling = Sampling(max_tokens=None, temperature=1.0, top_p=1.0, seed=seed)
        return Sampler(sampling, [5], VOCABULARY)

    def run(sampler, token, at, told=True):
        known = {"temperature": 1.0, "uniforms": sampler.uniforms} if told else {}
        (row,) = executor.run([Span([token], at, PAGES, [0], **known)])
        return sampler.sample(row, at + 1)[0]

    for other in range(1, 6):
        token, first = 5, sampler(0)
        for at in range(20):
            token = run(first, token, at)
        assert run(sampler(other), token, 20) == run(sampler(other), token, 20, told=False)


def test_steps_give_the_same_bits_as_on_the_cpu(on_host, monkeypatch, cache_dir):
    name, options = "gqa-tied-q4f32_1", {"max_total_sequence_length": 4096}
    expected, last = run(executor_for(name, cache_dir, **options))
    monkeypatch.setattr(planning, "_executor_class", lambda gpu: (on_gpu.CudaExecutor, "cpu"))
    executor = executor_for(name, cache_dir, **options)
    assert isinstance(executor, on_gpu.CudaExecutor)
    assert np.array_equal(run(executor)[0], expected)
    whole = executor.run([last]).copy()[0]
    temperatures = (0.0, None, 0.7, None, None, 0.0)
    spans = [Span(last.tokens, last.start, PAGES, [0], t) for t in temperatures]
    rows = executor.run(spans)
    assert rows[0] == rows[5] == Best(int(whole.argmax()), True)
    for i in (1, 3, 4):
        assert np.array_equal(rows[i], whole)
    assert rows[2].best == rows[0]
    assert np.array_equal(rows[2].row(), whole)
    for _ in range(2):
        assert executor.run([spans[0], spans[5]]) == [rows[0]] * 2
    changes = Changes(less=[(np.array([rows[0].token], np.int32), np.array([1e9], np.float32))])
    changed = dataclasses.replace(spans[0], draws=lambda vocab: [Draw(0.0, changes=changes)])
    for _ in range(2):
        assert executor.run([spans[0], changed]) == [rows[0], Best(int(whole.argsort()[-2]), True)]
