"""Linear layers of weights in ggml's blocks, against the file's own weights in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlc_widget.engine.runtimes.tvm.blocks import FORMATS, BlockMatrix
from mlc_widget.engine.runtimes.tvm.kernels import (
    embedding_blocks,
    matmul_blocks,
    matmul_blocks_int8,
    quantize,
)
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


QUICK = {"float": ("Q4_K", "Q6_K", "BF16"), "int8": ("Q4_K", "Q6_K"), "embedding": ("Q4_K", "BF16")}


def combinations(of: str, kinds: list[str]) -> list[Any]:
    """Formats on this CPU and on its lesser kinds; outside of soak those that differ the most."""
    found = []
    for name in FORMATS:
        for cpu in (None, *kinds):
            quick = cpu is None and name in QUICK[of]
            quick |= (of, name, cpu) == ("int8", "Q8_0", "avx2")  # in halves of 8 lanes
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

    def __call__(self, *args: Any) -> np.ndarray[Any, Any]:
        copies: list[Any] = []
        for arg in args:
            if isinstance(arg, np.ndarray):
                copies.append(aligned_zeros(arg.shape, arg.dtype))
                copies[-1][...] = arg
            else:
                copies.append(arg)
        self._function(*(as_tensor(c) if isinstance(c, np.ndarray) else c for c in copies))
        result: np.ndarray[Any, Any] = copies[-1]
        return result


class Case:
    """Columns FIRST and on of a layer that is wider, with bias and residual."""

    FIRST, WIDTH = 32, 160

    def __init__(self, kernel: Any, target: Any, layer: Layer) -> None:
        self._built, self._layer = Built(kernel, target), layer
        random = np.random.default_rng(3)
        self._bias = random.standard_normal(self.WIDTH).astype(np.float32)
        self._residual = random.standard_normal((M, self.WIDTH)).astype(np.float32)

    def check(self, given: np.ndarray[Any, Any], seen: np.ndarray[Any, Any]) -> None:
        """Run all rows at once, and each alone.

        Args:
            given: What the kernel takes.
            seen: The activations that this stands for.
        """
        y = self._run(given, self._residual)
        columns, padding = np.split(y[:, self.FIRST :], [N], axis=1)[0], np.s_[pad(N) :]
        expected = seen @ self._layer.weights.T + (self._bias + self._residual)[:, self._columns]
        assert error(columns, expected) < 1e-6
        assert (y[:, : self.FIRST] == -1).all()
        assert (y[:, self.FIRST :][:, padding] == -1).all()
        alone = [
            self._run(row, self._residual[i : i + 1])
            for i, row in enumerate(np.split(given, len(given)))
        ]
        assert np.array_equal(np.concatenate(alone), y)

    @property
    def _columns(self) -> slice:
        return slice(self.FIRST, self.FIRST + N)

    def _run(self, given: Any, residual: Any) -> np.ndarray[Any, Any]:
        y = np.full(residual.shape, -1, np.float32)
        return self._built(given, self._layer.words, self._bias, residual, self.FIRST, y)


def error(got: Any, expected: Any) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(("name", "cpu"), combinations("float", cpus()))
def test_with_float_activations(name, cpu):
    target, layer = host_target(cpu), Layer(name)
    x = np.random.default_rng(2).standard_normal((M, K)).astype(np.float32)
    kernel = matmul_blocks.make_matmul_blocks(K, layer.kind, target.isa, residual=True, bias=True)
    Case(kernel, target, layer).check(x, x)


def integers(x: np.ndarray[Any, Any], target: Any) -> np.ndarray[Any, Any]:
    """Rows of 8-bit activations."""
    built = Built(quantize.make_quantize(x.shape[1], target.isa), target)
    return built(x, np.zeros((len(x), quantize.quantized_words(x.shape[1])), np.int32))


@pytest.mark.skipif(not INTEGER, reason="this CPU has no integer dot product")
@pytest.mark.parametrize(("name", "cpu"), combinations("int8", INTEGER))
def test_with_8_bit_activations(name, cpu):
    target, layer = host_target(cpu), Layer(name)
    if not target.isa.dot or not layer.kind.coded:
        pytest.skip("floats, and CPUs without integer dot products, take float activations")
    x = np.random.default_rng(2).standard_normal((M, K)).astype(np.float32)
    kernel = matmul_blocks_int8.make_matmul_blocks_int8(
        K, layer.kind, target.isa, residual=True, bias=True
    )
    # Nothing is rounded but the activations, as their one rule says.
    Case(kernel, target, layer).check(integers(x, target), quantised(x.astype(np.float64)))


@pytest.mark.skipif(not INTEGER, reason="this CPU has no integer dot product")
@pytest.mark.parametrize(
    "cpu", [pytest.param(c, marks=() if c == "avx2" else pytest.mark.soak) for c in INTEGER]
)
def test_the_largest_codes_and_activations_do_not_overflow(cpu):
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
    target = host_target(cpu)
    kernel = matmul_blocks_int8.make_matmul_blocks_int8(
        K, FORMATS["Q8_0"], target.isa, residual=False, bias=False
    )
    q = integers(x, target)
    y = Built(kernel, target)(q, words, q, q, 0, np.zeros((3, 32), np.float32))
    assert np.allclose(y, x.astype(np.float64) @ weights.T, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize(("name", "cpu"), combinations("embedding", []))
def test_embeddings_are_the_weights_to_the_bit(name, cpu):
    target, layer = host_target(cpu), Layer(name)
    kernel = embedding_blocks.make_embedding_blocks(K, layer.kind, target.isa)
    ids = np.array([0, 79, 16, 15, 33, 0], np.int32)
    y = Built(kernel, target)(ids, layer.words, np.zeros((len(ids), K), np.float32))
    assert np.array_equal(y, layer.weights[ids].astype(np.float32))
