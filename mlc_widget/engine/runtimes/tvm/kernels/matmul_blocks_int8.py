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
from mlc_widget.engine.runtimes.tvm.kernels.isa import Isa, in_registers
from mlc_widget.engine.runtimes.tvm.kernels.linear import (
    Addends,
    make_linear_part,
    prefetcher,
    tiles_of_parts,
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
    G = K // 32
    dot = DOTS[isa.dot]
    L = dot.lanes
    PARTS = 16 // L
    U, F = f"uint32x{L}", f"float32x{L}"
    read = BlockReader(kind, K, isa, L)
    SPLIT, ZERO = 32 // kind.group, kind.zero
    wide = kind.bits + kind.high > 4
    sum_dtype, sum_lanes = dot.sum_type(wide)
    SUMS = K // 4 + K // 16
    ask = prefetcher(kind.bits, lambda nb, line: [nb, line * 16])
    added = Addends(bias, residual)

    def partial(buffer: Any, i: Any) -> Any:
        return buffer.vload([i, 0], f"{sum_dtype}x{sum_lanes}")

    def sum_of(Q: Any, m: Any, g: Any, h: Any) -> Any:
        """Σ q over the inputs of one group of weights."""
        if SPLIT == 2:
            return Q[m, SUMS + g * 2 + h]
        return Q[m, SUMS + g * 2] + Q[m, SUMS + g * 2 + 1]

    def offset(Q: Any, m: Any, g: Any, h: Any) -> Any:
        return sum_of(Q, m, g, h) * T.int32(-ZERO) if ZERO else T.int32(0)

    def of_lanes(value: Any) -> Any:
        return T.broadcast(value, L)

    def whole(low: Any, high: Any, at: Any) -> Any:
        """The codes that meet word `at` of a group's activations."""
        return T.bitwise_or(low, read.above(high, at)) if kind.high else low

    def scaled(Q: Any, m: Any, g: Any, h: Any, d: Any, s: Any, least: Any, x: Any, y: Any) -> Any:
        if least is None:
            return isa.mul_add(d, s * x, y, L)
        shift = least * of_lanes(T.Cast("float32", sum_of(Q, m, g, h)))
        return isa.mul_add(isa.mul_add(s, d, of_lanes(T.float32(0)) - shift, L), x, y, L)

    @T.inline
    def accumulate(Q, acc, total, row, g, h, s, least, ROWS):
        """Add the exact sums of a half to y; `least` is None where there are no minima."""
        for r in T.unroll(ROWS):
            d: T.let = T.Cast(F, dot.finish(partial(total, r), offset(Q, row + r, g, h), wide))
            scale: T.let = T.broadcast(T.reinterpret("float32", Q[row + r, K // 4 + g]), L)
            acc.vstore([r, 0], scaled(Q, row + r, g, h, d, s, least, scale, acc.vload([r, 0], F)))

    @T.inline
    def half(Q, W, acc, total, nb, part, row, g, h, ROWS):
        """Add half h of group g, or the whole group."""
        for r in T.unroll(ROWS):
            total.vstore([r, 0], dot.start(offset(Q, row + r, g, h), wide))
        if kind.bits == 8:
            for j in T.unroll(8 // SPLIT):
                word: T.let = W.vload([nb, (g * 8 + h * (8 // SPLIT) + j) * 16 + part * L], U)
                for r in T.unroll(ROWS):
                    x: T.let = Q[row + r, g * 8 + h * (8 // SPLIT) + j]
                    total.vstore([r, 0], dot.add(partial(total, r), word, x, True))
        else:
            high: T.let = read.high(W, nb, part, g, h)
            for j in T.unroll(4 // SPLIT):
                at: T.let = h * (4 // SPLIT) + j
                word: T.let = W.vload([nb, (g * 4 + at) * 16 + part * L], U)
                even: T.let = whole(low_codes(word, L), high, at * 2)
                odd: T.let = whole(high_codes(word, L), high, at * 2 + 1)
                for r in T.unroll(ROWS):
                    with_even: T.let = dot.add(
                        partial(total, r), even, Q[row + r, g * 8 + at * 2], wide
                    )
                    both: T.let = dot.add(with_even, odd, Q[row + r, g * 8 + at * 2 + 1], wide)
                    total.vstore([r, 0], both)
        s: T.let = read.scale(W, nb, part, g * SPLIT + h)
        if kind.minima:
            least: T.let = read.minimum(W, nb, part, g * SPLIT + h)
            accumulate(Q, acc, total, row, g, h, s, least, ROWS)
        else:
            accumulate(Q, acc, total, row, g, h, s, None, ROWS)

    @T.inline
    def tile(Q, W, S, B, RES, Y, first, nb, part, row, ROWS):
        """Compute rows row … row + ROWS - 1 of lanes part · L … of block nb."""
        with T.sblock("tile"):
            T.reads()
            T.writes()
            acc = in_registers((ROWS, L))
            total = in_registers((ROWS, sum_lanes), sum_dtype)
            for r in T.unroll(ROWS):
                acc.vstore([r, 0], of_lanes(T.float32(0)))
            for g in T.serial(G):
                ask(W, S, nb, g, row, ROWS)
                half(Q, W, acc, total, nb, part, row, g, 0, ROWS)
                if SPLIT == 2:
                    half(Q, W, acc, total, nb, part, row, g, 1, ROWS)
            for r in T.unroll(ROWS):
                n: T.let = first + nb * 16 + part * L
                Y.vstore([row + r, n], added.plus(acc.vload([r, 0], F), B, RES, row + r, n, L))

    name, x = f"matmul_int8_{kind.name}_{K}", (quantized_words(K), "int32")
    all_rows = tiles_of_parts(tile, isa.int8_rows, PARTS)
    return make_linear_part(name, x, read.at.words, added, all_rows)
