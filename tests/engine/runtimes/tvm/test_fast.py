"""The fast mode against transformers, on every kind of CPU, and against its own definition."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlc_widget.engine.runtimes.tvm.kernels import matmul_int8, quantize
from mlc_widget.engine.runtimes.tvm.memory import aligned_zeros, as_tensor
from mlc_widget.engine.runtimes.tvm.target import host_target

from .conftest import GOLDEN, cpus, executor_for, run_chunks, run_in_a_batch
from .emulation import Decoder, quantised

sys.path.append(str(Path(__file__).parents[4] / "tools"))
import mlc_format
import wide

FIXTURES = Path(__file__).parents[3] / "fixtures" / "wide"
TOLERANCE = 0.03
CHUNKS = [30, 30, 24]  # borders at 30 and 60, within pages of 16
TOKENS = 84
INTEGER = [cpu for cpu in cpus() if host_target(cpu).isa.dot]


def reference(model_type: str, quantization: str) -> np.ndarray:
    """Transformers' logits at each position of the prompt.

    For 8 bits, these are the decoder's in float64, which is transformers' (see below).
    """
    if quantization == "q8f16_1":
        params = mlc_format.dequantized(wide.params(model_type), quantization)
        return Decoder(params, wide.WIDE[model_type]).logits(wide.prompt(model_type, TOKENS))
    with np.load(FIXTURES / f"{model_type}.npz") as file:
        return file["q4f16_1" if quantization == "q4f16_0" else quantization]


def error(logits: np.ndarray, expected: np.ndarray) -> float:
    """The largest, relative to the largest logit."""
    assert logits.shape == expected.shape
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory):
    """The folder of a wide model in a quantization."""
    tokenizer = (GOLDEN / "gqa-tied-q0f32" / "tokenizer.json").read_text()

    def make(model_type: str, quantization: Any) -> Path:
        folder = tmp_path_factory.mktemp("wide") / f"{model_type}-{quantization}"
        mlc_format.write_model(
            folder,
            params=mlc_format.quantize_params(wide.params(model_type), quantization),
            config=wide.WIDE[model_type],
            quantization=quantization,
            model_type=model_type,
            tokenizer_json=tokenizer,
            encode_format="raw",
        )
        return folder

    return make


def combinations() -> Iterator[Any]:
    """Every architecture, quantization by codes and kind of CPU.

    Each is compiled, so all are left to `make soak`. `make test` takes a model in 4 bits below,
    which is compared with the definition, to the last digits, and the kernels, which also have a
    bias. test_architectures.py has the architectures; that other CPUs with integer dot products
    give the same bits is in test_numerics.py.
    """
    for model_type in wide.WIDE:
        for quantization in ("q4f16_0", "q4f16_1", "q4f32_1", "q8f16_1"):
            for cpu in (None, *cpus()):
                name = f"{model_type}-{quantization}-{cpu or 'host'}"
                yield pytest.param(model_type, quantization, cpu, id=name)


@pytest.mark.soak
@pytest.mark.parametrize(("model_type", "quantization", "cpu"), list(combinations()))
def test_logits_alone_and_in_a_batch(model_type, quantization, cpu, folder_of, cache_dir):
    expected, prompt = reference(model_type, quantization), wide.prompt(model_type, TOKENS)
    options = {} if cpu is None else {"cpu": cpu}
    folder = folder_of(model_type, quantization)
    executor = executor_for(folder, cache_dir, numerics="fast", **options)
    alone = run_chunks(executor, prompt, CHUNKS)
    assert error(alone, expected) < TOLERANCE
    assert (alone.argmax(axis=1) == expected.argmax(axis=1)).all()
    assert np.array_equal(run_in_a_batch(executor, prompt), alone)


# --- what it is defined to be ---------------------------------------------------------------------


@pytest.mark.parametrize("model_type", list(wide.WIDE))
def test_the_definition_is_the_model(model_type):
    params = mlc_format.dequantized(wide.params(model_type), "q4f16_1")
    logits = Decoder(params, wide.WIDE[model_type]).logits(wide.prompt(model_type, TOKENS))
    assert error(logits, reference(model_type, "q4f16_1")) < 1e-6


@pytest.mark.skipif(not INTEGER, reason="this CPU has no integer dot product")
@pytest.mark.parametrize(
    "quantization", ["q4f16_1", pytest.param("q8f16_1", marks=pytest.mark.soak)]
)
def test_nothing_is_rounded_but_what_linear_layers_read(quantization, folder_of, cache_dir):
    """Equal to the last digits, up to where a number lies on the border between two integers.

    There, float32 and float64 may round to different ones; that token differs by a rounding from
    then on, and so does all that attends to it. Which tokens these are depends on the CPU, so many
    short prompts are compared, of which most have none.
    """
    params = mlc_format.dequantized(wide.params("llama"), quantization)
    prompt = wide.prompt("llama", TOKENS)
    decoder = Decoder(params, wide.WIDE["llama"], fast=True)
    folder = folder_of("llama", quantization)
    executor = executor_for(folder, cache_dir, numerics="fast", kv_cache_dtype="float32")
    alone = run_chunks(executor, prompt, CHUNKS)
    assert np.array_equal(run_in_a_batch(executor, prompt), alone)
    expected = decoder.logits(prompt)
    assert np.abs(alone - expected).max() / np.abs(expected).max() < 0.01
    differences = []
    for start in range(0, TOKENS, 4):
        ids = prompt[start : start + 4]
        exact = decoder.logits(ids)
        logits = run_chunks(executor, ids, [len(ids)])
        differences.append(np.abs(logits - exact).max() / np.abs(exact).max())
    assert np.median(differences) < 1e-6, differences


FEATURES, OUTPUTS = 160, 96


@functools.cache
def kernels(cpu: str, bits: int) -> tuple[Any, Any]:
    """The compiled kernels that quantise activations and that multiply them by weights."""
    isa = host_target(cpu).isa
    multiply = matmul_int8.make_matmul_int8(
        FEATURES, OUTPUTS, bits, "float16", isa, residual=True, bias=True
    )
    return build(quantize.make_quantize(FEATURES, isa, bits=bits), cpu), build(multiply, cpu)


def build(kernel: Any, cpu: str) -> Any:
    import tvm

    built = tvm.tirx.build(kernel, target=host_target(cpu).tvm_target())
    # Sums live in registers: on TVM's heap they cost more than all the rest.
    assert "AllocWorkspace" not in built.inspect_source("ll")
    return built[kernel.attrs["global_symbol"]]


def call(function: Any, *arrays: np.ndarray) -> np.ndarray:
    """Run a kernel on copies at the borders that it wants; the last array is what it writes."""
    copies = [aligned_zeros(a.shape, a.dtype) for a in arrays]
    for copy, array in zip(copies, arrays, strict=True):
        copy[...] = array
    function(*map(as_tensor, copies))
    return copies[-1]


@pytest.mark.parametrize("cpu", INTEGER)
@pytest.mark.parametrize("rows", [1, 3, 21])
@pytest.mark.parametrize("bits", [4, 8])
def test_kernels_compute_what_they_document(cpu, rows, bits):
    rng, features, outputs = np.random.default_rng(rows), FEATURES, OUTPUTS
    to_integers, multiply = kernels(cpu, bits)
    x = (rng.standard_normal((rows, features)) * 10.0 ** rng.integers(-3, 3)).astype(np.float32)
    x[0, 32:64] = 0
    words = quantize.quantized_words(features)
    q = call(to_integers, x, np.zeros((rows, words), np.int32))
    # Integers and scales, taken apart as `kernels.quantize` describes them.
    integers = q[:, : features // 4].copy().view(np.int8)
    if bits == 4:
        integers = integers.reshape(rows, -1, 2, 4).transpose(0, 1, 3, 2)
    integers = integers.reshape(rows, -1, 32)
    scales = q[:, features // 4 :].copy().view(np.float32)[:, : features // 32, None]
    read = (integers.astype(np.float64) * scales).reshape(rows, features)
    step = np.repeat(scales[:, :, 0], 32, axis=1)
    exact = quantised(x.astype(np.float64))
    assert np.abs(read - exact).max() <= 1.001 * step.max()  # the border between two integers …
    assert (np.abs(read - exact) < 1e-5 * np.abs(x).max()).mean() > 0.99  # … is a rare place
    assert np.abs(read - x).max() <= 0.501 * step.max()

    weights = (rng.standard_normal((outputs, features)) / features**0.5).astype(np.float32)
    q_weight, q_scale = mlc_format.quantize_group(weights, bits=bits, scale_dtype=np.float16)
    if bits == 4:  # all 16 codes, and scales of both signs, as searched ones are
        q_weight = rng.integers(0, 2**32, q_weight.shape, np.uint32)
        q_scale *= rng.choice([-1, 1], q_scale.shape).astype(np.float16)
    dense = mlc_format.dequantize_group(q_weight, q_scale.astype(np.float64), bits=bits)

    def blocks(a: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(a.reshape(outputs // 16, 16, -1).transpose(0, 2, 1))

    bias = rng.standard_normal(outputs).astype(np.float32)
    residual = rng.standard_normal((rows, outputs)).astype(np.float32)
    args = (q, blocks(q_weight), blocks(q_scale), bias, residual, np.zeros_like(residual))
    y = call(multiply, *args)
    assert error(y, read @ dense.T + bias + residual) < 1e-6
