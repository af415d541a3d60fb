# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Linear layers of 4-bit weights × 8-bit activations, y = x · Wᵀ (+ bias) (+ residual).

Blocks, groups and words of weights are those of `matmul`; activations are those of `quantize`.
For each output n and row m

    d[i] = Σ code · q + offset[i]                 exact, over the 32 inputs of group i
    y    = fma(float(d[i]), s[i] · scale[i], y)   groups ascending, from 0

and then y + bias + residual, for any tile of rows, any number of threads, and any `Dot`.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.kernels.dot import DOTS
from mlc_widget.engine.runtimes.tvm.kernels.isa import Isa

_MASK = 0x0F0F0F0F


def make_matmul_int8(K: int, N: int, dtype: str, isa: Isa, *, residual: bool, bias: bool) -> Any:
    """4-bit weights × 8-bit activations.

    Shapes: q (M, K/4) int32, scale (M, K/32) float32, offset (M, K/32) int32 as `quantize` makes
    them; w (N/16, K/8, 16) uint32 and s (N/16, K/32, 16) of `dtype`, float32 or float16, as in
    `matmul.make_matmul_codes`; b (N,) float32 if `bias`, else anything of float32 with two
    dimensions, which is not read; r (M, N) float32 if `residual`, else as b; y (M, N) float32.
    K and N are multiples of 32.

    Work is dealt to threads by strips of outputs; a strip's weights stay in the cache while all
    tiles of rows pass over them. One row takes two blocks of outputs at once, so that there is
    enough to do while sums wait.
    """
    G, NB, R = K // 32, N // 16, isa.int8_rows
    dot = DOTS[isa.dot]
    L = dot.lanes
    PARTS = 16 // L
    U, F = f"uint32x{L}", f"float32x{L}"

    def partial(buffer: Any, i: Any) -> Any:
        return buffer.vload([i, 0], dot.partial)

    def scales(S: Any, nb: Any, g: Any, part: Any) -> Any:
        return T.Cast(F, S.vload([nb, g, part * L], f"{dtype}x{L}"))

    def added(value: Any, B: Any, RES: Any, m: Any, n: Any) -> Any:
        if bias:
            value = value + B.vload([n], F)
        return value + RES.vload([m, n], F) if residual else value

    @T.inline
    def tile(Q, SCALE, OFFSET, W, S, B, RES, Y, nb, part, row, ROWS, BLOCKS):
        """Rows row … row + ROWS - 1 of lanes part · L … of blocks nb … nb + BLOCKS - 1."""
        with T.sblock("tile"):
            T.reads()
            T.writes()
            acc = T.sblock_alloc_buffer((ROWS * BLOCKS, L), "float32", scope="local")
            total = T.sblock_alloc_buffer(
                (ROWS * BLOCKS, int(dot.partial.split("x")[1])),
                dot.partial.split("x")[0],
                scope="local",
            )
            for i in T.unroll(ROWS * BLOCKS):
                acc.vstore([i, 0], T.broadcast(T.float32(0), L))
            for g in T.serial(G):
                for i in T.unroll(ROWS * BLOCKS):
                    total.vstore([i, 0], dot.start(OFFSET[row + i % ROWS, g]))
                for j in T.unroll(4):
                    for b in T.unroll(BLOCKS):
                        word: T.let = W.vload([nb + b, g * 4 + j, part * L], U)
                        even: T.let = T.bitwise_and(word, T.broadcast(T.uint32(_MASK), L))
                        odd: T.let = T.bitwise_and(
                            T.shift_right(word, T.broadcast(T.uint32(4), L)),
                            T.broadcast(T.uint32(_MASK), L),
                        )
                        for r in T.unroll(ROWS):
                            i: T.let = b * ROWS + r
                            total.vstore(
                                [i, 0],
                                dot.add(partial(total, i), even, Q[row + r, g * 8 + j * 2]),
                            )
                            total.vstore(
                                [i, 0],
                                dot.add(partial(total, i), odd, Q[row + r, g * 8 + j * 2 + 1]),
                            )
                for b in T.unroll(BLOCKS):
                    s: T.let = scales(S, nb + b, g, part)
                    for r in T.unroll(ROWS):
                        i: T.let = b * ROWS + r
                        d: T.let = T.Cast(F, dot.finish(partial(total, i), OFFSET[row + r, g]))
                        x: T.let = T.broadcast(SCALE[row + r, g], L)
                        acc.vstore([i, 0], isa.mul_add(d, s * x, acc.vload([i, 0], F), L))
            for b in T.unroll(BLOCKS):
                for r in T.unroll(ROWS):
                    n: T.let = (nb + b) * 16 + part * L
                    value: T.let = acc.vload([b * ROWS + r, 0], F)
                    Y.vstore([row + r, n], added(value, B, RES, row + r, n))

    @T.prim_func(s_tir=True)
    def matmul(
        q: T.handle,
        scale: T.handle,
        offset: T.handle,
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
        Q = T.match_buffer(q, (M, K // 4), "int32")
        SCALE = T.match_buffer(scale, (M, G), "float32")
        OFFSET = T.match_buffer(offset, (M, G), "int32")
        W = T.match_buffer(w, (NB, K // 8, 16), "uint32")
        S = T.match_buffer(s, (NB, G, 16), dtype)
        B = T.match_buffer(b, (N,) if bias else (b0, b1), "float32")
        RES = T.match_buffer(r, (M, N) if residual else (r0, r1), "float32")
        Y = T.match_buffer(y, (M, N), "float32")
        for strip in T.parallel(NB // 2):
            for t in T.serial(M // R):
                for half in T.serial(2):
                    for part in T.serial(PARTS):
                        tile(
                            Q, SCALE, OFFSET, W, S, B, RES, Y, strip * 2 + half, part, t * R, R, 1
                        )  # fmt: skip
            for t in T.serial(M % R):
                for part in T.serial(PARTS):
                    tile(
                        Q, SCALE, OFFSET, W, S, B, RES, Y, strip * 2, part, M // R * R + t, 1, 2
                    )  # fmt: skip

    name = f"matmul_int8_{dtype}_{K}_{N}" + ("_bias" if bias else "")
    return matmul.with_attr("global_symbol", name + ("_residual" if residual else ""))
