# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Linear layers of weights in ggml's blocks (`tvm.blocks`) × 8-bit activations (`quantize`).

y = x · Wᵀ (+ bias) (+ residual); for each output n and row m, over the groups of weights ascending
(of 32 inputs, or two halves of 16):

    d = Σ code · q − zero · Σ q                                     exact
    y = fma(float(d), s · x, y)                                     from 0; x is the scale of q
    y = fma(fma(s, float(d), −m · float(Σ q)), x, y)                for formats with minima

Then follow + bias and + residual. The order is the same for any tile of rows and any number of
threads. `s` and `m` are products of scales and factors, exact in float32.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.blocks import BlockFormat
from mlc_widget.engine.runtimes.tvm.kernels.block_reader import BlockReader
from mlc_widget.engine.runtimes.tvm.kernels.dot import DOTS, high_codes, low_codes
from mlc_widget.engine.runtimes.tvm.kernels.dot_step import adder
from mlc_widget.engine.runtimes.tvm.kernels.isa import Isa, in_registers
from mlc_widget.engine.runtimes.tvm.kernels.linear import (
    Addends,
    halved_tiles,
    make_linear_part,
    prefetcher,
)
from mlc_widget.engine.runtimes.tvm.kernels.quantize import quantized_words


def make_matmul_blocks_int8(
    K: int, kind: BlockFormat, isa: Isa, *, residual: bool, bias: bool
) -> Any:
    """Weights in blocks × 8-bit activations; the N outputs are columns `first` … of C.

    Shapes: q (M, `quantized_words(K)`) int32; w as `blocks.matrix_words` for N outputs; b (C,)
    float32 if `bias`; r (M, C) float32 if `residual`; `first` int64; y (M, C) float32. K and N are
    multiples of 32. Without `bias` or `residual`, q is passed for b or r and not read.

    N, C and `first` are known only when it is called, so one kernel serves all matrices of a type
    with the same number of inputs.

    Args:
        K: The number of inputs.
        kind: The format of the weights.
        isa: The CPU's features.
        residual: Whether a residual is added.
        bias: Whether a bias is added.
    """
    dot = DOTS[isa.dot]
    L = dot.lanes
    V = 16 // L
    U, F = f"uint32x{L}", f"float32x{L}"
    read = BlockReader(kind, K, isa, L)
    SPLIT, ZERO = 32 // kind.group, kind.zero
    MOST = (1 << kind.bits + kind.high) - 1  # of the codes
    SHIFT = dot.zero(MOST) - ZERO
    sum_dtype, sum_lanes = dot.sum_type(MOST)
    SUMS = K // 4 + K // 16
    WORDS = kind.bits // SPLIT  # of weights, in one sum
    STEP = WORDS if dot.whole or kind.high or WORDS == 2 else 1
    STEPS = WORDS // STEP
    PARTS = 1 if kind.bits == 8 else 2  # of a word, with four codes each
    ask = prefetcher(STEP, lambda nb, line: [nb, line * 16])
    add = adder(dot, PARTS, MOST)
    added = Addends(bias, residual)

    def partial(buffer: Any, i: Any) -> Any:
        return buffer.vload([i, 0], f"{sum_dtype}x{sum_lanes}")

    def sum_of(Q: Any, m: Any, g: Any, h: Any) -> Any:
        """Σ q over the inputs of one group of weights."""
        if SPLIT == 2:
            return Q[m, SUMS + g * 2 + h]
        return Q[m, SUMS + g * 2] + Q[m, SUMS + g * 2 + 1]

    def float_sum(Q: Any, m: Any, g: Any, h: Any) -> Any:
        if SPLIT == 2:
            return T.Cast("float32", sum_of(Q, m, g, h))
        return T.reinterpret("float32", Q[m, SUMS + K // 16 + g])

    def offset(Q: Any, m: Any, g: Any, h: Any) -> Any:
        return sum_of(Q, m, g, h) * T.int32(SHIFT) if SHIFT else T.int32(0)

    def of_lanes(value: Any) -> Any:
        return T.broadcast(value, L)

    def whole(low: Any, high: Any, at: Any) -> Any:
        """The codes that meet word `at` of a group's activations."""
        return T.bitwise_or(low, read.above(high, at)) if kind.high else low

    def scaled(Q: Any, m: Any, g: Any, h: Any, d: Any, s: Any, least: Any, x: Any, y: Any) -> Any:
        if least is None:
            return isa.mul_add(d, s * x, y, L)
        shift = least * of_lanes(float_sum(Q, m, g, h))
        return isa.mul_add(isa.mul_add(s, d, of_lanes(T.float32(0)) - shift, L), x, y, L)

    @T.inline
    def unpack(W, codes, nb, g, h, at, j):
        """Take the codes of word `at` of each weight apart."""
        for v in T.unroll(V):
            word: T.let = W.vload([nb, at * 16 + v * L], U)
            if kind.bits == 8:
                codes.vstore([v, 0], word)
            else:
                high: T.let = read.high(W, nb, v, g, h)
                codes.vstore([v * 2, 0], whole(low_codes(word, L), high, j * 2))
                codes.vstore([v * 2 + 1, 0], whole(high_codes(word, L), high, j * 2 + 1))

    @T.inline
    def multiply(Q, W, total, codes, nb, row, g, h, n, ROWS):
        """Add the products of step n, which has `STEP` words of each weight."""
        for j in T.unroll(STEP):
            at: T.let = n * STEP + j
            unpack(W, codes, nb, g, h, at, j)
            add(Q, codes, total, row, at, ROWS)

    @T.inline
    def accumulate(Q, acc, total, row, g, h, v, s, least, ROWS):
        """Add the exact sums to y; `least` is None where there are no minima."""
        for r in T.unroll(ROWS):
            i: T.let = r * V + v
            d: T.let = T.Cast(F, dot.finish(partial(total, i), offset(Q, row + r, g, h), MOST))
            scale: T.let = T.broadcast(T.reinterpret("float32", Q[row + r, K // 4 + g]), L)
            acc.vstore([i, 0], scaled(Q, row + r, g, h, d, s, least, scale, acc.vload([i, 0], F)))

    @T.inline
    def start(Q, total, row, g, h, ROWS):
        for r in T.unroll(ROWS):
            for v in T.unroll(V):
                total.vstore([r * V + v, 0], dot.start(offset(Q, row + r, g, h), MOST))

    @T.inline
    def finish(Q, W, acc, total, nb, row, g, h, ROWS):
        """Add the sums over a group of weights, g · SPLIT + h, to y."""
        for v in T.unroll(V):
            s: T.let = read.scale(W, nb, v, g * SPLIT + h)
            if kind.minima:
                least: T.let = read.minimum(W, nb, v, g * SPLIT + h)
                accumulate(Q, acc, total, row, g, h, v, s, least, ROWS)
            else:
                accumulate(Q, acc, total, row, g, h, v, s, None, ROWS)
        if STEPS > 1:
            start(Q, total, row, g, h, ROWS)

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
                acc.vstore([i, 0], of_lanes(T.float32(0)))
            if STEPS > 1:
                start(Q, total, row, 0, 0, ROWS)
            for n in T.serial(K // kind.group * STEPS):
                ask(W, S, nb, n, row, ROWS)
                g: T.let = n // (STEPS * SPLIT)
                h: T.let = n // STEPS % SPLIT
                if STEPS == 1:
                    start(Q, total, row, g, h, ROWS)
                multiply(Q, W, total, codes, nb, row, g, h, n, ROWS)
                if n % STEPS == STEPS - 1:
                    finish(Q, W, acc, total, nb, row, g, h, ROWS)
            for r in T.unroll(ROWS):
                for v in T.unroll(V):
                    n: T.let = first + nb * 16 + v * L
                    y: T.let = acc.vload([r * V + v, 0], F)
                    Y.vstore([row + r, n], added.plus(y, B, RES, row + r, n, L))

    name, x = f"matmul_int8_{kind.name}_{K}", (quantized_words(K), "int32")
    all_rows = halved_tiles(tile, isa.int8_rows)
    return make_linear_part(name, x, read.at.words, added, all_rows)
