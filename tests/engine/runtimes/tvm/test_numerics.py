"""The fast mode gives the same bits however it is run. (`test_fast` tests its accuracy.)"""

from __future__ import annotations

import random

import numpy as np
import pytest

from mlc_widget.api.errors import BadRequestError
from mlc_widget.engine.runtimes.tvm.target import host_target

from .conftest import Stepper, cpus, executor_for, golden_data, run_chunks

CHUNKS = [30, 30, 24]  # borders at 30 and 60, within pages of 16
NAME = "gqa-tied-q4f32_1"


def kinds_of_cpus():
    """Each is compiled, so `make test` takes those that most machines have."""
    left = ("avx512", "portable")
    return [pytest.param(c, marks=pytest.mark.soak if c in left else ()) for c in cpus()]


@pytest.mark.parametrize("cpu", kinds_of_cpus())
def test_any_cut_gives_the_same_bits_on_every_kind_of_cpu(cpu, cache_dir):
    prompt = golden_data(NAME)["prompt"].tolist()
    executor = executor_for(NAME, cache_dir, numerics="fast", cpu=cpu)
    one = run_chunks(executor, prompt, CHUNKS)
    for chunks in ([84], [1] * 20 + [64], [17, 15, 1, 1, 50]):
        assert np.array_equal(one, run_chunks(executor, prompt, chunks))


def test_any_batch_gives_the_same_bits(cache_dir):
    options = {"cpu": "avx2"} if "avx2" in cpus() else {}  # compiled above
    golden = golden_data(NAME)
    prompt, vocab = golden["prompt"].tolist(), golden["logits"].shape[1]
    executor = executor_for(NAME, cache_dir, numerics="fast", **options)
    alone = run_chunks(executor, prompt, [len(prompt)])
    for size in range(2, 9):
        rng = random.Random(size)
        stepper, at = Stepper(executor), 0
        while at < len(prompt):
            # A new company and cut at every step, decoding and prefilling mixed.
            n = min(rng.choice([1, 1, 2, 5, 19]), len(prompt) - at)
            tokens = {
                f"o{i}": [rng.randrange(vocab) for _ in range(rng.choice([1, 1, 3]))]
                for i in range(size - 1)
            }
            tokens["a"] = prompt[at : at + n]
            order = sorted(tokens, key=lambda _: rng.random())
            stepper.step(**{name: tokens[name] for name in order})
            at += n
        assert np.array_equal(stepper.all("a"), alone)


@pytest.mark.parametrize(
    "left_out",
    [pytest.param({"avx512"}, id="quick"), pytest.param(set(), id="all", marks=pytest.mark.soak)],
)
def test_integer_dot_products_give_the_same_bits_on_every_cpu(left_out, cache_dir):
    name, prompt = NAME, golden_data(NAME)["prompt"].tolist()
    kinds = [cpu for cpu in cpus() if host_target(cpu).isa.dot and cpu not in left_out]
    results = [
        run_chunks(executor_for(name, cache_dir, numerics="fast", cpu=cpu), prompt, CHUNKS)
        for cpu in kinds
    ]
    for result in results[1:]:
        assert np.array_equal(result, results[0])


@pytest.mark.soak  # most models of test_families.py have theirs in float16
@pytest.mark.parametrize("name", [NAME, "odd-sizes-q0f32"])
def test_keys_and_values_in_float16(name, cache_dir):
    golden = golden_data(name)
    executor = executor_for(name, cache_dir, kv_cache_dtype="float16")
    logits = run_chunks(executor, golden["prompt"].tolist(), CHUNKS)
    assert np.abs(logits - golden["logits"]).max() / np.abs(golden["logits"]).max() < 3e-3
    assert (logits.argmax(axis=1) == golden["logits"].argmax(axis=1)).all()


def test_an_unknown_mode_is_refused(cache_dir):
    with pytest.raises(BadRequestError, match="fast or faithful") as e:
        executor_for(NAME, cache_dir, numerics="exact")
    assert e.value.param == "numerics"
