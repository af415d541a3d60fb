# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Linear layers of 4- or 8-bit weights × 8-bit activations, y = x · Wᵀ (+ bias) (+ residual).

Blocks, groups and words of weights are those of `matmul`; activations are those of `quantize`.
For each output n and row m, the order of the sum is

    d[i] = Σ code · q + offset[i]                 exact, over the 32 inputs of group i
    y    = fma(float(d[i]), s[i] · scale[i], y)   groups ascending, from 0

and then y + bias + residual, for any tile of rows, any number of threads, and any `Dot`.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.kernels.dot import DOTS, high_codes, low_codes
from mlc_widget.engine.runtimes.tvm.kernels.dot_step import adder
from mlc_widget.engine.runtimes.tvm.kernels.isa import Isa, in_registers
from mlc_widget.engine.runtimes.tvm.kernels.linear import (
    Addends,
    halved_tiles,
    make_linear,
    prefetcher,
)
from mlc_widget.engine.runtimes.tvm.kernels.quantize import quantized_words


def make_matmul_int8(
    K: int, N: int, bits: int, dtype: str, isa: Isa, *, residual: bool, bias: bool
) -> Any:
    """4- or 8-bit weights × 8-bit activations.

    Shapes: q (M, `quantized_words(K)`) int32 as made by `quantize` for codes of `bits`; w
    (N/16, K/P, 16) uint32 with P = 32 / bits codes per word, and s (N/16, K/32, 16) of `dtype`,
    float32 or float16, as in `matmul.make_matmul_codes`; b (N,) float32 if `bias`; r (M, N) float32
    if `residual`; y (M, N) float32. K and N are multiples of 32. Without `bias` or `residual`, q is
    passed for b or r and not read.
    """
    G, NB = K // 32, N // 16
    dot = DOTS[isa.dot]
    L = dot.lanes
    V = 16 // L
    U, F = f"uint32x{L}", f"float32x{L}"
    MOST = (1 << bits) - 1  # of the codes
    SHIFT = dot.zero(MOST)
    sum_dtype, sum_lanes = dot.sum_type(MOST)
    WORDS = bits  # of a group of 32 codes
    STEP = WORDS if dot.whole else 1
    STEPS = WORDS // STEP
    PARTS = 8 // bits  # of a word, with four codes each
    ask = prefetcher(STEP, lambda nb, line: [nb, line, 0], lambda nb, n: [nb, n // STEPS, 0])
    add = adder(dot, PARTS, MOST)
    added = Addends(bias, residual)
    w, s = ((NB, K * bits // 32, 16), "uint32"), ((NB, G, 16), dtype)
    name = f"matmul_int8_{dtype}_{K}_{N}" if bits == 4 else f"matmul_int8_q8_{dtype}_{K}_{N}"

    def partial(buffer: Any, i: Any) -> Any:
        return buffer.vload([i, 0], f"{sum_dtype}x{sum_lanes}")

    def offset(Q: Any, m: Any, g: Any) -> Any:
        given = Q[m, K // 4 + G + g]
        if not SHIFT:
            return given
        sums = K // 4 + 2 * G + 2 * g
        return given + (Q[m, sums] + Q[m, sums + 1]) * T.int32(SHIFT)

    @T.inline
    def unpack(W, codes, nb, at):
        """Take the codes of word `at` of each weight apart."""
        for v in T.unroll(V):
            word: T.let = W.vload([nb, at, v * L], U)
            if bits == 8:
                codes.vstore([v, 0], word)
            else:
                codes.vstore([v * 2, 0], low_codes(word, L))
                codes.vstore([v * 2 + 1, 0], high_codes(word, L))

    @T.inline
    def multiply(Q, W, total, codes, nb, row, n, ROWS):
        """Add the products of step n, which has `STEP` words of each weight."""
        for j in T.unroll(STEP):
            at: T.let = n * STEP + j
            unpack(W, codes, nb, at)
            add(Q, codes, total, row, at, ROWS)

    @T.inline
    def start(Q, total, row, g, ROWS):
        for r in T.unroll(ROWS):
            for v in T.unroll(V):
                total.vstore([r * V + v, 0], dot.start(offset(Q, row + r, g), MOST))

    @T.inline
    def finish(Q, S, acc, total, nb, row, g, ROWS):
        """Add the exact sums over group g to y."""
        for v in T.unroll(V):
            s: T.let = T.Cast(F, S.vload([nb, g, v * L], f"{dtype}x{L}"))
            for r in T.unroll(ROWS):
                i: T.let = r * V + v
                d: T.let = T.Cast(F, dot.finish(partial(total, i), offset(Q, row + r, g), MOST))
                x: T.let = T.broadcast(T.reinterpret("float32", Q[row + r, K // 4 + g]), L)
                acc.vstore([i, 0], isa.mul_add(d, s * x, acc.vload([i, 0], F), L))
        if STEPS > 1:
            start(Q, total, row, g, ROWS)

    @T.inline
    def tile(Q, W, S, B, RES, Y, first, nb, row, ROWS):
        """Compute rows row … row + ROWS - 1 of block nb."""
        with T.sblock("tile"):
            T.reads()
            T.writes()
            acc = in_registers((ROWS * V, L))
            total = in_registers((ROWS * V, sum_lanes), sum_dtype)
            codes = in_registers((V * PARTS, L), "uint32")
            for i in T.unroll(ROWS * V):
                acc.vstore([i, 0], T.broadcast(T.float32(0), L))
            if STEPS > 1:
                start(Q, total, row, 0, ROWS)
            for n in T.serial(G * STEPS):
                ask(W, S, nb, n, row, ROWS)
                g: T.let = n // STEPS
                if STEPS == 1:
                    start(Q, total, row, g, ROWS)
                multiply(Q, W, total, codes, nb, row, n, ROWS)
                if n % STEPS == STEPS - 1:
                    finish(Q, S, acc, total, nb, row, g, ROWS)
            for r in T.unroll(ROWS):
                for v in T.unroll(V):
                    n: T.let = nb * 16 + v * L
                    y: T.let = acc.vload([r * V + v, 0], F)
                    Y.vstore([row + r, n], added.plus(y, B, RES, row + r, n, L))

    all_rows = halved_tiles(tile, isa.int8_rows)
    return make_linear(name, (quantized_words(K), "int32"), N, w, s, added, all_rows)
