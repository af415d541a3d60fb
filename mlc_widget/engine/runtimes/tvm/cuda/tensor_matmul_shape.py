# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""What both kernels of a linear layer on tensor cores are made for, and what both do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.builder import Activation
from mlc_widget.engine.runtimes.tvm.cuda.fragments import STEP, steps_of
from mlc_widget.engine.runtimes.tvm.cuda.intrinsics import (
    activated,
    decode4,
    decode8,
    fetch16,
    saturated,
)

SLICES: Final = 16
"""Runs of steps that are summed by themselves."""


@dataclass(frozen=True, slots=True)
class MatmulShape:
    """A linear layer; see `tensor_matmul.make_tensor_matmul`.

    Attributes:
        K: Inputs.
        N: Rows of W: outputs or, with `gated`, gates and ups.
        bits: Of a weight.
        residual: Whether a residual is added.
        bias: Whether a bias is added.
        activation: The f of f(gate) · up, if that is made; None for x · Wᵀ.
        multiprocessors: The number of the GPU's multiprocessors.
        beside: Whether the kernel before leaves some multiprocessors little room, as attention
            does, so that blocks of few rows should take no more memory than they need.
    """

    K: int
    N: int
    bits: int
    residual: bool
    bias: bool
    activation: Activation | None
    multiprocessors: int = 132
    beside: bool = False

    @property
    def gated(self) -> bool:
        """Whether W has gates and ups."""
        return self.activation is not None

    def gate(self, gate: Any, up: Any) -> Any:
        """f(gate) · up in float16."""
        assert self.activation is not None
        return saturated(activated(gate, self.activation) * up)

    @property
    def steps(self) -> int:
        """Steps of all inputs."""
        return steps_of(self.K)

    @property
    def per_slice(self) -> int:
        """Steps of a slice."""
        return -(-self.steps // SLICES)

    @property
    def loads(self) -> int:
        """Loads of 16 bytes that a thread's words of a step take."""
        return self.bits // 4

    @property
    def coded(self) -> bool:
        """Whether weights are codes with scales."""
        return self.bits < 16

    @property
    def tiles(self) -> int:
        """Tiles of 16 rows of W that make 16 outputs: with gates, two."""
        return 2 if self.gated else 1

    @property
    def outputs(self) -> int:
        """Numbers in a row of y."""
        return self.N // 2 if self.gated else self.N

    @property
    def w(self) -> tuple[tuple[int, ...], str]:
        """Shape and dtype of the weights."""
        words = (8, "float16") if self.bits == 16 else (4, "uint32")
        return (self.N // 16, self.steps, self.loads, 32, words[0]), words[1]

    @property
    def s(self) -> tuple[tuple[int, ...], str]:
        """Shape and dtype of the scales, in whose place float weights are given again."""
        return (self.N // 16, self.steps, 8, 4) if self.coded else self.w[0], "float16"

    @property
    def name(self) -> str:
        """The kernel's name."""
        name = f"tensor_matmul_{self.bits}_{self.K}_{self.N}" + (
            f"_{self.activation}" if self.gated else ""
        )
        name += ("_bias" if self.bias else "") + ("_residual" if self.residual else "")
        return name + ("_beside" if self.beside else "")

    def weight(self, f: Any, w: Any, at: Any, s: Any, scale: Any, h: Any, q: Any) -> Any:
        """Put A's words for product q of half h into f, from the step's words at ``w[at]``."""
        if self.bits == 4:
            return decode4(f, w[at + 2 * h + q], s[scale + h])
        return decode8(f, w[at + 4 * h + 2 * q], w[at + 4 * h + 2 * q + 1], s[scale + h])


def make_rows_of(shape: MatmulShape) -> Any:
    """``rows_of(X, b, at, row, k)``, for use in a kernel."""
    K, RAGGED = shape.K, shape.K % STEP != 0

    @T.inline
    def rows_of(X, b, at, row, k):
        """Load eight inputs of a row from k on as four words; 0 after the last row."""
        if RAGGED:
            for v in T.unroll(4):
                b[at + v] = T.uint32(0)
        if k < K:
            T.evaluate(fetch16(b, at, T.address_of(X[row, k])))

    return rows_of


def make_write(shape: MatmulShape) -> Any:
    """``write(Y, B, RES, M, total, v, up, m, n)``, for use in a kernel."""
    OUT, bias, residual, gated = shape.outputs, shape.bias, shape.residual, shape.gated
    gate = shape.gate

    @T.inline
    def write(Y, B, RES, M, total, v, up, m, n):
        """Write ``total[v]``; with `gated`, the up of a gate is `up` values after it."""
        if m < M and n < OUT:
            if bias:
                total[v] = total[v] + B[n]
                if gated:
                    total[v + up] = total[v + up] + B[OUT + n]
            if residual:
                total[v] = total[v] + RES[m, n]
            if gated:
                Y[m, n] = gate(total[v], total[v + up])
            else:
                Y[m, n] = total[v]

    return write
