# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Linear layers of 4-bit weights × 8-bit activations, y = x · Wᵀ (+ bias) (+ residual).

Blocks, groups and words of weights are those of `matmul`; activations are those of `quantize`.
For each output n and row m, the order of the sum is

    d[i] = Σ code · q + offset[i]                 exact, over the 32 inputs of group i
    y    = fma(float(d[i]), s[i] · scale[i], y)   groups ascending, from 0

and then y + bias + residual, for any tile of rows, any number of threads, and any `Dot`.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.kernels.dot import DOTS
from mlc_widget.engine.runtimes.tvm.kernels.isa import Isa, in_registers, prefetch
from mlc_widget.engine.runtimes.tvm.kernels.matmul import AHEAD
from mlc_widget.engine.runtimes.tvm.kernels.quantize import quantized_words

_MASK = 0x0F0F0F0F


def make_matmul_int8(K: int, N: int, dtype: str, isa: Isa, *, residual: bool, bias: bool) -> Any:
    """4-bit weights × 8-bit activations.

    Shapes: q (M, `quantized_words(K)`) int32 as made by `quantize`; w (N/16, K/8, 16) uint32 and
    s (N/16, K/32, 16) of `dtype`, float32 or float16, as in `matmul.make_matmul_codes`; b (N,)
    float32 if `bias`; r (M, N) float32 if `residual`; y (M, N) float32. K and N are multiples of
    32. Without `bias` or `residual`, q is passed for b or r and not read.

    Each thread computes some blocks of outputs. A block's weights stay in the cache for all tiles
    of rows; during the first tile, the next block is prefetched. A single row is limited by memory
    bandwidth: it reads the weights as one stream, which is prefetched 12 KiB ahead, across the ends
    of blocks.
    """
    G, NB, R = K // 32, N // 16, isa.int8_rows
    dot = DOTS[isa.dot]
    L = dot.lanes
    PARTS = 16 // L
    U, F = f"uint32x{L}", f"float32x{L}"

    def partial(buffer: Any, r: Any) -> Any:
        return buffer.vload([r, 0], f"{dot.partial}x{dot.partial_lanes}")

    def added(value: Any, B: Any, RES: Any, m: Any, n: Any) -> Any:
        if bias:
            value = value + B.vload([n], F)
        return value + RES.vload([m, n], F) if residual else value

    @T.inline
    def tile(Q, W, S, B, RES, Y, nb, part, row, ROWS):
        """Compute rows row … row + ROWS - 1 of lanes part · L … of block nb."""
        with T.sblock("tile"):
            T.reads()
            T.writes()
            acc = in_registers((ROWS, L))
            total = in_registers((ROWS, dot.partial_lanes), dot.partial)
            for r in T.unroll(ROWS):
                acc.vstore([r, 0], T.broadcast(T.float32(0), L))
            for g in T.serial(G):
                if ROWS == 1:
                    for j in T.unroll(4):
                        prefetch(W, [nb, g * 4 + j + AHEAD, 0])
                elif row == 0:
                    for j in T.unroll(4):
                        prefetch(W, [nb + 1, g * 4 + j, 0])
                    prefetch(S, [nb + 1, g, 0])
                for r in T.unroll(ROWS):
                    total.vstore([r, 0], dot.start(Q[row + r, K // 4 + G + g]))
                for j in T.unroll(4):
                    word: T.let = W.vload([nb, g * 4 + j, part * L], U)
                    even: T.let = T.bitwise_and(word, T.broadcast(T.uint32(_MASK), L))
                    odd: T.let = T.bitwise_and(
                        T.shift_right(word, T.broadcast(T.uint32(4), L)),
                        T.broadcast(T.uint32(_MASK), L),
                    )
                    for r in T.unroll(ROWS):
                        with_even: T.let = dot.add(
                            partial(total, r), even, Q[row + r, g * 8 + j * 2]
                        )
                        total.vstore([r, 0], dot.add(with_even, odd, Q[row + r, g * 8 + j * 2 + 1]))
                s: T.let = T.Cast(F, S.vload([nb, g, part * L], f"{dtype}x{L}"))
                for r in T.unroll(ROWS):
                    d: T.let = T.Cast(F, dot.finish(partial(total, r), Q[row + r, K // 4 + G + g]))
                    x: T.let = T.broadcast(T.reinterpret("float32", Q[row + r, K // 4 + g]), L)
                    acc.vstore([r, 0], isa.mul_add(d, s * x, acc.vload([r, 0], F), L))
            for r in T.unroll(ROWS):
                n: T.let = nb * 16 + part * L
                Y.vstore([row + r, n], added(acc.vload([r, 0], F), B, RES, row + r, n))

    @T.prim_func(s_tir=True)
    def matmul(
        q: T.handle,
        w: T.handle,
        s: T.handle,
        b: T.handle,
        r: T.handle,
        y: T.handle,
    ):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        b0 = T.int64()
        b1 = T.int64()
        r0 = T.int64()
        r1 = T.int64()
        Q = T.match_buffer(q, (M, quantized_words(K)), "int32")
        W = T.match_buffer(w, (NB, K // 8, 16), "uint32")
        S = T.match_buffer(s, (NB, G, 16), dtype)
        B = T.match_buffer(b, (N,) if bias else (b0, b1), "float32" if bias else "int32")
        RES = T.match_buffer(
            r, (M, N) if residual else (r0, r1), "float32" if residual else "int32"
        )
        Y = T.match_buffer(y, (M, N), "float32")
        for nb in T.parallel(NB):
            for part in T.serial(PARTS):
                for t in T.serial(M // R):
                    tile(Q, W, S, B, RES, Y, nb, part, t * R, R)
                if M % R >= R // 2:
                    tile(Q, W, S, B, RES, Y, nb, part, M // R * R, R // 2)
                for t in T.serial(M % (R // 2)):
                    tile(
                        Q, W, S, B, RES, Y, nb, part, M // (R // 2) * (R // 2) + t, 1
                    )  # fmt: skip

    name = f"matmul_int8_{dtype}_{K}_{N}" + ("_bias" if bias else "")
    return matmul.with_attr("global_symbol", name + ("_residual" if residual else ""))
