"""Linear layers of weights in ggml's blocks, against the file's own weights in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlc_widget.engine.runtimes.tvm.blocks import FORMATS, BlockMatrix
from mlc_widget.engine.runtimes.tvm.kernels import matmul_blocks, quantize
from mlc_widget.engine.runtimes.tvm.layout_records import layout_of
from mlc_widget.engine.runtimes.tvm.layouts import pad
from mlc_widget.engine.runtimes.tvm.memory import aligned_zeros, as_tensor
from mlc_widget.engine.runtimes.tvm.target import host_target
from mlc_widget.engine.store.formats.ggml_types import GGML_TYPES, dequantize
from tests.engine.store.formats.gguf_writer import random_blocks

from .conftest import cpus
from .emulation import quantised

K, N, M = 512, 80, 13
TYPES = {kind.name: kind for kind in GGML_TYPES.values()}
INTEGER = [cpu for cpu in cpus() if host_target(cpu).isa.dot]


def combinations(kinds: list[str]) -> list[Any]:
    """Formats that differ much, on this CPU and on those of 8 lanes; soak has the rest."""
    found = []
    for name in FORMATS:
        for cpu in (None, *kinds):
            usual = name in ("Q4_0", "Q5_1", "Q8_0", "Q3_K", "Q4_K", "Q6_K", "MXFP4", "BF16")
            quick = (cpu is None and usual) or (name == "Q8_0" and cpu in ("avx2", "avxvnni"))
            marks = () if quick else pytest.mark.soak
            found.append(pytest.param(name, cpu, marks=marks, id=f"{name}-{cpu or 'host'}"))
    return found


class Layer:
    """A matrix of one type, in the kernels' memory and as floats."""

    def __init__(self, name: str, outputs: int = N, inputs: int = K) -> None:
        self.kind = FORMATS[name]
        data = random_blocks(TYPES[name], outputs, inputs, seed=1)
        self.weights = dequantize(TYPES[name], data, inputs).astype(np.float64)
        self.words = packed(name, data, inputs)


def packed(name: str, data: np.ndarray[Any, Any], inputs: int) -> np.ndarray[Any, Any]:
    """Rows of a file as the kernels read them, written piece by piece."""
    layout = layout_of(BlockMatrix(name, inputs, len(data), pad(len(data))).record())
    assert layout.source_shape == data.shape
    words = np.zeros(layout.shape, layout.dtype)
    for start, stop in layout.pieces(20):
        layout.pack_piece(data[start:stop], start, words)
    return words


