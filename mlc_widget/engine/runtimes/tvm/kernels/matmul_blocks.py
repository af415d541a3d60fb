# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Linear layers of weights in ggml's blocks (`tvm.blocks`) × float32 activations.

y = x · Wᵀ (+ bias) (+ residual); for each output n and row m, over the groups of 32 inputs
ascending:

    w = fma(s, code − zero, −m)                                     the weight, rounded once
    y = y + Σ p[j],  p[j] = fma chain of w · x, from 0              over every chain-th code

Then follow + bias and + residual. The order is the same for any tile of rows and any number of
threads. `s` and `m` are products of scales and factors, exact in float32.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.blocks import BlockFormat
from mlc_widget.engine.runtimes.tvm.kernels.block_reader import BlockReader
from mlc_widget.engine.runtimes.tvm.kernels.isa import (
    F32,
    I32,
    U32,
    Isa,
    in_registers,
    splat,
    usplat,
)
from mlc_widget.engine.runtimes.tvm.kernels.linear import (
    Addends,
    halved_tiles,
    make_linear_part,
    prefetcher,
)
from mlc_widget.engine.runtimes.tvm.kernels.matmul import code


def make_matmul_blocks(K: int, kind: BlockFormat, isa: Isa, *, residual: bool, bias: bool) -> Any:
    """Weights in blocks × float32 activations; the N outputs are columns `first` … of C.

    Shapes: x (M, K) float32; w as `blocks.matrix_words` for N outputs; b (C,) float32 if `bias`; r
    (M, C) float32 if `residual`; `first` int64; y (M, C) float32. K and N are multiples of 32.
    Without `bias` or `residual`, x is passed for b or r and not read.

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
    read = BlockReader(kind, K, isa)
    LINES, PER_WORD, SPLIT = kind.bits, max(1, 32 // kind.bits), 32 // kind.group
    ask = prefetcher(LINES, lambda nb, line: [nb, line * 16])
    added = Addends(bias, residual)

    def place(word: int, i: int) -> int:
        """The input of a group that is code i of a word."""
        return word // 2 * 8 + 2 * i + word % 2 if kind.bits == 8 else word * 8 + i

    def number(word: Any, high: Any, j: Any, i: Any) -> Any:
        """``code − zero`` as floats, for code i of word j of a group."""
        if not kind.high:
            return code(word, i, kind.bits, kind.zero)
        nibble = T.bitwise_and(T.shift_right(word, usplat(T.Cast("uint32", i * 4))), usplat(15))
        at = i // 2 * 8 + (j * 2 + i % 2) % (8 // kind.high) * kind.high
        shifted = T.shift_right(high, usplat(T.Cast("uint32", at)))
        above = T.shift_left(T.bitwise_and(shifted, usplat((1 << kind.high) - 1)), usplat(4))
        return T.Cast(F32, T.reinterpret(I32, T.bitwise_or(nibble, above))) - splat(kind.zero)

    def weight(word: Any, high: Any, j: Any, i: Any, s: Any, least: Any) -> Any:
        return isa.mul_add(s, number(word, high, j, i), splat(0.0) - least)

    def second(first: Any, ROWS: int) -> Any:
        """The sums of the other chain; one buffer for both would not be kept in registers."""
        return in_registers((ROWS, 16)) if isa.chains == 2 else first

    def both(even: Any, odd: Any, r: Any) -> Any:
        sums = even.vload([r, 0], F32)
        return sums + odd.vload([r, 0], F32) if isa.chains == 2 else sums

    @T.inline
    def word_of(X, W, even, odd, nb, g, j, high, s, least, row, ROWS):
        word: T.let = W.vload([nb, (g * LINES + j) * 16], U32)
        for i in T.unroll(PER_WORD // 2):
            w: T.let = weight(word, high, j, i * 2, s, least)
            for r in T.unroll(ROWS):
                x: T.let = splat(X[row + r, g * 32 + place(j, i * 2)])
                even.vstore([r, 0], isa.mul_add(w, x, even.vload([r, 0], F32)))
            w2: T.let = weight(word, high, j, i * 2 + 1, s, least)
            for r in T.unroll(ROWS):
                x2: T.let = splat(X[row + r, g * 32 + place(j, i * 2 + 1)])
                odd.vstore([r, 0], isa.mul_add(w2, x2, odd.vload([r, 0], F32)))

    @T.inline
    def coded_of(X, W, even, odd, nb, g, row, ROWS):
        for h in T.unroll(SPLIT):
            s: T.let = read.scale(W, nb, 0, g * SPLIT + h)
            high: T.let = read.high(W, nb, 0, g, h)
            if kind.minima:
                least: T.let = read.minimum(W, nb, 0, g * SPLIT + h)
                for j in T.unroll(LINES // SPLIT):
                    at: T.let = h * (LINES // SPLIT) + j
                    word_of(X, W, even, odd, nb, g, at, high, s, least, row, ROWS)
            else:
                for j in T.unroll(LINES // SPLIT):
                    at: T.let = h * (LINES // SPLIT) + j
                    word_of(X, W, even, odd, nb, g, at, high, s, splat(0.0), row, ROWS)

    @T.inline
    def floats_of(X, W, even, odd, nb, g, row, ROWS):
        for k in T.unroll(16):
            w: T.let = read.float(W, nb, g * 32 + k * 2)
            for r in T.unroll(ROWS):
                x: T.let = splat(X[row + r, g * 32 + k * 2])
                even.vstore([r, 0], isa.mul_add(w, x, even.vload([r, 0], F32)))
            w2: T.let = read.float(W, nb, g * 32 + k * 2 + 1)
            for r in T.unroll(ROWS):
                x2: T.let = splat(X[row + r, g * 32 + k * 2 + 1])
                odd.vstore([r, 0], isa.mul_add(w2, x2, odd.vload([r, 0], F32)))

    @T.inline
    def block(X, W, S, B, RES, Y, first, nb, row, ROWS):
        with T.sblock("rows"):
            T.reads()
            T.writes()
            acc = in_registers((ROWS, 16))
            even = in_registers((ROWS, 16))
            odd = second(even, ROWS)
            for r in T.unroll(ROWS):
                acc.vstore([r, 0], splat(0.0))
            for g in T.serial(G):
                ask(W, S, nb, g, row, ROWS)
                for r in T.unroll(ROWS):
                    even.vstore([r, 0], splat(0.0))
                    odd.vstore([r, 0], splat(0.0))
                if kind.coded:
                    coded_of(X, W, even, odd, nb, g, row, ROWS)
                else:
                    floats_of(X, W, even, odd, nb, g, row, ROWS)
                for r in T.unroll(ROWS):
                    acc.vstore([r, 0], both(even, odd, r) + acc.vload([r, 0], F32))
            for r in T.unroll(ROWS):
                n: T.let = first + nb * 16
                Y.vstore([row + r, n], added.plus(acc.vload([r, 0], F32), B, RES, row + r, n))

    name, all_rows = f"matmul_{kind.name}_{K}", halved_tiles(block, isa.matmul_rows)
    return make_linear_part(name, (K, "float32"), read.at.words, added, all_rows)
