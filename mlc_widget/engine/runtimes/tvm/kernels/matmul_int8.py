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
from mlc_widget.engine.runtimes.tvm.kernels.isa import Isa, in_registers
from mlc_widget.engine.runtimes.tvm.kernels.linear import (
    Addends,
    make_linear,
    prefetcher,
    tiles_of_parts,
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
    PARTS = 16 // L
    U, F = f"uint32x{L}", f"float32x{L}"
    wide = bits == 8
    sum_dtype, sum_lanes = dot.sum_type(wide)
    WORDS = bits  # of a group of 32 codes
    ask = prefetcher(WORDS, lambda nb, line: [nb, line, 0], scales=True)
    added = Addends(bias, residual)
    w, s = ((NB, K * bits // 32, 16), "uint32"), ((NB, G, 16), dtype)
    name = f"matmul_int8_{dtype}_{K}_{N}" if bits == 4 else f"matmul_int8_q8_{dtype}_{K}_{N}"

    def partial(buffer: Any, r: Any) -> Any:
        return buffer.vload([r, 0], f"{sum_dtype}x{sum_lanes}")

    @T.inline
    def multiply(total, word, Q, row, g, j, ROWS):
        """Add the products of the codes in word j of group g."""
        if wide:
            for r in T.unroll(ROWS):
                total.vstore([r, 0], dot.add(partial(total, r), word, Q[row + r, g * 8 + j], True))
        else:
            even: T.let = low_codes(word, L)
            odd: T.let = high_codes(word, L)
            for r in T.unroll(ROWS):
                with_even: T.let = dot.add(partial(total, r), even, Q[row + r, g * 8 + j * 2])
                total.vstore([r, 0], dot.add(with_even, odd, Q[row + r, g * 8 + j * 2 + 1]))

    @T.inline
    def tile(Q, W, S, B, RES, Y, first, nb, part, row, ROWS):
        """Compute rows row … row + ROWS - 1 of lanes part · L … of block nb."""
        with T.sblock("tile"):
            T.reads()
            T.writes()
            acc = in_registers((ROWS, L))
            total = in_registers((ROWS, sum_lanes), sum_dtype)
            for r in T.unroll(ROWS):
                acc.vstore([r, 0], T.broadcast(T.float32(0), L))
            for g in T.serial(G):
                ask(W, S, nb, g, row, ROWS)
                for r in T.unroll(ROWS):
                    total.vstore([r, 0], dot.start(Q[row + r, K // 4 + G + g], wide))
                for j in T.unroll(WORDS):
                    word: T.let = W.vload([nb, g * WORDS + j, part * L], U)
                    multiply(total, word, Q, row, g, j, ROWS)
                s: T.let = T.Cast(F, S.vload([nb, g, part * L], f"{dtype}x{L}"))
                for r in T.unroll(ROWS):
                    d: T.let = T.Cast(
                        F, dot.finish(partial(total, r), Q[row + r, K // 4 + G + g], wide)
                    )
                    x: T.let = T.broadcast(T.reinterpret("float32", Q[row + r, K // 4 + g]), L)
                    acc.vstore([r, 0], isa.mul_add(d, s * x, acc.vload([r, 0], F), L))
            for r in T.unroll(ROWS):
                n: T.let = nb * 16 + part * L
                Y.vstore([row + r, n], added.plus(acc.vload([r, 0], F), B, RES, row + r, n, L))

    all_rows = tiles_of_parts(tile, isa.int8_rows, PARTS)
    return make_linear(name, (quantized_words(K), "int32"), N, w, s, added, all_rows)