class Built:
    """A kernel, compiled, that is called on copies at the borders that it wants."""

    def __init__(self, kernel: Any, target: Any) -> None:
        import tvm

        built = tvm.tirx.build(kernel, target=target.tvm_target())
        # Sums live in registers: on TVM's heap they cost more than all the rest.
        assert "AllocWorkspace" not in built.inspect_source("ll")
        self._function = built[kernel.attrs["global_symbol"]]

    def __call__(self, *arrays: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        copies = [aligned_zeros(a.shape, a.dtype) for a in arrays]
        for copy, array in zip(copies, arrays, strict=True):
            copy[...] = array
        self._function(*map(as_tensor, copies))
        return copies[-1]


def each_alone(built: Built, x: Any, words: Any, width: int) -> np.ndarray[Any, Any]:
    """The rows computed one at a time."""
    return np.concatenate(
        [built(r, words, r, r, np.zeros((1, width), np.float32)) for r in np.split(x, len(x))]
    )


def error(got: Any, expected: Any) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(("name", "cpu"), combinations(cpus()))
def test_with_float_activations(name, cpu):
    target, layer = host_target(cpu), Layer(name)
    x = np.random.default_rng(2).standard_normal((M, K)).astype(np.float32)
    kernel = matmul_blocks.make_matmul_blocks(
        K, pad(N), layer.kind, target.isa, residual=False, bias=False
    )
    built = Built(kernel, target)
    y = built(x, layer.words, x, x, np.zeros((M, pad(N)), np.float32))
    assert error(y[:, :N], x @ layer.weights.T) < 1e-6
    assert not y[:, N:].any()
    assert np.array_equal(each_alone(built, x, layer.words, pad(N)), y)


def integers(x: np.ndarray[Any, Any], target: Any) -> np.ndarray[Any, Any]:
    """Rows of 8-bit activations."""
    built = Built(quantize.make_quantize(x.shape[1], target.isa), target)
    return built(x, np.zeros((len(x), quantize.quantized_words(x.shape[1])), np.int32))


@pytest.mark.skipif(not INTEGER, reason="this CPU has no integer dot product")
@pytest.mark.parametrize(("name", "cpu"), combinations(INTEGER))
def test_with_8_bit_activations(name, cpu):
    target, layer = host_target(cpu), Layer(name)
    if not target.isa.dot or not layer.kind.coded:
        pytest.skip("floats, and CPUs without integer dot products, take float activations")
    x = np.random.default_rng(2).standard_normal((M, K)).astype(np.float32)
    kernel = matmul_blocks.make_matmul_blocks_int8(
        K, pad(N), layer.kind, target.isa, residual=False, bias=False
    )
    q, built = integers(x, target), Built(kernel, target)
    y = built(q, layer.words, q, q, np.zeros((M, pad(N)), np.float32))
    # Nothing is rounded but the activations, as their one rule says.
    assert error(y[:, :N], quantised(x.astype(np.float64)) @ layer.weights.T) < 1e-6
    assert np.array_equal(each_alone(built, q, layer.words, pad(N)), y)


@pytest.mark.skipif(not INTEGER, reason="this CPU has no integer dot product")
def test_the_largest_codes_and_activations_do_not_overflow():
    """All codes 255 or 0 against all activations 127 or -127, on every kind of CPU."""
    kind = TYPES["Q8_0"]
    blocks = np.zeros((32, K // 32, 34), np.uint8)
    blocks[:, :, :2] = np.array([1], np.float16).view(np.uint8)
    blocks[:16, :, 2:], blocks[16:, :, 2:] = 127, 128  # 127 and -128
    data = blocks.reshape(32, -1)
    weights = dequantize(kind, data, K).astype(np.float64)
    words = packed("Q8_0", data, K)
    x = np.ones((3, K), np.float32)
    x[1], x[2, ::2] = -1, -1
    for cpu in INTEGER:
        target = host_target(cpu)
        kernel = matmul_blocks.make_matmul_blocks_int8(
            K, 32, FORMATS["Q8_0"], target.isa, residual=False, bias=False
        )
        q = integers(x, target)
        y = Built(kernel, target)(q, words, q, q, np.zeros((3, 32), np.float32))
        assert np.allclose(y, x.astype(np.float64) @ weights.T, rtol=1e-6, atol=1e-3), cpu


@pytest.mark.parametrize("integer", [False, True], ids=["float", "int8"])
def test_parts_of_one_layer_are_written_side_by_side_with_bias_and_residual(integer):
    target = host_target()
    if integer and not target.isa.dot:
        pytest.skip("this CPU has no integer dot product")
    parts = [Layer("Q4_K", 64), Layer("Q6_K", 32)]
    random = np.random.default_rng(3)
    x = random.standard_normal((M, K)).astype(np.float32)
    bias, residual = (random.standard_normal(s).astype(np.float32) for s in ((96,), (M, 96)))
    make = matmul_blocks.make_matmul_blocks_int8 if integer else matmul_blocks.make_matmul_blocks
    given = integers(x, target) if integer else x
    y, first = np.zeros((M, 96), np.float32), 0
    for part in parts:
        width = len(part.weights)
        kernel = make(
            K, width, part.kind, target.isa, residual=True, bias=True, columns=(first, 96)
        )
        y = Built(kernel, target)(given, part.words, bias, residual, y)
        first += width
    weights = np.concatenate([part.weights for part in parts])
    seen = quantised(x.astype(np.float64)) if integer else x
    assert error(y, seen @ weights.T + bias + residual) < 1e-6


@pytest.mark.parametrize("name", FORMATS)
def test_embeddings_are_the_weights_to_the_bit(name):
    target, layer = host_target(), Layer(name)
    kernel = matmul_blocks.make_embedding_blocks(K, pad(N), layer.kind, target.isa)
    ids = np.array([0, 79, 16, 15, 33, 0], np.int32)
    y = Built(kernel, target)(ids, layer.words, np.zeros((len(ids), K), np.float32))
    assert np.array_equal(y, layer.weights[ids].astype(np.float32))
