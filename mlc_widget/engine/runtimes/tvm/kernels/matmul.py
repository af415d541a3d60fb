# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Linear layers, y = x · Wᵀ (+ bias) (+ residual), for one row and for tiles of rows.

Weights are in blocks of 16 outputs, one output per lane. A group is 32 inputs. For each output n
and row m, the order of the sum is

    g[i] = Σ p[j] ascending,  p[j] = fma chain of w[k] · x[k], from 0,     inputs k ascending,
           over the inputs k of group i with k % chains = j
    y    = fma(s[i], g[i], y)                                              groups ascending

and then y + bias + residual, for any tile of rows and any number of threads. For float weights,
which have no scales, it is y + g[i].
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.kernels.isa import (
    F32,
    U32,
    Isa,
    in_registers,
    splat,
    usplat,
)
from mlc_widget.engine.runtimes.tvm.kernels.linear import (
    Addends,
    halved_tiles,
    make_linear,
    prefetcher,
)
from mlc_widget.engine.runtimes.tvm.quantization import zero_code

GROUP = 32


def code(word: Any, k: Any, bits: int, zero: int | None = None) -> Any:
    """``code - zero`` as float32 lanes, exactly, for the code at bits `bits` k of each word.

    `zero` is MLC's by default.

    The code's bits are put, without moving them, into the mantissa of a float whose unit is the
    lowest of these bits, so a subtraction gives the number. This takes an and, an or and a
    subtraction, and one shift for all codes in the upper half.
    """
    per_half = 16 // bits
    half = T.shift_right(word, usplat(T.Cast("uint32", k // per_half * 16)))
    at = T.Cast("uint32", k % per_half * bits)
    one = T.shift_left(T.uint32(150) - at, T.uint32(23))  # the bits of 2.0 ** (23 - at)
    mask = T.shift_left(T.uint32((1 << bits) - 1), at)
    biased = T.reinterpret(F32, T.bitwise_or(T.bitwise_and(half, usplat(mask)), usplat(one)))
    code_of_zero = zero_code(bits) if zero is None else zero
    return biased - splat(T.reinterpret("float32", one) + T.float32(code_of_zero))


def make_matmul_codes(
    K: int, N: int, bits: int, dtype: str, isa: Isa, *, residual: bool, bias: bool
) -> Any:
    """4- or 8-bit weights × float32 activations.

    Shapes: x (M, K) float32; w (N/16, K/P, 16) uint32 with P = 32 / bits inputs per word, lowest
    bits first; s (N/16, K/32, 16) of `dtype`, float32 or float16; b (N,) float32 if `bias`; r
    (M, N) float32 if `residual`; y (M, N) float32. The weight of a code c is (c - zero) · s, where
    zero is 7 for 4 bits and 127 for 8. K and N are multiples of 32.
    """
    G, NB, P, C = K // GROUP, N // 16, 32 // bits, isa.chains
    total = _total(isa)
    ask = prefetcher(GROUP // P, lambda nb, line: [nb, line, 0])
    added = Addends(bias, residual)
    w, s = ((NB, K // P, 16), "uint32"), ((NB, G, 16), dtype)
    name = f"matmul_q{bits}_{dtype}_{K}_{N}"

    @T.inline
    def block(X, W, S, B, RES, Y, first, nb, row, R):
        with T.sblock("rows"):
            T.reads()
            T.writes()
            acc = in_registers((R, 16))
            grp = in_registers((C * R, 16))
            for r in T.unroll(R):
                acc.vstore([r, 0], splat(0.0))
            for g in T.serial(G):
                ask(W, S, nb, g, row, R)
                for r in T.unroll(C * R):
                    grp.vstore([r, 0], splat(0.0))
                for j in T.unroll(GROUP // P):
                    word: T.let = W.vload([nb, g * (GROUP // P) + j, 0], U32)
                    for k in T.unroll(P):
                        weight: T.let = code(word, k, bits)
                        for r in T.unroll(R):
                            x: T.let = splat(X[row + r, g * 32 + j * P + k])
                            i: T.let = k % C * R + r
                            grp.vstore([i, 0], isa.mul_add(weight, x, grp.vload([i, 0], F32)))
                scale: T.let = isa.load(S, [nb, g, 0], dtype)
                for r in T.unroll(R):
                    acc.vstore([r, 0], isa.mul_add(scale, total(grp, r, R), acc.vload([r, 0], F32)))
            for r in T.unroll(R):
                Y.vstore(
                    [row + r, nb * 16],
                    added.plus(acc.vload([r, 0], F32), B, RES, row + r, nb * 16),
                )

    return make_linear(name, (K, "float32"), N, w, s, added, halved_tiles(block, isa.matmul_rows))


def make_matmul_floats(K: int, N: int, dtype: str, isa: Isa, *, residual: bool, bias: bool) -> Any:
    """Float weights × float32 activations.

    Shapes: x (M, K) float32; w (N/16, K, 16) of `dtype`, float32 or float16; b (N,) float32 if
    `bias`; r (M, N) float32 if `residual`; y (M, N) float32. K and N are multiples of 32. `s` is
    not read; callers pass w for it, so that all matmuls have the same arguments.
    """
    G, NB, C = K // GROUP, N // 16, isa.chains
    ROWS_PER_LINE = 1 if dtype == "float32" else 2
    total = _total(isa)
    ask = prefetcher(GROUP // ROWS_PER_LINE, lambda nb, line: [nb, line * ROWS_PER_LINE, 0])
    added = Addends(bias, residual)
    w, s = ((NB, K, 16), dtype), ((NB, K, 16), dtype)
    name = f"matmul_{dtype}_{K}_{N}"

    @T.inline
    def block(X, W, S, B, RES, Y, first, nb, row, R):
        with T.sblock("rows"):
            T.reads()
            T.writes()
            acc = in_registers((R, 16))
            grp = in_registers((C * R, 16))
            for r in T.unroll(R):
                acc.vstore([r, 0], splat(0.0))
            for g in T.serial(G):
                ask(W, S, nb, g, row, R)
                for r in T.unroll(C * R):
                    grp.vstore([r, 0], splat(0.0))
                for k in T.unroll(32):
                    weight: T.let = isa.load(W, [nb, g * 32 + k, 0], dtype)
                    for r in T.unroll(R):
                        x: T.let = splat(X[row + r, g * 32 + k])
                        i: T.let = k % C * R + r
                        grp.vstore([i, 0], isa.mul_add(weight, x, grp.vload([i, 0], F32)))
                for r in T.unroll(R):
                    acc.vstore([r, 0], total(grp, r, R) + acc.vload([r, 0], F32))
            for r in T.unroll(R):
                Y.vstore(
                    [row + r, nb * 16],
                    added.plus(acc.vload([r, 0], F32), B, RES, row + r, nb * 16),
                )

    return make_linear(name, (K, "float32"), N, w, s, added, halved_tiles(block, isa.matmul_rows))


def _total(isa: Isa) -> Any:
    """The sum of a row's chains, where chain j of row r of R is vector j R + r."""

    def total(grp: Any, r: Any, R: int) -> Any:
        value = grp.vload([r, 0], F32)
        for j in range(1, isa.chains):
            value = value + grp.vload([j * R + r, 0], F32)
        return value

    return total
