"""Logits and greedy tokens against transformers, on tiny random models (tools/golden.py)."""

from __future__ import annotations

import platform

import numpy as np
import pytest

from mlc_widget.engine.runtimes.tvm.target import CpuTarget, host_target, isa_of

from .conftest import MODELS, collect, executor_for, golden_data, greedy, ids_of, run_chunks

TOLERANCE = 1e-4
CHUNKS = [30, 30, 24]  # borders at 30 and 60, within pages of 16
X86 = platform.machine() in {"x86_64", "AMD64"}


def assert_close(logits: np.ndarray, reference: np.ndarray) -> None:
    assert logits.shape == reference.shape
    error = np.abs(logits - reference).max() / np.abs(reference).max()
    assert error < TOLERANCE
    assert (logits.argmax(axis=1) == reference.argmax(axis=1)).all()


@pytest.mark.parametrize("name", MODELS)
def test_logits_at_every_position_over_chunks_that_cross_pages(name, cache_dir):
    golden = golden_data(name)
    executor = executor_for(name, cache_dir)
    assert_close(run_chunks(executor, golden["prompt"].tolist(), CHUNKS), golden["logits"])


@pytest.mark.soak  # test_architectures.py has one model on each tier
@pytest.mark.skipif(not X86, reason="x86-64's tiers")
@pytest.mark.parametrize(
    ("name", "cpu", "features"),
    [
        (name, cpu, features)
        for name in ("gqa-tied-q4f32_1", "odd-sizes-q0f32")
        for cpu, features in (
            ("haswell", {"avx2", "fma"}),
            ("x86-64", set()),
            ("x86-64-v4", {"avx512f"}),
        )
    ],
)
def test_other_tiers_of_cpus(name, cpu, features, cache_dir):
    host = host_target()
    if "avx512f" in features and host.isa.registers < 32:
        pytest.skip("this CPU has no AVX-512")
    golden = golden_data(name)
    target = CpuTarget(host.triple, cpu, (), isa_of(features, host.triple))
    assert target.isa.fma == bool(features)
    executor = executor_for(name, cache_dir, target)
    one = run_chunks(executor, golden["prompt"].tolist(), CHUNKS)
    assert_close(one, golden["logits"])
    assert np.array_equal(one, run_chunks(executor, golden["prompt"].tolist(), [1, 80, 3]))


@pytest.mark.parametrize("name", MODELS)
async def test_greedy_tokens(name, load):
    golden = golden_data(name)
    runtime = await load(name, prefill_chunk_size=24, max_num_sequence=4)
    events = await collect(runtime, golden["prompt"].tolist(), greedy(max_tokens=40))
    assert ids_of(events) == golden["greedy"].tolist()
